//! Frames from the bus: each one goes to the subscription, the request or the notice that it is for.

use std::collections::HashMap;
use std::collections::hash_map::Entry as Slot;
use std::hash::BuildHasherDefault;
use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

use bytes::Bytes;
use tokio::time::Instant;

use super::connect::read_error;
use super::driver::{Driver, NumberHasher, Route};
use super::entry::{Arrived, Item, OpenGap, Run};
use super::held::{PREDECESSOR_PAUSE, STORAGE_PAUSE};
use super::notice::Notice;
use super::publish::Published;
use super::shared::{Open, Shared, State};
use crate::error::{Error, ErrorKind};
use crate::message::{Gap, GapReason};
use crate::source::Source;
use crate::wire::{self, Code, Content, Frame, Known, REPEATED, RawDeliver, Refusal};

/// Of a frame's length field.
const LENGTH_BYTES: usize = 4;

/// Headers that are longer are checked each time; they do not repeat.
const KNOWN_BYTES_MAX: usize = 1 << 10;

impl Driver {
    /// Takes all frames that are there, after something was read; or what reading ran into.
    pub(super) fn accept(&mut self, filled: io::Result<bool>) -> Result<(), Error> {
        loop {
            let piece = self.link.read.take()?;
            if piece.is_empty() {
                break;
            }
            let accepted = self.accept_piece(&piece);
            // Also what came before a mistake.
            self.hand_over();
            accepted?;
        }
        match filled {
            Ok(true) => Ok(()),
            Ok(false) => {
                let said = self.bye.take().map(|text| format!(": {text}")).unwrap_or_default();
                Err(Error::new(ErrorKind::Disconnected, format!("the bus closed the connection{said}")))
            }
            Err(error) => Err(read_error(error)),
        }
    }

    fn accept_piece(&mut self, piece: &Bytes) -> Result<(), Error> {
        // Taken for what needs it, and once.
        let mut now = None;
        let mut at = 0;
        while let Some(length) = self.link.read.length(&piece[at..])? {
            at = match self.deliver(piece, at, &mut now)? {
                // Something else, or a delivery that is wrong; the decoder says how.
                none if none == at => {
                    self.accept_other(piece.slice(at + LENGTH_BYTES..at + length))?;
                    at + length
                }
                after => after,
            };
        }
        Ok(())
    }

    fn accept_other(&mut self, frame: Bytes) -> Result<(), Error> {
        // What follows may end a subscription, or wake somebody who then looks whether something came.
        self.hand_over();
        match Frame::decode(frame) {
            Ok(Some(frame)) => self.dispatch(frame),
            Ok(None) => Ok(()),
            Err(error) if error.code == Code::UnknownType => self.unknown(&error.to_frame()),
            Err(error) => Err(error.into()),
        }
    }

    /// Gives the subscriptions what came for them.
    fn hand_over(&mut self) {
        for number in self.fed.drain(..) {
            if let Some(route) = self.routes.get_mut(&number) {
                let run = std::mem::take(&mut route.run);
                self.handed_over += run.messages.len();
                route.room = run.messages.len().max(route.room / 2);
                route.events.push(Item::Run(run));
            }
        }
    }

    /// Deliveries in a row for the same subscription go there. Where the first frame behind them begins.
    fn deliver(&mut self, piece: &Bytes, mut at: usize, now: &mut Option<Instant>) -> Result<usize, Error> {
        let Self { routes, shared, fed, highest, link, .. } = self;
        let Some(number) = piece.get(at + LENGTH_BYTES..).and_then(wire::delivered_to) else { return Ok(at) };
        let nothing = &Known::default();
        let mut route = route(routes, shared, number);
        while let Some(length) = link.read.length(&piece[at..])? {
            let frame = &piece[at + LENGTH_BYTES..at + length];
            if wire::delivered_to(frame) != Some(number) {
                break;
            }
            let known = route.as_deref().map_or(nothing, |route| &route.known);
            let Some(deliver) = RawDeliver::read(frame, known) else { break };
            *highest = deliver.id.max(*highest);
            // Else it was on its way while the subscription ended.
            if let Some(route) = &mut route
                && route.takes(number, &deliver, frame)?
            {
                if route.run.messages.is_empty() {
                    fed.push(number);
                    route.run.common.piece = piece.clone();
                    route.run.messages.reserve_exact(route.room.max(1));
                }
                let came = route.expires.then(|| *now.get_or_insert_with(Instant::now));
                route.push(&deliver, at + LENGTH_BYTES, came);
            }
            at += length;
        }
        Ok(at)
    }

    fn gap(&mut self, number: u32, gap: Gap) {
        let Self { routes, shared, highest, .. } = self;
        *highest = gap.last.max(*highest);
        let Some(route) = route(routes, shared, number) else { return };
        route.flow.last_seen.store(route.flow.last_seen.load(Relaxed).max(gap.last), Relaxed);
        if !route.gaps.iter().any(|open| open.extend(&gap)) {
            route.gaps.retain(OpenGap::is_open);
            let open = OpenGap::new(gap);
            route.gaps.push(open.clone());
            // What came before it was handed over.
            route.events.push(Item::Gap(open));
        }
    }

