# shellcheck shell=bash disable=SC2034,SC2154
# The tests' own AWS for shell tests. Source common.sh first.
#
#   aws_start [OPTION…]   starts it on free ports; exports AWS_TEST_ENDPOINT, _ADMIN, _KEY, _SECRET
#                         and _DIR (for volumes' files). Stopped at exit.
#   aws_field NAME        of the line it printed when it was ready
aws_start() {
	local ready=$lf_tmp/aws.$RANDOM.json
	lf_need python3
	lf_spawn "$lf_tmp/aws.log" python3 "$lf_tests/servers/aws/server.py" --data "$lf_tmp" \
		--ready-file "$ready" --die-with-parent "$@"
	lf_wait_for 30 "the tests' own AWS" test -s "$ready"
	aws_json=$(cat "$ready")
	AWS_TEST_ENDPOINT=$(aws_field endpoint)
	AWS_TEST_ADMIN=$(aws_field admin)
	AWS_TEST_KEY=$(aws_field access_key_id)
	AWS_TEST_SECRET=$(aws_field secret_access_key)
	AWS_TEST_DIR=$lf_tmp/volumes
	mkdir -p "$AWS_TEST_DIR"
	export AWS_TEST_ENDPOINT AWS_TEST_ADMIN AWS_TEST_KEY AWS_TEST_SECRET AWS_TEST_DIR
}

aws_field() {
	python3 -c 'import json, sys; print(json.loads(sys.argv[1])[sys.argv[2]])' "$aws_json" "$1"
}
