//! Publishing: numbers, refusals, credit, sizes, and closing.

use std::time::Duration;

use futures_util::FutureExt;

use super::*;
use crate::client::{Notice, Outgoing};
use crate::error::ErrorKind;
use crate::wire::{CONFIRM, Code, Content, Grant, Published};

#[tokio::test]
async fn a_confirmed_publish_tells_how_many_subscriptions_matched() {
    let bus = Bus::new();
    let (client, mut peer) = bus.connected(welcome()).await;
    let script = async {
        let frame = peer.frame().await;
        assert_eq!(frame.flags, CONFIRM);
        assert_ne!(frame.number, 0);
        peer.send(frame.number, Content::Published(Published { id: 1001, live: 2, durable: 1 })).await;
    };
    let (published, ()) = tokio::join!(client.publish_confirmed(document("x")), script);
    let expected = crate::Published { id: 1001, live: 2, durable: 1, repeated: false };
    assert_eq!(published.unwrap(), expected);
}

#[tokio::test]
async fn refusals_find_the_publish_they_are_about() {
    let bus = Bus::new();
    let (client, mut peer) = bus.connected(welcome()).await;
    let mut notices = client.notices();
    let first = client.publish_with(document("first").into()).await.unwrap();
    let second = client.publish_with(document("second").into()).await.unwrap();
    assert_eq!(peer.publish().await, (first, "first".into()));
    assert_eq!(peer.publish().await, (second, "second".into()));
    let Content::Error(mut denied) = refusal(Code::Denied, "test may not publish this") else { unreachable!() };
    denied.rule = Some("type=x".into());
    peer.send(second, Content::Error(denied)).await;
    assert!(matches!(notices.next().await, Some(Notice::Connected(_))));
    let Some(Notice::Refused { number, error }) = soon("the refusal", notices.next()).await else { panic!() };
    assert_eq!((number, error.kind(), error.rule()), (second, ErrorKind::Refused(Code::Denied), Some("type=x")));

    // A confirmed one is answered in place, whatever the order of answers.
    let script = async {
        let ((one, _), (two, _)) = (peer.publish().await, peer.publish().await);
        peer.send(two, refusal(Code::Loop, "17 hops")).await;
        peer.send(one, Content::Published(Published { id: 1, live: 0, durable: 0 })).await;
    };
    let (one, two, ()) =
        tokio::join!(client.publish_confirmed(document("1")), client.publish_confirmed(document("2")), script);
    assert_eq!(one.unwrap().id, 1);
    assert_eq!(two.unwrap_err().kind(), ErrorKind::Refused(Code::Loop));
}

#[tokio::test]
async fn cause_and_hops_go_along() {
    let bus = Bus::new();
    let (client, mut peer) = bus.connected(welcome()).await;
    client.publish(Outgoing { cause: Some(4711), hops: 3, ..document("x").into() }).await.unwrap();
    let Content::Publish(publish) = peer.frame().await.content else { panic!() };
    assert_eq!((publish.cause, publish.hops), (Some(4711), 3));
}

#[tokio::test]
async fn without_credit_publishing_waits_and_control_does_not() {
    let bus = Bus::new();
    let (client, mut peer) = bus.connected(crate::wire::Welcome { credit_messages: 2, ..welcome() }).await;
    client.publish(document("1")).await.unwrap();
    client.publish(document("2")).await.unwrap();
    let (third, fourth) = (client.clone(), client.clone());
    let mut third = tokio::spawn(async move { third.publish(document("3")).await });
    tokio::task::yield_now().await;
    let fourth = tokio::spawn(async move { fourth.publish(document("4")).await });
    assert_eq!(peer.publish().await.1, "1");
    assert_eq!(peer.publish().await.1, "2");
    assert!(peer.is_silent().await, "it published beyond its credit");
    // A publisher that waits can still ping.
    let script = async {
        let Content::Ping(value) = peer.frame().await.content else { panic!() };
        peer.send(0, Content::Pong(value)).await;
    };
    tokio::join!(async { soon("a pong", client.ping()).await.unwrap() }, script);
    assert!(!third.is_finished());

    peer.send(0, Content::Grant(Grant { messages: 1, bytes: 100 })).await;
    soon("the third", &mut third).await.unwrap().unwrap();
    assert_eq!(peer.publish().await.1, "3");
    assert!(peer.is_silent().await, "it published beyond its credit");
    peer.send(0, Content::Grant(Grant { messages: 5, bytes: 100 })).await;
    soon("the fourth", fourth).await.unwrap().unwrap();
    assert_eq!(peer.publish().await.1, "4");
}

