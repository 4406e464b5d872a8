//! What goes to the session of a durable subscription, and when it goes again.

use std::time::Duration;

use libeevee::GapReason;
use libeevee::wire::{Content, Deliver, Frame};

use super::journal::Journal;
use super::{Durable, Flight, Gone, Held, NOBODY, death};
use crate::config::Limits;
use crate::core::index::{Slot, View};
use crate::core::queue::one;
use crate::core::session::SessionKey;
use crate::core::storage::{Death, Record, Write};
use crate::core::{Core, Now};

/// How often messages that wait on disk are looked through for those that have waited too long.
const SWEEP_TIME: Duration = Duration::from_secs(30);

/// What came of looking for the next delivery.
pub(in crate::core) enum Step {
    /// A frame was appended: of so many bytes of a document.
    Delivered(usize),
    /// A message was removed, and this stands in its place.
    Lost(libeevee::wire::GapNotice),
    Nothing,
}

impl Durable {
    /// Appends the next delivery, or removes what must not be delivered.
    pub(in crate::core) fn step(
        &mut self,
        now: Now,
        number: u32,
        limits: &Limits,
        journal: &mut Journal,
        out: &mut Vec<u8>,
        freed: &mut usize,
    ) -> Step {
        let now_ms = journal.time(now.mono);
        let Some(mut held) = self.take_next(now.mono, limits.in_flight) else { return Step::Nothing };
        if self.has_expired(&held, now_ms) {
            let waited = now_ms.saturating_sub(held.since_ms) / 1000;
            let death = death(GapReason::Expired, format!("it waited for {waited} s"), held.attempts);
            return self.lose(held, journal, freed, Some(death));
        }
        if !self.may_receive.admits(&view(&held.record)) {
            // Not even as a dead letter, which its owner could read.
            return self.lose(held, journal, freed, None);
        }
        held.attempts += 1;
        let waited_ms = if held.since_ms < self.open_since_ms { now_ms - held.since_ms } else { 0 };
        let record = &*held.record;
        let deliver = Deliver {
            id: record.id,
            source: record.source.to_string(),
            timestamp: record.timestamp,
            cause: record.cause,
            hops: record.hops,
            reply_address: record.reply_address,
            attempt: held.attempts,
            waited_ms,
            document: record.document.clone(),
        };
        Frame::new(number, Content::Deliver(deliver)).encode_into(out);
        let (id, bytes) = (record.id, record.document.bytes().len());
        let deadline = now.mono + limits.acknowledge_within;
        self.deadlines.insert((deadline, id));
        self.in_flight.insert(id, Flight { held, deadline });
        Step::Delivered(bytes)
    }

    fn take_next(&mut self, now: Duration, in_flight_max: usize) -> Option<Held> {
        let is_due = |(_, (held, from)): &(&_, &(Held, Duration))| *from <= now && self.is_known(held);
        let due = self.returned.iter().find(is_due).map(|(entry, _)| *entry);
        if let Some(entry) = due {
            return self.returned.remove(&entry).map(|(held, _)| held);
        }
        let ready = self.has_place(in_flight_max) && self.is_known(self.head.front()?);
        if ready { self.pop_head() } else { None }
    }

    fn lose(&mut self, held: Held, journal: &mut Journal, freed: &mut usize, death: Option<Death>) -> Step {
        let size = held.record.size();
        self.messages -= 1;
        self.shrink(&mut journal.store_bytes, size);
        self.gone.insert(
            held.entry,
            Gone { batch: journal.next_number(), bytes: size, dead: death.is_some(), removed: false },
        );
        *freed += size as usize;
        let reason = death.as_ref().map_or(GapReason::Expired, |death| death.reason);
        match death {
            Some(death) => {
                self.dead += 1;
                journal.write_of(self.key, Write::Die { entry: held.entry, death });
            }
            None => journal.write_of(self.key, Write::Acknowledge { entry: held.entry }),
        }
        Step::Lost(one(held.record.id, reason))
    }

    /// When something is due of itself. What comes again and was due by `seen` was offered already, and waits for a window.
    fn next_alarm(&self, seen: Duration) -> Option<Duration> {
        let late = self.deadlines.first().map(|(at, _)| *at);
        let again = self.returned.values().map(|(_, from)| *from).filter(|from| *from > seen).min();
        [late, again].into_iter().flatten().min()
    }
}

/// A stored message as filters see it.
pub(super) fn view(record: &Record) -> View<'_> {
    View::new(record.id, &record.source, record.timestamp, record.cause, record.hops, record.document.view())
}

impl Core {
    /// After deliveries: what has to be acknowledged by when, and what is wanted from the store.
    pub(in crate::core) fn after_delivery(&mut self, slot: Slot) {
        self.refill(slot);
        self.watch(slot);
    }

    pub(super) fn watch(&mut self, slot: Slot) {
        self.watch_from(slot, Duration::ZERO);
    }

    fn watch_from(&mut self, slot: Slot, seen: Duration) {
        let durable = self.subscriptions[slot as usize].durable.as_deref();
        let at = durable.and_then(|durable| durable.next_alarm(seen));
        if let Some(at) = at {
            self.set_alarm(slot, at);
        }
    }

