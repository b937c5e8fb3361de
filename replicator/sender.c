/*
 * See sender.h.
 *
 * Invariants: a slot's buffer is referenced until the slot is free; target->under_way counts its
 * slots under way; a fencing target gets no new request; a request is submitted with the
 * target's number of that moment, so every request under way to a target bears the same number.
 */
#include "replicator/sender.h"

#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <sys/mman.h>

#include "common/bytes.h"
#include "common/cleanup.h"
#include "common/io.h"
#include "common/rng.h"
#include "replicator/backoff.h"

#define DEFAULT_PARALLEL 16u
#define BUFFERS_MAX_BYTES (36ull << 20)
#define HUGE_PAGE_BYTES (2ul << 20)
#define MAX_TRIES 8u
#define MAX_STALE 3u
#define MAX_RAISES 8u
#define FIRST_WAIT_NS (200 * NS_PER_MS)
#define LONGEST_WAIT_NS (8 * NS_PER_S)
#define CANCEL_POLL_MS 500

enum slot_state { SLOT_FREE, SLOT_QUEUED, SLOT_UNDER_WAY };

struct slot {
	enum slot_state state;
	struct sender_target *target;
	struct sender_buffer *buffer; /* NULL for a clear */
	unsigned tries;
	int64_t not_before_ns;
	struct blob_request request;
};

struct sender {
	struct sender_options options;
	struct rng rng;
	struct token_bucket own_bandwidth, *bandwidth;
	struct sender_buffer *idle; /* buffers nobody uses */
	uint64_t buffer_bytes;      /* of all, idle or not */
	/* a clear that the next may continue */
	struct sender_target *clear_target;
	uint64_t clear_offset, clear_length;
	int failed;
	struct error failure;
	struct sender_counts counts;
	unsigned under_way, slot_count;
	struct slot slots[];
};

static int64_t now_ns(const struct sender *s)
{
	return s->options.clock ? clock_monotonic_ns(s->options.clock) : 0;
}

int sender_new(const struct sender_options *options, struct sender **ret_sender)
{
	unsigned parallel = options->parallel > 0 ? options->parallel : DEFAULT_PARALLEL;
	struct sender *s = calloc(1, sizeof(*s) + parallel * sizeof(s->slots[0]));
	if (!s)
		return -ENOMEM;
	s->options = *options;
	s->slot_count = parallel;
	rng_seed(&s->rng, (uint64_t)now_ns(s));
	if (options->clock)
		token_bucket_init(&s->own_bandwidth, options->clock, 0, 1);
	s->bandwidth = options->bandwidth_bucket ? options->bandwidth_bucket : &s->own_bandwidth;
	if (options->clock && !s->bandwidth->clock)
		token_bucket_init(s->bandwidth, options->clock, 0, 1);
	*ret_sender = s;
	return 0;
}

static int fail(struct sender *s, int code, const struct error *error)
{
	if (s->failed == 0) {
		s->failed = code;
		s->failure = *error;
		s->failure.code = code;
	}
	return s->failed;
}

/* The answer of every call once something has failed. */
static int check(struct sender *s, struct error *error)
{
	struct error canceled;
	if (s->failed == 0 && s->options.cancel && atomic_load(s->options.cancel)) {
		error_set(&canceled, -ECANCELED, NULL, "canceled");
		fail(s, -ECANCELED, &canceled);
	}
	if (s->failed != 0 && error)
		*error = s->failure;
	return s->failed;
}

/* ── buffers ─────────────────────────────────────────────────────────────────────────────── */

static void drop_idle(struct sender *s)
{
	while (s->idle) {
		struct sender_buffer *buffer = s->idle;
		s->idle = buffer->next;
		s->buffer_bytes -= buffer->capacity;
		free(buffer->data);
		free(buffer);
	}
}

void sender_buffer_release(struct sender *s, struct sender_buffer *buffer)
{
	if (!buffer || --buffer->refs > 0)
		return;
	buffer->next = s->idle;
	s->idle = buffer;
}

static struct sender_buffer *take_idle(struct sender *s, size_t n)
{
	for (struct sender_buffer **at = &s->idle; *at; at = &(*at)->next) {
		struct sender_buffer *buffer = *at;
		if (buffer->capacity >= n && buffer->capacity / 8 <= n) {
			*at = buffer->next;
			return buffer;
		}
	}
	return NULL;
}

