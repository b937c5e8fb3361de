/* XXH3 for processors with AVX2. Any thread. */
#pragma once

#include <stddef.h>
#include <xxhash.h>

XXH64_hash_t hash_avx2_64(const void *data, size_t n);
XXH128_hash_t hash_avx2_128(const void *data, size_t n);
