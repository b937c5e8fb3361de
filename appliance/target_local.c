/*
 * `lock` guards the list of machines; a machine is used by one call at a time (target.h), and so
 * outside the lock.
 */
#include "appliance/target_local.h"

#include <errno.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "appliance/boot_probe.h"
#include "appliance/qemu.h"
#include "common/buf.h"
#include "common/bytes.h"
#include "common/cleanup.h"
#include "common/clock.h"

#define LOOK_NS (200 * NS_PER_MS)
#define SCREENSHOT_NAME "screenshot.png"
/* A display may follow its serial console by so much. */
#define SETTLE_NS (2 * NS_PER_S)

struct machine {
	struct machine *next;
	uint64_t id;
	struct qemu *qemu;
};

struct local {
	struct target target;
	struct local_settings settings;
	pthread_mutex_t lock;
	struct machine *machines;
};

static struct local *local_of(struct target *target)
{
	return CONTAINER_OF(target, struct local, target);
}

static struct qemu *find(struct local *local, uint64_t id)
{
	SCOPED_LOCK(&local->lock);
	for (struct machine *m = local->machines; m; m = m->next)
		if (m->id == id)
			return m->qemu;
	return NULL;
}

static bool local_runs(struct target *target, uint64_t id)
{
	struct qemu *qemu = find(local_of(target), id);
	return qemu && qemu_runs(qemu);
}

static int local_stop(struct target *target, uint64_t id, struct error *error)
{
	struct local *local = local_of(target);
	struct machine *found = NULL;
	(void)error;
	pthread_mutex_lock(&local->lock);
	for (struct machine **at = &local->machines; *at; at = &(*at)->next)
		if ((*at)->id == id) {
			found = *at;
			*at = found->next;
			break;
		}
	pthread_mutex_unlock(&local->lock);
	if (found)
		qemu_free(found->qemu);
	free(found);
	return 0;
}

static int local_start(struct target *target, const struct target_order *order, struct error *error)
{
	struct local *local = local_of(target);
	unsigned port = local->settings.probe == LOCAL_PROBE_TCP ? local->settings.port : 0;
	if (local_runs(target, order->id))
		return 0;
	(void)local_stop(target, order->id, error);
	CLEANUP_FREE struct machine *machine = calloc(1, sizeof(*machine));
	if (!machine)
		return error_set(error, -ENOMEM, NULL, "no memory");
	machine->id = order->id;
	int r = qemu_new(&local->settings, order, port, error, &machine->qemu);
	if (r < 0)
		return r;
	SCOPED_LOCK(&local->lock);
	machine->next = local->machines;
	local->machines = TAKE(machine);
	return 0;
}

/* ── the proof ───────────────────────────────────────────────────────────────────────────── */

/* Best effort: a verdict stands without a picture. */
static void take_picture(
	struct qemu *qemu, const struct target_order *order, struct target_proof *proof)
{
	CLEANUP(buf_free) struct buf path = { 0 };
	if (proof->passed)
		clock_sleep_ns(clock_system(), SETTLE_NS);
	if (buf_printf(&path, "%s/%s", order->directory, SCREENSHOT_NAME) == 0 &&
		qemu_screenshot(qemu, path.data, NULL) == 0)
		snprintf(proof->screenshot, sizeof(proof->screenshot), "%s", SCREENSHOT_NAME);
}

static void conclude(struct qemu *qemu, const struct target_order *order, enum boot_sight sight,
	const char *seen, struct target_proof *proof)
{
	bool runs = qemu_runs(qemu);
	proof->after_ns = clock_monotonic_ns(clock_system()) - qemu_started_ns(qemu);
	proof->passed = sight == BOOT_UP;
	if (sight == BOOT_UP)
		snprintf(proof->words, sizeof(proof->words), "%s", seen);
	else if (sight == BOOT_BROKEN)
		snprintf(proof->words, sizeof(proof->words), "its console says: %.250s", seen);
	else
		snprintf(proof->words, sizeof(proof->words), "%s after %lld s; %s%.220s",
			runs ? "no sign that it is up" : "it ended",
			(long long)(proof->after_ns / NS_PER_S),
			*seen ? "its console's last line: " : "its serial console was silent",
			seen);
	snprintf(proof->log, sizeof(proof->log), "%s", QEMU_SERIAL_LOG);
	if (runs)
		take_picture(qemu, order, proof);
}

static int watch_boot(struct local *local, struct qemu *qemu, struct boot_probe *probe,
	const struct target_watch *watch, enum boot_sight *ret_sight, char *seen, size_t size)
{
	struct clock_source *clock = clock_system();
	int64_t until_ns = qemu_started_ns(qemu) + local->settings.timeout_s * NS_PER_S;
	for (;;) {
		bool runs = qemu_runs(qemu);
		int64_t now_ns = clock_monotonic_ns(clock);
		*ret_sight = boot_probe_look(probe, seen, size);
		if (*ret_sight != BOOT_NOTHING_YET || !runs || now_ns >= until_ns)
			return 0;
		if (atomic_load(watch->stop))
			return -ECANCELED;
		watch->progress(watch->context,
			(uint64_t)((now_ns - qemu_started_ns(qemu)) / NS_PER_S),
			(uint64_t)local->settings.timeout_s);
		clock_sleep_ns(clock, LOOK_NS);
	}
}

static int local_prove(struct target *target, const struct target_order *order,
	const struct target_watch *watch, struct error *error, struct target_proof *ret_proof)
{
	struct local *local = local_of(target);
	struct qemu *qemu = find(local, order->id);
	CLEANUP(buf_free) struct buf log = { 0 };
	struct target_proof proof = { 0 };
	struct boot_probe *probe;
	enum boot_sight sight;
	char seen[512] = "";
	if (!qemu)
		return error_set(error, -ENOENT, NULL, "the machine does not run");
	int r = buf_printf(&log, "%s/%s", order->directory, QEMU_SERIAL_LOG);
	if (r == 0)
		r = boot_probe_new(&local->settings, log.data, qemu_port(qemu), &probe);
	if (r < 0)
		return error_set(error, r, NULL, "no memory");
	r = watch_boot(local, qemu, probe, watch, &sight, seen, sizeof(seen));
	boot_probe_free(probe);
	if (r < 0)
		return error_set(error, r, NULL, "the drill was ended");
	conclude(qemu, order, sight, seen, &proof);
	*ret_proof = proof;
	return 0;
}

/* ── life ────────────────────────────────────────────────────────────────────────────────── */

int target_local_new(const struct local_settings *settings, struct target **ret_target)
{
	static const struct target_ops ops = {
		.start = local_start, .runs = local_runs, .prove = local_prove, .stop = local_stop
	};
	struct local *local = calloc(1, sizeof(*local));
	if (!local)
		return -ENOMEM;
	local->target = (struct target){
		.ops = &ops, .name = "local", .clone_quota_bytes = settings->quota_bytes
	};
	local->settings = *settings;
	pthread_mutex_init(&local->lock, NULL);
	*ret_target = &local->target;
	return 0;
}

void target_local_free(struct target *target)
{
	if (!target)
		return;
	struct local *local = local_of(target);
	while (local->machines)
		(void)local_stop(target, local->machines->id, NULL);
	pthread_mutex_destroy(&local->lock);
	free(local);
}
