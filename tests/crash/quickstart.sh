#!/usr/bin/env bash
# The main job as a user runs it, with the words given, logs and all gone afterwards; on failure it
# prints their ends.
TMPDIR=${TMPDIR:-/var/tmp}
. "$(dirname "$0")/../lib/common.sh"
lf_need_loop
"$lf_source/appliance/quickstart" --dir "$lf_tmp" "$@" || lf_fail "quickstart ended with $?"
