//! Scopes: tasks that borrow, on the same executor, ended before the scope returns, also when it unwinds.

#![allow(clippy::unwrap_used)]

mod common;

use inflight::{Builder, Context, Grace, Kind, Manager, Scope, TaskError, scope, scoped};
use std::cell::Cell;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::mpsc;
use std::time::Duration;

const HANG: Duration = Duration::from_secs(60);

fn builder<M>() -> Builder<M> {
    Manager::builder()
}

#[test]
fn tasks_borrow_from_the_surrounding_frame() {
    let words = [String::from("tea"), String::from("coffee")];
    let lengths = Mutex::new(Vec::new());
    scope(|s| {
        for word in &words {
            let lengths = &lengths;
            s.run(word.as_str(), move |_| {
                lengths.lock().unwrap().push(word.len());
                Ok(())
            })
            .unwrap();
        }
    });
    let mut lengths = lengths.into_inner().unwrap();
    lengths.sort_unstable();
    assert_eq!(lengths, [3, 6]);
}

#[test]
fn meta_and_hooks_may_borrow_too() {
    let names = [String::from("tea")];
    let (added, succeeded) = (Mutex::new(Vec::new()), AtomicUsize::new(0));
    builder::<&str>()
        .scope(|s| {
            s.on_task_added(|_, meta| added.lock().unwrap().push(*meta));
            s.on_task_succeeded(|_, _| {
                succeeded.fetch_add(1, Ordering::SeqCst);
            });
            s.carry(|meta: &&str| names.iter().position(|name| name == meta), |index| *index);
            s.run(&names[0], |_| Ok(())).unwrap();
        })
        .unwrap();
    assert_eq!((added.into_inner().unwrap(), succeeded.into_inner()), (vec!["tea"], 1));
}

#[test]
fn tasks_may_start_further_tasks_and_the_scope_waits_for_them() {
    fn spread<'scope>(s: &Scope<'scope, '_, u32>, depth: u32, count: &'scope AtomicUsize) {
        count.fetch_add(1, Ordering::SeqCst);
        if depth == 0 {
            return;
        }
        for _ in 0..2 {
            let inner = s.clone();
            let task = move |_: &Context| {
                spread(&inner, depth - 1, count);
                Ok(())
            };
            s.run(depth, task).unwrap();
        }
    }
    let count = AtomicUsize::new(0);
    builder().max_threads(3).scope(|s| spread(s, 8, &count)).unwrap();
    assert_eq!(count.into_inner(), 511);
}

#[test]
fn it_returns_the_closures_value_after_everything_has_ended() {
    let done = AtomicBool::new(false);
    let (open, gate) = mpsc::channel::<()>();
    let value = scope(|s| {
        let done = &done;
        s.run((), move |_| {
            gate.recv_timeout(HANG)?;
            done.store(true, Ordering::SeqCst);
            Ok(())
        })
        .unwrap();
        open.send(()).unwrap();
        7
    });
    assert_eq!((value, done.into_inner()), (7, true));
}

#[test]
fn a_closure_that_panics_is_waited_for_too_and_its_payload_goes_on() {
    let done = AtomicBool::new(false);
    let (open, gate) = mpsc::channel::<()>();
    let unwound = catch_unwind(AssertUnwindSafe(|| {
        scope(|s| {
            let done = &done;
            s.run((), move |_| {
                gate.recv_timeout(HANG)?;
                done.store(true, Ordering::SeqCst);
                Ok(())
            })
            .unwrap();
            open.send(()).unwrap();
            std::panic::panic_any(17_u32);
        })
    }));
    assert_eq!(unwound.unwrap_err().downcast_ref(), Some(&17_u32));
    assert!(done.into_inner());
}

