"""What every blob knows: put, get, head, delete, snapshot, lease, properties, metadata."""
import base64
import hashlib
import time

from . import crc64
from .errors import BlobError, bad_header, missing_header
from .extents import read_span
from .lease import run_action
from .model import MAX_PAGE_BLOB, MIB
from .request import Response

CHUNK = 4 * MIB
MAX_BLOCK_BODY = 5000 * MIB
_HEADER_CASE = {"content-type": "Content-Type", "content-encoding": "Content-Encoding",
                "content-language": "Content-Language", "content-md5": "Content-MD5",
                "cache-control": "Cache-Control",
                "content-disposition": "Content-Disposition"}


def check_body(req):
    """Verifies Content-MD5 or x-ms-content-crc64; returns the headers that answer them."""
    md5 = req.decode_base64("content-md5", 16, "InvalidMd5")
    crc = req.decode_base64("x-ms-content-crc64", 8, "InvalidCrc64")
    if md5 is not None and crc is not None:
        raise bad_header("x-ms-content-crc64", "", "MD5 and CRC64 exclude each other.")
    if md5 is not None:
        if hashlib.md5(req.body).digest() != md5:
            raise BlobError("Md5Mismatch")
        return {"Content-MD5": base64.b64encode(md5).decode()}
    value = crc64.crc64(req.body)
    if crc is not None and value != int.from_bytes(crc, "little"):
        raise BlobError("Crc64Mismatch")
    return {"x-ms-content-crc64": crc64.encode(value)}


def page_blob_size(req):
    size = req.number("x-ms-blob-content-length")
    if size % 512 or size > MAX_PAGE_BLOB:
        raise bad_header("x-ms-blob-content-length", size)
    return size


def put_blob(service, req):
    kind = req.header("x-ms-blob-type")
    if kind is None:
        raise missing_header("x-ms-blob-type")
    if kind not in ("PageBlob", "BlockBlob"):
        raise bad_header("x-ms-blob-type", kind)
    account, metadata = service.account, req.metadata()
    headers, answer, sequence = req.content_headers(), {}, 0
    headers.setdefault("content-type", req.header("content-type") or "application/octet-stream")
    if kind == "PageBlob":
        size = page_blob_size(req)
        if req.body:
            raise bad_header("Content-Length", len(req.body))
        sequence = req.number("x-ms-blob-sequence-number", required=False) or 0
    else:
        for name in ("x-ms-blob-content-length", "x-ms-blob-sequence-number"):
            if name in req.headers:
                raise bad_header(name, req.headers[name])
        size = len(req.body)
        answer = check_body(req)
        headers.setdefault("content-md5",
                           base64.b64encode(hashlib.md5(req.body).digest()).decode())
        answer["Content-MD5"] = headers["content-md5"]
    with account.lock:
        entry = account.entry(req.container, req.blob)
        req.check_conditions(entry.base, created_if_absent=True)
        service.check_lease(req, entry)
        if entry.base and entry.base.kind != kind and entry.snapshots:
            raise BlobError("SnapshotsPresent")
        version = account.new_version(kind, size)
        version.headers, version.metadata, version.sequence = headers, metadata, sequence
        if kind == "BlockBlob":
            version.body = bytes(req.body)
        account.replace_base(entry, version)
        entry.uncommitted = {}
        account.keep(req.container, req.blob, entry)
        answer.update(service.stamp(version))
        answer["x-ms-request-server-encrypted"] = "true"
        return Response(201, answer)


# Reading

def describe(service, entry, version):
    """The headers that Get Blob and Get Blob Properties share."""
    out = service.stamp(version)
    out.update({_HEADER_CASE[k]: v for k, v in version.headers.items()})
    out.setdefault("Content-Type", "application/octet-stream")
    out.update({f"x-ms-meta-{k}": v for k, v in version.metadata.items()})
    out.update({"x-ms-blob-type": version.kind, "Accept-Ranges": "bytes",
                "x-ms-creation-time": service.account.http_date(version.created),
                "x-ms-server-encrypted": "true"})
    if version.snapshot is None:
        out.update(entry.lease.headers())
    if version.kind == "PageBlob":
        out["x-ms-blob-sequence-number"] = str(version.sequence)
    if version.copy:
        out.update({"x-ms-copy-id": version.copy["id"],
                    "x-ms-copy-source": version.copy["source"],
                    "x-ms-copy-status": version.copy["status"],
                    "x-ms-copy-progress": version.copy["progress"]})
        if version.copy.get("completion"):
            out["x-ms-copy-completion-time"] = version.copy["completion"]
        if version.copy.get("description"):
            out["x-ms-copy-status-description"] = version.copy["description"]
    return out


def find(service, req, write=False):
    """The version a request names, its conditions and lease checked. Under the lock."""
    entry, version = service.account.version(req.container, req.blob, req.snapshot)
    req.check_conditions(version)
    if version.snapshot is None:
        service.check_lease(req, entry, write)
    return entry, version


def head_blob(service, req):
    with service.account.lock:
        entry, version = find(service, req)
        headers = describe(service, entry, version)
        headers["Content-Length"] = str(version.size)
        return Response(200, headers)


def get_metadata(service, req):
    with service.account.lock:
        _, version = find(service, req)
        headers = service.stamp(version)
        headers.update({f"x-ms-meta-{k}": v for k, v in version.metadata.items()})
        return Response(200, headers)


