//! The operator's loop: between the bus on one side and the connection on the other. Everything that waits is polled
//! here, side by side, so that neither a network that hangs nor a bus that is away stops the other, or the watchdog.

mod reload;

use std::collections::VecDeque;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use libeevee::operator::{Event, Failure, InHand, Operator, Reload};
use libeevee::{Code, Document, Error, ErrorKind};
use tokio::time::Instant;

use crate::mapping::{PLATFORM, outgoing_filter};
use crate::net::{Happening, Net, until};
use crate::plan::Plan;
use crate::settings::IrcSettings;

/// How much of what was heard waits for the bus while that is away: some minutes of a lively channel.
const OUTBOX_MAX: usize = 2_000;
/// How often a network that another operator holds is claimed again.
const CLAIM_EVERY: Duration = Duration::from_secs(10);
/// A stop may take 10 s in all: what waits to be said, the goodbye, and what was heard last.
const FLUSH_MAX: Duration = Duration::from_secs(3);
const GOODBYE_MAX: Duration = Duration::from_secs(2);
const DRAIN_MAX: Duration = Duration::from_secs(1);

/// When the bus comes back, so do its operators, each within the 200 ms between two attempts and a moment to subscribe again:
/// what is published before reaches nobody.
const RETURN_MAX: Duration = Duration::from_secs(1);

type Waiting<'a> = Option<Pin<Box<dyn Future<Output = Result<(), Error>> + 'a>>>;

pub(crate) async fn run(op: Operator<IrcSettings>) -> Result<(), Failure> {
    let settings = op.settings();
    let plan = Plan::new(settings.clone()).map_err(Failure::config)?;
    let subscription = op.subscribe(outgoing_filter(&settings.network).map_err(Failure::config)?).await?;
    let mut work = Work {
        op: &op,
        net: Net::new(plan),
        subscription,
        network: settings.network.clone(),
        claiming: None,
        claim_at: None,
        waiting: None,
        left_to_holder: None,
        moving: None,
        prepared: None,
        spare: None,
        outbox: VecDeque::new(),
        publishing: None,
        in_hand: None,
        unsaid: None,
        status: format!("connecting to {}", settings.server),
        shown: String::new(),
        bus: Bus::There,
        lost: 0,
        stopping: None,
    };
    let claimed = op.claim(&claim(&work.network)).await;
    op.ready(&work.status).await;
    work.claimed(claimed).await;
    work.run().await;
    Ok(())
}

fn claim(network: &str) -> String {
    format!("{PLATFORM}/{network}")
}

struct Work<'a> {
    op: &'a Operator<IrcSettings>,
    net: Net,
    subscription: u32,
    network: String,
    claiming: Waiting<'a>,
    /// When the network is claimed again.
    claim_at: Option<Instant>,
    /// Why the network is not ours, as it was said last.
    waiting: Option<String>,
    /// Messages that were left to the operator that holds the network; none while that is us.
    left_to_holder: Option<u64>,
    /// A reload to another network, which waits for the claim.
    moving: Option<Moving<'a>>,
    /// What was prepared for the reload that the bus has not committed yet.
    prepared: Option<(Arc<IrcSettings>, Plan)>,
    /// The claim of a network that we move to only if the bus commits.
    spare: Option<Spare>,
    outbox: VecDeque<Document>,
    publishing: Waiting<'a>,
    /// What is being published.
    in_hand: Option<Document>,
    /// While lines of chat wait: a halted operator is not "halted" before they are said.
    unsaid: Option<InHand>,
    /// What the connection, or the claim, is at.
    status: String,
    /// The status as it was given last.
    shown: String,
    bus: Bus,
    /// Events that did not fit into the outbox.
    lost: u64,
    stopping: Option<Stopping>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Bus {
    There,
    Away,
    /// Back, but not used before this.
    Returning(Instant),
}

struct Spare {
    network: String,
    /// Given back then.
    until: Instant,
}

struct Moving<'a> {
    reload: Reload<IrcSettings>,
    plan: Plan,
    claiming: Waiting<'a>,
}

enum Stopping {
    /// What waits is still said, until then.
    Flushing(Instant),
    Leaving,
    /// The connection is closed; what was heard last is published, until then.
    Draining(Instant),
}

