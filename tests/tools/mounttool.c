/*
 * A small server for the mount's tests: two groups' histories in a directory, their machines all
 * mounted.
 *
 *	mounttool DIRECTORY MOUNT-POINT
 *
 * Commands come a line each on stdin, answers a line each on stdout: "ok [value]" or
 * "error ERRNO". The end of stdin is an orderly end.
 *
 *	group 0|1                        whose disks, machines, points and gate are meant; first 0
 *	machine NAME writable|readonly   shows it
 *	remove NAME                      hides it
 *	disk NAME MIB                    adds the disk "<machine>/<disk>"; value: its id
 *	grow ID MIB
 *	seal [COUNT]                     value: the last point's number
 *	drop NUMBER                      drops the local point
 *	clone MACHINE NAME POINT MIB     MIB: its quota
 *	unclone MACHINE NAME
 *	vault NUMBER                     takes the point as committed in the vault, whose disks
 *	                                 are all zeros here
 *	hold | let-go                    reads of the vault wait | go on
 *	held                             value: how many wait
 *	away | back                      the vault is out of reach: reads of it fail | go on
 *	asked                            value: how often the vault was read
 *	full | room                      writes wait at the committer's gate | go on
 *	waiting                          value: how many wait there
 *	watch                            value: 1 if the mount had to be restored
 *	staged                           value: the staged lsn
 *	durable                          value: the durable lsn
 */
#include <errno.h>
#include <inttypes.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "common/bytes.h"
#include "common/clock.h"
#include "common/io.h"
#include "fs/clone.h"
#include "fs/committer.h"
#include "fs/history.h"
#include "fs/mount.h"

#define MAX_CLONES 8

/* A vault of empty disks that can be out of reach. */
struct zero_base {
	struct base base;
	atomic_bool hold, away;
	atomic_uint held, asked;
};

/* A journal without room. */
struct full_gate {
	atomic_bool full;
	atomic_uint waiting;
};

struct tool {
	struct zero_base base;
	const char *directory;
	struct group {
		struct full_gate gate;
		struct history *history;
		struct committer *committer;
	} groups[2], *group;
	struct mount *mount;
	struct named_clone {
		char name[32];
		struct clone *clone;
	} clones[MAX_CLONES];
};

static int zero_base_read(
	struct base *base, uint16_t disk, uint64_t point, uint64_t offset, void *data, size_t n)
{
	struct zero_base *z = CONTAINER_OF(base, struct zero_base, base);
	(void)disk, (void)point, (void)offset;
	atomic_fetch_add(&z->held, 1);
	while (atomic_load(&z->hold))
		usleep(1000);
	atomic_fetch_sub(&z->held, 1);
	atomic_fetch_add(&z->asked, 1);
	if (atomic_load(&z->away))
		return -ETIMEDOUT;
	memset(data, 0, n);
	return 0;
}

static int full_gate_admit(void *context, uint64_t bytes)
{
	struct full_gate *gate = context;
	(void)bytes;
	atomic_fetch_add(&gate->waiting, 1);
	while (atomic_load(&gate->full))
		usleep(1000);
	atomic_fetch_sub(&gate->waiting, 1);
	return 0;
}

static int flush_to(struct tool *t, uint64_t number)
{
	uint64_t lsn;
	int r = history_flush_begin(t->group->history, number, &lsn);
	if (r == 0)
		r = committer_wait(t->group->committer, lsn);
	if (r == 0)
		r = history_flush_commit(t->group->history, number, &lsn);
	return r < 0 ? r : committer_wait(t->group->committer, lsn);
}

static int answer(int r, uint64_t value)
{
	if (r < 0)
		printf("error %s\n", strerrorname_np(-r));
	else
		printf("ok %" PRIu64 "\n", value);
	fflush(stdout);
	return r;
}

