//! Each uid has its share of the memory and of the disk, and nobody else pays when it is used up.

use libeevee::GapReason;
use libeevee::wire::{Ack, Overflow};

use super::*;
use crate::core::answer::SMALL_BACKLOG;
use crate::core::storage::{Page, StorageError};
use crate::store::Store;

const KIB: usize = 1 << 10;

impl Bus {
    fn come(&mut self, session: SessionKey, uid: u32, id: &str) {
        let peer = Peer { uid, pid: Some(42), program: "test 1".into(), instance: session };
        let identity = Identity::Operator(id.parse().unwrap());
        self.step(Event::Join { session, identity, peer, module: None });
        self.read(session);
    }

    fn say(&mut self, session: SessionKey, kind: &str, bytes: usize) -> Content {
        self.numbers += 1;
        let document = document(&[("type", kind)], &"x".repeat(bytes));
        let publish = Publish { cause: None, hops: 0, epoch: 0, sequence: 0, document };
        let frame = Frame { flags: CONFIRM, number: self.numbers, content: Content::Publish(publish) };
        self.step(Event::Frame { session, frame });
        let number = self.numbers;
        self.core.check_accounts();
        self.output(session).into_iter().find(|frame| frame.number == number).map_or(Content::Ok, |frame| frame.content)
    }

    /// (delivered, (lost, reason) in order) of one subscription.
    fn outcome(&mut self, session: SessionKey) -> (u64, Vec<(u64, u8)>) {
        let (mut delivered, mut lost) = (0, Vec::new());
        for content in self.read(session) {
            match content {
                Content::Deliver(_) => delivered += 1,
                Content::Gap(gap) => lost.push((gap.count.unwrap(), gap.reason)),
                _ => {}
            }
        }
        self.core.check_accounts();
        (delivered, lost)
    }

    fn used(&self, session: SessionKey) -> usize {
        usize::MAX / 2 - self.core.sessions[&session].account.left(usize::MAX / 2)
    }
}

fn waiting(kind: &str) -> Subscribe {
    Subscribe {
        window_messages: 0,
        queue_messages: 100_000,
        queue_bytes: 1 << 30,
        ..subscribe(&format!("type={kind}"))
    }
}

/// A bus of 8 MiB with shares of 2 MiB.
fn small() -> Bus {
    let mut bus = Bus::new();
    bus.core.limits.memory_bytes = 8 << 20;
    bus.core.limits.memory_per_uid = 2 << 20;
    bus.core.limits.queue_messages = 100_000;
    bus.core.limits.queue_bytes = 1 << 30;
    bus
}

#[test]
fn who_never_reads_fills_its_share_and_not_the_bus() {
    for overflow in [Overflow::DropOldest, Overflow::DropNewest] {
        let mut bus = small();
        bus.come(1, 1, "speaker");
        bus.come(2, 2, "listener");
        bus.subscribe(2, 1, subscribe("type=x"));
        for session in 10..20 {
            bus.come(session, 9, &format!("hoarder{session}"));
            bus.subscribe(session, 1, Subscribe { overflow: overflow as u8, ..waiting("x") });
        }
        let said = 2_000;
        for _ in 0..said {
            assert!(matches!(bus.say(1, "x", 10 * KIB), Content::Published(_)), "a publisher pays for nobody");
            assert_eq!(bus.outcome(2), (1, vec![]));
            assert!(bus.used(10) <= bus.core.limits.memory_per_uid);
        }
        assert!(bus.used(10) > bus.core.limits.memory_per_uid * 9 / 10, "its share is its own");
        for session in 10..20 {
            bus.send(session, 1, Content::Grant(Grant { messages: 1 << 30, bytes: 1 << 40 }));
            let (delivered, lost) = bus.outcome(session);
            assert!(lost.iter().all(|(_, reason)| *reason == GapReason::Memory as u8), "{lost:?}");
            assert_eq!(delivered + lost.iter().map(|(count, _)| count).sum::<u64>(), said, "the gap is exact");
            bus.step(Event::Leave { session });
        }
        for session in [1, 2] {
            bus.step(Event::Leave { session });
        }
        bus.core.check_accounts();
        assert_eq!((bus.core.memory, bus.core.owed), (0, 0));
    }
}

