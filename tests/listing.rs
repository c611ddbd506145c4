//! What can be seen of the live tasks: `tasks`, `TaskInfo`, `progress`, and the table of `Unfinished`.
//! - every kind in every phase, with its numbers, on a clock that the test advances;
//! - a snapshot that is whole while tasks change places, that waits for nobody, and that outlives its tasks;
//! - one task a line, whatever Meta, thread name and note contain.

#![allow(clippy::unwrap_used)]

mod common;

use common::{Drops, HANG, busy, gated, until};
use inflight::{
    BoxError, Context, Grace, Kind, Manager, ManualClock, Phase, Retry, Task, TaskId, Unfinished,
};
use std::error::Error;
use std::fmt;
use std::process::ExitCode;
use std::sync::mpsc;
use std::time::Duration;

const SEC: Duration = Duration::from_secs(1);

#[test]
fn each_kind_is_listed_in_each_phase_with_its_numbers() {
    let clock = ManualClock::new();
    let manager = Manager::builder().name("list").max_threads(1).clock(&clock).build().unwrap();
    let fails = |cx: &Context| {
        cx.progress("went wrong");
        Err::<(), BoxError>("busy".into())
    };
    let retry = Retry::attempts(2).delays(|| [HANG * 100]);
    let retried = manager.run_task(Task::retrying("retried", fails).retry(retry)).unwrap();
    let looping = manager.run_task(Task::looping("looping", |_| Ok(())).every(HANG * 100)).unwrap();
    until(|| manager.tasks().iter().all(|task| task.phase() == Phase::Delayed));
    clock.advance(SEC);
    let delayed = manager.run_task(Task::once("delayed", |_| Ok(())).delay(HANG)).unwrap();
    clock.advance(SEC);
    let (gate, waits) = gated();
    let notes = move |cx: &Context| {
        cx.progress("page 1");
        cx.progress(format!("page {}", 2));
        waits(cx)
    };
    let running = manager.run("running", notes).unwrap();
    gate.started();
    clock.advance(SEC);
    let queued = manager.run("queued", |_| Ok(())).unwrap();
    clock.advance(SEC);

    let listed = manager.tasks();
    let ids: Vec<TaskId> = listed.iter().map(|task| task.id()).collect();
    assert_eq!(ids, [retried, looping, delayed, running, queued], "oldest first");
    let all: Vec<_> = listed
        .iter()
        .map(|task| (*task.meta(), task.kind(), task.phase(), task.age(), task.running_for(), task.attempt()))
        .collect();
    let none = Duration::ZERO;
    let expected = [
        ("retried", Kind::Once, Phase::Delayed, SEC * 4, none, 1),
        ("looping", Kind::Loop, Phase::Delayed, SEC * 4, none, 1),
        ("delayed", Kind::Once, Phase::Delayed, SEC * 3, none, 0),
        ("running", Kind::Once, Phase::Running, SEC * 2, SEC * 2, 1),
        ("queued", Kind::Once, Phase::Queued, SEC, none, 0),
    ];
    assert_eq!(all, expected);
    let threads: Vec<_> = listed.iter().map(|task| task.thread()).collect();
    assert_eq!(threads, [None, None, None, Some("list-1"), None]);
    let notes: Vec<_> = listed.iter().map(|task| task.progress()).collect();
    assert_eq!(notes, [Some("went wrong"), None, None, Some("page 2"), None]);
    assert_eq!((manager.len(), manager.count_of(Kind::Loop), manager.count_of(Kind::Once)), (5, 1, 4));

    manager.cancel();
    assert_eq!(manager.tasks()[3].phase(), Phase::Cancelling);
    assert_eq!(listed[3].phase(), Phase::Running, "a snapshot stays as it was");
    gate.open();
    manager.wait_timeout(Duration::MAX).unwrap();
    assert!(manager.tasks().is_empty());
}

#[test]
fn a_task_that_is_cancelled_by_its_handle_or_its_timeout_is_cancelling() {
    let clock = ManualClock::new();
    let manager = Manager::builder().clock(&clock).build().unwrap();
    let (one, waits) = gated();
    let handle = manager.spawn("cancelled", waits).unwrap();
    one.started();
    let (two, waits) = gated();
    manager.run_task(Task::once("late", waits).timeout(SEC)).unwrap();
    two.started();
    let phases = || [0, 1].map(|n: usize| manager.tasks()[n].phase());
    assert_eq!(phases(), [Phase::Running, Phase::Running]);
    handle.cancel();
    assert_eq!(phases(), [Phase::Cancelling, Phase::Running]);
    clock.advance(SEC);
    assert_eq!(phases(), [Phase::Cancelling, Phase::Cancelling]);
    one.open();
    two.open();
    manager.wait_timeout(Duration::MAX).unwrap();
}

