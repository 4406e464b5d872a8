//! What the bus knows, as JSON for `eeveectl status`. The keys are in docs/PROTOCOL.md.

use libeevee::filter::Filter;
use libeevee::wire::Refusal;
use libeevee::{OperatorId, Timestamp};
use serde_json::{Value, json};

use super::control::unknown;
use super::operator::Operator;
use super::session::shortened;
use super::{Core, Now};

/// How much of a subscription's filters is shown; they may have 256 KiB.
const FILTERS_SHOWN: usize = 4;
const FILTER_BYTES_SHOWN: usize = 256;

pub(super) fn shown(filters: &[Filter]) -> Vec<String> {
    let some = filters.iter().take(FILTERS_SHOWN).map(|filter| shortened(&filter.to_string(), FILTER_BYTES_SHOWN));
    let more = filters.len().saturating_sub(FILTERS_SHOWN);
    some.chain((more > 0).then(|| format!("… and {more} more"))).collect()
}

impl Core {
    /// One operator, or all. It always fits a frame for as long as operators are few or honest: where it would not,
    /// subscriptions are left out.
    pub(crate) fn status(&self, id: Option<&OperatorId>) -> Result<String, Refusal> {
        let operators: Vec<_> = match id {
            None => self.operators.iter().collect(),
            Some(id) => vec![self.operators.get_key_value(id).ok_or_else(|| unknown(id))?],
        };
        let print = |whole| {
            let all: Value = operators.iter().map(|(id, operator)| self.operator_status(id, operator, whole)).collect();
            all.to_string()
        };
        let text = print(true);
        Ok(if text.len() <= self.limits.frame_bytes { text } else { print(false) })
    }

    fn operator_status(&self, id: &OperatorId, operator: &Operator, whole: bool) -> Value {
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
            "subscriptions": subscriptions.iter().filter(|_| whole).map(|subscription| json!({
                "number": subscription.number,
                "durable": subscription.durable.as_deref().map(|durable| &durable.name),
                "filters": shown(&subscription.filters),
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
            "claims": session.map_or(&[][..], |(_, session)| session.claims()),
            "last_failure": operator.last_failure,
            "last_reload": operator.last_reload,
            "file_error": operator.file_error,
            "commands": operator.commands.as_deref().filter(|_| whole).and_then(|text| serde_json::from_str::<Value>(text).ok()),
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
            "memory_bytes": self.memory + self.owed,
            "memory_limit_bytes": self.limits.memory_bytes,
            "published": self.published,
            "delivered": self.delivered,
            "dropped": self.dropped,
            "unrouted": self.unrouted,
            "last_id": self.last_id(),
            "store": self.store_status(),
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
