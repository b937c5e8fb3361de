#!/usr/bin/env python3
"""Recovery points as people use them: by number, name, time and word; made by policy, kept,
thinned and deleted; twenty thousand of them; two machines with one history."""

import datetime
import json
import os
import pathlib
import sys
import time

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1] / "lib"))

from appliance import (BUILD, MIB, Appliance, Rpc, StrictService, check, run_test, step,
                       wait_until)  # noqa: E402
from images import Image, Record, Scribbler, vault_of  # noqa: E402

MANY = 20_000
POLICIES = {"asked": {"point-interval": "0", "vault-interval": "1s", "retention": "all:1h"},
            "brief": {"point-interval": "1s", "vault-interval": "1s", "retention": "all:4s"}}


def write(path, offset=0, data=b"x" * 4096):
    fd = os.open(path, os.O_WRONLY)
    try:
        os.pwrite(fd, data, offset)
        os.fsync(fd)
    finally:
        os.close(fd)


def add(appliance, name, policy, *options):
    appliance.call("machine", "add", name, "--source", "fuse", "--disk", "d=8M", "--policy", policy,
                   *options)


def moment(point):
    return datetime.datetime.fromisoformat(point["time"][:26] + "+00:00")


def ways_to_name(appliance):
    """POINT: a number, a name, a time, latest, latest-processed, latest-app."""
    step("names of points")
    add(appliance, "named", "asked")
    made = []
    for i in range(3):
        write(appliance.live("named", "d"), i * 4096)
        if made:  # whole seconds tell them apart
            wait_until(5, lambda: datetime.datetime.now(datetime.timezone.utc) >
                       moment(made[-1]) + datetime.timedelta(seconds=1.1), "time stands still")
        words = ["point", "create", "named", "--wait", "vault" if i == 0 else "local"]
        made.append(appliance.call(*words, *(["--app"] if i == 1 else []))["point"])
    numbers = [p["number"] for p in made]
    check(numbers == sorted(set(numbers)), f"numbers do not rise: {numbers}")

    def found(text):
        return appliance.call("point", "show", "named", text)["point"]["number"]
    for point in made:
        check(found(point["number"]) == found(point["name"]) == point["number"],
              f"{point['name']} is another")
        check(point["name"] == f"{point['number']}-{moment(point):%Y%m%dT%H%M%SZ}", point["name"])
        check(found(point["time"]) == point["number"], f"not by its time {point['time']}")
        check(os.path.isfile(f"{point['path']}/d.vhd"), f"{point['path']} is not there")
    second = moment(made[1]).replace(microsecond=0) + datetime.timedelta(seconds=1)
    check(found(second.strftime("%Y-%m-%dT%H:%M:%SZ")) == numbers[1], "not the newest before")
    check(found(second.strftime("%Y%m%dT%H%M%SZ")) == numbers[1], "the short form of a time")
    check(found("latest") == numbers[2], "latest")
    before = max(p["number"] for p in appliance.points("named") if p["vault"])
    processed = found("latest-processed")
    after = max(p["number"] for p in appliance.points("named") if p["vault"])
    check(before <= processed <= after, f"latest-processed is {processed}")
    check(found("latest-app") == numbers[1] and made[1]["kind"] == "application", "latest-app")
    link = os.readlink(f"{appliance.mount}/named/points/latest")
    check(link.rstrip("/").endswith(made[2]["name"]), f"points/latest is {link}")


def keep_and_delete(appliance):
    step("kept, deleted")
    add(appliance, "kept", "asked")
    images, numbers = {}, []
    for i in range(4):
        write(appliance.live("kept", "d"), i * 4096, bytes([i + 1]) * 4096)
        numbers.append(appliance.create_point("kept", "vault")["number"])
        images[numbers[-1]] = Image.of_file(appliance.live("kept", "d"))
    kept = appliance.call("point", "keep", "kept", numbers[1])["point"]
    check(kept["keep"], "the mark is not shown")
    check(not appliance.call("point", "keep", "kept", numbers[1], "--off")["point"]["keep"], "--off")
    appliance.refused(5, "point", "delete", "kept", numbers[3])
    check(appliance.call("point", "delete", "kept", numbers[2])["deleted"] == numbers[2], "deleted")
    appliance.refused(3, "point", "show", "kept", numbers[2])
    listed = [p["number"] for p in appliance.points("kept")]
    check(listed == [numbers[0], numbers[1], numbers[3]], f"left are {listed}")
    for number in listed:
        path = appliance.call("point", "show", "kept", number)["point"]["path"]
        images[number].check_same(Image.of_file(f"{path}/d.vhd"), f"point {number}")


