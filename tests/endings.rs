//! How waiting and ending behave beyond `shutdown.rs`:
//! - `wait`: new work does not starve it, loops count only once closed, all waiters wake;
//! - `close`: one call of many closes; what was accepted still runs, at its time;
//! - the drop of the last counted handle: waits, also while unwinding, for delayed tasks, until a `shutdown` has
//!   returned; which handles count;
//! - `shutdown`: the order of events, several at once, what is given up in each phase, what comes after.

#![allow(clippy::unwrap_used)]

mod common;

use common::{HANG, busy, gated, in_time, none_is_left, until};
use inflight::{Context, Grace, Kind, Manager, ManualClock, Phase, Retry, Task, TaskError, Unfinished};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Barrier, Mutex, mpsc};
use std::thread;
use std::time::Duration;

const SEC: Duration = Duration::from_secs(1);

/// A budget of no time at all.
fn now() -> Grace {
    Grace::drain(Duration::ZERO)
}

/// What an answer names.
fn metas<M: Copy + Send + Sync + 'static>(answer: Result<(), Unfinished<M>>) -> Vec<M> {
    answer.err().map(|left| left.tasks().iter().map(|task| *task.meta()).collect()).unwrap_or_default()
}

// -- wait ------------------------------------------------------------------------------------------------

#[test]
fn new_work_does_not_starve_those_who_wait() {
    type Next = Mutex<Option<Box<dyn FnOnce() + Send>>>;
    /// Submits the next task as soon as its own has left the count, long before a waiter is awake.
    struct Then(Next);
    impl Drop for Then {
        fn drop(&mut self) {
            if let Some(next) = self.0.get_mut().unwrap().take() {
                next();
            }
        }
    }
    let returns = |_: &u32| {
        let manager = Manager::new();
        let ((first, task), (second, more)) = (gated(), gated());
        let inner = manager.uncounted();
        let next = move || {
            inner.run(Then(Mutex::default()), more).unwrap();
        };
        manager.run(Then(Mutex::new(Some(Box::new(next)))), task).unwrap();
        first.started();
        let (says, said) = mpsc::channel();
        let wait = |_| {
            let (manager, says) = (manager.clone(), says.clone());
            thread::spawn(move || {
                says.send(()).unwrap();
                manager.wait();
                let _ = says.send(());
            })
        };
        let waiters: Vec<_> = (0..8).map(wait).collect();
        waiters.iter().for_each(|_| said.recv().unwrap());
        (0..1_000).for_each(|_| thread::yield_now());
        first.open();
        second.started();
        let returned = waiters.iter().all(|_| said.recv_timeout(Duration::from_secs(1)).is_ok());
        second.open();
        waiters.into_iter().for_each(|waiter| waiter.join().unwrap());
        returned
    };
    // Who has only begun to wait after the first task was gone does wait for the second: that is seldom.
    assert!((0..10).filter(returns).count() > 5);
}

#[test]
fn wait_waits_for_loops_only_once_the_manager_is_closed() {
    let manager = Manager::new();
    let (starts, started) = mpsc::channel();
    let (open, gate) = mpsc::channel::<()>();
    let looping = move |_: &Context| {
        starts.send(())?;
        let _ = gate.recv_timeout(HANG);
        Ok(())
    };
    manager.run_task(Task::looping("loop", looping)).unwrap();
    started.recv_timeout(HANG).unwrap();
    manager.run("task", |_| Ok(())).unwrap();
    manager.wait();
    assert_eq!((manager.count_of(Kind::Once), manager.count_of(Kind::Loop)), (0, 1));
    manager.close();
    assert_eq!(metas(manager.wait_timeout(Duration::ZERO)), ["loop"]);
    drop(open);
    manager.wait();
    assert_eq!(manager.len(), 0);
}

#[test]
fn all_who_wait_are_woken_by_the_last_task() {
    let manager = Manager::new();
    let gate = busy(&manager, ());
    let ready = Arc::new(Barrier::new(9));
    let waiters: Vec<_> = (0..8)
        .map(|n| {
            let (manager, ready) = (manager.clone(), Arc::clone(&ready));
            thread::spawn(move || {
                ready.wait();
                match n % 3 {
                    0 => manager.wait(),
                    1 => manager.wait_timeout(HANG).unwrap(),
                    _ => manager.shutdown(Grace::drain(HANG)).unwrap(),
                }
            })
        })
        .collect();
    ready.wait();
    gate.open();
    for waiter in waiters {
        waiter.join().unwrap();
    }
}