#[test]
fn a_message_for_which_all_of_a_queue_would_not_make_room_takes_nothing_with_it() {
    let mut bus = small();
    bus.come(1, 1, "speaker");
    bus.come(2, 9, "a");
    bus.come(3, 9, "b");
    bus.subscribe(2, 1, waiting("x"));
    bus.subscribe(3, 1, waiting("y"));
    for _ in 0..300 {
        bus.say(1, "x", 10 * KIB);
    }
    bus.say(1, "y", 100);
    bus.say(1, "y", 500 * KIB);
    bus.say(1, "y", 100);
    bus.send(3, 1, Content::Grant(Grant { messages: 10, bytes: 1 << 40 }));
    assert_eq!(bus.outcome(3), (2, vec![(1, GapReason::Memory as u8)]));
}

#[test]
fn a_policy_to_disconnect_says_that_the_share_is_full() {
    let mut bus = small();
    bus.come(1, 1, "speaker");
    bus.come(2, 9, "slow");
    bus.subscribe(2, 1, Subscribe { overflow: Overflow::Disconnect as u8, ..waiting("x") });
    for _ in 0..300 {
        assert!(matches!(bus.say(1, "x", 10 * KIB), Content::Published(_)));
    }
    let last = bus.read(2).pop().unwrap();
    assert_eq!(code(&last), Code::SlowConsumer);
    let Content::Error(refusal) = last else { panic!() };
    assert!(refusal.text.contains("uid 9") && refusal.text.contains("2097152"), "{refusal:?}");
}

#[test]
fn beyond_its_share_the_own_requests_of_a_uid_are_refused() {
    let mut bus = small();
    bus.come(1, 1, "speaker");
    bus.come(2, 9, "hoarder");
    bus.come(3, 9, "other");
    bus.subscribe(1, 1, subscribe("type=q"));
    bus.subscribe(2, 1, waiting("x"));
    let ask = |number| {
        let document = document(&[("type", "q")], "");
        (number, Content::Request(Request { deadline_ms: 1000, cause: None, hops: 0, document }))
    };
    let (number, content) = ask(1);
    bus.send(3, number, content);
    assert!(!bus.read(3).iter().any(|content| matches!(content, Content::Error(_))));
    for _ in 0..500 {
        bus.say(1, "x", 10 * KIB);
    }
    bus.core.count_input(3, 20 * KIB);
    assert!(!bus.core.has_room_for(3) && bus.core.has_room_for(1), "no more of large frames of that uid");
    let credit = bus.core.sessions[&3].credit.full().0;
    for _ in 0..credit * 2 {
        let (number, content) = ask(2);
        bus.send(3, number, content);
        let refused = bus.read(3).into_iter().find(|content| matches!(content, Content::Error(_))).unwrap();
        let Content::Error(refusal) = &refused else { panic!() };
        assert_eq!(code(&refused), Code::Memory, "and its credit comes back: {refusal:?}");
        assert_eq!(refusal.limit, Some(2 << 20));
        assert!(refusal.text.contains("uid 9") && refusal.text.contains("memory-per-uid"), "{refusal:?}");
    }
    bus.send(3, 7, Content::Subscribe(subscribe("type=y")));
    assert_eq!(code(&bus.read(3)[0]), Code::Memory);
    bus.send(3, 8, control("bus", ""));
    assert!(matches!(bus.read(3)[..], [Content::Answer(_)]), "a short answer is told");
    let outcome = Ok(Some("x".repeat(SMALL_BACKLOG + 1)));
    bus.step(Event::Answered { session: 3, number: 10, outcome });
    assert_eq!(code(&bus.read(3)[0]), Code::Memory, "a long one is not");
    bus.send(3, 9, Content::Ping(Value { value: 1 }));
    assert_eq!(bus.read(3), [Content::Pong(Value { value: 1 })]);
    bus.subscribe(1, 2, subscribe("type=y"));
    bus.send(1, 8, control("bus", ""));
    assert!(matches!(bus.read(1)[..], [Content::Answer(_)]));
    for session in 1..=3 {
        bus.step(Event::Leave { session });
        bus.core.check_accounts();
    }
    assert_eq!((bus.core.memory, bus.core.owed), (0, 0));
}

