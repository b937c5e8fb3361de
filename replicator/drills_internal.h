/*
 * The inside of drills.h, shared by the files that make it up.
 *
 * `lock` guards the list and what is in its records; it is a leaf, and held while the file is
 * replaced, so that the file's order is the list's. A record is changed only by the one job that
 * works on its drill.
 */
#pragma once

#include <pthread.h>

#include "replicator/drills.h"
#include "replicator/registry_internal.h"
#include "replicator/target.h"

enum drill_state { DRILL_STARTING, DRILL_RUNNING, DRILL_ENDED };
enum drill_verdict { DRILL_NO_VERDICT, DRILL_PASSED, DRILL_FAILED };

struct drill {
	struct drill *next; /* newest first */
	uint64_t id;
	char machine[REGISTRY_NAME_BYTES];
	char target[16];
	uint64_t point;
	int64_t point_ns;            /* the point's time */
	int64_t began_ns, judged_ns; /* 0: not yet */
	enum drill_state state;
	enum drill_verdict verdict;
	struct target_proof proof;
	char clone[24]; /* "": none; of this life of the daemon only */
};

struct drills {
	struct registry *registry;
	struct target *const *targets;
	unsigned target_count;

	pthread_mutex_t lock;
	struct drill *list;
	pthread_cond_t wake;
	bool stopping;
	pthread_t schedule;
	bool schedule_runs;
};

/* ── drills.c ────────────────────────────────────────────────────────────────────────────── */

/* Under lock; NULL: there is none. */
struct drill *drill_find(struct drills *drills, uint64_t id);
/* A copy. -ENOENT with words. */
int drill_get(struct drills *drills, uint64_t id, struct error *error, struct drill *ret_drill);
/* Puts a record into the list, in place of the one with its id; durable when it returns. */
int drill_put(struct drills *drills, const struct drill *drill, struct error *error);
/* NULL: no target has that name. */
struct target *drill_target(struct drills *drills, const char *name);
/* Where its evidence is. */
int drill_directory(const struct drills *drills, uint64_t id, struct buf *ret_path);

/* ── drill_record.c ──────────────────────────────────────────────────────────────────────── */

#define DRILLS_KEPT 64u /* ended ones; older ones go, and their evidence with them */

/* An absent file is an empty list. */
int drill_load(struct drills *drills, struct error *error);
/* Under lock. */
int drill_save(struct drills *drills, struct error *error);
int drill_to_json(const struct drills *drills, const struct drill *drill, struct cJSON **ret_json);

/* ── drill_machine.c ─────────────────────────────────────────────────────────────────────── */

/* Makes what is missing of clone and machine; 0 if it runs already. */
int drill_bring_up(struct drills *drills, struct drill *drill, struct error *error);
/* Waits for the verdict and writes it into the record. */
int drill_prove(struct drills *drills, struct drill *drill, const struct target_watch *watch,
	struct error *error);
/* Ends machine and clone; what is gone already is fine. */
int drill_take_down(struct drills *drills, struct drill *drill, struct error *error);

/* ── drill_schedule.c ────────────────────────────────────────────────────────────────────── */

int drill_schedule_start(struct drills *drills);
void drill_schedule_stop(struct drills *drills);

/* ── drill_job.c, methods_drill.c ────────────────────────────────────────────────────────── */

int drill_register_jobs(struct drills *drills);
/* `cleanup`: the machine is stopped after the verdict. */
int drill_start_job(struct drills *drills, const char *machine, const char *point,
	const char *target, bool cleanup, struct error *error, uint64_t *ret_job);
int drill_cleanup_job(struct drills *drills, uint64_t id, struct error *error, uint64_t *ret_job);
int methods_drill_register(struct drills *drills, struct control *control);
