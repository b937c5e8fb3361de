/*
 * A registration key as people carry it: one word to be pasted.
 *
 *	landfall-1.<id>.<secret>.<fingerprint>
 *
 * id: 12 hexadecimal digits, no secret, by which the appliance's lists name it. secret: 32 random
 * bytes. fingerprint: SHA-256 of the public key of the appliance's authority. The last two in
 * base64url without padding (RFC 4648, section 5).
 *
 * Any thread; nothing is kept.
 */
#pragma once

#include <stdint.h>

#include "replicator/wire/tls.h"

#define KEY_ID_BYTES 13 /* with a NUL */
#define KEY_SECRET_BYTES 32
#define KEY_SECRET_TEXT_BYTES 44 /* 43 characters and a NUL */
#define KEY_TEXT_BYTES 120

struct registration_key {
	char id[KEY_ID_BYTES];
	uint8_t secret[KEY_SECRET_BYTES]; /* wiped by whoever holds it */
	uint8_t authority[TLS_FINGERPRINT_BYTES];
};

void key_text_format(const struct registration_key *key, char ret_text[static KEY_TEXT_BYTES]);
/* Blanks and line ends around it are forgiven, nothing else. 0 or -EINVAL. */
int key_text_parse(const char *text, struct registration_key *ret_key);

/* The secret alone, as `enroll` carries it: 43 characters and a NUL; and back: 0 or -EINVAL. */
void key_secret_format(
	const uint8_t secret[static KEY_SECRET_BYTES], char ret_text[static KEY_SECRET_TEXT_BYTES]);
int key_secret_parse(const char *text, uint8_t ret_secret[static KEY_SECRET_BYTES]);
/* Twelve hexadecimal digits. */
int key_check_id(const char *id);
