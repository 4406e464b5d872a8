//! The task that owns the socket: it always reads, writes what the handles queued, and connects again.
//!
//! Nothing here waits for a user: deliveries go into queues that their windows bound, answers to whoever asked.

use std::collections::HashMap;
use std::collections::hash_map::Entry as Slot;
use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use bytes::BytesMut;
use futures_util::{FutureExt, StreamExt};
use tokio::io::AsyncWriteExt;
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep, timeout};

use super::connect::{Connect, Link, read_error};
use super::notice::Notice;
use super::reconnect::Backoff;
use super::shared::{Open, Phase, Shared, State, Taken, away};
use super::subscription::{Flow, Item};
use crate::error::{Error, ErrorKind};
use crate::message::{Gap, GapReason};
use crate::wire::{Code, Content, Deliver, Frame, Refusal, Text};

/// Frames taken from the read buffer before the outbox is looked at again.
const FRAMES_AT_ONCE: usize = 256;

/// A connection that lasted so long was a good one: the next attempt after it is made at once.
const GOOD_CONNECTION: Duration = Duration::from_secs(1);

/// How long the bus may take to close after our goodbye.
const GOODBYE: Duration = Duration::from_secs(2);

pub(super) struct Driver {
    shared: Arc<Shared>,
    connect: Connect,
    link: Link,
    /// Subscriptions that something was delivered to, so that a delivery needs no lock.
    routes: HashMap<u32, Route>,
    /// The highest message id that this client knows of.
    highest: u64,
    /// What was taken from the outbox, and how much of it is written.
    writing: Vec<u8>,
    written: usize,
    ended: Vec<u32>,
    /// What the bus said before it closes.
    bye: Option<String>,
    connected: Instant,
    backoff: Backoff,
}

struct Route {
    events: mpsc::UnboundedSender<Item>,
    flow: Arc<Flow>,
}

impl Driver {
    pub(super) fn new(shared: Arc<Shared>, connect: Connect, link: Link, highest: u64) -> Self {
        Self {
            shared,
            connect,
            link,
            routes: HashMap::new(),
            highest,
            writing: Vec::new(),
            written: 0,
            ended: Vec::new(),
            bye: None,
            connected: Instant::now(),
            backoff: Backoff::default(),
        }
    }

    pub(super) async fn run(mut self) {
        let result = self.live().await;
        self.shared.end(result);
    }

