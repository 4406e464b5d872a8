//! The bus as a pure state machine: `step(now, event)` gives actions. There is no socket, clock, thread, file or tokio in
//! this folder (a test holds it so), so that a simulation is a loop with a seed.
//!
//! A message's way: `step` (a Publish frame) -> `publish.rs` (stamp, permit, match) -> `queue.rs` -> `output` (its bytes for
//! the subscriber's socket).

mod announce;
mod answer;
mod claim;
mod control;
pub(crate) mod durable;
mod fan_out;
pub(crate) mod handover;
mod index;
mod intake;
mod join;
mod memo;
mod message;
mod operator;
mod output;
mod permit;
mod plain;
mod publish;
mod queue;
mod record;
mod reload;
mod request;
mod route;
mod session;
mod share;
#[cfg(test)]
#[path = "../simulation/mod.rs"]
mod simulation;
mod spare;
mod status;
pub(crate) mod storage;
mod subscribe;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::ops::Range;
use std::time::Duration;

use hashbrown::HashMap;
use libeevee::OperatorId;
use libeevee::log::LogRecord;
use libeevee::module::Module as ModuleFile;
use libeevee::wire::{Checked, Code, Content, Control, Frame, Refusal, Text, Value, WireError};

use self::durable::{Durable, Journal, is_committing};
use self::fan_out::Slots;
use self::index::{Index, Slot};
pub(crate) use self::intake::{Rest, Taken};
use self::memo::Memo;
use self::operator::Operator;
use self::output::Output;
pub(crate) use self::output::{Chunk, PIECE_BYTES};
use self::publish::{Hops, Incoming};
pub(crate) use self::reload::DIAGNOSIS_BYTES_MAX;
use self::request::Request;
use self::session::Session;
pub(crate) use self::session::{Identity, Peer, SessionKey, beyond, refusal, shortened};
use self::share::Shares;
use self::spare::Spare;
use self::storage::{Committed, DurableKey, EntryNumber, Page, StorageError};
use self::subscribe::Subscription;
use crate::config::Limits;

/// So much is put directly into what is written next to a session.
const DIRECT_BYTES: usize = 4 << 20;

/// The time of an event. The core never asks for it.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Now {
    /// Monotonic; what every deadline and age is measured by.
    pub(crate) mono: Duration,
    /// Nanoseconds since the Unix epoch: data in messages, never an order.
    pub(crate) wall: u64,
}

/// A module file that was read and whose `[bus]` was checked.
#[derive(Debug, Clone)]
pub(crate) struct LoadedModule {
    pub(crate) file: ModuleFile,
    pub(crate) path: String,
    pub(crate) text: String,
}

/// What happens to the core.
#[derive(Debug)]
pub(crate) enum Event {
    /// A peer proved who it is. For an operator, `module` is its file; none on a development bus without one.
    Join { session: SessionKey, identity: Identity, peer: Peer, module: Option<LoadedModule> },
    /// A frame from a session that joined. The daemon has bytes, for [`Core::take`]; so does this become some.
    #[cfg(test)]
    Frame { session: SessionKey, frame: Frame },
    /// Bytes that are no frame.
    BadFrame { session: SessionKey, error: WireError },
    /// The connection is gone.
    Leave { session: SessionKey },
    /// Message ids below this one are reserved on disk; or the disk refused, and it is the same as before.
    Ids(u64),
    /// What the shell found when it was asked for a reload by [`Action::Control`].
    ModuleRead { id: OperatorId, asker: (SessionKey, u32), outcome: Result<LoadedModule, String> },
    /// The shell's answer to a Control that it carried out.
    Answered { session: SessionKey, number: u32, outcome: Result<Option<String>, Refusal> },
    /// Halt or resume an operator that the core did not know, after [`Event::Modules`].
    Halt { session: SessionKey, number: u32, id: OperatorId, on: bool },
    /// The ids for which a module file exists, and what is wrong with one, for status.
    Modules(Vec<(OperatorId, Result<LoadedModule, String>)>),
    /// Why systemd says that an operator ended; none where it did not fail.
    Failure { id: OperatorId, failure: Option<serde_json::Value> },
    /// The store is done with the batch that it was given.
    Stored(Result<Committed, StorageError>),
    /// What the store found when [`Action::Load`] asked it.
    Loaded { durable: DurableKey, generation: u64, page: Result<Page, StorageError> },
    /// Dead letters that the shell looked up for a verb of this session: they wait again, or are deleted.
    Dead { session: SessionKey, number: u32, entries: Vec<EntryNumber>, retry: bool },
    /// New limits.
    Limits(Limits),
    /// The bus logged something that is to be published.
    Record(LogRecord),
    /// The bus is stopping, and why.
    Stop(String),
    /// [`Core::deadline`] has come.
    Tick,
}

