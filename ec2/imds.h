/*
 * The machine's own metadata service, version 2: a session token first, then what one wants to
 * know with it ("Use the Instance Metadata Service to access instance metadata" of the EC2 User
 * Guide). Version 1 is never asked. Never by proxy.
 */
#pragma once

#include "ec2/ask.h"

/* Credentials of the role that the machine has. `token` is the session's, owned, kept for the next
 * time; NULL at first. 0; -ENOENT: no service, or no role; else -errno, all told in `ret_error`. */
int ec2_imds_get_keys(struct ec2_asker *asker, char **token, struct ec2_keys *ret_keys,
	struct http_error *ret_error);

/* The region the machine is in, owned by the caller. 0; -ENOENT: there is no such service here;
 * else -errno. */
int ec2_imds_find_region(const struct ec2_settings *settings, const struct http_options *http,
	char **ret_region, struct error *error);
