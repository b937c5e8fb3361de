/*
 * What the appliance says of our disks, and comparing those that are not known to be whole.
 *
 * One disk is compared at a time, in the order of the list, so that the source is read gently and
 * in sequence. A chunk that differs has its pages asked for and is read once more when the answer
 * comes. Where the appliance has zeros, or cannot prove what it has, there is nothing to ask for:
 * what differs is sent as it was read.
 */
#include <cjson/cJSON.h>
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/bytes.h"
#include "common/cleanup.h"
#include "common/log.h"
#include "replicator/agent/session_internal.h"

#define TELL_CHUNKS 64u
#define ARRIVE_NS (2 * NS_PER_S)
#define RETRY_FIRST_NS (2 * NS_PER_S)
#define RETRY_LONGEST_NS (60 * NS_PER_S)

static struct source_disk *by_number(struct session *s, uint16_t number, unsigned *ret_index)
{
	struct source *source = s->options->source;
	for (unsigned i = 0; i < source->count; i++) {
		if (!source->disks[i]->accepted || source->disks[i]->number != number)
			continue;
		*ret_index = i;
		return source->disks[i];
	}
	return NULL;
}

static unsigned index_of(const struct session *s, const struct source_disk *disk)
{
	unsigned i = 0;
	while (s->options->source->disks[i] != disk)
		i++;
	return i;
}

/* ── naming them ─────────────────────────────────────────────────────────────────────────── */

/* Who gets the disk's changes: an appliance, which knows the machine and the disk by these names.
 */
static uint64_t holder_of(const struct session *s, const struct source_disk *disk)
{
	const struct identity *identity = s->options->identity;
	struct {
		struct hash128 authority;
		char machine[TLS_NAME_BYTES];
		char id[SOURCE_ID_BYTES];
	} holder;
	memset(&holder, 0, sizeof(holder));
	holder.authority = checksum128(identity->authority_pem, strlen(identity->authority_pem));
	snprintf(holder.machine, sizeof(holder.machine), "%s", identity->machine);
	snprintf(holder.id, sizeof(holder.id), "%s", disk->id);
	return checksum64(&holder, sizeof(holder)) | 1;
}

static int add_disk(const struct session *s, struct cJSON *list, struct source_disk *disk)
{
	struct cJSON *item;
	uint64_t incarnation;
	int r = source_incarnation(disk, holder_of(s, disk), &incarnation);
	if (r == 0)
		r = json_add_object(list, NULL, &item);
	if (r == 0)
		r = json_add_text(item, "id", disk->id);
	if (r == 0)
		r = json_add_u64(item, "size_bytes", disk->disk.bytes);
	if (r == 0)
		r = json_add_text(item, "identity", disk->disk.identity);
	if (r == 0)
		r = json_add_text(
			item, "capture", tracker_method_name(s->options->source->tracker));
	return r == 0 ? json_add_u64(item, "incarnation", incarnation) : r;
}

/* What is meant not to be protected: what was said, and which disks of before that is. */
static int add_excluded(const struct source *source, struct cJSON *json)
{
	struct cJSON *list;
	int r = json_add_array(json, "excluded", &list);
	for (unsigned i = 0; r == 0 && source->exclude && source->exclude[i]; i++)
		r = json_add_text(list, NULL, source->exclude[i]);
	for (unsigned i = 0; r == 0 && i < source->left_out_count; i++)
		r = json_add_text(list, NULL, source->left_out[i]);
	return r;
}

int session_say_disks(struct session *s)
{
	struct source *source = s->options->source;
	struct cJSON *json = session_message("disks"), *list;
	int r = json ? json_add_array(json, "disks", &list) : -ENOMEM;
	for (unsigned i = 0; r == 0 && i < source->count; i++)
		if (!source->disks[i]->gone)
			r = add_disk(s, list, source->disks[i]);
	if (r == 0)
		r = add_excluded(source, json);
	if (r < 0)
		json_freep(&json);
	return session_say(s, json);
}

static void begin(struct session *s, unsigned index, uint64_t cursor)
{
	struct source_disk *disk = s->options->source->disks[index];
	s->disks[index].proves = cursor == 0 && source_compare_proves(disk);
	s->disks[index].comparing = true;
	s->disks[index].retry_ns = s->disks[index].retry_wait_ns = 0;
	compare_begin(&s->disks[index].compare, source_disk_bytes(disk) / WIRE_CHUNK_BYTES, cursor,
		clock_monotonic_ns(clock_system()));
	s->disks[index].compare.short_steps = s->disks[index].joining;
	log_info("disk %s: comparing with the appliance from byte %" PRIu64, disk->id,
		cursor * WIRE_CHUNK_BYTES);
}

