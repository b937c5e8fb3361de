/*
 * The model of a history. Points are kept by rising number. Images live as long as the model,
 * since several states share them.
 */
#include "tests/sim/history_model.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/bytes.h"

#define PATTERN_STEP 0x9e3779b97f4a7c15ull
#define POINT_FLAGS_OF_OPS \
	(POINT_VAULT | POINT_KEEP | POINT_VERIFIED | POINT_FAILED | POINT_PRESSURE | POINT_DRAINED)

struct model_memory {
	struct model_memory *next;
	struct model_image image;
};

void model_fill(uint64_t tag, void *sector)
{
	uint64_t *words = sector;
	for (unsigned i = 0; i < SECTOR_BYTES / 8; i++)
		words[i] = tag ? tag + i * PATTERN_STEP : 0;
}

uint64_t model_tag(const void *sector)
{
	const uint64_t *words = sector;
	uint64_t tag = words[0], step = tag ? PATTERN_STEP : 0, wrong = 0;
	for (unsigned i = 0; i < SECTOR_BYTES / 8; i++)
		wrong |= words[i] ^ (tag + i * step);
	return wrong ? MODEL_BAD_SECTOR : tag;
}

uint32_t model_sectors(uint64_t size_bytes)
{
	return (uint32_t)MIN(size_bytes / SECTOR_BYTES, (uint64_t)MODEL_SECTORS);
}

void model_init(struct model *model)
{
	memset(model, 0, sizeof(*model));
}

void model_free(struct model *model)
{
	while (model->memory) {
		struct model_memory *m = model->memory;
		model->memory = m->next;
		free(m);
	}
	free(model->all);
	model->all = NULL;
}

struct model_image *model_image_new(struct model *model)
{
	struct model_memory *m = malloc(sizeof(*m));
	if (!m)
		abort();
	m->next = model->memory;
	model->memory = m;
	m->image.count = 0;
	return &m->image;
}

const struct model_image *model_image(struct model *model, const struct model_state *state)
{
	struct model_image *image = model_image_new(model);
	for (unsigned i = 0; i < state->disk_count; i++) {
		const struct model_disk *d = &state->disks[i];
		if (d->disk.removed)
			continue;
		uint32_t sectors = model_sectors(d->disk.size_bytes);
		image->disks[image->count].id = d->disk.id;
		image->disks[image->count].sectors = sectors;
		image->disks[image->count].size_bytes = d->disk.size_bytes;
		memcpy(image->disks[image->count].tags, d->tags, sectors * sizeof(d->tags[0]));
		image->count++;
	}
	return image;
}

struct model_disk *model_disk(struct model_state *state, uint16_t id)
{
	for (unsigned i = 0; i < state->disk_count; i++)
		if (state->disks[i].disk.id == id)
			return &state->disks[i];
	return NULL;
}

struct model_point *model_point(struct model_state *state, uint64_t number)
{
	for (unsigned i = 0; i < state->point_count; i++)
		if (state->points[i].point.number == number)
			return &state->points[i];
	return NULL;
}

static void remove_point(struct model_state *state, struct model_point *point)
{
	size_t at = (size_t)(point - state->points);
	state->point_count--;
	memmove(point, point + 1, (state->point_count - at) * sizeof(*point));
}

static void add_point(
	struct model_state *state, const struct point *point, const struct model_image *image)
{
	if (state->point_count == MODEL_POINTS)
		abort();
	struct model_point *p = &state->points[state->point_count++];
	p->point = *point;
	p->image = image;
	p->soft = false;
	state->last_number = point->number;
}

static void apply_drop(struct model_state *state, const struct model_op *op)
{
	struct model_point *p = model_point(state, op->number);
	if (!p)
		return;
	if (op->clear & p->point.flags & POINT_VAULT) {
		/* What stood on it may not find its segments any more. */
		for (unsigned i = 0; i < state->point_count; i++) {
			struct model_point *above = &state->points[i];
			if (above->point.number < op->number)
				continue;
			if (above->point.number > op->number && (above->point.flags & POINT_VAULT))
				break;
			above->soft = true;
		}
	}
	p->point.flags &= ~op->clear;
	if (!(p->point.flags & (POINT_LOCAL | POINT_VAULT | POINT_DRAINED)))
		remove_point(state, p);
}

/* With point `number` in the vault, drained ones below it are gone, and those above are local. */
static void end_drain(struct model_state *state, uint64_t number)
{
	if (state->drained == 0)
		return;
	for (unsigned i = state->point_count; i > 0; i--) {
		struct model_point *p = &state->points[i - 1];
		bool drained = p->point.flags & POINT_DRAINED;
		p->point.flags &= ~(uint32_t)POINT_DRAINED;
		if (drained && p->point.number > number)
			p->point.flags |= POINT_LOCAL;
		else if (drained && p->point.number < number)
			remove_point(state, p);
	}
	state->drained = 0;
}

