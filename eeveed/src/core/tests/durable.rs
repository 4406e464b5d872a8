//! Durable subscriptions, with the real store in memory.

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

#[test]
fn it_collects_while_nobody_is_there_and_delivers_in_order() {
    let mut all = Durable::new();
    all.bus.operator(1, "irc");
    all.bus.operator(2, "dice");
    all.subscribe(2, 1, durable("type=chat.message", "all"));
    all.leave(2);
    for id in 1..=3 {
        let expected = Content::Published(Published { id: id + 1, live: 0, durable: 1 });
        // Message 1 said that dice is there, 2 that it is away, and so on: ids only rise.
        let Content::Published(published) = all.publish(1, CHAT) else { panic!() };
        assert_eq!((published.live, published.durable), (0, 1), "{expected:?}");
    }
    all.bus.operator(2, "dice");
    all.subscribe(2, 1, durable("type=chat.message", "all"));
    let seen = all.seen(2);
    assert_eq!(seen.len(), 3, "{seen:?}");
    assert!(seen.iter().all(|seen| seen.ends_with(".1")) && seen.is_sorted(), "{seen:?}");
    assert_eq!(all.queue()["messages"], 3);
    for seen in seen {
        all.ack(2, 1, seen.trim_end_matches(".1").parse().unwrap());
    }
    assert_eq!((all.queue()["messages"].clone(), all.queue()["bytes"].clone()), (0.into(), 0.into()));
    assert!(all.seen(2).is_empty());
}

#[test]
fn what_is_not_acknowledged_comes_again_and_is_marked() {
    let mut all = Durable::new();
    all.bus.operator(1, "irc");
    all.bus.operator(2, "dice");
    all.subscribe(2, 1, durable("*", "all"));
    let Content::Published(Published { id, .. }) = all.publish(1, CHAT) else { panic!() };
    assert_eq!(all.seen(2), [format!("{id}.1")]);
    // Late.
    all.bus.pass(Duration::from_secs(31));
    all.settle();
    assert_eq!(all.seen(2), [format!("{id}.2")]);
    // Refused: after a second.
    all.nack(2, 1, id, false);
    assert!(all.seen(2).is_empty());
    all.bus.pass(Duration::from_secs(3));
    assert_eq!(all.seen(2), [format!("{id}.3")]);
    // Gone and back.
    all.leave(2);
    all.bus.operator(2, "dice");
    all.subscribe(2, 1, durable("*", "all"));
    let state = all.seen(2);
    assert_eq!(state[0], format!("{id}.4"));
    // And after a crash.
    all.crash();
    all.bus.operator(2, "dice");
    all.subscribe(2, 1, durable("*", "all"));
    assert_eq!(all.seen(2)[0], format!("{id}.5"));
    all.ack(2, 1, id);
    assert!(all.seen(2).is_empty());
    all.ack(2, 1, id);
    assert_eq!(all.seen(2), ["bad-ack"]);
}

#[test]
fn an_acknowledgement_behind_the_subscribe_after_a_crash_is_taken() {
    let mut all = Durable::new();
    all.bus.operator(1, "irc");
    all.bus.operator(2, "dice");
    all.subscribe(2, 1, durable("type=chat.message", "all"));
    let Content::Published(Published { id, .. }) = all.publish(1, CHAT) else { panic!() };
    assert_eq!(all.seen(2), [format!("{id}.1")]);
    all.crash();
    all.bus.operator(2, "dice");
    all.bus.send(2, 1, Content::Subscribe(durable("type=chat.message", "all")));
    all.bus.send(2, 1, Content::Ack(Ack { id }));
    all.bus.send(2, 1, Content::Ack(Ack { id: 77 }));
    all.settle();
    assert_eq!(all.seen(2), ["bad-ack"]);
    assert_eq!(all.queue()["messages"], 0);
}

