//! The task that owns the socket: it always reads, writes what the handles queued, and connects again.
//!
//! Nothing here waits for a user: deliveries go into queues that their windows bound, answers to whoever asked.

use std::collections::HashMap;
use std::hash::{BuildHasherDefault, Hasher};
use std::io;
use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt;
use tokio::io::AsyncWriteExt;
use tokio::task::yield_now;
use tokio::time::{Instant, sleep, timeout};

use super::connect::{Connect, Link, PREDECESSOR};
use super::entry::{Flow, OpenGap, Run};
use super::events::Events;
use super::reconnect::Backoff;
use super::shared::{Phase, Shared, State, Taken, away};
use crate::error::{Error, ErrorKind};
use crate::wire::{Code, Content, Frame, Known, Text};

/// After so many messages their users have a turn before more is read: what was just written into a cache is still there.
const MANY: usize = 64;

/// A connection that lasted so long was a good one: the next attempt after it is made at once.
const GOOD_CONNECTION: Duration = Duration::from_secs(1);

/// How long the bus may take to close after our goodbye.
const GOODBYE: Duration = Duration::from_secs(2);

pub(super) struct Driver {
    pub(super) shared: Arc<Shared>,
    connect: Connect,
    pub(super) link: Link,
    /// Subscriptions that something was delivered to, so that a delivery needs no lock.
    pub(super) routes: HashMap<u32, Route, BuildHasherDefault<NumberHasher>>,
    /// Those of them that have something which is not handed over yet.
    pub(super) fed: Vec<u32>,
    /// How many messages were handed over since their users had a turn.
    pub(super) handed_over: usize,
    /// The highest message id that this client knows of.
    pub(super) highest: u64,
    /// What was taken from the outbox, and how much of it is written.
    writing: Vec<u8>,
    written: usize,
    ended: Vec<u32>,
    /// What the bus said before it closes.
    pub(super) bye: Option<String>,
    connected: Instant,
    /// Whether there was a connection before this one.
    again: bool,
    backoff: Backoff,
}

pub(super) struct Route {
    pub(super) events: Arc<Events>,
    /// What came with this piece of the stream, handed over before anything else is looked at, and with its end.
    pub(super) run: Run,
    /// For how many messages the next run has room.
    pub(super) room: usize,
    /// Of the message before: those of messages repeat.
    pub(super) known: Known,
    pub(super) flow: Arc<Flow>,
    /// Whether the age of its messages counts.
    pub(super) expires: bool,
    /// Of a durable subscription, where it is known what this process holds.
    pub(super) durable: Option<Arc<Shared>>,
    /// The gaps that were told since the last message, one of each reason.
    pub(super) gaps: Vec<OpenGap>,
}

/// Numbers of subscriptions are this client's own, so that nobody can make them collide.
#[derive(Default)]
pub(super) struct NumberHasher(u64);

impl Hasher for NumberHasher {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        bytes.iter().for_each(|byte| self.write_u32(u32::from(*byte)));
    }

    fn write_u32(&mut self, number: u32) {
        // The table uses the highest bits and the lowest ones.
        self.0 = (self.0 ^ u64::from(number)).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    }
}

impl Driver {
    pub(super) fn new(shared: Arc<Shared>, connect: Connect, link: Link, highest: u64) -> Self {
        Self {
            shared,
            connect,
            link,
            routes: HashMap::default(),
            fed: Vec::new(),
            handed_over: 0,
            highest,
            writing: Vec::new(),
            written: 0,
            ended: Vec::new(),
            bye: None,
            connected: Instant::now(),
            again: false,
            backoff: Backoff::default(),
        }
    }

    pub(super) async fn run(mut self) {
        let result = self.live().await;
        self.shared.end(result);
    }

    async fn live(&mut self) -> Result<(), Error> {
        loop {
            let shared = Arc::clone(&self.shared);
            let served = tokio::select! {
                served = self.serve() => served,
                reason = shared.given_up() => Err(reason),
            };
            let Err(reason) = served else { return Ok(()) };
            if !self.shared.lose(&reason, &self.writing, self.written) {
                return Err(reason.context("the connection was lost before everything was written"));
            }
            tracing::warn!("the connection to the bus is lost: {reason}");
            self.writing.clear();
            self.written = 0;
            if !self.connect.reconnect {
                return Err(reason);
            }
            if !self.reconnect().await? {
                return self.shared.unpublished();
            }
        }
    }

    /// True when connected again; false when the client was closed meanwhile.
    async fn reconnect(&mut self) -> Result<bool, Error> {
        let began = Instant::now();
        if began.duration_since(self.connected) > GOOD_CONNECTION {
            self.backoff = Backoff::default();
        }
        loop {
            let delay = self.backoff.next_delay();
            let attempt = async {
                sleep(delay).await;
                self.connect.attempt().await
            };
            let attempted = tokio::select! {
                attempted = attempt => attempted,
                () = self.shared.closed_while_away() => return Ok(false),
            };
            match attempted {
                Ok((link, welcome)) => {
                    self.connected = Instant::now();
                    self.again = true;
                    self.highest = welcome.last_id;
                    self.link = link;
                    self.bye = None;
                    self.routes.clear();
                    if self.shared.resume(welcome) {
                        tracing::info!("connected to the bus again after {:.1?}", began.elapsed());
                        return Ok(true);
                    }
                    return Ok(false);
                }
                Err(error) => match error.kind() {
                    ErrorKind::Auth | ErrorKind::Refused(Code::Denied) => return Err(error),
                    ErrorKind::Refused(Code::AlreadyConnected) if !self.connect.awaits_predecessor(began) => {
                        return Err(error);
                    }
                    _ => {
                        tracing::debug!("not connected yet: {error}");
                        self.shared.still_away(error);
                    }
                },
            }
        }
    }

