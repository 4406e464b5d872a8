//! Plain publishes in a row, the hottest path of all: no cause, nothing to confirm, live subscriptions that can take them at
//! once. What is the same for all of them is done once for the row: the look at the session, its credit, and the part of the
//! envelope that only source and time go into. Everything that is not plain is left to `publish.rs`, which does the same for
//! one message with all that may come.
//!
//! With thousands of subscriptions every message goes to another one, and what is known of its headers and of its
//! subscription is in no cache nearby. So messages are looked up some at a time (`memo/`), which waits for many of them at
//! once.

use std::hint::black_box;

use libeevee::wire::{DocumentView, Envelope, HEADER_BYTES, Lead, PUBLISH, RawDocument, frame_length};

use super::fan_out::{FanOut, Message, Reach};
use super::index::{Found, Headers, Pairs, Slot, View};
use super::intake::WORK_MAX;
use super::memo::{AHEAD, Ahead, Memo};
use super::message::Routed;
use super::output::Chunk;
use super::permit::is_about_control;
use super::queue::PLACE_BYTES;
use super::route::Route;
use super::session::{Delivered, Session, SessionKey};
use super::subscribe::Subscription;
use super::{Core, Now};

/// Kind, flags and reserved byte of a Publish without flags.
const PLAIN_HEAD: [u8; 4] = [PUBLISH.to_le_bytes()[0], PUBLISH.to_le_bytes()[1], 0, 0];

/// No cause, no hops, no epoch, no sequence.
const PLAIN_ENVELOPE: [u8; 4] = [0; 4];

/// Where the document of a plain publish begins.
const DOCUMENT_AT: usize = HEADER_BYTES + PLAIN_ENVELOPE.len();

/// A message that not all of its subscriptions could take at once.
struct Stuck<'a> {
    id: u64,
    /// Those that have it not.
    rest: Found,
    /// Whether their sessions may receive it.
    asked: bool,
    document: DocumentView<'a>,
}

