//! How soon a task starts, and what its submitter pays.

use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use super::{ALL, Blocked, OWN, OWN_2, SPAWN, elastic, limit, nanos_each, pools, submit_tiny, tiny};
use crate::measure::{Body, Contender, Sample, Workload, median, quantile};
use crate::runner::{DEFAULT, Inflight, Runner, Threads};

const METRICS: &[&str] = &["p50 µs", "p99 µs", "submit p50 ns"];

pub(super) fn workloads(probes: usize, submits: usize) -> Vec<Workload> {
    let idle = Latency { probes, blocked: 0, behind_fresh: false };
    let mut contenders = pools(idle);
    contenders.insert(1, Contender::on::<Inflight>(OWN, DEFAULT, idle));
    contenders.push(Contender::on::<Threads>(SPAWN, DEFAULT, idle));
    vec![
        Workload {
            name: "idle-latency",
            about: "from before submit to the task's first line, all threads asleep".into(),
            metrics: METRICS,
            contenders,
            limits: vec![
                limit(OWN_2, 0, 1.0, ALL, 1.0),
                limit(OWN_2, 1, 2.0, ALL, 1.0),
                limit(OWN_2, 2, 1.0, ALL, 0.5),
            ],
            ..Workload::default()
        },
        Workload {
            name: "blocked-latency",
            about: "the same while 100 others are blocked, default settings".into(),
            metrics: METRICS,
            contenders: elastic(Latency { blocked: 100, ..idle }),
            limits: vec![limit(OWN, 1, 3.0, &[SPAWN], 1.0)],
            ..Workload::default()
        },
        Workload {
            name: "behind-latency",
            about: "the same right behind one more that blocks".into(),
            metrics: METRICS,
            contenders: elastic(Latency { blocked: 100, behind_fresh: true, ..idle }),
            limits: vec![limit(OWN, 1, 3.0, &[SPAWN], 1.0)],
            ..Workload::default()
        },
        submit_busy(submits),
    ]
}

#[derive(Clone, Copy)]
struct Latency {
    probes: usize,
    /// Tasks that are blocked all along.
    blocked: usize,
    /// One more of these is submitted just before each probe: that a thread has just taken a task does not mean
    /// that it will soon be free.
    behind_fresh: bool,
}

impl Body for Latency {
    fn run<R: Runner>(self, runner: &'static R) -> Sample {
        /// Long enough for every pool's threads to fall asleep.
        const PAUSE: Duration = Duration::from_micros(500);
        static STARTED: AtomicU64 = AtomicU64::new(0);

        let blocked = Blocked::run(runner, self.blocked);
        let (mut submits, mut starts) = (Vec::new(), Vec::new());
        for _ in 0..self.probes {
            thread::sleep(PAUSE);
            let fresh = self.behind_fresh.then(|| Blocked::submit(runner, 1));
            let submit = Instant::now();
            runner.submit(move || STARTED.store(nanos(submit).max(1), Ordering::Release));
            submits.push(nanos(submit));
            // No condvar: waking this thread would be in the way of what is measured.
            let start = loop {
                match STARTED.swap(0, Ordering::Acquire) {
                    0 => thread::sleep(PAUSE),
                    nanos => break nanos,
                }
            };
            starts.push(start);
            drop(fresh);
        }
        drop(blocked);
        runner.wait();
        let starts = floats(&starts, 1e-3);
        vec![median(starts.clone()), quantile(starts, 0.99), median(floats(&submits, 1.0))]
    }
}

fn nanos(since: Instant) -> u64 {
    since.elapsed().as_nanos().try_into().expect("less than 500 years")
}

#[allow(clippy::cast_precision_loss, reason = "a few seconds at most")]
fn floats(nanos: &[u64], unit: f64) -> Vec<f64> {
    nanos.iter().map(|&nanos| nanos as f64 * unit).collect()
}

fn submit_busy(submits: usize) -> Workload {
    const SEND: &str = "a boxed closure's send";
    let body = SubmitBusy { submits };
    let mut contenders = pools(body);
    // It cannot be held to two threads while the threads of earlier workloads are there.
    contenders.retain(|contender| contender.name != super::BLOCKING);
    contenders.push(Contender::new(SEND, move || send(submits)));
    Workload {
        name: "submit-busy",
        about: format!("submit alone, {submits} times while both threads are busy"),
        metrics: &["ns a submit"],
        contenders,
        limits: vec![limit(OWN_2, 0, 1.5, &[SEND], 1.0)],
        ..Workload::default()
    }
}

#[derive(Clone, Copy)]
struct SubmitBusy {
    submits: usize,
}

impl Body for SubmitBusy {
    fn run<R: Runner>(self, runner: &'static R) -> Sample {
        let blocked = Blocked::run(runner, 2);
        let each = nanos_each(self.submits, || submit_tiny(runner, self.submits));
        drop(blocked);
        runner.wait();
        vec![each]
    }
}

/// The least that any pool on a channel pays.
fn send(sends: usize) -> Sample {
    let (sender, receiver) = crossbeam_channel::unbounded::<Box<dyn FnOnce() + Send>>();
    let each = nanos_each(sends, || {
        for _ in 0..sends {
            let sent = sender.send(Box::new(tiny()));
            sent.expect("the receiver is alive");
        }
    });
    // Run and freed on another thread, as in a pool.
    thread::scope(|scope| _ = scope.spawn(|| receiver.try_iter().for_each(|task| task())));
    vec![each]
}