impl Work<'_> {
    async fn run(&mut self) {
        while !self.is_done() {
            self.hold_chat();
            self.publish_next();
            let wake = self.wake_at();
            tokio::select! {
                event = self.op.next() => self.on_event(event).await,
                happening = self.net.next() => self.on_happening(happening).await,
                result = finished(&mut self.publishing) => {
                    self.publishing = None;
                    self.in_hand = None;
                    if let Err(error) = result {
                        tracing::warn!("what was heard is not published: {error}");
                    }
                }
                result = finished(&mut self.claiming) => {
                    self.claiming = None;
                    self.claimed(result).await;
                }
                result = moved(&mut self.moving) => self.claimed_elsewhere(result),
                () = until(wake) => self.on_time().await,
            }
        }
    }

    fn hold_chat(&mut self) {
        let waits = self.net.chat_lines() > 0;
        if waits != self.unsaid.is_some() {
            self.unsaid = waits.then(|| self.op.in_hand());
        }
    }

    async fn show(&mut self) {
        let is_finishing = self.op.is_halted() && self.net.chat_lines() > 0;
        // eeveectl halt knows the first word.
        let before = if is_finishing { "finishing what waits to be said; " } else { "" };
        let dropped = match self.net.dropped() {
            0 => String::new(),
            1 => "; 1 line not said".to_owned(),
            lines => format!("; {lines} lines not said"),
        };
        let text = format!("{before}{}{dropped}", self.status);
        if text != self.shown && self.stopping.is_none() {
            self.op.status(&text).await;
            self.shown = text;
        }
    }

    fn wake_at(&self) -> Option<Instant> {
        let stopping = match &self.stopping {
            Some(Stopping::Flushing(at) | Stopping::Draining(at)) => Some(*at),
            _ => None,
        };
        let returning = match self.bus {
            Bus::Returning(at) => Some(at),
            Bus::There | Bus::Away => None,
        };
        [self.claim_at, self.spare.as_ref().map(|spare| spare.until), stopping, returning].into_iter().flatten().min()
    }

    fn is_done(&mut self) -> bool {
        match &self.stopping {
            Some(Stopping::Flushing(at)) if !self.net.has_work() || Instant::now() >= *at => {
                self.stopping = Some(Stopping::Leaving);
                let lines = self.net.chat_lines();
                if lines > 0 {
                    tracing::error!(lines, "stopping: {lines} lines that waited are not said");
                }
                self.net.quit("stopping", GOODBYE_MAX);
                false
            }
            Some(Stopping::Draining(at)) => {
                (self.publishing.is_none() && self.outbox.is_empty()) || Instant::now() >= *at
            }
            _ => false,
        }
    }

    async fn on_event(&mut self, event: Event<IrcSettings>) {
        match event {
            Event::Message(message) if self.left_to_holder.is_some() => {
                // The other one has it too; said twice, it would be answered twice.
                tracing::debug!(eevee.message = message.id, "left to the holder of the network");
                self.left_to_holder = self.left_to_holder.map(|count| count + 1);
            }
            Event::Message(message) => {
                if let Err(error) = self.net.say(&message.document) {
                    tracing::error!(eevee.message = message.id, source = message.source, "not said: {error}");
                    self.show().await;
                }
            }
            Event::Gap(gap) => {
                let count = gap.count.map_or("an unknown number of".to_owned(), |count| count.to_string());
                tracing::warn!(gap.first, gap.last, "{count} messages to be said were lost: {}", gap.reason);
            }
            Event::Reload(reload) => self.prepare(reload).await,
            Event::Abort => self.forget_reload().await,
            Event::Settings(settings) => self.change(settings).await,
            Event::Stop => {
                self.stopping.get_or_insert(Stopping::Flushing(Instant::now() + FLUSH_MAX));
            }
            Event::BusAway => {
                self.bus = Bus::Away;
                // It waits for the bus, and would be the first on it, before anybody listens.
                self.publishing = None;
                if let Some(document) = self.in_hand.take() {
                    self.outbox.push_front(document);
                }
            }
            Event::BusBack => {
                self.bus = Bus::Returning(Instant::now() + RETURN_MAX);
                if self.lost > 0 {
                    tracing::error!("{} events heard while the bus was away are lost", std::mem::take(&mut self.lost));
                }
            }
            Event::ClaimLost { name, error } => self.claim_lost(&name, error).await,
            Event::Halt | Event::Resume => self.show().await,
            // The bus holds what is to be said; hearing goes on.
            _ => {}
        }
    }

    async fn on_happening(&mut self, happening: Happening) {
        match happening {
            Happening::Publish(document) => {
                if self.outbox.len() == OUTBOX_MAX {
                    if self.lost == 0 {
                        tracing::error!("{OUTBOX_MAX} events wait for the bus: the oldest are dropped");
                    }
                    self.lost += 1;
                    self.outbox.pop_front();
                }
                self.outbox.push_back(document);
            }
            Happening::Status(text) => {
                self.status = text;
                self.show().await;
            }
            Happening::Queue => self.show().await,
            Happening::Left => self.stopping = Some(Stopping::Draining(Instant::now() + DRAIN_MAX)),
        }
    }

    async fn on_time(&mut self) {
        if self.spare.as_ref().is_some_and(|spare| Instant::now() >= spare.until) {
            self.forget_reload().await;
        }
        if matches!(self.bus, Bus::Returning(at) if Instant::now() >= at) {
            self.bus = Bus::There;
        }
        if self.claim_at.is_some_and(|at| Instant::now() >= at) {
            self.claim_at = None;
            let (op, name) = (self.op, claim(&self.network));
            self.claiming = Some(Box::pin(async move { op.claim(&name).await }));
        }
    }

    /// One publish at a time keeps the order.
    fn publish_next(&mut self) {
        if self.bus == Bus::There
            && self.publishing.is_none()
            && let Some(document) = self.outbox.pop_front()
        {
            let op = self.op;
            self.in_hand = Some(document.clone());
            self.publishing = Some(Box::pin(async move { op.publish(document).await }));
        }
    }

    /// Without the network's name we do not connect: two bots would answer everything twice.
    async fn claimed(&mut self, result: Result<(), Error>) {
        let name = claim(&self.network);
        let Err(error) = result else { return self.begin() };
        let text = match error.kind() {
            ErrorKind::Refused(Code::AlreadyConnected) => {
                self.left_to_holder.get_or_insert(0);
                format!("{name} is held by {}: waiting", holder(&error))
            }
            _ => format!("{name} cannot be claimed, waiting: {error}"),
        };
        self.status.clone_from(&text);
        self.show().await;
        if self.waiting.as_ref() != Some(&text) {
            tracing::error!("{text}");
            self.waiting = Some(text);
        }
        self.claim_at = Some(Instant::now() + CLAIM_EVERY);
    }

    /// The network is ours.
    fn begin(&mut self) {
        if self.waiting.take().is_some() {
            tracing::info!("{} is ours: connecting", claim(&self.network));
        }
        match self.left_to_holder.take() {
            None | Some(0) => {}
            Some(count) => tracing::warn!(count, "{count} messages were left to the operator that held the network"),
        }
        self.net.start();
    }

    /// The bus came back, and another operator has taken the network: with two of us everything is answered twice.
    async fn claim_lost(&mut self, name: &str, error: Error) {
        if name != claim(&self.network) || self.stopping.is_some() {
            return;
        }
        let lines = self.net.leave("another operator has taken over", GOODBYE_MAX);
        if lines > 0 {
            tracing::error!(lines, "{lines} lines that waited are not said: {name} is lost");
        }
        self.claimed(Err(error)).await;
    }
}

/// Who holds a name, from the words of the bus.
fn holder(error: &Error) -> String {
    let text = error.to_string();
    text.rsplit_once(" is claimed by ").map_or("another operator", |(_, holder)| holder).to_owned()
}

async fn finished(waiting: &mut Waiting<'_>) -> Result<(), Error> {
    match waiting {
        Some(future) => future.await,
        None => std::future::pending().await,
    }
}

async fn moved(moving: &mut Option<Moving<'_>>) -> Result<(), Error> {
    match moving {
        Some(moving) => finished(&mut moving.claiming).await,
        None => std::future::pending().await,
    }
}
