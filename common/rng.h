/*
 * Random numbers: a small seeded generator (xoshiro256**, Blackman and Vigna 2018) for jitter,
 * models and simulations, and the kernel's for what must not be guessed.
 */
#pragma once

#include <stddef.h>
#include <stdint.h>

struct rng {
	uint64_t s[4];
};

/* Any seed is fine; the same seed gives the same numbers for ever. */
void rng_seed(struct rng *rng, uint64_t seed);
/* Seeds from random_bytes: other numbers each time. 0 or -errno. */
int rng_seed_randomly(struct rng *rng);
/* The next 64 bits. One thread at a time for each generator, as the two below. */
uint64_t rng_next(struct rng *rng);
/* Uniform in [0, limit); limit > 0. */
uint64_t rng_below(struct rng *rng, uint64_t limit);
/* Fills `n` bytes; the last draw may be used in part. */
void rng_fill(struct rng *rng, void *data, size_t n);

/* Fills from getrandom(2): keys, UUIDs, lease ids. 0 or -errno. Any thread. */
int random_bytes(void *data, size_t n);
