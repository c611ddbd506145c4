//! What a task is told: values, cancellation, deadlines, and who it is.
//!
//! Three things hang on each other. A [`Root`] is the manager's own: `cancel` and `shutdown` speak through it.
//! A [`Control`] belongs to one attempt of one task and knows its root. A [`Derived`] is what `with_cancel` and
//! `with_timeout` put in front of either. A context is cancelled when any of them is.
//!
//! No cancellation is missed: a sleeper puts itself on the list of every [`Line`] above it, then looks at the
//! flags; who cancels sets the flag, then walks the list. The list's lock orders the two.

use std::any::{Any, TypeId};
use std::borrow::Cow;
use std::collections::VecDeque;
use std::fmt;
use std::panic::{RefUnwindSafe, UnwindSafe};
use std::time::{Duration, Instant};

use crate::clock::{Clock, Moment};
use crate::sync::{Arc, AtomicBool, AtomicU8, AtomicU32, AtomicU64, Condvar, Mutex, Ordering};
use crate::task::TaskId;

/// What a task, and every hook, is given: values, cancellation, deadlines, and which attempt this is.
///
/// Go's `context.Context`, for threads: it is handed down by reference, derived from, and never cancels
/// anything by force. Unlike there, [`sleep`](Context::sleep) is a method, and wakes at once on a
/// cancellation.
///
/// A task keeps the *values* of the context that it was submitted with ([`Task::context`]), and is detached
/// from that context's cancellation and deadline: the work outlives the request that started it. It is
/// attached to its manager's instead, which [`cancel`] and [`shutdown`] reach.
///
/// A clone that is kept beyond the attempt it was made for counts as cancelled from then on.
///
/// ```
/// use inflight::{Context, Manager, Task};
///
/// #[derive(Clone)]
/// struct RequestId(u64);
///
/// let request = Context::background().with_value(RequestId(7));
/// let manager = Manager::new();
/// manager.run_task(
///     Task::once("audit", |cx| {
///         assert_eq!(cx.value::<RequestId>().map(|id| id.0), Some(7));
///         Ok(())
///     })
///     .context(&request),
/// )?;
/// manager.wait();
/// assert_eq!(manager.stats().succeeded, 1);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
///
/// [`Task::context`]: crate::scoped::Task::context
/// [`cancel`]: crate::Manager::cancel
/// [`shutdown`]: crate::Manager::shutdown
#[derive(Clone)]
#[must_use = "a derived context does nothing until it is handed to somebody"]
pub struct Context {
    pub(crate) values: Values,
    pub(crate) control: Option<Arc<Control>>,
    derived: Option<Arc<Derived>>,
}

// Values are only ever handed out by shared reference, and the rest is atomics and locks that no panic poisons.
impl UnwindSafe for Context {}
impl RefUnwindSafe for Context {}

impl Context {
    /// A context that has no values, is never cancelled and belongs to no task.
    ///
    /// ```
    /// assert!(!inflight::Context::background().is_cancelled());
    /// ```
    pub fn background() -> Self {
        Context { values: Values::default(), control: None, derived: None }
    }

    /// The context of an attempt.
    pub(crate) fn of(control: Arc<Control>, values: Values) -> Self {
        Context { values, control: Some(control), derived: None }
    }

