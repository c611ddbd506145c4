//! Logs, spans and metrics of a manager or a scope: one call attaches them. Features `log`, `tracing` and
//! `metrics`, each named after the crate that it speaks to.
//!
//! ```
//! # #[cfg(all(feature = "log", feature = "tracing", feature = "metrics"))]
//! # {
//! use inflight::{Manager, observe};
//!
//! let manager: Manager<&str> = Manager::builder().name("mail").build()?;
//! observe::log(&manager); // and, or:
//! observe::tracing(&manager);
//! let gauges = observe::metrics(&manager);
//! # let _ = gauges;
//! # }
//! # Ok::<(), inflight::BuildError>(())
//! ```
//!
//! All of it is made of [hooks](crate::Manager::on_task_added), and as with them, what is attached sees what
//! happens from then on. Attach before the first task, and attach each once. The manager's
//! [name](crate::Builder::name) stands in every line, event and metric: give one to each if you have several.
//!
//! # What is reported
//! | step | level | when |
//! |---|---|---|
//! | added | debug | it was accepted; on its submitter's thread |
//! | started | debug | an attempt begins |
//! | succeeded | debug | it is done, or an iteration of a loop is |
//! | retried | warn | an attempt failed and will be repeated |
//! | failed | error | it failed for good: error, panic, timeout, abandoned |
//! | failed | warn | it was cancelled: somebody wanted it so |
//! | stalled | warn | it has given no [sign of life](crate::Context::progress) for too long |
//! | recovered | info | it goes on, or has ended, after all |
//! | rejected | warn | it was handed back to its submitter; on that thread, also once the manager is over |
//!
//! Log lines and events have the target `inflight`, so that `inflight=debug` in a filter shows them all.
//!
//! # Which Meta
//! `observe::log` and `observe::tracing` write Meta as `{:?}`. For a Meta that is no `Debug`, or reads better
//! otherwise, `observe::log_with` and `observe::tracing_with` take a function that writes it, as
//! [`Unfinished::table`](crate::scoped::Unfinished::table) does; `observe::tracing_spans` takes one that makes a
//! span of it, with whatever fields. A Meta that panics while it is written has its event all the same, which
//! says so. In metrics Meta is not seen, since each value
//! of a label is a series of its own for as long as the process lives: `observe::metrics_with` takes a function
//! that says which of a few classes a task is in.
//!
//! # In a scope
//! A scope, or a manager: both will do.
//!
//! ```
//! # #[cfg(feature = "log")]
//! inflight::scope(|s| {
//!     inflight::observe::log(s);
//!     s.run("tea", |_cx| Ok(())).expect("the scope is open");
//! });
//! ```

#[cfg(feature = "log")]
mod log;
#[cfg(feature = "metrics")]
mod metrics;
#[cfg(feature = "tracing")]
mod tracing;

use std::fmt;
use std::panic::{RefUnwindSafe, UnwindSafe};

#[cfg(feature = "log")]
#[cfg_attr(docsrs, doc(cfg(feature = "log")))]
pub use self::log::{log, log_with};
#[cfg(feature = "metrics")]
#[cfg_attr(docsrs, doc(cfg(feature = "metrics")))]
pub use self::metrics::{Gauges, metrics, metrics_with};
#[cfg(feature = "tracing")]
#[cfg_attr(docsrs, doc(cfg(feature = "tracing")))]
pub use self::tracing::{tracing, tracing_spans, tracing_with};
use crate::core::Core;
#[cfg(any(feature = "log", feature = "tracing"))]
use crate::core::unwind;
use crate::manager::Manager;
use crate::scope::Scope;
use crate::sync::Arc;

/// What can be observed: `&Manager` or `&Scope`, by [`From`].
///
/// ```
/// use inflight::{Manager, observe::Observed};
/// let manager: Manager<&str> = Manager::new();
/// let _observed = Observed::from(&manager);
/// ```
pub struct Observed<'a, Meta>(Arc<Core<'a, Meta>>);

impl<Meta> UnwindSafe for Observed<'_, Meta> {}
impl<Meta> RefUnwindSafe for Observed<'_, Meta> {}

impl<Meta: Send + Sync + 'static> From<&Manager<Meta>> for Observed<'static, Meta> {
    fn from(manager: &Manager<Meta>) -> Self {
        Observed(Arc::clone(manager.core()))
    }
}

impl<'scope, Meta> From<&Scope<'scope, '_, Meta>> for Observed<'scope, Meta> {
    fn from(scope: &Scope<'scope, '_, Meta>) -> Self {
        Observed(Arc::clone(scope.core()))
    }
}

impl<Meta> fmt::Debug for Observed<'_, Meta> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Observed").field("name", &self.0.name()).finish_non_exhaustive()
    }
}

/// What the user's code writes of a value. Where that panics or gives up, the text says so: it is no reason to
/// leave out what is to be reported.
#[cfg(any(feature = "log", feature = "tracing"))]
fn contained(value: impl fmt::Display) -> String {
    use std::fmt::Write as _;

    let mut text = String::new();
    match unwind::catch(|| write!(text, "{value}")) {
        Ok(Ok(())) => {}
        Ok(Err(fmt::Error)) => text.push_str("<gave up being written>"),
        Err(panic) => text = format!("{text}<panicked being written: {}>", panic.message),
    }
    text
}

#[cfg(any(feature = "tracing", feature = "metrics"))]
mod words {
    use crate::error::{Reason, TaskError};

    /// Why tasks fail, in words that stay the same.
    pub(super) const CAUSES: [&str; 5] = ["failed", "panicked", "cancelled", "timed_out", "abandoned"];

    /// Which of [`CAUSES`] it is.
    pub(super) fn cause(error: &TaskError) -> usize {
        match error {
            TaskError::Failed(_) => 0,
            TaskError::Panicked(_) => 1,
            TaskError::Cancelled => 2,
            TaskError::TimedOut => 3,
            TaskError::Abandoned => 4,
        }
    }

    /// Why tasks are rejected, likewise.
    pub(super) const REASONS: [&str; 3] = ["closed", "full", "spawn"];

    /// Which of [`REASONS`] it is.
    pub(super) fn reason(reason: &Reason) -> usize {
        match reason {
            Reason::Closed => 0,
            Reason::Full => 1,
            Reason::Spawn(_) => 2,
        }
    }
}
