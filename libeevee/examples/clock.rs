//! An operator with a loop of its own: it publishes the time, and answers who asks for it. A connector to a network has
//! the same shape, with the network's connection in the place of the ticks.

use std::time::Duration;

use libeevee::operator::{self, Event, Failure, Operator};
use libeevee::{Diagnosis, Document, Exit, ModuleFile, Outgoing, Settings, Timestamp};
use schemars::JsonSchema;
use serde::Deserialize;

/// Settings of the clock.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
struct Clock {
    /// Milliseconds between ticks: 10 to 3600000.
    #[serde(default = "second")]
    tick_ms: u64,
    /// What is said before the time.
    greeting: String,
}

fn second() -> u64 {
    1000
}

impl Settings for Clock {
    fn check(&self, file: &ModuleFile<'_>) -> Result<(), Diagnosis> {
        if !(10..=3_600_000).contains(&self.tick_ms) {
            return Err(file.error("settings.tick-ms", format!("{} is not from 10 to 3600000", self.tick_ms)));
        }
        Ok(())
    }
}

async fn run(op: Operator<Clock>) -> Result<(), Failure> {
    op.subscribe("type=clock.question").await?;
    op.ready("ticking").await;
    let mut settings = op.settings();
    let mut ticks = tokio::time::interval(Duration::from_millis(settings.tick_ms));
    loop {
        tokio::select! {
            _ = ticks.tick() => {
                op.publish(document("clock.tick", Timestamp::now().to_string())).await?;
            }
            event = op.next() => match event {
                Event::Message(question) => {
                    let answer = document("clock.answer", format!("{} {}", settings.greeting, Timestamp::now()));
                    op.publish(Outgoing::from(answer).answering(&question)).await?;
                }
                // A clock cannot be made to fast forward; other operators check here what only they can know.
                Event::Reload(reload) if reload.new.greeting == "impossible" => reload.refuse("it is impossible"),
                Event::Reload(reload) => reload.accept(),
                Event::Settings(new) => {
                    ticks = tokio::time::interval(Duration::from_millis(new.tick_ms));
                    settings = new;
                }
                Event::Stop => {
                    op.publish(document("clock.stopped", "bye".to_owned())).await?;
                    return Ok(());
                }
                _ => {}
            }
        }
    }
}

fn document(kind: &str, text: String) -> Document {
    Document::new([("type", kind)], text).expect("the headers follow the grammar")
}

fn main() -> Exit {
    operator::run_loop(run)
}
