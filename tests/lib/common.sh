# shellcheck shell=bash disable=SC2034
# Shell tests begin with:  . "$(dirname "$0")/../lib/common.sh"
#
# Strict mode, a scratch directory and clean-up in reverse order at exit, whatever the way out.
# Everything a test starts, mounts or attaches goes through the helpers here:
#
#   $lf_tmp                   the scratch directory, gone at exit (kept with LANDFALL_KEEP=1)
#   lf_skip WHY / lf_fail WHY ends the test as skipped (77) / failed (1)
#   lf_at_exit COMMAND ARG…   runs at exit; the last registered runs first
#   lf_spawn LOG COMMAND…     starts a daemon, sets lf_pid; at exit: TERM, then KILL after 10 s.
#                             It gets TERM also when the test itself is killed
#   lf_stop PID               stops one of these now and waits for its end; lf_stop_patience is
#                             how many times 50 ms it gives it (200)
#   lf_mount ARG…             mount(8) with these arguments, the last is the mount point
#   lf_umount DIR             unmounts, lazily where it must, waiting for a busy one
#   lf_losetup FILE [OPT…]    attaches a loop device, sets lf_loop
#   lf_wait_for SECONDS WHAT COMMAND…   until the command succeeds; fails the test after that
#   lf_need PROGRAM…          skips the test when a program is missing
#   lf_need_root              skips the test without root
#   lf_need_loop              skips the test where loop devices cannot be had
#   lf_same FILE FILE         fails the test when they differ, and says where
#   lf_step TEXT              says what is being done

set -euo pipefail

lf_tests=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
lf_source=$(dirname "$lf_tests")
lf_build=${LANDFALL_BUILD:-$lf_source/build/debug}
lf_tmp=$(mktemp -d "${TMPDIR:-/tmp}/landfall-test.XXXXXXXX")
lf_exits=()

lf_at_exit() {
	local quoted
	printf -v quoted '%q ' "$@"
	lf_exits+=("$quoted")
}

lf_cleanup() {
	local code=$? i
	trap - EXIT
	trap '' INT TERM HUP
	set +e
	for ((i = ${#lf_exits[@]} - 1; i >= 0; i--)); do
		eval "${lf_exits[i]}"
	done
	if [ -n "${LANDFALL_KEEP:-}" ]; then
		echo "kept: $lf_tmp" >&2
	else
		rm -rf --one-file-system "$lf_tmp"
	fi
	exit "$code"
}
trap lf_cleanup EXIT
trap 'exit 129' HUP
trap 'exit 130' INT
trap 'exit 143' TERM

lf_step() { echo "-- $*"; }
lf_skip() { echo "skipped: $*"; exit 77; }
lf_fail() { echo "FAILED: $*" >&2; exit 1; }

lf_need() {
	local program
	for program; do
		command -v "$program" >/dev/null || lf_skip "$program is not installed"
	done
}

lf_need_root() { [ "$(id -u)" = 0 ] || lf_skip "needs root"; }

lf_need_loop() {
	lf_need_root
	lf_need losetup
	losetup -f >/dev/null 2>&1 || lf_skip "no loop devices here"
}

lf_wait_for() {
	local seconds=$1 what=$2 end
	shift 2
	end=$(($(date +%s%N) + seconds * 1000000000))
	until "$@"; do
		[ "$(date +%s%N)" -lt "$end" ] || lf_fail "$what: not within $seconds s"
		sleep 0.05
	done
}

lf_ended() { ! kill -0 "$1" 2>/dev/null; }

lf_spawn() {
	local log=$1
	shift
	setpriv --pdeathsig TERM "$@" >"$log" 2>&1 &
	lf_pid=$!
	lf_at_exit lf_stop "$lf_pid"
}

# Only children of this shell are stopped here, so a number that has been used again is safe:
# wait knows its own children.
lf_stop() {
	local pid=$1 i
	[[ $'\n'$(jobs -p)$'\n' == *$'\n'$pid$'\n'* ]] || return 0
	kill -TERM "$pid" 2>/dev/null || true
	for ((i = 0; i < ${lf_stop_patience:-200}; i++)); do
		lf_ended "$pid" && break
		sleep 0.05
	done
	kill -KILL "$pid" 2>/dev/null || true
	wait "$pid" 2>/dev/null || true
}

lf_mount() {
	mount "$@"
	lf_at_exit lf_umount "${!#}"
}

# A FUSE mount whose daemon is gone answers ENOTCONN: it is a mount all the same, so ask the
# kernel's table and not the directory.
lf_mounted() { awk -v at="$1" '$5 == at { found = 1 } END { exit !found }' /proc/self/mountinfo; }

lf_umount() {
	local i
	for ((i = 0; i < 100; i++)); do
		lf_mounted "$1" || return 0
		umount "$1" 2>/dev/null || sleep 0.05
	done
	umount -l "$1" 2>/dev/null || true
}

lf_losetup() {
	local file=$1
	shift
	lf_loop=$(losetup --find --show "$@" "$file")
	lf_at_exit lf_detach "$lf_loop"
}

lf_detach() { losetup -d "$1" 2>/dev/null || true; }

lf_same() {
	cmp "$1" "$2" || lf_fail "$1 and $2 differ"
}
