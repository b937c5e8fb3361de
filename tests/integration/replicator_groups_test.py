#!/usr/bin/python3
"""Groups, points, inspections and the vault through the daemon's socket: landfalld against the
strict page-blob server, disks written through the mount, contents compared byte for byte.

Each test has daemons, a vault and directories of its own and takes all of it down whatever
happens. Usage: replicator_groups_test.py [NAME-OF-A-TEST ...]
"""
import contextlib
import hashlib
import json
import os
import shutil
import signal
import socket
import struct
import subprocess
import sys
import tempfile
import time

TESTS = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
BUILD = os.environ.get("LANDFALL_BUILD") or os.path.join(TESTS, "../build/debug")
DAEMON = os.path.join(BUILD, "landfalld")
MIB = 1 << 20


def wait_for(what, condition, timeout=60):
    end = time.monotonic() + timeout
    while time.monotonic() < end:
        value = condition()
        if value:
            return value
        time.sleep(0.05)
    raise AssertionError(f"waited {timeout} s in vain for {what}")


def digest(path, length):
    h = hashlib.sha256()
    with open(path, "rb") as f:
        while length > 0:
            data = f.read(min(length, MIB))
            assert data, f"{path} ends too early"
            h.update(data)
            length -= len(data)
    return h.hexdigest()


def write(path, offset, data):
    with open(path, "r+b", buffering=0) as f:
        f.seek(offset)
        # In pieces that the kernel hands over whole, wherever the buffer lies in memory: a cut
        # inside a sector would be merged with what is in the vault, which may be away.
        while data:
            data = data[f.write(data[:256 * 1024]):]
        os.fsync(f.fileno())


class Refused(Exception):
    def __init__(self, error):
        super().__init__(error["message"])
        self.exit = error["data"]["exit"]
        self.mend = error["data"]["mend"]
        self.text = error["message"]


class Vault:
    """The strict server in a process of its own."""

    def __init__(self, stack):
        self.dir = tempfile.mkdtemp(prefix="landfall-vault-")
        stack.callback(shutil.rmtree, self.dir, ignore_errors=True)
        ready = os.path.join(self.dir, "ready")
        self.process = subprocess.Popen(
            [sys.executable, os.path.join(TESTS, "servers/pageblob/server.py"), "--data", self.dir,
             "--ready-file", ready, "--die-with-parent"], stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL)
        stack.callback(self.stop)
        wait_for("the page-blob server",
                 lambda: os.path.exists(ready) and os.path.getsize(ready) > 0)
        with open(ready, encoding="utf-8") as f:
            self.connection = json.load(f)["connection_string"]

    def stop(self):
        self.process.kill()
        self.process.wait()


