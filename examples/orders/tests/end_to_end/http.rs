//! What each route answers, and what no client may do to it.

use std::io::{Read, Write};

use rusqlite::Connection;
use serde_json::json;

use crate::support::{Answer, Files, Server, Summary, client};

#[test]
fn an_order_is_accepted_at_once_and_has_its_receipt_later() {
    let files = Files::new();
    let server = Server::start(&files, &[]);

    let answer = server.post(r#"{"item": "tea", "quantity": 2}"#);
    assert_eq!((answer.status, answer.json.clone()), (202, json!({ "order": 1 })));

    let done = server.until(answer.order(), "succeeded");
    assert_eq!(done.status, 200);
    assert_eq!(done.json, json!({ "order": 1, "item": "tea", "quantity": 2, "state": "succeeded" }));
    assert_eq!(files.receipts(), [(1, ("tea".to_owned(), 2))].into());
}

#[test]
fn an_order_says_where_it_is() {
    let files = Files::new();
    let server = Server::start(&files, &["--threads", "1", "--cancel-ms", "30000", "--drain-ms", "0"]);
    let first = server.order(r#"{"item": "tea", "quantity": 1, "simulate": "slow"}"#);
    let running = server.until(first, "running");
    assert_eq!(running.json, json!({ "order": first, "item": "tea", "quantity": 1, "state": "running" }));
    let second = server.order(r#"{"item": "tea", "quantity": 2}"#);
    let queued = server.get(&format!("/orders/{second}"));
    assert_eq!(queued.json, json!({ "order": second, "item": "tea", "quantity": 2, "state": "queued" }));
}

#[test]
fn an_order_that_fails_says_why() {
    let files = Files::new();
    let server = Server::start(&files, &[]);
    let order = server.order(r#"{"item": "tea", "quantity": 2, "simulate": "fail"}"#);
    let failed = server.until(order, "failed");
    assert_eq!(failed.status, 200);
    assert!(failed.json["error"].as_str().unwrap().contains("mail server"), "{failed:?}");
    let line = server.stderr_line("order 1 (2 x tea)");
    assert!(line.contains("mail server"), "{line}");

    let exit = server.terminate();
    assert_eq!(exit.code, Some(0));
    assert_eq!(exit.summary(), Summary { accepted: 1, succeeded: 0, failed: 1, unfinished: 0 });
    assert!(files.receipts().is_empty());
}

#[test]
fn a_receipt_that_cannot_be_stored_is_a_failure() {
    let files = Files::new();
    let server = Server::start(&files, &[]);
    let no_more = "CREATE TRIGGER full BEFORE INSERT ON receipts BEGIN SELECT raise(FAIL, 'no paper'); END";
    Connection::open(files.db()).unwrap().execute_batch(no_more).unwrap();
    let order = server.order(r#"{"item": "tea", "quantity": 2}"#);
    let failed = server.until(order, "failed");
    assert!(failed.json["error"].as_str().unwrap().contains("no paper"), "{failed:?}");
    assert!(server.stderr_line("order 1 (2 x tea)").contains("no paper"));
}

#[test]
fn an_order_that_the_database_has_no_number_for_is_refused() {
    let files = Files::new();
    let server = Server::start(&files, &[]);
    Connection::open(files.db()).unwrap().execute_batch("DROP TABLE next_order").unwrap();
    let answer = server.post(r#"{"item": "tea", "quantity": 2}"#);
    assert_eq!((answer.status, answer.error()), (500, "the database does not answer"));
    server.stderr_line("no such table: next_order");
    assert_eq!(server.terminate().summary().accepted, 0);
}

#[test]
fn what_an_earlier_run_did_is_known_and_its_numbers_are_not_used_again() {
    let files = Files::new();
    let server = Server::start(&files, &[]);
    let good = server.order(r#"{"item": "tea", "quantity": 2}"#);
    let bad = server.order(r#"{"item": "tea", "quantity": 3, "simulate": "fail"}"#);
    assert_eq!(server.terminate().code, Some(0));

    let server = Server::start(&files, &[]);
    let found = server.get(&format!("/orders/{good}"));
    assert_eq!(found.status, 200);
    assert_eq!(found.json, json!({ "order": good, "item": "tea", "quantity": 2, "state": "succeeded" }));
    assert_eq!(server.get(&format!("/orders/{bad}")).status, 404);
    let next = server.order(r#"{"item": "tea", "quantity": 4}"#);
    assert!(next > bad, "{next} after {bad}");
}

#[test]
fn a_healthy_server_says_so() {
    let files = Files::new();
    let server = Server::start(&files, &[]);
    let answer = server.get("/healthz?by=test");
    assert_eq!((answer.status, answer.json), (200, json!({ "status": "ok" })));
}

#[test]
fn what_does_not_exist_is_not_found() {
    let files = Files::new();
    let server = Server::start(&files, &[]);
    for path in
        ["/", "/orders/", "/orders/1", "/orders/0", "/orders/-1", "/orders/tea", "/orders/1/2", "/nothing"]
    {
        let answer = server.get(path);
        assert_eq!(answer.status, 404, "{path}");
        assert!(answer.error().starts_with("no such"), "{path}: {answer:?}");
    }
    let huge = server.get("/orders/99999999999999999999999");
    assert_eq!((huge.status, huge.error()), (404, "no such order"));
}

#[test]
fn a_wrong_method_is_told_the_right_ones() {
    let files = Files::new();
    let server = Server::start(&files, &[]);
    let client = client();
    for (path, allowed) in [("/orders", "POST"), ("/orders/1", "GET, HEAD"), ("/healthz", "GET, HEAD")] {
        let answer = Answer::of(client.delete(server.url(path)).call().unwrap());
        assert_eq!((answer.status, answer.allow.as_deref()), (405, Some(allowed)), "{path}");
        assert!(answer.error().contains(allowed), "{path}: {answer:?}");
    }
    assert_eq!(server.get("/orders").status, 405);
    let put =
        Answer::of(client.put(server.url("/orders")).send(r#"{"item": "tea", "quantity": 2}"#).unwrap());
    assert_eq!(put.status, 405);
}

#[test]
fn bad_input_is_refused_with_a_reason_and_is_no_order() {
    let files = Files::new();
    let server = Server::start(&files, &[]);
    for (body, reason) in [
        ("", "needs a body"),
        ("tea", "expected"),
        (r#"{"item": "tea""#, "EOF"),
        (r#"{"item": "tea"}"#, "`quantity`"),
        (r#"{"quantity": 2}"#, "`item`"),
        (r#"{"item": "tea", "quantity": "two"}"#, "expected i64"),
        (r#"{"item": "tea", "quantity": 0}"#, "`quantity`"),
        (r#"{"item": "tea", "quantity": 1001}"#, "`quantity`"),
        (r#"{"item": "", "quantity": 2}"#, "`item`"),
        (r#"{"item": "tea", "quantity": 2, "colour": "red"}"#, "`colour`"),
        (r#"{"item": "tea", "quantity": 2, "simulate": "explode"}"#, "`stuck`"),
    ] {
        let answer = server.post(body);
        assert_eq!(answer.status, 400, "{body}: {answer:?}");
        assert!(answer.error().contains(reason), "{body}: {answer:?}");
    }
    let none = Answer::of(client().post(server.url("/orders")).send_empty().unwrap());
    assert_eq!((none.status, none.error()), (400, "an order needs a body"));

    let exit = server.terminate();
    assert_eq!(exit.summary(), Summary { accepted: 0, succeeded: 0, failed: 0, unfinished: 0 });
}

#[test]
fn a_body_over_the_limit_is_refused_however_it_is_announced() {
    let files = Files::new();
    let server = Server::start(&files, &[]);
    let padded = |length: usize| {
        let order = r#"{"item": "tea", "quantity": 2}"#;
        format!("{order}{}", " ".repeat(length - order.len()))
    };
    let too_long = "the body is longer than 16384 bytes";

    server.order(&padded(16_384));
    for length in [16_385, 500_000] {
        let answer = server.post(&padded(length));
        assert_eq!((answer.status, answer.error()), (413, too_long));
    }

    // Nor is it waited for.
    let mut connection = server.connect();
    write!(connection, "POST /orders HTTP/1.1\r\nHost: x\r\nContent-Length: 16385\r\n\r\n").unwrap();
    let mut start = [0; 12];
    connection.read_exact(&mut start).unwrap();
    assert_eq!(&start, b"HTTP/1.1 413");

    let chunked = |length: usize| {
        let body = padded(length);
        server.raw(&format!(
            "POST /orders HTTP/1.1\r\nHost: x\r\nConnection: close\r\nTransfer-Encoding: chunked\r\n\r\n\
             {length:x}\r\n{body}\r\n0\r\n\r\n"
        ))
    };
    assert!(chunked(16_384).starts_with("HTTP/1.1 202"));
    let answer = chunked(16_385);
    assert!(answer.starts_with("HTTP/1.1 413") && answer.contains(too_long), "{answer}");
}

/// tiny_http would make room for all that is announced.
#[test]
fn an_absurd_length_is_refused_and_does_not_end_the_process() {
    let files = Files::new();
    let server = Server::start(&files, &[]);
    for length in ["1048577", "100000000000000", "9223372036854775807", "18446744073709551615"] {
        for start in ["POST /orders", "GET /healthz", "DELETE /nothing"] {
            let mut connection = server.connect();
            write!(connection, "{start} HTTP/1.1\r\nHost: x\r\nContent-Length: {length}\r\n\r\n").unwrap();
            // The connection stays open, so what is expected is read and no more.
            let mut answer = Vec::new();
            while !answer.ends_with(b"bytes\"}") {
                let mut part = [0; 1_024];
                let read = connection.read(&mut part).unwrap();
                assert_ne!(read, 0, "{}", String::from_utf8_lossy(&answer));
                answer.extend_from_slice(&part[..read]);
            }
            let answer = String::from_utf8(answer).unwrap();
            assert!(answer.contains("\r\nHTTP/1.1 413 "), "{answer}");
        }
    }
    server.order(r#"{"item": "tea", "quantity": 2}"#);
    assert_eq!(server.terminate().code, Some(0));
}

/// A client that asks for an upgrade may send nothing more, and stay.
#[test]
fn a_request_without_a_body_is_answered_though_its_connection_is_open() {
    let files = Files::new();
    let server = Server::start(&files, &[]);
    let mut connection = server.connect();
    write!(connection, "POST /orders HTTP/1.1\r\nHost: x\r\nConnection: upgrade\r\n\r\n").unwrap();
    let mut start = [0; 12];
    connection.read_exact(&mut start).unwrap();
    assert_eq!(&start, b"HTTP/1.1 400");
}

#[test]
fn clients_that_stall_hold_up_nobody_else() {
    let files = Files::new();
    let server = Server::start(&files, &["--drain-ms", "500"]);
    let stalled: Vec<_> = (0..20)
        .map(|_| {
            let mut connection = server.connect();
            let announced =
                "POST /orders HTTP/1.1\r\nHost: x\r\nContent-Length: 20\r\nExpect: 100-continue\r\n\r\n";
            connection.write_all(announced.as_bytes()).unwrap();
            // tiny_http may queue a connection behind one that stalls if they come at the same moment. This
            // answer shows that the server waits for the body.
            let mut start = [0; 12];
            connection.read_exact(&mut start).unwrap();
            assert_eq!(&start, b"HTTP/1.1 100");
            connection
        })
        .collect();
    let order = server.order(r#"{"item": "tea", "quantity": 2}"#);
    server.until(order, "succeeded");

    let exit = server.terminate();
    assert_eq!(exit.code, Some(0), "{}", exit.stderr());
    assert_eq!(exit.summary(), Summary { accepted: 1, succeeded: 1, failed: 0, unfinished: 0 });
    let named = exit.stderr.iter().filter(|line| line.contains("POST /orders from 127.0.0.1:")).count();
    assert_eq!(named, stalled.len(), "{}", exit.stderr());
}

#[test]
fn a_full_backlog_turns_orders_away_and_does_not_count_them() {
    let files = Files::new();
    let options = ["--threads", "1", "--backlog", "2", "--drain-ms", "0", "--cancel-ms", "30000"];
    let server = Server::start(&files, &options);
    let slow = r#"{"item": "tea", "quantity": 1, "simulate": "slow"}"#;
    let running = server.order(slow);
    server.until(running, "running");
    server.order(slow);
    let last = server.order(slow);

    let answer = server.post(slow);
    assert_eq!(answer.status, 503);
    assert!(answer.error().contains("too many"), "{answer:?}");
    assert_eq!(server.get(&format!("/orders/{}", last + 1)).status, 404);

    let exit = server.terminate();
    assert_eq!(exit.code, Some(0), "{}", exit.stderr());
    assert_eq!(exit.summary(), Summary { accepted: 3, succeeded: 0, failed: 3, unfinished: 0 });
}
