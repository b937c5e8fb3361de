#!/usr/bin/env python3
"""A vault that takes requests and does not answer holds up nobody who does not need it.

Pausing ends the flush at once, removing a machine with --keep-vault does not wait for it, and while
a removal waits for the vault other machines are paused and added as ever, and it can be canceled.
Afterwards all goes on where it was.
"""

import contextlib
import os
import pathlib
import signal
import subprocess
import sys
import threading
import time

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1] / "lib"))

from appliance import (BUILD, MIB, Appliance, Rpc, StrictService, check, run_test, step,  # noqa: E402
                       wait_until)

ENDS_S = 60     # what a read or a job that needs a dead vault may take
LOOK_S = 120    # an idle group looks every 75 s at the most, and tries for half a minute
LONGEST_S = 4  # far below what a request that hangs is waited for
POLICIES = {"asked": {"point-interval": "0", "vault-interval": "1s", "retention": "all:1h"}}
HANG = {"kind": "hang", "hang_s": 300}


def write(appliance, machine, seed):
    appliance.write(machine, "d", 0, bytes([seed]) * MIB)


def add(appliance, machine):
    appliance.call("machine", "add", machine, "--source", "fuse", "--disk", "d=8M", "--policy",
                   "asked")


def begin(appliance, method, **parameters):
    with Rpc(appliance.socket) as rpc:
        return rpc.call(method, **parameters)["job"]


def in_time(what, action):
    before = time.monotonic()
    result = action()
    took = time.monotonic() - before
    check(took <= LONGEST_S, f"{what} took {took:.1f} s")
    print(f"   {what}: {took:.2f} s", flush=True)
    return result


def hanging(service, operation):
    service.admin("/rules/clear", {})
    service.admin("/rules", [{"match": {"operation": operation}, "times": 0, "fault": HANG}])


def fired(service):
    return sum(rule["fired"] for rule in service.admin("/rules"))


def flush_that_hangs(service, appliance, seed, operation):
    hanging(service, operation)
    write(appliance, "m", seed)
    point = appliance.create_point("m", "local")["number"]
    wait_until(30, lambda: fired(service) > 0, f"the flush asks for no {operation}")
    return point


def is_flushing(appliance):
    return appliance.machine("m")["flush"]["active"]


def pausing(service, appliance):
    for seed, operation in enumerate(("PutPage", "Snapshot", "PutBlockList"), 2):
        step(f"pausing while {operation} hangs")
        point = flush_that_hangs(service, appliance, seed, operation)
        in_time("pause", lambda: appliance.call("machine", "pause", "m"))
        in_time("the flush's end",
                lambda: wait_until(60, lambda: not is_flushing(appliance), "it goes on"))
        codes = [code for code in appliance.alerts("m") if code.startswith("vault")]
        check(not codes, f"a flush that was stopped is told of as a failure: {codes}")
        service.admin("/rules/clear", {})
        appliance.call("machine", "resume", "m")
        wait_until(60, lambda: appliance.call("point", "show", "m", point)["point"]["vault"],
                   "the flush does not go on")
        check(appliance.verify("m", point) == "vault", "it was not read from the vault")


def removing_here(service, appliance):
    step("removing a machine and keeping the vault while a flush hangs")
    flush_that_hangs(service, appliance, 9, "PutPage")
    in_time("remove", lambda: appliance.call("machine", "remove", "m", "--keep-vault"))
    check(fired(service) <= 64, "it went on asking")
    service.admin("/rules/clear", {})


def removing_there(service, appliance):
    step("removing a machine from a vault that hangs")
    add(appliance, "n")
    add(appliance, "other")
    write(appliance, "n", 1)
    appliance.create_point("n", "vault")
    service.admin("/down", {"mode": "hang"})
    job = begin(appliance, "machine.remove", name="n")
    wait_until(30, lambda: [s["state"] for s in
                            appliance.call("job", "show", job)["job"]["steps"]][1] == "running",
               "the removal does not get to the vault")
    in_time("pause of another", lambda: appliance.call("machine", "pause", "other"))
    in_time("resume of another", lambda: appliance.call("machine", "resume", "other"))
    appliance.call("job", "cancel", job)
    in_time("the canceled removal's end", lambda: wait_until(
        60, lambda: appliance.call("job", "show", job)["job"]["state"] == "canceled", "it goes on"))
    # Whoever watches meanwhile is not held up either; and in the end it is removed.
    watcher = threading.Thread(target=lambda: appliance.run("machine", "remove", "n"))
    watcher.start()
    in_time("pause of another", lambda: appliance.call("machine", "pause", "other"))
    service.admin("/down", {"mode": None})
    watcher.join(120)
    check(not watcher.is_alive(), "the removal does not end")
    appliance.refused(3, "machine", "show", "n")


