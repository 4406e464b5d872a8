//! What waits for the disk: writes collect in one batch while the batch before it is being committed, so that one sync serves
//! all who wait; and what follows when a batch was committed, or was not.

use std::cell::Cell;
use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use hashbrown::{HashMap, HashSet};
use libeevee::GapReason;
use libeevee::wire::{Code, Content, Frame, Published, Refusal};

use super::handover::HandedOver;
use super::owner::OnDisk;
use super::repeat::Repeats;
use super::{Durable, Gone, Held};
use crate::core::index::Slot;
use crate::core::session::{SessionKey, refusal};
use crate::core::share::Account;
use crate::core::storage::{
    Batch, Committed, DeadBounds, Death, DurableKey, EntryNumber, Loaded, Page, Record, Recovered, StorageError,
    SubscriptionRow, Write,
};
use crate::core::{Action, Core, Now};

/// How long a disk that is full or read-only is left alone.
const UNAVAILABLE_TIME: Duration = Duration::from_secs(1);

/// Acknowledgements, for which nobody waits, wait for others so long, or until they are so many: a commit costs a sync,
/// whatever is in it, and what is wanted of the store waits for it. A crash meanwhile delivers again, and says so.
const LAZY_TIME: Duration = Duration::from_millis(10);
const LAZY_WRITES: usize = 512;

/// Beyond so many writes that the disk did not take, nothing more is delivered that would have to be acknowledged.
const WRITES_KEPT_MAX: usize = 10_000;

/// A publish that waits for the disk.
#[derive(Debug)]
pub(crate) struct Pending {
    /// To whom it is confirmed or refused; more than one when it was sent again meanwhile.
    tell: Vec<Confirm>,
    source: Rc<str>,
    epoch: u64,
    sequence: u64,
    live: u32,
    /// The credit that it took, to be given back to its session.
    credit: Option<(SessionKey, u64)>,
    /// Who has it in memory as long as it waits for the disk; none for the bus itself.
    payer: Option<Rc<Account>>,
    record: Arc<Record>,
    since_ms: u64,
    expires_ms: u64,
    /// With who has the place of each.
    entries: Vec<(DurableKey, EntryNumber, Rc<Account>)>,
}

/// What it costs, beside the message, to keep one for one durable subscription until it is on disk.
const ENTRY_BYTES: usize = size_of::<Write>() + 64;

impl Pending {
    /// What it takes of the bus's memory.
    fn size(&self) -> usize {
        self.record.size() as usize + self.entries.len() * ENTRY_BYTES
    }

    fn release(&self, memory: &mut usize) {
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
pub(super) struct VerbWait {
    pub(super) session: SessionKey,
    pub(super) number: u32,
    pub(super) answer: String,
}

#[derive(Debug, Default)]
struct Work {
    writes: Vec<Write>,
    pending: Vec<Pending>,
    /// Subscriptions that are new or changed; who waits for them stands with them.
    opening: Vec<Slot>,
    verbs: Vec<VerbWait>,
    forgets: Vec<Slot>,
    /// Entries up to these may be delivered once it is committed.
    marks: BTreeMap<DurableKey, EntryNumber>,
    /// What is to be freed: messages, bytes.
    dying: BTreeMap<DurableKey, (u64, u64)>,
    deaths: bool,
    /// Whether there is more in it than acknowledgements.
    urgent: bool,
    /// Since when the first of these waits.
    lazy_since: Option<Duration>,
    /// Subscriptions of which something changes by it: of what is loaded, delivered and done with.
    concerned: BTreeSet<DurableKey>,
}

impl Work {
    fn is_urgent(&self) -> bool {
        let none = self.marks.is_empty() && self.opening.is_empty() && self.verbs.is_empty() && self.pending.is_empty();
        self.urgent || !none
    }

    /// Takes what would have been the next batch; of its writes, what is to be written later.
    fn absorb(&mut self, next: Self) {
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

    /// The publish that waits for the disk with these numbers.
    fn find_pending(&mut self, source: &str, epoch: u64, sequence: u64) -> Option<&mut Pending> {
        let works = self.open.iter_mut().chain([&mut self.next]);
        works
            .flat_map(|work| &mut work.pending)
            .find(|pending| *pending.source == *source && pending.epoch == epoch && pending.sequence == sequence)
    }

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

fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

/// Whether anything still waits for the disk; a stop waits for it.
pub(crate) fn is_committing(journal: &Journal) -> bool {
    journal.open.is_some() || journal.has_work() && matches!(journal.state, State::Well | State::Tight(..))
}

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
    fn set_state(&mut self, state: State) {
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

    /// Costs what stands in the batch, however many subscriptions there are.
    fn batch_committed(&mut self, now: Now, mut work: Work, committed: Committed) {
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

    /// Nothing of a batch is on disk. What it brought is refused; if that was all that stood in the way, the rest is written
    /// at once, and else later, as far as nobody waits for it.
    fn batch_refused(&mut self, now: Now, mut work: Work, error: StorageError) {
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

    fn settle_dying(&mut self, work: &Work) {
        for (key, (messages, bytes)) in &work.dying {
            if let Some(durable) = self.durable_by_key(*key) {
                durable.has_died(*messages, *bytes);
            }
        }
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

    fn lose_damaged(&mut self, slot: Slot, entry: EntryNumber, id: u64, bytes: u64) {
        let Some(durable) = self.subscriptions[slot as usize].durable.as_deref_mut() else { return };
        durable.messages = durable.messages.saturating_sub(1);
        durable.shrink(&mut self.journal.store_bytes, bytes.min(durable.bytes));
        durable.loaded = durable.loaded.max(entry);
        durable.undone.remove(&entry);
        self.tell_gap(slot, id, GapReason::Damaged);
        let text = format!("durable message {id} cannot be read any more and is lost: its bytes on disk have changed");
        self.log_store(tracing::Level::ERROR, text);
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

/// Whether a write that was not committed is to be written by a later batch, whoever waits for it.
const fn is_kept(write: &Write) -> bool {
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
const fn may_come_again(write: &Write) -> bool {
    is_kept(write) || matches!(write, Write::Forget { .. } | Write::Retry { .. } | Write::DropDead { .. })
}

#[cfg(test)]
impl Journal {
    /// What waits for the disk in memory, and to whom it is counted.
    pub(in crate::core) fn naive_pending(&self) -> Vec<(Option<Rc<Account>>, usize)> {
        let works = self.open.iter().chain([&self.next]);
        let all = works.flat_map(|work| &work.pending);
        all.flat_map(|pending| {
            let entries = pending.entries.iter().map(|(_, _, account)| (Some(account.clone()), ENTRY_BYTES));
            entries.chain([(pending.payer.clone(), pending.record.size() as usize)])
        })
        .collect()
    }
}
