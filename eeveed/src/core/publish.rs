//! The way of a message: stamp, permit, match, deliver. This is the hot path: what it does for every message must neither
//! allocate, nor ask for the time, nor open the document (docs/ARCHITECTURE.md, "The hot path").

use libeevee::GapReason;
use libeevee::wire::limits::HOPS_MAX;
use libeevee::wire::{
    CONFIRM, Code, Content, DocumentView, Envelope, Frame, Grant, HEADER_BYTES, Published, REPEATED, RawPublish,
    Refusal, put_deliver,
};

use super::durable::repeat::Known;
use super::durable::{Confirm, Enqueue};
use super::index::{Found, Headers, Pairs, Slot, View};
use super::message::Routed;
use super::queue::{PLACE_BYTES, Pushed, Waiting};
use super::route::Route;
use super::session::{Delivered, Room, SessionKey, beyond, refusal, shortened};
use super::storage::{Record, Write};
use super::subscribe::{last_size, leaving_size};
use super::{Action, Core, FirstIds, Now};

/// How deep the newest answers are, by message id. An answer to a message that was forgotten here counts on from what its
/// publisher claims; forgetting makes a loop longer, never endless, because its rate is bounded.
#[derive(Debug)]
pub(crate) struct Hops(pub(super) Box<[(u64, u8)]>);

const HOPS_KEPT: usize = 4096;

impl Default for Hops {
    fn default() -> Self {
        Self(vec![(0, 0); HOPS_KEPT].into_boxed_slice())
    }
}

impl Hops {
    fn known(&self, id: u64) -> u8 {
        match self.0[id as usize % HOPS_KEPT] {
            (known, hops) if known == id => hops,
            _ => 0,
        }
    }

    pub(super) fn keep(&mut self, id: u64, hops: u8) {
        self.0[id as usize % HOPS_KEPT] = (id, hops);
    }
}

/// A message that may go its way.
pub(super) struct Outgoing<'a> {
    pub(super) cause: Option<u64>,
    pub(super) hops: u8,
    pub(super) document: DocumentView<'a>,
    /// Key and value of its headers, if they were read on the way.
    pub(super) headers: Option<&'a [(&'a str, &'a str)]>,
    /// Where it goes, if messages like it went before.
    pub(super) route: Option<Route>,
    pub(super) reply_address: Option<u64>,
    /// What a retry of it is recognised by; 0 and 0 where none is.
    pub(super) epoch: u64,
    pub(super) sequence: u64,
    /// Who is told when it is on disk, or is not.
    pub(super) confirm: Option<Confirm>,
    /// For how many milliseconds it is wanted; 0 for as long as a subscription says.
    pub(super) wanted_ms: u64,
}

/// How much of the rule, and of the headers, a denial repeats: both may be as long as a frame.
const TOLD_BYTES_MAX: usize = 1024;

/// Room that is kept for putting the next frame together.
const SCRATCH_BYTES: usize = 64 << 10;

/// When fewer ids than these are left, more are asked for.
pub(super) const IDS_LOW: u64 = 1 << 31;

/// Where it went.
pub(super) struct Sent {
    pub(super) id: u64,
    pub(super) to: Route,
}

/// A Publish of which the headers are known to be well formed.
pub(super) struct Incoming<'a> {
    pub(super) cause: Option<u64>,
    pub(super) hops: u8,
    pub(super) epoch: u64,
    pub(super) sequence: u64,
    pub(super) document: DocumentView<'a>,
    pub(super) headers: Option<&'a [(&'a str, &'a str)]>,
    pub(super) route: Option<Route>,
}

impl Core {
    /// Takes the body of a Publish as it was read; false if it is none, and then [`Frame::decode`] says what is wrong.
    pub(super) fn publish_in_place(&mut self, now: Now, key: SessionKey, number: u32, flags: u8, body: &[u8]) -> bool {
        let Some(raw) = RawPublish::read(body) else { return false };
        let (mut pairs, mut headers) = (Pairs::new(), None);
        let (document, route) = match self.memo.get(key, raw.document().header_bytes()) {
            Some(route) => (raw.document().known(), Some(route)),
            None => match raw.document().check_like(&mut self.checked, |key, value| pairs.push((key, value))) {
                Some(document) => {
                    headers = Some(&*pairs);
                    (document, None)
                }
                None => match raw.document().check() {
                    Ok(document) => (document, None),
                    Err(_) => return false,
                },
            },
        };
        let RawPublish { cause, hops, epoch, sequence, .. } = raw;
        self.publish(now, key, number, flags, Incoming { cause, hops, epoch, sequence, document, headers, route });
        true
    }

