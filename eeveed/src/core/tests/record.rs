//! Log records: who may say them, what the bus makes of them, and that they cannot go round.

use libeevee::log::LogLevel;
use libeevee::wire::limits::{HOPS_MAX, RECORD_BYTES_MAX};
use libeevee::wire::{IGNORABLE, Record};

use super::*;

fn said(level: u8, text: &str) -> Record {
    Record { level, cause: None, hops: 0, lost: 0, target: "irc::connection".into(), text: text.into() }
}

impl Bus {
    fn logging(&mut self, session: SessionKey, id: &str, rules: &str) {
        self.join(session, Identity::Operator(id.parse().unwrap()), Some(module(id, rules)));
    }

    fn logs(&mut self, session: SessionKey, record: Record) {
        let frame = Frame { flags: IGNORABLE, number: 0, content: Content::Record(record) };
        self.step(Event::Frame { session, frame });
    }

    fn texts(&mut self, session: SessionKey) -> Vec<String> {
        let text = |deliver: Deliver| String::from_utf8(deliver.document.decode().body.to_vec()).unwrap();
        self.delivered(session).into_iter().map(text).collect()
    }
}

const ERRORS: &str = "[bus]\nmay-publish = []\npublish-log = \"error\"\n";

#[test]
fn the_bus_writes_the_headers_and_no_rule_judges_them() {
    let mut bus = Bus::new();
    bus.logging(1, "irc", ERRORS);
    bus.operator(2, "alarm");
    bus.subscribe(2, 1, subscribe("type=log.record,level<4,source=irc"));
    bus.logs(1, Record { lost: 3, ..said(3, "no network") });
    let [deliver] = &bus.delivered(2)[..] else { panic!() };
    let header = |key| deliver.document.header(key);
    assert_eq!((deliver.source.as_str(), deliver.cause, deliver.hops), ("irc", None, 0));
    assert_eq!((header("type"), header("level"), header("operator")), (Some("log.record"), Some("3"), Some("irc")));
    assert_eq!((header("target"), header("lost")), (Some("irc::connection"), Some("3")));
    assert_eq!(bus.read(1), [], "and never answers");
}

#[test]
fn nothing_without_the_operators_consent() {
    let mut bus = Bus::new();
    bus.operator(2, "alarm");
    bus.subscribe(2, 1, subscribe("type=log.record"));
    bus.logging(1, "irc", ERRORS);
    bus.logs(1, said(4, "only a warning"));
    bus.logs(1, said(8, "no level"));
    bus.logging(3, "dice", "");
    bus.logs(3, said(0, "not asked for"));
    bus.logging(4, "xmpp", "[bus]\npublish-log = \"none\"\n");
    bus.logs(4, said(0, "nor here"));
    assert_eq!(bus.texts(2), [""; 0]);
    for session in [1, 3, 4] {
        assert_eq!(bus.read(session), []);
    }
    bus.join(9, Identity::Person { name: "root".into(), admin: true }, None);
    bus.logs(9, said(3, "a person"));
    assert_eq!(code(&bus.read(9)[0]), Code::Denied);
    assert_eq!(bus.texts(2), [""; 0]);
}

#[test]
fn what_the_operator_wrote_cannot_leave_its_place() {
    let mut bus = Bus::new();
    bus.logging(1, "irc", ERRORS);
    bus.operator(2, "alarm");
    bus.subscribe(2, 1, subscribe("*"));
    bus.read(2);
    bus.logs(1, Record { target: "a\nb\u{0}c".into(), ..said(3, "x") });
    bus.logs(1, Record { target: "ü".repeat(500), ..said(3, &"ü".repeat(RECORD_BYTES_MAX)) });
    bus.logs(1, Record { target: String::new(), ..said(3, "line 1\nline 2") });
    let [first, second, third] = &bus.delivered(2)[..] else { panic!() };
    assert_eq!(first.document.header("target"), Some("abc"));
    assert_eq!(second.document.header("target").map(str::len), Some(128));
    assert_eq!(second.document.decode().body.len(), RECORD_BYTES_MAX);
    assert_eq!(third.document.header("target"), None);
    assert_eq!(&third.document.decode().body[..], b"line 1\nline 2");
}

