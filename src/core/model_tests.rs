//! Interleavings, by shuttle: each model is run under many schedules, random ones and such as force a few
//! unlikely switches (PCT). `scripts/model.sh` runs them.
//!
//! A wake-up that is lost ends as a deadlock, which shuttle reports; what else must hold, the model asserts. Each
//! model was seen to catch a fault that was planted in the code, which its comment names.
//!
//! The clock stands still unless a model moves it. So a worker leaves at once (`keep_alive` zero) or never.

#![allow(clippy::unwrap_used)]

use std::io;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst};
use std::time::Duration;

use shuttle::scheduler::{PctScheduler, RandomScheduler, Scheduler};
use shuttle::thread::{self, JoinHandle};

use super::state::{Limits, Policy, TICK};
use super::{Config, Core, Role};
use crate::clock::ManualClock;
use crate::sync::Arc;
use crate::{Context, Grace, Handle, Manager, Phase, Reason, Retry, Task, TaskError};

/// Runs `model` under many schedules.
fn check(model: impl Fn() + Send + Sync + 'static) {
    let iterations = std::env::var("INFLIGHT_MODEL_ITERATIONS");
    let iterations = iterations.map_or(300, |text| text.parse().unwrap());
    let model = Arc::new(model);
    let schedulers: [Box<dyn Scheduler + Send>; 2] =
        [Box::new(RandomScheduler::new(iterations)), Box::new(PctScheduler::new(2, iterations))];
    for scheduler in schedulers {
        let mut config = shuttle::Config::new();
        config.stack_size = 512 * 1024;
        config.max_steps = shuttle::MaxSteps::FailAfter(200_000);
        let model = Arc::clone(&model);
        shuttle::Runner::new(scheduler, config).run(move || model());
    }
}

/// How a manager of a model is built.
#[derive(Clone)]
struct Setup {
    policy: Policy,
    max_threads: usize,
    max_pending: usize,
    keep_alive: Duration,
    may_leave: bool,
    stalled_after: Option<Duration>,
    /// How many worker threads are granted before all others are refused.
    granted: usize,
    /// Set once the notifier is about to be started.
    notifier: Arc<AtomicBool>,
    /// No supervisor is granted before this is set.
    lets_supervise: Arc<AtomicBool>,
}

impl Default for Setup {
    fn default() -> Self {
        Setup {
            policy: Policy::Elastic,
            max_threads: 2,
            max_pending: usize::MAX,
            keep_alive: Duration::MAX,
            may_leave: false,
            stalled_after: None,
            granted: usize::MAX,
            notifier: Arc::default(),
            lets_supervise: Arc::new(AtomicBool::new(true)),
        }
    }
}

impl Setup {
    fn build(self) -> (Manager<u32>, ManualClock) {
        let clock = ManualClock::new();
        clock.advance(Duration::from_secs(1));
        let (granted, asked) = (self.granted, AtomicUsize::new(0));
        let gate = move |name: &str| {
            let notifier = name.ends_with("notifier");
            self.notifier.fetch_or(notifier, SeqCst);
            let supervisor = name.ends_with("supervisor");
            while supervisor && !self.lets_supervise.load(SeqCst) {
                thread::yield_now();
            }
            if notifier || supervisor || asked.fetch_add(1, SeqCst) < granted {
                Ok(())
            } else {
                Err(io::ErrorKind::WouldBlock.into())
            }
        };
        let config = Config {
            name: "model".to_owned(),
            stack_size: None,
            stalled_after: self.stalled_after,
            retry: None,
            limits: Limits {
                policy: self.policy,
                max_threads: self.max_threads,
                max_pending: self.max_pending,
                keep_alive: self.keep_alive,
                cores: 2,
                may_leave: self.may_leave,
            },
            process_threads: None,
            gate: Some(Arc::new(gate)),
        };
        let spawner = Box::new(|builder: crate::sync::thread::Builder, role: Role, core| {
            builder.spawn(move || role.play(core))
        });
        (Manager::from_core(Core::new(config, clock.clock(), spawner)), clock)
    }

    fn manager(self) -> Manager<u32> {
        self.build().0
    }
}

