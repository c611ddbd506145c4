//! A task before it is accepted, and the record that it lives in from then on.
//!
//! A task is two things. The [`Record`] is shared: with the state, for listing, and with every
//! [`TaskInfo`]; it owns Meta and, while it is needed, the closure. The [`Luggage`] is what only some tasks
//! have (options, context values, what `carry` captured); it belongs to whoever has the task in hand.
//!
//! [`TaskInfo`]: crate::scoped::TaskInfo

use std::borrow::Cow;
use std::fmt;
use std::panic::{RefUnwindSafe, UnwindSafe};
use std::time::Duration;

use crate::clock::{Clock, Moment};
use crate::context::{Context, Control, Root, Values};
use crate::core::{lifecycle, unwind};
use crate::error::{BoxError, TaskError};
use crate::handle::{Shared, SpawnJob};
use crate::hooks::Carried;
use crate::retry::{Pauses, Retry};
use crate::sync::{Arc, AtomicU32, AtomicU64, Mutex, Ordering};

/// Whether a task runs once or again and again.
///
/// ```
/// use inflight::{Kind, Manager};
/// let manager: Manager<&str> = Manager::new();
/// assert_eq!(manager.count_of(Kind::Loop), 0);
/// ```
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
#[non_exhaustive]
pub enum Kind {
    /// It runs to its end once, in one or more attempts.
    Once,
    /// It is repeated until its manager is closed.
    Loop,
}

/// A task's number within its manager, in the order of acceptance.
///
/// ```
/// let manager = inflight::Manager::new();
/// let first = manager.run("tea", |_cx| Ok(()))?;
/// let second = manager.run("coffee", |_cx| Ok(()))?;
/// assert!(first < second);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct TaskId(pub(crate) u64);

impl fmt::Display for TaskId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.0, f)
    }
}

/// A task with options, for [`run_task`](crate::Manager::run_task).
///
/// `std::thread::Builder` for tasks: a closure, the Meta that hooks and listings see, and how it is to run.
/// See [`inflight::Task`](crate::Task), its alias for tasks that borrow nothing.
///
/// ```
/// use inflight::{Manager, Task};
/// use std::time::Duration;
///
/// let manager = Manager::new();
/// manager.run_task(
///     Task::once("cache", |cx| {
///         while cx.check().is_ok() {
///             // ... warm one entry ...
/// #           break;
///         }
///         Ok(())
///     })
///     .timeout(Duration::from_secs(5)),
/// )?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[must_use = "a task does nothing until it is submitted"]
pub struct Task<'a, Meta> {
    pub(crate) record: Arc<Record<'a, Meta>>,
    pub(crate) luggage: Option<Box<Luggage<'a>>>,
}

// A closure that panicked is dropped, or called again as one that asked for retries.
impl<Meta> UnwindSafe for Task<'_, Meta> {}
impl<Meta> RefUnwindSafe for Task<'_, Meta> {}

/// Closures up to this size live in their record; larger ones in a box of their own, so that they are not
/// moved over a worker's stack.
const INLINE_CLOSURE: usize = 1024;

type BoxOnce<'a, T> = Box<dyn FnOnce(&Context) -> Result<T, BoxError> + Send + 'a>;
type BoxMut<'a> = Box<dyn FnMut(&Context) -> Result<(), BoxError> + Send + 'a>;

impl<'a, Meta> Task<'a, Meta> {
    /// A task that runs once.
    ///
    /// ```
    /// use inflight::{Manager, Task};
    /// Manager::new().run_task(Task::once("receipt", |_cx| Ok(())))?;
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn once<F>(meta: Meta, task: F) -> Self
    where
        F: FnOnce(&Context) -> Result<(), BoxError> + Send + 'a,
    {
        if size_of::<F>() > INLINE_CLOSURE {
            let task: BoxOnce<'a, ()> = Box::new(task);
            return Self::with_job(meta, Kind::Once, OnceJob(Mutex::new(Some(task))));
        }
        Self::with_job(meta, Kind::Once, OnceJob(Mutex::new(Some(task))))
    }

    /// A task that is attempted again when it fails, as [`retry`](Task::retry) or
    /// [`Builder::retry`](crate::Builder::retry) says; without either, it is attempted once.
    ///
    /// ```
    /// use inflight::{Manager, Retry, Task};
    /// let manager = Manager::new();
    /// manager.run_task(Task::retrying("receipt", |_cx| Ok(())).retry(Retry::attempts(3)))?;
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn retrying<F>(meta: Meta, task: F) -> Self
    where
        F: FnMut(&Context) -> Result<(), BoxError> + Send + 'a,
    {
        let mut task = Self::repeated(meta, Kind::Once, task);
        task.luggage_mut().repeats = true;
        task
    }

