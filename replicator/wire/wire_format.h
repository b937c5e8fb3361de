/*
 * The frames between agent and appliance, as they travel inside TLS. PROTOCOL.md tells what is
 * said with them; this file is what the code obeys.
 *
 *	frame │ body │ frame │ body │ …
 *
 * Little-endian, used in place. TLS keeps strangers out; the checksums keep the two ends' own
 * memory and software honest: what the agent hashed when it read its disk is what the appliance
 * checks on arrival, stores in the journal, and proves again before every later use.
 */
#pragma once

#include <assert.h>
#include <stdint.h>

static_assert(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__, "formats are little-endian");

#define WIRE_VERSION 1u
#define WIRE_MAGIC 0x3157464cu /* "LFW1" */

/* Disks are compared and synchronised in chunks, written and hashed in pages. */
#define WIRE_CHUNK_BYTES (1u << 20)
#define WIRE_PAGE_BYTES 4096u
#define WIRE_CHUNK_PAGES (WIRE_CHUNK_BYTES / WIRE_PAGE_BYTES)

#define WIRE_MAX_DATA_BYTES WIRE_CHUNK_BYTES /* payload of one DATA, unpacked */
#define WIRE_MAX_BODY_BYTES (WIRE_CHUNK_BYTES + 65536u)
#define WIRE_MAX_CONTROL_BYTES 65536u /* JSON text */
#define WIRE_MAX_CHUNK_HASHES 4096u   /* of one HASHES */
#define WIRE_MAX_DISKS 128u

enum wire_type {
	WIRE_CONTROL = 1, /* JSON text: everything that is rare */
	WIRE_DATA = 2,    /* agent → appliance: sectors with their content */
	WIRE_ZERO = 3,    /* agent → appliance: sectors that read as zeros */
	WIRE_ACK = 4,     /* appliance → agent: durable up to here; how much may be under way */
	WIRE_HASHES = 5,  /* appliance → agent: hashes of chunks of its head */
	WIRE_PAGES = 6,   /* appliance → agent: hashes of the pages of one chunk */
	WIRE_PING = 7,    /* either; answered by PONG, both without a body */
	WIRE_PONG = 8,
	WIRE_TYPE_END
};

enum wire_flags {
	WIRE_ZSTD = 1 << 0, /* DATA: what follows the hashes is one zstd frame */
};

struct wire_frame {
	uint32_t magic;
	uint16_t type;
	uint16_t flags;
	uint32_t body_bytes; /* what follows */
	uint32_t unused;
	uint64_t sequence;      /* from 1, rising by one, each way of each connection */
	uint64_t body_checksum; /* XXH3-64 of the body; of a DATA's only up to the end of its
				   hashes, which prove the rest */
	uint64_t checksum;      /* XXH3-64 of the frame before this field */
};
static_assert(sizeof(struct wire_frame) == 40, "as documented");

/* DATA: this, then the XXH3-64 of each page of the payload, then the payload, at most
 * WIRE_MAX_DATA_BYTES. It begins at a page of the disk and holds whole pages; what a source's disk
 * has not of its last one is zeros. */
struct wire_data {
	uint16_t disk; /* as the appliance numbered it: any number */
	uint16_t unused16;
	uint32_t sectors;
	uint64_t lba;
	uint32_t packed_bytes; /* of the payload as it travels */
	uint32_t hash_count;
};
static_assert(sizeof(struct wire_data) == 24, "as documented");

struct wire_zero {
	uint16_t disk;
	uint16_t unused16;
	uint32_t unused32;
	uint64_t lba;
	uint64_t sectors; /* any number within the disk */
};
static_assert(sizeof(struct wire_zero) == 24, "as documented");

struct wire_ack {
	uint64_t sequence;     /* every frame of this connection up to it is durable */
	uint64_t window_bytes; /* bytes of bodies that may be sent and not yet acknowledged */
};
static_assert(sizeof(struct wire_ack) == 16, "as documented");

/* HASHES: this, then `count` × 16 bytes: per chunk the XXH3-128 (low, then high) of its pages'
 * XXH3-64, in order; the disk's last chunk and page may be shorter. */
struct wire_hashes {
	uint16_t disk;
	uint16_t unused16;
	uint32_t count;
	uint64_t first_chunk;
};
static_assert(sizeof(struct wire_hashes) == 16, "as documented");

/* PAGES: this, then `count` × 8 bytes. */
struct wire_pages {
	uint16_t disk;
	uint16_t unused16;
	uint32_t count;
	uint64_t chunk;
};
static_assert(sizeof(struct wire_pages) == 16, "as documented");
