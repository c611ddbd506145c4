//! Rejection: a task that is not accepted comes back whole, whatever the reason, and leaves no trace.
//! - reasons: closed, full, no thread (refused by a gate, and by the operating system), no supervisor;
//! - ways to go on: `run_here`, `into_task` to the same or another manager, dropping it.

#![allow(clippy::unwrap_used)]

mod common;

use common::{Drops, HANG, busy};
use inflight::{Context, Manager, Reason, Rejected, Retry, Task, TaskError};
use std::error::Error;
use std::io;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, mpsc};
use std::time::Duration;

fn closed<M: Send + Sync + 'static>() -> Manager<M> {
    let manager = Manager::new();
    manager.close();
    manager
}

/// Refuses each thread whose name ends so.
fn refusing(what: &'static str) -> Manager<&'static str> {
    let refuses = move |name: &str| match name.ends_with(what) {
        true => Err(io::ErrorKind::WouldBlock.into()),
        false => Ok(()),
    };
    Manager::builder().thread_gate(refuses).build().unwrap()
}

/// Rejected by a manager that is closed.
fn rejected(task: Task<&'static str>) -> Rejected<&'static str> {
    closed().run_task(task).unwrap_err()
}

#[test]
fn every_verb_hands_the_task_back_once_the_manager_is_closed() {
    let manager = closed();
    let drops = Drops::default();
    let task = || {
        let capture = drops.counted();
        move |_: &Context| {
            drop(capture);
            Ok(())
        }
    };
    let all = [
        manager.run(1, task()).unwrap_err(),
        manager.run_task(Task::once(2, task())).unwrap_err(),
        manager.try_run_task(Task::once(3, task())).unwrap_err(),
        manager.spawn(4, task()).unwrap_err(),
    ];
    assert!(all.iter().all(|rejected| matches!(rejected.reason(), Reason::Closed)));
    assert_eq!(all.each_ref().map(|rejected| *rejected.meta()), [1, 2, 3, 4]);
    assert_eq!((drops.count(), manager.stats().rejected, manager.stats().added), (0, 4, 0));
    for rejected in all {
        rejected.run_here().unwrap();
    }
    assert_eq!(drops.count(), 4);
}

#[test]
fn its_options_come_back_with_it() {
    let cx = Context::background().with_value("kept");
    let (says, said) = mpsc::channel();
    let mut attempts = 0;
    let task = Task::retrying("task", move |cx| {
        attempts += 1;
        says.send((cx.value::<&str>().copied(), cx.remaining().is_some(), attempts))?;
        Err("again".into())
    });
    let retry = Retry::attempts(2).delays(|| [Duration::ZERO]);
    let task = rejected(task.context(&cx).timeout(HANG).retry(retry)).into_task();
    let other = Manager::new();
    other.run_task(task).unwrap();
    other.wait();
    assert_eq!(said.try_iter().collect::<Vec<_>>(), [(Some("kept"), true, 1), (Some("kept"), true, 2)]);
}

#[test]
fn it_does_not_take_the_defaults_of_a_manager_that_refused_it_elsewhere() {
    let strict = Manager::builder().stalled_after(Duration::ZERO).retry(Retry::attempts(5)).build().unwrap();
    strict.close();
    let attempts = Arc::new(AtomicUsize::new(0));
    let counts = Arc::clone(&attempts);
    let task = Task::retrying((), move |_| {
        counts.fetch_add(1, Ordering::SeqCst);
        Err("no".into())
    });
    let task = strict.run_task(task).unwrap_err().into_task();
    let other = Manager::new();
    other.run_task(task).unwrap();
    other.wait();
    assert_eq!((attempts.load(Ordering::SeqCst), other.stats().stalled), (1, 0));
}

#[test]
fn a_task_that_was_refused_for_want_of_room_is_accepted_later() {
    let manager = Manager::builder().max_threads(1).max_pending(1).build().unwrap();
    let gate = busy(&manager, 0);
    manager.run(1, |_| Ok(())).unwrap();
    let drops = Drops::default();
    let capture = drops.counted();
    let mut task = Task::once(2, move |_| {
        drop(capture);
        Ok(())
    });
    for _ in 0..3 {
        task = manager.try_run_task(task).unwrap_err().into_task();
    }
    gate.open();
    manager.wait();
    assert_eq!(drops.count(), 0);
    manager.try_run_task(task).unwrap();
    manager.wait();
    assert_eq!((drops.count(), manager.stats().rejected, manager.stats().succeeded), (1, 3, 3));
}

#[test]
fn a_thread_that_the_operating_system_refuses_is_no_panic() {
    // More stack than there is address space.
    let manager = Manager::builder().stack_size(isize::MAX.unsigned_abs()).build().unwrap();
    manager.on_task_added(|_, _| unreachable!());
    let rejected = manager.run("task", |_| Ok(())).unwrap_err();
    assert!(matches!(rejected.reason(), Reason::Spawn(_)));
    assert!(rejected.source().is_some_and(|source| source.is::<io::Error>()));
    assert_eq!((manager.len(), manager.tasks().len(), manager.stats().threads), (0, 0, 0));
    rejected.run_here().unwrap();
}

#[test]
fn a_task_that_needs_the_clock_is_handed_back_if_there_is_no_thread_for_that() {
    let manager = refusing("supervisor");
    manager.on_task_added(|_, meta| assert_eq!(*meta, "plain"));
    let delayed = Task::once("delayed", |_| Ok(())).delay(Duration::from_millis(1));
    let looping = Task::looping("looping", |_| Ok(()));
    let watched = Task::once("watched", |_| Ok(())).stalled_after(HANG);
    let retried = Task::retrying("retried", |_| Ok(())).retry(Retry::attempts(2));
    for task in [delayed, looping, watched, retried] {
        let rejected = manager.run_task(task).unwrap_err();
        assert!(matches!(rejected.reason(), Reason::Spawn(_)));
        assert_eq!((manager.len(), manager.stats().added), (0, 0));
    }
    manager.run("plain", |_| Ok(())).unwrap();
    manager.wait();
    assert_eq!((manager.stats().succeeded, manager.stats().hook_panics), (1, 0));
}

#[test]
fn a_refusal_is_asked_again_at_once_while_there_is_no_thread() {
    let refuses = Arc::new(AtomicBool::new(true));
    let flag = Arc::clone(&refuses);
    let gate = move |_: &str| match flag.load(Ordering::SeqCst) {
        true => Err(io::ErrorKind::WouldBlock.into()),
        false => Ok(()),
    };
    let manager = Manager::builder().thread_gate(gate).build().unwrap();
    let rejected = manager.run((), |_| Ok(())).unwrap_err();
    refuses.store(false, Ordering::SeqCst);
    manager.run_task(rejected.into_task()).unwrap();
    manager.wait();
    assert_eq!((manager.stats().succeeded, manager.stats().rejected), (1, 1));
}

#[test]
fn it_says_why_and_what_to_do_whatever_meta_is() {
    struct Opaque;
    let rejected: Rejected<Opaque> = closed().run(Opaque, |_| Ok(())).unwrap_err();
    assert!(rejected.to_string().contains("closed") && rejected.to_string().contains("run_here"));
    assert!(format!("{rejected:?}").contains("Closed"));
    let spawn = refusing("1").run("task", |_| Ok(())).unwrap_err();
    assert!(spawn.to_string().contains("no thread could be started"), "{spawn}");
    let boxed: Box<dyn Error + Send + Sync> = Box::new(rejected);
    assert!(boxed.source().is_none());
}

// -- run_here --------------------------------------------------------------------------------------------

#[test]
fn run_here_is_one_attempt_on_this_thread_without_hooks_or_count() {
    let manager = closed();
    manager.on_task_succeeded(|_, _| unreachable!()).on_task_failed(|_, _, _| unreachable!());
    let here = std::thread::current().id();
    let (says, said) = mpsc::channel();
    let task = Task::looping("loop", move |cx| {
        says.send((std::thread::current().id(), cx.attempt(), cx.task_id()))?;
        Err("no paper".into())
    });
    let task = task.delay(HANG * 100).retry(Retry::unlimited());
    let error = manager.run_task(task).unwrap_err().run_here().unwrap_err();
    assert!(matches!(&error, TaskError::Failed(_)) && error.to_string() == "no paper");
    assert_eq!(said.try_iter().collect::<Vec<_>>(), [(here, 1, None)]);
    let stats = manager.stats();
    assert_eq!((stats.added, stats.failed, stats.hook_panics, manager.len()), (0, 0, 0, 0));
}

#[test]
fn run_here_contains_a_panic_and_knows_a_timeout() {
    let panics = rejected(Task::once("panics", |_| panic!("jammed"))).run_here().unwrap_err();
    assert!(matches!(panics, TaskError::Panicked(message) if message == "jammed"));
    let late = Task::once("late", |cx| Ok(cx.sleep(Duration::MAX)?)).timeout(Duration::ZERO);
    assert!(matches!(rejected(late).run_here().unwrap_err(), TaskError::TimedOut));
}

#[test]
fn run_here_shows_the_values_and_drops_them_and_the_captures() {
    let drops = Drops::default();
    let cx = Context::background().with_value(drops.counted()).with_value(7);
    let capture = drops.counted();
    let task = Task::retrying("task", move |cx| {
        let _ = &capture;
        if cx.value() == Some(&7) { Ok(()) } else { Err("no value".into()) }
    });
    let task = task.context(&cx);
    drop(cx);
    rejected(task).run_here().unwrap();
    assert_eq!(drops.count(), 2);
}

#[test]
fn what_was_handed_back_is_the_users_own_and_may_wait_for_the_manager() {
    struct Waits(Manager<()>, Arc<AtomicBool>);
    impl Drop for Waits {
        fn drop(&mut self) {
            self.0.wait();
            self.1.store(true, Ordering::SeqCst);
        }
    }
    let manager = closed();
    let waited = Arc::new(AtomicBool::new(false));
    let waits = Waits(manager.uncounted(), Arc::clone(&waited));
    let rejected = manager.run((), move |_| {
        let _waits = &waits;
        Ok(())
    });
    // Neither its drop nor what `run_here` runs is a call-out of the manager.
    drop(rejected.unwrap_err());
    assert!(waited.load(Ordering::SeqCst));
    let inner = manager.uncounted();
    let rejected = manager.run((), move |_| Ok(inner.wait_timeout(HANG)?));
    rejected.unwrap_err().run_here().unwrap();
}

#[test]
fn a_rejected_task_that_is_dropped_drops_closure_and_meta_once_and_unrun() {
    let drops = Drops::default();
    let (meta, capture) = (drops.counted(), drops.counted());
    let rejected = closed().run(meta, move |_| {
        let _capture = &capture;
        unreachable!()
    });
    assert_eq!(drops.count(), 0);
    drop(rejected);
    assert_eq!(drops.count(), 2);
}
