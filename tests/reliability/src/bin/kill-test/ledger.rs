//! What was published, confirmed and delivered, and every fault that shows when the three are laid side by side.
//!
//! Each publisher numbers its messages 1, 2, 3, … in a header. Nothing of it may be missing, so that what a subscription
//! sees for the first time are these numbers without a hole: a hole is a loss or a disorder, and shows at once.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use libeevee::Document;
use libeevee::wire::{Deliver, EncodedDocument, Published};

/// Faults that are told; a bus that is broken has many.
const FAULTS_TOLD: usize = 20;

/// How long a session may take to be back.
pub(crate) const BACK: Duration = Duration::from_secs(1);

#[derive(Debug)]
pub(crate) struct Ledger {
    seed: u64,
    publishers: Vec<Publisher>,
    subscriptions: Vec<Subscription>,
    pub(crate) faults: Vec<String>,
    pub(crate) faults_count: u64,
    /// When the bus of now served its first session, if it does.
    serves: Option<Instant>,
    /// Publishes that the bus recognised as sent again.
    repeated: u64,
    /// How long sessions took to be back after that, in milliseconds.
    pub(crate) back_ms: Vec<u64>,
    /// No more is to be published.
    pub(crate) stopping: bool,
    /// Everything is over; sessions leave.
    pub(crate) over: bool,
}

#[derive(Debug)]
struct Publisher {
    id: String,
    /// How many messages were handed to the bus at least once.
    sent: u64,
    /// The message ids by number; none before the confirmation, 0 where the bus did not tell it.
    confirmed: Vec<Option<u64>>,
    last_id: u64,
}

#[derive(Debug)]
struct Subscription {
    id: String,
    takes: Vec<usize>,
    /// By publisher and number.
    seen: Vec<Vec<Seen>>,
    /// How many were seen at least once.
    messages: u64,
    /// The id of the message that was last seen for the first time.
    last_id: u64,
    unmarked_first: u64,
}

/// One message at one subscription.
#[derive(Debug, Clone, Copy)]
struct Seen {
    id: u64,
    deliveries: u32,
    /// The connection on which it was delivered last.
    delivered_on: u32,
    /// The connection on which it was acknowledged after that; 0 for none.
    acknowledged_on: u32,
    /// Whether it was acknowledged at all.
    acknowledged: bool,
}

const UNSEEN: Seen = Seen { id: 0, deliveries: 0, delivered_on: 0, acknowledged_on: 0, acknowledged: false };

/// What the whole run came to.
#[derive(Debug, Default)]
pub(crate) struct Sums {
    pub(crate) published: u64,
    pub(crate) confirmed: u64,
    pub(crate) deliveries: u64,
    pub(crate) again: u64,
    /// First to be seen here, and marked as a redelivery: what was lost on its way.
    pub(crate) lost_on_the_way: u64,
    pub(crate) repeated: u64,
    pub(crate) missing: u64,
}

impl Ledger {
    pub(crate) fn new(seed: u64) -> Self {
        Self {
            seed,
            publishers: Vec::new(),
            subscriptions: Vec::new(),
            faults: Vec::new(),
            faults_count: 0,
            serves: None,
            repeated: 0,
            back_ms: Vec::new(),
            stopping: false,
            over: false,
        }
    }

    /// All publishers come before all subscriptions.
    pub(crate) fn add_publisher(&mut self, id: &str) -> usize {
        self.publishers.push(Publisher { id: id.into(), sent: 0, confirmed: Vec::new(), last_id: 0 });
        self.publishers.len() - 1
    }

    /// A subscription that takes the messages of these publishers.
    pub(crate) fn add_subscription(&mut self, id: &str, takes: &[usize]) -> usize {
        let seen = vec![Vec::new(); self.publishers.len()];
        let takes = takes.to_vec();
        self.subscriptions.push(Subscription {
            id: id.into(),
            takes,
            seen,
            messages: 0,
            last_id: 0,
            unmarked_first: 0,
        });
        self.subscriptions.len() - 1
    }

