//! How subscriptions are opened.

use std::future::IntoFuture;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::oneshot;

use super::entry::Entry;
use super::events::Events;
use super::nack::check_durable_name;
use super::shared::{Phase, Shared};
use super::subscription::Subscription;
use crate::error::{Error, ErrorKind};
use crate::wire::limits::SUBSCRIPTION_FILTERS_MAX;
use crate::wire::{Overflow, Subscribe};

/// The default window in messages: so many that for small ones, too, it is the bytes which bound it. A process that waits
/// for its processor grants nothing for some milliseconds, and the bus has to queue what a window does not take.
const WINDOW_MESSAGES: u64 = 16384;

/// The default window in bytes of documents.
const WINDOW_BYTES: u64 = 4 << 20;

/// The default window of a durable subscription in messages: as many as the bus has in flight by default.
const WINDOW_DURABLE: u64 = 100;

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

/// A subscription on its way; await it. From [`Client::subscribe`](crate::Client::subscribe).
#[derive(Debug, Clone)]
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
    /// What waits here to be taken counts as delivered: let the window be no larger than what its user deals with in those
    /// 30 s, or the bus tries what was never begun again and again, and gives it up.
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
    /// told as an [`Event::Gap`](super::Event::Gap).
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

    /// How much may be delivered here and not yet taken from the [`Subscription`]: by default 16,384 messages and 4 MiB
    /// of documents, for a durable one 100 messages. At least 1 each; one message may go beyond the bytes.
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
        let events = Arc::new(Events::default());
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
            let entry = Entry::new(subscribe, Arc::clone(&events), opened);
            if matches!(state.phase, Phase::Up) {
                shared.push(&mut state, &entry.frame(number))?;
            }
            state.subscriptions.insert(number, entry);
            number
        };
        let window = (window_messages, window_bytes);
        let subscription = Subscription::new(shared, number, durable, events, age_max, window);
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
