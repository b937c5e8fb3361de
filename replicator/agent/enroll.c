/*
 * See enroll.h.
 *
 *	enrolling.json   0600: {"id", "appliance", "machine", "key"}: the key pair that was made for
 *	                 the registration key `id`; gone when the identity is stored
 *
 * Only the same question to the same appliance takes it up again; any other makes a new pair.
 */
#include "replicator/agent/enroll.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cjson/cJSON.h>
#include <openssl/crypto.h>

#include "common/buf.h"
#include "common/cleanup.h"
#include "common/json.h"
#include "replicator/wire/certificate.h"
#include "replicator/wire/key_text.h"

#define FILE_NAME "enrolling.json"
#define FILE_MAX_BYTES (16u << 10)
#define TALK_MS 20000

/* ── the key pair ────────────────────────────────────────────────────────────────────────── */

static int path_of(const char *directory, struct buf *path, struct error *error)
{
	if (buf_printf(path, "%s/" FILE_NAME, directory) < 0)
		return error_set(error, -ENOMEM, NULL, "out of memory");
	return 0;
}

static bool is_text(const struct json *at, const char *name, const char *want)
{
	const char *text;
	return json_get_text(at, name, &text, NULL) == 0 && strcmp(text, want) == 0;
}

/* The pair that was made for this very question. -ENOENT: there is none. */
static int load_pair(
	const struct enroll_request *request, const char *path, const char *id, char **ret_key_pem)
{
	CLEANUP(json_freep) struct cJSON *json = NULL;
	struct json root;
	char *text = NULL;
	const char *key;
	size_t n;
	int r = io_load_file(request->io, path, FILE_MAX_BYTES, &text, &n);
	if (r == 0)
		r = json_parse(text, n, NULL, &json, NULL);
	certificate_wipe(&text);
	if (r < 0)
		return -ENOENT;
	json_root(json, path, &root);
	if (!is_text(&root, "id", id) || !is_text(&root, "appliance", request->appliance) ||
		!is_text(&root, "machine", request->machine) ||
		json_get_text(&root, "key", &key, NULL) < 0)
		return -ENOENT;
	char *copy = strdup(key);
	if (!copy)
		return -ENOMEM;
	*ret_key_pem = copy;
	return 0;
}

static int store_pair(const struct enroll_request *request, const char *path, const char *id,
	const char *key_pem, struct error *error)
{
	CLEANUP(json_freep) struct cJSON *json = NULL;
	CLEANUP(buf_free) struct buf text = { 0 };
	int r = json_new_object(&json);
	if (r == 0)
		r = json_add_text(json, "id", id);
	if (r == 0)
		r = json_add_text(json, "appliance", request->appliance);
	if (r == 0)
		r = json_add_text(json, "machine", request->machine);
	if (r == 0)
		r = json_add_text(json, "key", key_pem);
	if (r == 0)
		r = json_print(json, true, &text);
	if (r == 0)
		r = io_replace_file(request->io, path, text.data, text.len);
	if (text.data)
		OPENSSL_cleanse(text.data, text.len);
	if (r < 0)
		return error_set(error, r, r == -EACCES ? "run it as root" : "make room",
			"%s: cannot be written: %s", path, strerrordesc_np(-r));
	return 0;
}

static int have_pair(const struct enroll_request *request, const char *path, const char *id,
	struct error *error, char **ret_key_pem)
{
	char *key_pem = NULL;
	int r = load_pair(request, path, id, ret_key_pem);
	if (r == 0)
		return 0;
	r = certificate_make_key(error, &key_pem);
	if (r == 0)
		r = store_pair(request, path, id, key_pem, error);
	if (r < 0)
		certificate_wipe(&key_pem);
	else
		*ret_key_pem = key_pem;
	return r;
}

/* ── asking ──────────────────────────────────────────────────────────────────────────────── */

/* An `error` message's own words. */
static int told_error(const struct json *message, struct error *error)
{
	const char *text = "the appliance refuses", *mend = "";
	(void)json_find_text(message, "message", &text, NULL);
	(void)json_find_text(message, "mend", &mend, NULL);
	return error_set(error, -EACCES, mend, "%s", text);
}

