#!/usr/bin/env python3
"""Removed disks and the most that a group can have: what counts is said, what no point shows counts
no more, and a group that has had more disks than it can have at a time is taken over all the same."""
import pathlib
import sys

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1] / "lib"))

from appliance import (BUILD, MIB, Appliance, StrictService, check, run_test, step,  # noqa: E402
                       wait_until)

POLICIES = {"asked": {"point-interval": "0", "vault-interval": "1s", "retention": "all:1h"}}


def add(appliance, name, count):
    disks = [word for i in range(count) for word in ("--disk", f"d{i}=1M")]
    appliance.call("machine", "add", name, "--source", "fuse", "--group", "g", "--policy", "asked",
                   *disks)


def test(work):
    with StrictService(work) as service:
        with Appliance(BUILD, work, service.connection_string, policies=POLICIES,
                       name="a") as a:
            a.call("vault", "init")
            add(a, "stays", 1)
            add(a, "old", 100)
            a.write("old", "d7", 0, b"o" * MIB)
            first = a.create_point("old", "vault")["number"]
            a.call("machine", "remove", "old")
            step("a point shows the removed ones: they count, and the refusal says so")
            said = a.refused(2, "machine", "add", "new", "--source", "fuse", "--group", "g",
                             *[w for i in range(100) for w in ("--disk", f"d{i}=1M")],
                             says=("128 disks", "100 removed", f"point {first}"))
            check(f"point delete stays {first}" in said, f"no mend that frees them: {said}")
            step("they go with the points that show them")
            second = a.create_point("stays", "vault")["number"]
            a.call("point", "delete", "stays", first)
            wait_until(20, lambda: [p["number"] for p in a.points("stays")] == [second],
                       lambda: f"{a.points('stays')}")
            add(a, "new", 100)
            a.write("new", "d7", 0, b"n" * MIB)
            third = a.create_point("new", "vault", timeout=20)["number"]
            for number in (second, third):
                a.verify("stays", number)
            a.kill()
            a.start()
            a.verify("new", third)
            a.check_vault()
            a.kill()
        step("taken over: all that is there, and no trouble with what is not")
        with Appliance(BUILD, work, service.connection_string, policies=POLICIES,
                       name="b") as b:
            b.call("vault", "takeover", "--group", "g")
            with open(b.live("new", "d7"), "rb") as live:
                check(live.read(MIB) == b"n" * MIB, "the content is another")
            add(b, "more", 27)
            for number in (second, third, b.create_point("more", "vault")["number"]):
                b.verify("new", number)
            b.check_vault()


if __name__ == "__main__":
    run_test(test)
