"""The tests' own AWS (tests/servers/aws) as a child process, and machines in it.

    with Aws(work) as aws:
        machine = aws.machine(2)         an instance with two volumes of a GiB, which are files
        Appliance(…, aws=aws)            an appliance that replicates from there
        aws.check_witness(alive=2)       no signature was refused; so many snapshots are alive
"""

import json
import os
import pathlib
import secrets
import subprocess
import sys
import urllib.request

from appliance import TOP, Failure, check, die_with_parent, end_process, wait_until

BLOCK = 524288
GIB = 1 << 30


class Volume:
    """A volume: a sparse file that a test writes to as a machine would."""

    def __init__(self, facts):
        self.id, self.path = facts["id"], pathlib.Path(facts["path"])
        self.disk = os.path.basename(facts["device"])

    def write(self, offset, data):
        with open(self.path, "r+b") as file:
            file.seek(offset)
            file.write(data)
            file.flush()
            os.fsync(file.fileno())

    def settle(self):
        """Makes all of the file data or holes: what was only allocated, as by mkfs, is data for as
        long as its pages are in memory."""
        copy = f"{self.path}.settled"
        self.copy(copy)
        os.rename(copy, self.path)

    def punch(self, index, count=1):
        """Blocks that are gone: holes in the file."""
        subprocess.run(["fallocate", "--punch-hole", "--offset", str(index * BLOCK), "--length",
                        str(count * BLOCK), self.path], check=True)

    def copy(self, path):
        """Its content now; holes stay holes."""
        subprocess.run(["cp", "--sparse=always", self.path, path], check=True)

    def blocks(self):
        """{index: content} of all blocks that have data in them."""
        found, fd = {}, os.open(self.path, os.O_RDONLY)
        try:
            at, size = 0, os.fstat(fd).st_size
            while at < size:
                try:
                    at = os.lseek(fd, at, os.SEEK_DATA) // BLOCK * BLOCK
                except OSError:
                    break
                found[at // BLOCK] = os.pread(fd, BLOCK, at)
                at += BLOCK
        finally:
            os.close(fd)
        return found


class Machine:
    """An instance."""

    def __init__(self, facts):
        self.id, self.private_ip = facts["id"], facts["private_ip"]
        self.volumes = [Volume(volume) for volume in facts["volumes"]]


class Aws:
    """tests/servers/aws as a child process."""

    def __init__(self, work, *options):
        self.work, self.options = pathlib.Path(work), options
        self.process, self.facts = None, {}

    def __enter__(self):
        ready = self.work / "aws.ready"
        (self.work / "aws").mkdir(exist_ok=True)
        with open(self.work / "aws.log", "w", encoding="utf-8") as log:
            self.process = subprocess.Popen(
                [sys.executable, str(TOP / "tests/servers/aws/server.py"), "--data",
                 str(self.work / "aws"), "--ready-file", str(ready), *self.options],
                stdout=log, stderr=log, preexec_fn=die_with_parent)
        wait_until(30, lambda: self.is_ready(ready), "the tests' own AWS does not start")
        self.facts = json.loads(ready.read_text(encoding="utf-8"))
        return self

    def is_ready(self, ready):
        if self.process.poll() is not None:
            raise Failure(f"the tests' own AWS ended with {self.process.returncode}")
        return ready.exists() and ready.stat().st_size > 0

    def __exit__(self, *_):
        end_process(self.process)

    @property
    def settings(self):
        """The section [aws] of an appliance's configuration."""
        endpoints = {f"endpoint_{service}": self.facts["endpoint"]
                     for service in ("ec2", "ebs", "sts", "imds")}
        return {"region": self.facts["region"], **endpoints}

    @property
    def environment(self):
        return {"AWS_ACCESS_KEY_ID": self.facts["access_key_id"],
                "AWS_SECRET_ACCESS_KEY": self.facts["secret_access_key"],
                "AWS_CONFIG_FILE": "/nonexistent", "AWS_SHARED_CREDENTIALS_FILE": "/nonexistent"}

    def give(self, appliance, role=False):
        """Has an appliance that is not started yet replicate from here: with keys that last, or with
        those of the role of the machine it is on, which are renewed."""
        appliance.settings["aws"] = self.settings
        appliance.write_config()
        for name in [name for name in appliance.environment if name.startswith("AWS_")]:
            del appliance.environment[name]
        appliance.environment.update(self.environment)
        if role:
            del appliance.environment["AWS_ACCESS_KEY_ID"]
            del appliance.environment["AWS_SECRET_ACCESS_KEY"]

    def admin(self, path, body=None):
        """Asks the admin's interface; body None means GET."""
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(f"{self.facts['admin']}{path}", data=data)
        with urllib.request.urlopen(request, timeout=60) as answer:
            return json.load(answer)

    def machine(self, volumes=2, **facts):
        """A new instance with volumes of a GiB each."""
        name = secrets.token_hex(4)
        paths = [str(self.work / f"volume-{name}-{i}") for i in range(volumes)]
        return Machine(self.admin("/instance", {
            "volumes": [{"path": path, "size_gib": 1} for path in paths], **facts}))

    def attach(self, machine, volume=None):
        """A new volume of a GiB, or one that was detached."""
        what = {"id": volume.id} if volume else {
            "path": str(self.work / f"volume-{secrets.token_hex(4)}"), "size_gib": 1}
        machine.volumes.append(Volume(self.admin("/volume/attach",
                                                 {"instance": machine.id, **what})))
        return machine.volumes[-1]

    def detach(self, machine, volume):
        self.admin("/volume/detach", {"id": volume.id})
        machine.volumes.remove(volume)

    def rules(self, *rules):
        self.admin("/rules", list(rules))

    def snapshots(self):
        return self.admin("/snapshots")

    def read_blocks(self):
        """{snapshot: {index: how often it was read whole}}"""
        return {snapshot: {int(index): count for index, count in reads.items()}
                for snapshot, reads in self.admin("/reads").items()}

    def check_witness(self, alive):
        stats = self.admin("/stats")
        check(stats.get("bad_signatures", 0) == 0, f"signatures were refused: {stats['problems']}")
        check(stats["snapshots"] == alive,
              f"{stats['snapshots']} snapshots are alive instead of {alive}: {self.snapshots()}")
        return stats
