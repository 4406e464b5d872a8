//! The way of a message: stamp, permit, match, enqueue. This is the hot path.
//!
//! Equal header bytes from one session have the same permission and the same matches, so that a memo answers for them
//! without looking at a header again; it is dropped when subscriptions or permissions change. (From one session, not from
//! one source: two sessions of a person may have different rights.)

use std::rc::Rc;

use hashbrown::HashMap;
use libeevee::GapReason;
use libeevee::wire::limits::HOPS_MAX;
use libeevee::wire::{
    CONFIRM, Code, Content, Deliver, EncodedDocument, Frame, Grant, Publish, Published, REPEATED, Refusal,
};

use super::durable::repeat::Known;
use super::durable::{Confirm, Enqueue};
use super::index::{Slot, View};
use super::message::Routed;
use super::queue::{PLACE_BYTES, Pushed, Waiting};
use super::session::{SessionKey, beyond, refusal, shortened};
use super::storage::{Record, Write};
use super::subscribe::{last_size, leaving_size};
use super::{Action, Core, Now};

/// Where a message with these headers from this session goes.
#[derive(Debug)]
struct Route {
    /// Whether may-publish forbids it.
    denied: bool,
    to: Targets,
}

/// The subscriptions that a message is for.
#[derive(Debug, Clone, Default)]
pub(super) struct Targets {
    pub(super) live: Rc<[Slot]>,
    pub(super) durable: Rc<[Slot]>,
}

impl Targets {
    pub(super) fn is_empty(&self) -> bool {
        self.live.is_empty() && self.durable.is_empty()
    }
}

/// Routes by session and exact header bytes. Bounded: unique headers in every message would fill any memory.
#[derive(Debug, Default)]
pub(crate) struct Memo {
    routes: HashMap<Box<[u8]>, Rc<Route>>,
    bytes: usize,
    key: Vec<u8>,
}

/// Enough for every channel of a busy box; beyond it the memo starts anew.
const MEMO_BYTES_MAX: usize = 4 << 20;

impl Memo {
    pub(crate) fn clear(&mut self) {
        self.routes.clear();
        self.bytes = 0;
    }

    fn get(&mut self, session: SessionKey, headers: &[u8]) -> Option<Rc<Route>> {
        self.key.clear();
        self.key.extend_from_slice(&session.to_le_bytes());
        self.key.extend_from_slice(headers);
        self.routes.get(self.key.as_slice()).cloned()
    }

    /// Keeps a route under the key of the last [`Memo::get`].
    fn put(&mut self, route: &Rc<Route>) {
        let cost = self.key.len() + (route.to.live.len() + route.to.durable.len()) * size_of::<Slot>() + 96;
        if self.bytes + cost > MEMO_BYTES_MAX {
            self.clear();
        }
        self.bytes += cost;
        self.routes.insert(self.key.as_slice().into(), route.clone());
    }
}

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
    pub(super) document: &'a EncodedDocument,
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

/// When fewer ids than these are left, more are asked for.
const IDS_LOW: u64 = 1 << 31;

/// Where it went.
pub(super) struct Sent {
    pub(super) id: u64,
    pub(super) to: Targets,
}

