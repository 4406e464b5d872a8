//! What a subscriber says of a delivery: done, or not.

use std::time::Duration;

use libeevee::wire::{Ack, Code, Nack, Refusal};

use super::{NOBODY, back_off};
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
        } else if let Some(at) = durable.head.iter().position(|held| held.record.id == id && held.attempts > 0) {
            // Delivered in an earlier session, and loaded again already.
            let Some(held) = durable.head.remove(at) else { return Ok(()) };
            durable.head_bytes -= held.record.size();
            durable.release(&mut self.memory, held.record.size());
            (held.entry, held.record.size())
        } else if durable.more && durable.loaded < durable.recovered_mark {
            // It may be one that was delivered before the bus was restarted, and is not loaded yet.
            if durable.early.len() >= in_flight_max {
                return Err("too many are acknowledged that were not delivered since the bus was started");
            }
            durable.early.insert(id);
            return Ok(());
        } else {
            return Err("it is not one that was delivered and waits for its acknowledgement");
        };
        durable.undone.remove(&entry);
        durable.gone.insert(entry, batch);
        durable.messages -= 1;
        durable.shrink(&mut self.journal.store_bytes, size);
        self.journal.write(Write::Acknowledge { entry });
        Ok(())
    }

    pub(in crate::core) fn negative(&mut self, now: Now, key: SessionKey, number: u32, nack: Nack) {
        let Nack { id, dead, delay_ms, reason } = nack;
        let slot = self.durable_of(key, number);
        let durable = slot.and_then(|slot| self.subscriptions[slot as usize].durable.as_deref_mut());
        let (Some(slot), Some(mut held)) = (slot, durable.and_then(|durable| durable.take_delivered(id))) else {
            self.refuse_ack(key, number, id, "it is not one that was delivered and waits for its acknowledgement");
            return;
        };
        let reason = shortened(&reason.replace(char::is_control, " "), REASON_BYTES_MAX);
        if dead {
            let text = if reason.is_empty() { "its subscriber refused it".to_owned() } else { reason };
            self.kill(slot, held, text);
        } else {
            let delay = if delay_ms == 0 { back_off(held.attempts) } else { Duration::from_millis(delay_ms).min(DELAY_MAX) };
            held.refused.clone_from(&reason);
            let why = if reason.is_empty() { "its subscriber refused it" } else { &reason };
            self.give_back_delivery(now, slot, held, delay, why);
        }
        self.refill(slot);
        self.offer(now, slot);
        self.watch(slot);
    }

    /// Acknowledgements that came before what they are about was loaded again, and that fit nothing.
    pub(super) fn end_early(&mut self, slot: Slot) {
        let subscription = &mut self.subscriptions[slot as usize];
        let (key, number) = (subscription.session, subscription.number);
        let Some(durable) = subscription.durable.as_deref_mut() else { return };
        if durable.more && durable.loaded < durable.recovered_mark || key == NOBODY {
            return;
        }
        for id in std::mem::take(&mut durable.early) {
            self.refuse_ack(key, number, id, "it is not one that was delivered and waits for its acknowledgement");
        }
    }

    fn durable_of(&self, key: SessionKey, number: u32) -> Option<Slot> {
        let slot = self.sessions.get(&key)?.slot(number)?;
        self.subscriptions.get(slot as usize)?.durable.is_some().then_some(slot)
    }

    fn refuse_ack(&mut self, key: SessionKey, number: u32, id: u64, why: &str) {
        let told: Refusal = refusal(Code::BadAck, format!("message {id} in subscription {number} was acknowledged: {why}"));
        self.refuse(key, number, told);
    }
}
