//! One raw connection to eeveed: welcomed and subscribed before anything is measured, then fed by the loop.

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use bytes::{Bytes, BytesMut};
use libeevee::wire::limits::FRAME_BYTES_CEILING;
use libeevee::wire::{Content, Frame, Grant, Welcome, split_frame};

use super::count::{DELIVER, Frames, GRANT, PUBLISHED, refuse};
use super::frames;
use crate::peer::{Interest, Message, Publisher, Stream, Subscriber};

/// What every subscription grants: as much again is granted once half of it came.
const WINDOW: Grant = Grant { messages: 1 << 16, bytes: 64 << 20 };

/// Subscriptions that are sent before their answers are read.
const SUBSCRIBE_AT_ONCE: usize = 256;

/// How long the bus may take to answer.
const PATIENCE: Duration = Duration::from_secs(10);

/// A connection that publishes, and its credit.
pub(super) struct Source {
    stream: Stream,
    frames: Frames,
    confirm: bool,
    messages: i64,
    bytes: i64,
    document_bytes: i64,
    confirmed: u64,
}

/// A connection that subscribes, and what its windows let come.
pub(super) struct Sink {
    stream: Stream,
    frames: Frames,
    durable: bool,
    /// By the number of the subscription: what came since the last grant.
    taken: Vec<Grant>,
    grants: Vec<Vec<u8>>,
    begun: u64,
    last_is_delivery: bool,
    ended: u64,
}

/// A connection whose handshake is done.
struct Raw {
    stream: UnixStream,
    input: BytesMut,
}

impl Raw {
    fn connect(socket: &Path) -> Result<(Self, Welcome)> {
        let mut raw = Self { stream: UnixStream::connect(socket)?, input: BytesMut::new() };
        raw.stream.set_read_timeout(Some(PATIENCE))?;
        raw.stream.write_all(&frames::hello())?;
        match raw.frame()?.content {
            Content::Welcome(welcome) => Ok((raw, welcome)),
            other => bail!("the bus answered Hello with {other:?}"),
        }
    }

    fn frame(&mut self) -> Result<Frame> {
        let mut buffer = [0; 4096];
        loop {
            while let Some(bytes) = split_frame(&mut self.input, FRAME_BYTES_CEILING)? {
                if let Some(frame) = Frame::decode(bytes)? {
                    return Ok(frame);
                }
            }
            let count = self.stream.read(&mut buffer)?;
            ensure!(count > 0, "the bus closed the connection");
            self.input.extend_from_slice(&buffer[..count]);
        }
    }
}

impl Source {
    pub(super) fn connect(socket: &Path, confirm: bool) -> Result<Self> {
        let (raw, welcome) = Raw::connect(socket)?;
        ensure!(raw.input.is_empty(), "the bus said more than Welcome");
        Ok(Self {
            stream: Stream::Unix(raw.stream),
            frames: Frames::default(),
            confirm,
            messages: i64::try_from(welcome.credit_messages)?,
            bytes: i64::try_from(welcome.credit_bytes)?,
            document_bytes: 0,
            confirmed: 0,
        })
    }
}

impl Publisher for Source {
    fn stream(&self) -> &Stream {
        &self.stream
    }

    fn encode(&mut self, message: &Message, out: &mut Vec<u8>) {
        let bytes = frames::publish(message, self.confirm.then_some(1), out);
        self.document_bytes = self.document_bytes.max(i64::try_from(bytes).unwrap_or(i64::MAX));
    }

    fn take_credit(&mut self, messages: u64) -> bool {
        let messages = i64::try_from(messages).unwrap_or(i64::MAX);
        // The last document may overdraw the bytes, but none may begin once they are used up.
        if self.messages < messages || self.bytes <= (messages - 1) * self.document_bytes {
            return false;
        }
        self.messages -= messages;
        self.bytes -= messages * self.document_bytes;
        true
    }

