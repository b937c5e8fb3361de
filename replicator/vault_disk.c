/*
 * A disk's blob: made, leased, with its footer.
 *
 * Creating is refused where it could hide a loss: the blob of a disk that has committed points is
 * never made anew, and an existing blob is taken only if it is ours by its footer's id or has
 * never been written.
 */
#include "replicator/vault_internal.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "common/cleanup.h"
#include "fs/vhd.h"
#include "replicator/backoff.h"
#include "replicator/sender.h"

#define RESIZE_LOOKS 8u

const struct vault_disk *vault_disk_of(const struct vault_group *group, uint16_t id)
{
	for (unsigned i = 0; i < group->disk_count; i++)
		if (group->disks[i].id == id)
			return &group->disks[i];
	return NULL;
}

/* What stands in a blob's last sector. 0; -ENOENT: no blob, or no footer there. */
static int read_footer(struct blob_store *store, const char *blob, struct error *error,
	struct uuid *ret_id, uint64_t *ret_blob_bytes)
{
	uint8_t footer[VHD_FOOTER_BYTES];
	struct blob_properties properties;
	struct blob_error e = { 0 };
	struct backoff backoff;
	uint64_t bytes;
	int r;
	backoff_start(&backoff, store, NULL);
	do
		r = store->ops->properties(store, blob, &e, &properties);
	while (r < 0 && r != -ENOENT && backoff_again(&backoff, r, &e));
	if (r < 0 && r != -ENOENT)
		return vault_fail(error, r, &e, "cannot look at %s", blob);
	if (r < 0 || properties.size_bytes < VHD_FOOTER_BYTES)
		return -ENOENT;
	struct blob_request request = { .blob = blob,
		.offset = properties.size_bytes - VHD_FOOTER_BYTES,
		.length = VHD_FOOTER_BYTES,
		.data = footer };
	r = vault_read(store, &request, 1, error);
	if (r < 0)
		return r;
	*ret_blob_bytes = properties.size_bytes;
	return vhd_footer_parse(footer, &bytes, ret_id) == 0 ? 0 : -ENOENT;
}

/* -EEXIST: it bears the footer of another group's disk. One without a footer is being made or
 * grown, and is whose the group's owner.json says. */
static int check_ours(struct blob_store *store, const struct vault_disk *disk, const char *blob,
	struct error *error)
{
	struct uuid id;
	uint64_t blob_bytes;
	int r = read_footer(store, blob, error, &id, &blob_bytes);
	if (r == -ENOENT || (r == 0 && memcmp(&id, &disk->vhd_id, sizeof(id)) == 0))
		return 0;
	if (r < 0)
		return r;
	return error_set(error, -EEXIST,
		"remove the machine here and add it under another name; or, if the other is what "
		"you want, take over the group that it belongs to",
		"%s is the disk of a machine of the same name in another group", blob);
}

/* From an id of an earlier life, whose request for the lease came late. */
static int change_from(struct blob_store *store, const struct vault_group *group, const char *blob,
	const char *from, struct blob_error *e)
{
	struct backoff backoff;
	int r;
	backoff_start(&backoff, store, NULL);
	do {
		*e = (struct blob_error){ 0 };
		r = store->ops->lease_change(store, blob, from, group->lease_id, e);
	} while (r < 0 && backoff_again(&backoff, r, e));
	return r;
}

int vault_disk_lease(struct blob_store *store, const struct vault_group *group,
	const struct vault_disk *disk, const char *from, struct error *error)
{
	struct blob_error e = { 0 };
	struct backoff backoff;
	char blob[VAULT_NAME_BYTES];
	int r;
	vault_blob_name(disk->name, blob);
	r = check_ours(store, disk, blob, error);
	if (r < 0)
		return r;
	backoff_start(&backoff, store, NULL);
	do {
		r = -ENOENT;
		if (from[0] && strcmp(from, group->lease_id) != 0)
			r = store->ops->lease_change(store, blob, from, group->lease_id, &e);
		if (r < 0 && !backoff_is_passing(r, &e)) {
			e = (struct blob_error){ 0 };
			r = store->ops->lease_acquire(store, blob, group->lease_id, &e);
		}
	} while (r < 0 && backoff_again(&backoff, r, &e));
	/* An earlier life's request may have landed between the two. */
	if ((r == -EBUSY || r == -ESTALE) && from[0] && strcmp(from, group->lease_id) != 0)
		r = change_from(store, group, blob, from, &e);
	for (unsigned i = 0; (r == -EBUSY || r == -ESTALE) && i < group->older_lease_count; i++)
		r = change_from(store, group, blob, group->older_lease_ids[i], &e);
	if (r != -EBUSY && r != -ESTALE)
		return r < 0 ? vault_fail(error, r, &e, "cannot lease %s", blob) : 0;
	char mend[sizeof(error->mend)];
	snprintf(mend, sizeof(mend),
		"if the appliance that holds it is lost: landfall vault takeover --group %s",
		group->name);
	return error_set(error, -ESTALE, mend, "%s is leased under an id that is not ours", blob);
}

