/*
 * The inside of the agents' door, shared by the files that make it up and nobody else:
 *
 *	agents.c           life, revoking
 *	agent_enrolment.c  enroll and renew
 *	methods_key.c      the socket's methods
 *
 * lock: one enrolment, renewal or revocation at a time, held across the writing of the keys' and
 * the certificates' files. So no certificate is issued by a key or for a machine while these are
 * being revoked.
 */
#pragma once

#include <pthread.h>

#include "common/cleanup.h"
#include "common/json.h"
#include "replicator/agent_keys.h"
#include "replicator/agent_listener.h"
#include "replicator/agents.h"
#include "replicator/pki.h"

struct agents {
	struct clock_source *clock;
	struct error
		closed; /* why the next three are not there; code 0: they are. Does not change */
	struct pki *pki;
	struct agent_keys *keys;
	struct tls_context *tls;

	pthread_mutex_t lock;
	pthread_mutex_t listener_lock; /* of the pointer; held while its guests are checked */
	struct agent_listener *listener;
	struct error problem; /* under listener_lock: why there is none */
	agents_may_enroll *may_enroll;
	void *may_enroll_context;
};

/* -EUCLEAN with words if what the appliance knows of agents is damaged: then there are no keys and
 * no authority. */
int agents_check(const struct agents *agents, struct error *error);
/* Ends the connections of whoever has lost its certificate; with `wait`, returns when they have
 * come back. */
void agents_recheck(struct agents *agents, bool wait);

/* The listener's handlers; `context` is the agents. */
int agents_enroll(void *context, struct connection *connection, const struct json *message,
	struct error *error);
int agents_renew(void *context, struct connection *connection, const struct json *message,
	struct error *error);
