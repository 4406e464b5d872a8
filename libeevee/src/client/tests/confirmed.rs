//! Confirmed publishes over connections that are lost: each is taken once, in order, and answered once.

use std::collections::HashMap;
use std::time::Duration;

use super::*;
use crate::client::{Client, Notice, NoticeReceiver, Outgoing};
use crate::error::{Error, ErrorKind};
use crate::wire::{CONFIRM, Code, Content, Frame, Grant, Publish, Published, REPEATED, Welcome};

type Answer = tokio::task::JoinHandle<Result<crate::Published, Error>>;

fn confirm(client: &Client, body: &str) -> Answer {
    let (client, document) = (client.clone(), document(body));
    tokio::spawn(async move { client.publish_confirmed(document).await })
}

/// The next publish: its number, epoch, sequence and text.
async fn publish(peer: &mut Peer) -> (u32, u64, u64, String) {
    let Frame { flags, number, content: Content::Publish(publish) } = peer.frame().await else { panic!("no publish") };
    let Publish { epoch, sequence, document, .. } = publish;
    assert_eq!(flags & CONFIRM != 0, epoch != 0);
    (number, epoch, sequence, String::from_utf8(document.body().to_vec()).unwrap())
}

fn published(id: u64) -> Content {
    Content::Published(Published { id, live: 1, durable: 1 })
}

async fn away(notices: &mut NoticeReceiver) {
    while !matches!(soon("Disconnected", notices.next()).await, Some(Notice::Disconnected(_))) {}
}

#[tokio::test]
async fn what_was_not_answered_is_said_again_before_anything_newer() {
    let bus = Bus::new();
    let (client, mut peer) = bus.connected(welcome()).await;
    let mut notices = client.notices();
    let mut answers = Vec::new();
    let mut first = Vec::new();
    for body in ["a", "b", "c", "d"] {
        answers.push(confirm(&client, body));
        first.push(publish(&mut peer).await);
    }
    client.publish(document("plain")).await.unwrap();
    assert_eq!(publish(&mut peer).await.3, "plain");
    let (_, epoch, ..) = first[0];
    assert_ne!(epoch, 0);
    let numbers: Vec<_> = first.iter().map(|(_, epoch, sequence, _)| (*epoch, *sequence)).collect();
    assert_eq!(numbers, [(epoch, 1), (epoch, 2), (epoch, 3), (epoch, 4)]);
    // One is answered, one refused; two are open, and the plain one is published at most once.
    peer.send(first[0].0, published(1)).await;
    peer.send(first[2].0, refusal(Code::Storage, "the disk is full")).await;
    assert_eq!(soon("a", answers.remove(0)).await.unwrap().unwrap().id, 1);
    assert_eq!(soon("c", answers.remove(1)).await.unwrap().unwrap_err().kind(), ErrorKind::Refused(Code::Storage));
    drop(peer);
    away(&mut notices).await;
    let newer = confirm(&client, "e");

    let mut peer = bus.welcome(Welcome { boot: 101, ..welcome() }).await;
    let (b, d, e) = (publish(&mut peer).await, publish(&mut peer).await, publish(&mut peer).await);
    assert_eq!((b.1, b.2, &*b.3), (epoch, 2, "b"));
    assert_eq!((d.1, d.2, &*d.3), (epoch, 4, "d"));
    assert_eq!((e.1, e.2, &*e.3), (epoch, 5, "e"));
    // The bus had one of them before it was killed.
    let known =
        Frame { flags: REPEATED, number: b.0, content: Content::Published(Published { id: 2, live: 0, durable: 0 }) };
    peer.write(&known.encode()).await;
    peer.send(d.0, published(4)).await;
    peer.send(e.0, published(5)).await;
    let (b, d) = (answers.remove(0), answers.remove(0));
    let b = soon("b", b).await.unwrap().unwrap();
    assert_eq!((b.id, b.repeated), (2, true));
    let d = soon("d", d).await.unwrap().unwrap();
    assert_eq!((d.id, d.live, d.durable, d.repeated), (4, 1, 1, false));
    assert_eq!(soon("e", newer).await.unwrap().unwrap().id, 5);
    // Answered is answered.
    drop(peer);
    away(&mut notices).await;
    let mut peer = bus.welcome(welcome()).await;
    assert!(peer.is_silent().await);
}

