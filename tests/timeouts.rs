//! Timeouts, on a clock that the tests advance.
//!
//! - what it covers: from the first run, not delay or queue; all attempts and the pauses between them; in a
//!   loop each iteration anew
//! - what ends as `TimedOut`: told by `check`, by `sleep`, by a derived context, or with a `Cancelled` in the
//!   error's chain; everything else stays what it is
//! - retries: none that would start past it, planned or late
//! - the edges: no timer and no supervisor, zero, the longest `Duration`

#![allow(clippy::unwrap_used)]

mod support;

use inflight::{Backoff, Cancelled, Context, Kind, Manager, ManualClock, Phase, Reason, Retry, Task};
use std::error::Error;
use std::fmt;
use std::io;
use std::sync::{Arc, mpsc};
use std::time::Duration;
use support::{HANG, Journal, SEC, fails_until, fused, gate, manager, occupy, until, until_phases};

const TIMED_OUT: &str = "the task ran into its timeout";

#[test]
fn a_sleeper_wakes_and_its_task_has_timed_out() {
    let clock = ManualClock::new();
    let manager = manager(&clock);
    let journal = Journal::of(&manager);
    let (starts, started) = mpsc::channel();
    let task = move |cx: &Context| {
        starts.send((cx.remaining(), cx.deadline().is_some()))?;
        Ok(cx.sleep(Duration::MAX)?)
    };
    manager.run_task(Task::once("slow", task).timeout(SEC)).unwrap();
    assert_eq!(started.recv_timeout(HANG).unwrap(), (Some(SEC), true));
    clock.advance(SEC);
    journal.expect(&format!("slow failed in 1: {TIMED_OUT}"));
}

#[test]
fn check_tells_a_task_that_computes() {
    let clock = ManualClock::new();
    let manager = manager(&clock);
    let journal = Journal::of(&manager);
    let hands = clock.clone();
    let task = move |cx: &Context| {
        cx.check()?;
        hands.advance(SEC);
        cx.check()?;
        unreachable!("the second check says so")
    };
    manager.run_task(Task::once("sum", task).timeout(SEC)).unwrap();
    journal.expect(&format!("sum failed in 1: {TIMED_OUT}"));
}

#[test]
fn a_derived_context_tells_as_well() {
    let clock = ManualClock::new();
    let manager = manager(&clock);
    let journal = Journal::of(&manager);
    let hands = clock.clone();
    let task = move |cx: &Context| {
        let (derived, _canceller) = cx.with_value(7).with_cancel();
        hands.advance(SEC);
        derived.check().map_err(|_| "stopped half way".into())
    };
    manager.run_task(Task::once("sum", task).timeout(SEC)).unwrap();
    journal.expect(&format!("sum failed in 1: {TIMED_OUT}"));
}

#[test]
fn a_cancelled_in_the_errors_chain_tells_as_well() {
    #[derive(Debug)]
    struct Outer(Cancelled);
    impl fmt::Display for Outer {
        fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("the import stopped")
        }
    }
    impl Error for Outer {
        fn source(&self) -> Option<&(dyn Error + 'static)> {
            Some(&self.0)
        }
    }
    let (cancelled, canceller) = Context::background().with_cancel();
    canceller.cancel();
    let of_another = cancelled.check().unwrap_err();

    let clock = ManualClock::new();
    let manager = manager(&clock);
    let journal = Journal::of(&manager);
    let hands = clock.clone();
    let task = move |_: &Context| {
        hands.advance(SEC);
        Err(Outer(of_another).into())
    };
    manager.run_task(Task::once("import", task).timeout(SEC)).unwrap();
    journal.expect(&format!("import failed in 1: {TIMED_OUT}"));
}

#[test]
fn an_error_that_has_nothing_to_do_with_it_stays_what_it_is() {
    let clock = ManualClock::new();
    let manager = manager(&clock);
    let journal = Journal::of(&manager);
    let hands = clock.clone();
    let task = move |cx: &Context| {
        hands.advance(SEC * 2);
        // Looking is not being told.
        assert!(cx.is_cancelled());
        Err("no paper".into())
    };
    manager.run_task(Task::once("print", task).timeout(SEC)).unwrap();
    journal.expect("print failed in 1: no paper");
}

#[test]
fn a_task_that_succeeds_late_has_succeeded() {
    let clock = ManualClock::new();
    let manager = manager(&clock);
    let journal = Journal::of(&manager);
    let hands = clock.clone();
    let task = move |cx: &Context| {
        hands.advance(SEC * 2);
        assert!(cx.check().is_err());
        Ok(())
    };
    manager.run_task(Task::once("print", task).timeout(SEC)).unwrap();
    journal.expect("print succeeded in 1");
}

