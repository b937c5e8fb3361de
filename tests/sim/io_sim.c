/*
 * The simulated disk as a program sees it: names, open files, faults that come. What a crash leaves
 * is in io_sim_crash.c, contents are in io_sim_node.c.
 *
 * Names have two states like contents: as seen, and durable. A change of names is logged with its
 * directory until that is synced. A rename is one change: it is durable when either directory is
 * synced, and a crash never shows half of it.
 *
 * Invariants: a file opened before a crash is dead (its epoch is old) and answers -EIO; while the
 * power is off nothing changes. Direct files are held to O_DIRECT's alignment.
 */
#include "tests/sim/io_sim.h"

#include <errno.h>
#include <inttypes.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include "tests/sim/io_sim_node.h"

struct sim_file {
	struct io_file file;
	struct node *node;
	uint64_t epoch;
	unsigned flags;
};

enum verdict { GO_ON, CRASH_IN_IT, FAIL_IT, IS_OFF };

static struct io_sim *sim_of(struct io *io)
{
	return CONTAINER_OF(io, struct io_sim, io);
}

void sim_trace(struct io_sim *sim, const char *format, ...)
{
	if (!sim->trace)
		return;
	va_list args;
	va_start(args, format);
	fprintf(sim->trace, "  io %" PRIu64 ": ", sim->ops);
	vfprintf(sim->trace, format, args);
	fputc('\n', sim->trace);
	va_end(args);
}

static enum verdict begin(struct io_sim *sim, enum io_sim_op op)
{
	if (sim->off)
		return IS_OFF;
	if (op != IO_SIM_READ && ++sim->ops == sim->crash_at)
		return CRASH_IN_IT;
	if ((sim->fault.ops & op) && sim->fault.after > 0 && --sim->fault.after == 0) {
		sim->fault.done = true;
		return FAIL_IT;
	}
	return GO_ON;
}

/* ── names ───────────────────────────────────────────────────────────────────────────────── */

static int sim_rename(struct io *io, const char *from, const char *to)
{
	struct io_sim *sim = sim_of(io);
	struct node *from_directory, *to_directory, *node;
	char from_last[256], to_last[256];
	if (sim->off)
		return -EIO;
	int r = names_walk(sim, from, &from_directory, from_last);
	if (r == 0)
		r = names_walk(sim, to, &to_directory, to_last);
	if (r == 0)
		r = names_look_up(sim, from, &node);
	if (r < 0)
		return r;
	enum verdict v = begin(sim, IO_SIM_RENAME);
	sim_trace(sim, "rename %s to %s (%d)", from, to, v);
	if (v == FAIL_IT)
		return sim->fault.error;
	names_change(sim, from_directory, from_last, to_directory, to_last, node);
	sim->off = v == CRASH_IN_IT;
	return sim->off ? -EIO : 0;
}

static int sim_unlink(struct io *io, const char *path)
{
	struct io_sim *sim = sim_of(io);
	struct node *directory, *node;
	char last[256];
	if (sim->off)
		return -EIO;
	int r = names_walk(sim, path, &directory, last);
	if (r == 0)
		r = names_look_up(sim, path, &node);
	if (r == 0 && node->is_directory)
		r = -EISDIR;
	if (r < 0)
		return r;
	enum verdict v = begin(sim, IO_SIM_UNLINK);
	sim_trace(sim, "unlink %s (%d)", path, v);
	if (v == FAIL_IT)
		return sim->fault.error;
	names_change(sim, directory, last, NULL, NULL, node);
	sim->off = v == CRASH_IN_IT;
	return sim->off ? -EIO : 0;
}

static int sim_make_dir(struct io *io, const char *path)
{
	struct io_sim *sim = sim_of(io);
	struct node *directory, *node;
	char last[256];
	if (sim->off)
		return -EIO;
	int r = names_walk(sim, path, &directory, last);
	if (r < 0)
		return r;
	if (names_look_up(sim, path, &node) == 0)
		return -EEXIST;
	enum verdict v = begin(sim, IO_SIM_MAKE_DIR);
	sim_trace(sim, "make_dir %s (%d)", path, v);
	if (v == FAIL_IT)
		return sim->fault.error;
	names_change(sim, NULL, NULL, directory, last, names_new_node(sim, true));
	sim->off = v == CRASH_IN_IT;
	return sim->off ? -EIO : 0;
}

