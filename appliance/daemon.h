/*
 * The daemon's parts, put together in their order and taken apart in the reverse:
 *
 *	state directory and its lock · vault · jobs · registry (groups, mount) · control socket
 */
#pragma once

#include "appliance/config.h"
#include "common/error.h"

struct daemon;

/* Starts everything; `config` is taken over if it succeeds. Returns when calls are answered. */
int daemon_new(struct config *config, struct error *error, struct daemon **ret_daemon);
/* Reads the configuration file again: policies, the journal's size and the log level change at
 * once; for the rest it logs that a restart is needed. A broken file changes nothing. */
int daemon_reload(struct daemon *daemon, struct error *error);
/* Ends everything: calls and jobs under way, then the groups, whose staged writes are committed.
 * NULL is fine. */
void daemon_free(struct daemon *daemon);
