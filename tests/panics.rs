//! Panics: contained, told, counted; and everything goes on. With each of the three threading policies:
//! - in a task, with payloads of every kind, also one whose own drop panics;
//! - in each hook, in `capture`, `enter` and their guards, in the drop of a hook;
//! - in the drop of a capture, a context value, an error, a value, a Meta;
//! - in an error's `source`.

#![allow(clippy::unwrap_used)]

mod common;

use common::{HANG, busy};
use inflight::{Builder, Context, Grace, Manager, Task, TaskError};
use std::fmt;
use std::sync::{Arc, Mutex, mpsc};
use std::time::Duration;

/// Panics when it is dropped, unless its thread is panicking already: that would end the process.
struct Bomb(&'static str);

impl Drop for Bomb {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            panic!("{} blew up", self.0);
        }
    }
}

/// One of each policy.
fn policies<M: Send + Sync + 'static>() -> [Manager<M>; 3] {
    let builds: [fn(Builder<M>) -> Builder<M>; 3] =
        [|builder| builder.max_threads(1), Builder::thread_per_task, Builder::inline];
    builds.map(|build| build(Manager::builder()).build().unwrap())
}

/// What the failures say, in order.
fn failures<M: Send + Sync + 'static>(manager: &Manager<M>) -> mpsc::Receiver<String> {
    let (says, said) = mpsc::channel();
    manager.on_task_failed(move |_, _, error| says.send(error.to_string()).unwrap());
    said
}

/// It still works, and comes to a clean end.
fn is_sound<M: Send + Sync + 'static>(manager: Manager<M>, meta: M) {
    manager.run(meta, |_| Ok(())).map_err(drop).unwrap();
    manager.shutdown(Grace::drain(HANG)).map_err(drop).expect("nothing hangs");
    assert_eq!((manager.len(), manager.stats().threads), (0, 0));
}

#[test]
fn a_panic_in_a_task_is_its_failure_with_the_message() {
    for manager in policies() {
        let said = failures(&manager);
        manager.run((), |_| panic!("jammed")).unwrap();
        assert_eq!(said.recv_timeout(HANG).unwrap(), "the task panicked: jammed");
        manager.run((), |_| panic!("jammed on page {}", 7)).unwrap();
        assert_eq!(said.recv_timeout(HANG).unwrap(), "the task panicked: jammed on page 7");
        manager.run((), |_| std::panic::panic_any(7_u8)).unwrap();
        assert_eq!(said.recv_timeout(HANG).unwrap(), "the task panicked: a panic whose payload is no text");
        manager.wait();
        assert_eq!((manager.stats().failed, manager.stats().hook_panics), (3, 0));
        is_sound(manager, ());
    }
}

#[test]
fn a_payload_whose_drop_panics_is_contained_and_so_is_the_payload_of_that() {
    struct Nested;
    impl Drop for Nested {
        fn drop(&mut self) {
            std::panic::panic_any(Bomb("the payload's payload"));
        }
    }
    for manager in policies() {
        let said = failures(&manager);
        manager.run((), |_| std::panic::panic_any(Bomb("the payload"))).unwrap();
        manager.run((), |_| std::panic::panic_any(Nested)).unwrap();
        for _ in 0..2 {
            let told = said.recv_timeout(HANG).unwrap();
            assert_eq!(told, "the task panicked: a panic whose payload is no text");
        }
        manager.wait();
        assert_eq!((manager.stats().failed, manager.stats().hook_panics), (2, 2));
        is_sound(manager, ());
    }
}

#[test]
fn a_capture_whose_drop_panics_fails_the_task_that_ran() {
    for manager in policies() {
        let said = failures(&manager);
        let bomb = Bomb("a capture");
        let task = move |_: &Context| {
            let _bomb = &bomb;
            Ok(())
        };
        manager.run((), task).unwrap();
        assert_eq!(said.recv_timeout(HANG).unwrap(), "the task panicked: a capture blew up");
        manager.wait();
        is_sound(manager, ());
    }
}

