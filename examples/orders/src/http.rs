//! The public routes: from a request to its reply.

use std::borrow::Cow;
use std::fmt;
use std::io::{self, Read};
use std::sync::Arc;
use std::time::Duration;

use inflight::{Manager, Reason, Rejected, Task};
use serde::{Deserialize, Serialize};
use serde_json::json;
use tiny_http::{Method, Request};

use crate::orders::{Order, Orders, Simulate};
use crate::receipt;
use crate::store::Store;

/// The longest body that is read. The longest order, all in escapes, is a quarter of it.
pub(crate) const BODY_LIMIT: usize = 16 * 1024;
const ITEM_LIMIT: usize = 200;
const QUANTITIES: std::ops::RangeInclusive<i64> = 1..=1_000;

/// What the routes work with.
pub(crate) struct App {
    /// An uncounted handle: `main` owns the receipts, and closes them.
    pub(crate) receipts: Manager<Order>,
    pub(crate) orders: Arc<Orders>,
    pub(crate) store: Arc<Store>,
    /// How long the mail server takes.
    pub(crate) mail: Duration,
}

#[derive(Debug, PartialEq)]
pub(crate) struct Reply {
    pub(crate) status: u16,
    /// Field and value of each.
    pub(crate) headers: Vec<(&'static str, &'static str)>,
    pub(crate) body: Cow<'static, str>,
}

impl Reply {
    pub(crate) fn new(status: u16, content_type: &'static str, body: impl Into<Cow<'static, str>>) -> Self {
        let headers = vec![("Content-Type", content_type), ("X-Content-Type-Options", "nosniff")];
        Reply { status, headers, body: body.into() }
    }

    pub(crate) fn json(status: u16, body: &impl Serialize) -> Self {
        let body = serde_json::to_string(body).expect("no reply has a map with keys that are not strings");
        Reply::new(status, "application/json", body)
    }

    pub(crate) fn with(mut self, field: &'static str, value: &'static str) -> Self {
        self.headers.push((field, value));
        self
    }

    pub(crate) fn error(status: u16, reason: impl fmt::Display) -> Self {
        Reply::json(status, &json!({ "error": reason.to_string() }))
    }
}

/// For a request whose body is out of all proportion, whatever it asks for.
pub(crate) fn too_long() -> Reply {
    Refusal::Body(BadBody::TooLong).reply()
}

pub(crate) fn route(app: &App, request: &mut Request) -> Reply {
    let path = request.url().split('?').next().unwrap_or_default().to_owned();
    // The receipt that an order leaves behind is logged within it, too.
    let _span = tracing::info_span!("request", method = %request.method(), path).entered();
    let segments: Vec<&str> = path.split('/').skip(1).collect();
    match (request.method(), segments.as_slice()) {
        (Method::Post, ["orders"]) => place_order(app, request).unwrap_or_else(|refusal| refusal.reply()),
        (Method::Get | Method::Head, ["orders", id]) => show_order(app, id),
        (Method::Get | Method::Head, ["healthz"]) => health(app.receipts.is_closed()),
        (_, ["orders"]) => not_allowed("POST"),
        (_, ["orders", _] | ["healthz"]) => not_allowed("GET, HEAD"),
        _ => Reply::error(404, "no such page"),
    }
}

pub(crate) fn not_allowed(allow: &'static str) -> Reply {
    Reply::error(405, format_args!("the methods here: {allow}")).with("Allow", allow)
}

pub(crate) fn health(closed: bool) -> Reply {
    if closed {
        return Reply::error(503, "shutting down");
    }
    Reply::json(200, &json!({ "status": "ok" }))
}

fn show_order(app: &App, id: &str) -> Reply {
    let unknown = || Reply::error(404, "no such order");
    let Ok(id) = id.parse() else { return unknown() };
    if let Some(status) = app.orders.get(id) {
        return Reply::json(200, &status);
    }
    match app.store.receipt(id) {
        Ok(Some(status)) => Reply::json(200, &status),
        Ok(None) => unknown(),
        Err(error) => Refusal::Database(error).reply(),
    }
}

fn place_order(app: &App, request: &mut Request) -> Result<Reply, Refusal> {
    let Draft { item, quantity, simulate } = Draft::parse(&read_body(request)?)?;
    let id = app.store.next_id().map_err(Refusal::Database)?;
    let order = Order { id, item, quantity, simulate };

    let meta = order.clone();
    let (orders, store, mail) = (Arc::clone(&app.orders), Arc::clone(&app.store), app.mail);
    let task = Task::once(meta, move |cx| {
        orders.started(order.id);
        receipt::issue(cx, &order, &store, mail)
    });
    // Never waits: a client can come back, and a full backlog should not fill the threads of the server as well.
    app.receipts.try_run_task(task).map_err(Refusal::Rejected)?;
    // From here on the order is the manager's, whether its client hears of it or not.
    Ok(Reply::json(202, &json!({ "order": id })))
}

