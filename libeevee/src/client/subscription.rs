//! Subscriptions: how they are opened, the stream that each one is, and the window that bounds what it holds.
//!
//! The driver always reads the socket and puts deliveries into the queue of their subscription; what keeps that queue
//! small is the window. The bus delivers no more than was granted, and grants follow what the user takes out, so a slow
//! user holds up its own subscription and nothing else.

use std::future::{IntoFuture, poll_fn};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::task::{Context, Poll};
use std::time::Duration;

use futures_util::Stream;
use tokio::sync::{mpsc, oneshot};
use tokio::time::Instant;

use super::entry::{Entry, Item};
use super::shared::{Phase, Shared, State};
use crate::error::{Error, ErrorKind};
use crate::message::{Delivery, Gap, GapReason, Message, Timestamp};
use crate::wire::limits::SUBSCRIPTION_FILTERS_MAX;
use crate::wire::{Content, Deliver, Frame, Grant, Overflow, Subscribe};

/// The default window in messages: enough that the bus never waits for a grant of a subscriber that keeps up.
const WINDOW_MESSAGES: u64 = 256;

/// The default window in bytes of documents.
const WINDOW_BYTES: u64 = 1 << 20;

/// "No window" would overflow the sum of what was granted; this is one.
const WINDOW_MAX: u64 = 1 << 40;

/// The filters of one subscription, as text; a message matches when any of them does.
///
/// Made from a text, an array or a list of texts, or parsed [`Filter`](crate::Filter)s. The bus parses them, and refuses
/// a mistake with its column.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FilterTexts(Vec<String>);

impl From<&str> for FilterTexts {
    fn from(text: &str) -> Self {
        Self(vec![text.to_owned()])
    }
}

impl From<String> for FilterTexts {
    fn from(text: String) -> Self {
        Self(vec![text])
    }
}

impl<T: ToString, const N: usize> From<[T; N]> for FilterTexts {
    fn from(texts: [T; N]) -> Self {
        Self(texts.iter().map(T::to_string).collect())
    }
}

impl<T: ToString> From<Vec<T>> for FilterTexts {
    fn from(texts: Vec<T>) -> Self {
        Self(texts.iter().map(T::to_string).collect())
    }
}

impl<T: ToString> From<&[T]> for FilterTexts {
    fn from(texts: &[T]) -> Self {
        Self(texts.iter().map(T::to_string).collect())
    }
}

impl From<crate::Filter> for FilterTexts {
    fn from(filter: crate::Filter) -> Self {
        Self(vec![filter.to_string()])
    }
}

impl From<&crate::Filter> for FilterTexts {
    fn from(filter: &crate::Filter) -> Self {
        Self(vec![filter.to_string()])
    }
}

/// What a subscription yields.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// A message that matched.
    Message(Message),
    /// Messages that were lost, at the place where they would have been.
    Gap(Gap),
}

impl Event {
    /// The message, where it is one.
    pub fn message(self) -> Option<Message> {
        match self {
            Self::Message(message) => Some(message),
            Self::Gap(_) => None,
        }
    }
}

/// A subscription on its way; await it. From [`Client::subscribe`](crate::Client::subscribe).
#[derive(Debug)]
#[must_use = "nothing is subscribed until this is awaited"]
pub struct SubscribeBuilder {
    shared: Arc<Shared>,
    subscribe: Subscribe,
}

impl SubscribeBuilder {
    pub(super) fn new(shared: Arc<Shared>, filters: FilterTexts) -> Self {
        let subscribe = Subscribe {
            filters: filters.0,
            overflow: 0,
            queue_messages: 0,
            queue_bytes: 0,
            max_age_ms: 0,
            window_messages: WINDOW_MESSAGES,
            window_bytes: WINDOW_BYTES,
            durable: None,
        };
        Self { shared, subscribe }
    }

    /// What the bus does when this subscription's queue is full; by default the oldest messages make room. The loss is
    /// told as an [`Event::Gap`].
    pub fn overflow(mut self, overflow: Overflow) -> Self {
        self.subscribe.overflow = overflow as u8;
        self
    }

    /// How much may wait in the bus's queue for this subscription, in messages and in bytes of documents; 0 is the bus's
    /// default, 1,000 messages and 8 MiB unless configured.
    pub fn queue(mut self, messages: u32, bytes: u64) -> Self {
        self.subscribe.queue_messages = messages;
        self.subscribe.queue_bytes = bytes;
        self
    }

