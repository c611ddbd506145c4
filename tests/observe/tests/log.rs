//! `observe::log`: a line for each step of a task's life, seen by a real logger.

#![allow(clippy::unwrap_used)]

#[path = "../../common/mod.rs"]
mod common;

use std::time::Duration;

use common::{HANG, gated};
use inflight::{Context, Manager, ManualClock, Retry, Task, observe};
use observe_tests::{hear_log, lines_of};

/// Its clock stands still, so that the lines are known to the letter.
fn observed(name: &str) -> (Manager<&'static str>, ManualClock) {
    hear_log();
    let clock = ManualClock::new();
    let manager = Manager::builder().name(name).max_threads(1).clock(&clock).build().unwrap();
    observe::log(&manager);
    (manager, clock)
}

#[test]
fn each_step_of_a_tasks_life_is_a_line() {
    let (manager, _clock) = observed("life");
    let task = |cx: &Context| if cx.attempt() < 2 { Err("no paper".into()) } else { Ok(()) };
    let retry = Retry::attempts(2).delays(|| [Duration::ZERO]);
    manager.run_task(Task::retrying("receipt", task).retry(retry)).unwrap();
    manager.wait();
    let expected = [
        r#"DEBUG task 1 "receipt" added"#,
        r#"DEBUG task 1 "receipt" started (attempt 1 on life-1, queued 0.0ns)"#,
        r#"WARN task 1 "receipt" will be retried: no paper (attempt 1 on life-1, queued 0.0ns, ran 0.0ns)"#,
        r#"DEBUG task 1 "receipt" started (attempt 2 on life-1, queued 0.0ns)"#,
        r#"DEBUG task 1 "receipt" succeeded (attempt 2 on life-1, queued 0.0ns, ran 0.0ns)"#,
    ];
    assert_eq!(lines_of("life"), expected);
}

#[test]
fn a_failure_is_an_error_and_a_cancellation_a_warning() {
    let (manager, _clock) = observed("ends");
    let (gate, task) = gated();
    manager.run("holds the thread", task).unwrap();
    gate.started();
    manager.spawn("unwanted", |_| Ok(())).unwrap().cancel();
    manager.run("broken", |_| panic!("no ink")).unwrap();
    gate.open();
    manager.wait();
    let lines = lines_of("ends");
    let thread = std::thread::current().name().unwrap_or_default().to_owned();
    let unwanted = format!(
        r#"WARN task 2 "unwanted" failed: the task was cancelled (before its first attempt on {thread}, queued 0.0ns)"#
    );
    assert!(lines.contains(&unwanted), "{lines:#?}");
    let broken = r#"ERROR task 3 "broken" failed: the task panicked: no ink (attempt 1 on ends-1, queued 0.0ns, ran 0.0ns)"#;
    assert!(lines.iter().any(|line| line == broken), "{lines:#?}");
}

#[test]
fn a_stall_and_its_end_are_lines_that_name_the_thread_that_hangs() {
    let (manager, clock) = observed("stall");
    let (reports, told) = std::sync::mpsc::channel();
    manager.on_task_stalled(move |_, _, _| reports.send(()).unwrap());
    let (gate, task) = gated();
    manager.run_task(Task::once("import", task).stalled_after(Duration::from_secs(30))).unwrap();
    gate.started();
    clock.advance(Duration::from_secs(31));
    told.recv_timeout(HANG).unwrap();
    gate.open();
    manager.wait();
    let lines = lines_of("stall");
    let stalled =
        r#"WARN task 1 "import" has given no sign of life for 31.0s (attempt 1 on stall-1, queued 0.0ns"#;
    assert!(lines.iter().any(|line| line.starts_with(stalled)), "{lines:#?}");
    let recovered =
        r#"INFO task 1 "import" has recovered after 31.0s (attempt 1 on stall-1, queued 0.0ns, ran 31.0s)"#;
    assert!(lines.iter().any(|line| line == recovered), "{lines:#?}");
}

#[test]
fn a_rejection_is_a_line_also_once_the_manager_is_over() {
    let (manager, _clock) = observed("late");
    manager.run("in time", |_| Ok(())).unwrap();
    manager.shutdown(inflight::Grace::drain(HANG)).unwrap();
    drop(manager.run("too late", |_| Ok(())).unwrap_err());
    assert_eq!(
        lines_of("late").last().unwrap(),
        r#"WARN task "too late" was rejected: the manager is closed"#
    );
}

#[test]
fn whatever_meta_and_error_contain_a_report_is_one_line() {
    hear_log();
    let manager = Manager::builder().name("hostile").build().unwrap();
    observe::log_with(&manager, |meta: &&str, f| f.write_str(meta));
    manager.run("a\nERROR b\u{202e}", |_| Err("c\r\nd\u{1b}[31m".into())).unwrap();
    manager.wait();
    let lines = lines_of("hostile");
    assert!(lines.iter().all(|line| !line.contains(char::is_control)), "{lines:#?}");
    let failed = r"ERROR task 1 a\nERROR b\u{202e} failed: c\r\nd\u{1b}[31m (attempt 1";
    assert!(lines.iter().any(|line| line.starts_with(failed)), "{lines:#?}");
}

#[test]
fn a_meta_that_cannot_be_written_has_its_lines_all_the_same() {
    hear_log();
    let manager = Manager::builder().name("unwritable").build().unwrap();
    observe::log_with(&manager, |meta: &&str, f| {
        write!(f, "{meta} ")?;
        if *meta == "panics" { panic!("no ink") } else { Err(std::fmt::Error) }
    });
    manager.run("panics", |_| Err("no paper".into())).unwrap();
    manager.run("gives up", |_| Ok(())).unwrap();
    manager.wait();
    let lines = lines_of("unwritable");
    for start in [
        "ERROR task 1 panics <panicked being written: no ink> failed: no paper (attempt 1",
        "DEBUG task 2 gives up <gave up being written> succeeded (attempt 1",
    ] {
        assert!(lines.iter().any(|line| line.starts_with(start)), "{start}: {lines:#?}");
    }
    assert_eq!((lines.len(), manager.stats().hook_panics), (6, 0));
}

#[test]
fn an_error_that_cannot_be_written_has_its_line_and_a_name_stays_on_its_own() {
    #[derive(Debug)]
    struct Unspeakable;
    impl std::fmt::Display for Unspeakable {
        fn fmt(&self, _: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
            panic!("no words")
        }
    }
    impl std::error::Error for Unspeakable {}
    let (manager, _clock) = observed("two\nlines");
    manager.run("receipt", |_| Err(Unspeakable.into())).unwrap();
    manager.wait();
    let failed =
        r#"ERROR task 1 "receipt" failed: <panicked being written: no words> (attempt 1 on two\nlines-1"#;
    let lines = lines_of(r"two\nlines");
    assert!(lines.iter().any(|line| line.starts_with(failed)), "{lines:#?}");
}

#[test]
fn a_scope_is_observed_like_a_manager_whatever_its_meta_borrows() {
    hear_log();
    let words = [String::from("tea"), String::from("coffee")];
    let prefix = String::from("cup of ");
    Manager::builder()
        .name("scope")
        .scope(|s| {
            observe::log_with(s, |word: &&str, f| write!(f, "{prefix}{word}"));
            for word in &words {
                s.run(word.as_str(), |_| Ok(())).unwrap();
            }
        })
        .unwrap();
    let lines = lines_of("scope");
    assert!(lines.contains(&"DEBUG task 1 cup of tea added".to_owned()), "{lines:#?}");
    assert_eq!(lines.iter().filter(|line| line.contains("succeeded")).count(), 2, "{lines:#?}");
}
