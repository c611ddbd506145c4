//! The subject and its peers, all of them behind the same two verbs.

use std::hint::black_box;
use std::num::NonZeroUsize;
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use inflight::Manager;

use crate::count::Count;

/// Stands for "as many threads as the library sees fit".
pub(crate) const DEFAULT: usize = 0;

/// Something that runs tasks on threads.
pub(crate) trait Runner: Sized + Send + Sync + 'static {
    fn start(threads: usize) -> Self;

    fn submit<F: FnOnce() + Send + 'static>(&self, task: F);

    /// Returns when all submitted tasks, and those that they submitted, have ended.
    fn wait(&self);

    /// The most threads that were alive at once, where the library tells.
    fn peak_threads(&self) -> Option<usize> {
        None
    }
}

/// The subject, with its full bookkeeping: Meta, a hook, the live listing, a context, the panic guard.
pub(crate) struct Inflight(pub(crate) Manager<&'static str>);

impl Runner for Inflight {
    fn start(threads: usize) -> Self {
        let builder = Manager::builder();
        let builder = match threads {
            DEFAULT => builder,
            cap => builder.max_threads(cap),
        };
        let manager = builder.build().expect("the configuration is valid");
        manager.on_task_succeeded(|_cx, meta: &&str| {
            black_box(meta);
        });
        Self(manager)
    }

    fn submit<F: FnOnce() + Send + 'static>(&self, task: F) {
        let accepted = self.0.run("bench", move |_cx| {
            task();
            Ok(())
        });
        assert!(accepted.is_ok(), "an open manager without a bound accepts");
    }

    fn wait(&self) {
        self.0.wait();
    }

    fn peak_threads(&self) -> Option<usize> {
        Some(self.0.stats().peak_threads)
    }
}

/// A fresh thread for each task.
pub(crate) struct Threads(Arc<Count>);

impl Runner for Threads {
    fn start(_threads: usize) -> Self {
        Self(Arc::default())
    }

    fn submit<F: FnOnce() + Send + 'static>(&self, task: F) {
        self.0.add(1);
        let count = Arc::clone(&self.0);
        thread::spawn(move || {
            task();
            count.done();
        });
    }

    fn wait(&self) {
        self.0.wait();
    }
}

/// The floor: boxed closures on a channel, two loops that receive, one atomic count.
pub(crate) struct Channel {
    sender: crossbeam_channel::Sender<Box<dyn FnOnce() + Send>>,
    count: Arc<Count>,
}

impl Runner for Channel {
    fn start(threads: usize) -> Self {
        let (sender, receiver) = crossbeam_channel::unbounded::<Box<dyn FnOnce() + Send>>();
        let count = Arc::new(Count::default());
        for _ in 0..threads {
            let (receiver, count) = (receiver.clone(), Arc::clone(&count));
            thread::spawn(move || {
                for task in receiver {
                    task();
                    count.done();
                }
            });
        }
        Self { sender, count }
    }

    fn submit<F: FnOnce() + Send + 'static>(&self, task: F) {
        self.count.add(1);
        let sent = self.sender.send(Box::new(task));
        assert!(sent.is_ok(), "the receivers live as long as the sender");
    }

    fn wait(&self) {
        self.count.wait();
    }
}

impl Runner for threadpool::ThreadPool {
    fn start(threads: usize) -> Self {
        Self::new(threads)
    }

    fn submit<F: FnOnce() + Send + 'static>(&self, task: F) {
        self.execute(task);
    }

    fn wait(&self) {
        self.join();
    }
}

impl Runner for rusty_pool::ThreadPool {
    fn start(threads: usize) -> Self {
        Self::new(threads, threads, Duration::from_secs(60))
    }

    fn submit<F: FnOnce() + Send + 'static>(&self, task: F) {
        self.execute(task);
    }

    fn wait(&self) {
        self.join();
    }
}

pub(crate) struct Rayon {
    pool: rayon::ThreadPool,
    count: Arc<Count>,
}

impl Runner for Rayon {
    fn start(threads: usize) -> Self {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads);
        Self { pool: pool.build().expect("a few threads can be had"), count: Arc::default() }
    }

    fn submit<F: FnOnce() + Send + 'static>(&self, task: F) {
        self.count.add(1);
        let count = Arc::clone(&self.count);
        self.pool.spawn(move || {
            task();
            count.done();
        });
    }

    fn wait(&self) {
        self.count.wait();
    }
}

/// Its pool is the process's own: whoever starts last sets the cap.
pub(crate) struct Blocking(Arc<Count>);

impl Runner for Blocking {
    fn start(threads: usize) -> Self {
        // 500 is the library's default.
        let cap = NonZeroUsize::new(threads).or(NonZeroUsize::new(500));
        blocking::set_max_blocking_threads(cap.expect("500 is not zero"));
        Self(Arc::default())
    }

    fn submit<F: FnOnce() + Send + 'static>(&self, task: F) {
        self.0.add(1);
        let count = Arc::clone(&self.0);
        let task = blocking::unblock(move || {
            task();
            count.done();
        });
        task.detach();
    }

    fn wait(&self) {
        self.0.wait();
    }
}

/// `spawn_blocking` with a `TaskTracker`, the nearest thing that the async world has.
pub(crate) struct Tokio {
    runtime: tokio::runtime::Runtime,
    tracker: tokio_util::task::TaskTracker,
}

impl Runner for Tokio {
    fn start(threads: usize) -> Self {
        let mut builder = tokio::runtime::Builder::new_multi_thread();
        if threads != DEFAULT {
            builder.max_blocking_threads(threads);
        }
        Self {
            runtime: builder.build().expect("a few threads can be had"),
            tracker: tokio_util::task::TaskTracker::new(),
        }
    }

    fn submit<F: FnOnce() + Send + 'static>(&self, task: F) {
        self.tracker.spawn_blocking_on(task, self.runtime.handle());
    }

    fn wait(&self) {
        self.tracker.close();
        self.runtime.block_on(self.tracker.wait());
        self.tracker.reopen();
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;

    /// A peer whose `wait` returns early would win every workload.
    fn waits_for_all<R: Runner>() {
        let runner = R::start(2);
        for round in 1..=200 {
            let ended = Arc::new(AtomicUsize::new(0));
            for _ in 0..50 {
                let ended = Arc::clone(&ended);
                runner.submit(move || {
                    thread::yield_now();
                    ended.fetch_add(1, Ordering::Relaxed);
                });
            }
            runner.wait();
            assert_eq!(ended.load(Ordering::Relaxed), 50, "{}, in round {round}", std::any::type_name::<R>());
        }
    }

    #[test]
    fn every_runner_waits_for_all_its_tasks() {
        waits_for_all::<Inflight>();
        waits_for_all::<Threads>();
        waits_for_all::<Channel>();
        waits_for_all::<threadpool::ThreadPool>();
        // Not `rusty_pool`, whose `join` was seen to return a task early, about once in 10,000 times under load.
        waits_for_all::<Rayon>();
        waits_for_all::<Blocking>();
        waits_for_all::<Tokio>();
    }
}
