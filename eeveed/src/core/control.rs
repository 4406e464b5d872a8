//! The verbs of eeveectl, of the reload helper, and of operators about themselves.

use libeevee::OperatorId;
use libeevee::wire::{Code, Control, Refusal};

use super::session::{Identity, SessionKey, beyond, refusal, shortened};
use super::{Action, Core, Now};

/// Verbs that the shell carries out for one session at a time: each reads files, and its answer may be long.
const VERBS_OPEN_MAX: usize = 8;

/// A verb that is being carried out: its session, and the number of its answer.
pub(super) type VerbKey = (SessionKey, u32);

/// A verb with a longer argument cannot be carried out again after a restart of the bus.
const ARGUMENT_BYTES_KEPT: usize = 4 << 10;

/// How much of an unknown verb its refusal repeats.
const VERB_BYTES_MAX: usize = 64;

impl Core {
    pub(super) fn control(&mut self, now: Now, key: SessionKey, number: u32, control: Control) {
        let outcome = self.carry_out(now, key, number, control);
        if let Some(outcome) = outcome {
            self.answer(key, number, outcome);
        }
    }

    /// None when the shell answers later.
    fn carry_out(
        &mut self,
        now: Now,
        key: SessionKey,
        number: u32,
        control: Control,
    ) -> Option<Result<Option<String>, Refusal>> {
        let session = self.sessions.get_mut(&key)?;
        let id: Option<OperatorId> = match control.id.as_str() {
            "" => None,
            text => match text.parse() {
                Ok(id) => Some(id),
                Err(error) => return Some(Err(refusal(Code::NotFound, error.to_string()))),
            },
        };
        if let Err(refusal) = may_control(&session.identity, &control.verb, id.as_ref()) {
            return Some(Err(refusal));
        }
        match (control.verb.as_str(), id) {
            ("bus", _) => Some(Ok(Some(self.bus_status(now).to_string()))),
            ("halt" | "resume", Some(id)) if self.operators.contains_key(&id) => {
                Some(self.halt(now, &id, control.verb == "halt"))
            }
            ("halt" | "resume" | "reload", Some(_))
            | ("reload-bus" | "status" | "queues" | "dead-list" | "dead-show" | "dead-retry" | "dead-drop", _) => {
                if session.verbs().len() >= VERBS_OPEN_MAX {
                    let max = VERBS_OPEN_MAX as u64;
                    let text = format!("{max} verbs of this session are being carried out; wait for their answers");
                    return Some(Err(beyond(Code::Quota, text, max, max + 1)));
                }
                let kept = (control.argument.len() <= ARGUMENT_BYTES_KEPT).then(|| control.clone());
                session.rare().verbs.push((number, kept));
                self.actions.push(Action::Control { session: key, number, control });
                None
            }
            ("forget", _) => {
                let named: Named = match serde_json::from_str(&control.argument) {
                    Ok(named) => named,
                    Err(error) => {
                        return Some(Err(refusal(Code::NotFound, format!("forget wants owner and name: {error}"))));
                    }
                };
                let source = session.source.clone();
                match self.scope_of(key) {
                    Some(scope) if scope.covers(&named.owner) => {
                        self.forget((key, number), &named.owner, &named.name).err().map(Err)
                    }
                    _ => {
                        let text =
                            format!("{source} may forget its own durable subscriptions, not those of {}", named.owner);
                        Some(Err(refusal(Code::Denied, shortened(&text, 512))))
                    }
                }
            }
            ("halt" | "resume" | "reload", None) => {
                Some(Err(refusal(Code::NotFound, format!("{} needs the id of an operator", control.verb))))
            }
            (verb, _) => {
                Some(Err(refusal(Code::NotFound, format!("there is no verb {:?}", shortened(verb, VERB_BYTES_MAX)))))
            }
        }
    }

    /// The shell has carried out a verb of this session.
    pub(super) fn verb_ended(&mut self, key: SessionKey, number: u32) {
        if let Some(session) = self.sessions.get_mut(&key)
            && let Some(at) = session.verbs().iter().position(|(open, _)| *open == number)
        {
            session.rare().verbs.remove(at);
        }
    }

    pub(super) fn halt(&mut self, now: Now, id: &OperatorId, on: bool) -> Result<Option<String>, Refusal> {
        if !self.operators.contains_key(id) {
            return Err(unknown(id));
        }
        self.set_halted(now, id, on);
        Ok(None)
    }
}

/// Which durable subscription a verb is about.
#[derive(Debug, serde::Deserialize)]
#[serde(deny_unknown_fields)]
struct Named {
    owner: String,
    name: String,
}

/// Verbs about durable subscriptions: everybody may look at the queues and the headers of dead letters, and change their own.
const DURABLE_VERBS: [&str; 6] = ["queues", "forget", "dead-list", "dead-show", "dead-retry", "dead-drop"];

pub(super) fn unknown(id: &OperatorId) -> Refusal {
    refusal(Code::NotFound, format!("no operator {id}: there is no module file for it, and it is not connected"))
}

fn may_control(identity: &Identity, verb: &str, id: Option<&OperatorId>) -> Result<(), Refusal> {
    let (allowed, who) = match identity {
        Identity::Person { admin: true, .. } => (true, String::new()),
        Identity::Person { name, .. } => (
            matches!(verb, "status" | "bus") || DURABLE_VERBS.contains(&verb),
            format!("{name} is in group eevee, which may look and publish; group eevee-admin may do the rest"),
        ),
        Identity::Operator(own) => (
            matches!(verb, "status" | "bus")
                || DURABLE_VERBS.contains(&verb)
                || matches!(verb, "halt" | "resume" | "reload") && id == Some(own),
            format!("operator {own} may ask this only for itself"),
        ),
        Identity::ReloadHelper(own) => (
            verb == "reload" && id == Some(own),
            format!("the reload helper of {own} may ask for the reload of {own} and for nothing else"),
        ),
        Identity::Daemon => {
            (verb == "reload-bus", "the bus's own uid may ask for reload-bus and for nothing else".into())
        }
    };
    if allowed {
        Ok(())
    } else {
        Err(refusal(Code::Denied, format!("{} is not allowed: {who}", shortened(verb, VERB_BYTES_MAX))))
    }
}
