//! Stall alarms, on a clock that the tests advance.
//!
//! - what is a stall: once for each, from the last sign of life, with how long; the end of it likewise, in order
//! - what is none: time in queue, delay, retry pause and hooks; an attempt that has ended
//! - per attempt and per iteration; a task's own threshold over the builder's; no storm after a jump
//! - where the hooks run: on the notifier, outside of `max_threads`; a hook that blocks there holds up neither
//!   clock nor growth nor a shutdown's budget; if there is no notifier to be had, with the task's end
//! - the edges: zero, the longest `Duration`, hooks that panic, `wait` and `join` in them

#![allow(clippy::unwrap_used)]

mod support;

use inflight::{Backoff, Context, Grace, Handle, Manager, ManualClock, Phase, Retry, Task};
use std::io;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{self, Sender};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;
use support::{
    Fused, HANG, Journal, MS, SEC, fails_until, fused, gate, manager, occupy, settle, until, until_phases,
};

/// A task that reports what it is told to, and ends when nobody is left to tell it anything.
fn reporter() -> (Sender<&'static str>, impl FnMut(&Context) -> Result<(), inflight::BoxError> + Send) {
    let (tell, told) = mpsc::channel::<&str>();
    let task = move |cx: &Context| {
        while let Ok(note) = told.recv_timeout(HANG) {
            cx.progress(note);
        }
        Ok(())
    };
    (tell, task)
}

/// An elastic manager: other tests than those of the order of things want more than one worker.
fn elastic(clock: &ManualClock) -> Fused<&'static str> {
    fused(Manager::builder().clock(clock))
}

#[test]
fn a_stall_is_reported_once_and_so_is_its_end() {
    let clock = ManualClock::new();
    let manager = manager(&clock);
    let journal = Journal::of(&manager);
    let (tell, task) = reporter();
    manager.run_task(Task::once("import", task).stalled_after(SEC * 5)).unwrap();
    until_phases(&manager, &[Phase::Running]);
    clock.advance(SEC * 5);
    journal.expect("import stalled for 5s");
    clock.advance(SEC * 20);
    tell.send("row 7").unwrap();
    journal.expect("import recovered after 25s");
    clock.advance(SEC * 6);
    journal.expect("import stalled for 6s");
    clock.advance(SEC);
    drop(tell);
    journal.expect("import recovered after 7s");
    journal.expect("import succeeded in 1");
    manager.wait();
    journal.expect_nothing();
    assert_eq!(manager.stats().stalled, 2);
}

#[test]
fn progress_is_a_sign_of_life() {
    let clock = ManualClock::new();
    let manager = manager(&clock);
    let journal = Journal::of(&manager);
    let hands = clock.clone();
    let task = move |cx: &Context| {
        for row in 0..20 {
            hands.advance(SEC * 4);
            cx.progress(format!("row {row}"));
        }
        Ok(())
    };
    manager.run_task(Task::once("import", task).stalled_after(SEC * 5)).unwrap();
    journal.expect("import succeeded in 1");
}

#[test]
fn a_tasks_own_threshold_overrides_the_builders() {
    let clock = ManualClock::new();
    let manager = fused(Manager::builder().max_threads(4).clock(&clock).stalled_after(SEC * 5));
    let journal = Journal::of(&manager);
    let task = |meta, threshold: Option<Duration>| {
        let (gate, waits) = gate();
        let task = Task::once(meta, waits);
        manager.run_task(threshold.into_iter().fold(task, Task::stalled_after)).unwrap();
        gate.started();
        gate
    };
    let gates = [task("default", None), task("patient", Some(SEC * 9)), task("hasty", Some(SEC))];
    clock.advance(SEC);
    journal.expect("hasty stalled for 1s");
    clock.advance(SEC * 4);
    journal.expect("default stalled for 5s");
    clock.advance(SEC * 4);
    journal.expect("patient stalled for 9s");
    gates.iter().for_each(support::Gate::open);
}

