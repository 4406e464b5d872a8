//! A durable subscription begins, gets a session, loses it, has room or not.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::rc::Rc;
use std::time::Duration;

use libeevee::GapReason;
use libeevee::filter::Filter;
use libeevee::wire::{Code, GapNotice, Overflow, Refusal, Subscribe};
use serde::{Deserialize, Serialize};

use super::{Durable, DurableBounds, Gone, NOBODY, Undone, death};
use crate::core::index::Slot;
use crate::core::permit::{Permit, is_volatile};
use crate::core::queue::one;
use crate::core::session::{SessionKey, beyond, refusal};
use crate::core::share::Account;
use crate::core::storage::{Death, EntryNumber, Record, RecoveredSubscription, SubscriptionRow, Write};
use crate::core::subscribe::{Subscription, parse_filters};
use crate::core::{Action, Core, Now};

/// What a durable subscription is, as its row on disk says.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(in crate::core) struct Spec {
    pub(in crate::core) filters: Vec<String>,
    /// 0 for no limit but that of the bus.
    pub(in crate::core) max_age_ms: u64,
    /// A number of [`Overflow`].
    pub(in crate::core) overflow: u8,
    /// 0 for the default.
    pub(in crate::core) messages: u64,
    pub(in crate::core) bytes: u64,
    /// May-receive of its owner when it was last seen, for what comes while it is away.
    pub(in crate::core) may_receive: MayReceive,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(in crate::core) enum MayReceive {
    /// An administrator: everything.
    All,
    /// No list: everything but `control.*`.
    Usual,
    Filters(Vec<String>),
}

impl MayReceive {
    fn of(permit: &Permit) -> Self {
        match permit {
            Permit::All => Self::All,
            Permit::Usual => Self::Usual,
            Permit::Filters(filters) => Self::Filters(filters.iter().map(ToString::to_string).collect()),
        }
    }

    /// A filter that does not parse admits nothing.
    pub(super) fn permit(&self) -> Permit {
        match self {
            Self::All => Permit::All,
            Self::Usual => Permit::Usual,
            Self::Filters(texts) => {
                let filters: Vec<Filter> = texts.iter().filter_map(|text| text.parse().ok()).collect();
                Permit::from_list(Some(&filters))
            }
        }
    }
}

/// Names of durable subscriptions: as the keys of headers.
const NAME_BYTES_MAX: usize = 64;

/// What a durable subscription costs in memory beside its filters and what it holds.
pub(in crate::core) const DURABLE_BYTES: usize = 2048;

/// How many messages and bytes are loaded at once. Each page needs a sync before it is delivered: the disk has to know that
/// it may be.
const PAGE_MESSAGES: usize = 1024;
pub(in crate::core) const PAGE_BYTES: u64 = 1 << 20;

impl Core {
    /// Attaches a session to its durable subscription of this name, which begins with it if there is none. Ok is told when it
    /// stands on disk.
    pub(in crate::core) fn subscribe_durable(
        &mut self,
        now: Now,
        key: SessionKey,
        number: u32,
        name: &str,
        asked: Subscribe,
    ) -> Result<(), Refusal> {
        check_name(name)?;
        let overflow = match Overflow::from_number(asked.overflow) {
            None | Some(Overflow::DropOldest) => Overflow::DropOldest,
            Some(Overflow::Disconnect) => {
                let text = format!("durable subscription {name}: the policy disconnect is for live ones");
                return Err(refusal(Code::Refused, text));
            }
            Some(other) => other,
        };
        let filters = parse_filters(&asked.filters, self.limits.filter_clauses, self.limits.filter_bytes)?;
        let Some(session) = self.sessions.get(&key) else { return Ok(()) };
        let (owner, may_receive) = (session.source.clone(), session.may_receive.clone());
        let spec = Spec {
            filters: filters.iter().map(ToString::to_string).collect(),
            max_age_ms: asked.max_age_ms,
            overflow: overflow as u8,
            messages: u64::from(asked.queue_messages),
            bytes: asked.queue_bytes,
            may_receive: MayReceive::of(&may_receive),
        };
        let found = self.journal.by_name.get(&(owner.clone(), name.to_owned())).copied();
        let slot = match found {
            Some(slot) => {
                self.check_free(slot, name)?;
                self.check_unindexed(key, &filters, self.subscriptions[slot as usize].unindexed)?;
                self.check_writable(slot, &spec)?;
                slot
            }
            None => {
                self.journal.refusal().map_or(Ok(()), Err)?;
                self.check_count(&owner)?;
                self.check_unindexed(key, &filters, 0)?;
                let bytes = DURABLE_BYTES + 2 * filters.iter().map(Filter::memory_bytes).sum::<usize>();
                self.check_share(key, bytes)?;
                self.check_memory(bytes)?;
                let durable_key = self.journal.take_key();
                self.insert_durable(
                    new_durable(durable_key, owner, name, spec.clone(), may_receive.clone()),
                    Vec::new(),
                )
            }
        };
        self.take_over(now, slot, (key, number), filters, spec, asked);
        Ok(())
    }