/// Counts what has run and what has ended.
#[derive(Clone, Default)]
struct Seen {
    ran: Arc<AtomicUsize>,
    succeeded: Arc<AtomicUsize>,
    failed: Arc<AtomicUsize>,
    dropped: Arc<AtomicUsize>,
}

struct Captured(Arc<AtomicUsize>);

impl Drop for Captured {
    fn drop(&mut self) {
        self.0.fetch_add(1, SeqCst);
    }
}

impl Seen {
    fn by(manager: &Manager<u32>) -> Self {
        let seen = Seen::default();
        let (succeeded, failed) = (Arc::clone(&seen.succeeded), Arc::clone(&seen.failed));
        manager
            .on_task_succeeded(move |_, _| _ = succeeded.fetch_add(1, SeqCst))
            .on_task_failed(move |_, _, _| _ = failed.fetch_add(1, SeqCst));
        seen
    }

    /// A task that counts that it has run, and when its captures are dropped.
    fn task(&self) -> impl FnMut(&crate::Context) -> Result<(), crate::BoxError> + Send + 'static {
        let (ran, captured) = (Arc::clone(&self.ran), Captured(Arc::clone(&self.dropped)));
        move |_| {
            let _captured = &captured;
            ran.fetch_add(1, SeqCst);
            Ok(())
        }
    }

    #[track_caller]
    fn expect(&self, ran: usize, succeeded: usize, failed: usize) {
        let seen = [&self.ran, &self.succeeded, &self.failed].map(|count| count.load(SeqCst));
        assert_eq!(seen, [ran, succeeded, failed], "ran, succeeded, failed");
    }
}

/// Moves the clock by ticks, until it is dropped.
struct Ticking(Arc<AtomicBool>, Option<JoinHandle<()>>);

impl Ticking {
    fn new(clock: &ManualClock, step: Duration) -> Self {
        let (over, clock) = (Arc::new(AtomicBool::new(false)), clock.clone());
        let stop = Arc::clone(&over);
        let thread = thread::spawn(move || {
            while !stop.load(SeqCst) {
                clock.advance(step);
                thread::yield_now();
            }
        });
        Ticking(over, Some(thread))
    }
}

impl Drop for Ticking {
    fn drop(&mut self) {
        self.0.store(true, SeqCst);
        if let Some(thread) = self.1.take() {
            thread.join().unwrap();
        }
    }
}

/// Planted: `accept` counts the task under a lock of its own, after the one under which it was admitted.
#[test]
fn submit_and_close() {
    check(|| {
        let manager = Setup::default().manager();
        let seen = Seen::by(&manager);
        let closer = {
            let manager = manager.uncounted();
            thread::spawn(move || manager.close())
        };
        let accepted = manager.run(1, seen.task()).is_ok();
        // The drop waits for what was accepted.
        drop(manager);
        let accepted = usize::from(accepted);
        seen.expect(accepted, accepted, 0);
        // Its captures are gone either way: a rejected task was dropped with what brought it back.
        assert_eq!(seen.dropped.load(SeqCst), 1);
        closer.join().unwrap();
    });
}

/// Planted: `State::end` does not set `fx.quiet`; and: `apply_once` notifies one waiter instead of all.
#[test]
fn the_last_finish_and_those_who_wait() {
    check(|| {
        let manager = Setup::default().manager();
        let seen = Seen::by(&manager);
        for meta in 0..2 {
            manager.run(meta, seen.task()).unwrap();
        }
        let waiter = {
            let (manager, seen) = (manager.uncounted(), seen.clone());
            thread::spawn(move || {
                manager.wait();
                seen.expect(2, 2, 0);
            })
        };
        manager.wait();
        seen.expect(2, 2, 0);
        assert_eq!(seen.dropped.load(SeqCst), 2);
        waiter.join().unwrap();
    });
}

/// Planted: a worker that has set out to leave still counts as a thread (`State::has_threads` is
/// `threads > 0`).
#[test]
fn a_wake_up_and_an_idle_thread_that_leaves() {
    for (max_threads, granted) in [(1, usize::MAX), (2, usize::MAX), (1, 1), (2, 2)] {
        check(move || {
            let setup = Setup { max_threads, granted, keep_alive: Duration::ZERO, ..Setup::default() };
            let manager = setup.manager();
            let seen = Seen::by(&manager);
            let mut accepted = 0;
            for nth in 1..=3 {
                match manager.run(nth, seen.task()) {
                    Ok(_) => accepted += 1,
                    Err(rejected) => assert!(granted < 3 && matches!(rejected.reason(), Reason::Spawn(_))),
                }
                manager.wait();
                seen.expect(accepted, accepted, 0);
            }
        });
    }
}

