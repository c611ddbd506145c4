//! Threads: how they grow, what bounds them, when they leave, and what happens where none is to be had.

#![allow(clippy::unwrap_used)]

mod common;

use common::{HANG, busy, gated, none_is_left, threads_named, until};
use inflight::{BuildError, Context, Manager, ManualClock, Reason, Task};
use std::io;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Barrier, mpsc};
use std::thread::ThreadId;
use std::time::Duration;

/// Refuses workers, though not the supervisor, while the flag is up.
fn refusing() -> (Arc<AtomicBool>, impl Fn(&str) -> io::Result<()> + Send + Sync + 'static) {
    let refuses = Arc::new(AtomicBool::new(false));
    let flag = Arc::clone(&refuses);
    let gate = move |name: &str| match flag.load(Ordering::SeqCst) && !name.ends_with("supervisor") {
        true => Err(io::ErrorKind::WouldBlock.into()),
        false => Ok(()),
    };
    (refuses, gate)
}

#[test]
fn there_is_none_before_the_first_task() {
    let manager: Manager<()> = Manager::builder().name("none").build().unwrap();
    assert_eq!((manager.stats().threads, threads_named("none")), (0, 0));
}

#[test]
fn a_thousand_blocked_tasks_have_a_thread_each() {
    let manager = Manager::new();
    let barrier = Arc::new(Barrier::new(1_001));
    for n in 0..1_000 {
        let barrier = Arc::clone(&barrier);
        manager
            .run(n, move |_| {
                barrier.wait();
                Ok(())
            })
            .unwrap();
    }
    // Hangs unless all of them run at once.
    barrier.wait();
    manager.wait_timeout(HANG).unwrap();
    assert_eq!(manager.stats().peak_threads, 1_000);
}

#[test]
fn an_idle_thread_is_used_again() {
    let manager = Manager::new();
    let ids: Vec<ThreadId> = (0..20)
        .map(|_| {
            let id = manager.spawn((), |_| Ok(std::thread::current().id())).unwrap().join().unwrap();
            manager.wait();
            id
        })
        .collect();
    assert!(ids.windows(2).all(|pair| pair[0] == pair[1]));
    assert_eq!(manager.stats().peak_threads, 1);
}

#[test]
fn a_flood_of_tiny_tasks_is_left_to_a_few_threads() {
    let manager = Manager::new();
    for n in 0..50_000 {
        manager.run(n, |_| Ok(())).unwrap();
    }
    manager.wait_timeout(HANG).unwrap();
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    // A loaded machine may keep the workers from their cores for some ticks, which looks like blocking.
    assert!(manager.stats().peak_threads <= 64 + 4 * cores, "{:?}", manager.stats());
}

#[test]
fn idle_threads_end_after_keep_alive_and_none_is_left() {
    let clock = ManualClock::new();
    let keep_alive = Duration::from_secs(5);
    let manager = Manager::builder().name("ages").clock(&clock).keep_alive(keep_alive).build().unwrap();
    let gates: Vec<_> = (0..5)
        .map(|n| {
            let (gate, task) = gated();
            manager.run(n, task).unwrap();
            gate.started();
            gate
        })
        .collect();
    drop(gates);
    manager.wait();
    assert_eq!(manager.stats().threads, 5);
    while manager.stats().threads > 0 {
        clock.advance(keep_alive);
        std::thread::yield_now();
    }
    assert!(none_is_left("ages"));
    manager.run(9, |_| Ok(())).unwrap();
    manager.wait();
}

#[test]
fn keep_alive_zero_is_no_special_case() {
    let manager = Manager::builder().keep_alive(Duration::ZERO).build().unwrap();
    for n in 0..200 {
        manager.run(n, |_| Ok(())).unwrap();
        manager.run_task(Task::once(n, |_| Ok(())).delay(Duration::from_micros(10))).unwrap();
    }
    manager.wait_timeout(HANG).unwrap();
    while manager.stats().threads > 0 {
        std::thread::yield_now();
    }
}

