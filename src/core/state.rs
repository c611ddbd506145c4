//! The one state of a manager: which tasks are live and where each of them is, which threads there are and
//! what each of them does. Plain data, and transitions that are plain functions: no lock, clock, thread or
//! callback in here. A transition takes the time as an argument and leaves in [`Effects`] what is to be done
//! about it; the shell (see [`Core`](super::Core)) does that once it has let go of the lock.
//!
//! # Where a task is, and who may move it
//!
//! Every live task is in exactly one place:
//!
//! | place | it waits for | who may take it, and where to |
//! |---|---|---|
//! | a [`Hand`] | nothing: a thread has it | that thread alone: to the queue, to the timers, to its end |
//! | `queue` | a thread | any worker; a joiner or a canceller, by its place; into a hand, or into a tray |
//! | a [`Tray`] | its worker | that worker: into its hand; whoever has it come in: into the queue, where it stood |
//! | `timers` | its time | the supervisor, `close` and `cancel`: into the queue |
//! | `doomed` | its end | the shutdown that gave it up, which had it from queue and timers: into a hand |
//!
//! Taking a task out of its place, under the lock, is the sole right to run it or to end it; so it ends once.
//! What a place holds is moved by transitions alone, so it is not lost between two. A tray has a lock of its own,
//! which its worker needs no other for, and which who has it come in (`call_in`) holds besides this state's.
//!
//! # What a thread does, and who says so
//!
//! | seat | who moves it on |
//! |---|---|
//! | starting | its starter: granted, it is fresh; refused, it is gone |
//! | fresh, lingering, told | itself, to awake: it looks at the queue next |
//! | awake | itself: takes a task, gathers, lingers, goes idle, sets out to leave |
//! | idle | whoever has work for it or sends it home, by a token: told; itself, when its time is up |
//! | leaving | itself: gone. Nobody relies on it any more |
//!
//! The manager itself only goes forward: open, `closed`, `cancelled`, `abandoned`. Over, it is once it is
//! closed and empty or abandoned; who makes it so sends every thread home, and wakes all who wait.
//!
//! # What ties the numbers
//!
//! - `once + loops` = tasks in all places.
//! - tasks in hands = running + `held_back` (with their submitter, which has not let them go).
//! - `pending` = those of them that have not started and that nobody has taken to end them.
//! - `threads` = workers' hands that are granted = fresh + awake + lingering + idle + told + leaving.
//! - `coming` = starting + fresh + lingering + told: threads that are on their way to the queue.
//! - While a tray is out, `once` and `pending` are too high, and `succeeded` and `failed` too low, by what has ended
//!   from it; so who needs the numbers has it come in. Zero is zero all the same: who has a tray has a task in hand,
//!   and counts its end here.
//!
//! # Why no wake-up is lost
//!
//! *Nobody sleeps past what it waits for.* Whoever waits asks for its condition under the lock, and asks again
//! after each return. A worker lets go of the lock and then sleeps, in a [`Parker`], which remembers that it was
//! woken before it slept; for all others letting go and sleeping are one step. So the condition comes true before
//! it looks, or wakes it. The transition that makes it true says so in its [`Effects`], and the shell notifies
//! once it has let go of the lock, before it runs code of the user's:
//!
//! | who waits | for what | which transitions tell it |
//! |---|---|---|
//! | an idle worker | its token | `give_token` |
//! | a thread that starts | the record of its start | `granted`, `supervisor_lives`, `notifier_lives` |
//! | `wait`, `shutdown`, drop | tasks or threads to be gone, survivors to be named | `end`, `close`, `leave`, `…_leaves`, `…refused`, `end_shutdown` |
//! | a submitter without a place | a place offered, or closed | `room`, one for each; `close`, all |
//! | a submitter without a thread | what comes of starts | `granted`, `refused`, `leave`, the supervisor's three |
//! | the supervisor | the first of its times, or to be done | whatever makes an earlier one, and the last of what it watches |
//!
//! Where one is notified and not all, there is one to notify (a parker is its worker's own, as is the
//! supervisor's), or any of them will do: a place that is offered stays so until somebody claims it, and who
//! goes away with one passes it on.
//!
//! *No task stays in the queue while a thread could take it.* A token is a [`Seat`], set under the lock: the
//! notification only hurries it, and who is told to work cannot be mistaken for who is sent home. A worker
//! goes idle, or sets out to leave, under the lock, with the queue empty or with as many on their way to it
//! as it has tasks; or it goes idle beside another that has a tray, with the supervisor's tick armed in the
//! same step. So a task that enters finds workers awake, which look again when they are done, or when they have
//! gathered, for some microseconds; and besides one to tell, or a thread to start; or it is left to those awake,
//! with the tick armed likewise. Whoever was on its way and does not come (a start that is refused, a supervisor
//! likewise, a worker that has left its place under the cap) looks at the queue in its stead. And there is a
//! thread: no task is accepted before one is granted, and the last stays while any is live.
//!
//! *No task stays in a tray while another thread could take it*, but until the next tick, nor while one takes
//! another that is due later. Every worker that takes anything has the tray come in before. It is out only while
//! the supervisor ticks, which has it come in too, or while all threads that there may be are at work; and whoever
//! ends that has it come in: a start that is refused, a worker that leaves.
//!
//! # Why the lock order is trivial
//!
//! This state's lock is the first: who takes it holds no other of ours (asserted). Under it come, one at a
//! time, the locks of a tray, of an attempt (its sleepers, its pulse) and of a job. Three of these are held over
//! one more that nothing is held over, a tray's over a pulse, the sleepers' over a sleeper's own and a job's over
//! its answer's. All others (hooks, the parkers, the notifier's bell) stand alone. So nobody waits in a circle;
//! and since none of them is held while code of the user's runs, which
//! [`unwind::catch`](super::unwind::catch) asserts in debug builds, no
//! lock of the user's can close one.

use std::collections::{BTreeMap, HashSet, VecDeque};
use std::time::Duration;

use super::queue::{BLOCK, Queue};
use super::tray::{Due, Tray};
use crate::clock::Moment;
use crate::context::Control;
#[cfg(feature = "metrics")]
use crate::info::Load;
use crate::info::{Phase, Sight, Stats, TaskInfo};
use crate::sync::{Arc, AtomicBool, CachePadded, Mutex, Ordering, Parker};
use crate::task::{Kind, Parting, Record, Task, TaskId};

/// A queue that was looked at this recently is left to the workers that are awake.
///
/// A worker that turns over tiny tasks looks every microsecond or so, one with tasks of 10 µs every ten; waking
/// another costs the submitter some 5 µs, and both of them the shared lock from then on.
const RECENT: Duration = Duration::from_micros(20);

/// How many workers are called for at a time before the rest of a burst is left to them, and for how long they
/// may take to come: a wake-up takes some 50 µs where the cores are busy.
const ENOUGH_CALLED: u32 = 2;
const CALL: Duration = Duration::from_micros(100);

/// How often the supervisor looks at a backlog that was left to the workers that are awake.
pub(crate) const TICK: Duration = Duration::from_micros(500);

/// Workers that take this many tasks each in one tick (one in 60 µs) are busy, not blocked: more threads than
/// cores would not help them.
const BUSY: u64 = 8;

/// Workers that take this many in one tick for each core (one in 8 µs) run one tiny task after the other.
const TINY: u64 = 64;

/// Workers that take this many each in one tick (one in 2 µs) spend much of their time on the queue's lock: it does
/// not pay to start another.
const LOCK_BOUND: u64 = 256;

/// Tasks of no more nanoseconds than this, all in all, are turned over as fast by one worker as by two that meet at
/// the queue's lock: not even one that is there already would help it. (Without optimization everything takes
/// longer.)
const ALONE: u64 = if cfg!(debug_assertions) { 5_000 } else { 500 };

/// Tasks of no more nanoseconds than this are tiny enough to be taken by the tray, and so many in a row, which one
/// worker alone has taken, make it likely that the next are, too: as many as are taken then.
const TINY_TASK: u64 = 4 * ALONE;
const ENOUGH_TINY: u32 = BLOCK as u32;

/// Who gathers looks so often again whether something has come since, each microsecond or so, and stops when not.
const LOOKS: u32 = 3;

/// Who gathers in vain, however often, does so once in so many tasks: a few nanoseconds for each.
const SELDOM: u32 = 1024 * ENOUGH_TINY;

/// The others go out of the way only of a worker that was not held up for so long. Without that, tasks of which each
/// 200th blocks took two to four times as long; with 1.5 ms a flood gained nothing by it, for its workers lose their
/// cores more often than that.
const FLOWS: Duration = Duration::from_micros(300);

/// A tray of fewer tasks is not worth it.
const FEWEST: usize = if cfg!(inflight_model) {
    1
} else if cfg!(test) {
    2
} else {
    4
};

/// Ticks in a row that make workers busy ones, which are given one tick more when they falter. With fewer, one
/// that is blocked in every other tick would be taken for one that loses its core.
const STEADY: u32 = 2;

/// Ticks without a backlog after which the supervisor stops ticking.
const CALM: u32 = 4;

