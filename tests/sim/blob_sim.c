/*
 * The simulated blob service: stores, faults, and what is under way. What changes do when they
 * land is in blob_sim_state.c.
 *
 * A change meets one of five fates: done and answered; done and answered, and landing again
 * later; done, the answer lost; lost, the answer lost; landing later, the answer lost. Whatever
 * is under way lands before any later operation by chance, in any order, or never.
 */
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "tests/sim/blob_sim_state.h"

#include "common/bytes.h"

#define MAX_UNDER_WAY 64

struct sim_store {
	struct blob_store store;
	struct blob_sim *service;
	const atomic_bool *stop;
	uint64_t epoch;
	struct blob_request *requests[MAX_UNDER_WAY];
	unsigned count;
};

static struct sim_store *store_of(struct blob_store *store)
{
	return CONTAINER_OF(store, struct sim_store, store);
}

static int answer(struct blob_error *error, int r, bool ambiguous, const char *what)
{
	if (error) {
		memset(error, 0, sizeof(*error));
		error->ambiguous = ambiguous;
		if (r < 0)
			(void)error_set(&error->error, r, NULL, "simulated service: %s: %s%s", what,
				strerror(-r), ambiguous ? " (ambiguous)" : "");
	}
	return r;
}

/* Any of what is under way may land now. */
static void land_some(struct blob_sim *service, unsigned percent)
{
	struct sim_change **link = &service->late;
	while (*link) {
		struct sim_change *c = *link;
		if (rng_below(&service->rng, 100) >= percent) {
			link = &c->next;
			continue;
		}
		struct sim_answer ignored;
		*link = c->next;
		(void)blob_state_apply(service, c, &ignored);
		sim_change_free(c);
	}
}

static void land_later(struct blob_sim *service, const struct sim_change *change)
{
	struct sim_change *copy = sim_change_copy(change);
	copy->next = service->late;
	service->late = copy;
}

/* What stands before any call: power, reach, overload. 0 or what to answer. */
static int reach(struct sim_store *store, struct blob_error *error)
{
	struct blob_sim *service = store->service;
	if (service->disk && io_sim_is_off(service->disk))
		return answer(error, -ECONNRESET, true, "power is off");
	if (store->epoch != service->epoch)
		return answer(error, -ECONNRESET, true, "of an earlier life");
	if (store->stop && atomic_load(store->stop))
		return answer(error, -ECANCELED, false, "stopped");
	land_some(service, 10);
	if (service->away)
		return answer(error, -ECONNREFUSED, false, "away");
	if (rng_below(&service->rng, 100) < service->overload)
		return answer(error, -EAGAIN, false, "overloaded");
	return 0;
}

/* Sends a change on its way and returns the answer that comes back. */
static int change(struct sim_store *store, const struct sim_change *c, struct blob_error *error,
	struct sim_answer *ret_answer)
{
	struct blob_sim *service = store->service;
	int r = reach(store, error);
	if (r < 0)
		return r;
	if (service->disk && io_sim_external_op(service->disk)) {
		/* The power goes out while it is under way: it lands now, later or never. */
		uint64_t fate = rng_below(&service->rng, 3);
		if (fate == 0)
			(void)blob_state_apply(service, c, ret_answer);
		else if (fate == 1)
			land_later(service, c);
		return answer(error, -ECONNRESET, true, "power cut");
	}
	if (rng_below(&service->rng, 100) >= service->faults)
		return answer(error, blob_state_apply(service, c, ret_answer), false, c->blob);
	switch (rng_below(&service->rng, 4)) {
	case 0:
		r = blob_state_apply(service, c, ret_answer);
		/* Only page writes are sent twice by a network: the rest is small. */
		if (c->verb == SIM_PUT_PAGES || c->verb == SIM_CLEAR_PAGES)
			land_later(service, c);
		return answer(error, r, false, c->blob);
	case 1:
		(void)blob_state_apply(service, c, ret_answer);
		break;
	case 2:
		break;
	default:
		land_later(service, c);
	}
	static const int errors[] = { -ETIMEDOUT, -ECONNRESET };
	return answer(error, errors[rng_below(&service->rng, 2)], true, c->blob);
}

