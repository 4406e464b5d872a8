//! Plain publishes in a row, the hottest path of all: no cause, nothing to confirm, headers that the memo knows, live
//! subscriptions that can take them at once. What is the same for all of them is done once for the row: the look at the
//! session, its credit, and the part of the envelope that only source and time go into. Everything that is not plain is left
//! to `publish.rs`, which does the same for one message with all that may come.

use libeevee::wire::{DocumentView, Envelope, HEADER_BYTES, Lead, PUBLISH, frame_length};

use super::index::Found;
use super::intake::WORK_MAX;
use super::message::Routed;
use super::queue::PLACE_BYTES;
use super::session::{Session, SessionKey};
use super::{Action, Core, Now};

/// Kind, flags and reserved byte of a Publish without flags.
const PLAIN_HEAD: [u8; 4] = [PUBLISH.to_le_bytes()[0], PUBLISH.to_le_bytes()[1], 0, 0];

/// No cause, no hops, no epoch, no sequence.
const PLAIN_ENVELOPE: [u8; 4] = [0; 4];

/// A message that not all of its subscriptions could take at once.
struct Stuck<'a> {
    id: u64,
    /// Those that have it not.
    rest: Found,
    document: DocumentView<'a>,
}

impl Core {
    /// Takes as many plain publishes as there are at the front of `input`; how many bytes that are.
    pub(super) fn take_plain(&mut self, now: Now, key: SessionKey, input: &[u8], frame_bytes_max: usize) -> usize {
        if !is_plain(input) || !self.volatile.is_empty() || self.memo.rests() {
            return 0;
        }
        let Some(session) = self.sessions.get(&key) else { return 0 };
        if !session.may_publish() {
            return 0;
        }
        let source = session.source.clone();
        let (mut messages, mut bytes) = (session.credit.messages, session.credit.bytes);
        // Beyond it, more ids are asked for, message by message.
        let ids_end = self.ids.end.saturating_sub(super::publish::IDS_LOW);
        let mut lead = Lead::new(std::mem::take(&mut self.head), &source, now.wall);
        let (mut at, mut count, mut documents) = (0, 0_u64, 0_u64);
        let mut room = self.room();
        let mut stuck = None;
        // The session that had the last delivery, which mostly has the next.
        let mut last: Option<(SessionKey, &mut Session)> = None;
        while stuck.is_none() && self.work <= WORK_MAX && is_plain(&input[at..]) {
            let Ok(Some(length)) = frame_length(&input[at..], frame_bytes_max) else { break };
            // A length too short for a frame is for others to refuse.
            let Some(body) = input.get(at + HEADER_BYTES..at + length) else { break };
            let Some((document, route)) = self.memo.read(key, body) else { break };
            if route.is_denied()
                || !route.durable().is_empty()
                || messages == 0
                || bytes <= 0
                || self.ids.start >= ids_end
            {
                break;
            }
            // The same look at memory as one by one; a queue may be needed for it.
            let wanted = Routed::size_of(document) + route.live().len() * PLACE_BYTES;
            if wanted > room.bus {
                break;
            }
            self.work += route.live().len();
            let id = self.ids.start;
            self.ids.start += 1;
            let frame_bytes = lead.set(id, document.bytes().len());
            self.unrouted += u64::from(route.live().is_empty());
            for (done, slot) in route.live().iter().enumerate() {
                let taken = 'taken: {
                    let Some(subscription) = self.subscriptions.get_mut(*slot as usize) else { break 'taken false };
                    let to = subscription.session;
                    if last.as_ref().is_none_or(|(known, _)| *known != to) {
                        last = self.sessions.get_mut(&to).map(|session| (to, &mut **session));
                    }
                    let Some((_, session)) = &mut last else { break 'taken false };
                    if !session.takes_delivery(subscription, frame_bytes, &room) {
                        break 'taken false;
                    }
                    session.make_room(&mut self.spare);
                    lead.put(&mut session.output, subscription.number, document.bytes());
                    session.count_delivery(subscription, frame_bytes, document.bytes().len());
                    self.owed += frame_bytes;
                    room.bus -= frame_bytes;
                    self.delivered += 1;
                    if !session.awake {
                        session.awake = true;
                        self.actions.push(Action::Wake(to));
                    }
                    true
                };
                if !taken {
                    let rest = route.live()[done..].iter().copied().collect();
                    stuck = Some(Stuck { id, rest, document });
                    break;
                }
            }
            messages -= 1;
            bytes -= document.bytes().len() as i64;
            documents += document.bytes().len() as u64;
            count += 1;
            at += length;
        }
        self.head = lead.into_buffer();
        self.published += count;
        if let Some(session) = self.sessions.get_mut(&key) {
            session.published += count;
            session.credit.spend(count, documents);
            if count > 0 && session.credit.is_worth_a_grant() {
                self.grant(now, key);
            }
        }
        if let Some(Stuck { id, rest, document }) = stuck {
            let (cause, hops, reply_address, attempt, waited_ms) = (None, 0, None, 1, 0);
            let timestamp = now.wall;
            let envelope = Envelope { id, source: &source, timestamp, cause, hops, reply_address, attempt, waited_ms };
            self.deliver(now, &rest, &envelope, document);
        }
        at
    }
}

#[inline]
fn is_plain(input: &[u8]) -> bool {
    input.len() > HEADER_BYTES + PLAIN_ENVELOPE.len()
        && input[4..8] == PLAIN_HEAD
        && input[HEADER_BYTES..HEADER_BYTES + PLAIN_ENVELOPE.len()] == PLAIN_ENVELOPE
}
