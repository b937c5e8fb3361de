/*
 * The table of the configuration's sections and keys, shared by the reader and the comparison at
 * a reload.
 */
#pragma once

#include <stdbool.h>
#include <stddef.h>

enum config_type {
	CONFIG_TEXT,
	CONFIG_PATH,    /* absolute */
	CONFIG_SECRET,  /* absolute, or the name of a systemd credential */
	CONFIG_URL,     /* http:// or https:// */
	CONFIG_ADDRESS, /* HOST:PORT, [IPv6]:PORT, none */
	CONFIG_REGION,  /* of AWS */
	CONFIG_SIZE,
	CONFIG_RATE,  /* bytes a second, 1M at least; unlimited: 0 */
	CONFIG_COUNT, /* a number a second, 1 at least; unlimited: 0 */
	CONFIG_PRICE, /* dollars, to the billionth */
	CONFIG_LEVEL,
	CONFIG_AUTH,
};

struct config_key {
	const char *section, *name;
	enum config_type type;
	size_t offset; /* of the member in struct config */
	bool reloadable;
};

extern const struct config_key config_keys[];
extern const unsigned config_key_count;
