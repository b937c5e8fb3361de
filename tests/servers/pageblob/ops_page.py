"""Pages: Put Page (update, clear, from a URL) and Get Page Ranges with its diff.

A page write stores its bytes first, without the lock and out of anyone's sight, then judges
lease, conditions and sequence number and publishes the map's change in one step under the
lock: it is applied whole or not at all.
"""
import base64
import binascii

from . import xmlbody
from .errors import BlobError, bad_header, bad_query, missing_header
from .extents import read_span
from .model import MIB
from .ops_blob import check_body, find
from .ops_copy import open_source
from .request import Response

MAX_PUT = 4 * MIB


def _check_sequence(req, version):
    tests = {"x-ms-if-sequence-number-le": lambda now, n: now <= n,
             "x-ms-if-sequence-number-lt": lambda now, n: now < n,
             "x-ms-if-sequence-number-eq": lambda now, n: now == n}
    for name, holds in tests.items():
        wanted = req.number(name, required=False)
        if wanted is not None and not holds(version.sequence, wanted):
            raise BlobError("SequenceNumberConditionNotMet")


def _judge(service, req, start, end):
    """The blob that a page write may change now. Under the lock."""
    entry, version = find(service, req, write=True)
    if version.kind != "PageBlob":
        raise BlobError("InvalidBlobType")
    if end > version.size:
        raise BlobError("InvalidPageRange")
    _check_sequence(req, version)
    return entry, version


def _publish(service, req, start, end, data):
    while True:
        answer = _try_publish(service, req, start, end, data)
        if answer is not None:
            return answer


def _try_publish(service, req, start, end, data):
    """The answer's headers; None when the blob was replaced in between: judge it anew."""
    with service.account.lock:
        _, version = _judge(service, req, start, end)
        file = version.pages.file
        file.use()
    phys = None
    try:
        phys = file.append(data)
        with service.account.lock:
            entry, version = _judge(service, req, start, end)
            if version.pages.file is not file:
                return None
            service.account.write_pages(entry, start, end, phys)
            phys = None
            service.account.touch(version)
            return _answer(service, version)
    finally:
        if phys is not None:
            file.free([(phys, len(data))])
        file.drop()


def _answer(service, version):
    return {**service.stamp(version), "x-ms-blob-sequence-number": str(version.sequence),
            "x-ms-request-server-encrypted": "true"}


def put_page(service, req):
    action = (req.header("x-ms-page-write") or "").lower()
    if not action:
        raise missing_header("x-ms-page-write")
    if action != "update":
        raise bad_header("x-ms-page-write", action)
    start, end = req.page_range()
    if end - start > MAX_PUT or len(req.body) > MAX_PUT:
        raise BlobError("RequestBodyTooLarge", detail={"MaxLimit": MAX_PUT})
    if len(req.body) != end - start:
        raise bad_header("Content-Length", len(req.body))
    sums = check_body(req)
    answer = _publish(service, req, start, end, req.body)
    return Response(201, {**answer, **sums})


def clear_pages(service, req):
    start, end = req.page_range()
    if req.body:
        raise bad_header("Content-Length", len(req.body))
    for name in ("content-md5", "x-ms-content-crc64"):
        if name in req.headers:
            raise bad_header(name, req.headers[name])
    with service.account.lock:
        entry, version = _judge(service, req, start, end)
        service.account.clear_pages(entry, start, end)
        service.account.touch(version)
        return Response(201, _answer(service, version))


def put_page_from_url(service, req):
    if (req.header("x-ms-page-write") or "").lower() != "update":
        raise bad_header("x-ms-page-write", req.header("x-ms-page-write"))
    if req.body:
        raise bad_header("Content-Length", len(req.body))
    start, end = req.page_range("x-ms-range" if "x-ms-range" in req.headers else "range")
    source_start, source_end = req.page_range("x-ms-source-range")
    if end - start > MAX_PUT:
        raise BlobError("RequestBodyTooLarge", detail={"MaxLimit": MAX_PUT})
    if source_end - source_start != end - start:
        raise bad_header("x-ms-source-range", req.headers["x-ms-source-range"])
    with service.account.lock:
        _, source = open_source(service, req, same_account_suffices=False)
        if source.kind != "PageBlob" or source_end > source.size:
            raise BlobError("InvalidPageRange")
        extents, file = source.pages.extents.copy(), source.pages.file
        file.pin()
    try:
        data = read_span(extents, file, source_start, source_end)
    finally:
        file.unpin()
    return Response(201, _publish(service, req, start, end, data))


def get_page_ranges(service, req):
    wanted = req.byte_range()
    limit = req.query_number("maxresults", 1, 10000) or 10000
    previous_id, marker = req.query.get("prevsnapshot"), req.query.get("marker")
    with service.account.lock:
        entry, version = find(service, req)
        if version.kind != "PageBlob":
            raise BlobError("InvalidBlobType")
        start, end = wanted if wanted else (0, version.size)
        if wanted and start >= version.size:
            raise BlobError("InvalidRange",
                            headers={"Content-Range": f"bytes */{version.size}"})
        end = version.size if end is None else min(end, version.size)
        start = max(start - start % 512, _unmark(marker))
        end = min(end + -end % 512, version.size)
        if previous_id is None:
            found = [("PageRange", s, e) for s, e in version.pages.extents.ranges(start, end)]
        else:
            found = _diff(service, entry, version, previous_id, start, end)
        headers = service.stamp(version)
        headers["x-ms-blob-content-length"] = str(version.size)
    next_marker = ""
    if len(found) > limit:
        next_marker = base64.urlsafe_b64encode(f"at:{found[limit][1]}".encode()).decode()
        found = found[:limit]
    headers["Content-Type"] = "application/xml"
    return Response(200, headers, xmlbody.page_list(found, next_marker))


def _diff(service, entry, version, previous_id, start, end):
    previous = entry.find_snapshot(previous_id)
    if previous is None:
        raise BlobError("PreviousSnapshotNotFound")
    if version.snapshot is not None and previous.snapshot > version.snapshot:
        raise BlobError("PreviousSnapshotCannotBeNewer")
    if previous.pages is None or previous.pages.file is not version.pages.file:
        raise BlobError("BlobOverwritten")
    return service.account.diff(version, previous, start, end)


def _unmark(marker):
    if not marker:
        return 0
    try:
        text = base64.urlsafe_b64decode(marker.encode()).decode()
        return int(text.removeprefix("at:"))
    except (ValueError, binascii.Error):
        raise bad_query("marker", marker) from None
