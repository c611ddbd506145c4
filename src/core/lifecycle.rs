//! One turn with a task in hand: attempt → outcome → answer → hooks → what comes next.
//!
//! The order at the end of a task is a promise: captures are dropped, then its handle is answered, then
//! notices of stalls and the hooks are called, then guards and context values are dropped. Only then may the
//! caller let the count go down.

use std::time::Duration;

use super::Core;
use super::state::{Effects, Ended, Order, Pause, Refusal, State, Tally, Wait};
use super::tray::Tray;
use super::unwind::{self, Panic};
use crate::clock::Moment;
use crate::context::{Cause, Context, Control, Notice, Values};
use crate::error::{BoxError, TaskError};
use crate::hooks::{Carried, Copy, Guards, Hooks, call_each};
use crate::info::Phase;
use crate::retry::Backoff;
use crate::sync::{Arc, Mutex, Ordering};
use crate::task::{Kind, Luggage, Parting, Record, Task};

/// A loop without a period whose iterations fail pauses for this long, doubling up to `LOOP_PAUSE_MAX`.
const LOOP_PAUSE_FIRST: Duration = Duration::from_millis(10);
const LOOP_PAUSE_MAX: Duration = Duration::from_secs(5);

/// What became of an attempt.
pub(crate) fn outcome(
    control: &Control,
    result: Result<Result<(), BoxError>, Panic>,
) -> Result<(), TaskError> {
    match result {
        Ok(Ok(())) => Ok(()),
        Err(panic) => Err(TaskError::Panicked(panic.message)),
        // The error's `source` and `Drop` are the user's.
        Ok(Err(error)) => Err(unwind::catch(move || match control.verdict(&*error) {
            None => TaskError::Failed(Arc::from(error)),
            Some(Cause::Cancelled) => TaskError::Cancelled,
            Some(Cause::TimedOut) => TaskError::TimedOut,
        })
        .unwrap_or_else(|panic| TaskError::Panicked(panic.message))),
    }
}

/// What a turn has led to.
pub(crate) enum Turn<'a, Meta> {
    /// All is done but to count it: [`State::finish`]. The hand that lists the task is its record's last owner.
    Ended(Ended),
    /// It is to go on at `until`: [`State::pause`].
    Paused(Task<'a, Meta>, Pause),
}

/// Where a thread works on tasks: its hand, and what it uses again for each of them.
pub(crate) struct Desk<'a, Meta> {
    pub(crate) core: Arc<Core<'a, Meta>>,
    pub(crate) hand: usize,
    cx: Context,
    hooks: Copy<'a, Meta>,
}

impl<'a, Meta> Desk<'a, Meta> {
    /// A desk of the thread that calls this.
    pub(crate) fn new(core: &Arc<Core<'a, Meta>>, hand: usize, thread: Option<Arc<str>>) -> Self {
        let control = Arc::new(Control::new(Arc::clone(&core.root), hand, thread));
        let cx = Context::of(control, Values::default());
        Desk { core: Arc::clone(core), hand, cx, hooks: Copy::default() }
    }

    pub(crate) fn control(&self) -> &Arc<Control> {
        self.cx.control.as_ref().expect("a desk's context has a control")
    }

    /// Lists the task under this desk's hand, with a context for what `order` says. `phase`: see
    /// [`State::hold`]. Runs nothing of the user's: it is called under the lock. [`identify`](Self::identify)
    /// is to follow.
    #[inline]
    pub(crate) fn begin(
        &mut self,
        state: &mut State<'a, Meta>,
        (task, twin): (&mut Task<'a, Meta>, Arc<Record<'a, Meta>>),
        order: Option<Order>,
        phase: Option<Phase>,
        now: Moment,
        fx: &mut Effects,
    ) {
        // The control is this desk's and the state's; a clone of the context would make it three.
        if Arc::strong_count(self.control()) > 2 {
            // Somebody has kept one from the last attempt, and keeps the control with it.
            self.control().finish();
            let thread = self.control().thread().cloned();
            self.cx.control = Some(Arc::new(Control::new(Arc::clone(&self.core.root), self.hand, thread)));
            state.sit_down(self.hand, Arc::clone(self.control()));
        }
        let runs = order == Some(Order::Run);
        let watch = match &mut task.luggage {
            None => {
                self.control().reset(u32::from(runs), now, Moment::NEVER);
                if self.control().is_observed() {
                    self.control().observe(None, None);
                }
                Moment::NEVER
            }
            Some(luggage) => {
                // Its periods and timeouts count from here, and it may have become due while the lock was waited for.
                let watch = self.begin_with(luggage, runs, self.core.now());
                // The supervisor may ask for it by its id, under the lock.
                self.identify(task);
                watch
            }
        };
        state.hold(self.hand, twin, phase, watch, fx);
    }

