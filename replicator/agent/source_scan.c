/*
 * Without capture of changes: what of each chunk was sent last, as its hash.
 *
 * A recovery point then takes reading every disk twice, once while everything runs, so that little
 * is left, and once while everything stands still, since nothing tells what changed in between.
 * What is read and is what was sent before is not sent again. A session begins with nothing
 * remembered: its disks are compared with the appliance first, and that fills the table.
 *
 * Under the disk's lock. A chunk's reads and sends are in one order (pipeline.h), so what was noted
 * last is what is sent last.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "common/bytes.h"
#include "common/cleanup.h"
#include "replicator/agent/source.h"
#include "replicator/wire/wire_format.h"

/* Room for that chunk. */
static int make_room(struct source_disk *disk, uint64_t chunk)
{
	uint64_t chunks = source_disk_bytes(disk) / WIRE_CHUNK_BYTES;
	if (chunk < disk->scanned_chunks)
		return 0;
	if (chunk >= chunks)
		return -EINVAL;
	struct hash128 *more = realloc(disk->scanned, chunks * sizeof(*more));
	if (!more)
		return -ENOMEM;
	memset(more + disk->scanned_chunks, 0, (chunks - disk->scanned_chunks) * sizeof(*more));
	disk->scanned = more;
	disk->scanned_chunks = chunks;
	return 0;
}

bool source_scan_note(struct source_disk *disk, uint64_t offset, struct hash128 hash)
{
	uint64_t chunk = offset / WIRE_CHUNK_BYTES;
	if (!disk->scans)
		return false;
	SCOPED_LOCK(&disk->lock);
	if (make_room(disk, chunk) < 0)
		return false; /* it is sent, and again the next time */
	bool same = disk->scanned[chunk].low == hash.low && disk->scanned[chunk].high == hash.high;
	disk->scanned[chunk] = hash;
	return same;
}

bool source_scan_is_sent(struct source_disk *disk, uint64_t offset, struct hash128 hash)
{
	uint64_t chunk = offset / WIRE_CHUNK_BYTES;
	SCOPED_LOCK(&disk->lock);
	return chunk < disk->scanned_chunks && disk->scanned[chunk].low == hash.low &&
	       disk->scanned[chunk].high == hash.high;
}

void source_scan_forget(struct source_disk *disk, uint64_t offset)
{
	uint64_t chunk = offset / WIRE_CHUNK_BYTES;
	SCOPED_LOCK(&disk->lock);
	if (chunk < disk->scanned_chunks)
		disk->scanned[chunk] = (struct hash128){ 0 };
}

int source_scan_begin(struct source *source, struct error *error)
{
	for (unsigned i = 0; i < source->count; i++) {
		struct source_disk *disk = source->disks[i];
		SCOPED_LOCK(&disk->lock);
		if (!disk->scans || disk->gone)
			continue;
		free(disk->scanned);
		disk->scanned = NULL;
		disk->scanned_chunks = 0;
		int r = tracker_trust_again(disk->tracked, error);
		if (r < 0)
			return r;
	}
	return 0;
}