#[test]
fn keep_alive_zero_needs_no_clock_that_moves() {
    let manager = Manager::builder().keep_alive(Duration::ZERO).clock(&ManualClock::new()).build().unwrap();
    manager.run((), |_| Ok(())).unwrap();
    manager.wait();
    until(|| manager.stats().threads == 0);
}

#[test]
fn max_threads_bounds_them_and_the_rest_waits() {
    let manager = Manager::builder().max_threads(2).build().unwrap();
    let running = Arc::new(AtomicUsize::new(0));
    for n in 0..200 {
        let running = Arc::clone(&running);
        manager
            .run(n, move |_| {
                assert!(running.fetch_add(1, Ordering::SeqCst) < 2);
                std::thread::yield_now();
                running.fetch_sub(1, Ordering::SeqCst);
                Ok(())
            })
            .unwrap();
    }
    manager.wait_timeout(HANG).unwrap();
    assert_eq!((manager.stats().succeeded, manager.stats().max_threads), (200, 2));
    assert!(manager.stats().peak_threads <= 2);
}

#[test]
fn the_cap_holds_whatever_is_asked_for() {
    let all = Manager::<()>::builder().max_threads(usize::MAX).build().unwrap();
    let default: Manager<()> = Manager::new();
    assert_eq!(all.stats().max_threads, default.stats().max_threads);
    if let Ok(maps) = std::fs::read_to_string("/proc/sys/vm/max_map_count") {
        assert!(default.stats().max_threads <= maps.trim().parse::<usize>().unwrap() / 8);
    }
}

#[test]
fn threads_bear_the_managers_name_and_a_number() {
    let names = |manager: &Manager<()>| {
        let name = |_: &Context| Ok(std::thread::current().name().map(str::to_owned));
        manager.spawn((), name).unwrap().join().unwrap()
    };
    assert_eq!(names(&Manager::new()).as_deref(), Some("inflight-1"));
    let mail = Manager::builder().name("mail").build().unwrap();
    assert_eq!(names(&mail).as_deref(), Some("mail-1"));
}

#[test]
fn stack_size_is_granted() {
    fn deep(depth: u32) -> u64 {
        let frame = std::hint::black_box([u64::from(depth); 512]);
        if depth == 0 { frame[0] } else { deep(depth - 1) + frame[511] }
    }
    let manager = Manager::builder().stack_size(64 << 20).build().unwrap();
    // Some 8 MiB of frames, beyond the 2 MiB of a thread by default.
    let sum = manager.spawn((), |_| Ok(deep(2_000))).unwrap().join().unwrap();
    assert_eq!(sum, 2_000 * 2_001 / 2);
}

#[test]
fn settings_that_make_no_sense_are_typed_errors() {
    let build = || Manager::<()>::builder();
    assert_eq!(build().max_threads(0).build().unwrap_err(), BuildError::NoThreads);
    assert_eq!(build().max_pending(0).build().unwrap_err(), BuildError::NoPending);
    assert_eq!(build().name("tea\0pot").build().unwrap_err(), BuildError::Name("tea\0pot".into()));
    let both = build().inline().thread_per_task().build().unwrap_err();
    assert!(matches!(both, BuildError::Contradiction(_, _)));
    assert!(both.to_string().contains("choose one"));
}

// -- one thread for each task ----------------------------------------------------------------------------

#[test]
fn with_thread_per_task_each_gets_a_fresh_one() {
    let manager = Manager::builder().thread_per_task().build().unwrap();
    let (sends, receives) = mpsc::channel();
    for n in 0..20 {
        let sends = sends.clone();
        let task = move |_: &Context| Ok(sends.send(std::thread::current().id())?);
        let delay = Duration::from_micros(if n % 2 == 0 { 0 } else { 50 });
        manager.run_task(Task::once(n, task).delay(delay)).unwrap();
    }
    manager.wait_timeout(HANG).unwrap();
    let mut ids: Vec<_> = receives.try_iter().map(|id| format!("{id:?}")).collect();
    ids.sort_unstable();
    ids.dedup();
    assert_eq!(ids.len(), 20);
}

