//! Coming to an end: close, cancel, shutdown, and what is named.

#![allow(clippy::unwrap_used)]

mod common;

use common::{Drops, HANG, busy, gated, until};
use inflight::{Context, Grace, Manager, ManualClock, Phase, Reason, Retry, Task, TaskError, Unfinished};
use std::sync::{Arc, Mutex, mpsc};
use std::time::Duration;

const SEC: Duration = Duration::from_secs(1);
const NOW: Duration = Duration::ZERO;

#[test]
fn close_refuses_new_work_and_lets_accepted_tasks_run() {
    let manager = Manager::builder().max_threads(1).build().unwrap();
    let gate = busy(&manager, 0);
    manager.run(1, |_| Ok(())).unwrap();
    assert!(manager.close());
    assert!(!manager.close() && manager.is_closed());
    assert!(matches!(manager.run(2, |_| Ok(())).unwrap_err().reason(), Reason::Closed));
    gate.open();
    manager.wait();
    assert_eq!((manager.stats().succeeded, manager.stats().rejected), (2, 1));
}

#[test]
fn cancel_reaches_what_runs_and_ends_what_waits_unrun() {
    let manager = Manager::builder().max_threads(1).build().unwrap();
    let failed = Arc::new(Mutex::new(Vec::new()));
    let tells = Arc::clone(&failed);
    manager.on_task_failed(move |cx, meta, error| {
        assert!(matches!(error, TaskError::Cancelled));
        tells.lock().unwrap().push((*meta, cx.attempt()));
    });
    let (starts, started) = mpsc::channel();
    let sleeps = move |cx: &Context| {
        starts.send(())?;
        Ok(cx.sleep(Duration::MAX)?)
    };
    manager.run("runs", sleeps).unwrap();
    started.recv_timeout(HANG).unwrap();
    manager.run("waits", |_| unreachable!()).unwrap();
    manager.cancel();
    manager.wait();
    assert_eq!(*failed.lock().unwrap(), [("runs", 1), ("waits", 0)]);
}

#[test]
fn a_clean_shutdown_is_ok_and_repeating_it_is_harmless() {
    let manager = Manager::new();
    for n in 0..20 {
        manager.run(n, |_| Ok(())).unwrap();
    }
    for _ in 0..3 {
        manager.shutdown(Grace::drain(HANG)).unwrap();
        assert_eq!((manager.len(), manager.stats().threads), (0, 0));
    }
    Manager::<()>::new().shutdown(Grace::drain(NOW)).unwrap();
}

#[test]
fn a_task_that_honours_its_cancellation_ends_within_the_cancel_part() {
    let manager = Manager::new();
    manager.run("sleeps", |cx| Ok(cx.sleep(Duration::MAX)?)).unwrap();
    manager.shutdown(Grace::drain(Duration::from_millis(1)).then_cancel(HANG)).unwrap();
    assert_eq!(manager.stats().failed, 1);
}

#[test]
fn a_task_that_ignores_it_is_named_and_its_hooks_still_fire_when_it_ends() {
    let manager = Manager::new();
    let (says, said) = mpsc::channel();
    manager.on_task_succeeded(move |_, meta| says.send(*meta).unwrap());
    let gate = busy(&manager, "stuck");
    let unfinished = manager.shutdown(Grace::drain(NOW).then_cancel(Duration::from_millis(1))).unwrap_err();
    let [task] = unfinished.tasks() else { panic!("{unfinished}") };
    assert_eq!((*task.meta(), task.phase(), task.attempt()), ("stuck", Phase::Cancelling, 1));
    assert_eq!(manager.len(), 1, "it is never lost sight of");
    assert!(said.try_recv().is_err());
    gate.open();
    assert_eq!(said.recv_timeout(HANG).unwrap(), "stuck");
    manager.wait();
}

