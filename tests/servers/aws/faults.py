"""Faults on demand: rules and token buckets.

A rule is {"match": {...}, "fault": {...}, "skip": n, "times": n, "probability": p}.
  match        operation, snapshot (patterns), index (one or a list): all given must hold
  skip         matching requests to let through first (default 0)
  times        how often it fires (default 1; 0: as long as the rule stands)
  probability  drawn from the seed, the rule's number and its count of matches
The first rule that fires wins. Kinds of fault:
  status              status, code, reason, applied (default false), retry_after
  reset               applied (default false): the connection is reset without an answer
  hang                applied (default false): no answer until the client leaves
  delay               delay_s: answers late but truly
  truncate            the answer's body is cut off in its middle, the connection closed
  short               a whole answer whose body is shorter than it should be
  corrupt             one bit of the answer's body is flipped
  wrong_checksum      a block's checksum is another's
  no_checksum         a block comes without its checksum
  empty_page          a page with nothing in it, and more to come
  short_page          items: no more than that on this page
  expire_credentials  every temporary key has just expired
  expire_block_tokens every block token given so far is refused
  expire_page_tokens  every page token given so far is refused
  end_in_error        CreateSnapshots: the set will end in `error`
"""
import random
import threading
import time
from fnmatch import fnmatchcase

KINDS = {"status", "reset", "hang", "delay", "truncate", "short", "corrupt", "wrong_checksum",
         "no_checksum", "empty_page", "short_page", "expire_credentials",
         "expire_block_tokens", "expire_page_tokens", "end_in_error"}
_RULE = {"match", "fault", "skip", "times", "probability"}
_MATCH = {"operation", "snapshot", "index"}


class Rule:
    def __init__(self, number, spec):
        unknown = set(spec) - _RULE | set(spec.get("match", {})) - _MATCH
        if unknown:
            raise ValueError(f"a rule knows no {', '.join(sorted(unknown))}")
        if spec["fault"].get("kind") not in KINDS:
            raise ValueError(f"no such fault: {spec['fault'].get('kind')}")
        self.number, self.match, self.fault = number, spec.get("match", {}), spec["fault"]
        self.skip = int(spec.get("skip", 0))
        self.probability = float(spec.get("probability", 1))
        self.times = int(spec.get("times", 0 if self.probability < 1 else 1))
        self.seen = self.fired = 0

    def fires(self, seed, operation, snapshot, index):
        m = self.match
        if not fnmatchcase(operation, m.get("operation", "*")) or \
                not fnmatchcase(snapshot or "", m.get("snapshot", "*")):
            return False
        if "index" in m:
            wanted = m["index"] if isinstance(m["index"], list) else [m["index"]]
            if index not in wanted:
                return False
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


class Bucket:
    """So many a second; a tenth of a second's worth may be saved up."""

    def __init__(self, rate):
        self.level, self.at = max(1.0, rate / 10), time.monotonic()

    def admit(self, rate):
        now = time.monotonic()
        self.level = min(max(1.0, rate / 10), self.level + (now - self.at) * rate)
        self.at = now
        if self.level < 1:
            return False
        self.level -= 1
        return True


class Faults:
    def __init__(self, seed=1):
        self.seed, self.lock = seed, threading.Lock()
        self.rules, self.numbers, self.buckets = [], 0, {}

    def pick(self, operation, snapshot=None, index=None):
        with self.lock:
            for rule in self.rules:
                if rule.fires(self.seed, operation, snapshot, index):
                    return rule.fault
        return {}

    def add(self, specs):
        with self.lock:
            added = [Rule(self.numbers + i + 1, spec) for i, spec in enumerate(specs)]
            self.numbers += len(added)
            self.rules += added
            return [rule.number for rule in added]

    def clear(self, seed=None):
        with self.lock:
            self.rules, self.numbers, self.buckets = [], 0, {}
            if seed is not None:
                self.seed = seed

    def list(self):
        with self.lock:
            return [{"id": r.number, "match": r.match, "fault": r.fault, "skip": r.skip,
                     "times": r.times, "seen": r.seen, "fired": r.fired} for r in self.rules]

    def admit(self, name, rate):
        """False: there is too much of it."""
        if not rate:
            return True
        with self.lock:
            return self.buckets.setdefault(name, Bucket(rate)).admit(rate)
