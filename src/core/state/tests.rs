//! The state machine under random sequences of everything that can happen to it, against a naive model.
//!
//! [`Sim`] is the shell without threads: each worker, submitter, supervisor and shutdown is an actor that is
//! stepped in an order that proptest picks, and that waits as its thread would: only a notification or its
//! deadline moves it on. After each step [`Sim::check`] recounts what the docs of [`State`] promise. At the end
//! [`Sim::settle`] lets everything run that can, which must end all that is live: a lost wake-up shows there.

#![allow(clippy::unwrap_used)]

use std::collections::BTreeMap;

use super::*;
use crate::clock::Clock;
use crate::context::Root;
use crate::error::TaskError;
use crate::handle::Shared;
use crate::retry::Retry;
use proptest::prelude::*;

const MS: Duration = Duration::from_millis(1);

// -- what may happen ------------------------------------------------------------------------------------------

#[derive(Clone, Copy, Debug)]
enum Sort {
    Plain,
    Delayed,
    Retrying,
    Looping,
    Watched,
}

/// Indices pick among the actors that can do it; where there are none, nothing happens.
#[derive(Clone, Copy, Debug)]
enum Op {
    Submit {
        sort: Sort,
        waits: bool,
        by_worker: bool,
        in_hand: bool,
    },
    /// An actor goes on: a worker that is not in a task, a submitter, a guest, a shutdown; threads are granted.
    Step(u8),
    /// As `Step`; should the actor ask for a thread, that is refused.
    Refuse(u8),
    /// A task in a worker's hand comes to its end, or to a pause.
    Finish(u8, Outcome),
    /// So many plain tasks come at once.
    Flood(u8),
    /// A worker that is in a task ends it, and as many more.
    Flow(u8, u8),
    Supervise,
    Advance(Duration),
    /// A waiter returns without having been notified.
    Spurious(u8),
    Close,
    Cancel,
    CancelTask(u8),
    Join(u8),
    BeginShutdown,
    EndShutdown(u8),
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Outcome {
    Succeeds,
    Fails,
    Pauses(Duration),
}

fn sorts() -> impl Strategy<Value = Sort> {
    prop_oneof![
        4 => Just(Sort::Plain),
        2 => Just(Sort::Delayed),
        1 => Just(Sort::Retrying),
        1 => Just(Sort::Looping),
        1 => Just(Sort::Watched)
    ]
}

fn spans() -> impl Strategy<Value = Duration> {
    prop_oneof![
        Just(Duration::from_micros(5)),
        Just(Duration::from_micros(50)),
        Just(TICK),
        Just(5 * MS),
        Just(20 * MS),
        Just(Duration::from_secs(2)),
        Just(Duration::from_secs(3600))
    ]
}

fn outcomes() -> impl Strategy<Value = Outcome> {
    prop_oneof![
        2 => Just(Outcome::Succeeds),
        1 => Just(Outcome::Fails),
        2 => prop_oneof![Just(Duration::ZERO), Just(MS), Just(Duration::from_secs(3600))].prop_map(Outcome::Pauses)
    ]
}

fn ops() -> impl Strategy<Value = Vec<Op>> {
    let submit = (sorts(), any::<bool>(), any::<bool>(), prop::bool::weighted(0.2))
        .prop_map(|(sort, waits, by_worker, in_hand)| Op::Submit { sort, waits, by_worker, in_hand });
    let op = prop_oneof![
        20 => submit,
        50 => any::<u8>().prop_map(Op::Step),
        8 => any::<u8>().prop_map(Op::Refuse),
        20 => (any::<u8>(), outcomes()).prop_map(|(which, outcome)| Op::Finish(which, outcome)),
        3 => (1..30_u8).prop_map(Op::Flood),
        6 => (any::<u8>(), 0..20_u8).prop_map(|(which, tasks)| Op::Flow(which, tasks)),
        8 => Just(Op::Supervise),
        12 => spans().prop_map(Op::Advance),
        2 => any::<u8>().prop_map(Op::Spurious),
        1 => Just(Op::Close),
        1 => Just(Op::Cancel),
        3 => any::<u8>().prop_map(Op::CancelTask),
        3 => any::<u8>().prop_map(Op::Join),
        1 => Just(Op::BeginShutdown),
        1 => any::<u8>().prop_map(Op::EndShutdown)
    ];
    prop::collection::vec(op, 1..120)
}

fn limits() -> impl Strategy<Value = Limits> {
    (
        prop_oneof![2 => Just(Policy::Elastic), 1 => Just(Policy::ThreadPerTask)],
        1..=5_usize,
        prop_oneof![2 => Just(usize::MAX), 1 => 1..=3_usize],
        prop_oneof![Just(Duration::ZERO), Just(MS), Just(Duration::from_secs(10)), Just(Duration::MAX)],
        prop::bool::weighted(0.8),
    )
        .prop_map(|(policy, max_threads, max_pending, keep_alive, may_leave)| Limits {
            policy,
            max_threads,
            max_pending,
            keep_alive,
            cores: 2,
            may_leave,
        })
}

// -- who acts -------------------------------------------------------------------------------------------------

type Job = Task<'static, u32>;

enum Worker {
    /// Is about to look at the queue, and to say first what became of its task.
    Ready(Option<Said>),
    Parked {
        until: Moment,
        notified: bool,
    },
    Working(Job),
    Leaving,
    Succeeding(usize),
}

enum Said {
    Ended(Arc<Record<'static, u32>>, Ended),
    Paused(Job, Pause),
}

struct Submitter {
    task: Option<Job>,
    /// What its handle would know of it, for a plain task.
    shared: Arc<Shared<()>>,
    waits: bool,
    by_worker: bool,
    in_hand: bool,
    admitting: bool,
    claimed: bool,
    at: Submitting,
}

#[derive(Clone, Copy, PartialEq, Debug)]
enum Submitting {
    Asks,
    Starts(usize),
    StartsSupervisor,
    AwaitsStarts { notified: bool },
    AwaitsRoom { notified: bool },
    Captures(usize),
}

enum Supervisor {
    Gone,
    Looks,
    Waits { until: Moment, notified: bool },
}

struct Guest {
    hand: usize,
    said: Said,
}

struct Shutdown {
    since: usize,
    /// Once it has given up: its hand.
    hand: Option<usize>,
}

/// Where the model has a task.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Place {
    Hand,
    Queue,
    Timers,
    Doomed,
}

struct Known {
    kind: Kind,
    place: Place,
    started: bool,
    /// It waits for its next attempt, not for its first, or its next iteration.
    wait: Wait,
}

struct Sim {
    state: State<'static, u32>,
    now: Moment,
    root: Arc<Root>,
    workers: BTreeMap<usize, Worker>,
    submitters: Vec<Submitter>,
    /// Threads that somebody is to start.
    starts: Vec<usize>,
    supervisor: Supervisor,
    supervisor_starts: usize,
    guests: Vec<Guest>,
    shutdowns: Vec<Shutdown>,
    /// As workers know them: they may have been called in.
    trays: BTreeMap<usize, Arc<Mutex<Tray<'static, u32>>>>,

    shared: BTreeMap<TaskId, Arc<Shared<()>>>,
    live: BTreeMap<TaskId, Known>,
    queue: Vec<TaskId>,
    accepted: u64,
    ended: u64,
    rejected: u64,
    given_up: Vec<TaskId>,
    refusals: usize,
    supervisor_refusals: usize,
    over: bool,
}

impl Sim {
    fn new(limits: Limits) -> Self {
        Sim {
            state: State::new(limits),
            now: Moment::START.after(Duration::from_secs(1)),
            root: Arc::new(Root::new(Clock::real())),
            workers: BTreeMap::new(),
            submitters: Vec::new(),
            starts: Vec::new(),
            supervisor: Supervisor::Gone,
            supervisor_starts: 0,
            guests: Vec::new(),
            shutdowns: Vec::new(),
            trays: BTreeMap::new(),
            shared: BTreeMap::new(),
            live: BTreeMap::new(),
            queue: Vec::new(),
            accepted: 0,
            ended: 0,
            rejected: 0,
            given_up: Vec::new(),
            refusals: 0,
            supervisor_refusals: 0,
            over: false,
        }
    }

