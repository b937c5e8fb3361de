/*
 * See agents.h: the parts of the agents' door put together, and what is revoked.
 */
#include <errno.h>
#include <string.h>

#include "common/buf.h"
#include "common/log.h"
#include "replicator/agents_internal.h"

static int open_parts(
	struct agents *agents, const struct agents_options *options, struct error *error)
{
	CLEANUP(buf_free) struct buf pki = { 0 }, keys = { 0 };
	if (buf_printf(&pki, "%s/pki", options->state_dir) < 0 ||
		buf_printf(&keys, "%s/agent_keys.json", options->state_dir) < 0)
		return error_set(error, -ENOMEM, NULL, "out of memory");
	int r = pki_new(options->io, options->clock, pki.data, error, &agents->pki);
	if (r == 0)
		r = agent_keys_new(options->io, options->clock, keys.data, error, &agents->keys);
	if (r == 0)
		r = pki_server_tls(agents->pki, error, &agents->tls);
	return r;
}

static void close_parts(struct agents *agents)
{
	tls_free(TAKE(agents->tls));
	agent_keys_free(TAKE(agents->keys));
	pki_free(TAKE(agents->pki));
}

int agents_new(
	const struct agents_options *options, struct error *error, struct agents **ret_agents)
{
	struct agents *agents = calloc(1, sizeof(*agents));
	if (!agents)
		return error_set(error, -ENOMEM, NULL, "out of memory");
	agents->clock = options->clock;
	pthread_mutex_init(&agents->lock, NULL);
	pthread_mutex_init(&agents->listener_lock, NULL);
	struct error closed = { 0 };
	int r = open_parts(agents, options, &closed);
	if (r < 0 && r != -EUCLEAN && r != -EIO) {
		agents_free(agents);
		return error_set(error, r, closed.mend, "%s", closed.message);
	}
	if (r < 0) {
		log_error("agents are not answered: %s", closed.message);
		close_parts(agents);
		agents->closed = closed;
	}
	*ret_agents = agents;
	return 0;
}

void agents_free(struct agents *agents)
{
	if (!agents)
		return;
	agents_stop(agents);
	close_parts(agents);
	pthread_mutex_destroy(&agents->lock);
	pthread_mutex_destroy(&agents->listener_lock);
	free(agents);
}

int agents_check(const struct agents *agents, struct error *error)
{
	const struct error *closed = &agents->closed;
	return closed->code == 0
		       ? 0
		       : error_set(error, closed->code, closed->mend, "%s", closed->message);
}

bool agents_fault(const struct agents *agents, struct error *ret_fault)
{
	if (agents->closed.code != 0)
		return false;
	const struct error *fault = pki_fault(agents->pki);
	if (fault->code == 0)
		fault = agent_keys_fault(agents->keys);
	if (fault->code != 0)
		*ret_fault = *fault;
	return fault->code != 0;
}

int agents_listen(struct agents *agents, const struct agents_door *door, struct error *error)
{
	const struct agent_listener_options options = {
		.address = door->address,
		.tls = agents->tls,
		.check = pki_check,
		.check_context = agents->pki,
		.enroll = agents_enroll,
		.renew = agents_renew,
		.context = agents,
		.sessions = door->sessions,
	};
	struct agent_listener *listener;
	int closed = agents_check(agents, error);
	if (closed < 0)
		return closed;
	agents->may_enroll = door->may_enroll;
	agents->may_enroll_context = door->context;
	struct error problem = { 0 };
	int r = agent_listener_new(&options, &problem, &listener);
	SCOPED_LOCK(&agents->listener_lock);
	agents->problem = problem;
	if (r < 0)
		return error_set(error, r, problem.mend, "%s", problem.message);
	agents->listener = listener;
	return 0;
}

void agents_stop(struct agents *agents)
{
	pthread_mutex_lock(&agents->listener_lock);
	struct agent_listener *listener = TAKE(agents->listener);
	pthread_mutex_unlock(&agents->listener_lock);
	agent_listener_free(listener);
}

int agents_problem(struct agents *agents, struct error *error)
{
	SCOPED_LOCK(&agents->listener_lock);
	if (agents->listener)
		return 0;
	if (agents->closed.code != 0)
		return agents_check(agents, error);
	if (agents->problem.code == 0)
		return error_set(error, -ENOTCONN, "set [appliance] listen and restart landfalld",
			"[appliance] listen is none");
	return error_set(
		error, agents->problem.code, agents->problem.mend, "%s", agents->problem.message);
}

uint16_t agents_port(struct agents *agents)
{
	SCOPED_LOCK(&agents->listener_lock);
	return agents->listener ? agent_listener_port(agents->listener) : 0;
}

bool agents_certificate_ends(
	struct agents *agents, const char *machine, int64_t *ret_ends_ns, bool *ret_overdue)
{
	return agents->closed.code == 0 &&
	       pki_certificate_ends(agents->pki, machine, ret_ends_ns, ret_overdue);
}

void agents_recheck(struct agents *agents, bool wait)
{
	SCOPED_LOCK(&agents->listener_lock);
	if (agents->listener)
		agent_listener_recheck(agents->listener, wait);
}

int agents_forget_machine(struct agents *agents, const char *machine, struct error *error)
{
	int closed = agents_check(agents, error);
	if (closed < 0)
		return closed;
	pthread_mutex_lock(&agents->lock);
	int r = agent_keys_forget_machine(agents->keys, machine, error);
	int r2 = pki_revoke_machine(agents->pki, machine, NULL, r < 0 ? NULL : error);
	pthread_mutex_unlock(&agents->lock);
	agents_recheck(agents, true);
	return r < 0 ? r : r2;
}