/// A tick at most doubles the threads, so that workers which merely lost their core for a moment do not bring
/// a crowd about; but it may always add this many.
const FIRST_GROWTH: usize = 4;

/// The most threads that one tick wakes or starts; what is left over is dealt with at once after that, but
/// the clock gets its turn in between. Meanwhile each worker that comes wakes another: to wake a thread takes 8 µs,
/// and the supervisor has but one core.
const BATCH: usize = if cfg!(inflight_model) { 1 } else { 64 };

/// How long a thread that was refused is not asked for again, doubling up to `REFUSED_MAX`.
const REFUSED_FIRST: Duration = Duration::from_millis(10);
const REFUSED_MAX: Duration = Duration::from_secs(1);

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Policy {
    Elastic,
    ThreadPerTask,
    Inline,
}

/// How the manager was built. Never changes.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Limits {
    pub(crate) policy: Policy,
    pub(crate) max_threads: usize,
    pub(crate) max_pending: usize,
    pub(crate) keep_alive: Duration,
    pub(crate) cores: usize,
    /// May a task be left to workers that are awake? Not where the supervisor's ticks do not come by
    /// themselves, on a clock that a test advances.
    pub(crate) may_leave: bool,
}

/// What a worker thread does.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Seat {
    /// Reserved; the operating system has not granted the thread yet.
    Starting,
    /// Granted, and has not looked at the queue yet.
    Fresh,
    /// At work, or about to look at the queue.
    Awake,
    /// Found the queue empty, and looks at it for some microseconds more before it goes idle.
    Lingering,
    /// Is parked.
    Idle,
    /// Was idle, and holds the token that sends it to the queue.
    Told,
    /// Takes nothing any more, and is gone after a last step under the lock.
    Leaving,
    /// No worker: a thread of the user's that has a task in hand.
    Guest,
}

/// Whoever can have a task in hand: a worker for as long as it lives, or a guest.
struct Hand<'a, Meta> {
    seat: Seat,
    /// Has taken a task before.
    worked: bool,
    /// Has lingered since it last took one.
    lingered: bool,
    /// How many tiny ones in a row it takes for it to gather: the more, the more often that was in vain.
    gathers_after: u32,
    /// What it has seen, while it gathers.
    gathering: Option<Gathering>,
    /// The tick in which it last took one.
    beat: u64,
    /// When it was last at the queue and took one; up to where that had been passed then; how many it has run since,
    /// with the one in hand; whether these took no longer than `ALONE` each; since when none was held up; and how many
    /// tiny ones it took in a row, between which nobody else took any.
    took_at: Moment,
    passed: u64,
    ran: u32,
    quick: bool,
    flows_since: Moment,
    tiny: u32,
    thread: Option<Arc<str>>,
    /// What it uses for each of its attempts: see `Desk`.
    control: Option<Arc<Control>>,
    held: Option<Held<'a, Meta>>,
}

/// Where the queue ended as a worker began to gather, and as it looked last; and how often it has looked.
#[derive(Clone, Copy)]
struct Gathering {
    first: u64,
    last: u64,
    looks: u32,
}

struct Held<'a, Meta> {
    record: Arc<Record<'a, Meta>>,
    /// The task's phase, if it is not told by `control`: its submitter still has it in hand.
    phase: Option<Phase>,
}

impl<'a, Meta> Hand<'a, Meta> {
    fn in_hand(&self) -> Option<(&Held<'a, Meta>, &Arc<Control>)> {
        self.held.as_ref().zip(self.control.as_ref())
    }
}

/// Tasks that a thread has in hand and does not run, by what they count as.
#[derive(Default)]
struct HeldBack {
    delayed: usize,
    queued: usize,
}

impl HeldBack {
    fn of(&mut self, phase: Phase) -> &mut usize {
        if phase == Phase::Delayed { &mut self.delayed } else { &mut self.queued }
    }
}

/// A tray, and whose it is.
struct Out<'a, Meta> {
    hand: usize,
    /// Up to when its worker is better off alone, if it goes on as it did.
    alone_until: Moment,
    tray: Arc<Mutex<Tray<'a, Meta>>>,
}

struct Slot<'a, Meta> {
    /// Where the thread of this slot sleeps.
    parker: Arc<Parker>,
    hand: Option<Hand<'a, Meta>>,
}

/// What a task in `timers` waits for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Wait {
    /// Its delay, before it first runs.
    Delay,
    /// Its next attempt.
    Retry,
    /// Its next iteration.
    Iteration,
}

/// What comes between two attempts, or two iterations.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Pause {
    pub(crate) until: Moment,
    pub(crate) wait: Wait,
    /// How the iteration came out.
    pub(crate) tally: Tally,
}

/// What is to be done with a task that was taken from the queue.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Order {
    Run,
    /// It was cancelled before it first ran.
    Cancel,
    /// It is not attempted again, cancelled or out of time in its retry pause: it ends, or a loop's iteration
    /// does, with the failure it had.
    GiveUp,
    /// A loop whose next iteration is not to begin.
    EndLoop,
}

/// What a worker does next.
pub(crate) enum Next<'a, Meta> {
    /// With the record once more, for [`State::hold`], and perhaps with a tray of tasks to follow.
    Take(Task<'a, Meta>, Arc<Record<'a, Meta>>, Order, Option<Arc<Mutex<Tray<'a, Meta>>>>),
    /// Let some more tasks come for a microsecond or so, then ask again.
    Gather,
    /// Look at the hint for some microseconds, then ask again.
    Linger,
    /// Wait for the token, until this moment at the latest.
    Park(Moment),
    /// Start the thread of this hand in its stead.
    Successor(usize),
    Leave,
}

/// What an idle worker does whose time is up.
pub(crate) enum Expired {
    Stay(Moment),
    Work,
    Leave,
}

/// Whether a task can be accepted.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Admission {
    Granted,
    Closed,
    Full,
    /// There is no thread: start that of this hand, and ask again.
    NeedsThread(usize),
    /// Others are starting what it takes: wait for what comes of it.
    NeedsStarts,
    /// Start the supervisor, and ask again.
    NeedsSupervisor,
}

/// Why a task that an attempt has left was not taken back.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Refusal {
    /// No pause begins any more: it ends with what it had.
    Ends,
    /// A shutdown has given up what is not running.
    Abandoned,
}

/// How a task, or an iteration of a loop, came out.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Tally {
    Succeeded,
    Failed,
    Silent,
}

/// A helper thread: the supervisor, the notifier.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(crate) struct Helper {
    pub(crate) alive: bool,
    pub(crate) starting: bool,
}

/// When a thread may be asked for again after it was refused.
#[derive(Clone, Copy, Debug, Default)]
struct Refused {
    until: Moment,
    pause: Duration,
}

impl Refused {
    fn again(&mut self, now: Moment) {
        self.pause = (self.pause * 2).clamp(REFUSED_FIRST, REFUSED_MAX);
        self.until = now.after(self.pause);
    }

    fn over(&mut self) {
        *self = Refused::default();
    }
}

/// What the shell is to do once it has let go of the lock.
#[derive(Default)]
#[must_use]
pub(crate) struct Effects {
    pub(crate) calls: Vec<Call>,
    /// So many places in the backlog were handed to blocked submitters.
    pub(crate) room: u32,
    /// Tell those who wait for tasks or threads to be gone.
    pub(crate) quiet: bool,
    /// Tell all blocked submitters.
    pub(crate) all_submitters: bool,
    /// Tell those who wait for threads that others start.
    pub(crate) starts: bool,
    /// The supervisor has something new to watch.
    pub(crate) supervisor: bool,
    /// The supervisor is to be started, for the sake of growth.
    pub(crate) start_supervisor: bool,
    /// Nothing is watched for stalls any more.
    pub(crate) dismiss: bool,
    /// The manager is closed and empty: the hooks are to be dropped.
    pub(crate) ended: bool,
}

/// A worker that is called for.
pub(crate) enum Call {
    /// It holds a token, or its start was granted.
    Wake(Arc<Parker>),
    /// Its thread is to be started, for this hand.
    Start(usize),
}

impl Effects {
    #[inline]
    pub(crate) fn is_empty(&self) -> bool {
        let flags = self.quiet
            | self.all_submitters
            | self.starts
            | self.supervisor
            | self.start_supervisor
            | self.dismiss
            | self.ended;
        !flags & self.calls.is_empty() & (self.room == 0)
    }
}

