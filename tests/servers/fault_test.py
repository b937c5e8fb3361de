#!/usr/bin/env python3
"""The strict server's faults: each does what it says, no more, and the witness saw it."""
import http.client
import os
import sys
import threading
import time
import unittest

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
from testing import MIB, Signer, admin      # noqa: E402
from strict_test import CLEAR, PAGE, StrictCase     # noqa: E402

GONE = (http.client.HTTPException, ConnectionError, TimeoutError)


class FaultCase(StrictCase):
    def rule(self, fault, skip=0, times=1, **match):
        admin(self.server, "POST", "/rules", [{"match": match, "fault": fault, "skip": skip,
                                               "times": times}])

    def stats(self):
        return admin(self.server, "GET", "/stats")

    def first(self, length=1):
        return self.send("GET", "cont/d.vhd", {"x-ms-range": f"bytes=0-{length - 1}"}, want=206)[2]

    def lose(self, data, extra=None, **kwargs):
        with self.assertRaises(GONE):
            self.send("PUT", "cont/d.vhd?comp=page", {**PAGE, **(extra or {})}, data, **kwargs)

    def lease(self, duration="-1"):
        return self.send("PUT", "cont/d.vhd?comp=lease", {
            "x-ms-lease-action": "acquire", "x-ms-lease-duration": duration},
            want=201)[1]["x-ms-lease-id"]

    def until(self, what, seconds=10):
        deadline = time.monotonic() + seconds
        while not what():
            self.assertLess(time.monotonic(), deadline)
            time.sleep(0.01)


class Answers(FaultCase):
    def test_status(self):
        self.rule({"kind": "busy", "retry_after": 3}, skip=1, times=2, operation="PutPage")
        self.put(0, b"a" * 512)
        for _ in range(2):
            status, headers, _ = self.send("PUT", "cont/d.vhd?comp=page", PAGE, b"b" * 512)
            self.assertEqual((status, headers["x-ms-error-code"], headers["Retry-After"]),
                             (503, "ServerBusy", "3"))
        self.assertEqual(self.first(), b"a")
        self.put(0, b"c" * 512)
        self.assertEqual(self.first(), b"c")

    def test_ambiguous(self):
        self.rule({"kind": "timeout500", "applied": True}, operation="PutPage")
        self.rule({"kind": "error500"}, operation="PutPage")
        self.refused(500, "OperationTimedOut", "PUT", "cont/d.vhd?comp=page", PAGE, b"a" * 512)
        self.assertEqual(self.first(), b"a")
        self.refused(500, "InternalError", "PUT", "cont/d.vhd?comp=page", PAGE, b"b" * 512)
        self.assertEqual(self.first(), b"a")

    def test_matching(self):
        self.create("e.vhd")
        self.rule({"kind": "busy"}, times=0, blob="e*", method="GET", min_bytes=0)
        self.send("GET", "cont/d.vhd", want=200)
        for _ in range(3):
            self.send("GET", "cont/e.vhd", want=503)
        self.assertEqual(admin(self.server, "GET", "/rules")[0]["fired"], 3)
        with self.assertRaises(AssertionError):
            self.rule({"kind": "no such thing"})

    def test_probability_is_of_the_seed(self):
        def draw(seed):
            admin(self.server, "POST", "/rules/clear", {"seed": seed})
            admin(self.server, "POST", "/rules", [{"match": {"operation": "HeadBlob"},
                                                   "fault": {"kind": "busy"},
                                                   "probability": 0.5}])
            return [self.send("HEAD", "cont/d.vhd")[0] for _ in range(40)]
        once = draw(7)
        self.assertEqual(set(once), {200, 503})
        self.assertEqual(once, draw(7))
        self.assertNotEqual(once, draw(8))

    def test_bodies(self):
        self.put(0, b"x" * 4096)
        self.rule({"kind": "truncate"}, operation="GetBlob")
        with self.assertRaises(http.client.IncompleteRead) as caught:
            self.first(4096)
        self.assertEqual(len(caught.exception.partial), 2048)
        self.rule({"kind": "corrupt"}, operation="GetBlob")
        got = self.first(4096)
        self.assertEqual(sum(a != b for a, b in zip(got, b"x" * 4096)), 1)
        self.rule({"kind": "slow", "bytes_per_s": 20000}, operation="GetBlob")
        started = time.monotonic()
        self.assertEqual(self.first(4096), b"x" * 4096)
        self.assertGreater(time.monotonic() - started, 0.15)
        self.rule({"kind": "delay", "delay_s": 0.2}, operation="GetBlob")
        started = time.monotonic()
        self.first()
        self.assertGreater(time.monotonic() - started, 0.19)

    def test_big_truncated(self):
        self.create("d.vhd", 16 * MIB)
        self.rule({"kind": "truncate", "fraction": 0.9}, operation="GetBlob")
        with self.assertRaises(http.client.IncompleteRead) as caught:
            self.send("GET", "cont/d.vhd")
        self.assertEqual(len(caught.exception.partial), int(16 * MIB * 0.9))


