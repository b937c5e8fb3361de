/*
 * Verifying: is what the appliance has what the disk holds? In rounds, while everything runs.
 *
 * A batch of chunks is asked for and compared. A chunk that differs proves nothing if it was
 * written meanwhile (it is marked, or what was read of it is not proven yet), or if a cut took
 * marks between the question and the answer: it is looked at again in the next round, after the
 * next recovery point has carried it over. One that differs and was not touched is a difference. To
 * repair it, it is marked as if it had been written: the next recovery point carries it over like
 * any change.
 *
 * Some chunks are marked in every round, above all those with the superblocks of mounted
 * filesystems: thawing writes them. What is left after the first rounds is therefore compared page
 * by page. If all pages that differ are marked, nothing is amiss: they are known to be sent yet.
 *
 * Of a disk that is scanned nothing is marked. What differs there is a difference if the chunk
 * holds what was sent last; else it was written since, which may hide a difference in it: it is
 * counted as unverified, and told.
 */
#include <cjson/cJSON.h>
#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "common/bytes.h"
#include "common/cleanup.h"
#include "common/log.h"
#include "replicator/agent/session_internal.h"

#define TELL_NS NS_PER_S
#define ARRIVE_NS (60 * NS_PER_S)
#define PAGES_ROUND 3u /* from this one on chunks are looked at page by page */

static struct source_disk *disk_of(const struct session *s)
{
	return s->options->source->disks[s->verify.disk];
}

static bool is_proven(const struct session_verify *v, uint64_t chunk)
{
	return v->proven[chunk / 64] >> chunk % 64 & 1;
}

static void prove(struct session_verify *v, uint64_t chunk)
{
	if (is_proven(v, chunk))
		return;
	v->proven[chunk / 64] |= 1ull << chunk % 64;
	v->proven_count++;
}

static int tell(struct session *s, bool round_over, bool done)
{
	struct session_verify *v = &s->verify;
	struct cJSON *json = session_message("verified");
	int r = json ? json_add_u64(json, "disk", disk_of(s)->number) : -ENOMEM;
	if (r == 0)
		r = json_add_u64(json, "round", v->round);
	if (r == 0)
		r = json_add_u64(json, "chunks", v->chunks);
	if (r == 0)
		r = json_add_u64(json, "proven", v->proven_count);
	if (r == 0)
		r = json_add_u64(json, "differing", v->differing_count);
	if (r == 0)
		r = json_add_u64(json, "unverified", v->unverified_count);
	if (r == 0)
		r = json_add_bool(json, "round_over", round_over);
	if (r == 0)
		r = json_add_bool(json, "done", done);
	if (r < 0)
		json_freep(&json);
	v->told_ns = clock_monotonic_ns(clock_system());
	return session_say(s, json);
}

void session_end_verify(struct session *s)
{
	free(s->verify.proven);
	s->verify = (struct session_verify){ 0 };
}

/* The disk is not there, so that whoever waits for a verdict need not. */
static int tell_ended(struct session *s, uint64_t number)
{
	static const char *const figures[] = { "round", "chunks", "proven", "differing" };
	struct cJSON *json = session_message("verified");
	int r = json ? json_add_u64(json, "disk", number) : -ENOMEM;
	for (size_t i = 0; r == 0 && i < ARRAY_SIZE(figures); i++)
		r = json_add_u64(json, figures[i], 0);
	if (r == 0)
		r = json_add_bool(json, "round_over", false);
	if (r == 0)
		r = json_add_bool(json, "done", false);
	if (r == 0)
		r = json_add_bool(json, "ended", true);
	if (r < 0)
		json_freep(&json);
	return session_say(s, json);
}

int session_verify_gone(struct session *s)
{
	const struct source_disk *disk = s->verify.active ? disk_of(s) : NULL;
	if (!disk || !disk->gone)
		return 0;
	log_warning("disk %s went while it was verified", disk->id);
	session_end_verify(s);
	return tell_ended(s, disk->number);
}

