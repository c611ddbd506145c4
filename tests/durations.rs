//! Any `Duration`: for each place of the surface that takes one, nothing, a nanosecond, more than a clock of
//! nanoseconds counts in a lifetime, and the most that there is. Nobody may panic, spin or hang for that.

#![allow(clippy::unwrap_used)]

mod common;

use common::{HANG, busy, in_time, until};
use inflight::{Backoff, Context, Grace, Manager, ManualClock, Phase, Retry, Task, TaskError};
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

const ZERO: Duration = Duration::ZERO;
/// 292 years: half of what 64 bits of nanoseconds hold.
const AGES: Duration = Duration::from_nanos(u64::MAX / 2);
const SHORT: [Duration; 2] = [ZERO, Duration::from_nanos(1)];
/// Also just below, and beyond, what 64 bits of nanoseconds hold.
const LONG: [Duration; 4] =
    [AGES, Duration::from_nanos(u64::MAX - 1), Duration::from_secs(u64::MAX / 2), Duration::MAX];

fn all() -> impl Iterator<Item = Duration> {
    SHORT.into_iter().chain(LONG)
}

#[test]
fn wait_timeout_takes_any() {
    let manager = Manager::new();
    for timeout in all() {
        manager.wait_timeout(timeout).unwrap();
    }
    for timeout in SHORT {
        let gate = busy(&manager, ());
        assert_eq!(manager.wait_timeout(timeout).unwrap_err().tasks().len(), 1);
        gate.open();
        manager.wait();
    }
    for timeout in LONG {
        let gate = busy(&manager, ());
        let other = manager.clone();
        let waits = thread::spawn(move || other.wait_timeout(timeout).is_ok());
        gate.open();
        assert!(waits.join().unwrap());
    }
}

#[test]
fn join_timeout_takes_any() {
    let manager = Manager::builder().max_threads(1).build().unwrap();
    for timeout in all() {
        let gate = busy(&manager, ());
        let handle = manager.spawn((), |_| Ok(7)).unwrap();
        if SHORT.contains(&timeout) {
            let handle = handle.join_timeout(timeout).unwrap_err();
            gate.open();
            assert_eq!(handle.join().unwrap(), 7);
        } else {
            let joins = thread::spawn(move || handle.join_timeout(timeout).unwrap().unwrap());
            gate.open();
            assert_eq!(joins.join().unwrap(), 7);
        }
        manager.wait();
    }
}

#[test]
fn both_parts_of_a_grace_take_any() {
    for (drain, cancel) in all().flat_map(|drain| all().map(move |cancel| (drain, cancel))) {
        let grace = Grace::drain(drain).then_cancel(cancel);
        let manager = Manager::new();
        manager.run((), |_| Ok(())).unwrap();
        manager.wait();
        in_time(move || manager.shutdown(grace).unwrap());
        let manager = Manager::new();
        let gate = busy(&manager, ());
        let other = manager.clone();
        let shuts = thread::spawn(move || other.shutdown(grace).is_ok());
        until(|| manager.is_closed());
        if SHORT.contains(&drain) && SHORT.contains(&cancel) {
            assert!(!shuts.join().unwrap());
            gate.open();
        } else {
            gate.open();
            assert!(shuts.join().unwrap(), "{grace:?}");
        }
    }
}

#[test]
fn a_deadline_beyond_what_an_instant_can_hold_is_none() {
    for timeout in LONG {
        let cx = Context::background().with_timeout(timeout);
        assert!(!cx.is_cancelled() && cx.check().is_ok());
        // It is there or it is not: both say the same, and neither panics.
        assert_eq!(cx.deadline().is_some(), cx.remaining().is_some() && cx.deadline().is_some());
        assert!(cx.remaining().is_none_or(|left| left > HANG));
    }
    let cx = Context::background().with_timeout(Duration::MAX);
    assert_eq!((cx.deadline(), cx.remaining()), (None, None));
    for timeout in SHORT {
        let cx = Context::background().with_timeout(timeout);
        until(|| cx.is_cancelled());
        assert_eq!(cx.remaining(), Some(ZERO));
        assert!(cx.deadline().is_some());
    }
}

#[test]
fn sleep_takes_any() {
    let (cx, canceller) = Context::background().with_cancel();
    for duration in SHORT {
        cx.sleep(duration).unwrap();
    }
    let sleepers = LONG.map(|duration| {
        let cx = cx.clone();
        thread::spawn(move || cx.sleep(duration))
    });
    canceller.cancel();
    assert!(sleepers.into_iter().all(|sleeper| sleeper.join().unwrap().is_err()));
    assert!(cx.sleep(ZERO).is_err());
}

