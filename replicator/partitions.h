/*
 * What is on a disk: its partitions (MBR with logical ones, GPT) and what fills each of them.
 * Reads only, and believes nothing: every number is checked against the disk's size.
 *
 * Sources: UEFI Specification 2.10, chapter 5 (GPT, protective MBR); the filesystems' own
 * documentation for magic numbers, labels and UUIDs.
 */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define PARTITIONS_MAX 128

/* Reads exactly n bytes; 0 or -errno. */
typedef int disk_read(void *context, uint64_t offset, void *data, size_t n);

/* What the table says that it is for, as far as starting the machine goes. */
enum partition_use { PARTITION_DATA, PARTITION_EFI_SYSTEM, PARTITION_BIOS_BOOT };

struct partition {
	unsigned number; /* from 1 as Linux counts; 0: the whole disk, unpartitioned */
	uint64_t offset_bytes, size_bytes;
	enum partition_use use;
};

/* 0; *ret_count 0: neither a table nor a filesystem known. A disk that a filesystem fills is
 * partition 0. -EUCLEAN: a table that contradicts itself. */
int partitions_read(disk_read *read, void *context, uint64_t disk_bytes,
	struct partition ret_partitions[static PARTITIONS_MAX], unsigned *ret_count);

struct filesystem {
	const char *type; /* as mount(8) calls it, or "swap", "LVM2_member", "crypto_LUKS", … */
	bool mountable;
	bool log_replay; /* a log may have to be replayed, which wants a writable disk */
	char label[65];
	char uuid[40];
};

/* What fills [offset, offset + size). -ENOENT: nothing known. */
int filesystem_probe(disk_read *read, void *context, uint64_t offset, uint64_t size,
	struct filesystem *ret_filesystem);
