/*
 * Telling systemd how the daemon fares: sd_notify(3)'s protocol, which is one datagram of
 * NAME=VALUE lines to the socket that $NOTIFY_SOCKET names.
 */
#pragma once

#include <stdint.h>

/* "READY=1\nSTATUS=…". 0 also where nobody wants to know; -errno otherwise. Any thread. */
int notify_send(const char *state);

/* How often "WATCHDOG=1" must come at the least, from $WATCHDOG_USEC and $WATCHDOG_PID; 0: never.
 * Any thread. */
int64_t notify_watchdog_ns(void);
