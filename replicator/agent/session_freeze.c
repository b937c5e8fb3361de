/*
 * All filesystems stand still, the rest is read, and they go on as soon as it lies in our buffers.
 *
 * What is to be frozen is looked up right before it is, and held open no longer than that: nobody
 * could unmount it. While frozen nothing is written but memory and sockets, nothing opened, nothing
 * logged; and nobody stands still for what cannot be copied soon: what is left is estimated from
 * the rate at which it went before, and copying ends at half the time that the watchdog allows.
 *
 * The loss detector is asked while everything stands still, which is when it knows for certain:
 * before the rest is taken, as it may have more to take (blocks that may have been read before
 * their writes had ended), and once more when it is read, so that this cut's own reads are known to
 * be right. Where there is more than fits a short freeze, it is copied like other changes and all
 * is frozen anew; what is marked for that reason is sure whatever the kernel leaves out meanwhile.
 *
 * In a group everybody is frozen until all are. Then a lost network is noticed within two seconds:
 * the appliance is asked for a sign of life all the while; and if even that cannot be said, the
 * watchdog ends it after four.
 */
#include <errno.h>
#include <inttypes.h>
#include <string.h>
#include <sys/stat.h>

#include "common/bytes.h"
#include "common/cleanup.h"
#include "common/log.h"
#include "replicator/agent/session_cut_internal.h"

#define RECALLED_MAX (16u << 20) /* read again while frozen */
#define FREEZES_MAX 4u
#define LISTS_MAX 5u /* mounts that come in between, one after another */
#define SILENCE_NS (2 * NS_PER_S)
#define PROBE_NS (NS_PER_S / 4)
#define MEND_BUSY "let --freeze-timeout be longer, or points be rarer in busy hours"
#define OTHERS_MS 4000u /* the appliance gives up after three seconds */

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

int cut_sync(struct cut *cut)
{
	struct freezer *freezer = cut->session->options->freezer;
	int r = prepare_freeze(cut);
	if (r == 0)
		freezer_sync(freezer);
	freezer_release(freezer);
	return r;
}

/* ── frozen ──────────────────────────────────────────────────────────────────────────────── */

static int say_frozen(struct session *s)
{
	struct cJSON *json = session_message("cut.frozen");
	if (json && json_add_u64(json, "cut", s->cut.number) < 0)
		json_freep(&json);
	return session_say(s, json);
}

/* In a group: says so, and waits for the word that all are. */
static int await_others(struct cut *cut)
{
	struct session *s = cut->session;
	if (cut->alone)
		return 0;
	freezer_hasten(s->options->freezer, OTHERS_MS);
	int64_t began_ns = clock_monotonic_ns(clock_system()), probe_ns = began_ns;
	int r = say_frozen(s);
	while (r == 0 && !s->cut.thaw && !s->cut.over) {
		int64_t now_ns = clock_monotonic_ns(clock_system());
		if (!freezer_holds(s->options->freezer))
			return error_set(&cut->error, -ETIMEDOUT, NULL,
				"the watchdog thawed before all machines were frozen");
		if (now_ns >= probe_ns) {
			probe_ns = now_ns + PROBE_NS;
			if (connection_probe(s->connections[0]) > SILENCE_NS &&
				now_ns - began_ns > SILENCE_NS)
				return error_set(&cut->error, -ETIMEDOUT, "see to the network",
					"nothing was heard of the appliance while filesystems "
					"stood still");
		}
		r = session_pump(s, 50 * NS_PER_MS);
	}
	if (r == 0 && s->cut.over)
		r = -ECANCELED;
	return r < 0 ? error_set(&cut->error, r, NULL, "the cut was called off") : 0;
}

static int64_t copying_ns(const struct cut *cut)
{
	int64_t freeze_ns = (int64_t)cut->session->options->freeze_timeout_ms * NS_PER_MS;
	return cut_scans(cut->session) ? freeze_ns : freeze_ns / 2;
}

static int await_read(struct cut *cut)
{
	int64_t left_ns = cut->copy_until_ns - clock_monotonic_ns(clock_system());
	return pipeline_wait_read(cut->session->pipeline, MAX(left_ns, (int64_t)0));
}

/* Nobody is to stand still for what will not be copied in time. How long scanning takes has been
 * looked at before, and what a rate holds back now says nothing of how fast it goes without. */
