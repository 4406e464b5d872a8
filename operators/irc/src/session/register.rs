//! From the first line to the welcome: capabilities, SASL, the nick.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use irc_proto::{CapSubCommand, Message};
use tokio::time::Instant;

use super::{Effect, Phase, REGAIN_EVERY, Session, own_mask, readable};
use crate::config::Sasl;
use crate::line::Line;
use crate::mapping::Speaker;

/// What we can use, of what a server offers. `sasl` is asked for only where it is configured.
const CAPABILITIES: [&str; 9] = [
    "account-tag",
    "batch",
    "chghost",
    "echo-message",
    "extended-join",
    "message-tags",
    "multi-prefix",
    "server-time",
    "cap-notify",
];
const SASL_CHUNK_BYTES: usize = 400;
const NICK_TRIES_MAX: u32 = 10;
/// Where joins wait for the end of the message of the day, but not for ever.
const MOTD_MAX: Duration = Duration::from_secs(10);
/// A refused password stays refused; trying it every second only gets us banned.
const REFUSED_SECONDS: u64 = 30;

#[derive(Debug, Default)]
pub(super) struct Registration {
    offered: BTreeMap<String, String>,
    pub(super) enabled: BTreeSet<String>,
    /// Requests that the server has not answered yet.
    requests: usize,
    asked_one_by_one: bool,
    /// CAP END is sent, or needless.
    negotiated: bool,
    authenticated: bool,
    nick_tries: u32,
}

#[cfg(test)]
impl Registration {
    /// Words of the server that are kept.
    pub(super) fn remembered(&self) -> usize {
        self.offered.len() + self.enabled.len()
    }
}

impl Session {
    pub(super) fn register(&mut self) {
        let config = self.config.clone();
        self.send(Line::new("CAP").param("LS").param("302"));
        if let Some(password) = &config.server_password {
            self.send(Line::new("PASS").trailing(&password.0).secret());
        }
        self.send(Line::new("NICK").param(&self.nick));
        self.send(Line::new("USER").param(&config.user).param("0").param("*").trailing(&config.realname));
        self.effects.push(Effect::Status);
    }

    pub(super) fn on_cap(&mut self, subcommand: CapSubCommand, first: Option<&str>, second: Option<&str>) {
        // "CAP * LS * :list" says that more is to come, "CAP * LS :list" is the end.
        let more = second.is_some() && first == Some("*");
        let list = second.or(first).unwrap_or_default();
        match subcommand {
            CapSubCommand::LS | CapSubCommand::NEW => {
                for capability in list.split_ascii_whitespace() {
                    let (name, value) = capability.split_once('=').unwrap_or((capability, ""));
                    // A list may go on for ever; of what we cannot use nothing is kept.
                    if is_useful(name) {
                        self.registration.offered.insert(name.to_owned(), value.to_owned());
                    }
                }
                if !more {
                    self.request_capabilities();
                }
            }
            CapSubCommand::ACK => {
                for name in list.split_ascii_whitespace() {
                    match name.strip_prefix('-') {
                        Some(gone) => self.registration.enabled.remove(gone),
                        None => is_useful(name) && self.registration.enabled.insert(name.to_owned()),
                    };
                }
                if !more {
                    self.request_answered();
                }
            }
            CapSubCommand::NAK => self.on_refused_capabilities(list),
            CapSubCommand::DEL => {
                for name in list.split_ascii_whitespace() {
                    self.registration.enabled.remove(name);
                    self.registration.offered.remove(name);
                }
            }
            CapSubCommand::LIST | CapSubCommand::REQ | CapSubCommand::END => {}
        }
    }

    fn request_capabilities(&mut self) {
        let registering = self.phase == Phase::Registering && !self.registration.negotiated;
        if registering && let Some(missing) = self.sasl_missing() {
            return self.close(missing, REFUSED_SECONDS);
        }
        let state = &self.registration;
        let mut wanted: Vec<&str> = CAPABILITIES.into_iter().collect();
        if registering && self.config.sasl.is_some() {
            wanted.push("sasl");
        }
        wanted.retain(|name| state.offered.contains_key(*name) && !state.enabled.contains(*name));
        if wanted.is_empty() {
            return self.end_negotiation();
        }
        let request = Line::new("CAP").param("REQ").trailing(&wanted.join(" "));
        self.registration.requests += 1;
        self.send(request);
    }

