/*
 * Proof that no write was missed: the bytes that the markers saw complete, against those that the
 * kernel counted, both since trust began.
 *
 * The kernel counts (fields 7 and 14 of /sys/block/DISK/stat, sectors written and discarded, see
 * Documentation/block/stat.rst) within the function that has the tracepoint, a few instructions
 * later: so the difference between the two is a constant but for requests caught in between.
 * Neither can be read at one instant with the other. A *sample* is good when the sum of the
 * markers is the same before and after the statistics were read; a difference is believed once
 * several good samples agree on it.
 *
 * BPF watches completions in two ways (capture.bpf.c), each with a sum of its own. Both mark, and
 * either may miss events; nothing was missed as long as one of them agrees with the kernel. When
 * that is proven, the base of the other is moved so that it agrees again: each may miss something
 * at another time.
 *
 * Some kernels do miss completions: those that an interrupt delivers while the processor has a task
 * on it for which the kernel runs no programs at all (seen on Linux 6.18: every tracepoint is mute
 * then, and no counter of missed calls moves). The beginning of a write is seen on the processor
 * and in the context of who writes, so the same kernels do not miss that. Hence a third sum, of the
 * bytes begun. While no write is under way it exceeds what the kernel counts by a constant, which
 * is learnt when the disk is idle (idle_excess). If it does so now, and the disk is idle, then
 * every write's beginning was seen and marked, and each has ended by now: all that may be wrong is
 * a block that was taken and read while its write was still under way. Those are known (unsure,
 * marks.h) and marked again: TRACKER_RECALLED. Anything else that does not add up is TRACKER_LOST.
 * Every moment at which the disk is idle makes what is marked then sure, so that little is unsure
 * at any time.
 *
 * Idle is what the kernel says (no write in `inflight`), with all sums standing still. If it were
 * ever said too early, the constant learnt would be too large, and what follows from that is a loss
 * that is none, never one that is overlooked.
 */
#include "replicator/agent/tracker.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/sysmacros.h>
#include <unistd.h>

#include "common/bytes.h"
#include "common/clock.h"
#include "common/rng.h"
#include "replicator/agent/tracker_disk.h"

#define AGREEING 3
#define AGREEING_ON_LOSS 5
#define IDLE_SOON 50    /* samples, while it is not idle, for what proves more then */
#define WAIT_MS_MIN 15u /* what agreeing takes on a disk at rest */
#define PAUSE_NS (2 * NS_PER_MS)
#define ODD_CHECKS 4       /* in a row that find the same excess: it is not going to pass */
#define NO_BASE UINT64_MAX /* of what was counted: the disk was never still enough to tell */

struct sums {
	uint64_t seen;
	uint64_t other;
	uint64_t queued;
	uint64_t opaque;
	uint64_t overflow;
	uint64_t counted;
	uint64_t missed;
	bool idle; /* no write is under way */
};

static void sum_up(const struct capture_device *device, struct sums *ret_sums)
{
	struct sums sums = { 0 };
	for (unsigned i = 0; i < CAPTURE_STRIPES; i++) {
		const struct capture_counters *c = &device->stripes[i];
		sums.seen += __atomic_load_n(&c->seen_bytes, __ATOMIC_ACQUIRE);
		sums.other += __atomic_load_n(&c->other_bytes, __ATOMIC_ACQUIRE);
		sums.queued += __atomic_load_n(&c->queued_bytes, __ATOMIC_ACQUIRE);
		sums.opaque += __atomic_load_n(&c->opaque, __ATOMIC_ACQUIRE);
		sums.overflow += __atomic_load_n(&c->overflow, __ATOMIC_ACQUIRE);
	}
	*ret_sums = sums;
}

/* Sectors written and discarded, in bytes. */
static int read_counted(int stat_fd, uint64_t *ret_bytes)
{
	char text[512];
	unsigned long long v[17] = { 0 };

	if (stat_fd < 0)
		return -ENODATA;
	ssize_t n = pread(stat_fd, text, sizeof(text) - 1, 0);
	if (n < 0)
		return -errno;
	text[n] = '\0';
	int got = sscanf(text,
		"%llu %llu %llu %llu %llu %llu %llu %llu %llu %llu %llu %llu %llu %llu", &v[0],
		&v[1], &v[2], &v[3], &v[4], &v[5], &v[6], &v[7], &v[8], &v[9], &v[10], &v[11],
		&v[12], &v[13]);
	if (got < 7)
		return -EIO;
	*ret_bytes = (v[6] + (got >= 14 ? v[13] : 0)) * SECTOR_BYTES;
	return 0;
}

