//! The life of an operator, seen from outside: real processes with real signals, a scripted bus, and a Unix socket in the
//! place of systemd's.
#![allow(clippy::unwrap_used, reason = "a helper of a test that cannot go on fails the test")]

mod place;
mod support;

use std::time::{Duration, Instant};

use libeevee::wire::{Ack, Content, Flag, Text};
use libeevee::{Code, Document, OperatorState};
use nix::sys::signal::Signal;
use place::{CLOCK, Place, refusal};
use support::{said, welcome};

const fn halted(on: bool) -> Content {
    Content::Halted(Flag { on })
}

#[tokio::test]
async fn hello_world_answers() {
    let place = Place::new();
    let bus = place.bus();
    let mut operator = place.start("hello");
    let mut session = bus.session(Content::Welcome(welcome("hello", "hello", Some("")))).await;
    let ready = place.systemd.expect("READY=1").await;
    assert_eq!(ready, ["READY=1", "STATUS=commands: hello"]);
    assert_eq!(session.state(OperatorState::Ready).await, "commands: hello");
    let [(number, filters)] = &session.subscriptions[..] else { panic!("{:?}", session.subscriptions) };
    assert_eq!(filters, &["type=chat.message,direction=in,command=hello"]);
    assert!(session.token.starts_with("eevee1.hello"));

    session.deliver(*number, 1001, &said("!hello you")).await;
    let (publish, document) = session.published("chat.message").await;
    assert_eq!((publish.cause, publish.hops), (Some(1001), 2));
    assert_eq!(document.text(), Some("hello"));
    let headers: Vec<(&str, &str)> = document.headers.iter().collect();
    let expected = [
        ("type", "chat.message"),
        ("direction", "out"),
        ("platform", "irc"),
        ("network", "libera"),
        ("channel", "#rust"),
    ];
    assert_eq!(headers, expected);

    operator.signal(Signal::SIGTERM);
    assert_eq!(place.systemd.expect("STOPPING=1").await, ["STOPPING=1", "STATUS=stopping"]);
    session.state(OperatorState::Stopping).await;
    drop(session);
    assert_eq!(operator.exit().await.code(), Some(0));
}

#[tokio::test]
async fn it_waits_while_the_bus_is_away() {
    let place = Place::new();
    let operator = place.start("hello");
    let lines = place.systemd.expect("EXTEND_TIMEOUT_USEC=").await;
    assert_eq!(lines, ["EXTEND_TIMEOUT_USEC=30000000", "STATUS=bus away 1 s"]);
    let bus = place.bus();
    let mut session = bus.session(Content::Welcome(welcome("hello", "hello", None))).await;
    assert_eq!(place.systemd.expect("READY=1").await, ["READY=1", "STATUS=commands: hello"]);
    session.state(OperatorState::Ready).await;

    drop(bus);
    session.close();
    assert!(place.systemd.expect("STATUS=bus away ").await[0].ends_with(" s"));
    let bus = place.bus();
    let mut session = bus.session(Content::Welcome(welcome("hello", "hello", None))).await;
    assert_eq!(place.systemd.expect("STATUS=commands").await, ["STATUS=commands: hello"]);
    assert_eq!(session.state(OperatorState::Ready).await, "commands: hello");
    drop(operator);
}

#[tokio::test]
async fn stop_while_waiting_is_immediate() {
    let place = Place::new();
    let mut operator = place.start("hello");
    place.systemd.expect("EXTEND_TIMEOUT_USEC=").await;
    let asked = Instant::now();
    operator.signal(Signal::SIGINT);
    place.systemd.expect("STOPPING=1").await;
    assert_eq!(operator.exit().await.code(), Some(0));
    assert!(asked.elapsed() < Duration::from_secs(5), "{:?}", asked.elapsed());
}

