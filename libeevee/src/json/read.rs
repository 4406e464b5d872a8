//! Reads the lines that `write` makes, and ones like them written by hand: for replay.

use std::time::Duration;

use serde::Deserialize;

use super::document::{body, deserialize_headers};
use super::{LineError, object, present, present_object};
use crate::header::Headers;
use crate::message::{Delivery, Document, Gap, GapReason, Message, Timestamp};

/// What stands in a recorded line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Line {
    /// A message. What only the bus can know (`id`, `source`, `timestamp`, `hops`, `cause`) is kept for who wants it; to
    /// publish the document again gives it new ones.
    Message(Message),
    /// Messages that the recorder lost.
    Gap(Gap),
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawLine {
    id: Option<u64>,
    source: Option<String>,
    timestamp: Option<String>,
    hops: Option<u8>,
    cause: Option<u64>,
    #[serde(default, deserialize_with = "deserialize_headers")]
    headers: Option<Headers>,
    #[serde(default, deserialize_with = "present")]
    body: Option<String>,
    #[serde(default, deserialize_with = "present")]
    body_base64: Option<String>,
    attempt: Option<u32>,
    waited_ms: Option<u64>,
    #[serde(default, deserialize_with = "present_object")]
    gap: Option<RawGap>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawGap {
    first: u64,
    last: u64,
    count: Option<u64>,
    reason: String,
}

/// Reads the line of a message or of a gap; `number` is the line's, for the error.
///
/// Only `headers` must be there, so that a line can be written by hand: id, timestamp and hops are then 0, and source
/// is empty.
///
/// # Errors
/// [`LineError`] where the line is not one JSON object, has an unknown key, a key twice, or a value outside the contract.
pub fn parse_line(number: u64, text: &[u8]) -> Result<Line, LineError> {
    let raw: RawLine = object(number, text)?;
    line(raw).map_err(|wrong| LineError::new(number, None, wrong))
}

fn line(raw: RawLine) -> Result<Line, String> {
    let RawLine { id, source, timestamp, hops, cause, headers, attempt, waited_ms, gap, .. } = raw;
    let body = body(raw.body, raw.body_base64)?;
    if let Some(gap) = gap {
        let others = [
            ("id", id.is_some()),
            ("source", source.is_some()),
            ("timestamp", timestamp.is_some()),
            ("hops", hops.is_some()),
            ("cause", cause.is_some()),
            ("headers", headers.is_some()),
            ("body", body.is_some()),
            ("attempt", attempt.is_some()),
            ("waited_ms", waited_ms.is_some()),
        ];
        return match others.iter().find(|(_, there)| *there) {
            Some((key, _)) => Err(format!("key `{key}` does not belong to a gap")),
            None => gap.check().map(Line::Gap),
        };
    }
    let headers = headers.ok_or("a message has the key `headers`")?;
    let timestamp = match timestamp {
        Some(text) => text.parse().map_err(|error| format!("timestamp {text:?} is not RFC 3339: {error}"))?,
        None => Timestamp::default(),
    };
    if attempt == Some(0) {
        return Err("attempt 0: the first delivery is attempt 1".into());
    }
    Ok(Line::Message(Message {
        id: id.unwrap_or_default(),
        source: source.unwrap_or_default().into(),
        timestamp,
        cause,
        hops: hops.unwrap_or_default(),
        document: Document { headers, body: body.unwrap_or_default() }.into(),
        reply_address: None,
        delivery: Delivery::new(attempt.unwrap_or(1), Duration::from_millis(waited_ms.unwrap_or_default())),
    }))
}

impl RawGap {
    fn check(self) -> Result<Gap, String> {
        let Self { first, last, count, reason } = self;
        if first > last {
            return Err(format!("a gap from {first} to {last}: `first` is above `last`"));
        }
        let known = || (0..=u8::MAX).filter_map(GapReason::from_code);
        match known().find(|known| known.as_str() == reason) {
            Some(reason) => Ok(Gap { first, last, count, reason }),
            None => {
                let words: Vec<_> = known().map(GapReason::as_str).collect();
                Err(format!("gap reason {reason:?} is none of {}", words.join(", ")))
            }
        }
    }
}