static int sim_sync_dir(struct io *io, const char *path)
{
	struct io_sim *sim = sim_of(io);
	struct node *node;
	if (sim->off)
		return -EIO;
	int r = names_look_up(sim, path, &node);
	if (r == 0 && !node->is_directory)
		r = -ENOTDIR;
	if (r < 0)
		return r;
	enum verdict v = begin(sim, IO_SIM_SYNC_DIR);
	sim_trace(sim, "sync_dir %s (%d)", path, v);
	if (v == FAIL_IT)
		return sim->fault.error;
	sim->off = v == CRASH_IN_IT;
	if (sim->off)
		return -EIO;
	if (sim->lie != IO_SIM_LIE_SYNC_DIR)
		names_settle(sim, node, NULL, NULL);
	return 0;
}

static int sim_list(struct io *io, const char *path, int (*each)(void *context, const char *name),
	void *context)
{
	struct io_sim *sim = sim_of(io);
	struct node *node;
	if (sim->off)
		return -EIO;
	int r = names_look_up(sim, path, &node);
	if (r == 0 && !node->is_directory)
		r = -ENOTDIR;
	if (r < 0)
		return r;
	/* The callback may change the directory: list a copy. */
	unsigned count = 0, i = 0;
	for (struct entry *e = node->names; e; e = e->next)
		count++;
	char **names = sim_alloc(count * sizeof(*names));
	for (struct entry *e = node->names; e; e = e->next)
		names[i++] = strdup(e->name);
	for (i = 0; i < count; i++) {
		/* In no order. */
		unsigned other = (unsigned)rng_below(&sim->rng, count);
		char *name = names[i];
		names[i] = names[other];
		names[other] = name;
	}
	for (i = 0; i < count && r == 0; i++)
		r = each(context, names[i]);
	for (i = 0; i < count; i++)
		free(names[i]);
	free(names);
	return r;
}

/* ── files ───────────────────────────────────────────────────────────────────────────────── */

static int sim_open(struct io *io, const char *path, unsigned flags, struct io_file **ret_file)
{
	struct io_sim *sim = sim_of(io);
	struct node *directory, *node;
	char last[256];
	if (sim->off)
		return -EIO;
	int r = names_walk(sim, path, &directory, last);
	if (r < 0)
		return r;
	r = names_look_up(sim, path, &node);
	if (r == 0 && node->is_directory)
		return -EISDIR;
	if (r == 0 && (flags & IO_CREATE) && (flags & IO_EXCLUSIVE))
		return -EEXIST;
	if (r < 0) {
		if (r != -ENOENT || !(flags & IO_CREATE))
			return r;
		enum verdict v = begin(sim, IO_SIM_CREATE);
		sim_trace(sim, "create %s (%d)", path, v);
		if (v == FAIL_IT)
			return sim->fault.error;
		node = names_new_node(sim, false);
		names_change(sim, NULL, NULL, directory, last, node);
		sim->off = v == CRASH_IN_IT;
		if (sim->off)
			return -EIO;
	}
	struct sim_file *f = sim_alloc(sizeof(*f));
	f->file.io = io;
	f->node = node;
	f->epoch = sim->epoch;
	f->flags = flags;
	*ret_file = &f->file;
	return 0;
}

static void sim_close(struct io_file *file)
{
	free(CONTAINER_OF(file, struct sim_file, file));
}

/* The open file, or NULL if its process or the power is gone. */
static struct sim_file *alive(struct io_file *file)
{
	struct sim_file *f = CONTAINER_OF(file, struct sim_file, file);
	struct io_sim *sim = sim_of(file->io);
	return sim->off || f->epoch != sim->epoch ? NULL : f;
}

static int sim_read(struct io_file *file, void *data, size_t n, uint64_t offset, size_t *ret_n)
{
	struct io_sim *sim = sim_of(file->io);
	const struct sim_file *f = alive(file);
	if (!f)
		return -EIO;
	if ((f->flags & IO_DIRECT) && !is_aligned(offset | n | (uintptr_t)data, IO_DIRECT_ALIGN))
		return -EINVAL;
	if (begin(sim, IO_SIM_READ) == FAIL_IT) {
		sim_trace(sim, "read of %zu at %" PRIu64 " fails", n, offset);
		return sim->fault.error;
	}
	uint64_t bytes = f->node->seen.bytes;
	size_t got = offset >= bytes ? 0 : MIN(n, bytes - offset);
	content_read(&f->node->seen, offset, data, got);
	if (sim->lie == IO_SIM_LIE_WRONG_READ && got > 0 && rng_below(&sim->rng, 20) == 0) {
		unsigned char *byte = (unsigned char *)data + rng_below(&sim->rng, got);
		*byte = (unsigned char)(*byte ^ (1u << rng_below(&sim->rng, 8)));
	}
	*ret_n = got;
	return 0;
}

