//! The one loop that publishes and the one that receives: all buses are driven by these.
//!
//! One thread publishes on all publishing connections, one receives on all subscribing ones, whatever their number. What
//! is under way (written and not yet received by everybody) is bounded, for all buses alike: so no queue of any bus has
//! to drop anything, and a loss is a failure.

use std::io::{ErrorKind, Read, Write};
use std::os::fd::AsFd;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::eventfd::{EfdFlags, EventFd};

use crate::message::Chunk;
use crate::peer::{Publisher, Subscriber};

/// How much is read at once.
const READ_BYTES: usize = 256 << 10;

/// After so many written bytes a publisher looks for what the bus says to it. It also looks whenever it has to wait.
const LOOK_BYTES: usize = 256 << 10;

/// How long a wait may last until the loops look whether the run is over.
const LOOK_MS: u16 = 100;

/// What both loops and who measures look at.
#[derive(Debug)]
pub(crate) struct Flow {
    /// Messages that every subscriber has (all of them have to), or that any has (each goes to one).
    progress: AtomicU64,
    /// Deliveries to all subscribers together.
    deliveries: AtomicU64,
    /// The publishing loop waits until `progress` is at least this; `u64::MAX` while it does not.
    wanted: AtomicU64,
    wake: EventFd,
    stop: AtomicBool,
    over: AtomicBool,
    /// Most messages under way.
    under_way: u64,
    split: bool,
    began: OnceLock<Instant>,
}

impl Flow {
    pub(crate) fn new(under_way: u64, split: bool) -> Result<Self> {
        Ok(Self {
            progress: AtomicU64::new(0),
            deliveries: AtomicU64::new(0),
            wanted: AtomicU64::new(u64::MAX),
            wake: EventFd::from_flags(EfdFlags::EFD_NONBLOCK | EfdFlags::EFD_CLOEXEC)?,
            stop: AtomicBool::new(false),
            over: AtomicBool::new(false),
            under_way,
            split,
            began: OnceLock::new(),
        })
    }

    pub(crate) fn deliveries(&self) -> u64 {
        self.deliveries.load(Ordering::Acquire)
    }

    /// The publishing loop ends after the chunks that it has begun.
    pub(crate) fn stop(&self) {
        self.stop.store(true, Ordering::Release);
        let _ = self.wake.write(1);
    }

    pub(crate) fn stopped(&self) -> bool {
        self.stop.load(Ordering::Acquire)
    }

    /// The receiving loop ends, too.
    pub(crate) fn end(&self) {
        self.stop();
        self.over.store(true, Ordering::Release);
    }

    /// Whether the receiving loop is to end.
    pub(crate) fn is_over(&self) -> bool {
        self.over.load(Ordering::Acquire)
    }

    pub(crate) fn received(&self, progress: u64, deliveries: u64) {
        self.deliveries.store(deliveries, Ordering::Release);
        self.progress.store(progress, Ordering::SeqCst);
        if progress >= self.wanted.load(Ordering::SeqCst) {
            self.wanted.store(u64::MAX, Ordering::SeqCst);
            let _ = self.wake.write(1);
        }
    }

    /// Whether `written` messages are as many as may be; then the receiving loop wakes the publishing one once half of
    /// them came, so that it is not woken for every single chunk.
    pub(crate) fn full(&self, written: u64) -> bool {
        if written.saturating_sub(self.progress.load(Ordering::Acquire)) < self.under_way {
            return false;
        }
        let wanted = written.saturating_sub(self.under_way / 2).max(1);
        self.wanted.store(wanted, Ordering::SeqCst);
        // It may have come between the two looks.
        if self.progress.load(Ordering::SeqCst) < wanted {
            return true;
        }
        self.wanted.store(u64::MAX, Ordering::SeqCst);
        false
    }
}

/// A publishing connection and the chunks that it writes in turn.
pub(crate) struct Source {
    pub(crate) publisher: Box<dyn Publisher>,
    pub(crate) ring: Vec<Chunk>,
    next: usize,
    /// How much of the current chunk is written; all of it while nothing is begun.
    at: usize,
    begun: bool,
    unlooked: usize,
    output: Vec<u8>,
    counter: u64,
}

impl Source {
    pub(crate) fn new(publisher: Box<dyn Publisher>, ring: Vec<Chunk>, number: u64) -> Self {
        // Values of different connections are different as well.
        let counter = number << 48;
        Self { publisher, ring, next: 0, at: 0, begun: false, unlooked: 0, output: Vec::new(), counter }
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
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted) => return Ok(false),
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

