//! Faults, injected through the seams, and code of the user's that turns on its manager. Covered here:
//!
//! - threads are refused: the first, all, every other, all after so many, only helpers; with elastic threads, a
//!   thread per task, a scope; from one submitter and from several;
//! - the clock jumps forward, by a minute, by a year, to its end, in the midst of all that waits for its time;
//! - every place where the user's code runs (task, hooks, `capture`, `enter`, guards, retry closures, and the drops of
//!   captures, errors, values, guards, hooks and Meta, and Meta's `Debug`) calls back into the manager, panics, or
//!   both; and closes, cancels or shuts down from there.

#![allow(clippy::unwrap_used)]

mod common;

use common::{HANG, in_time};
use inflight::{
    BoxError, Builder, Context, Grace, Manager, ManualClock, Phase, Reason, Rejected, Retry, Task, TaskError,
    TaskInfo,
};
use std::collections::BTreeMap;
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::sync::{Arc, Mutex, OnceLock, mpsc};
use std::thread;
use std::time::Duration;

// -- threads that are refused ---------------------------------------------------------------------------------

/// Which threads are granted, by their number from 0.
type Grants = fn(usize) -> bool;

const PATTERNS: [(&str, Grants); 5] = [
    ("all but the first", |nth| nth > 0),
    ("none", |_| false),
    ("every other", |nth| nth % 2 == 1),
    ("the first three", |nth| nth < 3),
    ("one in seven", |nth| nth % 7 == 6),
];

fn gate(grants: Grants) -> impl Fn(&str) -> io::Result<()> + Send + Sync {
    let asked = AtomicUsize::new(0);
    move |_: &str| {
        if grants(asked.fetch_add(1, SeqCst)) { Ok(()) } else { Err(io::ErrorKind::WouldBlock.into()) }
    }
}

/// What the hooks have seen.
#[derive(Clone, Default)]
struct Ends {
    added: Arc<AtomicUsize>,
    succeeded: Arc<AtomicUsize>,
    failed: Arc<AtomicUsize>,
}

/// Tasks of every kind that is submitted by value, one after the other.
fn task(nth: usize, ran: &Arc<AtomicUsize>) -> Task<usize> {
    let ran = Arc::clone(ran);
    let count = move |_: &Context| -> Result<(), BoxError> {
        ran.fetch_add(1, SeqCst);
        Ok(())
    };
    match nth % 4 {
        0 | 1 => Task::once(nth, count),
        2 => Task::once(nth, count).delay(Duration::from_millis(1)),
        _ => Task::once(nth, count).stalled_after(HANG),
    }
}

fn counted(manager: &Manager<usize>) -> Ends {
    let ends = Ends::default();
    let Ends { added, succeeded, failed } = ends.clone();
    manager
        .on_task_added(move |_, _| _ = added.fetch_add(1, SeqCst))
        .on_task_succeeded(move |_, _| _ = succeeded.fetch_add(1, SeqCst))
        .on_task_failed(move |_, _, _| _ = failed.fetch_add(1, SeqCst));
    ends
}

/// Each accepted task ends once, each rejected one comes back whole and was not run.
fn survives(build: impl Fn() -> Builder<usize>) {
    for (pattern, grants) in PATTERNS {
        let builder = build().thread_gate(gate(grants));
        let (accepted, rejected, ran, ends, stats) = in_time(move || {
            let manager = builder.build().unwrap();
            let ends = counted(&manager);
            let ran = Arc::new(AtomicUsize::new(0));
            let submit = |from: usize| {
                let (mut accepted, mut rejected) = (0, 0);
                for nth in from..from + 100 {
                    match manager.run_task(task(nth, &ran)) {
                        Ok(_) => accepted += 1,
                        Err(back) => {
                            assert!(matches!(back.reason(), Reason::Spawn(_)));
                            assert_eq!(*back.meta(), nth);
                            rejected += 1;
                        }
                    }
                }
                (accepted, rejected)
            };
            let (first, second) = thread::scope(|scope| {
                let other = scope.spawn(|| submit(1_000));
                (submit(0), other.join().unwrap())
            });
            manager.wait();
            let stats = manager.stats();
            drop(manager);
            (first.0 + second.0, first.1 + second.1, ran.load(SeqCst), ends, stats)
        });
        let seen = [&ends.added, &ends.succeeded, &ends.failed].map(|count| count.load(SeqCst));
        assert_eq!(seen, [accepted, accepted, 0], "with {pattern} granted");
        assert_eq!((ran, accepted + rejected), (accepted, 200), "with {pattern} granted");
        assert_eq!((stats.added, stats.rejected), (accepted as u64, rejected as u64));
        assert_eq!(accepted == 0, pattern == "none");
    }
}

