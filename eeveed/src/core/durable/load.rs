//! What waits on disk comes into memory when somebody takes it and there is room.

use std::time::Duration;

use libeevee::GapReason;

use super::journal::{State, UNAVAILABLE_TIME};
use super::{Gone, Held, NOBODY};
use crate::core::index::Slot;
use crate::core::storage::{DurableKey, EntryNumber, Loaded, Page, StorageError, Write};
use crate::core::{Action, Core, Now};

/// How many messages and bytes are loaded at once. Each page needs a sync before it is delivered: the disk has to know that
/// it may be.
const PAGE_MESSAGES: usize = 1024;
pub(in crate::core) const PAGE_BYTES: u64 = 1 << 20;

impl Core {
    /// Asks the store for more, if somebody takes it and there is room.
    pub(in crate::core) fn refill(&mut self, slot: Slot) {
        let subscription = &mut self.subscriptions[slot as usize];
        if subscription.session == NOBODY {
            return;
        }
        let Some(durable) = subscription.durable.as_deref_mut() else { return };
        if durable.loading || !durable.more || durable.head.len() * 2 > PAGE_MESSAGES || !durable.stored {
            return;
        }
        if durable.head_bytes * 2 > PAGE_BYTES {
            return;
        }
        let account = durable.account().clone();
        if !self.may_load(&account, PAGE_BYTES as usize) {
            self.starve(slot);
            return;
        }
        let Some(durable) = self.subscriptions[slot as usize].durable.as_deref_mut() else { return };
        durable.set_loading(true);
        self.actions.push(Action::Load {
            durable: durable.key,
            generation: durable.generation,
            after: durable.loaded,
            messages: PAGE_MESSAGES,
            bytes: PAGE_BYTES,
        });
    }

    /// Entries that the store loaded.
    pub(in crate::core) fn page_loaded(
        &mut self,
        now: Now,
        key: DurableKey,
        generation: u64,
        page: Result<Page, StorageError>,
    ) {
        let Some(slot) = self.journal.by_key.get(&key).copied() else { return };
        let number = self.journal.next_number();
        let Some(durable) = self.subscriptions[slot as usize].durable.as_deref_mut() else { return };
        if durable.generation != generation {
            return;
        }
        durable.set_loading(false);
        let page = match page {
            Ok(page) => page,
            Err(StorageError::Unavailable(why)) => {
                // It is tried again with the next alarm.
                self.log_store(tracing::Level::ERROR, format!("durable messages cannot be read: {why}"));
                self.set_alarm(slot, now.mono + UNAVAILABLE_TIME);
                return;
            }
            Err(StorageError::Failed(why)) => {
                self.journal.state = State::Failed(why.clone());
                self.actions.push(Action::StoreFailed(why));
                return;
            }
        };
        durable.more = page.more;
        let account = durable.account().clone();
        let (mut early, mut refusals, mut spent) = (Vec::new(), Vec::new(), Vec::new());
        let attempts_max = self.limits.attempts;
        let mut cut = EntryNumber::MAX;
        for loaded in page.entries {
            let Loaded { entry, since_ms, expires_ms, attempts: known, record } = loaded;
            let mut attempts = known;
            if !self.may_load(&account, record.size() as usize) {
                // What does not fit is loaded again when there is room.
                cut = entry;
                break;
            }
            let Some(durable) = self.subscriptions[slot as usize].durable.as_deref_mut() else { return };
            durable.loaded = durable.loaded.max(entry);
            if durable.gone.contains_key(&entry) || durable.is_delivered(entry) {
                continue;
            }
            if entry <= durable.recovered_mark {
                attempts = attempts.max(1);
            }
            // What the disk knows may be one too many.
            let mut often = attempts > attempts_max;
            if let Some(undone) = durable.undone.remove(&entry) {
                attempts = undone.attempts;
                often = attempts >= attempts_max;
            }
            let mut held = Held { entry, since_ms, expires_ms, attempts, ready: 0, refused: String::new(), record };
            if attempts > 0 && durable.early.remove(&held.record.id) {
                early.push(held);
                continue;
            }
            durable.hold(&mut self.memory, held.record.size());
            let refusal = durable.early_refusals.remove(&held.record.id);
            if attempts > 0
                && let Some(nack) = refusal
            {
                refusals.push((held, nack));
                continue;
            }
            if often {
                spent.push(held);
                continue;
            }
            if attempts > 0 && known <= attempts {
                held.ready = self.journal.announce(key, entry, attempts + 1);
            }
            durable.push_head(held);
        }
        let Some(durable) = self.subscriptions[slot as usize].durable.as_deref_mut() else { return };
        durable.more |= cut < EntryNumber::MAX;
        if let Some(last) = durable.head.back()
            && last.entry > durable.marked
        {
            self.journal.mark(key, last.entry);
        }
        for held in early {
            durable
                .gone
                .insert(held.entry, Gone { batch: number, bytes: held.record.size(), dead: false, removed: false });
            durable.messages -= 1;
            durable.shrink(&mut self.journal.store_bytes, held.record.size());
            self.journal.write_of(key, Write::Acknowledge { entry: held.entry });
        }
        for held in spent {
            let text =
                format!("delivered {} times, and every time its session ended or nobody answered", held.attempts);
            self.kill(slot, held, text);
        }
        for (held, nack) in refusals {
            self.refuse_delivery(now, slot, held, nack);
        }
        for (entry, id, bytes) in page.damaged.into_iter().filter(|(entry, ..)| *entry < cut) {
            self.lose_damaged(slot, entry, id, bytes);
        }
        self.end_early(slot);
        self.refill(slot);
        self.offer(now, slot);
    }

