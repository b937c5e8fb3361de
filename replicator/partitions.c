/*
 * Partition tables. Pure but for the caller's reads; any thread.
 *
 * A GPT is believed only if its header's and its entries' CRC hold; if the first copy's do not,
 * the backup at the end of the disk is tried. A chain of logical partitions is followed for as
 * many links as there can be partitions, so a loop in it ends.
 */
#include "replicator/partitions.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "common/bytes.h"
#include "common/cleanup.h"

#define MBR_TABLE 446u
#define MBR_ENTRY_BYTES 16u
#define TYPE_PROTECTIVE 0xee
#define TYPE_EFI_SYSTEM 0xef

/* As they stand in an entry: the first three groups little-endian. */
static const uint8_t guid_efi_system[16] = { 0x28, 0x73, 0x2a, 0xc1, 0x1f, 0xf8, 0xd2, 0x11, 0xba,
	0x4b, 0x00, 0xa0, 0xc9, 0x3e, 0xc9, 0x3b };
static const uint8_t guid_bios_boot[16] = { 0x48, 0x61, 0x68, 0x21, 0x49, 0x64, 0x6f, 0x6e, 0x74,
	0x4e, 0x65, 0x65, 0x64, 0x45, 0x46, 0x49 };

struct disk {
	disk_read *read;
	void *context;
	uint64_t sectors;
	struct partition *partitions;
	unsigned count;
};

static uint32_t load_le32(const uint8_t *p)
{
	uint32_t v;
	memcpy(&v, p, sizeof(v));
	return le32toh(v);
}

static uint64_t load_le64(const uint8_t *p)
{
	uint64_t v;
	memcpy(&v, p, sizeof(v));
	return le64toh(v);
}

/* CRC-32 as in IEEE 802.3, reflected; the tables are small, so it goes bit by bit. */
static uint32_t crc32_ieee(const uint8_t *data, size_t n)
{
	uint32_t crc = UINT32_MAX;
	for (size_t i = 0; i < n; i++) {
		crc ^= data[i];
		for (unsigned bit = 0; bit < 8; bit++)
			crc = crc >> 1 ^ (crc & 1 ? 0xedb88320u : 0);
	}
	return ~crc;
}

static int add(
	struct disk *disk, unsigned number, uint64_t lba, uint64_t sectors, enum partition_use use)
{
	if (lba == 0 || sectors == 0 || lba >= disk->sectors || sectors > disk->sectors - lba)
		return -EUCLEAN;
	if (disk->count == PARTITIONS_MAX)
		return 0;
	disk->partitions[disk->count++] = (struct partition){ .number = number,
		.offset_bytes = lba * SECTOR_BYTES,
		.size_bytes = sectors * SECTOR_BYTES,
		.use = use };
	return 0;
}

/* ── MBR ─────────────────────────────────────────────────────────────────────────────────── */

static bool is_extended(uint8_t type)
{
	return type == 0x05 || type == 0x0f || type == 0x85;
}

static int read_sector(struct disk *disk, uint64_t lba, uint8_t *sector)
{
	if (lba >= disk->sectors)
		return -EUCLEAN;
	return disk->read(disk->context, lba * SECTOR_BYTES, sector, SECTOR_BYTES);
}

static int read_logical(struct disk *disk, uint64_t first)
{
	uint8_t sector[SECTOR_BYTES];
	uint64_t at = first;
	for (unsigned number = 5; number < 5 + PARTITIONS_MAX; number++) {
		int r = read_sector(disk, at, sector);
		if (r < 0)
			return r;
		if (sector[510] != 0x55 || sector[511] != 0xaa)
			return -EUCLEAN;
		const uint8_t *own = sector + MBR_TABLE, *next = own + MBR_ENTRY_BYTES;
		if (own[4] != 0) {
			r = add(disk, number, at + load_le32(own + 8), load_le32(own + 12),
				PARTITION_DATA);
			if (r < 0)
				return r;
		}
		if (!is_extended(next[4]))
			return 0;
		at = first + load_le32(next + 8);
	}
	return 0;
}

