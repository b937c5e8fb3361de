"""An appliance and page-blob services for tests: started on loopback, ended without trace.

    def test(work):
        with StrictService(work) as service, Appliance(BUILD, work, service.connection_string) as a:
            a.call("machine", "add", …)      # the command line with --json; Failure unless it exits 0
            a.kill(); a.start()              # SIGKILL and back

    run_test(test)                           # scratch directory, exit code, logs on failure

Everything started here dies with the test, even if the test itself is killed.
"""

import contextlib
import ctypes
import json
import os
import pathlib
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import traceback
import urllib.request

TOP = pathlib.Path(__file__).resolve().parents[2]
BUILD = pathlib.Path(os.environ.get("LANDFALL_BUILD") or TOP / "build/debug")
LIBC = ctypes.CDLL(None, use_errno=True)
MIB = 1 << 20


# For a shell in a mount namespace of its own, first: filesystems that other tests have mounted just
# now would stay mounted there, whatever they do.
FORGET_MOUNTS = ("cut -d ' ' -f 2 /proc/self/mounts | grep ^/var/tmp/ | tac | "
                 "xargs -r -n 1 umount -l 2>/dev/null; ")


class Failure(Exception):
    """What a test found wrong, in words."""


class Skip(Exception):
    """Why a test cannot run here."""


def step(text):
    """Says what is being done."""
    print(f"-- {text}", flush=True)


def check(condition, what):
    """Failure(what) unless the condition holds."""
    if not condition:
        raise Failure(what)


def need(*programs):
    """Skips the test when a program is missing."""
    for program in programs:
        if not shutil.which(program):
            raise Skip(f"{program} is not installed")


def wait_until(seconds, condition, what):
    """Asks until condition() is true and returns what it said; Failure(what) when the time is
    over. `what` may be a function, asked at the end."""
    end = time.monotonic() + seconds
    while True:
        said = condition()
        if said:
            return said
        if time.monotonic() > end:
            raise Failure(f"{what() if callable(what) else what} (waited {seconds} s)")
        time.sleep(0.01)


def die_with_parent():
    """For preexec_fn: the child gets SIGTERM when the test is gone, however it went."""
    LIBC.prctl(1, signal.SIGTERM)


def shell(*command, timeout=120, **options):
    """Runs a command; Failure with its output unless it exits 0. Returns its stdout."""
    done = subprocess.run([str(word) for word in command], stdout=subprocess.PIPE,
                          stderr=subprocess.STDOUT, text=True, timeout=timeout, check=False,
                          **options)
    if done.returncode != 0:
        raise Failure(f"{' '.join(str(w) for w in command)}: exit {done.returncode}\n{done.stdout}")
    return done.stdout


def run_test(test):
    """Runs test(work) in a scratch directory and ends the program: 0, 1 with the logs' ends, or
    77 for Skip. Keeps the directory with LANDFALL_KEEP=1."""
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, lambda n, _: sys.exit(128 + n))
    work = pathlib.Path(tempfile.mkdtemp(prefix="landfall-e2e-", dir="/var/tmp"))
    code = 1
    told = ""
    try:
        if os.geteuid() != 0:
            raise Skip("needs root")
        test(work)
        code = 0
    except Skip as why:
        print(f"skipped: {why}")
        code = 77
    except Failure as failure:
        told = f"FAILED: {failure}"
    except Exception:  # pylint: disable=broad-except
        told = traceback.format_exc()
    finally:
        if code == 1:
            for log in sorted(work.glob("*.log")):
                text = log.read_text(encoding="utf-8", errors="replace")
                print(f"--- the end of {log.name}\n{text[-3000:]}", file=sys.stderr)
            # Last, because the end of a test's output is what a reader sees first.
            print(told, file=sys.stderr)
        if os.environ.get("LANDFALL_KEEP"):
            print(f"kept: {work}", file=sys.stderr)
        else:
            shutil.rmtree(work, ignore_errors=True)
    sys.exit(code)


def end_process(process, seconds=10):
    """SIGTERM, and SIGKILL when that does not help. True if it ended by itself."""
    if process is None or process.poll() is not None:
        return True
    process.terminate()
    try:
        process.wait(seconds)
        return True
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
        return False


def is_mounted(path):
    with open("/proc/self/mountinfo", encoding="utf-8") as table:
        return any(line.split()[4] == str(path) for line in table)


