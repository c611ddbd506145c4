//! Where tiny tasks flow, a worker takes many of them at a time. Nobody is to notice, but by the speed: what is
//! asked in the midst of a flood is answered as if each had been taken by itself.

#![allow(clippy::unwrap_used)]

mod common;

use common::{Drops, Gated, HANG, busy, gated, in_time};
use inflight::{Context, Grace, Handle, Kind, Manager, Phase, TaskError, TaskId, TaskInfo};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, mpsc};
use std::thread;
use std::time::{Duration, Instant};

/// So many tiny tasks come first, that a worker has found its pace by then.
const BEFORE: usize = 2000;
const BEHIND: usize = 500;

/// The only worker of a manager has run many tiny tasks, is held up by one, and has many behind that.
struct HeldUp {
    manager: Manager<usize>,
    stop: Option<Gated>,
    stopped: TaskId,
    behind: Vec<Handle<usize>>,
    /// What has run of what was behind, in order.
    ran: Arc<Mutex<Vec<usize>>>,
    drops: Drops,
}

impl HeldUp {
    fn new() -> Self {
        let manager = Manager::builder().max_threads(1).build().unwrap();
        let start = busy(&manager, 0);
        for _ in 0..BEFORE {
            manager.run(0, |_| Ok(())).unwrap();
        }
        let (stop, task) = gated();
        let stopped = manager.run(0, task).unwrap();
        let (ran, drops) = (Arc::default(), Drops::default());
        let behind = (1..=BEHIND).map(|n| {
            let (ran, counted) = (Arc::<Mutex<Vec<_>>>::clone(&ran), drops.counted());
            let task = move |_: &Context| {
                let _counted = counted;
                ran.lock().unwrap().push(n);
                Ok(n)
            };
            manager.spawn(n, task).unwrap()
        });
        let behind = behind.collect();
        start.open();
        stop.started();
        HeldUp { manager, stop: Some(stop), stopped, behind, ran, drops }
    }

    fn expect_all_of(&self, tasks: &[TaskInfo<usize>]) {
        let listed = tasks.iter().map(|task| (task.id(), task.phase(), *task.meta()));
        let behind = self.behind.iter().zip(1..).map(|(handle, n)| (handle.id(), Phase::Queued, n));
        let expected = [(self.stopped, Phase::Running, 0)].into_iter().chain(behind);
        assert_eq!(listed.collect::<Vec<_>>(), expected.collect::<Vec<_>>());
        assert!(tasks[0].thread().is_some() && tasks[1..].iter().all(|task| task.thread().is_none()));
    }

    fn goes_on(&mut self) {
        self.stop.take().unwrap().open();
    }

    fn order(&self) -> Vec<usize> {
        self.ran.lock().unwrap().clone()
    }
}

#[test]
fn what_is_asked_in_the_midst_of_a_flood_is_answered_as_it_is() {
    // Each question first, since an answer may set things right for the next.
    let questions: [fn(&HeldUp); 5] = [
        |held_up| assert_eq!(held_up.manager.len(), 1 + BEHIND),
        |held_up| assert_eq!(held_up.manager.count_of(Kind::Once), 1 + BEHIND),
        |held_up| assert_eq!(held_up.manager.stats().succeeded as usize, 1 + BEFORE),
        |held_up| held_up.expect_all_of(&held_up.manager.tasks()),
        |held_up| held_up.expect_all_of(held_up.manager.wait_timeout(Duration::ZERO).unwrap_err().tasks()),
    ];
    for question in questions {
        let mut held_up = HeldUp::new();
        question(&held_up);
        held_up.goes_on();
        held_up.manager.wait();
        assert_eq!((held_up.manager.len(), held_up.drops.count()), (0, BEHIND));
        assert_eq!(held_up.manager.stats().succeeded as usize, 2 + BEFORE + BEHIND);
        assert_eq!(held_up.order(), (1..=BEHIND).collect::<Vec<_>>(), "one worker runs them in order");
    }
}

#[test]
fn what_is_next_in_a_flood_is_cancelled_there_and_then() {
    let mut held_up = HeldUp::new();
    for _ in 0..20 {
        let next = held_up.behind.remove(0);
        next.cancel();
        assert!(next.is_finished());
        assert!(matches!(next.join(), Err(TaskError::Cancelled)));
    }
    assert_eq!((held_up.drops.count(), held_up.manager.len()), (20, 1 + BEHIND - 20));
    held_up.goes_on();
    held_up.manager.wait();
    assert_eq!(held_up.order(), (21..=BEHIND).collect::<Vec<_>>());
}

