/*
 * The CRC that the service computes over a body when told to (x-ms-content-crc64): reflected
 * polynomial 0x9A6C9329AC4BC9B5, start and end inverted. "123456789" gives 0xAE8B14860A799888.
 */
#pragma once

#include <stddef.h>
#include <stdint.h>

/* Continues from `crc`, 0 at the start. Any thread. */
uint64_t azureblob_crc64(uint64_t crc, const void *data, size_t n);
/* The header's value: the eight bytes, little-endian, in base64. */
#define AZUREBLOB_CRC64_TEXT_BYTES 13
void azureblob_crc64_format(uint64_t crc, char ret_text[static AZUREBLOB_CRC64_TEXT_BYTES]);
