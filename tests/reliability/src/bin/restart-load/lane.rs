//! One publisher and its subscriber, on a connection each.

use std::cell::{Cell, RefCell};
use std::collections::BTreeSet;
use std::rc::Rc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use libeevee::client::{Client, Event, Notice, Subscription};
use libeevee::{Document, Message};
use tokio::task::JoinHandle;

/// What all lanes saw together.
#[derive(Debug, Default)]
pub(crate) struct Tally {
    pub(crate) confirmed: Cell<u64>,
    pub(crate) duplicated: Cell<u64>,
    pub(crate) reordered: Cell<u64>,
    pub(crate) errors: RefCell<Vec<String>>,
    pub(crate) stopping: Cell<bool>,
    /// The longest that a confirmation took since this was last looked at.
    longest: Cell<Duration>,
    /// Publishes that wait for their confirmation, by when they began.
    waiting: RefCell<BTreeSet<(Instant, u32)>>,
}

impl Tally {
    pub(crate) fn error(&self, text: String) {
        self.errors.borrow_mut().push(text);
    }

    /// The longest wait for a confirmation since the last call, those included that still wait.
    pub(crate) fn take_longest(&self) -> Duration {
        let waiting = self.waiting.borrow().first().map_or(Duration::ZERO, |(since, _)| since.elapsed());
        self.longest.take().max(waiting)
    }

    /// Whether nobody has waited for a confirmation since before this moment.
    pub(crate) fn is_served_since(&self, moment: Instant) -> bool {
        self.waiting.borrow().first().is_none_or(|(since, _)| *since > moment)
    }
}

pub(crate) struct Lane {
    publishing: JoinHandle<()>,
    receiving: JoinHandle<()>,
    published: Rc<Cell<u64>>,
    received: Rc<Cell<u64>>,
    name: String,
}

impl Lane {
    pub(crate) async fn start(
        number: u32,
        durable: bool,
        period: Duration,
        publisher: Client,
        subscriber: Client,
        tally: &Rc<Tally>,
    ) -> Result<Self> {
        let builder = subscriber.subscribe(format!("type=restart-test,lane={number}"));
        let builder = if durable { builder.durable(format!("restart-test-{number}")) } else { builder };
        let subscription = builder.await.context("cannot subscribe")?;
        let (published, received) = (Rc::new(Cell::new(0)), Rc::new(Cell::new(0)));
        for client in [&publisher, &subscriber] {
            watch(number, client, tally.clone());
        }
        let receiver = Receiver { number, durable, received: received.clone(), tally: tally.clone() };
        let receiving = tokio::task::spawn_local(receiver.run(subscription, subscriber));
        let publishing = tokio::task::spawn_local(publish(number, period, publisher, published.clone(), tally.clone()));
        let name = format!("lane {number} ({})", if durable { "durable" } else { "live" });
        Ok(Self { publishing, receiving, published, received, name })
    }

    pub(crate) fn describe(&self) -> String {
        format!("{}: {} of {} were received", self.name, self.received.get(), self.published.get())
    }

    pub(crate) fn published(&self) -> u64 {
        self.published.get()
    }

    pub(crate) fn received(&self) -> u64 {
        self.received.get()
    }

    /// Waits until the publisher is done and all that it published was received.
    pub(crate) async fn drain(&mut self, until: Instant) {
        let all = async {
            let _ = (&mut self.publishing).await;
            while self.received.get() < self.published.get() && !self.receiving.is_finished() {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        };
        let _ = tokio::time::timeout_at(until.into(), all).await;
        // What comes twice comes soon after.
        tokio::time::sleep(Duration::from_millis(5)).await;
    }

    pub(crate) fn stop(&self) {
        self.publishing.abort();
        self.receiving.abort();
    }
}

/// A connection that ends is an error, whatever its owner does.
fn watch(number: u32, client: &Client, tally: Rc<Tally>) {
    let mut notices = client.notices();
    tokio::task::spawn_local(async move {
        while let Some(notice) = notices.next().await {
            if let Notice::Disconnected(error) = notice
                && !tally.stopping.get()
            {
                tally.error(format!("lane {number}: disconnected: {error}"));
            }
        }
    });
}

/// Publishes pairs of messages, the second one confirmed.
async fn publish(number: u32, period: Duration, client: Client, published: Rc<Cell<u64>>, tally: Rc<Tally>) {
    let lane = number.to_string();
    let message = |count: u64| Document::new([("type", "restart-test"), ("lane", lane.as_str())], count.to_string());
    // Not all at once.
    tokio::time::sleep(period.mul_f64(fastrand::f64())).await;
    while !tally.stopping.get() {
        let begun = Instant::now();
        let count = published.get();
        let (Ok(first), Ok(second)) = (message(count), message(count + 1)) else { return };
        published.set(count + 1);
        if let Err(error) = client.publish(first).await {
            tally.error(format!("lane {number}: publish {count}: {error}"));
            return;
        }
        published.set(count + 2);
        tally.waiting.borrow_mut().insert((begun, number));
        let outcome = client.publish_confirmed(second).await;
        tally.waiting.borrow_mut().remove(&(begun, number));
        tally.longest.set(tally.longest.get().max(begun.elapsed()));
        match outcome {
            Ok(outcome) if outcome.live + outcome.durable != 1 || outcome.repeated => {
                tally.error(format!("lane {number}: publish {count} was confirmed as {outcome:?}"));
            }
            Ok(_) => tally.confirmed.set(tally.confirmed.get() + 1),
            Err(error) => {
                tally.error(format!("lane {number}: confirmed publish {count}: {error}"));
                return;
            }
        }
        tokio::time::sleep(period.saturating_sub(begun.elapsed())).await;
    }
}

struct Receiver {
    number: u32,
    durable: bool,
    received: Rc<Cell<u64>>,
    tally: Rc<Tally>,
}

impl Receiver {
    async fn run(self, mut subscription: Subscription, _client: Client) {
        let mut expected = Expected::default();
        while let Some(event) = subscription.next().await {
            match event {
                Event::Message(message) => {
                    self.take(&message, &mut expected);
                    if self.durable
                        && let Err(error) = subscription.ack(&message)
                    {
                        self.tally.error(format!("lane {}: acknowledgement: {error}", self.number));
                    }
                }
                Event::Gap(gap) => {
                    self.tally.error(format!("lane {}: {gap:?}", self.number));
                }
            }
        }
        if !self.tally.stopping.get() {
            self.tally.error(format!("lane {}: the subscription ended: {:?}", self.number, subscription.failure()));
        }
    }

    fn take(&self, message: &Message, expected: &mut Expected) {
        let Some(count) = message.text().and_then(|text| text.parse::<u64>().ok()) else {
            self.tally.error(format!("lane {}: a message that nobody published: {message:?}", self.number));
            return;
        };
        let add = |to: &Cell<u64>| to.set(to.get() + 1);
        if count >= expected.next {
            expected.missing.extend(expected.next..count);
            expected.next = count + 1;
            add(&self.received);
        } else if expected.missing.remove(&count) {
            add(&self.tally.reordered);
            add(&self.received);
        } else {
            add(&self.tally.duplicated);
        }
    }
}

/// What a subscriber has not seen.
#[derive(Default)]
struct Expected {
    next: u64,
    missing: BTreeSet<u64>,
}
