/*
 * Winning a certificate with a registration key, and renewing it ahead of its end.
 *
 * The key pair is made here and its private half never leaves the machine. It is stored
 * (enrolling.json, 0600) before the appliance is asked, so that an answer that got lost is asked
 * for again with the same public key, which the appliance grants within the registration key's
 * life.
 */
#pragma once

#include <stdbool.h>
#include <stdint.h>

#include "common/clock.h"
#include "common/error.h"
#include "common/io.h"
#include "replicator/agent/identity.h"

struct enroll_request {
	struct io *io;
	const char *directory; /* made if it is not there */
	const char *appliance; /* HOST:PORT */
	const char *key;       /* the registration key's text: a secret */
	const char *machine;
};

/* 0 when the identity is stored, or was won with this very key before and holds. -EINVAL: the key's
 * text is none; -EACCES: the appliance is not the key's, or refuses (its words in `error`); network
 * errors as connection.h. What was stored before stays until then. */
int enroll_machine(const struct enroll_request *request, struct error *error);

/* A third of its life, or less, is left. */
bool enroll_renewal_is_due(const struct identity *identity, int64_t now_ns);
/* Asks for a certificate for the same key on a connection of its own and stores it; the caller
 * loads the identity again for its next connections. The old one holds until its end, so a failure
 * is tried again later. `stop_fd` as connection_connect. */
int enroll_renew(struct io *io, const char *directory, int stop_fd, struct error *error);
