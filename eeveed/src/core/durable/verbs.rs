//! What people ask about durable subscriptions and their dead letters. What only the store knows, the shell asks it.

use std::collections::BTreeMap;

use libeevee::wire::{Code, Overflow, Refusal};
use serde_json::{Value, json};

use super::journal::{State, VerbWait};
use super::{Durable, NOBODY};
use crate::core::control::VerbKey;
use crate::core::index::Slot;
use crate::core::session::{Identity, SessionKey, refusal};
use crate::core::status::shown;
use crate::core::storage::{DurableKey, EntryNumber, Write};
use crate::core::{Core, Now};

/// Whose durable subscriptions and dead letters a session may change.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Scope {
    All,
    Own(String),
}

impl Scope {
    pub(crate) fn covers(&self, owner: &str) -> bool {
        match self {
            Self::All => true,
            Self::Own(source) => source == owner,
        }
    }
}

impl Core {
    pub(crate) fn scope_of(&self, key: SessionKey) -> Option<Scope> {
        let session = self.sessions.get(&key)?;
        Some(match session.identity {
            Identity::Person { admin: true, .. } => Scope::All,
            _ => Scope::Own(session.source.to_string()),
        })
    }

    /// All durable subscriptions, or those of one owner. `oldest` is since when the first message of each waits on disk.
    pub(crate) fn queues(&self, now: Now, owner: Option<&str>, oldest: &BTreeMap<DurableKey, u64>) -> String {
        let now_ms = self.journal.time(now.mono);
        let all = self.journal.by_name.iter().filter(|((of, _), _)| owner.is_none_or(|owner| **of == *owner));
        let rows: Vec<Value> = all
            .filter_map(|(_, slot)| {
                let subscription = self.subscriptions.get(*slot as usize)?;
                let durable = subscription.durable.as_deref()?;
                let since = oldest.get(&durable.key).copied().into_iter().chain(durable.oldest_in_memory()).min();
                let oldest = since.filter(|_| durable.messages > 0).map(|since| now_ms.saturating_sub(since));
                Some(json!({
                    "owner": *durable.owner,
                    "name": durable.name,
                    "filters": shown(&subscription.filters),
                    "connected": subscription.session != NOBODY,
                    "messages": durable.messages,
                    "bytes": durable.bytes,
                    "oldest_ms": oldest,
                    "in_flight": durable.in_flight_count(),
                    "redelivery": durable.returned_count() + durable.undone.len(),
                    "dead": durable.dead,
                    "max_age_ms": (durable.spec.max_age_ms > 0).then_some(durable.spec.max_age_ms),
                    "overflow": policy(durable),
                    "messages_max": durable.bounds.messages,
                    "bytes_max": durable.bounds.bytes,
                }))
            })
            .collect();
        Value::from(rows).to_string()
    }

    /// Ends a durable subscription that nobody is attached to.
    pub(in crate::core) fn forget(&mut self, verb: VerbKey, owner: &str, name: &str) -> Result<(), Refusal> {
        let unknown = || refusal(Code::NotFound, format!("{owner} has no durable subscription {name}"));
        let slot = *self.journal.by_name.get(&(owner.into(), name.to_owned())).ok_or_else(unknown)?;
        if let Some(refusal) = self.journal.blocked() {
            return Err(refusal);
        }
        let attached = self.subscriptions[slot as usize].session != NOBODY;
        let Some(durable) = self.subscriptions[slot as usize].durable.as_deref_mut() else { return Err(unknown()) };
        if attached {
            let text = format!("{owner} is attached to {name}; stop it first, or it would begin again at once");
            return Err(refusal(Code::Refused, text));
        }
        if std::mem::replace(&mut durable.forgetting, true) {
            return Err(refusal(Code::Refused, format!("{name} of {owner} is being forgotten already")));
        }
        let answer = json!({ "messages": durable.messages, "dead": durable.dead }).to_string();
        let key = durable.key;
        self.unfile(slot);
        self.journal.unmark(key);
        self.journal.write(Write::Forget { durable: key });
        self.journal.await_forget(slot);
        self.await_verb(verb, answer);
        Ok(())
    }

    pub(super) fn forgotten(&mut self, slot: Slot, done: bool) {
        if done {
            self.remove_durable(slot);
        } else if let Some(subscription) = self.subscriptions.get_mut(slot as usize)
            && let Some(durable) = subscription.durable.as_deref_mut()
        {
            // (One that was new in the same batch is none any more.)
            durable.forgetting = false;
            self.file(slot);
        }
    }

    /// Dead letters that the shell found wait again, or are deleted.
    pub(in crate::core) fn change_dead(&mut self, now: Now, verb: VerbKey, entries: Vec<EntryNumber>, retry: bool) {
        if let Some(refusal) = self.journal.blocked() {
            self.answer(verb.0, verb.1, Err(refusal));
            return;
        }
        let since_ms = self.journal.time(now.mono);
        let answer = if retry { json!({ "retried": entries.len() }) } else { json!({ "dropped": entries.len() }) };
        for dead in entries {
            if retry {
                let entry = self.journal.take_entry();
                self.journal.write(Write::Retry { dead, entry, since_ms });
            } else {
                self.journal.write(Write::DropDead { dead });
            }
        }
        self.await_verb(verb, answer.to_string());
    }

    fn await_verb(&mut self, (session, number): VerbKey, answer: String) {
        self.journal.await_verb(VerbWait { session, number, answer });
    }

    /// The store, for the status of the bus.
    pub(in crate::core) fn store_status(&self) -> Value {
        let (state, text) = match &self.journal.state {
            State::Well if self.journal.exists => ("ok", ""),
            State::Well => ("none", ""),
            State::Tight(_, why) | State::Unavailable(_, why) => ("unavailable", why.as_str()),
            State::Failed(why) => ("failed", why.as_str()),
        };
        let all =
            || self.journal.by_key.values().filter_map(|slot| self.subscriptions[*slot as usize].durable.as_deref());
        json!({
            "state": state,
            "text": text,
            "messages": all().map(|durable| durable.messages).sum::<u64>(),
            "bytes": self.journal.store_bytes,
            "bytes_max": self.limits.store_bytes,
            "dead": all().map(|durable| durable.dead).sum::<u64>(),
            "batches": self.journal.committed.get(),
        })
    }
}

fn policy(durable: &Durable) -> &'static str {
    match durable.bounds.overflow {
        Overflow::Reject => "reject",
        Overflow::DropNewest => "dead-letter-newest",
        _ => "dead-letter-oldest",
    }
}
