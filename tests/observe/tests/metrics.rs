//! `observe::metrics`: counters, gauges and histograms, as Prometheus sees them.

#![allow(clippy::unwrap_used)]

#[path = "../../common/mod.rs"]
mod common;

use std::sync::Arc;
use std::time::Duration;

use common::{Drops, HANG, busy, gated};
use inflight::observe::Gauges;
use inflight::{Builder, Context, Grace, Manager, ManualClock, Retry, Task, observe};
use metrics::{Unit, with_local_recorder};
use metrics_exporter_prometheus::{PrometheusBuilder, PrometheusHandle};
use observe_tests::Descriptions;

struct Observed {
    manager: Manager<&'static str>,
    gauges: Gauges<'static>,
    page: PrometheusHandle,
    clock: ManualClock,
}

fn observed(builder: Builder<&'static str>) -> Observed {
    let recorder = PrometheusBuilder::new().build_recorder();
    let clock = ManualClock::new();
    let manager = builder.name("mail").max_threads(1).clock(&clock).build().unwrap();
    let gauges = with_local_recorder(&recorder, || observe::metrics(&manager));
    Observed { manager, gauges, page: recorder.handle(), clock }
}

impl Drop for Observed {
    /// A test that fails waits for nothing that is due tomorrow.
    fn drop(&mut self) {
        self.manager.cancel();
    }
}

impl Observed {
    /// The value of the series `name`, with these labels besides the manager's, as it stands on the page.
    fn value(&self, name: &str, labels: &str) -> f64 {
        value(&self.page, name, labels)
    }

    /// Live, running, queued, threads.
    fn dials(&self) -> [f64; 4] {
        ["tasks_live", "tasks_running", "tasks_queued", "threads"].map(|name| self.value(name, ""))
    }
}

