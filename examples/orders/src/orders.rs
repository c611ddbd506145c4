//! What an order is, and what became of each.

use std::collections::{HashMap, VecDeque};
use std::fmt;
use std::sync::{Mutex, MutexGuard};

use serde::{Deserialize, Serialize};

/// What the tasks of this server are about: the manager's `Meta`.
#[derive(Clone, PartialEq)]
pub(crate) struct Order {
    pub(crate) id: i64,
    pub(crate) item: String,
    pub(crate) quantity: u16,
    pub(crate) simulate: Option<Simulate>,
}

/// The trouble that an order may ask for.
#[derive(Clone, Copy, Debug, PartialEq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Simulate {
    /// The receipt fails.
    Fail,
    /// The receipt takes until it is cancelled.
    Slow,
    /// The receipt takes forever, and ignores that it is cancelled.
    Stuck,
}

/// The name of an order, its item as the client wrote it: for JSON, and for whatever else escapes by itself.
impl fmt::Display for Order {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "order {} ({} x {})", self.id, self.quantity, self.item)
    }
}

/// The name of an order in logs and in the table of what a shutdown left behind. A client chose the item, so
/// what would break a line is escaped.
impl fmt::Debug for Order {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "order {} ({} x {})", self.id, self.quantity, self.item.escape_debug())
    }
}

#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(tag = "state", content = "error", rename_all = "lowercase")]
pub(crate) enum State {
    Queued,
    Running,
    Succeeded,
    Failed(String),
}

/// An order as `GET /orders/N` shows it.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub(crate) struct Status {
    pub(crate) order: i64,
    pub(crate) item: String,
    pub(crate) quantity: u16,
    #[serde(flatten)]
    pub(crate) state: State,
}

/// Each order is accepted once, then it succeeds or fails; those in between are `unfinished`.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(crate) struct Counts {
    pub(crate) accepted: u64,
    pub(crate) succeeded: u64,
    pub(crate) failed: u64,
}

impl Counts {
    pub(crate) fn unfinished(self) -> u64 {
        self.accepted - self.succeeded - self.failed
    }
}

/// The orders of this run: all that are under way, and the latest of those that ended.
///
/// The manager's limits bound what is under way; what ended is forgotten oldest first. A receipt outlives that
/// in the database, a failure does not.
pub(crate) struct Orders {
    book: Mutex<Book>,
    remembered: usize,
}

#[derive(Default)]
struct Book {
    known: HashMap<i64, Status>,
    /// The ids in `known` that have ended, oldest first.
    ended: VecDeque<i64>,
    counts: Counts,
}

impl Orders {
    /// Keeps the latest `remembered` orders that have ended.
    pub(crate) fn new(remembered: usize) -> Self {
        Orders { book: Mutex::default(), remembered }
    }

    pub(crate) fn accepted(&self, order: &Order) {
        let mut book = self.book();
        book.counts.accepted += 1;
        let Order { id, ref item, quantity, .. } = *order;
        book.known.insert(id, Status { order: id, item: item.clone(), quantity, state: State::Queued });
    }

    pub(crate) fn started(&self, id: i64) {
        self.book().become_state(id, State::Running);
    }

    pub(crate) fn succeeded(&self, id: i64) {
        let mut book = self.book();
        book.counts.succeeded += 1;
        book.end(id, State::Succeeded, self.remembered);
    }

    pub(crate) fn failed(&self, id: i64, why: String) {
        let mut book = self.book();
        book.counts.failed += 1;
        book.end(id, State::Failed(why), self.remembered);
    }

    pub(crate) fn get(&self, id: i64) -> Option<Status> {
        self.book().known.get(&id).cloned()
    }

    pub(crate) fn counts(&self) -> Counts {
        self.book().counts
    }

    fn book(&self) -> MutexGuard<'_, Book> {
        self.book.lock().expect("nothing panics while it holds the book")
    }
}

impl Book {
    fn become_state(&mut self, id: i64, state: State) {
        if let Some(status) = self.known.get_mut(&id) {
            status.state = state;
        }
    }

    fn end(&mut self, id: i64, state: State, remembered: usize) {
        self.become_state(id, state);
        self.ended.push_back(id);
        while self.ended.len() > remembered {
            if let Some(oldest) = self.ended.pop_front() {
                self.known.remove(&oldest);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn order(id: i64) -> Order {
        Order { id, item: "tea".into(), quantity: 2, simulate: None }
    }

    #[test]
    fn an_order_is_named_on_one_line() {
        assert_eq!(format!("{:?}", order(17)), "order 17 (2 x tea)");
        let odd = Order { item: "tea\n\u{1b}[2J".into(), ..order(17) };
        assert_eq!(format!("{odd:?}"), r"order 17 (2 x tea\n\u{1b}[2J)");
    }

    #[test]
    fn a_status_is_flat_json_with_an_error_only_if_it_failed() {
        let orders = Orders::new(10);
        orders.accepted(&order(17));
        let json = |id| serde_json::to_string(&orders.get(id)).unwrap();
        assert_eq!(json(17), r#"{"order":17,"item":"tea","quantity":2,"state":"queued"}"#);
        orders.started(17);
        assert_eq!(json(17), r#"{"order":17,"item":"tea","quantity":2,"state":"running"}"#);
        orders.failed(17, "no paper".into());
        assert_eq!(json(17), r#"{"order":17,"item":"tea","quantity":2,"state":"failed","error":"no paper"}"#);
    }

    #[test]
    fn what_ended_is_forgotten_oldest_first_and_what_is_under_way_is_not() {
        let orders = Orders::new(2);
        (1..=4).for_each(|id| orders.accepted(&order(id)));
        orders.succeeded(2);
        orders.failed(3, "no paper".into());
        orders.succeeded(4);
        let known: Vec<_> = (1..=4).map(|id| orders.get(id).map(|status| status.state)).collect();
        assert_eq!(
            known,
            [Some(State::Queued), None, Some(State::Failed("no paper".into())), Some(State::Succeeded)]
        );
    }

    #[test]
    fn the_counts_do_not_forget() {
        let orders = Orders::new(0);
        (1..=5).for_each(|id| orders.accepted(&order(id)));
        orders.succeeded(1);
        orders.succeeded(2);
        orders.failed(3, "no paper".into());
        let counts = orders.counts();
        assert_eq!(counts, Counts { accepted: 5, succeeded: 2, failed: 1 });
        assert_eq!(counts.unfinished(), 2);
    }
}
