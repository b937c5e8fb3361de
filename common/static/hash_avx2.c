/*
 * XXH3 with AVX2, from libxxhash's header; see hash_dispatch.c. Nothing here may be called on a
 * processor that does not have it.
 */
#if defined(__x86_64__)
#define XXH_INLINE_ALL
#define XXH_VECTOR 2 /* XXH_AVX2 */
#include <xxhash.h>

#include "common/static/hash_avx2.h"

XXH64_hash_t hash_avx2_64(const void *data, size_t n)
{
	return XXH3_64bits(data, n);
}

XXH128_hash_t hash_avx2_128(const void *data, size_t n)
{
	return XXH3_128bits(data, n);
}
#endif
