//! Messages in a row that the same subscriptions get under the same number: each is encoded once for all of them, and where
//! there are many, all of their sessions write the same memory. Programs of one kind that subscribe alike have the same
//! numbers; others are served one by one, in `plain.rs`.

use std::rc::Rc;

use hashbrown::HashMap;
use libeevee::wire::Lead;
use slab::Slab;
use smallvec::SmallVec;

use super::Action;
use super::index::Slot;
use super::message::Routed;
use super::output::{Chunk, PIECE_BYTES};
use super::session::{Delivered, Room, Session, SessionKey};
use super::spare::Spare;
use super::subscribe::Subscription;

/// A block of fewer bytes is copied to each session: it is less work than a piece of its own.
const SHARED_BYTES: usize = 16 << 10;

pub(super) type Slots = SmallVec<[Slot; 16]>;

/// The block that is being filled.
#[derive(Debug, Default)]
pub(super) struct FanOut {
    /// Whom the last message went to, if it was several; nobody else gets what is in the block.
    to: Slots,
    /// Whether it was looked at what they can take.
    looked: bool,
    number: u32,
    /// What they can take beyond what is in the block.
    messages_left: u64,
    bytes_left: usize,
    /// The largest message that all of their queues take.
    size_max: usize,
    block: Vec<u8>,
    delivered: Delivered,
}

/// What is delivered: the beginning of a frame, and how long it is with the document.
pub(super) struct Message<'a> {
    pub(super) lead: &'a mut Lead,
    pub(super) frame_bytes: usize,
    pub(super) document: &'a [u8],
}

/// What deliveries change in the core.
pub(super) struct Reach<'a> {
    pub(super) subscriptions: &'a mut Slab<Subscription>,
    pub(super) sessions: &'a mut HashMap<SessionKey, Box<Session>>,
    pub(super) spare: &'a mut Spare,
    pub(super) actions: &'a mut Vec<Action>,
    pub(super) owed: &'a mut usize,
    pub(super) delivered: &'a mut u64,
    pub(super) room: &'a mut Room,
}

impl FanOut {
    /// With those whom the last message of an earlier row went to. As long as it is not looked at what they can take, that is
    /// only a guess whom the next one goes to. For a short row it is not worth a look.
    pub(super) fn after(to: Slots, row_bytes: usize) -> Self {
        let to = if row_bytes < SHARED_BYTES { Slots::new() } else { to };
        Self { to, ..Self::default() }
    }

    /// Takes a message if it goes where the one before it went, to several who can all take it. If not, all that was taken
    /// before it is given to them, and it has to be delivered otherwise.
    #[inline]
    pub(super) fn take(&mut self, message: Message<'_>, to: &[Slot], reach: &mut Reach<'_>) -> bool {
        if self.to[..] != *to || to.is_empty() {
            self.settle(reach);
            self.to.clear();
            self.to.extend_from_slice(to);
            (self.looked, self.messages_left) = (false, 0);
            return false;
        }
        if !self.has_room(message.frame_bytes) {
            self.settle(reach);
            self.look(reach);
            if !self.has_room(message.frame_bytes) {
                // What they can take is less when they got it. If it is nothing, there is no point in another look.
                self.looked = self.messages_left == 0;
                self.messages_left = 0;
                return false;
            }
        }
        self.put(message);
        true
    }

    /// Whether the last message went to nobody or to one.
    #[inline]
    pub(super) fn is_idle(&self) -> bool {
        self.to.is_empty()
    }

    /// Whether all of them take one more of so many bytes, without a look at them.
    #[inline]
    fn has_room(&self, frame_bytes: usize) -> bool {
        self.messages_left > 0 && frame_bytes <= self.bytes_left && Routed::size_with(frame_bytes) <= self.size_max
    }

    #[inline]
    fn put(&mut self, Message { lead, frame_bytes, document }: Message<'_>) {
        lead.put(&mut self.block, self.number, document);
        self.messages_left -= 1;
        self.bytes_left -= frame_bytes;
        self.delivered.messages += 1;
        self.delivered.frame_bytes += frame_bytes;
        self.delivered.document_bytes += document.len();
    }

    /// Gives everybody what is in the block.
    pub(super) fn settle(&mut self, reach: &mut Reach<'_>) {
        if self.block.is_empty() {
            return;
        }
        let delivered = std::mem::take(&mut self.delivered);
        let block = Rc::new(std::mem::take(&mut self.block));
        for slot in &self.to {
            let Some(subscription) = reach.subscriptions.get_mut(*slot as usize) else { continue };
            let key = subscription.session;
            let Some(session) = reach.sessions.get_mut(&key) else { continue };
            if block.len() >= SHARED_BYTES {
                session.output.push_shared(block.clone(), delivered.messages as usize);
            } else {
                let piece = session.piece_for(block.len(), reach.spare);
                piece.bytes.extend_from_slice(&block);
                piece.counts.direct += delivered.messages as usize;
            }
            session.count_delivery(subscription, &delivered);
            *reach.owed += delivered.frame_bytes;
            *reach.delivered += delivered.messages;
            reach.room.bus = reach.room.bus.saturating_sub(delivered.frame_bytes);
            session.wake(key, reach.actions);
        }
        reach.spare.give(Chunk::Shared(block));
        self.looked = false;
    }

    /// Looks once at what they can take from now on. The block must be empty.
    fn look(&mut self, reach: &mut Reach<'_>) {
        if self.looked {
            return;
        }
        (self.looked, self.messages_left, self.bytes_left, self.size_max) = (true, 0, 0, usize::MAX);
        let (mut messages, mut bytes) = (u64::MAX, PIECE_BYTES.min(reach.room.bus / self.to.len()));
        for (at, slot) in self.to.iter().enumerate() {
            let Some(subscription) = reach.subscriptions.get(*slot as usize) else { return };
            let Some(session) = reach.sessions.get(&subscription.session) else { return };
            // Two subscriptions of one session have different numbers, and their deliveries may stand in any order.
            if at > 0 && subscription.number != self.number {
                return;
            }
            self.number = subscription.number;
            let Some(room) = session.room_for(subscription, reach.room) else { return };
            messages = messages.min(room.messages);
            bytes = bytes.min(room.bytes).min(room.uid / self.to.len());
            self.size_max = self.size_max.min(subscription.queue.bounds().bytes);
        }
        (self.messages_left, self.bytes_left) = (messages, bytes);
        if self.block.capacity() == 0 {
            self.block = reach.spare.take().unwrap_or_default();
        }
    }

    /// The buffer of the block again, and whom the last message went to.
    pub(super) fn into_parts(self) -> (Vec<u8>, Slots) {
        (self.block, self.to)
    }
}
