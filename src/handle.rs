//! The typed result of a task that somebody waits for.

use std::fmt;
use std::panic::{RefUnwindSafe, UnwindSafe};
use std::time::Duration;

use crate::clock::{Clock, Moment};
use crate::context::Context;
use crate::core::Core;
use crate::error::{BoxError, TaskError};
use crate::sync::{Arc, Condvar, Mutex, thread};
use crate::task::{Job, Place, TaskId};

/// A task whose value somebody wants: what [`spawn`](crate::Manager::spawn) returns.
///
/// `std::thread::JoinHandle`, with three differences: dropping it changes nothing (the task is still run, and
/// the manager still waits for it), the task may return an error as well as panic, and
/// [`join_timeout`](Handle::join_timeout) gives up in time. See [`inflight::Handle`](crate::Handle), its alias
/// for tasks that borrow nothing.
///
/// ```
/// let manager = inflight::Manager::new();
/// let handle = manager.spawn("sum", |_cx| Ok((1..=4).sum::<u32>()))?;
/// assert_eq!(handle.join()?, 10);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[must_use = "without its handle, start the task with `run`"]
pub struct Handle<'a, T> {
    shared: Arc<Shared<T>>,
    owner: Arc<dyn Owner + 'a>,
    id: TaskId,
}

impl<T> UnwindSafe for Handle<'_, T> {}
impl<T> RefUnwindSafe for Handle<'_, T> {}

impl<'a, T> Handle<'a, T> {
    pub(crate) fn new(shared: Arc<Shared<T>>, owner: Arc<dyn Owner + 'a>, id: TaskId) -> Self {
        Handle { shared, owner, id }
    }

    /// The task's number within its manager.
    ///
    /// ```
    /// let manager = inflight::Manager::new();
    /// let first = manager.spawn("tea", |_cx| Ok(()))?;
    /// let second = manager.spawn("coffee", |_cx| Ok(()))?;
    /// assert!(first.id() < second.id());
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    #[must_use]
    pub fn id(&self) -> TaskId {
        self.id
    }

    /// Is there an answer, so that [`join`](Handle::join) would return at once? The hooks may still run.
    ///
    /// ```
    /// let manager = inflight::Manager::new();
    /// let handle = manager.spawn("tea", |_cx| Ok(()))?;
    /// manager.wait();
    /// assert!(handle.is_finished());
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    #[must_use]
    pub fn is_finished(&self) -> bool {
        self.shared.is_given()
    }

    /// Waits for the task and returns its value.
    ///
    /// Inside a task or a hook of the same manager it does not wait for a task that has not started: it runs
    /// that task right here. So a tree of tasks that start and join each other ends on a single thread.
    ///
    /// # Errors
    /// Why there is no value.
    ///
    /// # Panics
    /// If this thread is inside of that very task, which could never end. (A thread that is panicking already
    /// gets [`TaskError::Abandoned`] instead.)
    ///
    /// ```
    /// let manager = inflight::Manager::new();
    /// let handle = manager.spawn("parse", |_cx| Ok("17".parse::<u32>()?))?;
    /// assert_eq!(handle.join()?, 17);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    #[track_caller]
    pub fn join(self) -> Result<T, TaskError> {
        if self.owner.is_inside() {
            if self.owner.is_inside_task(self.id) {
                assert!(
                    thread::panicking(),
                    "`join` was called inside of the very task that it would wait for: hand the handle to another"
                );
                return Err(TaskError::Abandoned);
            }
            if thread::panicking() && !self.is_finished() {
                return Err(TaskError::Abandoned);
            }
            if !self.is_finished() {
                Arc::clone(&self.owner).help_with(&self.shared.place, self.id);
            }
        }
        self.shared.wait_until(self.owner.clock(), Moment::NEVER).unwrap_or(Err(TaskError::Abandoned))
    }

    /// Waits for the task for `timeout` at the most. Any `Duration` will do.
    ///
    /// It never runs the task itself.
    ///
    /// # Errors
    /// The handle, if the time is over first; so that it can be asked again.
    ///
    /// ```
    /// use std::time::Duration;
    /// let manager = inflight::Manager::new();
    /// let (open, gate) = std::sync::mpsc::channel::<()>();
    /// let handle = manager.spawn("report", move |_cx| Ok(gate.recv()?))?;
    /// let handle = match handle.join_timeout(Duration::from_millis(1)) {
    ///     Ok(_result) => unreachable!("the gate is shut"),
    ///     Err(handle) => handle,
    /// };
    /// open.send(())?;
    /// handle.join()?;
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn join_timeout(self, timeout: Duration) -> Result<Result<T, TaskError>, Self> {
        let clock = self.owner.clock();
        self.shared.wait_until(clock, clock.now().after(timeout)).ok_or(self)
    }

    /// Cancels the task: one that no thread has in hand ends at once as [`TaskError::Cancelled`], without
    /// having run, its hooks on this thread. Otherwise its context is cancelled. One that has ended stays so.
    ///
    /// ```
    /// let manager = inflight::Manager::new();
    /// let handle = manager.spawn("wait", |cx| Ok(cx.sleep(std::time::Duration::MAX)?))?;
    /// handle.cancel();
    /// assert!(matches!(handle.join(), Err(inflight::TaskError::Cancelled)));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn cancel(&self) {
        if !self.is_finished() {
            Arc::clone(&self.owner).cancel_task(&self.shared.place, self.id);
        }
    }
}