static int take_one(struct session *s, const struct json *item)
{
	struct source *source = s->options->source;
	const char *id, *state, *text = "refused", *mend = "";
	struct json refusal = { 0 };
	uint64_t number, cursor = 0;
	unsigned i = 0;
	int r = json_get_text(item, "id", &id, NULL);
	while (r == 0 && i < source->count && strcmp(source->disks[i]->id, id) != 0)
		i++;
	if (r < 0 || i == source->count)
		return -EBADMSG;
	struct source_disk *disk = source->disks[i];
	disk->accepted = false;
	if (!disk->gone)
		disk->refusal = (struct error){ 0 };
	if (json_find_object(item, "error", &refusal, NULL) > 0) {
		(void)json_find_text(&refusal, "message", &text, NULL);
		(void)json_find_text(&refusal, "mend", &mend, NULL);
		error_set(&disk->refusal, -EPERM, mend, "%.400s", text);
		log_error("disk %s is refused: %s", disk->id, text);
		return 0;
	}
	r = json_get_u64(item, "disk", &number, NULL);
	if (r == 0)
		r = json_get_text(item, "state", &state, NULL);
	if (r == 0)
		r = json_get_u64(item, "cursor", &cursor, NULL);
	if (r < 0 || number > UINT16_MAX)
		return -EBADMSG;
	disk->accepted = !disk->gone;
	disk->number = (uint16_t)number;
	s->disks[i].joining = false;
	(void)json_find_bool(item, "joining", &s->disks[i].joining, NULL);
	bool same = s->disks[i].comparing &&
		    s->disks[i].compare.chunks == source_disk_bytes(disk) / WIRE_CHUNK_BYTES;
	if (strcmp(state, "continue") == 0 || disk->gone)
		s->disks[i].comparing = false;
	else if (!same)
		begin(s, i, cursor);
	return 0;
}

int session_take_disks(struct session *s, const struct json *message)
{
	struct error error = { 0 };
	struct json list;
	int r = json_get_array(message, "disks", &list, NULL);
	for (struct json item = { 0 }; r == 0 && json_each(&list, &item);)
		r = take_one(s, &item);
	if (r < 0) {
		error_set(&error, -EBADMSG, "is one of the two programs older?",
			"the appliance's answer about disks makes no sense");
		session_end(s, &error);
		return r;
	}
	s->disks_answered = true;
	/* What kept us from the appliance is over. */
	agent_status_set_error(s->options->status, &error);
	return 0;
}

int session_take_resync(struct session *s, const struct json *message)
{
	uint64_t number;
	unsigned i;
	if (json_get_u64(message, "disk", &number, NULL) == 0 && number <= UINT16_MAX &&
		by_number(s, (uint16_t)number, &i))
		begin(s, i, 0);
	return 0;
}

bool session_is_whole(const struct session *s)
{
	const struct source *source = s->options->source;
	bool some = false;
	for (unsigned i = 0; i < source->count; i++) {
		if (source->disks[i]->accepted && s->disks[i].comparing && !s->disks[i].joining)
			return false;
		some |= session_takes_part(s, i);
	}
	return s->disks_answered && some;
}

bool session_takes_part(const struct session *s, unsigned index)
{
	return s->options->source->disks[index]->accepted && !s->disks[index].comparing;
}

/* Chunks of disks that are gone whose pages were to be asked for. */
static void forget_wanted(struct session *s)
{
	struct event **at = &s->wanted;
	while (*at) {
		struct event *event = *at;
		if (!event->source->gone) {
			at = &event->next;
			continue;
		}
		*at = event->next;
		session_free_event(event);
	}
	s->wanted_end = at;
}

int session_disks_changed(struct session *s)
{
	struct source *source = s->options->source;
	bool gone = false;
	for (unsigned i = 0; i < source->count; i++) {
		if (!source->disks[i]->gone)
			continue;
		gone |= s->disks[i].comparing;
		s->disks[i].comparing = s->disks[i].joining = false;
	}
	forget_wanted(s);
	int r = session_verify_gone(s);
	if (r < 0)
		return r;
	/* What was read of it before is on its way, and is not to come after the word that it is
	 * gone. If it takes longer the session ends and the next one is right. */
	if (gone)
		(void)pipeline_wait_arrived(s->pipeline, ARRIVE_NS);
	return session_say_disks(s);
}

