#!/usr/bin/env python3
"""Figures of the whole appliance, each beside what one would use instead, in one run.

    system_bench.py --bin BUILD [--dir DIR] [fuse flush memory]

Prints one JSON object a line, as fs_bench does. `--bin` is a release build.
"""

import argparse
import json
import os
import pathlib
import statistics
import subprocess
import sys
import tempfile
import time

TOP = pathlib.Path(__file__).resolve().parents[2]
sys.path.insert(0, str(TOP / "tests" / "lib"))

from appliance import Appliance, Failure, StrictService, wait_until  # noqa: E402

MIB = 1 << 20


def report(figure, value, unit, goal, met, detail):
    print(json.dumps({"figure": figure, "value": round(value, 3), "unit": unit, "goal": goal,
                      "met": bool(met), "detail": detail}), flush=True)


# ── FUSE ─────────────────────────────────────────────────────────────────────────────────────

FUSE_MIB = 1024


def fio(path, pattern, block, jobs, seconds=2):
    """(IOPS, MB/s) of one fio run on a file that exists."""
    kind = "read" if "read" in pattern else "write"
    done = subprocess.run(
        ["fio", "--output-format=json", "--name=f", f"--filename={path}", f"--rw={pattern}",
         f"--bs={block}", f"--size={FUSE_MIB - 64}m", f"--numjobs={jobs}", "--group_reporting",
         "--ioengine=psync", "--time_based", f"--runtime={seconds}", "--allow_file_create=0",
         "--overwrite=1", "--fallocate=none", "--randrepeat=0"],
        capture_output=True, text=True, check=True)
    result = json.loads(done.stdout[done.stdout.index("{"):])["jobs"][0][kind]
    return result["iops"], result["bw_bytes"] / 1e6


class NullServer:
    def __init__(self, build, work):
        self.directory = f"{work}/null"
        os.mkdir(self.directory)
        self.process = subprocess.Popen([f"{build}/tests/null_fuse", self.directory,
                                         str(FUSE_MIB * MIB)])
        self.path = f"{self.directory}/null"
        wait_until(10, lambda: os.path.exists(self.path), "null_fuse does not mount")

    def end(self):
        self.process.terminate()
        self.process.wait(10)


class QemuExport:
    """qemu-storage-daemon's FUSE export of a raw file."""

    def __init__(self, work):
        self.path = f"{work}/export"
        raw = f"{work}/export.raw"
        pathlib.Path(self.path).touch()
        with open(raw, "wb") as file:
            for _ in range(FUSE_MIB):
                file.write(os.urandom(4096) * 256)
        self.process = subprocess.Popen(
            ["qemu-storage-daemon", "--blockdev", f"driver=file,filename={raw},node-name=f",
             "--blockdev", "driver=raw,file=f,node-name=r", "--export",
             f"type=fuse,id=e,node-name=r,mountpoint={self.path},writable=on"])
        wait_until(10, lambda: os.path.getsize(self.path) == FUSE_MIB * MIB,
                   "qemu-storage-daemon does not export")

    def end(self):
        self.process.terminate()
        self.process.wait(10)


def bench_fuse(build, work):
    null = NullServer(build, work)
    qemu = QemuExport(work)
    appliance = Appliance(build, work, journal_size="24G",
                          policies={"none": {"point-interval": "0", "vault-interval": "1d",
                                              "rpo-alert": "0"}})
    with appliance:
        appliance.call("machine", "add", "m", "--source", "fuse", "--disk", f"d={FUSE_MIB}M",
                       "--policy", "none")
        ours = f"{appliance.mount}/m/live/d.vhd"
        subprocess.run(["dd", f"if={work}/export.raw", f"of={ours}", "bs=1M", "conv=notrunc,fsync",
                        "status=none"], check=True)
        # The export's file is in the kernel's memory, because it was written through it; the
        # journal is written past it. So it is read once: no figure is the disk's.
        subprocess.run(["dd", f"if={ours}", "of=/dev/null", "bs=1M", "status=none"], check=True)
        paths = {"ours": ours, "null": null.path, "qemu": qemu.path}
        for figure, pattern, block, jobs in (
                ("4 KiB random reads, 1 job", "randread", "4k", 1),
                ("4 KiB random reads, 4 jobs", "randread", "4k", 4),
                ("1 MiB reads", "read", "1m", 1),
                ("4 KiB random writes, 1 job", "randwrite", "4k", 1),
                ("4 KiB random writes, 4 jobs", "randwrite", "4k", 4),
                ("1 MiB reads of what 4 KiB writes left", "read", "1m", 1),
                ("1 MiB writes", "write", "1m", 1)):
            taken = {name: [] for name in paths}
            for _ in range(5):
                for name, path in paths.items():
                    taken[name].append(fio(path, pattern, block, jobs)[1])
            median = {name: statistics.median(values) for name, values in taken.items()}
            for other, goal in (("null", 0.8), ("qemu", 1.5)):
                ratio = median["ours"] / median[other]
                report(f"FUSE {figure}", ratio, f"of {other}", goal, ratio >= goal,
                       f"{median['ours']:.0f} MB/s; {other} {median[other]:.0f} MB/s")
    null.end()
    qemu.end()


