//! A subscription as the driver knows it: what it hands over to the user, what was granted, and what is said again on the
//! next connection.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::{mpsc, oneshot};
use tokio::time::Instant;

use crate::error::Error;
use crate::message::Gap;
use crate::wire::{Content, Deliver, Frame, Subscribe};

/// What the driver hands over. Documents are opened on the user's side, so that the driver stays quick.
#[derive(Debug)]
pub(super) enum Item {
    /// And when it came, where its age counts.
    Message(Deliver, Option<Instant>),
    Gap(OpenGap),
    Failed(Error),
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
    pub(super) events: mpsc::UnboundedSender<Item>,
    pub(super) flow: Arc<Flow>,
    /// Waits for the bus's first Ok.
    pub(super) opened: Option<oneshot::Sender<Result<(), Error>>>,
    /// Bytes that a message overdrew and that a new connection forgot; they come off the next grants.
    pub(super) debt: u64,
}

impl Entry {
    pub(super) fn new(
        subscribe: Subscribe,
        events: mpsc::UnboundedSender<Item>,
        opened: oneshot::Sender<Result<(), Error>>,
    ) -> Self {
        let flow = Flow {
            granted_messages: subscribe.window_messages.into(),
            granted_bytes: subscribe.window_bytes.into(),
            ..Flow::default()
        };
        Self { subscribe, events, flow: Arc::new(flow), opened: Some(opened), debt: 0 }
    }

    /// Whether the age of its messages counts.
    pub(super) const fn expires(&self) -> bool {
        self.subscribe.max_age_ms > 0
    }

    pub(super) fn frame(&self, number: u32) -> Frame {
        Frame::new(number, Content::Subscribe(self.subscribe.clone()))
    }

    /// The frame for a new connection: its window is what is left of the old one, as what came before still waits here.
    pub(super) fn again(&mut self, number: u32) -> Frame {
        let (granted, delivered) = (self.flow.granted_bytes.load(Relaxed), self.flow.delivered_bytes.load(Relaxed));
        if delivered > granted {
            self.debt += delivered - granted;
            self.flow.granted_bytes.store(delivered, Relaxed);
        }
        self.subscribe.window_bytes = granted.saturating_sub(delivered);
        self.subscribe.window_messages =
            self.flow.granted_messages.load(Relaxed).saturating_sub(self.flow.delivered_messages.load(Relaxed));
        self.frame(number)
    }

    /// It ended, and not because its user dropped it.
    pub(super) fn fail(self, error: Error) {
        let _ = match self.opened {
            Some(opened) => opened.send(Err(error)).map_err(drop),
            None => self.events.send(Item::Failed(error)).map_err(drop),
        };
    }
}
