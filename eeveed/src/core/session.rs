//! One connection as the core sees it: who it is, what it may do, what it is owed, and what waits to be written to it.

use std::collections::VecDeque;
use std::rc::Rc;
use std::time::Duration;

use libeevee::OperatorId;
use libeevee::wire::{Code, Control, Refusal};
use serde::{Deserialize, Serialize};
use smallvec::SmallVec;

use super::Action;
use super::index::Slot;
use super::message::Routed;
use super::output::{Output, PIECE_BYTES, Piece};
use super::permit::Permit;
use super::queue::Bounds;
use super::record::Pace;
use super::share::Account;
use super::spare::Spare;
use super::subscribe::Subscription;

/// The number of a session; never used again while the bus runs.
pub(crate) type SessionKey = u64;

/// Who a session belongs to, proved by the shell before it joins.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Identity {
    Operator(OperatorId),
    /// A person or their tool.
    Person {
        name: Rc<str>,
        admin: bool,
    },
    /// May ask for the reload of this operator, whose uid it has, and for nothing else.
    ReloadHelper(OperatorId),
    /// eeveed's own uid: its ExecReload.
    Daemon,
}

impl Identity {
    /// The source of what it publishes.
    pub(crate) fn source(&self) -> String {
        match self {
            Self::Operator(id) => id.to_string(),
            Self::Person { name, .. } => format!("user/{name}"),
            Self::ReloadHelper(id) => format!("reload helper of {id}"),
            Self::Daemon => "eeveed".into(),
        }
    }

    pub(crate) const fn may_publish_and_subscribe(&self) -> bool {
        matches!(self, Self::Operator(_) | Self::Person { .. })
    }
}

/// What the shell knows of a peer when it joins.
#[derive(Debug, Clone)]
pub(crate) struct Peer {
    pub(crate) uid: u32,
    pub(crate) pid: Option<i32>,
    pub(crate) program: Rc<str>,
    pub(crate) instance: u64,
}

/// What may still be published, and what is owed to the publisher.
#[derive(Debug)]
pub(crate) struct Credit {
    pub(super) messages: u64,
    /// Below zero after a message that was larger than what was left; its publisher cannot send half of it.
    pub(super) bytes: i64,
    pub(super) owed_messages: u64,
    pub(super) owed_bytes: u64,
    pub(super) full_messages: u64,
    pub(super) full_bytes: u64,
    /// Few have one.
    pub(super) rate: Option<Box<Rate>>,
}

/// A token bucket: `per_second`, at most `burst` at once.
#[derive(Debug, Clone)]
pub(super) struct Rate {
    per_second: f64,
    burst: f64,
    pub(super) tokens: f64,
    pub(super) filled: Duration,
}

/// With a rate, credit is granted in portions of this time, so that a throttled publisher costs few frames.
const RATE_PORTION: Duration = Duration::from_millis(50);

impl Credit {
    /// `rate` is (per second, burst).
    pub(crate) fn new(now: Duration, messages: u64, bytes: u64, rate: Option<(u32, u32)>) -> Self {
        let burst = rate.map_or(u64::MAX, |(_, burst)| u64::from(burst.max(1)));
        let messages = messages.min(burst);
        Self {
            messages,
            bytes: i64::try_from(bytes).unwrap_or(i64::MAX),
            owed_messages: 0,
            owed_bytes: 0,
            full_messages: messages,
            full_bytes: bytes,
            rate: rate.map(|(per_second, burst)| {
                let burst = f64::from(burst.max(1));
                // What Welcome grants is taken from the bucket.
                let tokens = burst - messages as f64;
                Box::new(Rate { per_second: f64::from(per_second.max(1)), burst, tokens, filled: now })
            }),
        }
    }

    /// What Welcome grants.
    pub(crate) const fn full(&self) -> (u64, u64) {
        (self.full_messages, self.full_bytes)
    }

    /// Another rate, from a reload; what is granted already stays granted.
    pub(crate) fn set_rate(&mut self, now: Duration, rate: Option<(u32, u32)>) {
        self.rate = Self::new(now, self.full_messages, self.full_bytes, rate).rate;
    }

    /// Takes what a publish costs; false when nothing was left.
    pub(crate) const fn take(&mut self, bytes: usize) -> bool {
        if self.messages == 0 || self.bytes <= 0 {
            return false;
        }
        self.messages -= 1;
        self.bytes -= bytes as i64;
        true
    }

    /// One message of so many bytes is dealt with: its publisher may have as much again.
    pub(crate) const fn owe(&mut self, bytes: u64) {
        self.owed_messages += 1;
        self.owed_bytes += bytes;
    }

    /// Takes what so many messages cost, all dealt with.
    pub(super) const fn spend(&mut self, messages: u64, bytes: u64) {
        self.messages -= messages;
        self.bytes -= bytes as i64;
        self.owed_messages += messages;
        self.owed_bytes += bytes;
    }