/// What the shell has to do.
#[derive(Debug)]
pub(crate) enum Action {
    /// [`Core::output`] has something for this session.
    Wake(SessionKey),
    /// Write what output there is, then close.
    Close(SessionKey),
    /// A verb that needs files: status, reload, reload-bus; halt and resume of an id that the core does not know.
    Control { session: SessionKey, number: u32, control: Control },
    /// Keep the flag, so that it survives restarts.
    SaveHalted { id: OperatorId, on: bool },
    /// An operator's session ended without Bye: ask systemd why.
    Ended { id: OperatorId },
    /// Messages of a durable subscription are wanted, those above an entry.
    Load { durable: DurableKey, generation: u64, after: EntryNumber, messages: usize, bytes: u64 },
    /// What is on disk is not known any more: the bus has to start anew.
    StoreFailed(String),
    /// More message ids are needed before these run out.
    ReserveIds,
    /// A line for the journal: who caused it, empty for the bus itself, and which operator it is about.
    Log {
        level: tracing::Level,
        source: Box<str>,
        operator: Option<OperatorId>,
        message: Option<u64>,
        text: String,
        /// It is about the publishing of a log record, and must not become one.
        unpublished: bool,
    },
}

/// Waits until the first ids are reserved on disk, and says below which one that is.
struct FirstIds(Box<dyn FnOnce() -> u64>);

impl fmt::Debug for FirstIds {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("FirstIds")
    }
}

#[derive(Debug)]
pub(crate) struct Core {
    pub(crate) limits: Limits,
    boot: u64,
    started: Now,
    sessions: HashMap<SessionKey, Box<Session>>,
    /// Answers to sessions that said Bye, until they are written.
    parting: HashMap<SessionKey, Vec<u8>>,
    subscriptions: slab::Slab<Subscription>,
    index: Index,
    /// Subscriptions that look at volatile parts of the envelope, matched for every message.
    volatile: Vec<Slot>,
    memo: Memo,
    /// The headers that were read last where the memo did not know them.
    checked: Checked,
    operators: BTreeMap<OperatorId, Operator>,
    /// Operators whose state changed faster than it is announced.
    unannounced: BTreeSet<OperatorId>,
    claims: HashMap<String, SessionKey>,
    requests: BTreeMap<u64, Request>,
    request_deadlines: BTreeMap<(Duration, u64), ()>,
    reload_number: u32,
    /// How many operators think about a reload; usually none, so that nobody looks for their deadlines.
    reloads_open: usize,
    /// Sessions whose rate keeps back what they are owed.
    throttled: Vec<SessionKey>,
    hops: Hops,
    journal: Journal,
    /// When durable subscriptions are to be looked at.
    alarms: BTreeSet<(Duration, Slot)>,
    ids: Range<u64>,
    ids_asked: bool,
    first_ids: Option<FirstIds>,
    /// Bytes of messages that wait, their places in queues, and subscriptions. Never more than its limit.
    memory: usize,
    /// Bytes of answers, output that is not written, large frames that are not whole, and open requests. With them nothing new is taken beyond the limit.
    owed: usize,
    /// What each uid has of both.
    shares: Shares,
    stopping: bool,
    published: u64,
    delivered: u64,
    dropped: u64,
    unrouted: u64,
    actions: Vec<Action>,
    /// Up to this much is put directly into what is written next to a session; beyond it, messages wait in queues.
    pub(crate) direct_bytes: usize,
    /// Whether a session was told something; see `intake.rs`.
    answered: bool,
    /// How many filters were looked at, and how many deliveries made, in this turn; see `intake.rs`.
    work: usize,
    /// Whether a log record is being published.
    in_record: bool,
    /// The envelope of the message that is on its way.
    head: Vec<u8>,
    /// Where the frame of a message that has to wait is put together.
    scratch: Vec<u8>,
    spare: Spare,
    /// Whom the last message of the last row of publishes went to.
    last_to: Slots,
}

