//! The vocabulary of chat on the bus: the headers that every connector publishes, how a command is recognised in a
//! text, how many of them a person may give, and what an answer looks like. A connector builds its messages with [`Event`], so that an operator that
//! answers on one network answers on all of them.

mod command;
mod event;
mod ignore;
mod limit;
#[cfg(test)]
mod tests;

pub use command::{COMMAND_BYTES_MAX, Recognised, Recogniser};
pub use event::{Event, clean};
pub use ignore::IgnoreList;
pub use limit::{Limiter, PEOPLE_MAX, Rate, TELL_EVERY, Verdict, person};

use crate::header::Headers;
use crate::message::{Document, Message};

/// The keys of chat headers.
pub mod key {
    /// What it is: one of [`super::kind`].
    pub const TYPE: &str = "type";
    /// `in` from the network, `out` to it.
    pub const DIRECTION: &str = "direction";
    /// `irc`, `xmpp`, `matrix`, `log`.
    pub const PLATFORM: &str = "platform";
    /// The network's name in the settings of its connector.
    pub const NETWORK: &str = "network";
    /// Channel, room, or the other person in a private chat.
    pub const CHANNEL: &str = "channel";
    /// `1` in a private chat.
    pub const PRIVATE: &str = "private";
    /// Display name or nick of who speaks or acts.
    pub const USER: &str = "user";
    /// The account that the network vouches for.
    pub const ACCOUNT: &str = "account";
    /// `ident@host`, where there is one.
    pub const USER_HOST: &str = "user-host";
    /// `1` when the speaker is known to be a program.
    pub const BOT: &str = "bot";
    /// The bare command word.
    pub const COMMAND: &str = "command";
    /// The byte in the body where the command's arguments begin.
    pub const ARGS_AT: &str = "args-at";
    /// Whom a `chat.kick` hit, or the new name of a `chat.nick`.
    pub const TARGET: &str = "target";
    /// The network's id of the message that this one answers.
    pub const IN_REPLY_TO: &str = "in-reply-to";
    /// The network's id of the thread.
    pub const THREAD: &str = "thread";
    /// The network's own id of the message.
    pub const REMOTE_ID: &str = "remote-id";
    /// `1` when the network replays an old message; it then carries no command.
    pub const REPLAYED: &str = "replayed";
    /// Why what looks like a command carries none: `limit` for one too many by this person, `ignored` for a person whose
    /// commands are not taken.
    pub const HELD_BACK: &str = "held-back";
}

/// Values of the header `type`.
pub mod kind {
    /// Something was said.
    pub const MESSAGE: &str = "chat.message";
    /// `/me` does something.
    pub const ACTION: &str = "chat.action";
    /// Something that no program may answer.
    pub const NOTICE: &str = "chat.notice";
    /// Somebody came.
    pub const JOIN: &str = "chat.join";
    /// Somebody left; the body is the reason.
    pub const PART: &str = "chat.part";
    /// Somebody left the network; the body is the reason.
    pub const QUIT: &str = "chat.quit";
    /// Somebody was thrown out; `user` did it, `target` was hit, the body is the reason.
    pub const KICK: &str = "chat.kick";
    /// `user` changed the name to `target`, which is the body too.
    pub const NICK: &str = "chat.nick";
    /// The body is the new topic.
    pub const TOPIC: &str = "chat.topic";
    /// The body is the reaction.
    pub const REACTION: &str = "chat.reaction";
    /// The body is the new text of an earlier message.
    pub const EDIT: &str = "chat.edit";
    /// An earlier message was taken back.
    pub const DELETE: &str = "chat.delete";
}

/// The value of `direction` on what was heard.
pub const IN: &str = "in";
/// The value of `direction` on what is to be said.
pub const OUT: &str = "out";

/// Why no answer to a message can be made.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("message {id} cannot be answered in chat: it has no header {missing:?}")]
pub struct NotChat {
    /// The message.
    pub id: u64,
    /// The first header it lacks.
    pub missing: &'static str,
}