    /// A context that also carries `value`, to be found by its type. The newest of a type wins.
    ///
    /// ```
    /// use inflight::Context;
    /// let cx = Context::background().with_value("tea").with_value("coffee").with_value(2_u32);
    /// assert_eq!(cx.value::<&str>(), Some(&"coffee"));
    /// assert_eq!(cx.value::<u32>(), Some(&2));
    /// ```
    pub fn with_value<T: Send + Sync + 'static>(&self, value: T) -> Self {
        let mut cx = self.clone();
        cx.values = self.values.with(value);
        cx
    }

    /// The value of type `T` that was put in last, if there is one.
    ///
    /// ```
    /// assert_eq!(inflight::Context::background().value::<u32>(), None);
    /// ```
    #[must_use]
    pub fn value<T: Send + Sync + 'static>(&self) -> Option<&T> {
        self.values.get::<T>()
    }

    /// A context of the same values that can be cancelled on its own, and is cancelled with this one.
    ///
    /// ```
    /// let (cx, canceller) = inflight::Context::background().with_cancel();
    /// assert!(cx.check().is_ok());
    /// canceller.cancel();
    /// assert!(cx.check().is_err());
    /// ```
    pub fn with_cancel(&self) -> (Self, Canceller) {
        let cx = self.derive(Moment::NEVER);
        let derived = cx.derived.clone().expect("derive() has just put it there");
        (cx, Canceller(derived))
    }

    /// A context of the same values that counts as cancelled once `timeout` has passed, and is cancelled with
    /// this one. Any `Duration` will do; one too long to count means never.
    ///
    /// ```
    /// use std::time::Duration;
    /// let cx = inflight::Context::background().with_timeout(Duration::ZERO);
    /// assert!(cx.is_cancelled());
    /// ```
    pub fn with_timeout(&self, timeout: Duration) -> Self {
        self.derive(self.clock().now().after(timeout))
    }

    /// A context of the same values, and nothing else: not cancelled with this one, without deadline, and of
    /// no task.
    ///
    /// ```
    /// use inflight::Context;
    /// let (cx, canceller) = Context::background().with_value(1_u8).with_cancel();
    /// canceller.cancel();
    /// let kept = cx.without_cancel();
    /// assert!(!kept.is_cancelled());
    /// assert_eq!(kept.value::<u8>(), Some(&1));
    /// ```
    pub fn without_cancel(&self) -> Self {
        Context { values: self.values.clone(), control: None, derived: None }
    }

    fn derive(&self, until: Moment) -> Self {
        let derived =
            Derived { line: Line::default(), until, clock: self.clock(), parent: self.derived.clone() };
        Context {
            values: self.values.clone(),
            control: self.control.clone(),
            derived: Some(Arc::new(derived)),
        }
    }

    /// Has this context been cancelled, or its deadline passed?
    ///
    /// Cheap enough for an inner loop. Unlike [`check`](Context::check) and [`sleep`](Context::sleep) it does
    /// not count as having told the task so (see [`TaskError::Cancelled`](crate::TaskError::Cancelled)).
    ///
    /// ```
    /// assert!(!inflight::Context::background().is_cancelled());
    /// ```
    #[must_use]
    pub fn is_cancelled(&self) -> bool {
        self.derived_chain().any(Derived::is_cancelled)
            || self.control.as_deref().is_some_and(|control| control.cause().is_some())
    }

    /// `Err(Cancelled)` once this context is cancelled: made for `?` between two steps of a task.
    ///
    /// An attempt that returns an error after this has answered `Cancelled` counts as cancelled, or as timed
    /// out if its timeout was why.
    ///
    /// # Errors
    /// [`Cancelled`] if the context has been cancelled or its deadline has passed.
    ///
    /// ```
    /// use inflight::{BoxError, Context};
    /// fn import(cx: &Context, rows: &[u32]) -> Result<u32, BoxError> {
    ///     let mut sum = 0;
    ///     for row in rows {
    ///         cx.check()?;
    ///         sum += row;
    ///     }
    ///     Ok(sum)
    /// }
    /// assert_eq!(import(&Context::background(), &[1, 2])?, 3);
    /// # Ok::<(), BoxError>(())
    /// ```
    pub fn check(&self) -> Result<(), Cancelled> {
        if !self.is_cancelled() {
            return Ok(());
        }
        if let Some(control) = &self.control {
            control.answer_cancelled();
        }
        Err(Cancelled(()))
    }

    /// Sleeps for `duration`, or until this context is cancelled, whichever comes first.
    ///
    /// `std::thread::sleep` for tasks: a shutdown does not have to wait it out. Any `Duration` will do.
    ///
    /// # Errors
    /// [`Cancelled`], at once, if the context is cancelled before the time is over.
    ///
    /// ```
    /// use std::time::Duration;
    /// let (cx, canceller) = inflight::Context::background().with_cancel();
    /// assert!(cx.sleep(Duration::from_millis(1)).is_ok());
    /// std::thread::scope(|s| {
    ///     s.spawn(|| canceller.cancel());
    ///     assert!(cx.sleep(Duration::MAX).is_err());
    /// });
    /// ```
    pub fn sleep(&self, duration: Duration) -> Result<(), Cancelled> {
        self.sleep_until(self.clock().now().after(duration))
    }

    pub(crate) fn sleep_until(&self, until: Moment) -> Result<(), Cancelled> {
        let clock = self.clock();
        let sleeper = Arc::new(Sleeper::default());
        let _registered: Vec<_> = self.lines().map(|line| line.register(&sleeper)).collect();
        loop {
            self.check()?;
            if clock.now() >= until {
                return Ok(());
            }
            sleeper.sleep_until(&clock, until.min(self.own_line()));
        }
    }

    /// The next line that this context will hit: its own deadline, its task's timeout, or the end of the drain
    /// or of the cancel part of a shutdown that has begun. `None` if there is none yet.
    ///
    /// It may move closer while the task runs, when a shutdown begins.
    ///
    /// ```
    /// use std::time::Duration;
    /// let cx = inflight::Context::background();
    /// assert_eq!(cx.deadline(), None);
    /// assert!(cx.with_timeout(Duration::from_secs(1)).deadline().is_some());
    /// ```
    #[must_use]
    pub fn deadline(&self) -> Option<Instant> {
        self.clock().instant(self.next_line())
    }

    /// How long it is until [`deadline`](Context::deadline); zero once it has passed.
    ///
    /// ```
    /// use std::time::Duration;
    /// let cx = inflight::Context::background().with_timeout(Duration::ZERO);
    /// assert_eq!(cx.remaining(), Some(Duration::ZERO));
    /// ```
    #[must_use]
    pub fn remaining(&self) -> Option<Duration> {
        let line = self.next_line();
        (line != Moment::NEVER).then(|| line.since(self.clock().now()))
    }

    /// Which attempt of its task this is, from 1; 0 for a task that has not run, and outside of any task.
    ///
    /// ```
    /// assert_eq!(inflight::Context::background().attempt(), 0);
    /// ```
    #[must_use]
    pub fn attempt(&self) -> u32 {
        self.control.as_ref().map_or(0, |control| control.attempt())
    }

    /// The task that this context belongs to, if a manager has accepted it.
    ///
    /// ```
    /// assert_eq!(inflight::Context::background().task_id(), None);
    /// ```
    #[must_use]
    pub fn task_id(&self) -> Option<TaskId> {
        // Ids begin with 1: where no manager has accepted the task, it has none.
        self.control.as_ref().map(|control| control.id()).filter(|id| *id != TaskId(0))
    }

    /// The name of the thread that runs this attempt, if it has one; in hooks about a stall, of the one that
    /// hangs.
    ///
    /// ```
    /// let manager = inflight::Manager::builder().name("mail").build()?;
    /// let handle = manager.spawn("tea", |cx| Ok(cx.thread().map(str::to_owned)))?;
    /// assert_eq!(handle.join()?.as_deref(), Some("mail-1"));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    #[must_use]
    pub fn thread(&self) -> Option<&str> {
        self.control.as_ref().and_then(|control| control.thread()).map(|name| &**name)
    }

    /// How long the task had been due when this attempt began: its time in the queue, in which delays and
    /// retry pauses do not count. See [`running_for`](Self::running_for) for how exactly that is known.
    ///
    /// ```
    /// use std::time::Duration;
    /// assert_eq!(inflight::Context::background().queued_for(), Duration::ZERO);
    /// ```
    #[must_use]
    pub fn queued_for(&self) -> Duration {
        self.control.as_ref().map_or(Duration::ZERO, |control| control.asked().queued_for())
    }

    /// How long this attempt has been running; in the hooks that follow it, how long it ran.
    ///
    /// Where tasks of a microsecond or so follow each other, the clock is read for one of sixteen that begin, and
    /// the others count as begun with the last of these: some microseconds too early, and about half a
    /// millisecond at the most, if the machine is not overloaded. Who asks each attempt is told exactly, from the
    /// second on.
    ///
    /// ```
    /// use std::time::Duration;
    /// assert_eq!(inflight::Context::background().running_for(), Duration::ZERO);
    /// ```
    #[must_use]
    pub fn running_for(&self) -> Duration {
        self.control.as_ref().map_or(Duration::ZERO, |control| control.asked().running_for())
    }

    /// Notes how far the task has come, for [`TaskInfo::progress`] and the table that a shutdown prints, and
    /// gives the sign of life that [`stalled_after`] waits for.
    ///
    /// It runs no hook and waits for nothing. Outside of a task it does nothing.
    ///
    /// ```
    /// let manager = inflight::Manager::new();
    /// manager.run("import", |cx| {
    ///     for row in 0..3 {
    ///         cx.progress(format!("row {row} of 3"));
    ///     }
    ///     cx.progress("committing");
    ///     Ok(())
    /// })?;
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// [`TaskInfo::progress`]: crate::scoped::TaskInfo::progress
    /// [`stalled_after`]: crate::scoped::Task::stalled_after
    pub fn progress(&self, note: impl Into<Cow<'static, str>>) {
        if let Some(control) = &self.control {
            control.progress(note.into());
        }
    }

    /// How long the attempt ran that the hooks are about; `None` if they are about none.
    #[cfg(any(feature = "log", feature = "tracing", feature = "metrics"))]
    pub(crate) fn ran_for(&self) -> Option<Duration> {
        self.control
            .as_ref()
            .filter(|control| control.has_ended())
            .map(|control| control.asked().running_for())
    }

    /// Shows `value` to the hooks that are told of this attempt's stalls, on another thread.
    #[cfg(feature = "tracing")]
    pub(crate) fn confide<T: Send + Sync + 'static>(&self, value: impl FnOnce() -> T) {
        if let Some(control) = self.control.as_ref().filter(|control| control.is_watched()) {
            control.confide(value());
        }
    }

    fn clock(&self) -> Clock {
        match (&self.derived, &self.control) {
            (Some(derived), _) => derived.clock.clone(),
            (None, Some(control)) => control.root.clock.clone(),
            (None, None) => Clock::real(),
        }
    }

    fn derived_chain(&self) -> impl Iterator<Item = &Derived> {
        std::iter::successors(self.derived.as_deref(), |derived| derived.parent.as_deref())
    }

    fn lines(&self) -> impl Iterator<Item = &Line> {
        let control = self.control.iter().flat_map(|control| [&control.line, &control.root.line]);
        self.derived_chain().map(|derived| &derived.line).chain(control)
    }

    /// The earliest moment at which this context cancels itself.
    fn own_line(&self) -> Moment {
        let timeout = self.control.as_ref().map_or(Moment::NEVER, |control| control.timeout_at());
        self.derived_chain().map(|derived| derived.until).fold(timeout, Moment::min)
    }

    fn next_line(&self) -> Moment {
        let shutdown = self.control.as_ref().map_or(Moment::NEVER, |control| control.root.next_line());
        self.own_line().min(shutdown)
    }
}

