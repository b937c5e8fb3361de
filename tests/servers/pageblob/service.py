"""From a request to its operation: the URL's parts, the allowed headers, the handler.

`classify` needs only the head of the request, so that faults and the witness know the
operation before the body is read. `execute` runs it; a write that lands late is executed a
second time through the same door, so that leases and conditions are judged when it lands.
"""
import re
from urllib.parse import unquote

from . import ops_block, ops_blob, ops_container, ops_copy, ops_page
from .auth import Authenticator
from .errors import BlobError
from .lease import parse_id

_LOGIN = re.compile(r"^/([^/]+)/oauth2/v2\.0/token$")

_COMMON = {"x-ms-version", "x-ms-date", "x-ms-client-request-id",
           "x-ms-return-client-request-id"}
_CONTENT = {"x-ms-blob-content-type", "x-ms-blob-content-encoding", "x-ms-blob-content-language",
            "x-ms-blob-content-md5", "x-ms-blob-cache-control",
            "x-ms-blob-content-disposition"}
_LEASE = {"x-ms-lease-id"}
_LEASING = {"x-ms-lease-action", "x-ms-lease-id", "x-ms-lease-duration",
            "x-ms-proposed-lease-id", "x-ms-lease-break-period"}
_SEQUENCE = {"x-ms-if-sequence-number-le", "x-ms-if-sequence-number-lt",
             "x-ms-if-sequence-number-eq"}
_RANGE = {"x-ms-range"}

# operation -> (handler, x-ms- headers allowed beyond the common ones, metadata allowed)
OPERATIONS = {
    "ListContainers": (ops_container.list_containers, set(), False),
    "GetAccountInfo": (ops_container.account_info, set(), False),
    "CreateContainer": (ops_container.create, {"x-ms-blob-public-access"}, True),
    "DeleteContainer": (ops_container.delete, _LEASE, False),
    "GetContainer": (ops_container.get, _LEASE, False),
    "SetContainerMetadata": (ops_container.set_metadata, _LEASE, True),
    "LeaseContainer": (ops_container.lease, _LEASING, False),
    "ListBlobs": (ops_container.list_blobs, set(), False),
    "PutBlob": (ops_blob.put_blob, _CONTENT | _LEASE | {
        "x-ms-blob-type", "x-ms-blob-content-length", "x-ms-blob-sequence-number",
        "x-ms-content-crc64", "x-ms-access-tier"}, True),
    "GetBlob": (ops_blob.get_blob, _RANGE | _LEASE | {
        "x-ms-range-get-content-md5", "x-ms-range-get-content-crc64"}, False),
    "HeadBlob": (ops_blob.head_blob, _LEASE, False),
    "GetMetadata": (ops_blob.get_metadata, _LEASE, False),
    "SetMetadata": (ops_blob.set_metadata, _LEASE, True),
    "SetProperties": (ops_blob.set_properties, _CONTENT | _LEASE | {
        "x-ms-blob-content-length", "x-ms-sequence-number-action",
        "x-ms-blob-sequence-number"}, False),
    "DeleteBlob": (ops_blob.delete_blob, _LEASE | {"x-ms-delete-snapshots"}, False),
    "LeaseBlob": (ops_blob.lease_blob, _LEASING, False),
    "Snapshot": (ops_blob.snapshot, _LEASE, True),
    "PutPage": (ops_page.put_page, _RANGE | _LEASE | _SEQUENCE | {
        "x-ms-page-write", "x-ms-content-crc64"}, False),
    "ClearPages": (ops_page.clear_pages, _RANGE | _LEASE | _SEQUENCE | {"x-ms-page-write"},
                   False),
    "PutPageFromUrl": (ops_page.put_page_from_url, _RANGE | _LEASE | _SEQUENCE | {
        "x-ms-page-write", "x-ms-copy-source", "x-ms-source-range",
        "x-ms-source-content-md5", "x-ms-source-content-crc64",
        "x-ms-copy-source-authorization"}, False),
    "GetPageRanges": (ops_page.get_page_ranges, _RANGE | _LEASE, False),
    "PutBlock": (ops_block.put_block, _LEASE | {"x-ms-content-crc64"}, False),
    "PutBlockList": (ops_block.put_block_list, _CONTENT | _LEASE | {
        "x-ms-content-crc64", "x-ms-access-tier"}, True),
    "GetBlockList": (ops_block.get_block_list, _LEASE, False),
    "CopyBlob": (ops_copy.copy_blob, _LEASE | {
        "x-ms-copy-source", "x-ms-source-if-match", "x-ms-source-if-none-match",
        "x-ms-source-if-modified-since", "x-ms-source-if-unmodified-since",
        "x-ms-source-lease-id", "x-ms-access-tier"}, True),
    "AbortCopy": (ops_copy.abort_copy, _LEASE | {"x-ms-copy-action"}, False),
}

# What changes a page blob: the witness asks whether it was fenced
PAGE_MUTATIONS = {"PutBlob", "SetMetadata", "SetProperties", "DeleteBlob", "Snapshot", "PutPage",
                  "ClearPages", "PutPageFromUrl", "CopyBlob"}