    /// One transition: its effects are done at once, but for threads to be started.
    fn act<R>(&mut self, transition: impl FnOnce(&mut State<'static, u32>, Moment, &mut Effects) -> R) -> R {
        let mut fx = Effects::default();
        let (waited_for, quiet) = (self.state.waited_for(), self.state.quiet());
        let answer = transition(&mut self.state, self.now, &mut fx);
        if waited_for > 0 && self.state.waited_for() == 0 {
            assert!(fx.quiet && self.state.quiet() > quiet, "those who wait are told that it is quiet");
        }
        let over = self.state.is_closed() && self.state.len() == 0;
        assert!(fx.ended || !over || self.over, "closed and empty: the hooks are to be dropped");
        self.over |= over;
        self.apply(fx);
        answer
    }

    fn apply(&mut self, fx: Effects) {
        for call in fx.calls {
            match call {
                Call::Start(hand) => self.starts.push(hand),
                Call::Wake(parker) => {
                    let rung = self.state.slots.iter().position(|slot| Arc::ptr_eq(&slot.parker, &parker));
                    if let Some(Worker::Parked { notified, .. }) =
                        rung.and_then(|hand| self.workers.get_mut(&hand))
                    {
                        *notified = true;
                    }
                }
            }
        }
        let mut room = fx.room;
        for submitter in &mut self.submitters {
            match &mut submitter.at {
                Submitting::AwaitsStarts { notified } => *notified |= fx.starts,
                Submitting::AwaitsRoom { notified } if fx.all_submitters => *notified = true,
                Submitting::AwaitsRoom { notified } if room > 0 && !*notified => {
                    *notified = true;
                    room -= 1;
                }
                _ => {}
            }
        }
        if let Supervisor::Waits { notified, .. } = &mut self.supervisor {
            *notified |= fx.supervisor;
        }
        self.supervisor_starts += usize::from(fx.start_supervisor);
    }

    // -- the model ----------------------------------------------------------------------------------------

    fn moved(&mut self, id: TaskId, place: Place) {
        self.live.get_mut(&id).expect("it is live").place = place;
        self.queue.retain(|&queued| queued != id);
        if place == Place::Queue {
            self.queue.push(id);
        }
    }

    /// After what may have made timers due: those that left, in the order in which they did.
    fn released(&mut self) {
        let queued = self.queued();
        assert_eq!(queued[..self.queue.len()], self.queue, "who was in the queue keeps its place");
        for id in queued.into_iter().skip(self.queue.len()) {
            assert_eq!(self.live[&id].place, Place::Timers);
            self.moved(id, Place::Queue);
        }
    }

    /// What has not been begun, in the tray and in the queue.
    fn queued(&self) -> Vec<TaskId> {
        let id = |due: &Due<'_, _>| due.task.record.id();
        let tray =
            self.state.tray.iter().flat_map(|out| out.tray.lock().due.iter().map(id).collect::<Vec<_>>());
        tray.chain(self.state.queue.iter().map(id)).collect()
    }

    fn started(&mut self, id: TaskId) {
        self.live.get_mut(&id).expect("it is live").started = true;
    }

    fn gone(&mut self, id: TaskId) {
        let known = self.live.remove(&id).expect("a task ends once");
        assert_eq!(known.place, Place::Hand, "who ends a task has it in hand");
        self.ended += 1;
    }

    // -- actors -------------------------------------------------------------------------------------------

    fn submit(&mut self, sort: Sort, waits: bool, by_worker: bool, in_hand: bool) {
        let shared = Shared::new();
        let task = match sort {
            Sort::Plain => Task::spawned(0, |_| Ok(()), Arc::clone(&shared)),
            Sort::Delayed => Task::once(0, |_| Ok(())).delay(5 * MS),
            Sort::Retrying => Task::retrying(0, |_| Ok(())).retry(Retry::attempts(9)),
            Sort::Looping => Task::looping(0, |_| Ok(())),
            Sort::Watched => Task::once(0, |_| Ok(())).stalled_after(MS),
        };
        self.submitters.push(Submitter {
            task: Some(task),
            shared,
            waits: waits && !by_worker,
            by_worker,
            in_hand,
            admitting: false,
            claimed: false,
            at: Submitting::Asks,
        });
        self.submitter(self.submitters.len() - 1, true);
    }

    /// A submitter goes on, as in `Core::accept`.
    fn submitter(&mut self, index: usize, granted: bool) {
        let Submitter { claimed, admitting, waits, at, .. } = self.submitters[index];
        match at {
            Submitting::Asks => {
                let needs = self.submitters[index].task.as_ref().unwrap().needs_supervisor();
                let admission = self.state.admit(needs, claimed);
                match admission {
                    Admission::Granted => return self.accept(index),
                    Admission::Closed => {
                        assert!(self.state.is_closed());
                        return self.reject(index);
                    }
                    Admission::Full if !waits => {
                        let pending = self.live.values().filter(|known| !known.started).count();
                        let promised = self.submitters.iter().filter(|other| other.claimed).count();
                        assert!(pending + promised + self.state.offered >= self.state.limits.max_pending);
                        return self.reject(index);
                    }
                    _ => {}
                }
                if !admitting {
                    self.submitters[index].admitting = true;
                    self.state.begin_admitting();
                }
                self.submitters[index].at = match admission {
                    Admission::NeedsThread(hand) => Submitting::Starts(hand),
                    Admission::NeedsSupervisor => Submitting::StartsSupervisor,
                    Admission::NeedsStarts => Submitting::AwaitsStarts { notified: false },
                    _ => {
                        self.state.block();
                        Submitting::AwaitsRoom { notified: true }
                    }
                };
            }
            Submitting::Starts(hand) => {
                self.submitters[index].at = Submitting::Asks;
                if !self.start(hand, None, granted) && !self.state.has_threads() {
                    self.reject(index);
                }
            }
            Submitting::StartsSupervisor => {
                self.submitters[index].at = Submitting::Asks;
                if !self.start_supervisor(granted) {
                    self.reject(index);
                }
            }
            Submitting::AwaitsStarts { .. } => self.submitters[index].at = Submitting::Asks,
            Submitting::AwaitsRoom { .. } => {
                if self.state.is_closed() {
                    self.state.unblock();
                    self.submitters[index].at = Submitting::Asks;
                } else if self.state.claim() {
                    self.submitters[index].claimed = true;
                    self.submitters[index].at = Submitting::Asks;
                } else {
                    self.submitters[index].at = Submitting::AwaitsRoom { notified: false };
                }
            }
            Submitting::Captures(hand) => {
                let submitter = self.submitters.remove(index);
                let task = submitter.task.unwrap();
                if granted {
                    self.enter(task, submitter.by_worker, Some(hand));
                } else {
                    // A capture has panicked.
                    self.act(|state, _, fx| state.give_up_start(fx));
                    self.started(task.record.id());
                    let said = said_ended(&task, Tally::Failed);
                    self.guests.push(Guest { hand, said });
                }
            }
        }
    }

    fn settle_admission(&mut self, index: usize) {
        let Submitter { claimed, admitting, .. } = self.submitters[index];
        self.act(|state, _, fx| {
            if claimed {
                state.unclaim(fx);
            }
            if admitting {
                state.end_admitting(fx);
            }
        });
        self.submitters[index].claimed = false;
        self.submitters[index].admitting = false;
    }

    fn accept(&mut self, index: usize) {
        let now = self.now;
        let task = self.submitters[index].task.as_ref().unwrap();
        let id = self.state.accept(task, now);
        let known = Known { kind: task.record.kind, place: Place::Hand, started: false, wait: Wait::Delay };
        self.live.insert(id, known);
        self.shared.insert(id, Arc::clone(&self.submitters[index].shared));
        self.accepted += 1;
        self.over = false;
        self.settle_admission(index);
        if self.submitters[index].in_hand {
            let record = Arc::clone(&self.submitters[index].task.as_ref().unwrap().record);
            let hand = self.guest();
            self.act(|state, _, fx| state.hold(hand, record, Some(Phase::Queued), Moment::NEVER, fx));
            self.submitters[index].at = Submitting::Captures(hand);
        } else {
            let submitter = self.submitters.remove(index);
            self.enter(submitter.task.unwrap(), submitter.by_worker, None);
        }
    }

    fn enter(&mut self, task: Job, by_worker: bool, hand: Option<usize>) {
        let id = task.record.id();
        let waits = task.luggage.as_ref().is_some_and(|luggage| luggage.delay.is_some())
            && !(self.state.cancelled || self.state.closed && task.record.kind == Kind::Loop);
        let _record = Arc::clone(&task.record);
        match self.act(|state, now, fx| state.enter(task, now, by_worker, fx)) {
            Ok(()) => {
                self.moved(id, if waits { Place::Timers } else { Place::Queue });
                if let Some(hand) = hand {
                    drop(self.state.let_go(hand));
                    self.state.guest_leaves(hand);
                }
            }
            Err(task) => {
                assert!(self.state.is_abandoned());
                self.note_given_up(id);
                self.started(id);
                let hand = hand.unwrap_or_else(|| {
                    let hand = self.guest();
                    let record = Arc::clone(&task.record);
                    self.act(|state, _, fx| state.hold(hand, record, None, Moment::NEVER, fx));
                    hand
                });
                self.guests.push(Guest { hand, said: said_ended(&task, Tally::Failed) });
            }
        }
    }

    fn note_given_up(&mut self, id: TaskId) {
        if !self.shutdowns.is_empty() {
            self.given_up.push(id);
        }
    }

    fn reject(&mut self, index: usize) {
        self.settle_admission(index);
        self.state.reject();
        self.rejected += 1;
        self.submitters.remove(index);
    }

    fn guest(&mut self) -> usize {
        let hand = self.state.guest(None);
        self.state.sit_down(hand, Arc::new(Control::new(Arc::clone(&self.root), hand, None)));
        hand
    }

    fn start(&mut self, hand: usize, instead: Option<usize>, granted: bool) -> bool {
        if granted {
            self.act(|state, now, fx| state.granted(hand, "worker".into(), instead, now, fx));
            if let Some(predecessor) = instead {
                self.workers.remove(&predecessor);
            }
            self.state.sit_down(hand, Arc::new(Control::new(Arc::clone(&self.root), hand, None)));
            self.workers.insert(hand, Worker::Ready(None));
        } else {
            self.refusals += 1;
            self.act(|state, now, fx| state.refused(hand, now, fx));
        }
        granted
    }

    fn start_supervisor(&mut self, granted: bool) -> bool {
        if granted {
            assert!(matches!(self.supervisor, Supervisor::Gone), "there is one supervisor");
            self.act(|state, now, fx| state.supervisor_lives(now, fx));
            self.supervisor = Supervisor::Looks;
        } else {
            self.supervisor_refusals += 1;
            self.act(|state, now, fx| state.supervisor_refused(now, fx));
        }
        granted
    }

    /// A worker goes on, as in `worker::run`, up to where it has a task in hand, waits, or is gone.
    fn worker(&mut self, hand: usize, granted: bool) {
        match self.workers.remove(&hand).expect("it is there") {
            Worker::Ready(said) => {
                if self.turns_over_from_tray(hand, &said) {
                    return;
                }
                if let Some(said) = said {
                    match self.say(hand, said) {
                        Ok(()) => {}
                        Err(said) => {
                            self.workers.insert(hand, Worker::Ready(Some(said)));
                            return;
                        }
                    }
                }
                self.next(hand);
            }
            Worker::Parked { until, .. } => {
                if !self.state.is_idle(hand) {
                    return self.next(hand);
                }
                let now = self.now;
                if now < until {
                    self.workers.insert(hand, Worker::Parked { until, notified: false });
                    return;
                }
                let at = match self.state.expire(hand, now) {
                    Expired::Stay(until) => Worker::Parked { until, notified: false },
                    Expired::Work => Worker::Ready(None),
                    Expired::Leave => Worker::Leaving,
                };
                self.workers.insert(hand, at);
            }
            Worker::Leaving => {
                self.act(|state, now, fx| state.leave(hand, now, fx));
                let kept = self.state.len() > 0 && !self.state.is_over();
                assert!(self.state.threads > 0 || !kept, "the last worker stays while tasks are live");
            }
            Worker::Succeeding(successor) => {
                if !self.start(successor, Some(hand), granted) {
                    self.workers.insert(hand, Worker::Ready(None));
                }
            }
            working @ Worker::Working(_) => drop(self.workers.insert(hand, working)),
        }
    }

    /// The task in hand has ended; is the next one from the worker's tray?
    fn turns_over_from_tray(&mut self, hand: usize, said: &Option<Said>) -> bool {
        let Some(tray) = self.trays.remove(&hand) else { return false };
        let Some(Said::Ended(record, ended)) = said else {
            unreachable!("it has run what came with the tray")
        };
        let Some((task, done)) = tray.lock().turn_over(ended.tally == Tally::Succeeded) else { return false };
        assert!(Arc::ptr_eq(&done.unwrap(), record), "the one that was listed");
        let id = task.record.id();
        assert_eq!(self.queue.first(), Some(&id), "first in, first out");
        self.gone(record.id());
        self.started(id);
        self.moved(id, Place::Hand);
        task.record.set_attempt(1);
        self.trays.insert(hand, tray);
        self.workers.insert(hand, Worker::Working(task));
        true
    }

    fn next(&mut self, hand: usize) {
        let before = self.queue.clone();
        let at = match self.act(|state, now, fx| state.next(hand, now, fx)) {
            Next::Take(task, twin, order, tray) => {
                let id = task.record.id();
                assert_eq!(before.first(), Some(&id), "first in, first out");
                self.trays.extend(tray.map(|tray| (hand, tray)));
                self.started(id);
                self.moved(id, Place::Hand);
                self.hold(hand, &task, twin, order);
                match order {
                    Order::Run => Worker::Working(task),
                    order => {
                        assert!(self.state.is_closed(), "{order:?} before anybody closed it");
                        let tally = if order == Order::EndLoop { Tally::Silent } else { Tally::Failed };
                        Worker::Ready(Some(said_ended(&task, tally)))
                    }
                }
            }
            Next::Gather => {
                assert!(
                    before.len() < BLOCK && !self.state.is_closed(),
                    "there is enough, or no more will come"
                );
                Worker::Ready(None)
            }
            Next::Linger => Worker::Ready(None),
            Next::Park(until) => {
                let watched = self.state.tray.is_some() && self.state.tick_at != Moment::NEVER;
                assert!(
                    self.queue.is_empty() || watched || self.state.limits.policy == Policy::ThreadPerTask
                );
                Worker::Parked { until, notified: false }
            }
            Next::Successor(successor) => Worker::Succeeding(successor),
            Next::Leave => Worker::Leaving,
        };
        self.workers.insert(hand, at);
    }

    fn hold(&mut self, hand: usize, task: &Job, twin: Arc<Record<'static, u32>>, order: Order) {
        if order == Order::Run {
            task.record.set_attempt(task.record.attempt() + 1);
        }
        let watch = if task.is_watched() { self.now.after(MS) } else { Moment::NEVER };
        self.act(|state, _, fx| state.hold(hand, twin, None, watch, fx));
    }

    /// What became of a task in `hand`; what is to be said instead, if its pause is refused.
    fn say(&mut self, hand: usize, said: Said) -> Result<(), Said> {
        match said {
            Said::Ended(record, ended) => {
                self.gone(record.id());
                drop(self.act(|state, _, fx| state.finish(hand, &ended, fx)));
                Ok(())
            }
            Said::Paused(task, pause) => {
                let id = task.record.id();
                let _record = Arc::clone(&task.record);
                let due = pause.until <= self.now;
                match self.act(|state, now, fx| state.pause(hand, task, pause, now, fx)) {
                    Ok(_record) => {
                        self.moved(id, if due { Place::Queue } else { Place::Timers });
                        self.live.get_mut(&id).unwrap().wait = pause.wait;
                        Ok(())
                    }
                    Err((task, refusal)) => {
                        assert!(self.state.is_closed(), "a pause is refused while it is open");
                        if refusal == Refusal::Abandoned {
                            self.note_given_up(id);
                        }
                        Err(said_ended(&task, Tally::Failed))
                    }
                }
            }
        }
    }

    fn finish(&mut self, hand: usize, outcome: Outcome) {
        let Some(Worker::Working(task)) = self.workers.remove(&hand) else { unreachable!("it works") };
        let said = self.said(task, outcome);
        self.workers.insert(hand, Worker::Ready(Some(said)));
    }

    fn said(&self, mut task: Job, outcome: Outcome) -> Said {
        let repeats = task.luggage.as_ref().is_some_and(|luggage| luggage.repeats);
        let is_loop = task.record.kind == Kind::Loop;
        let pause = match outcome {
            Outcome::Pauses(pause) if repeats => pause,
            // A loop ends only once it is told to; so here it pauses.
            _ if is_loop => MS,
            Outcome::Fails => return said_ended(&task, Tally::Failed),
            _ => return said_ended(&task, Tally::Succeeded),
        };
        let wait = if is_loop && outcome != Outcome::Fails { Wait::Iteration } else { Wait::Retry };
        let course = &mut task.luggage.as_mut().unwrap().course;
        course.failure = (wait == Wait::Retry).then_some(TaskError::TimedOut);
        Said::Paused(task, Pause { until: self.now.after(pause), wait, tally: Tally::Silent })
    }

    fn guest_goes_on(&mut self, index: usize) {
        let Guest { hand, said } = self.guests.remove(index);
        match self.say(hand, said) {
            Ok(()) => self.state.guest_leaves(hand),
            Err(said) => self.guests.push(Guest { hand, said }),
        }
    }

    fn supervise(&mut self) {
        let mut rings = Vec::new();
        let mut fx = Effects::default();
        let next = self.state.supervise(self.now, &mut fx, &mut rings);
        self.released();
        match next {
            None => {
                self.state.supervisor_leaves(&mut fx);
                self.supervisor = Supervisor::Gone;
            }
            Some(until) if fx.is_empty() => self.supervisor = Supervisor::Waits { until, notified: false },
            Some(_) => self.supervisor = Supervisor::Looks,
        }
        self.apply(fx);
        assert!(self.live.values().all(|known| known.place != Place::Timers) || next.is_some());
    }

    fn take_out(&mut self, which: u8, runs: bool) {
        if self.queue.is_empty() {
            return;
        }
        let id = self.queue[usize::from(which) % self.queue.len()];
        self.state.call_in();
        let place =
            (0..).find(|&place| self.state.queue.get(place).is_some_and(|due| due.task.record.id() == id));
        let task = self.act(|state, _, fx| state.take_out(place.unwrap(), id, fx)).unwrap();
        self.started(id);
        self.moved(id, Place::Hand);
        let order = if runs { self.state.order(&task, self.now) } else { Order::Cancel };
        let hand = self.guest();
        let twin = Arc::clone(&task.record);
        self.hold(hand, &task, twin, order);
        let said = match order {
            Order::Run if which % 2 == 0 => self.said(task, Outcome::Pauses(MS)),
            Order::Run => self.said(task, Outcome::Succeeds),
            _ => said_ended(&task, Tally::Failed),
        };
        self.guests.push(Guest { hand, said });
    }

    fn close(&mut self) {
        self.act(|state, now, fx| state.close(now, fx));
        self.released();
        let waits = |known: &Known| {
            known.place == Place::Timers && known.kind == Kind::Loop && known.wait != Wait::Retry
        };
        assert!(!self.live.values().any(waits), "a loop that waits for its next iteration ends at once");
    }

    fn cancel(&mut self) {
        self.close();
        self.act(|state, now, fx| state.cancel(now, fx));
        self.released();
        assert!(self.state.timers.is_empty(), "a cancel leaves nothing to wait for");
    }

    fn begin_shutdown(&mut self) {
        let since = self.state.begin_shutdown();
        if self.shutdowns.is_empty() {
            self.given_up.clear();
        }
        assert_eq!(since, self.given_up.len());
        self.shutdowns.push(Shutdown { since, hand: None });
        self.close();
    }

    /// The budget of a shutdown is over, or its next doomed task is to be ended.
    fn shutdown(&mut self, index: usize) {
        let Shutdown { since, hand } = self.shutdowns[index];
        let Some(hand) = hand else {
            let clean = self.state.len() == 0 && !self.state.gave_up(since);
            assert_eq!(clean, self.live.is_empty() && self.given_up.len() == since);
            if clean {
                self.shutdowns.remove(index);
                let _names = self.act(|state, _, fx| state.end_shutdown(false, fx));
                return;
            }
            let mut expected: Vec<_> = self.live.keys().copied().collect();
            expected.extend(self.given_up[since..].iter().filter(|id| !self.live.contains_key(id)));
            expected.sort_unstable();
            expected.dedup();
            let named = self.act(|state, now, fx| state.abandon(since, now, fx));
            let mut named: Vec<_> = named.iter().map(TaskInfo::id).collect();
            named.dedup();
            assert_eq!(named, expected, "a shutdown names all that was left");
            let waiting = |known: &&mut Known| matches!(known.place, Place::Queue | Place::Timers);
            self.queue.clear();
            let mut doomed = Vec::new();
            for (id, known) in &mut self.live {
                if waiting(&known) {
                    doomed.push(*id);
                    known.place = Place::Doomed;
                    known.started = true;
                }
            }
            self.given_up.extend(doomed);
            let hand = self.guest();
            self.shutdowns[index].hand = Some(hand);
            return;
        };
        let Some(task) = self.state.take_doomed() else {
            self.state.guest_leaves(hand);
            self.shutdowns.remove(index);
            let _names = self.act(|state, _, fx| state.end_shutdown(true, fx));
            return;
        };
        let id = task.record.id();
        self.moved(id, Place::Hand);
        let twin = Arc::clone(&task.record);
        self.act(|state, _, fx| state.hold(hand, twin, None, Moment::NEVER, fx));
        let Ok(()) = self.say(hand, said_ended(&task, Tally::Failed)) else { unreachable!("it has ended") };
    }

    // -- the order of steps -------------------------------------------------------------------------------

    fn apply_op(&mut self, op: Op) {
        match op {
            Op::Submit { sort, waits, by_worker, in_hand } => self.submit(sort, waits, by_worker, in_hand),
            Op::Step(which) => _ = self.step(usize::from(which), true, false),
            Op::Refuse(which) => _ = self.step(usize::from(which), false, false),
            Op::Finish(which, outcome) => {
                if let Some(hand) = pick(self.working(), usize::from(which)) {
                    self.finish(hand, outcome);
                }
            }
            Op::Flood(tasks) => {
                for _ in 0..tasks {
                    self.submit(Sort::Plain, false, false, false);
                }
            }
            Op::Flow(which, tasks) => {
                let Some(hand) = pick(self.working(), usize::from(which)) else { return };
                for _ in 0..=tasks {
                    if !self.works(hand) {
                        break;
                    }
                    self.finish(hand, Outcome::Succeeds);
                    self.worker(hand, true);
                    self.check();
                }
            }
            Op::Supervise => {
                if !matches!(self.supervisor, Supervisor::Gone) {
                    self.supervise();
                }
            }
            Op::Advance(span) => self.now = self.now.after(span),
            Op::Spurious(which) => _ = self.step(usize::from(which), true, true),
            Op::Close => self.close(),
            Op::Cancel => self.cancel(),
            Op::CancelTask(which) => self.take_out(which, false),
            Op::Join(which) => self.take_out(which, true),
            Op::BeginShutdown => self.begin_shutdown(),
            Op::EndShutdown(which) => {
                if let Some(index) = pick((0..self.shutdowns.len()).collect(), usize::from(which)) {
                    self.shutdown(index);
                }
            }
        }
        self.check();
    }

    fn working(&self) -> Vec<usize> {
        let working = self.workers.iter().filter(|(_, worker)| matches!(worker, Worker::Working(_)));
        working.map(|(&hand, _)| hand).collect()
    }

    /// One of the actors that can go on does. `spuriously`: as can those that wait.
    fn step(&mut self, which: usize, granted: bool, spuriously: bool) -> bool {
        let now = self.now;
        let mut can: Vec<Actor> = Vec::new();
        can.extend(self.workers.iter().filter_map(|(&hand, worker)| {
            let can = match worker {
                Worker::Working(_) => false,
                Worker::Parked { until, notified } => *notified || now >= *until || spuriously,
                _ => true,
            };
            can.then_some(Actor::Worker(hand))
        }));
        can.extend(self.submitters.iter().enumerate().filter_map(|(index, submitter)| {
            let can = match submitter.at {
                Submitting::AwaitsRoom { notified } | Submitting::AwaitsStarts { notified } => {
                    notified || spuriously
                }
                _ => true,
            };
            can.then_some(Actor::Submitter(index))
        }));
        can.extend((0..self.starts.len()).map(Actor::Start));
        can.extend((0..self.guests.len()).map(Actor::Guest));
        can.extend((self.supervisor_starts > 0).then_some(Actor::SupervisorStart));
        let looks = match self.supervisor {
            Supervisor::Gone => false,
            Supervisor::Looks => true,
            Supervisor::Waits { until, notified } => notified || now >= until || spuriously,
        };
        can.extend(looks.then_some(Actor::Supervisor));
        let ending = (0..self.shutdowns.len()).filter(|&index| self.shutdowns[index].hand.is_some());
        can.extend(ending.map(Actor::Shutdown));
        let Some(actor) = pick(can, which) else { return false };
        match actor {
            Actor::Worker(hand) => self.worker(hand, granted),
            Actor::Submitter(index) => self.submitter(index, granted),
            Actor::Start(index) => {
                let hand = self.starts.remove(index);
                self.start(hand, None, granted);
            }
            Actor::Guest(index) => self.guest_goes_on(index),
            Actor::SupervisorStart => {
                self.supervisor_starts -= 1;
                self.start_supervisor(granted);
            }
            Actor::Supervisor => self.supervise(),
            Actor::Shutdown(index) => self.shutdown(index),
        }
        true
    }

    // -- what must hold -----------------------------------------------------------------------------------

    fn check(&self) {
        let state = &self.state;
        // Tasks.
        let of = |kind| self.live.values().filter(|known| known.kind == kind).count();
        let tray = state.tray.as_ref().map(|out| out.tray.lock());
        let lag = tray.as_ref().map_or(0, |tray| (tray.succeeded + tray.failed) as usize);
        let in_tray = tray.as_ref().map_or(0, |tray| tray.due.iter().count());
        let held_by_tray = tray.as_ref().is_some_and(|tray| tray.held.is_some());
        drop(tray);
        assert_eq!((state.once - lag, state.loops), (of(Kind::Once), of(Kind::Loop)));
        let at = |place| self.live.values().filter(|known| known.place == place).count();
        assert_eq!(state.queue.len() + in_tray, at(Place::Queue));
        assert_eq!(state.timers.len(), at(Place::Timers));
        assert_eq!(state.doomed.len(), at(Place::Doomed));
        let held = |hand: &&Hand<'_, _>| hand.held.is_some();
        let hands = || state.slots.iter().filter_map(|slot| slot.hand.as_ref());
        assert_eq!(hands().filter(held).count() + usize::from(held_by_tray), at(Place::Hand));
        assert_eq!(self.queued(), self.queue);
        for due in state.queue.iter().filter(|due| due.task.luggage.is_none()) {
            let id = due.task.record.id();
            let there = state.queue.get(self.shared[&id].place());
            assert!(there.is_some_and(|there| there.task.record.id() == id), "its handle finds it");
        }
        if state.tray.is_none() {
            let listed: Vec<_> = state.tasks(self.now).iter().map(TaskInfo::id).collect();
            assert_eq!(listed, self.live.keys().copied().collect::<Vec<_>>());
        }
        assert_eq!(state.pending - lag, self.live.values().filter(|known| !known.started).count(), "pending");
        assert_eq!(self.accepted, self.ended + self.live.len() as u64);
        assert_eq!((state.stats().added, state.stats().rejected), (self.accepted, self.rejected));

        // Threads.
        let seated = |seat| hands().filter(|hand| hand.seat == seat).count();
        assert_eq!(state.leaving as usize, seated(Seat::Leaving));
        let counted = [state.starting, state.fresh, state.lingering, state.told].map(|count| count as usize);
        assert_eq!(
            counted,
            [Seat::Starting, Seat::Fresh, Seat::Lingering, Seat::Told].map(seated),
            "starting, fresh, lingering, told"
        );
        assert_eq!(state.coming(), counted.iter().sum());
        assert_eq!(
            state.threads(),
            [Seat::Fresh, Seat::Awake, Seat::Lingering, Seat::Idle, Seat::Told, Seat::Leaving]
                .map(seated)
                .iter()
                .sum()
        );
        assert_eq!(state.threads(), self.workers.len());
        let captures = |submitter: &&Submitter| matches!(submitter.at, Submitting::Captures(_));
        let guests = self.guests.len()
            + self.submitters.iter().filter(captures).count()
            + self.shutdowns.iter().filter(|shutdown| shutdown.hand.is_some()).count();
        assert_eq!(seated(Seat::Guest), guests, "who has nothing in hand any more has no hand");
        let mut idle: Vec<_> =
            (0..state.slots.len()).filter(|&hand| self.seat(hand) == Some(Seat::Idle)).collect();
        let mut stack = state.idle.clone();
        stack.sort_unstable();
        idle.sort_unstable();
        assert_eq!(stack, idle);
        assert!(state.keeper.is_none_or(|keeper| idle.contains(&keeper)));
        let successors =
            self.workers.values().filter(|worker| matches!(worker, Worker::Succeeding(_))).count();
        assert!(state.threads_and_starts() <= state.limits.max_threads + successors, "the cap holds");

        // Who waits has been told, if there is something to be told.
        for (&hand, worker) in &self.workers {
            if let Worker::Parked { notified, .. } = worker {
                assert!(*notified || state.is_idle(hand), "a token comes with a notification");
            }
        }
        if let Supervisor::Waits { until, notified } = self.supervisor {
            let timer = state.timers.first_key_value().map_or(Moment::NEVER, |((first, _), _)| *first);
            let first = timer.min(state.tick_at).min(state.stall_at);
            assert!(notified || until <= first, "the supervisor wakes in time");
            assert!(notified || !state.is_over());
        }
        assert_eq!(state.supervisor.alive, !matches!(self.supervisor, Supervisor::Gone));
        let blocked = |told: bool| {
            let at = Submitting::AwaitsRoom { notified: told };
            self.submitters.iter().filter(|submitter| submitter.at == at).count()
        };
        assert_eq!(state.blocked, blocked(true) + blocked(false));
        assert!(state.closed || state.offered <= blocked(true));
        assert!(state.closed || state.blocked <= state.offered || state.is_full(), "no place stays free");
        assert!(!state.closed || blocked(false) == 0);
        let awaits = Submitting::AwaitsStarts { notified: false };
        if self.submitters.iter().any(|submitter| submitter.at == awaits) {
            assert!(state.starting > 0 || state.supervisor.starting || state.leaving > 0);
        }
        assert!(self.supervisor_starts <= 1 && (self.supervisor_starts == 0 || state.supervisor.starting));

        // What was left over by a tick is reckoned anew by the next, and nobody sleeps with what it has seen.
        assert!(state.to_tell == 0 || state.ticks() || state.is_over());
        let idle = state.slots.iter().filter_map(|slot| slot.hand.as_ref());
        assert!(idle.filter(|hand| hand.seat == Seat::Idle).all(|hand| hand.gathering.is_none()));

        // What is in the tray is seen to.
        if state.tray.is_some() {
            let all_at_work = state.idle.is_empty() && state.threads_and_starts() >= state.limits.max_threads;
            assert!(state.tick_at != Moment::NEVER || all_at_work, "the tray is forgotten");
            assert!(held_by_tray, "who has a tray has a task in hand");
            assert!(!state.cancelled && !state.abandoned, "what waits in a tray is to run");
        }

        // What is in the queue is seen to.
        if !state.queue.is_empty() {
            let comes = state.coming() > 0
                || self
                    .workers
                    .values()
                    .any(|worker| matches!(worker, Worker::Ready(_) | Worker::Succeeding(_)));
            let at_cap = state.threads_and_starts() >= state.limits.max_threads;
            let watched =
                (state.supervisor.alive && state.tick_at != Moment::NEVER) || state.supervisor.starting;
            let refused = self.refusals > 0 && self.supervisor_refusals > 0 && state.threads > 0;
            assert!(comes || at_cap || watched || refused, "the queue is forgotten");
        }
    }

    fn seat(&self, hand: usize) -> Option<Seat> {
        self.state.slots[hand].hand.as_ref().map(|hand| hand.seat)
    }

    /// Lets everybody go on who can, the clock too, until nobody can. Tasks in a worker's hand stay there.
    fn rest(&mut self, mut each_wait: impl FnMut(&Self)) {
        for turn in 0..20_000 {
            if self.step(turn, true, false) {
                self.check();
                continue;
            }
            let parked = self.workers.values().map(|worker| match worker {
                Worker::Parked { until, .. } => *until,
                _ => Moment::NEVER,
            });
            let looks = match self.supervisor {
                Supervisor::Waits { until, .. } => until,
                _ => Moment::NEVER,
            };
            let next = parked.chain([looks]).min().unwrap_or(Moment::NEVER);
            if next == Moment::NEVER {
                return;
            }
            each_wait(self);
            self.now = self.now.max(next);
        }
        panic!("it never comes to rest: {self:?}");
    }

    fn settle(&mut self) {
        // Whatever is in hand hangs there: the others must not be held up by it.
        let mut since = None;
        self.rest(|sim| {
            let grown = sim.state.queue.is_empty() || sim.state.threads() >= sim.state.limits.max_threads;
            let refused = sim.refusals + sim.supervisor_refusals > 0;
            if grown || refused {
                since = None;
            } else {
                let since = *since.get_or_insert(sim.now);
                assert!(sim.now <= since.after(6 * TICK), "a task is held up by blocked ones");
            }
        });
        let grown = self.state.queue.is_empty() || self.state.threads() >= self.state.limits.max_threads;
        assert!(grown || self.supervisor_refusals > 0, "a task is held up by blocked ones for good");

        // All tasks end, loops at the close.
        self.run_down();
        assert_eq!(self.live.values().filter(|known| known.kind == Kind::Once).count(), 0);
        assert!(self.submitters.is_empty(), "a submitter is left behind");
        if self.state.limits.keep_alive != Duration::MAX && self.live.is_empty() {
            assert_eq!(self.workers.len(), 0, "idle threads end");
            assert!(matches!(self.supervisor, Supervisor::Gone), "so does the supervisor");
        }
        self.close();
        self.check();
        self.run_down();
        while !self.shutdowns.is_empty() {
            self.shutdown(0);
            self.check();
        }
        assert_eq!(self.live.len(), 0, "what was accepted ends");
        assert!(self.state.threads_gone() && self.workers.is_empty(), "no thread is left");
        assert!(matches!(self.supervisor, Supervisor::Gone));
        assert_eq!(self.ended, self.accepted);
    }

    fn run_down(&mut self) {
        loop {
            self.rest(|_| ());
            let working = self.working();
            if working.is_empty() {
                return;
            }
            for hand in working {
                // A loop's next iteration is not to come.
                self.finish(hand, Outcome::Succeeds);
                if let Some(Worker::Ready(Some(Said::Paused(_, pause)))) = self.workers.get_mut(&hand) {
                    pause.until = Moment::NEVER;
                }
                self.check();
            }
        }
    }
}

impl std::fmt::Debug for Sim {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let State { threads, starting, fresh, lingering, told, leaving, idle, .. } = &self.state;
        let State { tick_at, stall_at, front, back, calm, needing, admitting, .. } = &self.state;
        write!(
            f,
            "at {:?}: {threads} threads ({starting} starting, {fresh} fresh, {lingering} lingering, {told} told, \
             {leaving} leaving, {} idle), {} queued, {} in timers, tick at {tick_at:?}, stall at {stall_at:?}, \
             {front} to {back} at the last tick, {calm} calm, {needing} needing, {admitting} admitting",
            self.now,
            idle.len(),
            self.queue.len(),
            self.state.timers.len(),
        )?;
        let supervisor = match self.supervisor {
            Supervisor::Gone => "gone".to_owned(),
            Supervisor::Looks => "looks".to_owned(),
            Supervisor::Waits { until, notified } => format!("waits until {until:?}, {notified}"),
        };
        let workers = self.workers.values().map(|worker| match worker {
            Worker::Ready(_) => "ready",
            Worker::Parked { .. } => "parked",
            Worker::Working(_) => "working",
            Worker::Leaving => "leaving",
            Worker::Succeeding(_) => "succeeding",
        });
        let workers = workers.collect::<Vec<_>>();
        let submitters = self.submitters.iter().map(|submitter| submitter.at).collect::<Vec<_>>();
        write!(f, "; the supervisor {supervisor}; {workers:?}; {submitters:?}; {} starts", self.starts.len())
    }
}

#[derive(Clone, Copy)]
enum Actor {
    Worker(usize),
    Submitter(usize),
    Start(usize),
    Guest(usize),
    SupervisorStart,
    Supervisor,
    Shutdown(usize),
}

fn pick<T: Copy>(from: Vec<T>, which: usize) -> Option<T> {
    (!from.is_empty()).then(|| from[which % from.len()])
}

fn said_ended(task: &Job, tally: Tally) -> Said {
    let ended = Ended {
        kind: task.record.kind,
        needs_supervisor: task.needs_supervisor(),
        watched: task.is_watched(),
        tally,
    };
    Said::Ended(Arc::clone(&task.record), ended)
}

fn play(limits: Limits, ops: &[Op]) {
    let mut sim = Sim::new(limits);
    for &op in ops {
        sim.apply_op(op);
    }
    sim.settle();
}

proptest! {
    #![proptest_config(ProptestConfig {
        failure_persistence: None,
        max_shrink_iters: 50_000,
        ..ProptestConfig::default()
    })]

    #[test]
    fn whatever_happens_the_numbers_add_up_and_every_task_ends(limits in limits(), ops in ops()) {
        play(limits, &ops);
    }
}