    /// What waited longer, in the bus's queue or then here, is told as a gap with reason `expired` instead of being
    /// delivered; in whole milliseconds, at least one.
    ///
    /// Each of the two waits has this limit, so that a message is at most twice as old.
    pub fn max_age(mut self, age: Duration) -> Self {
        self.subscribe.max_age_ms = u64::try_from(age.as_millis()).unwrap_or(u64::MAX).max(1);
        self
    }

    /// How much may be delivered here and not yet taken from the [`Subscription`]: by default 256 messages and 1 MiB of
    /// documents. At least 1 each; one message may go beyond the bytes.
    pub fn window(mut self, messages: u64, bytes: u64) -> Self {
        self.subscribe.window_messages = messages.clamp(1, WINDOW_MAX);
        self.subscribe.window_bytes = bytes.clamp(1, WINDOW_MAX);
        self
    }

    async fn open(self) -> Result<Subscription, Error> {
        let Self { shared, subscribe } = self;
        let filters = subscribe.filters.len();
        if filters == 0 {
            return Err(Error::new(ErrorKind::Invalid, "a subscription needs a filter; `*` matches every message"));
        }
        if filters > SUBSCRIPTION_FILTERS_MAX {
            return Err(Error::new(
                ErrorKind::Invalid,
                format!("{filters} filters in a subscription, at most {SUBSCRIPTION_FILTERS_MAX} are possible"),
            )
            .limited(SUBSCRIPTION_FILTERS_MAX as u64, filters as u64));
        }
        let (window_messages, window_bytes) = (subscribe.window_messages, subscribe.window_bytes);
        let age_max = (subscribe.max_age_ms > 0).then(|| Duration::from_millis(subscribe.max_age_ms));
        #[allow(
            clippy::disallowed_methods,
            reason = "the window bounds it, and a bounded channel locks for each message"
        )]
        let (sender, events) = mpsc::unbounded_channel();
        let (opened, answer) = oneshot::channel();
        let number = {
            let mut state = shared.lock();
            state.accepting()?;
            let number = state.subscription_number()?;
            let entry = Entry::new(subscribe, sender, opened);
            if matches!(state.phase, Phase::Up) {
                shared.push(&mut state, &entry.frame(number))?;
            }
            state.subscriptions.insert(number, entry);
            number
        };
        let subscription = Subscription {
            number,
            events,
            ahead: None,
            age_max,
            taken: (0, 0),
            grant_at: (window_messages.div_ceil(2), window_bytes.div_ceil(2)),
            failure: None,
            shared,
        };
        // Dropped before the answer came, the subscription ends itself.
        answer.await.unwrap_or_else(|_| Err(Error::closed()))?;
        Ok(subscription)
    }
}

impl IntoFuture for SubscribeBuilder {
    type Output = Result<Subscription, Error>;
    type IntoFuture = Pin<Box<dyn Future<Output = Self::Output> + Send>>;

    fn into_future(self) -> Self::IntoFuture {
        Box::pin(self.open())
    }
}

/// The messages that match some filters, in order, and the gaps between them. Also a [`Stream`].
///
/// It outlives a lost connection: the client subscribes again, and tells what may have been lost meanwhile as a gap.
/// Dropping it unsubscribes. What is not taken from it fills its window, then its queue in the bus, and then becomes a
/// gap; nobody else waits for it.
#[derive(Debug)]
pub struct Subscription {
    number: u32,
    events: mpsc::UnboundedReceiver<Item>,
    /// Taken out of `events` to see whether it has expired, too.
    ahead: Option<Item>,
    /// How long a message may have waited.
    age_max: Option<Duration>,
    /// Messages and bytes taken out since the last grant.
    taken: (u64, u64),
    /// How many make a grant worth a frame.
    grant_at: (u64, u64),
    failure: Option<Error>,
    shared: Arc<Shared>,
}

impl Subscription {
    /// The next event; `None` when the client was closed, or the subscription ended, and everything was taken. Dropping
    /// the future loses nothing.
    pub async fn next(&mut self) -> Option<Event> {
        poll_fn(|cx| self.poll_event(cx)).await
    }

    /// The next event, if one is here already.
    pub fn try_next(&mut self) -> Option<Event> {
        let item = self.ahead.take().or_else(|| self.events.try_recv().ok())?;
        self.take(item)
    }