impl Core {
    pub(crate) fn new(now: Now, boot: u64, limits: Limits, halted: Vec<OperatorId>, ids: Range<u64>) -> Self {
        let mut operators = BTreeMap::new();
        for id in halted {
            operators.insert(id, Operator::halted());
        }
        Self {
            limits,
            boot,
            started: now,
            sessions: HashMap::new(),
            parting: HashMap::new(),
            subscriptions: slab::Slab::new(),
            index: Index::default(),
            volatile: Vec::new(),
            memo: Memo::default(),
            checked: Checked::default(),
            operators,
            unannounced: BTreeSet::new(),
            claims: HashMap::new(),
            requests: BTreeMap::new(),
            request_deadlines: BTreeMap::new(),
            reload_number: 0,
            reloads_open: 0,
            throttled: Vec::new(),
            hops: Hops::default(),
            journal: Journal::new(),
            alarms: BTreeSet::new(),
            ids,
            ids_asked: false,
            first_ids: None,
            memory: 0,
            owed: 0,
            shares: Shares::default(),
            stopping: false,
            published: 0,
            delivered: 0,
            dropped: 0,
            unrouted: 0,
            actions: Vec::new(),
            direct_bytes: DIRECT_BYTES,
            answered: false,
            work: 0,
            in_record: false,
            head: Vec::new(),
            scratch: Vec::new(),
            spare: Spare::default(),
            last_to: Slots::new(),
        }
    }

    /// The ids that this core was made with are being reserved, and until [`Event::Ids`] says that they are, the first
    /// message waits for them: then `wait` is called, which gives the same as that event.
    pub(crate) fn expect_ids(&mut self, wait: impl FnOnce() -> u64 + 'static) {
        self.first_ids = Some(FirstIds(Box::new(wait)));
    }

    /// Takes one event. What is to be done about it is appended to `actions`.
    pub(crate) fn step(&mut self, now: Now, event: Event, actions: &mut Vec<Action>) {
        match event {
            #[cfg(test)]
            Event::Frame { session, frame } => _ = self.take_frames(now, session, &frame.encode(), usize::MAX),
            Event::BadFrame { session, error } => self.bad_frame(session, &error),
            Event::Join { session, identity, peer, module } => self.join(now, session, identity, peer, module),
            Event::Leave { session } => {
                self.parting.remove(&session);
                self.leave(now, session, "the connection ended");
            }
            Event::Ids(end) => {
                (self.ids_asked, self.first_ids) = (false, None);
                self.ids.end = end.max(self.ids.end);
            }
            Event::ModuleRead { id, asker, outcome } => self.module_read(now, id, asker, outcome),
            Event::Answered { session, number, outcome } => {
                self.verb_ended(session, number);
                self.answer(session, number, outcome);
            }
            Event::Halt { session, number, id, on } => {
                self.verb_ended(session, number);
                let outcome = self.halt(now, &id, on);
                self.answer(session, number, outcome);
            }
            Event::Modules(modules) => self.modules(modules),
            Event::Failure { id, failure } => {
                if let Some(operator) = self.operators.get_mut(&id) {
                    operator.asked_why = false;
                    operator.last_failure = failure.or(operator.last_failure.take());
                }
            }
            Event::Stored(outcome) => self.batch_done(now, outcome),
            Event::Loaded { durable, generation, page } => self.page_loaded(now, durable, generation, page),
            Event::Dead { session, number, entries, retry } => {
                self.verb_ended(session, number);
                self.change_dead(now, (session, number), entries, retry);
            }
            Event::Limits(limits) => self.limits = limits,
            Event::Record(record) => self.own_record(now, record),
            Event::Stop(why) => self.stop(&why),
            Event::Tick => self.tick(now),
        }
        if self.anybody_starves() {
            self.feed();
        }
        actions.append(&mut self.actions);
    }

