//! A naive store in plain maps, a generator of batches for it, and what a real store has, to compare.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::Arc;

use libeevee::wire::EncodedDocument;
use libeevee::{Document, GapReason};

use super::super::Store;
use crate::core::storage::*;

/// Milliseconds of the store's clock, and nanoseconds of the wall's, between two batches.
const STEP_MS: u64 = 10;

pub(super) fn record(id: u64, bytes: usize) -> Arc<Record> {
    let body: Vec<u8> = (0..bytes).map(|at| (id as usize * 31 + at * 7) as u8).collect();
    let document = Document::new([("type", "chat.message"), ("n", &id.to_string())], body).unwrap();
    Arc::new(Record {
        id,
        source: format!("irc{}", id % 3).into(),
        timestamp: 1_700_000_000_000_000_000 + id,
        cause: id.is_multiple_of(4).then_some(id / 2),
        hops: (id % 5) as u8,
        reply_address: id.is_multiple_of(7).then_some(id << 40),
        document: EncodedDocument::from(&document),
    })
}

/// Of all, whoever has them.
pub(super) fn trim(messages: u64, bytes: u64) -> Write {
    let all = DeadBounds { messages, bytes };
    Write::TrimDead { all, of_owner: all }
}

pub(super) fn death(reason: GapReason, text: &str) -> Death {
    Death { reason, text: text.into(), attempts: 3 }
}

/// All that a store holds.
#[derive(Debug, Clone, Default, PartialEq)]
pub(super) struct Content {
    pub(super) subscriptions: BTreeMap<DurableKey, (SubscriptionRow, EntryNumber)>,
    pub(super) publishers: BTreeMap<(String, u64), PublisherRow>,
    pub(super) messages: BTreeMap<EntryNumber, (DurableKey, Loaded)>,
    /// With the time of death.
    pub(super) dead: BTreeMap<EntryNumber, (DurableKey, u64, Death, Arc<Record>)>,
}

impl Content {
    pub(super) fn apply(&mut self, batch: &Batch) -> Committed {
        let mut committed = Committed::default();
        let mut removed: BTreeMap<DurableKey, u64> = BTreeMap::new();
        for write in &batch.writes {
            match write.clone() {
                Write::Subscription(row) => {
                    self.subscriptions.entry(row.durable).or_insert_with(|| (row.clone(), 0)).0 = row.clone();
                }
                Write::Forget { durable } => {
                    self.subscriptions.remove(&durable);
                    self.messages.retain(|_, (of, _)| *of != durable);
                    let before = self.dead.len();
                    self.dead.retain(|_, (of, ..)| *of != durable);
                    if before > self.dead.len() {
                        *removed.entry(durable).or_default() += (before - self.dead.len()) as u64;
                    }
                }
                Write::Enqueue { entry, durable, since_ms, expires_ms, record } => {
                    let loaded = Loaded { entry, since_ms, expires_ms, attempts: 0, record };
                    assert!(self.messages.insert(entry, (durable, loaded)).is_none());
                }
                Write::Delivered { durable, entry } => {
                    let delivered = &mut self.subscriptions.get_mut(&durable).unwrap().1;
                    *delivered = (*delivered).max(entry);
                }
                Write::Attempts { entry, attempts } => {
                    if let Some((_, loaded)) = self.messages.get_mut(&entry) {
                        loaded.attempts = attempts;
                    }
                }
                Write::Acknowledge { entry } => {
                    self.messages.remove(&entry);
                }
                Write::Die { entry, death } => {
                    self.die(entry, &death, batch.wall);
                }
                Write::DieOldest { durable, after, messages, bytes, death } => {
                    let (mut count, mut gone) = (0, 0);
                    for entry in self.entries_of(durable, after) {
                        if count >= messages && gone >= bytes {
                            break;
                        }
                        count += 1;
                        let died = self.die(entry, &death, batch.wall).unwrap();
                        gone += died.bytes;
                        committed.died.push(died);
                    }
                }
                Write::Expire { durable, after, before_ms, now_ms, death } => {
                    for entry in self.entries_of(durable, after) {
                        let (_, loaded) = &self.messages[&entry];
                        let over = loaded.expires_ms != 0 && loaded.expires_ms < now_ms;
                        if loaded.since_ms < before_ms || over {
                            committed.died.extend(self.die(entry, &death, batch.wall));
                        }
                    }
                }
                Write::Publisher(row) => {
                    self.publishers.insert((row.source.clone(), row.epoch), row);
                }
                Write::ForgetPublisher { source, epoch } => {
                    self.publishers.remove(&(source, epoch));
                }
                Write::Retry { dead, entry, since_ms } => {
                    if let Some((durable, _, _, record)) = self.dead.remove(&dead) {
                        *removed.entry(durable).or_default() += 1;
                        committed.revived.push(Revived { durable, entry, bytes: record.size() });
                        let loaded = Loaded { entry, since_ms, expires_ms: 0, attempts: 0, record };
                        self.messages.insert(entry, (durable, loaded));
                    }
                }
                Write::DropDead { dead } => {
                    if let Some((durable, ..)) = self.dead.remove(&dead) {
                        *removed.entry(durable).or_default() += 1;
                    }
                }
                Write::TrimDead { all, of_owner } => {
                    let owners: BTreeSet<String> =
                        self.subscriptions.values().map(|(row, _)| row.owner.clone()).collect();
                    for owner in owners {
                        self.trim(of_owner, Some(&owner), &mut removed);
                    }
                    self.trim(all, None, &mut removed);
                }
            }
        }
        committed.dead_removed = removed.into_iter().collect();
        committed
    }