/* ── data plane ──────────────────────────────────────────────────────────────────────────── */

static int sim_submit(struct blob_store *s, struct blob_request *request)
{
	struct sim_store *store = store_of(s);
	if (store->count == MAX_UNDER_WAY)
		return -EAGAIN;
	store->requests[store->count++] = request;
	return 0;
}

static int read_pages(struct sim_store *store, struct blob_request *q)
{
	int r = reach(store, &q->error);
	if (r < 0)
		return r;
	struct sim_blob *blob = blob_state_find(store->service, q->blob);
	struct sim_snapshot *snapshot = NULL;
	if (blob && q->snapshot)
		snapshot = blob_state_snapshot(blob, q->snapshot);
	if (!blob || (q->snapshot && !snapshot))
		return answer(&q->error, -ENOENT, false, q->blob);
	const struct content *content = snapshot ? &snapshot->content : &blob->content;
	if (q->offset + q->length > content->bytes)
		return answer(&q->error, -EINVAL, false, q->blob);
	content_read(content, q->offset, q->data, q->length);
	return answer(&q->error, 0, false, q->blob);
}

static int sim_wait(struct blob_store *s, int timeout_ms, struct blob_request **ret_request)
{
	struct sim_store *store = store_of(s);
	(void)timeout_ms;
	if (store->count == 0)
		return -EAGAIN;
	unsigned i = (unsigned)rng_below(&store->service->rng, store->count);
	struct blob_request *q = store->requests[i];
	store->requests[i] = store->requests[--store->count];
	if (q->verb == BLOB_READ) {
		q->result = read_pages(store, q);
	} else {
		struct sim_answer ignored;
		struct sim_change c = {
			.verb = q->verb == BLOB_PUT_PAGES ? SIM_PUT_PAGES : SIM_CLEAR_PAGES,
			.blob = (char *)q->blob,
			.lease = (char *)q->lease_id,
			.offset = q->offset,
			.length = q->length,
			.sequence = q->sequence,
			.data = q->verb == BLOB_PUT_PAGES ? q->data : NULL,
		};
		q->result = change(store, &c, &q->error, &ignored);
	}
	*ret_request = q;
	return 0;
}

/* ── page blobs ──────────────────────────────────────────────────────────────────────────── */

static int simple(struct blob_store *s, struct sim_change c, struct blob_error *error)
{
	struct sim_answer ignored;
	return change(store_of(s), &c, error, &ignored);
}

static int sim_create(
	struct blob_store *s, const char *blob, uint64_t size_bytes, struct blob_error *error)
{
	return simple(s,
		(struct sim_change){
			.verb = SIM_CREATE, .blob = (char *)blob, .length = size_bytes },
		error);
}

static int sim_resize(struct blob_store *s, const char *blob, uint64_t size_bytes,
	const char *lease_id, const char *if_match, struct blob_error *error)
{
	return simple(s,
		(struct sim_change){ .verb = SIM_RESIZE,
			.blob = (char *)blob,
			.if_match = (char *)if_match,
			.length = size_bytes,
			.lease = (char *)lease_id },
		error);
}

static int sim_properties(struct blob_store *s, const char *name, struct blob_error *error,
	struct blob_properties *ret_properties)
{
	struct sim_store *store = store_of(s);
	int r = reach(store, error);
	if (r < 0)
		return r;
	const struct sim_blob *blob = blob_state_find(store->service, name);
	if (!blob || blob->is_object)
		return answer(error, -ENOENT, false, name);
	ret_properties->size_bytes = blob->content.bytes;
	ret_properties->sequence = blob->sequence;
	ret_properties->leased = blob->lease[0] != '\0';
	snprintf(ret_properties->etag, sizeof(ret_properties->etag), "\"%" PRIu64 "\"", blob->etag);
	return answer(error, 0, false, name);
}

