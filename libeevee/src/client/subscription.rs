//! Subscriptions: how they are opened, the stream that each one is, and the window that bounds what it holds.
//!
//! The driver always reads the socket and puts deliveries into the queue of their subscription; what keeps that queue
//! small is the window. The bus delivers no more than was granted, and grants follow what the user takes out, so a slow
//! user holds up its own subscription and nothing else.

use std::future::{IntoFuture, poll_fn};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use futures_util::Stream;
use tokio::sync::{mpsc, oneshot};
use tokio::time::Instant;

use super::entry::{Entry, Item};
use super::held::{Receipt, Settlement};
use super::nack::{Nack, check_durable_name};
use super::shared::{Phase, Shared, State};
use crate::error::{Error, ErrorKind};
use crate::message::{Delivery, Gap, GapReason, Message, Timestamp};
use crate::wire::limits::SUBSCRIPTION_FILTERS_MAX;
use crate::wire::{Content, Deliver, Frame, Overflow, Subscribe};

/// The default window in messages: enough that the bus never waits for a grant of a subscriber that keeps up.
const WINDOW_MESSAGES: u64 = 256;

/// The default window in bytes of documents.
const WINDOW_BYTES: u64 = 1 << 20;

/// The default window of a durable subscription in messages: as many as the bus has in flight by default.
const WINDOW_DURABLE: u64 = 100;

/// "No window" would overflow the sum of what was granted; this is one.
const WINDOW_MAX: u64 = 1 << 40;

