//! The queue of one live subscription: bounded in messages and bytes, and exact about what it lost.
//!
//! Lost messages leave a gap at the very place where they would have been. Gaps need no room that could run out: at the
//! front there is at most one for each reason, and anywhere else they merge with a neighbour of the same reason.

use std::collections::VecDeque;
use std::time::Duration;

use libeevee::GapReason;
use libeevee::wire::{GapNotice, Overflow};

use super::message::Routed;

/// What a queue may hold, and what happens beyond it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Bounds {
    pub(crate) messages: usize,
    pub(crate) bytes: usize,
    pub(crate) overflow: Overflow,
    pub(crate) age_max: Option<Duration>,
}

/// A message that waits, and since when (monotonic).
#[derive(Debug, Clone)]
pub(crate) struct Waiting {
    pub(crate) message: Routed,
    pub(crate) since: Duration,
}

/// What a place in a queue is counted as: a deque grows by doubling, and a gap may stand beside a message.
pub(crate) const PLACE_BYTES: usize = 2 * size_of::<Entry>();

/// Room that a queue may keep when it is empty.
const PLACES_KEPT: usize = 64;

#[derive(Debug)]
pub(super) enum Entry {
    Message(Waiting),
    Gap(GapNotice),
}

/// What [`Queue::push`] did.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Pushed {
    Queued,
    /// So many messages were lost for it, perhaps itself.
    Dropped(u64),
    /// The policy is to end the session; this is what there was no room in.
    Disconnect(GapReason),
}

/// What is next for the subscriber.
#[derive(Debug)]
pub(crate) enum Next {
    Gap(GapNotice),
    Message(Waiting),
}

/// The bounds stand first, because every delivery looks at them.
#[derive(Debug)]
#[repr(C)]
pub(crate) struct Queue {
    bounds: Bounds,
    /// None before something waited for the first time: mostly nothing ever does.
    held: Option<Box<Held>>,
    messages: usize,
    bytes: usize,
}

/// What waits.
#[derive(Debug, Default)]
struct Held {
    /// Lost before everything in `entries`, at most one a reason.
    front: Vec<GapNotice>,
    entries: VecDeque<Entry>,
}

impl Queue {
    pub(crate) const fn new(bounds: Bounds) -> Self {
        Self { bounds, held: None, messages: 0, bytes: 0 }
    }

    pub(crate) const fn messages(&self) -> usize {
        self.messages
    }

    pub(crate) const fn bytes(&self) -> usize {
        self.bytes
    }

    pub(crate) const fn bounds(&self) -> &Bounds {
        &self.bounds
    }

    /// New bounds; what is beyond them goes at the next push.
    pub(crate) const fn set_bounds(&mut self, bounds: Bounds) {
        self.bounds = bounds;
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.held.as_deref().is_none_or(|held| held.front.is_empty() && held.entries.is_empty())
    }

    /// Whether a gap stands at the front, which needs no window and is told even while halted.
    pub(crate) fn starts_with_gap(&self) -> bool {
        let Some(held) = self.held.as_deref() else { return false };
        !held.front.is_empty() || matches!(held.entries.front(), Some(Entry::Gap(_)))
    }

    /// Adds a message, or makes the policy act. `left` is what is left of the share of its uid, of which messages that go
    /// for it give back what they took; `dropped` is given every message that leaves without delivery.
    pub(crate) fn push(
        &mut self,
        waiting: Waiting,
        mut left: usize,
        halted: bool,
        dropped: &mut impl FnMut(Routed),
    ) -> Pushed {
        let size = waiting.message.size();
        let Some(mut reason) = self.lacks(size, left) else {
            self.append(waiting);
            return Pushed::Queued;
        };
        // What all of this queue would give back is not enough: its own uid has filled its share elsewhere.
        let hopeless = left + self.bytes + self.messages * PLACE_BYTES < PLACE_BYTES + size;
        match self.bounds.overflow {
            Overflow::Disconnect if !halted => {
                dropped(waiting.message);
                Pushed::Disconnect(reason)
            }
            _ if hopeless => {
                self.append_gap(one(waiting.message.id, GapReason::Memory));
                dropped(waiting.message);
                Pushed::Dropped(1)
            }
            // A halted subscription is never disconnected: it keeps the newest, as by default. (Reject is for durable
            // subscriptions; a live one that asks for it is refused.)
            Overflow::DropOldest | Overflow::Disconnect | Overflow::Reject => {
                let mut count = 0;
                while let Some(oldest) = self.drop_oldest(reason) {
                    left += PLACE_BYTES + oldest.size();
                    dropped(oldest);
                    count += 1;
                    match self.lacks(size, left) {
                        None => {
                            self.append(waiting);
                            return Pushed::Dropped(count);
                        }
                        Some(still) => reason = still,
                    }
                }
                // Larger than the whole queue may be.
                self.append_gap(one(waiting.message.id, reason));
                dropped(waiting.message);
                Pushed::Dropped(count + 1)
            }
            Overflow::DropNewest => {
                self.append_gap(one(waiting.message.id, reason));
                dropped(waiting.message);
                Pushed::Dropped(1)
            }
        }
    }

