//! The limits of eeveed that a workload has to raise, and why; everything else stays as it is installed.

use std::path::Path;

use anyhow::{Context, Result, bail};
use nix::sys::statfs::{TMPFS_MAGIC, statfs};

use crate::peer::Needs;

/// Defaults of `[limits]`, beyond which a workload has to say more.
const CONNECTIONS: usize = 256;
const SUBSCRIPTIONS: usize = 512;
const QUEUE_MESSAGES: usize = 1000;
const FILTERS: usize = 4096;
const UNINDEXED: usize = 64;

/// Subscriptions take memory, of which one user has a quarter by default: 64 MiB.
const SUBSCRIPTIONS_OF_A_SHARE: usize = 20_000;

/// The keys of `[limits]` that this workload raises, with their values.
pub(crate) fn limits(needs: &Needs) -> Vec<(&'static str, String)> {
    let mut limits = Vec::new();
    // One more for each of the two that look whether the bus listens, and for a library client.
    let connections = needs.publishers + needs.subscribers + 8;
    if connections > CONNECTIONS {
        limits.push(("connections-per-uid", connections.to_string()));
    }
    if needs.subscriptions > SUBSCRIPTIONS {
        limits.push(("subscriptions-per-session", needs.subscriptions.to_string()));
    }
    if needs.subscribers * needs.subscriptions > FILTERS {
        limits.push(("filters-per-uid", (needs.subscribers * needs.subscriptions).to_string()));
    }
    if needs.unindexed > UNINDEXED {
        limits.push(("unindexed-filters", needs.unindexed.to_string()));
    }
    // No loss is allowed, and more than the default may be under way.
    let waiting = needs.under_way_bytes.div_ceil(needs.relay_bytes) * 2;
    if waiting > QUEUE_MESSAGES {
        limits.push(("queue-messages", waiting.to_string()));
    }
    if needs.durable {
        limits.push(("in-flight", waiting.to_string()));
    }
    if needs.subscribers * needs.subscriptions > SUBSCRIPTIONS_OF_A_SHARE {
        limits.push(("memory-per-uid", "\"224 MiB\"".to_owned()));
    }
    limits
}

/// eeveed.toml.
pub(super) fn file(needs: &Needs) -> String {
    let mut text = String::from("[limits]\n");
    for (key, value) in limits(needs) {
        text.push_str(&format!("{key} = {value}\n"));
    }
    text
}

/// A new folder beside the programs that were built: in memory, a sync would cost nothing and prove nothing.
pub(super) fn folder_on_disk() -> Result<tempfile::TempDir> {
    let program = std::env::current_exe()?;
    let parent = program.parent().and_then(Path::parent).context("this program lies nowhere")?;
    if statfs(parent)?.filesystem_type() == TMPFS_MAGIC {
        bail!(
            "{} is in memory, where a sync proves nothing: let CARGO_TARGET_DIR name a folder on a disk",
            parent.display()
        );
    }
    Ok(tempfile::Builder::new().prefix("bench-").tempdir_in(parent)?)
}
