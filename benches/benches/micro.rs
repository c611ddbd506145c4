//! Single operations, one at a time: `cargo bench -p inflight-benches --bench micro`.

use std::hint::black_box;
use std::sync::mpsc;
use std::thread;
use std::time::Instant;

use divan::Bencher;
use divan::counter::ItemsCount;
use inflight::{Context, Manager};
use parking_lot::Mutex;

fn main() {
    divan::main();
}

/// A manager whose only thread is held by a task, until what comes last is dropped; and that task's context.
fn busy() -> (Manager<&'static str>, Context, mpsc::Sender<()>) {
    let pool = Manager::builder().max_threads(1).build();
    let pool = pool.expect("the configuration is valid");
    let (release, gate) = mpsc::channel::<()>();
    let (report, contexts) = mpsc::channel();
    let accepted = pool.run("gate", move |cx| {
        report.send(cx.clone())?;
        _ = gate.recv();
        Ok(())
    });
    assert!(accepted.is_ok(), "an open manager accepts");
    let context = contexts.recv().expect("the task reports");
    (pool, context, release)
}

fn submit(manager: &Manager<&'static str>) {
    let capture = black_box([1_u64, 2, 3]);
    let accepted = manager.run("tiny", move |_cx| {
        black_box(capture);
        Ok(())
    });
    assert!(accepted.is_ok(), "an open manager accepts");
}

#[divan::bench]
fn submit_while_busy(bencher: Bencher<'_, '_>) {
    let (pool, _context, _release) = busy();
    bencher.bench_local(|| submit(&pool));
}

#[divan::bench]
fn submit_and_run_inline(bencher: Bencher<'_, '_>) {
    let inline = Manager::builder().inline().build();
    let inline = inline.expect("the configuration is valid");
    bencher.bench_local(|| submit(&inline));
}

/// There and back again: two threads wake each other.
#[divan::bench]
fn spawn_and_join(bencher: Bencher<'_, '_>) {
    let pool = Manager::new();
    bencher.bench_local(|| {
        let handle = pool.spawn("answer", |_cx| Ok(42));
        handle.expect("an open manager accepts").join()
    });
}

#[divan::bench]
fn context_check(bencher: Bencher<'_, '_>) {
    let (_pool, context, _release) = busy();
    bencher.bench_local(|| black_box(&context).check().is_ok());
}

#[divan::bench]
fn context_is_cancelled(bencher: Bencher<'_, '_>) {
    let (_pool, context, _release) = busy();
    bencher.bench_local(|| black_box(&context).is_cancelled());
}

#[divan::bench]
fn len(bencher: Bencher<'_, '_>) {
    let (pool, _context, _release) = busy();
    bencher.bench_local(|| pool.len());
}

#[divan::bench]
fn stats(bencher: Bencher<'_, '_>) {
    let (pool, _context, _release) = busy();
    bencher.bench_local(|| pool.stats());
}

#[divan::bench]
fn tasks_of_1000(bencher: Bencher<'_, '_>) {
    let (pool, _context, _release) = busy();
    (1..1000).for_each(|_| submit(&pool));
    bencher.counter(ItemsCount::new(1000_usize)).bench_local(|| pool.tasks());
}

// What the machine asks of every design.

#[divan::bench]
fn machine_clock() -> Instant {
    Instant::now()
}

#[divan::bench]
fn machine_lock_and_unlock(bencher: Bencher<'_, '_>) {
    let lock = Mutex::new(0_u64);
    bencher.bench_local(|| *lock.lock() += 1);
}

#[divan::bench]
fn machine_start_and_join_a_thread() {
    thread::spawn(|| {}).join().expect("it does nothing");
}

#[divan::bench]
fn machine_wake_a_thread_and_be_woken(bencher: Bencher<'_, '_>) {
    let (call, calls) = mpsc::channel();
    let (echo, answers) = mpsc::channel();
    thread::spawn(move || calls.into_iter().try_for_each(|()| echo.send(())));
    bencher.bench_local(|| {
        call.send(()).expect("the other thread is there");
        answers.recv().expect("the other thread is there");
    });
}