/* Says `question` and fills certificate and authority in from the answer. */
static int ask(struct tls_context *tls, const char *appliance, const struct cJSON *question,
	int stop_fd, struct identity *identity, struct error *error)
{
	struct connection *connection;
	CLEANUP(json_freep) struct cJSON *json = NULL;
	struct json message;
	const char *type, *certificate, *authority;
	int r = connection_connect(tls, appliance, TALK_MS, stop_fd, error, &connection);
	if (r < 0)
		return r;
	r = connection_send_control(connection, question, NULL, error);
	/* Why a certificate was refused can be read even if sending failed for it. */
	if (r == 0 || r == -ECONNRESET)
		r = connection_receive_control(connection, TALK_MS, &json, &type, error);
	connection_free(connection);
	if (r < 0)
		return r;
	json_root(json, "the appliance's answer", &message);
	if (strcmp(type, "error") == 0)
		return told_error(&message, error);
	if (strcmp(type, "enrolled") != 0)
		return error_set(error, -EPROTO, NULL, "the appliance answered something else");
	r = json_get_text(&message, "certificate", &certificate, error);
	if (r == 0)
		r = json_get_text(&message, "authority", &authority, error);
	if (r < 0)
		return -EPROTO;
	free(identity->certificate_pem);
	free(identity->authority_pem);
	identity->certificate_pem = strdup(certificate);
	identity->authority_pem = strdup(authority);
	return identity->certificate_pem && identity->authority_pem
		       ? 0
		       : error_set(error, -ENOMEM, NULL, "out of memory");
}

static int make_question(const char *type, const char *csr, struct cJSON **ret_json)
{
	CLEANUP(json_freep) struct cJSON *json = NULL;
	int r = json_new_object(&json);
	if (r == 0)
		r = json_add_text(json, "type", type);
	if (r == 0)
		r = json_add_text(json, "csr", csr);
	if (r == 0)
		*ret_json = TAKE(json);
	return r;
}

static int enroll_question(const struct enroll_request *request, const struct registration_key *key,
	const char *csr, struct cJSON **ret_json)
{
	CLEANUP(json_freep) struct cJSON *json = NULL;
	struct cJSON *object;
	char host[65] = "", secret[KEY_SECRET_TEXT_BYTES];
	(void)gethostname(host, sizeof(host) - 1);
	key_secret_format(key->secret, secret);
	int r = make_question("enroll", csr, &json);
	if (r == 0)
		r = json_add_object(json, "key", &object);
	if (r == 0)
		r = json_add_text(object, "id", key->id);
	if (r == 0)
		r = json_add_text(object, "secret", secret);
	if (r == 0)
		r = json_add_text(json, "machine", request->machine);
	if (r == 0)
		r = json_add_text(json, "host", host);
	if (r == 0)
		r = json_add_text(json, "version", LANDFALL_VERSION);
	OPENSSL_cleanse(secret, sizeof(secret));
	if (r == 0)
		*ret_json = TAKE(json);
	return r;
}

/* ── enrolling ───────────────────────────────────────────────────────────────────────────── */

/* The authority that came with the answer is the one that the registration key names. */
static int check_authority(
	const struct identity *identity, const struct registration_key *key, struct error *error)
{
	struct certificate_facts facts;
	int r = certificate_read(identity->authority_pem, error, &facts);
	if (r == 0 && memcmp(facts.key, key->authority, sizeof(facts.key)) != 0)
		r = error_set(error, -EACCES, NULL,
			"the appliance names another authority than the registration key");
	return r;
}

static int win(const struct enroll_request *request, const struct registration_key *key,
	struct identity *identity, struct error *error)
{
	const struct tls_client_options options = { .authority_fingerprint = key->authority };
	CLEANUP(json_freep) struct cJSON *question = NULL;
	CLEANUP_FREE char *csr = NULL;
	struct tls_context *tls;
	int r = certificate_make_request(identity->key_pem, request->machine, error, &csr);
	if (r == 0 && enroll_question(request, key, csr, &question) < 0)
		r = error_set(error, -ENOMEM, NULL, "out of memory");
	if (r == 0)
		r = tls_client_new(&options, error, &tls);
	if (r < 0)
		return r;
	r = ask(tls, request->appliance, question, -1, identity, error);
	tls_free(tls);
	if ((r == -ECONNRESET || r == -ETIMEDOUT) && error && !error->mend[0])
		snprintf(error->mend, sizeof(error->mend),
			"run the same command again: its key serves until it has succeeded");
	return r == 0 ? check_authority(identity, key, error) : r;
}