def verifying(service, appliance):
    step("canceling a verification that hangs")
    appliance.call("machine", "resume", "other")
    write(appliance, "other", 1)
    appliance.create_point("other", "vault")
    service.admin("/rules", [{"match": {"operation": "GetBlob"}, "times": 0, "fault": HANG},
                             {"match": {"operation": "GetPageRanges"}, "times": 0, "fault": HANG}])
    job = begin(appliance, "verify", machine="other")
    wait_until(30, lambda: fired(service) > 0, "the verification asks nothing")
    appliance.call("job", "cancel", job)
    in_time("the canceled verification's end", lambda: wait_until(
        60, lambda: appliance.call("job", "show", job)["job"]["state"] == "canceled", "it goes on"))
    service.admin("/rules/clear", {})


def taking_over(service, work):
    """Every look into the vault is slow: the takeover is, and nothing else."""
    step("taking over from a vault that is slow")
    with Appliance(BUILD, work, service.connection_string, policies=POLICIES, name="b") as b:
        service.admin("/rules", [{"match": {"operation": operation}, "times": 0,
                                  "fault": {"kind": "delay", "delay_s": 2.5}}
                                 for operation in ("GetBlob", "ListBlobs")])
        job = b.call("vault", "takeover", "--group", "other", "--detach")["job"]
        longest, asked = 0, 0
        while b.call("job", "show", job)["job"]["state"] == "running":
            before = time.monotonic()
            b.call("policy", "set", f"p{asked}", "point-interval=1m")
            longest, asked = max(longest, time.monotonic() - before), asked + 1
        check(b.call("job", "show", job)["job"]["state"] == "done", "the takeover failed")
        print(f"   {asked} other commands, the longest {longest:.2f} s", flush=True)
        check(asked > 10 and longest <= LONGEST_S / 2, f"another command took {longest:.1f} s")
        service.admin("/rules/clear", {})


@contextlib.contextmanager
def stopped(service):
    """Connections are accepted by the kernel, and nobody ever answers."""
    os.kill(service.process.pid, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(service.process.pid, signal.SIGCONT)


def not_answering(service, work):
    """What needs the vault ends in time with a clear error, and the status tells at once; a group
    that nobody uses is told of as well, a little later."""
    with Appliance(BUILD, work, service.connection_string, policies=POLICIES, name="c") as c:
        add(c, "idle")
        c.call("vault", "takeover", "--group", "other")
        point = max(p["number"] for p in c.points("other") if p["vault"])
        write(c, "idle", 1)
        c.create_point("idle", "vault")
        step("a vault that has stopped answering")
        with stopped(service):
            begun = time.monotonic()
            dd = subprocess.run(["dd", f"if={c.live('other', 'd')}", "of=/dev/null", "bs=4096",
                                 "count=1", "iflag=direct"], capture_output=True, timeout=200,
                                check=False)
            took = time.monotonic() - begun
            print(f"   a read of the live disk: {took:.1f} s", flush=True)
            check(dd.returncode != 0, "a block was read that is nowhere but in the vault")
            check(took <= ENDS_S, f"the read took {took:.0f} s")
            c.wait_alert("other", "vault-unreachable", LONGEST_S)
            begun = time.monotonic()
            failed = c.run("verify", "other", str(point), timeout=300)
            took = time.monotonic() - begun
            print(f"   a verification: {took:.1f} s", flush=True)
            check(failed.returncode != 0 and took <= ENDS_S, f"verify took {took:.0f} s")
            text = failed.stdout + failed.stderr
            check("points of other" in text and "too slow" in text, f"the error is not clear: {text}")
            c.wait_alert("idle", "vault-unreachable", LOOK_S)
        step("it answers again")
        for machine in ("other", "idle"):
            wait_until(LOOK_S, lambda m=machine: not [a for a in c.alerts(m)
                                                      if a.startswith("vault")],
                       lambda m=machine: f"{m}: {c.alerts(m)}")
        check(c.verify("other", point) == "vault", "it was not read from the vault")


def test(work):
    with StrictService(work) as service, \
            Appliance(BUILD, work, service.connection_string, policies=POLICIES) as appliance:
        service.admin("/settings", {"fence_prefix": "machines/"})
        appliance.call("vault", "init")
        add(appliance, "m")
        write(appliance, "m", 1)
        appliance.create_point("m", "vault")
        pausing(service, appliance)
        removing_here(service, appliance)
        service.check_witness()
        removing_there(service, appliance)
        verifying(service, appliance)
        taking_over(service, work)
        not_answering(service, work)


if __name__ == "__main__":
    run_test(test)