int session_distrust(struct session *s, struct source_disk *disk, const char *why)
{
	struct error error = { 0 };
	log_warning("disk %s: changes may have been missed (%s); it is compared with the appliance",
		disk->id, why);
	int r = source_distrust(disk, &error);
	if (r < 0) {
		session_end(s, &error);
		return r;
	}
	s->disks[index_of(s, disk)].comparing = false; /* the answer begins it anew */
	return session_say_disks(s);
}

/* ── comparing ───────────────────────────────────────────────────────────────────────────── */

static bool is_hash(struct hash128 a, struct hash128 b)
{
	return a.low == b.low && a.high == b.high;
}

/* The hashes of a chunk's pages where those of the chunk tell them: all zeros, or all unknown (0).
 * NULL: they have to be asked for, or there is no memory. */
static uint64_t *pages_of(const struct session *s, struct hash128 chunk)
{
	static const uint8_t zeros[WIRE_PAGE_BYTES];
	const struct hash128 unknown = { 0 };
	bool zero = is_hash(chunk, s->zero_chunk);
	uint64_t *pages =
		zero || is_hash(chunk, unknown) ? calloc(WIRE_CHUNK_PAGES, sizeof(*pages)) : NULL;
	for (unsigned i = 0; pages && zero && i < WIRE_CHUNK_PAGES; i++)
		if (i == 0)
			frame_hash_pages(zeros, sizeof(zeros), &pages[0]);
		else
			pages[i] = pages[0];
	return pages;
}

int session_take_hashes(struct session *s, struct event *event)
{
	unsigned i;
	struct source_disk *disk = by_number(s, event->disk, &i);
	if (!disk || !s->disks[i].comparing)
		return session_verify_hashes(s, event);
	struct compare *compare = &s->disks[i].compare;
	int r = 0;
	for (uint32_t c = 0; r == 0 && c < event->count; c++) {
		uint64_t chunk = event->first + c;
		if (chunk >= compare->asked)
			break;
		const struct hash128 hash = { event->values[2 * c], event->values[2 * c + 1] };
		const struct task task = { .kind = TASK_COMPARE,
			.disk = disk,
			.offset = chunk * WIRE_CHUNK_BYTES,
			.length = WIRE_CHUNK_BYTES,
			.expected = hash,
			.expected_pages = pages_of(s, hash) };
		r = pipeline_put(s->pipeline, &task);
	}
	if (event->first + event->count >= compare->asked && s->asked_hashes > 0)
		s->asked_hashes = 0;
	return r;
}

static int put_pages(
	struct session *s, struct source_disk *disk, uint64_t chunk, uint64_t *taken_values)
{
	const struct task task = { .kind = TASK_PAGES,
		.disk = disk,
		.offset = chunk * WIRE_CHUNK_BYTES,
		.length = WIRE_CHUNK_BYTES,
		.expected_pages = taken_values };
	return pipeline_put(s->pipeline, &task);
}

int session_take_pages(struct session *s, struct event *event)
{
	unsigned i;
	struct source_disk *disk = by_number(s, event->disk, &i);
	if (s->asked_pages > 0)
		s->asked_pages--;
	if (!disk || !s->disks[i].comparing || event->count != WIRE_CHUNK_PAGES)
		return session_verify_pages(s, event);
	return put_pages(s, disk, event->first, TAKE(event->values));
}

int session_take_differs(struct session *s, struct event *event)
{
	if (!s->disks[index_of(s, event->source)].comparing) {
		session_verify_event(s, event);
		return 0;
	}
	uint64_t *pages = pages_of(s, event->hash);
	if (pages)
		return put_pages(s, event->source, event->first, pages);
	struct event *copy = malloc(sizeof(*copy));
	if (!copy)
		return -ENOMEM;
	*copy = *event;
	copy->next = NULL;
	*s->wanted_end = copy;
	s->wanted_end = &copy->next;
	return 0;
}

int session_take_compared(struct session *s, struct event *event)
{
	struct session_disk *disk = &s->disks[index_of(s, event->source)];
	if (!disk->comparing) {
		session_verify_event(s, event);
		return 0;
	}
	disk->compare.differing += event->count;
	compare_chunk_done(&disk->compare, event->first);
	return 0;
}

