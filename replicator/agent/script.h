/*
 * Commands of the user's around a freeze (--pre-freeze, --post-thaw).
 */
#pragma once

#include "common/error.h"

struct script {
	const char *what;    /* the option that names it, for errors */
	const char *command; /* for /bin/sh */
	unsigned timeout_ms;
	const char *variable; /* NAME=VALUE, in its environment beside ours; may be NULL */
	/* Called many times a second while it runs; waits a little itself, at most 50 ms. < 0: the
	 * command is to end at once. */
	int (*tick)(void *context);
	void *context;
};

/* Runs it in a process group of its own, with default signals; what it says goes to our stderr. 0
 * if it ended with 0. -ETIMEDOUT: it, and what it started, was killed; -EIO: it failed or could not
 * be run; what `tick` returned. The error names command and reason. Any thread. */
int script_run(const struct script *script, struct error *error);
