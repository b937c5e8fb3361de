/*
 * The inside of the authority, shared by pki.c (files, the list) and pki_sign.c (the library).
 */
#pragma once

#include <stdint.h>

#include "common/error.h"
#include "replicator/pki.h"

#define PKI_AUTHORITY_DAYS 7300
#define PKI_SERVER_DAYS 3650

/* A key and its certificate, PEM; the key is a secret. */
struct pki_pair {
	char *key_pem, *certificate_pem;
};

void pki_pair_free(struct pki_pair *pair); /* wipes */

/* An authority that signs itself, valid from a day before `now_ns`. */
int pki_make_authority(int64_t now_ns, struct error *error, struct pki_pair *ret_pair);
/* A key and a certificate for the server's end. */
int pki_make_server(const struct pki_pair *authority, int64_t now_ns, struct error *error,
	struct pki_pair *ret_pair);
/* A certificate for the key in the request, whatever name the request bears. */
int pki_sign_agent(const struct pki_pair *authority, const char *csr_pem, const char *machine,
	int64_t now_ns, struct error *error, char **ret_certificate_pem);
/* Cuts a file with both apart. -EBADMSG: they are not there or do not fit together. */
int pki_read_pair(const char *text, struct error *error, struct pki_pair *ret_pair);