impl fmt::Debug for Context {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Context")
            .field("task_id", &self.task_id())
            .field("attempt", &self.attempt())
            .field("cancelled", &self.is_cancelled())
            .field("remaining", &self.remaining())
            .finish_non_exhaustive()
    }
}

/// Cancels the context that it was made with: [`Context::with_cancel`].
///
/// Dropping it cancels nothing.
///
/// ```
/// let (cx, canceller) = inflight::Context::background().with_cancel();
/// canceller.clone().cancel();
/// assert!(cx.is_cancelled());
/// ```
#[derive(Clone)]
#[must_use = "a context is cancelled by `cancel`, not by dropping its canceller"]
pub struct Canceller(Arc<Derived>);

impl UnwindSafe for Canceller {}
impl RefUnwindSafe for Canceller {}

impl Canceller {
    /// Cancels the context and all that are derived from it, and wakes their sleepers. Once is enough.
    ///
    /// ```
    /// let (cx, canceller) = inflight::Context::background().with_cancel();
    /// canceller.cancel();
    /// canceller.cancel();
    /// assert!(cx.is_cancelled());
    /// ```
    pub fn cancel(&self) {
        self.0.line.cancel();
    }
}

impl fmt::Debug for Canceller {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Canceller").field("cancelled", &self.0.line.is_cancelled()).finish()
    }
}