# ── flush ────────────────────────────────────────────────────────────────────────────────────

def cpu_seconds(pid):
    """User and system time of a process, from /proc/PID/stat."""
    fields = pathlib.Path(f"/proc/{pid}/stat").read_text(encoding="ascii").rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


class Emulator:
    """Azurite, as tests/lib/azurite.sh starts it."""

    def __init__(self, work):
        subprocess.run([TOP / "tests/azurite/install"], check=True, stdout=subprocess.DEVNULL)
        self.log = f"{work}/azurite.log"
        with open(self.log, "w", encoding="utf-8") as log:
            self.process = subprocess.Popen(
                ["node", TOP / "tests/azurite/node_modules/azurite/dist/src/blob/main.js",
                 "--blobHost", "127.0.0.1", "--blobPort", "0", "--location", f"{work}/azurite",
                 "--silent", "--disableTelemetry", "--skipApiVersionCheck"],
                stdout=log, stderr=log)
        wait_until(60, lambda: "successfully listens" in self.text(), "Azurite does not start")
        port = self.text().split("http://127.0.0.1:")[1].split("\n")[0].strip().split()[0]
        account = "devstoreaccount1"
        key = ("Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1OUzFT50uSRZ6IFsuFq2UVErCz4I6tq/K1SZFPTOtr/KBHBeksoGM"
               "Gw==")
        self.connection_string = (
            f"DefaultEndpointsProtocol=http;AccountName={account};AccountKey={key};"
            f"BlobEndpoint=http://127.0.0.1:{port}/{account};")

    def text(self):
        return pathlib.Path(self.log).read_text(encoding="utf-8")

    def end(self):
        self.process.terminate()
        self.process.wait(20)


def flush_once(appliance, pid):
    """Seals and waits for the vault: (seconds, processor seconds of the daemon, totals)."""
    began, before = time.monotonic(), cpu_seconds(pid)
    appliance.call("point", "create", "m", "--wait", "vault")
    return time.monotonic() - began, cpu_seconds(pid) - before


def sdk_upload(connection_string, raw, name):
    done = subprocess.run(["node", TOP / "tests/bench/flush_sdk.mjs", connection_string, "sdk",
                           name, raw], capture_output=True, text=True, check=True)
    return json.loads(done.stdout)


def bench_flush(build, work):
    size_mib = 512
    raw = f"{work}/flush.raw"
    with open(raw, "wb") as file:
        for _ in range(size_mib):
            file.write(os.urandom(MIB))
    emulator = Emulator(work)
    try:
        appliance = Appliance(build, work, emulator.connection_string, journal_size="8G",
                              policies={"manual": {"point-interval": "0",
                                                   "vault-interval": "1d",
                                                   "rpo-alert": "0"}})
        ours, theirs = [], []
        # The SDK keeps to no limit, so neither shall we: an emulator has none. By default it sends
        # neither CRC64 nor MD5 with a page, as we do.
        appliance.settings["vault"] |= {"blob_bandwidth": "unlimited", "blob_requests": "unlimited"}
        appliance.write_config()
        with appliance:
            appliance.call("vault", "init")
            appliance.call("machine", "add", "m", "--source", "fuse", "--disk", f"d={size_mib}M",
                           "--policy", "manual")
            live = f"{appliance.mount}/m/live/d.vhd"
            for turn in range(5):
                subprocess.run(["dd", f"if={raw}", f"of={live}", "bs=1M", "conv=notrunc,fsync",
                                "status=none"], check=True)
                ours.append(flush_once(appliance, appliance.process.pid))
                theirs.append(sdk_upload(emulator.connection_string, raw, f"disk{turn}"))
        gb = size_mib * MIB / 1e9
        speed = statistics.median(gb * 1000 / seconds for seconds, _ in ours)
        sdk_speed = statistics.median(gb * 1000 / t["seconds"] for t in theirs)
        cpu = statistics.median(cpu for _, cpu in ours) / gb
        sdk_cpu = statistics.median(t["cpu_seconds"] for t in theirs) / gb
        report("flush, 4 MiB puts to the emulator", speed / sdk_speed, "of the JS SDK", 1.0,
               speed >= sdk_speed, f"{speed:.0f} MB/s; the SDK {sdk_speed:.0f} MB/s; "
               "both without limits, checksums and TLS")
        report("flush, processor time per GB", cpu / sdk_cpu, "of the JS SDK", 0.333,
               cpu <= sdk_cpu / 3, f"{cpu:.2f} s/GB; the SDK {sdk_cpu:.2f} s/GB")
    finally:
        emulator.end()
    bench_requests(build, work)


