//! Confirmed durable publishes a second, with 1 publisher and with 64 that each wait for their confirmation, and messages
//! that one durable subscriber acknowledges a second; beside NATS JetStream, which syncs every message (`sync_interval:
//! always`), on the same disk.
//!
//! Both peers are driven by the same program in the same way: raw protocol, messages encoded before, one thread. Their
//! turns alternate in one run, each on a new and empty store, and medians of rounds are compared.
#![allow(clippy::print_stdout, reason = "a tool for people and for make")]

mod eevee;
mod nats;

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use clap::Parser;
use eevee_reliability::numbers::{grouped, machine, median, today};

/// Measures durable publishing beside NATS JetStream.
#[derive(Debug, Parser)]
struct Arguments {
    /// How often each peer has its turn
    #[arg(long, default_value_t = 5)]
    rounds: usize,
    /// How long each measurement lasts
    #[arg(long, default_value_t = 3)]
    seconds: u64,
    /// The nats-server to compare with; it has to know `sync_interval: always` (2.10 or newer)
    #[arg(long, value_name = "PROGRAM")]
    nats_server: PathBuf,
}

/// Publishers of the second measurement.
pub(crate) const MANY: usize = 64;

/// Bytes of text in each message.
pub(crate) const BODY_BYTES: usize = 128;

/// Messages that the subscriber acknowledges. (They are published before, which takes NATS its time.)
pub(crate) const ACKNOWLEDGED: usize = 6_400;

/// What may be delivered and not acknowledged, on both sides: eevee's default.
pub(crate) const IN_FLIGHT: usize = 100;

/// Not measured at the beginning: connecting, first pages of the store.
const WARM_UP: Duration = Duration::from_millis(500);

/// What one turn of a peer gave, each a second.
#[derive(Debug, Clone, Copy, Default)]
struct Turn {
    one: f64,
    many: f64,
    acknowledged: f64,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let outcome = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("no runtime")
        .and_then(|runtime| tokio::task::LocalSet::new().block_on(&runtime, run(&arguments)));
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            println!("bench-durable FAILED: {error:#}");
            ExitCode::FAILURE
        }
    }
}

async fn run(arguments: &Arguments) -> Result<()> {
    let version = nats::version(&arguments.nats_server)?;
    println!("bench-durable: eevee beside {version}, sync_interval: always; {}", machine());
    let time = Duration::from_secs(arguments.seconds);
    let (mut ours, mut theirs) = (Vec::new(), Vec::new());
    for round in 1..=arguments.rounds {
        // Whoever is first has the colder disk.
        if round % 2 == 1 {
            ours.push(eevee::turn(time).await?);
            theirs.push(nats::turn(&arguments.nats_server, time).await?);
        } else {
            theirs.push(nats::turn(&arguments.nats_server, time).await?);
            ours.push(eevee::turn(time).await?);
        }
        let (Some(eevee), Some(nats)) = (ours.last(), theirs.last()) else { continue };
        println!(
            "  round {round}: 1 publisher {:.0} and {:.0}, {MANY} publishers {:.0} and {:.0}, acknowledged {:.0} and {:.0}",
            eevee.one, nats.one, eevee.many, nats.many, eevee.acknowledged, nats.acknowledged
        );
    }
    let row = |what: &str, of: fn(&Turn) -> f64| {
        let [eevee, nats] = [&ours, &theirs].map(|turns| median(&turns.iter().map(of).collect::<Vec<_>>()));
        let ratios: Vec<f64> = ours.iter().zip(&theirs).map(|(eevee, nats)| of(eevee) / of(nats)).collect();
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "messages a second, for people")]
        let (eevee, nats) = (grouped(eevee as u64), grouped(nats as u64));
        println!(
            "| bench-durable | {} | {what}: {eevee} a second, {version} {nats} (median ratio {:.2}, of {} rounds {:.2} to {:.2}) | {} |",
            today(),
            median(&ratios),
            ratios.len(),
            ratios.iter().copied().fold(f64::INFINITY, f64::min),
            ratios.iter().copied().fold(0.0, f64::max),
            machine()
        );
        median(&ratios)
    };
    let one = row("confirmed durable publishes, 1 publisher", |turn| turn.one);
    let many = row("confirmed durable publishes, 64 publishers", |turn| turn.many);
    row("acknowledged by one durable subscriber", |turn| turn.acknowledged);
    ensure!(one >= 0.95, "with one publisher NATS is ahead: ratio {one:.2}, level is wanted");
    ensure!(many > 1.0, "with {MANY} publishers NATS is ahead: ratio {many:.2}");
    Ok(())
}

/// Counts what happens in `time`, after the warm-up: each task says how many confirmations it has had, until `true`.
pub(crate) struct Meter {
    began: Instant,
    time: Duration,
    count: std::cell::Cell<u64>,
}

impl Meter {
    pub(crate) fn new(time: Duration) -> Self {
        Self { began: Instant::now(), time, count: std::cell::Cell::new(0) }
    }

    /// One more; false when time is up.
    pub(crate) fn count(&self) -> bool {
        let elapsed = self.began.elapsed();
        if elapsed >= WARM_UP && elapsed < WARM_UP + self.time {
            self.count.set(self.count.get() + 1);
        }
        elapsed < WARM_UP + self.time
    }

    #[expect(clippy::cast_precision_loss, reason = "a count of some seconds")]
    pub(crate) fn per_second(&self) -> f64 {
        self.count.get() as f64 / self.time.as_secs_f64()
    }
}
