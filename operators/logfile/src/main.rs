//! Log file operator: follows files and the journal, and writes what it subscribes to into files.

mod access;
mod files;
mod follow;
mod glob;
mod journal;
mod outbox;
mod report;
mod run;
mod settings;
mod split;
mod write;

fn main() -> libeevee::Exit {
    libeevee::operator::run_loop(run::run)
}
