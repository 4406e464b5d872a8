//! Durable subscriptions, with the real store in memory.

mod acknowledge;
mod bounds;
mod damage;
mod deliver;
mod disk;

use libeevee::wire::{Ack, Nack, Overflow, REPEATED};

use super::*;
use crate::core::storage::{Batch, Committed, Page, Recovered, StorageError, Write};
use crate::store::Store;

/// A bus with a disk.
struct Durable {
    bus: Bus,
    store: Store,
    /// What the disk says to everything, while it is full.
    full: bool,
    loads: Vec<(DurableKey, u64, EntryNumber, usize, u64)>,
    /// Frames that came with an answer.
    read: BTreeMap<SessionKey, Vec<Frame>>,
}

fn durable(filter: &str, name: &str) -> Subscribe {
    Subscribe { durable: Some(name.into()), ..subscribe(filter) }
}

impl Durable {
    fn new() -> Self {
        Self { bus: Bus::new(), store: Store::in_memory(), full: false, loads: Vec::new(), read: BTreeMap::new() }
    }

    /// With an operator that publishes, and one that subscribes.
    fn with_irc_and_dice() -> Self {
        let mut all = Self::new();
        all.bus.operator(1, "irc");
        all.bus.operator(2, "dice");
        all
    }

    /// Irc publishes something that is said; its id.
    fn chat(&mut self) -> u64 {
        match self.publish(1, CHAT) {
            Content::Published(published) => published.id,
            other => panic!("{other:?}"),
        }
    }

    /// Lets the disk do all that it was asked.
    fn settle(&mut self) {
        loop {
            let mut idle = true;
            self.bus.core.take_actions(&mut self.bus.actions);
            for action in self.bus.actions.drain(..) {
                if let Action::Load { durable, generation, after, messages, bytes } = action {
                    self.loads.push((durable, generation, after, messages, bytes));
                }
            }
            for (durable, generation, after, messages, bytes) in std::mem::take(&mut self.loads) {
                idle = false;
                let page: Result<Page, StorageError> = self.store.load(durable, after, messages as u64, bytes);
                self.bus.step(Event::Loaded { durable, generation, page });
            }
            self.bus.core.hurry();
            if let Some(batch) = self.bus.core.take_batch(self.bus.now) {
                idle = false;
                let outcome = self.commit(&batch);
                self.bus.step(Event::Stored(outcome));
            }
            if idle && self.bus.actions.is_empty() {
                return;
            }
        }
    }

    fn commit(&mut self, batch: &Batch) -> Result<Committed, StorageError> {
        if self.full { Err(StorageError::Unavailable("no space left".into())) } else { self.store.commit(batch) }
    }

    fn subscribe(&mut self, session: SessionKey, number: u32, asked: Subscribe) {
        self.bus.send(session, number, Content::Subscribe(asked));
        self.settle();
        let mut read = self.bus.output(session);
        let at = read.iter().position(|frame| frame.content == Content::Ok).expect("Ok");
        read.remove(at);
        self.read.insert(session, read);
    }

    fn publish(&mut self, session: SessionKey, headers: &[(&str, &str)]) -> Content {
        self.publish_numbered(session, 0, 0, headers).content
    }

    fn publish_numbered(&mut self, session: SessionKey, epoch: u64, sequence: u64, headers: &[(&str, &str)]) -> Frame {
        self.bus.numbers += 1;
        let number = self.bus.numbers;
        let publish = Publish { cause: None, hops: 0, epoch, sequence, document: document(headers, "body") };
        let frame = Frame { flags: CONFIRM, number, content: Content::Publish(publish) };
        self.bus.step(Event::Frame { session, frame });
        self.settle();
        self.bus.output(session).into_iter().find(|frame| frame.number == number).unwrap()
    }

    /// Deliveries as `id.attempt`, gaps as `gap first-last count reason`.
    fn seen(&mut self, session: SessionKey) -> Vec<String> {
        let mut seen = Vec::new();
        loop {
            let mut output = self.read.remove(&session).unwrap_or_default();
            output.extend(self.bus.output(session));
            self.settle();
            if output.is_empty() {
                return seen;
            }
            seen.extend(output.into_iter().filter_map(|frame| match frame.content {
                Content::Deliver(d) => Some(format!("{}.{}", d.id, d.attempt)),
                Content::Gap(g) => Some(format!("gap {}-{} {:?} r{}", g.first, g.last, g.count, g.reason)),
                Content::Error(refusal) => Some(Code::from_number(refusal.code).to_string()),
                _ => None,
            }));
        }
    }

    fn ack(&mut self, session: SessionKey, number: u32, id: u64) {
        self.bus.send(session, number, Content::Ack(Ack { id }));
        self.settle();
    }

    fn nack(&mut self, session: SessionKey, number: u32, id: u64, dead: bool) {
        let nack = Nack { id, dead, delay_ms: 0, reason: "no".into() };
        self.bus.send(session, number, Content::Nack(nack));
        self.settle();
    }

    fn leave(&mut self, session: SessionKey) {
        self.bus.step(Event::Leave { session });
        self.settle();
    }

    /// The bus dies; what was committed is there.
    fn crash(&mut self) {
        let recovered = self.store.reopen(self.bus.now.wall);
        self.restart(recovered);
    }

    fn restart(&mut self, recovered: Recovered) {
        let ids = self.bus.core.next_unused_id() + 1000..1 << 40;
        self.bus.core = Core::new(self.bus.now, 8, Limits::default(), Vec::new(), ids);
        self.bus.core.direct_bytes = 0;
        self.bus.core.recover(self.bus.now, recovered, &mut self.bus.actions);
        self.settle();
    }

    /// A clean restart, which the sessions do not notice.
    fn hand_over(&mut self) {
        let ids = self.bus.core.next_unused_id() + 1000..1 << 40;
        let saved = crate::handover::encode(&self.bus.core.save(self.bus.now), &[]).unwrap();
        let (saved, _) = crate::handover::decode(saved).unwrap();
        (self.bus.core, _) = Core::restore(self.bus.now, Limits::default(), Vec::new(), ids, saved).unwrap();
        let recovered = self.store.reopen(self.bus.now.wall);
        self.bus.core.recover(self.bus.now, recovered, &mut self.bus.actions);
        self.settle();
    }

    fn queue(&self) -> serde_json::Value {
        let all: serde_json::Value =
            serde_json::from_str(&self.bus.core.queues(self.bus.now, None, &BTreeMap::new())).unwrap();
        all[0].clone()
    }
}

const CHAT: &[(&str, &str)] = &[("type", "chat.message")];
