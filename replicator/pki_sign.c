/*
 * What the authority makes and signs. Of a request only the public key is taken, once it has
 * proven that the asker holds the private one: name, dates and purposes are ours to say.
 *
 *	authority   CA, no further authorities below it
 *	server      for TLS servers, so that no agent's certificate can stand for the appliance
 *	agent       for TLS clients
 */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <openssl/bio.h>
#include <openssl/err.h>
#include <openssl/evp.h>
#include <openssl/pem.h>
#include <openssl/x509.h>
#include <openssl/x509v3.h>

#include "common/bytes.h"
#include "common/cleanup.h"
#include "common/clock.h"
#include "common/rng.h"
#include "replicator/pki_internal.h"
#include "replicator/wire/certificate.h"
#include "replicator/wire/openssl.h"

#define DAY_S 86400
#define SERIAL_BYTES 16

void pki_pair_free(struct pki_pair *pair)
{
	certificate_wipe(&pair->key_pem);
	free(TAKE(pair->certificate_pem));
}

/* ── texts ───────────────────────────────────────────────────────────────────────────────── */

static EVP_PKEY *read_key(const char *pem)
{
	CLEANUP(bio_freep) BIO *bio = BIO_new_mem_buf(pem, -1);
	return bio ? PEM_read_bio_PrivateKey(bio, NULL, openssl_no_password, NULL) : NULL;
}

static X509 *read_certificate(const char *pem)
{
	CLEANUP(bio_freep) BIO *bio = BIO_new_mem_buf(pem, -1);
	return bio ? PEM_read_bio_X509(bio, NULL, openssl_no_password, NULL) : NULL;
}

static int certificate_text(X509 *certificate, char **ret_pem)
{
	CLEANUP(bio_freep) BIO *bio = BIO_new(BIO_s_mem());
	char *data;
	if (!bio || PEM_write_bio_X509(bio, certificate) != 1)
		return -ENOMEM;
	long n = BIO_get_mem_data(bio, &data);
	char *pem = strndup(data, (size_t)n);
	if (!pem)
		return -ENOMEM;
	*ret_pem = pem;
	return 0;
}

int pki_read_pair(const char *text, struct error *error, struct pki_pair *ret_pair)
{
	static const char begin[] = "-----BEGIN CERTIFICATE-----";
	struct pki_pair pair = { 0 };
	const char *certificate = strstr(text, begin);
	ERR_clear_error();
	if (!certificate)
		return error_set(error, -EBADMSG, NULL, "there is no certificate in it");
	pair.key_pem = strndup(text, (size_t)(certificate - text));
	pair.certificate_pem = strdup(certificate);
	CLEANUP(key_freep) EVP_PKEY *key = pair.key_pem ? read_key(pair.key_pem) : NULL;
	CLEANUP(x509_freep)
	X509 *x509 = pair.certificate_pem ? read_certificate(pair.certificate_pem) : NULL;
	if (!key || !x509 || X509_check_private_key(x509, key) != 1) {
		pki_pair_free(&pair);
		return openssl_failed(error, -EBADMSG, "key and certificate do not fit together");
	}
	*ret_pair = pair;
	return 0;
}

/* ── certificates ────────────────────────────────────────────────────────────────────────── */

/* Random, positive, never zero: nobody guesses the next one. */
static int set_serial(X509 *certificate)
{
	uint8_t bytes[SERIAL_BYTES];
	if (random_bytes(bytes, sizeof(bytes)) < 0)
		return -EIO;
	bytes[0] = (uint8_t)((bytes[0] & 0x7f) | 0x40);
	BIGNUM *number = BN_bin2bn(bytes, sizeof(bytes), NULL);
	bool ok = number && BN_to_ASN1_INTEGER(number, X509_get_serialNumber(certificate));
	BN_free(number);
	return ok ? 0 : -EIO;
}

