//! The plot: a row for each contender, a column for each plotted workload.

use std::iter;

use crate::measure::{Measured, median};
use crate::report::number;

const LABEL: f64 = 170.0;
const COLUMN: f64 = 160.0;
const BAR: f64 = 100.0;
const TOP: f64 = 64.0;
const ROW: f64 = 22.0;

const TITLE: &str = "Nanoseconds a tiny task, submit to end (shorter is better)";

const STYLE: &str = "\
text { font: 12px system-ui, sans-serif; fill: #24292f }
.title { font-size: 14px; font-weight: 600 }
.own { font-weight: 600 }
.muted { fill: #656d76 }
.axis { stroke: #d0d7de }
.bar { fill: #afb8c1 }
.bar.own { fill: #0969da }
@media (prefers-color-scheme: dark) {
  text { fill: #e6edf3 }
  .muted { fill: #8d96a0 }
  .axis { stroke: #3d444d }
  .bar { fill: #59636e }
  .bar.own { fill: #4493f8 }
}";

pub(crate) fn plot(measured: &[Measured]) -> String {
    let columns: Vec<_> =
        measured.iter().filter_map(|each| each.workload.plotted.map(|heading| (heading, each))).collect();
    // All of them have the same contenders.
    let rows: Vec<&str> = columns.first().map_or(Vec::new(), |(_, each)| {
        each.workload.contenders.iter().map(|contender| contender.name.as_str()).collect()
    });
    let width = LABEL + COLUMN * count(columns.len());
    let height = TOP + ROW * count(rows.len()) + 8.0;
    let labels = iter::zip(0.., &rows).map(|(row, name)| {
        let class = class(name);
        let (x, y) = (LABEL - 8.0, text_line(row));
        format!(r#"<text class="{class}" x="{x}" y="{y}" text-anchor="end">{name}</text>"#)
    });
    let bars = iter::zip(0.., &columns).flat_map(|(index, (heading, each))| {
        let values: Vec<f64> = each.medians.iter().map(|medians| medians[0]).collect();
        column(LABEL + COLUMN * f64::from(index), heading, &rows, &values)
    });
    let head = [
        format!(
            r#"<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" role="img">"#
        ),
        format!("<style>{STYLE}</style>"),
        format!("<title>{TITLE}</title>"),
        format!(r#"<text class="title" x="8" y="20">{TITLE}</text>"#),
    ];
    let lines: Vec<_> = head.into_iter().chain(labels).chain(bars).chain(["</svg>\n".into()]).collect();
    lines.join("\n")
}

fn column(x: f64, heading: &str, rows: &[&str], values: &[f64]) -> Vec<String> {
    // Those far beyond the others run out of the scale, with an arrow: they would leave the others no length.
    let usual = 8.0 * median(values.to_vec());
    let full = values.iter().copied().filter(|&value| value <= usual).fold(0.0, f64::max);
    let bottom = TOP + ROW * count(rows.len());
    let mut lines = vec![
        format!(r#"<text class="muted" x="{x}" y="{}">{heading}</text>"#, TOP - 12.0),
        format!(r#"<line class="axis" x1="{x}" y1="{TOP}" x2="{x}" y2="{bottom}"/>"#),
    ];
    for (row, (name, &value)) in iter::zip(0.., iter::zip(rows, values)) {
        let (class, top, line) = (class(name), TOP + ROW * f64::from(row) + 3.0, text_line(row));
        let length = (value / full).min(1.0) * BAR;
        let tip = if value > full { 8.0 } else { 0.0 };
        let bar = format!("M{x} {top}h{length:.1}l{tip} 8l-{tip} 8h-{length:.1}z");
        let end = x + length + tip + 5.0;
        lines.push(format!(r#"<path class="bar {class}" d="{bar}"/>"#));
        lines.push(format!(r#"<text class="{class}" x="{end:.1}" y="{line}">{}</text>"#, number(value)));
    }
    lines
}

fn text_line(row: u32) -> f64 {
    TOP + ROW * f64::from(row) + 15.0
}

fn class(name: &str) -> &'static str {
    if name.starts_with("inflight") { "own" } else { "peer" }
}

#[allow(clippy::cast_precision_loss, reason = "rows and columns of a small plot")]
fn count(items: usize) -> f64 {
    items as f64
}
