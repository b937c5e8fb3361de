#!/usr/bin/env python3
"""The control socket and jobs from outside: malformed calls, peers that vanish, close half, or may
not call; jobs watched, canceled and resumed after SIGKILL; the command line following a job. Served
by a daemon that is nothing else, since landfalld has no job that can be made to last, to fail and
to be canceled at will; what needs no such job, daemon_socket_test.py asks of landfalld."""

import json
import os
import pathlib
import signal
import socket
import subprocess
import sys
import tempfile
import time

BUILD = pathlib.Path(os.environ["LANDFALL_BUILD"])


class Daemon:
    def __init__(self, work):
        self.work = work
        self.path = f"{work}/run/control.sock"
        self.process = None

    def __enter__(self):
        self.start()
        return self

    def start(self):
        self.process = subprocess.Popen(
            [BUILD / "tests/control_daemon", self.path, f"{self.work}/jobs"],
            stdout=subprocess.PIPE, text=True)
        assert self.process.stdout.readline() == "ready\n", "the daemon does not start"

    def end(self, number=signal.SIGTERM):
        self.process.send_signal(number)
        code = self.process.wait(30)
        self.process.stdout.close()
        return code

    def __exit__(self, *_):
        if self.process.poll() is None:
            self.end(signal.SIGKILL)

    def connect(self):
        s = socket.socket(socket.AF_UNIX)
        s.connect(self.path)  # waits while the backlog is full, which a time limit would not
        s.settimeout(30)
        return s


def hear(stream):
    """The next line as JSON."""
    line = stream.readline()
    assert line.endswith(b"\n"), f"the connection ended: {line[:100]!r}"
    return json.loads(line)


def ask(s, method, params=None, number=1):
    """Calls and returns the answer, passing over notifications."""
    s.sendall(json.dumps({"jsonrpc": "2.0", "id": number, "method": method,
                          "params": params or {}}).encode() + b"\n")
    stream = s.makefile("rb", buffering=0)
    while True:
        answer = hear(stream)
        if "method" not in answer:
            return answer


def malformed_calls(daemon):
    s = daemon.connect()
    stream = s.makefile("rb")
    for line, code in (
            (b"{", -32700), (b"\xff\xfe", -32700), (b"\x00", -32700), (b"[]", -32600),
            (b"[" * 100000, -32700), (b'{"a":' * 5000, -32700), (b"3", -32600),
            (b'{"jsonrpc":"2.0","id":1,"method":"nothing"}', -32601),
            (b'{"jsonrpc":"2.0","id":1,"method":"echo","params":[1]}', -32602),
            (b'{"jsonrpc":"2.0","id":1,"method":"job.show","params":{"id":"x"}}', -32002),
            (b'{"jsonrpc":"2.0","id":1,"method":"job.show","params":{"id":7}}', -32003),
            (b'{"jsonrpc":"2.0","id":1,"method":"job.show","params":{"di":7}}', -32002)):
        s.sendall(line + b"\n")
        answer = hear(stream)
        assert answer["error"]["code"] == code, (line[:60], answer)
        assert set(answer["error"]["data"]) == {"exit", "cause", "mend"}, answer
    s.sendall(b'[{"jsonrpc":"2.0","id":5,"method":"echo"},{"jsonrpc":"2.0","method":"echo"},'
              b'{"jsonrpc":"2.0","id":5,"method":"echo"}]\n')
    assert [a["id"] for a in hear(stream)] == [5, 5]
    # Byte by byte, and no answer to a notification.
    for byte in b'{"jsonrpc":"2.0","method":"echo"}\r\n{"jsonrpc":"2.0","id":6,"method":"echo"}\n':
        s.sendall(bytes([byte]))
    assert hear(stream)["id"] == 6
    s.close()


def peers_that_vanish(daemon):
    for _ in range(200):
        s = daemon.connect()
        s.sendall(b'{"jsonrpc":"2.0","id":1,"method":"echo"}\n' * 50 + b'{"half')
        s.close()
    s = daemon.connect()
    s.sendall(b'{"jsonrpc":"2.0","id":1,"method":"echo"}\n')
    s.shutdown(socket.SHUT_WR)
    stream = s.makefile("rb")
    assert hear(stream)["id"] == 1
    assert stream.read() == b"", "a half-closed peer is not closed after its answer"
    s.close()


def strangers(daemon):
    """A process of another user and no group of ours: the socket is closed to it; where its mode
    was opened, it is told that it may not."""
    if os.geteuid() != 0 or not os.path.exists("/usr/bin/python3"):
        print("not root: strangers are not tried")
        return
    script = ("import socket,sys\ns=socket.socket(socket.AF_UNIX)\n"
              "s.settimeout(30)\n"
              "try:\n s.connect(sys.argv[1])\nexcept PermissionError:\n sys.exit(10)\n"
              "s.sendall(b'{\"jsonrpc\":\"2.0\",\"id\":1,\"method\":\"echo\"}\\n')\n"
              "sys.stdout.write(s.makefile().readline())\n")

    def as_nobody():
        return subprocess.run(["/usr/bin/python3", "-c", script, daemon.path], user=65534,
                              group=65534, extra_groups=[], capture_output=True, text=True,
                              timeout=60, check=False)
    os.chmod(daemon.work, 0o755)
    result = as_nobody()
    assert result.returncode == 10, f"a stranger may connect: {result}"
    os.chmod(daemon.path, 0o666)
    answer = json.loads(as_nobody().stdout)
    assert answer["error"]["code"] == -32004, answer
    os.chmod(daemon.path, 0o660)


