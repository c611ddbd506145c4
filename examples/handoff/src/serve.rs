//! The server: a request is answered when its job is accepted, and the job is a task until Redis has it.

use std::io::{self, Read};
use std::mem;
use std::net::Ipv4Addr;
use std::process::ExitCode;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use inflight::{Backoff, Grace, Manager, Retry, Task};
use tiny_http::{Method, Request, Response, Server};

use crate::job::Job;
use crate::queue::Queue;
use crate::{Common, StartError, note, positive, say};

/// The longest text of a job, in bytes.
const TEXT_LIMIT: usize = 64 * 1024;

/// The longest unread body that tiny_http is left to read and discard.
const DISCARDED_AT_MOST: usize = 1024 * 1024;

/// How long a request that was received before the end may take to be answered. It is part of the drain.
const ANSWERING: Duration = Duration::from_secs(2);

/// How many jobs are put on the stream at a time, each on a connection of its own.
const CONNECTIONS: usize = 4;

#[derive(Debug, clap::Args)]
pub(crate) struct Options {
    #[command(flatten)]
    common: Common,

    /// The port on 127.0.0.1; 0 takes one that is free
    #[arg(long, default_value_t = 8080)]
    port: u16,

    /// How many jobs may wait for Redis; further requests are turned away
    #[arg(long, value_name = "N", default_value = "10000", value_parser = positive)]
    backlog: usize,
}

pub(crate) fn run(options: &Options) -> Result<ExitCode, StartError> {
    let signals = inflight::signal::register().map_err(StartError::io("watch for signals"))?;
    let handoffs = handoffs()?;
    let requests: Manager<&'static str> = Manager::builder().name("requests").build()?;
    requests.on_task_failed(|_cx, what, error| note(format_args!("{what}: {error}")));

    let server = Server::http((Ipv4Addr::LOCALHOST, options.port))
        .map_err(|error| StartError::Io { what: "listen", source: io::Error::other(error) })?;
    let server = Arc::new(server);
    let desk = Arc::new(Desk {
        handoffs: handoffs.uncounted(),
        queue: Arc::new(options.common.queue()),
        backlog: options.backlog,
    });

    let stop = Arc::clone(&server);
    let wait = move || {
        note(format_args!("{}: no more jobs", signals.wait()));
        stop.unblock();
    };
    thread::Builder::new().name("signals".into()).spawn(wait).map_err(StartError::io("start a thread"))?;

    say(format_args!("listening on http://{}", server.server_addr()));
    while let Ok(request) = server.recv() {
        receive(request, &requests, &desk);
    }
    let since = Instant::now();
    // What came in before the end is answered, and whatever was answered for is handed over.
    while let Ok(Some(request)) = server.try_recv() {
        receive(request, &requests, &desk);
    }
    drop(server);
    if let Err(unanswered) = requests.shutdown(Grace::drain(ANSWERING.min(options.common.drain_ms))) {
        note(format_args!("not answered in time:\n{unanswered}"));
    }
    let outcome = handoffs.shutdown(options.common.grace(since.elapsed()));
    let stats = handoffs.stats();
    say(format_args!("accepted {}, handed over {}", stats.added, stats.succeeded));
    if let Err(unfinished) = &outcome {
        note(format_args!("{unfinished}"));
    }
    Ok(if stats.succeeded == stats.added { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// The jobs on their way to Redis. One that does not get there by the end is named.
fn handoffs() -> Result<Manager<Job>, StartError> {
    let handoffs = Manager::builder().name("handoffs").max_threads(CONNECTIONS).build()?;
    handoffs
        .on_task_retried(|_cx, job: &Job, error, attempt| {
            if attempt == 1 {
                note(format_args!("waits for Redis: {job:?}: {error}"));
            }
        })
        .on_task_failed(|_cx, job, error| note(format_args!("not handed over: {job:?}: {error}")));
    Ok(handoffs)
}

/// What the requests work with.
struct Desk {
    handoffs: Manager<Job>,
    queue: Arc<Queue>,
    backlog: usize,
}

fn receive(request: Request, requests: &Manager<&'static str>, desk: &Arc<Desk>) {
    let desk = Arc::clone(desk);
    let task = requests.run("request", move |_cx| {
        desk.answer(request);
        Ok(())
    });
    if let Err(rejected) = task {
        // There is no thread to be had: a late answer is better than none.
        if let Err(error) = rejected.run_here() {
            note(format_args!("request: {error}"));
        }
    }
}

impl Desk {
    fn answer(&self, mut request: Request) {
        if request.body_length() > Some(DISCARDED_AT_MOST) {
            return refuse_unread(request);
        }
        let (status, body) = self.route(&mut request);
        // A client that left without its answer has lost nothing else by that.
        let _ = request.respond(Response::from_string(body + "\n").with_status_code(status));
    }

    fn route(&self, request: &mut Request) -> (u16, String) {
        match (request.method(), request.url()) {
            (Method::Post, "/jobs") => match read(request) {
                Ok(text) => self.accept(Job::new(text)),
                Err(refusal) => refusal,
            },
            (_, "/jobs") => (405, "the method here: POST".into()),
            _ => (404, "no such page".into()),
        }
    }

    /// Answers for the job: from here on it is the manager's.
    fn accept(&self, job: Job) -> (u16, String) {
        // Jobs that wait for a retry count as well, as `max_pending` would not: they fill the memory.
        if self.handoffs.len() >= self.backlog {
            return (503, "too many jobs wait for the queue".into());
        }
        let (id, meta, queue) = (job.id.clone(), job.clone(), Arc::clone(&self.queue));
        let patiently = Retry::unlimited()
            .backoff(Backoff::exponential(Duration::from_millis(50), Duration::from_secs(2)));
        let task = Task::retrying(meta, move |_cx| Ok(queue.put(&job)?)).retry(patiently);
        match self.handoffs.try_run_task(task) {
            Ok(_) => (202, id),
            Err(rejected) => (503, format!("not accepted: {}", rejected.reason())),
        }
    }
}

/// The text of a request, or the refusal.
fn read(request: &mut Request) -> Result<String, (u16, String)> {
    let mut body = Vec::new();
    let limit = TEXT_LIMIT as u64 + 1;
    if let Err(error) = request.as_reader().take(limit).read_to_end(&mut body) {
        return Err((400, format!("the body cannot be read: {error}")));
    }
    if body.len() > TEXT_LIMIT {
        return Err((413, too_long()));
    }
    match String::from_utf8(body) {
        Ok(text) if text.trim().is_empty() => Err((400, "the job is empty".into())),
        Ok(text) => Ok(text),
        Err(_) => Err((400, "the job is not UTF-8".into())),
    }
}

fn too_long() -> String {
    format!("a job has {TEXT_LIMIT} bytes at the most")
}

/// Answers a request whose body is to be left alone.
///
/// tiny_http 0.12 discards what is unread through a buffer of the length that the client claims, and a claim
/// without measure would abort the process and lose the jobs in it. So its connection is taken from it, by way
/// of an upgrade, and leaked.
fn refuse_unread(request: Request) {
    let mut connection = request.upgrade("none", Response::empty(100));
    let body = too_long();
    let head = format!(
        "HTTP/1.1 413 Payload Too Large\r\nConnection: close\r\nContent-Length: {}\r\n\r\n",
        body.len()
    );
    let _ = connection.write_all((head + &body).as_bytes());
    let _ = connection.flush();
    mem::forget(connection);
}
