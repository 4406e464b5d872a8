//! Operators come, say how they are, are halted, and go.

use super::*;

#[test]
fn halt_holds_deliveries_and_resume_tells_how_long_they_waited() {
    let mut bus = Bus::new();
    bus.operator(1, "irc");
    bus.operator(2, "dice");
    bus.subscribe(2, 1, subscribe("type=x"));
    let dice: OperatorId = "dice".parse().unwrap();
    bus.join(9, Identity::Person { name: "root".into(), admin: true }, None);
    let halt = |verb: &str| Content::Control(Control { verb: verb.into(), id: "dice".into(), argument: String::new() });
    bus.send(9, 1, halt("halt"));
    assert_eq!(bus.read(9), [Content::Ok]);
    assert!(bus.actions.iter().any(|action| matches!(action, Action::SaveHalted { on: true, .. })));
    bus.publish(1, &[("type", "x")]);
    assert!(matches!(bus.read(2)[..], [Content::Halted(flag)] if flag.on));
    bus.pass(Duration::from_secs(5));
    // The flag outlives the session.
    bus.step(Event::Leave { session: 2 });
    bus.operator(3, "dice");
    bus.subscribe(3, 1, subscribe("type=x"));
    bus.publish(1, &[("type", "x")]);
    assert_eq!(bus.seen(3), [""; 0]);
    bus.pass(Duration::from_secs(5));
    bus.send(9, 2, halt("resume"));
    let delivered = bus.delivered(3);
    assert_eq!(delivered.len(), 1);
    assert_eq!(delivered[0].waited_ms, 5_000);
    assert!(!bus.core.operators[&dice].halted);
    bus.publish(1, &[("type", "x")]);
    assert_eq!(bus.delivered(3)[0].waited_ms, 0);
}

#[test]
fn a_halted_subscription_is_never_disconnected_but_a_slow_one_is() {
    let mut bus = Bus::new();
    bus.operator(1, "irc");
    bus.operator(2, "dice");
    bus.subscribe(2, 1, Subscribe { queue_messages: 2, overflow: 3, ..subscribe("type=x") });
    bus.core.set_halted(bus.now, &"dice".parse().unwrap(), true);
    for _ in 0..5 {
        bus.publish(1, &[("type", "x")]);
    }
    bus.core.set_halted(bus.now, &"dice".parse().unwrap(), false);
    assert_eq!(bus.seen(2).len(), 3); // A gap and two messages.
    for _ in 0..3 {
        bus.publish(1, &[("type", "x")]);
    }
    assert!(bus.actions.iter().any(|action| matches!(action, Action::Close(2))));
    assert_eq!(code(&bus.read(2)[0]), Code::SlowConsumer);
}

#[test]
fn a_second_holder_is_refused_by_name_and_a_reconnect_replaces_itself() {
    let mut bus = Bus::new();
    bus.operator(1, "irc");
    let refused = bus.join(2, Identity::Operator("irc".parse().unwrap()), None);
    assert_eq!(code(&refused[0]), Code::AlreadyConnected);
    let Content::Error(Refusal { text, .. }) = &refused[0] else { panic!() };
    assert!(text.contains("pid 42") && text.contains("session 1") && text.contains("test 1"), "{text}");
    bus.step(Event::Leave { session: 2 });
    assert!(bus.core.operators[&"irc".parse::<OperatorId>().unwrap()].session == Some(1), "the holder stays");
    let peer = Peer { uid: 1000, pid: Some(42), program: "test 1".into(), instance: 1 };
    bus.step(Event::Join { session: 3, identity: Identity::Operator("irc".parse().unwrap()), peer, module: None });
    assert!(matches!(bus.read(3)[..], [Content::Welcome(_)]));
    assert!(bus.actions.iter().any(|action| matches!(action, Action::Close(1))));
}

