//! What people say: messages, commands, actions, notices, CTCP requests.

use irc_proto::{BatchSubCommand, Message};
use libeevee::chat::{self, Event, Recognised, key, kind};
use tokio::time::Instant;

use super::{Effect, Session, readable};
use crate::line::Line;
use crate::mapping::{Place, Speaker, account, ctcp, event, tag};

/// What CTCP VERSION gets.
const VERSION: &str = concat!("eevee irc ", env!("CARGO_PKG_VERSION"));
/// A CTCP PING hands back at most this much.
const CTCP_ECHO_BYTES_MAX: usize = 200;
/// More batches than this are never open at once.
const BATCHES_MAX: usize = 64;

impl Session {
    pub(super) fn on_privmsg(&mut self, message: &Message, who: &Speaker, target: &str, text: &str, now: Instant) {
        if self.is_me(&who.nick) {
            // A connector never hears itself.
            return self.on_echo(message, Line::new("PRIVMSG").param(target).trailing(text));
        }
        match ctcp(text) {
            Some(("ACTION", action)) => self.said(kind::ACTION, message, who, (target, action), now),
            Some((request, arguments)) => self.on_ctcp(who, target, request, arguments, now),
            None => self.said(kind::MESSAGE, message, who, (target, text), now),
        }
    }

    pub(super) fn on_notice(&mut self, message: &Message, who: &Speaker, target: &str, text: &str, now: Instant) {
        if self.is_me(&who.nick) {
            return self.on_echo(message, Line::new("NOTICE").param(target).trailing(text));
        }
        // A server without a dot in its name looks like a person, but one without a host.
        if who.host.is_some() && ctcp(text).is_none() {
            self.said(kind::NOTICE, message, who, (target, text), now);
        }
    }

    /// echo-message: the server has taken it.
    fn on_echo(&mut self, message: &Message, line: Line) {
        if !self.is_replay(message) {
            self.effects.push(Effect::Echo(line));
        }
    }

    fn is_replay(&self, message: &Message) -> bool {
        tag(message, "batch").is_some_and(|batch| self.replays.contains(batch))
    }

    fn said(&mut self, kind: &str, message: &Message, who: &Speaker, (target, text): (&str, &str), now: Instant) {
        let place = match self.support.channel_of(target) {
            Some(channel) => Place::Channel(channel),
            None if self.is_me(target) => Place::Private,
            // To all users of the server, or to somebody we are not.
            None => return,
        };
        let mut event = event(kind, &self.config.network, place, who, message);
        if self.is_replay(message) {
            // What a bouncer plays back was an order once; it is not carried out again.
            event = event.with(key::REPLAYED, "1");
        } else if kind == kind::MESSAGE
            && let Some(found) = self.config.recogniser.find(text, &self.nick)
        {
            event = self.command(event, &found, message, who, place, now);
        }
        self.publish(event, text);
    }

    /// What looks like a command is one, unless this person has given too many, or is not listened to. It is published in any
    /// case, so that logs and relays see what was said.
    fn command(
        &mut self,
        event: Event,
        found: &Recognised,
        message: &Message,
        who: &Speaker,
        place: Place<'_>,
        now: Instant,
    ) -> Event {
        let (account, host) = (account(message), who.host.as_deref());
        if self.config.ignore.holds(&who.nick, account, host) {
            return event.with(key::HELD_BACK, "ignored");
        }
        // In private there is one channel for each of them.
        let channel = match place {
            Place::Channel(channel) => self.support.fold(channel),
            Place::Private | Place::Network => String::new(),
        };
        let verdict = self.limiter.take(&channel, &chat::person(&who.nick, account, host), now.into_std());
        if verdict == chat::Verdict::Passes {
            return event.command(Some(found));
        }
        // A crowd of made-up nicks must not make us flood.
        if let Some(notice) = verdict.notice()
            && self.told.take(now)
        {
            let nick = readable(&who.nick);
            tracing::info!(nick, channel, "{nick} gives commands too fast: they are not taken");
            self.effects.push(Effect::Pace(Line::new("NOTICE").param(&who.nick).trailing(&notice)));
        }
        event.with(key::HELD_BACK, "limit")
    }

    /// Answered only so often, so that nobody can make us flood.
    fn on_ctcp(&mut self, who: &Speaker, target: &str, request: &str, arguments: &str, now: Instant) {
        let answer = match request.to_ascii_uppercase().as_str() {
            "VERSION" => format!("VERSION {VERSION}"),
            "PING" => {
                let end = crate::line::floor_boundary(arguments, CTCP_ECHO_BYTES_MAX);
                format!("PING {}", &arguments[..end])
            }
            "CLIENTINFO" => "CLIENTINFO ACTION CLIENTINFO PING VERSION".to_owned(),
            _ => return,
        };
        let for_us = self.is_me(target) || self.support.channel_of(target).is_some();
        if for_us && self.ctcp.take(now) {
            let answer = answer.replace('\x01', "");
            let line = Line::new("NOTICE").param(&who.nick).trailing(&format!("\x01{}\x01", answer.trim_end()));
            self.effects.push(Effect::Pace(line));
        }
    }

    pub(super) fn on_batch(&mut self, reference: &str, kind: Option<&BatchSubCommand>) {
        match (reference.strip_prefix('+'), reference.strip_prefix('-'), kind) {
            (Some(opened), _, Some(BatchSubCommand::CUSTOM(kind))) => {
                let replay = matches!(kind.as_str(), "CHATHISTORY" | "ZNC.IN/PLAYBACK" | "PLAYBACK");
                if replay && self.replays.len() < BATCHES_MAX {
                    self.replays.insert(opened.to_owned());
                }
            }
            (_, Some(closed), _) => {
                self.replays.remove(closed);
            }
            _ => {}
        }
    }
}
