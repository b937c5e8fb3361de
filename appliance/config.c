/*
 * Defaults, checks of settings against each other, secrets, and the comparison at a reload.
 *
 * A struct config that was loaded is whole and fixed: whoever has it may read it from any thread.
 */
#include "appliance/config.h"
#include "appliance/config_check.h"

#include <errno.h>
#include <grp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include "appliance/config_keys.h"
#include "appliance/config_read.h"
#include "appliance/local_settings.h"
#include "azureblob/account.h"
#include "common/buf.h"
#include "common/bytes.h"
#include "common/cleanup.h"
#include "common/io.h"
#include "ec2/limiter.h"

#define SECRET_BYTES_MAX 65536
/* Four segments: one that is written, a spare one, and two that the vault may let go. */
#define CONFIG_JOURNAL_LEAST_BYTES (256 * MIB)
/* What a page blob of a standard account takes ("Scalability and performance targets for Blob
 * storage": target throughput for a single page blob). */
#define BLOB_BYTES_PER_S (60 * MIB)
#define BLOB_REQUESTS_PER_S 500u
/* "Amazon EBS pricing", EBS direct APIs: $0.003 for 1000 GetSnapshotBlock, $0.0006 for 1000 of the
 * lists. */
#define BLOCK_PRICE 3000000u
#define LIST_PRICE 600000u

static bool is_text(enum config_type type)
{
	return type != CONFIG_SIZE && type != CONFIG_RATE && type != CONFIG_COUNT &&
	       type != CONFIG_PRICE && type != CONFIG_LEVEL && type != CONFIG_AUTH;
}

static void wipe(char *secret)
{
	if (secret)
		explicit_bzero(secret, strlen(secret));
	free(secret);
}

void config_free(struct config *config)
{
	if (!config)
		return;
	for (unsigned i = 0; i < config_key_count; i++) {
		if (is_text(config_keys[i].type))
			free(*(char **)((char *)config + config_keys[i].offset));
	}
	wipe(config->vault.connection_string);
	free(config->policies);
	free(config->path);
	free(config);
}

static int default_text(char **slot, const char *base, const char *rest)
{
	if (*slot)
		return 0;
	return asprintf(slot, "%s%s", base, rest) < 0 ? -ENOMEM : 0;
}

static int fill_defaults(struct config *config)
{
	int r = default_text(&config->appliance.state_dir, "/var/lib/landfall", "");
	if (r == 0)
		r = default_text(&config->appliance.mount, "/run/landfall/fs", "");
	if (r == 0)
		r = default_text(
			&config->appliance.control_socket, "/run/landfall/control.sock", "");
	if (r == 0)
		r = default_text(&config->appliance.control_group, "landfall", "");
	if (r == 0)
		r = default_text(&config->appliance.listen, "0.0.0.0:9443", "");
	if (r == 0)
		r = default_text(&config->journal.dir, config->appliance.state_dir, "/journal");
	if (r == 0)
		r = default_text(&config->cache.file, config->appliance.state_dir, "/cache");
	if (r == 0)
		r = default_text(&config->vault.container, "landfall", "");
	return r;
}

int config_secret_path(const char *file, struct error *error, char **ret_path)
{
	const char *directory = strchr(file, '/') ? "" : getenv("CREDENTIALS_DIRECTORY");
	if (!directory)
		return error_set(error, -ENOENT,
			"give an absolute path, or start landfalld with LoadCredential=",
			"\"%s\" names a systemd credential, but there are none here", file);
	char *path;
	if (asprintf(&path, "%s%s%s", directory, *directory ? "/" : "", file) < 0)
		return error_set(error, -ENOMEM, NULL, "no memory");
	*ret_path = path;
	return 0;
}

