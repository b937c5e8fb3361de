/*
 * The two fences of a page blob: leases keep other appliances out, sequence numbers keep out
 * one's own late writes. All calls block and fill `error` (may be NULL); codes as in error.h.
 *
 * Only requests that carry the lease id are checked against it when the lease has expired or was
 * broken; so carry it always.
 */
#pragma once

#include "azureblob/azureblob.h"

#define AZUREBLOB_LEASE_FOREVER (-1)

/* Lease ids are UUIDs of the caller's. Acquiring what is held under that id already succeeds;
 * -EBUSY if another is. `seconds`: 15 to 60, or AZUREBLOB_LEASE_FOREVER. */
int azureblob_lease_acquire(struct azureblob *client, const char *blob, const char *lease_id,
	int seconds, struct http_error *error);
/* A lease of limited time begins anew, an expired one too if nobody has written since; -ESTALE if
 * it is not held under that id. */
int azureblob_lease_renew(
	struct azureblob *client, const char *blob, const char *lease_id, struct http_error *error);
/* The lease goes on under another id; -ESTALE if it is held under neither. */
int azureblob_lease_change(struct azureblob *client, const char *blob, const char *lease_id,
	const char *new_lease_id, struct http_error *error);
/* 0 also if an earlier attempt of this call had released it. */
int azureblob_lease_release(
	struct azureblob *client, const char *blob, const char *lease_id, struct http_error *error);
/* At once, whoever holds it. 0 also if nobody does. */
int azureblob_lease_break(struct azureblob *client, const char *blob, struct http_error *error);

enum azureblob_sequence_action {
	AZUREBLOB_SEQUENCE_MAX,    /* to `number`, unless it is higher already; may be repeated */
	AZUREBLOB_SEQUENCE_UPDATE, /* to `number`, whatever it was */
	AZUREBLOB_SEQUENCE_INCREMENT, /* by one; `number` is not looked at */
};

/* Set Blob Properties. `*ret_sequence` (may be NULL) is the number afterwards. */
int azureblob_set_sequence(struct azureblob *client, const char *blob,
	enum azureblob_sequence_action action, int64_t number,
	const struct azureblob_conditions *conditions, struct http_error *error,
	int64_t *ret_sequence);
