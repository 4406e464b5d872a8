//! What publishing and receiving costs a program that uses the client as its documentation shows it: with documents and
//! messages, one at a time.
//!
//! The bus here is a thread that only copies bytes which were encoded before, so that what is counted is the client's.
//! `cargo bench -p libeevee --bench client -- [receive|receive-unique|publish|publish-new] [MESSAGES]` runs one of them,
//! else all. With `threads` it is in tokio's runtime of two threads, and the processor time is that of one of them. Under `perf stat -e instructions:u` the instructions of one, divided by its messages, do not depend on who else
//! uses the machine.
#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "this is a tool for developers")]

use std::io::{Read, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use bytes::{Buf, BytesMut};
use libeevee::wire::{Content, Deliver, Frame, Grant, Welcome, split_frame};
use libeevee::{Client, Connect, Document, Event};
use nix::sys::resource::{UsageWho, getrusage};
use tokio::runtime::Builder;

/// How much the bus writes at once, and how much credit it keeps a publisher in.
const CHUNK: usize = 64 << 10;
const CREDIT: u64 = 4096;
const FRAME_MAX: usize = 1 << 20;

const NAMES: [&str; 4] = ["receive", "receive-unique", "publish", "publish-new"];

fn document(number: usize) -> Document {
    let user = format!("user-{number:08}");
    let headers = [
        ("type", "chat.message"),
        ("platform", "irc"),
        ("network", "libera"),
        ("channel", "#general-discussion-of-things"),
        ("user", user.as_str()),
    ];
    Document::new(headers, vec![b'x'; 200]).unwrap()
}

/// The bus's end of a connection.
struct Peer {
    stream: UnixStream,
    buffer: BytesMut,
    chunk: Vec<u8>,
}

impl Peer {
    fn accept(path: &Path, ready: &std::sync::mpsc::Sender<()>) -> Self {
        let listener = UnixListener::bind(path).unwrap();
        ready.send(()).unwrap();
        let (stream, _) = listener.accept().unwrap();
        let mut peer = Self { stream, buffer: BytesMut::new(), chunk: vec![0; CHUNK] };
        peer.frame();
        peer.write(&Frame::new(
            0,
            Content::Welcome(Welcome {
                version: 1,
                identity: "bench".into(),
                session: 1,
                boot: 1,
                last_id: 0,
                frame_bytes_max: 1 << 20,
                credit_messages: CREDIT,
                credit_bytes: 8 << 20,
                halted: false,
                module: None,
                capabilities: Vec::new(),
            }),
        ));
        peer
    }

    fn write(&mut self, frame: &Frame) {
        self.stream.write_all(&frame.encode()).unwrap();
    }

    fn read(&mut self) -> bool {
        let count = self.stream.read(&mut self.chunk).unwrap_or(0);
        self.buffer.extend_from_slice(&self.chunk[..count]);
        count > 0
    }

    fn frame(&mut self) -> Frame {
        loop {
            if let Some(bytes) = split_frame(&mut self.buffer, FRAME_MAX).unwrap() {
                return Frame::decode(bytes).unwrap().unwrap();
            }
            assert!(self.read(), "the client went away");
        }
    }

    /// Delivers so many messages, as the window allows.
    fn deliver(mut self, messages: usize, unique: bool) {
        let (number, mut window) = loop {
            if let Frame { number, content: Content::Subscribe(subscribe), .. } = self.frame() {
                break (number, subscribe.window_messages);
            }
        };
        self.write(&Frame::new(number, Content::Ok));
        let mut chunks = Vec::new();
        let mut at = 0;
        while at < messages {
            let mut chunk = Vec::with_capacity(CHUNK);
            let mut count = 0;
            while chunk.len() < CHUNK - 400 && at < messages {
                at += 1;
                count += 1;
                deliver(number, at as u64, &document(if unique { at } else { 0 })).encode_into(&mut chunk);
            }
            chunks.push((count, chunk));
            if !unique || chunks.len() == 64 {
                break;
            }
        }
        let mut sent = 0;
        for (count, chunk) in chunks.iter().cycle() {
            let mut from = 0;
            while from < *count {
                while window == 0 {
                    if let Content::Grant(grant) = self.frame().content {
                        window += grant.messages;
                    }
                }
                let some = (window as usize).min(count - from).min(messages - sent);
                if some == 0 {
                    let _ = self.stream.read_to_end(&mut Vec::new());
                    return;
                }
                let frame = chunk.len() / count;
                self.stream.write_all(&chunk[from * frame..(from + some) * frame]).unwrap();
                from += some;
                sent += some;
                window -= some as u64;
            }
        }
    }

    /// Takes what is published and gives the credit back, until so many messages came.
    fn take(mut self, messages: usize) {
        let (mut taken, mut due) = (0, (0, 0));
        while taken < messages {
            assert!(self.read(), "the client went away");
            while let Some(prefix) = self.buffer.first_chunk::<4>() {
                let length = u32::from_le_bytes(*prefix) as usize;
                if self.buffer.len() < 4 + length {
                    break;
                }
                self.buffer.advance(4 + length);
                taken += 1;
                due = (due.0 + 1, due.1 + length as u64);
            }
            if due.0 >= CREDIT / 4 {
                let (messages, bytes) = std::mem::take(&mut due);
                self.write(&Frame::new(0, Content::Grant(Grant { messages, bytes })));
            }
        }
        let _ = self.stream.read_to_end(&mut Vec::new());
    }
}

fn deliver(number: u32, id: u64, document: &Document) -> Frame {
    Frame::new(
        number,
        Content::Deliver(Deliver {
            // All of one length, so that a chunk can be cut anywhere.
            id: (1 << 40) + id,
            source: "irc".into(),
            timestamp: 1_795_359_600_123_456_789,
            cause: None,
            hops: 0,
            reply_address: None,
            attempt: 1,
            waited_ms: 0,
            document: document.into(),
        }),
    )
}

fn processor_time() -> Duration {
    let usage = getrusage(UsageWho::RUSAGE_THREAD).unwrap();
    [usage.user_time(), usage.system_time()]
        .iter()
        .map(|time| Duration::from_micros(time.tv_sec() as u64 * 1_000_000 + time.tv_usec() as u64))
        .sum()
}

fn measure(name: &str, messages: usize, threads: bool) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("bus.sock");
    let (ready, is_ready) = std::sync::mpsc::channel();
    let (socket, what) = (path.clone(), name.to_owned());
    let bus = thread::Builder::new().name("bus".into()).spawn(move || {
        let peer = Peer::accept(&socket, &ready);
        match what.as_str() {
            "receive" => peer.deliver(messages, false),
            "receive-unique" => peer.deliver(messages, true),
            _ => peer.take(messages),
        }
    });
    let bus = bus.unwrap();
    is_ready.recv().unwrap();
    let mut runtime = if threads { Builder::new_multi_thread() } else { Builder::new_current_thread() };
    let runtime = runtime.worker_threads(2).enable_all().build().unwrap();
    let (began, used) = (Instant::now(), processor_time());
    runtime.block_on(async {
        let client = Client::connect(Connect::tool().socket(path)).await.unwrap();
        match name {
            "receive" | "receive-unique" => receive(&client, messages).await,
            "publish" => {
                let document = document(0);
                for _ in 0..messages {
                    client.publish(document.clone()).await.unwrap();
                }
            }
            _ => {
                for number in 0..messages {
                    client.publish(document(number)).await.unwrap();
                }
            }
        }
        client.close().await.unwrap();
    });
    let nanoseconds = |time: Duration| time.as_nanos() / messages as u128;
    println!(
        "{name:<16}{:>8} ns a message, {:>6} ns of processor time",
        nanoseconds(began.elapsed()),
        nanoseconds(processor_time() - used)
    );
    bus.join().unwrap();
}

async fn receive(client: &Client, messages: usize) {
    let mut subscription = client.subscribe("type=chat.message").await.unwrap();
    let (mut seen, mut bytes) = (0, 0);
    while seen < messages {
        match subscription.next().await {
            Some(Event::Message(message)) => {
                seen += 1;
                bytes += message.header("channel").map_or(0, str::len) + message.document.body_bytes().len();
            }
            other => panic!("not a message: {other:?}"),
        }
    }
    assert_eq!(bytes, messages * 229);
}

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).filter(|argument| argument != "--bench").collect();
    let messages = arguments.iter().find_map(|argument| argument.parse().ok()).unwrap_or(1_000_000);
    let asked = |name: &str| arguments.iter().any(|argument| argument == name);
    for name in NAMES {
        if !arguments.iter().any(|argument| NAMES.contains(&argument.as_str())) || asked(name) {
            measure(name, messages, asked("threads"));
        }
    }
}
