//! A running server, and what a client and an operator see of it.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Condvar, Mutex};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use rusqlite::Connection;
use rustix::process::{Pid, kill_process};
use serde_json::Value;

pub(crate) use rustix::process::Signal;

/// After this a test counts as hanging. Nothing that works comes near it.
pub(crate) const HANG: Duration = Duration::from_secs(60);

/// The directory of one test's database.
pub(crate) struct Files {
    directory: tempfile::TempDir,
}

impl Files {
    pub(crate) fn new() -> Self {
        Files { directory: tempfile::tempdir().unwrap() }
    }

    pub(crate) fn db(&self) -> PathBuf {
        self.directory.path().join("orders.db")
    }

    /// Item and quantity of each receipt.
    pub(crate) fn receipts(&self) -> BTreeMap<i64, (String, i64)> {
        let connection = Connection::open(self.db()).unwrap();
        let mut select = connection.prepare("SELECT order_id, item, quantity FROM receipts").unwrap();
        let mut receipts = BTreeMap::new();
        let mut rows = select.query(()).unwrap();
        while let Some(row) = rows.next().unwrap() {
            let id = row.get(0).unwrap();
            let twice = receipts.insert(id, (row.get(1).unwrap(), row.get(2).unwrap()));
            assert!(twice.is_none(), "order {id} has two rows");
        }
        receipts
    }
}

/// A process of the binary; killed when it is dropped before its exit.
pub(crate) struct Server {
    child: Child,
    pub(crate) address: SocketAddr,
    pub(crate) admin: SocketAddr,
    stdout: Lines,
    stderr: Lines,
}

/// How a process ended.
pub(crate) struct Exit {
    pub(crate) code: Option<i32>,
    pub(crate) signal: Option<i32>,
    pub(crate) stdout: Vec<String>,
    pub(crate) stderr: Vec<String>,
}

/// The line that a drained server ends with.
#[derive(Debug, PartialEq)]
pub(crate) struct Summary {
    pub(crate) accepted: u64,
    pub(crate) succeeded: u64,
    pub(crate) failed: u64,
    pub(crate) unfinished: u64,
}

impl Server {
    /// Starts it, and reads where it listens.
    pub(crate) fn start(files: &Files, options: &[&str]) -> Self {
        Server::listening(Server::launch(&mut command("0", &files.db(), options)))
    }

    /// Starts it by a command that runs its arguments.
    pub(crate) fn start_by(mut wrapper: Command, files: &Files, options: &[&str]) -> Self {
        let command = command("0", &files.db(), options);
        wrapper.arg(command.get_program()).args(command.get_args());
        Server::listening(Server::launch(&mut wrapper))
    }

    fn listening(mut server: Self) -> Self {
        server.address = server.announced("listening on ");
        server.admin = server.announced("operators: ");
        server
    }

    fn announced(&self, what: &str) -> SocketAddr {
        let line = self.stdout.wait_for(|line| line.starts_with(what));
        let address: SocketAddr = line[what.len()..].strip_prefix("http://").unwrap().parse().unwrap();
        assert!(address.ip().is_loopback() && address.port() != 0, "{line}");
        address
    }

    /// Runs what may not even come to listen.
    pub(crate) fn launch(command: &mut Command) -> Self {
        let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let stdout = Lines::of(child.stdout.take().unwrap());
        let stderr = Lines::of(child.stderr.take().unwrap());
        let nowhere = (Ipv4Addr::LOCALHOST, 0).into();
        Server { child, address: nowhere, admin: nowhere, stdout, stderr }
    }

    pub(crate) fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.child), signal).unwrap();
    }

    /// Waits for a line on stderr that contains `part`.
    pub(crate) fn stderr_line(&self, part: &str) -> String {
        self.stderr.wait_for(|line| line.contains(part))
    }

    /// Waits until the signal has come through, and the drain has begun.
    pub(crate) fn draining(&self) -> String {
        self.stderr_line("receipts to finish")
    }

    pub(crate) fn has_said(&self, part: &str) -> bool {
        self.stderr.so_far().contains(part)
    }

    pub(crate) fn has_ended(&mut self) -> bool {
        self.child.try_wait().unwrap().is_some()
    }

    pub(crate) fn exit(mut self) -> Exit {
        let status = wait(&mut self.child);
        Exit {
            code: status.code(),
            signal: status.signal(),
            stdout: self.stdout.all(),
            stderr: self.stderr.all(),
        }
    }

    pub(crate) fn terminate(self) -> Exit {
        self.signal(Signal::TERM);
        self.exit()
    }

    pub(crate) fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.address)
    }

    pub(crate) fn admin_url(&self, path: &str) -> String {
        format!("http://{}{path}", self.admin)
    }

    pub(crate) fn get(&self, path: &str) -> Answer {
        Answer::of(client().get(self.url(path)).call().unwrap())
    }

    pub(crate) fn post(&self, body: &str) -> Answer {
        Answer::of(client().post(self.url("/orders")).send(body).unwrap())
    }

    /// Places an order that has to be accepted.
    pub(crate) fn order(&self, body: &str) -> i64 {
        let answer = self.post(body);
        assert_eq!(answer.status, 202, "{answer:?}");
        answer.order()
    }

    /// Waits until an order is in this state.
    pub(crate) fn until(&self, order: i64, state: &str) -> Answer {
        let patience = Instant::now() + HANG;
        loop {
            let answer = self.get(&format!("/orders/{order}"));
            if answer.json["state"] == state {
                return answer;
            }
            assert!(Instant::now() < patience, "order {order} hangs: {answer:?}");
            thread::sleep(Duration::from_millis(5));
        }
    }

    /// A connection for what no proper client would send.
    pub(crate) fn connect(&self) -> TcpStream {
        let connection = TcpStream::connect(self.address).unwrap();
        connection.set_read_timeout(Some(HANG)).unwrap();
        connection
    }

    /// What comes back on a connection that ends with the answer.
    pub(crate) fn raw(&self, request: &str) -> String {
        let mut connection = self.connect();
        connection.write_all(request.as_bytes()).unwrap();
        let mut answer = String::new();
        connection.read_to_string(&mut answer).unwrap();
        answer
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // Fails if it has ended, which is well.
        let _ = self.child.kill();
        let _ = self.child.wait();
        if thread::panicking() {
            eprintln!("--- stdout\n{}\n--- stderr\n{}", self.stdout.so_far(), self.stderr.so_far());
        }
    }
}

