//! A subscription as the driver knows it: what it hands over to the user, what was granted, and what is said again on the
//! next connection.

use std::ops::Range;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::oneshot;
use tokio::time::Instant;

use super::events::Events;
use super::held::Held;
use crate::error::Error;
use crate::message::{Delivery, Gap, Message, Timestamp};
use crate::source::Source;
use crate::wire::{Content, EncodedDocument, Extras, Frame, Grant, RawDeliver, Subscribe};

/// What the driver hands over.
#[derive(Debug)]
pub(super) enum Item {
    Run(Run),
    Gap(OpenGap),
    Failed(Error),
}

/// Messages in a row that came in one piece of the stream.
#[derive(Debug, Default)]
pub(super) struct Run {
    pub(super) messages: Vec<Arrived>,
    pub(super) common: Common,
}

/// What the messages of a run share, so that what is kept of each is small.
#[derive(Debug, Default)]
pub(super) struct Common {
    pub(super) piece: Bytes,
    /// Of the first message, and those that are not the source of the message before. Mostly there are none.
    pub(super) source: Source,
    pub(super) more_sources: Vec<Source>,
}

/// Where a message is in its piece of the stream. It becomes a message when its user takes it: until then it is moved a few
/// times, and a message is large.
#[derive(Debug)]
pub(super) struct Arrived {
    pub(super) id: u64,
    timestamp: Timestamp,
    document: Range<u32>,
    headers_bytes: u32,
    /// Which of the sources is its own; 0 is the first message's.
    source: u32,
    attempt: u32,
    hops: u8,
    extras: Option<Box<Extras>>,
    /// When it came, where its age counts.
    pub(super) came: Option<Instant>,
}

impl Arrived {
    /// `frame` is where in the piece the bytes of its frame begin.
    #[inline(always)] // Else it is moved once more.
    pub(super) fn new(deliver: &RawDeliver<'_>, frame: usize, source: usize, came: Option<Instant>) -> Self {
        let document = &deliver.document;
        Self {
            id: deliver.id,
            timestamp: Timestamp(deliver.timestamp),
            // A piece is what one read took behind the longest frame, which has 64 MiB.
            document: (frame + document.start) as u32..(frame + document.end) as u32,
            headers_bytes: deliver.headers_bytes as u32,
            source: source as u32,
            attempt: deliver.attempt,
            hops: deliver.hops,
            extras: deliver.extras.map(Box::new),
            came,
        }
    }

    /// The length of its document, as windows count it.
    pub(super) fn bytes(&self) -> u64 {
        self.document.len() as u64
    }

    /// How long it waited in the bus.
    pub(super) fn waited(&self) -> Duration {
        Duration::from_millis(self.extras.as_ref().map_or(0, |extras| extras.waited_ms))
    }

    /// The message. `subscription` is the number of the durable one that waits for its acknowledgement, else 0.
    #[inline(always)] // As above.
    pub(super) fn open(self, subscription: u32, common: &Common) -> Message {
        let Self { id, timestamp, document, headers_bytes, source, hops, attempt, extras, .. } = self;
        let Extras { cause, reply_address, waited_ms } = extras.map_or_else(Extras::default, |extras| *extras);
        let mut delivery = Delivery::new(attempt, Duration::from_millis(waited_ms));
        delivery.subscription = subscription;
        let bytes = common.piece.slice(document.start as usize..document.end as usize);
        let document = EncodedDocument::from_checked(bytes, headers_bytes as usize);
        let source = match source.checked_sub(1) {
            None => &common.source,
            Some(other) => &common.more_sources[other as usize],
        };
        let source = source.clone();
        Message { id, source, timestamp, cause, hops, document, reply_address, delivery }
    }
}

/// A gap that its user may not have taken yet. The bus tells gaps without regard to the window, and under a fast
/// publisher many: those with no message between them become one, so that a user who takes nothing holds no more than
/// one of each reason.
#[derive(Debug, Clone)]
pub(super) struct OpenGap(Arc<Mutex<Option<Gap>>>);

impl OpenGap {
    pub(super) fn new(gap: Gap) -> Self {
        Self(Arc::new(Mutex::new(Some(gap))))
    }

    /// Makes a later gap part of this one, if it was not taken yet and has the same reason.
    pub(super) fn extend(&self, later: &Gap) -> bool {
        match &mut *self.gap() {
            Some(gap) if gap.reason == later.reason => {
                gap.first = gap.first.min(later.first);
                gap.last = gap.last.max(later.last);
                gap.count = gap.count.zip(later.count).map(|(a, b)| a.saturating_add(b));
                true
            }
            _ => false,
        }
    }

    pub(super) fn is_open(&self) -> bool {
        self.gap().is_some()
    }

