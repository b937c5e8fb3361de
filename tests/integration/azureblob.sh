#!/usr/bin/env bash
# The blob client (azureblob/) against real services. The argument picks a part:
#   azurite   what every blob service does, against the emulator
#   strict    the same and more, against the strict server
#   faults    what the strict server can do to a client
#   ways      tokens, signatures, TLS with a CA of one's own, a proxy that wants credentials
. "$(dirname "$0")/../lib/common.sh"
. "$lf_tests/lib/azurite.sh"
. "$lf_tests/lib/pageblob.sh"

run() {
	local program=$lf_build/tests/$1
	[ -x "$program" ] || lf_skip "$1 is not built"
	shift
	"$program" "$@"
}

case $1 in
azurite)
	azurite_start
	run azureblob_service_test
	;;
strict)
	pageblob_start
	export PAGEBLOB_ADMIN=$pageblob_admin_url
	run azureblob_service_test
	;;
faults)
	pageblob_start
	export PAGEBLOB_ADMIN=$pageblob_admin_url
	run azureblob_faults_test
	;;
ways)
	lf_need openssl
	. "$lf_tests/integration/azureblob_ways.sh"
	;;
*) lf_fail "azurite, strict, faults or ways" ;;
esac
