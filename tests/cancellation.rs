//! Cancellation as a task sees it, beyond the basics of `context.rs`:
//! - what a task's context is detached from, and what it is attached to;
//! - deadlines of derived contexts, and as shutdowns begin and overtake each other;
//! - contexts kept beyond an attempt, a hook, a `run_here`;
//! - which error counts as what, where attempts, timeouts and derived contexts mix.

#![allow(clippy::unwrap_used)]

mod common;

use common::{HANG, gated, until};
use inflight::{BoxError, Context, Grace, Manager, ManualClock, Retry, Task, TaskError};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, mpsc};
use std::time::Duration;

const SEC: Duration = Duration::from_secs(1);

/// Runs `task` and says what it ended as.
fn ends(
    manager: &Manager<()>,
    task: impl FnOnce(&Context) -> Result<(), BoxError> + Send + 'static,
) -> TaskError {
    manager.spawn((), task).unwrap().join().unwrap_err()
}

/// A task that says what it sees each time that it is asked.
struct Witness<T> {
    asks: mpsc::Sender<()>,
    said: mpsc::Receiver<T>,
}

impl<T: Send + Sync + 'static> Witness<T> {
    fn new(
        sees: impl Fn(&Context) -> T + Send + 'static,
    ) -> (Self, impl FnOnce(&Context) -> Result<(), BoxError> + Send + 'static) {
        let (asks, asked) = mpsc::channel::<()>();
        let (says, said) = mpsc::channel();
        let task = move |cx: &Context| {
            while asked.recv_timeout(HANG).is_ok() {
                says.send(sees(cx))?;
            }
            Ok(())
        };
        (Witness { asks, said }, task)
    }

    fn ask(&self) -> T {
        self.asks.send(()).unwrap();
        self.said.recv_timeout(HANG).unwrap()
    }
}

// -- what it is attached to ------------------------------------------------------------------------------

#[test]
fn a_task_keeps_the_values_and_not_the_deadline_of_the_context_it_was_submitted_with() {
    let manager = Manager::new();
    let request = Context::background().with_value(7_u32).with_timeout(Duration::ZERO);
    let (sends, receives) = mpsc::channel();
    let task = move |cx: &Context| {
        Ok(sends.send((cx.is_cancelled(), cx.deadline(), cx.remaining(), cx.value().copied()))?)
    };
    manager.run_task(Task::once((), task).context(&request)).unwrap();
    assert_eq!(receives.recv_timeout(HANG).unwrap(), (false, None, None, Some(7_u32)));
}

#[test]
fn a_task_that_is_submitted_with_another_tasks_context_outlives_that_task() {
    let manager: Manager<()> = Manager::new();
    let inner = manager.uncounted();
    let (gate, waits) = gated();
    let outer = move |cx: &Context| {
        let waits = move |cx: &Context| {
            waits(cx)?;
            Ok(cx.check()?)
        };
        inner.run_task(Task::once((), waits).context(cx))?;
        Ok(())
    };
    manager.run((), outer).unwrap();
    until(|| manager.stats().succeeded == 1);
    gate.started();
    gate.open();
    manager.wait();
    assert_eq!(manager.stats().succeeded, 2);
}

#[test]
fn a_manager_that_is_cancelled_reaches_every_context_that_was_derived_from_its_tasks() {
    let manager = Manager::new();
    let (starts, started) = mpsc::channel();
    let task = move |cx: &Context| {
        let (derived, _canceller) = cx.with_timeout(Duration::MAX).with_value(1).with_cancel();
        std::thread::scope(|s| {
            // Helpers of the task's own, asleep in contexts of different depth.
            let sleepers = [cx.clone(), derived.clone(), derived.with_timeout(HANG * 9)];
            let handles = sleepers.map(|cx| s.spawn(move || cx.sleep(Duration::MAX)));
            starts.send(()).unwrap();
            let woken = handles.into_iter().filter_map(|handle| handle.join().unwrap().err()).count();
            assert_eq!(woken, 3);
        });
        Ok(())
    };
    manager.run((), task).unwrap();
    started.recv_timeout(HANG).unwrap();
    manager.cancel();
    manager.wait_timeout(HANG).unwrap();
    assert_eq!(manager.stats().succeeded, 1);
}

