//! Durable subscriptions: they collect while nobody is attached, and what is delivered stays until it is acknowledged.
//!
//! The store has everything; here is only what is about to be delivered or waits for its acknowledgement. A message's way:
//! `publish` puts it into the journal ([`journal`]), the shell carries the batch to the store, and once it is committed it
//! is confirmed to its publisher and comes into the `head` of its queue, if there is room; else it is loaded from the store
//! when its turn comes. `deliver` moves it into `in_flight`; an acknowledgement deletes it.

mod acknowledge;
mod attach;
mod begin;
mod deliver;
mod handover;
mod journal;
mod load;
mod owner;
pub(super) mod repeat;
mod rest;
mod room;
mod spec;
mod verbs;

use std::cell::Cell;
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use libeevee::wire::{Nack, Overflow};

use super::permit::Permit;
use super::session::SessionKey;
use super::share::Account;
use super::storage::{Death, DurableKey, EntryNumber, Record};

pub(super) use self::deliver::Step;
pub(super) use self::handover::SavedDurables;
pub(crate) use self::journal::Journal;
pub(super) use self::journal::{Confirm, Enqueue, is_committing};
pub(super) use self::load::PAGE_BYTES;
pub(super) use self::spec::Spec;
pub(crate) use self::verbs::Scope;

/// Nobody: the session of a durable subscription that none is attached to.
pub(super) const NOBODY: SessionKey = 0;

/// How much of a queue is held in memory, ready for delivery. At least one message, however large.
const HEAD_MESSAGES: usize = 1024;
const HEAD_BYTES: u64 = 1 << 20;

/// A message that is in memory.
#[derive(Debug, Clone)]
pub(super) struct Held {
    pub(super) entry: EntryNumber,
    pub(super) since_ms: u64,
    pub(super) expires_ms: u64,
    /// How often it was delivered.
    pub(super) attempts: u32,
    /// The number of the batch by which the disk knows how often it will have been delivered; 0 where that is known.
    pub(super) ready: u64,
    /// Why its last delivery was refused, in the words of whoever did.
    pub(super) refused: String,
    pub(super) record: Arc<Record>,
}

/// A message that was delivered.
#[derive(Debug)]
pub(super) struct Flight {
    pub(super) held: Held,
    pub(super) deadline: Duration,
}

/// A message that was delivered, and that is not in memory since its session ended.
#[derive(Debug, Clone, Copy)]
pub(super) struct Undone {
    pub(super) id: u64,
    pub(super) attempts: u32,
    pub(super) bytes: u64,
}

/// An entry that is done with.
#[derive(Debug, Clone, Copy)]
struct Gone {
    /// The number of the batch that says so.
    batch: u64,
    bytes: u64,
    /// As a dead letter.
    dead: bool,
    /// The store has removed it by itself before it could be told.
    removed: bool,
}

/// What a durable subscription may hold on disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct DurableBounds {
    pub(super) messages: u64,
    pub(super) bytes: u64,
    pub(super) overflow: Overflow,
    /// The longest that anything waits.
    pub(super) age_ms: u64,
}

#[derive(Debug)]
pub(super) struct Durable {
    pub(super) key: DurableKey,
    pub(super) owner: Rc<str>,
    pub(super) name: String,
    pub(super) spec: Spec,
    pub(super) may_receive: Permit,
    pub(super) bounds: DurableBounds,
    /// To whom its memory is counted: the same as of its subscription.
    account: Rc<Account>,
    /// What its owner has on disk.
    on_disk: Rc<owner::OnDisk>,
    /// Who waits until it is on disk.
    opening: Option<(SessionKey, u32)>,
    /// Whether it is on disk.
    stored: bool,
    /// How many batches are under way that say what it is.
    writing: u32,
    /// Whether a change of it did not come to the disk.
    unwritten: bool,
    /// Whether it is to be forgotten.
    forgetting: bool,
    /// All that is there or on its way to the disk, and not acknowledged.
    pub(super) messages: u64,
    pub(super) bytes: u64,
    pub(super) dead: u64,
    /// What DieOldest was asked to free in batches that are not committed.
    dying: (u64, u64),

    /// Ready for delivery, in order.
    head: VecDeque<Held>,
    head_bytes: u64,
    /// Delivered and to be delivered again, from this time on.
    returned: BTreeMap<EntryNumber, (Held, Duration)>,
    /// Delivered and not acknowledged, by message id.
    in_flight: BTreeMap<u64, Flight>,
    deadlines: BTreeSet<(Duration, u64)>,
    /// Entries up to this one are in memory, or done with.
    loaded: EntryNumber,
    /// Whether entries above `loaded` wait on disk.
    more: bool,
    loading: bool,
    /// Pages that were asked for before the last attach or detach are not for us.
    generation: u64,
    /// Entries up to this one may be delivered: the disk knows that they may have been.
    marked: EntryNumber,
    /// At the last start of the bus, entries up to this one may have been delivered.
    recovered_mark: EntryNumber,
    /// Delivered in an earlier session, and not loaded again.
    undone: BTreeMap<EntryNumber, Undone>,
    /// Ids that were acknowledged before the bus had them in memory again.
    early: BTreeSet<u64>,
    /// Those that were refused so.
    early_refusals: BTreeMap<u64, Nack>,
    /// The number of the last batch that is on disk, of the journal.
    committed: Rc<Cell<u64>>,
    /// Entries that are done with, as the batch that says so is not committed: the store may still load them. It is tidied
    /// up when something of the subscription is committed.
    gone: BTreeMap<EntryNumber, Gone>,
    /// Since when deliveries can be made, in the store's time: what is older waited because of that.
    open_since_ms: u64,
    /// When the core looks at it again, as it stands among the core's alarms.
    alarm: Option<Duration>,
}

