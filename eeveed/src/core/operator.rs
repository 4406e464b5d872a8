//! Operators as the core knows them: who holds an id, what its module file says, whether it is halted, and what became of
//! a reload. Sessions join and leave here.

use std::collections::VecDeque;
use std::rc::Rc;
use std::time::Duration;

use libeevee::wire::{
    Code, Content, Flag, Frame, Module, OperatorState, Refusal, State, Text, VERSION, Verdict, Welcome,
};
use libeevee::{Document, OperatorId};
use serde_json::{Value, json};

use super::permit::Permit;
use super::session::{Credit, Identity, Peer, Session, SessionKey, refusal};
use super::{Action, Core, LoadedModule, Now};

/// What is known of an operator, connected or not.
#[derive(Debug, Default)]
pub(crate) struct Operator {
    pub(crate) module: Option<LoadedModule>,
    /// What is wrong with its module file on disk.
    pub(crate) file_error: Option<String>,
    pub(crate) session: Option<SessionKey>,
    pub(crate) halted: bool,
    pub(crate) state: Option<OperatorState>,
    pub(crate) status: String,
    pub(crate) last_failure: Option<Value>,
    pub(crate) last_reload: Option<Value>,
    reload: Option<Reload>,
}

/// A reload that waits for the operator's verdict.
#[derive(Debug)]
struct Reload {
    number: u32,
    asker: (SessionKey, u32),
    module: LoadedModule,
    deadline: Duration,
}

/// How long an operator may think about its new settings.
const VERDICT_TIME: Duration = Duration::from_secs(20);

/// A status is one line for a person.
const STATUS_CHARS_MAX: usize = 200;

impl Operator {
    /// One of which only the flag is known yet.
    pub(super) fn halted() -> Self {
        Self { halted: true, ..Self::default() }
    }
}

impl LoadedModule {
    fn to_wire(&self) -> Module {
        Module { kind: self.file.kind.to_string(), path: self.path.clone(), text: self.text.clone() }
    }

    fn rate(&self) -> Option<(u32, u32)> {
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
        session.send(&Frame::new(
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
        ));
        let operator = match &session.identity {
            Identity::Operator(id) => Some(id.clone()),
            _ => None,
        };
        self.sessions.insert(key, session);
        self.wake(key);
        // A source whose permissions changed while it was away.
        self.memo.clear();
        if let Some(id) = operator {
            self.announce_state(now, &id);
        }
    }

    fn new_session(&mut self, now: Now, identity: Identity, peer: Peer, module: Option<&LoadedModule>) -> Session {
        let source: Rc<str> = identity.source().into();
        let next_source_key = u32::try_from(self.source_keys.len()).unwrap_or(u32::MAX);
        let source_key = *self.source_keys.entry(source.clone()).or_insert(next_source_key);
        let (may_publish, may_receive) = permits(&identity, module);
        let rate = module.and_then(LoadedModule::rate);
        Session {
            source,
            source_key,
            may_publish: may_publish.into(),
            may_receive: may_receive.into(),
            credit: Credit::new(now.mono, self.limits.credit_messages, self.limits.credit_bytes, rate),
            identity,
            peer,
            joined_wall: now.wall,
            subscriptions: Vec::new(),
            ready: VecDeque::new(),
            control: Vec::new(),
            awake: false,
            closing: false,
            halted: false,
            resumed: Duration::ZERO,
            claims: Vec::new(),
            requests_open: 0,
            published: 0,
            delivered: 0,
            dropped: 0,
            denied: 0,
        }
    }

