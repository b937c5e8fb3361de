"""The witness: what was asked and what became of it, counted and logged in order.

It also judges *fencing*: every mutation of a page blob under settings.fence_prefix should carry
a lease id, and every page write if-sequence-number-eq. Not counted, as nothing can fence them:
creating a blob that is not there yet and deleting a snapshot (no lease can protect either).
"""
import collections
import threading
import time

from .service import PAGE_MUTATIONS


class Witness:
    def __init__(self, account):
        self.account = account
        self.lock = threading.Lock()
        self.in_flight = 0
        self.reset()

    def reset(self):
        with self.lock:
            self.started = time.monotonic()
            self.operations = collections.Counter()
            self.answers = collections.Counter()    # "PutPage 201", "PutPage reset"
            self.counts = collections.Counter()
            self.unfenced, self.unnumbered = [], []
            self.log = collections.deque()
            self.sequence = 0
            self.in_flight_max = 0

    def count(self, name, by=1):
        with self.lock:
            self.counts[name] += by

    def enter(self, req):
        """A request has begun: it is in flight until it is recorded."""
        with self.lock:
            req.entered = True
            self.in_flight += 1
            self.in_flight_max = max(self.in_flight_max, self.in_flight)

    def fencing(self, req):
        """Judges a request just before it is executed; returns the marks for the log."""
        if req.operation not in PAGE_MUTATIONS or req.snapshot or \
                not req.blob.startswith(self.account.settings.fence_prefix):
            return []
        with self.account.lock:
            container = self.account.containers.get(req.container)
            entry = container and container.entries.get(req.blob)
            base = entry and entry.base
            if base is None or base.kind != "PageBlob":
                return []
        marks = []
        # Creating under If-None-Match: * can change nothing that is there: that is its fence.
        creates_only = req.operation == "PutBlob" and req.headers.get("if-none-match") == "*"
        if "x-ms-lease-id" not in req.headers and not creates_only:
            marks.append("unfenced")
        if req.operation in ("PutPage", "ClearPages", "PutPageFromUrl") and \
                "x-ms-if-sequence-number-eq" not in req.headers:
            marks.append("unnumbered")
        return marks

    def record(self, req, status, code=None, fault=None, sent=0, marks=(), connection=None,
               seconds=0.0):
        """One request is over. `status` is a number, or 'reset', 'hang', 'late'."""
        row = {"operation": req.operation, "method": req.method, "container": req.container,
               "blob": req.blob, "snapshot": req.snapshot, "range": req.header("x-ms-range"),
               "lease": req.header("x-ms-lease-id"),
               "sequence_eq": req.header("x-ms-if-sequence-number-eq"),
               "status": status, "code": code, "fault": fault, "received_bytes": len(req.body),
               "sent_bytes": sent, "marks": list(marks), "late": req.late,
               "identity": req.identity, "connection": connection,
               "seconds": round(seconds, 6)}
        with self.lock:
            if req.entered:
                req.entered = False
                self.in_flight -= 1
            self.sequence += 1
            row["seq"], row["at_s"] = self.sequence, round(time.monotonic() - self.started, 6)
            name = req.operation or "Unknown"
            self.operations[name] += 1
            self.answers[f"{name} {status}"] += 1
            self.counts["received_bytes"] += len(req.body)
            self.counts["sent_bytes"] += sent
            if code in ("AuthenticationFailed", "InvalidAuthenticationInfo",
                        "NoAuthenticationInformation"):
                self.counts["refused_credentials"] += 1
                if req.headers.get("authorization", "").startswith("SharedKey") or \
                        "sig" in req.query:
                    self.counts["bad_signatures"] += 1
            for mark, rows in (("unfenced", self.unfenced), ("unnumbered", self.unnumbered)):
                if mark in marks:
                    self.counts[mark] += 1
                    if isinstance(status, int) and status < 300:
                        self.counts[mark + "_applied"] += 1
                    if len(rows) < 100:
                        rows.append(row)
            self.log.append(row)
            while len(self.log) > self.account.settings.log_limit:
                self.log.popleft()

    def stats(self):
        with self.lock:
            names = ("connections_opened", "connections_open", "received_bytes", "sent_bytes",
                     "unfenced", "unfenced_applied", "unnumbered", "unnumbered_applied",
                     "refused_credentials", "bad_signatures", "throttled", "late_scheduled",
                     "late_landed", "late_rejected", "duplicates_applied",
                     "duplicates_rejected", "faults")
            return {"requests": sum(self.operations.values()),
                    "operations": dict(self.operations), "answers": dict(self.answers),
                    **{name: self.counts[name] for name in names},
                    "in_flight_max": self.in_flight_max,
                    "first_unfenced": self.unfenced[:10],
                    "first_unnumbered": self.unnumbered[:10],
                    "seconds": time.monotonic() - self.started}

    def rows(self, since=0):
        with self.lock:
            return [row for row in self.log if row["seq"] > since]
