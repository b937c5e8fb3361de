#!/usr/bin/env python3
"""landfall agent install and uninstall over a real sshd that sees a system of its own: what is
installed lands in directories that only it has."""

import pathlib
import sys

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1] / "lib"))
from agent import LoopDisk
from appliance import BUILD, MIB, Appliance, check, need, run_test, step, wait_until
from sshd import Sshd

OWN = ("/usr/local/sbin", "/etc/systemd/system", "/etc/default", "/var/lib", "/var/log", "/run",
       "/root")


class Host(Sshd):
    """Where an agent is installed: a system with empty directories of its own."""

    def __init__(self, work):
        super().__init__(work, "\n".join(f"mount -t tmpfs own {path}" for path in OWN))

    def __exit__(self, *_):
        # What the agent's installation left running is in this namespace and dies with the test.
        self.run("[ ! -s /run/landfall-agent/pid ] || kill $(cat /run/landfall-agent/pid)")
        super().__exit__()


def test(work):
    need("ssh", "ssh-keygen", "unshare", "nsenter")
    check(pathlib.Path("/usr/sbin/sshd").exists(), "sshd is not installed")
    with Appliance(BUILD, work, listen="127.0.0.1:0") as a, LoopDisk(work, "d", 32 * MIB) as disk, \
            Host(work) as host:
        a.environment["PATH"] = host.tools()
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