static int new_buffer(struct sender *s, size_t n, struct sender_buffer **ret_buffer)
{
	struct sender_buffer *buffer = calloc(1, sizeof(*buffer));
	if (!buffer)
		return -ENOMEM;
	buffer->capacity = 16384;
	while (buffer->capacity < n)
		buffer->capacity *= 2;
	bool huge = buffer->capacity >= HUGE_PAGE_BYTES;
	buffer->data = aligned_alloc(huge ? HUGE_PAGE_BYTES : IO_DIRECT_ALIGN, buffer->capacity);
	if (!buffer->data) {
		free(buffer);
		return -ENOMEM;
	}
	if (huge)
		(void)madvise(buffer->data, buffer->capacity, MADV_HUGEPAGE);
	s->buffer_bytes += buffer->capacity;
	*ret_buffer = buffer;
	return 0;
}

/* ── requests ────────────────────────────────────────────────────────────────────────────── */

static void free_slot(struct sender *s, struct slot *slot)
{
	if (slot->buffer)
		sender_buffer_release(s, slot->buffer);
	*slot = (struct slot){ 0 };
}

/* What was reserved and is not sent: whoever shares the limits need not wait for it. */
static void refund(struct sender *s, struct slot *slot)
{
	if (slot->state != SLOT_QUEUED || !s->options.clock)
		return;
	token_bucket_refund(&slot->target->requests, 1);
	if (slot->request.verb != BLOB_PUT_PAGES)
		return;
	token_bucket_refund(&slot->target->bytes, slot->request.length);
	token_bucket_refund(s->bandwidth, slot->request.length);
}

/* Reserves the request's share of the limits; it may go out once that is paid. */
static void pace(struct sender *s, struct slot *slot)
{
	struct sender_target *target = slot->target;
	uint64_t bytes = slot->request.verb == BLOB_PUT_PAGES ? slot->request.length : 0;
	if (!s->options.clock)
		return;
	if (!target->paced) {
		const struct blob_limits *limits = &s->options.store->limits;
		token_bucket_init(&target->requests, s->options.clock, limits->requests_per_s,
			limits->requests_per_s / 4 + 1);
		token_bucket_init(&target->bytes, s->options.clock, limits->bytes_per_s,
			2 * BLOB_MAX_PUT_BYTES);
		target->paced = true;
	}
	int64_t wait = token_bucket_reserve(&target->requests, 1);
	if (bytes > 0) {
		int64_t more = token_bucket_reserve(&target->bytes, bytes);
		wait = MAX(wait, more);
		uint64_t rate = s->options.bandwidth
					? s->options.bandwidth(s->options.bandwidth_context)
					: 0;
		token_bucket_set_rate(s->bandwidth, rate, rate > 0 ? MAX(rate / 4, 1ull) : 1);
		more = token_bucket_reserve(s->bandwidth, bytes);
		wait = MAX(wait, more);
	}
	slot->not_before_ns = MAX(slot->not_before_ns, now_ns(s) + wait);
}

int64_t sender_wait_ns(const struct sender *s, const struct sender_target *target, uint64_t n)
{
	if (!s->options.clock || !target->paced)
		return 0;
	int64_t requests_ns = token_bucket_peek(&target->requests, 1);
	int64_t bytes_ns = token_bucket_peek(&target->bytes, n);
	return MAX(requests_ns, bytes_ns);
}

static void requeue(struct sender *s, struct slot *slot)
{
	int64_t ceiling = FIRST_WAIT_NS << MIN(slot->tries, 10u);
	ceiling = MIN(ceiling, LONGEST_WAIT_NS);
	slot->state = SLOT_QUEUED;
	slot->tries++;
	if (s->options.clock)
		slot->not_before_ns = now_ns(s) + (int64_t)rng_below(&s->rng, (uint64_t)ceiling);
	s->counts.retries++;
	pace(s, slot);
}

static void acknowledge(struct sender *s, struct slot *slot)
{
	const struct blob_request *request = &slot->request;
	if (request->verb == BLOB_PUT_PAGES) {
		s->counts.put_requests++;
		s->counts.put_bytes += request->length;
	} else {
		s->counts.clear_requests++;
		s->counts.clear_bytes += request->length;
	}
	if (s->options.acknowledged)
		s->options.acknowledged(s->options.acknowledged_context, request->length);
	free_slot(s, slot);
}

