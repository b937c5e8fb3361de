/*
 * The configuration file, line by line, through inih.
 *
 * Debian's inih tells its handler no line number, cuts long lines and long names of sections, and
 * does not speak of a section without keys. So the lines are handed to it one by one by a reader
 * of our own, which counts them, refuses what inih would cut, and looks at the sections' names.
 * One thread, one file at a time; what was read twice is found by the line it stood on first.
 */
#include "appliance/config_read.h"

#include <arpa/inet.h>
#include <errno.h>
#include <ini.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "appliance/config_keys.h"
#include "common/human.h"
#include "common/bytes.h"
#include "common/cleanup.h"

#define POLICY_KEYS_MAX 16

struct reader {
	struct config *config;
	struct error *error;
	FILE *file;
	unsigned line;
	int result; /* the first error ends it all */
	char section[128];
	unsigned section_line;
	struct config_lines *lines; /* a key's is also whether it was seen */
	unsigned policy_seen[CONFIG_POLICIES_MAX][POLICY_KEYS_MAX];
};

static const char manual[] = "see landfall.conf(5)";

#define FAIL(reader, mend, ...)                                                                    \
	({                                                                                         \
		if ((reader)->result == 0) {                                                       \
			(reader)->result = error_set((reader)->error, -EINVAL, mend, __VA_ARGS__); \
			error_prefix(                                                              \
				(reader)->error, "%s:%u", (reader)->config->path, (reader)->line); \
		}                                                                                  \
		0;                                                                                 \
	})