/// The error of [`Context::check`] and [`Context::sleep`]: whoever waits for this task wants it to stop.
///
/// It cannot be made outside of this crate, so that an error which carries it in its chain is known to be a
/// cancellation.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Cancelled(());

impl fmt::Display for Cancelled {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("cancelled: stop here and return this error")
    }
}

impl std::error::Error for Cancelled {}

// ---------------------------------------------------------------------------------------------------------

/// Values found by their type: a list, newest first, that contexts share.
#[derive(Clone, Default)]
pub(crate) struct Values(Option<Arc<Value>>);

struct Value {
    value: Box<dyn Any + Send + Sync>,
    next: Values,
}

impl Values {
    fn with<T: Send + Sync + 'static>(&self, value: T) -> Self {
        Values(Some(Arc::new(Value { value: Box::new(value), next: self.clone() })))
    }

    fn get<T: 'static>(&self) -> Option<&T> {
        std::iter::successors(self.0.as_deref(), |value| value.next.0.as_deref())
            .find(|value| (*value.value).type_id() == TypeId::of::<T>())
            .and_then(|value| value.value.downcast_ref())
    }
}

impl Drop for Values {
    /// One by one: a long list must not be dropped by recursion.
    fn drop(&mut self) {
        let mut next = self.0.take();
        while let Some(mut value) = next.and_then(Arc::into_inner) {
            next = value.next.0.take();
        }
    }
}

/// Something that can be cancelled once, and wakes those who sleep on it.
#[derive(Default)]
pub(crate) struct Line {
    cancelled: AtomicBool,
    sleepers: Mutex<Vec<Arc<Sleeper>>>,
}

impl Line {
    #[inline]
    fn is_cancelled(&self) -> bool {
        self.cancelled.load(Ordering::Acquire)
    }

    pub(crate) fn cancel(&self) {
        self.cancelled.store(true, Ordering::Release);
        for sleeper in self.sleepers.lock().iter() {
            sleeper.wake();
        }
    }

