//! When a batch goes to the store, and what stands in it.

use std::time::Duration;

use super::work::may_come_again;
use super::{Journal, State, UNAVAILABLE_TIME};
use crate::core::index::Slot;
use crate::core::session::SessionKey;
use crate::core::storage::{Batch, Committed, DeadBounds, StorageError, Write};
use crate::core::{Core, Now};

/// Acknowledgements, for which nobody waits, wait for others so long, or until they are so many: a commit costs a sync,
/// whatever is in it, and what is wanted of the store waits for it. A crash meanwhile delivers again, and says so.
const LAZY_TIME: Duration = Duration::from_millis(10);
const LAZY_WRITES: usize = 512;

impl Journal {
    fn has_work(&self) -> bool {
        !self.next.writes.is_empty() || self.next.is_urgent()
    }

    /// Whether there is something that is to be written now.
    fn is_due(&mut self, now: Duration) -> bool {
        if self.next.is_urgent() || self.next.writes.len() >= LAZY_WRITES {
            return true;
        }
        if self.next.writes.is_empty() {
            return false;
        }
        now >= *self.next.lazy_since.get_or_insert(now) + LAZY_TIME
    }

    /// When something is to be written that can wait, or it is looked whether the disk takes again what it did not.
    pub(in crate::core) fn deadline(&self) -> Option<Duration> {
        if self.open.is_some() {
            return None;
        }
        let lazy = self.next.lazy_since.filter(|_| !self.next.writes.is_empty()).map(|since| since + LAZY_TIME);
        match &self.state {
            State::Well => lazy,
            State::Tight(at, _) => Some(lazy.map_or(*at, |lazy| lazy.min(*at))),
            State::Unavailable(at, _) => Some(*at),
            State::Failed(_) => None,
        }
    }
}

/// Whether anything still waits for the disk; a stop waits for it.
pub(crate) fn is_committing(journal: &Journal) -> bool {
    journal.open.is_some() || journal.has_work() && matches!(journal.state, State::Well | State::Tight(..))
}

impl Core {
    /// Whether a session waits for an answer that the disk has to give first.
    pub(in crate::core) fn waits_for_disk(&self, key: SessionKey) -> bool {
        let mut works = self.journal.open.iter().chain([&self.journal.next]);
        works.any(|work| {
            let opens = |slot: &Slot| {
                let durable = self.subscriptions.get(*slot as usize).and_then(|found| found.durable.as_deref());
                durable.is_some_and(|durable| durable.opening.is_some_and(|(session, _)| session == key))
            };
            let mut told = work.pending.iter().flat_map(|pending| &pending.tell);
            told.any(|confirm| confirm.session == key)
                || work.verbs.iter().any(|wait| wait.session == key)
                || work.opening.iter().any(opens)
        })
    }

    /// What could wait is written now: a stop does not wait for it.
    pub(crate) const fn hurry(&mut self) {
        self.journal.next.urgent |= !self.journal.next.writes.is_empty();
    }

    /// The next batch for the store, if there is one and the store has none.
    pub(crate) fn take_batch(&mut self, now: Now) -> Option<Batch> {
        let journal = &mut self.journal;
        // A batch with nothing in it asks whether all is well again.
        let is_due = journal.is_due(now.mono);
        let wanted = match &journal.state {
            State::Well => is_due,
            State::Tight(at, _) => *at <= now.mono || is_due,
            State::Unavailable(at, _) => *at <= now.mono,
            State::Failed(_) => false,
        };
        if !wanted || journal.open.is_some() {
            return None;
        }
        let mut work = std::mem::take(&mut journal.next);
        let mut writes = std::mem::take(&mut work.writes);
        writes.extend(journal.repeats.take_dirty().into_iter().map(Write::Publisher));
        writes.extend(work.marks.iter().map(|(durable, entry)| Write::Delivered { durable: *durable, entry: *entry }));
        if work.deaths {
            let limits = &self.limits;
            writes.push(Write::TrimDead {
                all: DeadBounds { messages: limits.dead_letters, bytes: limits.dead_bytes },
                of_owner: DeadBounds { messages: limits.dead_letters_per_owner, bytes: limits.dead_bytes_per_owner },
            });
        }
        journal.number += 1;
        journal.exists = true;
        let batch = Batch { number: journal.number, time_ms: journal.time(now.mono), wall: now.wall, writes };
        // What may be written again if this comes to nothing; the messages themselves are not: they are refused.
        work.writes = batch.writes.iter().filter(|write| may_come_again(write)).cloned().collect();
        journal.open = Some(work);
        Some(batch)
    }

    /// What the store says of the batch that it had.
    pub(in crate::core) fn batch_done(&mut self, now: Now, outcome: Result<Committed, StorageError>) {
        let Some(work) = self.journal.open.take() else { return };
        match outcome {
            Ok(committed) => {
                self.set_state(match &committed.tight {
                    None => State::Well,
                    Some(why) => State::Tight(now.mono + UNAVAILABLE_TIME, why.clone()),
                });
                self.journal.committed.set(self.journal.number);
                self.batch_committed(now, work, committed);
            }
            Err(error) => self.batch_refused(now, work, error),
        }
    }

    /// One line a change: while the disk is full, it is told once.
    pub(super) fn set_state(&mut self, state: State) {
        let was_well = self.journal.state == State::Well;
        match &state {
            State::Well if !was_well => {
                self.log_store(tracing::Level::INFO, "the disk takes durable messages again".into());
            }
            State::Tight(_, why) | State::Unavailable(_, why) | State::Failed(why) if was_well => {
                let text = format!("durable messages are refused, live ones go on: {why}");
                self.log_store(tracing::Level::ERROR, text);
            }
            _ => {}
        }
        self.journal.state = state;
    }
}
