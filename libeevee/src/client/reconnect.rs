//! A connection that was lost, and the next one: how long to wait between attempts, what is kept of the old connection,
//! and what is said again on the new one.

use std::collections::HashSet;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use bytes::Bytes;

use super::credit::Credit;
use super::entry::{Item, OpenGap};
use super::notice::Notice;
use super::publish::document;
use super::shared::{Open, Phase, Shared, State, away};
use crate::error::Error;
use crate::message::{Gap, GapReason};
use crate::wire::{Content, Frame, Text, Welcome};

const DELAY_MIN: Duration = Duration::from_millis(50);

/// All sessions shall be back a moment after the bus: what is published before a subscription is made again does not reach
/// it. Five attempts a second on a Unix socket cost nothing that could be measured.
const DELAY_MAX: Duration = Duration::from_millis(200);

/// How long to wait before each attempt: not at all before the first, then from 50 ms doubling up to 200 ms, each time
/// between half of that and all of it, so that a hundred operators do not come back in step.
#[derive(Debug, Default)]
pub(super) struct Backoff {
    delay: Duration,
}

impl Backoff {
    pub(super) fn next_delay(&mut self) -> Duration {
        let now = self.delay;
        self.delay = (now * 2).clamp(DELAY_MIN, DELAY_MAX);
        now.mul_f64(0.5 + 0.5 * fastrand::f64())
    }
}

impl Shared {
    /// The connection is lost. `unwritten` is what the driver had taken to write; its first `written` bytes may have
    /// reached the bus.
    ///
    /// False where the client was closed meanwhile, so that what was not written stays so.
    pub(super) fn lose(&self, reason: &Error, unwritten: &[u8], written: usize) -> bool {
        let mut guard = self.lock();
        let state: &mut State = &mut guard;
        if !matches!(state.phase, Phase::Up) {
            return false;
        }
        state.phase = Phase::Away(reason.clone());
        let outbox = std::mem::take(&mut state.outbox);
        state.retain(frames(unwritten, written).into_iter().chain(frames(&outbox, 0)));
        let kept: HashSet<u32> = state.retained.iter().map(|frame| frame.number).collect();
        let error = away(reason);
        for (_, open) in state.open.extract_if(|number, _| !kept.contains(number)) {
            // Claims are made again.
            open.fail(&error);
        }
        for (_, (_, waiter)) in state.pings.drain() {
            let _ = waiter.send(Err(error.clone()));
        }
        state.given_up = None;
        state.reloads.clear();
        state.credit = Credit::default();
        state.notices.tell(Notice::Disconnected(reason.clone()));
        true
    }

    /// A new connection was welcomed: says again what the bus has to know. False if the client was closed meanwhile.
    pub(super) fn resume(&self, welcome: Welcome) -> bool {
        let mut guard = self.lock();
        let state: &mut State = &mut guard;
        if !matches!(state.phase, Phase::Away(_)) {
            return false;
        }
        let crashed = state.welcome.boot != welcome.boot;
        state.halted = welcome.halted;
        state.credit = Credit::new(welcome.credit_messages, welcome.credit_bytes);
        state.welcome = Arc::new(welcome);
        state.outbox.clear();
        state.phase = Phase::Up;
        subscribe_again(state, crashed);
        claim_again(state);
        if let Some((_, unsaid)) = &mut state.status {
            *unsaid = true;
        }
        if let Some((_, unsaid)) = &mut state.commands {
            *unsaid = true;
        }
        state.publish_retained();
        state.notices.tell(Notice::Connected(Arc::clone(&state.welcome)));
        drop(guard);
        self.credit.notify_waiters();
        true
    }
}

/// The same numbers and what is left of the windows; those that the bus had confirmed are told what they may have missed.
fn subscribe_again(state: &mut State, crashed: bool) {
    let last = state.welcome.last_id;
    let mut frames = Vec::with_capacity(state.subscriptions.len());
    for (number, entry) in &mut state.subscriptions {
        frames.push(entry.again(*number));
        if let Some(held) = &mut entry.held {
            // In one write with the Subscribe: the bus reads all of it before it delivers what is not acknowledged.
            frames.append(&mut held.unsent);
            continue;
        }
        let seen = entry.flow.last_seen.swap(last, Relaxed);
        if entry.opened.is_none() && (crashed || last > seen) {
            let reason = if crashed { GapReason::BusCrash } else { GapReason::Disconnected };
            let gap = Gap { first: seen + 1, last: last.max(seen + 1), count: None, reason };
            entry.events.push(Item::Gap(OpenGap::new(gap)));
        }
    }
    for frame in frames {
        if let Err(error) = state.encode(&frame)
            && let Some(entry) = state.subscriptions.remove(&frame.number)
        {
            // Only a bus that came back with a smaller frame limit gets here.
            state.ended.push(frame.number);
            entry.fail(error);
        }
    }
}

fn claim_again(state: &mut State) {
    for name in state.claims.keys().cloned().collect::<Vec<_>>() {
        state.send_claim(&name);
    }
}

