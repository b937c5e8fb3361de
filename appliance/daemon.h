/*
 * The daemon's parts, put together in their order and taken apart in the reverse:
 *
 *	state directory and its lock · vault · jobs · agents' keys and certificates ·
 *	registry (groups, mount) · the source ebs · control socket · agents' port
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
/* To be called now and then: does again what could not be done at the start and may be later. */
void daemon_upkeep(struct daemon *daemon);
/* Ends everything: calls and jobs under way, then the groups, whose staged writes are committed.
 * NULL is fine. */
void daemon_free(struct daemon *daemon);
