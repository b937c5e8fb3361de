/*
 * See agent_keys.h.
 *
 * The list in memory is replaced only by what was written: a change is made on copies of the
 * keys it concerns, the file is written with the copies in the keys' places, and then they take
 * the places. Keys that ended a month ago are dropped when another is made.
 *
 * One lock, held across the writing of the file: enrolling is rare, and whoever waits for it waits
 * for that file anyway.
 */
#include "replicator/agent_keys_internal.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cjson/cJSON.h>
#include <openssl/crypto.h>

#include "common/bytes.h"
#include "common/cleanup.h"
#include "common/rng.h"
#include "common/human.h"
#include "replicator/sealed_json.h"

#define KEEP_ENDED_NS (30 * 86400 * NS_PER_S)
#define MIN_TTL_S 60

static void key_free(struct key *key)
{
	free(key->uses);
	*key = (struct key){ 0 };
}

/* Room for one more use than there are. */
static int key_copy(const struct key *key, struct key *ret_copy)
{
	struct key copy = *key;
	copy.uses = calloc(key->use_count + 1, sizeof(*copy.uses));
	if (!copy.uses)
		return -ENOMEM;
	if (key->use_count > 0)
		memcpy(copy.uses, key->uses, key->use_count * sizeof(*copy.uses));
	*ret_copy = copy;
	return 0;
}

int agent_keys_new(struct io *io, struct clock_source *clock, const char *path, struct error *error,
	struct agent_keys **ret_keys)
{
	struct agent_keys *keys = calloc(1, sizeof(*keys));
	struct error own = { 0 };
	if (!keys || !(keys->path = strdup(path))) {
		free(keys);
		return error_set(error, -ENOMEM, NULL, "out of memory");
	}
	keys->io = io;
	keys->clock = clock;
	pthread_mutex_init(&keys->lock, NULL);
	int r = agent_keys_load(keys, &own);
	if (r < 0) {
		agent_keys_free(keys);
		return error_set(error, r, own.mend, "%s",
			own.message[0] ? own.message : strerrordesc_np(-r));
	}
	*ret_keys = keys;
	return 0;
}

static void free_list(struct key *list, unsigned count)
{
	for (unsigned i = 0; i < count; i++)
		key_free(&list[i]);
	free(list);
}

const struct error *agent_keys_fault(const struct agent_keys *keys)
{
	return &keys->fault;
}

void agent_keys_free(struct agent_keys *keys)
{
	if (!keys)
		return;
	free_list(keys->keys, keys->count);
	pthread_mutex_destroy(&keys->lock);
	free(keys->path);
	free(keys);
}

/* ── making ──────────────────────────────────────────────────────────────────────────────── */

static int make_secret(struct key *key, struct registration_key *ret_key)
{
	uint8_t id[(KEY_ID_BYTES - 1) / 2];
	struct registration_key made = { 0 };
	int r = random_bytes(id, sizeof(id));
	if (r == 0)
		r = random_bytes(made.secret, sizeof(made.secret));
	if (r == 0)
		r = sha256(made.secret, sizeof(made.secret), key->secret_hash);
	if (r == 0) {
		hex_encode(id, sizeof(id), made.id);
		memcpy(key->id, made.id, sizeof(key->id));
		*ret_key = made;
	}
	OPENSSL_cleanse(&made, sizeof(made));
	return r;
}

static int check_order(const struct agent_keys_order *order, struct error *error)
{
	if (order->ttl_s < MIN_TTL_S || order->ttl_s > AGENT_KEYS_MAX_TTL_S)
		return error_set(error, -EINVAL, "give e.g. 5d or 12h",
			"a key holds for a minute at least and %lld days at most",
			AGENT_KEYS_MAX_TTL_S / 86400);
	if (order->uses == 0 || order->uses > AGENT_KEYS_MAX_USES)
		return error_set(error, -EINVAL, "leave it out for a key that holds once",
			"a key can be used 1 to %u times", AGENT_KEYS_MAX_USES);
	return order->machine ? name_check("machine", order->machine, error) : 0;
}

/* The list without what ended long ago, with room for one more. The entries are shared with the
 * old list, but for *ret_dropped flags. */