/// The frames among `bytes` that are not wholly among the first `written` and that the next connection has to carry: the bus
/// cannot have taken them, as it drops a frame that is cut off.
fn frames(bytes: &[u8], written: usize) -> Vec<Frame> {
    let mut frames = Vec::new();
    let mut at = 0;
    while let Some(prefix) = bytes.get(at..).and_then(<[u8]>::first_chunk::<4>) {
        let end = at + 4 + u32::from_le_bytes(*prefix) as usize;
        if end > written
            && let Some(body) = bytes.get(at + 4..end)
            && let Ok(Some(frame)) = Frame::decode(Bytes::copy_from_slice(body))
            && (document(&frame.content).is_some() || matches!(frame.content, Content::Ack(_) | Content::Nack(_)))
        {
            frames.push(frame);
        }
        at = end;
    }
    frames
}

impl State {
    /// What of a lost connection goes over the next one; `unwritten` in the order in which it was accepted.
    fn retain(&mut self, unwritten: impl Iterator<Item = Frame>) {
        let waited = std::mem::take(&mut self.retained);
        for held in self.subscriptions.values_mut().filter_map(|entry| entry.held.as_mut()) {
            held.lose();
        }
        let mut never_sent = Vec::new();
        for frame in unwritten {
            if !matches!(frame.content, Content::Ack(_) | Content::Nack(_)) {
                never_sent.push(frame);
            } else if let Some(entry) = self.subscriptions.get_mut(&frame.number)
                && let Some(held) = &mut entry.held
            {
                held.keep(frame);
            }
        }
        let later: HashSet<u32> = never_sent.iter().chain(&waited).map(|frame| frame.number).collect();
        // The bus may have these, and knows them again by epoch and sequence.
        let sent = self.unanswered.values().filter(|frame| !later.contains(&frame.number)).cloned();
        self.retained = sent.chain(never_sent).chain(waited).collect();
    }

    /// Sends what the last connection left, as far as credit goes; the rest when the bus grants more.
    pub(super) fn publish_retained(&mut self) {
        while self.credit.any()
            && let Some(frame) = self.retained.pop_front()
        {
            let abandoned = match self.open.get(&frame.number) {
                Some(Open::Request(waiter)) => waiter.is_closed(),
                _ => false,
            };
            if abandoned {
                // Its requester gave up; nobody shall execute a stale order.
                self.open.remove(&frame.number);
                continue;
            }
            let bytes = document(&frame.content).map_or(0, |document| document.bytes().len() as u64);
            match self.encode(&frame) {
                Ok(()) => self.credit.take(bytes),
                // Only a bus that came back with a smaller frame limit gets here.
                Err(error) => match self.open.remove(&frame.number) {
                    Some(open) => {
                        if let Open::Publish(place, _) = open {
                            self.unanswered.remove(&place);
                        }
                        open.fail(&error);
                    }
                    None => self.notices.refused(frame.number, error),
                },
            }
        }
    }

    /// Sends the Claim of a name that stands among the claims.
    pub(super) fn send_claim(&mut self, name: &str) {
        let number = self.number();
        match self.encode(&Frame::new(number, Content::Claim(Text { text: name.to_owned() }))) {
            Ok(()) => {
                self.open.insert(number, Open::Claim(name.to_owned()));
            }
            Err(error) => self.claim_failed(name, error),
        }
    }

    /// A claim was refused: it is not made again.
    pub(super) fn claim_failed(&mut self, name: &str, error: Error) {
        let Some(claim) = self.claims.remove(name) else { return };
        if claim.held {
            self.notices.claim_lost(name, error.clone());
        }
        for waiter in claim.waiters {
            let _ = waiter.send(Err(error.clone()));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::message::Document;
    use crate::wire::{Ack, Publish, Value};

    #[test]
    fn the_first_attempt_is_at_once_and_the_later_ones_are_bounded() {
        for _ in 0..100 {
            let mut backoff = Backoff::default();
            assert_eq!(backoff.next_delay(), Duration::ZERO);
            let mut bound = DELAY_MIN;
            for _ in 0..20 {
                let delay = backoff.next_delay();
                assert!(delay >= bound / 2 && delay <= bound, "{delay:?} against {bound:?}");
                bound = (bound * 2).min(DELAY_MAX);
            }
        }
    }

    #[test]
    fn what_cannot_have_arrived_is_kept() {
        let publish = |number: u32| {
            let document = (&Document::new([("n", number.to_string())], "x").unwrap()).into();
            let content = Content::Publish(Publish { cause: None, hops: 0, epoch: 0, sequence: 0, document });
            Frame::new(number, content)
        };
        let ack = Frame::new(3, Content::Ack(Ack { id: 1 }));
        let all = [publish(1), Frame::new(0, Content::Ping(Value { value: 1 })), publish(2), ack].map(|f| f.encode());
        let bytes = all.concat();
        let numbers = |written| frames(&bytes, written).iter().map(|frame| frame.number).collect::<Vec<_>>();
        assert_eq!(numbers(0), [1, 2, 3]);
        assert_eq!(numbers(all[0].len() - 1), [1, 2, 3]);
        assert_eq!(numbers(all[0].len()), [2, 3]);
        let second = all[0].len() + all[1].len();
        assert_eq!(numbers(second + all[2].len() - 1), [2, 3]);
        assert_eq!(numbers(second + all[2].len()), [3]);
        assert_eq!(numbers(bytes.len()), [0; 0]);
    }
}
