//! What the handles of a client and its driver share: the frames that wait to be written, the credit to publish, and
//! everything that has to be said again on the next connection.
//!
//! One lock keeps it, never held across an await and never while anything is read or written. A handle encodes its frame
//! straight into the outbox; the driver takes the outbox whole, so that what was queued together is one write.

use std::collections::{BTreeMap, HashMap, HashSet, VecDeque};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::{Mutex as AsyncMutex, Notify, oneshot, watch};
use tokio::time::Instant;

use super::credit::Credit;
use super::entry::Entry;
use super::notice::Notices;
use super::publish::Published;
use crate::error::{Error, ErrorKind};
use crate::wire::{Content, Frame, IGNORABLE, State as Status, Text, Value, Welcome};

/// Requests are numbered from here, below them subscriptions, whose numbers have to rise for as long as a session lasts.
const REQUEST_NUMBERS: u32 = 1 << 30;

/// Plain publishes are numbered from here: a flood of them never comes round to the number of something that is open.
const PUBLISH_NUMBERS: u32 = 1 << 31;

/// An outbox that grew to a flood's size is given back after it.
const OUTBOX_KEPT: usize = 1 << 20;

/// Where the answer to a request goes.
pub(super) type Waiter = oneshot::Sender<Result<Content, Error>>;

pub(super) struct Shared {
    state: Mutex<State>,
    /// Wakes the driver: the outbox is no longer empty, or the client is to close.
    pub(super) wake: Notify,
    /// Wakes the publisher that waits for credit.
    pub(super) credit: Notify,
    /// Publishers wait for credit in turn: whoever holds this is next. Without it a large document would starve behind
    /// small ones.
    pub(super) turn: AsyncMutex<()>,
    /// Somebody gave the connection up: see [`State::given_up`].
    pub(super) gave_up: Notify,
    /// How the driver ended, once it did.
    pub(super) done: watch::Sender<Option<Result<(), Error>>>,
    handles: AtomicU32,
}

pub(super) enum Phase {
    /// Connected, and everything open was said again.
    Up,
    /// The connection is lost, for this reason; the driver makes it again.
    Away(Error),
    /// Closing: what was accepted is still written, nothing more is accepted.
    Closing,
    /// Nothing more will happen.
    Ended(Error),
}

/// Who waits for an answer.
pub(super) enum Open {
    Request(Waiter),
    /// A confirmed publish, which stands under this number of its own among the unanswered.
    Publish(u64, oneshot::Sender<Result<Published, Error>>),
    /// A claim, whose own waiters stand with it: it is made again with every connection.
    Claim(String),
}

impl Open {
    /// It will not be answered any more. A claim stands with its own waiters.
    pub(super) fn fail(self, error: &Error) {
        match self {
            Self::Request(waiter) => drop(waiter.send(Err(error.clone()))),
            Self::Publish(_, waiter) => drop(waiter.send(Err(error.clone()))),
            Self::Claim(_) => {}
        }
    }
}

/// A claimed name, or one that is to be.
#[derive(Default)]
pub(super) struct Claim {
    pub(super) held: bool,
    pub(super) waiters: Vec<oneshot::Sender<Result<(), Error>>>,
}

pub(super) struct State {
    pub(super) phase: Phase,
    pub(super) welcome: Arc<Welcome>,
    pub(super) halted: bool,
    /// Why the connection that is up is to be made anew, where somebody found it dead.
    pub(super) given_up: Option<Error>,
    /// Whole frames that the driver has not taken yet.
    pub(super) outbox: Vec<u8>,
    /// Documents that were accepted and go out with the next connection, as soon as its credit allows and before
    /// anything newer: what was not written to its last byte when the connection was lost, and the confirmed ones among
    /// the rest. The credit that they were accepted with bounds them.
    pub(super) retained: VecDeque<Frame>,
    /// Confirmed publishes that the bus has not answered, in the order in which they were accepted. Credit bounds them,
    /// as the bus gives theirs back when it has taken them.
    pub(super) unanswered: BTreeMap<u64, Frame>,
    next_unanswered: u64,
    /// What the bus recognises this client's confirmed publishes by when they come a second time.
    pub(super) epoch: u64,
    /// The last sequence that was used in this epoch.
    pub(super) sequence: u64,
    /// What this operator last said of itself; `true` while it is to be written.
    pub(super) status: Option<(Status, bool)>,
    /// What commands this operator answers, as JSON; `true` while it is to be written.
    pub(super) commands: Option<(String, bool)>,
    pub(super) credit: Credit,
    /// Publishers that wait for credit; while there is one, nobody overtakes it.
    pub(super) waiting: usize,
    next_number: u32,
    next_subscription: u32,
    next_publish: u32,
    pub(super) open: HashMap<u32, Open>,
    pub(super) pings: HashMap<u64, (Instant, oneshot::Sender<Result<std::time::Duration, Error>>)>,
    next_ping: u64,
    pub(super) subscriptions: BTreeMap<u32, Entry>,
    /// Subscriptions that ended since the driver last looked.
    pub(super) ended: Vec<u32>,
    pub(super) claims: BTreeMap<String, Claim>,
    /// Reloads of this connection that want a verdict.
    pub(super) reloads: HashSet<u32>,
    pub(super) notices: Notices,
}