class Service:
    def __init__(self, account, tokens):
        self.account, self.tokens = account, tokens
        self.auth = Authenticator(account, tokens)
        self.secure = False     # set by the server when it speaks TLS

    # Addressing

    def classify(self, req):
        """Fills in req.container, req.blob and req.operation; raises when there is none."""
        if req.path == "/metadata/identity/oauth2/token" and req.method == "GET":
            req.operation = "ImdsToken"
            return
        if req.method == "POST" and _LOGIN.match(req.path):
            req.operation = "LoginToken"
            return
        req.container, req.blob = self.split(req.header("host") or "", req.path)
        req.operation = self._operation(req)

    def split(self, host, path):
        """(container, blob) of a URL, host-style or path-style."""
        rest = path.lstrip("/") if path.startswith("/") else path
        if host.split(":")[0].split(".")[0] != self.account.name:
            first, _, rest = rest.partition("/")
            if unquote(first) != self.account.name:
                raise BlobError("InvalidUri", f"the account of {path} is not known here")
        container, slash, blob = rest.partition("/")
        container, blob = unquote(container), unquote(blob)
        if slash and not blob:
            slash = ""
        return container or None, blob if slash else None

    def _operation(self, req):
        comp, restype = req.query.get("comp"), req.query.get("restype")
        if restype == "account" and comp == "properties" and req.method in ("GET", "HEAD"):
            return "GetAccountInfo"
        if req.container is None:
            table = {("GET", "list"): "ListContainers"}
            key = (req.method, comp)
        elif req.blob is None:
            if restype != "container":
                raise BlobError("InvalidUri" if restype is None else
                                "InvalidQueryParameterValue")
            table = {("PUT", None): "CreateContainer", ("DELETE", None): "DeleteContainer",
                     ("GET", None): "GetContainer", ("HEAD", None): "GetContainer",
                     ("GET", "metadata"): "GetContainer", ("HEAD", "metadata"): "GetContainer",
                     ("PUT", "metadata"): "SetContainerMetadata",
                     ("PUT", "lease"): "LeaseContainer", ("GET", "list"): "ListBlobs"}
            key = (req.method, comp)
        else:
            copying = "x-ms-copy-source" in req.headers
            page = "ClearPages" if (req.header("x-ms-page-write") or "").lower() == "clear" \
                else "PutPageFromUrl" if copying else "PutPage"
            table = {("PUT", None): "CopyBlob" if copying else "PutBlob",
                     ("GET", None): "GetBlob", ("HEAD", None): "HeadBlob",
                     ("DELETE", None): "DeleteBlob", ("PUT", "page"): page,
                     ("GET", "pagelist"): "GetPageRanges", ("PUT", "snapshot"): "Snapshot",
                     ("PUT", "lease"): "LeaseBlob", ("PUT", "properties"): "SetProperties",
                     ("PUT", "metadata"): "SetMetadata", ("GET", "metadata"): "GetMetadata",
                     ("HEAD", "metadata"): "GetMetadata", ("PUT", "block"): "PutBlock",
                     ("PUT", "blocklist"): "PutBlockList",
                     ("GET", "blocklist"): "GetBlockList", ("PUT", "copy"): "AbortCopy"}
            key = (req.method, comp)
        if key in table:
            return table[key]
        if comp is not None and not any(known == comp for _, known in table):
            raise BlobError("InvalidQueryParameterValue", detail={
                "QueryParameterName": "comp", "QueryParameterValue": comp})
        raise BlobError("UnsupportedHttpVerb")

    # Execution

    def admit(self, req):
        """Authentication and the headers: what is judged once, on arrival."""
        if req.operation in ("ImdsToken", "LoginToken"):
            return
        self.auth.check(req)
        _, allowed, with_metadata = OPERATIONS[req.operation]
        for name in req.headers:
            if not name.startswith("x-ms-") or name in _COMMON or name in allowed:
                continue
            if with_metadata and name.startswith("x-ms-meta-"):
                continue
            raise BlobError("UnsupportedHeader", detail={"HeaderName": name})
        writes = req.method in ("PUT", "DELETE") and req.operation != "DeleteBlob"
        if req.snapshot is not None and writes:
            raise BlobError("InvalidQueryParameterValue", detail={
                "QueryParameterName": "snapshot", "QueryParameterValue": req.snapshot})

    def execute(self, req):
        """Runs the operation against the account as it is now."""
        if req.operation == "ImdsToken":
            return self.tokens.imds(req)
        if req.operation == "LoginToken":
            return self.tokens.login(req, _LOGIN.match(req.path)[1])
        handler = OPERATIONS[req.operation][0]
        return handler(self, req)

    # What handlers share

    def check_lease(self, req, entry, write=True, copying=False):
        """The lease rule of an operation. A write also waits for a pending copy to end, unless
        it says that it may come in the middle of one."""
        if write and not copying and getattr(entry, "copying", None):
            raise BlobError("PendingCopyOperation")
        lease_id = req.header("x-ms-lease-id")
        if lease_id is not None:
            lease_id = parse_id("x-ms-lease-id", lease_id)
        status = self.account.settings.lease_mismatch_status
        if write:
            entry.lease.check_write(lease_id, status)
        elif lease_id is not None:
            entry.lease.check_id(lease_id, status)

    def stamp(self, version):
        """ETag and Last-Modified of a version, as headers."""
        return {"ETag": version.etag, "Last-Modified": self.account.http_date(version.modified)}