    /// What is to be granted now; small debts wait until they are worth a frame.
    pub(crate) fn grant(&mut self, now: Duration) -> Option<(u64, u64)> {
        let worth = self.owed_messages * 2 >= self.full_messages || self.owed_bytes * 2 >= self.full_bytes;
        let mut messages = self.owed_messages;
        if let Some(rate) = &mut self.rate {
            let elapsed = now.saturating_sub(rate.filled).as_secs_f64();
            rate.tokens = (rate.tokens + elapsed * rate.per_second).min(rate.burst);
            rate.filled = now;
            let portion = (rate.per_second * RATE_PORTION.as_secs_f64()).clamp(1.0, self.full_messages as f64);
            if self.owed_messages == 0 || rate.tokens < portion.min(self.owed_messages as f64) {
                return None;
            }
            messages = messages.min(rate.tokens as u64);
            rate.tokens -= messages as f64;
        } else if !worth {
            return None;
        }
        let bytes = self.owed_bytes;
        self.messages += messages;
        self.bytes = self.bytes.saturating_add_unsigned(bytes);
        self.owed_messages -= messages;
        self.owed_bytes = 0;
        Some((messages, bytes))
    }

    /// Whether [`Credit::grant`] may have something.
    #[inline]
    pub(crate) const fn is_worth_a_grant(&self) -> bool {
        self.owed_messages * 2 >= self.full_messages || self.owed_bytes * 2 >= self.full_bytes || self.rate.is_some()
    }

    /// When [`Credit::grant`] is worth calling again without another publish.
    pub(crate) fn next_grant(&self) -> Option<Duration> {
        let rate = self.rate.as_ref()?;
        (self.owed_messages > 0).then(|| rate.filled + RATE_PORTION.max(Duration::from_secs_f64(1.0 / rate.per_second)))
    }
}

/// What was put into what is written next to a session, for one subscription.
#[derive(Debug, Default)]
pub(super) struct Delivered {
    pub(super) messages: u64,
    pub(super) frame_bytes: usize,
    pub(super) document_bytes: usize,
}

/// What can be delivered directly to a subscription until it is looked at again.
#[derive(Debug)]
pub(super) struct DirectRoom {
    pub(super) messages: u64,
    pub(super) bytes: usize,
    /// To all sessions of its uid together.
    pub(super) uid: usize,
}

/// How many bytes there is room for.
#[derive(Debug)]
pub(super) struct Room {
    /// In all that waits in the bus, which is left of it.
    pub(super) bus: usize,
    /// In what each uid has.
    pub(super) uid: usize,
    /// In what is written directly to a session.
    pub(super) direct: usize,
}

/// One session in the core.
#[derive(Debug)]
pub(crate) struct Session {
    pub(crate) identity: Identity,
    pub(crate) source: Rc<str>,
    pub(crate) peer: Peer,
    /// What its uid has.
    pub(super) account: Rc<Account>,
    pub(crate) joined_wall: u64,
    pub(crate) may_publish: Permit,
    pub(crate) may_receive: Permit,
    pub(crate) credit: Credit,
    /// Subscription number and slot, sorted by number.
    pub(crate) subscriptions: SmallVec<[(u32, Slot); 2]>,
    /// The highest number that a subscription had; none is used again.
    pub(super) last_subscription: u32,
    /// Subscriptions that have something to deliver, in turn.
    pub(crate) ready: VecDeque<Slot>,
    /// Encoded frames that are written next, in this order.
    pub(super) output: Output,
    /// Bytes of a large frame that is not whole yet.
    pub(super) input: usize,
    /// How many bytes the shell was given and has not written yet, as far as the core knows.
    pub(super) unwritten: usize,
    /// Whether the shell knows that there is output.
    pub(crate) awake: bool,
    /// Set once an error ended it: nothing more is taken from it.
    pub(crate) closing: bool,
    /// The operator's halted flag, here so that output need not look it up.
    pub(crate) halted: bool,
    /// When deliveries were last let go again; older waiting messages tell their wait.
    pub(crate) resumed: Duration,
    pub(crate) requests_open: usize,
    pub(crate) published: u64,
    pub(crate) delivered: u64,
    pub(crate) dropped: u64,
    pub(crate) denied: u64,
    pub(super) rare: Option<Box<Rare>>,
}

/// What most sessions never have; made with the first of it.
#[derive(Debug, Default)]
pub(super) struct Rare {
    pub(super) claims: Vec<String>,
    /// Verbs that the shell carries out now, by the number of their answer; none where one is too long to be kept.
    pub(super) verbs: Vec<(u32, Option<Control>)>,
    pub(super) records: Pace,
}

impl Session {
    /// Whether something that it publishes is looked at.
    pub(super) const fn may_publish(&self) -> bool {
        !self.closing && self.identity.may_publish_and_subscribe()
    }

