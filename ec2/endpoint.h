/*
 * Where AWS's services are: partitions, regions, FIPS and dual-stack endpoints.
 *
 * A partition is a separate AWS with regions, accounts and names of its own; a region's name says
 * which it is in. Sources: the partitions and endpoint rules that AWS publishes with its SDKs,
 * "Amazon EC2 service endpoints" and "EBS direct API endpoints" of the AWS General Reference.
 * Pure functions; any thread.
 */
#pragma once

#include <stdbool.h>

#include "common/buf.h"
#include "common/error.h"

enum ec2_service { EC2_SERVICE_EC2, EC2_SERVICE_EBS, EC2_SERVICE_STS, EC2_SERVICE_IMDS };
#define EC2_SERVICES 4

/* "ec2", "ebs", "sts": how a service stands in host names and signatures. */
const char *ec2_service_name(enum ec2_service service);

/* "aws", "aws-cn", "aws-us-gov", …: how the region's partition stands in ARNs. A region that is in
 * none of them is in "aws", so that one opened tomorrow works today. */
const char *ec2_partition(const char *region);

/* Whether it could be a region's name: 0, -EINVAL with words. */
int ec2_check_region(const char *region, struct error *error);

/* Appends the service's address there, without a slash at the end:
 * "https://ec2.eu-central-1.amazonaws.com". Not for EC2_SERVICE_IMDS, which is in every machine.
 * 0, -ENOMEM, or -EINVAL for what is no region's name. */
int ec2_endpoint(enum ec2_service service, const char *region, bool fips, bool dual_stack,
	struct buf *url, struct error *error);