#[test]
fn without_cancel_keeps_the_values_only() {
    let manager = Manager::new();
    let cx = Context::background().with_value("kept");
    let (gate, waits) = gated();
    let (sends, receives) = mpsc::channel();
    let task = move |cx: &Context| {
        let free = cx.without_cancel();
        waits(cx)?;
        assert!(cx.is_cancelled());
        let seen = (free.is_cancelled(), free.deadline(), free.task_id(), free.attempt());
        Ok(sends.send((seen, free.value::<&str>().copied()))?)
    };
    manager.run_task(Task::once((), task).context(&cx).timeout(HANG)).unwrap();
    gate.started();
    manager.cancel();
    gate.open();
    assert_eq!(receives.recv_timeout(HANG).unwrap(), ((false, None, None, 0), Some("kept")));
}

// -- deadlines -------------------------------------------------------------------------------------------

#[test]
fn the_deadline_is_the_next_line_be_it_the_tasks_or_a_derived_contexts() {
    let clock = ManualClock::new();
    let manager = Manager::builder().clock(&clock).build().unwrap();
    let task = |cx: &Context| {
        let (near, far) = (cx.with_timeout(SEC), cx.with_timeout(SEC * 9));
        assert_eq!([near.remaining(), far.remaining()], [Some(SEC), Some(SEC * 5)]);
        assert_eq!(far.deadline(), cx.deadline());
        assert_eq!(near.with_timeout(SEC * 2).with_value(1).remaining(), Some(SEC));
        Ok(())
    };
    manager.run_task(Task::once((), task).timeout(SEC * 5)).unwrap();
    manager.wait_timeout(Duration::MAX).unwrap();
    assert_eq!(manager.stats().succeeded, 1);
}

#[test]
fn of_several_shutdowns_the_next_line_is_what_a_task_sees() {
    let clock = ManualClock::new();
    let manager = Manager::builder().clock(&clock).build().unwrap();
    let (witness, task) = Witness::new(|cx| (cx.remaining(), cx.is_cancelled()));
    manager.run((), task).unwrap();
    assert_eq!(witness.ask(), (None, false));
    let shuts = |grace| {
        let manager = manager.clone();
        std::thread::spawn(move || manager.shutdown(grace).is_err())
    };
    let patient = shuts(Grace::drain(SEC * 100).then_cancel(SEC));
    until(|| witness.ask() == (Some(SEC * 100), false));
    let hasty = shuts(Grace::drain(SEC * 10).then_cancel(SEC * 300));
    until(|| witness.ask() == (Some(SEC * 10), false));
    // The earliest cancel counts for all; then the patient one is the first whose budget is used up.
    clock.advance(SEC * 10);
    until(|| witness.ask() == (Some(SEC * 91), true));
    clock.advance(SEC * 91);
    assert!(patient.join().unwrap());
    assert!(!hasty.is_finished());
    drop(witness);
    assert!(!hasty.join().unwrap(), "the task has ended within the longer budget");
}

#[test]
fn a_cancel_without_a_shutdown_has_no_deadline() {
    let manager = Manager::new();
    let (witness, task) = Witness::new(|cx| (cx.deadline(), cx.is_cancelled()));
    manager.run((), task).unwrap();
    assert_eq!(witness.ask(), (None, false));
    manager.cancel();
    assert_eq!(witness.ask(), (None, true));
}

#[test]
fn a_task_that_starts_during_a_drain_sees_what_is_left_of_it() {
    let clock = ManualClock::new();
    let manager = Manager::builder().clock(&clock).max_threads(1).build().unwrap();
    let gate = common::busy(&manager, ());
    let (witness, task) = Witness::new(Context::remaining);
    manager.run((), task).unwrap();
    let other = manager.clone();
    let shuts = std::thread::spawn(move || other.shutdown(Grace::drain(SEC * 10)).is_ok());
    until(|| manager.is_closed());
    clock.advance(SEC * 4);
    gate.open();
    assert_eq!(witness.ask(), Some(SEC * 6));
    drop(witness);
    assert!(shuts.join().unwrap());
}

