/*
 * Base64 with padding (RFC 4648, section 4), as HTTP headers and account keys use it.
 */
#pragma once

#include <stddef.h>
#include <stdint.h>

/* Room for the text of `n` bytes, the NUL included. */
#define BASE64_TEXT_BYTES(n) (((n) + 2) / 3 * 4 + 1)
/* Room for the bytes that `n` characters can hold. */
#define BASE64_DATA_BYTES(n) ((n) / 4 * 3 + 3)

/* Writes the text and a NUL to `ret_text`, which has BASE64_TEXT_BYTES(n) bytes of room; `n` is
 * at most 1 GiB. Returns the length of the text. Any thread. */
size_t base64_encode(const void *data, size_t n, char *ret_text);

/* Reads `n` characters into `ret_data` (BASE64_DATA_BYTES(n) bytes of room). Strict: no blanks,
 * full padding, unused bits zero. 0 or -EINVAL; then `ret_data` holds rubbish and `*ret_n` is
 * untouched. Any thread. */
int base64_decode(const char *text, size_t n, uint8_t *ret_data, size_t *ret_n);
