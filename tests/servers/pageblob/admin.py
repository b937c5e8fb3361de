"""The admin's port: JSON over HTTP on loopback, for tests only.

GET  /stats                      counters (see witness.py)
GET  /log?since=N                the ordered log after entry N
GET  /settings                   the settings; POST changes some of them (see model.py)
GET  /rules                      the fault rules with their counts; POST [rule, ...] adds some
POST /rules/clear {"seed": n}    forgets all rules
GET  /late                       writes under way; POST {"action": "land" | "drop", "id": n}
POST /down {"mode": m}           refuse | reset | hang | "500" | "503" | null (up again)
POST /lease                      {"container", "blob", "action": "break"|"steal"|"expire"}
POST /tokens/expire              every token expires now
POST /reset                      counters and log begin anew
GET  /blobs                      what is stored, with snapshots, leases, sequence numbers
POST /export                     {"container", "blob", "snapshot", "path"}: raw, sparse
GET  /sha256?container&blob&snapshot
GET  /verify                     checks the store's invariants: {"ok", "problems", ...}
"""
import hashlib
import json
import os
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, urlsplit

from .errors import BlobError
from .extents import read_span
from .http_front import break_lease
from .model import MIB

_ZEROS = bytes(MIB)


class Admin:
    def __init__(self, account, front, faults, witness, tokens, host, port):
        self.account, self.front, self.faults = account, front, faults
        self.witness, self.tokens = witness, tokens
        self.seen_hashes = {}
        admin = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self):
                admin.answer(self, "GET")

            def do_POST(self):
                admin.answer(self, "POST")

            def log_message(self, *_args):
                pass

        self.server = ThreadingHTTPServer((host, port), Handler)
        self.server.daemon_threads = True
        self.port = self.server.server_address[1]
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def answer(self, handler, method):
        parts = urlsplit(handler.path)
        query = {k: v[0] for k, v in parse_qs(parts.query).items()}
        body = handler.rfile.read(int(handler.headers.get("Content-Length") or 0))
        try:
            given = json.loads(body) if body else {}
            status, value = 200, self.run(method, parts.path, query, given)
        except BlobError as error:
            status, value = 404, {"error": str(error)}
        except (KeyError, TypeError, ValueError, OSError) as error:
            status, value = 400, {"error": f"{type(error).__name__}: {error}"}
        data = json.dumps(value).encode()
        handler.send_response(status)
        handler.send_header("Content-Type", "application/json")
        handler.send_header("Content-Length", str(len(data)))
        handler.end_headers()
        handler.wfile.write(data)

    def run(self, method, path, query, given):
        name = (method + path.rstrip("/").replace("/", "_")).lower()
        action = getattr(self, name, None)
        if action is None:
            raise ValueError(f"no such request: {method} {path}")
        return action(query, given)

    # Requests, named method_path

    def get_stats(self, _query, _given):
        return {**self.witness.stats(), "crashes": self.witness.counts["crashes"]}

    def get_log(self, query, _given):
        return self.witness.rows(int(query.get("since", 0)))

    def get_settings(self, _query, _given):
        return self.account.settings.as_dict()

    def post_settings(self, _query, given):
        self.account.settings.update(given)
        return self.account.settings.as_dict()

    def get_rules(self, _query, _given):
        return self.faults.list()

    def post_rules(self, _query, given):
        return self.faults.add(given if isinstance(given, list) else [given])

    def post_rules_clear(self, _query, given):
        self.faults.clear(given.get("seed"))
        return []

    def get_late(self, _query, _given):
        return self.front.late.list()

    def post_late(self, _query, given):
        if given["action"] == "drop":
            return {"dropped": self.front.late.drop()}
        if given["action"] != "land":
            raise ValueError("action is land or drop")
        return self.front.late.land(given.get("id"))

    def post_down(self, _query, given):
        mode = given["mode"]
        if mode not in (None, "refuse", "reset", "hang", "500", "503"):
            raise ValueError(f"no such outage: {mode}")
        self.front.set_down(mode)
        return {"mode": mode}

    def post_lease(self, _query, given):
        with self.account.lock:
            entry, _ = self.account.version(given["container"], given["blob"])
            if given["action"] == "expire":
                entry.lease.expire_now()
            elif given["action"] in ("break", "steal"):
                break_lease(entry.lease, given["action"] == "steal")
            else:
                raise ValueError("action is break, steal or expire")
            return {"state": entry.lease.state, "id": entry.lease.id}

    def post_tokens_expire(self, _query, _given):
        return {"expired": self.tokens.expire_all()}

    def post_reset(self, _query, _given):
        self.witness.reset()
        return {}

    def get_blobs(self, _query, _given):
        def show(version):
            pages = version.pages
            return {"kind": version.kind, "size": version.size, "snapshot": version.snapshot,
                    "etag": version.etag, "metadata": version.metadata,
                    "sequence": version.sequence,
                    "extents": len(pages.extents) if pages else None,
                    "written_bytes": sum(e - s for s, e, _, _ in
                                         pages.extents.span(0, version.size)) if pages
                    else version.size}
        out = []
        with self.account.lock:
            for cname, container in sorted(self.account.containers.items()):
                for name, entry in sorted(container.entries.items()):
                    out.append({"container": cname, "blob": name,
                                "base": show(entry.base) if entry.base else None,
                                "snapshots": [show(v) for v in entry.snapshots],
                                "lease": {"state": entry.lease.state, "id": entry.lease.id},
                                "copying": entry.copying is not None})
        return out

    def post_export(self, _query, given):
        size = 0
        with open(given["path"], "wb") as out:
            for at, data in self._pieces(given):
                size = at + len(data)
                if data == _ZEROS or not any(data):
                    continue
                os.pwrite(out.fileno(), data, at)
            out.truncate(size)
        return {"size": size, "path": given["path"]}

    def get_sha256(self, query, _given):
        digest, size = hashlib.sha256(), 0
        for at, data in self._pieces(query):
            digest.update(data)
            size = at + len(data)
        return {"sha256": digest.hexdigest(), "size": size}

    def _pieces(self, what):
        """The content of a blob or snapshot in pieces of at most 1 MiB, as (offset, bytes)."""
        with self.account.lock:
            _, version = self.account.version(what["container"], what["blob"],
                                              what.get("snapshot"))
            size, file = version.size, None
            if version.pages:
                extents, file = version.pages.extents.copy(), version.pages.file
                file.pin()
        if file is None:
            yield 0, version.body
            return
        try:
            for at in range(0, size, MIB):
                end = min(at + MIB, size)
                empty = next(extents.span(at, end), None) is None
                yield at, _ZEROS[:end - at] if empty else read_span(extents, file, at, end)
        finally:
            file.unpin()

    def get_verify(self, _query, _given):
        """Maps are sound, bytes are there, nothing is shared at two places, and a snapshot is
        what it was at the last call."""
        problems, snapshots = [], 0
        with self.account.lock:
            todo = [(c, name, entry, v) for c, container in self.account.containers.items()
                    for name, entry in container.entries.items()
                    for v in entry.snapshots + ([entry.base] if entry.base else []) if v.pages]
            for cname, name, _entry, version in todo:
                where = f"{cname}/{name}@{version.snapshot}"
                problem = version.pages.extents.check(version.size)
                if problem:
                    problems.append(f"{where}: {problem}")
                spans = sorted((p, p + e - s) for s, e, p, _ in
                               version.pages.extents.span(0, version.size))
                for (_, end), (start, _) in zip(spans, spans[1:]):
                    if start < end:
                        problems.append(f"{where}: bytes at {start} are mapped twice")
                if spans and spans[-1][1] > version.pages.file.tail:
                    problems.append(f"{where}: mapped behind the end of its file")
        for cname, name, _entry, version in todo:
            if version.snapshot is None:
                continue
            snapshots += 1
            key, digest = (cname, name, version.snapshot), hashlib.sha256()
            file = version.pages.file
            file.pin()
            try:
                if file.fd < 0:
                    continue
                for s, e, phys, _ in version.pages.extents.span(0, version.size):
                    for at in range(s, e, MIB):
                        part = file.read(phys + at - s, min(MIB, e - at))
                        digest.update(b"%d:" % at + part)
            finally:
                file.unpin()
            if self.seen_hashes.setdefault(key, digest.hexdigest()) != digest.hexdigest():
                problems.append(f"{cname}/{name}@{version.snapshot}: the snapshot has changed")
        return {"ok": not problems, "problems": problems, "versions": len(todo),
                "snapshots": snapshots}
