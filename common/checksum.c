/*
 * libxxhash does the work; this file is the only one that includes it.
 */
#include "common/checksum.h"

#include <xxhash.h>

uint64_t checksum64(const void *data, size_t n)
{
	return XXH3_64bits(data, n);
}

struct hash128 checksum128(const void *data, size_t n)
{
	XXH128_hash_t h = XXH3_128bits(data, n);
	return (struct hash128){ .low = h.low64, .high = h.high64 };
}
