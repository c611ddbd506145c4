//! `spawn` and its handles: typed results, once, without holding anything up or losing anything.

#![allow(clippy::unwrap_used)]

use inflight::{BoxError, Context, Grace, Handle, Manager, TaskError};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc;
use std::time::Duration;

const HANG: Duration = Duration::from_secs(60);

struct Dropped(Arc<AtomicUsize>);

impl Drop for Dropped {
    fn drop(&mut self) {
        self.0.fetch_add(1, Ordering::SeqCst);
    }
}

/// A manager whose only thread is busy until the sender is dropped.
fn busy() -> (Manager<&'static str>, mpsc::Sender<()>) {
    let manager = Manager::builder().max_threads(1).build().unwrap();
    let (open, gate) = mpsc::channel::<()>();
    let (starts, started) = mpsc::channel();
    let holds = move |_: &Context| {
        starts.send(())?;
        let _ = gate.recv_timeout(HANG);
        Ok(())
    };
    manager.run("holds the thread", holds).unwrap();
    started.recv_timeout(HANG).unwrap();
    (manager, open)
}

#[test]
fn join_returns_the_value_or_says_why_there_is_none() {
    let manager = Manager::new();
    assert_eq!(manager.spawn("value", |_| Ok(7)).unwrap().join().unwrap(), 7);
    let error = manager.spawn("error", |_| Err::<(), _>("no paper".into())).unwrap().join().unwrap_err();
    assert!(matches!(&error, TaskError::Failed(_)) && error.to_string() == "no paper");
    let error = manager.spawn("panic", |_| -> Result<(), BoxError> { panic!("jammed") }).unwrap().join();
    assert!(matches!(error, Err(TaskError::Panicked(message)) if message == "jammed"));
}

#[test]
fn join_timeout_hands_the_handle_back() {
    let (manager, open) = busy();
    let handle = manager.spawn("later", |_| Ok(7)).unwrap();
    let id = handle.id();
    let handle = handle.join_timeout(Duration::ZERO).unwrap_err();
    assert_eq!((handle.id(), handle.is_finished()), (id, false));
    drop(open);
    assert_eq!(handle.join_timeout(Duration::MAX).unwrap().unwrap(), 7);
}

#[test]
fn a_dropped_handle_changes_nothing() {
    let (manager, open) = busy();
    let values = Arc::new(AtomicUsize::new(0));
    let value = Dropped(Arc::clone(&values));
    drop(manager.spawn("unwanted", move |_| Ok(value)).unwrap());
    assert_eq!(manager.len(), 2);
    drop(open);
    manager.wait();
    assert_eq!(manager.stats().succeeded, 2);
    assert_eq!(values.load(Ordering::SeqCst), 1, "the value that nobody wants is dropped, once");
}

#[test]
fn the_value_is_freed_as_soon_as_the_handle_is_dropped() {
    let manager = Manager::new();
    let values = Arc::new(AtomicUsize::new(0));
    let value = Dropped(Arc::clone(&values));
    let handle = manager.spawn("value", move |_| Ok(value)).unwrap();
    let info = manager.tasks();
    manager.wait();
    assert_eq!(values.load(Ordering::SeqCst), 0);
    drop(handle);
    assert_eq!(values.load(Ordering::SeqCst), 1);
    drop(info);
}

#[test]
fn a_queued_task_that_is_cancelled_ends_at_once_unrun_and_once() {
    let (manager, open) = busy();
    let (hooks, hook) = mpsc::channel();
    manager.on_task_failed(move |cx, meta, error| {
        let _ = hooks.send((*meta, cx.attempt(), error.to_string(), std::thread::current().id()));
    });
    let handle = manager.spawn("unrun", |_| -> Result<(), BoxError> { unreachable!() }).unwrap();
    handle.cancel();
    let here = std::thread::current().id();
    let told = hook.try_recv().expect("the hooks have run on the canceller's thread");
    assert_eq!(told, ("unrun", 0, "the task was cancelled".into(), here));
    assert_eq!(manager.len(), 1);
    handle.cancel();
    assert!(hook.try_recv().is_err());
    assert!(matches!(handle.join(), Err(TaskError::Cancelled)));
    drop(open);
}

#[test]
fn a_running_task_that_is_cancelled_has_its_context_cancelled_and_no_other() {
    let manager = Manager::new();
    let (starts, started) = mpsc::channel();
    let sleeps = |starts: mpsc::Sender<()>| {
        move |cx: &Context| {
            starts.send(())?;
            Ok(cx.sleep(HANG)?)
        }
    };
    let one = manager.spawn("one", sleeps(starts.clone())).unwrap();
    let other = manager.spawn("other", sleeps(starts)).unwrap();
    started.recv_timeout(HANG).unwrap();
    started.recv_timeout(HANG).unwrap();
    one.cancel();
    assert!(matches!(one.join(), Err(TaskError::Cancelled)));
    assert!(!other.is_finished());
    manager.cancel();
}

