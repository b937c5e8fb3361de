/*
 * What went wrong, in words for whoever has to mend it.
 *
 * Functions return 0 or -errno. Those whose failures reach a person also take a
 * `struct error *` (NULL if the caller does not care) and fill it before they fail: what, where
 * and what to do. Who can say more on the way up prefixes; the original code stays.
 *
 *	return error_set(error, -EINVAL, "give the disk a size in whole MiB",
 *		"disk %s: %" PRIu64 " bytes is not a whole number of MiB", id, bytes);
 */
#pragma once

struct error {
	int code;          /* -errno; 0 if nothing is set */
	char message[512]; /* what and where; one line, no full stop */
	char mend[256];    /* what to do about it; may be empty */
};

/* Fills `error` (may be NULL). `mend` may be NULL. Any thread. */
void error_fill(struct error *error, int code, const char *mend, const char *format, ...)
	__attribute__((format(printf, 4, 5)));

/* Fills `error` and is `code`: return error_set(...). A macro, so that whoever reads the caller,
 * an analyser included, sees that the answer is the code. */
#define error_set(error, code, mend, ...)                             \
	({                                                            \
		int error_set_code = (code);                          \
		error_fill(error, error_set_code, mend, __VA_ARGS__); \
		error_set_code;                                       \
	})

/* Puts "<text>: " before the message; returns the code that was set. */
int error_prefix(struct error *error, const char *format, ...)
	__attribute__((format(printf, 2, 3)));
