"""Faults on demand: rules, token buckets, writes that land late, outages.

A rule is {"match": {...}, "fault": {...}, "skip": n, "times": n, "probability": p}.
  match        operation, method, container, blob (shell patterns), snapshot (true | false),
               min_bytes: all that are given must hold
  skip         matching requests to let through first (default 0)
  times        how often it fires (default 1; 0: as long as the rule stands)
  probability  drawn from the seed, the rule's number and its count of matches, so that the
               order in which threads run does not change what is drawn for the n-th match
The first rule that fires wins. Kinds of fault:
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
import random
import threading
import time
from fnmatch import fnmatchcase

SHORT = {"busy": {"kind": "status", "status": 503, "code": "ServerBusy"},
         "error500": {"kind": "status", "status": 500, "code": "InternalError"},
         "timeout500": {"kind": "status", "status": 500, "code": "OperationTimedOut"}}
KINDS = {"status", "reset", "hang", "late", "duplicate", "delay", "slow", "truncate", "corrupt",
         "lease_break", "lease_steal", "token_expire"}
_MATCH = {"operation", "method", "container", "blob", "snapshot", "min_bytes"}
_RULE = {"match", "fault", "skip", "times", "probability"}


class Rule:
    def __init__(self, number, spec):
        unknown = set(spec) - _RULE | set(spec.get("match", {})) - _MATCH
        if unknown:
            raise ValueError(f"a rule knows no {', '.join(sorted(unknown))}")
        fault = dict(spec["fault"])
        if fault.get("kind") in SHORT:
            fault = {**fault, **SHORT[fault["kind"]]}
        if fault.get("kind") not in KINDS:
            raise ValueError(f"no such fault: {fault.get('kind')}")
        self.number, self.match, self.fault = number, spec.get("match", {}), fault
        self.skip = int(spec.get("skip", 0))
        self.probability = float(spec.get("probability", 1))
        self.times = int(spec.get("times", 0 if self.probability < 1 else 1))
        self.seen = self.fired = 0

    def matches(self, req, size):
        m = self.match
        for name in ("operation", "method", "container", "blob"):
            if name in m and not fnmatchcase(getattr(req, name) or "", m[name]):
                return False
        if "snapshot" in m and bool(m["snapshot"]) != (req.snapshot is not None):
            return False
        return size >= m.get("min_bytes", 0)

    def fires(self, seed):
        if self.times and self.fired >= self.times:
            return False
        self.seen += 1
        if self.seen <= self.skip:
            return False
        if self.probability < 1 and \
                random.Random(f"{seed}/{self.number}/{self.seen}").random() >= self.probability:
            return False
        self.fired += 1
        return True

    def as_dict(self):
        return {"id": self.number, "match": self.match, "fault": self.fault, "skip": self.skip,
                "times": self.times, "probability": self.probability, "seen": self.seen,
                "fired": self.fired}


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


class Faults:
    def __init__(self, settings, seed=1):
        self.settings, self.seed = settings, seed
        self.lock = threading.Lock()
        self.rules, self.numbers = [], 0
        self.buckets = {}

    def pick(self, req, size):
        """The fault for a request whose body has `size` bytes (None: it goes through)."""
        with self.lock:
            for rule in self.rules:
                if rule.matches(req, size) and rule.fires(self.seed):
                    return rule.fault
        return None

    def add(self, specs):
        with self.lock:
            added = [Rule(self.numbers + i + 1, spec) for i, spec in enumerate(specs)]
            self.numbers += len(added)
            self.rules += added
            return [rule.number for rule in added]

    def clear(self, seed=None):
        with self.lock:
            self.rules, self.numbers = [], 0
            if seed is not None:
                self.seed = seed

    def list(self):
        with self.lock:
            return [rule.as_dict() for rule in self.rules]

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
