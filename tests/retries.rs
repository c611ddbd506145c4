//! Retries, on a clock that the tests advance.
//!
//! - how often: attempts (0 is 1), unlimited, not unless asked for; which errors: `when`, panics
//! - when: backoff with its cap, jitter and seed; delays of any iterator, `backon`'s too; exhausted is the end
//! - what is seen: each failure once, `on_task_retried` before its pause on the worker, `Failed` after the last
//! - what lasts from attempt to attempt: the closure's state, values, the last progress; and what does not
//! - close, cancel, shutdown and drop, while it pauses and while it runs: each ends exactly once
//! - closures of the user's that panic; setters that make no sense

#![allow(clippy::unwrap_used)]

mod support;

use backon::{BackoffBuilder, ConstantBuilder, ExponentialBuilder};
use inflight::{Backoff, Context, Grace, Manager, ManualClock, Phase, Retry, Task, TaskError};
use std::cell::Cell;
use std::iter;
use std::panic;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{self, Receiver};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;
use support::{
    HANG, Journal, MS, SEC, fails_until, fused, gate, manager, occupy, settle, until, until_phases,
};

const AT_ONCE: Duration = Duration::ZERO;

fn always_fails(_: &Context) -> Result<(), inflight::BoxError> {
    Err("busy".into())
}

/// A task that always fails, and when its attempts start.
fn stamped(
    clock: &ManualClock,
) -> (Receiver<Duration>, impl FnMut(&Context) -> Result<(), inflight::BoxError> + Send + 'static) {
    let (starts, started) = mpsc::channel();
    let hands = clock.clone();
    let task = move |_: &Context| {
        starts.send(hands.elapsed())?;
        Err("busy".into())
    };
    (started, task)
}

/// Runs a task with this policy, advances the clock by `step` from pause to pause, and answers when its
/// attempts started.
fn starts(retry: Retry, step: Duration) -> Vec<Duration> {
    let clock = ManualClock::new();
    let manager = manager(&clock);
    let (started, task) = stamped(&clock);
    manager.run_task(Task::retrying("mail", task).retry(retry)).unwrap();
    loop {
        until(|| manager.tasks().first().is_none_or(|task| task.phase() == Phase::Delayed));
        if manager.is_empty() {
            break;
        }
        clock.advance(step);
        settle(&manager);
    }
    started.try_iter().collect()
}

// -- how often, and for which errors ----------------------------------------------------------------------

#[test]
fn a_retrying_task_without_a_policy_is_attempted_once() {
    let manager = manager(&ManualClock::new());
    let journal = Journal::of(&manager);
    manager.run_task(Task::retrying("mail", always_fails)).unwrap();
    journal.expect("mail failed in 1: busy");
}

#[test]
fn attempts_count_the_first_and_zero_means_one() {
    let manager = manager(&ManualClock::new());
    let journal = Journal::of(&manager);
    for (asked, made) in [(0, 1), (1, 1), (3, 3)] {
        let retry = Retry::attempts(asked).backoff(Backoff::constant(AT_ONCE));
        manager.run_task(Task::retrying("mail", always_fails).retry(retry)).unwrap();
        for attempt in 1..made {
            journal.expect(&format!("mail retried after {attempt}: busy"));
        }
        journal.expect(&format!("mail failed in {made}: busy"));
    }
    manager.wait();
    let stats = manager.stats();
    assert_eq!((stats.added, stats.retried, stats.failed, stats.succeeded), (3, 2, 3, 0));
}

#[test]
fn unlimited_attempts_go_on_until_one_succeeds() {
    let manager = manager(&ManualClock::new());
    let journal = Journal::of(&manager);
    let retry = Retry::unlimited().delays(|| iter::repeat(AT_ONCE));
    manager.run_task(Task::retrying("mail", fails_until(500)).retry(retry)).unwrap();
    for attempt in 1..500 {
        journal.expect(&format!("mail retried after {attempt}: busy"));
    }
    journal.expect("mail succeeded in 500");
}