#[test]
fn what_no_thread_has_in_hand_is_reported_before_shutdown_returns() {
    let manager = Manager::builder().max_threads(1).build().unwrap();
    let told = Arc::new(Mutex::new(Vec::new()));
    let tells = Arc::clone(&told);
    let here = std::thread::current().id();
    manager.on_task_failed(move |cx, meta, error| {
        let on_caller = std::thread::current().id() == here;
        tells.lock().unwrap().push((*meta, cx.attempt(), error.to_string(), on_caller));
    });
    let gate = busy(&manager, "stuck");
    let drops = Drops::default();
    for meta in ["first", "second"] {
        let capture = drops.counted();
        let task = move |_: &Context| {
            let _ = &capture;
            unreachable!()
        };
        manager.run(meta, task).unwrap();
    }
    let unfinished = manager.shutdown(Grace::drain(NOW)).unwrap_err();
    let names: Vec<_> = unfinished.tasks().iter().map(|task| (*task.meta(), task.phase())).collect();
    let queued = Phase::Queued;
    assert_eq!(names, [("stuck", Phase::Cancelling), ("first", queued), ("second", queued)]);
    let given_up = "the task was given up: a shutdown had used up its budget before it could run".to_owned();
    let expected = [("first", 0, given_up.clone(), true), ("second", 0, given_up, true)];
    assert_eq!(*told.lock().unwrap(), expected);
    assert_eq!((drops.count(), manager.len()), (2, 1));
    gate.open();
}

#[test]
fn the_drop_after_a_shutdown_that_has_returned_waits_for_nothing() {
    let manager = Manager::new();
    let watch = manager.uncounted();
    let gate = busy(&manager, ());
    assert!(manager.shutdown(Grace::drain(NOW)).is_err());
    drop(manager);
    assert_eq!(watch.len(), 1);
    gate.open();
    watch.wait_timeout(HANG).unwrap();
}

#[test]
fn each_of_several_shutdowns_keeps_its_own_budget_and_answers_truthfully() {
    let clock = ManualClock::new();
    let manager = Manager::builder().clock(&clock).max_threads(1).build().unwrap();
    let gate = busy(&manager, "stuck");
    manager.run("queued", |_| unreachable!()).unwrap();
    let shuts = |grace| {
        let manager = manager.clone();
        std::thread::spawn(move || manager.shutdown(grace))
    };
    let long = shuts(Grace::drain(Duration::MAX));
    while !manager.is_closed() {
        std::thread::yield_now();
    }
    let short = shuts(Grace::drain(SEC));
    while !short.is_finished() {
        clock.advance(SEC);
        std::thread::yield_now();
        assert!(!long.is_finished());
    }
    let named = |answer: Result<(), Unfinished<&'static str>>| -> Vec<_> {
        answer.unwrap_err().tasks().iter().map(|task| *task.meta()).collect()
    };
    assert_eq!(named(short.join().unwrap()), ["stuck", "queued"]);
    gate.open();
    // The stuck one has ended in time; what was given up meanwhile has not.
    assert_eq!(named(long.join().unwrap()), ["queued"]);
    manager.shutdown(Grace::drain(NOW)).unwrap();
}

#[test]
fn tasks_that_are_submitted_meanwhile_come_back_whole() {
    let manager = Manager::new();
    let gate = busy(&manager, "runs");
    let other = manager.clone();
    let shuts = std::thread::spawn(move || other.shutdown(Grace::drain(HANG)).map_err(drop));
    while !manager.is_closed() {
        std::thread::yield_now();
    }
    let drops = Drops::default();
    let capture = drops.counted();
    let late = move |_: &Context| {
        drop(capture);
        Ok(())
    };
    let rejected = manager.run("late", late).unwrap_err();
    assert_eq!((*rejected.meta(), drops.count()), ("late", 0));
    rejected.run_here().unwrap();
    assert_eq!(drops.count(), 1);
    gate.open();
    shuts.join().unwrap().unwrap();
}

#[test]
fn an_unfinished_error_is_a_table_with_one_task_a_line_whatever_meta_contains() {
    let manager: Manager<String> = Manager::builder().name("tab").max_threads(1).build().unwrap();
    let (gate, task) = gated();
    let evil = "two\nlines\r\u{2028}\u{202E}\x1b[31m";
    let notes = move |cx: &Context| {
        cx.progress("half\nway");
        task(cx)
    };
    manager.run(evil.to_owned(), notes).unwrap();
    gate.started();
    manager.run("queued".to_owned(), |_| Ok(())).unwrap();
    let unfinished = manager.wait_timeout(NOW).unwrap_err();
    let raw = |meta: &String, f: &mut std::fmt::Formatter<'_>| f.write_str(meta);
    for table in [unfinished.to_string(), format!("{unfinished:?}"), unfinished.table(raw).to_string()] {
        let lines: Vec<_> = table.lines().collect();
        assert_eq!(lines.len(), 4, "{table}");
        assert_eq!(lines[0], "2 tasks unfinished");
        assert!(lines[1].contains("age") && lines[1].contains("progress"));
        assert!(lines[2].contains("two\\nlines") && lines[2].contains("tab-1"), "{table}");
        assert!(lines[2].ends_with("half\\nway") && lines[3].contains("queued"), "{table}");
        assert!(!table.contains(['\r', '\u{2028}', '\u{202E}', '\x1b']));
    }
    let boxed: Box<dyn std::error::Error> = Box::new(unfinished);
    assert!(boxed.to_string().starts_with("2 tasks unfinished"));
    gate.open();
}