int cut_check_remainder(struct cut *cut, uint64_t bytes)
{
	struct session *s = cut->session;
	if (s->copy_bytes_per_s <= 0 || cut_scans(s) || pipeline_is_paced(s->pipeline))
		return 0;
	double left = (double)(cut_dirty_bytes(s) + bytes), takes_s = left / s->copy_bytes_per_s;
	if (takes_s * 1e9 < (double)copying_ns(cut))
		return 0;
	s->copy_bytes_per_s = 0; /* it may be faster the next time */
	return error_set(&cut->error, -EFBIG, MEND_BUSY,
		"%.1f MiB more had changed since they were copied, for which filesystems would "
		"have stood still for %.1f s",
		left / (double)MIB, takes_s);
}

/* The last look. What turns out only now to have been read too early, as the disk was never idle
 * before, is read again: its writes have ended. */
static int look_and_take_again(struct cut *cut)
{
	uint64_t recalled = cut->recalled_bytes, bytes = 0;
	cut_look_for_losses(cut);
	if (cut->lost || cut->recalled_bytes == recalled)
		return 0;
	int r = cut_take_all(cut, &bytes);
	cut->remainder_bytes += bytes;
	return r == 0 ? await_read(cut) : r;
}

/* `last`: however much is marked again, it is copied now; else it may have to be frozen anew. */
static int copy_frozen(struct cut *cut, bool last)
{
	struct session *s = cut->session;
	uint64_t recalled = cut->recalled_bytes;
	cut->time_ns = clock_realtime_ns(clock_system());
	cut->frozen_tasks = 0;
	cut->copy_until_ns = clock_monotonic_ns(clock_system()) + copying_ns(cut);
	if (source_swap_changed(s->options->source))
		return error_set(&cut->error, -EAGAIN, NULL,
			"swap was switched on or off in the middle of it; it is tried again");
	cut_look_for_losses(cut);
	if (!last && cut->recalled_bytes - recalled > RECALLED_MAX)
		cut->again = true;
	if (cut->again)
		return 0;
	int r = cut->lost ? 0 : cut_take_all(cut, &cut->remainder_bytes);
	if (r == 0)
		r = await_read(cut);
	if (r == 0)
		r = look_and_take_again(cut);
	if (r < 0 && cut->error.code == 0)
		error_set(&cut->error, r, MEND_BUSY,
			"%.1f MiB that changed while it was copied could not be read in time",
			(double)cut->remainder_bytes / (double)MIB);
	return r < 0 ? r : await_others(cut);
}

/* Of what is mounted now: what comes in between is seen, and everything is looked up again. */
static int freeze_all(struct cut *cut)
{
	const struct session_options *options = cut->session->options;
	int r = -EAGAIN;
	for (unsigned i = 0; r == -EAGAIN && i < LISTS_MAX; i++) {
		cut->error = (struct error){ 0 };
		r = prepare_freeze(cut);
		if (r == 0)
			r = freezer_freeze(
				options->freezer, options->freeze_timeout_ms, &cut->error);
	}
	return r;
}

static int freeze_once(struct cut *cut, bool last)
{
	const struct session_options *options = cut->session->options;
	agent_status_hold(options->status, true);
	cut->frozen = true;
	pipeline_hurry(cut->session->pipeline, true);
	gentle_hurry(options->gentle, true);
	int r = freeze_all(cut);
	if (r == 0) {
		r = copy_frozen(cut, last);
		int thawed = freezer_thaw(options->freezer, &cut->report);
		if (r == 0 && thawed < 0)
			r = error_set(&cut->error, thawed, MEND_BUSY,
				"the watchdog thawed the filesystems before all was copied");
	}
	freezer_release(options->freezer);
	cut->frozen = false;
	pipeline_hurry(cut->session->pipeline, false);
	gentle_hurry(options->gentle, false);
	agent_status_hold(options->status, false);
	return r;
}

/* The machines of a group are frozen together, hence once. Before another freeze one pass is made,
 * no more: what it takes that was not marked again is what was written in between, which is little.
 */
int cut_freeze_and_copy(struct cut *cut)
{
	int r = freeze_once(cut, !cut->alone);
	for (unsigned i = 2; r == 0 && cut->again && i <= FREEZES_MAX; i++) {
		uint64_t bytes;
		int64_t took_ns;
		cut->again = false;
		r = cut_copy_once(cut, &bytes, &took_ns);
		if (r == 0)
			r = cut_breathe(cut, 0);
		if (r == 0)
			r = freeze_once(cut, i == FREEZES_MAX);
	}
	if (cut->recalled_bytes > 0)
		log_info("the kernel let ends of writes go unseen: %" PRIu64
			 " KiB that may have been read too early were read again",
			cut->recalled_bytes >> 10);
	return r;
}
