//! What a waiting task, a blocked thread and an idle manager occupy.
//!
//! Resident anonymous memory, as the kernel counts it, in a process of its own: the allocator's own share and
//! the touched pages of stacks are in it. It needs Linux; elsewhere the figures are missing.

use std::fs;
use std::thread;
use std::time::Duration;

use super::{Blocked, CHANNEL, OWN, OWN_2, RAYON, RUSTY_POOL, SPAWN, THREADPOOL, TOKIO, limit, submit_tiny};
use crate::measure::{Body, Contender, Sample, Workload};
use crate::runner::{Channel, DEFAULT, Inflight, Rayon, Runner, Threads, Tokio};

pub(super) fn workloads(queued: usize, blocked: usize) -> Vec<Workload> {
    let queue = Queue { tasks: queued };
    let threads = BlockedThreads { threads: blocked };
    vec![
        Workload {
            name: "memory-queued",
            about: format!("{queued} queued tasks with captures of 24 bytes"),
            metrics: &["bytes a task beyond the capture"],
            contenders: vec![
                Contender::on::<Inflight>(OWN_2, 2, queue),
                Contender::on::<Channel>(CHANNEL, 2, queue),
                Contender::on::<threadpool::ThreadPool>(THREADPOOL, 2, queue),
                Contender::on::<rusty_pool::ThreadPool>(RUSTY_POOL, 2, queue),
                Contender::on::<Rayon>(RAYON, 2, queue),
                Contender::on::<Tokio>(TOKIO, 2, queue),
            ],
            limits: vec![limit(OWN_2, 0, 160.0, &[], 112.0)],
            isolated: true,
            ..Workload::default()
        },
        Workload {
            name: "memory-blocked",
            about: format!("{blocked} blocked threads, the kernel's own share aside"),
            metrics: &["KiB a thread"],
            contenders: vec![
                Contender::on::<Inflight>(OWN, DEFAULT, threads),
                Contender::on::<Threads>(SPAWN, DEFAULT, threads),
                Contender::on::<Tokio>("tokio TaskTracker, as many threads", blocked, threads),
            ],
            limits: vec![limit(OWN, 0, 12.0, &[], 10.0)],
            isolated: true,
            ..Workload::default()
        },
        Workload {
            name: "memory-idle",
            about: "a manager that has run tasks, after its keep-alive; mean of 1000".into(),
            metrics: &["bytes", "threads"],
            contenders: vec![Contender::new(OWN, || idle(1_000))],
            limits: vec![limit(OWN, 0, 2048.0, &[], 2048.0), limit(OWN, 1, 0.0, &[], 0.0)],
            isolated: true,
            ..Workload::default()
        },
    ]
}

#[derive(Clone, Copy)]
struct Queue {
    tasks: usize,
}

impl Body for Queue {
    fn run<R: Runner>(self, runner: &'static R) -> Sample {
        let blocked = Blocked::run(runner, 2);
        let each = bytes_each(self.tasks, || submit_tiny(runner, self.tasks));
        drop(blocked);
        runner.wait();
        vec![each - 24.0]
    }
}

#[derive(Clone, Copy)]
struct BlockedThreads {
    threads: usize,
}

impl Body for BlockedThreads {
    fn run<R: Runner>(self, runner: &'static R) -> Sample {
        // The first thread brings along what all share.
        drop(Blocked::run(runner, 1));
        let mut blocked = None;
        let each = bytes_each(self.threads, || {
            blocked = Some(Blocked::run(runner, self.threads));
        });
        drop(blocked);
        runner.wait();
        vec![each / 1024.0]
    }
}

fn idle(managers: usize) -> Sample {
    let run_and_rest = || {
        let builder = inflight::Manager::<&str>::builder();
        let manager = builder.keep_alive(Duration::from_millis(1)).build();
        let manager = Inflight(manager.expect("the configuration is valid"));
        submit_tiny(&manager, 10);
        manager.wait();
        while manager.0.stats().threads > 0 {
            thread::sleep(Duration::from_micros(100));
        }
        manager
    };
    let first = run_and_rest();
    let mut all = Vec::with_capacity(managers);
    let each = bytes_each(managers, || {
        all.extend((0..managers).map(|_| run_and_rest()));
    });
    thread::sleep(Duration::from_millis(100)); // for the last manager's threads to be gone altogether
    let threads = status("/proc/self/status", "Threads:") - 1.0;
    drop((first, all));
    vec![each, threads]
}

#[allow(clippy::cast_precision_loss, reason = "a count far below 2^52")]
fn bytes_each(how_many: usize, all: impl FnOnce()) -> f64 {
    let anonymous = || status("/proc/self/smaps_rollup", "Anonymous:") * 1024.0;
    let before = anonymous();
    all();
    (anonymous() - before) / how_many as f64
}

/// The number after a key in one of the kernel's tables, NaN if there is none.
fn status(file: &str, key: &str) -> f64 {
    let table = fs::read_to_string(file).unwrap_or_default();
    let line = table.lines().find_map(|line| line.strip_prefix(key));
    let number = line.and_then(|rest| rest.split_whitespace().next());
    number.and_then(|number| number.parse().ok()).unwrap_or(f64::NAN)
}
