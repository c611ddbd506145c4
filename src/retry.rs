//! Whether, and when, a failed attempt is repeated. Pure: nothing here waits.

use std::collections::hash_map::RandomState;
use std::fmt;
use std::hash::BuildHasher;
use std::iter;
use std::panic::{RefUnwindSafe, UnwindSafe};
use std::sync::Arc;
use std::time::Duration;

use crate::error::TaskError;

/// The pauses before the further attempts of one task. Its end means: give up.
pub(crate) type Pauses = Box<dyn Iterator<Item = Duration> + Send>;

type When = dyn Fn(&TaskError) -> bool + Send + Sync;

/// How often a task is attempted, after what pauses, and for which errors.
///
/// Like the `backon` and `retry` crates, but the pause occupies no thread: the manager's clock wakes the task.
/// Delay iterators of those crates plug in through [`delays`](Retry::delays). Without
/// [`backoff`](Retry::backoff) or `delays` the pauses are those of
/// `Backoff::exponential(100 ms, 30 s)`. A panic is a failed attempt like any other.
///
/// ```
/// use inflight::{Backoff, Manager, Retry, Task};
/// use std::sync::atomic::{AtomicU32, Ordering};
/// use std::time::Duration;
///
/// let manager = Manager::new();
/// let calls = AtomicU32::new(0);
/// let flaky = move |_cx: &inflight::Context| match calls.fetch_add(1, Ordering::Relaxed) {
///     0 | 1 => Err("the mail server is busy".into()),
///     _ => Ok(()),
/// };
/// let patiently = Retry::attempts(5).backoff(Backoff::constant(Duration::from_millis(1)));
/// manager.run_task(Task::retrying("receipt", flaky).retry(patiently))?;
/// manager.wait();
/// assert_eq!((manager.stats().retried, manager.stats().succeeded), (2, 1));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone)]
#[must_use = "a retry policy does nothing until a task or a builder is given it"]
pub struct Retry {
    /// `None`: as often as it takes.
    attempts: Option<u32>,
    pauses: Arc<dyn Fn() -> Pauses + Send + Sync>,
    when: Option<Arc<When>>,
}

// A closure of the user's that panics is not called again for that task, and is shared only by reference.
impl UnwindSafe for Retry {}
impl RefUnwindSafe for Retry {}

impl Retry {
    /// At most `attempts` attempts, the first included; 0 means 1.
    ///
    /// ```
    /// let _twice_more = inflight::Retry::attempts(3);
    /// ```
    pub fn attempts(attempts: u32) -> Self {
        Retry { attempts: Some(attempts.max(1)), ..Self::unlimited() }
    }

    /// As many attempts as it takes, for as long as the manager lets it: a cancel or a shutdown ends it.
    ///
    /// ```
    /// let _for_ever = inflight::Retry::unlimited();
    /// ```
    pub fn unlimited() -> Self {
        let default = Backoff::exponential(Duration::from_millis(100), Duration::from_secs(30));
        Retry { attempts: None, pauses: Arc::new(move || Box::new(default.pauses())), when: None }
    }

    /// Pauses as `backoff` says.
    ///
    /// ```
    /// use inflight::{Backoff, Retry};
    /// use std::time::Duration;
    /// let _retry = Retry::attempts(3).backoff(Backoff::constant(Duration::from_secs(1)));
    /// ```
    pub fn backoff(self, backoff: Backoff) -> Self {
        Retry { pauses: Arc::new(move || Box::new(backoff.pauses())), ..self }
    }

    /// Pauses as the iterators that `factory` makes say, one iterator for each task (for each iteration of a
    /// loop). When it is exhausted, the task gives up.
    ///
    /// This is where other crates' policies plug in, such as `backon`'s:
    ///
    /// ```
    /// use backon::{BackoffBuilder, ExponentialBuilder};
    /// use inflight::Retry;
    /// let theirs = ExponentialBuilder::default().with_jitter().with_max_times(5);
    /// let _retry = Retry::unlimited().delays(move || theirs.build());
    /// ```
    ///
    /// or a list of your own:
    ///
    /// ```
    /// use inflight::Retry;
    /// use std::time::Duration;
    /// let _three_pauses = Retry::unlimited().delays(|| [1, 5, 30].map(Duration::from_secs));
    /// ```
    pub fn delays<F, I>(self, factory: F) -> Self
    where
        F: Fn() -> I + Send + Sync + 'static,
        I: IntoIterator<Item = Duration>,
        I::IntoIter: Send + 'static,
    {
        Retry { pauses: Arc::new(move || Box::new(factory().into_iter())), ..self }
    }

    /// Repeats only what `worth_it` says is worth it; the rest fails at the first attempt.
    ///
    /// ```
    /// use inflight::{Retry, TaskError};
    /// let _no_panics = Retry::attempts(3).when(|error| !matches!(error, TaskError::Panicked(_)));
    /// ```
    pub fn when(self, worth_it: impl Fn(&TaskError) -> bool + Send + Sync + 'static) -> Self {
        Retry { when: Some(Arc::new(worth_it)), ..self }
    }

    /// How long to pause after the failed attempt number `attempt`; `None`, to give up.
    ///
    /// Calls the user's closures, whose iterator is kept in `pauses` between the attempts of one task.
    pub(crate) fn pause_after(
        &self,
        attempt: u32,
        error: &TaskError,
        pauses: &mut Option<Pauses>,
    ) -> Option<Duration> {
        let tries_left = self.attempts.is_none_or(|attempts| attempt < attempts);
        let worth_it = || self.when.as_ref().is_none_or(|when| when(error));
        if tries_left && worth_it() { pauses.get_or_insert_with(|| (self.pauses)()).next() } else { None }
    }
}

