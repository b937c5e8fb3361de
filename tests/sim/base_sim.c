/*
 * The vault in memory. One thread. The history knows the size of each point's disks, so a read
 * that leaves the stored bytes counts as stray like one of a point that is not there.
 */
#include "tests/sim/base_sim.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "common/bytes.h"

struct image {
	struct image *next;
	uint64_t point;
	uint64_t n;
	uint16_t disk;
	_Alignas(16) unsigned char data[];
};

#define LIVE 0 /* the point whose image is what lies there now */

struct base_sim {
	struct base base;
	struct image *images;
	uint64_t stray;
	int error;
};

static struct image *find(const struct base_sim *base, uint16_t disk, uint64_t point)
{
	for (struct image *i = base->images; i; i = i->next)
		if (i->disk == disk && i->point == point)
			return i;
	return NULL;
}

static int sim_read(
	struct base *b, uint16_t disk, uint64_t point, uint64_t offset, void *data, size_t n)
{
	struct base_sim *base = CONTAINER_OF(b, struct base_sim, base);
	if (base->error < 0)
		return base->error;
	const struct image *image = find(base, disk, point);
	if (!image || offset + n > image->n || !is_aligned(offset | n, SECTOR_BYTES)) {
		base->stray++;
		return -ENOENT;
	}
	memcpy(data, image->data + offset, n);
	return 0;
}

static int sim_read_live(struct base *b, uint16_t disk, uint64_t offset, void *data, size_t n)
{
	return sim_read(b, disk, LIVE, offset, data, n);
}

static const struct base_ops sim_ops = { .read = sim_read, .read_live = sim_read_live };

int base_sim_new(struct base_sim **ret_base)
{
	struct base_sim *base = calloc(1, sizeof(*base));
	if (!base)
		return -ENOMEM;
	base->base.ops = &sim_ops;
	*ret_base = base;
	return 0;
}

static void drop_where(struct base_sim *base, uint64_t point, uint16_t disk, bool any)
{
	struct image **link = &base->images;
	while (*link) {
		struct image *i = *link;
		if (any || (i->point == point && (disk == 0 || i->disk == disk))) {
			*link = i->next;
			free(i);
		} else {
			link = &i->next;
		}
	}
}

void base_sim_free(struct base_sim *base)
{
	if (!base)
		return;
	drop_where(base, 0, 0, true);
	free(base);
}

struct base *base_sim_base(struct base_sim *base)
{
	return &base->base;
}

int base_sim_put(struct base_sim *base, uint16_t disk, uint64_t point, const void *data, uint64_t n)
{
	struct image *image = malloc(sizeof(*image) + n);
	if (!image)
		return -ENOMEM;
	drop_where(base, point, disk, false);
	image->point = point;
	image->disk = disk;
	image->n = n;
	memcpy(image->data, data, n);
	image->next = base->images;
	base->images = image;
	return 0;
}

unsigned char *base_sim_live(struct base_sim *base, uint16_t disk, uint64_t n)
{
	struct image *image = find(base, disk, LIVE);
	if (image && image->n >= n)
		return image->data;
	unsigned char *grown = calloc(1, n + 1);
	if (!grown)
		abort();
	if (image)
		memcpy(grown, image->data, image->n);
	if (base_sim_put(base, disk, LIVE, grown, n) < 0)
		abort();
	free(grown);
	return find(base, disk, LIVE)->data;
}

const void *base_sim_get(
	const struct base_sim *base, uint16_t disk, uint64_t point, uint64_t *ret_n)
{
	const struct image *image = find(base, disk, point);
	if (!image)
		return NULL;
	*ret_n = image->n;
	return image->data;
}

void base_sim_drop(struct base_sim *base, uint64_t point)
{
	drop_where(base, point, 0, false);
}

bool base_sim_has(const struct base_sim *base, uint64_t point)
{
	for (const struct image *i = base->images; i; i = i->next)
		if (i->point == point)
			return true;
	return false;
}

uint64_t base_sim_stray_reads(const struct base_sim *base)
{
	return base->stray;
}

void base_sim_fail(struct base_sim *base, int error)
{
	base->error = error;
}