static int next_list(struct agent_keys *keys, int64_t now_ns, struct key **ret_list,
	unsigned *ret_count, bool *dropped)
{
	struct key *list = calloc(keys->count + 1, sizeof(*list));
	unsigned count = 0;
	if (!list)
		return -ENOMEM;
	for (unsigned i = 0; i < keys->count; i++) {
		dropped[i] = keys->keys[i].expires_ns + KEEP_ENDED_NS < now_ns;
		if (!dropped[i])
			list[count++] = keys->keys[i];
	}
	*ret_list = list;
	*ret_count = count;
	return 0;
}

static int append(
	struct agent_keys *keys, const struct key *key, int64_t now_ns, struct error *error)
{
	CLEANUP_FREE struct key *list = NULL;
	CLEANUP_FREE bool *dropped = calloc(keys->count + 1, sizeof(*dropped));
	unsigned count;
	if (!dropped || next_list(keys, now_ns, &list, &count, dropped) < 0)
		return error_set(error, -ENOMEM, NULL, "out of memory");
	if (count >= AGENT_KEYS_MAX)
		return error_set(error, -EDQUOT, "give keys a shorter life, or more uses each",
			"there are %u registration keys already", count);
	list[count++] = *key;
	int r = agent_keys_save(keys, list, count, error);
	if (r < 0)
		return r;
	for (unsigned i = 0; i < keys->count; i++)
		if (dropped[i])
			key_free(&keys->keys[i]);
	free(keys->keys);
	keys->keys = TAKE(list);
	keys->count = count;
	return 0;
}

int agent_keys_create(struct agent_keys *keys, const struct agent_keys_order *order,
	struct error *error, struct registration_key *ret_key)
{
	struct registration_key made;
	struct key key = { .max_uses = order->uses };
	int r = check_order(order, error);
	if (r < 0)
		return r;
	if (make_secret(&key, &made) < 0)
		return error_set(error, -EIO, NULL, "no random numbers for a key");
	snprintf(key.machine, sizeof(key.machine), "%s", order->machine ? order->machine : "");
	SCOPED_LOCK(&keys->lock);
	key.created_ns = clock_realtime_ns(keys->clock);
	key.expires_ns = key.created_ns + order->ttl_s * NS_PER_S;
	r = append(keys, &key, key.created_ns, error);
	if (r == 0)
		*ret_key = made;
	OPENSSL_cleanse(&made, sizeof(made));
	return r;
}

/* ── using ───────────────────────────────────────────────────────────────────────────────── */

static struct key *find(struct agent_keys *keys, const char *id)
{
	for (unsigned i = 0; i < keys->count; i++)
		if (strcmp(keys->keys[i].id, id) == 0)
			return &keys->keys[i];
	return NULL;
}

/* In constant time, whether there is such a key or not. */
static bool secret_is_right(const struct key *key, const uint8_t *secret)
{
	uint8_t hash[SHA256_BYTES], none[SHA256_BYTES] = { 0 };
	if (sha256(secret, KEY_SECRET_BYTES, hash) < 0)
		return false;
	return CRYPTO_memcmp(hash, key ? key->secret_hash : none, sizeof(hash)) == 0 && key;
}

static const struct use *find_use(const struct key *key, const struct agent_keys_claim *claim)
{
	char public_key[AGENT_KEYS_HEX_BYTES];
	hex_encode(claim->public_key, TLS_FINGERPRINT_BYTES, public_key);
	for (unsigned i = 0; i < key->use_count; i++)
		if (!key->uses[i].ended && strcmp(key->uses[i].machine, claim->machine) == 0 &&
			strcmp(key->uses[i].public_key, public_key) == 0)
			return &key->uses[i];
	return NULL;
}

/* Under lock. */
static int check(struct agent_keys *keys, const struct agent_keys_claim *claim, struct error *error,
	struct key **ret_key, struct agent_keys_verdict *ret_verdict)
{
	static const char mend[] = "make a new one on the appliance: landfall key create";
	struct key *key = find(keys, claim->id);
	if (!secret_is_right(key, claim->secret))
		return error_set(error, -EACCES, mend,
			"this is no registration key of this "
			"appliance's");
	if (key->revoked)
		return error_set(
			error, -EKEYREVOKED, mend, "registration key %s was revoked", key->id);
	if (clock_realtime_ns(keys->clock) >= key->expires_ns)
		return error_set(
			error, -EKEYEXPIRED, mend, "registration key %s has expired", key->id);
	if (key->machine[0] && strcmp(key->machine, claim->machine) != 0)
		return error_set(error, -EPERM, mend, "registration key %s is for machine %s alone",
			key->id, key->machine);
	bool again = find_use(key, claim) != NULL;
	if (!again && key->use_count >= key->max_uses)
		return error_set(error, -EEXIST, mend, "registration key %s is used up", key->id);
	*ret_key = key;
	*ret_verdict =
		(struct agent_keys_verdict){ .bound = key->machine[0] != '\0', .again = again };
	return 0;
}