/// No more than these can have been delivered and not acknowledged.
#[test]
fn as_many_are_acknowledged_after_a_crash_as_were_in_flight() {
    let mut all = Durable::new();
    all.bus.operator(1, "irc");
    all.bus.operator(2, "dice");
    all.subscribe(2, 1, durable("type=chat.message", "all"));
    let max = Limits::default().in_flight;
    for _ in 0..2 * max {
        all.publish(1, CHAT);
    }
    let ids: Vec<u64> =
        all.seen(2).iter().map(|seen| seen.strip_suffix(".1").expect("a first delivery").parse().unwrap()).collect();
    assert_eq!(ids.len(), max);
    all.crash();
    all.bus.operator(2, "dice");
    all.bus.send(2, 1, Content::Subscribe(durable("type=chat.message", "all")));
    for id in &ids {
        all.bus.send(2, 1, Content::Ack(Ack { id: *id }));
    }
    all.bus.send(2, 1, Content::Ack(Ack { id: 77 }));
    all.settle();
    assert_eq!(all.queue()["messages"], max);
    let seen = all.seen(2);
    assert_eq!((seen[0].as_str(), seen.len()), ("bad-ack", 1 + max), "one too many, and then those after them");
    assert!(seen[1..].iter().all(|seen| !ids.iter().any(|id| seen.starts_with(&format!("{id}.")))), "{seen:?}");
}

#[test]
fn a_full_disk_is_told_to_publishers_and_heals() {
    let mut all = Durable::new();
    all.bus.operator(1, "irc");
    all.bus.operator(2, "dice");
    all.bus.operator(3, "log");
    all.subscribe(2, 1, durable("type=chat.message", "all"));
    all.bus.subscribe(3, 1, subscribe("type=log.line"));
    all.full = true;
    assert_eq!(code(&all.publish(1, CHAT)), Code::Storage);
    assert_eq!(code(&all.publish(1, CHAT)), Code::Storage);
    // Live traffic goes on.
    assert!(matches!(all.publish(1, &[("type", "log.line")]), Content::Published(Published { live: 1, .. })));
    all.full = false;
    all.bus.pass(Duration::from_secs(2));
    all.settle();
    let Content::Published(Published { id, durable: 1, .. }) = all.publish(1, CHAT) else { panic!() };
    assert_eq!(all.seen(2), [format!("{id}.1")]);
    assert_eq!(all.queue()["messages"], 1);
}

#[test]
fn a_commit_costs_nothing_for_subscriptions_that_it_is_not_about() {
    let mut all = Durable::new();
    all.bus.operator(1, "irc");
    all.bus.operator(2, "dice");
    for number in 1..=500 {
        all.subscribe(2, number, durable(&format!("type=t{number}"), &format!("n{number}")));
    }
    all.bus.core.journal.looked = 0;
    for _ in 0..10 {
        let Content::Published(Published { id, durable: 1, .. }) = all.publish(1, &[("type", "t7")]) else { panic!() };
        assert_eq!(all.seen(2), [format!("{id}.1")]);
        all.ack(2, 7, id);
    }
    assert!(all.bus.core.journal.looked <= 40, "{} looks", all.bus.core.journal.looked);
}

/// What is in force, and what is done with, though the disk took neither.
#[test]
fn a_restart_while_the_disk_takes_nothing_loses_neither_changes_nor_acknowledgements() {
    let mut all = Durable::new();
    all.bus.operator(1, "irc");
    all.bus.operator(2, "dice");
    all.subscribe(2, 1, durable("type=chat.message", "all"));
    let ids: Vec<u64> = (0..4)
        .map(|_| match all.publish(1, CHAT) {
            Content::Published(published) => published.id,
            other => panic!("{other:?}"),
        })
        .collect();
    assert_eq!(all.seen(2).len(), 4);
    all.full = true;
    all.ack(2, 1, ids[0]);
    all.nack(2, 1, ids[1], true);
    all.nack(2, 1, ids[2], false);
    assert_eq!(all.seen(2), [format!("gap {0}-{0} Some(1) r6", ids[1])]);
    all.hand_over();
    assert_eq!((all.queue()["messages"].clone(), all.queue()["dead"].clone()), (2.into(), 1.into()));
    all.bus.pass(Duration::from_secs(10));
    all.settle();
    assert!(all.seen(2).is_empty(), "the disk does not know that it is delivered again");
    all.hand_over();
    all.full = false;
    all.bus.pass(Duration::from_secs(2));
    all.settle();
    assert_eq!(all.seen(2), [format!("{}.2", ids[2])]);
    let letters = all.store.dead_letters(None, None, 0, 10).unwrap().letters;
    assert_eq!((letters[0].record.id, letters[0].death.text.as_str()), (ids[1], "no"));
    let on_disk = all.store.load(1, 0, 10, 1 << 20).unwrap().entries;
    assert_eq!(on_disk.iter().map(|loaded| loaded.record.id).collect::<Vec<_>>(), ids[2..]);

    // And a change.
    all.leave(2);
    all.full = true;
    all.bus.operator(2, "dice");
    let asked = Subscribe { queue_messages: 7, ..durable("type=other", "all") };
    all.bus.send(2, 1, Content::Subscribe(asked));
    all.settle();
    assert!(all.bus.output(2).iter().any(|frame| matches!(frame.content, Content::Error(_))));
    all.hand_over();
    all.full = false;
    all.bus.pass(Duration::from_secs(2));
    all.settle();
    assert_eq!(all.queue()["filters"][0], "type=other");
    let row = &all.store.reopen(0).subscriptions[0].row;
    assert!(row.spec.contains("type=other") && row.spec.contains("\"messages\":7"), "{}", row.spec);
    let other = all.publish(1, &[("type", "other")]);
    assert!(matches!(other, Content::Published(Published { durable: 1, .. })), "{other:?}");
}

