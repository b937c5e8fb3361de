/*
 * The methods key.create, list, revoke.
 */
#include <errno.h>

#include <openssl/crypto.h>

#include "replicator/agents_internal.h"
#include "replicator/policy.h"
#include "replicator/registry_internal.h"

static int read_order(
	const struct cJSON *parameters, struct agent_keys_order *ret_order, struct error *error)
{
	static const char *const names[] = { "machine", "ttl", "uses", NULL };
	struct json root;
	const char *ttl = NULL;
	uint64_t uses = 1;
	int r = control_only(parameters, names, error);
	if (r == 0)
		r = parameter_text(parameters, "machine", false, error, &ret_order->machine);
	if (r == 0)
		r = parameter_text(parameters, "ttl", false, error, &ttl);
	if (r < 0)
		return r;
	ret_order->ttl_s = AGENT_KEYS_DEFAULT_TTL_S;
	if (ttl && duration_parse(ttl, &ret_order->ttl_s) < 0)
		return error_set(error, -EINVAL, "give e.g. 5d or 12h",
			"ttl: \"%.40s\" is no duration", ttl);
	json_root(parameters, "parameters", &root);
	if (json_find_u64(&root, "uses", &uses, NULL) < 0 || uses > AGENT_KEYS_MAX_USES)
		return error_set(error, -EINVAL, "leave it out for a key that holds once",
			"the parameter uses must be a number from 1 to %u", AGENT_KEYS_MAX_USES);
	ret_order->uses = (unsigned)uses;
	return 0;
}

static int key_result(
	struct agents *agents, const struct registration_key *key, struct cJSON **ret_result)
{
	CLEANUP(json_freep) struct cJSON *root = NULL;
	struct cJSON *object;
	char text[KEY_TEXT_BYTES];
	key_text_format(key, text);
	int r = agent_keys_one_to_json(agents->keys, key->id, &object);
	if (r == 0)
		r = result_wrap("key", object, &root);
	if (r == 0)
		r = json_add_text(root, "text", text);
	if (r == 0)
		*ret_result = TAKE(root);
	OPENSSL_cleanse(text, sizeof(text));
	return r;
}

static int method_create(void *context, struct control_peer *peer, const struct cJSON *parameters,
	struct error *error, struct cJSON **ret_result)
{
	struct agents *agents = context;
	struct agent_keys_order order = { 0 };
	struct registration_key key = { 0 };
	(void)peer;
	int r = read_order(parameters, &order, error);
	if (r == 0)
		r = agents_check(agents, error);
	if (r == 0)
		r = agent_keys_create(agents->keys, &order, error, &key);
	if (r == 0) {
		memcpy(key.authority, pki_authority_fingerprint(agents->pki),
			sizeof(key.authority));
		r = key_result(agents, &key, ret_result);
	}
	OPENSSL_cleanse(&key, sizeof(key));
	return r;
}

static int method_list(void *context, struct control_peer *peer, const struct cJSON *parameters,
	struct error *error, struct cJSON **ret_result)
{
	static const char *const names[] = { NULL };
	struct agents *agents = context;
	struct cJSON *list;
	(void)peer;
	int r = control_only(parameters, names, error);
	if (r == 0)
		r = agents_check(agents, error);
	if (r == 0)
		r = agent_keys_to_json(agents->keys, &list);
	return r == 0 ? result_wrap("keys", list, ret_result) : r;
}

/* The key first, so that nothing more is won with it, then what was won. */
static int method_revoke(void *context, struct control_peer *peer, const struct cJSON *parameters,
	struct error *error, struct cJSON **ret_result)
{
	static const char *const names[] = { "id", NULL };
	struct agents *agents = context;
	struct cJSON *key;
	const char *id;
	(void)peer;
	int r = control_only(parameters, names, error);
	if (r == 0)
		r = parameter_text(parameters, "id", true, error, &id);
	if (r == 0)
		r = agents_check(agents, error);
	if (r < 0)
		return r;
	SCOPED_LOCK(&agents->lock);
	r = agent_keys_revoke(agents->keys, id, error);
	if (r == 0) {
		r = pki_revoke_key(agents->pki, id, error);
		agents_recheck(agents, false);
	}
	if (r == 0)
		r = agent_keys_one_to_json(agents->keys, id, &key);
	return r == 0 ? result_wrap("key", key, ret_result) : r;
}

int agents_register(struct agents *agents, struct control *control)
{
	int r = control_register(control, "key.create", method_create, agents);
	if (r == 0)
		r = control_register(control, "key.list", method_list, agents);
	if (r == 0)
		r = control_register(control, "key.revoke", method_revoke, agents);
	return r;
}
