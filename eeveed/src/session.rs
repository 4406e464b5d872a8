//! The task of one connection: bytes in, frames to the core; frames from the core, bytes out.
//!
//! It reads a large chunk at a time and gives the core all frames of it at once, then lets the others have their turn. It
//! always goes on reading, except while the peer does not take the answers to its own requests.

use std::io::ErrorKind;
use std::rc::Rc;
use std::time::Duration;

use bytes::BytesMut;
use libeevee::wire::{Code, Content, Frame, Refusal, WireError, split_frame};
use tokio::net::UnixStream;
use tokio::time::{Instant, sleep, sleep_until, timeout};

use crate::core::{Event, SessionKey, refusal};
use crate::handover::Kept;
use crate::handshake::{self, Kernel, Outcome};
use crate::hub::{Hub, Outlet};
use crate::listener::Waiting;

/// How much is read at once. Several sessions have their turns between two such chunks.
const CHUNK_BYTES: usize = 64 << 10;

/// How much is taken from the core to be written at once.
const OUTPUT_BYTES: usize = 256 << 10;

/// Beyond this much of unread answers, the peer's requests have to wait.
const BACKLOG_BYTES: usize = 256 << 10;

/// The first frame comes from somebody unknown.
const HELLO_BYTES_MAX: usize = 64 << 10;

/// How long the rest of a large frame waits for memory before it is tried again. Nobody tells when there is some.
const MEMORY_TIME: Duration = Duration::from_millis(100);

/// A frame that was begun has to be finished within this time.
const FRAME_TIME: Duration = Duration::from_secs(10);

/// How long a session that is ending may take to read its last frames.
const FAREWELL_TIME: Duration = Duration::from_secs(1);

/// How long a launcher may keep its connection after its answer.
const LAUNCHER_TIME: Duration = Duration::from_secs(5);

/// One connection, from Hello to its end.
pub(crate) async fn serve(hub: Rc<Hub>, stream: UnixStream, kernel: Kernel, waiting: Waiting, input: BytesMut) {
    let _task = hub.handover.task();
    let limits = hub.limits();
    let mut connection = Connection::new(stream, input, limits.frame_bytes);
    let hello = tokio::select! {
        hello = timeout(limits.handshake_time, connection.first_frame(limits.frame_bytes.min(HELLO_BYTES_MAX))) => hello.unwrap_or_else(|_| {
            let text = format!("no Hello within {} s", limits.handshake_time.as_secs());
            Err(Some(refusal(Code::HandshakeTimeout, text)))
        }),
        () = waiting.displaced() => Err(Some(refusal(Code::HandshakeTimeout, "too many connections wait with their Hello"))),
        () = hub.handover.draining() => return connection.hand_over(&hub, None, Vec::new()),
    };
    drop(waiting);
    let judging = hub.handover.judging();
    let outcome = match hello {
        Ok(frame) => handshake::judge(&hub, kernel, frame).await.map_err(Some),
        Err(refusal) => Err(refusal),
    };
    match outcome {
        Ok(Outcome::Join { identity, peer, module }) => {
            let (key, outlet) = hub.open();
            hub.step(Event::Join { session: key, identity, peer, module });
            drop(judging);
            connection.run_to_the_end(&hub, key, &outlet, Vec::new()).await;
        }
        Ok(Outcome::Launch(welcome)) => {
            connection.farewell(&hub, &welcome.encode()).await;
            drop(judging);
            // It closes when it has read its answer; a byte more is nothing that it may send.
            let mut byte = [0];
            let closed = timeout(LAUNCHER_TIME, async {
                connection.stream.readable().await.is_ok() && connection.stream.try_read(&mut byte).is_ok()
            });
            tokio::select! {
                _ = closed => {}
                () = hub.handover.draining() => {}
            }
        }
        Err(Some(refusal)) => {
            hub.refused(kernel, &refusal);
            connection.farewell(&hub, &Frame::new(0, Content::Error(refusal)).encode()).await;
        }
        Err(None) => tracing::debug!("uid {} closed before its Hello", kernel.uid),
    }
}

/// A session that the last run handed over, to its end. `output` comes before everything that the core has for it.
pub(crate) async fn resume(
    hub: Rc<Hub>,
    key: SessionKey,
    outlet: &Outlet,
    stream: UnixStream,
    input: BytesMut,
    output: Vec<u8>,
    frame_bytes_max: usize,
) {
    let _task = hub.handover.task();
    hub.with_core(|core| core.count_unwritten(key, output.len()));
    Connection::new(stream, input, frame_bytes_max).run_to_the_end(&hub, key, outlet, output).await;
}