#[tokio::test]
async fn a_publish_with_a_deadline_gets_a_typed_error_and_publishes_nothing() {
    let bus = Bus::new();
    let (client, mut peer) = bus.connected(crate::wire::Welcome { credit_messages: 1, ..welcome() }).await;
    let within = Duration::from_millis(50);
    client.publish_within(document("1"), within).await.unwrap();
    let error = client.publish_within(document("never"), within).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Refused(Code::Rate));
    assert!(error.to_string().contains("within 50 ms"), "{error}");
    peer.send(0, Content::Grant(Grant { messages: 1, bytes: 100 })).await;
    client.publish_within(document("2"), Duration::from_secs(20)).await.unwrap();
    assert_eq!(peer.publish().await.1, "1");
    assert_eq!(peer.publish().await.1, "2");
}

#[tokio::test]
async fn bytes_are_credit_too_and_one_document_may_overdraw_them() {
    let bus = Bus::new();
    let (client, mut peer) = bus.connected(crate::wire::Welcome { credit_bytes: 10, ..welcome() }).await;
    client.publish(document("longer than ten bytes")).await.unwrap();
    assert_eq!(peer.publish().await.1, "longer than ten bytes");
    let mut waiting = Box::pin(client.publish(document("x")));
    assert!(tokio::time::timeout(Duration::from_millis(50), &mut waiting).await.is_err());
    // The debt is a debt on both sides: ten bytes do not pay for it, and what was taken in all does.
    peer.send(0, Content::Grant(Grant { messages: 1, bytes: 10 })).await;
    assert!(tokio::time::timeout(Duration::from_millis(50), &mut waiting).await.is_err());
    peer.send(0, Content::Grant(Grant { messages: 1, bytes: 1000 })).await;
    soon("the second", waiting).await.unwrap();
    assert_eq!(peer.publish().await.1, "x");
}

#[tokio::test]
async fn a_publish_that_is_dropped_while_it_waits_costs_nothing() {
    let bus = Bus::new();
    let (client, mut peer) = bus.connected(crate::wire::Welcome { credit_messages: 1, ..welcome() }).await;
    let first = client.publish_with(document("1").into()).await.unwrap();
    for _ in 0..20 {
        let dropped = tokio::time::timeout(Duration::from_millis(2), client.publish(document("never"))).await;
        assert!(dropped.is_err());
        assert!(client.publish_confirmed(document("never")).now_or_never().is_none());
    }
    peer.send(0, Content::Grant(Grant { messages: 1, bytes: 100 })).await;
    let second = soon("the second", client.publish_with(document("2").into())).await.unwrap();
    assert_eq!(second, first + 1);
    assert_eq!(peer.publish().await, (first, "1".into()));
    assert_eq!(peer.publish().await, (second, "2".into()));

    // Dropped after it was accepted, it is published once, and its answer finds nobody.
    peer.send(0, Content::Grant(Grant { messages: 2, bytes: 100 })).await;
    let confirmed = client.publish_confirmed(document("3"));
    assert!(tokio::time::timeout(Duration::from_millis(50), confirmed).await.is_err());
    let (number, body) = peer.publish().await;
    assert_eq!(body, "3");
    peer.send(number, Content::Published(Published { id: 1, live: 0, durable: 0 })).await;
    soon("the fourth", client.publish(document("4"))).await.unwrap();
    assert_eq!(peer.publish().await.1, "4");
}

#[tokio::test]
async fn a_document_beyond_the_frame_limit_is_refused_here() {
    let bus = Bus::new();
    let (client, mut peer) = bus.connected(crate::wire::Welcome { frame_bytes_max: 200, ..welcome() }).await;
    let mut sizes = (0, 0);
    for body in 100..300 {
        match client.publish(document(&"x".repeat(body))).await {
            Ok(()) => sizes.0 = body,
            Err(error) => {
                assert_eq!((error.kind(), error.limit()), (ErrorKind::TooLarge, Some(200)));
                assert!(error.value() > Some(200));
                assert!(error.to_string().contains("200"), "{error}");
                sizes.1 += 1;
            }
        }
    }
    assert_eq!(sizes.0 + sizes.1, 299);
    // The longest that was taken has 200 bytes exactly.
    let mut longest = 0;
    for _ in 100..=sizes.0 {
        longest = longest.max(peer.frame().await.encode().len() - 4);
    }
    assert_eq!(longest, 200);
    assert!(peer.is_silent().await);
}

