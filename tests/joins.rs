//! Handles in depth: who runs a task that is joined, and what becomes of its value.
//!
//! - inside a call-out: a queued task runs right there, once, whoever joins it: a task, a hook, a scope's thread;
//!   a running one is waited for; `join_timeout` runs nothing; nor does a joiner outside or in another manager's
//! - while unwinding: no second panic
//! - the value: gone as soon as it was taken, or with the handle, or when it comes; of any type that is `Send`
//! - the handle outlives its manager; `cancel` of what has ended, of oneself, of what blocks a place

#![allow(clippy::unwrap_used)]

mod support;

use inflight::{BoxError, Context, Handle, Manager, Phase, TaskError, scope};
use std::cell::Cell;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc;
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;
use support::{Fused, HANG, MS, fused, gate, occupy, until};

/// Counts its drop.
struct Counted(Arc<AtomicUsize>);

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.fetch_add(1, Ordering::SeqCst);
    }
}

fn pool(threads: usize) -> Fused<&'static str> {
    fused(Manager::builder().name("pool").max_threads(threads))
}

/// What became of a task that must not hang.
#[track_caller]
fn answer<T>(handle: Handle<T>) -> Result<T, TaskError> {
    match handle.join_timeout(HANG) {
        Ok(answer) => answer,
        Err(_) => panic!("it hangs"),
    }
}

fn this_thread(_: &Context) -> Result<Option<String>, BoxError> {
    Ok(thread::current().name().map(str::to_owned))
}

// -- who runs it ------------------------------------------------------------------------------------------

#[test]
fn a_task_runs_what_it_joins_right_there_and_once() {
    let manager = pool(1);
    let (hooks, hook) = mpsc::channel();
    manager.on_task_succeeded(move |cx, meta| {
        let thread = thread::current().name().map(str::to_owned);
        hooks.send((*meta, cx.attempt(), thread)).unwrap();
    });
    let runs = Arc::new(AtomicUsize::new(0));
    let counts = Arc::clone(&runs);
    let inner = manager.uncounted();
    let outer = move |_: &Context| {
        let lister = inner.clone();
        let joined = inner.spawn("joined", move |cx| {
            counts.fetch_add(1, Ordering::SeqCst);
            let own = lister.tasks().into_iter().find(|task| Some(task.id()) == cx.task_id()).unwrap();
            Ok((own.phase(), own.thread().map(str::to_owned)))
        })?;
        Ok(joined.join()?)
    };
    let listed = answer(manager.spawn("outer", outer).unwrap()).unwrap();
    let worker = Some("pool-1".to_owned());
    assert_eq!(listed, (Phase::Running, worker.clone()));
    manager.wait();
    let told: Vec<_> = hook.try_iter().collect();
    assert_eq!(told, [("joined", 1, worker.clone()), ("outer", 1, worker)], "with its hooks");
    assert_eq!((runs.load(Ordering::SeqCst), manager.stats().succeeded), (1, 2));
}

#[test]
fn a_hook_runs_what_it_joins_right_there() {
    let manager = pool(1);
    let inner = manager.uncounted();
    let (says, said) = mpsc::channel();
    manager.on_task_succeeded(move |_, meta| {
        if *meta == "subject" {
            says.send(inner.spawn("joined", this_thread).unwrap().join().unwrap()).unwrap();
        }
    });
    manager.run("subject", |_| Ok(())).unwrap();
    assert_eq!(said.recv_timeout(HANG).unwrap().as_deref(), Some("pool-1"));
}

#[test]
fn a_thread_of_a_scope_runs_what_it_joins_of_the_manager_that_it_was_opened_in() {
    let manager = pool(1);
    let inner = manager.uncounted();
    let outer = move |_: &Context| {
        let queued = inner.spawn("queued", this_thread)?;
        Ok(scope(|s| s.spawn((), move |_| Ok(queued.join()?)).expect("the scope is open").join())?)
    };
    let ran_on = answer(manager.spawn("outer", outer).unwrap()).unwrap();
    assert_eq!(ran_on.as_deref(), Some("inflight-1"));
}

