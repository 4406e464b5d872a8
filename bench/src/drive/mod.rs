//! The one loop that publishes and the one that receives: all buses are driven by these.
//!
//! One thread publishes on all publishing connections, one receives on all subscribing ones, whatever their number. What
//! is under way (written and not yet received by everybody) is bounded, for all buses alike: so no queue of any bus has
//! to drop anything, and a loss is a failure.

mod publish;
mod receive;

use std::io::{ErrorKind, Write};
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Instant;

use anyhow::{Context, Result};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

pub(crate) use self::publish::{Source, publish};
pub(crate) use self::receive::receive;
use crate::peer::Stream;

/// How much is read at once.
const READ_BYTES: usize = 256 << 10;

/// How long a wait may last until the loops look whether the run is over.
const LOOK_MS: u16 = 100;

/// What the loops and who measures look at.
#[derive(Debug)]
pub(crate) struct Flow {
    /// Messages that every subscriber has (all of them have to), or that any has (each goes to one).
    progress: AtomicU64,
    /// Deliveries to all subscribers together.
    deliveries: AtomicU64,
    /// The publishing loop waits until `progress` is at least this; `u64::MAX` while it does not.
    wanted: AtomicU64,
    /// Written to in order to wake the publishing loop, and what it reads then.
    wake: UnixStream,
    woken: UnixStream,
    stop: AtomicBool,
    over: AtomicBool,
    /// Most messages under way.
    under_way: u64,
    split: bool,
    began: OnceLock<Instant>,
}

impl Flow {
    pub(crate) fn new(under_way: u64, split: bool) -> Result<Self> {
        let (wake, woken) = UnixStream::pair()?;
        wake.set_nonblocking(true)?;
        woken.set_nonblocking(true)?;
        Ok(Self {
            progress: AtomicU64::new(0),
            deliveries: AtomicU64::new(0),
            wanted: AtomicU64::new(u64::MAX),
            wake,
            woken,
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

    /// Becomes readable when the publishing loop may go on.
    pub(crate) const fn woken(&self) -> &UnixStream {
        &self.woken
    }

    /// The publishing loop ends after the chunks that it has begun.
    pub(crate) fn stop(&self) {
        self.stop.store(true, Ordering::Release);
        let _ = (&self.wake).write(&[1]);
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
        // Of two threads that tell it, the one that knows less may be the later one.
        self.deliveries.fetch_max(deliveries, Ordering::Release);
        self.progress.fetch_max(progress, Ordering::SeqCst);
        if progress >= self.wanted.load(Ordering::SeqCst) {
            self.wanted.store(u64::MAX, Ordering::SeqCst);
            let _ = (&self.wake).write(&[1]);
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

/// Writes all to a non-blocking stream: answers are short, and the bus reads them.
fn write_all(mut stream: &Stream, mut bytes: &[u8]) -> Result<()> {
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
