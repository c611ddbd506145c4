//! SIGTERM, whatever it finds: each of these tests runs this binary once more, with itself alone in it, and sends that
//! process a signal when it says that it has reached its phase. The child drains, and says what ran and what was
//! reported; the parent checks that nothing is missing and nothing there twice, and how the process ended. Unix only.
//! Covered here:
//!
//! - before there is a manager, with nothing to do, and after a shutdown;
//! - a task that is delayed, queued, running, being cancelled, in its retry pause, stalled; a loop that sleeps, and one
//!   in an iteration; a submitter that waits for room;
//! - budgets that are kept, that end in a cancel, and that end with survivors;
//! - the second signal, in the midst of a drain; signals that nobody has asked for.

#![cfg(unix)]
#![allow(clippy::unwrap_used)]

use inflight::signal::{self, Signals};
use inflight::{Builder, Context, Grace, Manager, ManualClock, Phase, Retry, Task, TaskError};
use std::io::{BufRead, BufReader};
use std::os::unix::process::ExitStatusExt;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc::{self, Receiver};
use std::time::Duration;

/// Guards against a hang: nothing in these tests takes as long.
const HANG: Duration = Duration::from_secs(60);
const HOUR: Duration = Duration::from_secs(3600);

/// Says to a child that it is one.
const CHILD: &str = "INFLIGHT_TEST_CHILD";

/// How a child ends whose tasks have all ended, and one with survivors.
const CLEAN: i32 = 10;
const UNFINISHED: i32 = 11;

const SIGINT: i32 = 2;
const SIGTERM: i32 = 15;

// -- the parent -----------------------------------------------------------------------------------------------

/// A process of its own that runs one test.
struct Process {
    child: Child,
    lines: Receiver<String>,
    said: Vec<String>,
}

/// Does `main` in a process of its own, in which the test `name` is run; its answer is the exit code.
fn in_a_process(name: &str, main: impl FnOnce() -> i32) -> Process {
    if std::env::var_os(CHILD).is_some() {
        std::process::exit(main());
    }
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "--nocapture", "--test-threads", "1", name])
        .env(CHILD, "1")
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let output = BufReader::new(child.stdout.take().unwrap());
    let (says, lines) = mpsc::channel();
    std::thread::spawn(move || {
        for line in output.lines().map_while(Result::ok) {
            // What is not the child's own is the test harness's.
            if let Some(said) = line.strip_prefix("> ") {
                let _ = says.send(said.to_owned());
            }
        }
    });
    Process { child, lines, said: Vec::new() }
}

impl Process {
    /// Waits until the child has said `line`.
    #[track_caller]
    fn until(mut self, line: &str) -> Self {
        while self.said.last().is_none_or(|said| said != line) {
            let said = self.lines.recv_timeout(HANG);
            self.said.push(said.unwrap_or_else(|_| panic!("it never says {line:?}: {:?}", self.said)));
        }
        self
    }

    fn send(self, signal: &str) -> Self {
        kill(signal, self.child.id());
        self
    }

    /// What it said, sorted, and how it ended.
    #[track_caller]
    fn end(mut self) -> (Vec<String>, ExitStatus) {
        loop {
            match self.lines.recv_timeout(HANG) {
                Ok(line) => self.said.push(line),
                Err(mpsc::RecvTimeoutError::Disconnected) => break,
                Err(mpsc::RecvTimeoutError::Timeout) => panic!("it hangs: {:?}", self.said),
            }
        }
        let status = self.child.wait().unwrap();
        let mut said = std::mem::take(&mut self.said);
        said.sort();
        (said, status)
    }

