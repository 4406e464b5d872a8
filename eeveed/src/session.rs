//! The task of one connection: bytes in, frames to the core; frames from the core, bytes out.
//!
//! It reads a large chunk at a time and gives the core all frames of it at once, then lets the others have their turn. It
//! always goes on reading, except while the peer does not take the answers to its own requests.

use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::rc::Rc;
use std::task::Poll;
use std::time::Duration;

use bytes::Bytes;
use libeevee::wire::{Code, Content, Frame, Refusal, WireError, frame_length};
use tokio::net::UnixStream;
use tokio::time::{Instant, Sleep, sleep_until, timeout};

use crate::core::{Chunk, Event, Rest, SessionKey, refusal};
use crate::handover::Kept;
use crate::handshake::{self, Kernel, Outcome};
use crate::hub::Hub;
use crate::listener::{Counted, Waiting};
use crate::outlet::{Left, Outlet, Waited};

/// How much is read at once. Several sessions have their turns between two such chunks.
const CHUNK_BYTES: usize = 256 << 10;

/// Beyond this much, the beginning of a frame is read on where it lies; and it is counted as memory.
const PART_BYTES: usize = 64 << 10;

/// The first frame comes from somebody unknown.
const HELLO_BYTES_MAX: usize = 64 << 10;
const HELLO_CHUNK_BYTES: usize = 2 << 10;

/// How long the rest of a large frame waits for memory before it is tried again. Nobody tells when there is some.
const MEMORY_TIME: Duration = Duration::from_millis(100);

/// A frame that was begun has to be finished within this time.
const FRAME_TIME: Duration = Duration::from_secs(10);

/// How long a session that is ending may take to read its last frames.
const FAREWELL_TIME: Duration = Duration::from_secs(1);

/// How long a launcher may keep its connection after its answer.
const LAUNCHER_TIME: Duration = Duration::from_secs(5);

/// One connection until its Hello is judged. What comes of it has a task of its own, which is much smaller: there may be
/// thousands that are idle.
pub(crate) async fn greet(counted: Counted, stream: UnixStream, kernel: Kernel, waiting: Waiting, input: Vec<u8>) {
    let hub = counted.hub.clone();
    let limits = hub.limits();
    let mut connection = Connection::new(Outlet::new(stream, Vec::new()), input, limits.frame_bytes);
    let hello = tokio::select! {
        hello = timeout(limits.handshake_time, connection.first_frame(limits.frame_bytes.min(HELLO_BYTES_MAX))) => hello.unwrap_or_else(|_| {
            let text = format!("no Hello within {} s", limits.handshake_time.as_secs());
            Err(Some(refusal(Code::HandshakeTimeout, text)))
        }),
        () = waiting.displaced() => Err(Some(refusal(Code::HandshakeTimeout, "too many connections wait with their Hello"))),
        () = hub.handover.draining() => return connection.hand_over(&hub, None),
    };
    drop(waiting);
    let judging = hub.handover.judging();
    let outcome = match hello {
        Ok(frame) => handshake::judge(&hub, kernel, frame).await.map_err(Some),
        Err(refusal) => Err(refusal),
    };
    match outcome {
        Ok(Outcome::Join { identity, peer, module }) => {
            let key = hub.open(&connection.outlet);
            hub.step(Event::Join { session: key, identity, peer, module });
            drop(judging);
            tokio::task::spawn_local(connection.serve(counted, key));
        }
        Ok(Outcome::Launch(welcome)) => {
            connection.farewell(&hub, welcome.encode()).await;
            drop(judging);
            // It closes when it has read its answer; a byte more is nothing that it may send.
            let mut byte = [0];
            let closed = timeout(LAUNCHER_TIME, async {
                let stream = &connection.outlet.stream;
                stream.readable().await.is_ok() && stream.try_read(&mut byte).is_ok()
            });
            tokio::select! {
                _ = closed => {}
                () = hub.handover.draining() => {}
            }
        }
        Err(Some(refusal)) => {
            hub.refused(kernel, &refusal);
            connection.farewell(&hub, Frame::new(0, Content::Error(refusal)).encode()).await;
        }
        Err(None) => tracing::debug!("uid {} closed before its Hello", kernel.uid),
    }
}

