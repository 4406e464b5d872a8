//! What the bus knows, as JSON for `eeveectl status`. The keys are in docs/PROTOCOL.md.

use libeevee::wire::{Code, Refusal};
use libeevee::{OperatorId, Timestamp};
use serde_json::{Value, json};

use super::operator::Operator;
use super::session::refusal;
use super::{Core, Now};

impl Core {
    pub(crate) fn status(&self, id: Option<&OperatorId>) -> Result<Value, Refusal> {
        match id {
            None => Ok(self.operators.iter().map(|(id, operator)| self.operator_status(id, operator)).collect()),
            Some(id) => match self.operators.get(id) {
                Some(operator) => Ok(json!([self.operator_status(id, operator)])),
                None => Err(refusal(
                    Code::NotFound,
                    format!("no operator {id}: there is no module file for it, and it is not connected"),
                )),
            },
        }
    }

    fn operator_status(&self, id: &OperatorId, operator: &Operator) -> Value {
        let session = operator.session.and_then(|key| Some((key, self.sessions.get(&key)?)));
        let subscriptions: Vec<_> = session
            .iter()
            .flat_map(|(_, session)| &session.subscriptions)
            .filter_map(|(_, slot)| self.subscriptions.get(*slot as usize))
            .collect();
        let count = |of: fn(&super::Session) -> u64| session.map_or(0, |(_, session)| of(session));
        json!({
            "id": id,
            "kind": operator.module.as_ref().map(|module| module.file.kind.to_string()),
            "path": operator.module.as_ref().map(|module| &module.path),
            "connected": session.is_some(),
            "state": self.word(operator),
            "status": operator.status,
            "halted": operator.halted,
            "since": session.map(|(_, session)| Timestamp(session.joined_wall).to_string()),
            "session": session.map(|(key, _)| key),
            "pid": session.and_then(|(_, session)| session.peer.pid),
            "program": session.map(|(_, session)| &session.peer.program),
            "subscriptions": subscriptions.iter().map(|subscription| json!({
                "number": subscription.number,
                "filters": subscription.filters.iter().map(ToString::to_string).collect::<Vec<_>>(),
                "queue_messages": subscription.queue().messages(),
                "queue_bytes": subscription.queue().bytes(),
                "delivered": subscription.delivered,
                "dropped": subscription.dropped,
            })).collect::<Vec<_>>(),
            "queue_messages": subscriptions.iter().map(|subscription| subscription.queue().messages()).sum::<usize>(),
            "queue_bytes": subscriptions.iter().map(|subscription| subscription.queue().bytes()).sum::<usize>(),
            "published": count(|session| session.published),
            "delivered": count(|session| session.delivered),
            "dropped": count(|session| session.dropped),
            "denied": count(|session| session.denied),
            "claims": session.map_or(&[][..], |(_, session)| &session.claims),
            "last_failure": operator.last_failure,
            "last_reload": operator.last_reload,
            "file_error": operator.file_error,
        })
    }

    pub(super) fn bus_status(&self, now: Now) -> Value {
        json!({
            "version": env!("CARGO_PKG_VERSION"),
            "boot": self.boot.to_string(),
            "since": Timestamp(self.started.wall).to_string(),
            "uptime_seconds": now.mono.saturating_sub(self.started.mono).as_secs(),
            "sessions": self.sessions.len(),
            "subscriptions": self.subscriptions.len(),
            "operators": self.operators.values().filter(|operator| operator.session.is_some()).count(),
            "memory_bytes": self.memory,
            "memory_limit_bytes": self.limits.memory_bytes,
            "published": self.published,
            "delivered": self.delivered,
            "dropped": self.dropped,
            "unrouted": self.unrouted,
            "last_id": self.last_id(),
        })
    }

    /// One line for systemd's STATUS.
    pub(crate) fn summary(&self) -> String {
        let operators = self.operators.values().filter(|operator| operator.session.is_some()).count();
        let halted = self.operators.values().filter(|operator| operator.halted).count();
        let halted = if halted == 0 { String::new() } else { format!(" ({halted} halted)") };
        format!(
            "{operators} operators{halted}, {} sessions, {} subscriptions, {} messages routed",
            self.sessions.len(),
            self.subscriptions.len(),
            self.published
        )
    }
}
