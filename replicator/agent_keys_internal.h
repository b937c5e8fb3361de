/*
 * The inside of the registration keys, shared by agent_keys.c (rules) and agent_keys_file.c (the
 * file).
 */
#pragma once

#include <pthread.h>

#include "common/hmac.h"
#include "replicator/agent_keys.h"

#define AGENT_KEYS_HEX_BYTES (2 * TLS_FINGERPRINT_BYTES + 1)

struct use {
	char machine[TLS_NAME_BYTES];
	char public_key[AGENT_KEYS_HEX_BYTES];
	int64_t time_ns;
	bool ended; /* may not be repeated */
};

struct key {
	char id[KEY_ID_BYTES];
	uint8_t secret_hash[SHA256_BYTES];
	char machine[TLS_NAME_BYTES]; /* empty: any */
	int64_t created_ns, expires_ns;
	unsigned max_uses;
	bool revoked;
	struct use *uses; /* owned */
	unsigned use_count;
};

struct agent_keys {
	struct io *io;
	struct clock_source *clock;
	char *path;
	struct error fault; /* what opening found damaged; does not change */
	pthread_mutex_t lock;
	struct key *keys; /* owned, oldest first */
	unsigned count;
};

/* ── agent_keys_file.c ───────────────────────────────────────────────────────────────────── */

/* Reads the file into the empty `keys`; an absent one is no key. */
int agent_keys_load(struct agent_keys *keys, struct error *error);
/* Replaces the file by this list, durably. */
int agent_keys_save(
	struct agent_keys *keys, const struct key *list, unsigned count, struct error *error);
/* Who used a key: as key.list tells it, or as the file keeps it. */
int agent_keys_write_uses(struct cJSON *object, const struct key *key, bool for_file);
