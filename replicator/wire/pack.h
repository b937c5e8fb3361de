/*
 * zstd where it pays, decided as it goes.
 *
 * A sender tells how long the network took for what it sent; packing measures what it gains and
 * costs. Packing pays while the time it takes is less than the time the network is spared:
 *
 *	1 / pack rate  +  ratio / link rate  <  1 / link rate
 *
 * What is decided holds for a while, then one piece is tried the other way. Content that does not
 * shrink is found out by the same trial, so it costs next to nothing.
 *
 * A packer and an unpacker belong to one thread each; both keep a fixed amount of memory.
 */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "common/clock.h"
#include "common/error.h"

struct packer;
struct unpacker;

struct pack_figures {
	uint64_t seen_bytes, packed_bytes,
		out_bytes;       /* all; of these packed; what became of them */
	int64_t pack_ns;         /* time spent packing */
	double ratio;            /* out / in of late; 1 if unknown */
	double link_bytes_per_s; /* of late; 0 if unknown */
	bool packing;            /* what is decided now */
};

/* `max_bytes` is the largest piece. -ENOMEM. */
int packer_new(struct clock_source *clock, size_t max_bytes, struct packer **ret_packer);
void packer_free(struct packer *packer); /* NULL is fine */
/* The piece as it should travel: itself, or packed (then `*ret_zstd`); valid until the next call.
 * Never fails: what cannot be packed travels as it is. */
void packer_pack(struct packer *packer, const void *data, size_t n, const void **ret_data,
	size_t *ret_n, bool *ret_zstd);
/* That many bytes went out in that time, waits for the network and the window included. */
void packer_sent(struct packer *packer, size_t bytes, int64_t ns);
void packer_figures(const struct packer *packer, struct pack_figures *ret_figures);

int unpacker_new(struct unpacker **ret_unpacker);
void unpacker_free(struct unpacker *unpacker); /* NULL is fine */
/* Exactly `n` bytes come out of it, or -EBADMSG. Whatever `packed` holds, no more than `n` bytes
 * are written and no memory beyond the fixed amount is taken. */
int unpacker_unpack(struct unpacker *unpacker, const void *packed, size_t packed_bytes,
	void *ret_data, size_t n, struct error *error);
