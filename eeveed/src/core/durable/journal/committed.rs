//! What follows when a batch is on disk.

use std::collections::BTreeMap;

use libeevee::GapReason;
use libeevee::wire::{Content, Frame, Published};

use super::work::{Pending, Work};
use crate::core::durable::Held;
use crate::core::storage::{Committed, EntryNumber};
use crate::core::{Core, Now};

impl Core {
    /// Costs what stands in the batch, however many subscriptions there are.
    pub(super) fn batch_committed(&mut self, now: Now, mut work: Work, committed: Committed) {
        self.settle_dying(&work);
        let mut concerned = std::mem::take(&mut work.concerned);
        concerned.extend(work.marks.keys());
        concerned.extend(committed.revived.iter().map(|revived| revived.durable));
        concerned.extend(committed.died.iter().map(|died| died.durable));
        let opened = work.opening.iter().filter_map(|slot| self.subscriptions.get(*slot as usize)?.durable.as_deref());
        concerned.extend(opened.map(|durable| durable.key));
        // First: what waits again may be given up again at once.
        for revived in &committed.revived {
            let Some(slot) = self.journal.by_key.get(&revived.durable).copied() else { continue };
            if let Some(durable) = self.subscriptions[slot as usize].durable.as_deref_mut() {
                durable.messages += 1;
                durable.grow(&mut self.journal.store_bytes, revived.bytes);
                durable.more = true;
            }
        }
        let died: BTreeMap<EntryNumber, ()> = committed.died.iter().map(|died| (died.entry, ())).collect();
        for died in &committed.died {
            let Some(slot) = self.journal.by_key.get(&died.durable).copied() else { continue };
            let Some(durable) = self.subscriptions[slot as usize].durable.as_deref_mut() else { continue };
            durable.undone.remove(&died.entry);
            if let Some(gone) = durable.gone.get_mut(&died.entry) {
                gone.removed = true;
                // It was acknowledged while the batch was under way, or made a dead letter by name, which is counted.
                durable.dead += u64::from(!gone.dead);
                continue;
            }
            durable.dead += 1;
            durable.messages -= 1;
            durable.shrink(&mut self.journal.store_bytes, died.bytes);
            if let Some(held) = durable.take_entry(died.entry) {
                durable.release(&mut self.memory, held.record.size());
            }
            self.tell_gap(slot, died.id, died.reason);
        }
        for (key, count) in &committed.dead_removed {
            if let Some(durable) = self.durable_by_key(*key) {
                durable.dead = durable.dead.saturating_sub(*count);
            }
        }
        for slot in &work.opening {
            self.opened(*slot);
        }
        for (key, mark) in &work.marks {
            if let Some(durable) = self.durable_by_key(*key) {
                durable.marked = durable.marked.max(*mark);
            }
        }
        for pending in work.pending {
            self.pending_committed(now, pending, &died);
        }
        let number = self.journal.committed.get();
        for key in concerned {
            let Some(slot) = self.journal.by_key.get(&key).copied() else { continue };
            #[cfg(test)]
            {
                self.journal.looked += 1;
            }
            // The store will not load again what this batch removed.
            if let Some(durable) = self.subscriptions[slot as usize].durable.as_deref_mut() {
                durable.gone.retain(|_, gone| gone.batch > number);
            }
            self.refill(slot);
            self.offer(now, slot);
        }
        for slot in work.forgets {
            self.forgotten(slot, true);
        }
        for wait in work.verbs {
            self.answer(wait.session, wait.number, Ok(Some(wait.answer)));
        }
    }

    fn pending_committed(&mut self, now: Now, pending: Pending, died: &BTreeMap<EntryNumber, ()>) {
        pending.release(&mut self.memory);
        let Pending { tell, source, epoch, sequence, live, credit, record, since_ms, expires_ms, entries, .. } =
            pending;
        if epoch != 0 {
            self.journal.repeats.end(&source, epoch, sequence, true);
        }
        let durable = u32::try_from(entries.len()).unwrap_or(u32::MAX);
        for (key, entry, _) in entries {
            let size = record.size();
            let Some(slot) = self.journal.by_key.get(&key).copied() else { continue };
            let subscription = &self.subscriptions[slot as usize];
            // Without room for it, it stays on disk until there is some.
            let has_room = self.may_load(&subscription.account, size as usize);
            let in_memory = subscription.goes_to_memory() && has_room;
            let Some(durable) = self.subscriptions[slot as usize].durable.as_deref_mut() else { continue };
            if durable.gone.contains_key(&entry) {
                // There was no room for it.
                self.tell_gap(slot, record.id, GapReason::QueueFull);
                continue;
            }
            if died.contains_key(&entry) {
                continue;
            }
            if in_memory {
                let record = record.clone();
                durable.push_head(Held {
                    entry,
                    since_ms,
                    expires_ms,
                    attempts: 0,
                    ready: 0,
                    refused: String::new(),
                    record,
                });
                durable.hold(&mut self.memory, size);
                if entry > durable.marked {
                    self.journal.mark(key, entry);
                }
            } else {
                durable.more = true;
            }
        }
        for confirm in tell.iter().filter(|confirm| confirm.wanted) {
            let content = Content::Published(Published { id: record.id, live, durable });
            let mut frame = Frame::new(confirm.number, content);
            if confirm.repeated {
                frame.flags |= libeevee::wire::REPEATED;
            }
            self.tell(confirm.session, &frame);
        }
        self.give_back(now, credit);
    }

    pub(super) fn settle_dying(&mut self, work: &Work) {
        for (key, (messages, bytes)) in &work.dying {
            if let Some(durable) = self.durable_by_key(*key) {
                durable.has_died(*messages, *bytes);
            }
        }
    }
}
