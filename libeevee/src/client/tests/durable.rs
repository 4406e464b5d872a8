//! Durable subscriptions: what goes to the bus, what is handed out once, and what a lost connection leaves.

use std::time::Duration;

use super::*;
use crate::client::{Client, Event, Nack, Notice, NoticeReceiver, SubscribeBuilder, Subscription};
use crate::error::ErrorKind;
use crate::message::{Gap, GapReason, Message};
use crate::wire::{
    Ack, Code, Content, Deliver, EncodedDocument, GapNotice, Grant, Nack as NackFrame, Overflow, Subscribe, Value,
    Welcome,
};

async fn opened(builder: SubscribeBuilder, peer: &mut Peer) -> (Subscription, u32, Subscribe) {
    let script = async {
        let (number, subscribe) = peer.subscribe().await;
        peer.send(number, Content::Ok).await;
        (number, subscribe)
    };
    let (subscription, (number, subscribe)) = tokio::join!(builder, script);
    (subscription.unwrap(), number, subscribe)
}

async fn mailbox(client: &Client, peer: &mut Peer, window: u64) -> (Subscription, u32) {
    let builder = client.subscribe("type=mail").durable("mail").window(window, 1 << 20);
    let (subscription, number, _) = opened(builder, peer).await;
    (subscription, number)
}

async fn message(subscription: &mut Subscription) -> Message {
    match soon("a message", subscription.next()).await {
        Some(Event::Message(message)) => message,
        other => panic!("not a message: {other:?}"),
    }
}

/// The client has read all that was sent before.
async fn in_step(peer: &mut Peer) {
    peer.send(0, Content::Ping(Value { value: 1 })).await;
    loop {
        match peer.frame().await.content {
            Content::Pong(_) => return,
            Content::Grant(_) => {}
            other => panic!("no Pong: {other:?}"),
        }
    }
}

async fn away(notices: &mut NoticeReceiver) {
    while !matches!(soon("Disconnected", notices.next()).await, Some(Notice::Disconnected(_))) {}
}

fn ack(id: u64) -> Content {
    Content::Ack(Ack { id })
}

#[tokio::test]
async fn the_name_goes_along_and_windows_are_smaller() {
    let bus = Bus::new();
    let (client, mut peer) = bus.connected(welcome()).await;
    let builder = client.subscribe("type=mail").durable("mail.in-2").overflow(Overflow::Reject).queue(7, 8);
    let (subscription, _, subscribe) = opened(builder, &mut peer).await;
    assert_eq!((subscription.durable(), subscribe.durable.as_deref()), (Some("mail.in-2"), Some("mail.in-2")));
    assert_eq!((subscribe.window_messages, subscribe.window_bytes), (100, 4 << 20));
    assert_eq!((subscribe.overflow, subscribe.queue_messages, subscribe.queue_bytes), (4, 7, 8));
    // Set before or after, a window is what was said.
    let builder = client.subscribe("a").window(3, 4).durable("other");
    let (other, _, subscribe) = opened(builder, &mut peer).await;
    assert_eq!((subscribe.window_messages, subscribe.window_bytes), (3, 4));
    assert_eq!(other.durable(), Some("other"));

    let wrong = [
        (client.subscribe("a").durable("Mail"), "lower-case"),
        (client.subscribe("a").durable(""), "begins"),
        (client.subscribe("a").durable("a/b"), "'/'"),
        (client.subscribe("a").durable("x".repeat(65)), "65 bytes"),
        (client.subscribe("a").durable("a").overflow(Overflow::Disconnect), "disconnect"),
        (client.subscribe("a").overflow(Overflow::Reject), "only a durable"),
        (client.subscribe("a").durable("other"), "already"),
    ];
    for (builder, word) in wrong {
        let error = soon(word, builder).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Invalid, "{error}");
        assert!(error.to_string().contains(word), "{error}");
    }
    assert!(peer.is_silent().await, "nothing of that needs the bus");
    // The name is free again once its subscription is dropped.
    drop(other);
    assert!(matches!(peer.frame().await.content, Content::Unsubscribe));
    opened(client.subscribe("a").durable("other"), &mut peer).await;
}

