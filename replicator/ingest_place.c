/*
 * A machine's place: the one session that it has, who takes it over, and who is turned away.
 *
 * An agent that comes while there is a session has lost that one, as a rule: it was restarted, its
 * network was cut, its host was reset. It must not wait for what is dead. But a copy of the machine
 * has its certificate, too, and one that ended the original's session again and again would have
 * every disk compared over the other's. They are told apart by the kernel's name of its boot:
 *
 *	the same boot    the same host: takes over at once
 *	another boot     a host that was reset says nothing any more: who still answers PING is
 *	                 another host, and stays; the newcomer is refused
 *	an earlier boot  no host goes back to one: two of them take turns, and an alert says so
 *
 * Invariant: at most one session is a machine's. Under the ingest's lock, but for loading.
 */
#include <errno.h>

#include "common/log.h"
#include "replicator/ingest_internal.h"

#define SILENT_NS (3 * NS_PER_S)
#define LOOK_NS (NS_PER_S / 20)
#define RIVAL_TOLD_NS (120 * NS_PER_S) /* agents try again at least every half minute */

/* ── two hosts ───────────────────────────────────────────────────────────────────────────── */

static void note_rival(
	struct ingest_machine *machine, const char *what, const struct ingest_newcomer *newcomer)
{
	int64_t now_ns = clock_realtime_ns(clock_system());
	bool news = machine->rival_ns == 0 || now_ns - machine->rival_ns > RIVAL_TOLD_NS;
	machine->rival_ns = now_ns;
	error_set(&machine->rival, -EEXIST, NULL, "%.40s (%s) %s %.40s (%s)", newcomer->host,
		newcomer->address, what, machine->host, machine->address);
	if (news)
		log_warning("machine %s: two hosts claim to be it: %s", machine->name,
			machine->rival.message);
}

bool ingest_rival(const struct ingest_machine *machine, struct error *ret_why)
{
	if (machine->rival_ns == 0 ||
		clock_realtime_ns(clock_system()) - machine->rival_ns > RIVAL_TOLD_NS)
		return false;
	*ret_why = machine->rival;
	return true;
}

static bool is_another_boot(const struct ingest_machine *machine, const char *boot)
{
	return boot[0] && machine->boot[0] && strcmp(machine->boot, boot) != 0;
}

/* The newcomer has the place. */
static void note_boot(struct ingest_machine *machine, const struct ingest_newcomer *newcomer)
{
	const char *boot = newcomer->boot;
	if (boot[0] && strcmp(machine->boot, boot) == 0)
		return;
	for (unsigned i = 0; boot[0] && i < INGEST_BOOTS; i++)
		if (strcmp(machine->earlier[i], boot) == 0)
			note_rival(machine, "takes turns with", newcomer);
	memmove(machine->earlier[1], machine->earlier[0],
		sizeof(machine->earlier) - sizeof(machine->earlier[0]));
	memcpy(machine->earlier[0], machine->boot, sizeof(machine->boot));
	snprintf(machine->boot, sizeof(machine->boot), "%s", boot);
}

static int refuse(
	struct ingest_machine *machine, const struct ingest_newcomer *newcomer, struct error *error)
{
	note_rival(machine, "was turned away while there was a session with", newcomer);
	return error_set(error, -EEXIST,
		"on the copy: stop landfall-agent, remove /var/lib/landfall-agent and enrol it as "
		"a "
		"machine of its own",
		"machine %s is at work on %.40s (%s) already, and this is another host",
		machine->name, machine->host, machine->address);
}

/* Whether another host still has the place: 1; 0 not; -EAGAIN: not known yet. Under lock. */
static int is_held(const struct ingest_machine *machine, const char *boot, int64_t came_ns)
{
	const struct ingest_session *session = machine->session;
	const struct ingest_link *link = session->links[0];
	if (session->ending || !link || !is_another_boot(machine, boot))
		return 0;
	int64_t silent_ns = connection_probe(link->connection);
	if (clock_monotonic_ns(clock_system()) - silent_ns > came_ns)
		return 1;
	return silent_ns < SILENT_NS ? -EAGAIN : 0;
}

/* ── taking and leaving it ───────────────────────────────────────────────────────────────── */

int ingest_take_place(
	struct ingest_session *session, const struct ingest_newcomer *newcomer, struct error *error)
{
	struct ingest *ingest = session->ingest;
	int64_t came_ns = clock_monotonic_ns(clock_system());
	SCOPED_LOCK(&ingest->lock);
	struct ingest_machine *machine = ingest_find_machine(ingest, newcomer->machine);
	if (!machine)
		return error_set(error, -ENOMEM, NULL, "out of memory");
	while (machine->session) {
		int held = is_held(machine, newcomer->boot, came_ns);
		if (held > 0)
			return refuse(machine, newcomer, error);
		if (held == 0)
			ingest_end_session(machine->session);
		ingest_wait(ingest, held < 0 ? LOOK_NS : NS_PER_S);
	}
	note_boot(machine, newcomer);
	machine->session = session;
	machine->connected_ns = clock_realtime_ns(clock_system());
	snprintf(machine->host, sizeof(machine->host), "%s", newcomer->host);
	snprintf(machine->version, sizeof(machine->version), "%s", newcomer->version);
	snprintf(machine->address, sizeof(machine->address), "%s", newcomer->address);
	session->machine = machine;
	for (unsigned i = 0; i < machine->disk_count; i++)
		machine->disks[i].present = machine->disks[i].resynced = false;
	return 0;
}

void ingest_leave_place(struct ingest_session *session)
{
	struct ingest *ingest = session->ingest;
	SCOPED_LOCK(&ingest->lock);
	ingest_end_session(session);
	while (session->link_count > 0 || session->pins > 0)
		ingest_wait(ingest, NS_PER_S);
	session->machine->session = NULL;
	session->machine->left_ns = clock_realtime_ns(clock_system());
	pthread_cond_broadcast(&ingest->changed);
}