impl Core {
    pub(super) fn publish(&mut self, now: Now, key: SessionKey, number: u32, flags: u8, publish: Publish) {
        let Publish { cause, hops, epoch, sequence, document } = publish;
        if !self.charge(key, number, &document) {
            return;
        }
        let bytes = document.bytes().len() as u64;
        let confirm = Confirm { session: key, number, wanted: flags & CONFIRM != 0, repeated: false };
        if epoch != 0 && self.is_repeated(confirm, epoch, sequence) {
            self.give_back(now, Some((key, bytes)));
            return;
        }
        let confirmed = Some(confirm);
        let outgoing = Outgoing {
            cause,
            hops,
            document: &document,
            reply_address: None,
            epoch,
            sequence,
            confirm: confirmed,
            wanted_ms: 0,
        };
        let sent = self.send(now, key, outgoing);
        let waits = sent.as_ref().is_ok_and(|sent| !sent.to.durable.is_empty());
        if epoch != 0 && !waits {
            self.remember(key, epoch, sequence, sent.as_ref().map(|sent| sent.id).ok());
        }
        match sent {
            // The rest follows when it is on disk.
            Ok(_) if waits => return,
            Ok(Sent { id, to }) => {
                if confirm.wanted {
                    let live = u32::try_from(to.live.len()).unwrap_or(u32::MAX);
                    self.tell(key, &Frame::new(number, Content::Published(Published { id, live, durable: 0 })));
                }
            }
            Err(refusal) => self.refuse(key, number, refusal),
        }
        self.give_back(now, Some((key, bytes)));
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
    pub(super) fn charge(&mut self, key: SessionKey, number: u32, document: &EncodedDocument) -> bool {
        let Some(session) = self.sessions.get_mut(&key) else { return false };
        let charged = session.credit.take(document.bytes().len());
        if !charged {
            let text = format!("{} published more than its credit; wait for Grant", session.source);
            self.refuse(key, number, refusal(Code::Credit, text));
        }
        charged
    }

    /// Gives back the credit that a publish of so many bytes took.
    pub(super) fn give_back(&mut self, now: Now, credit: Option<(SessionKey, u64)>) {
        let Some((key, bytes)) = credit else { return };
        if let Some(session) = self.sessions.get_mut(&key) {
            session.credit.owe(bytes);
        }
        self.grant(now, key);
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

    /// Permits, stamps, matches and enqueues.
    pub(super) fn send(&mut self, now: Now, key: SessionKey, outgoing: Outgoing<'_>) -> Result<Sent, Refusal> {
        let Some(session) = self.sessions.get(&key) else {
            return Err(refusal(Code::Internal, format!("session {key} has ended")));
        };
        let source = session.source.clone();
        let hops =
            self.deeper(outgoing.cause, outgoing.hops).map_err(|hops| self.told_loop(&source, &outgoing, hops))?;
        let id = self.next_id()?;
        let document = outgoing.document;
        let view = || View::new(id, &source, now.wall, outgoing.cause, hops, document);

        let route = match self.memo.get(key, document.header_bytes()) {
            Some(route) => route,
            None => {
                let route = Rc::new(self.find_route(key, &view()));
                // A volatile permit answers for this message alone.
                if !self.sessions.get(&key).is_some_and(|session| session.may_publish.is_volatile()) {
                    self.memo.put(&route);
                }
                route
            }
        };
        if route.denied {
            return Err(self.told_denied(key, &source, id, document));
        }
        // A route is shared as it stands; only volatile subscriptions make a list for one message.
        let to = match self.volatile[..] {
            [] => route.to.clone(),
            _ => {
                let all = route.to.live.iter().chain(&*route.to.durable).copied();
                self.targets(all.chain(self.find_volatile(&view())).collect())
            }
        };
        if !to.live.is_empty() {
            self.check_memory(Routed::size_of(document) + to.live.len() * PLACE_BYTES)?;
        }
        if !to.durable.is_empty() {
            let size = Record::size_of(document, &source);
            self.check_share(key, size as usize)?;
            self.check_durable(now, &to.durable, size)?;
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
        if !to.durable.is_empty() {
            let record = Record {
                id,
                source: (*source).into(),
                timestamp: now.wall,
                cause: outgoing.cause,
                hops,
                reply_address: outgoing.reply_address,
                document: document.detached(),
            };
            let live = u32::try_from(to.live.len()).unwrap_or(u32::MAX);
            let Outgoing { epoch, sequence, confirm, wanted_ms, .. } = outgoing;
            let credit = Some((key, document.bytes().len() as u64));
            let enqueue = Enqueue { confirm, source: &source, epoch, sequence, live, credit, record, wanted_ms };
            self.enqueue_durable(now, &to.durable, enqueue);
        }
        if !to.live.is_empty() {
            self.enqueue(
                now,
                &to.live,
                Routed::new(Deliver {
                    id,
                    source: source.to_string(),
                    timestamp: now.wall,
                    cause: outgoing.cause,
                    hops,
                    reply_address: outgoing.reply_address,
                    attempt: 1,
                    waited_ms: 0,
                    document: document.clone(),
                }),
            );
        }
        Ok(Sent { id, to })
    }

    /// Publishes on behalf of the bus itself, as source `eeveed`.
    pub(super) fn announce(&mut self, now: Now, document: &EncodedDocument) {
        let Ok(id) = self.next_id() else { return };
        let source: Rc<str> = "eeveed".into();
        let view = View::new(id, &source, now.wall, None, 0, document);
        let mut found = self.find_indexed(&view);
        found.extend(self.find_volatile(&view));
        let to = self.targets(found);
        if !to.durable.is_empty() {
            match self.check_durable(now, &to.durable, Record::size_of(document, &source)) {
                Ok(()) => {
                    let record = Record {
                        id,
                        source: (*source).into(),
                        timestamp: now.wall,
                        cause: None,
                        hops: 0,
                        reply_address: None,
                        document: document.clone(),
                    };
                    let (epoch, sequence, live, wanted_ms) = (0, 0, 0, 0);
                    let enqueue = Enqueue {
                        confirm: None,
                        source: &source,
                        epoch,
                        sequence,
                        live,
                        credit: None,
                        record,
                        wanted_ms,
                    };
                    self.enqueue_durable(now, &to.durable, enqueue);
                }
                // There is no publisher to refuse it to; those who do not get it are told.
                Err(_) => to.durable.iter().for_each(|slot| self.tell_gap(*slot, id, GapReason::Memory)),
            }
        }
        if to.live.is_empty() {
            return;
        }
        if self.check_memory(Routed::size_of(document) + to.live.len() * PLACE_BYTES).is_err() {
            self.lose(now, &to.live, id, GapReason::Memory);
            return;
        }
        let deliver = Deliver {
            id,
            source: source.to_string(),
            timestamp: now.wall,
            cause: None,
            hops: 0,
            reply_address: None,
            attempt: 1,
            waited_ms: 0,
            document: document.clone(),
        };
        self.enqueue(now, &to.live, Routed::new(deliver));
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

    fn find_route(&self, key: SessionKey, view: &View<'_>) -> Route {
        let denied = self.sessions.get(&key).is_none_or(|session| !session.may_publish.admits(view));
        let to = if denied { Targets::default() } else { self.targets(self.find_indexed(view)) };
        Route { denied, to }
    }

    /// Sorts subscriptions into live and durable ones.
    fn targets(&self, found: Vec<Slot>) -> Targets {
        let is_durable = |slot: &Slot| self.subscriptions[*slot as usize].durable.is_some();
        let (durable, live): (Vec<Slot>, Vec<Slot>) = found.into_iter().partition(is_durable);
        Targets { live: live.into(), durable: durable.into() }
    }

    /// The subscriptions of the index that match and may receive it.
    fn find_indexed(&self, view: &View<'_>) -> Vec<Slot> {
        let mut to = self.index.find(view);
        to.retain(|slot| self.may_receive(*slot, view));
        to
    }

    /// The same for volatile subscriptions, which are looked through one by one.
    fn find_volatile(&self, view: &View<'_>) -> impl Iterator<Item = Slot> {
        self.volatile.iter().copied().filter(|slot| self.wants(*slot, view))
    }

    fn may_receive(&self, slot: Slot, view: &View<'_>) -> bool {
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
    fn lose(&mut self, now: Now, to: &[Slot], id: u64, reason: GapReason) {
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

    fn enqueue(&mut self, now: Now, to: &[Slot], message: Routed) {
        let message = Rc::new(message);
        self.memory += message.size();
        for slot in to {
            let Some(subscription) = self.subscriptions.get_mut(*slot as usize) else { continue };
            let Some(session) = self.sessions.get_mut(&subscription.session) else { continue };
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
                session.ready.push_back(*slot);
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
            } else if !session.awake && !session.ready.is_empty() {
                session.awake = true;
                self.actions.push(Action::Wake(key));
            }
        }
        // Every queue that refused it gave up its reference while this one was still held.
        self.memory -= last_size(message);
    }

    /// The next block of ids is asked for when half of one is left, so that running out takes 2^31 messages during one
    /// disk fault. Then a message is refused rather than given an id that may have been used.
    fn next_id(&mut self) -> Result<u64, Refusal> {
        if !self.ids_asked && self.ids.end - self.ids.start < IDS_LOW {
            self.ids_asked = true;
            self.actions.push(Action::ReserveIds);
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

    fn deeper(&self, cause: Option<u64>, claimed: u8) -> Result<u8, u8> {
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

    fn told_denied(&mut self, key: SessionKey, source: &str, id: u64, document: &EncodedDocument) -> Refusal {
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
