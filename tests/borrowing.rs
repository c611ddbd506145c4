//! Scopes in depth: what their tasks, hooks and carriers borrow, how they unwind, and that all of the executor
//! is there.
//!
//! - borrows: a `&mut` for each task, by hooks and guards, by delayed, retried, looping and watched tasks, by
//!   values, errors' owners and Meta; given back when the scope returns, also if it unwinds
//! - unwinding: with tasks queued, delayed, in a loop; in a destructor; a panic in a task or a hook besides
//! - threads: supervisor and notifier are the scope's own, bounded, refused, one for each task, none (inline)
//! - what cannot wait for itself; rejection within a task; scopes within scopes; shutdown within a scope

#![allow(clippy::unwrap_used)]

mod support;

use inflight::{
    Backoff, Context, Grace, Manager, ManualClock, Phase, Reason, Retry, Scope, TaskError, scope, scoped,
};
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind, panic_any};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::mpsc;
use std::thread;
use std::time::Duration;
use support::{HANG, SEC, threads_named, until};

fn builder<M>() -> inflight::Builder<M> {
    Manager::builder()
}

fn add(count: &AtomicUsize, n: usize) -> Result<(), inflight::BoxError> {
    count.fetch_add(n, Ordering::SeqCst);
    Ok(())
}

/// Adds one when it is dropped.
struct Counted<'a>(&'a AtomicUsize);

impl Drop for Counted<'_> {
    fn drop(&mut self) {
        self.0.fetch_add(1, Ordering::SeqCst);
    }
}

// -- borrows ----------------------------------------------------------------------------------------------

#[test]
fn each_task_may_have_a_part_of_a_slice_to_itself() {
    let mut numbers: Vec<u32> = (0..1000).collect();
    scope(|s| {
        for part in numbers.chunks_mut(64) {
            s.run((), move |_| {
                part.iter_mut().for_each(|number| *number *= 2);
                Ok(())
            })
            .unwrap();
        }
    });
    // The borrow is over.
    numbers.push(2000);
    assert!(numbers.iter().copied().eq((0..=1000).map(|n| n * 2)));
}

#[test]
fn what_hooks_and_captures_borrow_is_given_back_when_the_scope_returns() {
    let dropped = AtomicUsize::new(0);
    scope(|s| {
        let (in_hook, in_capture, in_enter) = (Counted(&dropped), Counted(&dropped), Counted(&dropped));
        s.on_task_succeeded(move |_, (): &()| assert_eq!(in_hook.0.load(Ordering::SeqCst), 1));
        s.carry(
            move |()| drop(in_capture.0.load(Ordering::SeqCst).to_string()),
            move |()| drop(in_enter.0.load(Ordering::SeqCst).to_string()),
        );
        let in_task = Counted(&dropped);
        s.run((), move |_| Ok(drop(in_task))).unwrap();
        s.wait();
        assert_eq!(dropped.load(Ordering::SeqCst), 1, "the task's");
        assert_eq!(s.stats().hook_panics, 0);
    });
    assert_eq!(dropped.into_inner(), 4);
}

#[test]
fn a_carried_guard_may_borrow() {
    let depth = AtomicUsize::new(0);
    struct Entered<'a>(&'a AtomicUsize);
    impl Drop for Entered<'_> {
        fn drop(&mut self) {
            self.0.fetch_sub(1, Ordering::SeqCst);
        }
    }
    let inside = scope(|s| {
        let depth = &depth;
        s.carry(
            |(): &()| (),
            move |()| {
                depth.fetch_add(1, Ordering::SeqCst);
                Entered(depth)
            },
        );
        s.spawn((), |_| Ok(depth.load(Ordering::SeqCst))).unwrap().join().unwrap()
    });
    assert_eq!((inside, depth.into_inner()), (1, 0));
}

