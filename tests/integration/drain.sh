#!/usr/bin/env bash
# An epoch several times as large as the journal, by a source that seals by itself: every vault point
# compared by an independent reader. The argument picks the service: azurite, strict, or faults.
. "$(dirname "$0")/../lib/common.sh"
. "$lf_tests/lib/blobservice.sh"

program=$lf_build/tests/group_drain_test
[ -x "$program" ] || lf_skip "group_drain_test is not built"
container=drain$RANDOM

blobservice_start "$1"
for operation in PutPage ClearPages Snapshot PutBlob PutBlock PutBlockList GetBlob; do
	blobservice_faults "$operation" '{"kind":"busy"}' '{"kind":"reset","when":"before"}' \
		'{"kind":"reset","when":"applied"}'
done

lf_step "an epoch larger than the journal"
"$program" "$container" "$lf_tmp"
blobservice_settle

lf_step "every vault point by an independent reader"
blobservice_compare "$container"
[ "$blobservice_compared" -eq 6 ] || lf_fail "$blobservice_compared disks of points were compared, not 6"
