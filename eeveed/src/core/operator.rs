//! Operators as the core knows them: who holds an id, what its module file says, what it says of itself, whether it is
//! halted.

use std::collections::BTreeSet;
use std::time::Duration;

use libeevee::wire::limits::COMMANDS_BYTES_MAX;
use libeevee::wire::{Code, Content, Flag, Frame, OperatorState, State};
use libeevee::{Document, OperatorId};
use serde_json::Value;

use super::reload::Reload;
use super::session::{Identity, Session, SessionKey, beyond, refusal};
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
    pub(super) reload: Option<Reload>,
    /// Whether systemd is being asked why it ended.
    pub(super) asked_why: bool,
    /// When the time began in which so many of its states were announced.
    pub(super) announced_since: Duration,
    pub(super) announced: u32,
    /// What commands it answers, as it said last: a JSON array. It is somebody else's words and never looked into.
    pub(super) commands: Option<Box<str>>,
    /// They were not published yet.
    pub(super) commands_unsaid: bool,
}

/// A status is one line for a person.
const STATUS_CHARS_MAX: usize = 200;

/// States of one operator that are announced within this time. They cost it no credit; beyond it, only the last is told,
/// and later.
const ANNOUNCED_MAX: u32 = 20;
const ANNOUNCE_TIME: Duration = Duration::from_secs(1);

/// What an operator said, as it is shown.
pub(super) fn one_line(text: &str) -> String {
    text.chars().filter(|c| !c.is_control()).take(STATUS_CHARS_MAX).collect()
}

impl Operator {
    /// One of which only the flag is known yet.
    pub(super) fn halted() -> Self {
        Self { halted: true, ..Self::default() }
    }
}

impl Core {
    pub(super) fn operator_state(&mut self, now: Now, key: SessionKey, told: State) {
        let Some(Identity::Operator(id)) = self.sessions.get(&key).map(|session| session.identity.clone()) else {
            return;
        };
        let Some(state) = OperatorState::from_number(told.state) else { return };
        let Some(operator) = self.operators.get_mut(&id) else { return };
        let status = one_line(&told.status);
        if operator.state == Some(state) && operator.status == status {
            return;
        }
        operator.state = Some(state);
        operator.status = status;
        self.announce_state(now, &id);
    }

    /// The operator says what commands it answers. Kept when it goes: who asks for help with the command of an operator that
    /// is away shall hear of it.
    pub(super) fn operator_commands(&mut self, now: Now, key: SessionKey, number: u32, text: String) {
        let Some(Identity::Operator(id)) = self.sessions.get(&key).map(|session| session.identity.clone()) else {
            let text = "only an operator has commands";
            return self.refuse(key, number, refusal(Code::Denied, text));
        };
        let (bytes, max) = (text.len() as u64, COMMANDS_BYTES_MAX as u64);
        if bytes > max {
            let text = format!("{id} describes its commands in {bytes} bytes, at most {max} are possible");
            return self.refuse(key, number, beyond(Code::Refused, text, max, bytes));
        }
        // Nothing of it is built: a kilobyte of brackets would be many of memory.
        if serde_json::from_str::<Vec<serde::de::IgnoredAny>>(&text).is_err() {
            let text = format!("what {id} says of its commands is no JSON array");
            return self.refuse(key, number, refusal(Code::Refused, text));
        }
        let Some(operator) = self.operators.get_mut(&id) else { return };
        if operator.commands.as_deref() == Some(&text) {
            return;
        }
        operator.commands = Some(text.into());
        operator.commands_unsaid = true;
        self.announce_commands(now, &id);
    }

    fn announce_commands(&mut self, now: Now, id: &OperatorId) {
        if !self.may_announce(now, id) {
            return;
        }
        let Some(operator) = self.operators.get_mut(id) else { return };
        operator.commands_unsaid = false;
        let text = operator.commands.clone().unwrap_or_default();
        let headers = [("type", "operator.commands"), ("operator", id.as_str())];
        let Ok(document) = Document::new(headers, text.into_string()) else { return };
        self.announce(now, &(&document).into());
    }

    /// Publishes `operator.state`, so that operators can follow who is up, halted and down.
    pub(super) fn announce_state(&mut self, now: Now, id: &OperatorId) {
        if !self.may_announce(now, id) {
            return;
        }
        let Some(operator) = self.operators.get(id) else { return };
        let state = self.word(operator);
        let headers = [("type", "operator.state"), ("operator", id.as_str()), ("state", state)];
        let Ok(document) = Document::new(headers, operator.status.clone()) else { return };
        self.announce(now, &(&document).into());
    }

    /// Whether something about this operator is announced now, or later.
    fn may_announce(&mut self, now: Now, id: &OperatorId) -> bool {
        let Some(operator) = self.operators.get_mut(id) else { return false };
        if now.mono.saturating_sub(operator.announced_since) >= ANNOUNCE_TIME {
            (operator.announced_since, operator.announced) = (now.mono, 0);
        }
        if operator.announced >= ANNOUNCED_MAX {
            self.unannounced.insert(id.clone());
            return false;
        }
        operator.announced += 1;
        true
    }

    /// When states that were held back are due.
    pub(super) fn announce_deadline(&self) -> Option<Duration> {
        let due = |id| Some(self.operators.get(id)?.announced_since + ANNOUNCE_TIME);
        self.unannounced.iter().filter_map(due).min()
    }

    pub(super) fn announce_late(&mut self, now: Now) {
        for id in std::mem::take(&mut self.unannounced) {
            self.announce_state(now, &id);
            if self.operators.get(&id).is_some_and(|operator| operator.commands_unsaid) {
                self.announce_commands(now, &id);
            }
        }
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
            self.tell(key, &Frame::new(0, Content::Halted(Flag { on })));
            if !on {
                self.resume_subscriptions(now, key);
            }
            self.list_deliverable(now, key);
        }
        true
    }

    /// The module files as they are on disk, for status. They take effect at the next start or reload.
    pub(super) fn modules(&mut self, modules: Vec<(OperatorId, Result<LoadedModule, String>)>) {
        let known: BTreeSet<OperatorId> = modules.iter().map(|(id, _)| id.clone()).collect();
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
}