#[test]
fn time_in_queue_delay_pause_and_hooks_is_no_stall() {
    let clock = ManualClock::new();
    let manager = manager(&clock);
    let (hook, in_hook) = mpsc::channel();
    let (go_on, goes_on) = mpsc::channel::<()>();
    let goes_on = Mutex::new(goes_on);
    manager.on_task_succeeded(move |cx, meta| {
        if *meta == "watched" {
            hook.send(cx.attempt()).unwrap();
            goes_on.lock().unwrap().recv_timeout(HANG).unwrap();
        }
    });
    let retry = Retry::attempts(2).backoff(Backoff::constant(SEC * 60));
    let task = Task::retrying("watched", fails_until(2)).retry(retry).delay(SEC * 60);
    manager.run_task(task.stalled_after(SEC)).unwrap();
    settle(&manager);
    let gate = occupy(&manager, "holds the thread");
    clock.advance(SEC * 60);
    until_phases(&manager, &[Phase::Queued, Phase::Running]);
    clock.advance(SEC * 60);
    gate.open();
    until_phases(&manager, &[Phase::Delayed]);
    clock.advance(SEC * 30);
    settle(&manager);
    clock.advance(SEC * 30);
    assert_eq!(in_hook.recv_timeout(HANG).unwrap(), 2);
    clock.advance(SEC * 60);
    // The supervisor has looked since: what it found due has left the timers.
    manager.run_task(Task::once("due", |_| Ok(())).delay(Duration::ZERO)).unwrap();
    until_phases(&manager, &[Phase::Running, Phase::Queued]);
    go_on.send(()).unwrap();
    manager.wait();
    assert_eq!(manager.stats().stalled, 0);
}

#[test]
fn the_hooks_of_an_attempt_that_has_ended_are_no_stall_however_long() {
    let clock = ManualClock::new();
    let manager = fused(Manager::builder().max_threads(2).clock(&clock));
    let journal = Journal::of(&manager);
    let (go_on, goes_on) = mpsc::channel::<()>();
    let goes_on = Mutex::new(goes_on);
    manager.on_task_succeeded(move |_, meta| {
        if *meta == "in its hook" {
            goes_on.lock().unwrap().recv_timeout(HANG).unwrap();
        }
    });
    manager.run_task(Task::once("in its hook", |_| Ok(())).stalled_after(SEC)).unwrap();
    journal.expect("in its hook succeeded in 1");
    let (tell, task) = reporter();
    manager.run_task(Task::once("import", task).stalled_after(SEC)).unwrap();
    until_phases(&manager, &[Phase::Running; 2]);
    clock.advance(SEC * 2);
    journal.expect("import stalled for 2s");
    tell.send("row 7").unwrap();
    // The notifier delivers what was rung for first: by now it would have told of the other.
    journal.expect("import recovered after 2s");
    go_on.send(()).unwrap();
    drop(tell);
    manager.wait();
    assert_eq!(manager.stats().stalled, 1);
}

#[test]
fn the_supervisor_rests_while_the_hooks_of_a_watched_task_run() {
    // On the real clock, where a moment that has passed is no pause. Only Linux tells a thread's own time.
    fn supervisors_time() -> Option<Duration> {
        let tasks = std::fs::read_dir("/proc/self/task").ok()?;
        let thread = tasks.flatten().map(|task| task.path()).find(|path| {
            std::fs::read_to_string(path.join("comm")).is_ok_and(|name| name.starts_with("rests-superviso"))
        })?;
        let times = std::fs::read_to_string(thread.join("schedstat")).ok()?;
        Some(Duration::from_nanos(times.split(' ').next()?.parse().ok()?))
    }
    let manager = Manager::builder().name("rests").build().unwrap();
    let (used, uses) = mpsc::channel();
    manager.on_task_succeeded(move |_, (): &()| {
        // Long past the threshold.
        thread::sleep(MS * 20);
        let before = supervisors_time();
        thread::sleep(MS * 200);
        let used_since = before.zip(supervisors_time()).map(|(before, after)| after - before);
        used.send(used_since).unwrap();
    });
    manager.run_task(Task::once((), |_| Ok(())).stalled_after(MS)).unwrap();
    if let Some(used) = uses.recv_timeout(HANG).unwrap() {
        assert!(used < MS * 20, "of 200 ms, it was on a core for {used:?}");
    }
}