    /// Tells one whose bytes on disk have changed, and has it deleted: only when that is written it is gone, so that it is
    /// found again by whoever looks before. What is done with already, or whole in memory, is not lost by it.
    fn lose_damaged(&mut self, slot: Slot, entry: EntryNumber, id: u64, bytes: u64) {
        let batch = self.journal.next_number();
        let Some(durable) = self.subscriptions[slot as usize].durable.as_deref_mut() else { return };
        durable.loaded = durable.loaded.max(entry);
        if durable.gone.contains_key(&entry) || durable.is_delivered(entry) {
            return;
        }
        durable.messages = durable.messages.saturating_sub(1);
        durable.shrink(&mut self.journal.store_bytes, bytes.min(durable.bytes));
        durable.undone.remove(&entry);
        durable.gone.insert(entry, Gone { batch, bytes, dead: false, removed: false });
        self.journal.write_of(durable.key, Write::Acknowledge { entry });
        self.tell_gap(slot, id, GapReason::Damaged);
        let text = format!("durable message {id} cannot be read any more and is lost: its bytes on disk have changed");
        self.log_store(tracing::Level::ERROR, text);
    }

    /// Puts it among those of its session that have something to deliver, if it has.
    pub(super) fn offer(&mut self, now: Now, slot: Slot) {
        let subscription = &mut self.subscriptions[slot as usize];
        let key = subscription.session;
        let Some(session) = self.sessions.get_mut(&key) else { return };
        let deliverable = subscription.is_deliverable(now.mono, session.halted, self.limits.in_flight);
        if deliverable && !subscription.listed {
            subscription.listed = true;
            session.ready.push_back(slot);
            self.wake(key);
        }
    }

    /// Looks at a durable subscription again at this time, if not earlier.
    pub(super) fn set_alarm(&mut self, slot: Slot, at: Duration) {
        let Some(durable) = self.subscriptions[slot as usize].durable.as_deref_mut() else { return };
        if let Some(known) = durable.alarm {
            if known <= at {
                return;
            }
            self.alarms.remove(&(known, slot));
        }
        durable.alarm = Some(at);
        self.alarms.insert((at, slot));
    }
}