#[test]
fn a_shutdown_in_the_midst_of_a_flood_names_all_that_is_left() {
    let mut held_up = HeldUp::new();
    let unfinished = held_up.manager.shutdown(Grace::drain(Duration::ZERO)).unwrap_err();
    let named: Vec<_> = unfinished.tasks().iter().map(|task| task.id()).collect();
    let behind = held_up.behind.iter().map(Handle::id);
    assert_eq!(named, [held_up.stopped].into_iter().chain(behind).collect::<Vec<_>>());
    assert_eq!((held_up.drops.count(), held_up.ran.lock().unwrap().len()), (BEHIND, 0));
    for handle in held_up.behind.drain(..) {
        assert!(matches!(handle.join(), Err(TaskError::Abandoned)));
    }
    held_up.goes_on();
}

#[test]
fn a_cancel_in_the_midst_of_a_flood_lets_nothing_more_run() {
    let mut held_up = HeldUp::new();
    held_up.manager.cancel();
    held_up.goes_on();
    held_up.manager.wait();
    assert_eq!((held_up.drops.count(), held_up.ran.lock().unwrap().len()), (BEHIND, 0));
    assert!(held_up.behind.into_iter().all(|handle| matches!(handle.join(), Err(TaskError::Cancelled))));
}

#[test]
fn what_is_next_in_a_flood_is_run_by_a_task_that_joins_it() {
    let manager: Manager<usize> = Manager::builder().max_threads(1).build().unwrap();
    let start = busy(&manager, 0);
    let (sends, handles) = mpsc::channel::<Handle<usize>>();
    for _ in 0..BEFORE {
        manager.run(0, |_| Ok(())).unwrap();
    }
    let joins = move |_: &Context| handles.iter().map(|handle| Ok(handle.join()?)).collect();
    let joined = manager.spawn(1, joins).unwrap();
    for n in 0..BEHIND {
        let handle = manager.spawn(0, move |_| Ok(n)).unwrap();
        if n < 20 || n % 50 == 0 {
            sends.send(handle).unwrap();
        }
    }
    drop(sends);
    start.open();
    let values: Vec<usize> = in_time(move || joined.join()).unwrap();
    assert_eq!(values, (0..BEHIND).filter(|n| *n < 20 || n % 50 == 0).collect::<Vec<_>>());
}

#[test]
fn a_task_of_a_flood_that_joins_itself_panics_and_does_not_hang() {
    let manager: Manager<usize> = Manager::builder().max_threads(1).build().unwrap();
    let start = busy(&manager, 0);
    let (sends, own) = mpsc::channel::<Handle<()>>();
    for _ in 0..BEFORE {
        manager.run(0, |_| Ok(())).unwrap();
    }
    let (says, said) = mpsc::channel();
    manager.on_task_failed(move |_, _, error| says.send(error.clone()).unwrap());
    sends.send(manager.spawn(1, move |_| Ok(own.recv_timeout(HANG)?.join()?)).unwrap()).unwrap();
    for _ in 0..BEHIND {
        manager.run(0, |_| Ok(())).unwrap();
    }
    start.open();
    assert!(matches!(said.recv_timeout(HANG).unwrap(), TaskError::Panicked(_)));
    in_time(move || manager.wait());
}

/// Promise 9, where the task that blocks comes out of a flow.
#[test]
fn a_task_that_blocks_in_a_flood_holds_up_none_of_the_others() {
    for threads in [2, 8] {
        let manager: Manager<usize> = Manager::builder().max_threads(threads).build().unwrap();
        let (ends, ended) = mpsc::channel();
        let mut gates = Vec::new();
        for n in 0..20_000 {
            if n % 10_000 == 5_000 && gates.len() + 1 < threads {
                let (gate, task) = gated();
                manager.run(n, task).unwrap();
                gates.push(gate);
            } else {
                let ends = ends.clone();
                manager.run(n, move |_| Ok(ends.send(n)?)).unwrap();
            }
        }
        let others = 20_000 - gates.len();
        for _ in 0..others {
            ended.recv_timeout(HANG).expect("no other task waits for one that blocks");
        }
        gates.into_iter().for_each(Gated::open);
        in_time(move || manager.wait());
    }
}