#[test]
fn a_panic_is_a_failed_attempt() {
    let manager = manager(&ManualClock::new());
    let journal = Journal::of(&manager);
    let task = |cx: &Context| if cx.attempt() == 1 { panic!("jammed") } else { Ok(()) };
    let retry = Retry::attempts(2).backoff(Backoff::constant(AT_ONCE));
    manager.run_task(Task::retrying("print", task).retry(retry)).unwrap();
    journal.expect("print retried after 1: the task panicked: jammed");
    journal.expect("print succeeded in 2");
}

#[test]
fn when_picks_the_errors_that_are_worth_it() {
    let manager = manager(&ManualClock::new());
    let journal = Journal::of(&manager);
    let retry = Retry::unlimited()
        .backoff(Backoff::constant(AT_ONCE))
        .when(|error| !matches!(error, TaskError::Panicked(_)));
    let task = |cx: &Context| if cx.attempt() == 3 { panic!("jammed") } else { Err("busy".into()) };
    manager.run_task(Task::retrying("print", task).retry(retry)).unwrap();
    journal.expect("print retried after 1: busy");
    journal.expect("print retried after 2: busy");
    journal.expect("print failed in 3: the task panicked: jammed");
}

#[test]
fn the_builders_policy_is_for_tasks_that_can_be_repeated_and_have_none_of_their_own() {
    let retry = Retry::attempts(2).backoff(Backoff::constant(AT_ONCE));
    let manager = fused(Manager::builder().max_threads(1).clock(&ManualClock::new()).retry(retry));
    let journal = Journal::of(&manager);
    manager.run("run", always_fails).unwrap();
    journal.expect("run failed in 1: busy");
    assert!(manager.spawn("spawn", always_fails).unwrap().join().is_err());
    journal.expect("spawn failed in 1: busy");
    manager.run_task(Task::once("once", always_fails)).unwrap();
    journal.expect("once failed in 1: busy");
    manager.run_task(Task::retrying("default", always_fails)).unwrap();
    journal.expect("default retried after 1: busy");
    journal.expect("default failed in 2: busy");
    manager.run_task(Task::retrying("own", always_fails).retry(Retry::attempts(1))).unwrap();
    journal.expect("own failed in 1: busy");
}

// -- after what pauses ------------------------------------------------------------------------------------

#[test]
fn pauses_double_up_to_their_cap() {
    let backoff = Backoff::exponential(SEC, SEC * 5).without_jitter();
    let starts = starts(Retry::attempts(6).backoff(backoff), SEC);
    assert_eq!(starts, [0, 1, 3, 7, 12, 17].map(|n| SEC * n));
}

#[test]
fn the_cap_holds_for_the_first_pause_too() {
    let backoff = Backoff::exponential(SEC * 10, SEC).without_jitter();
    assert_eq!(starts(Retry::attempts(3).backoff(backoff), SEC), [0, 1, 2].map(|n| SEC * n));
}

#[test]
fn jitter_shortens_a_pause_and_its_seed_repeats_it() {
    let of = |seed| {
        let backoff = Backoff::exponential(MS * 64, MS * 64).seed(seed);
        starts(Retry::attempts(30).backoff(backoff), MS)
    };
    let drawn = of(7);
    let pauses: Vec<_> = drawn.windows(2).map(|pair| pair[1] - pair[0]).collect();
    // The clock moves by the millisecond here.
    assert!(pauses.iter().all(|pause| *pause <= MS * 64), "{pauses:?}");
    assert!(pauses.iter().any(|pause| *pause < MS * 24), "{pauses:?}");
    assert!(pauses.iter().any(|pause| *pause > MS * 40), "{pauses:?}");
    assert_eq!(drawn, of(7));
    assert_ne!(drawn, of(8));
}