class Appliance:
    """landfalld with its state, mount and socket; calling it calls a method."""

    def __init__(self, stack, vault, journal="256M"):
        self.dir = tempfile.mkdtemp(prefix="landfall-groups-")
        stack.callback(shutil.rmtree, self.dir, ignore_errors=True)
        self.vault, self.process, self.socket, self.wrong = vault, None, None, None
        self.state, self.mnt = self.dir + "/state", self.dir + "/mnt"
        with open(self.dir + "/conf", "w", encoding="utf-8") as f:
            f.write(f"[appliance]\nstate_dir = {self.state}\nmount = {self.mnt}\n"
                    f"control_socket = {self.dir}/sock\nlisten = none\n[journal]\nsize = {journal}\n"
                    "[cache]\nsize = 16M\n")
            if vault:
                f.write("[vault]\ncontainer = vault\n")
        stack.callback(self.clean)
        self.start()

    def start(self):
        env = dict(os.environ)
        env.pop("AZURE_STORAGE_CONNECTION_STRING", None)
        if self.vault:
            env["AZURE_STORAGE_CONNECTION_STRING"] = self.vault.connection
        with open(self.dir + "/log", "ab") as log:
            self.process = subprocess.Popen([DAEMON, "--config", self.dir + "/conf"], env=env,
                                            stderr=log, stdout=log)
        self.connect()

    def connect(self):
        def attempt():
            assert self.process.poll() is None, "landfalld ended:\n" + self.log()
            s = socket.socket(socket.AF_UNIX)
            try:
                s.connect(self.dir + "/sock")
            except OSError:
                s.close()
                return None
            return s
        self.socket = wait_for("the socket", attempt).makefile("rw")

    def log(self):
        with open(self.dir + "/log", encoding="utf-8", errors="replace") as f:
            return f.read()[-4000:]

    def __call__(self, method, **parameters):
        self.socket.write(json.dumps({"jsonrpc": "2.0", "id": 1, "method": method,
                                      "params": parameters}) + "\n")
        self.socket.flush()
        answer = json.loads(self.socket.readline())
        if "error" in answer:
            raise Refused(answer["error"])
        return answer["result"]

    def job(self, number, timeout=120):
        def ended():
            job = self("job.show", id=number)["job"]
            return job if job["state"] in ("done", "failed", "canceled") else None
        return wait_for(f"job {number}", ended, timeout)

    def machine(self, name="web"):
        return self("machine.show", name=name)["machine"]

    def alerts(self, name="web"):
        return {a["code"]: a for a in self.machine(name)["alerts"]}

    def metric(self, name, group="web"):
        line = f'{name}{{group="{group}"}} '
        return next(float(x[len(line):]) for x in self("metrics")["text"].splitlines()
                    if x.startswith(line))

    def wait_rounds(self, count):
        """Until the group has looked so often what is due."""
        end = self.metric("landfall_timer_rounds_total") + count
        wait_for(f"{count} rounds of the timer",
                 lambda: self.metric("landfall_timer_rounds_total") >= end)

    def live(self, disk="root", name="web"):
        return f"{self.mnt}/{name}/live/{disk}.vhd"

    def point(self, name="web", wait="local"):
        answer = self("point.create", machine=name, wait=wait)
        if answer["job"]:
            job = self.job(answer["job"])
            assert job["state"] == "done", job
        return answer["point"]

    def points(self, name="web"):
        return self("point.list", machine=name)["points"]

    def kill(self):
        self.process.kill()
        self.process.wait()

    def stop(self):
        self.process.terminate()
        assert self.process.wait(90) == 0, self.log()

    def clean(self):
        if self.process.poll() is None:
            self.process.terminate()
            try:
                code = self.process.wait(90)
            except subprocess.TimeoutExpired:
                self.kill()
                code = "a hang"
            if code != 0:
                self.wrong = f"landfalld ended with {code}:\n{self.log()}"
        with open("/proc/self/mountinfo", encoding="utf-8") as table:
            places = [line.split()[4] for line in table]
        for place in reversed([p for p in places if p.startswith(self.dir + "/")]):
            subprocess.run(["umount", "-l", place], check=False)
        assert not self.wrong, self.wrong


def refused(exit_code, words, function, *args, **parameters):
    try:
        result = function(*args, **parameters)
    except Refused as e:
        assert e.exit == exit_code and words in e.text, (e.exit, e.text)
        return e
    raise AssertionError(f"accepted: {result}")


def patient(appliance):
    """Points and flushes when asked for only."""
    appliance("policy.set", name="default", settings={
        "point-interval": "0", "vault-interval": "7d", "rpo-alert": "0"})


# ── tests ─────────────────────────────────────────────────────────────────────────────────────

def test_bad_input_is_refused_in_words(stack):
    a = Appliance(stack, None)
    add = {"name": "web", "source": "fuse"}
    for disks, words in (
            (["root=0"], "0 bytes"), (["root=1000"], "512-byte"), (["root=1025K"], "MiB"),
            (["root=8T"], "page blob"), (["root=9T"], "page blob"), (["root"], "ID=SIZE"),
            (["root=much"], "not a size"), ([], "no disk"), (["a/b=1M"], "valid name"),
            (["r=1M", "r=2M"], "twice")):
        assert refused(2, words, a, "machine.add", disk=disks, **add)
    refused(2, "volumes", a, "machine.add", name="web", source="ebs", disk=["root=1M"])
    refused(2, "no source", a, "machine.add", name="web", source="tape", disk=["root=1M"])
    refused(2, "valid name", a, "machine.add", name="../x", source="fuse", disk=["root=1M"])
    refused(3, "no policy", a, "machine.add", name="web", source="fuse", disk=["root=1M"],
            policy="none")
    refused(2, "no parameter", a, "machine.add", colour="red", **add)
    refused(3, "no machine", a, "machine.show", name="web")
    assert a("machine.list") == {"machines": []} and os.listdir(a.state + "/journal") == []
    a("machine.add", disk=["root=4M"], **add)
    refused(5, "already", a, "machine.add", disk=["root=4M"], **add)
    for point in ("17", "latest-processed", "latest-app", "1-20200101T000000Z", "2020-01-01"):
        refused(3, "", a, "point.show", machine="web", point=point)
    refused(2, "names no", a, "point.show", machine="web", point="yesterday")
    refused(1, "no vault", a, "point.create", machine="web", wait="vault")
    refused(2, "cannot be asked", a, "verify", machine="web", repair=True)
    refused(2, "rpo-alert", a, "policy.set", name="p", settings={"rpo-alert": "1s"})


