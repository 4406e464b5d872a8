//! What a program on JSON lines may say.

use bytes::Bytes;
use serde::ser::{Serialize, SerializeMap, Serializer};

use super::document::{HeaderMap, body, deserialize_headers, serialize_body};
use super::{LineError, object, present, present_object, write};
use crate::header::Headers;
use crate::message::Document;

/// A line from a program: one thing that it says or asks for.
///
/// ```
/// use libeevee::json::ProgramLine;
/// assert_eq!(
///     ProgramLine::parse(1, br#"{"reply":4711,"body":"hello"}"#),
///     Ok(ProgramLine::Reply { to: 4711, body: "hello".into() })
/// );
/// let error = ProgramLine::parse(7, br#"{"reply":4711,"text":"hello"}"#).unwrap_err();
/// assert!(error.to_string().starts_with("line 7, column 20: unknown key `text`"));
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ProgramLine {
    /// `{"publish":{"headers":{...},"body":"..."}}`; both keys may be absent.
    Publish(Document),
    /// `{"reply":4711,"body":"..."}`
    Reply {
        /// The id of the message that it answers.
        to: u64,
        /// The answer.
        body: Bytes,
    },
    /// `{"ack":4711}`
    Ack(u64),
    /// `{"nack":4711,"reason":"..."}`; the reason may be absent.
    Nack {
        /// The id of the message that was not done.
        id: u64,
        /// Why.
        reason: Option<String>,
    },
    /// `{"log":"...","level":4}`; the level may be absent, and is 6 then.
    Log {
        /// What to log.
        text: String,
        /// 0 to 7, syslog's scale.
        level: u8,
    },
    /// `{"status":"..."}`
    Status(String),
    /// `{"ready":true}`
    Ready,
    /// `{"pong":7}`
    Pong(u64),
    /// `{"accept":true}`: the settings are accepted.
    Accept,
    /// `{"refuse":"why"}`: the settings are refused.
    Refuse(String),
}

/// The level of a log line that names none: informational.
const LEVEL: u8 = 6;

/// Every key that can stand in a line, whatever it says.
#[derive(serde::Deserialize)]
#[serde(deny_unknown_fields)]
struct RawLine {
    #[serde(default, deserialize_with = "present_object")]
    publish: Option<RawDocument>,
    #[serde(default, deserialize_with = "present")]
    reply: Option<u64>,
    #[serde(default, deserialize_with = "present")]
    ack: Option<u64>,
    #[serde(default, deserialize_with = "present")]
    nack: Option<u64>,
    #[serde(default, deserialize_with = "present")]
    log: Option<String>,
    #[serde(default, deserialize_with = "present")]
    status: Option<String>,
    #[serde(default, deserialize_with = "present")]
    ready: Option<bool>,
    #[serde(default, deserialize_with = "present")]
    pong: Option<u64>,
    #[serde(default, deserialize_with = "present")]
    accept: Option<bool>,
    #[serde(default, deserialize_with = "present")]
    refuse: Option<String>,
    #[serde(default, deserialize_with = "present")]
    body: Option<String>,
    #[serde(default, deserialize_with = "present")]
    body_base64: Option<String>,
    #[serde(default, deserialize_with = "present")]
    reason: Option<String>,
    #[serde(default, deserialize_with = "present")]
    level: Option<u8>,
}

#[derive(serde::Deserialize)]
#[serde(deny_unknown_fields)]
struct RawDocument {
    #[serde(default, deserialize_with = "deserialize_headers")]
    headers: Option<Headers>,
    #[serde(default, deserialize_with = "present")]
    body: Option<String>,
    #[serde(default, deserialize_with = "present")]
    body_base64: Option<String>,
}

impl ProgramLine {
    /// Reads one line, with or without the line feed at its end; `number` is the line's, for the error.
    ///
    /// # Errors
    /// [`LineError`] where it is not one JSON object that says one of these things, with its keys and no others.
    pub fn parse(number: u64, text: &[u8]) -> Result<Self, LineError> {
        let raw: RawLine = object(number, text)?;
        raw.check().map_err(|wrong| LineError::new(number, None, wrong))
    }

    /// The line for it, as a program would write it.
    pub fn to_line(&self) -> String {
        write::line(self)
    }
}

