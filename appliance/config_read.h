/*
 * From the file's lines to a struct config, without defaults and without checks of one setting
 * against another.
 */
#pragma once

#include "appliance/config.h"

/* Fills `config`, whose strings are NULL or defaults (replaced). `config->path` names the file. */
int config_read(struct config *config, struct error *error);
