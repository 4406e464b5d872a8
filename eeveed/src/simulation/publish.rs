//! Publishing, once or again.

use std::rc::Rc;

use libeevee::Headers;
use libeevee::wire::{CONFIRM, Code, Content, EncodedDocument, Frame, Overflow, Publish, REPEATED, Refusal};

use super::client::{Asked, ClientNumber, Publication, Unsent};
use super::texts::{Message, some_document};
use super::world::{Taken, World};
use crate::core::Event;

/// What is sent.
struct Sending {
    headers: Headers,
    document: EncodedDocument,
    cause: Option<u64>,
    confirmed: bool,
    numbers: (u64, u64),
}

impl World {
    pub(super) fn publish(&mut self, at: ClientNumber) {
        if self.clients[at].session.is_none() || self.clients[at].credit == 0 {
            return;
        }
        let (headers, document) = some_document(&mut self.random);
        let cause = match self.answerable.len() {
            0 => None,
            count => (self.random.u8(0..3) == 0).then(|| self.answerable[self.random.usize(0..count)]),
        };
        let confirmed = self.random.u8(0..4) > 0 && !self.plain;
        let mut numbers = (0, 0);
        if confirmed && self.random.bool() {
            let which = self.random.usize(0..2);
            let (epoch, next) = &mut self.clients[at].epochs[which];
            numbers = (*epoch, *next);
            *next += 1;
            let (epoch, sequence) = numbers;
            let unsent =
                Unsent { epoch, sequence, headers: headers.clone(), document: document.clone(), refused: false };
            self.clients[at].outbox.push_back(unsent);
        }
        let cause = cause.filter(|_| numbers.0 == 0 && !self.plain);
        let again = if self.plain { self.random.usize(0..4) } else { 0 };
        for _ in 0..again {
            // The same headers in a row; nothing else happens between.
            if self.clients[at].session.is_none() || self.clients[at].credit == 0 {
                return;
            }
            let (headers, document) = (headers.clone(), document.clone());
            self.send_publish(at, Sending { headers, document, cause: None, confirmed: false, numbers: (0, 0) });
        }
        if self.clients[at].session.is_some() && self.clients[at].credit > 0 {
            self.send_publish(at, Sending { headers, document, cause, confirmed, numbers });
        }
    }

    /// Sends again what was not confirmed, in order: all of it after a reconnect, else what was refused.
    pub(super) fn publish_again(&mut self, at: ClientNumber, refused_only: bool) {
        if self.clients[at].session.is_none() {
            return;
        }
        let again: Vec<Unsent> =
            self.clients[at].outbox.iter().filter(|unsent| !refused_only || unsent.refused).cloned().collect();
        for unsent in again {
            if self.clients[at].credit == 0 {
                return;
            }
            let Unsent { epoch, sequence, headers, document, .. } = unsent;
            if let Some(known) =
                self.clients[at].outbox.iter_mut().find(|known| (known.epoch, known.sequence) == (epoch, sequence))
            {
                known.refused = false;
            }
            let numbers = (epoch, sequence);
            self.send_publish(at, Sending { headers, document, cause: None, confirmed: true, numbers });
        }
    }

