/*
 * What the policy asks of an agent: told when its session begins, and whenever the hour or the
 * policy makes it another.
 *
 * By the thread that receives on the session's first connection, which comes by at least once a
 * second: a limit holds within a second of its hour.
 */
#include <errno.h>
#include <inttypes.h>

#include "common/log.h"
#include "replicator/ingest_internal.h"

static int send_settings(struct ingest_link *link, uint64_t bytes_per_s, struct error *error)
{
	CLEANUP(json_freep) struct cJSON *json = NULL;
	int r = json_new_object(&json);
	if (r == 0)
		r = json_add_text(json, "type", "settings");
	if (r == 0)
		r = json_add_u64(json, "bandwidth_bytes_per_s", bytes_per_s);
	if (r < 0)
		return error_set(error, r, NULL, "out of memory");
	return connection_send_control(link->connection, json, NULL, error);
}

int ingest_tell_settings(struct ingest_link *link, struct error *error)
{
	struct ingest_settings *told = &link->session->settings;
	int64_t now = clock_monotonic_ns(clock_system());
	if (told->told && now < told->look_ns)
		return 0;
	told->look_ns = now + NS_PER_S;
	uint64_t bytes_per_s = group_agent_bandwidth(link->hold.group);
	if (told->told && told->bytes_per_s == bytes_per_s)
		return 0;
	int r = send_settings(link, bytes_per_s, error);
	if (r < 0)
		return r;
	if (bytes_per_s > 0)
		log_info("machine %s: its agent may send %" PRIu64 " KiB a second now",
			link->session->machine->name, bytes_per_s / 1024);
	else if (told->told)
		log_info("machine %s: its agent may send as fast as it can now",
			link->session->machine->name);
	told->told = true;
	told->bytes_per_s = bytes_per_s;
	return 0;
}