/// What the driver shall do after it took the outbox.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Taken {
    Bytes,
    Nothing,
    /// Everything accepted is written, and nothing more will be accepted.
    Close,
}

impl Shared {
    pub(super) fn new(welcome: Welcome) -> Arc<Self> {
        let credit = Credit::new(welcome.credit_messages, welcome.credit_bytes);
        let welcome = Arc::new(welcome);
        let mut notices = Notices::default();
        notices.tell(super::Notice::Connected(Arc::clone(&welcome)));
        Arc::new(Self {
            state: Mutex::new(State {
                phase: Phase::Up,
                halted: welcome.halted,
                given_up: None,
                welcome,
                outbox: Vec::new(),
                retained: VecDeque::new(),
                unanswered: BTreeMap::new(),
                next_unanswered: 0,
                // Half of the numbers are enough, and fit where integers have a sign.
                epoch: fastrand::u64(1..=i64::MAX.cast_unsigned()),
                sequence: 0,
                status: None,
                commands: None,
                credit,
                waiting: 0,
                next_number: REQUEST_NUMBERS,
                next_subscription: 1,
                next_publish: 0,
                open: HashMap::new(),
                pings: HashMap::new(),
                next_ping: 1,
                subscriptions: BTreeMap::new(),
                ended: Vec::new(),
                claims: BTreeMap::new(),
                reloads: HashSet::new(),
                notices,
            }),
            wake: Notify::new(),
            credit: Notify::new(),
            gave_up: Notify::new(),
            turn: AsyncMutex::new(()),
            done: watch::Sender::new(None),
            handles: AtomicU32::new(0),
        })
    }

    pub(super) fn lock(&self) -> MutexGuard<'_, State> {
        // Nothing that can panic half-way runs under the lock; if it did, closing in order still beats hanging.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Appends a frame that needs no credit, and wakes the driver.
    pub(super) fn push(&self, state: &mut State, frame: &Frame) -> Result<(), Error> {
        let was_empty = state.outbox.is_empty();
        let pushed = state.encode(frame);
        if was_empty && pushed.is_ok() {
            self.wake.notify_one();
        }
        pushed
    }

    /// Sends a request that needs a connection, and no credit; waits for its answer.
    pub(super) async fn ask(&self, content: Content) -> Result<Content, Error> {
        let answer = {
            let mut state = self.lock();
            state.connected()?;
            let (waiter, answer) = oneshot::channel();
            let number = state.number();
            self.push(&mut state, &Frame::new(number, content))?;
            state.open.insert(number, Open::Request(waiter));
            answer
        };
        answer.await.unwrap_or_else(|_| Err(Error::closed()))
    }

    /// The driver's side: everything that waits to be written, swapped for the driver's emptied buffer.
    pub(super) fn take(&self, writing: &mut Vec<u8>, ended: &mut Vec<u32>) -> Taken {
        if writing.capacity() > OUTBOX_KEPT {
            *writing = Vec::new();
        }
        writing.clear();
        let mut state = self.lock();
        ended.append(&mut state.ended);
        if let Some((status, unsaid @ true)) = &mut state.status {
            *unsaid = false;
            let frame = Frame::new(0, Content::State(status.clone()));
            // A status line that is too long for a frame was refused where it was said.
            let _ = state.encode(&frame);
        }
        if let Some((text, unsaid @ true)) = &mut state.commands {
            *unsaid = false;
            // A bus that does not know them lives without.
            let content = Content::Commands(Text { text: text.clone() });
            let _ = state.encode(&Frame { flags: IGNORABLE, number: 0, content });
        }
        if !state.outbox.is_empty() {
            std::mem::swap(&mut state.outbox, writing);
            if matches!(state.phase, Phase::Closing) {
                // The wake of close may have been one with that of the last frame, and there is one more step to take.
                self.wake.notify_one();
            }
            return Taken::Bytes;
        }
        // What waits for credit was accepted, too.
        let done = matches!(state.phase, Phase::Closing) && state.retained.is_empty();
        if done { Taken::Close } else { Taken::Nothing }
    }

    /// No more is accepted; the driver writes what was, says goodbye and ends.
    pub(super) fn close(&self) {
        let mut state = self.lock();
        match state.phase {
            Phase::Up => state.phase = Phase::Closing,
            // There is no connection to say goodbye on.
            Phase::Away(_) => state.phase = Phase::Ended(Error::closed()),
            Phase::Closing | Phase::Ended(_) => return,
        }
        drop(state);
        self.wake.notify_one();
        self.credit.notify_waiters();
    }

    /// The connection is dead, however open its socket looks.
    pub(super) fn give_up(&self, reason: Error) {
        let mut state = self.lock();
        if matches!(state.phase, Phase::Up | Phase::Closing) {
            state.given_up = Some(reason);
            self.gave_up.notify_one();
        }
    }