    async fn live(&mut self) -> Result<(), Error> {
        loop {
            let Err(reason) = self.serve().await else { return Ok(()) };
            if self.shared.is_closing() {
                return Err(reason.context("the connection was lost before everything was written"));
            }
            tracing::warn!("the connection to the bus is lost: {reason}");
            self.shared.lose(&reason, &self.writing, self.written);
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
                    self.highest = welcome.last_id;
                    self.link = link;
                    self.bye = None;
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

    /// Reads and writes until the client is closed and all is written, or the connection is lost.
    async fn serve(&mut self) -> Result<(), Error> {
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
                frame = self.link.read.next() => {
                    self.accept(frame)?;
                    self.accept_buffered()?;
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
        while let Some(Some(frame)) = self.link.read.next().now_or_never() {
            self.accept(Some(frame))?;
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
                    frame = self.link.read.next() => self.accept(frame)?,
                    ready = self.link.write.writable() => ready.map_err(write_error)?,
                }
            }
            self.link.write.shutdown().await.map_err(write_error)?;
            // Answers to what was in flight still come.
            while let Some(frame) = self.link.read.next().await {
                self.accept(Some(frame))?;
            }
            Ok(())
        };
        // Bye is a courtesy; all that was accepted is written before it.
        if let Ok(Err::<(), Error>(error)) = timeout(GOODBYE, goodbye).await {
            tracing::debug!("saying goodbye to the bus: {error}");
        }
        Ok(())
    }

    /// Takes the frames that are there already, without another round for each.
    fn accept_buffered(&mut self) -> Result<(), Error> {
        for _ in 0..FRAMES_AT_ONCE {
            // The waker that is not registered here is registered by the next round.
            let Some(frame) = self.link.read.next().now_or_never() else { return Ok(()) };
            self.accept(frame)?;
        }
        Ok(())
    }

    fn accept(&mut self, frame: Option<io::Result<BytesMut>>) -> Result<(), Error> {
        let bytes = match frame {
            Some(Ok(bytes)) => bytes,
            Some(Err(error)) => return Err(read_error(error)),
            None => {
                let said = self.bye.take().map(|text| format!(": {text}")).unwrap_or_default();
                return Err(Error::new(ErrorKind::Disconnected, format!("the bus closed the connection{said}")));
            }
        };
        match Frame::decode(bytes.freeze()) {
            Ok(Some(Frame { number, content: Content::Deliver(deliver), .. })) => self.deliver(number, deliver),
            Ok(Some(frame)) => self.dispatch(frame),
            Ok(None) => Ok(()),
            Err(error) if error.code == Code::UnknownType => self.unknown(&error.to_frame()),
            Err(error) => Err(error.into()),
        }
    }

    fn route(&mut self, number: u32) -> Option<&Route> {
        match self.routes.entry(number) {
            Slot::Occupied(route) => Some(route.into_mut()),
            Slot::Vacant(free) => {
                let state = self.shared.lock();
                let entry = state.subscriptions.get(&number)?;
                Some(free.insert(Route { events: entry.events.clone(), flow: Arc::clone(&entry.flow) }))
            }
        }
    }

    fn deliver(&mut self, number: u32, deliver: Deliver) -> Result<(), Error> {
        self.highest = self.highest.max(deliver.id);
        // Without a subscription it was on its way while the subscription ended.
        let Some(Route { events, flow }) = self.route(number) else { return Ok(()) };
        let messages = flow.delivered_messages.load(Relaxed);
        let granted = flow.granted_messages.load(Relaxed);
        if messages >= granted {
            let text = format!("the bus delivered more to subscription {number} than its window of {granted} messages");
            return Err(Error::new(ErrorKind::Wire, text).limited(granted, messages + 1));
        }
        // Only this task writes these.
        flow.delivered_messages.store(messages + 1, Relaxed);
        let bytes = flow.delivered_bytes.load(Relaxed) + deliver.document.bytes().len() as u64;
        flow.delivered_bytes.store(bytes, Relaxed);
        flow.last_seen.store(flow.last_seen.load(Relaxed).max(deliver.id), Relaxed);
        // It may be dropped in this moment.
        let _ = events.send(Item::Message(deliver));
        Ok(())
    }

    fn dispatch(&mut self, frame: Frame) -> Result<(), Error> {
        let number = frame.number;
        match frame.content {
            Content::Published(published) => {
                self.highest = self.highest.max(published.id);
                self.shared.lock().answer(number, Content::Published(published));
            }
            content @ (Content::Response(_) | Content::Answer(_)) => self.shared.lock().answer(number, content),
            Content::Ok => self.done(number),
            Content::Error(refusal) => return self.refused(number, refusal),
            Content::Gap(notice) => {
                let reason = GapReason::from_code(notice.reason).unwrap_or(GapReason::Disconnected);
                let gap = Gap { first: notice.first, last: notice.last, count: notice.count, reason };
                self.highest = self.highest.max(gap.last);
                if let Some(Route { events, flow }) = self.route(number) {
                    flow.last_seen.store(flow.last_seen.load(Relaxed).max(gap.last), Relaxed);
                    let _ = events.send(Item::Gap(gap));
                }
            }
            Content::Grant(grant) if number == 0 => {
                let mut state = self.shared.lock();
                state.credit.messages = state.credit.messages.saturating_add(grant.messages);
                state.credit.bytes = state.credit.bytes.saturating_add(grant.bytes);
                let waiting = state.waiting > 0;
                drop(state);
                if waiting {
                    self.shared.credit.notify_waiters();
                }
            }
            // The driver looks into the outbox before it waits again.
            Content::Ping(value) => self.shared.lock().pong(value),
            Content::Pong(value) => {
                if let Some((sent, waiter)) = self.shared.lock().pings.remove(&value.value) {
                    let _ = waiter.send(Ok(sent.elapsed()));
                }
            }
            Content::Halted(flag) => {
                let mut state = self.shared.lock();
                state.halted = flag.on;
                state.notices.tell(Notice::Halted(flag.on));
            }
            Content::Reload(module) => {
                let mut state = self.shared.lock();
                state.reloads.insert(number);
                state.notices.tell(Notice::Reload { number, module });
            }
            Content::Commit => self.shared.lock().notices.tell(Notice::Commit(number)),
            Content::Abort(reason) => {
                self.shared.lock().notices.tell(Notice::Abort { number, reason: reason.text });
            }
            Content::Bye(text) => {
                self.bye = Some(text.text.clone());
                self.shared.lock().notices.tell(Notice::Bye(text.text));
            }
            other => {
                let text = format!("a frame of kind {} is not for clients", other.kind());
                let refusal = Refusal { code: Code::UnknownType as u16, text, limit: None, value: None, rule: None };
                return self.unknown(&Frame::new(number, Content::Error(refusal)));
            }
        }
        Ok(())
    }

    /// Tells the bus that a frame is not known here; the session goes on.
    fn unknown(&mut self, refusal: &Frame) -> Result<(), Error> {
        tracing::debug!(?refusal, "the bus sent a frame that this version does not know");
        let mut state = self.shared.lock();
        // A short Error fits into any frame.
        let _ = state.encode(refusal);
        Ok(())
    }

    fn done(&mut self, number: u32) {
        let mut state = self.shared.lock();
        if let Some(entry) = state.subscriptions.get_mut(&number) {
            if let Some(opened) = entry.opened.take() {
                // What came before this Ok was before the subscription, so that it missed none of it.
                entry.flow.last_seen.store(entry.flow.last_seen.load(Relaxed).max(self.highest), Relaxed);
                let _ = opened.send(Ok(()));
            }
            return;
        }
        state.answer(number, Content::Ok);
    }

    fn refused(&mut self, number: u32, refusal: Refusal) -> Result<(), Error> {
        let code = Code::from_number(refusal.code);
        let error = Error::refused(refusal);
        let mut state = self.shared.lock();
        if let Some(entry) = state.subscriptions.remove(&number) {
            self.routes.remove(&number);
            if entry.opened.is_none() {
                state.notices.refused(number, error.clone().context(format_args!("subscription {number}")));
            }
            entry.fail(error.clone());
        } else {
            match state.open.remove(&number) {
                Some(Open::Request(waiter)) => {
                    let _ = waiter.send(Err(error.clone()));
                }
                Some(Open::Claim(name)) => state.claim_failed(&name, number, error.clone()),
                None if code.closes() => {}
                None => state.notices.refused(number, error.clone()),
            }
        }
        if code.closes() { Err(error) } else { Ok(()) }
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

impl State {
    /// Gives an answer to whoever waits for it; one that nobody waits for was given up.
    fn answer(&mut self, number: u32, content: Content) {
        match self.open.remove(&number) {
            Some(Open::Request(waiter)) => {
                let _ = waiter.send(Ok(content));
            }
            Some(Open::Claim(name)) => {
                if let Some(claim) = self.claims.get_mut(&name) {
                    claim.held = true;
                    for waiter in claim.waiters.drain(..) {
                        let _ = waiter.send(Ok(()));
                    }
                }
            }
            None => {}
        }
    }
}

impl Shared {
    fn is_closing(&self) -> bool {
        matches!(self.lock().phase, Phase::Closing)
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
                format!("closed while the bus was away: {count} messages that waited for it were not published"),
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
            if let Open::Request(waiter) = open {
                let _ = waiter.send(Err(why.clone()));
            }
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
            }
        }
        state.notices.end(&why);
        drop(guard);
        self.done.send_replace(Some(result));
        self.credit.notify_waiters();
    }
}