    pub(crate) fn fault(&mut self, text: String) {
        self.faults_count += 1;
        if self.faults.len() < FAULTS_TOLD {
            self.faults.push(text);
        }
    }

    /// Message `number` of a publisher: its text follows from seed, publisher and number, so that a wrong one is seen.
    pub(crate) fn document(&self, publisher: usize, number: u64) -> Document {
        let mut random = fastrand::Rng::with_seed(self.seed ^ (publisher as u64) << 48 ^ number);
        let text: String =
            std::iter::repeat_with(|| random.alphanumeric()).take(random_length(self.seed, number)).collect();
        let headers = [("type", "kill".to_owned()), ("from", publisher.to_string()), ("n", number.to_string())];
        Document::new(headers, text).unwrap_or_else(|error| unreachable!("a document of this test: {error}"))
    }

    /// The next number of a publisher, which is about to be sent for the first time.
    pub(crate) fn next(&mut self, publisher: usize) -> u64 {
        let publisher = &mut self.publishers[publisher];
        publisher.sent += 1;
        publisher.confirmed.push(None);
        publisher.sent
    }

    pub(crate) fn confirmed(&mut self, publisher: usize, number: u64, published: &Published, repeated: bool) {
        let matching = self.subscriptions.iter().filter(|one| one.takes.contains(&publisher)).count() as u64;
        self.repeated += u64::from(repeated);
        let book = &mut self.publishers[publisher];
        let name = book.id.clone();
        let mut faults = Vec::new();
        if published.id <= book.last_id && !repeated {
            faults.push(format!("{name}: message {number} got id {}, not above {}", published.id, book.last_id));
        }
        if u64::from(published.durable) != matching && !repeated {
            faults.push(format!(
                "{name}: message {number} matched {} durable subscriptions, not {matching}",
                published.durable
            ));
        }
        book.last_id = book.last_id.max(published.id);
        match number.checked_sub(1).and_then(|at| book.confirmed.get_mut(usize::try_from(at).unwrap_or(usize::MAX))) {
            Some(confirmed @ None) => *confirmed = Some(published.id),
            Some(Some(_)) => faults.push(format!("{name}: message {number} was confirmed twice on one connection")),
            None => faults.push(format!("{name}: message {number} was confirmed and never sent")),
        }
        faults.into_iter().for_each(|fault| self.fault(fault));
    }

    /// Judges one delivery.
    pub(crate) fn delivered(&mut self, subscription: usize, connection: u32, deliver: &Deliver) -> Result<()> {
        let number_in = |key: &str| -> Result<u64> {
            deliver.document.header(key).with_context(|| format!("no header {key}"))?.parse().context("no number")
        };
        let (publisher, number) = (usize::try_from(number_in("from")?)?, number_in("n")?);
        let at = usize::try_from(number)?.checked_sub(1).context("number 0")?;
        let sent = self.publishers.get(publisher).context("of a publisher that does not exist")?;
        let (source, confirmed) = (sent.id.clone(), sent.confirmed.get(at).copied().flatten().unwrap_or(0));
        let was_sent = number <= sent.sent;
        let expected = EncodedDocument::from(&self.document(publisher, number));
        let book = &mut self.subscriptions[subscription];
        let name = format!("{}: message {number} of {source}", book.id);
        let mut faults = Vec::new();
        if deliver.source != source || !was_sent || expected.bytes() != deliver.document.bytes() {
            faults.push(format!("{name} is not what was published"));
        }
        if !book.takes.contains(&publisher) {
            faults.push(format!("{name} does not match its filter"));
        }
        if confirmed != 0 && confirmed != deliver.id {
            faults.push(format!("{name} came with id {}, confirmed was {confirmed}: it was taken twice", deliver.id));
        }
        let seen = &mut book.seen[publisher];
        if at >= seen.len() {
            if at > seen.len() {
                faults.push(format!("{name} came before {}: lost, or out of order", seen.len() + 1));
                seen.resize(at, UNSEEN);
            }
            seen.push(Seen { id: deliver.id, deliveries: 1, delivered_on: connection, ..UNSEEN });
            if deliver.id <= book.last_id {
                faults.push(format!("{name} has id {}, after {}", deliver.id, book.last_id));
            }
            book.last_id = deliver.id;
            book.messages += 1;
            book.unmarked_first += u64::from(deliver.attempt == 1);
        } else {
            let seen = &mut seen[at];
            seen.deliveries += 1;
            if seen.deliveries == 1 {
                // It was told as missing when its successor came.
                seen.id = deliver.id;
                book.messages += 1;
            }
            if seen.id != deliver.id {
                faults.push(format!("{name} came as {} and as {}: it was taken twice", seen.id, deliver.id));
            }
            // One that was given on an earlier connection may cross its acknowledgement.
            if seen.acknowledged_on == connection && seen.delivered_on == connection {
                faults.push(format!("{name} came again on the connection that acknowledged it"));
            }
            (seen.delivered_on, seen.acknowledged_on) = (connection, 0);
        }
        let deliveries = book.seen[publisher][at].deliveries;
        if deliver.attempt < deliveries {
            faults.push(format!("{name} came for time {deliveries} as attempt {}: not marked", deliver.attempt));
        }
        faults.into_iter().for_each(|fault| self.fault(fault));
        Ok(())
    }

