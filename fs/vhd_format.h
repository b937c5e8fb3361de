/*
 * The fixed VHD's footer as bytes. Big-endian; every field is naturally aligned.
 *
 * Source: Microsoft, Virtual Hard Disk Image Format Specification 1.0 (2006), "Hard Disk Footer
 * Format".
 */
#pragma once

#include <assert.h>
#include <stddef.h>
#include <stdint.h>

struct vhd_footer {
	uint8_t cookie[8];      /* "conectix" */
	uint8_t features[4];    /* bit 1 is reserved and always set */
	uint8_t version[4];     /* 0x00010000 */
	uint8_t data_offset[8]; /* all ones in a fixed disk */
	uint8_t timestamp[4];   /* seconds since 2000-01-01T00:00:00Z */
	uint8_t creator_app[4];
	uint8_t creator_version[4];
	uint8_t creator_host[4];
	uint8_t original_size[8]; /* bytes */
	uint8_t current_size[8];  /* bytes */
	uint8_t cylinders[2];
	uint8_t heads;
	uint8_t sectors_per_track;
	uint8_t disk_type[4]; /* 2: fixed */
	uint8_t checksum[4];  /* one's complement of the sum of all other bytes */
	uint8_t unique_id[16];
	uint8_t saved_state;
	uint8_t reserved[427]; /* zeros */
};

static_assert(sizeof(struct vhd_footer) == 512, "the footer is one sector");
static_assert(offsetof(struct vhd_footer, current_size) == 48, "as in the specification");
static_assert(offsetof(struct vhd_footer, checksum) == 64, "as in the specification");