#[test]
fn the_timeout_of_a_derived_context_is_not_the_tasks() {
    let clock = ManualClock::new();
    let manager = manager(&clock);
    let journal = Journal::of(&manager);
    let hands = clock.clone();
    let task = move |cx: &Context| {
        let step = cx.with_timeout(SEC);
        assert_eq!(step.remaining(), Some(SEC));
        hands.advance(SEC);
        step.check().map_err(|_| "this step took too long".into())
    };
    manager.run_task(Task::once("print", task).timeout(SEC * 2)).unwrap();
    journal.expect("print failed in 1: this step took too long");
}

#[test]
fn it_starts_when_the_task_first_runs() {
    let clock = ManualClock::new();
    let manager = manager(&clock);
    let (starts, started) = mpsc::channel();
    let task = move |cx: &Context| Ok(starts.send(cx.remaining())?);
    let gate = occupy(&manager, "holds the thread");
    manager.run_task(Task::once("later", task).delay(SEC * 5).timeout(SEC)).unwrap();
    clock.advance(SEC * 5);
    until_phases(&manager, &[Phase::Running, Phase::Queued]);
    clock.advance(SEC * 5);
    gate.open();
    assert_eq!(started.recv_timeout(HANG).unwrap(), Some(SEC), "neither delay nor queue counts");
}

#[test]
fn it_covers_all_attempts_and_the_pauses_between_them() {
    let clock = ManualClock::new();
    let manager = manager(&clock);
    let (starts, started) = mpsc::channel();
    let hands = clock.clone();
    let task = move |cx: &Context| {
        starts.send(cx.remaining())?;
        hands.advance(SEC);
        Err("busy".into())
    };
    let retry = Retry::attempts(3).delays(|| [Duration::ZERO, SEC * 2]);
    manager.run_task(Task::retrying("mail", task).retry(retry).timeout(SEC * 10)).unwrap();
    let next = || started.recv_timeout(HANG).unwrap();
    assert_eq!((next(), next()), (Some(SEC * 10), Some(SEC * 9)));
    until_phases(&manager, &[Phase::Delayed]);
    clock.advance(SEC * 2);
    assert_eq!(next(), Some(SEC * 6));
}

#[test]
fn a_retry_that_would_start_past_it_does_not() {
    let clock = ManualClock::new();
    let manager = manager(&clock);
    let journal = Journal::of(&manager);
    let retry = Retry::unlimited().backoff(Backoff::constant(SEC));
    manager.run_task(Task::retrying("mail", fails_until(99)).retry(retry).timeout(SEC * 2)).unwrap();
    journal.expect("mail retried after 1: busy");
    until_phases(&manager, &[Phase::Delayed]);
    clock.advance(SEC);
    journal.expect("mail failed in 2: busy");
}

#[test]
fn a_retry_that_comes_to_its_start_too_late_does_not_start() {
    let clock = ManualClock::new();
    let manager = manager(&clock);
    let journal = Journal::of(&manager);
    let retry = Retry::unlimited().backoff(Backoff::constant(SEC));
    manager.run_task(Task::retrying("mail", fails_until(99)).retry(retry).timeout(SEC * 2)).unwrap();
    journal.expect("mail retried after 1: busy");
    // Due in time, it waits behind another task until it is too late.
    let gate = occupy(&manager, "holds the thread");
    clock.advance(SEC);
    until_phases(&manager, &[Phase::Queued, Phase::Running]);
    clock.advance(SEC * 5);
    gate.open();
    journal.expect("holds the thread succeeded in 1");
    journal.expect("mail failed in 1: busy");
}

#[test]
fn in_a_loop_a_late_retry_ends_the_iteration_with_the_failure_it_had() {
    let clock = ManualClock::new();
    let manager = manager(&clock);
    let journal = Journal::of(&manager);
    let retry = Retry::unlimited().backoff(Backoff::constant(SEC));
    let task = Task::looping("poll", fails_until(99)).every(SEC * 10).retry(retry).timeout(SEC * 2);
    manager.run_task(task).unwrap();
    for _ in 0..2 {
        journal.expect("poll retried after 1: busy");
        until_phases(&manager, &[Phase::Delayed]);
        // Over the retry's time and over the timeout, in one step.
        clock.advance(SEC * 5);
        journal.expect("poll failed in 1: busy");
        until_phases(&manager, &[Phase::Delayed]);
        clock.advance(SEC * 5);
    }
    journal.expect("poll retried after 1: busy");
    manager.cancel();
}

#[test]
fn a_timed_out_attempt_is_not_repeated() {
    let clock = ManualClock::new();
    let manager = manager(&clock);
    let journal = Journal::of(&manager);
    let hands = clock.clone();
    let task = move |cx: &Context| {
        hands.advance(SEC);
        Ok(cx.check()?)
    };
    let retry = Retry::unlimited().backoff(Backoff::constant(Duration::ZERO));
    manager.run_task(Task::retrying("mail", task).retry(retry).timeout(SEC)).unwrap();
    journal.expect(&format!("mail failed in 1: {TIMED_OUT}"));
}

