//! The result of a run for people (Markdown, which is also what is printed) and for programs (JSON).

use std::fmt::Write as _;
use std::path::Path;

use anyhow::{Context, Result};
use serde_json::json;

use crate::goal::verdicts;
use crate::plot;
use crate::results::Results;
use crate::workload::{BROKER, BROKER_USER, CLIENTS, OFFERED, P50, P99, P999, RATE, UNDER_WAY_BYTES, Workload};

/// Writes DATE.md, DATE.json and DATE.svg.
pub(crate) fn write(results: &Results, workloads: &[Workload], directory: &Path) -> Result<()> {
    let date = results.started.strftime("%Y-%m-%d").to_string();
    std::fs::create_dir_all(directory)?;
    let mut markdown = text(results, workloads);
    let plotted = plot::svg(results, workloads);
    if plotted.is_some() {
        let _ = write!(markdown, "\n![Deliveries a second by workload and bus, on a logarithmic scale]({date}.svg)\n");
    }
    let files = [("md", Some(markdown)), ("json", Some(format!("{:#}\n", json(results)))), ("svg", plotted)];
    for (extension, content) in files {
        let path = directory.join(format!("{date}.{extension}"));
        if let Some(content) = content {
            std::fs::write(&path, content).with_context(|| format!("cannot write {}", path.display()))?;
        }
    }
    Ok(())
}

/// All of it as Markdown.
pub(crate) fn text(results: &Results, workloads: &[Workload]) -> String {
    let mut out = String::new();
    head(results, &mut out);
    section(results, workloads, &mut out);
    goals(results, &mut out);
    tail(results, workloads, &mut out);
    out
}

fn head(results: &Results, out: &mut String) {
    let date = results.started.strftime("%Y-%m-%d %H:%M");
    let versions: Vec<_> = results.peers.iter().map(|(_, version)| version.as_str()).collect();
    let _ = write!(
        out,
        "# Benchmark of {date} UTC\n\n\
         By `make bench`, {} rounds of {} s each, in {:.0} min: {}. Taken away by the host (steal): {:.2} %.\n\
         All buses in turn within each round; medians over the rounds. In brackets: the ratio to `limit`, the median of\n\
         those within each round. Every run counts every message: a lost one fails it.\n\n{}.\n",
        results.rounds,
        results.seconds,
        results.took.as_secs_f64() / 60.0,
        results.machine,
        results.steal_percent,
        versions.join("; "),
    );
}

/// A table for each figure that was measured.
fn section(results: &Results, workloads: &[Workload], out: &mut String) {
    table(results, workloads, "Deliveries a second", RATE, out, true);
    table(results, workloads, "Offered at half of the top rate, messages a second", OFFERED, out, false);
    table(results, workloads, "Processor time of the bus a delivery, user and system, in ns", BROKER, out, false);
    table(results, workloads, "Of that, user time, in ns", BROKER_USER, out, false);
    table(results, workloads, "Processor time of all clients together a delivery, in ns", CLIENTS, out, false);
    for (title, figure) in [("Latency: p50, in µs", P50), ("Latency: p99, in µs", P99), ("Latency: p99.9, in µs", P999)]
    {
        table(results, workloads, title, figure, out, true);
    }
    table(results, workloads, "Resident memory an idle subscriber, in KiB", crate::workload::RESIDENT, out, false);
    table(results, workloads, "Resident memory of the bus with all of them, in MiB", "resident_mib", out, false);
    table(
        results,
        workloads,
        "From exec to the first subscription in force, in ms",
        crate::workload::START,
        out,
        false,
    );
}

fn table(results: &Results, workloads: &[Workload], title: &str, figure: &str, out: &mut String, ratios: bool) {
    let measured = |workload: &Workload, peer: &str| results.figure(workload.name, peer, figure);
    let rows: Vec<_> = workloads
        .iter()
        .filter(|workload| results.peers.iter().any(|(peer, _)| measured(workload, peer).is_some()))
        .collect();
    if rows.is_empty() {
        return;
    }
    let names: Vec<_> = results.peers.iter().map(|(name, _)| *name).collect();
    let _ = write!(out, "\n## {title}\n\n| workload | {} |\n|---|{}\n", names.join(" | "), "---|".repeat(names.len()));
    for workload in rows {
        let _ = write!(out, "| {} |", workload.name);
        for peer in &names {
            let base = (workload.alone.unwrap_or(workload.name), "limit");
            let ratio =
                if ratios && *peer != "limit" { results.ratio((workload.name, peer), base, figure) } else { None };
            let bracket = ratio.map(|ratio| format!(" ({ratio:.2})")).unwrap_or_default();
            match measured(workload, peer) {
                Some(value) => {
                    let _ = write!(out, " {}{bracket} |", short(value));
                }
                None => out.push_str(" |"),
            }
        }
        out.push('\n');
    }
}