// -- what it has found ----------------------------------------------------------------------------------------

/// Idle threads leave at once, and no task is left to those that are awake.
fn sim(policy: Policy, max_threads: usize) -> Sim {
    Sim::new(Limits {
        policy,
        max_threads,
        max_pending: usize::MAX,
        keep_alive: Duration::ZERO,
        cores: 2,
        may_leave: false,
    })
}

impl Sim {
    /// Submits, and sees the task accepted; threads that its submitter asks for are granted.
    fn run(&mut self, sort: Sort) {
        self.accepts(sort);
        self.check();
    }

    fn accepts(&mut self, sort: Sort) {
        self.submit(sort, false, false, false);
        while !self.submitters.is_empty() {
            self.submitter(0, true);
        }
    }

    fn grant(&mut self) {
        let hand = self.starts.remove(0);
        self.start(hand, None, true);
    }

    fn works(&self, hand: usize) -> bool {
        matches!(self.workers.get(&hand), Some(Worker::Working(_)))
    }

    /// Two workers that each have a plain task in hand: 0 and 1.
    fn two_at_work(policy: Policy, max_threads: usize) -> Self {
        let mut sim = sim(policy, max_threads);
        sim.run(Sort::Plain);
        sim.worker(0, true);
        sim.run(Sort::Plain);
        sim.grant();
        sim.worker(1, true);
        assert!(sim.works(0) && sim.works(1));
        sim
    }