    fn check_free(&self, slot: Slot, name: &str) -> Result<(), Refusal> {
        if self.subscriptions[slot as usize].durable.as_deref().is_some_and(|durable| durable.forgetting) {
            return Err(refusal(
                Code::AlreadyConnected,
                format!("durable subscription {name} is being forgotten; try again"),
            ));
        }
        let holder = self.subscriptions[slot as usize].session;
        match self.sessions.get(&holder) {
            Some(holder) => {
                let text = format!(
                    "durable subscription {name} of {} has a session already ({}); one at a time",
                    holder.source, holder.peer.program
                );
                Err(refusal(Code::AlreadyConnected, text))
            }
            None => Ok(()),
        }
    }

    /// Whether the disk can be told what was asked for, if that has to be.
    fn check_writable(&self, slot: Slot, spec: &Spec) -> Result<(), Refusal> {
        let durable = self.subscriptions[slot as usize].durable.as_deref();
        match self.journal.blocked() {
            Some(refusal) if durable.is_none_or(|durable| durable.is_news(spec)) => Err(refusal),
            _ => Ok(()),
        }
    }

    fn check_count(&self, owner: &Rc<str>) -> Result<(), Refusal> {
        let first = (owner.clone(), String::new());
        let own = self.journal.by_name.range(first..).take_while(|((known, _), _)| known == owner);
        let (count, max) = (own.count() as u64, self.limits.subscriptions_per_session as u64);
        if count < max {
            return Ok(());
        }
        let text = format!(
            "{owner} has {count} durable subscriptions, at most {max} are possible; `eeveectl forget` ends one"
        );
        Err(beyond(Code::Quota, text, max, count + 1))
    }

    /// Gives a durable subscription its session, and what that asked for.
    fn take_over(
        &mut self,
        now: Now,
        slot: Slot,
        (key, number): (SessionKey, u32),
        filters: Vec<Filter>,
        spec: Spec,
        asked: Subscribe,
    ) {
        self.unfile(slot);
        let session = self.sessions.get(&key);
        let may_receive = session.map(|session| session.may_receive.clone());
        if let Some(account) = session.map(|session| session.account.clone()) {
            self.set_account(slot, &account);
        }
        let now_ms = self.journal.time(now.mono);
        let bounds = self.durable_bounds(&spec);
        let subscription = &mut self.subscriptions[slot as usize];
        self.memory -= subscription.own_memory;
        subscription.account.sub(subscription.own_memory);
        subscription.own_memory = DURABLE_BYTES + 2 * filters.iter().map(Filter::memory_bytes).sum::<usize>();
        self.memory += subscription.own_memory;
        subscription.account.add(subscription.own_memory);
        subscription.attach(key, number, filters, &asked);
        let Some(durable) = subscription.durable.as_deref_mut() else { return };
        let changed = durable.is_news(&spec);
        durable.writing += u32::from(changed);
        durable.spec = spec;
        durable.bounds = bounds;
        durable.may_receive = may_receive.unwrap_or_else(|| durable.may_receive.clone());
        durable.open_since_ms = now_ms;
        durable.generation += 1;
        durable.set_loading(false);
        durable.loaded = 0;
        durable.more = durable.messages > 0;
        durable.opening = Some((key, number));
        let row = durable.row();
        subscription.volatile = durable.may_receive.is_volatile() || subscription.filters.iter().any(is_volatile);
        self.file(slot);
        if let Some(session) = self.sessions.get_mut(&key) {
            session.subscriptions.push((number, slot));
        }
        if changed {
            self.journal.write(Write::Subscription(row));
            self.journal.await_opening(slot);
        } else {
            self.opened(slot);
        }
        self.refill(slot);
        self.list_deliverable(now, key);
    }

