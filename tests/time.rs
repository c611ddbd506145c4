//! The clock: delays, retries, loops, timeouts, stall alarms, on a clock that the tests advance.

#![allow(clippy::unwrap_used)]

use inflight::{Backoff, Context, Grace, Kind, Manager, ManualClock, Phase, Reason, Retry, Task, TaskError};
use std::io;
use std::sync::atomic::{AtomicU32, AtomicUsize, Ordering};
use std::sync::mpsc::{self, Receiver};
use std::sync::{Arc, Mutex};
use std::time::Duration;

const HANG: Duration = Duration::from_secs(60);
const SEC: Duration = Duration::from_secs(1);

fn manager(clock: &ManualClock) -> Manager<&'static str> {
    Manager::builder().clock(clock).build().unwrap()
}

/// What the hooks have said, in order.
fn journal(manager: &Manager<&'static str>) -> Receiver<String> {
    let (says, said) = mpsc::channel();
    let tell = |says: &mpsc::Sender<String>| {
        let says = Mutex::new(says.clone());
        move |line: String| {
            let _ = says.lock().unwrap().send(line);
        }
    };
    let (a, b, c, d, e) = (tell(&says), tell(&says), tell(&says), tell(&says), tell(&says));
    manager
        .on_task_succeeded(move |cx, meta| a(format!("{meta} succeeded in attempt {}", cx.attempt())))
        .on_task_failed(move |cx, meta, error| {
            b(format!("{meta} failed in attempt {}: {error}", cx.attempt()))
        })
        .on_task_retried(move |_, meta, error, attempt| c(format!("{meta} retried after {attempt}: {error}")))
        .on_task_stalled(move |_, meta, since| d(format!("{meta} stalled for {since:?}")))
        .on_task_recovered(move |_, meta, hung| e(format!("{meta} recovered after {hung:?}")));
    said
}

fn next(said: &Receiver<String>) -> String {
    said.recv_timeout(HANG).expect("a hook says something")
}

/// Waits until the only task is in `phase`, which another thread is about to bring about.
fn await_phase(manager: &Manager<&'static str>, phase: Phase) {
    while manager.tasks().first().is_none_or(|task| task.phase() != phase) {
        std::thread::yield_now();
    }
}

fn fails_until(attempt: u32) -> impl FnMut(&Context) -> Result<(), inflight::BoxError> + Send {
    move |cx| if cx.attempt() < attempt { Err("busy".into()) } else { Ok(()) }
}

#[test]
fn a_delayed_task_starts_when_its_time_has_come_and_not_before() {
    let clock = ManualClock::new();
    let manager = manager(&clock);
    let said = journal(&manager);
    manager.run_task(Task::once("late", |_| Ok(())).delay(SEC * 3)).unwrap();
    manager.run_task(Task::once("soon", |_| Ok(())).delay(SEC)).unwrap();
    assert_eq!(manager.tasks()[0].phase(), Phase::Delayed);
    clock.advance(SEC);
    assert_eq!(next(&said), "soon succeeded in attempt 1");
    assert!(said.try_recv().is_err());
    clock.advance(SEC * 2);
    assert_eq!(next(&said), "late succeeded in attempt 1");
}

#[test]
fn ten_thousand_delayed_tasks_occupy_the_supervisor_and_one_worker() {
    let clock = ManualClock::new();
    let manager = manager(&clock);
    for _ in 0..10_000 {
        manager.run_task(Task::once("later", |_| Ok(())).delay(SEC)).unwrap();
    }
    assert_eq!((manager.len(), manager.stats().threads), (10_000, 1));
    manager.close();
    clock.advance(SEC);
    manager.wait();
    assert_eq!(manager.stats().succeeded, 10_000);
}

#[test]
fn retries_follow_their_backoff_and_report_each_failure_once() {
    let clock = ManualClock::new();
    let manager = manager(&clock);
    let said = journal(&manager);
    let backoff = Backoff::exponential(SEC, SEC * 60).without_jitter();
    let retry = Retry::attempts(3).backoff(backoff);
    manager.run_task(Task::retrying("mail", fails_until(9)).retry(retry)).unwrap();
    assert_eq!(next(&said), "mail retried after 1: busy");
    await_phase(&manager, Phase::Delayed);
    clock.advance(SEC);
    assert_eq!(next(&said), "mail retried after 2: busy");
    await_phase(&manager, Phase::Delayed);
    clock.advance(SEC);
    assert!(said.try_recv().is_err(), "the second pause is twice as long");
    clock.advance(SEC);
    assert_eq!(next(&said), "mail failed in attempt 3: busy");
    manager.wait();
    let stats = manager.stats();
    assert_eq!((stats.added, stats.retried, stats.failed), (1, 2, 1));
}