/// How long after it expired here the bus looks at a message: longer than two clocks may differ by.
const RETURNED: Duration = Duration::from_millis(100);

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
    window: Option<(u64, u64)>,
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
        Self { shared, subscribe, window: None }
    }

    /// Makes it durable: it belongs to this operator or person under this name (`[a-z0-9][a-z0-9._-]{0,63}`), keeps what
    /// it has on the disk of the bus, and collects also while nobody is attached to it, over restarts of everything. It
    /// ends by `eeveectl queue forget`, not when the [`Subscription`] is dropped.
    ///
    /// Each message has to be acknowledged by [`Subscription::ack`] or given back by [`Subscription::nack`]; else it
    /// comes again, with [`attempt`](crate::Delivery::attempt) above 1: after 30 s, or to the next session that attaches. After 20
    /// attempts it becomes a dead letter. At most 100 are in flight, or as many as [`window`](Self::window) says if that
    /// is less; with a window of 1 message order is strict.
    ///
    /// The subscription has the filters and bounds of whoever subscribed last.
    ///
    /// ```no_run
    /// # async fn example(client: libeevee::Client) -> Result<(), libeevee::Error> {
    /// use libeevee::{Event, Nack};
    /// # async fn send(message: &libeevee::Message) -> Result<(), std::io::Error> { Ok(()) }
    /// let mut orders = client.subscribe("type=order").durable("orders").await?;
    /// while let Some(event) = orders.next().await {
    ///     let Event::Message(message) = event else { continue };
    ///     match send(&message).await {
    ///         Ok(()) => orders.ack(&message)?,
    ///         Err(error) => orders.nack(&message, Nack::again(error.to_string()))?,
    ///     }
    /// }
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// When awaited: [`ErrorKind::Invalid`] for a name outside the grammar, for [`Overflow::Disconnect`], and for a name
    /// that this client is subscribed to already; `Refused(already-connected)` when another session is;
    /// `Refused(storage)` when the bus cannot write it.
    pub fn durable(mut self, name: impl Into<String>) -> Self {
        self.subscribe.durable = Some(name.into());
        self
    }

    /// What the bus does when this subscription's queue is full; by default the oldest messages make room. The loss is
    /// told as an [`Event::Gap`].
    ///
    /// What makes room in a durable subscription becomes a dead letter. There [`Overflow::Reject`] is possible, too: whoever
    /// publishes what it matches gets `Refused(full)`, nobody gets the message, and this is its way to say "later".
    pub fn overflow(mut self, overflow: Overflow) -> Self {
        self.subscribe.overflow = overflow as u8;
        self
    }

    /// How much may wait in the bus's queue for this subscription, in messages and in bytes of documents; 0 is the bus's
    /// default: 1,000 messages and 8 MiB unless configured, for a durable one 100,000 messages and 256 MiB.
    pub fn queue(mut self, messages: u32, bytes: u64) -> Self {
        self.subscribe.queue_messages = messages;
        self.subscribe.queue_bytes = bytes;
        self
    }

    /// What waited longer, in the bus's queue or then here, is told as a gap with reason `expired` instead of being
    /// delivered; in whole milliseconds, at least one.
    ///
    /// Each of the two waits has this limit, so that a message is at most twice as old. In a durable subscription it becomes
    /// a dead letter.
    pub fn max_age(mut self, age: Duration) -> Self {
        self.subscribe.max_age_ms = u64::try_from(age.as_millis()).unwrap_or(u64::MAX).max(1);
        self
    }

    /// How much may be delivered here and not yet taken from the [`Subscription`]: by default 256 messages and 1 MiB of
    /// documents, for a durable one 100 messages. At least 1 each; one message may go beyond the bytes.
    ///
    /// For a durable subscription this is how much may be in flight: delivered, and neither acknowledged nor given back. A
    /// user who acknowledges nothing gets no more than this.
    pub fn window(mut self, messages: u64, bytes: u64) -> Self {
        self.window = Some((messages.clamp(1, WINDOW_MAX), bytes.clamp(1, WINDOW_MAX)));
        self
    }

    /// What can be known to be wrong without the bus.
    fn check(&self) -> Result<(), Error> {
        let filters = self.subscribe.filters.len();
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
        let overflow = Overflow::from_number(self.subscribe.overflow);
        match &self.subscribe.durable {
            Some(name) => {
                check_durable_name(name)?;
                if overflow == Some(Overflow::Disconnect) {
                    let text = format!(
                        "durable subscription {name:?} cannot disconnect when it is full: drop-oldest and drop-newest \
                         make dead letters, reject refuses the publisher"
                    );
                    return Err(Error::new(ErrorKind::Invalid, text));
                }
            }
            None if overflow == Some(Overflow::Reject) => {
                let text = "only a durable subscription can reject when it is full: name it, or choose another policy";
                return Err(Error::new(ErrorKind::Invalid, text));
            }
            None => {}
        }
        Ok(())
    }

    async fn open(self) -> Result<Subscription, Error> {
        self.check()?;
        let Self { shared, mut subscribe, window } = self;
        let durable = subscribe.durable.clone();
        let default = if durable.is_some() { WINDOW_DURABLE } else { WINDOW_MESSAGES };
        let (window_messages, window_bytes) = window.unwrap_or((default, WINDOW_BYTES));
        (subscribe.window_messages, subscribe.window_bytes) = (window_messages, window_bytes);
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
            if let Some(name) = &durable
                && let Some(number) = state.attached(name)
            {
                let text =
                    format!("this client is subscribed to durable subscription {name:?} already, as number {number}");
                return Err(Error::new(ErrorKind::Invalid, text));
            }
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
            durable,
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
///
/// A durable one loses nothing over a lost connection, so there is no gap for that. What was taken from it is in hand
/// until it is acknowledged or given back, and is not handed out a second time before: one that its program forgets
/// becomes a dead letter after all its attempts. Dropping the subscription only detaches this session, and all that was
/// not acknowledged comes again to the next one.
#[derive(Debug)]
pub struct Subscription {
    number: u32,
    durable: Option<String>,
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
        loop {
            let item = self.ahead.take().or_else(|| self.events.try_recv().ok())?;
            if let Some(event) = self.take(item)? {
                return Some(event);
            }
        }
    }

    /// Why the bus ended it, where that is why `next` answered `None`.
    pub fn failure(&self) -> Option<&Error> {
        self.failure.as_ref()
    }

    /// Its number on the wire, as `eeveectl status` shows it.
    pub const fn number(&self) -> u32 {
        self.number
    }

    /// The name, where it is durable.
    pub fn durable(&self) -> Option<&str> {
        self.durable.as_deref()
    }

    /// The message is dealt with, and will not come again. Goes out at once, or right behind the next connection's
    /// Subscribe while the bus is away. A second time, and for a live subscription, it does nothing.
    ///
    /// # Errors
    /// [`ErrorKind::Invalid`] for a message that another subscription delivered, or that was given back;
    /// [`ErrorKind::Closed`].
    pub fn ack(&self, message: &Message) -> Result<(), Error> {
        self.shared.settle(self.receipt(message)?, Settlement::Ack)
    }

    /// The message is not dealt with: it comes again, or becomes a dead letter, as [`Nack`] says. For a live subscription
    /// it does nothing.
    ///
    /// # Errors
    /// [`ErrorKind::Invalid`] for a message that another subscription delivered, or that was acknowledged or given back
    /// before; [`ErrorKind::Closed`].
    pub fn nack(&self, message: &Message, nack: Nack) -> Result<(), Error> {
        self.shared.settle(self.receipt(message)?, Settlement::Nack(nack))
    }

    fn receipt(&self, message: &Message) -> Result<Receipt, Error> {
        let (came_by, wanted) = (message.delivery.subscription, if self.durable.is_some() { self.number } else { 0 });
        if came_by != wanted {
            let text = format!("message {} was not delivered by subscription {}", message.id, self.number);
            return Err(Error::new(ErrorKind::Invalid, text));
        }
        Ok(message.receipt())
    }

    fn poll_event(&mut self, cx: &mut Context<'_>) -> Poll<Option<Event>> {
        loop {
            let item = match self.ahead.take() {
                Some(item) => Some(item),
                None => ready!(self.events.poll_recv(cx)),
            };
            match item.and_then(|item| self.take(item)) {
                Some(Some(event)) => return Poll::Ready(Some(event)),
                Some(None) => {}
                None => return Poll::Ready(None),
            }
        }
    }

    /// What the user gets for it, if anything; `None` at the end.
    #[allow(clippy::option_option, reason = "what is nothing for the user, and the end, are two things")]
    fn take(&mut self, item: Item) -> Option<Option<Event>> {
        match item {
            Item::Message(deliver, came) if self.has_expired(&deliver, came) => {
                if self.durable.is_some() {
                    self.return_expired(&deliver);
                    return Some(None);
                }
                Some(Some(Event::Gap(self.take_expired(&deliver))))
            }
            Item::Message(deliver, _) => {
                let durable = self.durable.is_some();
                if !durable {
                    self.consumed(&deliver);
                }
                let mut message = message(deliver);
                message.delivery.subscription = if durable { self.number } else { 0 };
                Some(Some(Event::Message(message)))
            }
            // One that was taken already, as a part of an earlier one.
            Item::Gap(gap) => Some(gap.close().map(Event::Gap)),
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

    /// What expired here goes back: when its turn comes again the bus finds it expired as well, makes it a dead letter with
    /// that reason, and tells the gap.
    fn return_expired(&self, deliver: &Deliver) {
        let nack = Nack::again("it waited in its subscriber for longer than max-age").after(RETURNED);
        // Once the client has ended there is nobody to tell.
        let receipt = Receipt { subscription: self.number, id: deliver.id };
        let _ = self.shared.settle(receipt, Settlement::Nack(nack));
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
        delivery: Delivery::new(deliver.attempt, Duration::from_millis(deliver.waited_ms)),
    }
}

impl Shared {
    /// The user took so much out of a subscription; the bus may deliver as much more.
    fn grant(&self, number: u32, messages: u64, bytes: u64) {
        let mut guard = self.lock();
        let state: &mut State = &mut guard;
        let Some(entry) = state.subscriptions.get_mut(&number) else { return };
        let grant = entry.grant(messages, bytes);
        // While the bus is away the next Subscribe says it. All of it may go against what the window has already.
        if matches!(state.phase, Phase::Up) && (grant.messages, grant.bytes) != (0, 0) {
            // A Grant fits into any frame.
            let _ = self.push(state, &Frame::new(number, Content::Grant(grant)));
        }
    }
}
