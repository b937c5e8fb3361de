/*
 * See certificate.h.
 *
 * Everything goes through the library's own PEM and X.509 code with no password callback that
 * could prompt: an encrypted key is an error.
 */
#include "replicator/wire/certificate.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include <openssl/bio.h>
#include <openssl/err.h>
#include <openssl/evp.h>
#include <openssl/pem.h>
#include <openssl/x509.h>
#include <openssl/x509v3.h>

#include "common/cleanup.h"
#include "common/clock.h"
#include "replicator/wire/openssl.h"

void certificate_wipe(char **pem)
{
	if (*pem) {
		OPENSSL_cleanse(*pem, strlen(*pem));
		free(*pem);
	}
	*pem = NULL;
}

/* ── making ──────────────────────────────────────────────────────────────────────────────── */

/* What was written to a memory BIO, as text of ours; the BIO's own copy is wiped. */
static int take_text(BIO *bio, char **ret_text)
{
	char *data;
	long n = BIO_get_mem_data(bio, &data);
	char *text = n > 0 ? malloc((size_t)n + 1) : NULL;
	if (!text)
		return -ENOMEM;
	memcpy(text, data, (size_t)n);
	text[n] = '\0';
	OPENSSL_cleanse(data, (size_t)n);
	*ret_text = text;
	return 0;
}

int certificate_make_key(struct error *error, char **ret_key_pem)
{
	ERR_clear_error();
	CLEANUP(key_freep) EVP_PKEY *key = EVP_EC_gen("P-256");
	CLEANUP(bio_freep) BIO *bio = BIO_new(BIO_s_mem());
	if (!key || !bio || PEM_write_bio_PrivateKey(bio, key, NULL, NULL, 0, NULL, NULL) != 1)
		return openssl_failed(error, -EIO, "cannot make a key");
	int r = take_text(bio, ret_key_pem);
	return r < 0 ? error_set(error, r, NULL, "out of memory") : 0;
}

static int read_key(const char *pem, EVP_PKEY **ret_key)
{
	CLEANUP(bio_freep) BIO *bio = BIO_new_mem_buf(pem, -1);
	EVP_PKEY *key = bio ? PEM_read_bio_PrivateKey(bio, NULL, openssl_no_password, NULL) : NULL;
	if (!key)
		return -EBADMSG;
	*ret_key = key;
	return 0;
}

int certificate_make_request(
	const char *key_pem, const char *name, struct error *error, char **ret_request_pem)
{
	CLEANUP(key_freep) EVP_PKEY *key = NULL;
	CLEANUP(request_freep) X509_REQ *request = X509_REQ_new();
	CLEANUP(bio_freep) BIO *bio = BIO_new(BIO_s_mem());
	ERR_clear_error();
	if (read_key(key_pem, &key) < 0)
		return openssl_failed(error, -EBADMSG, "the private key cannot be read");
	X509_NAME *subject = request ? X509_REQ_get_subject_name(request) : NULL;
	if (!bio || !subject || X509_REQ_set_version(request, X509_REQ_VERSION_1) != 1 ||
		X509_NAME_add_entry_by_txt(subject, "CN", MBSTRING_UTF8,
			(const unsigned char *)name, -1, -1, 0) != 1 ||
		X509_REQ_set_pubkey(request, key) != 1 ||
		X509_REQ_sign(request, key, EVP_sha256()) <= 0 ||
		PEM_write_bio_X509_REQ(bio, request) != 1)
		return openssl_failed(error, -EIO, "cannot make a certificate request");
	int r = take_text(bio, ret_request_pem);
	return r < 0 ? error_set(error, r, NULL, "out of memory") : 0;
}

/* ── reading ─────────────────────────────────────────────────────────────────────────────── */

static int read_x509(const char *pem, X509 **ret_certificate)
{
	if (strlen(pem) > CERTIFICATE_MAX_BYTES)
		return -EBADMSG;
	CLEANUP(bio_freep) BIO *bio = BIO_new_mem_buf(pem, -1);
	X509 *certificate = bio ? PEM_read_bio_X509(bio, NULL, openssl_no_password, NULL) : NULL;
	if (!certificate)
		return -EBADMSG;
	*ret_certificate = certificate;
	return 0;
}