static bool is_name(const char *text)
{
	static const char allowed[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
				      "0123456789._-";
	size_t n = strlen(text);
	return n > 0 && n < POLICY_NAME_BYTES && strspn(text, allowed) == n && text[0] != '.' &&
	       text[0] != '-';
}

static const char *policy_name(const char *section)
{
	if (strncmp(section, "policy ", 7) != 0)
		return NULL;
	return section + 7 + strspn(section + 7, " ");
}

static bool is_section(const char *section)
{
	for (unsigned i = 0; i < config_key_count; i++) {
		if (strcmp(config_keys[i].section, section) == 0)
			return true;
	}
	return false;
}

/* "[name]" of a line that begins with '['; inih itself finds a missing bracket. */
static void look_at_section(struct reader *reader, const char *line)
{
	const char *end = strchr(line, ']');
	if (!end)
		return;
	snprintf(reader->section, sizeof(reader->section), "%.*s", (int)(end - line - 1), line + 1);
	reader->section_line = reader->line;
	const char *name = policy_name(reader->section);
	if (name && !is_name(name))
		FAIL(reader, "use letters, digits, '.', '_' and '-'",
			"\"%s\" is no name for a policy", name);
	else if (name && end - line - 1 > 48)
		FAIL(reader, "shorten it", "the policy's name is longer than 41 characters");
	else if (!name && !is_section(reader->section))
		FAIL(reader, manual, "there is no section [%s]", reader->section);
}

/* As fgets; NULL ends the reading. */
static char *next_line(char *line, int n, void *context)
{
	struct reader *reader = context;
	if (reader->result < 0 || !fgets(line, n, reader->file))
		return NULL;
	reader->line++;
	size_t length = strlen(line);
	if (length + 1 == (size_t)n && line[length - 1] != '\n' && !feof(reader->file)) {
		FAIL(reader, "shorten it", "the line is longer than %d characters", n - 2);
		return NULL;
	}
	const char *start = line + strspn(line, " \t");
	if (*start == '[')
		look_at_section(reader, start);
	return reader->result < 0 ? NULL : line;
}

static int set_text(struct reader *reader, char **slot, const char *value)
{
	char *copy = strdup(value);
	if (!copy) {
		reader->result = error_set(reader->error, -ENOMEM, NULL, "no memory");
		return 0;
	}
	free(*slot);
	*slot = copy;
	return 1;
}

static int set_level(struct reader *reader, const char *value, enum log_level *ret_level)
{
	static const struct {
		const char *name;
		enum log_level level;
	} levels[] = { { "error", LOG_LEVEL_ERROR }, { "warning", LOG_LEVEL_WARNING },
		{ "info", LOG_LEVEL_INFO }, { "debug", LOG_LEVEL_DEBUG } };
	for (unsigned i = 0; i < ARRAY_SIZE(levels); i++) {
		if (strcmp(value, levels[i].name) == 0) {
			*ret_level = levels[i].level;
			return 1;
		}
	}
	return FAIL(reader, "use error, warning, info or debug", "\"%s\" is no log level", value);
}

static int set_auth(struct reader *reader, const char *value, enum config_auth *ret_auth)
{
	static const struct {
		const char *name;
		enum config_auth auth;
	} auths[] = { { "sharedkey", CONFIG_AUTH_SHARED_KEY }, { "sas", CONFIG_AUTH_SAS },
		{ "managed-identity", CONFIG_AUTH_MANAGED_IDENTITY },
		{ "client-secret", CONFIG_AUTH_CLIENT_SECRET },
		{ "workload-identity", CONFIG_AUTH_WORKLOAD_IDENTITY } };
	for (unsigned i = 0; i < ARRAY_SIZE(auths); i++) {
		if (strcmp(value, auths[i].name) == 0) {
			*ret_auth = auths[i].auth;
			return 1;
		}
	}
	return FAIL(reader,
		"use sharedkey, sas, managed-identity, client-secret or workload-identity",
		"\"%s\" is no way to authenticate", value);
}

static bool is_url(const char *value)
{
	const char *rest = strncmp(value, "https://", 8) == 0  ? value + 8
			   : strncmp(value, "http://", 7) == 0 ? value + 7
							       : "";
	return *rest && *rest != '/' && !strpbrk(rest, " \t\"<>");
}

/* 1 to 255 of letters, digits, '.', '_' and '-'; what looks like an IPv4 address must be one. */
static bool is_host(const char *host)
{
	static const char digits[] = "0123456789.";
	static const char allowed[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
				      "0123456789._-";
	struct in_addr ip;
	size_t n = strlen(host);
	if (strspn(host, digits) == n)
		return inet_pton(AF_INET, host, &ip) == 1;
	return strspn(host, allowed) == n && host[0] != '-' && host[0] != '.';
}

/* HOST:PORT, [IPv6]:PORT or none. */
static bool is_address(const char *value)
{
	const char *colon = strrchr(value, ':');
	char host[256];
	if (strcmp(value, "none") == 0)
		return true;
	if (!colon || colon == value || (size_t)(colon - value) >= sizeof(host))
		return false;
	size_t digits = strspn(colon + 1, "0123456789");
	if (digits == 0 || digits > 5 || colon[1 + digits] != '\0' ||
		strtoul(colon + 1, NULL, 10) > UINT16_MAX)
		return false;
	size_t n = (size_t)(colon - value);
	memcpy(host, value, n);
	host[n] = '\0';
	if (host[0] != '[')
		return is_host(host);
	struct in6_addr ip;
	if (host[n - 1] != ']')
		return false;
	host[n - 1] = '\0';
	return inet_pton(AF_INET6, host + 1, &ip) == 1;
}

/* As the names of AWS's regions are made. */
static bool is_region(const char *value)
{
	size_t n = strlen(value);
	return n <= 63 && strspn(value, "abcdefghijklmnopqrstuvwxyz0123456789-") == n &&
	       value[0] != '-' && value[n - 1] != '-';
}

#define RATE_LEAST_BYTES (1 * MIB)

/* "unlimited" is 0. */
static int set_rate(struct reader *reader, const char *name, const char *value, uint64_t *ret_rate)
{
	uint64_t rate = 0;
	if (strcmp(value, "unlimited") != 0 &&
		(size_parse(value, &rate) < 0 || rate < RATE_LEAST_BYTES))
		return FAIL(reader, "give 1M or more bytes a second, such as 60M, or unlimited",
			"%s: \"%s\" is no rate", name, value);
	*ret_rate = rate;
	return 1;
}

static int set_count(
	struct reader *reader, const char *name, const char *value, uint64_t *ret_count)
{
	unsigned long count = 0;
	char *end = NULL;
	if (strcmp(value, "unlimited") != 0) {
		count = strlen(value) < 10 ? strtoul(value, &end, 10) : 0;
		if (value[0] < '0' || value[0] > '9' || count == 0 || *end)
			return FAIL(reader, "give a number a second, such as 500, or unlimited",
				"%s: \"%s\" is no number", name, value);
	}
	*ret_count = count;
	return 1;
}

/* "0.003": to the billionth, below a million. */
static int set_price(
	struct reader *reader, const char *name, const char *value, uint64_t *ret_price)
{
	static const char digits[] = "0123456789";
	size_t whole = strspn(value, digits);
	const char *rest = value + whole + (value[whole] == '.');
	size_t part = strspn(rest, digits);
	if (whole == 0 || whole > 6 || part > 9 || rest[part] != '\0' ||
		(value[whole] == '.' && part == 0))
		return FAIL(reader, "give dollars, such as 0.003", "%s: \"%s\" is no price", name,
			value);
	uint64_t price = strtoull(value, NULL, 10);
	for (size_t i = 0; i < 9; i++)
		price = price * 10 + (i < part ? (uint64_t)(rest[i] - '0') : 0);
	*ret_price = price;
	return 1;
}

static int set_value(struct reader *reader, const struct config_key *key, const char *value)
{
	void *slot = (char *)reader->config + key->offset;
	switch (key->type) {
	case CONFIG_TEXT:
		break;
	case CONFIG_PATH:
		if (value[0] != '/')
			return FAIL(reader, "give the path from the root",
				"%s: \"%s\" is no absolute path", key->name, value);
		break;
	case CONFIG_SECRET:
		if (value[0] != '/' && strchr(value, '/'))
			return FAIL(reader, "give a path from the root, or a credential's name",
				"%s: \"%s\" is no absolute path", key->name, value);
		break;
	case CONFIG_URL:
		if (!is_url(value))
			return FAIL(reader, "begin it with https:// or http://",
				"%s: \"%s\" is no URL", key->name, value);
		break;
	case CONFIG_ADDRESS:
		if (!is_address(value))
			return FAIL(reader, "give HOST:PORT, [IPv6]:PORT or none",
				"%s: \"%s\" is no address", key->name, value);
		break;
	case CONFIG_REGION:
		if (!is_region(value))
			return FAIL(reader, "give a region's name, such as eu-west-1",
				"%s: \"%s\" is no region", key->name, value);
		break;
	case CONFIG_SIZE:
		if (size_parse(value, slot) < 0)
			return FAIL(reader, "give digits and K, M, G or T, such as 64G",
				"%s: \"%s\" is no size", key->name, value);
		return 1;
	case CONFIG_RATE:
		return set_rate(reader, key->name, value, slot);
	case CONFIG_COUNT:
		return set_count(reader, key->name, value, slot);
	case CONFIG_PRICE:
		return set_price(reader, key->name, value, slot);
	case CONFIG_LEVEL:
		return set_level(reader, value, slot);
	case CONFIG_AUTH:
		return set_auth(reader, value, slot);
	}
	return set_text(reader, slot, value);
}

/* True if it is the first time. */
static int check_once(struct reader *reader, unsigned *seen, const char *name)
{
	if (*seen > 0)
		return FAIL(
			reader, "remove one of them", "%s is set already on line %u", name, *seen);
	*seen = reader->line;
	return 1;
}

static struct policy *find_or_add_policy(struct reader *reader, const char *name)
{
	struct config *config = reader->config;
	for (unsigned i = 0; i < config->policy_count; i++) {
		if (strcmp(config->policies[i].name, name) == 0)
			return &config->policies[i];
	}
	if (config->policy_count == CONFIG_POLICIES_MAX) {
		FAIL(reader, NULL, "there are more than %d policies", CONFIG_POLICIES_MAX);
		return NULL;
	}
	struct policy *policies =
		reallocarray(config->policies, config->policy_count + 1, sizeof(*policies));
	if (!policies) {
		reader->result = error_set(reader->error, -ENOMEM, NULL, "no memory");
		return NULL;
	}
	config->policies = policies;
	reader->lines->policies[config->policy_count] = reader->section_line;
	struct policy *policy = &policies[config->policy_count++];
	policy_default(policy);
	snprintf(policy->name, sizeof(policy->name), "%s", name);
	return policy;
}

static int set_policy(
	struct reader *reader, const char *section, const char *key, const char *value)
{
	struct policy *policy = find_or_add_policy(reader, policy_name(section));
	if (!policy)
		return 0;
	unsigned which = (unsigned)(policy - reader->config->policies), i = 0;
	for (const char *const *names = policy_keys(); names[i] && strcmp(names[i], key) != 0;)
		i++;
	if (i < POLICY_KEYS_MAX && !check_once(reader, &reader->policy_seen[which][i], key))
		return 0;
	struct error error = { 0 };
	if (policy_set(policy, key, value, &error) < 0)
		return FAIL(reader, error.mend, "%s", error.message);
	return 1;
}

/* inih's: 0 is an error. */
static int take_pair(void *context, const char *section, const char *name, const char *value)
{
	struct reader *reader = context;
	if (reader->result < 0)
		return 0;
	if (section[0] == '\0')
		return FAIL(reader, "put a section such as [vault] before it",
			"%s stands before any section", name);
	if (!value || value[0] == '\0')
		return FAIL(reader, "set it, or remove the line", "%s has no value", name);
	if (policy_name(section))
		return set_policy(reader, section, name, value);
	for (unsigned i = 0; i < config_key_count; i++) {
		const struct config_key *key = &config_keys[i];
		if (strcmp(key->section, section) == 0 && strcmp(key->name, name) == 0)
			return check_once(reader, &reader->lines->keys[i], name)
				       ? set_value(reader, key, value)
				       : 0;
	}
	return FAIL(reader, manual, "there is no key \"%s\" in [%s]", name, section);
}

int config_read(struct config *config, struct config_lines *lines, struct error *error)
{
	_Static_assert(POLICY_KEYS_MAX >= 8, "a policy has eight keys");
	CLEANUP_FREE struct reader *reader = calloc(1, sizeof(*reader));
	if (!reader || config_key_count > CONFIG_KEYS_MAX)
		return error_set(error, -ENOMEM, NULL, "no memory");
	reader->config = config;
	*lines = (struct config_lines){ 0 };
	reader->lines = lines;
	reader->error = error;
	reader->file = fopen(config->path, "re");
	if (!reader->file)
		return error_set(error, -errno,
			errno == ENOENT ? "make it, beginning from landfall.conf.sample"
					: "check its permissions",
			"%s: %s", config->path, strerrordesc_np(errno));
	int r = ini_parse_stream(next_line, reader, take_pair, reader);
	bool broken = ferror(reader->file);
	fclose(reader->file);
	if (reader->result < 0)
		return reader->result;
	if (broken)
		return error_set(error, -EIO, NULL, "%s cannot be read", config->path);
	if (r > 0)
		return error_set(error, -EINVAL, manual,
			"%s:%d: this is neither \"key = value\" nor a [section]", config->path, r);
	return r < 0 ? error_set(error, -ENOMEM, NULL, "no memory to read %s", config->path) : 0;
}
