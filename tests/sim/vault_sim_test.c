/*
 * Vault and flusher against a plain model, on disks of real VHD sizes: a life of writes, seals,
 * flushes, deletions, growth, crashes and restarts over a service that loses, doubles and delays.
 *
 *	vault_sim_test [--mode random|rot] [--seed S] [--crash-points N]
 *	               [--replay random:SEED|rot:SEED] [--verbose]
 *
 * The model keeps the image of all disks at every seal. Whatever the vault shows as a committed
 * point must be that image, byte for byte, read past the code under test; footer included. At a
 * life's end a second appliance takes over: the same must hold there, the first can change
 * nothing more, and the second goes on.
 *
 * With rot, records in the appliance's journal are damaged now and then while it is off. What the
 * journal loses by it is its own simulation's matter; here the vault may hold points that the
 * journal does not know of any more, and whatever is flushed then must be exact all the same.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "tests/sim/sim_replay.h"
#include "tests/sim/vault_life.h"

/* The first appliance lives on and knows nothing. */
static void first_is_refused(struct life *l)
{
	struct flusher_result result;
	struct error error = { 0 };
	struct point newest = { 0 }, vaulted = { 0 };
	history_point_newest(l->history, 0, INT64_MAX, &newest);
	history_point_newest(l->history, POINT_VAULT, INT64_MAX, &vaulted);
	if (newest.number <= MAX(vaulted.number, l->unknown) ||
		newest.number < history_flush_pending(l->history))
		return;
	int r = flusher_flush(l->flusher, newest.number, &error, &result);
	for (unsigned try = 0; life_passes(r) && try < LIFE_TRIES; try++)
		r = flusher_flush(l->flusher, newest.number, &error, &result);
	if (r != -ESTALE && !(l->rots && (r == -ENODATA || r == -EIO)))
		life_fail(l, "the first appliance's flush answers %d: %s", r, error.message);
	life_trace(l, "refused: %s", error.message);
}

/* Returns the second one. */
static struct life *take_over(struct life *l)
{
	static struct life second;
	struct blob_service *service = blob_sim_service(l->service);
	second = *l;
	memset(&second.group, 0, sizeof(second.group));
	second.flusher = NULL;
	second.history = NULL;
	second.base = NULL;
	second.appliance.bytes[0] = 2;
	second.directory = "/journal2";
	if (service->ops->open_store(service, NULL, NULL, &second.store) < 0)
		abort();
	life_trace(l, "takeover");
	PERSIST(&second, "vault_group_takeover",
		vault_group_takeover(second.store, LIFE_GROUP, &second.appliance, "second", false,
			&second.clock.source, NULL, NULL, &error, &second.group));
	first_is_refused(l);
	/* What was under way lands, and changes nothing. */
	blob_sim_land_all(l->service);
	life_stop(l);
	if (vault_base_new(service, &second.group, &second.base) < 0)
		abort();
	if (!life_open_history(&second))
		life_fail(l, "no history after takeover");
	PERSIST(&second, "vault_import",
		vault_import(second.store, &second.group, second.history, &error));
	if (!life_commit(&second) || !life_make_flusher(&second))
		life_fail(l, "no commit after takeover");
	life_read_head(&second);
	life_check_all(&second);
	return &second;
}

/* It goes on. */
static void after_takeover(struct life *l)
{
	for (unsigned i = 0; i < 30 && l->disk_count > 0; i++)
		life_put(l);
	for (unsigned i = 0; i < 3 && l->disk_count > 0; i++) {
		life_seal(l);
		life_flush(l);
		if (io_sim_is_off(l->disk))
			life_restart(l);
	}
	blob_sim_set_faults(l->service, 0);
	blob_sim_land_all(l->service);
	uint64_t pending = history_flush_pending(l->history);
	struct flusher_result result;
	struct point last = { 0 };
	history_point(l->history, pending, &last);
	/* One that is damaged is passed by, by whatever is flushed next. */
	if (pending > l->unknown && (last.flags & POINT_LOCAL) && !(last.flags & POINT_DAMAGED))
		PERSIST(l, "the last flush", flusher_flush(l->flusher, pending, &error, &result));
	l->settled = true;
	life_check_all(l);
	blob_sim_set_faults(l->service, 0);
	blob_sim_set_overload(l->service, 0);
	if (!l->rots) /* else the newest here may not be the newest there */
		life_rot_is_found(l);
}

/* A flush was cut short: what it sent last may still land, before or after others go on. */
static void after_cut(struct life *l)
{
	if (history_flush_pending(l->history) == 0)
		return;
	if (life_below(l, 2) == 0)
		life_collect(l);
	if (life_below(l, 2) == 0)
		blob_sim_land_all(l->service);
	if (life_below(l, 2) == 0) {
		life_put(l);
		life_seal(l);
	}
	for (unsigned i = 0; i < 2 && !io_sim_is_off(l->disk); i++)
		life_flush(l);
	if (io_sim_is_off(l->disk))
		return;
	if (life_below(l, 2) == 0)
		life_collect(l);
	blob_sim_land_all(l->service);
	life_check_all(l);
}

