//! Acknowledgements and refusals, also such as come right behind the subscribe.

use super::*;

#[test]
fn an_acknowledgement_behind_the_subscribe_after_a_crash_is_taken() {
    let mut all = Durable::with_irc_and_dice();
    all.subscribe(2, 1, durable("type=chat.message", "all"));
    let id = all.chat();
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
    let mut all = Durable::with_irc_and_dice();
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

/// A commit costs a sync, and what is wanted of the disk waits for it.
#[test]
fn acknowledgements_wait_for_others_a_while() {
    let mut all = Durable::with_irc_and_dice();
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
fn a_refusal_behind_the_subscribe_is_taken_too() {
    for crashes in [false, true] {
        let mut all = Durable::with_irc_and_dice();
        all.subscribe(2, 1, durable("type=chat.message", "all"));
        let ids: Vec<u64> = (0..3).map(|_| all.chat()).collect();
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
