//! The seam under the model checker: shuttle's locks, atomics and threads, with the faces of those they stand
//! in for. Which thread goes on at each step is shuttle's choice.

pub(crate) use shuttle::sync::atomic::{AtomicBool, AtomicU8, AtomicU32, AtomicU64};
pub(crate) use shuttle::thread_local;

use std::sync::PoisonError;
use std::time::{Duration, Instant};

/// `parking_lot::Mutex`.
#[derive(Default)]
pub(crate) struct Mutex<T>(shuttle::sync::Mutex<T>);

pub(crate) struct MutexGuard<'a, T> {
    mutex: &'a shuttle::sync::Mutex<T>,
    /// Empty only while its thread waits on a condition variable.
    guard: Option<shuttle::sync::MutexGuard<'a, T>>,
}

impl<T> Mutex<T> {
    pub(crate) const fn new(value: T) -> Self {
        Mutex(shuttle::sync::Mutex::new(value))
    }

    pub(crate) fn lock(&self) -> MutexGuard<'_, T> {
        MutexGuard { mutex: &self.0, guard: Some(whole(self.0.lock())) }
    }

    pub(crate) fn get_mut(&mut self) -> &mut T {
        whole(self.0.get_mut())
    }
}

/// As with parking_lot's, no panic poisons anything.
fn whole<G>(result: Result<G, PoisonError<G>>) -> G {
    result.unwrap_or_else(PoisonError::into_inner)
}

impl<T> std::ops::Deref for MutexGuard<'_, T> {
    type Target = T;

    fn deref(&self) -> &T {
        self.guard.as_ref().expect("its thread does not wait")
    }
}

impl<T> std::ops::DerefMut for MutexGuard<'_, T> {
    fn deref_mut(&mut self) -> &mut T {
        self.guard.as_mut().expect("its thread does not wait")
    }
}

/// `parking_lot::Condvar`. A wait without a deadline returns only when it is notified, so that a wake-up which
/// is lost ends in a deadlock, and shuttle reports that. A timed one may return at any step: its thread lets go
/// of the lock, gives way, and looks again.
#[derive(Default)]
pub(crate) struct Condvar(shuttle::sync::Condvar);

impl Condvar {
    pub(crate) fn wait<T>(&self, guard: &mut MutexGuard<'_, T>) {
        let held = guard.guard.take().expect("its thread does not wait");
        guard.guard = Some(whole(self.0.wait(held)));
    }

    pub(crate) fn wait_for<T>(&self, guard: &mut MutexGuard<'_, T>, _timeout: Duration) {
        drop(guard.guard.take());
        shuttle::thread::yield_now();
        guard.guard = Some(whole(guard.mutex.lock()));
    }

    pub(crate) fn wait_until<T>(&self, guard: &mut MutexGuard<'_, T>, _until: Instant) {
        self.wait_for(guard, Duration::ZERO);
    }

    pub(crate) fn notify_one(&self) {
        self.0.notify_one();
    }

    pub(crate) fn notify_all(&self) {
        self.0.notify_all();
    }
}

/// `crossbeam_utils::Backoff`.
pub(crate) struct Backoff;

impl Backoff {
    pub(crate) fn new() -> Self {
        Backoff
    }

    pub(crate) fn snooze(&self) {
        shuttle::thread::yield_now();
    }

    pub(crate) fn spin(&self) {
        shuttle::thread::yield_now();
    }
}

pub(crate) mod thread {
    pub(crate) use shuttle::thread::{Scope, current, scope};
    pub(crate) use std::thread::{available_parallelism, panicking};

    use std::io;

    /// `std::thread::Builder`: names are of no account here.
    pub(crate) struct Builder;

    impl Builder {
        pub(crate) fn new() -> Self {
            Builder
        }

        pub(crate) fn name(self, _name: String) -> Self {
            self
        }

        pub(crate) fn stack_size(self, _bytes: usize) -> Self {
            self
        }

        pub(crate) fn spawn(self, body: impl FnOnce() + Send + 'static) -> io::Result<()> {
            drop(shuttle::thread::spawn(body));
            Ok(())
        }

        pub(crate) fn spawn_scoped<'scope>(
            self,
            scope: &'scope Scope<'scope, '_>,
            body: impl FnOnce() + Send + 'scope,
        ) -> io::Result<()> {
            drop(scope.spawn(body));
            Ok(())
        }
    }
}