    fn register<'a>(&'a self, sleeper: &'a Arc<Sleeper>) -> Registered<'a> {
        self.sleepers.lock().push(Arc::clone(sleeper));
        Registered { line: self, sleeper }
    }
}

struct Registered<'a> {
    line: &'a Line,
    sleeper: &'a Arc<Sleeper>,
}

impl Drop for Registered<'_> {
    fn drop(&mut self) {
        self.line.sleepers.lock().retain(|other| !Arc::ptr_eq(other, self.sleeper));
    }
}

#[derive(Default)]
struct Sleeper {
    woken: Mutex<bool>,
    wake: Condvar,
}

impl Sleeper {
    fn wake(&self) {
        *self.woken.lock() = true;
        self.wake.notify_one();
    }

    fn sleep_until(&self, clock: &Clock, until: Moment) {
        let mut woken = self.woken.lock();
        if !*woken {
            self.wake.wait_until(&mut woken, clock, until);
        }
    }
}

/// What `with_cancel` and `with_timeout` put in front of a context.
struct Derived {
    line: Line,
    until: Moment,
    clock: Clock,
    parent: Option<Arc<Derived>>,
}

impl Derived {
    fn is_cancelled(&self) -> bool {
        self.line.is_cancelled() || (self.until != Moment::NEVER && self.clock.now() >= self.until)
    }
}

impl Drop for Derived {
    /// One by one, as for [`Values`].
    fn drop(&mut self) {
        let mut parent = self.parent.take();
        while let Some(mut derived) = parent.and_then(Arc::into_inner) {
            parent = derived.parent.take();
        }
    }
}

/// The manager's own end of every context: what `cancel` and `shutdown` have said, and where stalled attempts
/// ring for the notifier. It owns nothing of the user's.
pub(crate) struct Root {
    pub(crate) clock: Clock,
    pub(crate) line: Line,
    /// The earliest end of a drain, and of a cancel part, over the shutdowns that have begun.
    drain_end: AtomicU64,
    cancel_end: AtomicU64,
    pub(crate) bell: Bell,
}

impl Root {
    pub(crate) fn new(clock: Clock) -> Self {
        Root {
            clock,
            line: Line::default(),
            drain_end: AtomicU64::new(Moment::NEVER.0),
            cancel_end: AtomicU64::new(Moment::NEVER.0),
            bell: Bell::default(),
        }
    }

    #[inline]
    pub(crate) fn is_cancelled(&self) -> bool {
        self.line.is_cancelled()
    }

    /// A shutdown has begun that cancels at `drain_end` and gives up at `cancel_end`.
    pub(crate) fn announce(&self, drain_end: Moment, cancel_end: Moment) {
        self.drain_end.fetch_min(drain_end.0, Ordering::AcqRel);
        self.cancel_end.fetch_min(cancel_end.0, Ordering::AcqRel);
    }

    fn next_line(&self) -> Moment {
        let line = if self.is_cancelled() { &self.cancel_end } else { &self.drain_end };
        Moment(line.load(Ordering::Acquire))
    }
}

/// Why an attempt's context is cancelled.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Cause {
    Cancelled,
    TimedOut,
}

const UNANSWERED: u8 = 0;
const ANSWERED_CANCELLED: u8 = 1;
const ANSWERED_TIMED_OUT: u8 = 2;

/// Control data of one attempt. A worker uses its own again, for the next task, while no clone of a context
/// is left that shares it; so an allocation per task is saved.
///
/// The numbers are atomic only because two own it, the worker and the state, while it is made as new; nobody
/// else reads them then.
pub(crate) struct Control {
    pub(crate) root: Arc<Root>,
    /// The hand that holds the task: the notifier finds it there.
    hand: usize,
    /// The name of the thread whose hand it is.
    thread: Option<Arc<str>>,
    id: AtomicU64,
    attempt: AtomicU32,
    queued_for: AtomicU64,
    started: AtomicU64,
    timeout_at: AtomicU64,
    line: Line,
    /// The attempt is over: whoever still holds a clone of its context is told to stop.
    over: AtomicBool,
    /// The task or a hook has asked for the attempt's times.
    asked: AtomicBool,
    /// `UNANSWERED`, or the cause that `check` or `sleep` first answered with.
    answered: AtomicU8,
    /// `RUNNING`, `ENDED`, or how long the attempt ran, in nanoseconds.
    ran: AtomicU64,
    /// `Pulse::watch`, and `Pulse::note`, are there.
    watched: AtomicBool,
    noted: AtomicBool,
    pulse: Mutex<Pulse>,
    /// Signals that `Pulse::delivering` is over.
    delivered: Condvar,
}

