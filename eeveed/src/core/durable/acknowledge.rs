//! What a subscriber says of a delivery: done, or not.

use std::collections::HashSet;
use std::time::Duration;

use libeevee::wire::{Ack, Code, Nack, Refusal};

use super::{Gone, Held, NOBODY, back_off};
use crate::core::index::Slot;
use crate::core::session::{SessionKey, refusal, shortened};
use crate::core::storage::Write;
use crate::core::{Core, Now};

/// How much of a subscriber's words is kept with a dead letter.
const REASON_BYTES_MAX: usize = 1024;

/// The longest that a subscriber may put a message off.
const DELAY_MAX: Duration = Duration::from_secs(86_400);

impl Core {
    pub(in crate::core) fn acknowledge(&mut self, now: Now, key: SessionKey, number: u32, Ack { id }: Ack) {
        let Some(slot) = self.durable_of(key, number) else {
            self.refuse_ack(key, number, id, "this is no durable subscription");
            return;
        };
        match self.try_acknowledge(slot, id) {
            Ok(()) => {
                self.refill(slot);
                self.offer(now, slot);
            }
            Err(why) => self.refuse_ack(key, number, id, why),
        }
    }

    fn try_acknowledge(&mut self, slot: Slot, id: u64) -> Result<(), &'static str> {
        let (in_flight_max, batch) = (self.limits.in_flight, self.journal.next_number());
        let Some(durable) = self.subscriptions[slot as usize].durable.as_deref_mut() else { return Ok(()) };
        let (entry, size) = if let Some(held) = durable.take_delivered(id) {
            durable.release(&mut self.memory, held.record.size());
            (held.entry, held.record.size())
        } else if let Some((entry, undone)) = durable.undone.iter().find(|(_, undone)| undone.id == id) {
            (*entry, undone.bytes)
        } else if let Some(held) = durable.take_loaded_again(id) {
            durable.release(&mut self.memory, held.record.size());
            (held.entry, held.record.size())
        } else if durable.may_be_loaded() {
            if durable.early.len() >= in_flight_max {
                return Err("too many are acknowledged that were not delivered since the bus was started");
            }
            durable.early.insert(id);
            return Ok(());
        } else {
            return Err("it is not one that was delivered and waits for its acknowledgement");
        };
        durable.early_refusals.remove(&id);
        durable.undone.remove(&entry);
        durable.gone.insert(entry, Gone { batch, bytes: size, dead: false, removed: false });
        durable.messages -= 1;
        durable.shrink(&mut self.journal.store_bytes, size);
        self.journal.write_of(durable.key, Write::Acknowledge { entry });
        Ok(())
    }

    pub(in crate::core) fn negative(&mut self, now: Now, key: SessionKey, number: u32, nack: Nack) {
        let id = nack.id;
        let in_flight_max = self.limits.in_flight;
        let slot = self.durable_of(key, number);
        let durable = slot.and_then(|slot| self.subscriptions[slot as usize].durable.as_deref_mut());
        let (Some(slot), Some(durable)) = (slot, durable) else {
            self.refuse_ack(key, number, id, "this is no durable subscription");
            return;
        };
        let known = durable.take_delivered(id).or_else(|| durable.take_loaded_again(id));
        let may_come = durable.may_be_loaded() || durable.undone.values().any(|undone| undone.id == id);
        let nack = Nack { reason: shortened(&nack.reason.replace(char::is_control, " "), REASON_BYTES_MAX), ..nack };
        if let Some(held) = known {
            self.refuse_delivery(now, slot, held, nack);
        } else if may_come && durable.early_refusals.len() < in_flight_max {
            durable.early_refusals.insert(id, nack);
        } else {
            self.refuse_ack(key, number, id, "it is not one that was delivered and waits for its acknowledgement");
            return;
        }
        self.refill(slot);
        self.offer(now, slot);
        self.watch(slot);
    }

    /// What a subscriber did not deal with comes again, or becomes a dead letter.
    pub(super) fn refuse_delivery(&mut self, now: Now, slot: Slot, mut held: Held, nack: Nack) {
        let Nack { dead, delay_ms, reason, .. } = nack;
        if dead {
            let text = if reason.is_empty() { "its subscriber refused it".to_owned() } else { reason };
            self.kill(slot, held, text);
            return;
        }
        let delay =
            if delay_ms == 0 { back_off(held.attempts) } else { Duration::from_millis(delay_ms).min(DELAY_MAX) };
        held.refused.clone_from(&reason);
        let why = if reason.is_empty() { "its subscriber refused it" } else { &reason };
        self.give_back_delivery(now, slot, held, delay, why);
    }

    /// Acknowledgements that came before what they are about was loaded again, and that fit nothing.
    pub(super) fn end_early(&mut self, slot: Slot) {
        let subscription = &mut self.subscriptions[slot as usize];
        let (key, number) = (subscription.session, subscription.number);
        let Some(durable) = subscription.durable.as_deref_mut() else { return };
        if durable.may_be_loaded() || key == NOBODY {
            return;
        }
        let undone: HashSet<u64> = durable.undone.values().map(|undone| undone.id).collect();
        let refusals = durable.early_refusals.extract_if(.., |id, _| !undone.contains(id)).map(|(id, _)| id);
        let mut unfit: Vec<u64> = refusals.collect();
        unfit.extend(std::mem::take(&mut durable.early));
        for id in unfit {
            self.refuse_ack(key, number, id, "it is not one that was delivered and waits for its acknowledgement");
        }
    }

    fn durable_of(&self, key: SessionKey, number: u32) -> Option<Slot> {
        let slot = self.sessions.get(&key)?.slot(number)?;
        self.subscriptions.get(slot as usize)?.durable.is_some().then_some(slot)
    }

    fn refuse_ack(&mut self, key: SessionKey, number: u32, id: u64, why: &str) {
        let told: Refusal =
            refusal(Code::BadAck, format!("message {id} in subscription {number} was acknowledged: {why}"));
        self.refuse(key, number, told);
    }
}
