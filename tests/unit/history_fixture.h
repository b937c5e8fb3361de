/*
 * For tests of what stands on a history: one in a scratch directory, over the kernel's files,
 * which can be made to fail and to be slow.
 */
#pragma once

#include <stdatomic.h>
#include <stdint.h>

#include "common/io.h"
#include "fs/history.h"

struct faulty_io {
	struct io io;
	struct io_ops ops;
	atomic_int sync_error;  /* what datasync answers, if not 0 */
	atomic_int write_error; /* what writes answer, if not 0 */
	atomic_uint sync_delay_us;
	atomic_uint syncs;
	void (*on_sync)(void *context); /* called once, by the next datasync */
	void *on_sync_context;
};

void faulty_io_init(struct faulty_io *faulty);

struct history_fixture {
	char directory[64];
	struct faulty_io faulty;
	struct history *history;
	uint16_t disk; /* of 16 MiB, "web/root" */
};

/* Fail the test if they cannot. */
void fixture_open(struct history_fixture *fixture);
/* Opens the history that the test has closed. */
void fixture_start(struct history_fixture *fixture);
/* Closes the history and opens it again. */
void fixture_reopen(struct history_fixture *fixture);
/* Closes it and removes the directory. */
void fixture_close(struct history_fixture *fixture);
/* Seals and commits; the point's number. */
uint64_t fixture_seal(struct history_fixture *fixture);
/* Writes and commits. */
void fixture_write(
	struct history_fixture *fixture, uint64_t lba, uint32_t sectors, const void *data);
