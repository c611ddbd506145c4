//! Configuration, checked where it is built.

use std::fmt;
#[cfg(feature = "test-util")]
use std::io;
use std::marker::PhantomData;
use std::panic::{RefUnwindSafe, UnwindSafe};
use std::time::Duration;

use crate::clock::Clock;
#[cfg(feature = "test-util")]
use crate::clock::ManualClock;
use crate::core::state::{Limits, Policy};
use crate::core::{Config, Core, Gate, callout};
use crate::error::BuildError;
use crate::manager::Manager;
use crate::retry::Retry;
use crate::scope::Scope;
use crate::sync::{Arc, thread};

/// How long an idle thread stays by default.
const KEEP_ALIVE: Duration = Duration::from_secs(10);

/// On Linux a thread can use four memory maps (its stack, the guard page, two of the allocator's), and a
/// process that reaches `vm.max_map_count` is killed, not refused. An eighth of that many threads leaves as
/// much again for everything else.
const MAPS_PER_THREAD: usize = 8;

/// The default and the limit of `max_threads` where the system does not say what it can carry.
const THREADS_ELSEWHERE: usize = 2048;

/// The settings of a manager, or of a scope: [`Manager::builder`].
///
/// Like the JDK's `ThreadPoolExecutor`, and unlike most pools, it grows by what is blocked, not by what is
/// queued.
///
/// # Threads
/// - *elastic*, the default: a task runs on an idle thread if there is one, otherwise on a new one, unless the
///   threads that are awake turn tasks over within microseconds: those get the task first. None is there
///   before the first task; idle ones end after [`keep_alive`](Builder::keep_alive).
/// - [`max_threads`](Builder::max_threads) bounds them: with it this is the fixed pool with a queue.
/// - [`thread_per_task`](Builder::thread_per_task): each task gets a thread of its own, which ends with it.
/// - [`inline`](Builder::inline): no threads at all, for tests.
///
/// # Limits
/// `max_threads` defaults to, and never exceeds, what the system can surely carry: on Linux an eighth of
/// `vm.max_map_count`, since a process that exceeds that is killed. Several managers in one process keep clear
/// of it together. [`Stats::max_threads`](crate::Stats::max_threads) says what holds.
///
/// ```
/// use inflight::Manager;
/// use std::time::Duration;
/// let manager = Manager::<&str>::builder()
///     .name("mail")
///     .max_threads(32)
///     .keep_alive(Duration::from_secs(60))
///     .max_pending(10_000)
///     .build()?;
/// # Ok::<(), inflight::BuildError>(())
/// ```
#[must_use = "settings do nothing until `build` or `scope` uses them"]
pub struct Builder<Meta> {
    name: String,
    max_threads: Option<usize>,
    max_pending: usize,
    keep_alive: Duration,
    thread_per_task: bool,
    inline: bool,
    stack_size: Option<usize>,
    stalled_after: Option<Duration>,
    retry: Option<Retry>,
    clock: Option<Clock>,
    gate: Option<Gate>,
    meta: PhantomData<fn() -> Meta>,
}

impl<Meta> UnwindSafe for Builder<Meta> {}
impl<Meta> RefUnwindSafe for Builder<Meta> {}

impl<Meta> Builder<Meta> {
    pub(crate) fn new() -> Self {
        Builder {
            name: "inflight".to_owned(),
            max_threads: None,
            max_pending: usize::MAX,
            keep_alive: KEEP_ALIVE,
            thread_per_task: false,
            inline: false,
            stack_size: None,
            stalled_after: None,
            retry: None,
            clock: None,
            gate: None,
            meta: PhantomData,
        }
    }

