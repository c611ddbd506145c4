//! Logs and metrics of the receipts: an event and a number for each step of a task's life.

use std::sync::Arc;

use inflight::{Context, Manager, TaskError};
use metrics::{Gauge, Unit, counter, describe_counter, describe_gauge, describe_histogram, gauge, histogram};

use crate::orders::Order;

const TARGET: &str = "inflight";

/// An event for each step, with its numbers as fields; seconds as everywhere in metrics.
pub(crate) fn tracing(manager: &Manager<Order>) {
    manager
        .on_task_added(|cx, order| {
            tracing::debug!(target: TARGET, id = id(cx), meta = ?order, "task added");
        })
        .on_task_succeeded(|cx, order| {
            let (queued, ran) = (cx.queued_for().as_secs_f64(), cx.running_for().as_secs_f64());
            tracing::debug!(target: TARGET, id = id(cx), meta = ?order, queued, ran, "task succeeded");
        })
        .on_task_failed(|cx, order, error| {
            let (queued, ran) = (cx.queued_for().as_secs_f64(), cx.running_for().as_secs_f64());
            tracing::error!(target: TARGET, id = id(cx), meta = ?order, %error, queued, ran, "task failed");
        });
}

/// Counters, a gauge and histograms. No label comes from a client, so their number is bounded.
pub(crate) fn metrics(manager: &Manager<Order>) {
    describe_counter!("inflight_tasks_added_total", Unit::Count, "Tasks accepted");
    describe_counter!("inflight_tasks_succeeded_total", Unit::Count, "Tasks that succeeded");
    describe_counter!("inflight_tasks_failed_total", Unit::Count, "Tasks that failed for good, by cause");
    describe_gauge!("inflight_tasks_live", Unit::Count, "Tasks accepted and not yet ended");
    describe_histogram!("inflight_task_queue_seconds", Unit::Seconds, "From due to started");
    describe_histogram!("inflight_task_run_seconds", Unit::Seconds, "The last attempt");
    // There from the first scrape on, so that a rate is one from the first task on.
    let (added, succeeded) =
        (counter!("inflight_tasks_added_total"), counter!("inflight_tasks_succeeded_total"));
    for cause in ["error", "panic", "cancelled", "timeout", "abandoned"] {
        counter!("inflight_tasks_failed_total", "cause" => cause).absolute(0);
    }
    let live = Arc::new(gauge!("inflight_tasks_live"));
    let [more, less, fewer] = [(); 3].map(|()| Arc::clone(&live));
    manager
        .on_task_added(move |_cx, _order| {
            added.increment(1);
            more.increment(1);
        })
        .on_task_succeeded(move |cx, _order| {
            succeeded.increment(1);
            ended(cx, &less);
        })
        .on_task_failed(move |cx, _order, error| {
            counter!("inflight_tasks_failed_total", "cause" => cause(error)).increment(1);
            ended(cx, &fewer);
        });
}

fn ended(cx: &Context, live: &Gauge) {
    live.decrement(1);
    histogram!("inflight_task_queue_seconds").record(cx.queued_for());
    if cx.attempt() > 0 {
        histogram!("inflight_task_run_seconds").record(cx.running_for());
    }
}

fn id(cx: &Context) -> String {
    cx.task_id().map(|id| id.to_string()).unwrap_or_default()
}

fn cause(error: &TaskError) -> &'static str {
    match error {
        TaskError::Panicked(_) => "panic",
        TaskError::Cancelled => "cancelled",
        TaskError::TimedOut => "timeout",
        TaskError::Abandoned => "abandoned",
        _ => "error",
    }
}
