//! Background work on plain threads that is never lost, for programs without an async runtime.
//!
//! Programs start work that nobody waits for: a receipt to send, a cache to warm, a job to put on a queue. When
//! the process ends, that work dies with it, silently. A [`Manager`] runs each such task on an OS thread, knows
//! which are live, tells hooks what became of them, and lets `main` wait until all is done.
//!
//! ```
//! use inflight::{Grace, Manager};
//! use std::time::Duration;
//!
//! let manager: Manager<&str> = Manager::new();
//! manager.on_task_failed(|_cx, meta, error| eprintln!("{meta}: {error}"));
//! manager.run("send-receipt", |_cx| {
//!     // ... what nobody waits for ...
//!     Ok(())
//! })?;
//! // ... SIGTERM arrives, the listener stops accepting ...
//! manager.shutdown(Grace::drain(Duration::from_secs(25)))?;
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! # When to use it, and when not
//! It is for blocking servers, command-line tools, and everything else that runs on threads and ends one day.
//! It is no job queue: a task lives and dies with its process. It makes sure that the work, or the putting of
//! it on a queue, is finished before the process goes. In an async program, tokio's `TaskTracker` is at home;
//! for fine-grained parallelism over data, `rayon` is.
//!
//! # A quick tour
//! - [`Manager::run`] for a closure, [`Manager::run_task`] for a [`Task`] with options,
//!   [`Manager::spawn`] if somebody wants the value: see [Results](#results).
//! - *Meta*, the first argument, is whatever tells you what a task is: a `&str`, an enum, a struct. Hooks and
//!   listings see it. It need not be `Debug` or `Clone`.
//! - Hooks ([`on_task_added`](Manager::on_task_added), [`on_task_succeeded`](Manager::on_task_succeeded),
//!   [`on_task_failed`](Manager::on_task_failed), …) learn what became of each task.
//! - A task gets a [`Context`]: values of the request that it came from, cancellation, deadlines, an
//!   interruptible [`sleep`](Context::sleep), and [`progress`](Context::progress).
//! - [`Manager::tasks`] and [`Manager::stats`] say what is going on.
//! - [`Manager::wait`], [`Manager::shutdown`] and the drop of the last handle see to it that nothing is lost.
//! - [`scope`] is for tasks that borrow: see [Borrowing](#borrowing).
//!
//! # What is guaranteed
//! 1. An accepted one-off task ends exactly once while the process lives: it succeeds, fails, or is named in
//!    [`Unfinished`].
//! 2. A rejected task comes back whole, closure and Meta, and was never run.
//! 3. [`wait`](Manager::wait) returns only after closures, captures and hooks of the tasks are done.
//! 4. A panic in a task, a hook, a payload or a capture never kills a worker, hangs a waiter or poisons
//!    anything.
//! 5. No lock is held while your code runs.
//! 6. Waiting for, or dropping, the manager inside its own tasks and hooks never deadlocks.
//! 7. [`shutdown`](Manager::shutdown) keeps its budget (the time of hooks aside) and names the survivors.
//! 8. Failing to create a thread is never a panic and never loses a task.
//! 9. A task is not held up by blocked ones while threads may still be added.
//! 10. Threads, backlog and retries are bounded as configured; memory is in proportion to the live tasks.
//! 11. Any `Duration` is accepted; the wall clock is never consulted.
//! 12. After a clean shutdown no thread of ours is left.
//!
//! # Shutting down
//! The ladder, gentlest first:
//!
//! | step | accepted tasks | new tasks |
//! |---|---|---|
//! | [`wait`](Manager::wait) | run to their end | still welcome |
//! | [`close`](Manager::close) | run to their end | handed back |
//! | [`cancel`](Manager::cancel) | those that run are told, the others end unrun | handed back |
//! | [`shutdown`](Manager::shutdown) | all of that, within a budget; what is left is named | handed back |
//!
//! A thread cannot be killed. A task that neither returns nor looks at its context stays, and the best that can
//! be done is to say which one it is: the error of `shutdown` prints a table with each task's Meta, phase, age,
//! thread, and last [`progress`](Context::progress). `main` may return it:
//!
//! ```no_run
//! use inflight::{Grace, Manager};
//! use std::time::Duration;
//!
//! fn main() -> Result<(), Box<dyn std::error::Error>> {
//!     let manager: Manager<&str> = Manager::new();
//!     manager.run("import", |cx| {
//!         for row in 0..1_000_000 {
//!             cx.check()?; // told to stop: return
//!             cx.progress(format!("row {row}"));
//!         }
//!         Ok(())
//!     })?;
//!     // Exit code 1 and the table on stderr, if tasks are left after 28 seconds.
//!     manager.shutdown(Grace::drain(Duration::from_secs(25)).then_cancel(Duration::from_secs(3)))?;
//!     Ok(())
//! }
//! ```
//!
//! or an `ExitCode` of yours:
//!
//! ```
//! use inflight::{Grace, Manager};
//! use std::process::ExitCode;
//! use std::time::Duration;
//!
//! fn end(manager: &Manager<&'static str>) -> ExitCode {
//!     match manager.shutdown(Grace::drain(Duration::from_secs(25))) {
//!         Ok(()) => ExitCode::SUCCESS,
//!         Err(unfinished) => {
//!             eprintln!("{unfinished}");
//!             ExitCode::from(75)
//!         }
//!     }
//! }
//! # assert_eq!(end(&Manager::new()), ExitCode::SUCCESS);
//! ```
//!
//! Inside a task, [`deadline`](Context::deadline) and [`remaining`](Context::remaining) show the next line that
//! it will hit, also when a shutdown begins while it runs.
//!
//! Whoever runs the process has a budget of its own, and kills when it is over: keep the sum of drain and
//! cancel some seconds below it. Kubernetes sends SIGTERM and, after `terminationGracePeriodSeconds` (30 by
//! default, a `preStop` hook included), SIGKILL; systemd waits for `TimeoutStopSec` (90 s by default). In both
//! cases stop the listener first. The feature `signal-hook` waits for the signal. What still runs when
//! `main` returns dies with the process; what ends before that is still reported to its hooks.
//!
//! # Retries
//! A task made by [`Task::retrying`](scoped::Task::retrying) is attempted again when it fails, as its
//! [`Retry`] says: how often, after which pauses, for which errors. A panic is a failed attempt.
//! [`on_task_retried`](Manager::on_task_retried) sees each failure that is to be repeated,
//! [`on_task_failed`](Manager::on_task_failed) the last. A pause occupies no thread. A
//! [`timeout`](scoped::Task::timeout) covers all attempts. On [`close`](Manager::close) retries go on at their
//! time; on [`cancel`](Manager::cancel) a task in a pause ends with the failure that it had.
//!
//! ```
//! use inflight::{Backoff, Manager, Retry, Task, TaskError};
//! use std::time::Duration;
//!
//! let manager = Manager::new();
//! let patiently = Retry::attempts(5)
//!     .backoff(Backoff::exponential(Duration::from_millis(1), Duration::from_millis(50)))
//!     .when(|error| !matches!(error, TaskError::Panicked(_)));
//! manager.run_task(Task::retrying("upload", |_cx| Ok(())).retry(patiently))?;
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! # Loops
//! A task made by [`Task::looping`](scoped::Task::looping) is repeated until the manager is closed, at once or
//! with a [period](scoped::Task::every) from start to start. Each iteration is reported like a task; one that
//! fails does not end the loop. Without a period a loop whose iterations fail backs off, from 10 ms to 5 s, so
//! that it does not spin. A loop that waits for its next iteration occupies no thread. `wait` does not wait for
//! loops until the manager is closed; then they end after the iteration in hand. Their end is silent.
//!
//! # Stalls
//! An attempt that has neither ended nor called [`progress`](Context::progress) for its
//! [`stalled_after`](scoped::Task::stalled_after) is reported to
//! [`on_task_stalled`](Manager::on_task_stalled), once; when it goes on or ends,
//! [`on_task_recovered`](Manager::on_task_recovered) learns for how long it hung. Both run on a thread of their
//! own, and hold up nothing if they block, but that the task in question ends only once its notices are
//! delivered. Time in queue, delay, pause or hooks is no stall.
//!
//! # Results
//! [`spawn`](Manager::spawn) returns a [`Handle`], whose [`join`](scoped::Handle::join) waits for the task's
//! value. Unlike `std::thread::JoinHandle`, dropping it loses nothing: the task is run and waited for all the
//! same. Inside a task, `join` runs a task that has not started right there, so that a tree of tasks that start
//! and join each other ends on any number of threads.
//!
//! # Borrowing
//! [`scope`] opens a manager whose tasks may borrow from the surrounding frame, as in `std::thread::scope`. It
//! returns when they have all ended, also if its closure panics. Its threads are started for it, a few tens of
//! microseconds each: for scopes in a hot path and for fine-grained work, prefer `rayon`.
//!
//! # How threads grow
//! A submitter wakes the idle thread that went idle last, or starts one, unless the queue is *in flow*: a
//! worker has taken something from it within the last 20 µs, or looks at it just now, or two are already on
//! their way. Then it leaves the task to them, and the supervisor looks after half a millisecond: tasks that
//! stood in the queue at its last look and still do are stuck behind blocked ones, and get as many threads,
//! up to twice as many as there are in one step. It wakes 64 idle ones at a time, and each of them another,
//! so that this does not hang on one core. It adds none beyond the cores while those that are awake take a
//! task every 60 µs or faster, since these are busy and not blocked, and none at all at one in 2 µs, where
//! the lock is what limits. Where they were busy for two looks and now take nothing, they may have lost their
//! cores for a moment: that takes one look more. And where they run tiny tasks, one in 8 µs on each core (or
//! in 2 µs, if there are fewer of them than cores), a submitter leaves it all to the supervisor.
//!
//! What was seen that the numbers come from, on two cores:
//!
//! | number | seen |
//! |---|---|
//! | 20 µs | a worker with tiny tasks looks at the queue every 0.2 µs, one with tasks of 10 µs every ten; to wake another costs the submitter 5 µs |
//! | two on their way, for 100 µs | from wake-up to work it takes 12 to 16 µs on idle cores, and some 50 on busy ones |
//! | half a millisecond | 4,000 tasks that block had all their threads within 30 to 40 ms, about as long as a bare loop takes to unpark so many |
//! | twice as many | without a bound, workers that lost their cores brought a crowd about |
//! | 60 µs, 2 µs | 18 threads on tiny tasks took 3.2 µs for each, where two took 0.2 |
//! | 8 µs on each core | without it, tasks that start tasks brought 270 to 700 threads about, and with it 3 to 9 |
//! | two looks | with one, a worker that was blocked in every other half millisecond held up a backlog for good |
//!
//! # Where tiny tasks flow
//! A worker that has run 64 tasks of no more than 2 µs each in a row, between which no other worker took any,
//! takes the next ones by the tray: what there is of a block of 64. So it has the manager's lock once for all of
//! them. Where it has caught up with the submitters it lets some more come, since it would meet them at the lock
//! for each task otherwise: up to a block, in four microseconds at the most, if something comes in each; and it
//! does so less and less often where too little comes.
//!
//! Another worker that comes meanwhile would only be in the way where tasks take half a microsecond and less (at
//! 0.35 µs, all in all, one worker is as fast as two) and none has held up the first for 300 µs. It goes idle
//! then, and the supervisor, which a fixed pool has for this as well, has it come again should the first be held
//! up, within three of its looks. Otherwise, and whenever somebody asks (`len`, `tasks`, `stats`), cancels, joins
//! or shuts down, what has not been begun is put back first, where it stood.
//!
//! What waits in a tray is queued, to all who ask, and tasks start in their order. Only the clock is read for one
//! in sixteen, unless tasks or hooks ask how long they waited or ran: see [`Context::running_for`].
//!
//! A worker has to earn its next tray again after one that was put back. So a hook that asks for `len` with each
//! task, as those of the feature `metrics` do, has them taken one by one. So are tasks with options, a context or
//! a `carry`, and all where the backlog is bounded (`max_pending`).
//!
//! # How far one lock goes
//! What a manager knows stands behind one lock. A task's submitter holds it for about 25 ns, and its worker
//! for 35; on different cores both take longer, and each hand-over costs the way of a cache line from one
//! core to the other. That makes some 150 ns a task between cores that share a cache, and about 450 between
//! those that do not. On `n` cores the lock is busy for less than half of the time, and thus out of the way, if
//! a task takes longer than `2 × n` times that:
//!
//! | cores | the lock is out of the way for tasks from | or, without a shared cache, from |
//! |---|---|---|
//! | 2 | 0.6 µs | 2 µs |
//! | 8 | 2.4 µs | 7 µs |
//! | 16 | 5 µs | 14 µs |
//! | 64 | 19 µs | 58 µs |
//!
//! Tasks of less than half a microsecond are left to one worker, as said above: submitters then meet at the lock
//! for each task, and the worker once for each tray, and they end some six million tasks a second, whether one thread
//! submits or four do, and however many threads there may be.
//!
//! Seen on two cores, the only ones this was measured on: tasks of 0.2, 0.5, 1, 2, 5 and 10 µs took 3.0, 1.8,
//! 1.4, 1.2, 1.1 and 1.03 times as long as two bare threads take for the same work. That is about half a
//! microsecond of a core's time for each task, its submission included, and no longer the lock.
//! (`cargo run --release -p inflight-benches -- --only grain`, and `--only contention`.)
//!
//! Past that, give each part of the program a manager of its own, since managers share nothing: two threads
//! that flood one manager paid 0.15 to 0.25 µs a task, and with one each 0.13. Or put more into a task. For fine
//! grain over data, `rayon` is better at it than this will ever be.
//!
//! # What to know about processes
//! - `fork` without `exec` copies one thread and the locks of all: do not use a manager in the child.
//! - With `panic = "abort"` a panic in a task ends the process, as everywhere.
//! - Destructors of your thread-locals run after a worker has left, and may outlive a shutdown.
//!
//! # Features
//! | feature | brings |
//! |---|---|
//! | `log` | a line for each step of a task's life, through the `log` crate: `observe::log` |
//! | `metrics` | counters, gauges and histograms, through the `metrics` crate: `observe::metrics` |
//! | `signal-hook` | waiting for SIGINT or SIGTERM in a blocking program (Unix only) |
//! | `tracing` | events, and the submitter's span for its tasks, through the `tracing` crate: `observe::tracing` |
//! | `test-util` | a clock that tests advance, and threads that tests refuse |
//!
//! None is on by default; the library depends on `parking_lot` and `crossbeam-utils`.
#![cfg_attr(docsrs, feature(doc_cfg))]