static void live(struct life *l)
{
	struct life *second;
	l->store = NULL;
	struct blob_service *service = blob_sim_service(l->service);
	if (service->ops->open_store(service, NULL, NULL, &l->store) < 0)
		abort();
	life_make_group(l);
	life_stop(l);
	if (!life_start(l))
		life_fail(l, "it does not start");
	life_add_disk(l);
	blob_sim_set_faults(l->service, l->faults);
	blob_sim_set_overload(l->service, l->faults);
	for (uint64_t step = 20 + life_below(l, 120); step > 0; step--) {
		uint64_t what = life_below(l, 100);
		if (l->disk_count == 0)
			life_add_disk(l);
		if (l->disk_count == 0)
			continue;
		if (what < 50)
			life_put(l);
		else if (what < 62)
			life_seal(l);
		else if (what < 76)
			life_flush(l);
		else if (what < 80)
			life_delete_point(l);
		else if (what < 83)
			life_collect(l);
		else if (what < 85)
			life_grow_disk(l);
		else if (what < 87)
			life_add_disk(l);
		else if (what < 89)
			life_keep_point(l);
		else if (what < 91)
			life_check_all(l);
		else if (what < 93)
			blob_sim_land_all(l->service);
		else if (what < 96)
			io_sim_power_cut(l->disk);
		else if (what < 98 && !l->rots)
			life_another_writes(l);
		if (io_sim_is_off(l->disk)) {
			life_restart(l);
			if (!l->refused)
				after_cut(l);
		}
		if (io_sim_is_off(l->disk))
			life_restart(l);
		if (l->refused)
			break;
	}
	if (l->refused) {
		life_trace(l, "refused");
		life_stop(l);
		return;
	}
	life_check_all(l);
	/* The last that the first one sends is under way when it is taken over. */
	life_put(l);
	life_seal(l);
	life_flush(l);
	if (io_sim_is_off(l->disk))
		life_restart(l);
	if (l->refused) {
		life_stop(l);
		return;
	}
	second = take_over(l);
	after_takeover(second);
	blob_sim_power_cut(l->service);
	io_sim_power_cut(l->disk);
	life_stop(second);
	l->verified = second->verified;
	l->crashes = second->crashes;
	l->rotten = second->rotten;
	memcpy(&l->now, &second->now, sizeof(l->now));
	memcpy(l->points, second->points, sizeof(l->points));
}

static int run(const struct sim_settings *settings, uint64_t seed, bool rots, uint64_t *crashes,
	uint64_t *verified, uint64_t *rotten)
{
	static const unsigned faults[] = { 0, 3, 10, 30 };
	static struct life l;
	static char failure[LIFE_FAILURE_BYTES];
	static jmp_buf failed;
	memset(&l, 0, sizeof(l));
	l.failed = &failed;
	l.failure = failure;
	sim_replay_set(settings, "%s:%#" PRIx64, rots ? "rot" : "random", seed);
	l.rots = rots;
	rng_seed(&l.rng, seed);
	clock_sim_init(&l.clock);
	l.trace = settings->trace;
	l.directory = "/journal";
	l.appliance.bytes[0] = 1;
	l.faults = faults[life_below(&l, ARRAY_SIZE(faults))];
	if (io_sim_new(seed, &l.disk) < 0 || blob_sim_new(seed, l.disk, &l.service) < 0)
		abort();
	int r = setjmp(failed);
	if (r == 0) {
		live(&l);
		blob_sim_free(l.service);
		io_sim_free(l.disk);
		for (unsigned d = 0; d < LIFE_DISKS; d++) {
			free(l.now.data[d]);
			for (unsigned i = 0; i < LIFE_POINTS; i++)
				free(l.points[i].data[d]);
		}
	}
	*crashes += l.crashes + 1;
	*rotten += l.rotten;
	*verified += l.verified;
	return r ? sim_replay_report(l.failure) : 0;
}

int main(int argc, char **argv)
{
	struct sim_settings settings;
	uint64_t crashes = 0, verified = 0, lives = 0, rotten = 0;
	int r = 0;
	if (sim_settings_parse(argc, argv, "random", 500, &settings) < 0) {
		fprintf(stderr,
			"usage: vault_sim_test [--mode random|rot] [--seed S]\n"
			"         [--crash-points N] [--replay random|rot:SEED] [--verbose]\n");
		return 2;
	}
	printf("seed %#" PRIx64 "\n", settings.seed);
	fflush(stdout);
	if (settings.replay && strncmp(settings.replay, "random:", 7) == 0)
		return run(&settings, strtoull(settings.replay + 7, NULL, 0), false, &crashes,
			&verified, &rotten);
	if (settings.replay && strncmp(settings.replay, "rot:", 4) == 0)
		return run(&settings, strtoull(settings.replay + 4, NULL, 0), true, &crashes,
			&verified, &rotten);
	bool rots = strcmp(settings.mode, "rot") == 0;
	for (; r == 0 && crashes < settings.crash_points; lives++)
		r = run(&settings, sim_mix(settings.seed, lives), rots, &crashes, &verified,
			&rotten);
	printf("%s: %" PRIu64 " lives, %" PRIu64 " crash points, %" PRIu64 " losses, %" PRIu64
	       " points exact\n",
		r == 0 ? "passed" : "FAILED", lives, crashes, rotten, verified);
	return r;
}
