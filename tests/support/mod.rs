//! What the tests of the clock share: a journal of the hooks, a gate, and waits that guard against a hang.

#![allow(dead_code, clippy::unwrap_used)] // each file uses its part

use inflight::{BoxError, Builder, Context, Kind, Manager, ManualClock, Phase, Task};
use std::ops::Deref;
use std::sync::Mutex;
use std::sync::mpsc::{self, Receiver, Sender};
use std::thread;
use std::time::{Duration, Instant};

/// Guards against a hang: nothing in these tests takes as long.
pub(crate) const HANG: Duration = Duration::from_secs(20);
pub(crate) const SEC: Duration = Duration::from_secs(1);
pub(crate) const MS: Duration = Duration::from_millis(1);

/// A manager with one worker, so that what it does has an order, on a clock that the test advances.
pub(crate) fn manager(clock: &ManualClock) -> Fused<&'static str> {
    fused(Manager::builder().max_threads(1).clock(clock))
}

/// A manager that no test waits for in vain: neither for a broken one, nor, if the test has failed, for tasks
/// whose time does not come any more.
pub(crate) struct Fused<M: Send + Sync + 'static>(Option<Manager<M>>);

pub(crate) fn fused<M: Send + Sync + 'static>(builder: Builder<M>) -> Fused<M> {
    Fused(Some(builder.build().unwrap()))
}

impl<M: Send + Sync + 'static> Deref for Fused<M> {
    type Target = Manager<M>;

    fn deref(&self) -> &Manager<M> {
        self.0.as_ref().unwrap()
    }
}

impl<M: Send + Sync + 'static> Fused<M> {
    /// As `Manager::wait`, which a broken manager would never return from.
    #[track_caller]
    pub(crate) fn wait(&self) {
        until(|| self.waited_for() == 0);
        Manager::wait(self);
    }

    fn waited_for(&self) -> usize {
        if self.is_closed() { self.len() } else { self.count_of(Kind::Once) }
    }
}

impl<M: Send + Sync + 'static> Drop for Fused<M> {
    fn drop(&mut self) {
        let Some(manager) = self.0.take() else { return };
        manager.close();
        let begin = Instant::now();
        while !thread::panicking() && !manager.is_empty() && begin.elapsed() < HANG {
            thread::yield_now();
        }
        if !manager.is_empty() {
            manager.cancel();
            manager.detach();
            assert!(thread::panicking(), "the manager does not come to its end");
        }
    }
}

/// What the hooks say, in order.
pub(crate) struct Journal(Receiver<String>);

impl Journal {
    pub(crate) fn of(manager: &Manager<&'static str>) -> Self {
        let (says, said) = mpsc::channel();
        let line = || {
            let says = Mutex::new(says.clone());
            move |line: String| drop(says.lock().unwrap().send(line))
        };
        let (succeeded, failed, retried, stalled, recovered) = (line(), line(), line(), line(), line());
        manager
            .on_task_succeeded(move |cx, meta| succeeded(format!("{meta} succeeded in {}", cx.attempt())))
            .on_task_failed(move |cx, meta, error| {
                failed(format!("{meta} failed in {}: {error}", cx.attempt()));
            })
            .on_task_retried(move |_, meta, error, attempt| {
                retried(format!("{meta} retried after {attempt}: {error}"));
            })
            .on_task_stalled(move |_, meta, since| stalled(format!("{meta} stalled for {since:?}")))
            .on_task_recovered(move |_, meta, hung| recovered(format!("{meta} recovered after {hung:?}")));
        Journal(said)
    }

    /// The next line, which a thread is about to write.
    #[track_caller]
    pub(crate) fn expect(&self, line: &str) {
        assert_eq!(self.0.recv_timeout(HANG).expect("a hook says something"), line);
    }

    /// Nothing has been written that was not read.
    #[track_caller]
    pub(crate) fn expect_nothing(&self) {
        assert_eq!(self.0.try_recv().ok(), None);
    }

    /// What has been written and not read.
    pub(crate) fn rest(&self) -> Vec<String> {
        self.0.try_iter().collect()
    }
}

/// Waits until another thread has brought about what `holds` looks for.
#[track_caller]
pub(crate) fn until(mut holds: impl FnMut() -> bool) {
    let begin = Instant::now();
    while !holds() {
        assert!(begin.elapsed() < HANG, "it does not come about");
        thread::yield_now();
    }
}

/// Waits until the live tasks are in these phases, oldest first.
#[track_caller]
pub(crate) fn until_phases<M: Send + Sync + 'static>(manager: &Manager<M>, phases: &[Phase]) {
    until(|| manager.tasks().iter().map(|task| task.phase()).eq(phases.iter().copied()));
}

/// Returns when the supervisor has looked at the clock as it stands now, and what it found due has left the
/// queue of a manager with one worker.
pub(crate) fn settle(manager: &Manager<&'static str>) {
    let (ran, runs) = mpsc::channel();
    let probe = Task::once("probe", move |_| Ok(ran.send(())?)).delay(Duration::ZERO);
    manager.run_task(probe).map_err(drop).expect("the manager is open");
    runs.recv_timeout(HANG).expect("the probe runs");
}

/// A task that has said that it started, and ends when it is told to.
pub(crate) struct Gate {
    open: Sender<()>,
    started: Receiver<()>,
}

/// A gate, and a task that waits at it.
pub(crate) fn gate() -> (Gate, impl FnMut(&Context) -> Result<(), BoxError> + Send + 'static) {
    let (open, opened) = mpsc::channel::<()>();
    let (starts, started) = mpsc::channel();
    let task = move |_: &Context| {
        starts.send(())?;
        match opened.recv_timeout(HANG) {
            Err(mpsc::RecvTimeoutError::Timeout) => Err("nobody opened the gate".into()),
            _ => Ok(()),
        }
    };
    (Gate { open, started }, task)
}

impl Gate {
    /// Waits until the task has started.
    pub(crate) fn started(&self) {
        self.started.recv_timeout(HANG).expect("the task starts");
    }

    pub(crate) fn open(&self) {
        self.open.send(()).expect("the task waits at the gate");
    }
}

/// Occupies a worker of `manager`.
pub(crate) fn occupy<M: Send + Sync + 'static>(manager: &Manager<M>, meta: M) -> Gate {
    let (gate, task) = gate();
    manager.run(meta, task).map_err(drop).expect("the manager is open");
    gate.started();
    gate
}

/// Fails before the attempt of this number.
pub(crate) fn fails_until(attempt: u32) -> impl FnMut(&Context) -> Result<(), BoxError> + Send + 'static {
    move |cx| if cx.attempt() < attempt { Err("busy".into()) } else { Ok(()) }
}

/// The threads of this process whose name begins so (Linux shows 15 bytes of it); none where the system does
/// not say.
pub(crate) fn threads_named(name: &str) -> usize {
    let Ok(tasks) = std::fs::read_dir("/proc/self/task") else { return 0 };
    let names = tasks.flatten().filter_map(|task| std::fs::read_to_string(task.path().join("comm")).ok());
    names.filter(|thread| thread.starts_with(name)).count()
}