/// Planted: `apply_once` does not wake a worker that was told; and: a parker does not remember that it was woken.
#[test]
fn a_wake_up_and_a_thread_that_goes_idle() {
    for may_leave in [false, true] {
        check(move || {
            let (manager, clock) = Setup { may_leave, ..Setup::default() }.build();
            // What is left to the workers that are awake needs the supervisor's ticks.
            let _ticking = may_leave.then(|| Ticking::new(&clock, TICK));
            let seen = Seen::by(&manager);
            let other = {
                let (manager, seen) = (manager.uncounted(), seen.clone());
                thread::spawn(move || manager.run(1, seen.task()).unwrap())
            };
            manager.run(2, seen.task()).unwrap();
            other.join().unwrap();
            manager.wait();
            seen.expect(2, 2, 0);
            manager.run(3, seen.task()).unwrap();
            manager.wait();
            seen.expect(3, 3, 0);
            drop(manager);
        });
    }
}

/// Planted: `pass_on` gives the token, and wakes nobody.
#[test]
fn those_that_are_woken_and_wake_others() {
    for closes in [false, true] {
        check(move || {
            let (manager, clock) = Setup { max_threads: 5, may_leave: true, ..Setup::default() }.build();
            let _ticking = Ticking::new(&clock, TICK);
            let seen = Seen::by(&manager);
            for round in 1..=2 {
                let met = Arc::new(AtomicUsize::new(0));
                for meta in 0..5 {
                    let (met, mut task) = (Arc::clone(&met), seen.task());
                    let meets = move |cx: &Context| {
                        met.fetch_add(1, SeqCst);
                        while met.load(SeqCst) < 5 {
                            thread::yield_now();
                        }
                        task(cx)
                    };
                    manager.run(meta, meets).unwrap();
                }
                if closes && round == 2 {
                    manager.close();
                }
                manager.wait();
                seen.expect(5 * round, 5 * round, 0);
            }
            drop(manager);
        });
    }
}

/// Planted: a loop's iteration begins at the time that its worker read before it waited for the lock.
#[test]
fn a_loop_and_a_clock_that_jumps() {
    check(|| {
        let (manager, clock) = Setup { max_threads: 1, ..Setup::default() }.build();
        let iterations = Arc::new(AtomicUsize::new(0));
        let counted = Arc::clone(&iterations);
        let iterate = move |_: &Context| {
            counted.fetch_add(1, SeqCst);
            Ok(())
        };
        manager.run_task(Task::looping(1, iterate).every(Duration::from_secs(1))).unwrap();
        let until_it_waits = |after| {
            while iterations.load(SeqCst) < after || manager.tasks()[0].phase() != Phase::Delayed {
                thread::yield_now();
            }
        };
        until_it_waits(1);
        clock.advance(Duration::from_secs(100));
        until_it_waits(2);
        for _ in 0..30 {
            thread::yield_now();
        }
        assert_eq!(iterations.load(SeqCst), 2, "one iteration for all those that were missed");
        manager.close();
        manager.wait();
    });
}

/// Planted: `Line::cancel` sets the flag and wakes nobody.
#[test]
fn a_cancel_and_a_start() {
    check(|| {
        let manager = Setup { max_threads: 1, ..Setup::default() }.manager();
        let seen = Seen::by(&manager);
        let ran = Arc::clone(&seen.ran);
        let sleeper = manager
            .spawn(1, move |cx| {
                ran.fetch_add(1, SeqCst);
                cx.sleep(Duration::MAX)?;
                Ok(())
            })
            .unwrap();
        let (first, second) = (Arc::clone(&seen.ran), Arc::clone(&seen.ran));
        let other = manager.spawn(2, move |_| Ok(first.fetch_add(1, SeqCst))).unwrap();
        let last = manager.spawn(3, move |_| Ok(second.fetch_add(1, SeqCst))).unwrap();
        let canceller = thread::spawn(move || {
            other.cancel();
            sleeper.cancel();
            // It may have been cancelled between its start and its sleep.
            (other.join(), sleeper.join())
        });
        let (other, sleeper) = canceller.join().unwrap();
        assert!(matches!(sleeper, Err(TaskError::Cancelled)));
        assert!(matches!(other, Ok(_) | Err(TaskError::Cancelled)));
        assert!(last.join().is_ok());
        manager.wait();
        let failed = 1 + usize::from(other.is_err());
        let (succeeded, failures) = (seen.succeeded.load(SeqCst), seen.failed.load(SeqCst));
        assert_eq!((succeeded, failures), (3 - failed, failed), "each ends once");
    });
}

