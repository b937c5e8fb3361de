#!/usr/bin/env bash
# Stopping an instance for its last point, against the tests' own AWS.
. "$(dirname "$0")/../lib/common.sh"
. "$lf_tests/lib/aws.sh"

program=$lf_build/tests/ebs_shut_down_test
[ -x "$program" ] || lf_skip "ebs_shut_down_test is not built"
[ -c /dev/fuse ] || lf_skip "there is no /dev/fuse"
aws_start
mkdir "$lf_tmp/appliance"
"$program" "$lf_tmp/appliance" || {
	umount -l "$lf_tmp/appliance/mount" 2>/dev/null
	tail -n 30 "$lf_tmp/aws.log" >&2
	lf_fail "stopping an instance"
}
