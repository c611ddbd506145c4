//! Inside of tasks, hooks, captures and drops of the same manager: what would wait for itself says so, and the
//! rest works.

#![allow(clippy::unwrap_used)]

mod common;

use common::{HANG, busy, gated};
use inflight::{Context, Grace, Manager, Reason, Task};
use std::sync::mpsc;
use std::time::Duration;

/// What each verb that waits does, called right here.
fn refusals(manager: &Manager<&'static str>) -> usize {
    type Verb = fn(&Manager<&'static str>);
    let verbs: [Verb; 3] = [
        |manager| manager.wait(),
        |manager| drop(manager.wait_timeout(HANG)),
        |manager| drop(manager.shutdown(Grace::drain(HANG))),
    ];
    let refuses = |verb: &Verb| {
        let call = std::panic::AssertUnwindSafe(|| verb(manager));
        let panic = std::panic::catch_unwind(call).expect_err("it panics");
        panic.downcast_ref::<String>().is_some_and(|message| message.contains("would wait for"))
    };
    verbs.iter().filter(|verb| refuses(verb)).count()
}

#[test]
fn the_verbs_that_wait_panic_in_every_call_out() {
    let manager: Manager<&str> = Manager::new();
    let (says, said) = mpsc::channel();
    let tell = |place: &'static str| {
        let (manager, says) = (manager.uncounted(), says.clone());
        move || says.send((place, refusals(&manager))).unwrap()
    };
    let (added, succeeded, failed) = (tell("added"), tell("succeeded"), tell("failed"));
    let (capture, enter) = (tell("capture"), tell("enter"));
    let once = std::sync::Once::new();
    manager
        .on_task_added(move |_, _| added())
        .on_task_succeeded(move |_, _| succeeded())
        .on_task_failed(move |_, _, _| failed())
        .carry(move |_| capture(), move |()| once.call_once(&enter));
    struct OnDrop<F: FnMut()>(F);
    impl<F: FnMut()> Drop for OnDrop<F> {
        fn drop(&mut self) {
            (self.0)();
        }
    }
    let (task, dropped) = (tell("task"), OnDrop(tell("drop")));
    let job = move |_: &Context| {
        let _dropped = &dropped;
        task();
        Ok(())
    };
    manager.run("succeeds", job).unwrap();
    manager.wait();
    manager.run("fails", |_| Err("on purpose".into())).unwrap();
    manager.wait();
    let mut told: Vec<_> = said.try_iter().collect();
    told.sort_unstable();
    told.dedup();
    let places = ["added", "capture", "drop", "enter", "failed", "succeeded", "task"];
    assert_eq!(told, places.map(|place| (place, 3)));
    assert_eq!(manager.stats().hook_panics, 0);
}

#[test]
fn another_managers_call_outs_are_no_hindrance() {
    let (outer, inner): (Manager<()>, Manager<()>) = (Manager::new(), Manager::new());
    let handle = outer.spawn((), move |_| {
        inner.run((), |_| Ok(()))?;
        inner.wait();
        Ok(inner.shutdown(Grace::drain(HANG)).is_ok())
    });
    assert!(handle.unwrap().join().unwrap());
}

#[test]
fn run_on_a_full_backlog_answers_full_at_once() {
    let manager = Manager::builder().max_threads(1).max_pending(1).build().unwrap();
    let inner = manager.uncounted();
    let (says, said) = mpsc::channel();
    let task = move |_: &Context| {
        inner.run("fills it", |_| Ok(()))?;
        let rejected = inner.run("too much", |_| Ok(())).unwrap_err();
        Ok(says.send(matches!(rejected.reason(), Reason::Full))?)
    };
    manager.run("task", task).unwrap();
    assert!(said.recv_timeout(HANG).unwrap());
    manager.wait_timeout(HANG).unwrap();
}

#[test]
fn dropping_the_last_handle_in_a_hook_closes_and_does_not_wait() {
    let manager: Manager<&str> = Manager::new();
    let watch = manager.uncounted();
    let (gate, task) = gated();
    manager.run("goes on", task).unwrap();
    gate.started();
    let last = std::sync::Mutex::new(Some(manager.clone()));
    let (says, said) = mpsc::channel();
    manager.on_task_succeeded(move |_, meta| {
        if *meta == "drops" {
            drop(last.lock().unwrap().take());
            let _ = says.send(());
        }
    });
    let hold = {
        let (hold, holds) = gated();
        manager.run("drops", holds).unwrap();
        hold
    };
    hold.started();
    // Not the last handle, since the hook owns one.
    drop(manager);
    assert!(!watch.is_closed());
    hold.open();
    said.recv_timeout(HANG).expect("its drop does not wait for the task that goes on");
    assert!(watch.is_closed() && !watch.is_empty());
    gate.open();
    watch.wait_timeout(HANG).unwrap();
}

