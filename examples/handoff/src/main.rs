//! Outgrowing one process: `handoff serve` answers requests and puts their jobs on a Redis stream; any number of
//! `handoff work`, on any machine, take them from there and do them.
//!
//! `inflight` is at both ends. In `serve`, a job that was answered for is a task until it stands on the stream,
//! however long Redis is away. In `work`, each job is a task, and is acknowledged when it is done. So a job is
//! done at least once, whoever is told to end, or killed, in the middle.

mod job;
mod queue;
mod serve;
mod work;

use std::error::Error;
use std::fmt;
use std::io::{self, Write};
use std::process::ExitCode;
use std::time::Duration;

use clap::{Args, Parser, Subcommand};
use inflight::{BuildError, Grace};

use crate::queue::Queue;

/// Jobs handed from a server to workers by way of Redis
#[derive(Debug, Parser)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Takes jobs over HTTP (POST /jobs), answers at once, and puts them on the stream
    Serve(serve::Options),
    /// Takes jobs from the stream and does them
    Work(work::Options),
}

/// What both sides need to know.
#[derive(Debug, Args)]
struct Common {
    /// Where Redis is
    #[arg(long, value_name = "URL", default_value = "redis://127.0.0.1/", value_parser = redis_client)]
    redis: redis::Client,

    /// The key of the stream
    #[arg(long, value_name = "KEY", default_value = "jobs")]
    stream: String,

    /// At SIGTERM or SIGINT, how long what was begun may take to complete, in milliseconds
    #[arg(long, value_name = "MS", default_value = "25000", value_parser = milliseconds)]
    drain_ms: Duration,

    /// After that, how long it may take to notice that it is cancelled, in milliseconds
    #[arg(long, value_name = "MS", default_value = "3000", value_parser = milliseconds)]
    cancel_ms: Duration,
}

impl Common {
    fn queue(&self) -> Queue {
        Queue::new(self.redis.clone(), self.stream.clone())
    }

    /// The budget, when this much of the drain is spent already.
    fn grace(&self, spent: Duration) -> Grace {
        Grace::drain(self.drain_ms.saturating_sub(spent)).then_cancel(self.cancel_ms)
    }
}

fn redis_client(url: &str) -> redis::RedisResult<redis::Client> {
    redis::Client::open(url)
}

fn milliseconds(text: &str) -> Result<Duration, std::num::ParseIntError> {
    text.parse().map(Duration::from_millis)
}

fn some_milliseconds(text: &str) -> Result<Duration, std::num::ParseIntError> {
    text.parse::<std::num::NonZeroU64>().map(|some| Duration::from_millis(some.get()))
}

fn positive(text: &str) -> Result<usize, std::num::ParseIntError> {
    text.parse::<std::num::NonZeroUsize>().map(usize::from)
}

/// Why it does not start.
#[derive(Debug)]
enum StartError {
    Manager(BuildError),
    Io { what: &'static str, source: io::Error },
    Rejected { what: &'static str },
}

impl StartError {
    fn io(what: &'static str) -> impl FnOnce(io::Error) -> Self {
        move |source| StartError::Io { what, source }
    }
}

impl From<BuildError> for StartError {
    fn from(error: BuildError) -> Self {
        StartError::Manager(error)
    }
}

impl fmt::Display for StartError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            StartError::Manager(error) => error.fmt(f),
            StartError::Io { what, source } => write!(f, "cannot {what}: {source}"),
            StartError::Rejected { what } => write!(f, "no thread to {what}"),
        }
    }
}

impl Error for StartError {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        match self {
            StartError::Manager(error) => Some(error),
            StartError::Io { source, .. } => Some(source),
            StartError::Rejected { .. } => None,
        }
    }
}

fn main() -> ExitCode {
    let ended = match Cli::parse().command {
        Command::Serve(options) => serve::run(&options),
        Command::Work(options) => work::run(&options),
    };
    ended.unwrap_or_else(|error| {
        note(format_args!("handoff: {error}"));
        ExitCode::FAILURE
    })
}

/// A line on stdout. That nobody reads it is no reason to panic.
fn say(line: fmt::Arguments<'_>) {
    let _ = writeln!(io::stdout(), "{line}");
}

/// A line on stderr, likewise.
fn note(line: fmt::Arguments<'_>) {
    let _ = writeln!(io::stderr(), "{line}");
}