mod builder;
mod clock;
mod context;
mod core;
mod error;
mod grace;
mod handle;
mod hooks;
mod info;
mod manager;
#[cfg(any(feature = "log", feature = "tracing", feature = "metrics"))]
#[cfg_attr(docsrs, doc(cfg(any(feature = "log", feature = "tracing", feature = "metrics"))))]
pub mod observe;
mod retry;
mod scope;
#[cfg(all(unix, feature = "signal-hook"))]
#[cfg_attr(docsrs, doc(cfg(feature = "signal-hook")))]
pub mod signal;
mod sync;
mod task;
mod verbs;

pub use crate::builder::Builder;
#[cfg(feature = "test-util")]
#[cfg_attr(docsrs, doc(cfg(feature = "test-util")))]
pub use crate::clock::ManualClock;
pub use crate::context::{Cancelled, Canceller, Context};
pub use crate::error::{BoxError, BuildError, Reason, TaskError};
pub use crate::grace::Grace;
pub use crate::info::{Phase, Stats};
pub use crate::manager::Manager;
pub use crate::retry::{Backoff, Retry};
pub use crate::scope::{Scope, scope};
pub use crate::task::{Kind, TaskId};

/// The types that carry the lifetime of what a scope's tasks borrow.
///
/// If you use a [`Manager`], you need none of these: the names at the root are their aliases for `'static`.
pub mod scoped {
    pub use crate::error::{Rejected, Unfinished};
    pub use crate::handle::Handle;
    pub use crate::info::TaskInfo;
    pub use crate::task::Task;
}

