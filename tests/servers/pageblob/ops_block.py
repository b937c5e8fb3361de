"""Block blobs put together from blocks: Put Block, Put Block List, Get Block List."""
import base64
import binascii
import hashlib

from . import xmlbody
from .errors import BlobError, bad_query
from .model import MIB
from .ops_blob import check_body
from .request import Response

MAX_BLOCK = 4000 * MIB


def _block_id(text):
    if not text:
        raise BlobError("MissingRequiredQueryParameter",
                        detail={"QueryParameterName": "blockid"})
    try:
        raw = base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        raise bad_query("blockid", text, "Not a valid base64 string.") from None
    if not 1 <= len(raw) <= 64:
        raise bad_query("blockid", text)
    return raw


def put_block(service, req):
    account = service.account
    block = _block_id(req.query.get("blockid"))
    if len(req.body) > MAX_BLOCK:
        raise BlobError("RequestBodyTooLarge", detail={"MaxLimit": MAX_BLOCK})
    if not req.body:
        raise BlobError("InvalidHeaderValue", detail={"HeaderName": "Content-Length",
                                                      "HeaderValue": "0"})
    sums = check_body(req)
    with account.lock:
        entry = account.entry(req.container, req.blob)
        service.check_lease(req, entry)
        if entry.base and entry.base.kind != "BlockBlob":
            raise BlobError("InvalidBlobType")
        if any(len(known) != len(block) for known in entry.uncommitted):
            raise BlobError("InvalidBlockId")
        entry.uncommitted[block] = bytes(req.body)
        account.keep(req.container, req.blob, entry)
    return Response(201, {**sums, "x-ms-request-server-encrypted": "true"})


def put_block_list(service, req):
    account = service.account
    check_body(req)
    wanted = xmlbody.parse_block_list(req.body)
    headers, metadata = req.content_headers(), req.metadata()
    headers.setdefault("content-type", "application/octet-stream")
    with account.lock:
        entry = account.entry(req.container, req.blob)
        req.check_conditions(entry.base, created_if_absent=True)
        service.check_lease(req, entry)
        if entry.base and entry.base.kind != "BlockBlob":
            raise BlobError("InvalidBlobType")
        committed = dict(entry.base.blocks) if entry.base else {}
        blocks = []
        for kind, text in wanted:
            block = _block_id(text)
            places = {"Latest": (entry.uncommitted, committed), "Committed": (committed,),
                      "Uncommitted": (entry.uncommitted,)}[kind]
            data = next((p[block] for p in places if block in p), None)
            if data is None:
                raise BlobError("InvalidBlockList")
            blocks.append((block, data))
        version = account.new_version("BlockBlob", sum(len(data) for _, data in blocks))
        version.blocks, version.body = blocks, b"".join(data for _, data in blocks)
        version.headers, version.metadata = headers, metadata
        account.replace_base(entry, version)
        entry.uncommitted = {}
        account.keep(req.container, req.blob, entry)
        answer = service.stamp(version)
    answer["Content-MD5"] = base64.b64encode(hashlib.md5(req.body).digest()).decode()
    answer["x-ms-request-server-encrypted"] = "true"
    return Response(201, answer)


def get_block_list(service, req):
    which = req.query.get("blocklisttype", "committed").lower()
    if which not in ("committed", "uncommitted", "all"):
        raise bad_query("blocklisttype", which)
    account = service.account
    with account.lock:
        entry = account.entry(req.container, req.blob)
        version = entry.find_snapshot(req.snapshot) if req.snapshot else entry.base
        if version is None and (req.snapshot or not entry.uncommitted):
            raise BlobError("BlobNotFound")
        if version and version.kind != "BlockBlob":
            raise BlobError("InvalidBlobType")
        def rows(pairs):
            return [(base64.b64encode(k).decode(), len(v)) for k, v in pairs]
        body = xmlbody.block_list(rows(version.blocks if version else []),
                                  rows(entry.uncommitted.items()), which)
        headers = service.stamp(version) if version else {}
        headers["x-ms-blob-content-length"] = str(version.size if version else 0)
    headers["Content-Type"] = "application/xml"
    return Response(200, headers, body)
