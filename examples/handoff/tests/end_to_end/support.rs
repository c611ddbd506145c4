//! Processes, and what they say.

use std::collections::BTreeSet;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::process::{self, Child, Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Condvar, Mutex};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use ::redis::{Client, Connection};
use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;

/// After this a test counts as hanging. Nothing that works comes near it.
pub(crate) const HANG: Duration = Duration::from_secs(60);

/// A port on which nobody listens, and that no other test has been given.
///
/// It is none of those that the system takes for outgoing connections: whoever connects to such a one again and
/// again, while nobody listens, is connected to itself one day, and holds the port.
pub(crate) fn free_port() -> u16 {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    until("a port is free", || {
        let next = process::id().wrapping_mul(64).wrapping_add(NEXT.fetch_add(1, Ordering::Relaxed));
        let port = 20_000 + u16::try_from(next % 12_000).unwrap();
        TcpListener::bind((Ipv4Addr::LOCALHOST, port)).is_ok().then_some(port)
    })
}

/// Asks again and again until there is an answer.
pub(crate) fn until<T>(what: &str, mut ask: impl FnMut() -> Option<T>) -> T {
    let patience = Instant::now() + HANG;
    loop {
        if let Some(answer) = ask() {
            return answer;
        }
        assert!(Instant::now() < patience, "it does not come to that: {what}");
        thread::sleep(Duration::from_millis(5));
    }
}

/// A process; killed when it is dropped before its end.
pub(crate) struct Process {
    child: Child,
    said: Arc<(Mutex<Said>, Condvar)>,
    readers: Vec<JoinHandle<()>>,
}

#[derive(Default)]
struct Said {
    lines: Vec<String>,
    ended: usize,
}

impl Process {
    pub(crate) fn start(command: &mut Command) -> Self {
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().unwrap();
        let said = Arc::default();
        let stdout = read(child.stdout.take().unwrap(), &said);
        let stderr = read(child.stderr.take().unwrap(), &said);
        Process { child, said, readers: vec![stdout, stderr] }
    }

    /// `handoff` with these arguments.
    pub(crate) fn handoff(arguments: &[&str]) -> Self {
        Process::start(Command::new(env!("CARGO_BIN_EXE_handoff")).args(arguments))
    }

    /// Waits until it has said this many lines with `part` in them, and answers them.
    pub(crate) fn says(&self, part: &str, times: usize) -> Vec<String> {
        let matching = |said: &Said| -> Vec<String> {
            said.lines.iter().filter(|line| line.contains(part)).cloned().collect()
        };
        let said = self.said.0.lock().unwrap();
        let (said, _) = self
            .said
            .1
            .wait_timeout_while(said, HANG, |said| matching(said).len() < times && said.ended < 2)
            .unwrap();
        let (found, lines) = (matching(&said), said.lines.clone());
        // Not held while this panics: what is dropped then looks at it.
        drop(said);
        assert!(found.len() >= times, "`{part}` comes {} times: {lines:#?}", found.len());
        found
    }

    /// The lines so far.
    pub(crate) fn lines(&self) -> Vec<String> {
        self.said.0.lock().unwrap().lines.clone()
    }

    /// The texts of the jobs of which it has said that it `began` or `did` them.
    pub(crate) fn jobs(&self, verb: &str) -> BTreeSet<String> {
        jobs(&self.lines(), verb)
    }

    pub(crate) fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.child), signal).unwrap();
    }

    /// Its status, and all that it has said.
    pub(crate) fn end(mut self) -> (ExitStatus, Vec<String>) {
        let status = until("it ends", || self.child.try_wait().unwrap());
        for reader in self.readers.drain(..) {
            reader.join().unwrap();
        }
        (status, self.lines())
    }

    pub(crate) fn terminate(self) -> (ExitStatus, Vec<String>) {
        self.signal(Signal::TERM);
        self.end()
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // Fails if it has ended, which is well.
        let _ = self.child.kill();
        let _ = self.child.wait();
        if thread::panicking() {
            eprintln!("--- {}", self.lines().join("\n"));
        }
    }
}

fn read(pipe: impl Read + Send + 'static, said: &Arc<(Mutex<Said>, Condvar)>) -> JoinHandle<()> {
    let said = Arc::clone(said);
    thread::spawn(move || {
        for line in BufReader::new(pipe).lines() {
            said.0.lock().unwrap().lines.push(line.unwrap());
            said.1.notify_all();
        }
        said.0.lock().unwrap().ended += 1;
        said.1.notify_all();
    })
}

