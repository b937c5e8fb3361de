#!/usr/bin/env python3
"""What a takeover and a removal must not destroy: points newer than the newest whole one, all of a
group when none of its points is whole, what was left when somebody deleted manifests, and the disks
of another group's machine of the same name. What somebody deleted is told by `vault check`."""

import pathlib
import sys

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1] / "lib"))

from appliance import (BUILD, MIB, Appliance, StrictService, check, run_test, step,  # noqa: E402
                       wait_until)
from images import Image, vault_of  # noqa: E402

POLICIES = {"asked": {"point-interval": "0", "vault-interval": "1s", "retention": "all:1h"}}
BLOB = "machines/web/d.vhd"


def write(appliance, data, machine="web"):
    with open(appliance.live(machine, "d"), "r+b", buffering=0) as live:
        live.write(data)


def add(appliance, machine="web", group="prod"):
    appliance.call("machine", "add", machine, "--source", "fuse", "--disk", "d=8M", "--policy",
                   "asked", "--group", group)


def two_points(appliance):
    """What the two points hold, by number."""
    images = {}
    for byte in (b"S", b"T"):
        write(appliance, byte * (2 * MIB))
        image = Image.of_file(appliance.live("web", "d"))
        images[appliance.create_point("web", "vault")["number"]] = image
    return images


def contents(service):
    """Everything in the vault that a takeover could spoil: names, snapshots, the base's bytes."""
    vault = vault_of(service)
    length, pieces = vault.pieces("test", BLOB)
    return ([(b["name"], b["snapshot"]) for b in vault.list("test") if "owner" not in b["name"]],
            [bytes(data) for _, data in pieces], length)


def are_right(service, images, group="prod"):
    for number, image in images.items():
        image.check_same(Image.of_vault(vault_of(service), "test", group, number, "web/d"),
                         f"point {number} in the vault")


def lose_snapshot(service, number):
    snapshot = next(d["snapshot"] for d in
                    vault_of(service).manifest("test", "prod", number)["disks"])
    vault_of(service).request("DELETE", f"/test/{BLOB}", {"snapshot": snapshot})


def damaged(service, work):
    step("the newest point is damaged: nothing is thrown away unless it is asked for")
    with Appliance(BUILD, work, service.connection_string, policies=POLICIES, name="a") as a:
        a.call("vault", "init")
        add(a)
        images = two_points(a)
        first, second = images
        a.kill()
        lose_snapshot(service, second)
        before = contents(service)
        with Appliance(BUILD, work, service.connection_string, policies=POLICIES, name="b") as b:
            b.refused(1, "vault", "takeover", says=(f"newest point, {second}", "--discard-damaged",
                                                    f"point {first}"))
            check(contents(service) == before, "the vault was changed")
            b.refused(2, "vault", "takeover", "--discard-damaged", says="--group")
            b.call("vault", "takeover", "--group", "prod", "--discard-damaged")
            images[first].check_same(Image.of_file(b.live("web", "d")), "the disk goes on")
            are_right(service, {first: images.pop(first)})
            write(b, b"U" * MIB)
            number = b.create_point("web", "vault")["number"]
            are_right(service, {number: Image.of_file(b.live("web", "d"))})
            b.check_vault()
            b.kill()
            step("no point is whole: nothing is touched, asked for or not")
            for point in (first, number):
                lose_snapshot(service, point)
            before = contents(service)
            with Appliance(BUILD, work, service.connection_string, policies=POLICIES,
                           name="c") as c:
                for words in ((), ("--discard-damaged",)):
                    c.refused(1, "vault", "takeover", "--group", "prod", *words,
                              says=("none of its points is whole", "nothing was changed"))
                check(contents(service) == before, "the vault was changed")


