//! Fire-and-forget tasks on plain threads that are never lost.
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
