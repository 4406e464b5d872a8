//! Messages: matched, delivered in order, told when lost, answered, bounded by credit.

use std::cell::Cell;
use std::rc::Rc;

use proptest::prelude::*;

use super::*;

#[test]
fn a_message_goes_to_whom_it_matches_once_a_subscription() {
    let mut bus = Bus::new();
    bus.operator(1, "irc");
    bus.operator(2, "dice");
    bus.operator(3, "log");
    bus.subscribe(2, 1, subscribe("type=chat.message,command=dice"));
    let two = Subscribe { filters: vec!["type=chat.message".into(), "channel=#a".into()], ..subscribe("*") };
    bus.subscribe(3, 1, two);
    let answer = bus.publish(1, &[("type", "chat.message"), ("channel", "#a"), ("command", "dice")]);
    assert_eq!(answer, Content::Published(Published { id: 4, live: 2, durable: 0 }));
    assert_eq!(bus.seen(2), ["1:4 from irc"]);
    assert_eq!(bus.seen(3), ["1:4 from irc"]);
    assert_eq!(bus.publish(1, &[("type", "other")]), Content::Published(Published { id: 5, live: 0, durable: 0 }));
    assert_eq!(bus.core.unrouted, 1);
    bus.step(Event::Leave { session: 2 });
    bus.step(Event::Leave { session: 3 });
    assert_eq!(bus.core.memory, 0);
}

#[test]
fn a_slow_subscriber_is_told_exactly_what_it_lost_and_delays_nobody() {
    let mut bus = Bus::new();
    bus.operator(1, "irc");
    bus.operator(2, "slow");
    bus.operator(3, "fast");
    bus.subscribe(2, 1, Subscribe { queue_messages: 3, ..subscribe("*") });
    bus.subscribe(3, 1, subscribe("type=x"));
    for _ in 0..5 {
        bus.publish(1, &[("type", "x")]);
        assert_eq!(bus.seen(3).len(), 1);
    }
    assert_eq!(bus.seen(2), ["1:gap 4-5 Some(2)", "1:6 from irc", "1:7 from irc", "1:8 from irc"]);
    bus.step(Event::Leave { session: 2 });
    bus.step(Event::Leave { session: 3 });
    assert_eq!(bus.core.memory, 0);
}

#[test]
fn the_window_holds_deliveries_and_a_grant_lets_them_go() {
    let mut bus = Bus::new();
    bus.operator(1, "irc");
    bus.operator(2, "dice");
    bus.subscribe(2, 7, Subscribe { window_messages: 2, ..subscribe("type=x") });
    for _ in 0..4 {
        bus.publish(1, &[("type", "x")]);
    }
    assert_eq!(bus.seen(2).len(), 2);
    bus.send(2, 7, Content::Grant(Grant { messages: 1, bytes: 0 }));
    assert_eq!(bus.seen(2).len(), 1);
    bus.send(2, 7, Content::Grant(Grant { messages: 100, bytes: 0 }));
    assert_eq!(bus.seen(2).len(), 1);
}

#[test]
fn answers_to_answers_end_at_sixteen() {
    let mut bus = Bus::new();
    bus.operator(1, "a");
    let mut cause = None;
    for depth in 0..20 {
        match bus.publish_as(1, cause, 0, &[("type", "x")]) {
            Content::Published(published) => cause = Some(published.id),
            error => {
                assert_eq!((depth, code(&error)), (17, Code::Loop));
                return;
            }
        }
    }
    panic!("the loop went on");
}

#[test]
fn volatile_filters_are_matched_for_every_message() {
    let mut bus = Bus::new();
    bus.operator(1, "a");
    bus.operator(2, "b");
    bus.subscribe(2, 1, subscribe("hops>0"));
    bus.subscribe(2, 2, subscribe("source=a,type=x"));
    let Content::Published(first) = bus.publish(1, &[("type", "x")]) else { panic!() };
    bus.publish_as(1, Some(first.id), 0, &[("type", "x")]);
    let mut seen = bus.seen(2);
    seen.sort();
    assert_eq!(seen, ["1:4 from a", "2:3 from a", "2:4 from a"].map(String::from));
}

#[test]
fn ids_run_out_only_when_nothing_more_was_reserved() {
    let mut bus = Bus::new();
    bus.core.ids = 10..12;
    bus.operator(1, "a"); // operator.state takes one.
    assert!(bus.actions.iter().any(|action| matches!(action, Action::ReserveIds)));
    assert!(matches!(bus.publish(1, &[("type", "x")]), Content::Published(Published { id: 11, .. })));
    assert_eq!(code(&bus.publish(1, &[("type", "x")])), Code::Storage);
    bus.step(Event::Ids(20));
    assert!(matches!(bus.publish(1, &[("type", "x")]), Content::Published(Published { id: 12, .. })));
}