def missing(service, work):
    step("a point without its snapshot: verify and the alert say just that, after a restart, too")
    with Appliance(BUILD, work, service.connection_string, policies=POLICIES, name="a") as a:
        a.call("vault", "init")
        add(a)
        first = min(two_points(a))
        snapshot = vault_of(service).manifest("test", "prod", first)["disks"][0]["snapshot"]
        lose_snapshot(service, first)
        words = (snapshot, BLOB, "is missing")
        a.refused(1, "verify", "web", first, says=words)
        for _ in range(2):
            alert = a.wait_alert("web", "verify-failed")
            check(all(word in alert["cause"] for word in words) and "differ" not in alert["cause"],
                  f"the cause: {alert}")
            check(f"point delete web {first}" in alert["mend"], f"the mend: {alert}")
            a.kill()
            a.start()
        a.call("point", "delete", "web", first)
        wait_until(20, lambda: "verify-failed" not in a.alerts("web"), "the alert stays")


def delete(service, *names):
    """From outside: a lifecycle rule, a mistaken hand."""
    for name in names:
        vault_of(service).request("DELETE", f"/test/{name}")


def put(service, name, data):
    vault_of(service).request("PUT", f"/test/{name}", data=data,
                              headers={"x-ms-blob-type": "BlockBlob"})


def manifest_name(number, group="prod"):
    return f"groups/{group}/points/{number}.json"


def faults(appliance):
    """What `vault check` tells; it must fail."""
    done = appliance.run("vault", "check")
    check(done.returncode == 1, f"vault check: exit {done.returncode}: {done.stdout}{done.stderr}")
    jobs = appliance.call("job", "list")["jobs"]
    last = max((j for j in jobs if j["kind"] == "vault.check"), key=lambda j: j["id"])
    result = appliance.call("job", "show", last["id"])["job"]["result"]
    check(result["missing"] == len(result["faults"]) > 0, f"{result}")
    return "\n".join(result["faults"])


def manifests_gone(service, work):
    step("deleted manifests: the check names them, and nothing that they explained is deleted")
    with Appliance(BUILD, work, service.connection_string, policies=POLICIES, name="a") as a:
        a.call("vault", "init")
        add(a)
        images = two_points(a)
        images.update({n: i for n, i in two_points(a).items() if n not in images})
        numbers = sorted(images)
        kept = {n: vault_of(service).content("test", manifest_name(n)) for n in numbers}
        delete(service, manifest_name(numbers[-1]))
        check(f"point {numbers[-1]} of group prod" in faults(a), "the newest is not named")
        delete(service, *map(manifest_name, numbers[:-1]))
        told = faults(a)
        for number in numbers:
            check(told.count(f"point {number} of group prod") == 1, f"point {number}: {told}")
        before = contents(service)
        step("nor by the next start, or a takeover")
        a.stop()
        a.start()
        wait_until(60, lambda: "what nothing explains there is kept" in a.log_end(),
                   "it is not looked at")
        write(a, b"W" * MIB)
        a.create_point("web")
        alert = a.wait_alert("web", "flush-failed", 60)
        check("undelete" in alert["mend"] and "keep-vault" in alert["mend"], f"{alert}")
        check(contents(service) == before, "the vault was changed")
        a.kill()
        with Appliance(BUILD, work, service.connection_string, policies=POLICIES, name="b") as b:
            told = faults(b)
            check(all(f"point {n} of group prod" in told for n in numbers), told)
            for words in ((), ("--discard-damaged",)):
                b.refused(1, "vault", "takeover", "--group", "prod", *words,
                          says=("none of its points is whole", "nothing was changed"))
            check(contents(service) == before, "the vault was changed")
            step("some came back: it is said what would be lost")
            put_back(service, kept, numbers[:1])
            b.refused(1, "vault", "takeover", "--group", "prod",
                      says=(f"up to {numbers[-1]}", "--discard-damaged", f"point {numbers[0]}"))
            step("all came back: nothing is lost")
            put_back(service, kept, numbers[1:])
            b.call("vault", "takeover", "--group", "prod")
            are_right(service, images)
            images[numbers[-1]].check_same(Image.of_file(b.live("web", "d")), "the disk goes on")
            b.check_vault()


def put_back(service, kept, numbers):
    for number in numbers:
        put(service, manifest_name(number), kept[number])


