//! The lines of the contract, every refusal, and the round trips.

use std::time::Duration;

use proptest::prelude::*;

use super::*;
use crate::header::Headers;
use crate::message::{Delivery, Document, Gap, GapReason, Message, Timestamp};

fn message() -> Message {
    Message {
        id: 4711,
        source: "irc".into(),
        timestamp: "2026-11-22T15:00:00.123456789Z".parse().unwrap(),
        cause: None,
        hops: 0,
        document: Document::new([("type", "chat.message"), ("channel", "#general")], "hello").unwrap().into(),
        reply_address: None,
        delivery: Delivery::default(),
    }
}

#[test]
fn the_lines_of_the_contract() {
    let line = r##"{"id":4711,"source":"irc","timestamp":"2026-11-22T15:00:00.123456789Z","hops":0,"cause":null,"headers":{"type":"chat.message","channel":"#general"},"body":"hello"}"##;
    assert_eq!(to_line(&message()), line);
    assert_eq!(parse_line(1, line.as_bytes()), Ok(Line::Message(message())));

    let mut late = message();
    late.cause = Some(4700);
    late.hops = 3;
    late.document = Document { body: vec![0xff, 0, 0x80].into(), ..late.document.decode() }.into();
    late.delivery = Delivery::new(2, Duration::from_micros(5_120_999));
    let line = r##"{"id":4711,"source":"irc","timestamp":"2026-11-22T15:00:00.123456789Z","hops":3,"cause":4700,"headers":{"type":"chat.message","channel":"#general"},"body_base64":"/wCA","attempt":2,"waited_ms":5120}"##;
    assert_eq!(to_line(&late), line);
    late.delivery.waited = Duration::from_micros(999);
    assert!(!to_line(&late).contains("waited_ms"));

    let gap = Gap { first: 4712, last: 4790, count: None, reason: GapReason::BusCrash };
    let line = r#"{"gap":{"first":4712,"last":4790,"count":null,"reason":"bus-crash"}}"#;
    assert_eq!(gap_line(&gap), line);
    assert_eq!(parse_line(1, line.as_bytes()), Ok(Line::Gap(gap)));

    assert_eq!(control_line(ProgramControl::Halt), r#"{"control":"halt"}"#);
    assert_eq!(control_line(ProgramControl::Resume), r#"{"control":"resume"}"#);
    assert_eq!(control_line(ProgramControl::Stop), r#"{"control":"stop"}"#);
    assert_eq!(settings_line(&serde_json::json!({"a": [1, "b"]})), r#"{"settings":{"a":[1,"b"]}}"#);
    assert_eq!(ping_line(7), r#"{"ping":7}"#);
}

#[test]
fn what_programs_may_say() {
    let headers = Headers::try_from([("z", "1"), ("a", "2")]).unwrap();
    for (line, said) in [
        (
            r#"{"publish":{"headers":{"z":"1","a":"2"},"body":"x"}}"#,
            ProgramLine::Publish(Document { headers, body: "x".into() }),
        ),
        (r#"{"reply":4711,"body":"hello"}"#, ProgramLine::Reply { to: 4711, body: "hello".into() }),
        (r#"{"reply":4711,"body_base64":"/w=="}"#, ProgramLine::Reply { to: 4711, body: vec![0xff].into() }),
        (r#"{"ack":4711}"#, ProgramLine::Ack(4711)),
        (r#"{"nack":4711,"reason":"busy"}"#, ProgramLine::Nack { id: 4711, reason: Some("busy".into()) }),
        (r#"{"nack":4711}"#, ProgramLine::Nack { id: 4711, reason: None }),
        (r#"{"log":"oh","level":4}"#, ProgramLine::Log { text: "oh".into(), level: 4 }),
        (r#"{"status":"fine"}"#, ProgramLine::Status("fine".into())),
        (r#"{"ready":true}"#, ProgramLine::Ready),
        (r#"{"pong":7}"#, ProgramLine::Pong(7)),
        (r#"{"accept":true}"#, ProgramLine::Accept),
        (r#"{"refuse":"why"}"#, ProgramLine::Refuse("why".into())),
    ] {
        assert_eq!(ProgramLine::parse(1, line.as_bytes()).as_ref(), Ok(&said), "{line}");
        assert_eq!(said.to_line(), line);
    }
    for (line, said) in [
        (r#"{"publish":{}}"#, ProgramLine::Publish(Document::default())),
        ("{\"body\":\"x\", \"reply\" : 1}\r\n", ProgramLine::Reply { to: 1, body: "x".into() }),
        (r#" {"log":"oh"}"#, ProgramLine::Log { text: "oh".into(), level: 6 }),
    ] {
        assert_eq!(ProgramLine::parse(1, line.as_bytes()), Ok(said), "{line}");
    }
}

#[test]
fn every_refusal_of_a_programs_line() {
    let many: Vec<String> = (0..65).map(|n| format!("\"k{n}\":\"\"")).collect();
    let many = format!(r#"{{"publish":{{"headers":{{{}}}}}}}"#, many.join(","));
    let huge = format!(r#"{{"publish":{{"headers":{{"k":"{}"}}}}}}"#, "v".repeat(1025));
    let deep = format!(r#"{{"publish":{}"#, "[".repeat(100_000));
    for (line, error) in [
        ("", "line 9, column 1: every line is one JSON object, which begins with {"),
        ("[1,2]", "line 9, column 1: every line is one JSON object"),
        ("hello", "line 9, column 1: every line is one JSON object"),
        ("{}", "line 9: a line has one of the keys publish, reply"),
        (r#"{"reply":1"#, "line 9, column 10: EOF while parsing an object"),
        (r#"{"ack":1} {"ack":2}"#, "line 9, column 11: trailing characters"),
        (r#"{"repyl":1}"#, "line 9, column 8: unknown key `repyl`, expected one of `publish`, `reply`"),
        (r#"{"ack":1,"ack":2}"#, "line 9, column 14: duplicate key `ack`"),
        (r#"{"ack":1,"nack":2}"#, "line 9: keys `ack` and `nack` stand in one line; write two lines"),
        (r#"{"ack":1,"body":"x"}"#, "line 9: key `body` belongs to `reply`, and this line says `ack`"),
        (r#"{"publish":{},"body":"x"}"#, "line 9: key `body` belongs to `reply`, and this line says `publish`"),
        (r#"{"status":"x","level":3}"#, "line 9: key `level` belongs to `log`"),
        (r#"{"ack":1,"reason":"x"}"#, "line 9: key `reason` belongs to `nack`"),
        (r#"{"ack":"1"}"#, "line 9, column 10: invalid type: string \"1\", expected u64"),
        (r#"{"ack":-1}"#, "line 9, column 9: invalid value: integer `-1`, expected u64"),
        (r#"{"ack":1.5}"#, "line 9, column 10: invalid type: floating point `1.5`, expected u64"),
        (r#"{"ack":null}"#, "line 9, column 11: invalid type: null, expected u64"),
        (r#"{"reply":1}"#, "line 9: a reply has the key `body` or `body_base64`"),
        (r#"{"reply":1,"body":"x","body_base64":""}"#, "line 9: `body` and `body_base64` stand in one object"),
        (r#"{"reply":1,"body_base64":"%"}"#, "line 9: `body_base64` is not base64: "),
        (r#"{"reply":1,"body":"\ud800"}"#, "line 9, column 26: unexpected end of hex escape"),
        (r#"{"log":"x","level":8}"#, "line 9: level 8 is not one of 0 (emergency) to 7 (debug)"),
        (r#"{"ready":false}"#, "line 9: `ready` can only be true"),
        (r#"{"accept":false}"#, "line 9: `accept` can only be true; otherwise write {\"refuse\":\"why\"}"),
        (r#"{"publish":{"header":{}}}"#, "line 9, column 20: unknown key `header`, expected one of `headers`"),
        (r#"{"publish":[]}"#, "line 9, column 11: invalid type: sequence, expected an object"),
        (
            r#"{"publish":{"headers":{"level":4}}}"#,
            "line 9, column 32: invalid type: integer `4`, expected a header value, which is a string, such as \"4\"",
        ),
        (r#"{"publish":{"headers":{"a":"","a":""}}}"#, "line 9, column 33: header \"a\" stands twice"),
        (r#"{"publish":{"headers":{"source":""}}}"#, "line 9, column 31: header key \"source\" names the envelope"),
        (r#"{"publish":{"headers":{"A":""}}}"#, "line 9, column 26: header key \"A\" is not"),
        (r#"{"publish":{"headers":{"a":"\n"}}}"#, "line 9, column 31: the value of header \"a\" has the control"),
        (r#"{"publish":{"headers":null}}"#, "line 9, column 26: invalid type: null, expected an object of headers"),
        (&many, "line 9, column 594: 65 headers, at most 64 are possible"),
        (&huge, "line 9, column 1054: the value of header \"k\" has 1025 bytes, at most 1024"),
        (&deep, "line 9, column "),
    ] {
        let found = ProgramLine::parse(9, line.as_bytes()).expect_err(line).to_string();
        assert!(found.starts_with(error), "{line}\n{found}\n{error}");
    }
    let error = ProgramLine::parse(9, b"{\"log\":\"gr\xc3\xbcn\xff\"}").unwrap_err();
    assert_eq!(error.to_string(), "line 9, column 13: not UTF-8; bytes that are not text belong into `body_base64`");
    assert_eq!((error.line(), error.column()), (9, Some(13)));
}

#[test]
fn an_error_is_short_and_fit_for_a_terminal() {
    let line = format!("{{\"\u{202e}\\u001b[2J{}\":1}}", "x".repeat(1 << 20));
    let error = ProgramLine::parse(1, line.as_bytes()).unwrap_err();
    assert!(error.text().starts_with(r"unknown key `\u{202e}\x1b[2Jxxx"), "{error}");
    assert!(error.to_string().len() < 400, "{}", error.to_string().len());
}

#[test]
fn every_refusal_of_a_recorded_line() {
    for (line, error) in [
        ("{}", "line 3: a message has the key `headers`"),
        (r#"{"control":"halt"}"#, "line 3, column 10: unknown key `control`"),
        (r#"{"headers":{},"attempt":0}"#, "line 3: attempt 0: the first delivery is attempt 1"),
        (r#"{"headers":{},"timestamp":"yesterday"}"#, "line 3: timestamp \"yesterday\" is not RFC 3339: "),
        (r#"{"headers":{},"hops":256}"#, "line 3, column 24: invalid value: integer `256`, expected u8"),
        (r#"{"headers":{},"body":"","body_base64":""}"#, "line 3: `body` and `body_base64` stand in one object"),
        (r#"{"gap":{"first":2,"last":1,"reason":"memory"}}"#, "line 3: a gap from 2 to 1: `first` is above `last`"),
        (
            r#"{"gap":{"first":1,"last":1,"reason":"bad"}}"#,
            "line 3: gap reason \"bad\" is none of queue-full, expired, bus-crash, disconnected, memory, dead-letter",
        ),
        (r#"{"gap":{"first":1,"reason":"bad"}}"#, "line 3, column 33: missing key `last`"),
        (r#"{"gap":{"first":1,"last":1,"reason":"memory"},"id":1}"#, "line 3: key `id` does not belong to a gap"),
        (r#"{"gap":null}"#, "line 3, column 11: invalid type: null"),
        (r#"{"gap":[1,2,3,"memory"]}"#, "line 3, column 7: invalid type: sequence, expected an object"),
    ] {
        let found = parse_line(3, line.as_bytes()).expect_err(line).to_string();
        assert!(found.starts_with(error), "{line}\n{found}\n{error}");
    }
    let Ok(Line::Message(by_hand)) = parse_line(1, br#"{"headers":{"type":"chat.message"}}"#) else { panic!() };
    assert_eq!((by_hand.id, by_hand.source.as_str(), by_hand.timestamp), (0, "", Timestamp(0)));
    assert_eq!(by_hand.delivery, Delivery::default());
}

#[test]
fn nothing_in_a_line_is_obeyed_by_a_terminal() {
    let mut hostile = message();
    let text = "\u{1b}]52;c;x\u{7}\u{9b}2J\u{7f}\u{202e}\u{200b}\u{e0041}\n\"\\é☃";
    hostile.document = Document::new([("user", "\u{202e}goos")], text).unwrap().into();
    let line = to_line(&hostile);
    assert!(!line.contains(crate::escape::is_hazardous), "{line:?}");
    assert!(line.ends_with(
        r#""headers":{"user":"\u202egoos"},"body":"\u001b]52;c;x\u0007\u009b2J\u007f\u202e\u200b\udb40\udc41\n\"\\é☃"}"#
    ));
    assert_eq!(parse_line(1, line.as_bytes()), Ok(Line::Message(hostile)));
}

fn headers() -> impl Strategy<Value = Headers> {
    prop::collection::vec(("[a-z0-9][a-z0-9._-]{0,8}", "[^\\p{Cc}]{0,12}"), 0..8).prop_map(|pairs| {
        let mut headers = Headers::new();
        for (key, value) in pairs {
            let _ = headers.set(key, value);
        }
        headers
    })
}

fn document() -> impl Strategy<Value = Document> {
    let body = prop_oneof!["(?s).{0,40}".prop_map(String::into_bytes), prop::collection::vec(any::<u8>(), 0..40)];
    (headers(), body).prop_map(|(headers, body)| Document { headers, body: body.into() })
}

fn messages() -> impl Strategy<Value = Message> {
    let envelope = (0_u64..1 << 53, "[a-z/]{0,8}", any::<u64>(), any::<Option<u64>>(), any::<u8>());
    (envelope, document(), 1_u32.., any::<u32>()).prop_map(|(envelope, document, attempt, waited_ms)| {
        let (id, source, timestamp, cause, hops) = envelope;
        let delivery = Delivery::new(attempt, Duration::from_millis(waited_ms.into()));
        Message {
            id,
            source: source.into(),
            timestamp: Timestamp(timestamp),
            cause,
            hops,
            document: document.into(),
            reply_address: None,
            delivery,
        }
    })
}

fn said() -> impl Strategy<Value = ProgramLine> {
    let text = || "(?s).{0,20}";
    prop_oneof![
        document().prop_map(ProgramLine::Publish),
        (any::<u64>(), document()).prop_map(|(to, document)| ProgramLine::Reply { to, body: document.body }),
        any::<u64>().prop_map(ProgramLine::Ack),
        (any::<u64>(), prop::option::of(text())).prop_map(|(id, reason)| ProgramLine::Nack { id, reason }),
        (text(), 0_u8..8).prop_map(|(text, level)| ProgramLine::Log { text, level }),
        text().prop_map(ProgramLine::Status),
        Just(ProgramLine::Ready),
        any::<u64>().prop_map(ProgramLine::Pong),
        Just(ProgramLine::Accept),
        text().prop_map(ProgramLine::Refuse),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1000))]

    #[test]
    fn messages_come_back(message in messages()) {
        let line = to_line(&message);
        prop_assert!(!line.contains(crate::escape::is_hazardous), "{}", line);
        let order: Vec<String> = message.document.headers().map(|(key, _)| key.to_owned()).collect();
        let Ok(Line::Message(again)) = parse_line(1, line.as_bytes()) else { panic!("{line}") };
        prop_assert_eq!(again.document.headers().map(|(key, _)| key.to_owned()).collect::<Vec<_>>(), order);
        prop_assert_eq!(again, message);
    }

    #[test]
    fn gaps_come_back(first in any::<u64>(), last in any::<u64>(), count in any::<Option<u64>>(), code in 1_u8..=7) {
        let (first, last) = (first.min(last), first.max(last));
        let gap = Gap { first, last, count, reason: GapReason::from_code(code).unwrap() };
        prop_assert_eq!(parse_line(1, gap_line(&gap).as_bytes()), Ok(Line::Gap(gap)));
    }

    #[test]
    fn what_programs_say_comes_back(said in said()) {
        let line = said.to_line();
        prop_assert_eq!(ProgramLine::parse(1, line.as_bytes()), Ok(said), "{}", line);
    }

    /// Lines that are cut, have a byte changed, or are joined: refused in one short line, or understood for good.
    #[test]
    fn damaged_lines_are_refused_or_understood(
        line in prop_oneof![said().prop_map(|said| said.to_line()), messages().prop_map(|message| to_line(&message))],
        other in said().prop_map(|said| said.to_line()),
        cut in any::<prop::sample::Index>(),
        byte in any::<Option<u8>>(),
    ) {
        let mut bytes = line.into_bytes();
        let at = cut.index(bytes.len());
        match byte {
            Some(byte) => bytes[at] = byte,
            None => {
                bytes.truncate(at);
                bytes.extend(other.bytes().skip(at % 7));
            }
        }
        survives(&bytes)?;
    }

    #[test]
    fn random_lines_are_refused_or_understood(
        line in prop_oneof![
            prop::collection::vec(any::<u8>(), 0..60),
            "([{}\\[\\],:\" ]|\"(publish|reply|ack|headers|body|gap|log)\"|[0-9]|null|true|-|\\\\){0,30}"
                .prop_map(String::into_bytes),
        ],
    ) {
        survives(&line)?;
    }
}

fn survives(line: &[u8]) -> Result<(), TestCaseError> {
    let short = |error: &LineError| {
        let text = error.to_string();
        let hidden = text.contains(crate::escape::is_hazardous);
        text.starts_with("line 5") && !hidden && error.column() <= Some(line.len() + 1)
    };
    match ProgramLine::parse(5, line) {
        Ok(said) => prop_assert_eq!(ProgramLine::parse(5, said.to_line().as_bytes()), Ok(said)),
        Err(error) => prop_assert!(short(&error), "{}", error),
    }
    match parse_line(5, line) {
        Ok(Line::Message(message)) => {
            prop_assert_eq!(parse_line(5, to_line(&message).as_bytes()), Ok(Line::Message(message)));
        }
        Ok(Line::Gap(gap)) => prop_assert_eq!(parse_line(5, gap_line(&gap).as_bytes()), Ok(Line::Gap(gap))),
        Err(error) => prop_assert!(short(&error), "{}", error),
    }
    Ok(())
}