def resident_bytes(process):
    text = pathlib.Path(f"/proc/{process.pid}/status").read_text(encoding="ascii")
    return next(int(line.split()[1]) * 1024 for line in text.splitlines()
                if line.startswith("VmRSS"))


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
                stdout=log, stderr=log, preexec_fn=die_with_parent)
        wait_until(20, lambda: self.is_ready(ready), "the page-blob service does not start")
        self.facts = json.loads(ready.read_text(encoding="utf-8"))
        return self

    def is_ready(self, ready):
        if self.process.poll() is not None:
            raise Failure(f"the page-blob service ended with {self.process.returncode}")
        return ready.exists() and ready.stat().st_size > 0

    def __exit__(self, *_):
        end_process(self.process)

    @property
    def connection_string(self):
        return self.facts["connection_string"]

    def admin(self, path, body=None):
        """Asks the service's admin interface; body None means GET."""
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(f"{self.facts['admin']}{path}", data=data)
        with urllib.request.urlopen(request, timeout=60) as answer:
            return json.load(answer)

    def check_witness(self):
        """Every change of a disk was fenced, every signature right, every snapshot is what it
        was. Wants fence_prefix to be set before."""
        seen = self.admin("/stats")
        for fault in ("unfenced", "unnumbered", "bad_signatures"):
            check(seen[fault] == 0, f"the service saw {seen[fault]} {fault} requests: "
                                    f"{seen['first_unfenced']} {seen['first_unnumbered']}")
        found = self.admin("/verify")
        check(found["ok"], f"the service's store is broken: {found['problems']}")
        return seen


class Azurite:
    """The emulator as a child process."""

    KEY = ("Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1OUzFT50uSRZ6IFsuFq2UVErCz4I6tq/K1SZFPTOtr/"
           "KBHBeksoGMGw==")

    def __init__(self, work):
        self.work = pathlib.Path(work)
        self.process = None
        self.connection_string = None

    def __enter__(self):
        need("node")
        if subprocess.run([TOP / "tests/azurite/install"], capture_output=True,
                          check=False).returncode != 0:
            raise Skip("azurite cannot be installed")
        log = self.work / "azurite.log"
        main = TOP / "tests/azurite/node_modules/azurite/dist/src/blob/main.js"
        with open(log, "w", encoding="utf-8") as out:
            self.process = subprocess.Popen(
                ["node", main, "--blobHost", "127.0.0.1", "--blobPort", "0", "--location",
                 self.work / "azurite", "--silent", "--disableTelemetry", "--skipApiVersionCheck"],
                stdout=out, stderr=out, preexec_fn=die_with_parent)
        port = wait_until(60, lambda: self.port(log), "azurite does not start")
        self.connection_string = (
            "DefaultEndpointsProtocol=http;AccountName=devstoreaccount1;"
            f"AccountKey={self.KEY};BlobEndpoint=http://127.0.0.1:{port}/devstoreaccount1;")
        return self

    def port(self, log):
        if self.process.poll() is not None:
            raise Failure(f"azurite ended with {self.process.returncode}")
        for line in log.read_text(encoding="utf-8").splitlines():
            if "successfully listens on http://127.0.0.1:" in line:
                return line.rsplit(":", 1)[1].strip()
        return None

    def __exit__(self, *_):
        end_process(self.process)


