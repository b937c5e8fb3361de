/*
 * See tls.h.
 *
 * Whom to believe is decided in two callbacks that the library runs in its handshake: verify_agent
 * and verify_appliance. Both let the library check signatures, dates and purposes first, and then
 * add what only we know. A refusal is told to the other end by TLS's own alerts, so it learns why.
 */
#include "replicator/wire/tls.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <openssl/err.h>
#include <openssl/pem.h>
#include <openssl/ssl.h>

#include "common/cleanup.h"
#include "replicator/wire/certificate.h"
#include "replicator/wire/openssl.h"

static const unsigned char alpn[] = "\x0a" TLS_ALPN;
#define ALPN_BYTES (sizeof(alpn) - 1)

struct tls_context {
	SSL_CTX *library;
	bool server;
	tls_check *check;
	void *check_context;
	bool pinned; /* by fingerprint, not by the authority's certificate */
	uint8_t fingerprint[TLS_FINGERPRINT_BYTES];
};

/* ── whom to believe ─────────────────────────────────────────────────────────────────────── */

static int refuse(X509_STORE_CTX *store, int reason)
{
	X509_STORE_CTX_set_error(store, reason);
	return 0;
}

static int verify_agent(X509_STORE_CTX *store, void *argument)
{
	const struct tls_context *context = argument;
	struct certificate_facts facts;
	struct tls_peer peer = { .known = true };
	if (X509_verify_cert(store) != 1)
		return 0;
	if (certificate_read_x509(X509_STORE_CTX_get0_cert(store), &facts) < 0)
		return refuse(store, X509_V_ERR_CERT_REJECTED);
	memcpy(peer.machine, facts.name, sizeof(peer.machine));
	memcpy(peer.serial, facts.serial, sizeof(peer.serial));
	memcpy(peer.key, facts.key, sizeof(peer.key));
	int r = context->check(context->check_context, &peer);
	if (r == -EKEYREVOKED)
		return refuse(store, X509_V_ERR_CERT_REVOKED);
	if (r < 0)
		return refuse(store, X509_V_ERR_CERT_REJECTED);
	return 1;
}

/* The certificate in the appliance's chain whose key the registration key names. */
static X509 *find_pinned(const struct tls_context *context, X509_STORE_CTX *store)
{
	STACK_OF(X509) *chain = X509_STORE_CTX_get0_untrusted(store);
	for (int i = 0; i < sk_X509_num(chain); i++) {
		X509 *certificate = sk_X509_value(chain, i);
		struct certificate_facts facts;
		if (certificate_read_x509(certificate, &facts) == 0 &&
			memcmp(facts.key, context->fingerprint, sizeof(facts.key)) == 0)
			return certificate;
	}
	return NULL;
}

static int verify_appliance(X509_STORE_CTX *store, void *argument)
{
	const struct tls_context *context = argument;
	if (!context->pinned)
		return X509_verify_cert(store) == 1;
	X509 *authority = find_pinned(context, store);
	STACK_OF(X509) *trusted = authority ? sk_X509_new_null() : NULL;
	if (!authority)
		return refuse(store, X509_V_ERR_CERT_UNTRUSTED);
	if (!trusted || sk_X509_push(trusted, authority) <= 0) {
		sk_X509_free(trusted);
		return refuse(store, X509_V_ERR_OUT_OF_MEM);
	}
	X509_STORE_CTX_set0_trusted_stack(store, trusted);
	int ok = X509_verify_cert(store);
	X509_STORE_CTX_set0_trusted_stack(store, NULL);
	sk_X509_free(trusted);
	return ok == 1;
}

static int select_alpn(SSL *ssl, const unsigned char **ret_out, unsigned char *ret_n,
	const unsigned char *offered, unsigned offered_bytes, void *context)
{
	unsigned char *out;
	(void)ssl, (void)context;
	if (SSL_select_next_proto(&out, ret_n, alpn, ALPN_BYTES, offered, offered_bytes) !=
		OPENSSL_NPN_NEGOTIATED)
		return SSL_TLSEXT_ERR_ALERT_FATAL;
	*ret_out = out;
	return SSL_TLSEXT_ERR_OK;
}

/* ── contexts ────────────────────────────────────────────────────────────────────────────── */

static int read_certificate(const char *pem, X509 **ret_certificate)
{
	CLEANUP(bio_freep) BIO *bio = BIO_new_mem_buf(pem, -1);
	X509 *certificate = bio ? PEM_read_bio_X509(bio, NULL, openssl_no_password, NULL) : NULL;
	if (!certificate)
		return -EINVAL;
	*ret_certificate = certificate;
	return 0;
}

static int use_pair(SSL_CTX *library, const char *certificate_pem, const char *key_pem)
{
	CLEANUP(x509_freep) X509 *certificate = NULL;
	CLEANUP(bio_freep) BIO *bio = BIO_new_mem_buf(key_pem, -1);
	CLEANUP(key_freep)
	EVP_PKEY *key = bio ? PEM_read_bio_PrivateKey(bio, NULL, openssl_no_password, NULL) : NULL;
	if (!key || read_certificate(certificate_pem, &certificate) < 0 ||
		SSL_CTX_use_certificate(library, certificate) != 1 ||
		SSL_CTX_use_PrivateKey(library, key) != 1 ||
		SSL_CTX_check_private_key(library) != 1)
		return -EINVAL;
	return 0;
}

