//! A bus that says what a test tells it to say, and a systemd that only listens.
#![allow(dead_code, reason = "each test program uses a part of it")]
#![allow(unreachable_pub, reason = "each test program is a crate of its own")]

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use bytes::BytesMut;
use libeevee::chat;
use libeevee::wire::{
    CONFIRM, Code, Content, Deliver, EncodedDocument, Frame, Module, Publish, Published, Refusal, Subscribe, Welcome,
    split_frame,
};
use libeevee::{Document, OperatorState};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::unix::OwnedWriteHalf;
use tokio::net::{UnixDatagram, UnixListener};
use tokio::sync::mpsc;
use tokio::time::{sleep, timeout};

/// Longer than anything takes that goes right, on a machine that is busy.
pub const PATIENCE: Duration = Duration::from_secs(30);

pub async fn soon<F: IntoFuture>(what: &str, future: F) -> F::Output {
    match timeout(PATIENCE, future.into_future()).await {
        Ok(output) => output,
        Err(_) => panic!("{what}: not within {PATIENCE:?}"),
    }
}

pub struct Bus {
    listener: UnixListener,
}

/// One connection, from the bus's side. Subscriptions and publishes are confirmed and pings answered by themselves.
pub struct Session {
    frames: mpsc::Receiver<Frame>,
    write: Arc<tokio::sync::Mutex<OwnedWriteHalf>>,
    answers_pings: Arc<AtomicBool>,
    confirms: Arc<AtomicBool>,
    stores: Arc<AtomicBool>,
    reader: tokio::task::JoinHandle<()>,
    pub token: String,
    /// The numbers of its subscriptions, and their filters.
    pub subscriptions: Vec<(u32, Vec<String>)>,
    /// The same subscriptions, as they were asked for.
    pub asked: Vec<Subscribe>,
}

impl Bus {
    pub fn at(path: &Path) -> Self {
        let _ = std::fs::remove_file(path);
        Self { listener: UnixListener::bind(path).unwrap() }
    }

    pub async fn session(&self, answer: impl Into<Content>) -> Session {
        let answer = answer.into();
        let (stream, _) = soon("a connection", self.listener.accept()).await.unwrap();
        let (mut read, write) = stream.into_split();
        let write = Arc::new(tokio::sync::Mutex::new(write));
        let answers_pings = Arc::new(AtomicBool::new(true));
        let confirms = Arc::new(AtomicBool::new(true));
        let stores = Arc::new(AtomicBool::new(true));
        let storing = Arc::clone(&stores);
        let (sender, frames) = mpsc::channel(1000);
        let (answering, pings, confirming) = (Arc::clone(&write), Arc::clone(&answers_pings), Arc::clone(&confirms));
        let reader = tokio::spawn(async move {
            let mut buffer = BytesMut::new();
            loop {
                while let Some(bytes) = split_frame(&mut buffer, 1 << 20).unwrap() {
                    let frame = Frame::decode(bytes).unwrap().unwrap();
                    let reply = match &frame.content {
                        Content::Subscribe(_) if storing.load(Ordering::Relaxed) => Some(Content::Ok),
                        Content::Subscribe(_) => Some(Content::Error(Refusal {
                            code: Code::Storage as u16,
                            text: "the disk is full".into(),
                            limit: None,
                            value: None,
                            rule: None,
                        })),
                        Content::Publish(_) if frame.flags & CONFIRM != 0 && confirming.load(Ordering::Relaxed) => {
                            Some(Content::Published(Published { id: 5000, live: 1, durable: 0 }))
                        }
                        Content::Ping(value) if pings.load(Ordering::Relaxed) => Some(Content::Pong(*value)),
                        _ => None,
                    };
                    if let Some(reply) = reply {
                        let bytes = Frame::new(frame.number, reply).encode();
                        let _ = answering.lock().await.write_all(&bytes).await;
                    }
                    let _ = sender.send(frame).await;
                }
                if read.read_buf(&mut buffer).await.unwrap_or(0) == 0 {
                    return;
                }
            }
        });
        let mut session = Session {
            frames,
            write,
            answers_pings,
            confirms,
            stores,
            reader,
            token: String::new(),
            subscriptions: Vec::new(),
            asked: Vec::new(),
        };
        session.token = session
            .expect("Hello", |frame| match frame.content {
                Content::Hello(hello) => Some(hello.token),
                _ => None,
            })
            .await;
        session.send(0, answer).await;
        session
    }
}

impl Session {
    pub async fn send(&self, number: u32, content: Content) {
        let bytes = Frame::new(number, content).encode();
        self.write.lock().await.write_all(&bytes).await.unwrap();
    }

    pub async fn deliver(&self, subscription: u32, id: u64, document: &Document) {
        self.deliver_again(subscription, id, document, 1).await;
    }

    pub async fn deliver_again(&self, subscription: u32, id: u64, document: &Document, attempt: u32) {
        let deliver = Deliver {
            id,
            source: "irc".into(),
            timestamp: 7,
            cause: None,
            hops: 2,
            reply_address: None,
            attempt,
            waited_ms: 0,
            document: document.into(),
        };
        self.send(subscription, Content::Deliver(deliver)).await;
    }

    pub fn answer_pings(&self, on: bool) {
        self.answers_pings.store(on, Ordering::Relaxed);
    }

    /// Whether subscriptions can be stored.
    pub fn store(&self, on: bool) {
        self.stores.store(on, Ordering::Relaxed);
    }

    pub fn confirm_publishes(&self, on: bool) {
        self.confirms.store(on, Ordering::Relaxed);
    }

