//! What can only be seen of a whole process: each of these tests runs this binary once more, with one test alone in
//! it, so that threads and memory are its own. Linux only. Covered here:
//!
//! - the default settings under 10,000 blocked tasks, and a cap of a million, which the system cannot carry;
//! - promise 12, threads counted in `/proc/self/task`: before, during and after, and after 1,000 managers;
//! - promise 10: memory after a million tasks is back where it was;
//! - promise 8 under a limit of the system's own (address space), under which threads are really refused.

#![cfg(target_os = "linux")]
#![allow(clippy::unwrap_used)]

use inflight::{Manager, Reason, Task};
use std::fs;
use std::process::Command;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::sync::{Arc, Condvar, Mutex};
use std::thread;
use std::time::{Duration, Instant};

/// Guards against a hang: nothing in these tests takes as long.
const HANG: Duration = Duration::from_secs(100);

/// Says to a child that it is one.
const CHILD: &str = "INFLIGHT_TEST_CHILD";
/// How a child ends whose test has run to its end.
const DONE: i32 = 42;

/// Runs the test `name` of this binary in a process of its own, which does `body`. `limit`: `ulimit`'s arguments.
#[track_caller]
fn in_a_process(name: &str, limit: Option<&str>, body: impl FnOnce()) {
    if std::env::var_os(CHILD).is_some() {
        body();
        // Says that it was this that ran: a name that no test has would end well, too.
        std::process::exit(DONE);
    }
    let binary = std::env::current_exe().unwrap();
    let limit = limit.map_or(String::new(), |limit| format!("ulimit {limit}; "));
    let run = format!("{limit}exec \"$0\" --exact --nocapture --test-threads 1 {name}");
    let mut child = Command::new("bash")
        .args(["-c", &run])
        .arg(binary)
        .env(CHILD, "1")
        // A panic's backtrace takes memory that the child may not have.
        .env("RUST_BACKTRACE", "0")
        .spawn()
        .unwrap();
    let begin = Instant::now();
    let status = loop {
        if let Some(status) = child.try_wait().unwrap() {
            break status;
        }
        if begin.elapsed() > HANG {
            child.kill().unwrap();
            panic!("it hangs");
        }
        thread::sleep(Duration::from_millis(5));
    };
    assert_eq!(status.code(), Some(DONE), "{status}");
}

fn threads() -> usize {
    fs::read_dir("/proc/self/task").unwrap().count()
}

/// Waits until there are `threads` of them: the kernel may take a moment to see the last one's end.
#[track_caller]
fn until_threads(expected: usize) {
    until(|| threads() == expected);
}

#[track_caller]
fn until(mut holds: impl FnMut() -> bool) {
    let begin = Instant::now();
    while !holds() {
        assert!(begin.elapsed() < HANG, "it does not come about");
        thread::sleep(Duration::from_millis(1));
    }
}

/// What is resident, in bytes.
fn resident() -> usize {
    let status = fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    line.trim().trim_end_matches(" kB").trim().parse::<usize>().unwrap() * 1024
}

/// Holds tasks up until it is opened.
#[derive(Clone, Default)]
struct Barrier(Arc<(Mutex<bool>, Condvar)>);

impl Barrier {
    fn pass(&self) {
        let (open, opened) = &*self.0;
        drop(opened.wait_while(open.lock().unwrap(), |open| !*open).unwrap());
    }

    fn open(&self) {
        *self.0.0.lock().unwrap() = true;
        self.0.1.notify_all();
    }
}

/// Opens it when dropped, so that a test which fails does not hang.
struct Opens(Barrier);

impl Drop for Opens {
    fn drop(&mut self) {
        self.0.open();
    }
}

/// How many threads the system grants here: a container may have a limit of its own.
fn granted() -> usize {
    let limits = fs::read_to_string("/proc/self/limits").unwrap();
    let processes = limits.lines().find_map(|line| line.strip_prefix("Max processes"));
    let soft = processes.and_then(|line| line.split_whitespace().next()?.parse().ok());
    let group = fs::read_to_string("/sys/fs/cgroup/pids.max").ok();
    let group = group.and_then(|text| text.trim().parse().ok());
    soft.unwrap_or(usize::MAX).min(group.unwrap_or(usize::MAX))
}

/// `tasks` blocked ones on `manager`, all of which end.
fn blocks(manager: &Manager<usize>, tasks: usize) -> usize {
    let before = threads();
    let (barrier, ran) = (Barrier::default(), Arc::new(AtomicUsize::new(0)));
    let _opens = Opens(barrier.clone());
    for nth in 0..tasks {
        let (barrier, ran) = (barrier.clone(), Arc::clone(&ran));
        manager
            .run(nth, move |_| {
                ran.fetch_add(1, SeqCst);
                barrier.pass();
                Ok(())
            })
            .unwrap();
    }
    let most = manager.stats().max_threads;
    let to_come = tasks.min(most).min(granted().saturating_sub(500));
    until(|| ran.load(SeqCst) >= to_come);
    let during = threads();
    assert!(during <= before + most + 1, "the cap holds: {during} threads, at most {most}");
    assert_eq!(manager.len(), tasks);
    barrier.open();
    manager.wait();
    assert_eq!(ran.load(SeqCst), tasks);
    during
}

#[test]
fn ten_thousand_blocked_tasks_on_the_default_settings() {
    in_a_process("ten_thousand_blocked_tasks_on_the_default_settings", None, || {
        let manager = Manager::builder().stack_size(64 * 1024).build().unwrap();
        let before = threads();
        blocks(&manager, 10_000);
        drop(manager);
        until_threads(before);
    });
}