#[test]
fn the_watch_is_per_attempt() {
    let clock = ManualClock::new();
    let manager = manager(&clock);
    let journal = Journal::of(&manager);
    let hands = clock.clone();
    let task = move |cx: &Context| {
        // Short of the threshold, again and again.
        hands.advance(SEC * 4);
        if cx.attempt() < 5 { Err("busy".into()) } else { Ok(()) }
    };
    let retry = Retry::attempts(5).backoff(Backoff::constant(Duration::ZERO));
    manager.run_task(Task::retrying("mail", task).retry(retry).stalled_after(SEC * 5)).unwrap();
    for attempt in 1..5 {
        journal.expect(&format!("mail retried after {attempt}: busy"));
    }
    journal.expect("mail succeeded in 5");
    manager.wait();
    assert_eq!(manager.stats().stalled, 0);
}

#[test]
fn a_stall_of_one_attempt_is_over_before_the_next() {
    let clock = ManualClock::new();
    let manager = manager(&clock);
    let journal = Journal::of(&manager);
    let (gate, mut waits) = gate();
    let task = move |cx: &Context| {
        waits(cx)?;
        if cx.attempt() < 2 { Err("busy".into()) } else { Ok(()) }
    };
    let retry = Retry::attempts(2).backoff(Backoff::constant(SEC * 60));
    manager.run_task(Task::retrying("mail", task).retry(retry).stalled_after(SEC)).unwrap();
    gate.started();
    clock.advance(SEC);
    journal.expect("mail stalled for 1s");
    gate.open();
    journal.expect("mail recovered after 1s");
    journal.expect("mail retried after 1: busy");
    until_phases(&manager, &[Phase::Delayed]);
    clock.advance(SEC * 60);
    gate.started();
    clock.advance(SEC);
    journal.expect("mail stalled for 1s");
    gate.open();
    journal.expect("mail recovered after 1s");
    journal.expect("mail succeeded in 2");
}

#[test]
fn the_watch_is_per_iteration_of_a_loop() {
    let clock = ManualClock::new();
    let manager = manager(&clock);
    let journal = Journal::of(&manager);
    let (gate, waits) = gate();
    manager.run_task(Task::looping("poll", waits).every(SEC * 60).stalled_after(SEC * 2)).unwrap();
    for _ in 0..2 {
        gate.started();
        clock.advance(SEC * 2);
        journal.expect("poll stalled for 2s");
        gate.open();
        journal.expect("poll recovered after 2s");
        journal.expect("poll succeeded in 1");
        until_phases(&manager, &[Phase::Delayed]);
        clock.advance(SEC * 58);
    }
    gate.started();
    gate.open();
}

#[test]
fn a_jump_of_the_clock_is_one_stall_for_each_attempt() {
    let clock = ManualClock::new();
    let manager = elastic(&clock);
    let journal = Journal::of(&manager);
    let (one, waits) = gate();
    manager.run_task(Task::once("one", waits).stalled_after(SEC)).unwrap();
    one.started();
    let (two, waits) = gate();
    manager.run_task(Task::once("two", waits).stalled_after(SEC * 2)).unwrap();
    two.started();
    clock.advance(SEC * 1_000_000);
    journal.expect("one stalled for 1000000s");
    journal.expect("two stalled for 1000000s");
    clock.advance(SEC * 1_000_000);
    settle(&manager);
    one.open();
    until(|| manager.count_of(inflight::Kind::Once) == 1);
    two.open();
    manager.wait();
    let rest: Vec<_> = journal.rest().into_iter().filter(|line| !line.contains("succeeded")).collect();
    assert_eq!(rest, ["one recovered after 2000000s", "two recovered after 2000000s"]);
}

#[test]
fn an_attempt_that_has_ended_is_not_reported_afterwards() {
    let clock = ManualClock::new();
    let manager = manager(&clock);
    for _ in 0..50 {
        manager.run_task(Task::once("quick", |_| Ok(())).stalled_after(SEC)).unwrap();
        manager.wait();
        clock.advance(SEC * 2);
        settle(&manager);
    }
    assert_eq!(manager.stats().stalled, 0);
}