int agent_keys_check(struct agent_keys *keys, const struct agent_keys_claim *claim,
	struct error *error, struct agent_keys_verdict *ret_verdict)
{
	struct key *key;
	SCOPED_LOCK(&keys->lock);
	return check(keys, claim, error, &key, ret_verdict);
}

/* ── changing ────────────────────────────────────────────────────────────────────────────── */

/* The list as it shall be: entries are shared with the list that holds, but for those changed. */
struct draft {
	struct agent_keys *keys;
	struct key *list;
	bool *changed;
};

static int draft_begin(struct agent_keys *keys, struct draft *ret_draft)
{
	struct draft draft = { .keys = keys,
		.list = calloc(keys->count + 1, sizeof(*draft.list)),
		.changed = calloc(keys->count + 1, sizeof(*draft.changed)) };
	if (!draft.list || !draft.changed) {
		free(draft.list);
		free(draft.changed);
		return -ENOMEM;
	}
	if (keys->count > 0)
		memcpy(draft.list, keys->keys, keys->count * sizeof(*draft.list));
	*ret_draft = draft;
	return 0;
}

static void draft_free(struct draft *draft)
{
	for (unsigned i = 0; draft->changed && i < draft->keys->count; i++)
		if (draft->changed[i])
			key_free(&draft->list[i]);
	free(draft->list);
	free(draft->changed);
}

/* The draft's copy of `key`, to be changed; NULL: no memory. */
static struct key *draft_change(struct draft *draft, const struct key *key)
{
	unsigned i = (unsigned)(key - draft->keys->keys);
	struct key copy;
	if (!draft->changed[i]) {
		if (key_copy(key, &copy) < 0)
			return NULL;
		draft->list[i] = copy;
		draft->changed[i] = true;
	}
	return &draft->list[i];
}

/* In the file first, all of it or nothing. */
static int draft_commit(struct draft *draft, struct error *error)
{
	struct agent_keys *keys = draft->keys;
	int r = agent_keys_save(keys, draft->list, keys->count, error);
	for (unsigned i = 0; r == 0 && i < keys->count; i++) {
		if (!draft->changed[i])
			continue;
		key_free(&keys->keys[i]);
		keys->keys[i] = draft->list[i];
		draft->changed[i] = false;
	}
	return r;
}

/* No use by this machine, of whichever key, can be repeated. */
static int end_uses(struct draft *draft, const char *machine)
{
	for (unsigned i = 0; i < draft->keys->count; i++) {
		const struct key *key = &draft->keys->keys[i];
		for (unsigned j = 0; j < key->use_count; j++) {
			if (key->uses[j].ended || strcmp(key->uses[j].machine, machine) != 0)
				continue;
			struct key *changed = draft_change(draft, key);
			if (!changed)
				return -ENOMEM;
			changed->uses[j].ended = true;
		}
	}
	return 0;
}

int agent_keys_use(
	struct agent_keys *keys, const struct agent_keys_claim *claim, struct error *error)
{
	struct agent_keys_verdict verdict;
	struct key *key, *changed = NULL;
	SCOPED_LOCK(&keys->lock);
	CLEANUP(draft_free) struct draft draft = { 0 };
	int r = check(keys, claim, error, &key, &verdict);
	if (r < 0 || verdict.again)
		return r;
	r = draft_begin(keys, &draft);
	if (r == 0)
		r = end_uses(&draft, claim->machine);
	if (r == 0)
		changed = draft_change(&draft, key);
	if (!changed)
		return error_set(error, -ENOMEM, NULL, "out of memory");
	struct use *use = &changed->uses[changed->use_count++];
	snprintf(use->machine, sizeof(use->machine), "%s", claim->machine);
	hex_encode(claim->public_key, TLS_FINGERPRINT_BYTES, use->public_key);
	use->time_ns = clock_realtime_ns(keys->clock);
	return draft_commit(&draft, error);
}

