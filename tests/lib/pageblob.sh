# shellcheck shell=bash disable=SC2034,SC2154
# The strict, fault-injecting page-blob server for shell tests. Source common.sh first.
#
#   pageblob_start [OPTION…]  starts it on free ports and exports
#                             AZURE_STORAGE_CONNECTION_STRING; sets pageblob_pid,
#                             pageblob_admin_url, pageblob_endpoint, pageblob_json (the ready line).
#                             Stopped at exit.
#   pageblob_admin METHOD PATH [JSON]   asks the admin's port, prints its answer; fails the test
#                             when it is refused. See tests/servers/README.md.

pageblob_start() {
	local ready=$lf_tmp/pageblob.$RANDOM.json
	lf_need python3 curl
	lf_spawn "$lf_tmp/pageblob.log" python3 "$lf_tests/servers/pageblob/server.py" \
		--data "$lf_tmp" --ready-file "$ready" --die-with-parent "$@"
	pageblob_pid=$lf_pid
	lf_wait_for 30 "the page-blob server" test -s "$ready"
	pageblob_json=$(cat "$ready")
	pageblob_admin_url=$(pageblob_field admin)
	pageblob_endpoint=$(pageblob_field endpoint)
	AZURE_STORAGE_CONNECTION_STRING=$(pageblob_field connection_string)
	export AZURE_STORAGE_CONNECTION_STRING
}

pageblob_field() {
	python3 -c 'import json, sys; print(json.loads(sys.argv[1])[sys.argv[2]])' \
		"$pageblob_json" "$1"
}

pageblob_admin() {
	local method=$1 path=$2
	shift 2
	[ $# = 0 ] || set -- --data-binary "$1"
	curl -sS --fail-with-body -X "$method" "$@" "$pageblob_admin_url$path" ||
		lf_fail "the page-blob server's admin refused $method $path"
}
