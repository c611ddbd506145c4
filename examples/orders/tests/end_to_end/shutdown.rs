//! The steps of the end, and each of its outcomes.

use std::io::{BufRead, BufReader, ErrorKind, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use crate::support::{Answer, Files, HANG, Server, Signal, Summary, command, persistent_client};

const TEA: &str = r#"{"item": "tea", "quantity": 2}"#;
const SLOW: &str = r#"{"item": "slow tea", "quantity": 1, "simulate": "slow"}"#;

#[test]
fn an_idle_server_ends_at_either_signal() {
    for (signal, name) in [(Signal::TERM, "SIGTERM"), (Signal::INT, "SIGINT")] {
        let files = Files::new();
        let server = Server::start(&files, &[]);
        server.signal(signal);
        let exit = server.exit();
        assert_eq!(exit.code, Some(0), "{}", exit.stderr());
        assert_eq!(exit.summary(), Summary { accepted: 0, succeeded: 0, failed: 0, unfinished: 0 });
        assert!(exit.stderr[0].starts_with(name), "{}", exit.stderr());
    }
}

#[test]
fn slow_receipts_are_cancelled_after_the_drain_and_count_as_failed() {
    let files = Files::new();
    let server = Server::start(&files, &["--drain-ms", "200", "--cancel-ms", "30000"]);
    let slow = [server.order(SLOW), server.order(SLOW)];
    for order in slow {
        server.until(order, "running");
    }
    let tea = server.order(TEA);
    server.until(tea, "succeeded");
    let exit = server.terminate();
    assert_eq!(exit.code, Some(0), "{}", exit.stderr());
    assert_eq!(exit.summary(), Summary { accepted: 3, succeeded: 1, failed: 2, unfinished: 0 });
    assert_eq!(files.receipts().into_keys().collect::<Vec<_>>(), [tea]);
    for order in slow {
        let name = format!("order {order} (1 x slow tea)");
        let line = exit.stderr.iter().find(|line| line.contains(&name));
        assert!(line.is_some_and(|line| line.contains("cancelled")), "{}", exit.stderr());
    }
}

#[test]
fn a_stuck_receipt_is_named_with_its_age_and_progress() {
    let files = Files::new();
    let server = Server::start(&files, &["--drain-ms", "300", "--cancel-ms", "300"]);
    let stuck = server.order(r#"{"item": "glue", "quantity": 3, "simulate": "stuck"}"#);
    server.until(stuck, "running");
    server.order(SLOW);
    let tea = server.order(TEA);
    server.until(tea, "succeeded");

    let exit = server.terminate();
    assert_eq!(exit.code, Some(1), "{}", exit.stderr());
    assert_eq!(exit.summary(), Summary { accepted: 3, succeeded: 1, failed: 1, unfinished: 1 });
    let name = format!("order {stuck} (3 x glue)");
    let row = exit.stderr.iter().find(|line| line.contains(&name));
    let row = row.unwrap_or_else(|| panic!("no {name} in:\n{}", exit.stderr()));
    assert!(row.contains("a mail server that never answers"), "no progress in: {row}");
    assert!(row.split_whitespace().any(is_age), "no age in: {row}");
    assert!(!exit.stderr().contains("panicked"), "{}", exit.stderr());
}

/// A duration, such as `1.2s` or `750ms`.
fn is_age(word: &str) -> bool {
    let number = word.trim_end_matches(',').trim_end_matches("ms").trim_end_matches('s');
    number.len() < word.len() && number.parse::<f64>().is_ok()
}

#[test]
fn a_second_signal_ends_the_process_at_once() {
    for signal in [Signal::TERM, Signal::INT] {
        let files = Files::new();
        let server = Server::start(&files, &["--drain-ms", "600000"]);
        server.order(SLOW);
        server.signal(Signal::TERM);
        server.draining();
        server.signal(signal);
        let exit = server.exit();
        assert_eq!((exit.code, exit.signal), (None, Some(signal.as_raw())), "{}", exit.stderr());
    }
}

#[test]
fn during_the_drain_old_connections_are_answered_and_new_ones_refused() {
    let files = Files::new();
    let server = Server::start(&files, &["--drain-ms", "600000"]);
    let client = persistent_client();
    let post = |body| Answer::of(client.post(server.url("/orders")).send(body).unwrap());
    let get = |path: &str| Answer::of(client.get(server.url(path)).call().unwrap());
    assert_eq!(post(SLOW).status, 202);
    server.signal(Signal::TERM);
    assert!(server.draining().ends_with(": 1"));

    let patience = Instant::now() + HANG;
    while let Ok(_still_open) = TcpStream::connect(server.address) {
        assert!(Instant::now() < patience, "the socket stays open");
        thread::sleep(Duration::from_millis(5));
    }
    let refused = post(TEA);
    assert_eq!((refused.status, refused.error()), (503, "shutting down"));
    let ill = get("/healthz");
    assert_eq!((ill.status, ill.error()), (503, "shutting down"));
    assert_eq!(get("/orders/1").json["state"], "running");
}

#[test]
fn a_request_that_was_received_before_the_signal_is_answered() {
    let files = Files::new();
    let server = Server::start(&files, &[]);
    let mut connection = server.connect();
    let mut answers = BufReader::new(connection.try_clone().unwrap());
    let length = TEA.len();
    write!(
        connection,
        "POST /orders HTTP/1.1\r\nHost: x\r\nContent-Length: {length}\r\nExpect: 100-continue\r\n\r\n"
    )
    .unwrap();
    let mut line = String::new();
    answers.read_line(&mut line).unwrap();
    assert!(line.starts_with("HTTP/1.1 100"), "{line}");

    server.signal(Signal::TERM);
    // Not before the signal has come through, which a refused connection shows.
    let patience = Instant::now() + HANG;
    loop {
        match TcpStream::connect(server.address) {
            Err(error) if error.kind() == ErrorKind::ConnectionRefused => break,
            _ => thread::sleep(Duration::from_millis(5)),
        }
        assert!(Instant::now() < patience, "the socket stays open");
    }
    connection.write_all(TEA.as_bytes()).unwrap();
    let mut answer = String::new();
    answers.read_to_string(&mut answer).unwrap();
    assert!(answer.contains("HTTP/1.1 202") && answer.contains(r#"{"order":1}"#), "{answer}");

    let exit = server.exit();
    assert_eq!(exit.code, Some(0), "{}", exit.stderr());
    assert_eq!(exit.summary(), Summary { accepted: 1, succeeded: 1, failed: 0, unfinished: 0 });
    assert_eq!(files.receipts().len(), 1);
}

/// A server that runs out of files finds so when it accepts, and ends with what it has; or else when tiny_http
/// copies the handle of a connection, which kills a thread of tiny_http's and says nothing to the server. Which
/// one depends on whether the limit is even, and on what else is open for the moment.
#[test]
fn a_server_that_cannot_accept_any_more_drains_and_fails() {
    for limit in ["40", "41"].into_iter().cycle().take(20) {
        let files = Files::new();
        let mut limited = Command::new("sh");
        limited.args(["-c", r#"ulimit -n "$0" && exec "$@""#, limit]);
        let mut server = Server::start_by(limited, &files, &["--mail-ms", "300"]);
        // This connection stays, so that the count of open files grows by two at a time from here on.
        let client = persistent_client();
        assert_eq!(Answer::of(client.post(server.url("/orders")).send(TEA).unwrap()).status, 202);
        // The last of them may be refused.
        let _connections: Vec<_> = (0..40).map(|_| TcpStream::connect(server.address)).collect();

        let patience = Instant::now() + HANG;
        while !server.has_ended() && !server.has_said("panicked") {
            assert!(Instant::now() < patience, "nothing happens");
            thread::sleep(Duration::from_millis(5));
        }
        if server.has_said("panicked") {
            continue;
        }
        let exit = server.exit();
        assert_eq!(exit.code, Some(1), "{}", exit.stderr());
        assert!(exit.stderr().contains("cannot accept connections"), "{}", exit.stderr());
        assert_eq!(exit.summary(), Summary { accepted: 1, succeeded: 1, failed: 0, unfinished: 0 });
        assert_eq!(files.receipts().len(), 1);
        return;
    }
    panic!("it is always tiny_http that runs out of files");
}

#[test]
fn a_server_whose_output_nobody_reads_ends_well() {
    let files = Files::new();
    let mut child =
        command("0", &files.db(), &[]).stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
    let mut line = String::new();
    BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
    assert!(line.starts_with("listening on "), "{line}");
    rustix::process::kill_process(rustix::process::Pid::from_child(&child), Signal::TERM).unwrap();
    assert_eq!(child.wait().unwrap().code(), Some(0));
}

#[test]
fn what_it_cannot_start_with_is_said_without_a_panic() {
    let files = Files::new();
    let missing = files.db().join("missing").join("orders.db");
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = taken.local_addr().unwrap().port().to_string();
    for (mut command, code, reason) in [
        (command("0", &missing, &[]), 1, missing.to_str().unwrap()),
        (command(&port, &files.db(), &[]), 1, "cannot listen"),
        (command("0", &files.db(), &["--threads", "0"]), 2, "--threads"),
        (command("0", &files.db(), &["--drain-ms", "soon"]), 2, "--drain-ms"),
    ] {
        let exit = Server::launch(&mut command).exit();
        assert_eq!(exit.code, Some(code), "{}", exit.stderr());
        assert!(exit.stderr().contains(reason), "{}", exit.stderr());
        assert!(!exit.stderr().contains("panicked"), "{}", exit.stderr());
        assert_eq!(exit.stdout, [""; 0]);
    }
}