fn value(page: &PrometheusHandle, name: &str, labels: &str) -> f64 {
    let comma = if labels.is_empty() { "" } else { "," };
    let series = format!(r#"inflight_{name}{{manager="mail"{comma}{labels}}} "#);
    let page = page.render();
    let value = page.lines().find_map(|line| line.strip_prefix(&series));
    value.unwrap_or_else(|| panic!("{series}is not in\n{page}")).parse().unwrap()
}

#[test]
fn every_series_is_there_at_zero_from_the_start() {
    let it = observed(Manager::builder());
    let page = it.page.render();
    let histogram = |line: &&str| line.contains("_seconds");
    let zeros = page.lines().filter(|line| line.ends_with(" 0") && !histogram(line)).count();
    // 4 plain counters, 5 causes, 3 reasons, 4 gauges.
    assert_eq!((zeros, it.value("tasks_failed_total", r#"cause="timed_out""#)), (16, 0.0), "{page}");
}

#[test]
fn what_becomes_of_tasks_is_counted() {
    let it = observed(Manager::builder());
    let (manager, clock) = (&it.manager, it.clock.clone());
    manager.run("good", |_| Ok(())).unwrap();
    manager.run("broken", |_| Err("no paper".into())).unwrap();
    manager.run("panics", |_| panic!("no ink")).unwrap();
    let late = move |cx: &Context| {
        clock.advance(Duration::from_secs(9));
        Ok(cx.check()?)
    };
    manager.run_task(Task::once("late", late).timeout(Duration::from_secs(5))).unwrap();
    let twice = |cx: &Context| if cx.attempt() < 3 { Err("again".into()) } else { Ok(()) };
    let retry = Retry::attempts(3).delays(|| [Duration::ZERO; 2]);
    manager.run_task(Task::retrying("again", twice).retry(retry)).unwrap();
    manager.wait();
    let gate = busy(manager, "holds the thread");
    manager.spawn("unwanted", |_| Ok(())).unwrap().cancel();
    manager.run("left behind", |_| Ok(())).unwrap();
    drop(manager.shutdown(Grace::drain(Duration::ZERO)).unwrap_err());
    gate.open();

    let failed = ["failed", "panicked", "cancelled", "timed_out", "abandoned"]
        .map(|cause| it.value("tasks_failed_total", &format!(r#"cause="{cause}""#)));
    assert_eq!(failed, [1.0; 5]);
    manager.wait();
    let (added, succeeded) = (it.value("tasks_added_total", ""), it.value("tasks_succeeded_total", ""));
    assert_eq!((added, succeeded, it.value("tasks_retried_total", "")), (8.0, 3.0, 2.0));
    let stats = manager.stats();
    assert_eq!((stats.added, stats.succeeded, stats.failed, stats.retried), (8, 3, 5, 2));
}

#[test]
fn rejections_are_counted_by_reason_also_once_the_manager_is_over() {
    let refuses = Arc::new(std::sync::atomic::AtomicBool::new(true));
    let gate = Arc::clone(&refuses);
    let it = observed(Manager::builder().max_pending(1).thread_gate(move |_| {
        let refused = gate.load(std::sync::atomic::Ordering::SeqCst);
        if refused { Err(std::io::Error::other("no threads today")) } else { Ok(()) }
    }));
    drop(it.manager.run("refused", |_| Ok(())).unwrap_err());
    refuses.store(false, std::sync::atomic::Ordering::SeqCst);
    let gate = busy(&it.manager, "holds the thread");
    it.manager.run("fills the backlog", |_| Ok(())).unwrap();
    for _ in 0..2 {
        drop(it.manager.try_run_task(Task::once("too much", |_| Ok(()))).unwrap_err());
    }
    gate.open();
    it.manager.shutdown(Grace::drain(HANG)).unwrap();
    for _ in 0..3 {
        drop(it.manager.run("too late", |_| Ok(())).unwrap_err());
    }
    let rejected = ["spawn", "full", "closed"]
        .map(|reason| it.value("tasks_rejected_total", &format!(r#"reason="{reason}""#)));
    assert_eq!(rejected, [1.0, 2.0, 3.0]);
    assert_eq!(it.manager.stats().rejected, 6);
}

#[test]
fn a_stall_is_counted_once() {
    let it = observed(Manager::builder());
    let (gate, task) = gated();
    it.manager.run_task(Task::once("import", task).stalled_after(Duration::from_secs(30))).unwrap();
    gate.started();
    it.clock.advance(Duration::from_secs(31));
    while it.manager.stats().stalled == 0 {
        std::thread::yield_now();
    }
    gate.open();
    it.manager.wait();
    assert_eq!(it.value("tasks_stalled_total", ""), 1.0);
}

#[test]
fn the_time_in_queue_and_at_work_is_measured_for_each_attempt_that_ran() {
    let it = observed(Manager::builder());
    let gate = busy(&it.manager, "holds the thread");
    let clock = it.clock.clone();
    let task = move |cx: &Context| {
        clock.advance(Duration::from_secs(2));
        if cx.attempt() < 2 { Err("again".into()) } else { Ok(()) }
    };
    let retry = Retry::attempts(2).delays(|| [Duration::ZERO]);
    it.manager.run_task(Task::retrying("receipt", task).retry(retry)).unwrap();
    it.manager.spawn("unwanted", |_| Ok(())).unwrap().cancel();
    it.clock.advance(Duration::from_secs(3));
    gate.open();
    it.manager.wait();
    let sum_and_count = |name: &str| ["sum", "count"].map(|part| it.value(&format!("{name}_{part}"), ""));
    // The first ran for 3 s; the second waited for as long, then ran twice for 2 s.
    assert_eq!(sum_and_count("task_queue_seconds"), [3.0, 3.0]);
    assert_eq!(sum_and_count("task_run_seconds"), [7.0, 3.0]);
}

#[test]
fn the_gauges_show_what_is_in_flight() {
    let it = observed(Manager::builder());
    let (running, task) = gated();
    it.manager.run("runs", task).unwrap();
    running.started();
    assert_eq!(it.dials(), [1.0, 1.0, 0.0, 1.0], "once it has started");
    it.manager.run_task(Task::once("tomorrow", |_| Ok(())).delay(Duration::from_secs(86_400))).unwrap();
    assert_eq!(it.dials(), [2.0, 1.0, 0.0, 1.0], "what is delayed is live, and no more");
    it.manager.run("waits", |_| Ok(())).unwrap();
    it.manager.run("waits, too", |_| Ok(())).unwrap();
    let expected = [4.0, 1.0, 2.0, 1.0];
    assert_eq!(it.dials(), expected, "by the last event");
    it.gauges.refresh();
    assert_eq!(it.dials(), expected, "by a refresh");
    running.open();
    it.manager.cancel();
    it.manager.wait();
    assert_eq!(it.dials()[..3], [0.0; 3], "by the last event, though its task was live then");
    it.manager.shutdown(Grace::drain(HANG)).unwrap();
    it.gauges.refresh();
    assert_eq!(it.dials(), [0.0; 4], "threads end without an event");
}

#[test]
fn a_task_in_its_retry_pause_and_a_loop_between_iterations_are_live_and_not_running() {
    let it = observed(Manager::builder());
    let (reports, paused) = std::sync::mpsc::channel();
    let iterates = reports.clone();
    it.manager.on_task_retried(move |_, _, _, _| reports.send(()).unwrap());
    let retry = Retry::attempts(2).delays(|| [Duration::from_secs(60)]);
    it.manager.run_task(Task::retrying("again", |_| Err("no".into())).retry(retry)).unwrap();
    paused.recv_timeout(HANG).unwrap();
    assert_eq!(it.dials()[..3], [1.0, 0.0, 0.0]);
    it.manager.on_task_succeeded(move |_, _| iterates.send(()).unwrap());
    it.manager.run_task(Task::looping("poll", |_| Ok(())).every(Duration::from_secs(60))).unwrap();
    paused.recv_timeout(HANG).unwrap();
    assert_eq!(it.dials()[..3], [2.0, 0.0, 0.0]);
}

#[test]
fn a_task_that_its_submitter_still_has_in_hand_is_queued_and_not_running() {
    let it = observed(Manager::builder());
    let (gauges, page) = (it.gauges.clone(), it.page.clone());
    let seen = Arc::new(std::sync::Mutex::new(Vec::new()));
    let sees = Arc::clone(&seen);
    it.manager.on_task_added(move |_, _| {
        gauges.refresh();
        let dials = ["tasks_live", "tasks_running", "tasks_queued"].map(|name| value(&page, name, ""));
        sees.lock().unwrap().push(dials);
    });
    it.manager.run("now", |_| Ok(())).unwrap();
    it.manager.wait();
    it.manager.run_task(Task::once("later", |_| Ok(())).delay(Duration::from_secs(60))).unwrap();
    assert_eq!(*seen.lock().unwrap(), [[1.0, 0.0, 1.0], [1.0, 0.0, 0.0]]);
}

#[test]
fn a_task_whose_capture_panicked_leaves_nothing_behind_in_the_gauges() {
    let it = observed(Manager::builder());
    it.manager.carry(|_| panic!("no context to carry"), |(): &()| ());
    for delay in [Duration::MAX, Duration::ZERO] {
        let task = Task::once("broken", |_| Ok(()));
        let task = if delay.is_zero() { task } else { task.delay(delay) };
        it.manager.run_task(task).unwrap();
        assert_eq!(it.dials()[..3], [0.0; 3]);
    }
}

#[test]
fn what_a_shutdown_gives_up_is_queued_until_it_has_ended() {
    let it = observed(Manager::builder());
    let gate = busy(&it.manager, "stuck");
    for meta in ["first", "second", "third"] {
        it.manager.run(meta, |_| Ok(())).unwrap();
    }
    let (page, seen) = (it.page.clone(), Arc::new(std::sync::Mutex::new(Vec::new())));
    let sees = Arc::clone(&seen);
    it.manager.on_task_failed(move |_, _, _| {
        let dials = ["tasks_live", "tasks_running", "tasks_queued"].map(|name| value(&page, name, ""));
        sees.lock().unwrap().push(dials);
    });
    drop(it.manager.shutdown(Grace::drain(Duration::ZERO)).unwrap_err());
    assert_eq!(*seen.lock().unwrap(), [[3.0, 1.0, 2.0], [2.0, 1.0, 1.0], [1.0, 1.0, 0.0]]);
    gate.open();
}

#[test]
fn every_metric_is_described_with_its_unit() {
    let descriptions = Descriptions::default();
    let manager: Manager<&str> = Manager::new();
    with_local_recorder(&descriptions, || observe::metrics(&manager));
    let descriptions = descriptions.0.into_inner().unwrap();
    assert_eq!(descriptions.len(), 12, "{descriptions:?}");
    for (name, (unit, text)) in &descriptions {
        let expected = if name.ends_with("_seconds") { Unit::Seconds } else { Unit::Count };
        assert!(*unit == Some(expected) && text.len() > 10, "{name}: {unit:?}, {text:?}");
    }
}

#[test]
fn names_are_what_prometheus_recommends() {
    let recorder = PrometheusBuilder::new().with_recommended_naming(true).build_recorder();
    let manager = Manager::builder().name("mail").build().unwrap();
    with_local_recorder(&recorder, || observe::metrics(&manager));
    manager.run("tea", |_| Ok(())).unwrap();
    manager.wait();
    let page = recorder.handle().render();
    for line in [
        "# TYPE inflight_tasks_added_total counter",
        "# TYPE inflight_tasks_live gauge",
        "# TYPE inflight_task_run_seconds summary",
        r#"inflight_tasks_added_total{manager="mail"} 1"#,
    ] {
        assert!(page.lines().any(|other| other == line), "{line} is not in\n{page}");
    }
    assert!(page.contains("# HELP inflight_task_run_seconds For how long"), "{page}");
}

#[test]
fn meta_adds_no_series_unless_a_function_says_which() {
    let recorder = PrometheusBuilder::new().build_recorder();
    let page = recorder.handle();
    let manager: Manager<u32> = Manager::builder().name("mail").build().unwrap();
    with_local_recorder(&recorder, || observe::metrics(&manager));
    let before = page.render().lines().count();
    for order in 0..100 {
        manager.run(order, |_| Ok(())).unwrap();
    }
    manager.wait();
    // A summary shows its quantiles once it has a value.
    let (one, _) = (page.render().lines().count(), manager.run(7, |_| Ok(())).unwrap());
    manager.wait();
    assert_eq!(page.render().lines().count(), one, "{before} before the first");

    let parity = |order: &u32| if order % 2 == 0 { "even" } else { "odd" };
    let recorder = PrometheusBuilder::new().build_recorder();
    let page = recorder.handle();
    with_local_recorder(&recorder, || {
        observe::metrics_with(&manager, parity);
        for order in [2, 3, 4] {
            manager.run(order, |_| Ok(())).unwrap();
        }
    });
    manager.wait();
    let added = ["even", "odd"].map(|class| value(&page, "tasks_added_total", &format!(r#"task="{class}""#)));
    assert_eq!(added, [2.0, 1.0]);
    assert_eq!(value(&page, "tasks_live", ""), 0.0);
}

#[test]
fn a_scope_is_observed_like_a_manager() {
    let recorder = PrometheusBuilder::new().build_recorder();
    let words = [String::from("tea"), String::from("coffee")];
    Manager::builder()
        .name("mail")
        .scope(|s| {
            let gauges = with_local_recorder(&recorder, || observe::metrics(s));
            for word in &words {
                s.run(word.as_str(), |_| Ok(())).unwrap();
            }
            gauges.refresh();
        })
        .unwrap();
    assert_eq!(value(&recorder.handle(), "tasks_succeeded_total", ""), 2.0);
}

#[test]
fn what_is_attached_is_dropped_with_the_manager() {
    let drops = Drops::default();
    let manager: Manager<&str> = Manager::new();
    let counted = [drops.counted(), drops.counted(), drops.counted()];
    let [logs, traces, measures] = counted.map(Arc::new);
    observe::log_with(&manager, move |meta: &&str, f| {
        let _ = &logs;
        f.write_str(meta)
    });
    observe::tracing_with(&manager, move |meta: &&str, f| {
        let _ = &traces;
        f.write_str(meta)
    });
    let gauges = observe::metrics_with(&manager, move |_: &&str| {
        let _ = &measures;
        "task"
    });
    manager.run("tea", |_| Ok(())).unwrap();
    drop(manager);
    until_dropped(&drops, 3);
    gauges.refresh();
}

/// A thread that has left lets go of the manager a moment after it was seen to leave.
fn until_dropped(drops: &Drops, expected: usize) {
    for _ in 0..20_000 {
        if drops.count() == expected {
            break;
        }
        std::thread::sleep(Duration::from_millis(1));
    }
    assert_eq!(drops.count(), expected);
}

#[test]
fn a_manager_that_nobody_holds_any_more_is_not_kept_for_being_measured() {
    let recorder = PrometheusBuilder::new().build_recorder();
    let drops = Drops::default();
    let manager = Manager::builder().name("mail").keep_alive(Duration::ZERO).build().unwrap();
    let kept = Arc::new(drops.counted());
    let gauges = with_local_recorder(&recorder, || {
        observe::metrics_with(&manager, move |_: &&str| {
            let _ = &kept;
            "task"
        })
    });
    manager.run("tea", |_| Ok(())).unwrap();
    manager.wait();
    // It stays open: there is no end at which it would drop its hooks.
    manager.detach();
    until_dropped(&drops, 1);
    gauges.refresh();
    for gauge in ["tasks_live", "tasks_running", "tasks_queued", "threads"] {
        assert_eq!(value(&recorder.handle(), gauge, ""), 0.0, "{gauge}");
    }
}
