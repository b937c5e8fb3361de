/*
 * The drills' life and their list.
 */
#include "replicator/drills.h"

#include <errno.h>
#include <inttypes.h>

#include "common/log.h"
#include "replicator/drills_internal.h"

struct drill *drill_find(struct drills *drills, uint64_t id)
{
	struct drill *d = drills->list;
	while (d && d->id != id)
		d = d->next;
	return d;
}

int drill_get(struct drills *drills, uint64_t id, struct error *error, struct drill *ret_drill)
{
	SCOPED_LOCK(&drills->lock);
	const struct drill *found = drill_find(drills, id);
	if (!found)
		return error_set(error, -ENOENT, "'landfall drill list' shows what there is",
			"there is no drill %" PRIu64, id);
	*ret_drill = *found;
	ret_drill->next = NULL;
	return 0;
}

int drill_directory(const struct drills *drills, uint64_t id, struct buf *ret_path)
{
	return buf_printf(ret_path, "%s/drills/%" PRIu64, drills->registry->state_dir, id);
}

struct target *drill_target(struct drills *drills, const char *name)
{
	for (unsigned i = 0; i < drills->target_count; i++)
		if (strcmp(drills->targets[i]->name, name) == 0)
			return drills->targets[i];
	return NULL;
}

/* Takes the oldest of those that ended and are too many out of the list. Under lock. */
static struct drill *take_surplus(struct drills *drills)
{
	struct drill **last = NULL;
	unsigned ended = 0;
	for (struct drill **at = &drills->list; *at; at = &(*at)->next)
		if ((*at)->state == DRILL_ENDED) {
			ended++;
			last = at;
		}
	if (ended <= DRILLS_KEPT)
		return NULL;
	struct drill *surplus = *last;
	*last = surplus->next;
	return surplus;
}

int drill_put(struct drills *drills, const struct drill *drill, struct error *error)
{
	CLEANUP_FREE struct drill *surplus = NULL;
	int r;
	{
		SCOPED_LOCK(&drills->lock);
		struct drill *there = drill_find(drills, drill->id);
		struct drill *next = there ? there->next : drills->list;
		if (!there) {
			there = calloc(1, sizeof(*there));
			if (!there)
				return error_set(error, -ENOMEM, NULL, "out of memory");
			drills->list = there;
		}
		*there = *drill;
		there->next = next;
		surplus = take_surplus(drills);
		r = drill_save(drills, error);
	}
	if (r == 0 && surplus) {
		CLEANUP(buf_free) struct buf directory = { 0 };
		if (drill_directory(drills, surplus->id, &directory) == 0)
			(void)registry_remove_directory(drills->registry, directory.data);
	}
	return r;
}

int drills_new(struct registry *registry, struct target *const *targets, unsigned count,
	struct error *error, struct drills **ret_drills)
{
	struct drills *drills = calloc(1, sizeof(*drills));
	if (!drills)
		return error_set(error, -ENOMEM, NULL, "out of memory");
	drills->registry = registry;
	drills->targets = targets;
	drills->target_count = count;
	pthread_mutex_init(&drills->lock, NULL);
	pthread_condattr_t monotonic;
	pthread_condattr_init(&monotonic);
	pthread_condattr_setclock(&monotonic, CLOCK_MONOTONIC);
	pthread_cond_init(&drills->wake, &monotonic);
	pthread_condattr_destroy(&monotonic);
	int r = drill_load(drills, error);
	if (r < 0) {
		drills_free(drills);
		return r;
	}
	SCOPED_LOCK(&registry->lock);
	registry->drills = drills;
	*ret_drills = drills;
	return 0;
}

void drills_begin_stop(struct drills *drills)
{
	if (drills)
		drill_schedule_stop(drills);
}

void drills_free(struct drills *drills)
{
	if (!drills)
		return;
	drill_schedule_stop(drills);
	pthread_mutex_lock(&drills->registry->lock);
	drills->registry->drills = NULL;
	pthread_mutex_unlock(&drills->registry->lock);
	for (struct drill *d = drills->list, *next; d; d = next) {
		struct target *target = drill_target(drills, d->target);
		struct error error = { 0 };
		next = d->next;
		if (d->state != DRILL_ENDED && target &&
			target->ops->stop(target, d->id, &error) < 0)
			log_warning("drill %" PRIu64 ": %s", d->id, error.message);
		free(d);
	}
	pthread_cond_destroy(&drills->wake);
	pthread_mutex_destroy(&drills->lock);
	free(drills);
}

int drills_register(struct drills *drills, struct control *control)
{
	int r = drill_register_jobs(drills);
	if (r == 0)
		r = methods_drill_register(drills, control);
	return r == 0 ? drill_schedule_start(drills) : r;
}

static int add_last(const struct drills *drills, const struct drill *d, struct cJSON *object)
{
	struct cJSON *last;
	int64_t now_ns = clock_realtime_ns(drills->registry->clock);
	int r = json_add_object(object, "last_drill", &last);
	if (r == 0)
		r = json_add_u64(last, "id", d->id);
	if (r == 0)
		r = json_add_u64(last, "point", d->point);
	if (r == 0)
		r = json_add_text(
			last, "verdict", d->verdict == DRILL_PASSED ? "passed" : "failed");
	if (r == 0)
		r = result_add_time(last, "at", d->judged_ns);
	if (r == 0)
		r = json_add_double(
			last, "age_s", (double)MAX(now_ns - d->judged_ns, 0) / (double)NS_PER_S);
	return r == 0 ? json_add_text(last, "target", d->target) : r;
}

int drills_add_last(struct drills *drills, const char *machine, struct cJSON *object)
{
	SCOPED_LOCK(&drills->lock);
	const struct drill *d = drills->list;
	while (d && (d->verdict == DRILL_NO_VERDICT || strcmp(d->machine, machine) != 0))
		d = d->next;
	return d ? add_last(drills, d, object) : json_add_null(object, "last_drill");
}