/// Planted: `State::enter` lets a task wait for its delay that was accepted before a cancel.
#[test]
fn a_cancel_of_all_and_tasks_that_wait_or_start() {
    check(|| {
        let manager = Setup { max_threads: 1, ..Setup::default() }.manager();
        let seen = Seen::by(&manager);
        // In its hook a task is in its submitter's hand.
        manager.on_task_added(|_, _| thread::yield_now());
        let canceller = {
            let manager = manager.uncounted();
            thread::spawn(move || manager.cancel())
        };
        let mut accepted = 0;
        for meta in 0..2 {
            let task = Task::once(meta, seen.task()).delay(Duration::from_secs(u64::from(meta) * 3600));
            accepted += usize::from(manager.run_task(task).is_ok());
        }
        canceller.join().unwrap();
        drop(manager);
        assert_eq!(seen.succeeded.load(SeqCst) + seen.failed.load(SeqCst), accepted);
        assert_eq!(seen.ran.load(SeqCst), seen.succeeded.load(SeqCst));
        assert_eq!(seen.dropped.load(SeqCst), 2);
    });
}

/// Planted: `Shelf::clear` leaves an empty set behind, so that a hook that comes too late is kept.
#[test]
fn a_hook_is_added_while_tasks_end() {
    check(|| {
        let manager = Setup::default().manager();
        let hooks = Arc::new(AtomicUsize::new(0));
        let calls = Arc::new(AtomicUsize::new(0));
        let adder = {
            let (manager, hooks, calls) = (manager.uncounted(), Arc::clone(&hooks), Arc::clone(&calls));
            thread::spawn(move || {
                let hook = Captured(hooks);
                manager.on_task_succeeded(move |_, _| {
                    let _hook = &hook;
                    calls.fetch_add(1, SeqCst);
                });
            })
        };
        for meta in 0..2 {
            manager.run(meta, |_| Ok(())).unwrap();
        }
        drop(manager);
        adder.join().unwrap();
        assert!(calls.load(SeqCst) <= 2);
        assert_eq!(hooks.load(SeqCst), 1, "it is dropped once the manager is closed and empty");
    });
}

/// Planted: `State::leave` does not set `fx.quiet`; and: `Core::end` lets go of the lock between its look and its
/// wait.
#[test]
fn the_last_handle_is_dropped_while_tasks_end() {
    check(|| {
        let manager = Setup::default().manager();
        let seen = Seen::by(&manager);
        let clone = manager.clone();
        manager.run(1, seen.task()).unwrap();
        let other = thread::spawn(move || drop(clone));
        manager.run(2, seen.task()).unwrap();
        let uncounted = manager.uncounted();
        drop(manager);
        other.join().unwrap();
        assert!(uncounted.is_closed());
        assert_eq!((uncounted.len(), uncounted.stats().threads), (0, 0));
        seen.expect(2, 2, 0);
        assert_eq!(seen.dropped.load(SeqCst), 2);
    });
}

/// Planted: `State::started` hands no place to a blocked submitter; and: `close` does not set `fx.all_submitters`.
#[test]
fn blocked_submitters_and_a_bounded_backlog() {
    for closes in [false, true] {
        check(move || {
            let manager = Setup { max_threads: 1, max_pending: 1, ..Setup::default() }.manager();
            let seen = Seen::by(&manager);
            let submitters: Vec<_> = (0..3)
                .map(|meta| {
                    let (manager, seen) = (manager.uncounted(), seen.clone());
                    thread::spawn(move || match manager.run(meta, seen.task()) {
                        Ok(_) => 1,
                        Err(rejected) => {
                            assert!(closes && matches!(rejected.reason(), Reason::Closed));
                            0
                        }
                    })
                })
                .collect();
            if closes {
                manager.close();
            }
            let accepted = submitters.into_iter().map(|submitter| submitter.join().unwrap()).sum();
            drop(manager);
            seen.expect(accepted, accepted, 0);
            assert!(closes || accepted == 3);
        });
    }
}

