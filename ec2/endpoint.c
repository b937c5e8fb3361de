/*
 * One table of partitions, and one exception to the rule "<service>[-fips].<region>.<suffix>":
 * in AWS GovCloud (US) the ordinary endpoints of EC2 and STS are FIPS endpoints, and have no
 * other name.
 */
#include "ec2/endpoint.h"

#include <errno.h>
#include <string.h>

#include "common/bytes.h"

struct partition {
	const char *name;
	const char *prefix; /* of its regions' names */
	const char *suffix; /* of its hosts' names */
	const char *dual_stack_suffix;
};

/* The longer prefix first where one begins with another. */
static const struct partition partitions[] = {
	{ "aws-cn", "cn-", "amazonaws.com.cn", "api.amazonwebservices.com.cn" },
	{ "aws-us-gov", "us-gov-", "amazonaws.com", "api.aws" },
	{ "aws-iso-b", "us-isob-", "sc2s.sgov.gov", "api.aws.scloud" },
	{ "aws-iso-f", "us-isof-", "csp.hci.ic.gov", "api.aws.hci.ic.gov" },
	{ "aws-iso", "us-iso-", "c2s.ic.gov", "api.aws.ic.gov" },
	{ "aws-iso-e", "eu-isoe-", "cloud.adc-e.uk", "api.cloud-aws.adc-e.uk" },
	{ "aws-eusc", "eusc-", "amazonaws.eu", "api.amazonwebservices.eu" },
	{ "aws", "", "amazonaws.com", "api.aws" },
};

const char *ec2_service_name(enum ec2_service service)
{
	static const char *const names[EC2_SERVICES] = { "ec2", "ebs", "sts", "imds" };
	return names[service];
}

static const struct partition *partition_of(const char *region)
{
	size_t i = 0;
	while (strncmp(region, partitions[i].prefix, strlen(partitions[i].prefix)) != 0)
		i++; /* ends at the empty prefix */
	return &partitions[i];
}

const char *ec2_partition(const char *region)
{
	return partition_of(region)->name;
}

int ec2_check_region(const char *region, struct error *error)
{
	size_t n = strlen(region);
	if (n == 0 || n > 63 || region[0] == '-' || region[n - 1] == '-' ||
		strspn(region, "abcdefghijklmnopqrstuvwxyz0123456789-") != n)
		return error_set(error, -EINVAL, "a region is named like eu-central-1",
			"'%.80s' is not a region of AWS", region);
	return 0;
}

int ec2_endpoint(enum ec2_service service, const char *region, bool fips, bool dual_stack,
	struct buf *url, struct error *error)
{
	int r = ec2_check_region(region, error);
	if (r < 0)
		return r;
	const struct partition *p = partition_of(region);
	bool fips_already =
		strcmp(p->name, "aws-us-gov") == 0 && service != EC2_SERVICE_EBS && !dual_stack;
	r = buf_printf(url, "https://%s%s.%s.%s", ec2_service_name(service),
		fips && !fips_already ? "-fips" : "", region,
		dual_stack ? p->dual_stack_suffix : p->suffix);
	return r < 0 ? error_set(error, r, NULL, "out of memory") : 0;
}
