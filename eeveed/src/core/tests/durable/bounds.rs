//! What a subscription may hold, how long, for whom, and that nothing of it stays behind.

use super::*;

#[test]
fn a_full_queue_does_what_its_policy_says() {
    let bounded = |overflow: Overflow| Subscribe {
        queue_messages: 2,
        overflow: overflow as u8,
        ..durable("type=chat.message", "all")
    };
    for attached in [true, false] {
        let mut all = Durable::with_irc_and_dice();
        all.subscribe(2, 1, Subscribe { window_messages: 0, ..bounded(Overflow::DropOldest) });
        if !attached {
            all.leave(2);
        }
        let ids: Vec<u64> = (0..4).map(|_| all.chat()).collect();
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
    let mut all = Durable::with_irc_and_dice();
    all.subscribe(2, 1, bounded(Overflow::Reject));
    all.publish(1, CHAT);
    all.publish(1, CHAT);
    let refused = all.publish(1, CHAT);
    assert_eq!(code(&refused), Code::Full);
    let mut all = Durable::with_irc_and_dice();
    all.subscribe(2, 1, Subscribe { window_messages: 0, ..bounded(Overflow::DropNewest) });
    let ids: Vec<Content> = (0..3).map(|_| all.publish(1, CHAT)).collect();
    let Content::Published(last) = &ids[2] else { panic!() };
    assert_eq!(all.seen(2), [format!("gap {0}-{0} Some(1) r1", last.id)]);
}

#[test]
fn what_waited_too_long_is_told_and_not_delivered() {
    for attached in [true, false] {
        let mut all = Durable::with_irc_and_dice();
        let aged = Subscribe { max_age_ms: 60_000, ..durable("type=chat.message", "all") };
        all.subscribe(2, 1, Subscribe { window_messages: 0, ..aged.clone() });
        if !attached {
            all.leave(2);
        }
        let id = all.chat();
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
    let mut all = Durable::with_irc_and_dice();
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
