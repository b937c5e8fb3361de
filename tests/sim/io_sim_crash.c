/*
 * What the simulation does to its disk behind a program's back: crashes and what they leave, faults
 * that are asked for, rot.
 *
 * When the power comes back chance decides, for each change that was not synced, whether it stays;
 * what is durable then is what is seen, and what no name leads to any more is gone.
 */
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "tests/sim/io_sim.h"
#include "tests/sim/io_sim_node.h"

void io_sim_crash_at(struct io_sim *sim, uint64_t op)
{
	sim->crash_at = op;
}

void io_sim_power_cut(struct io_sim *sim)
{
	sim_trace(sim, "power cut");
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
	sim_trace(sim, "power on, keep %d", (int)keep);

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
	sim_trace(sim, "killed");
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
	sim_trace(sim, "rot %s at %" PRIu64 ", %zu bytes", path, offset, n);
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
