"""Whom a recovery point has stand still, and for how long: all that is mounted by then, nobody who only
unmounts, and nobody for what would take long or for a network that is gone.

mounts · elsewhere · remainder · lost · unproven
"""

import os
import pathlib
import shutil
import subprocess
import sys
import threading
import time

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1] / "lib"))
from agent import Agent, LoopDisk, Namespace
from appliance import (BUILD, FORGET_MOUNTS, MIB, Appliance, Failure, check, end_process, need,
                       run_test, shell, step, wait_until)
from churn import Counter
from images import Filesystem

POLICY = {"default": {"point-interval": "0", "retention": "all:1d"}}


def asking(appliance, *words):
    return subprocess.Popen([appliance.build / "landfall", "--socket", appliance.socket, "point",
                             "create", "web", *words], stdout=subprocess.DEVNULL,
                            stderr=subprocess.DEVNULL)


def enrolled(appliance, agent, *words):
    appliance.call("machine", "add", agent.machine, "--source", "agent", *words)
    agent.enroll(appliance)


def mounts(work):
    with Appliance(BUILD, work, policies=POLICY, journal_size="1G",
                   listen="127.0.0.1:0") as appliance, \
            LoopDisk(work, "root", 64 * MIB) as root, LoopDisk(work, "data", 64 * MIB) as data, \
            Agent(BUILD, work, "web") as agent:
        root.format()
        data.format()
        mounted = root.mount()
        data.mounted.mkdir()
        script = work / "pre"
        script.write_text(f"#!/bin/sh\nmount {data.device} {data.mounted} && "
                          f"echo unsynced > {data.mounted}/file\n", encoding="ascii")
        script.chmod(0o755)
        enrolled(appliance, agent)
        agent.start({"root": root.device, "data": data.device}, ["--pre-freeze", script])
        agent.wait_state("replicating", "freezing")

        step("what is mounted in the middle of a cut stands still with the rest")
        point = appliance.call("point", "create", "web", "--app")["point"]
        clone = appliance.call("clone", "create", "web", point["number"], "--quota", "64M")["clone"]
        with Filesystem(work, f"{clone['path']}/data.vhd", "ext4", "clone", make=False) as there:
            file = there.at / "file"
            check(file.exists() and file.read_text(encoding="ascii") == "unsynced\n",
                  "what was written before the cut is not in it")
        appliance.remove_clone(clone)

        step("whoever unmounts while a cut takes its time may")
        agent.stop()
        agent.start(options=["--bandwidth", "1M"])
        agent.wait_state("replicating", "freezing")
        (mounted / "large").write_bytes(os.urandom(8 * MIB))
        os.sync()
        sent = agent.status()["sent_bytes"]
        point = asking(appliance)
        try:
            wait_until(20, lambda: agent.status()["sent_bytes"] > sent + MIB, "nothing is copied")
            # For a moment it may be looked at, not for as long as copying takes.
            wait_until(1, lambda: subprocess.run(["umount", data.mounted], check=False,
                                                 capture_output=True).returncode == 0,
                       "it cannot be unmounted")
            check(point.poll() is None, "the cut was over by then")
            check(point.wait(60) == 0, "no point was made")
        finally:
            end_process(point)


def elsewhere(work):
    with Appliance(BUILD, work, policies=POLICY, journal_size="1G",
                   listen="127.0.0.1:0") as appliance, \
            LoopDisk(work, "data", 64 * MIB) as data, Agent(BUILD, work, "web") as agent:
        data.format()
        data.mounted.mkdir()
        enrolled(appliance, agent)
        agent.start({"data": data.device})
        agent.wait_state("replicating", "freezing")
        step("what only another mount namespace has mounted stands still, too")
        with subprocess.Popen(["unshare", "--mount", "--propagation", "private", "sh", "-c",
                               f"{FORGET_MOUNTS}mount {data.device} {data.mounted} && "
                               f"echo unsynced > {data.mounted}/file && echo ready && exec sleep 600"],
                              stdout=subprocess.PIPE, text=True) as other:
            try:
                check(other.stdout.readline() == "ready\n", "it cannot be mounted there")
                point = appliance.create_point("web")
            finally:
                end_process(other)
        clone = appliance.call("clone", "create", "web", point["number"], "--quota", "64M")["clone"]
        with Filesystem(work, f"{clone['path']}/data.vhd", "ext4", "clone", make=False) as there:
            file = there.at / "file"
            check(file.exists() and file.read_text(encoding="ascii") == "unsynced\n",
                  "what was written there before the cut is not in it")
        appliance.remove_clone(clone)


class Rewriter:
    """Rewrites a file all the time, durably, MiB by MiB; knows how long each took."""

    def __init__(self, path, mib):
        self.path, self.mib, self.stopping, self.took = path, mib, False, []
        self.thread = threading.Thread(target=self.main, daemon=True)

    def __enter__(self):
        self.thread.start()
        return self

    def main(self):
        with open(self.path, "wb", buffering=0) as file:
            while not self.stopping:
                for at in range(self.mib):
                    began = time.monotonic()
                    os.pwrite(file.fileno(), os.urandom(MIB), at * MIB)
                    os.fdatasync(file.fileno())
                    self.took.append(time.monotonic() - began)
                time.sleep(0.1)

    def __exit__(self, *_):
        self.stopping = True
        self.thread.join(60)