#[tokio::test]
async fn what_is_in_hand_comes_again_between_new_ones() {
    let bus = Bus::new();
    let (client, mut peer) = bus.connected(welcome()).await;
    let (mut mail, number) = mailbox(&client, &mut peer, 100).await;
    let deliver = |(id, attempt)| (number, Content::Deliver(Deliver { attempt, ..delivery(id, &format!("{id}")) }));
    peer.send_all([(1, 1), (2, 1), (1, 2), (2, 2), (3, 1)].map(deliver)).await;
    for id in ["1", "2", "3"] {
        assert_eq!(message(&mut mail).await.text(), Some(id));
    }
    assert!(mail.try_next().is_none());
}

#[tokio::test]
async fn acknowledged_once_or_given_back() {
    let bus = Bus::new();
    let (client, mut peer) = bus.connected(welcome()).await;
    let mut notices = client.notices();
    let (mut mail, number) = mailbox(&client, &mut peer, 100).await;
    let (mut live, live_number, _) = opened(client.subscribe("*"), &mut peer).await;
    for id in 1..=3 {
        peer.deliver(number, id, "x").await;
    }
    peer.deliver(live_number, 1, "x").await;
    let (one, two, three) = (message(&mut mail).await, message(&mut mail).await, message(&mut mail).await);
    assert!(one.delivery.is_durable());
    mail.ack(&one).unwrap();
    assert_eq!(peer.settled().await, (number, ack(1)));
    client.nack(&two, Nack::again("no network").after(Duration::from_secs(60))).unwrap();
    let nack = NackFrame { id: 2, dead: false, delay_ms: 60_000, reason: "no network".into() };
    assert_eq!(peer.settled().await, (number, Content::Nack(nack)));
    mail.nack(&three, Nack::dead("never")).unwrap();
    let nack = NackFrame { id: 3, dead: true, delay_ms: 0, reason: "never".into() };
    assert_eq!(peer.settled().await, (number, Content::Nack(nack)));

    // A second acknowledgement does nothing; all else is a mistake, and nothing goes out.
    mail.ack(&one).unwrap();
    client.ack(&one).unwrap();
    let mistakes = [mail.nack(&one, Nack::again("")), mail.ack(&two), client.ack(&three), live.ack(&one)];
    for mistake in mistakes {
        assert_eq!(mistake.unwrap_err().kind(), ErrorKind::Invalid);
    }
    // Nobody waits for one of a live subscription.
    let heard = message(&mut live).await;
    assert!(!heard.delivery.is_durable());
    live.ack(&heard).unwrap();
    client.nack(&heard, Nack::again("")).unwrap();
    assert_eq!(mail.ack(&heard).unwrap_err().kind(), ErrorKind::Invalid);
    assert!(peer.is_silent().await);

    // The bus did not know it: that is told, and the subscription goes on.
    peer.send(number, refusal(Code::BadAck, "message 1 is not in flight")).await;
    let refused = loop {
        if let Some(Notice::Refused { number, error }) = soon("a notice", notices.next()).await {
            break (number, error.kind());
        }
    };
    assert_eq!(refused, (number, ErrorKind::Refused(Code::BadAck)));
    peer.deliver(number, 4, "x").await;
    let four = message(&mut mail).await;
    drop(mail);
    assert!(matches!(peer.frame().await.content, Content::Unsubscribe));
    let error = client.ack(&four).unwrap_err();
    assert!(error.kind() == ErrorKind::Invalid && error.to_string().contains("has ended"), "{error}");
}

