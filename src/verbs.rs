//! The verbs, once for managers and scopes: what each does is the [`Core`](crate::core::Core)'s; here stand its
//! name, its types and its documentation.

/// The verbs of a type whose method `core` answers an `&Arc<Core<$life, Meta>>`.
macro_rules! verbs {
    (
        lifetime: $life:lifetime,
        task: $task:ty,
        rejected: $rejected:ty,
        handle: $handle:ty,
        info: $info:ty,
        unfinished: $unfinished:ty $(,)?
    ) => {
        /// Runs `task` in the background, when nobody waits for it: the hooks learn what became of it.
        ///
        /// While the backlog is full ([`Builder::max_pending`]) it waits for room; inside a call-out of the
        /// same manager, where tasks could wait for each other's room, it answers `Full` at once. With
        /// [`Builder::inline`] the task has run when this returns.
        ///
        /// # Errors
        /// [`Rejected`], with closure and Meta in it, if the task is not accepted: the manager is closed, or
        /// there is no thread to be had at all.
        ///
        /// ```
        /// let manager = inflight::Manager::new();
        /// manager.run("receipt", |_cx| {
        ///     std::fs::metadata("Cargo.toml")?;
        ///     Ok(())
        /// })?;
        /// manager.wait();
        /// assert_eq!(manager.stats().succeeded, 1);
        /// # Ok::<(), Box<dyn std::error::Error>>(())
        /// ```
        ///
        /// [`Builder::max_pending`]: crate::Builder::max_pending
        /// [`Builder::inline`]: crate::Builder::inline
        /// [`Rejected`]: crate::scoped::Rejected
        pub fn run<F>(&self, meta: Meta, task: F) -> Result<$crate::TaskId, $rejected>
        where
            F: FnOnce(&$crate::Context) -> Result<(), $crate::BoxError> + Send + $life,
        {
            self.core().submit($crate::scoped::Task::once(meta, task), true)
        }

        /// As [`run`](Self::run), when somebody wants the task's value: its [`Handle`] waits for it.
        ///
        /// Dropping the handle changes nothing. The hooks are called as for any other task.
        ///
        /// # Errors
        /// As for [`run`](Self::run). The task inside of the [`Rejected`] runs the same closure and drops its
        /// value.
        ///
        /// ```
        /// let manager = inflight::Manager::new();
        /// let handle = manager.spawn("sum", |_cx| Ok((1..=4).sum::<u32>()))?;
        /// assert_eq!(handle.join()?, 10);
        /// # Ok::<(), Box<dyn std::error::Error>>(())
        /// ```
        ///
        /// [`Handle`]: crate::scoped::Handle
        /// [`Rejected`]: crate::scoped::Rejected
        pub fn spawn<T, F>(&self, meta: Meta, task: F) -> Result<$handle, $rejected>
        where
            F: FnOnce(&$crate::Context) -> Result<T, $crate::BoxError> + Send + $life,
            T: Send + $life,
        {
            let shared = $crate::handle::Shared::new();
            let task = $crate::scoped::Task::spawned(meta, task, $crate::sync::Arc::clone(&shared));
            let owner = $crate::sync::Arc::clone(self.core());
            let id = self.core().submit(task, true)?;
            Ok($crate::scoped::Handle::new(shared, owner, id))
        }

        /// As [`run`](Self::run), for a task with options.
        ///
        /// # Errors
        /// As for [`run`](Self::run); also if the task needs the manager's clock (a delay, a retry policy, a
        /// loop, a stall watch) and its thread cannot be started.
        ///
        /// ```
        /// use inflight::{Manager, Task};
        /// use std::time::Duration;
        /// let manager = Manager::new();
        /// manager.run_task(Task::once("receipt", |_cx| Ok(())).timeout(Duration::from_secs(5)))?;
        /// # Ok::<(), Box<dyn std::error::Error>>(())
        /// ```
        pub fn run_task(&self, task: $task) -> Result<$crate::TaskId, $rejected> {
            self.core().submit(task, true)
        }

        /// As [`run_task`](Self::run_task), but it never waits for room.
        ///
        /// # Errors
        /// As for [`run_task`](Self::run_task), and [`Reason::Full`](crate::Reason::Full) if the backlog is.
        ///
        /// ```
        /// use inflight::{Manager, Reason, Task};
        /// let manager = Manager::builder().max_threads(1).max_pending(1).build()?;
        /// let (open, gate) = std::sync::mpsc::channel::<()>();
        /// let (starts, started) = std::sync::mpsc::channel();
        /// manager.run("holds the thread", move |_cx| {
        ///     starts.send(())?;
        ///     Ok(gate.recv()?)
        /// })?;
        /// started.recv()?;
        /// manager.run("fills the backlog", |_cx| Ok(()))?;
        /// let rejected = manager.try_run_task(Task::once("is too much", |_cx| Ok(()))).unwrap_err();
        /// assert!(matches!(rejected.reason(), Reason::Full));
        /// # drop(open);
        /// # Ok::<(), Box<dyn std::error::Error>>(())
        /// ```
        pub fn try_run_task(&self, task: $task) -> Result<$crate::TaskId, $rejected> {
            self.core().submit(task, false)
        }

        /// How many tasks are live: accepted and not yet ended, whatever their kind or phase.
        ///
        /// ```
        /// let manager = inflight::Manager::new();
        /// let (open, gate) = std::sync::mpsc::channel::<()>();
        /// manager.run("backup", move |_cx| Ok(gate.recv()?))?;
        /// assert_eq!(manager.len(), 1);
        /// # drop(open);
        /// # Ok::<(), Box<dyn std::error::Error>>(())
        /// ```
        #[must_use]
        pub fn len(&self) -> usize {
            self.core().len()
        }

        /// Is no task live?
        ///
        /// ```
        /// assert!(inflight::Manager::<()>::new().is_empty());
        /// ```
        #[must_use]
        pub fn is_empty(&self) -> bool {
            self.core().is_empty()
        }

        /// How many tasks of this kind are live.
        ///
        /// ```
        /// use inflight::{Kind, Manager, Task};
        /// let manager = Manager::new();
        /// manager.run_task(Task::looping("poll", |cx| Ok(cx.sleep(std::time::Duration::MAX)?)))?;
        /// assert_eq!((manager.count_of(Kind::Loop), manager.count_of(Kind::Once)), (1, 0));
        /// # manager.cancel();
        /// # Ok::<(), Box<dyn std::error::Error>>(())
        /// ```
        #[must_use]
        pub fn count_of(&self, kind: $crate::Kind) -> usize {
            self.core().count_of(kind)
        }

        /// All live tasks as they are now, oldest first.
        ///
        /// It takes time and memory in proportion to their number, waits for no task, and may be called from
        /// tasks and hooks.
        ///
        /// ```
        /// let manager = inflight::Manager::new();
        /// let (open, gate) = std::sync::mpsc::channel::<()>();
        /// manager.run("backup", move |_cx| Ok(gate.recv()?))?;
        /// assert_eq!(*manager.tasks()[0].meta(), "backup");
        /// # drop(open);
        /// # Ok::<(), Box<dyn std::error::Error>>(())
        /// ```
        #[must_use]
        pub fn tasks(&self) -> Vec<$info> {
            self.core().tasks()
        }

        /// The counters, and the threads.
        ///
        /// ```
        /// let manager = inflight::Manager::new();
        /// manager.run("tea", |_cx| Ok(()))?;
        /// manager.wait();
        /// assert_eq!(manager.stats().added, 1);
        /// # Ok::<(), Box<dyn std::error::Error>>(())
        /// ```
        #[must_use]
        pub fn stats(&self) -> $crate::Stats {
            self.core().stats()
        }

        /// Waits until no one-off task is live, hooks included; once this is closed, until no task is.
        ///
        /// More precisely: it returns when they were all gone at some moment since the call began, so that
        /// new work cannot keep it for ever.
        ///
        /// # Panics
        /// Inside a task or a hook of the same manager, which it would wait for.
        ///
        /// ```
        /// let manager = inflight::Manager::new();
        /// manager.run("tea", |_cx| Ok(()))?;
        /// manager.wait();
        /// assert!(manager.is_empty());
        /// # Ok::<(), Box<dyn std::error::Error>>(())
        /// ```
        #[track_caller]
        pub fn wait(&self) {
            self.core().wait();
        }

        /// As [`wait`](Self::wait), for `timeout` at the most. Any `Duration` will do.
        ///
        /// # Errors
        /// [`Unfinished`], with the tasks that were live when the time was up.
        ///
        /// # Panics
        /// Inside a task or a hook of the same manager, which it would wait for.
        ///
        /// ```
        /// use std::time::Duration;
        /// let manager = inflight::Manager::new();
        /// let (open, gate) = std::sync::mpsc::channel::<()>();
        /// manager.run("backup", move |_cx| Ok(gate.recv()?))?;
        /// let unfinished = manager.wait_timeout(Duration::from_millis(1)).unwrap_err();
        /// assert_eq!(unfinished.tasks().len(), 1);
        /// # drop(open);
        /// # Ok::<(), Box<dyn std::error::Error>>(())
        /// ```
        ///
        /// [`Unfinished`]: crate::scoped::Unfinished
        #[track_caller]
        pub fn wait_timeout(&self, timeout: std::time::Duration) -> Result<(), $unfinished> {
            self.core().wait_timeout(timeout)
        }

        /// Refuses new work from now on; true for the call that closed it.
        ///
        /// Accepted tasks still run, delayed ones and retries at their time. Loops end after the iteration in
        /// hand; one that waits for its next ends at once. Submitters that wait for room get their task back.
        ///
        /// ```
        /// let manager: inflight::Manager<&str> = inflight::Manager::new();
        /// assert!(manager.close());
        /// assert!(!manager.close());
        /// assert!(manager.run("late", |_cx| Ok(())).is_err());
        /// ```
        pub fn close(&self) -> bool {
            self.core().close()
        }

        /// Closes, and cancels every task's context.
        ///
        /// What has not started ends as [`TaskError::Cancelled`](crate::TaskError::Cancelled) without running;
        /// what waits to be retried ends with the failure it had. It runs no hook itself and waits for nothing.
        ///
        /// ```
        /// use std::time::Duration;
        /// let manager = inflight::Manager::new();
        /// manager.run("long", |cx| Ok(cx.sleep(Duration::MAX)?))?;
        /// manager.cancel();
        /// manager.wait();
        /// assert_eq!(manager.stats().failed, 1);
        /// # Ok::<(), Box<dyn std::error::Error>>(())
        /// ```
        pub fn cancel(&self) {
            self.core().cancel();
        }

        /// Comes to an end within a budget: closes, waits out the drain, cancels, waits out the cancel part,
        /// and gives up what no thread has in hand by then.
        ///
        /// What is given up is reported to the hooks as [`Abandoned`] before this returns, which may take as
        /// long as they and the drops of captures do. What still runs goes on, since no thread can be
        /// killed; if it ends later, its hooks are called. Several calls may be under way: each keeps its own
        /// budget and gives its own answer, and the earliest cancellation counts for all.
        ///
        /// # Errors
        /// [`Unfinished`], which names what did not end within the budget: what still runs, and what was
        /// given up, by this call or by another since this one began.
        ///
        /// # Panics
        /// Inside a task or a hook of the same manager, which it would wait for.
        ///
        /// ```
        /// use inflight::{Grace, Manager};
        /// use std::time::Duration;
        /// let manager = Manager::new();
        /// manager.run("long", |cx| Ok(cx.sleep(Duration::MAX)?))?;
        /// let grace = Grace::drain(Duration::from_millis(5)).then_cancel(Duration::from_secs(10));
        /// manager.shutdown(grace)?;
        /// assert_eq!(manager.stats().failed, 1);
        /// # Ok::<(), Box<dyn std::error::Error>>(())
        /// ```
        ///
        /// [`Abandoned`]: crate::TaskError::Abandoned
        /// [`Unfinished`]: crate::scoped::Unfinished
        #[track_caller]
        pub fn shutdown(&self, grace: $crate::Grace) -> Result<(), $unfinished> {
            self.core().shutdown(grace)
        }

        /// Calls `hook` for each task that is accepted, on its submitter's thread, before it can start.
        ///
        /// Hooks run in the order in which they were added, and may be added at any time. A hook that panics
        /// keeps no other from its turn; it is counted in [`Stats::hook_panics`](crate::Stats::hook_panics).
        ///
        /// ```
        /// let manager = inflight::Manager::new();
        /// manager.on_task_added(|cx, meta| println!("{:?} {meta}", cx.task_id()));
        /// manager.run("tea", |_cx| Ok(()))?;
        /// # Ok::<(), Box<dyn std::error::Error>>(())
        /// ```
        pub fn on_task_added(&self, hook: impl Fn(&$crate::Context, &Meta) + Send + Sync + $life) -> &Self {
            self.core().add_hook(|hooks| hooks.added.push($crate::sync::Arc::new(hook)));
            self
        }

        /// Calls `hook` for each task, and each iteration of a loop, that has succeeded: on the thread that
        /// ran it, before it leaves the count.
        ///
        /// ```
        /// let manager = inflight::Manager::new();
        /// manager.on_task_succeeded(|cx, meta| println!("{meta} took {:?}", cx.running_for()));
        /// manager.run("tea", |_cx| Ok(()))?;
        /// # Ok::<(), Box<dyn std::error::Error>>(())
        /// ```
        pub fn on_task_succeeded(
            &self,
            hook: impl Fn(&$crate::Context, &Meta) + Send + Sync + $life,
        ) -> &Self {
            self.core().add_hook(|hooks| hooks.succeeded.push($crate::sync::Arc::new(hook)));
            self
        }

        /// Calls `hook` for each task, and each iteration of a loop, that has failed for good: after its last
        /// attempt, on the thread that ended it, before it leaves the count.
        ///
        /// ```
        /// let manager = inflight::Manager::new();
        /// manager.on_task_failed(|_cx, meta, error| eprintln!("{meta}: {error}"));
        /// manager.run("tea", |_cx| Err("no water".into()))?;
        /// # Ok::<(), Box<dyn std::error::Error>>(())
        /// ```
        pub fn on_task_failed(
            &self,
            hook: impl Fn(&$crate::Context, &Meta, &$crate::TaskError) + Send + Sync + $life,
        ) -> &Self {
            self.core().add_hook(|hooks| hooks.failed.push($crate::sync::Arc::new(hook)));
            self
        }

        /// Calls `hook`, once for each stall, for an attempt that has neither ended nor reported
        /// [`progress`](crate::Context::progress) for its
        /// [`stalled_after`](crate::scoped::Task::stalled_after); the last argument is for how long by then.
        ///
        /// It runs on a thread of its own, the notifier's, and may block without holding up other tasks or the
        /// clock; the task in question ends only once its notices are delivered. So do not wait there for a
        /// task that may need the thread of the one that hangs.
        ///
        /// ```
        /// use inflight::{Manager, Task};
        /// use std::time::Duration;
        /// let manager = Manager::new();
        /// manager.on_task_stalled(|_cx, meta, since| eprintln!("{meta} hangs since {since:?}"));
        /// manager.run_task(Task::once("import", |_cx| Ok(())).stalled_after(Duration::from_secs(30)))?;
        /// # Ok::<(), Box<dyn std::error::Error>>(())
        /// ```
        pub fn on_task_stalled(
            &self,
            hook: impl Fn(&$crate::Context, &Meta, std::time::Duration) + Send + Sync + $life,
        ) -> &Self {
            self.core().add_hook(|hooks| hooks.stalled.push($crate::sync::Arc::new(hook)));
            self
        }

        /// Calls `hook` when an attempt that was reported as stalled reports progress again, or ends; the last
        /// argument is for how long it hung. In order with the stalls, on the same thread (or, for a task that
        /// ends, on its own).
        ///
        /// ```
        /// let manager: inflight::Manager<&str> = inflight::Manager::new();
        /// manager.on_task_recovered(|_cx, meta, hung| eprintln!("{meta} goes on after {hung:?}"));
        /// ```
        pub fn on_task_recovered(
            &self,
            hook: impl Fn(&$crate::Context, &Meta, std::time::Duration) + Send + Sync + $life,
        ) -> &Self {
            self.core().add_hook(|hooks| hooks.recovered.push($crate::sync::Arc::new(hook)));
            self
        }

        /// Calls `hook` for each failed attempt that is to be repeated, before the pause, on the worker; the
        /// last argument is the number of that attempt.
        ///
        /// ```
        /// let manager: inflight::Manager<&str> = inflight::Manager::new();
        /// manager.on_task_retried(|_cx, meta, error, attempt| eprintln!("{meta}, attempt {attempt}: {error}"));
        /// ```
        pub fn on_task_retried(
            &self,
            hook: impl Fn(&$crate::Context, &Meta, &$crate::TaskError, u32) + Send + Sync + $life,
        ) -> &Self {
            self.core().add_hook(|hooks| hooks.retried.push($crate::sync::Arc::new(hook)));
            self
        }

        /// Carries something of the submitter's along: `capture` takes it on the submitter's thread, once for
        /// each accepted task; `enter` is called with it on the thread that runs the task, around each attempt
        /// and its hooks, and makes a guard that is dropped afterwards.
        ///
        /// This is how a tracing span, a request id in a thread-local or a locale reaches a worker that is
        /// used again and again. Several nest in the order in which they were added. A panic in either is a
        /// failed task. The guard need not be `Send`. The hooks for stalls run on a thread of their own while
        /// the attempt goes on, and so not within its guard: for them, use a value of the task's context.
        ///
        /// ```
        /// use std::cell::Cell;
        /// thread_local!(static REQUEST: Cell<u32> = const { Cell::new(0) });
        ///
        /// struct Restore(u32);
        /// impl Drop for Restore {
        ///     fn drop(&mut self) {
        ///         REQUEST.set(self.0);
        ///     }
        /// }
        ///
        /// let manager = inflight::Manager::new();
        /// manager.carry(|_meta| REQUEST.get(), |request: &u32| Restore(REQUEST.replace(*request)));
        /// REQUEST.set(7);
        /// let handle = manager.spawn("audit", |_cx| Ok(REQUEST.get()))?;
        /// assert_eq!(handle.join()?, 7);
        /// # Ok::<(), Box<dyn std::error::Error>>(())
        /// ```
        pub fn carry<C, G>(
            &self,
            capture: impl Fn(&Meta) -> C + Send + Sync + $life,
            enter: impl Fn(&C) -> G + Send + Sync + $life,
        ) -> &Self
        where
            C: Send + $life,
            G: $life,
        {
            let carry = $crate::sync::Arc::new($crate::hooks::Carry::new(capture, enter));
            self.core().add_hook(|hooks| hooks.carriers.push(carry));
            self
        }
    };
}

pub(crate) use verbs;
