/*
 * --disk ID=PATH, as several commands take it.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "appliance/agent/command.h"
#include "common/human.h"

static int read_disk(struct agent_disks *disks, const char *word, struct error *error)
{
	const char *equals = strchr(word, '=');
	if (!equals || equals == word || !equals[1])
		return error_set(error, -EINVAL, "write e.g. --disk root=/dev/sda",
			"--disk %.80s is not ID=PATH", word);
	if (disks->count == SOURCE_DISKS_MAX)
		return error_set(
			error, -EINVAL, NULL, "more than %u disks are named", SOURCE_DISKS_MAX);
	char *text = strdup(word);
	if (!text)
		return error_set(error, -ENOMEM, NULL, "out of memory");
	text[equals - word] = '\0';
	disks->texts[disks->count] = text;
	disks->disks[disks->count++] =
		(struct agent_disk){ .id = text, .path = text + (equals - word) + 1 };
	return name_check("disk", text, error);
}

int agent_disks_read(
	const struct agent_arguments *arguments, struct agent_disks *disks, struct error *error)
{
	const char *word;
	int r = 0;
	for (unsigned i = 0; r == 0 && (word = agent_argument_at(arguments, "disk", i)); i++)
		r = read_disk(disks, word, error);
	return r;
}

void agent_disks_free(struct agent_disks *disks)
{
	for (unsigned i = 0; i < disks->count; i++)
		free(disks->texts[i]);
}
