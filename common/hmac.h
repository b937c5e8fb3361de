/*
 * The cryptographic hashes that signatures are made of: SHA-256, HMAC-SHA-256 (RFC 2104), MD5
 * (as a transport checksum only), and hexadecimal text.
 */
#pragma once

#include <stddef.h>
#include <stdint.h>
#include <sys/uio.h>

#define SHA256_BYTES 32
#define SHA256_HEX_BYTES 65 /* 64 digits and a NUL */
#define MD5_BYTES 16

/* All return 0, or -EIO if the library refuses (out of memory, or a policy forbids the
 * algorithm). Any thread. */
int sha256(const void *data, size_t n, uint8_t ret_hash[static SHA256_BYTES]);
int sha256_hex(const void *data, size_t n, char ret_text[static SHA256_HEX_BYTES]);
int hmac_sha256(const void *key, size_t key_bytes, const void *data, size_t n,
	uint8_t ret_mac[static SHA256_BYTES]);
int md5_iov(const struct iovec *iov, int count, uint8_t ret_hash[static MD5_BYTES]);

/* Lower-case digits and a NUL: 2 * n + 1 bytes of room in `ret_text`. */
void hex_encode(const void *data, size_t n, char *ret_text);
