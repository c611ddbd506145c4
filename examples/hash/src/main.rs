//! Prints the SHA-256 of files and folders as `sha256sum` does: a task for each file, on all cores, with a bar
//! while it lasts. Ctrl-C lets the files in hand finish within a budget, and lists what was left out.

mod digest;
mod listing;
mod report;

use std::error::Error;
use std::fmt;
use std::io::{self, IsTerminal, Write};
use std::num::NonZeroUsize;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::mpsc::{self, Receiver, Sender};
use std::thread;
use std::time::Duration;

use clap::Parser;
use indicatif::{ProgressBar, ProgressStyle};
use inflight::signal::{Signal, Signals};
use inflight::{BuildError, Grace, Manager, TaskError};

use crate::digest::Digest;
use crate::report::Report;

/// How long a task may take to notice that it is cancelled: the time that it needs for one piece of a file.
const NOTICE: Duration = Duration::from_secs(1);

/// Prints the SHA-256 of each file, in the format of sha256sum
///
/// Files are printed in the order given, the files of a folder sorted by path. In folders only regular files are
/// looked at, and symbolic links are not followed.
#[derive(Debug, Parser)]
#[command(after_help = "Exit codes: 0 all hashed, 1 some could not be read, 2 wrong usage, 130 interrupted \
                        (143 by SIGTERM). The output goes on with sha256sum --check.")]
struct Args {
    /// Files to hash, and folders whose files to hash
    #[arg(required = true, value_name = "PATH")]
    paths: Vec<PathBuf>,

    /// How many files are hashed at a time; by default as many as there are cores
    #[arg(long, short, value_name = "N")]
    jobs: Option<NonZeroUsize>,

    /// When interrupted, how long the files in hand may take to finish, in milliseconds
    #[arg(long, value_name = "MS", default_value = "3000", value_parser = milliseconds)]
    drain_ms: Duration,
}

fn milliseconds(text: &str) -> Result<Duration, std::num::ParseIntError> {
    text.parse().map(Duration::from_millis)
}

/// What a task is about: a path, and where it stands in the output.
#[derive(Debug)]
struct File {
    place: usize,
    path: PathBuf,
}

/// What the main thread is told. Each file has one `Hashed` or `Unreadable`, or is left out.
enum Event {
    Hashed(usize, Digest),
    Unreadable(usize, String),
    Stop(Signal),
}

#[derive(Debug)]
enum Failure {
    Manager(BuildError),
    Io { what: &'static str, source: io::Error },
}

impl Failure {
    fn io(what: &'static str) -> impl FnOnce(io::Error) -> Self {
        move |source| Failure::Io { what, source }
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Failure::Manager(error) => error.fmt(f),
            Failure::Io { what, source } => write!(f, "cannot {what}: {source}"),
        }
    }
}

impl Error for Failure {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        match self {
            Failure::Manager(error) => Some(error),
            Failure::Io { source, .. } => Some(source),
        }
    }
}

fn main() -> ExitCode {
    match run(&Args::parse()) {
        Ok(code) => code,
        // As in `hash . | head -1`: the reader has seen enough.
        Err(Failure::Io { source, .. }) if source.kind() == io::ErrorKind::BrokenPipe => ExitCode::FAILURE,
        Err(failure) => {
            note(format_args!("hash: {failure}"));
            ExitCode::FAILURE
        }
    }
}

