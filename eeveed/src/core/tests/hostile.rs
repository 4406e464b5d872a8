//! Bytes that mean harm, and what the rows of plain publishes must not pass by.

use super::*;
use crate::core::intake::{Rest, Taken, WORK_MAX};

fn joined() -> Bus {
    let mut bus = Bus::new();
    bus.core.direct_bytes = 256 << 10;
    bus.operator(1, "a");
    bus
}

/// THREATS 3: a length of 1 to 7, followed by bytes that look like a plain publish.
#[test]
fn a_short_length_before_what_looks_like_a_plain_publish_is_malformed() {
    for length in 1..8_u8 {
        let mut bus = joined();
        let mut bytes = vec![length, 0, 0, 0, 16, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
        bytes.extend([0; 16]);
        let mut actions = Vec::new();
        let taken = bus.core.take(bus.now, 1, &bytes, 1 << 20, &mut actions);
        assert_eq!(taken.rest, Rest::Broken, "{length}: {taken:?}");
    }
}

/// With many subscriptions a chunk of small messages would be seconds of work, in which nobody else is served.
#[test]
fn what_a_turn_does_is_bounded() {
    let mut bus = joined();
    for session in 2..22 {
        bus.operator(session, &format!("s{session}"));
        for number in 1..=100 {
            let frame = Frame::new(number, Content::Subscribe(subscribe("type=a")));
            bus.core.step(bus.now, Event::Frame { session, frame }, &mut bus.actions);
        }
        bus.read(session);
    }
    for (headers, each) in [(["type", "a"], 2000), (["other", "b"], 0)] {
        let all = row(headers, 4000);
        let (mut at, mut turns) = (0, 0);
        while at < all.len() {
            let before = bus.core.delivered + queued(&bus);
            let taken = bus.bytes(1, &all[at..]);
            assert!(bus.core.delivered + queued(&bus) - before <= (WORK_MAX + each) as u64);
            at += taken.bytes;
            turns += 1;
            assert_eq!(taken.rest, if at < all.len() { Rest::Held } else { Rest::Partial });
            (2..22).for_each(|session| drop(bus.output(session)));
            if turns > 20 {
                break;
            }
        }
        assert_eq!(turns > 20, each > 0);
    }
}

fn queued(bus: &Bus) -> u64 {
    bus.core.subscriptions.iter().map(|(_, subscription)| subscription.queue.messages() as u64).sum()
}

/// Filters that match nothing cost as much as those that do.
#[test]
fn filters_that_are_looked_at_are_work_too() {
    let mut bus = joined();
    bus.operator(2, "b");
    for number in 1..=500 {
        let frame = Frame::new(number, Content::Subscribe(subscribe("type=a,user~*zzz*")));
        bus.core.step(bus.now, Event::Frame { session: 2, frame }, &mut bus.actions);
    }
    bus.read(2);
    let all: Vec<u8> = (0..1000).flat_map(|number| row(["type", "a"], 1).into_iter().chain(unique(number))).collect();
    let taken = bus.bytes(1, &all);
    assert_eq!(taken.rest, Rest::Held);
    assert!(taken.bytes < all.len() / 10, "{taken:?}");
}

fn unique(number: usize) -> Vec<u8> {
    let number = number.to_string();
    let document = document(&[("type", "a"), ("remote-id", &number)], "b");
    let publish = Publish { cause: None, hops: 0, epoch: 0, sequence: 0, document };
    Frame::new(0, Content::Publish(publish)).encode()
}

#[test]
fn filters_of_a_uid_are_bounded() {
    let mut bus = joined();
    bus.core.limits.filters_per_uid = 3;
    bus.operator(2, "b");
    let two = Subscribe { filters: vec!["type=a".into(), "type=b".into()], ..subscribe("type=a") };
    bus.subscribe(2, 1, two.clone());
    bus.send(2, 2, Content::Subscribe(two));
    let told = format!("{:?}", bus.read(2));
    for part in ["2 filters", "2 more", "filters-per-uid", "key in (...)"] {
        assert!(told.contains(part), "{part}: {told:?}");
    }
    bus.subscribe(2, 3, subscribe("type=c"));
    bus.send(2, 1, Content::Unsubscribe);
    bus.read(2);
    bus.subscribe(2, 4, Subscribe { filters: vec!["type=a".into(), "type=b".into()], ..subscribe("type=a") });
}

/// What waits behind a socket that takes nothing is as old as what waits in a queue.
#[test]
fn what_waits_behind_a_stuck_reader_expires_too() {
    let mut bus = joined();
    bus.operator(2, "b");
    bus.subscribe(2, 1, Subscribe { max_age_ms: 1000, ..subscribe("type=a") });
    bus.publish(1, &[("type", "a")]);
    let mut unwritten = Chunk::default();
    bus.core.output(bus.now, 2, 1 << 20, &mut unwritten);
    for _ in 0..10 {
        bus.publish(1, &[("type", "a")]);
    }
    bus.pass(Duration::from_secs(3600));
    let seen = bus.seen(2);
    assert!(seen.iter().all(|line| line.contains("gap")), "{seen:?}");
}

struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }
    fn below(&mut self, n: usize) -> usize {
        (self.next() % n as u64) as usize
    }
}

