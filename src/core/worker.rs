//! A worker's loop: take, run, finish.

use std::thread;

use super::lifecycle::{Desk, Turn};
use super::state::{Effects, Expired, Next, Order};
use super::tray::Tray;
use super::{Core, callout, drop_record};
use crate::clock::Moment;
use crate::sync::{Arc, AtomicBool, Backoff, Mutex, Ordering, Parker};

/// How often a worker that lingers looks: it spins for 2 µs, then yields its core between looks.
const LINGER: u32 = if cfg!(inflight_model) { 1 } else { 40 };

/// How often a worker that gathers doubles the time that it spins: up to 63 pauses, which take about a microsecond.
const GATHER: u32 = if cfg!(inflight_model) { 1 } else { 6 };

/// The life of the worker of `hand`.
pub(crate) fn run<Meta>(core: &Arc<Core<'_, Meta>>, hand: usize) {
    let inside = callout::enter(core.identity(), hand);
    let mut desk = Desk::new(core, hand, thread::current().name().map(Arc::from));
    let (parker, hint) = await_grant(core, hand, &desk);
    let mut turn = None;
    let mut tray: Option<Arc<Mutex<Tray<'_, Meta>>>> = None;
    loop {
        if let Some(out) = &tray {
            if let Some((task, done)) = desk.turn_over(out, &turn) {
                desk.identify(&task);
                drop_record(core, done);
                turn = Some(desk.turn(task, Order::Run));
                continue;
            }
            tray = None;
        }
        let now = core.now();
        let mut fx = Effects::default();
        let mut state = core.lock();
        // Ending the last task, waking who waits and taking the next task, if it is taken at once, are one critical
        // section.
        let done = match turn.take() {
            None => None,
            Some(Turn::Ended(ended)) => state.finish(hand, &ended, &mut fx),
            Some(Turn::Paused(task, pause)) => match state.pause(hand, task, pause, now, &mut fx) {
                Ok(record) => record,
                Err((task, refusal)) => {
                    drop(state);
                    core.apply(fx);
                    turn = Some(desk.refused(task, refusal));
                    continue;
                }
            },
        };
        let next = state.next(hand, now, &mut fx);
        match next {
            Next::Take(mut task, twin, order, taken) => {
                tray = taken;
                desk.begin(&mut state, (&mut task, twin), Some(order), None, now, &mut fx);
                drop(state);
                if let Some(out) = &tray {
                    out.lock().fetch();
                }
                desk.identify(&task);
                core.apply(fx);
                drop_record(core, done);
                turn = Some(desk.turn(task, order));
            }
            Next::Gather => {
                drop(state);
                core.apply(fx);
                drop_record(core, done);
                gather();
            }
            Next::Linger => {
                drop(state);
                core.apply(fx);
                drop_record(core, done);
                linger(&hint);
            }
            Next::Park(mut until) => {
                drop(state);
                core.apply(fx);
                drop_record(core, done);
                loop {
                    parker.park_until(&core.root.clock, until);
                    let mut state = core.lock();
                    if !state.is_idle(hand) {
                        break;
                    }
                    let now = core.now();
                    if now < until {
                        continue;
                    }
                    match state.expire(hand, now) {
                        Expired::Stay(longer) => until = longer,
                        Expired::Work => break,
                        Expired::Leave => {
                            drop(state);
                            return leave(core, hand, desk, inside);
                        }
                    }
                }
            }
            Next::Successor(successor) => {
                drop(state);
                core.apply(fx);
                drop_record(core, done);
                desk.forget_hooks();
                let mut fx = Effects::default();
                let (state, started) = core.start_worker(successor, Some(hand), &mut fx);
                drop(state);
                if started.is_ok() {
                    drop(inside);
                    return core.apply(fx);
                }
                core.apply(fx);
            }
            Next::Leave => {
                drop(state);
                core.apply(fx);
                drop_record(core, done);
                return leave(core, hand, desk, inside);
            }
        }
    }
}

/// A thread is held until its starter has recorded that it was granted.
fn await_grant<Meta>(
    core: &Core<'_, Meta>,
    hand: usize,
    desk: &Desk<'_, Meta>,
) -> (Arc<Parker>, Arc<AtomicBool>) {
    let mut state = core.lock();
    let parker = state.parker(hand);
    while state.is_starting(hand) {
        drop(state);
        parker.park_until(&core.root.clock, Moment::NEVER);
        state = core.lock();
    }
    state.sit_down(hand, Arc::clone(desk.control()));
    (parker, state.hint())
}

/// Waits for the hint for some 20 µs: about what a wake-up costs those who would have to give and to take it.
fn linger(hint: &AtomicBool) {
    let backoff = Backoff::new();
    for _ in 0..LINGER {
        if hint.load(Ordering::Acquire) {
            return;
        }
        backoff.snooze();
    }
}

/// Lets tasks come, without a look at what the submitters write.
fn gather() {
    let backoff = Backoff::new();
    for _ in 0..GATHER {
        backoff.spin();
    }
}

/// The hooks it knows are dropped before it leaves; that it leaves is the last thing it does under the lock.
fn leave<Meta>(core: &Arc<Core<'_, Meta>>, hand: usize, mut desk: Desk<'_, Meta>, inside: callout::Inside) {
    desk.forget_hooks();
    drop(desk);
    let mut fx = Effects::default();
    let now = core.now();
    core.lock().leave(hand, now, &mut fx);
    drop(inside);
    core.apply(fx);
}