    /// Why the bus ended it, where that is why `next` answered `None`.
    pub fn failure(&self) -> Option<&Error> {
        self.failure.as_ref()
    }

    /// Its number on the wire, as `eeveectl status` shows it.
    pub const fn number(&self) -> u32 {
        self.number
    }

    fn poll_event(&mut self, cx: &mut Context<'_>) -> Poll<Option<Event>> {
        match self.ahead.take() {
            Some(item) => Poll::Ready(self.take(item)),
            None => self.events.poll_recv(cx).map(|item| self.take(item?)),
        }
    }

    fn take(&mut self, item: Item) -> Option<Event> {
        match item {
            Item::Message(deliver, came) if self.has_expired(&deliver, came) => {
                Some(Event::Gap(self.take_expired(&deliver)))
            }
            Item::Message(deliver, _) => {
                self.consumed(&deliver);
                Some(Event::Message(message(deliver)))
            }
            Item::Gap(gap) => gap.close().map(Event::Gap),
            Item::Failed(error) => {
                self.failure = Some(error);
                None
            }
        }
    }

    /// The window opens by what the user takes.
    fn consumed(&mut self, deliver: &Deliver) {
        self.taken.0 += 1;
        self.taken.1 += deliver.document.bytes().len() as u64;
        if self.taken.0 >= self.grant_at.0 || self.taken.1 >= self.grant_at.1 {
            let (messages, bytes) = std::mem::take(&mut self.taken);
            self.shared.grant(self.number, messages, bytes);
        }
    }

    /// What is in the window has left the bus's queue, and nobody else looks how old it gets while its user is halted or
    /// slow.
    fn has_expired(&self, deliver: &Deliver, came: Option<Instant>) -> bool {
        self.age_max.zip(came).is_some_and(|(age_max, came)| {
            came.elapsed().saturating_add(Duration::from_millis(deliver.waited_ms)) > age_max
        })
    }

    /// The gap in place of an expired message and of those behind it that have expired, too.
    fn take_expired(&mut self, first: &Deliver) -> Gap {
        self.consumed(first);
        let mut gap = Gap { first: first.id, last: first.id, count: Some(1), reason: GapReason::Expired };
        while let Ok(item) = self.events.try_recv() {
            match item {
                Item::Message(deliver, came) if self.has_expired(&deliver, came) => {
                    self.consumed(&deliver);
                    gap.last = deliver.id;
                    gap.count = gap.count.map(|count| count + 1);
                }
                other => {
                    self.ahead = Some(other);
                    break;
                }
            }
        }
        gap
    }
}

impl Stream for Subscription {
    type Item = Event;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Event>> {
        self.poll_event(cx)
    }
}

impl Drop for Subscription {
    fn drop(&mut self) {
        let mut state = self.shared.lock();
        if state.subscriptions.remove(&self.number).is_none() {
            return;
        }
        state.ended.push(self.number);
        if matches!(state.phase, Phase::Up) {
            // A frame without a body fits always.
            let _ = self.shared.push(&mut state, &Frame::new(self.number, Content::Unsubscribe));
        }
    }
}

fn message(deliver: Deliver) -> Message {
    Message {
        id: deliver.id,
        source: deliver.source,
        timestamp: Timestamp(deliver.timestamp),
        cause: deliver.cause,
        hops: deliver.hops,
        document: deliver.document.decode(),
        reply_address: deliver.reply_address,
        delivery: Delivery { attempt: deliver.attempt, waited: Duration::from_millis(deliver.waited_ms) },
    }
}

impl Shared {
    /// The user took so much out of a subscription; the bus may deliver as much more.
    fn grant(&self, number: u32, messages: u64, bytes: u64) {
        let mut guard = self.lock();
        let state: &mut State = &mut guard;
        let Some(entry) = state.subscriptions.get_mut(&number) else { return };
        let paid = bytes.min(entry.debt);
        entry.debt -= paid;
        let bytes = bytes - paid;
        entry.flow.granted_messages.fetch_add(messages, Relaxed);
        entry.flow.granted_bytes.fetch_add(bytes, Relaxed);
        // While the bus is away the next Subscribe says it.
        if matches!(state.phase, Phase::Up) {
            // A Grant fits into any frame.
            let _ = self.push(state, &Frame::new(number, Content::Grant(Grant { messages, bytes })));
        }
    }
}
