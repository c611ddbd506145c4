//! One line of text for each step of a task's life, through the `log` crate.

use std::fmt::{self, Debug, Display, Formatter};
use std::time::Duration;

use ::log::{Level, log as line};

use super::Observed;
use crate::context::Context;
use crate::error::{Reason, TaskError, Written, one_line};
use crate::hooks::Hooks;
use crate::sync::Arc;

/// Where the lines are found.
const TARGET: &str = "inflight";

/// Writes a log line for each step of each task's life; see [what is reported](super#what-is-reported).
///
/// Whatever Meta and errors contain, each report is one line: what would break it is escaped.
///
/// ```
/// use inflight::{Manager, observe};
///
/// let manager = Manager::builder().name("mail").build()?;
/// observe::log(&manager);
/// manager.run("receipt", |_cx| Err("no paper".into()))?;
/// // ERROR inflight: mail: task 1 "receipt" failed: no paper (attempt 1 on mail-1, queued 31µs, ran 2µs)
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub fn log<'a, Meta>(target: impl Into<Observed<'a, Meta>>)
where
    Meta: Debug + Send + Sync + 'a,
{
    log_with(target, |meta: &Meta, f: &mut Formatter<'_>| Debug::fmt(meta, f));
}

/// As [`log()`], with each Meta as `write` puts it: for a Meta that is no `Debug`, or reads better otherwise.
///
/// `write` is kept for as long as the manager is: it must not own a handle of it.
///
/// ```
/// use inflight::{Manager, observe};
///
/// struct Order { id: u32 }
/// let manager = Manager::new();
/// observe::log_with(&manager, |order: &Order, f| write!(f, "order {}", order.id));
/// manager.run(Order { id: 17 }, |_cx| Ok(()))?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub fn log_with<'a, Meta, F>(target: impl Into<Observed<'a, Meta>>, write: F)
where
    Meta: Send + Sync + 'a,
    F: Fn(&Meta, &mut Formatter<'_>) -> fmt::Result + Send + Sync + 'a,
{
    let Observed(core) = target.into();
    let logger = Arc::new(Logger { name: core.name().to_owned(), write });
    core.add_hook(move |hooks| logger.attach(hooks));
}

struct Logger<F> {
    name: String,
    write: F,
}

impl<F> Logger<F> {
    fn attach<'a, Meta>(self: &Arc<Self>, hooks: &mut Hooks<'a, Meta>)
    where
        F: Fn(&Meta, &mut Formatter<'_>) -> fmt::Result + Send + Sync + 'a,
    {
        let logger = Arc::clone(self);
        hooks.added.push(Arc::new(move |cx, meta| {
            line!(target: TARGET, Level::Debug, "{} added", logger.task(cx, meta));
        }));
        let logger = Arc::clone(self);
        hooks.started.push(Arc::new(move |cx, meta| {
            line!(target: TARGET, Level::Debug, "{} started{}", logger.task(cx, meta), Course(cx));
        }));
        let logger = Arc::clone(self);
        hooks.succeeded.push(Arc::new(move |cx, meta| {
            line!(target: TARGET, Level::Debug, "{} succeeded{}", logger.task(cx, meta), Course(cx));
        }));
        let logger = Arc::clone(self);
        hooks.failed.push(Arc::new(move |cx, meta, error| {
            let level = if matches!(error, TaskError::Cancelled) { Level::Warn } else { Level::Error };
            let (task, error) = (logger.task(cx, meta), OneLine(error));
            line!(target: TARGET, level, "{task} failed: {error}{}", Course(cx));
        }));
        let logger = Arc::clone(self);
        hooks.retried.push(Arc::new(move |cx, meta, error, _attempt| {
            let (task, error) = (logger.task(cx, meta), OneLine(error));
            line!(target: TARGET, Level::Warn, "{task} will be retried: {error}{}", Course(cx));
        }));
        let logger = Arc::clone(self);
        hooks.stalled.push(Arc::new(move |cx, meta, since: Duration| {
            let task = logger.task(cx, meta);
            line!(target: TARGET, Level::Warn, "{task} has given no sign of life for {since:.1?}{}", Course(cx));
        }));
        let logger = Arc::clone(self);
        hooks.recovered.push(Arc::new(move |cx, meta, hung: Duration| {
            let task = logger.task(cx, meta);
            line!(target: TARGET, Level::Info, "{task} has recovered after {hung:.1?}{}", Course(cx));
        }));
        let logger = Arc::clone(self);
        hooks.rejected.push(Arc::new(move |meta, reason: &Reason| {
            let (name, meta) = (&logger.name, logger.meta(meta));
            line!(target: TARGET, Level::Warn, "{name}: task {meta} was rejected: {}", OneLine(reason));
        }));
    }

    fn meta<'l, Meta>(&'l self, meta: &'l Meta) -> impl Display + 'l
    where
        F: Fn(&Meta, &mut Formatter<'_>) -> fmt::Result,
    {
        OneLine(Written { meta, write: &self.write })
    }

    fn task<'l, Meta>(&'l self, cx: &'l Context, meta: &'l Meta) -> impl Display + 'l
    where
        F: Fn(&Meta, &mut Formatter<'_>) -> fmt::Result,
    {
        Subject { name: &self.name, cx, meta: self.meta(meta) }
    }
}

/// What a line is about.
struct Subject<'l, M> {
    name: &'l str,
    cx: &'l Context,
    meta: M,
}

impl<M: Display> Display for Subject<'_, M> {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        write!(f, "{}: task ", self.name)?;
        if let Some(id) = self.cx.task_id() {
            write!(f, "{id} ")?;
        }
        self.meta.fmt(f)
    }
}

/// How the attempt has gone so far, in brackets.
struct Course<'l>(&'l Context);

impl Display for Course<'_> {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let Course(cx) = self;
        match cx.attempt() {
            0 => f.write_str(" (before its first attempt")?,
            attempt => write!(f, " (attempt {attempt}")?,
        }
        if let Some(thread) = cx.thread() {
            write!(f, " on {}", one_line(thread))?;
        }
        write!(f, ", queued {:.1?}", cx.queued_for())?;
        if let Some(ran_for) = cx.ran_for() {
            write!(f, ", ran {ran_for:.1?}")?;
        }
        f.write_str(")")
    }
}

/// Whatever it is, on one line.
struct OneLine<T>(T);

impl<T: Display> Display for OneLine<T> {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        f.write_str(&one_line(&self.0.to_string()))
    }
}
