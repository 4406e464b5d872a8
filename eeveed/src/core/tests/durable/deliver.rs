//! What is delivered, once more, and in the end as a dead letter.

use super::*;

#[test]
fn it_collects_while_nobody_is_there_and_delivers_in_order() {
    let mut all = Durable::with_irc_and_dice();
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
    let mut all = Durable::with_irc_and_dice();
    all.subscribe(2, 1, durable("*", "all"));
    let id = all.chat();
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
fn no_crash_makes_a_count_of_deliveries_too_low() {
    let mut all = Durable::with_irc_and_dice();
    all.subscribe(2, 1, durable("type=chat.message", "all"));
    let id = all.chat();
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
fn a_dead_letter_is_told_and_can_be_tried_again() {
    let mut all = Durable::with_irc_and_dice();
    all.subscribe(2, 1, durable("type=chat.message", "all"));
    let id = all.chat();
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

#[test]
fn a_retry_is_recognised_also_after_a_crash() {
    let mut all = Durable::with_irc_and_dice();
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
