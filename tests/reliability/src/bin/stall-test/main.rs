//! One subscriber is stopped by SIGSTOP while 20,000 messages a second pass. The bus may grow by that subscriber's queue
//! and 16 MiB, nobody else may notice, and the one that was stopped is told exactly what it lost.
//!
//! What this measures is the bus and not the machine: phases with and without the stopped subscriber alternate in one
//! run, in the order running, stopped, stopped, running, so that drift and noise meet both alike, and the medians of the
//! p99 of short windows are compared. Then one stall goes on for the whole time.
#![allow(clippy::print_stdout, reason = "a tool for people and for make")]

mod load;
mod phases;
mod victim;

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use clap::Parser;
use eevee_reliability::numbers::{grouped, machine, short, today};
use eevee_reliability::{Eeveed, Ground};

use self::load::Load;
use self::phases::{Kind, Phase};
use self::victim::Victim;

/// Stops a subscriber and looks who notices.
#[derive(Debug, Parser)]
struct Arguments {
    /// How long the long stall lasts, and all alternating phases together
    #[arg(long, default_value_t = 60)]
    seconds: u32,
    /// Messages a second
    #[arg(long, default_value_t = 20_000)]
    rate: u64,
    /// Be the subscriber that is stopped (what this tool starts by itself)
    #[arg(long, value_name = "SOCKET", hide = true)]
    victim: Option<PathBuf>,
}

/// The queue of the subscriber that is stopped: full in less than half a second.
pub(crate) const QUEUE_BYTES: u64 = 4 << 20;

/// What the bus may grow by beside that queue.
const SLACK_BYTES: u64 = 16 << 20;

/// The part of a phase that is not measured: the queue fills, or the subscriber catches up.
const SETTLE: Duration = Duration::from_millis(500);

/// Rounds of two phases that noise may make necessary, times the planned ones.
const PATIENCE: usize = 4;

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let outcome = match &arguments.victim {
        Some(socket) => victim::be(socket),
        None => run(&arguments),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            println!("stall-test FAILED: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(arguments: &Arguments) -> Result<()> {
    let ground = Ground::new("stall-test", "")?;
    let bus = Eeveed::start(&ground)?;
    let began = Instant::now();
    let victim = Victim::start(&ground.socket())?;
    let load = Load::start(&ground.socket(), began, arguments.rate)?;
    let outcome = torment(arguments, &bus, victim, load, began);
    outcome.with_context(|| format!("eeveed's log is {}", ground.log().display()))?;
    drop(bus);
    ground.remove();
    Ok(())
}

fn torment(arguments: &Arguments, bus: &Eeveed, victim: Victim, load: Load, began: Instant) -> Result<()> {
    let phase = Duration::from_millis(u64::from(arguments.seconds) * 50).clamp(2 * SETTLE, Duration::from_secs(3));
    let rounds = (arguments.seconds as usize * 1000).div_ceil(2 * usize::try_from(phase.as_millis())?).max(2);
    let memory = phases::Memory::new(bus);
    std::thread::sleep(Duration::from_secs(1));
    let mut watch = phases::Watch { bus, victim: &victim, memory, began };
    watch.memory.set_base()?;
    let mut done: Vec<Phase> = Vec::new();
    loop {
        for round in 0..rounds {
            let order = if round % 2 == 0 { [Kind::Running, Kind::Stopped] } else { [Kind::Stopped, Kind::Running] };
            for kind in order {
                done.push(watch.phase(kind, SETTLE, phase - SETTLE)?);
            }
        }
        let [running, stopped] = load.p99(&done);
        println!(
            "{} rounds: p99 of the other subscribers {} with all running, {} with one stopped (medians of windows of 100 ms; of all messages {} and {})",
            done.len() / 2,
            short(running.median),
            short(stopped.median),
            short(running.all),
            short(stopped.all)
        );
        // More of the same where noise may have decided: a bus that is really slower stays slower.
        if stopped.median <= running.median * 2 || done.len() >= 2 * rounds * PATIENCE {
            break;
        }
    }
    let long = watch.phase(Kind::Stopped, SETTLE, Duration::from_secs(arguments.seconds.into()))?;
    let cpu: [f64; 2] = [Kind::Running, Kind::Stopped].map(|kind| phases::cpu_share(&done, kind));
    let grown = watch.memory.grown();
    victim.go_on()?;
    let [running, stopped] = load.p99(&done).map(|p99| p99.median);
    let [_, in_long] = load.p99(std::slice::from_ref(&long)).map(|p99| p99.median);
    let ended = load.end()?;
    let told = victim.end()?;

    println!(
        "received {} + lost, as told by {} gaps, {} = {} of {} published",
        grouped(told.received),
        grouped(told.gaps),
        grouped(told.lost),
        grouped(told.received + told.lost),
        grouped(ended.published)
    );
    println!(
        "memory grew by {:.1} MiB at most (bound {} MiB); processor {:.0} % running, {:.0} % stopped; p99 in the long stall {}",
        mib(grown),
        (QUEUE_BYTES + SLACK_BYTES) >> 20,
        cpu[0],
        cpu[1],
        short(in_long)
    );
    println!(
        "| stall-test | {} | {} s stopped at {} messages a second: {:.1} MiB growth (bound {}), p99 {} beside {} (factor {:.2}), gap count exact: {} = {} + {} | {} |",
        today(),
        arguments.seconds,
        grouped(ended.per_second),
        mib(grown),
        (QUEUE_BYTES + SLACK_BYTES) >> 20,
        short(stopped),
        short(running),
        factor(stopped, running),
        grouped(ended.published),
        grouped(told.received),
        grouped(told.lost),
        machine()
    );

    ensure!(
        ended.per_second >= arguments.rate * 98 / 100,
        "only {} messages a second were published, not {}: this machine is too busy to prove anything",
        ended.per_second,
        arguments.rate
    );
    ensure!(told.lost > 0, "nothing was lost: the subscriber was never really behind");
    ensure!(
        told.received + told.lost == ended.published,
        "{} received and {} told as lost are not the {} published",
        told.received,
        told.lost,
        ended.published
    );
    ensure!(ended.lost == 0, "the other subscribers lost {} messages", ended.lost);
    ensure!(
        grown <= QUEUE_BYTES + SLACK_BYTES,
        "the bus grew by {grown} bytes, its bound is {}",
        QUEUE_BYTES + SLACK_BYTES
    );
    ensure!(
        stopped <= running * 2,
        "p99 of the other subscribers is {} with one stopped, more than twice {}",
        short(stopped),
        short(running)
    );
    Ok(())
}

#[expect(clippy::cast_precision_loss, reason = "for people")]
fn mib(bytes: u64) -> f64 {
    bytes as f64 / f64::from(1 << 20)
}

fn factor(stopped: Duration, running: Duration) -> f64 {
    stopped.as_secs_f64() / running.as_secs_f64()
}