    /// A durable subscription that nobody is attached to.
    fn insert_durable(&mut self, mut durable: Durable, filters: Vec<Filter>) -> Slot {
        self.journal.count_owner(&mut durable);
        durable.committed = self.journal.committed.clone();
        let (key, owner, name) = (durable.key, durable.owner.clone(), durable.name.clone());
        let slot = self.subscriptions.insert(Subscription::detached(durable, filters)) as Slot;
        let subscription = &mut self.subscriptions[slot as usize];
        subscription.own_memory =
            DURABLE_BYTES + 2 * subscription.filters.iter().map(Filter::memory_bytes).sum::<usize>();
        self.memory += subscription.own_memory;
        subscription.account.add(subscription.own_memory);
        self.journal.by_key.insert(key, slot);
        self.journal.by_name.insert((owner, name), slot);
        self.file(slot);
        slot
    }

    pub(super) fn recover_subscription(&mut self, _now: Now, found: RecoveredSubscription) {
        let RecoveredSubscription { row, delivered, messages, bytes, dead, damaged, .. } = found;
        let spec: Spec = match serde_json::from_str(&row.spec) {
            Ok(spec) => spec,
            Err(error) => {
                // What waits in it is kept; it collects again when its owner subscribes again.
                let text = format!("durable subscription {} of {} cannot be read: {error}", row.name, row.owner);
                self.log_store(tracing::Level::ERROR, text);
                let may_receive = MayReceive::Filters(Vec::new());
                Spec { filters: Vec::new(), max_age_ms: 0, overflow: 1, messages: 0, bytes: 0, may_receive }
            }
        };
        let filters: Vec<Filter> = spec.filters.iter().filter_map(|text| text.parse().ok()).collect();
        let bounds = self.durable_bounds(&spec);
        let may_receive = Rc::new(spec.may_receive.permit());
        let mut durable = new_durable(row.durable, row.owner.as_str().into(), &row.name, spec, may_receive);
        durable.bounds = bounds;
        durable.stored = true;
        (durable.messages, durable.bytes, durable.dead) = (messages, bytes, dead);
        durable.more = messages > 0;
        (durable.marked, durable.recovered_mark) = (delivered, delivered);
        let slot = self.insert_durable(durable, filters);
        if damaged {
            let last = self.last_id();
            let gap = GapNotice { first: 1, last, count: None, reason: GapReason::Damaged as u8 };
            self.subscriptions[slot as usize].note_gap(gap);
        }
    }

    /// It stands on disk.
    pub(super) fn opened(&mut self, slot: Slot) {
        let Some(durable) = self.subscriptions.get_mut(slot as usize).and_then(|found| found.durable.as_deref_mut())
        else {
            return;
        };
        durable.stored = true;
        durable.writing = durable.writing.saturating_sub(1);
        if durable.writing > 0 {
            // A later batch has what the present session asked for.
            return;
        }
        durable.unwritten = false;
        if let Some((key, number)) = durable.opening.take() {
            self.ok(key, number);
        }
    }

    /// The disk did not take it: who wanted it is told, and one that was new is none.
    pub(super) fn not_opened(&mut self, slot: Slot, why: &str) {
        let Some(durable) = self.subscriptions.get_mut(slot as usize).and_then(|found| found.durable.as_deref_mut())
        else {
            return;
        };
        let (stored, opening) = (durable.stored, durable.opening.take());
        let text = format!("durable subscription {} cannot be stored: {why}", durable.name);
        durable.unwritten = true;
        durable.writing = durable.writing.saturating_sub(1);
        let session = self.subscriptions[slot as usize].session;
        if let Some((key, number)) = opening {
            self.unlist(key, slot);
            self.refuse(key, number, refusal(Code::Storage, text));
        } else if session != NOBODY {
            self.unlist(session, slot);
        }
        self.detach(slot);
        if !stored {
            self.remove_durable(slot);
        }
    }

    fn unlist(&mut self, key: SessionKey, slot: Slot) {
        if let Some(session) = self.sessions.get_mut(&key) {
            session.subscriptions.retain(|(_, known)| *known != slot);
            session.ready.retain(|ready| *ready != slot);
        }
    }

    /// Its session is gone: what was delivered comes again, and nothing is kept in memory. The session's lists are the
    /// caller's.
    pub(in crate::core) fn detach(&mut self, slot: Slot) {
        let subscription = &mut self.subscriptions[slot as usize];
        subscription.session = NOBODY;
        subscription.listed = false;
        let Some(durable) = subscription.durable.as_deref_mut() else { return };
        durable.release(&mut self.memory, durable.held_bytes());
        durable.opening = None;
        durable.generation += 1;
        durable.set_loading(false);
        durable.loaded = 0;
        durable.more = durable.messages > 0;
        let flights = std::mem::take(&mut durable.in_flight).into_values().map(|flight| flight.held);
        let returned = std::mem::take(&mut durable.returned).into_values().map(|(held, _)| held);
        let head = std::mem::take(&mut durable.head).into_iter();
        durable.head_bytes = 0;
        durable.deadlines.clear();
        durable.early.clear();
        durable.early_refusals.clear();
        for held in flights.chain(returned).chain(head).filter(|held| held.attempts > 0) {
            let undone = Undone { id: held.record.id, attempts: held.attempts, bytes: held.record.size() };
            durable.undone.insert(held.entry, undone);
        }
    }