/* Reads and writes under way, as two numbers. */
static bool is_idle(int inflight_fd)
{
	char text[64];
	unsigned long long reads, writes;

	if (inflight_fd < 0)
		return false;
	ssize_t n = pread(inflight_fd, text, sizeof(text) - 1, 0);
	if (n <= 0)
		return false;
	text[n] = '\0';
	return sscanf(text, "%llu %llu", &reads, &writes) == 2 && writes == 0;
}

static struct capture_note *note_of(const struct tracker_disk *disk)
{
	return &disk->tracker->method->registry->notes[disk->slot];
}

/* One sample: 0; -EAGAIN if something began or completed meanwhile; -errno. */
static int sample(const struct tracker_disk *disk, struct sums *ret_sums)
{
	struct method *method = disk->tracker->method;
	const struct capture_device *device = &method->devices[note_of(disk)->device];
	struct sums before, after;
	uint64_t counted = 0, missed = 0;

	if (method->ops->settle)
		method->ops->settle(method);
	sum_up(device, &before);
	int r = read_counted(disk->stat_fd, &counted);
	if (r < 0)
		return r;
	bool idle = is_idle(disk->inflight_fd);
	if (method->ops->settle)
		method->ops->settle(method);
	sum_up(device, &after);
	r = method->ops->missed(method, &missed);
	if (r < 0)
		return r;
	after.counted = counted;
	after.missed = missed;
	after.idle = idle;
	*ret_sums = after;
	return before.seen == after.seen && before.other == after.other &&
			       before.queued == after.queued
		       ? 0
		       : -EAGAIN;
}

/* How far the sums were from what the kernel counted, and in how many good samples in a row; the
 * same of what had begun, of samples in which the disk was idle. */
struct agreement {
	uint64_t seen;
	uint64_t other;
	int samples;
	uint64_t excess;
	int idle_samples;
};

static void agree(const struct sums *now, struct agreement *agreement)
{
	uint64_t seen = now->counted - now->seen, other = now->counted - now->other;
	bool same = seen == agreement->seen && other == agreement->other;
	agreement->samples = same && agreement->samples > 0 ? agreement->samples + 1 : 1;
	agreement->seen = seen;
	agreement->other = other;
	uint64_t excess = now->queued - now->counted;
	same = now->idle && agreement->idle_samples > 0 && excess == agreement->excess;
	agreement->idle_samples = same ? agreement->idle_samples + 1 : now->idle;
	agreement->excess = excess;
}

static void learn_excess(struct capture_note *note, const struct agreement *agreement)
{
	if (agreement->idle_samples >= AGREEING)
		__atomic_store_n(&note->idle_excess, agreement->excess, __ATOMIC_SEQ_CST);
}

static void pause_for(int64_t ns)
{
	clock_sleep_ns(clock_system(), ns);
}

/* What completed counts from here on. */
static void set_base(struct capture_note *note, const struct sums *sums,
	const struct agreement *agreement, bool still)
{
	__atomic_store_n(&note->base_seen, sums->counted - agreement->seen, __ATOMIC_SEQ_CST);
	__atomic_store_n(&note->base_other, sums->counted - agreement->other, __ATOMIC_SEQ_CST);
	__atomic_store_n(&note->base_counted, still ? sums->counted : NO_BASE, __ATOMIC_SEQ_CST);
}

bool tracker_has_base(const struct tracker_disk *disk)
{
	return disk->tracker->method->ops && note_of(disk)->base_counted != NO_BASE;
}

void tracker_compared(struct tracker_disk *disk)
{
	if (disk->tracker->method->ops)
		__atomic_store_n(&note_of(disk)->late, 0, __ATOMIC_SEQ_CST);
}

static struct capture_run *run_of(struct tracker_disk *disk)
{
	return disk->tracker->method->ops ? &note_of(disk)->run : &disk->run;
}

