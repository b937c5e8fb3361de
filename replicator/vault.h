/*
 * The vault: the container that holds everything durable, and who owns what in it.
 *
 *	vault.json                             identity, format version
 *	machines/<machine>/<disk>.vhd          page blob + snapshots
 *	groups/<group>/owner.json              which appliance owns the group, under which lease
 *	                                       id, and what is protected (machines, disks,
 *	                                       policy): all a new appliance needs to go on
 *	groups/<group>/points/<number>.json    manifest: its creation commits the point
 *	groups/<group>/points/<number>.hashes  the proof of its bytes (hashes_format.h)
 *
 * Ownership is a compare-and-swap on owner.json; it names the lease id under which every blob of
 * the group is leased (infinitely) and every change is made. An appliance that starts swaps in a
 * new lease id of its own and changes the leases, so an older process of its own is fenced as
 * well as a foreign one. Takeover swaps the owner, breaks the leases, and repairs each base from
 * its newest committed snapshot. An appliance that finds its lease gone stops changing anything
 * and says so (-ESTALE).
 *
 * What keeps a former owner's change from harming a new one, whenever it lands:
 *
 *	pages, sizes, sequence numbers, snapshots taken,       the lease, which a takeover changes;
 *	the deletion of a blob with all its snapshots          of pages the sequence number as well,
 *	                                                       of sizes the ETag
 *	owner.json written or deleted                          If-Match: the ETag as last seen
 *	vault.json, blobs, manifests and hashes made           If-None-Match; a manifest that comes
 *	                                                       late lies above the takeover's cut
 *	manifests marked or deleted                            If-Match with an ETag read before the
 *	                                                       owner was confirmed: a takeover puts
 *	                                                       every manifest that stands again
 *	hashes replaced, merged or deleted; the deletion of    If-Match, read before likewise: what
 *	a manifest that came too late                          the new owner has made has another
 *	hashes of what was drained                             their names hold the generation
 *	snapshots deleted (no lease protects them)             an id listed before the owner was
 *	                                                       confirmed, that no manifest names, or
 *	                                                       whose manifest was deleted before
 *	a lease acquired                                       fails while another holds one
 *	a lease broken                                         only a takeover does, which leases
 *	                                                       again while the group is its own
 *
 * All calls block; each takes the store of the calling thread. Errors as in blob.h.
 */
#pragma once

#include <stdbool.h>
#include <stdint.h>

#include "common/clock.h"
#include "common/error.h"
#include "common/uuid.h"
#include "fs/history.h"
#include "replicator/blob.h"

struct vault_identity {
	struct uuid id;
	unsigned format;
	int64_t created_ns;
};

/* Creates the container if need be, and vault.json; an existing vault of a known format is left
 * as it is (ret_created false). */
int vault_init(struct blob_service *service, struct clock_source *clock, struct error *error,
	bool *ret_created, struct vault_identity *ret_identity);
/* -ENOENT: not a vault; -EPROTONOSUPPORT: a newer format. */
int vault_open(struct blob_store *store, struct error *error, struct vault_identity *ret_identity);

struct vault_disk {
	uint16_t id;         /* the history's */
	char name[64];       /* "<machine>/<disk>" */
	uint64_t size_bytes; /* without footer */
	uint64_t added_point;
	bool removed;
	struct uuid vhd_id; /* in the footer, so that it is the same for ever */
	int64_t created_ns;
};

/* Manifests that were put under an ownership up to `generation` with a number above `above` came
 * too late: their owner had been taken over. They commit nothing. */
struct vault_cut {
	uint64_t generation, above;
};

#define VAULT_OLDER_LEASES 16u

/* The content of owner.json. */
struct vault_group {
	char name[64];
	struct uuid id;      /* the history's group */
	struct uuid owner;   /* the appliance */
	char owner_name[64]; /* its host name, for messages */
	uint64_t generation; /* raised by every swap */
	int64_t claimed_ns;
	char lease_id[BLOB_LEASE_ID_BYTES];
	char previous_lease_id[BLOB_LEASE_ID_BYTES]; /* may still be on some blobs, */
	/* and so may those before it, newest first: a request for the lease that an earlier life
	 * sent can land on a blob that has none yet. */
	char older_lease_ids[VAULT_OLDER_LEASES][BLOB_LEASE_ID_BYTES];
	unsigned older_lease_count;
	bool deleting;              /* its deletion has begun */
	char etag[BLOB_ETAG_BYTES]; /* of the owner.json read or written */
	char *settings; /* owned: JSON text the replicator keeps there (machines, policy) */
	struct vault_disk *disks; /* owned */
	unsigned disk_count;
	struct vault_cut *cuts; /* owned; one for each takeover */
	unsigned cut_count;
};

