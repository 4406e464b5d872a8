//! What the clients of all these protocols have in common: they count frames in a stream of bytes without copying or
//! allocating, and wait for answers while they are set up.

use std::io::{Read, Write};
use std::marker::PhantomData;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};

use crate::peer::{Message, Publisher, Stream, Subscriber};

/// No head of a frame (what has to be seen to know its length) is longer: NATS' INFO is by far the longest.
const HEAD_BYTES_MAX: usize = 4096;

/// Adding ten thousand match rules takes a while, a bus that answers nothing at all is broken.
const PATIENCE: Duration = Duration::from_secs(60);

/// What a frame is, as far as a client of ours has to know, and how many bytes it has.
#[derive(Debug, Clone, Copy)]
pub(super) enum Frame {
    /// Too few bytes to tell.
    Unfinished,
    Message(usize),
    /// An acknowledgement or a notice.
    Other(usize),
    /// To be answered with [`Protocol::PONG`].
    Ping(usize),
}

/// A protocol as its raw client speaks it.
pub(super) trait Protocol: Send {
    const PONG: &'static [u8] = b"";

    /// Looks at the beginning of a frame.
    ///
    /// # Errors
    /// When the bus refuses something, or the bytes are none that it sends.
    fn frame(head: &[u8]) -> Result<Frame>;

    /// Appends what publishes this message.
    fn encode(message: &Message, out: &mut Vec<u8>);
}

/// Finds the frames in a stream that is cut anywhere.
#[derive(Debug)]
struct Counter<P> {
    /// The beginning of a frame of which too little came yet to know its length.
    head: Vec<u8>,
    /// Bytes still to come of the frame in which the last input ended.
    left: usize,
    left_is: Frame,
    messages: u64,
    others: u64,
    protocol: PhantomData<P>,
}

impl<P: Protocol> Counter<P> {
    const fn new() -> Self {
        Self { head: Vec::new(), left: 0, left_is: Frame::Unfinished, messages: 0, others: 0, protocol: PhantomData }
    }

    fn feed(&mut self, mut input: &[u8], output: &mut Vec<u8>) -> Result<()> {
        if self.left > 0 {
            let taken = self.left.min(input.len());
            self.left -= taken;
            if self.left > 0 {
                return Ok(());
            }
            input = &input[taken..];
            self.ended(self.left_is, output);
        }
        if !self.head.is_empty() {
            let had = self.head.len();
            let taken = input.len().min(HEAD_BYTES_MAX - had);
            self.head.extend_from_slice(&input[..taken]);
            let frame = P::frame(&self.head)?;
            let Some(bytes) = length(frame) else {
                ensure!(self.head.len() < HEAD_BYTES_MAX, "a frame's head has more than {HEAD_BYTES_MAX} bytes");
                return Ok(());
            };
            self.head.clear();
            match self.take(frame, bytes - had, input, output) {
                Some(rest) => input = rest,
                None => return Ok(()),
            }
        }
        while !input.is_empty() {
            let frame = P::frame(input)?;
            let Some(bytes) = length(frame) else {
                ensure!(input.len() < HEAD_BYTES_MAX, "a frame's head has more than {HEAD_BYTES_MAX} bytes");
                self.head.extend_from_slice(input);
                return Ok(());
            };
            match self.take(frame, bytes, input, output) {
                Some(rest) => input = rest,
                None => return Ok(()),
            }
        }
        Ok(())
    }

    /// Takes a frame of which `bytes` bytes are missing off the input; none when it does not end there.
    fn take<'a>(&mut self, frame: Frame, bytes: usize, input: &'a [u8], output: &mut Vec<u8>) -> Option<&'a [u8]> {
        if let Some(rest) = input.get(bytes..) {
            self.ended(frame, output);
            return Some(rest);
        }
        self.left = bytes - input.len();
        self.left_is = frame;
        None
    }

    fn ended(&mut self, frame: Frame, output: &mut Vec<u8>) {
        match frame {
            Frame::Message(_) => self.messages += 1,
            Frame::Other(_) => self.others += 1,
            Frame::Ping(_) => output.extend_from_slice(P::PONG),
            Frame::Unfinished => {}
        }
    }
}

const fn length(frame: Frame) -> Option<usize> {
    match frame {
        Frame::Unfinished => None,
        Frame::Message(bytes) | Frame::Other(bytes) | Frame::Ping(bytes) => Some(bytes),
    }
}

/// A connection of either kind.
#[derive(Debug)]
pub(super) struct Client<P> {
    stream: Stream,
    counter: Counter<P>,
}

