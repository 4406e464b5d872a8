//! What an operator is at this moment: settings, halted or not, what waits for its loop. One thread uses it, so the cells
//! are plain; no borrow lives across an await or a call to somebody else's code.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use futures_util::StreamExt;
use tokio::sync::Notify;
use tokio::time::Instant;

use super::reload::Pending;
use super::signals::Mark;
use super::{Event, Failure, notify};
use crate::client::{self, Client, Subscription};
use crate::settings::Settings;
use crate::wire::{Module, OperatorState};
use crate::{Error, OperatorId};

pub(super) struct Inner<S: Settings> {
    pub(super) id: OperatorId,
    pub(super) client: Client,
    pub(super) settings: RefCell<Arc<S>>,
    /// The file that the settings are from.
    pub(super) module: RefCell<Option<Module>>,
    pub(super) reload: RefCell<Option<Pending<S>>>,
    /// Why the last reload was refused here; it comes back as the bus's answer to whoever asked.
    pub(super) refusal: RefCell<String>,
    pub(super) standing: RefCell<Standing>,
    inbox: RefCell<VecDeque<Event<S>>>,
    waker: RefCell<Option<Waker>>,
    subscriptions: RefCell<Subscriptions>,
    in_hand: Cell<usize>,
    pub(super) beat_wanted: Cell<bool>,
    pub(super) beat_seen: Notify,
    /// Whether the operator's own loop runs right now, and not one of its tasks.
    pub(super) in_loop: Cell<bool>,
    /// Wakes the loop where it waits for the bus.
    pub(super) bus_waker: RefCell<Option<Waker>>,
    /// The bus went away or came back.
    pub(super) bus_changed: Notify,
    trouble: RefCell<Option<Failure>>,
    trouble_told: Notify,
}

/// Where the operator is in its life.
#[derive(Debug, Default)]
pub(super) struct Standing {
    pub(super) ready: bool,
    pub(super) stopping: bool,
    pub(super) halted: bool,
    /// The halt in force was asked for by a bare SIGTSTP.
    pub(super) halted_by_signal: bool,
    /// When the bus last said that it is halted, unless a SIGTSTP had asked for that.
    pub(super) halt_ordered: Option<Instant>,
    /// The loop was given [`Event::Halt`], and came back since.
    halt: Halt,
    /// Since when the bus is away.
    pub(super) away: Option<Instant>,
    /// What the operator says of itself.
    status: String,
    /// What it said of itself while it was halted.
    status_halted: String,
    shown: String,
}

#[derive(Debug, Default, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Halt {
    #[default]
    Waits,
    Given,
    LoopIsBack,
    Told,
}

#[derive(Default)]
struct Subscriptions {
    /// Each with the route that its messages take; see [`Inner::poll`].
    list: Vec<(usize, Subscription)>,
    /// Where to look first, so that a busy one starves no other.
    next: usize,
}

impl<S: Settings> Inner<S> {
    pub(super) fn new(id: OperatorId, client: Client, settings: S, module: Option<Module>) -> Rc<Self> {
        let inner = Self {
            id,
            client,
            settings: RefCell::new(Arc::new(settings)),
            module: RefCell::new(module),
            reload: RefCell::default(),
            refusal: RefCell::default(),
            standing: RefCell::default(),
            inbox: RefCell::default(),
            waker: RefCell::default(),
            subscriptions: RefCell::default(),
            in_hand: Cell::new(0),
            beat_wanted: Cell::new(false),
            beat_seen: Notify::new(),
            in_loop: Cell::new(false),
            bus_waker: RefCell::default(),
            bus_changed: Notify::new(),
            trouble: RefCell::default(),
            trouble_told: Notify::new(),
        };
        if inner.client.welcome().halted {
            inner.set_halted(true);
            inner.standing.borrow_mut().halted_by_signal = Mark::of_unit().is_set();
        } else {
            Mark::of_unit().clear();
        }
        Rc::new(inner)
    }

    pub(super) fn settings(&self) -> Arc<S> {
        Arc::clone(&self.settings.borrow())
    }

    pub(super) fn is_halted(&self) -> bool {
        self.standing.borrow().halted
    }

    pub(super) fn is_ready(&self) -> bool {
        self.standing.borrow().ready
    }

    pub(super) fn is_stopping(&self) -> bool {
        self.standing.borrow().stopping
    }

