/*
 * Gates: how many requests of a kind are worked on at once, and where the others wait.
 *
 * A request may wait in its handler: reads for the vault, writes for room in their group's journal.
 * If each of them had a thread of the session, one group could hold them all. So beyond a gate's
 * limit requests are queued, with a copy of their data, and whoever ends one goes on with the next,
 * oldest first. A queue that holds too much takes no more: what comes then is worked on by its own
 * thread.
 *
 * Reads have one gate; writes one for each group, which stays with the mount and is used again.
 */
#include "fs/mount_internal.h"

#include <string.h>

#include "common/bytes.h"
#include "common/cleanup.h"

#define MOST_WRITES 8u
#define QUEUE_BYTES (128 * MIB)

void gate_init(struct gate *gate, unsigned limit)
{
	pthread_mutex_init(&gate->lock, NULL);
	gate->limit = limit;
	gate->end = &gate->first;
}

void gate_destroy(struct gate *gate)
{
	/* What is still queued was never answered, and nobody is left to answer to. */
	while (gate->first) {
		struct request *next = gate->first->next;
		free(gate->first);
		gate->first = next;
	}
	pthread_mutex_destroy(&gate->lock);
}

static struct request *copy_request(const struct request *request)
{
	size_t n = request->kind == REQUEST_WRITE ? request->size : 0;
	struct request *copy = malloc(sizeof(*copy) + n);
	if (!copy)
		return NULL;
	*copy = *request;
	copy->next = NULL;
	copy->queued_bytes = sizeof(*copy) + n;
	if (n > 0) {
		memcpy(copy + 1, request->data, n);
		copy->data = (const char *)(copy + 1);
	}
	atomic_fetch_add(&request->session->queued, 1);
	return copy;
}

/* Answers what was queued. Its session may be over, but for this. */
static void answer_queued(struct request *request)
{
	struct session *session = request->session;
	struct mount *mount = session->mount;
	request_answer(request);
	free(request);
	if (atomic_fetch_sub(&session->queued, 1) != 1)
		return;
	SCOPED_LOCK(&mount->lock);
	pthread_cond_broadcast(&mount->changed);
}

static void queue_locked(struct gate *gate, struct request *request)
{
	gate->queued_bytes += request->queued_bytes;
	*gate->end = request;
	gate->end = &request->next;
}

/* True if the request is to be worked on now, by this thread; else it was queued. */
static bool enter(struct gate *gate, const struct request *request)
{
	SCOPED_LOCK(&gate->lock);
	bool full = gate->running >= gate->limit;
	struct request *queued =
		full && gate->queued_bytes < QUEUE_BYTES ? copy_request(request) : NULL;
	if (queued)
		queue_locked(gate, queued);
	else
		gate->running++;
	return !queued;
}

/* The next queued request for the thread that has ended one; NULL: none, and it has left. */
static struct request *next_or_leave(struct gate *gate)
{
	SCOPED_LOCK(&gate->lock);
	struct request *next = gate->first;
	if (!next || gate->running > gate->limit) {
		gate->running--;
		return NULL;
	}
	gate->queued_bytes -= next->queued_bytes;
	gate->first = next->next;
	if (!gate->first)
		gate->end = &gate->first;
	return next;
}

void gate_pass(struct gate *gate, const struct request *request)
{
	if (!enter(gate, request))
		return;
	request_answer(request);
	struct request *next;
	while ((next = next_or_leave(gate)))
		answer_queued(next);
}

/* ── the groups' ─────────────────────────────────────────────────────────────────────────── */

static struct write_gate *find_locked(struct mount *mount, const struct committer *committer)
{
	for (struct write_gate *g = mount->writes; g; g = g->next)
		if (g->machines > 0 && g->committer == committer)
			return g;
	return NULL;
}

/* One that no machine has, and that nothing is waiting at. */
static struct write_gate *find_free_locked(struct mount *mount)
{
	for (struct write_gate *g = mount->writes; g; g = g->next) {
		SCOPED_LOCK(&g->gate.lock);
		if (g->machines == 0 && g->gate.running == 0)
			return g;
	}
	return NULL;
}

struct write_gate *write_gate_take_locked(struct mount *mount, struct committer *committer)
{
	struct write_gate *g = find_locked(mount, committer);
	if (!g)
		g = find_free_locked(mount);
	if (!g) {
		g = calloc(1, sizeof(*g));
		if (!g)
			return NULL;
		gate_init(&g->gate, MOST_WRITES);
		g->next = mount->writes;
		mount->writes = g;
	}
	g->committer = committer;
	g->machines++;
	return g;
}

void write_gates_free(struct mount *mount)
{
	while (mount->writes) {
		struct write_gate *g = mount->writes;
		mount->writes = g->next;
		gate_destroy(&g->gate);
		free(g);
	}
}
