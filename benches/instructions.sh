#!/usr/bin/env bash
# Counts the instructions that a task costs, and compares them with those in instructions.txt: exits 1 if one
# of them has grown by more than 2 %. With --update it writes them there instead. They hold for one compiler
# and one target. Exits 2 if it cannot count.
set -euo pipefail
cd "$(dirname "$0")"

fail() {
    echo "instructions.sh: $1" >&2
    exit 2
}

case "${1-}" in
"" | --update) ;;
*) fail "usage: instructions.sh [--update]" ;;
esac
command -v valgrind >/dev/null || fail "needs valgrind, which is not installed"

# The runner must be of the library's version.
version=$(cargo tree --quiet --package inflight-benches --edges dev --depth 1 --prefix none |
    awk '$1 == "gungraun" { print substr($2, 2) }')
root=${CARGO_TARGET_DIR:-$(cd .. && pwd)/target}/gungraun-runner-$version
[[ -x $root/bin/gungraun-runner ]] ||
    cargo install --quiet gungraun-runner --version "=$version" --root "$root"

output=$(GUNGRAUN_RUNNER=$root/bin/gungraun-runner GUNGRAUN_COLOR=never \
    cargo bench --quiet --package inflight-benches --bench instructions)
counted=$(awk '
    /^instructions::/ { name = $1 " " $2; sub(/.*::/, "", name); sub(/:.*/, "", name) }
    $1 == "Instructions:" { split($2, count, "|"); total[name] = count[1] }
    END {
        printf "submit %.1f\n", total["submit_only tasks"] / 1000
        printf "inline %.1f\n", total["inline_run tasks"] / 1000
        printf "whole %.1f\n", (total["whole tasks"] - total["whole no_tasks"]) / 1000
    }' <<<"$output")
[[ $counted != *" 0.0"* ]] || fail $'found no counts in\n'"$output"

if [[ ${1-} == --update ]]; then
    {
        echo "# Instructions a task: submit to a busy pool, run inline, the whole of it on a pool of one thread."
        echo "# $(rustc --version | cut -d' ' -f1,2), $(rustc -vV | sed -n 's/host: //p')"
        echo "$counted"
    } >instructions.txt
    cat instructions.txt
    exit
fi
[[ -f instructions.txt ]] || fail "there is no instructions.txt; --update makes one"
awk '
    /^#/ { next }
    NR == FNR { committed[$1] = $2; next }
    {
        change = 100 * ($2 / committed[$1] - 1)
        verdict = change > 2 ? "GREW" : change < -2 ? "shrank: --update keeps it so" : "ok"
        printf "%-8s %8.1f  was %8.1f  %+6.2f %%  %s\n", $1, $2, committed[$1], change, verdict
        grew = grew || change > 2
    }
    END { exit grew }' instructions.txt - <<<"$counted"
