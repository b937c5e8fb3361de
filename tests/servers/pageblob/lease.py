"""The lease of one blob: the state machine of "Lease Blob", and who may write.

States: available, leased, breaking, broken, expired. Time moves leased -> expired and
breaking -> broken; everything else is a request. The tables "Outcomes of lease operations"
and "Outcomes of use attempts" of Microsoft's reference are what the methods spell out.
The account's lock guards a lease.
"""
import uuid

from .errors import BlobError, bad_header, missing_header


def parse_id(header, text):
    """A lease id in its canonical form; 400 when it is no UUID."""
    try:
        return str(uuid.UUID(text.strip("{}")))
    except ValueError:
        raise bad_header(header, text) from None


class Lease:
    def __init__(self, now):
        self._now = now         # returns monotonic seconds
        self._state = "available"
        self.id = None
        self.duration_s = None  # None: infinite
        self.ends = None        # when leased: expiry; when breaking: end of the break

    @property
    def state(self):
        if self._state == "leased" and self.ends is not None and self._now() >= self.ends:
            self._state = "expired"
        if self._state == "breaking" and self._now() >= self.ends:
            self._state = "broken"
        return self._state

    @property
    def locked(self):
        return self.state in ("leased", "breaking")

    def headers(self):
        out = {"x-ms-lease-status": "locked" if self.locked else "unlocked",
               "x-ms-lease-state": self.state}
        if self.state == "leased":
            out["x-ms-lease-duration"] = "infinite" if self.duration_s is None else "fixed"
        return out

    # Requests

    def acquire(self, duration_s, proposed):
        state = self.state
        if state == "leased" and proposed != self.id:
            raise BlobError("LeaseAlreadyPresent")
        if state == "breaking":
            raise BlobError("LeaseIsBreakingAndCannotBeAcquired" if proposed == self.id
                            else "LeaseAlreadyPresent")
        self.id = proposed or str(uuid.uuid4())
        self._start(duration_s)

    def renew(self, lease_id):
        state = self.state
        if state == "available":
            raise BlobError("LeaseNotPresentWithLeaseOperation")
        if lease_id != self.id:
            raise BlobError("LeaseIdMismatchWithLeaseOperation")
        if state in ("breaking", "broken"):
            raise BlobError("LeaseIsBrokenAndCannotBeRenewed")
        self._start(self.duration_s)

    def change(self, lease_id, proposed):
        state = self.state
        if state in ("available", "expired", "broken"):
            raise BlobError("LeaseNotPresentWithLeaseOperation")
        if lease_id != self.id and proposed != self.id:
            raise BlobError("LeaseIdMismatchWithLeaseOperation")
        if state == "breaking":
            raise BlobError("LeaseIsBreakingAndCannotBeChanged")
        self.id = proposed

    def release(self, lease_id):
        if self.state == "available":
            raise BlobError("LeaseNotPresentWithLeaseOperation")
        if lease_id != self.id:
            raise BlobError("LeaseIdMismatchWithLeaseOperation")
        self.forget()

    def end(self, period_s):
        """Break. Returns the seconds until the lease is broken."""
        state = self.state
        if state == "available":
            raise BlobError("LeaseNotPresentWithLeaseOperation")
        if state in ("broken", "expired"):
            self._state, self.ends = "broken", None
            return 0
        left = None if self.ends is None else max(0.0, self.ends - self._now())
        if left is None:
            wait = period_s if period_s is not None else 0
        else:
            wait = left if period_s is None else min(left, period_s)
        if wait <= 0:
            self._state, self.ends = "broken", None
            return 0
        self._state, self.ends = "breaking", self._now() + wait
        return int(wait + 0.999)

    def forget(self):
        self._state, self.id, self.ends = "available", None, None

    def expire_now(self):
        """The admin's clock: the lease runs out this instant."""
        if self.state == "leased":
            self._state, self.ends = "expired", None

    def _start(self, duration_s):
        self._state, self.duration_s = "leased", duration_s
        self.ends = None if duration_s is None else self._now() + duration_s

    # Use

    def check_write(self, lease_id, mismatch_status):
        """May a write with this id (None: without) go on? An unleased write ends a dead lease."""
        state = self.state
        if lease_id is None:
            if state in ("leased", "breaking"):
                raise BlobError("LeaseIdMissing")
            if state in ("expired", "broken"):
                self.forget()
            return
        self.check_id(lease_id, mismatch_status, breaking_mismatch=412)

    def check_id(self, lease_id, mismatch_status, breaking_mismatch=409):
        """A lease id that was sent must be the live one, for reads and snapshots too."""
        state = self.state
        if state == "available":
            raise BlobError("LeaseNotPresentWithBlobOperation")
        if state in ("expired", "broken"):
            raise BlobError("LeaseLost" if lease_id == self.id
                            else "LeaseNotPresentWithBlobOperation")
        if lease_id != self.id:
            raise BlobError("LeaseIdMismatchWithBlobOperation",
                            status=mismatch_status if state == "leased" else breaking_mismatch)


def run_action(lease, headers):
    """The Lease Blob request: returns (status, headers)."""
    action = (headers.get("x-ms-lease-action") or "").lower()
    if not action:
        raise missing_header("x-ms-lease-action")
    proposed = headers.get("x-ms-proposed-lease-id")
    if proposed is not None:
        proposed = parse_id("x-ms-proposed-lease-id", proposed)
    if action == "acquire":
        lease.acquire(_duration(headers), proposed)
        return 201, {"x-ms-lease-id": lease.id}
    if action == "break":
        period = _seconds(headers, "x-ms-lease-break-period", 0, 60)
        return 202, {"x-ms-lease-time": str(lease.end(period))}
    if action not in ("renew", "change", "release"):
        raise bad_header("x-ms-lease-action", action)
    if "x-ms-lease-id" not in headers:
        raise missing_header("x-ms-lease-id")
    lease_id = parse_id("x-ms-lease-id", headers["x-ms-lease-id"])
    if action == "release":
        lease.release(lease_id)
        return 200, {}
    if action == "renew":
        lease.renew(lease_id)
    else:
        if proposed is None:
            raise missing_header("x-ms-proposed-lease-id")
        lease.change(lease_id, proposed)
    return 200, {"x-ms-lease-id": lease.id}


def _duration(headers):
    if "x-ms-lease-duration" not in headers:
        raise missing_header("x-ms-lease-duration")
    if headers["x-ms-lease-duration"] == "-1":
        return None
    return _seconds(headers, "x-ms-lease-duration", 15, 60)


def _seconds(headers, name, low, high):
    if name not in headers:
        return None
    text = headers[name]
    if not text.isdigit() or not low <= int(text) <= high:
        raise bad_header(name, text)
    return int(text)
