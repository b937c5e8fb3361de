/*
 * What the agent is doing, for people: kept in memory, written to a file in /run for
 * `landfall-agent status`, and sent to the appliance.
 *
 * The file is on a tmpfs, since nothing else may be written while filesystems are frozen; nothing
 * at all is written while agent_status_hold is in force. Any thread.
 */
#pragma once

#include <stdbool.h>
#include <stdint.h>

#include "common/error.h"
#include "replicator/agent/source.h"

#define AGENT_STATUS_DEFAULT_PATH "/run/landfall-agent/status.json"

struct cJSON;
struct agent_status;

/* `path` NULL: no file. Its directory is made if it is not there. */
int agent_status_new(const char *path, struct error *error, struct agent_status **ret_status);
/* Removes the file. NULL is fine. */
void agent_status_free(struct agent_status *status);

/* "connecting", "comparing", "replicating", "freezing", …: static texts. */
void agent_status_set_state(struct agent_status *status, const char *state);
void agent_status_set_appliance(
	struct agent_status *status, const char *machine, const char *appliance);
/* code 0: nothing is wrong. */
void agent_status_set_error(struct agent_status *status, const struct error *error);
void agent_status_set_method(struct agent_status *status, const char *method, const char *reason);

/* What may be sent a second now; 0: no limit. */
void agent_status_set_limit(struct agent_status *status, uint64_t bytes_per_s);

struct agent_figures {
	uint64_t read_bytes, sent_bytes, zero_bytes, wire_bytes;
	uint64_t compared_chunks, differing_chunks, read_errors;
};
void agent_status_set_figures(struct agent_status *status, const struct agent_figures *figures);

/* A cut that made a point. */
void agent_status_set_point(struct agent_status *status, uint64_t point, int64_t time_ns,
	uint64_t stall_ns, uint64_t remainder_bytes);

/* Whether the newest cut could prove that no change to the disk was missed: NULL, or why not, a
 * static text. True if that is news. */
bool agent_status_set_proof(
	struct agent_status *status, const struct source_disk *disk, const char *why_not);

/* What is known of a disk; by its id. `left_s` < 0: unknown. */
struct agent_disk_figures {
	uint64_t bytes, dirty_bytes;
	uint64_t swap_bytes; /* left out */
	bool comparing;
	uint64_t compared_bytes;
	double compare_bytes_per_s, left_s;
};
void agent_status_set_disk(struct agent_status *status, const struct source_disk *disk,
	const struct agent_disk_figures *figures);

/* While held nothing is written. */
void agent_status_hold(struct agent_status *status, bool hold);
/* Writes the file if it is not held. */
void agent_status_write(struct agent_status *status);
/* As a document; the caller frees it. -ENOMEM. */
int agent_status_json(struct agent_status *status, struct cJSON **ret_json);