    /// Takes the gap; a later one is one of its own.
    pub(super) fn close(&self) -> Option<Gap> {
        self.gap().take()
    }

    fn gap(&self) -> MutexGuard<'_, Option<Gap>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What was granted and what came, over all connections. The driver counts what comes; grants are under the lock.
#[derive(Debug, Default)]
pub(super) struct Flow {
    pub(super) granted_messages: AtomicU64,
    pub(super) granted_bytes: AtomicU64,
    pub(super) delivered_messages: AtomicU64,
    pub(super) delivered_bytes: AtomicU64,
    /// The highest id of a message or gap that came, or that this subscription came too late for.
    pub(super) last_seen: AtomicU64,
}

/// A subscription as the driver knows it.
pub(super) struct Entry {
    subscribe: Subscribe,
    pub(super) events: Arc<Events>,
    pub(super) flow: Arc<Flow>,
    /// Waits for the bus's first Ok.
    pub(super) opened: Option<oneshot::Sender<Result<(), Error>>>,
    /// Messages and bytes that come off the next grants, as a new connection has them in its window already.
    debt: (u64, u64),
    /// Of a durable one: what it delivered here.
    pub(super) held: Option<Held>,
}

impl Entry {
    pub(super) fn new(subscribe: Subscribe, events: Arc<Events>, opened: oneshot::Sender<Result<(), Error>>) -> Self {
        let flow = Flow {
            granted_messages: subscribe.window_messages.into(),
            granted_bytes: subscribe.window_bytes.into(),
            ..Flow::default()
        };
        let held = subscribe.durable.is_some().then(|| Held::new(subscribe.window_messages, subscribe.window_bytes));
        Self { subscribe, events, flow: Arc::new(flow), opened: Some(opened), debt: (0, 0), held }
    }

    /// The name of a durable one.
    pub(super) fn durable(&self) -> Option<&str> {
        self.subscribe.durable.as_deref()
    }

    /// Whether the age of its messages counts.
    pub(super) const fn expires(&self) -> bool {
        self.subscribe.max_age_ms > 0
    }

    pub(super) fn frame(&self, number: u32) -> Frame {
        Frame::new(number, Content::Subscribe(self.subscribe.clone()))
    }

    /// The frame for a new connection. The window of a live one is what is left of the old one, as what came before still
    /// waits here.
    ///
    /// A durable one begins with its whole window: what came before comes again, at the cost of the window, and is
    /// dropped here at once.
    pub(super) fn again(&mut self, number: u32) -> Frame {
        let Flow { granted_messages, granted_bytes, delivered_messages, delivered_bytes, .. } = &*self.flow;
        let left = |granted: &AtomicU64, delivered: &AtomicU64| {
            granted.load(Relaxed).cast_signed() - delivered.load(Relaxed).cast_signed()
        };
        let (messages, bytes) = (left(granted_messages, delivered_messages), left(granted_bytes, delivered_bytes));
        if self.held.is_some() {
            let window = (self.subscribe.window_messages, self.subscribe.window_bytes);
            self.debt.0 += (window.0.cast_signed() - messages).max(0).cast_unsigned();
            self.debt.1 += (window.1.cast_signed() - bytes).max(0).cast_unsigned();
            granted_messages.store(delivered_messages.load(Relaxed) + window.0, Relaxed);
            granted_bytes.store(delivered_bytes.load(Relaxed) + window.1, Relaxed);
        } else {
            if bytes < 0 {
                self.debt.1 += bytes.unsigned_abs();
                granted_bytes.store(delivered_bytes.load(Relaxed), Relaxed);
            }
            self.subscribe.window_messages = messages.max(0).cast_unsigned();
            self.subscribe.window_bytes = bytes.max(0).cast_unsigned();
        }
        self.frame(number)
    }

    /// The user took so much, or settled it where it is durable; what is left of that to be granted.
    pub(super) fn grant(&mut self, messages: u64, bytes: u64) -> Grant {
        let paid = (messages.min(self.debt.0), bytes.min(self.debt.1));
        self.debt = (self.debt.0 - paid.0, self.debt.1 - paid.1);
        self.grant_all(messages - paid.0, bytes - paid.1)
    }

    /// So much came that nobody takes.
    pub(super) fn grant_all(&mut self, messages: u64, bytes: u64) -> Grant {
        self.flow.granted_messages.fetch_add(messages, Relaxed);
        self.flow.granted_bytes.fetch_add(bytes, Relaxed);
        Grant { messages, bytes }
    }

    /// It ended, and not because its user dropped it.
    pub(super) fn fail(self, error: Error) {
        match self.opened {
            Some(opened) => drop(opened.send(Err(error))),
            None => self.events.push(Item::Failed(error)),
        }
        self.events.end();
    }
}
