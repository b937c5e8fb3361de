#!/usr/bin/env python3
"""A policy's bandwidth limits what is sent to the vault over all flushes together, however small each
is; and a reload changes it."""

import os
import pathlib
import sys
import time

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1] / "lib"))

from appliance import BUILD, MIB, Appliance, StrictService, check, run_test, step  # noqa: E402

SENT = 4 * MIB  # of each flush: one request
FLUSHES = 5
RATE = 4 * MIB
POLICIES = {"slow": {"point-interval": "0", "vault-interval": "1s", "retention": "all:1h",
                     "bandwidth": "4M"}}


def flushes(appliance):
    """Seconds for all of them."""
    began = time.monotonic()
    with open(appliance.live("m", "d"), "r+b", buffering=0) as live:
        for _ in range(FLUSHES):
            live.seek(0)
            live.write(os.urandom(SENT))
            appliance.create_point("m", "vault")
    return time.monotonic() - began


def test(work):
    with StrictService(work) as service, \
            Appliance(BUILD, work, service.connection_string, policies=POLICIES) as appliance:
        appliance.call("vault", "init")
        appliance.call("machine", "add", "m", "--source", "fuse", "--disk", "d=8M", "--policy", "slow")
        step("many flushes keep the limit that one keeps")
        # The first request is paid for afterwards, and a quarter of a second is let through at once.
        least = (FLUSHES * SENT - SENT - RATE / 4) / RATE
        took = flushes(appliance)
        print(f"{took:.1f} s, {least:.1f} s at least")
        check(took >= least, f"{FLUSHES * SENT // MIB} MiB took {took:.1f} s, not {least:.1f} s")
        step("without it they are let through")
        appliance.settings["policy slow"]["bandwidth"] = "unlimited"
        appliance.write_config()
        appliance.reload()
        appliance.create_point("m", "vault")
        sent = service.admin("/stats")["received_bytes"]
        flushes(appliance)
        check(service.admin("/stats")["received_bytes"] - sent >= FLUSHES * SENT, "nothing was sent")


if __name__ == "__main__":
    run_test(test)