/// Planted: `provide` does not apply the effects of a thread that was granted before it starts the supervisor.
#[test]
fn a_thread_works_for_others_while_its_submitter_waits_for_the_supervisor() {
    check(|| {
        let setup = Setup { max_threads: 1, lets_supervise: Arc::default(), ..Setup::default() };
        let lets_supervise = Arc::clone(&setup.lets_supervise);
        let manager = setup.manager();
        let seen = Seen::by(&manager);
        let submitter = {
            let (manager, seen) = (manager.uncounted(), seen.clone());
            thread::spawn(move || {
                _ = manager.run_task(Task::once(1, seen.task()).delay(Duration::ZERO)).unwrap()
            })
        };
        manager.run(2, move |_| Ok(lets_supervise.store(true, SeqCst))).unwrap();
        submitter.join().unwrap();
        drop(manager);
        seen.expect(1, 2, 0);
    });
}

/// Planted: `wait_until` does not notify the supervisor of a timer that is the first.
#[test]
fn the_supervisor_starts_and_ends() {
    for keep_alive in [Duration::ZERO, Duration::MAX] {
        check(move || {
            let (manager, clock) = Setup { keep_alive, ..Setup::default() }.build();
            let ticking = Ticking::new(&clock, Duration::from_millis(400));
            let seen = Seen::by(&manager);
            let submitters = [1, 2].map(|meta| {
                let (manager, seen) = (manager.uncounted(), seen.clone());
                let task = Task::once(meta, seen.task()).delay(Duration::from_secs(1));
                thread::spawn(move || _ = manager.run_task(task).unwrap())
            });
            for submitter in submitters {
                submitter.join().unwrap();
            }
            manager.wait();
            seen.expect(2, 2, 0);
            let again = Task::once(3, seen.task()).delay(Duration::from_secs(1));
            manager.run_task(again).unwrap();
            drop(manager);
            seen.expect(3, 3, 0);
            drop(ticking);
        });
    }
}

/// Planted: the supervisor that growth asks for does not wait until its start is recorded.
#[test]
fn the_supervisor_starts_for_growth_while_all_ends() {
    check(|| {
        let (manager, clock) =
            Setup { may_leave: true, keep_alive: Duration::ZERO, ..Setup::default() }.build();
        let ticking = Ticking::new(&clock, TICK);
        let seen = Seen::by(&manager);
        let submitters = [1, 2].map(|meta| {
            let (manager, seen) = (manager.uncounted(), seen.clone());
            thread::spawn(move || {
                manager.run(meta, seen.task()).unwrap();
                manager.run(meta, seen.task()).unwrap();
            })
        });
        for submitter in submitters {
            submitter.join().unwrap();
        }
        drop(manager);
        seen.expect(4, 4, 0);
        drop(ticking);
    });
}

/// Planted: `granted` lets the predecessor stay; and: a refused successor's worker leaves.
#[test]
fn a_thread_per_task_and_its_successor() {
    for granted in [1, 2, usize::MAX] {
        check(move || {
            let setup = Setup { policy: Policy::ThreadPerTask, max_threads: 1, granted, ..Setup::default() };
            let manager = setup.manager();
            let seen = Seen::by(&manager);
            let other = {
                let (manager, seen) = (manager.uncounted(), seen.clone());
                thread::spawn(move || manager.run(1, seen.task()).is_ok())
            };
            let mut accepted = 0;
            for meta in 2..=3 {
                accepted += usize::from(manager.run(meta, seen.task()).is_ok());
            }
            accepted += usize::from(other.join().unwrap());
            manager.wait();
            seen.expect(accepted, accepted, 0);
            assert!(accepted == 3 || granted < 3);
            assert!(manager.stats().peak_threads <= 1);
            drop(manager);
        });
    }
}