#[tokio::test]
async fn an_epoch_of_the_publishers_own_is_used_as_it_is() {
    let bus = Bus::new();
    let (client, mut peer) = bus.connected(welcome()).await;
    let mut notices = client.notices();
    let own = Outgoing { epoch: 77, sequence: 4096, ..document("line").into() };
    client.publish(own.clone()).await.unwrap();
    let Content::Publish(plain) = peer.frame().await.content else { panic!() };
    assert_eq!((plain.epoch, plain.sequence), (77, 4096));
    let confirming = client.clone();
    let answer = tokio::spawn(async move { confirming.publish_confirmed(own).await });
    let (_, epoch, sequence, _) = publish(&mut peer).await;
    assert_eq!((epoch, sequence), (77, 4096));
    drop(peer);
    away(&mut notices).await;
    let mut peer = bus.welcome(welcome()).await;
    let (number, epoch, sequence, _) = publish(&mut peer).await;
    assert_eq!((epoch, sequence), (77, 4096));
    peer.send(number, published(1)).await;
    soon("the answer", answer).await.unwrap().unwrap();
    // The client's own epoch counts its own messages alone.
    let other = confirm(&client, "x");
    let (number, epoch, sequence, _) = publish(&mut peer).await;
    assert!(epoch != 77 && sequence == 1, "{epoch} {sequence}");
    peer.send(number, published(2)).await;
    soon("the answer", other).await.unwrap().unwrap();
}

#[tokio::test]
async fn what_is_said_again_costs_the_credit_of_the_new_connection() {
    let bus = Bus::new();
    let (client, mut peer) = bus.connected(Welcome { credit_messages: 5, ..welcome() }).await;
    let mut notices = client.notices();
    let answers: Vec<Answer> = ["1", "2", "3", "4", "5"].map(|body| confirm(&client, body)).into();
    let mut order = Vec::new();
    for _ in 0..5 {
        order.push(publish(&mut peer).await.3);
    }
    let newer = confirm(&client, "6");
    for credit in [2, 1] {
        // Each time less is granted than is open, and the connection is lost before the rest.
        drop(peer);
        away(&mut notices).await;
        peer = bus.welcome(Welcome { credit_messages: credit, ..welcome() }).await;
        for expected in &order[..credit as usize] {
            assert_eq!(&publish(&mut peer).await.3, expected);
        }
        assert!(peer.is_silent().await, "more than the credit");
    }
    let mut numbers = HashMap::new();
    for expected in &order[1..] {
        peer.send(0, Content::Grant(Grant { messages: 1, bytes: 0 })).await;
        let (number, _, sequence, body) = publish(&mut peer).await;
        assert_eq!(&body, expected);
        numbers.insert(sequence, number);
    }
    assert!(peer.is_silent().await);
    peer.send(0, Content::Grant(Grant { messages: 1, bytes: 0 })).await;
    let (number, _, sequence, body) = publish(&mut peer).await;
    assert_eq!((sequence, &*body), (6, "6"));
    peer.send(number, published(6)).await;
    soon("6", newer).await.unwrap().unwrap();
    for number in numbers.values() {
        peer.send(*number, published(1)).await;
    }
    // The first went over the wire in the connection's first write, and is still open.
    let mut done = 0;
    for answer in answers {
        done += u32::from(tokio::time::timeout(Duration::from_millis(200), answer).await.is_ok());
    }
    assert_eq!(done, 4);
}

#[tokio::test]
async fn what_waits_for_credit_is_written_before_goodbye() {
    let bus = Bus::new();
    let (client, mut peer) = bus.connected(welcome()).await;
    let mut notices = client.notices();
    let _answers = ["1", "2", "3"].map(|body| confirm(&client, body));
    for _ in 0..3 {
        publish(&mut peer).await;
    }
    drop(peer);
    away(&mut notices).await;
    let mut peer = bus.welcome(Welcome { credit_messages: 1, ..welcome() }).await;
    let first = publish(&mut peer).await.3;
    let closing = client.clone();
    let closed = tokio::spawn(async move { closing.close().await });
    assert!(peer.is_silent().await);
    peer.send(0, Content::Grant(Grant { messages: 5, bytes: 0 })).await;
    let mut seen = vec![first, publish(&mut peer).await.3, publish(&mut peer).await.3];
    seen.sort();
    assert_eq!(seen, ["1", "2", "3"]);
    assert!(matches!(peer.frame().await.content, Content::Bye(_)));
    drop(peer);
    soon("close", closed).await.unwrap().unwrap();
}