#[test]
fn a_timeout_takes_any() {
    let manager = Manager::new();
    let (says, said) = mpsc::channel();
    manager.on_task_failed(move |_, (), error| says.send(error.clone()).unwrap());
    for timeout in SHORT {
        manager.run_task(Task::once((), |cx| Ok(cx.sleep(Duration::MAX)?)).timeout(timeout)).unwrap();
        assert!(matches!(said.recv_timeout(HANG).unwrap(), TaskError::TimedOut));
    }
    for timeout in LONG {
        manager.run_task(Task::once((), |cx| Ok(cx.check()?)).timeout(timeout)).unwrap();
    }
    manager.wait();
    assert_eq!(manager.stats().succeeded, LONG.len() as u64);
}

#[test]
fn a_delay_takes_any() {
    let manager = Manager::new();
    for delay in SHORT {
        manager.run_task(Task::once((), |_| Ok(())).delay(delay)).unwrap();
    }
    manager.wait();
    for delay in LONG {
        manager.run_task(Task::once((), |_| unreachable!()).delay(delay)).unwrap();
    }
    assert!(manager.tasks().iter().all(|task| task.phase() == Phase::Delayed));
    manager.cancel();
    manager.wait();
    assert_eq!((manager.stats().succeeded, manager.stats().failed), (2, LONG.len() as u64));
}

#[test]
fn a_period_takes_any() {
    for period in all() {
        let manager = Manager::new();
        let (ticks, ticked) = mpsc::channel();
        manager.run_task(Task::looping((), move |_| Ok(ticks.send(())?)).every(period)).unwrap();
        for _ in 0..if SHORT.contains(&period) { 3 } else { 1 } {
            ticked.recv_timeout(HANG).unwrap();
        }
        in_time(move || manager.shutdown(Grace::drain(HANG)).unwrap());
    }
}

#[test]
fn a_stall_threshold_takes_any() {
    for threshold in all() {
        for by_default in [false, true] {
            let builder = Manager::builder();
            let builder = if by_default { builder.stalled_after(threshold) } else { builder };
            let manager = builder.build().unwrap();
            let (says, said) = mpsc::channel();
            manager.on_task_stalled(move |_, (), _| says.send(()).unwrap());
            let task = Task::once((), move |_| {
                if SHORT.contains(&threshold) {
                    said.recv_timeout(HANG)?;
                }
                Ok(())
            });
            manager.run_task(if by_default { task } else { task.stalled_after(threshold) }).unwrap();
            manager.wait_timeout(HANG).unwrap();
            assert_eq!(manager.stats().succeeded, 1);
            in_time(move || manager.shutdown(Grace::drain(HANG)).unwrap());
        }
    }
}

#[test]
fn the_pauses_of_retries_take_any() {
    for pause in all() {
        let backoffs = [
            Backoff::constant(pause),
            Backoff::exponential(pause, Duration::MAX),
            Backoff::exponential(Duration::MAX, pause),
            Backoff::exponential(pause, ZERO).without_jitter(),
            Backoff::exponential(ZERO, pause).seed(7),
        ];
        let retries = backoffs.map(|backoff| Retry::attempts(3).backoff(backoff));
        let given = Retry::attempts(3).delays(move || [pause; 9]);
        for retry in retries.into_iter().chain([given]) {
            let manager = Manager::new();
            let (says, said) = mpsc::channel();
            let fails = Task::retrying((), move |cx| {
                says.send(cx.attempt())?;
                Err("busy".into())
            });
            manager.run_task(fails.retry(retry)).unwrap();
            assert_eq!(said.recv_timeout(HANG).unwrap(), 1);
            manager.cancel();
            manager.wait();
            assert_eq!(manager.stats().failed, 1);
        }
    }
}

#[test]
fn keep_alive_takes_any() {
    for keep_alive in all() {
        let manager = Manager::builder().keep_alive(keep_alive).build().unwrap();
        for n in 0..20 {
            manager.run(n, |_| Ok(())).unwrap();
        }
        manager.run_task(Task::once(20, |_| Ok(())).delay(Duration::from_micros(1))).unwrap();
        manager.wait_timeout(HANG).unwrap();
        if SHORT.contains(&keep_alive) {
            until(|| manager.stats().threads == 0);
        } else {
            assert!(manager.stats().threads > 0);
        }
        in_time(move || manager.shutdown(Grace::drain(HANG)).unwrap());
    }
}

#[test]
fn what_was_set_for_ever_stays_so_to_the_end_of_the_clock() {
    let clock = ManualClock::new();
    let manager = Manager::builder().clock(&clock).max_threads(1).build().unwrap();
    manager.run_task(Task::once("never", |_| unreachable!()).delay(Duration::MAX)).unwrap();
    let gate = busy(&manager, "runs");
    let id = manager.run_task(Task::once("patient", |cx| Ok(cx.check()?)).timeout(Duration::MAX)).unwrap();
    clock.advance(Duration::MAX);
    clock.advance(Duration::MAX);
    assert_eq!(clock.elapsed(), Duration::from_nanos(u64::MAX - 1));
    gate.open();
    until(|| manager.tasks().iter().all(|task| task.id() != id));
    assert_eq!((manager.stats().succeeded, manager.len()), (2, 1));
    assert_eq!(manager.tasks()[0].phase(), Phase::Delayed);
    manager.cancel();
    manager.wait();
}