    /// The worker of `hand` finds nothing more to do, up to where it sets out to leave.
    fn sets_out(&mut self, hand: usize) {
        self.finish(hand, Outcome::Succeeds);
        for _ in 0..9 {
            if !matches!(self.workers[&hand], Worker::Leaving) {
                self.worker(hand, true);
            }
        }
        self.check();
    }
}

#[test]
fn of_two_workers_that_set_out_to_leave_one_stays_for_the_task_that_is_live() {
    for policy in [Policy::Elastic, Policy::ThreadPerTask] {
        let mut sim = Sim::two_at_work(policy, 4);
        sim.run(Sort::Delayed);
        sim.sets_out(0);
        sim.sets_out(1);
        sim.worker(0, true);
        sim.worker(1, true);
        assert_eq!(sim.state.threads(), 1);
        sim.settle();
    }
}

#[test]
fn a_worker_that_leaves_is_no_thread_for_a_new_task() {
    let mut sim = sim(Policy::Elastic, 1);
    sim.run(Sort::Plain);
    sim.worker(0, true);
    sim.sets_out(0);
    sim.submit(Sort::Plain, false, false, false);
    assert_eq!(sim.accepted, 1);
    sim.settle();
    assert_eq!(sim.accepted, 2);
}

#[test]
fn the_place_of_a_worker_that_leaves_is_not_forgotten() {
    let mut sim = Sim::two_at_work(Policy::Elastic, 2);
    sim.sets_out(1);
    sim.run(Sort::Plain);
    sim.worker(1, true);
    sim.check();
    assert_eq!(sim.starts.len(), 1, "one is started in its place: the other worker is blocked");
    sim.settle();
}