    pub(super) fn add_subscription(&self, route: usize, subscription: Subscription) {
        self.subscriptions.borrow_mut().list.push((route, subscription));
        self.wake();
    }

    pub(super) fn drop_subscription(&self, number: u32) {
        // Dropping one tells the bus, so it is dropped without the borrow.
        let dropped: Vec<_> = {
            let list = &mut self.subscriptions.borrow_mut().list;
            list.extract_if(.., |(_, subscription)| subscription.number() == number).collect()
        };
        drop(dropped);
    }

    /// The next event for the loop, with the route of a message's subscription. Without `messages` only events of the
    /// operator's life. Each call is a sign of life, and says that the loop has finished what it was given before.
    pub(super) fn poll(&self, cx: &mut Context<'_>, messages: bool) -> Poll<(usize, Event<S>)> {
        match &mut *self.waker.borrow_mut() {
            // Mostly it is the same.
            Some(waker) => waker.clone_from(cx.waker()),
            none => *none = Some(cx.waker().clone()),
        }
        self.came_by();
        {
            let mut standing = self.standing.borrow_mut();
            if standing.halt == Halt::Given {
                standing.halt = Halt::LoopIsBack;
            }
        }
        self.settle();
        let event = self.inbox.borrow_mut().pop_front();
        if let Some(event) = event {
            if matches!(event, Event::Halt) {
                self.standing.borrow_mut().halt = Halt::Given;
            }
            return Poll::Ready((0, event));
        }
        let takes_work = messages && {
            let standing = self.standing.borrow();
            !standing.halted && !standing.stopping
        };
        if takes_work { self.poll_subscriptions(cx) } else { Poll::Pending }
    }

    fn poll_subscriptions(&self, cx: &mut Context<'_>) -> Poll<(usize, Event<S>)> {
        let mut subscriptions = self.subscriptions.borrow_mut();
        let Subscriptions { list, next } = &mut *subscriptions;
        let count = list.len();
        let mut ended = None;
        for step in 0..count {
            let at = (*next + step) % count;
            let (route, subscription) = &mut list[at];
            match subscription.poll_next_unpin(cx) {
                Poll::Ready(Some(event)) => {
                    *next = (at + 1) % count;
                    let event = match event {
                        client::Event::Message(message) => Event::Message(message),
                        client::Event::Gap(gap) => Event::Gap(gap),
                    };
                    return Poll::Ready((*route, event));
                }
                Poll::Ready(None) => {
                    ended = Some(at);
                    break;
                }
                Poll::Pending => {}
            }
        }
        if let Some(at) = ended {
            let (_, subscription) = list.remove(at);
            drop(subscriptions);
            // An operator that no longer hears what it lives on must not look healthy.
            if let Some(why) = subscription.failure() {
                self.fail(Error::other(format!("subscription {} has ended: {why}", subscription.number())).into());
            }
            self.wake();
        }
        Poll::Pending
    }

    pub(super) fn push(&self, event: Event<S>) {
        let mut inbox = self.inbox.borrow_mut();
        // A loop that is busy for long need not hear what is over already; so the inbox stays small.
        let over: Option<fn(&Event<S>) -> bool> = match event {
            Event::Resume => Some(|event| matches!(event, Event::Halt)),
            Event::Halt => Some(|event| matches!(event, Event::Resume)),
            Event::BusBack => Some(|event| matches!(event, Event::BusAway)),
            Event::BusAway => Some(|event| matches!(event, Event::BusBack)),
            _ => None,
        };
        match over.and_then(|over| inbox.iter().position(over)) {
            Some(at) => drop(inbox.remove(at)),
            None if matches!(event, Event::Stop) => inbox.push_front(event),
            None => inbox.push_back(event),
        }
        drop(inbox);
        self.wake();
    }

    pub(super) fn wake(&self) {
        let waker = self.waker.borrow_mut().take();
        if let Some(waker) = waker {
            waker.wake();
        }
    }

    /// Ends the operator.
    pub(super) fn fail(&self, failure: Failure) {
        self.trouble.borrow_mut().get_or_insert(failure);
        self.trouble_told.notify_one();
    }

    pub(super) async fn failed(&self) -> Failure {
        loop {
            if let Some(failure) = self.trouble.borrow_mut().take() {
                return failure;
            }
            self.trouble_told.notified().await;
        }
    }

    pub(super) fn take_in_hand(&self) {
        self.in_hand.set(self.in_hand.get() + 1);
    }