#[test]
fn nobody_is_given_his_own() {
    let mut bus = Bus::new();
    bus.logging(1, "irc", ERRORS);
    bus.logging(2, "alarm", ERRORS);
    for session in [1, 2] {
        bus.subscribe(session, 1, subscribe("type=log.record"));
        // One of those that are looked at for every message.
        bus.subscribe(session, 2, subscribe("id>0,type~log.*"));
    }
    bus.read(1);
    bus.read(2);
    bus.logs(1, said(3, "from irc"));
    assert_eq!(bus.texts(1), [""; 0]);
    assert_eq!(bus.texts(2), ["from irc"; 2]);
    bus.logs(2, said(3, "from alarm"));
    assert_eq!(bus.texts(1), ["from alarm"; 2]);
    assert_eq!(bus.texts(2), [""; 0]);
}

#[test]
fn records_about_records_come_to_an_end() {
    let mut bus = Bus::new();
    bus.logging(1, "a", ERRORS);
    bus.logging(2, "b", ERRORS);
    for session in [1, 2] {
        bus.subscribe(session, 1, subscribe("type=log.record"));
    }
    bus.logs(1, said(3, "it begins"));
    let mut rounds = 0;
    let mut turn = 2;
    // Clients that tell the cause, and nothing of how deep it is.
    while let [deliver] = &bus.delivered(turn)[..] {
        assert_eq!(deliver.hops, rounds);
        rounds += 1;
        bus.logs(turn, Record { cause: Some(deliver.id), ..said(3, "about it") });
        turn = 3 - turn;
        assert!(rounds <= HOPS_MAX + 1);
    }
    assert_eq!(rounds, HOPS_MAX + 1);
    // What was left out is counted.
    bus.logs(1, said(3, "something else"));
    bus.logs(2, said(3, "something else"));
    let lost = |delivers: Vec<Deliver>| delivers.iter().any(|d| d.document.header("lost") == Some("1"));
    assert!(lost(bus.delivered(1)) || lost(bus.delivered(2)));
}

#[test]
fn a_flood_costs_others_nothing_and_is_counted() {
    let mut bus = Bus::new();
    bus.logging(1, "irc", ERRORS);
    bus.logging(3, "dice", ERRORS);
    bus.operator(2, "alarm");
    bus.subscribe(2, 1, subscribe("type=log.record"));
    for _ in 0..1000 {
        bus.logs(1, said(3, "flood"));
    }
    assert_eq!(bus.texts(2).len(), 200);
    bus.logs(3, said(3, "small voice"));
    assert_eq!(bus.texts(2), ["small voice"]);
    bus.pass(Duration::from_millis(100));
    for _ in 0..10 {
        bus.logs(1, said(3, "flood"));
    }
    let lost: Vec<_> = bus.delivered(2).iter().map(|d| d.document.header("lost").map(str::to_owned)).collect();
    assert_eq!(lost, [Some("800".to_owned()), None]);
}

#[test]
fn the_bus_has_records_of_its_own() {
    let mut bus = Bus::new();
    bus.operator(2, "alarm");
    bus.subscribe(2, 1, subscribe("type=log.record,source=eeveed"));
    let record = |operator: Option<&str>| LogRecord {
        level: LogLevel::WARNING,
        target: "eeveed::core".into(),
        text: "refused".into(),
        operator: operator.map(Into::into),
        cause: Some(7),
        hops: 0,
        lost: 0,
    };
    bus.step(Event::Record(record(None)));
    bus.step(Event::Record(record(Some("irc"))));
    let about: Vec<_> =
        bus.delivered(2).iter().map(|d| d.document.header("operator").unwrap_or_default().to_owned()).collect();
    assert_eq!(about, ["eeveed", "irc"]);
}

#[test]
fn a_reload_changes_what_is_published() {
    let mut bus = Bus::new();
    let id: OperatorId = "irc".parse().unwrap();
    bus.logging(1, "irc", "");
    bus.operator(2, "alarm");
    bus.subscribe(2, 1, subscribe("type=log.record"));
    bus.logs(1, said(4, "before"));
    bus.step(Event::ModuleRead { id, asker: (2, 1), outcome: Ok(module("irc", "[bus]\npublish-log = \"warning\"\n")) });
    let number = bus.output(1)[0].number;
    bus.send(1, number, Content::Verdict(Verdict { accepted: true, text: String::new() }));
    bus.logs(1, said(4, "after"));
    assert_eq!(bus.texts(2), ["after"]);
}
