/*
 * Cuts: a moment at which nothing changes, copied.
 *
 * First what changed is sent in passes while everything runs, until little is left or it does not
 * get less. Then all filesystems are frozen, the rest is read, and they are thawed as soon as it
 * lies in our buffers; sending goes on behind that. While frozen nothing is written but memory and
 * sockets, nothing opened, nothing logged.
 *
 * The loss detector is asked while everything stands still, which is when it knows for certain:
 * before the rest is taken, as it may have more to take (blocks that may have been read before
 * their writes had ended), and once more when it is read, so that this cut's own reads are known to
 * be right. Where there is more than fits a short freeze, it is copied like other changes and all
 * is frozen anew; what is marked for that reason is sure whatever the kernel leaves out meanwhile.
 */
#include <cjson/cJSON.h>
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "common/bytes.h"
#include "common/cleanup.h"
#include "common/log.h"
#include "replicator/agent/script.h"
#include "replicator/agent/session_internal.h"

#define LITTLE_BYTES (1u << 20)
#define PASSES_MAX 8u
#define RANGES 256u
#define LOOK_NS (NS_PER_S / 4)
#define CHECK_MS 20u
#define RECALLED_MAX (16u << 20) /* read again while frozen */
#define FREEZES_MAX 4u

struct cut {
	struct session *session;
	bool application, alone;
	bool frozen;  /* nothing is to be done but what has to be */
	bool at_rest; /* the applications are, and are to be woken */
	int64_t time_ns;
	uint64_t remainder_bytes;
	struct freezer_report report;
	bool again;               /* too much was marked again for this freeze */
	uint64_t recalled_bytes;  /* marked again, since ends of writes were missed */
	struct source_disk *lost; /* whose changes were missed */
	struct tracker_trust trust;
	struct error app_error; /* why it is not application-consistent, though it was to be */
	struct error error;
};

/* ── marks ───────────────────────────────────────────────────────────────────────────────── */

static uint64_t dirty_bytes(struct session *s)
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
static int breathe(struct cut *cut, int64_t wait_ns)
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
		r = breathe(cut, 0);
		if (r < 0)
			return r;
	}
	return r;
}

