//! Hello, Welcome, refusals, and the first connection to a bus that is not there yet.

use std::time::{Duration, Instant};

use super::*;
use crate::client::{Client, Connect, Notice};
use crate::error::ErrorKind;
use crate::wire::{Code, Content, Role};

#[tokio::test]
async fn hello_says_who_we_are_and_welcome_what_the_bus_thinks() {
    let bus = Bus::new();
    let script = async {
        let mut peer = bus.accept().await;
        let hello = peer.hello().await;
        peer.send(0, Content::Welcome(welcome())).await;
        (peer, hello)
    };
    let (client, (mut peer, hello)) = tokio::join!(Client::connect(bus.operator()), script);
    let client = client.unwrap();
    assert_eq!((hello.role, hello.id.as_deref(), &*hello.token), (Role::Operator as u8, Some("test"), "secret"));
    assert_eq!(client.welcome().session, 1);
    assert!(client.is_connected() && !client.is_halted());
    assert!(matches!(client.notices().next().await, Some(Notice::Connected(_))));
    assert!(!format!("{:?}", bus.operator()).contains("secret"));

    drop(client);
    assert!(matches!(peer.frame().await.content, Content::Bye(_)));
    assert!(soon("the end", peer.next()).await.is_none());
}

#[tokio::test]
async fn a_refused_hello_is_fatal_and_not_tried_again() {
    for (code, kind) in [
        (Code::Auth, ErrorKind::Auth),
        (Code::Version, ErrorKind::Auth),
        (Code::Denied, ErrorKind::Refused(Code::Denied)),
        (Code::NotFound, ErrorKind::Refused(Code::NotFound)),
    ] {
        let bus = Bus::new();
        let script = async {
            let mut peer = bus.accept().await;
            peer.hello().await;
            peer.send(0, refusal(code, "this token is not irc's")).await;
        };
        let (error, ()) = tokio::join!(Client::connect(bus.operator().wait(true)), script);
        let error = error.unwrap_err();
        assert_eq!(error.kind(), kind);
        assert!(error.to_string().contains("this token is not irc's"), "{error}");
    }
}

#[tokio::test]
async fn another_version_is_fatal() {
    let bus = Bus::new();
    let mut later = welcome();
    later.version = 2;
    let (error, _peer) = tokio::join!(Client::connect(bus.operator().wait(true)), bus.welcome(later));
    assert_eq!(error.unwrap_err().kind(), ErrorKind::Auth);
}

#[tokio::test]
async fn an_id_that_is_held_is_tried_again_by_operators_only() {
    let bus = Bus::new();
    let refuse = async || {
        let mut peer = bus.accept().await;
        peer.hello().await;
        peer.send(0, refusal(Code::AlreadyConnected, "pid 7 holds irc")).await;
    };
    let (error, ()) = tokio::join!(Client::connect(bus.tool()), refuse());
    assert_eq!(error.unwrap_err().kind(), ErrorKind::Refused(Code::AlreadyConnected));

    let script = async {
        refuse().await;
        refuse().await;
        bus.welcome(welcome()).await
    };
    let (client, _peer) = tokio::join!(Client::connect(bus.operator()), script);
    assert_eq!(client.unwrap().welcome().identity, "test");
}

#[tokio::test(start_paused = true)]
async fn a_predecessor_is_given_ten_seconds() {
    let bus = Bus::new();
    let began = tokio::time::Instant::now();
    let refuse = async {
        loop {
            let mut peer = bus.accept().await;
            peer.hello().await;
            peer.send(0, refusal(Code::AlreadyConnected, "pid 7 holds irc")).await;
        }
    };
    let error = tokio::select! {
        connected = Client::connect(bus.operator()) => connected.unwrap_err(),
        () = refuse => unreachable!(),
    };
    assert_eq!(error.kind(), ErrorKind::Refused(Code::AlreadyConnected));
    let waited = began.elapsed();
    assert!(waited >= Duration::from_secs(10) && waited < Duration::from_secs(12), "{waited:?}");
}

#[tokio::test]
async fn without_a_bus_a_tool_fails_at_once_and_a_waiting_client_comes_in_when_it_is_there() {
    let folder = tempfile::tempdir().unwrap();
    let socket = folder.path().join("bus.sock");
    let began = Instant::now();
    let error = Client::connect(Connect::tool().socket(&socket)).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Io);
    let shown = error.to_string();
    assert!(shown.contains(socket.to_str().unwrap()) && shown.contains("systemctl status"), "{shown}");
    assert!(began.elapsed() < Duration::from_secs(5));

    let bus = async {
        tokio::time::sleep(Duration::from_millis(300)).await;
        let listener = tokio::net::UnixListener::bind(&socket).unwrap();
        soon("a connection", listener.accept()).await.unwrap().0
    };
    let connect = Connect::tool().socket(&socket).wait(true);
    tokio::select! {
        client = Client::connect(connect) => panic!("nobody welcomed it: {client:?}"),
        _stream = bus => {}
    }
}

#[tokio::test(start_paused = true)]
async fn a_bus_that_does_not_answer_is_given_up() {
    let bus = Bus::new();
    let (error, _silent) = tokio::join!(Client::connect(bus.tool()), bus.accept());
    let error = error.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Deadline);
    assert!(error.to_string().contains("10s"), "{error}");
}

#[tokio::test]
async fn what_is_no_bus_is_told() {
    for (said, kind, word) in [
        (&b""[..], ErrorKind::Disconnected, "closed"),
        (b"HTTP/1.1 400 Bad Request\r\n\r\n", ErrorKind::Wire, "longer"),
        (b"\x03\0\0\0\x01\x02\x03", ErrorKind::Wire, "header"),
        (b"\x08\0\0\0\x04\0\0\0\0\0\0\0", ErrorKind::Wire, "Welcome"),
        (b"\x10\0\0\0\x02\0", ErrorKind::Disconnected, "middle"),
    ] {
        let bus = Bus::new();
        let script = async {
            let mut peer = bus.accept().await;
            peer.hello().await;
            peer.write(said).await;
        };
        let (error, ()) = tokio::join!(Client::connect(bus.tool()), script);
        let error = error.unwrap_err();
        assert_eq!(error.kind(), kind, "{error}");
        assert!(error.to_string().contains(word), "{error}");
    }
}
