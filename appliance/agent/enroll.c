/*
 * landfall-agent enroll
 */
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>

#include <openssl/crypto.h>

#include "appliance/agent/command.h"
#include "common/cleanup.h"
#include "replicator/agent/enroll.h"

#define KEY_MAX_BYTES 4096

/* The file's first line. The caller wipes it. */
static int read_key(const char *path, char key[static KEY_MAX_BYTES], struct error *error)
{
	FILE *file = strcmp(path, "-") == 0 ? stdin : fopen(path, "re");
	if (!file)
		return error_set(error, -errno, NULL, "%s: cannot be read: %s", path,
			strerrordesc_np(errno));
	bool got = fgets(key, KEY_MAX_BYTES, file) != NULL;
	if (file != stdin)
		(void)fclose(file);
	return got ? 0
		   : error_set(
			     error, -EINVAL, NULL, "%s: there is no registration key in it", path);
}

static int take_key(const struct agent_arguments *arguments, char key[static KEY_MAX_BYTES],
	struct error *error)
{
	const char *word = agent_argument(arguments, "key");
	const char *file = agent_argument(arguments, "key-file");
	if (!word == !file)
		return error_set(error, -EINVAL, "landfall key create, on the appliance, makes one",
			"give the registration key as --key or as --key-file");
	if (file)
		return read_key(file, key, error);
	snprintf(key, KEY_MAX_BYTES, "%s", word);
	return 0;
}

enum agent_exit agent_enroll(const struct agent_arguments *arguments)
{
	struct error error = { 0 };
	char key[KEY_MAX_BYTES];
	const char *directory = agent_argument(arguments, "state-dir");
	struct enroll_request request = {
		.io = io_posix(),
		.directory = directory ? directory : IDENTITY_DEFAULT_DIR,
		.key = key,
	};
	request.appliance = agent_argument_needed(arguments, "appliance", &error);
	if (request.appliance)
		request.machine = agent_argument_needed(arguments, "machine", &error);
	if (!request.appliance || !request.machine)
		return agent_fail(&error);
	int r = take_key(arguments, key, &error);
	if (r == 0)
		r = enroll_machine(&request, &error);
	OPENSSL_cleanse(key, sizeof(key));
	if (r < 0)
		return agent_fail(&error);
	printf("This machine is enrolled as %s with %s.\n", request.machine, request.appliance);
	return AGENT_DONE;
}
