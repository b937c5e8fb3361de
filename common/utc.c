/*
 * timegm and gmtime_r do the calendar; the text is made and read by hand because strftime and
 * strptime follow the locale.
 */
#include "common/utc.h"

#include <ctype.h>
#include <errno.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>
#include <time.h>

#include "common/bytes.h"
#include "common/clock.h"

static const char *const month_names[] = { "Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug",
	"Sep", "Oct", "Nov", "Dec" };
static const char *const day_names[] = { "Sun", "Mon", "Tue", "Wed", "Thu", "Fri", "Sat" };

static struct tm broken_down(int64_t ns)
{
	time_t seconds = (time_t)(ns / NS_PER_S);
	struct tm tm = { 0 };
	gmtime_r(&seconds, &tm);
	return tm;
}

void utc_format_compact(int64_t ns, char ret_text[static UTC_COMPACT_BYTES])
{
	struct tm tm = broken_down(ns);
	char text[64];
	snprintf(text, sizeof(text), "%04d%02d%02dT%02d%02d%02dZ", tm.tm_year + 1900, tm.tm_mon + 1,
		tm.tm_mday, tm.tm_hour, tm.tm_min, tm.tm_sec);
	memcpy(ret_text, text, UTC_COMPACT_BYTES - 1);
	ret_text[UTC_COMPACT_BYTES - 1] = '\0';
}

void utc_format_iso(int64_t ns, char ret_text[static UTC_ISO_BYTES])
{
	struct tm tm = broken_down(ns);
	char text[96];
	snprintf(text, sizeof(text), "%04d-%02d-%02dT%02d:%02d:%02d.%09dZ", tm.tm_year + 1900,
		tm.tm_mon + 1, tm.tm_mday, tm.tm_hour, tm.tm_min, tm.tm_sec, (int)(ns % NS_PER_S));
	memcpy(ret_text, text, UTC_ISO_BYTES - 1);
	ret_text[UTC_ISO_BYTES - 1] = '\0';
}

void utc_format_http(int64_t ns, char ret_text[static UTC_HTTP_BYTES])
{
	struct tm tm = broken_down(ns);
	char text[96];
	snprintf(text, sizeof(text), "%s, %02d %s %04d %02d:%02d:%02d GMT", day_names[tm.tm_wday],
		tm.tm_mday, month_names[tm.tm_mon], tm.tm_year + 1900, tm.tm_hour, tm.tm_min,
		tm.tm_sec);
	memcpy(ret_text, text, UTC_HTTP_BYTES - 1);
	ret_text[UTC_HTTP_BYTES - 1] = '\0';
}

/* Exactly `digits` digits at *text, which moves past them. */
static bool take_number(const char **text, int digits, int *ret_value)
{
	int value = 0;
	for (int i = 0; i < digits; i++) {
		if (!isdigit((unsigned char)(*text)[i]))
			return false;
		value = value * 10 + ((*text)[i] - '0');
	}
	*text += digits;
	*ret_value = value;
	return true;
}

static bool take_char(const char **text, char c)
{
	if (**text != c)
		return false;
	(*text)++;
	return true;
}

static bool take_http(const char **text, struct tm *tm)
{
	const char *t = *text;
	if (strlen(t) != UTC_HTTP_BYTES - 1 || t[3] != ',' || t[4] != ' ')
		return false;
	t += 5;
	if (!take_number(&t, 2, &tm->tm_mday) || !take_char(&t, ' '))
		return false;
	tm->tm_mon = -1;
	for (int i = 0; i < (int)ARRAY_SIZE(month_names); i++)
		if (strncmp(t, month_names[i], 3) == 0)
			tm->tm_mon = i;
	t += 3;
	if (tm->tm_mon < 0 || !take_char(&t, ' ') || !take_number(&t, 4, &tm->tm_year) ||
		!take_char(&t, ' ') || !take_number(&t, 2, &tm->tm_hour) || !take_char(&t, ':') ||
		!take_number(&t, 2, &tm->tm_min) || !take_char(&t, ':') ||
		!take_number(&t, 2, &tm->tm_sec) || strcmp(t, " GMT") != 0)
		return false;
	*text = t + 4;
	return true;
}

static bool take_clock(const char **t, bool compact, struct tm *tm, int64_t *ret_fraction_ns)
{
	if (!take_number(t, 2, &tm->tm_hour) || (!compact && !take_char(t, ':')) ||
		!take_number(t, 2, &tm->tm_min))
		return false;
	if (compact)
		return take_number(t, 2, &tm->tm_sec);
	if (!take_char(t, ':'))
		return true;
	if (!take_number(t, 2, &tm->tm_sec))
		return false;
	if (!take_char(t, '.'))
		return true;
	if (!isdigit((unsigned char)**t))
		return false;
	int64_t unit = NS_PER_S / 10;
	for (; isdigit((unsigned char)**t); (*t)++, unit /= 10)
		*ret_fraction_ns += unit * (**t - '0');
	return true;
}

static bool take_iso(const char **text, struct tm *tm, int64_t *ret_fraction_ns)
{
	const char *t = *text;
	if (!take_number(&t, 4, &tm->tm_year))
		return false;
	bool compact = !take_char(&t, '-');
	if (!take_number(&t, 2, &tm->tm_mon) || (!compact && !take_char(&t, '-')) ||
		!take_number(&t, 2, &tm->tm_mday))
		return false;
	tm->tm_mon--;
	if (take_char(&t, 'T') || take_char(&t, ' ')) {
		if (!take_clock(&t, compact, tm, ret_fraction_ns))
			return false;
		(void)take_char(&t, 'Z');
	} else if (compact) {
		return false;
	}
	*text = t;
	return true;
}

int utc_parse(const char *text, int64_t *ret_ns)
{
	struct tm tm = { 0 };
	int64_t fraction_ns = 0;
	bool http = isalpha((unsigned char)text[0]);
	if (http ? !take_http(&text, &tm) : !take_iso(&text, &tm, &fraction_ns))
		return -EINVAL;
	if (*text || tm.tm_year < 1970 || tm.tm_mon < 0 || tm.tm_mon > 11 || tm.tm_mday < 1 ||
		tm.tm_mday > 31 || tm.tm_hour > 23 || tm.tm_min > 59 || tm.tm_sec > 59)
		return -EINVAL;
	tm.tm_year -= 1900;
	struct tm asked = tm;
	time_t seconds = timegm(&tm);
	/* timegm turns 31 February into March: refuse instead. */
	if (tm.tm_mday != asked.tm_mday || tm.tm_mon != asked.tm_mon)
		return -EINVAL;
	if (seconds > INT64_MAX / NS_PER_S - 1)
		return -EINVAL;
	*ret_ns = (int64_t)seconds * NS_PER_S + fraction_ns;
	return 0;
}
