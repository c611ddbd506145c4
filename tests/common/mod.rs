//! What the test files share.

#![allow(dead_code, clippy::unwrap_used)] // each file uses its part

use inflight::{BoxError, Context, Manager};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{self, Receiver, Sender};
use std::time::{Duration, Instant};

/// Guards against a hang: nothing in these tests takes as long.
pub(crate) const HANG: Duration = Duration::from_secs(60);

/// A task that is at a gate: it has said that it started, and goes on when it is let through.
pub(crate) struct Gated {
    open: Sender<()>,
    started: Receiver<()>,
}

/// A task that waits at a gate, and the gate.
pub(crate) fn gated() -> (Gated, impl FnOnce(&Context) -> Result<(), BoxError> + Send + 'static) {
    let (open, gate) = mpsc::channel::<()>();
    let (starts, started) = mpsc::channel();
    let task = move |_: &Context| {
        starts.send(())?;
        // A gate that was dropped is open as well.
        match gate.recv_timeout(HANG) {
            Err(mpsc::RecvTimeoutError::Timeout) => Err("nobody opened the gate".into()),
            _ => Ok(()),
        }
    };
    (Gated { open, started }, task)
}

impl Gated {
    /// Waits until the task has started.
    pub(crate) fn started(&self) -> &Self {
        self.started.recv_timeout(HANG).expect("the task starts");
        self
    }

    pub(crate) fn has_started(&self) -> bool {
        self.started.try_recv().is_ok()
    }

    pub(crate) fn open(self) {
        self.open.send(()).expect("the task waits at the gate");
    }
}

/// Fills the only thread of `manager` until what is returned is dropped.
pub(crate) fn busy<M: Send + Sync + 'static>(manager: &Manager<M>, meta: M) -> Gated {
    let (gate, task) = gated();
    manager.run(meta, task).map_err(drop).expect("it is accepted");
    gate.started();
    gate
}

/// Waits until another thread has brought about what `holds` looks for.
#[track_caller]
pub(crate) fn until(mut holds: impl FnMut() -> bool) {
    let begin = Instant::now();
    while !holds() {
        assert!(begin.elapsed() < HANG, "it does not come about");
        std::thread::yield_now();
    }
}

/// Runs what would hang if the library were broken, so that the test fails instead.
#[track_caller]
pub(crate) fn in_time<R: Send + 'static>(code: impl FnOnce() -> R + Send + 'static) -> R {
    let (ends, ended) = mpsc::channel();
    let thread = std::thread::spawn(move || {
        let answer = code();
        let _ = ends.send(());
        answer
    });
    if ended.recv_timeout(HANG) == Err(mpsc::RecvTimeoutError::Timeout) {
        panic!("it hangs");
    }
    thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
}

/// Counts drops.
#[derive(Default)]
pub(crate) struct Drops(Arc<AtomicUsize>);

impl Drops {
    pub(crate) fn count(&self) -> usize {
        self.0.load(Ordering::SeqCst)
    }

    /// Something whose drop is counted.
    pub(crate) fn counted(&self) -> impl Send + Sync + 'static {
        struct Counted(Arc<AtomicUsize>);
        impl Drop for Counted {
            fn drop(&mut self) {
                self.0.fetch_add(1, Ordering::SeqCst);
            }
        }
        Counted(Arc::clone(&self.0))
    }
}

/// The threads of this process whose name begins so; none where the system does not say.
pub(crate) fn threads_named(name: &str) -> usize {
    let Ok(tasks) = std::fs::read_dir("/proc/self/task") else { return 0 };
    let names = tasks.flatten().filter_map(|task| std::fs::read_to_string(task.path().join("comm")).ok());
    names.filter(|thread| thread.starts_with(name)).count()
}

/// Are there none of that name any more? The operating system may take a moment to see a thread's end.
pub(crate) fn none_is_left(name: &str) -> bool {
    (0..20_000).any(|_| {
        let gone = threads_named(name) == 0;
        if !gone {
            std::thread::sleep(Duration::from_millis(1));
        }
        gone
    })
}
