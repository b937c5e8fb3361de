"""Faults on demand: rules, token buckets, writes that land late, outages.

Rules are those of common/rules.py; `match` knows operation, method, container, blob (shell
patterns), snapshot (true | false) and min_bytes. Kinds of fault:
  status       status, code, applied (default false), retry_after: an answer of one's choice;
               busy, error500 and timeout500 are short for the usual ones
  reset        when: "before" (the body is not read), "unapplied" (read, not applied) or
               "applied": the connection is reset
  hang         applied (default false): no answer, until the client leaves or hang_s is over
  late         answer ("reset" | "hang" | "500"), delay_s (null: until the admin lands it): the
               client is told nothing useful, the write lands afterwards, judged as of then
  duplicate    delay_s: applied and answered; the same request lands once more afterwards
  delay        delay_s: answers late but truly
  slow         bytes_per_s: the answer's body trickles
  truncate     fraction (default 0.5): the answer's body is cut off, the connection closed
  corrupt      one bit of the answer's body is flipped
  lease_break  the blob's lease is broken before the request is judged
  lease_steal  the same, and another owner has acquired it
  token_expire the request's own token has just expired
"""
import threading
import time
from fnmatch import fnmatchcase

from common.rules import Rule as AnyRule, Rules


class Rule(AnyRule):
    KINDS = {"status", "reset", "hang", "late", "duplicate", "delay", "slow", "truncate",
             "corrupt", "lease_break", "lease_steal", "token_expire"}
    MATCH = {"operation", "method", "container", "blob", "snapshot", "min_bytes"}
    SHORT = {"busy": {"kind": "status", "status": 503, "code": "ServerBusy"},
             "error500": {"kind": "status", "status": 500, "code": "InternalError"},
             "timeout500": {"kind": "status", "status": 500, "code": "OperationTimedOut"}}

    def matches(self, req, size):
        """A request whose body has `size` bytes."""
        m = self.match
        for name in ("operation", "method", "container", "blob"):
            if name in m and not fnmatchcase(getattr(req, name) or "", m[name]):
                return False
        if "snapshot" in m and bool(m["snapshot"]) != (req.snapshot is not None):
            return False
        return size >= m.get("min_bytes", 0)


class Bucket:
    """Requests and bytes a second for one blob; one second's worth may be saved up."""

    def __init__(self):
        self.level, self.at = {"requests": 1.0, "bytes": 1.0}, time.monotonic()

    def admit(self, rates):
        now = time.monotonic()
        for kind, rate in rates.items():
            if rate:
                self.level[kind] = min(rate, self.level[kind] + (now - self.at) * rate)
        self.at = now
        for kind, rate in rates.items():
            if rate and self.level[kind] <= 0:
                return kind
        self.level["requests"] -= 1
        return None


class Faults(Rules):
    RULE = Rule

    def __init__(self, settings, seed=1):
        super().__init__(seed)
        self.settings = settings
        self.buckets = {}

    # Throttling

    def throttle(self, req):
        """None, or what the blob has too much of: 'requests' | 'bytes'."""
        rates = {"requests": self.settings.throttle_requests_per_s,
                 "bytes": self.settings.throttle_bytes_per_s}
        if not req.blob or not any(rates.values()):
            return None
        with self.lock:
            bucket = self.buckets.get((req.container, req.blob))
            if bucket is None:
                bucket = self.buckets[(req.container, req.blob)] = Bucket()
                bucket.level = {kind: float(rate) for kind, rate in rates.items()}
            return bucket.admit(rates)

    def charge(self, req, size):
        with self.lock:
            bucket = self.buckets.get((req.container, req.blob))
            if bucket:
                bucket.level["bytes"] -= size


class Late:
    """Writes under way after their client was told nothing useful; each lands on its own."""

    def __init__(self, land):
        self.land_one = land        # land_one(request) -> what became of it
        self.lock = threading.Lock()
        self.pending, self.numbers = {}, 0

    def schedule(self, req, delay_s):
        with self.lock:
            self.numbers += 1
            number = self.numbers
            self.pending[number] = (req, time.monotonic())
        if delay_s is not None:
            timer = threading.Timer(delay_s, self._due, (number,))
            timer.daemon = True
            timer.start()

    def _due(self, number):
        with self.lock:
            found = self.pending.pop(number, None)
        return self.land_one(found[0]) if found else None

    def land(self, number=None):
        """Lands one write, or all in the order they came. Returns what became of each."""
        with self.lock:
            numbers = sorted(self.pending) if number is None else [number]
        done = [(n, self._due(n)) for n in numbers]
        return [{"id": n, **result} for n, result in done if result]

    def drop(self):
        with self.lock:
            count, self.pending = len(self.pending), {}
        return count

    def list(self):
        now = time.monotonic()
        with self.lock:
            return [{"id": n, "operation": r.operation, "container": r.container,
                     "blob": r.blob, "range": r.header("x-ms-range"), "age_s": now - since}
                    for n, (r, since) in sorted(self.pending.items())]
