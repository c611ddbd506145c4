//! Which managers' call-outs this thread is in.
//!
//! A *call-out* is code of the user's that a manager runs: a task, a hook, the drop of a capture. It is
//! entered with the manager's identity and the hand (see [`State`](super::state::State)) that holds the task.
//! A worker enters once, when its thread starts.
//!
//! The thread-local is `const` and has no destructor, so that it still tells the truth while other
//! thread-locals are destroyed.

use std::cell::Cell;
use std::marker::PhantomData;

use crate::sync::thread_local;

/// How many call-outs one thread can be in before it counts as inside of every manager's.
const DEPTH: usize = 8;

#[derive(Clone, Copy, PartialEq, Eq)]
struct Frame {
    manager: usize,
    hand: usize,
    /// May this thread run a task that it is to wait for? Not the notifier.
    helps: bool,
}

const NOWHERE: Frame = Frame { manager: 0, hand: 0, helps: true };

/// The call-outs that a thread is in, outermost first.
#[derive(Clone, Copy)]
pub(crate) struct Frames {
    /// May exceed `DEPTH`: the frames beyond are counted and not known.
    depth: usize,
    known: [Frame; DEPTH],
}

/// A thread's own [`Frames`], in cells: asking about one of them copies no other.
struct Own {
    depth: Cell<usize>,
    known: [Cell<Frame>; DEPTH],
}

thread_local! {
    static INSIDE: Own = const { Own { depth: Cell::new(0), known: [const { Cell::new(NOWHERE) }; DEPTH] } };
}

impl Own {
    fn known(&self) -> impl Iterator<Item = Frame> {
        self.known.iter().take(self.depth.get()).map(Cell::get)
    }

    fn get(&self) -> Frames {
        Frames { depth: self.depth.get(), known: std::array::from_fn(|i| self.known[i].get()) }
    }

    fn set(&self, frames: &Frames) {
        self.depth.set(frames.depth);
        for (own, frame) in self.known.iter().zip(frames.known) {
            own.set(frame);
        }
    }
}

/// Left when dropped; guards of one thread are dropped in the reverse order of their making.
#[must_use]
pub(crate) struct Inside {
    _not_send: PhantomData<*const ()>,
}

pub(crate) fn enter(manager: usize, hand: usize) -> Inside {
    push(Frame { manager, hand, helps: true })
}

/// As `enter`, on the notifier: whoever joins there waits, and runs nothing.
pub(crate) fn enter_to_notify(manager: usize, hand: usize) -> Inside {
    push(Frame { manager, hand, helps: false })
}

fn push(new: Frame) -> Inside {
    INSIDE.with(|frames| {
        let depth = frames.depth.get();
        if let Some(frame) = frames.known.get(depth) {
            frame.set(new);
        }
        frames.depth.set(depth + 1);
    });
    Inside { _not_send: PhantomData }
}

impl Drop for Inside {
    fn drop(&mut self) {
        INSIDE.with(|frames| frames.depth.set(frames.depth.get() - 1));
    }
}

/// Is this thread in a call-out of `manager`?
#[inline]
pub(crate) fn is_inside(manager: usize) -> bool {
    INSIDE.with(|frames| frames.depth.get() > DEPTH || frames.known().any(|frame| frame.manager == manager))
}

/// May this thread run a task of `manager` that it would have to wait for?
pub(crate) fn may_help(manager: usize) -> bool {
    INSIDE.with(|frames| !frames.known().any(|frame| frame.manager == manager && !frame.helps))
}

/// The hands of `manager` that this thread acts for.
pub(crate) fn hands(manager: usize) -> Vec<usize> {
    INSIDE.with(|frames| {
        frames.known().filter(|frame| frame.manager == manager).map(|frame| frame.hand).collect()
    })
}

/// What a thread that is started on behalf of this one inherits.
pub(crate) fn frames() -> Frames {
    INSIDE.with(Own::get)
}

/// Makes this thread one that is in `frames`, until the guard is dropped.
pub(crate) fn inherit(frames: &Frames) -> Inherited {
    let before = self::frames();
    INSIDE.with(|own| own.set(frames));
    Inherited { before }
}

#[must_use]
pub(crate) struct Inherited {
    before: Frames,
}

impl Drop for Inherited {
    fn drop(&mut self) {
        INSIDE.with(|own| own.set(&self.before));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn more_call_outs_than_can_be_told_apart_count_as_inside_of_all() {
        let guards: Vec<_> = (1..=DEPTH).map(|manager| enter(manager, 0)).collect();
        assert!(is_inside(1) && is_inside(DEPTH) && !is_inside(99));
        let ninth = enter(50, 0);
        assert!(is_inside(99));
        drop(ninth);
        assert!(!is_inside(50) && !is_inside(99));
        drop(guards);
        assert!(!is_inside(1));
    }

    #[test]
    fn a_started_thread_inherits_the_call_outs_of_its_opener() {
        let _outer = enter(7, 3);
        let inherited = frames();
        std::thread::spawn(move || {
            assert!(!is_inside(7));
            let guard = inherit(&inherited);
            assert_eq!(hands(7), [3]);
            drop(guard);
            assert!(!is_inside(7));
        })
        .join()
        .expect("the thread's assertions hold");
    }
}
