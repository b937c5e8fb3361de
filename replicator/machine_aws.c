/*
 * What of a machine is in AWS: which instance, where, and which volume each disk is. It stands in
 * state/registry.json, and in the vault's owner.json so that an appliance that takes over knows it.
 *
 *	"aws": {"instance", "region", "volumes": {"<disk>": "vol-…", …}, "left_out": ["vol-…", …]}
 *
 * Pure functions.
 */
#include <errno.h>

#include "replicator/registry_internal.h"
#include "replicator/sealed_json.h"

int machine_aws_to_json(const struct machine_entry *machine, struct cJSON *object)
{
	struct cJSON *aws, *volumes, *left_out;
	if (machine->instance[0] == '\0')
		return 0;
	int r = json_add_object(object, "aws", &aws);
	if (r == 0)
		r = json_add_text(aws, "instance", machine->instance);
	if (r == 0)
		r = json_add_text(aws, "region", machine->region);
	if (r == 0)
		r = json_add_object(aws, "volumes", &volumes);
	for (unsigned i = 0; r == 0 && i < machine->disk_count; i++)
		r = json_add_text(volumes, machine->disks[i].id, machine->disks[i].volume);
	if (r == 0)
		r = json_add_array(aws, "left_out", &left_out);
	for (unsigned i = 0; r == 0 && i < machine->left_out.count; i++)
		r = json_add_text(left_out, NULL, machine->left_out.ids[i]);
	return r;
}

bool machine_leaves_out(const struct machine_left_out *left_out, const char *volume)
{
	for (unsigned i = 0; i < left_out->count; i++)
		if (strcmp(left_out->ids[i], volume) == 0)
			return true;
	return false;
}

int machine_leave_out(struct machine_left_out *left_out, const char *volume, struct error *error)
{
	if (machine_leaves_out(left_out, volume))
		return 0;
	if (left_out->count == MACHINE_LEFT_OUT_MAX || strlen(volume) >= REGISTRY_AWS_BYTES)
		return error_set(error, -E2BIG, NULL,
			"volume %.40s: %u volumes are left out already", volume, left_out->count);
	snprintf(left_out->ids[left_out->count++], REGISTRY_AWS_BYTES, "%s", volume);
	return 0;
}

static int copy_id(const struct json *at, const char *name, char ret[static REGISTRY_AWS_BYTES],
	struct error *error)
{
	int r = json_copy_text(at, name, REGISTRY_AWS_BYTES, ret, error);
	if (r == 0 && ret[0] == '\0')
		r = json_error(at, -EBADMSG, error, "%s is empty", name);
	return r;
}

/* It may be absent. */
static int read_left_out(
	const struct json *aws, struct machine_left_out *left_out, struct error *error)
{
	struct json list;
	const char *id;
	int there = json_find_array(aws, "left_out", &list, error), r = MIN(there, 0);
	for (struct json item = { 0 }; r == 0 && there > 0 && json_each(&list, &item);) {
		r = json_as_text(&item, &id, error);
		if (r == 0)
			r = machine_leave_out(left_out, id, error);
	}
	return r;
}

int machine_aws_from_json(
	const struct json *at, struct machine_request *request, struct error *error)
{
	struct json aws, volumes;
	if (strcmp(request->source, "ebs") != 0)
		return 0;
	int r = json_get_object(at, "aws", &aws, error);
	if (r == 0)
		r = copy_id(&aws, "instance", request->instance, error);
	if (r == 0)
		r = copy_id(&aws, "region", request->region, error);
	if (r == 0)
		r = json_get_object(&aws, "volumes", &volumes, error);
	for (unsigned i = 0; r == 0 && i < request->disk_count; i++)
		r = copy_id(&volumes, request->disks[i].id, request->disks[i].volume, error);
	return r == 0 ? read_left_out(&aws, &request->left_out, error) : r;
}
