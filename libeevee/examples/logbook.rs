//! A logbook: it gets the log records of all operators that publish theirs (`publish-log` in `[bus]` of their module files),
//! counts them, and writes them into its own log once more.
//!
//! Its own log may be published as well: what it logs about a record is not, so that two of these do not talk without end.

use std::collections::BTreeMap;

use libeevee::operator::{self, Event, Failure, Operator};
use libeevee::{Exit, NoSettings, Source, escape_for_terminal};

async fn run(op: Operator<NoSettings>) -> Result<(), Failure> {
    op.subscribe("type=log.record").await?;
    op.ready("no records yet").await;
    let mut counts: BTreeMap<Source, u64> = BTreeMap::new();
    loop {
        match op.next().await {
            Event::Message(record) => {
                let (level, text) = (record.header("level").unwrap_or("?"), record.text().unwrap_or_default());
                tracing::warn!(eevee.message = record.id, "{}: <{level}> {}", record.source, escape_for_terminal(text));
                *counts.entry(record.source.clone()).or_default() += 1;
                let said: Vec<String> = counts.iter().map(|(source, count)| format!("{source} {count}")).collect();
                op.status(&format!("records: {}", said.join(", "))).await;
            }
            Event::Reload(reload) => reload.accept(),
            Event::Stop => return Ok(()),
            _ => {}
        }
    }
}

fn main() -> Exit {
    operator::run_loop(run)
}
