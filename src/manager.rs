//! The manager: handles to a [`Core`] that borrows nothing.

use std::fmt;
use std::panic::{RefUnwindSafe, UnwindSafe};

use crate::builder::Builder;
use crate::core::Core;
use crate::sync::Arc;
use crate::verbs::verbs;
use crate::{Handle, Rejected, Task, TaskInfo, Unfinished};

/// Runs tasks in the background, knows which are live, and lets the program wait for them.
///
/// `std::thread::spawn` for work that nobody joins: where that loses the thread when `main` returns, a manager
/// waits for it; where that panics for want of a thread, a manager hands the task back; and idle threads are
/// used again. If you want a task's value, there is [`spawn`](Manager::spawn); if tasks borrow from your stack,
/// [`scope`](crate::scope). Fine-grained parallelism over data is for `rayon`.
///
/// # Handles
/// A manager is a handle; clones are handles to the same manager. When the last of them is dropped, it closes
/// and waits until all is done. Two other ways to part:
/// [`uncounted`](Manager::uncounted) makes handles for tasks and hooks, which hold up nobody;
/// [`detach`](Manager::detach) gives a handle up without the wait.
///
/// # Threads
/// By default a task runs on an idle thread if there is one, and threads are started as tasks block; they end
/// after ten idle seconds. See [`Builder`] for the policies and their limits.
///
/// # Inside tasks and hooks
/// All verbs may be called from a task or a hook of the same manager but those that would wait for it:
/// [`wait`](Manager::wait), [`wait_timeout`](Manager::wait_timeout) and [`shutdown`](Manager::shutdown) panic
/// there, which is contained like any other panic. Dropping the last handle there closes, and does not wait.
///
/// ```
/// use inflight::Manager;
///
/// let manager: Manager<&str> = Manager::new();
/// manager.on_task_failed(|_cx, meta, error| eprintln!("{meta}: {error}"));
/// manager.run("send-receipt", |_cx| {
///     // ... what nobody waits for ...
///     Ok(())
/// })?;
/// manager.wait();
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub struct Manager<Meta> {
    core: Arc<Core<'static, Meta>>,
    /// `None` in an uncounted handle.
    counted: Option<Arc<Counted<Meta>>>,
}

/// What the counted handles share. It is dropped with the last of them, and then the manager ends.
struct Counted<Meta> {
    core: Arc<Core<'static, Meta>>,
    /// Whether the last handle waits; not if it was detached.
    waits: bool,
}

impl<Meta> Drop for Counted<Meta> {
    fn drop(&mut self) {
        if self.waits {
            self.core.end();
        }
    }
}

// No panic leaves a manager half changed: the user's code runs outside of its locks.
impl<Meta> UnwindSafe for Manager<Meta> {}
impl<Meta> RefUnwindSafe for Manager<Meta> {}

impl<Meta> Manager<Meta> {
    /// The settings of a manager that is to be built.
    ///
    /// ```
    /// let manager = inflight::Manager::<&str>::builder().name("mail").max_threads(8).build()?;
    /// # Ok::<(), inflight::BuildError>(())
    /// ```
    pub fn builder() -> Builder<Meta> {
        Builder::new()
    }
}

impl<Meta: Send + Sync + 'static> Manager<Meta> {
    /// A manager with the default settings. It has no thread before its first task.
    ///
    /// ```
    /// let manager: inflight::Manager<&str> = inflight::Manager::new();
    /// assert_eq!(manager.stats().threads, 0);
    /// ```
    #[must_use]
    pub fn new() -> Self {
        Self::builder().build().expect("the default settings make sense")
    }

    pub(crate) fn from_core(core: Arc<Core<'static, Meta>>) -> Self {
        let counted = Some(Arc::new(Counted { core: Arc::clone(&core), waits: true }));
        Manager { core, counted }
    }

    pub(crate) fn core(&self) -> &Arc<Core<'static, Meta>> {
        &self.core
    }

    /// Has it been closed?
    ///
    /// ```
    /// let manager: inflight::Manager<&str> = inflight::Manager::new();
    /// manager.close();
    /// assert!(manager.is_closed());
    /// ```
    #[must_use]
    pub fn is_closed(&self) -> bool {
        self.core.is_closed()
    }

    /// A handle that is not counted: it has all verbs, but its drop neither closes nor waits, and the drop of
    /// the last counted handle does not wait for it. Its clones are the same.
    ///
    /// It is for tasks that start tasks, and for hooks.
    ///
    /// ```
    /// let manager = inflight::Manager::new();
    /// let inner = manager.uncounted();
    /// manager.run("outer", move |_cx| {
    ///     inner.run("inner", |_cx| Ok(()))?;
    ///     Ok(())
    /// })?;
    /// manager.wait();
    /// assert_eq!(manager.stats().succeeded, 2);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    #[must_use]
    pub fn uncounted(&self) -> Self {
        Manager { core: Arc::clone(&self.core), counted: None }
    }

    /// Gives this handle up without the wait of its drop. If it was the last counted one, the manager stays
    /// open, and what runs, loops included, goes on for as long as the process does.
    ///
    /// ```
    /// let manager = inflight::Manager::new();
    /// manager.run("best effort", |_cx| Ok(()))?;
    /// manager.detach();
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn detach(self) {
        if let Some(mut last) = self.counted.and_then(Arc::into_inner) {
            last.waits = false;
        }
    }

    verbs! {
        lifetime: 'static,
        task: Task<Meta>,
        rejected: Rejected<Meta>,
        handle: Handle<T>,
        info: TaskInfo<Meta>,
        unfinished: Unfinished<Meta>,
    }
}

impl<Meta> Clone for Manager<Meta> {
    /// Another handle to the same manager, counted if this one is.
    fn clone(&self) -> Self {
        Manager { core: Arc::clone(&self.core), counted: self.counted.clone() }
    }
}

impl<Meta: Send + Sync + 'static> Default for Manager<Meta> {
    fn default() -> Self {
        Self::new()
    }
}

impl<Meta> fmt::Debug for Manager<Meta> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Manager")
            .field("name", &self.core.name())
            .field("len", &self.core.len())
            .field("closed", &self.core.is_closed())
            .field("counted", &self.counted.is_some())
            .finish_non_exhaustive()
    }
}
