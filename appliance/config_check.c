/*
 * What would keep the daemon from starting, found beforehand.
 *
 * The mount itself is never looked at: whoever serves it may hang.
 */
#include "appliance/config_check.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "appliance/blob_azure.h"
#include "common/bytes.h"
#include "common/cleanup.h"
#include "common/clock.h"

static int no_directory(const char *section, const char *key, const char *path, struct error *error)
{
	return error_set(error, -ENOTDIR, "name a directory", "[%s] %s: %s is no directory",
		section, key, path);
}

/* It is a directory, or can be made: what there is of its path is one. What cannot be looked at is
 * left to the start. */
static int check_directory(
	const char *section, const char *key, const char *path, struct error *error)
{
	CLEANUP_FREE char *part = strdup(path);
	struct stat found;
	if (!part)
		return error_set(error, -ENOMEM, NULL, "no memory");
	for (;;) {
		if (stat(part, &found) == 0)
			return S_ISDIR(found.st_mode) ? 0 : no_directory(section, key, part, error);
		char *slash = strrchr(part, '/');
		if ((errno != ENOENT && errno != ENOTDIR) || !slash || slash == part)
			return 0;
		*slash = '\0';
	}
}

static int check_parent(const char *section, const char *key, const char *path, struct error *error)
{
	CLEANUP_FREE char *parent = strdup(path);
	if (!parent)
		return error_set(error, -ENOMEM, NULL, "no memory");
	char *slash = strrchr(parent, '/');
	if (!slash || slash == parent)
		return 0;
	*slash = '\0';
	return check_directory(section, key, parent, error);
}

static int check_cache(const struct config *config, struct error *error)
{
	struct stat found;
	const char *path = config->cache.file;
	if (config->cache.size_bytes == 0)
		return 0;
	if (stat(path, &found) == 0 && !S_ISREG(found.st_mode))
		return error_set(error, -EINVAL, "name a file of its own",
			"[cache] file: %s is no regular file", path);
	return check_parent("cache", "file", path, error);
}

static int check_ca_file(const struct config_vault *vault, struct error *error)
{
	if (!vault->ca_file)
		return 0;
	CLEANUP_CLOSE int fd = open(vault->ca_file, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
	struct stat found;
	int r = fd < 0 ? -errno : fstat(fd, &found) < 0 ? -errno : 0;
	if (r == 0 && !S_ISREG(found.st_mode))
		r = -EINVAL;
	return r < 0 ? error_set(error, r, "name a file with certificates in PEM",
			       "[vault] ca_file: %s: %s", vault->ca_file, strerrordesc_np(-r))
		     : 0;
}

static int check_vault(const struct config_vault *vault, struct error *error, const char **ret_key)
{
	struct blob_service *service;
	if (!vault->configured)
		return 0;
	*ret_key = "ca_file";
	int r = check_ca_file(vault, error);
	if (r < 0)
		return r;
	r = blob_azure_new(vault, clock_system(), error, &service);
	if (r == 0) {
		blob_azure_free(service);
		return 0;
	}
	*ret_key = vault->connection_string_file ? "connection_string_file"
		   : vault->key_file && !strstr(error->message, "account's name") ? "key_file"
										  : "account";
	return r;
}

int config_check_start(const struct config *config, struct error *error, const char **ret_section,
	const char **ret_key)
{
	const struct {
		const char *section, *key, *path;
		bool parent;
	} places[] = {
		{ "appliance", "state_dir", config->appliance.state_dir, false },
		{ "appliance", "mount", config->appliance.mount, true },
		{ "appliance", "control_socket", config->appliance.control_socket, true },
		{ "journal", "dir", config->journal.dir, false },
	};
	for (unsigned i = 0; i < ARRAY_SIZE(places); i++) {
		int r = (places[i].parent ? check_parent : check_directory)(
			places[i].section, places[i].key, places[i].path, error);
		if (r < 0) {
			*ret_section = places[i].section;
			*ret_key = places[i].key;
			return r;
		}
	}
	*ret_section = "cache";
	*ret_key = "file";
	int r = check_cache(config, error);
	if (r < 0)
		return r;
	*ret_section = "vault";
	return check_vault(&config->vault, error, ret_key);
}
