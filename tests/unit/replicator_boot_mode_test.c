/*
 * replicator/boot_mode.c: disks as tools make them, an MBR and a GPT, for a BIOS, for UEFI, for
 * both, and what is no disk to start from.
 */
#include "tests/unit/cmocka_common.h"

#include <errno.h>
#include <string.h>

#include "common/bytes.h"
#include "replicator/boot_mode.h"

#define DISK_BYTES (2 * MIB)

static uint8_t disk[DISK_BYTES];

static int read_disk(void *context, uint64_t offset, void *data, size_t n)
{
	(void)context;
	if (offset + n > sizeof(disk))
		return -ENODATA;
	memcpy(data, disk + offset, n);
	return 0;
}

static void store_le32(uint8_t *p, uint32_t v)
{
	for (unsigned i = 0; i < 4; i++)
		p[i] = (uint8_t)(v >> 8 * i);
}

static uint32_t crc32(const uint8_t *data, size_t n)
{
	uint32_t crc = UINT32_MAX;
	for (size_t i = 0; i < 8 * n; i++) {
		uint32_t bit = (crc ^ (uint32_t)(data[i / 8] >> i % 8)) & 1;
		crc = crc >> 1 ^ (bit ? 0xedb88320u : 0);
	}
	return ~crc;
}

static void mbr_entry(unsigned i, uint8_t type, uint32_t lba, uint32_t sectors)
{
	uint8_t *entry = disk + 446 + i * 16;
	entry[4] = type;
	store_le32(entry + 8, lba);
	store_le32(entry + 12, sectors);
	disk[510] = 0x55;
	disk[511] = 0xaa;
}

/* As the tables of types print them: the first three groups are turned around on the disk. */
#define EFI_SYSTEM "\xc1\x2a\x73\x28\xf8\x1f\x11\xd2\xba\x4b\x00\xa0\xc9\x3e\xc9\x3b"
#define BIOS_BOOT "\x21\x68\x61\x48\x64\x49\x6e\x6f\x74\x4e\x65\x65\x64\x45\x46\x49"
#define LINUX_DATA "\x0f\xc6\x3d\xaf\x84\x83\x47\x72\x8e\x79\x3d\x69\xd8\x47\x7d\xe4"

static void gpt_entry(unsigned i, const char *printed, uint32_t first, uint32_t last)
{
	static const uint8_t order[16] = { 3, 2, 1, 0, 5, 4, 7, 6, 8, 9, 10, 11, 12, 13, 14, 15 };
	uint8_t *entry = disk + 1024 + i * 128;
	for (unsigned k = 0; k < 16; k++)
		entry[k] = (uint8_t)printed[order[k]];
	entry[16] = (uint8_t)(i + 1);
	store_le32(entry + 32, first);
	store_le32(entry + 40, last);
}

static void gpt_finish(void)
{
	uint8_t *header = disk + 512;
	mbr_entry(0, 0xee, 1, DISK_BYTES / 512 - 1);
	memcpy(header, "EFI PART", 8);
	store_le32(header + 12, 92);
	store_le32(header + 72, 2);
	store_le32(header + 80, 128);
	store_le32(header + 84, 128);
	store_le32(header + 88, crc32(disk + 1024, (size_t)128 * 128));
	store_le32(header + 16, 0);
	store_le32(header + 16, crc32(header, 92));
}

static enum boot_mode mode_of(void)
{
	enum boot_mode mode;
	assert_int_equal(boot_mode_read(read_disk, NULL, DISK_BYTES, &mode), 0);
	return mode;
}

static void test_gpt(void **state)
{
	(void)state;
	memset(disk, 0, sizeof(disk));
	gpt_entry(0, EFI_SYSTEM, 64, 127);
	gpt_entry(1, LINUX_DATA, 128, 255);
	gpt_finish();
	assert_int_equal(mode_of(), BOOT_UEFI);
	/* An image for both, as clouds have them. */
	gpt_entry(2, BIOS_BOOT, 256, 300);
	gpt_finish();
	assert_int_equal(mode_of(), BOOT_BIOS);
	memset(disk, 0, sizeof(disk));
	gpt_entry(0, LINUX_DATA, 64, 127);
	gpt_finish();
	assert_int_equal(mode_of(), BOOT_BIOS);
}

static void test_mbr(void **state)
{
	(void)state;
	memset(disk, 0, sizeof(disk));
	mbr_entry(0, 0x83, 64, 1000);
	assert_int_equal(mode_of(), BOOT_BIOS);
	/* An EFI system partition in an MBR, and no loader for a BIOS. */
	mbr_entry(1, 0xef, 1100, 1000);
	assert_int_equal(mode_of(), BOOT_UEFI);
	memset(disk, 0xfa, 1);
	assert_int_equal(mode_of(), BOOT_BIOS);
}

static void test_nothing(void **state)
{
	(void)state;
	memset(disk, 0, sizeof(disk));
	assert_int_equal(mode_of(), BOOT_BIOS);
	/* A GPT whose entries are damaged, and no second copy. */
	gpt_entry(0, EFI_SYSTEM, 64, 127);
	gpt_finish();
	disk[1024] ^= 1;
	enum boot_mode mode = BOOT_UEFI;
	assert_int_equal(boot_mode_read(read_disk, NULL, DISK_BYTES, &mode), -EUCLEAN);
	assert_int_equal(mode, BOOT_UEFI);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_gpt),
		cmocka_unit_test(test_mbr),
		cmocka_unit_test(test_nothing),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
