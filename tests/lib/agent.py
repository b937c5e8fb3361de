"""landfall-agent for tests, and disks for it to protect.

    with LoopDisk(work, "root", 64 * MIB) as disk, Agent(BUILD, work, "web") as agent:
        agent.enroll(appliance)
        agent.start({"root": disk.device})
"""

import json
import os
import pathlib
import signal
import subprocess
import time

from appliance import Failure, die_with_parent, end_process, is_mounted, shell, wait_until

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


class Agent:
    """landfall-agent with a state of its own, and what it leaves in the kernel."""

    def __init__(self, build, work, machine, capture=None):
        self.build = pathlib.Path(build)
        self.machine = machine
        self.state = pathlib.Path(work) / f"agent-{machine}"
        self.status_file = pathlib.Path(work) / f"agent-{machine}.status/status.json"
        self.log = pathlib.Path(work) / f"agent-{machine}.log"
        # A bpffs of its own, so that nothing outlives the test.
        self.bpf = pathlib.Path(work) / f"agent-{machine}.bpf"
        self.pins = self.bpf / "marks"
        self.capture = capture
        self.process = None
        self.disks = {}
        self.options = ()

    def __enter__(self):
        self.bpf.mkdir(exist_ok=True)
        shell("mount", "-t", "bpf", "bpf", self.bpf)
        return self

    def __exit__(self, *_):
        try:
            self.stop()
        finally:
            subprocess.run(["umount", "-l", self.bpf], check=False)

    def run(self, *words, timeout=60):
        return subprocess.run([self.build / "landfall-agent", *[str(word) for word in words]],
                              capture_output=True, text=True, check=False, timeout=timeout)

    def enroll(self, appliance, key=None):
        """With a registration key made for it, unless one is given."""
        key = key or appliance.call("key", "create", "--machine", self.machine)["text"]
        done = self.run("enroll", "--appliance", f"127.0.0.1:{appliance.agent_port()}", "--machine",
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
                [self.build / "landfall-agent", "run", *[str(w) for w in words], *self.options],
                stdout=log, stderr=log, preexec_fn=die_with_parent)

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
