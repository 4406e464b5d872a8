//! Subscriptions: the stream that each one is, and the window that bounds what it holds.
//!
//! The driver always reads the socket and puts deliveries into the queue of their subscription; what keeps that queue
//! small is the window. The bus delivers no more than was granted, and grants follow what the user takes out, so a slow
//! user holds up its own subscription and nothing else.

use std::collections::VecDeque;
use std::future::poll_fn;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;
use std::vec;

use futures_util::Stream;
use tokio::task::coop;

use super::entry::{Arrived, Common, Item, Run};
use super::events::{Events, More};
use super::held::{Receipt, Settlement};
use super::nack::Nack;
use super::shared::{Phase, Shared, State};
use crate::error::{Error, ErrorKind};
use crate::message::{Gap, GapReason, Message};
use crate::wire::{Content, Frame};

/// How long after it expired here the bus looks at a message: longer than two clocks may differ by.
const RETURNED: Duration = Duration::from_millis(100);

/// Tokio gives a task a turn of 128 steps. So many messages are one: what the driver reads at once is taken in less than a
/// turn, or what waits here would only grow until the window is full.
const TURN: u32 = 4;

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
    events: Arc<Events>,
    /// Out of `events`, and not with the user yet. Nothing is kept of a run whose last message was taken.
    messages: vec::IntoIter<Arrived>,
    common: Common,
    /// What is behind them.
    here: VecDeque<Item>,
    /// How long a message may have waited.
    age_max: Option<Duration>,
    /// Messages and bytes taken out since the last grant.
    taken: (u64, u64),
    /// How many make a grant worth a frame.
    grant_at: (u64, u64),
    /// Taken since tokio was last asked whether others have their turn.
    in_turn: u32,
    failure: Option<Error>,
    shared: Arc<Shared>,
}

impl Subscription {
    pub(super) fn new(
        shared: Arc<Shared>,
        number: u32,
        durable: Option<String>,
        events: Arc<Events>,
        age_max: Option<Duration>,
        window: (u64, u64),
    ) -> Self {
        let grant_at = (window.0.div_ceil(2), window.1.div_ceil(2));
        Self {
            number,
            durable,
            events,
            messages: Vec::new().into_iter(),
            common: Common::default(),
            here: VecDeque::new(),
            age_max,
            taken: (0, 0),
            grant_at,
            in_turn: 0,
            failure: None,
            shared,
        }
    }

    /// The next event; `None` when the client was closed, or the subscription ended, and everything was taken. Dropping
    /// the future loses nothing.
    pub async fn next(&mut self) -> Option<Event> {
        poll_fn(|cx| self.poll_event(cx)).await
    }