class Resets(FaultCase):
    def test_before_and_after(self):
        for when, applied in (("before", False), ("unapplied", False), ("applied", True)):
            self.send("PUT", "cont/d.vhd?comp=page", CLEAR, want=201)
            self.rule({"kind": "reset", "when": when}, operation="PutPage")
            self.lose(b"a" * 512)
            self.until(lambda: any(r["fault"] == "reset" for r in self.log()))
            self.assertEqual(self.first(), b"a" if applied else b"\0", when)

    def test_hang(self):
        for applied in (False, True):
            self.rule({"kind": "hang", "applied": applied}, operation="PutPage")
            self.lose(b"h" * 512, timeout=0.3)
            self.until(lambda: any(r["fault"] == "hang" for r in self.log()))
            admin(self.server, "POST", "/reset", {})
            self.assertEqual(self.first(), b"h" if applied else b"\0")


class LateWrites(FaultCase):
    """What fencing is tested with: a write that lands when nobody expects it any more."""

    def test_lands_on_an_unfenced_blob(self):
        self.rule({"kind": "late", "delay_s": 0.2}, operation="PutPage")
        self.lose(b"o" * 512)
        self.put(0, b"n" * 512)
        self.until(lambda: self.first() == b"o")
        self.assertEqual(self.stats()["late_landed"], 1)

    def test_sequence_number_keeps_it_out(self):
        lease = self.lease()
        fenced = {"x-ms-lease-id": lease, "x-ms-if-sequence-number-eq": "0"}
        self.rule({"kind": "late", "delay_s": None}, operation="PutPage")
        self.lose(b"o" * 512, fenced)
        self.assertEqual(len(admin(self.server, "GET", "/late")), 1)
        self.send("PUT", "cont/d.vhd?comp=properties", {
            "x-ms-sequence-number-action": "increment", "x-ms-lease-id": lease}, want=200)
        self.put(0, b"n" * 512, x_ms_lease_id=lease, x_ms_if_sequence_number_eq="1")
        landed = admin(self.server, "POST", "/late", {"action": "land"})
        self.assertEqual([(r["status"], r["code"]) for r in landed],
                         [(412, "SequenceNumberConditionNotMet")])
        self.assertEqual(self.first(), b"n")
        self.assertEqual(self.stats()["late_rejected"], 1)

    def test_lost_lease_keeps_it_out(self):
        lease = self.lease()
        self.rule({"kind": "late", "delay_s": None, "answer": "500"}, operation="PutPage")
        self.refused(500, "OperationTimedOut", "PUT", "cont/d.vhd?comp=page",
                     {**PAGE, "x-ms-lease-id": lease}, b"o" * 512)
        admin(self.server, "POST", "/lease", {"container": "cont", "blob": "d.vhd",
                                              "action": "steal"})
        landed = admin(self.server, "POST", "/late", {"action": "land"})
        self.assertEqual(landed[0]["status"], 409)
        self.assertEqual(self.first(), b"\0")

    def test_in_order_or_dropped(self):
        self.rule({"kind": "late", "delay_s": None}, times=3, operation="PutPage")
        for letter in (b"1", b"2"):
            self.lose(letter * 512)
        self.assertEqual(len(admin(self.server, "POST", "/late", {"action": "land"})), 2)
        self.assertEqual(self.first(), b"2")
        self.lose(b"3" * 512)
        self.assertEqual(admin(self.server, "POST", "/late", {"action": "drop"}),
                         {"dropped": 1})
        self.assertEqual(self.first(), b"2")

    def test_while_the_client_waits(self):
        self.rule({"kind": "late", "delay_s": 0.1, "answer": "hang"}, operation="Snapshot")
        with self.assertRaises(GONE):
            self.send("PUT", "cont/d.vhd?comp=snapshot", {"x-ms-meta-k": "7"}, timeout=0.05)
        self.until(lambda: admin(self.server, "GET", "/blobs")[0]["snapshots"])

    def test_duplicate(self):
        self.rule({"kind": "duplicate", "delay_s": 0.1}, operation="PutPage")
        self.put(0, b"a" * 512)
        self.put(0, b"b" * 512)
        self.until(lambda: self.first() == b"a")
        self.assertEqual(self.stats()["duplicates_applied"], 1)


