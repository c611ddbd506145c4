//! Loops, on a clock that the tests advance.
//!
//! - when the next iteration starts: at once, `every` from start to start without bursts, after a pause if it
//!   fails; none of it occupies a worker, and no loop starves another task
//! - what is reported: each iteration, with its retries; the end is silent
//! - close: the iteration in hand finishes with its retries, no other begins, of whatever loop; afterwards a
//!   loop is rejected. Cancel, shutdown, drop, `wait`
//! - inline: one iteration

#![allow(clippy::unwrap_used)]

mod support;

use inflight::{Backoff, BoxError, Context, Grace, Kind, Manager, ManualClock, Phase, Reason, Retry, Task};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{self, Receiver};
use std::thread;
use std::time::Duration;
use support::{
    HANG, Journal, MS, SEC, fails_until, fused, gate, manager, occupy, settle, until, until_phases,
};

/// A loop's closure that says when it starts, and then does what `then` says for the iteration of this number.
fn stamped(
    clock: &ManualClock,
    mut then: impl FnMut(u32) -> Result<(), BoxError> + Send + 'static,
) -> (Receiver<Duration>, impl FnMut(&Context) -> Result<(), BoxError> + Send + 'static) {
    let (starts, started) = mpsc::channel();
    let hands = clock.clone();
    let mut iteration = 0;
    let task = move |_: &Context| {
        let _ = starts.send(hands.elapsed());
        iteration += 1;
        then(iteration)
    };
    (started, task)
}

#[track_caller]
fn next(started: &Receiver<Duration>) -> Duration {
    started.recv_timeout(HANG).expect("an iteration starts")
}

// -- when -------------------------------------------------------------------------------------------------

#[test]
fn it_repeats_at_once_and_its_end_is_silent() {
    let manager = manager(&ManualClock::new());
    let journal = Journal::of(&manager);
    let count = Arc::new(AtomicUsize::new(0));
    let counts = Arc::clone(&count);
    let task = move |_: &Context| {
        counts.fetch_add(1, Ordering::SeqCst);
        Ok(())
    };
    manager.run_task(Task::looping("poll", task)).unwrap();
    for _ in 0..100 {
        journal.expect("poll succeeded in 1");
    }
    assert_eq!((manager.count_of(Kind::Loop), manager.count_of(Kind::Once), manager.len()), (1, 0, 1));
    manager.close();
    manager.wait();
    let rest = journal.rest();
    assert!(rest.iter().all(|line| line == "poll succeeded in 1"));
    assert_eq!(100 + rest.len(), count.load(Ordering::SeqCst), "each iteration is reported, and only those");
    assert_eq!(manager.stats().succeeded as usize, count.load(Ordering::SeqCst));
    assert_eq!((manager.stats().added, manager.count_of(Kind::Loop)), (1, 0));
}

#[test]
fn one_that_repeats_at_once_starves_no_other_task() {
    let manager = manager(&ManualClock::new());
    manager.run_task(Task::looping("one", |_| Ok(()))).unwrap();
    manager.run_task(Task::looping("other", |_| Ok(()))).unwrap();
    for n in 0..100 {
        let handle = manager.spawn("task", move |_| Ok(n)).unwrap();
        let Ok(value) = handle.join_timeout(HANG) else { panic!("it is starved") };
        assert_eq!(value.unwrap(), n);
    }
}

#[test]
fn a_period_is_measured_from_start_to_start_without_bursts() {
    let clock = ManualClock::new();
    let manager = manager(&clock);
    let hands = clock.clone();
    let (started, task) = stamped(&clock, move |iteration| {
        hands.advance(if iteration == 3 { SEC * 35 } else { SEC * 4 });
        Ok(())
    });
    manager.run_task(Task::looping("poll", task).every(SEC * 10)).unwrap();
    assert_eq!(next(&started), Duration::ZERO);
    until_phases(&manager, &[Phase::Delayed]);
    clock.advance(SEC * 5);
    settle(&manager);
    assert!(started.try_recv().is_err(), "ten seconds are not over");
    clock.advance(SEC);
    assert_eq!(next(&started), SEC * 10);
    until_phases(&manager, &[Phase::Delayed]);
    clock.advance(SEC * 6);
    assert_eq!(next(&started), SEC * 20);
    assert_eq!(next(&started), SEC * 55, "it took too long: the next starts at once");
    until_phases(&manager, &[Phase::Delayed]);
    settle(&manager);
    assert!(started.try_recv().is_err(), "what was missed is not made up for");
    clock.advance(SEC * 6);
    assert_eq!(next(&started), SEC * 65);
}