#[test]
fn no_note_is_left_for_the_next_task_of_the_same_thread() {
    let manager = Manager::builder().max_threads(1).build().unwrap();
    manager
        .run("notes", |cx| {
            cx.progress("done");
            Ok(())
        })
        .unwrap();
    let gate = busy(&manager, "says nothing");
    let tasks = manager.tasks();
    assert_eq!((*tasks[0].meta(), tasks[0].progress()), ("says nothing", None));
    gate.open();
    manager.wait();
}

#[test]
fn progress_of_a_derived_context_is_the_tasks_and_outside_of_a_task_it_is_nothing() {
    Context::background().progress("nobody asks");
    let manager = Manager::new();
    let (gate, waits) = gated();
    let notes = move |cx: &Context| {
        cx.with_value(1).with_timeout(HANG).progress("deep down");
        cx.without_cancel().progress("not mine");
        waits(cx)
    };
    manager.run((), notes).unwrap();
    gate.started();
    assert_eq!(manager.tasks()[0].progress(), Some("deep down"));
}

#[test]
fn no_task_is_ever_missing_while_they_change_places() {
    let manager: Manager<usize> = Manager::builder().max_threads(3).build().unwrap();
    let tiny = || Retry::unlimited().delays(|| (0..).map(|n| Duration::from_micros(n % 3 * 20)));
    let mut ids = Vec::new();
    for n in 0..12 {
        let task = match n % 3 {
            0 => Task::looping(n, |_| Ok(())).every(Duration::from_micros(30)),
            1 => Task::looping(n, |_| Ok(())),
            _ => Task::retrying(n, |_| Err("again".into())).retry(tiny()),
        };
        ids.push(manager.run_task(task).unwrap());
    }
    for _ in 0..2_000 {
        let tasks = manager.tasks();
        assert!(tasks.iter().map(|task| task.id()).eq(ids.iter().copied()), "{tasks:?}");
        assert!(tasks.iter().enumerate().all(|(n, task)| *task.meta() == n));
        assert_eq!(manager.len(), 12);
    }
    manager.cancel();
    manager.wait_timeout(HANG).unwrap();
}

#[test]
fn it_waits_for_no_task_and_may_be_asked_for_in_tasks_and_hooks() {
    let manager: Manager<u32> = Manager::builder().max_threads(1).build().unwrap();
    let (says, said) = mpsc::channel();
    let tell = |place: &'static str| {
        let (manager, says) = (manager.uncounted(), says.clone());
        move |own: Option<TaskId>| {
            let tasks = manager.tasks();
            let listed = tasks.iter().any(|task| Some(task.id()) == own);
            says.send((place, listed, tasks.len() == manager.len())).unwrap();
        }
    };
    let (added, succeeded, task) = (tell("added"), tell("succeeded"), tell("task"));
    manager.on_task_added(move |cx, _| added(cx.task_id()));
    manager.on_task_succeeded(move |cx, _| succeeded(cx.task_id()));
    let task = move |cx: &Context| {
        task(cx.task_id());
        Ok(())
    };
    manager.run(1, task).unwrap();
    manager.wait_timeout(HANG).unwrap();
    let told: Vec<_> = said.try_iter().collect();
    assert_eq!(told, [("added", true, true), ("task", true, true), ("succeeded", true, true)]);
}

#[test]
fn a_task_info_outlives_its_task_and_keeps_its_meta_and_nothing_else() {
    let (metas, captures, values) = (Drops::default(), Drops::default(), Drops::default());
    let manager = Manager::new();
    let capture = captures.counted();
    let (gate, waits) = gated();
    let cx = Context::background().with_value(values.counted());
    let task = Task::retrying(metas.counted(), {
        let mut waits = Some(waits);
        move |cx| {
            let _capture = &capture;
            waits.take().map_or(Ok(()), |waits| waits(cx))
        }
    });
    let task = task.context(&cx);
    drop(cx);
    manager.run_task(task).map_err(drop).unwrap();
    gate.started();
    let infos = manager.tasks();
    let copy = infos[0].clone();
    gate.open();
    manager.wait();
    drop(manager);
    assert_eq!((captures.count(), values.count(), metas.count()), (1, 1, 0));
    drop(infos);
    assert_eq!((copy.attempt(), metas.count()), (1, 0));
    drop(copy);
    assert_eq!(metas.count(), 1);
}

