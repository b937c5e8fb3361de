"""A real sshd on loopback with keys of its own, and an ssh that reads nobody else's configuration."""

import os
import pathlib
import socket
import subprocess

from appliance import FORGET_MOUNTS, die_with_parent, end_process, shell, wait_until


class Sshd:
    """`before`: what its shell does first, in a mount namespace of its own. The host is called
    `target`; `ssh` is the command that finds it."""

    def __init__(self, work, before=""):
        self.work = pathlib.Path(work)
        self.before = before
        self.process = None
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        self.ssh = ["ssh", "-F", str(self.work / "ssh_config"), "-i", str(self.work / "user_key")]

    def __enter__(self):
        for name in ("host_key", "user_key", "other_key"):
            shell("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", self.work / name)
        (self.work / "sshd_config").write_text(
            f"Port {self.port}\nListenAddress 127.0.0.1\nHostKey {self.work}/host_key\n"
            f"AuthorizedKeysFile {self.work}/user_key.pub\nPasswordAuthentication no\n"
            "StrictModes no\nUsePAM no\nPidFile none\nPermitRootLogin yes\n", encoding="utf-8")
        (self.work / "ssh_config").write_text(
            f"Host target\n  HostName 127.0.0.1\n  Port {self.port}\n"
            f"  StrictHostKeyChecking no\n  UserKnownHostsFile {self.work}/known_hosts\n"
            "  LogLevel ERROR\n  Ciphers aes128-gcm@openssh.com\n", encoding="utf-8")
        script = (f"{FORGET_MOUNTS}\nset -e\n{self.before}\nmkdir -p /run/sshd\n"
                  f"exec /usr/sbin/sshd -D -e -f {self.work}/sshd_config")
        with open(self.work / "sshd.log", "w", encoding="utf-8") as log:
            self.process = subprocess.Popen(["unshare", "--mount", "bash", "-c", script], stdout=log,
                                            stderr=log, preexec_fn=die_with_parent)
        wait_until(20, self.answers, "sshd does not answer")
        return self

    def answers(self):
        with socket.socket() as probe:
            return probe.connect_ex(("127.0.0.1", self.port)) == 0

    def run(self, script):
        """In its namespace, without ssh."""
        return shell("nsenter", f"--mount=/proc/{self.process.pid}/ns/mnt", "sh", "-c", script)

    def tools(self):
        """A directory with an `ssh` that reads this configuration, for PATH."""
        tools = self.work / "tools"
        tools.mkdir(exist_ok=True)
        (tools / "ssh").write_text(
            f'#!/bin/sh\nexec /usr/bin/ssh -F {self.work}/ssh_config "$@"\n', encoding="utf-8")
        (tools / "ssh").chmod(0o755)
        return f"{tools}:{os.environ['PATH']}"

    def __exit__(self, *_):
        end_process(self.process)
