"""What the account holds: containers, blobs, their versions (base and snapshots).

A *version* is one state of a blob: properties, metadata and content. The base is the version
that changes; a snapshot is a frozen copy of it that shares the data file. Put Blob and a copy
onto an existing blob begin a new *incarnation*: a new data file, and snapshots taken before
cannot be the base of a diff any more (409 BlobOverwritten).

One lock, account.lock, guards everything here. No bytes move under it.
"""
import itertools
import os
import re
import threading
import time
from email.utils import formatdate

from .errors import BlobError
from .extents import ExtentFile, ExtentMap, subtract
from .lease import Lease

MIB = 1 << 20
MAX_PAGE_BLOB = 8 << 40
_CONTAINER = re.compile(r"^(\$root|\$logs|\$web|[a-z0-9](?:-?[a-z0-9]){2,62})$")
CONTENT_HEADERS = ("content-type", "content-encoding", "content-language", "content-md5",
                   "cache-control", "content-disposition")


class Settings:
    """What the admin can change while the server runs."""

    DEFAULTS = {
        "premium": False,               # 100 snapshots a blob, one per premium_interval_s
        "premium_snapshots": 100,
        "premium_interval_s": 600,
        "clock_skew_s": 0,              # the server's clock minus the machine's
        "token_ttl_s": 3600,
        "copy_pending_s": 0.3,          # how long a copy stays pending at least
        "copy_fails": False,            # copies end as failed
        "idle_close_s": 0,              # closes connections that were idle so long; 0: never
        "lease_mismatch_status": 409,   # a write with another lease id while leased
        "fence_prefix": "",             # page blobs whose mutations must be fenced
        "throttle_requests_per_s": 0,   # per blob; 0: off. The real limit is 500
        "throttle_bytes_per_s": 0,      # per blob; 0: off. The real limit is 60 MiB
        "client_secret": "the-client-secret",
        "client_assertion": "",         # "": any JWT-shaped assertion will do
        "tenant": "11111111-1111-1111-1111-111111111111",
        "client_id": "22222222-2222-2222-2222-222222222222",
        "log_limit": 200000,
    }

    def __init__(self):
        self.__dict__.update(self.DEFAULTS)

    def update(self, changes):
        for key, value in changes.items():
            if key not in self.DEFAULTS:
                raise KeyError(f"unknown setting {key}")
            if not isinstance(value, (type(self.DEFAULTS[key]), int, float)):
                raise TypeError(f"{key} wants a {type(self.DEFAULTS[key]).__name__}")
            setattr(self, key, value)

    def as_dict(self):
        return {key: getattr(self, key) for key in self.DEFAULTS}


class Content:
    """The bytes of a page blob's version: an extent map over a (shared) extent file."""

    def __init__(self, file, extents=None, gen=0):
        self.file, self.extents, self.gen = file, extents or ExtentMap(), gen


class Version:
    """One state of a blob. `snapshot` is None for the base."""

    def __init__(self, kind, size):
        self.kind = kind            # "PageBlob" | "BlockBlob"
        self.size = size
        self.snapshot = None
        self.etag = None
        self.modified = self.created = 0
        self.headers = {}           # CONTENT_HEADERS that are set
        self.metadata = {}
        self.sequence = 0
        self.pages = None           # Content of a page blob
        self.body = b""             # content of a block blob
        self.blocks = []            # committed: [(id, bytes)]
        self.copy = None            # dict: id, source, status, progress, completion

    def frozen(self, snapshot_id):
        """A copy for a snapshot; the caller has counted the file's new user."""
        twin = Version(self.kind, self.size)
        twin.__dict__.update(self.__dict__)
        twin.snapshot = snapshot_id
        twin.headers, twin.metadata = dict(self.headers), dict(self.metadata)
        twin.copy = dict(self.copy) if self.copy else None
        if self.pages:
            twin.pages = Content(self.pages.file, self.pages.extents.copy(), self.pages.gen)
        return twin


class Entry:
    """One blob name: base, snapshots in order of their ids, lease, uncommitted blocks."""

    def __init__(self, lease):
        self.base = None
        self.snapshots = []
        self.lease = lease
        self.uncommitted = {}
        self.last_snapshot_at = None
        self.copying = None         # the pending copy's thread-shared record

    def find_snapshot(self, snapshot_id):
        for version in self.snapshots:
            if version.snapshot == snapshot_id:
                return version
        return None


class Container:
    def __init__(self, lease):
        self.metadata = {}
        self.etag = None
        self.modified = 0
        self.lease = lease
        self.entries = {}


