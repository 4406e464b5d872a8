//! Connections that are lost, and what the next one goes on with.

use std::time::Duration;

use super::*;
use crate::client::{Client, Event, Notice, NoticeReceiver, Subscription};
use crate::error::{Error, ErrorKind};
use crate::message::{Gap, GapReason};
use crate::wire::{Code, Content, Grant, OperatorState, Published, Welcome};

async fn disconnected(notices: &mut NoticeReceiver) -> Error {
    loop {
        match soon("Disconnected", notices.next()).await {
            Some(Notice::Disconnected(error)) => return error,
            Some(_) => {}
            None => panic!("the notices ended"),
        }
    }
}

async fn subscribed(client: &Client, peer: &mut Peer) -> (Subscription, u32) {
    let script = async {
        let (number, _) = peer.subscribe().await;
        peer.send(number, Content::Ok).await;
        number
    };
    let (subscription, number) = tokio::join!(client.subscribe("type=test"), script);
    (subscription.unwrap(), number)
}

#[tokio::test]
async fn subscriptions_go_on_with_their_numbers_and_a_gap() {
    let bus = Bus::new();
    let (client, mut peer) = bus.connected(welcome()).await;
    let (mut first, one) = subscribed(&client, &mut peer).await;
    let (mut second, two) = subscribed(&client, &mut peer).await;
    peer.deliver(one, 1001, "x").await;
    peer.deliver(two, 1005, "y").await;
    assert!(matches!(soon("one", first.next()).await, Some(Event::Message(_))));
    assert!(matches!(soon("two", second.next()).await, Some(Event::Message(_))));
    drop(peer);

    let script = async |with: Welcome| {
        let mut peer = bus.welcome(with).await;
        let ((a, subscribe), (b, _)) = (peer.subscribe().await, peer.subscribe().await);
        assert_eq!((a, b), (one, two));
        assert_eq!(subscribe.filters, ["type=test"]);
        assert_eq!(subscribe.window_messages, 16_383);
        peer.send(a, Content::Ok).await;
        peer.send(b, Content::Ok).await;
        peer
    };
    // The same bus, and messages up to 1005: the first may have missed some, the second has seen the last one.
    let mut peer = script(Welcome { session: 2, last_id: 1005, ..welcome() }).await;
    let gap = Gap { first: 1002, last: 1005, count: None, reason: GapReason::Disconnected };
    assert_eq!(soon("the gap", first.next()).await, Some(Event::Gap(gap)));
    peer.send(0, Content::Ping(crate::wire::Value { value: 1 })).await;
    assert!(matches!(peer.frame().await.content, Content::Pong(_)));
    assert_eq!(second.try_next(), None);
    assert_eq!(client.welcome().session, 2);

    // Another boot: both are told, even though the ids say nothing.
    drop(peer);
    let mut peer = script(Welcome { boot: 101, last_id: 1005, ..welcome() }).await;
    let gap = Gap { first: 1006, last: 1006, count: None, reason: GapReason::BusCrash };
    assert_eq!(soon("the gap", first.next()).await, Some(Event::Gap(gap)));
    assert_eq!(soon("the gap", second.next()).await, Some(Event::Gap(gap)));
    peer.deliver(one, 2000, "z").await;
    assert!(matches!(soon("a message", first.next()).await, Some(Event::Message(_))));
}

#[tokio::test]
async fn what_waits_unread_still_counts_against_the_window() {
    let bus = Bus::new();
    let (client, mut peer) = bus.connected(welcome()).await;
    let script = async {
        let (number, _) = peer.subscribe().await;
        peer.send(number, Content::Ok).await;
        number
    };
    let (subscription, number) = tokio::join!(client.subscribe("*").window(10, 100), script);
    let mut subscription = subscription.unwrap();
    for id in 1..=7 {
        peer.deliver(number, id, &"x".repeat(20)).await;
    }
    let bytes = crate::wire::EncodedDocument::from(&document(&"x".repeat(20))).bytes().len() as u64;
    assert!(7 * bytes > 100);
    drop(peer);
    let mut peer = bus.welcome(Welcome { last_id: 7, ..welcome() }).await;
    let (_, subscribe) = peer.subscribe().await;
    assert_eq!((subscribe.window_messages, subscribe.window_bytes), (3, 0));
    // What was overdrawn comes off the grants, so that the window stays what it was.
    for _ in 0..7 {
        assert!(matches!(soon("a message", subscription.next()).await, Some(Event::Message(_))));
    }
    let mut granted = (3, 0);
    while granted.0 < 9 {
        let (_, grant) = peer.grant().await;
        granted = (granted.0 + grant.messages, granted.1 + grant.bytes);
    }
    // One message is taken and not worth a grant yet.
    assert_eq!(granted, (9, 100 - bytes));
}

