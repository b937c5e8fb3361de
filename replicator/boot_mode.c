/*
 * Pure but for the caller's reads.
 *
 * An EFI system partition says that UEFI can start the disk. Whether a BIOS can, too, is told by a
 * BIOS boot partition (GPT) or by code in the MBR's first sector: tools that make a GPT leave that
 * empty, and the loader that is installed for a BIOS fills it.
 */
#include "replicator/boot_mode.h"

#include <errno.h>
#include <stdlib.h>

#include "common/bytes.h"
#include "common/cleanup.h"

#define MBR_CODE_BYTES 440u

int boot_mode_read(disk_read *read, void *context, uint64_t disk_bytes, enum boot_mode *ret_mode)
{
	CLEANUP_FREE struct partition *partitions = calloc(PARTITIONS_MAX, sizeof(*partitions));
	uint8_t sector[SECTOR_BYTES];
	unsigned count;
	bool efi = false, bios = false;
	if (!partitions)
		return -ENOMEM;
	int r = partitions_read(read, context, disk_bytes, partitions, &count);
	if (r == 0)
		r = read(context, 0, sector, sizeof(sector));
	if (r < 0)
		return r;
	for (unsigned i = 0; i < count; i++) {
		efi |= partitions[i].use == PARTITION_EFI_SYSTEM;
		bios |= partitions[i].use == PARTITION_BIOS_BOOT;
	}
	bios |= !is_zero(sector, MBR_CODE_BYTES);
	*ret_mode = efi && !bios ? BOOT_UEFI : BOOT_BIOS;
	return 0;
}

const char *boot_mode_name(enum boot_mode mode)
{
	return mode == BOOT_UEFI ? "uefi" : "bios";
}