impl RawLine {
    fn check(mut self) -> Result<ProgramLine, String> {
        let verbs: Vec<&'static str> = [
            ("publish", self.publish.is_some()),
            ("reply", self.reply.is_some()),
            ("ack", self.ack.is_some()),
            ("nack", self.nack.is_some()),
            ("log", self.log.is_some()),
            ("status", self.status.is_some()),
            ("ready", self.ready.is_some()),
            ("pong", self.pong.is_some()),
            ("accept", self.accept.is_some()),
            ("refuse", self.refuse.is_some()),
        ]
        .into_iter()
        .filter_map(|(verb, there)| there.then_some(verb))
        .collect();
        let verb = match verbs[..] {
            [verb] => verb,
            [] => {
                return Err("a line has one of the keys publish, reply, ack, nack, log, status, ready, pong, accept, \
                            refuse; this one has none"
                    .into());
            }
            [one, two, ..] => return Err(format!("keys `{one}` and `{two}` stand in one line; write two lines")),
        };
        let details = [
            ("body", self.body.is_some(), "reply"),
            ("body_base64", self.body_base64.is_some(), "reply"),
            ("reason", self.reason.is_some(), "nack"),
            ("level", self.level.is_some(), "log"),
        ];
        if let Some((detail, _, owner)) = details.into_iter().find(|(_, there, owner)| *there && *owner != verb) {
            return Err(format!("key `{detail}` belongs to `{owner}`, and this line says `{verb}`"));
        }
        self.take()
    }

    fn take(&mut self) -> Result<ProgramLine, String> {
        if let Some(document) = self.publish.take() {
            let headers = document.headers.unwrap_or_default();
            let body = body(document.body, document.body_base64)?.unwrap_or_default();
            return Ok(ProgramLine::Publish(Document { headers, body }));
        }
        if let Some(to) = self.reply {
            let body = body(self.body.take(), self.body_base64.take())?;
            let body = body.ok_or("a reply has the key `body` or `body_base64`")?;
            return Ok(ProgramLine::Reply { to, body });
        }
        if let Some(text) = self.log.take() {
            let level = self.level.unwrap_or(LEVEL);
            return match level {
                0..=7 => Ok(ProgramLine::Log { text, level }),
                _ => Err(format!("level {level} is not one of 0 (emergency) to 7 (debug)")),
            };
        }
        Ok(match self {
            Self { ack: Some(id), .. } => ProgramLine::Ack(*id),
            Self { nack: Some(id), reason, .. } => ProgramLine::Nack { id: *id, reason: reason.take() },
            Self { status: Some(text), .. } => ProgramLine::Status(std::mem::take(text)),
            Self { ready: Some(true), .. } => ProgramLine::Ready,
            Self { pong: Some(value), .. } => ProgramLine::Pong(*value),
            Self { accept: Some(true), .. } => ProgramLine::Accept,
            Self { refuse: Some(why), .. } => ProgramLine::Refuse(std::mem::take(why)),
            Self { ready: Some(false), .. } => return Err("`ready` can only be true".into()),
            _ => return Err("`accept` can only be true; otherwise write {\"refuse\":\"why\"}".into()),
        })
    }
}

impl Serialize for ProgramLine {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(None)?;
        match self {
            Self::Publish(document) => map.serialize_entry("publish", &DocumentObject(document))?,
            Self::Reply { to, body } => {
                map.serialize_entry("reply", to)?;
                serialize_body(&mut map, body)?;
            }
            Self::Ack(id) => map.serialize_entry("ack", id)?,
            Self::Nack { id, reason } => {
                map.serialize_entry("nack", id)?;
                if let Some(reason) = reason {
                    map.serialize_entry("reason", reason)?;
                }
            }
            Self::Log { text, level } => {
                map.serialize_entry("log", text)?;
                map.serialize_entry("level", level)?;
            }
            Self::Status(text) => map.serialize_entry("status", text)?,
            Self::Ready => map.serialize_entry("ready", &true)?,
            Self::Pong(value) => map.serialize_entry("pong", value)?,
            Self::Accept => map.serialize_entry("accept", &true)?,
            Self::Refuse(why) => map.serialize_entry("refuse", why)?,
        }
        map.end()
    }
}

struct DocumentObject<'d>(&'d Document);

impl Serialize for DocumentObject<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(None)?;
        map.serialize_entry("headers", &HeaderMap(&self.0.headers))?;
        serialize_body(&mut map, &self.0.body)?;
        map.end()
    }
}
