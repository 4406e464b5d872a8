//! What eevee has to show on real Debians with real systemd; one module for each subject.
//!
//! A scenario is a function `fn(&Machine) -> anyhow::Result<()>`, named in its module's
//! `scenarios()`. `cargo test -p eevee-tests --test machine -- NAME --suite 12` runs some.

mod bot;
mod conversation;
mod durable;
mod exec;
mod faults;
mod halt;
mod harness;
mod help;
mod identity;
mod ids;
mod logfile;
mod outage;
mod package;
mod record;
mod reload;
mod restart;

fn main() {
    let scenarios = [
        harness::scenarios(),
        conversation::scenarios(),
        reload::scenarios(),
        halt::scenarios(),
        identity::scenarios(),
        ids::scenarios(),
        logfile::scenarios(),
        faults::scenarios(),
        outage::scenarios(),
        durable::scenarios(),
        exec::scenarios(),
        help::scenarios(),
        record::scenarios(),
        restart::scenarios(),
        package::scenarios(),
    ]
    .concat();
    eevee_tests::runner::main(&scenarios);
}