#[test]
fn delays_come_from_any_iterator_and_its_end_is_the_end() {
    let retry = Retry::unlimited().delays(|| [SEC, SEC * 3]);
    assert_eq!(starts(retry, SEC), [0, 1, 4].map(|n| SEC * n));
}

#[test]
fn each_task_has_an_iterator_of_its_own() {
    let manager = manager(&ManualClock::new());
    let made = Arc::new(AtomicUsize::new(0));
    let makes = Arc::clone(&made);
    let retry = Retry::unlimited().delays(move || {
        makes.fetch_add(1, Ordering::SeqCst);
        [AT_ONCE; 2]
    });
    for _ in 0..3 {
        manager.run_task(Task::retrying("mail", always_fails).retry(retry.clone())).unwrap();
    }
    manager.run_task(Task::retrying("fine", |_| Ok(())).retry(retry)).unwrap();
    manager.wait();
    assert_eq!((made.load(Ordering::SeqCst), manager.stats().retried), (3, 6));
}

#[test]
fn the_delays_of_backon_plug_in() {
    let theirs = ExponentialBuilder::default().with_min_delay(SEC).with_factor(3.0).with_max_times(2);
    assert_eq!(starts(Retry::unlimited().delays(move || theirs.build()), SEC), [0, 1, 4].map(|n| SEC * n));
    let theirs = ConstantBuilder::default().with_delay(SEC).without_max_times();
    assert_eq!(starts(Retry::attempts(3).delays(move || theirs.build()), SEC), [0, 1, 2].map(|n| SEC * n));
}

#[test]
fn a_pause_occupies_no_worker_and_is_no_time_in_the_queue() {
    let clock = ManualClock::new();
    let manager = manager(&clock);
    let (says, said) = mpsc::channel();
    let task = move |cx: &Context| {
        says.send(cx.queued_for())?;
        Err("busy".into())
    };
    let retry = Retry::attempts(2).backoff(Backoff::constant(SEC * 60));
    manager.run_task(Task::retrying("mail", task).retry(retry)).unwrap();
    assert_eq!(said.recv_timeout(HANG).unwrap(), Duration::ZERO);
    until_phases(&manager, &[Phase::Delayed]);
    let gate = occupy(&manager, "the only worker");
    clock.advance(SEC * 60);
    until_phases(&manager, &[Phase::Queued, Phase::Running]);
    clock.advance(SEC * 2);
    gate.open();
    assert_eq!(said.recv_timeout(HANG).unwrap(), SEC * 2);
}

// -- what is seen -----------------------------------------------------------------------------------------

#[test]
fn the_hook_learns_error_and_attempt_on_the_worker_before_the_pause() {
    let clock = ManualClock::new();
    let manager = fused(Manager::builder().name("mail").max_threads(1).clock(&clock));
    let seen = Arc::new(Mutex::new(Vec::new()));
    let sees = Arc::clone(&seen);
    let inner = manager.uncounted();
    manager.on_task_retried(move |cx, meta, error, attempt| {
        let phase = inner.tasks()[0].phase();
        let thread = thread::current().name().map(str::to_owned);
        sees.lock().unwrap().push((*meta, error.to_string(), attempt, cx.attempt(), phase, thread));
    });
    let retry = Retry::attempts(2).backoff(Backoff::constant(AT_ONCE));
    manager.run_task(Task::retrying("receipt", always_fails).retry(retry)).unwrap();
    manager.wait();
    let worker = Some("mail-1".to_owned());
    assert_eq!(*seen.lock().unwrap(), [("receipt", "busy".to_owned(), 1, 1, Phase::Running, worker)]);
}

