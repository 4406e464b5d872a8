//! One connection's socket, and what is to be written to it. It is written by whoever has something for it: the task that
//! published a message writes it to its subscribers itself, so that no message waits for another task to have its turn.
//! Only what a socket does not take at once is left to the session's own task.

use std::cell::{Cell, RefCell};
use std::io::{self, ErrorKind};
use std::os::fd::OwnedFd;
use std::task::{Context, Poll, Waker};

use tokio::io::Interest;
use tokio::net::UnixStream;

use crate::core::{Action, Chunk, Core, Now, PIECE_BYTES, SessionKey};

/// How often more is taken for one socket before others have their turn: 1 MiB, more than a socket has room for.
const TURNS: usize = (1 << 20) / PIECE_BYTES;

/// What [`Outlet::flush`] left.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Left {
    Nothing,
    /// The socket might take more; others want their turn.
    More,
    /// The socket takes nothing now, or nothing any more.
    Blocked,
}

/// Why [`Outlet::poll_wait`] is over.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Waited {
    /// [`Outlet::wake`] was called, or the socket takes more.
    Woken,
    /// There is something to be read.
    Readable,
    /// The socket is of no use any more.
    Failed,
}

pub(crate) struct Outlet {
    pub(crate) stream: UnixStream,
    /// Whether the session's task is to look around, and what makes it.
    woken: Cell<bool>,
    waker: Cell<Option<Waker>>,
    pub(crate) closing: Cell<bool>,
    /// The peer sends nothing more (a half close): its task ends when all is answered.
    pub(crate) ended: Cell<bool>,
    /// Writing failed: the peer is gone.
    pub(crate) broken: Cell<bool>,
    /// What the socket did not take; mostly there is nothing.
    output: Cell<Option<Box<Output>>>,
}

#[derive(Debug, Default)]
struct Output {
    bytes: Chunk,
    written: usize,
}

impl Outlet {
    /// `output` is to be written before everything else.
    pub(crate) fn new(stream: UnixStream, output: Vec<u8>) -> Self {
        Self {
            stream,
            woken: Cell::new(false),
            waker: Cell::new(None),
            closing: Cell::new(false),
            ended: Cell::new(false),
            broken: Cell::new(false),
            output: Cell::new((!output.is_empty()).then(|| Box::new(Output { bytes: Chunk::Own(output), written: 0 }))),
        }
    }

    /// Makes the session's task look around: there is output that the socket did not take, or the state above changed.
    pub(crate) fn wake(&self) {
        self.woken.set(true);
        if let Some(waker) = self.waker.take() {
            waker.wake();
        }
    }

    /// Waits until the task has something to do. An idle session is little more than this, so that it is no future of its
    /// own: tokio's for the same are seven times as large, together.
    pub(crate) fn poll_wait(&self, context: &mut Context<'_>, reads: bool, writes: bool) -> Poll<Waited> {
        if self.woken.take() {
            return Poll::Ready(Waited::Woken);
        }
        if reads && let Poll::Ready(ready) = self.stream.poll_read_ready(context) {
            return Poll::Ready(if ready.is_ok() { Waited::Readable } else { Waited::Failed });
        }
        if writes && let Poll::Ready(ready) = self.stream.poll_write_ready(context) {
            return Poll::Ready(if ready.is_ok() { Waited::Woken } else { Waited::Failed });
        }
        let waker = self.waker.take().filter(|waker| waker.will_wake(context.waker()));
        self.waker.set(Some(waker.unwrap_or_else(|| context.waker().clone())));
        Poll::Pending
    }

    /// Whether there is something that the socket did not take yet.
    pub(crate) fn has_output(&self) -> bool {
        let output = self.output.take();
        let has_output = output.as_ref().is_some_and(|output| output.written < output.bytes.len());
        self.output.set(output);
        has_output
    }

    /// What is not written.
    pub(crate) fn take_output(&self) -> Vec<u8> {
        let Output { bytes, written } = self.output.take().map_or_else(Output::default, |output| *output);
        let mut bytes = bytes.into_vec();
        bytes.drain(..written);
        bytes
    }

    /// The connection for the next run of the bus.
    pub(crate) fn descriptor(&self) -> io::Result<OwnedFd> {
        use std::os::fd::AsFd;
        self.stream.as_fd().try_clone_to_owned()
    }

    /// Writes what the core has for this session, as far as the socket takes it.
    pub(crate) fn flush(&self, core: &RefCell<Core>, now: Now, key: SessionKey, actions: &mut Vec<Action>) -> Left {
        let mut output = self.output.take().map_or_else(Output::default, |output| *output);
        let left = self.flush_from(&mut output, core, now, key, actions);
        if output.bytes.capacity() > 0 {
            self.output.set(Some(Box::new(output)));
        }
        left
    }

    fn flush_from(
        &self,
        Output { bytes, written }: &mut Output,
        core: &RefCell<Core>,
        now: Now,
        key: SessionKey,
        actions: &mut Vec<Action>,
    ) -> Left {
        for _ in 0..TURNS {
            if *written == bytes.len() {
                let mut core = core.borrow_mut();
                core.recycle(std::mem::take(bytes));
                *written = 0;
                core.output(now, key, PIECE_BYTES, bytes);
                core.take_actions(actions);
                if bytes.is_empty() {
                    // An idle session holds no buffer.
                    core.recycle(std::mem::take(bytes));
                    return Left::Nothing;
                }
            }
            match self.write(&bytes[*written..]) {
                Ok(count) => *written += count,
                Err(_) => {
                    self.broken.set(true);
                    return Left::Blocked;
                }
            }
            if *written < bytes.len() {
                // It may be long until the peer reads: no more room than it takes.
                if (bytes.len() - *written) * 2 < bytes.capacity() {
                    let rest = bytes[*written..].to_vec();
                    core.borrow_mut().recycle(std::mem::replace(bytes, Chunk::Own(rest)));
                    *written = 0;
                }
                return Left::Blocked;
            }
        }
        Left::More
    }

    /// Writes what the socket takes; 0 when it takes nothing now.
    pub(crate) fn write(&self, bytes: &[u8]) -> io::Result<usize> {
        self.try_io(Interest::WRITABLE, bytes.len(), || nix::unistd::write(&self.stream, bytes))
    }

    /// Reads what there is; none when there is nothing now, 0 at the end.
    pub(crate) fn read(&self, buffer: &mut [u8]) -> io::Result<Option<usize>> {
        let mut ended = false;
        let count = self.try_io(Interest::READABLE, buffer.len(), || {
            let count = nix::unistd::read(&self.stream, buffer);
            ended = count == Ok(0);
            count
        })?;
        Ok((count > 0 || ended).then_some(count))
    }

    /// Reads or writes once. Less than all says that the kernel has no more now: then the next event is waited for without
    /// another try, which would be one more system call for every chunk.
    fn try_io(
        &self,
        interest: Interest,
        all: usize,
        mut call: impl FnMut() -> nix::Result<usize>,
    ) -> io::Result<usize> {
        let mut count = 0;
        let done = self.stream.try_io(interest, || {
            count = call()?;
            if count > 0 && count < all { Err(ErrorKind::WouldBlock.into()) } else { Ok(()) }
        });
        match done {
            Err(error) if !matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted) => Err(error),
            _ => Ok(count),
        }
    }
}
