//! What nobody should do, and somebody will. Covered here:
//!
//! - a task that starts a task, 100,000 deep in sequence, with every policy; joins nested as deep as a stack allows;
//! - two managers that start work on each other, and drop each other's handles;
//! - a Meta, a closure and a value of 1 MiB, and of no size;
//! - thousands of handles of a manager, and of tasks, that are cloned and dropped while tasks end;
//! - wait, shutdown, drop and join of a manager inside its own task, its hooks, the drop of a capture.

#![allow(clippy::unwrap_used)]

mod common;

use common::{HANG, in_time};
use inflight::{Builder, Grace, Handle, Manager, TaskError};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::sync::{Arc, Mutex, mpsc};
use std::thread;
use std::time::Duration;

// -- depth ----------------------------------------------------------------------------------------------------

fn next(manager: Manager<usize>, depth: usize, ran: Arc<AtomicUsize>) {
    if depth == 0 {
        return;
    }
    let handle = manager.clone();
    let task = move |_: &inflight::Context| {
        ran.fetch_add(1, SeqCst);
        next(handle, depth - 1, ran);
        Ok(())
    };
    manager.run(depth, task).unwrap();
}

fn in_sequence(build: impl FnOnce() -> Builder<usize>, depth: usize) {
    let manager = build().build().unwrap();
    let ran = in_time(move || {
        let ran = Arc::new(AtomicUsize::new(0));
        next(manager.uncounted(), depth, Arc::clone(&ran));
        manager.wait();
        drop(manager);
        ran.load(SeqCst)
    });
    assert_eq!(ran, depth);
}

#[test]
fn a_hundred_thousand_tasks_that_start_each_other_in_sequence() {
    in_sequence(Manager::builder, 100_000);
    in_sequence(|| Manager::builder().max_threads(1), 100_000);
}

#[test]
fn ten_thousand_threads_that_start_each_other_in_sequence() {
    in_sequence(|| Manager::builder().thread_per_task(), 10_000);
}

#[test]
fn a_bounded_backlog_ends_a_sequence_only_where_it_is_full() {
    // Each leaves the queue before it starts the next.
    in_sequence(|| Manager::builder().max_threads(1).max_pending(1), 10_000);
}

#[test]
fn a_counted_handle_that_each_task_passes_on_keeps_the_manager_open_to_the_end() {
    let ran = Arc::new(AtomicUsize::new(0));
    let manager = Manager::builder().build().unwrap();
    let uncounted = manager.uncounted();
    // The last handle is dropped inside of the last task: that closes, and does not wait.
    next(manager, 1_000, Arc::clone(&ran));
    in_time(move || {
        while !uncounted.is_closed() {
            thread::yield_now();
        }
        uncounted.wait();
    });
    assert_eq!(ran.load(SeqCst), 1_000);
}

#[test]
fn joins_that_nest_run_on_the_joiners_stack() {
    fn sum(manager: &Manager<()>, depth: u64) -> u64 {
        if depth == 0 {
            return 0;
        }
        let handle = manager.uncounted();
        depth + manager.spawn((), move |_| Ok(sum(&handle, depth - 1))).unwrap().join().unwrap()
    }
    let total = in_time(|| {
        let manager = Manager::builder().max_threads(1).stack_size(16 << 20).build().unwrap();
        let handle = manager.uncounted();
        manager.spawn((), move |_| Ok(sum(&handle, 1_000))).unwrap().join().unwrap()
    });
    assert_eq!(total, 500_500);
}

// -- two managers -----------------------------------------------------------------------------------------------

#[test]
fn two_managers_that_start_work_on_each_other() {
    fn volley(here: Manager<usize>, there: Manager<usize>, left: usize, hits: Arc<AtomicUsize>) {
        if left == 0 {
            return;
        }
        let on = here.clone();
        on.run(left, move |_| {
            hits.fetch_add(1, SeqCst);
            volley(there, here, left - 1, hits);
            Ok(())
        })
        .unwrap();
    }
    for threads in [1, 4] {
        let hits = in_time(move || {
            let build = || Manager::builder().max_threads(threads).build().unwrap();
            let (one, two) = (build(), build());
            let hits = Arc::new(AtomicUsize::new(0));
            for _ in 0..10 {
                volley(one.uncounted(), two.uncounted(), 1_000, Arc::clone(&hits));
                volley(two.uncounted(), one.uncounted(), 1_000, Arc::clone(&hits));
            }
            // That one is quiet says nothing of the other, whose tasks may start the next there.
            while hits.load(SeqCst) < 20_000 {
                one.wait();
                two.wait();
            }
            drop((one, two));
            hits.load(SeqCst)
        });
        assert_eq!(hits, 20_000);
    }
}