#[test]
fn a_task_in_a_slow_added_hook_is_ended_by_its_submitter_after_an_abandonment() {
    let manager: Manager<&str> = Manager::new();
    let (hooks, hooked) = mpsc::channel();
    let (open, gate) = mpsc::channel::<()>();
    let gate = Mutex::new(gate);
    manager.on_task_added(move |_, _| {
        hooks.send(()).unwrap();
        let _ = gate.lock().unwrap().recv_timeout(HANG);
    });
    let (says, said) = mpsc::channel();
    manager.on_task_failed(move |_, meta, error| {
        says.send((*meta, matches!(error, TaskError::Abandoned))).unwrap();
    });
    let submitter = manager.uncounted();
    let submits = std::thread::spawn(move || submitter.run("held", |_| unreachable!()).map_err(drop));
    hooked.recv_timeout(HANG).unwrap();
    assert_eq!(manager.shutdown(Grace::drain(NOW)).unwrap_err().tasks().len(), 1);
    open.send(()).unwrap();
    submits.join().unwrap().expect("it was accepted before");
    assert_eq!(said.recv_timeout(HANG).unwrap(), ("held", true));
    manager.wait_timeout(HANG).unwrap();
}

#[test]
fn the_handles_of_what_is_given_up_are_answered_before_its_hooks_have_their_turn() {
    let manager: Manager<&str> = Manager::builder().max_threads(1).build().unwrap();
    let stuck = busy(&manager, "stuck");
    let handles = ["first", "second"].map(|meta| manager.spawn(meta, |_| Ok(())).unwrap());
    let (hooks, hooked) = mpsc::channel();
    let (open, gate) = mpsc::channel::<()>();
    let gate = Mutex::new(gate);
    manager.on_task_failed(move |_, _, _| {
        let _ = hooks.send(());
        let _ = gate.lock().unwrap().recv_timeout(HANG);
    });
    let shuts = manager.clone();
    let shuts = std::thread::spawn(move || shuts.shutdown(Grace::drain(NOW)));
    hooked.recv_timeout(HANG).unwrap();
    for handle in handles {
        assert!(matches!(handle.join_timeout(HANG).unwrap(), Err(TaskError::Abandoned)));
    }
    drop(open);
    assert_eq!(shuts.join().unwrap().unwrap_err().tasks().len(), 3);
    stuck.open();
}

#[test]
fn what_a_shutdown_has_named_is_kept_by_nobody_else() {
    let manager = Manager::builder().max_threads(1).build().unwrap();
    let stuck = busy(&manager, Arc::new(()));
    let meta = Arc::new(());
    manager.run(Arc::clone(&meta), |_| Ok(())).unwrap();
    let unfinished = manager.shutdown(Grace::drain(NOW)).unwrap_err();
    assert_eq!(Arc::strong_count(&meta), 2);
    drop(unfinished);
    assert_eq!(Arc::strong_count(&meta), 1);
    stuck.open();
}

#[test]
fn what_is_given_up_after_a_shutdown_has_returned_is_kept_by_nobody() {
    let manager: Manager<Arc<()>> = Manager::new();
    let (hooks, hooked) = mpsc::channel();
    let (open, gate) = mpsc::channel::<()>();
    let gate = Mutex::new(gate);
    manager.on_task_added(move |_, _| {
        hooks.send(()).unwrap();
        let _ = gate.lock().unwrap().recv_timeout(HANG);
    });
    let meta = Arc::new(());
    let (submitter, held) = (manager.uncounted(), Arc::clone(&meta));
    let submits = std::thread::spawn(move || submitter.run(held, |_| unreachable!()).map_err(drop));
    hooked.recv_timeout(HANG).unwrap();
    drop(manager.shutdown(Grace::drain(NOW)).unwrap_err());
    open.send(()).unwrap();
    submits.join().unwrap().expect("it was accepted before");
    assert_eq!(Arc::strong_count(&meta), 1);
}