static void complete(struct sender *s, struct slot *slot)
{
	struct blob_request *request = &slot->request;
	struct sender_target *target = slot->target;
	int r = request->result;
	target->under_way--;
	s->under_way--;
	if (r == 0) {
		target->stale = 0;
		acknowledge(s, slot);
		return;
	}
	/* A refusal for the number or the lease: raising the number tells which it was. All that
	 * was under way is refused together, and counts once. */
	bool stale = r == -ESTALE && (target->fencing || ++target->stale <= MAX_STALE);
	if (r == -ECANCELED || slot->tries + 1 >= MAX_TRIES ||
		(!stale && !backoff_is_passing(r, &request->error))) {
		slot->state = SLOT_QUEUED;
		fail(s, r, &request->error.error);
		return;
	}
	if (stale || request->error.ambiguous)
		target->fencing = true;
	requeue(s, slot);
}

static void submit(struct sender *s, struct slot *slot)
{
	struct blob_request *request = &slot->request;
	request->sequence = slot->target->sequence;
	request->lease_id = slot->target->lease_id;
	request->result = 0;
	request->error = (struct blob_error){ 0 };
	slot->state = SLOT_UNDER_WAY;
	slot->target->under_way++;
	s->under_way++;
	int r = s->options.store->ops->submit(s->options.store, request);
	if (r < 0) {
		request->result = r;
		if (request->error.error.code == 0)
			error_set(&request->error.error, r, NULL,
				"cannot send a request to %s: error %d", request->blob, -r);
		complete(s, slot);
	}
}

static struct slot *slot_of(const struct blob_request *request)
{
	return (struct slot *)((char *)request - offsetof(struct slot, request));
}

/* Raises the numbers of targets that wait for it, submits what may go; returns when the next
 * queued request may go, INT64_MAX if none waits for time. */
static int64_t submit_ready(struct sender *s)
{
	int64_t now = now_ns(s), next = INT64_MAX;
	for (unsigned i = 0; i < s->slot_count && s->failed == 0; i++) {
		struct slot *slot = &s->slots[i];
		struct sender_target *target = slot->target;
		if (slot->state != SLOT_QUEUED)
			continue;
		if (target->fencing) {
			if (target->under_way > 0)
				continue;
			s->counts.fences++;
			if (sender_raise(s, target, target->sequence + 1, NULL) < 0)
				continue;
		}
		if (slot->not_before_ns <= now)
			submit(s, slot);
		else
			next = MIN(next, slot->not_before_ns);
	}
	return next;
}

/* One step of the work: sends what may be sent, then waits for an answer or for time. */
static void step(struct sender *s)
{
	struct blob_request *request;
	int64_t next = submit_ready(s);
	int64_t wait_ns = next == INT64_MAX ? INT64_MAX : MAX(next - now_ns(s), 0);
	if (s->under_way == 0) {
		if (s->failed == 0 && wait_ns != INT64_MAX && s->options.clock)
			clock_sleep_ns(s->options.clock, MIN(wait_ns, CANCEL_POLL_MS * NS_PER_MS));
		return;
	}
	int timeout_ms = CANCEL_POLL_MS;
	if (wait_ns < CANCEL_POLL_MS * NS_PER_MS)
		timeout_ms = (int)((wait_ns + NS_PER_MS - 1) / NS_PER_MS);
	if (s->options.store->ops->wait(s->options.store, timeout_ms, &request) == 0)
		complete(s, slot_of(request));
}

void sender_free(struct sender *s)
{
	struct error abandoned;
	if (!s)
		return;
	error_set(&abandoned, -ECANCELED, NULL, "abandoned");
	fail(s, -ECANCELED, &abandoned);
	while (s->under_way > 0)
		step(s);
	for (unsigned i = 0; i < s->slot_count; i++) {
		refund(s, &s->slots[i]);
		free_slot(s, &s->slots[i]);
	}
	drop_idle(s);
	free(s);
}

/* ── the number ──────────────────────────────────────────────────────────────────────────── */

static int learn_number(struct sender *s, struct sender_target *target, struct blob_error *error)
{
	struct blob_store *store = s->options.store;
	struct blob_properties properties;
	struct backoff backoff;
	int r;
	backoff_start(&backoff, store, s->options.cancel);
	do {
		r = store->ops->properties(store, target->blob, error, &properties);
	} while (r < 0 && backoff_again(&backoff, r, error));
	if (r < 0)
		return r;
	target->sequence = properties.sequence;
	target->size_bytes = properties.size_bytes;
	return 0;
}

static int raise_to(struct sender *s, struct sender_target *target, int64_t want,
	struct blob_error *error, int64_t *ret_number)
{
	struct blob_store *store = s->options.store;
	struct backoff backoff;
	int r;
	backoff_start(&backoff, store, s->options.cancel);
	do {
		r = store->ops->raise_sequence(
			store, target->blob, target->lease_id, want, error, ret_number);
	} while (r < 0 && backoff_again(&backoff, r, error));
	return r;
}