    /// The oldest dead letters go, of one owner or of all.
    fn trim(&mut self, most: DeadBounds, owner: Option<&str>, removed: &mut BTreeMap<DurableKey, u64>) {
        let of = |durable: &DurableKey| owner.is_none_or(|owner| self.subscriptions[durable].0.owner == owner);
        let mut order: Vec<_> = self
            .dead
            .iter()
            .filter(|(_, dead)| of(&dead.0))
            .map(|(entry, dead)| (dead.1, *entry, dead.3.size()))
            .collect();
        order.sort_unstable();
        let mut has = DeadBounds { messages: order.len() as u64, bytes: order.iter().map(|(.., bytes)| bytes).sum() };
        for (_, entry, bytes) in order {
            if !has.is_beyond(most) {
                return;
            }
            has = DeadBounds { messages: has.messages - 1, bytes: has.bytes - bytes };
            let (durable, ..) = self.dead.remove(&entry).unwrap();
            *removed.entry(durable).or_default() += 1;
        }
    }

    fn entries_of(&self, durable: DurableKey, after: EntryNumber) -> Vec<EntryNumber> {
        let of = self.messages.iter().filter(|(entry, (of, _))| *of == durable && **entry > after);
        of.map(|(entry, _)| *entry).collect()
    }

    fn die(&mut self, entry: EntryNumber, death: &Death, wall: u64) -> Option<Died> {
        let (durable, loaded) = self.messages.remove(&entry)?;
        let died = Died { durable, entry, id: loaded.record.id, bytes: loaded.record.size(), reason: death.reason };
        self.dead.insert(entry, (durable, wall, death.clone(), loaded.record));
        Some(died)
    }

    /// What the store says that it has.
    pub(super) fn of(store: &mut Store, recovered: &Recovered) -> Self {
        let mut content = Self::default();
        for subscription in &recovered.subscriptions {
            let durable = subscription.row.durable;
            content.subscriptions.insert(durable, (subscription.row.clone(), subscription.delivered));
            let (mut after, mut messages, mut bytes, mut oldest) = (0, 0, 0, None);
            loop {
                let page = store.load(durable, after, 7, 100_000).unwrap();
                assert_eq!(page.damaged, []);
                for loaded in page.entries {
                    assert!(loaded.entry > after, "pages are in order");
                    after = loaded.entry;
                    messages += 1;
                    bytes += loaded.record.size();
                    oldest = Some(oldest.unwrap_or(u64::MAX).min(loaded.since_ms));
                    content.messages.insert(loaded.entry, (durable, loaded));
                }
                if !page.more {
                    break;
                }
            }
            let mut dead = 0;
            let (owner, name) = (subscription.row.owner.as_str(), subscription.row.name.as_str());
            let mut after = 0;
            loop {
                let page = store.dead_letters(Some(owner), Some(name), after, 5).unwrap();
                assert_eq!(page.total, subscription.dead);
                for letter in page.letters {
                    assert_eq!((letter.owner.as_str(), letter.name.as_str()), (owner, name));
                    assert!(letter.entry > after);
                    after = letter.entry;
                    dead += 1;
                    assert_eq!(store.dead_letter(letter.entry).unwrap().as_ref(), Some(&letter));
                    content.dead.insert(letter.entry, (durable, letter.died, letter.death, letter.record.into()));
                }
                if !page.more {
                    break;
                }
            }
            assert_eq!(
                (messages, bytes, oldest, dead),
                (subscription.messages, subscription.bytes, subscription.oldest_ms, subscription.dead),
                "what is counted at a start is what is there"
            );
        }
        for row in &recovered.publishers {
            content.publishers.insert((row.source.clone(), row.epoch), row.clone());
        }
        content
    }
}