// -- kept for too long -----------------------------------------------------------------------------------

#[test]
fn a_context_that_is_kept_from_an_earlier_attempt_counts_as_cancelled_once_the_task_has_ended() {
    // Each attempt has a thread of its own, so that nothing else happens on the thread of the first.
    let manager = Manager::builder().thread_per_task().build().unwrap();
    let (sends, kept) = mpsc::channel();
    let task = move |cx: &Context| {
        sends.send(cx.clone())?;
        if cx.attempt() == 1 { Err("busy".into()) } else { Ok(()) }
    };
    let retry = Retry::attempts(2).delays(|| [Duration::from_millis(1)]);
    manager.run_task(Task::retrying((), task).retry(retry)).unwrap();
    manager.wait_timeout(HANG).unwrap();
    for attempt in [1, 2] {
        let cx = kept.try_recv().unwrap();
        assert!(cx.is_cancelled(), "that of attempt {attempt}");
    }
}

#[test]
fn a_context_that_is_kept_from_an_iteration_counts_as_cancelled_once_the_loop_has_ended() {
    let manager = Manager::builder().thread_per_task().build().unwrap();
    let (sends, kept) = mpsc::channel();
    let rounds = AtomicBool::new(true);
    let inner = manager.uncounted();
    let task = move |cx: &Context| {
        sends.send(cx.clone())?;
        if !rounds.swap(false, Ordering::SeqCst) {
            inner.close();
        }
        Ok(())
    };
    manager.run_task(Task::looping((), task).every(Duration::from_millis(1))).unwrap();
    until(|| manager.is_closed());
    manager.wait_timeout(HANG).unwrap();
    let kept: Vec<Context> = kept.try_iter().collect();
    assert!(kept.len() >= 2 && kept.iter().all(Context::is_cancelled));
}

#[test]
fn a_context_that_is_kept_beyond_run_here_counts_as_cancelled() {
    let manager = Manager::new();
    manager.close();
    let (sends, kept) = mpsc::channel::<Context>();
    manager.run((), move |cx| Ok(sends.send(cx.clone())?)).unwrap_err().run_here().unwrap();
    assert!(kept.recv().unwrap().is_cancelled());
}

#[test]
fn a_context_that_a_hook_has_kept_counts_as_cancelled_and_is_not_the_next_tasks() {
    let manager = Manager::builder().max_threads(1).build().unwrap();
    let (sends, kept) = mpsc::channel::<Context>();
    manager.on_task_succeeded(move |cx, _| sends.send(cx.clone()).unwrap());
    let first = manager.run(1, |_| Ok(())).unwrap();
    manager.wait();
    let cx = kept.recv().unwrap();
    manager.run(2, |cx| Ok(cx.check()?)).unwrap();
    manager.wait();
    assert_eq!((cx.is_cancelled(), cx.task_id(), manager.stats().succeeded), (true, Some(first), 2));
}

// -- which error counts as what ----------------------------------------------------------------------------

#[test]
fn an_error_after_the_timeout_has_been_noticed_counts_as_timed_out() {
    let manager = Manager::new();
    let (says, said) = mpsc::channel();
    manager.on_task_failed(move |_, (), error| says.send(error.clone()).unwrap());
    manager.run_task(Task::once((), |cx| Ok(cx.sleep(Duration::MAX)?)).timeout(Duration::ZERO)).unwrap();
    assert!(matches!(said.recv_timeout(HANG).unwrap(), TaskError::TimedOut));
    let ignores = |_: &Context| Err("disk full".into());
    manager.run_task(Task::once((), ignores).timeout(Duration::ZERO)).unwrap();
    assert!(matches!(said.recv_timeout(HANG).unwrap(), TaskError::Failed(_)), "it has noticed nothing");
    let finishes = |cx: &Context| {
        assert!(cx.check().is_err());
        Ok(())
    };
    manager.run_task(Task::once((), finishes).timeout(Duration::ZERO)).unwrap();
    manager.wait();
    assert_eq!(manager.stats().succeeded, 1);
}

