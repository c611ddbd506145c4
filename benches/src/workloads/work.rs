//! Tasks that do something: sleep, compute, borrow.

use std::hint::black_box;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Barrier};
use std::thread;
use std::time::{Duration, Instant};

use inflight::Manager;

use super::{OWN, OWN_2, SPAWN, limit, nanos_each, pools};
use crate::count::Count;
use crate::measure::{Body, Contender, Sample, Workload, median};
use crate::runner::{DEFAULT, Inflight, Runner, Threads, Tokio};

const NAP: Duration = Duration::from_millis(100);

pub(super) fn workloads(sleepers: usize, computers: usize) -> Vec<Workload> {
    let spins_in_10_us = calibrate();
    vec![
        sleep(sleepers),
        compute(computers, spins_in_10_us),
        grain(computers, spins_in_10_us),
        scope(spins_in_10_us * 10),
    ]
}

fn sleep(tasks: usize) -> Workload {
    const COLD: &str = "inflight, cold";
    Workload {
        name: "sleep",
        about: format!("{tasks} tasks that sleep 100 ms, default settings"),
        metrics: &["ms"],
        contenders: vec![
            sleepers::<Inflight>(OWN, DEFAULT, tasks, true),
            sleepers::<Inflight>(COLD, DEFAULT, tasks, false),
            Contender::new("parked threads, unparked in turn", move || parked(tasks)),
            sleepers::<Threads>(SPAWN, DEFAULT, tasks, false),
            // Its default of 512 threads would need several turns.
            sleepers::<Tokio>("tokio TaskTracker, as many threads", tasks, tasks, true),
            sleepers::<Tokio>("tokio TaskTracker, as many, cold", tasks, tasks, false),
        ],
        limits: vec![limit(OWN, 0, 115.0, &[], 105.0), limit(COLD, 0, 0.8, &[SPAWN], 0.8)],
        ..Workload::default()
    }
}

/// A new runner in each round: thousands of idle threads are not to outlive the workload.
fn sleepers<R: Runner>(name: &str, threads: usize, tasks: usize, warm: bool) -> Contender {
    Contender::new(name, move || {
        let runner = R::start(threads);
        let all = || {
            for _ in 0..tasks {
                runner.submit(|| thread::sleep(NAP));
            }
            runner.wait();
        };
        if warm {
            // Only tasks that wait for one another have as many threads as there are tasks.
            let gate = Arc::new(Barrier::new(tasks));
            for _ in 0..tasks {
                let gate = Arc::clone(&gate);
                runner.submit(move || _ = gate.wait());
            }
            runner.wait();
        }
        vec![nanos_each(1, all) / 1e6]
    })
}

/// The floor: a thread for each task is there already, and one after the other is woken.
fn parked(tasks: usize) -> Sample {
    let (ready, slept) = (Count::of(tasks), Count::of(tasks));
    let sleeper = || {
        ready.done();
        thread::park();
        thread::sleep(NAP);
        slept.done();
    };
    thread::scope(|scope| {
        let threads: Vec<_> = (0..tasks).map(|_| scope.spawn(sleeper)).collect();
        ready.wait();
        thread::sleep(NAP); // until all are parked
        let all = || {
            for each in &threads {
                each.thread().unpark();
            }
            slept.wait();
        };
        vec![nanos_each(1, all) / 1e6]
    })
}

fn compute(tasks: usize, spins: u64) -> Workload {
    const BARE: &str = "two bare threads, half each";
    let mut contenders = pools(Compute { tasks, spins });
    contenders.push(Contender::new(BARE, move || {
        vec![two_threads(|| (0..tasks / 2).for_each(|_| _ = spin(spins))) / 1e6]
    }));
    Workload {
        name: "compute",
        about: format!("{tasks} tasks of 10 µs of computing"),
        metrics: &["ms"],
        contenders,
        limits: vec![limit(OWN_2, 0, 1.05, &[BARE], 1.02)],
        ..Workload::default()
    }
}

