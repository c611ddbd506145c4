//! Ears for the tests: a logger, a `tracing` layer and a `metrics` recorder that remember what they were told.

use std::collections::BTreeMap;
use std::fmt::Debug;
use std::sync::Mutex;

/// What the logger has heard: level, target and text.
static LINES: Mutex<Vec<(log::Level, String, String)>> = Mutex::new(Vec::new());

struct Logger;

impl log::Log for Logger {
    fn enabled(&self, _: &log::Metadata<'_>) -> bool {
        true
    }

    fn log(&self, record: &log::Record<'_>) {
        // Writes under its lock, as loggers do: who panics meanwhile leaves it poisoned.
        let mut lines = LINES.lock().expect("no test panics in here");
        lines.push((record.level(), record.target().to_owned(), record.args().to_string()));
    }

    fn flush(&self) {}
}

/// Listens to the log from now on, once for the whole process.
pub fn hear_log() {
    if log::set_logger(&Logger).is_ok() {
        log::set_max_level(log::LevelFilter::Trace);
    }
}

/// The lines about the manager of this name, as `LEVEL text`, in their order.
#[must_use]
pub fn lines_of(manager: &str) -> Vec<String> {
    let lines = LINES.lock().expect("no test panics in here");
    let of_it = lines.iter().filter(|(_, target, text)| {
        target == "inflight" && text.strip_prefix(manager).is_some_and(|rest| rest.starts_with(": "))
    });
    of_it.map(|(level, _, text)| format!("{level} {}", &text[manager.len() + 2..])).collect()
}

/// What the layer has heard.
static EVENTS: Mutex<Vec<Event>> = Mutex::new(Vec::new());
/// The names of the spans that have been closed.
static CLOSED: Mutex<Vec<String>> = Mutex::new(Vec::new());

/// One event of `tracing`.
#[derive(Clone, Debug)]
pub struct Event {
    /// How urgent it is.
    pub level: tracing::Level,
    /// Where it is found.
    pub target: String,
    /// Its fields, the message among them, as text.
    pub fields: BTreeMap<&'static str, String>,
    /// The spans it is within, outermost first.
    pub spans: Vec<&'static str>,
    /// The fields of the innermost of them.
    pub span_fields: BTreeMap<&'static str, String>,
    /// The thread that it came from.
    pub emitted_on: Option<String>,
}

impl Event {
    /// The field of this name; an empty text if there is none.
    #[must_use]
    pub fn get(&self, field: &str) -> &str {
        self.fields.get(field).map_or("", String::as_str)
    }
}

/// Fields as text.
#[derive(Default)]
struct Fields(BTreeMap<&'static str, String>);

impl tracing::field::Visit for Fields {
    fn record_debug(&mut self, field: &tracing::field::Field, value: &dyn Debug) {
        self.0.insert(field.name(), format!("{value:?}"));
    }

    fn record_str(&mut self, field: &tracing::field::Field, value: &str) {
        self.0.insert(field.name(), value.to_owned());
    }

    fn record_error(&mut self, field: &tracing::field::Field, value: &(dyn std::error::Error + 'static)) {
        self.0.insert(field.name(), format!("error: {value}"));
    }
}

struct Layer;

impl<S> tracing_subscriber::Layer<S> for Layer
where
    S: tracing::Subscriber + for<'l> tracing_subscriber::registry::LookupSpan<'l>,
{
    fn on_new_span(
        &self,
        attributes: &tracing::span::Attributes<'_>,
        id: &tracing::span::Id,
        cx: tracing_subscriber::layer::Context<'_, S>,
    ) {
        let mut fields = Fields::default();
        attributes.record(&mut fields);
        let span = cx.span(id).expect("it has just been made");
        span.extensions_mut().insert(fields);
    }

    fn on_event(&self, event: &tracing::Event<'_>, cx: tracing_subscriber::layer::Context<'_, S>) {
        let spans = cx.event_scope(event).into_iter().flat_map(|scope| scope.from_root());
        let mut fields = Fields::default();
        event.record(&mut fields);
        let span_fields = cx.event_span(event).map_or_else(BTreeMap::new, |span| {
            span.extensions().get::<Fields>().map_or_else(BTreeMap::new, |fields| fields.0.clone())
        });
        let heard = Event {
            level: *event.metadata().level(),
            target: event.metadata().target().to_owned(),
            fields: fields.0,
            spans: spans.map(|span| span.name()).collect(),
            span_fields,
            emitted_on: std::thread::current().name().map(str::to_owned),
        };
        EVENTS.lock().expect("no test panics in here").push(heard);
    }

    fn on_close(&self, id: tracing::span::Id, cx: tracing_subscriber::layer::Context<'_, S>) {
        let name = cx.span(&id).map(|span| span.name().to_owned());
        CLOSED.lock().expect("no test panics in here").extend(name);
    }
}

/// Listens to events and spans from now on, once for the whole process.
pub fn hear_tracing() {
    use tracing_subscriber::layer::SubscriberExt as _;
    // Whoever came first has set the same.
    let _ = tracing::subscriber::set_global_default(tracing_subscriber::registry().with(Layer));
}

/// The events whose field `manager` is this, in their order.
#[must_use]
pub fn events_of(manager: &str) -> Vec<Event> {
    let events = EVENTS.lock().expect("no test panics in here");
    events.iter().filter(|event| event.get("manager") == manager).cloned().collect()
}

/// Has a span of this name been closed?
#[must_use]
pub fn is_closed(span: &str) -> bool {
    CLOSED.lock().expect("no test panics in here").iter().any(|closed| closed == span)
}

/// A recorder that remembers how metrics are described: name, unit and text.
#[derive(Default)]
pub struct Descriptions(pub Mutex<BTreeMap<String, (Option<metrics::Unit>, String)>>);

impl Descriptions {
    fn note(&self, name: &metrics::KeyName, unit: Option<metrics::Unit>, text: &str) {
        let mut notes = self.0.lock().expect("no test panics in here");
        notes.insert(name.as_str().to_owned(), (unit, text.to_owned()));
    }
}

impl Debug for Descriptions {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Descriptions").field(&self.0).finish()
    }
}

impl metrics::Recorder for Descriptions {
    fn describe_counter(
        &self,
        key: metrics::KeyName,
        unit: Option<metrics::Unit>,
        text: metrics::SharedString,
    ) {
        self.note(&key, unit, &text);
    }

    fn describe_gauge(
        &self,
        key: metrics::KeyName,
        unit: Option<metrics::Unit>,
        text: metrics::SharedString,
    ) {
        self.note(&key, unit, &text);
    }

    fn describe_histogram(
        &self,
        key: metrics::KeyName,
        unit: Option<metrics::Unit>,
        text: metrics::SharedString,
    ) {
        self.note(&key, unit, &text);
    }

    fn register_counter(&self, _: &metrics::Key, _: &metrics::Metadata<'_>) -> metrics::Counter {
        metrics::Counter::noop()
    }

    fn register_gauge(&self, _: &metrics::Key, _: &metrics::Metadata<'_>) -> metrics::Gauge {
        metrics::Gauge::noop()
    }

    fn register_histogram(&self, _: &metrics::Key, _: &metrics::Metadata<'_>) -> metrics::Histogram {
        metrics::Histogram::noop()
    }
}