    fn dispatch(&mut self, frame: Frame) -> Result<(), Error> {
        let number = frame.number;
        match frame.content {
            Content::Published(published) => {
                self.highest = self.highest.max(published.id);
                self.shared.lock().published(number, published, frame.flags & REPEATED != 0);
            }
            content @ (Content::Response(_) | Content::Answer(_)) => self.shared.lock().answer(number, content),
            Content::Ok => self.done(number),
            Content::Error(refusal) => return self.refused(number, refusal),
            Content::Gap(notice) => {
                let reason = GapReason::from_code(notice.reason).unwrap_or(GapReason::Disconnected);
                let gap = Gap { first: notice.first, last: notice.last, count: notice.count, reason };
                self.gap(number, gap);
            }
            Content::Grant(grant) if number == 0 => {
                let mut state = self.shared.lock();
                state.credit.add(grant.messages, grant.bytes);
                // The driver looks into the outbox before it waits again.
                state.publish_retained();
                let waiting = state.waiting > 0;
                drop(state);
                if waiting {
                    self.shared.credit.notify_waiters();
                }
            }
            // The driver looks into the outbox before it waits again.
            Content::Ping(value) => self.shared.lock().pong(value),
            Content::Pong(value) => {
                if let Some((sent, waiter)) = self.shared.lock().pings.remove(&value.value) {
                    let _ = waiter.send(Ok(sent.elapsed()));
                }
            }
            Content::Halted(flag) => {
                let mut state = self.shared.lock();
                state.halted = flag.on;
                state.notices.tell(Notice::Halted(flag.on));
            }
            Content::Reload(module) => {
                let mut state = self.shared.lock();
                state.reloads.insert(number);
                state.notices.tell(Notice::Reload { number, module });
            }
            Content::Commit => self.shared.lock().notices.tell(Notice::Commit(number)),
            Content::Abort(reason) => {
                self.shared.lock().notices.tell(Notice::Abort { number, reason: reason.text });
            }
            Content::Bye(text) => {
                self.bye = Some(text.text.clone());
                self.shared.lock().notices.tell(Notice::Bye(text.text));
            }
            other => {
                let text = format!("a frame of kind {} is not for clients", other.kind());
                let refusal = Refusal { code: Code::UnknownType as u16, text, limit: None, value: None, rule: None };
                return self.unknown(&Frame::new(number, Content::Error(refusal)));
            }
        }
        Ok(())
    }

    /// Tells the bus that a frame is not known here; the session goes on.
    fn unknown(&mut self, refusal: &Frame) -> Result<(), Error> {
        tracing::debug!(?refusal, "the bus sent a frame that this version does not know");
        let mut state = self.shared.lock();
        // A short Error fits into any frame.
        let _ = state.encode(refusal);
        Ok(())
    }

    fn done(&mut self, number: u32) {
        let mut state = self.shared.lock();
        if let Some(entry) = state.subscriptions.get_mut(&number) {
            if let Some(opened) = entry.opened.take() {
                // What came before this Ok was before the subscription, so that it missed none of it.
                entry.flow.last_seen.store(entry.flow.last_seen.load(Relaxed).max(self.highest), Relaxed);
                let _ = opened.send(Ok(()));
            }
            return;
        }
        state.answer(number, Content::Ok);
    }

    fn refused(&mut self, number: u32, refusal: Refusal) -> Result<(), Error> {
        let code = Code::from_number(refusal.code);
        let error = Error::refused(refusal);
        let mut guard = self.shared.lock();
        let state: &mut State = &mut guard;
        if code == Code::BadAck {
            // The subscription goes on: the bus only did not know, or not any more, what it was told about.
            state.notices.refused(number, error.context(format_args!("subscription {number}")));
            return Ok(());
        }
        if let Some(entry) = state.subscriptions.get(&number).filter(|entry| entry.held.is_some()) {
            let pause = match code {
                Code::AlreadyConnected if self.succeeds() => Some(PREDECESSOR_PAUSE),
                // It was in force: a disk that is full, or was changed for another, is no reason to stop listening.
                Code::Storage if entry.opened.is_none() => Some(STORAGE_PAUSE),
                _ => None,
            };
            if let Some(pause) = pause {
                tracing::warn!("subscription {number} is made again in {pause:?}: {error}");
                tokio::spawn(Arc::clone(&self.shared).attach_later(number, state.welcome.session, pause));
                return Ok(());
            }
        }
        if let Some(entry) = state.subscriptions.remove(&number) {
            self.routes.remove(&number);
            if entry.opened.is_none() {
                state.notices.refused(number, error.clone().context(format_args!("subscription {number}")));
            }
            entry.fail(error.clone());
        } else {
            match state.open.remove(&number) {
                Some(Open::Claim(name)) => state.claim_failed(&name, error.clone()),
                Some(open) => {
                    if let Open::Publish(place, _) = open {
                        state.unanswered.remove(&place);
                    }
                    open.fail(&error);
                }
                None if code.closes() => {}
                None => state.notices.refused(number, error.clone()),
            }
        }
        if code.closes() { Err(error) } else { Ok(()) }
    }
}

