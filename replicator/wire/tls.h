/*
 * What both sides ask of TLS: version 1.3 and nothing older, ALPN landfall/1, P-256 certificates
 * of the appliance's own authority, no tickets, no early data, no renegotiation.
 *
 * The appliance lets anybody finish the handshake without a certificate (that is how machines
 * enrol), but whoever shows one must show one that its authority signed, that has not expired, and
 * that `check` lets pass. The agent accepts one appliance: the one whose authority it has, or,
 * before it has it, the one whose authority's public key has the fingerprint that its
 * registration key names.
 *
 * Contexts may be used by any number of connections and threads at once, and outlive them.
 * Private keys come and stay in memory only; nothing of them is ever logged.
 */
#pragma once

#include <stdbool.h>
#include <stdint.h>

#include "common/error.h"

#define TLS_FINGERPRINT_BYTES 32 /* SHA-256 of a public key (SubjectPublicKeyInfo, DER) */
#define TLS_SERIAL_BYTES 41      /* hexadecimal digits of a certificate's number, and a NUL */
#define TLS_NAME_BYTES 65        /* a machine's name, and a NUL */
#define TLS_ALPN "landfall/1"

struct tls_context;
struct ssl_ctx_st;

/* Who is at the other end, as its certificate says. */
struct tls_peer {
	bool known;                   /* it showed a certificate, and that was good */
	char machine[TLS_NAME_BYTES]; /* its common name; empty unless known */
	char serial[TLS_SERIAL_BYTES];
	uint8_t key[TLS_FINGERPRINT_BYTES];
};

/* Is this certificate, whose signature and dates are good, one that was issued and holds? 0,
 * -ENOENT (not on the list) or -EKEYREVOKED. Called during handshakes, any thread. */
typedef int tls_check(void *context, const struct tls_peer *peer);

struct tls_server_options {
	const char *certificate_pem, *key_pem, *authority_pem; /* borrowed during the call */
	tls_check *check;
	void *check_context;
};

struct tls_client_options {
	/* One of the two. */
	const char *authority_pem;
	const uint8_t *authority_fingerprint; /* TLS_FINGERPRINT_BYTES */
	/* NULL before the machine is enrolled. */
	const char *certificate_pem, *key_pem;
};

/* -EINVAL: what was given does not fit together (a key of another certificate, no certificate);
 * -EIO: the library refuses. */
int tls_server_new(const struct tls_server_options *options, struct error *error,
	struct tls_context **ret_context);
int tls_client_new(const struct tls_client_options *options, struct error *error,
	struct tls_context **ret_context);
/* After the last connection. NULL is fine. */
void tls_free(struct tls_context *context);

bool tls_is_server(const struct tls_context *context);
/* For connection.c: the library's own context. */
struct ssl_ctx_st *tls_library_context(struct tls_context *context);
