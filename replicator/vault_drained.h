/*
 * The hashes objects of what was drained of an epoch that is not sealed yet; drained_format.h tells
 * what they are. All calls block.
 */
#pragma once

#include "replicator/drained_format.h"
#include "replicator/vault_internal.h"

/* The list as the journal keeps it; n 0: an empty one. -EBADMSG, -EPROTONOSUPPORT. */
int vault_drained_parse(
	const void *data, size_t n, struct error *error, struct drained_proof *ret_proof);
/* Bytes of it that are to be kept. */
size_t vault_drained_bytes(const struct drained_proof *proof);

/* Opens a part for reading; `hashes` must outlive the reader. -EBADMSG: missing, or another's. */
int vault_drained_open(struct vault_hashes *hashes, struct blob_store *store,
	const struct vault_group *group, uint64_t number, const struct drained_part *part,
	struct error *error, struct hashes_reader **ret_reader);
/* As vault_stage_open, for a part. */
int vault_drained_stage(struct vault_stage *stage, struct blob_store *store,
	const atomic_bool *cancel, const struct vault_group *group, uint64_t number,
	const struct drained_part *part, struct error *error, struct hashes_sink *ret_sink);
/* Writes two neighbouring parts as one into the writer, which is not finished. */
int vault_drained_merge(struct blob_store *store, const struct vault_group *group, uint64_t number,
	const struct drained_part *older, const struct drained_part *newer,
	struct hashes_writer *writer, struct error *error);
/* Makes one part of two neighbours, which stay. `base`: the vault point below. */
int vault_drained_join(struct blob_store *store, const atomic_bool *cancel,
	const struct vault_group *group, uint64_t base, uint64_t number,
	const struct drained_part *older, const struct drained_part *newer, struct error *error,
	struct drained_part *ret_part);

/* 0 also if it is not there. */
int vault_drained_delete(struct blob_store *store, const struct vault_group *group, uint64_t number,
	const struct drained_part *part, struct error *error);
/* Deletes the parts of all points below `pending` (0: of all) that were made under this ownership
 * or an earlier one, and counts them. */
int vault_drained_collect(struct blob_store *store, const struct vault_group *group,
	uint64_t pending, struct error *error, unsigned *deleted);