impl Core {
    /// Takes as many plain publishes as there are at the front of `input`; how many bytes that are.
    pub(super) fn take_plain(&mut self, now: Now, key: SessionKey, input: &[u8], frame_bytes_max: usize) -> usize {
        if !is_plain(input) || !self.volatile.is_empty() {
            return 0;
        }
        let Some(session) = self.sessions.get(&key) else { return 0 };
        if !session.may_publish() {
            return 0;
        }
        let (source, permit) = (session.source.clone(), session.may_publish.clone());
        let (mut messages, mut bytes) = (session.credit.messages, session.credit.bytes);
        // Beyond it, more ids are asked for, message by message.
        let ids_end = self.ids.end.saturating_sub(super::publish::IDS_LOW);
        let mut lead = Lead::new(std::mem::take(&mut self.head), &source, now.wall);
        let (mut at, mut count, mut documents) = (0, 0_u64, 0_u64);
        let mut room = self.room();
        let mut stuck = None;
        // What was looked up and is not sent yet, and how much is looked up next: the more, the longer headers change.
        let (mut ahead, mut next, mut many) = (Ahead::new(), 0, 1);
        let mut pairs = Pairs::new();
        let mut found;
        // The session that had the last delivery, which mostly has the next.
        let mut last: Option<(SessionKey, &mut Session)> = None;
        let mut fan_out = FanOut::after(std::mem::take(&mut self.last_to), input.len());
        macro_rules! reach {
            () => {
                &mut Reach {
                    subscriptions: &mut self.subscriptions,
                    sessions: &mut self.sessions,
                    spare: &mut self.spare,
                    actions: &mut self.actions,
                    owed: &mut self.owed,
                    delivered: &mut self.delivered,
                    room: &mut room,
                }
            };
        }
        'row: while stuck.is_none()
            && self.work <= WORK_MAX
            && messages > 0
            && bytes > 0
            && self.ids.start < ids_end
            && let Some((length, bytes_of_document)) = document_of(&input[at..], frame_bytes_max)
        {
            // Whether sessions still have to be asked if they may receive it, and if it is about control.
            let mut asks = None;
            // What `live` may borrow from.
            let (one, route);
            let (document, live): (_, &[Slot]) = 'known: {
                if !self.memo.rests() {
                    if next == ahead.len() {
                        if let Some((document, route)) = self.memo.like_last(key, bytes_of_document) {
                            if !route.is_plain() {
                                break 'row;
                            }
                            many = 1;
                            break 'known (document, route.live());
                        }
                        let memo = &self.memo;
                        look_ahead(memo, &self.subscriptions, key, &input[at..], frame_bytes_max, many, &mut ahead);
                        (next, many) = (0, (many * 2).min(AHEAD));
                    }
                    let is_last = next + 1 == ahead.len();
                    let Some(wanted) = ahead.get_mut(next) else { break 'row };
                    next += 1;
                    if self.memo.has_found(key, wanted) {
                        if is_last {
                            self.memo.keep_last(key, wanted);
                        }
                        if let Some(slot) = wanted.slot {
                            one = slot;
                            break 'known (wanted.document.known(), std::slice::from_ref(&one));
                        }
                        route = self.memo.route_of(wanted);
                        if !route.is_plain() {
                            break 'row;
                        }
                        break 'known (wanted.document.known(), route.live());
                    }
                }
                // Headers that nobody knows.
                let wanted = if self.memo.rests() { None } else { ahead.get(next - 1) };
                let Some(raw) = wanted.map(|wanted| wanted.document).or_else(|| RawDocument::read(bytes_of_document))
                else {
                    break 'row;
                };
                pairs.clear();
                let each = |key, value| pairs.push((key, value));
                let Some(document) = raw.check_like(&mut self.checked, each) else { break 'row };
                let seen = view(self.ids.start, &source, now.wall, &pairs);
                let control = is_about_control(&seen);
                if !permit.admits_as(control, &seen) {
                    break 'row;
                }
                found = self.index.find(&seen, &mut self.work);
                if found.iter().any(|slot| self.subscriptions[*slot as usize].durable.is_some()) {
                    break 'row;
                }
                let Some(wanted) = wanted else {
                    self.memo.rest();
                    asks = Some(control);
                    break 'known (document, &found);
                };
                last = None;
                found.retain(|slot| {
                    let subscription = self.subscriptions.get(*slot as usize);
                    let session = subscription.and_then(|subscription| self.sessions.get(&subscription.session));
                    session.is_some_and(|session| session.may_receive.admits_as(control, &seen))
                });
                if !permit.is_volatile() && !self.memo.put_wanted(key, wanted, &Route::to(&found, &[])) {
                    (ahead, next) = (Ahead::new(), 0);
                }
                (document, &found)
            };
            // The same look at memory as one by one; a queue may be needed for it.
            let wanted = Routed::size_of(document) + live.len() * PLACE_BYTES;
            if wanted > room.bus {
                break;
            }
            let id = self.ids.start;
            self.ids.start += 1;
            let frame_bytes = lead.set(id, document.bytes().len());
            let mut wanted_by = live.len();
            // In a row with others for the same subscriptions, or else one by one.
            let together = live.len() > 1 && asks.is_none();
            let mut one_by_one = live;
            if together || !fan_out.is_idle() {
                last = None;
                let message = Message { lead: &mut lead, frame_bytes, document: document.bytes() };
                if fan_out.take(message, if together { live } else { &[] }, reach!()) {
                    one_by_one = &[];
                    // What is left of the work for each of them is to write it.
                    self.work += 1 + live.len() / 8;
                }
            }
            self.work += one_by_one.len();
            for (done, slot) in one_by_one.iter().enumerate() {
                let taken = 'taken: {
                    let Some(subscription) = self.subscriptions.get_mut(*slot as usize) else { break 'taken false };
                    let to = subscription.session;
                    if last.as_ref().is_none_or(|(known, _)| *known != to) {
                        last = self.sessions.get_mut(&to).map(|session| (to, &mut **session));
                    }
                    let Some((_, session)) = &mut last else { break 'taken false };
                    if let Some(control) = asks
                        && !session.may_receive.admits_as(control, &view(id, &source, now.wall, &pairs))
                    {
                        wanted_by -= 1;
                        break 'taken true;
                    }
                    if !session.takes_delivery(subscription, frame_bytes, &room) {
                        break 'taken false;
                    }
                    let piece = session.piece_for(frame_bytes, &mut self.spare);
                    lead.put(&mut piece.bytes, subscription.number, document.bytes());
                    piece.counts.direct += 1;
                    let document_bytes = document.bytes().len();
                    session.count_delivery(subscription, &Delivered { messages: 1, frame_bytes, document_bytes });
                    self.owed += frame_bytes;
                    room.bus -= frame_bytes;
                    self.delivered += 1;
                    session.wake(to, &mut self.actions);
                    true
                };
                if !taken {
                    let rest = live[done..].iter().copied().collect();
                    let asked = asks.is_none();
                    stuck = Some(Stuck { id, rest, asked, document });
                    break;
                }
            }
            self.unrouted += u64::from(wanted_by == 0);
            messages -= 1;
            bytes -= document.bytes().len() as i64;
            documents += document.bytes().len() as u64;
            count += 1;
            at += length;
        }
        fan_out.settle(reach!());
        let (block, to) = fan_out.into_parts();
        self.spare.give(Chunk::Own(block));
        self.last_to = to;
        self.head = lead.into_buffer();
        self.published += count;
        if let Some(session) = self.sessions.get_mut(&key) {
            session.published += count;
            session.credit.spend(count, documents);
            if count > 0 && session.credit.is_worth_a_grant() {
                self.grant(now, key);
            }
        }
        if let Some(Stuck { id, mut rest, asked, document }) = stuck {
            if !asked {
                let view = View::new(id, &source, now.wall, None, 0, document);
                rest.retain(|slot| self.may_receive(*slot, &view));
            }
            let (cause, hops, reply_address, attempt, waited_ms) = (None, 0, None, 1, 0);
            let timestamp = now.wall;
            let envelope = Envelope { id, source: &source, timestamp, cause, hops, reply_address, attempt, waited_ms };
            self.deliver(now, &rest, &envelope, document);
        }
        at
    }
}

/// A plain publish, as filters see it.
#[inline]
const fn view<'a>(id: u64, source: &'a str, timestamp: u64, pairs: &'a [(&'a str, &'a str)]) -> View<'a> {
    View { id, source, timestamp, cause: None, hops: 0, headers: Headers::Of(pairs) }
}

/// Looks up so many of the plain publishes at the front, and loads what their deliveries look at.
#[inline]
fn look_ahead<'a>(
    memo: &Memo,
    subscriptions: &slab::Slab<Subscription>,
    key: SessionKey,
    input: &'a [u8],
    frame_bytes_max: usize,
    many: usize,
    ahead: &mut Ahead<'a>,
) {
    ahead.clear();
    let mut at = 0;
    while ahead.len() < many
        && let Some((length, bytes)) = document_of(&input[at..], frame_bytes_max)
        && let Some(document) = RawDocument::read(bytes)
    {
        ahead.push(memo.want(key, document));
        at += length;
    }
    memo.look_up(key, ahead);
    let touched = |slot: Slot| subscriptions.get(slot as usize).map_or(0, Subscription::touch);
    black_box(ahead.iter().filter_map(|wanted| wanted.slot).fold(0, |all, slot| all ^ touched(slot)));
}

/// Length and document of the plain publish at the front, if there is one.
#[inline(always)] // Else a call for every message.
fn document_of(input: &[u8], frame_bytes_max: usize) -> Option<(usize, &[u8])> {
    if !is_plain(input) {
        return None;
    }
    let length = frame_length(input, frame_bytes_max).ok()??;
    // A length too short for a frame is for others to refuse.
    Some((length, input.get(DOCUMENT_AT..length)?))
}

#[inline]
fn is_plain(input: &[u8]) -> bool {
    input.len() > DOCUMENT_AT && input[4..8] == PLAIN_HEAD && input[HEADER_BYTES..DOCUMENT_AT] == PLAIN_ENVELOPE
}