    fn feed(&mut self, input: &[u8], _output: &mut Vec<u8>) -> Result<()> {
        let Self { frames, messages, bytes, confirmed, .. } = self;
        frames.split(input, |kind, _, head| {
            match kind {
                PUBLISHED => *confirmed += 1,
                GRANT => {
                    let frame = Frame::decode(Bytes::copy_from_slice(&head[4..]))?.context("an odd Grant")?;
                    let Content::Grant(grant) = frame.content else { bail!("an odd Grant") };
                    *messages += i64::try_from(grant.messages)?;
                    *bytes += i64::try_from(grant.bytes)?;
                }
                other => refuse(other, head)?,
            }
            Ok(())
        })
    }

    fn confirmed(&self) -> u64 {
        self.confirmed
    }
}

impl Sink {
    pub(super) fn connect(socket: &Path, interests: &[Interest], durable: Option<&str>) -> Result<Self> {
        let (mut raw, _) = Raw::connect(socket)?;
        let numbers: Vec<u32> = (1..=u32::try_from(interests.len())?).collect();
        for (interests, numbers) in interests.chunks(SUBSCRIBE_AT_ONCE).zip(numbers.chunks(SUBSCRIBE_AT_ONCE)) {
            let mut output = Vec::new();
            for (interest, number) in interests.iter().zip(numbers) {
                frames::subscribe(*number, &interest.filter, WINDOW, durable, &mut output);
            }
            raw.stream.write_all(&output)?;
            for _ in interests {
                let answer = raw.frame()?.content;
                ensure!(answer == Content::Ok, "the bus answered Subscribe with {answer:?}");
            }
        }
        ensure!(raw.input.is_empty(), "the bus said more than Ok");
        let half = Grant { messages: WINDOW.messages / 2, bytes: WINDOW.bytes / 2 };
        Ok(Self {
            stream: Stream::Unix(raw.stream),
            frames: Frames::default(),
            durable: durable.is_some(),
            taken: vec![Grant { messages: 0, bytes: 0 }; interests.len() + 1],
            grants: (0..=u32::try_from(interests.len())?).map(|number| frames::grant(number, half)).collect(),
            begun: 0,
            last_is_delivery: false,
            ended: 0,
        })
    }
}

impl Subscriber for Sink {
    fn stream(&self) -> &Stream {
        &self.stream
    }

    fn feed(&mut self, input: &[u8], output: &mut Vec<u8>) -> Result<u64> {
        let Self { frames, taken, grants, begun, last_is_delivery, durable, .. } = self;
        frames.split(input, |kind, number, head| {
            *last_is_delivery = kind == DELIVER;
            if kind != DELIVER {
                return refuse(kind, head);
            }
            *begun += 1;
            let Some(taken) = taken.get_mut(number as usize) else { bail!("a delivery to subscription {number}") };
            taken.messages += 1;
            // The whole frame: a little more than the document alone.
            taken.bytes += u64::from(u32::from_le_bytes([head[0], head[1], head[2], head[3]]));
            if taken.messages >= WINDOW.messages / 2 || taken.bytes >= WINDOW.bytes / 2 {
                taken.messages = taken.messages.saturating_sub(WINDOW.messages / 2);
                taken.bytes = taken.bytes.saturating_sub(WINDOW.bytes / 2);
                output.extend_from_slice(&grants[number as usize]);
            }
            if *durable {
                frames::ack(number, id(head)?, output);
            }
            Ok(())
        })?;
        let ended = self.begun - u64::from(self.last_is_delivery && !self.frames.complete());
        let came = ended - self.ended;
        self.ended = ended;
        Ok(came)
    }
}

/// The id of a delivery, the first field of its body.
fn id(head: &[u8]) -> Result<u64> {
    let body = &head[libeevee::wire::HEADER_BYTES..];
    let int =
        |len: usize| body.get(1..=len).map(|bytes| bytes.iter().rev().fold(0, |sum, byte| sum << 8 | u64::from(*byte)));
    match body.first() {
        Some(251) => int(2),
        Some(252) => int(4),
        Some(253) => int(8),
        Some(small) => Some(u64::from(*small)),
        None => None,
    }
    .context("a delivery without an id")
}
