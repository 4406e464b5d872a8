//! What nobody can exceed, and what every account counts.

use super::*;

#[test]
fn limits_on_subscriptions_filters_and_memory() {
    let mut bus = Bus::new();
    bus.operator(1, "a");
    for number in 1..=512 {
        bus.subscribe(1, number, subscribe("type=x"));
    }
    bus.send(1, 513, Content::Subscribe(subscribe("type=x")));
    let Content::Error(refusal) = &bus.read(1)[0] else { panic!() };
    assert_eq!((Code::from_number(refusal.code), refusal.limit, refusal.value), (Code::Quota, Some(512), Some(513)));
    bus.send(1, 1, Content::Unsubscribe);
    bus.read(1);
    let many = (0..33).map(|i| format!("k{i}=v")).collect::<Vec<_>>().join(",");
    bus.send(1, 514, Content::Subscribe(subscribe(&many)));
    assert_eq!(code(&bus.read(1)[0]), Code::FilterTooLarge);
    bus.send(1, 515, Content::Subscribe(subscribe("type=")));
    assert_eq!(code(&bus.read(1)[0]), Code::BadFilter);
    bus.send(1, 3, Content::Subscribe(subscribe("type=x")));
    assert_eq!(code(&bus.read(1)[0]), Code::Quota, "a number is never used again");
    bus.core.limits.memory_bytes = 100;
    assert_eq!(code(&bus.publish(1, &[("type", "x")])), Code::Memory);
    bus.step(Event::Leave { session: 1 });
    assert_eq!((bus.core.memory, bus.core.subscriptions.len()), (0, 0));
}

/// Whatever waits anywhere is counted, and nothing is left when it is gone.
#[test]
fn all_that_waits_is_counted_as_memory() {
    let mut bus = Bus::new();
    bus.operator(1, "a");
    bus.operator(2, "b");
    assert_eq!(bus.core.memory, 0);
    bus.subscribe(2, 1, Subscribe { window_messages: 0, ..subscribe("type=x") });
    let one = bus.core.memory;
    for number in 2..=100 {
        bus.subscribe(2, number, Subscribe { window_messages: 0, ..subscribe("type=x") });
    }
    assert!(bus.core.memory >= 100 * one / 2 && one > 1000, "{one}, {}", bus.core.memory);
    let before = bus.core.memory;
    bus.publish(1, &[("type", "x")]);
    let places = bus.core.memory - before;
    assert!(places > 100 * size_of::<queue::Waiting>(), "one message in a hundred queues takes {places}");
    bus.send(2, 1, Content::Unsubscribe);
    bus.read(2);
    bus.step(Event::Leave { session: 2 });
    assert_eq!(bus.core.memory, 0);
}

#[test]
fn every_end_of_a_message_gives_its_memory_back() {
    for overflow in 1..=3 {
        let mut bus = Bus::new();
        bus.operator(1, "a");
        bus.operator(2, "b");
        let small = Subscribe { queue_messages: 2, window_messages: 1, overflow, max_age_ms: 5, ..subscribe("type=x") };
        bus.subscribe(2, 1, small.clone());
        bus.subscribe(2, 2, Subscribe { queue_bytes: 10, ..small });
        for _ in 0..4 {
            bus.publish(1, &[("type", "x")]);
        }
        let waits = bus.core.memory;
        bus.pass(Duration::from_secs(1));
        bus.send(2, 1, Content::Grant(Grant { messages: 10, bytes: 0 }));
        bus.read(2);
        assert!(bus.core.memory < waits);
        bus.step(Event::Leave { session: 2 });
        assert_eq!(bus.core.memory, 0, "policy {overflow}");
    }
}