/// Planted: `enter` does not look whether a shutdown has given up what is not running.
#[test]
fn a_shutdown_and_tasks_that_are_submitted() {
    check(|| {
        let manager = Setup { max_threads: 1, granted: 1, ..Setup::default() }.manager();
        let seen = Seen::by(&manager);
        manager.on_task_added(|_, _| thread::yield_now());
        let submitters = [1, 2].map(|meta| {
            let (manager, seen) = (manager.uncounted(), seen.clone());
            thread::spawn(move || manager.run(meta, seen.task()).is_ok())
        });
        let left = manager.shutdown(Grace::drain(Duration::ZERO));
        let accepted = submitters.map(|submitter| submitter.join().unwrap());
        let accepted: usize = accepted.into_iter().map(usize::from).sum();
        let uncounted = manager.uncounted();
        drop(manager);
        // Who has a task in hand at the end of a shutdown ends it later.
        while !uncounted.is_empty() || uncounted.stats().threads > 0 {
            thread::yield_now();
        }
        assert_eq!(seen.succeeded.load(SeqCst) + seen.failed.load(SeqCst), accepted, "each ends once");
        assert_eq!(seen.ran.load(SeqCst), seen.succeeded.load(SeqCst));
        assert!(left.is_ok() || accepted > 0);
    });
}

/// Planted: `note_given_up` notes nothing; and: `abandon` does not note what it gives up.
#[test]
fn two_shutdowns_and_what_the_first_gives_up() {
    check(|| {
        let manager = Setup { max_threads: 1, ..Setup::default() }.manager();
        manager.on_task_added(|_, _| thread::yield_now());
        let abandoned = Arc::new(AtomicUsize::new(0));
        let count = Arc::clone(&abandoned);
        manager.on_task_failed(move |_, _, error| {
            count.fetch_add(usize::from(matches!(error, TaskError::Abandoned)), SeqCst);
        });
        let submitters = [1, 2].map(|meta| {
            let manager = manager.uncounted();
            thread::spawn(move || drop(manager.run(meta, |_| Ok(thread::yield_now()))))
        });
        let named =
            |left: Result<(), crate::Unfinished<u32>>| left.map_or_else(|left| left.tasks().len(), |()| 0);
        let patient = {
            let manager = manager.uncounted();
            thread::spawn(move || named(manager.shutdown(Grace::drain(Duration::MAX))))
        };
        // From here on it is under way.
        while !manager.is_closed() {
            thread::yield_now();
        }
        let hasty = named(manager.shutdown(Grace::drain(Duration::ZERO)));
        let patient = patient.join().unwrap();
        for submitter in submitters {
            submitter.join().unwrap();
        }
        let uncounted = manager.uncounted();
        drop(manager);
        while !uncounted.is_empty() || uncounted.stats().threads > 0 {
            thread::yield_now();
        }
        let abandoned = abandoned.load(SeqCst);
        assert!(hasty >= abandoned && patient >= abandoned, "{hasty}, {patient} of {abandoned}");
    });
}

/// Planted: `Bell::dismiss` wakes nobody.
#[test]
fn the_notifier_starts_and_ends() {
    check(|| {
        let stalled_after = Some(Duration::from_secs(1));
        let (manager, clock) = Setup { stalled_after, ..Setup::default() }.build();
        let stalls = Arc::new(AtomicUsize::new(0));
        let recoveries = Arc::new(AtomicUsize::new(0));
        let (stalled, recovered) = (Arc::clone(&stalls), Arc::clone(&recoveries));
        manager
            .on_task_stalled(move |_, _, _| _ = stalled.fetch_add(1, SeqCst))
            .on_task_recovered(move |_, _, _| _ = recovered.fetch_add(1, SeqCst));
        let slow = clock.clone();
        manager
            .run(1, move |_| {
                slow.advance(Duration::from_secs(2));
                for _ in 0..20 {
                    thread::yield_now();
                }
                Ok(())
            })
            .unwrap();
        drop(manager);
        assert_eq!(stalls.load(SeqCst), recoveries.load(SeqCst), "who stalled has ended");
    });
}

/// Planted: the notifier does not wait until its start is recorded, and has left by then.
#[test]
fn the_notifier_starts_while_what_it_was_to_tell_ends() {
    check(|| {
        let setup = Setup { stalled_after: Some(Duration::from_secs(1)), ..Setup::default() };
        let starts = Arc::clone(&setup.notifier);
        let (manager, clock) = setup.build();
        let slow = move |_: &crate::Context| {
            clock.advance(Duration::from_secs(2));
            while !starts.load(SeqCst) {
                thread::yield_now();
            }
            Ok(())
        };
        manager.run(1, slow).unwrap();
        drop(manager);
    });
}

