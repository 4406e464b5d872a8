//! Subscriptions: options, windows and grants, slow users, endings.

use std::time::Duration;

use futures_util::StreamExt;

use super::*;
use crate::client::{Client, Event, Notice, Subscription};
use crate::error::ErrorKind;
use crate::filter::Filter;
use crate::message::{Delivery, Gap, GapReason};
use crate::wire::{Code, Content, Deliver, GapNotice, Grant, Overflow};

async fn open(client: &Client, peer: &mut Peer, window: u64) -> (Subscription, u32) {
    let script = async {
        let (number, _) = peer.subscribe().await;
        peer.send(number, Content::Ok).await;
        number
    };
    let (subscription, number) = tokio::join!(client.subscribe("*").window(window, 1 << 20), script);
    (subscription.unwrap(), number)
}

async fn message(subscription: &mut Subscription) -> u64 {
    match soon("a message", subscription.next()).await {
        Some(Event::Message(message)) => message.id,
        other => panic!("not a message: {other:?}"),
    }
}

#[tokio::test]
async fn options_go_along_and_numbers_are_new() {
    let bus = Bus::new();
    let (client, mut peer) = bus.connected(welcome()).await;
    let script = async {
        let (first, subscribe) = peer.subscribe().await;
        assert_eq!(subscribe.filters, ["type=a", "type=b"]);
        assert_eq!((subscribe.overflow, subscribe.max_age_ms), (Overflow::DropNewest as u8, 300_000));
        assert_eq!((subscribe.queue_messages, subscribe.queue_bytes), (5, 6));
        assert_eq!((subscribe.window_messages, subscribe.window_bytes), (16_384, 4 << 20));
        peer.send(first, Content::Ok).await;
        let (second, subscribe) = peer.subscribe().await;
        assert!(second > first && first > 0);
        assert_eq!(subscribe.filters, ["type=c,!bot"]);
        peer.send(second, Content::Ok).await;
    };
    let all = async {
        let options = client.subscribe(["type=a", "type=b"]).overflow(Overflow::DropNewest);
        let first = options.queue(5, 6).max_age(Duration::from_secs(300)).await.unwrap();
        let filter: Filter = "type=c,!bot".parse().unwrap();
        (first, client.subscribe(filter).await.unwrap())
    };
    let ((_first, _second), ()) = tokio::join!(all, script);
}

#[tokio::test]
async fn a_refused_filter_is_an_error_and_no_subscription() {
    let bus = Bus::new();
    let (client, mut peer) = bus.connected(welcome()).await;
    let script = async {
        let (number, _) = peer.subscribe().await;
        peer.send(number, refusal(Code::BadFilter, "column 3: expected a value")).await;
    };
    let (refused, ()) = tokio::join!(client.subscribe("a="), script);
    let error = refused.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Refused(Code::BadFilter));
    assert!(error.to_string().contains("column 3"), "{error}");
    let none = client.subscribe(Vec::<String>::new()).await.unwrap_err();
    assert_eq!(none.kind(), ErrorKind::Invalid);
    assert!(peer.is_silent().await, "nothing to unsubscribe");
}

#[tokio::test]
async fn messages_and_gaps_come_in_order() {
    let bus = Bus::new();
    let (client, mut peer) = bus.connected(welcome()).await;
    let (mut subscription, number) = open(&client, &mut peer, 256).await;
    peer.deliver(number, 1001, "one").await;
    peer.send(number, Content::Gap(GapNotice { first: 1002, last: 1009, count: Some(3), reason: 1 })).await;
    peer.deliver(number, 1010, "two").await;
    // For nobody: that subscription ended while this was on its way.
    peer.deliver(number + 7, 1011, "for nobody").await;
    let Some(Event::Message(one)) = subscription.next().await else { panic!() };
    assert_eq!((one.id, &*one.source, one.text()), (1001, "irc", Some("one")));
    assert_eq!(one.header("type"), Some("test"));
    let gap = Gap { first: 1002, last: 1009, count: Some(3), reason: GapReason::QueueFull };
    assert_eq!(subscription.next().await, Some(Event::Gap(gap)));
    // As a Stream, too.
    let two = StreamExt::next(&mut subscription).await.and_then(Event::message).unwrap();
    assert_eq!(two.text(), Some("two"));
    assert_eq!(subscription.try_next(), None);
}

