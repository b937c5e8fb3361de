#!/usr/bin/env python3
"""The disks of one flush are sent at once: each blob is kept below its own limit, and none waits
for another's. What arrives is what was written, and memory stays bounded."""

import os
import pathlib
import sys
import time

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1] / "lib"))

from appliance import (BUILD, MIB, Appliance, StrictService, check, run_test, step)  # noqa: E402
from images import Image, Record, vault_of  # noqa: E402

DISKS = ("a", "b", "c")
SIZE = 16 * MIB
RATE = 2 * MIB
BURST = 8 * MIB  # two of the largest puts
ALONE = (SIZE - BURST) / RATE  # seconds that one disk's limit takes
MEMORY = 128 * MIB  # the daemon's peak; of that, 36 MiB of buffers and 16 MiB of hashes


def peak_memory(appliance):
    status = pathlib.Path(f"/proc/{appliance.process.pid}/status").read_text(encoding="ascii")
    return int(status.split("VmHWM:")[1].split()[0]) * 1024


def is_sanitized():
    program = (BUILD / "landfalld").read_bytes()
    return b"__asan_init" in program or b"__tsan_init" in program


def timed_flush(appliance, record):
    """Writes all of all disks anew; seconds until that is in the vault."""
    for disk in DISKS:
        with open(appliance.live("m", disk), "r+b") as file:
            file.write(os.urandom(SIZE))
            os.fsync(file.fileno())
    images = {f"m/{disk}": Image.of_file(appliance.live("m", disk)) for disk in DISKS}
    began = time.monotonic()
    point = appliance.create_point("m", "vault")
    seconds = time.monotonic() - began
    record.images[point["number"]] = images
    return seconds


def test(work):
    policies = {"asked": {"point-interval": "0", "vault-interval": "1d", "rpo-alert": "0",
                          "retention": "all:1h"}}
    with StrictService(work) as service:
        appliance = Appliance(BUILD, work, service.connection_string, policies=policies)
        service.admin("/settings", {"fence_prefix": "machines/"})
        appliance.settings["vault"] |= {"blob_bandwidth": RATE, "blob_requests": "unlimited"}
        appliance.write_config()
        with appliance:
            appliance.call("vault", "init")
            appliance.call("machine", "add", "m", "--source", "fuse", "--policy", "asked",
                           *[word for disk in DISKS for word in ("--disk", f"{disk}=16M")])
            record = Record(appliance, "m")
            step("with a limit for each blob")
            seconds = timed_flush(appliance, record)
            print(f"{seconds:.1f} s for {len(DISKS)} disks, {ALONE:.1f} s of limit each")
            check(seconds >= 0.9 * ALONE, "a blob's limit was not kept")
            check(seconds < 0.8 * len(DISKS) * ALONE, "one disk waited for the other")
            step("without limits")
            appliance.stop()
            appliance.settings["vault"]["blob_bandwidth"] = "unlimited"
            appliance.write_config()
            appliance.start()
            timed_flush(appliance, record)
            peak = peak_memory(appliance)
            print(f"{peak / MIB:.0f} MiB of memory at most")
            check(peak < MEMORY or is_sanitized(), "a flush takes too much memory")
            check(len(record.check_vault(vault_of(service))) == 2, "vault points are missing")
            appliance.check_vault()
        service.check_witness()


if __name__ == "__main__":
    run_test(test)
