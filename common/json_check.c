/*
 * One pass, no recursion: `is_object` remembers for each open bracket which kind it is, and
 * `expect` what may come next.
 */
#include "common/json_check.h"

#include <errno.h>
#include <stdbool.h>
#include <string.h>

#include "common/bytes.h"

#define DEPTH_MAX 512u

struct scan {
	const char *text;
	size_t n;
	size_t at;
	const char *why;
};

enum expect { WANT_VALUE, WANT_VALUE_OR_END, WANT_NAME, WANT_NAME_OR_END, WANT_COMMA_OR_END };

static int peek(const struct scan *s)
{
	return s->at < s->n ? (unsigned char)s->text[s->at] : -1;
}

static bool refuse(struct scan *s, const char *why)
{
	s->why = why;
	return false;
}

static void skip_blanks(struct scan *s)
{
	while (s->at < s->n && s->text[s->at] && strchr(" \t\r\n", s->text[s->at]))
		s->at++;
}

static size_t skip_digits(struct scan *s)
{
	size_t from = s->at;
	while (peek(s) >= '0' && peek(s) <= '9')
		s->at++;
	return s->at - from;
}

static bool scan_number(struct scan *s)
{
	if (peek(s) == '-')
		s->at++;
	bool zero = peek(s) == '0';
	size_t digits = skip_digits(s);
	if (digits == 0 || (zero && digits > 1))
		return refuse(s, "not a number");
	if (peek(s) == '.') {
		s->at++;
		if (skip_digits(s) == 0)
			return refuse(s, "digits are missing after the point");
	}
	if (peek(s) == 'e' || peek(s) == 'E') {
		s->at++;
		if (peek(s) == '+' || peek(s) == '-')
			s->at++;
		if (skip_digits(s) == 0)
			return refuse(s, "digits are missing in the exponent");
	}
	return true;
}

/* At a \u: its four digits. */
static int scan_hex4(struct scan *s)
{
	int value = 0;
	for (int i = 0; i < 4; i++, s->at++) {
		int c = peek(s);
		int digit = c >= '0' && c <= '9'   ? c - '0'
			    : c >= 'a' && c <= 'f' ? c - 'a' + 10
			    : c >= 'A' && c <= 'F' ? c - 'A' + 10
						   : -1;
		if (digit < 0)
			return -1;
		value = value << 4 | digit;
	}
	return value;
}

static bool scan_escape(struct scan *s)
{
	int c = peek(s);
	s->at++;
	if (c > 0 && strchr("\"\\/bfnrt", c))
		return true;
	if (c != 'u')
		return refuse(s, "unknown escape");
	int unit = scan_hex4(s);
	if (unit <= 0)
		return refuse(s, unit < 0 ? "bad \\u escape" : "\\u0000 is not accepted");
	if (unit >= 0xdc00 && unit <= 0xdfff)
		return refuse(s, "half of a surrogate pair");
	if (unit >= 0xd800 && unit <= 0xdbff) {
		if (s->n - s->at < 6 || s->text[s->at] != '\\' || s->text[s->at + 1] != 'u')
			return refuse(s, "half of a surrogate pair");
		s->at += 2;
		unit = scan_hex4(s);
		if (unit < 0xdc00 || unit > 0xdfff)
			return refuse(s, "half of a surrogate pair");
	}
	return true;
}

/* One UTF-8 sequence of two bytes or more (RFC 3629: shortest form, no surrogates). */
static bool scan_utf8(struct scan *s)
{
	const unsigned char *p = (const unsigned char *)s->text + s->at;
	size_t left = s->n - s->at;
	size_t more = p[0] >= 0xf0 ? 3 : p[0] >= 0xe0 ? 2 : 1;
	if (p[0] < 0xc2 || p[0] > 0xf4 || left <= more)
		return refuse(s, "not UTF-8");
	for (size_t i = 1; i <= more; i++) {
		if ((p[i] & 0xc0) != 0x80)
			return refuse(s, "not UTF-8");
	}
	if ((p[0] == 0xe0 && p[1] < 0xa0) || (p[0] == 0xed && p[1] > 0x9f) ||
		(p[0] == 0xf0 && p[1] < 0x90) || (p[0] == 0xf4 && p[1] > 0x8f))
		return refuse(s, "not UTF-8");
	s->at += more + 1;
	return true;
}

