//! Every frame survives being cut at every byte; random bytes never panic; golden vectors stay what they are.

use proptest::prelude::*;

use super::*;
use crate::message::Document;

/// One frame of each kind, as in docs/PROTOCOL.md and the golden vectors.
pub(crate) fn one_of_each() -> Vec<(&'static str, Frame)> {
    let document = EncodedDocument::from(
        &Document::new([("type", "chat.message"), ("channel", "#rust")], "hello").expect("a legal document"),
    );
    let module =
        Module { kind: "dice".into(), path: "/etc/eevee/modules.d/dice.toml".into(), text: "[settings]\n".into() };
    vec![
        (
            "hello",
            Frame::new(
                0,
                Content::Hello(Hello {
                    version_min: 1,
                    version_max: 1,
                    role: Role::Operator as u8,
                    id: Some("dice".into()),
                    token: String::new(),
                    instance: 7,
                    program: "dice 0.1.0".into(),
                    capabilities: vec![],
                }),
            ),
        ),
        (
            "welcome",
            Frame::new(
                0,
                Content::Welcome(Welcome {
                    version: 1,
                    identity: "dice".into(),
                    session: 3,
                    boot: 300,
                    last_id: 4711,
                    frame_bytes_max: 1 << 20,
                    credit_messages: 1000,
                    credit_bytes: 8 << 20,
                    halted: false,
                    module: Some(module.clone()),
                    capabilities: vec![],
                }),
            ),
        ),
        (
            "error",
            Frame::new(
                9,
                Content::Error(Refusal {
                    code: Code::Denied as u16,
                    text: "no".into(),
                    limit: None,
                    value: None,
                    rule: Some("type=x".into()),
                }),
            ),
        ),
        ("ok", Frame::new(9, Content::Ok)),
        ("ping", Frame::new(0, Content::Ping(Value { value: 7 }))),
        ("pong", Frame::new(0, Content::Pong(Value { value: 7 }))),
        ("bye", Frame::new(0, Content::Bye(Text { text: "stopping".into() }))),
        (
            "publish",
            Frame {
                flags: CONFIRM,
                number: 9,
                content: Content::Publish(Publish {
                    cause: Some(4711),
                    hops: 1,
                    epoch: 0,
                    sequence: 0,
                    document: document.clone(),
                }),
            },
        ),
        ("published", Frame::new(9, Content::Published(Published { id: 4712, live: 2, durable: 0 }))),
        (
            "subscribe",
            Frame::new(
                1,
                Content::Subscribe(Subscribe {
                    filters: vec!["type=chat.message".into()],
                    overflow: Overflow::DropOldest as u8,
                    queue_messages: 0,
                    queue_bytes: 0,
                    max_age_ms: 300_000,
                    window_messages: 256,
                    window_bytes: 1 << 20,
                    durable: None,
                }),
            ),
        ),
        ("unsubscribe", Frame::new(1, Content::Unsubscribe)),
        (
            "deliver",
            Frame::new(
                1,
                Content::Deliver(Deliver {
                    id: 4712,
                    source: "irc".into(),
                    timestamp: 1_795_359_600_123_456_789,
                    cause: None,
                    hops: 0,
                    reply_address: None,
                    attempt: 1,
                    waited_ms: 0,
                    document: document.clone(),
                }),
            ),
        ),
        ("gap", Frame::new(1, Content::Gap(GapNotice { first: 4712, last: 4790, count: Some(31), reason: 1 }))),
        ("grant", Frame::new(0, Content::Grant(Grant { messages: 500, bytes: 1 << 20 }))),
        ("ack", Frame::new(1, Content::Ack(Ack { id: 4712 }))),
        (
            "nack",
            Frame::new(1, Content::Nack(Nack { id: 4712, dead: false, delay_ms: 1000, reason: "no network".into() })),
        ),
        (
            "request",
            Frame::new(
                10,
                Content::Request(Request { deadline_ms: 5000, cause: None, hops: 0, document: document.clone() }),
            ),
        ),
        ("reply", Frame::new(0, Content::Reply(Reply { address: 77, document: document.clone() }))),
        ("response", Frame::new(10, Content::Response(Response { source: "dice".into(), timestamp: 1, document }))),
        ("claim", Frame::new(11, Content::Claim(Text { text: "irc/libera".into() }))),
        ("unclaim", Frame::new(12, Content::Unclaim(Text { text: "irc/libera".into() }))),
        (
            "state",
            Frame::new(0, Content::State(State { state: OperatorState::Ready as u8, status: "on #eevee".into() })),
        ),
        ("reload", Frame::new(5, Content::Reload(module))),
        ("verdict", Frame::new(5, Content::Verdict(Verdict { accepted: true, text: String::new() }))),
        ("commit", Frame::new(5, Content::Commit)),
        ("abort", Frame::new(5, Content::Abort(Text { text: "no".into() }))),
        ("halted", Frame::new(0, Content::Halted(Flag { on: true }))),
        (
            "control",
            Frame::new(
                13,
                Content::Control(Control { verb: "halt".into(), id: "dice".into(), argument: String::new() }),
            ),
        ),
        ("answer", Frame::new(13, Content::Answer(Text { text: "{}".into() }))),
        (
            "record",
            Frame {
                flags: IGNORABLE,
                number: 0,
                content: Content::Record(Record {
                    level: 3,
                    cause: Some(4711),
                    hops: 1,
                    lost: 0,
                    target: "irc::connection".into(),
                    text: "no network".into(),
                }),
            },
        ),
        (
            "commands",
            Frame {
                flags: IGNORABLE,
                number: 0,
                content: Content::Commands(Text {
                    text: r#"[{"name":"dice","usage":"dice 2d6+1","about":"rolls dice"}]"#.into(),
                }),
            },
        ),
    ]
}

