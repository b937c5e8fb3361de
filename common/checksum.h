/*
 * The two hashes of the project, both XXH3 (little-endian canonical values of libxxhash with
 * seed 0): 64 bits where a structure proves itself, 128 bits where contents are compared.
 */
#pragma once

#include <stddef.h>
#include <stdint.h>

struct hash128 {
	uint64_t low;
	uint64_t high;
};

/* Of `n` bytes, 0 of them too. Cannot fail. Any thread. */
uint64_t checksum64(const void *data, size_t n);
struct hash128 checksum128(const void *data, size_t n);