#[test]
fn a_capture_whose_drop_panics_is_counted_where_the_task_did_not_run() {
    let manager = Manager::builder().max_threads(1).build().unwrap();
    let said = failures(&manager);
    let gate = busy(&manager, ());
    let bomb = Bomb("a capture");
    let task = move |_: &Context| {
        let _bomb = &bomb;
        Ok(())
    };
    let handle = manager.spawn((), task).unwrap();
    handle.cancel();
    assert_eq!(said.recv_timeout(HANG).unwrap(), "the task was cancelled");
    assert!(matches!(handle.join(), Err(TaskError::Cancelled)));
    assert_eq!(manager.stats().hook_panics, 1);
    gate.open();
    is_sound(manager, ());
}

#[test]
fn a_closure_that_may_be_called_again_and_whose_drop_panics_has_succeeded_all_the_same() {
    for manager in policies() {
        let bomb = Bomb("a capture");
        let task = Task::retrying((), move |_| {
            let _bomb = &bomb;
            Ok(())
        });
        manager.run_task(task).unwrap();
        manager.wait();
        assert_eq!((manager.stats().succeeded, manager.stats().hook_panics), (1, 1));
        is_sound(manager, ());
    }
}

#[test]
fn a_hook_that_panics_is_counted_and_keeps_no_other_from_its_turn() {
    for manager in policies() {
        let log: Arc<Mutex<Vec<String>>> = Arc::default();
        let says = |name: &'static str| {
            let log = Arc::clone(&log);
            move |meta: &&str| {
                log.lock().unwrap().push(format!("{name} {meta}"));
                if *meta != "fine" {
                    panic!("in {name}");
                }
            }
        };
        for _ in 0..2 {
            let (added, succeeded, failed) = (says("added"), says("succeeded"), says("failed"));
            manager
                .on_task_added(move |_, meta| added(meta))
                .on_task_succeeded(move |_, meta| succeeded(meta))
                .on_task_failed(move |_, meta, _| failed(meta));
        }
        manager.run("one", |_| Ok(())).unwrap();
        manager.wait();
        manager.run("two", |_| Err("no".into())).unwrap();
        manager.wait();
        let twice = ["added one", "succeeded one", "added two", "failed two"].map(|line| [line; 2]);
        assert_eq!(*log.lock().unwrap(), twice.concat());
        let stats = manager.stats();
        assert_eq!((stats.hook_panics, stats.succeeded, stats.failed), (8, 1, 1));
        is_sound(manager, "fine");
    }
}

#[test]
fn a_hook_whose_drop_panics_is_counted_at_the_end() {
    for manager in policies() {
        let bomb = Bomb("a hook");
        manager.on_task_succeeded(move |_, ()| {
            let _bomb = &bomb;
        });
        manager.run((), |_| Ok(())).unwrap();
        manager.wait();
        let watch = manager.uncounted();
        is_sound(manager, ());
        assert_eq!(watch.stats().hook_panics, 1);
    }
}

#[test]
fn a_hook_that_comes_too_late_or_is_never_called_is_dropped_as_safely() {
    for manager in policies() {
        manager.close();
        let late = Bomb("a late hook");
        manager.on_task_succeeded(move |_, ()| {
            let _late = &late;
        });
        assert_eq!(manager.stats().hook_panics, 1);
    }
    for manager in policies() {
        let uncalled = Bomb("a hook that nobody called");
        manager.on_task_succeeded(move |_, ()| {
            let _uncalled = &uncalled;
        });
        manager.detach();
    }
}

#[test]
fn carry_may_panic_anywhere() {
    for manager in policies() {
        let said = failures(&manager);
        manager.carry(
            |meta: &&str| {
                assert_ne!(*meta, "capture", "nothing to capture");
                *meta
            },
            |meta: &&str| {
                assert_ne!(*meta, "enter", "no entrance");
                (*meta == "guard").then(|| Bomb("a guard"))
            },
        );
        manager.run("capture", |_| unreachable!()).unwrap();
        assert!(said.recv_timeout(HANG).unwrap().contains("nothing to capture"));
        manager.run("enter", |_| unreachable!()).unwrap();
        assert!(said.recv_timeout(HANG).unwrap().contains("no entrance"));
        manager.run("guard", |_| Ok(())).unwrap();
        manager.wait();
        let stats = manager.stats();
        assert_eq!((stats.failed, stats.succeeded, stats.hook_panics), (2, 1, 1));
        is_sound(manager, "fine");
    }
}

