"""What of the agent is resident with the largest disk there may be: comparing it, at rest, and with all
of it changed.

Comparing 8 TiB takes most of an hour, so the appliance is told in between, by its own file, that all
but the last of it is compared: what the agent holds does not depend on how it came to be at rest.
"""

import ctypes
import json
import pathlib
import threading
import time

from agent import LoopDisk
from agent_copies import GIB, losses, replicated
from appliance import MIB, Rpc, check, need, shell, wait_until
from figures import report, say

DISK_BYTES = (8 << 40) - MIB  # what a page blob holds beside the footer
LEFT_CHUNKS = 256
LIMIT_MIB = 64
STATE_SECONDS = 20


class Watch:
    """The most that was resident between enter and exit, looked at often."""

    def __init__(self, pid):
        self.status = pathlib.Path(f"/proc/{pid}/status")
        self.most, self.parts = 0, ""
        self.stopping = threading.Event()
        self.thread = threading.Thread(target=self.main, daemon=True)

    def look(self):
        lines = dict(line.split(":", 1) for line in
                     self.status.read_text(encoding="ascii").splitlines())
        kib = {name: int(lines[name].split()[0]) for name in
               ("VmRSS", "RssAnon", "RssFile", "RssShmem")}
        if kib["VmRSS"] > self.most:
            self.most = kib["VmRSS"]
            self.parts = ", ".join(f"{name[3:].lower()} {kib[name] / 1024:.0f}"
                                   for name in ("RssAnon", "RssFile", "RssShmem"))

    def main(self):
        while not self.stopping.wait(0.02):
            try:
                self.look()
            except (OSError, KeyError):
                return

    def __enter__(self):
        self.look()
        self.thread.start()
        return self

    def __exit__(self, *_):
        self.stopping.set()
        self.thread.join()


class Hash128(ctypes.Structure):
    _fields_ = [("low", ctypes.c_uint64), ("high", ctypes.c_uint64)]


def almost_whole(path):
    """All but the last chunks of the disk are said to be compared; sealed as the appliance does."""
    document = json.loads(path.read_text(encoding="utf-8"))
    del document["checksum"]
    document["disks"][0]["cursor"] = document["disks"][0]["size_bytes"] // MIB - LEFT_CHUNKS
    body = json.dumps(document, separators=(",", ":")).encode()[:-1]
    library = ctypes.CDLL("libxxhash.so.0")
    library.XXH3_128bits.restype = Hash128
    library.XXH3_128bits.argtypes = [ctypes.c_char_p, ctypes.c_size_t]
    seal = library.XXH3_128bits(body, len(body))
    path.write_bytes(body + f',"checksum":"{seal.high:016x}{seal.low:016x}"}}\n'.encode())


def watch(agent, state, seconds):
    began, read = time.monotonic(), agent.status().get("read_bytes", 0)
    with Watch(agent.process.pid) as watched:
        time.sleep(seconds)
    read = agent.status().get("read_bytes", 0) - read
    rate = read / (time.monotonic() - began) / 1e6
    report(f"agent's resident memory, 8 TiB, {state}", watched.most / 1024, "MiB", LIMIT_MIB,
           f"the most in {seconds} s ({watched.parts} MiB), {rate:.0f} MB/s read")


def first_comparison(agent, seconds):
    agent.wait_state("comparing", seconds=60)
    watch(agent, "in the first comparison", seconds)


def to_rest(appliance, agent):
    say("the appliance is told that all but the end is compared")
    state = appliance.state / "agents/web.json"
    wait_until(60, lambda: json.loads(state.read_text(encoding="utf-8"))["disks"][0]["cursor"] > 0,
               "the appliance remembers no progress")
    appliance.stop()
    almost_whole(state)
    appliance.start()
    agent.wait_state("replicating", seconds=120)


def bench_rss(options, work):
    need("losetup", "blkdiscard")
    seconds = options.seconds or STATE_SECONDS
    with LoopDisk(work, "huge", DISK_BYTES) as disk, \
            replicated(options, work, 2 * GIB) as (appliance, agent):
        agent.start({"d": disk.device})
        first_comparison(agent, seconds)
        to_rest(appliance, agent)
        watch(agent, "at rest", seconds)
        lost = losses(agent)
        say("all of it is discarded, which marks all of it, and a point is asked for")
        shell("blkdiscard", disk.device)
        read = agent.status()["read_bytes"]
        with Rpc(appliance.socket) as rpc:
            rpc.request("point.create", machine="web")  # and never waits for it
            wait_until(60, lambda: agent.status()["read_bytes"] > read + GIB,
                       "what has changed is not read")
            watch(agent, "all of it changed", seconds)
        check(losses(agent) == lost, "the kernel lost trace events: the disk was compared, not sent")
