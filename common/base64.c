/*
 * OpenSSL encodes and decodes; what is added is the strictness that EVP_DecodeBlock lacks: it
 * skips blanks and counts the padding as data. A text is accepted only if encoding its bytes
 * gives the same text again, so each value has exactly one spelling.
 */
#include "common/base64.h"

#include <errno.h>
#include <string.h>

#include <openssl/evp.h>

static const char alphabet[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";

size_t base64_encode(const void *data, size_t n, char *ret_text)
{
	if (n == 0) {
		ret_text[0] = '\0';
		return 0;
	}
	return (size_t)EVP_EncodeBlock((unsigned char *)ret_text, data, (int)n);
}

int base64_decode(const char *text, size_t n, uint8_t *ret_data, size_t *ret_n)
{
	if (n == 0) {
		*ret_n = 0;
		return 0;
	}
	if (n % 4 != 0 || n > (1u << 30))
		return -EINVAL;
	size_t padding = text[n - 1] != '=' ? 0 : text[n - 2] != '=' ? 1 : 2;
	for (size_t i = 0; i < n - padding; i++) {
		if (text[i] == '\0' || !strchr(alphabet, text[i]))
			return -EINVAL;
	}
	int got = EVP_DecodeBlock(ret_data, (const unsigned char *)text, (int)n);
	if (got < 0)
		return -EINVAL;
	size_t bytes = (size_t)got - padding;
	/* The last group's unused bits: encode it again and compare. */
	size_t tail = bytes % 3 == 0 ? 3 : bytes % 3;
	char again[8];
	base64_encode(ret_data + bytes - tail, tail, again);
	if (memcmp(again, text + n - 4, 4) != 0)
		return -EINVAL;
	*ret_n = bytes;
	return 0;
}