/// What comes again while it lies here is no second message, and costs no window.
#[tokio::test]
async fn what_is_here_is_not_handed_out_twice() {
    let bus = Bus::new();
    let (client, mut peer) = bus.connected(welcome()).await;
    let (mut mail, number) = mailbox(&client, &mut peer, 100).await;
    let bytes = EncodedDocument::from(&document("x")).bytes().len() as u64;
    let one_back = Content::Grant(Grant { messages: 1, bytes });
    peer.deliver(number, 1, "x").await;
    peer.deliver(number, 2, "x").await;
    let one = message(&mut mail).await;
    // One in hand, two in the queue: both come again, and again.
    for attempt in 2..20 {
        for id in [1, 2] {
            peer.deliver_again(number, id, "x", attempt).await;
            let frame = peer.frame().await;
            assert_eq!((frame.number, frame.content), (number, one_back.clone()));
        }
    }
    peer.deliver(number, 3, "x").await;
    let (two, three) = (message(&mut mail).await, message(&mut mail).await);
    assert_eq!((two.id, two.delivery.attempt, three.id), (2, 1, 3));

    // Acknowledged, and the bus had sent it once more before it heard that: said again, and not handed out.
    mail.ack(&one).unwrap();
    assert_eq!(peer.settled().await, (number, ack(1)));
    peer.deliver_again(number, 1, "x", 20).await;
    assert_eq!(peer.frame().await.content, ack(1));
    assert_eq!(peer.frame().await.content, one_back);
    // Given back, it is handed out again.
    mail.nack(&two, Nack::again("later")).unwrap();
    peer.settled().await;
    peer.deliver_again(number, 2, "x", 21).await;
    let again = message(&mut mail).await;
    assert_eq!((again.id, again.delivery.attempt), (2, 21));
    mail.ack(&again).unwrap();
    assert_eq!(peer.settled().await, (number, ack(2)));
    assert_eq!(mail.try_next(), None);
}

#[tokio::test]
async fn acknowledgements_of_an_absence_stand_right_behind_the_subscribe() {
    let bus = Bus::new();
    let (client, mut peer) = bus.connected(welcome()).await;
    let mut notices = client.notices();
    let (mut mail, number) = mailbox(&client, &mut peer, 10).await;
    for id in 1..=6 {
        peer.deliver(number, id, "x").await;
    }
    let taken: Vec<Message> = vec![message(&mut mail).await, message(&mut mail).await, message(&mut mail).await];
    drop(peer);
    away(&mut notices).await;
    mail.ack(&taken[0]).unwrap();
    mail.nack(&taken[1], Nack::again("bus away")).unwrap();

    let mut peer = bus.welcome(Welcome { boot: 101, last_id: 9, ..welcome() }).await;
    let (again, subscribe) = peer.subscribe().await;
    assert_eq!((again, subscribe.durable.as_deref()), (number, Some("mail")));
    assert_eq!(subscribe.window_messages, 10, "the whole window, as all comes again");
    assert_eq!(peer.frame().await.content, ack(1));
    peer.send(number, Content::Ok).await;

    // What was not acknowledged comes again: 3 is in hand, 4 to 6 in the queue, and 2 was given back, which is said now.
    let mut window = 10;
    for id in [2, 3, 4, 5, 6] {
        peer.deliver_again(number, id, "x", 2).await;
        if id == 2 {
            let nack = NackFrame { id: 2, dead: false, delay_ms: 0, reason: "bus away".into() };
            assert_eq!(peer.frame().await.content, Content::Nack(nack));
        }
        window = window - 1 + peer.grant().await.1.messages;
    }
    assert_eq!(window, 10);
    peer.deliver_again(number, 2, "x", 3).await;
    for id in 7..=10 {
        peer.deliver(number, id, "x").await;
    }
    window -= 5;
    // Nothing was lost, so no gap says so.
    let mut mine = vec![taken[2].clone()];
    for (id, attempt) in [(4, 1), (5, 1), (6, 1), (2, 3), (7, 1), (8, 1), (9, 1), (10, 1)] {
        let message = message(&mut mail).await;
        assert_eq!((message.id, message.delivery.attempt), (id, attempt));
        mine.push(message);
    }
    in_step(&mut peer).await;
    for (at, message) in mine.iter().enumerate() {
        mail.ack(message).unwrap();
        assert_eq!(peer.frame().await.content, ack(message.id));
        // The first four were of the old window: the new one was whole without them.
        if at >= 4 {
            window += peer.grant().await.1.messages;
        }
    }
    in_step(&mut peer).await;
    assert_eq!(window, 10);
}