#[tokio::test]
async fn grants_follow_what_the_user_takes() {
    let bus = Bus::new();
    let (client, mut peer) = bus.connected(welcome()).await;
    let (mut subscription, number) = open(&client, &mut peer, 10).await;
    for id in 1..=10 {
        peer.deliver(number, id, "x").await;
    }
    for id in 1..=4 {
        assert_eq!(message(&mut subscription).await, id);
    }
    assert!(peer.is_silent().await, "granted before half was taken");
    let bytes = crate::wire::EncodedDocument::from(&document("x")).bytes().len() as u64;
    assert_eq!(message(&mut subscription).await, 5);
    assert_eq!(peer.grant().await, (number, Grant { messages: 5, bytes: 5 * bytes }));
    for id in 6..=10 {
        assert_eq!(message(&mut subscription).await, id);
    }
    assert_eq!(peer.grant().await, (number, Grant { messages: 5, bytes: 5 * bytes }));
}

#[tokio::test]
async fn bytes_alone_are_worth_a_grant() {
    let bus = Bus::new();
    let (client, mut peer) = bus.connected(welcome()).await;
    let script = async {
        let (number, _) = peer.subscribe().await;
        peer.send(number, Content::Ok).await;
        peer.deliver(number, 1, &"x".repeat(600)).await;
        assert_eq!(peer.grant().await.1.messages, 1);
    };
    let user = async {
        let mut subscription = client.subscribe("*").window(100, 1000).await.unwrap();
        assert_eq!(message(&mut subscription).await, 1);
        subscription
    };
    tokio::join!(user, script);
}

#[tokio::test]
async fn a_slow_user_holds_up_nobody_else() {
    let bus = Bus::new();
    let (client, mut peer) = bus.connected(welcome()).await;
    let (mut slow, number) = open(&client, &mut peer, 256).await;
    let (mut quick, quick_number) = open(&client, &mut peer, 256).await;
    // The slow user takes nothing; its window fills to the last message.
    for id in 1..=256 {
        peer.deliver(number, id, &"x".repeat(4000)).await;
    }
    peer.deliver(quick_number, 257, "quick").await;
    assert_eq!(message(&mut quick).await, 257);
    let script = async {
        let Content::Ping(value) = peer.frame().await.content else { panic!() };
        peer.send(0, Content::Pong(value)).await;
    };
    let (pong, ()) = tokio::join!(soon("a pong", client.ping()), script);
    pong.unwrap();
    for id in 1..=256 {
        assert_eq!(message(&mut slow).await, id);
    }
    assert_eq!(peer.grant().await.1.messages, 128);
}

