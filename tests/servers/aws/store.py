"""Instances, volumes in files, and snapshots of them.

A volume is a sparse file of whole GiB that a test may write to at any time. A snapshot holds the
blocks of 512 KiB in which the file has data (holes are blocks that were never written), each kept
once by its content. Two blocks differ if their bytes do; a block that has become a hole is gone.

A set's snapshots are of one moment, and end at one moment. Files that somebody writes to meanwhile
are no such moment: an instance's `freeze` names the places where their filesystems are mounted, which
are frozen for as long as the files are read.
"""
import hashlib
import os
import secrets
import subprocess
import threading
import time

from .errors import Refusal

BLOCK = 524288
GIB = 1 << 30


class Snapshot:
    def __init__(self, volume, tags, description, ends, error, set_number):
        self.id = "snap-" + secrets.token_hex(8) + "a"
        self.volume_id, self.size_gib = volume["id"], volume["size_gib"]
        self.tags, self.description = tags, description
        self.made = time.time()
        self.started, self.ends, self.ends_in_error = time.time(), ends, error
        self.set_number = set_number
        self.blocks = {}                        # index -> digest
        self.deleted = False

    @property
    def state(self):
        if time.time() < self.ends:
            return "pending"
        return "error" if self.ends_in_error else "completed"


class Store:
    def __init__(self, data_dir, settings):
        self.settings, self.lock = settings, threading.RLock()
        self.instances, self.volumes, self.snapshots = {}, {}, {}
        self.places, self.tail = {}, 0          # digest -> offset in the file
        self.fd = os.open(os.path.join(data_dir, "blocks"), os.O_RDWR | os.O_CREAT, 0o600)
        self.last, self.sets = {}, 0            # volume -> when it was last snapshotted

    def add_volume(self, spec):
        volume = {"id": spec.get("id") or "vol-" + secrets.token_hex(8) + "a",
                  "size_gib": int(spec["size_gib"]), "path": spec["path"],
                  "type": spec.get("type", "gp3"), "tags": spec.get("tags", {}),
                  "device": spec.get("device", ""), "instance": None}
        if not os.path.exists(volume["path"]):
            with open(volume["path"], "wb"):
                pass
        os.truncate(volume["path"], volume["size_gib"] * GIB)
        self.volumes[volume["id"]] = volume
        return volume

    def grow_volume(self, volume_id, size_gib):
        with self.lock:
            volume = self.volumes[volume_id]
            if size_gib < volume["size_gib"]:
                raise ValueError("a volume cannot shrink")
            os.truncate(volume["path"], size_gib * GIB)
            volume["size_gib"] = size_gib
            return volume

    def attach(self, instance_id, spec):
        """A new volume, or one that was detached."""
        with self.lock:
            instance = self.instances[instance_id]
            used = {self.volumes[v]["device"] for v in instance["volumes"]}
            device = next(f"/dev/xvd{letter}" for letter in "abcdefghijklmnop"
                          if f"/dev/xvd{letter}" not in used)
            volume = self.volumes.get(spec.get("id")) or self.add_volume(spec)
            volume.update(device=device, instance=instance_id)
            instance["volumes"].append(volume["id"])
            return volume

    def detach(self, volume_id):
        with self.lock:
            volume = self.volumes[volume_id]
            self.instances[volume["instance"]]["volumes"].remove(volume_id)
            volume.update(device="", instance=None)
            return volume

    def add_instance(self, spec):
        with self.lock:
            instance = {"id": spec.get("id") or "i-" + secrets.token_hex(8) + "a",
                        "state": spec.get("state", "running"), "tags": spec.get("tags", {}),
                        "private_ip": spec.get("private_ip", "10.0.0.7"),
                        "platform": spec.get("platform", ""),
                        "boot_mode": spec.get("boot_mode", "legacy-bios"),
                        "stop_protected": spec.get("stop_protected", False),
                        "root_device": spec.get("root_device", ""),
                        "volumes": [], "until": None}
            for number, volume_spec in enumerate(spec.get("volumes", ())):
                device = "/dev/xvd" + "abcdefghijklmnop"[number]
                volume = self.add_volume({"device": device, **volume_spec})
                volume["instance"] = instance["id"]
                instance["volumes"].append(volume["id"])
                # It boots from its first one, unless it is said to boot from elsewhere.
                instance["root_device"] = instance["root_device"] or volume["device"]
            self.instances[instance["id"]] = instance
            return instance

    def state_of(self, instance):
        """Stopping and starting take a moment."""
        if instance["until"] and time.time() >= instance["until"][0]:
            instance["state"], instance["until"] = instance["until"][1], None
        return instance["state"]

    # Snapshots

    def alive(self):
        return [s for s in self.snapshots.values() if not s.deleted]

    def snapshot(self, snapshot_id):
        found = self.snapshots.get(snapshot_id)
        return None if found is None or found.deleted else found

    def create_set(self, volumes, tags, description, error):
        with self.lock:
            now, pending = time.time(), [s for s in self.alive() if s.state == "pending"]
            if len(pending) + len(volumes) > self.settings["pending_snapshots"]:
                raise Refusal(400, "PendingSnapshotLimitExceeded")
            for volume in volumes:
                if sum(s.volume_id == volume["id"] for s in pending) >= \
                        self.settings["concurrent_per_volume"]:
                    raise Refusal(400, "ConcurrentSnapshotLimitExceeded")
                if now - self.last.get(volume["id"], 0) < self.settings["snapshot_interval_s"]:
                    raise Refusal(400, "SnapshotCreationPerVolumeRateExceeded")
            self.sets += 1
            made = [Snapshot(volume, dict(tags), description,
                             now + self.settings["complete_s"], error, self.sets)
                    for volume in volumes]
            frozen = self.instances.get(volumes[0]["instance"], {}).get("freeze", ())
            for at in frozen:
                subprocess.run(["fsfreeze", "--freeze", at], check=False)
            try:
                for snapshot, volume in zip(made, volumes):
                    snapshot.started = made[0].started
                    snapshot.blocks = self._scan(volume)
                    self.last[volume["id"]] = now
                    self.snapshots[snapshot.id] = snapshot
            finally:
                for at in frozen:
                    subprocess.run(["fsfreeze", "--unfreeze", at], check=False)
            ends = time.time() + self.settings["complete_s"]
            for snapshot in made:
                snapshot.ends = ends
            return made

    def _scan(self, volume):
        """{index: digest} of all blocks that have data in them."""
        blocks, fd = {}, os.open(volume["path"], os.O_RDONLY)
        size = volume["size_gib"] * GIB
        try:
            at = 0
            while at < size:
                try:
                    at = os.lseek(fd, at, os.SEEK_DATA)
                except OSError:
                    break
                hole = os.lseek(fd, at, os.SEEK_HOLE)
                for index in range(at // BLOCK, (hole - 1) // BLOCK + 1):
                    if index not in blocks:
                        blocks[index] = self._keep(os.pread(fd, BLOCK, index * BLOCK))
                at = hole
        finally:
            os.close(fd)
        return blocks

    def _keep(self, data):
        data = data.ljust(BLOCK, b"\0")
        digest = hashlib.sha256(data).digest()
        if digest not in self.places:
            os.pwrite(self.fd, data, self.tail)
            self.places[digest] = self.tail
            self.tail += BLOCK
        return digest

    def block(self, snapshot, index):
        """(bytes, their SHA-256)."""
        digest = snapshot.blocks[index]
        return os.pread(self.fd, BLOCK, self.places[digest]), digest