static int put_range(
	struct cut *cut, struct source_disk *disk, uint64_t pass, const struct tracker_range *range)
{
	struct session *s = cut->session;
	uint64_t at = range->offset;
	uint64_t end = round_up(range->offset + range->length, WIRE_PAGE_BYTES);
	int r = 0;
	while (r == 0 && at < end) {
		if (!cut->frozen && !pipeline_has_room(s->pipeline)) {
			r = breathe(cut, NS_PER_MS);
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

/* Takes the marks of all disks and puts what they cover to be sent. */
static int take_all(struct cut *cut, uint64_t *ret_bytes)
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
			for (size_t k = 0; r == 0 && k < count; k++) {
				*ret_bytes += ranges[k].length;
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

static void look_for_losses(struct cut *cut)
{
	struct source *source = cut->session->options->source;
	for (unsigned i = 0; i < source->count && !cut->lost; i++) {
		struct source_disk *disk = source->disks[i];
		struct tracker_trust trust;
		SCOPED_LOCK(&disk->lock);
		if (!session_takes_part(cut->session, i) ||
			tracker_check(disk->tracked, CHECK_MS, &trust) < 0)
			continue;
		if (trust.verdict == TRACKER_RECALLED)
			cut->recalled_bytes += trust.recalled_bytes;
		if (trust.verdict == TRACKER_LOST) {
			cut->lost = disk;
			cut->trust = trust;
		}
	}
}

static int copy_once(struct cut *cut)
{
	uint64_t taken;
	int r = take_all(cut, &taken);
	if (r == 0)
		r = await_sent(cut);
	return r == 0 ? breathe(cut, 0) : r;
}

static bool scans(struct session *s)
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
	if (!scans(cut->session) || options->read_bytes_per_s > 0 || took_ns < limit_ns)
		return 0;
	return error_set(&cut->error, -EFBIG,
		"let --freeze-timeout be longer, protect less with --disk, or use a kernel whose "
		"changes can be captured (landfall-agent status tells why they cannot here)",
		"without capture of changes %.1f GiB have to be read while filesystems stand "
		"still, "
		"which takes %.0f s",
		(double)bytes / (double)GIB, (double)took_ns / (double)NS_PER_S);
}

/* Filesystems are asked to write what they hold, so that freezing finds little to write. */
static int copy_in_passes(struct cut *cut)
{
	struct session *s = cut->session;
	uint64_t before = UINT64_MAX;
	for (unsigned pass = 0; pass < PASSES_MAX; pass++) {
		freezer_sync(s->options->freezer);
		uint64_t dirty = dirty_bytes(s), taken;
		/* What is scanned is so twice: the second pass sends next to nothing, and tells how
		 * long reading alone takes. */
		bool again = scans(s) ? pass < 2 : dirty <= before - before / 4;
		if (dirty <= LITTLE_BYTES || !again)
			return 0;
		before = dirty;
		look_for_losses(cut); /* what has landed by now is read right, whatever follows */
		if (cut->lost)
			return 0;
		int64_t began_ns = clock_monotonic_ns(clock_system());
		int r = take_all(cut, &taken);
		if (r == 0)
			r = await_sent(cut);
		if (r == 0 && pass > 0)
			r = check_scan(cut, clock_monotonic_ns(clock_system()) - began_ns, taken);
		if (r == 0)
			r = breathe(cut, 0);
		if (r < 0)
			return r;
	}
	return 0;
}

/* Until the applications are at rest the cut can be called off. */
static int tick_quiesce(void *context)
{
	return breathe(context, 20 * NS_PER_MS);
}

/* Once they are to be woken nothing may keep that from happening. */
static int tick_unquiesce(void *context)
{
	struct cut *cut = context;
	if (session_pump(cut->session, 20 * NS_PER_MS) < 0)
		clock_sleep_ns(clock_system(), 20 * NS_PER_MS);
	return 0;
}

static int run_script(struct cut *cut, const char *what, const char *command,
	int (*tick)(void *context), struct error *error)
{
	const struct script script = { .what = what,
		.command = command,
		.timeout_ms = cut->session->options->script_timeout_ms,
		.tick = tick,
		.context = cut };
	return script_run(&script, error);
}

/* What became of the applications, while the cut goes on: the point is crash-consistent then. */
static void note_app_error(struct cut *cut, const struct error *error)
{
	log_warning("not application-consistent: %s", error->message);
	if (cut->app_error.code == 0)
		cut->app_error = *error;
}

static void unquiesce(struct cut *cut)
{
	struct error error = { 0 };
	const struct session_options *options = cut->session->options;
	bool at_rest = cut->at_rest;
	cut->at_rest = false;
	if (at_rest && options->post_thaw &&
		run_script(cut, "--post-thaw", options->post_thaw, tick_unquiesce, &error) < 0)
		note_app_error(cut, &error);
}

/* 0, whether or not it could be done; else the cut is over. */
static int quiesce(struct cut *cut)
{
	const struct session_options *options = cut->session->options;
	struct error error = { 0 };
	if (!cut->application)
		return 0;
	if (!options->pre_freeze) {
		error_set(&error, -EOPNOTSUPP,
			"start landfall-agent with --pre-freeze COMMAND that brings the "
			"applications' data to rest, and --post-thaw COMMAND",
			"this machine has no command that makes its applications consistent");
		note_app_error(cut, &error);
		return 0;
	}
	cut->at_rest = true; /* or partly so, if it fails */
	if (run_script(cut, "--pre-freeze", options->pre_freeze, tick_quiesce, &error) == 0)
		return 0;
	unquiesce(cut);
	if (session_ended(cut->session) < 0 || cut->session->cut.over)
		return error_set(&cut->error, -ECANCELED, NULL, "the cut was called off");
	note_app_error(cut, &error);
	return 0;
}

static int prepare_freeze(struct cut *cut)
{
	const struct session_options *options = cut->session->options;
	dev_t devs[2 * SOURCE_DISKS_MAX];
	size_t count = 0;
	for (unsigned i = 0; i < options->source->count; i++)
		if (session_takes_part(cut->session, i))
			devs[count++] = options->source->disks[i]->disk.dev;
	for (unsigned i = 0;
		options->freeze_paths && options->freeze_paths[i] && count < ARRAY_SIZE(devs);
		i++) {
		struct stat status;
		if (stat(options->freeze_paths[i], &status) < 0)
			return error_set(&cut->error, -errno,
				"mount it, or take --freeze for it away", "%s cannot be frozen: %s",
				options->freeze_paths[i], strerrordesc_np(errno));
		devs[count++] = status.st_dev;
	}
	return freezer_prepare(options->freezer, devs, count, &cut->error);
}

/* ── frozen ──────────────────────────────────────────────────────────────────────────────── */

/* In a group: says so, and waits for the word that all are. */
static int await_others(struct cut *cut)
{
	struct session *s = cut->session;
	if (cut->alone)
		return 0;
	struct cJSON *json = session_message("cut.frozen");
	if (json && json_add_u64(json, "cut", s->cut.number) < 0)
		json_freep(&json);
	int r = session_say(s, json);
	while (r == 0 && !s->cut.thaw && !s->cut.over) {
		if (!freezer_holds(s->options->freezer))
			return error_set(&cut->error, -ETIMEDOUT, NULL,
				"the watchdog thawed before all machines were frozen");
		r = session_pump(s, 50 * NS_PER_MS);
	}
	if (r == 0 && s->cut.over)
		r = -ECANCELED;
	return r < 0 ? error_set(&cut->error, r, NULL, "the cut was called off") : 0;
}

/* The last look. What turns out only now to have been read too early, as the disk was never idle
 * before, is read again: its writes have ended. */
static int look_and_take_again(struct cut *cut)
{
	struct session *s = cut->session;
	uint64_t recalled = cut->recalled_bytes, bytes = 0;
	look_for_losses(cut);
	if (cut->lost || cut->recalled_bytes == recalled)
		return 0;
	int r = take_all(cut, &bytes);
	cut->remainder_bytes += bytes;
	return r == 0 ? pipeline_wait_read(
				s->pipeline, (int64_t)s->options->freeze_timeout_ms * NS_PER_MS)
		      : r;
}

/* `last`: however much is marked again, it is copied now; else it may have to be frozen anew. */
static int copy_frozen(struct cut *cut, bool last)
{
	struct session *s = cut->session;
	uint64_t recalled = cut->recalled_bytes;
	cut->time_ns = clock_realtime_ns(clock_system());
	if (source_swap_changed(s->options->source))
		return error_set(&cut->error, -EAGAIN, NULL,
			"swap was switched on or off in the middle of it; it is tried again");
	look_for_losses(cut);
	if (!last && cut->recalled_bytes - recalled > RECALLED_MAX)
		cut->again = true;
	if (cut->again)
		return 0;
	int r = cut->lost ? 0 : take_all(cut, &cut->remainder_bytes);
	if (r == 0)
		r = pipeline_wait_read(
			s->pipeline, (int64_t)s->options->freeze_timeout_ms * NS_PER_MS);
	if (r == 0)
		r = look_and_take_again(cut);
	if (r < 0)
		return error_set(&cut->error, r,
			"let --freeze-timeout be longer, or points be rarer in busy hours",
			"%.1f MiB that changed while it was copied could not be read in time",
			(double)cut->remainder_bytes / (double)MIB);
	return await_others(cut);
}

static int freeze_once(struct cut *cut, bool last)
{
	const struct session_options *options = cut->session->options;
	agent_status_hold(options->status, true);
	cut->frozen = true;
	pipeline_hurry(cut->session->pipeline, true);
	int r = freezer_freeze(options->freezer, options->freeze_timeout_ms, &cut->error);
	if (r == 0) {
		r = copy_frozen(cut, last);
		int thawed = freezer_thaw(options->freezer, &cut->report);
		if (r == 0 && thawed < 0)
			r = error_set(&cut->error, thawed,
				"let --freeze-timeout be longer, or points be rarer in busy hours",
				"the watchdog thawed the filesystems before all was copied");
	}
	cut->frozen = false;
	pipeline_hurry(cut->session->pipeline, false);
	agent_status_hold(options->status, false);
	return r;
}

/* The machines of a group are frozen together, hence once. Before another freeze one pass is made,
 * no more: what it takes that was not marked again is what was written in between, which is little.
 */
static int freeze_and_copy(struct cut *cut)
{
	int r = freeze_once(cut, !cut->alone);
	for (unsigned i = 2; r == 0 && cut->again && i <= FREEZES_MAX; i++) {
		cut->again = false;
		r = copy_once(cut);
		if (r == 0)
			r = prepare_freeze(cut);
		if (r == 0)
			r = freeze_once(cut, i == FREEZES_MAX);
	}
	if (cut->recalled_bytes > 0)
		log_info("the kernel let ends of writes go unseen: %" PRIu64
			 " KiB that may have been read too early were read again",
			cut->recalled_bytes >> 10);
	return r;
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

static int say_mark(struct cut *cut)
{
	struct session *s = cut->session;
	uint64_t sent[PIPELINE_CONNECTIONS_MAX];
	struct cJSON *json = session_message("mark"), *list;
	pipeline_last_sent(s->pipeline, sent);
	int r = json ? json_add_u64(json, "cut", s->cut.number) : -ENOMEM;
	if (r == 0)
		r = json_add_i64(json, "time", cut->time_ns);
	if (r == 0)
		r = json_add_u64(json, "frozen_us", cut->report.stall_ns / 1000);
	if (r == 0)
		r = json_add_text(json, "kind",
			cut->application && cut->app_error.code == 0 ? "application" : "crash");
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
		r = json_add_u64(json, "remaining_bytes", dirty_bytes(s));
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
	int r = prepare_freeze(cut);
	if (r == 0)
		r = copy_in_passes(cut);
	if (r == 0)
		r = await_sent(cut); /* a comparison's, too */
	if (r == 0)
		r = quiesce(cut);
	if (r == 0 && !cut->alone)
		r = await_freeze(cut);
	if (r == 0)
		r = freeze_and_copy(cut);
	freezer_release(s->options->freezer);
	session_hold_compare(s, false);
	unquiesce(cut);
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
	if (cut->application || dirty_bytes(s) > 0 || sent_bytes(s) != s->sent_at_mark)
		return false;
	if (prepare_freeze(cut) == 0)
		freezer_sync(s->options->freezer);
	freezer_release(s->options->freezer);
	look_for_losses(cut);
	bool unchanged = !cut->lost && dirty_bytes(s) == 0;
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