    pub(super) fn put_down(&self) {
        self.in_hand.set(self.in_hand.get() - 1);
        self.settle();
    }

    // What follows keeps systemd, the bus and the standing in agreement.

    pub(super) fn ready(&self, status: &str) {
        let first = {
            let mut standing = self.standing.borrow_mut();
            standing.status = notify::line(status);
            !std::mem::replace(&mut standing.ready, true)
        };
        if first {
            let shown = self.standing.borrow().text();
            notify::ready(&shown);
            self.standing.borrow_mut().shown = shown;
            tracing::info!("ready: {status}");
        }
        self.tell();
        self.settle();
    }

    pub(super) fn status(&self, status: &str) {
        {
            let mut standing = self.standing.borrow_mut();
            standing.status = notify::line(status);
            if standing.halt == Halt::Told {
                standing.status_halted = standing.status.clone();
            }
        }
        self.tell();
    }

    pub(super) fn set_halted(&self, on: bool) {
        let was_told = {
            let mut standing = self.standing.borrow_mut();
            if standing.halted == on {
                return;
            }
            standing.halted = on;
            standing.halted_by_signal &= on;
            if on {
                standing.halt_ordered = Some(Instant::now());
            }
            standing.status_halted.clear();
            std::mem::take(&mut standing.halt) == Halt::Told
        };
        if !on {
            Mark::of_unit().clear();
        }
        tracing::info!("{}", if on { "halted: takes no more work" } else { "resumed" });
        self.push(if on { Event::Halt } else { Event::Resume });
        if was_told {
            self.tell();
        }
    }

    /// Says that it is halted once nothing is in hand.
    fn settle(&self) {
        {
            let mut standing = self.standing.borrow_mut();
            let settled = standing.halted && standing.ready && !standing.stopping && self.in_hand.get() == 0;
            if !settled || standing.halt != Halt::LoopIsBack {
                return;
            }
            standing.halt = Halt::Told;
        }
        self.tell();
    }

    pub(super) fn away_since(&self) -> Option<Instant> {
        self.standing.borrow().away
    }

    pub(super) fn set_away(&self, since: Option<Instant>) {
        let was = std::mem::replace(&mut self.standing.borrow_mut().away, since);
        match (was, since) {
            (None, Some(_)) => self.push(Event::BusAway),
            (Some(_), None) => self.push(Event::BusBack),
            _ => return,
        }
        self.bus_changed.notify_one();
    }

    pub(super) fn stop(&self) {
        if std::mem::replace(&mut self.standing.borrow_mut().stopping, true) {
            return;
        }
        notify::stopping();
        self.tell();
        self.push(Event::Stop);
    }

    /// Tells the bus and systemd where the operator is.
    fn tell(&self) {
        let (state, text) = {
            let standing = self.standing.borrow();
            (standing.state(), standing.status_now())
        };
        // It fails only when the client has ended, which ends the operator anyhow.
        if let Err(error) = self.client.state(state, text) {
            tracing::debug!("the bus cannot be told the state {}: {error}", state.as_str());
        }
        self.show();
    }

    /// Shows the status to systemd, if it changed.
    pub(super) fn show(&self) {
        let mut standing = self.standing.borrow_mut();
        let text = standing.text();
        let waits = standing.away.is_some() && !standing.ready;
        if waits {
            notify::waiting(&text);
        } else if text != standing.shown {
            notify::status(&text);
        }
        standing.shown = text;
    }
}

impl Standing {
    fn state(&self) -> OperatorState {
        match self {
            _ if self.stopping => OperatorState::Stopping,
            _ if self.halt == Halt::Told => OperatorState::Halted,
            _ if self.ready => OperatorState::Ready,
            _ => OperatorState::Starting,
        }
    }

    /// What the operator says of itself in this state.
    fn status_now(&self) -> String {
        match self.state() {
            OperatorState::Stopping => "stopping".to_owned(),
            OperatorState::Halted if self.status_halted.is_empty() => "halted".to_owned(),
            OperatorState::Halted => format!("halted; {}", self.status_halted),
            _ => self.status.clone(),
        }
    }

    /// What a person sees in `systemctl status`. An absence of the bus shorter than a second is no news.
    fn text(&self) -> String {
        match self.away.map(|since| since.elapsed().as_secs()) {
            Some(seconds) if seconds > 0 && !self.stopping => format!("bus away {seconds} s"),
            _ => self.status_now(),
        }
    }
}
