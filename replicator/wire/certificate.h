/*
 * Keys, certificate requests and certificates as both ends need them: P-256 and PEM text.
 *
 * Any thread; nothing is kept. Private keys in PEM are secrets: whoever owns such a text wipes it
 * (certificate_wipe). -EBADMSG: the text is none; -EIO: the library refuses; -ENOMEM.
 */
#pragma once

#include <stdbool.h>
#include <stdint.h>

#include "common/error.h"
#include "replicator/wire/tls.h"

#define CERTIFICATE_MAX_BYTES 16384u /* of any PEM text that is read here */

struct x509_st;

/* Makes a private key. */
int certificate_make_key(struct error *error, char **ret_key_pem);
/* A request for a certificate of that name, signed with the key. */
int certificate_make_request(
	const char *key_pem, const char *name, struct error *error, char **ret_request_pem);

struct certificate_facts {
	char name[TLS_NAME_BYTES]; /* common name */
	char serial[TLS_SERIAL_BYTES];
	uint8_t key[TLS_FINGERPRINT_BYTES];  /* SHA-256 of its public key */
	int64_t not_before_ns, not_after_ns; /* since 1970 */
};

int certificate_read(const char *pem, struct error *error, struct certificate_facts *ret_facts);
/* The same of the library's object. */
int certificate_read_x509(struct x509_st *certificate, struct certificate_facts *ret_facts);

/* 0 if the key is that of the certificate and the authority signed it; -EBADMSG. */
int certificate_check_set(const char *certificate_pem, const char *key_pem,
	const char *authority_pem, struct error *error);

/* Overwrites the text and frees it; NULL is fine. `pem` is NULL afterwards. */
void certificate_wipe(char **pem);
