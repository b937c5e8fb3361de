/*
 * What libxxhash's shared library chooses by the processor and its static one lacks: the functions
 * that xxh_x86dispatch.h names, for programs that are linked statically. Any thread.
 */
#if defined(__x86_64__)
#include <xxhash.h>

#include "common/static/hash_avx2.h"

XXH64_hash_t XXH3_64bits_dispatch(const void *data, size_t n);
XXH128_hash_t XXH3_128bits_dispatch(const void *data, size_t n);

XXH64_hash_t XXH3_64bits_dispatch(const void *data, size_t n)
{
	return __builtin_cpu_supports("avx2") ? hash_avx2_64(data, n) : XXH3_64bits(data, n);
}

XXH128_hash_t XXH3_128bits_dispatch(const void *data, size_t n)
{
	return __builtin_cpu_supports("avx2") ? hash_avx2_128(data, n) : XXH3_128bits(data, n);
}
#endif