#[test]
fn delayed_retried_looping_and_watched_tasks_borrow_as_well() {
    let clock = ManualClock::new();
    let (delayed, attempts, rounds, stalls) =
        (AtomicBool::new(false), AtomicUsize::new(0), AtomicUsize::new(0), AtomicUsize::new(0));
    builder()
        .max_threads(1)
        .clock(&clock)
        .scope(|s| {
            s.on_task_stalled(|_, meta, _| {
                assert_eq!(*meta, "watched");
                stalls.fetch_add(1, Ordering::SeqCst);
            });
            let later = |_: &Context| Ok(delayed.store(true, Ordering::SeqCst));
            s.run_task(scoped::Task::once("delayed", later).delay(SEC)).unwrap();
            let retry = |cx: &Context| {
                attempts.fetch_add(1, Ordering::SeqCst);
                if cx.attempt() < 3 { Err("busy".into()) } else { Ok(()) }
            };
            let policy = Retry::attempts(3).backoff(Backoff::constant(SEC));
            s.run_task(scoped::Task::retrying("retried", retry).retry(policy)).unwrap();
            let round = |_: &Context| {
                rounds.fetch_add(1, Ordering::SeqCst);
                Ok(())
            };
            s.run_task(scoped::Task::looping("looping", round).every(SEC)).unwrap();
            until(|| {
                clock.advance(SEC);
                s.count_of(inflight::Kind::Once) == 0
            });
            let stalls = &stalls;
            let watched = move |_: &Context| {
                until(|| stalls.load(Ordering::SeqCst) == 1);
                Ok(())
            };
            s.run_task(scoped::Task::once("watched", watched).stalled_after(SEC)).unwrap();
            until(|| {
                clock.advance(SEC);
                s.count_of(inflight::Kind::Once) == 0
            });
        })
        .unwrap();
    assert!(delayed.into_inner());
    assert_eq!((attempts.into_inner(), stalls.into_inner()), (3, 1));
    assert!(rounds.into_inner() >= 1);
}

#[test]
fn a_scope_waits_for_a_delayed_task_and_then_ends_its_loops() {
    let clock = ManualClock::new();
    let log = Mutex::new(Vec::new());
    thread::scope(|threads| {
        let ended = threads.spawn(|| {
            builder()
                .clock(&clock)
                .scope(|s| {
                    s.run_task(scoped::Task::looping((), |_| Ok(())).every(Duration::MAX)).unwrap();
                    let log = &log;
                    let later = move |_: &Context| Ok(log.lock().unwrap().push("the task"));
                    s.run_task(scoped::Task::once((), later).delay(SEC * 60)).unwrap();
                    log.lock().unwrap().push("the closure");
                })
                .unwrap();
            log.lock().unwrap().push("the scope");
        });
        until(|| log.lock().unwrap().len() == 1);
        assert!(!ended.is_finished());
        clock.advance(SEC * 60);
    });
    assert_eq!(log.into_inner().unwrap(), ["the closure", "the task", "the scope"]);
}

#[test]
fn meta_and_what_is_listed_borrow() {
    let names = [String::from("tea"), String::from("coffee")];
    let (open, gate) = mpsc::channel::<()>();
    scope(|s| {
        let listed = {
            s.run(&names[0], move |_| Ok(gate.recv_timeout(HANG)?)).unwrap();
            s.tasks()
        };
        assert_eq!(listed[0].meta().as_str(), "tea");
        let unfinished = s.wait_timeout(Duration::ZERO).unwrap_err();
        assert_eq!(unfinished.tasks()[0].meta().len(), 3);
        open.send(()).unwrap();
        s.close();
        let rejected = s.run(&names[1], |_| Ok(())).unwrap_err();
        assert_eq!(rejected.meta().as_str(), "coffee");
    });
}

// -- unwinding --------------------------------------------------------------------------------------------

#[test]
fn what_is_queued_or_delayed_still_runs_when_the_closure_panics() {
    let ran = AtomicUsize::new(0);
    let dropped = AtomicUsize::new(0);
    let unwound = catch_unwind(AssertUnwindSafe(|| {
        builder()
            .max_threads(1)
            .scope(|s| {
                let counted = Counted(&dropped);
                s.on_task_succeeded(move |_, ()| assert_eq!(counted.0.load(Ordering::SeqCst), 0));
                let run = |_: &Context| {
                    ran.fetch_add(1, Ordering::SeqCst);
                    Ok(())
                };
                for _ in 0..20 {
                    s.run((), run).unwrap();
                }
                s.run_task(scoped::Task::once((), run).delay(support::MS)).unwrap();
                s.run_task(scoped::Task::looping((), |_| Ok(())).every(SEC)).unwrap();
                panic_any("on purpose");
            })
            .unwrap();
    }));
    assert_eq!(unwound.unwrap_err().downcast_ref(), Some(&"on purpose"));
    assert_eq!((ran.into_inner(), dropped.into_inner()), (21, 1));
}

