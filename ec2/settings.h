/*
 * What the environment, the shared files and the caller say about reaching AWS: which profile,
 * region and endpoints. Who may ask is credential.h's business.
 *
 * The caller's word comes first, then the environment, then the profile:
 *	profile     AWS_PROFILE, AWS_DEFAULT_PROFILE, "default"
 *	files       AWS_CONFIG_FILE, AWS_SHARED_CREDENTIALS_FILE; in ~/.aws
 *	region      AWS_REGION, AWS_DEFAULT_REGION, region; else ec2_settings_find_region
 *	endpoints   AWS_ENDPOINT_URL_EC2, _EBS, _STS; AWS_ENDPOINT_URL; in the profile's services
 *	            section endpoint_url below ec2, ebs, sts; endpoint_url. Of the metadata service
 *	            AWS_EC2_METADATA_SERVICE_ENDPOINT, or _MODE=IPv6
 *	            AWS_IGNORE_CONFIGURED_ENDPOINT_URLS=true: none but the caller's
 *	FIPS        AWS_USE_FIPS_ENDPOINT, use_fips_endpoint
 *	dual stack  AWS_USE_DUALSTACK_ENDPOINT, use_dualstack_endpoint
 *	CA bundle   AWS_CA_BUNDLE, ca_bundle
 * Sources: "Configuration and authentication settings reference" of the AWS SDKs and Tools
 * Reference Guide.
 */
#pragma once

#include <stdbool.h>

#include "common/buf.h"
#include "common/error.h"
#include "common/http.h"
#include "ec2/endpoint.h"
#include "ec2/profile.h"

/* Zeroed: as the environment says. Strings are copied. */
struct ec2_settings_options {
	const char *profile;
	const char *region;
	const char *endpoints[EC2_SERVICES];
};

/* Owned. Read only once it is complete; any thread then. */
struct ec2_settings {
	char *profile;
	bool profile_was_named;        /* by the caller */
	char *region;                  /* NULL: nobody says */
	char *endpoints[EC2_SERVICES]; /* NULL: the region's own */
	bool fips;
	bool dual_stack;
	bool imds_disabled; /* AWS_EC2_METADATA_DISABLED=true */
	char *ca_file;      /* NULL: the system's */
	uint64_t stamp;     /* ec2_settings_stamp, before the files were read */
	struct ec2_profiles *profiles;
};

/* 0; -EINVAL for a file that cannot be understood, a profile that was asked for and is not there,
 * an endpoint that is no URL; what reading the files gave; -ENOMEM. */
int ec2_settings_load(const struct ec2_settings_options *options,
	struct ec2_settings **ret_settings, struct error *error);
/* NULL is fine. */
void ec2_settings_free(struct ec2_settings *settings);

/* A number that changes when one of the shared files does. Any thread. */
uint64_t ec2_settings_stamp(void);

/* Without a region, asks the machine's metadata service for its own. 0, or what asking gave. */
int ec2_settings_find_region(
	struct ec2_settings *settings, const struct http_options *http, struct error *error);

/* Appends where a service is: the override, or the region's endpoint (-EINVAL without a region). */
int ec2_settings_endpoint(const struct ec2_settings *settings, enum ec2_service service,
	struct buf *url, struct error *error);
