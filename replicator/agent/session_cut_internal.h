/*
 * The inside of a cut: session_cut.c (what changed is sent until little is left; what the appliance
 * is told), session_freeze.c (all stands still, the rest is read), session_apps.c (the commands
 * that bring applications to rest and wake them). The conductor's thread.
 */
#pragma once

#include "replicator/agent/session_internal.h"

struct cut {
	struct session *session;
	bool application, alone;
	bool frozen;           /* nothing is to be done but what has to be */
	int64_t copy_until_ns; /* while frozen: nobody stands still for longer than that */
	uint64_t taken_bytes;  /* and not put yet, behind the range that is being put */
	unsigned frozen_tasks; /* put since then: the first few find room in buffers */
	bool at_rest;          /* the applications are, and are to be woken */
	int64_t time_ns;
	uint64_t remainder_bytes;
	struct freezer_report report;
	bool again;               /* too much was marked again for this freeze */
	uint64_t recalled_bytes;  /* marked again, since ends of writes were missed */
	struct source_disk *lost; /* whose changes were missed */
	struct tracker_trust trust;
	/* What the loss detector said last of the disks, by their index: NONE if all is well. */
	enum tracker_reason unproven[SOURCE_DISKS_MAX];
	struct error app_error; /* why it is not application-consistent, though it was to be */
	struct error error;
};

/* ── session_cut.c ───────────────────────────────────────────────────────────────────────── */

/* What is marked of all disks that take part. */
uint64_t cut_dirty_bytes(struct session *session);
/* A disk of them has no capture: all of it counts as marked. */
bool cut_scans(struct session *session);
/* Takes the marks of all disks and puts what they cover to be sent. While frozen for as long as
 * copy_until_ns allows: -ETIMEDOUT. */
int cut_take_all(struct cut *cut, uint64_t *ret_bytes);
/* That, and waits until it is sent; notes how fast that went. */
int cut_copy_once(struct cut *cut, uint64_t *ret_bytes, int64_t *ret_took_ns);
/* Asks the loss detector of each disk; `lost`, `recalled_bytes` and `unproven` tell what it says.
 */
void cut_look_for_losses(struct cut *cut);
/* What goes on while a cut takes its time. -ECANCELED: it is called off; -errno. */
int cut_breathe(struct cut *cut, int64_t wait_ns);

/* ── session_freeze.c ────────────────────────────────────────────────────────────────────── */

/* Has the filesystems write what they hold, so that freezing finds little to write. */
int cut_sync(struct cut *cut);
/* While frozen, when buffers are full: whether the rest, what is marked and `bytes`, can be copied
 * in time. 0 or -EFBIG with words. */
int cut_check_remainder(struct cut *cut, uint64_t bytes);
/* Freezes all, copies the rest, thaws. 0; why there is no point. */
int cut_freeze_and_copy(struct cut *cut);

/* ── session_apps.c ──────────────────────────────────────────────────────────────────────── */

/* Of an application-consistent cut. 0, whether or not it could be done; else the cut is over. */
int cut_quiesce(struct cut *cut);
/* If they may be at rest. */
void cut_unquiesce(struct cut *cut);
