//! The operator's loop: between the bus on one side and the connection on the other. Everything that waits is polled
//! here, side by side, so that neither a network that hangs nor a bus that is away stops the other, or the watchdog.

mod reload;

use std::collections::HashMap;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use libeevee::chat::key;
use libeevee::operator::{Event, Failure, InHand, Operator, OperatorSubscribe, Reload};
use libeevee::{Code, Error, ErrorKind, Gap, GapReason, Message, Nack};
use tokio::time::Instant;

use crate::mapping::{PLATFORM, outgoing_filter};
use crate::net::{HOLD_MAX, Happening, Net, until};
use crate::outbox::Outbox;
use crate::plan::Plan;
use crate::settings::IrcSettings;

/// The durable subscription of what is to be said. The bus keeps what waits under this name, so it never changes.
const DURABLE: &str = "say";
/// How many messages are in hand here. What waits, waits in the bus.
const WINDOW_MESSAGES: u64 = 32;
const WINDOW_BYTES: u64 = 1 << 20;
/// How often a durable subscription is tried again whose bus cannot write.
const SUBSCRIBE_EVERY: Duration = Duration::from_secs(10);
/// How often a network that another operator holds is claimed again.
const CLAIM_EVERY: Duration = Duration::from_secs(10);
/// A stop may take 10 s in all: what waits to be said, the goodbye, and what was heard last.
const FLUSH_MAX: Duration = Duration::from_secs(3);
const CONFIRM_MAX: Duration = Duration::from_secs(2);
const GOODBYE_MAX: Duration = Duration::from_secs(2);
const DRAIN_MAX: Duration = Duration::from_secs(1);

type Waiting<'a> = Option<Pin<Box<dyn Future<Output = Result<(), Error>> + 'a>>>;
type Subscribing = Option<Pin<Box<dyn Future<Output = Result<u32, Error>>>>>;

pub(crate) async fn run(op: Operator<IrcSettings>) -> Result<(), Failure> {
    let settings = op.settings();
    let plan = Plan::new(settings.clone()).map_err(Failure::config)?;
    let client = op.client();
    let mut work = Work {
        op: &op,
        net: Net::new(plan),
        subscription: None,
        subscribing: None,
        subscribe_at: None,
        deaf: None,
        saying: HashMap::new(),
        network: settings.network.clone(),
        claiming: None,
        claim_at: None,
        waiting: None,
        left_to_holder: None,
        moving: None,
        prepared: None,
        spare: None,
        outbox: Outbox::new(async |document| client.publish_confirmed(document).await.map(drop)),
        unsaid: None,
        status: format!("connecting to {}", settings.server),
        shown: String::new(),
        stopping: None,
    };
    let subscribed = work.subscribe()?.await;
    work.subscribed(subscribed)?;
    let claimed = op.claim(&claim(&work.network)).await;
    op.ready(&work.status).await;
    work.claimed(claimed).await;
    work.run().await
}

fn claim(network: &str) -> String {
    format!("{PLATFORM}/{network}")
}

struct Work<'a> {
    op: &'a Operator<IrcSettings>,
    net: Net,
    /// Of what is to be said.
    subscription: Option<u32>,
    subscribing: Subscribing,
    subscribe_at: Option<Instant>,
    /// Why nothing that is to be said comes here.
    deaf: Option<String>,
    /// What was taken and not acknowledged, by id.
    saying: HashMap<u64, Message>,
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
    outbox: Outbox<'a>,
    /// While lines of chat wait: a halted operator is not "halted" before they are said.
    unsaid: Option<InHand>,
    /// What the connection, or the claim, is at.
    status: String,
    /// The status as it was given last.
    shown: String,
    stopping: Option<Stopping>,
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
    /// Nothing more is said, and the server asked whether it has what was, until then.
    Confirming(Instant),
    Leaving,
    /// The connection is closed; what was heard last is published, until then.
    Draining(Instant),
}