/* From a day ago, since the agents' clocks are not ours. */
static int set_life(X509 *certificate, int64_t now_ns, int days)
{
	time_t now = (time_t)(now_ns / NS_PER_S);
	return ASN1_TIME_set(X509_getm_notBefore(certificate), now - DAY_S) &&
			       ASN1_TIME_set(
				       X509_getm_notAfter(certificate), now + (time_t)days * DAY_S)
		       ? 0
		       : -EIO;
}

static int set_extensions(X509 *certificate, X509 *issuer, const char *const pairs[][2], size_t n)
{
	X509V3_CTX context;
	X509V3_set_ctx_nodb(&context);
	X509V3_set_ctx(&context, issuer, certificate, NULL, NULL, 0);
	for (size_t i = 0; i < n; i++) {
		X509_EXTENSION *extension =
			X509V3_EXT_conf(NULL, &context, pairs[i][0], pairs[i][1]);
		int ok = extension ? X509_add_ext(certificate, extension, -1) : 0;
		X509_EXTENSION_free(extension);
		if (ok != 1)
			return -EIO;
	}
	return 0;
}

struct description {
	const char *name;
	int days;
	const char *const (*extensions)[2];
	size_t extension_count;
};

/* `issuer` NULL: it signs itself. */
static int make_certificate(const struct description *description, EVP_PKEY *key, X509 *issuer,
	EVP_PKEY *issuer_key, int64_t now_ns, struct error *error, char **ret_pem)
{
	CLEANUP(x509_freep) X509 *certificate = X509_new();
	X509_NAME *subject = certificate ? X509_get_subject_name(certificate) : NULL;
	X509 *signer = issuer ? issuer : certificate;
	if (!subject || X509_set_version(certificate, X509_VERSION_3) != 1 ||
		set_serial(certificate) < 0 ||
		set_life(certificate, now_ns, description->days) < 0 ||
		X509_NAME_add_entry_by_txt(subject, "CN", MBSTRING_UTF8,
			(const unsigned char *)description->name, -1, -1, 0) != 1 ||
		X509_set_issuer_name(certificate, X509_get_subject_name(signer)) != 1 ||
		X509_set_pubkey(certificate, key) != 1 ||
		set_extensions(certificate, signer, description->extensions,
			description->extension_count) < 0 ||
		X509_sign(certificate, issuer_key, EVP_sha256()) <= 0 ||
		certificate_text(certificate, ret_pem) < 0)
		return openssl_failed(error, -EIO, "cannot make a certificate");
	return 0;
}

int pki_make_authority(int64_t now_ns, struct error *error, struct pki_pair *ret_pair)
{
	static const char *const extensions[][2] = {
		{ "basicConstraints", "critical,CA:TRUE,pathlen:0" },
		{ "keyUsage", "critical,keyCertSign" },
		{ "subjectKeyIdentifier", "hash" },
	};
	static const struct description description = { "Landfall appliance's authority",
		PKI_AUTHORITY_DAYS, extensions, ARRAY_SIZE(extensions) };
	struct pki_pair pair = { 0 };
	int r = certificate_make_key(error, &pair.key_pem);
	CLEANUP(key_freep) EVP_PKEY *key = r == 0 ? read_key(pair.key_pem) : NULL;
	if (r == 0 && !key)
		r = openssl_failed(error, -EIO, "cannot make a key");
	if (r == 0)
		r = make_certificate(
			&description, key, NULL, key, now_ns, error, &pair.certificate_pem);
	if (r < 0)
		pki_pair_free(&pair);
	else
		*ret_pair = pair;
	return r;
}

static int sign(const struct pki_pair *authority, const struct description *description,
	EVP_PKEY *key, int64_t now_ns, struct error *error, char **ret_pem)
{
	CLEANUP(key_freep) EVP_PKEY *signing = read_key(authority->key_pem);
	CLEANUP(x509_freep) X509 *issuer = read_certificate(authority->certificate_pem);
	if (!signing || !issuer)
		return openssl_failed(error, -EIO, "the authority's key cannot be used");
	return make_certificate(description, key, issuer, signing, now_ns, error, ret_pem);
}

