/*
 * Groups that have a session: a thread for each, which lets their points be cut when they are due.
 *
 * The thread begins with the group's first session and ends with its last. A cut that was not
 * possible, as not all machines are there and whole, is tried again a second later; after one that
 * failed the pauses grow.
 */
#include <errno.h>

#include "replicator/ingest_internal.h"

#define LOOK_MS 1000
#define RETRY_FIRST_NS (2 * NS_PER_S)
#define RETRY_LONGEST_NS (60 * NS_PER_S)

static void rest(struct ingest_group *g, int64_t ns)
{
	int64_t until = clock_monotonic_ns(clock_system()) + ns;
	SCOPED_LOCK(&g->ingest->lock);
	for (int64_t left = ns; !g->stopping && left > 0;
		left = until - clock_monotonic_ns(clock_system()))
		ingest_wait(g->ingest, left);
}

static bool is_stopping(struct ingest_group *g)
{
	SCOPED_LOCK(&g->ingest->lock);
	return g->stopping;
}

static void *group_main(void *argument)
{
	struct ingest_group *g = argument;
	int64_t delay = RETRY_FIRST_NS;
	while (!is_stopping(g)) {
		struct group_due due;
		int r = group_wait_due(g->hold.group, LOOK_MS, &g->stopping, &due);
		if (r == -ECANCELED)
			break;
		if (r < 0)
			continue;
		r = ingest_try_cut(g, &due);
		if (r == -EAGAIN)
			rest(g, LOOK_MS * NS_PER_MS);
		else if (r < 0)
			rest(g, delay);
		delay = r < 0 && r != -EAGAIN ? MIN(delay * 2, RETRY_LONGEST_NS) : RETRY_FIRST_NS;
	}
	return NULL;
}

static struct ingest_group *find_group(struct ingest *ingest, const char *name)
{
	struct ingest_group *g = ingest->groups;
	while (g && (g->stopping || strcmp(g->name, name) != 0))
		g = g->next;
	return g;
}

static void free_group(struct ingest_group *g)
{
	registry_release(&g->hold);
	pthread_mutex_destroy(&g->naming);
	free(g);
}

int ingest_join_group(struct ingest_link *link, struct error *error)
{
	struct ingest *ingest = link->ingest;
	struct ingest_session *session = link->session;
	const char *name = link->hold.entry->name;
	struct ingest_group *fresh = calloc(1, sizeof(*fresh));
	if (!fresh)
		return error_set(error, -ENOMEM, NULL, "out of memory");
	fresh->ingest = ingest;
	pthread_mutex_init(&fresh->naming, NULL);
	snprintf(fresh->name, sizeof(fresh->name), "%s", name);
	int r = registry_hold(ingest->registry, session->machine->name, error, &fresh->hold);
	if (r < 0) {
		pthread_mutex_destroy(&fresh->naming);
		free(fresh);
		return r;
	}
	pthread_mutex_lock(&ingest->lock);
	struct ingest_group *g = find_group(ingest, name);
	if (!g) {
		r = -pthread_create(&fresh->thread, NULL, group_main, fresh);
		if (r == 0) {
			g = fresh;
			fresh = NULL;
			g->next = ingest->groups;
			ingest->groups = g;
		}
	}
	if (g) {
		g->sessions++;
		session->group = g;
	}
	pthread_mutex_unlock(&ingest->lock);
	if (fresh)
		free_group(fresh);
	return r < 0 ? error_set(error, r, NULL, "no thread to be had") : 0;
}

void ingest_leave_group(struct ingest_session *session)
{
	struct ingest *ingest = session->ingest;
	struct ingest_group *g = session->group;
	if (!g)
		return;
	pthread_mutex_lock(&ingest->lock);
	session->group = NULL;
	bool last = --g->sessions == 0;
	if (last) {
		g->stopping = true;
		struct ingest_group **link = &ingest->groups;
		while (*link != g)
			link = &(*link)->next;
		*link = g->next;
		pthread_cond_broadcast(&ingest->changed);
	}
	pthread_mutex_unlock(&ingest->lock);
	if (!last)
		return;
	group_wake_due(g->hold.group);
	pthread_join(g->thread, NULL);
	free_group(g);
}