int config_read_secret(const char *file, struct error *error, char **ret_secret)
{
	CLEANUP_FREE char *path = NULL;
	char *text;
	size_t n;
	int r = config_secret_path(file, error, &path);
	if (r < 0)
		return r;
	r = io_load_file(io_posix(), path, SECRET_BYTES_MAX, &text, &n);
	if (r < 0)
		return error_set(error, r, "it holds a secret: make it, readable by root alone",
			"%s: %s", path, strerrordesc_np(-r));
	size_t start = strspn(text, " \t\r\n");
	size_t length = strcspn(text + start, "\r\n");
	while (length > 0 && strchr(" \t", text[start + length - 1]))
		length--;
	char *secret = strndup(text + start, length);
	explicit_bzero(text, n);
	free(text);
	if (!secret)
		return error_set(error, -ENOMEM, NULL, "no memory");
	if (!*secret) {
		free(secret);
		return error_set(
			error, -EINVAL, "put the secret on its first line", "%s is empty", path);
	}
	*ret_secret = secret;
	return 0;
}

/* Readable by us, and by whom else not. */
static int check_secret(const char *file, struct error *error)
{
	CLEANUP_FREE char *path = NULL;
	struct stat status;
	int r = config_secret_path(file, error, &path);
	if (r < 0 || !path)
		return r;
	if (access(path, R_OK) < 0 || stat(path, &status) < 0)
		return error_set(error, -errno,
			"it holds a secret: make it, readable by root alone", "%s: %s", path,
			strerrordesc_np(errno));
	if (status.st_mode & S_IRWXO)
		return error_set(error, -EACCES, "chmod o= it",
			"%s holds a secret and is open to everyone", path);
	return 0;
}

struct need {
	const char *name, *value;
	bool file;
};

static int check_needs(
	const struct need *needs, unsigned count, const char *auth, struct error *error)
{
	for (unsigned i = 0; i < count; i++) {
		if (!needs[i].value)
			return error_set(error, -EINVAL, "see landfall.conf(5)",
				"[vault] auth = %s needs %s", auth, needs[i].name);
		int r = needs[i].file ? check_secret(needs[i].value, error) : 0;
		if (r < 0)
			return r;
	}
	return 0;
}

static int check_auth(const struct config_vault *vault, struct error *error)
{
	const struct need key = { "key_file", vault->key_file, true };
	const struct need sas = { "sas_file", vault->sas_file, true };
	const struct need client[] = {
		{ "client_secret_file", vault->client_secret_file, true },
		{ "client_id", vault->client_id, false },
		{ "tenant_id", vault->tenant_id, false },
	};
	switch (vault->auth) {
	case CONFIG_AUTH_NONE:
		return error_set(error, -EINVAL, "see landfall.conf(5)",
			"[vault] does not say how to authenticate: auth is missing");
	case CONFIG_AUTH_SHARED_KEY:
		return check_needs(&key, 1, "sharedkey", error);
	case CONFIG_AUTH_SAS:
		return check_needs(&sas, 1, "sas", error);
	case CONFIG_AUTH_CLIENT_SECRET:
		return check_needs(client, ARRAY_SIZE(client), "client-secret", error);
	case CONFIG_AUTH_MANAGED_IDENTITY:
	case CONFIG_AUTH_WORKLOAD_IDENTITY:
		return 0; /* what they need may come from the environment */
	}
	return 0;
}

/* 3 to 63 of lower case, digits and single hyphens (the service's rule for containers). */
static bool is_container(const char *name)
{
	size_t n = strlen(name);
	return n >= 3 && n <= 63 && strspn(name, "abcdefghijklmnopqrstuvwxyz0123456789-") == n &&
	       name[0] != '-' && name[n - 1] != '-' && !strstr(name, "--");
}

