//! The bounded backlog: what waits for room, what is handed back, and what is never refused.

#![allow(clippy::unwrap_used)]

mod common;

use common::{HANG, busy};
use inflight::{Manager, Reason, Retry, Task};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

fn manager(pending: usize) -> Manager<usize> {
    Manager::builder().max_threads(1).max_pending(pending).build().unwrap()
}

#[test]
fn try_run_task_answers_full_and_hands_the_task_back() {
    let manager = manager(2);
    let gate = busy(&manager, 0);
    for n in 1..=2 {
        manager.try_run_task(Task::once(n, |_| Ok(()))).unwrap();
    }
    let rejected = manager.try_run_task(Task::once(3, |_| Ok(()))).unwrap_err();
    assert!(matches!(rejected.reason(), Reason::Full));
    assert_eq!((*rejected.meta(), manager.len()), (3, 3));
    gate.open();
    manager.wait();
    manager.try_run_task(rejected.into_task()).unwrap();
    manager.wait();
    assert_eq!(manager.stats().succeeded, 4);
}

#[test]
fn run_waits_for_room_and_all_submitters_get_theirs() {
    let manager = manager(1);
    let gate = busy(&manager, 0);
    manager.run(1, |_| Ok(())).unwrap();
    let submitters: Vec<_> = (2..10)
        .map(|n| {
            let manager = manager.clone();
            std::thread::spawn(move || {
                for _ in 0..20 {
                    manager.run(n, |_| Ok(())).unwrap();
                }
            })
        })
        .collect();
    gate.open();
    for submitter in submitters {
        submitter.join().unwrap();
    }
    manager.wait_timeout(HANG).unwrap();
    assert_eq!((manager.stats().succeeded, manager.stats().rejected), (2 + 8 * 20, 0));
}

#[test]
fn close_hands_their_tasks_back_to_those_who_wait_for_room() {
    let manager = manager(1);
    let gate = busy(&manager, 0);
    manager.run(1, |_| Ok(())).unwrap();
    let waits = manager.clone();
    let submitter = std::thread::spawn(move || {
        let rejected = waits.run(2, |_| Ok(())).unwrap_err();
        matches!(rejected.reason(), Reason::Closed) && *rejected.meta() == 2
    });
    // Whether it waits already or is yet to come: both ways it gets its task back.
    std::thread::yield_now();
    manager.close();
    assert!(submitter.join().unwrap());
    gate.open();
    manager.wait_timeout(HANG).unwrap();
}

#[test]
fn delayed_tasks_count_and_retries_are_never_refused() {
    let manager = manager(1);
    manager.run_task(Task::once(0, |_| Ok(())).delay(Duration::from_secs(3600))).unwrap();
    assert!(matches!(manager.try_run_task(Task::once(1, |_| Ok(()))).unwrap_err().reason(), Reason::Full));
    manager.cancel();
    manager.wait();

    let manager = self::manager(1);
    let attempts = Arc::new(AtomicUsize::new(0));
    let counts = Arc::clone(&attempts);
    let task = Task::retrying(0, move |cx| {
        counts.fetch_add(1, Ordering::SeqCst);
        if cx.attempt() < 50 { Err("again".into()) } else { Ok(()) }
    });
    manager.run_task(task.retry(Retry::unlimited().delays(|| std::iter::repeat(Duration::ZERO)))).unwrap();
    for n in 1..50 {
        manager.run(n, |_| Ok(())).unwrap();
    }
    manager.wait_timeout(HANG).unwrap();
    assert_eq!((attempts.load(Ordering::SeqCst), manager.stats().rejected), (50, 0));
}
