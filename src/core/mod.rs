//! The shell around [`State`]: it locks, asks, unlocks, and does what it was told.
//!
//! A task's way: [`Core::submit`] → [`State`]'s queue (or timers) → [`worker`] → [`lifecycle`] → hooks → count.
//!
//! Lock order is trivial: the state's lock is taken first, if at all; [`state`] says what may come under it. No
//! lock is held while the user's code runs. Debug builds assert both ([`Mutex`], [`unwind::catch`]).

pub(crate) mod callout;
pub(crate) mod lifecycle;
#[cfg(all(test, inflight_model))]
mod model_tests;
mod notifier;
mod queue;
mod shutdown;
pub(crate) mod state;
mod submit;
mod supervisor;
mod tray;
pub(crate) mod unwind;
mod worker;

use std::io;
use std::time::Duration;

use self::lifecycle::{Desk, Turn};
use self::state::{Call, Effects, Limits, State};
use crate::clock::{Clock, Moment};
#[cfg(feature = "metrics")]
use crate::context::Context;
use crate::context::Root;
use crate::error::{TaskError, Unfinished};
use crate::hooks::{Hooks, Shelf};
#[cfg(feature = "metrics")]
use crate::info::Load;
use crate::info::{Stats, TaskInfo};
use crate::retry::Retry;
use crate::sync::{Arc, AtomicBool, AtomicU64, CachePadded, Condvar, Guard, Mutex, Ordering, thread};
use crate::task::{Kind, Place, Record, Task, TaskId};

/// What the builder has settled.
pub(crate) struct Config {
    pub(crate) name: String,
    pub(crate) stack_size: Option<usize>,
    pub(crate) stalled_after: Option<Duration>,
    pub(crate) retry: Option<Retry>,
    pub(crate) limits: Limits,
    /// At how many threads of the whole process no more are started.
    pub(crate) process_threads: Option<usize>,
    /// Asked before each thread is started; tests refuse threads here.
    pub(crate) gate: Option<Gate>,
}

pub(crate) type Gate = Arc<dyn Fn(&str) -> io::Result<()> + Send + Sync>;

/// What a thread of ours does.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Role {
    /// Runs tasks, with this hand.
    Worker(usize),
    Supervisor,
    Notifier,
}

impl Role {
    /// The thread's whole life.
    pub(crate) fn play<Meta>(self, core: Arc<Core<'_, Meta>>) {
        match self {
            Role::Worker(hand) => worker::run(&core, hand),
            Role::Supervisor => supervisor::run(&core),
            Role::Notifier => notifier::run(&core),
        }
    }
}

/// Starts a thread: `std::thread::Builder::spawn`, or `spawn_scoped` within a scope. It is made where the
/// bounds on Meta hold that `Drop` cannot have.
pub(crate) type Spawner<'a, Meta> =
    Box<dyn Fn(thread::Builder, Role, Arc<Core<'a, Meta>>) -> io::Result<()> + Send + Sync + 'a>;

/// Own threads above which the process's count is looked at, each time that many more were started.
const LOOK_AROUND: u64 = 64;

pub(crate) struct Core<'a, Meta> {
    /// Alone on its cache lines: everybody writes here.
    state: CachePadded<Mutex<State<'a, Meta>, true>>,
    pub(crate) root: Arc<Root>,
    pub(crate) shelf: Shelf<'a, Meta>,
    config: Config,
    spawner: Spawner<'a, Meta>,

    /// For those who wait until tasks or threads are gone.
    quiet: Condvar,
    /// For submitters that wait for room in the backlog.
    room: Condvar,
    /// For submitters that wait for threads that others start.
    starts: Condvar,
    supervisor: Condvar,

    /// Workers started so far; numbers their names.
    started: AtomicU64,
    /// The process had as many threads as the system can surely carry when it was last looked at.
    crowded: AtomicBool,
    // Counted where the lock is not held.
    hook_panics: AtomicU64,
    retried: AtomicU64,
    stalled: AtomicU64,
}

impl<'a, Meta> Core<'a, Meta> {
    pub(crate) fn new(config: Config, clock: Clock, spawner: Spawner<'a, Meta>) -> Arc<Self> {
        Arc::new(Core {
            state: CachePadded::new(Mutex::new(State::new(config.limits))),
            root: Arc::new(Root::new(clock)),
            shelf: Shelf::default(),
            config,
            spawner,
            quiet: Condvar::default(),
            room: Condvar::default(),
            starts: Condvar::default(),
            supervisor: Condvar::default(),
            started: AtomicU64::new(0),
            crowded: AtomicBool::new(false),
            hook_panics: AtomicU64::new(0),
            retried: AtomicU64::new(0),
            stalled: AtomicU64::new(0),
        })
    }

