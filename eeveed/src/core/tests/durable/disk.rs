//! A disk that takes nothing, and what a commit costs.

use super::*;

#[test]
fn a_full_disk_is_told_to_publishers_and_heals() {
    let mut all = Durable::with_irc_and_dice();
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
    let mut all = Durable::with_irc_and_dice();
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
    let mut all = Durable::with_irc_and_dice();
    all.subscribe(2, 1, durable("type=chat.message", "all"));
    let ids: Vec<u64> = (0..4).map(|_| all.chat()).collect();
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
fn a_redelivery_waits_for_a_disk_that_is_full() {
    let mut all = Durable::with_irc_and_dice();
    all.subscribe(2, 1, durable("type=chat.message", "all"));
    let id = all.chat();
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
fn what_waits_behind_a_batch_that_the_disk_refuses_is_refused_with_it() {
    let mut disk = Durable::with_irc_and_dice();
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

/// A disk that hangs: the next run would not know that it owes an answer, so that the session has to ask again.
#[test]
fn a_session_that_waits_for_the_disk_is_not_handed_over() {
    let mut disk = Durable::with_irc_and_dice();
    disk.subscribe(2, 1, durable("type=chat.message", "commands"));
    let document = document(CHAT, "body");
    let publish = Publish { cause: None, hops: 0, epoch: 0, sequence: 0, document };
    disk.bus.step(Event::Frame {
        session: 1,
        frame: Frame { flags: CONFIRM, number: 201, content: Content::Publish(publish) },
    });
    disk.bus.send(2, 7, Content::Subscribe(durable("type=log.line", "lines")));
    assert!(!disk.bus.core.is_lasting(1) && !disk.bus.core.is_lasting(2));
    let batch = disk.bus.core.take_batch(disk.bus.now).unwrap();
    assert!(!disk.bus.core.is_lasting(1) && !disk.bus.core.is_lasting(2));
    let outcome = disk.commit(&batch);
    disk.bus.step(Event::Stored(outcome));
    assert!(disk.bus.core.is_lasting(1) && disk.bus.core.is_lasting(2));
}
