/*
 * Thin calls into OpenSSL's EVP interface, one shot each, no state.
 */
#include "common/hmac.h"

#include <errno.h>
#include <limits.h>

#include <openssl/evp.h>
#include <openssl/hmac.h>

int sha256(const void *data, size_t n, uint8_t ret_hash[static SHA256_BYTES])
{
	unsigned int bytes = SHA256_BYTES;
	return EVP_Digest(data, n, ret_hash, &bytes, EVP_sha256(), NULL) == 1 ? 0 : -EIO;
}

int sha256_hex(const void *data, size_t n, char ret_text[static SHA256_HEX_BYTES])
{
	uint8_t hash[SHA256_BYTES];
	int r = sha256(data, n, hash);
	if (r < 0)
		return r;
	hex_encode(hash, sizeof(hash), ret_text);
	return 0;
}

int hmac_sha256(const void *key, size_t key_bytes, const void *data, size_t n,
	uint8_t ret_mac[static SHA256_BYTES])
{
	/* A NULL key means "the last one" to OpenSSL: an empty key needs an address. */
	static const char none = 0;
	unsigned int bytes = SHA256_BYTES;
	if (key_bytes > INT_MAX)
		return -EIO;
	if (!HMAC(EVP_sha256(), key_bytes ? key : &none, (int)key_bytes, data, n, ret_mac, &bytes))
		return -EIO;
	return 0;
}

int md5_iov(const struct iovec *iov, int count, uint8_t ret_hash[static MD5_BYTES])
{
	unsigned int bytes = MD5_BYTES;
	EVP_MD_CTX *context = EVP_MD_CTX_new();
	int ok = context && EVP_DigestInit_ex(context, EVP_md5(), NULL) == 1;
	for (int i = 0; ok && i < count; i++)
		ok = EVP_DigestUpdate(context, iov[i].iov_base, iov[i].iov_len) == 1;
	ok = ok && EVP_DigestFinal_ex(context, ret_hash, &bytes) == 1;
	EVP_MD_CTX_free(context);
	return ok ? 0 : -EIO;
}

void hex_encode(const void *data, size_t n, char *ret_text)
{
	static const char digits[] = "0123456789abcdef";
	const uint8_t *p = data;
	for (size_t i = 0; i < n; i++) {
		ret_text[2 * i] = digits[p[i] >> 4];
		ret_text[2 * i + 1] = digits[p[i] & 15];
	}
	ret_text[2 * n] = '\0';
}
