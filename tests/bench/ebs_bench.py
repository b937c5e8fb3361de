#!/usr/bin/env python3
"""Figures of the source ebs, beside curl fetching the same blocks in the same run.

    ebs_bench.py --bin BUILD [--dir DIR] [--rounds 7] [fetch sync]

  fetch  2 GiB of blocks: the client alone, and curl, in turns
  sync   a volume of 1 TiB with a GiB of data in it, spread evenly: listed, compared, journalled and
         in the vault; the appliance's memory and processor time

Prints a table for people on stderr, and one JSON object a figure on stdout. BUILD is a release build.
The blocks come from tests/bench/ebs_server.c, the vault is in tests/servers/pageblob. Takes a minute
or two.
"""

import argparse
import json
import os
import pathlib
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.parse
import urllib.request

TOP = pathlib.Path(__file__).resolve().parents[2]
BLOCK = 524288
BLOCKS_A_GIB = 2048
FETCH_BLOCKS = 2 * BLOCKS_A_GIB
WINDOW = 32                       # blocks under way at once, as the source has it
SYNC_GIB = 1024
EVERY = 1024                      # each 1024th block of the large volume has data
SNAPSHOT = "snap-0123456789abcdef0"


class Server:
    """ebs_server as a child process."""

    def __init__(self, build, blocks, every):
        self.command = [build / "tests/ebs_server", str(blocks), str(every)]
        self.process, self.endpoint = None, None

    def __enter__(self):
        self.process = subprocess.Popen(self.command, stdout=subprocess.PIPE, text=True)
        self.endpoint = f"http://127.0.0.1:{self.process.stdout.readline().strip()}"
        return self

    def __exit__(self, *_):
        self.process.terminate()
        self.process.wait(10)
        self.process.stdout.close()


# ── fetching ─────────────────────────────────────────────────────────────────────────────────

def write_curl_list(endpoint, path):
    """What curl is to fetch: every block of the volume, with its token."""
    lines, token = [], None
    while True:
        where = f"{endpoint}/snapshots/{SNAPSHOT}/blocks"
        with urllib.request.urlopen(f"{where}?pageToken={token}" if token else where) as answer:
            page = json.load(answer)
        lines += [f'url = "{where}/{b["BlockIndex"]}?blockToken='
                  f'{urllib.parse.quote(b["BlockToken"], safe="")}"\noutput = "/dev/null"\n'
                  for b in page["Blocks"]]
        token = page.get("NextToken")
        if not token:
            break
    path.write_text("".join(lines), encoding="ascii")


