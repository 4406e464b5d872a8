//! Requests with deadlines, replies, claims, control and ping.

use std::time::Duration;

use super::*;
use crate::client::Event;
use crate::error::ErrorKind;
use crate::message::{Message, Timestamp};
use crate::wire::{Code, Content, Deliver, Response};

fn response(body: &str) -> Content {
    Content::Response(Response { source: "dice".into(), timestamp: 5, document: (&document(body)).into() })
}

#[tokio::test]
async fn a_request_gets_its_answer() {
    let bus = Bus::new();
    let (client, mut peer) = bus.connected(welcome()).await;
    let script = async {
        let (first, second) = (peer.frame().await, peer.frame().await);
        let Content::Request(request) = first.content else { panic!() };
        assert_eq!(request.deadline_ms, 5000);
        peer.send(second.number, refusal(Code::NoResponder, "no subscription matched")).await;
        peer.send(first.number, response("six")).await;
    };
    let deadline = Duration::from_secs(5);
    let (one, two, ()) =
        tokio::join!(client.request(document("1"), deadline), client.request(document("2"), deadline), script);
    let one = one.unwrap();
    assert_eq!((&*one.source, one.timestamp, one.document.text()), ("dice", Timestamp(5), Some("six")));
    assert_eq!(two.unwrap_err().kind(), ErrorKind::Refused(Code::NoResponder));
}

#[tokio::test(start_paused = true)]
async fn a_request_without_answer_ends_at_its_deadline() {
    let bus = Bus::new();
    let (client, mut peer) = bus.connected(welcome()).await;
    let began = tokio::time::Instant::now();
    let error = client.request(document("x"), Duration::from_millis(1500)).await.unwrap_err();
    assert_eq!((error.kind(), began.elapsed().as_millis() / 100), (ErrorKind::Deadline, 15));
    // The bus's own word for it, too late for the first, in time for the second.
    let late = peer.frame().await.number;
    peer.send(late, refusal(Code::Deadline, "not answered in 1500 ms")).await;
    let script = async {
        let number = peer.frame().await.number;
        assert_ne!(number, late);
        peer.send(number, refusal(Code::Deadline, "not answered in 1500 ms")).await;
    };
    let (error, ()) = tokio::join!(client.request(document("x"), Duration::from_secs(1000)), script);
    assert_eq!(error.unwrap_err().kind(), ErrorKind::Deadline);
}

#[tokio::test(start_paused = true)]
async fn the_deadline_covers_the_wait_for_credit() {
    let bus = Bus::new();
    let (client, _peer) = bus.connected(crate::wire::Welcome { credit_messages: 0, ..welcome() }).await;
    let error = client.request(document("x"), Duration::from_secs(3)).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Deadline);
}

#[tokio::test]
async fn a_reply_goes_to_the_address_of_its_request() {
    let bus = Bus::new();
    let (client, mut peer) = bus.connected(welcome()).await;
    let script = async {
        let (number, _) = peer.subscribe().await;
        peer.send(number, Content::Ok).await;
        let deliver = Deliver {
            id: 1,
            source: "irc".into(),
            timestamp: 7,
            cause: None,
            hops: 0,
            reply_address: Some(77),
            attempt: 1,
            waited_ms: 0,
            document: (&document("question")).into(),
        };
        peer.send(number, Content::Deliver(deliver)).await;
        let Content::Reply(reply) = peer.frame().await.content else { panic!() };
        assert_eq!((reply.address, &*reply.document.body()), (77, &b"answer"[..]));
    };
    let user = async {
        let mut subscription = client.subscribe("*").await.unwrap();
        let question = subscription.next().await.and_then(Event::message).unwrap();
        client.reply_to(&question, document("answer")).await.unwrap();
        let plain = Message { reply_address: None, ..question };
        assert_eq!(client.reply_to(&plain, document("x")).await.unwrap_err().kind(), ErrorKind::Invalid);
        subscription
    };
    tokio::join!(user, script);
}

#[tokio::test]
async fn control_answers_with_text_with_ok_or_with_a_diagnosis() {
    let bus = Bus::new();
    let (client, mut peer) = bus.connected(welcome()).await;
    let script = async {
        let mut verbs = Vec::new();
        for answer in [Content::Answer(text("[]")), Content::Ok, refusal(Code::Refused, "irc.toml:3:1: no")] {
            let frame = peer.frame().await;
            let Content::Control(control) = frame.content else { panic!() };
            verbs.push(format!("{} {} {}", control.verb, control.id, control.argument));
            peer.send(frame.number, answer).await;
        }
        assert_eq!(verbs, ["status  ", "halt irc ", "reload irc {}"]);
    };
    let user = async {
        assert_eq!(client.control("status", "", "").await.unwrap().as_deref(), Some("[]"));
        assert_eq!(client.control("halt", "irc", "").await.unwrap(), None);
        let error = client.control("reload", "irc", "{}").await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Refused(Code::Refused));
        assert!(error.to_string().contains("irc.toml:3:1"), "{error}");
    };
    tokio::join!(user, script);
}

#[tokio::test]
async fn claims_are_held_once_and_given_back() {
    let bus = Bus::new();
    let (client, mut peer) = bus.connected(welcome()).await;
    let script = async {
        let first = peer.frame().await;
        assert_eq!(first.content, Content::Claim(text("irc/libera")));
        peer.send(first.number, Content::Ok).await;
        let second = peer.frame().await;
        assert_eq!(second.content, Content::Claim(text("irc/oftc")));
        peer.send(second.number, refusal(Code::AlreadyConnected, "held by irc2")).await;
        let third = peer.frame().await;
        assert_eq!(third.content, Content::Unclaim(text("irc/libera")));
        peer.send(third.number, Content::Ok).await;
    };
    let user = async {
        client.claim("irc/libera").await.unwrap();
        client.claim("irc/libera").await.unwrap();
        let error = client.claim("irc/oftc").await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Refused(Code::AlreadyConnected));
        client.unclaim("irc/libera").await.unwrap();
    };
    tokio::join!(user, script);
}

#[tokio::test]
async fn the_bus_may_ping_too() {
    let bus = Bus::new();
    let (_client, mut peer) = bus.connected(welcome()).await;
    peer.send(0, Content::Ping(crate::wire::Value { value: 99 })).await;
    assert_eq!(peer.frame().await.content, Content::Pong(crate::wire::Value { value: 99 }));
}