/* Certificates that the authority signed are good. On the server's side it is sent along, so that
 * those who know only its fingerprint can check. */
static int use_authority(SSL_CTX *library, const char *authority_pem, bool server)
{
	CLEANUP(x509_freep) X509 *authority = NULL;
	int r = read_certificate(authority_pem, &authority);
	if (r < 0)
		return r;
	if (X509_STORE_add_cert(SSL_CTX_get_cert_store(library), authority) != 1)
		return -EIO;
	if (server && (SSL_CTX_add1_chain_cert(library, authority) != 1 ||
			      SSL_CTX_add_client_CA(library, authority) != 1))
		return -EIO;
	return 0;
}

static int set_common(SSL_CTX *library)
{
	SSL_CTX_set_options(
		library, SSL_OP_NO_TICKET | SSL_OP_NO_RENEGOTIATION | SSL_OP_NO_COMPRESSION);
	SSL_CTX_set_session_cache_mode(library, SSL_SESS_CACHE_OFF);
	SSL_CTX_set_verify_depth(library, 1);
	SSL_CTX_clear_mode(library, SSL_MODE_AUTO_RETRY);
	if (SSL_CTX_set_min_proto_version(library, TLS1_3_VERSION) != 1 ||
		SSL_CTX_set_max_proto_version(library, TLS1_3_VERSION) != 1 ||
		SSL_CTX_set_num_tickets(library, 0) != 1 ||
		SSL_CTX_set_ciphersuites(library, "TLS_AES_128_GCM_SHA256:TLS_AES_256_GCM_SHA384:"
						  "TLS_CHACHA20_POLY1305_SHA256") != 1 ||
		SSL_CTX_set1_sigalgs_list(library, "ECDSA+SHA256") != 1 ||
		SSL_CTX_set1_groups_list(library, "X25519:P-256") != 1)
		return -EIO;
	return 0;
}

static int new_context(bool server, struct error *error, struct tls_context **ret_context)
{
	struct tls_context *context = calloc(1, sizeof(*context));
	ERR_clear_error();
	if (!context)
		return error_set(error, -ENOMEM, NULL, "out of memory");
	context->server = server;
	context->library = SSL_CTX_new(server ? TLS_server_method() : TLS_client_method());
	if (!context->library || set_common(context->library) < 0) {
		tls_free(context);
		return openssl_failed(error, -EIO, "TLS cannot be set up");
	}
	*ret_context = context;
	return 0;
}

int tls_server_new(const struct tls_server_options *options, struct error *error,
	struct tls_context **ret_context)
{
	struct tls_context *context;
	int r = new_context(true, error, &context);
	if (r < 0)
		return r;
	context->check = options->check;
	context->check_context = options->check_context;
	SSL_CTX_set_alpn_select_cb(context->library, select_alpn, NULL);
	SSL_CTX_set_verify(context->library, SSL_VERIFY_PEER, NULL);
	SSL_CTX_set_cert_verify_callback(context->library, verify_agent, context);
	r = use_pair(context->library, options->certificate_pem, options->key_pem);
	if (r == 0)
		r = use_authority(context->library, options->authority_pem, true);
	if (r < 0) {
		tls_free(context);
		return openssl_failed(error, r, "the appliance's certificate cannot be used");
	}
	*ret_context = context;
	return 0;
}

int tls_client_new(const struct tls_client_options *options, struct error *error,
	struct tls_context **ret_context)
{
	struct tls_context *context;
	int r = new_context(false, error, &context);
	if (r < 0)
		return r;
	SSL_CTX_set_verify(context->library, SSL_VERIFY_PEER, NULL);
	SSL_CTX_set_cert_verify_callback(context->library, verify_appliance, context);
	if (SSL_CTX_set_alpn_protos(context->library, alpn, ALPN_BYTES) != 0)
		r = -EIO;
	if (r == 0 && options->certificate_pem)
		r = use_pair(context->library, options->certificate_pem, options->key_pem);
	if (r == 0 && options->authority_pem)
		r = use_authority(context->library, options->authority_pem, false);
	else if (r == 0) {
		context->pinned = true;
		memcpy(context->fingerprint, options->authority_fingerprint, TLS_FINGERPRINT_BYTES);
	}
	if (r < 0) {
		tls_free(context);
		return openssl_failed(error, r, "the machine's certificate cannot be used");
	}
	*ret_context = context;
	return 0;
}

void tls_free(struct tls_context *context)
{
	if (!context)
		return;
	SSL_CTX_free(context->library);
	free(context);
}

bool tls_is_server(const struct tls_context *context)
{
	return context->server;
}

struct ssl_ctx_st *tls_library_context(struct tls_context *context)
{
	return context->library;
}
