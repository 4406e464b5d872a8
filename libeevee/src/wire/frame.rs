//! What each kind of frame carries. The bytes are in docs/PROTOCOL.md; a field is never reordered or shortened, and new
//! fields come as a tail.

use serde::{Deserialize, Serialize};

use super::{EncodedDocument, bounded};

/// What a peer wants to be. Numbers of [`Hello::role`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Role {
    /// Holds an operator id; proves it by a token.
    Operator = 1,
    /// Shows an operator's token, gets kind and module file in Welcome, and holds nothing.
    Launcher = 2,
    /// A person's tool; known by its uid.
    Tool = 3,
    /// Has the uid of a live operator, and may ask for the reload of that operator.
    ReloadHelper = 4,
}

impl Role {
    /// From its number on the wire.
    pub const fn from_number(number: u8) -> Option<Self> {
        Some(match number {
            1 => Self::Operator,
            2 => Self::Launcher,
            3 => Self::Tool,
            4 => Self::ReloadHelper,
            _ => return None,
        })
    }
}

/// The first frame of a connection. Its layout is frozen for ever.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hello {
    /// The lowest protocol version that the client speaks.
    pub version_min: u16,
    /// The highest one.
    pub version_max: u16,
    /// A number of [`Role`].
    pub role: u8,
    /// The operator id that the peer means to be; proved by `token`, except on a development bus.
    #[serde(deserialize_with = "bounded::optional_text")]
    pub id: Option<String>,
    /// The token of PID 1's credential; empty without one.
    #[serde(deserialize_with = "bounded::text")]
    pub token: String,
    /// A random number, the same for all connections of one process: a process that reconnects replaces itself.
    pub instance: u64,
    /// Name and version of the program, for logs.
    #[serde(deserialize_with = "bounded::text")]
    pub program: String,
    /// What the client can do beyond its version.
    #[serde(deserialize_with = "bounded::texts")]
    pub capabilities: Vec<String>,
}

/// The bus's answer to Hello.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Welcome {
    /// The version that both will speak.
    pub version: u16,
    /// Who the peer is: the `source` of all that it publishes. Empty for a launcher.
    #[serde(deserialize_with = "bounded::text")]
    pub identity: String,
    /// The number of this session, for logs.
    pub session: u64,
    /// A random number, new with every start of the bus.
    pub boot: u64,
    /// The id of the last message that the bus took.
    pub last_id: u64,
    /// The largest frame that the bus takes, in bytes after the length field.
    pub frame_bytes_max: u32,
    /// How many messages may be published before more is granted.
    pub credit_messages: u64,
    /// How many bytes of documents may be published before more is granted.
    pub credit_bytes: u64,
    /// Whether this operator is halted.
    pub halted: bool,
    /// The operator's module file; none for tools, and for an operator on a development bus without one.
    pub module: Option<Module>,
    /// What the bus can do beyond its version.
    #[serde(deserialize_with = "bounded::texts")]
    pub capabilities: Vec<String>,
}

/// A module file as the bus read it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Module {
    /// The kind: the program's name.
    #[serde(deserialize_with = "bounded::text")]
    pub kind: String,
    /// Where the file is, for messages.
    #[serde(deserialize_with = "bounded::text")]
    pub path: String,
    /// The whole file.
    #[serde(deserialize_with = "bounded::text")]
    pub text: String,
}

/// Why something was refused.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Refusal {
    /// A number of [`super::Code`].
    pub code: u16,
    /// What happened, to whom, and what to do next; a sentence for a person. A diagnosis may have many lines.
    #[serde(deserialize_with = "bounded::text")]
    pub text: String,
    /// The limit that was passed, where one was.
    pub limit: Option<u64>,
    /// The value that passed it.
    pub value: Option<u64>,
    /// The rule that refused it, where one did: a filter of `may-publish`.
    #[serde(deserialize_with = "bounded::optional_text")]
    pub rule: Option<String>,
}