class Appliance:
    """landfalld with a configuration of its own, and landfall to talk to it."""

    def __init__(self, build, work, connection_string=None, journal_size="1G", policies=None,
                 container="test", name="landfalld", journal_dir=None, cache_size="64M",
                 listen="none"):
        self.build = pathlib.Path(build)
        self.work = pathlib.Path(work)
        self.name = name
        self.mount = str(self.work / f"{name}-fs")
        self.socket = str(self.work / f"{name}.sock")
        self.log = self.work / f"{name}.log"
        self.config = self.work / f"{name}.conf"
        self.state = self.work / f"{name}-state"
        self.journal = pathlib.Path(journal_dir or self.work / f"{name}-journal")
        self.container = container
        self.process = None
        self.log_start = 0
        self.environment = dict(os.environ)
        self.environment.pop("AZURE_STORAGE_CONNECTION_STRING", None)
        self.connection_string = connection_string
        if connection_string:
            self.environment["AZURE_STORAGE_CONNECTION_STRING"] = connection_string
        self.settings = {
            "appliance": {"state_dir": self.state, "mount": self.mount,
                          "control_socket": self.socket, "listen": listen},
            "journal": {"dir": self.journal, "size": journal_size},
            "cache": {"size": cache_size}}
        if connection_string:
            self.settings["vault"] = {"container": container}
        for policy, settings in (policies or {}).items():
            self.settings[f"policy {policy}"] = settings
        self.write_config()

    def write_config(self):
        """Writes `settings` to the configuration file; reload() or start() makes them count."""
        lines = []
        for section, keys in self.settings.items():
            lines.append(f"[{section}]")
            lines += [f"{key} = {value}" for key, value in keys.items()]
        self.config.write_text("\n".join(lines) + "\n", encoding="utf-8")

    def __enter__(self):
        try:
            self.start()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_):
        try:
            self.stop()
        finally:
            subprocess.run(["umount", "-l", self.mount], check=False, capture_output=True)

    def launch(self):
        """Starts the daemon and does not wait for it."""
        self.log_start = self.log.stat().st_size if self.log.exists() else 0
        with open(self.log, "a", encoding="utf-8") as log:
            self.process = subprocess.Popen(
                [self.build / "landfalld", "--config", self.config], stdout=log, stderr=log,
                env=self.environment, preexec_fn=die_with_parent)

    def start(self):
        self.launch()
        wait_until(30, self.answers, "landfalld does not answer")

    def answers(self):
        if self.process.poll() is not None:
            raise Failure(f"landfalld ended with {self.process.returncode}: {self.log_end()}")
        return self.run("status").returncode == 0

    def log_end(self, size=2000):
        return self.log.read_text(encoding="utf-8", errors="replace")[-size:]

    def alive(self):
        return self.process.poll() is None

    def agent_port(self):
        """The port for agents of a daemon with listen="127.0.0.1:0"."""
        def told():
            text = self.log.read_bytes()[self.log_start:].decode(errors="replace")
            match = re.search(r"agents are answered on \S+, port (\d+)", text)
            return match and int(match[1])
        return wait_until(30, told, "landfalld does not tell its port for agents")

    def kill(self):
        self.process.send_signal(signal.SIGKILL)
        self.process.wait()

    def reload(self):
        """SIGHUP: the configuration file is read again."""
        self.process.send_signal(signal.SIGHUP)

    def stop(self):
        if self.process and self.process.poll() is None:
            if not end_process(self.process, 60):
                raise Failure("landfalld does not end on SIGTERM")
            if self.process.returncode != 0:
                raise Failure(f"landfalld ended with {self.process.returncode}: {self.log_end()}")

    def lose_everything(self):
        """What is left of an appliance whose disk has died: nothing. Kills it first."""
        if self.alive():
            self.kill()
        for gone in (self.state, self.journal):
            shutil.rmtree(gone, ignore_errors=True)

    def run(self, *words, json_output=True, timeout=120):
        """The command line as it is: a CompletedProcess with its texts."""
        mode = ["--json"] if json_output else []
        return subprocess.run([self.build / "landfall", "--socket", self.socket, *mode,
                               *[str(word) for word in words]], capture_output=True, text=True,
                              check=False, env=self.environment, timeout=timeout)

    def call(self, *words, timeout=120):
        """The command's JSON; Failure with its error unless it exits 0."""
        done = self.run(*words, timeout=timeout)
        if done.returncode != 0:
            raise Failure(f"landfall {' '.join(str(w) for w in words)}: exit {done.returncode}: "
                          f"{done.stdout}{done.stderr}")
        return json.loads(done.stdout) if done.stdout.strip() else {}

    def refused(self, code, *words, says=(), mend=True, timeout=120):
        """The command must fail with this exit code and tell a person, in one line what is wrong
        (with these words), and in a line of its own what to do. Returns its stderr."""
        done = self.run("--no-progress", *words, json_output=False, timeout=timeout)
        what = f"landfall {' '.join(str(w) for w in words)}"
        check(done.returncode == code,
              f"{what}: exit {done.returncode} instead of {code}: {done.stdout}{done.stderr}")
        lines = done.stderr.strip().splitlines()
        check(1 <= len(lines) <= 2, f"{what}: not a line and its mend: {done.stderr!r}")
        check(lines[0].startswith("landfall: "), f"{what}: does not begin with its name: {lines[0]}")
        for word in [says] if isinstance(says, str) else says:
            check(word.lower() in done.stderr.lower(), f"{what}: does not say {word!r}: {done.stderr}")
        check(not mend or len(lines) == 2, f"{what}: tells no mend: {done.stderr!r}")
        as_json = self.run(*words, timeout=timeout)
        try:
            error = json.loads(as_json.stdout)["error"]
            right = error["data"]["exit"] == as_json.returncode == code and error["message"]
        except (ValueError, KeyError, TypeError):
            right = False
        check(right, f"{what} --json: {as_json.returncode} {as_json.stdout!r} {as_json.stderr!r}")
        return done.stderr

    # What tests ask for again and again

    def live(self, machine, disk):
        return f"{self.mount}/{machine}/live/{disk}.vhd"

    def write(self, machine, disk, at, data):
        """Durably, to the live disk."""
        with open(self.live(machine, disk), "r+b", buffering=0) as live:
            live.seek(at)
            check(live.write(data) == len(data), f"a short write to {machine}/{disk}")
            os.fsync(live.fileno())

    def points(self, machine):
        return self.call("point", "list", machine)["points"]

    def machine(self, name):
        return self.call("status", name)["machines"][0]

    def alerts(self, machine):
        return {alert["code"]: alert for alert in self.machine(machine)["alerts"]}

    def own_alerts(self):
        """The appliance's own."""
        return {alert["code"]: alert for alert in self.call("status")["appliance"]["alerts"]}

    def wait_alert(self, machine, code, seconds=30):
        """Waits for an alert; it must tell its cause and its mend."""
        alert = wait_until(seconds, lambda: self.alerts(machine).get(code),
                           lambda: f"no alert {code}, only {self.alerts(machine)}")
        for key in ("text", "cause", "mend"):
            check(alert[key], f"the alert {code} has no {key}: {alert}")
        return alert

    def create_point(self, machine, wait="local", timeout=120):
        return self.call("point", "create", machine, "--wait", wait, timeout=timeout)["point"]

    def remove_clone(self, clone):
        """As soon as the kernel has let go of loop devices on it."""
        wait_until(20, lambda: self.run("clone", "remove", clone["id"]).returncode == 0,
                   f"the clone {clone['id']} cannot be removed")

    def check_vault(self, orphans=0):
        """`vault check` finds nothing wrong; at most so many snapshots that are to be collected
        yet (an ambiguous answer may leave one behind)."""
        found = self.call("vault", "check", timeout=300)["job"]["result"]
        check(found["missing"] == found["broken"] == 0 and
              len(found["faults"]) <= found["orphaned"] <= orphans, f"vault check: {found}")
        return found

    def verify(self, machine, point):
        """`verify` of a point reads it and finds it right; returns where it read."""
        found = self.call("verify", machine, point, timeout=300)["job"]["result"]
        check(found["verdict"] == "verified", f"verify {machine} {point}: {found}")
        return found["where"]

    def memory_bytes(self):
        """What of the daemon is resident."""
        return resident_bytes(self.process)

    def keep_agent_port(self):
        """The agents' port is another one after a restart unless it is named."""
        host = self.settings["appliance"]["listen"].rpartition(":")[0]
        self.settings["appliance"]["listen"] = f"{host}:{self.agent_port()}"
        self.write_config()