static int sim_raise_sequence(struct blob_store *s, const char *blob, const char *lease_id,
	int64_t at_least, struct blob_error *error, int64_t *ret_sequence)
{
	struct sim_change c = { .verb = SIM_RAISE,
		.blob = (char *)blob,
		.lease = (char *)lease_id,
		.sequence = at_least };
	struct sim_answer a;
	int r = change(store_of(s), &c, error, &a);
	if (r == 0)
		*ret_sequence = a.sequence;
	return r;
}

static void metadata_of(
	struct sim_metadata *to, const struct blob_metadata *metadata, unsigned count)
{
	to->count = MIN(count, (unsigned)SIM_METADATA);
	for (unsigned i = 0; i < to->count; i++) {
		to->names[i] = (char *)metadata[i].name;
		to->values[i] = (char *)metadata[i].value;
	}
}

static int sim_snapshot(struct blob_store *s, const char *blob, const char *lease_id,
	const struct blob_metadata *metadata, unsigned metadata_count, struct blob_error *error,
	char ret_snapshot[static BLOB_SNAPSHOT_ID_BYTES])
{
	struct sim_change c = {
		.verb = SIM_SNAPSHOT, .blob = (char *)blob, .lease = (char *)lease_id
	};
	struct sim_answer a;
	metadata_of(&c.metadata, metadata, metadata_count);
	int r = change(store_of(s), &c, error, &a);
	if (r == 0)
		strcpy(ret_snapshot, a.snapshot);
	return r;
}

static int sim_delete_blob(struct blob_store *s, const char *blob, const char *snapshot,
	const char *lease_id, struct blob_error *error)
{
	return simple(s,
		(struct sim_change){ .verb = SIM_DELETE,
			.blob = (char *)blob,
			.snapshot = (char *)snapshot,
			.lease = (char *)lease_id },
		error);
}

/* A page is written or not; what is all zeros counts as not written. */
static int sim_ranges(struct blob_store *s, const char *name, const char *snapshot,
	const char *previous, uint64_t offset, uint64_t length,
	int (*each)(void *context, const struct blob_range *range), void *context,
	struct blob_error *error)
{
	struct sim_store *store = store_of(s);
	int r = reach(store, error);
	if (r < 0)
		return r;
	struct sim_blob *blob = blob_state_find(store->service, name);
	struct sim_snapshot *at = blob && snapshot ? blob_state_snapshot(blob, snapshot) : NULL;
	struct sim_snapshot *old = blob && previous ? blob_state_snapshot(blob, previous) : NULL;
	if (!blob || (snapshot && !at) || (previous && !old))
		return answer(error, -ENOENT, false, name);
	const struct content *content = at ? &at->content : &blob->content;
	uint64_t end = MIN(offset + length, content->bytes);
	for (uint64_t sector = offset; sector < end && r == 0; sector += SECTOR_BYTES) {
		unsigned char now[SECTOR_BYTES], then[SECTOR_BYTES] = { 0 };
		content_read(content, sector, now, sizeof(now));
		if (old && sector < old->content.bytes)
			content_read(&old->content, sector, then, sizeof(then));
		if (memcmp(now, then, sizeof(now)) == 0)
			continue;
		struct blob_range range = { .offset = sector,
			.length = SECTOR_BYTES,
			.cleared = old && is_zero(now, sizeof(now)) };
		r = each(context, &range);
	}
	(void)answer(error, 0, false, name);
	return r;
}

/* ── leases ──────────────────────────────────────────────────────────────────────────────── */

static int lease(struct blob_store *s, enum sim_verb verb, const char *blob, const char *id,
	const char *other, struct blob_error *error)
{
	return simple(s,
		(struct sim_change){ .verb = verb,
			.blob = (char *)blob,
			.lease = (char *)id,
			.other = (char *)other },
		error);
}

static int sim_lease_acquire(
	struct blob_store *s, const char *blob, const char *id, struct blob_error *error)
{
	return lease(s, SIM_LEASE_ACQUIRE, blob, id, NULL, error);
}

static int sim_lease_change(struct blob_store *s, const char *blob, const char *id,
	const char *new_id, struct blob_error *error)
{
	return lease(s, SIM_LEASE_CHANGE, blob, id, new_id, error);
}

