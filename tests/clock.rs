//! Delays, and the one supervisor that keeps the clock, on a clock that the tests advance.
//!
//! - a delayed task starts at its time, in the order in which tasks became due, and occupies no worker: ten
//!   thousand of them, the supervisor and one worker
//! - the supervisor: one, from the first need on, gone when there is nothing to watch; refused, the task comes
//!   back whole
//! - close, cancel, shutdown, drop: each task ends exactly once
//! - policies: one worker that stays, a thread per task, inline
//! - the seam: budgets follow the clock, it saturates, any `Duration` will do

#![allow(clippy::unwrap_used)]

mod support;

use inflight::{Backoff, Context, Grace, Manager, ManualClock, Phase, Reason, Retry, Task, TaskError};
use std::collections::HashSet;
use std::io;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc;
use std::sync::{Arc, Barrier};
use std::thread;
use std::time::Duration;
use support::{
    HANG, Journal, SEC, fails_until, fused, manager, occupy, settle, threads_named, until, until_phases,
};

/// Counts the threads of this role that are asked for, and grants them all.
fn counting(role: &'static str) -> (Arc<AtomicUsize>, impl Fn(&str) -> io::Result<()> + Send + Sync) {
    let asked = Arc::new(AtomicUsize::new(0));
    let asks = Arc::clone(&asked);
    let gate = move |name: &str| {
        asks.fetch_add(usize::from(name.ends_with(role)), Ordering::SeqCst);
        Ok(())
    };
    (asked, gate)
}

fn refusing(role: &'static str) -> impl Fn(&str) -> io::Result<()> + Send + Sync {
    move |name| if name.ends_with(role) { Err(io::ErrorKind::WouldBlock.into()) } else { Ok(()) }
}

// -- delays -----------------------------------------------------------------------------------------------

#[test]
fn a_delayed_task_starts_when_its_time_has_come_and_not_before() {
    let clock = ManualClock::new();
    let manager = manager(&clock);
    let journal = Journal::of(&manager);
    manager.run_task(Task::once("late", |_| Ok(())).delay(SEC * 3)).unwrap();
    manager.run_task(Task::once("soon", |_| Ok(())).delay(SEC)).unwrap();
    until_phases(&manager, &[Phase::Delayed, Phase::Delayed]);
    clock.advance(SEC);
    journal.expect("soon succeeded in 1");
    clock.advance(SEC * 2 - Duration::from_nanos(1));
    settle(&manager);
    journal.expect("probe succeeded in 1");
    journal.expect_nothing();
    clock.advance(Duration::from_nanos(1));
    journal.expect("late succeeded in 1");
}

#[test]
fn tasks_start_in_the_order_in_which_they_became_due() {
    let clock = ManualClock::new();
    let manager = manager(&clock);
    let (starts, started) = mpsc::channel();
    for (n, delay) in [3, 1, 2, 1, 0].into_iter().enumerate() {
        let starts = starts.clone();
        let task = move |_: &Context| Ok(starts.send((delay, n))?);
        manager.run_task(Task::once("task", task).delay(SEC * delay)).unwrap();
    }
    clock.advance(SEC * 60);
    manager.wait();
    assert_eq!(started.try_iter().collect::<Vec<_>>(), [(0, 4), (1, 1), (1, 3), (2, 2), (3, 0)]);
}

#[test]
fn ten_thousand_delayed_tasks_occupy_the_supervisor_and_one_worker() {
    let clock = ManualClock::new();
    let (asked, gate) = counting("");
    let manager = fused(Manager::builder().max_threads(100).clock(&clock).thread_gate(gate));
    for _ in 0..10_000 {
        manager.run_task(Task::once("later", |_| Ok(())).delay(SEC)).unwrap();
    }
    assert_eq!((manager.len(), manager.stats().threads), (10_000, 1));
    assert_eq!(asked.load(Ordering::SeqCst), 2, "the supervisor and one worker");
    clock.advance(SEC);
    manager.wait();
    assert_eq!((manager.stats().succeeded, manager.stats().failed), (10_000, 0));
}

#[test]
fn workers_that_wait_for_what_is_delayed_or_paused_age_like_any_other_but_the_last() {
    let clock = ManualClock::new();
    let manager = fused(Manager::builder().max_threads(4).keep_alive(SEC).clock(&clock));
    let together = Arc::new(Barrier::new(4));
    let retry = Retry::unlimited().backoff(Backoff::constant(SEC * 3600));
    for _ in 0..2 {
        // All four threads are there when these have run once.
        let meets = Arc::clone(&together);
        let task = move |_: &Context| {
            meets.wait();
            Err("busy".into())
        };
        manager.run_task(Task::retrying("retries", task).retry(retry.clone())).unwrap();
        let meets = Arc::clone(&together);
        let task = move |_: &Context| {
            meets.wait();
            Ok(())
        };
        manager.run_task(Task::looping("loops", task).every(SEC * 3600)).unwrap();
    }
    until_phases(&manager, &[Phase::Delayed; 4]);
    assert_eq!(manager.stats().threads, 4);
    until(|| {
        clock.advance(SEC);
        manager.stats().threads == 1
    });
    assert!(clock.elapsed() < SEC * 3600, "they are still waiting");
    clock.advance(SEC * 60);
    settle(&manager);
    assert_eq!(manager.stats().threads, 1, "what falls due later needs a thread that cannot be refused then");
    manager.cancel();
}

