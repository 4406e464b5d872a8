//! Bad input to the socket: the typed error that the protocol promises, and a pair of bystanders that notice nothing.

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::time::Duration;

use bytes::BytesMut;
use libeevee::wire::{
    CONFIRM, Content, EncodedDocument, Frame, Hello, IGNORABLE, Publish, Request, Role, Subscribe, split_frame,
};
use libeevee::{Client, Code, Subscription};

use crate::bus::{self, Bus, SOON, document, message};

/// Two operators that talk to each other all the time.
pub(crate) struct Bystanders {
    one: Client,
    _two: Client,
    heard: Subscription,
}

impl Bystanders {
    pub(crate) async fn new(bus: &Bus) -> Self {
        let (one, two) = (bus.operator("one").await, bus.operator("two").await);
        let heard = two.subscribe("type=bystander").await.unwrap();
        Self { one, _two: two, heard }
    }

    /// A message passes, and no gap with it.
    pub(crate) async fn talk(&mut self, after: &str) {
        let talk = document(&[("type", "bystander")], after);
        self.one.publish_confirmed(talk).await.unwrap_or_else(|error| panic!("after {after}: {error}"));
        assert_eq!(message(&mut self.heard).await.text(), Some(after));
    }
}

/// A client made of bytes.
pub(crate) struct Raw {
    stream: UnixStream,
    read: BytesMut,
}

impl Raw {
    pub(crate) fn connect(bus: &Bus) -> Self {
        let stream = UnixStream::connect(bus.socket()).unwrap();
        stream.set_read_timeout(Some(SOON)).unwrap();
        Self { stream, read: BytesMut::new() }
    }

    /// Another hand on the same socket.
    pub(crate) fn try_clone(&self) -> Self {
        Self { stream: self.stream.try_clone().unwrap(), read: BytesMut::new() }
    }

    pub(crate) fn shutdown(&self) {
        self.stream.shutdown(std::net::Shutdown::Write).unwrap();
    }

    pub(crate) fn hello(bus: &Bus, id: &str) -> Self {
        let mut raw = Self::connect(bus);
        raw.send(&hello(id).encode());
        assert!(matches!(raw.frame().unwrap().content, Content::Welcome(_)));
        raw
    }

    pub(crate) fn send(&mut self, bytes: &[u8]) {
        // The bus may have closed while we still write: what it said is read all the same.
        let _ = self.stream.write_all(bytes);
    }

    /// The next frame; None at the end of the stream.
    pub(crate) fn frame(&mut self) -> Option<Frame> {
        loop {
            if let Some(bytes) = split_frame(&mut self.read, 64 << 20).unwrap() {
                return Some(Frame::decode(bytes).unwrap().unwrap());
            }
            let mut chunk = [0; 65536];
            match self.stream.read(&mut chunk) {
                Ok(0) => return None,
                Ok(count) => self.read.extend_from_slice(&chunk[..count]),
                Err(error) if error.kind() == std::io::ErrorKind::ConnectionReset => return None,
                Err(error) => panic!("the bus neither answers nor closes: {error}"),
            }
        }
    }

    fn error(&mut self) -> Code {
        match self.frame() {
            Some(Frame { content: Content::Error(refusal), .. }) => Code::from_number(refusal.code),
            other => panic!("no error: {other:?}"),
        }
    }

    fn is_closed(&mut self) -> bool {
        self.frame().is_none()
    }
}

pub(crate) fn hello(id: &str) -> Frame {
    Frame::new(
        0,
        Content::Hello(Hello {
            version_min: 1,
            version_max: 1,
            role: Role::Operator as u8,
            id: Some(id.into()),
            token: String::new(),
            instance: 1,
            program: "hostile".into(),
            capabilities: Vec::new(),
        }),
    )
}

pub(crate) fn publish(number: u32, document: &libeevee::Document) -> Frame {
    let document = EncodedDocument::from(document);
    let publish = Publish { cause: None, hops: 0, epoch: 0, sequence: 0, document };
    Frame { flags: CONFIRM, number, content: Content::Publish(publish) }
}

/// A frame of this kind around these body bytes.
fn around(kind: u16, flags: u8, body: &[u8]) -> Vec<u8> {
    let mut bytes = u32::try_from(8 + body.len()).unwrap().to_le_bytes().to_vec();
    bytes.extend(kind.to_le_bytes());
    bytes.extend([flags, 0, 9, 0, 0, 0]);
    bytes.extend(body);
    bytes
}

