#!/usr/bin/env bash
# Runs the models of src/core/model_tests.rs under shuttle: each for so many random schedules, and as many of PCT's.
#
#     scripts/model.sh             300 of each, some ten seconds: what CI runs
#     scripts/model.sh 20000       the long form
#     scripts/model.sh 20000 hook  only the models whose name contains `hook`
set -euo pipefail
cd "$(dirname "$0")/.."

export INFLIGHT_MODEL_ITERATIONS=${1:-300}
export RUSTFLAGS="${RUSTFLAGS:-} --cfg inflight_model"
# Apart, so that neither build throws the other's away.
export CARGO_TARGET_DIR=${CARGO_TARGET_DIR:-target}/model
# The other tests do not run under shuttle.
run=(cargo test --lib -- "${2:-model_tests::}" --skip ::tests::)
[[ $("${run[@]}" --list) == *": test"* ]] || {
    echo "no model is called ${2:-model_tests::}" >&2
    exit 1
}
"${run[@]}"
