"""How long filesystems stand still for recovery points, and how old the newest point is, both while
the machine's disks are written to steadily."""

import json
import os
import subprocess
import sys
import threading
import time

from agent import LoopDisk
from agent_copies import GIB, need_room, replicated
from appliance import MIB, TOP, Failure, Rpc, check, need, shell
from churn import Churn, instant, percentile
from figures import report, say

POINTS_SECONDS = 250
POINTS_CHECK_SECONDS = 900  # enough for all on an idle machine
RPO_SECONDS = 600
RPO_LIMIT_S = 5
RPO_CHURN_MB = 50
FILE_MIB = 2048
WATCHDOG_MS = 10000


# ── standing still ───────────────────────────────────────────────────────────────────────────

def bench_points(options, work):
    """The integration test, for longer and with more load; it judges the points' content as well."""
    need_room(work, 14 * GIB, "points")
    told = work / "points.json"
    environment = dict(os.environ, LANDFALL_BUILD=str(options.bin), LANDFALL_POINTS_REPORT=str(told),
                       LANDFALL_POINTS_SECONDS=str(options.seconds or POINTS_SECONDS),
                       LANDFALL_POINTS_RATE="8m", LANDFALL_POINTS_MIB="2048",
                       LANDFALL_POINTS_CHECK_SECONDS=str(POINTS_CHECK_SECONDS))
    done = subprocess.run([sys.executable, TOP / "tests/integration/agent_points_test.py"],
                          env=environment, check=False, stdout=sys.stderr)
    check(done.returncode == 0, f"agent_points_test ended with {done.returncode}")
    said = json.loads(told.read_text(encoding="utf-8"))
    stalls = said["stalls_ms"]
    what = (f"{len(stalls)} points in {said['seconds']} s, ext4 and xfs, "
            f"{said['written_bytes'] / said['seconds'] / 1e6:.0f} MB/s by fio, tar, sqlite and git; "
            f"{said['checked']} of {said['points']} mounted, checked and right; cuts that failed: "
            f"{said['failed']}")
    report("freeze, median", percentile(stalls, 0.5), "ms", 100, what)
    report("freeze, p99", percentile(stalls, 0.99), "ms", 250, "the same run")
    report("freeze, longest", max(stalls), "ms", WATCHDOG_MS, "the same run; the watchdog's limit")


# ── how old the newest point is ──────────────────────────────────────────────────────────────

class Ages:
    """What would be lost if the machine were gone now, asked ten times a second."""

    def __init__(self, appliance):
        self.rpc = Rpc(appliance.socket)
        self.seen = []  # (monotonic, seconds)
        self.numbers = set()
        self.failure = None
        self.stopping = threading.Event()
        self.thread = threading.Thread(target=self.main, daemon=True)

    def main(self):
        try:
            while not self.stopping.wait(0.1):
                machine = self.rpc.call("status", machine="web")["machines"][0]
                point = machine["newest_point"]
                self.numbers.add(point["number"])
                self.seen.append((time.monotonic(), time.time() - instant(point["time"])))
        except (OSError, Failure, TypeError, KeyError) as failure:
            self.failure = failure

    def __enter__(self):
        self.thread.start()
        return self

    def __exit__(self, *_):
        self.stopping.set()
        self.thread.join(60)
        self.rpc.socket.close()


def written_bytes(disk):
    with open(f"/sys/class/block/{os.path.basename(disk.device)}/stat", encoding="ascii") as file:
        return int(file.read().split()[6]) * 512


def minutes(ages, began, seconds):
    """A line a minute: (minute, least, median, p99, most)."""
    lines = []
    for first in range(0, seconds, 60):
        values = [age for at, age in ages if began + first <= at < began + first + 60]
        if values:
            lines.append((first // 60 + 1, min(values), percentile(values, 0.5),
                          percentile(values, 0.99), max(values)))
    return lines


def bench_rpo(options, work):
    need("fio", "losetup", "mkfs.ext4")
    seconds = options.seconds or RPO_SECONDS
    # Nothing is flushed meanwhile, and from 80 % on the journal takes in what the vault lets it.
    journal = int((FILE_MIB * 2 ** 20 + seconds * RPO_CHURN_MB * 1.1e6) / 0.75)
    need_room(work, journal + 3 * GIB, "rpo")
    policies = {"default": {"point-interval": "1s", "vault-interval": "1h", "rpo-alert": "2h",
                            "retention": "all:1d"}}
    with LoopDisk(work, "busy", 4 * GIB) as disk, \
            replicated(options, work, journal, policies) as (appliance, agent):
        disk.format("ext4")
        there = disk.mount()
        shell("dd", "if=/dev/urandom", f"of={there}/file", "bs=1M", f"count={FILE_MIB}", "conv=fsync")
        agent.start({"d": disk.device})
        agent.wait_state("replicating", seconds=120)
        appliance.create_point("web")
        say(f"{seconds} s of {RPO_CHURN_MB} MB/s")
        with Churn(work / "churn.log", f"{RPO_CHURN_MB * 1000 * 1000}") as churn:
            churn.write(there / "file")
            before, began = written_bytes(disk), time.monotonic()
            with Ages(appliance) as ages:
                while time.monotonic() < began + seconds and not ages.failure:
                    churn.check()
                    time.sleep(0.5)
            wrote = (written_bytes(disk) - before) / (time.monotonic() - began) / 1e6
            check(not ages.failure, f"the appliance does not answer: {ages.failure}")
        lost = agent.log.read_text(encoding="utf-8").count("may have been missed (")
        table = minutes(ages.seen, began, seconds)
        for minute, least, median, p99, most in table:
            print(f"|   minute {minute} | | {least:.2f} / {median:.2f} / {p99:.2f} / {most:.2f} s | "
                  f"{most / RPO_LIMIT_S:.2f} | least / median / p99 / most |", file=sys.stderr)
            print(json.dumps({"figure": "rpo", "minute": minute, "min": round(least, 3),
                              "median": round(median, 3), "p99": round(p99, 3),
                              "max": round(most, 3)}), flush=True)
        every = [age for _, age in ages.seen]
        what = (f"{len(ages.numbers)} points in {seconds} s; {wrote:.0f} MB/s reached the disk; asked "
                f"{len(every)} times; comparisons for lost trace events: {lost}")
        report("RPO on the appliance, p99", percentile(every, 0.99), "s", RPO_LIMIT_S, what)
        report("RPO on the appliance, most", max(every), "s", RPO_LIMIT_S, "the same run")