#[test]
fn a_thread_that_was_refused_is_asked_for_again_though_the_queue_was_empty_then() {
    let mut sim = sim(Policy::ThreadPerTask, 4);
    sim.submit(Sort::Plain, false, false, false);
    sim.submit(Sort::Plain, false, false, false);
    sim.submitter(0, true);
    sim.worker(0, true);
    sim.submitter(1, false);
    // The second is accepted for the first one's thread, which takes that one's task and blocks.
    sim.submitter(0, true);
    sim.worker(0, true);
    sim.submitter(0, true);
    sim.check();
    assert!(sim.works(0));
    assert!(sim.supervisor_starts == 1, "who asks again is the supervisor");
    sim.settle();
}

#[test]
fn the_supervisor_leaves_though_it_last_looked_while_somebody_was_admitted() {
    let mut sim = sim(Policy::Elastic, 1);
    sim.state.limits.max_pending = 1;
    sim.run(Sort::Delayed);
    sim.submit(Sort::Plain, true, false, false);
    sim.submitter(0, true);
    for _ in 0..2 {
        sim.worker(0, true);
    }
    sim.now = sim.now.after(5 * MS);
    sim.supervise();
    sim.worker(0, true);
    sim.finish(0, Outcome::Succeeds);
    sim.worker(0, true);
    sim.supervise();
    assert!(matches!(sim.supervisor, Supervisor::Waits { until: Moment::NEVER, .. }));
    sim.settle();
}

#[test]
fn a_full_pool_with_a_backlog_does_not_tick() {
    let mut sim = sim(Policy::Elastic, 1);
    sim.state.limits.may_leave = true;
    sim.run(Sort::Delayed);
    sim.run(Sort::Plain);
    sim.worker(0, true);
    assert!(sim.works(0));
    sim.now = sim.now.after(Duration::from_secs(1));
    let mut looks = 0;
    while !matches!(sim.supervisor, Supervisor::Waits { until: Moment::NEVER, .. }) && looks < 9 {
        sim.now = sim.now.after(TICK);
        sim.supervise();
        looks += 1;
    }
    assert!(looks < 9, "the task that is due waits for the only thread");
    sim.supervise();
    assert!(matches!(sim.supervisor, Supervisor::Waits { until: Moment::NEVER, .. }));
    sim.settle();
}

#[test]
fn a_worker_that_stayed_for_a_task_that_was_not_accepted_leaves_after_all() {
    let mut sim = sim(Policy::Elastic, 1);
    sim.submit(Sort::Delayed, false, false, false);
    for _ in 0..2 {
        sim.submitter(0, true);
    }
    assert!(matches!(sim.submitters[0].at, Submitting::StartsSupervisor));
    for _ in 0..2 {
        sim.worker(0, true);
    }
    assert!(matches!(sim.workers[&0], Worker::Parked { until: Moment::NEVER, .. }));
    sim.submitter(0, false);
    assert_eq!(sim.rejected, 1);
    sim.settle();
}

#[test]
fn what_its_submitter_still_has_in_hand_does_not_wait_once_all_is_cancelled() {
    for (sort, cancels) in [(Sort::Delayed, true), (Sort::Looping, false)] {
        let mut sim = sim(Policy::Elastic, 1);
        sim.submit(sort, false, false, true);
        while !matches!(sim.submitters[0].at, Submitting::Captures(_)) {
            sim.submitter(0, true);
        }
        if cancels {
            sim.cancel()
        } else {
            sim.close()
        }
        sim.submitter(0, true);
        assert_eq!((sim.state.queue.len(), sim.state.timers.len()), (1, 0));
        sim.check();
        sim.settle();
    }
}

// -- how threads are asked for --------------------------------------------------------------------------------

impl Sim {
    /// The supervisor looks, until there is nothing for it to do.
    fn looks(&mut self) {
        while {
            self.supervise();
            matches!(self.supervisor, Supervisor::Looks)
        } {}
        self.check();
    }

    /// The first thread that is asked for is refused.
    fn refuse(&mut self) {
        let hand = self.starts.remove(0);
        self.start(hand, None, false);
        self.check();
    }

    /// The worker of `hand` finishes what it has, and takes the next task.
    fn turns_over(&mut self, hand: usize) {
        self.finish(hand, Outcome::Succeeds);
        self.worker(hand, true);
        while self.state.hand(hand).gathering.is_some() {
            self.worker(hand, true);
        }
        assert!(self.works(hand));
    }

    /// As many workers that each have a task in hand, and the supervisor.
    fn at_work(workers: usize) -> Self {
        let mut sim = sim(Policy::Elastic, 1000);
        sim.run(Sort::Delayed);
        for hand in 0..workers {
            sim.run(Sort::Plain);
            if hand > 0 {
                sim.grant();
            }
            sim.worker(hand, true);
            assert!(sim.works(hand));
        }
        sim
    }

    /// As many tasks are left to the workers that are awake. The supervisor has just looked at them.
    fn leaves(mut self, backlog: usize) -> Self {
        self.state.limits.may_leave = true;
        for _ in 0..=backlog {
            self.accepts(Sort::Plain);
        }
        self.turns_over(0);
        self.now = self.now.after(TICK);
        self.looks();
        assert!(self.starts.is_empty(), "what stood in the queue at first was taken");
        self
    }
}

#[test]
fn tasks_that_fall_due_at_once_do_not_wait_for_one_another() {
    for (policy, may_leave) in
        [(Policy::Elastic, true), (Policy::Elastic, false), (Policy::ThreadPerTask, true)]
    {
        let mut sim = sim(policy, 4);
        sim.state.limits.may_leave = may_leave;
        for _ in 0..3 {
            sim.run(Sort::Delayed);
        }
        for _ in 0..2 {
            sim.worker(0, true);
        }
        sim.now = sim.now.after(5 * MS);
        sim.looks();
        assert_eq!(sim.queue.len(), 3);
        if policy == Policy::Elastic && may_leave {
            // The thread that is told may be quick: what it leaves is for the tick.
            assert!(sim.starts.is_empty());
            sim.worker(0, true);
            assert!(sim.works(0));
            sim.now = sim.now.after(TICK);
            sim.looks();
        }
        assert_eq!(sim.starts.len(), 2);
        sim.settle();
    }
}

#[test]
fn after_a_grant_the_next_refusal_is_asked_again_as_soon_as_a_first_one() {
    let mut sim = sim(Policy::Elastic, 4);
    sim.run(Sort::Plain);
    sim.worker(0, true);
    sim.run(Sort::Plain);
    sim.refuse();
    sim.supervisor_starts -= 1;
    sim.start_supervisor(true);
    for _ in 0..4 {
        sim.now = sim.now.after(REFUSED_MAX);
        sim.looks();
        sim.refuse();
    }
    sim.now = sim.now.after(REFUSED_FIRST);
    sim.looks();
    assert!(sim.starts.is_empty(), "each pause is longer than the last");
    sim.now = sim.now.after(REFUSED_MAX);
    sim.looks();
    sim.grant();
    sim.worker(1, true);
    sim.run(Sort::Plain);
    sim.refuse();
    for pause in [REFUSED_FIRST, TICK] {
        sim.now = sim.now.after(pause);
        sim.looks();
    }
    assert_eq!(sim.starts.len(), 1);
    sim.settle();
}

#[test]
fn many_workers_that_each_take_a_task_or_two_in_a_tick_are_blocked() {
    let mut sim = Sim::at_work(8).leaves(40);
    for hand in 0..8 {
        sim.turns_over(hand);
    }
    sim.now = sim.now.after(TICK);
    sim.looks();
    assert_eq!(sim.starts.len(), 8, "at most as many more as there are");
    sim.settle();
}

#[test]
fn workers_that_turn_over_tiny_tasks_are_joined_by_no_more_than_there_are_cores() {
    for (workers, each, more) in [(1, 20, 1), (1, 300, 0), (2, 20, 0), (3, 20, 0)] {
        let mut sim = Sim::at_work(workers).leaves(workers * each + 20);
        for hand in 0..workers {
            for _ in 0..each {
                sim.turns_over(hand);
            }
        }
        sim.now = sim.now.after(TICK);
        sim.looks();
        assert_eq!(sim.starts.len(), more, "{workers} that took {each} each");
    }
}

#[test]
fn an_idle_thread_occupies_no_core() {
    let mut sim = Sim::at_work(2);
    sim.finish(1, Outcome::Succeeds);
    for _ in 0..2 {
        sim.worker(1, true);
    }
    let mut sim = sim.leaves(40);
    for _ in 0..20 {
        sim.turns_over(0);
    }
    sim.now = sim.now.after(TICK);
    sim.looks();
    assert_eq!((sim.state.told, sim.starts.len()), (1, 0));
}

#[test]
fn a_burst_gets_its_threads_in_batches_that_follow_each_other_at_once() {
    let mut sim = Sim::at_work(70).leaves(200);
    sim.now = sim.now.after(TICK);
    sim.looks();
    assert!(sim.starts.len() >= 70, "as many more as there are, and no pause after the first batch");
}