    /// What is next, if a message may be taken (`window`) or a gap stands first. Messages past their age become a gap.
    pub(crate) fn pop(&mut self, now: Duration, window: bool, dropped: &mut impl FnMut(Routed)) -> Option<Next> {
        self.expire(now, dropped);
        let held = self.held.as_deref_mut()?;
        if !held.front.is_empty() {
            return Some(Next::Gap(held.front.remove(0)));
        }
        match held.entries.front()? {
            Entry::Message(_) if !window => None,
            _ => {
                let entry = held.entries.pop_front()?;
                held.give_room_back();
                Some(match entry {
                    Entry::Gap(gap) => Next::Gap(gap),
                    Entry::Message(waiting) => {
                        self.messages -= 1;
                        self.bytes -= waiting.message.size();
                        Next::Message(waiting)
                    }
                })
            }
        }
    }

    /// Gives up the messages that may not be received any more: the permission for them has expired.
    pub(crate) fn retain(&mut self, may: impl Fn(&Routed) -> bool, dropped: &mut impl FnMut(Routed)) {
        let entries = self.held.as_deref_mut().map(|held| std::mem::take(&mut held.entries));
        for entry in entries.into_iter().flatten() {
            match entry {
                Entry::Message(waiting) if !may(&waiting.message) => {
                    self.messages -= 1;
                    self.bytes -= waiting.message.size();
                    self.append_gap(one(waiting.message.id, GapReason::Expired));
                    dropped(waiting.message);
                }
                Entry::Gap(gap) => self.append_gap(gap),
                entry => self.held().entries.push_back(entry),
            }
        }
    }

    /// Gives up everything, when the subscription ends.
    pub(crate) fn clear(&mut self, dropped: &mut impl FnMut(Routed)) {
        for entry in self.held.take().into_iter().flat_map(|held| held.entries) {
            if let Entry::Message(waiting) = entry {
                dropped(waiting.message);
            }
        }
        self.messages = 0;
        self.bytes = 0;
    }

    /// What there is no room in for a message of this size, if anything: in the queue itself, or in its uid's share.
    const fn lacks(&self, size: usize, left: usize) -> Option<GapReason> {
        if self.messages >= self.bounds.messages || self.bytes + size > self.bounds.bytes {
            Some(GapReason::QueueFull)
        } else if PLACE_BYTES + size > left {
            Some(GapReason::Memory)
        } else {
            None
        }
    }

    /// Whether an empty one would take a message of this size.
    pub(crate) const fn takes_alone(&self, size: usize) -> bool {
        self.bounds.messages > 0 && size <= self.bounds.bytes
    }

    /// What its messages are counted as in the account of its uid.
    pub(crate) const fn counted(&self) -> usize {
        self.bytes + self.messages * PLACE_BYTES
    }

    /// Adds a message without looking at the bounds.
    pub(super) fn append(&mut self, waiting: Waiting) {
        self.messages += 1;
        self.bytes += waiting.message.size();
        self.held().entries.push_back(Entry::Message(waiting));
    }

    fn expire(&mut self, now: Duration, dropped: &mut impl FnMut(Routed)) {
        let Some(age_max) = self.bounds.age_max else { return };
        while let Some(Entry::Message(oldest)) = self.held.as_deref().and_then(|held| held.entries.front())
            && now.saturating_sub(oldest.since) > age_max
            && let Some(expired) = self.drop_oldest(GapReason::Expired)
        {
            dropped(expired);
        }
    }

