//! What people say: messages, actions, notices, CTCP requests.

use std::collections::BTreeMap;

use irc_proto::{BatchSubCommand, Message};
use libeevee::chat::{command_of, key, kind};
use tokio::time::Instant;

use super::{Effect, Session};
use crate::line::Line;
use crate::mapping::{Place, Speaker, ctcp, event, tag};

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
            Some(("ACTION", action)) => self.said(kind::ACTION, message, who, target, action),
            Some((request, arguments)) => self.on_ctcp(who, target, request, arguments, now),
            None => self.said(kind::MESSAGE, message, who, target, text),
        }
    }

    pub(super) fn on_notice(&mut self, message: &Message, who: &Speaker, target: &str, text: &str) {
        if self.is_me(&who.nick) {
            return self.on_echo(message, Line::new("NOTICE").param(target).trailing(text));
        }
        // A server without a dot in its name looks like a person, but one without a host.
        if who.host.is_some() && ctcp(text).is_none() {
            self.said(kind::NOTICE, message, who, target, text);
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

    fn said(&mut self, kind: &str, message: &Message, who: &Speaker, target: &str, text: &str) {
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
        } else if kind == kind::MESSAGE {
            let found = command_of(text, &self.config.prefix, &self.nick, &BTreeMap::new());
            event = event.command(found.as_ref());
        }
        self.publish(event, text);
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
