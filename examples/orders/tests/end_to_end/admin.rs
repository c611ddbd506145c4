//! What operators are told, by the routes on their own port.

use std::net::TcpStream;
use std::thread;
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::support::{Answer, Files, HANG, Server, Signal, client};

const SLOW: &str = r#"{"item": "slow tea", "quantity": 1, "simulate": "slow"}"#;

/// What an admin route that is no JSON answers: content type and body.
fn text(server: &Server, path: &str) -> (String, String) {
    let mut response = client().get(server.admin_url(path)).call().unwrap();
    assert_eq!(response.status(), 200, "{path}");
    let content_type = response.headers()["content-type"].to_str().unwrap().to_owned();
    (content_type, response.body_mut().read_to_string().unwrap())
}

fn get(server: &Server, path: &str) -> Answer {
    Answer::of(client().get(server.admin_url(path)).call().unwrap())
}

/// Hooks and counters come one after the other: waits until they have all been told.
fn look_until(server: &Server, holds: impl Fn(&Value) -> bool) -> Value {
    let patience = Instant::now() + HANG;
    loop {
        let look = get(server, "/inflight.json").json;
        if holds(&look) {
            return look;
        }
        assert!(Instant::now() < patience, "it never holds: {look:#}");
        thread::sleep(Duration::from_millis(5));
    }
}

