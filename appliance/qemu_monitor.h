/*
 * The client's side of QMP, as far as it is needed. One thread at a time.
 *
 * Source: "QEMU Machine Protocol Specification" and "QEMU QMP Reference Manual" of QEMU 7.2.
 */
#pragma once

#include "common/error.h"

struct qemu_monitor;

#define QEMU_MONITOR_FD 3 /* where QEMU inherits its end */

/* `fd`, a connected stream socket, is taken over if it succeeds. */
int qemu_monitor_new(int fd, struct qemu_monitor **ret_monitor);
void qemu_monitor_free(struct qemu_monitor *monitor);
/* Waits for the greeting and answers it. -EPIPE: QEMU ended; -ETIMEDOUT after half a minute. */
int qemu_monitor_greet(struct qemu_monitor *monitor);
/* Has the display written to a PNG file; the errors of greet, and -EIO: QEMU refused. */
int qemu_monitor_screendump(struct qemu_monitor *monitor, const char *path, struct error *error);
