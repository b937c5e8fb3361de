/*
 * Nothing that QEMU would add by itself: only what stands here is there. Paths go through JSON
 * where QEMU takes it; where it does not, a comma is doubled.
 */
#include "appliance/qemu_words.h"

#include <cjson/cJSON.h>
#include <errno.h>
#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "appliance/qemu.h"
#include "appliance/qemu_monitor.h"
#include "common/buf.h"
#include "common/bytes.h"
#include "common/cleanup.h"
#include "common/io.h"
#include "common/json.h"

#define FIRMWARE_MAX_BYTES (64u << 20)
#define VARIABLES_NAME "uefi-variables.fd"

/* Debian's package ovmf; the image for disks of 4 MiB is the current one. */
static const char uefi_code[] = "/usr/share/OVMF/OVMF_CODE_4M.fd";
static const char uefi_variables[] = "/usr/share/OVMF/OVMF_VARS_4M.fd";

__attribute__((format(printf, 2, 3))) static int add(
	struct qemu_words *words, const char *format, ...)
{
	va_list arguments;
	if (words->count == QEMU_WORDS_MAX)
		return -E2BIG;
	va_start(arguments, format);
	int n = vasprintf(&words->list[words->count], format, arguments);
	va_end(arguments);
	if (n < 0) {
		words->list[words->count] = NULL;
		return -ENOMEM;
	}
	words->count++;
	return 0;
}

void qemu_words_free(struct qemu_words *words)
{
	for (unsigned i = 0; i < words->count; i++)
		free(words->list[i]);
	words->count = 0;
}

static int add_all(struct qemu_words *words, const char *const list[])
{
	int r = 0;
	for (unsigned i = 0; r == 0 && list[i]; i++)
		r = add(words, "%s", list[i]);
	return r;
}

/* `size_bytes` 0: all of the file. */
static int add_block(struct qemu_words *words, const char *name, const char *file,
	uint64_t size_bytes, bool read_only)
{
	CLEANUP(json_freep) cJSON *node = NULL;
	CLEANUP(buf_free) struct buf text = { 0 };
	cJSON *below;
	int r = json_new_object(&node);
	if (r == 0)
		r = json_add_text(node, "driver", "raw");
	if (r == 0)
		r = json_add_text(node, "node-name", name);
	if (r == 0)
		r = json_add_bool(node, "read-only", read_only);
	if (r == 0 && size_bytes > 0)
		r = cJSON_AddNumberToObject(node, "size", (double)size_bytes) ? 0 : -ENOMEM;
	if (r == 0)
		r = json_add_object(node, "file", &below);
	if (r == 0)
		r = json_add_text(below, "driver", "file");
	if (r == 0)
		r = json_add_text(below, "filename", file);
	if (r == 0)
		r = json_print(node, false, &text);
	if (r == 0)
		r = add(words, "-blockdev");
	return r == 0 ? add(words, "%s", text.data) : r;
}

/* ── disks ───────────────────────────────────────────────────────────────────────────────── */

static int add_disk(struct qemu_words *words, enum local_disks bus,
	const struct target_order *order, unsigned i)
{
	char name[24], boot[24] = "";
	snprintf(name, sizeof(name), "disk%u", i);
	if (i == 0)
		snprintf(boot, sizeof(boot), ",bootindex=1");
	int r = add_block(words, name, order->disks[i].file, order->disks[i].size_bytes, false);
	if (r == 0)
		r = add(words, "-device");
	if (r < 0)
		return r;
	switch (bus) {
	case LOCAL_DISKS_VIRTIO:
		return add(words, "virtio-blk-pci,drive=%s%s", name, boot);
	case LOCAL_DISKS_SCSI:
		return add(words, "scsi-hd,bus=scsi.0,scsi-id=%u,lun=%u,drive=%s%s", i / 64, i % 64,
			name, boot);
	case LOCAL_DISKS_NVME:
		return add(words, "nvme,serial=landfall%u,drive=%s%s", i, name, boot);
	}
	return -EINVAL;
}

static int add_disks(
	struct qemu_words *words, enum local_disks bus, const struct target_order *order)
{
	int r = 0;
	if (bus == LOCAL_DISKS_SCSI)
		r = add_all(
			words, (const char *const[]){ "-device", "virtio-scsi-pci,id=scsi", NULL });
	for (unsigned i = 0; r == 0 && i < order->disk_count; i++)
		r = add_disk(words, bus, order, i);
	return r;
}

/* ── firmware ────────────────────────────────────────────────────────────────────────────── */

