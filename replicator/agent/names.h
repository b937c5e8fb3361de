/*
 * By what names disks that were found go, wherever the kernel puts them: sda of today may be sdb
 * after a reboot. <state>/names.json holds, for each name that was ever given, the identity of the
 * disk that it was given to (disk.h), and is stored before anybody hears of the name:
 *
 *	{"format": 1, "disks": [{"id": "sda", "identity": "disk:S4EWNX0R123456"}, …]}
 *
 * A disk whose identity is on record goes by the name on record. Another goes by its kernel name;
 * if that is on record for another disk, by that with -2, -3, … behind it. An identity that tells
 * nothing but the kernel's name (disk_identity_is_name) belongs to the name, and gives way to a
 * better one. Of disks that share an identity only one can have what is on record for it.
 *
 * One thread at a time.
 */
#pragma once

#include <stdbool.h>

#include "common/error.h"
#include "common/io.h"
#include "replicator/agent/disk.h"

#define NAMES_ID_BYTES DISK_NAME_BYTES
#define NAMES_MAX 1024u /* then the oldest that is not in use is forgotten */

struct names;

/* What is on record in `directory`, nothing if there is no file. -EBADMSG: it is damaged; -errno.
 */
int names_load(struct io *io, const char *directory, struct error *error, struct names **ret_names);
/* NULL is fine. */
void names_free(struct names *names);

/* The name of `disk`, which is in use from now on and no other disk's: durable when it returns.
 * -ENOSPC: too many are in use; -errno: it could not be stored. */
int names_take(struct names *names, const struct disk *disk, struct error *error,
	char ret_id[static NAMES_ID_BYTES]);
/* It is not in use after all; it stays on record. */
void names_put_back(struct names *names, const char *id);
/* One that is on record and not in use, if there is any from place `at` on (begin with 0): it is in
 * use from now on. False: none. */
bool names_take_missing(struct names *names, unsigned *at, char ret_id[static NAMES_ID_BYTES],
	char ret_identity[static DISK_IDENTITY_BYTES]);
/* The disk goes by its kernel name on record, so it comes first among those of its identity. */
bool names_is_at_home(const struct names *names, const struct disk *disk);
