//! What the store knows of itself beside its rows, and what of it stands in `meta`.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::mark::Mark;
use crate::core::storage::{DurableKey, EntryNumber};

/// What stands in `meta`, and what else is known of the whole.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct State {
    pub(super) batch: u64,
    pub(super) next_entry: EntryNumber,
    pub(super) next_durable: DurableKey,
    pub(super) time_ms: u64,
    pub(super) wall: u64,
    pub(super) digest: u64,
    /// When the last of the dead letters died: none dies before another, whatever the clock does.
    pub(super) died: u64,
    /// Dead letters, and the sum of their sizes.
    pub(super) dead: u64,
    pub(super) dead_bytes: u64,
    /// The same of each subscription that has any.
    pub(super) dead_of: Arc<BTreeMap<DurableKey, (u64, u64)>>,
    /// With the owner of each.
    pub(super) durables: Arc<BTreeMap<DurableKey, Arc<str>>>,
}

impl State {
    pub(super) fn count_dead(&mut self, durable: DurableKey, bytes: u64) {
        self.dead += 1;
        self.dead_bytes += bytes;
        let of = Arc::make_mut(&mut self.dead_of).entry(durable).or_default();
        *of = (of.0 + 1, of.1 + bytes);
    }

    pub(super) fn uncount_dead(&mut self, durable: DurableKey, bytes: u64) {
        self.dead = self.dead.saturating_sub(1);
        self.dead_bytes = self.dead_bytes.saturating_sub(bytes);
        let all = Arc::make_mut(&mut self.dead_of);
        if let Some(of) = all.get_mut(&durable) {
            *of = (of.0.saturating_sub(1), of.1.saturating_sub(bytes));
            if of.0 == 0 {
                all.remove(&durable);
            }
        }
    }

    pub(super) fn mark(&self) -> Mark {
        Mark { batch: self.batch, next_entry: self.next_entry, next_durable: self.next_durable }
    }
}