#[test]
fn a_running_task_is_waited_for() {
    let manager = pool(2);
    let (gate, mut waits) = gate();
    let running = manager.spawn("running", move |cx| waits(cx).map(|()| 7)).unwrap();
    gate.started();
    let (joins, joined) = mpsc::channel();
    let outer = move |_: &Context| {
        joins.send(())?;
        Ok(running.join()?)
    };
    let outer = manager.spawn("outer", outer).unwrap();
    joined.recv_timeout(HANG).unwrap();
    gate.open();
    assert_eq!(answer(outer).unwrap(), 7);
}

#[test]
fn join_timeout_runs_nothing() {
    let manager = pool(1);
    let inner = manager.uncounted();
    let outer = move |_: &Context| {
        let queued = inner.spawn("queued", this_thread)?;
        let Err(queued) = queued.join_timeout(MS * 5) else { return Err("it was run".into()) };
        assert!(!queued.is_finished());
        Ok(queued)
    };
    let queued = answer(manager.spawn("outer", outer).unwrap()).unwrap();
    assert_eq!(answer(queued).unwrap().as_deref(), Some("pool-1"));
}

#[test]
fn a_joiner_outside_or_in_a_call_out_of_another_manager_waits() {
    let manager = pool(1);
    let other = fused::<&str>(Manager::builder().name("other"));
    let busy = occupy(&manager, "holds the thread");
    let queued = |manager: &Manager<&'static str>| manager.spawn("queued", this_thread).unwrap();
    let (joins, joined) = mpsc::channel();
    let (here, there) = (queued(&manager), queued(&manager));
    let elsewhere = other.spawn("joins", move |_| {
        joins.send(())?;
        Ok(there.join()?)
    });
    joined.recv_timeout(HANG).unwrap();
    let opens = thread::spawn(move || busy.open());
    assert_eq!(answer(here).unwrap().as_deref(), Some("pool-1"));
    assert_eq!(answer(elsewhere.unwrap()).unwrap().as_deref(), Some("pool-1"));
    opens.join().unwrap();
}

#[test]
fn a_chain_of_joins_ends_on_one_thread_however_it_is_ordered() {
    let manager = pool(1);
    let inner = manager.uncounted();
    let chain = move |_: &Context| {
        let mut last: Handle<u32> = inner.spawn("first", |_| Ok(0))?;
        for _ in 0..200 {
            let before = last;
            last = inner.spawn("next", move |_| Ok(before.join()? + 1))?;
        }
        Ok(last.join()?)
    };
    assert_eq!(answer(manager.spawn("chain", chain).unwrap()).unwrap(), 200);
}

#[test]
fn inline_there_is_an_answer_when_spawn_returns() {
    let manager = fused::<()>(Manager::builder().inline());
    let handle = manager.spawn((), |_| Ok(7)).unwrap();
    assert!(handle.is_finished());
    assert_eq!(handle.join().unwrap(), 7);
}

// -- while unwinding --------------------------------------------------------------------------------------

#[test]
fn a_join_while_its_task_unwinds_is_answered_and_no_second_panic() {
    struct JoinsOnDrop(Option<Handle<()>>, mpsc::Sender<TaskError>);
    impl Drop for JoinsOnDrop {
        fn drop(&mut self) {
            let error = self.0.take().unwrap().join().unwrap_err();
            let _ = self.1.send(error);
        }
    }
    let manager = pool(1);
    let inner = manager.uncounted();
    let (says, said) = mpsc::channel();
    let (give, taken) = mpsc::channel();
    let outer = move |_: &Context| -> Result<(), BoxError> {
        let queued = inner.spawn("queued", |_| Ok(()))?;
        let _joins_another = JoinsOnDrop(Some(queued), says.clone());
        let _joins_itself = JoinsOnDrop(Some(taken.recv_timeout(HANG)?), says);
        panic!("on purpose")
    };
    give.send(manager.spawn("outer", outer).unwrap()).unwrap();
    for _ in 0..2 {
        assert!(matches!(said.recv_timeout(HANG).unwrap(), TaskError::Abandoned));
    }
    manager.wait();
    assert_eq!((manager.stats().failed, manager.stats().succeeded), (1, 1), "and the queued one still runs");
}

// -- the value --------------------------------------------------------------------------------------------

