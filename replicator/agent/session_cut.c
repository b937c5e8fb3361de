/*
 * Cuts: a moment at which nothing changes, copied.
 *
 * First what changed is sent in passes while everything runs, until little is left or it does not
 * get less. Then all filesystems are frozen and the rest is read (session_freeze.c); sending goes
 * on behind that, and what became of it is told.
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
#include "replicator/agent/session_cut_internal.h"

#define LITTLE_BYTES (1u << 20)
#define PASSES_MAX 8u
#define RANGES 256u
#define LOOK_NS (NS_PER_S / 4)
#define CHECK_MS 20u
#define TELLING_BYTES (4u << 20) /* what less than that takes says nothing of the rate */
#define FULL_NS NS_PER_MS
#define UNPROVEN_BYTES 400u

/* ── marks ───────────────────────────────────────────────────────────────────────────────── */

uint64_t cut_dirty_bytes(struct session *s)
{
	struct source *source = s->options->source;
	uint64_t dirty = 0;
	for (unsigned i = 0; i < source->count; i++)
		if (session_takes_part(s, i))
			dirty += source_dirty_bytes(source->disks[i]);
	return dirty;
}

/* What goes on while a cut takes its time: the appliance calls it off, figures are told. The waits
 * have no end of their own: as long as something arrives the appliance is patient, and a connection
 * that has died ends the session. */
int cut_breathe(struct cut *cut, int64_t wait_ns)
{
	struct session *s = cut->session;
	int r = session_pump(s, wait_ns);
	if (r == 0 && s->cut.over)
		r = -ECANCELED;
	if (r < 0)
		return error_set(&cut->error, r, NULL, "the cut was called off");
	return session_keep_house(s);
}

static int await_sent(struct cut *cut)
{
	int r;
	while ((r = pipeline_wait_sent(cut->session->pipeline, LOOK_NS)) == -ETIMEDOUT) {
		r = cut_breathe(cut, 0);
		if (r < 0)
			return r;
	}
	return r;
}

/* The readers' queues are full. */
static int await_room(struct cut *cut)
{
	if (!cut->frozen)
		return cut_breathe(cut, FULL_NS);
	if (clock_monotonic_ns(clock_system()) >= cut->copy_until_ns)
		return -ETIMEDOUT;
	clock_sleep_ns(clock_system(), FULL_NS);
	return 0;
}

static int put_range(
	struct cut *cut, struct source_disk *disk, uint64_t pass, const struct tracker_range *range)
{
	struct session *s = cut->session;
	uint64_t at = range->offset;
	uint64_t end = round_up(range->offset + range->length, WIRE_PAGE_BYTES);
	int r = 0;
	while (r == 0 && at < end) {
		if (!pipeline_has_room(s->pipeline)) {
			r = await_room(cut);
			continue;
		}
		uint64_t chunk_end = round_down(at, WIRE_CHUNK_BYTES) + WIRE_CHUNK_BYTES;
		uint64_t n = MIN(chunk_end, end) - at;
		const struct task task = { .kind = TASK_SEND,
			.disk = disk,
			.offset = at,
			.length = (uint32_t)n,
			.pass = pass };
		r = pipeline_put(s->pipeline, &task);
		at += n;
		if (r == 0 && cut->frozen && ++cut->frozen_tasks == PIPELINE_BUFFERS)
			r = cut_check_remainder(cut, end - at + cut->taken_bytes);
	}
	return r;
}

/* What was taken and will not be sent now. */
static void give_up(
	struct source_disk *disk, const struct tracker_range *ranges, size_t from, size_t count)
{
	for (size_t i = from; i < count; i++)
		source_put_back(disk, ranges[i].offset, ranges[i].length);
}

/* Of a disk without marks: all of it, and who reads it sees what is new. */
static int take_whole(struct cut *cut, struct source_disk *disk, uint64_t *bytes)
{
	const struct tracker_range all = { .offset = 0, .length = source_disk_bytes(disk) };
	*bytes += all.length;
	return put_range(cut, disk, 0, &all);
}

