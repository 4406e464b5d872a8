//! A scripted bus on a real Unix socket: it says what the test tells it to say, right or wrong.

use std::time::Duration;

use bytes::BytesMut;
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{UnixListener, UnixStream};
use tokio::time::timeout;

use crate::client::{Client, Connect};
use crate::message::Document;
use crate::wire::{
    Code, Content, Deliver, Frame, Grant, Hello, Refusal, Subscribe, Text, Welcome, limits::FRAME_BYTES_MAX,
    split_frame,
};

/// Longer than anything takes that goes right.
const PATIENCE: Duration = Duration::from_secs(10);

pub(super) struct Bus {
    listener: UnixListener,
    pub(super) folder: TempDir,
}

/// The bus's end of one connection.
pub(super) struct Peer {
    pub(super) stream: UnixStream,
    read: BytesMut,
}

pub(super) fn welcome() -> Welcome {
    Welcome {
        version: 1,
        identity: "test".into(),
        session: 1,
        boot: 100,
        last_id: 1000,
        frame_bytes_max: 1 << 20,
        credit_messages: 1000,
        credit_bytes: 8 << 20,
        halted: false,
        module: None,
        capabilities: vec![],
    }
}

pub(super) fn document(body: &str) -> Document {
    Document::new([("type", "test")], body.to_owned()).unwrap()
}

pub(super) fn refusal(code: Code, text: &str) -> Content {
    Content::Error(Refusal { code: code as u16, text: text.into(), limit: None, value: None, rule: None })
}

pub(super) fn text(text: &str) -> Text {
    Text { text: text.into() }
}

/// Fails the test instead of hanging it.
pub(super) async fn soon<F: IntoFuture>(what: &str, future: F) -> F::Output {
    match timeout(PATIENCE, future.into_future()).await {
        Ok(output) => output,
        Err(_) => panic!("{what}: not within {PATIENCE:?}"),
    }
}

impl Bus {
    pub(super) fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let listener = UnixListener::bind(folder.path().join("bus.sock")).unwrap();
        Self { listener, folder }
    }

    pub(super) fn tool(&self) -> Connect {
        Connect::tool().socket(self.folder.path().join("bus.sock")).program("test 1")
    }

    pub(super) fn operator(&self) -> Connect {
        Connect::operator("test".parse().unwrap(), "secret").socket(self.folder.path().join("bus.sock"))
    }

    /// A connection before its handshake.
    pub(super) async fn accept(&self) -> Peer {
        let (stream, _) = soon("a connection", self.listener.accept()).await.unwrap();
        Peer { stream, read: BytesMut::new() }
    }

    /// A connection after its handshake.
    pub(super) async fn welcome(&self, welcome: Welcome) -> Peer {
        let mut peer = self.accept().await;
        peer.hello().await;
        peer.send(0, Content::Welcome(welcome)).await;
        peer
    }

    /// A client and the bus's end of its connection.
    pub(super) async fn connected(&self, with: Welcome) -> (Client, Peer) {
        let (client, peer) = tokio::join!(Client::connect(self.tool()), self.welcome(with));
        (client.unwrap(), peer)
    }
}

impl Peer {
    /// The next frame; fails at the end of the stream.
    pub(super) async fn frame(&mut self) -> Frame {
        soon("a frame", self.next()).await.expect("the client closed the connection")
    }

    /// The next frame, or the end of the stream.
    pub(super) async fn next(&mut self) -> Option<Frame> {
        loop {
            if let Some(bytes) = split_frame(&mut self.read, FRAME_BYTES_MAX).unwrap() {
                return Frame::decode(bytes).unwrap();
            }
            if self.stream.read_buf(&mut self.read).await.unwrap_or(0) == 0 {
                assert!(self.read.is_empty(), "the client closed in the middle of a frame");
                return None;
            }
        }
    }

    /// Whether the client is silent: nothing came in a time in which it would have.
    pub(super) async fn is_silent(&mut self) -> bool {
        timeout(Duration::from_millis(100), self.next()).await.is_err()
    }

    pub(super) async fn hello(&mut self) -> Hello {
        match self.frame().await.content {
            Content::Hello(hello) => hello,
            other => panic!("not Hello: {other:?}"),
        }
    }

    pub(super) async fn subscribe(&mut self) -> (u32, Subscribe) {
        match self.frame().await {
            Frame { number, content: Content::Subscribe(subscribe), .. } => (number, subscribe),
            other => panic!("not Subscribe: {other:?}"),
        }
    }

    /// The number and the text of the next published document.
    pub(super) async fn publish(&mut self) -> (u32, String) {
        match self.frame().await {
            Frame { number, content: Content::Publish(publish), .. } => {
                (number, String::from_utf8(publish.document.body().to_vec()).unwrap())
            }
            other => panic!("not Publish: {other:?}"),
        }
    }

    pub(super) async fn grant(&mut self) -> (u32, Grant) {
        match self.frame().await {
            Frame { number, content: Content::Grant(grant), .. } => (number, grant),
            other => panic!("not Grant: {other:?}"),
        }
    }

    pub(super) async fn send(&mut self, number: u32, content: Content) {
        self.write(&Frame::new(number, content).encode()).await;
    }

    pub(super) async fn write(&mut self, bytes: &[u8]) {
        soon("writing to the client", self.stream.write_all(bytes)).await.unwrap();
    }

    /// The next acknowledgement or its contrary; grants are passed over.
    pub(super) async fn settled(&mut self) -> (u32, Content) {
        loop {
            let frame = self.frame().await;
            match frame.content {
                content @ (Content::Ack(_) | Content::Nack(_)) => return (frame.number, content),
                Content::Grant(_) => {}
                other => panic!("neither Ack nor Nack: {other:?}"),
            }
        }
    }

    pub(super) async fn deliver(&mut self, number: u32, id: u64, body: &str) {
        self.deliver_again(number, id, body, 1).await;
    }

    pub(super) async fn deliver_again(&mut self, number: u32, id: u64, body: &str, attempt: u32) {
        self.send(number, Content::Deliver(Deliver { attempt, ..delivery(id, body) })).await;
    }

    /// All of these at once, so that they come in one piece.
    pub(super) async fn send_all(&mut self, frames: impl IntoIterator<Item = (u32, Content)>) {
        let bytes: Vec<u8> =
            frames.into_iter().flat_map(|(number, content)| Frame::new(number, content).encode()).collect();
        self.write(&bytes).await;
    }
}

pub(super) fn delivery(id: u64, body: &str) -> Deliver {
    Deliver {
        id,
        source: "irc".into(),
        timestamp: 7,
        cause: None,
        hops: 0,
        reply_address: None,
        attempt: 1,
        waited_ms: 0,
        document: (&document(body)).into(),
    }
}
