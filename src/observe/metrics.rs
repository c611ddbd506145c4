//! Counters, gauges and histograms, through the `metrics` crate.
//!
//! Every series is registered once and its handle kept: reporting is an atomic operation, not a look-up, and
//! every series of a manager is there, at zero, from the start.

use std::fmt;
use std::panic::{RefUnwindSafe, UnwindSafe};
use std::sync::Weak;
use std::time::Duration;

use ::metrics::{
    Counter, Gauge, Histogram, Label, Unit, counter, describe_counter, describe_gauge, describe_histogram,
    gauge, histogram,
};

use super::Observed;
use super::words::{CAUSES, REASONS, cause, reason};
use crate::context::Context;
use crate::core::Core;
use crate::error::Reason;
use crate::hooks::Hooks;
use crate::info::Load;
use crate::sync::{Arc, Mutex};

/// Counts what becomes of tasks, measures how long they wait and run, and shows what is in flight.
///
/// | name | kind | labels besides `manager` |
/// |---|---|---|
/// | `inflight_tasks_added_total` | counter | |
/// | `inflight_tasks_succeeded_total` | counter | |
/// | `inflight_tasks_failed_total` | counter | `cause`: `failed`, `panicked`, `cancelled`, `timed_out`, `abandoned` |
/// | `inflight_tasks_rejected_total` | counter | `reason`: `closed`, `full`, `spawn` |
/// | `inflight_tasks_retried_total` | counter | |
/// | `inflight_tasks_stalled_total` | counter | |
/// | `inflight_tasks_live` | gauge | |
/// | `inflight_tasks_running` | gauge | |
/// | `inflight_tasks_queued` | gauge | |
/// | `inflight_threads` | gauge | |
/// | `inflight_task_queue_seconds` | histogram, of each attempt | |
/// | `inflight_task_run_seconds` | histogram, of each attempt | |
///
/// The number of series is fixed: the label `manager` is its [name](crate::Builder::name), and Meta is no
/// label. As in [`Stats`](crate::Stats), each iteration of a loop counts as succeeded or failed.
///
/// Install the recorder first: it is asked for its series here, once. Without one nothing is recorded.
///
/// The gauges are set whenever a task comes, starts or ends. Tasks that end at the same moment still see each
/// other, though, and threads end on their own: so keep the [`Gauges`], and [`refresh`](Gauges::refresh) them
/// before you render or push, so that they show what is true then.
///
/// ```
/// use inflight::{Manager, observe};
///
/// // let prometheus = metrics_exporter_prometheus::PrometheusBuilder::new().install_recorder()?;
/// let manager = Manager::builder().name("mail").build()?;
/// let gauges = observe::metrics(&manager);
/// manager.run("receipt", |_cx| Ok(()))?;
/// manager.wait();
///
/// // In the handler of `GET /metrics`:
/// gauges.refresh();
/// // let page = prometheus.render();
/// //   # TYPE inflight_tasks_succeeded_total counter
/// //   inflight_tasks_succeeded_total{manager="mail"} 1
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub fn metrics<'a, Meta>(target: impl Into<Observed<'a, Meta>>) -> Gauges<'a>
where
    Meta: Send + Sync + 'a,
{
    let Observed(core) = target.into();
    describe();
    let series = Arc::new(Series::register(core.name(), None));
    attach(&core, move |_: &Meta| Arc::clone(&series))
}

/// As [`metrics()`], with a label `task` on counters and histograms: the class of task that `class` says.
///
/// Each class has series of its own, from the first task of it on, for as long as the process lives. So there
/// must be few: a name or a variant, never an id. That is why it is a `&'static str`.
///
/// `class` is kept for as long as the manager is: it must not own a handle of it.
///
/// ```
/// use inflight::{Manager, observe};
///
/// enum Job { Receipt { order: u64 }, Report }
/// let manager = Manager::new();
/// observe::metrics_with(&manager, |job: &Job| match job {
///     Job::Receipt { .. } => "receipt",
///     Job::Report => "report",
/// });
/// manager.run(Job::Receipt { order: 17 }, |_cx| Ok(()))?;
/// manager.run(Job::Report, |_cx| Ok(()))?;
/// // inflight_tasks_added_total{manager="inflight",task="receipt"} 1
/// // inflight_tasks_added_total{manager="inflight",task="report"} 1
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub fn metrics_with<'a, Meta, F>(target: impl Into<Observed<'a, Meta>>, class: F) -> Gauges<'a>
where
    Meta: Send + Sync + 'a,
    F: Fn(&Meta) -> &'static str + Send + Sync + 'a,
{
    let Observed(core) = target.into();
    describe();
    let classes = Classes { name: core.name().to_owned(), known: Mutex::default() };
    attach(&core, move |meta: &Meta| classes.series(class(meta)))
}

