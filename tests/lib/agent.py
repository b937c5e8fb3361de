"""landfall-agent for tests, and disks for it to protect.

    with LoopDisk(work, "root", 64 * MIB) as disk, Agent(BUILD, work, "web") as agent:
        agent.enroll(appliance)
        agent.start({"root": disk.device})
"""

import json
import os
import pathlib
import shutil
import signal
import subprocess
import time

from appliance import (MIB, Failure, Skip, check, die_with_parent, end_process, is_mounted, shell,
                       wait_until)

BPF_FS = pathlib.Path("/sys/fs/bpf")


class LoopDisk:
    """A sparse file under a loop device, which everything that is here may write to."""

    def __init__(self, work, name, size):
        self.path = pathlib.Path(work) / f"{name}.disk"
        self.size = size
        self.device = None
        self.mounted = pathlib.Path(work) / f"{name}.mnt"

    def __enter__(self):
        with open(self.path, "ab") as file:
            file.truncate(self.size)
        self.attach()
        return self

    def attach(self):
        self.device = shell("losetup", "--find", "--show", "--direct-io=on", self.path).strip()

    def detach(self):
        if self.device:
            subprocess.run(["losetup", "--detach", self.device], check=False)
            self.device = None

    def __exit__(self, *_):
        self.unmount()
        self.detach()

    def format(self, kind="ext4"):
        shell(f"mkfs.{kind}", "-q", self.device)

    def mount(self):
        self.mounted.mkdir(exist_ok=True)
        shell("mount", self.device, self.mounted)
        return self.mounted

    def unmount(self):
        """At once, or as soon as those who were killed there have gone."""
        for _ in range(100):
            if not is_mounted(self.mounted) or subprocess.run(
                    ["umount", self.mounted], capture_output=True, check=False).returncode == 0:
                return
            time.sleep(0.05)
        if is_mounted(self.mounted):
            subprocess.run(["umount", "-l", self.mounted], check=False)

    def grow(self, size):
        self.size = size
        os.truncate(self.path, size)
        shell("losetup", "--set-capacity", self.device)

    def write(self, offset, data):
        """Past every cache."""
        descriptor = os.open(self.device, os.O_WRONLY | os.O_DSYNC)
        try:
            os.pwrite(descriptor, data, offset)
        finally:
            os.close(descriptor)


