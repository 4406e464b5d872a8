//! The bus as a pure state machine: `step(now, event)` gives actions. There is no socket, clock, thread, file or tokio in
//! this folder (a test holds it so), so that a simulation is a loop with a seed.
//!
//! A message's way: `step` (a Publish frame) -> `publish.rs` (stamp, permit, match) -> `queue.rs` -> `output` (its bytes for
//! the subscriber's socket).

mod claim;
mod control;
mod index;
mod join;
mod message;
mod operator;
mod permit;
mod publish;
mod queue;
mod reload;
mod request;
mod session;
mod status;
mod subscribe;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::ops::Range;
use std::rc::Rc;
use std::time::Duration;

use hashbrown::HashMap;
use libeevee::OperatorId;
use libeevee::module::Module as ModuleFile;
use libeevee::wire::{Code, Content, Control, Frame, Refusal, Text, Value, WireError};

use self::index::{Index, Slot};
use self::operator::Operator;
use self::publish::{Hops, Memo};
use self::request::Request;
use self::session::Session;
pub(crate) use self::session::{Identity, Peer, SessionKey, beyond, refusal};
use self::subscribe::Subscription;
use crate::config::Limits;

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
    /// A frame from a session that joined.
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
    /// The ids for which a module file exists, and what is wrong with one, for status.
    Modules(Vec<(OperatorId, Result<LoadedModule, String>)>),
    /// Why systemd says that an operator ended.
    Failure { id: OperatorId, failure: serde_json::Value },
    /// New limits.
    Limits(Limits),
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
    /// A verb that needs files: reload, reload-bus.
    Control { session: SessionKey, number: u32, control: Control },
    /// Keep the flag, so that it survives restarts.
    SaveHalted { id: OperatorId, on: bool },
    /// An operator's session ended without Bye: ask systemd why.
    Ended { id: OperatorId },
    /// More message ids are needed before these run out.
    ReserveIds,
    /// A line for the journal, about this operator.
    Log { level: tracing::Level, operator: Option<OperatorId>, message: Option<u64>, text: String },
}