/// Planted: `notifier_may_leave` is always `true`, so that it leaves with a stall of the next task untold.
#[test]
fn the_notifier_that_was_dismissed_and_the_next_stall() {
    check(|| {
        let stalled_after = Some(Duration::from_secs(1));
        let (manager, clock) = Setup { stalled_after, ..Setup::default() }.build();
        let told = Arc::new(AtomicUsize::new(0));
        let tells = Arc::clone(&told);
        manager.on_task_stalled(move |_, _, _| _ = tells.fetch_add(1, SeqCst));
        for nth in 1..=2 {
            let (clock, told) = (clock.clone(), Arc::clone(&told));
            let slow = move |_: &crate::Context| {
                clock.advance(Duration::from_secs(2));
                while told.load(SeqCst) < nth {
                    thread::yield_now();
                }
                Ok(())
            };
            manager.run(1, slow).unwrap();
            manager.wait();
        }
        drop(manager);
    });
}

/// Planted: `wait_until_left` does not wait for the notifier where it has a budget.
#[test]
fn a_clean_shutdown_leaves_no_notifier() {
    check(|| {
        let (manager, clock) =
            Setup { stalled_after: Some(Duration::from_secs(1)), ..Setup::default() }.build();
        let slow = clock.clone();
        manager
            .run(1, move |_| {
                slow.advance(Duration::from_secs(2));
                Ok(thread::yield_now())
            })
            .unwrap();
        manager.shutdown(Grace::drain(Duration::from_secs(3600))).unwrap();
        assert!(!manager.core().state.lock().notifier.alive);
    });
}

/// Planted: `release_timers` forgets what is not due.
#[test]
fn a_retry_that_is_due_and_a_close() {
    check(|| {
        let (manager, clock) = Setup { keep_alive: Duration::ZERO, ..Setup::default() }.build();
        let ticking = Ticking::new(&clock, Duration::from_millis(400));
        let seen = Seen::by(&manager);
        let mut task = seen.task();
        let retried = Task::retrying(1, move |cx| {
            task(cx)?;
            if cx.attempt() < 3 { Err("busy".into()) } else { Ok(()) }
        });
        let delays = || [Duration::ZERO, Duration::from_secs(1)];
        manager.run_task(retried.retry(Retry::attempts(3).delays(delays))).unwrap();
        manager.close();
        drop(manager);
        seen.expect(3, 1, 0);
        drop(ticking);
    });
}

/// Planted: the pause is reckoned from one look at the clock, and slept from the next: a clock that moves in between is
/// waited for in vain.
#[test]
fn an_inline_delay_and_a_clock_that_moves() {
    check(|| {
        let (manager, clock) = Setup { policy: Policy::Inline, ..Setup::default() }.build();
        let seen = Seen::by(&manager);
        let submitter = {
            let (manager, seen) = (manager.uncounted(), seen.clone());
            let task = Task::once(1, seen.task()).delay(Duration::from_secs(1));
            thread::spawn(move || _ = manager.run_task(task).unwrap())
        };
        while manager.is_empty() {
            thread::yield_now();
        }
        // Once.
        clock.advance(Duration::from_secs(1));
        submitter.join().unwrap();
        seen.expect(1, 1, 0);
    });
}

/// Planted: a canceller looks at the task's place before it has the lock, and the queue closes its gaps in between.
#[test]
fn a_cancel_and_a_queue_that_closes_its_gaps() {
    check(|| {
        let manager = Setup { max_threads: 1, ..Setup::default() }.manager();
        let gate = Arc::new(shuttle::sync::Mutex::new(()));
        let shut = gate.lock().unwrap();
        let inner = Arc::clone(&gate);
        let running = manager.spawn(0, move |_| Ok(drop(inner.lock().unwrap()))).unwrap();
        let front = manager.spawn(1, |_| Ok(())).unwrap();
        let middle: Vec<_> = (2..5).map(|n| manager.spawn(n, |_| Ok(())).unwrap()).collect();
        let last = manager.spawn(5, |_| Ok(())).unwrap();
        // One gap more, and there are more of them than tasks.
        middle[..2].iter().for_each(crate::Handle::cancel);
        let canceller = thread::spawn(move || middle[2].cancel());
        last.cancel();
        assert!(
            matches!(last.join(), Err(TaskError::Cancelled)),
            "a task that stands in the queue ends at once"
        );
        canceller.join().unwrap();
        drop(shut);
        assert!(front.join().is_ok() && running.join().is_ok());
    });
}