impl Work<'_> {
    async fn run(&mut self) -> Result<(), Failure> {
        while !self.is_done() {
            self.hold_chat();
            let wake = self.wake_at();
            let (op, full) = (self.op, self.net.is_full());
            tokio::select! {
                event = async { if full { op.next_but_work().await } else { op.next().await } } => {
                    self.on_event(event).await;
                }
                happening = self.net.next() => self.on_happening(happening).await,
                result = self.outbox.next() => {
                    if let Err(error) = result {
                        tracing::warn!("what was heard is not published: {error}");
                    }
                }
                result = subscribed(&mut self.subscribing) => {
                    self.subscribing = None;
                    self.subscribed(result)?;
                    self.show().await;
                }
                result = finished(&mut self.claiming) => {
                    self.claiming = None;
                    self.claimed(result).await;
                }
                result = moved(&mut self.moving) => self.claimed_elsewhere(result),
                () = until(wake) => self.on_time().await?,
            }
        }
        Ok(())
    }

    /// Subscribes to what is to be said on the network.
    fn subscribe(&self) -> Result<OperatorSubscribe<IrcSettings>, Failure> {
        let filter = outgoing_filter(&self.network).map_err(Failure::config)?;
        let window = (WINDOW_MESSAGES, WINDOW_BYTES);
        Ok(self.op.subscribe(filter).durable(DURABLE).max_age(HOLD_MAX).window(window.0, window.1))
    }

    /// A bus that cannot write says so until it can; hearing goes on meanwhile.
    fn subscribed(&mut self, result: Result<u32, Error>) -> Result<(), Failure> {
        match result {
            Ok(number) => {
                self.subscription = Some(number);
                if self.deaf.take().is_some() {
                    tracing::info!("what is to be said comes again");
                }
            }
            Err(error) if error.kind() == ErrorKind::Refused(Code::Storage) => {
                let text = error.to_string();
                if self.deaf.as_ref() != Some(&text) {
                    tracing::error!("what is to be said does not come: {text}");
                    self.deaf = Some(text);
                }
                self.subscribe_at = Some(Instant::now() + SUBSCRIBE_EVERY);
            }
            Err(error) => return Err(error.into()),
        }
        Ok(())
    }

    fn hold_chat(&mut self) {
        let waits = self.net.messages() > 0;
        if waits != self.unsaid.is_some() {
            self.unsaid = waits.then(|| self.op.in_hand());
        }
    }

    async fn show(&mut self) {
        let is_finishing = self.op.is_halted() && self.net.messages() > 0;
        // eeveectl halt knows the first word.
        let before = if is_finishing { "finishing what waits to be said; " } else { "" };
        let dropped = match self.net.dropped() {
            0 => String::new(),
            1 => "; 1 line not said".to_owned(),
            lines => format!("; {lines} lines not said"),
        };
        let deaf = self.deaf.as_ref().map(|why| format!("; nothing to be said comes: {why}")).unwrap_or_default();
        let text = format!("{before}{}{dropped}{deaf}", self.status);
        if text != self.shown && self.stopping.is_none() {
            self.op.status(&text).await;
            self.shown = text;
        }
    }

    fn wake_at(&self) -> Option<Instant> {
        let stopping = match &self.stopping {
            Some(Stopping::Flushing(at) | Stopping::Confirming(at) | Stopping::Draining(at)) => Some(*at),
            _ => None,
        };
        let spare = self.spare.as_ref().map(|spare| spare.until);
        [self.claim_at, self.subscribe_at, spare, stopping].into_iter().flatten().min()
    }

    fn is_done(&mut self) -> bool {
        match &self.stopping {
            Some(Stopping::Flushing(at)) if self.net.has_work() && Instant::now() >= *at => {
                self.net.hush();
                self.stopping = Some(Stopping::Confirming(Instant::now() + CONFIRM_MAX));
                false
            }
            Some(Stopping::Flushing(at) | Stopping::Confirming(at))
                if !self.net.has_work() || Instant::now() >= *at =>
            {
                self.stopping = Some(Stopping::Leaving);
                let messages = self.net.messages();
                if messages > 0 {
                    tracing::info!(messages, "stopping: {messages} messages are not said yet, the bus keeps them");
                }
                self.net.quit("stopping", GOODBYE_MAX);
                false
            }
            Some(Stopping::Draining(at)) => self.outbox.is_empty() || Instant::now() >= *at,
            _ => false,
        }
    }

    async fn on_event(&mut self, event: Event<IrcSettings>) {
        match event {
            Event::Message(message) => self.on_message(message).await,
            Event::Gap(gap) => lost(&gap),
            Event::Reload(reload) => self.prepare(reload).await,
            Event::Abort => self.forget_reload().await,
            Event::Settings(settings) => self.change(settings).await,
            Event::Stop => {
                self.stopping.get_or_insert(Stopping::Flushing(Instant::now() + FLUSH_MAX));
            }
            Event::BusBack => {
                let lost = self.outbox.take_lost();
                if lost > 0 {
                    tracing::error!("{lost} events heard while the bus was away are lost");
                }
            }
            Event::ClaimLost { name, error } => self.claim_lost(&name, error).await,
            Event::Halt | Event::Resume => self.show().await,
            // The bus holds what is to be said; hearing goes on.
            _ => {}
        }
    }

    async fn on_message(&mut self, message: Message) {
        let network = message.header(key::NETWORK).unwrap_or_default();
        if network != self.network {
            let why = format!("it is for network {network:?}, and this operator is on {} now", self.network);
            return self.not_said(&message, &why).await;
        }
        if let Some(count) = &mut self.left_to_holder {
            // The other one has it too; said twice, it would be answered twice.
            *count += 1;
            tracing::debug!(eevee.message = message.id, "left to the holder of the network");
            return self.acknowledge(&message);
        }
        match self.net.say(message.id, &message.document.decode(), message.delivery.waited) {
            Ok(()) => drop(self.saying.insert(message.id, message)),
            Err(why) => self.not_said(&message, &why.to_string()).await,
        }
    }

    fn acknowledge(&self, message: &Message) {
        if let Err(error) = self.op.ack(message) {
            tracing::warn!(eevee.message = message.id, "message {} may be said again: {error}", message.id);
        }
    }

    /// It becomes a dead letter, from where a person can have it said after all.
    async fn not_said(&mut self, message: &Message, why: &str) {
        tracing::error!(eevee.message = message.id, source = message.source.as_str(), "not said: {why}");
        if let Err(error) = self.op.nack(message, Nack::dead(format!("not said: {why}"))) {
            tracing::warn!(eevee.message = message.id, "message {} may come again: {error}", message.id);
        }
        self.show().await;
    }

    async fn on_happening(&mut self, happening: Happening) {
        match happening {
            Happening::Publish(document) => self.outbox.push(document),
            Happening::Said(id) => {
                if let Some(message) = self.saying.remove(&id) {
                    self.acknowledge(&message);
                }
                if self.net.messages() == 0 {
                    self.show().await;
                }
            }
            Happening::NotSaid(id, why) => {
                if let Some(message) = self.saying.remove(&id) {
                    self.not_said(&message, &why.to_string()).await;
                }
            }
            Happening::Status(text) => {
                self.status = text;
                self.show().await;
            }
            Happening::Left => self.stopping = Some(Stopping::Draining(Instant::now() + DRAIN_MAX)),
        }
    }

    async fn on_time(&mut self) -> Result<(), Failure> {
        if self.spare.as_ref().is_some_and(|spare| Instant::now() >= spare.until) {
            self.forget_reload().await;
        }
        if self.subscribe_at.take_if(|at| Instant::now() >= *at).is_some() {
            self.subscribing = Some(self.subscribe()?.into_future());
        }
        if self.claim_at.take_if(|at| Instant::now() >= *at).is_some() {
            let (op, name) = (self.op, claim(&self.network));
            self.claiming = Some(Box::pin(async move { op.claim(&name).await }));
        }
        Ok(())
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
        let why = format!("{name} is lost to {}", holder(&error));
        for id in self.net.leave("another operator has taken over", GOODBYE_MAX) {
            if let Some(message) = self.saying.remove(&id) {
                self.not_said(&message, &why).await;
            }
        }
        self.claimed(Err(error)).await;
    }
}

/// Who holds a name, from the words of the bus.
fn holder(error: &Error) -> String {
    let text = error.to_string();
    text.rsplit_once(" is claimed by ").map_or("another operator", |(_, holder)| holder).to_owned()
}

fn lost(gap: &Gap) {
    let count = gap.count.map_or("an unknown number of".to_owned(), |count| count.to_string());
    let text = format!("{count} messages to be said were lost: {}", gap.reason);
    match gap.reason {
        // Said where it happened.
        GapReason::DeadLetter => tracing::debug!(gap.first, gap.last, "{text}"),
        _ => tracing::warn!(gap.first, gap.last, "{text}; eeveectl dead list shows what is kept of them"),
    }
}

async fn subscribed(subscribing: &mut Subscribing) -> Result<u32, Error> {
    match subscribing {
        Some(future) => future.await,
        None => std::future::pending().await,
    }
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