#[test]
fn elastic_threads_that_are_refused_lose_no_task() {
    survives(Manager::builder);
}

#[test]
fn a_small_pool_whose_threads_are_refused_loses_no_task() {
    survives(|| Manager::builder().max_threads(2).keep_alive(Duration::ZERO));
}

#[test]
fn a_thread_per_task_that_is_refused_loses_no_task() {
    survives(|| Manager::builder().thread_per_task());
}

#[test]
fn a_small_number_of_threads_per_task_that_are_refused_loses_no_task() {
    survives(|| Manager::builder().thread_per_task().max_threads(2));
}

#[test]
fn a_scope_whose_threads_are_refused_loses_no_task() {
    for thread_per_task in [false, true] {
        for (pattern, grants) in PATTERNS {
            let (accepted, rejected, ran) = in_time(move || {
                let builder = Manager::<usize>::builder().thread_gate(gate(grants));
                let builder = if thread_per_task { builder.thread_per_task() } else { builder };
                let ran = AtomicUsize::new(0);
                let (accepted, rejected) = builder
                    .scope(|s| {
                        let (mut accepted, mut rejected) = (0, 0);
                        for nth in 0..100 {
                            let count = |_: &Context| Ok(_ = ran.fetch_add(1, SeqCst));
                            match s.run(nth, count) {
                                Ok(_) => accepted += 1,
                                Err(back) => {
                                    assert!(matches!(back.reason(), Reason::Spawn(_)));
                                    rejected += 1;
                                }
                            }
                        }
                        (accepted, rejected)
                    })
                    .unwrap();
                (accepted, rejected, ran.into_inner())
            });
            assert_eq!((ran, accepted + rejected), (accepted, 100), "with {pattern} granted");
            assert_eq!(accepted == 0, pattern == "none");
        }
    }
}

#[test]
fn a_task_for_which_there_is_no_thread_can_be_run_by_who_submitted_it() {
    let manager = Manager::builder().thread_gate(gate(|_| false)).build().unwrap();
    let ran = Arc::new(AtomicUsize::new(0));
    let ends = counted(&manager);
    let rejected: Rejected<usize> = manager.run_task(task(0, &ran)).unwrap_err();
    assert_eq!(ran.load(SeqCst), 0);
    assert!(rejected.run_here().is_ok());
    assert_eq!((ran.load(SeqCst), ends.added.load(SeqCst)), (1, 0));
}

#[test]
fn without_a_supervisor_only_what_needs_it_is_handed_back() {
    let gate = |name: &str| {
        if name.ends_with("supervisor") { Err(io::ErrorKind::WouldBlock.into()) } else { Ok(()) }
    };
    in_time(move || {
        let manager = Manager::builder().thread_gate(gate).build().unwrap();
        let ends = counted(&manager);
        let ran = Arc::new(AtomicUsize::new(0));
        for nth in 0..40 {
            let submitted = manager.run_task(task(nth, &ran));
            assert_eq!(submitted.is_ok(), nth % 4 < 2);
        }
        manager.wait();
        assert_eq!((ran.load(SeqCst), ends.succeeded.load(SeqCst)), (20, 20));
    });
}

// -- a clock that jumps ---------------------------------------------------------------------------------------