impl Exit {
    pub(crate) fn summary(&self) -> Summary {
        let line = self.stdout.last().unwrap();
        let (counts, took) = line.split_once("; took ").unwrap_or_else(|| panic!("no summary: {line}"));
        assert!(took.starts_with(|first: char| first.is_ascii_digit()), "no duration: {line}");
        let mut numbers = counts
            .split(", ")
            .zip(["accepted ", "succeeded ", "failed ", "unfinished "])
            .map(|(part, name)| part.strip_prefix(name).and_then(|number| number.parse().ok()).expect(name));
        let mut next = || numbers.next().unwrap();
        Summary { accepted: next(), succeeded: next(), failed: next(), unfinished: next() }
    }

    pub(crate) fn stderr(&self) -> String {
        self.stderr.join("\n")
    }
}

pub(crate) fn command(port: &str, db: &Path, options: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_orders"));
    command.args(["--port", port, "--db"]).arg(db).args(options).stdin(Stdio::null());
    command
}

fn wait(child: &mut Child) -> ExitStatus {
    let patience = Instant::now() + HANG;
    loop {
        if let Some(status) = child.try_wait().unwrap() {
            return status;
        }
        if Instant::now() > patience {
            child.kill().unwrap();
            panic!("the server does not end");
        }
        thread::sleep(Duration::from_millis(5));
    }
}

/// A client that opens a connection for each request, and takes every status for an answer.
pub(crate) fn client() -> ureq::Agent {
    config().max_idle_connections(0).build().new_agent()
}

/// A client that keeps its connection.
pub(crate) fn persistent_client() -> ureq::Agent {
    config().build().new_agent()
}

fn config() -> ureq::config::ConfigBuilder<ureq::typestate::AgentScope> {
    ureq::Agent::config_builder().http_status_as_error(false).timeout_global(Some(HANG))
}

#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) json: Value,
    pub(crate) allow: Option<String>,
}

impl Answer {
    /// Every answer of the server is JSON, and says so.
    pub(crate) fn of(mut response: ureq::http::Response<ureq::Body>) -> Self {
        let header =
            |name: &str| response.headers().get(name).map(|value| value.to_str().unwrap().to_owned());
        let (content_type, allow) = (header("content-type"), header("allow"));
        let status = response.status().as_u16();
        let body = response.body_mut().read_to_string().unwrap();
        assert_eq!(content_type.as_deref(), Some("application/json"), "{status} {body}");
        let json = serde_json::from_str(&body).unwrap_or_else(|error| panic!("{status} {body:?}: {error}"));
        Answer { status, json, allow }
    }

    pub(crate) fn order(&self) -> i64 {
        self.json["order"].as_i64().unwrap()
    }

    /// The reason of an answer that has nothing else.
    pub(crate) fn error(&self) -> &str {
        let fields = self.json.as_object().unwrap();
        assert_eq!(fields.keys().collect::<Vec<_>>(), ["error"]);
        fields["error"].as_str().unwrap()
    }
}

/// The lines of a pipe, which a thread reads as they come.
struct Lines {
    read: Arc<(Mutex<Transcript>, Condvar)>,
    reader: Option<JoinHandle<()>>,
}

#[derive(Default)]
struct Transcript {
    lines: Vec<String>,
    ended: bool,
}

impl Lines {
    fn of(pipe: impl Read + Send + 'static) -> Self {
        let read = Arc::new((Mutex::new(Transcript::default()), Condvar::new()));
        let shared = Arc::clone(&read);
        let reader = thread::spawn(move || {
            for line in BufReader::new(pipe).lines() {
                shared.0.lock().unwrap().lines.push(line.unwrap());
                shared.1.notify_all();
            }
            shared.0.lock().unwrap().ended = true;
            shared.1.notify_all();
        });
        Lines { read, reader: Some(reader) }
    }

    fn wait_for(&self, wanted: impl Fn(&str) -> bool) -> String {
        let (read, changed) = &*self.read;
        let found = |read: &Transcript| read.lines.iter().find(|line| wanted(line)).cloned();
        let read = read.lock().unwrap();
        let (read, _) =
            changed.wait_timeout_while(read, HANG, |read| found(read).is_none() && !read.ended).unwrap();
        found(&read).unwrap_or_else(|| panic!("the line does not come; so far: {:#?}", read.lines))
    }

    fn so_far(&self) -> String {
        self.read.0.lock().map(|read| read.lines.join("\n")).unwrap_or_default()
    }

    fn all(&mut self) -> Vec<String> {
        if let Some(reader) = self.reader.take() {
            reader.join().unwrap();
        }
        self.read.0.lock().unwrap().lines.clone()
    }
}