    /// SIGTERM finds it ready; in all it says just this, in whatever order, and ends with `code`.
    #[track_caller]
    fn ends(self, code: i32, said: &[&str]) {
        let (seen, status) = self.until("ready").send("TERM").end();
        let mut expected = [&["ready", "SIGTERM"], said].concat();
        expected.sort_unstable();
        assert_eq!(seen, expected);
        assert_eq!(status.code(), Some(code), "{status}");
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // Gone already, unless the test has failed.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn kill(signal: &str, process: u32) {
    let sent = Command::new("kill").args([&format!("-{signal}"), &process.to_string()]).status();
    assert!(sent.unwrap().success());
}

// -- the child ------------------------------------------------------------------------------------------------

fn say(line: &str) {
    // At the beginning of a line, whatever the harness has written.
    println!("\n> {line}");
}

/// A manager that says what becomes of its tasks.
fn manager(builder: Builder<&'static str>) -> Manager<&'static str> {
    let manager = builder.build().unwrap();
    manager
        .on_task_succeeded(|_, meta| say(&format!("{meta} succeeded")))
        .on_task_failed(|_, meta, error| match error {
            TaskError::Cancelled => say(&format!("{meta} was cancelled")),
            TaskError::Abandoned => say(&format!("{meta} was abandoned")),
            error => say(&format!("{meta} failed: {error}")),
        })
        .on_task_retried(|_, meta, error, _| say(&format!("{meta} is to be retried: {error}")))
        .on_task_recovered(|_, meta, _| say(&format!("{meta} recovered")));
    manager
}

/// Of two threads.
fn pool() -> Manager<&'static str> {
    manager(Manager::builder().max_threads(2))
}

/// A task that says that it runs.
fn runs(meta: &'static str) -> Task<&'static str> {
    Task::once(meta, move |_| Ok(say(&format!("{meta} ran"))))
}

/// A task that fails at first.
fn fails_once(meta: &'static str) -> Task<&'static str> {
    let task = move |cx: &Context| {
        say(&format!("{meta} ran"));
        if cx.attempt() == 1 { Err("busy".into()) } else { Ok(()) }
    };
    Task::retrying(meta, task).retry(Retry::attempts(2).delays(|| [HOUR]))
}

/// A task that is at work from when this returns until the drain has begun.
fn outlasts_the_signal(manager: &Manager<&'static str>, meta: &'static str) {
    at_work(manager, |handle, starts| {
        Task::once(meta, move |_| {
            starts.send(())?;
            until(|| handle.is_closed());
            Ok(say(&format!("{meta} ran")))
        })
    });
}

/// A task that is at work from when this returns until it is told to stop.
fn sleeps(manager: &Manager<&'static str>, meta: &'static str) {
    at_work(manager, |_, starts| {
        Task::once(meta, move |cx| {
            starts.send(())?;
            Ok(cx.sleep(Duration::MAX)?)
        })
    });
}

/// A task that is at work from when this returns, and for ever.
fn is_deaf(manager: &Manager<&'static str>, meta: &'static str) {
    at_work(manager, |_, starts| {
        Task::once(meta, move |cx| {
            cx.progress("page 3 of 7");
            starts.send(())?;
            loop {
                std::thread::park();
            }
        })
    });
}

fn at_work(
    manager: &Manager<&'static str>,
    task: impl FnOnce(Manager<&'static str>, mpsc::Sender<()>) -> Task<&'static str>,
) {
    let (starts, started) = mpsc::channel();
    manager.run_task(task(manager.uncounted(), starts)).unwrap();
    started.recv().unwrap();
}

/// Waits until another thread has brought it about. The parent guards against a hang.
fn until(holds: impl Fn() -> bool) {
    while !holds() {
        std::thread::yield_now();
    }
}

/// Waits until the only task waits for its time.
fn until_delayed(manager: &Manager<&'static str>) {
    until(|| manager.tasks().iter().all(|task| task.phase() == Phase::Delayed));
}

/// Moves the clock by an hour once the drain has begun.
fn an_hour_into_the_drain(manager: &Manager<&'static str>, clock: ManualClock) {
    let handle = manager.uncounted();
    std::thread::spawn(move || {
        until(|| handle.is_closed());
        clock.advance(HOUR);
    });
}

/// Says that all is ready, shuts down at the signal, and answers with the exit code.
fn until_signal(signals: Signals, manager: &Manager<&'static str>, grace: Grace) -> i32 {
    say("ready");
    shut_down(signals, manager, grace)
}

fn shut_down(signals: Signals, manager: &Manager<&'static str>, grace: Grace) -> i32 {
    say(&signals.wait().to_string());
    let Err(left) = manager.shutdown(grace) else { return CLEAN };
    for task in left.tasks() {
        let progress = task.progress().map_or(String::new(), |note| format!(" at {note}"));
        say(&format!("{} is left, {:?}{progress}", task.meta(), task.phase()));
    }
    UNFINISHED
}

/// A drain that nothing outlasts.
fn patience() -> Grace {
    Grace::drain(Duration::MAX)
}

/// No drain, and time for what is told to stop.
fn a_cancel() -> Grace {
    Grace::drain(Duration::ZERO).then_cancel(Duration::MAX)
}

// -- no task --------------------------------------------------------------------------------------------------

#[test]
fn a_signal_before_there_is_a_manager_is_not_lost() {
    let process = in_a_process("a_signal_before_there_is_a_manager_is_not_lost", || {
        let signals = signal::register().unwrap();
        kill("TERM", std::process::id());
        let manager = pool();
        manager.run_task(runs("late")).unwrap();
        shut_down(signals, &manager, patience())
    });
    let (said, status) = process.end();
    assert_eq!(said, ["SIGTERM", "late ran", "late succeeded"]);
    assert_eq!(status.code(), Some(CLEAN), "{status}");
}

#[test]
fn a_signal_finds_nothing_to_do() {
    in_a_process("a_signal_finds_nothing_to_do", || {
        until_signal(signal::register().unwrap(), &pool(), patience())
    })
    .ends(CLEAN, &[]);
}

#[test]
fn a_signal_after_a_shutdown_finds_nothing_to_do() {
    in_a_process("a_signal_after_a_shutdown_finds_nothing_to_do", || {
        let (signals, manager) = (signal::register().unwrap(), pool());
        manager.run_task(runs("early")).unwrap();
        manager.shutdown(patience()).unwrap();
        until_signal(signals, &manager, patience())
    })
    .ends(CLEAN, &["early ran", "early succeeded"]);
}

// -- tasks that run -------------------------------------------------------------------------------------------

#[test]
fn a_signal_finds_tasks_that_run() {
    in_a_process("a_signal_finds_tasks_that_run", || {
        let (signals, manager) = (signal::register().unwrap(), pool());
        outlasts_the_signal(&manager, "one");
        outlasts_the_signal(&manager, "two");
        until_signal(signals, &manager, patience())
    })
    .ends(CLEAN, &["one ran", "one succeeded", "two ran", "two succeeded"]);
}

#[test]
fn a_signal_finds_tasks_that_are_told_to_stop() {
    in_a_process("a_signal_finds_tasks_that_are_told_to_stop", || {
        let (signals, manager) = (signal::register().unwrap(), pool());
        sleeps(&manager, "one");
        sleeps(&manager, "two");
        until_signal(signals, &manager, a_cancel())
    })
    .ends(CLEAN, &["one was cancelled", "two was cancelled"]);
}

#[test]
fn a_signal_finds_a_task_that_is_being_cancelled() {
    in_a_process("a_signal_finds_a_task_that_is_being_cancelled", || {
        let (signals, manager) = (signal::register().unwrap(), pool());
        let (steps, step) = mpsc::channel();
        let handle = manager.uncounted();
        let tidies = move |cx: &Context| {
            steps.send(())?;
            let told = cx.sleep(Duration::MAX);
            steps.send(())?;
            until(|| handle.is_closed());
            say("it has tidied up");
            Ok(told?)
        };
        let task = manager.spawn("told", tidies).unwrap();
        step.recv().unwrap();
        task.cancel();
        step.recv().unwrap();
        assert_eq!(manager.tasks()[0].phase(), Phase::Cancelling);
        until_signal(signals, &manager, patience())
    })
    .ends(CLEAN, &["it has tidied up", "told was cancelled"]);
}

#[test]
fn a_signal_finds_a_task_that_stalls() {
    in_a_process("a_signal_finds_a_task_that_stalls", || {
        let (signals, clock) = (signal::register().unwrap(), ManualClock::new());
        let manager = manager(Manager::builder().clock(&clock).stalled_after(HOUR));
        let (stalls, stalled) = mpsc::channel();
        manager.on_task_stalled(move |_, meta, _| {
            say(&format!("{meta} stalled"));
            stalls.send(()).unwrap();
        });
        outlasts_the_signal(&manager, "slow");
        clock.advance(HOUR);
        stalled.recv().unwrap();
        until_signal(signals, &manager, patience())
    })
    .ends(CLEAN, &["slow stalled", "slow ran", "slow recovered", "slow succeeded"]);
}

// -- tasks that wait ------------------------------------------------------------------------------------------

#[test]
fn a_signal_finds_tasks_behind_a_bounded_pool() {
    in_a_process("a_signal_finds_tasks_behind_a_bounded_pool", || {
        let (signals, manager) = (signal::register().unwrap(), pool());
        outlasts_the_signal(&manager, "one");
        outlasts_the_signal(&manager, "two");
        manager.run_task(runs("three")).unwrap();
        manager.run_task(runs("four")).unwrap();
        until_signal(signals, &manager, patience())
    })
    .ends(
        CLEAN,
        &[
            "one ran",
            "one succeeded",
            "two ran",
            "two succeeded",
            "three ran",
            "three succeeded",
            "four ran",
            "four succeeded",
        ],
    );
}

#[test]
fn a_signal_finds_tasks_behind_a_bounded_pool_that_are_not_to_start() {
    in_a_process("a_signal_finds_tasks_behind_a_bounded_pool_that_are_not_to_start", || {
        let (signals, manager) = (signal::register().unwrap(), pool());
        sleeps(&manager, "one");
        sleeps(&manager, "two");
        manager.run_task(runs("three")).unwrap();
        until_signal(signals, &manager, a_cancel())
    })
    .ends(CLEAN, &["one was cancelled", "two was cancelled", "three was cancelled"]);
}

#[test]
fn a_signal_finds_a_submitter_that_waits_for_room() {
    in_a_process("a_signal_finds_a_submitter_that_waits_for_room", || {
        let signals = signal::register().unwrap();
        let manager = manager(Manager::builder().max_threads(1).max_pending(1));
        outlasts_the_signal(&manager, "one");
        manager.run_task(runs("two")).unwrap();
        let (submits, submitted) = mpsc::channel();
        let handle = manager.uncounted();
        let submitter = std::thread::spawn(move || {
            submits.send(()).unwrap();
            let rejected = handle.run_task(runs("three")).unwrap_err();
            say(&format!("{} is handed back: {}", rejected.meta(), rejected.reason()));
        });
        submitted.recv().unwrap();
        let code = until_signal(signals, &manager, patience());
        submitter.join().unwrap();
        code
    })
    .ends(
        CLEAN,
        &[
            "one ran",
            "one succeeded",
            "two ran",
            "two succeeded",
            "three is handed back: the manager is closed",
        ],
    );
}

#[test]
fn a_signal_finds_a_delayed_task_whose_time_comes() {
    in_a_process("a_signal_finds_a_delayed_task_whose_time_comes", || {
        let (signals, clock) = (signal::register().unwrap(), ManualClock::new());
        let manager = manager(Manager::builder().clock(&clock));
        manager.run_task(runs("later").delay(HOUR)).unwrap();
        an_hour_into_the_drain(&manager, clock);
        until_signal(signals, &manager, patience())
    })
    .ends(CLEAN, &["later ran", "later succeeded"]);
}

#[test]
fn a_signal_finds_a_delayed_task_whose_time_does_not_come() {
    in_a_process("a_signal_finds_a_delayed_task_whose_time_does_not_come", || {
        let (signals, manager) = (signal::register().unwrap(), pool());
        manager.run_task(runs("later").delay(HOUR)).unwrap();
        until_signal(signals, &manager, a_cancel())
    })
    .ends(CLEAN, &["later was cancelled"]);
}

#[test]
fn a_signal_finds_a_retry_pause_that_ends() {
    in_a_process("a_signal_finds_a_retry_pause_that_ends", || {
        let (signals, clock) = (signal::register().unwrap(), ManualClock::new());
        let manager = manager(Manager::builder().clock(&clock));
        manager.run_task(fails_once("flaky")).unwrap();
        until_delayed(&manager);
        an_hour_into_the_drain(&manager, clock);
        until_signal(signals, &manager, patience())
    })
    .ends(CLEAN, &["flaky ran", "flaky is to be retried: busy", "flaky ran", "flaky succeeded"]);
}

#[test]
fn a_signal_finds_a_retry_pause_and_ends_it() {
    in_a_process("a_signal_finds_a_retry_pause_and_ends_it", || {
        let (signals, manager) = (signal::register().unwrap(), pool());
        manager.run_task(fails_once("flaky")).unwrap();
        until_delayed(&manager);
        until_signal(signals, &manager, a_cancel())
    })
    .ends(CLEAN, &["flaky ran", "flaky is to be retried: busy", "flaky failed: busy"]);
}

// -- loops ----------------------------------------------------------------------------------------------------

#[test]
fn a_signal_finds_a_loop_asleep() {
    in_a_process("a_signal_finds_a_loop_asleep", || {
        let (signals, manager) = (signal::register().unwrap(), pool());
        manager.run_task(Task::looping("loop", |_| Ok(say("loop ran"))).every(HOUR)).unwrap();
        until_delayed(&manager);
        until_signal(signals, &manager, patience())
    })
    .ends(CLEAN, &["loop ran", "loop succeeded"]);
}

#[test]
fn a_signal_finds_a_loop_in_an_iteration() {
    in_a_process("a_signal_finds_a_loop_in_an_iteration", || {
        let (signals, manager) = (signal::register().unwrap(), pool());
        at_work(&manager, |handle, starts| {
            Task::looping("loop", move |_| {
                starts.send(())?;
                until(|| handle.is_closed());
                Ok(say("loop ran"))
            })
        });
        until_signal(signals, &manager, patience())
    })
    .ends(CLEAN, &["loop ran", "loop succeeded"]);
}

#[test]
fn a_signal_finds_a_loop_in_an_iteration_that_is_told_to_stop() {
    in_a_process("a_signal_finds_a_loop_in_an_iteration_that_is_told_to_stop", || {
        let (signals, manager) = (signal::register().unwrap(), pool());
        at_work(&manager, |_, starts| {
            Task::looping("loop", move |cx| {
                starts.send(())?;
                Ok(cx.sleep(Duration::MAX)?)
            })
        });
        until_signal(signals, &manager, a_cancel())
    })
    .ends(CLEAN, &[]);
}

// -- survivors, and the end by force --------------------------------------------------------------------------

#[test]
fn a_signal_that_leaves_no_time_has_everything_named() {
    in_a_process("a_signal_that_leaves_no_time_has_everything_named", || {
        let signals = signal::register().unwrap();
        // Its one thread is taken, so that nothing else comes to an end by itself.
        let manager = manager(Manager::builder().max_threads(1));
        manager.run_task(fails_once("flaky")).unwrap();
        manager.run_task(Task::looping("loop", |_| Ok(say("loop ran"))).every(HOUR)).unwrap();
        manager.run_task(runs("later").delay(HOUR)).unwrap();
        until_delayed(&manager);
        is_deaf(&manager, "deaf");
        manager.run_task(runs("queued")).unwrap();
        let code = until_signal(signals, &manager, Grace::drain(Duration::ZERO));
        let stats = manager.stats();
        assert_eq!((stats.added, stats.succeeded, stats.failed), (5, 1, 3));
        code
    })
    .ends(
        UNFINISHED,
        &[
            "flaky ran",
            "flaky is to be retried: busy",
            "flaky was abandoned",
            "flaky is left, Queued",
            "loop ran",
            "loop succeeded",
            "loop is left, Queued",
            "later was abandoned",
            "later is left, Queued",
            "deaf is left, Cancelling at page 3 of 7",
            "queued was abandoned",
            "queued is left, Queued",
        ],
    );
}

#[test]
fn a_second_signal_in_the_drain_ends_the_process() {
    for (second, number) in [("TERM", SIGTERM), ("INT", SIGINT)] {
        let process = in_a_process("a_second_signal_in_the_drain_ends_the_process", || {
            let (signals, manager) = (signal::register().unwrap(), pool());
            is_deaf(&manager, "deaf");
            outlasts_the_signal(&manager, "one");
            until_signal(signals, &manager, patience())
        });
        let process = process.until("ready").send("TERM").until("one succeeded").send(second);
        let (said, status) = process.end();
        assert_eq!(said, ["SIGTERM", "one ran", "one succeeded", "ready"]);
        assert_eq!((status.code(), status.signal()), (None, Some(number)), "{status}");
    }
}

#[test]
fn without_being_asked_no_signal_is_caught() {
    let process = in_a_process("without_being_asked_no_signal_is_caught", || {
        let manager = pool();
        sleeps(&manager, "task");
        say("ready");
        manager.wait();
        CLEAN
    });
    let (said, status) = process.until("ready").send("TERM").end();
    assert_eq!(said, ["ready"]);
    assert_eq!(status.signal(), Some(SIGTERM), "{status}");
}

#[test]
fn signals_that_are_dropped_catch_none_any_more() {
    let process = in_a_process("signals_that_are_dropped_catch_none_any_more", || {
        let (signals, manager) = (signal::register().unwrap(), pool());
        sleeps(&manager, "task");
        drop(signals);
        say("ready");
        manager.wait();
        CLEAN
    });
    let (said, status) = process.until("ready").send("TERM").end();
    assert_eq!(said, ["ready"]);
    assert_eq!(status.signal(), Some(SIGTERM), "{status}");
}