static int begin_run(struct tracker_disk *disk)
{
	uint64_t fresh;
	int r = random_bytes(&fresh, sizeof(fresh));
	if (r == 0)
		__atomic_store_n(&run_of(disk)->incarnation, fresh, __ATOMIC_SEQ_CST);
	return r;
}

/* The number first: who dies in between finds another holder, and makes another number. */
int tracker_incarnation(struct tracker_disk *disk, uint64_t holder, uint64_t *ret_incarnation)
{
	struct capture_run *run = run_of(disk);
	if (run->holder != holder) {
		int r = begin_run(disk);
		if (r < 0)
			return r;
		__atomic_store_n(&run->holder, holder, __ATOMIC_SEQ_CST);
	}
	*ret_incarnation = run->incarnation;
	return 0;
}

/* The number first, the word that the marks are good last: a process that dies in between leaves
 * either marks that are not trusted, or ones that belong to a run of which nobody has heard. */
int tracker_trust_again(struct tracker_disk *disk, struct error *error)
{
	struct method *method = disk->tracker->method;
	struct sums sums = { 0 };
	struct agreement agreement = { 0 };
	int64_t deadline = clock_monotonic_ns(clock_system()) + NS_PER_S;

	int r = begin_run(disk);
	if (r < 0)
		return error_set(
			error, r, NULL, "disk %s: no random number to be had", disk->disk.name);
	if (!method->ops)
		return 0;
	struct capture_note *note = note_of(disk);
	while ((agreement.samples < AGREEING ||
		       (note->idle_excess == TRACKER_EXCESS_UNKNOWN &&
			       agreement.idle_samples < AGREEING && disk->inflight_fd >= 0)) &&
		clock_monotonic_ns(clock_system()) < deadline) {
		r = sample(disk, &sums);
		if (r == -ENODATA)
			break;
		if (r < 0 && r != -EAGAIN)
			return error_set(error, r, NULL, "disk %s: writes are not being marked",
				disk->disk.name);
		if (r == 0)
			agree(&sums, &agreement);
		pause_for(50 * NS_PER_US);
	}
	bool still = agreement.samples >= AGREEING;
	__atomic_store_n(&note->late, !still, __ATOMIC_SEQ_CST);
	note->base_opaque = sums.opaque;
	note->base_overflow = sums.overflow;
	note->base_missed = sums.missed;
	set_base(note, &sums, &agreement, still);
	learn_excess(note, &agreement);
	__atomic_store_n(&note->distrust, TRACKER_REASON_NONE, __ATOMIC_SEQ_CST);
	return 0;
}

/* Fewer bytes completed than the kernel counts: were at least all beginnings seen? */
static void judge_missing(
	const struct capture_note *note, const struct sums *now, struct tracker_trust *trust)
{
	int64_t more = (int64_t)(now->queued - now->counted - note->idle_excess);

	trust->verdict = TRACKER_LOST;
	trust->reason = TRACKER_REASON_BYTES;
	if (note->idle_excess == TRACKER_EXCESS_UNKNOWN || more < 0)
		return;
	if (!now->idle) {
		trust->verdict = TRACKER_UNPROVEN;
		trust->reason = TRACKER_REASON_BUSY;
	} else if (more == 0) {
		trust->verdict = TRACKER_RECALLED;
		trust->reason = TRACKER_REASON_ENDS;
	}
}

/* The verdict that one sample supports. */
static void judge(
	const struct tracker_disk *disk, const struct sums *now, struct tracker_trust *ret_trust)
{
	const struct capture_note *note = note_of(disk);
	uint64_t counted = now->counted - note->base_counted;
	uint64_t seen = now->seen - note->base_seen, other = now->other - note->base_other;
	bool by_other = disk->tracker->method->registry->has_other && other == counted;
	struct tracker_trust trust = {
		.verdict = TRACKER_PROVEN,
		.seen_bytes = by_other ? other : seen,
		.other_bytes = other,
		.counted_bytes = counted,
		.missed = now->missed - note->base_missed,
	};
	if (now->opaque != note->base_opaque) {
		trust.verdict = TRACKER_LOST;
		trust.reason = TRACKER_REASON_PASSTHROUGH;
	} else if (now->overflow != note->base_overflow) {
		trust.verdict = TRACKER_LOST;
		trust.reason = TRACKER_REASON_OVERFLOW;
	} else if (disk->stat_fd < 0 || !disk->disk.counted) {
		trust.counted_bytes = 0;
		trust.verdict = trust.missed ? TRACKER_LOST : TRACKER_UNPROVEN;
		trust.reason = trust.missed ? TRACKER_REASON_MISSED : TRACKER_REASON_NO_COUNT;
	} else if (note->base_counted == NO_BASE) {
		trust.counted_bytes = 0;
		trust.verdict = TRACKER_UNPROVEN;
		trust.reason = TRACKER_REASON_BUSY;
	} else if (trust.seen_bytes < counted) {
		judge_missing(note, now, &trust);
	} else if (trust.seen_bytes > counted) {
		trust.verdict = TRACKER_UNPROVEN;
		trust.reason = TRACKER_REASON_NO_COUNT;
	}
	*ret_trust = trust;
}