#[tokio::test]
async fn open_requests_fail_and_unsent_publishes_wait() {
    let bus = Bus::new();
    let (client, mut peer) = bus.connected(welcome()).await;
    let mut notices = client.notices();
    let spawn = |body: &'static str| {
        let client = client.clone();
        tokio::spawn(async move { client.publish_confirmed(document(body)).await })
    };
    let taken = spawn("taken");
    assert_eq!(peer.publish().await.1, "taken");
    let other = client.clone();
    let request = tokio::spawn(async move { other.request(document("q"), Duration::from_secs(60)).await });
    assert!(matches!(peer.frame().await.content, Content::Request(_)));
    let other = client.clone();
    let control = tokio::spawn(async move { other.control("status", "", "").await });
    assert!(matches!(peer.frame().await.content, Content::Control(_)));
    drop(peer);
    let error = disconnected(&mut notices).await;
    assert_eq!(error.kind(), ErrorKind::Disconnected);
    assert_eq!(soon("request", request).await.unwrap().unwrap_err().kind(), ErrorKind::Disconnected);
    assert_eq!(soon("control", control).await.unwrap().unwrap_err().kind(), ErrorKind::Disconnected);
    assert!(!client.is_connected());
    assert_eq!(client.ping().await.unwrap_err().kind(), ErrorKind::Disconnected);

    // While the bus is away publishing waits; what it did not confirm is said again before.
    let later = spawn("later");
    let mut peer = bus.welcome(welcome()).await;
    for expected in ["taken", "later"] {
        let (number, body) = peer.publish().await;
        assert_eq!(body, expected);
        peer.send(number, Content::Published(Published { id: 1, live: 0, durable: 0 })).await;
    }
    soon("taken", taken).await.unwrap().unwrap();
    soon("later", later).await.unwrap().unwrap();
}

#[tokio::test]
async fn what_was_accepted_and_not_begun_goes_out_on_the_next_connection() {
    let bus = Bus::new();
    let (client, peer) = bus.connected(Welcome { credit_messages: 200, ..welcome() }).await;
    let mut notices = client.notices();
    // The socket holds a few of these; the bus reads none.
    let body = "x".repeat(40_000);
    for n in 0..100 {
        client.publish(document(&format!("{n:03}{body}"))).await.unwrap();
    }
    let other = client.clone();
    let confirmed = tokio::spawn(async move { other.publish_confirmed(document("confirmed")).await });
    tokio::time::sleep(Duration::from_millis(50)).await;
    drop(peer);
    disconnected(&mut notices).await;
    let mut peer = bus.welcome(Welcome { credit_messages: 200, ..welcome() }).await;
    let mut seen = Vec::new();
    let confirmed_number = loop {
        let (number, body) = peer.publish().await;
        if body == "confirmed" {
            break number;
        }
        seen.push(body[..3].parse::<usize>().unwrap());
    };
    peer.send(confirmed_number, Content::Published(Published { id: 3, live: 0, durable: 0 })).await;
    assert_eq!(soon("confirmed", confirmed).await.unwrap().unwrap().id, 3);
    // Without the ones that the dead bus may have read: a tail, in order, nothing twice.
    assert!(!seen.is_empty() && seen[0] > 0, "{seen:?}");
    assert_eq!(seen, (seen[0]..100).collect::<Vec<_>>());
    // Credit counts them.
    let credit_left = 200 - seen.len() - 1;
    for _ in 0..credit_left {
        client.publish(document("y")).await.unwrap();
    }
    assert!(tokio::time::timeout(Duration::from_millis(50), client.publish(document("z"))).await.is_err());
}

#[tokio::test]
async fn what_less_credit_on_the_next_connection_holds_back_waits_for_more() {
    let bus = Bus::new();
    let (client, peer) = bus.connected(welcome()).await;
    let mut notices = client.notices();
    let body = "x".repeat(40_000);
    for _ in 0..100 {
        client.publish(document(&body)).await.unwrap();
    }
    tokio::time::sleep(Duration::from_millis(50)).await;
    drop(peer);
    disconnected(&mut notices).await;
    let mut peer = bus.welcome(Welcome { credit_messages: 2, ..welcome() }).await;
    peer.publish().await;
    peer.publish().await;
    assert!(peer.is_silent().await);
    // Nothing newer overtakes what waits.
    let newer = client.clone();
    let newer = tokio::spawn(async move { newer.publish(document("z")).await });
    peer.send(0, Content::Grant(Grant { messages: 1, bytes: 100 })).await;
    assert_eq!(peer.publish().await.1, body);
    assert!(peer.is_silent().await);
    peer.send(0, Content::Grant(Grant { messages: 200, bytes: 0 })).await;
    while peer.publish().await.1 != "z" {}
    soon("credit", newer).await.unwrap().unwrap();
}

