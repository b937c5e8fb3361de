/*
 * What the vault says of a machine that is to be added.
 *
 * A group that is new here must not be in the vault: another appliance, or an earlier life of this
 * one, has its history there. Nor may disks of a machine of its name, which are another group's
 * then. A vault that cannot be asked now is no reason to refuse: the group finds out when it claims
 * its place, and says so by an alert; whoever adds it hears of that.
 *
 * Threads: any, no lock held, because the network is waited for. While it is, a thread of its own
 * tells of it, once.
 */
#include <errno.h>
#include <time.h>

#include "common/clock.h"
#include "replicator/registry_internal.h"

#define SILENT_NS (1500 * NS_PER_MS)

struct teller {
	const struct machine_request *request;
	pthread_mutex_t lock;
	pthread_cond_t changed;
	bool over; /* under lock */
	pthread_t thread;
	bool runs;
};

static void *teller_main(void *argument)
{
	struct teller *teller = argument;
	int64_t until = clock_monotonic_ns(clock_system()) + SILENT_NS;
	const struct timespec at = { .tv_sec = until / NS_PER_S,
		.tv_nsec = (long)(until % NS_PER_S) };
	int r = 0;
	pthread_mutex_lock(&teller->lock);
	while (!teller->over && r != ETIMEDOUT)
		r = pthread_cond_timedwait(&teller->changed, &teller->lock, &at);
	bool tells = !teller->over;
	pthread_mutex_unlock(&teller->lock);
	if (tells)
		teller->request->waits(teller->request->waits_context);
	return NULL;
}

static void teller_begin(struct teller *teller)
{
	pthread_condattr_t monotonic;
	pthread_condattr_init(&monotonic);
	pthread_condattr_setclock(&monotonic, CLOCK_MONOTONIC);
	pthread_cond_init(&teller->changed, &monotonic);
	pthread_condattr_destroy(&monotonic);
	pthread_mutex_init(&teller->lock, NULL);
	teller->runs = teller->request->waits &&
		       pthread_create(&teller->thread, NULL, teller_main, teller) == 0;
}

static void teller_end(struct teller *teller)
{
	pthread_mutex_lock(&teller->lock);
	teller->over = true;
	pthread_cond_signal(&teller->changed);
	pthread_mutex_unlock(&teller->lock);
	if (teller->runs)
		pthread_join(teller->thread, NULL);
	pthread_cond_destroy(&teller->changed);
	pthread_mutex_destroy(&teller->lock);
}

/* -ENOENT: it is not there; else 0, or why nobody knows. */
static int ask(struct registry *registry, const struct machine_request *request, const char *name,
	struct vault_group *ret_group, bool *ret_has_disks, struct error *error)
{
	struct blob_store *store;
	int r = registry->service->ops->open_store(registry->service, NULL, error, &store);
	if (r < 0)
		return r == -ENOENT ? -EIO : r;
	r = vault_group_load(store, name, error, ret_group);
	*ret_has_disks = r < 0 && vault_has_machine(store, request->name);
	store->ops->free(store);
	return r;
}

int machine_check_vault(
	struct registry *registry, const struct machine_request *request, struct error *error)
{
	const char *name = request->group ? request->group : request->name;
	pthread_mutex_lock(&registry->lock);
	bool here = registry_find_group(registry, name) != NULL ||
		    registry_find_machine(registry, request->name) != NULL;
	pthread_mutex_unlock(&registry->lock);
	if (!registry->service || here)
		return 0;
	CLEANUP(vault_group_free) struct vault_group group = { 0 };
	struct error unheard = { 0 };
	struct teller teller = { .request = request };
	bool has_disks = false;
	teller_begin(&teller);
	int r = ask(registry, request, name, &group, &has_disks, &unheard);
	teller_end(&teller);
	if (has_disks)
		return error_set(error, -EEXIST,
			"add it under another name; or bring back the group that it belongs to "
			"with 'landfall vault takeover --group GROUP'",
			"the vault holds disks of a machine %s already, which belongs to another "
			"group",
			request->name);
	if (r < 0) {
		if (r != -ENOENT && request->ret_unheard)
			*request->ret_unheard = unheard;
		return 0;
	}
	char mend[160];
	snprintf(mend, sizeof(mend),
		"bring it here with 'landfall vault takeover --group %s', or choose another "
		"name",
		name);
	return error_set(error, -EEXIST, mend,
		"the vault holds a group %s already, of appliance %s", name, group.owner_name);
}
