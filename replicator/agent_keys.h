/*
 * Registration keys: what lets a machine that has no certificate yet ask for one.
 *
 *	<state>/agent_keys.json   0600, sealed (sealed_json.h): id, SHA-256 of the
 *	                          secret, the machine it is bound to, when it was made
 *	                          and when it ends, who used it
 *
 * The secret itself is handed out once, when the key is made, and kept nowhere; it is 32 random
 * bytes, so its hash needs no salt. A key may be used once unless it was made for more, and that it
 * was used is durable before anything comes of it. Who asks again with the same public key and
 * machine gets the same answer and uses nothing up, so that a lost answer is no loss. That holds
 * until the machine is enrolled by another use, or the key is revoked: what came to its end then
 * cannot be had again by asking as before.
 *
 * All functions may be called from any thread; what they change is durable when they return 0, and
 * not changed at all otherwise.
 */
#pragma once

#include <stdbool.h>
#include <stdint.h>

#include "common/clock.h"
#include "common/error.h"
#include "common/io.h"
#include "replicator/wire/key_text.h"

#define AGENT_KEYS_DEFAULT_TTL_S (5ll * 86400)
#define AGENT_KEYS_MAX_TTL_S (366ll * 86400)
#define AGENT_KEYS_MAX_USES 1000u
#define AGENT_KEYS_MAX 10000u

struct agent_keys;
struct cJSON;

/* `path` is borrowed during the call. -EUCLEAN: the file is damaged. */
int agent_keys_new(struct io *io, struct clock_source *clock, const char *path, struct error *error,
	struct agent_keys **ret_keys);
void agent_keys_free(struct agent_keys *keys); /* NULL is fine */
/* What opening found damaged, and mended from its copy; code 0: nothing. */
const struct error *agent_keys_fault(const struct agent_keys *keys);

struct agent_keys_order {
	const char *machine; /* NULL: any */
	int64_t ttl_s;       /* 60 … AGENT_KEYS_MAX_TTL_S */
	unsigned uses;       /* 1 … AGENT_KEYS_MAX_USES */
};

/* Makes a key; id and secret are filled in, the authority is the caller's to fill. -EINVAL,
 * -EDQUOT (too many keys that still hold). */
int agent_keys_create(struct agent_keys *keys, const struct agent_keys_order *order,
	struct error *error, struct registration_key *ret_key);

struct agent_keys_claim {
	const char *id;
	const uint8_t *secret;     /* KEY_SECRET_BYTES */
	const char *machine;       /* whose certificate is asked for */
	const uint8_t *public_key; /* TLS_FINGERPRINT_BYTES, whose the certificate would be */
};

struct agent_keys_verdict {
	bool bound; /* to this very machine */
	bool again; /* this public key and machine have used it before, the last of the machine */
};

/* May this claim be granted? -EACCES for what is no valid key, without saying why, unless the
 * secret is right: then -EKEYEXPIRED, -EKEYREVOKED, -EPERM (another machine's), -EEXIST (used
 * up). */
int agent_keys_check(struct agent_keys *keys, const struct agent_keys_claim *claim,
	struct error *error, struct agent_keys_verdict *ret_verdict);
/* The same, and notes the use; a new one ends all earlier uses by the machine, in one step. */
int agent_keys_use(
	struct agent_keys *keys, const struct agent_keys_claim *claim, struct error *error);

/* -ENOENT. Its uses end with it. Revoking twice is fine. */
int agent_keys_revoke(struct agent_keys *keys, const char *id, struct error *error);
/* Revokes the keys bound to a machine, and lets no use by it be repeated. */
int agent_keys_forget_machine(struct agent_keys *keys, const char *machine, struct error *error);

/* An array of objects as key.list tells them, newest first. -ENOMEM. */
int agent_keys_to_json(struct agent_keys *keys, struct cJSON **ret_list);
/* One of them. -ENOENT. */
int agent_keys_one_to_json(struct agent_keys *keys, const char *id, struct cJSON **ret_key);
