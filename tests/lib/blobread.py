#!/usr/bin/env python3
"""Reads a vault from outside, for tests that compare bytes.

    blobread.py list --connection-string S --container C [--prefix P] [--json]
    blobread.py get  --connection-string S --container C --blob B [--snapshot T] --out FILE
    blobread.py cat  --connection-string S --container C --blob B [--snapshot T]
    blobread.py sha256 --connection-string S --container C --blob B [--snapshot T]
    blobread.py get-point --connection-string S --container C --group G --point N
                          --disk MACHINE/DISK --out FILE

A client of its own: the signing here is shared neither with the program under test nor with
the tests' server, so that no mistake can agree with itself. Works against Azure, Azurite and the
strict server. A page blob is fetched by its page ranges into a sparse file of the blob's full
length; a block blob is fetched whole. get-point reads the recovery point's manifest to find
the disk's snapshot. Exits 0 when done, 3 when the blob is not there, 1 when
anything else went wrong. --connection-string defaults to AZURE_STORAGE_CONNECTION_STRING.
"""
import argparse
import base64
import hashlib
import hmac
import http.client
import json
import os
import ssl
import sys
import time
import urllib.parse
import xml.etree.ElementTree as ET
from email.utils import formatdate

VERSION = "2021-12-02"
WINDOW = 148 << 20      # page ranges are asked for in windows: fragmented blobs have many
PIECE = 4 << 20


class Refused(Exception):
    def __init__(self, status, code):
        super().__init__(f"{status} {code}")
        self.status, self.code = status, code


class Vault:
    """One storage account, by connection string."""

    def __init__(self, connection_string):
        parts = dict(p.split("=", 1) for p in connection_string.strip(";").split(";") if p)
        self.account = parts["AccountName"]
        self.key = base64.b64decode(parts["AccountKey"])
        endpoint = parts.get("BlobEndpoint") or "{}://{}.blob.{}".format(
            parts.get("DefaultEndpointsProtocol", "https"), self.account,
            parts.get("EndpointSuffix", "core.windows.net"))
        url = urllib.parse.urlsplit(endpoint)
        self.base, self.netloc, self.scheme = url.path.rstrip("/"), url.netloc, url.scheme
        self.connection = None

    def _connect(self):
        if self.scheme == "https":
            context = ssl.create_default_context()
            if os.environ.get("BLOBREAD_CA"):
                context.load_verify_locations(os.environ["BLOBREAD_CA"])
            return http.client.HTTPSConnection(self.netloc, timeout=60, context=context)
        return http.client.HTTPConnection(self.netloc, timeout=60)

    def _authorization(self, method, path, query, extra, length=""):
        signed = {k.lower(): v for k, v in extra.items()}
        # verb; encoding, language, length, MD5, type, date; modified, match, none-match,
        # unmodified; range
        lines = [method, "", "", str(length or ""), "", "", "", "", signed.get("if-match", ""), "", "",
                 signed.get("range", "")]
        ms = sorted(k for k in signed if k.startswith("x-ms-"))
        lines += [f"{k}:{signed[k]}" for k in ms]
        lines.append(f"/{self.account}{path}")
        lines += [f"{k}:{query[k]}" for k in sorted(query)]
        mac = hmac.digest(self.key, "\n".join(lines).encode("utf-8"), "sha256")
        return f"SharedKey {self.account}:{base64.b64encode(mac).decode()}"

    def request(self, method, resource, query=None, headers=None, data=None):
        """One request, tried again when the service is busy; returns (headers, body)."""
        query = {k: v for k, v in (query or {}).items() if v is not None}
        path = self.base + urllib.parse.quote(resource, safe="/")
        url = path
        if query:
            url += "?" + urllib.parse.urlencode(query, quote_via=urllib.parse.quote)
        for attempt in range(8):
            extra = {"x-ms-version": VERSION, "x-ms-date": formatdate(usegmt=True),
                     **(headers or {})}
            extra["Authorization"] = self._authorization(method, path, query, extra,
                                                         len(data or b""))
            try:
                if self.connection is None:
                    self.connection = self._connect()
                self.connection.request(method, url, body=data, headers=extra)
                answer = self.connection.getresponse()
                body = answer.read()
            except (OSError, http.client.HTTPException):
                self.connection = None
                if attempt == 7:
                    raise
                time.sleep(min(1, 0.02 * 2 ** attempt))
                continue
            if answer.status in (500, 503) and attempt < 7:
                time.sleep(min(1, 0.02 * 2 ** attempt))
                continue
            if answer.status >= 300:
                raise Refused(answer.status, answer.getheader("x-ms-error-code"))
            return answer.headers, body
        raise AssertionError("unreachable")

    def list(self, container, prefix=""):
        """Yields dicts name, snapshot, type, size, etag, metadata, in the service's order."""
        marker = None
        while marker != "":
            _, body = self.request("GET", f"/{container}", {
                "restype": "container", "comp": "list", "include": "snapshots,metadata",
                "prefix": prefix or None, "marker": marker})
            root = ET.fromstring(body)
            for blob in root.iter("Blob"):
                props = blob.find("Properties")
                meta = blob.find("Metadata")
                yield {"name": blob.findtext("Name"), "snapshot": blob.findtext("Snapshot"),
                       "type": props.findtext("BlobType"), "etag": props.findtext("Etag"),
                       "size": int(props.findtext("Content-Length")),
                       "metadata": {m.tag: m.text or "" for m in meta}
                       if meta is not None else {}}
            marker = root.findtext("NextMarker") or ""

    def pieces(self, container, blob, snapshot=None):
        """(length, iterator of (offset, bytes)): the written parts, in order."""
        resource = f"/{container}/{blob}"
        about, _ = self.request("HEAD", resource, {"snapshot": snapshot})
        size = int(about["Content-Length"])
        if about["x-ms-blob-type"] == "PageBlob":
            return size, self._page_pieces(resource, snapshot, size, about["ETag"])
        return size, iter([(0, self.request("GET", resource, {"snapshot": snapshot})[1])])

    def content(self, container, blob):
        """A small object's bytes."""
        return self.request("GET", f"/{container}/{blob}")[1]

    def manifest(self, container, group, point):
        """The manifest of a recovery point: what its creator committed."""
        name = f"groups/{group}/points/{point}.json"
        _, body = self.request("GET", f"/{container}/{name}")
        manifest = json.loads(body)
        if manifest.get("abandoned") or manifest["number"] != point:
            raise Refused(404, f"{name} is no recovery point")
        return manifest

    def point_pieces(self, container, group, point, disk):
        """As pieces(): a disk ("<machine>/<disk>") as a recovery point holds it."""
        for entry in self.manifest(container, group, point)["disks"]:
            if entry["name"] == disk:
                return self.pieces(container, entry["blob"], entry["snapshot"])
        raise Refused(404, f"point {point} of {group} has no disk {disk}")

    def _page_pieces(self, resource, snapshot, size, etag):
        for low in range(0, size, WINDOW):
            high = min(low + WINDOW, size)
            marker = None
            while marker != "":
                _, body = self.request(
                    "GET", resource,
                    {"comp": "pagelist", "snapshot": snapshot, "marker": marker},
                    {"x-ms-range": f"bytes={low}-{high - 1}", "If-Match": etag})
                root = ET.fromstring(body)
                for part in root.iter("PageRange"):
                    start = max(low, int(part.findtext("Start")))
                    end = min(high, int(part.findtext("End")) + 1)
                    yield from self._read(resource, snapshot, start, end, etag)
                marker = root.findtext("NextMarker") or ""

    def _read(self, resource, snapshot, start, end, etag):
        for at in range(start, end, PIECE):
            stop = min(at + PIECE, end)
            _, data = self.request("GET", resource, {"snapshot": snapshot}, {
                "x-ms-range": f"bytes={at}-{stop - 1}", "If-Match": etag})
            if len(data) != stop - at:
                raise Refused(206, f"short answer: {len(data)} of {stop - at} bytes")
            yield at, data