    /// A process that reconnects replaces itself; another one is refused as long as the holder lives.
    fn replace_holder(&mut self, now: Now, id: &OperatorId, peer: &Peer) -> Option<Refusal> {
        let holder = self.operators.get(id)?.session?;
        let held = self.sessions.get(&holder)?;
        if held.peer.instance == peer.instance && held.peer.uid == peer.uid {
            self.leave(now, holder, "the same process connected again");
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
        session.refuse(0, refusal);
        session.closing = true;
        self.sessions.insert(key, session);
        self.wake(key);
        self.actions.push(Action::Close(key));
    }

    pub(super) fn leave(&mut self, now: Now, key: SessionKey, why: &str) {
        self.end_requests_of(key);
        let Some(session) = self.sessions.remove(&key) else { return };
        for (_, slot) in &session.subscriptions {
            self.end_subscription(*slot);
        }
        for name in &session.claims {
            self.claims.remove(name);
        }
        self.memo.clear();
        let Identity::Operator(id) = &session.identity else { return };
        let Some(operator) = self.operators.get_mut(id) else { return };
        if operator.session != Some(key) {
            return; // It was turned away, or replaced.
        }
        operator.session = None;
        let ended_well = operator.state == Some(OperatorState::Stopping);
        operator.state = None;
        operator.status = why.to_owned();
        if let Some(reload) = operator.reload.take() {
            self.reloads_open -= 1;
            let text = format!("{id} left before it answered the reload");
            self.refuse(reload.asker.0, reload.asker.1, refusal(Code::NotConnected, text));
        }
        if !ended_well && !self.stopping {
            self.actions.push(Action::Ended { id: id.clone() });
        }
        self.announce_state(now, id);
    }

    pub(super) fn operator_state(&mut self, now: Now, key: SessionKey, told: State) {
        let Some(Identity::Operator(id)) = self.sessions.get(&key).map(|session| session.identity.clone()) else {
            return;
        };
        let Some(state) = OperatorState::from_number(told.state) else { return };
        let Some(operator) = self.operators.get_mut(&id) else { return };
        let status: String = told.status.chars().filter(|c| !c.is_control()).take(STATUS_CHARS_MAX).collect();
        if operator.state == Some(state) && operator.status == status {
            return;
        }
        operator.state = Some(state);
        operator.status = status;
        self.announce_state(now, &id);
    }

    /// Publishes `operator.state`, so that operators can follow who is up, halted and down.
    pub(super) fn announce_state(&mut self, now: Now, id: &OperatorId) {
        let Some(operator) = self.operators.get(id) else { return };
        let state = self.word(operator);
        let headers = [("type", "operator.state"), ("operator", id.as_str()), ("state", state)];
        let Ok(document) = Document::new(headers, operator.status.clone()) else { return };
        self.announce(now, &(&document).into());
    }

    /// The state shown to people.
    pub(super) fn word(&self, operator: &Operator) -> &'static str {
        match operator.state {
            None => "away",
            Some(state) => state.as_str(),
        }
    }

    pub(super) fn module_of(&self, session: &Session) -> Option<&LoadedModule> {
        match &session.identity {
            Identity::Operator(id) => self.operators.get(id)?.module.as_ref(),
            _ => None,
        }
    }

    /// The uid of the session that holds an id.
    pub(crate) fn uid_of(&self, id: &OperatorId) -> Option<u32> {
        let key = self.operators.get(id)?.session?;
        Some(self.sessions.get(&key)?.peer.uid)
    }

    /// Sets or clears the halted flag. True if it changed.
    pub(super) fn set_halted(&mut self, now: Now, id: &OperatorId, on: bool) -> bool {
        let operator = self.operators.entry(id.clone()).or_default();
        if operator.halted == on {
            return false;
        }
        operator.halted = on;
        let session = operator.session;
        self.actions.push(Action::SaveHalted { id: id.clone(), on });
        if let Some(key) = session
            && let Some(session) = self.sessions.get_mut(&key)
        {
            session.halted = on;
            if !on {
                session.resumed = now.mono;
            }
            session.send(&Frame::new(0, Content::Halted(Flag { on })));
            self.wake(key);
            self.list_deliverable(key);
        }
        true
    }