#[tokio::test]
async fn claims_and_state_are_said_again() {
    let bus = Bus::new();
    let (client, mut peer) = bus.connected(welcome()).await;
    let mut notices = client.notices();
    for name in ["irc/libera", "irc/oftc"] {
        let script = async {
            let number = peer.frame().await.number;
            peer.send(number, Content::Ok).await;
        };
        let (claimed, ()) = tokio::join!(client.claim(name), script);
        claimed.unwrap();
    }
    client.state(OperatorState::Ready, "on #eevee").unwrap();
    assert!(matches!(peer.frame().await.content, Content::State(_)));
    drop(peer);
    disconnected(&mut notices).await;
    let other = client.clone();
    let third = tokio::spawn(async move { other.claim("irc/third").await });
    tokio::task::yield_now().await;

    let mut peer = bus.welcome(welcome()).await;
    let mut names = Vec::new();
    for _ in 0..3 {
        let frame = peer.frame().await;
        let Content::Claim(name) = frame.content else { panic!() };
        if name.text == "irc/oftc" {
            peer.send(frame.number, refusal(Code::AlreadyConnected, "held by irc2")).await;
        } else {
            peer.send(frame.number, Content::Ok).await;
        }
        names.push(name.text);
    }
    names.sort();
    assert_eq!(names, ["irc/libera", "irc/oftc", "irc/third"]);
    let Content::State(state) = peer.frame().await.content else { panic!() };
    assert_eq!(state.status, "on #eevee");
    soon("the third", third).await.unwrap().unwrap();
    loop {
        if let Some(Notice::ClaimLost { name, error }) = soon("the loss", notices.next()).await {
            assert_eq!((&*name, error.code()), ("irc/oftc", Some(Code::AlreadyConnected)));
            assert!(error.to_string().contains("held by irc2"), "{error}");
            break;
        }
    }
}

#[tokio::test]
async fn a_subscription_may_be_opened_while_the_bus_is_away() {
    let bus = Bus::new();
    let (client, peer) = bus.connected(welcome()).await;
    let mut notices = client.notices();
    drop(peer);
    disconnected(&mut notices).await;
    let script = async {
        let mut peer = bus.welcome(Welcome { boot: 2, last_id: 5000, ..welcome() }).await;
        let (number, _) = peer.subscribe().await;
        peer.send(number, Content::Ok).await;
        peer.deliver(number, 5001, "first").await;
        peer
    };
    let (subscription, _peer) = tokio::join!(client.subscribe("*"), script);
    // It missed nothing, as it did not exist.
    assert!(matches!(subscription.unwrap().next().await, Some(Event::Message(message)) if message.id == 5001));
}

#[tokio::test]
async fn nonsense_from_the_bus_is_told_and_the_next_connection_is_made() {
    let too_long = (3_u32 << 20).to_le_bytes();
    let mut cut = crate::wire::Frame::new(1, Content::Answer(text("a long answer"))).encode();
    cut.truncate(20);
    for (said, kind, word) in [
        (&b"\0\0\0\0"[..], ErrorKind::Wire, "length 0"),
        (&too_long, ErrorKind::Wire, "at most"),
        (b"\x09\0\0\0\x14\0\0\0\x01\0\0\0\xff", ErrorKind::Wire, "malformed"),
        (&cut, ErrorKind::Disconnected, "middle of a frame"),
        (b"", ErrorKind::Disconnected, "closed the connection"),
    ] {
        let bus = Bus::new();
        let (client, mut peer) = bus.connected(welcome()).await;
        let mut notices = client.notices();
        peer.write(said).await;
        drop(peer);
        let error = disconnected(&mut notices).await;
        assert_eq!(error.kind(), kind, "{error}");
        assert!(error.to_string().contains(word), "{error}");
        let _peer = bus.welcome(Welcome { session: 2, ..welcome() }).await;
        assert!(matches!(soon("again", notices.next()).await, Some(Notice::Connected(w)) if w.session == 2));
    }
}

#[tokio::test]
async fn the_bus_says_why_it_closes() {
    let bus = Bus::new();
    let (client, mut peer) = bus.connected(welcome()).await;
    let mut notices = client.notices();
    peer.send(0, Content::Bye(text("eeveed is stopping"))).await;
    drop(peer);
    let error = disconnected(&mut notices).await;
    assert!(error.to_string().contains("eeveed is stopping"), "{error}");
    // An error that ends the session, with its code.
    let mut peer = bus.welcome(welcome()).await;
    peer.send(0, refusal(Code::Credit, "1001 messages, 1000 granted")).await;
    let error = disconnected(&mut notices).await;
    assert_eq!(error.kind(), ErrorKind::Refused(Code::Credit));
}

