//! Reload in two phases: the bus reads the file and checks `[bus]`, the operator checks and prepares `[settings]`, and both
//! commit or neither.

use std::time::Duration;

use libeevee::OperatorId;
use libeevee::wire::{Code, Content, Frame, Text, Verdict};
use serde_json::json;

use super::join::permits;
use super::operator::Operator;
use super::session::{Identity, SessionKey, refusal, shortened};
use super::{Core, LoadedModule, Now};

/// A reload that waits for the operator's verdict.
#[derive(Debug)]
pub(super) struct Reload {
    pub(super) number: u32,
    pub(super) asker: (SessionKey, u32),
    pub(super) module: LoadedModule,
    pub(super) deadline: Duration,
}

/// How long an operator may think about its new settings.
const VERDICT_TIME: Duration = Duration::from_secs(20);

/// A diagnosis is kept, logged and passed on; an operator says what it likes, and a line of a file may be long.
pub(crate) const DIAGNOSIS_BYTES_MAX: usize = 8 << 10;

impl Core {
    /// Phase one of a reload: the bus has read the file; the operator is asked.
    pub(super) fn module_read(
        &mut self,
        now: Now,
        id: OperatorId,
        asker: (SessionKey, u32),
        outcome: Result<LoadedModule, String>,
    ) {
        self.verb_ended(asker.0, asker.1);
        let module = match outcome {
            Ok(module) => module,
            Err(diagnosis) => {
                self.reload_refused(now, &id, asker, diagnosis);
                return;
            }
        };
        let operator = self.operators.entry(id.clone()).or_default();
        let Some(key) = operator.session else {
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
        let told = Frame::new(number, Content::Reload(module.to_wire()));
        operator.reload = Some(Reload { number, asker, module, deadline: now.mono + VERDICT_TIME });
        self.reloads_open += 1;
        self.tell(key, &told);
    }

    /// Phase two: both commit, or neither.
    pub(super) fn verdict(&mut self, now: Now, key: SessionKey, number: u32, verdict: Verdict) {
        let verdict = Verdict { text: shortened(&verdict.text, DIAGNOSIS_BYTES_MAX), ..verdict };
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
        let mut narrowed = false;
        if let Some(session) = self.sessions.get_mut(&key) {
            narrowed = session.may_receive != may_receive;
            session.may_publish = may_publish;
            session.may_receive = may_receive;
            session.credit.set_rate(now.mono, reload.module.rate());
        }
        self.tell(key, &Frame::new(number, Content::Commit));
        if let Some(operator) = self.operators.get_mut(&id) {
            operator.module = Some(reload.module);
        }
        self.memo.clear();
        self.refile(key, narrowed);
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
        let diagnosis = shortened(&diagnosis, DIAGNOSIS_BYTES_MAX);
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
            if let Some(key) = operator.session {
                self.tell(key, &Frame::new(reload.number, Content::Abort(Text { text: text.clone() })));
            }
            self.refuse(reload.asker.0, reload.asker.1, refusal(Code::NoAnswer, text));
        }
    }
}
