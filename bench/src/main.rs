//! `make bench`: how fast eevee is, beside the buses that people would pick instead and beside a relay that only copies.
//!
//! All peers run in turn within every round, so that a slow minute of the machine hits all of them; what is reported are
//! medians over the rounds, and medians of the ratios within each round.

/// Prints a line for a person. One who reads no further (`| head`) does not end a run that still has a file to write.
macro_rules! say {
    ($($text:tt)*) => {{
        use std::io::Write as _;
        let _ = writeln!(std::io::stdout(), $($text)*);
    }};
}

mod drive;
mod eevee;
mod goal;
mod keeper;
mod limit;
mod measure;
mod message;
mod peer;
mod peers;
mod plot;
mod process;
mod relay;
mod report;
mod results;
mod workload;

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Result, bail, ensure};
use clap::Parser;

use self::peer::Peer;
use self::results::Results;
use self::workload::{WORKLOADS, Workload};

/// Measures eevee beside other buses.
#[derive(Debug, Parser)]
struct Arguments {
    /// Workloads, by name, separated by commas; all without it
    #[arg(long, value_delimiter = ',')]
    workloads: Vec<String>,
    /// Peers beside eevee and the relay, separated by commas; `limit` alone for none; all without it
    #[arg(long, value_delimiter = ',')]
    peers: Vec<String>,
    /// How often each is measured
    #[arg(long, default_value_t = 5)]
    rounds: usize,
    /// How long each measurement takes
    #[arg(long, default_value_t = 1.0)]
    seconds: f64,
    /// Where the result goes, as DATE.md, DATE.json and DATE.svg; without it, it is only printed
    #[arg(long, value_name = "DIRECTORY")]
    out: Option<PathBuf>,
    /// List the workloads and peers
    #[arg(long)]
    list: bool,
    /// Be the relay (what this program starts by itself)
    #[arg(long, value_name = "SOCKET", hide = true)]
    relay: Option<PathBuf>,
    #[arg(long, hide = true, requires = "relay")]
    split: bool,
    /// Be the keeper (likewise)
    #[arg(long, hide = true)]
    keeper: bool,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let outcome = match &arguments.relay {
        Some(socket) => relay::run(socket, arguments.split),
        None if arguments.keeper => keeper::run(),
        None => run(&arguments),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            say!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(arguments: &Arguments) -> Result<()> {
    let peers = chosen_peers(&arguments.peers)?;
    let workloads = chosen_workloads(&arguments.workloads)?;
    if arguments.list {
        for workload in &workloads {
            say!("{:<16} {}", workload.name, workload.about);
        }
        for peer in &peers {
            say!("{:<16} {}", peer.name(), peer.version()?);
        }
        return Ok(());
    }
    ensure!(arguments.seconds > 0.0 && arguments.rounds > 0, "nothing to measure in no time");
    keeper::start()?;
    measure::raise_open_files()?;
    let mut results = Results::begin(&peers, arguments.rounds, arguments.seconds)?;
    let time = Duration::from_secs_f64(arguments.seconds);
    for round in 0..arguments.rounds {
        for workload in &workloads {
            if round > 0 && workload.once() {
                continue;
            }
            // Each round begins with another peer, so that none always runs behind the same one.
            for turn in 0..peers.len() {
                let peer = &*peers[(turn + round) % peers.len()];
                if workload.alone.is_none() || peer.name() == "eevee" {
                    results.add(round, workload, peer, time);
                }
            }
        }
    }
    results.end()?;
    say!("\n{}", report::text(&results, &workloads));
    if let Some(directory) = &arguments.out {
        report::write(&results, &workloads, directory)?;
    }
    match results.failures.len() {
        0 => Ok(()),
        count => bail!("{count} measurements failed, the first one: {}", results.failures[0]),
    }
}

fn chosen_workloads(names: &[String]) -> Result<Vec<Workload>> {
    for name in names {
        if !WORKLOADS.iter().any(|workload| workload.name == name) {
            let all: Vec<_> = WORKLOADS.iter().map(|workload| workload.name).collect();
            bail!("there is no workload {name:?}; there are {}", all.join(", "));
        }
    }
    let chosen = |workload: &&Workload| names.is_empty() || names.iter().any(|name| name == workload.name);
    Ok(WORKLOADS.iter().filter(chosen).copied().collect())
}

/// The relay and eevee always take part: what the others reach is only worth something beside them.
fn chosen_peers(names: &[String]) -> Result<Vec<Box<dyn Peer>>> {
    let mut chosen: Vec<Box<dyn Peer>> = vec![Box::new(limit::Limit), Box::new(eevee::Eevee)];
    let others = peers::all();
    let known: Vec<_> = others.iter().map(|peer| peer.name()).collect();
    for name in names {
        if !known.contains(&name.as_str()) && !["limit", "eevee"].contains(&name.as_str()) {
            bail!("there is no peer {name:?}; there are limit, eevee, {}", known.join(", "));
        }
    }
    chosen.extend(others.into_iter().filter(|peer| names.is_empty() || names.iter().any(|name| name == peer.name())));
    Ok(chosen)
}