fn goals(results: &Results, out: &mut String) {
    let verdicts = verdicts(results);
    if verdicts.is_empty() {
        return;
    }
    out.push_str("\n## Goals\n\n| workload | goal | reached | |\n|---|---|---|---|\n");
    for verdict in verdicts {
        let met = if verdict.met { "yes" } else { "**no**" };
        let _ = writeln!(out, "| {} | {} | {} | {met} |", verdict.workload, verdict.goal, verdict.reached);
    }
}

fn tail(results: &Results, workloads: &[Workload], out: &mut String) {
    out.push_str("\n## What was measured\n\n");
    for workload in workloads {
        let _ = writeln!(out, "- **{}**: {}", workload.name, workload.about);
    }
    let _ = write!(
        out,
        "\nClients write and read raw bytes that were encoded before; one thread publishes, one receives, whatever the\n\
         bus; but two receive in lib-w2, where one would be the bound by itself. At most {} MiB (or four messages) are\n\
         under way, written and not yet received by everybody.\n\n\
         `[limits]` of eeveed.toml that were raised:\n\n",
        UNDER_WAY_BYTES >> 20,
    );
    for (workload, limits) in &results.raised {
        let limits: Vec<_> = limits.iter().map(|(key, value)| format!("{key} = {value}")).collect();
        if !limits.is_empty() {
            let _ = writeln!(out, "- {workload}: {}", limits.join(", "));
        }
    }
    let refusals = results.refusals.iter().map(|(why, workloads)| format!("{why} ({})", workloads.join(", ")));
    list(out, "Not measured", refusals);
    list(out, "Failed", results.failures.iter().map(|why| why.lines().next().unwrap_or_default().to_owned()));
}

fn list(out: &mut String, title: &str, lines: impl ExactSizeIterator<Item = String>) {
    if lines.len() > 0 {
        let _ = write!(out, "\n## {title}\n\n");
    }
    for line in lines {
        let _ = writeln!(out, "- {line}");
    }
}

fn json(results: &Results) -> serde_json::Value {
    let samples: Vec<_> = results
        .samples
        .iter()
        .map(|((workload, peer), rounds)| json!({ "workload": workload, "peer": peer, "rounds": rounds }))
        .collect();
    let goals: Vec<_> = verdicts(results)
        .into_iter()
        .map(|verdict| json!({ "workload": verdict.workload, "goal": verdict.goal, "reached": verdict.reached, "met": verdict.met }))
        .collect();
    json!({
        "started": results.started.to_string(),
        "machine": results.machine,
        "rounds": results.rounds,
        "seconds": results.seconds,
        "took_seconds": results.took.as_secs(),
        "steal_percent": results.steal_percent,
        "peers": results.peers.iter().map(|(name, version)| json!({ "name": name, "version": version })).collect::<Vec<_>>(),
        "samples": samples,
        "goals": goals,
        "raised_limits": results.raised,
        "not_measured": results.refusals,
        "failures": results.failures,
    })
}

/// Three digits that mean something.
pub(crate) fn short(value: f64) -> String {
    match value {
        value if value >= 99.95e6 => format!("{:.0}M", value / 1e6),
        value if value >= 9.995e6 => format!("{:.1}M", value / 1e6),
        value if value >= 999.5e3 => format!("{:.2}M", value / 1e6),
        value if value >= 9995.0 => format!("{:.0}k", value / 1e3),
        value if value >= 99.95 => format!("{value:.0}"),
        value if value >= 9.995 => format!("{value:.1}"),
        value => format!("{value:.2}"),
    }
}

#[cfg(test)]
mod tests {
    use super::short;

    #[test]
    fn for_people() {
        let values = [0.25, 17.04, 240.4, 9876.0, 123_456.0, 1_234_567.0, 11_500_000.0];
        assert_eq!(values.map(short), ["0.25", "17.0", "240", "9876", "123k", "1.23M", "11.5M"]);
    }
}
