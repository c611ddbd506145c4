//! `inline`: a task runs on its submitter's thread, before `run` returns.

#![allow(clippy::unwrap_used)]

use inflight::{Context, Manager, ManualClock, Phase, Retry, Task, TaskError};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

fn inline() -> Manager<&'static str> {
    Manager::builder().inline().build().unwrap()
}

#[test]
fn the_task_has_run_when_run_returns_hooks_included() {
    let manager = inline();
    let log = Arc::new(Mutex::new(Vec::new()));
    let here = std::thread::current().id();
    let (added, runs, succeeded) = (Arc::clone(&log), Arc::clone(&log), Arc::clone(&log));
    manager.on_task_added(move |_, _| added.lock().unwrap().push("added"));
    manager.on_task_succeeded(move |_, _| succeeded.lock().unwrap().push("succeeded"));
    let task = move |_: &Context| {
        assert_eq!(std::thread::current().id(), here);
        runs.lock().unwrap().push("runs");
        Ok(())
    };
    manager.run("task", task).unwrap();
    assert_eq!(*log.lock().unwrap(), ["added", "runs", "succeeded"]);
    assert_eq!((manager.len(), manager.stats().peak_threads), (0, 0));
}

#[test]
fn a_handle_is_answered_at_once_and_a_panic_is_contained() {
    let manager = inline();
    assert_eq!(manager.spawn("value", |_| Ok(7)).unwrap().join().unwrap(), 7);
    let failed = manager.spawn("panics", |_| -> Result<(), _> { panic!("jammed") }).unwrap().join();
    assert!(matches!(failed, Err(TaskError::Panicked(_))));
}

#[test]
fn tasks_that_start_tasks_nest() {
    let manager = inline();
    let inner = manager.uncounted();
    let outer = move |_: &Context| {
        inner.run("inner", |_| Ok(()))?;
        assert_eq!(inner.len(), 1);
        Ok(())
    };
    manager.run("outer", outer).unwrap();
    assert_eq!(manager.stats().succeeded, 2);
}

#[test]
fn a_loop_ends_after_one_iteration_and_retries_are_made_right_there() {
    let manager = inline();
    let count = Arc::new(AtomicUsize::new(0));
    let (loops, tries) = (Arc::clone(&count), Arc::clone(&count));
    let once = move |_: &Context| {
        loops.fetch_add(1, Ordering::SeqCst);
        Ok(())
    };
    manager.run_task(Task::looping("loop", once).every(Duration::MAX)).unwrap();
    assert_eq!((count.load(Ordering::SeqCst), manager.len()), (1, 0));
    let fails = move |_: &Context| {
        tries.fetch_add(1, Ordering::SeqCst);
        Err("again".into())
    };
    let retry = Retry::attempts(3).delays(|| [Duration::ZERO; 3]);
    manager.run_task(Task::retrying("retries", fails).retry(retry)).unwrap();
    assert_eq!((count.load(Ordering::SeqCst), manager.stats().retried), (4, 2));
}

#[test]
fn a_delay_sleeps_on_the_managers_clock_and_ends_with_a_cancel() {
    let clock = ManualClock::new();
    let manager = Manager::builder().inline().clock(&clock).build().unwrap();
    let submit = |meta: &'static str| {
        let manager = manager.clone();
        let task = Task::once(meta, |_| Ok(())).delay(Duration::from_secs(60));
        std::thread::spawn(move || drop(manager.run_task(task)))
    };
    let waits = |manager: &Manager<&'static str>| {
        while manager.tasks().first().is_none_or(|task| task.phase() != Phase::Delayed) {
            std::thread::yield_now();
        }
    };
    let first = submit("waits");
    waits(&manager);
    clock.advance(Duration::from_secs(60));
    first.join().unwrap();
    assert_eq!(manager.stats().succeeded, 1);
    let second = submit("cancelled");
    waits(&manager);
    manager.cancel();
    second.join().unwrap();
    assert_eq!((manager.stats().failed, manager.len()), (1, 0));
}