    /// When [`Event::Tick`] is due, in monotonic time.
    pub(crate) fn deadline(&self) -> Option<Duration> {
        let request = self.request_deadlines.keys().next().map(|(at, _)| *at);
        let grant = self.throttled.iter().filter_map(|key| self.sessions.get(key)?.credit.next_grant()).min();
        let durable = self.alarms.first().map(|(at, _)| *at);
        let disk = [self.journal.deadline(), self.sweep_deadline()].into_iter().flatten().min();
        [request, self.reload_deadline(), grant, self.announce_deadline(), durable, disk].into_iter().flatten().min()
    }

    /// Appends what is to be written to a session, up to about `budget` bytes; true when there is more. With a budget of 0
    /// all that is encoded, and nothing from the queues. `out` is what is not written yet of earlier output, and counts as
    /// memory until the next call.
    pub(crate) fn output(&mut self, now: Now, key: SessionKey, budget: usize, out: &mut Chunk) -> bool {
        let Some(session) = self.sessions.get_mut(&key) else {
            out.own().append(&mut self.parting.remove(&key).unwrap_or_default());
            return false;
        };
        session.awake = false;
        let before = session.counted();
        self.owed -= before;
        session.output.take(budget, out, &mut self.spare);
        // What waits in the queues came later.
        let budget = if session.output.is_empty() && !out.is_shared() { budget } else { 0 };
        if out.capacity() == 0
            && !session.ready.is_empty()
            && let Some(buffer) = self.spare.take()
        {
            *out = Chunk::Own(buffer);
        }
        let mut served = Vec::new();
        while out.len() < budget
            && let Some(slot) = session.ready.pop_front()
        {
            let Some(subscription) = self.subscriptions.get_mut(slot as usize) else { continue };
            let mut freed = 0;
            let taken = if subscription.durable.is_some() {
                let how = (session.halted, &self.limits, &mut self.journal);
                let taken = subscription.take_durable(now, how, budget, out.own(), &mut freed);
                subscription.account.sub(freed);
                taken
            } else {
                subscription.take(now.mono, session, budget, out.own(), &mut |bytes| freed += bytes)
            };
            self.memory -= freed;
            session.delivered += taken.delivered;
            session.dropped += taken.dropped;
            self.delivered += taken.delivered;
            self.dropped += taken.dropped;
            subscription.listed = subscription.is_deliverable(now.mono, session.halted, self.limits.in_flight)
                && (subscription.durable.is_none() || self.journal.takes_acknowledgements());
            if subscription.listed {
                session.ready.push_back(slot);
            }
            if subscription.durable.is_some() {
                served.push(slot);
            }
        }
        session.unwritten = out.len();
        self.owed += session.counted();
        session.account.sub(before);
        session.account.add(session.counted());
        let more = !session.ready.is_empty() || !session.output.is_empty();
        for slot in served {
            self.after_delivery(slot);
        }
        more
    }

    /// Takes back a buffer that [`Core::output`] gave and that is written.
    pub(crate) fn recycle(&mut self, buffer: Chunk) {
        self.spare.give(buffer);
    }

    /// What [`Core::output`] asks for.
    pub(crate) fn take_actions(&mut self, actions: &mut Vec<Action>) {
        actions.append(&mut self.actions);
    }

    /// Whether something that this session asked for is not answered yet.
    pub(crate) fn is_at_work(&self, key: SessionKey) -> bool {
        let opens = |(_, slot): &(u32, Slot)| {
            let durable = self.subscriptions.get(*slot as usize).and_then(|found| found.durable.as_deref());
            durable.is_some_and(Durable::is_opening)
        };
        let Some(session) = self.sessions.get(&key) else { return false };
        !session.verbs().is_empty()
            || session.requests_open > 0
            || session.subscriptions.iter().any(opens)
            || self.journal.owes_answer(key)
    }

    /// Whether something waits for the disk; a stop waits for it.
    pub(crate) fn is_committing(&self) -> bool {
        is_committing(&self.journal)
    }