    pub(super) fn publish(&mut self, now: Now, key: SessionKey, number: u32, flags: u8, publish: Incoming<'_>) {
        let Incoming { cause, hops, epoch, sequence, document, headers, route } = publish;
        let bytes = document.bytes().len();
        if !self.charge(key, number, bytes) {
            return;
        }
        let confirm = Confirm { session: key, number, wanted: flags & CONFIRM != 0, repeated: false };
        if epoch != 0 && self.is_repeated(confirm, epoch, sequence) {
            self.give_back(now, Some((key, bytes as u64)));
            return;
        }
        let confirmed = Some(confirm);
        let outgoing = Outgoing {
            cause,
            hops,
            document,
            headers,
            route,
            reply_address: None,
            epoch,
            sequence,
            confirm: confirmed,
            wanted_ms: 0,
        };
        let sent = self.send(now, key, outgoing);
        let waits = sent.as_ref().is_ok_and(|sent| !sent.to.durable().is_empty());
        if epoch != 0 && !waits {
            self.remember(key, epoch, sequence, sent.as_ref().map(|sent| sent.id).ok());
        }
        match sent {
            // The rest follows when it is on disk.
            Ok(_) if waits => return,
            Ok(Sent { id, to }) => {
                if confirm.wanted {
                    let live = u32::try_from(to.live().len()).unwrap_or(u32::MAX);
                    self.tell(key, &Frame::new(number, Content::Published(Published { id, live, durable: 0 })));
                }
            }
            Err(refusal) => self.refuse(key, number, refusal),
        }
        self.give_back(now, Some((key, bytes as u64)));
    }

    /// Whether the bus has this message already; then its publisher is told so, now or when it is on disk.
    fn is_repeated(&mut self, confirm: Confirm, epoch: u64, sequence: u64) -> bool {
        let Some(session) = self.sessions.get(&confirm.session) else { return false };
        let source = session.source.clone();
        match self.journal.repeats.look(&source, epoch, sequence) {
            Known::New => false,
            Known::Open => self.join_pending(&source, epoch, sequence, Confirm { repeated: true, ..confirm }),
            Known::Taken(id) => {
                if confirm.wanted {
                    let published = Published { id: id.unwrap_or(0), live: 0, durable: 0 };
                    let frame = Frame { flags: REPEATED, ..Frame::new(confirm.number, Content::Published(published)) };
                    self.tell(confirm.session, &frame);
                }
                true
            }
        }
    }

    /// Keeps what became of a numbered publish that does not wait for the disk: its id, or that it was refused.
    fn remember(&mut self, key: SessionKey, epoch: u64, sequence: u64, id: Option<u64>) {
        let Some(session) = self.sessions.get(&key) else { return };
        let source = session.source.clone();
        let Some(id) = id else {
            self.journal.repeats.refuse(&source, epoch, sequence);
            return;
        };
        if let Some((source, epoch)) = self.journal.repeats.begin(&source, epoch, sequence, id, false)
            && self.journal.exists()
        {
            self.journal.write(Write::ForgetPublisher { source: source.to_string(), epoch });
        }
    }

    /// Takes the publisher's credit; false when it had none and was told.
    pub(super) fn charge(&mut self, key: SessionKey, number: u32, bytes: usize) -> bool {
        let Some(session) = self.sessions.get_mut(&key) else { return false };
        let charged = session.credit.take(bytes);
        if !charged {
            let text = format!("{} published more than its credit; wait for Grant", session.source);
            self.refuse(key, number, refusal(Code::Credit, text));
        }
        charged
    }

    /// Gives back the credit that a publish of so many bytes took.
    pub(super) fn give_back(&mut self, now: Now, credit: Option<(SessionKey, u64)>) {
        let Some((key, bytes)) = credit else { return };
        let Some(session) = self.sessions.get_mut(&key) else { return };
        session.credit.owe(bytes);
        if session.credit.is_worth_a_grant() {
            self.grant(now, key);
        }
    }