def check_equal(appliance, disk, point, name="root", machine="web"):
    """The point's disk is the source, byte for byte."""
    path = f"{appliance.mount}/{machine}/points/{point['name']}/{name}.vhd"
    with open(path, "rb") as there, open(disk.device, "rb") as here:
        os.posix_fadvise(here.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
        for at in range(0, disk.size, MIB):
            n = min(MIB, disk.size - at)
            check(there.read(n) == here.read(n), f"{path} differs in MiB {at // MIB}")


def received_bytes(appliance, machine="web"):
    """What the appliance has taken from the machine's agent, since the one or the other started."""
    return appliance.machine(machine)["agent"]["received_bytes"]


class Namespace:
    """A network of its own for an agent, and the cable to it, which can be cut. Skips the test
    where that is not permitted."""

    def __init__(self, name):
        self.name, self.cable = name, f"{name}c"
        part = os.getpid() % 16384
        self.host, self.other = (f"10.{200 + part // 4096}.{part // 16 % 256}.{part % 16 * 16 + n}"
                                 for n in (1, 2))
        self.enter = ("nsenter", f"--net=/run/netns/{name}")

    def __enter__(self):
        try:
            shell("ip", "netns", "add", self.name)
        except Failure as why:
            raise Skip(f"no network namespace can be had: {why}") from why
        try:
            shell("ip", "link", "add", self.cable, "type", "veth", "peer", "name", "eth0", "netns",
                  self.name)
            shell("ip", "addr", "add", f"{self.host}/28", "dev", self.cable)
            shell("ip", "link", "set", self.cable, "up")
            for words in (("addr", "add", f"{self.other}/28", "dev", "eth0"),
                          ("link", "set", "eth0", "up"), ("link", "set", "lo", "up")):
                shell(*self.enter, "ip", *words)
        except BaseException:
            self.__exit__()
            raise
        return self

    def cut(self):
        """Packets go nowhere, and nobody is told: the address stays."""
        shell(*self.enter, "ip", "link", "set", "eth0", "down")

    def mend(self):
        shell(*self.enter, "ip", "link", "set", "eth0", "up")

    def limit(self, rate):
        """False if the kernel cannot."""
        return subprocess.run([*self.enter, "tc", "qdisc", "add", "dev", "eth0", "root", "tbf",
                               "rate", rate, "burst", "64k", "latency", "300ms"], check=False,
                              capture_output=True).returncode == 0

    def __exit__(self, *_):
        subprocess.run(["ip", "link", "del", self.cable], check=False, capture_output=True)
        subprocess.run(["ip", "netns", "del", self.name], check=False, capture_output=True)


class Agent:
    """landfall-agent with a state of its own, and what it leaves in the kernel."""

    def __init__(self, build, work, machine, capture=None, network=None):
        self.build = pathlib.Path(build)
        self.machine = machine
        self.state = pathlib.Path(work) / f"agent-{machine}"
        self.status_file = pathlib.Path(work) / f"agent-{machine}.status/status.json"
        self.log = pathlib.Path(work) / f"agent-{machine}.log"
        self.pins = BPF_FS / f"landfall-test-{os.getpid()}-{machine}"
        self.capture = capture
        self.network = network
        self.process = None
        self.disks = {}
        self.options = ()
        self.environment = None

    def __enter__(self):
        if not is_mounted(BPF_FS):
            shell("mount", "-t", "bpf", "bpf", BPF_FS)
        return self

    def __exit__(self, *_):
        self.stop()
        shutil.rmtree(self.pins, ignore_errors=True)

    def program(self):
        """One that is linked statically would not heed LD_PRELOAD."""
        preloads = "LD_PRELOAD" in (self.environment or {})
        name = "tests/agent_shared" if preloads else "landfall-agent"
        return [*(self.network.enter if self.network else ()), str(self.build / name)]

    def run(self, *words, timeout=60):
        return subprocess.run([*self.program(), *[str(word) for word in words]],
                              capture_output=True, text=True, check=False, timeout=timeout)

    def enroll(self, appliance, key=None):
        """With a registration key made for it, unless one is given."""
        key = key or appliance.call("key", "create", "--machine", self.machine)["text"]
        host = self.network.host if self.network else "127.0.0.1"
        done = self.run("enroll", "--appliance", f"{host}:{appliance.agent_port()}", "--machine",
                        self.machine, "--key", key, "--state-dir", self.state)
        if done.returncode != 0:
            raise Failure(f"enroll: exit {done.returncode}: {done.stdout}{done.stderr}")

    def start(self, disks=None, options=None):
        """{name: device} and further words of `run`; those of before if not given."""
        self.disks = self.disks if disks is None else disks
        self.options = self.options if options is None else options
        words = ["--state-dir", self.state, "--status-file", self.status_file, "--pin-dir",
                 self.pins]
        for name, device in self.disks.items():
            words += ["--disk", f"{name}={device}"]
        if self.capture:
            words += ["--capture", self.capture]
        with open(self.log, "a", encoding="utf-8") as log:
            self.process = subprocess.Popen(
                [*self.program(), "run", *[str(w) for w in words], *self.options],
                stdout=log, stderr=log, env=self.environment, preexec_fn=die_with_parent)

    def stop(self):
        if not end_process(self.process, 30):
            raise Failure("landfall-agent does not end on SIGTERM")

    def kill(self):
        self.process.send_signal(signal.SIGKILL)
        self.process.wait()

    def status(self):
        try:
            return json.loads(self.status_file.read_text(encoding="utf-8"))
        except (FileNotFoundError, ValueError):
            return {}

    def wait_state(self, *states, seconds=60):
        def at():
            if self.process.poll() is not None:
                raise Failure(f"landfall-agent ended with {self.process.returncode}: "
                              f"{self.log.read_text(encoding='utf-8')[-2000:]}")
            return self.status().get("state") in states
        wait_until(seconds, at, lambda: f"the agent is {self.status().get('state')}, "
                                        f"not {states}: {self.status()}")