static int give(struct tracker_disk *disk, const struct tracker_trust *trust,
	struct tracker_trust *ret_trust)
{
	if (trust->verdict == TRACKER_LOST)
		__atomic_store_n(&note_of(disk)->distrust, trust->reason, __ATOMIC_SEQ_CST);
	*ret_trust = *trust;
	return 0;
}

static int give_lost(
	struct tracker_disk *disk, enum tracker_reason reason, struct tracker_trust *ret_trust)
{
	const struct tracker_trust trust = { .verdict = TRACKER_LOST, .reason = reason };
	return give(disk, &trust, ret_trust);
}

/* Whether so many samples are enough for the verdict: they are where it rests on comparing sums. */
static bool is_certain(const struct tracker_disk *disk, const struct tracker_trust *trust,
	const struct agreement *agreement)
{
	bool counts = disk->stat_fd >= 0 && disk->disk.counted;
	switch (trust->reason) {
	case TRACKER_REASON_NONE:
		return agreement->samples >= AGREEING &&
		       (agreement->idle_samples >= AGREEING || agreement->samples >= IDLE_SOON);
	case TRACKER_REASON_ENDS:
		return MIN(agreement->samples, agreement->idle_samples) >= AGREEING;
	case TRACKER_REASON_BYTES:
		return agreement->samples >= AGREEING_ON_LOSS;
	case TRACKER_REASON_NO_COUNT:
		return !counts || agreement->samples >= AGREEING_ON_LOSS;
	case TRACKER_REASON_BUSY:
		return false;
	default:
		return true;
	}
}

/* The sums of what completed begin anew from here: what one of them missed before, another saw. */
static void rebase(struct capture_note *note, const struct agreement *agreement)
{
	__atomic_store_n(&note->base_seen, note->base_counted - agreement->seen, __ATOMIC_SEQ_CST);
	__atomic_store_n(
		&note->base_other, note->base_counted - agreement->other, __ATOMIC_SEQ_CST);
}

/* No write was under way when the samples were taken. What that says of marks holds for those that
 * were set by then: no others are there as long as nothing has begun since. */
static uint64_t use_rest(struct tracker_disk *disk, enum tracker_verdict verdict, uint64_t queued)
{
	struct method *method = disk->tracker->method;
	uint64_t recalled = 0;
	struct sums now;

	if (verdict == TRACKER_RECALLED)
		recalled = marks_recall(&disk->marks);
	else
		marks_prove(&disk->marks);
	if (method->ops->settle)
		method->ops->settle(method);
	sum_up(&method->devices[note_of(disk)->device], &now);
	if (now.queued != queued)
		marks_unland(&disk->marks);
	return recalled;
}

/* More has begun than has ended though the disk is said to be idle: it lies in a queue where the
 * kernel does not count it yet, or it failed before it got to the disk, which stays so. */
static bool may_pass(struct tracker_disk *disk, const struct agreement *agreement)
{
	uint64_t known = note_of(disk)->idle_excess;
	if (known == TRACKER_EXCESS_UNKNOWN || (int64_t)(agreement->excess - known) <= 0) {
		disk->odd_checks = 0;
		return false;
	}
	if (disk->odd_excess != agreement->excess)
		disk->odd_checks = 0;
	disk->odd_checks++;
	disk->odd_excess = agreement->excess;
	return disk->odd_checks < ODD_CHECKS;
}

/* What a verdict that is certain changes. Marks first: who dies in between has too many of them,
 * never too few. */