class Account(FaultCase):
    def test_lease_taken_away(self):
        lease = {"x-ms-lease-id": self.lease()}
        self.rule({"kind": "lease_break"}, skip=1, operation="PutPage")
        self.put(0, b"a" * 512, x_ms_lease_id=lease["x-ms-lease-id"])
        self.refused(412, "LeaseLost", "PUT", "cont/d.vhd?comp=page", {**PAGE, **lease}, b"b" * 512)
        lease = {"x-ms-lease-id": self.lease()}
        self.rule({"kind": "lease_steal"}, operation="PutPage")
        self.refused(409, "LeaseIdMismatchWithBlobOperation", "PUT", "cont/d.vhd?comp=page",
                     {**PAGE, **lease}, b"b" * 512)
        self.assertEqual(self.first(), b"a")

    def test_throttle(self):
        admin(self.server, "POST", "/settings", {"throttle_requests_per_s": 2})
        statuses = [self.send("HEAD", "cont/d.vhd")[0] for _ in range(30)]
        self.assertGreaterEqual(statuses.count(200), 2)
        self.assertGreater(statuses.count(503), 10)
        self.assertEqual(self.stats()["throttled"], statuses.count(503))
        admin(self.server, "POST", "/settings", {"throttle_requests_per_s": 0,
                                                 "throttle_bytes_per_s": 64 * 1024})
        statuses = [self.send("PUT", "cont/d.vhd?comp=page", {
            **PAGE, "x-ms-range": "bytes=0-65535"}, bytes(65536))[0] for _ in range(6)]
        self.assertIn(503, statuses)
        self.create("e.vhd")    # another blob has its own allowance

    def test_premium(self):
        admin(self.server, "POST", "/settings", {"premium": True, "premium_interval_s": 0,
                                                 "premium_snapshots": 3})
        for _ in range(3):
            self.send("PUT", "cont/d.vhd?comp=snapshot", want=201)
        self.refused(409, "SnapshotCountExceeded", "PUT", "cont/d.vhd?comp=snapshot")
        admin(self.server, "POST", "/settings", {"premium_snapshots": 100,
                                                 "premium_interval_s": 600})
        self.refused(409, "SnapshotOperationRateExceeded", "PUT", "cont/d.vhd?comp=snapshot")

    def test_outages(self):
        connection = http.client.HTTPConnection("127.0.0.1", self.server["port"], timeout=5)
        self.send("GET", "cont/d.vhd", connection=connection, want=200)
        admin(self.server, "POST", "/down", {"mode": "refuse"})
        self.addCleanup(admin, self.server, "POST", "/down", {"mode": None})
        with self.assertRaises(GONE):
            self.send("GET", "cont/d.vhd", connection=connection)
        with self.assertRaises(ConnectionRefusedError):
            self.send("GET", "cont/d.vhd")
        for mode, status in (("500", 500), ("503", 503)):
            admin(self.server, "POST", "/down", {"mode": mode})
            self.send("GET", "cont/d.vhd", want=status)
        admin(self.server, "POST", "/down", {"mode": "reset"})
        with self.assertRaises(GONE):
            self.send("GET", "cont/d.vhd")
        admin(self.server, "POST", "/down", {"mode": "hang"})
        with self.assertRaises(GONE):
            self.send("GET", "cont/d.vhd", timeout=0.2)
        admin(self.server, "POST", "/down", {"mode": None})
        self.send("GET", "cont/d.vhd", want=200)