#[test]
fn a_panic_is_a_failed_attempt() {
    let clock = ManualClock::new();
    let manager = manager(&clock);
    let said = journal(&manager);
    let task = |cx: &Context| if cx.attempt() == 1 { panic!("jammed") } else { Ok(()) };
    let retry = Retry::attempts(2).delays(|| [Duration::ZERO]);
    manager.run_task(Task::retrying("print", task).retry(retry)).unwrap();
    assert_eq!(next(&said), "print retried after 1: the task panicked: jammed");
    assert_eq!(next(&said), "print succeeded in attempt 2");
}

#[test]
fn when_picks_the_errors_that_are_worth_a_retry() {
    let manager = manager(&ManualClock::new());
    let said = journal(&manager);
    let retry = Retry::unlimited().when(|error| !error.to_string().contains("busy"));
    manager.run_task(Task::retrying("mail", fails_until(2)).retry(retry)).unwrap();
    assert_eq!(next(&said), "mail failed in attempt 1: busy");
}

#[test]
fn a_retry_closure_that_panics_gives_up_and_is_counted() {
    let manager = manager(&ManualClock::new());
    let said = journal(&manager);
    let retry = Retry::unlimited().when(|_| panic!("no idea"));
    manager.run_task(Task::retrying("mail", fails_until(2)).retry(retry)).unwrap();
    assert_eq!(next(&said), "mail failed in attempt 1: busy");
    manager.wait();
    assert_eq!(manager.stats().hook_panics, 1);
}

#[test]
fn the_builders_retry_is_for_tasks_that_can_be_repeated() {
    let retry = Retry::attempts(2).delays(|| [Duration::ZERO]);
    let manager = Manager::builder().clock(&ManualClock::new()).retry(retry).build().unwrap();
    let said = journal(&manager);
    manager.run("once", |_| Err("busy".into())).unwrap();
    assert_eq!(next(&said), "once failed in attempt 1: busy");
    manager.run_task(Task::retrying("twice", fails_until(2))).unwrap();
    assert_eq!(next(&said), "twice retried after 1: busy");
    assert_eq!(next(&said), "twice succeeded in attempt 2");
    manager.run_task(Task::retrying("own", fails_until(2)).retry(Retry::attempts(1))).unwrap();
    assert_eq!(next(&said), "own failed in attempt 1: busy");
}

#[test]
#[should_panic(expected = "Task::retrying")]
fn retry_on_a_task_that_runs_once_panics_in_the_setter() {
    let _ = Task::once("", |_| Ok(())).retry(Retry::attempts(2));
}

#[test]
#[should_panic(expected = "Task::looping")]
fn every_on_a_task_that_does_not_loop_panics_in_the_setter() {
    let _ = Task::once("", |_| Ok(())).every(SEC);
}

#[test]
fn cancel_ends_a_retry_pause_with_the_failure_it_had() {
    let clock = ManualClock::new();
    let manager = manager(&clock);
    let said = journal(&manager);
    let retry = Retry::unlimited().backoff(Backoff::constant(HANG));
    manager.run_task(Task::retrying("mail", fails_until(2)).retry(retry)).unwrap();
    assert_eq!(next(&said), "mail retried after 1: busy");
    await_phase(&manager, Phase::Delayed);
    manager.cancel();
    assert_eq!(next(&said), "mail failed in attempt 1: busy");
    manager.wait();
}

#[test]
fn cancel_ends_a_delayed_task_unrun() {
    let manager = manager(&ManualClock::new());
    let said = journal(&manager);
    manager.run_task(Task::once("later", |_| unreachable!()).delay(HANG)).unwrap();
    manager.cancel();
    assert_eq!(next(&said), "later failed in attempt 0: the task was cancelled");
}