/// The bus tells gaps beside the window, so this is all that bounds them under a publisher that never pauses.
#[tokio::test]
async fn gaps_that_nobody_takes_are_one() {
    let bus = Bus::new();
    let (client, mut peer) = bus.connected(welcome()).await;
    let (mut slow, number) = open(&client, &mut peer, 1).await;
    let gap =
        |first, reason: GapReason| Content::Gap(GapNotice { first, last: first, count: Some(2), reason: reason as u8 });
    peer.deliver(number, 1, "x").await;
    for id in 2..1002 {
        peer.send(number, gap(id, GapReason::QueueFull)).await;
        peer.send(number, gap(id, GapReason::Expired)).await;
    }
    let script = async {
        let Content::Ping(value) = peer.frame().await.content else { panic!() };
        peer.send(0, Content::Pong(value)).await;
        peer
    };
    let (pong, mut peer) = tokio::join!(soon("a pong", client.ping()), script);
    pong.unwrap();
    assert_eq!(message(&mut slow).await, 1);
    for reason in [GapReason::QueueFull, GapReason::Expired] {
        let all = Gap { first: 2, last: 1001, count: Some(2000), reason };
        assert_eq!(slow.try_next(), Some(Event::Gap(all)));
    }
    assert_eq!(slow.try_next(), None);
    // What comes after it was taken, or after a message, is one of its own.
    assert_eq!(peer.grant().await.1.messages, 1);
    peer.send(number, gap(2000, GapReason::QueueFull)).await;
    peer.deliver(number, 2001, "x").await;
    peer.send(number, gap(2002, GapReason::QueueFull)).await;
    let one = |first| Event::Gap(Gap { first, last: first, count: Some(2), reason: GapReason::QueueFull });
    assert_eq!(soon("a gap", slow.next()).await, Some(one(2000)));
    assert_eq!(message(&mut slow).await, 2001);
    assert_eq!(soon("a gap", slow.next()).await, Some(one(2002)));
}

/// A message in the window is no longer in the bus's queue; while its user is halted or slow it grows old here.
#[tokio::test]
async fn what_waited_here_for_too_long_is_no_work_any_more() {
    let bus = Bus::new();
    let (client, mut peer) = bus.connected(welcome()).await;
    let script = async {
        let (number, _) = peer.subscribe().await;
        peer.send(number, Content::Ok).await;
        for id in 1..=3 {
            peer.deliver(number, id, "old").await;
        }
        number
    };
    let orders = client.subscribe("*").max_age(Duration::from_secs(300)).window(4, 1 << 20);
    let (orders, number) = tokio::join!(orders, script);
    let mut orders = orders.unwrap();
    assert_eq!(message(&mut orders).await, 1);
    tokio::time::sleep(Duration::from_millis(100)).await;
    // The clock of the runtime is moved, not waited for.
    tokio::time::pause();
    tokio::time::advance(Duration::from_secs(301)).await;
    tokio::time::resume();
    peer.deliver(number, 4, "new").await;
    tokio::time::sleep(Duration::from_millis(100)).await;
    let expired = Gap { first: 2, last: 3, count: Some(2), reason: GapReason::Expired };
    assert_eq!(orders.try_next(), Some(Event::Gap(expired)));
    assert_eq!(peer.grant().await.1.messages, 2);
    assert_eq!(message(&mut orders).await, 4);
    assert_eq!(peer.grant().await.1.messages, 2);
}

/// The source is told once for all messages from there, and what only some messages have lies elsewhere.
#[tokio::test]
async fn each_message_has_its_own_source_and_envelope() {
    let bus = Bus::new();
    let (client, mut peer) = bus.connected(welcome()).await;
    let (mut subscription, number) = open(&client, &mut peer, 100).await;
    let long = "user/".to_owned() + &"x".repeat(300);
    let sources = ["irc", "irc", "dice", "irc", "", "irc", &long, &long, "dice"];
    for (at, source) in sources.into_iter().enumerate() {
        let id = at as u64 + 1;
        let (cause, waited_ms) = if at % 2 == 0 { (None, 0) } else { (Some(id - 1), 1000 + id) };
        let document = (&document("x")).into();
        let deliver = Deliver {
            id,
            source: source.into(),
            timestamp: 7 + id,
            cause,
            hops: at as u8,
            reply_address: cause,
            attempt: 1 + at as u32,
            waited_ms,
            document,
        };
        peer.send(number, Content::Deliver(deliver)).await;
    }
    for (at, source) in sources.into_iter().enumerate() {
        let Some(Event::Message(message)) = soon("a message", subscription.next()).await else { panic!() };
        let id = at as u64 + 1;
        let (cause, waited) = if at % 2 == 0 { (None, 0) } else { (Some(id - 1), 1000 + id) };
        assert_eq!((message.id, message.source.as_str(), message.timestamp.0), (id, source, 7 + id));
        assert_eq!((message.cause, message.reply_address, message.hops), (cause, cause, at as u8));
        assert_eq!(message.delivery, Delivery::new(1 + at as u32, Duration::from_millis(waited)));
        assert_eq!(message.text(), Some("x"));
    }
}