#[test]
fn a_dead_letter_is_told_and_can_be_tried_again() {
    let mut all = Durable::new();
    all.bus.operator(1, "irc");
    all.bus.operator(2, "dice");
    all.subscribe(2, 1, durable("type=chat.message", "all"));
    let Content::Published(Published { id, .. }) = all.publish(1, CHAT) else { panic!() };
    all.seen(2);
    all.nack(2, 1, id, true);
    assert_eq!(all.seen(2), [format!("gap {id}-{id} Some(1) r6")]);
    assert_eq!((all.queue()["messages"].clone(), all.queue()["dead"].clone()), (0.into(), 1.into()));
    let letters = all.store.dead_letters(None, None, 0, 10).unwrap().letters;
    assert_eq!((letters[0].record.id, letters[0].death.text.as_str()), (id, "no"));
    let entries = vec![letters[0].entry];
    all.bus.step(Event::Dead { session: 2, number: 9, entries, retry: true });
    all.settle();
    assert_eq!(all.seen(2), [format!("{id}.1")]);
    assert_eq!((all.queue()["messages"].clone(), all.queue()["dead"].clone()), (1.into(), 0.into()));
}

#[test]
fn a_full_queue_does_what_its_policy_says() {
    let bounded = |overflow: Overflow| Subscribe {
        queue_messages: 2,
        overflow: overflow as u8,
        ..durable("type=chat.message", "all")
    };
    for attached in [true, false] {
        let mut all = Durable::new();
        all.bus.operator(1, "irc");
        all.bus.operator(2, "dice");
        all.subscribe(2, 1, Subscribe { window_messages: 0, ..bounded(Overflow::DropOldest) });
        if !attached {
            all.leave(2);
        }
        let ids: Vec<u64> = (0..4)
            .map(|_| match all.publish(1, CHAT) {
                Content::Published(published) => published.id,
                other => panic!("{other:?}"),
            })
            .collect();
        if !attached {
            all.bus.operator(2, "dice");
            all.subscribe(2, 1, bounded(Overflow::DropOldest));
        } else {
            all.bus.send(2, 1, Content::Grant(Grant { messages: 10, bytes: 0 }));
        }
        let gap = format!("gap {}-{} Some(2) r1", ids[0], ids[1]);
        assert_eq!(all.seen(2), [gap, format!("{}.1", ids[2]), format!("{}.1", ids[3])], "attached {attached}");
        assert_eq!((all.queue()["messages"].clone(), all.queue()["dead"].clone()), (2.into(), 2.into()));
    }
    let mut all = Durable::new();
    all.bus.operator(1, "irc");
    all.bus.operator(2, "dice");
    all.subscribe(2, 1, bounded(Overflow::Reject));
    all.publish(1, CHAT);
    all.publish(1, CHAT);
    let refused = all.publish(1, CHAT);
    assert_eq!(code(&refused), Code::Full);
    let mut all = Durable::new();
    all.bus.operator(1, "irc");
    all.bus.operator(2, "dice");
    all.subscribe(2, 1, Subscribe { window_messages: 0, ..bounded(Overflow::DropNewest) });
    let ids: Vec<Content> = (0..3).map(|_| all.publish(1, CHAT)).collect();
    let Content::Published(last) = &ids[2] else { panic!() };
    assert_eq!(all.seen(2), [format!("gap {0}-{0} Some(1) r1", last.id)]);
}