#[test]
fn names_are_claimed_by_one_and_freed_at_its_end() {
    let mut bus = Bus::new();
    bus.operator(1, "irc");
    bus.operator(2, "irc2");
    let claim = || Content::Claim(Text { text: "irc/libera".into() });
    bus.send(1, 1, claim());
    assert_eq!(bus.read(1), [Content::Ok]);
    bus.send(2, 1, claim());
    assert_eq!(code(&bus.read(2)[0]), Code::AlreadyConnected);
    bus.step(Event::Leave { session: 1 });
    bus.send(2, 2, claim());
    assert_eq!(bus.read(2), [Content::Ok]);
}

#[test]
fn the_state_of_operators_is_announced() {
    let mut bus = Bus::new();
    bus.operator(1, "watch");
    bus.subscribe(1, 1, subscribe("type=operator.state,operator=irc"));
    bus.operator(2, "irc");
    bus.send(2, 0, Content::State(State { state: 2, status: "on #eevee\u{7}".into() }));
    bus.step(Event::Leave { session: 2 });
    let states: Vec<_> =
        bus.delivered(1).iter().map(|d| (d.source.clone(), d.document.header("state").unwrap().to_owned())).collect();
    let expected = ["starting", "ready", "away"].map(|state| ("eeveed".to_owned(), state.to_owned()));
    assert_eq!(states, expected);
    assert!(bus.actions.iter().any(|action| matches!(action, Action::Ended { .. })));
}

/// At the start the core knows no module file; only `status` tells it which there are.
#[test]
fn an_operator_that_never_connected_can_be_halted() {
    let mut bus = Bus::new();
    let id: OperatorId = "irc".parse().unwrap();
    bus.join(9, Identity::Person { name: "root".into(), admin: true }, None);
    bus.send(9, 1, control("halt", "irc"));
    assert!(bus.actions.iter().any(|action| matches!(action, Action::Control { number: 1, .. })));
    bus.step(Event::Modules(vec![(id.clone(), Ok(module("irc", "")))]));
    bus.step(Event::Halt { session: 9, number: 1, id: id.clone(), on: true });
    assert_eq!(bus.read(9), [Content::Ok]);
    assert!(bus.core.operators[&id].halted);
    bus.step(Event::Halt { session: 9, number: 2, id: "none".parse().unwrap(), on: true });
    assert_eq!(code(&bus.read(9)[0]), Code::NotFound);
}

#[test]
fn why_an_operator_left_is_one_short_line() {
    let mut bus = Bus::new();
    let id: OperatorId = "a".parse().unwrap();
    bus.operator(1, "a");
    bus.send(1, 0, Content::Bye(Text { text: "done\u{1b}\n".repeat(100_000) }));
    let status = bus.status(&id);
    let why = status["status"].as_str().unwrap();
    assert!(why.starts_with("donedone") && why.len() == 200, "{why}");
}

#[test]
fn a_session_that_the_bus_has_ended_holds_no_id() {
    let mut bus = Bus::new();
    bus.operator(1, "a");
    bus.step(Event::BadFrame { session: 1, error: Frame::decode(bytes::Bytes::new()).unwrap_err() });
    bus.operator(2, "a");
    bus.step(Event::Leave { session: 1 });
    assert_eq!(bus.core.operators[&"a".parse::<OperatorId>().unwrap()].session, Some(2));
}

#[test]
fn nobody_joins_a_bus_that_stops() {
    let mut bus = Bus::new();
    bus.step(Event::Stop("the bus is stopping".into()));
    let told = bus.join(1, Identity::Operator("a".parse().unwrap()), None);
    assert_eq!(code(&told[0]), Code::Stopping);
    assert!(bus.actions.iter().any(|action| matches!(action, Action::Close(1))));
}

#[test]
fn a_flood_of_states_is_announced_slowly_and_the_last_one_surely() {
    let mut bus = Bus::new();
    bus.operator(1, "watch");
    bus.subscribe(1, 1, subscribe("type=operator.state,operator=irc"));
    bus.operator(2, "irc");
    for number in 0..1000 {
        bus.send(2, 0, Content::State(State { state: 2, status: format!("state {number}") }));
    }
    assert_eq!(bus.delivered(1).len(), 20);
    assert_eq!(bus.core.deadline(), Some(Duration::from_secs(1)));
    bus.pass(Duration::from_secs(1));
    let late = bus.delivered(1);
    assert_eq!(late.len(), 1);
    assert_eq!(late[0].document.body(), "state 999");
    assert_eq!(bus.core.deadline(), None);
}

