//! Sessions join, after the shell has proved who they are, and leave.

use std::collections::VecDeque;
use std::time::Duration;

use libeevee::OperatorId;
use libeevee::wire::{Code, Content, Frame, Module, OperatorState, Refusal, VERSION, Welcome};
use smallvec::SmallVec;

use super::operator::one_line;
use super::output::Output;
use super::permit::Permit;
use super::session::{Credit, Identity, Peer, Session, SessionKey, refusal};
use super::{Action, Core, LoadedModule, Now};

impl LoadedModule {
    pub(super) fn to_wire(&self) -> Module {
        Module { kind: self.file.kind.to_string(), path: self.path.clone(), text: self.text.clone() }
    }

    pub(super) fn rate(&self) -> Option<(u32, u32)> {
        self.file.rate.as_ref().map(|rate| (rate.per_second, rate.burst))
    }
}

impl Core {
    pub(super) fn join(
        &mut self,
        now: Now,
        key: SessionKey,
        identity: Identity,
        peer: Peer,
        module: Option<LoadedModule>,
    ) {
        if self.stopping {
            self.turn_away(now, key, identity, peer, refusal(Code::Stopping, "the bus is stopping"));
            return;
        }
        let mut halted = false;
        if let Identity::Operator(id) = &identity {
            if let Some(refusal) = self.replace_holder(now, id, &peer) {
                self.turn_away(now, key, identity, peer, refusal);
                return;
            }
            let operator = self.operators.entry(id.clone()).or_default();
            operator.session = Some(key);
            operator.module.clone_from(&module);
            operator.file_error = None;
            operator.state = Some(OperatorState::Starting);
            operator.status.clear();
            halted = operator.halted;
        }
        let mut session = self.new_session(now, identity, peer, module.as_ref());
        session.halted = halted;
        let (credit_messages, credit_bytes) = session.credit.full();
        let welcome = Frame::new(
            0,
            Content::Welcome(Welcome {
                version: VERSION,
                identity: session.source.to_string(),
                session: key,
                boot: self.boot,
                last_id: self.last_id(),
                frame_bytes_max: u32::try_from(self.limits.frame_bytes).unwrap_or(u32::MAX),
                credit_messages,
                credit_bytes,
                halted,
                module: module.as_ref().map(LoadedModule::to_wire),
                capabilities: Vec::new(),
            }),
        );
        let operator = match &session.identity {
            Identity::Operator(id) => Some(id.clone()),
            _ => None,
        };
        self.sessions.insert(key, Box::new(session));
        self.adopt(key);
        self.tell(key, &welcome);
        if let Some(id) = operator {
            self.announce_state(now, &id);
        }
    }

    pub(super) fn new_session(
        &mut self,
        now: Now,
        identity: Identity,
        peer: Peer,
        module: Option<&LoadedModule>,
    ) -> Session {
        let account = self.shares.of(peer.uid);
        let source = account.text(&identity.source());
        let peer = Peer { program: account.text(&peer.program), ..peer };
        let identity = match identity {
            Identity::Person { name, admin } => Identity::Person { name: account.text(&name), admin },
            other => other,
        };
        let (may_publish, may_receive) = permits(&identity, module);
        let rate = module.and_then(LoadedModule::rate);
        Session {
            source,
            may_publish,
            may_receive,
            credit: Credit::new(now.mono, self.limits.credit_messages, self.limits.credit_bytes, rate),
            identity,
            account,
            peer,
            joined_wall: now.wall,
            subscriptions: SmallVec::new(),
            last_subscription: 0,
            ready: VecDeque::new(),
            output: Output::default(),
            input: 0,
            unwritten: 0,
            awake: false,
            closing: false,
            halted: false,
            resumed: Duration::ZERO,
            requests_open: 0,
            published: 0,
            delivered: 0,
            dropped: 0,
            denied: 0,
            rare: None,
        }
    }

    /// A process that reconnects replaces itself; another one is refused as long as the holder lives. A session that the
    /// bus has ended, and that only reads its last error, holds nothing any more.
    fn replace_holder(&mut self, now: Now, id: &OperatorId, peer: &Peer) -> Option<Refusal> {
        let holder = self.operators.get(id)?.session?;
        let held = self.sessions.get(&holder)?;
        let same = held.peer.instance == peer.instance && held.peer.uid == peer.uid;
        if same || held.closing {
            self.leave(
                now,
                holder,
                if same { "the same process connected again" } else { "the bus ended its session" },
            );
            self.actions.push(Action::Close(holder));
            return None;
        }
        let text = format!(
            "{id} is connected already: session {holder}, {} with pid {} and uid {}, since {}; one holder for an id",
            held.peer.program,
            held.peer.pid.map_or_else(|| "unknown".into(), |pid| pid.to_string()),
            held.peer.uid,
            libeevee::Timestamp(held.joined_wall),
        );
        self.log(tracing::Level::WARN, id.as_str(), None, format!("refused a second session: {text}"));
        Some(refusal(Code::AlreadyConnected, text))
    }

    /// Answers a join with an error; the session exists just long enough to write it.
    fn turn_away(&mut self, now: Now, key: SessionKey, identity: Identity, peer: Peer, refusal: Refusal) {
        let mut session = self.new_session(now, identity, peer, None);
        session.closing = true;
        self.sessions.insert(key, Box::new(session));
        self.tell(key, &Frame::new(0, Content::Error(refusal)));
        self.actions.push(Action::Close(key));
    }

    pub(super) fn leave(&mut self, now: Now, key: SessionKey, why: &str) {
        if self.sessions.get(&key).is_some_and(|session| session.requests_open > 0) {
            self.end_requests_of(key);
        }
        let Some(session) = self.sessions.remove(&key) else { return };
        self.owed -= session.counted();
        session.account.sub(session.counted());
        self.throttled.retain(|throttled| *throttled != key);
        for (_, slot) in &session.subscriptions {
            self.end_subscription(*slot);
        }
        self.shares.forget(&session.account);
        for name in session.claims() {
            self.claims.remove(name);
        }
        let Identity::Operator(id) = &session.identity else { return };
        let Some(operator) = self.operators.get_mut(id) else { return };
        if operator.session != Some(key) {
            return; // It was turned away, or replaced.
        }
        operator.session = None;
        let ended_well = operator.state == Some(OperatorState::Stopping);
        operator.state = None;
        operator.status = one_line(why);
        // One question at a time: it takes systemd some seconds to answer, and an operator may come and go in a loop.
        if !ended_well && !self.stopping && !std::mem::replace(&mut operator.asked_why, true) {
            self.actions.push(Action::Ended { id: id.clone() });
        }
        if let Some(reload) = operator.reload.take() {
            self.reloads_open -= 1;
            let text = format!("{id} left before it answered the reload");
            self.refuse(reload.asker.0, reload.asker.1, refusal(Code::NotConnected, text));
        }
        self.announce_state(now, id);
    }
}

/// (may-publish, may-receive) of an identity.
pub(super) fn permits(identity: &Identity, module: Option<&LoadedModule>) -> (Permit, Permit) {
    match (identity, module) {
        (Identity::Person { admin: true, .. }, _) => (Permit::All, Permit::All),
        (_, Some(module)) => (
            Permit::from_list(module.file.may_publish.as_deref()),
            Permit::from_list(module.file.may_receive.as_deref()),
        ),
        (_, None) => (Permit::Usual, Permit::Usual),
    }
}
