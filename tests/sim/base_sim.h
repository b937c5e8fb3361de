/*
 * A vault in memory: the disks of committed recovery points, by (disk, point).
 *
 * It stands for what is durable elsewhere, so a crash of the appliance's disk does not touch it.
 */
#pragma once

#include <stdbool.h>
#include <stdint.h>

#include "fs/base.h"

struct base_sim;

int base_sim_new(struct base_sim **ret_base);
void base_sim_free(struct base_sim *base);
struct base *base_sim_base(struct base_sim *base);

/* Stores the disk as of the point; replaces what is there. The bytes are copied. 0 or -ENOMEM. */
int base_sim_put(
	struct base_sim *base, uint16_t disk, uint64_t point, const void *data, uint64_t n);
/* The stored bytes, or NULL; borrowed until the point is dropped. */
const void *base_sim_get(
	const struct base_sim *base, uint16_t disk, uint64_t point, uint64_t *ret_n);
/* What lies there of the disk now, at least n bytes long and grown by zeros; borrowed until it is
 * grown or replaced. */
unsigned char *base_sim_live(struct base_sim *base, uint16_t disk, uint64_t n);
/* Forgets the point on all disks. */
void base_sim_drop(struct base_sim *base, uint64_t point);
bool base_sim_has(const struct base_sim *base, uint64_t point);

/* Reads asked for what is not there: a point never stored or dropped. Nothing that obeys the
 * contract asks so. */
uint64_t base_sim_stray_reads(const struct base_sim *base);
/* Until it is called again with 0, reads answer `error` (a negative errno): the vault is away. */
void base_sim_fail(struct base_sim *base, int error);
