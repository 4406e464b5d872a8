//! The runtime that all operators share: who am I, my settings, ready, watchdog, halt and resume, reload, stop.
//!
//! An operator that answers commands is a list of handlers, given to [`run`] or [`run_with`]. A connector to a network
//! has its own loop, given to [`run_loop`], and in it everything comes out of [`Operator::next`].
//!
//! ```no_run
//! use libeevee::{Exit, NoSettings, operator::{self, Event, Failure, Operator}};
//!
//! async fn follow(op: Operator<NoSettings>) -> Result<(), Failure> {
//!     op.subscribe("type=chat.join").await?;
//!     op.ready("counting").await;
//!     let mut joined = 0;
//!     loop {
//!         match op.next().await {
//!             Event::Message(_) => {
//!                 joined += 1;
//!                 op.status(&format!("{joined} joined")).await;
//!             }
//!             Event::Reload(reload) => reload.accept(),
//!             Event::Stop => return Ok(()),
//!             _ => {}
//!         }
//!     }
//! }
//!
//! fn main() -> Exit {
//!     operator::run_loop(follow)
//! }
//! ```
//!
//! The operator's loop has to come back to `next`: the watchdog's beat passes through it. Wait for a network beside it
//! with `tokio::select!`, and put work that takes long into a task (`tokio::task::spawn_local`) with an [`InHand`].
//! The loop may wait for the bus in [`Operator::publish`], [`Operator::subscribe`] and [`Operator::claim`], through which
//! the beat passes, too: while the bus is away, nobody is killed for that. It hears of no other event meanwhile.
//! All of an operator runs in one thread; what computes for long belongs into `spawn_blocking`.
//!
//! A child process must not inherit what systemd gave to the operator alone: take the variables in
//! [`PRIVATE_ENVIRONMENT`] out of its environment.

mod announce;
mod arguments;
mod beat;
mod command;
mod commands;
mod event;
mod failure;
mod identity;
mod inner;
mod notify;
mod records;
mod reload;
mod run;
mod signals;
mod store;
mod subscribe;
mod watch;

use std::fmt;
use std::future::poll_fn;
use std::io;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use self::inner::Inner;
use crate::client::{Client, FilterTexts, Nack, Outgoing, Published};
use crate::error::Error;
use crate::id::OperatorId;
use crate::log::handling::{self, Handling};
use crate::message::Message;
use crate::settings::{CredentialError, Settings};

pub use self::announce::CommandInfo;
pub use self::command::Command;
pub use self::commands::{COMMAND_AGE_MAX, Commands, run, run_with};
pub use self::event::{Event, Reload};
pub use self::failure::Failure;
pub use self::run::run_loop;
pub use self::store::{Store, StoreError};
pub use self::subscribe::OperatorSubscribe;

/// Environment variables for an operator's own process, not for its children: one that said `READY=1` or kept the
/// credentials would speak in its name.
pub const PRIVATE_ENVIRONMENT: [&str; 8] = [
    "NOTIFY_SOCKET",
    "WATCHDOG_USEC",
    "WATCHDOG_PID",
    "LISTEN_FDS",
    "LISTEN_PID",
    "LISTEN_FDNAMES",
    "CREDENTIALS_DIRECTORY",
    "EEVEE_ID",
];

/// An operator at work; given to the function of [`run_loop`].
pub struct Operator<S: Settings> {
    inner: Rc<Inner<S>>,
}

impl<S: Settings> Operator<S> {
    /// Its id, which is its name on the bus.
    pub fn id(&self) -> &OperatorId {
        &self.inner.id
    }

    /// The settings in force. A reload changes them at [`Event::Settings`].
    pub fn settings(&self) -> Arc<S> {
        self.inner.settings()
    }

    /// The connection to the bus, for all that stands not here. What is subscribed through it does not come out of
    /// [`next`](Self::next), and goes on yielding what had come when the operator is halted.
    pub fn client(&self) -> &Client {
        &self.inner.client
    }

    /// Subscribes; the messages come as [`Event::Message`] out of [`next`](Self::next), and no more while halted.
    ///
    /// # Errors
    /// As [`Client::subscribe`].
    pub fn subscribe(&self, filters: impl Into<FilterTexts>) -> OperatorSubscribe<S> {
        OperatorSubscribe::new(&self.inner, self.inner.client.subscribe(filters), 0)
    }

    /// Ends a subscription by the number that [`subscribe`](Self::subscribe) returned.
    pub fn unsubscribe(&self, number: u32) {
        self.inner.drop_subscription(number);
    }

    /// Publishes; see [`Client::publish`]. A refusal that comes later is logged, with the rule.
    ///
    /// # Errors
    /// As [`Client::publish`].
    pub async fn publish(&self, message: impl Into<Outgoing>) -> Result<(), Error> {
        self.inner.wait_for_bus(self.inner.client.publish(message)).await
    }

    /// Publishes, and waits no longer than `within`; see [`Client::publish_within`].
    ///
    /// # Errors
    /// As [`Client::publish_within`].
    pub async fn publish_within(&self, message: impl Into<Outgoing>, within: Duration) -> Result<(), Error> {
        self.inner.wait_for_bus(self.inner.client.publish_within(message, within)).await
    }

    /// Publishes and waits until the bus has it safely; see [`Client::publish_confirmed`]. What must not be lost when the bus
    /// is killed goes this way.
    ///
    /// # Errors
    /// As [`Client::publish_confirmed`].
    pub async fn publish_confirmed(&self, message: impl Into<Outgoing>) -> Result<Published, Error> {
        self.inner.wait_for_bus(self.inner.client.publish_confirmed(message)).await
    }