    pub(super) fn add_handle(&self) {
        self.handles.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn drop_handle(&self) {
        if self.handles.fetch_sub(1, Ordering::AcqRel) == 1 {
            self.close();
        }
    }
}

impl State {
    /// A number for a request, that no open one has.
    pub(super) fn number(&mut self) -> u32 {
        loop {
            let number = self.next_number;
            self.next_number = if number + 1 < PUBLISH_NUMBERS { number + 1 } else { REQUEST_NUMBERS };
            if !self.open.contains_key(&number) {
                return number;
            }
        }
    }

    /// A number for a subscription, above all earlier ones.
    pub(super) fn subscription_number(&mut self) -> Result<u32, Error> {
        let number = self.next_subscription;
        if number == REQUEST_NUMBERS {
            let text = format!("this client made {number} subscriptions, which is all that a session can number");
            return Err(Error::new(ErrorKind::Invalid, text));
        }
        self.next_subscription = number + 1;
        Ok(number)
    }

    /// The place of a confirmed publish among the unanswered.
    pub(super) fn unanswered_number(&mut self) -> u64 {
        self.next_unanswered += 1;
        self.next_unanswered
    }

    /// The number of the subscription that is attached to a durable one.
    pub(super) fn attached(&self, durable: &str) -> Option<u32> {
        self.subscriptions.iter().find(|(_, entry)| entry.durable() == Some(durable)).map(|(number, _)| *number)
    }

    /// A number for a publish that is answered only if it is refused.
    pub(super) fn publish_number(&mut self) -> u32 {
        self.next_publish = self.next_publish.wrapping_add(1) % PUBLISH_NUMBERS;
        PUBLISH_NUMBERS | self.next_publish
    }

    pub(super) fn ping_value(&mut self) -> u64 {
        self.next_ping += 1;
        self.next_ping
    }

    /// Appends a frame to the outbox, or leaves it as it was when the frame is larger than the bus takes.
    pub(super) fn encode(&mut self, frame: &Frame) -> Result<(), Error> {
        let start = self.outbox.len();
        frame.encode_into(&mut self.outbox);
        let bytes = self.outbox.len() - start - 4;
        let max = self.welcome.frame_bytes_max as usize;
        if bytes > max {
            self.outbox.truncate(start);
            return Err(too_large(bytes as u64, max as u64));
        }
        Ok(())
    }

    /// Whether anything can still be accepted.
    pub(super) fn accepting(&self) -> Result<(), Error> {
        match &self.phase {
            Phase::Up | Phase::Away(_) => Ok(()),
            Phase::Closing => Err(Error::closed()),
            Phase::Ended(error) => Err(error.clone()),
        }
    }

    /// Whether there is a connection now, for what makes no sense on a later one.
    pub(super) fn connected(&self) -> Result<(), Error> {
        match &self.phase {
            Phase::Up => Ok(()),
            Phase::Away(error) => Err(away(error)),
            Phase::Closing => Err(Error::closed()),
            Phase::Ended(error) => Err(error.clone()),
        }
    }

    /// The answer to a ping that the bus sent.
    pub(super) fn pong(&mut self, value: Value) {
        // A Pong fits into any frame.
        let _ = self.encode(&Frame::new(0, Content::Pong(value)));
    }
}

/// What is told to those who ask for something while the bus is away, or whose answer went with the connection.
pub(super) fn away(reason: &Error) -> Error {
    reason.clone().with_kind(ErrorKind::Disconnected).context("not connected to the bus")
}

pub(super) fn too_large(bytes: u64, max: u64) -> Error {
    Error::new(
        ErrorKind::TooLarge,
        format!(
            "a frame of {bytes} bytes is too large, this bus takes at most {max}: send less at once, or raise the frame \
             limit in [limits] of eeveed.toml"
        ),
    )
    .limited(max, bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_come_round_without_meeting_what_is_open() {
        let shared = Shared::new(Welcome {
            version: 1,
            identity: "test".into(),
            session: 1,
            boot: 1,
            last_id: 0,
            frame_bytes_max: 1 << 20,
            credit_messages: 1,
            credit_bytes: 1,
            halted: false,
            module: None,
            capabilities: vec![],
        });
        let mut state = shared.lock();
        let first = state.number();
        state.open.insert(first, Open::Claim("held".into()));
        state.next_number = PUBLISH_NUMBERS - 1;
        assert_eq!(state.number(), PUBLISH_NUMBERS - 1);
        assert_eq!(state.number(), first + 1);
        state.next_publish = PUBLISH_NUMBERS - 2;
        assert_eq!([state.publish_number(), state.publish_number()], [u32::MAX, PUBLISH_NUMBERS]);
        assert_eq!([state.subscription_number().unwrap(), state.subscription_number().unwrap()], [1, 2]);
        state.next_subscription = REQUEST_NUMBERS;
        assert!(state.subscription_number().is_err());
    }
}