def run_curl(path):
    """(MB/s, processor seconds a GB). It neither signs nor hashes."""
    before, began = os.times(), time.monotonic()
    subprocess.run(["curl", "-sS", "--no-progress-meter", "--fail", "--parallel", "--parallel-max", str(WINDOW), "--config",
                    path], check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    took, after = time.monotonic() - began, os.times()
    gb = FETCH_BLOCKS * BLOCK / 1e9
    cpu = after.children_user + after.children_system - before.children_user - before.children_system
    return gb * 1000 / took, cpu / gb


def run_ours(build, endpoint):
    """(MB/s, processor seconds a GB, those of SHA-256)."""
    keys = {"AWS_ACCESS_KEY_ID": "AKIDEXAMPLE", "AWS_SECRET_ACCESS_KEY": "secret",
            "AWS_CONFIG_FILE": "/nonexistent", "AWS_SHARED_CREDENTIALS_FILE": "/nonexistent"}
    said = subprocess.run([build / "tests/ebs_fetch", endpoint, str(FETCH_BLOCKS), str(WINDOW)],
                          check=True, capture_output=True, text=True, env={**os.environ, **keys})
    took = json.loads(said.stdout)
    if took["bytes"] != FETCH_BLOCKS * BLOCK:
        raise Failure(f"fetched {took['bytes']} bytes of {FETCH_BLOCKS * BLOCK}")
    gb = took["bytes"] / 1e9
    return gb * 1000 / took["seconds"], took["cpu_seconds"] / gb, took["sha_seconds"] / gb


def bench_fetch(options, work):
    ours, curl = [], []
    with Server(options.bin, FETCH_BLOCKS, 1) as server:
        write_curl_list(server.endpoint, work / "curl")
        run_curl(work / "curl")  # the server's memory has been touched
        for number in range(options.rounds):
            say(f"fetch: round {number + 1} of {options.rounds}")
            ours.append(run_ours(options.bin, server.endpoint))
            curl.append(run_curl(work / "curl"))
    speed, cpu, sha = (statistics.median(values) for values in zip(*ours))
    curl_speed, curl_cpu = (statistics.median(values) for values in zip(*curl))
    report("ebs: blocks fetched", speed, "MB/s", 400,
           f"{FETCH_BLOCKS * BLOCK >> 30} GiB, {WINDOW} blocks at once, {spread([o[0] for o in ours])}; "
           f"each is signed for and hashed. curl, which does neither: {spread([c[0] for c in curl])} "
           f"MB/s ({speed / curl_speed:.2f} of curl)", most=False)
    report("ebs: processor time a GB, beyond SHA-256", cpu - sha, "s", 1,
           f"{cpu:.2f} s in all, SHA-256 {sha:.2f} s of them; without TLS; curl {curl_cpu:.2f} s")


# ── a volume of 1 TiB ────────────────────────────────────────────────────────────────────────

class Watch:
    """The most that was resident of a process since it began, as the kernel counts it, and what
    its processor time came to."""

    def __init__(self, pid):
        self.pid = pid
        self.began, self.cpu = time.monotonic(), self.cpu_seconds()
        pathlib.Path(f"/proc/{pid}/clear_refs").write_text("5", encoding="ascii")

    def cpu_seconds(self):
        text = pathlib.Path(f"/proc/{self.pid}/stat").read_text(encoding="ascii")
        fields = text.rsplit(")", 1)[1].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def read(self):
        """(seconds, processor seconds, most resident in MiB)."""
        status = pathlib.Path(f"/proc/{self.pid}/status").read_text(encoding="ascii")
        most = next(line for line in status.splitlines() if line.startswith("VmHWM"))
        return (time.monotonic() - self.began, self.cpu_seconds() - self.cpu,
                int(most.split()[1]) / 1024)


def sync_once(options, work):
    """What Watch.read says once the point is in the vault, and the cycle's figures."""
    with Server(options.bin, SYNC_GIB * BLOCKS_A_GIB, EVERY) as server, \
            StrictService(work) as service, Aws(work) as aws:
        instance = aws.admin("/instance", {
            "volumes": [{"path": str(work / "volume"), "size_gib": SYNC_GIB}]})
        appliance = Appliance(options.bin, work, service.connection_string, journal_size="4G",
                              cache_size="0", policies={"manual": {
                                  "point-interval": "0", "vault-interval": "1d", "rpo-alert": "0"}})
        aws.give(appliance)
        appliance.settings["aws"] |= {"endpoint_ebs": server.endpoint,
                                      "blocks_per_second": "unlimited",
                                      "lists_per_second": "unlimited"}
        appliance.settings["vault"] |= {"blob_bandwidth": "unlimited", "blob_requests": "unlimited"}
        appliance.write_config()
        with appliance:
            appliance.call("vault", "init")
            appliance.call("machine", "add", "m", "--source", "ebs", "--instance", instance["id"],
                           "--policy", "manual")
            watch = Watch(appliance.process.pid)
            appliance.call("point", "create", "m", "--wait", "vault", timeout=300)
            return watch.read(), appliance.machine("m")["ebs"]["last_cycle"]


def bench_sync(options, work):
    say("sync: a volume of 1 TiB")
    (took, cpu, most), cycle = sync_once(options, work)
    wanted = SYNC_GIB * BLOCKS_A_GIB // EVERY * BLOCK
    if not cycle["fetched_bytes"] == cycle["written_bytes"] == wanted:
        raise Failure(f"not a first synchronisation of {wanted} bytes: {cycle}")
    report("ebs: resident memory, first sync of a 1 TiB volume", most, "MiB", 64,
           f"the most, all of landfalld; {wanted >> 30} GiB of data in it, spread evenly; in the "
           f"journal after {cycle['took_s']:.1f} s, in the vault after {took:.1f} s (a service in "
           f"Python); {cpu:.1f} s of processor time")


PARTS = {"fetch": bench_fetch, "sync": bench_sync}


def arguments():
    parser = argparse.ArgumentParser(description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bin", required=True, type=pathlib.Path)
    parser.add_argument("--dir", default="/var/tmp")
    parser.add_argument("--rounds", type=int, default=7, help="fetch: of each, in turns")
    parser.add_argument("part", nargs="*", choices=[*PARTS, []])
    options = parser.parse_args()
    options.bin = options.bin.resolve()
    return options


def main(options):
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, lambda n, _: sys.exit(128 + n))
    status = 0
    heading()
    for name, bench in PARTS.items():
        if options.part and name not in options.part:
            continue
        work = pathlib.Path(tempfile.mkdtemp(prefix="landfall-bench-", dir=options.dir))
        try:
            bench(options, work)
        except (Failure, subprocess.SubprocessError) as failure:
            print(f"ebs_bench: {name}: not measured: {failure}", file=sys.stderr)
            status = 1
        finally:
            shutil.rmtree(work, ignore_errors=True)
    return status


sys.path.insert(0, str(TOP / "tests" / "lib"))
from appliance import Appliance, Failure, StrictService  # noqa: E402
from aws import Aws  # noqa: E402
from figures import heading, report, say, spread  # noqa: E402

if __name__ == "__main__":
    sys.exit(main(arguments()))