#[tokio::test]
async fn a_client_that_is_not_believed_any_more_ends() {
    let bus = Bus::new();
    let (client, mut peer) = bus.connected(welcome()).await;
    let mut notices = client.notices();
    let (mut subscription, _) = subscribed(&client, &mut peer).await;
    drop(peer);
    let mut peer = bus.accept().await;
    peer.hello().await;
    peer.send(0, refusal(Code::Auth, "unknown token")).await;
    let ended = loop {
        match soon("the end", notices.next()).await {
            Some(Notice::Ended(error)) => break error,
            Some(_) => {}
            None => panic!("no Ended"),
        }
    };
    assert_eq!(ended.kind(), ErrorKind::Auth);
    assert_eq!(client.publish(document("x")).await.unwrap_err().kind(), ErrorKind::Auth);
    assert_eq!(soon("the end", subscription.next()).await, None);
    assert_eq!(subscription.failure().unwrap().kind(), ErrorKind::Auth);
    assert_eq!(client.close().await.unwrap_err().kind(), ErrorKind::Auth);
}

#[tokio::test]
async fn other_refusals_are_tried_again() {
    let bus = Bus::new();
    let (client, peer) = bus.connected(welcome()).await;
    drop(peer);
    for code in [Code::Quota, Code::Stopping, Code::NotFound] {
        let mut peer = bus.accept().await;
        peer.hello().await;
        peer.send(0, refusal(code, "not now")).await;
    }
    let _peer = bus.welcome(Welcome { session: 9, ..welcome() }).await;
    while client.welcome().session != 9 {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

#[tokio::test]
async fn the_same_process_says_so() {
    let bus = Bus::new();
    let mut instances = Vec::new();
    let (client, mut peer) = {
        let script = async {
            let mut peer = bus.accept().await;
            instances.push(peer.hello().await.instance);
            peer.send(0, Content::Welcome(welcome())).await;
            peer
        };
        tokio::join!(Client::connect(bus.operator()), script)
    };
    let _client = client.unwrap();
    for _ in 0..3 {
        drop(peer);
        peer = bus.accept().await;
        instances.push(peer.hello().await.instance);
        peer.send(0, Content::Welcome(welcome())).await;
    }
    assert!(instances.iter().all(|instance| *instance == instances[0] && *instance != 0), "{instances:?}");
}

#[tokio::test]
async fn a_client_can_be_closed_while_the_bus_is_away() {
    let bus = Bus::new();
    let (client, peer) = bus.connected(welcome()).await;
    let mut notices = client.notices();
    drop(peer);
    disconnected(&mut notices).await;
    drop(bus);
    tokio::time::sleep(Duration::from_millis(20)).await;
    soon("close", client.close()).await.unwrap();
    assert_eq!(client.publish(document("x")).await.unwrap_err().kind(), ErrorKind::Closed);
}

#[tokio::test]
async fn a_verdict_belongs_to_the_connection_that_asked() {
    let bus = Bus::new();
    let (client, mut peer) = bus.connected(welcome()).await;
    let mut notices = client.notices();
    let file = crate::wire::Module { kind: "a".into(), path: "b".into(), text: "c".into() };
    peer.send(5, Content::Reload(file)).await;
    while !matches!(soon("reload", notices.next()).await, Some(Notice::Reload { .. })) {}
    drop(peer);
    disconnected(&mut notices).await;
    let verdict = crate::wire::Verdict { accepted: true, text: String::new() };
    assert_eq!(client.verdict(5, verdict).unwrap_err().kind(), ErrorKind::Invalid);
}

#[tokio::test]
async fn a_client_that_shall_not_reconnect_ends() {
    let bus = Bus::new();
    let (client, peer) = tokio::join!(Client::connect(bus.tool().reconnect(false)), bus.welcome(welcome()));
    let client = client.unwrap();
    drop(peer);
    let error = soon("the end", client.subscribe("*")).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Disconnected);
}

#[tokio::test]
async fn a_connection_can_be_given_up() {
    let bus = Bus::new();
    let (client, _stopped) = bus.connected(welcome()).await;
    let mut notices = client.notices();
    client.reconnect("no pong in 5 s");
    let error = disconnected(&mut notices).await;
    assert_eq!((error.kind(), &*error.to_string()), (ErrorKind::Disconnected, "no pong in 5 s"));
    // While there is none, there is nothing to give up: the next one stays.
    client.reconnect("twice");
    let mut peer = bus.welcome(Welcome { session: 2, ..welcome() }).await;
    assert!(matches!(soon("again", notices.next()).await, Some(Notice::Connected(w)) if w.session == 2));
    client.publish(document("x")).await.unwrap();
    assert_eq!(peer.publish().await.1, "x");
}
