//! Instructions of a task's submit, run and end, counted by callgrind.
//!
//! The counts are the same in every run, for at no time are two threads awake. `instructions.sh` takes them and
//! compares them with those that are committed.
#![allow(missing_docs, unused_qualifications, reason = "what the macros make")]

use std::hint::black_box;
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use gungraun::prelude::*;
use gungraun::{Callgrind, EntryPoint};
use inflight::Manager;

type Pool = Manager<&'static str>;

/// The script divides by it.
const TASKS: usize = 1000;

fn submit(manager: &Pool, tasks: usize) {
    for _ in 0..tasks {
        let capture = black_box([1_u64, 2, 3]);
        let accepted = manager.run("tiny", move |_cx| {
            black_box(capture);
            Ok(())
        });
        assert!(accepted.is_ok(), "an open manager accepts");
    }
}

/// Long enough for the other threads to have done what they were about to, and to sleep: where no two run at
/// once, none of them ever finds a lock taken.
fn settle() {
    thread::sleep(Duration::from_millis(100));
}

/// The sender holds the manager's only thread until it is dropped, which it must be first.
fn busy() -> (mpsc::Sender<()>, Pool) {
    let pool = Manager::builder().max_threads(1).build();
    let pool = with_hook(pool.expect("the configuration is valid"));
    let (release, gate) = mpsc::channel::<()>();
    let accepted = pool.run("gate", move |_cx| {
        _ = gate.recv();
        settle();
        Ok(())
    });
    assert!(accepted.is_ok(), "an open manager accepts");
    settle();
    (release, pool)
}

fn inline() -> Pool {
    let manager = Manager::builder().inline().build();
    with_hook(manager.expect("the configuration is valid"))
}

fn with_hook(manager: Pool) -> Pool {
    manager.on_task_succeeded(|_cx, meta| _ = black_box(meta));
    manager
}

#[library_benchmark]
#[bench::tasks(busy())]
fn submit_only(busy: (mpsc::Sender<()>, Pool)) -> (mpsc::Sender<()>, Pool) {
    submit(&busy.1, TASKS);
    busy
}

#[library_benchmark]
#[bench::tasks(inline())]
fn inline_run(manager: Pool) -> Pool {
    submit(&manager, TASKS);
    manager
}

fn all_threads() -> LibraryBenchmarkConfig {
    let mut callgrind = Callgrind::with_args(["--collect-atstart=yes"]);
    callgrind.entry_point(EntryPoint::None);
    let mut config = LibraryBenchmarkConfig::default();
    config.tool(callgrind);
    config
}

// A count of the whole process: what a task costs is the difference that the tasks make.
#[library_benchmark(config = all_threads())]
#[bench::no_tasks(0)]
#[bench::tasks(TASKS)]
fn whole(tasks: usize) {
    let (release, pool) = busy();
    submit(&pool, tasks);
    drop(release);
    pool.wait();
    settle();
    pool.detach();
}

library_benchmark_group!(name = task; benchmarks = submit_only, inline_run, whole);
main!(library_benchmark_groups = task);