int pki_make_server(const struct pki_pair *authority, int64_t now_ns, struct error *error,
	struct pki_pair *ret_pair)
{
	static const char *const extensions[][2] = {
		{ "basicConstraints", "critical,CA:FALSE" },
		{ "keyUsage", "critical,digitalSignature" },
		{ "extendedKeyUsage", "serverAuth" },
		{ "authorityKeyIdentifier", "keyid" },
	};
	static const struct description description = { "Landfall appliance", PKI_SERVER_DAYS,
		extensions, ARRAY_SIZE(extensions) };
	struct pki_pair pair = { 0 };
	int r = certificate_make_key(error, &pair.key_pem);
	CLEANUP(key_freep) EVP_PKEY *key = r == 0 ? read_key(pair.key_pem) : NULL;
	if (r == 0 && !key)
		r = openssl_failed(error, -EIO, "cannot make a key");
	if (r == 0)
		r = sign(authority, &description, key, now_ns, error, &pair.certificate_pem);
	if (r < 0)
		pki_pair_free(&pair);
	else
		*ret_pair = pair;
	return r;
}

/* ── requests ────────────────────────────────────────────────────────────────────────────── */

static int read_request(const char *csr_pem, struct error *error, EVP_PKEY **ret_key)
{
	char group[32] = "";
	ERR_clear_error();
	if (strlen(csr_pem) > CERTIFICATE_MAX_BYTES)
		return error_set(error, -EBADMSG, NULL, "the certificate request is too long");
	CLEANUP(bio_freep) BIO *bio = BIO_new_mem_buf(csr_pem, -1);
	CLEANUP(request_freep)
	X509_REQ *request =
		bio ? PEM_read_bio_X509_REQ(bio, NULL, openssl_no_password, NULL) : NULL;
	CLEANUP(key_freep) EVP_PKEY *key = request ? X509_REQ_get_pubkey(request) : NULL;
	if (!key)
		return openssl_failed(error, -EBADMSG, "the certificate request cannot be read");
	if (!EVP_PKEY_is_a(key, "EC") ||
		EVP_PKEY_get_group_name(key, group, sizeof(group), NULL) != 1 ||
		strcmp(group, "prime256v1") != 0)
		return openssl_failed(
			error, -EBADMSG, "the certificate request's key is not on P-256");
	if (X509_REQ_verify(request, key) != 1)
		return openssl_failed(
			error, -EBADMSG, "the certificate request is not signed with its key");
	*ret_key = TAKE(key);
	return 0;
}

int pki_read_request(
	const char *csr_pem, struct error *error, uint8_t ret_key[static TLS_FINGERPRINT_BYTES])
{
	CLEANUP(key_freep) EVP_PKEY *key = NULL;
	unsigned char *der = NULL;
	int r = read_request(csr_pem, error, &key);
	if (r < 0)
		return r;
	int n = i2d_PUBKEY(key, &der);
	int ok = n > 0 ? EVP_Digest(der, (size_t)n, ret_key, NULL, EVP_sha256(), NULL) : 0;
	OPENSSL_free(der);
	return ok == 1 ? 0 : openssl_failed(error, -EIO, "the request's key cannot be hashed");
}

int pki_sign_agent(const struct pki_pair *authority, const char *csr_pem, const char *machine,
	int64_t now_ns, struct error *error, char **ret_certificate_pem)
{
	static const char *const extensions[][2] = {
		{ "basicConstraints", "critical,CA:FALSE" },
		{ "keyUsage", "critical,digitalSignature" },
		{ "extendedKeyUsage", "clientAuth" },
		{ "authorityKeyIdentifier", "keyid" },
	};
	const struct description description = { machine, PKI_AGENT_DAYS, extensions,
		ARRAY_SIZE(extensions) };
	CLEANUP(key_freep) EVP_PKEY *key = NULL;
	int r = read_request(csr_pem, error, &key);
	if (r == 0)
		r = sign(authority, &description, key, now_ns, error, ret_certificate_pem);
	return r;
}
