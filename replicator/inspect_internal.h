/*
 * An inspection, as inspect.c builds it and methods_inspect.c shows it.
 */
#pragma once

#include "replicator/inspect.h"
#include "replicator/partitions.h"
#include "replicator/registry_internal.h"

struct inspected {
	char disk[REGISTRY_NAME_BYTES];
	struct partition partition;
	struct filesystem filesystem; /* .type NULL: nothing known */
	char *mounted_at;             /* owned; NULL: not mounted */
	char note[256];
	int fault; /* -errno that kept it from being read or mounted; 0: none */
};

struct inspection {
	struct inspection *next;
	char id[INSPECTION_ID_BYTES];
	char machine[REGISTRY_NAME_BYTES];
	struct group_entry *entry; /* to compare with */
	struct point point;
	int64_t opened_ns;
	char *directory; /* owned */
	bool made_directory;
	char clone[24];                /* "": none was needed */
	struct inspected *filesystems; /* owned */
	unsigned count;
};
