//! The channels that we are on, want to be on, and cannot get on.

use std::collections::{BTreeMap, HashSet};
use std::time::Duration;

use irc_proto::Message;
use libeevee::chat::{Event, kind};
use tokio::time::Instant;

use super::isupport::Isupport;
use super::{Effect, Session, readable};
use crate::config::{Password, Wanted};
use crate::line::Line;
use crate::mapping::{Place, Speaker, event};

/// After a kick, and doubled with each that follows soon.
const KICK_DELAY: Duration = Duration::from_secs(5);
/// After a refused join (banned, wrong key, …), and doubled with each that follows.
const REFUSED_DELAY: Duration = Duration::from_secs(60);
const DELAY_MAX: Duration = Duration::from_secs(600);
/// A join that nobody answers is tried again after this.
const JOIN_MAX: Duration = Duration::from_secs(30);
/// Who stayed so long on a channel has a clean slate there.
const SETTLED: Duration = Duration::from_secs(300);
const JOIN_LINE_BYTES_MAX: usize = 400;
const JOIN_LINE_CHANNELS_MAX: usize = 10;
/// Members of all channels together. A server that names more is lying, or it is no place for one small program.
const MEMBERS_MAX: usize = 200_000;
/// No network allows longer nicks or channels; with [`MEMBERS_MAX`] this bounds what a server can make us remember.
pub(super) const NAME_BYTES_MAX: usize = 256;
/// Channels that the server put us on without being asked. Of more we hear, but do not keep who is there.
const FORCED_MAX: usize = 50;

/// Whether something can be said somewhere.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Reach {
    Now,
    /// The channel is being joined.
    Soon,
    /// Not at all; why.
    Never(String),
}

#[derive(Debug)]
pub(super) struct Channel {
    pub(super) name: String,
    key: Option<Password>,
    /// In the settings; others were joined because the server made us.
    configured: bool,
    state: State,
    failures: u32,
    /// Folded nicks.
    pub(super) members: HashSet<String>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum State {
    /// To be joined as soon as the server is ready.
    New,
    Joining {
        since: Instant,
    },
    Joined {
        since: Instant,
    },
    Waiting {
        until: Instant,
        why: String,
    },
}

/// By folded name.
#[derive(Debug)]
pub(super) struct Channels {
    pub(super) list: BTreeMap<String, Channel>,
    /// When channels are joined, even if the message of the day does not end.
    join_at: Option<Instant>,
}

impl Channel {
    fn new(wanted: &Wanted) -> Self {
        Self {
            name: wanted.name.clone(),
            key: wanted.key.clone(),
            configured: true,
            state: State::New,
            failures: 0,
            members: HashSet::new(),
        }
    }

    /// Tries again later, each time later than before.
    fn wait(&mut self, first: Duration, why: String, now: Instant) {
        let delay = first.saturating_mul(1 << self.failures.min(10)).min(DELAY_MAX);
        self.failures += 1;
        self.members.clear();
        self.state = State::Waiting { until: now + delay, why };
    }

    fn forget_old_failures(&mut self, now: Instant) {
        if matches!(self.state, State::Joined { since } if now >= since + SETTLED) {
            self.failures = 0;
        }
    }
}

impl Channels {
    pub(super) fn new(wanted: &[Wanted]) -> Self {
        let fold = Isupport::default();
        let list = wanted.iter().map(|w| (fold.fold(&w.name), Channel::new(w))).collect();
        Self { list, join_at: None }
    }

    /// The server has said which names are equal.
    pub(super) fn refold(&mut self, support: &Isupport) {
        let list = std::mem::take(&mut self.list);
        self.list = list.into_values().map(|channel| (support.fold(&channel.name), channel)).collect();
    }

    pub(super) fn join_not_before(&mut self, at: Instant) {
        self.join_at = Some(at);
    }

    pub(super) fn deadline(&self) -> Option<Instant> {
        let channels = self.list.values().filter_map(|channel| match channel.state {
            State::Joining { since } => Some(since + JOIN_MAX),
            State::Waiting { until, .. } => Some(until),
            State::New | State::Joined { .. } => None,
        });
        channels.chain(self.join_at).min()
    }

    /// Somebody is on a channel that we are on.
    pub(super) fn add_member(&mut self, folded: &str, nick: String) {
        let known: usize = self.list.values().map(|channel| channel.members.len()).sum();
        if known < MEMBERS_MAX
            && nick.len() <= NAME_BYTES_MAX
            && let Some(channel) = self.list.get_mut(folded)
        {
            channel.members.insert(nick);
        }
    }

