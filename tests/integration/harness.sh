#!/usr/bin/env bash
# tests/lib/common.sh leaves nothing behind, whatever way a test ends.
. "$(dirname "$0")/../lib/common.sh"

# run WAY: an inner test that starts a daemon and then ends in that way; sets code, daemon, inner_tmp
run() {
	cat >"$lf_tmp/inner.sh" <<EOF
. "$lf_tests/lib/common.sh"
lf_spawn "\$lf_tmp/log" sleep 600
daemon=\$lf_pid
lf_at_exit touch "$lf_tmp/first-registered"
lf_at_exit bash -c 'test ! -e "$lf_tmp/first-registered" && touch "$lf_tmp/in-order"'
echo "\$daemon \$lf_tmp" >"$lf_tmp/inner.part"
mv "$lf_tmp/inner.part" "$lf_tmp/inner"
$1
EOF
	rm -f "$lf_tmp"/{inner,first-registered,in-order}
	TMPDIR=$lf_tmp bash "$lf_tmp/inner.sh" >"$lf_tmp/out" 2>&1 &
	inner=$!
	if [ -n "${2:-}" ]; then
		lf_wait_for 20 "the inner test" test -s "$lf_tmp/inner"
		kill "-$2" "$inner"
	fi
	code=0
	wait "$inner" || code=$?
	read -r daemon inner_tmp <"$lf_tmp/inner"
}

expect() {
	[ "$code" = "$1" ] || { cat "$lf_tmp/out"; lf_fail "exit $code instead of $1"; }
	lf_wait_for 10 "the daemon's end" lf_ended "$daemon"
	[ ! -e "$inner_tmp" ] || lf_fail "$inner_tmp is left behind"
	[ -e "$lf_tmp/in-order" ] || lf_fail "the last registered did not run first"
}

lf_step "success, failure, skip, a failing command, an unset variable"
run "exit 0"
expect 0
run "lf_fail why"
expect 1
run "lf_skip why"
expect 77
grep -q 'skipped: why' "$lf_tmp/out" || lf_fail "it does not say why it skips"
run "false"
expect 1
run 'echo $nowhere'
expect 1
run "lf_wait_for 0 something false"
expect 1

lf_step "signals"
run 'while :; do sleep 0.1; done' TERM
expect 143
run 'while :; do sleep 0.1; done' KILL
[ "$code" = 137 ] || lf_fail "exit $code instead of 137"
lf_wait_for 10 "the daemon's end with a test that was killed" lf_ended "$daemon"
rm -rf "$inner_tmp"

lf_step "a daemon that ignores TERM is killed"
lf_spawn "$lf_tmp/deaf.log" bash -c 'trap "" TERM; echo up; while :; do sleep 1; done'
lf_wait_for 10 "the daemon" grep -q up "$lf_tmp/deaf.log"
lf_stop_patience=10
lf_stop "$lf_pid"
lf_ended "$lf_pid" || lf_fail "it lives"

if [ "$(id -u)" = 0 ] && losetup -f >/dev/null 2>&1 && command -v mkfs.ext4 >/dev/null; then
	lf_step "mounts and loop devices"
	run "truncate -s 16M \"\$lf_tmp/img\"; mkfs.ext4 -q \"\$lf_tmp/img\"; lf_losetup \"\$lf_tmp/img\"
mkdir \"\$lf_tmp/mnt\"; lf_mount \"\$lf_loop\" \"\$lf_tmp/mnt\"; touch \"\$lf_tmp/mnt/x\"; echo \"\$lf_loop\" >\"$lf_tmp/loop\"; false"
	expect 1
	losetup -a >"$lf_tmp/loops"
	! grep -q "^$(cat "$lf_tmp/loop"):.*$inner_tmp" "$lf_tmp/loops" || lf_fail "the loop device is still attached"
fi