impl fmt::Debug for Retry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Retry").field("attempts", &self.attempts).finish_non_exhaustive()
    }
}

/// The pauses between attempts.
///
/// Jitter is *full*: each pause is drawn evenly from zero to its nominal length, which spreads a crowd of
/// clients best (M. Brooker, "Exponential Backoff And Jitter", AWS Architecture Blog, 2015).
///
/// ```
/// use inflight::{Backoff, Retry};
/// use std::time::Duration;
/// let gently = Backoff::exponential(Duration::from_millis(50), Duration::from_secs(5));
/// let _retry = Retry::attempts(8).backoff(gently);
/// ```
#[derive(Clone, Debug)]
#[must_use = "a backoff does nothing until a retry policy is given it"]
pub struct Backoff {
    first: Duration,
    max: Duration,
    jitter: bool,
    seed: Option<u64>,
}

impl Backoff {
    /// `first`, then twice as long each time, up to `max`, with full jitter.
    ///
    /// ```
    /// use std::time::Duration;
    /// let _backoff = inflight::Backoff::exponential(Duration::from_millis(10), Duration::from_secs(1));
    /// ```
    pub fn exponential(first: Duration, max: Duration) -> Self {
        Backoff { first: first.min(max), max, jitter: true, seed: None }
    }

    /// Always `pause`, without jitter.
    ///
    /// ```
    /// let _backoff = inflight::Backoff::constant(std::time::Duration::from_secs(1));
    /// ```
    pub fn constant(pause: Duration) -> Self {
        Backoff { first: pause, max: pause, jitter: false, seed: None }
    }

    /// Each pause at its nominal length.
    ///
    /// ```
    /// use std::time::Duration;
    /// let _exact =
    ///     inflight::Backoff::exponential(Duration::from_millis(10), Duration::from_secs(1)).without_jitter();
    /// ```
    pub fn without_jitter(self) -> Self {
        Backoff { jitter: false, ..self }
    }

    /// The same jitter for every task and in every run: for tests.
    ///
    /// ```
    /// use std::time::Duration;
    /// let _repeatable =
    ///     inflight::Backoff::exponential(Duration::from_millis(10), Duration::from_secs(1)).seed(7);
    /// ```
    pub fn seed(self, seed: u64) -> Self {
        Backoff { seed: Some(seed), ..self }
    }

    pub(crate) fn pauses(&self) -> impl Iterator<Item = Duration> + Send + use<> {
        let Backoff { first, max, jitter, seed } = *self;
        let mut random = SplitMix(seed.unwrap_or_else(|| RandomState::new().hash_one(0_u8)));
        iter::successors(Some(first), move |pause| Some(pause.saturating_mul(2).min(max)))
            .map(move |pause| if jitter { random.up_to(pause) } else { pause })
    }
}

/// SplitMix64 (Steele, Lea, Flood: "Fast Splittable Pseudorandom Number Generators", 2014).
struct SplitMix(u64);

impl SplitMix {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    /// Evenly from zero to `limit`. Beyond 584 years the limit is taken for 584 years.
    fn up_to(&mut self, limit: Duration) -> Duration {
        let limit = u64::try_from(limit.as_nanos()).unwrap_or(u64::MAX);
        let scaled = (u128::from(self.next()) * (u128::from(limit) + 1)) >> 64;
        Duration::from_nanos(u64::try_from(scaled).expect("a product shifted back fits its factor"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    fn failed() -> TaskError {
        TaskError::Panicked("no paper".into())
    }

    #[test]
    fn pauses_double_up_to_the_cap() {
        let pauses: Vec<_> = Backoff::exponential(MS, MS * 5).without_jitter().pauses().take(5).collect();
        assert_eq!(pauses, [MS, MS * 2, MS * 4, MS * 5, MS * 5]);
    }

    #[test]
    fn jitter_stays_within_the_nominal_pause_and_repeats_with_its_seed() {
        let backoff = Backoff::exponential(MS * 8, MS * 64).seed(3);
        let drawn: Vec<_> = backoff.pauses().take(200).collect();
        assert!(drawn.iter().all(|pause| *pause <= MS * 64));
        assert!(drawn.iter().any(|pause| *pause < MS * 32) && drawn.iter().any(|pause| *pause > MS * 32));
        assert_eq!(drawn, backoff.pauses().take(200).collect::<Vec<_>>());
        let other: Vec<_> = Backoff::exponential(MS * 8, MS * 64).pauses().take(200).collect();
        assert_ne!(drawn, other);
    }

    #[test]
    fn attempts_are_bounded_and_zero_means_one() {
        for (asked, pauses) in [(0, 0), (1, 0), (3, 2)] {
            let retry = Retry::attempts(asked).backoff(Backoff::constant(MS));
            let mut state = None;
            let granted =
                (1..10).take_while(|n| retry.pause_after(*n, &failed(), &mut state) == Some(MS)).count();
            assert_eq!(granted, pauses);
        }
    }

    #[test]
    fn an_exhausted_iterator_gives_up() {
        let retry = Retry::unlimited().delays(|| [MS, MS * 3]);
        let mut state = None;
        let granted: Vec<_> = (1..=3).map(|n| retry.pause_after(n, &failed(), &mut state)).collect();
        assert_eq!(granted, [Some(MS), Some(MS * 3), None]);
    }

    #[test]
    fn any_duration_is_accepted() {
        for duration in [Duration::ZERO, Duration::MAX] {
            let exponential = Backoff::exponential(duration, Duration::MAX);
            for backoff in [exponential.clone(), exponential.without_jitter(), Backoff::constant(duration)] {
                assert_eq!(backoff.pauses().take(100).count(), 100);
            }
        }
    }
}