#[test]
fn close_lets_delayed_tasks_and_retries_run_at_their_time() {
    let clock = ManualClock::new();
    let manager = manager(&clock);
    let said = journal(&manager);
    manager.run_task(Task::once("later", |_| Ok(())).delay(SEC)).unwrap();
    let retry = Retry::attempts(2).backoff(Backoff::constant(SEC * 2));
    manager.run_task(Task::retrying("mail", fails_until(2)).retry(retry)).unwrap();
    assert_eq!(next(&said), "mail retried after 1: busy");
    manager.close();
    await_phase(&manager, Phase::Delayed);
    clock.advance(SEC);
    assert_eq!(next(&said), "later succeeded in attempt 1");
    await_phase(&manager, Phase::Delayed);
    clock.advance(SEC);
    assert_eq!(next(&said), "mail succeeded in attempt 2");
}

#[test]
fn shutdown_gives_up_what_waits_and_reports_it_before_it_returns() {
    let clock = ManualClock::new();
    let manager = manager(&clock);
    let said = journal(&manager);
    manager.run_task(Task::once("later", |_| unreachable!()).delay(HANG)).unwrap();
    let (open, gate) = mpsc::channel::<()>();
    let (starts, started) = mpsc::channel();
    let stuck = move |_: &Context| {
        starts.send(())?;
        Ok(gate.recv()?)
    };
    manager.run("stuck", stuck).unwrap();
    started.recv_timeout(HANG).unwrap();
    let unfinished = manager.shutdown(Grace::drain(Duration::ZERO)).unwrap_err();
    let names: Vec<_> = unfinished.tasks().iter().map(|task| *task.meta()).collect();
    assert_eq!(names, ["later", "stuck"]);
    // Cancelled by a worker, or given up by the shutdown: either way it was reported by now.
    assert!(next(&said).starts_with("later failed in attempt 0"));
    open.send(()).unwrap();
    assert_eq!(next(&said), "stuck succeeded in attempt 1");
}

// -- loops ------------------------------------------------------------------------------------------------

#[test]
fn a_loop_repeats_until_it_is_closed_and_ends_silently() {
    let manager = manager(&ManualClock::new());
    let said = journal(&manager);
    let (count, goes) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
    let counts = Arc::clone(&count);
    let task = move |_: &Context| {
        counts.fetch_add(1, Ordering::SeqCst);
        Ok(())
    };
    manager.run_task(Task::looping("poll", task)).unwrap();
    for _ in 0..100 {
        assert_eq!(next(&said), "poll succeeded in attempt 1");
        goes.fetch_add(1, Ordering::SeqCst);
    }
    assert_eq!(manager.count_of(Kind::Loop), 1);
    assert!(manager.wait_timeout(Duration::ZERO).is_ok(), "an open manager's wait leaves loops out");
    manager.close();
    manager.wait();
    let reported = goes.load(Ordering::SeqCst) + said.try_iter().count();
    assert_eq!((reported, manager.len()), (count.load(Ordering::SeqCst), 0));
    assert_eq!(manager.stats().succeeded as usize, reported);
    let late = manager.run_task(Task::looping("late", |_| Ok(()))).unwrap_err();
    assert!(matches!(late.reason(), Reason::Closed));
}

#[test]
fn a_period_is_measured_from_start_to_start_without_bursts() {
    let clock = ManualClock::new();
    let manager = manager(&clock);
    let (starts, started) = mpsc::channel();
    let watch = clock.clone();
    let task = move |_: &Context| {
        starts.send(watch.elapsed())?;
        if watch.elapsed() == SEC * 10 {
            watch.advance(SEC * 35);
        }
        Ok(())
    };
    manager.run_task(Task::looping("poll", task).every(SEC * 10)).unwrap();
    let next = || started.recv_timeout(HANG).unwrap();
    assert_eq!(next(), Duration::ZERO);
    await_phase(&manager, Phase::Delayed);
    clock.advance(SEC * 10);
    assert_eq!(next(), SEC * 10);
    assert_eq!(next(), SEC * 45, "it took too long: the next starts at once");
    await_phase(&manager, Phase::Delayed);
    assert!(started.try_recv().is_err(), "what was missed is not made up for");
    clock.advance(SEC * 10);
    assert_eq!(next(), SEC * 55);
}

