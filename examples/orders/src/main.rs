//! A blocking HTTP server that answers an order at once, and writes, mails and stores its receipt as a task of
//! `inflight`. At SIGTERM or SIGINT it stops accepting, answers what it accepted, drains, and says how it went.

mod admin;
mod http;
mod log;
mod orders;
mod receipt;
mod server;
mod store;
mod watch;

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
use inflight::observe::{self, Gauges};
use inflight::signal::Signal;
use inflight::{BuildError, Grace, Manager, Task};
use metrics_exporter_prometheus::{BuildError as RecorderError, PrometheusBuilder, PrometheusHandle};

use crate::admin::Admin;
use crate::http::App;
use crate::orders::{Counts, Order, Orders};
use crate::server::{Door, Incoming, Route, Server};
use crate::store::{OpenError, Store};
use crate::watch::{Ending, Watch};

/// How long a request that was received before the end may take to be answered. It is part of the drain.
const ANSWERING: Duration = Duration::from_secs(5);

/// How long what still comes after the drain may take to be answered.
const LAST_ANSWERS: Duration = Duration::from_millis(200);

/// How many orders are remembered after they ended.
const REMEMBERED: usize = 100_000;

/// How often the histograms are brought up to date, so that they do not grow while nobody scrapes.
const METRICS_UPKEEP: Duration = Duration::from_secs(5);

/// The upper bounds of the histograms' buckets, in seconds: from a receipt that meets no queue to one that a drain
/// does not wait for.
const BUCKETS: [f64; 10] = [0.001, 0.005, 0.025, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0, 25.0];

/// Takes orders over HTTP, and issues their receipts in the background
#[derive(Debug, Parser)]
struct Args {
    /// The port on 127.0.0.1; 0 takes one that is free
    #[arg(long, default_value_t = 8080)]
    port: u16,

    /// The port on 127.0.0.1 of the page, the metrics and the probe; 0 takes one that is free
    ///
    /// It stays open until the process ends. Unless given, it is the one after `--port`, or a free one if that
    /// is 0.
    #[arg(long, value_name = "PORT")]
    admin_port: Option<u16>,

    /// How the log on stderr is written
    #[arg(long, value_name = "FORMAT", value_enum, default_value = "text")]
    log: log::Format,

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

impl Args {
    fn admin_port(&self) -> u16 {
        self.admin_port.unwrap_or(match self.port {
            0 => 0,
            // After the last one comes a free one.
            port => port.wrapping_add(1),
        })
    }
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
    Metrics(RecorderError),
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
            StartError::Metrics(error) => error.fmt(f),
            StartError::Io { what, source } => write!(f, "cannot {what}: {source}"),
        }
    }
}

