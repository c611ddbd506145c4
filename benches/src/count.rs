//! A count to wait for: a latch, a gate, and the `wait` of peers that have none.

use std::sync::atomic::{AtomicUsize, Ordering};

use parking_lot::{Condvar, Mutex};

/// `wait` returns once as many were `done` as were `add`ed.
#[derive(Default)]
pub(crate) struct Count {
    left: AtomicUsize,
    lock: Mutex<()>,
    zero: Condvar,
}

impl Count {
    pub(crate) const fn of(left: usize) -> Self {
        Self { left: AtomicUsize::new(left), lock: Mutex::new(()), zero: Condvar::new() }
    }

    pub(crate) fn add(&self, more: usize) {
        self.left.fetch_add(more, Ordering::Relaxed);
    }

    pub(crate) fn done(&self) {
        if self.left.fetch_sub(1, Ordering::AcqRel) == 1 {
            // Taken so that no waiter is between its look at `left` and its sleep.
            drop(self.lock.lock());
            self.zero.notify_all();
        }
    }

    pub(crate) fn wait(&self) {
        let mut guard = self.lock.lock();
        while self.left.load(Ordering::Acquire) != 0 {
            self.zero.wait(&mut guard);
        }
    }
}
