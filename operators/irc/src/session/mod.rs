//! One connection's conversation with an IRC server as a pure state machine: lines and time go in, effects come out.
//! It opens no socket and reads no clock. A lost connection means a new session.

mod channels;
mod chat;
mod isupport;
mod people;
mod register;
#[cfg(test)]
mod tests;

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use irc_proto::{Command, Message};
use libeevee::Document;
use libeevee::chat::Limiter;
use tokio::time::Instant;

use self::channels::Channels;
pub(crate) use self::channels::Reach;
use self::isupport::Isupport;
use self::register::Registration;
use crate::config::Config;
use crate::flood::Bucket;
use crate::line::Line;
use crate::mapping::Speaker;

/// A server that says nothing for so long is asked whether it is there.
const QUIET_MAX: Duration = Duration::from_secs(60);
/// And has so long to answer.
const PONG_MAX: Duration = Duration::from_secs(60);
/// How long a registration may take, SASL included.
const REGISTRATION_MAX: Duration = Duration::from_secs(60);
/// How often a nick that was taken is tried again.
const REGAIN_EVERY: Duration = Duration::from_secs(60);
/// What the server may add to our user name (`~`), and the longest host name: for lines before we know our own mask.
const HOST_BYTES_MAX: usize = 63;

/// How the tokens begin by which the server confirms what it has.
const CONFIRMATION: &str = "eevee-";

/// What the owner of a session has to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Effect {
    /// Send this line at once.
    Send(Line),
    /// Send this line when the flood control allows.
    Pace(Line),
    /// Publish this on the bus.
    Publish(Document),
    /// [`Session::status`] has changed.
    Status,
    /// The server has answered the [`confirmation`] with this token.
    Confirmed(u64),
    /// The server has shown us this line of ours.
    Echo(Line),
    /// Close the connection and try again, not before `least` has passed.
    Close { why: String, least: Duration },
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    Registering,
    Online,
    /// QUIT is sent, or the connection given up.
    Leaving,
}

pub(crate) struct Session {
    config: Arc<Config>,
    phase: Phase,
    registration: Registration,
    /// The nick that we have, or try to get.
    nick: String,
    /// `user@host` as others see us.
    mask: Option<String>,
    support: Isupport,
    channels: Channels,
    /// Open batches that replay history.
    replays: HashSet<String>,
    ctcp: Bucket,
    /// Of the commands that people give.
    limiter: Limiter,
    /// Of the notices to those who give too many.
    told: Bucket,
    started: Instant,
    /// When the server welcomed us; it stays when the phase is over.
    welcomed_at: Option<Instant>,
    heard_at: Instant,
    pinged_at: Option<Instant>,
    regain_at: Option<Instant>,
    effects: Vec<Effect>,
}

impl Session {
    /// A new session; its first effects are the lines of the registration.
    pub(crate) fn new(config: Arc<Config>, now: Instant) -> Self {
        let mut session = Self {
            phase: Phase::Registering,
            registration: Registration::default(),
            nick: config.nick.clone(),
            mask: None,
            support: Isupport::default(),
            channels: Channels::new(&config.channels),
            replays: HashSet::new(),
            ctcp: Bucket::new(3, 0.1, now),
            limiter: Limiter::new(config.rate),
            told: Bucket::new(5, 0.1, now),
            started: now,
            welcomed_at: None,
            heard_at: now,
            pinged_at: None,
            regain_at: None,
            effects: Vec::new(),
            config,
        };
        session.register();
        session
    }

    /// What is to be done since the last call.
    pub(crate) fn effects(&mut self) -> Vec<Effect> {
        std::mem::take(&mut self.effects)
    }

    /// Takes a line from the server.
    pub(crate) fn on_line(&mut self, message: &Message, now: Instant) {
        self.heard_at = now;
        self.pinged_at = None;
        if self.phase == Phase::Leaving {
            return;
        }
        if let Some((number, arguments)) = numeric(&message.command) {
            return self.on_numeric(number, arguments, now);
        }
        match &message.command {
            Command::PING(token, _) => self.send(Line::new("PONG").trailing(token)),
            Command::PONG(first, second) => {
                let token = second.as_deref().unwrap_or(first).strip_prefix(CONFIRMATION);
                if let Some(token) = token.and_then(|token| token.parse().ok()) {
                    self.effects.push(Effect::Confirmed(token));
                }
            }
            Command::CAP(_, subcommand, first, second) => self.on_cap(*subcommand, first.as_deref(), second.as_deref()),
            Command::AUTHENTICATE(data) => self.on_authenticate(data),
            Command::ERROR(text) => {
                let least = if text.to_ascii_lowercase().contains("throttl") { 30 } else { 0 };
                self.close(format!("the server closed the connection: {}", readable(text)), least);
            }
            Command::BATCH(reference, kind, _) => self.on_batch(reference, kind.as_ref()),
            Command::CHGHOST(user, host) => self.on_own_host(message, user, host),
            _ => {
                if let Some(speaker) = Speaker::of(message) {
                    self.on_speaker(message, &speaker, now);
                }
            }
        }
    }

