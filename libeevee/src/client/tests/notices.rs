//! What the operator runtime lives on: halted flags, reloads, states.

use super::*;
use crate::client::Notice;
use crate::error::ErrorKind;
use crate::wire::{Code, Content, Flag, Frame, Module, OperatorState, Verdict};

#[tokio::test]
async fn a_reload_goes_through_verdict_to_commit_or_abort() {
    let bus = Bus::new();
    let (client, mut peer) = bus.connected(welcome()).await;
    let file = Module { kind: "dice".into(), path: "/etc/x.toml".into(), text: "[settings]".into() };
    // Before anybody asked for notices: nothing of it is lost.
    peer.send(5, Content::Reload(file.clone())).await;
    peer.send(0, Content::Halted(Flag { on: true })).await;
    peer.send(0, Content::Ping(crate::wire::Value { value: 1 })).await;
    assert!(matches!(peer.frame().await.content, Content::Pong(_)));
    assert!(client.is_halted());

    let mut notices = client.notices();
    assert!(matches!(notices.next().await, Some(Notice::Connected(welcome)) if welcome.session == 1));
    let Some(Notice::Reload { number, module }) = notices.next().await else { panic!() };
    assert_eq!((number, module), (5, file));
    assert!(matches!(notices.next().await, Some(Notice::Halted(true))));
    let verdict = Verdict { accepted: true, text: String::new() };
    client.verdict(5, verdict.clone()).unwrap();
    assert_eq!(peer.frame().await, Frame::new(5, Content::Verdict(verdict.clone())));
    assert_eq!(client.verdict(5, verdict).unwrap_err().kind(), ErrorKind::Invalid);
    peer.send(5, Content::Commit).await;
    assert!(matches!(soon("commit", notices.next()).await, Some(Notice::Commit(5))));
    peer.send(6, Content::Abort(text("too slow"))).await;
    assert!(
        matches!(soon("abort", notices.next()).await, Some(Notice::Abort { number: 6, reason }) if reason == "too slow")
    );
    peer.send(0, Content::Halted(Flag { on: false })).await;
    assert!(matches!(soon("resume", notices.next()).await, Some(Notice::Halted(false))));

    client.close().await.unwrap();
    assert!(matches!(notices.next().await, Some(Notice::Ended(error)) if error.kind() == ErrorKind::Closed));
    assert!(notices.next().await.is_none());
}

#[tokio::test]
async fn the_last_state_counts() {
    let bus = Bus::new();
    let (client, mut peer) = bus.connected(welcome()).await;
    client.state(OperatorState::Starting, "").unwrap();
    client.state(OperatorState::Ready, "on #eevee").unwrap();
    let Content::State(state) = peer.frame().await.content else { panic!() };
    assert_eq!((state.state, &*state.status), (OperatorState::Ready as u8, "on #eevee"));
    assert!(peer.is_silent().await, "said twice");
    let long = client.state(OperatorState::Ready, "x".repeat(2 << 20)).unwrap_err();
    assert_eq!(long.kind(), ErrorKind::TooLarge);
}

#[tokio::test]
async fn frames_of_later_versions_are_skipped_or_refused() {
    let bus = Bus::new();
    let (client, mut peer) = bus.connected(welcome()).await;
    // Kind 200, ignorable; then without that flag, number 3.
    peer.write(&[10, 0, 0, 0, 200, 0, 1, 0, 0, 0, 0, 0, 7, 7]).await;
    peer.write(&[8, 0, 0, 0, 200, 0, 0, 0, 3, 0, 0, 0]).await;
    let frame = peer.frame().await;
    assert_eq!(frame.number, 3);
    assert!(matches!(frame.content, Content::Error(refusal) if refusal.code == Code::UnknownType as u16));
    // Of this version, but not for clients.
    peer.send(4, Content::Unsubscribe).await;
    assert!(matches!(peer.frame().await, Frame { number: 4, content: Content::Error(_), .. }));
    assert!(client.is_connected());
}

/// A publisher that is refused in a loop must not cost its operator a halt or a reload.
#[tokio::test]
async fn a_flood_of_refusals_displaces_no_other_notice() {
    let bus = Bus::new();
    let (client, mut peer) = bus.connected(welcome()).await;
    let mut notices = client.notices();
    for number in 1..=2000 {
        peer.send(1 << 31 | number, refusal(Code::Denied, "not you")).await;
    }
    peer.send(0, Content::Halted(Flag { on: true })).await;
    let script = async {
        let Content::Ping(value) = peer.frame().await.content else { panic!() };
        peer.send(0, Content::Pong(value)).await;
    };
    let (pong, ()) = tokio::join!(soon("a pong", client.ping()), script);
    pong.unwrap();
    let told: Vec<Notice> = std::iter::from_fn(|| notices.try_next()).collect();
    assert!(matches!(told.last(), Some(Notice::Halted(true))), "{:?} of {}", told.last(), told.len());
    assert!(told.len() > 500);
}
