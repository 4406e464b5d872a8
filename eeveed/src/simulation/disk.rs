//! The store as the shell runs it: one queue of jobs in, one queue of answers out, and whatever can happen to a disk.

use std::collections::{BTreeSet, VecDeque};

use super::item::Name;
use crate::core::SessionKey;
use crate::core::storage::{Batch, Committed, DurableKey, EntryNumber, Page, StorageError, Write};
use crate::store::Store;

#[derive(Debug)]
pub(super) enum Job {
    Commit {
        take: u64,
        batch: Batch,
    },
    Load {
        durable: DurableKey,
        generation: u64,
        after: EntryNumber,
        messages: usize,
        bytes: u64,
    },
    /// Which dead letters a verb is about; of one subscription, or all.
    Dead {
        session: SessionKey,
        number: u32,
        of: Option<Name>,
        retry: bool,
    },
}

#[derive(Debug)]
pub(super) enum Answer {
    /// `brought`: whether there was anything in it that was not on disk before.
    Stored {
        take: u64,
        outcome: Result<Committed, StorageError>,
        brought: bool,
    },
    Loaded {
        durable: DurableKey,
        generation: u64,
        page: Result<Page, StorageError>,
    },
    Dead {
        session: SessionKey,
        number: u32,
        entries: Vec<(DurableKey, EntryNumber)>,
        retry: bool,
    },
}

/// What is wrong with the disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Trouble {
    None,
    /// It may not grow, but by the reserve.
    Full,
    ReadOnly,
    /// Nothing can be read, for a while.
    Unreadable,
    /// The next sync fails; whether the batch is there, nobody knows.
    SyncFails,
}

pub(super) struct Disk {
    pub(super) store: Store,
    pub(super) jobs: VecDeque<Job>,
    pub(super) answers: VecDeque<Answer>,
    pub(super) trouble: Trouble,
    /// Subscriptions that are there.
    known: BTreeSet<DurableKey>,
    /// A sync failed: nothing works before the next start.
    pub(super) failed: bool,
}

impl Disk {
    pub(super) fn new() -> Self {
        let (jobs, answers) = (VecDeque::new(), VecDeque::new());
        Self { store: Store::in_memory(), jobs, answers, trouble: Trouble::None, known: BTreeSet::new(), failed: false }
    }

    pub(super) fn set_trouble(&mut self, trouble: Trouble) {
        self.trouble = trouble;
        self.store.set_page_limit((trouble == Trouble::Full).then_some(1));
    }

    /// Does the next job. What was committed by it is the caller's to look at.
    pub(super) fn work(&mut self, random: &mut fastrand::Rng) -> Option<(u64, Batch, Committed)> {
        let unavailable = |why: &str| StorageError::Unavailable(why.into());
        let failed = || StorageError::Failed("a sync failed".into());
        match self.jobs.pop_front()? {
            Job::Commit { take, batch } => {
                let lost = self.trouble == Trouble::SyncFails;
                let brought = batch.grows(|durable| self.known.contains(&durable));
                self.failed |= lost;
                let outcome = match self.trouble {
                    Trouble::ReadOnly => Err(unavailable("read-only")),
                    Trouble::SyncFails if random.bool() => Err(failed()),
                    _ => self.store.commit(&batch),
                };
                if let Err(StorageError::Failed(why)) = &outcome {
                    assert!(lost, "the store gives up: {why}");
                }
                let told = if lost { Err(failed()) } else { outcome.clone() };
                self.answers.push_back(Answer::Stored { take, outcome: told, brought });
                if outcome.is_ok() {
                    self.learn(&batch);
                }
                outcome.ok().map(|committed| (take, batch, committed))
            }
            Job::Load { durable, generation, after, messages, bytes } => {
                let page = match self.trouble {
                    _ if self.failed => Err(failed()),
                    Trouble::Unreadable => Err(unavailable("unreadable")),
                    _ => self.store.load(durable, after, messages as u64, bytes),
                };
                self.answers.push_back(Answer::Loaded { durable, generation, page });
                None
            }
            Job::Dead { session, number, of, retry } => {
                let (owner, name) = of.as_ref().map(|of| (of.owner, of.name)).unzip();
                let entries = self.store.dead_entries(owner, name).unwrap_or_default();
                self.answers.push_back(Answer::Dead { session, number, entries, retry });
                None
            }
        }
    }

    fn learn(&mut self, batch: &Batch) {
        for write in &batch.writes {
            match write {
                Write::Subscription(row) => _ = self.known.insert(row.durable),
                Write::Forget { durable } => _ = self.known.remove(durable),
                _ => {}
            }
        }
    }

    /// The process ends: nobody waits for anything.
    pub(super) fn forget_jobs(&mut self) {
        self.jobs.clear();
        self.answers.clear();
        self.failed = false;
        if self.trouble == Trouble::SyncFails {
            self.trouble = Trouble::None;
        }
    }

    pub(super) fn is_idle(&self) -> bool {
        self.jobs.is_empty() && self.answers.is_empty()
    }
}