    /// Tells a publisher what it may have again.
    pub(super) fn grant(&mut self, now: Now, key: SessionKey) {
        let Some(session) = self.sessions.get_mut(&key) else { return };
        let granted = session.credit.grant(now.mono);
        if session.credit.next_grant().is_some() && !self.throttled.contains(&key) {
            self.throttled.push(key);
        }
        if let Some((messages, bytes)) = granted {
            self.tell(key, &Frame::new(0, Content::Grant(Grant { messages, bytes })));
        }
    }

    /// Permits, stamps, matches and delivers.
    pub(super) fn send(&mut self, now: Now, key: SessionKey, outgoing: Outgoing<'_>) -> Result<Sent, Refusal> {
        let Some(session) = self.sessions.get(&key) else {
            return Err(refusal(Code::Internal, format!("session {key} has ended")));
        };
        let source = session.source.clone();
        let hops =
            self.deeper(outgoing.cause, outgoing.hops).map_err(|hops| self.told_loop(&source, &outgoing, hops))?;
        let id = self.next_id()?;
        let document = outgoing.document;
        let view = || match outgoing.headers {
            None => View::new(id, &source, now.wall, outgoing.cause, hops, document),
            Some(pairs) => View {
                id,
                source: &source,
                timestamp: now.wall,
                cause: outgoing.cause,
                hops,
                headers: Headers::Of(pairs),
            },
        };

        let mut to = match outgoing.route {
            Some(route) => route,
            None => {
                let route = self.find_route(key, &view());
                // A volatile permit answers for this message alone.
                if !self.sessions.get(&key).is_some_and(|session| session.may_publish.is_volatile()) {
                    self.memo.put(key, document.header_bytes(), &route);
                }
                route
            }
        };
        self.work += to.live().len() + to.durable().len();
        if to.is_denied() {
            return Err(self.told_denied(key, &source, id, document));
        }
        if !self.volatile.is_empty() {
            self.work += self.volatile.len();
            let all = to.live().iter().chain(to.durable()).copied();
            to = self.targets(all.chain(self.find_volatile(&view())).collect());
        }
        if !to.live().is_empty() {
            self.check_memory(Routed::size_of(document) + to.live().len() * PLACE_BYTES)?;
        }
        if !to.durable().is_empty() {
            let size = Record::size_of(document, &source);
            self.check_share(key, size as usize)?;
            self.check_durable(to.durable(), size)?;
        }
        self.published += 1;
        if let Some(session) = self.sessions.get_mut(&key) {
            session.published += 1;
        }
        if outgoing.cause.is_some() {
            self.hops.keep(id, hops);
        }
        if to.is_empty() {
            self.unrouted += 1;
        }
        if !to.durable().is_empty() {
            let record = Record {
                id,
                source: (*source).into(),
                timestamp: now.wall,
                cause: outgoing.cause,
                hops,
                reply_address: outgoing.reply_address,
                document: document.detached(),
            };
            let live = u32::try_from(to.live().len()).unwrap_or(u32::MAX);
            let Outgoing { epoch, sequence, confirm, wanted_ms, .. } = outgoing;
            let credit = Some((key, document.bytes().len() as u64));
            let enqueue = Enqueue { confirm, source: &source, epoch, sequence, live, credit, record, wanted_ms };
            self.enqueue_durable(now, to.durable(), enqueue);
        }
        if !to.live().is_empty() {
            let envelope = Envelope {
                id,
                source: &source,
                timestamp: now.wall,
                cause: outgoing.cause,
                hops,
                reply_address: outgoing.reply_address,
                attempt: 1,
                waited_ms: 0,
            };
            self.deliver(now, to.live(), &envelope, document);
        }
        Ok(Sent { id, to })
    }

    pub(super) const fn room(&self) -> Room {
        Room {
            bus: self.limits.memory_bytes.saturating_sub(self.memory + self.owed),
            uid: self.limits.memory_per_uid,
            direct: self.direct_bytes,
        }
    }

    /// Whether so many bytes more may wait in the bus.
    pub(super) fn check_memory(&self, more: usize) -> Result<(), Refusal> {
        let (used, max) = (self.memory + self.owed, self.limits.memory_bytes);
        let wanted = used + more;
        if wanted <= max {
            return Ok(());
        }
        let text = format!("{used} bytes wait in the bus, {more} more would pass its limit of {max}");
        Err(beyond(Code::Memory, text, max as u64, wanted as u64))
    }