/* Won with this key already, and good for a while: nothing is to be done. */
static bool is_enrolled(const struct enroll_request *request, const struct registration_key *key)
{
	struct identity *identity;
	if (identity_load(request->io, request->directory, NULL, &identity) < 0)
		return false;
	bool same = strcmp(identity->key_id, key->id) == 0 &&
		    strcmp(identity->machine, request->machine) == 0 &&
		    strcmp(identity->appliance, request->appliance) == 0 &&
		    identity->not_after_ns > clock_realtime_ns(clock_system());
	identity_free(identity);
	return same;
}

static int new_identity(const struct enroll_request *request, const struct registration_key *key,
	struct error *error, struct identity **ret_identity)
{
	struct identity *identity = calloc(1, sizeof(*identity));
	if (identity)
		identity->appliance = strdup(request->appliance);
	if (!identity || !identity->appliance) {
		identity_free(identity);
		return error_set(error, -ENOMEM, NULL, "out of memory");
	}
	snprintf(identity->machine, sizeof(identity->machine), "%s", request->machine);
	snprintf(identity->key_id, sizeof(identity->key_id), "%s", key->id);
	*ret_identity = identity;
	return 0;
}

static int enroll(const struct enroll_request *request, const struct registration_key *key,
	struct identity *identity, struct error *error)
{
	CLEANUP(buf_free) struct buf path = { 0 };
	int r = path_of(request->directory, &path, error);
	if (r == 0)
		r = have_pair(request, path.data, key->id, error, &identity->key_pem);
	if (r == 0)
		r = win(request, key, identity, error);
	if (r == 0)
		r = identity_save(request->io, request->directory, identity, error);
	/* It holds the same key; left behind it would only be one more place to look after. */
	if (r == 0 && io_unlink(request->io, path.data) == 0)
		(void)io_sync_dir(request->io, request->directory);
	return r;
}

int enroll_machine(const struct enroll_request *request, struct error *error)
{
	struct registration_key key;
	if (strlen(request->machine) >= TLS_NAME_BYTES)
		return error_set(error, -EINVAL, NULL, "the machine's name is too long");
	if (key_text_parse(request->key, &key) < 0)
		return error_set(error, -EINVAL,
			"paste all of what landfall key create printed: landfall-1.….….…",
			"that is no registration key");
	struct identity *identity = NULL;
	int r = io_make_dir(request->io, request->directory);
	if (r < 0 && r != -EEXIST)
		r = error_set(error, r, r == -EACCES ? "run it as root" : NULL,
			"%s: cannot be made: %s", request->directory, strerrordesc_np(-r));
	else if (is_enrolled(request, &key))
		r = 0;
	else if ((r = new_identity(request, &key, error, &identity)) == 0)
		r = enroll(request, &key, identity, error);
	identity_free(identity);
	OPENSSL_cleanse(&key, sizeof(key));
	return r;
}

/* ── renewing ────────────────────────────────────────────────────────────────────────────── */

bool enroll_renewal_is_due(const struct identity *identity, int64_t now_ns)
{
	return identity->not_after_ns - now_ns <=
	       (identity->not_after_ns - identity->not_before_ns) / 3;
}

static int renew(struct identity *identity, int stop_fd, struct error *error)
{
	CLEANUP(json_freep) struct cJSON *question = NULL;
	CLEANUP_FREE char *csr = NULL;
	CLEANUP_FREE char *authority = strdup(identity->authority_pem);
	struct tls_context *tls;
	int r = authority ? certificate_make_request(
				    identity->key_pem, identity->machine, error, &csr)
			  : error_set(error, -ENOMEM, NULL, "out of memory");
	if (r == 0 && make_question("renew", csr, &question) < 0)
		r = error_set(error, -ENOMEM, NULL, "out of memory");
	if (r == 0)
		r = identity_tls(identity, error, &tls);
	if (r < 0)
		return r;
	r = ask(tls, identity->appliance, question, stop_fd, identity, error);
	tls_free(tls);
	if (r == 0) {
		/* It stays the authority that we know. */
		free(identity->authority_pem);
		identity->authority_pem = TAKE(authority);
	}
	return r;
}

int enroll_renew(struct io *io, const char *directory, int stop_fd, struct error *error)
{
	struct identity *identity;
	int r = identity_load(io, directory, error, &identity);
	if (r < 0)
		return r;
	r = renew(identity, stop_fd, error);
	if (r == 0)
		r = identity_save(io, directory, identity, error);
	identity_free(identity);
	return r;
}