#[test]
fn what_waited_too_long_is_told_and_not_delivered() {
    for attached in [true, false] {
        let mut all = Durable::new();
        all.bus.operator(1, "irc");
        all.bus.operator(2, "dice");
        let aged = Subscribe { max_age_ms: 60_000, ..durable("type=chat.message", "all") };
        all.subscribe(2, 1, Subscribe { window_messages: 0, ..aged.clone() });
        if !attached {
            all.leave(2);
        }
        let Content::Published(Published { id, .. }) = all.publish(1, CHAT) else { panic!() };
        // The clock on the wall is set: nothing ages by it.
        all.bus.now.wall += 86_400_000_000_000;
        all.bus.pass(Duration::from_secs(61));
        all.settle();
        if !attached {
            all.bus.operator(2, "dice");
            all.subscribe(2, 1, aged);
        } else {
            all.bus.send(2, 1, Content::Grant(Grant { messages: 10, bytes: 0 }));
        }
        assert_eq!(all.seen(2), [format!("gap {id}-{id} Some(1) r2")], "attached {attached}");
        assert_eq!(all.queue()["dead"], 1);
    }
}

#[test]
fn a_retry_is_recognised_also_after_a_crash() {
    let mut all = Durable::new();
    all.bus.operator(1, "irc");
    all.bus.operator(2, "dice");
    all.subscribe(2, 1, durable("type=chat.message", "all"));
    let first = all.publish_numbered(1, 7, 10, CHAT);
    let Content::Published(Published { id, durable: 1, .. }) = first.content else { panic!("{first:?}") };
    let again = all.publish_numbered(1, 7, 10, CHAT);
    assert_eq!(
        (again.flags, again.content.clone()),
        (REPEATED, Content::Published(Published { id, live: 0, durable: 0 }))
    );
    all.crash();
    all.bus.operator(1, "irc");
    let again = all.publish_numbered(1, 7, 10, CHAT);
    assert_eq!((again.flags, again.content), (REPEATED, Content::Published(Published { id, live: 0, durable: 0 })));
    // One that the disk refused was not taken, also when a later one was.
    all.full = true;
    assert_eq!(code(&all.publish_numbered(1, 7, 11, CHAT).content), Code::Storage);
    all.full = false;
    all.bus.pass(Duration::from_secs(2));
    all.settle();
    assert_eq!(all.publish_numbered(1, 7, 12, CHAT).flags, 0);
    assert_eq!(all.publish_numbered(1, 7, 11, CHAT).flags, 0);
    assert_eq!(all.publish_numbered(1, 7, 11, CHAT).flags, REPEATED);
    assert_eq!(all.queue()["messages"], 3);
}

#[test]
fn one_session_has_it_and_forgetting_ends_it() {
    let mut all = Durable::new();
    let admin = Identity::Person { name: "goos".into(), admin: true };
    all.bus.join(1, admin.clone(), None);
    all.bus.join(2, admin, None);
    all.subscribe(1, 1, durable("*", "mine"));
    all.bus.send(2, 1, Content::Subscribe(durable("*", "mine")));
    assert_eq!(code(&all.bus.read(2)[0]), Code::AlreadyConnected);
    let forget = |name: &str| {
        let argument = serde_json::json!({ "owner": "user/goos", "name": name }).to_string();
        Content::Control(Control { verb: "forget".into(), id: String::new(), argument })
    };
    all.bus.send(2, 50, forget("mine"));
    assert_eq!(code(&all.bus.read(2)[0]), Code::Refused);
    all.leave(1);
    all.publish(2, CHAT);
    all.bus.send(2, 51, forget("mine"));
    all.settle();
    let read = all.bus.read(2);
    assert!(matches!(&read[..], [Content::Answer(text)] if text.text.contains("\"messages\":1")), "{read:?}");
    assert!(all.queue().is_null());
    assert_eq!(all.store.reopen(1).subscriptions, []);
}

#[test]
fn the_accounts_are_at_zero_when_all_is_done() {
    let mut all = Durable::new();
    all.bus.operator(1, "irc");
    all.bus.operator(2, "dice");
    all.subscribe(2, 1, durable("type=chat.message", "all"));
    let before = all.bus.core.memory;
    for _ in 0..500 {
        all.publish(1, CHAT);
    }
    assert!(all.bus.core.memory > before);
    loop {
        let seen = all.seen(2);
        if seen.is_empty() {
            break;
        }
        for seen in seen {
            all.ack(2, 1, seen.trim_end_matches(".1").parse().unwrap());
        }
    }
    all.settle();
    assert_eq!((all.bus.core.memory, all.queue()["messages"].clone()), (before, 0.into()));
    assert_eq!(all.store.reopen(1).subscriptions[0].messages, 0);
}

