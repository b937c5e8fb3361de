#!/usr/bin/env python3
"""landfalld as a service: it tells systemd how it fares, reloads, stops cleanly, refuses what it
must refuse, and leaves nothing behind. Needs root and /dev/fuse."""

import json
import os
import pathlib
import resource
import signal
import socket
import subprocess
import sys
import tempfile
import time

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1] / "lib"))
from appliance import Appliance, Failure, StrictService, wait_until  # noqa: E402

BUILD = pathlib.Path(os.environ["LANDFALL_BUILD"])


def expect(condition, text):
    if not condition:
        raise Failure(text)


def log_of(appliance):
    return appliance.log.read_text(encoding="utf-8", errors="replace")


def wait_for_log(appliance, words):
    wait_until(20, lambda: words in log_of(appliance), f"the log does not say {words!r}")


def refused(work, text, code, *words, environment=None):
    """landfalld with this configuration ends at once with `code` and says all of `words`."""
    path = pathlib.Path(work) / "refused.conf"
    path.write_text(text, encoding="utf-8")
    done = subprocess.run([BUILD / "landfalld", "--config", path], capture_output=True, text=True,
                          timeout=30, check=False, env=environment)
    expect(done.returncode == code, f"exit {done.returncode} instead of {code}: {done.stderr}")
    for word in words:
        expect(word in done.stderr, f"{word!r} is not in {done.stderr!r}")


def is_mounted(path):
    with open("/proc/self/mounts", encoding="utf-8") as mounts:
        return any(line.split()[1] == path for line in mounts)


def tells_systemd(work):
    """READY when it answers, WATCHDOG while it runs, RELOADING and READY, STOPPING at the end."""
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    listener.bind(f"{work}/notify")
    listener.settimeout(20)
    a = Appliance(BUILD, work, name="notified")
    a.environment.update(NOTIFY_SOCKET=f"{work}/notify", WATCHDOG_USEC="400000",
                         JOURNAL_STREAM="9:9")
    with a:
        expect(listener.recv(4096) == b"READY=1", "the first word is not READY=1")
        expect(listener.recv(4096) == b"WATCHDOG=1", "the watchdog is not fed")
        a.process.send_signal(signal.SIGHUP)
        heard = []
        while not heard or heard[-1] != b"READY=1":
            heard.append(listener.recv(4096))
        expect(any(h.startswith(b"RELOADING=1\nMONOTONIC_USEC=") for h in heard),
               f"no RELOADING: {heard}")
        a.process.terminate()
        while heard[-1] != b"STOPPING=1":
            heard.append(listener.recv(4096))
        expect(a.process.wait(30) == 0, "a clean stop does not exit 0")
    listener.close()


def stops_cleanly_and_shares_nothing(work):
    with Appliance(BUILD, work, name="first") as a:
        a.call("machine", "add", "web", "--source", "fuse", "--disk", "root=8M")
        status = f"/proc/{a.process.pid}/status"
        facts = pathlib.Path(f"/proc/{a.process.pid}/limits").read_text(encoding="ascii")
        hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
        expect(f"Max open files            {hard}" in facts, f"open files: {facts}")
        expect(os.stat(status).st_uid == 0, "not root")
        # The same state under another socket and mount, and the same socket with other state.
        text = a.config.read_text(encoding="utf-8")
        refused(work, text.replace("first.sock", "other.sock").replace("first-fs", "other-fs"), 5,
                "another landfalld uses", "first-state")
        refused(work, text.replace("first-state", "other-state").replace("first-fs", "other-fs")
                .replace("first-journal", "other-journal"), 5, "first.sock")
        expect(a.call("machine", "show", "web")["machine"]["name"] == "web", "the first is hurt")
        live = pathlib.Path(a.mount) / "web/live/root.vhd"
        with open(live, "r+b") as disk:
            disk.write(b"x" * 4096)
            disk.flush()
            os.fsync(disk.fileno())
        point = a.call("point", "create", "web")["point"]
        a.process.terminate()
        expect(a.process.wait(60) == 0, "a clean stop does not exit 0")
        expect(not is_mounted(a.mount), "the mount is left behind")
        expect(not os.path.exists(a.socket), "the socket is left behind")
        a.start()
        with open(live, "rb") as disk:
            expect(disk.read(4096) == b"x" * 4096, "what was written is gone after a restart")
        found = a.call("point", "list", "web")["points"]
        expect([p["name"] for p in found] == [point["name"]], f"points: {found}")
        a.kill()
        a.start()
        expect(is_mounted(a.mount), "not mounted again after SIGKILL")
        with open(live, "rb") as disk:
            expect(disk.read(4096) == b"x" * 4096, "what was written is gone after SIGKILL")


