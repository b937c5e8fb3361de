/*
 * Reading EC2's XML into the structs of instances.h, and the few calls that change an instance.
 */
#include "ec2/instances.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "common/bytes.h"
#include "common/cleanup.h"
#include "ec2/describe.h"

struct instance_walk {
	int (*each)(void *context, const struct ec2_instance *instance);
	void *context;
	struct ec2_scratch scratch;
};

struct volume_walk {
	int (*each)(void *context, const struct ec2_volume *volume);
	void *context;
	struct ec2_scratch scratch;
};

static void instance_walk_free(struct instance_walk *walk)
{
	ec2_scratch_free(&walk->scratch);
}

static void volume_walk_free(struct volume_walk *walk)
{
	ec2_scratch_free(&walk->scratch);
}

static int read_attachments(struct ec2_scratch *s, const struct xml_node *item)
{
	const char *root = ec2_text(item, "rootDeviceName");
	s->volume_count = 0;
	for (const struct xml_node *n = xml_find(item, "blockDeviceMapping/item"); n;
		n = xml_next(n)) {
		const char *id = xml_text(n, "ebs/volumeId");
		if (!id)
			continue; /* an instance store */
		struct ec2_attachment *volumes =
			reallocarray(s->volumes, s->volume_count + 1, sizeof(s->volumes[0]));
		if (!volumes)
			return -ENOMEM;
		s->volumes = volumes;
		const char *device = ec2_text(n, "deviceName");
		volumes[s->volume_count++] =
			(struct ec2_attachment){ id, device, strcmp(device, root) == 0 };
	}
	return 0;
}

static int tell_instance(struct instance_walk *w, const struct xml_node *item)
{
	struct ec2_scratch *s = &w->scratch;
	int r = ec2_read_tags(s, item);
	if (r == 0)
		r = read_attachments(s, item);
	if (r < 0)
		return r;
	const char *name = ec2_tag_find(s->tags, s->tag_count, "Name");
	const char *boots = xml_text(item, "currentInstanceBootMode");
	struct ec2_instance instance = { .id = ec2_text(item, "instanceId"),
		.name = name ? name : "",
		.state = ec2_text(item, "instanceState/name"),
		.type = ec2_text(item, "instanceType"),
		.platform = ec2_text(item, "platform"),
		.platform_details = ec2_text(item, "platformDetails"),
		.architecture = ec2_text(item, "architecture"),
		.boot_mode = boots ? boots : ec2_text(item, "bootMode"),
		.private_ip = ec2_text(item, "privateIpAddress"),
		.zone = ec2_text(item, "placement/availabilityZone"),
		.vpc_id = ec2_text(item, "vpcId"),
		.subnet_id = ec2_text(item, "subnetId"),
		.volumes = s->volumes,
		.volume_count = s->volume_count,
		.tags = s->tags,
		.tag_count = s->tag_count };
	if (!instance.id[0] || !instance.state[0])
		return -EBADMSG;
	return w->each(w->context, &instance);
}

/* Instances come in reservations. */
static int walk_reservation(void *context, const struct xml_node *item)
{
	int r = 0;
	for (const struct xml_node *n = xml_find(item, "instancesSet/item"); r == 0 && n;
		n = xml_next(n))
		r = tell_instance(context, n);
	return r;
}

int ec2_describe_instances(struct ec2 *client, const struct ec2_query *query,
	int (*each)(void *context, const struct ec2_instance *instance), void *context,
	struct http_error *error)
{
	CLEANUP(instance_walk_free)
	struct instance_walk walk = { .each = each, .context = context };
	const struct ec2_describing what = { .action = "DescribeInstances",
		.id_name = "InstanceId",
		.items = "reservationSet/item",
		.item = walk_reservation,
		.walk = &walk };
	return ec2_describe(client, &what, query, error);
}

static int walk_volume(void *context, const struct xml_node *item)
{
	struct volume_walk *w = context;
	uint64_t gib;
	int r = ec2_read_tags(&w->scratch, item);
	if (r < 0)
		return r;
	const char *encrypted = ec2_text(item, "encrypted");
	const struct xml_node *attached = xml_find(item, "attachmentSet/item");
	struct ec2_volume volume = { .id = ec2_text(item, "volumeId"),
		.type = ec2_text(item, "volumeType"),
		.state = ec2_text(item, "status"),
		.instance_id = ec2_text(attached, "instanceId"),
		.device = ec2_text(attached, "device"),
		.zone = ec2_text(item, "availabilityZone"),
		.encrypted = strcmp(encrypted, "true") == 0,
		.tags = w->scratch.tags,
		.tag_count = w->scratch.tag_count };
	if (!volume.id[0] || xml_u64(item, "size", &gib) < 0 || gib > UINT64_MAX / GIB)
		return -EBADMSG;
	volume.size_bytes = gib * GIB;
	return w->each(w->context, &volume);
}

int ec2_describe_volumes(struct ec2 *client, const struct ec2_query *query,
	int (*each)(void *context, const struct ec2_volume *volume), void *context,
	struct http_error *error)
{
	CLEANUP(volume_walk_free)
	struct volume_walk walk = { .each = each, .context = context };
	const struct ec2_describing what = { .action = "DescribeVolumes",
		.id_name = "VolumeId",
		.items = "volumeSet/item",
		.item = walk_volume,
		.walk = &walk };
	return ec2_describe(client, &what, query, error);
}

int ec2_is_stop_protected(
	struct ec2 *client, const char *instance_id, bool *ret_protected, struct http_error *error)
{
	CLEANUP(ec2_request_free) struct ec2_request request = { 0 };
	ec2_call_begin_action(client, &request, "DescribeInstanceAttribute", HTTP_READS);
	ec2_call_field(&request, "InstanceId", instance_id);
	ec2_call_field(&request, "Attribute", "disableApiStop");
	int r = http_call_perform(&request.call, error);
	if (r < 0)
		return r;
	const char *value = xml_text(ec2_call_answer(&request), "disableApiStop/value");
	if (!value)
		return http_call_bad_answer(
			&request.call, error, "the answer does not say disableApiStop");
	*ret_protected = strcmp(value, "true") == 0;
	return 0;
}

static int change(struct ec2 *client, const char *action, const char *items,
	const char *instance_id, bool force, struct http_error *error)
{
	CLEANUP(ec2_request_free) struct ec2_request request = { 0 };
	ec2_call_begin_action(client, &request, action, HTTP_REPEATABLE);
	ec2_call_field(&request, "InstanceId.1", instance_id);
	ec2_call_field(&request, "Force", force ? "true" : NULL);
	int r = http_call_perform(&request.call, error);
	if (r < 0)
		return r;
	const char *id = xml_text(xml_find(ec2_call_answer(&request), items), "instanceId");
	if (!id || strcmp(id, instance_id) != 0)
		return http_call_bad_answer(
			&request.call, error, "the answer is not about this instance");
	return 0;
}

int ec2_stop_instance(
	struct ec2 *client, const char *instance_id, bool force, struct http_error *error)
{
	return change(client, "StopInstances", "instancesSet/item", instance_id, force, error);
}

int ec2_start_instance(struct ec2 *client, const char *instance_id, struct http_error *error)
{
	return change(client, "StartInstances", "instancesSet/item", instance_id, false, error);
}
