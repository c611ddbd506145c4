//! `carry` with a real `tracing` span: what the submitter was doing is known where the task runs.

#![allow(clippy::unwrap_used)]

use inflight::Manager;
use std::cell::RefCell;
use std::sync::Mutex;
use tracing::span::{Attributes, Id, Record};
use tracing::{Event, Metadata, Span, Subscriber, info_span};
use tracing_core::span::Current;

thread_local!(static ENTERED: RefCell<Vec<Id>> = const { RefCell::new(Vec::new()) });

/// The least subscriber that knows which span a thread is in.
#[derive(Default)]
struct Spans(Mutex<Vec<&'static Metadata<'static>>>);

impl Subscriber for Spans {
    fn enabled(&self, _: &Metadata<'_>) -> bool {
        true
    }

    fn new_span(&self, attributes: &Attributes<'_>) -> Id {
        let mut spans = self.0.lock().unwrap();
        spans.push(attributes.metadata());
        Id::from_u64(spans.len() as u64)
    }

    fn record(&self, _: &Id, _: &Record<'_>) {}

    fn record_follows_from(&self, _: &Id, _: &Id) {}

    fn event(&self, _: &Event<'_>) {}

    fn enter(&self, span: &Id) {
        ENTERED.with_borrow_mut(|entered| entered.push(span.clone()));
    }

    fn exit(&self, span: &Id) {
        ENTERED.with_borrow_mut(|entered| entered.retain(|other| other != span));
    }

    fn current_span(&self) -> Current {
        let Some(id) = ENTERED.with_borrow(|entered| entered.last().cloned()) else { return Current::none() };
        let metadata = self.0.lock().unwrap()[usize::try_from(id.into_u64()).unwrap() - 1];
        Current::new(id, metadata)
    }
}

fn current() -> Option<&'static str> {
    Span::current().metadata().map(Metadata::name)
}

#[test]
fn the_submitters_span_is_entered_on_a_reused_worker_and_left_again() {
    tracing::subscriber::set_global_default(Spans::default()).unwrap();
    let manager = Manager::builder().max_threads(1).build().unwrap();
    manager.carry(|_| Span::current(), |span: &Span| span.clone().entered());
    let seen = |meta| manager.spawn(meta, |_| Ok(current())).unwrap().join().unwrap();
    assert_eq!(info_span!("request 7").in_scope(|| seen("first")), Some("request 7"));
    assert_eq!(info_span!("request 8").in_scope(|| seen("second")), Some("request 8"));
    assert_eq!(seen("third"), None);
    assert_eq!(current(), None);
}
