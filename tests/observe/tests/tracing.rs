//! `observe::tracing`: an event for each step of a task's life, within the span of its submitter, seen by a real
//! subscriber.

#![allow(clippy::unwrap_used)]

#[path = "../../common/mod.rs"]
mod common;

use std::time::Duration;

use common::{HANG, busy, gated};
use inflight::{Context, Grace, Manager, ManualClock, Retry, Task, observe};
use observe_tests::{Event, events_of, hear_tracing, is_closed};
use tracing::{Level, info_span};

fn observed(name: &str) -> (Manager<&'static str>, ManualClock) {
    hear_tracing();
    let clock = ManualClock::new();
    let manager = Manager::builder().name(name).max_threads(1).clock(&clock).build().unwrap();
    observe::tracing(&manager);
    (manager, clock)
}

fn of_message<'e>(events: &'e [Event], message: &str) -> Vec<&'e Event> {
    events.iter().filter(|event| event.get("message") == message).collect()
}

#[test]
fn each_step_is_an_event_with_its_level_and_fields() {
    let (manager, clock) = observed("steps");
    let moves = clock.clone();
    let task = move |cx: &Context| {
        moves.advance(Duration::from_secs(2));
        if cx.attempt() < 2 { Err("no paper".into()) } else { Ok(()) }
    };
    let (gate, holds) = gated();
    manager.run("holds the thread", holds).unwrap();
    gate.started();
    let retry = Retry::attempts(2).delays(|| [Duration::ZERO]);
    manager.run_task(Task::retrying("receipt", task).retry(retry)).unwrap();
    clock.advance(Duration::from_secs(3));
    gate.open();
    manager.wait();

    let events = events_of("steps");
    let steps: Vec<_> = events
        .iter()
        .filter(|event| event.get("id") == "2")
        .map(|event| {
            assert_eq!((&*event.target, event.get("meta")), ("inflight", r#""receipt""#));
            let fields = ["attempt", "thread", "queue_seconds", "run_seconds", "cause", "error"];
            (event.level, event.get("message"), fields.map(|field| event.get(field)))
        })
        .collect();
    let here = std::thread::current().name().unwrap().to_owned();
    let expected = [
        (Level::DEBUG, "task added", ["0", &here, "", "", "", ""]),
        (Level::DEBUG, "task started", ["1", "steps-1", "3.0", "", "", ""]),
        (Level::WARN, "task retried", ["1", "steps-1", "3.0", "2.0", "failed", "error: no paper"]),
        (Level::DEBUG, "task started", ["2", "steps-1", "0.0", "", "", ""]),
        (Level::DEBUG, "task succeeded", ["2", "steps-1", "0.0", "2.0", "", ""]),
    ];
    assert_eq!(steps, expected);
}

#[test]
fn a_failure_says_its_cause_and_is_an_error_unless_somebody_wanted_it() {
    let (manager, clock) = observed("causes");
    manager.run("broken", |_| Err("no paper".into())).unwrap();
    manager.run("panics", |_| panic!("no ink")).unwrap();
    let late = move |cx: &Context| {
        clock.advance(Duration::from_secs(9));
        Ok(cx.check()?)
    };
    manager.run_task(Task::once("late", late).timeout(Duration::from_secs(5))).unwrap();
    manager.wait();
    let gate = busy(&manager, "holds the thread");
    manager.spawn("unwanted", |_| Ok(())).unwrap().cancel();
    manager.run("left behind", |_| Ok(())).unwrap();
    drop(manager.shutdown(Grace::drain(Duration::ZERO)).unwrap_err());
    gate.open();
    let events = events_of("causes");
    let failed: Vec<_> = of_message(&events, "task failed")
        .into_iter()
        .map(|event| {
            (event.get("meta"), event.level, event.get("cause"), event.get("run_seconds").is_empty())
        })
        .collect();
    let expected = [
        (r#""broken""#, Level::ERROR, "failed", false),
        (r#""panics""#, Level::ERROR, "panicked", false),
        (r#""late""#, Level::ERROR, "timed_out", false),
        (r#""unwanted""#, Level::WARN, "cancelled", true),
        (r#""left behind""#, Level::ERROR, "abandoned", true),
    ];
    assert_eq!(failed, expected);
}

#[test]
fn the_submitters_span_is_around_the_task_and_what_is_said_of_it_on_another_thread() {
    let (manager, _clock) = observed("carried");
    let task = |cx: &Context| {
        tracing::info!(manager = "carried", attempt = cx.attempt(), "in the task");
        if cx.attempt() < 2 { Err("again".into()) } else { Ok(()) }
    };
    let retry = Retry::attempts(2).delays(|| [Duration::ZERO]);
    info_span!("request").in_scope(|| {
        manager.run_task(Task::retrying("receipt", task).retry(retry)).unwrap();
    });
    manager.wait();
    // The same thread, used again: nothing of the span is left on it.
    manager
        .run("of nobody", |_| {
            tracing::info!(manager = "carried", "in no span");
            Ok(())
        })
        .unwrap();
    manager.wait();

    let events = events_of("carried");
    let about = |event: &&Event| event.get("id") == "1" || event.get("message") == "in the task";
    assert_eq!(events.iter().filter(about).count(), 7);
    for event in events.iter().filter(about) {
        assert_eq!(event.spans, ["request"], "{event:?}");
        let on_worker = event.emitted_on.as_deref() == Some("carried-1");
        assert_eq!(on_worker, event.get("message") != "task added", "{event:?}");
    }
    assert!(events.iter().filter(|event| event.get("id") == "2").all(|event| event.spans.is_empty()));
    assert!(of_message(&events, "in no span")[0].spans.is_empty());
}

#[test]
fn the_span_stays_open_until_the_task_has_ended() {
    let (manager, _clock) = observed("span");
    let gate = busy(&manager, "holds the thread");
    info_span!("short request").in_scope(|| manager.run("receipt", |_| Ok(())).unwrap());
    assert!(!is_closed("short request"));
    gate.open();
    manager.wait();
    assert!(is_closed("short request"));
}

#[test]
fn a_stall_is_told_within_the_span_too_and_names_the_thread_that_hangs() {
    let (manager, clock) = observed("stalls");
    let (reports, told) = std::sync::mpsc::channel();
    manager.on_task_stalled(move |_, _, _| reports.send(()).unwrap());
    let (gate, task) = gated();
    let progresses = move |cx: &Context| {
        task(cx)?;
        cx.progress("goes on");
        Ok(())
    };
    let task = Task::once("import", progresses).stalled_after(Duration::from_secs(30));
    info_span!("nightly").in_scope(|| manager.run_task(task).unwrap());
    gate.started();
    clock.advance(Duration::from_secs(40));
    told.recv_timeout(HANG).unwrap();
    gate.open();
    manager.wait();
    let events = events_of("stalls");
    for (message, level) in [("task stalled", Level::WARN), ("task recovered", Level::INFO)] {
        let event = of_message(&events, message)[0];
        assert_eq!((event.level, &*event.spans), (level, &["nightly"][..]), "{event:?}");
        assert_eq!((event.get("thread"), event.get("hung_seconds")), ("stalls-1", "40.0"), "{event:?}");
    }
    let stalled = of_message(&events, "task stalled")[0];
    assert_eq!(stalled.emitted_on.as_deref(), Some("stalls-notifier"));
}

#[test]
fn a_function_turns_meta_into_the_fields_of_a_span_around_all_that_is_said_of_its_task() {
    hear_tracing();
    struct Order {
        id: u32,
        item: &'static str,
    }
    let (manager, clock) = (Manager::builder().name("fields").max_threads(1), ManualClock::new());
    let manager = manager.clock(&clock).build().unwrap();
    observe::tracing_spans(&manager, |order: &Order| {
        info_span!("receipt", order = order.id, item = order.item)
    });
    let (reports, told) = std::sync::mpsc::channel();
    manager.on_task_stalled(move |_, _, _| reports.send(()).unwrap());
    let (gate, holds) = gated();
    let task = move |cx: &Context| {
        tracing::info!(manager = "fields", "in the task");
        holds(cx)
    };
    let order = Order { id: 17, item: "tea" };
    let task = Task::once(order, task).stalled_after(Duration::from_secs(30));
    info_span!("request").in_scope(|| manager.run_task(task).map_err(drop).unwrap());
    gate.started();
    clock.advance(Duration::from_secs(40));
    told.recv_timeout(HANG).unwrap();
    gate.open();
    manager.shutdown(Grace::drain(HANG)).map_err(drop).unwrap();
    let late = manager.run(Order { id: 18, item: "mint" }, |_| Ok(()));
    assert!(late.is_err());

    let events = events_of("fields");
    let of = |message: &str| of_message(&events, message)[0];
    let fields = |event: &Event| ["order", "item"].map(|field| event.span_fields.get(field).cloned());
    for message in ["task started", "in the task", "task stalled", "task recovered", "task succeeded"] {
        let event = of(message);
        assert_eq!(event.spans, ["request", "receipt"], "{event:?}");
        assert_eq!(fields(event), [Some("17".into()), Some("tea".into())], "{event:?}");
    }
    // There is one span to a task.
    assert_eq!((of("task added").spans.as_slice(), of("task added").get("id")), (&["request"][..], "1"));
    assert_eq!(fields(of("task rejected")), [Some("18".into()), Some("mint".into())]);
    assert!(events.iter().all(|event| !event.fields.contains_key("meta")));
}

#[test]
fn no_task_fails_because_its_span_or_its_meta_cannot_be_made_out() {
    let (manager, _clock) = observed("unwritable");
    observe::tracing_with(&manager, |_, _| panic!("no ink"));
    observe::tracing_spans(&manager, |_| panic!("no wire"));
    info_span!("request").in_scope(|| manager.run("receipt", |_| Ok(())).unwrap());
    manager.wait();
    let events = events_of("unwritable");
    let succeeded = of_message(&events, "task succeeded");
    let metas: Vec<_> = succeeded.iter().map(|event| event.get("meta")).collect();
    assert_eq!(metas, [r#""receipt""#, "<panicked being written: no ink>", ""]);
    assert!(events.iter().all(|event| event.spans.last() == Some(&"request")), "{events:#?}");
    assert_eq!((manager.stats().failed, manager.stats().hook_panics), (0, 0));
}

#[test]
fn a_rejection_is_told_in_the_span_of_who_hears_of_it_also_once_the_manager_is_over() {
    let (manager, _clock) = observed("rejects");
    manager.run("in time", |_| Ok(())).unwrap();
    manager.shutdown(Grace::drain(HANG)).unwrap();
    info_span!("request").in_scope(|| drop(manager.run("too late", |_| Ok(())).unwrap_err()));
    let events = events_of("rejects");
    let rejected = of_message(&events, "task rejected")[0];
    assert_eq!((rejected.level, &*rejected.spans), (Level::WARN, &["request"][..]));
    assert_eq!((rejected.get("meta"), rejected.get("reason")), (r#""too late""#, "closed"));
}

#[test]
fn a_thread_that_was_refused_is_told_with_the_systems_error() {
    hear_tracing();
    let refuse = |_: &str| Err(std::io::Error::other("no threads today"));
    let manager = Manager::builder().name("refused").thread_gate(refuse).build().unwrap();
    observe::tracing(&manager);
    drop(manager.run("receipt", |_| Ok(())).unwrap_err());
    let events = events_of("refused");
    let fields = ["message", "reason", "error"].map(|field| events[0].get(field));
    assert_eq!(fields, ["task rejected", "spawn", "no threads today"]);
}

#[test]
fn a_scope_is_observed_like_a_manager_and_meta_is_written_as_one_says() {
    hear_tracing();
    struct Order<'o>(&'o str);
    let words = [String::from("tea"), String::from("coffee")];
    Manager::builder()
        .name("scoped")
        .scope(|s| {
            observe::tracing_with(s, |order: &Order<'_>, f| write!(f, "cup of {}", order.0));
            info_span!("table").in_scope(|| {
                for word in &words {
                    s.run(Order(word), |_| Ok(())).map_err(drop).unwrap();
                }
            });
        })
        .unwrap();
    let events = events_of("scoped");
    assert_eq!(of_message(&events, "task succeeded").len(), 2);
    assert!(events.iter().all(|event| event.spans == ["table"]));
    assert!(events.iter().any(|event| event.get("meta") == "cup of tea"));
}
