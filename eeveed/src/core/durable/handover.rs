//! What a clean restart hands over of durable subscriptions, beside the store: what was delivered and not acknowledged, so
//! that it is not delivered again.

use std::sync::Arc;
use std::time::Duration;

use libeevee::GapReason;
use libeevee::wire::{Code, EncodedDocument, GapNotice};
use serde::{Deserialize, Serialize};

use super::repeat::Repeats;
use super::rest::{Done, SavedRest, done};
use super::{Durable, Flight, Held, Undone};
use crate::core::handover::{Absurd, BlobNumber, Blobs};
use crate::core::index::Slot;
use crate::core::permit::is_volatile;
use crate::core::session::{SessionKey, refusal};
use crate::core::storage::{DurableKey, EntryNumber, PublisherRow, Record, Write};
use crate::core::{Core, Now};

#[derive(Debug, Default, Serialize, Deserialize)]
pub(in crate::core) struct SavedDurables {
    /// The number of the last batch: as long as the store has the same, it is the store that this was saved beside.
    batch: u64,
    /// The store's own clock at the zero of the monotonic one: both went on meanwhile, whatever the wall clock did.
    time_base: i64,
    list: Vec<SavedDurable>,
    /// (source, epoch, state, used)
    publishers: Vec<(String, u64, String, u64)>,
    /// Those of which the disk knows less: (source, epoch)
    #[serde(default)]
    unwritten: Vec<(String, u64)>,
    /// Those that it is to forget.
    #[serde(default)]
    forgotten: Vec<(String, u64)>,
}

#[derive(Debug, Serialize, Deserialize)]
pub(in crate::core) struct SavedDurable {
    key: DurableKey,
    session: Option<SavedAttachment>,
    open_since_ms: u64,
    marked: EntryNumber,
    /// What may have been delivered before the last crash, and was not loaded since.
    #[serde(default)]
    recovered_mark: EntryNumber,
    loaded: EntryNumber,
    more: bool,
    in_flight: Vec<SavedFlight>,
    returned: Vec<SavedFlight>,
    /// (entry, message, attempts, bytes)
    undone: Vec<(EntryNumber, u64, u32, u64)>,
    /// (first, last, count, reason)
    gaps: Vec<(u64, u64, Option<u64>, u8)>,
    delivered: u64,
    dropped: u64,
    #[serde(default)]
    rest: SavedRest,
}

#[derive(Debug, Serialize, Deserialize)]
struct SavedAttachment {
    session: SessionKey,
    number: u32,
    window_messages: u64,
    window_bytes: i64,
}

#[derive(Debug, Serialize, Deserialize)]
struct SavedFlight {
    entry: EntryNumber,
    since_ms: u64,
    expires_ms: u64,
    attempts: u32,
    refused: String,
    /// Nanoseconds of the monotonic clock.
    at: u64,
    id: u64,
    source: String,
    timestamp: u64,
    cause: Option<u64>,
    hops: u8,
    reply_address: Option<u64>,
    document: Option<BlobNumber>,
    /// The disk does not know yet that it may be delivered once more.
    #[serde(default)]
    unannounced: bool,
}

/// Milliseconds that no clock of a store shows.
const TIME_MAX: i64 = 1 << 53;

/// What waits for the store to say that the subscription is there.
#[derive(Debug)]
pub(in crate::core) struct HandedOver {
    saved: SavedDurable,
    in_flight: Vec<(Held, Duration)>,
    returned: Vec<(Held, Duration)>,
}

impl SavedFlight {
    fn of(held: &Held, at: Duration, committed: u64, blobs: &mut Blobs) -> Self {
        let record = &held.record;
        Self {
            entry: held.entry,
            since_ms: held.since_ms,
            expires_ms: held.expires_ms,
            attempts: held.attempts,
            refused: held.refused.clone(),
            at: u64::try_from(at.as_nanos()).unwrap_or(u64::MAX),
            id: record.id,
            source: record.source.to_string(),
            timestamp: record.timestamp,
            cause: record.cause,
            hops: record.hops,
            reply_address: record.reply_address,
            document: blobs.put(record.document.bytes()),
            unannounced: held.ready > committed,
        }
    }

    fn restore(self, blobs: &mut Blobs) -> Result<(Held, Duration), Absurd> {
        let Self { entry, since_ms, expires_ms, attempts, refused, at, id, source, timestamp, cause, hops, .. } = self;
        let bytes = bytes::Bytes::from(blobs.take(self.document)?.into_vec());
        let document = EncodedDocument::parse(bytes).map_err(|_| Absurd("bytes that are no document"))?;
        let (source, reply_address) = (source.into(), self.reply_address);
        let ready = if self.unannounced { u64::MAX } else { 0 };
        let record = Arc::new(Record { id, source, timestamp, cause, hops, reply_address, document });
        Ok((Held { entry, since_ms, expires_ms, attempts, ready, refused, record }, Duration::from_nanos(at)))
    }
}