int sender_raise(
	struct sender *s, struct sender_target *target, int64_t at_least, struct error *error)
{
	struct blob_error e = { 0 };
	int64_t number = 0;
	int r = check(s, error);
	if (r == 0 && target->sequence < 0)
		r = learn_number(s, target, &e);
	if (r < 0)
		goto out;
	int64_t want = MAX(at_least, target->sequence + 1);
	for (unsigned i = 0; i < MAX_RAISES; i++) {
		r = raise_to(s, target, want, &e, &number);
		if (r < 0)
			goto out;
		target->sequence = number;
		if (number == want) {
			target->fencing = false;
			return 0;
		}
		want = number + 1;
	}
	r = error_set(&e.error, -ESTALE, "see that only one appliance uses this vault",
		"%s: its sequence number is being raised by somebody else", target->blob);
out:
	if (s->failed == 0)
		fail(s, r, &e.error);
	return check(s, error);
}

/* ── what callers hand in ────────────────────────────────────────────────────────────────── */

int sender_buffer_get(
	struct sender *s, size_t n, struct error *error, struct sender_buffer **ret_buffer)
{
	struct sender_buffer *buffer;
	int r = check(s, error);
	while (r == 0) {
		buffer = take_idle(s, n);
		if (buffer)
			break;
		if (s->buffer_bytes + 2 * n > BUFFERS_MAX_BYTES && s->idle)
			drop_idle(s);
		if (s->buffer_bytes + n <= BUFFERS_MAX_BYTES) {
			if (new_buffer(s, n, &buffer) < 0)
				return error_set(error, -ENOMEM, NULL,
					"not enough memory for a buffer of %zu bytes", n);
			break;
		}
		step(s);
		r = check(s, error);
	}
	if (r < 0)
		return r;
	buffer->refs = 1;
	*ret_buffer = buffer;
	return 0;
}

static int queue(struct sender *s, struct sender_target *target, enum blob_verb verb,
	uint64_t offset, uint64_t length, struct sender_buffer *buffer, size_t at,
	struct error *error)
{
	struct slot *slot = NULL;
	for (;;) {
		int r = check(s, error);
		if (r < 0)
			return r;
		for (unsigned i = 0; i < s->slot_count && !slot; i++)
			if (s->slots[i].state == SLOT_FREE)
				slot = &s->slots[i];
		if (slot)
			break;
		step(s);
	}
	slot->state = SLOT_QUEUED;
	slot->target = target;
	slot->buffer = buffer;
	if (buffer)
		buffer->refs++;
	slot->request = (struct blob_request){ .verb = verb,
		.blob = target->blob,
		.offset = offset,
		.length = length,
		.data = buffer ? buffer->data + at : NULL };
	pace(s, slot);
	submit_ready(s);
	return check(s, error);
}

static int queue_clear(struct sender *s, struct error *error)
{
	struct sender_target *target = s->clear_target;
	if (!target)
		return check(s, error);
	s->clear_target = NULL;
	return queue(s, target, BLOB_CLEAR_PAGES, s->clear_offset, s->clear_length, NULL, 0, error);
}

int sender_put(struct sender *s, struct sender_target *target, uint64_t offset,
	struct sender_buffer *buffer, size_t at, size_t n, struct error *error)
{
	int r = queue_clear(s, error);
	if (r < 0)
		return r;
	return queue(s, target, BLOB_PUT_PAGES, offset, n, buffer, at, error);
}

int sender_clear(struct sender *s, struct sender_target *target, uint64_t offset, uint64_t length,
	struct error *error)
{
	if (s->clear_target == target && s->clear_offset + s->clear_length == offset) {
		s->clear_length += length;
		return check(s, error);
	}
	int r = queue_clear(s, error);
	if (r < 0)
		return r;
	s->clear_target = target;
	s->clear_offset = offset;
	s->clear_length = length;
	return 0;
}

static bool is_idle(const struct sender *s)
{
	for (unsigned i = 0; i < s->slot_count; i++)
		if (s->slots[i].state != SLOT_FREE)
			return false;
	return true;
}

int sender_drain(struct sender *s, struct error *error)
{
	int r = queue_clear(s, error);
	while (r == 0 && !is_idle(s)) {
		step(s);
		r = check(s, error);
	}
	return r;
}

void sender_counts(const struct sender *s, struct sender_counts *ret_counts)
{
	*ret_counts = s->counts;
}