    /// Whether this connection is so new that the bus may still know the one before it.
    pub(super) fn succeeds(&self) -> bool {
        self.again && self.connected.elapsed() < PREDECESSOR
    }

    /// Reads and writes until the client is closed and all is written, or the connection is lost.
    async fn serve(&mut self) -> Result<(), Error> {
        // What was read together with Welcome.
        self.accept(Ok(true))?;
        loop {
            if self.written == self.writing.len() {
                self.written = 0;
                let taken = self.shared.take(&mut self.writing, &mut self.ended);
                for number in self.ended.drain(..) {
                    self.routes.remove(&number);
                }
                if taken == Taken::Close {
                    return self.say_goodbye().await;
                }
            }
            let blocked = !self.write_some()?;
            // Reading goes first, and cannot starve writing, which is tried in each round.
            tokio::select! {
                biased;
                filled = self.link.read.fill() => {
                    self.accept(filled)?;
                    if self.handed_over >= MANY {
                        self.handed_over = 0;
                        yield_now().await;
                    }
                }
                ready = self.link.write.writable(), if blocked => ready.map_err(write_error)?,
                () = self.shared.wake.notified(), if !blocked => {}
            }
        }
    }

    /// True when all that was taken is written.
    fn write_some(&mut self) -> Result<bool, Error> {
        while self.written < self.writing.len() {
            match self.link.write.try_write(&self.writing[self.written..]) {
                Ok(0) => return Err(write_error(io::ErrorKind::WriteZero.into())),
                Ok(count) => self.written += count,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(false),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return self.lost_while_writing(error),
            }
        }
        Ok(true)
    }

    /// A bus that closes says why first, and its words still stand in the socket.
    fn lost_while_writing(&mut self, error: io::Error) -> Result<bool, Error> {
        while let Some(filled) = self.link.read.fill().now_or_never() {
            self.accept(filled)?;
        }
        Err(write_error(error))
    }

    /// Everything accepted is written: Bye, then wait until the bus has read it, so that closing cuts nothing off.
    async fn say_goodbye(&mut self) -> Result<(), Error> {
        self.writing = Frame::new(0, Content::Bye(Text { text: "closed by its program".into() })).encode();
        self.written = 0;
        let goodbye = async {
            while !self.write_some()? {
                tokio::select! {
                    filled = self.link.read.fill() => self.accept(filled)?,
                    ready = self.link.write.writable() => ready.map_err(write_error)?,
                }
            }
            self.link.write.shutdown().await.map_err(write_error)?;
            // Answers to what was in flight still come.
            loop {
                match self.link.read.fill().await {
                    Ok(false) => return Ok(()),
                    filled => self.accept(filled)?,
                }
            }
        };
        // Bye is a courtesy; all that was accepted is written before it.
        if let Ok(Err::<(), Error>(error)) = timeout(GOODBYE, goodbye).await {
            tracing::debug!("saying goodbye to the bus: {error}");
        }
        Ok(())
    }
}

impl Drop for Driver {
    /// A runtime that shuts down drops this task in the middle; nobody shall wait for it then.
    fn drop(&mut self) {
        self.shared.end(Err(Error::new(ErrorKind::Closed, "the runtime of this client's task was shut down")));
    }
}

fn write_error(error: io::Error) -> Error {
    Error::new(ErrorKind::Disconnected, format!("writing to the bus: {error}")).caused(error)
}

impl Shared {
    /// Comes back when somebody gave the connection up.
    async fn given_up(&self) -> Error {
        loop {
            self.gave_up.notified().await;
            if let Some(reason) = self.lock().given_up.take() {
                return reason;
            }
        }
    }

    /// The reason shown to those who ask while the bus is away is the latest one.
    fn still_away(&self, error: Error) {
        let mut state = self.lock();
        if matches!(state.phase, Phase::Away(_)) {
            state.phase = Phase::Away(error);
        }
    }

    /// Comes back when the client is closed; for while there is no connection.
    async fn closed_while_away(&self) {
        while matches!(self.lock().phase, Phase::Away(_)) {
            self.wake.notified().await;
        }
    }

    /// What a client that closes while the bus is away has to tell.
    fn unpublished(&self) -> Result<(), Error> {
        match self.lock().retained.len() {
            0 => Ok(()),
            count => Err(Error::new(
                ErrorKind::Disconnected,
                format!("closed while the bus was away: it has not confirmed or not seen {count} messages"),
            )),
        }
    }

    /// The end, once: everybody who waits is told.
    fn end(&self, result: Result<(), Error>) {
        if self.done.borrow().is_some() {
            return;
        }
        let mut guard = self.lock();
        let state: &mut State = &mut guard;
        let why = match (&result, &state.phase) {
            (Err(error), Phase::Up | Phase::Away(_)) => error.clone(),
            _ => Error::closed(),
        };
        state.phase = Phase::Ended(why.clone());
        for (_, open) in state.open.drain() {
            open.fail(&why);
        }
        for (_, (_, waiter)) in state.pings.drain() {
            let _ = waiter.send(Err(away(&why)));
        }
        for claim in std::mem::take(&mut state.claims).into_values() {
            for waiter in claim.waiters {
                let _ = waiter.send(Err(why.clone()));
            }
        }
        for entry in std::mem::take(&mut state.subscriptions).into_values() {
            if why.kind() != ErrorKind::Closed || entry.opened.is_some() {
                entry.fail(why.clone());
            } else {
                entry.events.end();
            }
        }
        state.notices.end(&why);
        drop(guard);
        self.done.send_replace(Some(result));
        self.credit.notify_waiters();
    }
}