    /// The channel that the server has put us on; `None` where it is one too many.
    fn joined(&mut self, folded: String, name: &str) -> Option<&mut Channel> {
        let forced = self.list.values().filter(|channel| !channel.configured).count();
        if !self.list.contains_key(&folded) && (forced == FORCED_MAX || name.len() > NAME_BYTES_MAX) {
            return None;
        }
        Some(self.list.entry(folded).or_insert_with(|| {
            let shown = readable(name);
            tracing::info!(channel = name, "the server put us on {shown}, which is not among channels in the settings");
            Channel { configured: false, ..Channel::new(&Wanted { name: name.to_owned(), key: None }) }
        }))
    }

    pub(super) fn reach(&self, folded: &str) -> Reach {
        match self.list.get(folded).map(|channel| &channel.state) {
            Some(State::Joined { .. }) => Reach::Now,
            Some(State::New | State::Joining { .. }) => Reach::Soon,
            Some(State::Waiting { why, .. }) => Reach::Never(why.clone()),
            None => Reach::Never("not on this channel, and it is not among channels in the settings".to_owned()),
        }
    }

    /// "on #a, #b (2); cannot join #c: banned".
    pub(super) fn status(&self) -> String {
        const SHOWN_MAX: usize = 8;
        let is_joined = |channel: &&Channel| matches!(channel.state, State::Joined { .. });
        let joined: Vec<&str> = self.list.values().filter(is_joined).map(|c| c.name.as_str()).collect();
        let mut text = match joined.len() {
            0 => "on no channel".to_owned(),
            all @ ..=SHOWN_MAX => format!("on {} ({all})", joined.join(", ")),
            all => format!("on {}, … ({all})", joined[..SHOWN_MAX].join(", ")),
        };
        let waiting = self.list.values().filter_map(|channel| match &channel.state {
            State::Waiting { why, .. } => Some((&channel.name, why)),
            _ => None,
        });
        for (name, why) in waiting.take(4) {
            text.push_str(&format!("; not on {name}: {why}"));
        }
        text
    }
}

impl Session {
    /// The server is ready for joins.
    pub(super) fn join_channels(&mut self, now: Instant) {
        if !self.is_online() {
            return;
        }
        self.channels.join_at = None;
        let new: Vec<String> = self.channels_where(|channel| channel.state == State::New);
        self.join(&new, now);
    }

    pub(super) fn retry_channels(&mut self, now: Instant) {
        if self.channels.join_at.is_some_and(|at| now >= at) {
            self.join_channels(now);
        }
        let mut unanswered = false;
        for channel in self.channels.list.values_mut() {
            if matches!(channel.state, State::Joining { since } if now >= since + JOIN_MAX) {
                channel.wait(REFUSED_DELAY, "the server does not answer".to_owned(), now);
                unanswered = true;
            }
        }
        if unanswered {
            self.effects.push(Effect::Status);
        }
        let due = self.channels_where(|c| matches!(c.state, State::Waiting { until, .. } if now >= until));
        self.join(&due, now);
    }

    /// After a reload: leaves what is not wanted any more, joins what is new.
    pub(super) fn change_channels(&mut self, now: Instant) {
        let wanted: BTreeMap<String, Wanted> =
            self.config.channels.iter().map(|w| (self.support.fold(&w.name), w.clone())).collect();
        let gone = self.channels_where(|channel| !wanted.contains_key(&self.support.fold(&channel.name)));
        for folded in gone {
            if let Some(channel) = self.channels.list.remove(&folded)
                && matches!(channel.state, State::Joined { .. } | State::Joining { .. })
            {
                self.effects.push(Effect::Pace(Line::new("PART").param(&channel.name)));
            }
        }
        for (folded, wanted) in wanted {
            match self.channels.list.get_mut(&folded) {
                None => {
                    self.channels.list.insert(folded, Channel::new(&wanted));
                }
                Some(channel) => {
                    channel.configured = true;
                    // Another key may open what was closed.
                    if channel.key != wanted.key && matches!(channel.state, State::Waiting { .. }) {
                        channel.state = State::New;
                    }
                    channel.key = wanted.key;
                }
            }
        }
        if self.channels.join_at.is_none() {
            self.join_channels(now);
        }
    }

    fn channels_where(&self, wanted: impl Fn(&Channel) -> bool) -> Vec<String> {
        let chosen = self.channels.list.iter().filter(|(_, channel)| wanted(channel));
        chosen.map(|(folded, _)| folded.clone()).collect()
    }