int cut_take_all(struct cut *cut, uint64_t *ret_bytes)
{
	struct session *s = cut->session;
	struct source *source = s->options->source;
	uint64_t pass = s->pass = s->pass % TRACKER_PASSES + 1;
	struct tracker_range ranges[RANGES];
	*ret_bytes = 0;
	for (unsigned i = 0; i < source->count; i++) {
		struct source_disk *disk = source->disks[i];
		if (disk->scans) {
			int r = session_takes_part(s, i) ? take_whole(cut, disk, ret_bytes) : 0;
			if (r < 0)
				return r;
			continue;
		}
		for (uint64_t at = 0; session_takes_part(s, i) && at < disk->disk.bytes;) {
			size_t count = 0;
			int r;
			{
				SCOPED_LOCK(&disk->lock);
				r = tracker_take(
					disk->tracked, pass, at, RANGES, ranges, &count, &at);
			}
			cut->taken_bytes = 0;
			for (size_t k = 0; k < count; k++)
				cut->taken_bytes += ranges[k].length;
			for (size_t k = 0; r == 0 && k < count; k++) {
				*ret_bytes += ranges[k].length;
				cut->taken_bytes -= ranges[k].length;
				r = put_range(cut, disk, pass, &ranges[k]);
				if (r < 0)
					give_up(disk, ranges, k, count);
			}
			if (r < 0)
				return r;
		}
	}
	return 0;
}

static int read_errors(struct session *s, struct error *ret_error)
{
	struct source *source = s->options->source;
	for (unsigned i = 0; i < source->count; i++) {
		SCOPED_LOCK(&source->disks[i]->lock);
		if (source->disks[i]->error.code == 0 || !session_takes_part(s, i))
			continue;
		*ret_error = source->disks[i]->error;
		return ret_error->code;
	}
	return 0;
}

static void forget_errors(struct session *s)
{
	struct source *source = s->options->source;
	for (unsigned i = 0; i < source->count; i++) {
		SCOPED_LOCK(&source->disks[i]->lock);
		if (session_takes_part(s, i))
			source->disks[i]->error = (struct error){ 0 };
	}
}

/* ── before the freeze ───────────────────────────────────────────────────────────────────── */

void cut_look_for_losses(struct cut *cut)
{
	struct source *source = cut->session->options->source;
	for (unsigned i = 0; i < source->count && !cut->lost; i++) {
		struct source_disk *disk = source->disks[i];
		struct tracker_trust trust = { .verdict = TRACKER_UNPROVEN,
			.reason = TRACKER_REASON_NO_COUNT };
		SCOPED_LOCK(&disk->lock);
		/* What is scanned is read whole while it stands still. */
		if (!session_takes_part(cut->session, i) || disk->scans)
			continue;
		(void)tracker_check(disk->tracked, CHECK_MS, &trust);
		cut->unproven[i] =
			trust.verdict == TRACKER_UNPROVEN ? trust.reason : TRACKER_REASON_NONE;
		if (trust.verdict == TRACKER_RECALLED)
			cut->recalled_bytes += trust.recalled_bytes;
		if (trust.verdict == TRACKER_LOST) {
			cut->lost = disk;
			cut->trust = trust;
		}
	}
}

int cut_copy_once(struct cut *cut, uint64_t *ret_bytes, int64_t *ret_took_ns)
{
	struct session *s = cut->session;
	int64_t began_ns = clock_monotonic_ns(clock_system());
	int r = cut_take_all(cut, ret_bytes);
	if (r == 0)
		r = await_sent(cut);
	*ret_took_ns = MAX(clock_monotonic_ns(clock_system()) - began_ns, (int64_t)1);
	if (r == 0 && *ret_bytes >= TELLING_BYTES)
		s->copy_bytes_per_s = (double)*ret_bytes * 1e9 / (double)*ret_took_ns;
	return r;
}

bool cut_scans(struct session *s)
{
	struct source *source = s->options->source;
	for (unsigned i = 0; i < source->count; i++)
		if (source->disks[i]->scans)
			return true;
	return false;
}

/* Nobody is to stand still for what cannot be done in time. */
static int check_scan(struct cut *cut, int64_t took_ns, uint64_t bytes)
{
	const struct session_options *options = cut->session->options;
	int64_t limit_ns = (int64_t)options->freeze_timeout_ms * NS_PER_MS;
	if (!cut_scans(cut->session) || options->read_bytes_per_s > 0 || took_ns < limit_ns)
		return 0;
	return error_set(&cut->error, -EFBIG,
		"let --freeze-timeout be longer, protect less with --disk, or use a kernel whose "
		"changes can be captured (landfall-agent status tells why they cannot here)",
		"without capture of changes %.1f GiB have to be read while filesystems stand "
		"still, "
		"which takes %.0f s",
		(double)bytes / (double)GIB, (double)took_ns / (double)NS_PER_S);
}