    fn send_publish(&mut self, at: ClientNumber, sending: Sending) {
        let Sending { headers, document, cause, confirmed, numbers } = sending;
        let (client, number) = (&mut self.clients[at], self.numbers + 1);
        self.numbers = number;
        client.credit -= 1;
        let (source, Some(session)) = (client.source, client.session) else { return };
        let known = self.taken.get(&(source, numbers.0, numbers.1)).copied();
        let publish = Publish { cause, hops: 0, epoch: numbers.0, sequence: numbers.1, document: document.clone() };
        let frame = Frame { flags: if confirmed { CONFIRM } else { 0 }, number, content: Content::Publish(publish) };
        let (take, before) = (self.takes, self.core.memory + self.core.owed);
        self.note(|| format!("{at} publishes {numbers:?} as {number}"));
        let ids = self.step(Event::Frame { session, frame }, true);
        let frames = self.output(at, 0);
        let of_it = |frame: &&Frame| frame.number == number;
        let refusal = frames.iter().find(of_it).and_then(|frame| match &frame.content {
            Content::Error(refusal) => Some(refusal.clone()),
            _ => None,
        });
        let repeated = frames.iter().find(of_it).is_some_and(|frame| frame.flags & REPEATED != 0);
        let mut publication = Publication { id: None, confirmed, take: u64::MAX, live: 0, durable: 0, numbers };
        if let Some(known) = known {
            assert!(ids.is_empty(), "{numbers:?} of {source} is routed twice");
            if let Taken::Open { take, .. } = known {
                publication.take = take;
            } else {
                assert!(repeated, "{numbers:?} of {source} was taken, and is not known: {refusal:?}");
            }
            self.clients[at].asked.insert(number, Asked::Publish(publication));
        } else {
            assert!(!repeated, "{numbers:?} of {source} is taken for one that came before");
            let id = ids.start;
            let hops = cause.map_or(0, |cause| self.hops[&cause] + 1);
            let message = Rc::new(Message { id, source, hops, headers, document });
            if let Some(refusal) = refusal {
                self.check_refusal(at, &message, &refusal, before);
                if refusal.code == Code::Denied as u16 {
                    // It is given up.
                    self.clients[at].answered(numbers);
                }
                self.clients[at].refused(numbers);
                let rest = frames.into_iter().filter(|frame| frame.number != number).collect();
                self.look_at_all(at, rest);
                return;
            }
            assert!(hops <= 16, "a loop goes on");
            assert!(message.is_permitted(self.clients[at].permits.0), "{source} publishes what it may not");
            self.hops.insert(id, hops);
            self.answerable.push(id);
            let (live, durable) = self.route(&message, take);
            if numbers.0 != 0 {
                let taken = if durable > 0 { Taken::Open { take, id } } else { Taken::Done { take, id } };
                self.taken.insert((source, numbers.0, numbers.1), taken);
            }
            publication = Publication { id: Some(id), live, durable, take, ..publication };
            if durable == 0 {
                publication.take = u64::MAX;
            }
            let answered_now = frames.iter().any(|frame| frame.number == number);
            assert_eq!(answered_now, confirmed && durable == 0, "a confirmation at its time");
            if confirmed || durable > 0 {
                self.clients[at].asked.insert(number, Asked::Publish(publication));
            }
        }
        self.look_at_all(at, frames);
    }

    fn look_at_all(&mut self, at: ClientNumber, frames: Vec<Frame>) {
        for frame in frames {
            self.look(at, frame);
        }
    }

    /// Whether there is the reason for it that the bus gives.
    fn check_refusal(&mut self, at: ClientNumber, message: &Message, refusal: &Refusal, before: usize) {
        self.note(|| format!("{at} may not publish: {}", refusal.text));
        match Code::from_number(refusal.code) {
            Code::Denied => assert!(!message.is_permitted(self.clients[at].permits.0), "no rule: {refusal:?}"),
            Code::Loop => assert!(message.hops > 16, "no loop: {}", message.hops),
            Code::Memory => {
                let places = self.core.subscriptions.len() * (message.document.bytes().len() + 400);
                let would_be = before + 1000 + places;
                assert!(would_be > self.core.limits.memory_per_uid, "{refusal:?}");
            }
            Code::Storage => assert!(self.sick, "refused by a good disk: {}", refusal.text),
            Code::Full => {
                let size = crate::core::storage::Record::size_of(message.document.view(), message.source);
                let full = self.kept.values().filter(|kept| kept.matches(message)).any(|kept| {
                    let (count, bytes) = kept.counted(self.answered);
                    let over = count + 1 > kept.bounds.messages || bytes + size > kept.bounds.bytes;
                    over && kept.wish().overflow == Overflow::Reject
                });
                assert!(full || self.is_store_full(14 * size), "not full: {}", refusal.text);
            }
            code => panic!("{code}: {}", refusal.text),
        }
    }
}
