/*
 * Words to options, and help. "--name VALUE" and "--name=VALUE"; nothing is abbreviated.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include <openssl/crypto.h>

#include "appliance/agent/command.h"
#include "common/cleanup.h"

#define HELP_COLUMN 26

struct given {
	const struct agent_option *option;
	char *value; /* owned */
};

struct agent_arguments {
	struct given *given; /* owned */
	unsigned count;
};

static const struct agent_option *find_option(
	const struct agent_command *command, const char *word, size_t n)
{
	for (const struct agent_option *option = command->options; option->name; option++)
		if (strlen(option->name) == n && strncmp(option->name, word, n) == 0)
			return option;
	return NULL;
}

static void wipe(char *text)
{
	OPENSSL_cleanse(text, strlen(text));
}

static int add(struct agent_arguments *arguments, const struct agent_option *option, char *value,
	struct error *error)
{
	if (!option->repeated && agent_argument(arguments, option->name))
		return error_set(
			error, -EINVAL, "give it once", "--%s is given twice", option->name);
	struct given *given = &arguments->given[arguments->count];
	given->option = option;
	given->value = strdup(value);
	if (!given->value)
		return error_set(error, -ENOMEM, NULL, "out of memory");
	arguments->count++;
	if (option->secret)
		wipe(value); /* nobody reads it from the list of processes from now on */
	return 0;
}

/* The word argv[*at] and, if it is an option's, the value after it. */
static int take(const struct agent_command *command, int argc, char **argv, int *at,
	struct agent_arguments *arguments, struct error *error)
{
	char *word = argv[*at], empty[] = "";
	if (strncmp(word, "--", 2) != 0)
		return error_set(error, -EINVAL, "see landfall-agent --help",
			"%s: \"%.80s\" is one word too many", command->name, word);
	size_t n = strcspn(word + 2, "=");
	char *value = word[2 + n] == '=' ? word + 2 + n + 1 : NULL;
	const struct agent_option *option = find_option(command, word + 2, n);
	if (!option)
		return error_set(error, -EINVAL, "see landfall-agent --help",
			"%s: there is no option --%.*s", command->name, (int)n, word + 2);
	if (!option->value && value)
		return error_set(error, -EINVAL, NULL, "--%s takes no value", option->name);
	if (option->value && !value) {
		if (*at + 1 >= argc)
			return error_set(error, -EINVAL, NULL, "--%s needs a value: --%s %s",
				option->name, option->name, option->value);
		value = argv[++*at];
	}
	return add(arguments, option, value ? value : empty, error);
}

int agent_arguments_parse(const struct agent_command *command, int argc, char **argv,
	struct error *error, struct agent_arguments **ret_arguments, bool *ret_help)
{
	struct agent_arguments *arguments = calloc(1, sizeof(*arguments));
	int r = 0;
	if (arguments)
		arguments->given = calloc((size_t)argc + 1, sizeof(*arguments->given));
	if (!arguments || !arguments->given)
		r = error_set(error, -ENOMEM, NULL, "out of memory");
	*ret_help = false;
	for (int i = 0; r == 0 && i < argc && !*ret_help; i++) {
		if (strcmp(argv[i], "--help") == 0 || strcmp(argv[i], "-h") == 0)
			*ret_help = true;
		else
			r = take(command, argc, argv, &i, arguments, error);
	}
	if (r < 0) {
		agent_arguments_free(arguments);
		return r;
	}
	*ret_arguments = arguments;
	return 0;
}

void agent_arguments_free(struct agent_arguments *arguments)
{
	if (!arguments)
		return;
	for (unsigned i = 0; i < arguments->count; i++) {
		wipe(arguments->given[i].value);
		free(arguments->given[i].value);
	}
	free(arguments->given);
	free(arguments);
}

const char *agent_argument_at(
	const struct agent_arguments *arguments, const char *name, unsigned index)
{
	for (unsigned i = 0; i < arguments->count; i++)
		if (strcmp(arguments->given[i].option->name, name) == 0 && index-- == 0)
			return arguments->given[i].value;
	return NULL;
}

const char *agent_argument(const struct agent_arguments *arguments, const char *name)
{
	return agent_argument_at(arguments, name, 0);
}

const char *agent_argument_needed(
	const struct agent_arguments *arguments, const char *name, struct error *error)
{
	const char *value = agent_argument(arguments, name);
	if (!value || !*value) {
		error_fill(error, -EINVAL, "see landfall-agent --help", "--%s is missing", name);
		return NULL;
	}
	return value;
}

/* ── telling ─────────────────────────────────────────────────────────────────────────────── */

static void print_options(const struct agent_option *options, FILE *out)
{
	for (const struct agent_option *option = options; option->name; option++) {
		int n = fprintf(out, "  --%s%s%s", option->name, option->value ? " " : "",
			option->value ? option->value : "");
		int blanks = n < HELP_COLUMN - 2 ? HELP_COLUMN - n : 2;
		fprintf(out, "%*s%s\n", blanks, "", option->help);
	}
}

void agent_print_help(const struct agent_command *command, FILE *out)
{
	static const struct agent_option always[] = {
		{ "help", NULL, "print help and exit", false, false },
		{ "version", NULL, "print the version and exit", false, false },
		{ NULL, NULL, NULL, false, false },
	};
	if (command) {
		fprintf(out, "usage: landfall-agent %s [OPTION]...\n\n%s\n\noptions:\n",
			command->name, command->summary);
		print_options(command->options, out);
		return;
	}
	fputs("usage: landfall-agent COMMAND [OPTION]...\n\n"
	      "Replicates this machine's disks to a Landfall appliance.\n\ncommands:\n",
		out);
	for (command = agent_commands; command->name; command++)
		fprintf(out, "  %-*s%s\n", HELP_COLUMN - 2, command->name, command->summary);
	fputs("\noptions:\n", out);
	print_options(always, out);
	fputs("\nlandfall-agent COMMAND --help tells a command's options.\n", out);
}

enum agent_exit agent_fail(const struct error *error)
{
	fprintf(stderr, "landfall-agent: %s\n", error->message);
	if (error->mend[0])
		fprintf(stderr, "  → %s\n", error->mend);
	switch (error->code) {
	case -EINVAL:
	case -ENOTBLK:
		return AGENT_USAGE;
	case -ENOENT:
		return AGENT_NOT_FOUND;
	case -EACCES:
	case -EPERM:
	case -EKEYREVOKED:
	case -EKEYEXPIRED:
		return AGENT_NOT_PERMITTED;
	case -EEXIST:
	case -EBUSY:
		return AGENT_CONFLICT;
	case -EHOSTUNREACH:
	case -ENETUNREACH:
	case -ECONNREFUSED:
	case -ECONNRESET:
	case -ETIMEDOUT:
		return AGENT_UNREACHABLE;
	default:
		return AGENT_FAILED;
	}
}
