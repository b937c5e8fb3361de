#!/usr/bin/env python3
"""A journal that is older than its vault, of a machine with an agent: the agent's disks are compared
by themselves, and the next point is the source's, whether the vault tells of the loss at once or
after points were made on top of it."""

import os
import pathlib
import sys

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1] / "lib"))

from agent import Agent, LoopDisk, check_equal  # noqa: E402
from appliance import BUILD, MIB, Appliance, StrictService, check, need, run_test, step, wait_until  # noqa: E402
from images import Disk  # noqa: E402

POLICIES = {"asked": {"point-interval": "0", "vault-interval": "1s", "retention": "all:1h"}}


def write_and_seal(a, disk, numbers, wait):
    for number in numbers:
        disk.write(number * MIB, os.urandom(MIB))
        point = a.create_point("web", wait)
    return point["number"]


def comes_back(service, a, agent, disk, work):
    agent.enroll(a)
    agent.start({"root": disk.device})
    write_and_seal(a, disk, (0,), "vault")
    for away in (False, True):
        step("the vault is away first, and points are made" if away else "the vault tells at once")
        a.stop()
        kept = Disk(work, a.journal, a.state)
        a.start()
        newest = write_and_seal(a, disk, (1, 2), "vault")
        a.stop()
        kept.go_back()
        mixed = 0
        if away:
            service.admin("/down", {"mode": "refuse"})
        a.start()
        if away:
            mixed = write_and_seal(a, disk, (3, 4, 5), "local")
            check(mixed > newest, f"{mixed} is not above {newest}")
            service.admin("/down", {"mode": None})
            wait_until(60, lambda: any(p["damaged"] for p in a.points("web")), "no loss is told")
        disk.write(6 * MIB, os.urandom(MIB))
        wait_until(60, lambda: f"the vault holds point {newest}" in a.log_end(8000),
                   "no loss is told")
        point = a.create_point("web", "vault")
        check(point["number"] > max(newest, mixed), f"{point}")
        check_equal(a, disk, point)
        a.verify("web", point["number"])
        wait_until(30, lambda: a.machine("web")["health"] == "ok", lambda: f"{a.machine('web')}")
        for p in a.points("web"):
            check(not (p["vault"] and p["damaged"]), f"{p}")
            check(p["damaged"] == (newest <= p["number"] <= mixed) or p["number"] < newest, f"{p}")
        a.check_vault()


def test(work):
    need("losetup")
    with StrictService(work) as service, \
            Appliance(BUILD, work, service.connection_string, policies=POLICIES,
                      listen="127.0.0.1:0") as a, \
            LoopDisk(work, "root", 16 * MIB) as disk, Agent(BUILD, work, "web") as agent:
        a.call("vault", "init")
        a.call("machine", "add", "web", "--source", "agent", "--policy", "asked")
        a.keep_agent_port()
        comes_back(service, a, agent, disk, work)


if __name__ == "__main__":
    run_test(test)