#[test]
fn a_failed_iteration_is_reported_and_the_loop_goes_on_after_a_pause() {
    let clock = ManualClock::new();
    let manager = manager(&clock);
    let said = journal(&manager);
    let calls = AtomicU32::new(0);
    let task = move |_: &Context| {
        if calls.fetch_add(1, Ordering::SeqCst) < 2 { Err("busy".into()) } else { Ok(()) }
    };
    manager.run_task(Task::looping("poll", task)).unwrap();
    for _ in 0..2 {
        assert_eq!(next(&said), "poll failed in attempt 1: busy");
        await_phase(&manager, Phase::Delayed);
        assert!(said.try_recv().is_err(), "it does not spin");
        clock.advance(SEC);
    }
    assert_eq!(next(&said), "poll succeeded in attempt 1");
    assert_eq!(next(&said), "poll succeeded in attempt 1");
}

#[test]
fn a_loop_that_waits_for_its_next_iteration_ends_at_once_on_close() {
    let manager = manager(&ManualClock::new());
    let said = journal(&manager);
    manager.run_task(Task::looping("poll", |_| Ok(())).every(HANG)).unwrap();
    assert_eq!(next(&said), "poll succeeded in attempt 1");
    await_phase(&manager, Phase::Delayed);
    manager.close();
    manager.wait();
    assert!(said.try_recv().is_err());
}

#[test]
fn a_cancelled_iteration_is_the_loops_silent_end() {
    let manager = manager(&ManualClock::new());
    let said = journal(&manager);
    let (starts, started) = mpsc::channel();
    let task = move |cx: &Context| {
        starts.send(())?;
        Ok(cx.sleep(Duration::MAX)?)
    };
    manager.run_task(Task::looping("poll", task)).unwrap();
    started.recv_timeout(HANG).unwrap();
    manager.cancel();
    manager.wait();
    assert!(said.try_recv().is_err());
}

// -- timeouts ---------------------------------------------------------------------------------------------

#[test]
fn a_timeout_wakes_a_sleeper_and_ends_the_task_as_timed_out() {
    let clock = ManualClock::new();
    let manager = manager(&clock);
    let (starts, started) = mpsc::channel();
    let errors = Arc::new(Mutex::new(Vec::new()));
    let told = Arc::clone(&errors);
    manager.on_task_failed(move |_, _, error| told.lock().unwrap().push(error.clone()));
    let task = move |cx: &Context| {
        starts.send(cx.remaining())?;
        Ok(cx.sleep(Duration::MAX)?)
    };
    manager.run_task(Task::once("slow", task).timeout(SEC)).unwrap();
    assert_eq!(started.recv_timeout(HANG).unwrap(), Some(SEC));
    clock.advance(SEC);
    manager.wait();
    assert!(matches!(errors.lock().unwrap()[..], [TaskError::TimedOut]));
}

#[test]
fn an_error_that_has_nothing_to_do_with_the_timeout_stays_what_it_is() {
    let clock = ManualClock::new();
    let manager = manager(&clock);
    let said = journal(&manager);
    let watch = clock.clone();
    let task = move |_: &Context| {
        watch.advance(SEC * 2);
        Err("no paper".into())
    };
    manager.run_task(Task::once("print", task).timeout(SEC)).unwrap();
    assert_eq!(next(&said), "print failed in attempt 1: no paper");
}

#[test]
fn a_retry_that_would_start_past_the_timeout_does_not() {
    let clock = ManualClock::new();
    let manager = manager(&clock);
    let said = journal(&manager);
    let retry = Retry::unlimited().backoff(Backoff::constant(SEC));
    let task = Task::retrying("mail", fails_until(99)).retry(retry).timeout(SEC * 2);
    manager.run_task(task).unwrap();
    assert_eq!(next(&said), "mail retried after 1: busy");
    await_phase(&manager, Phase::Delayed);
    clock.advance(SEC);
    assert_eq!(next(&said), "mail failed in attempt 2: busy");
}

#[test]
fn in_a_loop_the_timeout_is_for_each_iteration() {
    let clock = ManualClock::new();
    let manager = manager(&clock);
    let said = journal(&manager);
    let watch = clock.clone();
    let task = move |cx: &Context| {
        watch.advance(SEC);
        Ok(cx.check()?)
    };
    manager.run_task(Task::looping("poll", task).timeout(SEC * 2)).unwrap();
    for _ in 0..5 {
        assert_eq!(next(&said), "poll succeeded in attempt 1");
    }
}

