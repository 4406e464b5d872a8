//! What follows when nothing of a batch came to the disk.

use hashbrown::HashSet;
use libeevee::GapReason;
use libeevee::wire::Code;

use super::work::{Pending, Work, is_kept};
use super::{State, UNAVAILABLE_TIME};
use crate::core::durable::Durable;
use crate::core::index::Slot;
use crate::core::session::refusal;
use crate::core::storage::{EntryNumber, StorageError, SubscriptionRow, Write};
use crate::core::{Action, Core, Now};

impl Core {
    /// Nothing of a batch is on disk. What it brought is refused; if that was all that stood in the way, the rest is written
    /// at once, and else later, as far as nobody waits for it.
    pub(super) fn batch_refused(&mut self, now: Now, mut work: Work, error: StorageError) {
        let brought = self.brings(&work);
        let at = now.mono + UNAVAILABLE_TIME;
        let (state, why) = match error {
            StorageError::Unavailable(why) if brought => (State::Tight(at, why.clone()), why),
            StorageError::Unavailable(why) => (State::Unavailable(at, why.clone()), why),
            StorageError::Failed(why) => {
                self.actions.push(Action::StoreFailed(why.clone()));
                (State::Failed(why.clone()), why)
            }
        };
        self.set_state(state);
        let again = matches!(self.journal.state, State::Tight(..));
        // What waits behind it fares no better: nobody shall wait for a disk that may be full for days, nor for an answer
        // that is lost when the bus is restarted meanwhile.
        work.absorb(std::mem::take(&mut self.journal.next));
        self.settle_dying(&work);
        let refused: HashSet<EntryNumber> =
            work.pending.iter().flat_map(|pending| pending.entries.iter().map(|(_, entry, _)| *entry)).collect();
        for pending in work.pending {
            self.pending_refused(now, pending, &why);
        }
        for slot in work.opening {
            if again && self.is_stored(slot) {
                self.journal.await_opening(slot);
            } else {
                self.not_opened(slot, &why);
            }
        }
        for slot in work.forgets {
            // (One that was new in the same batch is none any more.)
            if again && self.is_stored(slot) {
                self.journal.await_forget(slot);
            } else {
                self.forgotten(slot, false);
            }
        }
        for wait in work.verbs {
            if again {
                self.journal.await_verb(wait);
                continue;
            }
            let text = format!("the disk did not take it: {why}");
            self.answer(wait.session, wait.number, Err(refusal(Code::Storage, text)));
        }
        let journal = &mut self.journal;
        for (key, mark) in work.marks {
            // What this batch brought is not there; what was loaded before still wants its mark.
            let slot = journal.by_key.get(&key).copied();
            let subscription = slot.and_then(|slot| self.subscriptions.get(slot as usize));
            let durable = subscription.and_then(|subscription| subscription.durable.as_deref());
            let loaded = durable.map_or(0, |durable| durable.loaded.min(mark));
            if durable.is_some_and(|durable| durable.marked < loaded) {
                journal.mark(key, loaded);
            }
        }
        // The number is used up by nothing: the next batch has it, and all that was to be in this one or the next.
        journal.number -= 1;
        let next = journal.next_number();
        for slot in work.concerned.iter().filter_map(|key| journal.by_key.get(key)) {
            let durable = self.subscriptions[*slot as usize].durable.as_deref_mut();
            durable.into_iter().for_each(|durable| durable.expect_by(next));
        }
        journal.next.concerned.append(&mut work.concerned);
        let mut kept = Vec::with_capacity(work.writes.len());
        for write in work.writes {
            match write {
                Write::Publisher(row) => journal.repeats.mark_dirty(&row.source, row.epoch),
                // What is in force is to be on disk; but one that never came there is none.
                Write::Subscription(SubscriptionRow { durable, .. }) | Write::Forget { durable }
                    if !journal.by_key.contains_key(&durable) => {}
                // A message that was evicted as soon as it came is not there to be evicted.
                Write::Die { entry, .. } if refused.contains(&entry) => {}
                write if again || is_kept(&write) => kept.push(write),
                _ => {}
            }
        }
        kept.into_iter().for_each(|write| journal.write(write));
    }

    /// Whether there is something in it that was not on disk before.
    fn brings(&self, work: &Work) -> bool {
        !work.pending.is_empty() || work.opening.iter().any(|slot| !self.is_stored(*slot))
    }

    fn is_stored(&self, slot: Slot) -> bool {
        let subscription = self.subscriptions.get(slot as usize);
        subscription.and_then(|found| found.durable.as_deref()).is_some_and(Durable::is_stored)
    }

    fn pending_refused(&mut self, now: Now, pending: Pending, why: &str) {
        if pending.epoch != 0 {
            self.journal.repeats.end(&pending.source, pending.epoch, pending.sequence, false);
        }
        pending.release(&mut self.memory);
        for (key, entry, _) in &pending.entries {
            let size = pending.record.size();
            let Some(slot) = self.journal.by_key.get(key).copied() else { continue };
            let Some(durable) = self.subscriptions[slot as usize].durable.as_deref_mut() else { continue };
            if durable.gone.remove(entry).is_some() {
                durable.dead = durable.dead.saturating_sub(1);
            } else {
                durable.messages -= 1;
                durable.shrink(&mut self.journal.store_bytes, size);
            }
        }
        let reached = match pending.live {
            0 => "nobody has it".to_owned(),
            live => format!("{live} live subscriptions have it already"),
        };
        let text = format!("message {} is not stored, {reached}: {why}", pending.record.id);
        for confirm in &pending.tell {
            self.refuse(confirm.session, confirm.number, refusal(Code::Storage, text.clone()));
        }
        if pending.tell.is_empty() {
            // The bus's own announcements have no publisher to refuse them to.
            for (key, _, _) in &pending.entries {
                let slot = self.journal.by_key.get(key).copied();
                slot.into_iter().for_each(|slot| self.tell_gap(slot, pending.record.id, GapReason::Memory));
            }
        }
        self.give_back(now, pending.credit);
    }
}
