//! The process behind limit.rs: from every publisher of a lane to all its subscribers, or a part to each.
//!
//! One thread. It reads up to 64 KiB, which stay in the nearest caches, and writes them before it reads again. With
//! `split`, what was read is cut into as many equal parts as there are subscribers, one write each: the least that a
//! broker can do whose messages go to ten connections in no order.

use std::io::{ErrorKind, Read, Write};
use std::os::fd::AsFd;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;

use anyhow::{Context, Result, bail};
use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};

/// First byte of a connection that publishes.
pub(crate) const PUBLISHER: u8 = b'p';

/// First byte of a connection that subscribes. The second byte of either is its lane.
pub(crate) const SUBSCRIBER: u8 = b's';

/// The relay's answer: from now on the connection takes part.
pub(crate) const READY: u8 = b'r';

const CHUNK_BYTES: usize = 64 << 10;

const LISTENER: u64 = u64::MAX;

struct Source {
    stream: UnixStream,
    lane: u8,
}

/// Relays until it is killed.
pub(crate) fn run(socket: &Path, split: bool) -> Result<()> {
    let listener = UnixListener::bind(socket).with_context(|| format!("cannot listen at {}", socket.display()))?;
    listener.set_nonblocking(true)?;
    let epoll = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC)?;
    epoll.add(&listener, EpollEvent::new(EpollFlags::EPOLLIN, LISTENER))?;
    let mut sources: Vec<Option<Source>> = Vec::new();
    let mut sinks: Vec<Vec<UnixStream>> = (0..=u8::MAX).map(|_| Vec::new()).collect();
    let mut buffer = vec![0; CHUNK_BYTES];
    let mut events = [EpollEvent::empty(); 64];
    loop {
        let count = epoll.wait(&mut events, EpollTimeout::NONE)?;
        for event in &events[..count] {
            if event.data() == LISTENER {
                accept(&listener, &epoll, &mut sources, &mut sinks)?;
                continue;
            }
            let at = usize::try_from(event.data())?;
            let Some(slot) = sources.get_mut(at) else { continue };
            let Some(source) = slot else { continue };
            match source.stream.read(&mut buffer) {
                Ok(0) => *slot = None,
                Ok(read) => forward(&buffer[..read], &mut sinks[usize::from(source.lane)], split),
                Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted) => {}
                Err(_) => *slot = None,
            }
        }
    }
}

/// A subscriber that is gone gets nothing more; the run has failed anyway if it was needed.
fn forward(bytes: &[u8], sinks: &mut [UnixStream], split: bool) {
    if split && !sinks.is_empty() {
        let part = bytes.len().div_ceil(sinks.len());
        for (sink, part) in sinks.iter_mut().zip(bytes.chunks(part)) {
            let _ = sink.write_all(part);
        }
    } else {
        for sink in sinks {
            let _ = sink.write_all(bytes);
        }
    }
}

fn accept(
    listener: &UnixListener,
    epoll: &Epoll,
    sources: &mut Vec<Option<Source>>,
    sinks: &mut [Vec<UnixStream>],
) -> Result<()> {
    loop {
        let mut stream = match listener.accept() {
            Ok((stream, _)) => stream,
            Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(()),
            Err(error) => return Err(error).context("cannot accept"),
        };
        // Clients say at once what they are; one that goes without a word was looking whether somebody listens.
        let mut hello = [0; 2];
        if stream.read_exact(&mut hello).is_err() {
            continue;
        }
        let [role, lane] = hello;
        match role {
            PUBLISHER => {
                stream.write_all(&[READY])?;
                stream.set_nonblocking(true)?;
                epoll.add(stream.as_fd(), EpollEvent::new(EpollFlags::EPOLLIN, sources.len() as u64))?;
                sources.push(Some(Source { stream, lane }));
            }
            SUBSCRIBER => {
                stream.write_all(&[READY])?;
                sinks[usize::from(lane)].push(stream);
            }
            other => bail!("a client of role {other}"),
        }
    }
}