    /// The next event, if one is here already.
    pub fn try_next(&mut self) -> Option<Event> {
        loop {
            if let Some(event) = self.take_here() {
                return event;
            }
            if self.events.take(&mut self.here) != More::Here {
                return None;
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

    /// Whether it keeps no piece of the stream.
    #[cfg(test)]
    pub(super) fn is_empty(&self) -> bool {
        self.common.piece.is_empty() && self.messages.as_slice().is_empty() && self.here.is_empty()
    }

    fn receipt(&self, message: &Message) -> Result<Receipt, Error> {
        let (came_by, wanted) = (message.delivery.subscription, if self.durable.is_some() { self.number } else { 0 });
        if came_by != wanted {
            let text = format!("message {} was not delivered by subscription {}", message.id, self.number);
            return Err(Error::new(ErrorKind::Invalid, text));
        }
        Ok(message.receipt())
    }

    #[inline]
    fn poll_event(&mut self, cx: &mut Context<'_>) -> Poll<Option<Event>> {
        // A user whose messages are always here lets others have their turn now and then; the driver is one of them.
        if self.in_turn >= TURN {
            ready!(coop::poll_proceed(cx)).made_progress();
            self.in_turn = 0;
        }
        loop {
            if let Some(event) = self.take_here() {
                self.in_turn += 1;
                return Poll::Ready(event);
            }
            if ready!(self.events.poll_take(&mut self.here, cx)) == More::Never {
                return Poll::Ready(None);
            }
        }
    }

    /// The next of what is here, `Some(None)` at the end; `None` when nothing is.
    #[inline(always)] // Else a message is moved once more.
    #[allow(clippy::option_option, reason = "what is nothing for the user, and the end, are two things")]
    fn take_here(&mut self) -> Option<Option<Event>> {
        loop {
            if let Some(arrived) = self.messages.next() {
                if let Some(event) = self.take(arrived) {
                    return Some(Some(event));
                }
                continue;
            }
            match self.here.pop_front() {
                Some(Item::Run(run)) => self.begin(run),
                // One that was taken already, as a part of an earlier one, is none.
                Some(Item::Gap(gap)) => {
                    if let Some(gap) = gap.close() {
                        return Some(Some(Event::Gap(gap)));
                    }
                }
                Some(Item::Failed(error)) => {
                    self.failure = Some(error);
                    return Some(None);
                }
                None => return None,
            }
        }
    }

    fn begin(&mut self, Run { messages, common }: Run) {
        self.messages = messages.into_iter();
        self.common = common;
    }

    /// Keeps nothing of a run whose last message was taken; what that one needs of it.
    #[cold]
    fn end_run(&mut self) -> Common {
        self.messages = Vec::new().into_iter();
        std::mem::take(&mut self.common)
    }

    /// What the user gets for it, if anything.
    #[inline(always)] // As above.
    fn take(&mut self, arrived: Arrived) -> Option<Event> {
        if self.has_expired(&arrived) {
            return self.give_up(&arrived).map(Event::Gap);
        }
        let settles = if self.durable.is_some() {
            self.number
        } else {
            self.consumed(arrived.bytes());
            0
        };
        let ended = self.messages.as_slice().is_empty().then(|| self.end_run());
        Some(Event::Message(arrived.open(settles, ended.as_ref().unwrap_or(&self.common))))
    }

    /// The window opens by what the user takes.
    fn consumed(&mut self, bytes: u64) {
        self.taken.0 += 1;
        self.taken.1 += bytes;
        if self.taken.0 >= self.grant_at.0 || self.taken.1 >= self.grant_at.1 {
            let (messages, bytes) = std::mem::take(&mut self.taken);
            self.shared.grant(self.number, messages, bytes);
        }
    }

    /// What is in the window has left the bus's queue, and nobody else looks how old it gets while its user is halted or
    /// slow.
    fn has_expired(&self, arrived: &Arrived) -> bool {
        self.age_max
            .zip(arrived.came)
            .is_some_and(|(age_max, came)| came.elapsed().saturating_add(arrived.waited()) > age_max)
    }

    /// What becomes of an expired message; the gap, where that is one.
    fn give_up(&mut self, expired: &Arrived) -> Option<Gap> {
        let gap = if self.durable.is_some() {
            self.return_expired(expired.id);
            None
        } else {
            Some(self.take_expired(expired))
        };
        if self.messages.as_slice().is_empty() {
            self.end_run();
        }
        gap
    }

    /// The gap in place of an expired message and of those behind it that have expired, too.
    fn take_expired(&mut self, first: &Arrived) -> Gap {
        self.consumed(first.bytes());
        let id = first.id;
        let mut gap = Gap { first: id, last: id, count: Some(1), reason: GapReason::Expired };
        while let Some(arrived) = self.next_expired() {
            self.consumed(arrived.bytes());
            gap.last = arrived.id;
            gap.count = gap.count.map(|count| count + 1);
        }
        gap
    }

    /// The next message that is here, if it has expired.
    fn next_expired(&mut self) -> Option<Arrived> {
        while self.messages.as_slice().is_empty() {
            if self.here.is_empty() {
                self.events.take(&mut self.here);
            }
            match self.here.pop_front_if(|item| matches!(item, Item::Run(_))) {
                Some(Item::Run(run)) => self.begin(run),
                _ => return None,
            }
        }
        let has_expired = self.has_expired(self.messages.as_slice().first()?);
        if has_expired { self.messages.next() } else { None }
    }

    /// What expired here goes back: when its turn comes again the bus finds it expired as well, makes it a dead letter with
    /// that reason, and tells the gap.
    fn return_expired(&self, id: u64) {
        let nack = Nack::again("it waited in its subscriber for longer than max-age").after(RETURNED);
        // Once the client has ended there is nobody to tell.
        let receipt = Receipt { subscription: self.number, id };
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
        self.events.abandon();
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