class Account:
    def __init__(self, name, key, data_dir, settings):
        self.name, self.key, self.settings = name, key, settings
        self.data_dir = data_dir
        self.lock = threading.RLock()
        self.containers = {}
        self._etags = itertools.count(0x8DA0000000001)
        self._files = itertools.count(1)
        self._last_snapshot_tick = 0

    # Time and identity

    def now(self):
        return time.time() + self.settings.clock_skew_s

    def http_date(self, when=None):
        return formatdate(self.now() if when is None else when, usegmt=True)

    def new_lease(self):
        return Lease(time.monotonic)

    def touch(self, thing):
        """A new ETag and Last-Modified."""
        thing.etag = f'"0x{next(self._etags):X}"'
        thing.modified = self.now()

    def new_file(self):
        return ExtentFile(os.path.join(self.data_dir, f"{next(self._files):08d}.pages"))

    def snapshot_id(self):
        """A unique UTC time of 100 ns ticks, never running backwards."""
        tick = max(int(self.now() * 10**7), self._last_snapshot_tick + 1)
        self._last_snapshot_tick = tick
        seconds, ticks = divmod(tick, 10**7)
        return time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(seconds)) + f".{ticks:07d}Z"

    # Look-up

    def check_container_name(self, name):
        if not _CONTAINER.match(name or "") or not 3 <= len(name) <= 63:
            raise BlobError("InvalidResourceName")

    def container(self, name):
        self.check_container_name(name)
        container = self.containers.get(name)
        if container is None:
            raise BlobError("ContainerNotFound")
        return container

    def entry(self, container_name, blob):
        """The entry of a name, made when it is new (a container without it stays clean)."""
        container = self.container(container_name)
        if not 1 <= len(blob) <= 1024:
            raise BlobError("InvalidResourceName")
        entry = container.entries.get(blob)
        return entry if entry is not None else Entry(self.new_lease())

    def keep(self, container_name, blob, entry):
        self.container(container_name).entries[blob] = entry

    def prune(self, container_name, blob):
        """Forgets a name that holds nothing any more."""
        container = self.containers.get(container_name)
        entry = container and container.entries.get(blob)
        if entry and not entry.base and not entry.snapshots and not entry.uncommitted:
            del container.entries[blob]

    def version(self, container_name, blob, snapshot_id=None):
        entry = self.container(container_name).entries.get(blob)
        found = None
        if entry:
            found = entry.find_snapshot(snapshot_id) if snapshot_id else entry.base
        if found is None:
            raise BlobError("BlobNotFound")
        return entry, found

    # Page content

    def new_version(self, kind, size):
        version = Version(kind, size)
        if kind == "PageBlob":
            version.pages = Content(self.new_file())
        version.created = self.now()
        self.touch(version)
        return version

    def replace_base(self, entry, version):
        """Put Blob, Copy Blob, Put Block List: a new incarnation takes the base's place."""
        old, entry.base = entry.base, version
        if old:
            self.drop_version(old)

    @staticmethod
    def drop_version(version):
        if version.pages:
            version.pages.file.drop()

    def write_pages(self, entry, start, end, phys):
        pages = entry.base.pages
        self._release(entry, pages, pages.extents.put(start, end, phys, pages.gen))

    def clear_pages(self, entry, start, end):
        pages = entry.base.pages
        self._release(entry, pages, pages.extents.cut(start, end))

    @staticmethod
    def _release(entry, pages, pieces):
        """Gives bytes back that no snapshot of this incarnation can see."""
        newest = max((s.pages.gen for s in entry.snapshots
                      if s.pages and s.pages.file is pages.file), default=-1)
        frees = [(phys, e - s) for s, e, phys, gen in pieces if gen > newest]
        if frees:
            pages.file.free(frees)

    def take_snapshot(self, entry, metadata):
        base = entry.base
        snapshot = base.frozen(self.snapshot_id())
        if base.pages:
            base.pages.file.use()
            base.pages.gen += 1
        if metadata:
            snapshot.metadata = metadata
            self.touch(snapshot)
        entry.snapshots.append(snapshot)
        return snapshot

    def delete_snapshot(self, entry, snapshot):
        """Drops a snapshot and gives back the bytes that only it could see."""
        entry.snapshots.remove(snapshot)
        if not snapshot.pages:
            return
        file, gen = snapshot.pages.file, snapshot.pages.gen
        kin = sorted((v for v in entry.snapshots if v.pages and v.pages.file is file),
                     key=lambda v: v.pages.gen)
        older = max((v.pages.gen for v in kin if v.pages.gen < gen), default=-1)
        newer = [v for v in kin if v.pages.gen > gen]
        if entry.base and entry.base.pages and entry.base.pages.file is file:
            newer.append(entry.base)
        frees = []
        for s, e, phys, _gen in ((s, e, p, g) for s, e, p, g in
                                 snapshot.pages.extents.span(0, snapshot.size) if g > older):
            kept = [] if not newer else \
                [(ns, ne) for ns, ne, nphys, _ in newer[0].pages.extents.span(s, e)
                 if nphys - ns == phys - s]
            frees += [(phys + lo - s, hi - lo) for lo, hi in subtract([(s, e)], kept)]
        if frees:
            file.free(frees)
        file.drop()

    @staticmethod
    def diff(target, previous, start, end):
        """What changed from previous to target: sorted ('PageRange' | 'ClearRange', s, e)."""
        changed = [("PageRange", s, e) for s, e in
                   target.pages.extents.ranges(start, end, newer_than=previous.pages.gen)]
        cleared = [("ClearRange", s, e) for s, e in
                   subtract(previous.pages.extents.ranges(start, min(end, target.size)),
                            target.pages.extents.ranges(start, end))]
        return sorted(changed + cleared, key=lambda r: r[1])

    def resize(self, entry, size):
        if size < entry.base.size:
            self.clear_pages(entry, size, entry.base.size)
        entry.base.size = size