/// Closes the session when its task ends, even by a panic: then the id that it held must be free, and others go on.
struct Joined<'a> {
    hub: &'a Rc<Hub>,
    key: SessionKey,
    /// The next run goes on with it.
    handed_over: bool,
}

impl Drop for Joined<'_> {
    fn drop(&mut self) {
        if self.handed_over {
            self.hub.detach(self.key);
        } else {
            self.hub.close(self.key);
        }
    }
}

struct Connection {
    stream: UnixStream,
    input: BytesMut,
    /// What this peer was told that a frame may have.
    frame_bytes_max: usize,
    /// Since when a frame has been incomplete.
    partial_since: Option<Instant>,
    /// Whether there may be whole frames in `input` that wait for the peer to read the answers to those before.
    held: bool,
    /// How much of `input` the core counts as memory.
    counted: usize,
}

/// What reading gave.
enum Read {
    Chunk,
    End,
    Failed,
}

impl Connection {
    fn new(stream: UnixStream, input: BytesMut, frame_bytes_max: usize) -> Self {
        Self { stream, input, frame_bytes_max, partial_since: None, held: false, counted: 0 }
    }

    /// Gives all to the next run of the bus, with what is not written yet.
    fn hand_over(self, hub: &Hub, session: Option<SessionKey>, output: Vec<u8>) {
        if let Some(kept) = Kept::new(session, self.stream, self.input.to_vec(), output, self.frame_bytes_max) {
            hub.handover.keep(kept);
        }
    }

    async fn run_to_the_end(mut self, hub: &Rc<Hub>, key: SessionKey, outlet: &Outlet, output: Vec<u8>) {
        let mut joined = Joined { hub, key, handed_over: false };
        if let Some(unwritten) = self.run(hub, key, outlet, output).await {
            joined.handed_over = true;
            self.hand_over(hub, Some(key), unwritten);
        }
    }

    /// The first frame; `Err(None)` when the peer closed.
    async fn first_frame(&mut self, frame_bytes_max: usize) -> Result<Frame, Option<Refusal>> {
        let told = |error: WireError| match error.to_frame().content {
            Content::Error(refusal) => Some(refusal),
            _ => None,
        };
        loop {
            if let Some(bytes) = split_frame(&mut self.input, frame_bytes_max).map_err(told)? {
                let decoded = Frame::decode(bytes).map_err(told)?;
                return decoded.ok_or_else(|| Some(refusal(Code::Auth, "the first frame has to be Hello")));
            }
            if self.stream.readable().await.is_err() {
                return Err(None);
            }
            match self.read() {
                Read::Chunk => {}
                Read::End | Read::Failed => return Err(None),
            }
        }
    }