    /// The module files as they are on disk, for status. They take effect at the next start or reload.
    pub(super) fn modules(&mut self, modules: Vec<(OperatorId, Result<LoadedModule, String>)>) {
        let known: Vec<OperatorId> = modules.iter().map(|(id, _)| id.clone()).collect();
        self.operators.retain(|id, operator| operator.session.is_some() || operator.halted || known.contains(id));
        for (id, outcome) in modules {
            let operator = self.operators.entry(id).or_default();
            match outcome {
                Ok(module) if operator.session.is_none() => {
                    operator.file_error = None;
                    operator.module = Some(module);
                }
                Ok(_) => operator.file_error = None,
                Err(error) => operator.file_error = Some(error),
            }
        }
    }

    /// Phase one of a reload: the bus has read the file; the operator is asked.
    pub(super) fn module_read(
        &mut self,
        now: Now,
        id: OperatorId,
        asker: (SessionKey, u32),
        outcome: Result<LoadedModule, String>,
    ) {
        let module = match outcome {
            Ok(module) => module,
            Err(diagnosis) => {
                self.reload_refused(now, &id, asker, diagnosis);
                return;
            }
        };
        let operator = self.operators.entry(id.clone()).or_default();
        let connected = operator.session;
        let Some((key, session)) = connected.and_then(|key| Some((key, self.sessions.get_mut(&key)?))) else {
            let text = format!("{id} is not connected; its file is good and will be used at its next start");
            self.refuse(asker.0, asker.1, refusal(Code::NotConnected, text));
            return;
        };
        if operator.reload.is_some() {
            let text = format!("a reload of {id} is under way");
            self.refuse(asker.0, asker.1, refusal(Code::Quota, text));
            return;
        }
        self.reload_number += 1;
        let number = self.reload_number;
        session.send(&Frame::new(number, Content::Reload(module.to_wire())));
        self.reloads_open += 1;
        operator.reload = Some(Reload { number, asker, module, deadline: now.mono + VERDICT_TIME });
        self.wake(key);
    }

    /// Phase two: both commit, or neither.
    pub(super) fn verdict(&mut self, now: Now, key: SessionKey, number: u32, verdict: Verdict) {
        let Some(Identity::Operator(id)) = self.sessions.get(&key).map(|session| session.identity.clone()) else {
            return;
        };
        let Some(operator) = self.operators.get_mut(&id) else { return };
        let Some(reload) = operator.reload.take_if(|reload| reload.number == number) else { return };
        self.reloads_open -= 1;
        if !verdict.accepted {
            self.reload_refused(now, &id, reload.asker, verdict.text);
            return;
        }
        operator.last_reload = Some(json!({
            "time": libeevee::Timestamp(now.wall).to_string(), "accepted": true, "text": verdict.text,
        }));
        let (may_publish, may_receive) = permits(&Identity::Operator(id.clone()), Some(&reload.module));
        if let Some(session) = self.sessions.get_mut(&key) {
            session.may_publish = may_publish.into();
            session.may_receive = may_receive.into();
            session.credit.set_rate(now.mono, reload.module.rate());
            session.send(&Frame::new(number, Content::Commit));
        }
        if let Some(operator) = self.operators.get_mut(&id) {
            operator.module = Some(reload.module);
        }
        self.memo.clear();
        self.refile(key);
        self.wake(key);
        self.log(
            tracing::Level::INFO,
            id.as_str(),
            None,
            format!("{id} reloaded {}", verdict.text).trim_end().to_owned(),
        );
        let answer = if verdict.text.is_empty() { None } else { Some(json!({ "text": verdict.text }).to_string()) };
        self.answer(reload.asker.0, reload.asker.1, Ok(answer));
    }

