//! ZeroMQ: a proxy from XSUB to XPUB on ipc:// sockets, and clients that speak ZMTP 3.0 to it.
//!
//! The proxy is a page of C, compiled when it is first needed with the compiler that Rust links with: so nothing of the
//! workspace depends on libzmq, and what is measured is libzmq's own loop, started as fast as a program can.

use std::io::{ErrorKind, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Mutex, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use tempfile::TempDir;

use super::client::{Client, Frame, Protocol};
use super::version;
use crate::peer::{Broker, Interest, Message, Needs, Peer, Publisher, Stream, Subscriber};
use crate::process::{self, Process};

/// libzmq's default; with two cores for all, two are no faster.
const IO_THREADS: &str = "1";

/// Ends a topic: subscriptions are prefixes, and `c-1` shall not get what is for `c-10`.
const TOPIC_END: u8 = 0;

const MORE: u8 = 1;
const LONG: u8 = 2;
const COMMAND: u8 = 4;

#[derive(Debug, Default)]
pub(super) struct Zmq {
    /// Where the proxy was compiled, for all starts.
    compiled: OnceLock<TempDir>,
}

impl Zmq {
    fn program(&self) -> Result<PathBuf> {
        if let Some(place) = self.compiled.get() {
            return Ok(place.path().join("zmq_proxy"));
        }
        let place = tempfile::tempdir()?;
        let source = place.path().join("zmq_proxy.c");
        let program = place.path().join("zmq_proxy");
        std::fs::write(&source, include_str!("zmq_proxy.c"))?;
        let compiled = Command::new("cc")
            .args(["-O2", "-o"])
            .args([&program, &source])
            .arg("-lzmq")
            .output()
            .context("there is no C compiler (cc): install gcc")?;
        ensure!(
            compiled.status.success(),
            "the proxy does not compile; is libzmq3-dev installed?\n{}",
            String::from_utf8_lossy(&compiled.stderr)
        );
        // Another thread's may have come first; then this one's is removed again.
        let place = self.compiled.get_or_init(|| place);
        Ok(place.path().join("zmq_proxy"))
    }
}

impl Peer for Zmq {
    fn name(&self) -> &'static str {
        "zmq"
    }

    fn version(&self) -> Result<String> {
        version(self.program()?, &[], |said| Some(said.trim().to_owned()))
    }

    fn start(&self, place: &Path, _needs: &Needs) -> Result<Box<dyn Broker>> {
        let (publishers, subscribers) = (place.join("xsub.sock"), place.join("xpub.sock"));
        let mut command = Command::new(self.program()?);
        command.arg(IO_THREADS);
        for socket in [&publishers, &subscribers] {
            command.arg(format!("ipc://{}", socket.display()));
        }
        let mut process = Process::spawn(&mut command, &place.join("zmq.log"))?;
        // The one that it binds last.
        process::connect_unix(&subscribers, &mut process)?;
        Ok(Box::new(Running { process, publishers, subscribers, prober: Mutex::new(None) }))
    }
}

struct Running {
    process: Process,
    publishers: PathBuf,
    subscribers: PathBuf,
    /// A publisher of probes, and how many subscribers it was for.
    prober: Mutex<Option<(UnixStream, u64)>>,
}

impl Broker for Running {
    fn processes(&self) -> Vec<&Process> {
        vec![&self.process]
    }

    fn publisher(&self, _lane: u8) -> Result<Box<dyn Publisher>> {
        Ok(Box::new(Client::<Zmtp>::new(Stream::Unix(connect(&self.publishers, "PUB")?))?))
    }

    fn subscriber(&self, _lane: u8, interests: &[Interest]) -> Result<Box<dyn Subscriber>> {
        let stream = connect(&self.subscribers, "SUB")?;
        let mut subscriptions = Vec::new();
        for Interest { key, .. } in interests {
            subscription(true, key, &mut subscriptions);
        }
        (&stream).write_all(&subscriptions)?;
        self.probe(&stream)?;
        Ok(Box::new(Client::<Zmtp>::new(Stream::Unix(stream))?))
    }
}

impl Running {
    /// ZMTP acknowledges no subscription, but takes them in order: one more, and what is published for it arrives once
    /// it and all before it are in force.
    fn probe(&self, stream: &UnixStream) -> Result<()> {
        let mut prober = self.prober.lock().unwrap_or_else(PoisonError::into_inner);
        if prober.is_none() {
            let connection = connect(&self.publishers, "PUB")?;
            connection.set_nonblocking(true)?;
            *prober = Some((connection, 0));
        }
        let Some((prober, count)) = prober.as_mut() else { bail!("no prober") };
        *count += 1;
        let topic = format!("probe-{count}");
        let (mut subscribe, mut unsubscribe, mut probe, mut last) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
        subscription(true, &topic, &mut subscribe);
        subscription(false, &topic, &mut unsubscribe);
        frame(&topic, b"probe", &mut probe);
        frame(&topic, b"last", &mut last);
        let mut stream = stream;
        stream.write_all(&subscribe)?;
        stream.set_nonblocking(true)?;
        let deadline = Instant::now() + Duration::from_secs(60);
        let mut came = Vec::new();
        while came.is_empty() {
            ensure!(Instant::now() < deadline, "no subscription came into force in a minute");
            drain(prober, &mut Vec::new())?;
            prober.write_all(&probe)?;
            std::thread::sleep(Duration::from_micros(50));
            drain(stream, &mut came)?;
        }
        // After it no probe is under way any more that could be taken for a message.
        prober.write_all(&last)?;
        while !came.ends_with(&last) {
            ensure!(Instant::now() < deadline, "a probe was lost");
            std::thread::sleep(Duration::from_micros(50));
            drain(stream, &mut came)?;
        }
        stream.set_nonblocking(false)?;
        Ok(stream.write_all(&unsubscribe)?)
    }
}