#[tokio::test]
async fn a_client_that_ends_says_that_it_does_not_know() {
    let bus = Bus::new();
    let (client, mut peer) = tokio::join!(Client::connect(bus.tool().reconnect(false)), bus.welcome(welcome()));
    let client = client.unwrap();
    let answer = confirm(&client, "x");
    publish(&mut peer).await;
    drop(peer);
    assert_eq!(soon("x", answer).await.unwrap().unwrap_err().kind(), ErrorKind::Disconnected);

    let (client, mut peer) = bus.connected(welcome()).await;
    let mut notices = client.notices();
    let answer = confirm(&client, "x");
    publish(&mut peer).await;
    drop(peer);
    away(&mut notices).await;
    let error = soon("close", client.close()).await.unwrap_err();
    assert!(error.kind() == ErrorKind::Disconnected && error.to_string().contains("1 messages"), "{error}");
    assert_eq!(soon("x", answer).await.unwrap().unwrap_err().kind(), ErrorKind::Closed);
}

/// A bus that is lost at any moment, with what it was told committed or not, and publishers that only see answers.
#[tokio::test]
async fn whatever_is_lost_each_is_taken_once_and_in_order() {
    const PUBLISHERS: usize = 4;
    const EACH: usize = 20;
    for seed in 0..3 {
        let mut random = fastrand::Rng::with_seed(seed);
        let bus = Bus::new();
        let with = || Welcome { credit_messages: 3 + seed, credit_bytes: 4096, ..welcome() };
        let (client, mut peer) = bus.connected(with()).await;
        let publishers: Vec<_> = (0..PUBLISHERS)
            .map(|publisher| {
                let client = client.clone();
                tokio::spawn(async move {
                    for n in 0..EACH {
                        let answer = client.publish_confirmed(document(&format!("{publisher} {n}"))).await.unwrap();
                        assert_ne!(answer.id, 0);
                    }
                })
            })
            .collect();
        // What a bus keeps on its disk: the sequences it took, and the texts in their order.
        let mut taken: HashMap<u64, u64> = HashMap::new();
        let mut texts = Vec::new();
        let mut last = 0;
        while publishers.iter().any(|publisher| !publisher.is_finished()) {
            let next = tokio::time::timeout(Duration::from_millis(20), peer.next()).await;
            let Ok(Some(frame)) = next else {
                // All that is open was forgotten.
                drop(peer);
                (peer, last) = (bus.welcome(with()).await, 0);
                continue;
            };
            if random.u8(..) < 10 {
                drop(peer);
                (peer, last) = (bus.welcome(with()).await, 0);
                continue;
            }
            let Frame { number, content: Content::Publish(publish), .. } = frame else { panic!("{frame:?}") };
            assert!(publish.sequence > last, "{} after {last} on one connection", publish.sequence);
            last = publish.sequence;
            if random.u8(..) < 10 {
                continue;
            }
            let repeated = taken.contains_key(&publish.sequence);
            let id = *taken.entry(publish.sequence).or_insert_with(|| {
                texts.push(String::from_utf8(publish.document.body().to_vec()).unwrap());
                texts.len() as u64
            });
            if random.u8(..) < 20 {
                drop(peer);
                (peer, last) = (bus.welcome(with()).await, 0);
                continue;
            }
            let flags = if repeated { REPEATED } else { 0 };
            peer.write(&Frame { flags, number, content: published(id) }.encode()).await;
            peer.send(0, Content::Grant(Grant { messages: 1, bytes: 60 })).await;
        }
        for publisher in publishers {
            publisher.await.unwrap();
        }
        for publisher in 0..PUBLISHERS {
            let own: Vec<_> = texts.iter().filter(|text| text.starts_with(&format!("{publisher} "))).collect();
            let expected: Vec<_> = (0..EACH).map(|n| format!("{publisher} {n}")).collect();
            assert_eq!(own, expected.iter().collect::<Vec<_>>(), "seed {seed}");
        }
    }
}