    /// The message is dealt with and will not come again. One that a live subscription delivered needs no
    /// acknowledgement, and this does nothing then; nor does a second one.
    ///
    /// ```no_run
    /// use libeevee::operator::{Event, Failure, Operator};
    /// use libeevee::{Nack, NoSettings};
    /// # async fn say(message: &libeevee::Message) -> Result<(), std::io::Error> { Ok(()) }
    ///
    /// async fn mouth(op: Operator<NoSettings>) -> Result<(), Failure> {
    ///     op.subscribe("direction=out,platform=irc,network=libera").durable("out").await?;
    ///     op.ready("saying").await;
    ///     loop {
    ///         match op.next().await {
    ///             Event::Message(message) => match say(&message).await {
    ///                 Ok(()) => op.ack(&message)?,
    ///                 Err(error) => op.nack(&message, Nack::again(error.to_string()))?,
    ///             },
    ///             Event::Reload(reload) => reload.accept(),
    ///             Event::Stop => return Ok(()),
    ///             _ => {}
    ///         }
    ///     }
    /// }
    /// ```
    ///
    /// # Errors
    /// As [`Client::ack`].
    pub fn ack(&self, message: &Message) -> Result<(), Error> {
        self.inner.client.ack(message)
    }

    /// The message is not dealt with: it comes again, or becomes a dead letter. For one of a live subscription it does
    /// nothing.
    ///
    /// # Errors
    /// As [`Client::nack`].
    pub fn nack(&self, message: &Message, nack: Nack) -> Result<(), Error> {
        self.inner.client.nack(message, nack)
    }

    /// Claims a name (`platform/network`) for this operator alone; see [`Client::claim`].
    ///
    /// # Errors
    /// As [`Client::claim`]; `Refused(already-connected)` names the holder.
    pub async fn claim(&self, name: &str) -> Result<(), Error> {
        self.inner.wait_for_bus(self.inner.client.claim(name)).await
    }

    /// The work has begun: READY=1. For a connector it has begun with the first attempt to connect; a network that is
    /// down belongs into the status. Said again, it is a status.
    pub async fn ready(&self, status: &str) {
        self.inner.ready(status);
    }

    /// One line for the person who looks, in `systemctl status` and `eeveectl status`.
    pub async fn status(&self, status: &str) {
        self.inner.status(status);
    }

    /// The next event. The operator's loop has to come here again and again: systemd's watchdog beats through it, and
    /// nothing else gets the events. Dropping the future loses nothing.
    ///
    /// What is logged between a message and the next call is about that message. If that is itself a log record
    /// (`type=log.record`), it goes to the journal alone, so that no loop comes of it; a task that handles it for longer
    /// says so by [`log::unpublished`](crate::log::unpublished).
    pub fn next(&self) -> impl Future<Output = Event<S>> {
        // At once, and not when this is polled: beside it in a `select!`, others may come first.
        handling::took(None);
        async {
            let event = poll_fn(|cx| self.inner.poll(cx, true)).await.1;
            if let Event::Message(message) = &event {
                handling::took(Some(Handling::of(message)));
            }
            event
        }
    }

    /// The same without messages and gaps: for while no more work can be taken.
    pub fn next_but_work(&self) -> impl Future<Output = Event<S>> {
        handling::took(None);
        async { poll_fn(|cx| self.inner.poll(cx, false)).await.1 }
    }

    /// Work in hand: while one of these lives, a halted operator is not yet "halted".
    pub fn in_hand(&self) -> InHand {
        self.inner.take_in_hand();
        let inner = Rc::clone(&self.inner);
        InHand(Box::new(move || inner.put_down()))
    }

    /// Whether it is halted, or about to be.
    pub fn is_halted(&self) -> bool {
        self.inner.is_halted()
    }

    /// A directory that goes away with the value, in the operator's own RuntimeDirectory; else among the temporary files.
    ///
    /// # Errors
    /// Why it cannot be made.
    pub fn scratch(&self) -> io::Result<tempfile::TempDir> {
        scratch(std::env::var_os("RUNTIME_DIRECTORY").filter(|value| !value.is_empty()))
    }

    /// What it keeps over restarts, in its StateDirectory.
    pub fn store(&self) -> Store {
        Store::of_unit()
    }

    /// Reads a secret that systemd handed over; see [`crate::settings::credential`].
    ///
    /// # Errors
    /// [`CredentialError`], which names it.
    pub fn credential(&self, name: &str) -> Result<String, CredentialError> {
        crate::settings::credential(name)
    }
}

impl<S: Settings> Clone for Operator<S> {
    /// The same operator, for its tasks. Only one of them may wait in [`next`](Self::next).
    fn clone(&self) -> Self {
        Self { inner: Rc::clone(&self.inner) }
    }
}

impl<S: Settings> fmt::Debug for Operator<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Operator").field("id", &self.inner.id).finish_non_exhaustive()
    }
}

/// Work that has to be finished before the operator is "halted". From [`Operator::in_hand`].
#[must_use = "nothing is in hand any more once it is dropped"]
pub struct InHand(Box<dyn Fn()>);

impl Drop for InHand {
    fn drop(&mut self) {
        (self.0)();
    }
}

impl fmt::Debug for InHand {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("InHand")
    }
}

fn scratch(directory: Option<std::ffi::OsString>) -> io::Result<tempfile::TempDir> {
    let mut builder = tempfile::Builder::new();
    builder.prefix("scratch-");
    match directory.and_then(|value| std::env::split_paths(&value).next()) {
        Some(directory) => builder.tempdir_in(directory),
        None => builder.tempdir(),
    }
}

/// Logs a text of several lines, such as a diagnosis, as one record a line: that reads well wherever it is read.
fn warn_lines(text: &str) {
    for line in text.lines() {
        tracing::warn!("{line}");
    }
}

#[cfg(test)]
mod tests;
