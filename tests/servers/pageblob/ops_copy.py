"""Copy Blob: asynchronous, the destination untouchable while the copy is pending.

The copied bytes go into a data file of their own: source and copy share nothing. The copy
stays pending for settings.copy_pending_s at least, as it does on a busy day.
"""
import threading
import time
import uuid
from urllib.parse import urlsplit

from .errors import BlobError, bad_header, missing_header
from .model import MIB
from .request import Request, Response


def open_source(service, req, same_account_suffices=True):
    """(entry, version) that x-ms-copy-source names. Under the lock."""
    url = req.header("x-ms-copy-source")
    parts = urlsplit(url or "")
    if parts.scheme not in ("http", "https") or not parts.netloc:
        raise bad_header("x-ms-copy-source", url)
    target = parts.path + ("?" + parts.query if parts.query else "")
    source = Request("GET", target, {"host": parts.netloc, "x-ms-version": req.version}, [])
    source.container, source.blob = service.split(parts.netloc, parts.path)
    source.operation, source.secure = "GetBlob", parts.scheme == "https"
    if source.blob is None:
        raise bad_header("x-ms-copy-source", url)
    token = req.header("x-ms-copy-source-authorization")
    if "sig" in source.query or token or not same_account_suffices:
        if token:
            source.headers["authorization"] = token
        try:
            service.auth.check(source)
        except BlobError as error:
            raise BlobError("CannotVerifyCopySource", error.message, status=error.status) \
                from None
    try:
        return service.account.version(source.container, source.blob, source.snapshot)
    except BlobError:
        raise BlobError("CannotVerifyCopySource") from None


def _check_source(req, source):
    match, none = req.header("x-ms-source-if-match"), req.header("x-ms-source-if-none-match")
    if match is not None and match not in ("*", source.etag):
        raise BlobError("ConditionNotMet")
    if none is not None and none in ("*", source.etag):
        raise BlobError("ConditionNotMet")


class _Copy:
    """A pending copy, shared between the request that began it and the thread that does it."""

    def __init__(self, version):
        self.version = version
        self.aborted = threading.Event()


def copy_blob(service, req):
    account = service.account
    if req.header("x-ms-copy-source") is None:
        raise missing_header("x-ms-copy-source")
    if req.body:
        raise bad_header("Content-Length", len(req.body))
    metadata = req.metadata()
    with account.lock:
        _, source = open_source(service, req)
        _check_source(req, source)
        entry = account.entry(req.container, req.blob)
        req.check_conditions(entry.base, created_if_absent=True)
        service.check_lease(req, entry)
        if entry.base and entry.base.kind != source.kind:
            raise BlobError("InvalidBlobType")
        version = account.new_version(source.kind, source.size if source.pages else 0)
        version.headers, version.sequence = dict(source.headers), source.sequence
        version.metadata = metadata or dict(source.metadata)
        version.copy = {"id": str(uuid.uuid4()), "source": req.headers["x-ms-copy-source"],
                        "status": "pending", "progress": f"0/{source.size}",
                        "completion": None, "description": None}
        account.replace_base(entry, version)
        account.keep(req.container, req.blob, entry)
        entry.copying = copy = _Copy(version)
        extents = source.pages.extents.copy() if source.pages else None
        file = source.pages.file if source.pages else None
        if file:
            file.pin()
            version.pages.file.use()
        headers = service.stamp(version)
    threading.Thread(target=_run, args=(account, entry, copy, source.body, extents, file),
                     daemon=True).start()
    return Response(202, {**headers, "x-ms-copy-id": version.copy["id"],
                          "x-ms-copy-status": "pending"})


def _run(account, entry, copy, body, extents, file):
    """The copying thread: bytes first, then one step that makes them visible. Until then a
    page blob reads as zeros and a block blob is empty."""
    version, deadline = copy.version, time.monotonic() + account.settings.copy_pending_s
    pieces = []
    try:
        for start, end, phys, _ in (extents.span(0, version.size) if extents else ()):
            for at in range(0, end - start, MIB):
                if copy.aborted.is_set():
                    return
                length = min(MIB, end - start - at)
                data = file.read(phys + at, length)
                pieces.append((start + at, start + at + length, version.pages.file.append(data)))
        copy.aborted.wait(max(0.0, deadline - time.monotonic()))
        with account.lock:
            if copy.aborted.is_set() or entry.base is not version:
                return
            entry.copying = None
            account.touch(version)
            if account.settings.copy_fails:
                version.copy.update(status="failed", completion=account.http_date(),
                                    description="500 InternalError \"Copy failed.\"")
                return
            for start, end, phys in pieces:
                version.pages.extents.put(start, end, phys, version.pages.gen)
            if file is None:
                version.body = body
                version.size = len(version.body)
            version.copy.update(status="success", progress=f"{version.size}/{version.size}",
                                completion=account.http_date())
    finally:
        if file:
            file.unpin()
            version.pages.file.drop()


def abort_copy(service, req):
    if (req.header("x-ms-copy-action") or "").lower() != "abort":
        raise bad_header("x-ms-copy-action", req.header("x-ms-copy-action"))
    account, copy_id = service.account, req.query.get("copyid")
    if not copy_id:
        raise BlobError("MissingRequiredQueryParameter",
                        detail={"QueryParameterName": "copyid"})
    with account.lock:
        entry, version = account.version(req.container, req.blob)
        service.check_lease(req, entry, copying=True)
        if not entry.copying:
            raise BlobError("NoPendingCopyOperation")
        if version.copy["id"] != copy_id:
            raise BlobError("CopyIdMismatch")
        entry.copying.aborted.set()
        entry.copying = None
        version.copy.update(status="aborted", completion=account.http_date())
        account.resize(entry, 0)
        account.touch(version)
    return Response(204)