#define DELETE_TRIES 8u

/* A lease that was broken by hand, or by a takeover of ours that was cut short and lands late, is
 * taken again while the group is ours. */
int vault_disk_delete(struct blob_store *store, const struct vault_group *group,
	const struct vault_disk *disk, struct error *error)
{
	char blob[VAULT_NAME_BYTES];
	vault_blob_name(disk->name, blob);
	int r = check_ours(store, disk, blob, error);
	if (r < 0)
		return r == -EEXIST ? 0 : r; /* another's stays */
	for (unsigned i = 0;; i++) {
		struct blob_error e = { 0 };
		struct backoff backoff;
		backoff_start(&backoff, store, NULL);
		do {
			r = store->ops->delete_blob(store, blob, NULL, group->lease_id, &e);
		} while (r < 0 && r != -ENOENT && backoff_again(&backoff, r, &e));
		if (r == 0 || r == -ENOENT)
			return 0;
		if ((r != -ESTALE && r != -EBUSY) || i + 1 == DELETE_TRIES)
			return vault_fail(error, r, &e, "cannot delete %s", blob);
		r = vault_owner_confirm(store, group, error);
		if (r == 0)
			r = vault_disk_lease(store, group, disk, "", error);
		if (r < 0 && r != -ENOENT)
			return r;
	}
}

static int is_committed(struct blob_store *store, const struct vault_group *group,
	const struct vault_disk *disk, struct error *error, bool *ret_committed)
{
	CLEANUP(vault_points_free) struct vault_points points = { 0 };
	CLEANUP(manifest_free) struct manifest manifest = { 0 };
	char etag[BLOB_ETAG_BYTES];
	int r = vault_points_list(store, group, error, &points);
	if (r < 0)
		return r;
	const struct vault_point_item *newest = vault_points_below(&points, UINT64_MAX);
	*ret_committed = false;
	if (!newest)
		return 0;
	r = vault_manifest_load(store, group, newest->number, error, &manifest, NULL, etag);
	if (r < 0)
		return r;
	for (unsigned i = 0; i < manifest.disk_count; i++)
		if (manifest.disks[i].id == disk->id)
			*ret_committed = true;
	return 0;
}

static int create(struct blob_store *store, const struct vault_group *group,
	const struct vault_disk *disk, const char *blob, struct error *error)
{
	struct blob_error e = { 0 };
	struct backoff backoff;
	bool committed;
	int r = is_committed(store, group, disk, error, &committed);
	if (r < 0)
		return r;
	if (committed)
		return error_set(error, -EUCLEAN,
			"restore the blob if it can be undeleted; else remove and add the disk",
			"%s is gone, but recovery points of its disk exist", blob);
	backoff_start(&backoff, store, NULL);
	do {
		r = store->ops->create(store, blob, disk->size_bytes + VHD_FOOTER_BYTES, &e);
	} while (r < 0 && r != -EEXIST && backoff_again(&backoff, r, &e));
	return r < 0 && r != -EEXIST ? vault_fail(error, r, &e, "cannot create %s", blob) : 0;
}

static int found_range(void *context, const struct blob_range *range)
{
	(void)range;
	*(bool *)context = true;
	return 1;
}

/* What stands in the last sector: our footer, nothing in a blob never written, or else. */
enum footer_state { FOOTER_OURS, FOOTER_NONE, FOOTER_FOREIGN };

static int look(struct blob_store *store, const struct vault_disk *disk, const char *blob,
	uint64_t blob_bytes, struct error *error, enum footer_state *ret_state)
{
	uint8_t footer[VHD_FOOTER_BYTES];
	struct blob_error e = { 0 };
	struct uuid id;
	uint64_t bytes;
	bool written = false;
	struct blob_request request = { .blob = blob,
		.offset = blob_bytes - VHD_FOOTER_BYTES,
		.length = VHD_FOOTER_BYTES,
		.data = footer };
	int r = vault_read(store, &request, 1, error);
	if (r < 0)
		return r;
	if (vhd_footer_parse(footer, &bytes, &id) == 0 &&
		memcmp(&id, &disk->vhd_id, sizeof(id)) == 0) {
		*ret_state = FOOTER_OURS;
		return 0;
	}
	r = store->ops->ranges(store, blob, NULL, NULL, 0, blob_bytes, found_range, &written, &e);
	if (r < 0)
		return vault_fail(error, r, &e, "cannot tell what %s holds", blob);
	*ret_state = written ? FOOTER_FOREIGN : FOOTER_NONE;
	return 0;
}