#[test]
fn the_first_message_waits_for_ids_and_a_subscription_does_not() {
    let mut bus = Bus::new();
    bus.core.ids = 1000..1000;
    let waited = Rc::new(Cell::new(0));
    bus.core.expect_ids({
        let waited = waited.clone();
        move || {
            waited.set(waited.get() + 1);
            1 << 40
        }
    });
    let person = || Identity::Person { name: "ann".into(), admin: false };
    bus.join(1, person(), None);
    bus.subscribe(1, 1, subscribe("type=x"));
    assert_eq!(waited.get(), 0);
    for id in [1000, 1001] {
        bus.publish(1, &[("type", "x")]);
        assert_eq!(bus.core.last_id(), id);
        bus.step(Event::Ids(1 << 40));
        assert_eq!(waited.get(), 1);
    }
    assert!(!bus.actions.iter().any(|action| matches!(action, Action::ReserveIds)));
    // The disk refuses: a message is, too, and the disk is asked again.
    bus.core.ids = 2000..2000;
    bus.core.expect_ids(|| 0);
    assert_eq!(code(&bus.publish(1, &[("type", "x")])), Code::Storage);
    assert_eq!(code(&bus.publish(1, &[("type", "x")])), Code::Storage);
    assert!(bus.actions.iter().any(|action| matches!(action, Action::ReserveIds)));
    bus.step(Event::Ids(1 << 40));
    assert!(matches!(bus.publish(1, &[("type", "x")]), Content::Published(_)));
}

#[test]
fn a_request_is_answered_once_by_a_receiver_or_ends_at_its_deadline() {
    let mut bus = Bus::new();
    bus.operator(1, "asker");
    bus.operator(2, "knows");
    bus.operator(3, "other");
    let ask = |document| Content::Request(Request { deadline_ms: 1000, cause: None, hops: 0, document });
    bus.send(1, 5, ask(document(&[("type", "q")], "")));
    assert_eq!(code(&bus.read(1)[0]), Code::NoResponder);
    bus.subscribe(2, 1, subscribe("type=q"));
    bus.send(1, 6, ask(document(&[("type", "q")], "")));
    let address = bus.delivered(2)[0].reply_address.unwrap();
    let reply = || Content::Reply(Reply { address, document: document(&[], "42") });
    bus.send(3, 1, reply());
    assert_eq!(code(&bus.read(3)[0]), Code::NotFound, "only a receiver may answer");
    bus.send(2, 2, reply());
    assert_eq!(bus.read(2), [Content::Ok]);
    assert!(matches!(&bus.read(1)[..], [Content::Response(r)] if r.source == "knows"));
    bus.send(2, 3, reply());
    assert_eq!(code(&bus.read(2)[0]), Code::NotFound, "only once");
    bus.send(1, 7, ask(document(&[("type", "q")], "")));
    assert_eq!(bus.core.deadline(), Some(Duration::from_secs(1)));
    bus.pass(Duration::from_secs(1));
    assert_eq!(code(&bus.read(1)[0]), Code::Deadline);
    assert_eq!(bus.core.deadline(), None);
}

#[test]
fn credit_is_granted_back_and_overdrawing_ends_the_session() {
    let mut bus = Bus::new();
    bus.core.limits.credit_messages = 4;
    bus.operator(1, "a");
    let publish = || {
        Content::Publish(Publish {
            cause: None,
            hops: 0,
            epoch: 0,
            sequence: 0,
            document: document(&[("type", "x")], ""),
        })
    };
    bus.send(1, 0, publish());
    assert_eq!(bus.read(1), []);
    bus.send(1, 0, publish());
    assert!(matches!(bus.read(1)[..], [Content::Grant(Grant { messages: 2, .. })]));
    let rate = "[bus]\nrate = { per-second = 10, burst = 2 }\n";
    bus.join(2, Identity::Operator("b".parse().unwrap()), Some(module("b", rate)));
    bus.send(2, 0, publish());
    bus.send(2, 0, publish());
    assert_eq!(bus.read(2), []);
    bus.pass(Duration::from_millis(100));
    assert!(matches!(bus.read(2)[..], [Content::Grant(Grant { messages: 1, .. })]));
    bus.send(2, 0, publish());
    bus.send(2, 3, publish());
    assert_eq!(code(&bus.read(2)[0]), Code::Credit);
}

