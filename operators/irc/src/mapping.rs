//! Between IRC and the bus, purely: what was heard becomes documents, documents become lines.

use irc_proto::{Message, Prefix};
use libeevee::chat::{self, Event, key, kind};
use libeevee::{Document, Filter, FilterError};

use crate::line::{LINE_BYTES_MAX, Line};
use crate::split::split;

pub(crate) const PLATFORM: &str = "irc";

/// The person behind a line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Speaker {
    pub(crate) nick: String,
    /// `ident@host`.
    pub(crate) host: Option<String>,
}

impl Speaker {
    /// `None` for what the server itself says.
    pub(crate) fn of(message: &Message) -> Option<Self> {
        match message.prefix.as_ref()? {
            Prefix::ServerName(_) => None,
            Prefix::Nickname(nick, user, host) => {
                let host =
                    (!host.is_empty()).then(|| if user.is_empty() { host.clone() } else { format!("{user}@{host}") });
                Some(Self { nick: nick.clone(), host })
            }
        }
    }
}

/// The value of a message tag; empty for one without value.
pub(crate) fn tag<'a>(message: &'a Message, name: &str) -> Option<&'a str> {
    let found = message.tags.iter().flatten().find(|tag| tag.0 == name)?;
    Some(found.1.as_deref().unwrap_or_default())
}

/// The account of whoever is behind a line.
pub(crate) fn account(message: &Message) -> Option<&str> {
    tag(message, "account").filter(|account| !account.is_empty() && *account != "*")
}

/// Where something happened.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Place<'a> {
    Channel(&'a str),
    /// A private chat: the channel is the other person.
    Private,
    /// Nowhere in particular: a person who shares no channel with us any more.
    Network,
}

/// An event of a kind, with all that the line says about who and where.
pub(crate) fn event(kind: &str, network: &str, place: Place<'_>, speaker: &Speaker, message: &Message) -> Event {
    let event = Event::new(kind, PLATFORM, network);
    let event = match place {
        Place::Channel(channel) => event.channel(channel),
        Place::Private => event.private(&speaker.nick),
        Place::Network => event,
    };
    event
        .user(&speaker.nick)
        .account(account(message))
        .user_host(speaker.host.as_deref())
        .bot(tag(message, "bot").is_some() || tag(message, "draft/bot").is_some())
        .remote_id(tag(message, "msgid").filter(|id| !id.is_empty()))
}

/// A CTCP message: `\x01WORD arguments\x01`, the last byte often left out.
pub(crate) fn ctcp(text: &str) -> Option<(&str, &str)> {
    let inside = text.strip_prefix('\x01')?;
    let inside = inside.strip_suffix('\x01').unwrap_or(inside);
    Some(inside.split_once(' ').unwrap_or((inside, "")))
}

/// How something is said.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Manner {
    Message,
    Action,
    Notice,
}

/// What a document wants said.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Outgoing {
    pub(crate) manner: Manner,
    pub(crate) target: String,
    pub(crate) text: String,
}

/// Why a document cannot be said on IRC at all.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Unsayable {
    #[error("it has no header \"channel\"")]
    NoChannel,
    #[error("its channel {0:?} is neither a channel nor a nick")]
    Target(String),
    #[error("its type {0:?} is none of chat.message, chat.action, chat.notice")]
    Kind(String),
    #[error("its body is not UTF-8 text")]
    NotText,
    #[error("its body is empty")]
    Empty,
}

