/*
 * --help, printed from the table of commands, and the nearest command to a word that is none.
 */
#include <string.h>

#include "appliance/cli.h"
#include "common/bytes.h"

static void print_options(const struct cli_option *options, FILE *out)
{
	for (; options->name; options++) {
		char left[64];
		snprintf(left, sizeof(left), "--%s%s%s", options->name, options->value ? " " : "",
			options->value ? options->value : "");
		fprintf(out, "  %-26s %s\n", left, options->help);
	}
}

static void print_one(const struct cli_command *command, FILE *out)
{
	fprintf(out, "usage: landfall %s%s%s%s\n\n%s\n", command->words,
		*command->arguments ? " " : "", command->arguments,
		command->options->name ? " [OPTION]..." : "", command->summary);
	if (command->options->name) {
		fputs("\noptions:\n", out);
		print_options(command->options, out);
	}
	fputs("\nglobal options:\n", out);
	print_options(cli_global_options, out);
}

static bool begins_with(const char *words, const char *noun)
{
	size_t n = strlen(noun);
	return strncmp(words, noun, n) == 0 && words[n] == ' ';
}

void cli_print_help(const struct cli_command *command, const char *noun, FILE *out)
{
	if (command) {
		print_one(command, out);
		return;
	}
	if (noun)
		fprintf(out, "usage: landfall %s COMMAND [ARGUMENT]... [OPTION]...\n\ncommands:\n",
			noun);
	else
		fputs("usage: landfall COMMAND [ARGUMENT]... [OPTION]...\n\n"
		      "Protects machines by replicating their disks to Azure page blobs.\n\n"
		      "commands:\n",
			out);
	for (const struct cli_command *c = cli_commands; c->words; c++) {
		char left[64];
		if (noun && !begins_with(c->words, noun))
			continue;
		snprintf(left, sizeof(left), "%s%s%s", c->words, *c->arguments ? " " : "",
			c->arguments);
		fprintf(out, "  %-30s %s\n", left, c->summary);
	}
	fputs("\nglobal options:\n", out);
	print_options(cli_global_options, out);
	fputs("\nlandfall COMMAND --help tells a command's options; landfall(1) tells all.\n", out);
}

/* Edits (insert, delete, replace, swap of neighbours) from one text to the other. */
static unsigned distance(const char *a, const char *b)
{
	enum { most = 48 };
	unsigned rows[3][most + 1];
	size_t n = MIN(strlen(a), (size_t)most), m = MIN(strlen(b), (size_t)most);
	for (unsigned j = 0; j <= m; j++)
		rows[0][j] = j;
	for (unsigned i = 1; i <= n; i++) {
		unsigned *row = rows[i % 3], *above = rows[(i + 2) % 3], *two = rows[(i + 1) % 3];
		row[0] = i;
		for (unsigned j = 1; j <= m; j++) {
			unsigned replace = above[j - 1] + (a[i - 1] != b[j - 1]);
			unsigned shift = MIN(above[j], row[j - 1]) + 1;
			row[j] = MIN(shift, replace);
			if (i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1])
				row[j] = MIN(row[j], two[j - 2] + 1);
		}
	}
	return rows[n % 3][m];
}

/* Near enough to be meant: one letter of three may be wrong. */
static bool is_near(unsigned distance, const char *typed)
{
	return distance * 3 <= strlen(typed);
}

const char *cli_suggest(const char *typed)
{
	const char *best = NULL;
	char word[48];
	unsigned nearest = 4; /* farther is no help */
	snprintf(word, sizeof(word), "%.*s", (int)strcspn(typed, " "), typed);
	for (const struct cli_command *c = cli_commands; c->words; c++) {
		char first[48];
		size_t n = strcspn(c->words, " ");
		snprintf(first, sizeof(first), "%.*s", (int)n, c->words);
		unsigned of_first = distance(word, first);
		unsigned d = strchr(typed, ' ') ? distance(typed, c->words) : of_first;
		/* One word followed by arguments: only the first may be meant as a command. */
		if (!c->words[n])
			d = MIN(d, of_first);
		if (d < nearest && is_near(of_first, word) && is_near(d, typed)) {
			nearest = d;
			best = c->words;
		}
	}
	return best;
}