    fn find_route(&mut self, key: SessionKey, view: &View<'_>) -> Route {
        if self.sessions.get(&key).is_none_or(|session| !session.may_publish.admits(view)) {
            return Route::Denied;
        }
        let found = self.find_indexed(view);
        self.targets(found)
    }

    /// Sorts subscriptions into live and durable ones.
    pub(super) fn targets(&self, found: Found) -> Route {
        let is_durable = |slot: &Slot| self.subscriptions[*slot as usize].durable.is_some();
        if !found.iter().any(is_durable) {
            return Route::to(&found, &[]);
        }
        let (durable, live): (Found, Found) = found.into_iter().partition(is_durable);
        Route::to(&live, &durable)
    }

    /// The subscriptions of the index that match and may receive it.
    pub(super) fn find_indexed(&mut self, view: &View<'_>) -> Found {
        let mut to = self.index.find(view, &mut self.work);
        to.retain(|slot| self.may_receive(*slot, view));
        to
    }

    /// The same for volatile subscriptions, which are looked through one by one.
    pub(super) fn find_volatile(&self, view: &View<'_>) -> impl Iterator<Item = Slot> {
        self.volatile.iter().copied().filter(|slot| self.wants(*slot, view))
    }

    pub(super) fn may_receive(&self, slot: Slot, view: &View<'_>) -> bool {
        let Some(subscription) = self.subscriptions.get(slot as usize) else { return false };
        match (&subscription.durable, self.sessions.get(&subscription.session)) {
            (Some(durable), _) => durable.may_receive.admits(view),
            (None, Some(session)) => session.may_receive.admits(view),
            (None, None) => false,
        }
    }

    /// The naive match, for volatile subscriptions.
    fn wants(&self, slot: Slot, view: &View<'_>) -> bool {
        let subscription = &self.subscriptions[slot as usize];
        subscription.filters.iter().any(|filter| filter.matches(view)) && self.may_receive(slot, view)
    }

    /// Tells subscriptions of a message that they do not get.
    pub(super) fn lose(&mut self, now: Now, to: &[Slot], id: u64, reason: GapReason) {
        for slot in to {
            let Some(subscription) = self.subscriptions.get_mut(*slot as usize) else { continue };
            subscription.lose(id, reason);
            self.dropped += 1;
            let key = subscription.session;
            if let Some(session) = self.sessions.get_mut(&key) {
                session.dropped += 1;
            }
            self.list_deliverable(now, key);
        }
    }

    /// Delivers to live subscriptions: at once to those that can take it, else into their queues.
    pub(super) fn deliver(&mut self, now: Now, to: &[Slot], envelope: &Envelope<'_>, document: DocumentView<'_>) {
        let mut head = std::mem::take(&mut self.head);
        head.clear();
        envelope.encode_into(&mut head);
        let mut routed = None;
        for slot in to {
            if !self.deliver_at_once(*slot, &head, document) {
                let message = routed.get_or_insert_with(|| {
                    let message = Routed::new(envelope.id, &head, document, &mut self.scratch);
                    self.memory += message.size();
                    message
                });
                self.enqueue(now, *slot, message);
            }
        }
        self.head = head;
        if self.scratch.capacity() > SCRATCH_BYTES {
            self.scratch = Vec::new();
        }
        // Every queue that refused it gave up its reference while this one was still held.
        if let Some(message) = routed {
            self.memory -= last_size(message);
        }
    }

    /// Appends a message to what is written next to a session, if nothing is before it. It is as if the session's queue had
    /// been emptied right after the message came, which spares keeping the message and coming back for it.
    #[inline]
    fn deliver_at_once(&mut self, slot: Slot, head: &[u8], document: DocumentView<'_>) -> bool {
        let room = self.room();
        let Some(subscription) = self.subscriptions.get_mut(slot as usize) else { return false };
        let Some(session) = self.sessions.get_mut(&subscription.session) else { return false };
        let bytes = HEADER_BYTES + head.len() + document.bytes().len();
        if !session.takes_delivery(subscription, bytes, &room) {
            return false;
        }
        let piece = session.piece_for(bytes, &mut self.spare);
        put_deliver(&mut piece.bytes, subscription.number, head, document.bytes());
        piece.counts.direct += 1;
        let delivered = Delivered { messages: 1, frame_bytes: bytes, document_bytes: document.bytes().len() };
        session.count_delivery(subscription, &delivered);
        self.owed += bytes;
        self.delivered += 1;
        session.wake(subscription.session, &mut self.actions);
        true
    }

