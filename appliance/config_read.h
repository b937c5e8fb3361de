/*
 * From the file's lines to a struct config, without defaults and without checks of one setting
 * against another.
 */
#pragma once

#include "appliance/config.h"

#define CONFIG_KEYS_MAX 64
#define CONFIG_POLICIES_MAX 64

/* Where things stood in the file; 0: nowhere. */
struct config_lines {
	unsigned keys[CONFIG_KEYS_MAX];         /* as config_keys */
	unsigned policies[CONFIG_POLICIES_MAX]; /* their sections, as config->policies */
};

/* Fills `config`, whose strings are NULL or defaults (replaced). `config->path` names the file.
 * `lines` is filled in any case. */
int config_read(struct config *config, struct config_lines *lines, struct error *error);