impl Outgoing {
    pub(crate) fn of(document: &Document) -> Result<Self, Unsayable> {
        let manner = match document.headers.get(key::TYPE).unwrap_or(kind::MESSAGE) {
            kind::MESSAGE => Manner::Message,
            kind::ACTION => Manner::Action,
            kind::NOTICE => Manner::Notice,
            other => return Err(Unsayable::Kind(other.to_owned())),
        };
        let target = document.headers.get(key::CHANNEL).ok_or(Unsayable::NoChannel)?;
        // A comma would address several targets, a space end the parameter, a colon begin the text.
        let bad = |c: char| c.is_whitespace() || c.is_control() || c == ',';
        if target.is_empty() || target.starts_with([':', '$']) || target.contains(bad) || target.len() > 200 {
            return Err(Unsayable::Target(target.to_owned()));
        }
        let text = document.text().ok_or(Unsayable::NotText)?;
        if split(text, usize::MAX).is_empty() {
            return Err(Unsayable::Empty);
        }
        Ok(Self { manner, target: target.to_owned(), text: text.to_owned() })
    }

    /// The lines to send. `mask_bytes` is the length of `nick!user@host`, which the server puts in front when it hands
    /// a line on; the whole has to stay within 512 bytes.
    pub(crate) fn lines(&self, mask_bytes: usize) -> Vec<Line> {
        let (command, before, after) = match self.manner {
            Manner::Message => ("PRIVMSG", "", ""),
            Manner::Action => ("PRIVMSG", "\x01ACTION ", "\x01"),
            Manner::Notice => ("NOTICE", "", ""),
        };
        // ":MASK COMMAND TARGET :TEXT\r\n"
        let around = 1 + mask_bytes + 1 + command.len() + 1 + self.target.len() + 2 + before.len() + after.len() + 2;
        let pieces = split(&self.text, LINE_BYTES_MAX.saturating_sub(around));
        let line = |piece: String| Line::new(command).param(&self.target).trailing(&format!("{before}{piece}{after}"));
        pieces.into_iter().map(line).collect()
    }
}