#[test]
fn two_managers_whose_hooks_own_and_wait_for_each_other() {
    in_time(|| {
        let (one, two) = (Manager::builder().build().unwrap(), Manager::builder().build().unwrap());
        let other = two.uncounted();
        one.on_task_succeeded(move |_, &nth: &usize| {
            if nth > 0 {
                other.run(nth - 1, |_| Ok(())).unwrap();
            }
        });
        let other = one.uncounted();
        two.on_task_succeeded(move |_, &nth: &usize| {
            // This is no call-out of the other: it may be waited for.
            if nth > 0 {
                other.spawn(0, |_| Ok(())).unwrap().join().unwrap();
            }
        });
        for nth in 0..100 {
            one.run(nth, |_| Ok(())).unwrap();
        }
        one.wait();
        two.wait();
        assert_eq!((one.stats().hook_panics, two.stats().hook_panics), (0, 0));
    });
}

#[test]
fn a_manager_is_dropped_inside_of_the_others_task() {
    in_time(|| {
        let (outer, ran) = (Manager::builder().max_threads(1).build().unwrap(), Arc::default());
        let count: Arc<AtomicUsize> = Arc::clone(&ran);
        outer
            .run((), move |_| {
                let inner = Manager::builder().max_threads(1).build().unwrap();
                for _ in 0..100 {
                    let count = Arc::clone(&count);
                    inner.run((), move |_| Ok(_ = count.fetch_add(1, SeqCst))).unwrap();
                }
                // It waits: a task of the inner one is none of the outer's.
                drop(inner);
                assert_eq!(count.load(SeqCst), 100);
                Ok(())
            })
            .unwrap();
        outer.wait();
        assert_eq!((outer.stats().succeeded, ran.load(SeqCst)), (1, 100));
    });
}

// -- size -----------------------------------------------------------------------------------------------------

const MIB: usize = 1 << 20;

#[derive(Clone)]
struct Large([u8; MIB]);

#[test]
fn a_meta_of_a_mebibyte() {
    // Built on a stack that has room for the copies that an unoptimized build makes.
    let sum = thread::Builder::new().stack_size(64 * MIB).spawn(|| {
        let manager = Manager::builder().stack_size(64 * MIB).build().unwrap();
        let (says, said) = mpsc::channel();
        manager.on_task_succeeded(move |_, meta: &Large| says.send(meta.0[MIB - 1]).unwrap());
        for nth in 0..4 {
            manager.run(Large([nth; MIB]), |_| Ok(())).unwrap();
        }
        assert!(manager.tasks().iter().all(|task| task.meta().0.len() == MIB));
        manager.close();
        let rejected = manager.run(Large([9; MIB]), |_| Ok(())).unwrap_err();
        assert!(size_of_val(&rejected) <= 16);
        assert_eq!(rejected.meta().0[MIB - 1], 9);
        drop(manager);
        said.iter().map(usize::from).sum::<usize>()
    });
    assert_eq!(sum.unwrap().join().unwrap(), 6);
}

#[test]
fn a_closure_and_a_value_of_a_mebibyte() {
    let sum = thread::Builder::new().stack_size(64 * MIB).spawn(|| {
        // The workers' stacks are the default's: what is large lives in a box.
        let manager = Manager::builder().max_threads(2).build().unwrap();
        let handles: Vec<_> = (0..4_u8)
            .map(|nth| {
                let large = [nth; MIB];
                manager
                    .spawn((), move |_| Ok(large.iter().map(|&byte| usize::from(byte)).sum::<usize>()))
                    .unwrap()
            })
            .collect();
        handles.into_iter().map(|handle| handle.join().unwrap()).sum::<usize>()
    });
    assert_eq!(sum.unwrap().join().unwrap(), 6 * MIB);
    let value = thread::Builder::new().stack_size(64 * MIB).spawn(|| {
        let manager = Manager::builder().stack_size(64 * MIB).build().unwrap();
        manager.spawn((), |_| Ok(Large([7; MIB]))).unwrap().join().unwrap().0[MIB - 1]
    });
    assert_eq!(value.unwrap().join().unwrap(), 7);
}

#[test]
fn a_meta_and_a_closure_without_size() {
    static RAN: AtomicUsize = AtomicUsize::new(0);
    struct Nothing;
    let manager = Manager::builder().build().unwrap();
    for _ in 0..1_000 {
        manager.run(Nothing, |_| Ok(_ = RAN.fetch_add(1, SeqCst))).unwrap();
    }
    manager.wait();
    assert_eq!(RAN.load(SeqCst), 1_000);
    let ids: std::collections::HashSet<_> =
        (0..100).map(|_| manager.spawn(Nothing, |_| Ok(())).unwrap().id()).collect();
    assert_eq!(ids.len(), 100, "each is told from the others all the same");
}

