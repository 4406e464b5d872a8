//! Who may publish and receive what, and how a reload changes it.

use super::*;

#[test]
fn permissions_name_the_rule_and_bind_both_ways() {
    let mut bus = Bus::new();
    let rules = "[bus]\nmay-publish = [\"direction=in,platform=irc\"]\nmay-receive = [\"direction=out\"]\n";
    bus.join(1, Identity::Operator("irc".parse().unwrap()), Some(module("irc", rules)));
    bus.operator(2, "dice");
    bus.subscribe(1, 1, subscribe("*"));
    bus.subscribe(2, 1, subscribe("*"));
    let denied = bus.publish(1, &[("type", "chat.message"), ("direction", "out")]);
    assert_eq!(code(&denied), Code::Denied);
    let Content::Error(Refusal { rule: Some(rule), .. }) = denied else { panic!() };
    assert_eq!(rule, "direction=in,platform=irc");
    assert!(matches!(bus.publish(1, &[("direction", "in"), ("platform", "irc")]), Content::Published(_)));
    bus.seen(2);
    assert_eq!(bus.seen(1), [""; 0], "it may not receive its own direction=in");
    bus.publish(2, &[("direction", "out")]);
    assert_eq!(bus.seen(1).len(), 1);
    assert_eq!(code(&bus.publish(2, &[("type", "control.start")])), Code::Denied);
    // Twice, so that the memo answers too.
    assert_eq!(code(&bus.publish(2, &[("type", "control.start")])), Code::Denied);
    bus.join(9, Identity::Person { name: "root".into(), admin: true }, None);
    assert!(matches!(bus.publish(9, &[("type", "control.start")]), Content::Published(_)));
}

/// The rights of a person may have changed between two of their sessions.
#[test]
fn what_one_session_may_publish_is_no_answer_for_another_of_the_same_person() {
    let mut bus = Bus::new();
    bus.join(1, Identity::Person { name: "ann".into(), admin: true }, None);
    bus.join(2, Identity::Person { name: "ann".into(), admin: false }, None);
    assert!(matches!(bus.publish(1, &[("type", "control.start")]), Content::Published(_)));
    assert_eq!(code(&bus.publish(2, &[("type", "control.start")])), Code::Denied);
}

#[test]
fn a_denial_repeats_no_more_of_rule_and_headers_than_a_person_reads() {
    let mut bus = Bus::new();
    let long = "x".repeat(1000);
    let rules: Vec<String> = (0..60).map(|n| format!("\"channel=#{n}{long}\"")).collect();
    let rules = format!("[bus]\nmay-publish = [{}]\n", rules.join(","));
    bus.join(1, Identity::Operator("irc".parse().unwrap()), Some(module("irc", &rules)));
    let value = "x".repeat(1000);
    let headers: Vec<(String, &str)> = (0..60).map(|n| (format!("k{n}"), value.as_str())).collect();
    let headers: Vec<(&str, &str)> = headers.iter().map(|(key, value)| (key.as_str(), *value)).collect();
    let Content::Error(refusal) = bus.publish(1, &headers) else { panic!() };
    assert!(refusal.rule.unwrap().starts_with("channel=#0x"));
    assert!(refusal.text.len() < 4096, "{}", refusal.text);
}

