#!/usr/bin/env python3
"""The strict server's store against plain arrays: it is an oracle and must be right itself."""
import itertools
import os
import random
import sys
import tempfile
import unittest

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
from pageblob.crc64 import crc64, slow      # noqa: E402
from pageblob.extents import ExtentMap, read_span, subtract     # noqa: E402
from pageblob.model import Account, Entry, Settings        # noqa: E402

PAGES = 48


class Parts(unittest.TestCase):
    """The map against a plain array."""

    def test_extent_map(self):
        rng = random.Random(1)
        extents, plain, tail = ExtentMap(), [None] * 200, 0
        for turn in range(3000):
            a, b = sorted(rng.sample(range(201), 2))
            if rng.random() < 0.7:
                removed = extents.put(a * 512, b * 512, tail, turn % 7)
                now = [(tail + (i - a) * 512, turn % 7) for i in range(a, b)]
                tail += (b - a) * 512
            else:
                removed, now = extents.cut(a * 512, b * 512), [None] * (b - a)
            gone = {i: (p + i * 512 - s, g) for s, e, p, g in removed
                    for i in range(s // 512, e // 512)}
            self.assertEqual(gone, {i: plain[i] for i in range(a, b) if plain[i]})
            plain[a:b] = now
            self.assertIsNone(extents.check(200 * 512))
        found = {i: (p + i * 512 - s, g) for s, e, p, g in extents.span(0, 200 * 512)
                 for i in range(s // 512, e // 512)}
        self.assertEqual(found, {i: v for i, v in enumerate(plain) if v})

    def test_subtract(self):
        self.assertEqual(list(subtract([(0, 10), (20, 30)], [(2, 4), (8, 22), (29, 40)])),
                         [(0, 2), (4, 8), (22, 29)])
        self.assertEqual(list(subtract([(0, 10)], [])), [(0, 10)])

    def test_crc64(self):
        for data in (b"", b"123456789", os.urandom(1000), bytearray(os.urandom(4097))):
            self.assertEqual(crc64(data), slow(data))


class Store(unittest.TestCase):
    """Writes, clears, resizes, snapshots, deletions of snapshots, new incarnations, at random:
    base, snapshots and diffs are what arrays of pages say, and freed bytes were nobody's."""

    def setUp(self):
        self.scratch = tempfile.TemporaryDirectory(prefix="landfall-test-")
        self.addCleanup(self.scratch.cleanup)
        self.account = Account("a", "a2V5", self.scratch.name, Settings())

    def begin(self):
        version = self.account.new_version("PageBlob", PAGES * 512)
        self.account.replace_base(self.entry, version)
        self.plain = [None] * PAGES     # per page: None, or (letter, stamp of the write)
        self.incarnation += 1

    def compare(self, version, plain):
        got = read_span(version.pages.extents, version.pages.file, 0, PAGES * 512)
        want = b"".join(bytes(512) if page is None else bytes([page[0]]) * 512 for page in plain)
        self.assertEqual(got, want)
        self.assertIsNone(version.pages.extents.check(PAGES * 512))
        mapped = {i for s, e in version.pages.extents.ranges(0, PAGES * 512)
                  for i in range(s // 512, e // 512)}
        self.assertEqual(mapped, {i for i, page in enumerate(plain) if page})

    def compare_diff(self, target, plain, previous, before):
        found = {"PageRange": set(), "ClearRange": set()}
        last = -1
        for kind, s, e in self.account.diff(target, previous, 0, PAGES * 512):
            self.assertGreaterEqual(s, last)
            last = e
            found[kind] |= set(range(s // 512, e // 512))
        self.assertEqual(found["PageRange"], {i for i in range(PAGES)
                                              if plain[i] and plain[i] != before[i]})
        self.assertEqual(found["ClearRange"], {i for i in range(PAGES)
                                               if before[i] and not plain[i]})

    def step(self, rng, stamps):
        a, b = sorted(rng.sample(range(PAGES + 1), 2))
        what = rng.choices(("write", "clear", "snapshot", "delete", "shrink", "begin"),
                           (50, 20, 10, 9, 2, 1))[0]
        if what == "write":
            letter, stamp = rng.randrange(1, 256), next(stamps)
            phys = self.entry.base.pages.file.append(bytes([letter]) * (b - a) * 512)
            self.account.write_pages(self.entry, a * 512, b * 512, phys)
            self.plain[a:b] = [(letter, stamp)] * (b - a)
        elif what == "clear":
            self.account.clear_pages(self.entry, a * 512, b * 512)
            self.plain[a:b] = [None] * (b - a)
        elif what == "snapshot" and len(self.taken) < 6:
            snapshot = self.account.take_snapshot(self.entry, {})
            self.taken[snapshot.snapshot] = (snapshot, list(self.plain), self.incarnation)
        elif what == "delete" and self.taken:
            snapshot = self.taken.pop(rng.choice(sorted(self.taken)))[0]
            self.account.delete_snapshot(self.entry, snapshot)
        elif what == "shrink":
            self.account.resize(self.entry, b * 512)
            self.account.resize(self.entry, PAGES * 512)
            self.plain[b:] = [None] * (PAGES - b)
        elif what == "begin":
            self.begin()

    def test_against_arrays(self):
        for seed in range(12):
            rng, stamps = random.Random(seed), itertools.count()
            self.account.containers.clear()
            self.entry, self.taken, self.incarnation = Entry(self.account.new_lease()), {}, 0
            self.begin()
            for _ in range(250):
                self.step(rng, stamps)
                with self.subTest(seed=seed):
                    self.compare(self.entry.base, self.plain)
                    for snapshot, plain, incarnation in self.taken.values():
                        self.compare(snapshot, plain)
                        if incarnation == self.incarnation:
                            self.compare_diff(self.entry.base, self.plain, snapshot, plain)
            pairs = itertools.combinations(sorted(self.taken), 2)
            for (old, before, one), (new, plain, two) in ((self.taken[x], self.taken[y])
                                                          for x, y in pairs):
                if one == two:
                    self.compare_diff(new, plain, old, before)
            for snapshot, _, _ in self.taken.values():
                self.account.delete_snapshot(self.entry, snapshot)
            self.account.drop_version(self.entry.base)
            self.assertEqual(os.listdir(self.scratch.name), [], "files are left behind")


if __name__ == "__main__":
    unittest.main()