/// Lines have the form `did 4f1c… "text"`.
pub(crate) fn jobs(lines: &[String], verb: &str) -> BTreeSet<String> {
    let lines = lines.iter().filter_map(|line| line.strip_prefix(verb)?.strip_prefix(' '));
    lines.map(|line| line.split('"').nth(1).unwrap().to_owned()).collect()
}

/// A `handoff serve`.
pub(crate) struct Server {
    pub(crate) process: Process,
    address: SocketAddr,
}

impl Server {
    pub(crate) fn start(redis: &str, options: &[&str]) -> Self {
        let process = Process::handoff(&[&["serve", "--port", "0", "--redis", redis], options].concat());
        let line = process.says("listening on http://", 1).remove(0);
        let address = line.strip_prefix("listening on http://").unwrap().parse().unwrap();
        Server { process, address }
    }

    pub(crate) fn connect(&self) -> TcpStream {
        let connection = TcpStream::connect(self.address).unwrap();
        connection.set_read_timeout(Some(HANG)).unwrap();
        connection
    }

    /// Sends a request as it is, and answers the status and the body of the response.
    pub(crate) fn send(&self, request: &str) -> (u16, String) {
        let mut connection = self.connect();
        connection.write_all(request.as_bytes()).unwrap();
        let mut response = String::new();
        connection.read_to_string(&mut response).unwrap();
        let (head, body) = response.rsplit_once("\r\n\r\n").unwrap();
        let status = head.rsplit_once("HTTP/1.1 ").unwrap().1.split(' ').next().unwrap();
        (status.parse().unwrap(), body.trim_end().to_owned())
    }

    pub(crate) fn post(&self, text: &str) -> (u16, String) {
        let head = "POST /jobs HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n";
        self.send(&format!("{head}Content-Length: {}\r\n\r\n{text}", text.len()))
    }

    /// Asks for a job, which has to be accepted.
    pub(crate) fn job(&self, text: &str) {
        let (status, body) = self.post(text);
        assert_eq!(status, 202, "{body}");
    }
}

/// A `redis-server` that keeps what it has acknowledged.
pub(crate) struct Redis {
    folder: TempDir,
    port: u16,
    process: Option<Process>,
}

impl Redis {
    pub(crate) fn start() -> Self {
        let mut redis = Redis { folder: tempfile::tempdir().unwrap(), port: free_port(), process: None };
        redis.go_on();
        redis
    }

    pub(crate) fn url(&self) -> String {
        format!("redis://127.0.0.1:{}/", self.port)
    }

    pub(crate) fn stop(&mut self) {
        self.process.take().unwrap().terminate();
    }

    /// Starts it (again), with the data that it had.
    pub(crate) fn go_on(&mut self) {
        let mut command = Command::new("redis-server");
        command.args(["--port", &self.port.to_string(), "--bind", "127.0.0.1", "--save", ""]);
        command.args(["--appendonly", "yes", "--appendfsync", "always", "--dir"]).arg(self.folder.path());
        if Command::new("redis-server").arg("--version").output().is_err() {
            panic!(
                "redis-server is not installed: run scripts/install-test-tools.sh, or install it yourself"
            );
        }
        self.process = Some(Process::start(&mut command));
        until("Redis answers", || ::redis::cmd("PING").query::<String>(&mut self.try_connect()?).ok());
    }

    fn try_connect(&self) -> Option<Connection> {
        Client::open(self.url()).unwrap().get_connection().ok()
    }

    pub(crate) fn connect(&self) -> Connection {
        self.try_connect().unwrap()
    }

    /// How many entries the stream has.
    pub(crate) fn entries(&self) -> usize {
        ::redis::cmd("XLEN").arg("jobs").query(&mut self.connect()).unwrap()
    }

    /// How many of them a worker has taken and not acknowledged.
    pub(crate) fn pending(&self) -> usize {
        use ::redis::{Commands, streams::StreamPendingReply};
        let reply: StreamPendingReply = self.connect().xpending("jobs", "workers").unwrap();
        reply.count()
    }

    /// A `handoff work` that has begun to take jobs.
    pub(crate) fn worker(&self, options: &[&str]) -> Process {
        let worker = Process::handoff(&[&["work", "--redis", &self.url()], options].concat());
        worker.says("ready", 1);
        worker
    }
}