#[test]
fn an_asker_that_does_not_read_fills_nothing() {
    let mut bus = Bus::new();
    bus.core.limits.queue_bytes = 10_000;
    bus.operator(1, "asker");
    bus.operator(2, "knows");
    bus.subscribe(2, 1, subscribe("type=q"));
    let body = "x".repeat(4000);
    for number in 1..=5 {
        let document = document(&[("type", "q")], "");
        bus.send(1, number, Content::Request(Request { deadline_ms: 1000, cause: None, hops: 0, document }));
    }
    let asked = bus.delivered(2);
    assert_eq!(asked.len(), 5);
    for (number, question) in (1..).zip(asked) {
        let address = question.reply_address.unwrap();
        bus.send(2, number, Content::Reply(Reply { address, document: document(&[], &body) }));
    }
    let answers = bus.read(2);
    assert_eq!(answers[..2], [Content::Ok, Content::Ok]);
    assert_eq!(code(&answers[2]), Code::Memory);
    assert!(bus.core.owed < 20_000, "{}", bus.core.owed);
    let got = bus.read(1);
    assert_eq!(got.iter().filter(|content| matches!(content, Content::Response(_))).count(), 2);
    assert_eq!(code(got.last().unwrap()), Code::Memory);
    bus.step(Event::Leave { session: 2 });
    bus.step(Event::Leave { session: 1 });
    assert_eq!((bus.core.memory, bus.core.owed), (0, 0));
}

#[test]
fn frames_that_are_not_whole_are_counted_too() {
    let mut bus = Bus::new();
    bus.operator(1, "a");
    bus.operator(2, "b");
    bus.core.limits.memory_bytes = 1 << 20;
    bus.core.count_input(1, 800_000);
    bus.core.count_input(1, 1 << 20);
    assert!(bus.core.has_room());
    bus.send(1, 1, Content::Ping(Value { value: 1 }));
    assert!(!bus.core.has_room());
    bus.read(1);
    assert!(bus.core.has_room());
    bus.send(2, 1, Content::Subscribe(subscribe("*")));
    assert_eq!(code(&bus.read(2)[0]), Code::Memory);
    bus.step(Event::Leave { session: 1 });
    bus.subscribe(2, 2, subscribe("*"));
    bus.step(Event::Leave { session: 2 });
    assert_eq!((bus.core.memory, bus.core.owed), (0, 0));
}

#[test]
fn a_session_has_few_verbs_under_way_at_a_time() {
    let mut bus = Bus::new();
    bus.join(1, Identity::Person { name: "ann".into(), admin: false }, None);
    for number in 1..=8 {
        bus.send(1, number, control("status", ""));
    }
    assert_eq!(bus.read(1), []);
    bus.send(1, 9, control("status", ""));
    assert_eq!(code(&bus.read(1)[0]), Code::Quota);
    bus.step(Event::Answered { session: 1, number: 1, outcome: Ok(Some("[]".into())) });
    assert!(matches!(bus.read(1)[..], [Content::Answer(_)]));
    bus.send(1, 10, control("status", ""));
    assert_eq!(bus.read(1), []);
}

#[test]
fn status_fits_a_frame_whatever_an_operator_subscribes_to() {
    let mut bus = Bus::new();
    bus.core.limits.memory_per_uid = bus.core.limits.memory_bytes;
    bus.operator(1, "hoarder");
    let long = format!("channel in ({})", (0..200).map(|n| n.to_string()).collect::<Vec<_>>().join(","));
    for number in 1..=512 {
        bus.subscribe(1, number, Subscribe { filters: vec![long.clone(); 8], ..subscribe("*") });
    }
    let id: OperatorId = "hoarder".parse().unwrap();
    let status = bus.core.status(None).unwrap();
    assert!(status.len() <= bus.core.limits.frame_bytes, "{}", status.len());
    assert_eq!(bus.status(&id)["connected"], true);
}

#[test]
fn what_the_bus_itself_cannot_tell_for_want_of_memory_is_a_gap() {
    let mut bus = Bus::new();
    bus.operator(1, "watch");
    bus.subscribe(1, 1, subscribe("type=operator.state"));
    bus.core.limits.memory_bytes = 100;
    bus.operator(2, "irc");
    assert_eq!(bus.seen(1), ["1:gap 2-2 Some(1)"]);
}

#[test]
fn the_number_of_an_ended_subscription_is_never_used_again() {
    let mut bus = Bus::new();
    bus.operator(1, "a");
    bus.subscribe(1, 5, subscribe("*"));
    bus.send(1, 5, Content::Unsubscribe);
    assert_eq!(bus.read(1), [Content::Ok]);
    bus.send(1, 5, Content::Subscribe(subscribe("*")));
    assert_eq!(code(&bus.read(1)[0]), Code::Quota);
}