fn decode(bytes: &[u8]) -> Result<Option<Frame>, WireError> {
    Frame::decode(Bytes::copy_from_slice(&bytes[4..]))
}

#[test]
fn round_trip_of_each() {
    for (name, frame) in one_of_each() {
        assert_eq!(decode(&frame.encode()).unwrap(), Some(frame), "{name}");
    }
}

/// The vectors in tests/vectors are the contract: what is written today is read by every later version. A changed
/// file is a changed protocol. `EEVEE_WRITE_VECTORS=1` writes those that are missing.
#[test]
fn golden_vectors() {
    let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("vectors");
    for (name, frame) in one_of_each() {
        let path = folder.join(format!("{name}.hex"));
        let bytes = frame.encode();
        let hex = bytes.iter().map(|b| format!("{b:02x}")).collect::<String>();
        if std::env::var_os("EEVEE_WRITE_VECTORS").is_some() && !path.exists() {
            std::fs::create_dir_all(&folder).unwrap();
            std::fs::write(&path, format!("{hex}\n")).unwrap();
        }
        let golden = std::fs::read_to_string(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
        assert_eq!(hex, golden.trim(), "{name}");
        assert_eq!(decode(&bytes).unwrap(), Some(frame), "{name}");
    }
}

#[test]
fn a_frame_cut_at_any_byte_is_waited_for_or_refused() {
    for (name, frame) in one_of_each() {
        let bytes = frame.encode();
        for cut in 0..bytes.len() {
            let mut read = BytesMut::from(&bytes[..cut]);
            assert_eq!(split_frame(&mut read, limits::FRAME_BYTES_MAX), Ok(None), "{name} cut at {cut}");
            read.extend_from_slice(&bytes[cut..]);
            let whole = split_frame(&mut read, limits::FRAME_BYTES_MAX).unwrap().unwrap();
            assert_eq!(Frame::decode(whole).unwrap(), Some(frame.clone()));
            assert!(read.is_empty());
            // And a length that tells the cut as the whole: refused, whatever is missing.
            if cut > 4 {
                assert!(decode(&bytes[..cut]).is_err(), "{name} ends at {cut}");
            }
        }
    }
}

#[test]
fn trailing_bytes_are_refused_and_a_tail_is_skipped() {
    for (name, frame) in one_of_each() {
        let mut bytes = frame.encode();
        bytes.push(0);
        assert_eq!(decode(&bytes).unwrap_err().code, Code::Malformed, "{name}");
        bytes[6] |= TAIL;
        assert_eq!(decode(&bytes).unwrap().unwrap().content, frame.content, "{name}");
    }
}

#[test]
fn lengths_kinds_and_the_reserved_byte() {
    let split = |bytes: &[u8]| split_frame(&mut BytesMut::from(bytes), 100).map_err(|e| e.code);
    assert_eq!(split(&[0, 0, 0, 0]), Err(Code::EmptyFrame));
    assert_eq!(split(&[101, 0, 0, 0]), Err(Code::FrameTooLarge));
    assert_eq!(split(&[0xff; 4]), Err(Code::FrameTooLarge));
    assert_eq!(split(&[1, 0]), Ok(None));
    for len in 1..8 {
        assert_eq!(Frame::decode(Bytes::from(vec![0; len])).unwrap_err().code, Code::Malformed, "{len}");
    }
    let unknown = |flags| Frame::decode(Bytes::from(vec![0xff, 0xff, flags, 0, 5, 0, 0, 0, 1, 2, 3]));
    assert_eq!(unknown(IGNORABLE), Ok(None));
    let refused = unknown(0).unwrap_err();
    assert_eq!((refused.code, refused.number), (Code::UnknownType, 5));
    assert!(!refused.code.closes());
    assert!(Frame::decode(Bytes::from(vec![4, 0, 0, 1, 0, 0, 0, 0])).is_err());
}

#[test]
fn an_overlong_integer_is_refused() {
    // Ping 7 with its value in three bytes.
    let ping = [5, 0, 0, 0, 0, 0, 0, 0, 251, 7, 0];
    assert_eq!(Frame::decode(Bytes::copy_from_slice(&ping)).unwrap_err().code, Code::Malformed);
}

#[test]
fn eleven_bytes_do_not_abort() {
    for kind in [1_u8, 2, 3, 7, 18, 32, 34, 35, 36, 40, 41, 42, 43, 16, 20, 25, 26, 27] {
        for prefix in 0..12 {
            let mut bytes = vec![kind, 0, 0, 0, 0, 0, 0, 0];
            bytes.extend(std::iter::repeat_n(1, prefix));
            bytes.extend([0xfd, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x7f, 1, 2, 3]);
            assert!(Frame::decode(Bytes::from(bytes)).is_err());
        }
    }
}

proptest! {
    #[test]
    fn random_bytes_never_panic(kind in 0_u16..48, rest in prop::collection::vec(any::<u8>(), 0..300)) {
        let mut bytes = kind.to_le_bytes().to_vec();
        bytes.extend([0, 0, 1, 0, 0, 0]);
        bytes.extend(rest);
        if let Ok(Some(frame)) = Frame::decode(Bytes::from(bytes.clone())) {
            prop_assert_eq!(&frame.encode()[4..], &bytes[..]);
        }
    }

    #[test]
    fn a_flipped_byte_never_panics(which in any::<prop::sample::Index>(), at in any::<prop::sample::Index>(), with in any::<u8>()) {
        let frames = one_of_each();
        let mut bytes = frames[which.index(frames.len())].1.encode();
        let at = 4 + at.index(bytes.len() - 4);
        bytes[at] = with;
        let _ = decode(&bytes);
    }

    #[test]
    fn frames_come_out_of_a_stream_as_they_went_in(cuts in prop::collection::vec(1_usize..40, 1..40)) {
        let frames: Vec<Frame> = one_of_each().into_iter().map(|(_, frame)| frame).collect();
        let stream: Vec<u8> = frames.iter().flat_map(Frame::encode).collect();
        let mut read = BytesMut::new();
        let mut seen = Vec::new();
        let mut rest = &stream[..];
        for cut in cuts.iter().cycle() {
            let (chunk, later) = rest.split_at((*cut).min(rest.len()));
            read.extend_from_slice(chunk);
            rest = later;
            while let Some(frame) = split_frame(&mut read, limits::FRAME_BYTES_MAX).unwrap() {
                seen.push(Frame::decode(frame).unwrap().unwrap());
            }
            if rest.is_empty() {
                break;
            }
        }
        prop_assert_eq!(seen, frames);
    }
}

/// The examples in docs/PROTOCOL.md are the golden vectors, every one of them.
#[test]
fn the_protocol_page_shows_every_vector() {
    let root = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
    let page = std::fs::read_to_string(root.join("docs/PROTOCOL.md")).unwrap();
    // Without the remarks beside the bytes, an example is one run of hexadecimal pairs.
    let bytes: String = page
        .lines()
        .filter_map(|line| line.strip_prefix("    "))
        .flat_map(|line| line.split("  ").next().unwrap_or_default().split(' '))
        .filter(|pair| pair.len() == 2)
        .collect();
    for (name, frame) in one_of_each() {
        let hex: String = frame.encode().iter().map(|byte| format!("{byte:02x}")).collect();
        assert!(bytes.contains(&hex), "docs/PROTOCOL.md does not show {name}: {hex}");
    }
}