impl<P: Protocol> Client<P> {
    pub(super) fn new(stream: Stream) -> Result<Self> {
        stream.set_read_timeout(PATIENCE)?;
        Ok(Self { stream, counter: Counter::new() })
    }

    pub(super) fn send(&self, bytes: &[u8]) -> Result<()> {
        (&self.stream).write_all(bytes).context("the bus takes nothing")
    }

    /// Reads until this many more acknowledgements came, and this many messages (of which some protocols send one as a
    /// greeting). More than that must not have come: nothing was published yet that the connection subscribes.
    pub(super) fn settle(&mut self, others: u64, messages: u64) -> Result<()> {
        let goal = (self.counter.others + others, self.counter.messages + messages);
        let mut buffer = vec![0; 1 << 16];
        let mut output = Vec::new();
        while (self.counter.others, self.counter.messages) != goal {
            let read = (&self.stream).read(&mut buffer).context("the bus does not answer")?;
            ensure!(read > 0, "the bus closed the connection");
            self.counter.feed(&buffer[..read], &mut output)?;
            ensure!(
                self.counter.others <= goal.0 && self.counter.messages <= goal.1,
                "the bus sent what nobody asked for"
            );
            self.send(&output)?;
            output.clear();
        }
        ensure!(self.counter.head.is_empty() && self.counter.left == 0, "the bus sent more than its answer");
        Ok(())
    }

    /// Reads a line that comes before the protocol's frames, or a number of bytes that does: none of what follows.
    pub(super) fn preamble(&self, mut whole: impl FnMut(&[u8]) -> bool) -> Result<Vec<u8>> {
        let mut bytes = Vec::new();
        while !whole(&bytes) {
            let mut byte = [0];
            (&self.stream).read_exact(&mut byte).context("the bus does not greet")?;
            bytes.push(byte[0]);
        }
        Ok(bytes)
    }
}

impl<P: Protocol> Publisher for Client<P> {
    fn stream(&self) -> &Stream {
        &self.stream
    }

    fn encode(&mut self, message: &Message, out: &mut Vec<u8>) {
        P::encode(message, out);
    }

    fn feed(&mut self, input: &[u8], output: &mut Vec<u8>) -> Result<()> {
        self.counter.feed(input, output)
    }
}

impl<P: Protocol> Subscriber for Client<P> {
    fn stream(&self) -> &Stream {
        &self.stream
    }

    fn feed(&mut self, input: &[u8], output: &mut Vec<u8>) -> Result<u64> {
        let before = self.counter.messages;
        self.counter.feed(input, output)?;
        Ok(self.counter.messages - before)
    }
}

/// The bytes of a text protocol's line, with its end; none when it is not complete.
pub(super) fn line(head: &[u8]) -> Option<usize> {
    head.iter().position(|&byte| byte == b'\n').map(|at| at + 1)
}

/// The number in decimal digits that `digits` consists of.
pub(super) fn number(digits: &[u8]) -> Result<usize> {
    if digits.is_empty() || digits.len() > 9 {
        bail!("no number: {}", String::from_utf8_lossy(digits));
    }
    let mut number = 0;
    for digit in digits {
        ensure!(digit.is_ascii_digit(), "no number: {}", String::from_utf8_lossy(digits));
        number = number * 10 + usize::from(digit - b'0');
    }
    Ok(number)
}

#[cfg(test)]
pub(super) mod tests {
    use super::{Client, Protocol};
    use crate::peer::{Message, Stream, Subscriber};
    use std::os::unix::net::UnixStream;

    pub(crate) fn message() -> Message {
        Message { headers: vec![("platform", "irc".to_owned()), ("channel", "c-7".to_owned())], body: vec![b'x'; 300] }
    }

    /// However the stream is cut, the same is counted, and answered.
    pub(crate) fn check<P: Protocol>(bytes: &[u8], messages: u64, answer: &[u8]) {
        for step in (1..bytes.len()).take(40).chain([bytes.len()]) {
            let (ours, _theirs) = UnixStream::pair().unwrap();
            let mut client = Client::<P>::new(Stream::Unix(ours)).unwrap();
            let mut output = Vec::new();
            let mut counted = 0;
            for input in bytes.chunks(step) {
                counted += Subscriber::feed(&mut client, input, &mut output).unwrap();
            }
            assert_eq!((counted, &output[..]), (messages, answer), "in steps of {step}");
            assert!(client.counter.head.is_empty() && client.counter.left == 0);
        }
    }
}