#[tokio::test]
async fn stop_finishes_what_is_in_hand() {
    let place = Place::new();
    let bus = place.bus();
    let (operator, mut session) = place.ready(&bus, "clock", CLOCK).await;
    operator.signal(Signal::SIGTERM);
    place.systemd.expect("STOPPING=1").await;
    assert_eq!(session.published("clock.stopped").await.1.text(), Some("bye"));
    session
        .expect("Bye", |frame| match frame.content {
            Content::Bye(Text { text }) => Some(text),
            _ => None,
        })
        .await;
    drop(session);
    assert_eq!(operator.end().await.0, Some(0));
}

#[tokio::test]
async fn a_bus_that_hangs_does_not_hold_up_the_stop() {
    let place = Place::new();
    let bus = place.bus();
    let (mut operator, session) = place.ready(&bus, "clock", CLOCK).await;
    let asked = Instant::now();
    operator.signal(Signal::SIGTERM);
    // The session neither reads nor closes.
    assert_eq!(operator.exit().await.code(), Some(0));
    assert!(asked.elapsed() < Duration::from_secs(10), "{:?}", asked.elapsed());
    drop(session);
}

#[tokio::test]
async fn the_watchdog_goes_through_loop_and_bus() {
    let mut place = Place::new();
    place.watchdog = Some(Duration::from_secs(2));
    let bus = place.bus();
    let (_operator, session) = place.ready(&bus, "clock", CLOCK).await;
    for _ in 0..3 {
        let began = Instant::now();
        place.systemd.expect("WATCHDOG=1").await;
        assert!(began.elapsed() < Duration::from_millis(1900), "{:?}", began.elapsed());
    }
    // A bus that hangs: the connection is given up, and the operator lives on.
    session.answer_pings(false);
    let next = bus.session(Content::Welcome(welcome("clock", "clock", Some(CLOCK)))).await;
    place.systemd.expect("WATCHDOG=1").await;
    // A bus that is away.
    drop((bus, session));
    next.close();
    place.systemd.expect("STATUS=bus away ").await;
    for _ in 0..2 {
        let began = Instant::now();
        place.systemd.expect("WATCHDOG=1").await;
        assert!(began.elapsed() < Duration::from_millis(1900), "{:?}", began.elapsed());
    }
}

/// The loop of this clock publishes each tick itself, so it waits for the bus and not in `next`.
#[tokio::test]
async fn a_loop_that_publishes_outlives_an_outage() {
    let mut place = Place::new();
    place.watchdog = Some(Duration::from_secs(2));
    let bus = place.bus();
    let (_operator, session) = place.ready(&bus, "clock", &CLOCK.replace("3600000", "10")).await;
    drop(bus);
    session.close();
    place.systemd.expect("STATUS=bus away ").await;
    for _ in 0..3 {
        let began = Instant::now();
        place.systemd.expect("WATCHDOG=1").await;
        assert!(began.elapsed() < Duration::from_millis(1900), "{:?}", began.elapsed());
    }
}

#[tokio::test]
async fn halt_and_resume_by_the_bus() {
    let place = Place::new();
    let bus = place.bus();
    let (operator, mut session) = place.ready(&bus, "hello", "").await;
    let number = session.subscriptions[0].0;
    session.send(0, halted(true)).await;
    assert_eq!(session.state(OperatorState::Halted).await, "halted");
    place.systemd.expect("STATUS=halted").await;
    // What had come already is held, too.
    session.deliver(number, 1001, &said("!hello")).await;
    assert!(session.is_without(|content| matches!(content, Content::Publish(_))).await);
    session.send(0, halted(false)).await;
    let (mut state, mut answered) = (None, None);
    session
        .expect("the answer and the state", |frame| {
            match frame.content {
                Content::State(said) => state = Some((said.state, said.status)),
                Content::Publish(publish) => answered = publish.cause,
                _ => {}
            }
            (state.is_some() && answered.is_some()).then_some(())
        })
        .await;
    assert_eq!((state, answered), (Some((OperatorState::Ready as u8, "commands: hello".into())), Some(1001)));
    place.systemd.expect("STATUS=commands: hello").await;
    drop(operator);
}

