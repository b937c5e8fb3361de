/*
 * Random bits with version and variant put in; text both ways. No state.
 */
#include "common/uuid.h"

#include <ctype.h>
#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "common/rng.h"

int uuid_generate(struct uuid *ret_uuid)
{
	struct uuid u;
	int r = random_bytes(u.bytes, sizeof(u.bytes));
	if (r < 0)
		return r;
	u.bytes[6] = (uint8_t)((u.bytes[6] & 0x0f) | 0x40);
	u.bytes[8] = (uint8_t)((u.bytes[8] & 0x3f) | 0x80);
	*ret_uuid = u;
	return 0;
}

void uuid_format(const struct uuid *uuid, char ret_text[static UUID_TEXT_BYTES])
{
	static const char digits[] = "0123456789abcdef";
	char *out = ret_text;
	for (int i = 0; i < 16; i++) {
		if (i == 4 || i == 6 || i == 8 || i == 10)
			*out++ = '-';
		*out++ = digits[uuid->bytes[i] >> 4];
		*out++ = digits[uuid->bytes[i] & 15];
	}
	*out = '\0';
}

static int hex_digit(char c)
{
	if (c >= '0' && c <= '9')
		return c - '0';
	c = (char)tolower((unsigned char)c);
	return c >= 'a' && c <= 'f' ? c - 'a' + 10 : -1;
}

int uuid_parse(const char *text, struct uuid *ret_uuid)
{
	if (strlen(text) != UUID_TEXT_BYTES - 1)
		return -EINVAL;
	struct uuid u;
	for (int i = 0; i < 16; i++) {
		if ((i == 4 || i == 6 || i == 8 || i == 10) && *text++ != '-')
			return -EINVAL;
		int high = hex_digit(text[0]);
		int low = high < 0 ? -1 : hex_digit(text[1]);
		if (low < 0)
			return -EINVAL;
		u.bytes[i] = (uint8_t)(high << 4 | low);
		text += 2;
	}
	*ret_uuid = u;
	return 0;
}
