/*
 * One session with the appliance: from `hello` until something ends it.
 *
 * The thread that runs it conducts: it says what disks there are, compares those that the appliance
 * does not know to be whole, and makes cuts when it is asked to. A thread for each connection
 * receives. Nothing that was not acknowledged is forgotten: when the session ends, its marks are
 * put back, and the next one sends them.
 */
#pragma once

#include <stdbool.h>
#include <stdint.h>

#include "common/error.h"
#include "common/io.h"
#include "replicator/agent/freeze.h"
#include "replicator/agent/gentle.h"
#include "replicator/agent/identity.h"
#include "replicator/agent/source.h"
#include "replicator/agent/status.h"

struct session;

struct session_options {
	const struct identity *identity; /* all borrowed */
	struct io *io;
	const char *state_dir;
	struct source *source;
	struct freezer *freezer;
	struct agent_status *status;
	const struct gentle *gentle;
	const char *host;
	const char *boot; /* tracker_boot_id; "": unknown */
	const char *const
		*freeze_paths; /* mount points to freeze beside those of the disks; NULL ends */
	const char *pre_freeze,
		*post_thaw; /* commands of application-consistent points; NULL: none */
	unsigned freeze_timeout_ms, script_timeout_ms;
	unsigned connections;                        /* wished for */
	uint64_t read_bytes_per_s, send_bytes_per_s; /* 0: no limit */
	unsigned cpu_percent;                        /* of one processor; 0: no limit */
	bool zstd;
	int stop_fd; /* readable: stop */
	/* Called about once a second, between messages; takes its time only if there is something
	 * to do. May be NULL. */
	void (*upkeep)(void *context);
	void *upkeep_context;
};

/* Connects and works until the session ends. 0: it was to stop (stop_fd); -EKEYEXPIRED,
 * -EKEYREVOKED; else any failure, after which another session may be tried. `ret_worked`: it had
 * got as far as having its disks accepted. */
int session_run(const struct session_options *options, struct error *error, bool *ret_worked);