    /// A task that is repeated until its manager is closed: at once, or as [`every`](Task::every) says.
    ///
    /// An iteration that fails is reported, and the loop goes on; without `every` it backs off, up to five
    /// seconds, so that a loop that fails at once does not spin. The end of a loop is silent.
    ///
    /// ```
    /// use inflight::{Manager, Task};
    /// use std::time::Duration;
    /// let manager = Manager::new();
    /// manager.run_task(Task::looping("poll", |_cx| Ok(())).every(Duration::from_secs(60)))?;
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn looping<F>(meta: Meta, task: F) -> Self
    where
        F: FnMut(&Context) -> Result<(), BoxError> + Send + 'a,
    {
        let mut task = Self::repeated(meta, Kind::Loop, task);
        task.luggage_mut().repeats = true;
        task
    }

    fn repeated<F>(meta: Meta, kind: Kind, task: F) -> Self
    where
        F: FnMut(&Context) -> Result<(), BoxError> + Send + 'a,
    {
        if size_of::<F>() > INLINE_CLOSURE {
            let task: BoxMut<'a> = Box::new(task);
            return Self::with_job(meta, kind, RepeatJob(Mutex::new(Some(task))));
        }
        Self::with_job(meta, kind, RepeatJob(Mutex::new(Some(task))))
    }

    /// A task that runs once and has a handle.
    pub(crate) fn spawned<T, F>(meta: Meta, task: F, shared: Arc<Shared<T>>) -> Self
    where
        F: FnOnce(&Context) -> Result<T, BoxError> + Send + 'a,
        T: Send + 'a,
    {
        if size_of::<F>() > INLINE_CLOSURE {
            let task: BoxOnce<'a, T> = Box::new(task);
            return Self::with_job(meta, Kind::Once, SpawnJob::new(task, shared));
        }
        Self::with_job(meta, Kind::Once, SpawnJob::new(task, shared))
    }

    fn with_job(meta: Meta, kind: Kind, job: impl Job + 'a) -> Self {
        let record = Arc::new(RecordOf {
            meta,
            kind,
            attempt: AtomicU32::new(0),
            id: AtomicU64::new(0),
            accepted: AtomicU64::new(0),
            job,
        });
        Task { record, luggage: None }
    }

    /// The task sees the values of `cx`, and is detached from its cancellation and deadline.
    ///
    /// ```
    /// use inflight::{Context, Task};
    /// let cx = Context::background().with_value("request 7");
    /// let _task = Task::once("audit", |cx| Ok(println!("{:?}", cx.value::<&str>()))).context(&cx);
    /// ```
    pub fn context(mut self, cx: &Context) -> Self {
        self.luggage_mut().values = cx.values.clone();
        self
    }

