"""An appliance and a strict page-blob service for tests: started on loopback, ended without trace.

    with StrictService(work) as service, Appliance(build, work, service.connection_string) as a:
        a.call("machine", "add", …)      # the command line with --json; Failure unless it exits 0
        a.kill(); a.start()              # SIGKILL and back
"""

import json
import os
import pathlib
import signal
import subprocess
import sys
import time
import urllib.request

TOP = pathlib.Path(__file__).resolve().parents[2]


class Failure(Exception):
    """What a test found wrong, in words."""


def wait_until(seconds, condition, what):
    """Asks until condition() is true; Failure(what) when the time is over."""
    end = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > end:
            raise Failure(f"{what} (waited {seconds} s)")
        time.sleep(0.01)


class StrictService:
    """tests/servers/pageblob as a child process."""

    def __init__(self, work, *options):
        self.work = work
        self.options = options
        self.process = None
        self.facts = {}

    def __enter__(self):
        ready = pathlib.Path(self.work) / "service.ready"
        data = pathlib.Path(self.work) / "service"
        data.mkdir(exist_ok=True)
        with open(f"{self.work}/service.log", "w", encoding="utf-8") as log:
            self.process = subprocess.Popen(
                [sys.executable, str(TOP / "tests/servers/pageblob/server.py"), "--port", "0",
                 "--ready-file", str(ready), "--data", str(data), *self.options],
                stdout=log, stderr=log)
        wait_until(20, lambda: self.is_ready(ready), "the page-blob service does not start")
        self.facts = json.loads(ready.read_text(encoding="utf-8"))
        return self

    def is_ready(self, ready):
        if self.process.poll() is not None:
            raise Failure(f"the page-blob service ended with {self.process.returncode}")
        return ready.exists() and ready.stat().st_size > 0

    def __exit__(self, *_):
        self.process.terminate()
        try:
            self.process.wait(10)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()

    @property
    def connection_string(self):
        return self.facts["connection_string"]

    def admin(self, path, body=None):
        """Asks the service's admin interface; body None means GET."""
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(f"{self.facts['admin']}{path}", data=data)
        with urllib.request.urlopen(request, timeout=30) as answer:
            return json.load(answer)


class Appliance:
    """landfalld with a configuration of its own, and landfall to talk to it."""

    def __init__(self, build, work, connection_string=None, journal_size="1G", policies=None,
                 container="test", name="landfalld"):
        self.build = pathlib.Path(build)
        self.work = pathlib.Path(work)
        self.name = name
        self.mount = str(self.work / f"{name}-fs")
        self.socket = str(self.work / f"{name}.sock")
        self.log = self.work / f"{name}.log"
        self.config = self.work / f"{name}.conf"
        self.process = None
        self.environment = dict(os.environ)
        self.environment.pop("AZURE_STORAGE_CONNECTION_STRING", None)
        if connection_string:
            self.environment["AZURE_STORAGE_CONNECTION_STRING"] = connection_string
        lines = ["[appliance]", f"state_dir = {self.work}/{name}-state", f"mount = {self.mount}",
                 f"control_socket = {self.socket}", "[journal]",
                 f"dir = {self.work}/{name}-journal", f"size = {journal_size}", "[cache]",
                 "size = 64M"]
        if connection_string:
            lines += ["[vault]", f"container = {container}"]
        for policy, settings in (policies or {}).items():
            lines.append(f"[policy {policy}]")
            lines += [f"{key} = {value}" for key, value in settings.items()]
        self.config.write_text("\n".join(lines) + "\n", encoding="utf-8")

    def __enter__(self):
        self.start()
        return self

    def __exit__(self, *_):
        self.stop()
        subprocess.run(["umount", "-l", self.mount], check=False, capture_output=True)

    def start(self):
        with open(self.log, "a", encoding="utf-8") as log:
            self.process = subprocess.Popen(
                [self.build / "landfalld", "--config", self.config], stdout=log, stderr=log,
                env=self.environment)
        wait_until(30, self.answers, "landfalld does not answer")

    def answers(self):
        if self.process.poll() is not None:
            tail = self.log.read_text(encoding="utf-8", errors="replace")[-2000:]
            raise Failure(f"landfalld ended with {self.process.returncode}: {tail}")
        return self.run("status").returncode == 0

    def kill(self):
        self.process.send_signal(signal.SIGKILL)
        self.process.wait()

    def stop(self):
        if self.process and self.process.poll() is None:
            self.process.terminate()
            try:
                self.process.wait(60)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()
                raise Failure("landfalld does not end on SIGTERM") from None

    def run(self, *words):
        """The command line as it is: a CompletedProcess with its texts."""
        return subprocess.run([self.build / "landfall", "--socket", self.socket, "--json", *words],
                              capture_output=True, text=True, check=False, env=self.environment)

    def call(self, *words):
        """The command's JSON; Failure with its error unless it exits 0."""
        done = self.run(*words)
        if done.returncode != 0:
            raise Failure(f"landfall {' '.join(words)}: exit {done.returncode}: "
                          f"{done.stdout}{done.stderr}")
        return json.loads(done.stdout) if done.stdout.strip() else {}
