/*
 * The chain of HMACs, and the few keys that are kept. A kept key is found by all it was made from,
 * the secret included, so rotated credentials never meet an old key. Everything secret is wiped
 * before it is let go of or overwritten.
 *
 * No state but the caller's struct ec2_sigv4_keys; no locks.
 */
#include "ec2/sigv4_key.h"

#include <errno.h>
#include <stdbool.h>
#include <string.h>

#include "common/buf.h"
#include "common/bytes.h"

void ec2_sigv4_keys_wipe(struct ec2_sigv4_keys *keys)
{
	explicit_bzero(keys, sizeof(*keys));
}

static bool is_label(const char *text)
{
	return *text && !text[strspn(text, "abcdefghijklmnopqrstuvwxyz0123456789-")];
}

/* The chain of HMACs, each the key of the next. */
static int derive(const char *secret, const char *date, const struct ec2_sigv4_target *target,
	uint8_t ret_key[static SHA256_BYTES])
{
	const char *const steps[] = { date, target->region, target->service, EC2_SIGV4_TERMINATOR };
	uint8_t key[SHA256_BYTES];
	struct buf first = { 0 };
	int r = buf_printf(&first, "AWS4%s", secret);
	if (r < 0)
		return r;
	r = hmac_sha256(first.data, first.len, steps[0], strlen(steps[0]), key);
	explicit_bzero(first.data, first.len);
	buf_free(&first);
	for (size_t i = 1; r == 0 && i < ARRAY_SIZE(steps); i++)
		r = hmac_sha256(key, sizeof(key), steps[i], strlen(steps[i]), key);
	if (r == 0)
		memcpy(ret_key, key, sizeof(key));
	explicit_bzero(key, sizeof(key));
	return r;
}

static bool is_key_of(const struct ec2_sigv4_key *key, const char *secret, const char *date,
	const struct ec2_sigv4_target *target)
{
	return strcmp(key->date, date) == 0 && strcmp(key->service, target->service) == 0 &&
	       strcmp(key->region, target->region) == 0 && strcmp(key->secret, secret) == 0;
}

int ec2_sigv4_signing_key(struct ec2_sigv4_keys *keys, const char *secret, const char *date,
	const struct ec2_sigv4_target *target, uint8_t ret_key[static SHA256_BYTES])
{
	if (!*secret || strlen(date) != 8 || strspn(date, "0123456789") != 8 ||
		!is_label(target->region) || !is_label(target->service))
		return -EINVAL;
	for (size_t i = 0; keys && i < EC2_SIGV4_KEYS; i++) {
		if (is_key_of(&keys->items[i], secret, date, target)) {
			memcpy(ret_key, keys->items[i].key, SHA256_BYTES);
			return 0;
		}
	}
	int r = derive(secret, date, target, ret_key);
	if (r < 0 || !keys)
		return r;
	struct ec2_sigv4_key *slot = &keys->items[keys->next];
	if (strlen(secret) >= sizeof(slot->secret) ||
		strlen(target->region) >= sizeof(slot->region) ||
		strlen(target->service) >= sizeof(slot->service))
		return 0;
	keys->next = (keys->next + 1) % EC2_SIGV4_KEYS;
	explicit_bzero(slot, sizeof(*slot));
	strcpy(slot->secret, secret);
	strcpy(slot->date, date);
	strcpy(slot->region, target->region);
	strcpy(slot->service, target->service);
	memcpy(slot->key, ret_key, SHA256_BYTES);
	return 0;
}
