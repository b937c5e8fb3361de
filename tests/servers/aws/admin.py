"""The admin's port: JSON over HTTP on loopback, for tests only.

GET  /stats                 counters, operations, snapshots alive, keys issued
GET  /reads                 {snapshot: {index: how often it was read whole}}
GET  /settings, POST        see server.py; what is given replaces
POST /settings/restore      as they were in the beginning
POST /rules [...]           adds fault rules (faults.py); GET lists them
POST /rules/clear {"seed"}  begins anew
POST /instance {...}        adds an instance: id, private_ip, platform, tags, stop_protected,
                            volumes [{id, path, size_gib, type}]; the files are made
POST /instance/set {...}    id, and what shall be different: stop_protected, freeze [dirs], …
POST /volume/attach {...}   instance, and path and size_gib of a new volume or id of one
POST /volume/detach {id}
POST /volume/grow {...}     id, size_gib: it was made larger
GET  /snapshots             those alive: id, volume, state, tags, set, blocks
POST /snapshot/delete {id}  somebody deletes it
POST /snapshots/age {s}     all were made so many seconds earlier
POST /export {id, path}     a snapshot's content, as a sparse file
POST /credentials {ttl_s}   temporary keys
POST /credentials/expire    all temporary keys are refused from now on
POST /tokens/expire {kind}  block or page
POST /reset                 counters begin anew
"""
import http.server
import json
import os
import threading

from .store import BLOCK, GIB


class Admin:
    def __init__(self, aws, host, port):
        self.aws = aws
        self.defaults = json.dumps(aws.settings)
        admin = self

        class Handler(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def log_message(self, *_):
                pass

            def _serve(self):
                body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
                name = self.command.lower() + self.path.partition("?")[0].replace("/", "_")
                try:
                    answer = getattr(admin, name)(json.loads(body) if body else {})
                    status = 200
                except AttributeError:
                    status, answer = 404, {"error": f"no {name}"}
                except (KeyError, ValueError, TypeError, OSError) as error:
                    status, answer = 400, {"error": repr(error)}
                data = json.dumps(answer).encode()
                self.send_response(status)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(data)))
                self.end_headers()
                self.wfile.write(data)

            do_GET = do_POST = _serve

        self.server = http.server.ThreadingHTTPServer((host, port), Handler)
        self.port = self.server.server_address[1]
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def get_stats(self, _given):
        witness = self.aws.witness
        with witness.lock:
            return {**witness.counts, "operations": dict(witness.operations),
                    "problems": list(witness.problems), "issued": self.aws.keys.issued,
                    "snapshots": len(self.aws.store.alive()), "sets": self.aws.store.sets,
                    "blocks_read": sum(sum(r.values()) for r in witness.reads.values())}

    def get_reads(self, _given):
        with self.aws.witness.lock:
            return {s: {str(i): n for i, n in r.items()}
                    for s, r in self.aws.witness.reads.items()}

    def get_settings(self, _given):
        return self.aws.settings

    def post_settings(self, given):
        unknown = set(given) - set(self.aws.settings)
        if unknown:
            raise ValueError(f"no such settings: {', '.join(sorted(unknown))}")
        self.aws.settings.update(given)
        return self.aws.settings

    def post_settings_restore(self, _given):
        self.aws.settings.update(json.loads(self.defaults))
        return self.aws.settings

    def get_rules(self, _given):
        return self.aws.faults.list()

    def post_rules(self, given):
        return self.aws.faults.add(given if isinstance(given, list) else [given])

    def post_rules_clear(self, given):
        self.aws.faults.clear(given.get("seed"))
        return {}

    def post_instance(self, given):
        instance = self.aws.store.add_instance(given)
        return {**instance, "volumes": [self.aws.store.volumes[v] for v in instance["volumes"]]}

    def post_instance_set(self, given):
        self.aws.store.instances[given["id"]].update(given)
        return self.aws.store.instances[given["id"]]

    def post_volume_attach(self, given):
        return self.aws.store.attach(given.pop("instance"), given)

    def post_volume_detach(self, given):
        return self.aws.store.detach(given["id"])

    def post_volume_grow(self, given):
        return self.aws.store.grow_volume(given["id"], int(given["size_gib"]))

    def get_snapshots(self, _given):
        with self.aws.store.lock:
            return [{"id": s.id, "volume": s.volume_id, "state": s.state, "tags": s.tags,
                     "set": s.set_number, "blocks": len(s.blocks)}
                    for s in self.aws.store.alive()]

    def post_snapshot_delete(self, given):
        self.aws.store.snapshots[given["id"]].deleted = True
        return {}

    def post_snapshots_age(self, given):
        for snapshot in self.aws.store.alive():
            snapshot.started -= given["s"]
        return {}

    def post_export(self, given):
        snapshot = self.aws.store.snapshots[given["id"]]
        with open(given["path"], "wb") as out:
            out.truncate(snapshot.size_gib * GIB)
            for index in snapshot.blocks:
                os.pwrite(out.fileno(), self.aws.store.block(snapshot, index)[0], index * BLOCK)
        return {"blocks": sorted(snapshot.blocks)}

    def post_credentials(self, given):
        key = self.aws.keys.issue(given.get("who", "user"), given.get("ttl_s"))
        return {"id": key.id, "secret": key.secret, "token": key.token}

    def post_credentials_expire(self, _given):
        return {"expired": self.aws.keys.expire_all()}

    def post_tokens_expire(self, given):
        self.aws.ebs.expire(given["kind"])
        return {}

    def post_reset(self, _given):
        self.aws.witness.reset()
        return {}
