//! eeveed, the bus: arguments, then everything in its place, then the loop.

mod config;
mod control;
mod core;
mod daemon;
mod durable;
mod failure;
mod file;
mod files;
mod halted;
mod handover;
mod handshake;
mod hub;
mod identity;
mod ids;
mod listener;
mod lock;
mod outlet;
mod people;
mod queues;
mod session;
mod store;
mod systemd;

use std::path::PathBuf;
use std::process::ExitCode;

use clap::Parser;

/// The eevee message bus.
///
/// systemd starts it by socket activation; for development, `eeveed --listen /tmp/bus.sock` is a whole bus for one user.
#[derive(Debug, Parser)]
#[command(version, arg_required_else_help = false)]
pub(crate) struct Arguments {
    /// Bind this socket instead of taking those of systemd; clients with your uid may name their id
    #[arg(long, value_name = "PATH")]
    listen: Option<PathBuf>,

    /// Read modules.d and eeveed.toml from here instead of /etc/eevee
    #[arg(long, value_name = "DIR")]
    config: Option<PathBuf>,

    /// Keep state here instead of systemd's StateDirectory; without it --listen keeps it in a temporary directory
    #[arg(long, value_name = "DIR")]
    state: Option<PathBuf>,

    /// Check a configuration file of the bus and exit: 0 if it is good, 78 if not
    #[arg(long, value_name = "FILE", conflicts_with_all = ["listen", "config", "state"])]
    check: Option<PathBuf>,
}

/// sysexits(3): EX_CONFIG.
const EXIT_CONFIG: u8 = 78;

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    if let Some(path) = &arguments.check {
        return match config::BusConfig::load(path) {
            Ok(_) => ExitCode::SUCCESS,
            Err(diagnosis) => {
                #[allow(clippy::print_stderr)] // The answer to a person who asked on a terminal.
                {
                    eprintln!("{diagnosis}");
                }
                ExitCode::from(EXIT_CONFIG)
            }
        };
    }
    // Before the log opens a descriptor: LISTEN_FDS may lie about which are sockets of ours.
    let inherited = systemd::Inherited::take();
    libeevee::log::init(None);
    match daemon::run(arguments, inherited) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            tracing::error!("eeveed stops: {error:#}");
            ExitCode::FAILURE
        }
    }
}
