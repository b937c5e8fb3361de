#!/usr/bin/env python3
"""A journal that is older than its vault: the appliance's machine went back to a snapshot, its disk
came from a backup. Nothing in it is damaged; the vault alone knows better. What is made on top of
it is no state that the source ever had: it is told, no point is made of it and none gets into the
vault."""

import pathlib
import sys
import time

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1] / "lib"))

from appliance import BUILD, MIB, Appliance, StrictService, check, run_test, step, wait_until  # noqa: E402
from images import Disk, Image, vault_of  # noqa: E402

POLICIES = {"asked": {"point-interval": "0", "vault-interval": "1s", "retention": "all:1h"},
            "often": {"point-interval": "1s", "vault-interval": "1s", "retention": "all:1h"}}
DISK = 8 * MIB


class Source:
    """What the disk must hold, and what its points held."""

    def __init__(self, appliance):
        self.appliance = appliance
        self.content = bytearray(DISK)
        self.images = {}

    def write(self, at, byte):
        self.content[at:at + MIB] = byte * MIB
        self.appliance.write("web", "d", at, byte * MIB)

    def write_all(self):
        for at in range(0, DISK, MIB):
            self.appliance.write("web", "d", at, bytes(self.content[at:at + MIB]))

    def point(self, *words):
        """In the vault, and right there."""
        a = self.appliance
        with open(a.live("web", "d"), "rb") as live:
            check(live.read(DISK) == self.content, "the live disk is not what was written to it")
        number = a.call("point", "create", "web", "--wait", "vault", *words)["point"]["number"]
        self.images[number] = Image.of_file(a.live("web", "d"))
        return number

    def check_vault(self, service):
        """Just these points are there, each as it was."""
        vault = vault_of(service)
        numbers = {int(pathlib.PurePath(b["name"]).stem) for b in vault.list("test")
                   if "/points/" in b["name"] and b["name"].endswith(".json") and
                   b["metadata"]["kind"] != "abandoned"}
        check(numbers == set(self.images), f"points {sorted(numbers)} are in the vault instead of "
                                           f"{sorted(self.images)}")
        for number, image in self.images.items():
            image.check_same(Image.of_vault(vault, "test", "web", number, "web/d"),
                             f"point {number} in the vault")
        self.appliance.check_vault()


def begin(a, policy):
    a.call("vault", "init")
    a.call("machine", "add", "web", "--source", "fuse", "--disk", "d=8M", "--policy", policy)
    return Source(a)


def is_told(a, newest):
    a.wait_alert("web", "resync-needed", 60)
    # The disks are marked a moment before it is noted why.
    wait_until(10, lambda: f"the vault holds point {newest}" in
               a.alerts("web")["resync-needed"]["cause"], lambda: f"{a.alerts('web')}")
    alert = a.alerts("web")["resync-needed"]
    check("older" in alert["cause"] and
          "--resynced" in alert["mend"] and "takeover" in alert["mend"], f"{alert}")
    check(alert["severity"] == "critical", f"{alert}")
    machine = a.machine("web")
    check(machine["state"] == "resync-needed" and machine["health"] == "critical", f"{machine}")
    check(all(d["resync_needed"] for d in machine["disks"]), f"{machine['disks']}")
    a.refused(5, "point", "create", "web", says="--resynced")


def timer_rounds(a):
    name = 'landfall_timer_rounds_total{'
    return sum(int(float(line.split()[-1])) for line in
               a.run("metrics", json_output=False).stdout.splitlines() if line.startswith(name))


