//! A blocking HTTP server that answers an order at once, and writes, mails and stores its receipt as a task of
//! `inflight`. At SIGTERM or SIGINT it stops accepting, answers what it accepted, drains, and says how it went.

mod http;
mod orders;
mod receipt;
mod server;
mod store;

use std::error::Error;
use std::fmt;
use std::io::{self, Write};
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::mpsc;
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use clap::Parser;
use inflight::signal::Signal;
use inflight::{BuildError, Grace, Manager};

use crate::http::App;
use crate::orders::{Counts, Order, Orders};
use crate::server::{Door, Incoming, Server};
use crate::store::{OpenError, Store};

/// How long a request that was received before the end may take to be answered. It is part of the drain.
const ANSWERING: Duration = Duration::from_secs(5);

/// How many orders are remembered after they ended.
const REMEMBERED: usize = 100_000;

/// Takes orders over HTTP, and issues their receipts in the background
#[derive(Debug, Parser)]
struct Args {
    /// The port on 127.0.0.1; 0 takes one that is free
    #[arg(long, default_value_t = 8080)]
    port: u16,

    /// The SQLite file of the receipts; it is created if there is none
    #[arg(long, value_name = "FILE", default_value = "orders.db")]
    db: PathBuf,

    /// How long the mail server takes for a receipt, in milliseconds
    #[arg(long, value_name = "MS", default_value = "20", value_parser = milliseconds)]
    mail_ms: Duration,

    /// How many receipts are worked on at a time
    #[arg(long, value_name = "N", default_value = "64", value_parser = positive)]
    threads: usize,

    /// How many more receipts may wait; further orders are turned away
    ///
    /// What waits should fit into the drain. With the defaults of the other options it does so by far.
    #[arg(long, value_name = "N", default_value = "10000", value_parser = positive)]
    backlog: usize,

    /// At the end, how long accepted receipts may take to complete, in milliseconds
    #[arg(long, value_name = "MS", default_value = "25000", value_parser = milliseconds)]
    drain_ms: Duration,

    /// After that, how long receipts may take to notice that they are cancelled, in milliseconds
    #[arg(long, value_name = "MS", default_value = "3000", value_parser = milliseconds)]
    cancel_ms: Duration,

    /// End without the drain, and lose receipts by it: for the test that has to notice
    #[arg(long, hide = true)]
    skip_drain: bool,
}

fn milliseconds(text: &str) -> Result<Duration, std::num::ParseIntError> {
    text.parse().map(Duration::from_millis)
}

fn positive(text: &str) -> Result<usize, std::num::ParseIntError> {
    text.parse::<std::num::NonZeroUsize>().map(usize::from)
}

/// Why the server does not start.
#[derive(Debug)]
enum StartError {
    Database(OpenError),
    Manager(BuildError),
    Io { what: &'static str, source: io::Error },
}

impl StartError {
    fn io(what: &'static str) -> impl FnOnce(io::Error) -> Self {
        move |source| StartError::Io { what, source }
    }
}

impl fmt::Display for StartError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            StartError::Database(error) => error.fmt(f),
            StartError::Manager(error) => error.fmt(f),
            StartError::Io { what, source } => write!(f, "cannot {what}: {source}"),
        }
    }
}

impl Error for StartError {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        match self {
            StartError::Database(error) => Some(error),
            StartError::Manager(error) => Some(error),
            StartError::Io { source, .. } => Some(source),
        }
    }
}

/// Why the server ends.
enum Stop {
    Signal(Signal),
    NoMoreConnections(io::Error),
}

impl fmt::Display for Stop {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Stop::Signal(signal) => signal.fmt(f),
            Stop::NoMoreConnections(error) => write!(f, "cannot accept connections: {error}"),
        }
    }
}

fn main() -> ExitCode {
    match run(&Args::parse()) {
        Ok(code) => code,
        Err(error) => {
            note(format_args!("orders: {error}"));
            ExitCode::FAILURE
        }
    }
}

fn run(args: &Args) -> Result<ExitCode, StartError> {
    let signals = inflight::signal::register().map_err(StartError::io("watch for signals"))?;
    let (service, door) = Service::open(args)?;

    let (stop, stopped) = mpsc::channel();
    let (failed, serve) = (stop.clone(), service.serve());
    let accepting = spawn("accept", move || {
        // Once a signal came, nobody listens for this.
        let _ = failed.send(Stop::NoMoreConnections(serve()));
    })?;
    spawn("signals", move || {
        let signal = signals.wait();
        let _ = stop.send(Stop::Signal(signal));
    })?;

    say(format_args!("listening on http://{}", door.address()));
    let stop = stopped.recv().expect("`accept` and `signals` tell why they end");
    Ok(service.end(&stop, door, accepting, args))
}

/// What runs between the first line and the last.
struct Service {
    /// The only counted handle: the receipts are drained, or left behind, here and nowhere else.
    receipts: Manager<Order>,
    requests: Manager<Incoming>,
    orders: Arc<Orders>,
    app: Arc<App>,
    server: Arc<Server>,
}