#[test]
fn filters_that_no_index_answers_are_few_for_each_uid() {
    let mut bus = Bus::new();
    bus.core.limits.unindexed_filters = 4;
    bus.come(1, 9, "a");
    bus.come(2, 9, "b");
    bus.come(3, 8, "c");
    for (session, filter) in [(1, "*"), (1, "channel~#a*"), (2, "!bot")] {
        bus.subscribe(session, bus.core.sessions[&session].last_subscription + 1, subscribe(filter));
    }
    bus.subscribe(1, 3, subscribe("type=x,hops<3"));
    for number in 10..100 {
        bus.subscribe(1, number, subscribe("type=x,channel~#a*"));
        bus.core.check_accounts();
    }
    for (filter, cure) in [
        ("level<4", "needs a clause key=value or key in (...), such as type=chat.message"),
        ("type=x,hops<9", "leave that clause out"),
        ("id>5", "leave that clause out"),
    ] {
        bus.send(2, 200, Content::Subscribe(subscribe(filter)));
        let Content::Error(refusal) = &bus.read(2)[0] else { panic!("{filter}") };
        assert_eq!((Code::from_number(refusal.code), refusal.limit, refusal.value), (Code::Quota, Some(4), Some(5)));
        for part in ["uid 9", "unindexed-filters", filter, cure] {
            assert!(refusal.text.contains(part), "{refusal:?} without {part}");
        }
    }
    bus.subscribe(3, 1, subscribe("level<4"));
    bus.send(1, 1, Content::Unsubscribe);
    bus.read(1);
    bus.subscribe(2, 201, subscribe("level<4"));
    bus.core.check_accounts();
}

/// A bus with a disk that is as slow as a test wants.
struct Disk {
    bus: Bus,
    store: Store,
    largest: usize,
}

impl Disk {
    fn new(bus: Bus) -> Self {
        Self { bus, store: Store::in_memory(), largest: 0 }
    }

    fn settle(&mut self) {
        for round in 0.. {
            assert!(round < 1000, "it never settles: {:?}", self.bus.actions);
            self.bus.core.check_accounts();
            self.largest = self.largest.max(self.bus.core.memory);
            let actions = std::mem::take(&mut self.bus.actions);
            let mut idle = actions.is_empty();
            for action in actions {
                if let Action::Load { durable, generation, after, messages, bytes } = action {
                    let page: Result<Page, StorageError> = self.store.load(durable, after, messages as u64, bytes);
                    self.bus.step(Event::Loaded { durable, generation, page });
                }
            }
            if let Some(batch) = self.bus.core.take_batch(self.bus.now) {
                idle = false;
                let outcome = self.store.commit(&batch);
                self.bus.step(Event::Stored(outcome));
            }
            if idle {
                return;
            }
        }
    }

    /// What one write of the shell takes.
    fn chunk(&mut self, session: SessionKey) -> Vec<Frame> {
        let (core, now) = (&mut self.bus.core, self.bus.now);
        let mut out = Chunk::default();
        core.output(now, session, 64 * KIB, &mut out);
        core.output(now, session, 0, &mut Chunk::default());
        let mut bytes = BytesMut::from(&out[..]);
        std::iter::from_fn(|| split_frame(&mut bytes, 1 << 20).unwrap())
            .map(|bytes| Frame::decode(bytes).unwrap().unwrap())
            .collect()
    }

