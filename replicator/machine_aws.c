/*
 * What of a machine is in AWS: which instance, where, and which volume each disk is. It stands in
 * state/registry.json, and in the vault's owner.json so that an appliance that takes over knows it.
 *
 *	"aws": {"instance", "region", "volumes": {"<disk>": "vol-…", …}}
 *
 * Pure functions.
 */
#include <errno.h>

#include "replicator/registry_internal.h"
#include "replicator/sealed_json.h"

int machine_aws_to_json(const struct machine_entry *machine, struct cJSON *object)
{
	struct cJSON *aws, *volumes;
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
	return r;
}

static int copy_id(const struct json *at, const char *name, char ret[static REGISTRY_AWS_BYTES],
	struct error *error)
{
	int r = json_copy_text(at, name, REGISTRY_AWS_BYTES, ret, error);
	if (r == 0 && ret[0] == '\0')
		r = json_error(at, -EBADMSG, error, "%s is empty", name);
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
	return r;
}