impl Service {
    fn open(args: &Args) -> Result<(Service, Door), StartError> {
        let store = Arc::new(Store::open(&args.db).map_err(StartError::Database)?);
        let orders = Arc::new(Orders::new(REMEMBERED));
        let receipts = receipts(args, &orders).map_err(StartError::Manager)?;
        let requests = requests().map_err(StartError::Manager)?;
        let app = Arc::new(App {
            receipts: receipts.uncounted(),
            orders: Arc::clone(&orders),
            store,
            mail: args.mail_ms,
        });
        let (server, door) = Server::open(args.port).map_err(StartError::io("listen"))?;
        Ok((Service { receipts, requests, orders, app, server: Arc::new(server) }, door))
    }

    fn serve(&self) -> impl FnOnce() -> io::Error + Send + use<> {
        let (server, requests, app) =
            (Arc::clone(&self.server), self.requests.uncounted(), Arc::clone(&self.app));
        move || server.serve(&requests, &app)
    }

    /// Stops accepting, answers what was accepted, drains, and says how it went.
    fn end(self, stop: &Stop, door: Door, accepting: JoinHandle<()>, args: &Args) -> ExitCode {
        let Service { receipts, requests, server, .. } = &self;
        let since = Instant::now();

        // No new connections; what was received is answered, orders among it are accepted.
        if let Stop::NoMoreConnections(_) = stop {
            drop(door);
        } else if let Err(error) = door.close() {
            note(format_args!("orders: cannot close the socket: {error}"));
            server.stop();
        }
        join(accepting);
        if let Err(unanswered) = requests.wait_timeout(ANSWERING.min(args.drain_ms)) {
            note(format_args!("not answered in time:\n{unanswered}"));
        }
        if args.skip_drain {
            self.requests.detach();
            self.receipts.detach();
            return ExitCode::SUCCESS;
        }

        // Connections that are still open can ask about their orders during the drain; new orders are turned away.
        receipts.close();
        let turning_away = spawn("turn-away", self.serve());
        note(format_args!("{stop}: no more orders; receipts to finish: {}", receipts.len()));
        let drain = args.drain_ms.saturating_sub(since.elapsed());
        let outcome = receipts.shutdown(Grace::drain(drain).then_cancel(args.cancel_ms));
        let took = since.elapsed();

        server.stop();
        if let Ok(turning_away) = turning_away {
            join(turning_away);
        }
        server.serve_the_rest(requests, &self.app);
        // Whoever is not answered by now had its line on stderr, or has no order.
        let _ = requests.shutdown(Grace::drain(Duration::from_millis(200)));

        let counts = self.orders.counts();
        let Counts { accepted, succeeded, failed } = counts;
        say(format_args!(
            "accepted {accepted}, succeeded {succeeded}, failed {failed}, unfinished {}; took {took:.1?}",
            counts.unfinished()
        ));
        if let Err(unfinished) = &outcome {
            note(format_args!("{unfinished}"));
        }
        let clean = outcome.is_ok() && matches!(stop, Stop::Signal(_));
        if clean { ExitCode::SUCCESS } else { ExitCode::FAILURE }
    }
}

/// The receipts, and what is noted of each.
fn receipts(args: &Args, orders: &Arc<Orders>) -> Result<Manager<Order>, BuildError> {
    let manager =
        Manager::builder().name("receipts").max_threads(args.threads).max_pending(args.backlog).build()?;
    let [accepted, succeeded, failed] = [(); 3].map(|()| Arc::clone(orders));
    manager
        .on_task_added(move |_cx, order: &Order| accepted.accepted(order))
        .on_task_succeeded(move |_cx, order| succeeded.succeeded(order.id))
        .on_task_failed(move |_cx, order, error| {
            failed.failed(order.id, error.to_string());
            note(format_args!("{order:?}: {error}"));
        });
    Ok(manager)
}

fn requests() -> Result<Manager<Incoming>, BuildError> {
    let manager = Manager::builder().name("requests").build()?;
    // tiny_http answers 500 for the request that a panic dropped.
    manager.on_task_failed(|_cx, incoming: &Incoming, error| note(format_args!("{incoming:?}: {error}")));
    Ok(manager)
}

fn spawn<T: Send + 'static>(
    name: &str,
    body: impl FnOnce() -> T + Send + 'static,
) -> Result<JoinHandle<T>, StartError> {
    thread::Builder::new().name(name.to_owned()).spawn(body).map_err(StartError::io("start a thread"))
}

fn join<T>(thread: JoinHandle<T>) {
    if thread.join().is_err() {
        note(format_args!("orders: a thread of the server panicked"));
    }
}

/// A line on stdout. That nobody reads it is no reason to panic: `orders | head -1` is to end well, too.
fn say(line: fmt::Arguments<'_>) {
    let _ = writeln!(io::stdout(), "{line}");
}

/// A line on stderr, likewise.
fn note(line: fmt::Arguments<'_>) {
    let _ = writeln!(io::stderr(), "{line}");
}