class Witness(FaultCase):
    def test_fencing(self):
        admin(self.server, "POST", "/settings", {"fence_prefix": "machines/"})
        self.put(0, b"x" * 512)                             # not under the prefix
        self.create("machines/m/d.vhd")                     # nothing could fence a creation
        where = "cont/machines/m/d.vhd"
        lease = self.send("PUT", where + "?comp=lease", {
            "x-ms-lease-action": "acquire", "x-ms-lease-duration": "-1"})[1]["x-ms-lease-id"]
        self.send("PUT", where + "?comp=page", {
            **PAGE, "x-ms-lease-id": lease, "x-ms-if-sequence-number-eq": "0"}, bytes(512),
            want=201)
        stats = self.stats()
        self.assertEqual((stats["unfenced"], stats["unnumbered"]), (0, 0))
        self.send("PUT", where + "?comp=page", PAGE, bytes(512), want=412)
        self.send("PUT", where + "?comp=page", {**CLEAR, "x-ms-lease-id": lease}, want=201)
        taken = self.send("PUT", where + "?comp=snapshot", want=201)[1]["x-ms-snapshot"]
        self.send("PUT", where + "?comp=properties", {
            "x-ms-sequence-number-action": "increment"}, want=412)
        self.send("DELETE", f"{where}?snapshot={taken}", want=202)
        stats = self.stats()
        self.assertEqual((stats["unfenced"], stats["unfenced_applied"]), (3, 1))
        self.assertEqual((stats["unnumbered"], stats["unnumbered_applied"]), (2, 1))
        self.assertEqual([r["operation"] for r in stats["first_unfenced"]],
                         ["PutPage", "Snapshot", "SetProperties"])

    def test_counts_and_log(self):
        before = self.log()[-1]["seq"]
        connection = http.client.HTTPConnection("127.0.0.1", self.server["port"], timeout=5)
        opened = self.stats()["connections_opened"]
        for i in range(3):
            self.send("PUT", "cont/d.vhd?comp=page", PAGE, bytes(512), connection=connection)
        stats = self.stats()
        self.assertEqual(stats["connections_opened"] - opened, 1)
        self.assertEqual(stats["answers"]["PutPage 201"], 3)
        rows = admin(self.server, "GET", f"/log?since={before}")
        self.assertEqual([(r["operation"], r["range"], r["status"]) for r in rows],
                         [("PutPage", "bytes=0-511", 201)] * 3)
        connection.close()

    def test_export(self):
        data = os.urandom(8192)
        self.put(4096, data)
        taken = self.send("PUT", "cont/d.vhd?comp=snapshot", want=201)[1]["x-ms-snapshot"]
        self.put(4096, bytes(4096))
        out = os.path.join(self.scratch.name, "out.raw")
        try:
            admin(self.server, "POST", "/export", {"container": "cont", "blob": "d.vhd",
                                                   "snapshot": taken, "path": out})
            with open(out, "rb") as exported:
                self.assertEqual(exported.read(), bytes(4096) + data + bytes(MIB - 12288))
        finally:
            os.unlink(out)


class Load(FaultCase):
    def test_many_connections(self):
        """64 connections at once, 4 MiB pages on some of them; all bytes arrive."""
        self.create("big.vhd", 256 * MIB)
        errors = []

        def writer(index):
            try:
                signer = Signer(self.server)
                connection = http.client.HTTPConnection("127.0.0.1", self.server["port"],
                                                        timeout=60)
                data = bytes([index + 1]) * (4 * MIB if index < 8 else 4096)
                for turn in range(4):
                    at = index * 4 * MIB
                    status, _, _ = signer.send("PUT", "cont/big.vhd?comp=page", {
                        "x-ms-page-write": "update",
                        "x-ms-range": f"bytes={at}-{at + len(data) - 1}"}, data, connection)
                    if status != 201:
                        errors.append(status)
                connection.close()
            except Exception as error:      # pylint: disable=broad-except
                errors.append(error)

        threads = [threading.Thread(target=writer, args=(i,)) for i in range(64)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        self.assertEqual(errors, [])
        for index in (0, 7, 8, 63):
            got = self.send("GET", "cont/big.vhd", {
                "x-ms-range": f"bytes={index * 4 * MIB + 4000}-{index * 4 * MIB + 4200}"})[2]
            tail = 201 if index < 8 else 96
            self.assertEqual(got, bytes([index + 1]) * tail + bytes(201 - tail))

    def test_space_is_given_back(self):
        """Overwriting for ever takes no more room than what can still be seen."""
        data = os.urandom(MIB)
        for _ in range(20):
            self.put(0, data)
        used = self.used()
        self.assertLess(used, 3 * MIB)
        taken = self.send("PUT", "cont/d.vhd?comp=snapshot", want=201)[1]["x-ms-snapshot"]
        for _ in range(5):
            self.put(0, data)
        self.assertGreater(self.used(), used)
        self.send("DELETE", f"cont/d.vhd?snapshot={taken}", want=202)
        self.assertLess(self.used(), 3 * MIB)
        self.assertEqual(self.first(MIB), data)

    def used(self):
        total = 0
        for folder, _, names in os.walk(self.scratch.name):
            total += sum(os.stat(os.path.join(folder, n)).st_blocks * 512 for n in names)
        return total


if __name__ == "__main__":
    # strict_test's own classes came in with the import: leave them to that program
    loader, suite = unittest.TestLoader(), unittest.TestSuite()
    for case in (Answers, Resets, LateWrites, Account, Witness, Load):
        suite.addTests(loader.loadTestsFromTestCase(case))
    sys.exit(not unittest.TextTestRunner().run(suite).wasSuccessful())
