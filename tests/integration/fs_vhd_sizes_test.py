#!/usr/bin/python3
"""QEMU reads the exact size out of our VHD footers, whatever geometry can or cannot express."""
import json
import os
import random
import shutil
import subprocess
import sys
import tempfile

BUILD = os.environ.get("LANDFALL_BUILD") or os.path.join(
    os.path.dirname(os.path.abspath(__file__)), "../../build/debug")
TOOL = os.path.join(BUILD, "tests/vhdtool")
MIB, GIB, TIB = 1 << 20, 1 << 30, 1 << 40
QEMU_MOST = 0xff000000 * 512  # 2040 GiB: more than that QEMU's own driver does not open


def qemu_size(path):
    done = subprocess.run(["qemu-img", "info", "-f", "vpc", "--output=json", path],
                          capture_output=True, text=True, check=False)
    if done.returncode != 0:
        return done.stderr
    return json.loads(done.stdout)["virtual-size"]


def make(path, size):
    return subprocess.run([TOOL, path, str(size)], capture_output=True, check=False).returncode


def can_be_that_large(folder):
    try:
        with open(os.path.join(folder, "probe"), "wb") as f:
            f.truncate(8 * TIB)
        return True
    except OSError:
        return False


def main():
    if not shutil.which("qemu-img"):
        print("skipped: qemu-img is not installed")
        return 77
    rng = random.Random(1)
    sizes = [MIB, 2 * MIB, 3 * MIB, 5 * MIB, 17 * MIB, 127 * MIB, 503 * MIB, 504 * MIB,
             505 * MIB, 1023 * MIB, GIB, 2 * GIB + MIB, 31 * GIB + 7 * MIB, 32 * GIB,
             127 * GIB, 127 * GIB + MIB, 128 * GIB - MIB, TIB, TIB + 3 * MIB, 2040 * GIB]
    sizes += [rng.randrange(1, 2040 * 1024) * MIB for _ in range(30)]
    wrong = []
    with tempfile.TemporaryDirectory(prefix="landfall-vhd-") as folder:
        path = os.path.join(folder, "disk.vhd")
        if not can_be_that_large(folder):
            print("skipped: the filesystem of temporary files has none of 8 TiB")
            return 77
        for size in sizes:
            assert make(path, size) == 0
            got = qemu_size(path)
            if got != size:
                wrong.append((size, got))
            assert os.path.getsize(path) == size + 512
        # Beyond QEMU's limit it must say so and not tell another size.
        for size in (2 * TIB, 2 * TIB + MIB, 8 * TIB - MIB):
            assert make(path, size) == 0
            got = qemu_size(path)
            if got != size and not (size > QEMU_MOST and "File too large" in str(got)):
                wrong.append((size, got))
        for size in (0, 512, MIB + 512, 8 * TIB, 8 * TIB + MIB):
            if make(path, size) == 0:
                wrong.append((size, "accepted"))
    for size, got in wrong:
        print(f"{size} bytes ({size / MIB} MiB): {got}")
    print(f"{len(sizes)} sizes, {len(wrong)} wrong")
    return 1 if wrong else 0


sys.exit(main())