#[test]
fn a_clock_that_jumps_ends_each_task_once() {
    const YEAR: Duration = Duration::from_secs(365 * 86_400);
    for jump in [Duration::from_secs(60), YEAR, Duration::MAX] {
        in_time(move || {
            let clock = ManualClock::new();
            let manager = Manager::builder().clock(&clock).max_threads(3).build().unwrap();
            let ends = counted(&manager);
            let ran = Arc::new(AtomicUsize::new(0));
            let once = |nth: usize| {
                let ran = Arc::clone(&ran);
                Task::once(nth, move |_| Ok(_ = ran.fetch_add(1, SeqCst)))
            };
            manager.run_task(once(0).delay(Duration::from_secs(1))).unwrap();
            manager.run_task(once(1).delay(Duration::from_secs(59))).unwrap();
            let again = {
                let ran = Arc::clone(&ran);
                Task::retrying(2, move |cx| {
                    ran.fetch_add(1, SeqCst);
                    if cx.attempt() == 1 { Err("busy".into()) } else { Ok(()) }
                })
            };
            manager.run_task(again.retry(Retry::attempts(2).delays(|| [Duration::from_secs(30)]))).unwrap();
            // At its end the clock moves no more, and who goes to sleep then never wakes: by design.
            let sleepers = if jump == Duration::MAX { 0 } else { 2 };
            for nth in 0..sleepers {
                let sleeps = Task::once(3, |cx: &Context| Ok(cx.sleep(Duration::from_secs(45))?));
                let sleeps = if nth == 0 { sleeps.timeout(Duration::from_secs(50)) } else { sleeps };
                manager.run_task(sleeps.stalled_after(Duration::from_secs(1))).unwrap();
            }
            let rounds = Arc::new(AtomicUsize::new(0));
            let counts = Arc::clone(&rounds);
            let looping = Task::looping(4, move |_| Ok(_ = counts.fetch_add(1, SeqCst)));
            manager.run_task(looping.every(Duration::from_secs(1))).unwrap();
            let pauses = |task: &TaskInfo<usize>| *task.meta() == 2 && task.phase() == Phase::Delayed;
            while rounds.load(SeqCst) == 0 || !(ran.load(SeqCst) == 1 && manager.tasks().iter().any(pauses)) {
                thread::yield_now();
            }
            let jumps = thread::scope(|scope| {
                let waits = scope.spawn(|| manager.wait());
                let mut jumps = 0;
                while !waits.is_finished() {
                    clock.advance(jump);
                    jumps += 1;
                    thread::yield_now();
                }
                jumps
            });
            assert_eq!(ran.load(SeqCst), 4);
            drop(manager);
            let (succeeded, failed) = (ends.succeeded.load(SeqCst), ends.failed.load(SeqCst));
            // A sleeper may see its timeout before the end of its sleep.
            assert!(failed <= 1);
            assert_eq!(succeeded + failed - 3 - sleepers, rounds.load(SeqCst));
            // It makes up for nothing that it has missed.
            assert!(rounds.load(SeqCst) <= jumps + 2);
        });
    }
}

#[test]
fn a_clock_that_jumps_ends_every_wait_that_has_a_budget() {
    in_time(|| {
        let clock = ManualClock::new();
        let manager = Manager::builder().clock(&clock).build().unwrap();
        let (open, gate) = mpsc::channel::<()>();
        let (starts, started) = mpsc::channel();
        manager
            .run((), move |_| {
                starts.send(())?;
                Ok(gate.recv()?)
            })
            .unwrap();
        started.recv_timeout(HANG).unwrap();
        thread::scope(|scope| {
            let waits = scope.spawn(|| manager.wait_timeout(Duration::from_secs(1)));
            let shuts = scope.spawn(|| {
                manager.shutdown(Grace::drain(Duration::from_secs(3600)).then_cancel(Duration::from_secs(1)))
            });
            while !manager.is_closed() {
                thread::yield_now();
            }
            while !waits.is_finished() || !shuts.is_finished() {
                clock.advance(Duration::from_secs(86_400));
                thread::yield_now();
            }
            assert_eq!(waits.join().unwrap().unwrap_err().tasks().len(), 1);
            assert_eq!(shuts.join().unwrap().unwrap_err().tasks().len(), 1);
        });
        open.send(()).unwrap();
    });
}

// -- code of the user's that turns on its manager ---------------------------------------------------------------

/// What the user's code does wherever it runs.
#[derive(Clone, Copy, PartialEq, Debug)]
enum Turns {
    CallsBack,
    Panics,
    CallsBackAndPanics,
    Closes,
    Cancels,
    ShutsDown,
}

#[derive(Clone)]
struct Mischief {
    turns: Turns,
    manager: Arc<OnceLock<Manager<Meta>>>,
    seen: Arc<Mutex<BTreeMap<&'static str, usize>>>,
}

impl Mischief {
    /// The user's code runs at `place`.
    fn at(&self, place: &'static str) {
        let times = {
            let mut seen = self.seen.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
            let times = seen.entry(place).or_default();
            *times += 1;
            *times
        };
        // Once is enough: what it starts gets here, too.
        if times > 1 {
            return;
        }
        if let Some(manager) = self.manager.get() {
            match self.turns {
                Turns::Panics => {}
                Turns::CallsBack | Turns::CallsBackAndPanics => calls_back(manager, place),
                Turns::Closes => _ = manager.close(),
                Turns::Cancels => manager.cancel(),
                // Outside of a call-out it takes its time.
                Turns::ShutsDown => {
                    let grace = Grace::drain(Duration::ZERO);
                    quietly(|| manager.shutdown(grace));
                }
            }
        }
        if matches!(self.turns, Turns::Panics | Turns::CallsBackAndPanics) && !thread::panicking() {
            panic!("at {place}");
        }
    }