/// What is in one piece of the stream goes where it belongs, and the piece does not outlive its messages.
#[tokio::test]
async fn one_piece_for_several_subscriptions() {
    let bus = Bus::new();
    let (client, mut peer) = bus.connected(welcome()).await;
    let (mut first, one) = open(&client, &mut peer, 100).await;
    let (mut second, two) = open(&client, &mut peer, 100).await;
    let deliver = |id: u64| Content::Deliver(delivery(id, &"x".repeat(id as usize * 7)));
    let from_dice = |id: u64| Content::Deliver(Deliver { source: "dice".into(), ..delivery(id, "") });
    let gap = Content::Gap(GapNotice { first: 8, last: 8, count: Some(1), reason: GapReason::QueueFull as u8 });
    let frames = [(one, 1), (two, 2), (one, 3), (two, 4), (two, 5)].map(|(number, id)| (number, deliver(id)));
    peer.send_all(frames.into_iter().chain([(one, from_dice(6)), (one, from_dice(7)), (one, gap), (one, deliver(9))]))
        .await;
    for (subscription, ids) in [(&mut second, vec![2, 4, 5]), (&mut first, vec![1, 3, 6, 7, 8, 9])] {
        for id in ids {
            match soon("an event", subscription.next()).await {
                Some(Event::Message(message)) if [6, 7].contains(&id) => {
                    assert_eq!((message.id, &*message.source, message.text()), (id, "dice", Some("")));
                }
                Some(Event::Message(message)) => {
                    assert_eq!((message.id, &*message.source), (id, "irc"));
                    assert_eq!(message.text().map(str::len), Some(id as usize * 7));
                }
                Some(Event::Gap(gap)) => assert_eq!((gap.first, id), (8, 8)),
                None => panic!("ended"),
            }
        }
        assert!(subscription.is_empty());
    }
}

#[tokio::test]
async fn expired_ones_in_one_piece_with_others() {
    let bus = Bus::new();
    let (client, mut peer) = bus.connected(welcome()).await;
    let script = async {
        let (number, _) = peer.subscribe().await;
        let deliver = |id, waited_ms| (number, Content::Deliver(Deliver { waited_ms, ..delivery(id, "x") }));
        let gap = Content::Gap(GapNotice { first: 5, last: 5, count: Some(1), reason: GapReason::QueueFull as u8 });
        let old = 301_000;
        let behind = [deliver(1, old), deliver(2, old), deliver(3, 0), deliver(4, old), (number, gap), deliver(6, old)];
        peer.send_all([(number, Content::Ok)].into_iter().chain(behind)).await;
    };
    let orders = client.subscribe("*").max_age(Duration::from_secs(300));
    let (orders, ()) = tokio::join!(orders, script);
    let mut orders = orders.unwrap();
    let gap = |first, last, reason| Event::Gap(Gap { first, last, count: Some(last - first + 1), reason });
    assert_eq!(soon("a gap", orders.next()).await, Some(gap(1, 2, GapReason::Expired)));
    assert_eq!(message(&mut orders).await, 3);
    assert_eq!(orders.try_next(), Some(gap(4, 4, GapReason::Expired)));
    assert_eq!(orders.try_next(), Some(gap(5, 5, GapReason::QueueFull)));
    assert_eq!(orders.try_next(), Some(gap(6, 6, GapReason::Expired)));
    assert!(orders.is_empty());
}

