"""Faults on demand: rules and token buckets.

Rules are those of common/rules.py; `match` knows operation, snapshot (patterns) and index (one or
a list). Kinds of fault:
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
import time
from fnmatch import fnmatchcase

from common.rules import Rule as AnyRule, Rules


class Rule(AnyRule):
    KINDS = {"status", "reset", "hang", "delay", "truncate", "short", "corrupt",
             "wrong_checksum", "no_checksum", "empty_page", "short_page", "expire_credentials",
             "expire_block_tokens", "expire_page_tokens", "end_in_error"}
    MATCH = {"operation", "snapshot", "index"}

    def matches(self, operation, snapshot, index):
        m = self.match
        if not fnmatchcase(operation, m.get("operation", "*")) or \
                not fnmatchcase(snapshot or "", m.get("snapshot", "*")):
            return False
        if "index" not in m:
            return True
        return index in (m["index"] if isinstance(m["index"], list) else [m["index"]])


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


class Faults(Rules):
    RULE = Rule

    def __init__(self, seed=1):
        super().__init__(seed)
        self.buckets = {}

    def pick(self, operation, snapshot=None, index=None):
        return super().pick(operation, snapshot, index) or {}

    def clear(self, seed=None):
        super().clear(seed)
        with self.lock:
            self.buckets = {}

    def admit(self, name, rate):
        """False: there is too much of it."""
        if not rate:
            return True
        with self.lock:
            return self.buckets.setdefault(name, Bucket(rate)).admit(rate)