    fn enqueue(&mut self, now: Now, slot: Slot, message: &Routed) {
        let Some(subscription) = self.subscriptions.get_mut(slot as usize) else { return };
        let Some(session) = self.sessions.get_mut(&subscription.session) else { return };
        let memory = &mut self.memory;
        *memory += PLACE_BYTES;
        let waiting = Waiting { message: message.clone(), since: now.mono };
        let share_max = self.limits.memory_per_uid;
        let halted = session.halted;
        let pushed = subscription.push(waiting, share_max, halted, &mut |lost| *memory -= leaving_size(lost));
        if let Pushed::Dropped(count) = pushed {
            session.dropped += count;
            self.dropped += count;
        }
        if !subscription.listed && subscription.is_deliverable(now.mono, session.halted, 0) {
            subscription.listed = true;
            session.ready.push_back(slot);
        }
        let (key, number) = (subscription.session, subscription.number);
        if let Pushed::Disconnect(lacking) = pushed {
            let bounds = subscription.queue().bounds();
            let (messages, bytes) = (bounds.messages, bounds.bytes);
            let full = match lacking {
                GapReason::Memory => format!("{} has no more than {share_max} bytes", subscription.account.whose()),
                _ => format!("{messages} messages or {bytes} bytes"),
            };
            let text = format!("subscription {number} is full ({full}) and its policy is to disconnect");
            if !session.closing {
                self.refuse(key, number, refusal(Code::SlowConsumer, text));
            }
        } else if !session.ready.is_empty() {
            session.wake(key, &mut self.actions);
        }
    }

    /// The next block of ids is asked for when half of one is left, so that running out takes 2^31 messages during one
    /// disk fault. Then a message is refused rather than given an id that may have been used.
    pub(super) fn next_id(&mut self) -> Result<u64, Refusal> {
        if !self.ids_asked && self.ids.end - self.ids.start < IDS_LOW {
            if let Some(FirstIds(wait)) = self.first_ids.take() {
                self.ids.end = wait().max(self.ids.end);
            } else {
                self.ids_asked = true;
                self.actions.push(Action::ReserveIds);
            }
        }
        self.ids.next().ok_or_else(|| {
            refusal(Code::Storage, "no message id is left that was reserved on disk; the journal of eeveed says why")
        })
    }

    /// The first id that no message has.
    pub(crate) const fn next_unused_id(&self) -> u64 {
        self.ids.start
    }

    /// The id of the last message taken.
    pub(super) fn last_id(&self) -> u64 {
        self.ids.start.saturating_sub(1)
    }

    pub(super) fn deeper(&self, cause: Option<u64>, claimed: u8) -> Result<u8, u8> {
        let Some(cause) = cause else { return Ok(0) };
        let hops = self.hops.known(cause).max(claimed).saturating_add(1);
        if hops > HOPS_MAX { Err(hops) } else { Ok(hops) }
    }

    fn told_loop(&mut self, source: &str, outgoing: &Outgoing<'_>, hops: u8) -> Refusal {
        let text = format!(
            "an answer {hops} answers deep (to message {}), at most {HOPS_MAX} are possible: two operators answer each other",
            outgoing.cause.unwrap_or_default()
        );
        self.log(tracing::Level::WARN, source, outgoing.cause, format!("refused a publish of {source}: {text}"));
        beyond(Code::Loop, text, u64::from(HOPS_MAX), u64::from(hops))
    }

    fn told_denied(&mut self, key: SessionKey, source: &str, id: u64, document: DocumentView<'_>) -> Refusal {
        let rule = self.sessions.get(&key).map(|session| session.may_publish.rule()).unwrap_or_default();
        let rule = shortened(&rule, TOLD_BYTES_MAX);
        let headers = document.headers().map(|(k, v)| format!("{k}={v:?}")).collect::<Vec<_>>().join(" ");
        let headers = shortened(&headers, TOLD_BYTES_MAX);
        let text = format!("{source} may not publish this: may-publish is {rule}; the headers are {headers}");
        self.log(tracing::Level::WARN, source, Some(id), format!("denied: {text}"));
        if let Some(session) = self.sessions.get_mut(&key) {
            session.denied += 1;
        }
        Refusal { rule: Some(rule), ..refusal(Code::Denied, text) }
    }
}