/// What came before a mistake is there, though it came with it.
#[tokio::test]
async fn good_ones_before_nonsense_in_one_piece() {
    let bus = Bus::new();
    let (client, mut peer) = bus.connected(welcome()).await;
    let (mut subscription, number) = open(&client, &mut peer, 100).await;
    let mut bytes: Vec<u8> = [1, 2]
        .into_iter()
        .flat_map(|id| crate::wire::Frame::new(number, Content::Deliver(delivery(id, "x"))).encode())
        .collect();
    bytes.extend(b"\x09\0\0\0\x14\0\0\0\x01\0\0\0\xff");
    peer.write(&bytes).await;
    assert_eq!((message(&mut subscription).await, message(&mut subscription).await), (1, 2));
    assert_eq!(bus.welcome(welcome()).await.subscribe().await.0, number);
}

#[tokio::test]
async fn a_bus_that_ignores_the_window_is_cut_off() {
    let bus = Bus::new();
    let (client, mut peer) = bus.connected(welcome()).await;
    let (mut subscription, number) = open(&client, &mut peer, 4).await;
    let mut notices = client.notices();
    for id in 1..=5 {
        peer.deliver(number, id, "x").await;
    }
    assert!(matches!(notices.next().await, Some(Notice::Connected(_))));
    let Some(Notice::Disconnected(error)) = soon("the end", notices.next()).await else { panic!() };
    assert_eq!((error.kind(), error.limit(), error.value()), (ErrorKind::Wire, Some(4), Some(5)));
    for id in 1..=4 {
        assert_eq!(message(&mut subscription).await, id);
    }
    // The next connection goes on with what is left of the window.
    let mut peer = bus.welcome(welcome()).await;
    let (again, subscribe) = peer.subscribe().await;
    assert_eq!((again, subscribe.window_messages), (number, 4));
}

#[tokio::test]
async fn dropping_a_subscription_unsubscribes() {
    let bus = Bus::new();
    let (client, mut peer) = bus.connected(welcome()).await;
    let (subscription, number) = open(&client, &mut peer, 4).await;
    drop(subscription);
    let frame = peer.frame().await;
    assert_eq!((frame.number, frame.content), (number, Content::Unsubscribe));
    peer.send(number, Content::Ok).await;
    // More than its window, for nobody: it was on its way.
    for id in 1..=6 {
        peer.deliver(number, id, "late").await;
    }
    // Dropped before its answer: ended as well.
    let dropped = tokio::time::timeout(Duration::from_millis(50), client.subscribe("a=b").into_future()).await;
    assert!(dropped.is_err());
    let (number, _) = peer.subscribe().await;
    let frame = peer.frame().await;
    assert_eq!((frame.number, frame.content), (number, Content::Unsubscribe));
    assert!(client.is_connected());
}

#[tokio::test]
async fn a_subscription_that_the_bus_ends_says_why() {
    let bus = Bus::new();
    let (client, mut peer) = bus.connected(welcome()).await;
    let (mut subscription, number) = open(&client, &mut peer, 4).await;
    peer.deliver(number, 1, "x").await;
    peer.send(number, refusal(Code::Memory, "no room")).await;
    assert_eq!(message(&mut subscription).await, 1);
    assert_eq!(soon("the end", subscription.next()).await, None);
    assert_eq!(subscription.failure().unwrap().kind(), ErrorKind::Refused(Code::Memory));
}

#[tokio::test]
async fn closing_the_client_ends_its_subscriptions_after_their_last_message() {
    let bus = Bus::new();
    let (client, mut peer) = bus.connected(welcome()).await;
    let (mut subscription, number) = open(&client, &mut peer, 4).await;
    peer.deliver(number, 1, "x").await;
    assert_eq!(message(&mut subscription).await, 1);
    peer.deliver(number, 2, "last").await;
    drop(client);
    assert!(matches!(peer.frame().await.content, Content::Bye(_)));
    drop(peer);
    assert_eq!(message(&mut subscription).await, 2);
    assert_eq!(soon("the end", subscription.next()).await, None);
    assert!(subscription.failure().is_none());
}
