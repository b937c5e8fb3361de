#!/usr/bin/env python3
"""The real daemon's control socket, treated badly: malformed calls of every method, a line of
1 GiB, ten thousand connections, readers that never read, many requests at once, and a user who may
not. The daemon lives, stays small and answers the others."""

import json
import os
import pathlib
import resource
import socket
import subprocess
import sys
import threading
import time

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1] / "lib"))

from appliance import (BUILD, MIB, Appliance, Rpc, Skip, check, need, run_test, step,
                       wait_until)  # noqa: E402

CONNECTIONS = 10_000
METHODS = ("status", "machine.add", "machine.list", "machine.show", "machine.remove",
           "machine.pause", "machine.resume", "point.list", "point.show", "point.create",
           "point.keep", "point.delete", "clone.create", "clone.list", "clone.remove", "inspect",
           "inspect.list", "inspect.close", "verify", "policy.set", "policy.list", "policy.show",
           "vault.init", "vault.check", "vault.takeover", "metrics", "job.list", "job.show",
           "job.watch", "job.cancel")
NONSENSE = ({"colour": "blue"}, {"machine": 7, "name": 7, "id": {}, "point": []},
            {"machine": "x" * 5000, "name": "x" * 5000, "id": "x" * 5000},
            {"machine": "../m", "name": "../m", "id": -1, "point": 1e300},
            {"machine": None, "name": None, "id": None, "all": "yes", "settings": 5},
            {"name": "n", "source": "fuse", "disk": "d=8M"},
            {"name": "n", "source": "fuse", "disk": [5]},
            {"name": "n", "source": "fuse", "disk": ["d=8M"] * 2000},
            {"machine": "m", "from": -1, "limit": 10 ** 30})


def malformed(appliance):
    step("every method with nonsense")
    with Rpc(appliance.socket) as rpc:
        for method in METHODS:
            for parameters in NONSENSE:
                number = rpc.request(method, **parameters)
                answer = rpc.line()
                check(answer and answer["id"] == number and "error" in answer,
                      f"{method} {str(parameters)[:60]} is answered with {str(answer)[:200]}")
                error = answer["error"]
                check(error["message"] and error["data"]["exit"] in (2, 3, 5),
                      f"{method} {str(parameters)[:60]}: {error}")
        for text in (b"{", b"[]", b"null", b'"x"', b"[" * 5000, b"\xff\xfe\x00", b"{}" * 3,
                     b'{"jsonrpc":"1.0","id":1,"method":"status"}',
                     b'{"jsonrpc":"2.0","id":1,"method":"status","params":[1]}'):
            rpc.send(text + b"\n")
            check(rpc.line()["error"]["code"] in (-32700, -32600, -32602), f"{text[:40]}")
        rpc.call("status")
    check([m["name"] for m in appliance.call("machine", "list")["machines"]] == ["m"], "machines")


def one_gibibyte(appliance):
    step("a line of 1 GiB")
    with Rpc(appliance.socket, timeout=120) as rpc:
        rpc.call("status")
        before = appliance.memory_bytes()
        piece = b"x" * (4 * MIB)
        for _ in range(256):
            rpc.send(piece)
        grown = appliance.memory_bytes() - before
        rpc.send(b"\n")
        check(rpc.line()["error"]["code"] == -32600, "the line is not refused")
        rpc.call("status")
    check(grown < 32 * MIB, f"the daemon grew by {grown >> 20} MiB")


