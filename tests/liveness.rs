//! The rules that keep it live: no task waits for a thread that does not come, and nobody waits for a task that
//! has gone. On each policy, with `keep_alive` zero, and with threads that are refused at random:
//! - tasks that block on tasks they started;
//! - the last thread stays for what falls due later;
//! - places in the backlog are passed on;
//! - the ends of threads, and the destructors of their thread-locals.

#![allow(clippy::unwrap_used)]

mod common;

use common::{Drops, HANG, busy, gated, in_time, until};
use inflight::{BoxError, Builder, Context, Grace, Manager, ManualClock, Reason, Retry, Task};
use std::cell::RefCell;
use std::io;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, mpsc};
use std::thread;
use std::time::Duration;

const SEC: Duration = Duration::from_secs(1);

/// A gate for threads: who asks, and what it is told.
fn gate_by(
    refuses: impl Fn(&str) -> bool + Send + Sync + 'static,
) -> impl Fn(&str) -> io::Result<()> + Send + Sync + 'static {
    move |name| match refuses(name) {
        true => Err(io::ErrorKind::WouldBlock.into()),
        false => Ok(()),
    }
}

/// Refuses every thread while the flag is up.
fn flag_gate() -> (Arc<AtomicBool>, impl Fn(&str) -> io::Result<()> + Send + Sync + 'static) {
    let flag = Arc::new(AtomicBool::new(false));
    let refuses = Arc::clone(&flag);
    (flag, gate_by(move |_| refuses.load(Ordering::SeqCst)))
}

// -- growth ----------------------------------------------------------------------------------------------

#[test]
fn tasks_that_block_on_tasks_they_started_get_the_threads_for_it() {
    fn nest(manager: &Manager<u32>, depth: u32) -> Result<(), BoxError> {
        if depth > 0 {
            let (says, said) = mpsc::channel();
            let inner = manager.clone();
            manager.run(depth, move |_| {
                nest(&inner, depth - 1)?;
                Ok(says.send(())?)
            })?;
            said.recv_timeout(HANG)?;
        }
        Ok(())
    }
    for per_task in [false, true] {
        let builder = Manager::builder();
        let manager = if per_task { builder.thread_per_task() } else { builder }.build().unwrap();
        let inner = manager.uncounted();
        manager.run(99, move |_| nest(&inner, 60)).unwrap();
        manager.wait_timeout(HANG).unwrap();
        assert_eq!((manager.stats().succeeded, manager.stats().failed), (61, 0));
    }
}

#[test]
fn a_burst_from_inside_of_a_task_that_then_blocks_on_it_is_not_left_to_that_task() {
    let manager: Manager<u32> = Manager::new();
    let inner = manager.uncounted();
    let bursts = move |_: &Context| {
        for _ in 0..50 {
            let (says, said) = mpsc::channel();
            for n in 0..20 {
                let says = says.clone();
                inner.run(n, move |_| Ok(says.send(())?))?;
            }
            for _ in 0..20 {
                said.recv_timeout(HANG)?;
            }
        }
        Ok(())
    };
    manager.spawn(0, bursts).unwrap().join().unwrap();
    manager.wait();
    assert_eq!(manager.stats().failed, 0);
}

#[test]
fn a_blocked_task_holds_nothing_up_on_any_mix_of_short_and_long_ones() {
    let manager = Manager::builder().max_threads(12).build().unwrap();
    let gates: Vec<_> = (0..11)
        .map(|n| {
            let (gate, task) = gated();
            manager.run(n, task).unwrap();
            for _ in 0..200 {
                manager.run(100, |_| Ok(())).unwrap();
            }
            gate
        })
        .collect();
    // Eleven of twelve threads are blocked, and all the short ones get done on the twelfth.
    for gate in &gates {
        gate.started();
    }
    until(|| manager.len() == 11);
    drop(gates);
    manager.wait_timeout(HANG).unwrap();
    assert!(manager.stats().peak_threads <= 12);
}

// -- no thread to be had ---------------------------------------------------------------------------------

#[test]
fn the_last_thread_stays_for_what_falls_due_later() {
    let clock = ManualClock::new();
    let (refuses, gate) = flag_gate();
    let manager =
        Manager::builder().clock(&clock).keep_alive(Duration::ZERO).thread_gate(gate).build().unwrap();
    let (says, said) = mpsc::channel();
    let delayed = |meta: &'static str| {
        let says = says.clone();
        Task::once(meta, move |_| Ok(says.send(meta)?)).delay(SEC * 60)
    };
    manager.run_task(delayed("first")).unwrap();
    // From here on there is no other thread to be had, neither for it nor for what it leads to.
    refuses.store(true, Ordering::SeqCst);
    for _ in 0..50 {
        clock.advance(SEC);
        thread::yield_now();
    }
    assert_eq!(manager.stats().threads, 1);
    clock.advance(SEC * 10);
    assert_eq!(said.recv_timeout(HANG).unwrap(), "first");
    manager.wait();
}