def test_points_by_the_clock_only_of_changes(stack):
    a = Appliance(stack, None)
    a("machine.add", name="web", source="fuse", disk=["root=8M"])
    a("policy.set", name="default",
      settings={"point-interval": "1s", "vault-interval": "1s"})
    write(a.live(), 0, b"x" * 4096)
    wait_for("a point", a.points)
    a.wait_rounds(2)  # more than a second apart where nothing is written
    assert len(a.points()) == 1, a.points()
    assert a.machine()["rpo_local_s"] == 0
    a("machine.pause", name="web")
    write(a.live(), 8192, b"y" * 4096)
    wait_for("the age of the change", lambda: a.machine()["rpo_local_s"] > 2)
    assert len(a.points()) == 1 and a.machine()["state"] == "paused"
    a("machine.resume", name="web")
    wait_for("the next point", lambda: len(a.points()) == 2)
    # A restart by itself makes no point.
    a.stop()
    a.start()
    a.wait_rounds(2)
    assert len(a.points()) == 2
    names = sorted(os.listdir(a.mnt + "/web/points"))
    assert names == sorted([p["name"] for p in a.points()] + ["latest"])


def test_machines_of_a_group_share_their_points(stack):
    vault = Vault(stack)
    a = Appliance(stack, vault)
    a("vault.init")
    patient(a)
    a("machine.add", name="web", source="fuse", disk=["root=8M"], group="shop")
    a("machine.add", name="db", source="fuse", disk=["data=8M"], group="shop")
    write(a.live(), 0, b"1" * 65536)
    write(a.live("data", "db"), 0, b"2" * 65536)
    p = a.point(wait="vault")
    assert [x["number"] for x in a.points("db")] == [p["number"]] == [1]
    assert digest(a.mnt + "/db/points/latest/data.vhd", 8 * MIB) == \
        digest(a.live("data", "db"), 8 * MIB)
    # One leaves: the group lives on, the old point still shows both.
    job = a.job(a("machine.remove", name="db")["job"])
    assert job["state"] == "done", job
    assert [m["name"] for m in a("machine.list")["machines"]] == ["web"]
    write(a.live(), 0, b"3" * 65536)
    a.point(wait="vault")
    job = a.job(a("vault.check")["job"])
    assert job["state"] == "done" and job["result"]["points"] == 2, job
    # The last takes all of it from the vault.
    job = a.job(a("machine.remove", name="web")["job"])
    assert job["state"] == "done", job
    assert a.job(a("vault.check")["job"])["result"]["groups"] == 0
    assert os.listdir(a.state + "/journal") == [] and os.listdir(a.mnt) == []