static int read_mbr(struct disk *disk, const uint8_t *sector)
{
	for (unsigned i = 0; i < 4; i++) {
		const uint8_t *entry = sector + MBR_TABLE + i * MBR_ENTRY_BYTES;
		uint64_t lba = load_le32(entry + 8), sectors = load_le32(entry + 12);
		int r = 0;
		if (entry[4] == 0 || sectors == 0)
			continue;
		if (!is_extended(entry[4]))
			r = add(disk, i + 1, lba, sectors,
				entry[4] == TYPE_EFI_SYSTEM ? PARTITION_EFI_SYSTEM
							    : PARTITION_DATA);
		else
			r = read_logical(disk, lba);
		if (r < 0)
			return r;
	}
	return 0;
}

/* ── GPT ─────────────────────────────────────────────────────────────────────────────────── */

static enum partition_use use_of(const uint8_t *entry)
{
	if (memcmp(entry, guid_efi_system, sizeof(guid_efi_system)) == 0)
		return PARTITION_EFI_SYSTEM;
	return memcmp(entry, guid_bios_boot, sizeof(guid_bios_boot)) == 0 ? PARTITION_BIOS_BOOT
									  : PARTITION_DATA;
}

static int read_gpt_entries(struct disk *disk, const uint8_t *header)
{
	uint64_t lba = load_le64(header + 72);
	uint32_t count = load_le32(header + 80), size = load_le32(header + 84);
	if (count == 0 || count > 1024 || size < 128 || size > 4096 || size % 8 != 0 ||
		lba >= disk->sectors)
		return -EUCLEAN;
	size_t n = (size_t)round_up((uint64_t)count * size, SECTOR_BYTES);
	if (n / SECTOR_BYTES > disk->sectors - lba)
		return -EUCLEAN;
	CLEANUP_FREE uint8_t *entries = malloc(n);
	if (!entries)
		return -ENOMEM;
	int r = disk->read(disk->context, lba * SECTOR_BYTES, entries, n);
	if (r < 0)
		return r;
	if (crc32_ieee(entries, (size_t)count * size) != load_le32(header + 88))
		return -EUCLEAN;
	for (uint32_t i = 0; i < count; i++) {
		const uint8_t *entry = entries + (size_t)i * size;
		uint64_t first = load_le64(entry + 32), last = load_le64(entry + 40);
		if (is_zero(entry, 16))
			continue;
		if (last < first)
			return -EUCLEAN;
		r = add(disk, i + 1, first, last - first + 1, use_of(entry));
		if (r < 0)
			return r;
	}
	return 0;
}

static int read_gpt(struct disk *disk, uint64_t lba)
{
	uint8_t header[SECTOR_BYTES];
	disk->count = 0;
	int r = read_sector(disk, lba, header);
	if (r < 0)
		return r;
	uint32_t size = load_le32(header + 12), crc = load_le32(header + 16);
	if (memcmp(header, "EFI PART", 8) != 0 || size < 92 || size > sizeof(header))
		return -EUCLEAN;
	memset(header + 16, 0, 4);
	if (crc32_ieee(header, size) != crc)
		return -EUCLEAN;
	return read_gpt_entries(disk, header);
}

/* ── both ────────────────────────────────────────────────────────────────────────────────── */

int partitions_read(disk_read *read, void *context, uint64_t disk_bytes,
	struct partition ret_partitions[static PARTITIONS_MAX], unsigned *ret_count)
{
	struct disk disk = { .read = read,
		.context = context,
		.sectors = disk_bytes / SECTOR_BYTES,
		.partitions = ret_partitions };
	struct filesystem filesystem;
	uint8_t sector[SECTOR_BYTES];
	*ret_count = 0;
	/* A filesystem may fill the disk, and FAT's first sector looks much like an MBR. */
	int r = filesystem_probe(read, context, 0, disk_bytes, &filesystem);
	if (r == 0) {
		ret_partitions[0] = (struct partition){ .size_bytes = disk_bytes };
		*ret_count = 1;
		return 0;
	}
	if (r != -ENOENT)
		return r;
	r = read_sector(&disk, 0, sector);
	if (r < 0 || sector[510] != 0x55 || sector[511] != 0xaa)
		return r;
	bool protective = false;
	for (unsigned i = 0; i < 4; i++)
		protective |= sector[MBR_TABLE + i * MBR_ENTRY_BYTES + 4] == TYPE_PROTECTIVE;
	if (protective) {
		r = read_gpt(&disk, 1);
		if (r == -EUCLEAN)
			r = read_gpt(&disk, disk.sectors - 1);
	} else {
		r = read_mbr(&disk, sector);
	}
	if (r == 0)
		*ret_count = disk.count;
	return r;
}