static bool scan_string(struct scan *s)
{
	s->at++;
	for (;;) {
		int c = peek(s);
		if (c < 0)
			return refuse(s, "the string does not end");
		if (c < 0x20)
			return refuse(s, "control character in a string");
		if (c >= 0x80) {
			if (!scan_utf8(s))
				return false;
			continue;
		}
		s->at++;
		if (c == '"')
			return true;
		if (c == '\\' && !scan_escape(s))
			return false;
	}
}

static bool scan_scalar(struct scan *s)
{
	static const char *const words[] = { "true", "false", "null" };
	int c = peek(s);
	if (c == '"')
		return scan_string(s);
	if (c == '-' || (c >= '0' && c <= '9'))
		return scan_number(s);
	for (size_t i = 0; i < ARRAY_SIZE(words); i++) {
		size_t n = strlen(words[i]);
		if (s->n - s->at >= n && memcmp(s->text + s->at, words[i], n) == 0) {
			s->at += n;
			return true;
		}
	}
	return refuse(s, c < 0 ? "it ends too early" : "a value is missing");
}

static bool scan_name(struct scan *s)
{
	if (peek(s) != '"')
		return refuse(s, "a name in quotes is missing");
	if (!scan_string(s))
		return false;
	skip_blanks(s);
	if (peek(s) != ':')
		return refuse(s, "a colon is missing");
	s->at++;
	return true;
}

static bool scan_document(struct scan *s, unsigned depth_max)
{
	bool is_object[DEPTH_MAX] = { false };
	unsigned depth = 0;
	enum expect expect = WANT_VALUE;
	for (;;) {
		skip_blanks(s);
		int c = peek(s);
		bool may_end = expect != WANT_VALUE && expect != WANT_NAME && depth > 0;
		if (may_end && c == (is_object[depth - 1] ? '}' : ']')) {
			s->at++;
			depth--;
		} else if (expect == WANT_COMMA_OR_END) {
			if (c != ',')
				return refuse(s, "a comma or a closing bracket is missing");
			s->at++;
			expect = is_object[depth - 1] ? WANT_NAME : WANT_VALUE;
			continue;
		} else if (expect == WANT_NAME || expect == WANT_NAME_OR_END) {
			if (!scan_name(s))
				return false;
			expect = WANT_VALUE;
			continue;
		} else if (c == '{' || c == '[') {
			if (depth >= depth_max)
				return refuse(s, NULL);
			s->at++;
			is_object[depth++] = c == '{';
			expect = c == '{' ? WANT_NAME_OR_END : WANT_VALUE_OR_END;
			continue;
		} else if (!scan_scalar(s)) {
			return false;
		}
		if (depth == 0)
			break;
		expect = WANT_COMMA_OR_END;
	}
	skip_blanks(s);
	return s->at == s->n || refuse(s, "something follows the document");
}

int json_check(const char *text, size_t n, unsigned depth, struct error *error)
{
	struct scan s = { .text = text, .n = n };
	if (scan_document(&s, MIN(depth, DEPTH_MAX)))
		return 0;
	size_t line = 1;
	size_t column = 1;
	for (size_t i = 0; i < s.at && i < n; i++) {
		column = text[i] == '\n' ? 1 : column + 1;
		line += text[i] == '\n';
	}
	if (!s.why)
		return error_set(error, -E2BIG, NULL,
			"the JSON is nested deeper than %u: line %zu, column %zu", depth, line,
			column);
	return error_set(
		error, -EBADMSG, NULL, "not JSON: line %zu, column %zu: %s", line, column, s.why);
}
