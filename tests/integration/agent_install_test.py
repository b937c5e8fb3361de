"""landfall agent install and uninstall over a real sshd that sees a system of its own: what is
installed lands in directories that only it has."""

import os
import pathlib
import socket
import subprocess
import sys

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1] / "lib"))
from agent import LoopDisk
from appliance import (BUILD, MIB, Appliance, check, die_with_parent, end_process, need, run_test,
                       shell, step, wait_until)

OWN = ("/usr/local/sbin", "/etc/systemd/system", "/etc/default", "/var/lib", "/var/log", "/run",
       "/root")


class Host:
    """sshd on loopback in a mount namespace with empty directories where an agent is installed."""

    def __init__(self, work):
        self.work = work
        self.process = None
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]

    def __enter__(self):
        for name in ("host_key", "user_key", "other_key"):
            shell("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", self.work / name)
        (self.work / "sshd_config").write_text(
            f"Port {self.port}\nListenAddress 127.0.0.1\nHostKey {self.work}/host_key\n"
            f"AuthorizedKeysFile {self.work}/user_key.pub\nPasswordAuthentication no\n"
            f"StrictModes no\nUsePAM no\nPidFile none\nPermitRootLogin yes\n", encoding="utf-8")
        # The user's own ssh, set up as users do it.
        (self.work / "ssh_config").write_text(
            f"Host target\n  HostName 127.0.0.1\n  Port {self.port}\n"
            f"  StrictHostKeyChecking no\n  UserKnownHostsFile {self.work}/known_hosts\n"
            "  LogLevel ERROR\n",
            encoding="utf-8")
        mounts = "\n".join(f"mount -t tmpfs own {path}" for path in OWN)
        script = f"set -e\n{mounts}\nmkdir -p /run/sshd\nexec /usr/sbin/sshd -D -e -f {self.work}/sshd_config"
        with open(self.work / "sshd.log", "w", encoding="utf-8") as log:
            self.process = subprocess.Popen(["unshare", "--mount", "bash", "-c", script], stdout=log,
                                            stderr=log, preexec_fn=die_with_parent)
        wait_until(20, self.answers, "sshd does not answer")
        return self

    def answers(self):
        with socket.socket() as probe:
            return probe.connect_ex(("127.0.0.1", self.port)) == 0

    def run(self, script):
        return shell("nsenter", f"--mount=/proc/{self.process.pid}/ns/mnt", "sh", "-c", script)

    def __exit__(self, *_):
        # What the agent's installation left running is in this namespace and dies with the test.
        self.run("[ ! -s /run/landfall-agent/pid ] || kill $(cat /run/landfall-agent/pid)")
        end_process(self.process)


def with_ssh(work, appliance):
    """A directory with an ssh that reads the test's configuration, first in PATH."""
    tools = work / "tools"
    tools.mkdir()
    (tools / "ssh").write_text(f'#!/bin/sh\nexec /usr/bin/ssh -F {work}/ssh_config "$@"\n',
                               encoding="utf-8")
    (tools / "ssh").chmod(0o755)
    appliance.environment["PATH"] = f"{tools}:{os.environ['PATH']}"


def test(work):
    need("ssh", "ssh-keygen", "unshare", "nsenter")
    check(pathlib.Path("/usr/sbin/sshd").exists(), "sshd is not installed")
    with Appliance(BUILD, work, listen="127.0.0.1:0") as a, LoopDisk(work, "d", 32 * MIB) as disk, \
            Host(work) as host:
        with_ssh(work, a)
        address = f"127.0.0.1:{a.agent_port()}"
        words = ["agent", "install", "root@target", "--appliance", address, "--disk",
                 f"data={disk.device}", "--identity", work / "user_key"]
        step("wrong input is refused in words")
        a.refused(2, *words[:-2], says="--machine")
        a.refused(3, *words, "--machine", "web", says="web")
        a.call("machine", "add", "web", "--source", "agent")
        said = a.run(*words[:-1], work / "other_key", "--machine", "web", json_output=False)
        check(said.returncode == 1 and "BatchMode" in said.stderr, f"{said}")
        step("the agent is installed, enrolled and running")
        said = a.run(*words, "--machine", "web", json_output=False)
        check(said.returncode == 0, f"exit {said.returncode}: {said.stdout}{said.stderr}")
        check("machine web" in said.stdout, f"its status is not shown: {said.stdout}")
        check("landfall-1" not in said.stdout + said.stderr, "the key is told")
        wait_until(60, lambda: a.machine("web")["agent"]["connected"], "it does not come")
        point = a.create_point("web", timeout=120)
        check(point["number"] >= 1, f"{point}")
        step("the same again is an upgrade in place")
        said = a.run(*words, "--machine", "web", json_output=False)
        check(said.returncode == 0, f"exit {said.returncode}: {said.stdout}{said.stderr}")
        step("it is taken away with all it had")
        said = a.run("agent", "uninstall", "root@target", "--identity", work / "user_key",
                     json_output=False)
        check(said.returncode == 0, f"exit {said.returncode}: {said.stdout}{said.stderr}")
        wait_until(30, lambda: not a.machine("web")["agent"]["connected"], "it is still there")
        left = host.run("ls -A /usr/local/sbin /etc/default /var/lib")
        check("landfall" not in left, f"left behind: {left}")
        check(len(a.points("web")) >= 1, "the recovery points are gone")


run_test(test)
