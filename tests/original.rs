//! What the Go package `background` promises, whose idea this is: each of its behaviours, on threads.

#![allow(clippy::unwrap_used)]

mod common;

use common::{HANG, gated};
use inflight::{Context, Manager, Task};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, mpsc};

#[test]
fn it_runs_in_the_background() {
    let manager = Manager::new();
    let (sends, receives) = mpsc::channel();
    manager.run((), move |_| Ok(sends.send(std::thread::current().id())?)).unwrap();
    assert_ne!(receives.recv_timeout(HANG).unwrap(), std::thread::current().id());
}

#[test]
fn wait_waits() {
    let manager = Manager::new();
    let done = Arc::new(AtomicUsize::new(0));
    for _ in 0..20 {
        let done = Arc::clone(&done);
        manager
            .run((), move |_| {
                std::thread::yield_now();
                done.fetch_add(1, Ordering::SeqCst);
                Ok(())
            })
            .unwrap();
    }
    manager.wait();
    assert_eq!(done.load(Ordering::SeqCst), 20);
}

#[test]
fn a_cancelled_parent_context_does_not_reach_the_task() {
    let manager = Manager::new();
    let (parent, canceller) = Context::background().with_value("kept").with_cancel();
    canceller.cancel();
    let (sends, receives) = mpsc::channel();
    let task = move |cx: &Context| Ok(sends.send((cx.is_cancelled(), cx.value::<&str>().copied()))?);
    manager.run_task(Task::once((), task).context(&parent)).unwrap();
    assert_eq!(receives.recv_timeout(HANG).unwrap(), (false, Some("kept")));
}

#[test]
fn len_goes_down_as_tasks_end_one_by_one_as_seen_from_the_hook() {
    let manager: Manager<usize> = Manager::new();
    let (counts, counted) = mpsc::channel();
    let inner = manager.uncounted();
    manager.on_task_succeeded(move |_, _| {
        let _ = counts.send(inner.len());
    });
    let gates: Vec<_> = (0..3)
        .map(|n| {
            let (gate, task) = gated();
            manager.run(n, task).unwrap();
            gate
        })
        .collect();
    for (left, gate) in [3, 2, 1].into_iter().zip(gates) {
        gate.started();
        gate.open();
        assert_eq!(counted.recv_timeout(HANG).unwrap(), left);
        while manager.len() == left {
            std::thread::yield_now();
        }
    }
    assert!(manager.is_empty());
}

#[test]
fn added_succeeded_and_failed_get_the_metadata() {
    let manager = Manager::new();
    let log = Arc::new(Mutex::new(Vec::new()));
    let (added, succeeded, failed) = (Arc::clone(&log), Arc::clone(&log), Arc::clone(&log));
    manager
        .on_task_added(move |_, meta: &String| added.lock().unwrap().push(format!("added {meta}")))
        .on_task_succeeded(move |_, meta| succeeded.lock().unwrap().push(format!("succeeded {meta}")))
        .on_task_failed(move |_, meta, _| failed.lock().unwrap().push(format!("failed {meta}")));
    manager.run("one".into(), |_| Ok(())).unwrap();
    manager.wait();
    manager.run("two".into(), |_| Err("no".into())).unwrap();
    manager.wait();
    assert_eq!(*log.lock().unwrap(), ["added one", "succeeded one", "added two", "failed two"]);
}

#[test]
fn failing_gets_the_error() {
    let manager = Manager::new();
    let (sends, receives) = mpsc::channel();
    manager.on_task_failed(move |_, _, error| sends.send(error.to_string()).unwrap());
    manager.run((), |_| Err("no paper".into())).unwrap();
    assert_eq!(receives.recv_timeout(HANG).unwrap(), "no paper");
}