impl Error for StartError {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        match self {
            StartError::Database(error) => Some(error),
            StartError::Manager(error) => Some(error),
            StartError::Metrics(error) => Some(error),
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
    let args = Args::parse();
    log::start(args.log);
    match run(&args) {
        Ok(code) => code,
        Err(error) => {
            tracing::error!("orders: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run(args: &Args) -> Result<ExitCode, StartError> {
    let signals = inflight::signal::register().map_err(StartError::io("watch for signals"))?;
    let (service, doors) = Service::open(args)?;

    let (stop, stopped) = mpsc::channel();
    let (failed, serve) = (stop.clone(), service.public.serve());
    let accepting = spawn("accept", move || {
        // Once a signal came, nobody listens for this.
        let _ = failed.send(Stop::NoMoreConnections(serve()));
    })?;
    spawn("signals", move || {
        let signal = signals.wait();
        let _ = stop.send(Stop::Signal(signal));
    })?;
    let serve = service.admin.serve();
    // It ends with the process. The receipts go on without a page.
    spawn("admin", move || tracing::error!("cannot accept connections of operators: {}", serve()))?;

    say(format_args!("listening on http://{}", doors.public.address()));
    say(format_args!("operators: http://{}", doors.admin.address()));
    let stop = stopped.recv().expect("`accept` and `signals` tell why they end");
    Ok(service.end(&stop, doors, accepting, args))
}

/// What runs between the first line and the last.
struct Service {
    /// The only counted handle: the receipts are drained, or left behind, here and nowhere else.
    receipts: Manager<Order>,
    orders: Arc<Orders>,
    watch: Arc<Watch>,
    public: Side,
    admin: Side,
}

struct Doors {
    public: Door,
    /// Never closed.
    admin: Door,
}

impl Service {
    fn open(args: &Args) -> Result<(Service, Doors), StartError> {
        let store = Arc::new(Store::open(&args.db).map_err(StartError::Database)?);
        let orders = Arc::new(Orders::new(REMEMBERED));
        let metrics = metrics()?;
        let (receipts, gauges) = receipts(args, &orders).map_err(StartError::Manager)?;
        let watch = Arc::new(Watch::new(receipts.uncounted()));
        let watched = Arc::clone(&watch);
        receipts.on_task_failed(move |_cx, order, error| watched.failed(order, error));

        let app =
            App { receipts: receipts.uncounted(), orders: Arc::clone(&orders), store, mail: args.mail_ms };
        let admin = Admin { watch: Arc::clone(&watch), metrics, gauges };
        let public = Arc::new(move |request: &mut _| http::route(&app, request));
        let (public, public_door) = Side::open("requests", args.port, public)?;
        let admin = Arc::new(move |request: &mut _| admin::route(&admin, request));
        let (admin, admin_door) = Side::open("operators", args.admin_port(), admin)?;
        let doors = Doors { public: public_door, admin: admin_door };
        Ok((Service { receipts, orders, watch, public, admin }, doors))
    }

    /// Stops accepting, answers what was accepted, drains, and says how it went.
    fn end(self, stop: &Stop, doors: Doors, accepting: JoinHandle<()>, args: &Args) -> ExitCode {
        let Service { receipts, public: Side { server, requests, route }, .. } = &self;
        let since = Instant::now();
        let (drain, cancel) = (args.drain_ms, args.cancel_ms);
        self.watch.ends(Ending { why: stop.to_string(), since, drain, cancel });

        // No new connections; what was received is answered, orders among it are accepted.
        if let Stop::NoMoreConnections(_) = stop {
            drop(doors.public);
        } else if let Err(error) = doors.public.close() {
            tracing::error!("orders: cannot close the socket: {error}");
            server.stop();
        }
        join(accepting);
        if let Err(unanswered) = requests.wait_timeout(ANSWERING.min(drain)) {
            tracing::warn!("not answered in time:\n{unanswered}");
        }
        if args.skip_drain {
            self.public.requests.detach();
            self.admin.requests.detach();
            self.receipts.detach();
            return ExitCode::SUCCESS;
        }

        // Connections that are still open can ask about their orders during the drain; new orders are turned away.
        receipts.close();
        let turning_away = spawn("turn-away", self.public.serve());
        tracing::info!("{stop}: no more orders; receipts to finish: {}", receipts.len());
        let outcome =
            receipts.shutdown(Grace::drain(drain.saturating_sub(since.elapsed())).then_cancel(cancel));
        let took = since.elapsed();

        server.stop();
        if let Ok(turning_away) = turning_away {
            join(turning_away);
        }
        server.serve_the_rest(requests, route);
        // Whoever is not answered by now had its line in the log, or has no order.
        let _ = requests.shutdown(Grace::drain(LAST_ANSWERS));

        let counts = self.orders.counts();
        let Counts { accepted, succeeded, failed } = counts;
        say(format_args!(
            "accepted {accepted}, succeeded {succeeded}, failed {failed}, unfinished {}; took {took:.1?}",
            counts.unfinished()
        ));
        if let Err(unfinished) = &outcome {
            tracing::error!("{unfinished}");
        }
        let _ = self.admin.requests.shutdown(Grace::drain(LAST_ANSWERS));
        let clean = outcome.is_ok() && matches!(stop, Stop::Signal(_));
        if clean { ExitCode::SUCCESS } else { ExitCode::FAILURE }
    }
}

/// A socket, what answers there, and the requests in hand.
struct Side {
    server: Arc<Server>,
    requests: Manager<Incoming>,
    route: Route,
}

impl Side {
    fn open(name: &str, port: u16, route: Route) -> Result<(Side, Door), StartError> {
        let requests = requests(name).map_err(StartError::Manager)?;
        let (server, door) = Server::open(port).map_err(StartError::io("listen"))?;
        Ok((Side { server: Arc::new(server), requests, route }, door))
    }

    fn serve(&self) -> impl FnOnce() -> io::Error + Send + use<> {
        let (server, requests, route) =
            (Arc::clone(&self.server), self.requests.uncounted(), Arc::clone(&self.route));
        move || server.serve(&requests, &route)
    }
}

/// The receipts, what is noted of each, and the gauges that a scrape is to find up to date.
///
/// Metrics go to the recorder that is installed by now.
fn receipts(args: &Args, orders: &Arc<Orders>) -> Result<(Manager<Order>, Gauges<'static>), BuildError> {
    let manager =
        Manager::builder().name("receipts").max_threads(args.threads).max_pending(args.backlog).build()?;
    let [accepted, succeeded, failed] = [(); 3].map(|()| Arc::clone(orders));
    manager
        .on_task_added(move |_cx, order: &Order| accepted.accepted(order))
        .on_task_succeeded(move |_cx, order| succeeded.succeeded(order.id))
        .on_task_failed(move |_cx, order, error| failed.failed(order.id, error.to_string()));
    observe::tracing(&manager);
    let gauges = observe::metrics(&manager);
    Ok((manager, gauges))
}

fn requests(name: &str) -> Result<Manager<Incoming>, BuildError> {
    let manager = Manager::builder().name(name).build()?;
    // tiny_http answers 500 for the request that a panic dropped.
    manager.on_task_failed(|_cx, incoming: &Incoming, error| tracing::error!("{incoming:?}: {error}"));
    Ok(manager)
}

/// What counts and measures from here on.
fn metrics() -> Result<PrometheusHandle, StartError> {
    let builder = PrometheusBuilder::new().set_buckets(&BUCKETS).map_err(StartError::Metrics)?;
    let metrics = builder.install_recorder().map_err(StartError::Metrics)?;
    let upkeep: Manager<&str> =
        Manager::builder().name("upkeep").max_threads(1).build().map_err(StartError::Manager)?;
    let kept = metrics.clone();
    let task = Task::looping("metrics", move |_cx| {
        kept.run_upkeep();
        Ok(())
    });
    if let Err(rejected) = upkeep.run_task(task.every(METRICS_UPKEEP)) {
        tracing::error!("orders: {rejected}");
    }
    // It has nothing to finish.
    upkeep.detach();
    Ok(metrics)
}

fn spawn<T: Send + 'static>(
    name: &str,
    body: impl FnOnce() -> T + Send + 'static,
) -> Result<JoinHandle<T>, StartError> {
    thread::Builder::new().name(name.to_owned()).spawn(body).map_err(StartError::io("start a thread"))
}

fn join<T>(thread: JoinHandle<T>) {
    if thread.join().is_err() {
        tracing::error!("orders: a thread of the server panicked");
    }
}

/// A line on stdout. That nobody reads it is no reason to panic: `orders | head -1` is to end well, too.
fn say(line: fmt::Arguments<'_>) {
    let _ = writeln!(io::stdout(), "{line}");
}
