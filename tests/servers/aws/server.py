#!/usr/bin/env python3
"""A strict AWS that fails on demand, for tests: EC2, EBS direct, STS and IMDSv2 on one port.

    python3 tests/servers/aws/server.py [--port 0] [--admin-port 0] [--data DIR]
            [--ready-file FILE] [--seed N] [--die-with-parent]

When it is ready it prints one line of JSON (on stdout, and to the file):

    {"port", "admin_port", "endpoint", "admin", "region", "access_key_id", "secret_access_key"}

It refuses what AWS would refuse: signatures that its own code does not find right (for the wrong
region or service, unsorted, with an x-amz- header left out, too old), parameters it does not know,
block tokens of another block or another time, reads of snapshots that are pending, gone or
unrelated, page sizes together with ids, metadata without a token. Volumes are files that the test
writes to; a snapshot keeps their content of the moment.

It holds snapshots in a file in a directory of its own under --data and forgets it all at the end.
Faults, counters and settings are had from the admin's port: admin.py tells its requests, faults.py
the faults. Settings: SETTINGS below.
"""
import json
import os
import sys
import threading

if __name__ == "__main__":
    sys.path[0] = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))

from aws.admin import Admin
from aws.faults import Faults
from aws.front import Aws, Front, Witness
from aws.keys import Keys
from aws.store import Store
from common import process

SETTINGS = {
    "region": "eu-test-1",
    "blocks_per_s": 0,            # GetSnapshotBlock of the account; 0: no limit
    "snapshot_blocks_per_s": 0,   # and of one snapshot
    "lists_per_s": 0,
    "calls_per_s": 0,             # EC2's
    "page_blocks": 0,             # at most so many on a page of blocks; 0: as asked
    "page_items": 0,              # the same for EC2's lists
    "block_token_ttl_s": 7 * 86400,
    "page_token_ttl_s": 3600,
    "credential_ttl_s": 3600,
    "complete_s": 0.3,            # how long a set is pending
    "visible_s": 0,               # until DescribeSnapshots shows what was made
    "snapshot_interval_s": 0,     # between two snapshots of a volume
    "concurrent_per_volume": 5,
    "pending_snapshots": 100,
    "stop_s": 0.3,                # how long stopping and starting take
    "delay_ms": 0,                # before every answer
    "clock_skew_s": 0,            # how far the services' clock is ahead
    "deny": [],                   # operations that nobody may do
    "roles": {},                  # {arn: {"external_id", "by": who may assume it}}
    "web_identity_token": "head.body.signature",
    "imds_mode": "on",            # on, off (403), hop (the answer to the PUT is lost)
    "imds_hang_s": 5,
    "imds_role": "landfall-role",
}


def start(args, data):
    settings = json.loads(json.dumps(SETTINGS))
    keys = Keys(settings)
    aws = Aws(settings, keys, Store(data, settings), Faults(args.seed), Witness())
    front = Front(aws, args.host, args.port)
    threading.Thread(target=front.serve_forever, daemon=True).start()
    admin = Admin(aws, args.host, args.admin_port)
    port = front.server_address[1]
    return {
        "port": port, "admin_port": admin.port, "region": settings["region"],
        "endpoint": f"http://{args.host}:{port}",
        "admin": f"http://{args.host}:{admin.port}",
        "access_key_id": keys.static.id, "secret_access_key": keys.static.secret}


if __name__ == "__main__":
    process.run(process.parser("A strict AWS for tests.").parse_args(), "landfall-aws-", start)
