/*
 * The command line: a thin client of the control socket.
 *
 *	landfall_main.c   start: finds the command, runs it, exit code
 *	cli_commands.c    the table of commands: all that help, completion and parsing know
 *	cli_parse.c       words to parameters
 *	cli_help.c        --help, and what to say about a word that is no command
 *	cli_client.c      the socket
 *	cli_job.c         following a job; cli_progress.c draws its bar
 *	cli_output.c      errors and documents; running a command's method
 *	cli_text.c        sizes, ages, tables
 *	cli_<noun>.c      what each command's result looks like to a person
 *
 * With --json every command prints one JSON document on stdout: the method's result, or
 * {"error": …}. Progress and errors for people go to stderr. One thread.
 */
#pragma once

#include <signal.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>

#include "common/buf.h"
#include "common/error.h"
#include "replicator/control.h"

struct cJSON;
struct cli;

struct cli_option {
	const char *name;  /* without the dashes; NULL ends a list */
	const char *value; /* what stands for its value in the help; NULL: a flag */
	const char *help;
	bool repeated;
	bool local; /* not a parameter of the method */
};

struct cli_command {
	const char *words; /* "machine add" */
	const char
		*arguments; /* "MACHINE [POINT]"; "KEY=VALUE..." is one or more, left in cli.rest */
	const char *summary;
	const struct cli_option *options;
	/* Returns an exit code; has told any error itself. */
	enum exit_code (*run)(struct cli *cli);
};

struct cli {
	const char *socket_path;
	const char *noun; /* with --help: the commands that begin with it; NULL: none was given */
	bool json, no_progress, help;
	const struct cli_command *command;
	struct cJSON *parameters; /* owned; what the words gave */
	struct cJSON *options;    /* owned; local options */
	struct cJSON *rest;       /* owned array: the words of a "..." argument */
	int fd;                   /* -1 until the first call */
	struct buf input;
	uint64_t last_id;
	/* Called with every notification that comes while an answer is awaited; may be NULL. */
	void (*notified)(void *context, const struct cJSON *parameters);
	void *notified_context;
	const sigset_t *wait_mask; /* signals blocked while waiting, if not as always; borrowed */
};

/* cli_commands.c */
extern const struct cli_command cli_commands[]; /* words NULL ends it */
extern const struct cli_option cli_global_options[];

/* cli_parse.c: fills `cli` from the words after the program's name. 0, or -EINVAL told in
 * `error`. --help and --version are left to the caller: cli->help, cli->command NULL. */
int cli_parse(struct cli *cli, int argc, char **argv, struct error *error, bool *ret_version);

/* cli_help.c */
/* Of one command; of those that begin with `noun` ("machine"); or, both NULL, of all. */
void cli_print_help(const struct cli_command *command, const char *noun, FILE *out);
/* The command nearest to what was typed, or NULL if none is near. */
const char *cli_suggest(const char *typed);

/* cli_client.c. All print nothing. */
struct cli_error {
	struct error error;
	enum exit_code exit;
	int code; /* JSON-RPC's */
	char cause[128];
};
/* Calls `method`; parameters are borrowed. The result is the caller's. */
int cli_call(struct cli *cli, const char *method, const struct cJSON *parameters,
	struct cli_error *ret_error, struct cJSON **ret_result);
/* Waits for the next notification and hands it to cli->notified. -EINTR: a signal came. */
int cli_wait(struct cli *cli, struct cli_error *ret_error);
void cli_close(struct cli *cli);

/* cli_output.c. Tells an error, on stderr or as JSON, and returns its exit code. */
enum exit_code cli_fail(struct cli *cli, const struct cli_error *error);
enum exit_code cli_fail_usage(struct cli *cli, const struct error *error);
/* Prints a document on stdout. */
enum exit_code cli_print_json(const struct cJSON *json);
struct cJSON *cli_error_to_json(const struct cli_error *error);
/* Calls the command's own method ("machine add" → machine.add). As cli_call. */
int cli_call_own(struct cli *cli, struct cli_error *ret_error, struct cJSON **ret_result);
/* The same and tells an error; with --json prints the result
 * and returns it as NULL. *ret_exit tells how that went. */
struct cJSON *cli_run_method(struct cli *cli, enum exit_code *ret_exit);
/* The same, and for people the result's array of that name as a table. */
struct cli_rows;
enum exit_code cli_run_list(struct cli *cli, const char *name, const struct cli_rows *rows);

/* cli_job.c: as cli_run_method, for a command whose result has a job: follows it to its end,
 * showing progress. With --json the document's "job" is the job as it ended; with --detach, its
 * number. For people, *ret_result and *ret_job (NULL: no job, or detached) are the caller's; both
 * stay NULL if all is said already. */
enum exit_code cli_run_job(struct cli *cli, struct cJSON **ret_result, struct cJSON **ret_job);

/* cli_progress.c */
struct cli_progress {
	bool shown, terminal;
	bool tells; /* what a job waits for, even if no progress is shown */
	char label[160];
	char obstacle[512];        /* told last */
	int64_t began_ns, told_ns; /* monotonic */
	uint64_t began_at;
	double rate;
	unsigned told_percent;
	int width; /* of what stands on the line */
};
void cli_progress_begin(const struct cli *cli, struct cli_progress *progress);
void cli_progress_update(struct cli_progress *progress, const char *label, uint64_t done,
	uint64_t total, const char *unit);
/* Tells once what the job waits for; "": for nothing any more. */
void cli_progress_obstacle(struct cli_progress *progress, const char *message, const char *mend);
/* For cli->notified, with the progress as its context: tells of a notification with a message and a
 * mend what the command waits for. */