    /// What persons do.
    fn on_speaker(&mut self, message: &Message, speaker: &Speaker, now: Instant) {
        match &message.command {
            Command::PRIVMSG(target, text) => self.on_privmsg(message, speaker, target, text, now),
            Command::NOTICE(target, text) => self.on_notice(message, speaker, target, text, now),
            Command::JOIN(channel, account, _) => self.on_join(message, speaker, channel, account.as_deref(), now),
            Command::PART(channel, reason) => self.on_part(message, speaker, channel, reason.as_deref(), now),
            Command::KICK(channel, nick, reason) => {
                self.on_kick(message, speaker, (channel, nick), reason.as_deref(), now);
            }
            Command::QUIT(reason) => self.on_quit(message, speaker, reason.as_deref(), now),
            Command::NICK(nick) => self.on_nick(message, speaker, nick, now),
            Command::TOPIC(channel, topic) => self.on_topic(message, speaker, channel, topic.as_deref()),
            _ => {}
        }
    }

    fn on_numeric(&mut self, number: u16, arguments: &[String], now: Instant) {
        let argument = |at: usize| arguments.get(at).map_or("", String::as_str);
        let last = readable(arguments.last().map_or("", String::as_str));
        match number {
            1 => self.on_welcome(argument(0), now),
            5 => {
                // The first parameter is our nick and the last one a sentence.
                for token in arguments.iter().skip(1).take(arguments.len().saturating_sub(2)) {
                    self.support.take(token);
                }
                self.channels.refold(&self.support);
            }
            376 | 422 => self.join_channels(now),
            353 => self.on_names(argument(2), argument(3)),
            396 => self.mask = Some(own_mask(&self.config.user, argument(1))),
            433 | 436 => self.on_nick_taken(argument(1), now),
            432 => self.on_nick_refused(argument(1), &last, now),
            437 if !self.support.is_channel(argument(1)) => self.on_nick_taken(argument(1), now),
            464 if self.phase == Phase::Registering => {
                self.close(format!("the server refuses the password: {last}"), 30);
            }
            465 => self.close(format!("the server has banned us: {last}"), 120),
            // No such channel, too many, unavailable, forwarded, full, unknown mode, invite only, banned, wrong key,
            // bad mask, needs a registered nick, list full, TLS only.
            403 | 405 | 437 | 470..=479 | 489 => self.on_join_refused(number, argument(1), argument(2), &last, now),
            404 => {
                let channel = readable(argument(1));
                tracing::warn!(channel, "the server did not hand on what was said on {channel}: {last}");
            }
            401 => {
                let nick = readable(argument(1));
                tracing::warn!(nick, "what was said to {nick} did not arrive: {last}");
            }
            421 => self.on_unknown_command(argument(1)),
            900..=908 => self.on_sasl(number, &last),
            _ => {}
        }
    }

    /// When [`Session::on_time`] has something to do; after a goodbye never.
    pub(crate) fn deadline(&self) -> Option<Instant> {
        if self.phase == Phase::Leaving {
            return None;
        }
        let quiet = match self.pinged_at {
            Some(at) => at + PONG_MAX,
            None => self.heard_at + QUIET_MAX,
        };
        let registered = (self.phase == Phase::Registering).then_some(self.started + REGISTRATION_MAX);
        let others = [registered, self.regain_at, self.channels.deadline()];
        Some(others.into_iter().flatten().fold(quiet, Instant::min))
    }

    /// Does what has become due.
    pub(crate) fn on_time(&mut self, now: Instant) {
        if self.phase == Phase::Leaving {
            return;
        }
        if self.phase == Phase::Registering && now >= self.started + REGISTRATION_MAX {
            let seconds = REGISTRATION_MAX.as_secs();
            return self.close(format!("the server did not finish the registration in {seconds} s"), 0);
        }
        match self.pinged_at {
            Some(at) if now >= at + PONG_MAX => {
                let seconds = (QUIET_MAX + PONG_MAX).as_secs();
                return self.close(format!("ping timeout: nothing heard for {seconds} s"), 0);
            }
            None if now >= self.heard_at + QUIET_MAX => {
                self.pinged_at = Some(now);
                self.send(Line::new("PING").trailing("eevee"));
            }
            _ => {}
        }
        if self.regain_at.is_some_and(|at| now >= at) {
            self.regain(now);
        }
        if self.is_online() {
            self.retry_channels(now);
        }
    }