#[test]
fn a_wait_that_times_out_changes_nothing() {
    let clock = ManualClock::new();
    let manager = Manager::builder().clock(&clock).build().unwrap();
    let gate = busy(&manager, "slow");
    let other = manager.clone();
    let waits = thread::spawn(move || metas(other.wait_timeout(SEC * 5)));
    while !waits.is_finished() {
        clock.advance(SEC);
        thread::yield_now();
    }
    assert_eq!(waits.join().unwrap(), ["slow"]);
    assert!(!manager.is_closed());
    manager.run("more", |cx| Ok(cx.check()?)).unwrap();
    gate.open();
    manager.wait();
    assert_eq!(manager.stats().succeeded, 2);
}

// -- close -----------------------------------------------------------------------------------------------

#[test]
fn of_many_calls_one_closes() {
    let manager: Manager<()> = Manager::new();
    let closers: Vec<_> = (0..8)
        .map(|_| {
            let manager = manager.clone();
            thread::spawn(move || manager.close())
        })
        .collect();
    let closed: Vec<bool> = closers.into_iter().map(|closer| closer.join().unwrap()).collect();
    assert_eq!(closed.iter().filter(|closed| **closed).count(), 1);
}

#[test]
fn what_was_accepted_before_the_close_runs_at_its_time() {
    let clock = ManualClock::new();
    let manager = Manager::builder().clock(&clock).build().unwrap();
    let fails_once = |cx: &Context| if cx.attempt() == 1 { Err("busy".into()) } else { Ok(()) };
    let retry = Retry::attempts(2).delays(|| [SEC * 60]);
    manager.run_task(Task::once("delayed", |_| Ok(())).delay(SEC * 30)).unwrap();
    manager.run_task(Task::retrying("retried", fails_once).retry(retry)).unwrap();
    until(|| manager.tasks().iter().all(|task| task.phase() == Phase::Delayed && task.attempt() <= 1));
    until(|| manager.tasks()[1].attempt() == 1);
    manager.close();
    assert_eq!(metas(manager.wait_timeout(Duration::ZERO)), ["delayed", "retried"]);
    clock.advance(SEC * 30);
    until(|| manager.len() == 1);
    clock.advance(SEC * 30);
    manager.wait();
    assert_eq!((manager.stats().succeeded, manager.stats().failed), (2, 0));
}

#[test]
fn whether_a_submitter_or_a_closer_comes_first_nothing_is_lost() {
    for round in 0..200 {
        let manager = Manager::builder().keep_alive(Duration::ZERO).build().unwrap();
        let ran = Arc::new(AtomicUsize::new(0));
        let start = Arc::new(Barrier::new(3));
        let submitters: Vec<_> = (0..2)
            .map(|_| {
                let (manager, ran, start) = (manager.clone(), Arc::clone(&ran), Arc::clone(&start));
                thread::spawn(move || {
                    start.wait();
                    let submit = |_: &u32| {
                        let ran = Arc::clone(&ran);
                        let task = move |_: &Context| {
                            ran.fetch_add(1, Ordering::SeqCst);
                            Ok(())
                        };
                        manager.run(round, task).is_ok()
                    };
                    (0..20).filter(submit).count()
                })
            })
            .collect();
        start.wait();
        let shuts = manager.clone();
        in_time(move || shuts.shutdown(Grace::drain(HANG)).unwrap());
        let accepted: usize = submitters.into_iter().map(|submitter| submitter.join().unwrap()).sum();
        assert_eq!(ran.load(Ordering::SeqCst), accepted);
        let stats = manager.stats();
        assert_eq!((stats.added + stats.rejected, stats.threads), (40, 0));
    }
}

// -- the last handle -------------------------------------------------------------------------------------

/// Does `code`, on a thread of its own, return only after `lets` has been called? It is given the time to do so
/// too early from when `begun` holds.
fn waits_for(code: impl FnOnce() + Send + 'static, begun: impl Fn() -> bool, lets: impl FnOnce()) -> bool {
    let called = Arc::new(AtomicBool::new(false));
    let sees = Arc::clone(&called);
    let thread = thread::spawn(move || {
        code();
        sees.load(Ordering::SeqCst)
    });
    until(begun);
    (0..200).for_each(|_| thread::yield_now());
    called.store(true, Ordering::SeqCst);
    lets();
    thread.join().unwrap()
}