/// With a small window and a user who is slow, neither side may come to believe that nothing is left.
#[tokio::test]
async fn windows_stay_what_they_are_over_many_connections() {
    let bus = Bus::new();
    let (client, mut peer) = bus.connected(welcome()).await;
    let mut notices = client.notices();
    let (mut mail, number) = mailbox(&client, &mut peer, 4).await;
    let mut open: Vec<u64> = Vec::new();
    let mut next = 1;
    let mut window = 4_u64;
    for round in 0..60_u64 {
        // The bus fills what is in flight, as far as the window goes.
        while open.len() < 4 && window > 0 {
            peer.deliver(number, next, "x").await;
            (open, next, window) = ([&open[..], &[next]].concat(), next + 1, window - 1);
        }
        for _ in 0..round % 4 {
            let message = message(&mut mail).await;
            mail.ack(&message).unwrap();
        }
        let mut settle = round % 4;
        while settle > 0 {
            let frame = peer.frame().await;
            match frame.content {
                Content::Grant(grant) => window += grant.messages,
                Content::Ack(ack) => {
                    open.retain(|id| *id != ack.id);
                    settle -= 1;
                }
                other => panic!("{other:?}"),
            }
        }
        assert!(window <= 4 + 4, "{window}");
        if round % 3 == 0 {
            drop(peer);
            away(&mut notices).await;
            peer = bus.welcome(welcome()).await;
            let (_, subscribe) = peer.subscribe().await;
            peer.send(number, Content::Ok).await;
            window = subscribe.window_messages;
            assert_eq!(window, 4);
            for id in &open {
                assert!(window > 0);
                peer.deliver_again(number, *id, "x", 2).await;
                window = window - 1 + peer.grant().await.1.messages;
            }
            assert_eq!(window, 4);
        }
    }
    assert!(next > 60, "only {next} were delivered");
    assert!(client.is_connected());
}

#[tokio::test]
async fn the_next_session_may_have_to_wait_for_the_last_one() {
    let bus = Bus::new();
    let (client, mut peer) = bus.connected(welcome()).await;
    let (mut mail, number) = mailbox(&client, &mut peer, 10).await;
    drop(peer);
    let mut peer = bus.welcome(Welcome { session: 2, ..welcome() }).await;
    for _ in 0..3 {
        let (again, _) = peer.subscribe().await;
        assert_eq!(again, number);
        peer.send(number, refusal(Code::AlreadyConnected, "session 1 is attached")).await;
    }
    peer.subscribe().await;
    peer.send(number, Content::Ok).await;
    peer.deliver(number, 1, "x").await;
    assert_eq!(message(&mut mail).await.id, 1);
    // Another program's is not waited for.
    let script = async {
        let (number, _) = peer.subscribe().await;
        peer.send(number, refusal(Code::NotFound, "no")).await;
    };
    let (refused, ()) = tokio::join!(client.subscribe("*").durable("other"), script);
    assert_eq!(refused.unwrap_err().kind(), ErrorKind::Refused(Code::NotFound));
}

