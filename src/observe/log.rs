//! One line of text for each step of a task's life, through the `log` crate.

use std::fmt::{self, Debug, Display, Formatter};
use std::time::Duration;

use ::log::{Level, log as line, log_enabled};

use super::{Observed, contained};
use crate::context::Context;
use crate::error::{Reason, TaskError, Written, one_line};
use crate::hooks::Hooks;
use crate::sync::Arc;

/// Where the lines are found.
const TARGET: &str = "inflight";

/// Writes a log line for each step of each task's life; see [what is reported](super#what-is-reported).
///
/// Whatever Meta, errors and names contain, each report is one line: what would break it is escaped.
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
            say(Level::Debug, || format!("{} added", logger.task(cx, meta)));
        }));
        let logger = Arc::clone(self);
        hooks.started.push(Arc::new(move |cx, meta| {
            say(Level::Debug, || format!("{} started{}", logger.task(cx, meta), Course(cx)));
        }));
        let logger = Arc::clone(self);
        hooks.succeeded.push(Arc::new(move |cx, meta| {
            say(Level::Debug, || format!("{} succeeded{}", logger.task(cx, meta), Course(cx)));
        }));
        let logger = Arc::clone(self);
        hooks.failed.push(Arc::new(move |cx, meta, error| {
            let level = if matches!(error, TaskError::Cancelled) { Level::Warn } else { Level::Error };
            say(level, || format!("{} failed: {}{}", logger.task(cx, meta), contained(error), Course(cx)));
        }));
        let logger = Arc::clone(self);
        hooks.retried.push(Arc::new(move |cx, meta, error, _attempt| {
            say(Level::Warn, || {
                format!("{} will be retried: {}{}", logger.task(cx, meta), contained(error), Course(cx))
            });
        }));
        let logger = Arc::clone(self);
        hooks.stalled.push(Arc::new(move |cx, meta, since: Duration| {
            say(Level::Warn, || {
                let task = logger.task(cx, meta);
                format!("{task} has given no sign of life for {since:.1?}{}", Course(cx))
            });
        }));
        let logger = Arc::clone(self);
        hooks.recovered.push(Arc::new(move |cx, meta, hung: Duration| {
            say(Level::Info, || {
                format!("{} has recovered after {hung:.1?}{}", logger.task(cx, meta), Course(cx))
            });
        }));
        let logger = Arc::clone(self);
        hooks.rejected.push(Arc::new(move |meta, reason: &Reason| {
            say(Level::Warn, || {
                format!("{}: task {} was rejected: {}", logger.name, logger.meta(meta), contained(reason))
            });
        }));
    }

    fn meta<Meta>(&self, meta: &Meta) -> String
    where
        F: Fn(&Meta, &mut Formatter<'_>) -> fmt::Result,
    {
        contained(Written { meta, write: &self.write })
    }

    /// What a line is about.
    fn task<Meta>(&self, cx: &Context, meta: &Meta) -> String
    where
        F: Fn(&Meta, &mut Formatter<'_>) -> fmt::Result,
    {
        let (name, meta) = (&self.name, self.meta(meta));
        match cx.task_id() {
            Some(id) => format!("{name}: task {id} {meta}"),
            None => format!("{name}: task {meta}"),
        }
    }
}

/// Writes one line, if somebody wants it.
///
/// The logger gets it ready-made: it may hold a lock of its own, under which Meta's code has no business.
fn say(level: Level, text: impl FnOnce() -> String) {
    if log_enabled!(target: TARGET, level) {
        line!(target: TARGET, level, "{}", one_line(&text()));
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
            write!(f, " on {thread}")?;
        }
        write!(f, ", queued {:.1?}", cx.queued_for())?;
        if let Some(ran_for) = cx.ran_for() {
            write!(f, ", ran {ran_for:.1?}")?;
        }
        f.write_str(")")
    }
}
