#!/usr/bin/env python3
"""Kills the real daemon again and again under load, and checks every promise after each kill.

    sigkill_test.py --bin DIR [--kills 100] [--seed S]

Two disks are written through the mount: `a` by ackwriter, which keeps a ledger of what was
acknowledged (see ackwriter.c), `b` by fio as plain load. At a random moment the daemon gets
SIGKILL. After its restart disk a must hold, block for block, what was acknowledged or something
attempted later; every recovery point taken so far must hold exactly what its ledger says, as long
as it is listed. A strict page-blob service stands in for the vault, so flushes are killed too; at
the end the vault is checked, every one of its points verified, and the service must not have seen
one unfenced change.
"""

import argparse
import os
import pathlib
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time

TOP = pathlib.Path(__file__).resolve().parents[2]
sys.path.insert(0, str(TOP / "tests" / "lib"))

from appliance import Appliance, Failure, StrictService, wait_until  # noqa: E402

DISK_MIB = 64
BLOCKS = DISK_MIB * 256


class Writer:
    """ackwriter on a live disk."""

    def __init__(self, binary, disk, ledger, seed):
        self.ledger = ledger
        self.process = subprocess.Popen([binary, "write", disk, ledger, str(BLOCKS), str(seed)])

    def freeze(self, seal):
        """Stops writing, calls seal(), goes on; returns (seal's answer, the ledger then)."""
        ready = pathlib.Path(f"{self.ledger}.ready")
        ready.unlink(missing_ok=True)
        self.process.send_signal(signal.SIGUSR1)
        wait_until(20, ready.exists, "ackwriter does not freeze")
        answer = seal()
        kept = f"{self.ledger}.{answer}"
        os.rename(ready, kept)
        self.process.send_signal(signal.SIGUSR2)
        return answer, kept

    def end(self):
        """After the daemon's death: the writer finds out by itself."""
        try:
            status = self.process.wait(20)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
            raise Failure("ackwriter hangs on a dead mount") from None
        if status not in (0, 3):
            raise Failure(f"ackwriter ended with {status}")


def start_fio(disk, seed, log):
    return subprocess.Popen(
        ["fio", "--name=load", f"--filename={disk}", f"--size={DISK_MIB}m", "--rw=randwrite",
         "--bsrange=512-256k", "--blockalign=512", "--ioengine=psync", "--fsync=32",
         "--time_based", "--runtime=60", "--thread", f"--randseed={seed}", "--overwrite=1",
         "--allow_file_create=0"],
        stdout=log, stderr=log)


def has_open(pid, path):
    """True once the process holds the file open."""
    try:
        return any(os.readlink(link) == path for link in pathlib.Path(f"/proc/{pid}/fd").iterdir())
    except FileNotFoundError:
        return False


def check(binary, disk, ledger, what):
    done = subprocess.run([binary, "check", disk, ledger, str(BLOCKS)], capture_output=True,
                          text=True, check=False)
    if done.returncode != 0:
        raise Failure(f"{what}: {done.stdout}{done.stderr}")


def check_points(appliance, binary, ledgers):
    """Every point still listed holds what its ledger says. Returns how many were compared."""
    listed = {point["number"]: point for point in appliance.call("point", "list", "m")["points"]}
    compared = 0
    for number, ledger in ledgers.items():
        point = listed.get(number)
        if point is None:
            continue
        if point["damaged"]:
            raise Failure(f"point {number} is marked as damaged")
        check(binary, f"{point['path']}/a.vhd", ledger, f"point {number}")
        compared += 1
    return compared


