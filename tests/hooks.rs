//! Hooks: when each of them is called, where, how often, and what it finds.
//! - order, adding at any time, shared by all handles of a manager;
//! - *added* before the task can start, the ended hooks before the count goes down, captures gone by then;
//! - hooks that submit, close, and look around.

#![allow(clippy::unwrap_used)]

mod common;

use common::{Drops, HANG, busy, gated};
use inflight::{Context, Manager, Phase, Retry, Task, TaskError};
use std::collections::BTreeMap;
use std::io;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, mpsc};
use std::time::Duration;

type Log = Arc<Mutex<Vec<String>>>;

#[test]
fn hooks_run_in_the_order_in_which_they_were_added() {
    let manager: Manager<()> = Manager::new();
    let log = Log::default();
    for n in 1..=3 {
        let (added, succeeded, failed) = (Arc::clone(&log), Arc::clone(&log), Arc::clone(&log));
        manager
            .on_task_added(move |_, ()| added.lock().unwrap().push(format!("added {n}")))
            .on_task_succeeded(move |_, ()| succeeded.lock().unwrap().push(format!("succeeded {n}")))
            .on_task_failed(move |_, (), _| failed.lock().unwrap().push(format!("failed {n}")));
    }
    manager.run((), |_| Ok(())).unwrap();
    manager.wait();
    manager.run((), |_| Err("no".into())).unwrap();
    manager.wait();
    let expected =
        ["added", "succeeded", "added", "failed"].map(|name| [1, 2, 3].map(|n| format!("{name} {n}")));
    assert_eq!(*log.lock().unwrap(), expected.concat());
}

#[test]
fn a_hook_that_is_added_while_a_task_runs_sees_that_tasks_end() {
    let manager = Manager::builder().max_threads(1).build().unwrap();
    // The worker knows the hooks as they were when it first looked.
    manager.run("before", |_| Ok(())).unwrap();
    manager.wait();
    let gate = busy(&manager, "during");
    let (says, said) = mpsc::channel();
    let says_added = says.clone();
    manager.on_task_added(move |_, meta| says_added.send(format!("added {meta}")).unwrap());
    manager.on_task_succeeded(move |_, meta| says.send(format!("succeeded {meta}")).unwrap());
    gate.open();
    manager.wait();
    manager.run("after", |_| Ok(())).unwrap();
    manager.wait();
    let told: Vec<_> = said.try_iter().collect();
    assert_eq!(told, ["succeeded during", "added after", "succeeded after"]);
}

#[test]
fn all_handles_of_a_manager_share_its_hooks() {
    let manager = Manager::new();
    let (says, said) = mpsc::channel();
    manager.clone().uncounted().on_task_succeeded(move |_, meta| says.send(*meta).unwrap());
    manager.run(1, |_| Ok(())).unwrap();
    manager.clone().run(2, |_| Ok(())).unwrap();
    manager.wait();
    manager.uncounted().run(3, |_| Ok(())).unwrap();
    manager.wait();
    let mut told: Vec<_> = said.try_iter().collect();
    told.sort_unstable();
    assert_eq!(told, [1, 2, 3]);
}

#[test]
fn each_task_is_told_of_once_when_it_is_added_and_once_when_it_ends() {
    let manager: Manager<usize> = Manager::builder().max_threads(4).build().unwrap();
    let told: Arc<Mutex<BTreeMap<_, [u32; 2]>>> = Arc::default();
    let count = |which: usize| {
        let told = Arc::clone(&told);
        move |cx: &Context| told.lock().unwrap().entry(cx.task_id().unwrap()).or_default()[which] += 1
    };
    let (added, succeeded, failed) = (count(0), count(1), count(1));
    manager
        .on_task_added(move |cx, _| added(cx))
        .on_task_succeeded(move |cx, _| succeeded(cx))
        .on_task_failed(move |cx, _, _| failed(cx));
    let submitters: Vec<_> = (0..4)
        .map(|_| {
            let manager = manager.clone();
            let submit =
                move |n| manager.run(n, move |_| if n % 2 == 0 { Ok(()) } else { Err("odd".into()) });
            std::thread::spawn(move || (0..250).map(submit).collect::<Result<Vec<_>, _>>().unwrap())
        })
        .collect();
    let mut accepted: Vec<_> = submitters.into_iter().flat_map(|thread| thread.join().unwrap()).collect();
    manager.wait_timeout(HANG).unwrap();
    accepted.sort_unstable();
    let told = told.lock().unwrap();
    assert!(told.keys().eq(&accepted), "by the ids that `run` returned");
    assert!(told.values().all(|counts| *counts == [1, 1]));
    assert_eq!((manager.stats().succeeded, manager.stats().failed), (500, 500));
}