    pub(crate) fn name(&self) -> &str {
        &self.config.name
    }

    #[inline]
    pub(crate) fn now(&self) -> Moment {
        self.root.clock.now()
    }

    /// The manager's identity for [`callout`]: an address that is its own while it lives.
    #[inline]
    fn identity(&self) -> usize {
        Arc::as_ptr(&self.root) as usize
    }

    pub(crate) fn is_inside(&self) -> bool {
        callout::is_inside(self.identity())
    }

    // -- what can be asked --------------------------------------------------------------------------------

    pub(crate) fn len(&self) -> usize {
        self.lock_settled().len()
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.state.lock().len() == 0
    }

    pub(crate) fn count_of(&self, kind: Kind) -> usize {
        self.lock_settled().count_of(kind)
    }

    pub(crate) fn is_closed(&self) -> bool {
        self.state.lock().is_closed()
    }

    pub(crate) fn tasks(&self) -> Vec<TaskInfo<'a, Meta>> {
        let now = self.now();
        self.lock_settled().tasks(now)
    }

    pub(crate) fn stats(&self) -> Stats {
        Stats {
            retried: self.retried.load(Ordering::Relaxed),
            stalled: self.stalled.load(Ordering::Relaxed),
            hook_panics: self.hook_panics.load(Ordering::Relaxed),
            ..self.lock_settled().stats()
        }
    }

    /// What the gauges show now.
    #[cfg(feature = "metrics")]
    pub(crate) fn load(&self) -> Load {
        self.lock_settled().load()
    }

    /// What the gauges will show once the attempt of `cx`, whose hooks are being called, is out of the way.
    /// `ends`: and so is its task, unless that is a loop.
    #[cfg(feature = "metrics")]
    pub(crate) fn load_after(&self, cx: &Context, ends: bool) -> Load {
        let hand = cx.control.as_ref().map(|control| control.hand());
        let state = self.lock_settled();
        hand.map_or_else(|| state.load(), |hand| state.load_after(hand, ends))
    }

    /// The lock, for who asks about more than whether anything is live: with no tray out.
    fn lock_settled(&self) -> Guard<'_, State<'a, Meta>> {
        let mut state = self.state.lock();
        state.call_in();
        state
    }

    // -- waiting ------------------------------------------------------------------------------------------

    /// Inside a call-out of this manager `verb` would wait for itself: it panics, or, on a thread that is
    /// panicking already, is to return (`true`).
    #[track_caller]
    fn refuse_inside(&self, verb: &str) -> bool {
        if !self.is_inside() {
            return false;
        }
        assert!(
            thread::panicking(),
            "`{verb}` was called inside a task or a hook of the same manager, which it would wait for: call it \
             from outside, or let the task return first"
        );
        true
    }

    #[track_caller]
    pub(crate) fn wait(&self) {
        if !self.refuse_inside("wait") {
            let mut state = self.state.lock();
            self.wait_until_quiet(&mut state, Moment::NEVER);
        }
    }

    #[track_caller]
    pub(crate) fn wait_timeout(&self, timeout: Duration) -> Result<(), Unfinished<'a, Meta>> {
        let inside = self.refuse_inside("wait_timeout");
        let until = if inside { Moment::START } else { self.now().after(timeout) };
        let mut state = self.state.lock();
        if self.wait_until_quiet(&mut state, until) {
            return Ok(());
        }
        state.call_in();
        let tasks = state.tasks(self.now());
        drop(state);
        Err(Unfinished::new(tasks))
    }

    /// Was there a moment, since now and before `until`, at which nothing was left to wait for?
    fn wait_until_quiet(&self, state: &mut Guard<'_, State<'a, Meta>>, until: Moment) -> bool {
        let before = state.quiet();
        while state.waited_for() > 0 && state.quiet() == before {
            if until != Moment::NEVER && self.now() >= until {
                return false;
            }
            self.quiet.wait_until(state, &self.root.clock, until);
        }
        true
    }

    // -- effects ------------------------------------------------------------------------------------------

    /// Does what a transition has asked for. The lock is not held.
    #[inline]
    pub(crate) fn apply(self: &Arc<Self>, fx: Effects) {
        if !fx.is_empty() {
            self.apply_all(fx);
        }
    }

    #[cold]
    fn apply_all(self: &Arc<Self>, mut fx: Effects) {
        while !fx.is_empty() {
            fx = self.apply_once(fx);
        }
    }

    fn apply_once(self: &Arc<Self>, fx: Effects) -> Effects {
        let mut more = Effects::default();
        for call in &fx.calls {
            if let Call::Wake(parker) = call {
                parker.unpark();
            }
        }
        if fx.quiet {
            self.quiet.notify_all();
        }
        for _ in 0..fx.room {
            self.room.notify_one();
        }
        if fx.all_submitters {
            self.room.notify_all();
        }
        if fx.starts {
            self.starts.notify_all();
        }
        if fx.supervisor {
            self.supervisor.notify_one();
        }
        if fx.dismiss {
            self.root.bell.dismiss();
        }
        for call in fx.calls {
            if let Call::Start(hand) = call {
                // Whoever asked for this thread has left its task in the queue, for others if need be.
                drop(self.start_worker(hand, None, &mut more));
            }
        }
        if fx.start_supervisor {
            drop(self.start_supervisor(&mut more));
        }
        if fx.ended {
            self.drop_hooks();
        }
        more
    }

    /// Adds a hook; one that comes too late to be called is dropped at once, as a call-out.
    pub(crate) fn add_hook(&self, add: impl FnOnce(&mut Hooks<'a, Meta>)) {
        if let Some(late) = self.shelf.add(add) {
            let _inside = callout::enter(self.identity(), usize::MAX);
            self.call_out(|| drop(late));
        }
    }

    /// Nobody will call the hooks any more.
    fn drop_hooks(&self) {
        let hooks = self.shelf.clear();
        let _inside = callout::enter(self.identity(), usize::MAX);
        self.call_out(|| drop(hooks));
    }

    /// Runs the user's code; a panic is contained and counted.
    pub(crate) fn call_out(&self, code: impl FnOnce()) {
        if unwind::catch(code).is_err() {
            self.count_panics(1);
        }
    }

    pub(crate) fn count_panics(&self, panics: u64) {
        if panics > 0 {
            self.hook_panics.fetch_add(panics, Ordering::Relaxed);
        }
    }

    // -- threads ------------------------------------------------------------------------------------------

    /// Starts the thread of `hand`, which was reserved, and records what came of it. Answers with the lock,
    /// so that what follows from it is decided in the same step.
    fn start_worker(
        self: &Arc<Self>,
        hand: usize,
        instead: Option<usize>,
        fx: &mut Effects,
    ) -> (Guard<'_, State<'a, Meta>>, io::Result<()>) {
        let number = self.started.fetch_add(1, Ordering::Relaxed) + 1;
        let name: Arc<str> = format!("{}-{number}", self.config.name).into();
        let started = self.look_around(number).and_then(|()| self.start(Role::Worker(hand), &name));
        let now = self.now();
        let mut state = self.state.lock();
        match &started {
            Ok(()) => state.granted(hand, name, instead, now, fx),
            Err(_) => state.refused(hand, now, fx),
        }
        (state, started)
    }

    /// As [`start_worker`](Self::start_worker), for the supervisor.
    fn start_supervisor(self: &Arc<Self>, fx: &mut Effects) -> (Guard<'_, State<'a, Meta>>, io::Result<()>) {
        let started = self.start(Role::Supervisor, &format!("{}-supervisor", self.config.name));
        let now = self.now();
        let mut state = self.state.lock();
        match &started {
            Ok(()) => state.supervisor_lives(now, fx),
            Err(_) => state.supervisor_refused(now, fx),
        }
        (state, started)
    }

    fn start(self: &Arc<Self>, role: Role, name: &str) -> io::Result<()> {
        if let Some(gate) = &self.config.gate {
            gate(name)?;
        }
        let mut builder = thread::Builder::new().name(name.to_owned());
        if let Some(bytes) = self.config.stack_size {
            builder = builder.stack_size(bytes);
        }
        (self.spawner)(builder, role, Arc::clone(self))
    }

    /// Several managers in one process keep clear of what the system can carry together: the process's own
    /// count of threads is looked at from time to time.
    fn look_around(&self, number: u64) -> io::Result<()> {
        let Some(limit) = self.config.process_threads else { return Ok(()) };
        // Once there were too many, each start looks.
        if number % LOOK_AROUND != 0 && !self.crowded.load(Ordering::Relaxed) {
            return Ok(());
        }
        let threads = crate::builder::process_threads().unwrap_or(0);
        self.crowded.store(threads >= limit, Ordering::Relaxed);
        if threads >= limit {
            return Err(io::Error::other(format!(
                "the process has {threads} threads, as many as the system can surely carry"
            )));
        }
        Ok(())
    }

    // -- guests: threads of the user's that have a task in hand ---------------------------------------------

    /// Ends `task`, which was taken out of its place, on this thread. `state` is the lock under which it was.
    fn end_here(
        self: &Arc<Self>,
        mut state: Guard<'_, State<'a, Meta>>,
        mut task: Task<'a, Meta>,
        error: TaskError,
        mut fx: Effects,
    ) {
        let mut desk = self.guest_desk(&mut state);
        let twin = Arc::clone(&task.record);
        desk.begin(&mut state, (&mut task, twin), None, None, self.now(), &mut fx);
        drop(state);
        desk.identify(&task);
        self.apply(fx);
        let inside = callout::enter(self.identity(), desk.hand);
        let turn = desk.end(task, Some(error));
        self.guest_finishes(desk, turn);
        drop(inside);
    }

    /// Runs `task`, which was taken out of the queue, on this thread.
    fn run_here(
        self: &Arc<Self>,
        mut state: Guard<'_, State<'a, Meta>>,
        mut task: Task<'a, Meta>,
        mut fx: Effects,
    ) {
        let order = state.order(&task, self.now());
        let mut desk = self.guest_desk(&mut state);
        let twin = Arc::clone(&task.record);
        desk.begin(&mut state, (&mut task, twin), Some(order), None, self.now(), &mut fx);
        drop(state);
        desk.identify(&task);
        self.apply(fx);
        let inside = callout::enter(self.identity(), desk.hand);
        let turn = desk.turn(task, order);
        self.guest_finishes(desk, turn);
        drop(inside);
    }

    fn guest_desk(self: &Arc<Self>, state: &mut State<'a, Meta>) -> Desk<'a, Meta> {
        let thread: Option<Arc<str>> = thread::current().name().map(Arc::from);
        let hand = state.guest(thread.clone());
        let desk = Desk::new(self, hand, thread);
        state.sit_down(hand, Arc::clone(desk.control()));
        desk
    }

    /// What a guest's turn has led to. The guest goes away.
    fn guest_finishes(self: &Arc<Self>, mut desk: Desk<'a, Meta>, mut turn: Turn<'a, Meta>) {
        let mut fx = Effects::default();
        let mut state;
        let record = loop {
            state = self.state.lock();
            match turn {
                Turn::Ended(ended) => break state.finish(desk.hand, &ended, &mut fx),
                Turn::Paused(task, pause) => match state.pause(desk.hand, task, pause, self.now(), &mut fx) {
                    Ok(record) => break record,
                    Err((task, refusal)) => {
                        drop(state);
                        self.apply(std::mem::take(&mut fx));
                        turn = desk.refused(task, refusal);
                    }
                },
            }
        };
        state.guest_leaves(desk.hand);
        drop(state);
        self.apply(fx);
        desk.forget_hooks();
        drop_record(self, record);
    }

    // -- for handles --------------------------------------------------------------------------------------

    /// Ends the task there and then if no thread has it in hand; cancels its context otherwise.
    pub(crate) fn cancel_task(self: &Arc<Self>, place: &Place, id: TaskId) {
        let mut fx = Effects::default();
        let mut state = self.lock_settled();
        if let Some(task) = state.take_out(place.get(), id, &mut fx) {
            return self.end_here(state, task, TaskError::Cancelled, fx);
        }
        let control = state.control_of(id);
        drop(state);
        if let Some(control) = control {
            control.cancel();
        }
    }

    /// Runs the task on this thread if no thread has it in hand.
    pub(crate) fn help_with(self: &Arc<Self>, place: &Place, id: TaskId) {
        if !callout::may_help(self.identity()) {
            return;
        }
        let mut fx = Effects::default();
        let mut state = self.lock_settled();
        if let Some(task) = state.take_out(place.get(), id, &mut fx) {
            self.run_here(state, task, fx);
        }
    }

    /// Is this thread inside of the task `id`: on its stack, or in a hook that is about it?
    pub(crate) fn is_inside_task(&self, id: TaskId) -> bool {
        let hands = callout::hands(self.identity());
        !hands.is_empty() && self.lock_settled().is_in_one_of(&hands, id)
    }

    /// The lock, for the files of this folder.
    fn lock(&self) -> Guard<'_, State<'a, Meta>> {
        self.state.lock()
    }
}

impl<Meta> Drop for Core<'_, Meta> {
    /// A manager that was detached, and never closed, has its hooks to the end.
    fn drop(&mut self) {
        self.drop_hooks();
    }
}

/// A record that was let go of is dropped as a call-out: Meta's `Drop` is the user's.
fn drop_record<Meta>(core: &Core<'_, Meta>, record: Option<Arc<Record<'_, Meta>>>) {
    if record.is_some() {
        core.call_out(|| drop(record));
    }
}