static int sim_lease_release(
	struct blob_store *s, const char *blob, const char *id, struct blob_error *error)
{
	return lease(s, SIM_LEASE_RELEASE, blob, id, NULL, error);
}

static int sim_lease_break(struct blob_store *s, const char *blob, struct blob_error *error)
{
	return lease(s, SIM_LEASE_BREAK, blob, NULL, NULL, error);
}

/* ── names and objects ───────────────────────────────────────────────────────────────────── */

static int list_item(const struct sim_blob *blob, const struct sim_snapshot *snapshot,
	unsigned flags, int (*each)(void *context, const struct blob_item *item), void *context)
{
	struct blob_metadata metadata[SIM_METADATA];
	const struct sim_metadata *m = snapshot ? &snapshot->metadata : &blob->metadata;
	char etag[BLOB_ETAG_BYTES];
	struct blob_item item = { .blob = blob->name, .metadata = metadata, .etag = etag };
	snprintf(etag, sizeof(etag), "\"%" PRIu64 "\"", blob->etag);
	item.snapshot = snapshot ? snapshot->id : NULL;
	item.size_bytes = snapshot ? snapshot->content.bytes : blob->content.bytes;
	for (unsigned i = 0; i < m->count && (flags & BLOB_LIST_METADATA); i++)
		metadata[item.metadata_count++] =
			(struct blob_metadata){ .name = m->names[i], .value = m->values[i] };
	return each(context, &item);
}

static int sim_list(struct blob_store *s, const char *prefix, unsigned flags,
	int (*each)(void *context, const struct blob_item *item), void *context,
	struct blob_error *error)
{
	struct sim_store *store = store_of(s);
	int r = reach(store, error);
	if (r < 0)
		return r;
	for (const struct sim_blob *b = store->service->blobs; b && r == 0; b = b->next) {
		if (strncmp(b->name, prefix, strlen(prefix)) != 0 || b->etag == 0)
			continue;
		for (const struct sim_snapshot *n = b->snapshots;
			n && r == 0 && (flags & BLOB_LIST_SNAPSHOTS); n = n->next)
			r = list_item(b, n, flags, each, context);
		if (r == 0)
			r = list_item(b, NULL, flags, each, context);
	}
	(void)answer(error, 0, false, prefix);
	return r;
}

static int sim_object_put(struct blob_store *s, const char *name, const void *data, size_t n,
	const char *if_match, const struct blob_metadata *metadata, unsigned metadata_count,
	struct blob_error *error, char ret_etag[static BLOB_ETAG_BYTES])
{
	struct sim_change c = { .verb = SIM_OBJECT_PUT,
		.blob = (char *)name,
		.if_match = (char *)if_match,
		.length = n,
		.data = (unsigned char *)data };
	struct sim_answer a;
	metadata_of(&c.metadata, metadata, metadata_count);
	int r = change(store_of(s), &c, error, &a);
	if (r == 0)
		snprintf(ret_etag, BLOB_ETAG_BYTES, "\"%" PRIu64 "\"", a.etag);
	return r;
}

static struct sim_blob *find_object(struct sim_store *store, const char *name)
{
	struct sim_blob *blob = blob_state_find(store->service, name);
	return blob && blob->is_object && blob->etag != 0 ? blob : NULL;
}

static int sim_object_get(struct blob_store *s, const char *name, size_t limit,
	struct blob_error *error, struct buf *ret_data, char ret_etag[static BLOB_ETAG_BYTES])
{
	struct sim_store *store = store_of(s);
	int r = reach(store, error);
	if (r < 0)
		return r;
	const struct sim_blob *blob = find_object(store, name);
	if (!blob)
		return answer(error, -ENOENT, false, name);
	if (blob->content.bytes > limit)
		return answer(error, -EFBIG, false, name);
	unsigned char *data = sim_alloc(blob->content.bytes);
	content_read(&blob->content, 0, data, blob->content.bytes);
	buf_clear(ret_data);
	r = buf_append(ret_data, data, blob->content.bytes);
	free(data);
	snprintf(ret_etag, BLOB_ETAG_BYTES, "\"%" PRIu64 "\"", blob->etag);
	return answer(error, r, false, name);
}