#[test]
fn a_one_off_with_options_that_is_cancelled_ends_with_that_and_says_so() {
    let manager: Manager<()> = Manager::new();
    let (says, said) = mpsc::channel();
    manager.on_task_failed(move |_, (), error| says.send(error.clone()).unwrap());
    let inner = manager.uncounted();
    let task = move |cx: &Context| {
        inner.cancel();
        Ok(cx.check()?)
    };
    manager.run_task(Task::retrying((), task).timeout(Duration::MAX).retry(Retry::attempts(2))).unwrap();
    assert!(matches!(said.recv_timeout(HANG).unwrap(), TaskError::Cancelled));
    manager.wait();
    assert_eq!(manager.stats().failed, 1);
}

#[test]
fn the_end_of_a_derived_context_is_not_the_tasks() {
    let manager = Manager::new();
    let error = ends(&manager, |cx| Ok(cx.with_timeout(Duration::ZERO).check()?));
    assert!(matches!(error, TaskError::Failed(_)), "{error:?}");
    let error = ends(&manager, |cx| {
        let (cx, canceller) = cx.with_cancel();
        canceller.cancel();
        Ok(cx.sleep(Duration::MAX)?)
    });
    assert!(matches!(error, TaskError::Failed(_)), "{error:?}");
}

#[test]
fn what_an_attempt_was_told_is_not_held_against_the_next_task_of_its_thread() {
    let manager = Manager::builder().max_threads(1).build().unwrap();
    let told = manager.spawn((), |cx| Ok(cx.with_timeout(Duration::ZERO).check()?)).unwrap();
    assert!(told.join().is_err());
    let (gate, waits) = gated();
    let next = manager.spawn((), move |cx| {
        waits(cx)?;
        Err::<(), _>("disk full".into())
    });
    gate.started();
    manager.cancel();
    gate.open();
    let error = next.unwrap().join().unwrap_err();
    assert!(matches!(error, TaskError::Failed(_)), "nobody told this one: {error:?}");
}

#[test]
fn what_an_attempt_was_told_is_not_held_against_the_next_attempt() {
    let manager: Manager<()> = Manager::builder().max_threads(1).build().unwrap();
    let (says, said) = mpsc::channel();
    manager.on_task_failed(move |_, (), error| says.send(error.clone()).unwrap());
    let inner = manager.uncounted();
    let task = move |cx: &Context| {
        if cx.attempt() == 1 {
            return Ok(cx.with_timeout(Duration::ZERO).check()?);
        }
        inner.cancel();
        Err("disk full".into())
    };
    let retry = Retry::attempts(2).delays(|| [Duration::ZERO]);
    manager.run_task(Task::retrying((), task).retry(retry)).unwrap();
    let error = said.recv_timeout(HANG).unwrap();
    assert_eq!((matches!(error, TaskError::Failed(_)), error.to_string()), (true, "disk full".into()));
}

#[test]
fn a_panic_stays_a_panic_whatever_was_cancelled() {
    let manager = Manager::new();
    let inner = manager.uncounted();
    let error = ends(&manager, move |cx| {
        inner.cancel();
        assert!(cx.check().is_err());
        panic!("jammed")
    });
    assert!(matches!(error, TaskError::Panicked(message) if message == "jammed"));
}

#[test]
fn threads_of_the_tasks_own_may_hold_its_context_when_it_is_cancelled() {
    let manager = Manager::new();
    let woken = Arc::new(AtomicBool::new(false));
    let wakes = Arc::clone(&woken);
    let (starts, started) = mpsc::channel();
    let task = move |cx: &Context| {
        let helpers = cx.clone();
        let helper = std::thread::spawn(move || {
            starts.send(()).unwrap();
            let slept = helpers.sleep(Duration::MAX);
            wakes.store(slept.is_err(), Ordering::SeqCst);
        });
        helper.join().unwrap();
        Err::<(), _>("my helper was stopped".into())
    };
    let handle = manager.spawn((), task).unwrap();
    started.recv_timeout(HANG).unwrap();
    handle.cancel();
    let error = handle.join().unwrap_err();
    assert!(woken.load(Ordering::SeqCst));
    assert!(matches!(error, TaskError::Cancelled), "the clone has answered for it: {error:?}");
}
