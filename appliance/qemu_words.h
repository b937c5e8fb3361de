/*
 * The command line that QEMU is started with.
 */
#pragma once

#include "appliance/local_settings.h"
#include "common/error.h"
#include "replicator/target.h"

#define QEMU_WORDS_MAX 640 /* two a disk and some dozens */

struct qemu_words {
	char *list[QEMU_WORDS_MAX + 1]; /* NULL after the last */
	unsigned count;
};

/* Fills the empty list; UEFI's variables are copied into the order's directory. `host_port` leads
 * to `guest_port`; 0: none. -ENOENT: no firmware for UEFI is installed. */
int qemu_words_fill(struct qemu_words *words, const struct local_settings *settings,
	const struct target_order *order, unsigned host_port, unsigned guest_port,
	struct error *error);
void qemu_words_free(struct qemu_words *words);
