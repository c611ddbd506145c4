//! The context of a task: values, cancellation, deadlines, and how a cancelled attempt is told from a failed one.

#![allow(clippy::unwrap_used)]

mod common;

use common::{Drops, HANG, busy, gated};
use inflight::{Cancelled, Context, Grace, Manager, ManualClock, Task, TaskError};
use std::fmt;
use std::sync::mpsc;
use std::time::Duration;

const SEC: Duration = Duration::from_secs(1);

#[test]
fn values_are_found_by_type_and_the_newest_wins() {
    let outer = Context::background().with_value(1_u32).with_value("tea");
    let inner = outer.with_value(2_u32);
    assert_eq!((outer.value(), inner.value(), inner.value()), (Some(&1_u32), Some(&2_u32), Some(&"tea")));
    assert_eq!(inner.value::<u64>(), None);
}

#[test]
fn a_context_is_cancelled_with_those_it_is_derived_from_and_not_the_other_way() {
    let (parent, cancels_parent) = Context::background().with_cancel();
    let (child, cancels_child) = parent.with_cancel();
    let sibling = parent.with_timeout(Duration::MAX);
    cancels_child.cancel();
    assert!(child.is_cancelled() && !parent.is_cancelled() && !sibling.is_cancelled());
    cancels_parent.cancel();
    assert!(sibling.is_cancelled() && sibling.check().is_err());
    assert!(!sibling.without_cancel().is_cancelled());
}

#[test]
fn sleep_wakes_at_once_on_a_cancellation_from_above() {
    let (parent, canceller) = Context::background().with_cancel();
    let child = parent.with_timeout(Duration::MAX).with_value(1_u8);
    let sleeper = std::thread::spawn(move || child.sleep(Duration::MAX));
    canceller.cancel();
    assert!(sleeper.join().unwrap().is_err());
}

#[test]
fn sleep_ends_with_its_own_timeout() {
    let cx = Context::background().with_timeout(Duration::from_millis(1));
    assert!(cx.sleep(Duration::MAX).is_err());
    assert!(Context::background().sleep(Duration::ZERO).is_ok());
}

#[test]
fn a_chain_of_a_hundred_thousand_is_dropped_without_recursion() {
    let mut values = Context::background();
    let mut derived = Context::background();
    for n in 0..100_000_u32 {
        values = values.with_value(n);
        derived = derived.with_timeout(Duration::MAX);
    }
    drop((values, derived));
}

#[test]
fn a_context_that_is_kept_beyond_its_task_counts_as_cancelled_and_its_sleepers_wake() {
    let manager = Manager::new();
    let (sends, receives) = mpsc::channel::<Context>();
    let (gate, task) = gated();
    let keeps = move |cx: &Context| {
        sends.send(cx.clone())?;
        sends.send(cx.with_value(1))?;
        task(cx)
    };
    manager.run("keeps", keeps).unwrap();
    let (kept, derived) = (receives.recv_timeout(HANG).unwrap(), receives.recv_timeout(HANG).unwrap());
    assert!(!kept.is_cancelled());
    let sleeper = std::thread::spawn(move || derived.sleep(Duration::MAX));
    gate.open();
    assert!(sleeper.join().unwrap().is_err());
    manager.wait();
    assert!(kept.is_cancelled());
    manager.spawn("next", |cx| Ok(cx.check()?)).unwrap().join().unwrap();
    assert!(kept.is_cancelled() && kept.task_id().is_some());
}

#[test]
fn a_task_knows_who_it_is() {
    let clock = ManualClock::new();
    let manager = Manager::builder().clock(&clock).max_threads(1).build().unwrap();
    let gate = busy(&manager, "first");
    let watch = clock.clone();
    let handle = manager.spawn("second", move |cx| {
        watch.advance(SEC * 2);
        Ok((cx.task_id(), cx.attempt(), cx.queued_for(), cx.running_for()))
    });
    let handle = handle.unwrap();
    clock.advance(SEC * 3);
    gate.open();
    let id = handle.id();
    assert_eq!(handle.join().unwrap(), (Some(id), 1, SEC * 3, SEC * 2));
}

#[test]
fn hooks_see_the_values_and_how_long_it_ran() {
    let clock = ManualClock::new();
    let manager = Manager::builder().clock(&clock).build().unwrap();
    let (sends, receives) = mpsc::channel();
    let watch = clock.clone();
    let added = sends.clone();
    manager.on_task_added(move |cx, ()| {
        added.send((cx.value::<&str>().copied(), cx.attempt(), cx.running_for())).unwrap();
    });
    manager.on_task_succeeded(move |cx, ()| {
        sends.send((cx.value::<&str>().copied(), cx.attempt(), cx.running_for())).unwrap();
        watch.advance(SEC);
        sends.send((cx.value::<&str>().copied(), cx.attempt(), cx.running_for())).unwrap();
    });
    let cx = Context::background().with_value("tea");
    let watch = clock.clone();
    let task = move |_: &Context| {
        watch.advance(SEC * 7);
        Ok(())
    };
    manager.run_task(Task::once((), task).context(&cx)).unwrap();
    manager.wait();
    let told: Vec<_> = receives.try_iter().collect();
    assert_eq!(
        told,
        [(Some("tea"), 0, Duration::ZERO), (Some("tea"), 1, SEC * 7), (Some("tea"), 1, SEC * 7)]
    );
}

