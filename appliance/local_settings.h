/*
 * How machines are started on the appliance itself: [local] of the configuration, checked.
 */
#pragma once

#include <regex.h>
#include <stdint.h>

#include "appliance/config.h"
#include "common/error.h"

enum local_acceleration { LOCAL_KVM_IF_THERE, LOCAL_KVM, LOCAL_EMULATION };
enum local_firmware { LOCAL_FIRMWARE_AUTO, LOCAL_FIRMWARE_BIOS, LOCAL_FIRMWARE_UEFI };
enum local_disks { LOCAL_DISKS_VIRTIO, LOCAL_DISKS_SCSI, LOCAL_DISKS_NVME };
enum local_network { LOCAL_NETWORK_ISOLATED, LOCAL_NETWORK_NONE };
enum local_probe { LOCAL_PROBE_SERIAL, LOCAL_PROBE_TCP };

/* Texts are borrowed from the configuration. */
struct local_settings {
	const char *qemu;
	uint64_t memory_bytes, cpus, quota_bytes;
	int64_t timeout_s;
	enum local_acceleration acceleration;
	enum local_firmware firmware;
	enum local_disks disks;
	enum local_network network;
	enum local_probe probe;
	const char *pattern; /* of the probe serial: an extended regular expression */
	unsigned port;       /* of the probe tcp */
};

/* -EINVAL names what is wrong, and *ret_key the key. */
int local_settings_read(const struct config_local *config, struct error *error,
	const char **ret_key, struct local_settings *ret_settings);