#[test]
fn a_cap_of_a_million_does_not_get_the_process_killed() {
    in_a_process("a_cap_of_a_million_does_not_get_the_process_killed", None, || {
        let builder = Manager::builder().max_threads(1_000_000).stack_size(64 * 1024);
        let manager = builder.build().unwrap();
        let maps: usize = fs::read_to_string("/proc/sys/vm/max_map_count").unwrap().trim().parse().unwrap();
        assert!(manager.stats().max_threads <= maps / 8);
        blocks(&manager, 20_000);
    });
}

#[test]
fn several_managers_keep_clear_of_what_the_process_can_carry() {
    in_a_process("several_managers_keep_clear_of_what_the_process_can_carry", None, || {
        let barrier = Barrier::default();
        let managers: Vec<_> =
            (0..3).map(|_| Manager::builder().stack_size(64 * 1024).build().unwrap()).collect();
        let _opens = Opens(barrier.clone());
        let most = managers[0].stats().max_threads;
        for manager in &managers {
            for nth in 0..most {
                let barrier = barrier.clone();
                manager.run(nth, move |_| Ok(barrier.pass())).unwrap();
            }
        }
        // Each looks around only from time to time, so some are over it, and not three times as many.
        until(|| threads() >= most.min(granted().saturating_sub(500)));
        thread::sleep(Duration::from_millis(300));
        let during = threads();
        assert!(during <= most + 3 * 64 + 8, "{during} threads where {most} are safe");
        barrier.open();
        for manager in &managers {
            manager.wait();
        }
    });
}

#[test]
fn threads_are_counted_before_during_and_after() {
    in_a_process("threads_are_counted_before_during_and_after", None, || {
        let before = threads();
        let manager = Manager::builder().build().unwrap();
        assert_eq!(threads(), before, "none is there before the first task");
        let during = blocks(&manager, 50);
        assert!(during >= before + 50);
        drop(manager);
        until_threads(before);
    });
}

#[test]
fn a_thousand_managers_leave_no_thread_and_no_memory() {
    in_a_process("a_thousand_managers_leave_no_thread_and_no_memory", None, || {
        let before = threads();
        let mut settled = 0;
        for nth in 0..1_000 {
            let manager = Manager::builder().build().unwrap();
            manager.on_task_stalled(|_, _, _| ());
            manager.run(nth, |_| Ok(())).unwrap();
            let watched = Task::once(nth, |_| Ok(())).stalled_after(HANG).delay(Duration::from_micros(10));
            manager.run_task(watched).unwrap();
            drop(manager);
            if nth == 100 {
                settled = resident();
            }
        }
        until_threads(before);
        let grown = resident().saturating_sub(settled);
        assert!(grown < 4 << 20, "{grown} bytes after 900 managers more");
    });
}

#[test]
fn memory_after_a_million_tasks_is_back_where_it_was() {
    in_a_process("memory_after_a_million_tasks_is_back_where_it_was", None, || {
        let manager = Manager::builder().max_threads(2).build().unwrap();
        let flood = |tasks: usize| {
            for nth in 0..tasks {
                let handle = manager.spawn(nth, move |_| Ok(nth)).unwrap();
                if nth % 100 == 0 {
                    handle.join().unwrap();
                }
            }
            manager.wait();
        };
        flood(100_000);
        let before = resident();
        for _ in 0..9 {
            flood(100_000);
        }
        let grown = resident().saturating_sub(before);
        assert!(grown < 8 << 20, "{grown} bytes");
        // So is a backlog's: each takes the place of the one before.
        let backlog = || {
            let barrier = Barrier::default();
            let _opens = Opens(barrier.clone());
            for nth in 0..2 {
                let barrier = barrier.clone();
                manager.run(nth, move |_| Ok(barrier.pass())).unwrap();
            }
            for nth in 0..100_000 {
                manager.run(nth, |_| Ok(())).unwrap();
            }
            let full = resident();
            barrier.open();
            manager.wait();
            full
        };
        let first = backlog();
        let grown = (0..4).map(|_| backlog()).max().unwrap().saturating_sub(first);
        assert!(grown < 8 << 20, "{grown} bytes");
    });
}

#[test]
fn threads_that_the_system_refuses_lose_no_task() {
    // Address space for some twenty stacks of 32 MiB: what is beyond them is refused, by mmap.
    let limit = Some("-v 1000000");
    in_a_process("threads_that_the_system_refuses_lose_no_task", limit, || {
        for thread_per_task in [false, true] {
            let builder = Manager::builder().stack_size(32 << 20);
            let builder = if thread_per_task { builder.thread_per_task() } else { builder };
            let manager = builder.build().unwrap();
            let (barrier, ran) = (Barrier::default(), Arc::new(AtomicUsize::new(0)));
            let _opens = Opens(barrier.clone());
            let mut accepted = 0;
            for nth in 0..200 {
                let (barrier, ran) = (barrier.clone(), Arc::clone(&ran));
                let submitted = manager.run(nth, move |_| {
                    barrier.pass();
                    ran.fetch_add(1, SeqCst);
                    Ok(())
                });
                match submitted {
                    Ok(_) => accepted += 1,
                    Err(rejected) => assert!(matches!(rejected.reason(), Reason::Spawn(_))),
                }
            }
            let granted = manager.stats().threads;
            assert!(granted > 0 && granted < 100, "the limit is felt: {granted} threads");
            assert_eq!(accepted, 200, "with threads alive none is handed back");
            barrier.open();
            manager.wait();
            assert_eq!(ran.load(SeqCst), 200);
        }
    });
}
