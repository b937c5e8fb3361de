#!/usr/bin/env python3
"""A machine that is removed from a group that lives on, and added again: its disk has the name, and
so the blob, of the one before, and shows nothing of what that held. What was sealed of the old one
and is flushed only after the new one was added stays the old one's."""

import pathlib
import sys

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1] / "lib"))

from appliance import BUILD, MIB, Appliance, StrictService, check, run_test, step  # noqa: E402
from images import Image, vault_of  # noqa: E402

POLICIES = {"asked": {"point-interval": "0", "vault-interval": "1d", "rpo-alert": "0",
                      "retention": "all:1h"}}


def write(appliance, machine, data):
    with open(appliance.live(machine, "d"), "r+b", buffering=0) as live:
        live.write(data)


def flushed(service, appliance, machine, group):
    """The live disk's image, once it is proven to be what the vault has of it."""
    live = Image.of_file(appliance.live(machine, "d"))
    number = appliance.create_point(machine, "vault")["number"]
    live.check_same(Image.of_vault(vault_of(service), "test", group, number, f"{machine}/d"),
                    f"{machine}: point {number} in the vault")
    appliance.verify(machine, number)
    return number


def again(service, appliance, work, group, size, between):
    step(f"again with {size}, {between}")
    appliance.call("machine", "add", "one", "--source", "fuse", "--disk", "d=8M", "--policy",
                   "asked", "--group", group)
    appliance.call("machine", "add", "two", "--source", "fuse", "--disk", "d=8M", "--group", group)
    write(appliance, "one", b"1" * MIB)
    write(appliance, "two", b"S" * (2 * MIB))
    old = {flushed(service, appliance, "two", group): Image.of_file(appliance.live("two", "d"))}
    if between == "a sealed point is not flushed yet":
        write(appliance, "two", b"T" * (3 * MIB))
        old[appliance.create_point("two")["number"]] = Image.of_file(appliance.live("two", "d"))
    appliance.call("machine", "remove", "two")
    if between == "a point without it is flushed":
        appliance.create_point("one", "vault")
    appliance.call("machine", "add", "two", "--source", "fuse", "--disk", f"d={size}", "--group",
                   group)
    check(not any(open(appliance.live("two", "d"), "rb").read(4 * MIB)), "it is not zeros")
    write(appliance, "two", b"X" * MIB)
    if between == "a restart":
        appliance.kill()
        appliance.start()
    flushed(service, appliance, "two", group)
    write(appliance, "two", b"Y" * (MIB // 2))
    newest = flushed(service, appliance, "two", group)
    live = Image.of_file(appliance.live("two", "d"))
    for number, image in old.items():
        if any(p["number"] == number and p["vault"] for p in appliance.points("one")):
            image.check_same(Image.of_vault(vault_of(service), "test", group, number, "two/d"),
                             f"the old disk's point {number}")
    appliance.check_vault()
    appliance.stop()
    with Appliance(BUILD, work, service.connection_string, policies=POLICIES,
                   name=f"next-{group}") as later:
        later.call("vault", "takeover", "--group", group)
        live.check_same(Image.of_file(later.live("two", "d")), "after a takeover")
        check(newest in {p["number"] for p in later.points("two")}, "the newest point is gone")
        later.call("machine", "remove", "one")
        later.call("machine", "remove", "two")
    appliance.lose_everything()
    appliance.start()


def test(work):
    with StrictService(work) as service, \
            Appliance(BUILD, work, service.connection_string, policies=POLICIES) as appliance:
        service.admin("/settings", {"fence_prefix": "machines/"})
        appliance.call("vault", "init")
        for i, (size, between) in enumerate((
                ("8M", "nothing"), ("16M", "nothing"), ("4M", "nothing"),
                ("8M", "a point without it is flushed"),
                ("16M", "a sealed point is not flushed yet"), ("8M", "a restart"))):
            again(service, appliance, work, f"g{i}", size, between)
        service.check_witness()


if __name__ == "__main__":
    run_test(test)
