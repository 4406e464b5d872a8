//! A naive store in plain maps, and what a real store has, to compare.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use libeevee::wire::EncodedDocument;
use libeevee::{Document, GapReason};

use super::super::Store;
use crate::core::storage::*;

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