/// An order that is none.
enum Refusal {
    Body(BadBody),
    Order(BadOrder),
    Rejected(Rejected<Order>),
    Database(rusqlite::Error),
}

impl From<BadBody> for Refusal {
    fn from(bad: BadBody) -> Self {
        Refusal::Body(bad)
    }
}

impl From<BadOrder> for Refusal {
    fn from(bad: BadOrder) -> Self {
        Refusal::Order(bad)
    }
}

impl Refusal {
    fn reply(self) -> Reply {
        match self {
            Refusal::Body(bad @ BadBody::TooLong) => Reply::error(413, bad),
            Refusal::Body(bad) => Reply::error(400, bad),
            Refusal::Order(bad) => Reply::error(400, bad),
            Refusal::Rejected(rejected) => match rejected.reason() {
                Reason::Closed => Reply::error(503, "shutting down"),
                Reason::Full => Reply::error(503, "too many receipts are waiting, try again later"),
                _ => Reply::error(503, "no thread for the receipt, try again later"),
            },
            Refusal::Database(error) => {
                tracing::error!("the database: {error}");
                Reply::error(500, "the database does not answer")
            }
        }
    }
}

#[derive(Debug)]
enum BadBody {
    Missing,
    TooLong,
    BrokenOff(io::Error),
}

impl fmt::Display for BadBody {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            BadBody::Missing => f.write_str("an order needs a body"),
            BadBody::TooLong => write!(f, "the body is longer than {BODY_LIMIT} bytes"),
            BadBody::BrokenOff(error) => write!(f, "the body broke off: {error}"),
        }
    }
}

fn read_body(request: &mut Request) -> Result<Vec<u8>, BadBody> {
    // A request that announces no body has none. Its reader must not be asked: after `Connection: upgrade` it is
    // the whole connection, which ends when the client leaves.
    let chunked = request.headers().iter().any(|header| header.field.equiv("Transfer-Encoding"));
    let limit = match request.body_length() {
        Some(length) if length > BODY_LIMIT => return Err(BadBody::TooLong),
        Some(length) => length,
        None if chunked => BODY_LIMIT + 1,
        None => 0,
    };
    let mut body = Vec::new();
    if limit > 0 {
        let reader = request.as_reader();
        reader.take(limit as u64).read_to_end(&mut body).map_err(BadBody::BrokenOff)?;
    }
    match body.len() {
        0 => Err(BadBody::Missing),
        length if length > BODY_LIMIT => Err(BadBody::TooLong),
        _ => Ok(body),
    }
}

/// The body of `POST /orders`, before it has a number.
#[derive(Debug, PartialEq)]
struct Draft {
    item: String,
    quantity: u16,
    simulate: Option<Simulate>,
}

#[derive(Debug)]
enum BadOrder {
    /// Not JSON, or a field that is missing, unknown, or of the wrong type: serde tells which.
    Json(serde_json::Error),
    NotAnObject,
    NoItem,
    LongItem,
    Quantity,
}

impl fmt::Display for BadOrder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            BadOrder::Json(error) => error.fmt(f),
            BadOrder::NotAnObject => f.write_str("an order is a JSON object"),
            BadOrder::NoItem => f.write_str("`item` is empty"),
            BadOrder::LongItem => write!(f, "`item` is longer than {ITEM_LIMIT} characters"),
            BadOrder::Quantity => {
                write!(f, "`quantity` is not between {} and {}", QUANTITIES.start(), QUANTITIES.end())
            }
        }
    }
}