static int seal_times(struct tool *t, unsigned count, uint64_t *ret_number)
{
	for (unsigned i = 0; i < count; i++) {
		struct seal seal = { .time_ns = clock_realtime_ns(clock_system()),
			.kind = POINT_CRASH };
		uint64_t lsn;
		int r = i + 1 == count ? committer_seal(t->group->committer, &seal, ret_number)
				       : history_seal(t->group->history, &seal, ret_number, &lsn);
		if (r == -EAGAIN)
			r = committer_sync(t->group->committer), i--;
		if (r < 0)
			return r;
	}
	return 0;
}

static int make_clone(
	struct tool *t, const char *machine, const char *name, uint64_t point, uint64_t quota_mib)
{
	char path[4096];
	for (unsigned i = 0; i < MAX_CLONES; i++) {
		struct named_clone *c = &t->clones[i];
		if (c->clone)
			continue;
		snprintf(path, sizeof(path), "%s/clone-%u", t->directory, i);
		int r = clone_new(
			io_posix(), path, t->group->history, point, quota_mib * MIB, &c->clone);
		if (r < 0)
			return r;
		r = mount_add_clone(t->mount, machine, name, c->clone);
		if (r < 0) {
			clone_free(c->clone);
			c->clone = NULL;
		}
		snprintf(c->name, sizeof(c->name), "%s", name);
		return r;
	}
	return -ENOSPC;
}

static int unmake_clone(struct tool *t, const char *machine, const char *name)
{
	int r = mount_remove_clone(t->mount, machine, name);
	for (unsigned i = 0; r == 0 && i < MAX_CLONES; i++) {
		struct named_clone *c = &t->clones[i];
		if (c->clone && strcmp(c->name, name) == 0) {
			clone_free(c->clone);
			c->clone = NULL;
		}
	}
	return r;
}

static int run_command(struct tool *t, char *line)
{
	char a[64] = "", b[64] = "";
	uint64_t n = 0, m = 0, lsn = 0;
	uint16_t disk = 0;
	int r;
	if (sscanf(line, "machine %63s %63s", a, b) == 2) {
		r = mount_add_machine(t->mount, a, t->group->committer, strcmp(b, "writable") == 0);
		return answer(r, 0);
	}
	if (sscanf(line, "remove %63s", a) == 1)
		return answer(mount_remove_machine(t->mount, a), 0);
	if (sscanf(line, "disk %63s %" SCNu64, a, &n) == 2) {
		r = history_add_disk(t->group->history, a, n * MIB, &disk, &lsn);
		if (r == 0)
			r = committer_wait(t->group->committer, lsn);
		return answer(r, disk);
	}
	if (sscanf(line, "grow %" SCNu64 " %" SCNu64, &n, &m) == 2) {
		r = history_grow_disk(t->group->history, (uint16_t)n, m * MIB, &lsn);
		return answer(r < 0 ? r : committer_wait(t->group->committer, lsn), 0);
	}
	if (strcmp(line, "group 0") == 0 || strcmp(line, "group 1") == 0) {
		t->group = &t->groups[line[6] - '0'];
		return answer(0, 0);
	}
	if (strncmp(line, "seal", 4) == 0) {
		if (sscanf(line, "seal %" SCNu64, &n) != 1)
			n = 1;
		r = seal_times(t, (unsigned)n, &m);
		return answer(r, m);
	}
	if (sscanf(line, "drop %" SCNu64, &n) == 1) {
		r = history_point_drop(t->group->history, n, POINT_LOCAL, &lsn);
		return answer(r < 0 ? r : committer_wait(t->group->committer, lsn), 0);
	}
	if (sscanf(line, "clone %63s %63s %" SCNu64 " %" SCNu64, a, b, &n, &m) == 4)
		return answer(make_clone(t, a, b, n, m), 0);
	if (sscanf(line, "unclone %63s %63s", a, b) == 2)
		return answer(unmake_clone(t, a, b), 0);
	if (sscanf(line, "vault %" SCNu64, &n) == 1)
		return answer(flush_to(t, n), 0);
	if (strcmp(line, "hold") == 0 || strcmp(line, "let-go") == 0) {
		atomic_store(&t->base.hold, line[0] == 'h');
		return answer(0, 0);
	}
	if (strcmp(line, "away") == 0 || strcmp(line, "back") == 0) {
		atomic_store(&t->base.away, line[0] == 'a');
		return answer(0, 0);
	}
	if (strcmp(line, "asked") == 0)
		return answer(0, atomic_load(&t->base.asked));
	if (strcmp(line, "held") == 0)
		return answer(0, atomic_load(&t->base.held));
	if (strcmp(line, "full") == 0 || strcmp(line, "room") == 0) {
		atomic_store(&t->group->gate.full, line[0] == 'f');
		return answer(0, 0);
	}
	if (strcmp(line, "waiting") == 0)
		return answer(0, atomic_load(&t->group->gate.waiting));
	if (strcmp(line, "watch") == 0) {
		struct error error = { 0 };
		bool restored = false;
		r = mount_watch(t->mount, &error, &restored);
		return answer(r, restored);
	}
	if (strcmp(line, "staged") == 0)
		return answer(0, history_staged_lsn(t->group->history));
	if (strcmp(line, "durable") == 0)
		return answer(0, history_durable_lsn(t->group->history));
	return answer(-EINVAL, 0);
}

