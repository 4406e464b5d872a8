//! What a disk that takes nothing leaves in memory, for the next run of the bus: what a subscription was changed to, and what
//! was done with its messages. And what could not be looked at yet, whatever the disk does.

use std::collections::BTreeMap;

use libeevee::GapReason;
use libeevee::filter::Filter;
use libeevee::wire::Nack;
use serde::{Deserialize, Serialize};

use super::begin::DURABLE_BYTES;
use super::spec::Spec;
use super::{Durable, Gone};
use crate::core::Core;
use crate::core::index::Slot;
use crate::core::permit::is_volatile;
use crate::core::storage::{Death, EntryNumber, Write};

#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub(super) struct SavedRest {
    /// What is in force, be it on disk or not.
    spec: Option<Spec>,
    /// Entries that the disk still has: (entry, bytes, its death if it is a dead letter)
    done: Vec<(EntryNumber, u64, Option<SavedDeath>)>,
    /// Messages that were acknowledged before they were loaded again.
    early: Vec<u64>,
    /// (message, dead, delay_ms, reason)
    early_refusals: Vec<(u64, bool, u64, String)>,
}

#[derive(Debug, Serialize, Deserialize)]
struct SavedDeath {
    reason: u8,
    text: String,
    attempts: u32,
}

/// The writes that wait for the disk and say that an entry is done with: its death if it is a dead letter.
pub(super) type Done<'a> = BTreeMap<EntryNumber, Option<&'a Death>>;

pub(super) fn done(writes: &[Write]) -> Done<'_> {
    let of = |write| match write {
        &Write::Acknowledge { entry } => Some((entry, None)),
        Write::Die { entry, death } => Some((*entry, Some(death))),
        _ => None,
    };
    writes.iter().filter_map(of).collect()
}

impl SavedRest {
    pub(super) fn of(durable: &Durable, done: &Done<'_>) -> Self {
        let saved = |death: &Death| SavedDeath {
            reason: death.reason as u8,
            text: death.text.clone(),
            attempts: death.attempts,
        };
        let on_disk = durable.gone.iter().filter(|(_, gone)| !gone.removed);
        let waiting = on_disk.filter_map(|(entry, gone)| Some((*entry, gone.bytes, done.get(entry)?)));
        let refusals = durable.early_refusals.iter();
        Self {
            spec: Some(durable.spec.clone()),
            done: waiting.map(|(entry, bytes, death)| (entry, bytes, death.map(saved))).collect(),
            early: durable.early.iter().copied().collect(),
            early_refusals: refusals.map(|(id, nack)| (*id, nack.dead, nack.delay_ms, nack.reason.clone())).collect(),
        }
    }
}

impl Core {
    /// Puts it on top of what the disk has.
    pub(super) fn restore_rest(&mut self, slot: Slot, rest: SavedRest) {
        let number = self.journal.next_number();
        let Some(durable) = self.subscriptions[slot as usize].durable.as_deref_mut() else { return };
        for (entry, bytes, death) in rest.done {
            if durable.messages == 0 || bytes > durable.bytes {
                continue;
            }
            durable.messages -= 1;
            durable.shrink(&mut self.journal.store_bytes, bytes);
            durable.gone.insert(entry, Gone { batch: number, bytes, dead: death.is_some(), removed: false });
            let write = match death {
                Some(SavedDeath { reason, text, attempts }) => {
                    durable.dead += 1;
                    let reason = GapReason::from_code(reason).unwrap_or(GapReason::DeadLetter);
                    Write::Die { entry, death: Death { reason, text, attempts } }
                }
                None => Write::Acknowledge { entry },
            };
            self.journal.write_of(durable.key, write);
        }
        durable.early.extend(rest.early);
        let refusal = |(id, dead, delay_ms, reason)| (id, Nack { id, dead, delay_ms, reason });
        durable.early_refusals.extend(rest.early_refusals.into_iter().map(refusal));
        match rest.spec {
            Some(spec) if spec != durable.spec => self.restore_spec(slot, spec),
            _ => {}
        }
    }

    /// It was changed, and the disk does not know.
    fn restore_spec(&mut self, slot: Slot, spec: Spec) {
        self.unfile(slot);
        let bounds = self.durable_bounds(&spec);
        let subscription = &mut self.subscriptions[slot as usize];
        let Some(durable) = subscription.durable.as_deref_mut() else { return };
        durable.bounds = bounds;
        durable.may_receive = spec.may_receive.permit();
        durable.unwritten = true;
        subscription.filters = spec.filters.iter().filter_map(|text| text.parse().ok()).collect();
        subscription.volatile = durable.may_receive.is_volatile() || subscription.filters.iter().any(is_volatile);
        durable.spec = spec;
        let row = durable.row();
        let own_memory = DURABLE_BYTES + 2 * subscription.filters.iter().map(Filter::memory_bytes).sum::<usize>();
        self.memory = self.memory - subscription.own_memory + own_memory;
        subscription.account.sub(subscription.own_memory);
        subscription.account.add(own_memory);
        subscription.own_memory = own_memory;
        self.journal.write_of(row.durable, Write::Subscription(row));
        self.file(slot);
    }
}
