/*
 * The threads at a history's edge: gather what is staged, commit it, wake who waits, and keep the
 * history in repair (history_maintain).
 *
 * Staged bytes are committed when somebody waits for durability (in that thread), when 1 MiB is
 * staged, or 2 ms after the first staged byte, whichever comes first. An idle group costs two
 * sleeping threads and no memory to speak of.
 */
#pragma once

#include <stdint.h>

#include "fs/history.h"

struct committer;

/* Called before a write is staged and told its bytes: the place where back-pressure delays
 * (sleeps and returns 0) or refuses (-errno). 0 bytes: whether any would be let in; nothing follows
 * for certain. May be NULL. Any thread. */
struct committer_gate {
	int (*admit)(void *context, uint64_t bytes);
	/* The history has no room for those bytes, though they were let in: waits a while for some
	 * (0: try again), or refuses. NULL: who writes is told -ENOSPC. */
	int (*wait_for_room)(void *context, uint64_t bytes);
	void *context;
};

/* Starts the threads. Borrows the history, and becomes the only caller of its commit and maintain.
 */
int committer_new(struct history *history, const struct committer_gate *gate,
	struct committer **ret_committer);
/* Commits what is staged, ends the threads. No call may be under way. */
void committer_free(struct committer *committer);
struct history *committer_history(struct committer *committer);

/* The parts of a disk (parts.h), if it has any here; they live as long as the committer, which has
 * them settled before every seal and at its end. */
struct parts;
struct parts *committer_parts(struct committer *committer, uint16_t disk);
/* Takes them over, unless the disk has some by now: then they are freed and those returned. NULL:
 * no memory, and they are still the caller's. */
struct parts *committer_add_parts(struct committer *committer, uint16_t disk, struct parts *parts);

/* Stage and return; waits while too much is staged. As history_write and history_zero, any length.
 */
int committer_write(struct committer *committer, uint16_t disk, uint64_t lba, uint64_t sectors,
	const void *data, uint64_t *ret_lsn);
/* As history_write_hashed, at most HISTORY_MAX_WRITE_BYTES; waits as committer_write. */
int committer_write_hashed(struct committer *committer, uint16_t disk, uint64_t lba,
	uint32_t sectors, const void *data, const uint64_t *hashes, uint64_t *ret_lsn);
int committer_zero(struct committer *committer, uint16_t disk, uint64_t lba, uint64_t sectors,
	uint64_t *ret_lsn);
/* As committer_write, of what was acknowledged before: no gate, and not refused for want of room.
 */
int committer_write_late(struct committer *committer, uint16_t disk, uint64_t lba, uint64_t sectors,
	const void *data, uint64_t *ret_lsn);
/* The gate alone, for who must not wait there while he writes: 0 once it lets so many bytes in,
 * else its errno. The write is then made with the next two, which are -ENOSPC where the history has
 * no room; after that committer_wait_for_room is 0 if it is to be tried again. */
int committer_room(struct committer *committer, uint64_t bytes);
int committer_write_admitted(struct committer *committer, uint16_t disk, uint64_t lba,
	uint64_t sectors, const void *data, uint64_t *ret_lsn);
int committer_zero_admitted(struct committer *committer, uint16_t disk, uint64_t lba,
	uint64_t sectors, uint64_t *ret_lsn);
int committer_wait_for_room(struct committer *committer, uint64_t bytes);
/* Returns when `lsn` is durable. -EIO if the history failed first. */
int committer_wait(struct committer *committer, uint64_t lsn);
/* Returns when everything staged before the call is durable. */
int committer_sync(struct committer *committer);
/* Seals and waits until the point is durable. What was acknowledged before the call is in it; the
 * errno of reading the vault if a cut sector can therefore not be completed. */
int committer_seal(struct committer *committer, const struct seal *seal, uint64_t *ret_number);