static void finish(struct tool *t)
{
	atomic_store(&t->base.hold, false);
	for (unsigned i = 0; i < ARRAY_SIZE(t->groups); i++)
		atomic_store(&t->groups[i].gate.full, false);
	mount_free(t->mount);
	for (unsigned i = 0; i < MAX_CLONES; i++)
		clone_free(t->clones[i].clone);
	for (unsigned i = 0; i < ARRAY_SIZE(t->groups); i++) {
		committer_free(t->groups[i].committer);
		history_close(t->groups[i].history);
	}
}

static int open_group(struct tool *t, unsigned number, uint64_t *ret_replayed)
{
	struct group *group = &t->groups[number];
	char journal[4096];
	snprintf(journal, sizeof(journal), "%s/%s", t->directory, number ? "journal1" : "journal");
	struct history_options options = {
		.io = io_posix(),
		.clock = clock_system(),
		.base = &t->base.base,
		.directory = journal,
		.group = { { (uint8_t)(42 + number) } },
		.limit_bytes = 24 * GIB,
	};
	struct committer_gate gate = { .admit = full_gate_admit, .context = &group->gate };
	struct history_report report;
	struct error error = { 0 };
	int r = history_open(&options, &report, &error, &group->history);
	if (r == 0)
		r = committer_new(group->history, &gate, &group->committer);
	if (r < 0)
		fprintf(stderr, "mounttool: %s\n", error.message);
	else
		*ret_replayed = report.records_replayed;
	return r;
}

int main(int argc, char **argv)
{
	if (argc != 3) {
		fprintf(stderr, "usage: mounttool DIRECTORY MOUNT-POINT\n");
		return 2;
	}
	static const struct base_ops base_ops = { .read = zero_base_read };
	struct tool t = { .directory = argv[1], .base.base.ops = &base_ops };
	struct error error = { 0 };
	uint64_t replayed, none;
	t.group = &t.groups[0];
	if (open_group(&t, 1, &none) < 0 || open_group(&t, 0, &replayed) < 0)
		return 1;
	struct mount_options mount = { .path = argv[2], .allow_other = geteuid() == 0 };
	if (mount_new(&mount, &error, &t.mount) < 0) {
		fprintf(stderr, "mounttool: %s\n", error.message);
		finish(&t);
		return 1;
	}
	answer(0, replayed);
	char line[256];
	while (fgets(line, sizeof(line), stdin)) {
		line[strcspn(line, "\n")] = '\0';
		(void)run_command(&t, line);
	}
	finish(&t);
	return 0;
}
