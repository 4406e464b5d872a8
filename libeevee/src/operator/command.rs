//! One message in the hands of its handler.

use std::cell::Cell;
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
    pub(super) answers: Answers,
}

/// What the bus recognises a second answer to the same command by, after the command came again.
///
/// Each command of a durable subscription has an epoch of its own, in which its answers are numbered from 1. One epoch
/// for all of them, with their ids as the sequence, would drop answers that are no repetitions: commands run side by side,
/// and are not answered in their order.
#[derive(Debug, Default)]
pub(super) struct Answers {
    /// 0 for what a live subscription delivered, which never comes again.
    epoch: u64,
    given: Cell<u64>,
}

impl Answers {
    /// Those to a message of a durable subscription of this name, or of a live one.
    pub(super) fn to(message: &Message, durable: Option<&str>) -> Self {
        let epoch = durable.filter(|_| message.delivery.is_durable()).map_or(0, |name| epoch(name, message.id));
        Self { epoch, given: Cell::new(0) }
    }

    fn number(&self, answer: Outgoing) -> Outgoing {
        if self.epoch == 0 {
            return answer;
        }
        self.given.set(self.given.get() + 1);
        Outgoing { epoch: self.epoch, sequence: self.given.get(), ..answer }
    }
}

/// The name is in it because two durable subscriptions of an operator may get the same message, whose handlers both answer.
/// The same in every version and on every machine: the bus compares it with what an earlier process sent. (FNV-1a; for one
/// name no two ids have the same epoch.) Half of the numbers are enough, and fit where integers have a sign.
fn epoch(durable: &str, id: u64) -> u64 {
    let step = |hash: u64, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
    let name = durable.bytes().fold(0xcbf2_9ce4_8422_2325, step);
    ((name ^ id) & i64::MAX.cast_unsigned()).max(1)
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
    /// nothing is acknowledged whose answer could still be lost. And it is given once: when the operator dies between its
    /// answer and the acknowledgement, the command comes again and its handler runs a second time, but the bus knows the
    /// second answer and drops it, so that the first roll of the dice stands. Answers are told apart by their place, the
    /// first one, the second one and so on, and not by their text: a handler that answers and then fails has given that
    /// answer. The bus remembers the 1,024 commands that this operator answered last.
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

    /// Publishes any document as an answer to this message: with it as the cause, so that loops end. Confirmed, and once,
    /// as [`reply`](Self::reply) is. What shall be published in each attempt goes through
    /// [`operator`](Self::operator).
    ///
    /// # Errors
    /// As [`Client::publish_confirmed`](crate::Client::publish_confirmed).
    pub async fn publish(&self, document: Document) -> Result<(), Error> {
        let answer = self.answers.number(Outgoing::from(document).answering(&self.message));
        if !self.message.delivery.is_durable() {
            return self.op.publish(answer).await;
        }
        if self.op.publish_confirmed(answer).await?.repeated {
            tracing::info!(eevee.message = self.message.id, "message {} was answered before", self.message.id);
        }
        Ok(())
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn epochs_are_the_same_for_ever() {
        // These stand on the disks of buses: another number would answer a command twice after an upgrade.
        assert_eq!(epoch("commands", 4711), 0x3cc8bf892e4530b4);
        assert_eq!(epoch("mail", 4711), 0x1f5964a2ce981549);
        assert!((0..10_000).all(|id| epoch("commands", id) ^ epoch("commands", id + 1) != 0));
        let name = epoch("commands", 0);
        assert_eq!(epoch("commands", name), 1, "0 would be no epoch");
    }
}