static int read_time(const ASN1_TIME *time, int64_t *ret_ns)
{
	struct tm tm;
	if (ASN1_TIME_to_tm(time, &tm) != 1)
		return -EBADMSG;
	time_t seconds = timegm(&tm);
	if (seconds < 0 || seconds > INT64_MAX / NS_PER_S)
		return -EBADMSG;
	*ret_ns = (int64_t)seconds * NS_PER_S;
	return 0;
}

static int read_name(X509 *certificate, char ret_name[static TLS_NAME_BYTES])
{
	const X509_NAME *subject = X509_get_subject_name(certificate);
	int at = X509_NAME_get_index_by_NID(subject, NID_commonName, -1);
	if (at < 0 || X509_NAME_get_index_by_NID(subject, NID_commonName, at) >= 0)
		return -EBADMSG;
	const ASN1_STRING *value = X509_NAME_ENTRY_get_data(X509_NAME_get_entry(subject, at));
	int n = ASN1_STRING_length(value);
	const unsigned char *data = ASN1_STRING_get0_data(value);
	if (n <= 0 || n >= TLS_NAME_BYTES || memchr(data, '\0', (size_t)n))
		return -EBADMSG;
	memcpy(ret_name, data, (size_t)n);
	ret_name[n] = '\0';
	return 0;
}

static int read_serial(X509 *certificate, char ret_serial[static TLS_SERIAL_BYTES])
{
	BIGNUM *number = ASN1_INTEGER_to_BN(X509_get0_serialNumber(certificate), NULL);
	char *text = number ? BN_bn2hex(number) : NULL;
	int r = -EBADMSG;
	if (text && strlen(text) < TLS_SERIAL_BYTES) {
		strcpy(ret_serial, text);
		r = 0;
	}
	OPENSSL_free(text);
	BN_free(number);
	return r;
}

/* SHA-256 of the SubjectPublicKeyInfo, as registration keys and lists name keys. */
static int read_fingerprint(X509 *certificate, uint8_t ret_key[static TLS_FINGERPRINT_BYTES])
{
	unsigned char *der = NULL;
	int n = i2d_X509_PUBKEY(X509_get_X509_PUBKEY(certificate), &der);
	if (n <= 0)
		return -EBADMSG;
	int ok = EVP_Digest(der, (size_t)n, ret_key, NULL, EVP_sha256(), NULL);
	OPENSSL_free(der);
	return ok == 1 ? 0 : -EIO;
}

int certificate_read_x509(struct x509_st *certificate, struct certificate_facts *ret_facts)
{
	struct certificate_facts facts = { 0 };
	int r = read_name(certificate, facts.name);
	if (r == 0)
		r = read_serial(certificate, facts.serial);
	if (r == 0)
		r = read_fingerprint(certificate, facts.key);
	if (r == 0)
		r = read_time(X509_get0_notBefore(certificate), &facts.not_before_ns);
	if (r == 0)
		r = read_time(X509_get0_notAfter(certificate), &facts.not_after_ns);
	if (r == 0)
		*ret_facts = facts;
	ERR_clear_error();
	return r;
}

int certificate_read(const char *pem, struct error *error, struct certificate_facts *ret_facts)
{
	CLEANUP(x509_freep) X509 *certificate = NULL;
	ERR_clear_error();
	int r = read_x509(pem, &certificate);
	if (r == 0)
		r = certificate_read_x509(certificate, ret_facts);
	return r < 0 ? openssl_failed(error, r, "the certificate cannot be read") : 0;
}

int certificate_check_set(const char *certificate_pem, const char *key_pem,
	const char *authority_pem, struct error *error)
{
	CLEANUP(x509_freep) X509 *certificate = NULL, *authority = NULL;
	CLEANUP(key_freep) EVP_PKEY *key = NULL;
	ERR_clear_error();
	int r = read_x509(certificate_pem, &certificate);
	if (r == 0)
		r = read_x509(authority_pem, &authority);
	if (r < 0)
		return openssl_failed(error, r, "a certificate cannot be read");
	r = read_key(key_pem, &key);
	if (r < 0)
		return openssl_failed(error, r, "the private key cannot be read");
	if (X509_check_private_key(certificate, key) != 1)
		return openssl_failed(
			error, -EBADMSG, "the private key is not that of the certificate");
	if (X509_check_issued(authority, certificate) != X509_V_OK ||
		X509_verify(certificate, X509_get0_pubkey(authority)) != 1)
		return openssl_failed(error, -EBADMSG, "the certificate is not the authority's");
	return 0;
}
