/*
 * UUIDs of version 4 (RFC 9562), as 16 bytes in the order in which they are printed.
 */
#pragma once

#include <stdint.h>

#define UUID_TEXT_BYTES 37 /* 36 characters and a NUL */

struct uuid {
	uint8_t bytes[16];
};

/* A new random one. 0 or -errno of getrandom(2). Any thread, as all here. */
int uuid_generate(struct uuid *ret_uuid);
/* Lower case with hyphens. */
void uuid_format(const struct uuid *uuid, char ret_text[static UUID_TEXT_BYTES]);
/* Exactly 36 characters, either case. 0 or -EINVAL. */
int uuid_parse(const char *text, struct uuid *ret_uuid);