def at_once(appliance):
    step("many requests at once, and points of them")
    results = []

    def client(i):
        with Rpc(appliance.socket, timeout=60) as rpc:
            for k in range(40):
                if k % 4 == 0:
                    results.append(rpc.call("point.create", machine="m")["point"]["number"])
                else:
                    rpc.call(("status", "metrics", "job.list")[(i + k) % 3])
    threads = [threading.Thread(target=client, args=(i,)) for i in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    check(len(results) == len(set(results)) == 160, f"{len(results)} points, "
                                                    f"{len(set(results))} numbers")
    check(len(appliance.points("m")) == 160, "points are missing in the list")


def slow_readers(appliance):
    """Peers that ask and never read: others are answered at once, memory stays bounded."""
    step("readers that never read")
    before = appliance.memory_bytes()
    peers = []
    for _ in range(50):
        peer = socket.socket(socket.AF_UNIX)
        peer.connect(appliance.socket)
        peer.setblocking(False)
        line = b'{"jsonrpc":"2.0","id":1,"method":"point.list","params":{"machine":"m"}}\n'
        try:
            for _ in range(2000):
                peer.send(line)
        except BlockingIOError:
            pass
        peers.append(peer)
    began = time.monotonic()
    for _ in range(5):
        appliance.call("status")
    took = time.monotonic() - began
    grown = appliance.memory_bytes() - before
    for peer in peers:
        peer.close()
    check(took < 10, f"five calls took {took:.1f} s")
    check(grown < 256 * MIB, f"the daemon grew by {grown >> 20} MiB")


def allow_files(wanted):
    """Raises the limits of open files, for this process and the daemon that it starts. False if
    they are lower and may not be raised."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard != resource.RLIM_INFINITY and hard < wanted:
        try:
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, wanted))
        except (OSError, ValueError):
            return False
    elif soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
    return True


def many_connections(appliance):
    step(f"{CONNECTIONS} connections")
    before, peers = appliance.memory_bytes(), []
    fds = f"/proc/{appliance.process.pid}/fd"
    try:
        for _ in range(CONNECTIONS):
            peer = socket.socket(socket.AF_UNIX)
            peer.connect(appliance.socket)  # waits while the backlog is full
            peer.settimeout(60)
            peers.append(peer)
        for peer in peers[:: CONNECTIONS // 50] + peers[-1:]:
            peer.sendall(b'{"jsonrpc":"2.0","id":1,"method":"policy.list"}\n')
            answer = json.loads(peer.makefile("rb").readline())
            check("result" in answer, f"one of {CONNECTIONS} peers is answered {answer}")
        check(len(os.listdir(fds)) > CONNECTIONS, "the daemon does not hold all connections")
        appliance.call("status")
        appliance.create_point("m")
        grown = appliance.memory_bytes() - before
        check(grown < 128 * MIB, f"{grown >> 20} MiB for {CONNECTIONS} connections")
    finally:
        for peer in peers:
            peer.close()
    wait_until(20, lambda: len(os.listdir(fds)) < 1000, "connections that were closed stay open")
    appliance.call("status")


def strangers(appliance, work):
    step("a user who may not")
    need("runuser")
    os.chmod(work, 0o755)
    copy = work / "landfall"  # where anyone can read it
    copy.write_bytes((BUILD / "landfall").read_bytes())
    copy.chmod(0o755)
    for mode in (None, 0o666):  # by the socket's mode, and by who is calling
        if mode:
            os.chmod(appliance.socket, mode)
        done = subprocess.run(["runuser", "-u", "nobody", "--", copy, "--socket", appliance.socket,
                               "status"], capture_output=True, text=True, check=False)
        check(done.returncode == 4, f"exit {done.returncode}: {done.stdout}{done.stderr}")
        check(len(done.stderr.strip().splitlines()) == 2, f"no mend: {done.stderr!r}")
    os.chmod(appliance.socket, 0o660)
    with open(appliance.live("m", "d"), "rb") as file:
        file.read(512)
    done = subprocess.run(["runuser", "-u", "nobody", "--", "head", "-c", "512",
                           appliance.live("m", "d")], capture_output=True, check=False)
    check(done.returncode != 0, "anyone can read the disks")


def test(work):
    enough = allow_files(CONNECTIONS + 1000)
    with Appliance(BUILD, work, policies={"asked": {"point-interval": "0", "retention": "all:1h"}}
                   ) as appliance:
        appliance.call("machine", "add", "m", "--source", "fuse", "--disk", "d=8M", "--policy",
                       "asked")
        strangers(appliance, work)
        malformed(appliance)
        one_gibibyte(appliance)
        at_once(appliance)
        slow_readers(appliance)
        if enough:
            many_connections(appliance)
        check(appliance.alive(), "the daemon has ended")
    if not enough:
        raise Skip(f"all but {CONNECTIONS} connections passed: no more than "
                   f"{resource.getrlimit(resource.RLIMIT_NOFILE)[1]} files may be open")


if __name__ == "__main__":
    run_test(test)
