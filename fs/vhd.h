/*
 * The footer of a fixed VHD: data of N·MiB, then these 512 bytes.
 *
 * Source: Microsoft, Virtual Hard Disk Image Format Specification 1.0 (2006), "Hard Disk Footer
 * Format"; that Azure wants whole MiB and type fixed: Azure documentation, "Prepare a VHD". All
 * numbers are big-endian. The creator is one for which QEMU takes the size from the size field
 * and not from the geometry, so that `qemu-img info` tells the exact size.
 */
#pragma once

#include <stdint.h>

#include "common/uuid.h"
#include "fs/store.h"

#define VHD_FOOTER_BYTES 512u
#define VHD_MAX_BYTES (8ull << 40) /* the page blob's limit, footer included */

/* 0 or -EINVAL unless `disk_bytes` is a whole number of MiB, > 0 and with the footer within
 * VHD_MAX_BYTES. */
int vhd_check_size(uint64_t disk_bytes);

/* The unique id in the footer of the group's disk with this name ("<machine>/<disk>"): always the
 * same, so that a disk's footer is the same live, at every point and in the vault; and another one
 * in every other group, so that the blob of another's disk is known by it. */
void vhd_disk_id(const struct uuid *group, const char *disk_name, struct uuid *ret_id);

/* Makes the footer. `time_ns` is its creation time (UTC); before 2000 counts as 2000. */
int vhd_footer_format(uint64_t disk_bytes, const struct uuid *id, int64_t time_ns,
	uint8_t ret_footer[static VHD_FOOTER_BYTES]);

/* Checks every field that matters and the checksum. 0; -EINVAL: not a fixed VHD's footer. */
int vhd_footer_parse(const uint8_t footer[static VHD_FOOTER_BYTES], uint64_t *ret_disk_bytes,
	struct uuid *ret_id);

/* A store of disk_bytes + 512: `disk` with the footer behind it. Takes reads and writes of any
 * alignment, doing the reading and merging that `disk` wants; writes to the footer are accepted
 * and dropped if they change nothing or are, in one piece, the footer of a fixed VHD of the same
 * size, else -EPERM (a tool may rewrite it, no tool may change it) with nothing stored; beyond
 * the end -ENOSPC, as on any disk. Takes over `disk` on success. -EINVAL: vhd_check_size. */
int vhd_store_new(
	struct store *disk, const struct uuid *id, int64_t time_ns, struct store **ret_store);
/* The same over parts that others use too and that may keep some beyond the store's life; counts
 * as one of their users. */
struct parts;
int vhd_store_over(struct parts *parts, uint64_t disk_bytes, bool writable, const struct uuid *id,
	int64_t time_ns, struct store **ret_store);
