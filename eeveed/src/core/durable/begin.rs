//! A durable subscription begins, is found on disk at a start, and ends.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::rc::Rc;

use libeevee::GapReason;
use libeevee::filter::Filter;
use libeevee::wire::{GapNotice, Overflow};

use super::spec::{MayReceive, Spec};
use super::{Durable, DurableBounds};
use crate::core::index::Slot;
use crate::core::permit::Permit;
use crate::core::share::Account;
use crate::core::storage::RecoveredSubscription;
use crate::core::subscribe::Subscription;
use crate::core::{Core, Now};

/// What a durable subscription costs in memory beside its filters and what it holds.
pub(in crate::core) const DURABLE_BYTES: usize = 2048;

impl Core {
    /// A durable subscription that nobody is attached to.
    pub(super) fn insert_durable(&mut self, mut durable: Durable, filters: Vec<Filter>) -> Slot {
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
        let may_receive = spec.may_receive.permit();
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
}

pub(super) fn new_durable(key: u32, owner: Rc<str>, name: &str, spec: Spec, may_receive: Permit) -> Durable {
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
