//! What waits for the disk: writes collect in one batch while the batch before it is being committed, so that one sync serves
//! all who wait; and what follows when a batch was committed, or was not.

mod batch;
mod committed;
mod enqueue;
mod refused;
mod work;

use std::cell::Cell;
use std::collections::BTreeMap;
use std::rc::Rc;
use std::time::Duration;

use hashbrown::HashMap;
use libeevee::GapReason;
use libeevee::wire::{Code, Refusal};

use self::work::Work;
use super::Durable;
use super::handover::HandedOver;
use super::owner::OnDisk;
use super::repeat::Repeats;
use crate::core::index::Slot;
use crate::core::session::refusal;
#[cfg(test)]
use crate::core::share::Account;
use crate::core::storage::{Death, DurableKey, EntryNumber, Recovered, Write};
use crate::core::{Action, Core, Now};

pub(in crate::core) use self::batch::is_committing;
pub(in crate::core) use self::enqueue::Enqueue;
pub(in crate::core) use self::work::Confirm;
pub(super) use self::work::VerbWait;

/// How long a disk that is full or read-only is left alone.
pub(super) const UNAVAILABLE_TIME: Duration = Duration::from_secs(1);

/// Beyond so many writes that the disk did not take, nothing more is delivered that would have to be acknowledged.
const WRITES_KEPT_MAX: usize = 10_000;

/// What the store is doing, as far as the bus knows.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(super) enum State {
    #[default]
    Well,
    /// It has room only for what deletes and replaces; whether it has more, is looked at this time.
    Tight(Duration, String),
    /// It does not take anything; it is tried again at this time.
    Unavailable(Duration, String),
    /// It must not be trusted before a new start.
    Failed(String),
}

#[derive(Debug, Default)]
pub(crate) struct Journal {
    next: Work,
    /// The batch that the store has.
    open: Option<Work>,
    /// The number of the last batch that was given out.
    number: u64,
    pub(super) committed: Rc<Cell<u64>>,
    next_entry: EntryNumber,
    next_durable: DurableKey,
    /// The store's own clock when the monotonic one was at zero; the latter may have run for long before there was a store.
    pub(super) time_base: i64,
    pub(super) state: State,
    /// Sorted, so that one run is as the other.
    pub(super) by_key: BTreeMap<DurableKey, Slot>,
    /// By owner and name.
    pub(super) by_name: BTreeMap<(Rc<str>, String), Slot>,
    pub(in crate::core) repeats: Repeats,
    /// The bytes of all messages that wait in durable subscriptions.
    pub(super) store_bytes: u64,
    /// The same of each owner.
    pub(super) owners: HashMap<Rc<str>, Rc<OnDisk>>,
    /// After a clean restart: the number of the last batch.
    pub(in crate::core) trusted: Option<u64>,
    /// What sessions had of durable subscriptions, until the store says that these are there.
    pub(in crate::core) handed_over: Vec<HandedOver>,
    /// Publishers that its disk was to forget: (source, epoch).
    pub(in crate::core) handed_over_forgotten: Vec<(String, u64)>,
    /// Whether there is anything on disk: before it, nothing is written that is not durable itself.
    pub(super) exists: bool,
    /// When messages that wait for nobody are next looked through for old ones.
    pub(super) sweep_at: Duration,
    /// How many subscriptions were looked at because a batch was committed.
    #[cfg(test)]
    pub(in crate::core) looked: u64,
}

impl Journal {
    /// One of a bus without anything durable. Entries and subscriptions are numbered from 1: what is above 0 is everything.
    pub(in crate::core) fn new() -> Self {
        Self { next_entry: 1, next_durable: 1, ..Self::default() }
    }

    /// The store's own clock, in milliseconds: it rises with the monotonic one, and over restarts by what the wall clock
    /// says; a clock that is set meanwhile ages nothing.
    pub(super) fn time(&self, now: Duration) -> u64 {
        millis(now).saturating_add_signed(self.time_base)
    }

    pub(in crate::core) fn write(&mut self, write: Write) {
        self.next.urgent |= !matches!(write, Write::Acknowledge { .. });
        self.next.deaths |= matches!(write, Write::Die { .. } | Write::DieOldest { .. } | Write::Expire { .. });
        self.next.writes.push(write);
    }

    /// A write that says something of this subscription.
    pub(super) fn write_of(&mut self, durable: DurableKey, write: Write) {
        self.next.concerned.insert(durable);
        self.write(write);
    }

    /// The durable subscriptions of an owner.
    pub(in crate::core) fn slots_of(&self, owner: &Rc<str>) -> Vec<Slot> {
        let first = (owner.clone(), String::new());
        self.by_name.range(first..).take_while(|((known, _), _)| known == owner).map(|(_, slot)| *slot).collect()
    }

    /// The disk is to know that an entry was delivered so often, before it is: a crash must not make the count too low.
    /// The number of the batch that says so.
    pub(super) fn announce(&mut self, durable: DurableKey, entry: EntryNumber, attempts: u32) -> u64 {
        self.write_of(durable, Write::Attempts { entry, attempts });
        self.next_number()
    }

    /// The number that the next batch will have.
    pub(super) const fn next_number(&self) -> u64 {
        self.number + 1
    }

    pub(super) const fn take_entry(&mut self) -> EntryNumber {
        let entry = self.next_entry;
        self.next_entry += 1;
        entry
    }