fn some_frame(r: &mut Random, last: &mut u32) -> Vec<u8> {
    let types = ["a", "b", "c"];
    let make = |r: &mut Random| {
        let mut headers = vec![("type".to_owned(), types[r.below(3)].to_owned())];
        if r.below(3) == 0 {
            headers.push(("text".to_owned(), "é".repeat(r.below(120))));
        }
        if r.below(4) == 0 {
            headers.push(("n".to_owned(), r.below(50).to_string()));
        }
        let body = vec![7_u8; [0, 1, 249, 250, 251, 300, 5000][r.below(7)]];
        EncodedDocument::from(&Document { headers: Headers::try_from(headers).unwrap(), body: body.into() })
    };
    let frame = match r.below(20) {
        0..12 => {
            let document = make(r);
            let hops = if r.below(10) == 0 { r.below(20) as u8 } else { 0 };
            let cause = if r.below(10) == 0 { Some(r.next() >> r.below(64)) } else { None };
            let flags = if r.below(10) == 0 { CONFIRM } else { 0 };
            let number = if r.below(2) == 0 { 0 } else { r.below(1000) as u32 };
            Frame { flags, number, content: Content::Publish(Publish { cause, hops, epoch: 0, sequence: 0, document }) }
        }
        12 | 13 => {
            *last += 1;
            let mut asked = subscribe(["type=a", "type in (a,b)", "*", "hops>0", "type=b,n<9", "text"][r.below(6)]);
            asked.overflow = r.below(4) as u8;
            asked.queue_messages = r.below(5) as u32;
            asked.window_messages = r.below(30) as u64;
            asked.max_age_ms = [0, 10, 1000][r.below(3)];
            Frame::new(*last, Content::Subscribe(asked))
        }
        14 => Frame::new(r.below(*last as usize + 1) as u32, Content::Unsubscribe),
        15 | 16 => Frame::new(
            r.below(*last as usize + 1) as u32,
            Content::Grant(Grant { messages: r.next() >> r.below(64), bytes: r.next() >> r.below(64) }),
        ),
        17 => Frame::new(3, Content::Ping(Value { value: 3 })),
        18 => Frame::new(
            r.below(99) as u32,
            Content::Request(Request { deadline_ms: r.next() >> r.below(64), cause: None, hops: 0, document: make(r) }),
        ),
        _ => Frame::new(
            r.below(99) as u32,
            Content::Control(Control { verb: "halt".into(), id: "a".into(), argument: String::new() }),
        ),
    };
    let mut bytes = frame.encode();
    if r.below(40) == 0 {
        for _ in 0..=r.below(2) {
            let at = if r.below(2) == 0 { r.below(bytes.len().min(20)) } else { r.below(bytes.len()) };
            bytes[at] = [0, 1, 250, 251, 252, 253, 255, r.next() as u8][r.below(8)];
        }
    }
    bytes
}

/// Anything in any pieces: no panic, all sums right, for each subscription ids rise and gaps stand between.
#[test]
fn anything_in_any_pieces() {
    for seed in 1..=100_u64 {
        let mut r = Random(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1);
        let mut bus = joined();
        bus.core.direct_bytes = [0, 300, 256 << 10][r.below(3)];
        bus.core.limits.memory_bytes = [40_000, 1 << 28][r.below(2)];
        bus.core.limits.memory_per_uid = bus.core.limits.memory_bytes;
        let mut next_key = 2;
        let mut keys = vec![(1_u64, 0_u32, Vec::new())];
        for _ in 0..200 {
            bus.now.mono += Duration::from_millis(r.below(20) as u64);
            if keys.len() < 4 {
                let ids = ["a", "b", "c", "d"];
                let id = ids[r.below(4)];
                bus.join(next_key, Identity::Operator(id.parse().unwrap()), None);
                keys.push((next_key, 0, Vec::new()));
                next_key += 1;
            }
            let which = r.below(keys.len());
            let (key, last, input) = &mut keys[which];
            for _ in 0..r.below(30) {
                input.extend(some_frame(&mut r, last));
            }
            let upto = if r.below(2) == 0 { input.len() } else { r.below(input.len() + 1) };
            let key = *key;
            let piece = input[..upto].to_vec();
            let mut actions = Vec::new();
            let taken = bus.core.take(bus.now, key, &piece, 1 << 20, &mut actions);
            assert!(taken.bytes <= piece.len());
            keys[which].2.drain(..if taken.rest == Rest::Broken { piece.len() } else { taken.bytes });
            bus.core.check_accounts();
            if r.below(3) == 0 {
                let key = keys[r.below(keys.len())].0;
                let mut out = Chunk::default();
                bus.core.output(bus.now, key, [0, 100, 1 << 20][r.below(3)], &mut out);
                bus.core.check_accounts();
            }
            if r.below(30) == 0 || actions.iter().any(|a| matches!(a, Action::Close(k) if *k == key)) {
                bus.step(Event::Leave { session: key });
                keys.retain(|(known, ..)| *known != key);
            }
            if r.below(20) == 0 {
                bus.step(Event::Tick);
            }
        }
    }
}

