//! What is measured: a table of workloads, each a way of measuring with its numbers.

mod flow;
mod library;
mod memory;
mod ping;
mod start;
mod table;

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

use anyhow::Result;

use self::table::W1;
pub(crate) use self::table::WORKLOADS;
use crate::eevee::frames;
use crate::message::{key, message, unique_message};
use crate::peer::{Interest, Message, Needs, Peer};

/// What may be under way in every workload: written, and not yet received by everybody.
pub(crate) const UNDER_WAY_BYTES: usize = 2 << 20;

/// Figures of one run, by name.
pub(crate) type Sample = BTreeMap<&'static str, f64>;

/// The name of what a workload is compared by.
pub(crate) const RATE: &str = "deliveries_per_second";
/// The rate at which latency under load was measured.
pub(crate) const OFFERED: &str = "offered_per_second";
pub(crate) const BROKER: &str = "broker_ns_per_delivery";
pub(crate) const BROKER_USER: &str = "broker_user_ns_per_delivery";
pub(crate) const CLIENTS: &str = "clients_ns_per_delivery";
pub(crate) const P50: &str = "p50_us";
pub(crate) const P99: &str = "p99_us";
pub(crate) const P999: &str = "p999_us";
pub(crate) const RESIDENT: &str = "kib_per_subscriber";
pub(crate) const START: &str = "start_ms";

/// How the filters of a workload look.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Shape {
    Equal,
    Glob,
    NotEqual,
    Compare,
    Set,
}

/// Messages that flow as fast as they can.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Flow {
    pub(crate) publishers: usize,
    pub(crate) subscribers: usize,
    /// Subscriptions of all connections together; each message matches one of them, except where all match (1 topic).
    pub(crate) topics: usize,
    pub(crate) body_bytes: usize,
    /// Whether each message is written by itself.
    pub(crate) single: bool,
    /// Whether each has a header value that no other ever had.
    pub(crate) unique: bool,
    pub(crate) shape: Shape,
    pub(crate) durable: bool,
}

/// The ways of measuring.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Kind {
    Flow(Flow),
    /// Latency at half of the rate that the same flow reaches.
    Half(Flow),
    Ping,
    Memory(usize),
    Start,
    Library {
        subscribers: usize,
    },
}

#[derive(Debug, Clone, Copy)]
pub(crate) struct Workload {
    pub(crate) name: &'static str,
    pub(crate) about: &'static str,
    pub(crate) kind: Kind,
    /// Whether only eevee runs it; then it is compared with what the others reach in this workload.
    pub(crate) alone: Option<&'static str>,
}

impl Flow {
    pub(crate) fn make(&self, number: usize) -> Message {
        let mut message = if self.unique { unique_message } else { message }(number, self.body_bytes);
        if self.shape == Shape::Compare {
            message.headers.push(("shard", number.to_string()));
        }
        message
    }

    /// Whether each message goes to one of the subscribers.
    pub(crate) const fn split(&self) -> bool {
        self.topics > 1
    }

    pub(crate) fn interests(&self, subscriber: usize) -> Vec<Interest> {
        let topics = if self.split() { (subscriber..self.topics).step_by(self.subscribers) } else { (0..1).step_by(1) };
        topics.map(|number| self.interest(number)).collect()
    }

    fn interest(&self, number: usize) -> Interest {
        let room = key(number);
        let filter = match self.shape {
            Shape::Equal => format!("channel={room}"),
            Shape::Glob => format!("channel~*-{number:08}"),
            Shape::NotEqual => format!("channel={room},user!=nobody,!bot"),
            Shape::Compare => format!("shard>{},shard<={number}", number as i64 - 1),
            Shape::Set => {
                format!("channel in ({room},{},{})", key(number + self.topics), key(number + 2 * self.topics))
            }
        };
        Interest { key: room, filter }
    }

    fn needs(&self) -> Needs {
        Needs {
            publishers: self.publishers,
            subscribers: self.subscribers,
            subscriptions: self.topics.div_ceil(self.subscribers),
            unindexed: if matches!(self.shape, Shape::Glob | Shape::Compare) { self.topics } else { 0 },
            body_bytes: self.body_bytes,
            under_way_bytes: UNDER_WAY_BYTES.max(4 * self.body_bytes),
            relay_bytes: relay_bytes(&self.make(0)),
            split: self.split(),
            durable: self.durable,
        }
    }
}

fn relay_bytes(message: &Message) -> usize {
    let mut bytes = Vec::new();
    frames::publish(message, None, &mut bytes);
    bytes.len()
}

impl Workload {
    pub(crate) fn needs(&self) -> Needs {
        match self.kind {
            Kind::Flow(flow) | Kind::Half(flow) => flow.needs(),
            Kind::Ping => Needs { publishers: 2, subscribers: 2, ..W1.needs() },
            Kind::Memory(count) => Needs { subscribers: count + memory::FIRST, ..W1.needs() },
            Kind::Start => W1.needs(),
            Kind::Library { subscribers } => Flow { subscribers, ..W1 }.needs(),
        }
    }

    /// The figure by which peers are compared, and whether more of it is better.
    pub(crate) const fn figure(&self) -> (&'static str, bool) {
        match self.kind {
            Kind::Flow(_) | Kind::Library { .. } => (RATE, true),
            Kind::Ping => (P50, false),
            Kind::Half(_) => (P99, false),
            Kind::Memory(_) => (RESIDENT, false),
            Kind::Start => (START, false),
        }
    }

    /// Whether one run says it all: what does not depend on how busy the machine is.
    pub(crate) const fn once(&self) -> bool {
        matches!(self.kind, Kind::Memory(_))
    }

    /// Runs it once with this peer, in an empty directory.
    pub(crate) fn run(&self, peer: &dyn Peer, place: &Path, time: Duration) -> Result<Sample> {
        let needs = self.needs();
        match self.kind {
            Kind::Flow(flow) => flow::top(&*peer.start(place, &needs)?, flow, &needs, time),
            Kind::Half(flow) => flow::half(&*peer.start(place, &needs)?, flow, &needs, time),
            Kind::Ping => ping::run(&*peer.start(place, &needs)?, time),
            Kind::Memory(count) => memory::run(&*peer.start(place, &needs)?, count),
            Kind::Start => start::run(peer, place, &needs),
            Kind::Library { subscribers } => {
                library::run(&*peer.start(place, &needs)?, place, subscribers, &needs, time)
            }
        }
    }
}