void cli_progress_notified(void *context, const struct cJSON *parameters);
/* Clears the line. */
void cli_progress_end(struct cli_progress *progress);

/* cli_text.c */
#define CLI_TEXT_BYTES 64
const char *cli_size(uint64_t bytes, char text[static CLI_TEXT_BYTES]);     /* "1.5 GiB" */
const char *cli_duration(double seconds, char text[static CLI_TEXT_BYTES]); /* "2 h 5 min" */
const char *cli_time(const char *iso, char text[static CLI_TEXT_BYTES]);    /* to the second */

/* Members by name, forgiving: "", 0, false, NULL for what is missing or null. Numbers may also be
 * strings of digits. */
const char *cli_get_text(const struct cJSON *json, const char *name);
uint64_t cli_get_u64(const struct cJSON *json, const char *name);
double cli_get_number(const struct cJSON *json, const char *name);
bool cli_get_bool(const struct cJSON *json, const char *name);
bool cli_has(const struct cJSON *json, const char *name);
const struct cJSON *cli_get(const struct cJSON *json, const char *name);
/* A count; 0 if it is missing. */
const char *cli_get_count(
	const struct cJSON *json, const char *name, char text[static CLI_TEXT_BYTES]);
/* A size, a rate, an age; "-" for null. */
const char *cli_get_size(
	const struct cJSON *json, const char *name, char text[static CLI_TEXT_BYTES]);
const char *cli_get_rate(
	const struct cJSON *json, const char *name, char text[static CLI_TEXT_BYTES]);
const char *cli_get_age(
	const struct cJSON *json, const char *name, char text[static CLI_TEXT_BYTES]);

/* A table: cells row by row, the first row the headings. A heading that begins with '>' (left
 * out) makes its column flush right. Control characters in cells become '?'. */
struct cli_table;
struct cli_table *cli_table_new(unsigned columns, const char *const *headings);
void cli_table_add(struct cli_table *table, const char *cell); /* copied; NULL or "": "-" */
void cli_table_print(struct cli_table *table, FILE *out);      /* and frees it */

/* What a table shows of the items of an array, a row each. */
#define CLI_COLUMNS_MAX 10
struct cli_rows {
	const char *headings[CLI_COLUMNS_MAX + 1]; /* as above; NULL after the last */
	/* Adds an item's cells, one for each heading. */
	void (*add)(struct cli_table *table, const struct cJSON *item);
};
/* On stdout; `items` NULL: the headings alone. */
void cli_print_rows(const struct cli_rows *rows, const struct cJSON *items);

/* "name:   value" lines. */
void cli_print_field(const char *name, const char *value);
/* Text of others: without control characters. */
void cli_print_safe(FILE *out, const char *text);

/* cli_ebs.c: what is particular to an instance: where it is, what its replication costs and can
 * reach. `ebs` is the machine's "ebs"; NULL: nothing. */
void cli_print_ebs(const struct cJSON *ebs);
/* cli_agent_status.c: of a machine with an agent, whether it is there, and its disks: how changes
 * are captured, and of a comparison its rate and time left. Nothing of any other machine. */
void cli_print_agent(const struct cJSON *machine);
/* cli_ebs.c: how far a set of snapshots is that is being copied; nothing if none is. */
void cli_print_ebs_progress(const struct cJSON *machine);

/* The commands, by noun. */
enum exit_code cli_status(struct cli *cli);
enum exit_code cli_machine_add(struct cli *cli);
enum exit_code cli_machine_discover(struct cli *cli);
enum exit_code cli_machine_list(struct cli *cli);
enum exit_code cli_machine_show(struct cli *cli);
enum exit_code cli_machine_volumes(struct cli *cli);
enum exit_code cli_machine_remove(struct cli *cli);
enum exit_code cli_machine_pause(struct cli *cli);
enum exit_code cli_resync(struct cli *cli);
enum exit_code cli_point_list(struct cli *cli);
enum exit_code cli_point_show(struct cli *cli);
enum exit_code cli_point_create(struct cli *cli);
enum exit_code cli_point_keep(struct cli *cli);
enum exit_code cli_point_delete(struct cli *cli);
enum exit_code cli_clone_create(struct cli *cli);
enum exit_code cli_clone_list(struct cli *cli);
enum exit_code cli_clone_remove(struct cli *cli);
enum exit_code cli_inspect(struct cli *cli);
enum exit_code cli_verify(struct cli *cli);
enum exit_code cli_drill_start(struct cli *cli);
enum exit_code cli_drill_list(struct cli *cli);
enum exit_code cli_drill_show(struct cli *cli);
enum exit_code cli_drill_cleanup(struct cli *cli);
enum exit_code cli_job_list(struct cli *cli);
enum exit_code cli_job_show(struct cli *cli);
enum exit_code cli_job_watch(struct cli *cli);
enum exit_code cli_job_cancel(struct cli *cli);
enum exit_code cli_key_create(struct cli *cli);
enum exit_code cli_key_list(struct cli *cli);
enum exit_code cli_key_revoke(struct cli *cli);
enum exit_code cli_agent_install(struct cli *cli);
enum exit_code cli_agent_uninstall(struct cli *cli);
enum exit_code cli_policy_set(struct cli *cli);
enum exit_code cli_policy_list(struct cli *cli);
enum exit_code cli_policy_show(struct cli *cli);
enum exit_code cli_vault_init(struct cli *cli);
enum exit_code cli_vault_check(struct cli *cli);
enum exit_code cli_vault_takeover(struct cli *cli);
enum exit_code cli_metrics(struct cli *cli);