/// The gauges of a manager, for whoever renders: made by [`metrics()`].
///
/// It is no handle of the manager: it holds up nothing, and shows zeros once the manager is gone.
///
/// ```
/// let manager: inflight::Manager<&str> = inflight::Manager::new();
/// let gauges = inflight::observe::metrics(&manager);
/// gauges.refresh();
/// ```
#[derive(Clone)]
pub struct Gauges<'a>(Arc<dyn Fn() + Send + Sync + 'a>);

impl UnwindSafe for Gauges<'_> {}
impl RefUnwindSafe for Gauges<'_> {}

impl Gauges<'_> {
    /// Sets them to what is true now: all of one moment.
    ///
    /// ```
    /// let manager: inflight::Manager<&str> = inflight::Manager::new();
    /// let gauges = inflight::observe::metrics(&manager);
    /// gauges.refresh();
    /// ```
    pub fn refresh(&self) {
        (self.0)();
    }
}

impl fmt::Debug for Gauges<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Gauges").finish_non_exhaustive()
    }
}

fn describe() {
    let tasks = Unit::Count;
    describe_counter!("inflight_tasks_added_total", tasks, "Tasks accepted");
    describe_counter!(
        "inflight_tasks_succeeded_total",
        tasks,
        "Tasks, and iterations of loops, that succeeded"
    );
    describe_counter!(
        "inflight_tasks_failed_total",
        tasks,
        "Tasks, and iterations of loops, that failed for good, by cause"
    );
    describe_counter!(
        "inflight_tasks_rejected_total",
        tasks,
        "Tasks handed back to their submitter, by reason"
    );
    describe_counter!("inflight_tasks_retried_total", tasks, "Attempts that failed and were to be repeated");
    describe_counter!(
        "inflight_tasks_stalled_total",
        tasks,
        "Attempts that gave no sign of life for too long"
    );
    describe_gauge!("inflight_tasks_live", tasks, "Tasks accepted and not yet ended");
    describe_gauge!("inflight_tasks_running", tasks, "Tasks that a thread runs, or calls the hooks of");
    describe_gauge!("inflight_tasks_queued", tasks, "Tasks that are due and wait for a thread");
    describe_gauge!("inflight_threads", Unit::Count, "Worker threads, running or idle");
    describe_histogram!(
        "inflight_task_queue_seconds",
        Unit::Seconds,
        "For how long an attempt was due before it began"
    );
    describe_histogram!("inflight_task_run_seconds", Unit::Seconds, "For how long an attempt ran");
}

/// The counters and histograms of a manager, or of one class of its tasks.
struct Series {
    added: Counter,
    succeeded: Counter,
    failed: [Counter; CAUSES.len()],
    rejected: [Counter; REASONS.len()],
    retried: Counter,
    stalled: Counter,
    queue: Histogram,
    run: Histogram,
}

impl Series {
    fn register(manager: &str, class: Option<&'static str>) -> Self {
        let mut labels = vec![Label::new("manager", manager.to_owned())];
        labels.extend(class.map(|class| Label::from_static_parts("task", class)));
        let with = |key: &'static str, value: &'static str| {
            let mut labels = labels.clone();
            labels.push(Label::from_static_parts(key, value));
            labels
        };
        Series {
            added: counter!("inflight_tasks_added_total", labels.clone()),
            succeeded: counter!("inflight_tasks_succeeded_total", labels.clone()),
            failed: CAUSES.map(|cause| counter!("inflight_tasks_failed_total", with("cause", cause))),
            rejected: REASONS.map(|reason| counter!("inflight_tasks_rejected_total", with("reason", reason))),
            retried: counter!("inflight_tasks_retried_total", labels.clone()),
            stalled: counter!("inflight_tasks_stalled_total", labels.clone()),
            queue: histogram!("inflight_task_queue_seconds", labels.clone()),
            run: histogram!("inflight_task_run_seconds", labels),
        }
    }

    fn ran(&self, ran_for: Option<Duration>) {
        if let Some(ran_for) = ran_for {
            self.run.record(ran_for);
        }
    }
}

