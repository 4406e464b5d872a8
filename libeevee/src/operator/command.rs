//! One message in the hands of its handler.

use std::fmt;
use std::ops::Deref;
use std::sync::Arc;

use super::Operator;
use crate::chat::{self, key};
use crate::client::{Nack, Outgoing};
use crate::error::Error;
use crate::message::{Document, Message};
use crate::settings::Settings;

/// A message that a handler shall act on. It is a [`Message`], too.
pub struct Command<S: Settings> {
    pub(super) message: Message,
    pub(super) settings: Arc<S>,
    pub(super) op: Operator<S>,
}

impl<S: Settings> Command<S> {
    /// What was said after the command, without white space around it.
    pub fn args(&self) -> &str {
        chat::arguments(&self.message)
    }

    /// Who said it: nick or display name, as the network shows it. Nobody vouches for it; see the header `account`.
    pub fn user(&self) -> &str {
        self.message.header(key::USER).unwrap_or_default()
    }

    /// The message itself.
    pub fn message(&self) -> &Message {
        &self.message
    }

    /// The settings in force when the message came.
    pub fn settings(&self) -> Arc<S> {
        Arc::clone(&self.settings)
    }

    /// The operator, for its store, its scratch directory and its connection.
    pub fn operator(&self) -> &Operator<S> {
        &self.op
    }

    /// Answers where it was said: on the same network, in the same channel. Nothing is added to the text. The answer to a
    /// request goes to whoever asked.
    ///
    /// The answer to what a durable subscription delivered is [confirmed](crate::Client::publish_confirmed), so that
    /// nothing is acknowledged whose answer could still be lost.
    ///
    /// # Errors
    /// As [`Client::publish_confirmed`](crate::Client::publish_confirmed); for a message that is neither from a chat nor a
    /// request.
    pub async fn reply(&self, text: impl AsRef<str>) -> Result<(), Error> {
        if self.message.reply_address.is_some() {
            let document = Document { body: text.as_ref().to_owned().into(), ..Document::default() };
            return self.op.client().reply_to(&self.message, document).await;
        }
        let document = chat::reply(&self.message, text.as_ref()).map_err(|error| Error::other(error.to_string()))?;
        self.publish(document).await
    }

    /// Publishes any document as an answer to this message: with it as the cause, so that loops end. Confirmed, as
    /// [`reply`](Self::reply) is.
    ///
    /// # Errors
    /// As [`Client::publish_confirmed`](crate::Client::publish_confirmed).
    pub async fn publish(&self, document: Document) -> Result<(), Error> {
        let answer = Outgoing::from(document).answering(&self.message);
        if self.message.delivery.is_durable() {
            self.op.publish_confirmed(answer).await.map(drop)
        } else {
            self.op.publish(answer).await
        }
    }

    /// Acknowledges it now, and not when the handler returns: from here on it is not run a second time, whatever comes.
    ///
    /// # Errors
    /// As [`Client::ack`](crate::Client::ack).
    pub fn ack(&self) -> Result<(), Error> {
        self.op.ack(&self.message)
    }

    /// Gives it back, whatever the handler returns after that: for another delay, or as a dead letter at once.
    ///
    /// ```no_run
    /// # use libeevee::{Error, Nack, NoSettings, operator::Command};
    /// async fn weather(command: Command<NoSettings>) -> Result<(), Error> {
    ///     if command.args().is_empty() {
    ///         return command.nack(Nack::dead("no place was given"));
    ///     }
    ///     command.reply("rain").await
    /// }
    /// ```
    ///
    /// # Errors
    /// As [`Client::nack`](crate::Client::nack).
    pub fn nack(&self, nack: Nack) -> Result<(), Error> {
        self.op.nack(&self.message, nack)
    }
}

impl<S: Settings> Deref for Command<S> {
    type Target = Message;

    fn deref(&self) -> &Message {
        &self.message
    }
}

impl<S: Settings> fmt::Debug for Command<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Command").field("message", &self.message.id).finish_non_exhaustive()
    }
}