static uint64_t node_used_bytes(const struct node *node)
{
	uint64_t pages = 0;
	for (uint64_t i = 0; i < node->seen.count; i++)
		pages += node->seen.pages[i] != NULL;
	return MAX(pages * PAGE_BYTES, round_up(node->reserved_bytes, PAGE_BYTES));
}

uint64_t io_sim_used_bytes(const struct io_sim *sim)
{
	uint64_t used = 0;
	for (const struct node *d = sim->nodes; d; d = d->next)
		for (const struct entry *e = d->names; e; e = e->next)
			used += node_used_bytes(e->node);
	return used;
}

static bool has_room(const struct io_sim *sim, const struct node *node, uint64_t from, uint64_t to)
{
	if (sim->room == UINT64_MAX || to <= node->reserved_bytes)
		return true;
	uint64_t more = 0;
	for (uint64_t at = round_down(from, PAGE_BYTES); at < to; at += PAGE_BYTES)
		more += content_page(&node->seen, at) || at < node->reserved_bytes ? 0 : PAGE_BYTES;
	return io_sim_used_bytes(sim) + more <= sim->room;
}

static void put_data(struct io_sim *sim, struct node *node, uint64_t offset,
	const unsigned char *data, uint64_t n)
{
	node_log(node, CHANGE_DATA, ++sim->sequence, offset, data, n, sim->stamp);
	sim->last_write = sim->sequence;
	content_write(&node->seen, offset, data, n, sim->stamp);
	node->seen.bytes = MAX(node->seen.bytes, offset + n);
}

static int sim_write(struct io_file *file, const struct iovec *iov, int count, uint64_t offset)
{
	struct io_sim *sim = sim_of(file->io);
	const struct sim_file *f = alive(file);
	if (!f)
		return -EIO;
	if (!(f->flags & IO_WRITE))
		return -EBADF;
	uint64_t n = 0;
	uintptr_t bits = 0;
	for (int i = 0; i < count; i++) {
		n += iov[i].iov_len;
		bits |= (uintptr_t)iov[i].iov_base | iov[i].iov_len;
	}
	if ((f->flags & IO_DIRECT) && !is_aligned(offset | bits, IO_DIRECT_ALIGN))
		return -EINVAL;
	enum verdict v = begin(sim, IO_SIM_WRITE);
	sim_trace(sim, "write %p %" PRIu64 " at %" PRIu64 " (%d)", (void *)f->node, n, offset, v);
	if (v == GO_ON && sim->lie == IO_SIM_LIE_LOST_WRITE && rng_below(&sim->rng, 40) == 0)
		return 0;
	if (v == GO_ON && !has_room(sim, f->node, offset, offset + n))
		return -ENOSPC;
	unsigned char *data = sim_alloc(n);
	uint64_t at = 0;
	for (int i = 0; i < count; i++) {
		memcpy(data + at, iov[i].iov_base, iov[i].iov_len);
		at += iov[i].iov_len;
	}
	/* A failed write has done its first part, by sectors, or all or nothing of it. */
	uint64_t done = n;
	if (v == FAIL_IT)
		done = MIN(n, rng_below(&sim->rng, n / SECTOR_BYTES + 2) * SECTOR_BYTES);
	if (done > 0)
		put_data(sim, f->node, offset, data, done);
	free(data);
	sim->off = v == CRASH_IN_IT;
	return v == FAIL_IT ? sim->fault.error : sim->off ? -EIO : 0;
}

/* The sync fails: what it was about is settled by chance, and forgotten. */
static void fail_sync(struct io_sim *sim, struct node *node)
{
	struct settlement s = { .rng = &sim->rng, .keep = IO_SIM_KEEP_SUBSET };
	s.percent = (unsigned)rng_below(&sim->rng, 101);
	node_settle(node, &s);
	if (!sim->fault.cached)
		content_copy(&node->seen, &node->durable);
}

