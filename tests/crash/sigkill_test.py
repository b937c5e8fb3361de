#!/usr/bin/env python3
"""Kills the real daemon again and again under load, and checks every promise after each kill.

    sigkill_test.py --bin DIR [--kills 100] [--seed S]

Two disks of one machine are written through the mount by an ackwriter each, which keeps a ledger
of what was acknowledged (see ackwriter.c); the second half of disk b by fio as well. At a random
moment the daemon gets SIGKILL, no sooner than fio and both writers have written. After its restart
each disk must hold, block for block, what was acknowledged or something attempted later, and each
of fio's blocks must be whole and in its place; every recovery point taken so far must hold exactly
what its ledgers say, as long as it is listed. A strict page-blob service stands in for the vault,
so flushes are killed too; at the end the vault is checked, every one of its points verified, and
the service must not have seen one unfenced change.
"""

import argparse
import os
import pathlib
import random
import shutil
import signal
import struct
import subprocess
import sys
import tempfile
import time

TOP = pathlib.Path(__file__).resolve().parents[2]
sys.path.insert(0, str(TOP / "tests" / "lib"))

from appliance import Appliance, Failure, StrictService, wait_until  # noqa: E402

WRITER_MIB = 64  # of each disk, from its beginning
FIO_MIB = 32     # behind that, on disk b
BLOCKS = WRITER_MIB * 256
DISKS = ("a", "b")


class Writer:
    """ackwriter on a live disk."""

    def __init__(self, binary, disk, ledger, seed):
        self.ledger = ledger
        self.process = subprocess.Popen([binary, "write", disk, ledger, str(BLOCKS), str(seed)])

    def ask_to_freeze(self):
        pathlib.Path(f"{self.ledger}.ready").unlink(missing_ok=True)
        self.process.send_signal(signal.SIGUSR1)

    def wait_frozen(self):
        wait_until(20, pathlib.Path(f"{self.ledger}.ready").exists, "ackwriter does not freeze")

    def thaw(self, name):
        """Goes on; returns the ledger as it was, under that name."""
        kept = f"{self.ledger}.{name}"
        os.rename(f"{self.ledger}.ready", kept)
        self.process.send_signal(signal.SIGUSR2)
        return kept

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


class Fio:
    """Load on the second half of disk b. Each 4 KiB it writes begins with a header and a checksum
    of their own, so that any of them proves itself."""

    COMMON = ("--name=load", f"--offset={WRITER_MIB}m", f"--size={FIO_MIB}m", "--thread",
              "--ioengine=psync", "--verify=crc32c", "--verify_interval=4096",
              "--verify_state_save=0",
              "--allow_file_create=0")

    def __init__(self, disk, seed, log):
        self.log = log
        self.log_begin = log.tell()
        self.process = subprocess.Popen(
            ["fio", f"--filename={disk}", *self.COMMON, "--rw=randwrite", "--bsrange=4k-256k",
             "--blockalign=4k", "--do_verify=0", "--norandommap", "--fsync=32", "--time_based",
             "--runtime=120", f"--randseed={seed}", "--overwrite=1"], stdout=log, stderr=log)

    @classmethod
    def whole_run(cls, disk, log, *options):
        return subprocess.run(["fio", f"--filename={disk}", *cls.COMMON, "--bs=256k", *options],
                              stdout=log, stderr=log, check=False, timeout=120).returncode

    @classmethod
    def fill(cls, disk, log):
        if cls.whole_run(disk, log, "--rw=write", "--do_verify=0", "--end_fsync=1") != 0:
            raise Failure("fio cannot fill its half of the disk")

    @classmethod
    def check(cls, disk, log, what):
        if cls.whole_run(disk, log, "--rw=read", "--verify_fatal=1") != 0:
            raise Failure(f"{what}: a block of fio's is not whole or not in its place")

    def written(self):
        """Bytes it has passed to write calls, a report to its log among them at most."""
        try:
            text = pathlib.Path(f"/proc/{self.process.pid}/io").read_text(encoding="ascii")
        except (FileNotFoundError, ProcessLookupError):
            return 0
        return next(int(line.split()[1]) for line in text.splitlines()
                    if line.startswith("wchar:"))

    def has_written(self):
        if self.process.poll() is not None:
            raise Failure(f"fio ended by itself with {self.process.returncode}: no load")
        return self.written() > 1 << 20

    def end(self):
        """After the daemon's death: it must find out by itself and say so."""
        try:
            status = self.process.wait(20)
        except subprocess.TimeoutExpired:
            raise Failure("fio hangs on a dead mount") from None
        self.log.flush()
        text = pathlib.Path(self.log.name).read_bytes()[self.log_begin:]
        if status != 1 or b"io_u error" not in text:
            raise Failure(f"fio ended with {status}, and not of an error of its disk: "
                          f"{text[-500:].decode(errors='replace')}")