/// Of the receipts, with these labels more.
fn metric(server: &Server, name: &str, labels: &str) -> Option<f64> {
    let (_, metrics) = text(server, "/metrics");
    let series = format!(r#"inflight_{name}{{manager="receipts"{labels}}} "#);
    let line = metrics.lines().find_map(|line| line.strip_prefix(&series));
    line.map(|value| value.parse().unwrap())
}

#[test]
fn what_is_in_flight_is_listed_oldest_first_with_the_numbers_around_it() {
    let files = Files::new();
    let server = Server::start(&files, &["--threads", "1"]);
    let failed = server.order(r#"{"item": "tea", "quantity": 2, "simulate": "fail"}"#);
    server.until(failed, "failed");
    let running = server.order(SLOW);
    server.until(running, "running");
    server.order(r#"{"item": "\"<b>\"\n", "quantity": 3}"#);

    let look = look_until(&server, |look| look["counts"]["failed"] == 1 && look["failures"][0].is_object());
    let tasks = look["tasks"].as_array().unwrap();
    let field = |name: &str| tasks.iter().map(|task| task[name].as_str()).collect::<Vec<_>>();
    assert_eq!(field("meta"), [Some("order 2 (1 x slow tea)"), Some("order 3 (3 x \"<b>\"\n)")]);
    assert_eq!(field("phase"), [Some("running"), Some("queued")]);
    assert_eq!(field("progress"), [Some("waiting for the mail server"), None]);
    assert!(field("thread")[0].is_some_and(|thread| thread.starts_with("receipts")), "{look}");
    assert!(tasks[0]["age_ms"].as_u64() >= tasks[1]["age_ms"].as_u64(), "{look}");

    let counts = &look["counts"];
    let count = |name: &str| counts[name].as_u64().unwrap();
    assert_eq!((count("accepted"), count("succeeded"), count("failed"), count("rejected")), (3, 0, 1, 0));
    assert_eq!((count("threads"), count("max_threads")), (1, 1));
    assert_eq!(look["failures"][0]["task"], "order 1 (2 x tea)");
    assert_eq!(look["failures"][0]["error"], "the mail server refused the receipt");
    assert_eq!(look["ending"], Value::Null);
}

#[test]
fn the_page_is_one_file_that_may_load_nothing_from_elsewhere() {
    let files = Files::new();
    let server = Server::start(&files, &[]);
    let response = client().get(server.admin_url("/")).call().unwrap();
    let policy = response.headers()["content-security-policy"].to_str().unwrap();
    assert!(policy.starts_with("default-src 'none'; connect-src 'self'"), "{policy}");
    assert!(policy.contains("require-trusted-types-for 'script'"), "{policy}");
    let (content_type, page) = text(&server, "/");
    assert_eq!(content_type, "text/html; charset=utf-8");
    for elsewhere in ["src=", "@import", "url(", "https:"] {
        assert!(!page.contains(elsewhere), "the page has {elsewhere}");
    }
}

#[test]
fn metrics_count_what_happens_in_the_format_of_prometheus() {
    let files = Files::new();
    let server = Server::start(&files, &[]);
    let failed = server.order(r#"{"item": "tea", "quantity": 2, "simulate": "fail"}"#);
    server.until(failed, "failed");
    let slow = server.order(SLOW);
    server.until(slow, "running");

    let (content_type, metrics) = text(&server, "/metrics");
    assert!(content_type.starts_with("text/plain; version=0.0.4"), "{content_type}");
    assert!(metrics.contains("# TYPE inflight_tasks_added_total counter"), "{metrics}");
    // What an order holds is no label.
    assert!(!metrics.contains("tea"), "{metrics}");
    // The book and the metrics are kept by two hooks, one after the other.
    let patience = Instant::now() + HANG;
    while metric(&server, "tasks_failed_total", r#",cause="failed""#) != Some(1.0) {
        assert!(Instant::now() < patience, "{}", text(&server, "/metrics").1);
        thread::sleep(Duration::from_millis(5));
    }
    assert_eq!(metric(&server, "tasks_added_total", ""), Some(2.0));
    // As buckets, which add up over several servers.
    assert_eq!(metric(&server, "task_run_seconds_bucket", r#",le="+Inf""#), Some(1.0));
    assert_eq!(metric(&server, "tasks_failed_total", r#",cause="panicked""#), Some(0.0));
    for (gauge, value) in [("tasks_live", 1.0), ("tasks_running", 1.0), ("tasks_queued", 0.0)] {
        assert_eq!(metric(&server, gauge, ""), Some(value), "{gauge}");
    }
    assert!(metric(&server, "threads", "") >= Some(1.0));
}

#[test]
fn operators_are_answered_until_the_end_while_the_public_is_turned_away() {
    let files = Files::new();
    let server = Server::start(&files, &["--drain-ms", "600000", "--cancel-ms", "5000"]);
    assert_eq!(get(&server, "/healthz").status, 200);
    server.order(SLOW);
    server.signal(Signal::TERM);
    server.draining();

    let patience = Instant::now() + HANG;
    while let Ok(_still_open) = TcpStream::connect(server.address) {
        assert!(Instant::now() < patience, "the public socket stays open");
        thread::sleep(Duration::from_millis(5));
    }
    let look = get(&server, "/inflight.json").json;
    assert_eq!(look["tasks"][0]["meta"], "order 1 (1 x slow tea)");
    let ending = &look["ending"];
    assert_eq!((ending["why"].as_str(), ending["part"].as_str()), (Some("SIGTERM"), Some("drain")));
    assert_eq!((ending["drain_ms"].as_u64(), ending["cancel_ms"].as_u64()), (Some(600_000), Some(5_000)));
    let left = ending["left_ms"].as_u64().unwrap();
    assert!((500_000..=605_000).contains(&left), "{left}");

    let ill = get(&server, "/healthz");
    assert_eq!((ill.status, ill.error()), (503, "shutting down"));
    assert!(text(&server, "/").1.starts_with("<!DOCTYPE html>"));
    assert_eq!(metric(&server, "tasks_live", ""), Some(1.0));
}

#[test]
fn each_port_has_its_own_routes_and_their_methods() {
    let files = Files::new();
    let server = Server::start(&files, &[]);
    for path in ["/orders", "/orders/1", "/nothing", "/metrics/"] {
        let answer = get(&server, path);
        assert_eq!((answer.status, answer.error()), (404, "no such page"), "{path}");
    }
    for path in ["/", "/inflight.json", "/metrics"] {
        assert_eq!(server.get(path).status, 404, "{path} is for operators");
        let answer = Answer::of(client().post(server.admin_url(path)).send("tea").unwrap());
        assert_eq!((answer.status, answer.allow.as_deref()), (405, Some("GET, HEAD")), "{path}");
    }
}

#[test]
fn as_json_each_line_of_the_log_is_an_object_whatever_an_order_holds() {
    let files = Files::new();
    let server = Server::start(&files, &["--log", "json"]);
    let order = server.order(r#"{"item": "\"\n{\u001b[2J", "quantity": 2, "simulate": "fail"}"#);
    server.until(order, "failed");
    let exit = server.terminate();
    assert_eq!(exit.code, Some(0), "{}", exit.stderr());
    let lines: Vec<Value> = exit
        .stderr
        .iter()
        .map(|line| serde_json::from_str(line).unwrap_or_else(|error| panic!("{line}: {error}")))
        .collect();
    let find = |message: &str| {
        let found =
            lines.iter().find(|line| line["message"].as_str().is_some_and(|text| text.contains(message)));
        found.unwrap_or_else(|| panic!("no {message} in {lines:#?}"))
    };
    assert!(find("SIGTERM")["timestamp"].is_string());
    let failed = find("task failed");
    assert_eq!((failed["level"].as_str(), failed["target"].as_str()), (Some("ERROR"), Some("inflight")));
    assert_eq!(failed["error"], "the mail server refused the receipt");
    assert_eq!((&failed["manager"], &failed["attempt"]), (&"receipts".into(), &1.into()));
    assert!(failed["run_seconds"].is_f64() && failed["queue_seconds"].is_f64(), "{failed}");
    // On a thread of the receipts', and yet within the request that it was left behind by.
    assert_eq!((&failed["span"]["name"], &failed["span"]["path"]), (&"request".into(), &"/orders".into()));
    assert_eq!(failed["meta"], r#"order 1 (2 x \"\n{\u{1b}[2J)"#);
}