#[test]
fn with_neither_worker_nor_supervisor_to_be_had_the_next_submit_asks_again() {
    let clock = ManualClock::new();
    let (refuses, gate) = flag_gate();
    let manager = Manager::builder().clock(&clock).thread_gate(gate).build().unwrap();
    let first = busy(&manager, "first");
    refuses.store(true, Ordering::SeqCst);
    let (second, waits) = gated();
    manager.run("second", waits).unwrap();
    assert!(!second.has_started());
    refuses.store(false, Ordering::SeqCst);
    // A refusal holds for a while.
    clock.advance(SEC);
    let (third, waits) = gated();
    manager.run("third", waits).unwrap();
    second.started();
    second.open();
    third.started();
    third.open();
    first.open();
    manager.wait_timeout(Duration::MAX).unwrap();
}

#[test]
fn a_refused_thread_is_asked_for_ever_less_often() {
    let clock = ManualClock::new();
    let asked = Arc::new(AtomicUsize::new(0));
    let counts = Arc::clone(&asked);
    let gate =
        gate_by(move |name| !name.ends_with("supervisor") && counts.fetch_add(1, Ordering::SeqCst) > 0);
    let manager = Manager::builder().clock(&clock).thread_gate(gate).build().unwrap();
    let first = busy(&manager, 0);
    // Each submit may ask; in the 5 s that pass, 10 + 20 + … + 640 ms and then each second allow some 12.
    for n in 0..500 {
        manager.run(n, |_| Ok(())).unwrap();
        clock.advance(Duration::from_millis(10));
    }
    let asked = asked.load(Ordering::SeqCst);
    assert!((2..=14).contains(&asked), "{asked}");
    first.open();
    manager.wait_timeout(Duration::MAX).unwrap();
    assert_eq!(manager.stats().succeeded, 501);
}

/// Submits from several threads, while threads are refused at random, and ends it in one of several ways.
fn survives(build: fn(Builder<u32>) -> Builder<u32>, seed: usize) {
    let asked = AtomicUsize::new(seed);
    // Two of five are refused.
    let gate = gate_by(move |_| asked.fetch_add(1, Ordering::SeqCst) * 7 % 5 < 2);
    let builder = Manager::builder().keep_alive(Duration::ZERO).thread_gate(gate);
    let manager = build(builder).build().unwrap();
    let ended = Arc::new(AtomicUsize::new(0));
    let (succeeds, fails) = (Arc::clone(&ended), Arc::clone(&ended));
    manager.on_task_succeeded(move |_, _| {
        succeeds.fetch_add(1, Ordering::SeqCst);
    });
    manager.on_task_failed(move |_, _, _| {
        fails.fetch_add(1, Ordering::SeqCst);
    });
    let drops = Arc::new(Drops::default());
    let submitters: Vec<_> = (0..3)
        .map(|_| {
            let (manager, drops) = (manager.clone(), Arc::clone(&drops));
            thread::spawn(move || {
                let mut accepted = 0;
                for n in 0..30_u32 {
                    let capture = drops.counted();
                    let task = Task::retrying(n, move |cx| {
                        let _capture = &capture;
                        if n % 4 == 0 && cx.attempt() == 1 { Err("again".into()) } else { Ok(()) }
                    });
                    let retry = Retry::attempts(2).delays(|| [Duration::from_micros(10)]);
                    let task = if n % 4 == 0 { task.retry(retry) } else { task };
                    let task = if n % 5 == 0 { task.delay(Duration::from_micros(30)) } else { task };
                    match manager.run_task(task) {
                        Ok(_) => accepted += 1,
                        Err(rejected) => {
                            assert!(matches!(rejected.reason(), Reason::Spawn(_) | Reason::Closed))
                        }
                    }
                }
                accepted
            })
        })
        .collect();
    if seed % 3 == 0 {
        // In the middle of it.
        manager.shutdown(Grace::drain(HANG)).unwrap();
    }
    let accepted: usize = submitters.into_iter().map(|submitter| submitter.join().unwrap()).sum();
    let watch = manager.uncounted();
    drop(manager);
    assert_eq!((ended.load(Ordering::SeqCst), drops.count()), (accepted, 90));
    assert_eq!((watch.len(), watch.stats().threads), (0, 0));
}

#[test]
fn elastic_threads_survive_refusals() {
    in_time(|| (0..60).for_each(|seed| survives(|builder| builder, seed)));
}

#[test]
fn a_fixed_pool_survives_refusals() {
    in_time(|| (0..60).for_each(|seed| survives(|builder| builder.max_threads(2).max_pending(5), seed)));
}

#[test]
fn a_thread_per_task_survives_refusals() {
    in_time(|| (0..60).for_each(|seed| survives(Builder::thread_per_task, seed)));
}

#[test]
fn watched_tasks_survive_refusals() {
    in_time(|| (0..60).for_each(|seed| survives(|builder| builder.stalled_after(Duration::ZERO), seed)));
}

// -- the backlog -----------------------------------------------------------------------------------------