    pub(super) const fn take_key(&mut self) -> DurableKey {
        let key = self.next_durable;
        self.next_durable += 1;
        key
    }

    pub(super) fn mark(&mut self, durable: DurableKey, entry: EntryNumber) {
        let mark = self.next.marks.entry(durable).or_default();
        *mark = (*mark).max(entry);
    }

    /// Nothing of it will be delivered any more; a mark behind its end would be one of nothing.
    pub(super) fn unmark(&mut self, durable: DurableKey) {
        self.next.marks.remove(&durable);
    }

    pub(super) fn await_opening(&mut self, slot: Slot) {
        self.next.opening.push(slot);
    }

    pub(super) fn await_verb(&mut self, wait: VerbWait) {
        self.next.verbs.push(wait);
    }

    /// Whether there is anything on disk, or about to be.
    pub(in crate::core) const fn exists(&self) -> bool {
        self.exists
    }

    pub(super) fn await_forget(&mut self, slot: Slot) {
        self.next.forgets.push(slot);
    }

    /// How much more waits on disk than may, without what is about to go.
    pub(super) fn store_beyond(&self, max: u64) -> u64 {
        match self.store_bytes.saturating_sub(max) {
            0 => 0,
            over => over.saturating_sub(self.owners.values().map(|owner| owner.dying()).sum()),
        }
    }

    pub(super) fn die_oldest(&mut self, durable: &mut Durable, messages: u64, bytes: u64) {
        let freed = self.next.dying.entry(durable.key).or_default();
        freed.0 += messages;
        freed.1 += bytes;
        durable.ask_to_die(messages, bytes);
        let death = Death { reason: GapReason::QueueFull, text: "the subscription was full".into(), attempts: 0 };
        self.write_of(
            durable.key,
            Write::DieOldest { durable: durable.key, after: durable.loaded, messages, bytes, death },
        );
    }

    /// Whether deliveries may be made that will have to be acknowledged.
    pub(in crate::core) const fn takes_acknowledgements(&self) -> bool {
        self.next.writes.len() < WRITES_KEPT_MAX && !matches!(self.state, State::Failed(_))
    }

    /// Why nothing new can be taken now.
    pub(super) fn refusal(&self) -> Option<Refusal> {
        let why = match &self.state {
            State::Well => return None,
            State::Tight(_, why) | State::Unavailable(_, why) | State::Failed(why) => why,
        };
        Some(refusal(Code::Storage, format!("a durable subscription wants it, and the disk does not take it: {why}")))
    }

    /// Why not even what replaces or deletes can be written now.
    pub(super) fn blocked(&self) -> Option<Refusal> {
        if matches!(self.state, State::Tight(..)) { None } else { self.refusal() }
    }

    /// The writes that wait for the next batch.
    pub(super) fn waiting(&self) -> &[Write] {
        &self.next.writes
    }
}

fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

impl Core {
    /// Takes the place of the store's content at a start. Before it, nothing may be published.
    pub(crate) fn recover(&mut self, now: Now, recovered: Recovered, actions: &mut Vec<Action>) {
        let journal = &mut self.journal;
        let trusted = journal.trusted == Some(recovered.batch);
        journal.number = recovered.batch;
        journal.committed.set(recovered.batch);
        // A mark may stand above all entries that came to the disk.
        let marks = recovered.subscriptions.iter().map(|found| found.delivered.saturating_add(1));
        journal.next_entry = marks.fold(recovered.next_entry.max(1), EntryNumber::max);
        journal.next_durable = recovered.next_durable.max(1);
        if !trusted {
            journal.time_base = recovered.time_ms.cast_signed().saturating_sub(millis(now.mono).cast_signed());
            journal.repeats = Repeats::recover(&recovered.publishers);
        }
        journal.exists = recovered.batch > 0;
        for problem in recovered.problems {
            self.actions.push(Action::Log {
                level: tracing::Level::ERROR,
                source: Box::default(),
                operator: None,
                message: None,
                text: problem,
                unpublished: false,
            });
        }
        for subscription in recovered.subscriptions {
            self.recover_subscription(now, subscription);
        }
        self.reattach(now, trusted);
        actions.append(&mut self.actions);
    }

    /// The batch that the last run committed last, where it handed over to this one: nobody wrote since.
    pub(crate) const fn trusted_batch(&self) -> Option<u64> {
        self.journal.trusted
    }

    pub(super) fn log_store(&mut self, level: tracing::Level, text: String) {
        let (source, unpublished) = (Box::default(), self.in_record);
        self.actions.push(Action::Log { level, source, operator: None, message: None, text, unpublished });
    }

    pub(super) fn durable_by_key(&mut self, key: DurableKey) -> Option<&mut Durable> {
        let slot = *self.journal.by_key.get(&key)?;
        self.subscriptions.get_mut(slot as usize)?.durable.as_deref_mut()
    }
}

#[cfg(test)]
impl Journal {
    /// What waits for the disk in memory, and to whom it is counted.
    pub(in crate::core) fn naive_pending(&self) -> Vec<(Option<Rc<Account>>, usize)> {
        let works = self.open.iter().chain([&self.next]);
        let all = works.flat_map(|work| &work.pending);
        all.flat_map(|pending| {
            let entries = pending.entries.iter().map(|(_, _, account)| (Some(account.clone()), work::ENTRY_BYTES));
            entries.chain([(pending.payer.clone(), pending.record.size() as usize)])
        })
        .collect()
    }
}
