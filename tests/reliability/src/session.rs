//! A session made of frames, for tests that have to see each of them.

use std::io::ErrorKind;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use bytes::BytesMut;
use libeevee::wire::limits::FRAME_BYTES_MAX;
use libeevee::wire::{Content, Frame, Grant, Hello, Role, Subscribe, VERSION, Welcome, split_frame};
use tokio::net::UnixStream;

/// How much is read at once.
const CHUNK_BYTES: usize = 256 << 10;

/// A window that never closes.
pub const NO_WINDOW: Grant = Grant { messages: 1 << 40, bytes: 1 << 50 };

/// One connection that was welcomed.
#[derive(Debug)]
pub struct Session {
    stream: UnixStream,
    input: BytesMut,
    output: Vec<u8>,
    ended: bool,
    pub welcome: Welcome,
}

/// A Hello of operator `id`, or of a person's tool.
pub fn hello(id: Option<&str>, instance: u64) -> Frame {
    let role = if id.is_some() { Role::Operator } else { Role::Tool };
    Frame::new(
        0,
        Content::Hello(Hello {
            version_min: VERSION,
            version_max: VERSION,
            role: role as u8,
            id: id.map(str::to_owned),
            token: String::new(),
            instance,
            program: "reliability".into(),
            capabilities: Vec::new(),
        }),
    )
}

/// A subscription with the bus's defaults and this window.
pub fn subscribe(filter: &str, durable: Option<&str>, window: Grant) -> Subscribe {
    Subscribe {
        filters: vec![filter.to_owned()],
        overflow: 0,
        queue_messages: 0,
        queue_bytes: 0,
        max_age_ms: 0,
        window_messages: window.messages,
        window_bytes: window.bytes,
        durable: durable.map(str::to_owned),
    }
}

impl Session {
    /// Connects and says hello.
    ///
    /// # Errors
    /// When nobody listens, the connection is cut, or the bus refuses.
    pub async fn connect(socket: &Path, id: Option<&str>, instance: u64) -> Result<Self> {
        let stream = UnixStream::connect(socket).await?;
        let welcome = Welcome {
            version: 0,
            identity: String::new(),
            session: 0,
            boot: 0,
            last_id: 0,
            frame_bytes_max: 0,
            credit_messages: 0,
            credit_bytes: 0,
            halted: false,
            module: None,
            capabilities: Vec::new(),
        };
        let mut session = Self { stream, input: BytesMut::new(), output: Vec::new(), ended: false, welcome };
        session.send(&hello(id, instance));
        match session.frame().await?.content {
            Content::Welcome(welcome) => session.welcome = welcome,
            other => bail!("the bus answered Hello with {other:?}"),
        }
        Ok(session)
    }

    /// Puts a frame behind what is to be written with the next [`Session::turn`].
    pub fn send(&mut self, frame: &Frame) {
        frame.encode_into(&mut self.output);
    }

    /// The same with a frame that was encoded before.
    pub fn send_bytes(&mut self, bytes: &[u8]) {
        self.output.extend_from_slice(bytes);
    }

    pub const fn has_output(&self) -> bool {
        !self.output.is_empty()
    }

    /// Writes what waits, reads what came, until something came or `wake`. `false` at the end of the connection, after
    /// everything that came before it was given to `take`.
    ///
    /// # Errors
    /// When the bytes are no frames: that is never right.
    pub async fn turn(&mut self, wake: Option<Instant>, mut take: impl FnMut(Frame) -> Result<()>) -> Result<bool> {
        if !self.write_some() {
            self.output.clear();
        }
        while !self.ended {
            if self.read_some() {
                break;
            }
            let writes = self.has_output();
            tokio::select! {
                ready = self.stream.readable() => self.ended |= ready.is_err(),
                ready = self.stream.writable(), if writes => {
                    // A peer that is gone may still have said something.
                    if ready.is_err() || !self.write_some() {
                        self.output.clear();
                    }
                }
                () = async { tokio::time::sleep_until(wake.unwrap_or_else(Instant::now).into()).await }, if wake.is_some() => break,
            }
        }
        while let Some(bytes) = split_frame(&mut self.input, FRAME_BYTES_MAX).context("no frame of the bus")? {
            if let Some(frame) = Frame::decode(bytes).context("no frame of the bus")? {
                take(frame)?;
            }
        }
        Ok(!self.ended)
    }

    /// The next frame alone, for exchanges of one question and one answer.
    ///
    /// # Errors
    /// When the connection ends instead.
    pub async fn frame(&mut self) -> Result<Frame> {
        loop {
            if let Some(bytes) = split_frame(&mut self.input, FRAME_BYTES_MAX)? {
                match Frame::decode(bytes)? {
                    Some(frame) => return Ok(frame),
                    None => continue,
                }
            }
            if self.ended {
                bail!("the bus closed the connection");
            }
            if !self.write_some() {
                // It is gone, which the next read will tell.
                self.output.clear();
            }
            if !self.read_some() {
                let writes = self.has_output();
                tokio::select! {
                    ready = self.stream.readable() => ready?,
                    ready = self.stream.writable(), if writes => ready?,
                }
            }
        }
    }

    /// Says goodbye without a word: everything that was sent is read by the bus before it sees the end.
    ///
    /// # Errors
    /// When what still comes is refused by `take`.
    pub async fn leave(mut self, mut take: impl FnMut(Frame) -> Result<()>) -> Result<()> {
        use tokio::io::AsyncWriteExt;
        while self.has_output() && self.turn(Some(Instant::now() + Duration::from_millis(1)), &mut take).await? {}
        let _ = self.stream.shutdown().await;
        while self.turn(None, &mut take).await? {}
        Ok(())
    }

    /// Asks with a Control verb; nothing else may be under way on this session.
    ///
    /// # Errors
    /// When the bus refuses, or closes.
    pub async fn control(&mut self, verb: &str, argument: &str) -> Result<serde_json::Value> {
        let control = libeevee::wire::Control { verb: verb.into(), id: String::new(), argument: argument.into() };
        self.send(&Frame::new(1, Content::Control(control)));
        match self.frame().await?.content {
            Content::Answer(answer) => Ok(serde_json::from_str(&answer.text)?),
            other => bail!("the bus answered {verb} with {other:?}"),
        }
    }

    /// Whether there was something to read, be it the end.
    fn read_some(&mut self) -> bool {
        self.input.reserve(CHUNK_BYTES);
        match self.stream.try_read_buf(&mut self.input) {
            Ok(0) => self.ended = true,
            Ok(_) => {}
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted) => return false,
            Err(_) => self.ended = true,
        }
        true
    }

    /// False when nothing can be written any more.
    fn write_some(&mut self) -> bool {
        while !self.output.is_empty() {
            match self.stream.try_write(&self.output) {
                Ok(count) => drop(self.output.drain(..count)),
                Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted) => break,
                Err(_) => return false,
            }
        }
        true
    }
}