/* ── revoking ────────────────────────────────────────────────────────────────────────────── */

int agent_keys_revoke(struct agent_keys *keys, const char *id, struct error *error)
{
	SCOPED_LOCK(&keys->lock);
	CLEANUP(draft_free) struct draft draft = { 0 };
	const struct key *key = find(keys, id);
	if (!key)
		return error_set(error, -ENOENT, "'landfall key list' shows what there is",
			"there is no registration key %.40s", id);
	if (key->revoked)
		return 0;
	struct key *changed = draft_begin(keys, &draft) == 0 ? draft_change(&draft, key) : NULL;
	if (!changed)
		return error_set(error, -ENOMEM, NULL, "out of memory");
	changed->revoked = true;
	for (unsigned i = 0; i < changed->use_count; i++)
		changed->uses[i].ended = true;
	return draft_commit(&draft, error);
}

static int revoke_bound(struct draft *draft, const char *machine)
{
	for (unsigned i = 0; i < draft->keys->count; i++) {
		const struct key *key = &draft->keys->keys[i];
		if (key->revoked || strcmp(key->machine, machine) != 0)
			continue;
		struct key *changed = draft_change(draft, key);
		if (!changed)
			return -ENOMEM;
		changed->revoked = true;
	}
	return 0;
}

static bool draft_is_empty(const struct draft *draft)
{
	for (unsigned i = 0; i < draft->keys->count; i++)
		if (draft->changed[i])
			return false;
	return true;
}

int agent_keys_forget_machine(struct agent_keys *keys, const char *machine, struct error *error)
{
	SCOPED_LOCK(&keys->lock);
	CLEANUP(draft_free) struct draft draft = { 0 };
	int r = draft_begin(keys, &draft);
	if (r == 0)
		r = revoke_bound(&draft, machine);
	if (r == 0)
		r = end_uses(&draft, machine);
	if (r < 0)
		return error_set(error, r, NULL, "out of memory");
	return draft_is_empty(&draft) ? 0 : draft_commit(&draft, error);
}

/* ── telling ─────────────────────────────────────────────────────────────────────────────── */

static const char *state_of(const struct key *key, int64_t now_ns)
{
	if (key->revoked)
		return "revoked";
	if (key->use_count >= key->max_uses)
		return "used";
	return now_ns >= key->expires_ns ? "expired" : "valid";
}

static int key_to_json(const struct key *key, int64_t now_ns, struct cJSON *object)
{
	int r = json_add_text(object, "id", key->id);
	if (r == 0 && key->machine[0])
		r = json_add_text(object, "machine", key->machine);
	else if (r == 0)
		r = cJSON_AddNullToObject(object, "machine") ? 0 : -ENOMEM;
	if (r == 0)
		r = json_add_text(object, "state", state_of(key, now_ns));
	if (r == 0)
		r = json_add_time(object, "created", key->created_ns);
	if (r == 0)
		r = json_add_time(object, "expires", key->expires_ns);
	if (r == 0)
		r = json_add_u64(object, "max_uses", key->max_uses);
	return r == 0 ? agent_keys_write_uses(object, key, false) : r;
}

int agent_keys_to_json(struct agent_keys *keys, struct cJSON **ret_list)
{
	CLEANUP(json_freep) struct cJSON *list = cJSON_CreateArray();
	struct cJSON *object;
	int64_t now = clock_realtime_ns(keys->clock);
	if (!list)
		return -ENOMEM;
	SCOPED_LOCK(&keys->lock);
	for (unsigned i = keys->count; i-- > 0;) {
		int r = json_add_object(list, NULL, &object);
		if (r == 0)
			r = key_to_json(&keys->keys[i], now, object);
		if (r < 0)
			return r;
	}
	*ret_list = TAKE(list);
	return 0;
}

int agent_keys_one_to_json(struct agent_keys *keys, const char *id, struct cJSON **ret_key)
{
	CLEANUP(json_freep) struct cJSON *object = NULL;
	int r = json_new_object(&object);
	if (r < 0)
		return r;
	SCOPED_LOCK(&keys->lock);
	const struct key *key = find(keys, id);
	if (!key)
		return -ENOENT;
	r = key_to_json(key, clock_realtime_ns(keys->clock), object);
	if (r == 0)
		*ret_key = TAKE(object);
	return r;
}