/// The series of each class that there has been a task of.
struct Classes {
    name: String,
    /// Few: a look at each of them is as good as a map.
    known: Mutex<Vec<(&'static str, Arc<Series>)>>,
}

impl Classes {
    fn series(&self, class: &'static str) -> Arc<Series> {
        let find = |known: &[(&str, Arc<Series>)]| {
            known.iter().find(|(known, _)| *known == class).map(|(_, series)| Arc::clone(series))
        };
        if let Some(series) = find(&self.known.lock()) {
            return series;
        }
        // The recorder is not ours, so that no lock is held meanwhile. Another may register the same series: it
        // is the same then.
        let series = Arc::new(Series::register(&self.name, Some(class)));
        let mut known = self.known.lock();
        find(&known).unwrap_or_else(|| {
            known.push((class, Arc::clone(&series)));
            series
        })
    }
}

/// The gauges, which are the manager's: Meta makes no difference to them.
struct Dials {
    live: Gauge,
    running: Gauge,
    queued: Gauge,
    threads: Gauge,
}

impl Dials {
    fn register(manager: &str) -> Self {
        let labels = || vec![Label::new("manager", manager.to_owned())];
        Dials {
            live: gauge!("inflight_tasks_live", labels()),
            running: gauge!("inflight_tasks_running", labels()),
            queued: gauge!("inflight_tasks_queued", labels()),
            threads: gauge!("inflight_threads", labels()),
        }
    }

    #[allow(clippy::cast_precision_loss)] // no machine has 2^53 of them
    fn show(&self, load: Load) {
        self.live.set(load.live as f64);
        self.running.set(load.running as f64);
        self.queued.set(load.queued as f64);
        self.threads.set(load.threads as f64);
    }
}

fn attach<'a, Meta, S>(core: &Arc<Core<'a, Meta>>, series: S) -> Gauges<'a>
where
    Meta: Send + Sync + 'a,
    S: Fn(&Meta) -> Arc<Series> + Send + Sync + 'a,
{
    let meter = Arc::new(Meter { core: Arc::downgrade(core), dials: Dials::register(core.name()) });
    meter.refresh();
    let attached = Arc::clone(&meter);
    core.add_hook(move |hooks| attached.attach(hooks, Arc::new(series)));
    Gauges(Arc::new(move || meter.refresh()))
}

struct Meter<'a, Meta> {
    /// Whoever calls the hooks holds the core. Held by them, too, it would outlive its last handle and thread.
    core: Weak<Core<'a, Meta>>,
    dials: Dials,
}

impl<'a, Meta: Send + Sync + 'a> Meter<'a, Meta> {
    fn refresh(&self) {
        self.dials.show(self.core.upgrade().map_or_else(Load::default, |core| core.load()));
    }

    /// Sets the gauges to what will be true once the attempt of `cx` is out of the way, and, if it `ends`, its task.
    fn look_ahead(&self, cx: &Context, ends: bool) {
        self.dials.show(self.core.upgrade().map_or_else(Load::default, |core| core.load_after(cx, ends)));
    }

    fn attach<S>(self: &Arc<Self>, hooks: &mut Hooks<'a, Meta>, series: Arc<S>)
    where
        S: Fn(&Meta) -> Arc<Series> + Send + Sync + 'a,
    {
        let (meter, of) = (Arc::clone(self), Arc::clone(&series));
        hooks.added.push(Arc::new(move |_cx, meta| {
            of(meta).added.increment(1);
            meter.refresh();
        }));

        let (meter, of) = (Arc::clone(self), Arc::clone(&series));
        hooks.started.push(Arc::new(move |cx, meta| {
            of(meta).queue.record(cx.queued_for());
            meter.refresh();
        }));

        let (meter, of) = (Arc::clone(self), Arc::clone(&series));
        hooks.succeeded.push(Arc::new(move |cx, meta| {
            let series = of(meta);
            series.succeeded.increment(1);
            series.ran(cx.ran_for());
            meter.look_ahead(cx, true);
        }));

        let (meter, of) = (Arc::clone(self), Arc::clone(&series));
        hooks.failed.push(Arc::new(move |cx, meta, error| {
            let series = of(meta);
            series.failed[cause(error)].increment(1);
            series.ran(cx.ran_for());
            meter.look_ahead(cx, true);
        }));

        let (meter, of) = (Arc::clone(self), Arc::clone(&series));
        hooks.retried.push(Arc::new(move |cx, meta, _error, _attempt| {
            let series = of(meta);
            series.retried.increment(1);
            series.ran(cx.ran_for());
            meter.look_ahead(cx, false);
        }));

        let of = Arc::clone(&series);
        hooks.stalled.push(Arc::new(move |_cx, meta, _since| of(meta).stalled.increment(1)));

        // Outlives the other hooks: it is told of what a manager that is over rejects.
        hooks.rejected.push(Arc::new(move |meta, why: &Reason| {
            series(meta).rejected[reason(why)].increment(1);
        }));
    }
}