def owner_gone(service, work):
    step("a deleted owner.json: the check names it and what it told of; the alert tells the truth")
    with Appliance(BUILD, work, service.connection_string, policies=POLICIES, name="a") as a:
        a.call("vault", "init")
        add(a)
        images = two_points(a)
        owner = vault_of(service).content("test", "groups/prod/owner.json")
        before = contents(service)
        delete(service, "groups/prod/owner.json")
        told = faults(a)
        check("groups/prod/owner.json is missing" in told and BLOB in told, told)
        step("it came back: all is well")
        put(service, "groups/prod/owner.json", owner)
        a.check_vault()
        a.stop()
        a.start()
        wait_until(60, lambda: a.machine("web")["state"] == "protected", "it is not protected")
        a.verify("web", a.create_point("web", "vault")["number"])
        images.update({a.points("web")[-1]["number"]: images[max(images)]})
        step("it is lost, and the daemon starts again")
        delete(service, "groups/prod/owner.json")
        before = contents(service)
        a.stop()
        a.start()
        for _ in range(2):
            alert = a.wait_alert("web", "taken-over", 60)
            check("owner.json" in alert["cause"] and "another appliance now" not in alert["text"] and
                  "vault takeover --group prod" in alert["mend"], f"{alert}")
            check(contents(service) == before, "the vault was changed")
            a.stop()
            a.start()
        a.call("vault", "takeover", "--group", "prod")
        wait_until(60, lambda: a.machine("web")["state"] == "protected", "it is not protected")
        check("taken-over" not in a.alerts("web"), "the alert stays")
        are_right(service, images)
        write(a, b"N" * MIB)
        a.verify("web", a.create_point("web", "vault")["number"])
        a.check_vault()
        step("all of the group is gone but its disk; then that, too")
        names = {b["name"] for b in vault_of(service).list("test")}
        delete(service, *(n for n in names if n.startswith("groups/")))
        told = faults(a)
        check("groups/prod/owner.json is missing" in told and BLOB in told, told)


def namesakes(service, work):
    step("a machine of a name that another group's has is refused, or harms nothing")
    with Appliance(BUILD, work, service.connection_string, policies=POLICIES, name="a") as a, \
            Appliance(BUILD, work, service.connection_string, policies=POLICIES, name="b") as b:
        a.call("vault", "init")
        add(a)
        images = two_points(a)
        before = contents(service)
        b.refused(5, "machine", "add", "web", "--source", "fuse", "--disk", "d=8M",
                  says=("machine web", "another"))
        # Where the vault cannot be asked it is found out later.
        service.admin("/down", {"mode": "refuse"})
        add(b, group="mine")
        write(b, b"X" * MIB)
        service.admin("/down", {"mode": None})
        alert = b.wait_alert("web", "vault-refused", 60)
        check("another group" in alert["text"] + alert["cause"], f"{alert}")
        b.run("vault", "takeover", "--group", "mine")
        b.call("machine", "remove", "web")
        left = contents(service)
        check([n for n in left[0] if "mine" not in n[0]] == before[0] and left[1:] == before[1:],
              "the other's disk was changed")
        are_right(service, images)
        a.check_vault()
        write(a, b"V" * MIB)
        number = a.create_point("web", "vault")["number"]
        are_right(service, {number: Image.of_file(a.live("web", "d"))})

        step("the same after it was removed and kept, or left a group that lives on")
        add(a, "other")
        a.call("machine", "remove", "web")
        a.refused(5, "machine", "add", "web", "--source", "fuse", "--disk", "d=8M",
                  says=("machine web", "another"))
        are_right(service, images)
        a.check_vault()
    service.check_witness()


def test(work):
    for number, part in enumerate((damaged, missing, manifests_gone, owner_gone, namesakes)):
        own = work / str(number)
        own.mkdir()
        with StrictService(own) as service:
            service.admin("/settings", {"fence_prefix": "machines/"})
            part(service, own)


if __name__ == "__main__":
    run_test(test)
