/*
 * How a disk is started: by a BIOS, from its first sector, or by UEFI firmware, from its EFI system
 * partition.
 *
 * Sources: UEFI Specification 2.10, chapters 5 (GPT, protective MBR) and 13.3 (system partition);
 * the BIOS boot partition is GRUB's.
 */
#pragma once

#include "replicator/partitions.h"

enum boot_mode { BOOT_BIOS, BOOT_UEFI };

/* What the disk was made for. A disk that both can start is BOOT_BIOS. Reads a few sectors; 0, or
 * what partitions_read says. Any thread. */
int boot_mode_read(disk_read *read, void *context, uint64_t disk_bytes, enum boot_mode *ret_mode);
/* "bios", "uefi". */
const char *boot_mode_name(enum boot_mode mode);