def kept_goes_first(appliance):
    """A point that is kept and only local goes to the vault before a newer one passes it by."""
    step("kept before it is in the vault")
    local = []
    for i in range(3):
        write(appliance.live("kept", "d"), i * 4096, bytes([0x50 + i]) * 4096)
        local.append(appliance.create_point("kept", "local")["number"])
        if i == 1:
            kept = Image.of_file(appliance.live("kept", "d"))
    appliance.call("point", "keep", "kept", local[1])
    newest = appliance.create_point("kept", "vault")["number"]
    points = {p["number"]: p for p in appliance.points("kept")}
    check(points[local[1]]["vault"], f"point {local[1]} is kept, and passed by")
    check(points[newest]["vault"], f"point {newest} is not in the vault")
    path = appliance.call("point", "show", "kept", local[1])["point"]["path"]
    kept.check_same(Image.of_file(f"{path}/d.vhd"), f"the kept point {local[1]}")


def keep_holds_or_refuses(appliance, service):
    """What the journal may let go of is not promised: a local point that a newer one has passed by
    on its way to the vault, whether that has arrived or is under way, is not to be kept."""
    step("a mark is taken only for what is held")

    def sealed(seed):
        write(appliance.live("kept", "d"), 0, bytes([seed]) * 4096)
        return appliance.create_point("kept", "local")["number"]

    def is_marked(number):
        return appliance.call("point", "show", "kept", number)["point"]["keep"]
    appliance.create_point("kept", "vault")  # the next flush is due when it is asked for
    appliance.call("machine", "pause", "kept")
    passed = sealed(0x61)
    service.admin("/rules", [{"match": {"operation": "PutPage", "blob": "machines/kept/*"},
                              "fault": {"kind": "hang", "hang_s": 8}}])
    newer = sealed(0x62)
    appliance.call("machine", "resume", "kept")
    wait_until(20, lambda: service.admin("/rules")[-1]["fired"] > 0, "nothing is flushed")
    appliance.refused(5, "point", "keep", "kept", passed, says=("point", str(newer)))
    check(not is_marked(passed), "a mark that was refused is shown")
    check(appliance.call("point", "keep", "kept", newer)["point"]["keep"], "what is being sent")
    service.admin("/rules/clear", {})
    wait_until(60, lambda: appliance.call("point", "show", "kept", newer)["point"]["vault"],
               "the flush does not go on")
    appliance.refused(5, "point", "keep", "kept", passed, says=("point", str(newer)))
    check(not is_marked(passed), "a mark that was refused is shown")
    appliance.call("point", "keep", "kept", newer, "--off")
    appliance.call("point", "keep", "kept", passed, "--off")  # harmless, and no reason to refuse


def open_while_deleted(appliance):
    """A point that someone reads is refused or goes on being readable: never torn."""
    point = appliance.call("point", "show", "kept", "1")["point"]
    before = Image.of_file(f"{point['path']}/d.vhd")
    with open(f"{point['path']}/d.vhd", "rb") as file:
        done = appliance.run("point", "delete", "kept", point["number"])
        data = file.read()
        check(done.returncode in (0, 5), f"{done.stdout}")
        if done.returncode == 5:
            before.check_same(Image.of_pieces(len(data), [data]), "a point that is open")


def thinning(appliance, service):
    """Points of a second's interval, of which retention leaves the newest seconds and the kept."""
    step("made by policy, thinned by retention")
    add(appliance, "brief", "brief")
    with Scribbler(appliance.live("brief", "d"), appliance.work / "mirror", 8 * MIB, 1) as writer:
        writer.start(pause_s=0.02)
        wait_until(30, lambda: any(p["vault"] for p in appliance.points("brief")),
                   "no point reaches the vault")
        first = next(p["number"] for p in appliance.points("brief") if p["vault"])
        appliance.call("point", "keep", "brief", first)
        wait_until(60, lambda: appliance.points("brief")[-1]["number"] >= first + 10,
                   "the policy makes no points")
        writer.pause()
    times = [moment(p) for p in appliance.points("brief")[-5:]]
    gaps = [(b - a).total_seconds() for a, b in zip(times, times[1:])]
    check(0.5 < sum(gaps) / len(gaps) < 3, f"an interval of 1 s makes points every {gaps} s")
    point = appliance.create_point("brief", "vault")

    def vault_points():
        return [p["number"] for p in appliance.points("brief") if p["vault"]]
    wait_until(60, lambda: len(vault_points()) <= 6, lambda: f"not thinned: {vault_points()}")
    left = vault_points()
    check(first in left and point["number"] in left, f"{first} was kept, yet left are {left}")
    vault = vault_of(service)

    def manifests():
        return {int(b["name"].rsplit("/", 1)[1][:-5]) for b in vault.list("test", "groups/brief/points/")
                if b["name"].endswith(".json") and b["metadata"].get("kind") != "abandoned"}
    wait_until(60, lambda: manifests() == set(vault_points()),
               lambda: f"the vault holds {manifests()}, listed are {vault_points()}")
    for number in vault_points():
        appliance.verify("brief", number)