#[test]
fn a_task_is_left_to_workers_that_were_at_the_queue_just_now_and_to_no_others() {
    let at_work = || {
        let mut sim = Sim::at_work(1);
        sim.state.limits.may_leave = true;
        sim
    };
    let mut sim = at_work();
    sim.now = sim.now.after(RECENT);
    sim.run(Sort::Plain);
    assert_eq!(sim.state.coming(), 0, "it is left to the worker, and to the tick");
    sim.now = sim.now.after(RECENT);
    sim.run(Sort::Plain);
    assert_eq!(sim.state.coming(), 1, "the worker may be blocked");

    let mut sim = at_work();
    sim.submit(Sort::Plain, false, true, false);
    assert_eq!(sim.state.coming(), 1, "the worker submits, and does not look");

    let mut sim = at_work();
    sim.run(Sort::Plain);
    sim.finish(0, Outcome::Succeeds);
    sim.worker(0, true);
    sim.finish(0, Outcome::Succeeds);
    sim.worker(0, true);
    assert_eq!(sim.state.lingering, 1);
    for coming in [1, 1] {
        sim.run(Sort::Plain);
        assert_eq!(sim.state.coming(), coming, "who lingers will look");
    }

    let mut sim = at_work();
    sim.finish(0, Outcome::Succeeds);
    for _ in 0..2 {
        sim.worker(0, true);
    }
    for coming in [1, 2] {
        sim.run(Sort::Plain);
        assert_eq!(sim.state.coming(), coming, "who was told will look, but for one task only");
    }
}

#[test]
fn a_burst_calls_for_two_workers_and_leaves_the_rest_to_them() {
    let blocked = |idle: bool| {
        let mut sim = Sim::at_work(2);
        if idle {
            sim.finish(1, Outcome::Succeeds);
            for _ in 0..2 {
                sim.worker(1, true);
            }
        }
        sim.state.limits.may_leave = true;
        sim.now = sim.now.after(MS);
        sim
    };
    for (idle, granted) in [(false, 0), (false, 1), (false, 2), (true, 0), (true, 1)] {
        let mut sim = blocked(idle);
        let mut grants = granted;
        for coming in [1, 2, 2, 2] {
            sim.run(Sort::Plain);
            assert_eq!(sim.state.coming(), coming);
            if grants > 0 && !sim.starts.is_empty() {
                sim.grant();
                grants -= 1;
            }
        }
        sim.now = sim.now.after(CALL);
        sim.run(Sort::Plain);
        assert_eq!(sim.state.coming(), 2);
        sim.now = sim.now.after(Duration::from_nanos(1));
        sim.run(Sort::Plain);
        assert_eq!(sim.state.coming(), 3, "they take their time");
        sim.settle();
    }
}

#[test]
fn what_was_left_to_a_supervisor_that_is_refused_gets_a_thread_at_once() {
    let mut sim = sim(Policy::Elastic, 4);
    sim.run(Sort::Plain);
    sim.worker(0, true);
    sim.state.limits.may_leave = true;
    sim.run(Sort::Plain);
    assert_eq!((sim.supervisor_starts, sim.starts.len()), (1, 0));
    sim.supervisor_starts -= 1;
    sim.start_supervisor(false);
    assert_eq!(sim.starts.len(), 1);
    sim.settle();
}

#[test]
fn with_a_thread_per_task_one_that_still_waits_for_its_task_is_used() {
    let mut sim = sim(Policy::ThreadPerTask, 4);
    sim.run(Sort::Delayed);
    for _ in 0..2 {
        sim.worker(0, true);
    }
    sim.run(Sort::Plain);
    assert_eq!((sim.state.told, sim.starts.len()), (1, 0));
    sim.settle();
}

#[test]
fn a_worker_that_has_stayed_for_the_tasks_sake_ends_with_them_though_another_has_left_before() {
    let mut sim = sim(Policy::ThreadPerTask, 4);
    sim.run(Sort::Plain);
    sim.worker(0, true);
    sim.run(Sort::Delayed);
    sim.finish(0, Outcome::Succeeds);
    sim.worker(0, true);
    assert!(matches!(sim.workers[&0], Worker::Parked { until: Moment::NEVER, .. }));
    sim.run(Sort::Plain);
    // A joiner takes it before the fresh thread does.
    sim.take_out(0, true);
    sim.grant();
    for _ in 0..3 {
        sim.worker(1, true);
    }
    assert_eq!(sim.state.threads(), 1);
    sim.settle();
}

#[test]
fn a_submitter_that_waits_for_room_has_its_task_back_at_a_close() {
    let mut sim = sim(Policy::Elastic, 1);
    sim.state.limits.max_pending = 1;
    sim.run(Sort::Plain);
    sim.submit(Sort::Plain, true, false, false);
    sim.submitter(0, true);
    assert!(matches!(sim.submitters[0].at, Submitting::AwaitsRoom { .. }));
    sim.close();
    for _ in 0..2 {
        sim.submitter(0, true);
    }
    assert_eq!(sim.rejected, 1);
    sim.check();
    sim.settle();
}

// -- growth ---------------------------------------------------------------------------------------------------

/// Two workers on two cores, of eight that there may be, and a supervisor that ticks. No trays are taken.
fn ticking() -> Sim {
    let mut sim = flowing();
    sim.state.limits.max_pending = usize::MAX - 1;
    sim
}

fn flowing() -> Sim {
    let mut sim = Sim::two_at_work(Policy::Elastic, 8);
    sim.state.limits.may_leave = true;
    sim.state.limits.keep_alive = Duration::MAX;
    sim.start_supervisor(true);
    sim
}

impl Sim {
    /// The worker of `hand` ends what it has and takes the next, so many times.
    fn turns_over_many(&mut self, hand: usize, tasks: usize) {
        for _ in 0..tasks {
            self.turns_over(hand);
        }
    }

    fn submit_plain(&mut self, tasks: usize) {
        for _ in 0..tasks {
            self.submit(Sort::Plain, false, false, false);
        }
    }

    /// Submits so many plain tasks, all of which are left to the workers that are awake.
    fn fill(&mut self, tasks: usize) {
        self.submit_plain(tasks);
        assert_eq!((self.queue.len(), self.starts.len()), (tasks, 0));
        self.check();
    }

    fn tick(&mut self) {
        self.now = self.now.max(self.state.tick_at);
        self.supervise();
        self.check();
    }

    /// After how many ticks is there a thread for what stands in the queue?
    fn ticks_until_it_grows(&mut self, mut meanwhile: impl FnMut(&mut Self, usize)) -> usize {
        (1..50)
            .find(|&tick| {
                meanwhile(self, tick);
                self.tick();
                !self.starts.is_empty()
            })
            .expect("a task is held up by blocked ones for good")
    }
}

/// Idle workers, twice as many as one tick wakes, so many tasks, and the tick that has woken the first.
fn waking(tasks: usize) -> Sim {
    let mut sim = Sim::at_work(2 * BATCH);
    sim.state.limits.may_leave = true;
    sim.state.limits.keep_alive = Duration::MAX;
    for hand in 0..2 * BATCH {
        sim.finish(hand, Outcome::Succeeds);
        while !matches!(sim.workers[&hand], Worker::Parked { .. }) {
            sim.worker(hand, true);
        }
    }
    sim.submit_plain(tasks);
    // What has just come is no backlog yet.
    sim.tick();
    let told = sim.state.told;
    sim.tick();
    assert_eq!((sim.state.told - told) as usize, BATCH);
    sim
}

impl Sim {
    /// Which one, if any was told?
    fn told_worker_comes(&mut self) -> Option<usize> {
        let told = |hand: &usize| self.state.hand(*hand).seat == Seat::Told;
        let hand = self.workers.keys().copied().find(told);
        hand.inspect(|&hand| self.worker(hand, true))
    }
}

#[test]
fn each_worker_that_is_woken_wakes_another_until_there_is_one_for_each_task() {
    let mut sim = waking(2 * BATCH);
    let told = sim.state.told;
    let idle = sim.state.idle.len();
    for come in 1..=idle {
        assert!(sim.told_worker_comes().is_some());
        assert_eq!((sim.state.told, sim.state.idle.len()), (told, idle - come));
        sim.check();
    }
    while sim.told_worker_comes().is_some() {}
    assert_eq!((sim.state.idle.len(), sim.queue.len()), (0, 0));
    sim.settle();
}

#[test]
fn nobody_is_woken_beyond_what_the_last_tick_has_found_missing_or_without_a_task() {
    // What has come since may well be for those at work.
    let mut sim = waking(2 * BATCH);
    sim.state.to_tell = 3;
    let told = sim.state.told;
    for _ in 0..10 {
        sim.told_worker_comes();
    }
    assert_eq!((sim.state.told, sim.state.to_tell), (told - 7, 0));
    sim.settle();

    // One takes so many that there is but one for each of those that are told.
    let mut sim = waking(2 * BATCH);
    sim.state.limits.max_pending = usize::MAX - 1;
    let hand = sim.told_worker_comes().unwrap();
    while sim.queue.len() > sim.state.told as usize {
        sim.turns_over(hand);
    }
    let told = sim.state.told;
    sim.told_worker_comes();
    assert_eq!(sim.state.told, told - 1);
    sim.settle();

    // The next tick reckons anew.
    let mut sim = waking(2 * BATCH);
    assert!(sim.state.to_tell > 0);
    sim.tick();
    assert_eq!((sim.state.to_tell, sim.state.idle.len()), (0, 0));
    sim.settle();

    // Nor does it owe more than there are: they would be woken for what comes much later.
    let sim = waking(4 * BATCH);
    assert_eq!(sim.state.to_tell, sim.state.idle.len());
}

#[test]
fn behind_workers_that_were_busy_and_block_a_task_waits_for_three_ticks_at_the_most() {
    let mut sim = ticking();
    sim.fill(300);
    for _ in 0..3 {
        sim.turns_over_many(0, 40);
        sim.turns_over_many(1, 40);
        sim.tick();
    }
    sim.turns_over_many(0, 30);
    sim.turns_over_many(1, 30);
    sim.fill(1);
    assert!(sim.starts.is_empty(), "it is left to those that were busy");
    let ticks = sim.ticks_until_it_grows(|_, _| ());
    assert!(ticks <= 3, "{ticks} ticks");
    sim.settle();
}

#[test]
fn a_worker_that_is_blocked_in_every_other_tick_does_not_hold_up_a_backlog() {
    let mut sim = ticking();
    sim.fill(300);
    // The other worker is blocked for good.
    let ticks = sim.ticks_until_it_grows(|sim, tick| {
        if tick % 2 == 1 {
            sim.turns_over_many(0, 8);
        }
    });
    assert!(ticks <= 3, "{ticks} ticks");
    sim.settle();
}

#[test]
fn workers_that_are_busy_and_falter_for_one_tick_bring_no_crowd_about() {
    let mut sim = ticking();
    sim.fill(300);
    for tick in 0..12 {
        if tick % 4 != 3 {
            sim.turns_over_many(0, 8);
            sim.turns_over_many(1, 8);
        }
        sim.tick();
    }
    assert_eq!(sim.starts.len(), 0);
    sim.settle();
}

#[test]
fn a_supervisor_whose_threads_are_refused_does_not_spin() {
    let mut sim = Sim::at_work(70).leaves(200);
    sim.now = sim.now.after(TICK);
    sim.supervise();
    while !sim.starts.is_empty() {
        sim.refuse();
    }
    sim.looks();
    let Supervisor::Waits { until, .. } = sim.supervisor else { unreachable!("nothing is to be done") };
    assert!(until > sim.now, "it looks again at once, and again, until a thread may be asked for");
}

#[test]
fn only_a_tick_brings_threads_beside_workers_that_run_tiny_tasks() {
    for (each, starts) in [(TINY, 0), (TINY - 1, 1)] {
        let mut sim = ticking();
        sim.fill(300);
        for hand in 0..2 {
            sim.turns_over_many(hand, usize::try_from(each).unwrap());
        }
        sim.tick();
        assert!(sim.starts.is_empty());
        // They have lost their cores, it may be: nothing has been taken for a while.
        sim.now = sim.now.after(2 * RECENT);
        sim.submit(Sort::Plain, false, false, false);
        assert_eq!(sim.starts.len(), starts);
        sim.check();
    }
}