/// A commit costs a sync, and what is wanted of the disk waits for it.
#[test]
fn acknowledgements_wait_for_others_a_while() {
    let mut all = Durable::new();
    all.bus.operator(1, "irc");
    all.bus.operator(2, "dice");
    all.subscribe(2, 1, durable("type=chat.message", "all"));
    for _ in 0..3 {
        all.publish(1, CHAT);
    }
    let ids: Vec<u64> = all.seen(2).iter().map(|seen| seen.trim_end_matches(".1").parse().unwrap()).collect();
    // With what is urgent.
    all.bus.send(2, 1, Content::Ack(Ack { id: ids[0] }));
    assert!(all.bus.core.take_batch(all.bus.now).is_none());
    all.bus.send(2, 1, Content::Nack(Nack { id: ids[1], dead: true, delay_ms: 0, reason: String::new() }));
    let batch = all.bus.core.take_batch(all.bus.now).unwrap();
    assert!(batch.writes.iter().any(|write| matches!(write, Write::Acknowledge { .. })));
    let outcome = all.store.commit(&batch);
    all.bus.step(Event::Stored(outcome));
    // Or when it is time.
    all.bus.send(2, 1, Content::Ack(Ack { id: ids[2] }));
    assert!(all.bus.core.take_batch(all.bus.now).is_none());
    all.bus.now.mono += Duration::from_millis(9);
    assert!(all.bus.core.take_batch(all.bus.now).is_none());
    all.bus.now.mono += Duration::from_millis(1);
    assert!(all.bus.core.deadline().unwrap() <= all.bus.now.mono);
    assert_eq!(all.bus.core.take_batch(all.bus.now).unwrap().writes.len(), 1);
}

#[test]
fn no_crash_makes_a_count_of_deliveries_too_low() {
    let mut all = Durable::new();
    all.bus.operator(1, "irc");
    all.bus.operator(2, "dice");
    all.subscribe(2, 1, durable("type=chat.message", "all"));
    let Content::Published(Published { id, .. }) = all.publish(1, CHAT) else { panic!() };
    assert_eq!(all.seen(2), [format!("{id}.1")]);
    for attempt in 2..6 {
        // Right behind the delivery, before the disk does anything more.
        all.crash();
        all.bus.operator(2, "dice");
        all.subscribe(2, 1, durable("type=chat.message", "all"));
        let given = all.read.remove(&2).unwrap();
        assert!(
            matches!(&given[..], [Frame { content: Content::Deliver(d), .. }] if d.attempt == attempt),
            "{given:?}"
        );
    }
    // The same where it is refused, and comes again while the bus runs.
    all.nack(2, 1, id, false);
    all.bus.pass(Duration::from_secs(30));
    let given = all.bus.output(2);
    assert!(matches!(&given[..], [Frame { content: Content::Deliver(d), .. }] if d.attempt == 6), "{given:?}");
    all.crash();
    all.bus.operator(2, "dice");
    all.subscribe(2, 1, durable("type=chat.message", "all"));
    assert_eq!(all.seen(2), [format!("{id}.7")]);
}

#[test]
fn a_redelivery_waits_for_a_disk_that_is_full() {
    let mut all = Durable::new();
    all.bus.operator(1, "irc");
    all.bus.operator(2, "dice");
    all.subscribe(2, 1, durable("type=chat.message", "all"));
    let Content::Published(Published { id, .. }) = all.publish(1, CHAT) else { panic!() };
    assert_eq!(all.seen(2), [format!("{id}.1")]);
    all.full = true;
    all.nack(2, 1, id, false);
    all.bus.pass(Duration::from_secs(30));
    assert!(all.seen(2).is_empty(), "the disk does not know of a second delivery");
    all.full = false;
    all.bus.pass(Duration::from_secs(2));
    all.settle();
    assert_eq!(all.seen(2), [format!("{id}.2")]);
}

