//! A publish on its way to the disk.

use std::rc::Rc;
use std::sync::Arc;

use libeevee::wire::Refusal;

use super::Journal;
use super::work::{Confirm, ENTRY_BYTES, Pending};
use crate::core::index::Slot;
use crate::core::session::SessionKey;
use crate::core::storage::{Record, Write};
use crate::core::{Core, Now};

/// A publish on its way to the disk.
pub(in crate::core) struct Enqueue<'a> {
    pub(in crate::core) confirm: Option<Confirm>,
    pub(in crate::core) source: &'a Rc<str>,
    pub(in crate::core) epoch: u64,
    pub(in crate::core) sequence: u64,
    pub(in crate::core) live: u32,
    pub(in crate::core) credit: Option<(SessionKey, u64)>,
    pub(in crate::core) record: Record,
    /// How long it is wanted; 0 for as long as the subscription says.
    pub(in crate::core) wanted_ms: u64,
}

impl Core {
    /// Checks everything that could keep a message from its durable subscriptions, before anything is done about it.
    pub(in crate::core) fn check_durable(&self, to: &[Slot], bytes: u64) -> Result<(), Refusal> {
        if let Some(refusal) = self.journal.refusal() {
            return Err(refusal);
        }
        let cost = usize::try_from(bytes).unwrap_or(usize::MAX).saturating_add(to.len() * ENTRY_BYTES);
        self.check_memory(cost)?;
        to.iter().try_for_each(|slot| self.check_full(*slot, bytes))
    }

    /// Gives a message to the disk, for these durable subscriptions.
    pub(in crate::core) fn enqueue_durable(&mut self, now: Now, to: &[Slot], enqueue: Enqueue<'_>) {
        let Enqueue { confirm, source, epoch, sequence, live, credit, record, wanted_ms } = enqueue;
        let since_ms = self.journal.time(now.mono);
        let expires_ms = if wanted_ms == 0 { 0 } else { since_ms + wanted_ms };
        let record = Arc::new(record);
        let payer = credit.and_then(|(key, _)| Some(self.sessions.get(&key)?.account.clone()));
        self.memory += record.size() as usize;
        if let Some(payer) = &payer {
            payer.add(record.size() as usize);
        }
        let mut entries = Vec::with_capacity(to.len());
        for slot in to {
            let entry = self.journal.take_entry();
            let Some(durable) = self.subscriptions[*slot as usize].durable.as_deref_mut() else { continue };
            let key = durable.key;
            durable.messages += 1;
            durable.grow(&mut self.journal.store_bytes, record.size());
            let account = durable.account().clone();
            self.memory += ENTRY_BYTES;
            account.add(ENTRY_BYTES);
            self.journal
                .write_of(key, Write::Enqueue { entry, durable: key, since_ms, expires_ms, record: record.clone() });
            // Written together: the disk has to know that it may have been delivered, before it is.
            if self.subscriptions[*slot as usize].goes_to_memory() {
                self.journal.mark(key, entry);
            }
            entries.push((key, entry, account));
            self.make_room(*slot, entry, &record);
        }
        let numbered = epoch != 0;
        if numbered && let Some((source, epoch)) = self.journal.repeats.begin(source, epoch, sequence, record.id, true)
        {
            self.journal.write(Write::ForgetPublisher { source: source.to_string(), epoch });
        }
        let tell = confirm.into_iter().collect();
        let source = source.clone();
        let pending =
            Pending { tell, source, epoch, sequence, live, credit, payer, record, since_ms, expires_ms, entries };
        self.journal.next.pending.push(pending);
    }

    /// Answers a publish that was sent again while the first one still waits for the disk. False when it does not.
    pub(in crate::core) fn join_pending(&mut self, source: &str, epoch: u64, sequence: u64, confirm: Confirm) -> bool {
        let Some(pending) = self.journal.find_pending(source, epoch, sequence) else { return false };
        pending.tell.push(confirm);
        true
    }
}

impl Journal {
    /// Whether a session is told something when the disk is done.
    pub(in crate::core) fn owes_answer(&self, key: SessionKey) -> bool {
        self.open.iter().chain([&self.next]).any(|work| {
            work.pending.iter().flat_map(|pending| &pending.tell).any(|confirm| confirm.session == key)
                || work.verbs.iter().any(|verb| verb.session == key)
        })
    }

    /// The publish that waits for the disk with these numbers.
    fn find_pending(&mut self, source: &str, epoch: u64, sequence: u64) -> Option<&mut Pending> {
        let works = self.open.iter_mut().chain([&mut self.next]);
        works
            .flat_map(|work| &mut work.pending)
            .find(|pending| *pending.source == *source && pending.epoch == epoch && pending.sequence == sequence)
    }
}