/// A session that the last run handed over, to its end. `unwritten` is what comes before everything that the core has for
/// it, and stands in the outlet.
pub(crate) fn resume(
    counted: Counted,
    key: SessionKey,
    outlet: Rc<Outlet>,
    input: Vec<u8>,
    unwritten: usize,
    frame_bytes_max: usize,
) {
    counted.hub.with_core(|core| core.count_unwritten(key, unwritten));
    let connection = Connection::resume(outlet, input, frame_bytes_max);
    tokio::task::spawn_local(connection.serve(counted, key));
}

/// Closes the session when its task ends, even by a panic: then the id that it held must be free, and others go on.
struct Joined {
    counted: Counted,
    key: SessionKey,
    /// The next run goes on with it.
    handed_over: bool,
}

impl Drop for Joined {
    fn drop(&mut self) {
        if self.handed_over {
            self.counted.hub.detach(self.key);
        } else {
            self.counted.hub.close(self.key);
        }
    }
}

/// A session's task, in the order in which it is given up.
struct Served {
    joined: Joined,
    connection: Connection,
}

struct Connection {
    outlet: Rc<Outlet>,
    /// Read and not dealt with: the beginning of a frame, or what waits for the peer to read its answers.
    input: Vec<u8>,
    /// What this peer was told that a frame may have.
    frame_bytes_max: usize,
    /// Since when a frame has been incomplete.
    partial_since: Option<Instant>,
    /// Whether there may be whole frames in `input`.
    held: bool,
    /// Whether it waits for more, and for its peer to take what is written.
    reads: bool,
    writes: bool,
    /// When it has waited long enough. It stands apart, because an idle session has none.
    timer: Option<Pin<Box<Sleep>>>,
    /// How much of `input` the core counts as memory.
    counted: usize,
}

/// What a session does next.
#[derive(Clone, Copy)]
enum Next {
    /// What is left of its bytes, after the others had their turn.
    Turn,
    Wait,
    /// What stands in its input is written, and then it is over.
    Farewell,
    Over,
}

impl Served {
    /// Serves the session. Between two looks there is nothing to keep but what stands in `self`: it would stand in the task
    /// of every idle session, too.
    fn run(&mut self) -> impl Future<Output = ()> {
        // Frames may have come together with Hello, or wait since the last run.
        self.connection.held = !self.connection.input.is_empty();
        async move {
            loop {
                match self.next() {
                    Next::Turn => {
                        tokio::task::yield_now().await;
                        continue;
                    }
                    Next::Wait => {}
                    Next::Farewell => {
                        let last = std::mem::take(&mut self.connection.input);
                        Box::pin(self.connection.farewell(&self.joined.counted.hub, last)).await;
                        return;
                    }
                    Next::Over => return,
                }
                let waited = self.connection.wait().await;
                match self.look(waited) {
                    Read::Full => tokio::task::yield_now().await,
                    Read::Failed => return,
                    Read::All | Read::End => {}
                }
            }
        }
    }

    fn next(&mut self) -> Next {
        let Self { joined: Joined { counted, key, handed_over }, connection } = self;
        let (hub, key) = (&counted.hub, *key);
        let outlet = connection.outlet.clone();
        let closing = outlet.closing.get();
        if hub.handover.is_collecting() && !closing {
            *handed_over = true;
            connection.hand_over(hub, Some(key));
            return Next::Over;
        }
        if !closing && hub.flush(key, &outlet) == Left::More {
            return Next::Turn;
        }
        if outlet.broken.get() {
            return Next::Over;
        }
        let writes = outlet.has_output();
        if closing {
            // Behind what is half written, the error that ends it.
            let mut last = Chunk::Own(outlet.take_output());
            hub.with_core(|core| core.output(hub.now(), key, 0, &mut last));
            connection.input = last.into_vec();
            return Next::Farewell;
        }
        // Everything that came before a half close is answered, also what is still being carried out.
        let ended = outlet.ended.get();
        if ended && !writes && !connection.held && !hub.with_core(|core| core.is_at_work(key)) {
            return Next::Over;
        }
        let has_room = hub.with_core(|core| core.takes_frames(key));
        let takes = has_room && !hub.handover.is_draining();
        if takes && connection.held {
            let input = std::mem::take(&mut connection.input);
            connection.take_held(hub, key, input);
            return Next::Turn;
        }
        let starved = connection.input.len() > PART_BYTES && !hub.with_core(|core| core.has_room_for(key));
        if !takes || ended {
            // The rest of a frame cannot come while nobody reads it. (One that finds no memory has no longer than others:
            // otherwise such frames could hold all memory for ever.)
            connection.partial_since = None;
        }
        (connection.reads, connection.writes) = (takes && !ended && !starved, writes);
        let again = starved.then(|| Instant::now() + MEMORY_TIME);
        connection.timer = again.into_iter().chain(connection.overdue()).min().map(|at| Box::pin(sleep_until(at)));
        Next::Wait
    }

