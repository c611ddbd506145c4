//! What the server does without Redis.

use std::io::{BufRead, BufReader, Write};

use rustix::process::Signal;

use crate::support::{Process, Server, free_port};

/// Nobody listens there.
fn nowhere() -> String {
    format!("redis://127.0.0.1:{}/", free_port())
}

#[test]
fn a_request_is_answered_while_redis_is_away() {
    let server = Server::start(&nowhere(), &[]);
    let (status, id) = server.post("tea");
    assert_eq!(status, 202);
    let waits = server.process.says("waits for Redis", 1);
    assert!(waits[0].contains(&id) && waits[0].contains("\"tea\""), "{waits:?}");
}

#[test]
fn a_job_that_cannot_be_handed_over_by_the_end_is_named() {
    let server = Server::start(&nowhere(), &["--drain-ms", "50"]);
    server.job("tea");
    server.job("two\nlines");
    let (status, lines) = server.process.terminate();
    assert_eq!(status.code(), Some(1));
    let named: Vec<_> = lines.iter().filter(|line| line.starts_with("not handed over: ")).collect();
    assert_eq!(named.len(), 2, "{lines:#?}");
    assert!(named.iter().any(|line| line.contains(r#""tea""#)), "{named:?}");
    assert!(named.iter().any(|line| line.contains(r#""two\nlines""#)), "{named:?}");
    assert!(lines.contains(&"accepted 2, handed over 0".to_owned()), "{lines:#?}");
}

#[test]
fn jobs_beyond_the_backlog_are_turned_away() {
    let server = Server::start(&nowhere(), &["--backlog", "2"]);
    server.job("first");
    server.job("second");
    assert_eq!(server.post("third").0, 503);
}

#[test]
fn what_is_no_job_is_refused_with_a_reason() {
    let server = Server::start(&nowhere(), &[]);
    assert_eq!(server.post(" \n"), (400, "the job is empty".into()));
    assert_eq!(server.post(&"x".repeat(64 * 1024 + 1)).0, 413);
    assert_eq!(server.post(&"x".repeat(64 * 1024)).0, 202);
    let get =
        |path| server.send(&format!("GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"));
    assert_eq!(get("/jobs").0, 405);
    assert_eq!(get("/").0, 404);
}

#[test]
fn a_length_without_measure_does_not_end_the_server() {
    let server = Server::start(&nowhere(), &[]);
    let head = "POST /jobs HTTP/1.1\r\nHost: localhost\r\nContent-Length: 999999999999999999\r\n\r\n";
    let mut connection = server.connect();
    connection.write_all(head.as_bytes()).unwrap();
    let mut lines = BufReader::new(connection).lines().map(Result::unwrap);
    assert!(lines.any(|line| line.contains(" 413 ")));
    server.job("tea");
}

#[test]
fn a_server_with_nothing_to_hand_over_ends_well() {
    let server = Server::start(&nowhere(), &[]);
    server.process.signal(Signal::INT);
    let (status, lines) = server.process.end();
    assert_eq!(status.code(), Some(0), "{lines:#?}");
}

#[test]
fn a_worker_without_redis_says_so_and_ends_when_told() {
    let worker = Process::handoff(&["work", "--redis", &nowhere()]);
    worker.says("take jobs: ", 1);
    let (status, lines) = worker.terminate();
    assert_eq!(status.code(), Some(0), "{lines:#?}");
}

#[test]
fn wrong_usage_exits_with_2() {
    for arguments in
        [&[][..], &["serve", "--redis", "no url"], &["work", "--threads", "0"], &["work", "--idle-ms", "0"]]
    {
        let (status, lines) = Process::handoff(arguments).end();
        assert_eq!(status.code(), Some(2), "{arguments:?}: {lines:#?}");
    }
}
