//! A worker: takes jobs as one consumer of the group, does each as a task, and acknowledges it when it is done.
//!
//! What it does not acknowledge stays pending in Redis: a job that failed, one that was in hand when the worker
//! was killed or its budget was used up. After a while some worker, perhaps this one, takes it over.

use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use inflight::{Backoff, Manager, Retry, Task, TaskError};
use redis::RedisError;
use uuid::Uuid;

use crate::job::Job;
use crate::queue::{Entry, Queue};
use crate::{Common, StartError, milliseconds, note, positive, say, some_milliseconds};

#[derive(Debug, clap::Args)]
pub(crate) struct Options {
    #[command(flatten)]
    common: Common,

    /// How many jobs are done at a time
    #[arg(long, value_name = "N", default_value = "8", value_parser = positive)]
    threads: usize,

    /// How long a job may go unheard of before another worker takes it over, in milliseconds
    #[arg(long, value_name = "MS", default_value = "30000", value_parser = some_milliseconds)]
    idle_ms: Duration,

    /// How long a job takes, in milliseconds
    #[arg(long, value_name = "MS", default_value = "100", value_parser = milliseconds)]
    job_ms: Duration,
}

/// What a task is about: a job, and the entry that it came in.
#[derive(Debug)]
struct Taken {
    entry: String,
    job: Job,
}

pub(crate) fn run(options: &Options) -> Result<ExitCode, StartError> {
    let signals = inflight::signal::register().map_err(StartError::io("watch for signals"))?;
    let queue = Arc::new(options.common.queue());
    let consumer: Arc<str> = Uuid::new_v4().to_string().into();

    // No backlog to speak of: what waits is better off in Redis, where every worker can take it.
    let jobs = Manager::builder().name("jobs").max_threads(options.threads).max_pending(1).build()?;
    jobs.on_task_failed(|_cx, taken: &Taken, error| note(format_args!("failed: {:?}: {error}", taken.job)));

    let intake = Manager::builder().name("intake").build()?;
    complain(&intake);
    let intake_loop = Intake {
        jobs: jobs.uncounted(),
        queue: Arc::clone(&queue),
        consumer: Arc::clone(&consumer),
        idle: options.idle_ms,
        takes: options.job_ms,
        cursor: "0-0".into(),
        open: false,
    };
    start(&intake, intake_loop.task())?;

    // A manager of its own, for this loop has to go on while the jobs are drained.
    let keeper = Manager::builder().name("keeper").build()?;
    complain(&keeper);
    start(&keeper, keep(&jobs, queue, consumer, options.idle_ms / 4))?;

    say(format_args!("ready"));
    let signal = signals.wait();
    intake.close();
    note(format_args!("{signal}: takes no more; to finish: {}", jobs.len()));
    let outcome = jobs.shutdown(options.common.grace(Duration::ZERO));
    let stats = jobs.stats();
    say(format_args!("taken {}, done {}", stats.added, stats.succeeded));
    if let Err(unfinished) = &outcome {
        note(format_args!("{unfinished}"));
    }
    // Nothing is lost with the loops: what they hold is pending, and another worker's.
    intake.detach();
    keeper.detach();
    Ok(if outcome.is_ok() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Says when Redis goes away; a loop that fails pauses longer and longer, and goes on.
fn complain(loops: &Manager<&'static str>) {
    loops.on_task_failed(|_cx, what, error| note(format_args!("{what}: {error}")));
}

fn start(manager: &Manager<&'static str>, task: Task<&'static str>) -> Result<(), StartError> {
    manager.run_task(task).map(drop).map_err(|rejected| StartError::Rejected { what: rejected.meta() })
}

/// Tells Redis, again and again, which jobs are in hand.
fn keep(jobs: &Manager<Taken>, queue: Arc<Queue>, consumer: Arc<str>, every: Duration) -> Task<&'static str> {
    let jobs = jobs.uncounted();
    let beat = move |_cx: &inflight::Context| {
        let tasks = jobs.tasks();
        let entries: Vec<&str> = tasks.iter().map(|task| &*task.meta().entry).collect();
        Ok(queue.keep(&consumer, &entries)?)
    };
    Task::looping("keep jobs", beat).every(every)
}

/// From the stream to the manager, one entry at a time.
struct Intake {
    jobs: Manager<Taken>,
    queue: Arc<Queue>,
    consumer: Arc<str>,
    idle: Duration,
    takes: Duration,
    /// How far the search for abandoned entries has come.
    cursor: String,
    /// Whether the group is known to exist.
    open: bool,
}

impl Intake {
    /// A loop that ends when its manager is closed.
    fn task(mut self) -> Task<&'static str> {
        Task::looping("take jobs", move |_cx| {
            let taken = self.next();
            // Redis may come back without its data.
            self.open = taken.is_ok();
            if let Some(entry) = taken? {
                self.begin(entry);
            }
            Ok(())
        })
    }

    /// An abandoned entry first, then a new one.
    fn next(&mut self) -> Result<Option<Entry>, RedisError> {
        if !self.open {
            self.queue.open()?;
        }
        match self.queue.take_over(&self.consumer, self.idle, &mut self.cursor)? {
            Some(entry) => Ok(Some(entry)),
            None => self.queue.take(&self.consumer),
        }
    }

    /// Waits until there is room for the job.
    fn begin(&self, Entry { id, job }: Entry) {
        let job = match job {
            Ok(job) => job,
            Err(error) => return note(format_args!("entry {id}, left where it is: {error}")),
        };
        // While Redis was away nothing could be kept, so that what was taken over may be in hand right here.
        if self.jobs.tasks().iter().any(|task| task.meta().entry == id) {
            return;
        }
        let (queue, takes) = (Arc::clone(&self.queue), self.takes);
        let (entry, about) = (id.clone(), job.clone());
        let mut performed = false;
        let task = Task::retrying(Taken { entry, job }, move |cx| {
            if !performed {
                say(format_args!("began {about:?}"));
                about.perform(cx, takes)?;
                performed = true;
                say(format_args!("did {about:?}"));
            }
            Ok(queue.done(&id)?)
        });
        // Only the acknowledgement is tried again here; a job that failed comes back by way of the stream.
        let until_acknowledged = Retry::unlimited()
            .backoff(Backoff::exponential(Duration::from_millis(50), Duration::from_secs(2)))
            .when(is_redis);
        // Not accepted is not acknowledged: the entry is another worker's then.
        if let Err(rejected) = self.jobs.run_task(task.retry(until_acknowledged)) {
            note(format_args!("left for another worker: {:?}: {}", rejected.meta().job, rejected.reason()));
        }
    }
}

fn is_redis(error: &TaskError) -> bool {
    matches!(error, TaskError::Failed(error) if error.is::<RedisError>())
}