    /// After it has waited.
    fn look(&mut self, waited: Option<Waited>) -> Read {
        let Self { joined: Joined { counted, key, .. }, connection } = self;
        let (hub, key) = (&counted.hub, *key);
        // There may be memory now, or it has been too long. Then the rest may lie in the socket: the bus, not its peer, may
        // have been slow.
        let (since, overdue) = (connection.partial_since, connection.overdue());
        let is_late = waited.is_none() && overdue.is_some_and(|overdue| Instant::now() >= overdue);
        let read = match waited {
            Some(Waited::Failed) => Read::Failed,
            Some(Waited::Woken) => Read::All,
            // It may have begun to wait before. (What is written, is written above.)
            Some(Waited::Readable) if hub.handover.is_draining() => Read::All,
            None if !is_late || !connection.reads => Read::All,
            Some(Waited::Readable) | None => connection.read(hub, key),
        };
        // Everything that came was handled; what is answered is still written (a half close).
        if read == Read::End {
            connection.outlet.ended.set(true);
        }
        if is_late && matches!(read, Read::All | Read::End) && connection.partial_since == since {
            connection.partial_since = None;
            let text = format!("a frame was begun and not finished within {} s", FRAME_TIME.as_secs());
            let limit = FRAME_TIME.as_secs();
            let error = WireError { code: Code::FrameTimeout, text, limit: Some(limit), value: None, number: 0 };
            hub.step(Event::BadFrame { session: key, error });
        }
        read
    }
}

/// What reading gave.
#[derive(PartialEq, Eq)]
enum Read {
    /// There may be more at once.
    Full,
    /// That was all for now.
    All,
    End,
    Failed,
}

impl Connection {
    fn new(outlet: Outlet, input: Vec<u8>, frame_bytes_max: usize) -> Self {
        Self::resume(Rc::new(outlet), input, frame_bytes_max)
    }

    const fn resume(outlet: Rc<Outlet>, input: Vec<u8>, frame_bytes_max: usize) -> Self {
        let (partial_since, timer) = (None, None);
        Self {
            outlet,
            input,
            frame_bytes_max,
            partial_since,
            held: false,
            reads: false,
            writes: false,
            timer,
            counted: 0,
        }
    }

    /// Waits until there is something to do; none when it took too long.
    fn wait(&mut self) -> impl Future<Output = Option<Waited>> {
        poll_fn(move |context| {
            if self.timer.as_mut().is_some_and(|timer| timer.as_mut().poll(context).is_ready()) {
                return Poll::Ready(None);
            }
            self.outlet.poll_wait(context, self.reads, self.writes).map(Some)
        })
    }

    /// When the frame that was begun has to be whole.
    fn overdue(&self) -> Option<Instant> {
        self.partial_since.map(|since| since + FRAME_TIME)
    }

    /// Gives all to the next run of the bus, with what is not written yet.
    fn hand_over(&mut self, hub: &Hub, session: Option<SessionKey>) {
        let output = self.outlet.take_output();
        if let Ok(stream) = self.outlet.descriptor() {
            let (input, frame_bytes_max) = (std::mem::take(&mut self.input), self.frame_bytes_max);
            hub.handover.keep(Kept { session, stream, input, output, frame_bytes_max });
        }
    }

    /// A session to its end.
    fn serve(self, counted: Counted, key: SessionKey) -> impl Future<Output = ()> {
        // Not the arguments of an `async fn`, which would stand in its future twice.
        let mut served = Served { joined: Joined { counted, key, handed_over: false }, connection: self };
        async move { served.run().await }
    }

    /// The first frame; `Err(None)` when the peer closed.
    async fn first_frame(&mut self, frame_bytes_max: usize) -> Result<Frame, Option<Refusal>> {
        let told = |error: WireError| match error.to_frame().content {
            Content::Error(refusal) => Some(refusal),
            _ => None,
        };
        loop {
            if let Some(length) = frame_length(&self.input, frame_bytes_max).map_err(told)? {
                let frame = Bytes::copy_from_slice(&self.input[4..length]);
                self.input.drain(..length);
                let decoded = Frame::decode(frame).map_err(told)?;
                return decoded.ok_or_else(|| Some(refusal(Code::Auth, "the first frame has to be Hello")));
            }
            if self.outlet.stream.readable().await.is_err() {
                return Err(None);
            }
            let mut chunk = [0; HELLO_CHUNK_BYTES];
            match self.outlet.read(&mut chunk) {
                Ok(Some(0)) | Err(_) => return Err(None),
                Ok(count) => self.input.extend_from_slice(&chunk[..count.unwrap_or(0)]),
            }
        }
    }

