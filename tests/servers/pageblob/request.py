"""A request as the service sees it, and its answer.

Also the reading of headers and query parameters that many operations share: ranges, numbers,
metadata, the conditional headers.
"""
import base64
import binascii
import re
import uuid
from email.utils import parsedate_to_datetime
from urllib.parse import unquote

from .errors import BlobError, bad_header, bad_query, missing_header

KNOWN_VERSIONS = frozenset("""
2009-09-19 2011-08-18 2012-02-12 2013-08-15 2014-02-14 2015-02-21 2015-04-05 2015-07-08
2015-12-11 2016-05-31 2017-04-17 2017-07-29 2017-11-09 2018-03-28 2018-11-09 2019-02-02
2019-07-07 2019-10-10 2019-12-12 2020-02-10 2020-04-08 2020-06-12 2020-08-04 2020-10-02
2020-12-06 2021-02-12 2021-04-10 2021-06-08 2021-08-06 2021-10-04 2021-12-02 2022-11-02
2023-01-03 2023-05-03 2023-08-03 2023-11-03 2024-02-04 2024-05-04 2024-08-04 2024-11-04
2025-01-05 2025-05-05 2025-07-05 2025-11-05
""".split())
_META_NAME = re.compile(r"^[A-Za-z_][A-Za-z0-9_]*$")


class Request:
    def __init__(self, method, target, headers, raw_headers):
        self.method, self.target = method, target
        self.headers = headers          # lower-case name -> value
        self.raw_headers = raw_headers  # [(name as sent, value)]
        self.path, _, raw_query = target.partition("?")
        self.query_pairs = []
        for piece in raw_query.split("&"):
            if piece:
                name, _, value = piece.partition("=")
                self.query_pairs.append((unquote(name), unquote(value)))
        self.query = {name.lower(): value for name, value in self.query_pairs}
        self.body = bytearray()
        self.secure = False
        self.operation = None
        self.account_name = None
        self.container = self.blob = None
        self.identity = None            # how it was authorised: sharedkey | sas | bearer
        self.version = None
        self.late = False               # this is the landing of a delayed write
        self.entered = False            # it counts as in flight
        self.duplicate = False          # it will be delivered once more
        self.request_id = str(uuid.uuid4())

    @property
    def snapshot(self):
        return self.query.get("snapshot")

    def header(self, name):
        return self.headers.get(name)

    def number(self, name, low=0, high=(1 << 63) - 1, required=True):
        text = self.headers.get(name)
        if text is None:
            if required:
                raise missing_header(name)
            return None
        if not text.isascii() or not text.isdigit() or not low <= int(text) <= high:
            raise bad_header(name, text)
        return int(text)

    def query_number(self, name, low, high):
        text = self.query.get(name)
        if text is None:
            return None
        if not text.isascii() or not text.isdigit():
            raise bad_query(name, text)
        if int(text) < low:
            raise BlobError("OutOfRangeQueryParameterValue", detail={
                "QueryParameterName": name, "QueryParameterValue": text,
                "MinimumAllowed": low, "MaximumAllowed": high})
        return min(int(text), high)

    def byte_range(self):
        """(start, end or None), end exclusive, of x-ms-range or Range; None when absent."""
        name = "x-ms-range" if "x-ms-range" in self.headers else "range"
        text = self.headers.get(name)
        if text is None:
            return None
        match = re.fullmatch(r"bytes=(\d+)-(\d*)", text)
        if not match or (match[2] and int(match[2]) < int(match[1])):
            if name == "range":
                return None     # HTTP: an unreadable Range is ignored
            raise bad_header(name, text)
        return int(match[1]), int(match[2]) + 1 if match[2] else None

    def page_range(self, header=None):
        """The range of a page write: both ends given and aligned to 512."""
        if header is None:
            header = "x-ms-range" if "x-ms-range" in self.headers else "range"
        text = self.headers.get(header)
        if text is None:
            raise missing_header("x-ms-range")
        match = re.fullmatch(r"bytes=(\d+)-(\d+)", text)
        if not match:
            raise bad_header(header, text)
        start, end = int(match[1]), int(match[2]) + 1
        if start % 512 or end % 512 or end <= start:
            raise BlobError("InvalidPageRange")
        return start, end

    def metadata(self):
        """The x-ms-meta-* headers, names as sent."""
        found, total = {}, 0
        for name, value in self.raw_headers:
            if not name.lower().startswith("x-ms-meta-"):
                continue
            key = name[len("x-ms-meta-"):]
            if not key:
                raise BlobError("EmptyMetadataKey")
            if not _META_NAME.match(key) or not value.isascii():
                raise BlobError("InvalidMetadata")
            total += len(key) + len(value)
            found[key] = value
        if total > 8192:
            raise BlobError("MetadataTooLarge")
        return found

    def content_headers(self):
        """The x-ms-blob-content-* headers of a Put Blob or Set Blob Properties."""
        names = {"x-ms-blob-content-type": "content-type",
                 "x-ms-blob-content-encoding": "content-encoding",
                 "x-ms-blob-content-language": "content-language",
                 "x-ms-blob-content-md5": "content-md5",
                 "x-ms-blob-cache-control": "cache-control",
                 "x-ms-blob-content-disposition": "content-disposition"}
        return {to: self.headers[name] for name, to in names.items() if name in self.headers}

    def check_conditions(self, version, created_if_absent=False):
        """If-Match and its family against a version (None: there is none)."""
        reading = self.method in ("GET", "HEAD")
        match, none = self.headers.get("if-match"), self.headers.get("if-none-match")
        if version is None:
            if match is not None:
                raise BlobError("ConditionNotMet")
            return
        if match is not None and match != "*" and match != version.etag:
            raise BlobError("ConditionNotMet")
        if none is not None:
            if none == "*" and created_if_absent:
                raise BlobError("BlobAlreadyExists")
            if none == "*" and reading:
                raise bad_header("If-None-Match", none)
            if none in ("*", version.etag):
                raise BlobError("ConditionNotMet", status=304 if reading else 412)
        modified = int(version.modified)
        since = self._date("if-modified-since")
        if since is not None and none is None and modified <= since:
            raise BlobError("ConditionNotMet", status=304 if reading else 412)
        unless = self._date("if-unmodified-since")
        if unless is not None and match is None and modified > unless:
            raise BlobError("ConditionNotMet")

    def _date(self, name):
        text = self.headers.get(name)
        if text is None:
            return None
        try:
            return parsedate_to_datetime(text).timestamp()
        except (TypeError, ValueError):
            raise bad_header(name, text) from None

    def decode_base64(self, name, length, code):
        """A header of exactly `length` bytes in base64; None when absent."""
        text = self.headers.get(name)
        if text is None:
            return None
        try:
            value = base64.b64decode(text, validate=True)
        except (binascii.Error, ValueError):
            raise BlobError(code) from None
        if len(value) != length:
            raise BlobError(code)
        return value


class Response:
    """Status, headers and either a body or a stream of `length` bytes (an iterator)."""

    def __init__(self, status, headers=None, body=b"", stream=None, length=None, done=None):
        self.status, self.headers, self.body = status, headers or {}, body
        self.stream, self.length = stream, length
        self.done = done                # called once the stream is finished with
        self.code = None                # the error's code, for the log