#[test]
fn values_are_dropped_before_the_count_goes_down() {
    let manager = Manager::new();
    let drops = Drops::default();
    let cx = Context::background().with_value(drops.counted());
    manager.run_task(Task::once((), |_| Ok(())).context(&cx)).unwrap();
    drop(cx);
    manager.wait();
    assert_eq!(drops.count(), 1);
}

#[test]
fn the_deadline_shows_timeout_drain_and_cancel_part_as_they_come() {
    let clock = ManualClock::new();
    let manager = Manager::builder().clock(&clock).build().unwrap();
    let (asks, asked) = mpsc::channel::<()>();
    let (says, said) = mpsc::channel();
    let task = move |cx: &Context| {
        while asked.recv_timeout(HANG).is_ok() {
            says.send((cx.remaining(), cx.is_cancelled()))?;
        }
        Ok(())
    };
    manager.run_task(Task::once((), task).timeout(SEC * 100)).unwrap();
    let ask = || {
        asks.send(()).unwrap();
        said.recv_timeout(HANG).unwrap()
    };
    assert_eq!(ask(), (Some(SEC * 100), false));
    let other = manager.clone();
    let shuts = std::thread::spawn(move || other.shutdown(Grace::drain(SEC * 10).then_cancel(SEC * 5)));
    while ask() != (Some(SEC * 10), false) {
        std::thread::yield_now();
    }
    clock.advance(SEC * 10);
    while ask() != (Some(SEC * 5), true) {
        std::thread::yield_now();
    }
    clock.advance(SEC * 5);
    assert_eq!(shuts.join().unwrap().unwrap_err().tasks().len(), 1);
    drop(asks);
}

// -- which error counts as what --------------------------------------------------------------------------

/// Runs `task` until it sleeps, cancels it, and says what it ended as.
fn cancelled_while(
    task: impl FnOnce(&Context) -> Result<(), inflight::BoxError> + Send + 'static,
) -> TaskError {
    let manager = Manager::new();
    let (starts, started) = mpsc::channel();
    let handle = manager.spawn((), move |cx| {
        starts.send(())?;
        while !cx.is_cancelled() {
            std::thread::yield_now();
        }
        task(cx)
    });
    let handle = handle.unwrap();
    started.recv_timeout(HANG).unwrap();
    manager.cancel();
    handle.join().unwrap_err()
}

/// An error of somebody else's, with a source.
#[derive(Debug)]
struct Wrapped(Cancelled);

impl fmt::Display for Wrapped {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("upload failed")
    }
}

impl std::error::Error for Wrapped {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        Some(&self.0)
    }
}

#[test]
fn an_error_after_check_has_answered_counts_as_cancelled_whatever_it_is() {
    let error = cancelled_while(|cx| {
        let _ = cx.check();
        Err("gave up".into())
    });
    assert!(matches!(error, TaskError::Cancelled), "{error:?}");
    let error = cancelled_while(|cx| {
        let _ = cx.with_value(1).sleep(HANG);
        Err("gave up".into())
    });
    assert!(matches!(error, TaskError::Cancelled), "a derived context answers for it: {error:?}");
}

#[test]
fn a_cancelled_in_the_chain_of_sources_counts_as_cancelled() {
    let (parent, canceller) = Context::background().with_cancel();
    canceller.cancel();
    let foreign = parent.check().unwrap_err();
    let error = cancelled_while(move |_| Err(Wrapped(foreign).into()));
    assert!(matches!(error, TaskError::Cancelled), "{error:?}");
}

#[test]
fn any_other_error_stays_what_it_is() {
    let error = cancelled_while(|_| Err("disk full".into()));
    assert!(matches!(&error, TaskError::Failed(_)) && error.to_string() == "disk full", "{error:?}");
    let manager = Manager::new();
    let not_cancelled = manager.spawn((), |_| {
        let (cx, canceller) = Context::background().with_cancel();
        canceller.cancel();
        Ok(cx.check()?)
    });
    let error = not_cancelled.unwrap().join().unwrap_err();
    assert!(matches!(error, TaskError::Failed(_)), "the task's own context was not cancelled: {error:?}");
}

#[test]
fn a_task_that_succeeds_although_it_was_cancelled_has_succeeded() {
    let manager = Manager::new();
    let (gate, task) = gated();
    manager.run((), task).unwrap();
    gate.started();
    manager.cancel();
    gate.open();
    manager.wait();
    assert_eq!(manager.stats().succeeded, 1);
}