#[tokio::test]
async fn what_is_queued_together_is_written_together() {
    let bus = Bus::new();
    let (client, peer) = bus.connected(welcome()).await;
    // Fewer than tokio gives one task a turn for: after so many it is the driver's.
    for n in 0..100 {
        client.publish(document(&n.to_string())).await.unwrap();
    }
    // One thread: the driver has not run yet. Then one write brings all.
    soon("bytes", peer.stream.readable()).await.unwrap();
    let mut bytes = vec![0; 1 << 20];
    let read = peer.stream.try_read(&mut bytes).unwrap();
    let mut buffer = bytes::BytesMut::from(&bytes[..read]);
    let mut frames = 0;
    while let Ok(Some(_)) = crate::wire::split_frame(&mut buffer, 1 << 20) {
        frames += 1;
    }
    assert_eq!((frames, buffer.len()), (100, 0));
}

#[tokio::test]
async fn close_writes_what_was_accepted_and_says_goodbye() {
    let bus = Bus::new();
    let (client, mut peer) = bus.connected(crate::wire::Welcome { credit_messages: 500, ..welcome() }).await;
    // More than the socket holds, so that writing has to wait for reading.
    let body = "x".repeat(10_000);
    for _ in 0..500 {
        client.publish(document(&body)).await.unwrap();
    }
    let other = client.clone();
    let waiting = tokio::spawn(async move { other.publish(document("too late")).await });
    tokio::task::yield_now().await;
    let script = async {
        for _ in 0..500 {
            assert_eq!(peer.publish().await.1.len(), 10_000);
        }
        assert!(matches!(peer.frame().await.content, Content::Bye(_)));
        assert!(soon("the end", peer.next()).await.is_none());
        drop(peer);
    };
    let (closed, ()) = tokio::join!(client.close(), script);
    closed.unwrap();
    assert_eq!(waiting.await.unwrap().unwrap_err().kind(), ErrorKind::Closed);
    assert_eq!(client.publish(document("x")).await.unwrap_err().kind(), ErrorKind::Closed);
    assert_eq!(client.ping().await.unwrap_err().kind(), ErrorKind::Closed);
    client.close().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn close_is_not_missed_behind_a_publish() {
    for _ in 0..300 {
        let bus = Bus::new();
        let (client, mut peer) = bus.connected(welcome()).await;
        let script = tokio::spawn(async move { while !matches!(peer.frame().await.content, Content::Bye(_)) {} });
        // The driver is writing the first ones when the last one and close wake it, perhaps as one.
        for n in 0..200 {
            client.publish(document(&n.to_string())).await.unwrap();
        }
        soon("close", client.close()).await.unwrap();
        script.await.unwrap();
    }
}

#[tokio::test(start_paused = true)]
async fn a_bus_that_does_not_read_cannot_hold_up_close() {
    let bus = Bus::new();
    let (client, _peer) = bus.connected(welcome()).await;
    let body = "x".repeat(100_000);
    for _ in 0..50 {
        client.publish(document(&body)).await.unwrap();
    }
    let began = tokio::time::Instant::now();
    let error = client.close().await.unwrap_err();
    assert_eq!((error.kind(), began.elapsed().as_secs()), (ErrorKind::Disconnected, 5));
    assert!(error.to_string().contains("before everything was written"), "{error}");
}

#[tokio::test]
async fn an_answer_in_flight_survives_close() {
    let bus = Bus::new();
    let (client, mut peer) = bus.connected(welcome()).await;
    let other = client.clone();
    let confirmed = tokio::spawn(async move { other.publish_confirmed(document("x")).await });
    let (number, _) = peer.publish().await;
    let script = async {
        while let Some(frame) = peer.next().await {
            assert!(matches!(frame.content, Content::Bye(_)));
        }
        peer.send(number, Content::Published(Published { id: 9, live: 1, durable: 0 })).await;
        drop(peer);
    };
    let (closed, ()) = tokio::join!(client.close(), script);
    closed.unwrap();
    assert_eq!(confirmed.await.unwrap().unwrap().id, 9);
}

#[test]
fn a_runtime_that_ends_leaves_nobody_waiting() {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let bus = runtime.block_on(async { Bus::new() });
    let (client, _peer) = runtime.block_on(bus.connected(crate::wire::Welcome { credit_messages: 0, ..welcome() }));
    drop(runtime);
    let other = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let error = other.block_on(soon("an error", client.publish(document("x")))).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Closed);
}
