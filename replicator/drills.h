/*
 * Drills: a recovery point started as a machine of its own, apart from everything, to see whether
 * it comes up.
 *
 *	drill.start:   a clone of the point ─► started by the target ─► proof or its lack, kept
 *	drill.cleanup: stopped ─► the clone removed; the evidence stays
 *
 * A drill's id is that of the job that started it. The machine runs until the cleanup, so that it
 * can be looked at; a job that is canceled or fails cleans up by itself. Nothing is ever written to
 * the point. A machine that ran when the daemon ended is gone with it, its evidence is not.
 *
 *	drills.c         life, the list
 *	drill_record.c   state/drills.json
 *	drill_machine.c  a drill's clone and its machine at the target
 *	drill_job.c      the two jobs
 *	drill_schedule.c drills by policy
 *	methods_drill.c  the socket's methods
 *
 * Lives as long as the registry it serves: made after it, freed before it. Any thread.
 */
#pragma once

#include "common/error.h"

struct cJSON;
struct control;
struct drills;
struct registry;
struct target;

/* `targets` are borrowed. Reads what drills there were. Drills by policy begin with
 * drills_register. */
int drills_new(struct registry *registry, struct target *const *targets, unsigned count,
	struct error *error, struct drills **ret_drills);
/* Starts none by policy any more. NULL is fine. */
void drills_begin_stop(struct drills *drills);
/* Stops all machines: no job may run any more. NULL is fine. */
void drills_free(struct drills *drills);

/* Registers drill.start, list, show and cleanup, and the kinds of jobs. */
int drills_register(struct drills *drills, struct control *control);

/* Adds "last_drill" to a machine's status: {id, point, verdict, at, age_s, target}; null if there
 * was none that came to a verdict. */
int drills_add_last(struct drills *drills, const char *machine, struct cJSON *object);
