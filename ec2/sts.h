/*
 * Credentials for a role: AssumeRole with other credentials, AssumeRoleWithWebIdentity with a
 * token that somebody else vouches with (AWS STS API Reference, version 2011-06-15). Not for
 * others than source.c.
 */
#pragma once

#include "ec2/ask.h"

/* Borrowed. */
struct ec2_role {
	const char *arn;
	const char *session_name;
	const char *external_id;       /* NULL: none */
	const char *web_identity_file; /* the token, read anew each time; NULL: AssumeRole */
	unsigned duration_s;           /* 0: as the role says, an hour */
};

/* `keys` sign it; NULL with a web identity, which is not signed. 0 or -errno. */
int ec2_sts_assume(struct ec2_asker *asker, const struct ec2_role *role,
	const struct ec2_keys *keys, struct ec2_keys *ret_keys, struct http_error *ret_error);