    fn reload_refused(&mut self, now: Now, id: &OperatorId, asker: (SessionKey, u32), diagnosis: String) {
        self.log(
            tracing::Level::WARN,
            id.as_str(),
            None,
            format!("reload of {id} refused, it goes on as it was:\n{diagnosis}"),
        );
        let operator = self.operators.entry(id.clone()).or_default();
        operator.last_reload = Some(json!({
            "time": libeevee::Timestamp(now.wall).to_string(), "accepted": false, "text": diagnosis,
        }));
        self.refuse(asker.0, asker.1, refusal(Code::Refused, diagnosis));
    }

    pub(super) fn reload_deadline(&self) -> Option<Duration> {
        if self.reloads_open == 0 {
            return None;
        }
        self.operators.values().filter_map(|operator| Some(operator.reload.as_ref()?.deadline)).min()
    }

    pub(super) fn expire_reloads(&mut self, now: Now) {
        if self.reload_deadline().is_none_or(|at| at > now.mono) {
            return;
        }
        let late = |operator: &Operator| operator.reload.as_ref().is_some_and(|reload| reload.deadline <= now.mono);
        let ids: Vec<OperatorId> =
            self.operators.iter().filter(|(_, operator)| late(operator)).map(|(id, _)| id.clone()).collect();
        for id in ids {
            let Some(operator) = self.operators.get_mut(&id) else { continue };
            let Some(reload) = operator.reload.take() else { continue };
            self.reloads_open -= 1;
            let text = format!(
                "{id} did not answer within {} s; it goes on as it was. `eeveectl status {id}` and `eeveectl logs {id}` say more",
                VERDICT_TIME.as_secs()
            );
            if let Some(key) = operator.session
                && let Some(session) = self.sessions.get_mut(&key)
            {
                session.send(&Frame::new(reload.number, Content::Abort(Text { text: text.clone() })));
                self.wake(key);
            }
            self.refuse(reload.asker.0, reload.asker.1, refusal(Code::NoAnswer, text));
        }
    }

    pub(super) fn claim(&mut self, key: SessionKey, number: u32, name: String) {
        let Some(session) = self.sessions.get(&key) else { return };
        let refused = match self.claims.get(&name) {
            _ if !matches!(session.identity, Identity::Operator(_)) => Some(refusal(
                Code::Denied,
                format!("{} is no operator, and only operators claim names", session.source),
            )),
            _ if name.is_empty() || name.len() > 256 || name.chars().any(char::is_control) => {
                Some(refusal(Code::Malformed, "a claimed name has 1 to 256 bytes without control characters"))
            }
            _ if session.claims.len() >= 64 => {
                Some(refusal(Code::Quota, "64 names are claimed by this session already"))
            }
            Some(holder) if *holder != key => {
                let by = self.sessions.get(holder).map_or("another session", |holder| &holder.source);
                Some(refusal(Code::AlreadyConnected, format!("{name} is claimed by {by}")))
            }
            _ => None,
        };
        if let Some(refusal) = refused {
            self.refuse(key, number, refusal);
            return;
        }
        if self.claims.insert(name.clone(), key).is_none()
            && let Some(session) = self.sessions.get_mut(&key)
        {
            session.claims.push(name);
        }
        self.ok(key, number);
    }

    pub(super) fn unclaim(&mut self, key: SessionKey, number: u32, name: &str) {
        if let Some(session) = self.sessions.get_mut(&key)
            && let Some(at) = session.claims.iter().position(|known| known == name)
        {
            session.claims.remove(at);
            self.claims.remove(name);
        }
        self.ok(key, number);
    }
}

/// (may-publish, may-receive) of an identity.
fn permits(identity: &Identity, module: Option<&LoadedModule>) -> (Permit, Permit) {
    match (identity, module) {
        (Identity::Person { admin: true, .. }, _) => (Permit::All, Permit::All),
        (_, Some(module)) => (
            Permit::from_list(module.file.may_publish.as_deref()),
            Permit::from_list(module.file.may_receive.as_deref()),
        ),
        (_, None) => (Permit::Usual, Permit::Usual),
    }
}