int session_take_unread(struct session *s, struct event *event)
{
	struct session_disk *disk = &s->disks[index_of(s, event->source)];
	if (!disk->comparing)
		session_verify_event(s, event);
	if (!disk->comparing || disk->retry_ns > 0)
		return 0;
	bool again = disk->retry_wait_ns > 0 && disk->retry_cursor == disk->compare.cursor;
	disk->retry_wait_ns =
		again ? MIN(disk->retry_wait_ns * 2, RETRY_LONGEST_NS) : RETRY_FIRST_NS;
	disk->retry_ns = clock_monotonic_ns(clock_system()) + disk->retry_wait_ns;
	return 0;
}

/* From the first chunk that is not done, once the disk has had a while to come to itself: what was
 * found equal above it is found so again. */
static void retry_unread(struct session *s, unsigned index)
{
	struct source_disk *disk = s->options->source->disks[index];
	struct session_disk *d = &s->disks[index];
	if (d->retry_ns == 0 || clock_monotonic_ns(clock_system()) < d->retry_ns)
		return;
	d->retry_ns = 0;
	d->retry_cursor = d->compare.cursor;
	{
		SCOPED_LOCK(&disk->lock);
		log_warning("%s; it is read again", disk->error.message);
		disk->error = (struct error){ 0 };
	}
	d->compare.asked = d->compare.cursor;
	memset(d->compare.done, 0, sizeof(d->compare.done));
	s->asked_hashes = 0;
}

static int ask_pages(struct session *s)
{
	while (s->wanted && s->asked_pages < ASKED_PAGES_MAX) {
		struct event *event = s->wanted;
		struct cJSON *json = session_message("pages");
		int r = json ? json_add_u64(json, "disk", event->source->number) : -ENOMEM;
		if (r == 0)
			r = json_add_u64(json, "chunk", event->first);
		if (r < 0)
			json_freep(&json);
		r = session_say(s, json);
		if (r < 0)
			return r;
		s->asked_pages++;
		s->wanted = event->next;
		if (!s->wanted)
			s->wanted_end = &s->wanted;
		session_free_event(event);
	}
	return 0;
}

static int ask_hashes(struct session *s, const struct source_disk *disk, struct compare *compare)
{
	uint64_t first;
	uint32_t count;
	if (!pipeline_has_room(s->pipeline) || s->asked_hashes > 0)
		return 0;
	while (s->asked_hashes < ASKED_HASHES_MAX && compare_next_ask(compare, &first, &count)) {
		struct cJSON *json = session_message("hashes");
		int r = json ? json_add_u64(json, "disk", disk->number) : -ENOMEM;
		if (r == 0)
			r = json_add_u64(json, "first_chunk", first);
		if (r == 0)
			r = json_add_u64(json, "count", count);
		if (r < 0)
			json_freep(&json);
		r = session_say(s, json);
		if (r < 0)
			return r;
		s->asked_hashes++;
	}
	return 0;
}

static int tell_compared(
	struct session *s, const struct source_disk *disk, struct compare *compare, bool done)
{
	struct cJSON *json = session_message("compared");
	int r = json ? json_add_u64(json, "disk", disk->number) : -ENOMEM;
	if (r == 0)
		r = json_add_u64(json, "cursor", compare->cursor);
	if (r == 0)
		r = json_add_bool(json, "done", done);
	if (r < 0)
		json_freep(&json);
	compare->told = compare->cursor;
	return session_say(s, json);
}

static int advance(struct session *s, unsigned index)
{
	struct source_disk *disk = s->options->source->disks[index];
	struct compare *compare = &s->disks[index].compare;
	retry_unread(s, index);
	int r = ask_pages(s);
	if (r == 0)
		r = ask_hashes(s, disk, compare);
	if (r == 0 && compare_is_done(compare)) {
		log_info("disk %s is whole: %" PRIu64 " of %" PRIu64 " chunks differed", disk->id,
			compare->differing, compare->chunks - compare->begun_at);
		s->disks[index].comparing = s->disks[index].joining = false;
		if (s->disks[index].proves)
			source_compared(disk);
		s->sent_at_mark = 0; /* the next point shows it, whatever else has changed */
		return tell_compared(s, disk, compare, true);
	}
	if (r == 0 && compare->cursor >= compare->told + TELL_CHUNKS)
		r = tell_compared(s, disk, compare, false);
	return r;
}

int session_advance_compare(struct session *s)
{
	struct source *source = s->options->source;
	for (unsigned i = 0; i < source->count; i++)
		if (source->disks[i]->accepted && s->disks[i].comparing)
			return advance(s, i);
	return 0;
}
