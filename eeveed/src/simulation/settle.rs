//! When the store is idle, everything has to be where the model says: on disk, in the core's counts, in the gaps.

use std::collections::{BTreeMap, BTreeSet};

use libeevee::GapReason;
use serde_json::Value;

use super::item::Name;
use super::kept::Kept;
use super::world::World;

impl World {
    /// Waits for the store, and looks at everything if the disk is good.
    pub(super) fn look_around(&mut self) {
        self.settle();
        if !self.is_well() {
            return;
        }
        for kept in self.kept.values_mut() {
            // The bus could not even try to store it, and told so.
            let lost: Vec<u64> = kept
                .items
                .iter()
                .filter(|(_, item)| item.pending && item.is_announcement())
                .map(|(id, _)| *id)
                .collect();
            kept.lose(GapReason::Memory, lost.len() as u64);
            kept.items.retain(|id, _| !lost.contains(id));
        }
        self.reconcile(false);
    }

    pub(super) fn reconcile(&mut self, at_start: bool) {
        self.note(|| "all is looked at".into());
        let shown: Vec<Value> = serde_json::from_str(&self.core.queues(self.now, None, &BTreeMap::new())).unwrap();
        assert_eq!(shown.len(), self.kept.len(), "durable subscriptions: {shown:?}");
        for name in self.kept.keys().copied().collect::<Vec<_>>() {
            let (messages, bytes, dead) = self.look_at_store(name, at_start);
            let row = shown.iter().find(|row| row["owner"] == name.owner && row["name"] == name.name).unwrap();
            let kept = self.kept.get_mut(&name).unwrap();
            assert_eq!(row["messages"], messages, "messages of {name:?}");
            assert_eq!(row["bytes"], bytes, "bytes of {name:?}");
            assert_eq!(row["dead"], dead, "dead letters of {name:?}");
            assert_eq!(row["connected"], kept.holder.is_some(), "the session of {name:?}");
            look_at_gaps(name, kept, &untold(&self.core, name));
            if kept.holder.is_some() && !kept.read_failed {
                assert!(kept.wrong.is_empty(), "{name:?}: wrongly acknowledged, and not refused: {:?}", kept.wrong);
            }
            kept.dying.clear();
            (kept.too_many, kept.too_large, kept.age_min) = (0, false, kept.bounds.age_ms);
        }
    }

    /// What stands on disk of one subscription: messages, their bytes, dead letters.
    fn look_at_store(&mut self, name: Name, at_start: bool) -> (u64, u64, u64) {
        let kept = self.kept.get_mut(&name).unwrap();
        let key = kept.key.unwrap_or_else(|| panic!("{name:?} is not on disk"));
        let page = self.disk.store.load(key, 0, u64::MAX - 1, u64::MAX).unwrap();
        assert!(page.damaged.is_empty());
        let mut found = BTreeSet::new();
        for loaded in &page.entries {
            let id = loaded.record.id;
            assert_eq!(self.places.waiting.get(&loaded.entry), Some(&(name, id)), "another place");
            let item = kept.items.get_mut(&id).unwrap_or_else(|| panic!("{id} waits in {name:?}, and is not for it"));
            assert!(item.is_announcement() || loaded.record.document == item.message.document, "another document");
            assert_eq!(&*loaded.record.source, item.message.source);
            if at_start {
                item.unsure |= matches!(item.acked, Some((_, false)));
                item.take_back();
            }
            // What the bus could not look at yet may be acknowledged still, or come again.
            item.unsure |= matches!(item.acked, Some((_, false)));
            assert!(item.acked.is_none() || item.unsure, "{id} was acknowledged in {name:?}, and is on disk");
            assert!(!item.pending && item.dead.is_none() && !item.killed, "{id} waits in {name:?}: {item:?}");
            assert!(!item.refused, "an acknowledgement of {id} was refused in {name:?}, and it is still there");
            assert!(loaded.attempts <= item.last_attempt + 1 + item.starts, "{id} was not delivered so often");
            assert_eq!(loaded.since_ms, item.since_ms, "{id} came at another time");
            found.insert(id);
        }
        let letters = self.disk.store.dead_letters(Some(name.owner), Some(name.name), 0, u64::MAX - 1).unwrap().letters;
        for letter in &letters {
            let id = letter.record.id;
            assert_eq!(self.places.dead.get(&letter.entry), Some(&(name, id)), "another place");
            let item = kept.items.get(&id).unwrap_or_else(|| panic!("{id} is dead in {name:?}, and was not for it"));
            assert_eq!(item.dead.map(|(reason, _)| reason), Some(letter.death.reason), "{id} died of something else");
            found.insert(id);
        }
        kept.items.retain(|_, item| !item.trimmed);
        for id in kept.items.keys() {
            assert!(found.contains(id), "{id} of {name:?} has vanished: {:?}", kept.items[id]);
        }
        let bytes = page.entries.iter().map(|loaded| loaded.record.size()).sum();
        (page.entries.len() as u64, bytes, letters.len() as u64)
    }
}

/// Every loss is told exactly once, or waits to be told.
fn look_at_gaps(name: Name, kept: &mut Kept, untold: &BTreeMap<u8, u64>) {
    let mut told = kept.told.clone();
    for (reason, count) in untold {
        *told.entry(*reason).or_default() += count;
    }
    let sum = |counts: &BTreeMap<u8, u64>| counts.values().sum::<u64>();
    let lost = &kept.lost;
    let may_be = sum(lost).saturating_sub(kept.unclear)..=sum(lost);
    assert!(
        may_be.contains(&sum(&told)),
        "told as lost {told:?}, and lost {lost:?}, of {name:?} (by the numbers of the reasons)"
    );
    // A message may be told as expired while the store, which does not know it yet, gives it up because it is too full.
    let other: u64 = told.iter().map(|(reason, count)| count.saturating_sub(*lost.get(reason).unwrap_or(&0))).sum();
    assert!(other <= kept.chosen, "told as lost {told:?}, and lost {lost:?}, of {name:?}");
    // What was unclear is clear now.
    (kept.lost, kept.unclear, kept.chosen) = (told, 0, 0);
}

/// The gaps that wait to be told.
fn untold(core: &crate::core::Core, name: Name) -> BTreeMap<u8, u64> {
    let of = |subscription: &&crate::core::subscribe::Subscription| {
        let durable = subscription.durable.as_deref();
        durable.is_some_and(|durable| *durable.owner == *name.owner && durable.name == name.name)
    };
    let (_, subscription) =
        core.subscriptions.iter().find(|(_, subscription)| of(subscription)).expect("it stands in the core");
    assert!(subscription.queue.entries().next().is_none(), "a durable subscription has gaps alone");
    let mut untold = BTreeMap::new();
    for gap in subscription.queue.front() {
        *untold.entry(gap.reason).or_default() += gap.count.expect("nothing is damaged");
    }
    untold
}