impl Core {
    /// To be called when nothing waits for the disk any more but what it did not take.
    pub(in crate::core) fn save_durables(&self, blobs: &mut Blobs) -> SavedDurables {
        let slots = self.journal.by_name.values();
        let waiting = self.journal.waiting();
        let done = done(waiting);
        let list = slots.filter_map(|slot| self.save_durable(*slot, &done, blobs)).collect();
        let forgotten = waiting.iter().filter_map(|write| match write {
            Write::ForgetPublisher { source, epoch } => Some((source.clone(), *epoch)),
            _ => None,
        });
        let (forgotten, unwritten) = (forgotten.collect(), self.journal.repeats.dirty());
        let publishers = self.journal.repeats.rows();
        let publishers = publishers.into_iter().map(|row| (row.source, row.epoch, row.state, row.used)).collect();
        SavedDurables {
            batch: self.journal.committed.get(),
            time_base: self.journal.time_base,
            list,
            publishers,
            unwritten,
            forgotten,
        }
    }

    fn save_durable(&self, slot: Slot, done: &Done<'_>, blobs: &mut Blobs) -> Option<SavedDurable> {
        let subscription = self.subscriptions.get(slot as usize)?;
        let durable = subscription.durable.as_deref()?;
        let attachment = SavedAttachment {
            session: subscription.session,
            number: subscription.number,
            window_messages: subscription.window_messages,
            window_bytes: subscription.window_bytes,
        };
        // What was loaded and not delivered is loaded again.
        let loaded = durable.head.front().map_or(durable.loaded, |first| first.entry - 1);
        let undone = durable.undone.iter();
        let gap = |gap: &GapNotice| (gap.first, gap.last, gap.count, gap.reason);
        let (flights, committed) = (durable.in_flight.values(), durable.committed.get());
        // A message that was delivered in an earlier session may stand at the front again: its attempts are kept.
        let again = durable.head.iter().filter(|held| held.attempts > 0);
        let again = again.map(|held| (held.entry, held.record.id, held.attempts, held.record.size()));
        Some(SavedDurable {
            key: durable.key,
            session: self.sessions.get(&subscription.session).map(|_| attachment),
            open_since_ms: durable.open_since_ms,
            marked: durable.marked,
            recovered_mark: durable.recovered_mark,
            loaded,
            more: durable.more || durable.loading || !durable.head.is_empty(),
            in_flight: flights.map(|flight| SavedFlight::of(&flight.held, flight.deadline, committed, blobs)).collect(),
            returned: durable
                .returned
                .values()
                .map(|(held, at)| SavedFlight::of(held, *at, committed, blobs))
                .collect(),
            undone: undone
                .map(|(entry, undone)| (*entry, undone.id, undone.attempts, undone.bytes))
                .chain(again)
                .collect(),
            gaps: subscription.queue().front().map(gap).collect(),
            delivered: subscription.delivered,
            dropped: subscription.dropped,
            rest: SavedRest::of(durable, done),
        })
    }

    /// Keeps what the last run saved until [`Core::recover`].
    pub(in crate::core) fn restore_durables(&mut self, saved: SavedDurables, blobs: &mut Blobs) -> Result<(), Absurd> {
        let rows: Vec<PublisherRow> = saved
            .publishers
            .into_iter()
            .map(|(source, epoch, state, used)| PublisherRow { source, epoch, state, used })
            .collect();
        self.journal.repeats = Repeats::recover(&rows);
        saved.unwritten.iter().for_each(|(source, epoch)| self.journal.repeats.mark_dirty(source, *epoch));
        self.journal.handed_over_forgotten = saved.forgotten;
        if !(-TIME_MAX..TIME_MAX).contains(&saved.time_base) {
            return Err(Absurd("a clock beyond all bounds"));
        }
        self.journal.time_base = saved.time_base;
        self.journal.trusted = Some(saved.batch);
        for mut saved in saved.list {
            let mut restore = |list: &mut Vec<SavedFlight>| {
                std::mem::take(list).into_iter().map(|flight| flight.restore(blobs)).collect::<Result<Vec<_>, _>>()
            };
            let (in_flight, returned) = (restore(&mut saved.in_flight)?, restore(&mut saved.returned)?);
            self.journal.handed_over.push(HandedOver { saved, in_flight, returned });
        }
        Ok(())
    }