static int sim_object_read(struct blob_store *s, const char *name, uint64_t offset, void *data,
	size_t n, struct blob_error *error, size_t *ret_n, char ret_etag[static BLOB_ETAG_BYTES])
{
	struct sim_store *store = store_of(s);
	int r = reach(store, error);
	if (r < 0)
		return r;
	const struct sim_blob *blob = find_object(store, name);
	if (!blob)
		return answer(error, -ENOENT, false, name);
	uint64_t bytes = blob->content.bytes;
	/* Behind the end the service answers 416, without an ETag. */
	if (offset >= bytes)
		ret_etag[0] = '\0';
	else
		snprintf(ret_etag, BLOB_ETAG_BYTES, "\"%" PRIu64 "\"", blob->etag);
	size_t got = offset >= bytes ? 0 : MIN(n, bytes - offset);
	content_read(&blob->content, offset, data, got);
	*ret_n = got;
	return answer(error, 0, false, name);
}

static int sim_object_delete(
	struct blob_store *s, const char *name, const char *if_match, struct blob_error *error)
{
	return simple(s,
		(struct sim_change){ .verb = SIM_OBJECT_DELETE,
			.blob = (char *)name,
			.if_match = (char *)if_match },
		error);
}

static int sim_object_stage(struct blob_store *s, const char *name, uint64_t series, unsigned part,
	const void *data, size_t n, struct blob_error *error)
{
	return simple(s,
		(struct sim_change){ .verb = SIM_OBJECT_STAGE,
			.blob = (char *)name,
			.offset = part,
			.series = series,
			.length = n,
			.data = (unsigned char *)data },
		error);
}

static int sim_object_commit(struct blob_store *s, const char *name, uint64_t series,
	unsigned parts, const char *if_match, struct blob_error *error)
{
	return simple(s,
		(struct sim_change){ .verb = SIM_OBJECT_COMMIT,
			.blob = (char *)name,
			.length = parts,
			.series = series,
			.if_match = (char *)if_match },
		error);
}

static int sim_copy(struct blob_store *s, const char *blob, const char *snapshot,
	const char *new_blob, struct blob_error *error)
{
	return simple(s,
		(struct sim_change){ .verb = SIM_COPY,
			.blob = (char *)blob,
			.snapshot = (char *)snapshot,
			.other = (char *)new_blob },
		error);
}

static void sim_free(struct blob_store *s)
{
	free(store_of(s));
}

static const struct blob_store_ops store_ops = {
	.submit = sim_submit,
	.wait = sim_wait,
	.create = sim_create,
	.resize = sim_resize,
	.properties = sim_properties,
	.raise_sequence = sim_raise_sequence,
	.snapshot = sim_snapshot,
	.delete_blob = sim_delete_blob,
	.ranges = sim_ranges,
	.lease_acquire = sim_lease_acquire,
	.lease_change = sim_lease_change,
	.lease_release = sim_lease_release,
	.lease_break = sim_lease_break,
	.list = sim_list,
	.object_put = sim_object_put,
	.object_get = sim_object_get,
	.object_read = sim_object_read,
	.object_delete = sim_object_delete,
	.object_stage = sim_object_stage,
	.object_commit = sim_object_commit,
	.copy = sim_copy,
	.free = sim_free,
};

/* ── the service ─────────────────────────────────────────────────────────────────────────── */

static int sim_open_store(struct blob_service *s, const atomic_bool *stop, struct error *error,
	struct blob_store **ret_store)
{
	struct sim_store *store = sim_alloc(sizeof(*store));
	(void)error;
	memset(store, 0, sizeof(*store));
	store->store.ops = &store_ops;
	store->store.limits =
		(struct blob_limits){ .requests_per_s = 500, .bytes_per_s = 60ull << 20 };
	store->service = CONTAINER_OF(s, struct blob_sim, service);
	store->epoch = store->service->epoch;
	store->stop = stop;
	store->store.clock = &store->service->clock.source;
	store->store.stops[0] = stop;
	*ret_store = &store->store;
	return 0;
}

