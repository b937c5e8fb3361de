#!/usr/bin/env python3
"""A strict page-blob service that fails on demand, for tests.

    python3 tests/servers/pageblob/server.py [--port 0] [--admin-port 0] [--data DIR]
            [--ready-file FILE | --ready-fd N] [--tls CERT KEY] [--account NAME] [--key KEY]
            [--seed N] [--die-with-parent]

When it is ready it prints one line of JSON (on stdout, and to the file or descriptor):

    {"port", "admin_port", "account", "key", "endpoint", "connection_string", "admin",
     "imds_endpoint", "login_endpoint", "tenant", "client_id", "client_secret"}

It speaks the Blob service's REST protocol as of x-ms-version 2021-12-02, path-style
(http://127.0.0.1:PORT/ACCOUNT/container/blob) and host-style (any host whose first label is
the account), and refuses what the real service would refuse. What it knows: containers and
listings, page blobs (8 TiB, Put Page, clear, from URL, page ranges and true diffs), block
blobs, snapshots, leases, sequence numbers, conditional headers, metadata, asynchronous copies;
SharedKey, SAS and Bearer, the latter from its own login and metadata endpoints.

It holds everything in memory and in sparse files in a directory of its own under --data (or
where temporary files go), and forgets it at the end: SIGTERM or SIGINT, or with --die-with-parent its parent's
death. Faults, outages, counters, log, export and invariants are had from the admin's port:
see admin.py for its requests, faults.py for the faults, model.py for the settings. E.g.

    curl -s $ADMIN/rules -d '[{"match": {"operation": "PutPage", "blob": "machines/*"},
                               "fault": {"kind": "late", "delay_s": 2}, "skip": 3}]'
    curl -s $ADMIN/settings -d '{"throttle_requests_per_s": 500}'
    curl -s $ADMIN/stats | jq .unfenced

Files: http_front (sockets, bodies, faults at work), request (reading headers), service (URL
to operation), auth, tokens, ops_* (the operations), model (what is stored), extents (where
bytes are), lease, xmlbody, crc64, errors (codes), faults, witness, admin.
"""
import base64
import os
import secrets
import ssl
import sys

if __name__ == "__main__":
    sys.path[0] = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))

from common import process
from pageblob.admin import Admin
from pageblob.faults import Faults
from pageblob.http_front import Front
from pageblob.model import Account, Settings
from pageblob.service import Service
from pageblob.tokens import Tokens
from pageblob.witness import Witness

class Server:
    """All parts, put together. Tests written in Python may use it in-process."""

    def __init__(self, data_dir, host="127.0.0.1", port=0, admin_port=0, tls=None,
                 account="landfalltest", key=None, seed=1):
        self.settings = Settings()
        self.account = Account(account, key or base64.b64encode(secrets.token_bytes(64)).decode(),
                               data_dir, self.settings)
        self.tokens = Tokens(self.account)
        self.service = Service(self.account, self.tokens)
        self.faults = Faults(self.settings, seed)
        self.witness = Witness(self.account)
        context = None
        if tls:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.load_cert_chain(*tls)
            self.service.secure = True
        self.front = Front(self.service, self.faults, self.witness, host, port, context)
        self.admin = Admin(self.account, self.front, self.faults, self.witness, self.tokens,
                           host, admin_port)
        self.host = host

    def description(self):
        scheme = "https" if self.service.secure else "http"
        root = f"{scheme}://{self.host}:{self.front.port}"
        endpoint = f"{root}/{self.account.name}"
        return {
            "port": self.front.port, "admin_port": self.admin.port,
            "account": self.account.name, "key": self.account.key, "endpoint": endpoint,
            "connection_string": f"DefaultEndpointsProtocol={scheme};"
                                 f"AccountName={self.account.name};"
                                 f"AccountKey={self.account.key};BlobEndpoint={endpoint};",
            "admin": f"http://{self.host}:{self.admin.port}",
            "imds_endpoint": root, "login_endpoint": root,
            "tenant": self.settings.tenant, "client_id": self.settings.client_id,
            "client_secret": self.settings.client_secret}


def start(args, data):
    server = Server(data, args.host, args.port, args.admin_port, args.tls, args.account,
                    args.key, args.seed)
    return server.description()


def main():
    parser = process.parser("A strict page-blob service for tests.")
    parser.add_argument("--tls", nargs=2, metavar=("CERT", "KEY"))
    parser.add_argument("--account", default="landfalltest")
    parser.add_argument("--key", help="base64 (default: random)")
    process.run(parser.parse_args(), "landfall-pageblob-", start)


if __name__ == "__main__":
    main()
