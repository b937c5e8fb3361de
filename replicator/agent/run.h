/*
 * The agent at work: disks tracked from the first moment, sessions one after another.
 *
 * Tracking does not depend on the appliance: while it is away changes are marked, in memory that
 * is bounded, and the machine is never slowed. A session that fails is followed by another, after a
 * wait that grows to half a minute.
 */
#pragma once

#include <stdbool.h>
#include <stdint.h>

#include "common/error.h"
#include "common/io.h"
#include "replicator/agent/source.h"

struct agent_disk {
	const char *id, *path;
};

struct agent_options {
	struct io *io; /* all borrowed */
	const char *state_dir;
	const char *pin_dir;     /* NULL: marks end with the process */
	const char *status_path; /* NULL: none */
	const struct agent_disk *disks;
	unsigned disk_count;             /* 0: every disk of the machine, also those to come */
	const char *const *exclude;      /* NULL ends; may be NULL; see source_add_all */
	const char *const *freeze_paths; /* NULL ends; may be NULL */
	const char *pre_freeze, *post_thaw;
	unsigned freeze_timeout_ms, script_timeout_ms;
	unsigned connections;
	uint64_t read_bytes_per_s, send_bytes_per_s;
	unsigned cpu_percent; /* of one processor; 0: no limit */
	bool zstd;
	bool replicate_swap;
	enum tracker_method method;
	int stop_fd; /* readable: stop, or begin anew */
	/* Takes from stop_fd why it is readable. True: a session shall begin anew, with everything
	 * read again that sessions read; false: stop. NULL: always stop. */
	bool (*begins_anew)(void *context);
	void *begins_anew_context;
	void (*ready)(void *context); /* once the disks are tracked; may be NULL */
	void *ready_context;
};

#define AGENT_FREEZE_TIMEOUT_MS 10000u
#define AGENT_SCRIPT_TIMEOUT_MS 60000u
#define AGENT_CONNECTIONS 2u
#define AGENT_PIN_DIR "/sys/fs/bpf/landfall-agent"

/* Works until stop_fd is readable and it is no wish to begin anew (0), or something that trying
 * again cannot mend: -ENOENT not enrolled; -EKEYREVOKED, -EKEYEXPIRED; a disk that is not there. */
int agent_run(const struct agent_options *options, struct error *error);