#[tokio::test]
async fn a_halt_outlives_a_restart() {
    let place = Place::new();
    let bus = place.bus();
    let operator = place.start("clock");
    let mut halted = welcome("clock", "clock", Some(CLOCK));
    halted.halted = true;
    let mut session = bus.session(Content::Welcome(halted)).await;
    place.systemd.expect("READY=1").await;
    assert_eq!(session.state(OperatorState::Halted).await, "halted");
    place.systemd.expect("STATUS=halted").await;
    // A reconnect to a bus that has forgotten the halt resumes.
    session.close();
    let mut session = bus.session(Content::Welcome(welcome("clock", "clock", Some(CLOCK)))).await;
    assert_eq!(session.state(OperatorState::Ready).await, "ticking");
    place.systemd.expect("STATUS=ticking").await;
    drop(operator);
}

#[tokio::test]
async fn signals_ask_the_bus() {
    let place = Place::new();
    let bus = place.bus();
    let (mut operator, mut session) = place.ready(&bus, "hello", "").await;

    operator.signal(Signal::SIGHUP);
    let (number, verb, id) = session.control().await;
    assert_eq!((verb.as_str(), id.as_str()), ("reload", "hello"));
    session.send(number, refusal(Code::Refused, "eeveed.toml:1:1: wrong")).await;

    // A bare SIGTSTP halts, and SIGCONT ends that halt.
    operator.signal(Signal::SIGTSTP);
    let (number, verb, _) = session.control().await;
    assert_eq!(verb, "halt");
    session.send(0, halted(true)).await;
    session.send(number, Content::Ok).await;
    session.state(OperatorState::Halted).await;
    operator.signal(Signal::SIGCONT);
    let (number, verb, _) = session.control().await;
    assert_eq!(verb, "resume");
    session.send(0, halted(false)).await;
    session.send(number, Content::Ok).await;
    session.state(OperatorState::Ready).await;

    // eeveectl halt: the flag first, then SIGTSTP. SIGCONT of a debugger does not end it.
    session.send(0, halted(true)).await;
    operator.signal(Signal::SIGTSTP);
    session.state(OperatorState::Halted).await;
    operator.signal(Signal::SIGCONT);
    assert!(session.is_without(|content| matches!(content, Content::Control(_))).await);

    // eeveectl halt and at once eeveectl resume: its SIGTSTP is late, and halts nothing.
    session.send(0, halted(false)).await;
    session.state(OperatorState::Ready).await;
    session.send(0, halted(true)).await;
    operator.signal(Signal::SIGTSTP);
    session.state(OperatorState::Halted).await;
    session.send(0, halted(false)).await;
    operator.signal(Signal::SIGCONT);
    session.state(OperatorState::Ready).await;
    assert!(session.is_without(|content| matches!(content, Content::Control(_))).await);
    session.send(0, halted(true)).await;
    session.state(OperatorState::Halted).await;

    // A process stopped by SIGSTOP is halted by the flag alone; SIGCONT wakes it up, halted.
    session.send(0, halted(false)).await;
    session.state(OperatorState::Ready).await;
    operator.signal(Signal::SIGSTOP);
    session.send(0, halted(true)).await;
    operator.signal(Signal::SIGTSTP);
    operator.signal(Signal::SIGCONT);
    session.state(OperatorState::Halted).await;
    assert!(session.is_without(|content| matches!(content, Content::Control(_))).await);

    operator.signal(Signal::SIGTERM);
    drop(session);
    assert_eq!(operator.exit().await.code(), Some(0));
}