void vault_group_free(struct vault_group *group);
int vault_group_load(struct blob_store *store, const char *name, struct error *error,
	struct vault_group *ret_group);
/* Calls each with every group's name. */
int vault_groups(struct blob_store *store, int (*each)(void *context, const char *name),
	void *context, struct error *error);

/* Are there disks of a machine of that name, of whatever group? False also if it cannot be told. */
bool vault_has_machine(struct blob_store *store, const char *machine);

/* Makes a new group ours. -EEXIST: there is one of that name. */
int vault_group_create(struct blob_store *store, struct vault_group *group, struct error *error);
/* At a start of the appliance: checks that we own it, swaps in a new lease id, moves the leases.
 * -ESTALE: another appliance owns it (the error names it and since when); -EEXIST: the blob of a
 * disk is another group's. */
int vault_group_claim(struct blob_store *store, const char *name, const struct uuid *appliance,
	struct clock_source *clock, struct error *error, struct vault_group *ret_group);
/* The same before vault_group_delete: a disk whose blob is another group's is no reason to fail. */
int vault_group_claim_to_delete(struct blob_store *store, const char *name,
	const struct uuid *appliance, struct clock_source *clock, struct error *error,
	struct vault_group *ret_group);
/* Before a claim: whether a disk's blob is leased by nobody, though the group is ours. Sets
 * ret_lost or leaves it. Not seen is a lease that was broken, used and let go, and that a late
 * request of ours has taken since: vault_point_verify finds what was written. */
int vault_group_leases(struct blob_store *store, const struct vault_group *group,
	struct error *error, bool *ret_lost);
/* Writes changed settings or disks; creates and leases blobs of new disks (size + footer, footer
 * written). A grown disk's blob is grown by the flush of the first point that shows it so, since
 * older points must keep their size. -ESTALE: no longer ours; -EEXIST: a new disk's blob is there
 * already and not ours; -EUCLEAN: the blob of a disk with points is gone. */
int vault_group_update(struct blob_store *store, struct vault_group *group, struct error *error);
/* Takes the group from whoever owns it; breaks leases, puts every committed manifest again (so that
 * a deletion or a mark of the former owner that is still under way names an ETag that is no more;
 * there is no telling which it may be, so none is left out: two requests a point), repairs bases.
 * Progress in `unit` "points", then "bytes". May be repeated after an interruption. A group that
 * was being deleted is kept if none of its blobs is gone; -EUCLEAN if some are (nothing is touched
 * then), -ENOENT if all are: the rest is deleted. -EUCLEAN, too, if committed points above the
 * newest whole one are damaged, or points are there whose manifests are missing, unless
 * `discard_damaged`: those are deleted then; and if none is whole. */
int vault_group_takeover(struct blob_store *store, const char *name, const struct uuid *appliance,
	const char *appliance_name, bool discard_damaged, struct clock_source *clock,
	void (*progress)(void *context, uint64_t done, uint64_t total, const char *unit),
	void *context, struct error *error, struct vault_group *ret_group);
/* Removes everything of the group, owner.json last: first it says there that it does, then the
 * blobs go. Only the owner may; -ESTALE if that changes meanwhile: whatever the new owner found is
 * left to it. May be repeated after an interruption, by the owner after a claim or by a takeover.
 */
int vault_group_delete(struct blob_store *store, struct vault_group *group, struct error *error);

/* Imports disks and committed points into a new history (takeover, or a lost journal), each point
 * with the disks and sizes that it had. Commits the history when too much is staged; the rest is
 * the caller's to commit. May be repeated after an interruption. */
int vault_import(struct blob_store *store, const struct vault_group *group, struct history *history,
	struct error *error);
/* The same in two steps: what asks the vault, and what writes the history and does not. `group` is
 * borrowed until the reading is freed. */
struct vault_reading;
int vault_import_read(struct blob_store *store, const struct vault_group *group,
	struct error *error, struct vault_reading **ret_reading);
