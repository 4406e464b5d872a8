//! The loop that publishes.

use std::io::{ErrorKind, Read, Write};
use std::os::fd::AsFd;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use super::{Flow, LOOK_MS, READ_BYTES, write_all};
use crate::message::Chunk;
use crate::peer::Publisher;

/// After so many written bytes a publisher looks for what the bus says to it. It also looks whenever it has to wait.
const LOOK_BYTES: usize = 256 << 10;

/// A publishing connection and the chunks that it writes in turn.
pub(crate) struct Source {
    publisher: Box<dyn Publisher>,
    ring: Vec<Chunk>,
    next: usize,
    /// How much of the current chunk is written, once it is begun.
    at: usize,
    begun: bool,
    /// Nothing can be done before the socket is ready for it.
    blocked: bool,
    unlooked: usize,
    output: Vec<u8>,
    counter: u64,
}

impl Source {
    pub(crate) fn new(publisher: Box<dyn Publisher>, ring: Vec<Chunk>, number: u64) -> Self {
        // Unique values of different connections are different as well.
        let counter = number << 48;
        let output = Vec::new();
        Self { publisher, ring, next: 0, at: 0, begun: false, blocked: false, unlooked: 0, output, counter }
    }

    /// Messages that are written at once.
    pub(crate) fn chunk(&self) -> u64 {
        self.ring[self.next].messages
    }

    /// Begins the next chunk if the protocol gives the credit; whether it did.
    fn begin(&mut self) -> bool {
        let chunk = &mut self.ring[self.next];
        if !self.publisher.take_credit(chunk.messages) {
            return false;
        }
        chunk.renew(&mut self.counter);
        self.begun = true;
        self.at = 0;
        true
    }

    /// Writes what it can of the chunk; whether anything was written.
    fn write(&mut self) -> Result<bool> {
        let bytes = &self.ring[self.next].bytes;
        let written = match self.publisher.stream().write(&bytes[self.at..]) {
            Ok(count) => count,
            Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(false),
            Err(error) if error.kind() == ErrorKind::Interrupted => 0,
            Err(error) => return Err(error).context("the bus closed a publisher's connection"),
        };
        self.at += written;
        self.unlooked += written;
        if self.at == bytes.len() {
            self.begun = false;
            self.next = (self.next + 1) % self.ring.len();
        }
        Ok(true)
    }

    /// Reads what the bus said to this connection, if it did.
    fn look(&mut self, buffer: &mut [u8]) -> Result<bool> {
        self.unlooked = 0;
        let mut came = false;
        loop {
            match self.publisher.stream().read(buffer) {
                Ok(0) => bail!("the bus closed a publisher's connection"),
                Ok(count) => {
                    came = true;
                    self.publisher.feed(&buffer[..count], &mut self.output)?;
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(error).context("a publisher's connection"),
            }
        }
        // Never in the middle of a chunk.
        if !self.begun && !self.output.is_empty() {
            write_all(self.publisher.stream(), &self.output)?;
            self.output.clear();
        }
        Ok(came)
    }
}

/// Publishes until [`Flow::stop`]; gives the number of messages written. With a pace, the chunk `n` is due at the
/// beginning plus `n` times the pace; latencies are counted from there, so that a bus that holds the publisher up does
/// not hide it.
pub(crate) fn publish(flow: &Flow, sources: &mut [Source], pace: Option<Duration>) -> Result<u64> {
    let result = publish_loop(flow, sources, pace);
    if result.is_err() {
        flow.end();
    }
    result
}

fn publish_loop(flow: &Flow, sources: &mut [Source], pace: Option<Duration>) -> Result<u64> {
    for source in sources.iter() {
        source.publisher.stream().set_nonblocking(true)?;
    }
    if pace.is_some() {
        nix::sys::prctl::set_timerslack(1)?;
    }
    let began = *flow.began.get_or_init(Instant::now);
    let mut buffer = vec![0; READ_BYTES];
    let (mut written, mut chunks, mut first) = (0_u64, 0_u32, 0);
    loop {
        let stopped = flow.stopped();
        let mut progressed = false;
        let mut bounded = false;
        for turn in 0..sources.len() {
            let at = (first + turn) % sources.len();
            let source = &mut sources[at];
            if source.blocked || stopped && !source.begun {
                continue;
            }
            if !source.begun {
                if flow.full(written) {
                    bounded = true;
                    // It is the first one again once there is room: all publish as much.
                    first = at;
                    break;
                }
                if let Some(pace) = pace {
                    std::thread::sleep((began + pace * chunks).saturating_duration_since(Instant::now()));
                }
                if !source.begin() {
                    source.blocked = !source.look(&mut buffer)?;
                    progressed |= !source.blocked;
                    continue;
                }
                chunks += 1;
                written += source.chunk();
            }
            source.blocked = !source.write()?;
            progressed |= !source.blocked;
            if source.unlooked >= LOOK_BYTES {
                source.look(&mut buffer)?;
            }
        }
        if flow.is_over() {
            bail!("the bus takes nothing more, after {written} messages");
        }
        if stopped && sources.iter().all(|source| !source.begun) {
            let confirmed: u64 = sources.iter().map(|source| source.publisher.confirmed()).sum();
            if confirmed == 0 || confirmed >= written {
                return Ok(written);
            }
        }
        if bounded || !progressed {
            wait(flow, sources, &mut buffer)?;
        }
    }
}

/// Until the bus takes more or says something, or there is room again under the bound.
fn wait(flow: &Flow, sources: &mut [Source], buffer: &mut [u8]) -> Result<()> {
    let mut fds: Vec<PollFd<'_>> = sources
        .iter()
        .map(|source| {
            let writes = if source.begun { PollFlags::POLLOUT } else { PollFlags::empty() };
            PollFd::new(source.publisher.stream().as_fd(), PollFlags::POLLIN | writes)
        })
        .collect();
    fds.push(PollFd::new(flow.woken.as_fd(), PollFlags::POLLIN));
    poll(&mut fds, PollTimeout::from(LOOK_MS))?;
    let ready: Vec<_> = fds.iter().map(|fd| fd.revents().unwrap_or(PollFlags::empty())).collect();
    drop(fds);
    if ready.last().is_some_and(|ready| !ready.is_empty()) {
        let _ = (&flow.woken).read(&mut [0; 64]);
    }
    for (source, ready) in sources.iter_mut().zip(ready) {
        source.blocked &= ready.is_empty();
        if ready.contains(PollFlags::POLLIN) {
            source.look(buffer)?;
        }
    }
    Ok(())
}
