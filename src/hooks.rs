//! Hooks and `carry`: how they are kept, and how they are called.
//!
//! The set of hooks is copied when one is added, so that whoever calls them holds a set that nobody changes.
//! Workers keep the set that they used last, and look at a version number before they use it again.

use std::marker::PhantomData;
use std::time::Duration;

use crate::context::Context;
use crate::core::unwind::{self, Panic};
use crate::error::{Reason, TaskError};
use crate::sync::{Arc, AtomicBool, AtomicU64, Mutex, Ordering};

type Hook<'a, Meta> = Arc<dyn Fn(&Context, &Meta) + Send + Sync + 'a>;
type FailedHook<'a, Meta> = Arc<dyn Fn(&Context, &Meta, &TaskError) + Send + Sync + 'a>;
type StallHook<'a, Meta> = Arc<dyn Fn(&Context, &Meta, Duration) + Send + Sync + 'a>;
type RetriedHook<'a, Meta> = Arc<dyn Fn(&Context, &Meta, &TaskError, u32) + Send + Sync + 'a>;
type RejectedHook<'a, Meta> = Arc<dyn Fn(&Meta, &Reason) + Send + Sync + 'a>;

/// All hooks of a manager, in the order in which they were added.
pub(crate) struct Hooks<'a, Meta> {
    pub(crate) added: Vec<Hook<'a, Meta>>,
    pub(crate) succeeded: Vec<Hook<'a, Meta>>,
    pub(crate) failed: Vec<FailedHook<'a, Meta>>,
    pub(crate) stalled: Vec<StallHook<'a, Meta>>,
    pub(crate) recovered: Vec<StallHook<'a, Meta>>,
    pub(crate) retried: Vec<RetriedHook<'a, Meta>>,
    pub(crate) carriers: Vec<Arc<dyn Carrier<'a, Meta> + 'a>>,
    // What `observe` is told beyond these: there is no verb for it.
    /// Before each attempt, on the thread that runs it, within what was carried along.
    pub(crate) started: Vec<Hook<'a, Meta>>,
    /// On the submitter's thread. They outlive the others, since a manager that is over rejects all the more.
    pub(crate) rejected: Vec<RejectedHook<'a, Meta>>,
}

impl<Meta> Default for Hooks<'_, Meta> {
    fn default() -> Self {
        Hooks {
            added: Vec::new(),
            succeeded: Vec::new(),
            failed: Vec::new(),
            stalled: Vec::new(),
            recovered: Vec::new(),
            retried: Vec::new(),
            carriers: Vec::new(),
            started: Vec::new(),
            rejected: Vec::new(),
        }
    }
}

impl<Meta> Clone for Hooks<'_, Meta> {
    fn clone(&self) -> Self {
        Hooks {
            added: self.added.clone(),
            succeeded: self.succeeded.clone(),
            failed: self.failed.clone(),
            stalled: self.stalled.clone(),
            recovered: self.recovered.clone(),
            retried: self.retried.clone(),
            carriers: self.carriers.clone(),
            started: self.started.clone(),
            rejected: self.rejected.clone(),
        }
    }
}

/// Calls each of `hooks`; answers how many panicked. One that does keeps none of the others from their turn.
pub(crate) fn call_each<H>(hooks: &[H], mut call: impl FnMut(&H)) -> u64 {
    hooks.iter().map(|hook| unwind::catch(|| call(hook)).map_or(1, |()| 0)).sum()
}

/// Where the hooks of a manager stand.
pub(crate) struct Shelf<'a, Meta> {
    /// Moves with each change, so that a copy is known to be the newest without a lock.
    version: AtomicU64,
    /// Is there anything to be done on the submitter's thread?
    at_submit: AtomicBool,
    stock: Mutex<Stock<'a, Meta>>,
}

struct Stock<'a, Meta> {
    hooks: Arc<Hooks<'a, Meta>>,
    /// The manager was closed and empty: there will be no more tasks to call them for.
    over: bool,
}

impl<Meta> Default for Shelf<'_, Meta> {
    fn default() -> Self {
        Shelf {
            version: AtomicU64::new(1),
            at_submit: AtomicBool::new(false),
            stock: Mutex::new(Stock { hooks: Arc::default(), over: false }),
        }
    }
}

impl<'a, Meta> Shelf<'a, Meta> {
    /// Adds what `add` adds; the closure moves a hook, and runs none of the user's code. Handed back where
    /// nothing will be called any more.
    pub(crate) fn add<F: FnOnce(&mut Hooks<'a, Meta>)>(&self, add: F) -> Option<F> {
        let mut stock = self.stock.lock();
        if stock.over {
            return Some(add);
        }
        let mut new = Hooks::clone(&stock.hooks);
        add(&mut new);
        self.at_submit.store(!new.added.is_empty() || !new.carriers.is_empty(), Ordering::Release);
        // The old set shares all its hooks with the new one, so that dropping it here drops none of them.
        stock.hooks = Arc::new(new);
        self.version.fetch_add(1, Ordering::Release);
        None
    }