#[test]
fn the_hooks_run_on_one_thread_of_their_own_outside_of_max_threads() {
    let clock = ManualClock::new();
    let manager = fused(Manager::builder().name("alarm").max_threads(1).clock(&clock));
    let (says, said) = mpsc::channel();
    let tell = move |what: &'static str| {
        let says = says.clone();
        move || says.send((what, thread::current().name().map(str::to_owned))).unwrap()
    };
    let (stalled, recovered) = (tell("stalled"), tell("recovered"));
    manager.on_task_stalled(move |_, _, _| stalled()).on_task_recovered(move |_, _, _| recovered());
    let (tell, task) = reporter();
    manager.run_task(Task::once("import", task).stalled_after(SEC)).unwrap();
    until_phases(&manager, &[Phase::Running]);
    clock.advance(SEC);
    let notifier = Some("alarm-notifier".to_owned());
    assert_eq!(said.recv_timeout(HANG).unwrap(), ("stalled", notifier.clone()));
    tell.send("row 7").unwrap();
    assert_eq!(said.recv_timeout(HANG).unwrap(), ("recovered", notifier));
    assert_eq!((manager.stats().threads, manager.stats().peak_threads), (1, 1));
    drop(tell);
}

#[test]
fn the_hooks_see_the_task_that_hangs() {
    #[derive(Clone, Copy, PartialEq, Debug)]
    struct Request(u32);
    let clock = ManualClock::new();
    let manager = manager(&clock);
    let (says, said) = mpsc::channel();
    manager.on_task_stalled(move |cx, meta, since| {
        let request = cx.value::<Request>().copied();
        says.send((*meta, request, cx.task_id(), cx.attempt(), cx.running_for(), since)).unwrap();
    });
    let (gate, waits) = gate();
    let request = Context::background().with_value(Request(7));
    let task = Task::once("import", waits).context(&request).stalled_after(SEC);
    let id = manager.run_task(task).unwrap();
    gate.started();
    clock.advance(SEC);
    let seen = said.recv_timeout(HANG).unwrap();
    assert_eq!(seen, ("import", Some(Request(7)), Some(id), 1, SEC, SEC));
    gate.open();
}

/// A manager whose stall hook blocks, until what is returned is dropped, with a task that hangs.
fn blocked(manager: &Manager<&'static str>, clock: &ManualClock) -> (Sender<()>, support::Gate) {
    let (open, opened) = mpsc::channel::<()>();
    let (hook, in_hook) = mpsc::channel();
    let opened = Mutex::new(opened);
    manager.on_task_stalled(move |_, _, _| {
        let _ = hook.send(());
        let _ = opened.lock().unwrap().recv_timeout(HANG);
    });
    let (gate, waits) = gate();
    manager.run_task(Task::once("stuck", waits).stalled_after(SEC)).unwrap();
    gate.started();
    clock.advance(SEC);
    in_hook.recv_timeout(HANG).unwrap();
    (open, gate)
}

#[test]
fn a_hook_that_blocks_holds_up_neither_the_clock_nor_the_growth_of_threads() {
    let clock = ManualClock::new();
    let manager = elastic(&clock);
    let (open, stuck) = blocked(&manager, &clock);
    let (due, dues) = mpsc::channel();
    manager.run_task(Task::once("later", move |_| Ok(due.send(())?)).delay(SEC)).unwrap();
    clock.advance(SEC);
    dues.recv_timeout(HANG).unwrap();
    let gates: Vec<_> = (0..8).map(|_| occupy(&manager, "one of many")).collect();
    assert!(manager.stats().threads > 8);
    gates.iter().for_each(support::Gate::open);
    drop(open);
    stuck.open();
}

#[test]
fn a_hook_that_blocks_holds_up_no_progress_and_no_shutdown() {
    let clock = ManualClock::new();
    let manager = elastic(&clock);
    let (open, opened) = mpsc::channel::<()>();
    let (hook, in_hook) = mpsc::channel();
    let opened = Mutex::new(opened);
    manager.on_task_stalled(move |_, _, _| {
        hook.send(()).unwrap();
        let _ = opened.lock().unwrap().recv_timeout(HANG);
    });
    let (tell, told) = mpsc::channel::<&str>();
    let (goes, gone) = mpsc::channel();
    let task = move |cx: &Context| {
        for note in told {
            cx.progress(note);
            goes.send(())?;
        }
        Ok(())
    };
    manager.run_task(Task::once("import", task).stalled_after(SEC)).unwrap();
    until_phases(&manager, &[Phase::Running]);
    clock.advance(SEC);
    in_hook.recv_timeout(HANG).unwrap();
    tell.send("row 7").unwrap();
    gone.recv_timeout(HANG).expect("progress only records");
    drop(tell);
    // The task has ended or is about to, and waits for the notice that is being delivered.
    let unfinished = manager.shutdown(Grace::drain(Duration::ZERO)).unwrap_err();
    assert_eq!(*unfinished.tasks()[0].meta(), "import");
    assert_eq!(unfinished.tasks()[0].progress(), Some("row 7"));
    drop(open);
    manager.wait();
}

