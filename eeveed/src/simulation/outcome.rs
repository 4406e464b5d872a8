//! What the store did, and what comes of it: the model follows every batch that reached the disk, and every answer.

use std::collections::BTreeMap;

use libeevee::GapReason;

use super::client::Asked;
use super::disk::{Answer, Trouble};
use super::item::Name;
use super::world::{Taken, World};
use crate::core::Event;
use crate::core::storage::{Batch, Committed, StorageError, Write};

impl World {
    /// The store does its next job.
    pub(super) fn work(&mut self) {
        if let Some((take, batch, committed)) = self.disk.work(&mut self.random) {
            self.executed(take, &batch, committed);
        }
    }

    /// A batch is on disk.
    fn executed(&mut self, take: u64, batch: &Batch, committed: Committed) {
        self.note(|| format!("take {take} is on disk: {committed:?}"));
        self.done = take;
        self.last_write = (batch.wall, batch.time_ms);
        for write in &batch.writes {
            if let Write::Subscription(row) = write {
                let name = *self.kept.keys().find(|name| *name.owner == row.owner && *name.name == row.name).unwrap();
                self.places.names.insert(row.durable, name);
                let kept = self.kept.get_mut(&name).unwrap();
                (kept.key, kept.stored) = (Some(row.durable), true);
            }
            if let Write::Enqueue { entry, durable, record, .. } = write {
                let name = self.places.names[durable];
                let item = self.kept.get_mut(&name).and_then(|kept| kept.items.get_mut(&record.id));
                let item = item.unwrap_or_else(|| panic!("{} is stored for {name:?}, and is not for it", record.id));
                (item.written, item.size) = (true, record.size());
                self.places.waiting.insert(*entry, (name, record.id));
            }
        }
        for write in &batch.writes {
            if let Write::Retry { dead, entry, since_ms } = write {
                let revived = committed.revived.iter().any(|revived| revived.entry == *entry);
                if revived && let Some((name, id)) = self.places.dead.remove(dead) {
                    self.places.waiting.insert(*entry, (name, id));
                    self.kept_of(name).retried(id, *since_ms);
                }
            }
        }
        for died in &committed.died {
            let (name, id) = self.places.waiting.remove(&died.entry).expect("a death of what does not wait");
            assert_eq!((self.places.names[&died.durable], died.id), (name, id), "another died");
            self.kept_of(name).chosen += 1;
            self.died(name, id, died.entry, died.reason, (take, batch.time_ms));
        }
        for write in &batch.writes {
            match write {
                Write::Acknowledge { entry } => {
                    if let Some((name, id)) = self.places.waiting.remove(entry) {
                        self.kept_of(name).deleted(id);
                    }
                }
                Write::Die { entry, death } => {
                    if let Some((name, id)) = self.places.waiting.remove(entry) {
                        self.died(name, id, *entry, death.reason, (take, batch.time_ms));
                    }
                }
                Write::DropDead { dead } => {
                    if let Some((name, id)) = self.places.dead.remove(dead) {
                        let item = self.kept_of(name).items.get_mut(&id).expect("a dead letter");
                        assert!(item.drop, "{id} is dropped, and nobody asked for it");
                        item.trimmed = true;
                    }
                }
                Write::Forget { durable } => {
                    let name = self.places.names[durable];
                    assert!(self.kept[&name].forgetting.is_some(), "{name:?} is forgotten, and nobody asked for it");
                    self.places.waiting.retain(|_, (of, _)| *of != name);
                    self.places.dead.retain(|_, (of, _)| *of != name);
                    let kept = self.kept_of(name);
                    let sizes = kept.items.values().filter(|item| item.waits()).map(|item| (take, item.size));
                    kept.dying.extend(sizes.collect::<Vec<_>>());
                    kept.items.clear();
                    kept.key = None;
                }
                Write::TrimDead { all, of_owner } => self.trimmed(all.messages, of_owner.messages),
                _ => {}
            }
        }
    }

    pub(super) fn kept_of(&mut self, name: Name) -> &mut super::kept::Kept {
        self.kept.get_mut(&name).unwrap_or_else(|| panic!("{name:?} is on disk, and was never made or forgotten"))
    }

    fn died(&mut self, name: Name, id: u64, entry: u64, reason: GapReason, (take, time_ms): (u64, u64)) {
        let limits = self.limits();
        self.kept_of(name).died(id, reason, take, time_ms, &limits);
        self.places.dead.insert(entry, (name, id));
    }

    /// Some dead letters may have gone, if there were too many; which, the store says.
    fn trimmed(&mut self, max: u64, max_of_owner: u64) {
        let mut owners: BTreeMap<&str, u64> = BTreeMap::new();
        for (name, _) in self.places.dead.values() {
            *owners.entry(name.owner).or_default() += 1;
        }
        let max = owners.values().map(|count| (*count).min(max_of_owner)).sum::<u64>().min(max);
        if self.places.dead.len() as u64 <= max {
            return;
        }
        let left: Vec<u64> =
            self.disk.store.dead_entries(None, None).unwrap().into_iter().map(|(_, entry)| entry).collect();
        assert_eq!(left.len() as u64, max, "so many dead letters are left");
        let gone: Vec<u64> = self.places.dead.keys().filter(|entry| !left.contains(entry)).copied().collect();
        let mut left: BTreeMap<&str, u64> = BTreeMap::new();
        for (entry, (name, _)) in &self.places.dead {
            *left.entry(name.owner).or_default() += u64::from(!gone.contains(entry));
        }
        assert!(left.values().all(|count| *count <= max_of_owner), "dead letters of owners: {left:?}");
        for entry in gone {
            let (name, id) = self.places.dead.remove(&entry).unwrap();
            if let Some(item) = self.kept_of(name).items.get_mut(&id) {
                item.trimmed = true;
            }
        }
    }

