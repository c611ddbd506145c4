//! The twelve promises of the README, one test for each. Other files look at each of them more closely.

#![allow(clippy::unwrap_used)]

mod common;

use inflight::{Grace, Kind, Manager, ManualClock, Phase, Reason, Retry, Task, TaskError};
use std::io;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::mpsc::{self, Receiver, Sender};
use std::sync::{Arc, Mutex};
use std::time::Duration;

/// Guards against a hang: nothing here takes as long.
const HANG: Duration = Duration::from_secs(60);

/// A task that says when it has started, and goes on when it is told to.
fn gated()
-> (Sender<()>, Receiver<()>, impl FnOnce(&inflight::Context) -> Result<(), inflight::BoxError> + Send) {
    let (open, gate) = mpsc::channel::<()>();
    let (starts, started) = mpsc::channel();
    let task = move |_cx: &inflight::Context| {
        starts.send(())?;
        gate.recv_timeout(HANG)?;
        Ok(())
    };
    (open, started, task)
}

/// Counts its drops.
struct Dropped(Arc<AtomicUsize>);

impl Drop for Dropped {
    fn drop(&mut self) {
        self.0.fetch_add(1, Ordering::SeqCst);
    }
}

#[test]
fn p01_an_accepted_task_ends_exactly_once() {
    let manager = Manager::builder().max_threads(2).build().unwrap();
    let ends = Arc::new(Mutex::new(Vec::new()));
    let (succeeded, failed) = (Arc::clone(&ends), Arc::clone(&ends));
    manager.on_task_succeeded(move |cx, _| succeeded.lock().unwrap().push(cx.task_id().unwrap()));
    manager.on_task_failed(move |cx, _, _| failed.lock().unwrap().push(cx.task_id().unwrap()));
    let (open, started, stuck) = gated();
    let mut accepted = vec![manager.run(0, stuck).unwrap()];
    started.recv_timeout(HANG).unwrap();
    for n in 1..200 {
        let task = Task::once(n, move |cx| {
            if n % 3 == 0 {
                panic!("on purpose");
            }
            cx.check()?;
            if n % 5 == 0 { Err("on purpose".into()) } else { Ok(()) }
        });
        let delay = if n % 7 == 0 { HANG * 10 } else { Duration::ZERO };
        accepted.push(manager.run_task(task.delay(delay)).unwrap());
    }
    let unfinished = manager.shutdown(Grace::drain(Duration::ZERO)).unwrap_err();
    let named: Vec<_> = unfinished.tasks().iter().map(|task| task.id()).collect();
    assert_eq!(named.first(), accepted.first(), "the stuck task is named");
    open.send(()).unwrap();
    manager.wait_timeout(HANG).unwrap();
    let mut ended = ends.lock().unwrap().clone();
    ended.sort_unstable();
    assert_eq!(ended, accepted, "each is reported once, those that were given up included");
}

#[test]
fn p02_a_rejected_task_comes_back_whole_and_unrun() {
    let manager = Manager::new();
    let (drops, ran) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicBool::new(false)));
    let (capture, runs) = (Dropped(Arc::clone(&drops)), Arc::clone(&ran));
    manager.close();
    let rejected = manager
        .run(String::from("meta"), move |_cx| {
            let _capture = &capture;
            runs.store(true, Ordering::SeqCst);
            Ok(())
        })
        .unwrap_err();
    assert!(matches!(rejected.reason(), Reason::Closed));
    assert_eq!(rejected.meta(), "meta");
    assert_eq!((drops.load(Ordering::SeqCst), ran.load(Ordering::SeqCst)), (0, false));
    let other = Manager::new();
    other.run_task(rejected.into_task()).unwrap();
    other.wait();
    assert_eq!((drops.load(Ordering::SeqCst), ran.load(Ordering::SeqCst)), (1, true));
}

#[test]
fn p03_wait_returns_only_after_closures_captures_and_hooks() {
    let manager = Manager::new();
    let (drops, hooks) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
    let hook = Arc::clone(&hooks);
    manager.on_task_succeeded(move |_, _| {
        std::thread::yield_now();
        hook.fetch_add(1, Ordering::SeqCst);
    });
    for round in 1..=100 {
        for _ in 0..5 {
            let capture = Dropped(Arc::clone(&drops));
            let cx = inflight::Context::background().with_value(Dropped(Arc::clone(&drops)));
            let task = move |_cx: &inflight::Context| {
                let _capture = &capture;
                Ok(())
            };
            manager.run_task(Task::once((), task).context(&cx)).unwrap();
        }
        manager.wait();
        assert_eq!(hooks.load(Ordering::SeqCst), round * 5);
        assert_eq!(drops.load(Ordering::SeqCst), round * 10);
    }
}

