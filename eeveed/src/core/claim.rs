//! Names such as `irc/libera`, each claimed by one operator for as long as its session lives. To the core they are opaque.

use libeevee::wire::Code;

use super::Core;
use super::session::{Identity, SessionKey, refusal};

impl Core {
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
            _ if session.claims().len() >= 64 => {
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
            session.rare().claims.push(name);
        }
        self.ok(key, number);
    }

    pub(super) fn unclaim(&mut self, key: SessionKey, number: u32, name: &str) {
        if let Some(session) = self.sessions.get_mut(&key)
            && let Some(at) = session.claims().iter().position(|known| known == name)
        {
            session.rare().claims.remove(at);
            self.claims.remove(name);
        }
        self.ok(key, number);
    }
}
