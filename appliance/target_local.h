/*
 * The target local: the machine starts on the appliance itself, in QEMU, on a clone of the point.
 *
 * Its evidence is its serial console's log and a screenshot. Its network, if it has one, leads
 * nowhere: the machine gets an address, and reaches nobody; nobody reaches it but the probe.
 */
#pragma once

#include "appliance/local_settings.h"
#include "replicator/target.h"

/* `settings` are copied; their texts are borrowed. */
int target_local_new(const struct local_settings *settings, struct target **ret_target);
/* Ends what runs. NULL is fine. */
void target_local_free(struct target *target);