#[test]
fn many_queued_tasks_are_cancelled_out_of_the_middle() {
    let (manager, open) = busy();
    let handles: Vec<_> = (0..1_000_usize).map(|n| manager.spawn("n", move |_| Ok(n)).unwrap()).collect();
    for handle in handles.iter().skip(1).step_by(2) {
        handle.cancel();
    }
    assert_eq!(manager.len(), 501);
    drop(open);
    for (n, handle) in handles.into_iter().enumerate() {
        match handle.join() {
            Ok(value) => assert_eq!((value, n % 2), (n, 0)),
            Err(error) => assert!(matches!(error, TaskError::Cancelled) && n % 2 == 1),
        }
    }
}

#[test]
fn a_tree_of_fork_and_join_ends_on_one_thread() {
    fn fib(manager: &Manager<u32>, n: u32) -> Result<u32, BoxError> {
        if n < 2 {
            return Ok(n);
        }
        let inner = manager.clone();
        let left = manager.spawn(n - 1, move |_| fib(&inner, n - 1))?;
        let right = fib(manager, n - 2)?;
        Ok(left.join()? + right)
    }
    let manager = Manager::builder().max_threads(1).build().unwrap();
    let inner = manager.uncounted();
    let handle = manager.spawn(15, move |_| fib(&inner, 15)).unwrap();
    assert_eq!(handle.join_timeout(HANG).expect("it ends").unwrap(), 610);
    manager.wait();
    assert_eq!(manager.stats().peak_threads, 1);
}

#[test]
fn joining_oneself_panics_and_says_so() {
    let manager = Manager::new();
    let (give, take) = mpsc::channel::<Handle<()>>();
    let handle = manager.spawn("self", move |_| Ok(take.recv_timeout(HANG)?.join()?)).unwrap();
    let (errors, error) = mpsc::channel();
    manager.on_task_failed(move |_, _, failure| {
        let _ = errors.send(failure.to_string());
    });
    give.send(handle).unwrap();
    assert!(error.recv_timeout(HANG).unwrap().contains("inside of the very task"));
}

#[test]
fn a_hook_may_join_another_task_but_not_its_own() {
    let manager = Manager::new();
    let (give, take) = mpsc::channel::<Handle<u32>>();
    let (says, said) = mpsc::channel();
    let take = std::sync::Mutex::new(take);
    manager.on_task_succeeded(move |_, meta| {
        if *meta == "subject" {
            let own = take.lock().unwrap().recv_timeout(HANG).unwrap();
            let other = take.lock().unwrap().recv_timeout(HANG).unwrap();
            let _ = says.send(other.join().unwrap());
            own.join().unwrap();
        }
    });
    let other = manager.spawn("other", |_| Ok(7)).unwrap();
    let own = manager.spawn("subject", |_| Ok(1)).unwrap();
    give.send(own).unwrap();
    give.send(other).unwrap();
    assert_eq!(said.recv_timeout(HANG).unwrap(), 7);
    manager.wait();
    assert_eq!(manager.stats().hook_panics, 1);
}

#[test]
fn a_handle_is_answered_when_the_captures_are_gone_and_before_the_hooks() {
    let manager = Manager::new();
    let (open, gate) = mpsc::channel::<()>();
    let gate = std::sync::Mutex::new(gate);
    manager.on_task_succeeded(move |_, _| gate.lock().unwrap().recv_timeout(HANG).unwrap());
    let drops = Arc::new(AtomicUsize::new(0));
    let capture = Dropped(Arc::clone(&drops));
    let task = move |_: &Context| {
        let _capture = &capture;
        Ok(())
    };
    manager.spawn("task", task).unwrap().join().unwrap();
    assert_eq!((drops.load(Ordering::SeqCst), manager.len()), (1, 1));
    open.send(()).unwrap();
}

#[test]
fn what_a_shutdown_gives_up_answers_its_handle() {
    let (manager, open) = busy();
    let handle = manager.spawn("given up", |_| Ok(())).unwrap();
    let unfinished = manager.shutdown(Grace::drain(Duration::ZERO)).unwrap_err();
    assert_eq!(unfinished.tasks().len(), 2);
    let answer = handle.join_timeout(Duration::ZERO).expect("it is answered by now");
    assert!(matches!(answer, Err(TaskError::Abandoned | TaskError::Cancelled)));
    drop(open);
}

#[test]
fn a_rejected_spawn_runs_the_same_closure_and_drops_its_value() {
    let manager = Manager::new();
    manager.close();
    let (ran, values) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
    let (runs, value) = (Arc::clone(&ran), Dropped(Arc::clone(&values)));
    let task = move |_: &Context| {
        runs.fetch_add(1, Ordering::SeqCst);
        Ok(value)
    };
    let rejected = manager.spawn("late", task).unwrap_err();
    assert_eq!((ran.load(Ordering::SeqCst), values.load(Ordering::SeqCst)), (0, 0));
    let other = Manager::new();
    other.run_task(rejected.into_task()).unwrap();
    other.wait();
    assert_eq!((ran.load(Ordering::SeqCst), values.load(Ordering::SeqCst)), (1, 1));
}

#[test]
fn a_value_whose_drop_panics_is_counted_and_kills_nobody() {
    struct Bomb;
    impl Drop for Bomb {
        fn drop(&mut self) {
            panic!("in a drop");
        }
    }
    let (manager, open) = busy();
    drop(manager.spawn("bomb", |_| Ok(Bomb)).unwrap());
    drop(open);
    manager.wait();
    assert_eq!((manager.stats().succeeded, manager.stats().hook_panics), (2, 1));
}