/// The order of the fields is that of C, and not by chance. What every submit and every take write travels
/// between the cores with each hand-over of the lock: with the lock itself it fills one cache line. What comes
/// after that is only read while tasks flow, and stays in every core's cache.
#[repr(C)]
pub(crate) struct State<'a, Meta> {
    // -- what flows
    once: usize,
    pending: usize,
    /// The next id, and so one more than were added.
    next_id: u64,
    succeeded: u64,
    /// When a worker last took a task; if it took a tray, up to when that counts as just now.
    last_take: Moment,
    queue: Queue<Due<'a, Meta>>,

    // -- the manager's life
    closed: bool,
    cancelled: bool,
    /// A shutdown has given up what is not running: nothing enters queue or timers any more.
    abandoned: bool,
    /// A shutdown has returned and named what was left.
    named: bool,
    pub(crate) supervisor: Helper,
    pub(crate) notifier: Helper,

    // -- what flows less
    loops: usize,
    failed: u64,

    // -- the pace of the workers since the last tick
    /// The queue as it was then: what stood from `front` up to `back` and was not taken since is stuck.
    front: u64,
    back: u64,
    /// How many workers have taken something.
    takers: u64,
    /// How many tasks they had taken for each core before that tick, and since the one before it.
    pace: u64,
    /// Ticks in a row, up to the last, in which they were busy.
    steady: u32,
    /// Counts ticks, so that workers can be told apart that took something in this one.
    beat: u64,
    /// When the next tick is due; `NEVER` while nothing was left to the workers that are awake.
    tick_at: Moment,
    /// When a worker was last told to come, or started.
    last_call: Moment,
    /// Ticks in a row without a backlog.
    calm: u32,
    /// So many more idle workers the last tick would have told, but for its batch. The next comes at once, and
    /// reckons anew.
    to_tell: usize,

    // -- threads
    threads: u32,
    starting: u32,
    fresh: u32,
    lingering: u32,
    told: u32,
    leaving: u32,
    /// Tells those that linger that there is something to look at.
    hint: Arc<AtomicBool>,
    slots: Vec<CachePadded<Slot<'a, Meta>>>,
    /// Idle workers; the one that went idle last is woken first, so that the surplus ages.
    idle: Vec<usize>,
    limits: Limits,
    /// The tray that is out.
    tray: Option<Out<'a, Meta>>,

    // -- submitters that wait for room in the backlog
    /// Those that have no place yet.
    blocked: usize,
    /// Free places that are theirs: handed to them, and then claimed by one that has not been accepted yet.
    offered: usize,
    claimed: usize,
    /// Submitters that start, or wait for, the threads that their task needs: what is there stays for them.
    admitting: usize,

    /// The idle worker that stays because it is the last and tasks are live.
    keeper: Option<usize>,
    /// When the first attempt is to be looked at for a stall.
    stall_at: Moment,
    /// Counts the moments at which nothing was left that `wait` waits for.
    quiet: u64,
    rejected: u64,
    /// Live tasks that need the supervisor, and those of them that are watched for stalls.
    needing: usize,
    watched: usize,
    timers: BTreeMap<(Moment, TaskId), (Task<'a, Meta>, Wait)>,
    doomed: VecDeque<Task<'a, Meta>>,
    free: Vec<usize>,
    held_back: HeldBack,
    peak_threads: usize,
    refused: Refused,
    supervisor_refused: Refused,
    /// Since when the supervisor has had nothing to watch.
    supervisor_idle: Option<Moment>,
    notifier_refused: Refused,

    // -- shutdowns under way, and what was given up since the first of them began
    shutdowns: usize,
    given_up: Vec<TaskInfo<'a, Meta>>,
}

/// Without bounds on Meta: `Drop` needs these.
impl<'a, Meta> State<'a, Meta> {
    pub(crate) fn new(limits: Limits) -> Self {
        State {
            once: 0,
            pending: 0,
            next_id: 1,
            succeeded: 0,
            last_take: Moment::START,
            queue: Queue::default(),
            closed: false,
            cancelled: false,
            abandoned: false,
            named: false,
            supervisor: Helper::default(),
            notifier: Helper::default(),
            loops: 0,
            failed: 0,
            front: 0,
            back: 0,
            takers: 0,
            pace: 0,
            steady: 0,
            beat: 0,
            tick_at: Moment::NEVER,
            last_call: Moment::START,
            calm: 0,
            to_tell: 0,
            threads: 0,
            starting: 0,
            fresh: 0,
            lingering: 0,
            told: 0,
            leaving: 0,
            hint: Arc::default(),
            slots: Vec::new(),
            idle: Vec::new(),
            limits,
            tray: None,
            blocked: 0,
            offered: 0,
            claimed: 0,
            admitting: 0,
            keeper: None,
            stall_at: Moment::NEVER,
            quiet: 0,
            rejected: 0,
            needing: 0,
            watched: 0,
            timers: BTreeMap::new(),
            doomed: VecDeque::new(),
            free: Vec::new(),
            held_back: HeldBack::default(),
            peak_threads: 0,
            refused: Refused::default(),
            supervisor_refused: Refused::default(),
            supervisor_idle: None,
            notifier_refused: Refused::default(),
            shutdowns: 0,
            given_up: Vec::new(),
        }
    }

    // -- what can be asked --------------------------------------------------------------------------------

    pub(crate) fn len(&self) -> usize {
        self.once + self.loops
    }

    pub(crate) fn count_of(&self, kind: Kind) -> usize {
        match kind {
            Kind::Once => self.once,
            Kind::Loop => self.loops,
        }
    }

    pub(crate) fn is_closed(&self) -> bool {
        self.closed
    }

    pub(crate) fn is_abandoned(&self) -> bool {
        self.abandoned
    }

    pub(crate) fn is_named(&self) -> bool {
        self.named
    }

    /// Tasks that `wait` waits for: loops count once the manager is closed, since only then they end.
    pub(crate) fn waited_for(&self) -> usize {
        if self.closed { self.len() } else { self.once }
    }

    pub(crate) fn quiet(&self) -> u64 {
        self.quiet
    }

    /// Have all threads left that leave by themselves once the manager is closed and empty? The notifier is
    /// asked for apart: a hook of the user's may hold it up.
    pub(crate) fn threads_gone(&self) -> bool {
        self.threads == 0 && self.starting == 0 && !self.supervisor.alive && !self.supervisor.starting
    }

    pub(crate) fn notifier_gone(&self) -> bool {
        !self.notifier.alive && !self.notifier.starting
    }

    pub(crate) fn threads(&self) -> usize {
        self.threads as usize
    }

    /// Is there one that does not leave?
    pub(crate) fn has_threads(&self) -> bool {
        self.threads > self.leaving
    }

    /// Those that are alive, and those whose start is under way.
    fn threads_and_starts(&self) -> usize {
        (self.threads + self.starting) as usize
    }

    pub(crate) fn stats(&self) -> Stats {
        Stats {
            added: self.next_id - 1,
            succeeded: self.succeeded,
            failed: self.failed,
            rejected: self.rejected,
            threads: self.threads(),
            peak_threads: self.peak_threads,
            max_threads: self.limits.max_threads,
            ..Stats::default()
        }
    }

    #[cfg(feature = "metrics")]
    pub(crate) fn load(&self) -> Load {
        // As `tasks` lists them.
        let queued = self.queue.len() + self.doomed.len() + self.held_back.queued;
        let delayed = self.timers.len() + self.held_back.delayed;
        Load { live: self.len(), running: self.len() - queued - delayed, queued, threads: self.threads() }
    }

    /// The load without what `hand` has in hand. `ends`: not even live, unless it is a loop.
    #[cfg(feature = "metrics")]
    pub(crate) fn load_after(&self, hand: usize, ends: bool) -> Load {
        let mut load = self.load();
        if let Some(held) = self.slots.get(hand).and_then(|slot| slot.hand.as_ref()?.held.as_ref()) {
            match held.phase {
                None => load.running -= 1,
                Some(Phase::Delayed) => {}
                Some(_) => load.queued -= 1,
            }
            load.live -= usize::from(ends && held.record.kind == Kind::Once);
        }
        load
    }

    fn coming(&self) -> usize {
        (self.starting + self.fresh + self.lingering + self.told) as usize
    }

    /// Nothing is to come: threads leave at once.
    fn is_over(&self) -> bool {
        self.closed && (self.len() == 0 || self.abandoned)
    }

    // -- closing ------------------------------------------------------------------------------------------

    /// Refuses new work. True for the call that closed it.
    pub(crate) fn close(&mut self, now: Moment, fx: &mut Effects) -> bool {
        if std::mem::replace(&mut self.closed, true) {
            return false;
        }
        fx.all_submitters = true;
        // A loop that waits for its next iteration ends at once: a worker takes it, and ends it.
        self.release_timers(now, fx, |task, wait| task.record.kind == Kind::Loop && wait != Wait::Retry);
        if self.waited_for() == 0 {
            self.quiet += 1;
            fx.quiet = true;
        }
        self.look_over(fx);
        true
    }

    /// Makes everything that waits due now, to be ended by whoever takes it.
    pub(crate) fn cancel(&mut self, now: Moment, fx: &mut Effects) {
        self.call_in();
        self.cancelled = true;
        self.release_timers(now, fx, |_, _| true);
    }

