//! What a durable subscription delivered to this process and nobody has dealt with yet, and what was dealt with lately.
//!
//! The bus delivers again what it has no acknowledgement of: after a deadline, a lost connection, a crash of its own. What
//! still lies here, or was acknowledged a moment ago, must not be handed out a second time for that.

use std::collections::{HashSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use tokio::time::sleep;

use super::nack::Nack;
use super::shared::{Phase, Shared, State};
use crate::error::{Error, ErrorKind};
use crate::message::Message;
use crate::wire::{Ack, Content, Frame};

/// Acknowledgements that may be on their way when the connection is lost: many times what may be in flight.
const DONE_MAX: usize = 1024;

/// Between attempts to attach where the bus has not noticed yet that the last connection is gone.
const ATTACH_PAUSE: Duration = Duration::from_millis(200);

/// What the deliveries of a durable subscription have become.
#[derive(Debug, Default)]
pub(super) struct Held {
    /// In the queue of the subscription, or in its user's hands. What may be in flight bounds it.
    open: HashSet<u64>,
    done: HashSet<u64>,
    /// The same, oldest first.
    done_order: VecDeque<u64>,
    /// Ack and Nack that no connection took; they stand right behind the next Subscribe. At most one for each message
    /// that was open.
    pub(super) unsent: Vec<Frame>,
}

/// What a delivery is to this process.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Arrival {
    /// To be handed out.
    New,
    /// It is here already.
    Held,
    /// It was acknowledged; the bus has not heard it.
    Done,
}

/// A delivery by what it is settled by, without its document.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Receipt {
    pub(super) subscription: u32,
    pub(super) id: u64,
}

impl Message {
    pub(crate) const fn receipt(&self) -> Receipt {
        Receipt { subscription: self.delivery.subscription, id: self.id }
    }
}

/// What became of a delivery.
#[derive(Debug, Clone)]
pub(crate) enum Settlement {
    Ack,
    Nack(Nack),
}

impl Held {
    /// A delivery came.
    pub(super) fn arrives(&mut self, id: u64) -> Arrival {
        if self.done.contains(&id) {
            Arrival::Done
        } else if self.open.insert(id) {
            Arrival::New
        } else {
            Arrival::Held
        }
    }

    fn acknowledged(&mut self, id: u64) {
        if self.done_order.len() == DONE_MAX
            && let Some(oldest) = self.done_order.pop_front()
        {
            self.done.remove(&oldest);
        }
        self.done.insert(id);
        self.done_order.push_back(id);
    }
}

impl Shared {
    /// Whether this delivery still waits for its acknowledgement or its return.
    pub(crate) fn holds(&self, receipt: Receipt) -> bool {
        let state = self.lock();
        let held = state.subscriptions.get(&receipt.subscription).and_then(|entry| entry.held.as_ref());
        held.is_some_and(|held| held.open.contains(&receipt.id))
    }

    /// Acknowledges a delivery or gives it back. Nothing waits for a live one, and a second acknowledgement changes
    /// nothing.
    pub(crate) fn settle(&self, receipt: Receipt, settlement: Settlement) -> Result<(), Error> {
        let Receipt { subscription: number, id } = receipt;
        if number == 0 {
            return Ok(());
        }
        let mut guard = self.lock();
        let state: &mut State = &mut guard;
        state.accepting()?;
        let is_up = matches!(state.phase, Phase::Up);
        let Some(held) = state.subscriptions.get_mut(&number).and_then(|entry| entry.held.as_mut()) else {
            let text = format!(
                "message {id} came by subscription {number}, which has ended: it comes again to whoever subscribes next"
            );
            return Err(Error::new(ErrorKind::Invalid, text));
        };
        let content = match settlement {
            Settlement::Ack if held.done.contains(&id) => return Ok(()),
            _ if !held.open.remove(&id) => {
                let became = if held.done.contains(&id) { "acknowledged already" } else { "given back, or never here" };
                let text = format!("message {id} of durable subscription {number} is not in hand: it was {became}");
                return Err(Error::new(ErrorKind::Invalid, text));
            }
            Settlement::Ack => {
                held.acknowledged(id);
                Content::Ack(Ack { id })
            }
            Settlement::Nack(nack) => nack.content(id),
        };
        let frame = Frame::new(number, content);
        if is_up {
            return self.push(state, &frame);
        }
        held.unsent.push(frame);
        Ok(())
    }

    /// Attaches to a durable subscription once more: the session before this one had it when the bus was asked, and may be
    /// gone by now.
    pub(super) async fn attach_later(self: Arc<Self>, number: u32, session: u64) {
        sleep(ATTACH_PAUSE).await;
        let mut guard = self.lock();
        let state: &mut State = &mut guard;
        if !matches!(state.phase, Phase::Up) || state.welcome.session != session {
            return;
        }
        let Some(entry) = state.subscriptions.get_mut(&number) else { return };
        let frame = entry.again(number);
        // It fitted before.
        let _ = self.push(state, &frame);
    }

    /// The driver's side: a durable subscription delivered. True when it is to be handed out; else its share of the
    /// window goes back at once.
    pub(super) fn arrives(&self, number: u32, id: u64, bytes: u64) -> bool {
        let mut guard = self.lock();
        let state: &mut State = &mut guard;
        let Some(entry) = state.subscriptions.get_mut(&number) else { return false };
        let arrival = entry.held.as_mut().map_or(Arrival::New, |held| held.arrives(id));
        if arrival == Arrival::New {
            return true;
        }
        let grant = entry.grant_all(1, bytes);
        // The driver looks into the outbox before it waits again, and both fit into any frame.
        let _ = state.encode(&Frame::new(number, Content::Grant(grant)));
        if arrival == Arrival::Done {
            let _ = state.encode(&Frame::new(number, Content::Ack(Ack { id })));
        }
        false
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_here_or_was_done_lately_is_not_new() {
        let mut held = Held::default();
        assert_eq!(held.arrives(1), Arrival::New);
        assert_eq!(held.arrives(1), Arrival::Held);
        held.open.remove(&1);
        held.acknowledged(1);
        assert_eq!(held.arrives(1), Arrival::Done);
        for id in 2..=DONE_MAX as u64 {
            held.acknowledged(id);
        }
        assert_eq!(held.arrives(1), Arrival::Done);
        held.acknowledged(5000);
        assert_eq!((held.done.len(), held.done_order.len()), (DONE_MAX, DONE_MAX));
        assert_eq!(held.arrives(1), Arrival::New);
    }
}
