/*
 * Mounting a part of a file: a loop device with offset and limit, without partition nodes, which
 * goes away by itself when it is unmounted. Needs the rights of root. Any thread.
 */
#pragma once

#include <stdbool.h>
#include <stdint.h>

#include "common/error.h"

struct loop_mount {
	const char *file;
	uint64_t offset_bytes, size_bytes;
	bool writable; /* the device; the filesystem is mounted read-only in any case */
	const char *type, *options;
	const char *at; /* a directory */
};

/* 0 or -errno with words. -ENODEV: the kernel does not have the filesystem. */
int loop_mount(const struct loop_mount *mount, struct error *error);
/* -EBUSY: something uses it. `force`: takes it out of sight and lets users end in their time. */
int loop_unmount(const char *at, bool force);