    /// Loses the oldest message into the gaps at the front.
    fn drop_oldest(&mut self, reason: GapReason) -> Option<Routed> {
        let held = self.held.as_deref_mut()?;
        loop {
            match held.entries.pop_front()? {
                Entry::Gap(gap) => merge_front(&mut held.front, gap),
                Entry::Message(waiting) => {
                    self.messages -= 1;
                    self.bytes -= waiting.message.size();
                    merge_front(&mut held.front, one(waiting.message.id, reason));
                    return Some(waiting.message);
                }
            }
        }
    }

    /// Loses something at the back.
    pub(crate) fn append_gap(&mut self, gap: GapNotice) {
        let held = self.held();
        match held.entries.back_mut() {
            None => merge_front(&mut held.front, gap),
            Some(Entry::Gap(before)) if before.reason == gap.reason => extend(before, &gap),
            Some(_) => held.entries.push_back(Entry::Gap(gap)),
        }
    }

    fn held(&mut self) -> &mut Held {
        self.held.get_or_insert_default()
    }

    /// The gaps before everything else.
    pub(super) fn front(&self) -> impl Iterator<Item = &GapNotice> {
        self.held.iter().flat_map(|held| &held.front)
    }

    pub(super) fn entries(&self) -> impl Iterator<Item = &Entry> {
        self.held.iter().flat_map(|held| &held.entries)
    }

    /// Puts back a gap that another run had before everything else.
    pub(super) fn restore_front(&mut self, gap: GapNotice) {
        self.held().front.push(gap);
    }

    /// Puts back a gap that another run had between messages.
    pub(super) fn restore_gap(&mut self, gap: GapNotice) {
        self.held().entries.push_back(Entry::Gap(gap));
    }
}

impl Held {
    /// A place is counted while something stands in it, so that room may not stay behind for long when nothing does.
    fn give_room_back(&mut self) {
        if self.entries.capacity() > PLACES_KEPT && self.entries.len() * 4 < self.entries.capacity() {
            self.entries.shrink_to(self.entries.len() * 2);
        }
    }
}

pub(crate) const fn one(id: u64, reason: GapReason) -> GapNotice {
    GapNotice { first: id, last: id, count: Some(1), reason: reason as u8 }
}

fn extend(gap: &mut GapNotice, later: &GapNotice) {
    gap.first = gap.first.min(later.first);
    gap.last = gap.last.max(later.last);
    gap.count = gap.count.zip(later.count).map(|(a, b)| a + b);
}

