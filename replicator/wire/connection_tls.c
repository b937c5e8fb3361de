/*
 * The library, fed from memory: what is received is decrypted from `in`, what is sent is encrypted
 * into `out`. Everything here computes and never waits; tls_lock is held for one piece at a time,
 * so that sending and receiving take turns of microseconds.
 *
 * Since `out` grows as needed, a write is never left half done, and the receiving thread may make
 * the library answer (an alert, new keys) at any time.
 */
#include <errno.h>
#include <stdio.h>
#include <string.h>

#include <openssl/bio.h>
#include <openssl/err.h>
#include <openssl/x509_vfy.h>

#include "common/bytes.h"
#include "replicator/wire/certificate.h"
#include "replicator/wire/connection_internal.h"

#define READS_A_HOLD 8 /* records decrypted under one hold of tls_lock */

/* ── buffers ─────────────────────────────────────────────────────────────────────────────── */

int wire_buffer_reserve(struct wire_buffer *buffer, size_t more)
{
	if (buffer->capacity - buffer->end >= more)
		return 0;
	size_t used = buffer->end - buffer->start, capacity = MAX(buffer->capacity, (size_t)8192);
	if (buffer->start > 0) {
		memmove(buffer->data, buffer->data + buffer->start, used);
		buffer->start = 0;
		buffer->end = used;
	}
	while (capacity - used < more)
		capacity *= 2;
	if (capacity == buffer->capacity)
		return 0;
	uint8_t *data = realloc(buffer->data, capacity);
	if (!data)
		return -ENOMEM;
	buffer->data = data;
	buffer->capacity = capacity;
	return 0;
}

void wire_buffer_free(struct wire_buffer *buffer)
{
	free(buffer->data);
	*buffer = (struct wire_buffer){ 0 };
}

/* ── the library's ends ──────────────────────────────────────────────────────────────────── */

static int bio_read(BIO *bio, char *data, size_t n, size_t *ret_n)
{
	struct connection *connection = BIO_get_data(bio);
	struct wire_buffer *in = &connection->in;
	size_t take = MIN(n, in->end - in->start);
	BIO_clear_retry_flags(bio);
	if (take == 0) {
		BIO_set_retry_read(bio);
		return 0;
	}
	memcpy(data, in->data + in->start, take);
	in->start += take;
	*ret_n = take;
	return 1;
}

static int bio_write(BIO *bio, const char *data, size_t n, size_t *ret_n)
{
	struct connection *connection = BIO_get_data(bio);
	struct wire_buffer *out = &connection->out;
	BIO_clear_retry_flags(bio);
	if (wire_buffer_reserve(out, n) < 0)
		return 0;
	memcpy(out->data + out->end, data, n);
	out->end += n;
	*ret_n = n;
	return 1;
}

static long bio_control(BIO *bio, int command, long number, void *pointer)
{
	(void)bio, (void)number, (void)pointer;
	return command == BIO_CTRL_FLUSH;
}

static int make_method(BIO_METHOD **ret_method)
{
	BIO_METHOD *method = BIO_meth_new(BIO_TYPE_SOURCE_SINK, "landfall connection");
	if (!method || BIO_meth_set_read_ex(method, bio_read) != 1 ||
		BIO_meth_set_write_ex(method, bio_write) != 1 ||
		BIO_meth_set_ctrl(method, bio_control) != 1) {
		BIO_meth_free(method);
		return -ENOMEM;
	}
	*ret_method = method;
	return 0;
}

int connection_tls_new(struct connection *connection, SSL_CTX *library)
{
	int r = make_method(&connection->method);
	if (r < 0)
		return r;
	BIO *bio = BIO_new(connection->method);
	connection->ssl = SSL_new(library);
	if (!bio || !connection->ssl) {
		BIO_free(bio);
		return -ENOMEM;
	}
	BIO_set_data(bio, connection);
	BIO_set_init(bio, 1);
	SSL_set_bio(connection->ssl, bio, bio); /* taken over, once for both */
	if (connection->server)
		SSL_set_accept_state(connection->ssl);
	else
		SSL_set_connect_state(connection->ssl);
	return 0;
}

void connection_tls_free(struct connection *connection)
{
	SSL_free(connection->ssl);
	BIO_meth_free(connection->method);
}

/* ── what went wrong ─────────────────────────────────────────────────────────────────────── */

/* The other end's refusals, as TLS tells them. */
static int explain_alert(const struct connection *connection, int reason, struct error *error)
{
	if (connection->server && reason >= SSL_R_SSLV3_ALERT_BAD_CERTIFICATE &&
		reason <= SSL_R_TLSV1_ALERT_ACCESS_DENIED)
		return error_set(error, -EACCES, NULL,
			"the agent does not accept this appliance's certificate");
	switch (reason) {
	case SSL_R_SSLV3_ALERT_CERTIFICATE_REVOKED:
		return error_set(error, -EKEYREVOKED, "enrol the machine again with a new key",
			"this machine's certificate was revoked");
	case SSL_R_SSLV3_ALERT_CERTIFICATE_EXPIRED:
		return error_set(error, -EKEYEXPIRED, "enrol the machine again with a new key",
			"this machine's certificate has expired");
	case SSL_R_SSLV3_ALERT_BAD_CERTIFICATE:
	case SSL_R_SSLV3_ALERT_CERTIFICATE_UNKNOWN:
	case SSL_R_SSLV3_ALERT_UNSUPPORTED_CERTIFICATE:
	case SSL_R_TLSV1_ALERT_UNKNOWN_CA:
	case SSL_R_TLSV1_ALERT_ACCESS_DENIED:
		return error_set(error, -EACCES, "enrol the machine again with a new key",
			"the other end does not accept this certificate");
	default:
		return 0;
	}
}