/// Nobody stops listening because a disk is full for a while, or was changed for another one.
#[tokio::test]
async fn a_bus_that_cannot_store_is_asked_again() {
    let bus = Bus::new();
    let (client, mut peer) = bus.connected(welcome()).await;
    let (mut mail, number) = mailbox(&client, &mut peer, 10).await;
    peer.send(number, refusal(Code::Storage, "the store was damaged; subscribe again")).await;
    assert_eq!(peer.subscribe().await.0, number);
    peer.send(number, Content::Ok).await;
    peer.deliver(number, 1, "x").await;
    assert_eq!(message(&mut mail).await.id, 1);
    // A new one is its user's to decide about.
    let script = async {
        let (number, _) = peer.subscribe().await;
        peer.send(number, refusal(Code::Storage, "the disk is full")).await;
    };
    let (refused, ()) = tokio::join!(client.subscribe("*").durable("other"), script);
    assert_eq!(refused.unwrap_err().kind(), ErrorKind::Refused(Code::Storage));
}

#[tokio::test]
async fn a_name_that_another_session_holds_is_refused_at_once() {
    let bus = Bus::new();
    let (client, mut peer) = bus.connected(welcome()).await;
    let script = async {
        let (number, _) = peer.subscribe().await;
        peer.send(number, refusal(Code::AlreadyConnected, "session 7 is attached")).await;
    };
    let (refused, ()) = tokio::join!(client.subscribe("*").durable("mail"), script);
    assert_eq!(refused.unwrap_err().kind(), ErrorKind::Refused(Code::AlreadyConnected));
    assert!(client.is_connected());
}

#[tokio::test]
async fn what_expired_here_goes_back() {
    let bus = Bus::new();
    let (client, mut peer) = bus.connected(welcome()).await;
    let builder = client.subscribe("*").durable("orders").max_age(Duration::from_secs(300)).window(4, 1 << 20);
    let (mut orders, number, _) = opened(builder, &mut peer).await;
    for id in 1..=3 {
        peer.deliver(number, id, "old").await;
    }
    let one = message(&mut orders).await;
    tokio::time::sleep(Duration::from_millis(100)).await;
    tokio::time::pause();
    tokio::time::advance(Duration::from_secs(301)).await;
    tokio::time::resume();
    peer.deliver(number, 4, "new").await;
    tokio::time::sleep(Duration::from_millis(100)).await;
    // The bus finds them expired as well, and tells the gap.
    assert_eq!(message(&mut orders).await.id, 4);
    for expected in [2, 3] {
        let (_, Content::Nack(nack)) = peer.settled().await else { panic!("no Nack") };
        assert!(
            nack.id == expected && !nack.dead && nack.delay_ms == 100 && nack.reason.contains("max-age"),
            "{nack:?}"
        );
        let gap = GapNotice { first: nack.id, last: nack.id, count: Some(1), reason: GapReason::Expired as u8 };
        peer.send(number, Content::Gap(gap)).await;
    }
    let expired = Gap { first: 2, last: 3, count: Some(2), reason: GapReason::Expired };
    in_step(&mut peer).await;
    assert_eq!(soon("the gap", orders.next()).await, Some(Event::Gap(expired)));
    // What was in hand for so long is still this user's to acknowledge.
    orders.ack(&one).unwrap();
}

/// The acknowledgement was queued and not written when the connection was lost.
#[tokio::test]
async fn acknowledgements_that_were_not_written_are_kept() {
    let bus = Bus::new();
    let (client, mut peer) = bus.connected(welcome()).await;
    let mut notices = client.notices();
    let (mut mail, number) = mailbox(&client, &mut peer, 10).await;
    peer.deliver(number, 1, "x").await;
    let one = message(&mut mail).await;
    // The bus reads nothing, and the socket is full.
    for _ in 0..100 {
        client.publish(document(&"x".repeat(40_000))).await.unwrap();
    }
    tokio::time::sleep(Duration::from_millis(50)).await;
    mail.ack(&one).unwrap();
    drop(peer);
    away(&mut notices).await;
    let mut peer = bus.welcome(welcome()).await;
    assert_eq!(peer.subscribe().await.0, number);
    assert_eq!(peer.settled().await, (number, ack(1)));
}
