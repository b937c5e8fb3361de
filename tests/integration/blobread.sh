#!/usr/bin/env bash
# tests/lib/blobread.py reads exactly what is stored, from Azurite and from the strict server,
# and the harness around both starts, restarts and ends them.
. "$(dirname "$0")/../lib/common.sh"
. "$lf_tests/lib/azurite.sh"
. "$lf_tests/lib/pageblob.sh"
lf_need python3 curl

# fill ENDPOINT ACCOUNT KEY: a page blob of 8 MiB with snapshots, made by requests signed by hand;
# prints the snapshot's id and leaves what the snapshot and the base must hold in $lf_tmp
fill() {
	PYTHONDONTWRITEBYTECODE=1 python3 - "$lf_tests/servers" "$lf_tmp" "$@" <<'EOF'
import random
import sys
import urllib.parse

sys.path.insert(0, sys.argv[1])
from testing import MIB, Signer

tmp, endpoint, account, key = sys.argv[2:6]
port = urllib.parse.urlsplit(endpoint).port
signer, rng, size = Signer({"account": account, "key": key, "port": port}), random.Random(5), 8 * MIB


def send(method, resource, extra=None, body=None):
    status, headers, data = signer.send(method, resource, extra, body)
    assert 200 <= status < 300, (method, resource, status, data)
    return headers


def write(content, start, data):
    send("PUT", "vault/machines/m%20%C3%A9/d.vhd?comp=page", {
        "x-ms-page-write": "update", "Content-Type": "application/octet-stream",
        "x-ms-range": f"bytes={start}-{start + len(data) - 1}"}, data)
    content[start:start + len(data)] = data




send("PUT", "vault?restype=container")
send("PUT", "vault/machines/m%20%C3%A9/d.vhd", {
    "x-ms-blob-type": "PageBlob", "x-ms-blob-content-length": str(size)})
content = bytearray(size)
write(content, MIB, rng.randbytes(2 * MIB))
for i in range(40):
    write(content, 4 * MIB + i * 4096, rng.randbytes(512))
snapshot = send("PUT", "vault/machines/m%20%C3%A9/d.vhd?comp=snapshot",
                {"x-ms-meta-k": "7"})["x-ms-snapshot"]
with open(tmp + "/want-snapshot", "wb") as out:
    out.write(content)
write(content, 0, rng.randbytes(4096))
write(content, MIB + 512, rng.randbytes(MIB))
with open(tmp + "/want-base", "wb") as out:
    out.write(content)
send("PUT", "vault/vault.json", {"x-ms-blob-type": "BlockBlob",
                                 "Content-Type": "application/json"}, b'{"version": 1}')
print(snapshot)
EOF
}

read_back() {
	local blob='machines/m é/d.vhd' reader="$lf_tests/lib/blobread.py" rc=0
	"$reader" get --container vault --blob "$blob" --snapshot "$1" --out "$lf_tmp/got"
	lf_same "$lf_tmp/want-snapshot" "$lf_tmp/got"
	[ "$(stat -c %b "$lf_tmp/got")" -lt 14000 ] || lf_fail "the copy is not sparse"
	"$reader" get --container vault --blob "$blob" --out "$lf_tmp/got"
	lf_same "$lf_tmp/want-base" "$lf_tmp/got"
	"$reader" cat --container vault --blob "$blob" | cmp - "$lf_tmp/want-base"
	[ "$("$reader" sha256 --container vault --blob "$blob")" = \
		"$(sha256sum <"$lf_tmp/want-base" | cut -d' ' -f1)" ] || lf_fail "sha256 differs"
	[ "$("$reader" cat --container vault --blob vault.json)" = '{"version": 1}' ] ||
		lf_fail "the block blob differs"
	"$reader" list --container vault >"$lf_tmp/list"
	printf '%s\t%s\tPageBlob\t8388608\tk=7\n%s\t-\tPageBlob\t8388608\t\n%s\n' \
		"$blob" "$1" "$blob" 'vault.json	-	BlockBlob	14	' |
		diff - "$lf_tmp/list" || lf_fail "the list differs"
	"$reader" list --container vault --prefix vault --json >"$lf_tmp/list"
	grep -q '"vault.json"' "$lf_tmp/list" || lf_fail "the JSON list differs"
	"$reader" get --container vault --blob none --out "$lf_tmp/got" 2>/dev/null || rc=$?
	[ "$rc" = 3 ] || lf_fail "a blob that is not there: exit $rc, not 3"
}

lf_step "the strict server"
pageblob_start
snapshot=$(fill "$pageblob_endpoint" "$(pageblob_field account)" "$(pageblob_field key)")
read_back "$snapshot"
lf_step "the strict server, on a bad day"
pageblob_admin POST /rules '[
	{"match": {"method": "GET"}, "fault": {"kind": "busy"}, "probability": 0.1},
	{"match": {"operation": "GetBlob"}, "fault": {"kind": "truncate"}, "probability": 0.05},
	{"match": {"method": "GET"}, "fault": {"kind": "reset"}, "probability": 0.05}]' >/dev/null
read_back "$snapshot"
lf_step "what the admin exports is what REST reads"
pageblob_admin POST /rules/clear '{}' >/dev/null
pageblob_admin POST /export "{\"container\": \"vault\", \"blob\": \"machines/m é/d.vhd\",
	\"snapshot\": \"$snapshot\", \"path\": \"$lf_tmp/exported\"}" >/dev/null
lf_same "$lf_tmp/want-snapshot" "$lf_tmp/exported"
pageblob_admin GET /verify >"$lf_tmp/verified"
grep -q '"ok": true' "$lf_tmp/verified" || lf_fail "the server's invariants"

lf_step "azurite"
azurite_start
snapshot=$(fill "$azurite_endpoint" "$azurite_account" "$azurite_key")
read_back "$snapshot"
lf_step "azurite, started again on its data"
azurite_stop
azurite_start
read_back "$snapshot"