def test_takeover_and_back(stack):
    vault = Vault(stack)
    a = Appliance(stack, vault)
    a("machine.add", name="web", source="fuse", disk=["root=8M", "data=4M"])
    wait_for("the alert", lambda: "vault-missing" in a.alerts())
    a("vault.init")
    wait_for("the vault", lambda: not a.alerts())
    patient(a)
    images = {}
    for i in range(3):
        write(a.live(), i * MIB, os.urandom(300000))
        images[a.point(wait="vault")["number"]] = digest(a.live(), 8 * MIB)
    a.kill()
    a.start()
    # The first request after a start may come before the vault has been asked at all.
    wait_for("the vault", lambda: a.metric("landfall_vault_reachable") == 1)
    for number, image in images.items():
        job = a.job(a("verify", machine="web", point=number)["job"])
        assert job["state"] == "done" and job["result"]["where"] == "vault", job
        path = a("point.show", machine="web", point=number)["point"]["path"]
        assert digest(path + "/root.vhd", 8 * MIB) == image
    b = Appliance(stack, vault)
    refusal = refused(5, "holds a group web", b, "machine.add", name="web", source="fuse",
                      disk=["root=8M"])
    assert "takeover" in refusal.mend, refusal.mend
    assert b("machine.list") == {"machines": []}
    job = b.job(b("vault.takeover")["job"])
    assert job["state"] == "done", job
    assert job["result"]["groups"][0]["machines"] == ["web"], job
    assert b.machine()["state"] == "protected" and len(b.machine()["disks"]) == 2
    assert b("policy.show", name="default")["policy"]["settings"]["vault-interval"] == "7d"
    for number, image in images.items():
        path = b("point.show", machine="web", point=number)["point"]["path"]
        assert digest(path + "/root.vhd", 8 * MIB) == image
    write(b.live(), 4 * MIB, os.urandom(100000))
    newer = b.point(wait="vault")
    # The first finds out by trying, says who, and changes nothing any more.
    a("point.create", machine="web", wait="vault")
    alert = wait_for("the alert", lambda: a.alerts().get("taken-over"))
    assert "took group web over" in alert["cause"] and a.machine()["state"] == "taken-over"
    try:
        write(a.live(), 0, b"x" * 4096)
        raise AssertionError("written")
    except OSError:
        pass
    refused(5, "another appliance", a, "point.create", machine="web")
    assert digest(a.live(), 8 * MIB) == images[max(images)]
    a.kill()
    a.start()
    assert a.machine()["state"] == "taken-over"
    # And back: what was here is set aside, not deleted.
    refused(5, "runs group", b, "vault.takeover", group="web")
    b.stop()
    job = a.job(a("vault.takeover", group="web")["job"])
    assert job["state"] == "done" and os.path.isdir(job["result"]["groups"][0]["set_aside"]), job
    path = a("point.show", machine="web", point=newer["name"])["point"]["path"]
    write(a.live(), 0, b"z" * 4096)
    a.point(wait="vault")
    assert os.path.exists(path + "/root.vhd")
    job = a.job(a("vault.check")["job"])
    assert job["state"] == "done", job


def test_points_are_deleted_and_kept(stack):
    vault = Vault(stack)
    a = Appliance(stack, vault)
    a("vault.init")
    patient(a)
    a("machine.add", name="web", source="fuse", disk=["root=4M"])
    for i in range(4):
        write(a.live(), 4096 * i, bytes([i + 1]) * 4096)
        a.point(wait="vault")
    a("point.keep", machine="web", point=2)
    refused(5, "kept", a, "point.delete", machine="web", point=2)
    refused(5, "newest", a, "point.delete", machine="web", point="latest-processed")
    a("point.delete", machine="web", point=1)
    made = time.monotonic()
    wait_for("points older than what is kept", lambda: time.monotonic() - made > 2)
    a("policy.set", name="default", settings={"retention": "all:1s"})
    wait_for("retention", lambda: [p["number"] for p in a.points()] == [2, 4], 90)
    wait_for("the vault", lambda: a.job(a("vault.check")["job"])["result"]["points"] == 2)
    for number in (2, 4):
        job = a.job(a("verify", machine="web", point=number)["job"])
        assert job["state"] == "done", job
    assert [p["verdict"] for p in a.points()] == ["verified", "verified"]


def test_vault_away_fills_the_journal_and_comes_back(stack):
    vault = Vault(stack)
    a = Appliance(stack, vault)
    a("vault.init")
    a("machine.add", name="web", source="fuse", disk=["root=512M"])
    a("policy.set", name="default",
      settings={"point-interval": "1s", "vault-interval": "1s", "rpo-alert": "5s"})
    write(a.live(), 0, b"a" * MIB)
    wait_for("protection", lambda: a.machine()["state"] == "protected")
    vault.process.send_signal(signal.SIGSTOP)
    stack.callback(vault.process.send_signal, signal.SIGCONT)
    data, offset = os.urandom(4 * MIB), 0
    while "journal-filling" not in a.alerts():
        write(a.live(), offset, data)
        offset += len(data)
        assert offset < 256 * MIB
    wait_for("the alerts", lambda: "rpo" in a.alerts())
    vault.process.send_signal(signal.SIGCONT)
    wait_for("the recovery", lambda: not a.alerts() and a.machine()["lag_bytes"] == 0, 120)
    image = digest(a.live(), 512 * MIB)
    p = a.point(wait="vault")
    job = a.job(a("verify", machine="web", point=p["number"])["job"])
    assert job["state"] == "done", job
    assert digest(p["path"] + "/root.vhd", 512 * MIB) == image