const RUNNING: u64 = u64::MAX;
/// It has ended, and nobody has asked yet how long it ran.
const ENDED: u64 = u64::MAX - 1;

fn nanos(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX).min(ENDED - 1)
}

impl Control {
    pub(crate) fn new(root: Arc<Root>, hand: usize, thread: Option<Arc<str>>) -> Self {
        Control {
            root,
            hand,
            thread,
            id: AtomicU64::new(0),
            attempt: AtomicU32::new(0),
            queued_for: AtomicU64::new(0),
            started: AtomicU64::new(0),
            timeout_at: AtomicU64::new(Moment::NEVER.0),
            line: Line::default(),
            over: AtomicBool::new(false),
            asked: AtomicBool::new(false),
            answered: AtomicU8::new(UNANSWERED),
            ran: AtomicU64::new(RUNNING),
            watched: AtomicBool::new(false),
            noted: AtomicBool::new(false),
            pulse: Mutex::default(),
            delivered: Condvar::default(),
        }
    }

    /// Makes it as new, for another attempt. No context that shares it is left.
    #[inline]
    pub(crate) fn reset(&self, attempt: u32, started: Moment, timeout_at: Moment) {
        self.attempt.store(attempt, Ordering::Relaxed);
        self.started.store(started.0, Ordering::Relaxed);
        self.timeout_at.store(timeout_at.0, Ordering::Relaxed);
        self.line.cancelled.store(false, Ordering::Relaxed);
        self.over.store(false, Ordering::Relaxed);
        self.asked.store(false, Ordering::Relaxed);
        self.answered.store(UNANSWERED, Ordering::Relaxed);
        self.ran.store(RUNNING, Ordering::Relaxed);
    }

    /// Says which task the attempt is of, and since when that has been due.
    #[inline]
    pub(crate) fn identify(&self, id: TaskId, due: Moment) {
        self.id.store(id.0, Ordering::Relaxed);
        // One that is said to have begun with the one before it may have come later than that.
        if self.started() < due {
            self.started.store(due.0, Ordering::Relaxed);
        }
        self.queued_for.store(nanos(self.started().since(due)), Ordering::Relaxed);
    }

    /// Somebody asks for the attempt's times: it is likely that the same is asked of the next one.
    fn asked(&self) -> &Self {
        self.asked.store(true, Ordering::Relaxed);
        self
    }

    pub(crate) fn was_asked(&self) -> bool {
        self.asked.load(Ordering::Relaxed)
    }

    #[cfg(feature = "metrics")]
    pub(crate) fn hand(&self) -> usize {
        self.hand
    }

    pub(crate) fn thread(&self) -> Option<&Arc<str>> {
        self.thread.as_ref()
    }

    pub(crate) fn attempt(&self) -> u32 {
        self.attempt.load(Ordering::Relaxed)
    }

    fn queued_for(&self) -> Duration {
        Duration::from_nanos(self.queued_for.load(Ordering::Relaxed))
    }

    pub(crate) fn started(&self) -> Moment {
        Moment(self.started.load(Ordering::Relaxed))
    }

    fn timeout_at(&self) -> Moment {
        Moment(self.timeout_at.load(Ordering::Relaxed))
    }

    pub(crate) fn id(&self) -> TaskId {
        TaskId(self.id.load(Ordering::Relaxed))
    }

    /// Why the attempt counts as cancelled by now, if it does.
    pub(crate) fn cause(&self) -> Option<Cause> {
        if self.line.is_cancelled() || self.root.is_cancelled() || self.over.load(Ordering::Acquire) {
            Some(Cause::Cancelled)
        } else {
            let timeout_at = self.timeout_at();
            let passed = timeout_at != Moment::NEVER && self.root.clock.now() >= timeout_at;
            passed.then_some(Cause::TimedOut)
        }
    }

    fn answer_cancelled(&self) {
        let answer = match self.cause() {
            Some(Cause::TimedOut) => ANSWERED_TIMED_OUT,
            _ => ANSWERED_CANCELLED,
        };
        // The first answer stands; another has said as much.
        let _ = self.answered.compare_exchange(UNANSWERED, answer, Ordering::AcqRel, Ordering::Acquire);
    }