static int check_vault(struct config_vault *vault, struct error *error)
{
	const char *override = getenv("AZURE_STORAGE_CONNECTION_STRING");
	int r = 0;
	if (!is_container(vault->container))
		return error_set(error, -EINVAL,
			"use 3 to 63 lower-case letters, digits and single hyphens",
			"[vault] container: \"%s\" is no name for a container", vault->container);
	if (vault->proxy_credentials_file) {
		r = check_secret(vault->proxy_credentials_file, error);
		if (r < 0)
			return r;
	}
	if (override && *override) {
		vault->connection_string = strdup(override);
		if (!vault->connection_string)
			return error_set(error, -ENOMEM, NULL, "no memory");
	} else if (vault->connection_string_file) {
		if (vault->account || vault->endpoint || vault->auth)
			return error_set(error, -EINVAL, "keep one of them",
				"[vault] has connection_string_file and account, endpoint or auth");
		r = check_secret(vault->connection_string_file, error);
		if (r == 0)
			r = config_read_secret(
				vault->connection_string_file, error, &vault->connection_string);
	} else if (vault->account || vault->endpoint) {
		r = check_auth(vault, error);
	} else if (vault->auth) {
		return error_set(error, -EINVAL, "see landfall.conf(5)",
			"[vault] names neither account nor endpoint");
	} else {
		return 0;
	}
	if (r == 0 && vault->connection_string) {
		struct azureblob_account account = { 0 };
		r = azureblob_account_parse(vault->connection_string, &account, error);
		if (r == 0)
			azureblob_account_free(&account);
		else
			error_prefix(error, "%s",
				override && *override ? "AZURE_STORAGE_CONNECTION_STRING"
						      : vault->connection_string_file);
	}
	vault->configured = r == 0;
	return r;
}

/* The line of a key; of the first key of its section if it stands nowhere; else 0. */
static unsigned line_of(const struct config_lines *lines, const char *section, const char *name)
{
	unsigned first = 0;
	for (unsigned i = 0; i < config_key_count; i++) {
		unsigned line = lines->keys[i];
		if (line == 0 || strcmp(config_keys[i].section, section) != 0)
			continue;
		if (strcmp(config_keys[i].name, name) == 0)
			return line;
		first = first == 0 ? line : MIN(first, line);
	}
	return first;
}

/* The line of the key itself; 0: it is not set. */
static unsigned own_line_of(const struct config_lines *lines, const char *section, const char *name)
{
	for (unsigned i = 0; i < config_key_count; i++)
		if (strcmp(config_keys[i].section, section) == 0 &&
			strcmp(config_keys[i].name, name) == 0)
			return lines->keys[i];
	return 0;
}

/* The default may be missing: then only root may operate. */
static int check_control(const struct config *config, const struct config_lines *lines,
	unsigned *line, struct error *error)
{
	const struct sockaddr_un *address = NULL;
	const char *path = config->appliance.control_socket,
		   *name = config->appliance.control_group;
	char buffer[4096];
	struct group group, *found = NULL;
	*line = own_line_of(lines, "appliance", "control_socket");
	if (strlen(path) >= sizeof(address->sun_path))
		return error_set(error, -ENAMETOOLONG, "set a shorter one",
			"[appliance] control_socket has %zu characters; a socket's path has at "
			"most %zu",
			strlen(path), sizeof(address->sun_path) - 1);
	*line = own_line_of(lines, "appliance", "control_group");
	int r = *line > 0 ? getgrnam_r(name, &group, buffer, sizeof(buffer), &found) : ERANGE;
	if (r == 0 && !found)
		return error_set(error, -ENOENT, "make it with groupadd, or name another",
			"[appliance] control_group: there is no group \"%s\"", name);
	return 0;
}

static int check_appliance(const struct config *config, const struct config_lines *lines,
	unsigned *line, struct error *error)
{
	const char *mount = config->appliance.mount;
	*line = line_of(lines, "appliance", "mount");
	if (mount[strspn(mount, "/")] == '\0')
		return error_set(error, -EINVAL, "give a directory of its own",
			"[appliance] mount: \"%s\" would hide everything", mount);
	if (strcmp(mount, config->appliance.state_dir) == 0)
		return error_set(error, -EINVAL, "set another mount",
			"[appliance] mount and state_dir are the same");
	return check_control(config, lines, line, error);
}

static int check_local(const struct config *config, const struct config_lines *lines,
	unsigned *line, struct error *error)
{
	struct local_settings settings;
	const char *key = "";
	int r = local_settings_read(&config->local, error, &key, &settings);
	*line = line_of(lines, "local", key);
	return r;
}

