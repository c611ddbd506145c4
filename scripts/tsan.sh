#!/usr/bin/env bash
# Runs the library's tests under ThreadSanitizer (Linux, x86-64): all of them, or what `cargo test` is told by the
# arguments, e.g. `scripts/tsan.sh --test handles`. Some minutes.
#
# What it is told to overlook, and why, stands in tsan.supp. Of what it then reports those races count in which the
# library, or a crate that it uses, touches the memory on both sides. In the others it is a test's own: tests synchronize
# by std's Mutex and scoped threads, whose slow paths the sanitizer cannot see. (Were a task handed from thread to thread
# without synchronization, the library's own accesses to it would race as well.)
set -euo pipefail
cd "$(dirname "$0")/.."

# The sanitizer is a nightly feature of the stable compiler; the standard library is linked as it came, without it.
export RUSTC_BOOTSTRAP=1
export RUSTFLAGS="${RUSTFLAGS:-} -Zsanitizer=thread -Cunsafe-allow-abi-mismatch=sanitizer"
export TSAN_OPTIONS="suppressions=$PWD/scripts/tsan.supp exitcode=0 ${TSAN_OPTIONS:-}"
export CARGO_TARGET_DIR=${CARGO_TARGET_DIR:-target}/tsan
# Random sequences of the state machine have no threads.
export PROPTEST_CASES=${PROPTEST_CASES:-16} RUST_BACKTRACE=0
[ $# -gt 0 ] || set -- --lib --tests

log=$(mktemp)
trap 'rm -f "$log"' EXIT
# Skipped is what measures memory, thousands of threads, or how soon: the sanitizer has its own. And whatever is sent a
# signal: it runs a handler only once that thread calls something that it intercepts, which std's sleeping threads do not.
# The harness's capture of output is one more lock of std's.
skip=()
for name in signal memory resident footprint bytes ten_thousand_blocked a_cap_of_a_million several_managers flood the_system_refuses; do
    skip+=(--skip "$name")
done
status=0
cargo test -p inflight --target x86_64-unknown-linux-gnu --no-fail-fast "$@" -- --nocapture "${skip[@]}" >"$log" 2>&1 || status=$?
grep -aE '^ +Running|^test result|^test .* FAILED$|^error' "$log" || true

awk '
    /^WARNING: ThreadSanitizer/ { report = ""; theirs = 0; inside = 1 }
    !inside { next }
    { report = report $0 "\n" }
    / of size [0-9]+ at / { open = 1; next }
    /^  [A-Z]/ { open = 0 }
    # The first function of a stack that is not the standard library'"'"'s is who touches the memory.
    open && /^ +#[0-9]+ / {
        name = $2
        if (name ~ /^[<&\[(]*(core|alloc|std|test|dyn)(::|$)/ || name !~ /::/) next
        # As is what compares the keys of a map of the tests.
        if (name ~ /^[<&]*inflight::.*TaskId/ && $3 == "as" && $4 ~ /^core::/) next
        if (name !~ /^[<&]*(inflight|parking_lot|parking_lot_core|lock_api|crossbeam_utils)::/) theirs = 1
        open = 0
    }
    /^SUMMARY: ThreadSanitizer/ { inside = 0; all++; if (!theirs) { races++; printf "%s\n", report } }
    END { printf "%d reports, %d of them in the library\n", all, races; exit races > 0 }
' "$log" || status=1
[ "$status" -eq 0 ] || { [ -z "${TSAN_LOG:-}" ] || cp "$log" "$TSAN_LOG"; }
exit "$status"
