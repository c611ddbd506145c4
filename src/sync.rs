//! The seam to the operating system: locks, condition variables and atomics.
//!
//! Everything in this crate that waits or synchronizes goes through this file, so that a model checker can
//! take its place. Debug builds also count the guards that a thread holds: every call-out asserts that there
//! are none ([`assert_unlocked`]).

use std::cell::Cell;
use std::time::Duration;

pub(crate) use crossbeam_utils::CachePadded;
pub(crate) use std::sync::Arc;
pub(crate) use std::sync::atomic::Ordering;

pub(crate) use self::system::{AtomicBool, AtomicU8, AtomicU32, AtomicU64, Backoff, thread, thread_local};

use crate::clock::{Clock, Moment};

/// What the operating system, or a library close to it, provides.
#[cfg(not(all(test, inflight_model)))]
mod system {
    pub(crate) use crossbeam_utils::Backoff;
    pub(crate) use parking_lot::{Condvar, Mutex, MutexGuard};
    pub(crate) use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU32, AtomicU64};
    pub(crate) use std::{thread, thread_local};
}

#[cfg(all(test, inflight_model))]
#[path = "sync/model.rs"]
mod system;

thread_local! {
    static HELD: Cell<u32> = const { Cell::new(0) };
}

/// Promise 5: no lock of ours is held while the user's code runs.
#[inline]
pub(crate) fn assert_unlocked() {
    debug_assert_eq!(HELD.with(Cell::get), 0, "a lock of inflight's is held while the user's code runs");
}

/// Counts one guard of this thread; a zero-sized nothing in release builds.
struct Held;

impl Held {
    #[inline]
    fn new() -> Self {
        if cfg!(debug_assertions) {
            HELD.with(|held| held.set(held.get() + 1));
        }
        Held
    }
}

impl Drop for Held {
    #[inline]
    fn drop(&mut self) {
        if cfg!(debug_assertions) {
            HELD.with(|held| held.set(held.get() - 1));
        }
    }
}

/// A mutex that no panic poisons. `FIRST`: who takes it holds no other; debug builds assert it.
pub(crate) struct Mutex<T, const FIRST: bool = false>(system::Mutex<T>);

pub(crate) struct Guard<'a, T> {
    guard: system::MutexGuard<'a, T>,
    _held: Held,
}

impl<T, const FIRST: bool> Mutex<T, FIRST> {
    pub(crate) const fn new(value: T) -> Self {
        Mutex(system::Mutex::new(value))
    }

    #[inline]
    pub(crate) fn lock(&self) -> Guard<'_, T> {
        debug_assert!(
            !FIRST || HELD.with(Cell::get) == 0,
            "a lock that is to be taken first is taken second"
        );
        Guard { guard: self.0.lock(), _held: Held::new() }
    }

    #[inline]
    pub(crate) fn get_mut(&mut self) -> &mut T {
        self.0.get_mut()
    }
}

impl<T> Mutex<Option<T>> {
    /// Takes the value out for `code`, which runs without the lock, and puts it back, also if that panics.
    ///
    /// For values that one thread at a time has the right to: a second taker finds nothing.
    pub(crate) fn lend<R>(&self, code: impl FnOnce(&mut T) -> R) -> R {
        let mut loan = Loan { home: self, value: self.lock().take() };
        code(loan.value.as_mut().expect("whoever has a task in hand is alone with it"))
    }
}

struct Loan<'m, T> {
    home: &'m Mutex<Option<T>>,
    value: Option<T>,
}

impl<T> Drop for Loan<'_, T> {
    fn drop(&mut self) {
        *self.home.lock() = self.value.take();
    }
}

impl<T: Default> Default for Mutex<T> {
    fn default() -> Self {
        Mutex::new(T::default())
    }
}

impl<T> std::ops::Deref for Guard<'_, T> {
    type Target = T;

    #[inline]
    fn deref(&self) -> &T {
        &self.guard
    }
}

impl<T> std::ops::DerefMut for Guard<'_, T> {
    #[inline]
    fn deref_mut(&mut self) -> &mut T {
        &mut self.guard
    }
}

/// How often a waiter looks again at a clock that a test advances.
const MANUAL_POLL: Duration = Duration::from_millis(1);

/// A condition variable whose timed wait follows the manager's [`Clock`].
///
/// Every wait may return spuriously: its caller holds the condition and asks again.
#[derive(Default)]
pub(crate) struct Condvar(system::Condvar);