def command_list(vault, args):
    rows = list(vault.list(args.container, args.prefix))
    if args.json:
        print(json.dumps(rows, indent=1))
        return
    for row in rows:
        meta = ",".join(f"{k}={v}" for k, v in sorted(row["metadata"].items()))
        print(row["name"], row["snapshot"] or "-", row["type"], row["size"], meta, sep="\t")


def command_get(vault, args):
    write_file(args.out, *vault.pieces(args.container, args.blob, args.snapshot))


def command_get_point(vault, args):
    write_file(args.out, *vault.point_pieces(args.container, args.group, args.point, args.disk))


def write_file(path, size, pieces):
    with open(path, "wb") as out:
        for at, data in pieces:
            os.pwrite(out.fileno(), data, at)
        out.truncate(size)


def command_cat(vault, args):
    size, pieces = vault.pieces(args.container, args.blob, args.snapshot)
    for data in filled(size, pieces):
        sys.stdout.buffer.write(data)
    sys.stdout.buffer.flush()


def command_sha256(vault, args):
    digest = hashlib.sha256()
    size, pieces = vault.pieces(args.container, args.blob, args.snapshot)
    for data in filled(size, pieces):
        digest.update(data)
    print(digest.hexdigest())


def filled(size, pieces):
    """The pieces with zeros between them."""
    at, zeros = 0, bytes(PIECE)
    for start, data in pieces:
        while at < start:
            step = min(PIECE, start - at)
            yield zeros[:step]
            at += step
        yield data
        at = start + len(data)
    while at < size:
        step = min(PIECE, size - at)
        yield zeros[:step]
        at += step


def main():
    parser = argparse.ArgumentParser(description="Reads a vault's blobs and snapshots.")
    commands = parser.add_subparsers(dest="command", required=True)
    for name in ("list", "get", "cat", "sha256", "get-point"):
        command = commands.add_parser(name)
        command.add_argument("--connection-string",
                             default=os.environ.get("AZURE_STORAGE_CONNECTION_STRING"))
        command.add_argument("--container", required=True)
        if name == "list":
            command.add_argument("--prefix", default="")
            command.add_argument("--json", action="store_true")
            continue
        if name == "get-point":
            command.add_argument("--group", required=True)
            command.add_argument("--point", required=True, type=int)
            command.add_argument("--disk", required=True, metavar="MACHINE/DISK")
        else:
            command.add_argument("--blob", required=True)
            command.add_argument("--snapshot")
        if name in ("get", "get-point"):
            command.add_argument("--out", required=True)
    args = parser.parse_args()
    if not args.connection_string:
        parser.error("no --connection-string and no AZURE_STORAGE_CONNECTION_STRING")
    try:
        globals()[f"command_{args.command.replace('-', '_')}"](Vault(args.connection_string), args)
    except Refused as error:
        print(f"blobread: {args.container}: {error}", file=sys.stderr)
        return 3 if error.status == 404 else 1
    except (OSError, http.client.HTTPException, ValueError, KeyError) as error:
        print(f"blobread: {type(error).__name__}: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