int session_take_verify(struct session *s, const struct json *message)
{
	struct source *source = s->options->source;
	struct session_verify *v = &s->verify;
	uint64_t number;
	bool repair = false;
	unsigned i = 0;
	session_end_verify(s);
	if (json_get_u64(message, "disk", &number, NULL) < 0)
		return 0; /* of no disk: stop */
	(void)json_find_bool(message, "repair", &repair, NULL);
	while (i < source->count &&
		(!source->disks[i]->accepted || source->disks[i]->number != number))
		i++;
	if (i == source->count)
		return tell_ended(s, number);
	v->chunks = source_disk_bytes(source->disks[i]) / WIRE_CHUNK_BYTES;
	v->proven = calloc(v->chunks / 64 + 1, sizeof(*v->proven));
	if (!v->proven)
		return -ENOMEM;
	v->active = true;
	v->repair = repair;
	v->disk = i;
	v->round = 1;
	log_info("disk %s: verified against the appliance", source->disks[i]->id);
	return 0;
}

/* ── a batch ─────────────────────────────────────────────────────────────────────────────── */

static bool by_pages(const struct session_verify *v)
{
	return v->round >= PAGES_ROUND;
}

/* Unproven neighbours from `next` on; one where pages are compared. */
static bool find_batch(struct session_verify *v)
{
	while (v->next < v->chunks && is_proven(v, v->next))
		v->next++;
	v->batch_first = v->next;
	v->batch_count = 0;
	uint32_t most = by_pages(v) ? 1 : COMPARE_ASK_CHUNKS;
	while (v->batch_count < most && v->next < v->chunks && !is_proven(v, v->next)) {
		v->next++;
		v->batch_count++;
	}
	return v->batch_count > 0;
}

static int ask_batch(struct session *s)
{
	struct session_verify *v = &s->verify;
	/* What an unsuccessful cut has sent is under way: the answer might be from before it. */
	int r = pipeline_wait_arrived(s->pipeline, ARRIVE_NS);
	if (r < 0)
		return r == -ETIMEDOUT ? 0 : r;
	bool pages = by_pages(v);
	struct cJSON *json = session_message(pages ? "pages" : "hashes");
	r = json ? json_add_u64(json, "disk", disk_of(s)->number) : -ENOMEM;
	if (r == 0)
		r = json_add_u64(json, pages ? "chunk" : "first_chunk", v->batch_first);
	if (r == 0 && !pages)
		r = json_add_u64(json, "count", v->batch_count);
	if (r < 0)
		json_freep(&json);
	v->asked = true;
	v->open = v->batch_count;
	v->batch_differing = 0;
	v->cuts = s->cuts;
	return session_say(s, json);
}

int session_verify_hashes(struct session *s, const struct event *event)
{
	struct session_verify *v = &s->verify;
	int r = 0;
	if (!v->active || !v->asked || event->disk != disk_of(s)->number ||
		event->first != v->batch_first || event->count != v->batch_count)
		return 0;
	for (uint32_t c = 0; r == 0 && c < event->count; c++) {
		const struct task task = { .kind = TASK_COMPARE,
			.disk = disk_of(s),
			.offset = (event->first + c) * WIRE_CHUNK_BYTES,
			.length = WIRE_CHUNK_BYTES,
			.expected = { event->values[2 * c], event->values[2 * c + 1] } };
		r = pipeline_put(s->pipeline, &task);
	}
	return r;
}

static bool is_touched(struct source_disk *disk, uint64_t offset, uint64_t length)
{
	if (offset >= disk->disk.bytes)
		return false;
	length = MIN(length, disk->disk.bytes - offset);
	SCOPED_LOCK(&disk->lock);
	return tracker_is_dirty(disk->tracked, offset, length) ||
	       tracker_is_unsure(disk->tracked, offset, length);
}

/* Chunk differs, and nobody has written to where it does. */
static void note_difference(struct session *s, uint64_t chunk)
{
	struct session_verify *v = &s->verify;
	log_warning("disk %s differs from what the appliance has at byte %" PRIu64, disk_of(s)->id,
		chunk * WIRE_CHUNK_BYTES);
	v->differing_count++;
	prove(v, chunk); /* that it differs */
	if (!v->repair)
		return;
	source_scan_forget(disk_of(s), chunk * WIRE_CHUNK_BYTES);
	source_put_back(disk_of(s), chunk * WIRE_CHUNK_BYTES, WIRE_CHUNK_BYTES);
}