#[test]
fn what_was_captured_may_panic_when_it_is_dropped() {
    for manager in policies() {
        manager.carry(|(): &()| Bomb("what was captured"), |_| ());
        manager.run((), |_| Ok(())).unwrap();
        manager.wait();
        assert_eq!((manager.stats().succeeded, manager.stats().hook_panics), (1, 1));
        is_sound(manager, ());
    }
}

#[test]
fn a_context_value_whose_drop_panics_is_counted_and_the_others_are_dropped() {
    for manager in policies() {
        let drops = common::Drops::default();
        let background = Context::background();
        let cx =
            background.with_value(drops.counted()).with_value(Bomb("a value")).with_value(drops.counted());
        let task = Task::once((), |_| Ok(())).context(&cx);
        drop(cx);
        manager.run_task(task).unwrap();
        manager.wait();
        let stats = manager.stats();
        assert_eq!((stats.succeeded, stats.hook_panics, drops.count()), (1, 1, 2));
        is_sound(manager, ());
    }
}

/// An error with a bomb in it.
struct Explosive(Bomb);

impl fmt::Debug for Explosive {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.0.0)
    }
}

impl fmt::Display for Explosive {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.0.0)
    }
}

impl std::error::Error for Explosive {}

#[test]
fn an_error_whose_drop_panics_is_told_and_counted() {
    for manager in policies() {
        let said = failures(&manager);
        manager.run((), |_| Err(Explosive(Bomb("an error")).into())).unwrap();
        assert_eq!(said.recv_timeout(HANG).unwrap(), "an error");
        manager.wait();
        assert_eq!((manager.stats().failed, manager.stats().hook_panics), (1, 1));
        is_sound(manager, ());
    }
}

#[test]
fn an_error_whose_source_panics_is_contained() {
    #[derive(Debug)]
    struct NoSource;
    impl fmt::Display for NoSource {
        fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("no source")
        }
    }
    impl std::error::Error for NoSource {
        fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
            panic!("there is none")
        }
    }
    for manager in policies() {
        let said = failures(&manager);
        // Whether a late error is a cancellation is looked for in its sources.
        manager.run_task(Task::once((), |_| Err(NoSource.into())).timeout(Duration::ZERO)).unwrap();
        assert_eq!(said.recv_timeout(HANG).unwrap(), "the task panicked: there is none");
        manager.wait();
        is_sound(manager, ());
    }
}

#[test]
fn a_meta_whose_drop_panics_is_counted_and_kills_nobody() {
    for manager in policies() {
        manager.run(Some(Bomb("Meta")), |_| Ok(())).map_err(drop).unwrap();
        // It goes just after its task has left the count.
        common::until(|| manager.stats().hook_panics == 1);
        assert_eq!((manager.len(), manager.stats().succeeded), (0, 1));
        is_sound(manager, None);
    }
}

#[test]
fn a_worker_outlives_all_of_it() {
    let manager = Manager::builder().max_threads(1).build().unwrap();
    manager.on_task_added(|_, _| panic!("in a hook"));
    manager.on_task_succeeded(|_, _| panic!("in a hook"));
    manager.on_task_failed(|_, _, _| panic!("in a hook"));
    let mut names = Vec::new();
    for n in 0..50 {
        let bomb = Bomb("a capture");
        let name = manager.spawn(None, move |_| {
            let _bomb = &bomb;
            if n % 2 == 0 {
                panic!("on purpose");
            }
            Ok(())
        });
        drop(name);
        let name = |_: &Context| Ok(std::thread::current().name().map(str::to_owned));
        names.push(manager.spawn(Some(Bomb("Meta")), name).map_err(drop).unwrap().join().unwrap());
    }
    names.dedup();
    assert_eq!((names, manager.stats().peak_threads), (vec![Some("inflight-1".into())], 1));
    manager.shutdown(Grace::drain(HANG)).map_err(drop).unwrap();
}
