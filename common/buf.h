/*
 * A growable run of bytes, kept NUL-terminated past its end so that text can be used as such.
 *
 *	CLEANUP(buf_free) struct buf b = {0};
 *	int r = buf_printf(&b, "%s/%u", name, n);
 */
#pragma once

#include <stddef.h>

struct buf {
	char *data; /* owned; NULL while empty */
	size_t len; /* bytes in use, the terminating NUL not counted */
	size_t capacity;
};

/* All return 0, or -ENOMEM with the buffer unchanged. One thread at a time for each buffer. */

/* Makes room for `more` bytes and the NUL behind what is there. */
int buf_reserve(struct buf *b, size_t more);
/* Appends bytes, a text without its NUL, a formatted text. */
int buf_append(struct buf *b, const void *data, size_t n);
int buf_append_text(struct buf *b, const char *text);
int buf_printf(struct buf *b, const char *format, ...) __attribute__((format(printf, 2, 3)));

/* Forgets the content, keeps the memory. */
void buf_clear(struct buf *b);
/* Releases the memory; `b` is empty and usable afterwards. */
void buf_free(struct buf *b);
