//! Subscriptions whose messages come out of the operator's one stream of events.

use std::future::IntoFuture;
use std::pin::Pin;
use std::rc::Rc;
use std::time::Duration;

use tokio::time::sleep;

use super::inner::Inner;
use super::notify;
use crate::client::SubscribeBuilder;
use crate::error::Error;
use crate::settings::Settings;
use crate::wire::{Code, Overflow};

/// Between attempts to subscribe durably where the bus cannot write.
const STORAGE_PAUSE: Duration = Duration::from_secs(5);

/// A subscription on its way; await it. It yields its number, which [`Operator::unsubscribe`] takes; the subscription
/// lives as long as the operator. From [`Operator::subscribe`].
///
/// [`Operator::subscribe`]: super::Operator::subscribe
/// [`Operator::unsubscribe`]: super::Operator::unsubscribe
#[must_use = "nothing is subscribed until this is awaited"]
pub struct OperatorSubscribe<S: Settings> {
    inner: Rc<Inner<S>>,
    builder: SubscribeBuilder,
    route: usize,
}

impl<S: Settings> OperatorSubscribe<S> {
    pub(super) fn new(inner: &Rc<Inner<S>>, builder: SubscribeBuilder, route: usize) -> Self {
        Self { inner: Rc::clone(inner), builder, route }
    }

    /// See [`SubscribeBuilder::durable`]. While the bus cannot store it (`Refused(storage)`), this waits. Its messages are acknowledged by [`Operator::ack`], or given back by
    /// [`Operator::nack`].
    ///
    /// [`Operator::ack`]: super::Operator::ack
    /// [`Operator::nack`]: super::Operator::nack
    pub fn durable(mut self, name: impl Into<String>) -> Self {
        self.builder = self.builder.durable(name);
        self
    }

    /// See [`SubscribeBuilder::overflow`].
    pub fn overflow(mut self, overflow: Overflow) -> Self {
        self.builder = self.builder.overflow(overflow);
        self
    }

    /// See [`SubscribeBuilder::queue`].
    pub fn queue(mut self, messages: u32, bytes: u64) -> Self {
        self.builder = self.builder.queue(messages, bytes);
        self
    }

    /// See [`SubscribeBuilder::max_age`].
    pub fn max_age(mut self, age: Duration) -> Self {
        self.builder = self.builder.max_age(age);
        self
    }

    /// See [`SubscribeBuilder::window`].
    pub fn window(mut self, messages: u64, bytes: u64) -> Self {
        self.builder = self.builder.window(messages, bytes);
        self
    }
}

impl<S: Settings> OperatorSubscribe<S> {
    /// A disk of the bus that is full or read-only heals while the operator lives; ending would only use its starts up.
    async fn wait_for_storage(&self, error: &Error) {
        tracing::warn!("waiting for the bus to store: {error}");
        if !self.inner.is_ready() {
            notify::waiting(&notify::line(&format!("waiting for the bus to store: {error}")));
        }
        self.inner.wait_for_bus(sleep(STORAGE_PAUSE)).await;
    }
}

impl<S: Settings> IntoFuture for OperatorSubscribe<S> {
    type Output = Result<u32, Error>;
    type IntoFuture = Pin<Box<dyn Future<Output = Self::Output>>>;

    fn into_future(self) -> Self::IntoFuture {
        Box::pin(async move {
            let subscription = loop {
                match self.inner.wait_for_bus(self.builder.clone().into_future()).await {
                    Err(error) if error.code() == Some(Code::Storage) => self.wait_for_storage(&error).await,
                    done => break done?,
                }
            };
            let number = subscription.number();
            self.inner.add_subscription(self.route, subscription);
            Ok(number)
        })
    }
}
