//! Every order that got its 202 has exactly one row, whenever the signal comes.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc;
use std::thread;
use std::time::Instant;

use crate::support::{Answer, Exit, Files, HANG, Server, Signal, client};

const CLIENTS: usize = 8;
/// No client places more than this, whatever happens.
const ORDERS_PER_CLIENT: usize = 5_000;

/// An order that got its 202.
struct Placed {
    id: i64,
    item: String,
    quantity: i64,
}

/// Eight clients order for as long as they are served. After `after` orders comes the signal.
fn round(server: Server, name: &str, after: usize) -> (Vec<Placed>, Exit) {
    let placed = AtomicUsize::new(0);
    let (enough, is_enough) = mpsc::channel();
    let address = server.url("/orders");
    let deadline = Instant::now() + HANG;
    let order = |client_number: usize| {
        let enough = enough.clone();
        let (client, mut mine) = (client(), Vec::new());
        for number in 0..ORDERS_PER_CLIENT {
            assert!(Instant::now() < deadline, "the server is never told to end");
            let (item, quantity) = (format!("{name}-{client_number}-{number}"), number % 1_000 + 1);
            let body = format!(r#"{{"item": "{item}", "quantity": {quantity}}}"#);
            // Refused, reset, or 503: the server is ending.
            let Ok(answer) = client.post(&address).send(body) else { return mine };
            let answer = Answer::of(answer);
            if answer.status != 202 {
                assert_eq!(answer.status, 503, "{answer:?}");
                return mine;
            }
            mine.push(Placed { id: answer.order(), item, quantity: quantity.try_into().unwrap() });
            if placed.fetch_add(1, Ordering::Relaxed) + 1 == after {
                enough.send(()).unwrap();
            }
        }
        panic!("the load ended before the server");
    };
    thread::scope(|scope| {
        let order = &order;
        let clients: Vec<_> = (0..CLIENTS).map(|number| scope.spawn(move || order(number))).collect();
        is_enough.recv_timeout(HANG).unwrap();
        server.signal(Signal::TERM);
        let exit = server.exit();
        (clients.into_iter().flat_map(|client| client.join().unwrap()).collect(), exit)
    })
}

/// The orders without a row. Whatever has one has the right one.
fn lost(files: &Files, placed: &[Placed]) -> Vec<i64> {
    let ids: BTreeSet<_> = placed.iter().map(|order| order.id).collect();
    assert_eq!(ids.len(), placed.len(), "two orders got the same number");
    let receipts = files.receipts();
    let mut lost = Vec::new();
    for Placed { id, item, quantity } in placed {
        match receipts.get(id) {
            Some(receipt) => assert_eq!(receipt, &(item.clone(), *quantity), "the receipt of order {id}"),
            None => lost.push(*id),
        }
    }
    lost
}

#[test]
fn every_order_that_got_its_202_has_exactly_one_row() {
    let files = Files::new();
    let (mut placed, mut accepted) = (Vec::new(), 0);
    for (number, (mail, after)) in [("20", 400), ("150", 60), ("1", 250), ("400", 8)].into_iter().enumerate()
    {
        let server = Server::start(&files, &["--mail-ms", mail]);
        let (in_this_round, exit) = round(server, &format!("round-{number}"), after);
        assert_eq!(exit.code, Some(0), "{}", exit.stderr());

        let summary = exit.summary();
        assert!(summary.accepted >= in_this_round.len().try_into().unwrap());
        assert_eq!(summary.succeeded, summary.accepted);
        assert_eq!((summary.failed, summary.unfinished), (0, 0));

        accepted += summary.accepted;
        placed.extend(in_this_round);
        assert_eq!(lost(&files, &placed), [0; 0], "in round {number}");
        // An answer may not have reached its client. Its order counts all the same.
        assert_eq!(files.receipts().len(), usize::try_from(accepted).unwrap());
    }
}

/// That the test above can fail.
#[test]
fn without_the_drain_orders_are_seen_to_be_lost() {
    let files = Files::new();
    let server = Server::start(&files, &["--mail-ms", "300", "--skip-drain"]);
    let (placed, exit) = round(server, "skipped", 100);
    assert_eq!(exit.code, Some(0), "{}", exit.stderr());
    assert_ne!(lost(&files, &placed), [0; 0]);
}
