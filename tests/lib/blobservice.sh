# shellcheck shell=bash disable=SC2034,SC2154
# A blob service of one's choice for shell tests that look at every vault point afterwards. Source
# common.sh first.
#
#   blobservice_start KIND    azurite, strict, or faults (the strict server; see below)
#   blobservice_faults OPERATION FAULT…   with KIND faults: each of these faults, one request in a
#                             hundred of that operation, by a seed that is told
#   blobservice_settle        ends the faults
#   blobservice_compare CONTAINER [CHECK]   each disk of the points that $lf_tmp/points lists (blob,
#                             snapshot, file, bytes), read by an independent reader, is what the
#                             file holds; CHECK gets its copy's path and its bytes. Sets
#                             blobservice_compared.
. "$lf_tests/lib/azurite.sh"
. "$lf_tests/lib/pageblob.sh"

blobservice_start() {
	blobservice_kind=$1
	case $1 in
	azurite) azurite_start ;;
	strict | faults) pageblob_start ;;
	*) lf_fail "azurite, strict or faults" ;;
	esac
	[ "$1" = azurite ] || pageblob_admin POST /settings '{"fence_prefix": "machines/"}' >/dev/null
	[ "$1" = faults ] || return 0
	local seed=${LANDFALL_SEED:-$RANDOM}
	echo "seed $seed (LANDFALL_SEED=$seed to repeat)"
	pageblob_admin POST /rules/clear "{\"seed\": $seed}" >/dev/null
}

blobservice_faults() {
	local operation=$1 fault
	shift
	[ "$blobservice_kind" = faults ] || return 0
	for fault in "$@"; do
		pageblob_admin POST /rules "{\"match\": {\"operation\": \"$operation\"},
			\"fault\": $fault, \"probability\": 0.01}" >/dev/null
	done
}

blobservice_settle() {
	[ "$blobservice_kind" = azurite ] || pageblob_admin POST /rules/clear '{"seed": 1}' >/dev/null
}

blobservice_compare() {
	local container=$1 check=${2:-true} blob snapshot file bytes
	blobservice_compared=0
	while read -r blob snapshot file bytes; do
		python3 "$lf_tests/lib/blobread.py" get --blob "$blob" --snapshot "$snapshot" \
			--out "$lf_tmp/out" --container "$container"
		cmp -n "$bytes" "$lf_tmp/out" "$file" ||
			lf_fail "$blob at $snapshot is not what was sealed"
		"$check" "$lf_tmp/out" "$bytes"
		blobservice_compared=$((blobservice_compared + 1))
	done <"$lf_tmp/points"
	echo "$blobservice_compared disks of points are exact"
}
