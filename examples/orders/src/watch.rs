//! What operators see of the receipts: `GET /inflight.json`, which the page at `GET /` draws once a second.

use std::collections::VecDeque;
use std::process;
use std::sync::{Mutex, MutexGuard, OnceLock};
use std::time::{Duration, Instant};

use inflight::{Manager, Stats, TaskError, TaskInfo};
use serde::Serialize;

use crate::orders::Order;

/// How many failures are shown, the latest.
const FAILURES: usize = 20;

pub(crate) struct Watch {
    /// An uncounted handle: it holds up nobody's drop.
    receipts: Manager<Order>,
    started: Instant,
    failures: Mutex<VecDeque<Failure>>,
    ending: OnceLock<Ending>,
}

struct Failure {
    at: Instant,
    task: String,
    error: String,
}

/// The end that the server has come to, and what it may take.
pub(crate) struct Ending {
    pub(crate) why: String,
    pub(crate) since: Instant,
    pub(crate) drain: Duration,
    pub(crate) cancel: Duration,
}

impl Watch {
    pub(crate) fn new(receipts: Manager<Order>) -> Self {
        Watch { receipts, started: Instant::now(), failures: Mutex::default(), ending: OnceLock::new() }
    }

    pub(crate) fn failed(&self, order: &Order, error: &TaskError) {
        let failure = Failure { at: Instant::now(), task: order.to_string(), error: error.to_string() };
        let mut failures = self.failures();
        failures.push_front(failure);
        failures.truncate(FAILURES);
    }

    /// The first end is the one that counts.
    pub(crate) fn ends(&self, ending: Ending) {
        let _ = self.ending.set(ending);
    }

    pub(crate) fn is_closed(&self) -> bool {
        self.receipts.is_closed()
    }

    /// All that is in flight now, oldest first, and the numbers around it.
    pub(crate) fn look(&self) -> impl Serialize + use<> {
        let now = Instant::now();
        let failures = self
            .failures()
            .iter()
            .map(|failure| Failed {
                task: failure.task.clone(),
                error: failure.error.clone(),
                ago_ms: ms(now.saturating_duration_since(failure.at)),
            })
            .collect();
        Look {
            name: "receipts",
            pid: process::id(),
            uptime_ms: ms(now.saturating_duration_since(self.started)),
            ending: self.ending.get().map(|ending| ending.at(now)),
            counts: self.receipts.stats().into(),
            tasks: self.receipts.tasks().iter().map(Task::from).collect(),
            failures,
        }
    }

    fn failures(&self) -> MutexGuard<'_, VecDeque<Failure>> {
        self.failures.lock().expect("nothing panics while it holds the failures")
    }
}

impl Ending {
    fn at(&self, now: Instant) -> Left {
        let spent = now.saturating_duration_since(self.since);
        let budget = self.drain.saturating_add(self.cancel);
        let part = match spent {
            spent if spent < self.drain => "drain",
            spent if spent < budget => "cancel",
            _ => "over",
        };
        Left {
            why: self.why.clone(),
            part,
            drain_ms: ms(self.drain),
            cancel_ms: ms(self.cancel),
            left_ms: ms(budget.saturating_sub(spent)),
        }
    }
}

#[derive(Serialize)]
struct Look {
    name: &'static str,
    /// Tells the numbers of this run from those of another on the same port.
    pid: u32,
    uptime_ms: u64,
    ending: Option<Left>,
    counts: Counts,
    tasks: Vec<Task>,
    failures: Vec<Failed>,
}

#[derive(Debug, PartialEq, Serialize)]
struct Left {
    why: String,
    /// `drain`: tasks run on; `cancel`: they are told to stop; `over`: what is left is given up.
    part: &'static str,
    drain_ms: u64,
    cancel_ms: u64,
    /// Of both parts together.
    left_ms: u64,
}

#[derive(Serialize)]
struct Counts {
    accepted: u64,
    succeeded: u64,
    failed: u64,
    rejected: u64,
    threads: usize,
    peak_threads: usize,
    max_threads: usize,
}

impl From<Stats> for Counts {
    fn from(stats: Stats) -> Self {
        Counts {
            accepted: stats.added,
            succeeded: stats.succeeded,
            failed: stats.failed,
            rejected: stats.rejected,
            threads: stats.threads,
            peak_threads: stats.peak_threads,
            max_threads: stats.max_threads,
        }
    }
}

#[derive(Serialize)]
struct Task {
    /// Text, since a number above 2^53 would not survive JavaScript.
    id: String,
    meta: String,
    phase: String,
    age_ms: u64,
    running_ms: u64,
    attempt: u32,
    thread: Option<String>,
    progress: Option<String>,
}

impl From<&TaskInfo<Order>> for Task {
    fn from(task: &TaskInfo<Order>) -> Self {
        Task {
            id: task.id().to_string(),
            meta: task.meta().to_string(),
            phase: task.phase().to_string(),
            age_ms: ms(task.age()),
            running_ms: ms(task.running_for()),
            attempt: task.attempt(),
            thread: task.thread().map(str::to_owned),
            progress: task.progress().map(str::to_owned),
        }
    }
}

#[derive(Serialize)]
struct Failed {
    task: String,
    error: String,
    ago_ms: u64,
}

/// No more than JavaScript counts exactly, for durations such as `Duration::MAX`.
fn ms(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).map_or(MS_LIMIT, |ms| ms.min(MS_LIMIT))
}

const MS_LIMIT: u64 = (1 << 53) - 1;

#[cfg(test)]
mod tests {
    use super::*;

    fn seconds(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    #[test]
    fn an_end_drains_then_cancels_then_is_over() {
        let since = Instant::now();
        let ending = Ending { why: "SIGTERM".into(), since, drain: seconds(25), cancel: seconds(3) };
        for (spent, part, left_ms) in [
            (0, "drain", 28_000),
            (24, "drain", 4_000),
            (25, "cancel", 3_000),
            (28, "over", 0),
            (99, "over", 0),
        ] {
            let left = ending.at(since + seconds(spent));
            let expected = Left { why: "SIGTERM".into(), part, drain_ms: 25_000, cancel_ms: 3_000, left_ms };
            assert_eq!(left, expected, "after {spent} s");
        }
    }

    #[test]
    fn an_end_without_a_limit_is_shown_as_one_that_takes_very_long() {
        let since = Instant::now();
        let ending = Ending { why: "SIGTERM".into(), since, drain: Duration::MAX, cancel: Duration::MAX };
        let left = ending.at(since);
        assert_eq!((left.part, left.drain_ms, left.left_ms), ("drain", MS_LIMIT, MS_LIMIT));
    }

    #[test]
    fn the_latest_failures_are_kept_with_the_item_as_it_was_written() {
        let receipts: Manager<Order> = Manager::new();
        let watch = Watch::new(receipts.uncounted());
        for id in 1..=30 {
            let order = Order { id, item: "\"tea\"\n<b>".into(), quantity: 2, simulate: None };
            watch.failed(&order, &TaskError::Panicked("no paper".into()));
        }
        let look = serde_json::to_value(watch.look()).unwrap();
        let failures = look["failures"].as_array().unwrap();
        assert_eq!(failures.len(), FAILURES);
        assert_eq!(failures[0]["task"], "order 30 (2 x \"tea\"\n<b>)");
        assert_eq!(failures[19]["task"], "order 11 (2 x \"tea\"\n<b>)");
        assert_eq!(failures[0]["error"], "the task panicked: no paper");
    }
}