/* Judged when all of the batch was read, so that a mark set meanwhile is seen. */
static void judge_batch(struct session *s)
{
	struct session_verify *v = &s->verify;
	struct source_disk *disk = disk_of(s);
	for (unsigned i = 0; i < v->batch_differing && v->cuts == s->cuts; i++) {
		uint64_t chunk = v->differing[i];
		if (!is_touched(disk, chunk * WIRE_CHUNK_BYTES, WIRE_CHUNK_BYTES))
			note_difference(s, chunk);
	}
	v->asked = false;
}

enum look { LOOK_EQUAL, LOOK_DIFFERS, LOOK_UNKNOWN };

/* Whether a page differs that is not marked. Marks are looked at after reading. */
static enum look look_at(
	struct source_disk *disk, uint64_t chunk, const uint64_t *pages, const uint8_t *data)
{
	uint64_t hashes[WIRE_CHUNK_PAGES], offset = chunk * WIRE_CHUNK_BYTES;
	frame_hash_pages(data, WIRE_CHUNK_BYTES, hashes);
	if (memcmp(hashes, pages, sizeof(hashes)) == 0)
		return LOOK_EQUAL;
	if (disk->scans)
		return source_scan_is_sent(disk, offset, checksum128(hashes, sizeof(hashes)))
			       ? LOOK_DIFFERS
			       : LOOK_UNKNOWN;
	for (unsigned i = 0; i < WIRE_CHUNK_PAGES; i++) {
		if (hashes[i] != pages[i] &&
			!is_touched(disk, offset + i * WIRE_PAGE_BYTES, WIRE_PAGE_BYTES))
			return LOOK_DIFFERS;
	}
	return LOOK_EQUAL;
}

/* Read by the thread that conducts: it is about few chunks. What cannot be read stays unproven. */
int session_verify_pages(struct session *s, const struct event *event)
{
	struct session_verify *v = &s->verify;
	struct source_disk *disk = v->active ? disk_of(s) : NULL;
	if (!disk || !v->asked || !by_pages(v) || event->disk != disk->number ||
		event->first != v->batch_first || event->count != WIRE_CHUNK_PAGES)
		return 0;
	void *data = NULL;
	if (posix_memalign(&data, WIRE_PAGE_BYTES, WIRE_CHUNK_BYTES) != 0)
		return -ENOMEM;
	v->asked = false;
	int r = source_read(disk, event->first * WIRE_CHUNK_BYTES, data, WIRE_CHUNK_BYTES);
	if (r == 0 && v->cuts == s->cuts) {
		enum look found = look_at(disk, event->first, event->values, data);
		v->unverified_count += found == LOOK_UNKNOWN;
		if (found == LOOK_DIFFERS)
			note_difference(s, event->first);
		else
			prove(v, event->first);
	}
	free(data);
	return 0;
}

static bool is_of_batch(const struct session_verify *v, uint64_t chunk)
{
	return v->asked && chunk >= v->batch_first && chunk < v->batch_first + v->batch_count;
}

void session_verify_event(struct session *s, const struct event *event)
{
	struct session_verify *v = &s->verify;
	if (!v->active || event->source != disk_of(s) || !is_of_batch(v, event->first))
		return;
	/* Equal is equal, whatever happened meanwhile: both were the same once in this round. */
	if (event->kind == EVENT_COMPARED)
		prove(v, event->first);
	else if (event->kind == EVENT_DIFFERS)
		v->differing[v->batch_differing++] = event->first;
	if (--v->open == 0)
		judge_batch(s);
}

/* ── rounds ──────────────────────────────────────────────────────────────────────────────── */

int session_advance_verify(struct session *s)
{
	struct session_verify *v = &s->verify;
	if (!v->active || v->asked || !session_is_whole(s))
		return 0;
	/* After a round, the next recovery point carries over what was in the way. */
	if (v->resting && s->cuts == v->rest_cuts)
		return 0;
	v->resting = false;
	if (find_batch(v)) {
		int r = ask_batch(s);
		if (r == 0 && clock_monotonic_ns(clock_system()) - v->told_ns > TELL_NS)
			r = tell(s, false, false);
		return r;
	}
	if (v->proven_count == v->chunks) {
		int r = tell(s, true, true);
		session_end_verify(s);
		return r;
	}
	int r = tell(s, true, false);
	v->round++;
	v->next = 0;
	v->resting = true;
	v->rest_cuts = s->cuts;
	return r;
}