#[test]
fn a_retry_that_was_settled_before_an_abandonment_is_given_up_with_the_rest() {
    let manager: Manager<&str> = Manager::new();
    let (hooks, hooked) = mpsc::channel();
    let (open, gate) = mpsc::channel::<()>();
    let gate = Mutex::new(gate);
    manager.on_task_retried(move |_, _, _, _| {
        hooks.send(()).unwrap();
        let _ = gate.lock().unwrap().recv_timeout(HANG);
    });
    let (says, said) = mpsc::channel();
    manager.on_task_failed(move |_, _, error| says.send(error.to_string()).unwrap());
    let task = Task::retrying("mail", |_| Err("busy".into()));
    manager.run_task(task.retry(Retry::unlimited().delays(|| [SEC]))).unwrap();
    hooked.recv_timeout(HANG).unwrap();
    assert_eq!(manager.shutdown(Grace::drain(NOW)).unwrap_err().tasks().len(), 1);
    open.send(()).unwrap();
    assert_eq!(said.recv_timeout(HANG).unwrap(), TaskError::Abandoned.to_string());
    manager.wait();
    assert_eq!(manager.stats().failed, 1);
}

#[test]
fn a_task_in_its_added_hook_while_the_manager_closes_has_its_delay() {
    let clock = ManualClock::new();
    let manager = Manager::builder().clock(&clock).build().unwrap();
    let inner = manager.uncounted();
    manager.on_task_added(move |_, _| assert!(inner.close()));
    let started = Arc::new(Mutex::new(None));
    let (starts, hands) = (Arc::clone(&started), clock.clone());
    let task = move |_: &Context| Ok(*starts.lock().unwrap() = Some(hands.elapsed()));
    manager.run_task(Task::once("later", task).delay(SEC)).unwrap();
    assert_eq!(manager.tasks()[0].phase(), Phase::Delayed);
    clock.advance(SEC);
    manager.wait();
    assert_eq!(*started.lock().unwrap(), Some(SEC));
}

#[test]
fn inline_what_was_abandoned_in_its_added_hook_is_not_run_and_every_shutdown_names_it() {
    let manager: Manager<&str> = Manager::builder().inline().build().unwrap();
    let (hooks, hooked) = mpsc::channel();
    let (open, gate) = mpsc::channel::<()>();
    let gate = Mutex::new(gate);
    manager.on_task_added(move |_, _| {
        hooks.send(()).unwrap();
        let _ = gate.lock().unwrap().recv_timeout(HANG);
    });
    let (says, said) = mpsc::channel();
    manager.on_task_failed(move |_, meta, error| {
        says.send((*meta, matches!(error, TaskError::Abandoned))).unwrap();
    });
    let submitter = manager.uncounted();
    let submits = std::thread::spawn(move || submitter.run("held", |_| unreachable!()).map_err(drop));
    hooked.recv_timeout(HANG).unwrap();
    let patient = manager.uncounted();
    let patient = std::thread::spawn(move || patient.shutdown(Grace::drain(Duration::MAX)));
    until(|| manager.is_closed());
    let named =
        |left: Unfinished<&'static str>| left.tasks().iter().map(|task| *task.meta()).collect::<Vec<_>>();
    assert_eq!(named(manager.shutdown(Grace::drain(NOW)).unwrap_err()), ["held"]);
    open.send(()).unwrap();
    submits.join().unwrap().expect("it was accepted before");
    assert_eq!(said.recv_timeout(HANG).unwrap(), ("held", true));
    assert_eq!(named(patient.join().unwrap().unwrap_err()), ["held"]);
}

#[test]
fn every_duration_may_be_zero_or_endless() {
    for duration in [Duration::ZERO, Duration::MAX] {
        let manager = Manager::builder().keep_alive(duration).stalled_after(duration).build().unwrap();
        manager.run_task(Task::once((), |_| Ok(())).timeout(duration)).unwrap();
        manager.wait_timeout(Duration::MAX).unwrap();
        assert!(manager.wait_timeout(duration).is_ok());
        let handle = manager.spawn((), |_| Ok(())).unwrap();
        match handle.join_timeout(duration) {
            Ok(result) => result.unwrap(),
            Err(handle) => handle.join().unwrap(),
        }
        assert!(Context::background().with_timeout(duration).remaining().is_none_or(|left| left.is_zero()));
        // The task itself may still be on its way out of the count.
        manager.wait();
        manager.shutdown(Grace::drain(duration).then_cancel(duration)).unwrap();
    }
}