fn merge_front(front: &mut Vec<GapNotice>, gap: GapNotice) {
    match front.iter_mut().find(|known| known.reason == gap.reason) {
        Some(known) => extend(known, &gap),
        None => front.push(gap),
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use libeevee::Document;
    use proptest::prelude::*;

    use super::*;

    fn waiting(id: u64, bytes: usize, at: u64) -> Waiting {
        let document = Document::new([("type", "x")], vec![0; bytes]).unwrap();
        let message = Routed::for_tests(id, &document);
        Waiting { message, since: Duration::from_secs(at) }
    }

    const BOUNDS: Bounds =
        Bounds { messages: 3, bytes: 10_000, overflow: Overflow::DropOldest, age_max: Some(Duration::from_secs(100)) };

    fn drain(queue: &mut Queue, now: u64) -> Vec<String> {
        let mut seen = Vec::new();
        while let Some(next) = queue.pop(Duration::from_secs(now), true, &mut |_| ()) {
            seen.push(match next {
                Next::Message(waiting) => waiting.message.id.to_string(),
                Next::Gap(gap) => format!("gap {}-{} {:?} r{}", gap.first, gap.last, gap.count, gap.reason),
            });
        }
        seen
    }

    #[test]
    fn the_oldest_make_room_and_the_gap_stands_before_the_rest() {
        let mut queue = Queue::new(BOUNDS);
        for id in 1..=5 {
            queue.push(waiting(id, 1, 0), usize::MAX / 2, false, &mut |_| ());
        }
        assert_eq!(drain(&mut queue, 0), ["gap 1-2 Some(2) r1", "3", "4", "5"]);
        assert!(queue.is_empty());
        assert_eq!((queue.messages(), queue.bytes()), (0, 0));
    }

    #[test]
    fn the_newest_are_dropped_at_their_place() {
        let mut queue = Queue::new(Bounds { overflow: Overflow::DropNewest, ..BOUNDS });
        for id in 1..=5 {
            queue.push(waiting(id, 1, 0), usize::MAX / 2, false, &mut |_| ());
        }
        assert!(matches!(queue.pop(Duration::ZERO, true, &mut |_| ()), Some(Next::Message(_))));
        assert_eq!(queue.push(waiting(6, 1, 0), usize::MAX / 2, false, &mut |_| ()), Pushed::Queued);
        assert_eq!(drain(&mut queue, 0), ["2", "3", "gap 4-5 Some(2) r1", "6"]);
    }

    #[test]
    fn what_waited_too_long_is_a_gap_of_its_own_reason() {
        let mut queue = Queue::new(BOUNDS);
        for id in 1..=4 {
            queue.push(waiting(id, 1, id), usize::MAX / 2, false, &mut |_| ());
        }
        assert_eq!(drain(&mut queue, 103), ["gap 1-1 Some(1) r1", "gap 2-2 Some(1) r2", "3", "4"]);
    }

    #[test]
    fn a_message_larger_than_the_queue_is_lost_alone_and_told() {
        let mut queue = Queue::new(Bounds { bytes: 200, ..BOUNDS });
        queue.push(waiting(1, 1, 0), usize::MAX / 2, false, &mut |_| ());
        assert_eq!(queue.push(waiting(2, 5_000, 0), usize::MAX / 2, false, &mut |_| ()), Pushed::Dropped(2));
        assert_eq!(queue.push(waiting(3, 1, 0), usize::MAX / 2, false, &mut |_| ()), Pushed::Queued);
        assert_eq!(drain(&mut queue, 0), ["gap 1-2 Some(2) r1", "3"]);
    }

    #[test]
    fn a_gap_needs_no_window() {
        let mut queue = Queue::new(BOUNDS);
        for id in 1..=4 {
            queue.push(waiting(id, 1, 0), usize::MAX / 2, false, &mut |_| ());
        }
        assert!(matches!(queue.pop(Duration::ZERO, false, &mut |_| ()), Some(Next::Gap(_))));
        assert!(queue.pop(Duration::ZERO, false, &mut |_| ()).is_none());
    }

    proptest! {
        /// Delivered and counted in gaps are together exactly what was pushed, in order.
        #[test]
        fn nothing_is_lost_without_being_counted(
            steps in prop::collection::vec((0_u8..4, 0_usize..300), 1..200),
            newest in any::<bool>(),
        ) {
            let overflow = if newest { Overflow::DropNewest } else { Overflow::DropOldest };
            let bounds = Bounds { messages: 5, bytes: 900, overflow, age_max: Some(Duration::from_secs(20)) };
            let mut queue = Queue::new(bounds);
            let (mut id, mut delivered, mut gaps) = (0, Vec::new(), BTreeMap::new());
            let (mut dropped, mut counted) = (0, 0);
            let mut take = |queue: &mut Queue, now, dropped: &mut u64| {
                while let Some(next) = queue.pop(Duration::from_secs(now), true, &mut |_| *dropped += 1) {
                    match next {
                        Next::Message(waiting) => delivered.push(waiting.message.id),
                        Next::Gap(gap) => {
                            prop_assert!(gap.first <= gap.last);
                            counted += gap.count.unwrap();
                            *gaps.entry(gap.reason).or_insert(0) += 1;
                        }
                    }
                    if now % 3 == 0 {
                        break;
                    }
                }
                Ok(())
            };
            for (now, (kind, size)) in (0_u64..).zip(steps) {
                if kind == 0 {
                    take(&mut queue, now, &mut dropped)?;
                } else {
                    id += 1;
                    queue.push(waiting(id, size, now), usize::MAX / 2, false, &mut |_| dropped += 1);
                }
                prop_assert!(queue.messages() <= bounds.messages && queue.bytes() <= bounds.bytes);
            }
            while !queue.is_empty() {
                take(&mut queue, 1, &mut dropped)?;
            }
            prop_assert_eq!((queue.messages(), queue.bytes()), (0, 0));
            prop_assert!(delivered.is_sorted());
            prop_assert_eq!(counted, dropped);
            prop_assert_eq!(delivered.len() as u64 + counted, id);
        }
    }
}