def mbr(partitions):
    sector = bytearray(512)
    for i, (kind, lba, sectors) in enumerate(partitions):
        struct.pack_into("<B3sB3sII", sector, 446 + 16 * i, 0, b"", kind, b"", lba, sectors)
    sector[510:] = b"\x55\xaa"
    return bytes(sector)


def loop(stack, path, offset, size):
    device = subprocess.run(["losetup", "-f", "--show", "-o", str(offset), "--sizelimit",
                             str(size), path], check=True, capture_output=True,
                            text=True).stdout.strip()
    stack.callback(subprocess.run, ["losetup", "-d", device], check=False,
                   stderr=subprocess.DEVNULL)
    return device


def test_filesystems_are_inspected(stack):
    if not shutil.which("mkfs.ext4") or not shutil.which("mkfs.xfs"):
        return "mkfs.ext4 or mkfs.xfs is missing"
    a = Appliance(stack, None, "2G")
    a("machine.add", name="web", source="fuse", disk=["root=128M", "data=320M", "raw=1M"])
    patient(a)
    write(a.live(), 0, mbr([(0x83, 2048, 40 * 2048), (0x82, 43008, 2048)]))
    with contextlib.ExitStack() as mounts:
        for disk, offset, size, make in (
                ("root", MIB, 40 * MIB, ["mkfs.ext4", "-q", "-L", "system"]),
                ("data", 0, 320 * MIB, ["mkfs.xfs", "-q", "-L", "files"])):
            device = loop(mounts, a.live(disk), offset, size)
            subprocess.run(make + [device], check=True, stdout=subprocess.DEVNULL)
            place = tempfile.mkdtemp(prefix="landfall-fs-")
            mounts.callback(os.rmdir, place)
            subprocess.run(["mount", device, place], check=True)
            mounts.callback(subprocess.run, ["umount", place], check=True)
            with open(place + "/file", "w", encoding="utf-8") as f:
                f.write(disk * 1000)
                f.flush()
                os.fsync(f.fileno())
        # Still mounted: the logs are dirty.
        dirty = a.point()
    for i in range(2):
        answer = a("inspect", machine="web", point=dirty["number"])["inspection"]
        found = {(f["disk"], f["partition"]): f for f in answer["filesystems"]}
        for key, kind, label in ((("root", 1), "ext4", "system"), (("data", 0), "xfs", "files")):
            f = found[key]
            assert f["type"] == kind and f["label"] == label and f["mounted_at"], f
            assert "log replayed" in f["note"], f
            with open(f["mounted_at"] + "/file", encoding="utf-8") as text:
                assert text.read() == key[0] * 1000
        assert found[("raw", 0)]["mounted_at"] is None and found[("raw", 0)]["note"]
        refused(5, "inspections", a, "machine.remove", name="web")
        with open(found[("root", 1)]["mounted_at"] + "/file", encoding="utf-8"):
            refused(5, "cannot be unmounted", a, "inspect.close", id=answer["id"])
        if i == 0:
            assert a("inspect.close", all=True) == {"closed": [answer["id"]]}
            assert a("inspect.list") == {"inspections": []}
            assert a("clone.list") == {"clones": []}
    # A killed daemon's inspection is gone after the next start.
    a.kill()
    a.start()
    with open("/proc/self/mountinfo", encoding="utf-8") as table:
        places = [x.split()[4] for x in table]
    assert [p for p in places if p.startswith(a.dir)] == [a.mnt]
    assert not os.path.exists(answer["directory"])
    refused(3, "such a partition", a, "inspect", machine="web", partition=9)


def main():
    if os.geteuid() != 0 or not os.path.exists("/dev/fuse"):
        print("skipped: needs root and /dev/fuse")
        return 77
    if not os.path.exists(DAEMON):
        print(f"skipped: {DAEMON} is not built")
        return 77
    wanted = sys.argv[1:]
    failed = 0
    for name, test in list(globals().items()):
        if not name.startswith("test_") or (wanted and name not in wanted):
            continue
        started = time.monotonic()
        with contextlib.suppress(KeyboardInterrupt):
            try:
                with contextlib.ExitStack() as stack:
                    skipped = test(stack)
                word = f"skipped: {skipped}" if skipped else "ok"
            except Exception as e:  # pylint: disable=broad-except
                import traceback
                traceback.print_exc()
                word, failed = f"FAILED: {e}", failed + 1
            print(f"{name}: {word} ({time.monotonic() - started:.1f} s)", flush=True)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
