/*
 * Words to parameters, by the table of commands alone: a long option keeps its name with '_' for
 * '-', an argument has its placeholder's name in lower case. Global options may stand anywhere;
 * "--" ends options.
 */
#include <cjson/cJSON.h>
#include <ctype.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "appliance/cli.h"
#include "common/bytes.h"

#define WORDS_MAX 256

struct words {
	const char *plain[WORDS_MAX]; /* what is no option and no option's value */
	unsigned plain_count;
};

#define NO_MEMORY "no memory"

static void parameter_name(const char *from, size_t n, char *to, size_t to_bytes)
{
	size_t i;
	for (i = 0; i < n && i + 1 < to_bytes; i++)
		to[i] = from[i] == '-' ? '_' : (char)tolower((unsigned char)from[i]);
	to[i] = '\0';
}

static int add(cJSON *object, const char *name, cJSON *value, struct error *error)
{
	if (value && cJSON_AddItemToObject(object, name, value))
		return 0;
	cJSON_Delete(value);
	return error_set(error, -ENOMEM, NULL, NO_MEMORY);
}

static const struct cli_option *find_option(
	const struct cli_option *options, const char *name, size_t n)
{
	for (; options && options->name; options++) {
		if (strlen(options->name) == n && strncmp(options->name, name, n) == 0)
			return options;
	}
	return NULL;
}

static bool begins_command(const char *words, const char *first)
{
	size_t n = strlen(first);
	return strncmp(words, first, n) == 0 && (words[n] == ' ' || words[n] == '\0');
}

static bool is_noun(const char *word)
{
	for (const struct cli_command *c = cli_commands; c->words; c++)
		if (begins_command(c->words, word))
			return true;
	return false;
}

/* "one of add, list, …" */
static void list_verbs(const char *noun, char *text, size_t n)
{
	size_t used = (size_t)snprintf(text, n, "one of");
	for (const struct cli_command *c = cli_commands; c->words; c++) {
		if (begins_command(c->words, noun) && used < n)
			used += (size_t)snprintf(text + used, n - used, " %s",
				c->words + strlen(noun) + (c->words[strlen(noun)] == ' '));
	}
}

static int no_such_command(const struct words *words, struct error *error)
{
	const char *first = words->plain[0],
		   *second = words->plain_count > 1 ? words->plain[1] : "";
	char typed[128], mend[200] = "see landfall --help";
	snprintf(typed, sizeof(typed), "%.60s%s%.60s", first, *second ? " " : "", second);
	const char *near = cli_suggest(typed);
	bool noun = is_noun(first);
	if (near)
		snprintf(mend, sizeof(mend), "did you mean \"landfall %s\"?", near);
	if (noun && !*second) {
		list_verbs(first, mend, sizeof(mend));
		return error_set(error, -EINVAL, mend, "\"%s\" needs one word more", first);
	}
	return error_set(error, -EINVAL, mend, "there is no command \"%s\"", noun ? typed : first);
}

/* The command that the first one or two words name; *ret_used of them. NULL: none. */
static const struct cli_command *find_command(const struct words *words, unsigned *ret_used)
{
	for (const struct cli_command *c = cli_commands; c->words; c++) {
		const char *space = strchr(c->words, ' ');
		unsigned count = space ? 2 : 1;
		if (words->plain_count < count || !begins_command(c->words, words->plain[0]))
			continue;
		if (!space || strcmp(space + 1, words->plain[1]) == 0) {
			*ret_used = count;
			return c;
		}
	}
	return NULL;
}

/* First pass: which words are plain. Options that take a value are found in every command's
 * table, because the command is not known yet; no name takes a value in one command and none in
 * another. */
static bool takes_value(const char *name, size_t n)
{
	const struct cli_option *option = find_option(cli_global_options, name, n);
	for (const struct cli_command *c = cli_commands; !option && c->words; c++)
		option = find_option(c->options, name, n);
	return option && option->value;
}

static int sort_words(int argc, char **argv, struct words *words, struct error *error)
{
	bool ended = false;
	for (int i = 0; i < argc; i++) {
		const char *word = argv[i];
		if (!ended && strcmp(word, "--") == 0) {
			ended = true;
		} else if (!ended && word[0] == '-' && word[1] == '-') {
			if (!strchr(word, '=') && takes_value(word + 2, strlen(word + 2)))
				i++;
		} else if (!ended && word[0] == '-' && word[1] && strcmp(word, "-h") != 0) {
			return error_set(error, -EINVAL, "see landfall --help",
				"there is no option \"%.60s\"", word);
		} else if (strcmp(word, "-h") != 0 || ended) {
			if (words->plain_count == WORDS_MAX)
				return error_set(error, -E2BIG, NULL, "there are too many words");
			words->plain[words->plain_count++] = word;
		}
	}
	return 0;
}

static bool set_global(
	struct cli *cli, const struct cli_option *option, const char *value, bool *ret_version)
{
	if (strcmp(option->name, "socket") == 0)
		cli->socket_path = value;
	else if (strcmp(option->name, "json") == 0)
		cli->json = true;
	else if (strcmp(option->name, "no-progress") == 0)
		cli->no_progress = true;
	else if (strcmp(option->name, "help") == 0)
		cli->help = true;
	else
		*ret_version = true;
	return true;
}

