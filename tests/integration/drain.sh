#!/usr/bin/env bash
# An epoch several times as large as the journal, by a source that seals by itself: every vault point
# compared by an independent reader. The argument picks the service: azurite, strict, or faults.
. "$(dirname "$0")/../lib/common.sh"
. "$lf_tests/lib/azurite.sh"
. "$lf_tests/lib/pageblob.sh"

program=$lf_build/tests/group_drain_test
[ -x "$program" ] || lf_skip "group_drain_test is not built"
container=drain$RANDOM
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
	for operation in PutPage ClearPages Snapshot PutBlob PutBlock PutBlockList GetBlob; do
		for fault in '{"kind":"busy"}' '{"kind":"reset","when":"before"}' \
			'{"kind":"reset","when":"applied"}'; do
			pageblob_admin POST /rules "{\"match\": {\"operation\": \"$operation\"},
				\"fault\": $fault, \"probability\": 0.01}" >/dev/null
		done
	done
fi

lf_step "an epoch larger than the journal"
"$program" "$container" "$lf_tmp"
[ "$1" = azurite ] || pageblob_admin POST /rules/clear '{"seed": 1}' >/dev/null

lf_step "every vault point by an independent reader"
count=0
while read -r blob snapshot file bytes; do
	read_blob get --blob "$blob" --snapshot "$snapshot" --out "$lf_tmp/out"
	cmp -n "$bytes" "$lf_tmp/out" "$file" || lf_fail "$blob at $snapshot is not what was sealed"
	count=$((count + 1))
done <"$lf_tmp/points"
[ "$count" -eq 6 ] || lf_fail "$count disks of points were compared, not 6"
echo "$count disks of points are exact"
