//! Subscriptions whose messages come out of the operator's one stream of events.

use std::future::IntoFuture;
use std::pin::Pin;
use std::rc::Rc;
use std::time::Duration;

use super::inner::Inner;
use crate::client::SubscribeBuilder;
use crate::error::Error;
use crate::settings::Settings;
use crate::wire::Overflow;

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

    /// See [`SubscribeBuilder::durable`]. Its messages are acknowledged by [`Operator::ack`], or given back by
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

impl<S: Settings> IntoFuture for OperatorSubscribe<S> {
    type Output = Result<u32, Error>;
    type IntoFuture = Pin<Box<dyn Future<Output = Self::Output>>>;

    fn into_future(self) -> Self::IntoFuture {
        Box::pin(async move {
            let subscription = self.inner.wait_for_bus(self.builder.into_future()).await?;
            let number = subscription.number();
            self.inner.add_subscription(self.route, subscription);
            Ok(number)
        })
    }
}