#[test]
fn the_worker_that_stays_runs_what_falls_due_when_no_other_is_to_be_had() {
    let clock = ManualClock::new();
    let started = AtomicUsize::new(0);
    let only_one = move |name: &str| match name.ends_with("supervisor") {
        false if started.fetch_add(1, Ordering::SeqCst) > 0 => Err(io::ErrorKind::WouldBlock.into()),
        _ => Ok(()),
    };
    let manager = fused(Manager::builder().keep_alive(SEC).clock(&clock).thread_gate(only_one));
    let journal = Journal::of(&manager);
    manager.run_task(Task::once("later", |_| Ok(())).delay(SEC * 3600)).unwrap();
    for _ in 0..10 {
        clock.advance(SEC * 10);
        settle(&manager);
        journal.expect("probe succeeded in 1");
    }
    clock.advance(SEC * 3600);
    journal.expect("later succeeded in 1");
}

#[test]
fn a_delay_is_no_time_in_the_queue() {
    let clock = ManualClock::new();
    let manager = manager(&clock);
    let (says, said) = mpsc::channel();
    let task = move |cx: &Context| Ok(says.send(cx.queued_for())?);
    manager.run_task(Task::once("later", task).delay(SEC * 5)).unwrap();
    let gate = occupy(&manager, "holds the thread");
    clock.advance(SEC * 5);
    until_phases(&manager, &[Phase::Queued, Phase::Running]);
    clock.advance(SEC * 2);
    gate.open();
    assert_eq!(said.recv_timeout(HANG).unwrap(), SEC * 2);
}

// -- the supervisor ---------------------------------------------------------------------------------------

#[test]
fn it_starts_with_the_first_need_and_goes_when_there_is_nothing_to_watch() {
    let clock = ManualClock::new();
    let (asked, gate) = counting("supervisor");
    let builder = Manager::builder().name("keeps").max_threads(1).keep_alive(SEC);
    let manager = fused(builder.clock(&clock).thread_gate(gate));
    manager.spawn("now", |_| Ok(())).unwrap().join().unwrap();
    assert_eq!(asked.load(Ordering::SeqCst), 0);
    for needs in 1..=2 {
        settle(&manager);
        settle(&manager);
        assert_eq!(asked.load(Ordering::SeqCst), needs, "one serves them all");
        manager.wait();
        until(|| {
            clock.advance(SEC);
            threads_named("keeps-superviso") == 0
        });
        // Where the system does not list threads, the next need tells.
        for _ in 0..100 {
            clock.advance(SEC);
            thread::sleep(support::MS / 10);
        }
    }
}

#[test]
fn it_stays_while_something_is_live_that_needs_it() {
    let clock = ManualClock::new();
    let (asked, gate) = counting("supervisor");
    let manager = fused(Manager::builder().max_threads(1).keep_alive(SEC).clock(&clock).thread_gate(gate));
    manager.run_task(Task::once("later", |_| Ok(())).delay(SEC * 3600)).unwrap();
    for _ in 0..20 {
        clock.advance(SEC * 10);
        settle(&manager);
    }
    assert_eq!(asked.load(Ordering::SeqCst), 1);
    clock.advance(SEC * 3600);
    manager.wait();
}

#[test]
fn submitters_that_need_it_at_the_same_moment_share_one() {
    let clock = ManualClock::new();
    let manager = fused(Manager::builder().name("share").max_threads(1).clock(&clock));
    let together = Barrier::new(8);
    thread::scope(|s| {
        for _ in 0..8 {
            s.spawn(|| {
                together.wait();
                manager.run_task(Task::once("later", |_| Ok(())).delay(SEC)).unwrap();
            });
        }
    });
    assert!(threads_named("share-superviso") <= 1);
    clock.advance(SEC);
    manager.wait();
    assert_eq!(manager.stats().succeeded, 8);
}

