/*
 * vault.json: that a container is a vault, and of which format.
 */
#include "replicator/vault_internal.h"

#include <errno.h>
#include <string.h>

#include "common/cleanup.h"
#include "replicator/sealed_json.h"

#define VAULT_FORMAT 1
#define VAULT_MAX_BYTES 65536u

static void free_store(struct blob_store **store)
{
	if (*store)
		(*store)->ops->free(*store);
}

static int identity_format(const struct vault_identity *identity, struct buf *text)
{
	CLEANUP(json_freep) struct cJSON *object = NULL;
	if (json_new_object(&object) < 0 || json_add_text(object, "product", "landfall") < 0 ||
		json_add_u64(object, "format", identity->format) < 0 ||
		json_add_uuid(object, "id", &identity->id) < 0 ||
		json_add_time(object, "created", identity->created_ns) < 0)
		return -ENOMEM;
	return sealed_json_format(object, text);
}

static int identity_parse(const struct buf *text, struct error *error, struct vault_identity *ret)
{
	CLEANUP(json_freep) struct cJSON *object = NULL;
	struct vault_identity identity;
	struct json root;
	uint64_t format;
	int r = sealed_json_parse(VAULT_IDENTITY_NAME, text->data, text->len, error, &object);
	if (r < 0)
		return r;
	json_root(object, VAULT_IDENTITY_NAME, &root);
	if ((r = json_get_u64(&root, "format", &format, error)) < 0 ||
		(r = json_get_uuid(&root, "id", &identity.id, error)) < 0 ||
		(r = json_get_time(&root, "created", &identity.created_ns, error)) < 0)
		return r == -ENOENT ? -EBADMSG : r;
	if (format != VAULT_FORMAT)
		return error_set(error, -EPROTONOSUPPORT, "use the newer release that made it",
			"the vault has format %llu, this release knows %d",
			(unsigned long long)format, VAULT_FORMAT);
	identity.format = (unsigned)format;
	*ret = identity;
	return 0;
}

int vault_open(struct blob_store *store, struct error *error, struct vault_identity *ret_identity)
{
	CLEANUP(buf_free) struct buf text = { 0 };
	char etag[BLOB_ETAG_BYTES];
	int r = vault_object_get(store, VAULT_IDENTITY_NAME, VAULT_MAX_BYTES, error, &text, etag);
	if (r == -ENOENT)
		return error_set(error, -ENOENT, "make it one with: landfall vault init",
			"the container is not a vault: it has no " VAULT_IDENTITY_NAME);
	return r < 0 ? r : identity_parse(&text, error, ret_identity);
}

int vault_init(struct blob_service *service, struct clock_source *clock, struct error *error,
	bool *ret_created, struct vault_identity *ret_identity)
{
	CLEANUP(free_store) struct blob_store *store = NULL;
	CLEANUP(buf_free) struct buf text = { 0 };
	struct vault_identity identity = { .format = VAULT_FORMAT,
		.created_ns = clock_realtime_ns(clock) };
	char etag[BLOB_ETAG_BYTES];
	struct error put_error;
	int r = service->ops->create_container(service, error);
	if (r < 0)
		return r;
	r = service->ops->open_store(service, NULL, error, &store);
	if (r < 0)
		return r;
	r = uuid_generate(&identity.id);
	if (r == 0)
		r = identity_format(&identity, &text);
	if (r < 0)
		return error_set(error, r, NULL, "cannot make the vault's identity");
	r = vault_object_put(store, VAULT_IDENTITY_NAME, &text, "", NULL, 0, &put_error, etag);
	if (r == -EEXIST || r == -ESTALE) {
		r = vault_open(store, error, ret_identity);
		if (r == 0)
			*ret_created = false;
		return r;
	}
	if (r < 0) {
		if (error)
			*error = put_error;
		return r;
	}
	*ret_created = true;
	*ret_identity = identity;
	return 0;
}