/* The head is the imported point now. */
static void apply_import_point(struct model_state *state, const struct model_op *op)
{
	add_point(state, &op->point, op->image);
	state->newest_vault = op->point.number;
	for (unsigned i = 0; i < op->image->count; i++) {
		struct model_disk *d = model_disk(state, op->image->disks[i].id);
		if (d)
			memcpy(d->tags, op->image->disks[i].tags,
				op->image->disks[i].sectors * sizeof(d->tags[0]));
	}
}

static void apply_seal(struct model_state *state, const struct model_op *op)
{
	struct point point = op->point;
	point.changed_bytes = state->changed_bytes;
	if (state->drained)
		point.flags = (point.flags & ~(uint32_t)POINT_LOCAL) | POINT_DRAINED;
	add_point(state, &point, op->image);
	state->changed_bytes = 0;
	for (unsigned i = 0; i < op->bookmark_count; i++) {
		struct model_disk *d = model_disk(state, op->bookmarks[i].disk);
		if (d)
			memcpy(d->bookmark, op->bookmarks[i].data, sizeof(d->bookmark));
	}
}

static void apply_to_disk(struct model_state *state, const struct model_op *op)
{
	struct model_disk *d = model_disk(state, op->disk);
	if (!d)
		abort();
	switch (op->kind) {
	case MODEL_GROW_DISK:
		d->disk.size_bytes = op->added.size_bytes;
		break;
	case MODEL_REMOVE_DISK:
		d->disk.removed = true;
		break;
	case MODEL_RESYNC:
		d->disk.resync_needed = op->set != 0;
		break;
	default:
		for (uint64_t i = 0; i < op->sectors; i++)
			d->tags[op->lba + i] = op->tag ? op->tag + i : 0;
		state->changed_bytes += op->sectors * SECTOR_BYTES;
	}
}

void model_apply(struct model_state *state, const struct model_op *op)
{
	struct model_point *p = model_point(state, op->number);
	switch (op->kind) {
	case MODEL_ADD_DISK:
	case MODEL_IMPORT_DISK: {
		if (state->disk_count == MODEL_DISKS)
			abort();
		struct model_disk *d = &state->disks[state->disk_count++];
		memset(d, 0, sizeof(*d));
		d->disk = op->added;
		break;
	}
	case MODEL_SEAL:
		apply_seal(state, op);
		break;
	case MODEL_IMPORT_POINT:
		apply_import_point(state, op);
		break;
	case MODEL_MARK:
		if (p)
			p->point.flags = (p->point.flags | op->set) & ~op->clear;
		break;
	case MODEL_DROP:
		apply_drop(state, op);
		break;
	case MODEL_FLUSH_BEGIN:
		state->flush_pending = op->number;
		break;
	case MODEL_FLUSH_COMMIT:
		if (p)
			p->point.flags |= POINT_VAULT;
		state->newest_vault = op->number;
		if (state->flush_pending <= op->number)
			state->flush_pending = 0;
		end_drain(state, op->number);
		break;
	case MODEL_DRAIN:
		state->drained = op->number;
		break;
	default:
		apply_to_disk(state, op);
	}
}

void model_stage(struct model *model, const struct model_op *op)
{
	if (model->op_count == MODEL_OPS)
		abort();
	model->ops[model->op_count++] = *op;
	model_apply(&model->live, op);
	if (!model->keep_all)
		return;
	void *more = realloc(model->all, (model->all_count + 1) * sizeof(*model->all));
	if (!more)
		abort();
	model->all = more;
	model->all[model->all_count++] = *op;
}

void model_acknowledge(struct model *model, uint64_t lsn)
{
	unsigned n = 0;
	while (n < model->op_count && model->ops[n].lsn <= lsn)
		model_apply(&model->durable, &model->ops[n++]);
	model->op_count -= n;
	memmove(model->ops, model->ops + n, model->op_count * sizeof(model->ops[0]));
}

static const char *disk_differs(
	const struct model_disk *want, const struct model_disk *got, char text[static 256])
{
	if (want->disk.id != got->disk.id || strcmp(want->disk.name, got->disk.name) != 0 ||
		want->disk.size_bytes != got->disk.size_bytes ||
		want->disk.removed != got->disk.removed ||
		want->disk.resync_needed != got->disk.resync_needed) {
		snprintf(text, 256,
			"disk %u %s: %" PRIu64 " bytes, removed %d, resync %d; seen %u %s: %" PRIu64
			" bytes, removed %d, resync %d",
			want->disk.id, want->disk.name, want->disk.size_bytes, want->disk.removed,
			want->disk.resync_needed, got->disk.id, got->disk.name,
			got->disk.size_bytes, got->disk.removed, got->disk.resync_needed);
		return text;
	}
	if (want->disk.removed)
		return NULL;
	for (uint64_t i = 0; i < model_sectors(want->disk.size_bytes); i++) {
		if (want->tags[i] == got->tags[i])
			continue;
		snprintf(text, 256, "disk %u sector %" PRIu64 ": tag %" PRId64 ", seen %" PRId64,
			want->disk.id, i, (int64_t)want->tags[i], (int64_t)got->tags[i]);
		return text;
	}
	if (memcmp(want->bookmark, got->bookmark, sizeof(want->bookmark)) != 0) {
		snprintf(text, 256, "disk %u: bookmark differs", want->disk.id);
		return text;
	}
	return NULL;
}

