//! The message: what was published, and what the bus wrote on it.

use std::fmt;
use std::time::{Duration, SystemTime};

use bytes::Bytes;

use crate::header::{HeaderError, Headers};
use crate::source::Source;
use crate::wire::EncodedDocument;

/// What a publisher writes: headers that filters can look at, and a body that the bus never opens.
///
/// That of a [`Message`] is an [`EncodedDocument`], which [`decode`](EncodedDocument::decode) makes one of these.
///
/// ```
/// use libeevee::Document;
/// let document = Document::new([("type", "chat.message"), ("direction", "out")], "hello")?;
/// assert_eq!(document.text(), Some("hello"));
/// # Ok::<(), libeevee::HeaderError>(())
/// ```
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Document {
    /// The headers.
    pub headers: Headers,
    /// The body: bytes, with a `content-type` header where they are not UTF-8 text.
    pub body: Bytes,
}

impl Document {
    /// A document with these headers and this body.
    ///
    /// # Errors
    /// [`HeaderError`] for a header outside the contract. The body is bounded by the bus's frame limit (1 MiB unless
    /// configured), which is checked when it is published.
    pub fn new<H>(headers: H, body: impl Into<Bytes>) -> Result<Self, HeaderError>
    where
        H: TryInto<Headers>,
        HeaderError: From<H::Error>,
    {
        Ok(Self { headers: headers.try_into()?, body: body.into() })
    }

    /// The body as text, where it is UTF-8.
    pub fn text(&self) -> Option<&str> {
        simdutf8::basic::from_utf8(&self.body).ok()
    }

    /// The same with bytes of its own, which keep nothing else in memory.
    pub fn detached(&self) -> Self {
        Self {
            headers: Headers::from_wire(Bytes::copy_from_slice(self.headers.wire_bytes())),
            body: Bytes::copy_from_slice(&self.body),
        }
    }
}

impl From<std::convert::Infallible> for HeaderError {
    fn from(never: std::convert::Infallible) -> Self {
        match never {}
    }
}

/// A time: nanoseconds since the Unix epoch, UTC. Data only; the bus never orders or expires by it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Timestamp(pub u64);

impl Timestamp {
    /// The time now. A clock before 1970 reads as 0.
    pub fn now() -> Self {
        let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        Self(u64::try_from(since.as_nanos()).unwrap_or(u64::MAX))
    }
}

impl fmt::Display for Timestamp {
    /// RFC 3339 in UTC with nine digits, as in the JSON form.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match jiff::Timestamp::from_nanosecond(i128::from(self.0)) {
            Ok(time) => write!(f, "{time:.9}"),
            Err(_) => write!(f, "{}ns", self.0),
        }
    }
}

impl std::str::FromStr for Timestamp {
    type Err = jiff::Error;

    fn from_str(text: &str) -> Result<Self, jiff::Error> {
        let nanos = text.parse::<jiff::Timestamp>()?.as_nanosecond();
        Ok(Self(u64::try_from(nanos.max(0)).unwrap_or(u64::MAX)))
    }
}

/// A message as a subscriber receives it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Message {
    /// Increasing over the whole life of the bus, not contiguous, below 2^53.
    pub id: u64,
    /// Who published it: an operator id, `user/NAME` or `eeveed`; proved, never claimed.
    pub source: Source,
    /// When the bus took it.
    pub timestamp: Timestamp,
    /// The id of the message that this one answers.
    pub cause: Option<u64>,
    /// How many answers deep a chain is; the bus refuses more than 16.
    pub hops: u8,
    /// What was published, byte for byte.
    pub document: EncodedDocument,
    /// The address of a request, to be handed back with the reply; see the Reply frame.
    pub reply_address: Option<u64>,
    /// What is true of this delivery only.
    pub delivery: Delivery,
}

/// What is true of one delivery of a message, not of the message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Delivery {
    /// 1 for the first; more where a durable subscription delivers again. After a crash of the bus it may be too high,
    /// never too low.
    pub attempt: u32,
    /// How long it waited in a queue because its subscriber was away or halted.
    pub waited: Duration,
    /// The number of the durable subscription that waits for its acknowledgement; 0 for a live one.
    pub(crate) subscription: u32,
}

impl Delivery {
    /// That of a live subscription, which nobody acknowledges.
    pub const fn new(attempt: u32, waited: Duration) -> Self {
        Self { attempt, waited, subscription: 0 }
    }

    /// Whether a durable subscription delivered it, and waits for the acknowledgement.
    pub const fn is_durable(&self) -> bool {
        self.subscription != 0
    }
}

impl Default for Delivery {
    fn default() -> Self {
        Self::new(1, Duration::ZERO)
    }
}

impl Message {
    /// The value of a header.
    pub fn header(&self, key: &str) -> Option<&str> {
        self.document.header(key)
    }

    /// The body as text, where it is UTF-8.
    pub fn text(&self) -> Option<&str> {
        self.document.text()
    }
}

/// Messages that a subscription lost, told to it at the place where they would have been.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Gap {
    /// The id of the first message lost.
    pub first: u64,
    /// The id of the last one.
    pub last: u64,
    /// How many that matched and were permitted were lost; `None` where nobody can know.
    pub count: Option<u64>,
    /// Why.
    pub reason: GapReason,
}

/// Why messages were lost.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum GapReason {
    /// The queue was full and its policy dropped messages.
    QueueFull = 1,
    /// They waited longer than the subscription's `max-age`.
    Expired = 2,
    /// The bus stopped without warning; what a live subscription missed is unknown.
    BusCrash = 3,
    /// The connection to the bus was lost and made again; what passed meanwhile is unknown.
    Disconnected = 4,
    /// The memory of the whole daemon was used up.
    Memory = 5,
    /// They were moved to the dead letters.
    DeadLetter = 6,
    /// The store of durable messages was damaged, and they could not be read.
    Damaged = 7,
}

impl GapReason {
    /// The word used in JSON and logs.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::QueueFull => "queue-full",
            Self::Expired => "expired",
            Self::BusCrash => "bus-crash",
            Self::Disconnected => "disconnected",
            Self::Memory => "memory",
            Self::DeadLetter => "dead-letter",
            Self::Damaged => "damaged",
        }
    }

    /// From its number on the wire.
    pub const fn from_code(code: u8) -> Option<Self> {
        Some(match code {
            1 => Self::QueueFull,
            2 => Self::Expired,
            3 => Self::BusCrash,
            4 => Self::Disconnected,
            5 => Self::Memory,
            6 => Self::DeadLetter,
            7 => Self::Damaged,
            _ => return None,
        })
    }
}

impl fmt::Display for GapReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn timestamps_print_and_parse() {
        let time: Timestamp = "2026-11-22T15:00:00.123456789Z".parse().unwrap();
        assert_eq!(time.to_string(), "2026-11-22T15:00:00.123456789Z");
        assert_eq!(Timestamp(1_000_000_000).to_string(), "1970-01-01T00:00:01.000000000Z");
        assert!("yesterday".parse::<Timestamp>().is_err());
        let _ = Timestamp(u64::MAX).to_string();
    }
}
