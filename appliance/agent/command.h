/*
 * landfall-agent's commands: the program that runs on the source machine.
 *
 *	landfall_agent_main.c  start: finds the command, runs it, exit code
 *	agent/commands.c       the table of commands: all that help, completion and parsing know
 *	agent/arguments.c      words to options; help
 *	agent/<name>.c         a command each
 *
 * The program is self-contained: it sees common, replicator/wire and replicator/agent only.
 * Messages for people go to stderr, results to stdout.
 */
#pragma once

#include <stdbool.h>
#include <stdio.h>

#include "common/error.h"
#include "replicator/agent/run.h"

/* As the command line of the appliance. */
enum agent_exit {
	AGENT_DONE = 0,
	AGENT_FAILED = 1,
	AGENT_USAGE = 2,
	AGENT_NOT_FOUND = 3,
	AGENT_NOT_PERMITTED = 4,
	AGENT_CONFLICT = 5,
	AGENT_UNREACHABLE = 6,
};

struct agent_option {
	const char *name;  /* without the dashes; NULL ends a list */
	const char *value; /* what stands for its value in the help; NULL: a flag */
	const char *help;
	bool repeated;
	bool secret; /* its value is taken out of the process's visible arguments */
};

struct agent_arguments;

struct agent_command {
	const char *name, *summary;
	const struct agent_option *options;
	/* Returns an exit code; has told any error itself. */
	enum agent_exit (*run)(const struct agent_arguments *arguments);
};

/* commands.c; name NULL ends it. */
extern const struct agent_command agent_commands[];

/* ── arguments.c ─────────────────────────────────────────────────────────────────────────── */

/* Reads the words after the command's. -EINVAL with words. `*ret_help`: --help is among them, and
 * nothing else counts. The values of secret options are copied, and overwritten in `argv`. */
int agent_arguments_parse(const struct agent_command *command, int argc, char **argv,
	struct error *error, struct agent_arguments **ret_arguments, bool *ret_help);
/* Wipes and frees. NULL is fine. */
void agent_arguments_free(struct agent_arguments *arguments);

/* The option's value; NULL if it was not given. For a flag: not NULL if it was given. */
const char *agent_argument(const struct agent_arguments *arguments, const char *name);
/* The values of a repeated option, one after the other: NULL when there are no more. */
const char *agent_argument_at(
	const struct agent_arguments *arguments, const char *name, unsigned index);
/* The value, which has to be there: else `error` says so and it is NULL. */
const char *agent_argument_needed(
	const struct agent_arguments *arguments, const char *name, struct error *error);

/* The disks that --disk names (disks.c). A zeroed one may be freed. */
struct agent_disks {
	struct agent_disk disks[SOURCE_DISKS_MAX];
	char *texts[SOURCE_DISKS_MAX]; /* owned: what the disks point to */
	unsigned count;
};
int agent_disks_read(
	const struct agent_arguments *arguments, struct agent_disks *disks, struct error *error);
void agent_disks_free(struct agent_disks *disks);

/* Help for one command, or for all (NULL). */
void agent_print_help(const struct agent_command *command, FILE *out);

/* Tells an error on stderr, with its mend, and is the exit code that it means. */
enum agent_exit agent_fail(const struct error *error);

/* ── the commands ────────────────────────────────────────────────────────────────────────── */

enum agent_exit agent_enroll(const struct agent_arguments *arguments);
enum agent_exit agent_replicate(const struct agent_arguments *arguments);
enum agent_exit agent_show_status(const struct agent_arguments *arguments);
enum agent_exit agent_measure(const struct agent_arguments *arguments);