#[test]
fn a_task_that_panics_is_a_failed_task_and_the_scope_returns() {
    let failed = AtomicUsize::new(0);
    scope(|s| {
        s.on_task_failed(|_, _, error| {
            assert!(matches!(error, TaskError::Panicked(message) if message == "on purpose"));
            failed.fetch_add(1, Ordering::SeqCst);
        });
        s.run((), |_| panic!("on purpose")).unwrap();
    });
    assert_eq!(failed.into_inner(), 1);
}

#[test]
fn its_loops_end_with_it() {
    let rounds = AtomicUsize::new(0);
    let (ticks, ticked) = mpsc::channel();
    scope(|s| {
        let rounds = &rounds;
        let task = move |_: &Context| {
            rounds.fetch_add(1, Ordering::SeqCst);
            let _ = ticks.send(());
            Ok(())
        };
        s.run_task(scoped::Task::looping((), task).every(Duration::from_micros(10))).unwrap();
        for _ in 0..3 {
            ticked.recv_timeout(HANG).unwrap();
        }
        assert_eq!((s.count_of(Kind::Loop), s.len()), (1, 1));
    });
    assert!(rounds.into_inner() >= 3);
}

#[test]
fn it_is_bounded_by_max_threads_and_leaves_none() {
    builder()
        .name("scoped")
        .max_threads(2)
        .scope(|s| {
            for n in 0..50 {
                s.run(n, |_| Ok(())).unwrap();
            }
            s.wait();
            assert!(s.stats().peak_threads <= 2);
        })
        .unwrap();
    assert!(common::none_is_left("scoped"));
}

#[test]
fn all_verbs_are_there() {
    scope(|s| {
        assert!(s.is_empty());
        let (open, gate) = mpsc::channel::<()>();
        s.run("waits", move |_| Ok(gate.recv_timeout(HANG)?)).unwrap();
        assert_eq!(*s.wait_timeout(Duration::ZERO).unwrap_err().tasks()[0].meta(), "waits");
        assert_eq!(s.tasks().len(), 1);
        open.send(()).unwrap();
        s.wait();
        s.try_run_task(scoped::Task::once("again", |_| Ok(()))).unwrap();
        let sum = s.spawn("sum", |_| Ok(1 + 1)).unwrap();
        assert_eq!(sum.join().unwrap(), 2);
        assert!(s.close());
        s.shutdown(Grace::drain(HANG)).unwrap();
        assert!(s.run("late", |_| Ok(())).is_err());
        s.cancel();
        assert_eq!(s.stats().added, 3);
    });
}

#[test]
fn a_result_may_borrow() {
    let words = ["tea", "coffee"];
    let longest = scope(|s| {
        let handle = s.spawn((), |_| Ok(words.iter().max_by_key(|word| word.len()))).unwrap();
        handle.join().unwrap()
    });
    assert_eq!(longest, Some(&"coffee"));
}

#[test]
fn a_static_task_runs_in_a_scope_as_well() {
    let (sends, receives) = mpsc::channel();
    let task: inflight::Task<u32> = inflight::Task::once(1, move |_| Ok(sends.send(())?));
    scope(|s| s.run_task(task).map(drop).unwrap());
    receives.try_recv().unwrap();
}

#[test]
fn its_threads_are_in_the_call_outs_of_the_thread_that_opened_it() {
    let outer: Manager<&str> = Manager::new();
    let inner = outer.uncounted();
    let handle = outer.spawn("opens a scope", move |_| {
        let said = Mutex::new(String::new());
        scope(|s| {
            s.on_task_failed(|_, _, error| *said.lock().unwrap() = error.to_string());
            s.run((), |_| {
                inner.wait();
                Ok(())
            })
            .unwrap();
        });
        Ok(said.into_inner()?)
    });
    assert!(handle.unwrap().join().unwrap().contains("would wait for"));
}

#[test]
fn settings_that_make_no_sense_are_an_error_and_the_closure_is_not_called() {
    let called = Cell::new(false);
    let refused = builder::<()>().max_threads(0).scope(|_| called.set(true));
    assert!(refused.is_err() && !called.get());
}
