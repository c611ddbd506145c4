//! How a manager comes to its end: close, cancel, shutdown, and the drop of its last counted handle.

use super::lifecycle::Turn;
use super::state::{Effects, State};
use super::{Core, callout, drop_record};
use crate::clock::Moment;
use crate::error::{TaskError, Unfinished};
use crate::grace::Grace;
use crate::sync::{Arc, Guard};
use crate::task::Kind;

impl<'a, Meta> Core<'a, Meta> {
    pub(crate) fn close(self: &Arc<Self>) -> bool {
        let mut fx = Effects::default();
        let closed = self.lock().close(self.now(), &mut fx);
        self.apply(fx);
        closed
    }

    pub(crate) fn cancel(self: &Arc<Self>) {
        let mut fx = Effects::default();
        let now = self.now();
        let mut state = self.lock();
        state.close(now, &mut fx);
        state.cancel(now, &mut fx);
        drop(state);
        self.root.line.cancel();
        self.apply(fx);
    }

    #[track_caller]
    pub(crate) fn shutdown(self: &Arc<Self>, grace: Grace) -> Result<(), Unfinished<'a, Meta>> {
        if self.refuse_inside("shutdown") {
            self.close();
            return Err(Unfinished::new(self.tasks()));
        }
        let drain_end = self.now().after(grace.drain);
        let cancel_end = drain_end.after(grace.cancel);
        self.root.announce(drain_end, cancel_end);
        let since = self.lock().begin_shutdown();
        self.close();

        let mut state = self.lock();
        if !self.wait_until_empty(&mut state, drain_end) {
            drop(state);
            self.cancel();
            state = self.lock();
            self.wait_until_empty(&mut state, cancel_end);
        }
        let clean = state.len() == 0 && !state.gave_up(since);
        let unfinished = if clean {
            self.wait_until_left(&mut state, cancel_end);
            drop(state);
            Ok(())
        } else {
            Err(self.abandon(state, since))
        };
        let mut fx = Effects::default();
        let names = self.lock().end_shutdown(unfinished.is_err(), &mut fx);
        self.apply(fx);
        let _inside = callout::enter(self.identity(), usize::MAX);
        self.call_out(|| drop(names));
        unfinished
    }

    /// Is everything gone before `until`?
    fn wait_until_empty(&self, state: &mut Guard<'_, State<'a, Meta>>, until: Moment) -> bool {
        while state.len() > 0 {
            if until != Moment::NEVER && self.now() >= until {
                return false;
            }
            self.quiet.wait_until(state, &self.root.clock, until);
        }
        true
    }

    /// Waits until the threads have left, now that the manager is closed and empty: nothing of the user's
    /// holds them up but the drop of hooks. The notifier may be in a hook that blocks: it is waited for until
    /// `until`.
    fn wait_until_left(&self, state: &mut Guard<'_, State<'a, Meta>>, until: Moment) {
        while !state.threads_gone() {
            self.quiet.wait(state);
        }
        while !state.notifier_gone() && (until == Moment::NEVER || self.now() < until) {
            self.quiet.wait_until(state, &self.root.clock, until);
        }
    }

    /// Gives up what no thread has in hand, and names it together with what is still running.
    fn abandon(
        self: &Arc<Self>,
        mut state: Guard<'_, State<'a, Meta>>,
        since: usize,
    ) -> Unfinished<'a, Meta> {
        let mut fx = Effects::default();
        let tasks = state.abandon(since, self.now(), &mut fx);
        let records = state.doomed();
        let mut desk = self.guest_desk(&mut state);
        drop(state);
        self.apply(fx);

        let inside = callout::enter(self.identity(), desk.hand);
        // Whoever waits for a result learns of it first; the hooks may take their time.
        for record in records {
            self.call_out(|| record.job.discard());
            self.call_out(|| record.job.answer(Some(&TaskError::Abandoned)));
            self.call_out(|| drop(record));
        }
        loop {
            let mut fx = Effects::default();
            let mut state = self.lock();
            let Some(mut task) = state.take_doomed() else {
                state.guest_leaves(desk.hand);
                drop(state);
                desk.forget_hooks();
                break;
            };
            let twin = Arc::clone(&task.record);
            desk.begin(&mut state, (&mut task, twin), None, None, self.now(), &mut fx);
            drop(state);
            desk.identify(&task);
            self.apply(fx);
            // A loop's end is silent.
            let error = (task.record.kind == Kind::Once).then_some(TaskError::Abandoned);
            if let Turn::Ended(ended) = desk.end(task, error) {
                let mut fx = Effects::default();
                let record = self.lock().finish(desk.hand, &ended, &mut fx);
                self.apply(fx);
                drop_record(self, record);
            }
        }
        drop(inside);
        Unfinished::new(tasks)
    }

    /// The last counted handle is dropped: closes, and waits until the manager is empty, or until a shutdown
    /// has returned, which has named what was left.
    pub(crate) fn end(self: &Arc<Self>) {
        self.close();
        if self.is_inside() {
            return;
        }
        let mut state = self.lock();
        while state.len() > 0 && !state.is_named() {
            self.quiet.wait(&mut state);
        }
        if state.len() == 0 {
            self.wait_until_left(&mut state, Moment::NEVER);
        }
    }

    /// The closure of a scope has returned: its one-off tasks come to their end, then it closes, so that its
    /// loops do.
    pub(crate) fn end_scope(self: &Arc<Self>) {
        let mut state = self.lock();
        self.wait_until_quiet(&mut state, Moment::NEVER);
        drop(state);
        self.close();
        let mut state = self.lock();
        self.wait_until_empty(&mut state, Moment::NEVER);
        self.wait_until_left(&mut state, Moment::NEVER);
    }
}
