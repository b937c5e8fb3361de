/*
 * What fills a partition: known by magic numbers, with label and UUID. Pure but for the caller's
 * reads; any thread.
 */
#include <ctype.h>
#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "common/bytes.h"
#include "common/uuid.h"
#include "replicator/partitions.h"

/* The first 68 KiB hold every magic number there is to look for. */
#define HEAD_BYTES (68u * 1024u)
#define EXT_SUPERBLOCK 1024u
#define BTRFS_SUPERBLOCK 65536u
#define ISO_DESCRIPTOR 32768u
#define F2FS_SUPERBLOCK 1024u

static void copy_label(struct filesystem *f, const uint8_t *label, size_t n)
{
	size_t used = 0;
	for (size_t i = 0; i < n && label[i] && used + 1 < sizeof(f->label); i++)
		f->label[used++] = iscntrl(label[i]) ? '?' : (char)label[i];
	while (used > 0 && f->label[used - 1] == ' ')
		used--;
	f->label[used] = '\0';
}

static void copy_uuid(struct filesystem *f, const uint8_t *bytes)
{
	struct uuid uuid;
	memcpy(uuid.bytes, bytes, sizeof(uuid.bytes));
	uuid_format(&uuid, f->uuid);
}

static uint32_t le32_at(const uint8_t *p)
{
	uint32_t v;
	memcpy(&v, p, sizeof(v));
	return le32toh(v);
}

/* ext2, 3, 4: linux/Documentation/filesystems/ext4, "Super Block". */
static bool probe_ext(const uint8_t *head, struct filesystem *f)
{
	const uint8_t *s = head + EXT_SUPERBLOCK;
	if (s[56] != 0x53 || s[57] != 0xef)
		return false;
	uint32_t compat = le32_at(s + 92), incompat = le32_at(s + 96);
	if (incompat & 0x8) {
		f->type = "jbd"; /* a journal on a device of its own */
		return true;
	}
	f->type = incompat & 0x2c0 ? "ext4" : compat & 0x4 ? "ext3" : "ext2";
	f->mountable = true;
	f->log_replay = incompat & 0x4;
	copy_uuid(f, s + 104);
	copy_label(f, s + 120, 16);
	return true;
}

/* XFS, "Superblocks". Whether its log is clean cannot be told from here. */
static bool probe_xfs(const uint8_t *head, struct filesystem *f)
{
	if (memcmp(head, "XFSB", 4) != 0)
		return false;
	f->type = "xfs";
	f->mountable = f->log_replay = true;
	copy_uuid(f, head + 32);
	copy_label(f, head + 108, 12);
	return true;
}

static bool probe_btrfs(const uint8_t *head, struct filesystem *f)
{
	const uint8_t *s = head + BTRFS_SUPERBLOCK;
	if (memcmp(s + 64, "_BHRfS_M", 8) != 0)
		return false;
	f->type = "btrfs";
	f->mountable = f->log_replay = true;
	copy_uuid(f, s + 32);
	copy_label(f, s + 299, 64);
	return true;
}

static bool probe_dos(const uint8_t *head, struct filesystem *f)
{
	if (head[510] != 0x55 || head[511] != 0xaa)
		return false;
	bool wide = memcmp(head + 82, "FAT32   ", 8) == 0;
	if (memcmp(head + 3, "NTFS    ", 8) == 0) {
		f->type = "ntfs3";
	} else if (memcmp(head + 3, "EXFAT   ", 8) == 0) {
		f->type = "exfat";
	} else if (wide || memcmp(head + 54, "FAT1", 4) == 0) {
		f->type = "vfat";
		const uint8_t *id = head + (wide ? 67 : 39);
		snprintf(f->uuid, sizeof(f->uuid), "%02X%02X-%02X%02X", id[3], id[2], id[1], id[0]);
		copy_label(f, id + 4, 11);
	} else {
		return false;
	}
	f->mountable = true;
	return true;
}

static bool probe_unmountable(const uint8_t *head, struct filesystem *f)
{
	if (memcmp(head, "LUKS\xba\xbe", 6) == 0)
		f->type = "crypto_LUKS";
	else if (memcmp(head + 4086, "SWAPSPACE2", 10) == 0)
		f->type = "swap";
	else if (le32_at(head + 4096) == 0xa92b4efcu || le32_at(head) == 0xa92b4efcu)
		f->type = "linux_raid_member";
	for (unsigned sector = 0; sector < 4 && !f->type; sector++)
		if (memcmp(head + sector * SECTOR_BYTES, "LABELONE", 8) == 0)
			f->type = "LVM2_member";
	return f->type != NULL;
}

static bool probe_others(const uint8_t *head, struct filesystem *f)
{
	if (memcmp(head + ISO_DESCRIPTOR + 1, "CD001", 5) == 0) {
		f->type = "iso9660";
		copy_label(f, head + ISO_DESCRIPTOR + 40, 32);
	} else if (memcmp(head, "hsqs", 4) == 0) {
		f->type = "squashfs";
	} else if (le32_at(head + F2FS_SUPERBLOCK) == 0xf2f52010u) {
		f->type = "f2fs";
		f->log_replay = true;
		copy_uuid(f, head + F2FS_SUPERBLOCK + 108);
	} else {
		return false;
	}
	f->mountable = true;
	return true;
}

int filesystem_probe(disk_read *read, void *context, uint64_t offset, uint64_t size,
	struct filesystem *ret_filesystem)
{
	uint8_t head[HEAD_BYTES] = { 0 };
	struct filesystem f = { 0 };
	if (size < 2 * SECTOR_BYTES)
		return -ENOENT;
	int r = read(context, offset, head, (size_t)MIN(size, (uint64_t)HEAD_BYTES));
	if (r < 0)
		return r;
	/* Those with a strong magic first: a log on LUKS or LVM says more than what is in it. */
	if (!probe_unmountable(head, &f) && !probe_xfs(head, &f) && !probe_btrfs(head, &f) &&
		!probe_ext(head, &f) && !probe_dos(head, &f) && !probe_others(head, &f))
		return -ENOENT;
	*ret_filesystem = f;
	return 0;
}
