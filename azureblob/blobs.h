/*
 * Containers and page blobs as a whole: making, looking at, listing, snapshotting, deleting,
 * copying. All calls block; all fill `error` (may be NULL) when they fail; codes as in error.h.
 */
#pragma once

#include "azureblob/azureblob.h"

/* Create Container. -EEXIST if it is there. */
int azureblob_container_create(struct azureblob *client, struct http_error *error);
/* -ENOENT if it is not. */
int azureblob_container_check(struct azureblob *client, struct http_error *error);
/* With all that is in it. -ENOENT if it is not there. */
int azureblob_container_delete(struct azureblob *client, struct http_error *error);

/* Put Blob, an empty page blob of `size_bytes` (a multiple of 512, at most 8 TiB). -EEXIST if
 * there is a blob of that name: one is never overwritten. */
int azureblob_create(struct azureblob *client, const char *blob, uint64_t size_bytes,
	const struct http_headers *metadata, struct http_error *error);

/* To a multiple of 512 bytes; what is cut off is lost, what is new is zeros. -ENOENT, -ESTALE.
 * With an ETag to match it is not repeated after an unknown end: a repetition would be refused. */
int azureblob_resize(struct azureblob *client, const char *blob, uint64_t size_bytes,
	const struct azureblob_conditions *conditions, struct http_error *error);

struct azureblob_properties {
	uint64_t size_bytes;
	int64_t sequence; /* of page blobs */
	bool is_page_blob;
	bool leased;
	int64_t modified_ns; /* UTC; 0 if it was not told */
	char etag[AZUREBLOB_ETAG_BYTES];
	char lease_state[16];      /* available, leased, expired, breaking, broken */
	char copy_id[48];          /* empty if it was never copied to */
	char copy_status[16];      /* pending, success, aborted, failed */
	char copy_progress[48];    /* "bytes/total" */
	char copy_description[96]; /* why it failed */
	struct http_headers metadata;
};

/* Get Blob Properties, of the base or of a snapshot (NULL: the base). The caller frees what
 * came. */
int azureblob_get_properties(struct azureblob *client, const char *blob, const char *snapshot,
	struct http_error *error, struct azureblob_properties *ret_properties);
/* They are empty afterwards. */
void azureblob_properties_free(struct azureblob_properties *properties);

/* Replaces all metadata. */
int azureblob_set_metadata(struct azureblob *client, const char *blob,
	const struct http_headers *metadata, const struct azureblob_conditions *conditions,
	struct http_error *error);

/* Snapshot Blob. Metadata, if there is any, *replaces* the base's on the snapshot: tag it, and
 * after an ambiguous failure list the snapshots and adopt the one with the tag. A lease is only
 * checked if it is given. */
int azureblob_snapshot(struct azureblob *client, const char *blob,
	const struct http_headers *metadata, const struct azureblob_conditions *conditions,
	struct http_error *error, char ret_snapshot[static AZUREBLOB_SNAPSHOT_BYTES]);

enum azureblob_delete_what {
	AZUREBLOB_DELETE_ALONE,     /* the base; -ENOTEMPTY if it has snapshots. Or one snapshot */
	AZUREBLOB_DELETE_SNAPSHOTS, /* all snapshots, not the base */
	AZUREBLOB_DELETE_ALL,       /* the base and its snapshots */
};

/* Delete Blob. `snapshot` NULL: as `what` says. -ENOENT if it is not there, unless that came of
 * an earlier attempt of this very call. */
int azureblob_delete(struct azureblob *client, const char *blob, const char *snapshot,
	enum azureblob_delete_what what, const struct azureblob_conditions *conditions,
	struct http_error *error);

struct azureblob_list_options {
	const char *prefix;    /* NULL: all */
	const char *delimiter; /* NULL: none; names below it come as one prefix */
	bool snapshots;
	bool metadata;
	unsigned page; /* names a request; 0: 5000 */
};

/* What a list tells of a blob; borrowed for the time of the call-back. */
struct azureblob_item {
	const char *name;
	bool is_prefix;       /* then nothing below is set */
	const char *snapshot; /* NULL: the base */
	uint64_t size_bytes;
	int64_t sequence;
	bool is_page_blob;
	bool leased;
	int64_t modified_ns;
	const char *etag;                    /* as in headers; "" if it was not told */
	const struct http_headers *metadata; /* empty if it was not asked for */
};

/* List Blobs, all pages of it, in the service's order (by name; a blob's snapshots by time,
 * before the base). A non-zero answer of `each` ends it and is returned. `each` may use the
 * client. */
int azureblob_list(struct azureblob *client, const struct azureblob_list_options *options,
	int (*each)(void *context, const struct azureblob_item *item), void *context,
	struct http_error *error);

/* Copy Blob, within the account: from a blob or its snapshot (NULL: the base) to a name that is not
 * taken (-EEXIST), and waits for the end. It goes on at the service if this fails; the new blob
 * can't be changed meanwhile. -ECANCELED if somebody aborted it, -EIO if it failed, -ESTALE if
 * another copy has taken its place. */
int azureblob_copy(struct azureblob *client, const char *source, const char *snapshot,
	const char *blob, struct http_error *error);
