//! The table of kinds: which number stands for which content, and how each body is written and read.

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use super::frame::{
    Ack, Control, Deliver, Flag, GapNotice, Grant, Hello, Module, Nack, Publish, Published, Record, Refusal, Reply,
    Request, Response, State, Subscribe, Text, Value, Verdict, Welcome,
};
use super::limits::{DECODE_MEMORY_FACTOR, FRAME_BYTES_CEILING};
use super::read::{Reader, put_bytes, put_option, put_varint};
use super::{EncodedDocument, Envelope, TAIL, WireError};

/// What a frame carries; the variants are its kinds.
#[derive(Debug, Clone, PartialEq, Eq)]
#[allow(missing_docs)] // Each content type has its own documentation, and docs/PROTOCOL.md the exchange.
pub enum Content {
    Hello(Hello),
    Welcome(Welcome),
    Error(Refusal),
    /// The request of this number was carried out.
    Ok,
    Ping(Value),
    Pong(Value),
    /// The sender is about to close, and why.
    Bye(Text),
    Publish(Publish),
    Published(Published),
    Subscribe(Subscribe),
    /// Ends the subscription with this number.
    Unsubscribe,
    Deliver(Deliver),
    Gap(GapNotice),
    Grant(Grant),
    /// A delivery of a durable subscription, whose number the frame has, was dealt with.
    Ack(Ack),
    /// It was not.
    Nack(Nack),
    Request(Request),
    Reply(Reply),
    Response(Response),
    /// Claims a name (`platform/network`) for this operator alone.
    Claim(Text),
    /// Gives a claimed name back.
    Unclaim(Text),
    State(State),
    /// A new module file to check and prepare; the bus waits for the Verdict.
    Reload(Module),
    Verdict(Verdict),
    /// Take what was prepared for the Reload with this number.
    Commit,
    /// Forget what was prepared for the Reload with this number; why.
    Abort(Text),
    /// The halted flag of this operator was set or cleared.
    Halted(Flag),
    Control(Control),
    /// The JSON that answers a Control.
    Answer(Text),
    Record(Record),
    /// What commands this operator answers, as JSON.
    Commands(Text),
}

impl Content {
    /// The kind's number on the wire.
    pub const fn kind(&self) -> u16 {
        match self {
            Self::Hello(_) => 1,
            Self::Welcome(_) => 2,
            Self::Error(_) => 3,
            Self::Ok => 4,
            Self::Ping(_) => 5,
            Self::Pong(_) => 6,
            Self::Bye(_) => 7,
            Self::Publish(_) => 16,
            Self::Published(_) => 17,
            Self::Subscribe(_) => 18,
            Self::Unsubscribe => 19,
            Self::Deliver(_) => DELIVER,
            Self::Gap(_) => 21,
            Self::Grant(_) => 22,
            Self::Ack(_) => 23,
            Self::Nack(_) => 24,
            Self::Request(_) => 25,
            Self::Reply(_) => 26,
            Self::Response(_) => 27,
            Self::Claim(_) => 32,
            Self::Unclaim(_) => 33,
            Self::State(_) => 34,
            Self::Reload(_) => 35,
            Self::Verdict(_) => 36,
            Self::Commit => 37,
            Self::Abort(_) => 38,
            Self::Halted(_) => 39,
            Self::Control(_) => 40,
            Self::Answer(_) => 41,
            Self::Record(_) => 42,
            Self::Commands(_) => 43,
        }
    }

    pub(super) fn encode_body(&self, out: &mut Vec<u8>) {
        match self {
            Self::Ok | Self::Unsubscribe | Self::Commit => {}
            Self::Hello(body) => put(out, body),
            Self::Welcome(body) => put(out, body),
            Self::Error(body) => put(out, body),
            Self::Ping(body) | Self::Pong(body) => put(out, body),
            Self::Bye(body)
            | Self::Claim(body)
            | Self::Unclaim(body)
            | Self::Abort(body)
            | Self::Answer(body)
            | Self::Commands(body) => put(out, body),
            Self::Published(body) => put(out, body),
            Self::Subscribe(body) => put(out, body),
            Self::Gap(body) => put(out, body),
            Self::Grant(body) => put(out, body),
            Self::Ack(body) => put(out, body),
            Self::Nack(body) => put(out, body),
            Self::State(body) => put(out, body),
            Self::Reload(body) => put(out, body),
            Self::Verdict(body) => put(out, body),
            Self::Halted(body) => put(out, body),
            Self::Control(body) => put(out, body),
            Self::Record(body) => put(out, body),
            Self::Publish(body) => {
                put_option(out, body.cause);
                out.push(body.hops);
                put_varint(out, body.epoch);
                put_varint(out, body.sequence);
                out.extend_from_slice(body.document.bytes());
            }
            Self::Deliver(body) => {
                let Deliver { id, ref source, timestamp, cause, hops, reply_address, attempt, waited_ms, .. } = *body;
                Envelope { id, source, timestamp, cause, hops, reply_address, attempt, waited_ms }.encode_into(out);
                out.extend_from_slice(body.document.bytes());
            }
            Self::Request(body) => {
                put_varint(out, body.deadline_ms);
                put_option(out, body.cause);
                out.push(body.hops);
                out.extend_from_slice(body.document.bytes());
            }
            Self::Reply(body) => {
                put_varint(out, body.address);
                out.extend_from_slice(body.document.bytes());
            }
            Self::Response(body) => {
                put_bytes(out, body.source.as_bytes());
                put_varint(out, body.timestamp);
                out.extend_from_slice(body.document.bytes());
            }
        }
    }

