//! What is measured, on whom, and what the subject is to reach.

mod flood;
mod latency;
mod memory;
mod work;

use std::hint::black_box;
use std::sync::Arc;
use std::time::Instant;

use crate::count::Count;
use crate::measure::{Body, Contender, Limit, Workload};
use crate::runner::{Blocking, Channel, DEFAULT, Inflight, Rayon, Runner, Threads, Tokio};

const OWN: &str = "inflight";
const OWN_2: &str = "inflight, 2 threads";
const CHANNEL: &str = "crossbeam-channel pool";
const THREADPOOL: &str = "threadpool";
const RUSTY_POOL: &str = "rusty_pool";
const RAYON: &str = "rayon";
const BLOCKING: &str = "blocking";
const TOKIO: &str = "tokio TaskTracker";
const SPAWN: &str = "thread::spawn";

const POOLS: &[&str] = &[THREADPOOL, RUSTY_POOL];
const ALL: &[&str] = &[CHANNEL, THREADPOOL, RUSTY_POOL, RAYON, BLOCKING, TOKIO, SPAWN];

pub(crate) fn all(quick: bool) -> Vec<Workload> {
    let scale = if quick { 4 } else { 1 };
    [
        flood::workloads(300_000 / scale),
        latency::workloads(1_000 / scale, 100_000 / scale),
        work::workloads(4_000 / scale, 10_000),
        memory::workloads(1_000_000 / scale, 4_000 / scale),
    ]
    .into_iter()
    .flatten()
    .collect()
}

/// The subject and all pools, each with two threads.
fn pools(body: impl Body) -> Vec<Contender> {
    vec![
        Contender::on::<Inflight>(OWN_2, 2, body),
        Contender::on::<Channel>(CHANNEL, 2, body),
        Contender::on::<threadpool::ThreadPool>(THREADPOOL, 2, body),
        Contender::on::<rusty_pool::ThreadPool>(RUSTY_POOL, 2, body),
        Contender::on::<Rayon>(RAYON, 2, body),
        Contender::on::<Blocking>(BLOCKING, 2, body),
        Contender::on::<Tokio>(TOKIO, 2, body),
    ]
}

/// Those that add threads as needed, with their default settings.
fn elastic(body: impl Body) -> Vec<Contender> {
    vec![
        Contender::on::<Inflight>(OWN, DEFAULT, body),
        Contender::on::<Blocking>(BLOCKING, DEFAULT, body),
        Contender::on::<Tokio>(TOKIO, DEFAULT, body),
        Contender::on::<Threads>(SPAWN, DEFAULT, body),
    ]
}

fn limit(
    subject: &'static str,
    metric: usize,
    reach: f64,
    against: &'static [&'static str],
    beyond: f64,
) -> Limit {
    Limit { subject, metric, against, reach, beyond }
}

/// A task with a capture of 24 bytes and nothing to do.
fn tiny() -> impl FnOnce() + Send + 'static {
    let capture = black_box([1_u64, 2, 3]);
    move || {
        black_box(capture);
    }
}

fn submit_tiny(runner: &impl Runner, tasks: usize) {
    for _ in 0..tasks {
        runner.submit(tiny());
    }
}

/// What each of so many costs, if `all` does them all.
#[allow(clippy::cast_precision_loss, reason = "neither comes near 2^52")]
fn nanos_each(how_many: usize, all: impl FnOnce()) -> f64 {
    let start = Instant::now();
    all();
    start.elapsed().as_nanos() as f64 / how_many as f64
}

/// Tasks that hold their threads until this is dropped.
struct Blocked(Arc<Count>);

impl Blocked {
    /// Submits them, and does not wait for them to start.
    fn submit(runner: &impl Runner, tasks: usize) -> Self {
        Self::start(runner, tasks, || {})
    }

    /// Submits them, and waits until each has a thread.
    fn run(runner: &impl Runner, tasks: usize) -> Self {
        let started = Arc::new(Count::of(tasks));
        let report = Arc::clone(&started);
        let blocked = Self::start(runner, tasks, move || report.done());
        started.wait();
        blocked
    }

    fn start(runner: &impl Runner, tasks: usize, report: impl Fn() + Clone + Send + 'static) -> Self {
        let gate = Arc::new(Count::of(1));
        for _ in 0..tasks {
            let (gate, report) = (Arc::clone(&gate), report.clone());
            runner.submit(move || {
                report();
                gate.wait();
            });
        }
        Self(gate)
    }
}

impl Drop for Blocked {
    fn drop(&mut self) {
        self.0.done();
    }
}
