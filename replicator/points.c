/*
 * POINT arguments, points as JSON, and how many there are.
 */
#include <ctype.h>
#include <errno.h>
#include <inttypes.h>

#include "replicator/registry_internal.h"

#define NO_POINTS_MEND "make one with 'landfall point create MACHINE'"

static int none(struct error *error, const char *mend, const char *what)
{
	return error_set(error, -ENOENT, mend, "%s", what);
}

static int by_number(
	struct history *history, uint64_t number, struct error *error, struct point *ret_point)
{
	int r = history_point(history, number, ret_point);
	if (r < 0)
		return error_set(error, -ENOENT,
			"'landfall point list MACHINE' shows what there is; retention or a full "
			"journal "
			"may have taken it",
			"there is no recovery point %" PRIu64, number);
	return 0;
}

static int by_name(struct history *history, uint64_t number, int64_t time_ns, const char *text,
	struct error *error, struct point *ret_point)
{
	struct point point;
	int r = by_number(history, number, error, &point);
	if (r < 0)
		return r;
	if (point.time_ns / NS_PER_S != time_ns / NS_PER_S) {
		char name[POINT_NAME_BYTES];
		point_format_name(&point, name);
		return error_set(error, -ENOENT, "use the number alone if that is the one",
			"there is no recovery point %s; number %" PRIu64 " is %s", text, number,
			name);
	}
	*ret_point = point;
	return 0;
}

static int by_time(
	struct history *history, int64_t time_ns, struct error *error, struct point *ret_point)
{
	if (history_point_latest(history, time_ns, ret_point) == 0)
		return 0;
	char text[UTC_ISO_BYTES];
	utc_format_iso(time_ns, text);
	return error_set(error, -ENOENT, "'landfall point list MACHINE' shows the oldest there is",
		"no recovery point is as old as %s", text);
}

int point_select(
	struct history *history, const char *text, struct error *error, struct point *ret_point)
{
	uint64_t number;
	int64_t time_ns;
	if (!text || strcmp(text, "latest") == 0)
		return history_point_latest(history, INT64_MAX, ret_point) == 0
			       ? 0
			       : none(error, NO_POINTS_MEND, "there is no recovery point yet");
	if (strcmp(text, "latest-processed") == 0)
		return history_point_newest(history, POINT_VAULT, INT64_MAX, ret_point) == 0
			       ? 0
			       : none(error,
					 "make one with 'landfall point create MACHINE --wait "
					 "vault'",
					 "no recovery point is in the vault yet");
	if (strcmp(text, "latest-app") == 0) {
		/* The kind is no flag; there are few enough to look at each, newest last. */
		struct point batch[256];
		uint64_t from = 0;
		bool found = false;
		unsigned n;
		while ((n = history_points(history, from, batch, ARRAY_SIZE(batch))) > 0) {
			for (unsigned i = 0; i < n; i++) {
				if (batch[i].kind != POINT_APPLICATION ||
					(batch[i].flags & POINT_DRAINED))
					continue;
				*ret_point = batch[i];
				found = true;
			}
			from = batch[n - 1].number + 1;
		}
		return found ? 0
			     : none(error, "make one with 'landfall point create MACHINE --app'",
				       "there is no application-consistent recovery point");
	}
	if (point_parse_name(text, &number, &time_ns) == 0)
		return by_name(history, number, time_ns, text, error, ret_point);
	size_t digits = strspn(text, "0123456789");
	if (digits > 0 && text[digits] == '\0' && digits < 20)
		return by_number(history, strtoull(text, NULL, 10), error, ret_point);
	if (utc_parse(text, &time_ns) == 0)
		return by_time(history, time_ns, error, ret_point);
	return error_set(error, -EINVAL,
		"give a number, a name, a UTC time, latest, latest-processed or latest-app",
		"'%.80s' names no recovery point", text);
}

int point_parameter(
	const struct cJSON *parameters, char text[static 24], struct error *error, const char **ret)
{
	const struct cJSON *item = cJSON_GetObjectItemCaseSensitive(parameters, "point");
	*ret = NULL;
	if (!item || cJSON_IsNull(item))
		return 0;
	if (cJSON_IsString(item)) {
		*ret = item->valuestring;
		return 0;
	}
	if (cJSON_IsNumber(item) && item->valuedouble >= 0 && item->valuedouble < 9e15 &&
		item->valuedouble == (double)(uint64_t)item->valuedouble) {
		snprintf(text, 24, "%" PRIu64, (uint64_t)item->valuedouble);
		*ret = text;
		return 0;
	}
	return error_set(error, -EINVAL,
		"give a number, a name, a UTC time, latest, latest-processed or latest-app",
		"point must be a number or a text");
}

static int add_place(struct cJSON *object, const struct registry *registry, const char *machine,
	const struct point *point)
{
	char name[POINT_NAME_BYTES];
	CLEANUP(buf_free) struct buf path = { 0 };
	point_format_name(point, name);
	int r = json_add_text(object, "name", name);
	if (r == 0)
		r = buf_printf(&path, "%s/%s/points/%s", registry->mount_path, machine, name);
	if (r == 0)
		r = json_add_text(object, "path", path.data);
	return r;
}

static int add_flags(struct cJSON *object, const struct point *point)
{
	static const struct {
		const char *name;
		uint32_t flag;
	} flags[] = { { "local", POINT_LOCAL }, { "vault", POINT_VAULT }, { "keep", POINT_KEEP },
		{ "pressure", POINT_PRESSURE }, { "damaged", POINT_DAMAGED },
		{ "drained", POINT_DRAINED } };
	int r = 0;
	for (unsigned i = 0; r == 0 && i < ARRAY_SIZE(flags); i++)
		r = json_add_bool(object, flags[i].name, point->flags & flags[i].flag);
	if (r < 0)
		return r;
	if (point->flags & POINT_FAILED)
		return json_add_text(object, "verdict", "failed");
	if (point->flags & POINT_VERIFIED)
		return json_add_text(object, "verdict", "verified");
	return json_add_null(object, "verdict");
}

int point_to_json(const struct registry *registry, const char *machine, const struct point *point,
	struct cJSON **ret_json)
{
	CLEANUP(json_freep) struct cJSON *object = NULL;
	int r = json_new_object(&object);
	if (r == 0)
		r = json_add_u64(object, "number", point->number);
	if (r == 0)
		r = add_place(object, registry, machine, point);
	if (r == 0)
		r = result_add_time(object, "time", point->time_ns);
	if (r == 0)
		r = json_add_text(
			object, "kind", point->kind == POINT_APPLICATION ? "application" : "crash");
	if (r == 0)
		r = add_flags(object, point);
	if (r == 0)
		r = json_add_u64(object, "changed_bytes", point->changed_bytes);
	if (r == 0)
		*ret_json = TAKE(object);
	return r;
}

uint64_t point_count(struct history *history, uint64_t from)
{
	struct point points[256];
	uint64_t count = 0;
	unsigned n;
	while (history && (n = history_points(history, from, points, ARRAY_SIZE(points))) > 0) {
		count += n;
		from = points[n - 1].number + 1;
	}
	return count;
}
