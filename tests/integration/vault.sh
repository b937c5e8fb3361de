#!/usr/bin/env bash
# Vault and flusher through the real client, each vault point compared by an independent reader.
# The argument picks the service: azurite, strict, or faults (the strict server with every fault).
. "$(dirname "$0")/../lib/common.sh"
. "$lf_tests/lib/azurite.sh"
. "$lf_tests/lib/pageblob.sh"

program=$lf_build/tests/vault_service_test
[ -x "$program" ] || lf_skip "vault_service_test is not built"
container=vault$RANDOM
read_blob() { python3 "$lf_tests/lib/blobread.py" "$@" --container "$container"; }

case $1 in
azurite) azurite_start ;;
strict | faults) pageblob_start ;;
*) lf_fail "azurite, strict or faults" ;;
esac
[ "$1" = azurite ] || pageblob_admin POST /settings '{"fence_prefix": "machines/"}' >/dev/null

if [ "$1" = faults ]; then
	seed=${LANDFALL_SEED:-$RANDOM}
	echo "seed $seed (LANDFALL_SEED=$seed to repeat)"
	pageblob_admin POST /rules/clear "{\"seed\": $seed}" >/dev/null
	for operation in PutPage ClearPages Snapshot SetProperties PutBlob PutBlock PutBlockList \
		DeleteBlob GetBlob GetPageRanges ListBlobs HeadBlob; do
		faults='{"kind":"busy"} {"kind":"error500"} {"kind":"status","status":500,"code":"InternalError","applied":true}
			{"kind":"reset","when":"before"} {"kind":"reset","when":"applied"} {"kind":"duplicate","delay_s":0.3}'
		case $operation in
		GetBlob | GetPageRanges | ListBlobs | HeadBlob) faults+=' {"kind":"truncate"}' ;;
		*) faults+=' {"kind":"late","answer":"reset","delay_s":0.5}' ;;
		esac
		for fault in $faults; do
			pageblob_admin POST /rules "{\"match\": {\"operation\": \"$operation\"},
				\"fault\": $fault, \"probability\": 0.01}" >/dev/null
		done
	done
fi

lf_step "the life of a group"
"$program" "$container" "$lf_tmp"
[ "$1" = azurite ] || pageblob_admin POST /rules/clear '{"seed": 1}' >/dev/null

lf_step "every vault point by an independent reader"
count=0
while read -r blob snapshot file bytes; do
	read_blob get --blob "$blob" --snapshot "$snapshot" --out "$lf_tmp/out"
	cmp -n "$bytes" "$lf_tmp/out" "$file" || lf_fail "$blob at $snapshot is not what was sealed"
	[ "$(stat -c %s "$lf_tmp/out")" = $((bytes + 512)) ] || lf_fail "$blob has another size"
	if command -v qemu-img >/dev/null; then
		cp --sparse=always "$lf_tmp/out" "$lf_tmp/out.vhd"
		qemu-img info -f vpc "$lf_tmp/out.vhd" | grep -q "($bytes bytes)" ||
			lf_fail "qemu-img sees another size"
	fi
	count=$((count + 1))
done <"$lf_tmp/points"
[ "$count" -ge 10 ] || lf_fail "only $count disks of points were compared"
echo "$count disks of points are exact"

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