// -- the table -------------------------------------------------------------------------------------------

/// Two unfinished tasks, one of which runs.
fn unfinished<M: Send + Sync + 'static>(name: &str, metas: [M; 2]) -> Unfinished<M> {
    let manager = Manager::builder().name(name).max_threads(1).build().unwrap();
    let [running, queued] = metas;
    let (gate, waits) = gated();
    let notes = move |cx: &Context| {
        cx.progress("first\nhalf\tdone");
        waits(cx)
    };
    manager.run(running, notes).map_err(drop).unwrap();
    gate.started();
    manager.run(queued, |_| Ok(())).map_err(drop).unwrap();
    let unfinished = manager.wait_timeout(Duration::ZERO).map_err(Some).unwrap_err().unwrap();
    gate.open();
    unfinished
}

#[test]
fn a_meta_whose_debug_has_many_lines_makes_one() {
    #[derive(Debug)]
    #[allow(dead_code)]
    struct Order {
        item: &'static str,
        note: &'static str,
    }
    struct Verbatim;
    impl fmt::Debug for Verbatim {
        fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("one\ntwo\r\nthree\u{85}four\u{2029}five")
        }
    }
    let order = Order { item: "tea", note: "no\nmilk" };
    let error = unfinished("table", [order, Order { item: "jam", note: "" }]);
    for table in [format!("{error}"), format!("{error:?}"), format!("{error:#?}"), format!("{error:#}")] {
        assert_eq!(table.lines().count(), 4, "{table}");
        assert!(table.contains(r#"Order { item: "tea", note: "no\nmilk" }"#), "{table}");
    }
    let table = unfinished("table", [Verbatim, Verbatim]).to_string();
    let breaks = |c: &char| matches!(c, '\n' | '\r' | '\u{85}' | '\u{2028}' | '\u{2029}');
    assert_eq!((table.lines().count(), table.chars().filter(breaks).count()), (4, 3), "{table}");
}

#[test]
fn a_thread_name_and_a_note_make_one_line_as_well() {
    let table = unfinished("two\nlines", ["a", "b"]).to_string();
    assert_eq!(table.lines().count(), 4, "{table}");
    assert!(table.contains("two\\nlines-1") && table.contains("first\\nhalf\\tdone"), "{table}");
}

#[test]
fn a_meta_that_is_no_debug_has_its_table_too() {
    struct Opaque(u32);
    let error = unfinished("table", [Opaque(17), Opaque(18)]);
    let table = error.table(|meta, f| write!(f, "order {}", meta.0)).to_string();
    let lines: Vec<_> = table.lines().collect();
    assert!(lines[2].contains("order 17") && lines[2].contains("running"), "{table}");
    assert!(lines[3].contains("order 18") && lines[3].contains("queued"), "{table}");
}

#[test]
fn columns_stand_below_each_other() {
    let table = unfinished("table", ["short", "rather a long name for a task"]).to_string();
    let lines: Vec<_> = table.lines().skip(1).collect();
    let column = lines[0].find("phase").unwrap();
    assert!(lines[1][column..].starts_with("running") && lines[2][column..].starts_with("queued"), "{table}");
}

#[test]
fn it_is_ready_for_main_and_for_an_exit_code() {
    fn with_question_mark(manager: &Manager<&'static str>) -> Result<(), Box<dyn Error>> {
        manager.shutdown(Grace::drain(Duration::ZERO))?;
        Ok(())
    }
    fn with_exit_code(manager: &Manager<&'static str>) -> ExitCode {
        match manager.shutdown(Grace::drain(Duration::ZERO)) {
            Ok(()) => ExitCode::SUCCESS,
            Err(_) => ExitCode::FAILURE,
        }
    }
    let manager = Manager::new();
    let gate = busy(&manager, "stuck");
    let error = with_question_mark(&manager).unwrap_err();
    assert!(error.is::<Unfinished<&str>>());
    // `main` prints Debug.
    assert!(format!("{error:?}").lines().any(|line| line.contains("\"stuck\"")));
    let told = |code: ExitCode| format!("{code:?}");
    assert_eq!(told(with_exit_code(&manager)), told(ExitCode::FAILURE));
    gate.open();
    manager.wait();
    assert_eq!(told(with_exit_code(&manager)), told(ExitCode::SUCCESS));
    let worker_may_return_it = |manager: &Manager<u8>| -> Result<(), BoxError> {
        manager.wait_timeout(Duration::ZERO)?;
        Ok(())
    };
    worker_may_return_it(&Manager::new()).unwrap();
}