#[test]
fn panics_of_tasks_and_hooks_are_contained_and_the_closures_own_goes_on() {
    let failures = AtomicUsize::new(0);
    let unwound = catch_unwind(AssertUnwindSafe(|| {
        scope(|s| {
            s.on_task_failed(|_, (): &(), _| {
                failures.fetch_add(1, Ordering::SeqCst);
                panic!("in a hook");
            });
            s.run((), |_| panic!("in a task")).unwrap();
            panic_any(17_u32);
        })
    }));
    assert_eq!(unwound.unwrap_err().downcast_ref(), Some(&17_u32));
    assert_eq!(failures.into_inner(), 1);
}

#[test]
fn a_scope_may_be_opened_while_its_thread_unwinds() {
    struct CleansUp<'a>(&'a AtomicUsize);
    impl Drop for CleansUp<'_> {
        fn drop(&mut self) {
            let count = self.0;
            scope(|s| {
                for _ in 0..3 {
                    s.run((), move |_| add(count, 1)).unwrap();
                }
                assert_eq!(s.spawn((), |_| Ok(7)).unwrap().join().unwrap(), 7);
            });
        }
    }
    let count = AtomicUsize::new(0);
    let unwound = catch_unwind(AssertUnwindSafe(|| {
        let _cleans_up = CleansUp(&count);
        panic_any(1_u8);
    }));
    assert!(unwound.is_err());
    assert_eq!(count.into_inner(), 3);
}

// -- threads ----------------------------------------------------------------------------------------------

#[test]
fn all_of_its_threads_are_gone_when_it_returns() {
    let clock = ManualClock::new();
    let roles = Mutex::new(Vec::new());
    builder()
        .name("own")
        .clock(&clock)
        .scope(|s| {
            let note = || roles.lock().unwrap().push(thread::current().name().unwrap().to_owned());
            s.on_task_stalled(move |_, (): &(), _| note());
            let roles = &roles;
            let watched = move |_: &Context| {
                until(|| roles.lock().unwrap().len() == 1);
                Ok(note())
            };
            s.run_task(scoped::Task::once((), watched).stalled_after(SEC)).unwrap();
            until(|| {
                clock.advance(SEC);
                s.is_empty()
            });
        })
        .unwrap();
    // The system may take a moment to see their end.
    until(|| threads_named("own-") == 0);
    assert_eq!(roles.into_inner().unwrap(), ["own-notifier", "own-1"]);
}

#[test]
fn a_thread_that_is_refused_is_a_rejection_and_not_a_panic() {
    let words = ["tea", "coffee"];
    let lengths = Mutex::new(Vec::new());
    let refused = builder()
        .thread_gate(|_| Err(io::ErrorKind::WouldBlock.into()))
        .scope(|s| {
            for word in words {
                let push = |_: &Context| Ok(lengths.lock().unwrap().push(word.len()));
                let rejected = s.run(word, push).unwrap_err();
                assert!(matches!(rejected.reason(), Reason::Spawn(_)));
                rejected.run_here().unwrap();
            }
            s.stats().rejected
        })
        .unwrap();
    assert_eq!((refused, lengths.into_inner().unwrap()), (2, vec![3, 6]));
}

#[test]
fn the_other_policies_hold_in_a_scope() {
    let here = thread::current().id();
    let ids = Mutex::new(Vec::new());
    let note = |_: &Context| Ok(ids.lock().unwrap().push(thread::current().id()));
    builder().inline().scope(|s| (0..3).for_each(|_| assert!(s.run((), note).is_ok()))).unwrap();
    assert_eq!(std::mem::take(&mut *ids.lock().unwrap()), [here; 3]);
    builder().thread_per_task().scope(|s| (0..3).for_each(|_| assert!(s.run((), note).is_ok()))).unwrap();
    let mut fresh = ids.into_inner().unwrap();
    fresh.dedup();
    assert!(fresh.len() == 3 && !fresh.contains(&here));
}

// -- within tasks -----------------------------------------------------------------------------------------