/// Makes batches, and remembers what they were.
#[derive(Debug, Clone)]
pub(super) struct Generator {
    random: fastrand::Rng,
    pub(super) content: Content,
    /// Everything that was ever written, for tests of damage.
    pub(super) enqueued: BTreeMap<EntryNumber, (DurableKey, Arc<Record>)>,
    pub(super) subscriptions: BTreeSet<(DurableKey, String, String, String)>,
    pub(super) publishers: BTreeSet<(String, u64, String, u64)>,
    pub(super) batch: u64,
    pub(super) next_entry: EntryNumber,
    next_durable: DurableKey,
    pub(super) time_ms: u64,
    pub(super) bytes_max: usize,
    /// In how many of 100 cases something is left waiting that would have been removed.
    pub(super) keeps: u8,
}

impl Generator {
    pub(super) fn new(seed: u64) -> Self {
        Self {
            random: fastrand::Rng::with_seed(seed),
            content: Content::default(),
            enqueued: BTreeMap::new(),
            subscriptions: BTreeSet::new(),
            publishers: BTreeSet::new(),
            batch: 0,
            next_entry: 1,
            next_durable: 1,
            time_ms: 1000,
            bytes_max: 300,
            keeps: 0,
        }
    }

    pub(super) fn wall(&self) -> u64 {
        1_800_000_000_000_000_000 + self.time_ms * 1_000_000
    }

    /// The next batch and what it has to do.
    pub(super) fn next(&mut self) -> (Batch, Committed) {
        self.batch += 1;
        self.time_ms += STEP_MS;
        let mut batch = Batch { number: self.batch, time_ms: self.time_ms, wall: self.wall(), writes: Vec::new() };
        let mut committed = Committed::default();
        let mut removed: BTreeMap<DurableKey, u64> = BTreeMap::new();
        for _ in 0..self.random.usize(1..=12) {
            // One by one, so that the next can refer to what this one did.
            let Some(write) = self.write() else { continue };
            let removes = matches!(write, Write::Acknowledge { .. } | Write::Expire { .. } | Write::Forget { .. });
            if removes && self.random.u8(..100) < self.keeps {
                continue;
            }
            let part = Batch { writes: vec![write.clone()], ..batch.clone() };
            let did = self.content.apply(&part);
            committed.died.extend(did.died);
            committed.revived.extend(did.revived);
            for (durable, count) in did.dead_removed {
                *removed.entry(durable).or_default() += count;
            }
            batch.writes.push(write);
        }
        committed.dead_removed = removed.into_iter().collect();
        (batch, committed)
    }

