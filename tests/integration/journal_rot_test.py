#!/usr/bin/env python3
"""Records of the journal rot while the appliance is off, and the vault knows more than it does.

What comes back says that it must be written again and seals nothing by itself. What is flushed
then is exact, the points that the journal had lost are whole and listed again, and so it stays
after a restart.
"""

import pathlib
import struct
import sys

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1] / "lib"))

from appliance import (BUILD, MIB, Appliance, StrictService, check, run_test, step,
                       wait_until)  # noqa: E402
from images import Record, Writers, vault_of  # noqa: E402

SIZE = 32 * MIB
DISKS = ("m/d", "m/e")
POLICIES = {"asked": {"point-interval": "0", "vault-interval": "1s", "retention": "all:1h"}}
PAGE, MAGIC, FLUSH_BEGIN = 4096, 0x636572ff, 6


def make_point(appliance, record, writers, count, *more):
    writers.some(count)
    point = appliance.call("point", "create", "m", "--wait", "vault", *more)["point"]
    record.images[point["number"]] = writers.images()
    return point["number"]


def rot_flush_begin(appliance, number):
    """One bit of the record that says that the flush of the point begins."""
    for path in sorted(appliance.journal.rglob("*.seg")):
        with open(path, "r+b") as file:
            size = path.stat().st_size
            for at in range(PAGE, size - PAGE + 1, PAGE):
                file.seek(at)
                header = file.read(136)
                magic, _, kind = struct.unpack_from("<IHH", header)
                if (magic, kind) != (MAGIC, FLUSH_BEGIN) or \
                        struct.unpack_from("<Q", header, 128)[0] != number:
                    continue
                file.seek(at + 60)
                file.write(bytes([header[60] ^ 4]))
                return
    check(False, f"there is no record of the flush of point {number}")


def listed_in_vault(appliance):
    return {p["number"] for p in appliance.points("m") if p["vault"]}


def test(work):
    with StrictService(work) as service, \
            Appliance(BUILD, work, service.connection_string, policies=POLICIES) as appliance:
        service.admin("/settings", {"fence_prefix": "machines/"})
        appliance.call("vault", "init")
        appliance.call("machine", "add", "m", "--source", "fuse", "--disk", f"d={SIZE // MIB}M",
                       "--disk", f"e={SIZE // MIB}M", "--policy", "asked")
        record = Record(appliance, "m")
        with Writers(appliance, work, DISKS, SIZE, 1) as writers:
            for _ in range(4):
                make_point(appliance, record, writers, 60)
            appliance.kill()
        step("the flush of point 2, and all that came after, is lost; the vault has 4 points")
        before = set(record.images)
        rot_flush_begin(appliance, sorted(before)[1])
        appliance.start()
        check(appliance.machine("m")["disks"][0]["resync_needed"], "nobody needs a resync")
        appliance.refused(5, "point", "create", "m", says="--resynced")
        with Writers(appliance, work, DISKS, SIZE, 2) as writers:
            number = make_point(appliance, record, writers, 40, "--resynced")
            check(number > max(before), f"the number {number} was used before")
            step("what was flushed is exact, and the lost points are there again")
            wait_until(20, lambda: listed_in_vault(appliance) == set(record.images),
                       lambda: f"the vault's points are {listed_in_vault(appliance)}")
            record.check_vault(vault_of(service))
            make_point(appliance, record, writers, 40)
            appliance.kill()
        appliance.start()
        with Writers(appliance, work, DISKS, SIZE, 3) as writers:
            make_point(appliance, record, writers, 40)
        check(len(record.check_vault(vault_of(service))) == len(record.images), "points are gone")
        check(len(record.check_local()) == len(record.images), "not all can be read")
        appliance.check_vault()
        for number in record.images:
            appliance.verify("m", number)
        service.check_witness()


if __name__ == "__main__":
    run_test(test)
