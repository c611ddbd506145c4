//! What a worker takes from the queue at once, where tiny tasks flow.

use super::queue::Batch;
use crate::sync::Arc;
use crate::task::{Parting, Record, Task};

/// A task in the queue. The second of its record's owners stands ready for the hand that will list it, so that
/// a worker need not touch the record, which is in its submitter's cache, before it has let go of the lock.
pub(crate) struct Due<'a, Meta> {
    pub(crate) task: Task<'a, Meta>,
    pub(crate) twin: Arc<Record<'a, Meta>>,
}

/// A batch of tasks that its worker begins and ends one after the other without the state's lock, which all
/// submitters and workers would otherwise meet at for each of them.
///
/// The worker alone fills in what it has done; the state calls the tray in, under its own lock and the tray's,
/// as soon as it has to know, or as the worker is held up: see `State::call_in`. Until then its numbers lag
/// behind by what stands here.
pub(crate) struct Tray<'a, Meta> {
    /// Not begun yet.
    pub(crate) due: Batch<Due<'a, Meta>>,
    /// The task in hand.
    pub(crate) held: Option<Arc<Record<'a, Meta>>>,
    /// Tasks that have ended, each of which was followed by one from here.
    pub(crate) succeeded: u64,
    pub(crate) failed: u64,
    /// The supervisor's tick has it come in, so that what begins from it follows what is tiny, or is a tick late.
    ticks: bool,
}

/// Of so many tasks from a tray one has the clock read when it begins; the others begin, to all who ask, with the one
/// before. A look at the clock takes some 30 ns, which is a fifth of all that a tiny task takes its worker. Who asks
/// in each task or hook is told as exactly as anywhere: see [`Control::was_asked`](crate::context::Control).
const TIMED: u64 = 16;

impl<'a, Meta> Tray<'a, Meta> {
    pub(crate) fn new(due: Batch<Due<'a, Meta>>, ticks: bool) -> Self {
        Tray { due, held: None, succeeded: 0, failed: 0, ticks }
    }

    /// Is the clock to be read for the task in hand?
    pub(crate) fn is_timed(&self) -> bool {
        !self.ticks || (self.succeeded + self.failed) % TIMED == 0
    }

    /// Has the records come from their submitter's cache side by side, and not one by one as each begins: with that a
    /// flood took a twentieth less.
    pub(crate) fn fetch(&self) {
        for due in self.due.iter() {
            due.task.record.touch();
        }
    }

    /// The task in hand has ended: the next one, which is to run, is in hand now.
    ///
    /// `None`, and nothing is changed, if that is for the state to see to: the tray is empty, or was called in,
    /// or its next task has luggage.
    #[inline]
    pub(crate) fn turn_over(&mut self, succeeded: bool) -> Option<(Task<'a, Meta>, Parting<'a, Meta>)> {
        let Due { task, twin } = self.due.next_if(|due| due.task.luggage.is_none())?;
        *(if succeeded { &mut self.succeeded } else { &mut self.failed }) += 1;
        Some((task, self.held.replace(twin)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_in_so_many_tasks_is_timed_and_each_where_nothing_ticks() {
        let timed = |ticks, ended| {
            let mut tray: Tray<'_, ()> = Tray::new(Batch::default(), ticks);
            (tray.succeeded, tray.failed) = (ended / 2, ended - ended / 2);
            tray.is_timed()
        };
        assert_eq!(
            (1..=3 * TIMED).filter(|&ended| timed(true, ended)).collect::<Vec<_>>(),
            [TIMED, 2 * TIMED, 3 * TIMED]
        );
        assert!((1..=TIMED).all(|ended| timed(false, ended)));
    }
}