static int put_footer(struct blob_store *store, const struct vault_group *group,
	const struct vault_disk *disk, const char *blob, uint64_t blob_bytes, struct error *error)
{
	struct sender_options options = { .store = store, .parallel = 1 };
	struct sender_target target = { .blob = blob, .lease_id = group->lease_id, .sequence = -1 };
	CLEANUP(sender_freep) struct sender *sender = NULL;
	struct sender_buffer *buffer;
	int r = sender_new(&options, &sender);
	if (r < 0)
		return error_set(error, r, NULL, "not enough memory");
	r = sender_raise(sender, &target, 0, error);
	if (r == 0)
		r = sender_buffer_get(sender, VHD_FOOTER_BYTES, error, &buffer);
	if (r < 0)
		return r;
	r = vhd_footer_format(
		blob_bytes - VHD_FOOTER_BYTES, &disk->vhd_id, disk->created_ns, buffer->data);
	if (r < 0)
		error_set(error, r, "give it a whole number of MiB, below 8 TiB",
			"%s: %" PRIu64 " bytes is no size for a VHD", blob, blob_bytes);
	if (r == 0)
		r = sender_put(sender, &target, blob_bytes - VHD_FOOTER_BYTES, buffer, 0,
			VHD_FOOTER_BYTES, error);
	sender_buffer_release(sender, buffer);
	return r < 0 ? r : sender_drain(sender, error);
}

int vault_disk_resize(struct blob_store *store, const char *blob, uint64_t blob_bytes,
	const char *lease_id, struct backoff *backoff, struct error *error)
{
	struct blob_error e = { 0 };
	unsigned moved = 0;
	int r;
	do {
		struct blob_properties properties;
		r = store->ops->properties(store, blob, &e, &properties);
		if (r == 0 && properties.size_bytes == blob_bytes)
			return 0;
		if (r == 0)
			r = store->ops->resize(
				store, blob, blob_bytes, lease_id, properties.etag, &e);
		/* The lease may hold and the ETag not. */
	} while (r < 0 &&
		 (backoff_again(backoff, r, &e) || (r == -ESTALE && moved++ < RESIZE_LOOKS)));
	return r < 0 ? vault_fail(error, r, &e, "cannot resize %s", blob) : 0;
}

int vault_disk_ensure(struct blob_store *store, const struct vault_group *group,
	const struct vault_disk *disk, struct error *error)
{
	struct blob_properties properties;
	struct blob_error e = { 0 };
	enum footer_state state = FOOTER_FOREIGN;
	char blob[VAULT_NAME_BYTES];
	if (vhd_check_size(disk->size_bytes) < 0 || vault_check_name(disk->name, true) < 0)
		return error_set(error, -EINVAL, "give it a whole number of MiB, below 8 TiB",
			"disk %s of %" PRIu64 " bytes cannot be a page blob", disk->name,
			disk->size_bytes);
	vault_blob_name(disk->name, blob);
	int r = store->ops->properties(store, blob, &e, &properties);
	if (r == -ENOENT) {
		r = create(store, group, disk, blob, error);
		if (r < 0)
			return r;
		e = (struct blob_error){ 0 };
		r = store->ops->properties(store, blob, &e, &properties);
	}
	if (r < 0)
		return vault_fail(error, r, &e, "cannot look at %s", blob);
	r = check_ours(store, disk, blob, error);
	if (r == 0)
		r = look(store, disk, blob, properties.size_bytes, error, &state);
	/* Without our footer it is ours all the same if a point has the disk, or if it is leased
	 * already: then only under an id of ours the lease is to be had, below. A flush under way
	 * grows it; the flusher proves its footer. */
	bool ours = state != FOOTER_FOREIGN || properties.leased;
	if (r == 0 && !ours)
		r = is_committed(store, group, disk, error, &ours);
	if (r == 0 && !ours)
		r = error_set(error, -EEXIST,
			"rename the disk, or delete the blob if it is not needed",
			"%s is there already and holds something else", blob);
	if (r == 0)
		r = vault_disk_lease(store, group, disk, group->previous_lease_id, error);
	if (r == 0 && state == FOOTER_NONE)
		r = put_footer(store, group, disk, blob, properties.size_bytes, error);
	return r;
}
