/*
 * Where credentials come from, as a chain whose links each need the next: a role is assumed with
 * the keys of another role, which come from a profile or from the machine. Not for others than
 * credential.c.
 *
 * In this order (as AWS's tools; "Credentials" of the SDKs and Tools Reference Guide):
 *	1. AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY, AWS_SESSION_TOKEN; not if the caller names a
 *	   profile
 *	2. the profile: role_arn with source_profile, credential_source (Environment,
 *	   Ec2InstanceMetadata) or web_identity_token_file; aws_access_key_id
 *	3. AWS_WEB_IDENTITY_TOKEN_FILE with AWS_ROLE_ARN
 *	4. the machine's role, from its metadata service
 * A role that the caller names is assumed with what was found so.
 */
#pragma once

#include "ec2/ask.h"

struct ec2_source;

/* 0; -EINVAL with what is missing or runs in a circle; -EOPNOTSUPP for a way of getting
 * credentials that is not known here; -ENOMEM. `settings` is borrowed; fetches nothing. */
int ec2_source_new(const struct ec2_settings *settings, const char *role_arn,
	const char *external_id, struct ec2_source **ret_source, struct error *error);
/* Wipes; NULL is fine. */
void ec2_source_free(struct ec2_source *source);

/* Its keys stand in the environment: they never change. */
bool ec2_source_is_static(const struct ec2_source *source);
/* Its keys stand in a shared file, which may change. */
bool ec2_source_is_of_file(const struct ec2_source *source);

/* Fetches keys, and those of the next link if they are near their end. 0 or -errno. One thread at
 * a time. */
int ec2_source_fetch(struct ec2_source *source, struct ec2_asker *asker, struct ec2_keys *ret_keys,
	struct http_error *ret_error);
