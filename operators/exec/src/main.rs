//! Exec operator: any program is an operator. One run for each message (mode `command`), or a child that lives long and
//! speaks JSON lines (mode `stream`).

mod answer;
mod child;
mod command_mode;
mod credentials;
mod descendants;
mod environment;
mod journal;
mod lines;
mod settings;
mod stderr;
mod stream;
mod subscription;
mod throttle;

use std::time::Duration;

use libeevee::operator::{Failure, Operator};
use tokio::time::{Instant, sleep_until};

use crate::descendants::Descendants;
use crate::settings::{ExecSettings, Mode};

fn main() -> libeevee::Exit {
    libeevee::operator::run_loop(operate)
}

async fn operate(op: Operator<ExecSettings>) -> Result<(), Failure> {
    let settings = op.settings();
    // A program that is not there is a mistake in the file, and a restart mends none.
    child::check(&settings.run).map_err(Failure::config)?;
    let descendants = Descendants::adopt();
    let served = match settings.mode {
        Mode::Command => command_mode::serve(&op, &descendants).await,
        Mode::Stream => stream::serve(&op, &descendants).await,
    };
    descendants.finish().await;
    served
}

/// After the program was asked to end by SIGTERM, and before it is killed.
const TERM_WITHIN: Duration = Duration::from_secs(1);

/// What a program has written and nobody has read yet is waited for so long after its end: those that it left behind
/// may hold its pipes open for ever.
const DRAIN_WITHIN: Duration = Duration::from_millis(200);

async fn until(instant: Option<Instant>) {
    match instant {
        Some(instant) => sleep_until(instant).await,
        None => std::future::pending().await,
    }
}