// -- handles ----------------------------------------------------------------------------------------------------

#[test]
fn thousands_of_handles_are_cloned_and_dropped_while_tasks_end() {
    for _ in 0..20 {
        let ran = in_time(|| {
            let manager = Manager::builder().max_threads(4).keep_alive(Duration::ZERO).build().unwrap();
            let ran = Arc::new(AtomicUsize::new(0));
            thread::scope(|scope| {
                for _ in 0..4 {
                    let (manager, ran) = (manager.clone(), Arc::clone(&ran));
                    scope.spawn(move || {
                        for nth in 0..250 {
                            let clones: Vec<_> = (0..4).map(|_| manager.clone()).collect();
                            let ran = Arc::clone(&ran);
                            manager.run(nth, move |_| Ok(_ = ran.fetch_add(1, SeqCst))).unwrap();
                            drop(clones);
                        }
                    });
                }
                // It goes while the others have theirs.
                drop(manager);
            });
            // The last of the clones has waited.
            ran.load(SeqCst)
        });
        assert_eq!(ran, 1_000);
    }
}

#[test]
fn handles_of_tasks_are_joined_cancelled_and_dropped_from_everywhere() {
    let (ended, answered, stats) = in_time(|| {
        let manager = Manager::builder().max_threads(3).build().unwrap();
        let ended = Arc::new(AtomicUsize::new(0));
        let (succeeded, failed) = (Arc::clone(&ended), Arc::clone(&ended));
        manager
            .on_task_succeeded(move |_, _| _ = succeeded.fetch_add(1, SeqCst))
            .on_task_failed(move |_, _, _| _ = failed.fetch_add(1, SeqCst));
        // Not std's, whose slow path ThreadSanitizer cannot see.
        let handles: parking_lot::Mutex<Vec<Handle<usize>>> = parking_lot::Mutex::default();
        let answered = AtomicUsize::new(0);
        thread::scope(|scope| {
            for from in 0..2 {
                let (manager, handles) = (&manager, &handles);
                scope.spawn(move || {
                    for nth in 0..2_000 {
                        let handle = manager.spawn(from, move |_| Ok(nth)).unwrap();
                        handles.lock().push(handle);
                    }
                });
            }
            for way in 0..2 {
                let (handles, answered) = (&handles, &answered);
                scope.spawn(move || {
                    let mut taken = 0;
                    while taken < 2_000 {
                        let Some(handle) = handles.lock().pop() else {
                            thread::yield_now();
                            continue;
                        };
                        taken += 1;
                        match (taken + way) % 4 {
                            0 => drop(handle),
                            1 => handle.cancel(),
                            2 => {
                                handle.cancel();
                                let outcome = handle.join();
                                assert!(matches!(outcome, Ok(_) | Err(TaskError::Cancelled)));
                                answered.fetch_add(1, SeqCst);
                            }
                            _ => {
                                assert!(handle.join().is_ok());
                                answered.fetch_add(1, SeqCst);
                            }
                        }
                    }
                });
            }
        });
        manager.wait();
        (ended.load(SeqCst), answered.into_inner(), manager.stats())
    });
    assert_eq!((ended, answered), (4_000, 2_000));
    assert_eq!((stats.added, stats.succeeded + stats.failed), (4_000, 4_000));
}

// -- inside of itself -------------------------------------------------------------------------------------------

/// All that waits for the manager, on a thread that is inside of it; answers what has panicked.
fn waits(manager: &Manager<u32>) -> Vec<&'static str> {
    let panics = |name, code: &dyn Fn()| catch_unwind(AssertUnwindSafe(code)).is_err().then_some(name);
    let now = Grace::drain(Duration::ZERO);
    [
        panics("wait", &|| manager.wait()),
        panics("wait_timeout", &|| drop(manager.wait_timeout(HANG))),
        panics("shutdown", &|| drop(manager.shutdown(now))),
        panics("drop", &|| drop(manager.clone())),
    ]
    .into_iter()
    .flatten()
    .collect()
}

