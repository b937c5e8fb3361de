# shellcheck shell=bash disable=SC2034,SC2154
# Azurite, the emulator, for shell tests. Source common.sh first.
#
#   azurite_start [DIR]    installs it if need be, starts it on a free port with its data in DIR
#                          (default: $lf_tmp/azurite), waits until it answers and exports
#                          AZURE_STORAGE_CONNECTION_STRING; sets azurite_pid, azurite_port,
#                          azurite_endpoint. Stopped at exit.
#   azurite_stop           ends it with SIGTERM: its data is complete and can be started again
#
# Strict, not loose; persistent, because a test wants to read what a restart would find. The
# check of API versions is off: clients newer than this release are welcome. kill -9 would lose
# its last seconds: never do that to it.

azurite_account=devstoreaccount1
azurite_key=Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1OUzFT50uSRZ6IFsuFq2UVErCz4I6tq/K1SZFPTOtr/KBHBeksoGMGw==

azurite_start() {
	local dir=${1:-$lf_tmp/azurite} log main
	command -v node >/dev/null || lf_skip "node is not installed"
	"$lf_tests/azurite/install" || lf_skip "azurite cannot be installed (see above)"
	main=$lf_tests/azurite/node_modules/azurite/dist/src/blob/main.js
	mkdir -p "$dir"
	log=$dir.log
	lf_spawn "$log" node "$main" --blobHost 127.0.0.1 --blobPort 0 --location "$dir" \
		--silent --disableTelemetry --skipApiVersionCheck --blobKeepAliveTimeout 5
	azurite_pid=$lf_pid
	lf_wait_for 60 "azurite ($(basename "$log"))" azurite_ready "$log"
	azurite_port=$(sed -n 's/.*successfully listens on http:\/\/127\.0\.0\.1:\([0-9]*\).*/\1/p' \
		"$log" | tail -n 1)
	azurite_endpoint=http://127.0.0.1:$azurite_port/$azurite_account
	export AZURE_STORAGE_CONNECTION_STRING="DefaultEndpointsProtocol=http;AccountName=$azurite_account;AccountKey=$azurite_key;BlobEndpoint=$azurite_endpoint;"
}

azurite_ready() {
	lf_ended "$azurite_pid" && { cat "$1" >&2; lf_fail "azurite ended at once"; }
	grep -q 'successfully listens' "$1"
}

azurite_stop() { lf_stop "$azurite_pid"; }