def remainder(work):
    with Namespace(f"lf{os.getpid()}") as network, \
            Appliance(BUILD, work, policies=POLICY, journal_size="2G",
                      listen=f"{network.host}:0") as appliance, \
            LoopDisk(work, "root", 128 * MIB) as root, \
            Agent(BUILD, work, "web", network=network) as agent:
        if not network.limit("48mbit"):
            print("skipped: this kernel cannot slow a network down")
            return
        root.format()
        mounted = root.mount()
        enrolled(appliance, agent)
        agent.start({"root": root.device}, ["--freeze-timeout", "6s"])
        agent.wait_state("replicating", "freezing")

        step("nobody stands still for what takes long to copy")
        with Rewriter(mounted / "hot", 64) as hot:
            wait_until(60, lambda: len(hot.took) > 64, "it writes too slowly")
            point = asking(appliance)
            try:
                wait_until(90, lambda: appliance.machine("web")["agent"]["cut_error"],
                           "the cut is not given up")
            finally:
                end_process(point)
            said = appliance.machine("web")["agent"]["cut_error"]
            longest = max(hot.took[64:])
        print(f"{said}; the longest write took {longest:.2f} s")
        check("would have stood still" in said, f"the cut was given up as {said}")
        check(longest < 2.5, f"a write took {longest:.1f} s")

        step("when less is written there are points again")
        appliance.create_point("web")


# Once, and not for ever, whatever becomes of the test: who syncs waits for it.
FREEZE_OUTER = """#!/bin/sh
[ ! -e {work}/frozen ] || exit 0
touch {work}/frozen
fsfreeze -f {at}
setsid sh -c 'sleep 25; fsfreeze -u {at}' >/dev/null 2>&1 &
"""


def lost(work):
    """The other machine takes long to freeze: what its disk lies on is frozen by its own command."""
    with Namespace(f"lf{os.getpid()}") as network, \
            Appliance(BUILD, work, policies=POLICY, journal_size="1G",
                      listen="0.0.0.0:0") as appliance, \
            LoopDisk(work, "here", 64 * MIB) as here, LoopDisk(work, "outer", 128 * MIB) as outer, \
            Agent(BUILD, work, "web", network=network) as web, Agent(BUILD, work, "db") as db:
        here.format()
        outer.format()
        outer_at, mounted = outer.mount(), here.mount()
        with LoopDisk(outer_at, "db", 32 * MIB) as there:
            there.format()
            there.mount()
            enrolled(appliance, web)
            enrolled(appliance, db, "--group", "web")
            web.start({"root": here.device}, ["--pre-freeze", "true", "--freeze-timeout", "20s"])
            script = work / "freeze-outer"
            script.write_text(FREEZE_OUTER.format(work=work, at=outer_at), encoding="ascii")
            script.chmod(0o755)
            db.start({"root": there.device}, ["--pre-freeze", script])
            for agent in (web, db):
                agent.wait_state("replicating", "freezing")

            step("a machine that stands still for others does not for a network that is gone")
            point = None
            try:
                with Counter([mounted / "counter"]) as counter:
                    def stands_still():
                        return counter.begun[0] and \
                            len(counter.begun[0]) > len(counter.ended[0]) and \
                            time.time() - counter.begun[0][-1] > 0.4
                    time.sleep(0.5)
                    point = asking(appliance, "--app")
                    wait_until(60, stands_still, "it does not stand still")
                    network.cut()
                    wait_until(30, lambda: not stands_still(), "it stands still for ever")
                    counter.stop()
                counter.check()
                print(f"it stood still for {counter.longest:.1f} s")
                check(counter.longest < 6, f"it stood still for {counter.longest:.1f} s")
            finally:
                (work / "frozen").touch()
                subprocess.run(["fsfreeze", "-u", outer_at], check=False, capture_output=True)
                network.mend()
                end_process(point)
            web.stop()
            db.stop()
            there.unmount()


def unproven(work):
    with Appliance(BUILD, work, policies=POLICY, journal_size="1G",
                   listen="127.0.0.1:0") as appliance, \
            LoopDisk(work, "root", 32 * MIB) as root, Agent(BUILD, work, "web") as agent:
        counts = pathlib.Path(f"/sys/class/block/{os.path.basename(root.device)}/queue/iostats")
        enrolled(appliance, agent)

        def says(offset):
            root.write(offset, os.urandom(4096))
            appliance.create_point("web")
            wait_until(20, lambda: agent.status().get("points", 0) > 0, "it knows of no point")
            return agent.status()["disks"][0]["unproven"], \
                appliance.machine("web")["agent"]["unproven"]
        step("capture that cannot be proven is told, and so is its end")
        counts.write_text("0", encoding="ascii")
        try:
            agent.start({"root": root.device})
            agent.wait_state("replicating", "freezing")
            own, told = says(8192)
            check(own and "statistics" in own and told and own in told, f"{own}; {told}")
            shown = agent.run("status", "--status-file", agent.status_file).stdout
            check("not proven" in shown, shown)
            agent.stop()
        finally:
            counts.write_text("1", encoding="ascii")
        shutil.rmtree(agent.pins)  # with what was seen and not counted
        agent.start()
        agent.wait_state("replicating", "freezing")
        check(says(16384) == (None, None), f"{says(24576)}")


def test(work):
    need("losetup", "ip", "nsenter", "unshare", "tc", "fsfreeze", "mkfs.ext4")
    parts = {"mounts": mounts, "elsewhere": elsewhere, "remainder": remainder, "lost": lost,
             "unproven": unproven}
    for name in sys.argv[1:] or parts:
        (work / name).mkdir()
        parts[name](work / name)


run_test(test)