    /// Why SASL is configured but cannot be done. Going on without would mean another identity than the one wanted.
    fn sasl_missing(&self) -> Option<String> {
        let mechanism = match self.config.sasl.as_ref()? {
            Sasl::Plain { .. } => "PLAIN",
            Sasl::External { .. } => "EXTERNAL",
        };
        match self.registration.offered.get("sasl").map(String::as_str) {
            None => Some("SASL is configured, but the server does not offer it".to_owned()),
            Some("") => None,
            Some(list) if list.split(',').any(|m| m.eq_ignore_ascii_case(mechanism)) => None,
            Some(list) => Some(format!("the server does not offer SASL {mechanism}, only {}", readable(list))),
        }
    }

    fn on_refused_capabilities(&mut self, list: &str) {
        let names: Vec<&str> = list.split_ascii_whitespace().collect();
        if names.len() > 1 && !self.registration.asked_one_by_one {
            // The server refuses the whole list because of one of them.
            self.registration.asked_one_by_one = true;
            self.registration.requests += names.len();
            for name in names {
                self.send(Line::new("CAP").param("REQ").trailing(name));
            }
        }
        self.request_answered();
    }

    fn request_answered(&mut self) {
        let state = &mut self.registration;
        state.requests = state.requests.saturating_sub(1);
        if state.requests > 0 || state.negotiated || self.phase != Phase::Registering {
            return;
        }
        match &self.config.sasl {
            None => self.end_negotiation(),
            Some(_) if !self.registration.enabled.contains("sasl") => {
                self.close("the server offers SASL, but refuses to do it".to_owned(), REFUSED_SECONDS);
            }
            Some(Sasl::Plain { .. }) => self.send(Line::new("AUTHENTICATE").param("PLAIN")),
            Some(Sasl::External { .. }) => self.send(Line::new("AUTHENTICATE").param("EXTERNAL")),
        }
    }

    fn end_negotiation(&mut self) {
        if self.phase == Phase::Registering && !self.registration.negotiated {
            self.registration.negotiated = true;
            self.send(Line::new("CAP").param("END"));
        }
    }

    pub(super) fn on_authenticate(&mut self, data: &str) {
        if data != "+" || self.registration.negotiated {
            return;
        }
        let proof = match &self.config.sasl {
            Some(Sasl::Plain { account, password }) => format!("{account}\0{account}\0{}", password.0),
            Some(Sasl::External { account }) => account.clone().unwrap_or_default(),
            None => return,
        };
        let encoded = STANDARD.encode(proof);
        for start in (0..encoded.len()).step_by(SASL_CHUNK_BYTES) {
            let chunk = &encoded[start..encoded.len().min(start + SASL_CHUNK_BYTES)];
            self.send(Line::new("AUTHENTICATE").param(chunk).secret());
        }
        // A last chunk that is full, or none at all, is followed by an empty one.
        if encoded.len().is_multiple_of(SASL_CHUNK_BYTES) {
            self.send(Line::new("AUTHENTICATE").param("+"));
        }
    }

    pub(super) fn on_sasl(&mut self, number: u16, text: &str) {
        match number {
            900 => tracing::info!("{text}"),
            903 | 907 => {
                self.registration.authenticated = true;
                self.end_negotiation();
            }
            902 | 904 | 905 | 906 if self.phase == Phase::Registering => {
                self.close(format!("SASL failed: {text} ({number})"), REFUSED_SECONDS);
            }
            _ => {}
        }
    }

    /// A server that does not know CAP.
    pub(super) fn on_unknown_command(&mut self, command: &str) {
        if command == "CAP" {
            self.registration.negotiated = true;
        }
    }

