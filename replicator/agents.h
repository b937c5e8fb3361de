/*
 * The appliance's door for agents: its authority (pki.h), the registration keys (agent_keys.h),
 * and the port on which agents speak (agent_listener.h), put together.
 *
 * State: <state_dir>/pki and <state_dir>/agent_keys.json. Everything that was promised to an agent
 * or a person is durable before it is answered. All functions may be called from any thread.
 */
#pragma once

#include <stdint.h>

#include "common/clock.h"
#include "common/error.h"
#include "common/io.h"
#include "replicator/agent_sessions.h"

struct agents;
struct control;

struct agents_options {
	struct io *io;
	struct clock_source *clock;
	const char *state_dir;
};

/* Opens what is there; at the first start makes the authority and the server's certificate. What is
 * damaged, its copy too, keeps agents out and nothing else: agents_problem tells, and every call
 * that needs it fails with -EUCLEAN. */
int agents_new(
	const struct agents_options *options, struct error *error, struct agents **ret_agents);
/* After agents_stop, if it listened. NULL is fine. */
void agents_free(struct agents *agents);

/* May a machine of that name enrol? 0, or -ENOENT etc. with words. Called without locks held. */
typedef int agents_may_enroll(void *context, const char *machine, struct error *error);

struct agents_door {
	const char *address; /* HOST:PORT; port 0: any, see agents_port */
	agents_may_enroll *may_enroll;
	void *context;
	struct agent_sessions *sessions; /* NULL: nobody takes data in yet; hello is refused */
};

/* Opens the door. What `door` points to outlives agents_stop, the address excepted. */
int agents_listen(struct agents *agents, const struct agents_door *door, struct error *error);
/* Why agents are not answered: what agents_listen said last, or that nobody asked for it
 * ([appliance] listen is none). 0 if they are. */
int agents_problem(struct agents *agents, struct error *error);
/* What the start found damaged and mended from a copy; false: nothing. */
bool agents_fault(const struct agents *agents, struct error *ret_fault);
/* Closes it, ends every connection and waits until all have come back. */
void agents_stop(struct agents *agents);
/* The port it listens on; 0: it does not. */
uint16_t agents_port(struct agents *agents);

/* When the machine's certificate ends; `ret_overdue`: its agent ought to have renewed it by now,
 * and soon cannot any more. False: it has none that holds. */
bool agents_certificate_ends(
	struct agents *agents, const char *machine, int64_t *ret_ends_ns, bool *ret_overdue);

/* The machine is removed: its certificates and the keys bound to it are revoked, durably, and its
 * connections ended and come back: so no lock that serving them takes may be held. */
int agents_forget_machine(struct agents *agents, const char *machine, struct error *error);

/* Registers key.create, key.list and key.revoke. */
int agents_register(struct agents *agents, struct control *control);