def get_blob(service, req):
    wanted = req.byte_range()
    with service.account.lock:
        entry, version = find(service, req)
        headers, size = describe(service, entry, version), version.size
        start, end = wanted if wanted else (0, size)
        end = size if end is None else min(end, size)
        if wanted and start >= size:
            raise BlobError("InvalidRange", headers={"Content-Range": f"bytes */{size}"})
        if version.pages:
            file, extents = version.pages.file, version.pages.extents.copy()
            file.pin()
        else:
            file, body = None, version.body
    status = 200
    if wanted:
        status = 206
        headers["Content-Range"] = f"bytes {start}-{end - 1}/{size}"
        if "Content-MD5" in headers:
            headers["x-ms-blob-content-md5"] = headers.pop("Content-MD5")
    sums = [name for name in ("x-ms-range-get-content-md5", "x-ms-range-get-content-crc64")
            if (req.header(name) or "").lower() == "true"]
    try:
        if sums and (not wanted or end - start > 4 * MIB or len(sums) > 1):
            raise bad_header(sums[0], "true")
        if file is None:
            data = body[start:end]
        elif end - start <= CHUNK:
            data = read_span(extents, file, start, end)
        else:
            response = Response(status, headers, stream=_chunks(extents, file, start, end),
                                length=end - start, done=file.unpin)
            file = None
            return response
    finally:
        if file is not None:
            file.unpin()
    if "x-ms-range-get-content-md5" in sums:
        headers["Content-MD5"] = base64.b64encode(hashlib.md5(data).digest()).decode()
    if "x-ms-range-get-content-crc64" in sums:
        headers["x-ms-content-crc64"] = crc64.encode(crc64.crc64(data))
    return Response(status, headers, data)


def _chunks(extents, file, start, end):
    for at in range(start, end, CHUNK):
        yield read_span(extents, file, at, min(at + CHUNK, end))


# Changing

def snapshot(service, req):
    account, settings = service.account, service.account.settings
    metadata = req.metadata()
    with account.lock:
        entry, version = account.version(req.container, req.blob)
        req.check_conditions(version)
        service.check_lease(req, entry, write=False)    # a lease that is not named is ignored
        if entry.copying:
            raise BlobError("PendingCopyOperation")
        now = time.monotonic()
        if settings.premium and version.kind == "PageBlob":
            if len(entry.snapshots) >= settings.premium_snapshots:
                raise BlobError("SnapshotCountExceeded")
            if entry.last_snapshot_at is not None and \
                    now - entry.last_snapshot_at < settings.premium_interval_s:
                raise BlobError("SnapshotOperationRateExceeded")
        taken = account.take_snapshot(entry, metadata)
        entry.last_snapshot_at = now
        return Response(201, {**service.stamp(taken), "x-ms-snapshot": taken.snapshot,
                              "x-ms-request-server-encrypted": "false"})


def delete_blob(service, req):
    account, how = service.account, req.header("x-ms-delete-snapshots")
    if how is not None and how not in ("include", "only"):
        raise bad_header("x-ms-delete-snapshots", how)
    if how and req.snapshot:
        raise bad_header("x-ms-delete-snapshots", how)
    with account.lock:
        entry, version = account.version(req.container, req.blob, req.snapshot)
        req.check_conditions(version)
        if req.snapshot:
            account.delete_snapshot(entry, version)
        else:
            service.check_lease(req, entry)
            if entry.snapshots and how is None:
                raise BlobError("SnapshotsPresent")
            for taken in list(entry.snapshots):
                account.delete_snapshot(entry, taken)
            if how != "only":
                account.drop_version(entry.base)
                entry.base, entry.lease = None, account.new_lease()
        account.prune(req.container, req.blob)
    return Response(202, {"x-ms-delete-type-permanent": "true"})


def lease_blob(service, req):
    with service.account.lock:
        entry, version = service.account.version(req.container, req.blob)
        req.check_conditions(version)
        status, headers = run_action(entry.lease, req.headers)
        return Response(status, {**headers, **service.stamp(version)})


def set_metadata(service, req):
    metadata = req.metadata()
    with service.account.lock:
        _, version = find(service, req, write=True)
        version.metadata = metadata
        service.account.touch(version)
        return Response(200, {**service.stamp(version),
                              "x-ms-request-server-encrypted": "true"})


def set_properties(service, req):
    """Content headers, resize, sequence number: those that are not sent stay as they are,
    but content headers go as one: sending one clears the others."""
    account, action = service.account, req.header("x-ms-sequence-number-action")
    given = req.content_headers()
    size = page_blob_size(req) if "x-ms-blob-content-length" in req.headers else None
    if action is None and "x-ms-blob-sequence-number" in req.headers:
        raise missing_header("x-ms-sequence-number-action")
    if action is not None and action not in ("max", "update", "increment"):
        raise bad_header("x-ms-sequence-number-action", action)
    value = None
    if action == "increment":
        if "x-ms-blob-sequence-number" in req.headers:
            raise bad_header("x-ms-blob-sequence-number",
                             req.headers["x-ms-blob-sequence-number"])
    elif action:
        value = req.number("x-ms-blob-sequence-number")
    with account.lock:
        entry, version = find(service, req, write=True)
        if version.kind != "PageBlob" and (action or size is not None):
            raise BlobError("InvalidBlobType")
        if action == "increment":
            if version.sequence == (1 << 63) - 1:
                raise BlobError("SequenceNumberIncrementTooLarge")
            version.sequence += 1
        elif action == "max":
            version.sequence = max(version.sequence, value)
        elif action == "update":
            version.sequence = value
        if size is not None:
            account.resize(entry, size)
        if given or (action is None and size is None):
            version.headers = given
        account.touch(version)
        headers = service.stamp(version)
        if version.kind == "PageBlob":
            headers["x-ms-blob-sequence-number"] = str(version.sequence)
        return Response(200, headers)
