//! Tiny tasks, as many as a thread can submit: what a task costs when nothing else does.

use std::hint::black_box;
use std::thread;

use super::{
    Blocked, CHANNEL, OWN, OWN_2, POOLS, SPAWN, THREADPOOL, TOKIO, elastic, limit, nanos_each, pools,
    submit_tiny, tiny,
};
use crate::count::Count;
use crate::measure::{Body, Contender, Sample, Workload};
use crate::runner::{DEFAULT, Inflight, Runner, Threads};

const METRICS: &[&str] = &["ns a task", "threads at most"];

pub(super) fn workloads(tasks: usize) -> Vec<Workload> {
    // `thread::spawn` needs so many times longer for a task that it gets as many times fewer.
    let fewer = tasks / 50;
    let flood = |name, heading, submitters| Workload {
        name,
        about: format!("{tasks} tiny tasks, {heading}, wait included ({SPAWN}: {fewer})"),
        contenders: contenders(Flood { tasks, submitters }, Flood { tasks: fewer, submitters }),
        plotted: Some(heading),
        ..frame()
    };
    let mut workloads = vec![
        flood("flood-1", "from 1 thread", 1),
        flood("flood-2", "from 2 threads", 2),
        flood("flood-4", "from 4 threads", 4),
        Workload {
            name: "tree",
            about: format!("{tasks} tiny tasks, each started by another one ({SPAWN}: {fewer})"),
            contenders: contenders(Tree { tasks }, Tree { tasks: fewer }),
            plotted: Some("started by tasks"),
            ..frame()
        },
    ];
    workloads[0].limits.extend([
        limit(OWN_2, 0, 1.2, &[THREADPOOL], 1.0),
        limit(OWN_2, 0, 0.5, &[TOKIO], 0.5),
        limit(OWN_2, 0, 2.0, &[CHANNEL], 1.3),
        limit(OWN_2, 0, 0.02, &[SPAWN], 0.02),
    ]);
    for workload in &mut workloads[1..] {
        workload.limits.push(limit(OWN_2, 0, 1.3, POOLS, 1.0));
    }
    workloads.push(mixed(tasks));
    workloads.push(contention(tasks));
    workloads
}

/// What all floods share: default settings are to do as well as two threads, on hardly more.
fn frame() -> Workload {
    Workload {
        metrics: METRICS,
        limits: vec![limit(OWN, 0, 1.1, &[OWN_2], 1.0), limit(OWN, 1, 8.0, &[], 4.0)],
        ..Workload::default()
    }
}

fn contenders(body: impl Body, fewer: impl Body) -> Vec<Contender> {
    let mut contenders = pools(body);
    contenders.insert(1, Contender::on::<Inflight>(OWN, DEFAULT, body));
    contenders.push(Contender::on::<Threads>(SPAWN, DEFAULT, fewer));
    contenders
}

#[allow(clippy::cast_precision_loss, reason = "thread counts are small")]
fn sample(nanos_each: f64, runner: &impl Runner) -> Sample {
    vec![nanos_each, runner.peak_threads().map_or(f64::NAN, |threads| threads as f64)]
}

#[derive(Clone, Copy)]
struct Flood {
    tasks: usize,
    submitters: usize,
}

impl Body for Flood {
    fn run<R: Runner>(self, runner: &'static R) -> Sample {
        let submit = || submit_tiny(runner, self.tasks / self.submitters);
        let each = nanos_each(self.tasks, || {
            if self.submitters == 1 {
                submit();
            } else {
                thread::scope(|scope| (0..self.submitters).for_each(|_| _ = scope.spawn(submit)));
            }
            runner.wait();
        });
        sample(each, runner)
    }
}

#[derive(Clone, Copy)]
struct Tree {
    tasks: usize,
}

impl Tree {
    /// One task, which hands half of the others on to either of two more. Its capture has 24 bytes as well.
    fn grow<R: Runner>(runner: &'static R, tasks: usize, capture: u64) {
        if tasks > 0 {
            runner.submit(move || {
                let half = (tasks - 1) / 2;
                Self::grow(runner, half, black_box(capture));
                Self::grow(runner, tasks - 1 - half, black_box(capture));
            });
        }
    }
}

impl Body for Tree {
    fn run<R: Runner>(self, runner: &'static R) -> Sample {
        let each = nanos_each(self.tasks, || {
            Self::grow(runner, self.tasks, 3);
            runner.wait();
        });
        sample(each, runner)
    }
}

fn mixed(tasks: usize) -> Workload {
    const ALONE: &str = "inflight, the flood alone";
    let mut contenders = elastic(Behind { tasks, blocked: 100 });
    contenders.pop(); // `thread::spawn` has no queue for anything to be behind in.
    contenders.insert(1, Contender::on::<Inflight>(ALONE, DEFAULT, Behind { tasks, blocked: 0 }));
    Workload {
        name: "mixed",
        about: format!("{tasks} tiny tasks right behind 100 that block, default settings"),
        metrics: METRICS,
        contenders,
        limits: vec![limit(OWN, 0, 1.3, &[ALONE], 1.1)],
        ..Workload::default()
    }
}

/// A flood that is over when its last task has run, whoever else is still blocked.
#[derive(Clone, Copy)]
struct Behind {
    tasks: usize,
    blocked: usize,
}

impl Body for Behind {
    fn run<R: Runner>(self, runner: &'static R) -> Sample {
        static FLOOD: Count = Count::of(0);
        FLOOD.add(self.tasks);
        let blocked = Blocked::submit(runner, self.blocked);
        let each = nanos_each(self.tasks, || {
            for _ in 0..self.tasks {
                let tiny = tiny();
                runner.submit(move || {
                    tiny();
                    FLOOD.done();
                });
            }
            FLOOD.wait();
        });
        drop(blocked);
        runner.wait();
        sample(each, runner)
    }
}

/// How far one lock goes: the same flood by number of threads and of submitters.
fn contention(tasks: usize) -> Workload {
    let contenders = [1, 2, 4, 8, 16].into_iter().flat_map(|threads| {
        (1..=4).map(move |submitters| {
            let name = format!("{threads} threads, {submitters} submitters");
            Contender::on::<Inflight>(name, threads, Flood { tasks, submitters })
        })
    });
    Workload {
        name: "contention",
        about: format!("{tasks} tiny tasks by threads and submitters (only when asked for)"),
        metrics: METRICS,
        contenders: contenders.collect(),
        by_name_only: true,
        ..Workload::default()
    }
}