    /// Serves the session. What it has not written, if the next run goes on with it; none when it is over.
    async fn run(&mut self, hub: &Rc<Hub>, key: SessionKey, outlet: &Outlet, mut output: Vec<u8>) -> Option<Vec<u8>> {
        let mut written = 0;
        let mut ended = false;
        // Frames may have come together with Hello, or wait since the last run.
        self.held = !self.input.is_empty();
        loop {
            if hub.handover.is_collecting() && !outlet.closing.get() {
                return Some(output.split_off(written));
            }
            if written == output.len() {
                output.clear();
                written = 0;
                hub.output(key, OUTPUT_BYTES, &mut output);
            }
            let has_output = written < output.len();
            if !has_output {
                // An idle session holds no buffer.
                output = Vec::new();
                // Everything that came before a half close is answered, also what is still being carried out.
                let done = ended && !self.held && !hub.with_core(|core| core.is_at_work(key));
                if outlet.closing.get() || done {
                    return None;
                }
            } else if outlet.closing.get() {
                // Behind what is half written, the error that ends it.
                hub.output(key, 0, &mut output);
                self.farewell(hub, &output[written..]).await;
                return None;
            }
            let has_room = hub.with_core(|core| core.control_backlog(key)) < BACKLOG_BYTES;
            let takes = has_room && !hub.handover.is_draining();
            if takes && self.held {
                self.take_frames(hub, key);
                tokio::task::yield_now().await;
                continue;
            }
            let starved = self.input.len() > CHUNK_BYTES && !hub.with_core(|core| core.has_room_for(key));
            let reads = takes && !ended && !starved;
            if !takes || ended {
                // The rest of a frame cannot come while nobody reads it. (One that finds no memory has no longer than others:
                // otherwise such frames could hold all memory for ever.)
                self.partial_since = None;
            }
            let overdue = self.partial_since.map(|since| since + FRAME_TIME);
            tokio::select! {
                () = outlet.output.notified() => {}
                () = sleep(MEMORY_TIME), if starved => {}
                ready = self.stream.writable(), if has_output => {
                    if ready.is_err() || !self.write(&output, &mut written) {
                        return None;
                    }
                }
                ready = self.stream.readable(), if reads => {
                    // It may have begun to wait before.
                    if hub.handover.is_draining() {
                        continue;
                    }
                    match if ready.is_ok() { self.read() } else { Read::Failed } {
                        Read::Chunk => self.take_frames(hub, key),
                        // Everything that came was handled; what is answered is still written (a half close).
                        Read::End => ended = true,
                        Read::Failed => return None,
                    }
                    tokio::task::yield_now().await;
                }
                () = async { sleep_until(overdue.unwrap_or_else(Instant::now)).await }, if overdue.is_some() => {
                    self.partial_since = None;
                    let text = format!("a frame was begun and not finished within {} s", FRAME_TIME.as_secs());
                    let limit = FRAME_TIME.as_secs();
                    let error = WireError { code: Code::FrameTimeout, text, limit: Some(limit), value: None, number: 0 };
                    hub.step(Event::BadFrame { session: key, error });
                }
            }
        }
    }

    /// Gives the core every whole frame that was read, or as many as there is room for their answers.
    fn take_frames(&mut self, hub: &Rc<Hub>, key: SessionKey) {
        let (mut broken, mut all, mut any) = (false, false, false);
        let frame_bytes_max = self.frame_bytes_max;
        let input = &mut self.input;
        let events = std::iter::from_fn(|| {
            while !broken {
                match split_frame(input, frame_bytes_max).and_then(|bytes| bytes.map(Frame::decode).transpose()) {
                    Ok(None) => break,
                    Ok(Some(None)) => any = true, // A kind that may be skipped.
                    Ok(Some(Some(frame))) => {
                        any = true;
                        return Some(Event::Frame { session: key, frame });
                    }
                    Err(error) => {
                        (any, broken) = (true, error.code.closes());
                        return Some(Event::BadFrame { session: key, error });
                    }
                }
            }
            all = true;
            None
        });
        hub.step_while(events, |core| core.control_backlog(key) < BACKLOG_BYTES);
        self.held = !all && !broken;
        if broken || self.input.is_empty() {
            self.input = BytesMut::new();
            (self.held, self.partial_since) = (false, None);
        } else if any || self.held {
            // What is left began to come after the frames before it.
            self.partial_since = Some(Instant::now());
        } else {
            self.partial_since.get_or_insert_with(Instant::now);
        }
        // What fits a chunk or two is not worth counting.
        let large = if self.input.len() > CHUNK_BYTES { self.input.capacity() } else { 0 };
        if large != self.counted {
            self.counted = large;
            hub.with_core(|core| core.count_input(key, large));
        }
    }

    fn read(&mut self) -> Read {
        self.input.reserve(CHUNK_BYTES);
        match self.stream.try_read_buf(&mut self.input) {
            Ok(0) => Read::End,
            Ok(_) => Read::Chunk,
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted) => {
                if self.input.is_empty() {
                    self.input = BytesMut::new();
                }
                Read::Chunk
            }
            Err(_) => Read::Failed,
        }
    }

    fn write(&self, output: &[u8], written: &mut usize) -> bool {
        match self.stream.try_write(&output[*written..]) {
            Ok(count) => *written += count,
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted) => {}
            Err(_) => return false,
        }
        true
    }

    /// Writes the last bytes, as far as the peer takes them in time.
    async fn farewell(&self, hub: &Hub, bytes: &[u8]) {
        let all = async {
            let mut written = 0;
            while written < bytes.len() && self.stream.writable().await.is_ok() && self.write(bytes, &mut written) {}
        };
        tokio::select! {
            biased;
            _ = timeout(FAREWELL_TIME, all) => {}
            () = hub.handover.collecting() => {}
        }
    }
}
