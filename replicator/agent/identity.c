/*
 * See identity.h. One file holds all of it, so that a crash leaves the old identity or the new one,
 * never a key without its certificate.
 */
#include "replicator/agent/identity.h"

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

#define FILE_NAME "identity.json"
#define FILE_MAX_BYTES (64u << 10)

static int path_of(const char *directory, struct buf *path, struct error *error)
{
	if (buf_printf(path, "%s/" FILE_NAME, directory) < 0)
		return error_set(error, -ENOMEM, NULL, "out of memory");
	return 0;
}

void identity_free(struct identity *identity)
{
	if (!identity)
		return;
	free(identity->appliance);
	free(identity->authority_pem);
	free(identity->certificate_pem);
	certificate_wipe(&identity->key_pem);
	free(identity);
}

/* ── reading ─────────────────────────────────────────────────────────────────────────────── */

static int copy_text(const struct json *at, const char *name, char **ret_text, struct error *error)
{
	const char *text;
	int r = json_get_text(at, name, &text, error);
	if (r < 0)
		return r;
	char *copy = strdup(text);
	if (!copy)
		return error_set(error, -ENOMEM, NULL, "out of memory");
	*ret_text = copy;
	return 0;
}

/* What the certificate says counts, not what stands beside it. */
static int take_facts(struct identity *identity, struct error *error)
{
	struct certificate_facts facts;
	int r = certificate_check_set(
		identity->certificate_pem, identity->key_pem, identity->authority_pem, error);
	if (r == 0)
		r = certificate_read(identity->certificate_pem, error, &facts);
	if (r < 0)
		return r;
	memcpy(identity->machine, facts.name, sizeof(identity->machine));
	identity->not_before_ns = facts.not_before_ns;
	identity->not_after_ns = facts.not_after_ns;
	return 0;
}

static int parse(const char *path, const char *text, size_t n, struct identity *identity,
	struct error *error)
{
	CLEANUP(json_freep) struct cJSON *json = NULL;
	struct json root;
	const char *key_id;
	int r = json_parse(text, n, NULL, &json, error);
	if (r < 0)
		return r;
	json_root(json, path, &root);
	r = json_get_text(&root, "key_id", &key_id, error);
	if (r < 0)
		return r;
	snprintf(identity->key_id, sizeof(identity->key_id), "%s", key_id);
	r = copy_text(&root, "appliance", &identity->appliance, error);
	if (r == 0)
		r = copy_text(&root, "authority", &identity->authority_pem, error);
	if (r == 0)
		r = copy_text(&root, "certificate", &identity->certificate_pem, error);
	if (r == 0)
		r = copy_text(&root, "key", &identity->key_pem, error);
	return r == 0 ? take_facts(identity, error) : r;
}

int identity_load(
	struct io *io, const char *directory, struct error *error, struct identity **ret_identity)
{
	CLEANUP(buf_free) struct buf path = { 0 };
	char *text = NULL;
	size_t n;
	int r = path_of(directory, &path, error);
	if (r < 0)
		return r;
	r = io_load_file(io, path.data, FILE_MAX_BYTES, &text, &n);
	if (r == -ENOENT)
		return error_set(error, r,
			"run landfall-agent enroll with a key of the appliance's",
			"this machine is not enrolled with an appliance");
	if (r < 0)
		return error_set(error, r, r == -EACCES ? "run it as root" : NULL,
			"%s: cannot be read: %s", path.data, strerrordesc_np(-r));
	struct error own = { 0 };
	struct identity *identity = calloc(1, sizeof(*identity));
	r = identity ? parse(path.data, text, n, identity, &own)
		     : error_set(&own, -ENOMEM, NULL, "out of memory");
	certificate_wipe(&text);
	if (r < 0) {
		identity_free(identity);
		return error_set(error, r == -ENOMEM ? r : -EBADMSG,
			"enrol the machine again with a new key", "%s: %s", path.data, own.message);
	}
	*ret_identity = identity;
	return 0;
}

/* ── writing ─────────────────────────────────────────────────────────────────────────────── */

static int write_text(const struct identity *identity, struct buf *text)
{
	CLEANUP(json_freep) struct cJSON *json = NULL;
	int r = json_new_object(&json);
	if (r == 0)
		r = json_add_u64(json, "version", 1);
	if (r == 0)
		r = json_add_text(json, "machine", identity->machine);
	if (r == 0)
		r = json_add_text(json, "key_id", identity->key_id);
	if (r == 0)
		r = json_add_text(json, "appliance", identity->appliance);
	if (r == 0)
		r = json_add_text(json, "authority", identity->authority_pem);
	if (r == 0)
		r = json_add_text(json, "certificate", identity->certificate_pem);
	if (r == 0)
		r = json_add_text(json, "key", identity->key_pem);
	return r == 0 ? json_print(json, true, text) : r;
}

int identity_save(
	struct io *io, const char *directory, const struct identity *identity, struct error *error)
{
	CLEANUP(buf_free) struct buf path = { 0 }, text = { 0 };
	struct certificate_facts facts;
	int r = certificate_check_set(
		identity->certificate_pem, identity->key_pem, identity->authority_pem, error);
	if (r == 0)
		r = certificate_read(identity->certificate_pem, error, &facts);
	if (r == 0 && strcmp(facts.name, identity->machine) != 0)
		r = error_set(error, -EBADMSG, NULL, "the certificate is for machine %s, not %s",
			facts.name, identity->machine);
	if (r == 0)
		r = path_of(directory, &path, error);
	if (r < 0)
		return r;
	r = write_text(identity, &text);
	if (r == 0)
		r = io_replace_file(io, path.data, text.data, text.len);
	if (text.data)
		OPENSSL_cleanse(text.data, text.len);
	if (r < 0)
		return error_set(error, r, "make room, and check the directory's rights",
			"%s: cannot be written: %s", path.data, strerrordesc_np(-r));
	return 0;
}

int identity_tls(
	const struct identity *identity, struct error *error, struct tls_context **ret_context)
{
	const struct tls_client_options options = { .authority_pem = identity->authority_pem,
		.certificate_pem = identity->certificate_pem,
		.key_pem = identity->key_pem };
	return tls_client_new(&options, error, ret_context);
}