#[test]
fn its_drop_waits_also_while_unwinding() {
    let manager = Manager::new();
    let watch = manager.uncounted();
    let gate = busy(&manager, ());
    let unwinds = move || {
        let unwinds = std::panic::AssertUnwindSafe(move || {
            let _manager = manager;
            panic!("on purpose");
        });
        assert!(std::panic::catch_unwind(unwinds).is_err());
    };
    assert!(waits_for(unwinds, || watch.is_closed(), || gate.open()));
    assert_eq!((watch.len(), watch.stats().succeeded, watch.stats().threads), (0, 1, 0));
}

#[test]
fn its_drop_waits_for_what_is_due_later() {
    let clock = ManualClock::new();
    let manager = Manager::builder().clock(&clock).build().unwrap();
    let watch = manager.uncounted();
    manager.run_task(Task::once((), |_| Ok(())).delay(SEC * 60)).unwrap();
    assert!(waits_for(move || drop(manager), || watch.is_closed(), || clock.advance(SEC * 60)));
    assert_eq!(watch.stats().succeeded, 1);
}

#[test]
fn its_drop_ends_loops() {
    let manager = Manager::new();
    let watch = manager.uncounted();
    manager.run_task(Task::looping("works", |_| Ok(()))).unwrap();
    manager.run_task(Task::looping("waits", |_| Ok(())).every(HANG * 100)).unwrap();
    until(|| watch.tasks().iter().any(|task| *task.meta() == "waits" && task.phase() == Phase::Delayed));
    drop(manager);
    assert_eq!((watch.len(), watch.stats().failed), (0, 0));
}

#[test]
fn its_drop_ends_as_soon_as_a_shutdown_has_named_what_is_left() {
    let manager = Manager::new();
    let watch = manager.uncounted();
    let gate = busy(&manager, "stuck");
    let drops = thread::spawn(move || drop(manager));
    until(|| watch.is_closed());
    assert_eq!(metas(watch.shutdown(now())), ["stuck"]);
    drops.join().unwrap();
    assert_eq!(watch.len(), 1);
    gate.open();
    watch.wait();
}

#[test]
fn to_detach_one_of_several_leaves_the_wait_to_the_others() {
    let manager = Manager::new();
    let (second, watch) = (manager.clone(), manager.uncounted());
    let gate = busy(&manager, ());
    manager.detach();
    assert!(!watch.is_closed());
    assert!(waits_for(move || drop(second), || watch.is_closed(), || gate.open()));
}

#[test]
fn a_detached_managers_loops_go_on_and_uncounted_handles_reach_it() {
    let manager = Manager::new();
    let watch = manager.uncounted();
    let (ticks, ticked) = mpsc::channel();
    let looping = Task::looping("loop", move |_| Ok(ticks.send(())?)).every(Duration::from_micros(100));
    manager.run_task(looping).unwrap();
    manager.detach();
    for _ in 0..10 {
        ticked.recv_timeout(HANG).unwrap();
    }
    watch.run("task", |_| Ok(())).unwrap();
    watch.wait();
    assert!(!watch.is_closed());
    // Neither it nor its clones close or wait when they are dropped.
    drop(watch.clone());
    drop(watch.uncounted());
    assert!(!watch.is_closed());
    drop(ticked);
    watch.cancel();
    watch.shutdown(Grace::drain(HANG)).unwrap();
}

#[test]
fn the_drop_of_an_uncounted_handle_waits_for_nothing_even_as_the_last() {
    let manager = Manager::builder().name("alone").keep_alive(Duration::ZERO).build().unwrap();
    let gate = busy(&manager, ());
    let watch = manager.uncounted();
    manager.detach();
    drop(watch);
    gate.open();
    assert!(none_is_left("alone"), "its threads go by themselves");
}

// -- shutdown --------------------------------------------------------------------------------------------

