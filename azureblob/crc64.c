/*
 * Four 128-bit lanes are folded with carry-less multiplication (Gopal et al., "Fast CRC
 * Computation for Generic Polynomials Using PCLMULQDQ", Intel 2009); what is left of a fold is a
 * message of 16 bytes with the same CRC, which the byte table finishes. The constants are
 * x^(d+63) and x^(d-1) mod P, bit-reflected, for a distance of d bits. Processors without the
 * instruction take the table all the way.
 */
#include "azureblob/crc64.h"

#include <endian.h>
#include <string.h>
#if defined(__x86_64__)
#include <immintrin.h>
#endif

#include "azureblob/crc64_table.h"
#include "common/base64.h"

#define X127 0x21e9761e252621acull
#define X191 0xeadc41fd2ba3d420ull
#define X511 0x62242240ace5045aull
#define X575 0x0c32cdb31e18a84aull

static uint64_t by_table(uint64_t crc, const unsigned char *p, size_t n)
{
	for (size_t i = 0; i < n; i++)
		crc = (crc >> 8) ^ crc64_table[(crc ^ p[i]) & 0xff];
	return crc;
}

#if defined(__x86_64__)
__attribute__((target("pclmul,sse2"))) static inline __m128i fold(
	__m128i lane, __m128i constants, __m128i next)
{
	__m128i low = _mm_clmulepi64_si128(lane, constants, 0x00);
	__m128i high = _mm_clmulepi64_si128(lane, constants, 0x11);
	return _mm_xor_si128(_mm_xor_si128(low, high), next);
}

/* `n` ≥ 64. */
__attribute__((target("pclmul,sse2"))) static uint64_t by_folding(
	uint64_t crc, const unsigned char *p, size_t n)
{
	const __m128i by_512 = _mm_set_epi64x((long long)X511, (long long)X575);
	const __m128i by_128 = _mm_set_epi64x((long long)X127, (long long)X191);
	const __m128i *block = (const __m128i *)p;
	__m128i lanes[4];
	for (int i = 0; i < 4; i++)
		lanes[i] = _mm_loadu_si128(block + i);
	lanes[0] = _mm_xor_si128(lanes[0], _mm_set_epi64x(0, (long long)crc));
	for (p += 64, n -= 64; n >= 64; p += 64, n -= 64) {
		block = (const __m128i *)p;
		for (int i = 0; i < 4; i++)
			lanes[i] = fold(lanes[i], by_512, _mm_loadu_si128(block + i));
	}
	__m128i one = lanes[0];
	for (int i = 1; i < 4; i++)
		one = fold(one, by_128, lanes[i]);
	unsigned char rest[16];
	memcpy(rest, &one, sizeof(rest));
	return by_table(by_table(0, rest, sizeof(rest)), p, n);
}
#endif

uint64_t azureblob_crc64(uint64_t crc, const void *data, size_t n)
{
#if defined(__x86_64__)
	if (n >= 64 && __builtin_cpu_supports("pclmul"))
		return ~by_folding(~crc, data, n);
#endif
	return ~by_table(~crc, data, n);
}

void azureblob_crc64_format(uint64_t crc, char ret_text[static AZUREBLOB_CRC64_TEXT_BYTES])
{
	uint64_t little = htole64(crc);
	base64_encode(&little, sizeof(little), ret_text);
}
