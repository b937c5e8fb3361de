/*
 * The job vault.takeover: making groups found in the vault this appliance's own.
 */
#pragma once

#include "common/error.h"

struct registry;

int takeover_register_jobs(struct registry *registry);
/* 0 if a group of that name may be taken: there is none here, or it does not run, or another
 * appliance has taken it. -EEXIST with words otherwise. */
int takeover_check_local(struct registry *registry, const char *group, struct error *error);