#[test]
fn without_a_notifier_the_notices_come_in_order_with_the_end_of_the_task() {
    let refuse = |name: &str| match name.ends_with("notifier") {
        true => Err(io::ErrorKind::WouldBlock.into()),
        false => Ok(()),
    };
    let clock = ManualClock::new();
    let manager = fused(Manager::builder().max_threads(2).clock(&clock).thread_gate(refuse));
    let journal = Journal::of(&manager);
    let (gate, waits) = gate();
    manager.run_task(Task::once("import", waits).stalled_after(SEC)).unwrap();
    gate.started();
    clock.advance(SEC);
    settle(&manager);
    journal.expect("probe succeeded in 1");
    journal.expect_nothing();
    clock.advance(SEC);
    gate.open();
    journal.expect("import stalled for 1s");
    journal.expect("import recovered after 2s");
    journal.expect("import succeeded in 1");
}

#[test]
fn a_notifier_that_was_refused_is_asked_for_again() {
    let asked = Arc::new(AtomicUsize::new(0));
    let asks = Arc::clone(&asked);
    let refuse_first = move |name: &str| match name.ends_with("notifier") {
        true if asks.fetch_add(1, Ordering::SeqCst) == 0 => Err(io::ErrorKind::WouldBlock.into()),
        _ => Ok(()),
    };
    let clock = ManualClock::new();
    let manager = fused(Manager::builder().max_threads(2).clock(&clock).thread_gate(refuse_first));
    let journal = Journal::of(&manager);
    let (gate, waits) = gate();
    manager.run_task(Task::once("import", waits).stalled_after(SEC)).unwrap();
    gate.started();
    clock.advance(SEC);
    until(|| asked.load(Ordering::SeqCst) == 1);
    // It is recorded as refused just after that; then the clock has to move once more.
    until(|| {
        clock.advance(SEC);
        asked.load(Ordering::SeqCst) == 2
    });
    journal.expect("import stalled for 1s");
    gate.open();
}

#[test]
fn a_hook_that_panics_is_counted_and_keeps_no_other_from_its_turn() {
    let clock = ManualClock::new();
    let manager = manager(&clock);
    manager.on_task_stalled(|_, _, _| panic!("in a hook"));
    let journal = Journal::of(&manager);
    let (tell, task) = reporter();
    manager.run_task(Task::once("import", task).stalled_after(SEC)).unwrap();
    until_phases(&manager, &[Phase::Running]);
    clock.advance(SEC);
    journal.expect("import stalled for 1s");
    tell.send("row 7").unwrap();
    journal.expect("import recovered after 1s");
    drop(tell);
    manager.wait();
    assert_eq!(manager.stats().hook_panics, 1);
}

#[test]
fn waiting_for_the_manager_in_a_hook_panics_and_is_counted() {
    let clock = ManualClock::new();
    let manager = manager(&clock);
    let inner = manager.uncounted();
    let (hook, in_hook) = mpsc::channel();
    manager.on_task_stalled(move |_, _, _| {
        hook.send(()).unwrap();
        inner.wait();
    });
    let (gate, waits) = gate();
    manager.run_task(Task::once("stuck", waits).stalled_after(SEC)).unwrap();
    gate.started();
    clock.advance(SEC);
    in_hook.recv_timeout(HANG).unwrap();
    gate.open();
    manager.wait();
    assert_eq!(manager.stats().hook_panics, 1);
}