#[tokio::test]
async fn sigcont_ends_the_halt_of_a_sigtstp_to_its_predecessor() {
    let place = Place::new();
    let bus = place.bus();
    let (mut operator, mut session) = place.ready(&bus, "hello", "").await;
    operator.signal(Signal::SIGTSTP);
    let (number, ..) = session.control().await;
    session.send(0, halted(true)).await;
    session.send(number, Content::Ok).await;
    session.state(OperatorState::Halted).await;
    operator.signal(Signal::SIGTERM);
    drop(session);
    operator.exit().await;

    let mut with_flag = welcome("hello", "hello", None);
    with_flag.halted = true;
    for by_signal in [true, false] {
        let mut operator = place.start("hello");
        let mut session = bus.session(Content::Welcome(with_flag.clone())).await;
        session.state(OperatorState::Halted).await;
        operator.signal(Signal::SIGCONT);
        if by_signal {
            let (number, verb, _) = session.control().await;
            assert_eq!(verb, "resume");
            session.send(0, halted(false)).await;
            session.send(number, Content::Ok).await;
            session.state(OperatorState::Ready).await;
        } else {
            // Resumed since, and halted by somebody else.
            assert!(session.is_without(|content| matches!(content, Content::Control(_))).await);
        }
        operator.signal(Signal::SIGTERM);
        drop(session);
        operator.exit().await;
    }
}

#[tokio::test]
async fn the_sigcont_that_follows_sigterm_does_nothing() {
    let place = Place::new();
    let bus = place.bus();
    let (mut operator, mut session) = place.ready(&bus, "clock", CLOCK).await;
    operator.signal(Signal::SIGTSTP);
    let (number, ..) = session.control().await;
    session.send(0, halted(true)).await;
    session.send(number, Content::Ok).await;
    session.state(OperatorState::Halted).await;
    operator.signal(Signal::SIGCONT);
    operator.signal(Signal::SIGTERM);
    let mut resumed = false;
    session
        .expect("Bye", |frame| {
            resumed |= matches!(frame.content, Content::Control(_));
            matches!(frame.content, Content::Bye(_)).then_some(())
        })
        .await;
    assert!(!resumed);
    drop(session);
    assert_eq!(operator.exit().await.code(), Some(0));
}

#[tokio::test]
async fn a_mailbox_keeps_what_it_acknowledges() {
    let place = Place::new();
    let bus = place.bus();
    let (operator, mut session) = place.ready(&bus, "durable", "").await;
    assert_eq!(session.asked[0].durable.as_deref(), Some("mail"));
    let number = session.subscriptions[0].0;
    let letter = |body: &[u8]| Document::new([("type", "mail")], body.to_vec()).unwrap();
    session.deliver(number, 1001, &letter(b"dear all")).await;
    assert_eq!(session.settled().await, (number, Content::Ack(Ack { id: 1001 })));
    let kept = std::fs::read_to_string(place.folder.path().join("mail-1001.json")).unwrap();
    assert_eq!(kept, "\"dear all\"");
    session.deliver(number, 1002, &letter(b"\xff")).await;
    let (_, Content::Nack(nack)) = session.settled().await else { panic!("acknowledged") };
    assert!(nack.id == 1002 && nack.dead, "{nack:?}");

    // The bus goes away with a letter that is not acknowledged: it comes again, and is kept once more under its name.
    std::fs::remove_file(place.folder.path().join("mail-1001.json")).unwrap();
    session.close();
    let mut session = bus.session(Content::Welcome(welcome("durable", "durable", Some("")))).await;
    session.deliver_again(number, 1001, &letter(b"dear all"), 2).await;
    assert_eq!(session.settled().await, (number, Content::Ack(Ack { id: 1001 })));
    assert!(!place.folder.path().join("mail-1001.json").exists(), "it was acknowledged before, and is not kept twice");
    session.deliver_again(number, 1002, &letter(b"text now"), 2).await;
    assert_eq!(session.settled().await, (number, Content::Ack(Ack { id: 1002 })));

    // All that was taken is acknowledged before the goodbye.
    session.deliver(number, 1003, &letter(b"last")).await;
    session.settled().await;
    operator.signal(Signal::SIGTERM);
    session.expect("Bye", |frame| matches!(frame.content, Content::Bye(_)).then_some(())).await;
    drop(session);
    assert_eq!(operator.end().await.0, Some(0));
}
