//! Clean restarts of eeveed under load, seen by its clients: they must not see anything but a pause. It runs in the machine
//! whose bus it restarts, as root; `make restart-test` starts it there.
//!
//! Half of the connections publish, the other half subscribe to one publisher each, every second of them durably. Every
//! message has a number, so that one that is lost, doubled or out of order is seen; every confirmation is timed, and the
//! longest that somebody waited during a restart is its pause. Clients do not connect again, so that a connection that the
//! bus loses is an error.
#![allow(clippy::print_stdout, reason = "a tool for people and for make")]

mod lane;
mod restart;

use std::path::PathBuf;
use std::process::ExitCode;
use std::rc::Rc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use clap::Parser;
use eevee_reliability::numbers::{grouped, machine, percentile, today};
use libeevee::client::{Client, Connect};

use self::lane::{Lane, Tally};

/// Restarts the bus under load, again and again.
#[derive(Debug, Parser)]
struct Arguments {
    /// How often it is restarted
    #[arg(long, default_value_t = 200)]
    restarts: u32,
    /// How many connections there are
    #[arg(long, default_value_t = 100)]
    connections: u32,
    /// Confirmed messages a second, of all publishers together; beside each goes one that is not confirmed
    #[arg(long, default_value_t = 500)]
    rate: u32,
    /// The longest pause that is right, in milliseconds: for 99 of 100 restarts, for half of them if there are fewer
    #[arg(long, default_value_t = 300)]
    pause_ms: u64,
    /// No durable subscriptions
    #[arg(long)]
    live: bool,
    /// Where the bus listens
    #[arg(long, default_value = "/run/eevee/bus.sock")]
    socket: PathBuf,
}

/// What is on its way may take so long to arrive.
const PATIENCE: Duration = Duration::from_secs(20);

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let outcome = (|| {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        tokio::task::LocalSet::new().block_on(&runtime, run(&arguments))
    })();
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            println!("restart-test: FAILED: {error:#}");
            ExitCode::FAILURE
        }
    }
}

async fn connect(arguments: &Arguments) -> Result<Client> {
    let connect = Connect::tool().socket(&arguments.socket).reconnect(false).wait(true);
    Client::connect(connect).await.context("cannot connect")
}

async fn run(arguments: &Arguments) -> Result<()> {
    let count = (arguments.connections / 2).max(1);
    let tally = Rc::new(Tally::default());
    let period = Duration::from_secs(1) * count / arguments.rate.max(1);
    let mut lanes = Vec::new();
    for number in 0..count {
        let durable = !arguments.live && number % 2 == 1;
        let (publisher, subscriber) = (connect(arguments).await?, connect(arguments).await?);
        lanes.push(Lane::start(number, durable, period, publisher, subscriber, &tally).await?);
    }
    let begun = Instant::now();
    let restarts = restart::many(arguments.restarts, &tally).await;
    tally.stopping.set(true);
    let until = Instant::now() + PATIENCE;
    for lane in &mut lanes {
        lane.drain(until).await;
    }
    for lane in &lanes {
        lane.stop();
    }
    for lane in lanes.iter().filter(|lane| lane.received() < lane.published()) {
        tally.error(lane.describe());
    }
    if lanes.iter().any(|lane| lane.received() < lane.published()) {
        let asked = async { connect(arguments).await?.control("queues", "", "{}").await.context("queues") };
        match tokio::time::timeout(Duration::from_secs(5), asked).await {
            Ok(Ok(queues)) => println!("what waits in the bus: {}", queues.unwrap_or_default()),
            Ok(Err(error)) => println!("what waits in the bus is not known: {error:#}"),
            Err(_) => println!("what waits in the bus is not known: no answer within 5 s"),
        }
    }
    let restarts = restarts?;

    let (confirmed, published) = (tally.confirmed.get(), lanes.iter().map(Lane::published).sum::<u64>());
    let received: u64 = lanes.iter().map(Lane::received).sum();
    let mut pauses: Vec<u64> = restarts.iter().map(|restart| restart.pause.as_micros() as u64).collect();
    let [median, p99, longest] = [0.5, 0.99, 1.0].map(|share| percentile(&mut pauses, share) as f64 / 1000.0);
    println!("restart-test: {} restarts of eeveed, {} connections, {}", restarts.len(), count * 2, today());
    println!("  machine          {}", machine());
    println!(
        "  messages         {} published, {} of them confirmed, {} received, in {:.0} s",
        grouped(published),
        grouped(confirmed),
        grouped(received),
        begun.elapsed().as_secs_f64()
    );
    println!("  errors           {}", tally.errors.borrow().len());
    println!("  lost             {}", published.saturating_sub(received));
    println!("  duplicated       {}", tally.duplicated.get());
    println!("  reordered        {}", tally.reordered.get());
    println!("  pause            median {median:.1} ms, p99 {p99:.1} ms, longest {longest:.1} ms");
    let mut times: Vec<u64> = restarts.iter().map(|restart| restart.took.as_micros() as u64).collect();
    let [usual, slowest] = [0.5, 1.0].map(|share| percentile(&mut times, share) as f64 / 1000.0);
    println!("  systemctl        median {usual:.1} ms, longest {slowest:.1} ms");

    let errors = tally.errors.borrow();
    ensure!(errors.is_empty(), "{} errors, such as:\n  {}", errors.len(), errors[..errors.len().min(10)].join("\n  "));
    ensure!(received == published, "{received} of {published} messages were received");
    ensure!(tally.duplicated.get() == 0, "{} messages came twice", tally.duplicated.get());
    ensure!(tally.reordered.get() == 0, "{} messages came out of order", tally.reordered.get());
    ensure!(confirmed > u64::from(arguments.restarts), "only {confirmed} messages were confirmed");
    let limit = arguments.pause_ms as f64;
    // Of a few restarts the p99 is the worst of all, and that of a machine that does something else meanwhile.
    let (name, pause) = if restarts.len() >= 100 { ("p99", p99) } else { ("median", median) };
    ensure!(pause <= limit, "the {name} of pauses is {pause:.1} ms, at most {limit} ms are right");
    Ok(())
}
