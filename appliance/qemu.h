/*
 * One machine in QEMU: a process of ours, which ends with us.
 *
 * It is spoken to over QMP (QEMU Machine Protocol, docs/interop/qmp-spec in QEMU's manual) on a
 * pair of sockets that it inherits. KVM is used where there is one, else it is emulated. It may
 * start no other program and gain no privilege (-sandbox).
 */
#pragma once

#include <stdbool.h>
#include <stdint.h>

#include "appliance/local_settings.h"
#include "common/error.h"
#include "replicator/target.h"

struct qemu;

#define QEMU_SERIAL_LOG "serial.log"
#define QEMU_WORDS "qemu.log" /* what QEMU itself said */

/* Starts it; its logs are in the order's directory. `forward_port`: a port of the machine's that
 * is reached on loopback; 0: none. -ENOENT: QEMU or firmware is not installed. */
int qemu_new(const struct local_settings *settings, const struct target_order *order,
	unsigned forward_port, struct error *error, struct qemu **ret_qemu);
/* Ends it if it runs. NULL is fine. */
void qemu_free(struct qemu *qemu);
/* Any thread. */
bool qemu_runs(struct qemu *qemu);
/* The loopback port that leads to forward_port; 0: none. */
unsigned qemu_port(const struct qemu *qemu);
/* Monotonic. */
int64_t qemu_started_ns(const struct qemu *qemu);
/* Writes what its display shows to a PNG file. One thread at a time. */
int qemu_screenshot(struct qemu *qemu, const char *path, struct error *error);
