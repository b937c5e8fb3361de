/*
 * Whether the daemon could start with a configuration that reads well: its vault's credentials make
 * sense, and what it names as directories and files is, or can become, just that. Nothing is made
 * and nobody is asked over the network. Any thread.
 */
#pragma once

#include "appliance/config.h"
#include "common/error.h"

/* 0, or why not. `ret_section` and `ret_key` name the setting; static. */
int config_check_start(const struct config *config, struct error *error, const char **ret_section,
	const char **ret_key);