static int sim_datasync(struct io_file *file)
{
	struct io_sim *sim = sim_of(file->io);
	const struct sim_file *f = alive(file);
	if (!f)
		return -EIO;
	enum verdict v = begin(sim, IO_SIM_DATASYNC);
	sim_trace(sim, "datasync %p (%d)", (void *)f->node, v);
	if (v == FAIL_IT) {
		fail_sync(sim, f->node);
		return sim->fault.error;
	}
	sim->off = v == CRASH_IN_IT;
	if (sim->off)
		return -EIO;
	if (sim->lie == IO_SIM_LIE_DATASYNC)
		return 0;
	node_sync(f->node);
	sim->synced_last = f->node;
	return 0;
}

static int resize(struct io_file *file, uint64_t bytes, enum io_sim_op op)
{
	struct io_sim *sim = sim_of(file->io);
	const struct sim_file *f = alive(file);
	if (!f)
		return -EIO;
	if (!(f->flags & IO_WRITE))
		return -EBADF;
	struct node *node = f->node;
	enum verdict v = begin(sim, op);
	sim_trace(sim, "%s %p to %" PRIu64 " (%d)", op == IO_SIM_ALLOCATE ? "allocate" : "truncate",
		(void *)node, bytes, v);
	if (v == FAIL_IT)
		return sim->fault.error;
	if (op == IO_SIM_ALLOCATE) {
		if (v == GO_ON && !has_room(sim, node, 0, bytes))
			return -ENOSPC;
		node->reserved_bytes = MAX(node->reserved_bytes, bytes);
		bytes = MAX(bytes, node->seen.bytes);
	} else {
		node->reserved_bytes = MIN(node->reserved_bytes, bytes);
	}
	if (bytes != node->seen.bytes) {
		node_log(node, CHANGE_RESIZE, ++sim->sequence, bytes, NULL, 0, 0);
		content_resize(&node->seen, bytes);
	}
	sim->off = v == CRASH_IN_IT;
	return sim->off ? -EIO : 0;
}

static int sim_allocate(struct io_file *file, uint64_t bytes)
{
	return resize(file, bytes, IO_SIM_ALLOCATE);
}

static int sim_truncate(struct io_file *file, uint64_t bytes)
{
	return resize(file, bytes, IO_SIM_TRUNCATE);
}

static int sim_size(struct io_file *file, uint64_t *ret_bytes)
{
	const struct sim_file *f = alive(file);
	if (!f)
		return -EIO;
	*ret_bytes = f->node->seen.bytes;
	return 0;
}

static int sim_free_bytes(struct io *io, const char *path, uint64_t *ret_bytes)
{
	struct io_sim *sim = sim_of(io);
	struct node *node;
	if (sim->off)
		return -EIO;
	int r = names_look_up(sim, path, &node);
	if (r < 0)
		return r;
	uint64_t used = io_sim_used_bytes(sim);
	uint64_t room = MIN(sim->room, TIB);
	*ret_bytes = used < room ? room - used : 0;
	return 0;
}

static const struct io_ops sim_ops = {
	.open = sim_open,
	.close = sim_close,
	.read = sim_read,
	.write = sim_write,
	.datasync = sim_datasync,
	.allocate = sim_allocate,
	.truncate = sim_truncate,
	.size = sim_size,
	.rename = sim_rename,
	.unlink = sim_unlink,
	.make_dir = sim_make_dir,
	.sync_dir = sim_sync_dir,
	.list = sim_list,
	.free_bytes = sim_free_bytes,
};

/* ── life ────────────────────────────────────────────────────────────────────────────────── */

int io_sim_new(uint64_t seed, struct io_sim **ret_sim)
{
	struct io_sim *sim = calloc(1, sizeof(*sim));
	if (!sim)
		return -ENOMEM;
	sim->io.ops = &sim_ops;
	rng_seed(&sim->rng, seed);
	sim->name_changes_end = &sim->name_changes;
	sim->room = UINT64_MAX;
	sim->root = names_new_node(sim, true);
	*ret_sim = sim;
	return 0;
}

static bool keeps_nothing(void *context, const struct name_change *c)
{
	(void)context;
	(void)c;
	return false;
}

void io_sim_free(struct io_sim *sim)
{
	if (!sim)
		return;
	names_settle(sim, NULL, keeps_nothing, NULL);
	while (sim->nodes) {
		struct node *node = sim->nodes;
		sim->nodes = node->next;
		names_free(&node->names);
		names_free(&node->durable_names);
		node_free(node);
	}
	free(sim);
}

struct io *io_sim_io(struct io_sim *sim)
{
	return &sim->io;
}

uint64_t io_sim_ops(const struct io_sim *sim)
{
	return sim->ops;
}

void io_sim_trace(struct io_sim *sim, FILE *file)
{
	sim->trace = file;
}