#[test]
fn more_workers_than_cores_take_turns_and_are_no_reason_for_still_more() {
    let mut sim = Sim::at_work(8).leaves(400);
    for hand in 0..8 {
        sim.turns_over_many(hand, 20);
    }
    sim.tick();
    assert!(sim.starts.is_empty());
    sim.now = sim.now.after(2 * RECENT);
    sim.submit(Sort::Plain, false, false, false);
    assert!(sim.starts.is_empty(), "eight that take 20 each are two that take 80 each");
}

#[test]
fn one_worker_is_enough_where_the_lock_is_what_limits() {
    for by_worker in [false, true] {
        for (each, starts) in [(LOCK_BOUND, 0), (LOCK_BOUND - 1, 1)] {
            let mut sim = Sim::at_work(1).leaves(400);
            // No tray: what is out counts as taken.
            sim.state.limits.max_pending = usize::MAX - 1;
            sim.turns_over_many(0, usize::try_from(each).unwrap());
            sim.now = sim.now.after(2 * RECENT);
            sim.submit(Sort::Plain, false, by_worker, false);
            assert_eq!(sim.starts.len(), starts, "by a worker: {by_worker}");
            sim.check();
        }
    }
}

#[test]
fn nothing_is_left_to_workers_that_sleep_however_fast_they_were() {
    let mut sim = ticking();
    sim.fill(600);
    for hand in 0..2 {
        sim.turns_over_many(hand, 300);
    }
    assert!(sim.queue.is_empty() && sim.state.tick_at != Moment::NEVER);
    for hand in 0..2 {
        sim.finish(hand, Outcome::Succeeds);
        // One of them lingers, and then both are parked.
        for _ in 0..2 {
            sim.worker(hand, true);
        }
    }
    assert_eq!(sim.state.idle.len(), 2);
    sim.submit(Sort::Plain, false, false, false);
    assert_eq!((sim.state.idle.len(), sim.state.told), (1, 1));
    sim.check();
}

#[test]
fn tasks_that_are_cancelled_make_no_worker_a_fast_one() {
    let mut sim = Sim::at_work(1).leaves(400);
    for _ in 0..300 {
        sim.take_out(0, false);
    }
    sim.now = sim.now.after(2 * RECENT);
    sim.submit(Sort::Plain, false, false, false);
    assert_eq!(sim.starts.len(), 1, "the only worker is blocked");
}

// -- trays ----------------------------------------------------------------------------------------------------

impl Sim {
    /// The first of two workers has a tray, of which it has begun nothing.
    fn with_a_tray(mut self) -> Self {
        self.submit_plain(100);
        // The first may begin in the middle of a block.
        while self.in_tray() < 2 {
            self.turns_over(0);
        }
        self.check();
        self
    }

    /// The same, and it has run quick ones for long enough that the others leave it alone.
    fn with_a_quick_tray(mut self, each: u64) -> Self {
        self.submit_plain(400);
        let since = self.now;
        while self.now.since(since) <= FLOWS || self.in_tray() < 2 {
            self.now = self.now.after(Duration::from_nanos(each));
            self.turns_over(0);
        }
        self.check();
        self
    }

    /// It has run all that, and has as many as make a tray.
    fn then_a_small_one(mut self, each: u64) -> Self {
        // Not cut short by the end of a block.
        while !self.queue.is_empty() || self.state.queue.back() % BLOCK as u64 != 0 {
            if self.queue.is_empty() {
                self.submit_plain(1);
            }
            self.now = self.now.after(Duration::from_nanos(each));
            self.state.hand_mut(0).gathers_after = SELDOM;
            self.turns_over(0);
        }
        self.submit_plain(1 + FEWEST);
        self.now = self.now.after(Duration::from_nanos(each));
        self.turns_over(0);
        assert_eq!(self.in_tray(), FEWEST);
        self.check();
        self
    }

    fn in_tray(&self) -> usize {
        self.queued().len() - self.state.queue.len()
    }

    /// Does the first worker take a tray, where each task takes so long?
    fn takes_a_tray(&mut self, each: Duration) -> bool {
        (0..3 * BLOCK).any(|_| {
            self.now = self.now.after(each);
            self.turns_over(0);
            self.state.tray.is_some()
        })
    }

    fn takes_a_tray_of_a_flood(mut self, each: Duration) -> bool {
        self.submit_plain(100);
        self.takes_a_tray(each)
    }
}

/// As `flowing`, but with two workers at the most: so nothing ticks.
fn at_the_cap() -> Sim {
    let mut sim = Sim::two_at_work(Policy::Elastic, 2);
    sim.state.limits.may_leave = true;
    sim.state.limits.keep_alive = Duration::MAX;
    sim
}

#[test]
fn who_turns_over_tiny_tasks_has_the_lock_once_for_a_tray_of_them() {
    for sim in [flowing(), at_the_cap()] {
        let mut sim = sim.with_a_tray();
        let (queue, waiting, succeeded) = (sim.state.queue.len(), sim.in_tray(), sim.state.succeeded);
        for _ in 0..waiting {
            sim.now = sim.now.after(Duration::from_nanos(TINY_TASK));
            sim.turns_over(0);
        }
        assert_eq!((sim.state.queue.len(), sim.in_tray(), sim.state.succeeded), (queue, 0, succeeded));
        sim.turns_over(0);
        assert_eq!(sim.in_tray(), BLOCK - 1, "it goes on with the next");
        assert_eq!(sim.state.succeeded, succeeded + waiting as u64 + 1, "what has ended is counted by then");
        sim.settle();
    }
}

#[test]
fn a_tray_is_for_tiny_tasks_that_nobody_else_could_do_sooner() {
    assert!(flowing().takes_a_tray_of_a_flood(Duration::ZERO));
    assert!(flowing().takes_a_tray_of_a_flood(Duration::from_nanos(TINY_TASK)));
    assert!(!flowing().takes_a_tray_of_a_flood(Duration::from_nanos(TINY_TASK + 1)), "not tiny");
    for set in [
        |sim: &mut Sim| sim.state.limits.max_pending = 1000,
        |sim: &mut Sim| sim.state.limits.may_leave = false,
    ] {
        let mut sim = at_the_cap();
        set(&mut sim);
        assert!(!sim.takes_a_tray_of_a_flood(Duration::ZERO));
    }
    // Below the cap, and nothing ticks.
    let mut sim = flowing();
    sim.fill(100);
    sim.state.tick_at = Moment::NEVER;
    assert!(!sim.takes_a_tray(Duration::ZERO));
}

#[test]
fn a_tray_takes_what_there_is_of_a_block_if_that_is_enough() {
    let mut sim = flowing().with_a_tray();
    let mut taken = HashSet::new();
    while sim.queue.len() > 1 {
        let (came_from, due) = (sim.in_tray(), sim.queue.len() - 1);
        sim.turns_over(0);
        if came_from == 0 {
            assert!(sim.in_tray() == BLOCK - 1 || sim.in_tray() == due || due < FEWEST);
            taken.insert(sim.in_tray());
        }
    }
    assert!(taken.contains(&(BLOCK - 1)), "a whole block");
    // The last block, cut short by what came at last.
    for due in 0..BLOCK {
        let mut sim = flowing().with_a_tray();
        while sim.in_tray() + sim.state.queue.len() > 0 {
            sim.turns_over(0);
        }
        let fits = BLOCK - (sim.state.queue.front() % BLOCK as u64) as usize;
        sim.submit_plain(due + 1);
        sim.turns_over(0);
        let rest = due.min(fits - 1);
        assert_eq!(sim.in_tray(), if rest < FEWEST { 0 } else { rest });
        sim.check();
        sim.settle();
    }
}

/// The first of two workers has run tiny tasks, one after the other, has gathered as often as was worth it, and there
/// are so many left to be taken.
fn caught_up(left: usize) -> Sim {
    let mut sim = flowing().with_a_tray();
    while sim.queue.len() > left || sim.in_tray() > 0 {
        sim.now = sim.now.after(Duration::from_nanos(1));
        sim.turns_over(0);
    }
    sim.submit_plain(left - sim.queue.len());
    let seat = sim.state.hand_mut(0);
    (seat.tiny, seat.gathers_after) = (ENOUGH_TINY, ENOUGH_TINY);
    sim
}

impl Sim {
    /// The first worker is done with its task; does it gather?
    fn is_done_and_gathers(&mut self) -> bool {
        self.finish(0, Outcome::Succeeds);
        self.worker(0, true);
        self.is_gathering()
    }

    fn is_gathering(&self) -> bool {
        self.state.hand(0).gathering.is_some()
    }
}

#[test]
fn who_has_caught_up_with_the_submitters_lets_more_come_before_it_takes_any() {
    for left in 0..=BLOCK {
        let mut sim = caught_up(left);
        assert_eq!(sim.is_done_and_gathers(), left < BLOCK, "with {left} left");
        if left < BLOCK {
            sim.check();
            sim.worker(0, true);
            assert!(!sim.is_gathering(), "nothing has come");
            assert_eq!(sim.works(0), left > 0, "it takes what there is");
        }
        sim.settle();
    }
}

#[test]
fn who_gathers_goes_on_while_something_comes_but_not_for_ever() {
    let mut sim = caught_up(0);
    assert!(sim.is_done_and_gathers());
    for looks in 1..BLOCK {
        assert!(looks <= LOOKS as usize);
        sim.submit_plain(1);
        sim.worker(0, true);
        assert!(sim.is_gathering());
    }
    sim.submit_plain(1);
    sim.worker(0, true);
    assert_eq!((sim.works(0), sim.queue.len()), (true, BLOCK - 1), "there is enough");

    let mut sim = caught_up(0);
    assert!(sim.is_done_and_gathers());
    sim.submit_plain(1);
    sim.worker(0, true);
    assert!(sim.is_gathering());
    sim.worker(0, true);
    assert!(sim.works(0), "nothing has come since it looked last");

    // Where what comes is taken by another, there is never enough.
    let mut sim = caught_up(1);
    assert!(sim.is_done_and_gathers());
    for _ in 0..LOOKS {
        sim.submit_plain(1);
        sim.turns_over(1);
        sim.worker(0, true);
        assert!(sim.is_gathering());
    }
    sim.submit_plain(1);
    sim.turns_over(1);
    sim.worker(0, true);
    assert!(sim.works(0));
    sim.settle();
}

#[test]
fn who_gathers_and_steps_aside_has_forgotten_what_it_saw_when_it_comes_back() {
    let mut sim = flowing().with_a_quick_tray(ALONE);
    sim.state.hand_mut(1).gathering = Some(Gathering { first: 0, last: 0, looks: 0 });
    sim.finish(1, Outcome::Succeeds);
    sim.worker(1, true);
    assert!(matches!(sim.workers[&1], Worker::Parked { .. }));
    assert!(sim.state.hand(1).gathering.is_none());
    sim.settle();
}

#[test]
fn who_gathers_in_vain_does_so_less_and_less_often() {
    /// Of tiny tasks that come alone, after how many does the first worker gather?
    fn gathers_after(sim: &mut Sim) -> u32 {
        for tasks in 0.. {
            sim.submit_plain(1);
            if sim.is_done_and_gathers() {
                sim.worker(0, true);
                assert!(sim.works(0), "in vain, and it takes what there was");
                return tasks;
            }
        }
        unreachable!()
    }
    // Who comes from a tray has run all of it.
    let about = |tasks| tasks - BLOCK as u32 + 1..tasks + BLOCK as u32;
    // However many there are that have stood there before.
    for left in 0..BLOCK - 1 {
        let mut sim = caught_up(left);
        gathers_after(&mut sim);
        for after in [2, 4, 8].map(|times| times * ENOUGH_TINY) {
            assert!(about(after).contains(&gathers_after(&mut sim)));
        }
        // Not so seldom that it would not find out when that has changed.
        let seat = sim.state.hand_mut(0);
        (seat.tiny, seat.gathers_after) = (SELDOM, SELDOM - 1);
        assert_eq!(gathers_after(&mut sim), 0);
        assert!(about(SELDOM).contains(&gathers_after(&mut sim)));
        // Enough for a tray have come while it gathered: that was worth it.
        for came in [FEWEST - 1, FEWEST] {
            let seat = sim.state.hand_mut(0);
            (seat.tiny, seat.gathers_after) = (SELDOM, SELDOM - 1);
            assert!(sim.is_done_and_gathers());
            sim.submit_plain(came);
            while sim.is_gathering() {
                sim.worker(0, true);
            }
            assert!(sim.works(0));
            let (worth_it, after) = (came >= FEWEST, sim.state.hand(0).gathers_after);
            assert_eq!(after, if worth_it { ENOUGH_TINY } else { SELDOM });
        }
        sim.settle();
    }
}