/// As many gates as the pool has threads, each of which waits at one.
fn hold_all<const N: usize>(manager: &Manager<usize>) -> [Gated; N] {
    std::array::from_fn(|_| busy(manager, 0))
}

#[test]
fn the_tasks_of_a_flood_start_in_the_order_in_which_they_came() {
    const TASKS: usize = 20_000;
    let manager: Manager<usize> = Manager::builder().max_threads(2).build().unwrap();
    let gates = hold_all::<2>(&manager);
    let started = Arc::new(Mutex::new(Vec::with_capacity(TASKS)));
    for n in 0..TASKS {
        let started = Arc::clone(&started);
        manager.run(n, move |_| Ok(started.lock().unwrap().push(n))).unwrap();
    }
    gates.into_iter().for_each(Gated::open);
    manager.wait();
    // One may have been taken, and its worker have lost its core before it got to its first step.
    let (mut late, mut next) = (BTreeSet::new(), 0);
    for &n in started.lock().unwrap().iter() {
        late.extend(next..=n);
        next = next.max(n + 1);
        late.remove(&n);
        assert!(late.len() <= 1, "{} older tasks had not started when {n} did", late.len());
    }
}

/// Two threads that take tasks in their order always have a pair in hand.
#[test]
fn neighbours_of_a_flood_that_wait_for_each_other_meet_in_a_pool_of_two() {
    let manager: Manager<usize> = Manager::builder().max_threads(2).build().unwrap();
    let gates = hold_all::<2>(&manager);
    for _ in 0..BEFORE {
        manager.run(0, |_| Ok(())).unwrap();
    }
    for n in 0..1000 {
        let (says, said) = mpsc::channel::<()>();
        manager.run(n, move |_| Ok(said.recv_timeout(HANG)?)).unwrap();
        manager.run(n, move |_| Ok(says.send(())?)).unwrap();
    }
    gates.into_iter().for_each(Gated::open);
    manager.wait();
    assert_eq!(manager.stats().failed, 0);
}

#[test]
fn a_note_goes_with_the_task_of_a_flood_that_made_it() {
    let manager: Manager<usize> = Manager::builder().max_threads(1).build().unwrap();
    let start = busy(&manager, 0);
    let stops: Vec<_> = (0..5)
        .map(|_| {
            for _ in 0..BEFORE {
                manager.run(0, |cx| Ok(cx.progress("tiny"))).unwrap();
            }
            let (stop, task) = gated();
            manager.run(1, task).unwrap();
            stop
        })
        .collect();
    start.open();
    for stop in stops {
        stop.started();
        let tasks = manager.tasks();
        assert_eq!((*tasks[0].meta(), tasks[0].progress()), (1, None));
        stop.open();
    }
    manager.wait();
}

#[test]
fn the_count_goes_down_one_by_one_seen_from_the_hooks_of_a_flood() {
    const TASKS: usize = 20_000;
    let manager: Manager<usize> = Manager::builder().max_threads(1).build().unwrap();
    let (inner, ended, wrong) = (manager.uncounted(), AtomicUsize::new(0), Arc::new(AtomicUsize::new(0)));
    let found = Arc::clone(&wrong);
    manager.on_task_succeeded(move |_, _| {
        let before = ended.fetch_add(1, Ordering::SeqCst);
        // Now and then, so that a flow comes about in between.
        if before % 4999 < 3 && inner.len() != TASKS + 1 - before {
            found.fetch_add(1, Ordering::SeqCst);
        }
    });
    let start = busy(&manager, 0);
    for n in 0..TASKS {
        manager.run(n, |_| Ok(())).unwrap();
    }
    start.open();
    manager.wait();
    assert_eq!(wrong.load(Ordering::SeqCst), 0);
}

#[test]
fn each_task_of_a_flood_has_a_context_of_its_own() {
    let manager: Manager<usize> = Manager::builder().max_threads(1).build().unwrap();
    let start = busy(&manager, 0);
    let kept = Arc::new(Mutex::new(Vec::new()));
    let mut ids = Vec::new();
    for n in 0..BEFORE {
        let kept = Arc::clone(&kept);
        let task = move |cx: &Context| {
            assert_eq!((cx.attempt(), cx.is_cancelled()), (1, false));
            if n % 500 == 499 {
                kept.lock().unwrap().push(cx.clone());
            }
            Ok(())
        };
        let id = manager.run(n, task).unwrap();
        ids.extend((n % 500 == 499).then_some(id));
    }
    start.open();
    manager.wait();
    assert_eq!(manager.stats().failed, 0);
    let kept = kept.lock().unwrap();
    assert_eq!(kept.iter().filter_map(Context::task_id).collect::<Vec<_>>(), ids);
    assert!(kept.iter().all(Context::is_cancelled), "a context that was kept counts as cancelled");
}

