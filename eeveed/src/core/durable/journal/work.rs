//! What a batch is about beside its writes: who waits for it, and what follows when it is on disk.

use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use crate::core::index::Slot;
use crate::core::session::SessionKey;
use crate::core::share::Account;
use crate::core::storage::{DurableKey, EntryNumber, Record, Write};

/// A publish that waits for the disk.
#[derive(Debug)]
pub(super) struct Pending {
    /// To whom it is confirmed or refused; more than one when it was sent again meanwhile.
    pub(super) tell: Vec<Confirm>,
    pub(super) source: Rc<str>,
    pub(super) epoch: u64,
    pub(super) sequence: u64,
    pub(super) live: u32,
    /// The credit that it took, to be given back to its session.
    pub(super) credit: Option<(SessionKey, u64)>,
    /// Who has it in memory as long as it waits for the disk; none for the bus itself.
    pub(super) payer: Option<Rc<Account>>,
    pub(super) record: Arc<Record>,
    pub(super) since_ms: u64,
    pub(super) expires_ms: u64,
    /// With who has the place of each.
    pub(super) entries: Vec<(DurableKey, EntryNumber, Rc<Account>)>,
}

/// What it costs, beside the message, to keep one for one durable subscription until it is on disk.
pub(super) const ENTRY_BYTES: usize = size_of::<Write>() + 64;

impl Pending {
    /// What it takes of the bus's memory.
    fn size(&self) -> usize {
        self.record.size() as usize + self.entries.len() * ENTRY_BYTES
    }

    pub(super) fn release(&self, memory: &mut usize) {
        *memory -= self.size();
        if let Some(payer) = &self.payer {
            payer.sub(self.record.size() as usize);
        }
        self.entries.iter().for_each(|(_, _, account)| account.sub(ENTRY_BYTES));
    }
}

/// Who wants to know what became of a publish.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Confirm {
    pub(crate) session: SessionKey,
    pub(crate) number: u32,
    /// Also of its success.
    pub(crate) wanted: bool,
    /// It was sent again.
    pub(crate) repeated: bool,
}

/// A verb that is done when its writes are on disk.
#[derive(Debug)]
pub(in crate::core::durable) struct VerbWait {
    pub(in crate::core::durable) session: SessionKey,
    pub(in crate::core::durable) number: u32,
    pub(in crate::core::durable) answer: String,
}

#[derive(Debug, Default)]
pub(super) struct Work {
    pub(super) writes: Vec<Write>,
    pub(super) pending: Vec<Pending>,
    /// Subscriptions that are new or changed; who waits for them stands with them.
    pub(super) opening: Vec<Slot>,
    pub(super) verbs: Vec<VerbWait>,
    pub(super) forgets: Vec<Slot>,
    /// Entries up to these may be delivered once it is committed.
    pub(super) marks: BTreeMap<DurableKey, EntryNumber>,
    /// What is to be freed: messages, bytes.
    pub(super) dying: BTreeMap<DurableKey, (u64, u64)>,
    pub(super) deaths: bool,
    /// Whether there is more in it than acknowledgements.
    pub(super) urgent: bool,
    /// Since when the first of these waits.
    pub(super) lazy_since: Option<Duration>,
    /// Subscriptions of which something changes by it: of what is loaded, delivered and done with.
    pub(super) concerned: BTreeSet<DurableKey>,
}

impl Work {
    pub(super) fn is_urgent(&self) -> bool {
        let none = self.marks.is_empty() && self.opening.is_empty() && self.verbs.is_empty() && self.pending.is_empty();
        self.urgent || !none
    }

    /// Takes what would have been the next batch; of its writes, what is to be written later.
    pub(super) fn absorb(&mut self, next: Self) {
        self.writes.extend(next.writes.into_iter().filter(may_come_again));
        self.pending.extend(next.pending);
        self.opening.extend(next.opening);
        self.verbs.extend(next.verbs);
        self.forgets.extend(next.forgets);
        self.concerned.extend(next.concerned);
        for (key, entry) in next.marks {
            let mark = self.marks.entry(key).or_default();
            *mark = (*mark).max(entry);
        }
        for (key, (messages, bytes)) in next.dying {
            let dying = self.dying.entry(key).or_default();
            *dying = (dying.0 + messages, dying.1 + bytes);
        }
    }
}

/// Whether a write that was not committed is to be written by a later batch, whoever waits for it.
pub(super) const fn is_kept(write: &Write) -> bool {
    matches!(
        write,
        Write::Acknowledge { .. }
            | Write::Die { .. }
            | Write::Attempts { .. }
            | Write::Expire { .. }
            | Write::Publisher(_)
            | Write::Subscription(_)
            | Write::ForgetPublisher { .. }
    )
}

/// The same for the very next batch, to which all is given that was not in the way.
pub(super) const fn may_come_again(write: &Write) -> bool {
    is_kept(write) || matches!(write, Write::Forget { .. } | Write::Retry { .. } | Write::DropDead { .. })
}