impl Condvar {
    #[inline]
    pub(crate) fn wait<T>(&self, guard: &mut Guard<'_, T>) {
        self.0.wait(&mut guard.guard);
    }

    /// Waits until `until` at the latest.
    pub(crate) fn wait_until<T>(&self, guard: &mut Guard<'_, T>, clock: &Clock, until: Moment) {
        if until == Moment::NEVER {
            return self.wait(guard);
        }
        if clock.is_manual() {
            self.0.wait_for(&mut guard.guard, MANUAL_POLL);
        } else if let Some(instant) = clock.instant(until) {
            self.0.wait_until(&mut guard.guard, instant);
        } else {
            self.wait(guard);
        }
    }

    #[inline]
    pub(crate) fn notify_one(&self) {
        self.0.notify_one();
    }

    #[inline]
    pub(crate) fn notify_all(&self) {
        self.0.notify_all();
    }
}

/// Where one thread sleeps until another wakes it, or has woken it since it slept there last.
///
/// `std::thread::park`, without the tokens of the user's code; crossbeam's `Parker` would go past the manager's clock
/// and the model checker. A condition variable beside the state's lock would queue up at that lock, one by one, all
/// who are woken while somebody holds it.
#[derive(Default)]
pub(crate) struct Parker {
    woken: Mutex<bool>,
    bell: Condvar,
}

impl Parker {
    pub(crate) fn unpark(&self) {
        *self.woken.lock() = true;
        self.bell.notify_one();
    }

    /// Until `until` at the latest. It may return for no reason.
    pub(crate) fn park_until(&self, clock: &Clock, until: Moment) {
        let mut woken = self.woken.lock();
        if !*woken {
            self.bell.wait_until(&mut woken, clock, until);
        }
        *woken = false;
    }
}

#[cfg(all(test, not(inflight_model)))]
mod parker_tests {
    use super::{AtomicU64, Duration, Ordering, Parker};
    use crate::clock::Clock;

    fn park(parker: &Parker) {
        let clock = Clock::real();
        let hang = clock.now().after(Duration::from_secs(60));
        parker.park_until(&clock, hang);
        assert!(clock.now() < hang, "nobody has woken it");
    }

    #[test]
    fn who_is_woken_before_it_sleeps_does_not_sleep() {
        let (parker, clock) = (Parker::default(), Clock::real());
        for _ in 0..1000 {
            parker.unpark();
            park(&parker);
        }
        // Nor does one wake-up serve for two sleeps.
        parker.park_until(&clock, clock.now());
        assert!(!*parker.woken.lock());
    }

    #[test]
    fn who_sleeps_is_woken() {
        let parkers = [Parker::default(), Parker::default()];
        let turns = AtomicU64::new(0);
        // In turn: each waits for its own turn, and wakes the other.
        let takes_turns = |me: usize| {
            for turn in (me as u64..2000).step_by(2) {
                while turns.load(Ordering::SeqCst) != turn {
                    park(&parkers[me]);
                }
                turns.store(turn + 1, Ordering::SeqCst);
                parkers[1 - me].unpark();
            }
        };
        std::thread::scope(|scope| {
            scope.spawn(|| takes_turns(0));
            takes_turns(1);
        });
        assert_eq!(turns.into_inner(), 2000);
    }
}

#[cfg(all(test, debug_assertions, not(inflight_model)))]
mod tests {
    use super::Mutex;
    use crate::core::unwind;

    #[test]
    #[should_panic = "a lock of inflight's is held while the user's code runs"]
    fn a_call_out_under_a_lock_is_noticed() {
        let lock: Mutex<()> = Mutex::new(());
        let _guard = lock.lock();
        let _ = unwind::catch(|| ());
    }

    #[test]
    fn a_call_out_without_one_is_welcome() {
        let lock: Mutex<u32> = Mutex::new(17);
        let value = *lock.lock();
        assert_eq!(unwind::catch(|| value).ok(), Some(17));
    }

    #[test]
    #[should_panic = "a lock that is to be taken first is taken second"]
    fn a_lock_that_is_out_of_order_is_noticed() {
        let (first, other) = (Mutex::<(), true>::new(()), Mutex::<()>::new(()));
        drop(first.lock());
        let _guard = other.lock();
        drop(first.lock());
    }
}
