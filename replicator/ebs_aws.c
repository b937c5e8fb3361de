/*
 * Regions and clients. Settings are read when the first machine of a region needs them, and once:
 * keys are renewed by credential.h, whatever file or service they come from.
 */
#include <errno.h>

#include "replicator/ebs_internal.h"

static void free_region(struct ebs_region *region)
{
	ec2_credential_free(region->credential);
	ec2_settings_free(region->settings);
	ec2_limiter_free(region->limiter);
	free(region);
}

void ebs_free_regions(struct ebs *ebs)
{
	while (ebs->regions) {
		struct ebs_region *region = ebs->regions;
		ebs->regions = region->next;
		free_region(region);
	}
}

static int load_settings(
	struct ebs *ebs, const char *name, struct ebs_region *region, struct error *error)
{
	const struct http_options http = { .stop = { &ebs->stop } };
	struct ec2_settings_options options = { .profile = ebs->profile, .region = name };
	for (unsigned i = 0; i < EC2_SERVICES; i++)
		options.endpoints[i] = ebs->endpoints[i];
	int r = ec2_settings_load(&options, &region->settings, error);
	if (r == 0)
		r = ec2_settings_find_region(region->settings, &http, error);
	if (r == 0 && strlen(region->settings->region) >= sizeof(region->name))
		r = error_set(error, -EINVAL, "give a region's name, such as eu-west-1",
			"'%.80s' is no region", region->settings->region);
	if (r == 0)
		snprintf(region->name, sizeof(region->name), "%s", region->settings->region);
	return r;
}

static int make_region(
	struct ebs *ebs, const char *name, struct error *error, struct ebs_region **ret_region)
{
	struct ebs_region *region = calloc(1, sizeof(*region));
	if (!region)
		return error_set(error, -ENOMEM, NULL, "out of memory");
	int r = load_settings(ebs, name, region, error);
	if (r == 0) {
		const struct ec2_credential_options options = { .settings = region->settings,
			.role_arn = ebs->role_arn,
			.external_id = ebs->external_id,
			.http = { .stop = { &ebs->stop } } };
		r = ec2_credential_new(&options, clock_system(), &region->credential, error);
	}
	if (r == 0 && ec2_limiter_new(clock_system(), ebs->rates, &region->limiter) < 0)
		r = error_set(error, -ENOMEM, NULL, "out of memory");
	if (r < 0) {
		free_region(region);
		return r;
	}
	*ret_region = region;
	return 0;
}

static struct ebs_region *find_region(struct ebs *ebs, const char *name)
{
	struct ebs_region *region = ebs->regions;
	while (region && strcmp(region->name, name) != 0)
		region = region->next;
	return region;
}

int ebs_open_region(
	struct ebs *ebs, const char *name, struct error *error, struct ebs_region **ret_region)
{
	const char *wanted = name ? name : ebs->region;
	SCOPED_LOCK(&ebs->opening);
	struct ebs_region *region = wanted ? find_region(ebs, wanted) : NULL, *there;
	if (!region) {
		int r = make_region(ebs, wanted, error, &region);
		if (r < 0)
			return r;
		/* Nobody named it, and it turned out to be a known one. */
		there = find_region(ebs, region->name);
		if (there) {
			free_region(region);
			region = there;
		} else {
			region->next = ebs->regions;
			ebs->regions = region;
		}
	}
	*ret_region = region;
	return 0;
}

/* The policy's agent-bandwidth, of this hour. Blocks are asked for while the group is held. */
static int64_t pace(void *context, uint64_t bytes)
{
	struct ebs_worker *w = context;
	uint64_t rate = w->hold.group ? group_agent_bandwidth(w->hold.group) : 0;
	if (!w->bandwidth.clock)
		token_bucket_init(&w->bandwidth, clock_system(), rate, 1);
	token_bucket_set_rate(&w->bandwidth, rate, rate > 0 ? MAX(rate / 4, 1ull) : 1);
	return token_bucket_reserve(&w->bandwidth, bytes);
}

int ebs_open_client(struct ebs *ebs, const char *name, const atomic_bool *stop,
	const atomic_bool *other, struct ebs_worker *paced, struct error *error,
	struct ec2 **ret_client)
{
	struct ebs_region *region;
	int r = ebs_open_region(ebs, name, error, &region);
	if (r < 0)
		return r;
	const struct ec2_options options = { .settings = region->settings,
		.credential = region->credential,
		.limiter = region->limiter,
		.pace = paced ? pace : NULL,
		.pace_context = paced,
		.http = { .stall_timeout_ms = 30000, .stop = { stop, other } } };
	return ec2_new(&options, ret_client, error);
}
