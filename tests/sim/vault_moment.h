/*
 * A moment in a call to the vault: before call number `at` of a store something is done, or from
 * that call on the store is cut off. One thread, one store at a time.
 */
#pragma once

#include "tests/sim/vault_world.h"

struct moment {
	struct world *world;
	struct blob_store_ops real;
	void (*act)(struct world *w);
	unsigned calls, at, commits;
	bool in_act;
};

/* What was watched last: how many calls it made, how many of them committed staged parts. */
extern struct moment moment;

/* From now on, until `moment_end`. `act` NULL: the store is cut off (-EACCES, certain) from that
 * call on; `at` 0: it never comes. */
void moment_watch(struct world *w, struct appliance *a, unsigned at, void (*act)(struct world *w));
bool moment_has_come(void);
void moment_end(struct appliance *a);
/* An error as of a store that is cut off. */
int moment_away(struct blob_error *e);