/// The filter of what this operator is to say.
///
/// # Errors
/// None for a network that has passed the check of the settings.
pub(crate) fn outgoing_filter(network: &str) -> Result<Filter, FilterError> {
    Filter::builder()
        .eq(key::DIRECTION, chat::OUT)
        .eq(key::PLATFORM, PLATFORM)
        .eq(key::NETWORK, network)
        .any_of(key::TYPE, [kind::MESSAGE, kind::ACTION, kind::NOTICE])
        .build()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn parse(line: &str) -> Message {
        line.parse().unwrap()
    }

    fn document(kind: &str, channel: &str, body: &str) -> Document {
        Document::new([("type", kind), ("direction", "out"), ("channel", channel)], body.to_owned()).unwrap()
    }

    #[test]
    fn who_speaks() {
        let host = |line: &str| Speaker::of(&parse(line)).map(|s| (s.nick, s.host.unwrap_or_default()));
        assert_eq!(host(":goos!~g@honk.example PRIVMSG #a :x"), Some(("goos".into(), "~g@honk.example".into())));
        assert_eq!(host(":goos@honk PRIVMSG #a :x"), Some(("goos".into(), "honk".into())));
        assert_eq!(host(":goos PRIVMSG #a :x"), Some(("goos".into(), String::new())));
        assert_eq!(host(":irc.example.net NOTICE * :x"), None);
        assert_eq!(host("PING :x"), None);
    }

    #[test]
    fn tags_become_headers() {
        let line = "@account=goos;msgid=abc;bot;time=2026-01-01T00:00:00.000Z :g!~g@h PRIVMSG #a :x";
        let message = parse(line);
        let speaker = Speaker::of(&message).unwrap();
        let document = event(kind::MESSAGE, "libera", Place::Channel("#a"), &speaker, &message).document("x");
        let headers = document.headers.iter().map(|(k, v)| format!("{k}={v}")).collect::<Vec<_>>().join(" ");
        assert_eq!(
            headers,
            "type=chat.message direction=in platform=irc network=libera channel=#a user=g account=goos user-host=~g@h bot=1 remote-id=abc"
        );
        let message = parse("@account=*;msgid= :g PRIVMSG eevee :x");
        let document =
            event(kind::MESSAGE, "l", Place::Private, &Speaker::of(&message).unwrap(), &message).document("");
        assert_eq!(document.headers.get("private"), Some("1"));
        assert_eq!(document.headers.get("channel"), Some("g"));
        for absent in ["account", "user-host", "bot", "remote-id"] {
            assert_eq!(document.headers.get(absent), None, "{absent}");
        }
    }

    #[test]
    fn ctcp_requests() {
        assert_eq!(ctcp("\x01ACTION waves\x01"), Some(("ACTION", "waves")));
        assert_eq!(ctcp("\x01VERSION\x01"), Some(("VERSION", "")));
        assert_eq!(ctcp("\x01PING 1 2"), Some(("PING", "1 2")));
        assert_eq!(ctcp("\x01"), Some(("", "")));
        assert_eq!(ctcp("x\x01ACTION\x01"), None);
    }

    #[test]
    fn documents_become_lines() {
        let lines = |kind: &str, channel: &str, body: &str| {
            Outgoing::of(&document(kind, channel, body))
                .map(|o| o.lines(30).iter().map(|l| l.as_str().to_owned()).collect::<Vec<_>>())
                .map_err(|e| e.to_string())
        };
        assert_eq!(lines("chat.message", "#a", "hi\nthere").unwrap(), ["PRIVMSG #a :hi", "PRIVMSG #a :there"]);
        assert_eq!(lines("chat.notice", "goos", ":)").unwrap(), ["NOTICE goos ::)"]);
        assert_eq!(
            lines("chat.action", "#a", "waves\nbows").unwrap(),
            ["PRIVMSG #a :\x01ACTION waves\x01", "PRIVMSG #a :\x01ACTION bows\x01"]
        );
        assert_eq!(lines("chat.message", "#a", "\r\nQUIT").unwrap(), ["PRIVMSG #a :QUIT"]);
        assert_eq!(lines("chat.message", "#a", "\x01VERSION\x01").unwrap(), ["PRIVMSG #a :VERSION"]);
        for target in ["", "#a,#b", "#a b", ":x", "$*"] {
            assert!(lines("chat.message", target, "x").unwrap_err().contains("neither"), "{target}");
        }
        assert!(lines("chat.join", "#a", "x").unwrap_err().contains("chat.join"));
        assert_eq!(lines("chat.message", "#a", " \n\r\n").unwrap_err(), "its body is empty");
        let bytes = Document::new([("channel", "#a")], vec![0xff_u8]).unwrap();
        assert_eq!(Outgoing::of(&bytes), Err(Unsayable::NotText));
        assert_eq!(Outgoing::of(&Document::default()), Err(Unsayable::NoChannel));
    }

    #[test]
    fn the_filter_of_what_is_to_be_said() {
        assert_eq!(
            outgoing_filter("li\"b").unwrap().to_string(),
            r#"direction=out,platform=irc,network="li\"b",type in (chat.message,chat.action,chat.notice)"#
        );
    }

    proptest! {
        #[test]
        fn no_line_is_longer_than_512_bytes_when_handed_on(
            text in "\\PC{0,900}",
            mask in 10_usize..150,
            manner in prop::sample::select(vec![Manner::Message, Manner::Action, Manner::Notice]),
            target in "#[a-z]{1,60}",
        ) {
            for line in (Outgoing { manner, target, text }).lines(mask) {
                prop_assert!(line.as_str().len() + mask + 4 <= LINE_BYTES_MAX, "{}", line.as_str().len());
            }
        }

        #[test]
        fn no_input_gives_a_second_line(kind in "chat[.](message|action|notice)", channel in "\\PC{0,20}", body in any::<String>()) {
            if let Ok(outgoing) = Outgoing::of(&document(&kind, &channel, &body)) {
                for line in outgoing.lines(60) {
                    prop_assert!(!line.as_str().contains(['\r', '\n', '\0']));
                    prop_assert!(line.as_str().starts_with("PRIVMSG ") || line.as_str().starts_with("NOTICE "));
                    prop_assert_eq!(line.as_str().split(' ').nth(1), Some(outgoing.target.as_str()));
                }
            }
        }
    }
}