#[test]
fn a_jump_of_the_clock_is_one_iteration() {
    let clock = ManualClock::new();
    let manager = manager(&clock);
    let (started, task) = stamped(&clock, |_| Ok(()));
    manager.run_task(Task::looping("poll", task).every(SEC)).unwrap();
    next(&started);
    until_phases(&manager, &[Phase::Delayed]);
    clock.advance(SEC * 1_000_000);
    assert_eq!(next(&started), SEC * 1_000_000);
    until_phases(&manager, &[Phase::Delayed]);
    settle(&manager);
    assert!(started.try_recv().is_err());
}

#[test]
fn a_failed_iteration_keeps_the_period() {
    let clock = ManualClock::new();
    let manager = manager(&clock);
    let journal = Journal::of(&manager);
    let (started, task) = stamped(&clock, |iteration| match iteration {
        1 => Err("busy".into()),
        2 => panic!("jammed"),
        _ => Ok(()),
    });
    manager.run_task(Task::looping("poll", task).every(SEC * 60)).unwrap();
    for said in ["failed in 1: busy", "failed in 1: the task panicked: jammed", "succeeded in 1"] {
        assert_eq!(next(&started), clock.elapsed());
        journal.expect(&format!("poll {said}"));
        until_phases(&manager, &[Phase::Delayed]);
        clock.advance(SEC * 60);
    }
}

#[test]
fn without_a_period_failures_in_a_row_back_off() {
    let clock = ManualClock::new();
    let manager = manager(&clock);
    let (started, task) =
        stamped(&clock, |iteration| if iteration == 4 { Ok(()) } else { Err("busy".into()) });
    manager.run_task(Task::looping("poll", task)).unwrap();
    next(&started);
    let pause = |pause: Duration| {
        until_phases(&manager, &[Phase::Delayed]);
        let before = clock.elapsed();
        clock.advance(pause - MS);
        settle(&manager);
        assert!(started.try_recv().is_err(), "it is too soon after {before:?}");
        clock.advance(MS);
        next(&started);
    };
    pause(MS * 10);
    pause(MS * 20);
    pause(MS * 40);
    // The fourth has succeeded: the fifth starts at once, and a failure is the first in a row again.
    assert_eq!(next(&started), clock.elapsed());
    pause(MS * 10);
    manager.close();
}

#[test]
fn the_first_iteration_can_be_delayed() {
    let clock = ManualClock::new();
    let manager = manager(&clock);
    let (started, task) = stamped(&clock, |_| Ok(()));
    manager.run_task(Task::looping("poll", task).delay(SEC * 5).every(SEC * 60)).unwrap();
    settle(&manager);
    assert!(started.try_recv().is_err());
    clock.advance(SEC * 5);
    assert_eq!(next(&started), SEC * 5);
    until_phases(&manager, &[Phase::Delayed]);
    clock.advance(SEC * 60);
    assert_eq!(next(&started), SEC * 65);
}

#[test]
fn a_loop_that_waits_occupies_no_worker() {
    let manager = manager(&ManualClock::new());
    let journal = Journal::of(&manager);
    for _ in 0..20 {
        manager.run_task(Task::looping("poll", |_| Ok(())).every(SEC)).unwrap();
        journal.expect("poll succeeded in 1");
    }
    until_phases(&manager, &[Phase::Delayed; 20]);
    manager.spawn("task", |_| Ok(())).unwrap().join().unwrap();
    assert_eq!(manager.stats().threads, 1);
}

#[test]
fn any_period_will_do() {
    let clock = ManualClock::new();
    let manager = manager(&clock);
    let (started, task) = stamped(&clock, |_| Ok(()));
    manager.run_task(Task::looping("never", task).every(Duration::MAX)).unwrap();
    next(&started);
    let (always, task) = stamped(&clock, |_| Ok(()));
    manager.run_task(Task::looping("always", task).every(Duration::ZERO)).unwrap();
    (0..10).for_each(|_| assert!(next(&always).is_zero()));
    clock.advance(Duration::MAX);
    next(&always);
    assert!(started.try_recv().is_err());
}

// -- what is reported -------------------------------------------------------------------------------------

#[test]
fn each_iteration_has_its_own_attempts_and_delays() {
    let clock = ManualClock::new();
    let manager = manager(&clock);
    let journal = Journal::of(&manager);
    let made = Arc::new(AtomicUsize::new(0));
    let makes = Arc::clone(&made);
    let retry = Retry::attempts(5).delays(move || {
        makes.fetch_add(1, Ordering::SeqCst);
        [Duration::ZERO; 2]
    });
    manager.run_task(Task::looping("poll", fails_until(4)).every(SEC).retry(retry)).unwrap();
    for iterations in 1..=2 {
        journal.expect("poll retried after 1: busy");
        journal.expect("poll retried after 2: busy");
        journal.expect("poll failed in 3: busy");
        until_phases(&manager, &[Phase::Delayed]);
        assert_eq!(made.load(Ordering::SeqCst), iterations);
        clock.advance(SEC);
    }
    manager.cancel();
}