    /// Reads a chunk, and gives the core every whole frame of it, or as many as there is room for their answers.
    fn read(&mut self, hub: &Rc<Hub>, key: SessionKey) -> Read {
        if self.input.len() > PART_BYTES {
            return self.read_on(hub, key);
        }
        // The beginning of a frame is put before the rest of it.
        let mut chunk = hub.scratch.borrow_mut();
        chunk.resize(PART_BYTES + CHUNK_BYTES, 0);
        let before = self.input.len();
        let room = &mut chunk[..before + CHUNK_BYTES];
        room[..before].copy_from_slice(&self.input);
        let (read, count) = self.read_into(&mut room[before..]);
        if count > 0 {
            let all = &chunk[..before + count];
            let taken = self.take_frames(hub, key, all);
            self.keep(hub, key, taken > 0, |input| {
                input.clear();
                input.extend_from_slice(&all[taken..]);
            });
        }
        read
    }

    /// The same for the rest of a large frame, which is read where its beginning lies.
    fn read_on(&mut self, hub: &Rc<Hub>, key: SessionKey) -> Read {
        let mut input = std::mem::take(&mut self.input);
        let before = input.len();
        input.resize(before + PART_BYTES, 0);
        let (read, count) = self.read_into(&mut input[before..]);
        input.truncate(before + count);
        self.take_held(hub, key, input);
        read
    }

    /// Gives the core what was read before.
    fn take_held(&mut self, hub: &Rc<Hub>, key: SessionKey, mut all: Vec<u8>) {
        let taken = self.take_frames(hub, key, &all);
        all.drain(..taken);
        self.keep(hub, key, taken > 0, |input| *input = all);
    }

    fn read_into(&self, room: &mut [u8]) -> (Read, usize) {
        match self.outlet.read(room) {
            Ok(None) => (Read::All, 0),
            Ok(Some(0)) => (Read::End, 0),
            Ok(Some(count)) if count == room.len() => (Read::Full, count),
            Ok(Some(count)) => (Read::All, count),
            Err(_) => (Read::Failed, 0),
        }
    }

    /// How many bytes are dealt with.
    fn take_frames(&mut self, hub: &Rc<Hub>, key: SessionKey, input: &[u8]) -> usize {
        let taken = hub.take(key, input, self.frame_bytes_max);
        self.held = taken.rest == Rest::Held;
        if taken.rest == Rest::Broken { input.len() } else { taken.bytes }
    }

    /// Keeps what the core did not take; `any` if it took something before it.
    fn keep(&mut self, hub: &Hub, key: SessionKey, any: bool, rest: impl FnOnce(&mut Vec<u8>)) {
        rest(&mut self.input);
        if self.input.is_empty() {
            self.input = Vec::new();
            (self.held, self.partial_since) = (false, None);
        } else if any || self.held {
            // What is left began to come after the frames before it.
            self.partial_since = Some(Instant::now());
        } else {
            self.partial_since.get_or_insert_with(Instant::now);
        }
        // Room that a large frame left behind is nobody's.
        if self.input.len() <= PART_BYTES && self.input.capacity() > 2 * PART_BYTES {
            self.input.shrink_to_fit();
        }
        // What fits a chunk or two is not worth counting.
        let large = if self.input.len() > PART_BYTES { self.input.capacity() } else { 0 };
        if large != self.counted {
            self.counted = large;
            hub.with_core(|core| core.count_input(key, large));
        }
    }

    /// Writes the last bytes, as far as the peer takes them in time.
    async fn farewell(&self, hub: &Hub, bytes: Vec<u8>) {
        let all = async {
            let mut written = 0;
            while written < bytes.len() && self.outlet.stream.writable().await.is_ok() {
                match self.outlet.write(&bytes[written..]) {
                    Ok(count) => written += count,
                    Err(_) => return,
                }
            }
        };
        tokio::select! {
            biased;
            _ = timeout(FAREWELL_TIME, all) => {}
            () = hub.handover.collecting() => {}
        }
    }
}