/* *line: of what is wrong, 0 if it stands on none. */
static int check_config(struct config *config, const struct config_lines *lines, unsigned *line,
	struct error *error)
{
	*line = line_of(lines, "journal", "size");
	if (config->journal.size_bytes < CONFIG_JOURNAL_LEAST_BYTES)
		return error_set(error, -EINVAL, "give it room for the longest outage to bridge",
			"[journal] size must be 256M at least");
	int r = check_appliance(config, lines, line, error);
	if (r == 0)
		r = check_local(config, lines, line, error);
	if (r < 0)
		return r;
	const char *about = is_container(config->vault.container) ? "" : "container";
	*line = line_of(lines, "vault", about);
	r = check_vault(&config->vault, error);
	for (unsigned i = 0; r == 0 && i < config->policy_count; i++) {
		*line = lines->policies[i];
		r = policy_check(&config->policies[i], error);
	}
	if (r < 0)
		return r;
	const char *section = "", *key = "";
	struct error found = { 0 };
	r = config_check_start(config, &found, &section, &key);
	*line = line_of(lines, section, key);
	if (r < 0 && error)
		*error = found;
	return r;
}

int config_load(const char *path, struct error *error, struct config **ret_config)
{
	struct config *config = calloc(1, sizeof(*config));
	char *copy = strdup(path);
	if (!config || !copy) {
		free(config);
		free(copy);
		return error_set(error, -ENOMEM, NULL, "no memory");
	}
	config->path = copy;
	config->appliance.log_level = LOG_LEVEL_INFO;
	config->journal.size_bytes = 64 * GIB;
	config->cache.size_bytes = 4 * GIB;
	config->vault.blob_bandwidth = BLOB_BYTES_PER_S;
	config->vault.blob_requests = BLOB_REQUESTS_PER_S;
	config->aws.blocks_per_second = EC2_BLOCKS_PER_SECOND;
	config->aws.lists_per_second = EC2_LISTS_PER_SECOND;
	config->aws.calls_per_second = EC2_CALLS_PER_SECOND;
	config->aws.block_price = BLOCK_PRICE;
	config->aws.list_price = LIST_PRICE;
	struct config_lines lines;
	unsigned line = 0;
	int r = config_read(config, &lines, error);
	if (r == 0 && fill_defaults(config) < 0)
		r = error_set(error, -ENOMEM, NULL, "no memory");
	if (r == 0) {
		r = check_config(config, &lines, &line, error);
		if (r < 0 && line > 0)
			error_prefix(error, "%s:%u", path, line);
		else if (r < 0)
			error_prefix(error, "%s", path);
	}
	if (r < 0) {
		config_free(config);
		return r;
	}
	*ret_config = config;
	return 0;
}

static bool is_same(
	const struct config *old, const struct config *new, const struct config_key *key)
{
	const void *a = (const char *)old + key->offset, *b = (const char *)new + key->offset;
	if (key->type == CONFIG_SIZE || key->type == CONFIG_RATE || key->type == CONFIG_COUNT ||
		key->type == CONFIG_PRICE)
		return *(const uint64_t *)a == *(const uint64_t *)b;
	if (key->type == CONFIG_AUTH)
		return *(const enum config_auth *)a == *(const enum config_auth *)b;
	if (key->type == CONFIG_LEVEL)
		return *(const enum log_level *)a == *(const enum log_level *)b;
	const char *x = *(char *const *)a, *y = *(char *const *)b;
	return x == y || (x && y && strcmp(x, y) == 0);
}

char *config_fixed_differences(const struct config *old, const struct config *new)
{
	CLEANUP(buf_free) struct buf text = { 0 };
	for (unsigned i = 0; i < config_key_count; i++) {
		const struct config_key *key = &config_keys[i];
		if (key->reloadable || is_same(old, new, key))
			continue;
		if (buf_printf(&text, "%s[%s] %s", text.len ? ", " : "", key->section, key->name) <
			0)
			return NULL;
	}
	return TAKE(text.data);
}