    /// This connection tells the bus that the message is done. True when it was told so before: then the bus may refuse it.
    pub(crate) fn acknowledged(&mut self, subscription: usize, connection: u32, key: (usize, u64)) -> bool {
        let at = usize::try_from(key.1).unwrap_or(usize::MAX).wrapping_sub(1);
        let Some(seen) = self.subscriptions[subscription].seen[key.0].get_mut(at) else { return false };
        seen.acknowledged_on = connection;
        std::mem::replace(&mut seen.acknowledged, true)
    }

    /// A bus is gone.
    pub(crate) fn killed(&mut self) {
        self.serves = None;
    }

    /// A new one serves.
    pub(crate) fn serves(&mut self) {
        self.serves.get_or_insert_with(Instant::now);
    }

    /// A session has everything again that it had before; it has wanted so since `wanted`.
    pub(crate) fn back(&mut self, who: &str, wanted: Instant) {
        let took = self.serves.map_or(Duration::ZERO, |serves| serves.max(wanted).elapsed());
        if took > BACK {
            self.fault(format!("{who} was back {} ms after the bus", took.as_millis()));
        }
        self.back_ms.push(u64::try_from(took.as_millis()).unwrap_or(u64::MAX));
    }

    /// Subscriptions that have not seen everything, and how much they miss.
    pub(crate) fn missing(&self) -> HashMap<String, u64> {
        let mut missing = HashMap::new();
        for one in &self.subscriptions {
            let all: u64 = one.takes.iter().map(|publisher| self.publishers[*publisher].sent).sum();
            if one.messages < all {
                missing.insert(one.id.clone(), all - one.messages);
            }
        }
        missing
    }

    pub(crate) fn unconfirmed(&self) -> u64 {
        self.publishers.iter().flat_map(|one| &one.confirmed).filter(|id| id.is_none()).count() as u64
    }

    pub(crate) fn sums(&self) -> Sums {
        let confirmed = self.publishers.iter().flat_map(|one| &one.confirmed);
        let seen = || self.subscriptions.iter().flat_map(|one| one.seen.iter().flatten());
        let deliveries: u64 = seen().map(|seen| u64::from(seen.deliveries)).sum();
        let messages = seen().filter(|seen| seen.deliveries > 0).count() as u64;
        let unmarked: u64 = self.subscriptions.iter().map(|one| one.unmarked_first).sum();
        Sums {
            published: self.publishers.iter().map(|one| one.sent).sum(),
            confirmed: confirmed.filter(|id| id.is_some()).count() as u64,
            deliveries,
            again: deliveries - messages,
            lost_on_the_way: messages - unmarked,
            repeated: self.repeated,
            missing: self.missing().values().sum(),
        }
    }
}

/// 16 to 600 bytes.
fn random_length(seed: u64, number: u64) -> usize {
    fastrand::Rng::with_seed(seed.rotate_left(7) ^ number).usize(16..=600)
}