static int copy_in_passes(struct cut *cut)
{
	struct session *s = cut->session;
	uint64_t before = UINT64_MAX;
	for (unsigned pass = 0; pass < PASSES_MAX; pass++) {
		int64_t took_ns;
		int r = cut_sync(cut);
		if (r < 0)
			return r;
		uint64_t dirty = cut_dirty_bytes(s), taken;
		/* What is scanned is so twice: the second pass sends next to nothing, and tells how
		 * long reading alone takes. */
		bool again = cut_scans(s) ? pass < 2 : dirty <= before - before / 4;
		if (dirty <= LITTLE_BYTES || !again)
			return 0;
		before = dirty;
		cut_look_for_losses(cut); /* what has landed is read right, whatever follows */
		if (cut->lost)
			return 0;
		r = cut_copy_once(cut, &taken, &took_ns);
		if (r == 0 && pass > 0)
			r = check_scan(cut, took_ns, taken);
		if (r == 0)
			r = cut_breathe(cut, 0);
		if (r < 0)
			return r;
	}
	return 0;
}

/* ── after it ────────────────────────────────────────────────────────────────────────────── */

static int add_app_error(struct cJSON *json, const struct error *error)
{
	struct cJSON *item;
	int r = json_add_object(json, "app_error", &item);
	if (r == 0)
		r = json_add_text(item, "message", error->message);
	return r == 0 ? json_add_text(item, "mend", error->mend) : r;
}

/* Which disks' changes are not proven to be all that there were, and why: for the status, the log
 * if it is news, and the appliance. */
static void note_proofs(struct cut *cut, char *text, size_t n)
{
	struct session *s = cut->session;
	struct source *source = s->options->source;
	size_t at = 0;
	text[0] = '\0';
	for (unsigned i = 0; i < source->count; i++) {
		const struct source_disk *disk = source->disks[i];
		const char *why = cut->unproven[i] != TRACKER_REASON_NONE
					  ? tracker_reason_text(cut->unproven[i])
					  : NULL;
		if (!session_takes_part(s, i))
			continue;
		if (agent_status_set_proof(s->options->status, disk, why) && why)
			log_info("disk %s: it is not proven that every change was seen: %s",
				disk->id, why);
		if (why && at < n)
			at += (size_t)snprintf(
				text + at, n - at, "%sdisk %s: %s", at ? "; " : "", disk->id, why);
	}
}

static int say_mark(struct cut *cut)
{
	struct session *s = cut->session;
	uint64_t sent[PIPELINE_CONNECTIONS_MAX];
	char unproven[UNPROVEN_BYTES];
	struct cJSON *json = session_message("mark"), *list;
	pipeline_last_sent(s->pipeline, sent);
	note_proofs(cut, unproven, sizeof(unproven));
	int r = json ? json_add_u64(json, "cut", s->cut.number) : -ENOMEM;
	if (r == 0)
		r = json_add_i64(json, "time", cut->time_ns);
	if (r == 0)
		r = json_add_u64(json, "frozen_us", cut->report.stall_ns / 1000);
	if (r == 0)
		r = json_add_text(json, "kind",
			cut->application && cut->app_error.code == 0 ? "application" : "crash");
	if (r == 0 && unproven[0])
		r = json_add_text(json, "unproven", unproven);
	if (r == 0 && cut->app_error.code < 0)
		r = add_app_error(json, &cut->app_error);
	if (r == 0)
		r = json_add_array(json, "sent", &list);
	for (unsigned i = 0; r == 0 && i < s->connection_count; i++)
		r = json_add_u64(list, NULL, sent[i]);
	if (r < 0)
		json_freep(&json);
	return session_say(s, json);
}

/* Nothing of the next epoch is sent before the appliance has said what became of this one. */
static int await_end(struct cut *cut)
{
	struct session *s = cut->session;
	int r = 0;
	while (r == 0 && !s->cut.over)
		r = session_pump(s, NS_PER_S);
	if (r == 0 && s->cut.point > 0)
		agent_status_set_point(s->options->status, s->cut.point, cut->time_ns,
			cut->report.stall_ns, cut->remainder_bytes);
	return r;
}

static uint64_t sent_bytes(struct session *s)
{
	struct pipeline_counts counts;
	pipeline_counts(s->pipeline, &counts);
	return counts.sent_bytes + counts.zero_bytes + 1;
}

static int say_simple(struct session *s, const char *type)
{
	struct cJSON *json = session_message(type);
	if (json && json_add_u64(json, "cut", s->cut.number) < 0)
		json_freep(&json);
	return session_say(s, json);
}