#[test]
fn a_join_in_a_hook_waits_and_runs_nothing() {
    let clock = ManualClock::new();
    let manager = fused(Manager::builder().name("joins").max_threads(2).clock(&clock));
    let (give, taken) = mpsc::channel::<Handle<Option<String>>>();
    let taken = Mutex::new(taken);
    let (hook, in_hook) = mpsc::channel();
    let (says, said) = mpsc::channel();
    manager.on_task_stalled(move |_, _, _| {
        let handle = taken.lock().unwrap().recv_timeout(HANG).unwrap();
        hook.send(()).unwrap();
        says.send(handle.join().unwrap()).unwrap();
    });
    let (stuck, waits) = gate();
    manager.run_task(Task::once("stuck", waits).stalled_after(SEC)).unwrap();
    stuck.started();
    let busy = occupy(&manager, "holds the other thread");
    give.send(manager.spawn("queued", |_| Ok(thread::current().name().map(str::to_owned))).unwrap()).unwrap();
    clock.advance(SEC);
    in_hook.recv_timeout(HANG).unwrap();
    // While no worker is free, the task stays where it is: this guards against one that runs too soon.
    assert!(said.recv_timeout(MS * 50).is_err(), "the notifier ran a task");
    busy.open();
    let ran_on = said.recv_timeout(HANG).unwrap();
    assert_eq!(ran_on.as_deref(), Some("joins-2"), "the notifier is no worker");
    stuck.open();
}

#[test]
fn a_task_that_a_joiner_runs_is_watched_too() {
    let clock = ManualClock::new();
    let manager = fused(Manager::builder().max_threads(1).clock(&clock).stalled_after(SEC));
    let journal = Journal::of(&manager);
    let inner = manager.uncounted();
    let (gate, waits) = gate();
    let outer = move |_: &Context| Ok(inner.spawn("inner", waits)?.join()?);
    manager.run("outer", outer).unwrap();
    gate.started();
    clock.advance(SEC);
    let mut stalled = [(); 2].map(|()| manager.tasks().len());
    stalled.sort_unstable();
    until(|| manager.stats().stalled == 2);
    gate.open();
    manager.wait();
    let said = journal.rest();
    assert!(said.contains(&"inner stalled for 1s".to_owned()), "{said:?}");
    assert!(said.contains(&"outer stalled for 1s".to_owned()), "{said:?}");
}

#[test]
fn a_task_that_runs_inline_is_watched_too() {
    let clock = ManualClock::new();
    let manager = fused(Manager::builder().inline().clock(&clock).stalled_after(SEC));
    let journal = Journal::of(&manager);
    thread::scope(|s| {
        let (gate, waits) = gate();
        s.spawn(|| manager.run("inline", waits).unwrap());
        gate.started();
        clock.advance(SEC);
        journal.expect("inline stalled for 1s");
        gate.open();
    });
    journal.expect("inline recovered after 1s");
    journal.expect("inline succeeded in 1");
}

#[test]
fn a_shutdown_that_answers_ok_leaves_no_thread() {
    let clock = ManualClock::new();
    let manager = fused(Manager::builder().name("leaves").clock(&clock));
    let journal = Journal::of(&manager);
    let (gate, waits) = gate();
    manager.run_task(Task::once("import", waits).stalled_after(SEC)).unwrap();
    gate.started();
    clock.advance(SEC);
    journal.expect("import stalled for 1s");
    gate.open();
    manager.shutdown(Grace::drain(Duration::MAX)).unwrap();
    // The system may take a moment to see their end.
    until(|| support::threads_named("leaves") == 0);
}

#[test]
fn its_thread_ends_once_nothing_is_watched_any_more() {
    let clock = ManualClock::new();
    let manager = fused(Manager::builder().name("quits").clock(&clock));
    let journal = Journal::of(&manager);
    manager.run_task(Task::once("tomorrow", |_| Ok(())).delay(SEC * 86_400)).unwrap();
    let (gate, waits) = gate();
    manager.run_task(Task::once("import", waits).stalled_after(SEC)).unwrap();
    gate.started();
    clock.advance(SEC);
    journal.expect("import stalled for 1s");
    gate.open();
    until(|| support::threads_named("quits-notifier") == 0);
    assert_eq!(manager.len(), 1);
    manager.cancel();
}

#[test]
fn any_threshold_will_do() {
    let clock = ManualClock::new();
    let manager = elastic(&clock);
    let journal = Journal::of(&manager);
    let (never, waits) = gate();
    manager.run_task(Task::once("never", waits).stalled_after(Duration::MAX)).unwrap();
    never.started();
    let (at_once, waits) = gate();
    manager.run_task(Task::once("at once", waits).stalled_after(Duration::ZERO)).unwrap();
    at_once.started();
    journal.expect("at once stalled for 0ns");
    clock.advance(Duration::MAX);
    settle(&manager);
    at_once.open();
    never.open();
    manager.wait();
    assert_eq!(manager.stats().stalled, 1);
}