#[test]
fn reload_commits_both_or_neither() {
    let mut bus = Bus::new();
    let id: OperatorId = "irc".parse().unwrap();
    bus.join(1, Identity::Operator(id.clone()), Some(module("irc", "")));
    bus.join(9, Identity::ReloadHelper(id.clone()), None);
    let control =
        |verb: &str, id: &str| Content::Control(Control { verb: verb.into(), id: id.into(), argument: String::new() });
    bus.send(9, 1, control("halt", "irc"));
    assert_eq!(code(&bus.read(9)[0]), Code::Denied);
    bus.send(9, 2, control("reload", "dice"));
    assert_eq!(code(&bus.read(9)[0]), Code::Denied);
    bus.send(9, 3, control("reload", "irc"));
    assert!(bus.actions.iter().any(|action| matches!(action, Action::Control { session: 9, number: 3, .. })));

    bus.step(Event::ModuleRead { id: id.clone(), asker: (9, 3), outcome: Err("irc.toml:1:1: no".into()) });
    assert_eq!(code(&bus.read(9)[0]), Code::Refused);

    let strict = module("irc", "[bus]\nmay-publish = []\n");
    let read = |asker| Event::ModuleRead { id: id.clone(), asker, outcome: Ok(strict.clone()) };
    bus.step(read((9, 4)));
    let [Frame { number, content: Content::Reload(_), .. }] = &bus.output(1)[..] else { panic!() };
    let no = Verdict { accepted: false, text: "irc.toml:7:1: unknown key".into() };
    bus.send(1, *number, Content::Verdict(no));
    assert_eq!(code(&bus.read(9)[0]), Code::Refused);
    assert!(matches!(bus.publish(1, &[("type", "x")]), Content::Published(_)), "[bus] stayed as it was");
    assert_eq!(bus.status(&id)["last_reload"]["accepted"], false);

    bus.step(read((9, 5)));
    let number = bus.output(1)[0].number;
    bus.send(1, number, Content::Verdict(Verdict { accepted: true, text: String::new() }));
    assert_eq!(bus.read(1), [Content::Commit]);
    assert_eq!(bus.read(9), [Content::Ok]);
    assert_eq!(code(&bus.publish(1, &[("type", "x")])), Code::Denied, "[bus] changed with it");

    bus.step(read((9, 6)));
    bus.read(1);
    bus.pass(Duration::from_secs(20));
    assert_eq!(code(&bus.read(9)[0]), Code::NoAnswer);
    assert!(matches!(bus.read(1)[..], [Content::Abort(_)]));
}

#[test]
fn a_reload_that_takes_a_right_away_takes_what_waits_too() {
    let mut bus = Bus::new();
    let id: OperatorId = "irc".parse().unwrap();
    bus.join(1, Identity::Operator(id.clone()), Some(module("irc", "")));
    bus.operator(2, "a");
    bus.subscribe(1, 1, subscribe("*"));
    bus.core.set_halted(bus.now, &id, true);
    bus.read(1);
    bus.publish(2, &[("type", "secret")]);
    bus.publish(2, &[("type", "x")]);
    let rules = module("irc", "[bus]\nmay-receive = [\"type=x\"]\n");
    bus.step(Event::ModuleRead { id: id.clone(), asker: (2, 1), outcome: Ok(rules) });
    let number = bus.output(1)[0].number;
    bus.send(1, number, Content::Verdict(Verdict { accepted: true, text: String::new() }));
    bus.core.set_halted(bus.now, &id, false);
    let kinds: Vec<_> = bus.delivered(1).iter().map(|d| d.document.header("type").unwrap().to_owned()).collect();
    assert_eq!(kinds, ["x"]);
    bus.read(2);
    bus.step(Event::Leave { session: 1 });
    assert_eq!(bus.core.memory, 0);
}

#[test]
fn the_diagnosis_of_an_operator_is_kept_short() {
    let mut bus = Bus::new();
    let id: OperatorId = "irc".parse().unwrap();
    bus.operator(1, "irc");
    bus.step(Event::ModuleRead { id: id.clone(), asker: (1, 1), outcome: Ok(module("irc", "")) });
    let number = bus.output(1)[0].number;
    bus.send(1, number, Content::Verdict(Verdict { accepted: false, text: "no ".repeat(300_000) }));
    assert!(bus.status(&id)["last_reload"]["text"].as_str().unwrap().len() < 10_000);
    assert!(bus.actions.iter().all(|action| !matches!(action, Action::Log { text, .. } if text.len() > 10_000)));
}
