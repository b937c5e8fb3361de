/*
 * Signing keys of AWS Signature Version 4: derived from a secret, a day, a region and a service
 * ("Create a signed AWS API request", step 4, of the IAM User Guide), and kept for the next
 * request. Pure functions.
 */
#pragma once

#include <stdint.h>

#include "common/hmac.h"

#define EC2_SIGV4_TERMINATOR "aws4_request" /* what every scope ends with */

/* Whom the signature is for: "eu-central-1" and "ebs". Lower case letters, digits, hyphens. */
struct ec2_sigv4_target {
	const char *region;
	const char *service;
};

#define EC2_SIGV4_DATE_BYTES 9 /* 20261122 and a NUL */
#define EC2_SIGV4_KEYS 4u      /* ec2, ebs and sts, and one for the turn of the day */

/* A signing key and what it was made from. */
struct ec2_sigv4_key {
	char secret[128];
	char date[EC2_SIGV4_DATE_BYTES];
	char region[64];
	char service[32];
	uint8_t key[SHA256_BYTES];
};

/* The last few signing keys, so that a request costs one HMAC instead of five. Zeroed is empty.
 * Belongs to one thread. Holds secrets: wipe it when done with. */
struct ec2_sigv4_keys {
	struct ec2_sigv4_key items[EC2_SIGV4_KEYS];
	unsigned next; /* the one that is replaced next */
};

void ec2_sigv4_keys_wipe(struct ec2_sigv4_keys *keys);

/* The signing key of `secret` for `date` ("20261122") and `target`, from `keys` (NULL: made anew)
 * if it is there. What is too long for a slot of `keys` is not kept. 0, -EINVAL for an empty
 * secret, a date, region or service that is none, -EIO as hmac_sha256, -ENOMEM. */
int ec2_sigv4_signing_key(struct ec2_sigv4_keys *keys, const char *secret, const char *date,
	const struct ec2_sigv4_target *target, uint8_t ret_key[static SHA256_BYTES]);