    #[inline]
    pub(crate) fn at_submit(&self) -> bool {
        self.at_submit.load(Ordering::Acquire)
    }

    /// Takes all hooks away for good, but those for rejections. Who calls this drops them, as a call-out.
    pub(crate) fn clear(&self) -> Arc<Hooks<'a, Meta>> {
        let mut stock = self.stock.lock();
        stock.over = true;
        let left = Hooks { rejected: stock.hooks.rejected.clone(), ..Hooks::default() };
        let hooks = std::mem::replace(&mut stock.hooks, Arc::new(left));
        drop(stock);
        self.version.fetch_add(1, Ordering::Release);
        self.at_submit.store(false, Ordering::Release);
        hooks
    }

    /// The hooks as they are now. Who calls this drops them, as a call-out.
    pub(crate) fn hooks(&self) -> Arc<Hooks<'a, Meta>> {
        Arc::clone(&self.stock.lock().hooks)
    }
}

/// A copy of the hooks, as of the last look.
pub(crate) struct Copy<'a, Meta> {
    version: u64,
    hooks: Arc<Hooks<'a, Meta>>,
}

impl<Meta> Default for Copy<'_, Meta> {
    fn default() -> Self {
        Copy { version: 0, hooks: Arc::default() }
    }
}

impl<'a, Meta> Copy<'a, Meta> {
    /// The hooks as they are now.
    #[inline]
    pub(crate) fn now(&mut self, shelf: &Shelf<'a, Meta>) -> &Arc<Hooks<'a, Meta>> {
        if self.version != shelf.version.load(Ordering::Acquire) {
            let stock = shelf.stock.lock();
            self.version = shelf.version.load(Ordering::Acquire);
            let new = Arc::clone(&stock.hooks);
            drop(stock);
            self.hooks = new;
        }
        &self.hooks
    }
}

// -- carry ------------------------------------------------------------------------------------------------

/// One `carry` of the user's: makes, on the submitter's thread, what is entered on the worker's.
pub(crate) trait Carrier<'a, Meta>: Send + Sync {
    fn capture(&self, meta: &Meta) -> Box<dyn Carried + 'a>;
}

/// What was captured for one task.
pub(crate) trait Carried: Send + Sync {
    fn enter(&self) -> Box<dyn Guard + '_>;
}

/// Anything at all, kept to be dropped.
pub(crate) trait Guard {}
impl<G> Guard for G {}

pub(crate) struct Carry<P, E, C, G> {
    capture: P,
    enter: Arc<E>,
    types: PhantomData<fn() -> (C, G)>,
}

impl<P, E, C, G> Carry<P, E, C, G> {
    pub(crate) fn new(capture: P, enter: E) -> Self {
        Carry { capture, enter: Arc::new(enter), types: PhantomData }
    }
}

impl<'a, Meta, P, E, C, G> Carrier<'a, Meta> for Carry<P, E, C, G>
where
    P: Fn(&Meta) -> C + Send + Sync,
    E: Fn(&C) -> G + Send + Sync + 'a,
    C: Send + 'a,
    G: 'a,
{
    fn capture(&self, meta: &Meta) -> Box<dyn Carried + 'a> {
        let captured = Captured {
            enter: Arc::clone(&self.enter),
            capture: Mutex::new(Some((self.capture)(meta))),
            types: PhantomData::<fn() -> G>,
        };
        Box::new(captured)
    }
}

struct Captured<E, C, G> {
    /// Only ever lent: a task that is handed around is `Sync`, what was captured need not be.
    capture: Mutex<Option<C>>,
    enter: Arc<E>,
    types: PhantomData<fn() -> G>,
}

impl<E, C, G> Carried for Captured<E, C, G>
where
    E: Fn(&C) -> G + Send + Sync,
    C: Send,
{
    fn enter(&self) -> Box<dyn Guard + '_> {
        Box::new(self.capture.lend(|capture| (self.enter)(capture)))
    }
}

/// Guards of one attempt, dropped in the reverse order of their making.
#[derive(Default)]
pub(crate) struct Guards<'c>(Vec<Box<dyn Guard + 'c>>);

impl<'c> Guards<'c> {
    /// Enters all that was carried; the first panic ends it, and what was entered before stays so.
    pub(crate) fn enter(&mut self, carried: &'c [Box<dyn Carried + '_>]) -> Result<(), Panic> {
        for carried in carried {
            self.0.push(unwind::catch(|| carried.enter())?);
        }
        Ok(())
    }

    /// Leaves them all; answers how many panicked.
    pub(crate) fn leave(&mut self) -> u64 {
        std::iter::from_fn(|| self.0.pop()).map(|guard| unwind::catch(|| drop(guard)).map_or(1, |()| 0)).sum()
    }
}