#[test]
fn a_task_that_needs_it_comes_back_whole_if_it_is_refused() {
    let manager = fused(Manager::builder().thread_gate(refusing("supervisor")));
    let (says, said) = mpsc::channel();
    let task = |n: u32| {
        let says = says.clone();
        move |_: &Context| Ok(says.send(n)?)
    };
    let retry = Retry::attempts(2);
    let tasks = [
        Task::once("delay", task(1)).delay(SEC),
        Task::retrying("retry", task(2)).retry(retry),
        Task::looping("loop", task(3)),
        Task::once("stall", task(4)).stalled_after(SEC),
    ];
    for (task, n) in tasks.into_iter().zip(1..) {
        let rejected = manager.run_task(task).unwrap_err();
        assert!(matches!(rejected.reason(), Reason::Spawn(_)));
        assert!(said.try_recv().is_err(), "it was never run");
        rejected.run_here().unwrap();
        assert_eq!(said.try_recv().unwrap(), n);
    }
    manager.run("now", |_| Ok(())).unwrap();
    manager.wait();
    assert_eq!((manager.stats().added, manager.stats().rejected), (1, 4));
}

#[test]
fn the_builders_defaults_need_it_too() {
    let retry = || Manager::builder().retry(Retry::attempts(2)).thread_gate(refusing("supervisor"));
    let manager = fused(retry());
    assert!(manager.run_task(Task::retrying("retries", |_| Ok(()))).is_err());
    assert!(manager.run("runs once", |_| Ok(())).is_ok());
    let manager = fused(retry().stalled_after(SEC));
    assert!(manager.run("is watched", |_| Ok(())).is_err());
}

// -- close, cancel, shutdown, drop ------------------------------------------------------------------------

#[test]
fn close_lets_delayed_tasks_run_at_their_time() {
    let clock = ManualClock::new();
    let manager = manager(&clock);
    let journal = Journal::of(&manager);
    manager.run_task(Task::once("later", |_| Ok(())).delay(SEC)).unwrap();
    manager.close();
    until_phases(&manager, &[Phase::Delayed]);
    clock.advance(SEC);
    journal.expect("later succeeded in 1");
}

#[test]
fn cancel_ends_delayed_tasks_unrun_and_once() {
    let manager = manager(&ManualClock::new());
    let journal = Journal::of(&manager);
    for _ in 0..3 {
        manager.run_task(Task::once("later", |_| unreachable!()).delay(SEC)).unwrap();
    }
    manager.cancel();
    manager.cancel();
    manager.wait();
    assert_eq!(journal.rest(), [(); 3].map(|()| format!("later failed in 0: {}", TaskError::Cancelled)));
    assert_eq!((manager.stats().added, manager.stats().failed), (3, 3));
}

#[test]
fn shutdown_gives_delayed_tasks_up_before_it_returns_and_names_them() {
    let manager = manager(&ManualClock::new());
    let journal = Journal::of(&manager);
    let gate = occupy(&manager, "stuck");
    manager.run_task(Task::once("later", |_| unreachable!()).delay(SEC)).unwrap();
    let unfinished = manager.shutdown(Grace::drain(Duration::ZERO)).unwrap_err();
    let named: Vec<_> = unfinished.tasks().iter().map(|task| *task.meta()).collect();
    assert_eq!(named, ["stuck", "later"]);
    assert_eq!(journal.rest(), [format!("later failed in 0: {}", TaskError::Abandoned)]);
    gate.open();
    manager.wait();
    assert_eq!(journal.rest(), ["stuck succeeded in 1"]);
}

#[test]
fn the_budgets_of_a_shutdown_follow_the_clock() {
    let clock = ManualClock::new();
    let manager = manager(&clock);
    let inner = manager.uncounted();
    let (starts, started) = mpsc::channel();
    let task = move |cx: &Context| {
        starts.send(())?;
        while !cx.is_cancelled() {
            thread::yield_now();
        }
        // Told to stop, it looks at the time that is left, and uses none of it.
        starts.send(())?;
        Err(format!("{:?} are left", cx.remaining()).into())
    };
    let journal = Journal::of(&manager);
    manager.run("stubborn", task).unwrap();
    started.recv_timeout(HANG).unwrap();
    thread::scope(|s| {
        s.spawn(move || inner.shutdown(Grace::drain(SEC * 25).then_cancel(SEC * 5)).unwrap());
        until(|| manager.is_closed());
        assert!(started.try_recv().is_err());
        clock.advance(SEC * 25);
        started.recv_timeout(HANG).unwrap();
    });
    journal.expect("stubborn failed in 1: Some(5s) are left");
}

#[test]
fn wait_timeout_follows_the_clock() {
    let clock = ManualClock::new();
    let manager = manager(&clock);
    let gate = occupy(&manager, "stuck");
    thread::scope(|s| {
        let waiting = s.spawn(|| manager.wait_timeout(SEC * 3600).is_err());
        until(|| {
            clock.advance(SEC * 60);
            waiting.is_finished()
        });
        assert!(waiting.join().unwrap());
    });
    assert!(clock.elapsed() >= SEC * 3600);
    gate.open();
}

