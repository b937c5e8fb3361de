/*
 * See vault_moment.h.
 */
#include "tests/sim/vault_moment.h"

#include <errno.h>

struct moment moment;

static bool is_cut_off(void)
{
	if (moment.in_act)
		return false;
	moment.calls++;
	if (!moment.act)
		return moment.at != 0 && moment.calls >= moment.at;
	if (moment.calls == moment.at) {
		moment.in_act = true;
		moment.act(moment.world);
		moment.in_act = false;
	}
	return false;
}

int moment_away(struct blob_error *e)
{
	return error_set(&e->error, -EACCES, NULL, "cut off");
}

static int at_list(struct blob_store *store, const char *prefix, unsigned flags,
	int (*each)(void *context, const struct blob_item *item), void *context,
	struct blob_error *e)
{
	return is_cut_off() ? moment_away(e)
			    : moment.real.list(store, prefix, flags, each, context, e);
}

static int at_get(struct blob_store *store, const char *name, size_t limit, struct blob_error *e,
	struct buf *ret_data, char ret_etag[static BLOB_ETAG_BYTES])
{
	return is_cut_off() ? moment_away(e)
			    : moment.real.object_get(store, name, limit, e, ret_data, ret_etag);
}

static int at_read(struct blob_store *store, const char *name, uint64_t offset, void *data,
	size_t n, struct blob_error *e, size_t *ret_n, char ret_etag[static BLOB_ETAG_BYTES])
{
	return is_cut_off()
		       ? moment_away(e)
		       : moment.real.object_read(store, name, offset, data, n, e, ret_n, ret_etag);
}

static int at_put(struct blob_store *store, const char *name, const void *data, size_t n,
	const char *if_match, const struct blob_metadata *metadata, unsigned count,
	struct blob_error *e, char ret_etag[static BLOB_ETAG_BYTES])
{
	return is_cut_off() ? moment_away(e)
			    : moment.real.object_put(
				      store, name, data, n, if_match, metadata, count, e, ret_etag);
}

static int at_object_delete(
	struct blob_store *store, const char *name, const char *if_match, struct blob_error *e)
{
	return is_cut_off() ? moment_away(e) : moment.real.object_delete(store, name, if_match, e);
}

static int at_commit(struct blob_store *store, const char *name, uint64_t series, unsigned parts,
	const char *if_match, struct blob_error *e)
{
	if (is_cut_off())
		return moment_away(e);
	moment.commits++;
	return moment.real.object_commit(store, name, series, parts, if_match, e);
}

static int at_stage(struct blob_store *store, const char *name, uint64_t series, unsigned part,
	const void *data, size_t n, struct blob_error *e)
{
	return is_cut_off() ? moment_away(e)
			    : moment.real.object_stage(store, name, series, part, data, n, e);
}

static int at_delete_blob(struct blob_store *store, const char *blob, const char *snapshot,
	const char *lease_id, struct blob_error *e)
{
	return is_cut_off() ? moment_away(e)
			    : moment.real.delete_blob(store, blob, snapshot, lease_id, e);
}

static int at_snapshot(struct blob_store *store, const char *blob, const char *lease_id,
	const struct blob_metadata *metadata, unsigned count, struct blob_error *e,
	char ret_snapshot[static BLOB_SNAPSHOT_ID_BYTES])
{
	return is_cut_off() ? moment_away(e)
			    : moment.real.snapshot(
				      store, blob, lease_id, metadata, count, e, ret_snapshot);
}

static int at_wait(struct blob_store *store, int timeout_ms, struct blob_request **ret_request)
{
	(void)is_cut_off();
	return moment.real.wait(store, timeout_ms, ret_request);
}

static int at_break(struct blob_store *store, const char *blob, struct blob_error *e)
{
	return is_cut_off() ? moment_away(e) : moment.real.lease_break(store, blob, e);
}

void moment_watch(struct world *w, struct appliance *a, unsigned at, void (*act)(struct world *))
{
	moment.world = w;
	moment.real = a->ops;
	moment.act = act;
	moment.calls = moment.commits = 0;
	moment.at = at;
	a->ops.list = at_list;
	a->ops.object_get = at_get;
	a->ops.object_read = at_read;
	a->ops.object_put = at_put;
	a->ops.object_delete = at_object_delete;
	a->ops.object_stage = at_stage;
	a->ops.object_commit = at_commit;
	a->ops.delete_blob = at_delete_blob;
	a->ops.lease_break = at_break;
	a->ops.snapshot = at_snapshot;
	a->ops.wait = at_wait;
}

bool moment_has_come(void)
{
	return moment.calls >= moment.at;
}

void moment_end(struct appliance *a)
{
	a->ops = moment.real;
}
