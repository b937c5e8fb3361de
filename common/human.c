/*
 * Durations, sizes, times of day and names as people write them.
 *
 * Everything is read strictly: what is left over after a value makes it invalid, and so does
 * what does not fit. What the format functions write, the parse functions read back to the same
 * value. Pure; any thread.
 */
#include "common/human.h"

#include <ctype.h>
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "common/bytes.h"

#define DURATION_MAX_S (100ll * 366 * 86400)

/* Reads decimal digits at *text and moves it behind them. */
static int parse_digits(const char **text, uint64_t *ret_value)
{
	const char *p = *text;
	uint64_t value = 0;
	if (!isdigit((unsigned char)*p))
		return -EINVAL;
	for (; isdigit((unsigned char)*p); p++)
		if (__builtin_mul_overflow(value, 10u, &value) ||
			__builtin_add_overflow(value, (uint64_t)(*p - '0'), &value))
			return -EINVAL;
	*text = p;
	*ret_value = value;
	return 0;
}

int duration_parse(const char *text, int64_t *ret_seconds)
{
	uint64_t value, unit;
	int r = parse_digits(&text, &value);
	if (r < 0)
		return r;
	switch (*text) {
	case 's':
		unit = 1;
		break;
	case 'm':
		unit = 60;
		break;
	case 'h':
		unit = 3600;
		break;
	case 'd':
		unit = 86400;
		break;
	case '\0':
		if (value != 0)
			return -EINVAL;
		*ret_seconds = 0;
		return 0;
	default:
		return -EINVAL;
	}
	if (text[1] != '\0' || value > (uint64_t)DURATION_MAX_S / unit)
		return -EINVAL;
	*ret_seconds = (int64_t)(value * unit);
	return 0;
}

int duration_format(int64_t seconds, struct buf *ret_text)
{
	static const struct {
		int64_t seconds;
		char letter;
	} units[] = { { 86400, 'd' }, { 3600, 'h' }, { 60, 'm' }, { 1, 's' } };
	if (seconds == 0)
		return buf_append_text(ret_text, "0");
	unsigned i = 0;
	while (seconds % units[i].seconds != 0)
		i++;
	return buf_printf(ret_text, "%" PRId64 "%c", seconds / units[i].seconds, units[i].letter);
}

int size_parse(const char *text, uint64_t *ret_bytes)
{
	static const char letters[] = "KMGT";
	uint64_t value;
	int r = parse_digits(&text, &value);
	if (r < 0)
		return r;
	if (*text == ' ' && text[1] != '\0')
		text++;
	const char *letter = *text ? strchr(letters, toupper((unsigned char)*text)) : NULL;
	if (letter) {
		unsigned shift = 10 * (unsigned)(letter - letters + 1);
		if (value > UINT64_MAX >> shift)
			return -EINVAL;
		value <<= shift;
		text++;
		if (*text == 'i' && text[1] == 'B')
			text++;
	}
	if (*text == 'B')
		text++;
	if (*text != '\0')
		return -EINVAL;
	*ret_bytes = value;
	return 0;
}

int size_format(uint64_t bytes, struct buf *ret_text)
{
	static const char letters[] = "TGMK";
	for (unsigned i = 0; i < 4; i++) {
		uint64_t unit = (uint64_t)1 << (40 - 10 * i);
		if (bytes != 0 && bytes % unit == 0)
			return buf_printf(ret_text, "%" PRIu64 "%c", bytes / unit, letters[i]);
	}
	return buf_printf(ret_text, "%" PRIu64, bytes);
}

const char *human_size(double bytes, char ret_text[static HUMAN_TEXT_BYTES])
{
	static const char *const units[] = { "B", "KiB", "MiB", "GiB", "TiB", "PiB" };
	unsigned unit = 0;
	for (; bytes >= 1024 && unit + 1 < ARRAY_SIZE(units); unit++)
		bytes /= 1024;
	snprintf(ret_text, HUMAN_TEXT_BYTES, "%.*f %s", unit == 0 ? 0 : 1, bytes, units[unit]);
	return ret_text;
}

const char *human_time(double seconds, char ret_text[static HUMAN_TEXT_BYTES])
{
	if (seconds < 120)
		snprintf(ret_text, HUMAN_TEXT_BYTES, "%.0f s", seconds);
	else if (seconds < 7200)
		snprintf(ret_text, HUMAN_TEXT_BYTES, "%.0f min", seconds / 60);
	else if (seconds < 172800)
		snprintf(ret_text, HUMAN_TEXT_BYTES, "%.1f h", seconds / 3600);
	else
		snprintf(ret_text, HUMAN_TEXT_BYTES, "%.1f days", seconds / 86400);
	return ret_text;
}

int minute_parse(const char **text, uint16_t *ret_minute)
{
	const char *p = *text;
	for (int i = 0; i < 5; i++)
		if (i == 2 ? p[i] != ':' : !isdigit((unsigned char)p[i]))
			return -EINVAL;
	unsigned hour = (unsigned)(p[0] - '0') * 10 + (unsigned)(p[1] - '0');
	unsigned minute = (unsigned)(p[3] - '0') * 10 + (unsigned)(p[4] - '0');
	if (minute > 59 || hour * 60 + minute > MINUTES_PER_DAY)
		return -EINVAL;
	*text = p + 5;
	*ret_minute = (uint16_t)(hour * 60 + minute);
	return 0;
}

bool name_is_valid(const char *name)
{
	size_t n = strlen(name);
	if (n == 0 || n > NAME_MAX_CHARACTERS || name[0] == '.' || name[0] == '-')
		return false;
	return strspn(name, "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789._-") ==
	       n;
}

int name_check(const char *what, const char *name, struct error *error)
{
	if (name_is_valid(name))
		return 0;
	return error_set(error, -EINVAL,
		"use 1 to 63 of A-Z a-z 0-9 . _ -, not beginning with . or -",
		"%s '%.80s' is not a valid name", what, name);
}

int name_check_new(const char *what, const char *name, struct error *error)
{
	int r = name_check(what, name, error);
	if (r == 0 && name[strlen(name) - 1] == '.')
		return error_set(error, -EINVAL, "leave the dot at its end out",
			"%s '%.80s' ends in a dot: Azure does not keep such names", what, name);
	return r;
}
