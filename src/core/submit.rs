//! How a task is accepted, or handed back.

use std::io;

use super::lifecycle::{Desk, Turn};
use super::state::{Admission, Effects, Pause, Policy, State, Wait};
use super::{Core, callout, drop_record, unwind};
use crate::clock::Moment;
use crate::error::{Reason, Rejected, TaskError};
use crate::info::Phase;
use crate::sync::{Arc, Guard};
use crate::task::{Task, TaskId};

impl<'a, Meta> Core<'a, Meta> {
    /// Accepts `task`, or hands it back whole. `may_wait`: for room in the backlog.
    pub(crate) fn submit(
        self: &Arc<Self>,
        mut task: Task<'a, Meta>,
        may_wait: bool,
    ) -> Result<TaskId, Rejected<'a, Meta>> {
        let in_hand = self.config.limits.policy == Policy::Inline || self.shelf.at_submit();
        let by_worker = self.is_inside();
        let mut fx = Effects::default();
        let mut now = self.now();
        let (mut state, accepted) = self.accept(&mut task, may_wait && !by_worker, &mut now, &mut fx);
        let id = match accepted {
            Ok(id) => id,
            Err(reason) => {
                state.reject();
                drop(state);
                self.apply(fx);
                self.call_rejected(task.meta(), &reason);
                return Err(Rejected::new(task, reason));
            }
        };
        if in_hand {
            self.submit_in_hand(state, task, now, by_worker, fx);
        } else if let Err(task) = state.enter(task, now, by_worker, &mut fx) {
            self.end_here(state, task, TaskError::Abandoned, fx);
        } else {
            drop(state);
            self.apply(fx);
        }
        Ok(id)
    }

    fn call_rejected(&self, meta: &Meta, reason: &Reason) {
        let hooks = self.shelf.hooks();
        let _inside = callout::enter(self.identity(), usize::MAX);
        self.count_panics(crate::hooks::call_each(&hooks.rejected, |hook| hook(meta, reason)));
        self.call_out(|| drop(hooks));
    }

    /// Settles all that can fail, then counts the task, in the same step. `now` moves on if that took a wait.
    fn accept(
        self: &Arc<Self>,
        task: &mut Task<'a, Meta>,
        may_wait: bool,
        now: &mut Moment,
        fx: &mut Effects,
    ) -> (Guard<'_, State<'a, Meta>>, Result<TaskId, Reason>) {
        let needs_supervisor = if self.config.limits.policy == Policy::Inline {
            // Its submitter waits in its stead, but for a stall watch.
            task.is_watched() || self.config.stalled_after.is_some()
        } else {
            task.needs_supervisor() || self.gives_supervisor_work(task)
        };
        let mut claimed = false;
        let mut admitting = false;
        let mut state = self.lock();
        let admitted = loop {
            let needs = match state.admit(needs_supervisor, claimed) {
                Admission::Granted => break Ok(()),
                Admission::Closed => break Err(Reason::Closed),
                Admission::Full if !may_wait => break Err(Reason::Full),
                needs => needs,
            };
            if !std::mem::replace(&mut admitting, true) {
                state.begin_admitting();
            }
            let provided;
            (state, provided) = self.provide(state, needs, &mut claimed, fx);
            if let Err(error) = provided {
                break Err(Reason::Spawn(error));
            }
            *now = self.now();
        };
        let accepted = admitted.map(|()| {
            self.settle(task);
            state.accept(task, *now)
        });
        if claimed {
            state.unclaim(fx);
        }
        if admitting {
            state.end_admitting(fx);
        }
        (state, accepted)
    }

    /// Sees to what a task needs before it can be accepted. Lets go of the lock meanwhile.
    fn provide<'c>(
        self: &'c Arc<Self>,
        mut state: Guard<'c, State<'a, Meta>>,
        needs: Admission,
        claimed: &mut bool,
        fx: &mut Effects,
    ) -> (Guard<'c, State<'a, Meta>>, io::Result<()>) {
        let mut provided = Ok(());
        match needs {
            Admission::Granted | Admission::Closed => {}
            Admission::Full => *claimed = self.wait_for_room(&mut state),
            Admission::NeedsStarts => self.starts.wait(&mut state),
            Admission::NeedsThread(hand) => {
                drop(state);
                (state, provided) = self.start_worker(hand, None, fx);
                if state.has_threads() {
                    // Others have got one meanwhile, if this one was refused: that will do.
                    provided = Ok(());
                }
            }
            Admission::NeedsSupervisor => {
                drop(state);
                (state, provided) = self.start_supervisor(fx);
            }
        }
        if !fx.is_empty() {
            drop(state);
            self.apply(std::mem::take(fx));
            state = self.lock();
        }
        (state, provided)
    }

    /// Waits for a place in the backlog; `false` if the manager was closed meanwhile.
    fn wait_for_room(&self, state: &mut Guard<'_, State<'a, Meta>>) -> bool {
        state.block();
        loop {
            if state.is_closed() {
                state.unblock();
                return false;
            }
            if state.claim() {
                return true;
            }
            self.room.wait(state);
        }
    }

    /// Will the builder's defaults give the task what needs the supervisor?
    fn gives_supervisor_work(&self, task: &Task<'a, Meta>) -> bool {
        self.config.stalled_after.is_some()
            || (self.config.retry.is_some() && task.luggage.as_ref().is_some_and(|luggage| luggage.repeats))
    }

    /// Gives the task the builder's defaults, where it has no settings of its own. Only once it is accepted:
    /// one that is handed back goes elsewhere as it came.
    fn settle(&self, task: &mut Task<'a, Meta>) {
        if !self.gives_supervisor_work(task) {
            return;
        }
        let luggage = task.luggage_mut();
        luggage.stalled_after = luggage.stalled_after.or(self.config.stalled_after);
        if luggage.repeats && luggage.retry.is_none() {
            luggage.retry = self.config.retry.clone();
        }
    }

    /// There is something to be done on the submitter's thread before (or, inline, until) the task is let go.
    fn submit_in_hand(
        self: &Arc<Self>,
        mut state: Guard<'_, State<'a, Meta>>,
        mut task: Task<'a, Meta>,
        now: Moment,
        by_worker: bool,
        mut fx: Effects,
    ) {
        let delayed = task.luggage.as_ref().is_some_and(|luggage| luggage.delay.is_some());
        let phase = if delayed { Phase::Delayed } else { Phase::Queued };
        let mut desk = self.guest_desk(&mut state);
        let twin = Arc::clone(&task.record);
        desk.begin(&mut state, (&mut task, twin), None, Some(phase), now, &mut fx);
        drop(state);
        desk.identify(&task);
        self.apply(fx);
        let inside = callout::enter(self.identity(), desk.hand);

        let captured = self.call_added(&mut desk, &mut task);
        if let Err(error) = captured {
            let mut fx = Effects::default();
            self.lock().give_up_start(&mut fx);
            self.apply(fx);
            let turn = desk.end(task, Some(error));
            self.guest_finishes(desk, turn);
        } else if self.config.limits.policy == Policy::Inline {
            self.run_inline(desk, task);
        } else {
            self.let_go(desk, task, by_worker);
        }
        drop(inside);
    }

    /// The hooks for an added task, then `carry`'s captures.
    fn call_added(&self, desk: &mut Desk<'a, Meta>, task: &mut Task<'a, Meta>) -> Result<(), TaskError> {
        let hooks = desk.hooks();
        desk.show_values(task);
        let (cx, meta) = (desk.cx(), &task.record.meta);
        self.count_panics(crate::hooks::call_each(&hooks.added, |hook| hook(cx, meta)));
        let mut carried = Vec::new();
        let mut captured = Ok(());
        for carrier in &hooks.carriers {
            match unwind::catch(|| carrier.capture(meta)) {
                Ok(capture) => carried.push(capture),
                Err(panic) => {
                    self.count_panics(u64::from(panic.again));
                    captured = Err(TaskError::Panicked(panic.message));
                    break;
                }
            }
        }
        if !carried.is_empty() {
            task.luggage_mut().carried = carried;
        }
        captured
    }

    /// The task waits for its time, or for a thread, and is the submitter's no more.
    fn let_go(self: &Arc<Self>, mut desk: Desk<'a, Meta>, task: Task<'a, Meta>, by_worker: bool) {
        desk.hide_values();
        let mut fx = Effects::default();
        let now = self.now();
        let mut state = self.lock();
        match state.enter(task, now, by_worker, &mut fx) {
            Ok(()) => {
                let record = state.let_go(desk.hand);
                state.guest_leaves(desk.hand);
                drop(state);
                desk.control().finish();
                self.apply(fx);
                desk.forget_hooks();
                drop_record(self, record);
            }
            Err(task) => {
                drop(state);
                self.apply(fx);
                let turn = desk.end(task, Some(TaskError::Abandoned));
                self.guest_finishes(desk, turn);
            }
        }
    }

    /// `inline`: the task stays in its submitter's hands until it ends, its pauses included.
    fn run_inline(self: &Arc<Self>, mut desk: Desk<'a, Meta>, mut task: Task<'a, Meta>) {
        if let Some(delay) = task.luggage.as_ref().and_then(|luggage| luggage.delay) {
            desk.sleep_until(task.record.accepted().after(delay));
        }
        let mut first = true;
        loop {
            let mut fx = Effects::default();
            let now = self.now();
            let mut state = self.lock();
            if std::mem::take(&mut first) {
                state.give_up_start(&mut fx);
            }
            // What was abandoned meanwhile is ended by who has it in hand.
            let refusal = state.is_abandoned().then(|| state.gives_up(&task, now)).flatten();
            let order = state.order(&task, now);
            // The task that it owns is the record's second owner.
            drop(state.let_go(desk.hand));
            let (twin, begins) = (Arc::clone(&task.record), refusal.is_none().then_some(order));
            desk.begin(&mut state, (&mut task, twin), begins, None, now, &mut fx);
            drop(state);
            desk.identify(&task);
            self.apply(fx);
            let turn = match refusal {
                Some(refusal) => desk.refused(task, refusal),
                None => desk.turn(task, order),
            };
            match turn {
                Turn::Paused(paused, Pause { until, wait: Wait::Retry, .. }) => {
                    let mut state = self.lock();
                    if let Some(refusal) = state.refuses_pause(paused.record.kind, Wait::Retry) {
                        drop(state);
                        let turn = desk.refused(paused, refusal);
                        return self.guest_finishes(desk, turn);
                    }
                    state.set_phase(desk.hand, Phase::Delayed);
                    drop(state);
                    desk.sleep_until(until);
                    task = paused;
                }
                Turn::Paused(task, Pause { tally, .. }) => {
                    // A loop ends after one iteration.
                    self.lock().tally(tally);
                    let turn = desk.end(task, None);
                    return self.guest_finishes(desk, turn);
                }
                ended @ Turn::Ended(_) => return self.guest_finishes(desk, ended),
            }
        }
    }
}
