/*
 * Who reads in sequence, and how far ahead it has earned to be served: as many bytes as it has
 * read in sequence already. A few readers at once are told apart by where they are.
 *
 * Not thread-safe: the owner locks. Zeroed is empty.
 */
#pragma once

#include <stddef.h>
#include <stdint.h>

#define READ_AHEAD_STREAMS 8u

struct read_ahead {
	struct read_stream {
		uint64_t point;
		uint64_t next;   /* the highest byte it has reached */
		uint64_t earned; /* bytes read in sequence */
		uint64_t used;   /* when, for replacing the oldest; 0: free */
		uint16_t disk;
	} streams[READ_AHEAD_STREAMS];
	uint64_t time;
};

/* Notes a read of n bytes; returns how many beyond it may be fetched with it. */
uint64_t read_ahead_note(
	struct read_ahead *ahead, uint16_t disk, uint64_t point, uint64_t offset, size_t n);
/* What was earned on this disk is lost. */
void read_ahead_forget(struct read_ahead *ahead, uint16_t disk, uint64_t point);