def goes_back(service, work, with_state):
    step(f"the journal {'and the state are' if with_state else 'is'} older than the vault")
    with Appliance(BUILD, work, service.connection_string, policies=POLICIES, name="a") as a:
        source = begin(a, "asked")
        source.write(0, b"1")
        source.point()
        a.stop()
        kept = Disk(work, a.journal, *([a.state] if with_state else []))
        a.start()
        for at, byte in ((MIB, b"2"), (2 * MIB, b"3")):
            source.write(at, byte)
            newest = source.point()
        a.stop()
        kept.go_back()
        a.start()
        is_told(a, newest)
        source.content[3 * MIB:4 * MIB] = b"4" * MIB
        a.write("web", "d", 3 * MIB, b"4" * MIB)
        a.kill()
        a.start()
        is_told(a, newest)
        source.check_vault(service)
        step("the mend: the content written again; it is asked for once")
        source.write_all()
        a.call("point", "create", "web", "--resynced")
        a.kill()
        a.start()
        number = source.point()
        wait_until(30, lambda: a.machine("web")["health"] == "ok", lambda: f"{a.machine('web')}")
        check(number > newest, f"{newest} is followed by {number}")
        # What was made with --resynced came first, or was passed by.
        first = [p["number"] for p in a.points("web")
                 if newest < p["number"] < number and p["vault"]]
        source.images.update({n: source.images[number] for n in first})
        source.check_vault(service)
        a.verify("web", number)
        a.stop()
        a.start()
        source.write(5 * MIB, b"5")
        source.point()
        check("resync-needed" not in a.alerts("web"), "it is needed once more")
        source.check_vault(service)


def goes_on_alone(service, work):
    step("what is sealed before the vault can say so is damaged, and stays out of it")
    with Appliance(BUILD, work, service.connection_string, policies=POLICIES, name="a") as a:
        source = begin(a, "asked")
        source.write(0, b"1")
        source.point()
        a.stop()
        kept = Disk(work, a.journal, a.state)
        a.start()
        source.write(MIB, b"2")
        newest = source.point()
        a.stop()
        kept.go_back()
        service.admin("/down", {"mode": "refuse"})
        a.start()
        mixed = []
        for byte in b"xyz":
            a.write("web", "d", 4 * MIB, bytes([byte]) * MIB)
            mixed.append(a.create_point("web")["number"])
        check(mixed[0] == newest and len(set(mixed)) == 3, f"{mixed}")
        service.admin("/down", {"mode": None})
        is_told(a, newest)
        points = {p["number"]: p for p in a.points("web")}
        for number in mixed:
            check(points[number]["damaged"] and not points[number]["vault"], f"{points[number]}")
        source.check_vault(service)
        step("the other mend: back to the newest point of the vault")
        a.call("machine", "remove", "web", "--keep-vault")
        a.call("vault", "takeover", "--group", "web")
        wait_until(30, lambda: a.machine("web")["state"] == "protected", "it is not protected")
        source.images[newest].check_same(Image.of_file(a.live("web", "d")), "the disk goes on")
        source.write(2 * MIB, b"3")
        source.point()
        source.check_vault(service)


def seals_by_itself(service, work):
    step("nor does the policy make points of it")
    with Appliance(BUILD, work, service.connection_string, policies=POLICIES, name="a") as a:
        source = begin(a, "often")
        a.write("web", "d", 0, b"1" * MIB)
        wait_until(30, lambda: a.machine("web")["state"] == "protected", "it is not protected")
        a.stop()
        kept = Disk(work, a.journal, a.state)
        a.start()
        source.write(MIB, b"2")
        source.content[:MIB] = b"1" * MIB
        newest = source.point()
        a.stop()
        kept.go_back()
        a.start()
        is_told(a, newest)
        before = [p["number"] for p in a.points("web")]
        begun = time.monotonic()
        for byte in b"xyz":
            a.write("web", "d", 4 * MIB, bytes([byte]) * MIB)
            rounds = timer_rounds(a)
            wait_until(30, lambda: timer_rounds(a) > rounds + 5 and time.monotonic() > begun + 2,
                       "the group's timer hangs")
            check([p["number"] for p in a.points("web")] == before, "points were made")
        a.stop()
        a.start()
        is_told(a, newest)
        check([p["number"] for p in a.points("web")] == before, "points were made")


def test(work):
    parts = (lambda s, w: goes_back(s, w, True), lambda s, w: goes_back(s, w, False),
             goes_on_alone, seals_by_itself)
    for number, part in enumerate(parts):
        own = work / str(number)
        own.mkdir()
        with StrictService(own) as service:
            service.admin("/settings", {"fence_prefix": "machines/"})
            part(service, own)
            service.check_witness()


if __name__ == "__main__":
    run_test(test)