#[test]
fn the_order_is_close_then_drain_then_cancel_then_give_up() {
    let clock = ManualClock::new();
    let manager = Manager::builder().clock(&clock).max_threads(1).build().unwrap();
    let log: Arc<Mutex<Vec<String>>> = Arc::default();
    let (succeeds, fails) = (Arc::clone(&log), Arc::clone(&log));
    manager.on_task_succeeded(move |_, meta| succeeds.lock().unwrap().push(format!("{meta} succeeded")));
    manager.on_task_failed(move |_, meta, error| {
        let how = match error {
            TaskError::Cancelled => "cancelled",
            TaskError::Abandoned => "abandoned",
            _ => "failed",
        };
        fails.lock().unwrap().push(format!("{meta} {how}"));
    });
    let first = busy(&manager, "drained");
    let (second, waits) = gated();
    let honours = move |cx: &Context| {
        waits(cx)?;
        Ok(cx.sleep(Duration::MAX)?)
    };
    manager.run("honours", honours).unwrap();
    let (third, waits) = gated();
    let other = manager.clone();
    let shuts = thread::spawn(move || metas(other.shutdown(Grace::drain(SEC * 10).then_cancel(SEC * 5))));
    until(|| manager.is_closed());
    assert!(manager.run("refused", waits).is_err());
    assert!(!third.has_started());
    // The drain: what was accepted still runs.
    first.open();
    second.started();
    second.open();
    clock.advance(SEC * 10);
    // The cancel part: who honours it ends in time, and what has not started is not begun.
    assert_eq!(shuts.join().unwrap(), [""; 0]);
    assert_eq!(*log.lock().unwrap(), ["drained succeeded", "honours cancelled"]);
}

#[test]
fn a_shutdown_returns_as_soon_as_all_is_done() {
    // On a clock that stands still: it does not wait its budget out.
    let clock = ManualClock::new();
    let manager = Manager::builder().clock(&clock).build().unwrap();
    for n in 0..20 {
        manager.run(n, |_| Ok(())).unwrap();
    }
    manager.shutdown(Grace::drain(SEC).then_cancel(SEC)).unwrap();
    assert_eq!(clock.elapsed(), Duration::ZERO);
}

#[test]
fn what_is_delayed_or_paused_is_given_up_by_name_and_loops_in_silence() {
    let manager = Manager::builder().max_threads(1).build().unwrap();
    let (says, said) = mpsc::channel();
    manager.on_task_failed(move |cx, meta, error| {
        says.send((*meta, cx.attempt(), matches!(error, TaskError::Abandoned))).unwrap();
    });
    let retry = Retry::attempts(9).delays(|| [HANG * 100]);
    manager.run_task(Task::retrying("retried", |_| Err("busy".into())).retry(retry)).unwrap();
    manager.run_task(Task::looping("looping", |_| Ok(())).every(HANG * 100)).unwrap();
    until(|| manager.tasks().iter().all(|task| task.phase() == Phase::Delayed && task.attempt() == 1));
    manager.run_task(Task::once("delayed", |_| unreachable!()).delay(HANG * 100)).unwrap();
    let gate = busy(&manager, "stuck");
    assert_eq!(metas(manager.shutdown(now())), ["retried", "looping", "delayed", "stuck"]);
    let mut told: Vec<_> = said.try_iter().collect();
    told.sort_unstable();
    assert_eq!(told, [("delayed", 0, true), ("retried", 1, true)]);
    assert_eq!((manager.len(), manager.stats().failed), (1, 2));
    gate.open();
    manager.wait();
    until(|| manager.stats().threads == 0);
}

#[test]
fn a_survivor_that_fails_is_not_retried() {
    let manager = Manager::builder().max_threads(1).build().unwrap();
    let (says, said) = mpsc::channel();
    manager.on_task_failed(move |cx, meta, error| {
        says.send((*meta, cx.attempt(), error.to_string())).unwrap();
    });
    let (gate, waits) = gated();
    let mut waits = Some(waits);
    let task = Task::retrying("stuck", move |cx| {
        waits.take().expect("it is attempted once")(cx)?;
        Err("busy".into())
    });
    manager.run_task(task.retry(Retry::unlimited())).unwrap();
    gate.started();
    assert_eq!(metas(manager.shutdown(now())), ["stuck"]);
    gate.open();
    assert_eq!(said.recv_timeout(HANG).unwrap(), ("stuck", 1, "busy".to_owned()));
    manager.wait();
    assert_eq!((manager.stats().retried, manager.stats().failed), (0, 1));
}