#[derive(Debug)]
pub(crate) struct Core {
    pub(crate) limits: Limits,
    boot: u64,
    started: Now,
    sessions: HashMap<SessionKey, Session>,
    subscriptions: slab::Slab<Subscription>,
    index: Index,
    /// Subscriptions that look at volatile parts of the envelope, matched for every message.
    volatile: Vec<Slot>,
    memo: Memo,
    source_keys: HashMap<Rc<str>, u32>,
    operators: BTreeMap<OperatorId, Operator>,
    claims: HashMap<String, SessionKey>,
    requests: BTreeMap<u64, Request>,
    request_deadlines: BTreeMap<(Duration, u64), ()>,
    reload_number: u32,
    /// How many operators think about a reload; usually none, so that nobody looks for their deadlines.
    reloads_open: usize,
    /// Sessions whose rate keeps back what they are owed.
    throttled: Vec<SessionKey>,
    hops: Hops,
    ids: Range<u64>,
    ids_asked: bool,
    /// Bytes of all messages that wait anywhere, and of all filters.
    memory: usize,
    stopping: bool,
    published: u64,
    delivered: u64,
    dropped: u64,
    unrouted: u64,
    actions: Vec<Action>,
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
            subscriptions: slab::Slab::new(),
            index: Index::default(),
            volatile: Vec::new(),
            memo: Memo::default(),
            source_keys: HashMap::new(),
            operators,
            claims: HashMap::new(),
            requests: BTreeMap::new(),
            request_deadlines: BTreeMap::new(),
            reload_number: 0,
            reloads_open: 0,
            throttled: Vec::new(),
            hops: Hops::default(),
            ids,
            ids_asked: false,
            memory: 0,
            stopping: false,
            published: 0,
            delivered: 0,
            dropped: 0,
            unrouted: 0,
            actions: Vec::new(),
        }
    }

    /// Takes one event. What is to be done about it is appended to `actions`.
    pub(crate) fn step(&mut self, now: Now, event: Event, actions: &mut Vec<Action>) {
        match event {
            Event::Frame { session, frame } => self.frame(now, session, frame),
            Event::BadFrame { session, error } => self.bad_frame(session, &error),
            Event::Join { session, identity, peer, module } => self.join(now, session, identity, peer, module),
            Event::Leave { session } => self.leave(now, session, "the connection ended"),
            Event::Ids(end) => {
                self.ids_asked = false;
                self.ids.end = end.max(self.ids.end);
            }
            Event::ModuleRead { id, asker, outcome } => self.module_read(now, id, asker, outcome),
            Event::Answered { session, number, outcome } => self.answer(session, number, outcome),
            Event::Modules(modules) => self.modules(modules),
            Event::Failure { id, failure } => self.operators.entry(id).or_default().last_failure = Some(failure),
            Event::Limits(limits) => self.limits = limits,
            Event::Stop(why) => self.stop(&why),
            Event::Tick => self.tick(now),
        }
        actions.append(&mut self.actions);
    }

    /// When [`Event::Tick`] is due, in monotonic time.
    pub(crate) fn deadline(&self) -> Option<Duration> {
        let request = self.request_deadlines.keys().next().map(|(at, _)| *at);
        let grant = self.throttled.iter().filter_map(|key| self.sessions.get(key)?.credit.next_grant()).min();
        [request, self.reload_deadline(), grant].into_iter().flatten().min()
    }

    /// Appends what is to be written to a session, up to about `budget` bytes; true when there is more.
    pub(crate) fn output(&mut self, now: Now, key: SessionKey, budget: usize, out: &mut Vec<u8>) -> bool {
        let Some(session) = self.sessions.get_mut(&key) else { return false };
        session.awake = false;
        if out.is_empty() {
            std::mem::swap(out, &mut session.control);
        } else {
            out.append(&mut session.control);
        }
        while out.len() < budget {
            let Some(slot) = session.ready.pop_front() else { return false };
            let Some(subscription) = self.subscriptions.get_mut(slot as usize) else { continue };
            let mut freed = 0;
            let taken = subscription.take(now.mono, session, budget, out, &mut |bytes| freed += bytes);
            self.memory -= freed;
            session.delivered += taken.delivered;
            session.dropped += taken.dropped;
            self.delivered += taken.delivered;
            self.dropped += taken.dropped;
            subscription.listed = subscription.is_deliverable(session.halted);
            if subscription.listed {
                session.ready.push_back(slot);
            }
        }
        !session.ready.is_empty()
    }

    /// How many bytes wait for a session that are no deliveries; past a bound the shell stops reading from it.
    pub(crate) fn control_backlog(&self, key: SessionKey) -> usize {
        self.sessions.get(&key).map_or(0, |session| session.control.len())
    }

    fn frame(&mut self, now: Now, key: SessionKey, frame: Frame) {
        let Some(session) = self.sessions.get_mut(&key).filter(|session| !session.closing) else { return };
        let Frame { flags, number, content } = frame;
        match content {
            Content::Publish(publish) if session.identity.may_publish_and_subscribe() => {
                self.publish(now, key, number, flags, publish);
            }
            Content::Grant(grant) => self.widen(key, number, grant),
            Content::Ping(Value { value }) => {
                session.send(&Frame::new(number, Content::Pong(Value { value })));
                self.wake(key);
            }
            Content::Subscribe(subscribe) if session.identity.may_publish_and_subscribe() => {
                self.subscribe(key, number, subscribe);
            }
            Content::Unsubscribe => self.unsubscribe(key, number),
            Content::Request(request) if session.identity.may_publish_and_subscribe() => {
                self.request(now, key, number, request);
            }
            Content::Reply(reply) => self.reply(now, key, number, reply),
            Content::Claim(Text { text }) => self.claim(key, number, text),
            Content::Unclaim(Text { text }) => self.unclaim(key, number, &text),
            Content::State(state) => self.operator_state(now, key, state),
            Content::Verdict(verdict) => self.verdict(now, key, number, verdict),
            Content::Control(control) => self.control(now, key, number, control),
            Content::Bye(Text { text }) => {
                self.leave(now, key, &text);
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

    fn bad_frame(&mut self, key: SessionKey, error: &WireError) {
        let Some(session) = self.sessions.get_mut(&key).filter(|session| !session.closing) else { return };
        let source = session.source.clone();
        self.log(tracing::Level::WARN, &source.clone(), None, format!("session {key} of {source}: {error}"));
        let Content::Error(told) = error.to_frame().content else { return };
        self.refuse(key, error.number, told);
    }

    /// Tells a session an error, and ends it if the code says so.
    fn refuse(&mut self, key: SessionKey, number: u32, refusal: Refusal) {
        let Some(session) = self.sessions.get_mut(&key) else { return };
        let closes = Code::from_number(refusal.code).closes();
        session.refuse(number, refusal);
        if closes {
            session.closing = true;
            self.actions.push(Action::Close(key));
        }
        self.wake(key);
    }

    fn ok(&mut self, key: SessionKey, number: u32) {
        if number != 0
            && let Some(session) = self.sessions.get_mut(&key)
        {
            session.send(&Frame::new(number, Content::Ok));
            self.wake(key);
        }
    }

    fn answer(&mut self, key: SessionKey, number: u32, outcome: Result<Option<String>, Refusal>) {
        match outcome {
            Ok(None) => self.ok(key, number),
            Ok(Some(text)) => {
                if let Some(session) = self.sessions.get_mut(&key) {
                    session.send(&Frame::new(number, Content::Answer(Text { text })));
                    self.wake(key);
                }
            }
            Err(refusal) => self.refuse(key, number, refusal),
        }
    }

    fn wake(&mut self, key: SessionKey) {
        if let Some(session) = self.sessions.get_mut(&key)
            && !session.awake
        {
            session.awake = true;
            self.actions.push(Action::Wake(key));
        }
    }

    fn stop(&mut self, why: &str) {
        self.stopping = true;
        let keys: Vec<SessionKey> = self.sessions.keys().copied().collect();
        for key in keys {
            if let Some(session) = self.sessions.get_mut(&key) {
                session.send(&Frame::new(0, Content::Bye(Text { text: why.to_owned() })));
                session.closing = true;
            }
            self.wake(key);
            self.actions.push(Action::Close(key));
        }
    }

    fn tick(&mut self, now: Now) {
        self.expire_requests(now);
        self.expire_reloads(now);
        for key in std::mem::take(&mut self.throttled) {
            self.grant(now, key);
        }
    }

    /// A log line about what a source did; for an operator it carries the operator's field.
    fn log(&mut self, level: tracing::Level, source: &str, message: Option<u64>, text: String) {
        self.actions.push(Action::Log { level, operator: source.parse().ok(), message, text });
    }
}