    /// The next answer of the store reaches the core.
    pub(super) fn answer(&mut self) {
        let Some(answer) = self.disk.answers.pop_front() else { return };
        match answer {
            Answer::Stored { take, outcome, brought } => {
                let (ok, failed) = (outcome.is_ok(), matches!(outcome, Err(StorageError::Failed(_))));
                self.note(|| format!("take {take} is answered: {outcome:?}"));
                self.answered = take;
                self.sick = outcome.as_ref().map_or(true, |committed| committed.tight.is_some());
                if !failed {
                    // With a batch that is refused, all that waits behind it is; without what it brought, the rest is tried
                    // again.
                    self.ended(if ok { take } else { u64::MAX }, ok, brought);
                }
                self.step(Event::Stored(outcome), false);
                self.read_all_control();
                self.check_answered(if ok { take } else { u64::MAX });
                if failed {
                    self.crash();
                }
            }
            Answer::Loaded { durable, generation, page } => {
                self.note(|| format!("loaded of {durable}: {page:?}").chars().take(200).collect());
                let failed = matches!(page, Err(StorageError::Failed(_)));
                if let Some(kept) = self.places.names.get(&durable).and_then(|name| self.kept.get_mut(name)) {
                    kept.read_failed = page.is_err();
                }
                self.step(Event::Loaded { durable, generation, page }, false);
                self.read_all_control();
                if failed {
                    self.crash();
                }
            }
            Answer::Dead { session, number, entries, retry } => {
                for (_, entry) in &entries {
                    let Some((name, id)) = self.places.dead.get(entry).copied() else { continue };
                    let Some(item) = self.kept_of(name).items.get_mut(&id) else { continue };
                    item.retry |= retry;
                    item.drop |= !retry;
                }
                let entries = entries.into_iter().map(|(_, entry)| entry).collect();
                self.step(Event::Dead { session, number, entries, retry }, false);
                self.read_all_control();
            }
        }
    }

    /// The core is about to hear what became of a batch.
    fn ended(&mut self, take: u64, ok: bool, brought: bool) {
        let mut gone = Vec::new();
        for (name, kept) in &mut self.kept {
            let new = !kept.stored && kept.wishes.iter().all(|(at, _)| *at < take);
            let forgotten = kept.forgetting.is_some_and(|at| at < take);
            if new && !ok || forgotten && ok {
                gone.push(*name);
                continue;
            }
            if forgotten && !brought {
                kept.forgetting = None;
            }
            let mut lost = 0;
            kept.items.retain(|id, item| {
                if !item.pending || item.take >= take {
                    return true;
                }
                item.pending = false;
                let there = ok && item.written;
                assert!(there || !ok || item.is_announcement(), "{id} was not written");
                // Nobody can be refused what the bus says itself: who does not get it is told.
                lost += u64::from(!there && item.is_announcement());
                there
            });
            if lost > 0 {
                kept.lose(GapReason::Memory, lost);
            }
        }
        for name in gone {
            self.note(|| format!("{name:?} is no more"));
            self.kept.remove(&name);
            for client in &mut self.clients {
                client.durable.retain(|_, known| *known != name);
            }
        }
        self.taken.retain(|_, taken| {
            if let Taken::Open { take: at, id } = *taken
                && at < take
            {
                *taken = Taken::Done { take: at, id };
                return ok;
            }
            true
        });
    }

    /// Everything that waited for this batch has its answer.
    fn check_answered(&mut self, take: u64) {
        let good = !self.sick;
        for client in &mut self.clients {
            // Nobody says that an unconfirmed one went well.
            client.asked.retain(|_, asked| {
                !matches!(asked, Asked::Publish(publication) if good && !publication.confirmed && publication.take < take)
            });
            for (number, asked) in &client.asked {
                if let Asked::Publish(publication) = asked {
                    let answered_at_once = publication.take == u64::MAX;
                    assert!(
                        answered_at_once || publication.take >= take,
                        "publish {number} of {} has no answer",
                        client.source
                    );
                }
            }
        }
    }

    /// Something happens to the disk, or it is mended.
    pub(super) fn trouble(&mut self) {
        // As pages, of which the store has some dozens.
        self.disk.store.set_reserve([0, 2, 1000][self.random.usize(0..3)]);
        let trouble = match self.random.u8(0..12) {
            0..3 => Trouble::Full,
            3..5 => Trouble::ReadOnly,
            5..7 => Trouble::Unreadable,
            7 => Trouble::SyncFails,
            _ => Trouble::None,
        };
        self.note(|| format!("the disk: {trouble:?}"));
        self.disk.set_trouble(trouble);
    }
}