    /// The task in hand, one from `tray`, has ended as `turn` says: the next of the tray is in hand now, with a
    /// context of its own. `None`: see [`Tray::turn_over`]. [`identify`](Self::identify) is to follow.
    #[inline]
    pub(crate) fn turn_over(
        &self,
        tray: &Mutex<Tray<'a, Meta>>,
        turn: &Option<Turn<'a, Meta>>,
    ) -> Option<(Task<'a, Meta>, Parting<'a, Meta>)> {
        let Some(Turn::Ended(Ended { tally, .. })) = turn else { return None };
        let mut tray = tray.lock();
        // Somebody has kept a context: the state is to know of another control.
        if Arc::strong_count(self.control()) > 2 {
            return None;
        }
        let (task, done) = tray.turn_over(*tally == Tally::Succeeded)?;
        let timed = tray.is_timed() || self.control().was_asked();
        let now = if timed { self.core.now() } else { self.control().started() };
        self.control().reset(1, now, Moment::NEVER);
        if self.control().is_observed() {
            self.control().observe(None, None);
        }
        Some((task, done))
    }

    /// As `begin`, for a task with luggage. Answers when its attempt is to be looked at for a stall.
    fn begin_with(&self, luggage: &mut Luggage<'a>, runs: bool, now: Moment) -> Moment {
        let course = &mut luggage.course;
        if runs {
            course.attempts += 1;
            course.began.get_or_insert(now);
        }
        let (attempts, note) = (course.attempts, course.note.take());
        let watch = luggage.stalled_after.filter(|_| runs);
        self.control().reset(attempts, now, if runs { luggage.timeout_at() } else { Moment::NEVER });
        self.control().observe(note, watch.map(|after| (after, luggage.values.clone())));
        watch.map_or(Moment::NEVER, |after| now.after(after))
    }

    /// What `begin` has left to be done: it touches the record, and needs no lock.
    #[inline]
    pub(crate) fn identify(&self, task: &Task<'a, Meta>) {
        let (record, control) = (&task.record, self.control());
        // It is written to before it is read: so its cache line comes from the submitter's core once, not twice.
        record.set_attempt(control.attempt());
        control.identify(record.id(), task.due());
    }

    /// Drops this desk's copy of the hooks.
    pub(crate) fn forget_hooks(&mut self) {
        let hooks = std::mem::take(&mut self.hooks);
        self.core.call_out(|| drop(hooks));
    }

    /// Runs the user's code; its panic is counted.
    fn call_out(&self, code: impl FnOnce()) {
        self.core.call_out(code);
    }

