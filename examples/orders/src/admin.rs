//! The operators' routes, on a port of their own: a page, what it draws, metrics, and the probe.
//!
//! That port is open until the process ends, so that the drain can be watched: at a signal the public one closes.
//! And neither a scrape nor what is in flight is anything for the public.

use std::sync::Arc;

use inflight::observe::Gauges;
use metrics_exporter_prometheus::PrometheusHandle;
use tiny_http::{Method, Request};

use crate::http::{self, Reply};
use crate::watch::Watch;

/// One file without a build step: it loads nothing but `inflight.json`.
const PAGE: &str = include_str!("page.html");

/// What clients wrote reaches the page as JSON, and it makes text of it. Should it ever make markup of it, the
/// browser refuses: that is what the last line is for. The page itself is always the same, so its own script and
/// style may well stand in it.
const PAGE_POLICY: &str = "default-src 'none'; connect-src 'self'; img-src data:; \
    script-src 'unsafe-inline'; style-src 'unsafe-inline'; \
    base-uri 'none'; form-action 'none'; frame-ancestors 'none'; \
    require-trusted-types-for 'script'; trusted-types 'none'";

const METRICS: &str = "text/plain; version=0.0.4; charset=utf-8";

pub(crate) struct Admin {
    pub(crate) watch: Arc<Watch>,
    pub(crate) metrics: PrometheusHandle,
    pub(crate) gauges: Gauges<'static>,
}

pub(crate) fn route(admin: &Admin, request: &Request) -> Reply {
    let path = request.url().split('?').next().unwrap_or_default();
    let reply: fn(&Admin) -> Reply = match path {
        "/" => {
            |_| Reply::new(200, "text/html; charset=utf-8", PAGE).with("Content-Security-Policy", PAGE_POLICY)
        }
        "/inflight.json" => |admin| Reply::json(200, &admin.watch.look()),
        "/metrics" => |admin| {
            admin.gauges.refresh();
            Reply::new(200, METRICS, admin.metrics.render())
        },
        "/healthz" => |admin| http::health(admin.watch.is_closed()),
        _ => return Reply::error(404, "no such page"),
    };
    match request.method() {
        Method::Get | Method::Head => reply(admin).with("Cache-Control", "no-store"),
        _ => http::not_allowed("GET, HEAD"),
    }
}