@contextlib.contextmanager
def appliance_with_web(work, service, name, policies):
    """An appliance of that name, with a container of that name, and the machine web with the
    disk root of 16 MiB, written to through the mount."""
    with Appliance(BUILD, work, service.connection_string, policies=policies, name=name,
                   container=name) as appliance:
        appliance.call("vault", "init")
        appliance.call("machine", "add", "web", "--source", "fuse", "--disk", "root=16M")
        yield appliance


class Rpc:
    """A connection to the control socket, with no manners of its own."""

    def __init__(self, path, timeout=30):
        self.socket = socket.socket(socket.AF_UNIX)
        self.socket.settimeout(timeout)
        self.socket.connect(path)
        self.input = b""
        self.last_id = 0

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.socket.close()

    def send(self, data):
        self.socket.sendall(data)

    def line(self):
        """The next line; None when the daemon has closed."""
        while b"\n" not in self.input:
            data = self.socket.recv(1 << 16)
            if not data:
                return None
            self.input += data
        line, self.input = self.input.split(b"\n", 1)
        return json.loads(line)

    def request(self, method, **parameters):
        """Sends a request and returns its id."""
        self.last_id += 1
        self.send(json.dumps({"jsonrpc": "2.0", "id": self.last_id, "method": method,
                              "params": parameters}).encode() + b"\n")
        return self.last_id

    def call(self, method, **parameters):
        """The result; Failure with the error."""
        number = self.request(method, **parameters)
        answer = self.line()
        check(answer is not None, f"{method}: the daemon has closed the connection")
        check(answer.get("id") == number, f"{method}: the answer to something else: {answer}")
        check("result" in answer, f"{method}: {answer.get('error')}")
        return answer["result"]
