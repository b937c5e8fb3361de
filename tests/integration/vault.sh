#!/usr/bin/env bash
# Vault and flusher through the real client, each vault point compared by an independent reader.
# The argument picks the service: azurite, strict, or faults (the strict server with every fault).
. "$(dirname "$0")/../lib/common.sh"
. "$lf_tests/lib/blobservice.sh"

program=$lf_build/tests/vault_service_test
[ -x "$program" ] || lf_skip "vault_service_test is not built"
container=vault$RANDOM

# Of a VHD: the disk's bytes and a footer, and others see the same size.
check_vhd() {
	[ "$(stat -c %s "$1")" = $(($2 + 512)) ] || lf_fail "a vault point has another size than $2 bytes"
	command -v qemu-img >/dev/null || return 0
	cp --sparse=always "$1" "$1.vhd"
	qemu-img info -f vpc "$1.vhd" | grep -q "($2 bytes)" || lf_fail "qemu-img sees another size"
}

blobservice_start "$1"
for operation in PutPage ClearPages Snapshot SetProperties PutBlob PutBlock PutBlockList \
	DeleteBlob GetBlob GetPageRanges ListBlobs HeadBlob; do
	blobservice_faults "$operation" '{"kind":"busy"}' '{"kind":"error500"}' \
		'{"kind":"status","status":500,"code":"InternalError","applied":true}' \
		'{"kind":"reset","when":"before"}' '{"kind":"reset","when":"applied"}' \
		'{"kind":"duplicate","delay_s":0.3}'
	case $operation in
	GetBlob | GetPageRanges | ListBlobs | HeadBlob)
		blobservice_faults "$operation" '{"kind":"truncate"}'
		;;
	*) blobservice_faults "$operation" '{"kind":"late","answer":"reset","delay_s":0.5}' ;;
	esac
done

lf_step "the life of a group"
"$program" "$container" "$lf_tmp"
blobservice_settle

lf_step "every vault point by an independent reader"
blobservice_compare "$container" check_vhd
[ "$blobservice_compared" -ge 10 ] || lf_fail "only $blobservice_compared disks of points were compared"

if [ "$1" != azurite ]; then
	pageblob_admin GET /stats >"$lf_tmp/stats"
	python3 - "$lf_tmp/stats" <<'PY' || lf_fail "requests were not fenced"
import json, sys
stats = json.load(open(sys.argv[1]))
# What makes a blob or takes its lease comes before there is a lease to show.
print({k: stats[k] for k in ("unfenced", "unnumbered", "bad_signatures", "late_landed", "late_rejected")})
bad = [r for r in stats["first_unfenced"] + stats["first_unnumbered"]]
for row in bad:
    print(row)
sys.exit(stats["bad_signatures"] != 0 or stats["unfenced"] != 0 or stats["unnumbered"] != 0)
PY
fi
