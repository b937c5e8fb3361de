/*
 * A disk of whole sectors, read and written at any alignment.
 *
 * A write that does not fill its sectors needs the rest of them, which may be in the vault. Two
 * things are done about it:
 *
 * Nobody waits for another's reading. What is missing is read without any lock; when it is there
 * the sector is written only if nobody has written it whole meanwhile.
 *
 * The halves of a cut sector find each other. The kernel hands a write over in requests of at most
 * so many pages, which from a buffer that does not begin at a page end inside a sector: the next
 * request has the rest. So the last, partial sector of a write that is long enough to be such a
 * request is kept in memory as a *part* until its other bytes come. That is what any write is
 * promised: read back when it returned, durable when it was flushed. parts_settle, which flushing
 * and sealing begin with, reads the rest of the parts that are left from below and writes them.
 *
 * Any thread, several calls at once.
 */
#pragma once

#include <stddef.h>
#include <stdint.h>

#include "fs/store.h"

struct parts;

/* Parts over `disk`, which is taken over on success. Writes longer than `cut_bytes` may leave a
 * part behind; 0: none does, and there is never anything to settle. */
int parts_new(struct store *disk, uint64_t cut_bytes, struct parts **ret_parts);
/* Counts its users; the last unref frees it and the disk, and forgets what is not settled. */
struct parts *parts_ref(struct parts *parts);
void parts_unref(struct parts *parts);
/* Undoes parts_new: the disk is the caller's again. */
void parts_abandon(struct parts *parts);

/* As a store's, at any alignment, inside the disk and n > 0 (not checked). A write fails as one.
 * parts_zero is one zero and at most two writes. */
int parts_read(struct parts *parts, uint64_t offset, void *data, size_t n);
int parts_write(struct parts *parts, uint64_t offset, const void *data, size_t n);
int parts_zero(struct parts *parts, uint64_t offset, uint64_t n);

/* Completes and writes every part there is when it is called. Those that cannot be completed now
 * stay; the first error. */
int parts_settle(struct parts *parts);
/* Settles, and makes every write that returned before it was called durable. */
int parts_flush(struct parts *parts);
