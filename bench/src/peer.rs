//! What a bus has to offer so that the one measuring loop can drive it: start it, hand out sockets, encode messages ahead
//! of time, count what comes.
//!
//! The loops own all reading and writing: a peer is asked for its sockets and for what the bytes mean, so that every peer
//! is driven by the very same code. Nothing here may sleep, allocate or copy per message in the measured time, except in
//! what its protocol demands of every client.
//!
//! `peers::all() -> Vec<Box<dyn Peer>>` in peers/mod.rs has the other buses; limit.rs and eevee.rs are beside it. The
//! workspace is built where none of them is installed: nothing may be linked to their libraries at build time.

use std::io::{self, Read, Write};
use std::net::TcpStream;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

use anyhow::Result;

use crate::process::Process;

/// A message before a peer encodes it: five headers that are the same for all peers, and a body.
#[derive(Debug, Clone)]
pub(crate) struct Message {
    pub(crate) headers: Vec<(&'static str, String)>,
    pub(crate) body: Vec<u8>,
}

impl Message {
    /// What peers route by that know one key alone: the value of `channel`. It consists of `[a-z0-9-]`, so that it is a
    /// valid subject, topic and object path element (once `-` is replaced) everywhere.
    pub(crate) fn key(&self) -> &str {
        self.headers.iter().find(|(name, _)| *name == "channel").map_or("", |(_, value)| value)
    }

    /// What peers carry that know no headers: `name=value` lines, an empty line, the body.
    #[allow(dead_code, reason = "not every selection of peers needs it")]
    pub(crate) fn payload(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(128 + self.body.len());
        for (name, value) in &self.headers {
            out.extend_from_slice(name.as_bytes());
            out.push(b'=');
            out.extend_from_slice(value.as_bytes());
            out.push(b'\n');
        }
        out.push(b'\n');
        out.extend_from_slice(&self.body);
        out
    }
}

/// One subscription.
#[derive(Debug, Clone)]
pub(crate) struct Interest {
    /// The key that its messages have, for peers that route by one; see [`Message::key`].
    pub(crate) key: String,
    /// The filter, for peers that filter on content: `channel=KEY` or, where only eevee runs, any other shape.
    pub(crate) filter: String,
}

/// How big the workload is, for peers whose limits have to be raised for it.
#[derive(Debug, Clone)]
pub(crate) struct Needs {
    /// Connections that publish.
    pub(crate) publishers: usize,
    /// Connections that subscribe.
    pub(crate) subscribers: usize,
    /// Subscriptions of each of them.
    pub(crate) subscriptions: usize,
    /// Filters among all of these that no index answers. Only eevee has to know.
    pub(crate) unindexed: usize,
    /// Bytes of the largest body.
    pub(crate) body_bytes: usize,
    /// Most bytes that the harness lets be under way, that is written and not yet received by every subscriber. A peer
    /// whose queues hold this much per connection (on the safe side: four times as much) loses nothing.
    pub(crate) under_way_bytes: usize,
    /// Bytes of one message as the relay carries it. Only the relay has to know.
    pub(crate) relay_bytes: usize,
    /// Whether a message goes to one of the subscribers (w4) and not to all of them. Only the relay has to know.
    pub(crate) split: bool,
    /// Whether it is to be stored and confirmed. Only eevee has to know.
    pub(crate) durable: bool,
}

/// A kind of bus.
pub(crate) trait Peer {
    /// As it is chosen on the command line and shown in the report: `redis`.
    fn name(&self) -> &'static str;

    /// Name and version as the program says it itself, for the report: `redis 7.0.15`.
    ///
    /// # Errors
    /// When the program is not there; the text says what to install.
    fn version(&self) -> Result<String>;

    /// Why it cannot take part in a workload of this size, if so: "100,000 match rules take minutes to add".
    fn refuses(&self, _workload: &str, _needs: &Needs) -> Option<String> {
        None
    }

