/*
 * See key_text.h. Base64url is common/base64 with two letters changed and the padding left out.
 */
#include "replicator/wire/key_text.h"

#include <assert.h>
#include <errno.h>
#include <stdio.h>
#include <string.h>

#include <openssl/crypto.h>

#include "common/base64.h"

#define PREFIX "landfall-1."
#define BLANKS " \t\r\n"
#define DIGITS "0123456789abcdef"
#define WORD_CHARACTERS 43 /* of 32 bytes */

static_assert(KEY_SECRET_BYTES == 32 && TLS_FINGERPRINT_BYTES == 32, "both are 43 characters");
static_assert(sizeof(PREFIX) - 1 + KEY_ID_BYTES + 2 * (WORD_CHARACTERS + 1) <= KEY_TEXT_BYTES,
	"a key's text fits");

void key_secret_format(
	const uint8_t secret[static KEY_SECRET_BYTES], char ret_text[static KEY_SECRET_TEXT_BYTES])
{
	char text[BASE64_TEXT_BYTES(KEY_SECRET_BYTES)];
	(void)base64_encode(secret, KEY_SECRET_BYTES, text);
	for (size_t i = 0; i < WORD_CHARACTERS; i++)
		ret_text[i] = text[i] == '+' ? '-' : text[i] == '/' ? '_' : text[i];
	ret_text[WORD_CHARACTERS] = '\0';
	OPENSSL_cleanse(text, sizeof(text));
}

/* 43 characters at `text`, whatever follows. */
static int parse_word(const char *text, uint8_t ret_data[static 32])
{
	char padded[WORD_CHARACTERS + 2];
	uint8_t data[BASE64_DATA_BYTES(WORD_CHARACTERS + 1)];
	size_t n = 0;
	for (size_t i = 0; i < WORD_CHARACTERS; i++) {
		char c = text[i];
		if (c == '+' || c == '/' || c == '=' || c == '\0')
			return -EINVAL;
		padded[i] = c == '-' ? '+' : c == '_' ? '/' : c;
	}
	strcpy(padded + WORD_CHARACTERS, "=");
	int r = base64_decode(padded, WORD_CHARACTERS + 1, data, &n);
	if (r == 0 && n != 32)
		r = -EINVAL;
	if (r == 0)
		memcpy(ret_data, data, 32);
	OPENSSL_cleanse(padded, sizeof(padded));
	OPENSSL_cleanse(data, sizeof(data));
	return r;
}

int key_secret_parse(const char *text, uint8_t ret_secret[static KEY_SECRET_BYTES])
{
	return strlen(text) == WORD_CHARACTERS ? parse_word(text, ret_secret) : -EINVAL;
}

int key_check_id(const char *id)
{
	return strlen(id) == KEY_ID_BYTES - 1 && strspn(id, DIGITS) == KEY_ID_BYTES - 1 ? 0
											: -EINVAL;
}

void key_text_format(const struct registration_key *key, char ret_text[static KEY_TEXT_BYTES])
{
	char secret[KEY_SECRET_TEXT_BYTES], authority[KEY_SECRET_TEXT_BYTES];
	key_secret_format(key->secret, secret);
	key_secret_format(key->authority, authority);
	snprintf(ret_text, KEY_TEXT_BYTES, PREFIX "%s.%s.%s", key->id, secret, authority);
	OPENSSL_cleanse(secret, sizeof(secret));
}

int key_text_parse(const char *text, struct registration_key *ret_key)
{
	const size_t id_bytes = KEY_ID_BYTES - 1;
	struct registration_key key = { 0 };
	text += strspn(text, BLANKS);
	size_t n = strcspn(text, BLANKS);
	if (text[n + strspn(text + n, BLANKS)] != '\0' ||
		n != strlen(PREFIX) + id_bytes + 2 * (WORD_CHARACTERS + 1) ||
		strncmp(text, PREFIX, strlen(PREFIX)) != 0)
		return -EINVAL;
	text += strlen(PREFIX);
	memcpy(key.id, text, id_bytes);
	text += id_bytes;
	if (key_check_id(key.id) < 0 || text[0] != '.' || text[WORD_CHARACTERS + 1] != '.')
		return -EINVAL;
	int r = parse_word(text + 1, key.secret);
	if (r == 0)
		r = parse_word(text + WORD_CHARACTERS + 2, key.authority);
	if (r == 0)
		*ret_key = key;
	OPENSSL_cleanse(&key, sizeof(key));
	return r;
}