fn row([key, value]: [&str; 2], count: usize) -> Vec<u8> {
    let publish = Publish { cause: None, hops: 0, epoch: 0, sequence: 0, document: document(&[(key, value)], "b") };
    Frame::new(0, Content::Publish(publish)).encode().repeat(count)
}

impl Bus {
    fn bytes(&mut self, session: SessionKey, bytes: &[u8]) -> Taken {
        let taken = self.core.take(self.now, session, bytes, 1 << 20, &mut self.actions);
        self.core.check_accounts();
        taken
    }
    fn reload(&mut self, session: SessionKey, id: &str, text: &str) {
        let rules = module(id, text);
        self.operator(99, "asker");
        self.step(Event::ModuleRead { id: id.parse().unwrap(), asker: (99, 1), outcome: Ok(rules) });
        let number = self.output(session).iter().find(|f| matches!(f.content, Content::Reload(_))).unwrap().number;
        self.send(session, number, Content::Verdict(Verdict { accepted: true, text: String::new() }));
        self.read(session);
        self.step(Event::Leave { session: 99 });
    }
}

#[test]
fn rights_reach_rows_of_plain_publishes() {
    let mut bus = Bus::new();
    bus.core.direct_bytes = 256 << 10;
    bus.join(1, Identity::Operator("pub".parse().unwrap()), Some(module("pub", "")));
    bus.join(2, Identity::Operator("sub".parse().unwrap()), Some(module("sub", "")));
    bus.subscribe(2, 1, subscribe("type=x"));
    bus.subscribe(2, 2, subscribe("type in (x,y)"));
    bus.bytes(1, &row(["type", "x"], 5));
    assert_eq!(bus.seen(2).len(), 10);
    bus.reload(2, "sub", "[bus]\nmay-receive = [\"type=y\"]\n");
    bus.bytes(1, &row(["type", "x"], 5));
    assert_eq!(bus.seen(2).len(), 0);
    bus.reload(2, "sub", "");
    bus.bytes(1, &row(["type", "x"], 5));
    assert_eq!(bus.seen(2).len(), 10);
    bus.reload(1, "pub", "[bus]\nmay-publish = [\"type=y\"]\n");
    bus.bytes(1, &row(["type", "x"], 5));
    assert_eq!(bus.seen(2).len(), 0);
    assert_eq!(bus.read(1).len(), 5, "each is denied");
    bus.reload(1, "pub", "");
    bus.bytes(1, &row(["type", "x"], 5));
    assert_eq!(bus.seen(2).len(), 10);
    bus.core.set_halted(bus.now, &"sub".parse().unwrap(), true);
    bus.bytes(1, &row(["type", "x"], 5));
    assert_eq!(bus.seen(2).len(), 0);
    bus.core.set_halted(bus.now, &"sub".parse().unwrap(), false);
    bus.bytes(1, &row(["type", "x"], 5));
    let seen = bus.delivered(2);
    assert_eq!(seen.len(), 20);
    // Slot reuse: another session takes the slot.
    bus.send(2, 1, Content::Unsubscribe);
    bus.send(2, 2, Content::Unsubscribe);
    bus.read(2);
    bus.join(3, Identity::Operator("other".parse().unwrap()), Some(module("other", "[bus]\nmay-receive = []\n")));
    bus.subscribe(3, 1, subscribe("type=x"));
    bus.subscribe(3, 2, subscribe("type=z"));
    bus.bytes(1, &row(["type", "x"], 5));
    assert_eq!((bus.seen(2).len(), bus.seen(3).len()), (0, 0));
}