static int say_failed(struct cut *cut)
{
	struct session *s = cut->session;
	struct cJSON *json = session_message("cut.failed");
	int r = json ? json_add_u64(json, "cut", s->cut.number) : -ENOMEM;
	if (r == 0)
		r = json_add_text(json, "message", cut->error.message);
	if (r == 0)
		r = json_add_text(json, "mend", cut->error.mend);
	if (r < 0)
		json_freep(&json);
	log_warning("no recovery point: %s", cut->error.message);
	r = session_say(s, json);
	if (r == 0 && cut->lost)
		r = session_distrust(s, cut->lost, tracker_reason_text(cut->trust.reason));
	return r;
}

/* In a group: everybody gets ready before anybody freezes. */
static int await_freeze(struct cut *cut)
{
	struct session *s = cut->session;
	struct cJSON *json = session_message("cut.ready");
	int r = json ? json_add_u64(json, "cut", s->cut.number) : -ENOMEM;
	if (r == 0)
		r = json_add_u64(json, "remaining_bytes", cut_dirty_bytes(s));
	if (r < 0)
		json_freep(&json);
	r = session_say(s, json);
	while (r == 0 && !s->cut.freeze && !s->cut.over)
		r = session_pump(s, NS_PER_S);
	if (r == 0 && s->cut.over)
		r = -ECANCELED;
	return r < 0 ? error_set(&cut->error, r, NULL, "the cut was called off") : 0;
}

/* All that can take its time is done before the machine says that it is ready: from then on others
 * may stand still and wait for it. */
static int make_point(struct cut *cut)
{
	struct session *s = cut->session;
	session_hold_compare(s, true);
	source_look_at_swap(s->options->source);
	int r = copy_in_passes(cut);
	if (r == 0)
		r = await_sent(cut); /* a comparison's, too */
	if (r == 0)
		r = cut_quiesce(cut);
	if (r == 0 && !cut->alone)
		r = await_freeze(cut);
	if (r == 0)
		r = cut_freeze_and_copy(cut);
	session_hold_compare(s, false);
	cut_unquiesce(cut);
	if (r == 0)
		r = await_sent(cut);
	if (r == 0)
		r = read_errors(s, &cut->error);
	if (r == 0 && cut->lost)
		r = error_set(&cut->error, -ESTALE, NULL,
			"changes to disk %s may have been missed; it is compared first",
			cut->lost->id);
	if (r < 0 && cut->error.code == 0)
		error_set(&cut->error, r, NULL, "%s", strerrordesc_np(-r));
	return r;
}

/* Nothing is newer than the last point, also not in what filesystems hold back in memory, and
 * nothing is known to have been missed. */
static bool is_unchanged(struct cut *cut)
{
	struct session *s = cut->session;
	if (cut->application || cut_dirty_bytes(s) > 0 || sent_bytes(s) != s->sent_at_mark)
		return false;
	(void)cut_sync(cut);
	cut_look_for_losses(cut);
	bool unchanged = !cut->lost && cut_dirty_bytes(s) == 0;
	/* What went wrong, or was missed, shows again where it is told. */
	cut->error = (struct error){ 0 };
	cut->lost = NULL;
	return unchanged;
}

int session_make_cut(struct session *s, const struct json *message)
{
	struct cut cut = { .session = s };
	const char *kind = "crash";
	uint64_t number;
	int r = json_get_u64(message, "cut", &number, NULL);
	if (r == 0)
		r = json_find_text(message, "kind", &kind, NULL);
	if (r >= 0)
		r = json_find_bool(message, "alone", &cut.alone, NULL);
	if (r < 0)
		return 0;
	s->cut = (struct session_cut){ .number = number };
	s->cuts++;
	cut.application = strcmp(kind, "application") == 0;
	forget_errors(s);
	if (!session_is_whole(s)) {
		error_set(&cut.error, -EAGAIN, NULL, "a disk is being compared");
		return say_failed(&cut);
	}
	if (is_unchanged(&cut)) {
		r = say_simple(s, "cut.unchanged");
		/* In a group the others may have changes, and then all freeze. */
		while (r == 0 && !s->cut.over && !s->cut.freeze)
			r = session_pump(s, NS_PER_S);
		if (r < 0 || s->cut.over)
			return r;
	}
	agent_status_set_state(s->options->status, "freezing");
	if (make_point(&cut) < 0)
		return session_ended(s) < 0 ? session_ended(s) : say_failed(&cut);
	r = say_mark(&cut);
	if (r == 0)
		r = await_end(&cut);
	if (r == 0 && s->cut.point > 0)
		s->sent_at_mark = sent_bytes(s);
	return r;
}