    /// What an `Err` from the attempt counts as: `None`, a failure like any other.
    pub(crate) fn verdict(&self, error: &(dyn std::error::Error + 'static)) -> Option<Cause> {
        let cause = self.cause()?;
        match self.answered.load(Ordering::Acquire) {
            ANSWERED_TIMED_OUT => Some(Cause::TimedOut),
            ANSWERED_CANCELLED => Some(cause),
            _ => std::iter::successors(Some(error), |error| error.source())
                .any(|error| error.is::<Cancelled>())
                .then_some(cause),
        }
    }

    /// Cancels this attempt alone.
    pub(crate) fn cancel(&self) {
        self.line.cancel();
    }

    /// Is this attempt wanted to stop by somebody (its timeout aside)?
    pub(crate) fn is_cancelling(&self) -> bool {
        self.cause().is_some()
    }

    /// The attempt has ended; its hooks are still to come. `now`, if that is known: otherwise the first of them
    /// to ask how long it ran reads the clock.
    #[inline]
    pub(crate) fn ended(&self, now: Option<Moment>) {
        let ran = now.map_or(ENDED, |now| nanos(now.since(self.started())));
        self.ran.store(ran, Ordering::Relaxed);
    }

    #[cfg(any(feature = "log", feature = "tracing", feature = "metrics"))]
    fn has_ended(&self) -> bool {
        self.ran.load(Ordering::Relaxed) <= ENDED
    }

    /// The attempt's hooks have returned: clones of its context count as cancelled from here on.
    pub(crate) fn finish(&self) {
        self.over.store(true, Ordering::Release);
        self.line.cancel();
    }

    pub(crate) fn running_for(&self) -> Duration {
        if self.attempt() == 0 {
            return Duration::ZERO;
        }
        let ran = self.ran.load(Ordering::Relaxed);
        if ran < ENDED {
            return Duration::from_nanos(ran);
        }
        let so_far = self.root.clock.now().since(self.started());
        if ran == ENDED {
            // Whoever asks next is told the same.
            let _ = self.ran.compare_exchange(ENDED, nanos(so_far), Ordering::Relaxed, Ordering::Relaxed);
        }
        so_far
    }

    // -- signs of life ------------------------------------------------------------------------------------

    /// Takes over what the last attempt has noted, and, with `watch`, is to be reported once the attempt has
    /// given no sign of life for so long. The values are for the hooks to see.
    pub(crate) fn observe(&self, note: Option<Cow<'static, str>>, watch: Option<(Duration, Values)>) {
        let watch = watch.map(|(after, values)| Watch {
            after,
            since: self.started(),
            hung: false,
            ended: false,
            outbox: VecDeque::new(),
            values,
        });
        self.watched.store(watch.is_some(), Ordering::Relaxed);
        self.noted.store(note.is_some(), Ordering::Relaxed);
        *self.pulse.lock() = Pulse { note, watch, delivering: false };
    }

    /// Is there anything of an earlier attempt left in it?
    pub(crate) fn is_observed(&self) -> bool {
        self.noted.load(Ordering::Relaxed) || self.is_watched()
    }

    #[cfg(feature = "tracing")]
    fn confide<T: Send + Sync + 'static>(&self, value: T) {
        if let Some(watch) = &mut self.pulse.lock().watch {
            // The old list lives on in the new one, so that none of the user's values is dropped here.
            watch.values = watch.values.with(value);
        }
    }

    /// Takes back the note, and the values that the notifier was to show to the hooks.
    pub(crate) fn observed(&self) -> (Option<Cow<'static, str>>, Values) {
        let mut pulse = self.pulse.lock();
        let values = pulse.watch.as_mut().map(|watch| std::mem::take(&mut watch.values));
        (pulse.note.take(), values.unwrap_or_default())
    }

    pub(crate) fn note(&self) -> Option<Cow<'static, str>> {
        if !self.noted.load(Ordering::Relaxed) {
            return None;
        }
        self.pulse.lock().note.clone()
    }

    fn progress(&self, note: Cow<'static, str>) {
        let mut pulse = self.pulse.lock();
        pulse.note = Some(note);
        self.noted.store(true, Ordering::Relaxed);
        if let Some(watch) = &mut pulse.watch {
            let rings = watch.sign_of_life(self.root.clock.now());
            drop(pulse);
            if rings {
                self.root.bell.ring(self.hand, self.id());
            }
        }
    }

    /// When this attempt is to be looked at next; reports it as stalled if that moment has come.
    ///
    /// The second value says whether there is a notice to deliver.
    pub(crate) fn examine(&self, now: Moment) -> (Moment, bool) {
        if !self.is_watched() {
            return (Moment::NEVER, false);
        }
        self.pulse.lock().watch.as_mut().map_or((Moment::NEVER, false), |watch| watch.examine(now))
    }

    /// The attempt has ended: no stall is reported from here on, and a stall that was is over.
    pub(crate) fn unwatch(&self, now: Moment) {
        if !self.is_watched() {
            return;
        }
        if let Some(watch) = &mut self.pulse.lock().watch {
            watch.sign_of_life(now);
            watch.ended = true;
        }
    }

    #[inline]
    pub(crate) fn is_watched(&self) -> bool {
        self.watched.load(Ordering::Relaxed)
    }

    /// Takes the oldest notice to deliver it; who does must say so with [`Control::notice_delivered`].
    /// One at a time: while another thread delivers one, this waits.
    pub(crate) fn take_notice(&self) -> Option<(Notice, Values)> {
        let mut pulse = self.pulse.lock();
        while pulse.delivering {
            self.delivered.wait(&mut pulse);
        }
        let watch = pulse.watch.as_mut()?;
        let notice = (watch.outbox.pop_front()?, watch.values.clone());
        pulse.delivering = true;
        Some(notice)
    }

    pub(crate) fn notice_delivered(&self) {
        self.pulse.lock().delivering = false;
        self.delivered.notify_all();
    }
}