#[test]
fn the_builders_policy_is_for_loops_as_well() {
    let retry = Retry::attempts(2).backoff(Backoff::constant(Duration::ZERO));
    let manager = fused(Manager::builder().max_threads(1).clock(&ManualClock::new()).retry(retry));
    let journal = Journal::of(&manager);
    manager.run_task(Task::looping("poll", fails_until(2)).every(SEC)).unwrap();
    journal.expect("poll retried after 1: busy");
    journal.expect("poll succeeded in 2");
}

#[test]
fn a_context_that_is_kept_beyond_its_iteration_is_cancelled_from_then_on() {
    let manager = manager(&ManualClock::new());
    let (keeps, kept) = mpsc::channel();
    let task = move |cx: &Context| Ok(keeps.send(cx.clone())?);
    manager.run_task(Task::looping("poll", task).every(SEC)).unwrap();
    let kept = kept.recv_timeout(HANG).unwrap();
    until_phases(&manager, &[Phase::Delayed]);
    assert!(kept.is_cancelled());
}

// -- close, cancel, shutdown ------------------------------------------------------------------------------

#[test]
fn close_lets_the_iteration_in_hand_finish_and_no_other_begins_of_whatever_loop() {
    let manager = manager(&ManualClock::new());
    let journal = Journal::of(&manager);
    manager.run_task(Task::looping("sleeps", |_| Ok(())).every(SEC)).unwrap();
    journal.expect("sleeps succeeded in 1");
    until_phases(&manager, &[Phase::Delayed]);
    let (gate, waits) = gate();
    manager.run_task(Task::looping("in hand", waits)).unwrap();
    gate.started();
    manager.run_task(Task::looping("delayed", |_| unreachable!()).delay(SEC)).unwrap();
    manager.run_task(Task::looping("queued", |_| unreachable!())).unwrap();
    manager.close();
    gate.open();
    manager.wait();
    assert_eq!(journal.rest(), ["in hand succeeded in 1"]);
    assert!(manager.is_empty());
}

#[test]
fn close_lets_the_retries_of_the_iteration_in_hand_go_on() {
    let clock = ManualClock::new();
    let manager = manager(&clock);
    let journal = Journal::of(&manager);
    let retry = Retry::attempts(3).backoff(Backoff::constant(SEC));
    manager.run_task(Task::looping("poll", fails_until(3)).retry(retry)).unwrap();
    journal.expect("poll retried after 1: busy");
    until_phases(&manager, &[Phase::Delayed]);
    let gate = occupy(&manager, "holds the thread");
    manager.close();
    assert_eq!(manager.tasks()[0].phase(), Phase::Delayed, "at its time");
    gate.open();
    journal.expect("holds the thread succeeded in 1");
    clock.advance(SEC);
    journal.expect("poll retried after 2: busy");
    until_phases(&manager, &[Phase::Delayed]);
    clock.advance(SEC);
    journal.expect("poll succeeded in 3");
    manager.wait();
    assert!(journal.rest().is_empty());
}

#[test]
fn a_loop_added_after_close_is_rejected_whole() {
    let manager = manager(&ManualClock::new());
    manager.close();
    let (says, said) = mpsc::channel();
    let task = move |_: &Context| Ok(says.send(())?);
    let rejected = manager.run_task(Task::looping("late", task)).unwrap_err();
    assert!(matches!(rejected.reason(), Reason::Closed));
    assert!(said.try_recv().is_err());
    rejected.run_here().unwrap();
    assert_eq!(said.try_iter().count(), 1, "one attempt");
}

#[test]
fn a_cancelled_iteration_is_the_silent_end() {
    let manager = manager(&ManualClock::new());
    let journal = Journal::of(&manager);
    let (starts, started) = mpsc::channel();
    let task = move |cx: &Context| {
        starts.send(())?;
        Ok(cx.sleep(Duration::MAX)?)
    };
    manager.run_task(Task::looping("poll", task)).unwrap();
    started.recv_timeout(HANG).unwrap();
    manager.cancel();
    manager.wait();
    journal.expect_nothing();
    assert_eq!((manager.stats().succeeded, manager.stats().failed), (0, 0));
}

