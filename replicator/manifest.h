/*
 * The manifest of a recovery point: the small object whose creation commits the point.
 *
 * It is a sealed JSON document (sealed_json.h), so a flipped bit is found and told, and it holds
 * the hash of the manifest before it, so a replaced one is. Field names are in
 * manifest_format.h. It is never changed after it was put; marks that may change (keep) live in
 * the object's metadata, which also repeats what a listing shows, so that tens of thousands of
 * points are listed without reading one.
 *
 * An *abandoned* manifest is a tombstone: it takes the name so that a put of this point that was
 * given up, but may still be under way, can never commit it.
 */
#pragma once

#include <stdbool.h>
#include <stdint.h>

#include "common/buf.h"
#include "common/checksum.h"
#include "common/error.h"
#include "common/uuid.h"
#include "fs/history.h"
#include "replicator/blob.h"
#include "replicator/vault_names.h"

struct cJSON;

struct manifest_disk {
	uint16_t id;
	char name[64];
	uint64_t size_bytes; /* without footer */
	char blob[VAULT_NAME_BYTES];
	char snapshot[BLOB_SNAPSHOT_ID_BYTES];
	uint64_t changed_ranges, data_bytes, zero_bytes; /* since the previous vault point */
};

struct manifest {
	char group_name[64];
	struct uuid group;
	uint64_t number;
	uint8_t kind;   /* enum point_kind */
	uint32_t flags; /* of enum point_flags: KEEP and PRESSURE as they were at the seal */
	int64_t time_ns;
	struct uuid appliance;        /* that put it */
	uint64_t generation;          /* of the ownership it was put under */
	uint64_t previous;            /* the vault point below; 0: the first */
	struct hash128 previous_hash; /* of that manifest's bytes */
	uint64_t changed_bytes;
	uint64_t hashes_bytes, hashes_digest; /* of the hashes object as committed with it */
	bool abandoned;                       /* then nothing below group and number counts */
	struct manifest_disk *disks;          /* owned */
	unsigned disk_count;
	struct history_absence *absences; /* owned: disks that this or older points do not show */
	unsigned absence_count;
};

/* As "absences" of an object: nothing if there are none. -ENOMEM. */
int absences_to_json(struct cJSON *object, const struct history_absence *absences, unsigned count);
struct json;
int absence_from_json(
	const struct json *at, struct history_absence *ret_absence, struct error *error);

void manifest_free(struct manifest *manifest);
/* Appends the text. -ENOMEM. */
int manifest_format(const struct manifest *manifest, struct buf *text);
/* Reads and checks a manifest; `what` names it in errors. -EBADMSG: damaged; -EPROTONOSUPPORT: a
 * newer format. manifest_free the result. */
int manifest_parse(const char *what, const char *text, size_t n, struct error *error,
	struct manifest *ret_manifest);