#[test]
fn in_a_loop_it_is_for_each_iteration_and_the_loop_goes_on() {
    let clock = ManualClock::new();
    let manager = manager(&clock);
    let journal = Journal::of(&manager);
    let hands = clock.clone();
    let mut rounds = 0;
    let task = move |cx: &Context| {
        rounds += 1;
        hands.advance(if rounds == 3 { SEC * 2 } else { SEC });
        Ok(cx.check()?)
    };
    manager.run_task(Task::looping("poll", task).every(Duration::ZERO).timeout(SEC * 2)).unwrap();
    journal.expect("poll succeeded in 1");
    journal.expect("poll succeeded in 1");
    journal.expect(&format!("poll failed in 1: {TIMED_OUT}"));
    journal.expect("poll succeeded in 1");
}

#[test]
fn in_a_loop_it_covers_the_retries_of_an_iteration() {
    let clock = ManualClock::new();
    let manager = manager(&clock);
    let journal = Journal::of(&manager);
    let retry = Retry::unlimited().backoff(Backoff::constant(SEC));
    let task = Task::looping("poll", fails_until(9)).every(SEC * 60).retry(retry).timeout(SEC * 2);
    manager.run_task(task).unwrap();
    journal.expect("poll retried after 1: busy");
    until_phases(&manager, &[Phase::Delayed]);
    clock.advance(SEC);
    journal.expect("poll failed in 2: busy");
    until_phases(&manager, &[Phase::Delayed]);
    clock.advance(SEC * 60);
    journal.expect("poll retried after 1: busy");
    manager.cancel();
}

#[test]
fn the_values_of_a_loop_whose_iteration_timed_out_in_a_pause_go_with_the_loop() {
    let clock = ManualClock::new();
    let manager = fused(Manager::builder().max_threads(2).clock(&clock));
    let journal = Journal::of(&manager);
    let value = Arc::new(());
    let values = Context::background().with_value(Arc::clone(&value));
    let retry = Retry::unlimited().backoff(Backoff::constant(SEC));
    let task = Task::looping("poll", fails_until(9)).every(SEC * 60).retry(retry).timeout(SEC * 2);
    manager.run_task(task.context(&values)).unwrap();
    drop(values);
    journal.expect("poll retried after 1: busy");
    until_phases(&manager, &[Phase::Delayed]);
    clock.advance(SEC * 5);
    journal.expect("poll failed in 1: busy");
    until_phases(&manager, &[Phase::Delayed]);
    // The thread that has had it in hand is kept busy, so that another one ends it.
    let busy = occupy(&manager, "busy");
    assert_eq!(manager.stats().threads, 1);
    manager.close();
    until(|| manager.count_of(Kind::Loop) == 0);
    assert_eq!(Arc::strong_count(&value), 1, "nobody holds what is the user's once a task has ended");
    busy.open();
    manager.wait();
}

#[test]
fn a_task_past_its_timeout_is_listed_as_cancelling() {
    let clock = ManualClock::new();
    let manager = manager(&clock);
    let (gate, task) = gate();
    manager.run_task(Task::once("stuck", task).timeout(SEC)).unwrap();
    gate.started();
    assert_eq!(manager.tasks()[0].phase(), Phase::Running);
    clock.advance(SEC);
    assert_eq!(manager.tasks()[0].phase(), Phase::Cancelling);
    gate.open();
}

#[test]
fn it_needs_no_supervisor() {
    let gate = |name: &str| match name.ends_with("supervisor") {
        true => Err(io::ErrorKind::WouldBlock.into()),
        false => Ok(()),
    };
    let clock = ManualClock::new();
    let manager = fused(Manager::builder().clock(&clock).thread_gate(gate));
    let journal = Journal::of(&manager);
    let (starts, started) = mpsc::channel();
    let task = move |cx: &Context| {
        starts.send(())?;
        Ok(cx.sleep(Duration::MAX)?)
    };
    manager.run_task(Task::once("slow", task).timeout(SEC)).unwrap();
    started.recv_timeout(HANG).unwrap();
    clock.advance(SEC);
    journal.expect(&format!("slow failed in 1: {TIMED_OUT}"));
    let rejected = manager.run_task(Task::once("later", |_| Ok(())).delay(SEC)).unwrap_err();
    assert!(matches!(rejected.reason(), Reason::Spawn(_)), "the gate works");
}

#[test]
fn any_duration_will_do() {
    let manager = manager(&ManualClock::new());
    let (says, said) = mpsc::channel();
    for timeout in [Duration::ZERO, Duration::MAX] {
        let says = says.clone();
        let task = move |cx: &Context| Ok(says.send((cx.is_cancelled(), cx.remaining()))?);
        manager.run_task(Task::once("edge", task).timeout(timeout)).unwrap();
    }
    assert_eq!(said.recv_timeout(HANG).unwrap(), (true, Some(Duration::ZERO)), "it runs all the same");
    assert_eq!(said.recv_timeout(HANG).unwrap(), (false, None));
}