    /// What `order` says.
    pub(crate) fn turn(&mut self, mut task: Task<'a, Meta>, order: Order) -> Turn<'a, Meta> {
        match order {
            Order::Run => self.attempt(task),
            Order::Cancel => self.end(task, Some(TaskError::Cancelled)),
            Order::EndLoop => self.end(task, None),
            Order::GiveUp => {
                let failure = task.luggage.as_mut().and_then(|luggage| luggage.course.failure.take());
                match failure {
                    Some(failure) if task.record.kind == Kind::Loop => self.end_iteration(task, failure),
                    failure => self.end(task, failure),
                }
            }
        }
    }

    /// The pause that a turn asked for was refused: the task ends here and now.
    pub(crate) fn refused(&mut self, mut task: Task<'a, Meta>, refusal: Refusal) -> Turn<'a, Meta> {
        let failure = task.luggage.as_mut().and_then(|luggage| luggage.course.failure.take());
        match refusal {
            Refusal::Ends => self.end(task, failure),
            Refusal::Abandoned => {
                self.call_out(|| drop(failure));
                self.end(task, Some(TaskError::Abandoned))
            }
        }
    }

    /// Runs the closure, and says what became of it.
    fn run(&self, record: &Record<'a, Meta>) -> Result<Result<(), BoxError>, Panic> {
        unwind::catch(|| record.job.run(&self.cx))
    }

    fn outcome(&self, result: Result<Result<(), BoxError>, Panic>) -> Result<(), TaskError> {
        if matches!(result, Ok(Ok(()))) {
            return Ok(());
        }
        let badly = result.as_ref().is_err_and(|panic| panic.again);
        self.core.count_panics(u64::from(badly));
        outcome(self.control(), result)
    }

    /// An attempt of a task without luggage, as most are: it runs once, and then it ends.
    fn only_attempt(&mut self, record: Arc<Record<'a, Meta>>) -> Turn<'a, Meta> {
        self.report_start(&record);
        let outcome = self.outcome(self.run(&record));
        self.control().ended(None);
        self.call_out(|| record.job.answer(outcome.as_ref().err()));
        self.report(&record, Some(&outcome), None);
        let tally = if outcome.is_ok() { Tally::Succeeded } else { Tally::Failed };
        if outcome.is_err() {
            self.call_out(|| drop(outcome));
        }
        self.end_context();
        Turn::Ended(Ended { kind: Kind::Once, needs_supervisor: false, watched: false, tally })
    }

    fn attempt(&mut self, task: Task<'a, Meta>) -> Turn<'a, Meta> {
        let Task { record, mut luggage } = task;
        if luggage.is_none() {
            return self.only_attempt(record);
        }
        let carried =
            luggage.as_mut().map(|luggage| std::mem::take(&mut luggage.carried)).unwrap_or_default();
        if let Some(luggage) = &luggage {
            self.cx.values = luggage.values.clone();
        }
        let mut guards = Guards::default();
        let result = match guards.enter(&carried) {
            Ok(()) => {
                self.report_start(&record);
                self.run(&record)
            }
            Err(panic) => Err(panic),
        };
        let outcome = self.outcome(result);

        let now = self.core.now();
        self.control().ended(Some(now));
        self.control().unwatch(now);
        let next = self.what_next(record.kind, &outcome, luggage.as_deref_mut(), now);
        let tally = if outcome.is_ok() { Tally::Succeeded } else { Tally::Failed };
        match next {
            Step::End | Step::EndLoop => {
                let silent = matches!(next, Step::EndLoop);
                // It is still there if it could be repeated, or if `enter` panicked before it was called.
                self.call_out(|| record.job.discard());
                self.call_out(|| record.job.answer(outcome.as_ref().err()));
                self.report(&record, (!silent).then_some(&outcome), None);
                self.core.count_panics(guards.leave());
                drop(guards);
                let ended =
                    self.ended(&record, luggage.as_deref(), if silent { Tally::Silent } else { tally });
                self.drop_all(outcome, carried, luggage);
                Turn::Ended(ended)
            }
            Step::Pause(until, wait) => {
                let retried = (wait == Wait::Retry).then(|| self.control().attempt());
                self.report(&record, Some(&outcome), retried);
                self.core.count_panics(guards.leave());
                drop(guards);
                let values = std::mem::take(&mut self.cx.values);
                let mut luggage =
                    luggage.expect("what pauses was made to repeat, which stands in its luggage");
                luggage.carried = carried;
                let (note, shown) = self.control().observed();
                luggage.course.note = note;
                let mut failure = outcome.err();
                if wait == Wait::Retry {
                    std::mem::swap(&mut luggage.course.failure, &mut failure);
                }
                self.call_out(|| drop((values, shown)));
                self.call_out(|| drop(failure));
                let tally = if wait == Wait::Retry { Tally::Silent } else { tally };
                self.end_context();
                Turn::Paused(Task { record, luggage: Some(luggage) }, Pause { until, wait, tally })
            }
        }
    }

    /// Ends a task that is not to run (again), with `error`, or silently.
    pub(crate) fn end(&mut self, task: Task<'a, Meta>, error: Option<TaskError>) -> Turn<'a, Meta> {
        let Task { record, mut luggage } = task;
        let carried =
            luggage.as_mut().map(|luggage| std::mem::take(&mut luggage.carried)).unwrap_or_default();
        if let Some(luggage) = &luggage {
            self.cx.values = luggage.values.clone();
        }
        self.call_out(|| record.job.discard());
        self.call_out(|| record.job.answer(error.as_ref()));
        let tally = if error.is_some() { Tally::Failed } else { Tally::Silent };
        let outcome = error.map_or(Ok(()), Err);
        if tally == Tally::Failed {
            self.report_unrun(&record, &carried, &outcome);
        }
        let ended = self.ended(&record, luggage.as_deref(), tally);
        self.drop_all(outcome, carried, luggage);
        Turn::Ended(ended)
    }

    fn ended(&self, record: &Record<'a, Meta>, luggage: Option<&Luggage<'a>>, tally: Tally) -> Ended {
        Ended {
            kind: record.kind,
            needs_supervisor: luggage.is_some_and(|luggage| luggage.needs_supervisor(record.kind)),
            watched: luggage.is_some_and(Luggage::is_watched),
            tally,
        }
    }

    /// Drops what was the user's and was kept for the hooks.
    fn drop_all(
        &mut self,
        outcome: Result<(), TaskError>,
        carried: Vec<Box<dyn Carried + 'a>>,
        luggage: Option<Box<Luggage<'a>>>,
    ) {
        if outcome.is_err() {
            self.call_out(|| drop(outcome));
        }
        if luggage.is_some() {
            let values = std::mem::take(&mut self.cx.values);
            let (_note, shown) = self.control().observed();
            self.call_out(|| drop((values, shown)));
            for carried in carried {
                self.call_out(|| drop(carried));
            }
            self.call_out(|| drop(luggage));
        }
        self.end_context();
    }

    /// A clone of the context, if one was kept, counts as cancelled from here on: its control has an owner
    /// beyond this desk and the state.
    fn end_context(&self) {
        if Arc::strong_count(self.control()) > 2 {
            self.control().finish();
        }
    }

    /// An attempt is about to run.
    #[inline]
    fn report_start(&mut self, record: &Record<'a, Meta>) {
        let hooks = self.hooks.now(&self.core.shelf);
        if !hooks.started.is_empty() {
            let (cx, meta) = (&self.cx, &record.meta);
            self.core.count_panics(call_each(&hooks.started, |hook| hook(cx, meta)));
        }
    }

    /// Notices of stalls, then the hooks for `outcome`; `retried` is the number of an attempt that failed and
    /// is to be repeated.
    fn report(
        &mut self,
        record: &Record<'a, Meta>,
        outcome: Option<&Result<(), TaskError>>,
        retried: Option<u32>,
    ) {
        let hooks = self.hooks.now(&self.core.shelf);
        let (core, cx, meta) = (&self.core, &self.cx, &record.meta);
        if let Some(control) = cx.control.as_ref().filter(|control| control.is_watched()) {
            deliver_notices(core, hooks, control, meta);
        }
        let panics = match (outcome, retried) {
            (None, _) => 0,
            (Some(Ok(())), _) => call_each(&hooks.succeeded, |hook| hook(cx, meta)),
            (Some(Err(error)), None) => call_each(&hooks.failed, |hook| hook(cx, meta, error)),
            (Some(Err(error)), Some(attempt)) => {
                core.retried.fetch_add(1, Ordering::Relaxed);
                call_each(&hooks.retried, |hook| hook(cx, meta, error, attempt))
            }
        };
        core.count_panics(panics);
    }

    fn what_next(
        &self,
        kind: Kind,
        outcome: &Result<(), TaskError>,
        luggage: Option<&mut Luggage<'a>>,
        now: Moment,
    ) -> Step {
        let Some(luggage) = luggage else { return Step::End };
        match outcome {
            Ok(()) if kind == Kind::Once => return Step::End,
            Ok(()) => {}
            // Nobody asked for this iteration to end but whoever ends the loop.
            Err(TaskError::Cancelled) if kind == Kind::Loop => return Step::EndLoop,
            Err(error) => {
                if let Some(until) = self.retry_at(error, luggage, now) {
                    return Step::Pause(until, Wait::Retry);
                }
                if kind == Kind::Once {
                    return Step::End;
                }
            }
        }
        Step::Pause(self.next_iteration(luggage, outcome.is_ok(), now), Wait::Iteration)
    }

    /// When a loop's next iteration is due.
    fn next_iteration(&self, luggage: &mut Luggage<'a>, succeeded: bool, now: Moment) -> Moment {
        let course = std::mem::take(&mut luggage.course);
        luggage.course.failed_in_a_row = if succeeded { 0 } else { course.failed_in_a_row.saturating_add(1) };
        let next = match luggage.every {
            Some(period) => course.began.unwrap_or(now).after(period).max(now),
            None if succeeded => now,
            None => now.after(loop_pause(luggage.course.failed_in_a_row)),
        };
        // What is left of the iteration may be the user's: its pauses, its last failure.
        self.call_out(|| drop(course));
        next
    }

    /// A loop's iteration is out of time in a retry pause: it ends with the failure it had.
    fn end_iteration(&mut self, task: Task<'a, Meta>, failure: TaskError) -> Turn<'a, Meta> {
        let Task { record, luggage } = task;
        let mut luggage = luggage.expect("what pauses was made to repeat, which stands in its luggage");
        let outcome = Err(failure);
        self.cx.values = luggage.values.clone();
        self.report_unrun(&record, &luggage.carried, &outcome);
        self.hide_values();
        self.call_out(|| drop(outcome));
        let until = self.next_iteration(&mut luggage, false, self.core.now());
        let pause = Pause { until, wait: Wait::Iteration, tally: Tally::Failed };
        self.end_context();
        Turn::Paused(Task { record, luggage: Some(luggage) }, pause)
    }

    /// The hooks for what ends without an attempt, within what was carried along.
    fn report_unrun(
        &mut self,
        record: &Record<'a, Meta>,
        carried: &[Box<dyn Carried + 'a>],
        outcome: &Result<(), TaskError>,
    ) {
        let mut guards = Guards::default();
        let entered = guards.enter(carried);
        self.core.count_panics(u64::from(entered.is_err()));
        self.report(record, Some(outcome), None);
        self.core.count_panics(guards.leave());
    }

    /// When the task is to be attempted again, if it is.
    fn retry_at(&self, error: &TaskError, luggage: &mut Luggage<'a>, now: Moment) -> Option<Moment> {
        let retry = luggage.retry.as_ref()?;
        if self.core.root.is_cancelled() {
            return None;
        }
        let attempt = luggage.course.attempts;
        let pauses = luggage.course.pauses.get_mut();
        let pause = match unwind::catch(|| retry.pause_after(attempt, error, pauses)) {
            Ok(pause) => pause?,
            Err(_) => {
                self.core.count_panics(1);
                return None;
            }
        };
        let at = now.after(pause);
        let began = luggage.course.began.unwrap_or(now);
        let in_time = luggage.timeout.is_none_or(|timeout| at < began.after(timeout));
        in_time.then_some(at)
    }

    /// Shows the task's values to the hooks that its submitter runs.
    pub(crate) fn show_values(&mut self, task: &Task<'a, Meta>) {
        self.cx.values = task.luggage.as_ref().map(|luggage| luggage.values.clone()).unwrap_or_default();
    }

    /// Before the task is let go: whoever ends it is to drop the last of its values.
    pub(crate) fn hide_values(&mut self) {
        let values = std::mem::take(&mut self.cx.values);
        self.call_out(|| drop(values));
    }

    /// Sleeps with a task in hand, until a cancel at the latest.
    pub(crate) fn sleep_until(&self, until: Moment) {
        // What follows asks the state whether it was cancelled.
        let _ = self.cx.sleep_until(until);
    }

    pub(crate) fn hooks(&mut self) -> Arc<Hooks<'a, Meta>> {
        Arc::clone(self.hooks.now(&self.core.shelf))
    }

    pub(crate) fn cx(&self) -> &Context {
        &self.cx
    }
}

enum Step {
    End,
    EndLoop,
    Pause(Moment, Wait),
}

fn loop_pause(failed_in_a_row: u32) -> Duration {
    let doublings = usize::try_from(failed_in_a_row.saturating_sub(1)).unwrap_or(usize::MAX).min(32);
    Backoff::exponential(LOOP_PAUSE_FIRST, LOOP_PAUSE_MAX)
        .without_jitter()
        .pauses()
        .nth(doublings)
        .unwrap_or(LOOP_PAUSE_MAX)
}

/// Calls the hooks for each notice that an attempt has left, oldest first.
pub(crate) fn deliver_notices<'a, Meta>(
    core: &Core<'a, Meta>,
    hooks: &Hooks<'a, Meta>,
    control: &Arc<Control>,
    meta: &Meta,
) {
    while let Some((notice, values)) = control.take_notice() {
        let shown = Context::of(Arc::clone(control), values);
        let cx = &shown;
        let panics = match notice {
            Notice::Stalled(since) => {
                core.stalled.fetch_add(1, Ordering::Relaxed);
                call_each(&hooks.stalled, |hook| hook(cx, meta, since))
            }
            Notice::Recovered(hung) => call_each(&hooks.recovered, |hook| hook(cx, meta, hung)),
        };
        core.count_panics(panics);
        core.call_out(|| drop(shown));
        // While it is being delivered, the task does not end: it is the task that drops the last of its values.
        control.notice_delivered();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_loop_that_keeps_failing_backs_off_up_to_its_limit() {
        assert_eq!(loop_pause(1), LOOP_PAUSE_FIRST);
        assert_eq!(loop_pause(3), LOOP_PAUSE_FIRST * 4);
        assert_eq!(loop_pause(u32::MAX), LOOP_PAUSE_MAX);
    }
}
