//! Writes lines. Keys stand in the order of the contract, headers in the order of their publisher.

use std::io;

use serde::ser::{Serialize, SerializeMap, Serializer};
use serde_json::ser::Formatter;

use super::document::{HeaderMap, serialize_body};
use crate::escape::is_hazardous;
use crate::message::{Gap, Message};

/// The line of a message.
///
/// `attempt` stands in it from the second delivery on, and `waited_ms` when it waited a millisecond or more.
///
/// ```
/// use libeevee::json::{Line, parse_line, to_line};
/// let text = r##"{"id":4711,"source":"irc","timestamp":"2026-11-22T15:00:00.123456789Z","hops":0,"cause":null,"headers":{"type":"chat.message","channel":"#general"},"body":"hello"}"##;
/// let Line::Message(message) = parse_line(1, text.as_bytes())? else { panic!("a message") };
/// assert_eq!(to_line(&message), text);
/// # Ok::<(), libeevee::json::LineError>(())
/// ```
pub fn to_line(message: &Message) -> String {
    line(&MessageLine(message))
}

/// The line of a gap.
///
/// ```
/// use libeevee::{Gap, GapReason, json::gap_line};
/// let gap = Gap { first: 4712, last: 4790, count: Some(31), reason: GapReason::QueueFull };
/// assert_eq!(gap_line(&gap), r#"{"gap":{"first":4712,"last":4790,"count":31,"reason":"queue-full"}}"#);
/// ```
pub fn gap_line(gap: &Gap) -> String {
    #[derive(serde::Serialize)]
    struct Fields {
        first: u64,
        last: u64,
        count: Option<u64>,
        reason: &'static str,
    }
    let Gap { first, last, count, reason } = *gap;
    line(&Pair("gap", Fields { first, last, count, reason: reason.as_str() }))
}

/// What a program is told to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ProgramControl {
    /// Take no more work.
    Halt,
    /// Take work again.
    Resume,
    /// Finish what is in hand, and exit.
    Stop,
}

impl ProgramControl {
    /// The word in the line.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Halt => "halt",
            Self::Resume => "resume",
            Self::Stop => "stop",
        }
    }
}

/// The line that tells a program to halt, resume or stop: `{"control":"halt"}`.
pub fn control_line(control: ProgramControl) -> String {
    line(&Pair("control", control.as_str()))
}

/// The line that gives a program its settings: `{"settings":{...}}`.
pub fn settings_line(settings: &serde_json::Value) -> String {
    line(&Pair("settings", settings))
}

/// The line that asks whether a program is alive: `{"ping":7}`, to be answered by `{"pong":7}`.
pub fn ping_line(value: u64) -> String {
    line(&Pair("ping", value))
}

struct MessageLine<'m>(&'m Message);

impl Serialize for MessageLine<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let Message { id, source, timestamp, cause, hops, document, reply_address: _, delivery } = self.0;
        let mut map = serializer.serialize_map(None)?;
        map.serialize_entry("id", id)?;
        map.serialize_entry("source", source.as_str())?;
        map.serialize_entry("timestamp", &format_args!("{timestamp}"))?;
        map.serialize_entry("hops", hops)?;
        map.serialize_entry("cause", cause)?;
        let document = document.decode();
        map.serialize_entry("headers", &HeaderMap(&document.headers))?;
        serialize_body(&mut map, &document.body)?;
        if delivery.attempt > 1 {
            map.serialize_entry("attempt", &delivery.attempt)?;
        }
        let waited_ms = u64::try_from(delivery.waited.as_millis()).unwrap_or(u64::MAX);
        if waited_ms > 0 {
            map.serialize_entry("waited_ms", &waited_ms)?;
        }
        map.end()
    }
}

/// An object of one key.
pub(super) struct Pair<T>(pub(super) &'static str, pub(super) T);

impl<T: Serialize> Serialize for Pair<T> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_map([(self.0, &self.1)])
    }
}

pub(super) fn line(value: &impl Serialize) -> String {
    let mut bytes = Vec::with_capacity(256);
    let mut serializer = serde_json::Serializer::with_formatter(&mut bytes, Safe);
    value.serialize(&mut serializer).expect("all keys are strings, and a Vec takes every write");
    String::from_utf8(bytes).expect("serde_json writes UTF-8")
}

/// Writes characters that a terminal would obey or hide as `\u` escapes; serde_json itself escapes only C0.
struct Safe;

impl Formatter for Safe {
    fn write_string_fragment<W: ?Sized + io::Write>(&mut self, writer: &mut W, fragment: &str) -> io::Result<()> {
        let mut rest = fragment;
        while let Some(at) = rest.find(is_hazardous) {
            let (before, from) = rest.split_at(at);
            writer.write_all(before.as_bytes())?;
            let mut characters = from.chars();
            for unit in characters.by_ref().take(1).flat_map(|c| c.encode_utf16(&mut [0; 2]).to_vec()) {
                write!(writer, "\\u{unit:04x}")?;
            }
            rest = characters.as_str();
        }
        writer.write_all(rest.as_bytes())
    }
}
