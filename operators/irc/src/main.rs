//! IRC operator: one connection to one network.

mod backoff;
mod config;
mod connection;
mod flood;
mod ledger;
mod line;
mod mapping;
mod net;
mod outbox;
mod plan;
mod run;
mod server;
mod session;
mod settings;
mod split;
mod tls;

fn main() -> libeevee::Exit {
    libeevee::operator::run_loop(run::run)
}