    fn trap(&self, place: &'static str) -> Trap {
        Trap(self.clone(), place)
    }
}

/// Every verb that does not end the manager.
fn calls_back(manager: &Manager<Meta>, place: &str) {
    let quiet = || Meta { mischief: None };
    assert!(manager.tasks().len() <= manager.stats().added as usize);
    _ = (manager.len(), manager.is_empty(), manager.is_closed(), format!("{manager:?}"));
    drop(manager.run(quiet(), |_| Ok(())));
    drop(manager.try_run_task(Task::once(quiet(), |_| Ok(())).delay(Duration::from_millis(1))));
    if let Ok(handle) = manager.spawn(quiet(), |_| Ok(17)) {
        handle.cancel();
        drop(handle);
    }
    // The notifier runs nothing that it would have to wait for: its hooks had better not join.
    if !["stalled", "recovered"].contains(&place) {
        if let Ok(handle) = manager.spawn(quiet(), |_| Ok(17)) {
            quietly(|| handle.join());
        }
    }
    quietly(|| manager.wait_timeout(Duration::ZERO));
    manager.on_task_succeeded(|_, _| ());
    drop(manager.clone());
    drop(manager.uncounted());
}

/// Turns on the manager when it is dropped.
struct Trap(Mischief, &'static str);

impl Drop for Trap {
    fn drop(&mut self) {
        self.0.at(self.1);
    }
}

impl std::fmt::Debug for Trap {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("trap")
    }
}

impl std::fmt::Display for Trap {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("trap")
    }
}

impl std::error::Error for Trap {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        self.0.at("source of an error");
        None
    }
}

struct Meta {
    mischief: Option<Mischief>,
}

impl Drop for Meta {
    fn drop(&mut self) {
        if let Some(mischief) = &self.mischief {
            mischief.at("drop of Meta");
        }
    }
}

impl std::fmt::Debug for Meta {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        if let Some(mischief) = &self.mischief {
            mischief.at("Debug of Meta");
        }
        f.write_str("meta")
    }
}

/// Wherever the user's code may run.
const PLACES: [&str; 19] = [
    "Debug of Meta",
    "added",
    "capture",
    "drop of Meta",
    "drop of a capture",
    "drop of a guard",
    "drop of a hook",
    "drop of a value",
    "drop of an error",
    "drop of what was carried",
    "enter",
    "failed",
    "payload",
    "recovered",
    "retried",
    "retry",
    "stalled",
    "succeeded",
    "task",
];

fn quietly<R>(code: impl FnOnce() -> R) {
    _ = catch_unwind(AssertUnwindSafe(|| drop(code())));
}