/// A message on its way to the bus. There is no field to claim a source or a time.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Publish {
    /// The id of the message that this one answers.
    pub cause: Option<u64>,
    /// How deep the publisher knows the chain to be.
    pub hops: u8,
    /// With `sequence`, what a retry is recognised by; 0 and 0 where it need not be.
    pub epoch: u64,
    /// Increasing within an epoch.
    pub sequence: u64,
    /// The document.
    pub document: EncodedDocument,
}

/// The answer to a Publish with flag [`super::CONFIRM`]: it is on disk for every durable subscription that matched. With flag
/// [`super::REPEATED`] the bus had it already.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Published {
    /// The id that the message got; 0 for a repetition whose first id is not known any more.
    pub id: u64,
    /// How many live subscriptions matched and were permitted.
    pub live: u32,
    /// How many durable ones.
    pub durable: u32,
}

/// Opens a subscription; the frame's number is the subscription's, chosen by the client and new in its session.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Subscribe {
    /// A message matches when any of these does.
    #[serde(deserialize_with = "bounded::texts")]
    pub filters: Vec<String>,
    /// A number of [`Overflow`], or 0 for the default.
    pub overflow: u8,
    /// How many messages may wait; 0 for the default.
    pub queue_messages: u32,
    /// How many bytes may wait; 0 for the default.
    pub queue_bytes: u64,
    /// What waited longer is told as a gap; milliseconds, 0 for no limit.
    pub max_age_ms: u64,
    /// How many messages may be delivered before more is granted.
    pub window_messages: u64,
    /// How many bytes.
    pub window_bytes: u64,
    /// The name of a durable subscription.
    #[serde(deserialize_with = "bounded::optional_text")]
    pub durable: Option<String>,
}

/// What happens when a queue is full. Numbers of [`Subscribe::overflow`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[repr(u8)]
pub enum Overflow {
    /// The oldest messages make room.
    #[default]
    DropOldest = 1,
    /// The new message is dropped.
    DropNewest = 2,
    /// The session ends. Never while the subscription is halted, nor for a durable one.
    Disconnect = 3,
    /// The publisher is refused with error `full`. For durable subscriptions alone; for these, what the other policies
    /// drop becomes a dead letter.
    Reject = 4,
}

impl Overflow {
    /// From its number on the wire.
    pub const fn from_number(number: u8) -> Option<Self> {
        Some(match number {
            1 => Self::DropOldest,
            2 => Self::DropNewest,
            3 => Self::Disconnect,
            4 => Self::Reject,
            _ => return None,
        })
    }
}

/// A message on its way to a subscription, whose number the frame has.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Deliver {
    /// The message's id.
    pub id: u64,
    /// Who published it.
    pub source: String,
    /// When the bus took it, in nanoseconds since the Unix epoch.
    pub timestamp: u64,
    /// The id of the message that this one answers.
    pub cause: Option<u64>,
    /// How deep the chain is.
    pub hops: u8,
    /// Where a Reply to this request goes.
    pub reply_address: Option<u64>,
    /// 1 for the first delivery.
    pub attempt: u32,
    /// How long it waited because the subscriber was away or halted, in milliseconds.
    pub waited_ms: u64,
    /// The document, byte for byte as it was published.
    pub document: EncodedDocument,
}

/// Messages that a subscription lost, at the place where they would have been.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct GapNotice {
    /// The id of the first one lost.
    pub first: u64,
    /// The id of the last one.
    pub last: u64,
    /// How many; none where nobody can know.
    pub count: Option<u64>,
    /// A number of [`crate::GapReason`].
    pub reason: u8,
}

/// More that may be sent. From the bus with number 0: publish credit. From a client with a subscription's number: its
/// delivery window.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Grant {
    /// So many messages more.
    pub messages: u64,
    /// So many bytes of documents more.
    pub bytes: u64,
}

/// A delivery of a durable subscription was dealt with: it will not come again. A second one for the same message is
/// refused, and changes nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ack {
    /// The message's id.
    pub id: u64,
}

/// A delivery of a durable subscription was not dealt with.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Nack {
    /// The message's id.
    pub id: u64,
    /// Whether it shall never come again, and become a dead letter at once.
    pub dead: bool,
    /// How long until it comes again, in milliseconds; 0 for a delay that the bus chooses and that grows by attempts.
    pub delay_ms: u64,
    /// Why, for a person who looks at the dead letters; at most 1 KiB is kept.
    #[serde(deserialize_with = "bounded::text")]
    pub reason: String,
}

