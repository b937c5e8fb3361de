/*
 * Who this machine is to its appliance: what enrolment won, kept in the agent's state directory.
 *
 *	identity.json    0600, replaced whole: machine, appliance, authority's certificate, our
 *	                 certificate, our private key
 *
 * The private key is wiped from memory when an identity is freed. Functions take the directory's
 * path; any thread, but only one writer at a time.
 */
#pragma once

#include <stdint.h>

#include "common/clock.h"
#include "common/error.h"
#include "common/io.h"
#include "replicator/wire/connection.h"
#include "replicator/wire/key_text.h"
#include "replicator/wire/tls.h"

#define IDENTITY_DEFAULT_DIR "/var/lib/landfall-agent"

struct identity {
	char machine[TLS_NAME_BYTES];
	char key_id[KEY_ID_BYTES]; /* of the registration key it was won with */
	char *appliance;           /* HOST:PORT; owned, as the rest */
	char *authority_pem, *certificate_pem, *key_pem;
	int64_t not_before_ns, not_after_ns; /* of the certificate */
};

/* -ENOENT with words if the machine is not enrolled; -EBADMSG if what is there does not fit
 * together. */
int identity_load(
	struct io *io, const char *directory, struct error *error, struct identity **ret_identity);
/* Durable when it returns. Checks that certificate, key and authority fit together first. */
int identity_save(
	struct io *io, const char *directory, const struct identity *identity, struct error *error);
/* Wipes and frees. NULL is fine. */
void identity_free(struct identity *identity);

/* The TLS context of connections as this machine. */
int identity_tls(
	const struct identity *identity, struct error *error, struct tls_context **ret_context);
