/*
 * What all that calls OpenSSL needs: clean-ups for CLEANUP(…), a password callback that never
 * prompts, and the library's last error in words. Shared by wire/ and the authority; any thread.
 */
#pragma once

#include <openssl/bio.h>
#include <openssl/evp.h>
#include <openssl/x509.h>

#include "common/error.h"

static inline void bio_freep(BIO **bio)
{
	BIO_free_all(*bio);
}

static inline void key_freep(EVP_PKEY **key)
{
	EVP_PKEY_free(*key);
}

static inline void request_freep(X509_REQ **request)
{
	X509_REQ_free(*request);
}

static inline void x509_freep(X509 **certificate)
{
	X509_free(*certificate);
}

/* For PEM_read_…: an encrypted key is an error. */
int openssl_no_password(char *buffer, int size, int writing, void *context);

/* Fills `error` (may be NULL) with "<what>: <what the library says went wrong last in this thread>"
 * and has the library forget it. One line, never secret. Returns `code`. */
int openssl_failed(struct error *error, int code, const char *what);
