//! Time as the manager sees it: monotonic, saturating, and replaceable by a test.

use std::time::{Duration, Instant};

use crate::sync::{Arc, AtomicU64, Ordering};

/// Nanoseconds since the clock was made. Arithmetic saturates, so that any `Duration` is welcome.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Default)]
pub(crate) struct Moment(pub(crate) u64);

impl Moment {
    pub(crate) const START: Moment = Moment(0);
    pub(crate) const NEVER: Moment = Moment(u64::MAX);

    pub(crate) fn after(self, duration: Duration) -> Moment {
        let nanos = u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX);
        Moment(self.0.saturating_add(nanos))
    }

    /// As [`since`](Self::since), in nanoseconds, for where each instruction counts.
    #[inline]
    pub(crate) fn nanos_since(self, earlier: Moment) -> u64 {
        self.0.saturating_sub(earlier.0)
    }

    /// How long it has been since `earlier`; zero if that is yet to come.
    pub(crate) fn since(self, earlier: Moment) -> Duration {
        Duration::from_nanos(self.nanos_since(earlier))
    }
}

/// Where a manager reads the time.
#[derive(Clone, Debug)]
pub(crate) struct Clock {
    base: Instant,
    /// The time that a test has set, instead of the machine's.
    manual: Option<Arc<AtomicU64>>,
}

impl Clock {
    pub(crate) fn real() -> Self {
        Clock { base: Instant::now(), manual: None }
    }

    #[inline]
    pub(crate) fn now(&self) -> Moment {
        if let Some(manual) = &self.manual {
            return Moment(manual.load(Ordering::SeqCst));
        }
        let elapsed = self.base.elapsed();
        // 584 years of uptime fit.
        Moment(elapsed.as_secs().wrapping_mul(1_000_000_000).wrapping_add(u64::from(elapsed.subsec_nanos())))
    }

    pub(crate) fn is_manual(&self) -> bool {
        self.manual.is_some()
    }

    /// `moment` as the standard library's `Instant`, unless it lies beyond what that can hold.
    pub(crate) fn instant(&self, moment: Moment) -> Option<Instant> {
        if moment == Moment::NEVER {
            return None;
        }
        self.base.checked_add(Duration::from_nanos(moment.0))
    }
}

/// A clock that stands still until a test advances it.
///
/// Give it to a manager with [`Builder::clock`](crate::Builder::clock): delays, retries, periods, timeouts,
/// stalls, `sleep`, `keep_alive` and the budgets of `wait_timeout` and `shutdown` then follow it. What waits
/// for a moment notices within about a millisecond of real time that the clock has moved.
///
/// ```
/// use inflight::{ManualClock, Manager, Task};
/// use std::sync::mpsc;
/// use std::time::Duration;
///
/// let clock = ManualClock::new();
/// let manager = Manager::builder().clock(&clock).build()?;
/// let (sender, receiver) = mpsc::channel();
/// manager.run_task(
///     Task::once("tomorrow", move |_cx| Ok(sender.send(())?)).delay(Duration::from_secs(86_400)),
/// )?;
/// assert!(receiver.try_recv().is_err());
/// clock.advance(Duration::from_secs(86_400));
/// receiver.recv()?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[cfg(feature = "test-util")]
#[derive(Clone, Debug, Default)]
pub struct ManualClock(Arc<AtomicU64>);

#[cfg(feature = "test-util")]
impl ManualClock {
    /// A clock that stands at zero.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Moves the clock forward by `duration`, at most to the end of what it can count (584 years).
    pub fn advance(&self, duration: Duration) {
        let forward = |now| Some(Moment(now).after(duration).0.min(u64::MAX - 1));
        // The closure always answers `Some`, so this never fails.
        let _ = self.0.fetch_update(Ordering::SeqCst, Ordering::SeqCst, forward);
    }

    /// How far the clock has been moved.
    #[must_use]
    pub fn elapsed(&self) -> Duration {
        Duration::from_nanos(self.0.load(Ordering::SeqCst))
    }

    pub(crate) fn clock(&self) -> Clock {
        Clock { base: Instant::now(), manual: Some(Arc::clone(&self.0)) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn any_duration_is_accepted() {
        let clock = Clock::real();
        assert_eq!(clock.now().after(Duration::MAX), Moment::NEVER);
        assert_eq!(clock.instant(Moment::NEVER), None);
        assert_eq!(Moment::START.since(Moment::NEVER), Duration::ZERO);
    }
}