static const char *point_differs(const struct model_state *state, const struct model_point *want,
	const struct point *got, char text[static 256])
{
	const struct point *w = &want->point;
	uint32_t unlike = (w->flags ^ got->flags) & (POINT_FLAGS_OF_OPS | POINT_DAMAGED);
	uint32_t local = (w->flags ^ got->flags) & POINT_LOCAL;
	bool local_fine = !local || ((w->flags & POINT_LOCAL) && (w->flags & POINT_VAULT) &&
					    w->number <= state->newest_vault);
	if (w->number == got->number && w->time_ns == got->time_ns && w->kind == got->kind &&
		w->changed_bytes == got->changed_bytes && !unlike && local_fine)
		return NULL;
	snprintf(text, 256,
		"point %" PRIu64 ": time %" PRId64 " kind %u flags %x changed %" PRIu64
		"; seen %" PRIu64 ": %" PRId64 " %u %x %" PRIu64,
		w->number, w->time_ns, w->kind, w->flags, w->changed_bytes, got->number,
		got->time_ns, got->kind, got->flags, got->changed_bytes);
	return text;
}

static const char *points_differ(const struct model_state *state, const struct point *points,
	unsigned count, char text[static 256])
{
	unsigned at = 0;
	for (unsigned i = 0; i < state->point_count; i++) {
		const struct model_point *want = &state->points[i];
		if (at < count && points[at].number == want->point.number) {
			const char *why = point_differs(state, want, &points[at], text);
			if (why)
				return why;
			at++;
		} else if (!want->soft) {
			snprintf(text, 256, "point %" PRIu64 " is missing", want->point.number);
			return text;
		}
	}
	if (at == count)
		return NULL;
	snprintf(text, 256, "point %" PRIu64 " should not be there", points[at].number);
	return text;
}

const char *model_differs(
	const struct model_state *state, const struct model_seen *seen, char text[static 256])
{
	unsigned at = 0;
	for (unsigned i = 0; i < state->disk_count; i++) {
		const struct model_disk *want = &state->disks[i];
		if (at < seen->disk_count && seen->disks[at].disk.id == want->disk.id) {
			const char *why = disk_differs(want, &seen->disks[at++], text);
			if (why)
				return why;
		} else {
			/* Removed disks are forgotten only where the table is full, which these few
			 * never make it. */
			snprintf(text, 256, "disk %u is missing", want->disk.id);
			return text;
		}
	}
	if (at < seen->disk_count) {
		snprintf(text, 256, "disk %u should not be there", seen->disks[at].disk.id);
		return text;
	}
	if (state->flush_pending != seen->flush_pending) {
		snprintf(text, 256, "flush of %" PRIu64 " pending, seen %" PRIu64,
			state->flush_pending, seen->flush_pending);
		return text;
	}
	if (state->drained != seen->drained) {
		snprintf(text, 256, "drained for %" PRIu64 ", seen %" PRIu64, state->drained,
			seen->drained);
		return text;
	}
	if (state->changed_bytes != seen->changed_bytes) {
		snprintf(text, 256, "%" PRIu64 " bytes unsealed, seen %" PRIu64,
			state->changed_bytes, seen->changed_bytes);
		return text;
	}
	return points_differ(state, seen->points, seen->point_count, text);
}

const char *model_adopt(struct model_state *state, const struct point *points, unsigned count,
	char text[static 256])
{
	const char *why = points_differ(state, points, count, text);
	if (why)
		return why;
	unsigned at = 0;
	for (unsigned i = 0; i < state->point_count;) {
		struct model_point *p = &state->points[i];
		if (at < count && points[at].number == p->point.number) {
			p->point.flags = points[at++].flags;
			i++;
		} else {
			remove_point(state, p);
		}
	}
	return NULL;
}

const char *model_recover(
	struct model *model, const struct model_seen *seen, char text[static 1024])
{
	struct model_state *state = malloc(sizeof(*state));
	if (!state)
		abort();
	*state = model->durable;
	char first[256] = "", last[256] = "";
	unsigned matched = UINT32_MAX;
	for (unsigned i = 0; i <= model->op_count; i++) {
		if (i > 0)
			model_apply(state, &model->ops[i - 1]);
		const char *why = model_differs(state, seen, i == 0 ? first : last);
		if (!why) {
			matched = i;
			model->live = *state;
		}
	}
	free(state);
	if (matched == UINT32_MAX) {
		snprintf(text, 1024, "no state fits: acknowledged: %s; all %u staged: %s", first,
			model->op_count, model->op_count ? last : "none");
		return text;
	}
	if (model->all_count)
		model->all_count -= model->op_count - matched;
	model->op_count = 0;
	char none[256];
	(void)model_adopt(&model->live, seen->points, seen->point_count, none);
	model->durable = model->live;
	return NULL;
}

void model_allow_trim(struct model_state *state, uint64_t vault_point)
{
	for (unsigned i = 0; i < state->point_count; i++)
		if (!(state->points[i].point.flags & POINT_VAULT) &&
			state->points[i].point.number < vault_point)
			state->points[i].soft = true;
}
