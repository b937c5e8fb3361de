/*
 * The simulated disk: names, open files, faults, crashes. Contents are in io_sim_node.c.
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

static void trace(struct io_sim *sim, const char *format, ...)
	__attribute__((format(printf, 2, 3)));

static void trace(struct io_sim *sim, const char *format, ...)
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
	trace(sim, "rename %s to %s (%d)", from, to, v);
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
	trace(sim, "unlink %s (%d)", path, v);
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
	trace(sim, "make_dir %s (%d)", path, v);
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
	trace(sim, "sync_dir %s (%d)", path, v);
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
		trace(sim, "create %s (%d)", path, v);
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
		trace(sim, "read of %zu at %" PRIu64 " fails", n, offset);
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
	trace(sim, "write %p %" PRIu64 " at %" PRIu64 " (%d)", (void *)f->node, n, offset, v);
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
	trace(sim, "datasync %p (%d)", (void *)f->node, v);
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
	trace(sim, "%s %p to %" PRIu64 " (%d)", op == IO_SIM_ALLOCATE ? "allocate" : "truncate",
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

/* ── crashes ─────────────────────────────────────────────────────────────────────────────── */

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

void io_sim_crash_at(struct io_sim *sim, uint64_t op)
{
	sim->crash_at = op;
}

void io_sim_power_cut(struct io_sim *sim)
{
	trace(sim, "power cut");
	sim->off = true;
}

bool io_sim_is_off(const struct io_sim *sim)
{
	return sim->off;
}

bool io_sim_external_op(struct io_sim *sim)
{
	if (!sim->off && ++sim->ops == sim->crash_at)
		sim->off = true;
	return sim->off;
}

static bool keeps_name(void *context, const struct name_change *c)
{
	const struct settlement *s = context;
	if (s->keep == IO_SIM_KEEP_SUBSET)
		return s->ordered_names ? c->sequence < s->names_cut
					: rng_below(s->rng, 100) < s->percent;
	int fate = settlement_of(s, c->sequence);
	return fate == 1 || (fate == 2 && rng_below(s->rng, 2));
}

/* One of the changes that are pending, by its number; 0 if there is none. */
static uint64_t choose_pending(struct io_sim *sim)
{
	uint64_t seen = 0, chosen = 0;
	for (const struct name_change *c = sim->name_changes; c; c = c->next)
		if (rng_below(&sim->rng, ++seen) == 0)
			chosen = c->sequence;
	for (const struct node *node = sim->nodes; node; node = node->next)
		for (const struct change *c = node->changes; c; c = c->next)
			if (rng_below(&sim->rng, ++seen) == 0)
				chosen = c->sequence;
	return chosen;
}

static void mark(struct node *node)
{
	if (node->marked)
		return;
	node->marked = true;
	for (struct entry *e = node->durable_names; e; e = e->next)
		mark(e->node);
}

/* Ends what no name leads to any more. */
static void sweep(struct io_sim *sim)
{
	mark(sim->root);
	struct node **link = &sim->nodes;
	while (*link) {
		struct node *node = *link;
		if (node->marked) {
			node->marked = false;
			link = &node->next;
			continue;
		}
		*link = node->next;
		names_free(&node->names);
		names_free(&node->durable_names);
		node_free(node);
	}
}

static void lose_sector(struct node *node)
{
	uint64_t offset = round_down(node->synced_offset, SECTOR_BYTES);
	if (offset + SECTOR_BYTES > node->durable.bytes)
		return;
	unsigned char before[SECTOR_BYTES] = { 0 };
	if (node->synced_before)
		memcpy(before, node->synced_before->data + offset % PAGE_BYTES, SECTOR_BYTES);
	content_write(&node->durable, offset, before, SECTOR_BYTES, 0);
}

