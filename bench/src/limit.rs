//! The physical limit: a relay that copies bytes between Unix stream sockets without looking at them. No broker on such
//! sockets, in one thread, can be faster; what it lacks of this is what it does beside copying.
//!
//! The peer starts this same program as a process of its own (see relay.rs), and speaks the frames of eevee to it, so that
//! as many bytes go through as eevee gets. They are counted, not parsed.

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use anyhow::{Result, ensure};

use crate::eevee::frames;
use crate::peer::{Broker, Interest, Message, Needs, Peer, Publisher, Stream, Subscriber};
use crate::process::{Process, connect_unix};
use crate::relay::{PUBLISHER, READY, SUBSCRIBER};

pub(crate) struct Limit;

struct Running {
    process: Process,
    socket: PathBuf,
    message_bytes: u64,
    /// Bytes of all subscribers together, where each message goes to one of them, and may be cut in two.
    together: Option<Arc<AtomicU64>>,
}

struct Source(Stream);

struct Sink {
    stream: Stream,
    message_bytes: u64,
    bytes: Arc<AtomicU64>,
}

impl Peer for Limit {
    fn name(&self) -> &'static str {
        "limit"
    }

    fn version(&self) -> Result<String> {
        Ok("limit: a relay that copies bytes".to_owned())
    }

    fn start(&self, place: &Path, needs: &Needs) -> Result<Box<dyn Broker>> {
        let socket = place.join("relay.sock");
        // This very program, also when a new one was built in its place.
        let mut command = Command::new("/proc/self/exe");
        command.arg("--relay").arg(&socket);
        if needs.split {
            command.arg("--split");
        }
        let mut process = Process::spawn(&mut command, &place.join("relay.log"))?;
        drop(connect_unix(&socket, &mut process)?);
        let together = needs.split.then(Arc::default);
        Ok(Box::new(Running { process, socket, message_bytes: needs.relay_bytes as u64, together }))
    }
}

impl Running {
    fn connect(&self, role: u8, lane: u8) -> Result<Stream> {
        let mut stream = UnixStream::connect(&self.socket)?;
        stream.write_all(&[role, lane])?;
        let mut ready = [0];
        stream.read_exact(&mut ready)?;
        ensure!(ready == [READY], "the relay is not ready");
        Ok(Stream::Unix(stream))
    }
}

impl Broker for Running {
    fn processes(&self) -> Vec<&Process> {
        vec![&self.process]
    }

    fn publisher(&self, lane: u8) -> Result<Box<dyn Publisher>> {
        Ok(Box::new(Source(self.connect(PUBLISHER, lane)?)))
    }

    fn subscriber(&self, lane: u8, _interests: &[Interest]) -> Result<Box<dyn Subscriber>> {
        let bytes = self.together.clone().unwrap_or_default();
        Ok(Box::new(Sink { stream: self.connect(SUBSCRIBER, lane)?, message_bytes: self.message_bytes, bytes }))
    }
}

impl Publisher for Source {
    fn stream(&self) -> &Stream {
        &self.0
    }

    fn encode(&mut self, message: &Message, out: &mut Vec<u8>) {
        frames::publish(message, None, out);
    }

    fn feed(&mut self, _input: &[u8], _output: &mut Vec<u8>) -> Result<()> {
        Ok(())
    }
}

impl Subscriber for Sink {
    fn stream(&self) -> &Stream {
        &self.stream
    }

    fn feed(&mut self, input: &[u8], _output: &mut Vec<u8>) -> Result<u64> {
        let before = self.bytes.fetch_add(input.len() as u64, Ordering::Relaxed);
        Ok((before + input.len() as u64) / self.message_bytes - before / self.message_bytes)
    }
}
