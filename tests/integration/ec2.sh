#!/usr/bin/env bash
# The client of EC2 and EBS direct (ec2/) against the tests' own AWS. The argument picks a part:
#   calls         instances, volumes, snapshots: what they say and how they fail
#   credentials   keys from everywhere, renewed
#   fetch         blocks, whole and changed, with every fault
#   cycle         sets, one after the other, cut off at every step
. "$(dirname "$0")/../lib/common.sh"
. "$lf_tests/lib/aws.sh"

program=$lf_build/tests/ec2_$1_test
[ -x "$program" ] || lf_skip "ec2_$1_test is not built"
aws_start
"$program" || {
	tail -n 30 "$lf_tmp/aws.log" >&2
	lf_fail "$1"
}