    /// What it was told before, too.
    fn subscribe(&mut self, session: SessionKey, number: u32, name: &str, asked: Subscribe) -> Vec<Content> {
        self.bus.send(session, number, Content::Subscribe(Subscribe { durable: Some(name.into()), ..asked }));
        self.settle();
        self.bus.read(session)
    }
}

fn plenty(kind: &str) -> Subscribe {
    Subscribe { window_messages: 1 << 30, ..waiting(kind) }
}

#[test]
fn what_a_share_has_no_room_for_stays_on_disk_and_comes_in_order() {
    let mut bus = small();
    bus.core.limits.in_flight = 1000;
    let mut disk = Disk::new(bus);
    disk.bus.come(1, 1, "speaker");
    disk.bus.come(2, 9, "hoarder");
    for number in 1..=4 {
        disk.subscribe(2, number, &format!("q{number}"), plenty("x"));
    }
    let said = 150;
    for _ in 0..said {
        let answer = disk.bus.say(1, "x", 20 * KIB);
        assert_eq!(answer, Content::Ok, "not confirmed before it is on disk");
        disk.settle();
        disk.bus.read(1);
    }
    assert!(disk.largest <= 3 << 20, "{} bytes of the bus for one uid", disk.largest);
    let mut seen: BTreeMap<u32, Vec<u64>> = BTreeMap::new();
    loop {
        let frames = disk.chunk(2);
        disk.settle();
        assert!(disk.bus.used(2) <= 3 << 20, "{}", disk.bus.used(2));
        if frames.is_empty() {
            break;
        }
        for frame in frames {
            match frame.content {
                Content::Deliver(deliver) => {
                    assert_eq!(deliver.attempt, 1);
                    seen.entry(frame.number).or_default().push(deliver.id);
                    disk.bus.send(2, frame.number, Content::Ack(Ack { id: deliver.id }));
                }
                Content::Ok => {}
                other => panic!("{other:?}"),
            }
        }
        disk.settle();
    }
    assert_eq!(seen.len(), 4);
    assert!(seen.values().all(|ids| ids.len() == said && ids.is_sorted()), "{seen:?}");
    for session in [1, 2] {
        disk.bus.step(Event::Leave { session });
        disk.settle();
    }
    let ends = disk.bus.core.subscriptions.iter().map(|(_, subscription)| subscription.own_memory).sum::<usize>();
    assert_eq!((disk.bus.core.memory, disk.bus.core.owed), (ends, 0));
}

#[test]
fn a_slow_disk_costs_the_share_of_who_publishes() {
    let mut disk = Disk::new(small());
    disk.bus.core.limits.credit_bytes = 1 << 30;
    disk.bus.come(1, 1, "flooder");
    disk.bus.come(2, 2, "other");
    disk.bus.come(3, 3, "keeper");
    assert!(disk.subscribe(3, 1, "all", plenty("x")).contains(&Content::Ok));
    // Nothing is committed from here on.
    let mut refused = None;
    for _ in 0..300 {
        if let error @ Content::Error(_) = disk.bus.say(1, "x", 20 * KIB) {
            refused = Some(error);
            break;
        }
    }
    let refused = refused.unwrap();
    assert_eq!(code(&refused), Code::Memory);
    assert_eq!(disk.bus.say(2, "x", 20 * KIB), Content::Ok, "others have shares of their own");
    assert!(matches!(disk.bus.say(1, "live", 100), Content::Published(_)), "and live messages wait for nobody");
    disk.settle();
    assert_eq!(disk.bus.say(1, "x", 20 * KIB), Content::Ok);
    disk.settle();
}