#[test]
fn with_thread_per_task_the_cap_holds_and_the_rest_waits() {
    let manager = Manager::builder().thread_per_task().max_threads(2).build().unwrap();
    for n in 0..100 {
        manager.run(n, |_| Ok(())).unwrap();
    }
    manager.wait_timeout(HANG).unwrap();
    assert_eq!(manager.stats().succeeded, 100);
    assert!(manager.stats().peak_threads <= 2);
}

#[test]
fn with_thread_per_task_a_thread_that_ends_takes_the_next_if_none_is_to_be_had() {
    let (refuses, gate) = refusing();
    let manager = Manager::builder().thread_per_task().thread_gate(gate).build().unwrap();
    let first = busy(&manager, 0);
    refuses.store(true, Ordering::SeqCst);
    for n in 1..10 {
        manager.run(n, |_| Ok(())).unwrap();
    }
    first.open();
    manager.wait_timeout(HANG).unwrap();
    assert_eq!((manager.stats().succeeded, manager.stats().peak_threads), (10, 1));
}

// -- none to be had --------------------------------------------------------------------------------------

#[test]
fn with_no_thread_at_all_the_task_is_handed_back_before_any_hook() {
    let (refuses, gate) = refusing();
    refuses.store(true, Ordering::SeqCst);
    let manager = Manager::builder().thread_gate(gate).build().unwrap();
    manager.on_task_added(|_, _| unreachable!());
    let rejected = manager.run("task", |_| Ok(())).unwrap_err();
    assert!(matches!(rejected.reason(), Reason::Spawn(error) if error.kind() == io::ErrorKind::WouldBlock));
    assert_eq!((manager.len(), manager.stats().added, manager.stats().rejected), (0, 0, 1));
    rejected.run_here().unwrap();
}

#[test]
fn with_others_alive_it_waits_and_runs_and_the_refusal_is_not_asked_again_at_once() {
    let clock = ManualClock::new();
    let asked = Arc::new(AtomicUsize::new(0));
    let asks = Arc::clone(&asked);
    let manager = Manager::builder().clock(&clock).thread_gate(move |name| {
        let worker = !name.ends_with("supervisor");
        if worker && asks.fetch_add(1, Ordering::SeqCst) > 0 {
            Err(io::ErrorKind::WouldBlock.into())
        } else {
            Ok(())
        }
    });
    let manager = manager.build().unwrap();
    let first = busy(&manager, 0);
    for n in 1..100 {
        manager.run(n, |_| Ok(())).unwrap();
    }
    assert_eq!(asked.load(Ordering::SeqCst), 2, "the failed attempt does not spin");
    // After a while it is asked for again, by the supervisor.
    while asked.load(Ordering::SeqCst) < 4 {
        clock.advance(Duration::from_millis(10));
        std::thread::yield_now();
    }
    first.open();
    manager.wait_timeout(Duration::MAX).unwrap();
    assert_eq!(manager.stats().succeeded, 100);
}

#[test]
fn once_threads_are_to_be_had_again_a_task_behind_a_blocked_one_gets_one() {
    let (refuses, gate) = refusing();
    let manager = Manager::builder().thread_gate(gate).build().unwrap();
    let first = busy(&manager, 0);
    refuses.store(true, Ordering::SeqCst);
    let (second, task) = gated();
    manager.run(1, task).unwrap();
    assert!(!second.has_started());
    refuses.store(false, Ordering::SeqCst);
    // Nobody submits anything more: it is the supervisor that asks again.
    second.started();
    second.open();
    first.open();
    manager.wait_timeout(HANG).unwrap();
}