fn small_filters() -> impl Strategy<Value = Filter> {
    let key = prop::sample::select(vec!["a", "b", "c", "source"]);
    let value = prop::sample::select(vec!["1", "2", "3", "x"]);
    let clause = (key, value.clone(), value, 0..8).prop_map(|(key, one, two, kind)| {
        let key = key.to_owned();
        let values = || if one == two { vec![one.to_owned()] } else { vec![one.to_owned(), two.to_owned()] };
        match kind {
            0 | 1 => Clause::Equals { key, value: one.into() },
            2 => Clause::NotEquals { key, value: one.into() },
            3 => Clause::In { key, values: values() },
            4 => Clause::NotIn { key, values: values() },
            5 => Clause::Exists { key },
            6 => Clause::Absent { key },
            _ => Clause::Glob { key, pattern: libeevee::filter::Glob::literal(one) },
        }
    });
    prop::collection::vec(clause, 0..4).prop_map(|clauses| {
        clauses.into_iter().fold(Filter::builder(), |builder, clause| builder.clause(clause)).build().unwrap()
    })
}

proptest! {
    /// The index finds just what looking at every filter finds, whatever was inserted and removed.
    #[test]
    fn the_index_equals_the_naive_matcher(
        subscriptions in prop::collection::vec(prop::collection::vec(small_filters(), 1..3), 0..30),
        removed in prop::collection::vec(any::<prop::sample::Index>(), 0..10),
        messages in prop::collection::vec(prop::collection::btree_map("[abc]", "[123x]", 0..4), 1..10),
        source in prop::sample::select(vec!["1", "x", "other"]),
    ) {
        let mut index = Index::default();
        let subscriptions = subscriptions.into_iter().map(Rc::from);
        let mut naive: Vec<(Slot, Rc<[Filter]>)> = (0..).zip(subscriptions).collect();
        for (slot, filters) in &naive {
            index.insert(*slot, filters);
        }
        for removed in removed {
            if !naive.is_empty() {
                let (slot, _) = naive.remove(removed.index(naive.len()));
                index.remove(slot);
            }
        }
        for message in messages {
            let pairs: Vec<(&str, &str)> = message.iter().map(|(k, v)| (k.as_str(), v.as_str())).collect();
            let document = document(&pairs, "");
            let view = View::new(1, source, 2, None, 0, document.view());
            let expected: Vec<Slot> = naive
                .iter()
                .filter(|(_, filters)| filters.iter().any(|filter| filter.matches(&view)))
                .map(|(slot, _)| *slot)
                .collect();
            prop_assert_eq!(index.find(&view, &mut 0).into_vec(), expected);
        }
    }
}

/// Beyond what is delivered directly the rest waits in the queue. It comes piece by piece, each in its place, and what is
/// written is counted no longer.
#[test]
fn what_waits_in_pieces_and_in_a_queue_comes_in_order() {
    let mut bus = Bus::new();
    bus.core.direct_bytes = 300 << 10;
    bus.operator(1, "irc");
    bus.operator(2, "dice");
    bus.subscribe(2, 1, subscribe("*"));
    let (own_memory, body) = (bus.core.memory, "x".repeat(1000));
    for number in 0..500 {
        bus.numbers += 1;
        let document = document(&[("number", &number.to_string())], &body);
        let publish = Publish { cause: None, hops: 0, epoch: 0, sequence: 0, document };
        let frame = Frame::new(bus.numbers, Content::Publish(publish));
        bus.step(Event::Frame { session: 1, frame });
    }
    assert!(bus.core.owed > 300 << 10 && bus.core.memory > 100 << 10, "{} {}", bus.core.owed, bus.core.memory);
    let (mut all, mut pieces) = (Vec::new(), Vec::new());
    loop {
        let mut piece = Chunk::default();
        let more = bus.core.output(bus.now, 2, PIECE_BYTES, &mut piece);
        bus.core.check_accounts();
        all.extend_from_slice(&piece);
        pieces.push(piece.len());
        if !more {
            break;
        }
    }
    bus.core.output(bus.now, 2, 0, &mut Chunk::default());
    assert_eq!((bus.core.owed, bus.core.memory), (0, own_memory));
    assert!(pieces.iter().all(|bytes| *bytes > 0 && *bytes < PIECE_BYTES + 2000), "{pieces:?}");
    let mut bytes = BytesMut::from(&all[..]);
    let frames = std::iter::from_fn(|| split_frame(&mut bytes, 1 << 20).unwrap());
    let ids: Vec<u64> = frames
        .filter_map(|frame| match Frame::decode(frame).unwrap().unwrap().content {
            Content::Deliver(deliver) => Some(deliver.id),
            _ => None,
        })
        .collect();
    assert_eq!(ids.len(), 500);
    assert!(ids.windows(2).all(|pair| pair[1] == pair[0] + 1), "{ids:?}");
}
