//! What eevee is to reach, and whether it did.

use crate::results::Results;
use crate::workload::{BROKER, P50, P99, P999, RATE, RESIDENT, START, WORKLOADS};

/// How a figure of eevee is judged.
#[derive(Debug, Clone, Copy)]
enum Judge {
    /// At least this share of what the relay reaches.
    OfLimit(f64),
    /// At least this many times what the best of the other buses reaches.
    OfBest(f64),
    /// At least this share of what eevee itself reaches in another workload.
    OfOwn(&'static str, f64),
    /// At most so much.
    AtMost(&'static str, f64),
    /// At most so many times what the relay takes.
    TimesLimit(&'static str, f64),
    /// At most what the other buses take.
    BelowBest(&'static str),
}

const GOALS: &[(&str, &[Judge])] = &[
    ("w1", &[Judge::OfLimit(0.40), Judge::OfBest(3.0), Judge::AtMost(BROKER, 150.0)]),
    ("w1-32", &[Judge::OfLimit(0.15), Judge::OfBest(2.0)]),
    ("w1-4096", &[Judge::OfLimit(0.70)]),
    ("w1-65536", &[Judge::BelowBest(BROKER)]),
    ("w1-single", &[Judge::OfLimit(0.95)]),
    ("w2", &[Judge::OfLimit(0.60), Judge::OfBest(3.0), Judge::AtMost(BROKER, 70.0)]),
    ("w3", &[Judge::TimesLimit(P50, 1.15), Judge::AtMost(P999, 100.0)]),
    ("w4-1k", &[Judge::OfLimit(0.35), Judge::OfBest(2.5), Judge::AtMost(BROKER, 250.0)]),
    ("w4-10k", &[Judge::OfOwn("w4-1k", 0.9), Judge::AtMost(BROKER, 280.0)]),
    ("w4-100k", &[Judge::OfOwn("w4-1k", 0.7)]),
    ("w5", &[Judge::AtMost(RESIDENT, 1.0)]),
    ("w5-10k", &[Judge::AtMost("resident_mib", 256.0)]),
    ("w6", &[Judge::AtMost(START, 2.5)]),
    ("w7", &[Judge::OfLimit(0.40), Judge::OfBest(3.0)]),
    ("w1-half", &[Judge::AtMost(P99, 1000.0)]),
    ("w1-unique", &[Judge::OfLimit(0.25), Judge::OfBest(2.0)]),
    ("lib-w1", &[Judge::OfOwn("w1", 0.5)]),
    ("lib-w2", &[Judge::OfOwn("w2", 0.5)]),
];

/// One line of the report: the goal, what was reached, and whether that is enough.
pub(crate) struct Verdict {
    pub(crate) workload: &'static str,
    pub(crate) goal: String,
    pub(crate) reached: String,
    pub(crate) met: bool,
}

/// The verdicts on everything that was measured.
pub(crate) fn verdicts(results: &Results) -> Vec<Verdict> {
    let all = GOALS.iter().flat_map(|(workload, judges)| judges.iter().map(move |judge| (*workload, *judge)));
    all.filter_map(|(workload, judge)| verdict(results, workload, judge)).collect()
}

fn verdict(results: &Results, workload: &'static str, judge: Judge) -> Option<Verdict> {
    // A workload that eevee runs alone is held against what the others reach in its base.
    let alone = WORKLOADS.iter().find(|known| known.name == workload)?.alone;
    let base = alone.unwrap_or(workload);
    let ours = (workload, "eevee");
    let (goal, value, unit, met) = match judge {
        Judge::OfLimit(share) => {
            let value = results.ratio(ours, (base, "limit"), RATE)?;
            (format!("at least {share:.2} of `limit`"), value, "", value >= share)
        }
        Judge::OfBest(times) => {
            let best = results.best_peer(base, RATE, true)?;
            let value = results.ratio(ours, (base, best), RATE)?;
            (format!("at least {times} times the best peer ({best})"), value, "", value >= times)
        }
        Judge::OfOwn(other, share) => {
            let value = results.ratio(ours, (other, "eevee"), RATE)?;
            (format!("at least {share} of its own {other}"), value, "", value >= share)
        }
        Judge::AtMost(figure, most) => {
            let value = results.figure(workload, "eevee", figure)?;
            let (name, unit) = words(figure);
            (format!("{name} at most {most} {unit}"), value, unit, value <= most)
        }
        Judge::TimesLimit(figure, times) => {
            let value = results.ratio(ours, (base, "limit"), figure)?;
            (format!("{} at most {times} times that of `limit`", words(figure).0), value, "", value <= times)
        }
        Judge::BelowBest(figure) => {
            let best = results.best_peer(base, figure, false)?;
            let value = results.ratio(ours, (base, best), figure)?;
            (format!("{} at most that of the best peer ({best})", words(figure).0), value, "", value <= 1.0)
        }
    };
    let reached = format!("{value:.2} {unit}").trim_end().to_owned();
    Some(Verdict { workload, goal, reached, met })
}

/// A figure in words, and its unit.
pub(crate) fn words(figure: &str) -> (&'static str, &'static str) {
    match figure {
        RATE => ("deliveries", "a second"),
        BROKER => ("processor time of the bus a delivery", "ns"),
        P50 => ("p50", "µs"),
        P99 => ("p99", "µs"),
        P999 => ("p99.9", "µs"),
        RESIDENT => ("memory an idle subscriber", "KiB"),
        START => ("start", "ms"),
        _ => ("resident memory", "MiB"),
    }
}