    /// Starts it with its configuration, sockets and state in `place`, an empty directory whose path is short enough for
    /// sockets. Returns as soon as a connection is accepted: the time from exec to here and to the first subscription is
    /// measured (w6), so what waits does so by `process::connect_unix` or `connect_tcp`, which look every 50 µs.
    ///
    /// # Errors
    /// When it cannot be started, with its log's end.
    fn start(&self, place: &Path, needs: &Needs) -> Result<Box<dyn Broker>>;
}

/// A running bus; it is killed when this is dropped.
pub(crate) trait Broker: Sync {
    /// Its processes: their processor time and memory are measured, and the first one's exec starts the clock of w6.
    fn processes(&self) -> Vec<&Process>;

    /// A connection that publishes, ready to. Only the relay looks at `lane`, which stands for the topic.
    fn publisher(&self, lane: u8) -> Result<Box<dyn Publisher>>;

    /// A connection with these subscriptions, all of them in force: what is published after this returned must come.
    /// (Where a protocol has no acknowledgement, prove it, by a probe for example.)
    fn subscriber(&self, lane: u8, interests: &[Interest]) -> Result<Box<dyn Subscriber>>;
}

/// A connection that publishes. Its stream is blocking when it is handed out; the loop makes it non-blocking.
pub(crate) trait Publisher: Send {
    fn stream(&self) -> &Stream;

    /// Appends the bytes that publish this message, whole, without any per-connection state that would make it wrong to
    /// write the same bytes again and again. Outside of the measured time.
    fn encode(&mut self, message: &Message, out: &mut Vec<u8>);

    /// Whether the protocol lets `messages` more of the encoded messages be written now; takes them off the credit.
    fn take_credit(&mut self, _messages: u64) -> bool {
        true
    }

    /// Deals with what the bus wrote to this connection (`input` may end in the middle of a frame), and appends to
    /// `output` what has to be answered.
    ///
    /// # Errors
    /// When the bus refuses something: that ends the run.
    fn feed(&mut self, input: &[u8], output: &mut Vec<u8>) -> Result<()>;

    /// How many messages the bus confirmed so far, where it does so (durable).
    fn confirmed(&self) -> u64 {
        0
    }
}

/// A connection that subscribes.
pub(crate) trait Subscriber: Send {
    fn stream(&self) -> &Stream;

    /// Counts the messages that end in `input`, which may begin and end anywhere in a frame, with as little parsing as
    /// the protocol allows; appends to `output` what has to be answered: pongs, grants, acknowledgements.
    ///
    /// # Errors
    /// When the bus tells of a loss or an error: that ends the run.
    fn feed(&mut self, input: &[u8], output: &mut Vec<u8>) -> Result<u64>;
}

/// A socket of either kind.
#[derive(Debug)]
pub(crate) enum Stream {
    Unix(UnixStream),
    #[allow(dead_code, reason = "for peers that have no Unix sockets")]
    Tcp(TcpStream),
}

impl Stream {
    /// How long a blocking read may take.
    pub(crate) fn set_read_timeout(&self, time: Duration) -> io::Result<()> {
        match self {
            Self::Unix(stream) => stream.set_read_timeout(Some(time)),
            Self::Tcp(stream) => stream.set_read_timeout(Some(time)),
        }
    }

    pub(crate) fn set_nonblocking(&self, on: bool) -> io::Result<()> {
        match self {
            Self::Unix(stream) => stream.set_nonblocking(on),
            Self::Tcp(stream) => stream.set_nonblocking(on),
        }
    }
}

impl AsFd for Stream {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match self {
            Self::Unix(stream) => stream.as_fd(),
            Self::Tcp(stream) => stream.as_fd(),
        }
    }
}

impl Read for &Stream {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match self {
            Stream::Unix(stream) => (&*stream).read(buffer),
            Stream::Tcp(stream) => (&*stream).read(buffer),
        }
    }
}

impl Write for &Stream {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            Stream::Unix(stream) => (&*stream).write(bytes),
            Stream::Tcp(stream) => (&*stream).write(bytes),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