    /// From `timeout` after it first runs the task's context counts as cancelled, over all its attempts and
    /// the pauses between them; in a loop, for each iteration anew. A retry that would start later does not.
    /// Any `Duration` will do.
    ///
    /// It is cooperative: no thread can be killed. A task that is told so by
    /// [`check`](Context::check) or [`sleep`](Context::sleep) and returns an error ends as
    /// [`TimedOut`](TaskError::TimedOut).
    ///
    /// ```
    /// use std::time::Duration;
    /// let _task = inflight::Task::once("report", |cx| Ok(cx.sleep(Duration::MAX)?))
    ///     .timeout(Duration::from_millis(5));
    /// ```
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.luggage_mut().timeout = Some(timeout);
        self
    }

    /// The task is due only `delay` after it was accepted. It occupies no thread until then. Any `Duration`
    /// will do.
    ///
    /// ```
    /// use std::time::Duration;
    /// let _task = inflight::Task::once("reminder", |_cx| Ok(())).delay(Duration::from_secs(3600));
    /// ```
    pub fn delay(mut self, delay: Duration) -> Self {
        self.luggage_mut().delay = Some(delay);
        self
    }

    /// The loop's iterations start `period` apart. One that takes longer is followed at once by the next, and
    /// those that were missed are not made up for. Any `Duration` will do.
    ///
    /// # Panics
    /// If the task is no loop: only [`Task::looping`] makes one.
    ///
    /// ```
    /// use std::time::Duration;
    /// let _task = inflight::Task::looping("poll", |_cx| Ok(())).every(Duration::from_secs(1));
    /// ```
    #[track_caller]
    pub fn every(mut self, period: Duration) -> Self {
        assert!(
            self.record.kind == Kind::Loop,
            "`every` is for tasks that loop: make this one with `Task::looping`"
        );
        self.luggage_mut().every = Some(period);
        self
    }

    /// An attempt that neither ends nor calls [`progress`](Context::progress) for `threshold` is reported to
    /// the hooks of [`on_task_stalled`](crate::Manager::on_task_stalled). Overrides
    /// [`Builder::stalled_after`](crate::Builder::stalled_after). Any `Duration` will do.
    ///
    /// ```
    /// use std::time::Duration;
    /// let _task = inflight::Task::once("import", |_cx| Ok(())).stalled_after(Duration::from_secs(30));
    /// ```
    pub fn stalled_after(mut self, threshold: Duration) -> Self {
        self.luggage_mut().stalled_after = Some(threshold);
        self
    }

    /// How the task is attempted again when it fails. Overrides
    /// [`Builder::retry`](crate::Builder::retry). A loop applies it to each iteration.
    ///
    /// # Panics
    /// If the task's closure can run only once: [`Task::retrying`] and [`Task::looping`] take one that can be
    /// called again.
    ///
    /// ```
    /// use inflight::{Retry, Task};
    /// let _task = Task::retrying("receipt", |_cx| Ok(())).retry(Retry::attempts(3));
    /// ```
    #[track_caller]
    pub fn retry(mut self, retry: Retry) -> Self {
        assert!(
            self.luggage.as_ref().is_some_and(|luggage| luggage.repeats),
            "`retry` needs a closure that can be called again: make this task with `Task::retrying`"
        );
        self.luggage_mut().retry = Some(retry);
        self
    }

    pub(crate) fn meta(&self) -> &Meta {
        &self.record.meta
    }

    pub(crate) fn luggage_mut(&mut self) -> &mut Luggage<'a> {
        self.luggage.get_or_insert_default()
    }

    /// Since when it has been due.
    pub(crate) fn due(&self) -> Moment {
        let due = self.luggage.as_ref().and_then(|luggage| luggage.course.due);
        due.unwrap_or_else(|| self.record.accepted())
    }

    /// It has waited for this moment, as only what has luggage does.
    pub(crate) fn due_at(mut self, due: Moment) -> Self {
        self.luggage_mut().course.due = Some(due);
        self
    }

    /// Is there something about it that only the supervisor can do in time?
    pub(crate) fn needs_supervisor(&self) -> bool {
        self.luggage.as_ref().is_some_and(|luggage| luggage.needs_supervisor(self.record.kind))
    }

    pub(crate) fn is_watched(&self) -> bool {
        self.luggage.as_ref().is_some_and(|luggage| luggage.is_watched())
    }

    /// One attempt outside of any manager.
    pub(crate) fn run_here(self) -> Result<(), TaskError> {
        let Task { record, luggage } = self;
        let clock = Clock::real();
        let luggage = luggage.unwrap_or_default();
        let started = clock.now();
        let timeout_at = luggage.timeout.map_or(Moment::NEVER, |timeout| started.after(timeout));
        let thread = std::thread::current().name().map(Arc::from);
        let control = Arc::new(Control::new(Arc::new(Root::new(clock)), usize::MAX, thread));
        control.reset(1, started, timeout_at);
        let cx = Context::of(Arc::clone(&control), luggage.values.clone());
        let outcome = lifecycle::outcome(&control, unwind::catch(|| record.job.run(&cx)));
        // The panic of a drop has no hook_panics to be counted in: nobody's manager ran this.
        let _ = unwind::catch(|| record.job.discard());
        control.finish();
        let _ = unwind::catch(|| record.job.answer(outcome.as_ref().err()));
        outcome
    }
}

impl<Meta> fmt::Debug for Task<'_, Meta> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Task").field("kind", &self.record.kind).finish_non_exhaustive()
    }
}

// ---------------------------------------------------------------------------------------------------------

/// What a live task is to the manager, and to whoever looks at it: Meta, numbers, and the job itself.
///
/// One allocation, unsized by its last field.
pub(crate) struct RecordOf<Meta, J: ?Sized> {
    pub(crate) meta: Meta,
    pub(crate) kind: Kind,
    // The numbers are written under the state's lock, or by whoever has the task in hand.
    attempt: AtomicU32,
    id: AtomicU64,
    accepted: AtomicU64,
    pub(crate) job: J,
}

pub(crate) type Record<'a, Meta> = RecordOf<Meta, dyn Job + 'a>;

/// What a hand listed and has let go of: it may be the last owner, and is dropped without the lock.
pub(crate) type Parting<'a, Meta> = Option<Arc<Record<'a, Meta>>>;

impl<Meta, J: ?Sized> RecordOf<Meta, J> {
    pub(crate) fn id(&self) -> TaskId {
        TaskId(self.id.load(Ordering::Relaxed))
    }

