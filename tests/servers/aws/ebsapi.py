"""The EBS direct APIs: listings and blocks.

Tokens are bound to what they were given for: a block's to its snapshot and index, a page's to the
listing and where it goes on. Each listing gives other tokens for the same blocks.
"""
import base64
import hashlib
import hmac
import json
import os
import re
import secrets
import struct
import time

from .errors import Refusal

BLOCK = 524288


class Ebs:
    def __init__(self, store, settings, faults, witness):
        self.store, self.settings = store, settings
        self.faults, self.witness = faults, witness
        self.secrets = {"block": os.urandom(16), "page": os.urandom(16)}

    # Tokens

    def expire(self, kind):
        self.secrets[kind] = os.urandom(16)

    def _seal(self, kind, text, ttl):
        head = secrets.token_bytes(9) + struct.pack("<Q", int(time.time() + ttl))
        mac = hmac.new(self.secrets[kind], head + text.encode(), hashlib.sha256).digest()
        # Two bytes so that the base64 has '/', '+' and '=' in it.
        return base64.b64encode(b"\xff\xfb\xef\xbe" + head + mac).decode()

    def _holds(self, kind, text, token):
        try:
            raw = base64.b64decode(token or "", validate=True)[4:]
        except ValueError:
            return False
        mac = hmac.new(self.secrets[kind], raw[:17] + text.encode(), hashlib.sha256).digest()
        return len(raw) == 49 and hmac.compare_digest(mac, raw[17:]) and \
            struct.unpack("<Q", raw[9:17])[0] > time.time()

    # Requests

    def classify(self, request):
        """(operation, snapshot, index)."""
        match = re.fullmatch(r"/snapshots/([^/]+)/(blocks|changedblocks)(?:/(\d+))?",
                             request.path)
        if request.method != "GET" or not match or (match[2] == "changedblocks" and match[3]):
            raise Refusal(404, "UnknownOperationException")
        if match[3] is not None:
            return "GetSnapshotBlock", match[1], int(match[3])
        return ("ListSnapshotBlocks" if match[2] == "blocks" else "ListChangedBlocks",
                match[1], None)

    def serve(self, request, operation, snapshot_id, index, fault):
        limit = "blocks_per_s" if operation == "GetSnapshotBlock" else "lists_per_s"
        if not self.faults.admit(limit, self.settings[limit]) or (
                index is not None and not self.faults.admit(
                    snapshot_id, self.settings["snapshot_blocks_per_s"])):
            self.witness.count("throttled")
            if self.witness.counts["throttled"] % 2:
                raise Refusal(400, "RequestThrottledException", reason="ACCOUNT_THROTTLED")
            raise Refusal(400, "ThrottlingException", "Rate exceeded")
        allowed = {"GetSnapshotBlock": {"blockToken"},
                   "ListSnapshotBlocks": {"pageToken", "maxResults", "startingBlockIndex"},
                   "ListChangedBlocks": {"firstSnapshotId", "pageToken", "maxResults",
                                         "startingBlockIndex"}}[operation]
        for name, values in request.query.items():
            if name not in allowed or len(values) != 1:
                raise Refusal(400, "ValidationException", f"{name}?",
                              reason="INVALID_PARAMETER_VALUE")
        snapshot = self._readable(snapshot_id)
        if operation == "GetSnapshotBlock":
            return self._block(request, snapshot, index, fault)
        return self._list(request, operation, snapshot, fault)

    def _readable(self, snapshot_id):
        snapshot = self.store.snapshot(snapshot_id)
        if snapshot is None:
            raise Refusal(404, "ResourceNotFoundException",
                          f"The snapshot '{snapshot_id}' does not exist.",
                          reason="SNAPSHOT_NOT_FOUND")
        if snapshot.state != "completed":
            self.witness.count("reads_of_unfinished")
            raise Refusal(400, "ValidationException", "The snapshot is not completed.",
                          reason="INVALID_SNAPSHOT_ID")
        return snapshot

    def _block(self, request, snapshot, index, fault):
        token = request.query.get("blockToken", [""])[0]
        if not self._holds("block", f"{snapshot.id}/{index}", token):
            self.witness.count("bad_block_tokens")
            raise Refusal(400, "ValidationException", "Invalid block token",
                          reason="INVALID_BLOCK_TOKEN")
        data, digest = self.store.block(snapshot, index)
        kind = fault.get("kind")
        if kind not in ("corrupt", "truncate", "short", "wrong_checksum", "no_checksum"):
            self.witness.read(snapshot.id, index)
        headers = {"Content-Type": "application/octet-stream", "x-amz-Data-Length": str(BLOCK),
                   "x-amz-Checksum": base64.b64encode(digest).decode(),
                   "x-amz-Checksum-Algorithm": "SHA256"}
        if kind == "wrong_checksum":
            headers["x-amz-Checksum"] = base64.b64encode(os.urandom(32)).decode()
        if kind == "no_checksum":
            del headers["x-amz-Checksum"]
        return 200, headers, data

    def _list(self, request, operation, snapshot, fault):
        query = {name: values[0] for name, values in request.query.items()}
        changed = operation == "ListChangedBlocks"
        base = None
        if changed and "firstSnapshotId" in query:
            base = self._readable(query["firstSnapshotId"])
            if base.volume_id != snapshot.volume_id:
                raise Refusal(400, "ValidationException",
                              "The provided snapshots are unrelated.",
                              reason="UNRELATED_SNAPSHOTS")
        size = self._number(query, "maxResults", 100, 10000, 10000)
        start = self._number(query, "startingBlockIndex", 0,
                             snapshot.size_gib * (1 << 30) // BLOCK, 0)
        what = f"{operation}/{snapshot.id}/{base.id if base else ''}"
        if "pageToken" in query:
            text, _, sealed = query["pageToken"].partition(".")
            if not text.isdigit() or not self._holds("page", f"{what}/{text}", sealed):
                self.witness.count("bad_page_tokens")
                raise Refusal(400, "ValidationException", "Invalid page token",
                              reason="INVALID_PAGE_TOKEN")
            start = int(text)
        if fault.get("kind") == "empty_page":
            size = 0
        elif self.settings["page_blocks"] or fault.get("kind") == "short_page":
            size = min(size, self.settings["page_blocks"] or size,
                       fault.get("items", size))
        items, following = self._items(snapshot, base, changed, start, size)
        answer = {"ChangedBlocks" if changed else "Blocks": items, "BlockSize": BLOCK,
                  "VolumeSize": snapshot.size_gib,
                  "ExpiryTime": time.time() + self.settings["block_token_ttl_s"]}
        if following is not None:
            sealed = self._seal("page", f"{what}/{following}",
                                self.settings["page_token_ttl_s"])
            answer["NextToken"] = f"{following}.{sealed}"
        return 200, {"Content-Type": "application/json"}, json.dumps(answer).encode()

    @staticmethod
    def _number(query, name, least, most, fallback):
        text = query.get(name)
        if text is None:
            return fallback
        if not text.isdigit() or not least <= int(text) <= most:
            raise Refusal(400, "ValidationException", f"{name} is not {least} to {most}",
                          reason="INVALID_PARAMETER_VALUE")
        return int(text)

    def _items(self, snapshot, base, changed, start, size):
        old = base.blocks if base else {}
        indexes = sorted(i for i in set(snapshot.blocks) | set(old)
                         if i >= start and snapshot.blocks.get(i) != old.get(i))
        items, ttl = [], self.settings["block_token_ttl_s"]
        for index in indexes[:size]:
            item = {"BlockIndex": index}
            if index in snapshot.blocks:
                item["SecondBlockToken" if changed else "BlockToken"] = self._seal(
                    "block", f"{snapshot.id}/{index}", ttl)
            if changed and index in old:
                item["FirstBlockToken"] = self._seal("block", f"{base.id}/{index}", ttl)
            items.append(item)
        return items, indexes[size] if size < len(indexes) else None


def refuse(refusal):
    """A refusal as EBS direct words it."""
    body = {"Message": refusal.message}
    if refusal.reason:
        body["Reason"] = refusal.reason
    return refusal.status, {"Content-Type": "application/json", "x-amzn-ErrorType":
                            f"{refusal.code}:http://internal.amazon.com/coral/",
                            **refusal.headers}, json.dumps(body).encode()
