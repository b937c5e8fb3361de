#!/usr/bin/env python3
"""What landfall-agent says when it is asked for what cannot be: a cause in one line, a mend in the
next, and an exit code that tells usage from what is not there, not permitted or not reachable.

Wrong paths of disks, a user who is not root, and ports that are somebody else's.
"""

import contextlib
import pathlib
import shutil
import socket
import subprocess
import sys
import threading

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1] / "lib"))
from agent import Agent
from appliance import BUILD, Appliance, check, need, run_test, step

NOBODY = ("setpriv", "--reuid", "65534", "--regid", "65534", "--clear-groups")


def fails(code, says, mends, *words, as_who=(), program=BUILD / "landfall-agent"):
    """It must end with this code, having said this, and how to mend it."""
    done = subprocess.run([*as_who, program, *[str(word) for word in words]], timeout=60,
                          capture_output=True, text=True, check=False)
    what = f"{words}: exit {done.returncode}: {done.stdout}{done.stderr}"
    check(done.returncode == code, f"{what} instead of {code}")
    lines = done.stderr.strip().splitlines()
    check(len(lines) == 2 and lines[0].startswith("landfall-agent: "), f"not two lines: {what}")
    check(lines[1].startswith("  → "), f"no mend: {what}")
    check(says in lines[0] and mends in lines[1], f"no {says!r}, {mends!r}: {what}")


def disks(work):
    step("what is no disk")
    run = ("run", "--state-dir", work / "state", "--status-file", work / "run/status", "--pin-dir", "")
    for command in (run, ("measure", "--duration", "1s")):
        for path, code, says, mends in (
                ("/dev/null", 2, "/dev/null is not a block device", "name a disk"),
                (work, 2, "is not a block device", "name a disk"),
                (work / "none", 3, "No such file", "lsblk")):
            fails(code, says, mends, *command, "--disk", f"root={path}")
    fails(2, "is not ID=PATH", "--disk root=/dev/sda", *run, "--disk", "/dev/vda")


def not_root(work):
    step("whoever is not root")
    program = work / "agent"  # where others may get at it
    shutil.copy(BUILD / "landfall-agent", program)
    program.chmod(0o755)
    work.chmod(0o711)
    for words in (("run",), ("run", "--disk", "root=/dev/null"), ("measure", "--duration", "1s")):
        fails(4, "not root", "run it as root", *words, as_who=NOBODY, program=program)
    work.chmod(0o700)


@contextlib.contextmanager
def stranger(answers):
    """A port of somebody who answers so to whatever comes, and closes; None: who stays silent."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        def serve():
            held = []
            with contextlib.suppress(OSError):
                while True:
                    connection, _ = server.accept()
                    held.append(connection)
                    if answers is None:
                        continue
                    connection.sendall(answers)
                    connection.recv(4096)
                    connection.close()
        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        yield server.getsockname()[1]
        server.shutdown(socket.SHUT_RDWR)
        thread.join(10)


def ports(work):
    step("ports of others: the mend is not to try again, and the key still serves")
    with Appliance(BUILD, work, listen="127.0.0.1:0") as appliance, \
            Agent(BUILD, work, "web") as agent:
        appliance.call("machine", "add", "web", "--source", "agent")
        key = appliance.call("key", "create", "--machine", "web")["text"]

        def enroll(port, code, says):
            fails(code, says, "port for agents", "enroll", "--appliance", f"127.0.0.1:{port}",
                  "--machine", "web", "--key", key, "--state-dir", agent.state)
        for answers, code, says in ((b"SSH-2.0-OpenSSH_9.2\r\n", 1, "does not speak TLS"),
                                    (b"HTTP/1.1 400 Bad Request\r\n\r\n", 1, "does not speak TLS"),
                                    (b"", 6, "closed the connection"), (None, 6, "took too long")):
            with stranger(answers) as port:
                enroll(port, code, says)
        agent.enroll(appliance, key)


def test(work):
    need("setpriv")
    disks(work)
    not_root(work)
    ports(work)


run_test(test)