#[test]
fn a_task_in_its_pause_is_listed_with_its_last_attempt_and_progress() {
    let clock = ManualClock::new();
    let manager = manager(&clock);
    let (says, said) = mpsc::channel();
    let task = move |cx: &Context| {
        says.send(())?;
        if cx.attempt() == 1 {
            cx.progress("half of it");
        }
        if cx.attempt() == 2 { Err("worse".into()) } else { Err("busy".into()) }
    };
    let retry = Retry::attempts(3).backoff(Backoff::constant(SEC));
    manager.run_task(Task::retrying("mail", task).retry(retry)).unwrap();
    for attempt in 1..=2 {
        said.recv_timeout(HANG).unwrap();
        until_phases(&manager, &[Phase::Delayed]);
        let info = &manager.tasks()[0];
        assert_eq!((info.attempt(), info.progress(), info.thread()), (attempt, Some("half of it"), None));
        assert_eq!(info.running_for(), Duration::ZERO);
        clock.advance(SEC);
    }
}

#[test]
fn the_closures_state_and_the_contexts_values_last() {
    let manager = manager(&ManualClock::new());
    let mut sum = 0;
    let (says, said) = mpsc::channel();
    let task = move |cx: &Context| {
        sum += cx.value::<u32>().unwrap();
        if cx.attempt() < 4 { Err("again".into()) } else { Ok(says.send(sum)?) }
    };
    let retry = Retry::attempts(4).backoff(Backoff::constant(AT_ONCE));
    let request = Context::background().with_value(10_u32);
    manager.run_task(Task::retrying("sum", task).retry(retry).context(&request)).unwrap();
    assert_eq!(said.recv_timeout(HANG).unwrap(), 40);
}

#[test]
fn a_context_that_is_kept_beyond_its_attempt_is_cancelled_from_then_on() {
    let manager = manager(&ManualClock::new());
    let (keeps, kept) = mpsc::channel();
    let task = move |cx: &Context| {
        keeps.send(cx.clone())?;
        Err("busy".into())
    };
    let retry = Retry::attempts(2).backoff(Backoff::constant(SEC));
    manager.run_task(Task::retrying("mail", task).retry(retry)).unwrap();
    let kept = kept.recv_timeout(HANG).unwrap();
    until_phases(&manager, &[Phase::Delayed]);
    assert!(kept.is_cancelled());
    manager.cancel();
}

// -- close, cancel, shutdown ------------------------------------------------------------------------------

#[test]
fn close_lets_retries_go_on_at_their_time() {
    let clock = ManualClock::new();
    let manager = manager(&clock);
    let journal = Journal::of(&manager);
    let retry = Retry::attempts(3).backoff(Backoff::constant(SEC));
    manager.run_task(Task::retrying("mail", fails_until(3)).retry(retry)).unwrap();
    journal.expect("mail retried after 1: busy");
    until_phases(&manager, &[Phase::Delayed]);
    let gate = occupy(&manager, "holds the thread");
    manager.close();
    assert_eq!(manager.tasks()[0].phase(), Phase::Delayed, "at its time");
    gate.open();
    journal.expect("holds the thread succeeded in 1");
    clock.advance(SEC);
    journal.expect("mail retried after 2: busy");
    until_phases(&manager, &[Phase::Delayed]);
    clock.advance(SEC);
    journal.expect("mail succeeded in 3");
}

#[test]
fn cancel_ends_a_pause_with_the_failure_it_had() {
    let manager = manager(&ManualClock::new());
    let journal = Journal::of(&manager);
    let retry = Retry::unlimited().backoff(Backoff::constant(Duration::MAX));
    manager.run_task(Task::retrying("mail", always_fails).retry(retry)).unwrap();
    journal.expect("mail retried after 1: busy");
    until_phases(&manager, &[Phase::Delayed]);
    manager.cancel();
    journal.expect("mail failed in 1: busy");
    manager.wait();
    assert!(journal.rest().is_empty());
}

#[test]
fn an_attempt_that_fails_after_a_cancel_is_the_last() {
    let manager = manager(&ManualClock::new());
    let journal = Journal::of(&manager);
    let (gate, mut waits) = gate();
    let task = move |cx: &Context| {
        waits(cx)?;
        Err("no paper".into())
    };
    let retry = Retry::unlimited().backoff(Backoff::constant(AT_ONCE));
    manager.run_task(Task::retrying("print", task).retry(retry)).unwrap();
    gate.started();
    manager.cancel();
    gate.open();
    journal.expect("print failed in 1: no paper");
    manager.wait();
    assert!(journal.rest().is_empty());
    assert_eq!(manager.stats().retried, 0);
}