impl Durable {
    /// Whether something could be delivered now, if there is a window for it.
    pub(super) fn has_next(&self, now: Duration, in_flight_max: usize) -> bool {
        self.returned.values().any(|(held, from)| *from <= now && self.is_known(held))
            || self.has_place(in_flight_max) && self.head.front().is_some_and(|held| self.is_known(held))
    }

    /// Whether the disk knows that it may have been delivered once more than it was: only then it may be.
    fn is_known(&self, held: &Held) -> bool {
        held.entry <= self.marked && held.ready <= self.committed.get()
    }

    /// Whether its session waits to be told that it is on disk.
    pub(in crate::core) const fn is_opening(&self) -> bool {
        self.opening.is_some()
    }

    /// Whether it is on disk.
    const fn is_stored(&self) -> bool {
        self.stored
    }

    fn has_place(&self, in_flight_max: usize) -> bool {
        self.in_flight.len() + self.returned.len() < in_flight_max
    }

    /// Whether all that waits is in memory, and there is room for more.
    pub(super) fn is_caught_up(&self) -> bool {
        let has_room = self.head.is_empty() || self.head.len() < HEAD_MESSAGES && self.head_bytes < HEAD_BYTES;
        !self.more && !self.loading && has_room
    }

    fn push_head(&mut self, held: Held) {
        self.loaded = self.loaded.max(held.entry);
        self.head_bytes += held.record.size();
        self.head.push_back(held);
    }

    fn pop_head(&mut self) -> Option<Held> {
        let held = self.head.pop_front()?;
        self.head_bytes -= held.record.size();
        Some(held)
    }

    /// Whether there may be entries on disk that were delivered before the bus was started, and are not loaded yet.
    fn may_be_loaded(&self) -> bool {
        self.more && self.loaded < self.recovered_mark
    }

    /// The batches after this one bring what was to be in them: one came to nothing.
    fn expect_by(&mut self, next: u64) {
        self.gone.values_mut().for_each(|gone| gone.batch = gone.batch.min(next));
        let returned = self.returned.values_mut().map(|(held, _)| held);
        self.head.iter_mut().chain(returned).for_each(|held| held.ready = held.ready.min(next));
    }

    /// Takes a delivered message out, wherever it is in memory.
    fn take_delivered(&mut self, id: u64) -> Option<Held> {
        if let Some(flight) = self.in_flight.remove(&id) {
            self.deadlines.remove(&(flight.deadline, id));
            return Some(flight.held);
        }
        let entry = *self.returned.iter().find(|(_, (held, _))| held.record.id == id)?.0;
        self.returned.remove(&entry).map(|(held, _)| held)
    }

    /// The same for one that was delivered in an earlier session, and was loaded again already.
    fn take_loaded_again(&mut self, id: u64) -> Option<Held> {
        let at = self.head.iter().position(|held| held.record.id == id && held.attempts > 0)?;
        let held = self.head.remove(at)?;
        self.head_bytes -= held.record.size();
        Some(held)
    }

    /// Whether it is in memory as one that was delivered: after a hand-over, what stands before it is loaded again.
    fn is_delivered(&self, entry: EntryNumber) -> bool {
        self.returned.contains_key(&entry) || self.in_flight.values().any(|flight| flight.held.entry == entry)
    }

    /// Takes out what is in memory of an entry that the store has removed.
    fn take_entry(&mut self, entry: EntryNumber) -> Option<Held> {
        if entry > self.loaded {
            return None;
        }
        if let Some((held, _)) = self.returned.remove(&entry) {
            return Some(held);
        }
        if let Some(at) = self.head.iter().position(|held| held.entry == entry) {
            let held = self.head.remove(at)?;
            self.head_bytes -= held.record.size();
            return Some(held);
        }
        let id = *self.in_flight.iter().find(|(_, flight)| flight.held.entry == entry)?.0;
        self.take_delivered(id)
    }

    /// Whether it has waited too long at this time of the store's clock.
    fn has_expired(&self, held: &Held, now_ms: u64) -> bool {
        let age_max = match self.spec.max_age_ms {
            0 => self.bounds.age_ms,
            age => age.min(self.bounds.age_ms),
        };
        now_ms.saturating_sub(held.since_ms) > age_max || held.expires_ms != 0 && now_ms > held.expires_ms
    }

    /// When the oldest that waits came; none when nothing is in memory to tell.
    pub(super) fn oldest_in_memory(&self) -> Option<u64> {
        let flying = self.in_flight.values().map(|flight| flight.held.since_ms);
        let returned = self.returned.values().map(|(held, _)| held.since_ms);
        flying.chain(returned).chain(self.head.front().map(|held| held.since_ms)).min()
    }

    pub(super) fn in_flight_count(&self) -> usize {
        self.in_flight.len()
    }

    pub(super) fn returned_count(&self) -> usize {
        self.returned.len()
    }

    /// What is held in memory, in bytes.
    pub(super) fn held_bytes(&self) -> u64 {
        let flying = self.in_flight.values().map(|flight| flight.held.record.size());
        let returned = self.returned.values().map(|(held, _)| held.record.size());
        flying.chain(returned).sum::<u64>() + self.head_bytes
    }
}

/// How long a message that was refused waits until it is delivered again, unless the subscriber says so itself.
fn back_off(attempts: u32) -> Duration {
    Duration::from_secs(1 << attempts.saturating_sub(1).min(5)).min(Duration::from_secs(30))
}

/// A death without words of the subscriber.
fn death(reason: libeevee::GapReason, text: impl Into<String>, attempts: u32) -> Death {
    Death { reason, text: text.into(), attempts }
}