/// Reads what is there.
fn drain(mut stream: &UnixStream, into: &mut Vec<u8>) -> Result<()> {
    let mut buffer = [0; 4096];
    loop {
        match stream.read(&mut buffer) {
            Ok(0) => bail!("the proxy closed the connection"),
            Ok(read) => into.extend_from_slice(&buffer[..read]),
            Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(()),
            Err(error) => return Err(error.into()),
        }
    }
}

/// Connects as a socket of this type: greetings, then READY from either side.
fn connect(path: &Path, kind: &str) -> Result<UnixStream> {
    let stream = UnixStream::connect(path)?;
    let mut greeting = [0; 64];
    greeting[0] = 0xff;
    greeting[9] = 0x7f;
    greeting[10] = 3;
    greeting[12..16].copy_from_slice(b"NULL");
    (&stream).write_all(&greeting)?;
    let mut ready = vec![COMMAND, 0];
    ready.extend_from_slice(b"\x05READY\x0bSocket-Type\0\0\0\x03");
    ready.extend_from_slice(kind.as_bytes());
    ready[1] = u8::try_from(ready.len() - 2)?;
    (&stream).write_all(&ready)?;
    let client = Client::<Zmtp>::new(Stream::Unix(stream.try_clone()?))?;
    let theirs = client.preamble(|bytes| bytes.len() == greeting.len())?;
    ensure!(theirs[0] == 0xff && theirs[10] >= 3, "no ZMTP 3: {theirs:?}");
    let said = client.preamble(|bytes| bytes.len() > 2 && bytes.len() == 2 + usize::from(bytes[1]))?;
    ensure!(said[0] == COMMAND && said[2..].starts_with(b"\x05READY"), "the proxy refuses: {said:?}");
    Ok(stream)
}

fn subscription(subscribe: bool, topic: &str, out: &mut Vec<u8>) {
    // As a message whose first byte says so: ZMTP 3.0's way, commands are 3.1's.
    out.extend_from_slice(&[0, u8::try_from(topic.len() + 2).unwrap_or(u8::MAX), u8::from(subscribe)]);
    out.extend_from_slice(topic.as_bytes());
    out.push(TOPIC_END);
}

/// One frame: topic and payload in two would be two messages' work.
fn frame(topic: &str, payload: &[u8], out: &mut Vec<u8>) {
    let length = topic.len() + 1 + payload.len();
    match u8::try_from(length) {
        Ok(length) => out.extend_from_slice(&[0, length]),
        Err(_) => {
            out.push(LONG);
            out.extend_from_slice(&(length as u64).to_be_bytes());
        }
    }
    out.extend_from_slice(topic.as_bytes());
    out.push(TOPIC_END);
    out.extend_from_slice(payload);
}

struct Zmtp;

impl Protocol for Zmtp {
    fn frame(head: &[u8]) -> Result<Frame> {
        let &[flags, short, ref rest @ ..] = head else { return Ok(Frame::Unfinished) };
        ensure!(flags & !(MORE | LONG | COMMAND) == 0, "no frame of ZMTP 3: flags {flags:#x}");
        let bytes = if flags & LONG == 0 {
            2 + usize::from(short)
        } else {
            let Some(low) = rest.first_chunk::<7>() else { return Ok(Frame::Unfinished) };
            9 + usize::try_from(low.iter().fold(u64::from(short), |length, &byte| length << 8 | u64::from(byte)))?
        };
        Ok(if flags & (MORE | COMMAND) == 0 { Frame::Message(bytes) } else { Frame::Other(bytes) })
    }

    fn encode(message: &Message, out: &mut Vec<u8>) {
        frame(message.key(), &message.payload(), out);
    }
}

#[cfg(test)]
mod tests {
    use super::{Protocol, Zmtp};
    use crate::peers::client::tests::{check, message};

    #[test]
    fn counts_messages_among_the_rest() {
        let mut bytes = b"\x04\x06\x05READY".to_vec();
        Zmtp::encode(&message(), &mut bytes);
        let mut small = message();
        small.body.clear();
        Zmtp::encode(&small, &mut bytes);
        check::<Zmtp>(&bytes, 2, b"");
    }
}