/// The document that says `text` where `message` was heard: same platform, network and channel, `direction=out`.
///
/// It adds nothing to the text. Who publishes it sets the cause to the message's id.
///
/// # Errors
/// [`NotChat`] for a message without platform, network or channel.
///
/// ```
/// use libeevee::{Document, Message, chat};
/// # let heard = Message { id: 1, source: "irc".into(), timestamp: Default::default(), cause: None, hops: 0,
/// #     document: chat::Event::new(chat::kind::MESSAGE, "irc", "libera").channel("#rust").user("goos").document("hi").into(),
/// #     reply_address: None, delivery: Default::default() };
/// let answer = chat::reply(&heard, "hello")?;
/// assert_eq!(answer.headers.get("direction"), Some("out"));
/// assert_eq!(answer.headers.get("channel"), Some("#rust"));
/// # Ok::<(), chat::NotChat>(())
/// ```
pub fn reply(message: &Message, text: &str) -> Result<Document, NotChat> {
    let need = |missing| message.header(missing).ok_or(NotChat { id: message.id, missing });
    let mut pairs = vec![
        (key::TYPE, kind::MESSAGE),
        (key::DIRECTION, OUT),
        (key::PLATFORM, need(key::PLATFORM)?),
        (key::NETWORK, need(key::NETWORK)?),
        (key::CHANNEL, need(key::CHANNEL)?),
    ];
    for (from, to) in [(key::PRIVATE, key::PRIVATE), (key::THREAD, key::THREAD), (key::REMOTE_ID, key::IN_REPLY_TO)] {
        if let Some(value) = message.header(from) {
            pairs.push((to, value));
        }
    }
    // All values were header values of a message before, so they are good ones.
    Ok(Document { headers: Headers::from_checked(pairs.iter().copied()), body: text.to_owned().into() })
}

/// The document that tells `text` to the one who said `message`, and to as few others as the platform allows: on IRC a
/// notice to that person; elsewhere a notice where it was said. Programs do not answer notices.
///
/// # Errors
/// As [`reply`].
///
/// ```
/// use libeevee::{Document, Message, chat};
/// # let heard = Message { id: 1, source: "irc".into(), timestamp: Default::default(), cause: None, hops: 0,
/// #     document: chat::Event::new(chat::kind::MESSAGE, "irc", "libera").channel("#rust").user("goos").document("hi").into(),
/// #     reply_address: None, delivery: Default::default() };
/// let answer = chat::aside(&heard, "for you alone")?;
/// assert_eq!(answer.headers.get("type"), Some("chat.notice"));
/// assert_eq!(answer.headers.get("channel"), Some("goos"));
/// # Ok::<(), chat::NotChat>(())
/// ```
pub fn aside(message: &Message, text: &str) -> Result<Document, NotChat> {
    let Document { headers, body } = reply(message, text)?;
    let user = message.header(key::USER).filter(|user| !user.is_empty());
    // Where rooms are not left by a nick, nobody knows how to write to a person whose display name is all that we have.
    let person = user.filter(|_| message.header(key::PLATFORM) == Some("irc"));
    let changed =
        headers.iter().filter(|(key, _)| person.is_none() || *key != key::PRIVATE).map(|(key, value)| match key {
            key::TYPE => (key, kind::NOTICE),
            key::CHANNEL => (key, person.unwrap_or(value)),
            _ => (key, value),
        });
    let private = person.map(|_| (key::PRIVATE, "1"));
    Ok(Document { headers: Headers::from_checked(changed.chain(private)), body })
}

/// The arguments of a command: the body from its header `args-at` on, without white space around them.
///
/// Empty where the message carries no command; a lying `args-at` reads as the end of the text.
pub fn arguments(message: &Message) -> &str {
    let at = message.header(key::ARGS_AT).and_then(|at| at.parse::<usize>().ok());
    let text = message.text().unwrap_or_default();
    at.and_then(|at| text.get(at..)).unwrap_or_default().trim()
}
