/*
 * Small files that are kept twice, so that a damaged sector costs nothing: `<path>` and
 * `<path>.copy`, the same bytes in each.
 *
 * The copy is written first: it is never older than the file. It may hold a change that was never
 * answered, if the file was damaged at the very moment.
 */
#pragma once

#include <stddef.h>

#include "common/error.h"
#include "common/io.h"

/* Whether what was read is sound; the text is NUL-terminated. Changes nothing. -ENOMEM is handed
 * on, anything else is damage; with words. */
typedef int twin_check(void *context, const char *text, size_t n, struct error *error);

/* Replaces both, durably. On failure the file is as it was, or new. */
int twin_save(struct io *io, const char *path, const void *data, size_t n);
/* Removes both, the copy first. 0 if there is neither. */
int twin_remove(struct io *io, const char *path);
/* Reads the file, or its copy if the file is damaged, unreadable or gone; that one is then put in
 * its place, and `ret_fault` (code 0 else) tells, with a mend. A missing or differing copy is
 * written anew. -ENOENT: there is neither; -EUCLEAN: neither is sound, `error` tells why; others of
 * the disk. The caller frees the text. */
int twin_load(struct io *io, const char *path, size_t limit, twin_check *check, void *context,
	struct error *error, struct error *ret_fault, char **ret_text, size_t *ret_n);
