//! Batches for a store and its model, by seeds.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::Arc;

use libeevee::GapReason;

use super::super::Store;
use super::model::*;
use crate::core::storage::*;

/// Milliseconds of the store's clock, and nanoseconds of the wall's, between two batches.
const STEP_MS: u64 = 10;

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