/// Waits for its manager when it is dropped.
struct Waits(Manager<u32>, mpsc::Sender<Vec<&'static str>>);

impl Drop for Waits {
    fn drop(&mut self) {
        self.1.send(waits(&self.0)).unwrap();
    }
}

#[test]
fn whoever_waits_for_its_own_manager_is_told_so() {
    let answers = in_time(|| {
        let manager = Manager::builder().max_threads(1).build().unwrap();
        let (says, said) = mpsc::channel();
        let (hook, hook_says) = (manager.uncounted(), says.clone());
        manager.on_task_added(move |_, _| hook_says.send(waits(&hook)).unwrap());
        let (hook, hook_says) = (manager.uncounted(), says.clone());
        manager.on_task_succeeded(move |_, _| hook_says.send(waits(&hook)).unwrap());
        let (task, task_says) = (manager.uncounted(), says.clone());
        let capture = Waits(manager.uncounted(), says.clone());
        manager
            .run(1, move |_| {
                let _capture = capture;
                task_says.send(waits(&task)).unwrap();
                Ok(())
            })
            .unwrap();
        // Outside it waits.
        manager.wait();
        let value = Waits(manager.uncounted(), says.clone());
        drop(manager.spawn(2, move |_| Ok(value)).unwrap());
        manager.wait();
        drop((manager, says));
        said.into_iter().collect::<Vec<_>>()
    });
    // Added, task, capture, succeeded; and once more added, the value (wherever it goes), succeeded.
    assert_eq!(answers.len(), 7);
    let told = vec!["wait", "wait_timeout", "shutdown"];
    assert!(answers.iter().filter(|answer| **answer == told).count() >= 6, "{answers:?}");
}

#[test]
fn a_task_that_joins_itself_is_told_so() {
    let outcome = in_time(|| {
        let manager = Manager::builder().build().unwrap();
        let (give, given) = mpsc::channel::<Handle<()>>();
        let handle = manager.spawn((), move |_| Ok(given.recv()?.join()?)).unwrap();
        give.send(handle).unwrap();
        manager.wait();
        manager.stats()
    });
    assert_eq!((outcome.failed, outcome.succeeded), (1, 0));
}

/// Joins, when it is dropped, the task that it was captured by.
struct Joins(mpsc::Receiver<Handle<()>>, mpsc::Sender<&'static str>);

impl Drop for Joins {
    fn drop(&mut self) {
        let handle = self.0.recv().unwrap();
        let answer = match catch_unwind(AssertUnwindSafe(|| handle.join())) {
            Err(_) => "told so",
            Ok(Err(TaskError::Abandoned)) => "let go",
            Ok(_) => "answered",
        };
        self.1.send(answer).unwrap();
    }
}

#[test]
fn a_capture_that_joins_its_own_task_is_told_so() {
    for (panics, cancels, expected) in
        [(false, false, "told so"), (true, false, "let go"), (false, true, "told so")]
    {
        let answer = in_time(move || {
            let manager = Manager::builder().max_threads(1).build().unwrap();
            let (open, gate) = mpsc::channel::<()>();
            manager.run((), move |_| Ok(gate.recv()?)).unwrap();
            let ((gives, given), (says, said)) = (mpsc::channel(), mpsc::channel());
            let capture = Joins(given, says);
            let task = move |_: &inflight::Context| {
                let _capture = &capture;
                assert!(!panics, "on purpose");
                Ok(())
            };
            gives.send(manager.spawn((), task).unwrap()).unwrap();
            if cancels {
                // Then it never runs.
                manager.cancel();
            }
            open.send(()).unwrap();
            said.recv().unwrap()
        });
        assert_eq!(answer, expected, "it panics: {panics}, it is cancelled: {cancels}");
    }
}

#[test]
fn the_last_handle_is_dropped_inside_of_its_task_or_its_hook() {
    for in_hook in [false, true] {
        let ran = in_time(move || {
            let manager = Manager::builder().max_threads(1).build().unwrap();
            let uncounted = manager.uncounted();
            let ran = Arc::new(AtomicUsize::new(0));
            let own = Arc::new(Mutex::new(None));
            let (hook, task) = (Arc::clone(&own), Arc::clone(&own));
            let let_go = |own: &Mutex<Option<Manager<u32>>>| {
                let manager = own.lock().unwrap().take();
                drop(manager);
            };
            manager.on_task_succeeded(move |_, &meta| {
                if in_hook && meta == 0 {
                    let_go(&hook);
                }
            });
            let (open, gate) = mpsc::channel::<()>();
            manager
                .run(0, move |_| {
                    gate.recv()?;
                    if !in_hook {
                        let_go(&task);
                    }
                    Ok(())
                })
                .unwrap();
            for meta in 1..10 {
                let ran = Arc::clone(&ran);
                manager.run(meta, move |_| Ok(_ = ran.fetch_add(1, SeqCst))).unwrap();
            }
            *own.lock().unwrap() = Some(manager);
            open.send(()).unwrap();
            while !uncounted.is_closed() {
                thread::yield_now();
            }
            uncounted.wait();
            ran.load(SeqCst)
        });
        assert_eq!(ran, 9, "what was accepted still runs");
    }
}