#[test]
fn one_owner_cannot_fill_the_disk_for_all() {
    for (overflow, attached) in [(Overflow::DropOldest, false), (Overflow::DropOldest, true), (Overflow::Reject, false)]
    {
        let mut disk = Disk::new(small());
        disk.bus.core.limits.store_bytes_per_owner = 100 * KIB as u64;
        disk.bus.come(1, 1, "speaker");
        disk.bus.come(2, 9, "hoarder");
        disk.bus.come(3, 3, "modest");
        for number in 1..=3 {
            let kind = format!("x{number}");
            let asked = Subscribe { overflow: overflow as u8, window_messages: 0, ..plenty(&kind) };
            assert!(disk.subscribe(2, number, &kind, asked).contains(&Content::Ok));
        }
        disk.subscribe(3, 1, "own", Subscribe { window_messages: 0, ..plenty("y") });
        if !attached {
            disk.bus.step(Event::Leave { session: 2 });
        }
        let mut refused = 0;
        for said in 0..60 {
            let answer = disk.bus.say(1, &format!("x{}", said % 3 + 1), 10 * KIB);
            if let Content::Error(refusal) = &answer {
                assert_eq!((code(&answer), refusal.limit), (Code::Full, Some(100 * KIB as u64)));
                assert!(
                    refusal.text.contains("hoarder") && refusal.text.contains("store-bytes-per-owner"),
                    "{refusal:?}"
                );
                refused += 1;
            }
            assert_eq!(disk.bus.say(1, "y", KIB), Content::Ok, "others are not refused");
            disk.settle();
        }
        let queues = disk.bus.core.queues(disk.bus.now, Some("hoarder"), &BTreeMap::new());
        let queues: serde_json::Value = serde_json::from_str(&queues).unwrap();
        let sum = |key: &str| queues.as_array().unwrap().iter().map(|queue| queue[key].as_u64().unwrap()).sum::<u64>();
        assert!(sum("bytes") <= 100 * KIB as u64 && sum("bytes") > 80 * KIB as u64, "{queues}");
        assert_eq!(sum("messages") + sum("dead") + refused, 60);
        assert_eq!(refused > 0, overflow == Overflow::Reject);
        let own: serde_json::Value =
            serde_json::from_str(&disk.bus.core.queues(disk.bus.now, Some("modest"), &BTreeMap::new())).unwrap();
        assert_eq!((own[0]["messages"].as_u64(), own[0]["dead"].as_u64()), (Some(60), Some(0)));
    }
}

#[test]
fn durable_filters_count_to_the_uid_of_their_owner_also_after_a_restart() {
    let mut disk = Disk::new(Bus::new());
    disk.bus.core.limits.unindexed_filters = 2;
    disk.bus.come(1, 9, "a");
    for (number, name) in [(1, "one"), (2, "two")] {
        assert!(disk.subscribe(1, number, name, subscribe("!bot")).contains(&Content::Ok));
    }
    let refused = disk.subscribe(1, 3, "three", subscribe("!bot"));
    assert_eq!(code(refused.last().unwrap()), Code::Quota, "{refused:?}");
    // Again for the same ones is no more.
    disk.bus.step(Event::Leave { session: 1 });
    disk.bus.come(2, 9, "a");
    assert!(disk.subscribe(2, 1, "one", subscribe("level<4")).contains(&Content::Ok));
    let mut after = Disk::new(Bus::new());
    after.bus.core.limits.unindexed_filters = 2;
    std::mem::swap(&mut after.store, &mut disk.store);
    let recovered = after.store.reopen(after.bus.now.wall);
    after.bus.core.recover(after.bus.now, recovered, &mut Vec::new());
    after.bus.core.check_accounts();
    after.bus.come(1, 9, "a");
    let refused = after.subscribe(1, 1, "three", subscribe("!bot"));
    assert_eq!(code(refused.last().unwrap()), Code::Quota, "what was there before counts: {refused:?}");
}
