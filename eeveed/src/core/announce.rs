//! What the bus itself publishes: states of operators, their commands, log records. It goes the way of every message, but for
//! permit and credit, and nobody can be refused it: who does not get it is told.

use std::rc::Rc;

use libeevee::GapReason;
use libeevee::wire::{EncodedDocument, Envelope};

use super::durable::Enqueue;
use super::index::{Slot, View};
use super::message::Routed;
use super::queue::PLACE_BYTES;
use super::storage::Record;
use super::{Core, Now};

/// From whom the bus publishes what it composed.
pub(super) struct Announced {
    pub(super) source: Rc<str>,
    pub(super) cause: Option<u64>,
    pub(super) hops: u8,
    /// Of a log record, its own source gets none.
    pub(super) is_record: bool,
}

impl Core {
    /// Publishes on behalf of the bus itself, as source `eeveed`.
    pub(super) fn announce(&mut self, now: Now, document: &EncodedDocument) {
        let from = Announced { source: "eeveed".into(), cause: None, hops: 0, is_record: false };
        self.announce_from(now, &from, document);
    }

    /// Publishes what the bus composed, for which nobody needs a permit or credit.
    pub(super) fn announce_from(&mut self, now: Now, from: &Announced, document: &EncodedDocument) {
        let Ok(id) = self.next_id() else { return };
        let Announced { ref source, cause, hops, is_record } = *from;
        let document = document.view();
        let view = View::new(id, source, now.wall, cause, hops, document);
        let mut found = self.find_indexed(&view);
        found.extend(self.find_volatile(&view));
        if is_record {
            found.retain(|slot| !self.is_of(*slot, source));
        }
        if cause.is_some() {
            self.hops.keep(id, hops);
        }
        let to = self.targets(found);
        if !to.durable().is_empty() {
            match self.check_durable(to.durable(), Record::size_of(document, source)) {
                Ok(()) => {
                    let record = Record {
                        id,
                        source: (**source).into(),
                        timestamp: now.wall,
                        cause,
                        hops,
                        reply_address: None,
                        document: document.detached(),
                    };
                    let (epoch, sequence, live, wanted_ms) = (0, 0, 0, 0);
                    let enqueue =
                        Enqueue { confirm: None, source, epoch, sequence, live, credit: None, record, wanted_ms };
                    self.enqueue_durable(now, to.durable(), enqueue);
                }
                // There is no publisher to refuse it to; those who do not get it are told.
                Err(_) => to.durable().iter().for_each(|slot| self.tell_gap(*slot, id, GapReason::Memory)),
            }
        }
        if to.live().is_empty() {
            return;
        }
        if self.check_memory(Routed::size_of(document) + to.live().len() * PLACE_BYTES).is_err() {
            self.lose(now, to.live(), id, GapReason::Memory);
            return;
        }
        let envelope =
            Envelope { id, source, timestamp: now.wall, cause, hops, reply_address: None, attempt: 1, waited_ms: 0 };
        self.deliver(now, to.live(), &envelope, document);
    }

    /// Whether a subscription belongs to this source.
    fn is_of(&self, slot: Slot, source: &str) -> bool {
        let Some(subscription) = self.subscriptions.get(slot as usize) else { return false };
        match (&subscription.durable, self.sessions.get(&subscription.session)) {
            (Some(durable), _) => *durable.owner == *source,
            (None, session) => session.is_some_and(|session| *session.source == *source),
        }
    }
}