    /// What the operator said next of a delivery: the number of its subscription, and Ack or Nack.
    pub async fn settled(&mut self) -> (u32, Content) {
        self.expect("Ack or Nack", |frame| {
            let said = matches!(frame.content, Content::Ack(_) | Content::Nack(_));
            said.then_some((frame.number, frame.content))
        })
        .await
    }

    /// The next frame of which `wanted` makes something; others are passed over.
    pub async fn expect<T>(&mut self, what: &str, mut wanted: impl FnMut(Frame) -> Option<T>) -> T {
        soon(what, async {
            loop {
                let frame = self.frames.recv().await.unwrap_or_else(|| panic!("{what}: the operator closed"));
                if let Content::Subscribe(subscribe) = &frame.content {
                    self.asked.push(subscribe.clone());
                    self.subscriptions.push((frame.number, subscribe.filters.clone()));
                }
                if let Some(found) = wanted(frame) {
                    return found;
                }
            }
        })
        .await
    }

    pub async fn state(&mut self, wanted: OperatorState) -> String {
        self.expect(wanted.as_str(), |frame| match frame.content {
            Content::State(state) if state.state == wanted as u8 => Some(state.status),
            _ => None,
        })
        .await
    }

    pub async fn publish(&mut self) -> Publish {
        self.expect("Publish", |frame| match frame.content {
            Content::Publish(publish) => Some(publish),
            _ => None,
        })
        .await
    }

    /// The next published document of a type.
    pub async fn published(&mut self, kind: &str) -> (Publish, Document) {
        loop {
            let publish = self.publish().await;
            let document = decoded(&publish.document);
            if document.headers.get("type") == Some(kind) {
                return (publish, document);
            }
        }
    }

    /// The next control request: its number, verb and id.
    pub async fn control(&mut self) -> (u32, String, String) {
        self.expect("Control", |frame| match frame.content {
            Content::Control(control) => Some((frame.number, control.verb, control.id)),
            _ => None,
        })
        .await
    }

    /// The next verdict on a reload.
    pub async fn verdict(&mut self) -> (u32, bool, String) {
        self.expect("Verdict", |frame| match frame.content {
            Content::Verdict(verdict) => Some((frame.number, verdict.accepted, verdict.text)),
            _ => None,
        })
        .await
    }

    /// Whether nothing of which `unwanted` is true comes for a while.
    pub async fn is_without(&mut self, unwanted: impl Fn(&Content) -> bool) -> bool {
        let seen = async {
            loop {
                match self.frames.recv().await {
                    Some(frame) if unwanted(&frame.content) => return,
                    Some(_) => {}
                    None => std::future::pending().await,
                }
            }
        };
        timeout(Duration::from_millis(600), seen).await.is_err()
    }

    /// The bus goes away.
    pub fn close(self) {
        self.reader.abort();
    }
}

pub fn decoded(document: &EncodedDocument) -> Document {
    document.decode()
}

pub fn welcome(id: &str, kind: &str, text: Option<&str>) -> Welcome {
    Welcome {
        version: 1,
        identity: id.into(),
        session: 1,
        boot: 100,
        last_id: 1000,
        frame_bytes_max: 1 << 20,
        credit_messages: 100_000,
        credit_bytes: 8 << 20,
        halted: false,
        module: text.map(|text| module(id, kind, text)),
        capabilities: vec![],
    }
}

pub fn module(id: &str, kind: &str, text: &str) -> Module {
    Module { kind: kind.into(), path: format!("/etc/eevee/modules.d/{id}.toml"), text: text.into() }
}

/// What somebody says in a channel.
pub fn said(text: &str) -> Document {
    let recogniser = chat::Recogniser { prefix: "!".into(), ..Default::default() };
    let found = recogniser.find(text, "eevee");
    chat::Event::new(chat::kind::MESSAGE, "irc", "libera")
        .channel("#rust")
        .user("goos")
        .command(found.as_ref())
        .document(text)
}

/// Listens where systemd would, and always reads: whoever tells it something would wait otherwise.
pub struct Systemd {
    told: tokio::sync::Mutex<mpsc::Receiver<Vec<String>>>,
    pub path: PathBuf,
}

impl Systemd {
    pub fn at(path: PathBuf) -> Self {
        let socket = UnixDatagram::bind(&path).unwrap();
        let (sender, told) = mpsc::channel(10_000);
        tokio::spawn(async move {
            let mut buffer = [0; 4096];
            while let Ok(length) = socket.recv(&mut buffer).await {
                let text = String::from_utf8(buffer[..length].to_vec()).unwrap();
                let _ = sender.send(text.lines().map(str::to_owned).collect()).await;
            }
        });
        Self { told: tokio::sync::Mutex::new(told), path }
    }

    /// One message, as its lines.
    pub async fn told(&self) -> Vec<String> {
        self.told.lock().await.recv().await.unwrap()
    }

    /// Waits for a message with a line that begins so, and returns the message's lines.
    pub async fn expect(&self, beginning: &str) -> Vec<String> {
        soon(beginning, async {
            loop {
                let lines = self.told().await;
                if lines.iter().any(|line| line.starts_with(beginning)) {
                    return lines;
                }
            }
        })
        .await
    }

    /// Whether no such line comes for a while.
    pub async fn is_without(&self, beginning: &str, time: Duration) -> bool {
        let seen = async {
            loop {
                if self.told().await.iter().any(|line| line.starts_with(beginning)) {
                    return;
                }
            }
        };
        tokio::select! { () = seen => false, () = sleep(time) => true }
    }
}
