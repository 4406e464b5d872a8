//! Who else is on our channels, so that a quit or a new name is told for each channel that it concerns.

use std::collections::HashSet;

use irc_proto::Message;
use libeevee::chat::kind;
use tokio::time::Instant;

use super::Session;
use super::channels::NAME_BYTES_MAX;
use crate::mapping::{Place, Speaker, event};

impl Session {
    pub(super) fn on_names(&mut self, name: &str, list: &str) {
        let folded = self.support.fold(name);
        for listed in list.split_ascii_whitespace() {
            self.channels.add_member(&folded, self.support.fold(self.support.bare_nick(listed)));
        }
    }

    /// One event for each channel that we shared, because who follows a channel wants to know.
    pub(super) fn on_quit(&mut self, message: &Message, who: &Speaker, reason: Option<&str>, now: Instant) {
        if self.is_me(&who.nick) {
            return;
        }
        let nick = self.support.fold(&who.nick);
        let shared = self.shared(|members| members.remove(&nick));
        for place in places(&shared) {
            let event = event(kind::QUIT, &self.config.network, place, who, message);
            self.publish(event, reason.unwrap_or_default());
        }
        self.nick_is_free(&who.nick, now);
    }

    pub(super) fn on_nick(&mut self, message: &Message, who: &Speaker, new: &str, now: Instant) {
        let (old, folded) = (self.support.fold(&who.nick), self.support.fold(new));
        let shared = self.shared(|members| {
            let was_there = members.remove(&old);
            if was_there && folded.len() <= NAME_BYTES_MAX {
                members.insert(folded.clone());
            }
            was_there
        });
        if self.is_me(&who.nick) {
            return self.on_own_nick(new, now);
        }
        for place in places(&shared) {
            let event = event(kind::NICK, &self.config.network, place, who, message).target(new);
            self.publish(event, new);
        }
        self.nick_is_free(&who.nick, now);
    }

    pub(super) fn on_topic(&mut self, message: &Message, who: &Speaker, name: &str, topic: Option<&str>) {
        if !self.is_me(&who.nick) {
            let event = self.event(kind::TOPIC, name, who, message);
            self.publish(event, topic.unwrap_or_default());
        }
    }

    fn nick_is_free(&mut self, nick: &str, now: Instant) {
        if self.support.same(nick, &self.config.nick) && !self.has_wanted_nick() {
            self.regain(now);
        }
    }

    /// The names of the channels for whose members `change` is true.
    fn shared(&mut self, mut change: impl FnMut(&mut HashSet<String>) -> bool) -> Vec<String> {
        let channels = self.channels.list.values_mut().filter_map(|c| change(&mut c.members).then(|| c.name.clone()));
        channels.collect()
    }
}

fn places(channels: &[String]) -> Vec<Place<'_>> {
    match channels {
        [] => vec![Place::Network],
        some => some.iter().map(|name| Place::Channel(name)).collect(),
    }
}
