//! What an operator's own loop is told.

use std::fmt;
use std::rc::Rc;
use std::sync::Arc;

use super::inner::Inner;
use crate::error::Error;
use crate::message::{Gap, Message};
use crate::settings::Settings;

/// What [`Operator::next`](super::Operator::next) yields.
#[derive(Debug)]
#[non_exhaustive]
pub enum Event<S: Settings> {
    /// A message that one of the operator's subscriptions matched. One of a durable subscription is to be acknowledged by
    /// [`Operator::ack`](super::Operator::ack), or given back.
    Message(Message),
    /// Messages that one of them lost.
    Gap(Gap),
    /// Take no more work. Messages wait in the bus; stay connected to a network, and go on publishing what it says.
    /// Finish what is in hand: coming back to `next` without an [`InHand`](super::InHand) says that nothing is.
    Halt,
    /// Take work again.
    Resume,
    /// The module file was changed, parses, and passed [`Settings::check`]: say whether it can be taken.
    Reload(Reload<S>),
    /// The bus committed the reload that was accepted; these are in force now.
    Settings(Arc<S>),
    /// A reload that was accepted, or that the loop still holds, comes to nothing: the bus called it off, or is away.
    /// Give back what was prepared for it; the settings stay as they are.
    Abort,
    /// Finish what is in hand, say goodbye to the network, and return, all within 10 s.
    Stop,
    /// The bus is away; the client connects again by itself, and publishing waits.
    BusAway,
    /// The bus is back; subscriptions and claims were made again.
    BusBack,
    /// A name that this operator had claimed was refused when the bus came back: another operator may hold it. Give up
    /// what it stands for (leave the network), and claim it again later.
    ClaimLost {
        /// The name, as it was claimed.
        name: String,
        /// Why; `Refused(already-connected)` names the holder.
        error: Error,
    },
}

/// New settings that wait for a verdict, due within 18 s. Dropping it refuses.
///
/// Prepare what can fail (resolve, open, check credentials), change nothing yet, and [`accept`](Self::accept) or
/// [`refuse`](Self::refuse). [`Event::Settings`] comes when the bus committed, [`Event::Abort`] when it did not.
#[must_use = "dropping it refuses the reload"]
pub struct Reload<S: Settings> {
    /// The settings in force.
    pub old: Arc<S>,
    /// The settings of the changed file.
    pub new: Arc<S>,
    number: u32,
    inner: Option<Rc<Inner<S>>>,
}

impl<S: Settings> Reload<S> {
    pub(super) fn new(inner: &Rc<Inner<S>>, number: u32, new: Arc<S>) -> Self {
        Self { old: inner.settings(), new, number, inner: Some(Rc::clone(inner)) }
    }

    /// The operator can take them.
    pub fn accept(mut self) {
        if let Some(inner) = self.inner.take() {
            inner.accept(self.number);
        }
    }

    /// It cannot: why, for the person who asked for the reload. A [`Diagnosis`](crate::Diagnosis) shows the place.
    pub fn refuse(mut self, why: impl fmt::Display) {
        if let Some(inner) = self.inner.take() {
            inner.refuse(self.number, &why.to_string());
        }
    }
}

impl<S: Settings> Drop for Reload<S> {
    fn drop(&mut self) {
        if let Some(inner) = self.inner.take() {
            inner.refuse(self.number, "the operator neither accepted nor refused the new settings");
        }
    }
}

impl<S: Settings> fmt::Debug for Reload<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Reload").field("number", &self.number).finish_non_exhaustive()
    }
}