#[test]
fn a_value_that_was_taken_is_its_takers_alone() {
    let manager = pool(1);
    let (open, opened) = mpsc::channel::<()>();
    let opened = Mutex::new(opened);
    manager.on_task_succeeded(move |_, _| opened.lock().unwrap().recv_timeout(HANG).unwrap());
    let drops = Arc::new(AtomicUsize::new(0));
    let value = Counted(Arc::clone(&drops));
    let handle = manager.spawn("value", move |_| Ok(value)).unwrap();
    let listed = manager.tasks();
    drop(handle.join().unwrap());
    assert_eq!((drops.load(Ordering::SeqCst), manager.len()), (1, 1), "the hook has not returned");
    open.send(()).unwrap();
    manager.wait();
    drop(listed);
    assert_eq!(drops.load(Ordering::SeqCst), 1);
}

#[test]
fn a_value_that_nobody_wants_by_the_time_it_comes_is_dropped_before_the_count_goes_down() {
    let manager = pool(1);
    let drops = Arc::new(AtomicUsize::new(0));
    let value = Counted(Arc::clone(&drops));
    let (gate, mut waits) = gate();
    let handle = manager.spawn("value", move |cx| waits(cx).map(|()| value)).unwrap();
    gate.started();
    drop(handle);
    assert_eq!(drops.load(Ordering::SeqCst), 0);
    gate.open();
    manager.wait();
    assert_eq!((drops.load(Ordering::SeqCst), manager.stats().succeeded), (1, 1));
}

#[test]
fn a_value_need_not_be_sync_and_a_closure_may_be_large() {
    let manager = pool(1);
    let large = [7_u8; 10_000];
    let handle = manager.spawn("large", move |_| Ok(Cell::new(large))).unwrap();
    assert_eq!(handle.join().unwrap().get(), [7; 10_000]);
}

#[test]
fn a_handle_outlives_its_manager() {
    let manager = Manager::new();
    let (fine, fails) =
        (manager.spawn((), |_| Ok(7)).unwrap(), manager.spawn((), |_| Err::<(), _>("no".into())).unwrap());
    drop(manager);
    assert!(fine.is_finished() && fails.is_finished());
    fails.cancel();
    assert_eq!(fine.join().unwrap(), 7);
    assert_eq!(fails.join().unwrap_err().to_string(), "no");
}

// -- cancel -----------------------------------------------------------------------------------------------

#[test]
fn cancel_changes_nothing_about_what_has_ended() {
    let manager = pool(1);
    let handle = manager.spawn("task", |_| Ok(7)).unwrap();
    manager.wait();
    handle.cancel();
    assert_eq!(handle.join().unwrap(), 7);
    assert_eq!((manager.stats().succeeded, manager.stats().failed), (1, 0));
    assert!(!manager.is_closed());
}

#[test]
fn a_task_may_cancel_itself() {
    let manager = pool(1);
    let (give, taken) = mpsc::channel::<Handle<()>>();
    let (says, said) = mpsc::channel();
    manager.on_task_failed(move |_, _, error| says.send(error.clone()).unwrap());
    let task = move |cx: &Context| {
        taken.recv_timeout(HANG)?.cancel();
        Ok(cx.sleep(Duration::MAX)?)
    };
    give.send(manager.spawn("task", task).unwrap()).unwrap();
    assert!(matches!(said.recv_timeout(HANG).unwrap(), TaskError::Cancelled));
}

#[test]
fn a_cancelled_task_makes_room_for_one_that_waits_for_it() {
    let manager = fused(Manager::builder().max_threads(1).max_pending(1));
    let busy = occupy(&manager, "holds the thread");
    let queued = manager.spawn("queued", |_| Ok(())).unwrap();
    thread::scope(|s| {
        let waits = s.spawn(|| manager.run("waits for room", |_| Ok(())).is_ok());
        queued.cancel();
        until(|| waits.is_finished());
        assert!(waits.join().unwrap());
    });
    busy.open();
    manager.wait();
    assert_eq!((manager.stats().succeeded, manager.stats().failed), (2, 1));
}

#[test]
fn many_cancellers_of_one_task_end_it_once() {
    for _ in 0..200 {
        let manager = pool(1);
        let busy = occupy(&manager, "holds the thread");
        let handle = manager.spawn("queued", |cx| Ok(cx.sleep(Duration::MAX)?)).unwrap();
        thread::scope(|s| {
            for _ in 0..3 {
                s.spawn(|| handle.cancel());
            }
            busy.open();
        });
        assert!(matches!(handle.join(), Err(TaskError::Cancelled)));
        manager.wait();
        assert_eq!((manager.stats().succeeded, manager.stats().failed), (1, 1));
    }
}