#[test]
fn shutdown_gives_a_waiting_retry_up_and_names_it() {
    let manager = manager(&ManualClock::new());
    let journal = Journal::of(&manager);
    let retry = Retry::unlimited().backoff(Backoff::constant(SEC));
    manager.run_task(Task::retrying("mail", always_fails).retry(retry)).unwrap();
    journal.expect("mail retried after 1: busy");
    until_phases(&manager, &[Phase::Delayed]);
    // No worker is free to end it before the shutdown does.
    let gate = occupy(&manager, "stuck");
    let unfinished = manager.shutdown(Grace::drain(Duration::ZERO)).unwrap_err();
    let named: Vec<_> = unfinished.tasks().iter().map(|task| (*task.meta(), task.attempt())).collect();
    assert_eq!(named, [("mail", 1), ("stuck", 1)]);
    assert_eq!(journal.rest(), [format!("mail failed in 1: {}", TaskError::Abandoned)]);
    gate.open();
    manager.wait();
    assert_eq!(journal.rest(), ["stuck succeeded in 1"]);
}

#[test]
fn an_attempt_that_fails_after_a_shutdown_has_returned_is_the_last() {
    let manager = manager(&ManualClock::new());
    let journal = Journal::of(&manager);
    let (gate, mut waits) = gate();
    let task = move |cx: &Context| {
        waits(cx)?;
        Err("no paper".into())
    };
    let retry = Retry::unlimited().backoff(Backoff::constant(AT_ONCE));
    manager.run_task(Task::retrying("print", task).retry(retry)).unwrap();
    gate.started();
    let unfinished = manager.shutdown(Grace::drain(Duration::ZERO)).unwrap_err();
    assert_eq!(*unfinished.tasks()[0].meta(), "print");
    gate.open();
    manager.wait();
    assert_eq!(journal.rest(), ["print failed in 1: no paper"]);
}

#[test]
fn the_drop_of_the_last_handle_waits_for_retries() {
    let clock = ManualClock::new();
    let manager = Manager::builder().clock(&clock).build().unwrap();
    let journal = Journal::of(&manager);
    let inner = manager.uncounted();
    let retry = Retry::attempts(2).backoff(Backoff::constant(SEC));
    manager.run_task(Task::retrying("mail", fails_until(2)).retry(retry)).unwrap();
    journal.expect("mail retried after 1: busy");
    let dropping = thread::spawn(move || drop(manager));
    until(|| inner.is_closed());
    until_phases(&inner, &[Phase::Delayed]);
    assert!(!dropping.is_finished());
    clock.advance(SEC);
    journal.expect("mail succeeded in 2");
    dropping.join().unwrap();
}

// -- inline -----------------------------------------------------------------------------------------------

#[test]
fn inline_a_pause_sleeps_on_the_managers_clock() {
    let clock = ManualClock::new();
    let manager = fused(Manager::builder().inline().clock(&clock));
    let journal = Journal::of(&manager);
    let retry = Retry::attempts(2).backoff(Backoff::constant(SEC));
    thread::scope(|s| {
        s.spawn(|| manager.run_task(Task::retrying("mail", fails_until(2)).retry(retry)).unwrap());
        journal.expect("mail retried after 1: busy");
        until_phases(&manager, &[Phase::Delayed]);
        clock.advance(SEC);
        journal.expect("mail succeeded in 2");
    });
}