static int explain_verify(const struct connection *connection, struct error *error)
{
	long result = SSL_get_verify_result(connection->ssl);
	if (!connection->server && (result == X509_V_ERR_CERT_UNTRUSTED ||
					   result == X509_V_ERR_SELF_SIGNED_CERT_IN_CHAIN ||
					   result == X509_V_ERR_CERT_SIGNATURE_FAILURE ||
					   result == X509_V_ERR_UNABLE_TO_GET_ISSUER_CERT_LOCALLY))
		return error_set(error, -EACCES,
			"see that the address and the key are the same appliance's",
			"this is another appliance than the one this machine is to trust");
	return error_set(error, -EACCES,
		result == X509_V_ERR_CERT_NOT_YET_VALID || result == X509_V_ERR_CERT_HAS_EXPIRED
			? "check both machines' clocks"
			: NULL,
		"its certificate is refused: %s", X509_verify_cert_error_string(result));
}

static enum tls_result explain(struct connection *connection, int result, struct error *error)
{
	int kind = SSL_get_error(connection->ssl, result);
	unsigned long code = ERR_peek_error();
	int reason = ERR_GET_REASON(code);
	if (kind == SSL_ERROR_WANT_READ)
		return TLS_WANTS_INPUT;
	if (kind == SSL_ERROR_ZERO_RETURN)
		return TLS_ENDED;
	if (kind != SSL_ERROR_SSL || ERR_GET_LIB(code) != ERR_LIB_SSL)
		error_fill(error, -EPROTO, NULL, "TLS failed (%s)",
			code ? ERR_reason_error_string(code) : "no reason given");
	else if (reason == SSL_R_CERTIFICATE_VERIFY_FAILED)
		(void)explain_verify(connection, error);
	else if (reason == SSL_R_WRONG_VERSION_NUMBER && !connection->server)
		error_fill(error, -EPROTO, NULL, "what answers there does not speak TLS");
	else if (explain_alert(connection, reason, error) == 0) {
		const char *text = ERR_reason_error_string(code);
		error_fill(error, -EPROTO, NULL, "TLS: %s", text ? text : "no reason given");
	}
	ERR_clear_error();
	return TLS_FAILED;
}

/* ── steps ───────────────────────────────────────────────────────────────────────────────── */

enum tls_result connection_tls_handshake(struct connection *connection, struct error *error)
{
	SCOPED_LOCK(&connection->tls_lock);
	ERR_clear_error();
	int result = SSL_do_handshake(connection->ssl);
	return result == 1 ? TLS_DONE : explain(connection, result, error);
}

enum tls_result connection_tls_read(
	struct connection *connection, void *data, size_t n, size_t *ret_n, struct error *error)
{
	size_t done = 0;
	SCOPED_LOCK(&connection->tls_lock);
	ERR_clear_error();
	if (connection->later == TLS_WANTS_INPUT)
		connection->later = TLS_DONE;
	for (unsigned i = 0; i < READS_A_HOLD && done < n && connection->later == TLS_DONE; i++) {
		size_t k;
		int result = SSL_read_ex(connection->ssl, (char *)data + done, n - done, &k);
		if (result != 1) {
			connection->later = explain(connection, result, &connection->later_words);
			break;
		}
		done += k;
	}
	*ret_n = done;
	if (done > 0)
		return TLS_DONE;
	*error = connection->later_words;
	return connection->later;
}

/* New keys well before the old ones protected too much. Under tls_lock. */
static int change_keys(struct connection *connection, size_t n)
{
	connection->key_bytes += n;
	if (connection->key_bytes < connection->rekey_bytes)
		return 0;
	connection->key_bytes = 0;
	return SSL_key_update(connection->ssl, SSL_KEY_UPDATE_NOT_REQUESTED) == 1 ? 0 : -EPROTO;
}

int connection_tls_write(
	struct connection *connection, const void *data, size_t n, struct error *error)
{
	struct error words = { 0 };
	SCOPED_LOCK(&connection->tls_lock);
	ERR_clear_error();
	for (size_t done = 0, k; done < n; done += k) {
		int result = change_keys(connection, n) < 0
				     ? 0
				     : SSL_write_ex(connection->ssl, (const char *)data + done,
					       n - done, &k);
		if (result == 1)
			continue;
		if (explain(connection, result, &words) != TLS_FAILED)
			error_fill(&words, -EPROTO, NULL, "TLS cannot send");
		return connection_fail(connection, error, words.code, words.mend, "%s: %s",
			connection->address, words.message);
	}
	return 0;
}

void connection_tls_end(struct connection *connection)
{
	SCOPED_LOCK(&connection->tls_lock);
	ERR_clear_error();
	if (!SSL_in_init(connection->ssl))
		(void)SSL_shutdown(connection->ssl);
	ERR_clear_error();
}