static int conclude(struct tracker_disk *disk, const struct sums *now,
	const struct agreement *agreement, struct tracker_trust *trust,
	struct tracker_trust *ret_trust)
{
	struct capture_note *note = note_of(disk);
	bool proven = trust->verdict == TRACKER_PROVEN,
	     recalled = trust->verdict == TRACKER_RECALLED;

	if (trust->reason == TRACKER_REASON_BYTES && may_pass(disk, agreement)) {
		trust->verdict = TRACKER_UNPROVEN;
		trust->reason = TRACKER_REASON_BUSY;
	}
	bool at_rest = recalled || (proven && agreement->idle_samples >= AGREEING &&
					   !may_pass(disk, agreement));
	if ((proven && at_rest) || trust->verdict == TRACKER_LOST)
		learn_excess(note, agreement);
	if (at_rest)
		trust->recalled_bytes = use_rest(disk, trust->verdict, now->queued);
	if (proven || recalled)
		rebase(note, agreement);
	if (proven && note->late) {
		trust->verdict = TRACKER_UNPROVEN;
		trust->reason = TRACKER_REASON_LATE;
	}
	return give(disk, trust, ret_trust);
}

int tracker_check(struct tracker_disk *disk, unsigned wait_ms, struct tracker_trust *ret_trust)
{
	struct tracker_trust trust = { .verdict = TRACKER_UNPROVEN,
		.reason = TRACKER_REASON_NO_COUNT };
	int64_t deadline =
		clock_monotonic_ns(clock_system()) + MAX(wait_ms, WAIT_MS_MIN) * NS_PER_MS;
	struct agreement agreement = { 0 };

	if (!disk->tracker->method->ops) {
		*ret_trust = trust;
		return 0;
	}
	struct capture_note *note = note_of(disk);
	if (note->distrust != TRACKER_REASON_NONE)
		return give_lost(disk, note->distrust, ret_trust);
	do {
		struct sums now = { 0 };
		int r = sample(disk, &now);
		if (r == -ENODEV)
			return give_lost(disk, TRACKER_REASON_REPLACED, ret_trust);
		if (r == -ENOTCONN)
			return give_lost(disk, TRACKER_REASON_DETACHED, ret_trust);
		if (r < 0 && r != -EAGAIN && r != -ENODATA)
			return r;
		if (r == -EAGAIN) {
			pause_for(50 * NS_PER_US);
			continue;
		}
		agree(&now, &agreement);
		if (r == 0 && note->base_counted == NO_BASE && agreement.samples >= AGREEING)
			set_base(note, &now, &agreement, true);
		judge(disk, &now, &trust);
		if (is_certain(disk, &trust, &agreement))
			return conclude(disk, &now, &agreement, &trust, ret_trust);
		/* A loss has to show for a while: a request may be between mark and count. */
		bool soon = trust.verdict == TRACKER_PROVEN || trust.verdict == TRACKER_RECALLED;
		pause_for(soon ? 50 * NS_PER_US : PAUSE_NS);
	} while (clock_monotonic_ns(clock_system()) < deadline);
	trust.verdict = TRACKER_UNPROVEN;
	trust.reason = TRACKER_REASON_BUSY;
	return give(disk, &trust, ret_trust);
}

const char *tracker_reason_text(enum tracker_reason reason)
{
	switch (reason) {
	case TRACKER_REASON_NONE:
		return "nothing was missed";
	case TRACKER_REASON_BYTES:
		return "fewer bytes were seen than the kernel counts as written";
	case TRACKER_REASON_MISSED:
		return "the kernel left out events";
	case TRACKER_REASON_PASSTHROUGH:
		return "a raw command went to the disk";
	case TRACKER_REASON_OVERFLOW:
		return "more writes were under way than can be followed";
	case TRACKER_REASON_DETACHED:
		return "the kernel no longer runs the programs that mark";
	case TRACKER_REASON_REPLACED:
		return "another disk has taken its place";
	case TRACKER_REASON_NO_COUNT:
		return "the kernel keeps no statistics of it to compare with";
	case TRACKER_REASON_BUSY:
		return "writes never stood still";
	case TRACKER_REASON_ENDS:
		return "ends of writes were not seen";
	case TRACKER_REASON_LATE:
		return "writes did not stand still when capture began";
	}
	return "unknown";
}