#[test]
fn added_is_called_on_the_submitters_thread_before_the_task_can_start() {
    let manager: Manager<&str> = Manager::new();
    // There are threads that would take it at once.
    manager.run("warms up", |_| Ok(())).unwrap();
    manager.wait();
    let ran = Arc::new(AtomicBool::new(false));
    let (runs, inner) = (Arc::clone(&ran), manager.uncounted());
    let here = std::thread::current().id();
    manager.on_task_added(move |cx, meta| {
        assert_eq!(std::thread::current().id(), here);
        for _ in 0..200 {
            std::thread::yield_now();
            assert!(!ran.load(Ordering::SeqCst));
        }
        let tasks = inner.tasks();
        assert_eq!((Some(tasks[0].id()), tasks[0].meta(), tasks.len()), (cx.task_id(), meta, inner.len()));
        assert_eq!((tasks[0].phase(), tasks[0].attempt(), tasks[0].thread()), (Phase::Queued, 0, None));
        assert_eq!((cx.attempt(), cx.is_cancelled()), (0, false));
    });
    let task = move |_: &Context| {
        runs.store(true, Ordering::SeqCst);
        Ok(())
    };
    manager.run("task", task).unwrap();
    manager.wait();
    assert_eq!((manager.stats().hook_panics, manager.stats().succeeded), (0, 2));
}

#[test]
fn the_ended_hooks_are_called_on_the_thread_that_ran_the_task() {
    let manager = Manager::new();
    let (says, said) = mpsc::channel();
    let fails = says.clone();
    manager.on_task_succeeded(move |_, ()| says.send(std::thread::current().id()).unwrap());
    manager.on_task_failed(move |_, (), _| fails.send(std::thread::current().id()).unwrap());
    for fails in [false, true] {
        let (tells, told) = mpsc::channel();
        let task = move |_: &Context| {
            tells.send(std::thread::current().id())?;
            if fails { Err("no".into()) } else { Ok(()) }
        };
        manager.run((), task).unwrap();
        assert_eq!(said.recv_timeout(HANG).unwrap(), told.recv().unwrap());
    }
}

#[test]
fn a_task_is_live_until_the_last_of_its_hooks_has_returned() {
    let manager = Manager::new();
    let (enters, entered) = mpsc::channel();
    let (open, gate) = mpsc::channel::<()>();
    let gate = Mutex::new(gate);
    manager.on_task_succeeded(|_, _| ());
    manager.on_task_succeeded(move |_, _| {
        enters.send(()).unwrap();
        let _ = gate.lock().unwrap().recv_timeout(HANG);
    });
    manager.run("in its hook", |_| Ok(())).unwrap();
    entered.recv_timeout(HANG).unwrap();
    let unfinished = manager.wait_timeout(Duration::ZERO).unwrap_err();
    assert_eq!((manager.len(), *unfinished.tasks()[0].meta()), (1, "in its hook"));
    assert_eq!(unfinished.tasks()[0].phase(), Phase::Running);
    open.send(()).unwrap();
    manager.wait();
    assert_eq!(manager.len(), 0);
}

#[test]
fn captures_are_gone_before_the_ended_hooks_are_called() {
    let manager = Manager::new();
    let drops = Arc::new(Drops::default());
    let (says, said) = mpsc::channel();
    let (sees, fails) = (Arc::clone(&drops), says.clone());
    manager.on_task_succeeded(move |_, _| says.send(sees.count()).unwrap());
    let sees = Arc::clone(&drops);
    manager.on_task_failed(move |_, _, _| fails.send(sees.count()).unwrap());
    let capture = || {
        let counted = drops.counted();
        move || {
            let _ = &counted;
        }
    };
    let uses = capture();
    let succeeds = Task::once("succeeds", move |_| Ok(uses()));
    let uses = capture();
    let fails = Task::once("fails", move |_| {
        uses();
        Err("no".into())
    });
    let uses = capture();
    let panics = Task::once("panics", move |_| {
        uses();
        panic!("on purpose")
    });
    let uses = capture();
    let again = Task::retrying("may be called again", move |_| Ok(uses()));
    let uses = capture();
    let given_up = Task::retrying("fails for good", move |_| {
        uses();
        Err("no".into())
    });
    for (n, task) in
        [succeeds, fails, panics, again, given_up.retry(Retry::attempts(1))].into_iter().enumerate()
    {
        manager.run_task(task).unwrap();
        assert_eq!(said.recv_timeout(HANG).unwrap(), n + 1);
    }
}

