//! The log, on stderr: a line each, for people or as JSON.
//!
//! That nobody reads it is no reason to panic, nor to say so.

use std::fmt;
use std::io;

use clap::ValueEnum;
use tracing::{Event, Level, Subscriber};
use tracing_subscriber::filter::Targets;
use tracing_subscriber::fmt::format::Writer;
use tracing_subscriber::fmt::{FmtContext, FormatEvent, FormatFields};
use tracing_subscriber::prelude::*;
use tracing_subscriber::registry::LookupSpan;

#[derive(Clone, Copy, Debug, PartialEq, ValueEnum)]
pub(crate) enum Format {
    /// What happened, for people; of the tasks what went wrong
    Text,
    /// An object a line, for machines; each step of each task
    Json,
}

/// From here on what is logged comes out.
pub(crate) fn start(format: Format) {
    let lines =
        tracing_subscriber::fmt::layer().with_writer(io::stderr).with_ansi(false).log_internal_errors(false);
    let own = Targets::new().with_target("orders", Level::INFO);
    let registry = tracing_subscriber::registry();
    match format {
        Format::Text => {
            let seen = own.with_target("inflight", Level::WARN);
            registry.with(seen).with(lines.event_format(Plain)).init();
        }
        Format::Json => {
            let seen = own.with_target("inflight", Level::DEBUG);
            registry.with(seen).with(lines.json().flatten_event(true)).init();
        }
    }
}

/// The message and the fields, and no more.
struct Plain;

impl<S, N> FormatEvent<S, N> for Plain
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
{
    fn format_event(&self, cx: &FmtContext<'_, S, N>, mut to: Writer<'_>, event: &Event<'_>) -> fmt::Result {
        cx.format_fields(to.by_ref(), event)?;
        writeln!(to)
    }
}