impl Draft {
    fn parse(body: &[u8]) -> Result<Self, BadOrder> {
        #[derive(Deserialize)]
        #[serde(deny_unknown_fields)]
        struct Fields {
            item: String,
            quantity: i64,
            simulate: Option<Simulate>,
        }
        // serde would take an array for the fields in their order.
        if body.trim_ascii_start().starts_with(b"[") {
            return Err(BadOrder::NotAnObject);
        }
        let Fields { item, quantity, simulate } = serde_json::from_slice(body).map_err(BadOrder::Json)?;
        if item.trim().is_empty() {
            return Err(BadOrder::NoItem);
        }
        if item.chars().count() > ITEM_LIMIT {
            return Err(BadOrder::LongItem);
        }
        match u16::try_from(quantity) {
            Ok(few) if QUANTITIES.contains(&quantity) => Ok(Draft { item, quantity: few, simulate }),
            _ => Err(BadOrder::Quantity),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tiny_http::TestRequest;

    fn refusal(body: &str) -> String {
        Draft::parse(body.as_bytes()).unwrap_err().to_string()
    }

    fn item(length: usize) -> String {
        format!(r#"{{"item": "{}", "quantity": 1}}"#, "é".repeat(length))
    }

    #[test]
    fn an_order_is_parsed() {
        let plain = Draft::parse(br#" {"item": "tea", "quantity": 2} "#).unwrap();
        assert_eq!(plain, Draft { item: "tea".into(), quantity: 2, simulate: None });
        for (word, meant) in [("fail", Simulate::Fail), ("slow", Simulate::Slow), ("stuck", Simulate::Stuck)]
        {
            let body = format!(r#"{{"item": "tea", "quantity": 2, "simulate": "{word}"}}"#);
            assert_eq!(Draft::parse(body.as_bytes()).unwrap().simulate, Some(meant));
        }
    }

    #[test]
    fn the_limits_belong_to_what_is_allowed() {
        for quantity in [1, 1000] {
            let body = format!(r#"{{"item": "tea", "quantity": {quantity}}}"#);
            assert_eq!(i64::from(Draft::parse(body.as_bytes()).unwrap().quantity), quantity);
        }
        Draft::parse(item(200).as_bytes()).unwrap();
        assert_eq!(refusal(&item(201)), "`item` is longer than 200 characters");
    }

    #[test]
    fn what_is_no_order_is_refused_with_a_reason() {
        for (body, reason) in [
            ("tea", "expected"),
            (r#"{"item": "tea", "quantity": 2"#, "EOF"),
            (r#"{"item": "tea", "quantity": 2} and more"#, "trailing"),
            ("2", "invalid type"),
            (r#"["tea", 2, null]"#, "JSON object"),
            (r#"{"quantity": 2}"#, "missing field `item`"),
            (r#"{"item": "tea"}"#, "missing field `quantity`"),
            (r#"{"item": 7, "quantity": 2}"#, "expected a string"),
            (r#"{"item": "tea", "quantity": "2"}"#, "expected i64"),
            (r#"{"item": "tea", "quantity": 2.5}"#, "expected i64"),
            (r#"{"item": "tea", "quantity": null}"#, "expected i64"),
            (r#"{"item": "tea", "quantity": 99999999999999999999}"#, "expected i64"),
            (r#"{"item": "tea", "quantity": 0}"#, "between 1 and 1000"),
            (r#"{"item": "tea", "quantity": -1}"#, "between 1 and 1000"),
            (r#"{"item": "tea", "quantity": 1001}"#, "between 1 and 1000"),
            (r#"{"item": "tea", "quantity": 65538}"#, "between 1 and 1000"),
            (r#"{"item": "", "quantity": 2}"#, "`item` is empty"),
            (r#"{"item": " \n", "quantity": 2}"#, "`item` is empty"),
            (r#"{"item": "tea", "item": "tea", "quantity": 2}"#, "duplicate field `item`"),
            (r#"{"item": "tea", "quantity": 2, "colour": "red"}"#, "unknown field `colour`"),
            (r#"{"item": "tea", "quantity": 2, "simulate": 1}"#, "expected"),
        ] {
            let found = refusal(body);
            assert!(found.contains(reason), "{body} is refused for: {found}");
        }
        Draft::parse(b"{\"item\": \"\xff\", \"quantity\": 2}").unwrap_err();
    }

    #[test]
    fn an_unknown_simulation_is_refused_with_the_known_ones() {
        let reason = refusal(r#"{"item": "tea", "quantity": 2, "simulate": "explode"}"#);
        for allowed in ["`explode`", "`fail`", "`slow`", "`stuck`"] {
            assert!(reason.contains(allowed), "{reason}");
        }
    }

    #[test]
    fn a_body_is_read_up_to_its_limit() {
        let body = |text: &'static str| read_body(&mut TestRequest::new().with_body(text).into());
        assert_eq!(body("tea").unwrap(), b"tea");
        assert_eq!(body("x".repeat(BODY_LIMIT).leak()).unwrap().len(), BODY_LIMIT);
        assert!(matches!(body("x".repeat(BODY_LIMIT + 1).leak()), Err(BadBody::TooLong)));
        assert!(matches!(body(""), Err(BadBody::Missing)));
    }
}
