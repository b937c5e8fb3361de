/*
 * UTC times as text, without the C library's locale or time zone. Pure functions: any thread.
 */
#pragma once

#include <stdint.h>

#define UTC_COMPACT_BYTES 17 /* 20261122T055411Z and a NUL */
#define UTC_ISO_BYTES 31     /* 2026-11-22T05:54:11.123456789Z and a NUL */
#define UTC_HTTP_BYTES 30    /* Sun, 22 Nov 2026 05:54:11 GMT and a NUL */

/* `ns` since 1970-01-01 UTC, years 1970 to 9999; fractions are cut, not rounded. */
void utc_format_compact(int64_t ns, char ret_text[static UTC_COMPACT_BYTES]);
void utc_format_iso(int64_t ns, char ret_text[static UTC_ISO_BYTES]);   /* with all nine digits */
void utc_format_http(int64_t ns, char ret_text[static UTC_HTTP_BYTES]); /* RFC 9110, IMF-fixdate */

/* Reads all of: 20261122T055411Z · 2026-11-22 · 2026-11-22T05:54[:11[.fraction]][Z], a blank for
 * the T, and RFC 9110 dates; no zone means UTC. 0 or -EINVAL. */
int utc_parse(const char *text, int64_t *ret_ns);
