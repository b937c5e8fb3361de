#!/usr/bin/env python3
"""landfall agent install and uninstall over a real sshd that sees a system of its own: what is
installed lands in directories that only it has."""

import os
import pathlib
import shutil
import signal
import socket
import subprocess
import sys

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1] / "lib"))
from agent import LoopDisk
from appliance import BUILD, MIB, Appliance, check, need, run_test, shell, step, wait_until
from sshd import Sshd

OWN = ("/usr/local/sbin", "/etc/systemd/system", "/etc/default", "/var/lib", "/var/log", "/run",
       "/root")


class Host(Sshd):
    """Where an agent is installed: a system with empty directories of its own."""

    def __init__(self, work):
        super().__init__(work, "\n".join([*(f"mount -t tmpfs own {path}" for path in OWN),
                                          "mount -t bpf own /sys/fs/bpf"]))

    def __exit__(self, *_):
        # What the agent's installation left running is in this namespace and dies with the test.
        self.run("[ ! -s /run/landfall-agent/pid ] || kill $(cat /run/landfall-agent/pid)")
        super().__exit__()


OPTIONS = "/etc/default/landfall-agent"


def pid_of(host):
    return host.run("cat /run/landfall-agent/pid").strip()


def words_of(host):
    """What the agent that runs there was started with."""
    line = host.run(f"tr '\\000' '|' </proc/{pid_of(host)}/cmdline")
    return line.split("|")[2:-1]


def alone(a, work):
    """The program starts where there is nothing else, and finds an appliance by its name."""
    cache = pathlib.Path(BUILD / "CMakeCache.txt").read_text(encoding="utf-8")
    if "LANDFALL_STATIC_AGENT:BOOL=ON" not in cache:
        return
    step("the program needs no library of the machine's")
    root = work / "alone"
    for directory in ("etc", "var/lib"):
        (root / directory).mkdir(parents=True)
    (root / "etc" / "hosts").write_text("127.0.0.1 appliance.example\n", encoding="utf-8")
    # What a machine with other modules may say
    (root / "etc" / "nsswitch.conf").write_text("hosts: nothere files\n", encoding="utf-8")
    shutil.copy(BUILD / "landfall-agent", root)
    shell("chroot", root, "/landfall-agent", "--version")
    key = a.call("key", "create", "--machine", "alone")["text"]
    a.call("machine", "add", "alone", "--source", "agent")
    words = ["chroot", root, "/landfall-agent", "enroll", "--machine", "alone", "--key", key,
             "--appliance"]
    done = subprocess.run([*words, f"nowhere.example:{a.agent_port()}"], capture_output=True,
                          text=True, check=False)
    check(done.returncode == 6 and "cannot be found" in done.stderr, f"{done}")
    shell(*words, f"appliance.example:{a.agent_port()}")
    check((root / "var/lib/landfall-agent/identity.json").exists(), "it is not enrolled")
    a.call("machine", "remove", "alone")


def connected(a):
    return a.machine("web")["agent"]["connected"]


def upgrades(a, host, words, disk):
    step("the same again is an upgrade in place, and what was set there stays")
    named, added = ["--disk", f"data={disk.device}"], ["--pre-freeze", "true a b"]
    host.run(f"cat >{OPTIONS} <<'END'\n# by hand\n"
             f"LANDFALL_AGENT_OPTIONS=\"{' '.join(named)} --pre-freeze 'true a b'\"\nEND")
    before = host.run(f"cat {OPTIONS}")
    said = a.run(*words, json_output=False)
    check(said.returncode == 0, f"exit {said.returncode}: {said.stdout}{said.stderr}")
    check("--pre-freeze 'true a b'" in said.stdout, f"what is kept is not told: {said.stdout}")
    check(host.run(f"cat {OPTIONS}") == before, "what was written by hand is lost")
    check(words_of(host) == [*named, *added], f"{words_of(host)}")
    said = a.run(*words, *named, json_output=False)
    check(said.returncode == 0, f"exit {said.returncode}: {said.stdout}{said.stderr}")
    check(sorted(words_of(host)) == sorted([*named, *added]), f"{words_of(host)}")
    wait_until(60, lambda: connected(a), "it does not come")


def keys_of(a, state):
    return sorted(key["id"] for key in a.call("key", "list")["keys"] if key["state"] == state)