/// How far one lock goes, by the length of a task: the time of two threads, as a multiple of the tasks' own.
fn grain(tasks: usize, spins_in_10_us: u64) -> Workload {
    let contenders = [2, 5, 10, 20, 50, 100].into_iter().map(|tenths| {
        let spins = spins_in_10_us * tenths / 100;
        let tasks = tasks * 10 / usize::try_from(tenths).expect("a small number");
        let half = move || (0..tasks / 2).for_each(|_| _ = spin(spins));
        Contender::new(format!("tasks of {}.{} µs", tenths / 10, tenths % 10), move || {
            let runner: &'static Inflight = Box::leak(Box::new(Inflight::start(2)));
            let whole = Compute { tasks, spins }.run(runner)[0] * 1e6;
            vec![whole / two_threads(half)]
        })
    });
    Workload {
        name: "grain",
        about: "tasks of some length on 2 threads, against two bare threads (only when asked for)".into(),
        metrics: &["times as long"],
        contenders: contenders.collect(),
        by_name_only: true,
        ..Workload::default()
    }
}

#[derive(Clone, Copy)]
struct Compute {
    tasks: usize,
    spins: u64,
}

impl Body for Compute {
    fn run<R: Runner>(self, runner: &'static R) -> Sample {
        let nanos = nanos_each(1, || {
            for _ in 0..self.tasks {
                runner.submit(move || _ = spin(self.spins));
            }
            runner.wait();
        });
        vec![nanos / 1e6]
    }
}

fn scope(spins: u64) -> Workload {
    const STD: &str = "thread::scope, 2 threads";
    Workload {
        name: "scope",
        about: "fan out 8 tasks of 100 µs that borrow, and join them".into(),
        metrics: &["µs"],
        contenders: vec![
            Contender::new(OWN_2, move || {
                fan_out(|parts| {
                    let builder = Manager::<&str>::builder().max_threads(2);
                    let done = builder.scope(|scope| {
                        for part in parts {
                            let accepted = scope.run("part", move |_cx| {
                                part.store(spin(spins), Ordering::Relaxed);
                                Ok(())
                            });
                            assert!(accepted.is_ok(), "an open scope accepts");
                        }
                    });
                    done.expect("the configuration is valid");
                })
            }),
            Contender::new(STD, move || {
                fan_out(|parts| {
                    thread::scope(|scope| {
                        for half in parts.chunks(4) {
                            scope.spawn(move || {
                                for part in half {
                                    part.store(spin(spins), Ordering::Relaxed);
                                }
                            });
                        }
                    });
                })
            }),
            Contender::new("thread::scope, 8 threads", move || {
                fan_out(|parts| {
                    thread::scope(|scope| {
                        for part in parts {
                            scope.spawn(move || part.store(spin(spins), Ordering::Relaxed));
                        }
                    });
                })
            }),
            Contender::new("rayon::scope, warm", move || {
                fan_out(|parts| {
                    rayon::scope(|scope| {
                        for part in parts {
                            scope.spawn(move |_| part.store(spin(spins), Ordering::Relaxed));
                        }
                    });
                })
            }),
        ],
        limits: vec![limit(OWN_2, 0, 1.5, &[STD], 1.0)],
        ..Workload::default()
    }
}

fn fan_out(all: impl Fn(&[AtomicU64; 8])) -> Sample {
    let parts = Default::default();
    vec![median((0..50).map(|_| nanos_each(1, || all(&parts)) / 1e3).collect())]
}

/// Nanoseconds until two threads have both done `half`.
fn two_threads(half: impl Fn() + Sync) -> f64 {
    nanos_each(1, || {
        thread::scope(|scope| {
            scope.spawn(&half);
            half();
        });
    })
}

/// Computes for a time that depends on the machine's speed alone: by a clock, a task that waits for a processor
/// would seem to work.
fn spin(spins: u64) -> u64 {
    (0..spins).fold(spins, |x, _| black_box(x.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1)))
}

/// How many spins take 10 µs when nothing is in their way.
fn calibrate() -> u64 {
    const SPINS: u64 = 100_000;
    let once = |_| {
        let start = Instant::now();
        black_box(spin(SPINS));
        start.elapsed()
    };
    let best = (0..20).map(once).min().expect("20 is not zero");
    SPINS * 10_000 / u64::try_from(best.as_nanos()).expect("a moment").max(1)
}