int vault_import_write(struct vault_reading *reading, struct history *history, struct error *error);
/* What its newest point that can be read says of disks that points do not show; borrowed. */
void vault_reading_absences(const struct vault_reading *reading,
	const struct history_absence **ret_absences, unsigned *ret_count);
void vault_reading_free(struct vault_reading *reading);

/* Compares the history with the vault, once the group is claimed and before anything is flushed.
 * Records that were lost here are made up for where the vault tells them: points that it holds are
 * marked, bases that hold part of a forgotten flush are repaired, points that are gone are dropped.
 * What it stages is the caller's to commit, also if it fails. `ret_unknown`: the newest point of
 * the vault, if it is one that the history has lost (flusher_options.unknown_point), else 0. What
 * was acknowledged since an older one is lost then, too: unless that point is `told` at most (the
 * newest such loss that was noted before; 0: none), every disk needs a resync, and local points of
 * numbers that the vault has given to others are damaged. -EUCLEAN: nothing may be flushed. May be
 * repeated. */
int vault_agree(struct blob_store *store, struct clock_source *clock,
	const struct vault_group *group, struct history *history, uint64_t told,
	struct error *error, uint64_t *ret_unknown);

/* Sets POINT_KEEP in what the vault tells about a point, so that it outlives the appliance.
 * -ENOENT. */
int vault_point_keep(struct blob_store *store, const struct vault_group *group, uint64_t number,
	bool keep, struct error *error);

/* Deletes a vault point: its proof merged into the next point's, manifest, then snapshots, then
 * its hashes. The history has dropped it already. Idempotent. -EBUSY: it is the newest. */
int vault_point_delete(struct blob_store *store, const struct vault_group *group, uint64_t number,
	struct error *error);

/* Deletes snapshots and objects that no manifest explains and that no flush under way can
 * explain: with `pending_point` (what history_flush_pending says) whatever belongs to that point
 * or a later one stays; with 0 no flush may begin before it returns. */
int vault_collect_orphans(struct blob_store *store, const struct vault_group *group,
	uint64_t pending_point, struct error *error, unsigned *ret_deleted);

struct vault_check_report {
	unsigned groups, points, snapshots;
	/* parts missing (snapshots, manifests, owner.json), snapshots orphaned, manifests broken */
	unsigned missing, orphaned, broken;
};

/* Every manifest against its snapshots, hashes and predecessor, and whether all that is there has a
 * group, a manifest, an owner.json; reports each fault in words. */
int vault_check(struct blob_store *store, void (*told)(void *context, const char *text),
	void *context, struct error *error, struct vault_check_report *ret_report);

/* What this appliance knows to be in the vault, of a group of its own: points by rising number. Of
 * each that is missing `gone` is told, unless vault_check tells of it; 0 as the number: all of the
 * group is, and true then ends it. A number whose point was deleted meanwhile is the caller's to
 * pass by. A group that is another appliance's by now is passed by. */
int vault_check_known(struct blob_store *store, const char *group, const struct uuid *appliance,
	const uint64_t *numbers, unsigned count,
	bool (*gone)(void *context, uint64_t number, const char *text), void *context,
	struct error *error);

/* Proves every byte of a vault point: reads each disk's snapshot and compares with the hashes of
 * the points up to it; what no point ever wrote must be zero. Returns 0 or -EBADMSG with the
 * first difference in the error. */
int vault_point_verify(struct blob_store *store, const struct vault_group *group, uint64_t number,
	void (*progress)(void *context, uint64_t done_bytes, uint64_t total_bytes), void *context,
	struct error *error);

/* A base (fs/base.h) that reads the group's vault points. Takes stores from the service as its
 * callers' threads need them; knows all-zero ranges from the page ranges and never fetches them.
 * Borrows all arguments; the group's disks may grow in number later (vault_base_update). */
int vault_base_new(
	struct blob_service *service, const struct vault_group *group, struct base **ret_base);
int vault_base_update(struct base *base, const struct vault_group *group);
/* The group was taken over, or is ours again: what lies there of a disk now is read only while it
 * is ours. */
void vault_base_lose(struct base *base, bool lost);
/* Closes the stores if none was needed since the last call: connections of a base that nobody reads
 * are not kept. Any thread. */
void vault_base_rest(struct base *base);
/* Why the last read since the last call did not reach the vault; 0: none failed so. Any thread. */
int vault_base_failure(struct base *base);
void vault_base_free(struct base *base);