static int sim_create_container(struct blob_service *s, struct error *error)
{
	(void)s;
	(void)error;
	return 0;
}

static const char *sim_name(struct blob_service *s)
{
	(void)s;
	return "simulated/vault";
}

static const struct blob_service_ops service_ops = {
	.open_store = sim_open_store,
	.create_container = sim_create_container,
	.name = sim_name,
};

int blob_sim_new(uint64_t seed, struct io_sim *disk, struct blob_sim **ret_service)
{
	struct blob_sim *service = calloc(1, sizeof(*service));
	if (!service)
		return -ENOMEM;
	service->service.ops = &service_ops;
	service->disk = disk;
	clock_sim_init(&service->clock);
	rng_seed(&service->rng, seed);
	*ret_service = service;
	return 0;
}

void blob_sim_free(struct blob_sim *service)
{
	if (!service)
		return;
	while (service->late) {
		struct sim_change *c = service->late;
		service->late = c->next;
		sim_change_free(c);
	}
	blob_state_free(service);
	free(service);
}

struct blob_service *blob_sim_service(struct blob_sim *service)
{
	return &service->service;
}

void blob_sim_set_faults(struct blob_sim *service, unsigned percent)
{
	service->faults = percent;
}

void blob_sim_set_overload(struct blob_sim *service, unsigned percent)
{
	service->overload = percent;
}

void blob_sim_set_away(struct blob_sim *service, bool away)
{
	service->away = away;
}

void blob_sim_power_cut(struct blob_sim *service)
{
	service->epoch++;
}

void blob_sim_land_all(struct blob_sim *service)
{
	land_some(service, 100);
}

unsigned blob_sim_late_count(const struct blob_sim *service)
{
	unsigned n = 0;
	for (const struct sim_change *c = service->late; c; c = c->next)
		n++;
	return n;
}

const char *blob_sim_violation(const struct blob_sim *service)
{
	return service->violation[0] ? service->violation : NULL;
}

int blob_sim_peek(struct blob_sim *service, const char *name, const char *snapshot, uint64_t offset,
	void *data, uint64_t n)
{
	struct sim_blob *blob = blob_state_find(service, name);
	struct sim_snapshot *s = blob && snapshot ? blob_state_snapshot(blob, snapshot) : NULL;
	if (!blob || (snapshot && !s))
		return -ENOENT;
	content_read(s ? &s->content : &blob->content, offset, data, n);
	return 0;
}

int blob_sim_peek_object(struct blob_sim *service, const char *name, struct buf *ret_data)
{
	const struct sim_blob *blob = blob_state_find(service, name);
	if (!blob || !blob->is_object || blob->etag == 0)
		return -ENOENT;
	unsigned char *data = sim_alloc(blob->content.bytes);
	content_read(&blob->content, 0, data, blob->content.bytes);
	int r = buf_append(ret_data, data, blob->content.bytes);
	free(data);
	return r;
}

int blob_sim_rot(struct blob_sim *service, const char *name, const char *snapshot, uint64_t offset)
{
	struct sim_blob *blob = blob_state_find(service, name);
	struct sim_snapshot *s = blob && snapshot ? blob_state_snapshot(blob, snapshot) : NULL;
	unsigned char byte;
	if (!blob || (snapshot && !s))
		return -ENOENT;
	struct content *content = s ? &s->content : &blob->content;
	if (offset >= content->bytes)
		return -ENOENT;
	content_read(content, offset, &byte, 1);
	byte ^= 1;
	content_write(content, offset, &byte, 1, 0);
	return 0;
}

unsigned blob_sim_snapshots(struct blob_sim *service, const char *name)
{
	unsigned n = 0;
	const struct sim_blob *blob = blob_state_find(service, name);
	for (const struct sim_snapshot *s = blob ? blob->snapshots : NULL; s; s = s->next)
		n++;
	return n;
}
