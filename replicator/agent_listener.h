/*
 * The port for agents: accepts connections, shakes hands, listens to the first word, and hands each
 * connection to whoever that word is for. Strangers cost little: few at once altogether and from
 * one address, each with a deadline for the handshake and one for its first word.
 *
 * Each connection has a thread, from its acceptance until it is freed. Functions may be called
 * from any thread.
 */
#pragma once

#include <stdbool.h>
#include <stdint.h>

#include "common/error.h"
#include "common/json.h"
#include "replicator/agent_sessions.h"
#include "replicator/wire/connection.h"
#include "replicator/wire/tls.h"

#define AGENT_LISTENER_PENDING 64u        /* strangers at once; then the oldest goes */
#define AGENT_LISTENER_PENDING_ADDRESS 8u /* from one address (IPv6: one /64) */
#define AGENT_LISTENER_MACHINE 32u        /* of one machine that has shown its certificate */
#define AGENT_LISTENER_CONNECTIONS 1024u  /* altogether */
#define AGENT_LISTENER_HANDSHAKE_MS 10000
#define AGENT_LISTENER_FIRST_WORD_MS 10000

struct agent_listener;

struct agent_listener_options {
	const char *address; /* HOST:PORT, borrowed during the call */
	struct tls_context *tls;
	tls_check *check; /* as the handshake's; asked again before a connection is handed over */
	void *check_context;
	/* `enroll` of a stranger, `renew` of a machine: answers on the connection. A refusal fails,
	 * with words for the log. */
	int (*enroll)(void *context, struct connection *connection, const struct json *message,
		struct error *error);
	int (*renew)(void *context, struct connection *connection, const struct json *message,
		struct error *error);
	void *context;
	struct agent_sessions *sessions; /* NULL: hello and join are refused */
};

/* The port is open when it returns. -EINVAL: no address; -EADDRINUSE, … */
int agent_listener_new(const struct agent_listener_options *options, struct error *error,
	struct agent_listener **ret_listener);
/* Closes the port, ends every connection, waits until all have come back. NULL is fine. */
void agent_listener_free(struct agent_listener *listener);

uint16_t agent_listener_port(const struct agent_listener *listener);
/* Ends every connection whose certificate `check` no longer lets pass; with `wait`, returns when
 * they have come back. */
void agent_listener_recheck(struct agent_listener *listener, bool wait);