    /// What it takes of the bus's memory beside its subscriptions.
    pub(super) fn counted(&self) -> usize {
        self.output.len() + self.unwritten + self.input
    }

    /// Whether a message of a subscription with these bounds may be put behind what is written next. While the socket takes
    /// what comes, what waits there waits for a moment; when it does not, no more may wait than in a queue, and nothing that
    /// has an age, because nobody looks at it there.
    #[inline]
    pub(super) fn takes_directly(&self, bounds: &Bounds, direct_bytes: usize) -> bool {
        let waits = self.output.len() + self.unwritten;
        waits < direct_bytes
            && (self.unwritten == 0
                || (bounds.age_max.is_none() && self.output.direct() < bounds.messages && waits < bounds.bytes))
    }

    /// Whether it takes a delivery of so many bytes at once.
    #[inline(always)] // Else a call for every delivery.
    pub(super) fn takes_delivery(&self, subscription: &Subscription, frame_bytes: usize, room: &Room) -> bool {
        // With an open window, a live subscription that has something to deliver is listed.
        !subscription.listed
            && subscription.durable.is_none()
            && subscription.window_is_open()
            && !self.halted
            && !self.closing
            && self.takes_directly(subscription.queue.bounds(), room.direct)
            && subscription.queue.takes_alone(Routed::size_with(frame_bytes))
            && frame_bytes <= room.bus
            && frame_bytes <= self.account.left(room.uid)
    }

    /// Counts a delivery that was put behind what is written next.
    #[inline]
    pub(super) fn count_delivery(&mut self, subscription: &mut Subscription, delivered: &Delivered) {
        self.account.add(delivered.frame_bytes);
        self.delivered += delivered.messages;
        subscription.window_messages -= delivered.messages;
        subscription.window_bytes -= delivered.document_bytes as i64;
        subscription.delivered += delivered.messages;
    }

    /// How much of a subscription it takes at once, as [`Session::takes_delivery`] would say of each; at most that much.
    pub(super) fn room_for(&self, subscription: &Subscription, room: &Room) -> Option<DirectRoom> {
        if !self.takes_delivery(subscription, 0, room) {
            return None;
        }
        let bounds = subscription.queue.bounds();
        let waits = self.output.len() + self.unwritten;
        let mut messages = subscription.window_messages;
        let mut bytes = (room.direct - waits).min(usize::try_from(subscription.window_bytes).unwrap_or(0));
        if self.unwritten > 0 {
            messages = messages.min((bounds.messages - self.output.direct()) as u64);
            bytes = bytes.min(bounds.bytes - waits);
        }
        Some(DirectRoom { messages, bytes, uid: self.account.left(room.uid) })
    }

    /// Makes the shell look for output, once. `key` is its own.
    #[inline]
    pub(super) fn wake(&mut self, key: SessionKey, actions: &mut Vec<Action>) {
        if !self.awake {
            self.awake = true;
            actions.push(Action::Wake(key));
        }
    }

    /// Where a frame of so many bytes is added to what is written next.
    #[inline]
    pub(super) fn piece_for(&mut self, frame_bytes: usize, spare: &mut Spare) -> &mut Piece {
        // Behind as much as a piece, another one is not much.
        let is_slow = self.unwritten != 0 && self.unwritten < PIECE_BYTES;
        self.output.piece_for(frame_bytes, is_slow, spare)
    }

    pub(super) fn rare(&mut self) -> &mut Rare {
        self.rare.get_or_insert_default()
    }

    pub(super) fn claims(&self) -> &[String] {
        self.rare.as_deref().map_or(&[], |rare| &rare.claims)
    }

    pub(super) fn verbs(&self) -> &[(u32, Option<Control>)] {
        self.rare.as_deref().map_or(&[], |rare| &rare.verbs)
    }

    pub(crate) fn slot(&self, number: u32) -> Option<Slot> {
        let at = self.subscriptions.binary_search_by_key(&number, |(known, _)| *known).ok()?;
        Some(self.subscriptions[at].1)
    }
}

/// The first part of a text that a peer or a file made as long as it liked.
pub(crate) fn shortened(text: &str, bytes_max: usize) -> String {
    if text.len() <= bytes_max {
        return text.to_owned();
    }
    let end = text.floor_char_boundary(bytes_max);
    format!("{}… ({} bytes)", &text[..end], text.len())
}

/// A refusal without a rule.
pub(crate) fn refusal(code: Code, text: impl Into<String>) -> Refusal {
    Refusal { code: code as u16, text: text.into(), limit: None, value: None, rule: None }
}

/// A refusal that names the limit and the value that passed it.
pub(crate) fn beyond(code: Code, text: impl Into<String>, limit: u64, value: u64) -> Refusal {
    Refusal { limit: Some(limit), value: Some(value), ..refusal(code, text) }
}