    fn release_timers(
        &mut self,
        now: Moment,
        fx: &mut Effects,
        which: impl Fn(&Task<'a, Meta>, Wait) -> bool,
    ) {
        let (released, kept) =
            std::mem::take(&mut self.timers).into_iter().partition(|(_, (task, wait))| which(task, *wait));
        self.timers = kept;
        let released: BTreeMap<(Moment, TaskId), (Task<'a, Meta>, Wait)> = released;
        let released = released.into_values().map(|(task, _)| task.due_at(now));
        self.push_all(released, now, fx);
    }

    /// Many tasks at once: the first gets a thread, the others are for it and the supervisor's tick.
    fn push_all(&mut self, tasks: impl Iterator<Item = Task<'a, Meta>>, now: Moment, fx: &mut Effects) {
        let mut pushed = false;
        for task in tasks {
            self.push(task);
            if !pushed || !self.can_tick() {
                self.spread(now, false, fx);
            }
            pushed = true;
        }
        if pushed && self.can_tick() && self.coming() < self.queue.len() {
            self.arm(now, fx);
        }
    }

    fn can_tick(&self) -> bool {
        self.supervisor.alive && self.limits.may_leave && self.limits.policy == Policy::Elastic
    }

    /// If the manager is over, sends every thread home.
    fn look_over(&mut self, fx: &mut Effects) {
        if !self.is_over() {
            return;
        }
        while self.tell(fx) {}
        self.hint.store(true, Ordering::Release);
        fx.supervisor = true;
        fx.dismiss = true;
        fx.ended |= self.len() == 0;
        fx.quiet = true;
    }

    // -- acceptance ---------------------------------------------------------------------------------------

    fn is_full(&self) -> bool {
        self.pending + self.offered + self.claimed >= self.limits.max_pending
    }

    /// Can a task be accepted? `claimed`: its submitter has claimed a place in the backlog.
    pub(crate) fn admit(&mut self, needs_supervisor: bool, claimed: bool) -> Admission {
        if self.closed {
            Admission::Closed
        } else if !claimed && self.is_full() {
            Admission::Full
        } else if self.limits.policy != Policy::Inline && !self.has_threads() {
            if self.threads_and_starts() < self.limits.max_threads {
                Admission::NeedsThread(self.reserve())
            } else {
                Admission::NeedsStarts
            }
        } else if needs_supervisor && !self.supervisor.alive {
            if self.supervisor.starting {
                return Admission::NeedsStarts;
            }
            self.supervisor.starting = true;
            Admission::NeedsSupervisor
        } else {
            Admission::Granted
        }
    }

    pub(crate) fn reject(&mut self) {
        self.rejected += 1;
    }

    /// A submitter lets go of the lock while it sees to what its task needs.
    pub(crate) fn begin_admitting(&mut self) {
        self.admitting += 1;
    }

    /// Its task has been accepted by now, or is not going to be.
    pub(crate) fn end_admitting(&mut self, fx: &mut Effects) {
        self.admitting -= 1;
        if self.admitting == 0 {
            fx.supervisor = true;
            if self.len() == 0 {
                self.release_keeper(fx);
            }
        }
    }

    /// The keeper stayed for the tasks' sake: from now on it ages like any other.
    fn release_keeper(&mut self, fx: &mut Effects) {
        if let Some(keeper) = self.keeper {
            self.remove_idle(keeper);
            self.give_token(keeper, fx);
        }
    }

    /// Counts `task`. From here on it is live.
    pub(crate) fn accept(&mut self, task: &Task<'a, Meta>, now: Moment) -> TaskId {
        let id = TaskId(self.next_id);
        self.next_id += 1;
        task.record.accept(id, now);
        match task.record.kind {
            Kind::Once => self.once += 1,
            Kind::Loop => self.loops += 1,
        }
        self.pending += 1;
        if task.needs_supervisor() {
            self.needing += 1;
            self.watched += usize::from(task.is_watched());
        }
        id
    }

    /// Lets an accepted task wait for its time, or for a thread. Given back if a shutdown has given up all
    /// that is not running: who has it in hand ends it then.
    pub(crate) fn enter(
        &mut self,
        task: Task<'a, Meta>,
        now: Moment,
        by_worker: bool,
        fx: &mut Effects,
    ) -> Result<(), Task<'a, Meta>> {
        if self.abandoned {
            self.note_given_up(&task, now);
            self.started(fx);
            return Err(task);
        }
        let delay = task.luggage.as_ref().and_then(|luggage| luggage.delay);
        match delay {
            Some(delay) if !(self.cancelled || self.closed && task.record.kind == Kind::Loop) => {
                self.wait_until(task.record.accepted().after(delay), task, Wait::Delay, fx);
            }
            _ => {
                self.push(task);
                self.spread(now, by_worker, fx);
            }
        }
        Ok(())
    }

    fn push(&mut self, task: Task<'a, Meta>) {
        self.queue.push(|place| {
            task.record.job.placed(place);
            Due { twin: Arc::clone(&task.record), task }
        });
        if self.lingering > 0 {
            self.hint.store(true, Ordering::Release);
        }
    }

    fn wait_until(&mut self, until: Moment, task: Task<'a, Meta>, wait: Wait, fx: &mut Effects) {
        let first = self.timers.first_key_value().is_none_or(|((first, _), _)| until < *first);
        self.timers.insert((until, task.record.id()), (task, wait));
        fx.supervisor |= first;
    }

    // -- submitters that wait for room --------------------------------------------------------------------

    pub(crate) fn block(&mut self) {
        self.blocked += 1;
    }

    /// A blocked submitter looks whether there is a place for it. One by one: whoever comes first.
    pub(crate) fn claim(&mut self) -> bool {
        let claims = self.offered > 0;
        if claims {
            self.offered -= 1;
            self.blocked -= 1;
            self.claimed += 1;
        }
        claims
    }

    /// A blocked submitter goes away without a place.
    pub(crate) fn unblock(&mut self) {
        self.blocked -= 1;
    }

    /// A submitter that had claimed a place has been accepted, or goes away: then the next may have it.
    pub(crate) fn unclaim(&mut self, fx: &mut Effects) {
        self.claimed -= 1;
        self.room(fx);
    }

    /// Hands a free place to a blocked submitter, if there are both.
    fn room(&mut self, fx: &mut Effects) {
        if self.blocked > self.offered && !self.is_full() {
            self.offered += 1;
            fx.room += 1;
        }
    }

    fn started(&mut self, fx: &mut Effects) {
        self.pending -= 1;
        self.room(fx);
    }

    // -- growth -------------------------------------------------------------------------------------------

    fn can_start(&self, now: Moment) -> bool {
        self.threads_and_starts() < self.limits.max_threads && now >= self.refused.until
    }

    /// After a task has entered the queue: sees to it that a thread will take it.
    ///
    /// It is left to the workers that are awake while they were at the queue only microseconds ago and the
    /// supervisor watches; otherwise the idle worker that went idle last is told, or a thread started.
    fn spread(&mut self, now: Moment, by_worker: bool, fx: &mut Effects) {
        if self.coming() >= self.queue.len() {
            return;
        }
        if self.limits.policy == Policy::ThreadPerTask {
            return self.spread_fresh(now, fx);
        }
        let growable = !self.idle.is_empty() || self.threads_and_starts() < self.limits.max_threads;
        if !growable {
            return;
        }
        if self.limits.may_leave && self.is_in_flow(now, by_worker) {
            if self.supervisor.alive {
                return self.arm(now, fx);
            }
            if self.wants_supervisor(now, fx) {
                return;
            }
        }
        self.tell_or_start(now, fx);
    }

    /// How many tasks have been taken since the last tick, or by others than a worker. What is out in a tray counts:
    /// only who turns over tiny tasks has one.
    fn takes(&self) -> u64 {
        self.queue.front() - self.front
    }

    /// The same by the core: more workers than that only take turns. Where no worker took any, others did.
    fn pace_since_tick(&self) -> u64 {
        self.takes().checked_div(self.takers.min(self.limits.cores as u64)).unwrap_or(0)
    }

    /// Do the workers run tiny tasks, and are there as many of them as can be of use? Then only a tick brings
    /// more: that one of them loses its core for a moment is no reason to.
    fn are_enough(&self, workers: u32) -> bool {
        let pace = self.pace.max(self.pace_since_tick());
        let enough = pace >= LOCK_BOUND || (pace >= TINY && workers as usize >= self.limits.cores);
        enough && workers > 0 && self.ticks()
    }

    /// Is the queue about to be looked at by workers that are awake, or on their way to it?
    fn is_in_flow(&self, now: Moment, by_worker: bool) -> bool {
        let recent = |moment, span| moment != Moment::START && now.since(moment) <= span;
        let idle = u32::try_from(self.idle.len()).unwrap_or(u32::MAX);
        let at_work = self.threads - idle - self.told - self.fresh - self.lingering - self.leaving;
        let awake = at_work + self.lingering;
        // A submitter that is a worker looks at nothing while it submits.
        let others = awake.saturating_sub(u32::from(by_worker));
        let on_their_way = self.starting + self.fresh + self.told;
        (others > 0 && recent(self.last_take, RECENT))
            // Here it counts: its task is tiny, to all appearance. If it waits for this one, a tick brings another.
            || self.are_enough(awake)
            || (on_their_way >= ENOUGH_CALLED && recent(self.last_call, CALL))
    }

    /// Asks for the supervisor for the sake of growth, unless it was refused a moment ago. What the submitter
    /// leaves to it is looked at again when its start is decided.
    fn wants_supervisor(&mut self, now: Moment, fx: &mut Effects) -> bool {
        let wants =
            !self.supervisor.alive && !self.supervisor.starting && now >= self.supervisor_refused.until;
        self.supervisor.starting |= wants;
        fx.start_supervisor |= wants;
        wants
    }

    fn tell_or_start(&mut self, now: Moment, fx: &mut Effects) {
        if self.tell(fx) {
            self.last_call = now;
        } else if self.threads_and_starts() >= self.limits.max_threads {
        } else if self.can_start(now) {
            self.last_call = now;
            let hand = self.reserve();
            fx.calls.push(Call::Start(hand));
        } else if self.supervisor.alive {
            // Refused a moment ago: the supervisor asks again.
            self.arm(now, fx);
        } else {
            self.wants_supervisor(now, fx);
        }
    }

    /// As `spread`, where each task gets a fresh thread: one that has taken a task before takes another only
    /// if no thread is to be had.
    fn spread_fresh(&mut self, now: Moment, fx: &mut Effects) {
        let unused = self.idle.last().is_some_and(|&hand| !self.hand(hand).worked);
        if !unused && self.can_start(now) {
            let hand = self.reserve();
            fx.calls.push(Call::Start(hand));
        } else {
            self.tell_or_start(now, fx);
        }
    }

    /// Is the supervisor to look at the backlog?
    fn ticks(&self) -> bool {
        self.tick_at != Moment::NEVER
    }

    fn arm(&mut self, now: Moment, fx: &mut Effects) {
        if self.calm > 0 {
            self.calm = 0;
        }
        if !self.ticks() {
            self.tick_at = now.after(TICK);
            (self.pace, self.steady) = (0, 0);
            self.begin_beat();
            fx.supervisor = true;
        }
    }

    fn begin_beat(&mut self) {
        self.call_in();
        self.beat += 1;
        self.takers = 0;
        (self.front, self.back) = (self.queue.front(), self.queue.back());
    }

    /// The supervisor's look at the backlog: as many threads more as tasks are stuck.
    fn tick(&mut self, now: Moment, fx: &mut Effects) {
        self.call_in();
        // They were there at the last tick, and still are.
        let stuck = self.back.saturating_sub(self.queue.front());
        let stuck = usize::try_from(stuck).unwrap_or(usize::MAX).min(self.queue.len());
        let each = self.takes().checked_div(self.takers).unwrap_or(0);
        // Workers that were busy and take nothing have lost their cores, or are blocked: the next tick tells.
        let faltered = each < BUSY && self.steady >= STEADY;
        self.steady = if each < BUSY { 0 } else { self.steady.saturating_add(1) };
        self.pace = self.pace_since_tick();
        let awake = self.threads_and_starts() - self.idle.len();
        let more = if stuck == 0 || faltered {
            0
        } else if each < BUSY {
            stuck.saturating_sub(self.coming()).min(self.threads().max(FIRST_GROWTH))
        } else {
            let alone = TICK.as_nanos() as u64 / ALONE;
            let helps = each < LOCK_BOUND || (each < alone && !self.idle.is_empty());
            usize::from(helps && awake < self.limits.cores)
        };
        let mut called = 0;
        while called < more.min(BATCH) {
            if !self.tell(fx) {
                if !self.can_start(now) {
                    break;
                }
                let hand = self.reserve();
                fx.calls.push(Call::Start(hand));
            }
            called += 1;
        }
        self.to_tell = more.saturating_sub(called).min(self.idle.len());
        self.calm = if self.queue.is_empty() { self.calm + 1 } else { 0 };
        let grows = !self.idle.is_empty() || self.threads_and_starts() < self.limits.max_threads;
        self.tick_at = if self.calm >= CALM || !grows {
            Moment::NEVER
        } else if called == BATCH && more > BATCH {
            now
        } else {
            now.after(TICK)
        };
        self.begin_beat();
    }

    // -- threads ------------------------------------------------------------------------------------------

    /// Reserves a thread that is to be started. It counts against the cap from now on.
    fn reserve(&mut self) -> usize {
        self.starting += 1;
        self.sit(Seat::Starting)
    }

    fn sit(&mut self, seat: Seat) -> usize {
        let hand = Hand {
            seat,
            worked: false,
            lingered: false,
            gathers_after: ENOUGH_TINY,
            gathering: None,
            beat: 0,
            took_at: Moment::START,
            passed: u64::MAX,
            ran: 1,
            quick: false,
            flows_since: Moment::NEVER,
            tiny: 0,
            thread: None,
            control: None,
            held: None,
        };
        if let Some(index) = self.free.pop() {
            self.slots[index].hand = Some(hand);
            index
        } else {
            self.slots.push(CachePadded::new(Slot { parker: Arc::default(), hand: Some(hand) }));
            self.slots.len() - 1
        }
    }

    fn hand(&self, index: usize) -> &Hand<'a, Meta> {
        self.slots[index].hand.as_ref().expect("a hand is asked for by its owner, while it has one")
    }