    /// Whether the memory of the bus is not used up.
    pub(crate) const fn has_room(&self) -> bool {
        self.memory + self.owed <= self.limits.memory_bytes
    }

    /// Counts what the shell keeps of a frame that is not whole yet.
    pub(crate) fn count_input(&mut self, key: SessionKey, bytes: usize) {
        if let Some(session) = self.sessions.get_mut(&key) {
            self.owed = self.owed + bytes - session.input;
            session.account.add(bytes);
            session.account.sub(session.input);
            session.input = bytes;
        }
    }

    fn frame(&mut self, now: Now, key: SessionKey, frame: Frame) {
        let Some(session) = self.sessions.get_mut(&key).filter(|session| !session.closing) else { return };
        let Frame { flags, number, content } = frame;
        match content {
            Content::Publish(publish) if session.identity.may_publish_and_subscribe() => {
                let libeevee::wire::Publish { cause, hops, epoch, sequence, document } = publish;
                let (document, route) = (document.view(), self.memo.get(key, document.header_bytes()));
                self.publish(
                    now,
                    key,
                    number,
                    flags,
                    Incoming { cause, hops, epoch, sequence, document, headers: None, route },
                );
            }
            Content::Grant(grant) => self.widen(now, key, number, grant),
            Content::Ack(ack) => self.acknowledge(now, key, number, ack),
            Content::Nack(nack) => self.negative(now, key, number, nack),
            Content::Ping(Value { value }) => {
                self.tell(key, &Frame::new(number, Content::Pong(Value { value })));
            }
            Content::Subscribe(subscribe) if session.identity.may_publish_and_subscribe() => {
                self.subscribe(now, key, number, subscribe);
            }
            Content::Unsubscribe => self.unsubscribe(key, number),
            Content::Request(request) if session.identity.may_publish_and_subscribe() => {
                self.request(now, key, number, request);
            }
            Content::Reply(reply) => self.reply(now, key, number, reply),
            Content::Claim(Text { text }) => self.claim(key, number, text),
            Content::Unclaim(Text { text }) => self.unclaim(key, number, &text),
            Content::State(state) => self.operator_state(now, key, state),
            Content::Commands(Text { text }) => self.operator_commands(now, key, number, text),
            Content::Record(record) => self.record(now, key, number, record),
            Content::Verdict(verdict) => self.verdict(now, key, number, verdict),
            Content::Control(control) => self.control(now, key, number, control),
            Content::Bye(Text { text }) => {
                // The id is free at once; the answers to what came before are still written.
                let last_words = session.output.to_vec();
                session.output = Output::default();
                self.owed -= last_words.len();
                session.account.sub(last_words.len());
                self.leave(now, key, &text);
                self.parting.insert(key, last_words);
                self.actions.push(Action::Close(key));
            }
            Content::Pong(_) => {}
            other => {
                let text = format!("{} may not send a frame of kind {}", session.source, other.kind());
                let code = match other {
                    Content::Hello(_) => Code::Auth,
                    _ => Code::UnknownType,
                };
                self.refuse(key, number, refusal(code, text));
            }
        }
    }

    fn stop(&mut self, why: &str) {
        self.stopping = true;
        let mut keys: Vec<SessionKey> = self.sessions.keys().copied().collect();
        keys.sort_unstable();
        for key in keys {
            if let Some(session) = self.sessions.get_mut(&key) {
                session.closing = true;
            }
            self.tell(key, &Frame::new(0, Content::Bye(Text { text: why.to_owned() })));
            self.actions.push(Action::Close(key));
        }
    }

    fn tick(&mut self, now: Now) {
        self.expire_requests(now);
        self.expire_reloads(now);
        self.announce_late(now);
        self.wake_durable(now);
        for key in std::mem::take(&mut self.throttled) {
            self.grant(now, key);
        }
    }

    /// A log line about what a source did; for an operator it carries the operator's field.
    fn log(&mut self, level: tracing::Level, source: &str, message: Option<u64>, text: String) {
        let (operator, unpublished) = (source.parse().ok(), self.in_record);
        self.actions.push(Action::Log { level, source: source.into(), operator, message, text, unpublished });
    }
}