fn run(args: &Args) -> Result<ExitCode, Failure> {
    let signals = inflight::signal::register().map_err(Failure::io("watch for signals"))?;
    let jobs = args.jobs.or_else(|| thread::available_parallelism().ok()).map_or(1, NonZeroUsize::get);
    // A short backlog: what is accepted is still hashed when a signal comes, and that should be little.
    let manager = Manager::builder().name("hash").max_threads(jobs).max_pending(jobs).build();
    let manager = manager.map_err(Failure::Manager)?;
    let (events, told) = mpsc::channel();
    watch(signals, &manager, events.clone())?;

    let listing = listing::of(&args.paths, || manager.is_closed());
    let bar = bar(listing.files.len());
    attach(&manager, &bar, &events);
    feed(&manager, listing.files.clone(), events)?;

    let mut report = Report::new(listing, bar);
    let stop = follow(&told, &mut report);
    let drain = match stop {
        Ok(None) => None,
        Ok(Some(_)) => {
            let drain = args.drain_ms;
            let latest = drain.saturating_add(NOTICE);
            report.pause(|| {
                note(format_args!("hash: stopping, in {latest:.1?} at the latest; again to stop now"))
            });
            Some(drain)
        }
        // The output is gone: there is nothing to finish for.
        Err(_) => Some(Duration::ZERO),
    };
    if let Some(drain) = drain {
        // What is unfinished has no outcome below, and is listed for that.
        let _ = manager.shutdown(Grace::drain(drain).then_cancel(NOTICE));
    }
    let stop = stop.map_err(Failure::io("write"))?;
    for event in told.try_iter() {
        report.take(event).map_err(Failure::io("write"))?;
    }
    report.finish().map_err(Failure::io("write"))?;
    Ok(match stop {
        Some(Signal::Interrupt) => ExitCode::from(130),
        Some(Signal::Terminate) => ExitCode::from(143),
        None if report.all_hashed() => ExitCode::SUCCESS,
        None => ExitCode::FAILURE,
    })
}

/// At the first signal no further file is begun, and the main thread is told. The second ends the process.
fn watch(signals: Signals, manager: &Manager<Arc<File>>, events: Sender<Event>) -> Result<(), Failure> {
    let manager = manager.uncounted();
    let wait = move || {
        let signal = signals.wait();
        manager.close();
        // If nobody listens any more, all is done.
        let _ = events.send(Event::Stop(signal));
    };
    thread::Builder::new().name("signals".into()).spawn(wait).map(drop).map_err(Failure::io("start a thread"))
}

/// The hooks: they move the bar, and say which files could not be read.
fn attach(manager: &Manager<Arc<File>>, bar: &ProgressBar, events: &Sender<Event>) {
    let (succeeded, failed, events) = (bar.clone(), bar.clone(), events.clone());
    manager.on_task_succeeded(move |_cx, _file| succeeded.inc(1)).on_task_failed(move |_cx, file, error| {
        failed.inc(1);
        if !matches!(error, TaskError::Cancelled | TaskError::Abandoned) {
            let _ = events.send(Event::Unreadable(file.place, error.to_string()));
        }
    });
}

/// Hands the files to the manager, on a thread of its own: it waits for room.
fn feed(manager: &Manager<Arc<File>>, files: Vec<Arc<File>>, events: Sender<Event>) -> Result<(), Failure> {
    let manager = manager.uncounted();
    let feed = move || {
        for file in files {
            let (about, hashed) = (Arc::clone(&file), events.clone());
            let task = manager.run(about, move |cx| {
                let digest = digest::of(cx, &file.path)?;
                let _ = hashed.send(Event::Hashed(file.place, digest));
                Ok(())
            });
            let Err(rejected) = task else { continue };
            if manager.is_closed() {
                break;
            }
            // There is no thread to be had: then this one does it.
            let place = rejected.meta().place;
            if let Err(error) = rejected.run_here() {
                let _ = events.send(Event::Unreadable(place, error.to_string()));
            }
        }
    };
    thread::Builder::new().name("feed".into()).spawn(feed).map(drop).map_err(Failure::io("start a thread"))
}

/// Reports until all is said, or a signal comes.
fn follow(told: &Receiver<Event>, report: &mut Report) -> io::Result<Option<Signal>> {
    while !report.is_complete() {
        match told.recv().expect("the thread that waits for signals keeps a sender") {
            Event::Stop(signal) => return Ok(Some(signal)),
            event => report.take(event)?,
        }
    }
    Ok(None)
}

/// A bar for a person who watches; on a pipe, in a script or in a log there is none.
fn bar(files: usize) -> ProgressBar {
    if !(io::stderr().is_terminal() && io::stdout().is_terminal()) {
        return ProgressBar::hidden();
    }
    let style = ProgressStyle::with_template("{bar:40} {pos}/{len} files, {per_sec}, {eta} to go")
        .expect("the template is well formed");
    ProgressBar::new(files as u64).with_style(style)
}

/// A line on stderr. That nobody reads it is no reason to panic.
fn note(line: fmt::Arguments<'_>) {
    let _ = writeln!(io::stderr(), "{line}");
}