#[test]
fn a_refusal_behind_the_subscribe_is_taken_too() {
    for crashes in [false, true] {
        let mut all = Durable::new();
        all.bus.operator(1, "irc");
        all.bus.operator(2, "dice");
        all.subscribe(2, 1, durable("type=chat.message", "all"));
        let ids: Vec<u64> = (0..3)
            .map(|_| match all.publish(1, CHAT) {
                Content::Published(published) => published.id,
                other => panic!("{other:?}"),
            })
            .collect();
        assert_eq!(all.seen(2).len(), 3);
        if crashes {
            all.crash();
        } else {
            all.leave(2);
        }
        all.bus.operator(2, "dice");
        all.bus.send(2, 1, Content::Subscribe(durable("type=chat.message", "all")));
        let refuse = |id, dead| Content::Nack(Nack { id, dead, delay_ms: 5_000, reason: "no".into() });
        all.bus.send(2, 1, refuse(ids[0], false));
        all.bus.send(2, 1, refuse(ids[1], true));
        all.bus.send(2, 1, refuse(77, false));
        all.settle();
        let mut seen = all.seen(2);
        seen.sort();
        let died = format!("gap {0}-{0} Some(1) r{1}", ids[1], libeevee::GapReason::DeadLetter as u8);
        assert_eq!(seen, [format!("{}.2", ids[2]), "bad-ack".into(), died]);
        assert_eq!((all.queue()["dead"].clone(), all.queue()["redelivery"].clone()), (1.into(), 1.into()));
        all.bus.pass(Duration::from_secs(6));
        assert_eq!(all.seen(2), [format!("{}.2", ids[0])]);
        for id in [ids[0], ids[2]] {
            all.ack(2, 1, id);
        }
        assert_eq!((all.queue()["messages"].clone(), all.queue()["bytes"].clone()), (0.into(), 0.into()));
    }
}

#[test]
fn what_waits_behind_a_batch_that_the_disk_refuses_is_refused_with_it() {
    let mut disk = Durable::new();
    disk.bus.operator(1, "irc");
    disk.bus.operator(2, "dice");
    disk.subscribe(2, 1, durable("type=chat.message", "commands"));
    disk.bus.output(1);
    let publish = |disk: &mut Durable, number| {
        let document = document(&[("type", "chat.message")], "body");
        disk.bus.send(1, number, Content::Publish(Publish { cause: None, hops: 0, epoch: 0, sequence: 0, document }));
    };
    publish(&mut disk, 201);
    disk.bus.core.take_batch(disk.bus.now).expect("the first");
    publish(&mut disk, 202);
    disk.bus.step(Event::Stored(Err(StorageError::Unavailable("no space left".into()))));
    let told: Vec<(u32, Code)> = disk.bus.output(1).iter().map(|frame| (frame.number, code(&frame.content))).collect();
    assert_eq!(told, [(201, Code::Storage), (202, Code::Storage)]);
    assert!(disk.bus.core.take_batch(disk.bus.now).is_none(), "nothing waits for a disk that takes nothing");
}

#[test]
fn a_message_whose_sessions_all_end_is_a_dead_letter_after_the_last_attempt() {
    let mut disk = Durable::new();
    disk.bus.core.limits.attempts = 2;
    disk.bus.operator(1, "irc");
    disk.bus.operator(2, "dice");
    disk.subscribe(2, 1, durable("type=chat.message", "commands"));
    disk.publish(1, &[("type", "chat.message")]);
    for attempt in [1, 2] {
        disk.settle();
        let attempts: Vec<u32> = disk.bus.delivered(2).iter().map(|deliver| deliver.attempt).collect();
        let before = disk.read.remove(&2).unwrap_or_default();
        let before = before.iter().filter_map(|frame| match &frame.content {
            Content::Deliver(deliver) => Some(deliver.attempt),
            _ => None,
        });
        assert_eq!(before.chain(attempts).collect::<Vec<_>>(), [attempt]);
        disk.bus.step(Event::Leave { session: 2 });
        disk.bus.operator(2, "dice");
        disk.subscribe(2, 1, durable("type=chat.message", "commands"));
    }
    disk.settle();
    let mut seen = disk.bus.seen(2);
    let first = disk.read.remove(&2).unwrap_or_default();
    seen.extend(first.iter().filter(|frame| matches!(frame.content, Content::Gap(_))).map(|_| "gap".to_owned()));
    assert!(seen.len() == 1 && seen[0].contains("gap"), "{seen:?}");
    assert_eq!(disk.store.dead_entries(None, None).unwrap().len(), 1);
}