impl Route {
    /// Counts a delivery; false where a durable subscription has it already.
    #[inline(always)] // As for `RawDeliver::read`.
    fn takes(&mut self, number: u32, deliver: &RawDeliver<'_>, frame: &[u8]) -> Result<bool, Error> {
        let flow = &*self.flow;
        let messages = flow.delivered_messages.load(Relaxed);
        let granted = flow.granted_messages.load(Relaxed);
        if messages >= granted {
            return Err(beyond_window(number, granted, messages));
        }
        // Only the driver's task writes these.
        flow.delivered_messages.store(messages + 1, Relaxed);
        let bytes = deliver.document_bytes();
        flow.delivered_bytes.store(flow.delivered_bytes.load(Relaxed) + bytes, Relaxed);
        if let Some(shared) = &self.durable
            && !shared.arrives(number, deliver.id, bytes)
        {
            return Ok(false);
        }
        flow.last_seen.store(flow.last_seen.load(Relaxed).max(deliver.id), Relaxed);
        self.gaps.clear();
        if !deliver.known_headers && deliver.headers_bytes <= KNOWN_BYTES_MAX {
            keep(&mut self.known.headers, &frame[deliver.headers()]);
        }
        Ok(true)
    }

    /// Adds a message to the run. `frame` is where in its piece the bytes of its frame begin.
    #[inline(always)] // As for `RawDeliver::read`.
    fn push(&mut self, deliver: &RawDeliver<'_>, frame: usize, came: Option<Instant>) {
        let Run { messages, common } = &mut self.run;
        if !deliver.known_source {
            keep(&mut self.known.source, deliver.source);
        }
        if messages.is_empty() {
            common.source = Source::from_checked(deliver.source);
        } else if !deliver.known_source {
            common.more_sources.push(Source::from_checked(deliver.source));
        }
        messages.push(Arrived::new(deliver, frame, common.more_sources.len(), came));
    }
}

fn keep(known: &mut Vec<u8>, bytes: &[u8]) {
    known.clear();
    known.extend_from_slice(bytes);
}

#[cold]
fn beyond_window(number: u32, granted: u64, messages: u64) -> Error {
    let text = format!("the bus delivered more to subscription {number} than its window of {granted} messages");
    Error::new(ErrorKind::Wire, text).limited(granted, messages + 1)
}

/// The subscription that something came for, if there still is one.
#[inline]
fn route<'a>(
    routes: &'a mut HashMap<u32, Route, BuildHasherDefault<NumberHasher>>,
    shared: &Arc<Shared>,
    number: u32,
) -> Option<&'a mut Route> {
    match routes.entry(number) {
        Slot::Occupied(route) => Some(route.into_mut()),
        Slot::Vacant(free) => {
            let state = shared.lock();
            let entry = state.subscriptions.get(&number)?;
            Some(free.insert(Route {
                events: Arc::clone(&entry.events),
                run: Run::default(),
                room: 0,
                known: Known::default(),
                flow: Arc::clone(&entry.flow),
                expires: entry.expires(),
                durable: entry.held.is_some().then(|| Arc::clone(shared)),
                gaps: Vec::new(),
            }))
        }
    }
}

impl State {
    /// The answer to a confirmed publish.
    fn published(&mut self, number: u32, answer: wire::Published, repeated: bool) {
        let Some(Open::Publish(place, _)) = self.open.get(&number) else {
            return self.answer(number, Content::Published(answer));
        };
        self.unanswered.remove(place);
        if let Some(Open::Publish(_, waiter)) = self.open.remove(&number) {
            let wire::Published { id, live, durable } = answer;
            let _ = waiter.send(Ok(Published { id, live, durable, repeated }));
        }
    }

    /// Gives an answer to whoever waits for it; one that nobody waits for was given up.
    fn answer(&mut self, number: u32, content: Content) {
        match self.open.remove(&number) {
            Some(Open::Request(waiter)) => {
                let _ = waiter.send(Ok(content));
            }
            Some(Open::Publish(place, waiter)) => {
                self.unanswered.remove(&place);
                let text = format!("the bus answered a publish with a frame of kind {}", content.kind());
                let _ = waiter.send(Err(Error::new(ErrorKind::Wire, text)));
            }
            Some(Open::Claim(name)) => {
                if let Some(claim) = self.claims.get_mut(&name) {
                    claim.held = true;
                    for waiter in claim.waiters.drain(..) {
                        let _ = waiter.send(Ok(()));
                    }
                }
            }
            None => {}
        }
    }
}