#[test]
fn many_shutdowns_at_once_all_name_the_survivor_and_give_each_other_task_up_once() {
    for _ in 0..20 {
        let manager = Manager::builder().max_threads(1).build().unwrap();
        let given_up = Arc::new(AtomicUsize::new(0));
        let counts = Arc::clone(&given_up);
        manager.on_task_failed(move |_, _, _| {
            counts.fetch_add(1, Ordering::SeqCst);
        });
        let gate = busy(&manager, 0);
        for n in 1..=50 {
            manager.run(n, |_| unreachable!()).unwrap();
        }
        let callers: Vec<_> = (0..4)
            .map(|_| {
                let manager = manager.clone();
                thread::spawn(move || metas(manager.shutdown(now())))
            })
            .collect();
        let answers: Vec<_> = callers.into_iter().map(|caller| caller.join().unwrap()).collect();
        assert!(answers.iter().all(|left| left[0] == 0));
        assert!(answers.iter().any(|left| *left == (0..=50).collect::<Vec<_>>()), "{answers:?}");
        assert_eq!((given_up.load(Ordering::SeqCst), manager.len()), (50, 1));
        gate.open();
        manager.shutdown(Grace::drain(HANG)).unwrap();
    }
}

#[test]
fn the_hooks_of_what_is_given_up_are_call_outs_on_the_callers_thread() {
    let manager: Manager<&str> = Manager::builder().max_threads(1).build().unwrap();
    let inner = manager.uncounted();
    manager.on_task_failed(move |_, _, _| {
        let _ = (inner.len(), inner.tasks(), inner.stats());
        inner.wait();
    });
    let gate = busy(&manager, "stuck");
    manager.run("queued", |_| Ok(())).unwrap();
    assert_eq!(metas(manager.shutdown(now())), ["stuck", "queued"]);
    assert_eq!(manager.stats().hook_panics, 1, "it may not wait for itself");
    gate.open();
    manager.wait();
}

#[test]
fn after_a_shutdown_the_next_gives_the_answer_of_its_own_time() {
    let manager = Manager::builder().name("again").max_threads(2).build().unwrap();
    let (one, two) = (busy(&manager, "one"), busy(&manager, "two"));
    assert_eq!(metas(manager.shutdown(now())), ["one", "two"]);
    one.open();
    until(|| manager.len() == 1);
    assert_eq!(metas(manager.shutdown(now())), ["two"]);
    two.open();
    manager.shutdown(Grace::drain(HANG)).unwrap();
    assert_eq!(manager.stats().threads, 0);
    assert!(none_is_left("again"));
}

#[test]
fn inline_tasks_are_drained_cancelled_and_named_like_any_other() {
    let manager = Manager::builder().inline().build().unwrap();
    let (gate, waits) = gated();
    let other = manager.clone();
    let submits = thread::Builder::new().name("submitter".into());
    let submits = submits.spawn(move || other.run("stuck", waits).map_err(drop)).unwrap();
    gate.started();
    let unfinished = manager.shutdown(now()).unwrap_err();
    let [task] = unfinished.tasks() else { panic!("{unfinished}") };
    assert_eq!((*task.meta(), task.phase(), task.thread()), ("stuck", Phase::Cancelling, Some("submitter")));
    gate.open();
    submits.join().unwrap().expect("it was accepted");
    assert_eq!((manager.len(), manager.stats().succeeded), (0, 1));
    manager.shutdown(now()).unwrap();
}

#[test]
fn cancel_runs_no_hook_itself_and_waits_for_nothing() {
    let manager = Manager::builder().max_threads(1).build().unwrap();
    let (says, said) = mpsc::channel();
    manager.on_task_failed(move |_, _, _| says.send(thread::current().id()).unwrap());
    let gate = busy(&manager, "runs");
    manager.run("queued", |_| unreachable!()).unwrap();
    manager.run_task(Task::once("delayed", |_| unreachable!()).delay(HANG * 100)).unwrap();
    manager.cancel();
    assert!(said.try_recv().is_err());
    assert_eq!((manager.len(), manager.is_closed()), (3, true));
    gate.open();
    manager.wait();
    let told: Vec<_> = said.try_iter().collect();
    assert!(told.len() == 2 && !told.contains(&thread::current().id()));
}

#[test]
fn a_shutdown_inside_of_a_task_panics_and_leaves_the_manager_open() {
    let manager: Manager<&str> = Manager::new();
    let (inner, refused) = (manager.uncounted(), Arc::new(AtomicBool::new(false)));
    let sees = Arc::clone(&refused);
    let task = move |_: &Context| {
        let shuts = std::panic::AssertUnwindSafe(|| drop(inner.shutdown(now())));
        sees.store(std::panic::catch_unwind(shuts).is_err(), Ordering::SeqCst);
        Ok(())
    };
    manager.run("shuts", task).unwrap();
    manager.wait();
    assert!(refused.load(Ordering::SeqCst) && !manager.is_closed());
}