    fn hand_mut(&mut self, index: usize) -> &mut Hand<'a, Meta> {
        self.slots[index].hand.as_mut().expect("a hand is asked for by its owner, while it has one")
    }

    fn stand_up(&mut self, index: usize) {
        self.slots[index].hand = None;
        self.free.push(index);
        if self.free.len() == self.slots.len() {
            // The memory of a burst goes with the last of its threads.
            self.slots = Vec::new();
            self.free = Vec::new();
            self.idle = Vec::new();
            self.queue.shrink();
        }
    }

    /// The operating system has granted the thread of `hand`: it is alive.
    /// `instead`: of the worker of this hand, which leaves in the same step.
    pub(crate) fn granted(
        &mut self,
        hand: usize,
        thread: Arc<str>,
        instead: Option<usize>,
        now: Moment,
        fx: &mut Effects,
    ) {
        if let Some(predecessor) = instead {
            self.leave(predecessor, now, fx);
        }
        self.starting -= 1;
        self.threads += 1;
        self.fresh += 1;
        self.peak_threads = self.peak_threads.max(self.threads());
        self.refused.over();
        let seat = self.hand_mut(hand);
        seat.seat = Seat::Fresh;
        seat.thread = Some(thread);
        fx.calls.push(Call::Wake(Arc::clone(&self.slots[hand].parker)));
        fx.starts = true;
    }

    /// The operating system has refused the thread of `hand`.
    pub(crate) fn refused(&mut self, hand: usize, now: Moment, fx: &mut Effects) {
        self.starting -= 1;
        self.refused.again(now);
        self.stand_up(hand);
        // The workers at work are no longer all that there may be.
        self.call_in();
        fx.starts = true;
        // What was to be this thread's is looked at again: it goes to one that idles, or to those at work.
        if self.coming() < self.queue.len() {
            self.tell_or_start(now, fx);
        }
        fx.quiet = true;
    }

    /// Has the start of `hand` been decided? Until then its thread waits.
    pub(crate) fn is_starting(&self, hand: usize) -> bool {
        self.hand(hand).seat == Seat::Starting
    }

    pub(crate) fn parker(&self, hand: usize) -> Arc<Parker> {
        Arc::clone(&self.slots[hand].parker)
    }

    /// Gives the token to the worker that went idle last.
    fn tell(&mut self, fx: &mut Effects) -> bool {
        let hand = self.idle.pop();
        hand.inspect(|&hand| self.give_token(hand, fx)).is_some()
    }

    fn give_token(&mut self, hand: usize, fx: &mut Effects) {
        self.keeper = self.keeper.filter(|&keeper| keeper != hand);
        self.hand_mut(hand).seat = Seat::Told;
        self.told += 1;
        fx.calls.push(Call::Wake(Arc::clone(&self.slots[hand].parker)));
    }

    fn remove_idle(&mut self, hand: usize) {
        // The oldest stand at the bottom.
        let at = self.idle.iter().position(|&idle| idle == hand).expect("who is idle stands among the idle");
        self.idle.remove(at);
    }

    /// What the worker of `hand` does next. It has nothing in hand.
    pub(crate) fn next(&mut self, hand: usize, now: Moment, fx: &mut Effects) -> Next<'a, Meta> {
        match std::mem::replace(&mut self.hand_mut(hand).seat, Seat::Awake) {
            Seat::Fresh => self.fresh -= 1,
            Seat::Told => {
                self.told -= 1;
                self.pass_on(fx);
            }
            Seat::Lingering => self.lingering -= 1,
            _ => {}
        }
        if self.limits.policy == Policy::ThreadPerTask && self.hand(hand).worked && !self.queue.is_empty() {
            // A fresh thread takes the next task, unless none is to be had.
            if self.coming() >= self.queue.len() {
                return self.leave_or_park(hand, now);
            }
            if now >= self.refused.until {
                // On this one's seat: it takes nothing any more once its successor is alive.
                return Next::Successor(self.reserve());
            }
        }
        if self.steps_aside(now, fx) {
            return Next::Park(self.park(hand, now));
        }
        if self.gathers(hand) {
            return Next::Gather;
        }
        if let Some(Due { task, twin }) = self.take(hand, now, fx) {
            let order = self.order(&task, now);
            let plain = task.luggage.is_none() && order == Order::Run;
            let tray = if plain { self.take_tray(hand, now) } else { None };
            return Next::Take(task, twin, order, tray);
        }
        self.leave_or_park(hand, now)
    }

    /// A worker that was told comes. It tells another, if the last tick would have, and there is a task for it.
    fn pass_on(&mut self, fx: &mut Effects) {
        if self.to_tell > 0 && self.coming() + 1 < self.queue.len() && self.tell(fx) {
            self.to_tell -= 1;
        }
    }

    fn leave_or_park(&mut self, hand: usize, now: Moment) -> Next<'a, Meta> {
        let done = self.limits.policy == Policy::ThreadPerTask && self.hand(hand).worked;
        if self.is_over() || (done && !self.is_last()) {
            self.set_out(hand);
            return Next::Leave;
        }
        if self.lingering == 0 && self.limits.policy == Policy::Elastic && !self.hand(hand).lingered {
            // One is enough to spare the next submitter a wake-up.
            let seat = self.hand_mut(hand);
            seat.lingered = true;
            seat.seat = Seat::Lingering;
            self.lingering += 1;
            self.hint.store(false, Ordering::Relaxed);
            return Next::Linger;
        }
        Next::Park(self.park(hand, now))
    }

    pub(crate) fn hint(&self) -> Arc<AtomicBool> {
        Arc::clone(&self.hint)
    }

    /// Is this the last thread, while there is something live that a thread may yet be needed for?
    fn is_last(&self) -> bool {
        self.threads - self.leaving == 1 && (self.len() > 0 || self.admitting > 0) && !self.abandoned
    }

    fn park(&mut self, hand: usize, now: Moment) -> Moment {
        let seat = self.hand_mut(hand);
        seat.seat = Seat::Idle;
        // What it saw is out of date by the time that it comes back.
        seat.gathering = None;
        self.idle.push(hand);
        self.patience(hand, now)
    }

    fn patience(&mut self, hand: usize, now: Moment) -> Moment {
        if self.is_last() {
            self.keeper = Some(hand);
            Moment::NEVER
        } else {
            now.after(self.limits.keep_alive)
        }
    }

    /// Is the worker of `hand` still to wait for its token?
    pub(crate) fn is_idle(&self, hand: usize) -> bool {
        self.hand(hand).seat == Seat::Idle
    }

    /// The idle worker of `hand` has waited for as long as it was to.
    pub(crate) fn expire(&mut self, hand: usize, now: Moment) -> Expired {
        if self.is_last() && self.queue.is_empty() {
            return Expired::Stay(self.patience(hand, now));
        }
        self.remove_idle(hand);
        self.keeper = self.keeper.filter(|&keeper| keeper != hand);
        self.hand_mut(hand).seat = Seat::Awake;
        if !self.queue.is_empty() {
            return Expired::Work;
        }
        self.set_out(hand);
        Expired::Leave
    }

    /// The worker of `hand` is going to leave: nobody is to rely on it from here on.
    fn set_out(&mut self, hand: usize) {
        self.hand_mut(hand).seat = Seat::Leaving;
        self.leaving += 1;
    }

    /// The worker of `hand` is gone: the last thing it does under the lock.
    pub(crate) fn leave(&mut self, hand: usize, now: Moment, fx: &mut Effects) {
        self.threads -= 1;
        self.leaving -= u32::from(self.hand(hand).seat == Seat::Leaving);
        self.stand_up(hand);
        self.call_in();
        // What came while it left may have found the cap filled: its place is free now.
        if self.coming() < self.queue.len() {
            self.tell_or_start(now, fx);
        }
        // A submitter may have waited for its place.
        fx.starts = true;
        fx.quiet = true;
    }

    /// A thread that is no worker is to have a task in hand.
    pub(crate) fn guest(&mut self, thread: Option<Arc<str>>) -> usize {
        let hand = self.sit(Seat::Guest);
        self.hand_mut(hand).thread = thread;
        hand
    }

    pub(crate) fn guest_leaves(&mut self, hand: usize) {
        self.stand_up(hand);
    }

    // -- the way of a task --------------------------------------------------------------------------------

    fn take(&mut self, hand: usize, now: Moment, fx: &mut Effects) -> Option<Due<'a, Meta>> {
        self.call_in();
        let alone = self.hand(hand).passed == self.queue.front();
        let due = self.queue.pop()?;
        let passed = self.queue.front();
        self.last_take = now;
        let beat = self.beat;
        let taker = self.hand_mut(hand);
        taker.worked = true;
        taker.lingered = false;
        let (took, ran) = (now.nanos_since(taker.took_at), u64::from(taker.ran));
        taker.quick = took <= ALONE * ran;
        if took > TINY_TASK * ran {
            taker.flows_since = now;
        }
        let tiny = alone && took <= TINY_TASK * ran;
        taker.tiny = if tiny { taker.tiny.saturating_add(taker.ran) } else { 0 };
        (taker.took_at, taker.passed, taker.ran) = (now, passed, 1);
        if taker.beat != beat {
            taker.beat = beat;
            self.takers += 1;
        }
        if is_first(&due.task) {
            self.started(fx);
        }
        Some(due)
    }

    // -- trays --------------------------------------------------------------------------------------------

    /// Is a tray of use to the worker of `hand`, and can nobody be held up by it?
    fn may_take_tray(&self, hand: usize) -> bool {
        if self.hand(hand).tiny < ENOUGH_TINY {
            return false;
        }
        let limits = &self.limits;
        // The tick has it come in, or whoever of the others next comes to the queue.
        let watched =
            self.ticks() || (self.idle.is_empty() && self.threads_and_starts() >= limits.max_threads);
        // Each task that starts makes room for another, which is for those who wait to be told.
        let unbounded = limits.max_pending == usize::MAX;
        watched && unbounded && limits.may_leave && limits.policy == Policy::Elastic
    }

    /// Is the worker of `hand` to let more tasks come? One that has caught up with the submitters would meet them at
    /// the lock for each task from then on, unless they are on its own core. It goes on for as long as something comes.
    fn gathers(&mut self, hand: usize) -> bool {
        let few = self.queue.len() < BLOCK && self.limits.cores > 1 && !self.closed;
        let gathers = few && self.may_take_tray(hand);
        let back = self.queue.back();
        let seat = self.hand_mut(hand);
        let Some(Gathering { first, last, looks }) = seat.gathering.take() else {
            if gathers && seat.tiny >= seat.gathers_after {
                seat.gathering = Some(Gathering { first: back, last: back, looks: 0 });
            }
            return seat.gathering.is_some();
        };
        if gathers && back != last && looks < LOOKS {
            seat.gathering = Some(Gathering { first, last: back, looks: looks + 1 });
            return true;
        }
        if back.saturating_sub(first) >= FEWEST as u64 {
            seat.gathers_after = ENOUGH_TINY;
        } else {
            // They come from this worker itself, or from somebody who waits for each of them.
            seat.gathers_after = seat.gathers_after.saturating_mul(2).min(SELDOM);
            seat.tiny = 0;
        }
        false
    }

    /// Takes a tray of what comes next for the worker of `hand`.
    fn take_tray(&mut self, hand: usize, now: Moment) -> Option<Arc<Mutex<Tray<'a, Meta>>>> {
        if !self.may_take_tray(hand) {
            return None;
        }
        let due = self.queue.pop_batch(FEWEST)?;
        let tasks = due.len() as u64;
        self.last_take = Moment(now.0.saturating_add(TINY_TASK * tasks));
        let tray = Arc::new(Mutex::new(Tray::new(due, self.ticks())));
        let taker = self.hand(hand);
        let alone = taker.quick && now.since(taker.flows_since) >= FLOWS;
        // Who comes may have read its clock before this worker did.
        let alone_until = if alone { Moment(now.0.saturating_add(ALONE * tasks)) } else { Moment::START };
        self.tray = Some(Out { hand, alone_until, tray: Arc::clone(&tray) });
        Some(tray)
    }

    /// A worker that comes to the queue would only slow down another, which turns over a tray of tiny tasks: it is to
    /// go idle, and the tick, armed here, sees to it that it comes again, should the other be held up.
    fn steps_aside(&mut self, now: Moment, fx: &mut Effects) -> bool {
        let in_the_way = self.tray.as_ref().is_some_and(|out| now < out.alone_until);
        // It would come again at once if idle threads were not to stay.
        if !in_the_way || self.limits.keep_alive <= TICK {
            return false;
        }
        if !self.supervisor.alive {
            self.wants_supervisor(now, fx);
            return false;
        }
        self.arm(now, fx);
        self.tray.is_some()
    }

    /// Has the tray come in, if one is out: what was done with it is counted, and what was not begun is in the queue
    /// again, where it stood. Its worker finds it empty, and comes to the queue next.
    ///
    /// To be called before somebody learns more than whether anything is live, and before anything is taken out
    /// of the queue, be it by a worker: what waits in the tray is due before what stands in the queue.
    #[inline]
    pub(crate) fn call_in(&mut self) {
        if let Some(out) = self.tray.take() {
            self.settle(&out);
        }
    }

    fn settle(&mut self, out: &Out<'a, Meta>) {
        let mut tray = out.tray.lock();
        let (succeeded, failed) = (std::mem::take(&mut tray.succeeded), std::mem::take(&mut tray.failed));
        let (held, due) = (tray.held.take(), std::mem::take(&mut tray.due));
        drop(tray);
        let ended = succeeded + failed;
        self.succeeded += succeeded;
        self.failed += failed;
        // As many have started as have ended, since they follow each other.
        self.once -= ended as usize;
        self.pending -= ended as usize;
        let left = due.len() as u64;
        self.queue.put_back(due, |due, place| due.task.record.job.placed(place));
        // Nobody else has taken any since: it would have had the tray come in before.
        let passed = self.queue.front();
        let hand = self.hand_mut(out.hand);
        hand.passed = passed;
        debug_assert!(hand.held.is_none(), "what is in hand is listed in one place");
        hand.held = held.map(|record| Held { record, phase: None });
        hand.ran += ended as u32;
        if left > ended {
            // To put back costs what it saves to take at once: so its worker has to earn the next one again, and
            // whoever has it come in with each task does so for few of them.
            hand.tiny = 0;
        }
    }

    /// Takes the task with this id out of the queue, if it is there, to run it or to end it. Where it stands is
    /// looked up once the tray has come in.
    pub(crate) fn take_out(&mut self, place: u64, id: TaskId, fx: &mut Effects) -> Option<Task<'a, Meta>> {
        debug_assert!(self.tray.is_none(), "it may stand there");
        if self.queue.get(place)?.task.record.id() != id {
            return None;
        }
        let Due { task, .. } = self.queue.remove(place, |due, place| due.task.record.job.placed(place))?;
        // Gaps may have been closed: what comes at these places was not there at the last tick.
        self.back = self.back.min(self.queue.back());
        if is_first(&task) {
            self.started(fx);
        }
        Some(task)
    }

    pub(crate) fn order(&self, task: &Task<'a, Meta>, now: Moment) -> Order {
        // Without luggage it runs once, and has not been paused.
        let Some(luggage) = &task.luggage else {
            return if self.cancelled { Order::Cancel } else { Order::Run };
        };
        let paused = luggage.course.failure.is_some();
        match task.record.kind {
            _ if paused && (self.cancelled || now >= luggage.timeout_at()) => Order::GiveUp,
            Kind::Loop if self.closed && !paused => Order::EndLoop,
            Kind::Once if self.cancelled => Order::Cancel,
            _ => Order::Run,
        }
    }

    /// `hand` uses `control` from now on.
    pub(crate) fn sit_down(&mut self, hand: usize, control: Arc<Control>) {
        self.hand_mut(hand).control = Some(control);
    }

    /// Lists what `hand` has in hand. `watch`: when its attempt is to be looked at for a stall.
    #[inline]
    pub(crate) fn hold(
        &mut self,
        hand: usize,
        record: Arc<Record<'a, Meta>>,
        phase: Option<Phase>,
        watch: Moment,
        fx: &mut Effects,
    ) {
        match &self.tray {
            Some(out) if out.hand == hand => out.tray.lock().held = Some(record),
            _ => self.hand_mut(hand).held = Some(Held { record, phase }),
        }
        if let Some(phase) = phase {
            *self.held_back.of(phase) += 1;
        }
        if watch < self.stall_at {
            self.stall_at = watch;
            fx.supervisor = true;
        }
    }

    /// `hand` keeps its task while that waits: `inline` sleeps in its stead.
    pub(crate) fn set_phase(&mut self, hand: usize, phase: Phase) {
        let Some(held) = &mut self.hand_mut(hand).held else { return };
        if held.phase.replace(phase).is_none() {
            *self.held_back.of(phase) += 1;
        }
    }

    /// `hand` has let go of its task.
    #[must_use]
    pub(crate) fn let_go(&mut self, hand: usize) -> Parting<'a, Meta> {
        let Held { record, phase } = self.hand_mut(hand).held.take()?;
        if let Some(phase) = phase {
            *self.held_back.of(phase) -= 1;
        }
        Some(record)
    }

    /// The task in `hand` has ended.
    #[must_use]
    pub(crate) fn finish(&mut self, hand: usize, ended: &Ended, fx: &mut Effects) -> Parting<'a, Meta> {
        if self.tray.as_ref().is_some_and(|out| out.hand == hand) {
            self.call_in();
        }
        let record = self.let_go(hand);
        self.end(ended, fx);
        record
    }

    pub(crate) fn tally(&mut self, tally: Tally) {
        match tally {
            Tally::Succeeded => self.succeeded += 1,
            Tally::Failed => self.failed += 1,
            Tally::Silent => {}
        }
    }

    fn end(&mut self, ended: &Ended, fx: &mut Effects) {
        self.tally(ended.tally);
        match ended.kind {
            Kind::Once => self.once -= 1,
            Kind::Loop => self.loops -= 1,
        }
        if ended.needs_supervisor {
            self.needing -= 1;
            fx.supervisor |= self.needing == 0;
        }
        if ended.watched {
            self.watched -= 1;
            fx.dismiss |= self.watched == 0;
        }
        if self.waited_for() == 0 {
            self.quiet += 1;
            fx.quiet = true;
        }
        if self.len() == 0 {
            if self.admitting == 0 {
                self.release_keeper(fx);
            }
            self.look_over(fx);
        }
    }

    /// A task that has been accepted and has not started is not going to be: who has it in hand ends it.
    pub(crate) fn give_up_start(&mut self, fx: &mut Effects) {
        self.started(fx);
    }

    /// Between two attempts, or two iterations: the task in `hand` waits, unless no pause may begin.
    pub(crate) fn pause(
        &mut self,
        hand: usize,
        task: Task<'a, Meta>,
        pause: Pause,
        now: Moment,
        fx: &mut Effects,
    ) -> Result<Parting<'a, Meta>, (Task<'a, Meta>, Refusal)> {
        let Pause { until, wait, tally } = pause;
        self.tally(tally);
        if let Some(refusal) = self.refuses_pause(task.record.kind, wait) {
            if refusal == Refusal::Abandoned {
                self.note_given_up(&task, now);
            }
            return Err((task, refusal));
        }
        let record = self.let_go(hand);
        if until <= now {
            self.push(task.due_at(now));
            // The worker itself is on its way to the queue.
            if self.hand(hand).seat == Seat::Guest {
                self.spread(now, false, fx);
            } else {
                self.spread_beyond_one(now, fx);
            }
        } else {
            self.wait_until(until, task, wait, fx);
        }
        Ok(record)
    }

    /// How a task that its submitter has in hand, between two attempts, is to end after an abandonment.
    pub(crate) fn gives_up(&mut self, task: &Task<'a, Meta>, now: Moment) -> Option<Refusal> {
        let refusal = self.refuses_pause(task.record.kind, Wait::Delay);
        if refusal == Some(Refusal::Abandoned) {
            self.note_given_up(task, now);
        }
        refusal
    }

    /// May a pause begin? (Asked again where it is to begin: `inline` keeps its task in hand.)
    pub(crate) fn refuses_pause(&self, kind: Kind, wait: Wait) -> Option<Refusal> {
        match wait {
            _ if self.abandoned && kind == Kind::Once => Some(Refusal::Abandoned),
            _ if self.abandoned || self.cancelled => Some(Refusal::Ends),
            Wait::Iteration if self.closed => Some(Refusal::Ends),
            _ => None,
        }
    }

    fn spread_beyond_one(&mut self, now: Moment, fx: &mut Effects) {
        if self.queue.len() > 1 {
            self.spread(now, true, fx);
        }
    }

    // -- the supervisor -----------------------------------------------------------------------------------

    /// Everything that is due: timers into the queue, the tick, stalls. Answers when to look again; `None`,
    /// when the supervisor is to leave. `rings`: which attempts have a notice for the notifier.
    pub(crate) fn supervise(
        &mut self,
        now: Moment,
        fx: &mut Effects,
        rings: &mut Vec<(usize, TaskId)>,
    ) -> Option<Moment> {
        let mut ripe = Vec::new();
        while let Some(entry) = self.timers.first_entry() {
            if entry.key().0 > now {
                break;
            }
            let ((due, _), (task, _)) = entry.remove_entry();
            ripe.push(task.due_at(due));
        }
        self.push_all(ripe.into_iter(), now, fx);
        if now >= self.tick_at {
            self.tick(now, fx);
        }
        if now >= self.stall_at {
            self.examine(now, rings);
        }
        let timer = self.timers.first_key_value().map_or(Moment::NEVER, |((first, _), _)| *first);
        let next = timer.min(self.tick_at).min(self.stall_at);
        if !self.is_over() && (self.needing > 0 || self.admitting > 0) {
            self.supervisor_idle = None;
            return Some(next);
        }
        if self.is_over() {
            return None;
        }
        if self.ticks() {
            self.supervisor_idle = None;
            return Some(next);
        }
        let idle_since = *self.supervisor_idle.get_or_insert(now);
        let until = idle_since.after(self.limits.keep_alive);
        (now < until).then_some(next.min(until))
    }

    fn examine(&mut self, now: Moment, rings: &mut Vec<(usize, TaskId)>) {
        self.stall_at = Moment::NEVER;
        for (index, slot) in self.slots.iter().enumerate() {
            let Some((_, control)) = slot.hand.as_ref().and_then(Hand::in_hand) else { continue };
            let (line, rang) = control.examine(now);
            self.stall_at = self.stall_at.min(line);
            if rang {
                rings.push((index, control.id()));
            }
        }
    }

    pub(crate) fn supervisor_leaves(&mut self, fx: &mut Effects) {
        debug_assert!(self.tray.is_none() || !self.ticks(), "what ticks for a tray stays");
        self.supervisor = Helper::default();
        self.supervisor_idle = None;
        self.tick_at = Moment::NEVER;
        fx.quiet = true;
        fx.starts = true;
    }

    /// The supervisor's thread was granted. It does not leave before it has looked.
    pub(crate) fn supervisor_lives(&mut self, now: Moment, fx: &mut Effects) {
        self.supervisor.alive = true;
        self.supervisor.starting = false;
        self.supervisor_refused.over();
        self.supervisor_idle = None;
        if !self.queue.is_empty() {
            self.arm(now, fx);
        }
        fx.supervisor = true;
        fx.starts = true;
    }

    /// The supervisor's thread was refused. What was to be left to its care goes to a worker at once.
    pub(crate) fn supervisor_refused(&mut self, now: Moment, fx: &mut Effects) {
        self.supervisor.starting = false;
        self.supervisor_refused.again(now);
        if self.coming() < self.queue.len() {
            self.tell_or_start(now, fx);
        }
        fx.starts = true;
        fx.quiet = true;
    }

    // -- the notifier -------------------------------------------------------------------------------------

    /// Is the notifier to be started now?
    pub(crate) fn wants_notifier(&mut self, now: Moment) -> bool {
        let wants = self.watched > 0
            && !self.notifier.alive
            && !self.notifier.starting
            && now >= self.notifier_refused.until;
        self.notifier.starting |= wants;
        wants
    }

    pub(crate) fn notifier_lives(&mut self, fx: &mut Effects) {
        fx.starts = true;
        self.notifier = Helper { alive: true, starting: false };
        self.notifier_refused.over();
    }

    pub(crate) fn notifier_refused(&mut self, now: Moment, fx: &mut Effects) {
        self.notifier.starting = false;
        self.notifier_refused.again(now);
        // The supervisor asks again; meanwhile a task that ends delivers its notices itself.
        self.stall_at = self.stall_at.min(self.notifier_refused.until);
        fx.supervisor = true;
        fx.quiet = true;
    }

    /// Is there nothing left that a notice could come from?
    pub(crate) fn notifier_may_leave(&self) -> bool {
        self.watched == 0 || self.len() == 0
    }

    pub(crate) fn notifier_leaves(&mut self, fx: &mut Effects) {
        self.notifier = Helper::default();
        fx.quiet = true;
    }

    /// The attempt of `id` in `hand`, if it is still there.
    pub(crate) fn holding(&self, hand: usize, id: TaskId) -> Option<(Arc<Record<'a, Meta>>, Arc<Control>)> {
        let (held, control) = self.slots.get(hand)?.hand.as_ref()?.in_hand()?;
        (control.id() == id).then(|| (Arc::clone(&held.record), Arc::clone(control)))
    }

    /// The control of the task `id`, if some thread has it in hand.
    pub(crate) fn control_of(&self, id: TaskId) -> Option<Arc<Control>> {
        self.slots
            .iter()
            .filter_map(|slot| slot.hand.as_ref()?.in_hand())
            .find(|(held, _)| held.record.id() == id)
            .map(|(_, control)| Arc::clone(control))
    }

    /// Is the task `id` in one of `hands`?
    pub(crate) fn is_in_one_of(&self, hands: &[usize], id: TaskId) -> bool {
        hands.iter().any(|&hand| {
            let held = self.slots.get(hand).and_then(|slot| slot.hand.as_ref()?.held.as_ref());
            held.is_some_and(|held| held.record.id() == id)
        })
    }

    // -- listing and shutdown -----------------------------------------------------------------------------

    /// All live tasks, oldest first.
    pub(crate) fn tasks(&self, now: Moment) -> Vec<TaskInfo<'a, Meta>> {
        let mut tasks = Vec::with_capacity(self.len());
        tasks.extend(self.queue.iter().map(|due| waiting(&due.task, Phase::Queued, now)));
        tasks.extend(self.timers.values().map(|(task, _)| waiting(task, Phase::Delayed, now)));
        tasks.extend(self.doomed.iter().map(|task| waiting(task, Phase::Queued, now)));
        for hand in self.slots.iter().filter_map(|slot| slot.hand.as_ref()) {
            tasks.extend(
                hand.in_hand().map(|(held, control)| in_hand(held, control, hand.thread.as_ref(), now)),
            );
        }
        tasks.sort_unstable_by_key(TaskInfo::id);
        tasks
    }

    /// A shutdown begins. Answers from where on `given_up` is its concern.
    pub(crate) fn begin_shutdown(&mut self) -> usize {
        self.shutdowns += 1;
        self.given_up.len()
    }

    /// Gives up what no thread has in hand, and names it together with everything else that is live, and with
    /// what other shutdowns gave up since this one began.
    pub(crate) fn abandon(&mut self, since: usize, now: Moment, fx: &mut Effects) -> Vec<TaskInfo<'a, Meta>> {
        self.call_in();
        let mut tasks = self.tasks(now);
        let live: HashSet<TaskId> = tasks.iter().map(TaskInfo::id).collect();
        tasks.extend(self.given_up[since..].iter().filter(|task| !live.contains(&task.id())).cloned());
        tasks.sort_unstable_by_key(TaskInfo::id);
        self.abandoned |= !live.is_empty();
        let queued = self.queue.drain().map(|due| (due.task, Phase::Queued));
        let delayed = std::mem::take(&mut self.timers).into_values().map(|(task, _)| (task, Phase::Delayed));
        for (task, phase) in queued.chain(delayed) {
            self.pending -= usize::from(is_first(&task));
            self.given_up.push(waiting(&task, phase, now));
            self.doomed.push_back(task);
        }
        self.look_over(fx);
        tasks
    }

    /// A task that somebody has in hand is to be ended as given up: other shutdowns under way are to name it.
    fn note_given_up(&mut self, task: &Task<'a, Meta>, now: Moment) {
        if self.shutdowns > 0 {
            self.given_up.push(waiting(task, Phase::Queued, now));
        }
    }

    /// Was anything given up since `since`?
    pub(crate) fn gave_up(&self, since: usize) -> bool {
        self.given_up.len() > since
    }

    /// A clone of each task that was given up and has not been ended, for the handles to be answered.
    pub(crate) fn doomed(&self) -> Vec<Arc<Record<'a, Meta>>> {
        self.doomed.iter().map(|task| Arc::clone(&task.record)).collect()
    }

    /// The next of them to be ended.
    pub(crate) fn take_doomed(&mut self) -> Option<Task<'a, Meta>> {
        self.doomed.pop_front()
    }

    /// A shutdown returns. What it returns owns tasks, and is dropped without the lock.
    #[must_use]
    pub(crate) fn end_shutdown(&mut self, named: bool, fx: &mut Effects) -> Vec<TaskInfo<'a, Meta>> {
        self.shutdowns -= 1;
        self.named |= named;
        fx.quiet |= named;
        if self.shutdowns == 0 { std::mem::take(&mut self.given_up) } else { Vec::new() }
    }
}