static int copy_variables(const struct target_order *order, struct buf *ret_path)
{
	CLEANUP_FREE char *data = NULL;
	size_t n;
	int r = io_load_file(io_posix(), uefi_variables, FIRMWARE_MAX_BYTES, &data, &n);
	if (r == 0)
		r = buf_printf(ret_path, "%s/%s", order->directory, VARIABLES_NAME);
	return r == 0 ? io_replace_file(io_posix(), ret_path->data, data, n) : r;
}

static int add_uefi(struct qemu_words *words, const struct target_order *order, struct error *error)
{
	CLEANUP(buf_free) struct buf variables = { 0 };
	int r = access(uefi_code, R_OK) < 0 ? -errno : copy_variables(order, &variables);
	if (r < 0)
		return error_set(error, r, "install the package ovmf",
			"the machine needs UEFI firmware, %s: %s", uefi_code, strerrordesc_np(-r));
	r = add_block(words, "uefi-code", uefi_code, 0, true);
	if (r == 0)
		r = add_block(words, "uefi-variables", variables.data, 0, false);
	if (r == 0)
		r = add_all(words, (const char *const[]){ "-machine",
					   "pflash0=uefi-code,pflash1=uefi-variables", NULL });
	return r;
}

static bool wants_uefi(const struct local_settings *settings, const struct target_order *order)
{
	return settings->firmware == LOCAL_FIRMWARE_UEFI ||
	       (settings->firmware == LOCAL_FIRMWARE_AUTO && order->boot_mode == BOOT_UEFI);
}

/* ── the rest ────────────────────────────────────────────────────────────────────────────── */

static int add_console(struct qemu_words *words, const char *directory)
{
	CLEANUP(buf_free) struct buf path = { 0 };
	int r = 0;
	for (const char *c = directory; r == 0 && *c; c++)
		r = buf_printf(&path, *c == ',' ? ",%c" : "%c", *c);
	if (r == 0)
		r = add(words, "-chardev");
	if (r == 0)
		r = add(words, "file,id=serial,path=%s/%s", path.data, QEMU_SERIAL_LOG);
	return r == 0 ? add_all(words, (const char *const[]){ "-serial", "chardev:serial", "-vga",
					       "std", "-display", "none", NULL })
		      : r;
}

static int add_network(struct qemu_words *words, enum local_network network, unsigned host_port,
	unsigned guest_port)
{
	char forward[64] = "";
	if (network == LOCAL_NETWORK_NONE)
		return 0;
	if (guest_port > 0)
		snprintf(forward, sizeof(forward), ",hostfwd=tcp:127.0.0.1:%u-:%u", host_port,
			guest_port);
	int r = add(words, "-netdev");
	if (r == 0)
		r = add(words, "user,id=net,restrict=on%s", forward);
	return r == 0 ? add_all(words, (const char *const[]){ "-device",
					       "virtio-net-pci,netdev=net", NULL })
		      : r;
}

static int add_size(struct qemu_words *words, const struct local_settings *settings)
{
	int r = add(words, "-m");
	if (r == 0)
		r = add(words, "%" PRIu64 "M", (uint64_t)(settings->memory_bytes / MIB));
	if (r == 0)
		r = add(words, "-smp");
	return r == 0 ? add(words, "%" PRIu64, settings->cpus) : r;
}

int qemu_words_fill(struct qemu_words *words, const struct local_settings *settings,
	const struct target_order *order, unsigned host_port, unsigned guest_port,
	struct error *error)
{
	static const char *const plain[] = { "-nodefaults", "-no-user-config", "-sandbox",
		"on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny", "-cpu",
		"max", "-mon", "chardev=monitor,mode=control", NULL };
	static const char *const accelerations[] = { "kvm:tcg", "kvm", "tcg" };
	int r = add(words, "%s", settings->qemu);
	if (r == 0)
		r = add(words, "-name");
	if (r == 0)
		r = add(words, "landfall-drill-%" PRIu64, order->id);
	if (r == 0)
		r = add(words, "-chardev");
	if (r == 0)
		r = add(words, "socket,id=monitor,fd=%d", QEMU_MONITOR_FD);
	if (r == 0)
		r = add_all(words, plain);
	if (r == 0)
		r = add(words, "-machine");
	if (r == 0)
		r = add(words, "q35,accel=%s", accelerations[settings->acceleration]);
	if (r == 0)
		r = add_size(words, settings);
	if (r == 0)
		r = add_console(words, order->directory);
	if (r == 0)
		r = add_network(words, settings->network, host_port, guest_port);
	if (r == 0)
		r = add_disks(words, settings->disks, order);
	if (r < 0)
		return error_set(
			error, r, NULL, "the machine cannot be described: %s", strerrordesc_np(-r));
	return wants_uefi(settings, order) ? add_uefi(words, order, error) : 0;
}