#[test]
fn p04_a_panic_anywhere_kills_no_worker_and_hangs_no_waiter() {
    struct Bomb;
    impl Drop for Bomb {
        fn drop(&mut self) {
            if !std::thread::panicking() {
                panic!("in a drop");
            }
        }
    }
    let manager = Manager::builder().max_threads(1).build().unwrap();
    manager.on_task_added(|_, _| panic!("in a hook"));
    manager.on_task_failed(|_, _, _| panic!("in a hook"));
    manager.run("task", |_| panic!("in the task")).unwrap();
    manager.run("payload", |_| std::panic::panic_any(Bomb)).unwrap();
    let bomb = Bomb;
    manager
        .run("capture", move |_| {
            let _bomb = &bomb;
            Ok(())
        })
        .unwrap();
    manager.wait_timeout(HANG).unwrap();
    let threads: Vec<_> = (0..2)
        .map(|_| manager.spawn("healthy", |_| Ok(std::thread::current().id())).unwrap().join().unwrap())
        .collect();
    assert_eq!(threads[0], threads[1]);
    manager.wait_timeout(HANG).unwrap();
    let stats = manager.stats();
    assert_eq!((stats.added, stats.succeeded, stats.failed, stats.peak_threads), (5, 2, 3, 1));
    assert!(stats.hook_panics >= 5 + 3, "{stats:?}");
}

#[test]
fn p05_no_lock_is_held_while_the_users_code_runs() {
    // Each of them calls back into the manager, which would deadlock on a lock that is held; besides, debug
    // builds assert it at every call-out.
    struct Looks(Manager<Meta>);
    impl Drop for Looks {
        fn drop(&mut self) {
            assert!(self.0.stats().added < 1_000);
        }
    }
    #[derive(Clone)]
    struct Meta(Manager<Meta2>);
    type Meta2 = u8;
    impl Drop for Meta {
        fn drop(&mut self) {
            assert_eq!(self.0.len(), 0);
        }
    }
    let other: Manager<Meta2> = Manager::new();
    let manager: Manager<Meta> = Manager::new();
    let inner = manager.uncounted();
    manager.on_task_added(move |_, _| assert!(!inner.tasks().is_empty()));
    let inner = manager.uncounted();
    manager.on_task_succeeded(move |_, _| {
        inner.on_task_retried(|_, _, _, _| {});
        assert!(!inner.is_empty());
    });
    for _ in 0..50 {
        let looks = Looks(manager.uncounted());
        let task = move |_: &inflight::Context| {
            drop(looks);
            Ok(())
        };
        manager.run(Meta(other.uncounted()), task).unwrap();
    }
    manager.wait_timeout(HANG).map_err(|_| "hangs").unwrap();
    assert_eq!(manager.stats().hook_panics, 0);
}

#[test]
fn p06_waiting_inside_of_a_task_or_a_hook_never_deadlocks() {
    let manager: Manager<&str> = Manager::new();
    let (errors, failed) = mpsc::channel();
    manager.on_task_failed(move |_, meta, error| {
        let _ = errors.send((*meta, error.to_string()));
    });
    let inner = manager.uncounted();
    let waits = move |_: &inflight::Context| {
        inner.wait();
        Ok(())
    };
    manager.run("wait", waits).unwrap();
    let inner = manager.uncounted();
    manager.run("shutdown", move |_| Ok(inner.shutdown(Grace::drain(HANG))?)).unwrap();
    for _ in 0..2 {
        let (meta, error) = failed.recv_timeout(HANG).unwrap();
        assert!(error.contains(meta) && error.contains("would wait for"), "{error}");
    }
    let last = manager.clone();
    let (dropped, drops) = mpsc::channel();
    let (open, gate) = mpsc::channel::<()>();
    manager
        .run("drop", move |_| {
            gate.recv_timeout(HANG)?;
            drop(last);
            Ok(dropped.send(())?)
        })
        .unwrap();
    let watch = manager.uncounted();
    drop(manager);
    open.send(()).unwrap();
    drops.recv_timeout(HANG).unwrap();
    assert!(watch.is_closed());
}

#[test]
fn p07_shutdown_keeps_its_budget_and_names_the_survivors() {
    let clock = ManualClock::new();
    let manager = Manager::builder().name("worker").clock(&clock).build().unwrap();
    let (open, gate) = mpsc::channel::<()>();
    let (starts, started) = mpsc::channel();
    let stuck = move |cx: &inflight::Context| {
        cx.progress("page 3 of 7");
        starts.send(())?;
        gate.recv_timeout(HANG)?;
        Ok(())
    };
    manager.run("stuck", stuck).unwrap();
    started.recv_timeout(HANG).unwrap();
    clock.advance(Duration::from_secs(5));
    let unfinished = manager.shutdown(Grace::drain(Duration::ZERO)).unwrap_err();
    let [task] = unfinished.tasks() else { panic!("{unfinished}") };
    assert_eq!(
        (*task.meta(), task.phase(), task.age()),
        ("stuck", Phase::Cancelling, Duration::from_secs(5))
    );
    assert_eq!((task.thread(), task.progress()), (Some("worker-1"), Some("page 3 of 7")));
    open.send(()).unwrap();
    manager.wait_timeout(Duration::MAX).unwrap();
}