    /// Takes other settings without reconnecting: nick, channels, commands and their limits, NickServ. The caller has made sure
    /// that nothing changed which needs a new connection.
    pub(crate) fn change(&mut self, config: Arc<Config>, now: Instant) {
        let old = std::mem::replace(&mut self.config, config);
        self.limiter.change(self.config.rate, now.into_std());
        if self.phase == Phase::Registering {
            // The registration goes on with the old nick; the new one is taken once it has ended.
            self.channels = Channels::new(&self.config.channels);
            self.channels.refold(&self.support);
            return;
        }
        if old.nickserv != self.config.nickserv {
            self.identify();
        }
        if old.nick != self.config.nick {
            self.regain_at = Some(now + REGAIN_EVERY);
            self.send(Line::new("NICK").param(&self.config.nick));
        }
        self.change_channels(now);
        self.effects.push(Effect::Status);
    }

    /// Says goodbye; the server closes the connection when it has read it.
    pub(crate) fn quit(&mut self, text: &str) {
        self.phase = Phase::Leaving;
        self.send(Line::new("QUIT").trailing(text));
    }

    pub(crate) fn is_online(&self) -> bool {
        self.phase == Phase::Online
    }

    /// When the server was heard last.
    pub(crate) fn heard_at(&self) -> Instant {
        self.heard_at
    }

    /// Whether the server shows us our own lines when it has taken them.
    pub(crate) fn echoes(&self) -> bool {
        self.registration.enabled.contains("echo-message")
    }

    /// Whether a connection has held for so long that the next failure starts a new row of attempts.
    pub(crate) fn has_proved_good(&self, now: Instant) -> bool {
        // Asked when it is over already, mostly because the server said ERROR.
        self.welcomed_at.is_some_and(|since| now >= since + Duration::from_secs(30))
    }

    /// The length of `nick!user@host`, or the most that it can be.
    pub(crate) fn mask_bytes(&self) -> usize {
        let host = self.mask.as_ref().map_or(self.config.user.len() + 2 + HOST_BYTES_MAX, String::len);
        // What waits in the queue may be sent under a nick that has got an underscore or three.
        self.nick.len().max(self.config.nick.len()) + 3 + 1 + host
    }

    /// Whether something can be said to a channel or nick.
    pub(crate) fn reach(&self, target: &str) -> Reach {
        if !self.support.is_channel(target) {
            return if self.is_online() { Reach::Now } else { Reach::Soon };
        }
        self.channels.reach(&self.support.fold(target))
    }

    /// One line for `systemctl status`.
    pub(crate) fn status(&self) -> String {
        // Nick and channels are the server's words.
        self.status_text().chars().filter(|c| !c.is_control()).collect()
    }

    fn status_text(&self) -> String {
        let host = &self.config.host;
        if !self.is_online() {
            return format!("registering with {host} as {}", self.nick);
        }
        let taken = match self.has_wanted_nick() {
            true => String::new(),
            false => format!(" ({} is taken)", self.config.nick),
        };
        format!("connected to {host} as {}{taken}, {}", self.nick, self.channels.status())
    }

    /// Also when the server has cut it to its own limit.
    fn has_wanted_nick(&self) -> bool {
        let wanted = self.config.nick.as_str();
        let cut = self.support.nicklen.map_or(wanted, |most| &wanted[..crate::line::floor_boundary(wanted, most)]);
        self.support.same(&self.nick, wanted) || self.support.same(&self.nick, cut)
    }

    fn is_me(&self, nick: &str) -> bool {
        self.support.same(nick, &self.nick)
    }

    fn send(&mut self, line: Line) {
        self.effects.push(Effect::Send(line));
    }

    fn close(&mut self, why: String, least_seconds: u64) {
        self.phase = Phase::Leaving;
        self.effects.push(Effect::Close { why, least: Duration::from_secs(least_seconds) });
    }
}

/// The line that asks the server whether it has all lines before it.
pub(crate) fn confirmation(token: u64) -> Line {
    Line::new("PING").trailing(&format!("{CONFIRMATION}{token}"))
}

fn own_mask(user: &str, host: &str) -> String {
    if host.contains('@') { host.to_owned() } else { format!("~{user}@{host}") }
}

fn numeric(command: &Command) -> Option<(u16, &[String])> {
    match command {
        Command::Response(response, arguments) => Some((*response as u16, arguments)),
        Command::Raw(name, arguments) if name.len() == 3 => Some((name.parse().ok()?, arguments)),
        _ => None,
    }
}

/// A server's text for a status line or a log: without control characters, and not endless.
fn readable(text: &str) -> String {
    text.chars().filter(|c| !c.is_control()).take(200).collect()
}