/// What the count needs to know of a task that has ended.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Ended {
    pub(crate) kind: Kind,
    pub(crate) needs_supervisor: bool,
    pub(crate) watched: bool,
    pub(crate) tally: Tally,
}

/// Has it not been started yet? Only what has luggage can be started more than once.
fn is_first<Meta>(task: &Task<'_, Meta>) -> bool {
    task.luggage.as_ref().is_none_or(|_| task.record.attempt() == 0)
}

fn waiting<'a, Meta>(task: &Task<'a, Meta>, phase: Phase, now: Moment) -> TaskInfo<'a, Meta> {
    let sight = Sight {
        phase,
        age: now.since(task.record.accepted()),
        running_for: Duration::ZERO,
        attempt: task.record.attempt(),
        thread: None,
        progress: task.luggage.as_ref().and_then(|luggage| luggage.course.note.clone()),
    };
    TaskInfo { record: Arc::clone(&task.record), sight }
}

fn in_hand<'a, Meta>(
    held: &Held<'a, Meta>,
    control: &Control,
    thread: Option<&Arc<str>>,
    now: Moment,
) -> TaskInfo<'a, Meta> {
    let running = if control.is_cancelling() { Phase::Cancelling } else { Phase::Running };
    let age = now.since(held.record.accepted());
    let sight = Sight {
        phase: held.phase.unwrap_or(running),
        age,
        // Its worker may be about to say when it began, and the clock has moved on.
        running_for: control.running_for().min(age),
        attempt: control.attempt(),
        // Only who runs it is named: a submitter that still has it in hand does not.
        thread: thread.filter(|_| held.phase.is_none()).cloned(),
        progress: control.note(),
    };
    TaskInfo { record: Arc::clone(&held.record), sight }
}

#[cfg(test)]
mod tests;