    /// Reads what the bus said to this connection, and answers it where no chunk is cut in two by that.
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
        if !self.begun {
            self.answer()?;
        }
        Ok(came)
    }

    fn answer(&mut self) -> Result<()> {
        if !self.output.is_empty() {
            write_all(self.publisher.stream(), &self.output)?;
            self.output.clear();
        }
        Ok(())
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
    let (mut written, mut chunks) = (0_u64, 0_u32);
    loop {
        let stopped = flow.stopped();
        let mut progressed = false;
        let mut bounded = false;
        for source in sources.iter_mut() {
            if !source.begun {
                if stopped {
                    continue;
                }
                source.answer()?;
                if flow.full(written) {
                    bounded = true;
                    break;
                }
                if let Some(pace) = pace {
                    std::thread::sleep((began + pace * chunks).saturating_duration_since(Instant::now()));
                }
                if !source.begin() {
                    progressed |= source.look(&mut buffer)?;
                    continue;
                }
                chunks += 1;
                written += source.ring[source.next].messages;
            }
            let wrote = source.write()?;
            progressed |= wrote;
            if !wrote || source.unlooked >= LOOK_BYTES {
                progressed |= source.look(&mut buffer)?;
            }
        }
        if stopped && sources.iter().all(|source| !source.begun) {
            let confirmed: u64 = sources.iter().map(|source| source.publisher.confirmed()).sum();
            if confirmed == 0 || confirmed >= written || flow.is_over() {
                return Ok(written);
            }
        }
        if bounded || !progressed {
            wait(flow, sources)?;
            for source in sources.iter_mut() {
                source.look(&mut buffer)?;
            }
        }
    }
}

fn wait(flow: &Flow, sources: &[Source]) -> Result<()> {
    let mut fds: Vec<PollFd<'_>> = sources
        .iter()
        .map(|source| {
            let writes = if source.begun { PollFlags::POLLOUT } else { PollFlags::empty() };
            PollFd::new(source.publisher.stream().as_fd(), PollFlags::POLLIN | writes)
        })
        .collect();
    fds.push(PollFd::new(flow.wake.as_fd(), PollFlags::POLLIN));
    poll(&mut fds, PollTimeout::from(LOOK_MS))?;
    if fds.last().and_then(PollFd::any) == Some(true) {
        let _ = flow.wake.read();
    }
    Ok(())
}

/// Receives until [`Flow::end`]. With a pace and the messages of a chunk, gives the latency of every chunk's last message
/// in nanoseconds.
pub(crate) fn receive(
    flow: &Flow,
    sinks: &mut [Box<dyn Subscriber>],
    pace: Option<(Duration, u64)>,
) -> Result<Vec<u64>> {
    let result = receive_loop(flow, sinks, pace);
    if result.is_err() {
        flow.end();
    }
    result
}

fn receive_loop(flow: &Flow, sinks: &mut [Box<dyn Subscriber>], pace: Option<(Duration, u64)>) -> Result<Vec<u64>> {
    for sink in sinks.iter() {
        sink.stream().set_nonblocking(true)?;
    }
    let mut buffer = vec![0; READ_BYTES];
    let mut output = Vec::new();
    let mut counts = vec![0_u64; sinks.len()];
    let mut latencies = Vec::new();
    while !flow.is_over() {
        let mut came = false;
        for (sink, count) in sinks.iter_mut().zip(&mut counts) {
            let read = match sink.stream().read(&mut buffer) {
                Ok(0) => bail!("the bus closed a subscriber's connection"),
                Ok(read) => read,
                Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted) => continue,
                Err(error) => return Err(error).context("a subscriber's connection"),
            };
            came = true;
            *count += sink.feed(&buffer[..read], &mut output)?;
            if !output.is_empty() {
                write_all(sink.stream(), &output)?;
                output.clear();
            }
        }
        if !came {
            let mut fds: Vec<_> =
                sinks.iter().map(|sink| PollFd::new(sink.stream().as_fd(), PollFlags::POLLIN)).collect();
            poll(&mut fds, PollTimeout::from(LOOK_MS))?;
            continue;
        }
        let deliveries = counts.iter().sum();
        let progress = if flow.split { deliveries } else { counts.iter().copied().min().unwrap_or(0) };
        if let (Some((pace, messages)), Some(began)) = (pace, flow.began.get()) {
            let now = began.elapsed();
            while (latencies.len() as u64 + 1) * messages <= progress {
                #[expect(clippy::cast_possible_truncation, reason = "chunks of some seconds")]
                let due = pace * latencies.len() as u32;
                latencies.push(u64::try_from(now.saturating_sub(due).as_nanos()).unwrap_or(u64::MAX));
            }
        }
        flow.received(progress, deliveries);
    }
    Ok(latencies)
}

/// Writes all to a non-blocking stream: answers are short, and the bus reads them.
pub(crate) fn write_all(mut stream: &crate::peer::Stream, mut bytes: &[u8]) -> Result<()> {
    while !bytes.is_empty() {
        match stream.write(bytes) {
            Ok(count) => bytes = &bytes[count..],
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted) => {
                let mut fds = [PollFd::new(stream.as_fd(), PollFlags::POLLOUT)];
                poll(&mut fds, PollTimeout::from(LOOK_MS))?;
            }
            Err(error) => return Err(error).context("the bus closed a connection"),
        }
    }
    Ok(())
}
