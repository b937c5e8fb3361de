#!/usr/bin/env python3
"""A daemon with nothing to do keeps no connections to the vault, and takes them up again."""

import os
import pathlib
import sys

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1] / "lib"))

from appliance import (BUILD, MIB, Appliance, StrictService, check, run_test, step,  # noqa: E402
                       wait_until)

POLICIES = {"rare": {"point-interval": "1h", "vault-interval": "1h", "rpo-alert": "0",
                     "retention": "all:1h"}}
MACHINES = [f"m{i}" for i in range(5)]
ESTABLISHED = "01"


def connections(service):
    """How many connections to the service there are."""
    port = int(service.connection_string.split("127.0.0.1:")[1].split("/")[0])
    with open("/proc/net/tcp", encoding="ascii") as table:
        lines = [line.split() for line in table]
    return sum(1 for line in lines if line[2].endswith(f":{port:04X}") and line[3] == ESTABLISHED)


def points(appliance, seed):
    """A point of each machine in the vault, and an old one read from there."""
    for machine in MACHINES:
        with open(appliance.live(machine, "d"), "r+b") as file:
            file.write(bytes([seed]) * MIB)
            os.fsync(file.fileno())
        point = appliance.create_point(machine, "vault")
        check(appliance.verify(machine, point["number"]) == "vault", "not read from the vault")


def test(work):
    with StrictService(work) as service, \
            Appliance(BUILD, work, service.connection_string, policies=POLICIES) as appliance:
        appliance.call("vault", "init")
        for machine in MACHINES:
            appliance.call("machine", "add", machine, "--source", "fuse", "--disk", "d=8M",
                           "--policy", "rare")
        for seed in (1, 2):
            step("busy, then idle")
            points(appliance, seed)
            check(connections(service) > 0, "no connection is kept for the next flush")
            wait_until(60, lambda: connections(service) == 0,
                       lambda: f"{connections(service)} connections are kept")
        appliance.check_vault()


if __name__ == "__main__":
    run_test(test)
