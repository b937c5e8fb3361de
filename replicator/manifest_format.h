/*
 * Fields of a manifest, and of the metadata on its object. Version 1.
 *
 *	{"format":1, "group":"<name>", "group_id":"<uuid>", "number":n, "kind":"crash",
 *	 "flags":["keep","pressure"], "time":"<UTC>", "appliance":"<uuid>", "generation":n,
 *	 "previous":n, "previous_hash":"<32 hex>", "changed_bytes":n,
 *	 "hashes_bytes":n, "hashes_digest":n,
 *	 "disks":[{"id":n, "name":"<machine>/<disk>", "size_bytes":n, "blob":"…",
 *	           "snapshot":"…", "changed_ranges":n, "data_bytes":n, "zero_bytes":n}],
 *	 "absences":[{"disk":n, "from":n, "to":n}],
 *	 "checksum":"<32 hex>"}
 *
 * "absences", left out when empty: points from "from" up to, but without, "to" (0: no end) do not
 * show that disk; of this point and those below. What their snapshots of it hold is no
 * recovery point of it.
 *
 * An abandoned one has format, group, group_id, number, generation and "abandoned":true.
 */
#pragma once

#define MANIFEST_FORMAT 1
#define MANIFEST_MAX_BYTES (1u << 20) /* 128 disks take about 60 KiB */

#define MANIFEST_KIND_CRASH "crash"
#define MANIFEST_KIND_APPLICATION "application"
#define MANIFEST_KIND_ABANDONED "abandoned"

/* Metadata on the manifest's object. */
#define MANIFEST_META_KIND "kind"
#define MANIFEST_META_TIME "time"
#define MANIFEST_META_CHANGED "changed"
#define MANIFEST_META_FLAGS "flags" /* "none" or words joined by "_" : keep, pressure */
#define MANIFEST_META_GENERATION "generation"

/* Metadata on the snapshots of a point: the tag by which one of ours is known again. */
#define SNAPSHOT_META_GROUP "group"
#define SNAPSHOT_META_POINT "point"
#define SNAPSHOT_META_SEQUENCE "sequence"
