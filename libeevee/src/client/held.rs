//! What a durable subscription delivered to this process and nobody has dealt with yet, and what was dealt with lately.
//!
//! The bus delivers again what it has no acknowledgement of: after a deadline, a lost connection, a crash of its own. What
//! still lies here, or was acknowledged a moment ago, must not be handed out a second time for that.

use std::collections::hash_map::Entry as Slot;
use std::collections::{HashMap, HashSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use tokio::time::sleep;

use super::nack::Nack;
use super::shared::{Phase, Shared, State};
use crate::error::{Error, ErrorKind};
use crate::message::Message;
use crate::wire::{self, Ack, Content, Frame, Grant};

/// Acknowledgements that may be on their way when the connection is lost: many times what may be in flight.
const DONE_MAX: usize = 1024;

/// Between attempts to attach where the bus has not noticed yet that the last connection is gone.
pub(super) const PREDECESSOR_PAUSE: Duration = Duration::from_millis(200);

/// Between attempts to attach where the bus cannot write.
pub(super) const STORAGE_PAUSE: Duration = Duration::from_secs(2);

/// A window is opened again by each sixteenth of it that was settled: a small one at once, a large one not for each message.
const GRANT_PARTS: u64 = 16;

/// All of it went against what the window has already.
const NOTHING: Grant = Grant { messages: 0, bytes: 0 };

/// What the deliveries of a durable subscription have become.
#[derive(Debug)]
pub(super) struct Held {
    /// In the queue of the subscription, or in its user's hands, with the bytes of their documents. The window bounds it.
    open: HashMap<u64, u64>,
    done: HashSet<u64>,
    /// The same, oldest first.
    done_order: VecDeque<u64>,
    /// Acks that no connection took; they stand right behind the next Subscribe. At most one for each message that was
    /// open, as is true of these:
    pub(super) unsent: Vec<Frame>,
    /// What was given back and no connection took: said when it comes again. The bus takes this only of what it has
    /// delivered on the same connection.
    refused: HashMap<u64, wire::Nack>,
    /// Messages and bytes that were settled since the last grant. The window opens by them, and not by what the user takes,
    /// so that no more is in flight than it has room for.
    settled: (u64, u64),
    /// How many make a grant worth a frame.
    grant_at: (u64, u64),
}

/// What a delivery is to this process.
#[derive(Debug, PartialEq, Eq)]
enum Arrival {
    /// To be handed out.
    New,
    /// It is here already.
    Held,
    /// It was acknowledged; the bus has not heard it.
    Done,
    /// It was given back; the bus has not heard it.
    Refused(wire::Nack),
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
    pub(super) fn new(window_messages: u64, window_bytes: u64) -> Self {
        Self {
            open: HashMap::new(),
            done: HashSet::new(),
            done_order: VecDeque::new(),
            unsent: Vec::new(),
            refused: HashMap::new(),
            settled: (0, 0),
            grant_at: ((window_messages / GRANT_PARTS).max(1), (window_bytes / GRANT_PARTS).max(1)),
        }
    }

    /// A delivery came.
    fn arrives(&mut self, id: u64, bytes: u64) -> Arrival {
        if self.done.contains(&id) {
            Arrival::Done
        } else if let Some(nack) = self.refused.remove(&id) {
            Arrival::Refused(nack)
        } else if let Slot::Vacant(new) = self.open.entry(id) {
            new.insert(bytes);
            Arrival::New
        } else {
            Arrival::Held
        }
    }

    /// The connection is lost. What did not come again by now is not awaited any longer.
    pub(super) fn lose(&mut self) {
        self.refused.clear();
    }

    /// What no connection took of what the user said.
    pub(super) fn keep(&mut self, frame: Frame) {
        match frame.content {
            Content::Nack(nack) => {
                self.refused.insert(nack.id, nack);
            }
            _ => self.unsent.push(frame),
        }
    }

    /// What the window is opened by, once it is worth a frame.
    fn settled(&mut self, bytes: u64) -> Option<(u64, u64)> {
        self.settled = (self.settled.0 + 1, self.settled.1 + bytes);
        let due = self.settled.0 >= self.grant_at.0 || self.settled.1 >= self.grant_at.1;
        due.then(|| std::mem::take(&mut self.settled))
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
        held.is_some_and(|held| held.open.contains_key(&receipt.id))
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
        let ended = || {
            let text = format!(
                "message {id} came by subscription {number}, which has ended: it comes again to whoever subscribes next"
            );
            Error::new(ErrorKind::Invalid, text)
        };
        let entry = state.subscriptions.get_mut(&number).ok_or_else(ended)?;
        let held = entry.held.as_mut().ok_or_else(ended)?;
        let Some(bytes) = held.open.remove(&id) else {
            let done = held.done.contains(&id);
            if done && matches!(settlement, Settlement::Ack) {
                return Ok(());
            }
            let became = if done { "acknowledged already" } else { "given back, or never here" };
            let text = format!("message {id} of durable subscription {number} is not in hand: it was {became}");
            return Err(Error::new(ErrorKind::Invalid, text));
        };
        let content = match settlement {
            Settlement::Ack => {
                held.acknowledged(id);
                Content::Ack(Ack { id })
            }
            Settlement::Nack(nack) => nack.content(id),
        };
        let frame = Frame::new(number, content);
        let due = held.settled(bytes);
        let said = if is_up {
            Some(frame)
        } else {
            held.keep(frame);
            None
        };
        let grant = due.map(|(messages, bytes)| entry.grant(messages, bytes)).filter(|grant| *grant != NOTHING);
        // While the bus is away, what is granted stands in the next Subscribe.
        if let Some(frame) = said {
            self.push(state, &frame)?;
            if let Some(grant) = grant {
                self.push(state, &Frame::new(number, Content::Grant(grant)))?;
            }
        }
        Ok(())
    }

    /// Attaches to a durable subscription once more, on the same connection.
    pub(super) async fn attach_later(self: Arc<Self>, number: u32, session: u64, pause: Duration) {
        sleep(pause).await;
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
        let said = match entry.held.as_mut().map_or(Arrival::New, |held| held.arrives(id, bytes)) {
            Arrival::New => return true,
            Arrival::Held => None,
            Arrival::Done => Some(Content::Ack(Ack { id })),
            Arrival::Refused(nack) => Some(Content::Nack(nack)),
        };
        let grant = Content::Grant(entry.grant_all(1, bytes));
        // The driver looks into the outbox before it waits again, and all of these fit into any frame.
        for content in said.into_iter().chain([grant]) {
            let _ = state.encode(&Frame::new(number, content));
        }
        false
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_here_or_was_settled_lately_is_not_new() {
        let mut held = Held::new(100, 1 << 20);
        assert_eq!(held.arrives(1, 10), Arrival::New);
        assert_eq!(held.arrives(1, 10), Arrival::Held);
        held.open.remove(&1);
        held.acknowledged(1);
        assert_eq!(held.arrives(1, 10), Arrival::Done);
        for id in 2..=DONE_MAX as u64 {
            held.acknowledged(id);
        }
        assert_eq!(held.arrives(1, 10), Arrival::Done);
        held.acknowledged(5000);
        assert_eq!((held.done.len(), held.done_order.len()), (DONE_MAX, DONE_MAX));
        assert_eq!(held.arrives(1, 10), Arrival::New);
        // Given back while the bus was away: said once, and new after that.
        held.open.remove(&1);
        let nack = wire::Nack { id: 1, dead: false, delay_ms: 0, reason: String::new() };
        held.keep(Frame::new(7, Content::Nack(nack.clone())));
        assert_eq!(held.arrives(1, 10), Arrival::Refused(nack.clone()));
        assert_eq!(held.arrives(1, 10), Arrival::New);
        held.open.remove(&1);
        held.keep(Frame::new(7, Content::Nack(nack)));
        held.lose();
        assert_eq!(held.arrives(1, 10), Arrival::New);
        assert!(held.unsent.is_empty());
    }

    #[test]
    fn a_small_window_opens_at_once() {
        let mut small = Held::new(16, 1 << 20);
        assert_eq!(small.settled(3), Some((1, 3)));
        let mut large = Held::new(100, 1600);
        let grants: Vec<_> = (0..12).filter_map(|_| large.settled(3)).collect();
        assert_eq!(grants, [(6, 18), (6, 18)]);
        assert_eq!(large.settled(100), Some((1, 100)));
    }
}