def watched_jobs(daemon):
    s = daemon.connect()
    job = ask(s, "job.start", {"subject": "a", "seconds": 0.5})["result"]["job"]
    refused = ask(s, "job.start", {"subject": "a"})
    assert refused["error"]["code"] == -32005, refused
    assert ask(s, "job.watch", {"id": job})["result"]["job"]["id"] == job
    stream = s.makefile("rb")
    seen = []
    while not seen or seen[-1]["state"] in ("queued", "running"):
        note = hear(stream)
        assert note["method"] == "job.progress", note
        seen.append(note["params"]["job"])
    assert seen[-1]["state"] == "done" and seen[-1]["result"] == "rested", seen[-1]
    done = [j["progress"]["done"] for j in seen if j["progress"] and j["progress"]["unit"]]
    assert done == sorted(done) and len(seen) < 60, f"{len(seen)} notifications: {done}"
    # One that is over is answered at once and tells nothing more.
    assert ask(s, "job.watch", {"id": job})["result"]["job"]["state"] == "done"
    job = ask(s, "job.start", {"subject": "a", "seconds": 60})["result"]["job"]
    assert "result" in ask(s, "job.cancel", {"id": job})
    while ask(s, "job.show", {"id": job})["result"]["job"]["state"] == "running":
        time.sleep(0.01)
    assert ask(s, "job.show", {"id": job})["result"]["job"]["state"] == "canceled"
    assert ask(s, "job.cancel", {"id": job})["error"]["code"] == -32005
    s.close()


def killed_and_resumed(daemon):
    s = daemon.connect()
    job = ask(s, "job.start", {"subject": "k", "seconds": 2})["result"]["job"]
    while ask(s, "job.show", {"id": job})["result"]["job"]["steps"][1]["state"] != "running":
        time.sleep(0.01)
    first = ask(s, "job.show", {"id": job})["result"]["job"]["steps"][0]
    daemon.end(signal.SIGKILL)
    s.close()
    daemon.start()
    s = daemon.connect()
    shown = ask(s, "job.show", {"id": job})["result"]["job"]
    assert shown["steps"][0] == first, "a finished step ran again"
    while ask(s, "job.show", {"id": job})["result"]["job"]["state"] != "done":
        time.sleep(0.05)
    s.close()


def landfall(daemon, *words, **options):
    return subprocess.run([BUILD / "landfall", "--socket", daemon.path, *words],
                          capture_output=True, text=True, timeout=60, check=False, **options)


def the_command_line_follows(daemon):
    s = daemon.connect()
    job = ask(s, "job.start", {"subject": "c", "seconds": 1})["result"]["job"]
    result = landfall(daemon, "job", "watch", str(job))
    assert result.returncode == 0, result
    assert "rested" in result.stdout and "nap c: sleep" in result.stderr, result
    assert " % " in result.stderr and " left" in result.stderr, result.stderr
    job = ask(s, "job.start", {"subject": "c", "fail": True})["result"]["job"]
    result = landfall(daemon, "--no-progress", "job", "watch", str(job))
    assert result.returncode == 5, result
    assert result.stderr == (f"landfall: job {job}: the name is taken\n"
                             "  → try another name\n"), result.stderr
    result = landfall(daemon, "--json", "job", "watch", str(job))
    answer = json.loads(result.stdout)
    assert result.returncode == 5 and answer["error"]["data"]["exit"] == 5, result
    assert answer["job"]["state"] == "failed", answer
    result = landfall(daemon, "job", "list")
    assert result.stdout.splitlines()[1].split()[:4] == [str(job), "nap", "c", "failed"], result
    assert landfall(daemon, "job", "show", "4711").returncode == 3
    assert landfall(daemon, "job", "watch", "x").returncode == 2
    # An interrupt ends the command, not the job.
    job = ask(s, "job.start", {"subject": "c", "seconds": 60})["result"]["job"]
    process = subprocess.Popen([BUILD / "landfall", "--socket", daemon.path, "job", "watch",
                                str(job)], stderr=subprocess.PIPE, text=True)
    process.stderr.readline()
    process.send_signal(signal.SIGINT)
    _, text = process.communicate(timeout=30)
    assert process.returncode == 1 and f"landfall job watch {job}" in text, text
    assert ask(s, "job.show", {"id": job})["result"]["job"]["state"] == "running"
    assert ask(s, "job.cancel", {"id": job})["result"]
    result = landfall(daemon, "status")
    assert result.returncode == 2 and "no method" in result.stderr, result
    s.close()


def main():
    with tempfile.TemporaryDirectory() as work, Daemon(work) as daemon:
        for test in (malformed_calls, peers_that_vanish, strangers, watched_jobs,
                     killed_and_resumed, the_command_line_follows):
            began = time.monotonic()
            test(daemon)
            assert daemon.process.poll() is None, "the daemon is dead"
            print(f"{test.__name__}: {time.monotonic() - began:.1f} s")
        assert daemon.end() == 0, "the daemon does not end cleanly"
        assert not os.path.exists(daemon.path), "the socket is left behind"
    return 0


if __name__ == "__main__":
    sys.exit(main())
