"""Where the bytes of a page blob are: an exact interval map over an append-only sparse file.

A write never overwrites: its bytes are appended to the blob's data file and the map is pointed
at them. So a snapshot is a copy of the map, and a blob of 8 TiB costs what was written to it.
Each extent carries the *generation* in which it was written; a snapshot ends a generation.
An extent is what a later diff needs ("written after snapshot p" is "generation > p") and
what tells when bytes can be given back to the file system.

ExtentMap has no lock of its own: the account's lock guards it. ExtentFile is its own master:
bytes are written and read without the account's lock.
"""
import ctypes
import os
import threading
from bisect import bisect_left, bisect_right

_PUNCH = 0x02 | 0x01    # FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE
_libc = ctypes.CDLL(None, use_errno=True)
_libc.fallocate.argtypes = [ctypes.c_int, ctypes.c_int, ctypes.c_longlong, ctypes.c_longlong]


class ExtentMap:
    """Sorted, disjoint extents. starts[i] goes with items[i] = (end, physical offset, gen)."""

    __slots__ = ("starts", "items")

    def __init__(self, starts=None, items=None):
        self.starts = starts if starts is not None else []
        self.items = items if items is not None else []

    def __len__(self):
        return len(self.starts)

    def copy(self):
        return ExtentMap(self.starts[:], self.items[:])

    def _window(self, start, end):
        """Indices [i, j) of the extents that overlap [start, end)."""
        i = bisect_right(self.starts, start) - 1
        if i < 0 or self.items[i][0] <= start:
            i += 1
        return i, bisect_left(self.starts, end)

    def cut(self, start, end):
        """Removes [start, end); returns what was there as (start, end, phys, gen) pieces."""
        i, j = self._window(start, end)
        if i >= j:
            return []
        removed, keep_starts, keep_items = [], [], []
        for s, (e, phys, gen) in zip(self.starts[i:j], self.items[i:j]):
            if s < start:
                keep_starts.append(s)
                keep_items.append((start, phys, gen))
            if e > end:
                keep_starts.append(end)
                keep_items.append((e, phys + end - s, gen))
            lo, hi = max(s, start), min(e, end)
            removed.append((lo, hi, phys + lo - s, gen))
        self.starts[i:j] = keep_starts
        self.items[i:j] = keep_items
        return removed

    def put(self, start, end, phys, gen):
        """Maps [start, end) to phys; returns the pieces it replaced."""
        removed = self.cut(start, end)
        i = bisect_left(self.starts, start)
        if i > 0:
            pe, pphys, pgen = self.items[i - 1]
            ps = self.starts[i - 1]
            if pe == start and pgen == gen and pphys + (pe - ps) == phys:
                self.items[i - 1] = (end, pphys, gen)
                return removed
        self.starts.insert(i, start)
        self.items.insert(i, (end, phys, gen))
        return removed

    def span(self, start, end):
        """The extents in [start, end), clipped, as (start, end, phys, gen)."""
        i, j = self._window(start, end)
        for s, (e, phys, gen) in zip(self.starts[i:j], self.items[i:j]):
            lo, hi = max(s, start), min(e, end)
            yield lo, hi, phys + lo - s, gen

    def ranges(self, start, end, newer_than=None):
        """Written ranges in [start, end), touching ones joined: (start, end)."""
        current = None
        for lo, hi, _phys, gen in self.span(start, end):
            if newer_than is not None and gen <= newer_than:
                continue
            if current and current[1] == lo:
                current = (current[0], hi)
                continue
            if current:
                yield current
            current = (lo, hi)
        if current:
            yield current

    def check(self, size):
        """Returns what is wrong with the map (None: nothing)."""
        last = 0
        for s, (e, phys, _gen) in zip(self.starts, self.items):
            if s < last or e <= s or s % 512 or e % 512 or e > size or phys % 512:
                return f"extent {s}-{e} at {phys} after {last}, size {size}"
            last = e
        return None


def subtract(ranges, cover):
    """Yields what of the sorted `ranges` no range of the sorted `cover` covers."""
    cover = list(cover)
    starts = [c[0] for c in cover]
    for lo, hi in ranges:
        i = max(bisect_right(starts, lo) - 1, 0)
        while i < len(cover) and cover[i][0] < hi and lo < hi:
            cs, ce = cover[i]
            if ce > lo:
                if cs > lo:
                    yield lo, cs
                lo = ce
            i += 1
        if lo < hi:
            yield lo, hi


class ExtentFile:
    """The sparse, append-only file behind one incarnation of a page blob.

    Counted by the versions (base, snapshots) that use it; unlinked with the last one. Frees
    wait while a reader is under way, so that no reader sees a hole it should not see.
    """

    def __init__(self, path):
        self.path = path
        self.fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        self.lock = threading.Lock()
        self.tail = 0
        self.users = 1
        self.readers = 0
        self.waiting = []

    def append(self, data):
        """Writes data behind everything else; returns its offset."""
        with self.lock:
            phys = self.tail
            self.tail += len(data)
        view, at = memoryview(data), phys
        while view:
            done = os.pwrite(self.fd, view, at)
            view, at = view[done:], at + done
        return phys

    def pin(self):
        with self.lock:
            self.readers += 1

    def unpin(self):
        with self.lock:
            self.readers -= 1
            frees = []
            if self.readers == 0:
                frees, self.waiting = self.waiting, []
                if self.users == 0:
                    self._close()
                    return
        self._punch(frees)

    def free(self, pieces):
        """Gives the bytes of (phys, length) pieces back."""
        with self.lock:
            if self.users == 0:
                return
            if self.readers:
                self.waiting.extend(pieces)
                return
            self._punch(pieces)

    def use(self):
        with self.lock:
            self.users += 1

    def drop(self):
        with self.lock:
            self.users -= 1
            if self.users == 0 and self.readers == 0:
                self._close()

    def read(self, phys, length):
        parts = []
        while length:
            part = os.pread(self.fd, length, phys)
            if not part:
                raise OSError(f"{self.path}: short read at {phys}")
            parts.append(part)
            phys, length = phys + len(part), length - len(part)
        return parts[0] if len(parts) == 1 else b"".join(parts)

    def _punch(self, pieces):
        for phys, length in pieces:
            _libc.fallocate(self.fd, _PUNCH, phys, length)

    def _close(self):
        if self.fd >= 0:
            os.close(self.fd)
            os.unlink(self.path)
            self.fd = -1


def read_span(extents, file, start, end):
    """The bytes of [start, end): what is mapped from the file, zeros elsewhere."""
    pieces, at = [], start
    for lo, hi, phys, _gen in extents.span(start, end):
        if lo > at:
            pieces.append(bytes(lo - at))
        pieces.append(file.read(phys, hi - lo))
        at = hi
    if at < end:
        pieces.append(bytes(end - at))
    return pieces[0] if len(pieces) == 1 else b"".join(pieces)
