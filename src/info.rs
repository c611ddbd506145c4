//! What can be seen of a manager from outside: its tasks, and its counters.

use std::borrow::Cow;
use std::fmt;
use std::panic::{RefUnwindSafe, UnwindSafe};
use std::time::Duration;

use crate::sync::Arc;
use crate::task::{Kind, Record, TaskId};

/// Where a live task is in its life.
///
/// ```
/// use inflight::{Manager, Phase, Task};
/// use std::time::Duration;
///
/// let manager = Manager::new();
/// manager.run_task(Task::once("later", |_cx| Ok(())).delay(Duration::from_secs(3600)))?;
/// assert_eq!(manager.tasks()[0].phase(), Phase::Delayed);
/// # manager.cancel();
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
#[non_exhaustive]
pub enum Phase {
    /// It waits for its time: a delay, the pause before a retry, the next iteration of a loop.
    Delayed,
    /// It is due and waits for a thread.
    Queued,
    /// A thread runs it, or its hooks.
    Running,
    /// A thread runs it, and its context is cancelled.
    Cancelling,
}

impl fmt::Display for Phase {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Phase::Delayed => "delayed",
            Phase::Queued => "queued",
            Phase::Running => "running",
            Phase::Cancelling => "cancelling",
        })
    }
}

/// A live task as it was at one moment. It stays as it was while the task goes on.
///
/// See [`inflight::TaskInfo`](crate::TaskInfo), its alias for tasks that borrow nothing. It shares the task's
/// Meta, and so keeps that alive.
///
/// ```
/// let manager = inflight::Manager::new();
/// let (open, gate) = std::sync::mpsc::channel::<()>();
/// manager.run("backup", move |_cx| Ok(gate.recv()?))?;
/// for task in manager.tasks() {
///     println!("{} {} {} since {:?}", task.id(), task.meta(), task.phase(), task.age());
/// }
/// # drop(open);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub struct TaskInfo<'a, Meta> {
    pub(crate) record: Arc<Record<'a, Meta>>,
    pub(crate) sight: Sight,
}

/// What was seen of a task at one moment, as plain data.
#[derive(Clone, Debug)]
pub(crate) struct Sight {
    pub(crate) phase: Phase,
    pub(crate) age: Duration,
    pub(crate) running_for: Duration,
    pub(crate) attempt: u32,
    pub(crate) thread: Option<Arc<str>>,
    pub(crate) progress: Option<Cow<'static, str>>,
}

impl<Meta> UnwindSafe for TaskInfo<'_, Meta> {}
impl<Meta> RefUnwindSafe for TaskInfo<'_, Meta> {}

impl<Meta> Clone for TaskInfo<'_, Meta> {
    fn clone(&self) -> Self {
        TaskInfo { record: Arc::clone(&self.record), sight: self.sight.clone() }
    }
}

impl<Meta> TaskInfo<'_, Meta> {
    /// The task's number within its manager.
    #[must_use]
    pub fn id(&self) -> TaskId {
        self.record.id()
    }

    /// What it was submitted with.
    #[must_use]
    pub fn meta(&self) -> &Meta {
        &self.record.meta
    }

    /// Whether it runs once or as a loop.
    #[must_use]
    pub fn kind(&self) -> Kind {
        self.record.kind
    }

    /// Where it was in its life.
    #[must_use]
    pub fn phase(&self) -> Phase {
        self.sight.phase
    }

    /// How long ago it had been accepted.
    #[must_use]
    pub fn age(&self) -> Duration {
        self.sight.age
    }

    /// How long the attempt in hand had been running; zero if there was none. As exact as
    /// [`Context::running_for`](crate::Context::running_for).
    #[must_use]
    pub fn running_for(&self) -> Duration {
        self.sight.running_for
    }

    /// Which attempt was running, or had been the last; 0 if there had been none.
    #[must_use]
    pub fn attempt(&self) -> u32 {
        self.sight.attempt
    }

    /// The name of the thread that ran it; `None` if none did, or if it has no name.
    #[must_use]
    pub fn thread(&self) -> Option<&str> {
        self.sight.thread.as_deref()
    }

    /// The last note that it gave to [`Context::progress`](crate::Context::progress).
    #[must_use]
    pub fn progress(&self) -> Option<&str> {
        self.sight.progress.as_deref()
    }
}

impl<Meta: fmt::Debug> fmt::Debug for TaskInfo<'_, Meta> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TaskInfo")
            .field("id", &self.id())
            .field("meta", self.meta())
            .field("kind", &self.kind())
            .field("phase", &self.phase())
            .field("age", &self.age())
            .field("running_for", &self.running_for())
            .field("attempt", &self.attempt())
            .field("thread", &self.thread())
            .field("progress", &self.progress())
            .finish()
    }
}

/// How much there is to do, and how many do it, at one moment.
#[cfg(feature = "metrics")]
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(crate) struct Load {
    pub(crate) live: usize,
    /// In a thread's hands, hooks included.
    pub(crate) running: usize,
    /// Due, and waiting for a thread.
    pub(crate) queued: usize,
    pub(crate) threads: usize,
}

/// A manager's counters since it was built, and its threads.
///
/// Once nothing is live, `added = succeeded + failed` holds for tasks that run once; a loop adds one for each
/// of its iterations to `succeeded` or `failed`. The counters are taken at one moment, but for `retried`,
/// `stalled` and `hook_panics`, which may be newer by what happens meanwhile.
///
/// ```
/// let manager = inflight::Manager::new();
/// manager.run("tea", |_cx| Ok(()))?;
/// manager.wait();
/// let stats = manager.stats();
/// assert_eq!((stats.added, stats.succeeded, stats.failed), (1, 1, 0));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
#[non_exhaustive]
pub struct Stats {
    /// Tasks accepted.
    pub added: u64,
    /// Tasks, or iterations of loops, that succeeded.
    pub succeeded: u64,
    /// Tasks, or iterations of loops, that failed for good: error, panic, cancellation, timeout, abandonment.
    pub failed: u64,
    /// Tasks handed back.
    pub rejected: u64,
    /// Attempts that failed and were to be repeated.
    pub retried: u64,
    /// Stalls reported.
    pub stalled: u64,
    /// Panics contained in hooks, drops and retry closures.
    pub hook_panics: u64,
    /// Worker threads now: running, idle, or about to leave.
    pub threads: usize,
    /// The most worker threads that there ever were at once.
    pub peak_threads: usize,
    /// The number of worker threads that is not exceeded: as configured, or less where the operating system
    /// could not carry as many.
    pub max_threads: usize,
}
