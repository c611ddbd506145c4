//! No job is lost, whoever ends in the middle.

use std::collections::BTreeSet;
use std::os::unix::process::ExitStatusExt;
use std::thread;
use std::time::Duration;

use rustix::process::Signal;

use crate::support::{Redis, Server, jobs, until};

/// Longer than any test: a job that does not end by itself.
const NEVER: &str = "600000";

/// How long these workers wait before they take over what is unheard of. The heartbeat has to come through
/// on a busy machine within it.
const IDLE: &str = "2000";

fn texts(prefix: &str, jobs: usize) -> BTreeSet<String> {
    (0..jobs).map(|job| format!("{prefix} {job}")).collect()
}

/// Every job is done, and Redis has nothing left.
fn assert_settled(redis: &Redis) {
    until("all is acknowledged", || (redis.entries() == 0).then_some(()));
    assert_eq!(redis.pending(), 0);
}

#[test]
#[ignore = "needs redis-server: scripts/install-test-tools.sh, then cargo test -p handoff -- --ignored"]
fn every_job_is_done_though_one_worker_is_killed_one_is_drained_and_redis_goes_away() {
    let mut redis = Redis::start();
    let server = Server::start(&redis.url(), &[]);
    let before = texts("before", 60);
    before.iter().for_each(|job| server.job(job));

    // One worker holds on to four jobs, the other does its own.
    let killed = redis.worker(&["--threads", "4", "--job-ms", NEVER, "--idle-ms", IDLE]);
    killed.says("began", 4);
    let drained = redis.worker(&["--threads", "4", "--job-ms", "100", "--idle-ms", IDLE]);
    drained.says("did", 10);

    killed.signal(Signal::KILL);
    let (status, lines) = killed.end();
    assert_eq!(status.signal(), Some(Signal::KILL.as_raw()));
    let orphans = jobs(&lines, "began");
    assert_eq!((orphans.len(), jobs(&lines, "did").len()), (4, 0));
    assert!(redis.pending() >= 4);

    // Redis is away for a second, while jobs are asked for and others are done.
    redis.stop();
    let meanwhile = texts("meanwhile", 40);
    meanwhile.iter().for_each(|job| server.job(job));
    server.process.says("waits for Redis", 1);
    thread::sleep(Duration::from_secs(1));
    redis.go_on();
    let after = texts("after", 40);
    after.iter().for_each(|job| server.job(job));

    // The second worker is back at it, and is told to end in the middle.
    let done = drained.jobs("did").len();
    drained.says("did", done + 5);
    let (status, lines) = drained.terminate();
    assert_eq!(status.code(), Some(0), "{lines:#?}");
    let first = jobs(&lines, "did");
    assert_eq!(jobs(&lines, "began"), first, "it finishes what it has in hand");

    // The server has handed over all that it answered for.
    let (status, lines) = server.process.terminate();
    assert_eq!(status.code(), Some(0), "{lines:#?}");
    assert!(lines.contains(&"accepted 140, handed over 140".to_owned()), "{lines:#?}");

    let all: BTreeSet<String> = before.into_iter().chain(meanwhile).chain(after).collect();
    assert!(first.len() < all.len(), "there is something left for the third worker");
    let heir = redis.worker(&["--job-ms", "1", "--idle-ms", IDLE]);
    until("every job is done", || (&first | &heir.jobs("did") == all).then_some(()));
    assert!(orphans.is_subset(&(&first | &heir.jobs("did"))));
    assert_settled(&redis);
}

#[test]
#[ignore = "needs redis-server: scripts/install-test-tools.sh, then cargo test -p handoff -- --ignored"]
fn a_worker_whose_budget_is_used_up_leaves_its_jobs_to_the_next() {
    let redis = Redis::start();
    let server = Server::start(&redis.url(), &[]);
    let all = texts("job", 8);
    all.iter().for_each(|job| server.job(job));

    let worker = redis.worker(&["--threads", "4", "--job-ms", NEVER, "--idle-ms", IDLE, "--drain-ms", "50"]);
    worker.says("began", 4);
    let (status, lines) = worker.terminate();
    assert_eq!(status.code(), Some(0), "{lines:#?}");
    assert!(jobs(&lines, "did").is_empty());
    for job in jobs(&lines, "began") {
        let failed = |line: &String| line.starts_with("failed: ") && line.contains(&job);
        assert!(lines.iter().any(failed), "{job} is named: {lines:#?}");
    }
    assert_eq!(redis.entries(), 8, "nothing is acknowledged");

    let heir = redis.worker(&["--job-ms", "1", "--idle-ms", IDLE]);
    until("every job is done", || (heir.jobs("did") == all).then_some(()));
    assert_settled(&redis);
}

