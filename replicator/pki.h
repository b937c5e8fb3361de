/*
 * The appliance's certificate authority: it says which machine an agent is.
 *
 *	<state>/pki/authority.pem   0600, key and certificate of the authority; made once
 *	<state>/pki/server.pem      0600, key and certificate of the port for agents; made anew when
 *	                            a third of its life is left, or when it is damaged
 *	<state>/pki/issued.json     0600, sealed (sealed_json.h): every certificate that was
 *	                            issued to an agent and has not expired long ago, and
 *	                            whether it was revoked
 *
 * Each has a copy (twin_file.h), which takes its place should it be damaged.
 *
 * All P-256. What is not on the list is not accepted, so a certificate that a lost race or a
 * restored backup brought into the world proves nothing; and nobody gets a certificate before the
 * list that names it is durable.
 *
 * All functions may be called from any thread.
 */
#pragma once

#include <stdbool.h>
#include <stdint.h>

#include "common/clock.h"
#include "common/error.h"
#include "common/io.h"
#include "replicator/wire/tls.h"

#define PKI_AGENT_DAYS 90
#define PKI_KEY_ID_BYTES 16

struct pki;

/* `directory` is made if it is not there. A file that is damaged like its copy is an error
 * (-EUCLEAN): making
 * another authority would lock every agent out without a word. */
int pki_new(struct io *io, struct clock_source *clock, const char *directory, struct error *error,
	struct pki **ret_pki);
void pki_free(struct pki *pki); /* NULL is fine */
/* What opening found damaged, and mended from its copy; code 0: nothing. */
const struct error *pki_fault(const struct pki *pki);

/* SHA-256 of the authority's public key, for registration keys. */
const uint8_t *pki_authority_fingerprint(const struct pki *pki);
const char *pki_authority_pem(const struct pki *pki);
/* The server's side of TLS with our certificates; `pki` outlives it. */
int pki_server_tls(struct pki *pki, struct error *error, struct tls_context **ret_context);

/* Who wins a certificate, and by what. */
struct pki_request {
	const char *machine;
	const char *key_id; /* of the registration key, inherited by renewals */
	const char *csr_pem;
};

/* SHA-256 of the public key that the request is signed with. -EBADMSG: it is no request, not of a
 * P-256 key, or its signature does not hold. */
int pki_read_request(
	const char *csr_pem, struct error *error, uint8_t ret_key[static TLS_FINGERPRINT_BYTES]);
/* Signs, lists, and hands out, in that order. A certificate that the same public key has for the
 * same machine and registration key, and that has more than half of its life left, is handed out
 * again instead. The caller frees the text. */
int pki_issue(struct pki *pki, const struct pki_request *request, struct error *error,
	char **ret_certificate_pem);

/* 0 if the certificate was issued and holds; -ENOENT, -EKEYREVOKED. Matches tls_check, with the
 * pki as context. */
int pki_check(void *pki, const struct tls_peer *peer);
/* The registration key that a certificate was won with. -ENOENT. */
int pki_key_of(struct pki *pki, const char *serial, char ret_key_id[static PKI_KEY_ID_BYTES]);
/* When the last of the machine's certificates ends, and whether it should have been renewed long
 * ago. False: it has none that holds. */
bool pki_certificate_ends(
	struct pki *pki, const char *machine, int64_t *ret_ends_ns, bool *ret_overdue);
/* Was all revoked that the registration key has won for this machine and public key? False if there
 * was nothing. */
bool pki_was_revoked(
	struct pki *pki, const char *machine, const char *key_id, const uint8_t *public_key);
/* Has the machine a certificate that holds? */
bool pki_has_certificate(struct pki *pki, const char *machine);

/* All that matches, but those of the public key `except` (NULL: none spared). Durable when it
 * returns; 0 also if nothing matched. */
int pki_revoke_machine(
	struct pki *pki, const char *machine, const uint8_t *except, struct error *error);
int pki_revoke_key(struct pki *pki, const char *key_id, struct error *error);