#[test]
fn a_scopes_task_cannot_wait_for_its_scope() {
    let failures = Mutex::new(Vec::new());
    scope(|s| {
        s.on_task_failed(|_, meta: &&str, error| failures.lock().unwrap().push((*meta, error.to_string())));
        for (meta, wait) in [
            ("wait", (|s| s.wait()) as fn(&Scope<'_, '_, &'static str>)),
            ("shutdown", |s| drop(s.shutdown(Grace::drain(Duration::MAX)))),
        ] {
            let inner = s.clone();
            s.run(meta, move |_| Ok(wait(&inner))).unwrap();
            s.wait();
        }
    });
    let failures = failures.into_inner().unwrap();
    assert_eq!(failures.len(), 2);
    for (meta, error) in failures {
        assert!(error.contains(&format!("`{meta}` was called inside")), "{error}");
    }
}

#[test]
fn a_task_whose_further_task_is_rejected_may_run_it_there() {
    let sum = AtomicUsize::new(0);
    scope(|s| {
        let inner = s.clone();
        let sum = &sum;
        let handle = s.spawn((), move |_| {
            inner.close();
            let add = move |_: &Context| add(sum, 7);
            inner.run((), add).map(drop).or_else(|rejected| rejected.run_here())?;
            let jams = inner.run((), |_| Err("jammed".into())).map(drop);
            Ok(jams.or_else(|rejected| rejected.run_here())?)
        });
        assert_eq!(handle.unwrap().join().unwrap_err().to_string(), "jammed");
    });
    assert_eq!(sum.into_inner(), 7);
}

#[test]
fn a_tree_of_fork_and_join_that_borrows_ends_on_one_thread() {
    fn sum<'scope>(s: &Scope<'scope, '_, usize>, part: &'scope [u64]) -> Result<u64, inflight::BoxError> {
        if part.len() <= 3 {
            return Ok(part.iter().sum());
        }
        let (left, right) = part.split_at(part.len() / 2);
        let inner = s.clone();
        let forked = s.spawn(left.len(), move |_| sum(&inner, left)).map_err(|_| "the scope is closed")?;
        Ok(sum(s, right)? + forked.join()?)
    }
    let numbers: Vec<u64> = (0..2000).collect();
    let total = builder().max_threads(1).scope(|s| {
        let inner = s.clone();
        let numbers = &numbers;
        let handle = s.spawn(0, move |_| sum(&inner, numbers)).unwrap();
        let total = handle.join_timeout(HANG).expect("it ends").unwrap();
        assert_eq!(s.stats().peak_threads, 1);
        total
    });
    assert_eq!(total.unwrap(), 1999 * 1000);
}

#[test]
fn a_scope_within_a_scopes_task_borrows_from_it() {
    let rows = [[1, 2, 3], [4, 5, 6]];
    let total = AtomicUsize::new(0);
    scope(|s| {
        for row in &rows {
            let total = &total;
            s.run((), move |_| {
                let of_row = AtomicUsize::new(0);
                scope(|inner| {
                    for number in row {
                        let of_row = &of_row;
                        inner.run((), move |_| add(of_row, *number)).unwrap();
                    }
                });
                total.fetch_add(of_row.into_inner(), Ordering::SeqCst);
                Ok(())
            })
            .unwrap();
        }
    });
    assert_eq!(total.into_inner(), 21);
}

#[test]
fn after_a_shutdown_that_names_survivors_the_scope_still_waits_for_them() {
    let (open, gate) = mpsc::channel::<()>();
    let (starts, started) = mpsc::channel();
    let ended = AtomicBool::new(false);
    scope(|s| {
        let ended = &ended;
        let stuck = move |_: &Context| {
            starts.send(())?;
            gate.recv_timeout(HANG)?;
            Ok(ended.store(true, Ordering::SeqCst))
        };
        s.run("stuck", stuck).unwrap();
        started.recv_timeout(HANG).unwrap();
        let unfinished = s.shutdown(Grace::drain(Duration::ZERO)).unwrap_err();
        assert_eq!(*unfinished.tasks()[0].meta(), "stuck");
        assert_eq!(unfinished.tasks()[0].phase(), Phase::Cancelling);
        open.send(()).unwrap();
    });
    assert!(ended.into_inner());
}

#[test]
fn cancel_reaches_its_tasks() {
    let error = scope(|s| {
        let (starts, started) = mpsc::channel();
        let sleeps = move |cx: &Context| {
            starts.send(())?;
            Ok(cx.sleep(Duration::MAX)?)
        };
        let handle = s.spawn((), sleeps).unwrap();
        started.recv_timeout(HANG).unwrap();
        s.cancel();
        handle.join().unwrap_err()
    });
    assert!(matches!(error, TaskError::Cancelled));
}
