//! The messages that the program was given: what it needs to answer them later, and which of them it has in hand.

use std::collections::BTreeMap;
use std::time::Duration;

use bytes::Bytes;
use libeevee::operator::InHand;
use libeevee::{Document, Message};
use tokio::time::Instant;

/// Messages that can still be answered. A program that answers later than this publishes instead.
const MESSAGES_MAX: usize = 1000;
const BYTES_MAX: usize = 8 << 20;

#[derive(Default)]
pub(super) struct Given {
    messages: BTreeMap<u64, Entry>,
    bytes: usize,
    /// How many wait for their acknowledgement.
    waiting: usize,
}

struct Entry {
    /// Without its body.
    message: Message,
    bytes: usize,
    /// Since when it waits for its acknowledgement.
    waits: Option<Instant>,
    in_hand: Option<InHand>,
}

impl Given {
    /// Keeps what an answer needs. `in_hand` is for one that has to be acknowledged.
    pub(super) fn insert(&mut self, mut message: Message, in_hand: Option<InHand>) {
        // One of its own, too: a document shares what was read together with it.
        let headers = message.document.decode().headers;
        message.document = (&Document { headers, body: Bytes::new() }).into();
        let headers = message.document.headers();
        let bytes = 256 + headers.map(|(key, value)| key.len() + value.len() + 48).sum::<usize>();
        let waits = in_hand.is_some().then(Instant::now);
        let id = message.id;
        self.remove(id);
        self.bytes += bytes;
        self.waiting += usize::from(waits.is_some());
        self.messages.insert(id, Entry { message, bytes, waits, in_hand });
        while self.messages.len() > MESSAGES_MAX || self.bytes > BYTES_MAX {
            // Those that wait for an acknowledgement are few, as many as the bus has in flight.
            let oldest = self.messages.iter().find(|(known, entry)| entry.waits.is_none() && **known != id);
            let Some(oldest) = oldest.map(|(id, _)| *id) else { break };
            self.remove(oldest);
        }
    }

    fn remove(&mut self, id: u64) {
        if let Some(entry) = self.messages.remove(&id) {
            self.bytes -= entry.bytes;
            self.waiting -= usize::from(entry.waits.is_some());
        }
    }

    pub(super) fn get(&self, id: u64) -> Option<&Message> {
        self.messages.get(&id).map(|entry| &entry.message)
    }

    /// The program says that it is done with it, if that is waited for. It can still be answered.
    pub(super) fn settle(&mut self, id: u64) -> Option<Message> {
        let entry = self.messages.get_mut(&id)?;
        entry.waits.take()?;
        entry.in_hand = None;
        self.waiting -= 1;
        Some(entry.message.clone())
    }

    /// When the first of them was given.
    pub(super) fn oldest(&self) -> Option<Instant> {
        // Most programs acknowledge nothing, and this is asked for each line.
        if self.waiting == 0 {
            return None;
        }
        self.messages.values().filter_map(|entry| entry.waits).min()
    }

    /// Takes those out of the program's hands that it has for longer than this. They can still be answered.
    pub(super) fn take_late(&mut self, within: Duration) -> Vec<Message> {
        let late = |entry: &Entry| entry.waits.is_some_and(|since| since.elapsed() >= within);
        let ids: Vec<u64> = self.messages.iter().filter(|(_, entry)| late(entry)).map(|(id, _)| *id).collect();
        ids.into_iter().filter_map(|id| self.settle(id)).collect()
    }

    /// The program is gone: all that it had in hand.
    pub(super) fn clear(&mut self) -> Vec<Message> {
        self.bytes = 0;
        self.waiting = 0;
        let messages = std::mem::take(&mut self.messages).into_values();
        messages.filter(|entry| entry.waits.is_some()).map(|entry| entry.message).collect()
    }
}

#[cfg(test)]
mod tests {
    use libeevee::{Delivery, Document, Timestamp};

    use super::*;

    fn message(id: u64, header: usize) -> Message {
        Message {
            id,
            source: "irc".into(),
            timestamp: Timestamp(0),
            cause: None,
            hops: 0,
            document: Document::new([("k", "v".repeat(header))], "body").unwrap().into(),
            reply_address: None,
            delivery: Delivery::default(),
        }
    }

    #[test]
    fn the_oldest_are_forgotten() {
        let mut given = Given::default();
        for id in 0..3000 {
            given.insert(message(id, 10), None);
        }
        assert_eq!(given.messages.len(), MESSAGES_MAX);
        assert!(given.get(1999).is_none() && given.get(2000).is_some() && given.get(2999).is_some());
        assert!(given.get(2999).unwrap().document.body().is_empty());
        given.insert(message(2999, 10), None);
        let counted: usize = given.messages.values().map(|entry| entry.bytes).sum();
        assert_eq!(given.bytes, counted, "one that comes again is counted once");
        assert_eq!(given.clear().len(), 0);
        assert_eq!(given.bytes, 0);
    }
}