/// A task with options, for [`Manager::run_task`]: made by [`once`](scoped::Task::once),
/// [`retrying`](scoped::Task::retrying) or [`looping`](scoped::Task::looping).
///
/// ```
/// use inflight::{Manager, Task};
/// use std::time::Duration;
/// let manager = Manager::new();
/// manager.run_task(Task::once("receipt", |_cx| Ok(())).timeout(Duration::from_secs(5)))?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub type Task<Meta> = scoped::Task<'static, Meta>;

/// A task that was not accepted, whole: its [`reason`](scoped::Rejected::reason), its
/// [`meta`](scoped::Rejected::meta), and the task itself ([`into_task`](scoped::Rejected::into_task),
/// [`run_here`](scoped::Rejected::run_here)).
pub type Rejected<Meta> = scoped::Rejected<'static, Meta>;

/// A live task as it was at one moment: what [`Manager::tasks`] lists.
pub type TaskInfo<Meta> = scoped::TaskInfo<'static, Meta>;

/// The tasks that were still live when the time was up: the error of [`Manager::shutdown`] and
/// [`Manager::wait_timeout`].
pub type Unfinished<Meta> = scoped::Unfinished<'static, Meta>;

/// A task whose value somebody wants: what [`Manager::spawn`] returns, to be
/// [`join`](scoped::Handle::join)ed.
pub type Handle<T> = scoped::Handle<'static, T>;