void io_sim_power_on(struct io_sim *sim, enum io_sim_keep keep)
{
	struct settlement s = { .rng = &sim->rng, .keep = keep };
	static const unsigned char percents[] = { 5, 50, 50, 95 };
	s.percent = percents[rng_below(&sim->rng, sizeof(percents))];
	s.ordered_names = rng_below(&sim->rng, 2);
	s.names_cut = choose_pending(sim);
	s.cut = keep == IO_SIM_KEEP_TORN ? sim->last_write : choose_pending(sim);
	trace(sim, "power on, keep %d", (int)keep);

	names_settle(sim, NULL, keeps_name, &s);
	for (struct node *node = sim->nodes; node; node = node->next)
		node_settle(node, &s);
	if (sim->lie == IO_SIM_LIE_LOST_SECTOR && sim->synced_last)
		lose_sector(sim->synced_last);
	sim->synced_last = NULL;
	sweep(sim);
	for (struct node *node = sim->nodes; node; node = node->next) {
		content_copy(&node->seen, &node->durable);
		node->reserved_bytes = MIN(node->reserved_bytes, node->seen.bytes);
		names_free(&node->names);
		for (struct entry *e = node->durable_names; e; e = e->next)
			names_set(&node->names, e->name, e->node);
	}
	sim->epoch++;
	sim->off = false;
	sim->crash_at = 0;
	sim->fault.after = 0;
}

void io_sim_kill(struct io_sim *sim)
{
	trace(sim, "killed");
	sim->epoch++;
	sim->off = false;
	sim->crash_at = 0;
	sim->fault.after = 0;
}

/* ── faults and rot ──────────────────────────────────────────────────────────────────────── */

void io_sim_fail(struct io_sim *sim, unsigned ops, uint64_t after, int error, bool cached)
{
	sim->fault.ops = ops;
	sim->fault.after = after;
	sim->fault.error = error;
	sim->fault.cached = cached;
	sim->fault.done = false;
}

bool io_sim_has_failed(const struct io_sim *sim)
{
	return sim->fault.done;
}

void io_sim_set_room(struct io_sim *sim, uint64_t bytes)
{
	sim->room = bytes;
}

void io_sim_lie(struct io_sim *sim, enum io_sim_lie lie)
{
	sim->lie = lie;
}

void io_sim_set_stamp(struct io_sim *sim, uint64_t stamp)
{
	sim->stamp = stamp;
}

static void each_file(struct node *directory, const char *prefix,
	void (*each)(void *context, const char *path, uint64_t bytes), void *context)
{
	for (struct entry *e = directory->names; e; e = e->next) {
		char path[1024];
		snprintf(path, sizeof(path), "%s/%s", prefix, e->name);
		if (e->node->is_directory)
			each_file(e->node, path, each, context);
		else
			each(context, path, e->node->seen.bytes);
	}
}

void io_sim_each_file(struct io_sim *sim,
	void (*each)(void *context, const char *path, uint64_t bytes), void *context)
{
	each_file(sim->root, "", each, context);
}

int io_sim_rot(struct io_sim *sim, const char *path, uint64_t offset, const void *mask, size_t n)
{
	struct node *node;
	int r = names_look_up(sim, path, &node);
	if (r < 0)
		return r;
	if (offset + n > node->seen.bytes)
		return -EINVAL;
	struct content *contents[] = { &node->seen, &node->durable };
	trace(sim, "rot %s at %" PRIu64 ", %zu bytes", path, offset, n);
	for (unsigned c = 0; c < ARRAY_SIZE(contents); c++) {
		for (size_t i = 0; i < n; i++) {
			const struct page *page = content_page(contents[c], offset + i);
			uint64_t stamp =
				page ? page->stamp[(offset + i) % PAGE_BYTES / SECTOR_BYTES] : 0;
			unsigned char byte;
			content_read(contents[c], offset + i, &byte, 1);
			byte ^= ((const unsigned char *)mask)[i];
			content_write(contents[c], offset + i, &byte, 1, stamp);
		}
	}
	return 0;
}

int io_sim_stamp(
	struct io_sim *sim, const char *path, uint64_t offset, uint64_t *ret_stamp, bool *ret_blank)
{
	struct node *node;
	int r = names_look_up(sim, path, &node);
	if (r < 0)
		return r;
	const struct page *page = content_page(&node->seen, offset);
	uint64_t sector = offset % PAGE_BYTES / SECTOR_BYTES;
	*ret_stamp = page ? page->stamp[sector] : 0;
	*ret_blank = !page || is_zero(page->data + sector * SECTOR_BYTES, SECTOR_BYTES);
	return 0;
}

void io_sim_trace(struct io_sim *sim, FILE *file)
{
	sim->trace = file;
}