#[derive(Default)]
struct Pulse {
    note: Option<Cow<'static, str>>,
    watch: Option<Watch>,
    /// A notice has been taken from the outbox and its hooks have not returned.
    delivering: bool,
}

/// Something to tell the hooks about an attempt that hung.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Notice {
    Stalled(Duration),
    Recovered(Duration),
}

/// How often, at the most, an attempt that hangs is looked at again.
const HUNG_POLL: Duration = Duration::from_millis(1);

/// The stall watch of one attempt, as plain data.
struct Watch {
    after: Duration,
    /// The last sign of life.
    since: Moment,
    /// It has been reported as stalled since then.
    hung: bool,
    /// The attempt has ended.
    ended: bool,
    outbox: VecDeque<Notice>,
    /// What the task's context carries, for the hooks.
    values: Values,
}

impl Watch {
    /// Says whether that ended a stall, so that there is a notice to deliver.
    fn sign_of_life(&mut self, now: Moment) -> bool {
        let recovers = std::mem::take(&mut self.hung);
        if recovers {
            self.outbox.push_back(Notice::Recovered(now.since(self.since)));
        }
        self.since = now;
        recovers
    }

    fn examine(&mut self, now: Moment) -> (Moment, bool) {
        let line = self.since.after(self.after);
        if self.ended {
            (Moment::NEVER, false)
        } else if self.hung {
            // A sign of life in the meantime starts the watch anew, and nobody wakes the supervisor for it.
            (now.after(self.after.max(HUNG_POLL)), false)
        } else if line == Moment::NEVER || now < line {
            (line, false)
        } else {
            self.hung = true;
            self.outbox.push_back(Notice::Stalled(now.since(self.since)));
            (now.after(self.after.max(HUNG_POLL)), true)
        }
    }
}

/// Where attempts that have a notice to deliver ring for the notifier.
///
/// It stands outside of the state's lock, since a `Context` has neither the lifetime nor the type of its
/// manager. The notifier is there as long as a watched task is live, so nobody rings in vain.
#[derive(Default)]
pub(crate) struct Bell {
    rung: Mutex<Rung>,
    ringing: Condvar,
}

#[derive(Default)]
struct Rung {
    by: VecDeque<(usize, TaskId)>,
    dismissed: bool,
}

impl Bell {
    pub(crate) fn ring(&self, hand: usize, task: TaskId) {
        self.rung.lock().by.push_back((hand, task));
        self.ringing.notify_one();
    }

    /// Waits for the next that rings; `None` once the notifier has been dismissed.
    pub(crate) fn answer(&self) -> Option<(usize, TaskId)> {
        let mut rung = self.rung.lock();
        loop {
            if rung.dismissed {
                return None;
            }
            if let Some(by) = rung.by.pop_front() {
                return Some(by);
            }
            self.ringing.wait(&mut rung);
        }
    }

    pub(crate) fn is_rung(&self) -> bool {
        !self.rung.lock().by.is_empty()
    }

    /// There is nothing left to watch.
    pub(crate) fn dismiss(&self) {
        self.rung.lock().dismissed = true;
        self.ringing.notify_one();
    }

    /// Nobody who has rung is live any more.
    pub(crate) fn clear(&self) {
        self.rung.lock().by.clear();
    }

    /// There is something to watch after all.
    pub(crate) fn recall(&self) {
        self.rung.lock().dismissed = false;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_attempt_begins_before_its_task_was_due() {
        let control = Control::new(Arc::new(Root::new(Clock::real())), 0, None);
        let (began, due) = (Moment(5), Moment(7));
        control.reset(1, began, Moment::NEVER);
        control.identify(TaskId(1), due);
        assert_eq!((control.started(), control.queued_for()), (due, Duration::ZERO));
        control.identify(TaskId(2), began);
        assert_eq!((control.started(), control.queued_for()), (due, Duration::from_nanos(2)));
    }
}