// -- stalls -----------------------------------------------------------------------------------------------

#[test]
fn a_stall_is_reported_once_and_so_is_its_end() {
    let clock = ManualClock::new();
    let manager = manager(&clock);
    let said = journal(&manager);
    let (go, goes) = mpsc::channel::<&str>();
    let task = move |cx: &Context| {
        while let Ok(note) = goes.recv() {
            cx.progress(note);
        }
        Ok(())
    };
    manager.run_task(Task::once("import", task).stalled_after(SEC * 5)).unwrap();
    await_phase(&manager, Phase::Running);
    clock.advance(SEC * 5);
    assert_eq!(next(&said), "import stalled for 5s");
    clock.advance(SEC * 20);
    go.send("row 7").unwrap();
    assert_eq!(next(&said), "import recovered after 25s");
    clock.advance(SEC * 6);
    assert_eq!(next(&said), "import stalled for 6s", "the watch starts anew");
    clock.advance(SEC);
    drop(go);
    assert_eq!(next(&said), "import recovered after 7s");
    assert_eq!(next(&said), "import succeeded in attempt 1");
    manager.wait();
    assert_eq!(manager.stats().stalled, 2);
}

#[test]
fn progress_is_a_sign_of_life() {
    let clock = ManualClock::new();
    let manager = manager(&clock);
    let said = journal(&manager);
    let watch = clock.clone();
    let task = move |cx: &Context| {
        for row in 0..20 {
            watch.advance(SEC);
            cx.progress(format!("row {row}"));
        }
        Ok(())
    };
    manager.run_task(Task::once("import", task).stalled_after(SEC * 5)).unwrap();
    assert_eq!(next(&said), "import succeeded in attempt 1");
}

#[test]
fn a_stall_hook_that_blocks_holds_up_neither_the_clock_nor_other_tasks() {
    let clock = ManualClock::new();
    let manager = manager(&clock);
    let (open, gate) = mpsc::channel::<()>();
    let (hooks, hook) = mpsc::channel();
    let gate = Mutex::new(gate);
    manager.on_task_stalled(move |_, meta, _| {
        let _ = hooks.send(*meta);
        let _ = gate.lock().unwrap().recv_timeout(HANG);
    });
    let (end, ends) = mpsc::channel::<()>();
    let stuck = move |_: &Context| Ok(ends.recv_timeout(HANG)?);
    manager.run_task(Task::once("stuck", stuck).stalled_after(SEC)).unwrap();
    await_phase(&manager, Phase::Running);
    clock.advance(SEC);
    assert_eq!(hook.recv_timeout(HANG).unwrap(), "stuck");
    let (done, dones) = mpsc::channel();
    manager.run_task(Task::once("later", move |_| Ok(done.send(())?)).delay(SEC)).unwrap();
    clock.advance(SEC);
    dones.recv_timeout(HANG).unwrap();
    open.send(()).unwrap();
    end.send(()).unwrap();
    manager.wait_timeout(Duration::MAX).unwrap();
}

#[test]
fn a_task_whose_clock_thread_is_refused_comes_back_whole() {
    let refuse = |name: &str| match name.ends_with("supervisor") {
        true => Err(io::ErrorKind::WouldBlock.into()),
        false => Ok(()),
    };
    let manager = Manager::builder().thread_gate(refuse).build().unwrap();
    let rejected = manager.run_task(Task::once("later", |_| Ok(())).delay(SEC)).unwrap_err();
    assert!(matches!(rejected.reason(), Reason::Spawn(_)));
    manager.run("now", |_| Ok(())).unwrap();
    manager.wait_timeout(HANG).unwrap();
}

#[test]
fn a_jump_of_the_clock_causes_no_storm() {
    let clock = ManualClock::new();
    let manager = manager(&clock);
    let said = journal(&manager);
    manager.run_task(Task::looping("poll", |_| Ok(())).every(SEC)).unwrap();
    assert_eq!(next(&said), "poll succeeded in attempt 1");
    await_phase(&manager, Phase::Delayed);
    clock.advance(SEC * 1_000_000);
    assert_eq!(next(&said), "poll succeeded in attempt 1");
    await_phase(&manager, Phase::Delayed);
    assert!(said.try_recv().is_err());
}
