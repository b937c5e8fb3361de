/*
 * Record and segment headers: made and proven. Pure functions of memory.
 *
 * A record's checksum covers its header page, which holds the hashes of its payloads' blocks (made
 * when they were staged) and the checksum of the record before: so the last header of a journal
 * vouches for all of it.
 */
#include <string.h>

#include "common/checksum.h"
#include "fs/history_internal.h"

/* The checksum of n bytes whose checksum field counts as zero. Leaves the page as it was. */
uint64_t page_checksum(void *page, size_t n, uint64_t *checksum_field)
{
	uint64_t saved = *checksum_field;
	*checksum_field = 0;
	uint64_t sum = checksum64(page, n);
	*checksum_field = saved;
	return sum;
}

/* The same of memory that must not be written to. */
static uint64_t const_page_checksum(const void *page, size_t field_offset)
{
	uint8_t copy[JOURNAL_PAGE_BYTES];
	memcpy(copy, page, sizeof(copy));
	memset(copy + field_offset, 0, sizeof(uint64_t));
	return checksum64(copy, sizeof(copy));
}

void record_begin(const struct history *history, struct journal_record *record,
	enum journal_type type, const struct segment *segment, uint64_t lsn)
{
	memset(record, 0, sizeof(*record));
	record->magic = JOURNAL_RECORD_MAGIC;
	record->version = JOURNAL_VERSION;
	record->type = (uint16_t)type;
	record->group = history->group;
	record->seq = segment->seq;
	record->incarnation = segment->incarnation;
	record->lsn = lsn;
	record->bytes = JOURNAL_PAGE_BYTES;
}

unsigned record_block_count(const struct journal_extent *e)
{
	if (e->flags & JOURNAL_ZERO)
		return 0;
	return (e->sectors + JOURNAL_BLOCK_SECTORS - 1) / JOURNAL_BLOCK_SECTORS;
}

struct record_place record_place(const struct journal_record *record, unsigned index)
{
	struct record_place place = { .offset = JOURNAL_PAGE_BYTES };
	for (unsigned i = 0; i < index; i++) {
		const struct journal_extent *e = &record->extents[i];
		if (e->flags & JOURNAL_ZERO)
			continue;
		place.offset += e->sectors * SECTOR_BYTES;
		place.first_hash += record_block_count(e);
	}
	return place;
}

void record_hash_blocks(const void *payload, size_t n, uint64_t *ret_hashes)
{
	const size_t block = JOURNAL_BLOCK_SECTORS * SECTOR_BYTES;
	const uint8_t *at = payload;
	for (size_t done = 0; done < n; done += block)
		*ret_hashes++ = checksum64(at + done, MIN(block, n - done));
}

bool record_blocks_good(const uint64_t *hashes, const void *payload, size_t n)
{
	const size_t block = JOURNAL_BLOCK_SECTORS * SECTOR_BYTES;
	const uint8_t *at = payload;
	for (size_t done = 0; done < n; done += block)
		if (checksum64(at + done, MIN(block, n - done)) != *hashes++)
			return false;
	return true;
}

void record_encode(struct journal_record *record, uint64_t durable_lsn, uint64_t prev_hash)
{
	record->durable_lsn = durable_lsn;
	record->prev_hash = prev_hash;
	record->checksum = page_checksum(record, sizeof(*record), &record->checksum);
}

static bool extents_sensible(const struct journal_record *record)
{
	uint64_t payload = 0, hashes = 0;
	if (record->count > JOURNAL_MAX_EXTENTS)
		return false;
	for (unsigned i = 0; i < record->count; i++) {
		const struct journal_extent *e = &record->extents[i];
		bool zero = e->flags & JOURNAL_ZERO;
		if (e->sectors == 0 || e->lba >= EXTENT_MAX_LBA ||
			e->lba + e->sectors > EXTENT_MAX_LBA ||
			e->sectors > (zero ? EXTENT_MAX_ZERO_SECTORS : JOURNAL_MAX_PAYLOAD_SECTORS))
			return false;
		payload += zero ? 0 : (uint64_t)e->sectors * SECTOR_BYTES;
		hashes += record_block_count(e);
	}
	return record_body_fits(record->count, hashes) &&
	       payload + JOURNAL_PAGE_BYTES <= record->bytes;
}

static bool body_sensible(const struct journal_record *record)
{
	switch (record->type) {
	case JOURNAL_DATA:
		return extents_sensible(record);
	case JOURNAL_SEAL:
		return record->seal.bookmark_count <= ARRAY_SIZE(record->seal.bookmarks);
	case JOURNAL_DISK:
		return memchr(record->disk.name, 0, sizeof(record->disk.name)) != NULL &&
		       record->disk.id != 0 && is_aligned(record->disk.size_bytes, SECTOR_BYTES) &&
		       record->disk.size_bytes <= EXTENT_MAX_LBA * SECTOR_BYTES;
	case JOURNAL_DRAIN:
		return record->drain.disk_count <= ARRAY_SIZE(record->drain.disks) &&
		       record->drain.proof_bytes <= sizeof(record->drain.proof);
	case JOURNAL_POINT_FLAGS:
		return record->count <= JOURNAL_MAX_POINT_FLAGS;
	default:
		return record->type > 0 && record->type < JOURNAL_TYPE_END;
	}
}

bool record_check(const struct history *history, const struct journal_record *record, uint64_t seq,
	uint64_t offset)
{
	return record->magic == JOURNAL_RECORD_MAGIC && record->seq == seq &&
	       record->version == JOURNAL_VERSION &&
	       memcmp(&record->group, &history->group, sizeof(record->group)) == 0 &&
	       record->bytes >= JOURNAL_PAGE_BYTES && record->lsn > 0 &&
	       is_aligned(record->bytes, JOURNAL_PAGE_BYTES) &&
	       offset + record->bytes <= HISTORY_SEGMENT_BYTES &&
	       const_page_checksum(record, offsetof(struct journal_record, checksum)) ==
		       record->checksum &&
	       body_sensible(record);
}

bool segment_header_check(
	const struct history *history, const struct journal_segment *header, uint64_t seq)
{
	return header->magic == JOURNAL_SEGMENT_MAGIC && header->seq == seq &&
	       memcmp(&header->group, &history->group, sizeof(header->group)) == 0 &&
	       header->first_lsn > header->prev_lsn &&
	       const_page_checksum(header, offsetof(struct journal_segment, checksum)) ==
		       header->checksum;
}

void segment_header_make(const struct history *history, const struct segment *segment,
	struct journal_segment *ret_header)
{
	struct journal_segment *header = ret_header;
	memset(header, 0, sizeof(*header));
	header->magic = JOURNAL_SEGMENT_MAGIC;
	header->version = JOURNAL_VERSION;
	header->segment_bytes = history->segment_bytes;
	header->group = history->group;
	header->seq = segment->seq;
	header->incarnation = segment->incarnation;
	header->first_lsn = segment->first_lsn;
	header->prev_lsn = segment->prev_lsn;
	header->prev_hash = segment->prev_hash;
	header->checksum = page_checksum(header, sizeof(*header), &header->checksum);
}