#[test]
fn an_iteration_that_ends_otherwise_after_a_cancel_is_reported_and_the_last() {
    for (outcome, said) in [(Ok(()), "poll succeeded in 1"), (Err("jammed"), "poll failed in 1: jammed")] {
        let manager = manager(&ManualClock::new());
        let journal = Journal::of(&manager);
        let (gate, mut waits) = gate();
        let task = move |cx: &Context| {
            waits(cx)?;
            outcome.map_err(BoxError::from)
        };
        manager.run_task(Task::looping("poll", task)).unwrap();
        gate.started();
        manager.cancel();
        gate.open();
        manager.wait();
        assert_eq!(journal.rest(), [said]);
    }
}

#[test]
fn cancel_ends_a_retry_pause_with_the_failure_that_the_iteration_had() {
    let manager = manager(&ManualClock::new());
    let journal = Journal::of(&manager);
    let retry = Retry::unlimited().backoff(Backoff::constant(SEC));
    manager.run_task(Task::looping("poll", fails_until(9)).retry(retry)).unwrap();
    journal.expect("poll retried after 1: busy");
    until_phases(&manager, &[Phase::Delayed]);
    manager.cancel();
    journal.expect("poll failed in 1: busy");
    manager.wait();
    assert!(journal.rest().is_empty());
}

#[test]
fn shutdown_ends_what_waits_silently_and_names_what_is_stuck() {
    let manager = manager(&ManualClock::new());
    let journal = Journal::of(&manager);
    manager.run_task(Task::looping("sleeps", |_| Ok(())).every(SEC)).unwrap();
    journal.expect("sleeps succeeded in 1");
    until_phases(&manager, &[Phase::Delayed]);
    let (gate, waits) = gate();
    manager.run_task(Task::looping("stuck", waits)).unwrap();
    gate.started();
    let unfinished = manager.shutdown(Grace::drain(Duration::ZERO)).unwrap_err();
    let named: Vec<_> = unfinished.tasks().iter().map(|task| (*task.meta(), task.kind())).collect();
    assert_eq!(named, [("sleeps", Kind::Loop), ("stuck", Kind::Loop)]);
    journal.expect_nothing();
    gate.open();
    manager.wait();
    assert_eq!(journal.rest(), ["stuck succeeded in 1"]);
}

#[test]
fn wait_leaves_loops_out_until_the_manager_is_closed() {
    let manager = manager(&ManualClock::new());
    let (gate, waits) = gate();
    manager.run_task(Task::looping("poll", waits)).unwrap();
    gate.started();
    manager.wait();
    manager.close();
    let unfinished = manager.wait_timeout(Duration::ZERO).unwrap_err();
    assert_eq!(*unfinished.tasks()[0].meta(), "poll");
    gate.open();
    manager.wait();
}

#[test]
fn the_drop_of_the_last_handle_ends_loops() {
    let clock = ManualClock::new();
    let manager = Manager::builder().clock(&clock).build().unwrap();
    let inner = manager.uncounted();
    let (started, task) = stamped(&clock, |_| Ok(()));
    manager.run_task(Task::looping("poll", task).every(SEC)).unwrap();
    next(&started);
    drop(manager);
    assert!(inner.is_empty());
}

#[test]
fn a_submitter_that_is_still_in_its_hook_when_the_manager_closes_starts_no_iteration() {
    let manager = manager(&ManualClock::new());
    let inner = manager.uncounted();
    manager.on_task_added(move |_, _| assert!(inner.close()));
    let journal = Journal::of(&manager);
    manager.run_task(Task::looping("poll", |_| unreachable!())).unwrap();
    manager.wait();
    journal.expect_nothing();
    assert_eq!(manager.stats().added, 1);
}

// -- inline -----------------------------------------------------------------------------------------------

#[test]
fn inline_it_ends_after_one_iteration() {
    let manager = fused(Manager::builder().inline().clock(&ManualClock::new()));
    let journal = Journal::of(&manager);
    let retry = Retry::attempts(2).backoff(Backoff::constant(Duration::ZERO));
    manager.run_task(Task::looping("poll", fails_until(2)).every(SEC).retry(retry)).unwrap();
    assert_eq!(journal.rest(), ["poll retried after 1: busy", "poll succeeded in 2"]);
    assert!(manager.is_empty());
}

#[test]
fn a_closed_manager_has_no_loop_and_no_thread_left() {
    let clock = ManualClock::new();
    let manager = fused(Manager::builder().name("closes").clock(&clock));
    let (started, task) = stamped(&clock, |_| Ok(()));
    manager.run_task(Task::looping("poll", task).every(SEC)).unwrap();
    next(&started);
    let busy = occupy(&manager, "busy");
    thread::scope(|s| {
        s.spawn(|| manager.shutdown(Grace::drain(Duration::MAX)).unwrap());
        until(|| manager.count_of(Kind::Loop) == 0);
        busy.open();
    });
    until(|| support::threads_named("closes") == 0);
}
