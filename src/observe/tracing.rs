//! An event for each step of a task's life, through the `tracing` crate, within the span of its submitter.

use std::error::Error;
use std::fmt::{self, Debug, Formatter};
use std::time::Duration;

use ::tracing::field::{DisplayValue, display};
use ::tracing::{Level, Span, event};

use super::words::{CAUSES, REASONS, cause, reason};
use super::{Observed, contained};
use crate::context::Context;
use crate::core::unwind;
use crate::error::{Reason, TaskError, Written};
use crate::hooks::{Carry, Hooks};
use crate::sync::Arc;
use crate::task::TaskId;

/// Emits an event for each step of each task's life (see [what is reported](super#what-is-reported)), and
/// carries the submitter's current span along: the task's own events, and those about it, are within it,
/// whatever thread they are on.
///
/// The fields:
///
/// | field | of which events |
/// |---|---|
/// | `manager`, `meta` | all |
/// | `id` | all but rejected |
/// | `attempt`, `thread` | all but rejected; 0 if it never ran, absent if the thread has no name |
/// | `queue_seconds` | all from started on: how long it was due before it began, or was given up |
/// | `run_seconds` | succeeded, failed, retried: how long the attempt ran, if there was one |
/// | `cause` | failed, retried: `failed`, `panicked`, `cancelled`, `timed_out` or `abandoned` |
/// | `error` | failed, retried; rejected, for a thread that was refused |
/// | `hung_seconds` | stalled, recovered |
/// | `reason` | rejected: `closed`, `full` or `spawn` |
///
/// Fields hold what Meta and errors say as they say it: it is the subscriber that makes lines of them, and escapes
/// what would break these.
///
/// The span is kept open until the task has ended, so that it lasts from the request to the last of its tasks.
///
/// ```
/// use inflight::{Manager, observe};
///
/// let manager = Manager::new();
/// observe::tracing(&manager);
/// let request = tracing::info_span!("request", path = "/orders");
/// request.in_scope(|| {
///     manager.run("receipt", |_cx| {
///         tracing::info!("printing"); // in the span `request`, on another thread
///         Ok(())
///     })
/// })?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub fn tracing<'a, Meta>(target: impl Into<Observed<'a, Meta>>)
where
    Meta: Debug + Send + Sync + 'a,
{
    tracing_with(target, |meta: &Meta, f: &mut Formatter<'_>| Debug::fmt(meta, f));
}

/// As [`tracing()`], with each Meta as `write` puts it: for a Meta that is no `Debug`, or reads better
/// otherwise.
///
/// `write` is kept for as long as the manager is: it must not own a handle of it.
///
/// ```
/// use inflight::{Manager, observe};
///
/// struct Order { id: u32 }
/// let manager = Manager::new();
/// observe::tracing_with(&manager, |order: &Order, f| write!(f, "order {}", order.id));
/// manager.run(Order { id: 17 }, |_cx| Ok(()))?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub fn tracing_with<'a, Meta, F>(target: impl Into<Observed<'a, Meta>>, write: F)
where
    Meta: Send + Sync + 'a,
    F: Fn(&Meta, &mut Formatter<'_>) -> fmt::Result + Send + Sync + 'a,
{
    let write = move |meta: &Meta| Some(display(contained(Written { meta, write: &write })));
    attach(target.into(), write, |_| Span::current());
}

/// As [`tracing()`], with a span for each task, that `span` makes of its Meta: the fields that you search by.
///
/// It is made on the submitter's thread, so that it is within the submitter's current span, and everything is
/// within it: what the task says, and what is said of it from started on. The fields are as above, without
/// `meta`. That a task was added is told before it has a span, and one that was rejected gets one for that.
///
/// `span` is kept for as long as the manager is: it must not own a handle of it. If it panics, the submitter's
/// span has to do.
///
/// ```
/// use inflight::{Manager, observe};
///
/// struct Order { id: u32, item: String }
/// let manager = Manager::new();
/// observe::tracing_spans(&manager, |order: &Order| {
///     tracing::info_span!("receipt", order = order.id, item = order.item)
/// });
/// manager.run(Order { id: 17, item: "tea".into() }, |_cx| {
///     tracing::info!("printing"); // in receipt{order=17 item="tea"}
///     Ok(())
/// })?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub fn tracing_spans<'a, Meta, F>(target: impl Into<Observed<'a, Meta>>, span: F)
where
    Meta: Send + Sync + 'a,
    F: Fn(&Meta) -> Span + Send + Sync + 'a,
{
    attach(target.into(), |_| None, span);
}

fn attach<'a, Meta, W, S>(Observed(core): Observed<'a, Meta>, write: W, span: S)
where
    Meta: Send + Sync + 'a,
    W: Fn(&Meta) -> Option<DisplayValue<String>> + Send + Sync + 'a,
    S: Fn(&Meta) -> Span + Send + Sync + 'a,
{
    // A task must not fail because it is watched.
    let span = Arc::new(move |meta: &Meta| unwind::catch(|| span(meta)).unwrap_or_else(|_| Span::current()));
    let tracer = Arc::new(Tracer { name: core.name().to_owned(), write });
    core.add_hook(move |hooks| {
        let of = Arc::clone(&span);
        let carry = Carry::new(move |meta: &Meta| of(meta), |span: &Span| span.clone().entered());
        hooks.carriers.push(Arc::new(carry));
        tracer.attach(hooks, span);
    });
}

/// What is shown to the notifier, which is told of stalls, and is in no task's span.
struct Around(Span);

struct Tracer<W> {
    name: String,
    write: W,
}

/// An event about a task: with the fields that most of them have, then its own.
macro_rules! report {
    ($level:expr, $tracer:ident, $cx:ident, $meta:ident, $($fields:tt)+) => {
        event!(
            target: "inflight",
            $level,
            manager = $tracer.name,
            id = $cx.task_id().map(|TaskId(id)| id),
            meta = ($tracer.write)($meta),
            attempt = $cx.attempt(),
            thread = $cx.thread(),
            $($fields)+
        )
    };
}

impl<W> Tracer<W> {
    fn attach<'a, Meta, S>(self: &Arc<Self>, hooks: &mut Hooks<'a, Meta>, span: Arc<S>)
    where
        Meta: 'a,
        W: Fn(&Meta) -> Option<DisplayValue<String>> + Send + Sync + 'a,
        S: Fn(&Meta) -> Span + Send + Sync + 'a,
    {
        let tracer = Arc::clone(self);
        hooks.added.push(Arc::new(move |cx, meta| report!(Level::DEBUG, tracer, cx, meta, "task added")));

        let tracer = Arc::clone(self);
        hooks.started.push(Arc::new(move |cx, meta| {
            cx.confide(|| Around(Span::current()));
            report!(Level::DEBUG, tracer, cx, meta, queue_seconds = queued(cx), "task started");
        }));

        let tracer = Arc::clone(self);
        hooks.succeeded.push(Arc::new(move |cx, meta| {
            let (queue_seconds, run_seconds) = (queued(cx), ran(cx));
            report!(Level::DEBUG, tracer, cx, meta, queue_seconds, run_seconds, "task succeeded");
        }));

        let tracer = Arc::clone(self);
        hooks.failed.push(Arc::new(move |cx, meta, error| {
            let (queue_seconds, run_seconds) = (queued(cx), ran(cx));
            let (cause, cancelled) = (CAUSES[cause(error)], matches!(error, TaskError::Cancelled));
            let error: &(dyn Error + 'static) = error;
            if cancelled {
                report!(
                    Level::WARN,
                    tracer,
                    cx,
                    meta,
                    queue_seconds,
                    run_seconds,
                    cause,
                    error,
                    "task failed"
                );
            } else {
                report!(
                    Level::ERROR,
                    tracer,
                    cx,
                    meta,
                    queue_seconds,
                    run_seconds,
                    cause,
                    error,
                    "task failed"
                );
            }
        }));

        let tracer = Arc::clone(self);
        hooks.retried.push(Arc::new(move |cx, meta, error, _attempt| {
            let (queue_seconds, run_seconds, cause) = (queued(cx), ran(cx), CAUSES[cause(error)]);
            let error: &(dyn Error + 'static) = error;
            report!(Level::WARN, tracer, cx, meta, queue_seconds, run_seconds, cause, error, "task retried");
        }));

        let tracer = Arc::clone(self);
        hooks.stalled.push(Arc::new(move |cx, meta, since: Duration| {
            let (queue_seconds, hung_seconds) = (queued(cx), since.as_secs_f64());
            in_span(cx, || {
                report!(Level::WARN, tracer, cx, meta, queue_seconds, hung_seconds, "task stalled")
            });
        }));

        let tracer = Arc::clone(self);
        hooks.recovered.push(Arc::new(move |cx, meta, hung: Duration| {
            let (queue_seconds, hung_seconds) = (queued(cx), hung.as_secs_f64());
            in_span(cx, || {
                report!(Level::INFO, tracer, cx, meta, queue_seconds, hung_seconds, "task recovered")
            });
        }));

        let tracer = Arc::clone(self);
        hooks.rejected.push(Arc::new(move |meta, why: &Reason| {
            let refused = match why {
                Reason::Spawn(error) => Some(display(error)),
                _ => None,
            };
            span(meta).in_scope(|| {
                event!(
                    target: "inflight",
                    Level::WARN,
                    manager = tracer.name,
                    meta = (tracer.write)(meta),
                    reason = REASONS[reason(why)],
                    error = refused,
                    "task rejected"
                );
            });
        }));
    }
}

fn queued(cx: &Context) -> f64 {
    cx.queued_for().as_secs_f64()
}

fn ran(cx: &Context) -> Option<f64> {
    cx.ran_for().map(|ran_for| ran_for.as_secs_f64())
}

/// Reports within the span of the task that `cx` is of, which its own thread is in.
fn in_span(cx: &Context, report: impl FnOnce()) {
    match cx.value::<Around>() {
        Some(Around(span)) => span.in_scope(report),
        None => report(),
    }
}
