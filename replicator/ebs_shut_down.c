/*
 * Stopping a machine's instance for its last point: once it stands still nothing is written any
 * more, so the set that is made then has everything.
 *
 * Each step may be repeated: stopping what is stopped is done already, and another last point
 * shows the same.
 */
#include <errno.h>

#include "common/log.h"
#include "ec2/instances.h"
#include "replicator/ebs_internal.h"

#define LOOK_NS (2 * NS_PER_S)
#define STOP_NS (15 * 60 * NS_PER_S) /* a guest may take its time */
#define REQUEST_MS 1000u
#define TROUBLE_NS (30 * NS_PER_S) /* so long fetching may fail before it is given up */

struct stopping {
	struct ebs *ebs;
	const char *machine;
	const atomic_bool *stop;
	struct ebs_spec spec;
	struct ec2 *client;
};

static int note_state(void *context, const struct ec2_instance *instance)
{
	snprintf(context, 32, "%.31s", instance->state);
	return 0;
}

static bool is_told_to_stop(const struct stopping *s)
{
	return atomic_load(&s->ebs->stop) || (s->stop && atomic_load(s->stop));
}

static int stop_instance(struct stopping *s, struct error *error)
{
	struct http_error said = { 0 };
	char what[REGISTRY_AWS_BYTES + 32];
	bool is_protected = false;
	snprintf(what, sizeof(what), "stopping %s", s->spec.instance);
	int r = ec2_is_stop_protected(s->client, s->spec.instance, &is_protected, &said);
	if (r == 0 && is_protected)
		return error_set(error, -EPERM,
			"switch its stop protection (disableApiStop) off, or stop it by hand",
			"instance %s is protected against being stopped", s->spec.instance);
	/* Who may not ask for the attribute may be allowed to stop it all the same. */
	if (r == 0 || r == -EACCES)
		r = ec2_stop_instance(s->client, s->spec.instance, false, &said);
	return r < 0 ? ec2_error_tell(&said, what, error) : 0;
}

static int wait_until_stopped(struct stopping *s, struct error *error)
{
	const char *ids[] = { s->spec.instance };
	const struct ec2_query query = { .ids = ids, .id_count = 1 };
	int64_t until = clock_monotonic_ns(clock_system()) + STOP_NS;
	for (;;) {
		struct http_error said = { 0 };
		char state[32] = "";
		int r = ec2_describe_instances(s->client, &query, note_state, state, &said);
		if (r < 0)
			return ec2_error_tell(&said, "waiting for the instance to stop", error);
		if (strcmp(state, "stopped") == 0)
			return 0;
		if (is_told_to_stop(s))
			return error_set(error, -ECANCELED, NULL, "it was ended");
		if (clock_monotonic_ns(clock_system()) >= until)
			return error_set(error, -ETIMEDOUT,
				"see the instance's console, or stop it by force",
				"instance %s has not stopped: it is %s", s->spec.instance, state);
		clock_sleep_ns(clock_system(), LOOK_NS);
	}
}

/* What would be refused afterwards is refused before production is down. */
static int check_ready(struct stopping *s, struct error *error)
{
	CLEANUP(registry_release) struct hold hold = { 0 };
	int r = registry_hold(s->ebs->registry, s->machine, error, &hold);
	return r == 0 ? group_check_askable(hold.group, error) : r;
}

/* What keeps it from being fetched, once it has done so for a while; false: nothing. */
static bool is_stuck(struct stopping *s, int64_t *since_ns, struct error *ret_error)
{
	struct group_trouble trouble = { 0 };
	int64_t now_ns = clock_monotonic_ns(clock_system());
	bool failing;
	{
		SCOPED_LOCK(&s->ebs->registry->lock);
		failing = ebs_trouble(s->ebs, s->machine, &trouble);
	}
	if (!failing)
		*since_ns = 0;
	else if (*since_ns == 0)
		*since_ns = now_ns;
	if (*since_ns == 0 || now_ns - *since_ns < TROUBLE_NS)
		return false;
	*ret_error = trouble.error;
	return true;
}

/* The last set may take as long as its snapshots need, while nothing fails. */
static int last_point(struct stopping *s, struct error *error, uint64_t *ret_point)
{
	uint64_t request;
	int64_t failing_ns = 0;
	bool asked = false;
	for (;;) {
		CLEANUP(registry_release) struct hold hold = { 0 };
		int r = registry_hold(s->ebs->registry, s->machine, error, &hold);
		if (r == 0 && !asked)
			r = group_ask_point(hold.group, POINT_CRASH, error, &request);
		asked = r == 0;
		if (r == 0)
			r = group_wait_request(
				hold.group, request, POINT_CRASH, REQUEST_MS, error, ret_point);
		if (r != -ETIMEDOUT)
			return r;
		if (is_told_to_stop(s))
			return error_set(error, -ECANCELED, NULL, "it was ended");
		if (is_stuck(s, &failing_ns, error))
			return error->code;
	}
}

int ebs_shut_down(struct ebs *ebs, const char *machine, const atomic_bool *stop,
	struct error *error, uint64_t *ret_point)
{
	struct stopping s = { .ebs = ebs, .machine = machine, .stop = stop };
	if (ebs_read_spec(ebs, machine, false, &s.spec) < 0)
		return error_set(error, -ENOENT, "'landfall machine list' shows what there is",
			"there is no machine %.80s of the source ebs", machine);
	int r = check_ready(&s, error);
	if (r == 0)
		r = ebs_open_client(ebs, s.spec.region, &ebs->stop, stop, NULL, error, &s.client);
	if (r == 0)
		r = stop_instance(&s, error);
	if (r == 0)
		r = wait_until_stopped(&s, error);
	ec2_free(s.client);
	if (r == 0)
		log_info("machine %s: instance %s is stopped", machine, s.spec.instance);
	return r == 0 ? last_point(&s, error, ret_point) : r;
}
