/*
 * The files that AWS's tools share: ~/.aws/config and ~/.aws/credentials, as "Shared config and
 * credentials files" of the AWS SDKs and Tools Reference Guide has them.
 *
 *	[default]                        config: [profile NAME], [services NAME]; others are passed
 *	region = eu-central-1            over. credentials: [NAME].
 *	services = mine
 *	# a comment; after a value only with a blank before it
 *	[services mine]
 *	ec2 =
 *	  endpoint_url = https://…       nested: indented below a key without a value
 *
 * Where both files know a key of a profile, credentials wins; within a file the last one does,
 * and [profile default] before [default]. Keys are compared without case, names with it. Reading
 * is of one thread, looking up of any.
 */
#pragma once

#include <stdbool.h>
#include <stddef.h>

#include "common/error.h"

struct ec2_profiles;

enum ec2_profile_file { EC2_PROFILE_CONFIG, EC2_PROFILE_CREDENTIALS };

/* Empty. 0 or -ENOMEM. */
int ec2_profiles_new(struct ec2_profiles **ret_profiles);
/* Wipes what it holds. NULL is fine. */
void ec2_profiles_free(struct ec2_profiles *profiles);

/* Adds a file's `n` bytes; `name` stands in errors. 0, -EINVAL with the line in `error`, -ENOMEM.
 */
int ec2_profiles_parse(struct ec2_profiles *profiles, enum ec2_profile_file file, const char *name,
	const char *text, size_t n, struct error *error);
/* Adds the file at `path`; one that is not there is empty. 0, as above, or what reading gave. */
int ec2_profiles_load(struct ec2_profiles *profiles, enum ec2_profile_file file, const char *path,
	struct error *error);

/* True if a file has a section for it. */
bool ec2_profiles_have(const struct ec2_profiles *profiles, const char *profile);
/* NULL: not set. As long as `profiles`. */
const char *ec2_profile_get(
	const struct ec2_profiles *profiles, const char *profile, const char *key);
/* A key nested below `service` in [services <name>]. */
const char *ec2_profile_get_service(const struct ec2_profiles *profiles, const char *name,
	const char *service, const char *key);