    /// Several channels in one line, those with a key first, because keys belong to channels by their order.
    fn join(&mut self, folded: &[String], now: Instant) {
        let mut chosen = Vec::new();
        for name in folded {
            if let Some(channel) = self.channels.list.get_mut(name) {
                channel.state = State::Joining { since: now };
                chosen.push((channel.name.clone(), channel.key.clone()));
            }
        }
        chosen.sort_by_key(|(_, key)| key.is_none());
        let mut rest = chosen.as_slice();
        while !rest.is_empty() {
            let mut bytes = 0;
            let fits = rest.iter().take(JOIN_LINE_CHANNELS_MAX).take_while(|(name, key)| {
                bytes += name.len() + 2 + key.as_ref().map_or(0, |key| key.0.len());
                bytes <= JOIN_LINE_BYTES_MAX
            });
            let (now_joined, later) = rest.split_at(fits.count().max(1));
            rest = later;
            let names: Vec<&str> = now_joined.iter().map(|(name, _)| name.as_str()).collect();
            let keys: Vec<&str> = now_joined.iter().filter_map(|(_, key)| key.as_ref().map(|k| k.0.as_str())).collect();
            let line = Line::new("JOIN").param(&names.join(","));
            let line = if keys.is_empty() { line } else { line.param(&keys.join(",")).secret() };
            self.effects.push(Effect::Pace(line));
        }
    }

    pub(super) fn on_join_refused(&mut self, number: u16, name: &str, second: &str, text: &str, now: Instant) {
        let why = match number {
            470 => format!("forwarded to {} (470)", readable(second)),
            471 => "full (471)".to_owned(),
            473 => "invite only (473)".to_owned(),
            474 => "banned (474)".to_owned(),
            475 => "wrong key (475)".to_owned(),
            477 => "only for registered nicks (477)".to_owned(),
            489 => "only for connections with TLS (489)".to_owned(),
            _ => format!("{text} ({number})"),
        };
        let folded = self.support.fold(name);
        if let Some(channel) = self.channels.list.get_mut(&folded)
            && !matches!(channel.state, State::Joined { .. })
        {
            tracing::error!(channel = name, "cannot join {}: {why}", readable(name));
            channel.wait(REFUSED_DELAY, why, now);
            self.effects.push(Effect::Status);
        }
    }

    pub(super) fn on_join(
        &mut self,
        message: &Message,
        who: &Speaker,
        name: &str,
        account: Option<&str>,
        now: Instant,
    ) {
        let folded = self.support.fold(name);
        if !self.is_me(&who.nick) {
            self.channels.add_member(&folded, self.support.fold(&who.nick));
            let event = self.event(kind::JOIN, name, who, message);
            let event = match account {
                Some(account) if account != "*" && self.registration.enabled.contains("extended-join") => {
                    event.account(Some(account))
                }
                _ => event,
            };
            return self.publish(event, "");
        }
        self.mask = who.host.clone().or(self.mask.take());
        let Some(channel) = self.channels.joined(folded, name) else { return };
        channel.state = State::Joined { since: now };
        channel.members.clear();
        tracing::info!(channel = name, "joined {} as {} on {}", readable(name), readable(&self.nick), self.config.host);
        self.effects.push(Effect::Status);
    }

    pub(super) fn on_part(&mut self, message: &Message, who: &Speaker, name: &str, reason: Option<&str>, now: Instant) {
        if self.is_me(&who.nick) {
            return self.on_own_loss(name, "made to leave by the server", now);
        }
        if let Some(channel) = self.channels.list.get_mut(&self.support.fold(name)) {
            channel.members.remove(&self.support.fold(&who.nick));
        }
        let event = self.event(kind::PART, name, who, message);
        self.publish(event, reason.unwrap_or_default());
    }

    pub(super) fn on_kick(
        &mut self,
        message: &Message,
        who: &Speaker,
        (name, nick): (&str, &str),
        reason: Option<&str>,
        now: Instant,
    ) {
        if self.is_me(nick) {
            let why = format!("kicked by {}: {}", readable(&who.nick), readable(reason.unwrap_or_default()));
            tracing::warn!(channel = name, by = who.nick, "kicked from {} by {}", readable(name), readable(&who.nick));
            self.on_own_loss(name, &why, now);
        } else if let Some(channel) = self.channels.list.get_mut(&self.support.fold(name)) {
            channel.members.remove(&self.support.fold(nick));
        }
        let event = self.event(kind::KICK, name, who, message).target(nick);
        self.publish(event, reason.unwrap_or_default());
    }

    /// We are off a channel and did not want that.
    fn on_own_loss(&mut self, name: &str, why: &str, now: Instant) {
        let folded = self.support.fold(name);
        let Some(channel) = self.channels.list.get_mut(&folded) else { return };
        if channel.configured {
            channel.forget_old_failures(now);
            channel.wait(KICK_DELAY, why.to_owned(), now);
        } else {
            self.channels.list.remove(&folded);
        }
        self.effects.push(Effect::Status);
    }

    pub(super) fn event(&self, kind: &str, channel: &str, who: &Speaker, message: &Message) -> Event {
        event(kind, &self.config.network, Place::Channel(channel), who, message)
    }

    pub(super) fn publish(&mut self, event: Event, body: &str) {
        self.effects.push(Effect::Publish(event.document(body)));
    }
}