    fn write(&mut self) -> Option<Write> {
        let durables: Vec<DurableKey> = self.content.subscriptions.keys().copied().collect();
        let durable = self.random.choice(&durables).copied();
        let entries: Vec<EntryNumber> = self.content.messages.keys().copied().collect();
        let entry = self.random.choice(&entries[..entries.len().min(20)]).copied();
        let dead: Vec<EntryNumber> = self.content.dead.keys().copied().collect();
        let dead = self.random.choice(&dead).copied();
        let after = if self.random.bool() { 0 } else { entry.unwrap_or(0) };
        Some(match self.random.u32(0..100) {
            0..4 => {
                let new = durables.len() < 2 || (durables.len() < 6 && self.random.bool());
                let durable = if new { self.next_durable } else { durable? };
                self.next_durable = self.next_durable.max(durable + 1);
                let row = SubscriptionRow {
                    durable,
                    owner: format!("op{}", durable % 2),
                    name: format!("name{durable}"),
                    spec: format!("{{\"n\":{}}}", self.random.u32(..)),
                };
                self.subscriptions.insert((durable, row.owner.clone(), row.name.clone(), row.spec.clone()));
                Write::Subscription(row)
            }
            4 if durables.len() > 3 => Write::Forget { durable: durable? },
            5..50 => {
                let durable = durable?;
                let (entry, bytes) = (self.next_entry, self.random.usize(0..=self.bytes_max));
                self.next_entry += self.random.u64(1..3);
                let record = record(entry, bytes);
                self.enqueued.insert(entry, (durable, record.clone()));
                let expires_ms = if self.random.u8(..4) == 0 { self.time_ms + self.random.u64(..300) } else { 0 };
                Write::Enqueue { entry, durable, since_ms: self.time_ms, expires_ms, record }
            }
            50..55 => Write::Delivered { durable: durable?, entry: entry? },
            55..60 => Write::Attempts { entry: entry?, attempts: self.random.u32(1..20) },
            60..76 => Write::Acknowledge { entry: entry? },
            76..80 => Write::Die { entry: entry?, death: death(GapReason::DeadLetter, "no: é\n") },
            80..82 => Write::DieOldest {
                durable: durable?,
                after,
                messages: self.random.u64(..3),
                bytes: self.random.u64(..800),
                death: death(GapReason::QueueFull, ""),
            },
            82..85 => Write::Expire {
                durable: durable?,
                after,
                before_ms: self.time_ms.saturating_sub(self.random.u64(200..1000)),
                now_ms: self.time_ms,
                death: death(GapReason::Expired, "it waited"),
            },
            85..91 => {
                let row = PublisherRow {
                    source: format!("op{}", self.random.u8(..3)),
                    epoch: u64::MAX - self.random.u64(..3),
                    state: format!("{} 7-9", self.random.u32(..)),
                    used: self.batch,
                };
                self.publishers.insert((row.source.clone(), row.epoch, row.state.clone(), row.used));
                Write::Publisher(row)
            }
            91 => Write::ForgetPublisher { source: format!("op{}", self.random.u8(..3)), epoch: u64::MAX },
            92..95 => {
                let entry = self.next_entry;
                self.next_entry += 1;
                if let Some((durable, _, _, record)) = self.content.dead.get(&dead?) {
                    self.enqueued.insert(entry, (*durable, record.clone()));
                }
                Write::Retry { dead: dead?, entry, since_ms: self.time_ms }
            }
            95..98 => Write::DropDead { dead: dead? },
            98 => Write::DropDead { dead: 1 << 50 },
            _ => {
                let mut some = |part: u64| DeadBounds {
                    messages: self.random.u64(1..30 / part),
                    bytes: self.random.u64(1_000..20_000 / part),
                };
                Write::TrimDead { all: some(1), of_owner: some(3) }
            }
        })
    }

    /// Whether every row that came back was really written.
    pub(super) fn check_real(&self, content: &Content) {
        for (entry, (durable, loaded)) in &content.messages {
            assert_eq!(self.enqueued.get(entry), Some(&(*durable, loaded.record.clone())), "entry {entry}");
        }
        for (entry, (durable, _, _, record)) in &content.dead {
            assert_eq!(self.enqueued.get(entry), Some(&(*durable, record.clone())), "dead letter {entry}");
        }
        for (row, _) in content.subscriptions.values() {
            let row = row.clone();
            assert!(self.subscriptions.contains(&(row.durable, row.owner, row.name, row.spec)));
        }
        for row in content.publishers.values() {
            let row = row.clone();
            assert!(self.publishers.contains(&(row.source, row.epoch, row.state, row.used)));
        }
    }
}

/// Gives the store so many batches, and checks what it says to each.
pub(super) fn run(store: &mut Store, generator: &mut Generator, batches: u64) {
    for _ in 0..batches {
        let (batch, expected) = generator.next();
        assert_eq!(store.commit(&batch).unwrap(), expected, "{batch:?}");
    }
}

/// Opens what must be there.
pub(super) fn open(dir: &Path, wall: u64) -> (Store, Recovered) {
    Store::open(dir, wall, None).unwrap().expect("a store")
}