    /// Threads are called `{name}-1`, `{name}-2`, …; `inflight` by default. (Linux shows the first 15 bytes.)
    ///
    /// ```
    /// let manager = inflight::Manager::builder().name("mail").build()?;
    /// let name = manager.spawn((), |_cx| Ok(std::thread::current().name().map(str::to_owned)))?;
    /// assert_eq!(name.join()?.as_deref(), Some("mail-1"));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn name(self, name: &str) -> Self {
        Builder { name: name.to_owned(), ..self }
    }

    /// At most so many worker threads, at least 1; what is beyond them waits in a queue.
    ///
    /// ```
    /// let pool = inflight::Manager::<()>::builder().max_threads(4).build()?;
    /// assert_eq!(pool.stats().max_threads, 4);
    /// # Ok::<(), inflight::BuildError>(())
    /// ```
    pub fn max_threads(self, threads: usize) -> Self {
        Builder { max_threads: Some(threads), ..self }
    }

    /// How long a thread stays idle before it ends; ten seconds by default. Any `Duration` will do.
    ///
    /// ```
    /// use std::time::Duration;
    /// let _builder = inflight::Manager::<()>::builder().keep_alive(Duration::from_secs(60));
    /// ```
    pub fn keep_alive(self, idle: Duration) -> Self {
        Builder { keep_alive: idle, ..self }
    }

    /// Each task gets a fresh thread, which takes that one task and ends. If none is to be had, the task waits
    /// for one that ends: late is better than lost.
    ///
    /// ```
    /// let manager = inflight::Manager::<()>::builder().thread_per_task().build()?;
    /// # Ok::<(), inflight::BuildError>(())
    /// ```
    pub fn thread_per_task(self) -> Self {
        Builder { thread_per_task: true, ..self }
    }

    /// A task runs on its submitter's thread, before `run` returns: for tests. A delay sleeps, a loop ends
    /// after one iteration.
    ///
    /// ```
    /// let manager = inflight::Manager::builder().inline().build()?;
    /// manager.run("tea", |_cx| Ok(()))?;
    /// assert_eq!(manager.stats().succeeded, 1);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn inline(self) -> Self {
        Builder { inline: true, ..self }
    }

    /// The stack of each worker, in bytes; the standard library's default otherwise.
    ///
    /// ```
    /// let _builder = inflight::Manager::<()>::builder().stack_size(256 * 1024);
    /// ```
    pub fn stack_size(self, bytes: usize) -> Self {
        Builder { stack_size: Some(bytes), ..self }
    }

    /// At most so many tasks that have been accepted and have not started, delayed ones included; at least 1.
    /// `run` waits while there are as many, `try_run_task` answers `Full`. Unbounded by default.
    ///
    /// Retries and further iterations have started: they are never refused.
    ///
    /// ```
    /// let _builder = inflight::Manager::<()>::builder().max_pending(10_000);
    /// ```
    pub fn max_pending(self, tasks: usize) -> Self {
        Builder { max_pending: tasks, ..self }
    }

    /// [`Task::stalled_after`](crate::scoped::Task::stalled_after) for tasks that have none of their own. Any
    /// `Duration` will do.
    ///
    /// ```
    /// use std::time::Duration;
    /// let _builder = inflight::Manager::<()>::builder().stalled_after(Duration::from_secs(60));
    /// ```
    pub fn stalled_after(self, threshold: Duration) -> Self {
        Builder { stalled_after: Some(threshold), ..self }
    }

    /// [`Task::retry`](crate::scoped::Task::retry) for tasks that can be repeated and have none of their own:
    /// those of [`Task::retrying`](crate::scoped::Task::retrying) and
    /// [`Task::looping`](crate::scoped::Task::looping).
    ///
    /// ```
    /// let _builder = inflight::Manager::<()>::builder().retry(inflight::Retry::attempts(3));
    /// ```
    pub fn retry(self, retry: Retry) -> Self {
        Builder { retry: Some(retry), ..self }
    }

    /// All that is timed follows `clock`: for tests. A task is then never left to threads that are awake.
    #[cfg(feature = "test-util")]
    #[cfg_attr(docsrs, doc(cfg(feature = "test-util")))]
    pub fn clock(self, clock: &ManualClock) -> Self {
        Builder { clock: Some(clock.clock()), ..self }
    }

    /// Before each thread is started, `gate` is asked with its name, and may refuse it as the operating system
    /// would: for tests.
    ///
    /// ```
    /// use inflight::{Manager, Reason};
    /// use std::io;
    /// let manager = Manager::builder()
    ///     .thread_gate(|_name| Err(io::ErrorKind::WouldBlock.into()))
    ///     .build()?;
    /// let rejected = manager.run("tea", |_cx| Ok(())).unwrap_err();
    /// assert!(matches!(rejected.reason(), Reason::Spawn(_)));
    /// # Ok::<(), inflight::BuildError>(())
    /// ```
    #[cfg(feature = "test-util")]
    #[cfg_attr(docsrs, doc(cfg(feature = "test-util")))]
    pub fn thread_gate(self, gate: impl Fn(&str) -> io::Result<()> + Send + Sync + 'static) -> Self {
        Builder { gate: Some(Arc::new(gate)), ..self }
    }

    /// Builds the manager. It starts no thread before its first task.
    ///
    /// # Errors
    /// [`BuildError`] for settings that make no sense.
    ///
    /// ```
    /// use inflight::{BuildError, Manager};
    /// let refused = Manager::<()>::builder().name("tea\0pot").build();
    /// assert!(matches!(refused, Err(BuildError::Name(_))));
    /// ```
    pub fn build(self) -> Result<Manager<Meta>, BuildError>
    where
        Meta: Send + Sync + 'static,
    {
        let (config, clock) = self.check()?;
        let spawner = Box::new(|builder: thread::Builder, role: crate::core::Role, core| {
            builder.spawn(move || role.play(core)).map(drop)
        });
        Ok(Manager::from_core(Core::new(config, clock, spawner)))
    }

    /// As [`scope()`](crate::scope()), with these settings.
    ///
    /// # Errors
    /// [`BuildError`] for settings that make no sense; `f` has not been called then.
    ///
    /// # Panics
    /// If `f` panics, with the same payload, once all tasks have ended.
    ///
    /// ```
    /// use inflight::Manager;
    /// let numbers = [1, 2, 3];
    /// let sum = Manager::builder().max_threads(2).scope(|s| {
    ///     let handle = s.spawn("sum", |_cx| Ok(numbers.iter().sum::<u32>()));
    ///     handle.expect("the scope is open").join()
    /// })??;
    /// assert_eq!(sum, 6);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn scope<'env, F, R>(self, f: F) -> Result<R, BuildError>
    where
        Meta: Send + Sync + 'env,
        F: for<'scope> FnOnce(&Scope<'scope, 'env, Meta>) -> R,
    {
        let (config, clock) = self.check()?;
        let frames = callout::frames();
        Ok(thread::scope(|s| {
            let spawner = Box::new(move |builder: thread::Builder, role: crate::core::Role, core| {
                let body = move || {
                    // Its threads are in the call-outs of the thread that opened it.
                    let _inherited = callout::inherit(&frames);
                    role.play(core);
                };
                builder.spawn_scoped(s, body).map(drop)
            });
            let core = Core::new(config, clock, spawner);
            let _end = EndOfScope(&core);
            f(&Scope::new(Arc::clone(&core)))
        }))
    }

    fn check(self) -> Result<(Config, Clock), BuildError> {
        if self.name.contains('\0') {
            return Err(BuildError::Name(self.name));
        }
        if self.max_threads == Some(0) {
            return Err(BuildError::NoThreads);
        }
        if self.max_pending == 0 {
            return Err(BuildError::NoPending);
        }
        if self.thread_per_task && self.inline {
            return Err(BuildError::Contradiction("thread_per_task", "inline"));
        }
        if self.inline && self.max_threads.is_some() {
            return Err(BuildError::Contradiction("inline", "max_threads"));
        }
        let carried = max_map_count().map(|maps| (maps / MAPS_PER_THREAD).max(1));
        let most = carried.unwrap_or(THREADS_ELSEWHERE);
        let clock = self.clock.unwrap_or_else(Clock::real);
        let limits = Limits {
            policy: match (self.thread_per_task, self.inline) {
                (true, _) => Policy::ThreadPerTask,
                (_, true) => Policy::Inline,
                _ => Policy::Elastic,
            },
            max_threads: self.max_threads.unwrap_or(most).min(most),
            max_pending: self.max_pending,
            keep_alive: self.keep_alive,
            cores: thread::available_parallelism().map_or(1, usize::from),
            may_leave: !clock.is_manual(),
        };
        let config = Config {
            name: self.name,
            stack_size: self.stack_size,
            stalled_after: self.stalled_after,
            retry: self.retry,
            limits,
            process_threads: carried,
            gate: self.gate,
        };
        Ok((config, clock))
    }
}

/// Waits for all of a scope's tasks, also while its closure unwinds.
struct EndOfScope<'c, 'scope, Meta>(&'c Arc<Core<'scope, Meta>>);

impl<Meta> Drop for EndOfScope<'_, '_, Meta> {
    fn drop(&mut self) {
        self.0.end_scope();
    }
}

impl<Meta> fmt::Debug for Builder<Meta> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Builder")
            .field("name", &self.name)
            .field("max_threads", &self.max_threads)
            .field("max_pending", &self.max_pending)
            .field("keep_alive", &self.keep_alive)
            .field("thread_per_task", &self.thread_per_task)
            .field("inline", &self.inline)
            .field("stack_size", &self.stack_size)
            .field("stalled_after", &self.stalled_after)
            .field("retry", &self.retry)
            .finish_non_exhaustive()
    }
}

/// How many memory maps a process may have, where the system says so.
fn max_map_count() -> Option<usize> {
    std::fs::read_to_string("/proc/sys/vm/max_map_count").ok()?.trim().parse().ok()
}

/// How many threads this process has, where the system says so.
pub(crate) fn process_threads() -> Option<usize> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    status.lines().find_map(|line| line.strip_prefix("Threads:"))?.trim().parse().ok()
}