#[test]
fn a_thread_that_is_panicking_gets_no_second_panic() {
    struct Waits(Manager<&'static str>, mpsc::Sender<bool>);
    impl Drop for Waits {
        fn drop(&mut self) {
            assert!(std::thread::panicking());
            self.0.wait();
            let unfinished = self.0.wait_timeout(HANG).is_err();
            let named = self.0.shutdown(Grace::drain(HANG)).is_err();
            let _ = self.1.send(unfinished && named && self.0.is_closed());
        }
    }
    let manager: Manager<&str> = Manager::new();
    let (says, said) = mpsc::channel();
    let waits = Waits(manager.uncounted(), says);
    let task = move |_: &Context| {
        let _waits = waits;
        panic!("on purpose")
    };
    manager.run("panics", task).unwrap();
    assert!(said.recv_timeout(HANG).unwrap());
    manager.wait_timeout(HANG).unwrap();
    assert_eq!(manager.stats().failed, 1);
}

#[test]
fn tasks_and_hooks_may_use_every_other_verb() {
    let manager: Manager<&str> = Manager::new();
    let inner = manager.uncounted();
    let (says, said) = mpsc::channel();
    manager.on_task_succeeded(move |_, meta| {
        let _ = (inner.len(), inner.tasks(), inner.stats(), inner.is_closed());
        inner.on_task_failed(|_, _, _| ());
        if *meta == "first" {
            let says = says.clone();
            inner.run("from a hook", move |_| Ok(says.send(())?)).unwrap();
        }
    });
    manager.run("first", |_| Ok(())).unwrap();
    said.recv_timeout(HANG).unwrap();
    let inner = manager.uncounted();
    manager
        .run("cancels", move |_| {
            inner.cancel();
            Ok(())
        })
        .unwrap();
    manager.wait_timeout(HANG).unwrap();
    assert!(manager.is_closed());
}

#[test]
fn a_hook_that_owns_a_handle_of_its_manager_is_no_leak_once_that_is_closed_and_empty() {
    let manager: Manager<&str> = Manager::new();
    let drops = common::Drops::default();
    let (owned, counted) = (manager.clone(), drops.counted());
    manager.on_task_succeeded(move |_, _| {
        let _ = (&owned, &counted);
    });
    manager.run("task", |_| Ok(())).unwrap();
    manager.wait();
    assert_eq!(drops.count(), 0);
    manager.close();
    // An idle worker may have a copy, until it leaves.
    while drops.count() == 0 {
        std::thread::yield_now();
    }
    let late = drops.counted();
    manager.on_task_succeeded(move |_, _| {
        let _ = &late;
    });
    assert_eq!(drops.count(), 2, "a hook that is added later is dropped at once");
}

#[test]
fn detach_gives_the_last_handle_up_without_closing() {
    let manager: Manager<&str> = Manager::new();
    let watch = manager.uncounted();
    let gate = busy(&manager, "goes on");
    manager.detach();
    assert!(!watch.is_closed());
    watch.run("more", |_| Ok(())).unwrap();
    gate.open();
    watch.wait_timeout(HANG).unwrap();
    watch.run_task(Task::once("later", |_| Ok(())).timeout(Duration::ZERO)).unwrap();
    watch.shutdown(Grace::drain(HANG)).unwrap();
}

#[test]
fn dropping_the_last_handle_waits_and_an_uncounted_one_does_not_matter() {
    let manager: Manager<&str> = Manager::new();
    let watch = manager.uncounted();
    let gate = busy(&manager, "runs");
    let second = manager.clone();
    drop(manager);
    assert!(!watch.is_closed());
    let waits = std::thread::spawn(move || drop(second));
    while !watch.is_closed() {
        std::thread::yield_now();
    }
    assert!(!waits.is_finished());
    gate.open();
    waits.join().unwrap();
    assert_eq!((watch.len(), watch.stats().threads), (0, 0));
}