#[test]
fn p08_a_thread_that_cannot_be_created_is_no_panic_and_loses_no_task() {
    let refuse = Arc::new(AtomicBool::new(true));
    let gate = Arc::clone(&refuse);
    let manager = Manager::builder()
        .thread_gate(move |_| match gate.load(Ordering::SeqCst) {
            true => Err(io::ErrorKind::WouldBlock.into()),
            false => Ok(()),
        })
        .build()
        .unwrap();
    let rejected = manager.run("none", |_| Ok(())).unwrap_err();
    assert!(matches!(rejected.reason(), Reason::Spawn(_)));
    assert_eq!((manager.stats().added, manager.len()), (0, 0));
    refuse.store(false, Ordering::SeqCst);
    let (open, started, task) = gated();
    manager.run("first", task).unwrap();
    started.recv_timeout(HANG).unwrap();
    refuse.store(true, Ordering::SeqCst);
    manager.run("second", |_| Ok(())).unwrap();
    open.send(()).unwrap();
    manager.wait_timeout(HANG).unwrap();
    assert_eq!(manager.stats().succeeded, 2);
}

#[test]
fn p09_a_task_is_not_held_up_by_blocked_ones() {
    let manager = Manager::new();
    let mut opened = Vec::new();
    for n in 0..200 {
        let (open, started, task) = gated();
        manager.run(n, task).unwrap();
        opened.push((open, started));
    }
    for (_, started) in &opened {
        started.recv_timeout(HANG).expect("it starts, though all before it are blocked");
    }
    for (open, _) in opened {
        open.send(()).unwrap();
    }
    manager.wait_timeout(HANG).unwrap();
}

#[test]
fn p10_threads_backlog_and_retries_are_bounded_as_configured() {
    let manager = Manager::builder().max_threads(3).max_pending(5).build().unwrap();
    let mut opened = Vec::new();
    for n in 0..3 {
        let (open, started, task) = gated();
        manager.run(n, task).unwrap();
        started.recv_timeout(HANG).unwrap();
        opened.push(open);
    }
    for n in 3..8 {
        manager.try_run_task(Task::once(n, |_| Ok(()))).unwrap();
    }
    let full = manager.try_run_task(Task::once(8, |_| Ok(()))).unwrap_err();
    assert!(matches!(full.reason(), Reason::Full));
    drop(opened);
    manager.wait_timeout(HANG).unwrap();
    assert_eq!(manager.stats().peak_threads, 3);

    let attempts = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&attempts);
    let failing = Task::retrying(9, move |_| {
        count.fetch_add(1, Ordering::SeqCst);
        Err("again".into())
    });
    manager.run_task(failing.retry(Retry::attempts(4).delays(|| [Duration::ZERO; 9]))).unwrap();
    manager.wait_timeout(HANG).unwrap();
    assert_eq!(attempts.load(Ordering::SeqCst), 4);
}

#[test]
fn p11_any_duration_is_accepted() {
    let manager = Manager::builder().keep_alive(Duration::MAX).stalled_after(Duration::MAX).build().unwrap();
    for duration in [Duration::ZERO, Duration::MAX] {
        let quick = Task::once((), |_| Ok(())).timeout(duration).stalled_after(duration);
        manager.run_task(quick).unwrap();
        manager.wait_timeout(Duration::MAX).unwrap();
        manager.run_task(Task::looping((), |_| Ok(())).every(duration).timeout(duration)).unwrap();
        manager.run_task(Task::once((), |_| Ok(())).delay(duration)).unwrap();
    }
    assert_eq!(manager.count_of(Kind::Loop), 2);
    manager.cancel();
    manager.shutdown(Grace::drain(Duration::MAX).then_cancel(Duration::MAX)).unwrap();
}

#[test]
fn p12_after_a_clean_shutdown_no_thread_of_ours_is_left() {
    let manager = Manager::builder().name("tidy").stalled_after(Duration::ZERO).build().unwrap();
    manager.on_task_stalled(|_, _, _| {});
    for n in 0..50 {
        manager.run(n, |_| Ok(())).unwrap();
    }
    manager.run_task(Task::once(50, |_| Ok(())).delay(Duration::from_secs(3600))).unwrap();
    let shut = manager.shutdown(Grace::drain(Duration::from_millis(20)).then_cancel(HANG));
    shut.unwrap();
    assert_eq!(manager.stats().threads, 0);
    assert!(common::none_is_left("tidy"));
}

#[test]
fn a_failure_tells_what_it_was() {
    let manager = Manager::new();
    let failed = manager.spawn((), |_| Err::<(), _>("no paper".into())).unwrap().join();
    assert!(matches!(failed, Err(TaskError::Failed(error)) if error.to_string() == "no paper"));
}