#[test]
fn a_task_behind_one_that_took_long_has_not_run_for_as_long() {
    let mut held_up = HeldUp::new();
    let (says, said) = mpsc::channel();
    let manager = held_up.manager.clone();
    manager.on_task_succeeded(move |cx, &n| {
        if n == 1 {
            let _ = says.send((cx.running_for(), cx.queued_for()));
        }
    });
    let held = Instant::now();
    while held.elapsed() < Duration::from_millis(20) {
        thread::yield_now();
    }
    let held = held.elapsed();
    let opened = Instant::now();
    held_up.goes_on();
    assert_eq!(held_up.behind.remove(0).join().unwrap(), 1);
    let (ran, queued) = said.recv_timeout(HANG).unwrap();
    assert!(ran <= opened.elapsed() && queued >= held, "{ran:?} {queued:?}");
}

#[test]
fn who_asks_the_tasks_of_a_flood_how_long_they_ran_is_told_of_no_time_twice() {
    type Ask = fn(&Manager<usize>, Arc<Ran>);
    let asks: [Ask; 2] = [
        // In the hook that follows each.
        |manager, ran| {
            manager.on_task_succeeded(move |cx, _| ran.add(cx));
            for _ in 0..10 * BEFORE {
                manager.run(0, |_| Ok(())).unwrap();
            }
        },
        // In each task.
        |manager, ran| {
            for _ in 0..10 * BEFORE {
                let (ran, since) = (Arc::clone(&ran), Instant::now());
                let task = move |cx: &Context| {
                    ran.add(cx);
                    let there = cx.queued_for() + cx.running_for();
                    assert!(there <= since.elapsed(), "it was there for no longer than that: {there:?}");
                    Ok(())
                };
                manager.run(0, task).unwrap();
            }
        },
    ];
    for ask in asks {
        let manager = Manager::builder().max_threads(3).build().unwrap();
        let (ran, since) = (Arc::<Ran>::default(), Instant::now());
        ask(&manager, Arc::clone(&ran));
        manager.wait();
        let longest = ran.0.lock().unwrap().values().max().copied().unwrap();
        assert!(longest <= since.elapsed(), "one thread worked for {longest:?} of {:?}", since.elapsed());
        assert_eq!(manager.stats().failed, 0);
    }
}

/// For how long each thread has run tasks, by what these say.
#[derive(Default)]
struct Ran(Mutex<BTreeMap<String, Duration>>);

impl Ran {
    fn add(&self, cx: &Context) {
        let thread = cx.thread().unwrap().to_owned();
        *self.0.lock().unwrap().entry(thread).or_default() += cx.running_for();
    }
}

#[test]
fn what_fails_in_a_flood_is_told_apart_from_what_succeeds() {
    let manager: Manager<usize> = Manager::builder().max_threads(2).build().unwrap();
    let told = Arc::new(Mutex::new((0, Vec::new())));
    let (succeeds, fails) = (Arc::clone(&told), Arc::clone(&told));
    manager.on_task_succeeded(move |_, _| succeeds.lock().unwrap().0 += 1).on_task_failed(
        move |_, &n, error| fails.lock().unwrap().1.push((n, matches!(error, TaskError::Panicked(_)))),
    );
    let start = busy(&manager, 0);
    for n in 1..=10_000 {
        manager
            .run(n, move |_| match n % 1000 {
                500 => Err("no".into()),
                0 => panic!("never"),
                _ => Ok(()),
            })
            .unwrap();
    }
    start.open();
    manager.wait();
    let (succeeded, mut failed) = std::mem::take(&mut *told.lock().unwrap());
    failed.sort_unstable();
    assert_eq!(failed, (1..=20).map(|n| (n * 500, n % 2 == 0)).collect::<Vec<_>>());
    let stats = manager.stats();
    assert_eq!((stats.succeeded, stats.failed, succeeded), (9_981, 20, 9_981));
}
