/*
 * Watching a machine come up: its serial console's log and, if asked, a port.
 *
 * Up is what the settings' probe says: a pattern on the serial console, or a port that sends
 * something (that a connection is accepted says nothing, QEMU's own network accepts it). Broken is
 * what consoles are known to say when a boot has come to its end: a kernel's panic, a boot loader
 * or initramfs that finds nothing, systemd's emergency mode. One thread.
 */
#pragma once

#include <stddef.h>

#include "appliance/local_settings.h"

struct boot_probe;

enum boot_sight { BOOT_NOTHING_YET, BOOT_UP, BOOT_BROKEN };

/* `log` is the serial console's; it may not be there yet. `port`: of loopback, for the probe tcp.
 */
int boot_probe_new(const struct local_settings *settings, const char *log, unsigned port,
	struct boot_probe **ret_probe);
void boot_probe_free(struct boot_probe *probe);
/* Reads what is new; takes up to two seconds with the probe tcp. `words` tells what was seen: the
 * line, or that of the port; with BOOT_NOTHING_YET the console's last line, "" if there is none. */
enum boot_sight boot_probe_look(struct boot_probe *probe, char *words, size_t size);
