//! Those who connect: what they remember while they are away, and what they wait for.

use std::collections::{BTreeMap, VecDeque};

use libeevee::Headers;
use libeevee::wire::EncodedDocument;

use super::item::Name;
use super::live::Live;
use super::texts::{ANN, IDS, ROOT, USUAL};
use crate::core::{Identity, SessionKey};

/// Where a client stands in the world's list.
pub(super) type ClientNumber = usize;

/// A publish that is not answered yet.
#[derive(Debug, Clone)]
pub(super) struct Unsent {
    pub(super) epoch: u64,
    pub(super) sequence: u64,
    pub(super) headers: Headers,
    pub(super) document: EncodedDocument,
    /// The bus refused it; it may be sent again.
    pub(super) refused: bool,
}

/// What a client asked for and has no answer to.
#[derive(Debug)]
pub(super) enum Asked {
    Publish(Publication),
    Live(Box<Live>),
    /// It is on disk after this take.
    Durable(Name, u64),
    Forget(Name),
    /// Of dead letters: retry or drop.
    Dead,
    /// Something that is answered at once, and well.
    Plain,
    /// Something that may be refused.
    Either,
}

/// A publish that the bus took and has not confirmed.
#[derive(Debug)]
pub(super) struct Publication {
    /// None when it was recognised as one that the bus has: its id is told later.
    pub(super) id: Option<u64>,
    pub(super) confirmed: bool,
    /// How many batches had been taken before it.
    pub(super) take: u64,
    pub(super) live: u32,
    pub(super) durable: u32,
    pub(super) numbers: (u64, u64),
}

#[derive(Debug)]
pub(super) struct Client {
    pub(super) source: &'static str,
    pub(super) identity: Identity,
    /// May-publish and may-receive.
    pub(super) permits: (usize, usize),
    pub(super) session: Option<SessionKey>,
    /// The same for all connections of one process.
    pub(super) instance: u64,
    pub(super) next_number: u32,
    pub(super) credit: u64,
    pub(super) live: BTreeMap<u32, Live>,
    /// Durable subscriptions of this session.
    pub(super) durable: BTreeMap<u32, Name>,
    pub(super) asked: BTreeMap<u32, Asked>,
    /// Numbered publishes that were not confirmed, in order.
    pub(super) outbox: VecDeque<Unsent>,
    /// Each epoch, and its next sequence.
    pub(super) epochs: Vec<(u64, u64)>,
    /// Deliveries that were not acknowledged; kept over a reconnect.
    pub(super) in_hand: Vec<(Name, u64)>,
    /// Acknowledged lately, so that it may be done twice.
    pub(super) done: VecDeque<(Name, u64)>,
}

impl Client {
    fn new(at: u64, source: &'static str, identity: Identity) -> Self {
        Self {
            source,
            identity,
            permits: (USUAL, USUAL),
            session: None,
            instance: at,
            next_number: 1,
            credit: 0,
            live: BTreeMap::new(),
            durable: BTreeMap::new(),
            asked: BTreeMap::new(),
            outbox: VecDeque::new(),
            epochs: vec![(2 * at + 1, 1), (2 * at + 2, 1)],
            in_hand: Vec::new(),
            done: VecDeque::new(),
        }
    }

    /// Five operators, ann twice, and the administrator last.
    pub(super) fn all() -> Vec<Self> {
        let person = |source: &str, admin| Identity::Person { name: source["user/".len()..].into(), admin };
        let operators = IDS.iter().map(|id| (*id, Identity::Operator(id.parse().unwrap())));
        let people = [(ANN, person(ANN, false)), (ANN, person(ANN, false)), (ROOT, person(ROOT, true))];
        operators.chain(people).zip(1..).map(|((source, identity), at)| Self::new(at, source, identity)).collect()
    }

    pub(super) const fn is_operator(&self) -> bool {
        matches!(self.identity, Identity::Operator(_))
    }

    /// The connection is gone; what was numbered and not confirmed is kept.
    pub(super) fn disconnected(&mut self) {
        self.session = None;
        self.live.clear();
        self.durable.clear();
        self.asked.clear();
    }

    /// The number under which it subscribed to this in its session.
    pub(super) fn number_of(&self, name: &Name) -> Option<u32> {
        self.durable.iter().find(|(_, known)| *known == name).map(|(number, _)| *number)
    }

    pub(super) fn answered(&mut self, (epoch, sequence): (u64, u64)) {
        self.outbox.retain(|unsent| (unsent.epoch, unsent.sequence) != (epoch, sequence));
    }

    pub(super) fn refused(&mut self, (epoch, sequence): (u64, u64)) {
        let found = self.outbox.iter_mut().find(|unsent| (unsent.epoch, unsent.sequence) == (epoch, sequence));
        if let Some(unsent) = found {
            unsent.refused = true;
        }
    }

    /// Keeps a delivery in hand, once.
    pub(super) fn keep(&mut self, name: &Name, id: u64) {
        if !self.in_hand.iter().any(|(known, other)| known == name && *other == id) {
            self.in_hand.push((*name, id));
        }
    }
}