def interrupted(a, host, words):
    step("one that is interrupted leaves no key behind either")
    revoked = len(keys_of(a, "revoked"))
    at = words.index("--appliance") + 1
    with socket.create_server(("127.0.0.1", 0)) as silent:  # the enrolment waits for it
        address = f"127.0.0.1:{silent.getsockname()[1]}"
        process = subprocess.Popen(
            [BUILD / "landfall", "--socket", a.socket, *map(str, words[:at]), address,
             *map(str, words[at + 1:])], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
            env=a.environment, start_new_session=True)
        silent.settimeout(60)
        with silent.accept()[0]:
            check(keys_of(a, "valid"), "it made no key")
            os.killpg(process.pid, signal.SIGINT)
            check(process.wait(30) != 0, "it succeeded")
    check(not keys_of(a, "valid"), f"a key is left that lets somebody in: {keys_of(a, 'valid')}")
    check(len(keys_of(a, "revoked")) == revoked + 1, "the key was not revoked")
    wait_until(60, lambda: ".new" not in host.run("ls /usr/local/sbin"), "it is not cleaned up")


def fails(a, host, words, disk):
    step("an installation that fails leaves the agent that was there at work")
    a.refused(2, *words, "--disk", "data", says="ID=PATH")
    before, pid = words_of(host), pid_of(host)
    at = words.index("--appliance") + 1
    said = a.run(*words[:at], "127.0.0.1:1", *words[at + 1:], json_output=False)
    check(said.returncode == 1 and "runs on" in said.stdout, f"{said}")
    check(pid_of(host) == pid and words_of(host) == before and connected(a), "it does not run on")
    check(not keys_of(a, "valid"), f"its key lets somebody in for an hour: {keys_of(a, 'valid')}")
    # Also if one that was killed has left its last words behind
    for kill in (False, True):
        if kill:
            host.run(f"kill -9 {pid_of(host)}")
        said = a.run(*words, "--disk", "data=/dev/nothere", json_output=False)
        check(said.returncode == 1 and "does not start" in said.stderr, f"{said}")
        check("runs again" in said.stdout, f"{said}")
        check(words_of(host) == before, f"{words_of(host)}")
        wait_until(60, lambda: connected(a), "it does not come back")


def test(work):
    need("chroot", "ssh", "ssh-keygen", "unshare", "nsenter")
    check(pathlib.Path("/usr/sbin/sshd").exists(), "sshd is not installed")
    with Appliance(BUILD, work, listen="127.0.0.1:0") as a, LoopDisk(work, "d", 32 * MIB) as disk, \
            Host(work) as host:
        a.environment["PATH"] = host.tools()
        address = f"127.0.0.1:{a.agent_port()}"
        words = ["agent", "install", "root@target", "--appliance", address, "--disk",
                 f"data={disk.device}", "--identity", work / "user_key"]
        alone(a, work)
        step("wrong input is refused in words")
        a.refused(2, *words[:-2], says="--machine")
        a.refused(3, *words, "--machine", "web", says="web")
        a.call("machine", "add", "web", "--source", "agent")
        revoked = len(keys_of(a, "revoked"))
        said = a.run(*words[:-1], work / "other_key", "--machine", "web", json_output=False)
        check(said.returncode == 1 and "BatchMode" in said.stderr, f"{said}")
        check(len(keys_of(a, "revoked")) == revoked + 1 and not keys_of(a, "valid"),
              "its key is not revoked")
        step("the agent is installed, enrolled and running")
        said = a.run(*words, "--machine", "web", json_output=False)
        check(said.returncode == 0, f"exit {said.returncode}: {said.stdout}{said.stderr}")
        check("machine web" in said.stdout, f"its status is not shown: {said.stdout}")
        check("landfall-1" not in said.stdout + said.stderr, "the key is told")
        wait_until(60, lambda: a.machine("web")["agent"]["connected"], "it does not come")
        point = a.create_point("web", timeout=120)
        check(point["number"] >= 1, f"{point}")
        words = ["agent", "install", "root@target", "--appliance", address, "--identity",
                 work / "user_key", "--machine", "web"]
        upgrades(a, host, words, disk)
        interrupted(a, host, words)
        fails(a, host, words, disk)
        step("it is taken away with all it had")
        said = a.run("agent", "uninstall", "root@target", "--identity", work / "user_key",
                     json_output=False)
        check(said.returncode == 0, f"exit {said.returncode}: {said.stdout}{said.stderr}")
        wait_until(30, lambda: not a.machine("web")["agent"]["connected"], "it is still there")
        left = host.run("ls -A /usr/local/sbin /etc/default /var/lib")
        check("landfall" not in left, f"left behind: {left}")
        check(len(a.points("web")) >= 1, "the recovery points are gone")


run_test(test)
