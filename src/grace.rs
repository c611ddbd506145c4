//! The budget of a shutdown.

use std::time::Duration;

/// How long a [`shutdown`](crate::Manager::shutdown) may take: a drain, in which tasks run on undisturbed, and
/// then a part in which they are cancelled and may clean up.
///
/// Any `Duration` will do. `Duration::ZERO` asks for an answer at once, and one too long to count means no end.
///
/// ```
/// use inflight::{Grace, Manager};
/// use std::time::Duration;
///
/// let manager: Manager<&str> = Manager::new();
/// manager.run("receipt", |_cx| Ok(()))?;
/// // Kubernetes grants 30 s by default: leave some for the rest of the process.
/// let grace = Grace::drain(Duration::from_secs(25)).then_cancel(Duration::from_secs(3));
/// manager.shutdown(grace)?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[must_use = "a budget does nothing until `shutdown` is given it"]
pub struct Grace {
    pub(crate) drain: Duration,
    pub(crate) cancel: Duration,
}

impl Grace {
    /// Lets tasks run on for `drain`, then cancels what is left and waits for nothing more.
    ///
    /// ```
    /// use std::time::Duration;
    /// let _grace = inflight::Grace::drain(Duration::from_secs(25));
    /// ```
    pub fn drain(drain: Duration) -> Self {
        Grace { drain, cancel: Duration::ZERO }
    }

    /// After the drain, gives those that are cancelled `cancel` to come to an end.
    ///
    /// ```
    /// use std::time::Duration;
    /// let _grace = inflight::Grace::drain(Duration::ZERO).then_cancel(Duration::from_secs(3));
    /// ```
    pub fn then_cancel(self, cancel: Duration) -> Self {
        Grace { cancel, ..self }
    }
}