    pub(super) fn on_welcome(&mut self, nick: &str, now: Instant) {
        if self.phase != Phase::Registering {
            return;
        }
        if self.config.sasl.is_some() && !self.registration.authenticated {
            return self.close("SASL is configured, but the server welcomed us without it".to_owned(), REFUSED_SECONDS);
        }
        self.phase = Phase::Online;
        self.welcomed_at = Some(now);
        self.registration.negotiated = true;
        if !nick.is_empty() {
            self.nick = nick.to_owned();
        }
        if !self.has_wanted_nick() {
            // Without a refusal, the settings have changed meanwhile.
            let wait = if self.registration.nick_tries == 0 { Duration::from_secs(1) } else { REGAIN_EVERY };
            self.regain_at = Some(now + wait);
        }
        self.identify();
        self.channels.join_not_before(now + MOTD_MAX);
        tracing::info!(
            host = self.config.host,
            nick = self.nick,
            capabilities = self.registration.enabled.iter().cloned().collect::<Vec<_>>().join(" "),
            "registered with {} as {}",
            self.config.host,
            readable(&self.nick)
        );
        self.effects.push(Effect::Status);
    }

    pub(super) fn identify(&mut self) {
        if let Some(nickserv) = self.config.nickserv.clone() {
            let text = format!("IDENTIFY {} {}", nickserv.account, nickserv.password.0);
            self.send(Line::new("PRIVMSG").param("NickServ").trailing(&text).secret());
        }
    }

    pub(super) fn on_nick_taken(&mut self, nick: &str, now: Instant) {
        if self.phase != Phase::Registering {
            self.regain_at = Some(now + REGAIN_EVERY);
            return;
        }
        self.registration.nick_tries += 1;
        let tries = self.registration.nick_tries;
        if tries > NICK_TRIES_MAX {
            return self.close(format!("the nick {} is taken, and every other that was tried", self.config.nick), 0);
        }
        if tries == 1 {
            tracing::warn!(nick, "the nick {} is taken, trying others", readable(nick));
        }
        self.nick = other_nick(&self.config.nick, tries);
        self.send(Line::new("NICK").param(&self.nick));
        self.effects.push(Effect::Status);
    }

    pub(super) fn on_nick_refused(&mut self, nick: &str, why: &str, now: Instant) {
        match (self.phase, self.registration.nick_tries) {
            (Phase::Registering, 0) => {
                let nick = readable(nick);
                self.close(format!("the server refuses the nick {nick}: {why}"), REFUSED_SECONDS);
            }
            // One of our own inventions is too long for this server.
            (Phase::Registering, _) => self.on_nick_taken(nick, now),
            _ => {
                tracing::warn!(nick, "the server refuses the nick {}: {why}", readable(nick));
                self.regain_at = Some(now + REGAIN_EVERY);
            }
        }
    }

    pub(super) fn regain(&mut self, now: Instant) {
        self.regain_at = None;
        if self.is_online() && !self.has_wanted_nick() {
            self.regain_at = Some(now + REGAIN_EVERY);
            self.send(Line::new("NICK").param(&self.config.nick));
        }
    }

    /// Our own nick has changed.
    pub(super) fn on_own_nick(&mut self, nick: &str, now: Instant) {
        self.nick = nick.to_owned();
        self.regain_at = (!self.has_wanted_nick()).then_some(now + REGAIN_EVERY);
        self.effects.push(Effect::Status);
    }

    pub(super) fn on_own_host(&mut self, message: &Message, user: &str, host: &str) {
        if Speaker::of(message).is_some_and(|s| self.is_me(&s.nick)) {
            self.mask = Some(own_mask(user, &format!("{user}@{host}")));
        }
    }
}

fn is_useful(capability: &str) -> bool {
    capability == "sasl" || CAPABILITIES.contains(&capability)
}

/// `nick_`, `nick__`, `nick___`, and then short ones with a number, for servers that allow nine characters.
fn other_nick(nick: &str, tries: u32) -> String {
    if tries <= 3 {
        return format!("{nick}{}", "_".repeat(tries as usize));
    }
    let short: String = nick.chars().take(6).collect();
    format!("{short}{}", fastrand::u32(100..1000))
}