def one_kill(appliance, binary, work, dice, ledgers, log):
    live = f"{appliance.mount}/m/live"
    writer = Writer(binary, f"{live}/a.vhd", f"{work}/ledger", dice.getrandbits(32))
    fio = start_fio(f"{live}/b.vhd", dice.getrandbits(31), log)
    try:
        wait_until(20, lambda: fio.poll() is not None or has_open(fio.pid, f"{live}/b.vhd"),
                   "fio does not open disk b")
        time.sleep(dice.uniform(0.05, 0.6))  # the load itself, not a wait for something
        if dice.random() < 0.4:
            number, ledger = writer.freeze(
                lambda: appliance.call("point", "create", "m")["point"]["number"])
            ledgers[number] = ledger
            time.sleep(dice.uniform(0, 0.2))
        if fio.poll() is not None:
            raise Failure(f"fio ended by itself with {fio.returncode}: there was no load")
        appliance.kill()
        writer.end()
    finally:
        if writer.process.poll() is None:
            writer.process.kill()
            writer.process.wait()
        fio.terminate()
        fio.wait()
    appliance.start()
    check(binary, f"{live}/a.vhd", f"{work}/ledger", "after the restart, disk a")
    recent = dict(list(ledgers.items())[-3:])
    check_points(appliance, binary, recent)


def run(arguments, work):
    dice = random.Random(arguments.seed)
    binary = str(pathlib.Path(arguments.bin) / "tests" / "ackwriter")
    ledgers = {}
    with StrictService(work) as service, open(f"{work}/fio.log", "w", encoding="utf-8") as log:
        service.admin("/settings", {"fence_prefix": "machines/"})
        appliance = Appliance(arguments.bin, work, service.connection_string,
                              journal_size="2G", policies={"fast": {
                                  "point-interval": "1s", "vault-interval": "2s",
                                  "retention": "all:1h"}})
        with appliance:
            appliance.call("vault", "init")
            appliance.call("machine", "add", "m", "--source", "fuse", "--disk", f"a={DISK_MIB}M",
                           "--disk", f"b={DISK_MIB}M", "--policy", "fast")
            for kill in range(arguments.kills):
                try:
                    one_kill(appliance, binary, work, dice, ledgers, log)
                except Failure as failure:
                    raise Failure(f"kill {kill + 1} (--seed {arguments.seed}): {failure}") from None
                if (kill + 1) % 10 == 0:
                    print(f"{kill + 1} kills survived, {len(ledgers)} points on record", flush=True)
            compared = check_points(appliance, binary, ledgers)
            if compared == 0:
                raise Failure("no recovery point was left to compare: nothing is proven")
            appliance.call("point", "create", "m", "--wait", "vault")
            appliance.call("vault", "check")
            for point in appliance.call("point", "list", "m")["points"]:
                if point["vault"]:
                    appliance.call("verify", "m", str(point["number"]))
        seen = service.admin("/stats")
        if seen["unfenced"] or seen["unnumbered"] or seen["bad_signatures"]:
            raise Failure(f"the service saw changes without their fence: {seen}")
    print(f"{arguments.kills} kills, {compared} recovery points compared block by block, "
          f"seed {arguments.seed}")


def main():
    parser = argparse.ArgumentParser(description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bin", required=True, help="the build directory")
    parser.add_argument("--kills", type=int, default=100)
    parser.add_argument("--seed", type=int, default=time.time_ns() % 1_000_000)
    arguments = parser.parse_args()
    print(f"seed {arguments.seed}", flush=True)
    work = tempfile.mkdtemp(prefix="landfall-sigkill-", dir="/var/tmp")
    try:
        run(arguments, work)
    except Failure as failure:
        log = pathlib.Path(work) / "landfalld.log"
        if log.exists():
            print(log.read_text(encoding="utf-8", errors="replace")[-4000:], file=sys.stderr)
        print(f"sigkill_test: {failure}\nto repeat: {sys.argv[0]} --bin {arguments.bin} "
              f"--kills {arguments.kills} --seed {arguments.seed}", file=sys.stderr)
        return 1
    finally:
        if not os.environ.get("LANDFALL_KEEP"):
            shutil.rmtree(work, ignore_errors=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
