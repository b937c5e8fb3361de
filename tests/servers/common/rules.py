"""Rules that say which request meets which fault.

A rule is {"match": {...}, "fault": {...}, "skip": n, "times": n, "probability": p}.
  match        what a request must be; the server says which names there are
  skip         matching requests to let through first (default 0)
  times        how often it fires (default 1; 0: as long as the rule stands)
  probability  drawn from the seed, the rule's number and its count of matches, so that the
               order in which threads run does not change what is drawn for the n-th match
The first rule that fires wins.
"""
import random
import threading

_RULE = {"match", "fault", "skip", "times", "probability"}


class Rule:
    """A server's own rules say `KINDS` of fault, `MATCH` names, `SHORT` forms of faults, and
    what matches."""

    KINDS, MATCH, SHORT = frozenset(), frozenset(), {}

    def __init__(self, number, spec):
        unknown = set(spec) - _RULE | set(spec.get("match", {})) - self.MATCH
        if unknown:
            raise ValueError(f"a rule knows no {', '.join(sorted(unknown))}")
        fault = {**spec["fault"], **self.SHORT.get(spec["fault"].get("kind"), {})}
        if fault.get("kind") not in self.KINDS:
            raise ValueError(f"no such fault: {fault.get('kind')}")
        self.number, self.match, self.fault = number, spec.get("match", {}), fault
        self.skip = int(spec.get("skip", 0))
        self.probability = float(spec.get("probability", 1))
        self.times = int(spec.get("times", 0 if self.probability < 1 else 1))
        self.seen = self.fired = 0

    def matches(self, *request):
        raise NotImplementedError

    def fires(self, seed):
        """Of a request that matches."""
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


class Rules:
    """Those that stand, in the order in which they were added. Any thread."""

    RULE = Rule

    def __init__(self, seed=1):
        self.seed, self.lock = seed, threading.Lock()
        self.rules, self.numbers = [], 0

    def pick(self, *request):
        """The fault for a request; None: it goes through."""
        with self.lock:
            for rule in self.rules:
                if rule.matches(*request) and rule.fires(self.seed):
                    return rule.fault
        return None

    def add(self, specs):
        with self.lock:
            added = [self.RULE(self.numbers + i + 1, spec) for i, spec in enumerate(specs)]
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
