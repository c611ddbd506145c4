#!/usr/bin/env bash
# With `panic = "abort"` the library builds and works; a panic in a task then ends the process, as everywhere.
set -euo pipefail
cd "$(dirname "$0")/.."

root=$PWD
crate=$(mktemp -d)
trap 'rm -rf "$crate"' EXIT
mkdir "$crate/src"
cat >"$crate/Cargo.toml" <<TOML
[package]
name = "aborts"
version = "0.0.0"
edition = "2024"

[dependencies]
inflight = { path = "$root" }

[profile.dev]
panic = "abort"

[workspace]
TOML
cat >"$crate/src/main.rs" <<'RUST'
use inflight::{BoxError, Grace, Manager, TaskError};
use std::time::Duration;

fn main() -> Result<(), BoxError> {
    let manager: Manager<&str> = Manager::new();
    let sum = manager.spawn("sum", |_| Ok(1 + 1))?;
    assert_eq!(sum.join()?, 2);
    let failed = manager.spawn("fails", |_| Err::<(), _>("no".into()))?;
    assert!(matches!(failed.join(), Err(TaskError::Failed(_))));
    manager.run("drains", |cx| Ok(cx.sleep(Duration::from_millis(5))?))?;
    if std::env::args().nth(1).as_deref() == Some("panic") {
        manager.run("panics", |_| panic!("in a task"))?;
        manager.wait();
        println!("it went on");
    }
    manager.shutdown(Grace::drain(Duration::from_secs(30))).map_err(|left| left.to_string())?;
    println!("all is done");
    Ok(())
}
RUST

export CARGO_TARGET_DIR=${CARGO_TARGET_DIR:-$root/target}/abort
run() { cargo run --quiet --manifest-path "$crate/Cargo.toml" -- "$@"; }

[ "$(run)" = "all is done" ]
if said=$(run panic 2>&1); then
    echo "a panic in a task did not end the process" >&2
    exit 1
fi
case $said in
*"it went on"*) echo "the process went on after a panic" >&2 && exit 1 ;;
*"in a task"*) ;;
*) printf 'it did not end by that panic:\n%s\n' "$said" >&2 && exit 1 ;;
esac
echo "panic = \"abort\" builds, works, and ends the process at a panic"