def check(binary, disk, ledger, what):
    done = subprocess.run([binary, "check", disk, ledger, str(BLOCKS)], capture_output=True,
                          text=True, check=False)
    if done.returncode != 0:
        raise Failure(f"{what}: {done.stdout}{done.stderr}")


def check_points(appliance, binary, ledgers):
    """Every point still listed holds what its ledger says. Returns how many were compared."""
    listed = {point["number"]: point for point in appliance.call("point", "list", "m")["points"]}
    compared = 0
    for number, kept in ledgers.items():
        point = listed.get(number)
        if point is None:
            continue
        if point["damaged"]:
            raise Failure(f"point {number} is marked as damaged")
        for disk, ledger in kept.items():
            check(binary, f"{point['path']}/{disk}.vhd", ledger, f"point {number}, disk {disk}")
        compared += 1
    return compared


def seal_frozen(appliance, writers, ledgers):
    """A point at which all writers rest, so that it has to hold exactly what they say."""
    for writer in writers.values():
        writer.ask_to_freeze()
    for writer in writers.values():
        writer.wait_frozen()
    number = appliance.call("point", "create", "m")["point"]["number"]
    ledgers[number] = {disk: writer.thaw(number) for disk, writer in writers.items()}


def acknowledged(ledger):
    """How many acknowledgements are on record: the second number of each block's four."""
    data = pathlib.Path(ledger).read_bytes()
    return sum(entry[1] for entry in struct.iter_unpack("<4I", data))


def one_kill(appliance, binary, work, dice, ledgers, log, last):
    live = {disk: f"{appliance.mount}/m/live/{disk}.vhd" for disk in DISKS}
    ledger = {disk: f"{work}/ledger-{disk}" for disk in DISKS}
    before = {d: acknowledged(ledger[d]) if os.path.exists(ledger[d]) else 0 for d in DISKS}
    writers, fio = {}, None
    try:
        for disk in DISKS:
            writers[disk] = Writer(binary, live[disk], ledger[disk], dice.getrandbits(32))
        fio = Fio(live["b"], dice.getrandbits(31), log)
        wait_until(20, fio.has_written, "fio does not write")
        for disk in DISKS:
            wait_until(20, lambda d=disk: os.path.exists(ledger[d]) and
                       acknowledged(ledger[d]) > before[d], f"nothing is written to disk {disk}")
        time.sleep(dice.uniform(0.02, 0.5))  # the load itself, not a wait for something
        if dice.random() < 0.4 or last:
            seal_frozen(appliance, writers, ledgers)
            time.sleep(dice.uniform(0, 0.2))
        fio.has_written()
        appliance.kill()
        for writer in writers.values():
            writer.end()
        fio.end()
    finally:
        for process in [w.process for w in writers.values()] + ([fio.process] if fio else []):
            if process.poll() is None:
                process.kill()
                process.wait()
    appliance.start()
    for disk in DISKS:
        check(binary, live[disk], ledger[disk], f"after the restart, disk {disk}")
    Fio.check(live["b"], log, "after the restart, disk b")
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
            appliance.call("machine", "add", "m", "--source", "fuse", "--disk", f"a={WRITER_MIB}M",
                           "--disk", f"b={WRITER_MIB + FIO_MIB}M", "--policy", "fast")
            Fio.fill(f"{appliance.mount}/m/live/b.vhd", log)
            for kill in range(arguments.kills):
                try:
                    one_kill(appliance, binary, work, dice, ledgers, log,
                             kill + 1 == arguments.kills)
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
    print(f"{arguments.kills} kills, {compared} recovery points of {len(DISKS)} disks compared "
          f"block by block, seed {arguments.seed}")


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