def one_history(appliance, service):
    """Two machines of a group: a point of one is a point of both, at one instant."""
    step("two machines, one history")
    add(appliance, "left", "asked", "--group", "pair")
    appliance.call("machine", "add", "right", "--source", "fuse", "--disk", "d=8M", "--group", "pair")
    record = Record(appliance, "pair")
    for i in range(3):
        write(appliance.live("left", "d"), i * 4096, b"l" * 4096)
        write(appliance.live("right", "d"), i * 8192, b"r" * 8192)
        point = appliance.create_point(("left", "right")[i % 2], "vault")
        record.images[point["number"]] = {f"{m}/d": Image.of_file(appliance.live(m, "d"))
                                          for m in ("left", "right")}
    check([p["number"] for p in appliance.points("left")] ==
          [p["number"] for p in appliance.points("right")], "the machines' points differ")
    check(len(record.check_local()) == len(record.check_vault(vault_of(service))) == 3, "missing")
    appliance.refused(5, "machine", "add", "third", "--source", "fuse", "--disk", "d=8M", "--group",
                      "pair", "--policy", "brief")
    appliance.call("machine", "remove", "right")
    check([p["number"] for p in appliance.points("left")] == list(record.images), "points are gone")
    appliance.refused(3, "machine", "show", "right")
    check(not os.path.exists(f"{appliance.mount}/right"), "it is still in the mount")


def remove_and_begin_anew(appliance, service):
    """Removing the last machine empties the vault of it; its name may be used again."""
    step("remove, add again")
    appliance.call("machine", "remove", "kept", timeout=120)
    names = {b["name"] for b in vault_of(service).list("test")}
    check(not any(n.startswith(("machines/kept/", "groups/kept/")) for n in names), f"{names}")
    add(appliance, "kept", "asked")
    check(appliance.points("kept") == [], "an old point is back")
    check(not any(Image.of_file(appliance.live("kept", "d")).digest ==
                  Image.of_file(appliance.live(m, "d")).digest for m in ("left",)), "old content")
    appliance.create_point("kept", "vault")
    appliance.verify("kept", "latest")


def many(appliance):
    """Twenty thousand points: sealed in no time, listed in no time, in the mount, too."""
    step(f"{MANY} points")
    add(appliance, "many", "asked")
    appliance.call("machine", "pause", "many")
    began = time.monotonic()
    with Rpc(appliance.socket, timeout=120) as rpc:
        asked = answered = 0
        while answered < MANY:
            while asked < MANY and asked - answered < 32:
                rpc.request("point.create", machine="many")
                asked += 1
            answer = rpc.line()
            check("result" in answer, f"{answer}")
            answered += 1
    print(f"made in {time.monotonic() - began:.1f} s")
    for what, ask in (("point list", lambda: len(appliance.points("many"))),
                      ("the mount", lambda: len(os.listdir(f"{appliance.mount}/many/points")) - 1)):
        began = time.monotonic()
        check(ask() == MANY, f"{what} shows {ask()} points")
        took = time.monotonic() - began
        print(f"{what}: {took:.2f} s")
        check(took < 15, f"{what} takes {took:.1f} s for {MANY} points")
    page = json.loads(appliance.run("point", "list", "many").stdout)["points"]
    check(page[MANY // 2]["name"] in os.listdir(f"{appliance.mount}/many/points"), "names differ")
    began = time.monotonic()
    appliance.call("point", "show", "many", MANY // 2)
    appliance.call("status")
    check(time.monotonic() - began < 3, "status and point show are slow")
    appliance.kill()
    began = time.monotonic()
    appliance.start()
    print(f"restart with them: {time.monotonic() - began:.1f} s")
    check(len(appliance.points("many")) == MANY, "points are gone after SIGKILL")


def test(work):
    with StrictService(work) as service, \
            Appliance(BUILD, work, service.connection_string, policies=POLICIES,
                      journal_size="2G") as appliance:
        appliance.call("vault", "init")
        ways_to_name(appliance)
        keep_and_delete(appliance)
        kept_goes_first(appliance)
        keep_holds_or_refuses(appliance, service)
        open_while_deleted(appliance)
        one_history(appliance, service)
        thinning(appliance, service)
        remove_and_begin_anew(appliance, service)
        appliance.check_vault()
        many(appliance)
        for name in ("named", "left", "brief", "many"):
            check(appliance.machine(name)["point_count"] > 0, f"{name} has no points")


if __name__ == "__main__":
    run_test(test)