#[test]
#[ignore = "needs redis-server: scripts/install-test-tools.sh, then cargo test -p handoff -- --ignored"]
fn a_job_that_takes_long_is_not_taken_over_while_its_worker_lives() {
    let redis = Redis::start();
    let server = Server::start(&redis.url(), &[]);
    // Twice as long as it takes to be given up, and draining for most of it.
    let worker = redis.worker(&["--threads", "1", "--job-ms", "6000", "--idle-ms", "3000"]);
    server.job("long");
    worker.says("began", 1);
    let other = redis.worker(&["--job-ms", "1", "--idle-ms", "3000"]);
    let (status, lines) = worker.terminate();
    assert_eq!((status.code(), jobs(&lines, "did").len()), (Some(0), 1), "{lines:#?}");
    assert_settled(&redis);
    assert!(other.jobs("began").is_empty());
}

#[test]
#[ignore = "needs redis-server: scripts/install-test-tools.sh, then cargo test -p handoff -- --ignored"]
fn a_server_that_is_told_to_end_while_redis_is_away_waits_for_it() {
    let mut redis = Redis::start();
    let server = Server::start(&redis.url(), &[]);
    redis.stop();
    texts("job", 20).iter().for_each(|job| server.job(job));
    server.process.says("waits for Redis", 1);
    server.process.signal(Signal::TERM);
    server.process.says("SIGTERM", 1);
    redis.go_on();
    let (status, lines) = server.process.end();
    assert_eq!(status.code(), Some(0), "{lines:#?}");
    assert_eq!(redis.entries(), 20);
}

#[test]
#[ignore = "needs redis-server: scripts/install-test-tools.sh, then cargo test -p handoff -- --ignored"]
fn an_entry_that_is_no_job_is_named_and_stays() {
    let redis = Redis::start();
    let id: String =
        ::redis::cmd("XADD").arg("jobs").arg("*").arg("id").arg("1").query(&mut redis.connect()).unwrap();
    let server = Server::start(&redis.url(), &[]);
    server.job("tea");
    let worker = redis.worker(&["--job-ms", "1", "--idle-ms", IDLE]);
    worker.says(&format!("entry {id}, left where it is: "), 1);
    worker.says("did", 1);
    until("the job is acknowledged", || (redis.entries() == 1).then_some(()));
    assert_eq!(redis.pending(), 1);
}

#[test]
#[ignore = "needs redis-server: scripts/install-test-tools.sh, then cargo test -p handoff -- --ignored"]
fn a_job_that_fails_is_not_acknowledged_and_comes_back() {
    let redis = Redis::start();
    let server = Server::start(&redis.url(), &[]);
    let worker = redis.worker(&["--job-ms", "1", "--idle-ms", "100"]);
    server.job("fail once more");
    server.job("tea");
    worker.says("failed: ", 2);
    worker.says("did", 1);
    until("the other job is acknowledged", || (redis.entries() == 1).then_some(()));
    assert_eq!(redis.pending(), 1);
    let (status, lines) = worker.terminate();
    assert_eq!(status.code(), Some(0), "{lines:#?}");
}

#[test]
#[ignore = "needs redis-server: scripts/install-test-tools.sh, then cargo test -p handoff -- --ignored"]
fn an_acknowledgement_is_tried_again_without_doing_the_job_again() {
    let mut redis = Redis::start();
    let server = Server::start(&redis.url(), &[]);
    let worker = redis.worker(&["--job-ms", "500", "--idle-ms", IDLE]);
    server.job("tea");
    worker.says("began", 1);
    redis.stop();
    worker.says("did", 1);
    redis.go_on();
    assert_settled(&redis);
    assert_eq!(worker.says("did", 1).len(), 1);
}

#[test]
#[ignore = "needs redis-server: scripts/install-test-tools.sh, then cargo test -p handoff -- --ignored"]
fn a_worker_goes_on_when_redis_has_lost_the_stream() {
    let redis = Redis::start();
    let server = Server::start(&redis.url(), &[]);
    let worker = redis.worker(&["--job-ms", "1", "--idle-ms", IDLE]);
    server.job("before");
    worker.says("did", 1);
    let _: () = ::redis::cmd("FLUSHALL").query(&mut redis.connect()).unwrap();
    server.job("after");
    worker.says("did", 2);
    assert_settled(&redis);
}
