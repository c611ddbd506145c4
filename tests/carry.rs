//! What a task carries along from its submitter: captured once, entered around each attempt and its hooks.

#![allow(clippy::unwrap_used)]

use inflight::{Context, Manager, Retry, Task, TaskError};
use std::cell::Cell;
use std::marker::PhantomData;
use std::rc::Rc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

thread_local!(static REQUEST: Cell<u32> = const { Cell::new(0) });

/// Puts the thread-local back; not `Send`.
struct Restore(u32, PhantomData<Rc<()>>);

impl Drop for Restore {
    fn drop(&mut self) {
        REQUEST.set(self.0);
    }
}

fn carrying() -> Manager<&'static str> {
    let manager = Manager::builder().max_threads(1).build().unwrap();
    manager.carry(|_| REQUEST.get(), |id: &u32| Restore(REQUEST.replace(*id), PhantomData));
    manager
}

#[test]
fn a_thread_local_of_the_submitter_reaches_task_and_hooks_on_a_reused_worker() {
    let manager = carrying();
    let seen = Arc::new(Mutex::new(Vec::new()));
    let (in_task, in_hook) = (Arc::clone(&seen), Arc::clone(&seen));
    manager.on_task_succeeded(move |_, _| in_hook.lock().unwrap().push(("hook", REQUEST.get())));
    for id in [7, 8] {
        REQUEST.set(id);
        let seen = Arc::clone(&in_task);
        manager
            .run("request", move |_| {
                seen.lock().unwrap().push(("task", REQUEST.get()));
                Ok(())
            })
            .unwrap();
        manager.wait();
    }
    REQUEST.set(0);
    assert_eq!(*seen.lock().unwrap(), [("task", 7), ("hook", 7), ("task", 8), ("hook", 8)]);
}

#[test]
fn it_is_captured_once_and_entered_around_each_attempt() {
    let manager = Manager::new();
    let counts: Arc<[AtomicUsize; 3]> = Arc::default();
    struct Left(Arc<[AtomicUsize; 3]>);
    impl Drop for Left {
        fn drop(&mut self) {
            self.0[2].fetch_add(1, Ordering::SeqCst);
        }
    }
    let (captures, enters) = (Arc::clone(&counts), Arc::clone(&counts));
    manager.carry(
        move |_: &&str| {
            captures[0].fetch_add(1, Ordering::SeqCst);
        },
        move |(): &()| {
            enters[1].fetch_add(1, Ordering::SeqCst);
            Left(Arc::clone(&enters))
        },
    );
    let task = |cx: &Context| if cx.attempt() < 3 { Err("again".into()) } else { Ok(()) };
    let retry = Retry::attempts(3).delays(|| [Duration::ZERO; 3]);
    manager.run_task(Task::retrying("task", task).retry(retry)).unwrap();
    manager.wait();
    assert_eq!(counts.each_ref().map(|count| count.load(Ordering::SeqCst)), [1, 3, 3]);
}

#[test]
fn several_nest_in_the_order_in_which_they_were_added() {
    struct Says(Arc<Mutex<Vec<String>>>, &'static str);
    impl Drop for Says {
        fn drop(&mut self) {
            self.0.lock().unwrap().push(format!("leave {}", self.1));
        }
    }
    let manager = Manager::new();
    let log: Arc<Mutex<Vec<String>>> = Arc::default();
    for name in ["outer", "inner"] {
        let (captures, enters) = (Arc::clone(&log), Arc::clone(&log));
        manager.carry(
            move |_: &()| captures.lock().unwrap().push(format!("capture {name}")),
            move |(): &()| {
                enters.lock().unwrap().push(format!("enter {name}"));
                Says(Arc::clone(&enters), name)
            },
        );
    }
    manager.run((), |_| Ok(())).unwrap();
    manager.wait();
    let expected =
        ["capture outer", "capture inner", "enter outer", "enter inner", "leave inner", "leave outer"];
    assert_eq!(*log.lock().unwrap(), expected);
}

#[test]
fn a_panic_in_capture_is_a_failed_task_that_its_submitter_ends() {
    let manager = Manager::new();
    let told = Arc::new(Mutex::new(Vec::new()));
    let tells = Arc::clone(&told);
    manager.on_task_failed(move |cx, _, error| {
        tells.lock().unwrap().push((cx.attempt(), error.to_string(), std::thread::current().id()));
    });
    manager.carry(|_: &()| -> u32 { panic!("nothing to capture") }, |_| ());
    manager.run((), |_| unreachable!()).unwrap();
    let here = std::thread::current().id();
    assert_eq!(*told.lock().unwrap(), [(0, "the task panicked: nothing to capture".to_owned(), here)]);
    assert_eq!((manager.len(), manager.stats().failed), (0, 1));
}

#[test]
fn a_panic_in_enter_is_a_failed_attempt_and_no_dead_worker() {
    let manager = Manager::builder().max_threads(1).build().unwrap();
    let calls = AtomicUsize::new(0);
    manager
        .carry(|_: &()| (), move |(): &()| assert!(calls.fetch_add(1, Ordering::SeqCst) > 0, "no entrance"));
    let failed = manager.spawn((), |_| Ok(())).unwrap().join();
    assert!(matches!(failed, Err(TaskError::Panicked(message)) if message == "no entrance"));
    manager.spawn((), |_| Ok(())).unwrap().join().unwrap();
    manager.wait();
    assert_eq!(manager.stats().peak_threads, 1);
}

#[test]
fn for_a_task_that_never_ran_it_is_entered_around_its_hooks() {
    let manager = carrying();
    let (open, gate) = std::sync::mpsc::channel::<()>();
    let holds = move |_: &Context| {
        let _ = gate.recv();
        Ok(())
    };
    manager.run("holds the thread", holds).unwrap();
    let seen = Arc::new(Mutex::new(Vec::new()));
    let sees = Arc::clone(&seen);
    manager.on_task_failed(move |_, _, _| sees.lock().unwrap().push(REQUEST.get()));
    REQUEST.set(9);
    let handle = manager.spawn("unrun", |_| Ok(())).unwrap();
    REQUEST.set(1);
    handle.cancel();
    assert_eq!((seen.lock().unwrap().as_slice(), REQUEST.get()), (&[9][..], 1));
    drop(open);
}