/// Many tiny tasks, of which one worker runs the first; it goes on once it is let go.
fn flood(max_threads: usize, tasks: u32) -> (Manager<u32>, Seen, Vec<Handle<()>>, impl FnOnce()) {
    let manager = Setup { max_threads, may_leave: true, ..Setup::default() }.manager();
    let seen = Seen::by(&manager);
    let (gate, ran) = (Arc::new(AtomicBool::new(false)), Arc::clone(&seen.ran));
    let opened = Arc::clone(&gate);
    for _ in 0..max_threads {
        let (gate, ran) = (Arc::clone(&gate), Arc::clone(&ran));
        manager
            .run(0, move |_| {
                while !gate.load(SeqCst) {
                    thread::yield_now();
                }
                ran.fetch_add(1, SeqCst);
                Ok(())
            })
            .unwrap();
    }
    let handles = (1..=tasks).map(|meta| {
        let mut task = seen.task();
        manager.spawn(meta, move |cx| task(cx)).unwrap()
    });
    let handles = handles.collect();
    (manager, seen, handles, move || opened.store(true, SeqCst))
}

/// Planted: `State::settle` does not count what has ended, or forgets what is in hand; and: `Core::tasks` does not
/// have the tray come in.
#[test]
fn trays_and_those_who_ask() {
    for workers in [1, 2] {
        check(move || {
            let (manager, seen, _handles, open) = flood(workers, 10);
            let asker = {
                let (manager, seen) = (manager.uncounted(), seen.clone());
                thread::spawn(move || {
                    let mut before = usize::MAX;
                    for _ in 0..4 {
                        let listed = manager.tasks().len();
                        // A task has left the count only after its hook.
                        let reported = seen.succeeded.load(SeqCst);
                        assert!(listed <= before && listed + reported >= 10 + workers);
                        let stats = manager.stats();
                        assert!(manager.len() <= listed && stats.succeeded as usize + listed >= 10 + workers);
                        before = listed;
                    }
                })
            };
            open();
            manager.wait();
            seen.expect(10 + workers, 10 + workers, 0);
            assert_eq!((manager.len(), seen.dropped.load(SeqCst)), (0, 10));
            asker.join().unwrap();
        });
    }
}

/// Planted: `State::settle` does not put back what was not begun.
#[test]
fn trays_and_those_who_take_out_of_them() {
    for workers in [1, 2] {
        check(move || {
            let (manager, seen, mut handles, open) = flood(workers, 10);
            let (joined, cancelled) = (handles.swap_remove(7), handles.swap_remove(5));
            let other = thread::spawn(move || {
                cancelled.cancel();
                cancelled.join()
            });
            open();
            joined.join().unwrap();
            let failed = usize::from(other.join().unwrap().is_err());
            manager.wait();
            seen.expect(10 + workers - failed, 10 + workers - failed, failed);
        });
    }
}

/// Planted: as above.
#[test]
fn trays_and_a_shutdown() {
    for workers in [1, 2] {
        check(move || {
            let (manager, seen, handles, open) = flood(workers, 10);
            let other = {
                let manager = manager.uncounted();
                thread::spawn(move || manager.shutdown(Grace::drain(Duration::ZERO)))
            };
            open();
            let named = other.join().unwrap().err();
            // What ran on then ends later.
            manager.wait();
            let ends = [&seen.succeeded, &seen.failed].map(|count| count.load(SeqCst));
            assert_eq!(ends[0] + ends[1], 10 + workers, "each ends once");
            for handle in handles {
                let id = handle.id();
                if let Err(TaskError::Abandoned) = handle.join() {
                    assert!(named.iter().any(|left| left.tasks().iter().any(|task| task.id() == id)));
                }
            }
        });
    }
}