#[test]
fn nobody_gathers_where_no_more_will_come_or_none_could_or_no_tray_would_be_taken() {
    type Stop = (&'static str, fn(&mut Sim));
    let stops: [Stop; 5] = [
        ("no more will come", |sim| sim.close()),
        ("they are on its own core", |sim| sim.state.limits.cores = 1),
        ("somebody waits for a place", |sim| sim.state.limits.max_pending = 1000),
        ("nothing ticks", |sim| sim.state.tick_at = Moment::NEVER),
        ("it was held up", |sim| {
            sim.now = sim.now.after(Duration::from_millis(1));
            sim.submit(Sort::Plain, false, false, false);
            sim.turns_over(0);
        }),
    ];
    for (why, stop) in stops {
        let mut sim = caught_up(2);
        stop(&mut sim);
        assert!(!sim.is_done_and_gathers() && sim.works(0), "{why}");
    }
}

#[test]
fn no_task_is_said_to_have_run_for_longer_than_it_was_there() {
    let sim = Sim::two_at_work(Policy::Elastic, 2);
    // Its worker has not yet said when it began.
    sim.state.hand(0).control.as_ref().unwrap().reset(1, Moment::START, Moment::NEVER);
    let task = &sim.state.tasks(sim.now)[0];
    assert!(task.running_for() <= task.age(), "{task:?}");
}

#[test]
fn workers_that_take_turns_at_the_queue_take_no_trays() {
    let mut sim = flowing();
    sim.fill(100);
    for turn in 0..90 {
        sim.turns_over(turn % 2);
        assert!(sim.state.tray.is_none());
    }
    sim.settle();
}

#[test]
fn what_waits_in_a_tray_is_begun_before_what_is_due_later() {
    for sim in [flowing(), at_the_cap()] {
        let mut sim = sim.with_a_tray();
        let waits = sim.queue[0];
        sim.now = sim.now.after(Duration::from_nanos(ALONE * BLOCK as u64));
        sim.turns_over(1);
        assert_eq!((sim.live[&waits].place, sim.in_tray()), (Place::Hand, 0));
        sim.settle();
    }
}

#[test]
fn a_worker_that_would_only_be_in_the_way_of_another_goes_idle_until_a_tick_finds_that_one_held_up() {
    let mut sim = flowing().with_a_quick_tray(ALONE);
    let (waiting, waits, succeeded) = (sim.in_tray(), sim.queue[0], sim.state.succeeded);
    sim.finish(1, Outcome::Succeeds);
    sim.worker(1, true);
    assert!(matches!(sim.workers[&1], Worker::Parked { .. }));
    assert_eq!((sim.in_tray(), sim.state.succeeded), (waiting, succeeded + 1), "its own task is counted");
    let mut ticks = 0;
    while sim.state.told == 0 {
        assert!(ticks < 3, "a task is held up by a blocked one");
        sim.tick();
        ticks += 1;
    }
    sim.worker(1, true);
    assert_eq!(sim.live[&waits].place, Place::Hand);
    sim.settle();
}

#[test]
fn a_worker_is_in_nobodys_way_where_that_could_leave_a_task_waiting_or_two_are_faster() {
    let held_up = |mut sim: Sim| {
        sim.now = sim.now.after(Duration::from_nanos(ALONE * sim.in_tray() as u64));
        sim
    };
    let earlier = |mut sim: Sim| {
        sim.now = Moment(sim.now.0 - 1);
        sim
    };
    let leaves_at_once = |mut sim: Sim| {
        sim.state.limits.keep_alive = TICK;
        sim
    };
    let flows = [
        ("nothing ticks", at_the_cap().with_a_quick_tray(ALONE)),
        ("it is held up", held_up(flowing().with_a_quick_tray(ALONE))),
        ("so is one with few tasks", held_up(flowing().with_a_quick_tray(ALONE).then_a_small_one(ALONE))),
        ("it would come again at once", leaves_at_once(flowing().with_a_quick_tray(ALONE))),
        ("two are faster", flowing().with_a_quick_tray(ALONE + 1)),
        ("it was held up a moment ago", flowing().with_a_tray()),
        ("and the clock was read before that", earlier(flowing().with_a_tray())),
    ];
    for (why, mut sim) in flows {
        let waits = sim.queue[0];
        sim.turns_over(1);
        assert_eq!((sim.live[&waits].place, sim.in_tray()), (Place::Hand, 0), "{why}");
        sim.settle();
    }
}

#[test]
fn what_waits_in_the_tray_of_a_worker_that_blocks_is_for_the_others_after_a_tick() {
    let mut sim = flowing().with_a_tray();
    sim.tick();
    assert_eq!((sim.in_tray(), sim.state.queue.len()), (0, sim.queue.len()));
    let ticks = sim.ticks_until_it_grows(|_, _| ());
    assert!(ticks <= 3, "{ticks} ticks");
    sim.settle();
}

#[test]
fn for_as_long_as_a_tray_may_take_its_worker_was_at_the_queue_just_now() {
    let takes = |tasks: usize| Duration::from_nanos(TINY_TASK * tasks as u64);
    let mut sim = flowing().with_a_tray();
    sim.now = sim.now.after(takes(sim.in_tray())).after(RECENT);
    sim.submit(Sort::Plain, false, false, false);
    assert!(sim.starts.is_empty());
    sim.now = sim.now.after(Duration::from_nanos(1));
    sim.submit(Sort::Plain, false, false, false);
    assert_eq!(sim.starts.len(), 1);
    sim.check();

    let sim = flowing().with_a_tray().then_a_small_one(1);
    assert_eq!(sim.state.last_take, sim.now.after(takes(FEWEST)));
}

#[test]
fn who_has_a_tray_come_in_early_does_so_for_few_tasks() {
    let mut sim = flowing().with_a_tray();
    for tray in 0..3 {
        sim.state.call_in();
        assert_eq!((sim.in_tray(), sim.state.len(), sim.state.pending), (0, sim.live.len(), sim.queue.len()));
        sim.check();
        for tasks in 0..ENOUGH_TINY {
            assert!(sim.state.tray.is_none(), "tray {tray}, {tasks} tasks after the last");
            sim.submit(Sort::Plain, false, false, false);
            sim.turns_over(0);
        }
        assert!(sim.state.tray.is_some());
    }
    // Most of it is done: what comes in then costs little.
    while sim.in_tray() != 1 {
        sim.turns_over(0);
    }
    sim.state.call_in();
    sim.turns_over(0);
    assert!(sim.state.tray.is_some());
    sim.settle();
}

#[test]
fn what_was_cancelled_does_not_run_for_having_waited_in_a_tray() {
    let mut sim = flowing().with_a_tray();
    sim.cancel();
    assert_eq!(sim.in_tray(), 0);
    sim.check();
    sim.finish(0, Outcome::Succeeds);
    sim.worker(0, true);
    assert!(matches!(
        sim.workers[&0],
        Worker::Ready(Some(Said::Ended(_, Ended { tally: Tally::Failed, .. })))
    ));
    for _ in 0..3 * BLOCK {
        sim.worker(0, true);
        assert!(sim.state.tray.is_none(), "what is only to be ended is not taken by the tray");
    }
    sim.settle();
}

#[test]
fn what_waits_in_a_tray_is_given_up_with_all_that_waits() {
    let mut sim = flowing().with_a_tray();
    sim.begin_shutdown();
    sim.shutdown(0);
    assert_eq!((sim.in_tray(), sim.state.doomed.len()), (0, sim.live.len() - 2), "two are running");
    sim.check();
    sim.settle();
}

#[test]
fn a_tray_comes_in_before_it_is_reckoned_what_was_taken_since() {
    let mut sim = at_the_cap();
    sim.start_supervisor(true);
    sim.run(Sort::Delayed);
    let mut sim = sim.with_a_tray();
    assert_eq!(sim.state.tick_at, Moment::NEVER);
    sim.now = sim.now.after(5 * MS);
    sim.supervise();
    assert_eq!(sim.in_tray(), 0);
    sim.turns_over(1);
    assert_eq!(sim.state.takes(), 1);
    sim.settle();

    let mut sim = flowing().with_a_tray();
    sim.tick();
    let mut taken = 0;
    while sim.in_tray() < 2 {
        sim.turns_over(0);
        taken += 1;
    }
    sim.tick();
    assert_eq!(sim.state.pace, taken);
    sim.settle();
}

#[test]
fn where_nothing_ticks_a_tray_comes_in_once_another_thread_may_be_started() {
    for leaves in [false, true] {
        let mut sim = sim(Policy::Elastic, 3);
        sim.run(Sort::Plain);
        sim.worker(0, true);
        for hand in 1..3 {
            sim.run(Sort::Plain);
            if leaves || hand == 1 {
                sim.grant();
                sim.worker(hand, true);
            }
        }
        if leaves {
            sim.finish(2, Outcome::Succeeds);
            while !matches!(sim.workers[&2], Worker::Leaving) {
                sim.worker(2, true);
            }
        }
        sim.state.limits.may_leave = true;
        let mut sim = sim.with_a_tray();
        assert_eq!(sim.state.tick_at, Moment::NEVER);
        if leaves {
            sim.worker(2, true);
        } else {
            sim.refuse();
        }
        assert_eq!(sim.in_tray(), 0);
        sim.check();
        sim.settle();
    }
}

#[test]
fn who_comes_from_a_tray_before_it_is_empty_puts_back_the_rest() {
    let mut sim = at_the_cap().with_a_tray();
    let queue = sim.queue.clone();
    // It has kept a context: what comes next is for the state to begin.
    sim.trays.remove(&0);
    sim.turns_over(0);
    assert_eq!(sim.in_tray(), 0);
    assert_eq!(sim.queue, queue[1..]);
    sim.settle();
}

#[test]
fn a_task_with_luggage_in_a_tray_is_for_the_state_to_begin() {
    let mut sim = flowing().with_a_tray();
    // Not at the beginning of a block: it would be taken by itself.
    while sim.state.queue.back() % BLOCK as u64 == 0 {
        sim.submit_plain(1);
    }
    sim.submit(Sort::Watched, false, false, false);
    let watched = sim.queue.last().copied();
    sim.submit_plain(10);
    while sim.queue.first().copied() != watched {
        sim.turns_over(0);
    }
    assert_eq!(sim.state.tray.as_ref().map(|out| out.hand), Some(0), "it waits in the tray");
    sim.turns_over(0);
    assert!(matches!(&sim.workers[&0], Worker::Working(task) if task.is_watched()));
    assert_eq!((sim.in_tray(), sim.state.watched), (0, 1));
    assert_ne!(sim.state.stall_at, Moment::NEVER);
    sim.settle();
}

#[test]
fn what_flows_stands_on_one_cache_line_with_the_lock() {
    let lock = align_of::<State<'static, u32>>();
    // The first two fields of the queue are its ends.
    assert_eq!(lock + std::mem::offset_of!(State<'static, u32>, queue) + 2 * size_of::<u64>(), 64);
}