impl<T> Drop for Handle<'_, T> {
    /// The value, if there is one already, goes with the handle; one that is yet to come goes when it comes.
    fn drop(&mut self) {
        let value = self.shared.unwant();
        drop(value);
    }
}

impl<T> fmt::Debug for Handle<'_, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Handle")
            .field("id", &self.id)
            .field("is_finished", &self.is_finished())
            .finish_non_exhaustive()
    }
}

/// The manager behind a handle, whatever its Meta.
pub(crate) trait Owner: Send + Sync {
    fn clock(&self) -> &Clock;
    fn is_inside(&self) -> bool;
    fn is_inside_task(&self, id: TaskId) -> bool;
    fn help_with(self: Arc<Self>, place: &Place, id: TaskId);
    fn cancel_task(self: Arc<Self>, place: &Place, id: TaskId);
}

impl<Meta: Send + Sync> Owner for Core<'_, Meta> {
    fn clock(&self) -> &Clock {
        &self.root.clock
    }

    fn is_inside(&self) -> bool {
        Core::is_inside(self)
    }

    fn is_inside_task(&self, id: TaskId) -> bool {
        Core::is_inside_task(self, id)
    }

    fn help_with(self: Arc<Self>, place: &Place, id: TaskId) {
        Core::help_with(&self, place, id);
    }

    fn cancel_task(self: Arc<Self>, place: &Place, id: TaskId) {
        Core::cancel_task(&self, place, id);
    }
}

/// What a handle and its task share.
pub(crate) struct Shared<T> {
    answer: Mutex<Answer<T>>,
    given: Condvar,
    /// Where the task stands in the queue, as long as it does.
    place: Place,
}

struct Answer<T> {
    /// What the task has returned.
    value: Option<T>,
    /// What became of it; the value may be taken once this is there.
    outcome: Option<Result<(), TaskError>>,
    /// The handle is still there.
    wanted: bool,
}

impl<T> Shared<T> {
    #[cfg(test)]
    pub(crate) fn place(&self) -> u64 {
        self.place.get()
    }

    pub(crate) fn new() -> Arc<Self> {
        Arc::new(Shared {
            answer: Mutex::new(Answer { value: None, outcome: None, wanted: true }),
            given: Condvar::default(),
            place: Place::nowhere(),
        })
    }

    fn is_given(&self) -> bool {
        self.answer.lock().outcome.is_some()
    }

    fn keep(&self, value: T) {
        self.answer.lock().value = Some(value);
    }

    /// Gives the answer. Hands the value back where nobody wants it.
    fn give(&self, outcome: Result<(), TaskError>) -> Option<T> {
        let mut answer = self.answer.lock();
        answer.outcome = Some(outcome);
        let unwanted = if answer.wanted { None } else { answer.value.take() };
        drop(answer);
        self.given.notify_all();
        unwanted
    }

    fn wait_until(&self, clock: &Clock, until: Moment) -> Option<Result<T, TaskError>> {
        let mut answer = self.answer.lock();
        loop {
            match (answer.outcome.clone(), answer.value.take()) {
                (Some(Ok(())), Some(value)) => return Some(Ok(value)),
                (Some(Err(error)), _) => return Some(Err(error)),
                // A value without an outcome is not the handle's yet.
                (_, value) => answer.value = value,
            }
            if until != Moment::NEVER && clock.now() >= until {
                return None;
            }
            self.given.wait_until(&mut answer, clock, until);
        }
    }

    /// The handle goes. Its value, if it has come, goes with it.
    fn unwant(&self) -> Option<T> {
        let mut answer = self.answer.lock();
        answer.wanted = false;
        if answer.outcome.is_some() { answer.value.take() } else { None }
    }
}

/// The job of a task that has a handle.
pub(crate) struct SpawnJob<F, T> {
    task: Mutex<Option<F>>,
    /// Until the answer is given: then the value is the handle's alone.
    shared: Mutex<Option<Arc<Shared<T>>>>,
}

impl<F, T> SpawnJob<F, T> {
    pub(crate) fn new(task: F, shared: Arc<Shared<T>>) -> Self {
        SpawnJob { task: Mutex::new(Some(task)), shared: Mutex::new(Some(shared)) }
    }
}

impl<F, T> Job for SpawnJob<F, T>
where
    F: FnOnce(&Context) -> Result<T, BoxError> + Send,
    T: Send,
{
    fn run(&self, cx: &Context) -> Result<(), BoxError> {
        let task = self.task.lock().take().expect("a task that runs once is run once");
        let value = task(cx)?;
        if let Some(shared) = &*self.shared.lock() {
            shared.keep(value);
        }
        Ok(())
    }

    fn discard(&self) {
        let task = self.task.lock().take();
        drop(task);
    }

    fn answer(&self, error: Option<&TaskError>) {
        let shared = self.shared.lock().take();
        let unwanted =
            shared.and_then(|shared| shared.give(error.map_or(Ok(()), |error| Err(error.clone()))));
        drop(unwanted);
    }

    fn placed(&self, place: u64) {
        if let Some(shared) = &*self.shared.lock() {
            shared.place.set(place);
        }
    }
}
