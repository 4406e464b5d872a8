//! Deliveries a second by workload and bus, as bars on a logarithmic scale: an SVG that needs nothing else.

use std::fmt::Write as _;

use crate::report::short;
use crate::results::Results;
use crate::workload::{RATE, Workload};

const LEFT: f64 = 120.0;
const WIDTH: f64 = 640.0;
const BAR: f64 = 9.0;
const GAP: f64 = 10.0;
const TOP: f64 = 50.0;

/// Of the relay, of eevee, and of all others in their order: distinct, and readable on light and dark ground.
const COLOURS: [&str; 9] =
    ["#9a9a9a", "#d1495b", "#2e86ab", "#3b9a5b", "#e0a030", "#8a6fb0", "#7a5c3a", "#4ab0a8", "#c06fa0"];

/// `None` where no rate was measured.
pub(crate) fn svg(results: &Results, workloads: &[Workload]) -> Option<String> {
    let rate = |workload: &Workload, peer: &str| results.figure(workload.name, peer, RATE);
    let groups: Vec<_> = workloads
        .iter()
        .filter_map(|workload| {
            let bars = results.peers.iter().enumerate();
            let bars: Vec<_> = bars.filter_map(|(at, (peer, _))| Some((at, rate(workload, peer)?))).collect();
            (!bars.is_empty()).then_some((workload.name, bars))
        })
        .collect();
    let all = || groups.iter().flat_map(|(_, bars)| bars.iter().map(|(_, value)| *value));
    let least = all().reduce(f64::min)?.log10().floor();
    let most = all().reduce(f64::max)?.log10().ceil().max(least + 1.0);
    let x = |value: f64| LEFT + (value.log10() - least) / (most - least) * WIDTH;

    let mut body = String::new();
    let mut y = TOP;
    for (name, bars) in &groups {
        #[expect(clippy::cast_precision_loss, reason = "some bars")]
        let middle = y + bars.len() as f64 * BAR / 2.0 + 4.0;
        let _ = writeln!(body, r#"<text x="{}" y="{middle:.0}" text-anchor="end">{name}</text>"#, LEFT - 8.0);
        for (at, value) in bars {
            let colour = COLOURS[at % COLOURS.len()];
            let end = x(*value);
            let _ = writeln!(
                body,
                r#"<rect x="{LEFT}" y="{y:.0}" width="{:.1}" height="{}" fill="{colour}"/><text x="{:.1}" y="{:.0}" font-size="8">{}</text>"#,
                end - LEFT,
                BAR - 1.0,
                end + 3.0,
                y + BAR - 2.0,
                short(*value),
            );
            y += BAR;
        }
        y += GAP;
    }
    let mut ticks = String::new();
    let mut power = least;
    while power <= most {
        let at = x(10_f64.powf(power));
        let _ = writeln!(
            ticks,
            r##"<line x1="{at:.1}" x2="{at:.1}" y1="{TOP}" y2="{y:.0}" stroke="#888" stroke-width="0.4"/><text x="{at:.1}" y="{}" text-anchor="middle">{}</text>"##,
            TOP - 6.0,
            short(10_f64.powf(power)),
        );
        power += 1.0;
    }
    let mut legend = String::new();
    let mut left = 10.0;
    for (at, (peer, _)) in results.peers.iter().enumerate() {
        // One that is only started has no bar.
        if !groups.iter().any(|(_, bars)| bars.iter().any(|(of, _)| *of == at)) {
            continue;
        }
        let colour = COLOURS[at % COLOURS.len()];
        let _ = writeln!(
            legend,
            r#"<rect x="{left:.0}" y="10" width="10" height="10" fill="{colour}"/><text x="{:.0}" y="19">{peer}</text>"#,
            left + 14.0
        );
        left += 96.0;
    }
    let width = LEFT + WIDTH + 50.0;
    Some(format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {width} {y:.0}\" font-family=\"sans-serif\" font-size=\"11\">\n\
         <title>Deliveries a second, {}</title>\n\
         <style>text {{ fill: #222 }} @media (prefers-color-scheme: dark) {{ text {{ fill: #ddd }} }}</style>\n\
         {legend}{ticks}{body}</svg>\n",
        results.started.strftime("%Y-%m-%d"),
    ))
}
