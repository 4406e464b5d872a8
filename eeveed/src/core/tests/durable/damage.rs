//! Rows that went bad on the disk: each is told once, and the counts stay right, whatever happens meanwhile.

use super::*;

/// A bus with three messages on disk for dice, which is away.
fn waiting() -> (Durable, Vec<u64>) {
    let mut all = Durable::with_irc_and_dice();
    all.subscribe(2, 1, durable("type=chat.message", "all"));
    all.leave(2);
    let ids = (0..3).map(|_| match all.publish(1, CHAT) {
        Content::Published(published) => published.id,
        other => panic!("{other:?}"),
    });
    let ids = ids.collect();
    all.bus.operator(2, "dice");
    (all, ids)
}

fn ends_empty(all: &mut Durable, ids: &[u64]) {
    for id in ids {
        all.ack(2, 1, *id);
    }
    assert!(all.seen(2).is_empty());
    assert_eq!((all.queue()["messages"].clone(), all.queue()["bytes"].clone()), (0.into(), 0.into()));
    let recovered = all.store.reopen(all.bus.now.wall);
    assert_eq!((recovered.subscriptions[0].messages, recovered.subscriptions[0].dead), (0, 0));
}

#[test]
fn one_that_was_found_in_vain_is_told_all_the_same() {
    for without_room in [false, true] {
        let (mut all, ids) = waiting();
        all.store.spoil(ids[1]);
        all.bus.send(2, 1, Content::Subscribe(durable("type=chat.message", "all")));
        all.bus.core.take_actions(&mut all.bus.actions);
        let load = all.bus.actions.iter().find_map(|action| match action {
            Action::Load { durable, generation, after, messages, bytes } => {
                Some((*durable, *generation, *after, *messages as u64, *bytes))
            }
            _ => None,
        });
        let (durable_key, generation, after, messages, bytes) = load.expect("a page is asked for");
        all.bus.actions.clear();
        let page = all.store.load(durable_key, after, messages, bytes);
        assert_eq!(page.as_ref().unwrap().damaged.len(), 1);
        let memory = all.bus.core.limits.memory_bytes;
        if without_room {
            all.bus.core.limits.memory_bytes = all.bus.core.memory;
        } else {
            all.bus.step(Event::Leave { session: 2 });
        }
        all.bus.step(Event::Loaded { durable: durable_key, generation, page });
        all.bus.core.limits.memory_bytes = memory;
        if !without_room {
            all.bus.operator(2, "dice");
            all.bus.send(2, 1, Content::Subscribe(durable("type=chat.message", "all")));
        }
        all.bus.pass(Duration::from_secs(2));
        all.settle();
        let mut seen = all.seen(2);
        seen.sort();
        assert_eq!(seen, [format!("{}.1", ids[0]), format!("{}.1", ids[2]), gap(ids[1])], "room {without_room}");
        ends_empty(&mut all, &[ids[0], ids[2]]);
    }
}

#[test]
fn one_that_is_done_with_already_is_not_counted_again() {
    for dead in [false, true] {
        let (mut all, ids) = waiting();
        all.subscribe(2, 1, durable("type=chat.message", "all"));
        assert_eq!(all.seen(2).len(), 3);
        all.store.spoil(ids[0]);
        // Before the disk knows of it, another session begins, and all is loaded again.
        if dead {
            all.bus.send(2, 1, Content::Nack(Nack { id: ids[0], dead, delay_ms: 0, reason: String::new() }));
        } else {
            all.bus.send(2, 1, Content::Ack(Ack { id: ids[0] }));
        }
        all.bus.step(Event::Leave { session: 2 });
        all.bus.operator(2, "dice");
        all.subscribe(2, 1, durable("type=chat.message", "all"));
        let told =
            all.seen(2).into_iter().filter(|seen| seen.ends_with(&format!("r{}", libeevee::GapReason::Damaged as u8)));
        assert_eq!(told.collect::<Vec<_>>(), Vec::<String>::new());
        ends_empty(&mut all, &ids[1..]);
        assert_eq!(all.queue()["dead"], 0);
    }
}

fn gap(id: u64) -> String {
    format!("gap {id}-{id} Some(1) r{}", libeevee::GapReason::Damaged as u8)
}