/// A message that wants one answer; it is routed like a Publish, and its answer comes as Response.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Request {
    /// After so many milliseconds the bus answers with error deadline.
    pub deadline_ms: u64,
    /// The id of the message that this one answers.
    pub cause: Option<u64>,
    /// How deep the requester knows the chain to be.
    pub hops: u8,
    /// The document.
    pub document: EncodedDocument,
}

/// The answer to a request that was delivered with a reply address.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reply {
    /// The address from the delivery.
    pub address: u64,
    /// The answer.
    pub document: EncodedDocument,
}

/// A Reply on its way to the requester, whose request's number the frame has.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Response {
    /// Who answered.
    pub source: String,
    /// When the bus took it.
    pub timestamp: u64,
    /// The answer.
    pub document: EncodedDocument,
}

/// What an operator says of itself; the bus shows it in status and publishes it as `operator.state`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct State {
    /// A number of [`OperatorState`].
    pub state: u8,
    /// One line for a person.
    #[serde(deserialize_with = "bounded::text")]
    pub status: String,
}

/// Where an operator is in its life. Numbers of [`State::state`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[repr(u8)]
pub enum OperatorState {
    /// Connected, and its work has not begun.
    Starting = 1,
    /// At work.
    Ready = 2,
    /// Halted, with nothing left in hand.
    Halted = 3,
    /// On its way out.
    Stopping = 4,
}

impl OperatorState {
    /// From its number on the wire.
    pub const fn from_number(number: u8) -> Option<Self> {
        Some(match number {
            1 => Self::Starting,
            2 => Self::Ready,
            3 => Self::Halted,
            4 => Self::Stopping,
            _ => return None,
        })
    }

    /// The word shown to people.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Starting => "starting",
            Self::Ready => "ready",
            Self::Halted => "halted",
            Self::Stopping => "stopping",
        }
    }
}

/// A log record of an operator, for the bus to publish as `type=log.record`. Nothing else can come of it: the bus writes the
/// headers. Never answered, so that a refusal is no reason for another one.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Record {
    /// 0 to 7, syslog's scale.
    pub level: u8,
    /// The id of the message that it is about.
    pub cause: Option<u64>,
    /// How deep the operator knows the chain of that message to be.
    pub hops: u8,
    /// How many records before it were left out.
    pub lost: u64,
    /// The part of the program that logs, such as `irc::connection`.
    #[serde(deserialize_with = "bounded::text")]
    pub target: String,
    /// What it says, at most [`super::limits::RECORD_BYTES_MAX`] bytes.
    #[serde(deserialize_with = "bounded::text")]
    pub text: String,
}

/// What an operator thinks of the module file in a Reload with the same number.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Verdict {
    /// Whether it could take it.
    pub accepted: bool,
    /// The diagnosis where it could not, with file, line and column; else a word on what will change, or nothing.
    #[serde(deserialize_with = "bounded::text")]
    pub text: String,
}

/// A verb for the bus itself; what may be asked depends on who asks.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Control {
    /// `status`, `halt`, `resume`, `reload`, `reload-bus`, ...: the list is in docs/PROTOCOL.md.
    #[serde(deserialize_with = "bounded::text")]
    pub verb: String,
    /// The operator it is about; empty where it is about the bus.
    #[serde(deserialize_with = "bounded::text")]
    pub id: String,
    /// A JSON object with what else the verb needs; empty for none.
    #[serde(deserialize_with = "bounded::text")]
    pub argument: String,
}

/// Text alone: the JSON of an Answer, the reason of a Bye, the name of a Claim.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Text {
    /// The text.
    #[serde(deserialize_with = "bounded::text")]
    pub text: String,
}

/// A number that comes back as it was, in Ping and Pong.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Value {
    /// The number.
    pub value: u64,
}

/// A flag alone, in Halted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Flag {
    /// The flag.
    pub on: bool,
}