    /// Forgets a durable subscription here; what is on disk is the caller's.
    pub(super) fn remove_durable(&mut self, slot: Slot) {
        self.unfile(slot);
        let subscription = self.subscriptions.remove(slot as usize);
        self.memory -= subscription.own_memory;
        subscription.account.sub(subscription.own_memory);
        let Some(mut durable) = subscription.durable else { return };
        self.alarms.retain(|(_, known)| *known != slot);
        self.journal.uncount_owner(&mut durable);
        self.journal.by_key.remove(&durable.key);
        self.journal.by_name.remove(&(durable.owner, durable.name));
    }

    /// New permissions for a durable subscription whose session's module file changed.
    pub(in crate::core) fn refile_durable(&mut self, slot: Slot, may_receive: &Rc<Permit>) {
        let Some(durable) = self.subscriptions[slot as usize].durable.as_deref_mut() else { return };
        durable.may_receive = may_receive.clone();
        let told = MayReceive::of(may_receive);
        if durable.spec.may_receive != told {
            durable.spec.may_receive = told;
            let row = durable.row();
            self.journal.write(Write::Subscription(row));
        }
    }

    pub(super) fn durable_bounds(&self, spec: &Spec) -> DurableBounds {
        let limits = &self.limits;
        let within = |asked: u64, max: u64| if asked == 0 { max } else { asked.min(max) };
        DurableBounds {
            messages: within(spec.messages, limits.durable_messages),
            bytes: within(spec.bytes, limits.durable_bytes),
            overflow: Overflow::from_number(spec.overflow).unwrap_or_default(),
            age_ms: u64::try_from(limits.durable_age.as_millis()).unwrap_or(u64::MAX),
        }
    }

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

impl Durable {
    /// What the disk is to know.
    pub(super) fn row(&self) -> SubscriptionRow {
        SubscriptionRow {
            durable: self.key,
            owner: self.owner.to_string(),
            name: self.name.clone(),
            spec: serde_json::to_string(&self.spec).unwrap_or_default(),
        }
    }

    /// Whether this has to be written before it is in force.
    fn is_news(&self, spec: &Spec) -> bool {
        !self.stored || self.unwritten || self.writing > 0 || self.spec != *spec
    }
}

fn new_durable(key: u32, owner: Rc<str>, name: &str, spec: Spec, may_receive: Rc<Permit>) -> Durable {
    Durable {
        key,
        owner,
        name: name.to_owned(),
        spec,
        may_receive,
        bounds: DurableBounds { messages: 0, bytes: 0, overflow: Overflow::DropOldest, age_ms: 0 },
        account: Account::of_nobody(),
        on_disk: Rc::default(),
        opening: None,
        stored: false,
        unwritten: false,
        writing: 0,
        forgetting: false,
        messages: 0,
        bytes: 0,
        dead: 0,
        dying: (0, 0),
        head: VecDeque::new(),
        head_bytes: 0,
        returned: BTreeMap::new(),
        in_flight: BTreeMap::new(),
        deadlines: BTreeSet::new(),
        loaded: 0,
        more: false,
        loading: false,
        generation: 0,
        marked: 0,
        recovered_mark: 0,
        undone: BTreeMap::new(),
        early: BTreeSet::new(),
        early_refusals: BTreeMap::new(),
        committed: Rc::default(),
        gone: BTreeMap::new(),
        open_since_ms: 0,
        alarm: None,
    }
}

fn check_name(name: &str) -> Result<(), Refusal> {
    let fits = name.len() <= NAME_BYTES_MAX
        && name.starts_with(|c: char| c.is_ascii_lowercase() || c.is_ascii_digit())
        && name.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b"._-".contains(&b));
    if fits {
        return Ok(());
    }
    let name = crate::core::session::shortened(name, NAME_BYTES_MAX);
    let text = format!("{name:?} is no name of a durable subscription: [a-z0-9][a-z0-9._-]{{0,63}}");
    Err(refusal(Code::Refused, text))
}
