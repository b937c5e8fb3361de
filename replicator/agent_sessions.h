/*
 * The seam between those who let agents in (agents.h) and those who take in what they send.
 *
 * When a machine that has shown a good certificate has said `hello` or `join`, its connection is
 * handed over: serve is called in a thread that belongs to this connection alone, and is its
 * receiving thread until serve returns. Several connections are served at once; which of them
 * belong to one session is serve's business (PROTOCOL.md).
 *
 * Whoever let it in keeps a hand on it: when the certificate is revoked, the machine removed or the
 * daemon stopped, connection_stop is called, and serve has to come back soon; the connection is
 * freed after it has. Other threads of serve's that use the connection are ended by then.
 */
#pragma once

#include "common/json.h"
#include "replicator/wire/connection.h"

struct agent_sessions;

struct agent_sessions_ops {
	/* `type` is "hello" or "join", `message` that message, borrowed. The machine is
	 * connection_peer(connection)->machine; a `machine` in the message that differs has been
	 * refused already. Everything said from now on, errors included, is serve's to say. */
	void (*serve)(struct agent_sessions *sessions, struct connection *connection,
		const char *type, const struct json *message);
};

/* Implementations embed it as their first member. */
struct agent_sessions {
	const struct agent_sessions_ops *ops;
};