#[test]
fn a_task_that_is_accepted_while_somebody_closes_still_runs() {
    let manager: Manager<()> = Manager::new();
    let inner = manager.uncounted();
    manager.on_task_added(move |_, ()| assert!(inner.close()));
    assert_eq!(manager.spawn((), |_| Ok(7)).unwrap().join().unwrap(), 7);
    assert!(manager.is_closed());
    manager.wait();
    assert_eq!(manager.stats().hook_panics, 0);
}

#[test]
fn what_a_hook_submits_is_waited_for_as_well() {
    let manager: Manager<u32> = Manager::new();
    let inner = manager.uncounted();
    manager.on_task_succeeded(move |_, left| {
        if *left > 0 {
            inner.run(left - 1, |_| Ok(())).unwrap();
        }
    });
    manager.run(100, |_| Ok(())).unwrap();
    manager.wait();
    assert_eq!(manager.stats().succeeded, 101);
}

#[test]
fn an_added_hook_may_submit_in_its_turn() {
    let manager: Manager<u32> = Manager::new();
    let inner = manager.uncounted();
    manager.on_task_added(move |_, depth| {
        if *depth > 0 {
            inner.run(depth - 1, |_| Ok(())).unwrap();
        }
    });
    manager.run(20, |_| Ok(())).unwrap();
    manager.wait();
    assert_eq!((manager.stats().succeeded, manager.stats().hook_panics), (21, 0));
}

#[test]
fn the_error_comes_as_the_type_that_the_task_returned() {
    let manager = Manager::new();
    let (says, said) = mpsc::channel();
    manager.on_task_failed(move |_, (), error| says.send(error.clone()).unwrap());
    manager.run((), |_| Err(io::Error::from(io::ErrorKind::StorageFull).into())).unwrap();
    let TaskError::Failed(error) = said.recv_timeout(HANG).unwrap() else { panic!("it has failed") };
    assert_eq!(error.downcast_ref::<io::Error>().unwrap().kind(), io::ErrorKind::StorageFull);
}

#[test]
fn the_hooks_of_a_task_that_never_ran_see_its_values_and_no_attempt() {
    let manager = Manager::builder().max_threads(1).build().unwrap();
    let gate = busy(&manager, 0);
    let (says, said) = mpsc::channel();
    manager.on_task_failed(move |cx, meta, error| {
        let seen = (cx.attempt(), cx.running_for(), cx.value::<&str>().copied());
        says.send((*meta, seen, error.to_string())).unwrap();
    });
    let cx = Context::background().with_value("request 7");
    let id = manager.run_task(Task::once(1, |_| unreachable!()).context(&cx)).unwrap();
    assert_eq!(manager.tasks()[1].id(), id);
    manager.cancel();
    gate.open();
    let expected = (1, (0, Duration::ZERO, Some("request 7")), "the task was cancelled".to_owned());
    assert_eq!(said.recv_timeout(HANG).unwrap(), expected);
}

#[test]
fn hooks_may_be_added_from_many_threads_while_tasks_flow() {
    let manager: Manager<u32> = Manager::new();
    let calls = Arc::new(AtomicUsize::new(0));
    let adders: Vec<_> = (0..4)
        .map(|_| {
            let (manager, calls) = (manager.clone(), Arc::clone(&calls));
            std::thread::spawn(move || {
                for n in 0..25 {
                    let calls = Arc::clone(&calls);
                    manager.on_task_succeeded(move |_, _| {
                        calls.fetch_add(1, Ordering::SeqCst);
                    });
                    manager.run(n, |_| Ok(())).unwrap();
                }
            })
        })
        .collect();
    for adder in adders {
        adder.join().unwrap();
    }
    manager.wait();
    calls.store(0, Ordering::SeqCst);
    let (gate, task) = gated();
    manager.run(0, task).unwrap();
    gate.started();
    gate.open();
    manager.wait();
    assert_eq!(calls.load(Ordering::SeqCst), 100, "none was lost");
}