    /// Gives durable subscriptions back to the sessions that had them.
    pub(super) fn reattach(&mut self, now: Now, trusted: bool) {
        for (source, epoch) in std::mem::take(&mut self.journal.handed_over_forgotten) {
            if trusted {
                self.journal.write(Write::ForgetPublisher { source, epoch });
            }
        }
        for handed in std::mem::take(&mut self.journal.handed_over) {
            let slot = self.journal.by_key.get(&handed.saved.key).copied();
            match (slot, trusted) {
                (Some(slot), true) => self.take_up(now, slot, handed),
                _ => self.end_attachment(&handed.saved),
            }
        }
    }

    fn take_up(&mut self, now: Now, slot: Slot, handed: HandedOver) {
        let HandedOver { saved, in_flight, returned } = handed;
        let subscription = &mut self.subscriptions[slot as usize];
        (subscription.delivered, subscription.dropped) = (saved.delivered, saved.dropped);
        for (first, last, count, reason) in saved.gaps {
            let reason = GapReason::from_code(reason).map_or(GapReason::Disconnected as u8, |reason| reason as u8);
            subscription.note_gap(GapNotice { first, last, count, reason });
        }
        self.restore_rest(slot, saved.rest);
        let Some(durable) = self.subscriptions[slot as usize].durable.as_deref_mut() else { return };
        // As exact as it was: nobody wrote in between, and what was delivered since the last crash stands here.
        durable.recovered_mark = saved.recovered_mark;
        durable.undone = saved
            .undone
            .iter()
            .map(|(entry, id, attempts, bytes)| (*entry, Undone { id: *id, attempts: *attempts, bytes: *bytes }))
            .collect();
        durable.open_since_ms = saved.open_since_ms;
        let Some(SavedAttachment { session: key, number, window_messages, window_bytes }) = saved.session else {
            put_back(durable, in_flight.into_iter().chain(returned));
            return;
        };
        let owner = durable.owner.clone();
        let Some(session) = self.sessions.get_mut(&key).filter(|session| session.source == owner) else {
            put_back(durable, in_flight.into_iter().chain(returned));
            return;
        };
        let at = session.subscriptions.partition_point(|(known, _)| *known < number);
        session.subscriptions.insert(at, (number, slot));
        let (may_receive, account) = (session.may_receive.clone(), session.account.clone());
        self.set_account(slot, &account);
        let subscription = &mut self.subscriptions[slot as usize];
        let Some(durable) = subscription.durable.as_deref_mut() else { return };
        subscription.session = key;
        subscription.number = number;
        (subscription.window_messages, subscription.window_bytes) = (window_messages, window_bytes);
        (durable.loaded, durable.more, durable.marked) = (saved.loaded, saved.more, saved.marked);
        durable.may_receive = may_receive;
        for (held, deadline) in in_flight {
            let id = held.record.id;
            durable.hold(&mut self.memory, held.record.size());
            durable.deadlines.insert((deadline, id));
            durable.in_flight.insert(id, Flight { held, deadline });
        }
        for (mut held, from) in returned {
            durable.hold(&mut self.memory, held.record.size());
            if held.ready > 0 {
                held.ready = self.journal.announce(durable.key, held.entry, held.attempts + 1);
            }
            durable.returned.insert(held.entry, (held, from));
        }
        let volatile = durable.may_receive.is_volatile() || subscription.filters.iter().any(is_volatile);
        if volatile != subscription.volatile {
            self.unfile(slot);
            self.subscriptions[slot as usize].volatile = volatile;
            self.file(slot);
        }
        self.refill(slot);
        self.watch(slot);
        self.offer(now, slot);
    }

    /// The store is not the one that was handed over: the session has no such subscription any more, and is told.
    fn end_attachment(&mut self, saved: &SavedDurable) {
        if let Some(attachment) = &saved.session {
            let text = "the store of durable messages is not as it was when the bus was stopped (see its journal); \
                        subscribe again";
            self.refuse(attachment.session, attachment.number, refusal(Code::Storage, text));
        }
    }
}

/// Nobody has it now: what was delivered comes again.
fn put_back(durable: &mut Durable, delivered: impl Iterator<Item = (Held, Duration)>) {
    for (held, _) in delivered {
        let undone = Undone { id: held.record.id, attempts: held.attempts, bytes: held.record.size() };
        durable.undone.insert(held.entry, undone);
    }
    durable.loaded = 0;
    durable.more = durable.messages > 0;
}