#[test]
fn a_submitter_that_goes_away_passes_its_place_on() {
    for _ in 0..30 {
        let gate = gate_by(|name| name.ends_with("supervisor"));
        let manager = Manager::builder().max_threads(1).max_pending(1).thread_gate(gate).build().unwrap();
        let gate = busy(&manager, "runs");
        manager.run("fills it", |_| Ok(())).unwrap();
        // Of those who wait for room, every other is turned away when its turn comes.
        let submitters: Vec<_> = (0..6)
            .map(|n| {
                let manager = manager.clone();
                thread::spawn(move || {
                    let task = Task::once("waits for room", |_| Ok(()));
                    let task = if n % 2 == 0 { task.delay(Duration::ZERO) } else { task };
                    manager.run_task(task).is_ok()
                })
            })
            .collect();
        thread::yield_now();
        gate.open();
        let accepted = in_time(move || {
            submitters.into_iter().filter_map(|one| one.join().unwrap().then_some(())).count()
        });
        assert_eq!(accepted, 3);
        manager.wait_timeout(HANG).unwrap();
    }
}

#[test]
fn a_cancelled_handle_makes_room_for_those_who_wait() {
    let manager = Manager::builder().max_threads(1).max_pending(1).build().unwrap();
    let gate = busy(&manager, "runs");
    let queued = manager.spawn("queued", |_| Ok(())).unwrap();
    let other = manager.clone();
    let waits = thread::spawn(move || other.run("waits for room", |_| Ok(())).is_ok());
    thread::yield_now();
    queued.cancel();
    assert!(in_time(move || waits.join().unwrap()));
    gate.open();
    manager.wait();
}

// -- the ends of threads ---------------------------------------------------------------------------------

thread_local!(static LAST_WORDS: RefCell<Option<Box<dyn LastWords>>> = const { RefCell::new(None) });

trait LastWords {}

/// Runs its closure when its thread's locals are destroyed.
struct OnExit<F: FnMut()>(F);

impl<F: FnMut()> LastWords for OnExit<F> {}

impl<F: FnMut()> Drop for OnExit<F> {
    fn drop(&mut self) {
        (self.0)();
    }
}

fn on_exit(code: impl FnMut() + 'static) {
    LAST_WORDS.set(Some(Box::new(OnExit(code))));
}

#[test]
fn the_destructor_of_a_workers_thread_local_may_wait_for_the_manager() {
    let manager: Manager<&str> = Manager::builder().keep_alive(Duration::ZERO).build().unwrap();
    let (says, said) = mpsc::channel();
    let inner = manager.uncounted();
    let task = move |_: &Context| {
        on_exit(move || {
            // The worker has left by now, so that this neither deadlocks nor panics.
            inner.wait();
            let outcome = inner.shutdown(Grace::drain(HANG)).is_ok();
            let _ = says.send(outcome);
        });
        Ok(())
    };
    manager.run("leaves last words", task).unwrap();
    assert!(said.recv_timeout(HANG).unwrap());
    assert!(manager.is_closed());
}

#[test]
fn the_destructor_of_a_workers_thread_local_may_drop_the_last_handle() {
    for build in [|builder: Builder<()>| builder, Builder::thread_per_task] {
        let manager: Manager<()> = build(Manager::builder().keep_alive(Duration::ZERO)).build().unwrap();
        let (watch, last) = (manager.uncounted(), manager.clone());
        let (says, said) = mpsc::channel();
        let (gate, waits) = gated();
        let task = move |cx: &Context| {
            let mut last = Some(last);
            on_exit(move || {
                drop(last.take());
                let _ = says.send(());
            });
            waits(cx)
        };
        manager.run((), task).unwrap();
        manager.detach();
        gate.open();
        said.recv_timeout(HANG).expect("it does not wait for its own thread");
        assert!(watch.is_closed());
        until(|| watch.stats().threads == 0);
    }
}

#[test]
fn managers_that_come_and_go_leave_nothing_behind() {
    in_time(|| {
        for round in 0..300_u32 {
            let manager = Manager::builder().name("fleeting").build().unwrap();
            let watch = manager.uncounted();
            for n in 0..round % 7 {
                manager.run(n, |_| Ok(())).unwrap();
            }
            if round % 3 == 0 {
                manager.run_task(Task::once(9, |_| Ok(())).delay(Duration::from_micros(1))).unwrap();
            }
            drop(manager);
            assert_eq!((watch.len(), watch.stats().threads), (0, 0));
        }
    });
    assert!(common::none_is_left("fleeting"));
}

#[test]
fn a_manager_is_at_rest_between_floods_and_works_again_after_each() {
    let manager = Manager::builder().keep_alive(Duration::ZERO).build().unwrap();
    for _ in 0..40 {
        for n in 0..300 {
            manager.run(n, |_| Ok(())).unwrap();
        }
        manager.wait_timeout(HANG).unwrap();
        until(|| manager.stats().threads == 0);
    }
    assert_eq!(manager.stats().succeeded, 12_000);
}