fn turns_on(turns: Turns, builder: Builder<Meta>) -> BTreeMap<&'static str, usize> {
    let manager = builder.build().unwrap();
    let mischief = Mischief { turns, manager: Arc::default(), seen: Arc::default() };
    assert!(mischief.manager.set(manager.uncounted()).is_ok());
    let place = |place: &'static str| {
        let mischief = mischief.clone();
        move || mischief.at(place)
    };
    let (added, succeeded, failed) = (place("added"), place("succeeded"), place("failed"));
    let (retried, stalled, recovered) = (place("retried"), place("stalled"), place("recovered"));
    let (capture, enter) = (mischief.clone(), mischief.clone());
    let hook = mischief.trap("drop of a hook");
    manager
        .on_task_added(move |_, _| added())
        .on_task_succeeded(move |_, _| {
            let _hook = &hook;
            succeeded();
        })
        .on_task_failed(move |_, _, _| failed())
        .on_task_retried(move |_, _, _, _| retried())
        .on_task_stalled(move |_, _, _| stalled())
        .on_task_recovered(move |_, _, _| recovered())
        .carry(
            move |_| {
                capture.at("capture");
                capture.trap("drop of what was carried")
            },
            move |_| {
                enter.at("enter");
                enter.trap("drop of a guard")
            },
        );
    let meta = || Meta { mischief: Some(mischief.clone()) };
    // The first of each is spoilt by what comes before: so there are several.
    for _ in 0..6 {
        let (captured, body) = (mischief.trap("drop of a capture"), mischief.clone());
        let good = Task::once(meta(), move |_| {
            let _captured = captured;
            body.at("task");
            Ok(())
        });
        // The last of the values may be dropped here, and so may what is handed back: that is the test's own.
        quietly(|| {
            let cx = Context::background().with_value(mischief.trap("drop of a value"));
            manager.run_task(good.context(&cx))
        });
        let fails = mischief.clone();
        let retry = place("retry");
        let repeated = Task::retrying(meta(), move |_| Err(Box::new(fails.trap("drop of an error")).into()))
            .retry(Retry::attempts(2).delays(|| [Duration::ZERO]).when(move |_| {
                retry();
                true
            }));
        quietly(|| manager.run_task(repeated));
        let payload = mischief.clone();
        quietly(|| manager.run(meta(), move |_| std::panic::panic_any(payload.trap("payload"))));
        // Longer than it may be without a sign of life.
        let slow = Task::once(meta(), |cx: &Context| Ok(cx.sleep(Duration::from_millis(20))?));
        quietly(|| manager.run_task(slow.stalled_after(Duration::from_millis(1))));
    }
    // A Meta that panics in `Debug` panics where it is printed: here.
    quietly(|| match manager.wait_timeout(Duration::ZERO) {
        Ok(()) => String::new(),
        Err(left) => format!("{left} {left:?}"),
    });
    quietly(|| format!("{:?}", meta()));
    quietly(|| manager.wait());
    manager.close();
    let uncounted = manager.uncounted();
    drop(manager);
    let stats = uncounted.stats();
    assert!(uncounted.is_empty(), "{turns:?}");
    assert!(stats.succeeded + stats.failed <= stats.added, "{turns:?}: each ends at most once");
    let seen = mischief.seen.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    seen.clone()
}

/// All of that on one manager; answers where the user's code has run.
fn all_turns(turns: Turns, build: fn() -> Builder<Meta>) {
    let seen = in_time(move || turns_on(turns, build()));
    if matches!(turns, Turns::CallsBack | Turns::Panics | Turns::CallsBackAndPanics) {
        let missing: Vec<_> = PLACES.iter().filter(|place| !seen.contains_key(*place)).collect();
        assert!(missing.is_empty(), "{turns:?}: not reached: {missing:?}");
    }
}

const TURNS: [Turns; 6] = [
    Turns::CallsBack,
    Turns::Panics,
    Turns::CallsBackAndPanics,
    Turns::Closes,
    Turns::Cancels,
    Turns::ShutsDown,
];

#[test]
fn code_that_turns_on_elastic_threads_from_everywhere_hangs_and_kills_nothing() {
    for turns in TURNS {
        all_turns(turns, Manager::builder);
    }
}

#[test]
fn code_that_turns_on_a_single_thread_from_everywhere_hangs_and_kills_nothing() {
    for turns in TURNS {
        all_turns(turns, || Manager::builder().max_threads(1));
    }
}

#[test]
fn code_that_turns_on_a_thread_per_task_from_everywhere_hangs_and_kills_nothing() {
    for turns in TURNS {
        all_turns(turns, || Manager::builder().thread_per_task());
    }
}

#[test]
fn code_that_turns_on_a_full_backlog_from_everywhere_hangs_and_kills_nothing() {
    for turns in TURNS {
        all_turns(turns, || Manager::builder().max_threads(2).max_pending(2));
    }
}

#[test]
fn code_that_turns_on_an_inline_manager_from_everywhere_hangs_and_kills_nothing() {
    for turns in TURNS {
        all_turns(turns, || Manager::builder().inline());
    }
}

#[test]
fn a_handle_whose_value_turns_on_the_manager_when_it_is_dropped() {
    for turns in TURNS {
        in_time(move || {
            let manager = Manager::builder().build().unwrap();
            let mischief = Mischief { turns, manager: Arc::default(), seen: Arc::default() };
            assert!(mischief.manager.set(manager.uncounted()).is_ok());
            let value = mischief.clone();
            let handle = manager.spawn(Meta { mischief: None }, move |_| Ok(value.trap("value"))).unwrap();
            // It may be there already: then it goes here.
            quietly(|| drop(handle));
            quietly(|| manager.wait());
            let outcome = manager.spawn(Meta { mischief: None }, |_| Ok(1)).map(|handle| handle.join());
            assert!(matches!(outcome, Ok(Ok(1) | Err(TaskError::Abandoned)) | Err(_)));
            drop(manager);
            assert_eq!(mischief.seen.lock().unwrap().get("value"), Some(&1));
        });
    }
}