    /// `None` for a kind that this version does not know.
    pub(super) fn decode(kind: u16, flags: u8, body: &Bytes) -> Result<Option<Self>, WireError> {
        let tail = flags & TAIL != 0;
        Ok(Some(match kind {
            1 => Self::Hello(get(body, tail)?),
            2 => Self::Welcome(get(body, tail)?),
            3 => Self::Error(get(body, tail)?),
            4 => nothing(body, tail, Self::Ok)?,
            5 => Self::Ping(get(body, tail)?),
            6 => Self::Pong(get(body, tail)?),
            7 => Self::Bye(get(body, tail)?),
            16 => in_place(body, tail, |body, reader| {
                Ok(Self::Publish(Publish {
                    cause: reader.option()?,
                    hops: reader.u8()?,
                    epoch: reader.varint()?,
                    sequence: reader.varint()?,
                    document: EncodedDocument::read(body, reader)?,
                }))
            })?,
            17 => Self::Published(get(body, tail)?),
            18 => Self::Subscribe(get(body, tail)?),
            19 => nothing(body, tail, Self::Unsubscribe)?,
            DELIVER => in_place(body, tail, |body, reader| {
                Ok(Self::Deliver(Deliver {
                    id: reader.varint()?,
                    source: reader.str()?.to_owned(),
                    timestamp: reader.varint()?,
                    cause: reader.option()?,
                    hops: reader.u8()?,
                    reply_address: reader.option()?,
                    attempt: reader.u32()?,
                    waited_ms: reader.varint()?,
                    document: EncodedDocument::read(body, reader)?,
                }))
            })?,
            21 => Self::Gap(get(body, tail)?),
            22 => Self::Grant(get(body, tail)?),
            23 => Self::Ack(get(body, tail)?),
            24 => Self::Nack(get(body, tail)?),
            25 => in_place(body, tail, |body, reader| {
                Ok(Self::Request(Request {
                    deadline_ms: reader.varint()?,
                    cause: reader.option()?,
                    hops: reader.u8()?,
                    document: EncodedDocument::read(body, reader)?,
                }))
            })?,
            26 => in_place(body, tail, |body, reader| {
                Ok(Self::Reply(Reply { address: reader.varint()?, document: EncodedDocument::read(body, reader)? }))
            })?,
            27 => in_place(body, tail, |body, reader| {
                Ok(Self::Response(Response {
                    source: reader.str()?.to_owned(),
                    timestamp: reader.varint()?,
                    document: EncodedDocument::read(body, reader)?,
                }))
            })?,
            32 => Self::Claim(get(body, tail)?),
            33 => Self::Unclaim(get(body, tail)?),
            34 => Self::State(get(body, tail)?),
            35 => Self::Reload(get(body, tail)?),
            36 => Self::Verdict(get(body, tail)?),
            37 => nothing(body, tail, Self::Commit)?,
            38 => Self::Abort(get(body, tail)?),
            39 => Self::Halted(get(body, tail)?),
            40 => Self::Control(get(body, tail)?),
            41 => Self::Answer(get(body, tail)?),
            42 => Self::Record(get(body, tail)?),
            43 => Self::Commands(get(body, tail)?),
            _ => return Ok(None),
        }))
    }
}

/// The kind of Deliver, which the bus writes from parts.
pub(super) const DELIVER: u16 = 20;

fn put(out: &mut Vec<u8>, body: &impl Serialize) {
    // Plain structs of integers, options, strings and lists into memory: there is nothing that could fail.
    let encoded = bincode::serde::encode_into_std_write(body, out, bincode::config::standard());
    debug_assert!(encoded.is_ok(), "{encoded:?}");
}

/// bincode's limit is of decoded memory, and a constant. It only has to keep sums of lengths from overflowing: texts are
/// read in place by `bounded`, so that a length is compared with what is left of the frame before it is allocated.
const MEMORY_MAX: usize = FRAME_BYTES_CEILING * DECODE_MEMORY_FACTOR;

fn get<T: for<'de> Deserialize<'de> + Serialize>(body: &Bytes, tail: bool) -> Result<T, WireError> {
    let config = bincode::config::standard().with_limit::<MEMORY_MAX>();
    let (value, used) = bincode::serde::borrow_decode_from_slice::<T, _>(body, config)
        .map_err(|error| WireError::malformed(error.to_string()))?;
    end(body, used, tail)?;
    let mut canonical = Vec::with_capacity(used);
    put(&mut canonical, &value);
    if canonical != body[..used] {
        return Err(WireError::malformed("an integer that is longer than it needs to be"));
    }
    Ok(value)
}

fn nothing(body: &Bytes, tail: bool, content: Content) -> Result<Content, WireError> {
    end(body, 0, tail).map(|()| content)
}

fn in_place(
    body: &Bytes,
    tail: bool,
    read: impl FnOnce(&Bytes, &mut Reader<'_>) -> Result<Content, WireError>,
) -> Result<Content, WireError> {
    let mut reader = Reader::new(body);
    let content = read(body, &mut reader)?;
    end(body, reader.at(), tail).map(|()| content)
}

fn end(body: &Bytes, used: usize, tail: bool) -> Result<(), WireError> {
    if used < body.len() && !tail {
        return Err(WireError::malformed(format!("{} bytes after the end of the frame's body", body.len() - used)));
    }
    Ok(())
}
