//! Whether a durable subscription has room for what comes, and what becomes of the rest.

use libeevee::GapReason;
use libeevee::wire::{Code, Overflow, Refusal};

use super::{Gone, death};
use crate::core::Core;
use crate::core::index::Slot;
use crate::core::queue::one;
use crate::core::session::beyond;
use crate::core::storage::{Death, EntryNumber, Record, Write};

impl Core {
    /// Whether so many bytes more may wait for a subscription, or room can be made for them.
    pub(super) fn check_full(&self, slot: Slot, bytes: u64) -> Result<(), Refusal> {
        let Some(durable) = self.subscriptions[slot as usize].durable.as_deref() else { return Ok(()) };
        let (total, max) = (self.journal.store_bytes + bytes, self.limits.store_bytes);
        let bounds = &durable.bounds;
        let rejects = bounds.overflow == Overflow::Reject;
        if total > max && (rejects || durable.messages == 0) {
            let text = format!("{total} bytes would wait in all durable subscriptions, at most {max} are possible");
            return Err(beyond(Code::Full, text, max, total));
        }
        if !rejects {
            return Ok(());
        }
        let (owned, max) = (durable.on_disk.bytes() + bytes, self.limits.store_bytes_per_owner);
        if owned > max {
            let owner = &durable.owner;
            let text = format!(
                "{owned} bytes would wait in the durable subscriptions of {owner}, at most {max} are possible \
                 (store-bytes-per-owner)"
            );
            return Err(beyond(Code::Full, text, max, owned));
        }
        let whose = format!("durable subscription {} of {}", durable.name, durable.owner);
        if durable.messages + 1 > bounds.messages {
            let (count, max) = (durable.messages, bounds.messages);
            let text = format!("{whose} is full: {count} messages wait, at most {max} are possible");
            return Err(beyond(Code::Full, text, max, count + 1));
        }
        if durable.bytes + bytes > bounds.bytes {
            let (wanted, max) = (durable.bytes + bytes, bounds.bytes);
            let text = format!("{whose} is full: {wanted} bytes would wait, at most {max} are possible");
            return Err(beyond(Code::Full, text, max, wanted));
        }
        Ok(())
    }

    /// A message was added, which is counted already: what is beyond the bounds becomes dead letters.
    pub(super) fn make_room(&mut self, slot: Slot, new: EntryNumber, record: &Record) {
        loop {
            let store_over = self.journal.store_beyond(self.limits.store_bytes);
            let Some(durable) = self.subscriptions[slot as usize].durable.as_deref_mut() else { return };
            let bounds = durable.bounds;
            // What was to die may be acknowledged meanwhile.
            let (messages, bytes) =
                (durable.messages.saturating_sub(durable.dying.0), durable.bytes.saturating_sub(durable.dying.1));
            let owner_over = durable.on_disk.beyond(self.limits.store_bytes_per_owner);
            let bytes_over = bytes.saturating_sub(bounds.bytes).max(store_over).max(owner_over);
            let over = (messages.saturating_sub(bounds.messages), bytes_over);
            if over == (0, 0) {
                return;
            }
            let oldest = match bounds.overflow {
                Overflow::DropNewest => None,
                _ => durable.pop_head(),
            };
            let text = "the subscription was full";
            if let Some(held) = oldest {
                durable.release(&mut self.memory, held.record.size());
                let death = death(GapReason::QueueFull, text, held.attempts);
                self.bury(slot, held.entry, &held.record, death);
                continue;
            }
            // Nothing waits in memory: then on disk, except what is delivered just now.
            let held = (durable.in_flight.len() + durable.returned.len()) as u64;
            if bounds.overflow != Overflow::DropNewest && messages > held + 1 {
                self.journal.die_oldest(durable, over.0.max(1), over.1);
            } else {
                // Told when it is on disk: its publisher may still be refused.
                self.bury_silently(slot, new, record, death(GapReason::QueueFull, text, 0));
            }
            return;
        }
    }

    /// Makes a dead letter of a message that is counted as waiting, and tells it.
    pub(super) fn bury(&mut self, slot: Slot, entry: EntryNumber, record: &Record, death: Death) {
        let reason = death.reason;
        self.bury_silently(slot, entry, record, death);
        self.tell_gap(slot, record.id, reason);
    }

    fn bury_silently(&mut self, slot: Slot, entry: EntryNumber, record: &Record, death: Death) {
        let number = self.journal.next_number();
        let Some(durable) = self.subscriptions[slot as usize].durable.as_deref_mut() else { return };
        durable.messages -= 1;
        durable.shrink(&mut self.journal.store_bytes, record.size());
        durable.dead += 1;
        durable.gone.insert(entry, Gone { batch: number, bytes: record.size(), dead: true, removed: false });
        self.journal.write_of(durable.key, Write::Die { entry, death });
    }

    /// One message is told as lost, in front of what waits.
    pub(in crate::core) fn tell_gap(&mut self, slot: Slot, id: u64, reason: GapReason) {
        let subscription = &mut self.subscriptions[slot as usize];
        subscription.note_gap(one(id, reason));
        subscription.dropped += 1;
        self.dropped += 1;
        let key = subscription.session;
        if let Some(session) = self.sessions.get_mut(&key) {
            session.dropped += 1;
            if !subscription.listed {
                subscription.listed = true;
                session.ready.push_back(slot);
            }
            self.wake(key);
        }
    }
}
