//! The figures for a reader, and for a program.

use std::iter;

use crate::measure::{Limit, Measured};

/// A contender a line, then what was to be reached.
pub(crate) fn table(measured: &Measured) -> String {
    let workload = &measured.workload;
    let line = |label: &str, cells: Vec<String>| {
        let cells: Vec<_> = cells.iter().map(|cell| format!("{cell:>15}")).collect();
        format!("  {label:<44} {}", cells.join(" "))
    };
    let head = format!("{}: {}", workload.name, workload.about);
    let metrics = workload.metrics.iter().map(ToString::to_string);
    let medians = iter::zip(&workload.contenders, &measured.medians).map(|(contender, medians)| {
        line(&contender.name, medians.iter().map(|&value| number(value)).collect())
    });
    let lines: Vec<_> = [head, line("", metrics.collect())]
        .into_iter()
        .chain(medians)
        .chain(limits(measured).map(|(limit, reached)| verdict(measured, limit, reached)))
        .collect();
    lines.join("\n") + "\n"
}

/// All that was missed, again.
pub(crate) fn summary(measured: &[Measured]) -> String {
    let all = || measured.iter().flat_map(|each| limits(each).map(move |limit| (each, limit)));
    let missed: Vec<_> = all()
        .filter(|(_, (limit, reached))| !holds(*reached, limit.reach))
        .map(|(each, (limit, reached))| {
            format!("{:<16}{}\n", each.workload.name, verdict(each, limit, reached))
        })
        .collect();
    let reached = all().count() - missed.len();
    format!("{}{reached} limits reached, {} missed", missed.concat(), missed.len())
}

fn limits(measured: &Measured) -> impl Iterator<Item = (&Limit, f64)> {
    iter::zip(&measured.workload.limits, measured.reached.iter().copied())
}

/// A figure that is missing has reached nothing.
fn holds(reached: f64, limit: f64) -> bool {
    reached <= limit
}

fn verdict(measured: &Measured, limit: &Limit, reached: f64) -> String {
    let against = match limit.against {
        [] => String::new(),
        peers if peers.len() <= 2 => format!(" / {}", peers.join(" or ")),
        _ => " / best peer".into(),
    };
    let what = format!("{}{against}, {}", limit.subject, measured.workload.metrics[limit.metric]);
    let word = match (holds(reached, limit.reach), holds(reached, limit.beyond)) {
        (false, _) => "MISS",
        (true, false) => "ok",
        (true, true) => "ok, beyond",
    };
    let [reached, reach, beyond] = [reached, limit.reach, limit.beyond].map(number);
    format!("  {what:<64} {reached:>5}  limit {reach:<5} then {beyond:<5} {word}")
}

/// Three digits that mean something.
pub(crate) fn number(value: f64) -> String {
    match value.abs() {
        _ if value.is_nan() => "-".into(),
        0.0 => "0".into(),
        size if size < 0.1 => format!("{value:.3}"),
        size if size < 10.0 => format!("{value:.2}"),
        size if size < 100.0 => format!("{value:.1}"),
        _ => format!("{value:.0}"),
    }
}

/// A line for each workload, each contender and each limit.
pub(crate) fn json(measured: &[Measured]) -> String {
    let list = |items: Vec<String>, separator: &str| items.join(separator);
    let float = |value: f64| {
        if value.is_nan() { "null".into() } else { value.to_string() }
    };
    // No name has anything in it that JSON would escape in another way than Rust.
    let texts = |texts: &[&str]| list(texts.iter().map(|text| format!("{text:?}")).collect(), ", ");
    let workloads = measured.iter().map(|each| {
        let workload = &each.workload;
        let medians = iter::zip(&workload.contenders, &each.medians).map(|(contender, medians)| {
            let medians = medians.iter().map(|&value| float(value)).collect();
            format!("    {:?}: [{}]", contender.name, list(medians, ", "))
        });
        let limits = limits(each).map(|(limit, reached)| {
            format!(
                "    {{\"subject\": {:?}, \"metric\": {:?}, \"against\": [{}], \
                 \"reached\": {}, \"reach\": {}, \"beyond\": {}}}",
                limit.subject,
                workload.metrics[limit.metric],
                texts(limit.against),
                float(reached),
                limit.reach,
                limit.beyond,
            )
        });
        format!(
            "{{\"name\": {:?}, \"metrics\": [{}],\n  \"medians\": {{\n{}\n  }},\n  \"limits\": [\n{}\n  ]}}",
            workload.name,
            texts(workload.metrics),
            list(medians.collect(), ",\n"),
            list(limits.collect(), ",\n"),
        )
    });
    format!("[\n{}\n]\n", list(workloads.collect(), ",\n"))
}
