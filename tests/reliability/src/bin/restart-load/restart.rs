//! `systemctl restart eeveed`, and what there is to see of it.

use std::rc::Rc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use tokio::process::Command;

use crate::lane::Tally;

const UNIT: &str = "eeveed.service";

/// Between two restarts, and a little more by chance.
const PAUSE_MS: u64 = 150;

/// A restart that nobody is served after has failed.
const PATIENCE: Duration = Duration::from_secs(20);

/// What one restart was like.
#[derive(Debug)]
pub(crate) struct Restart {
    /// The longest that a publisher waited for its confirmation.
    pub(crate) pause: Duration,
    /// How long systemctl took.
    pub(crate) took: Duration,
}

/// Restarts the bus so often.
pub(crate) async fn many(count: u32, tally: &Rc<Tally>) -> Result<Vec<Restart>> {
    let mut all = Vec::new();
    let mut pid = property("MainPID").await?;
    for number in 1..=count {
        tokio::time::sleep(Duration::from_millis(PAUSE_MS + fastrand::u64(0..PAUSE_MS))).await;
        let restart = once(tally).await.with_context(|| format!("restart {number} of {count}"))?;
        all.push(restart);
        let now = property("MainPID").await?;
        ensure!(now != pid && now != "0", "restart {number}: the process is {now}, and was {pid}");
        pid = now;
        // As long as systemd has a copy of a connection, its peer does not see it end.
        let stored = property("NFileDescriptorStore").await?;
        ensure!(stored == "0", "restart {number}: systemd still keeps {stored} descriptors");
        if !tally.errors.borrow().is_empty() {
            bail!("after restart {number}: {}", tally.errors.borrow()[0]);
        }
    }
    let restarts = property("NRestarts").await?;
    ensure!(restarts == "0", "systemd had to restart the bus {restarts} times by itself");
    Ok(all)
}

async fn once(tally: &Tally) -> Result<Restart> {
    tally.take_longest();
    let begun = Instant::now();
    let status = Command::new("systemctl").args(["restart", UNIT]).status().await.context("cannot run systemctl")?;
    ensure!(status.success(), "systemctl restart: {status}");
    let took = begun.elapsed();
    // Until everybody who published during the restart has their confirmation.
    let done = Instant::now();
    while !tally.is_served_since(done) {
        ensure!(done.elapsed() < PATIENCE, "somebody waits for a confirmation since the restart");
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    Ok(Restart { pause: tally.take_longest(), took })
}

async fn property(name: &str) -> Result<String> {
    let output = Command::new("systemctl").args(["show", "--value", "-p", name, UNIT]).output().await?;
    ensure!(output.status.success(), "systemctl show: {output:?}");
    Ok(String::from_utf8(output.stdout)?.trim().to_owned())
}
