/*
 * What an error means to a person: the one table from -errno to exit code; and the check of
 * parameters' names that every method makes. Pure.
 */
#include <cjson/cJSON.h>
#include <errno.h>
#include <string.h>

#include "common/bytes.h"
#include "replicator/control.h"

static const struct {
	int code;
	enum exit_code exit;
} exits[] = {
	{ EINVAL, EXIT_USAGE },
	{ ERANGE, EXIT_USAGE },
	{ EDOM, EXIT_USAGE },
	{ E2BIG, EXIT_USAGE },
	{ ENAMETOOLONG, EXIT_USAGE },
	{ EOPNOTSUPP, EXIT_USAGE },
	{ ENOENT, EXIT_NOT_FOUND },
	{ ENODEV, EXIT_NOT_FOUND },
	{ ENXIO, EXIT_NOT_FOUND },
	{ ESRCH, EXIT_NOT_FOUND },
	{ EPERM, EXIT_NOT_PERMITTED },
	{ EACCES, EXIT_NOT_PERMITTED },
	{ EBUSY, EXIT_CONFLICT },
	{ EEXIST, EXIT_CONFLICT },
	{ ENOTEMPTY, EXIT_CONFLICT },
	{ ESTALE, EXIT_CONFLICT },
	{ EALREADY, EXIT_CONFLICT },
	{ EINPROGRESS, EXIT_CONFLICT },
	{ EADDRINUSE, EXIT_CONFLICT },
	{ EROFS, EXIT_CONFLICT },
};

enum exit_code exit_code_of(int code)
{
	if (code >= 0)
		return EXIT_DONE;
	for (size_t i = 0; i < ARRAY_SIZE(exits); i++) {
		if (exits[i].code == -code)
			return exits[i].exit;
	}
	return EXIT_FAILED;
}

static int is_among(const char *name, const char *const *names)
{
	for (; *names; names++) {
		if (strcmp(name, *names) == 0)
			return 1;
	}
	return 0;
}

int control_only(const cJSON *parameters, const char *const *names, struct error *error)
{
	const cJSON *item;
	cJSON_ArrayForEach(item, parameters)
	{
		if (!is_among(item->string, names))
			return error_set(error, -EINVAL, "see the method's parameters in SOCKET.md",
				"there is no parameter \"%.64s\" here", item->string);
	}
	return 0;
}