def bench_requests(build, work):
    """4 KiB random churn whose neighbours are local: requests against one an extent."""
    with StrictService(work) as service:
        appliance = Appliance(build, work, service.connection_string, journal_size="8G",
                              name="requests",
                              policies={"manual": {"point-interval": "0",
                                                   "vault-interval": "1d",
                                                   "rpo-alert": "0"}})
        with appliance:
            appliance.call("vault", "init")
            appliance.call("machine", "add", "m", "--source", "fuse", "--disk", "d=256M",
                           "--policy", "manual")
            live = f"{appliance.mount}/m/live/d.vhd"
            subprocess.run(["dd", "if=/dev/urandom", f"of={live}", "bs=1M", "count=256",
                            "conv=notrunc,fsync", "status=none"], check=True)
            appliance.call("point", "create", "m", "--wait", "vault")
            subprocess.run(
                ["fio", "--name=churn", f"--filename={live}", "--rw=randwrite", "--bs=4k",
                 "--size=256m", "--io_size=64m", "--ioengine=psync", "--end_fsync=1",
                 "--allow_file_create=0", "--overwrite=1", "--norandommap=0"],
                check=True, stdout=subprocess.DEVNULL)
            before = service.admin("/stats")
            appliance.call("point", "create", "m", "--wait", "vault")
            after = service.admin("/stats")
        puts = requests(after, "PutPage") - requests(before, "PutPage")
        extents = 64 * 256
        report("flush, requests at 4 KiB random churn", extents / max(puts, 1),
               "times fewer than one an extent", 10, extents >= 10 * puts,
               f"{puts} Put Page for {extents} extents of 4 KiB in 256 MiB")


def requests(stats, operation):
    return stats["operations"].get(operation, 0)


# ── memory ───────────────────────────────────────────────────────────────────────────────────

def bench_memory(build, work):
    with StrictService(work) as service, \
            Appliance(build, work, service.connection_string, journal_size="8G",
                      policies={}) as appliance:
        appliance.call("vault", "init")
        for number in range(100):
            appliance.call("machine", "add", f"m{number}", "--source", "fuse", "--disk",
                           f"d={8 * 1024 * 1024 - 1}M")
        appliance.stop()
        appliance.start()
        time.sleep(20)  # what it does at a start is done: this is the idle state
        resident = appliance.memory_bytes() / MIB
        report("resident memory, 100 idle disks of 8 TiB", resident, "MB", 64, resident <= 64,
               "one machine a disk, with a vault")


def main():
    parser = argparse.ArgumentParser(description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bin", required=True)
    parser.add_argument("--dir", default="/var/tmp")
    parser.add_argument("part", nargs="*", choices=["fuse", "flush", "memory", []])
    arguments = parser.parse_args()
    parts = {"fuse": bench_fuse, "flush": bench_flush, "memory": bench_memory}
    status = 0
    for name, bench in parts.items():
        if arguments.part and name not in arguments.part:
            continue
        with tempfile.TemporaryDirectory(prefix="landfall-bench-", dir=arguments.dir) as work:
            try:
                bench(arguments.bin, work)
            except (Failure, subprocess.CalledProcessError) as failure:
                print(f"system_bench: {name}: {failure}", file=sys.stderr)
                status = 1
    return status


if __name__ == "__main__":
    sys.exit(main())
