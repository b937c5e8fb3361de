"""Churn for agents' tests: everyday programs at work on mounted filesystems, and a counter that
tells afterwards which instant an image shows."""

import os
import pathlib
import struct
import subprocess
import sys
import threading
import time
from datetime import datetime, timezone

from appliance import Failure, die_with_parent

FIO_JOB = ("fio", "--name=churn", "--rw=randrw", "--rwmixread=20", "--bssplit=4k/60:16k/30:128k/10",
           "--thread", "--time_based", "--runtime=3600", "--randrepeat=0", "--output-format=terse")
TAR_LOOP = """
while :; do
  rm -rf "$1/tree.new"; mkdir "$1/tree.new"
  tar -C "$2" -cf - . | tar -C "$1/tree.new" -xf -
  rm -rf "$1/tree"; mv "$1/tree.new" "$1/tree"
  sleep 0.2
done
"""
GIT_LOOP = """
cd "$1" && git init -q repository && cd repository
git config user.name churn; git config user.email churn@localhost; git config gc.auto 20
git config core.fsync all
i=0
while :; do
  i=$((i + 1))
  head -c $((RANDOM * 4)) /dev/urandom > "file$((i % 17))"; echo "$i" > number
  git add -A && git commit -q -m "commit $i"
  sleep 0.1
done
"""
SQL_LOOP = """
import sqlite3, sys, os, time
db = sqlite3.connect(sys.argv[1] + "/ledger.db", isolation_level=None)
db.execute("pragma synchronous=full")
db.execute("create table if not exists ledger(id integer primary key, body blob)")
i = 0
while True:
    db.execute("begin")
    for _ in range(5):
        i += 1
        db.execute("insert into ledger(body) values(?)", (os.urandom(900),))
    db.execute("delete from ledger where id < ?", (i - 3000,))
    db.execute("commit")
    time.sleep(0.02)
"""


class Churn:
    """fio, tar, sqlite and git on the directories given, until it is ended."""

    def __init__(self, log, rate="4m"):
        self.log = pathlib.Path(log)
        self.rate = rate
        self.processes = []

    def __enter__(self):
        return self

    def run(self, *command):
        with open(self.log, "a", encoding="utf-8") as log:
            self.processes.append(subprocess.Popen(
                [str(word) for word in command], stdout=log, stderr=log, start_new_session=True,
                preexec_fn=die_with_parent))

    def fio(self, directory, size="24m"):
        self.run(*FIO_JOB, f"--directory={directory}", f"--size={size}", "--end_fsync=0",
                 f"--rate={self.rate},{self.rate}", "--fsync=64")

    def write(self, path):
        """Writes to random places of a file that is there, steadily."""
        self.run("fio", "--name=write", f"--filename={path}", "--rw=randwrite", "--thread",
                 "--bssplit=4k/60:16k/30:128k/10", "--refill_buffers=1", "--time_based",
                 "--runtime=3600", "--randrepeat=0", "--norandommap=1", "--allow_file_create=0",
                 "--output-format=terse", f"--rate={self.rate}")

    def tar(self, directory, tree="/usr/share/perl/5.36.0/unicore"):
        if not os.path.isdir(tree):
            tree = "/usr/include/linux"
        self.run("bash", "-c", TAR_LOOP, "tar-loop", directory, tree)

    def git(self, directory):
        self.run("bash", "-c", GIT_LOOP, "git-loop", directory)

    def sqlite(self, directory):
        self.run(sys.executable, "-c", SQL_LOOP, directory)

    def check(self):
        for process in self.processes:
            if process.poll() is not None:
                raise Failure(f"{process.args[0]} ended with {process.returncode}: "
                              f"{self.log.read_text(encoding='utf-8')[-1000:]}")

    def __exit__(self, *_):
        for process in self.processes:
            try:
                os.killpg(process.pid, 9)
            except ProcessLookupError:
                pass
            process.wait()


class Counter:
    """Counts in turn in files on several filesystems: n here, n there, n + 1 here, … each number
    durable before the next is begun. So an image of one instant holds numbers that fall by one at
    most from file to file, and exactly those whose writing had ended, or begun, by then."""

    def __init__(self, paths, pause=0.002):
        self.paths = [pathlib.Path(path) for path in paths]
        self.pause = pause
        self.begun = [[] for _ in paths]  # by number: when its write began, and ended
        self.ended = [[] for _ in paths]
        self.longest = 0.0
        self.stopping = False
        self.failure = None
        self.thread = threading.Thread(target=self.main, daemon=True)

    def __enter__(self):
        self.files = [os.open(path, os.O_CREAT | os.O_RDWR, 0o644) for path in self.paths]
        self.thread.start()
        return self

    def main(self):
        number = 0
        try:
            while not self.stopping:
                for i, descriptor in enumerate(self.files):
                    self.begun[i].append(time.time())
                    os.pwrite(descriptor, struct.pack("<Q", number), 0)
                    os.fsync(descriptor)
                    self.ended[i].append(time.time())
                    self.longest = max(self.longest, self.ended[i][-1] - self.begun[i][-1])
                number += 1
                time.sleep(self.pause)
        except OSError as error:
            self.failure = error

    def check(self):
        if self.failure:
            raise Failure(f"the counter cannot be written: {self.failure}")

    def latencies(self, file, since=0.0):
        """Seconds that each write of that file took, of those begun after `since`."""
        return sorted(e - b for b, e in zip(self.begun[file], self.ended[file]) if b >= since)

    def stop(self):
        self.stopping = True
        self.thread.join(60)
        if self.thread.is_alive():
            raise Failure("the counter hangs")

    def __exit__(self, *_):
        self.stopping = True
        self.thread.join(60)
        for descriptor in self.files:
            os.close(descriptor)

    def check_image(self, numbers, at, what):
        """`numbers` is what the files of an image hold, `at` the instant it is said to show. None:
        the file is not there."""
        for i, number in enumerate(numbers):
            if number is None:
                if self.ended[i] and self.ended[i][0] < at:
                    raise Failure(f"{what}: file {i} is missing")
                continue
            if self.begun[i][number] > at:
                raise Failure(f"{what}: file {i} holds {number}, begun "
                              f"{self.begun[i][number] - at:.3f} s after the cut")
            if number + 1 < len(self.ended[i]) and self.ended[i][number + 1] < at:
                raise Failure(f"{what}: file {i} holds {number}, but {number + 1} was durable "
                              f"{at - self.ended[i][number + 1]:.3f} s before the cut")
        for a, b in zip(numbers, numbers[1:]):
            if a is not None and b is not None and not b <= a <= b + 1:
                raise Failure(f"{what}: {numbers} never were there together")


def counter_in(path):
    """What a Counter's file holds; None if it is not there or empty yet."""
    try:
        data = pathlib.Path(path).read_bytes()
    except FileNotFoundError:
        return None
    return struct.unpack("<Q", data)[0] if len(data) == 8 else None


def instant(text):
    """Seconds since 1970 of an ISO time with nine digits."""
    whole, fraction = text.rstrip("Z").split(".")
    return datetime.fromisoformat(whole).replace(tzinfo=timezone.utc).timestamp() + \
        float(f"0.{fraction}")


def percentile(values, part):
    values = sorted(values)
    return values[min(int(len(values) * part), len(values) - 1)]
