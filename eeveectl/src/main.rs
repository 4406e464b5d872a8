//! eeveectl: the one tool a person needs to run eevee.
#![allow(clippy::print_stdout, clippy::print_stderr, reason = "printing is what this program is for")]

mod bus;
mod cli;
mod complete;
mod context;
mod durable;
mod modules;
mod output;
mod secrets;
mod systemctl;
mod unit;
mod values;
mod verbs;
mod waiting;
mod why;

use std::io;

use clap::{CommandFactory, Parser};
use libeevee::Exit;

fn main() -> Exit {
    // A shell that completes calls this program with COMPLETE set, and it ends here.
    clap_complete::CompleteEnv::with_factory(cli::Cli::command).complete();
    // Ends with 2 by itself on wrong usage.
    let cli = cli::Cli::parse();
    let done = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(anyhow::Error::from)
        .and_then(|runtime| runtime.block_on(verbs::run(cli)));
    match done {
        Ok(exit) => exit,
        Err(error) if is_broken_pipe(&error) => Exit::DONE,
        Err(error) => {
            output::error(&output::safe(&format!("{error:#}")));
            Exit::FAILED
        }
    }
}

/// Whoever read our output has enough of it.
fn is_broken_pipe(error: &anyhow::Error) -> bool {
    error
        .chain()
        .any(|cause| cause.downcast_ref::<io::Error>().is_some_and(|error| error.kind() == io::ErrorKind::BrokenPipe))
}