#[test]
fn commands_are_announced_kept_and_shown() {
    let mut bus = Bus::new();
    let id: OperatorId = "dice".parse().unwrap();
    bus.operator(1, "watch");
    bus.subscribe(1, 1, subscribe("type=operator.commands"));
    // Whatever it may publish: the bus says it.
    bus.join(2, Identity::Operator(id.clone()), Some(module("dice", "[bus]\nmay-publish = []\n")));
    let said = |text: &str| Content::Commands(Text { text: text.into() });
    let array = r#"[{"name":"dice","usage":"dice 2d6+1","about":"rolls dice"}]"#;
    bus.send(2, 0, said(array));
    bus.send(2, 0, said(array));
    let heard = bus.delivered(1);
    assert_eq!(heard.len(), 1, "said again after a reconnect, it is no news");
    assert_eq!((heard[0].source.as_str(), heard[0].document.header("operator")), ("eeveed", Some("dice")));
    assert_eq!(heard[0].document.body(), array);
    assert_eq!(bus.status(&id)["commands"][0]["usage"], "dice 2d6+1");
    bus.step(Event::Leave { session: 2 });
    assert_eq!(bus.status(&id)["commands"][0]["usage"], "dice 2d6+1", "while it is away, too");

    bus.operator(2, "dice");
    bus.read(2);
    let deep = "[".repeat(10_000);
    for wrong in ["", "{}", "[", "x", &deep, &format!("[\"{}\"]", "x".repeat(16 << 10))] {
        bus.send(2, 0, said(wrong));
        assert_eq!(code(&bus.read(2)[0]), Code::Refused);
    }
    bus.join(9, Identity::Person { name: "root".into(), admin: true }, None);
    bus.send(9, 0, said("[]"));
    assert_eq!(code(&bus.read(9)[0]), Code::Denied);
    assert_eq!(bus.delivered(1).len(), 0);
    for number in 0..1000 {
        bus.send(2, 0, said(&format!("[{number}]")));
    }
    assert!(bus.delivered(1).len() <= 20);
    bus.pass(Duration::from_secs(1));
    assert_eq!(bus.delivered(1)[0].document.body(), "[999]");
    assert_eq!(bus.core.deadline(), None);
}

#[test]
fn systemd_is_asked_once_however_often_an_operator_comes_and_goes() {
    let mut bus = Bus::new();
    let asked = |bus: &Bus| bus.actions.iter().filter(|action| matches!(action, Action::Ended { .. })).count();
    for session in 1..=10 {
        bus.operator(session, "a");
        bus.step(Event::Leave { session });
    }
    assert_eq!(asked(&bus), 1);
    bus.step(Event::Failure { id: "a".parse().unwrap(), failure: None });
    bus.operator(11, "a");
    bus.step(Event::Leave { session: 11 });
    assert_eq!(asked(&bus), 2);
}

#[test]
fn what_was_answered_before_bye_is_still_written() {
    let mut bus = Bus::new();
    bus.operator(1, "a");
    bus.numbers += 1;
    let publish = Publish { cause: None, hops: 0, epoch: 0, sequence: 0, document: document(&[("type", "x")], "") };
    bus.step(Event::Frame {
        session: 1,
        frame: Frame { flags: CONFIRM, number: 7, content: Content::Publish(publish) },
    });
    bus.send(1, 0, Content::Bye(Text { text: "done\u{1b}".repeat(100_000) }));
    bus.operator(2, "a");
    assert!(matches!(bus.read(1)[..], [Content::Published(_)]));
    bus.step(Event::Leave { session: 1 });
    bus.step(Event::Leave { session: 2 });
    assert!(bus.core.parting.is_empty());
    assert_eq!((bus.core.memory, bus.core.owed), (0, 0));
}