static int set_option(
	struct cli *cli, const struct cli_option *option, const char *value, struct error *error)
{
	char name[64];
	cJSON *object = option->local ? cli->options : cli->parameters;
	parameter_name(option->name, strlen(option->name), name, sizeof(name));
	cJSON *old = cJSON_GetObjectItemCaseSensitive(object, name);
	if (option->repeated) {
		if (!old) {
			old = cJSON_AddArrayToObject(object, name);
			if (!old)
				return error_set(error, -ENOMEM, NULL, NO_MEMORY);
		}
		cJSON *item = cJSON_CreateString(value);
		if (item && cJSON_AddItemToArray(old, item))
			return 0;
		cJSON_Delete(item);
		return error_set(error, -ENOMEM, NULL, NO_MEMORY);
	}
	if (old)
		return error_set(
			error, -EINVAL, "give it once", "--%s is given twice", option->name);
	return add(object, name, value ? cJSON_CreateString(value) : cJSON_CreateTrue(), error);
}

static int take_option(struct cli *cli, const char *word, const char *next, bool *ret_next_used,
	bool *ret_version, struct error *error)
{
	const char *equals = strchr(word, '=');
	size_t n = equals ? (size_t)(equals - word - 2) : strlen(word + 2);
	const struct cli_option *global = find_option(cli_global_options, word + 2, n);
	const struct cli_option *option = global;
	if (!option && cli->command)
		option = find_option(cli->command->options, word + 2, n);
	if (!option)
		return error_set(error, -EINVAL, "see --help", "%s%s has no option \"--%.*s\"",
			cli->command ? "" : "landfall", cli->command ? cli->command->words : "",
			(int)MIN(n, (size_t)60), word + 2);
	const char *value = equals ? equals + 1 : option->value ? next : NULL;
	*ret_next_used = option->value && !equals;
	if (option->value && !value)
		return error_set(error, -EINVAL, "see --help", "--%s needs a value: %s",
			option->name, option->value);
	if (!option->value && value)
		return error_set(error, -EINVAL, "see --help", "--%s takes no value", option->name);
	if (global) {
		set_global(cli, option, value, ret_version);
		return 0;
	}
	return set_option(cli, option, value, error);
}

/* Gives plain words their arguments' names. */
static int take_arguments(
	struct cli *cli, const char *const *words, unsigned count, struct error *error)
{
	unsigned used = 0;
	const char *argument = cli->command->arguments;
	while (*argument) {
		size_t n = strcspn(argument, " ");
		bool optional = argument[0] == '[';
		bool many = n > 3 && strncmp(argument + n - 3, "...", 3) == 0;
		if (used == count && !optional)
			return error_set(error, -EINVAL, "see --help", "%s needs %.*s",
				cli->command->words, (int)n, argument);
		while (many && used < count) {
			cJSON *item = cJSON_CreateString(words[used++]);
			if (!item || !cJSON_AddItemToArray(cli->rest, item)) {
				cJSON_Delete(item);
				return error_set(error, -ENOMEM, NULL, NO_MEMORY);
			}
		}
		if (!many && used < count) {
			char name[64];
			parameter_name(
				argument + optional, n - (optional ? 2 : 0), name, sizeof(name));
			int r = add(
				cli->parameters, name, cJSON_CreateString(words[used++]), error);
			if (r < 0)
				return r;
		}
		argument += n + strspn(argument + n, " ");
	}
	if (used < count)
		return error_set(error, -EINVAL, "see --help", "%s: \"%.60s\" is one word too many",
			cli->command->words, words[used]);
	return 0;
}

static int take_options(
	struct cli *cli, int argc, char **argv, bool *ret_version, struct error *error)
{
	for (int i = 0; i < argc && strcmp(argv[i], "--") != 0; i++) {
		bool next_used = false;
		if (strcmp(argv[i], "-h") == 0)
			cli->help = true;
		if (strncmp(argv[i], "--", 2) != 0)
			continue;
		int r = take_option(cli, argv[i], i + 1 < argc ? argv[i + 1] : NULL, &next_used,
			ret_version, error);
		if (r < 0)
			return r;
		i += next_used;
	}
	return 0;
}

int cli_parse(struct cli *cli, int argc, char **argv, struct error *error, bool *ret_version)
{
	struct words words = { 0 };
	unsigned used = 0;
	/* So that even an error about what follows is told as wanted. */
	for (int i = 0; i < argc; i++)
		cli->json = cli->json || strcmp(argv[i], "--json") == 0;
	cli->parameters = cJSON_CreateObject();
	cli->options = cJSON_CreateObject();
	cli->rest = cJSON_CreateArray();
	if (!cli->parameters || !cli->options || !cli->rest)
		return error_set(error, -ENOMEM, NULL, NO_MEMORY);
	int r = sort_words(argc, argv, &words, error);
	if (r < 0)
		return r;
	if (words.plain_count > 0) {
		cli->command = find_command(&words, &used);
		if (!cli->command && words.plain_count == 1 && is_noun(words.plain[0]))
			cli->noun = words.plain[0];
		if (!cli->command && !cli->noun)
			return no_such_command(&words, error);
	}
	r = take_options(cli, argc, argv, ret_version, error);
	if (cli->noun && !cli->help && !*ret_version)
		return no_such_command(&words, error);
	if (r < 0 || cli->help || *ret_version)
		return r;
	if (!cli->command)
		return error_set(error, -EINVAL, "see landfall --help", "which command?");
	return take_arguments(cli, words.plain + used, words.plain_count - used, error);
}
