/*
 * The grammar of JSON (RFC 8259), checked before cJSON sees the text, since cJSON lets through
 * what it should not: "01", bad UTF-8, \u0000, control characters in strings.
 */
#pragma once

#include <stddef.h>

#include "common/error.h"

/* 0, -EBADMSG with line and column in `error`, or -E2BIG if nested deeper than `depth`. Uses a
 * bounded stack: one bit a level. Any thread. */
int json_check(const char *text, size_t n, unsigned depth, struct error *error);
