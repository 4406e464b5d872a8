//! Building the document of something that happened on a chat network. It cannot fail: what comes from a network is
//! made to fit the rules of headers, because a hostile nick must not be able to silence a connector.

use super::command::Recognised;
use super::{IN, key};
use crate::header::Headers;
use crate::message::Document;
use crate::wire::limits::{HEADER_VALUE_BYTES_MAX, HEADERS_MAX};

/// Something that happened on a chat network, on its way to become a [`Document`].
///
/// ```
/// use libeevee::chat::{Event, kind};
/// let document = Event::new(kind::JOIN, "irc", "libera").channel("#rust").user("goos").document("");
/// assert_eq!(document.headers.get("user"), Some("goos"));
/// ```
#[derive(Debug, Clone)]
#[must_use]
pub struct Event {
    headers: Vec<(String, String)>,
}

impl Event {
    /// An event of a [`kind`](super::kind) on a network; `direction` is `in`.
    pub fn new(kind: &str, platform: &str, network: &str) -> Self {
        Self { headers: Vec::with_capacity(12) }
            .with(key::TYPE, kind)
            .with(key::DIRECTION, IN)
            .with(key::PLATFORM, platform)
            .with(key::NETWORK, network)
    }

    /// The channel or room.
    pub fn channel(self, channel: &str) -> Self {
        self.with(key::CHANNEL, channel)
    }

    /// A private chat with this person, who stands in the place of the channel.
    pub fn private(self, person: &str) -> Self {
        self.with(key::CHANNEL, person).with(key::PRIVATE, "1")
    }

    /// Who speaks or acts.
    pub fn user(self, user: &str) -> Self {
        self.with(key::USER, user)
    }

    /// The account that the network vouches for, if any. Never what a person says about itself.
    pub fn account(self, account: Option<&str>) -> Self {
        self.with_some(key::ACCOUNT, account)
    }

    /// `ident@host`.
    pub fn user_host(self, host: Option<&str>) -> Self {
        self.with_some(key::USER_HOST, host)
    }

    /// Whether the speaker is known to be a program.
    pub fn bot(self, bot: bool) -> Self {
        self.with_some(key::BOT, bot.then_some("1"))
    }

    /// Whom a kick hit, or the new name.
    pub fn target(self, target: &str) -> Self {
        self.with(key::TARGET, target)
    }

    /// The network's own id of the message.
    pub fn remote_id(self, id: Option<&str>) -> Self {
        self.with_some(key::REMOTE_ID, id)
    }

    /// The network's id of the message that this one answers.
    pub fn in_reply_to(self, id: Option<&str>) -> Self {
        self.with_some(key::IN_REPLY_TO, id)
    }

    /// The network's id of the thread.
    pub fn thread(self, id: Option<&str>) -> Self {
        self.with_some(key::THREAD, id)
    }

    /// The command that the text begins with, if any.
    pub fn command(self, found: Option<&Recognised>) -> Self {
        match found {
            Some(found) => self.with(key::COMMAND, &found.command).with(key::ARGS_AT, &found.args_at.to_string()),
            None => self,
        }
    }

    /// Sets any other header, in place of an earlier one. A key outside the contract is a mistake in the connector's
    /// code and leaves the event unchanged, as does the 65th header; the value is made to fit by [`clean`].
    pub fn with(mut self, key: &str, value: &str) -> Self {
        if crate::header::check_key(key).is_ok() {
            self.headers.retain(|(k, _)| k != key);
            if self.headers.len() < HEADERS_MAX {
                self.headers.push((key.to_owned(), clean(value)));
            }
        }
        self
    }

    /// The document with this body: always the whole text, as it was said.
    pub fn document(self, body: &str) -> Document {
        let pairs = self.headers.iter().map(|(key, value)| (key.as_str(), value.as_str()));
        Document { headers: Headers::from_checked(pairs), body: body.to_owned().into() }
    }

    fn with_some(self, key: &str, value: Option<&str>) -> Self {
        match value {
            Some(value) => self.with(key, value),
            None => self,
        }
    }
}

/// A text made to fit a header value: control characters are left out, and what is longer than 1 KiB is cut at a
/// character boundary.
pub fn clean(value: &str) -> String {
    let mut clean = String::with_capacity(value.len().min(HEADER_VALUE_BYTES_MAX));
    for character in value.chars().filter(|c| !c.is_control()) {
        if clean.len() + character.len_utf8() > HEADER_VALUE_BYTES_MAX {
            break;
        }
        clean.push(character);
    }
    clean
}
