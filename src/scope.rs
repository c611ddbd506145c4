//! Tasks that borrow: the same executor on `std::thread::scope`.

use std::fmt;
use std::marker::PhantomData;
use std::panic::{RefUnwindSafe, UnwindSafe};

use crate::builder::Builder;
use crate::core::Core;
use crate::scoped::{Handle, Rejected, Task, TaskInfo, Unfinished};
use crate::sync::Arc;
use crate::verbs::verbs;

/// Runs `f` with a scope whose tasks may borrow from the surrounding frame, and returns its value once they
/// have all ended.
///
/// `std::thread::scope` with a pool, counting, hooks and errors: where that starts a thread for each closure,
/// tasks here share threads. The threads are started for the scope and end with it, so a scope costs a few
/// tens of microseconds for each thread; for fine-grained work over data, and for scopes that are opened many
/// times a second, `rayon` is the better tool. [`Builder::scope`] takes settings, as for a manager.
///
/// The scope ends when `f` has returned or unwound and its one-off tasks, with those that they started, are
/// gone; then it closes, so that its loops end. If `f` panicked, that panic goes on afterwards.
///
/// ```
/// let words = ["tea", "coffee", "cocoa"];
/// let longest = std::sync::atomic::AtomicUsize::new(0);
/// inflight::scope(|s| {
///     for word in &words {
///         let longest = &longest;
///         s.run(*word, move |_cx| {
///             longest.fetch_max(word.len(), std::sync::atomic::Ordering::Relaxed);
///             Ok(())
///         })
///         .expect("the scope is open");
///     }
/// });
/// assert_eq!(longest.into_inner(), 6);
/// ```
///
/// What a task borrows must outlive the scope:
///
/// ```compile_fail,E0597
/// inflight::scope(|s| {
///     let inner = String::from("gone too early");
///     let inner = &inner;
///     s.run((), move |_cx| Ok(println!("{inner}"))).expect("the scope is open");
/// });
/// ```
///
/// Nor may two tasks change the same thing:
///
/// ```compile_fail,E0499
/// let mut n = 0;
/// inflight::scope(|s| {
///     for _ in 0..2 {
///         s.run((), |_cx| Ok(n += 1)).expect("the scope is open");
///     }
/// });
/// ```
///
/// What a task takes along is sent to another thread:
///
/// ```compile_fail,E0277
/// inflight::scope(|s| {
///     let shared = std::rc::Rc::new(1);
///     s.run((), move |_cx| Ok(drop(shared))).expect("the scope is open");
/// });
/// ```
///
/// A handle does not outlive the scope, and the scope cannot be carried out of its closure:
///
/// ```compile_fail
/// let handle = inflight::scope(|s| s.spawn((), |_cx| Ok(1)).expect("the scope is open"));
/// ```
///
/// ```compile_fail,E0521
/// let mut stolen = None;
/// inflight::scope(|s: &inflight::Scope<'_, '_, ()>| stolen = Some(s.clone()));
/// ```
///
/// # Panics
/// If `f` panics, with the same payload, once all tasks have ended.
pub fn scope<'env, Meta, F, R>(f: F) -> R
where
    Meta: Send + Sync + 'env,
    F: for<'scope> FnOnce(&Scope<'scope, 'env, Meta>) -> R,
{
    Builder::new().scope(f).expect("the default settings make sense")
}

/// A manager whose tasks may borrow what outlives it: what [`scope()`] hands to its closure.
///
/// `std::thread::Scope` with the verbs of a [`Manager`](crate::Manager). It is `Clone`: a task that starts
/// tasks captures a clone. There is no thread before the first task.
///
/// A task's `Rejected` borrows, too, so that `?` cannot make a `BoxError` of it. Inside a scoped task, say
/// what is to become of what was rejected, for example by running it right there:
///
/// ```
/// let numbers = [1, 2, 3, 4];
/// let sum = std::sync::atomic::AtomicU32::new(0);
/// inflight::scope(|s| {
///     let inner = s.clone();
///     let (numbers, sum) = (&numbers, &sum);
///     s.run("all", move |_cx| {
///         for half in numbers.chunks(2) {
///             let add = move |_cx: &inflight::Context| {
///                 sum.fetch_add(half.iter().sum(), std::sync::atomic::Ordering::Relaxed);
///                 Ok(())
///             };
///             inner.run("half", add).map(drop).or_else(|rejected| rejected.run_here())?;
///         }
///         Ok(())
///     })
///     .expect("the scope is open");
/// });
/// assert_eq!(sum.into_inner(), 10);
/// ```
pub struct Scope<'scope, 'env: 'scope, Meta> {
    core: Arc<Core<'scope, Meta>>,
    /// Neither longer nor shorter than the frame that it borrows from.
    env: PhantomData<fn(&'env ()) -> &'env ()>,
}

impl<Meta> UnwindSafe for Scope<'_, '_, Meta> {}
impl<Meta> RefUnwindSafe for Scope<'_, '_, Meta> {}

impl<'scope, 'env, Meta> Scope<'scope, 'env, Meta> {
    pub(crate) fn new(core: Arc<Core<'scope, Meta>>) -> Self {
        Scope { core, env: PhantomData }
    }

    pub(crate) fn core(&self) -> &Arc<Core<'scope, Meta>> {
        &self.core
    }

    /// Has it been closed?
    ///
    /// ```
    /// inflight::scope(|s: &inflight::Scope<'_, '_, ()>| {
    ///     s.close();
    ///     assert!(s.is_closed());
    /// });
    /// ```
    #[must_use]
    pub fn is_closed(&self) -> bool {
        self.core.is_closed()
    }
}

impl<'scope, 'env, Meta: Send + Sync + 'env> Scope<'scope, 'env, Meta> {
    verbs! {
        lifetime: 'scope,
        task: Task<'scope, Meta>,
        rejected: Rejected<'scope, Meta>,
        handle: Handle<'scope, T>,
        info: TaskInfo<'scope, Meta>,
        unfinished: Unfinished<'scope, Meta>,
    }
}

impl<Meta> Clone for Scope<'_, '_, Meta> {
    fn clone(&self) -> Self {
        Scope::new(Arc::clone(&self.core))
    }
}

impl<Meta> fmt::Debug for Scope<'_, '_, Meta> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Scope")
            .field("name", &self.core.name())
            .field("len", &self.core.len())
            .field("closed", &self.core.is_closed())
            .finish_non_exhaustive()
    }
}
