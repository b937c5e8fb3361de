/*
 * What keeps a group's points out of the vault, as an error with its mend, for whoever waits.
 *
 * Threads: any; what the flusher's thread last noted is read under the group's lock.
 */
#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "replicator/group_internal.h"

static int say_taken_over(const char *name, const char *owner, const char *machine, struct error *e)
{
	char mend[256];
	snprintf(mend, sizeof(mend),
		"if that was meant, 'landfall machine remove %s --keep-vault' here; if not, stop "
		"the other appliance and run 'landfall vault takeover --group %s' here",
		machine, name);
	return error_set(e, -ESTALE, mend, "group %s belongs to another appliance%s%s", name,
		*owner ? ": " : "", owner);
}

static int say_paused(const char *name, const char *machine, struct error *e)
{
	char mend[128];
	snprintf(mend, sizeof(mend), "run 'landfall machine resume %s'", machine);
	return error_set(e, -EBUSY, mend, "group %s is paused: nothing is sent to the vault", name);
}

int group_obstacle(struct group *group, const char *machine, struct error *error)
{
	char owner[sizeof(group->state.owner)];
	pthread_mutex_lock(&group->state_lock);
	memcpy(owner, group->state.owner, sizeof(owner));
	pthread_mutex_unlock(&group->state_lock);
	SCOPED_LOCK(&group->lock);
	if (group->taken_over)
		return say_taken_over(group->name, owner, machine, error);
	if (group->paused)
		return say_paused(group->name, machine, error);
	if (!group->vault_initialized)
		return error_set(error, -ENOENT,
			"run 'landfall vault init', or mend [vault] container in landfall.conf",
			"the vault is not initialised: %s", group->vault_error.message);
	const struct error *found = group->vault_error.code != 0 ? &group->vault_error
				    : group->flush_failures > 0  ? &group->flush_error
								 : NULL;
	if (!found)
		return 0;
	bool vaults = found == &group->vault_error;
	bool refused = vaults && alert_is_refusal(found->code);
	const char *mend = found->mend[0] ? found->mend
			   : refused      ? "check the credentials and [vault] in landfall.conf, "
					    "and the clock"
			   : vaults       ? "check the network, the proxy and the endpoint in "
					    "landfall.conf; it is tried again by itself"
				    : "it is tried again by itself; 'landfall vault check' tells "
				      "whether the vault is sound";
	return error_set(error, found->code, mend, "%s: %s",
		refused  ? "the vault refuses us"
		: vaults ? "the vault is out of reach"
			 : "sending to the vault fails",
		found->message);
}