#[test]
fn the_drop_of_the_last_handle_waits_for_delayed_tasks() {
    let clock = ManualClock::new();
    let manager = Manager::builder().clock(&clock).build().unwrap();
    let journal = Journal::of(&manager);
    let inner = manager.uncounted();
    manager.run_task(Task::once("later", |_| Ok(())).delay(SEC)).unwrap();
    let dropping = thread::spawn(move || drop(manager));
    until(|| inner.is_closed());
    assert!(!dropping.is_finished());
    clock.advance(SEC);
    journal.expect("later succeeded in 1");
    dropping.join().unwrap();
}

// -- policies ---------------------------------------------------------------------------------------------

#[test]
fn with_a_thread_per_task_each_delayed_task_and_each_attempt_gets_a_fresh_one() {
    let clock = ManualClock::new();
    let manager = fused(Manager::builder().thread_per_task().clock(&clock));
    let (runs, ran) = mpsc::channel();
    for n in 1..=3 {
        let runs = runs.clone();
        let task = move |cx: &Context| {
            runs.send(thread::current().id())?;
            if cx.attempt() < 2 { Err("busy".into()) } else { Ok(()) }
        };
        let retry = Retry::attempts(2).backoff(Backoff::constant(SEC));
        manager.run_task(Task::retrying("later", task).delay(SEC * n).retry(retry)).unwrap();
    }
    for _ in 0..5 {
        clock.advance(SEC);
        settle(&manager);
    }
    until(|| {
        clock.advance(SEC);
        manager.is_empty()
    });
    assert_eq!(ran.try_iter().collect::<HashSet<_>>().len(), 6);
}

#[test]
fn inline_a_delay_sleeps_on_the_managers_clock() {
    let clock = ManualClock::new();
    let manager = fused(Manager::builder().inline().clock(&clock));
    let journal = Journal::of(&manager);
    thread::scope(|s| {
        s.spawn(|| manager.run_task(Task::once("later", |_| Ok(())).delay(SEC)).unwrap());
        until_phases(&manager, &[Phase::Delayed]);
        journal.expect_nothing();
        clock.advance(SEC);
        journal.expect("later succeeded in 1");
    });
}

#[test]
fn inline_a_cancel_ends_the_delay() {
    let manager = fused(Manager::builder().inline().clock(&ManualClock::new()));
    let journal = Journal::of(&manager);
    thread::scope(|s| {
        s.spawn(|| manager.run_task(Task::once("later", |_| unreachable!()).delay(SEC)).unwrap());
        until_phases(&manager, &[Phase::Delayed]);
        manager.cancel();
        journal.expect(&format!("later failed in 0: {}", TaskError::Cancelled));
    });
}

#[test]
fn inline_needs_no_thread_but_a_stall_watchs() {
    let clock = ManualClock::new();
    let manager = fused(Manager::builder().inline().clock(&clock).thread_gate(refusing("")));
    let journal = Journal::of(&manager);
    let retry = Retry::attempts(2).backoff(Backoff::constant(Duration::ZERO));
    manager.run_task(Task::once("later", |_| Ok(())).delay(Duration::ZERO)).unwrap();
    manager.run_task(Task::retrying("mail", fails_until(2)).retry(retry)).unwrap();
    manager.run_task(Task::looping("poll", |_| Ok(()))).unwrap();
    let said = journal.rest();
    assert_eq!(
        said,
        ["later succeeded in 1", "mail retried after 1: busy", "mail succeeded in 2", "poll succeeded in 1"]
    );
    let rejected = manager.run_task(Task::once("watched", |_| Ok(())).stalled_after(SEC)).unwrap_err();
    assert!(matches!(rejected.reason(), Reason::Spawn(_)));
}

// -- the seam ---------------------------------------------------------------------------------------------

#[test]
fn any_delay_will_do() {
    let clock = ManualClock::new();
    let manager = manager(&clock);
    let journal = Journal::of(&manager);
    manager.run_task(Task::once("never", |_| unreachable!()).delay(Duration::MAX)).unwrap();
    manager.run_task(Task::once("now", |_| Ok(())).delay(Duration::ZERO)).unwrap();
    journal.expect("now succeeded in 1");
    clock.advance(Duration::MAX);
    settle(&manager);
    journal.expect("probe succeeded in 1");
    manager.cancel();
    journal.expect(&format!("never failed in 0: {}", TaskError::Cancelled));
}

#[test]
fn the_clock_that_is_advanced_saturates_and_is_shared_by_its_clones() {
    let clock = ManualClock::new();
    let hands = clock.clone();
    assert_eq!(clock.elapsed(), Duration::ZERO);
    hands.advance(SEC);
    assert_eq!(clock.elapsed(), SEC);
    hands.advance(Duration::MAX);
    let end = clock.elapsed();
    hands.advance(SEC);
    assert_eq!(clock.elapsed(), end);
}