    /// When it was accepted.
    pub(crate) fn accepted(&self) -> Moment {
        Moment(self.accepted.load(Ordering::Relaxed))
    }

    pub(crate) fn accept(&self, id: TaskId, now: Moment) {
        self.id.store(id.0, Ordering::Relaxed);
        self.accepted.store(now.0, Ordering::Relaxed);
    }

    /// Which attempt runs, or ran last; 0: none has started.
    pub(crate) fn attempt(&self) -> u32 {
        self.attempt.load(Ordering::Relaxed)
    }

    /// Writes what stands there, and so has the record's cache line come to this core for good. For whoever alone
    /// has the task, in hand or in a tray.
    #[inline]
    pub(crate) fn touch(&self) {
        self.set_attempt(self.attempt());
    }

    pub(crate) fn set_attempt(&self, attempt: u32) {
        self.attempt.store(attempt, Ordering::Relaxed);
    }
}

/// The closure of a task, whatever its type. Every method but `placed` runs code of the user's.
pub(crate) trait Job: Send + Sync {
    /// Runs one attempt.
    fn run(&self, cx: &Context) -> Result<(), BoxError>;

    /// Drops the closure, if it is still there, and with it the captures.
    fn discard(&self);

    /// Tells whoever holds the task's handle what became of it; nobody, for most tasks.
    fn answer(&self, _error: Option<&TaskError>) {}

    /// The task stands in the queue at `place`; called under the state's lock.
    fn placed(&self, _place: u64) {}
}

/// Where a task stands in the queue, as long as it does. Set and asked for under the state's lock, since the
/// queue moves what stands in it.
pub(crate) struct Place(AtomicU64);

impl Place {
    pub(crate) fn nowhere() -> Self {
        Place(AtomicU64::new(u64::MAX))
    }

    pub(crate) fn set(&self, place: u64) {
        self.0.store(place, Ordering::Relaxed);
    }

    pub(crate) fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

struct OnceJob<F>(Mutex<Option<F>>);

impl<F> Job for OnceJob<F>
where
    F: FnOnce(&Context) -> Result<(), BoxError> + Send,
{
    fn run(&self, cx: &Context) -> Result<(), BoxError> {
        let task = self.0.lock().take().expect("a task that runs once is run once");
        task(cx)
    }

    fn discard(&self) {
        let task = self.0.lock().take();
        drop(task);
    }
}

struct RepeatJob<F>(Mutex<Option<F>>);

impl<F> Job for RepeatJob<F>
where
    F: FnMut(&Context) -> Result<(), BoxError> + Send,
{
    fn run(&self, cx: &Context) -> Result<(), BoxError> {
        self.0.lend(|task| task(cx))
    }

    fn discard(&self) {
        let task = self.0.lock().take();
        drop(task);
    }
}

/// What only some tasks have. It belongs to whoever has the task in hand, and travels with it.
#[derive(Default)]
pub(crate) struct Luggage<'a> {
    pub(crate) values: Values,
    pub(crate) timeout: Option<Duration>,
    pub(crate) delay: Option<Duration>,
    pub(crate) every: Option<Duration>,
    pub(crate) stalled_after: Option<Duration>,
    pub(crate) retry: Option<Retry>,
    /// The closure can be called again.
    pub(crate) repeats: bool,
    pub(crate) carried: Vec<Box<dyn Carried + 'a>>,
    pub(crate) course: Course,
}

impl Luggage<'_> {
    pub(crate) fn needs_supervisor(&self, kind: Kind) -> bool {
        kind == Kind::Loop || self.delay.is_some() || self.retry.is_some() || self.is_watched()
    }

    pub(crate) fn is_watched(&self) -> bool {
        self.stalled_after.is_some()
    }

    /// When the time is up that its attempts have in all; they have begun, or begin now.
    pub(crate) fn timeout_at(&self) -> Moment {
        self.timeout.zip(self.course.began).map_or(Moment::NEVER, |(timeout, began)| began.after(timeout))
    }
}

/// How far the attempts of a task, or of one iteration of a loop, have come.
#[derive(Default)]
pub(crate) struct Course {
    /// Attempts so far.
    pub(crate) attempts: u32,
    /// When the first of them began.
    pub(crate) began: Option<Moment>,
    /// Until when it waited, if it had to.
    pub(crate) due: Option<Moment>,
    /// Never locked: the mutex makes it `Sync`.
    pub(crate) pauses: Mutex<Option<Pauses>>,
    /// The failure that a retry pause follows.
    pub(crate) failure: Option<TaskError>,
    /// Iterations in a row that have failed: a loop without a period backs off.
    pub(crate) failed_in_a_row: u32,
    pub(crate) note: Option<Cow<'static, str>>,
}