/// A Publish with these raw headers, `count` announced.
fn raw_publish(count: &[u8], headers: &[(&[u8], &[u8])], after: &[u8]) -> Vec<u8> {
    let mut body = vec![0, 0, 0, 0];
    body.extend(count);
    for (key, value) in headers {
        for text in [key, value] {
            body.push(u8::try_from(text.len()).unwrap());
            body.extend(*text);
        }
    }
    body.extend(after);
    around(16, CONFIRM, &body)
}

/// Name, bytes after the handshake, the error, whether the session goes on.
fn inputs() -> Vec<(&'static str, Vec<u8>, Code, bool)> {
    let header = |key: &[u8]| raw_publish(&[1], &[(key, b"v")], &[0]);
    let mut bomb = vec![0, 0, 0, 0];
    bomb.extend([253, 0, 0, 0, 0, 0, 0, 0, 0x80]);
    let many: Vec<(&[u8], &[u8])> = vec![(b"", b""); 60_000];
    vec![
        ("length of 4 GiB", vec![0xff; 12], Code::FrameTooLarge, false),
        ("length over the limit", vec![1, 0, 0x10, 0, 0, 0, 0, 0], Code::FrameTooLarge, false),
        ("length 0", vec![0; 4], Code::EmptyFrame, false),
        ("length below the header", vec![7, 0, 0, 0, 1, 2, 3, 4, 5, 6, 7], Code::Malformed, false),
        ("header count of 2^63", around(16, 0, &bomb), Code::TooManyHeaders, false),
        ("60,000 real headers", raw_publish(&[251, 0x60, 0xea], &many, &[0]), Code::TooManyHeaders, false),
        ("body longer than the frame", raw_publish(&[0], &[], &[250]), Code::Malformed, false),
        (
            "string length that overflows",
            around(16, 0, &[0, 0, 0, 0, 1, 253, 255, 255, 255, 255, 255, 255, 255, 255]),
            Code::Malformed,
            false,
        ),
        ("trailing bytes", raw_publish(&[0], &[], &[0, 0]), Code::Malformed, false),
        ("an over-long integer", raw_publish(&[251, 0, 0], &[], &[0]), Code::Malformed, false),
        ("bad UTF-8", header(b"\xff"), Code::Malformed, false),
        ("NUL in a key", header(b"a\0"), Code::BadHeader, true),
        ("a control character in a value", raw_publish(&[1], &[(b"a", b"\n")], &[0]), Code::BadHeader, true),
        ("an upper-case key", header(b"Type"), Code::BadHeader, true),
        ("a key of the envelope", header(b"source"), Code::BadHeader, true),
        ("a header twice", raw_publish(&[2], &[(b"a", b"1"), (b"a", b"2")], &[0]), Code::DuplicateHeader, true),
        ("an unknown kind", around(999, 0, b"?"), Code::UnknownType, true),
        ("a kind of the bus", around(17, 0, &[1, 1, 1]), Code::UnknownType, true),
        ("a second Hello", hello("x").encode(), Code::Auth, false),
        ("an HTTP request", b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n".to_vec(), Code::FrameTooLarge, false),
        ("a TLS hello", [vec![0x16, 3, 1, 0, 0xf0, 1, 0, 1], vec![0; 1 << 17]].concat(), Code::Malformed, false),
    ]
}

#[tokio::test]
async fn bad_input_gets_its_error_and_disturbs_nobody() {
    let bus = Bus::start();
    let mut bystanders = Bystanders::new(&bus).await;
    for (name, bytes, code, goes_on) in inputs() {
        let mut raw = Raw::hello(&bus, "hostile");
        raw.send(&bytes);
        assert_eq!(raw.error(), code, "{name}");
        if goes_on {
            raw.send(&publish(5, &document(&[("type", "x")], "")).encode());
            assert!(matches!(raw.frame().unwrap().content, Content::Published(_)), "{name}");
        } else {
            assert!(raw.is_closed(), "{name}");
        }
        drop(raw);
        bystanders.talk(name).await;
        wait_for_end(&bus, &bystanders).await;
    }
}

/// Until the id `hostile` is free again.
async fn wait_for_end(bus: &Bus, bystanders: &Bystanders) {
    while bus.status(&bystanders.one, "").await.is_object() && connected(bus, bystanders).await {
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
}

async fn connected(_bus: &Bus, bystanders: &Bystanders) -> bool {
    let text = bystanders.one.control("status", "", "").await.unwrap().unwrap();
    let all: serde_json::Value = serde_json::from_str(&text).unwrap();
    all.as_array().unwrap().iter().any(|one| one["id"] == "hostile" && one["connected"] == true)
}

#[tokio::test]
async fn bad_input_before_hello() {
    let bus = Bus::start();
    let mut bystanders = Bystanders::new(&bus).await;
    let mut old = hello("old");
    if let Content::Hello(hello) = &mut old.content {
        (hello.version_min, hello.version_max) = (2, 3);
    }
    let mut forged = hello("forged");
    if let Content::Hello(hello) = &mut forged.content {
        hello.token = "eevee".repeat(40);
    }
    let cases: Vec<(&str, Vec<u8>, Code)> = vec![
        ("a publish", publish(1, &document(&[("type", "x")], "")).encode(), Code::Auth),
        ("an ignorable unknown kind", around(999, IGNORABLE, b""), Code::Auth),
        ("a later version", old.encode(), Code::Version),
        ("a forged token", forged.encode(), Code::Auth),
        ("an id outside the grammar", hello("../x").encode(), Code::Auth),
        ("a reserved id", hello("eeveed").encode(), Code::Auth),
        ("an HTTP request", b"GET / HTTP/1.1\r\n\r\n".to_vec(), Code::FrameTooLarge),
    ];
    for (name, bytes, code) in cases {
        let mut raw = Raw::connect(&bus);
        raw.send(&bytes);
        assert_eq!(raw.error(), code, "{name}");
        assert!(raw.is_closed(), "{name}");
        bystanders.talk(name).await;
    }
    let knocks = bus.log().lines().filter(|line| line.contains("refused a connection")).count();
    assert_eq!(knocks, 1, "one line a minute for a peer:\n{}", bus.log());
}

#[tokio::test]
async fn a_cut_frame_is_no_message_and_a_half_close_is_answered() {
    let bus = Bus::start();
    let mut bystanders = Bystanders::new(&bus).await;
    let whole = publish(5, &document(&[("type", "bystander")], "cut")).encode();
    for cut in 1..whole.len() {
        let mut raw = Raw::hello(&bus, "hostile");
        raw.send(&whole[..cut]);
        drop(raw);
        if cut % 16 == 0 {
            bystanders.talk("cut").await;
        }
        wait_for_end(&bus, &bystanders).await;
    }
    let mut raw = Raw::hello(&bus, "hostile");
    raw.send(&publish(5, &document(&[("type", "x")], "")).encode());
    raw.stream.shutdown(std::net::Shutdown::Write).unwrap();
    assert!(matches!(raw.frame().unwrap().content, Content::Published(_)));
    assert!(raw.is_closed());
}

/// What waits for the disk, or for somebody else, is answered as well as what is answered at once.
#[tokio::test]
async fn a_half_close_gives_nothing_up_that_was_asked_for() {
    let bus = Bus::start();
    let subscriber = bus.operator("subscriber").await;
    let _kept = subscriber.subscribe("type=x").durable("kept").await.unwrap();
    let asked = |number, content| Frame::new(number, content).encode();
    let question = EncodedDocument::from(&document(&[("type", "asked")], ""));
    let request = Request { deadline_ms: 300, cause: None, hops: 0, document: question };
    let _heard = subscriber.subscribe("type=asked").await.unwrap();
    let durable = Subscribe { durable: Some("own".into()), ..bus::subscribe("type=x") };
    for (what, bytes) in [
        ("publish", publish(5, &document(&[("type", "x")], "")).encode()),
        ("subscribe", asked(5, Content::Subscribe(durable))),
        ("request", asked(5, Content::Request(request))),
    ] {
        let mut raw = Raw::hello(&bus, "hostile");
        raw.send(&bytes);
        raw.shutdown();
        let answer = raw.frame().unwrap_or_else(|| panic!("{what} is not answered"));
        assert_eq!(answer.number, 5, "{what}: {answer:?}");
        assert!(raw.is_closed());
    }
}

#[tokio::test]
async fn connections_without_hello_are_bounded_and_real_peers_get_in() {
    let bus = Bus::configured("[limits]\nhandshakes = 8\nhandshake-time = \"1 s\"\n");
    let mut bystanders = Bystanders::new(&bus).await;
    let mut silent: Vec<Raw> = (0..20).map(|_| Raw::connect(&bus)).collect();
    bystanders.talk("20 silent connections").await;
    let mut real = Raw::hello(&bus, "real");
    for raw in &mut silent {
        assert_eq!(raw.error(), Code::HandshakeTimeout);
        assert!(raw.is_closed());
    }
    real.send(&publish(5, &document(&[("type", "x")], "")).encode());
    assert!(matches!(real.frame().unwrap().content, Content::Published(_)));
}

#[tokio::test]
async fn connections_of_one_uid_are_bounded() {
    let bus = Bus::configured("[limits]\nconnections-per-uid = 4\n");
    let mut held: Vec<Raw> = (0..4).map(|n| Raw::hello(&bus, &format!("op{n}"))).collect();
    let mut fifth = Raw::connect(&bus);
    assert_eq!(fifth.error(), Code::Quota);
    assert!(fifth.is_closed());
    drop(held.pop());
    let deadline = std::time::Instant::now() + SOON;
    loop {
        let mut again = Raw::connect(&bus);
        again.send(&hello("again").encode());
        match again.frame().map(|frame| frame.content) {
            Some(Content::Welcome(_)) => break,
            _ => assert!(std::time::Instant::now() < deadline, "the place is never free again"),
        }
    }
}

#[tokio::test]
async fn a_frame_that_is_never_finished_ends_in_time() {
    let bus = Bus::start();
    let mut bystanders = Bystanders::new(&bus).await;
    let mut raw = Raw::hello(&bus, "hostile");
    // What a TLS client says first, and then it waits: a length of 66 KiB, and no more.
    raw.send(&[0x16, 3, 1, 0, 0xf0, 1, 0, 0, 0xec, 3, 3]);
    raw.stream.set_read_timeout(Some(2 * SOON)).unwrap();
    bystanders.talk("a frame begun").await;
    assert_eq!(raw.error(), Code::FrameTimeout);
    assert!(raw.is_closed());
    bystanders.talk("a frame ended").await;
}

#[tokio::test]
async fn ten_thousand_random_inputs() {
    let bus = Bus::start();
    let mut bystanders = Bystanders::new(&bus).await;
    let mut seed = 0x9e37_79b9_7f4a_7c15_u64;
    let mut random = move || {
        seed ^= seed << 13;
        seed ^= seed >> 7;
        seed ^= seed << 17;
        seed
    };
    for round in 0..200 {
        let mut raw = Raw::hello(&bus, "hostile");
        for _ in 0..50 {
            let kind = u16::try_from(random() % 48).unwrap();
            let body: Vec<u8> = (0..random() % 60).map(|_| random().to_le_bytes()[0]).collect();
            raw.send(&around(kind, 0, &body));
        }
        drop(raw);
        if round % 20 == 0 {
            bystanders.talk("random bytes").await;
        }
        wait_for_end(&bus, &bystanders).await;
    }
    bystanders.talk("all random bytes").await;
}

#[tokio::test]
async fn too_many_subscriptions_and_too_large_filters_keep_the_session() {
    let bus = Bus::start();
    let mut raw = Raw::hello(&bus, "hostile");
    let subscribe = |number, filter: &str| Frame::new(number, Content::Subscribe(bus::subscribe(filter))).encode();
    for number in 1..=512 {
        raw.send(&subscribe(number, "type=x"));
        assert_eq!(raw.frame().unwrap().content, Content::Ok);
    }
    raw.send(&subscribe(513, "type=x"));
    assert_eq!(raw.error(), Code::Quota);
    for (filter, code) in [
        ("a=b,".repeat(40) + "a=b", Code::FilterTooLarge),
        ("x".repeat(5000), Code::FilterTooLarge),
        ("a=".into(), Code::BadFilter),
        ("(((((".into(), Code::BadFilter),
    ] {
        raw.send(&around(19, 0, &[])); // Unsubscribe 9, so that there is room; it may be gone already.
        raw.frame().unwrap();
        raw.send(&subscribe(600, &filter));
        assert_eq!(raw.error(), code, "{filter:.20}");
    }
}