def reloads(work):
    policies = {"gold": {"point-interval": "0", "vault-interval": "5m"}}
    with Appliance(BUILD, work, name="reloaded", policies=policies) as a:
        expect(a.run("policy", "set", "gold", "point-interval=1m").returncode == 5,
               "a policy of the file can be set from outside")
        text = a.config.read_text(encoding="utf-8")
        a.config.write_text(text.replace("vault-interval = 5m", "vault-interval = 10m")
                            + "[policy silver]\npoint-interval = 5m\n", encoding="utf-8")
        a.process.send_signal(signal.SIGHUP)
        wait_until(20, lambda: a.call("policy", "show", "gold")["policy"]["settings"]
                   ["vault-interval"] == "10m", "the reload does not reach the policy")
        expect(a.call("policy", "show", "silver")["policy"]["origin"] == "configuration",
               "the new policy is not there")
        a.config.write_text(text.replace("size = 64M", "size = 32M"), encoding="utf-8")
        a.process.send_signal(signal.SIGHUP)
        wait_for_log(a, "only a restart takes it up: [cache] size")
        a.config.write_text(text + "[nonsense]\n", encoding="utf-8")
        a.process.send_signal(signal.SIGHUP)
        wait_for_log(a, "there is no section [nonsense]")
        expect(a.call("status")["machines"] == [], "the daemon does not live on")


def refuses_what_it_must(work):
    base = f"[appliance]\nstate_dir = {work}/x\nmount = {work}/x-fs\n" \
           f"control_socket = {work}/x.sock\nlisten = none\n"
    refused(work, base + "colour = blue\n", 2, "refused.conf:6", "colour", "→")
    refused(work, base.replace(f"{work}/x.sock", f"{work}/{'y' * 120}"), 2,
            "at most 107")
    pathlib.Path(f"{work}/x.file").write_text("mine", encoding="utf-8")
    refused(work, base.replace("x.sock", "x.file"), 5, "is not a socket")
    expect(pathlib.Path(f"{work}/x.file").read_text(encoding="utf-8") == "mine",
           "a file in the socket's place was harmed")
    secret = "c2VjcmV0LWtleQ=="
    bad = {**os.environ, "AZURE_STORAGE_CONNECTION_STRING": f"AccountKey={secret};What=ever"}
    path = pathlib.Path(work) / "refused.conf"
    path.write_text(base, encoding="utf-8")
    done = subprocess.run([BUILD / "landfalld", "--config", path], capture_output=True, text=True,
                          timeout=30, check=False, env=bad)
    expect(done.returncode == 2, f"a bad connection string: exit {done.returncode} {done.stderr}")
    expect(secret not in done.stderr, "the log tells a secret")
    expect(not is_mounted(f"{work}/x-fs"), "a refused start leaves its mount")
    done = subprocess.run([BUILD / "landfalld", "--check-config", "--config", f"{work}/none"],
                          capture_output=True, text=True, timeout=30, check=False)
    expect(done.returncode == 3 and f"{work}/none" in done.stderr, f"no file: {done}")


def jobs_tell_the_command_line(work):
    """With a vault: a job's document, its error, and a stop while a job runs."""
    with StrictService(work) as service, \
            Appliance(BUILD, work, service.connection_string, name="jobs") as a:
        a.call("vault", "init")
        a.call("machine", "add", "web", "--source", "fuse", "--disk", "root=8M")
        done = a.call("point", "create", "web", "--wait", "vault")
        expect(done["job"]["state"] == "done" and done["point"]["number"] == 1, f"{done}")
        done = a.call("verify", "web")
        expect(done["job"]["result"]["verdict"] == "verified", f"{done}")
        expect(a.call("vault", "check")["job"]["result"]["points"] == 1, "vault check")
        done = a.call("verify", "web", "--detach")
        expect(isinstance(done["job"], int), f"--detach: {done}")
        done = a.run("verify", "db")
        expect(done.returncode == 3 and json.loads(done.stdout)["error"]["data"]["exit"] == 3,
               f"an unknown machine: {done}")
        done = a.run("machine", "remove", "web")
        expect(done.returncode == 0, f"machine remove: {done}")


def main():
    if os.geteuid() != 0 or not os.path.exists("/dev/fuse"):
        print("needs root and /dev/fuse")
        return 77
    with tempfile.TemporaryDirectory() as work:
        for test in (refuses_what_it_must, tells_systemd, stops_cleanly_and_shares_nothing,
                     reloads, jobs_tell_the_command_line):
            began = time.monotonic()
            try:
                test(work)
            except Failure as failure:
                print(f"{test.__name__}: {failure}")
                return 1
            print(f"{test.__name__}: {time.monotonic() - began:.1f} s")
    return 0


if __name__ == "__main__":
    sys.exit(main())