#[test]
fn inline_a_cancel_ends_the_pause() {
    let manager = fused(Manager::builder().inline().clock(&ManualClock::new()));
    let journal = Journal::of(&manager);
    let retry = Retry::unlimited().backoff(Backoff::constant(Duration::MAX));
    thread::scope(|s| {
        s.spawn(|| manager.run_task(Task::retrying("mail", always_fails).retry(retry)).unwrap());
        journal.expect("mail retried after 1: busy");
        until_phases(&manager, &[Phase::Delayed]);
        manager.cancel();
        journal.expect("mail failed in 1: busy");
    });
}

// -- what panics ------------------------------------------------------------------------------------------

#[test]
fn a_closure_of_the_policy_that_panics_gives_up_and_is_counted() {
    let manager = manager(&ManualClock::new());
    let journal = Journal::of(&manager);
    let policies = [
        Retry::unlimited().when(|_| panic!("no idea")),
        Retry::unlimited().delays(|| -> [Duration; 1] { panic!("no delays") }),
        Retry::unlimited().delays(|| iter::repeat_with(|| panic!("no delay"))),
    ];
    for (retry, panics) in policies.into_iter().zip(1..) {
        manager.run_task(Task::retrying("mail", always_fails).retry(retry)).unwrap();
        journal.expect("mail failed in 1: busy");
        manager.wait();
        assert_eq!((manager.stats().hook_panics, manager.stats().retried), (panics, 0));
    }
}

#[test]
fn an_iterator_whose_drop_panics_is_counted() {
    struct Delays;
    impl Iterator for Delays {
        type Item = Duration;
        fn next(&mut self) -> Option<Duration> {
            Some(AT_ONCE)
        }
    }
    impl Drop for Delays {
        fn drop(&mut self) {
            panic!("in a drop");
        }
    }
    let manager = manager(&ManualClock::new());
    let retry = Retry::attempts(2).delays(|| Delays);
    manager.run_task(Task::retrying("mail", fails_until(2)).retry(retry)).unwrap();
    manager.wait();
    assert_eq!((manager.stats().succeeded, manager.stats().hook_panics), (1, 1));
}

#[test]
fn a_hook_that_panics_keeps_no_retry_from_its_turn() {
    let manager = manager(&ManualClock::new());
    manager.on_task_retried(|_, _, _, _| panic!("in a hook"));
    let journal = Journal::of(&manager);
    let retry = Retry::attempts(2).backoff(Backoff::constant(AT_ONCE));
    manager.run_task(Task::retrying("mail", fails_until(2)).retry(retry)).unwrap();
    journal.expect("mail retried after 1: busy");
    journal.expect("mail succeeded in 2");
    assert_eq!(manager.stats().hook_panics, 1);
}

#[test]
#[should_panic(expected = "Task::retrying")]
fn retry_on_a_task_that_runs_once_panics_in_the_setter() {
    let _ = Task::once("", |_| Ok(())).retry(Retry::attempts(2));
}

#[test]
#[should_panic(expected = "Task::looping")]
fn every_on_a_task_that_does_not_loop_panics_in_the_setter() {
    let _ = Task::retrying("", |_| Ok(())).every(SEC);
}

#[test]
fn setters_that_make_no_sense_blame_their_caller() {
    thread_local!(static BLAMED: Cell<Option<u32>> = const { Cell::new(None) });
    let others = panic::take_hook();
    panic::set_hook(Box::new(move |info| {
        // Other tests panic at the same time.
        let own = thread::current().name().is_some_and(|name| name.contains("blame_their_caller"));
        match info.location() {
            Some(location) if own => {
                BLAMED.set(location.file().ends_with("retries.rs").then(|| location.line()))
            }
            _ => others(info),
        }
    }));
    let line = line!();
    let setters: [fn(); 2] = [
        || drop(Task::once("", |_| Ok(())).retry(Retry::attempts(2))),
        || drop(Task::once("", |_| Ok(())).every(SEC)),
    ];
    for (setter, expected) in setters.into_iter().zip(line + 2..) {
        assert!(panic::catch_unwind(setter).is_err());
        assert_eq!(BLAMED.take(), Some(expected));
    }
}