    /// The session of this subscription takes deliveries again: deadlines begin anew.
    pub(in crate::core) fn resume_durable(&mut self, now: Now, slot: Slot) {
        let within = self.limits.acknowledge_within;
        let now_ms = self.journal.time(now.mono);
        let Some(durable) = self.subscriptions[slot as usize].durable.as_deref_mut() else { return };
        durable.open_since_ms = now_ms;
        durable.deadlines.clear();
        for (id, flight) in &mut durable.in_flight {
            flight.deadline = now.mono + within;
            durable.deadlines.insert((flight.deadline, *id));
        }
        // What could not be read while it was halted was not tried again.
        self.refill(slot);
        self.watch(slot);
    }

    pub(in crate::core) fn resume_subscriptions(&mut self, now: Now, key: SessionKey) {
        let Some(session) = self.sessions.get(&key) else { return };
        for (_, slot) in session.subscriptions.clone() {
            self.resume_durable(now, slot);
        }
    }

    /// When all queues are next looked through for old messages.
    pub(in crate::core) fn sweep_deadline(&self) -> Option<Duration> {
        (!self.journal.by_key.is_empty()).then_some(self.journal.sweep_at)
    }

    /// What is due of itself: deliveries that nobody acknowledged, refused ones whose time has come, old ones.
    pub(in crate::core) fn wake_durable(&mut self, now: Now) {
        while let Some((at, slot)) = self.alarms.first().copied()
            && at <= now.mono
        {
            self.alarms.pop_first();
            let Some(subscription) = self.subscriptions.get_mut(slot as usize) else { continue };
            let session = subscription.session;
            let Some(durable) = subscription.durable.as_deref_mut() else { continue };
            durable.alarm = None;
            // While it is halted or away nothing is late; resuming begins anew.
            if session == NOBODY || self.sessions.get(&session).is_none_or(|session| session.halted) {
                continue;
            }
            self.return_late(now, slot);
            self.refill(slot);
            self.offer(now, slot);
            self.watch_from(slot, now.mono);
        }
        if now.mono >= self.journal.sweep_at && !self.journal.by_key.is_empty() {
            self.journal.sweep_at = now.mono + SWEEP_TIME;
            self.sweep(now);
        }
    }

    fn return_late(&mut self, now: Now, slot: Slot) {
        loop {
            let subscription = &mut self.subscriptions[slot as usize];
            let Some(durable) = subscription.durable.as_deref_mut() else { return };
            let Some((_, id)) = durable.deadlines.first().copied().filter(|(at, _)| *at <= now.mono) else { return };
            let Some(held) = durable.take_delivered(id) else { return };
            self.give_back_delivery(now, slot, held, Duration::ZERO, "no acknowledgement came in time");
        }
    }

    /// A delivery failed: it is made again after a while, or the message becomes a dead letter.
    pub(super) fn give_back_delivery(&mut self, now: Now, slot: Slot, mut held: Held, delay: Duration, why: &str) {
        let attempts_max = self.limits.attempts;
        if held.attempts >= attempts_max {
            let text = format!("delivered {} times; the last time: {why}", held.attempts);
            self.kill(slot, held, text);
            return;
        }
        let Some(durable) = self.subscriptions[slot as usize].durable.as_deref_mut() else { return };
        held.ready = self.journal.announce(durable.key, held.entry, held.attempts + 1);
        durable.returned.insert(held.entry, (held, now.mono + delay));
    }

    /// Makes a dead letter of a message that was delivered.
    pub(super) fn kill(&mut self, slot: Slot, held: Held, text: String) {
        let Some(durable) = self.subscriptions[slot as usize].durable.as_deref() else { return };
        durable.release(&mut self.memory, held.record.size());
        let owner = durable.owner.clone();
        let line = format!(
            "message {} is a dead letter of {owner}, subscription {}: {text}; `eeveectl dead show {}` shows it",
            held.record.id, durable.name, held.entry
        );
        self.log(tracing::Level::WARN, &owner, Some(held.record.id), line);
        let death = death(GapReason::DeadLetter, text, held.attempts);
        self.bury(slot, held.entry, &held.record, death);
    }

    /// Asks the store for all that has waited too long; what is in memory is looked at when its turn comes.
    fn sweep(&mut self, now: Now) {
        let now_ms = self.journal.time(now.mono);
        for slot in self.journal.by_key.values().copied().collect::<Vec<_>>() {
            let Some(durable) = self.subscriptions[slot as usize].durable.as_deref() else { continue };
            if !durable.more || durable.loading {
                continue;
            }
            let age_max = match durable.spec.max_age_ms {
                0 => durable.bounds.age_ms,
                age => age.min(durable.bounds.age_ms),
            };
            let before_ms = now_ms.saturating_sub(age_max);
            let death = death(GapReason::Expired, "nobody took it in time", 0);
            let (durable, after) = (durable.key, durable.loaded);
            self.journal.write(Write::Expire { durable, after, before_ms, now_ms, death });
        }
    }
}
