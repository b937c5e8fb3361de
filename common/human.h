/*
 * Durations, sizes, times of day and names as people write them. Pure functions: any thread.
 */
#pragma once

#include <stdbool.h>
#include <stdint.h>

#include "common/buf.h"
#include "common/error.h"

#define MINUTES_PER_DAY 1440u
#define NAME_MAX_CHARACTERS 63

/* "90s", "5m", "2h", "1d", "0" → seconds. 0 or -EINVAL. */
int duration_parse(const char *text, int64_t *ret_seconds);
/* "1 GiB"-like sizes: digits and K, M, G or T (1024s), "iB" or "B" may follow. 0 or -EINVAL. */
int size_parse(const char *text, uint64_t *ret_bytes);
/* The shortest text that duration_parse reads back to the same value. 0 or -ENOMEM. */
int duration_format(int64_t seconds, struct buf *ret_text);
/* Likewise for size_parse: "20M", "1000". */
int size_format(uint64_t bytes, struct buf *ret_text);

/* For people to read, rounded: "512 B", "1.5 GiB"; "17 s", "12 min", "4.2 h", "3.0 days". Return
 * ret_text. */
#define HUMAN_TEXT_BYTES 32
const char *human_size(double bytes, char ret_text[static HUMAN_TEXT_BYTES]);
const char *human_time(double seconds, char ret_text[static HUMAN_TEXT_BYTES]);

/* Reads "HH:MM", 00:00 to 24:00, at *text and moves it behind. 0 or -EINVAL. */
int minute_parse(const char **text, uint16_t *ret_minute);

/* Names of machines, disks, groups, policies: 1 to 63 of A-Z a-z 0-9 . _ -, not beginning with
 * . or -. They become file names, blob names and parts of a history's disk names. */
bool name_is_valid(const char *name);
/* -EINVAL with words unless it is; `what` says whose: "machine", "disk". */
int name_check(const char *what, const char *name, struct error *error);
/* The same of what is to be made: it must not end in a dot either, which Azure takes off names of
 * blobs and of the folders in them ("Naming and referencing containers, blobs, and metadata").
 * Releases before this refused it have made such names: they are valid where they are. */
int name_check_new(const char *what, const char *name, struct error *error);
