//! Publishing and receiving allocate nothing for a message: what is allocated is for a piece of the stream.
#![allow(unsafe_code)] // A global allocator cannot be had without; it only counts.
#![allow(clippy::unwrap_used)]

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::io::{Read, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::thread::{self, JoinHandle};

use bytes::BytesMut;
use libeevee::wire::{Content, Deliver, Frame, Welcome, split_frame};
use libeevee::{Client, Connect, Document, Event};

struct Counting;

thread_local! {
    /// How often this thread has allocated.
    static ALLOCATIONS: Cell<usize> = const { Cell::new(0) };
}

// SAFETY: everything is handed on to the system's allocator as it came.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        ALLOCATIONS.set(ALLOCATIONS.get() + 1);
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        unsafe { System.dealloc(pointer, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

const MESSAGES: usize = 10_000;

/// A few for each 64 KiB that were read or written; there are about fifty such pieces.
const ALLOCATIONS_MAX: usize = MESSAGES / 10;

fn document() -> Document {
    let headers = [("type", "chat.message"), ("platform", "irc"), ("network", "libera"), ("channel", "#rust")];
    Document::new(headers, vec![b'x'; 200]).unwrap()
}

/// The bus, in a thread of its own, whose allocations are not counted.
struct Bus {
    stream: UnixStream,
    buffer: BytesMut,
}

impl Bus {
    fn start(path: &Path, script: impl FnOnce(Self) + Send + 'static) -> JoinHandle<()> {
        let listener = UnixListener::bind(path).unwrap();
        thread::spawn(move || {
            let mut bus = Self { stream: listener.accept().unwrap().0, buffer: BytesMut::new() };
            bus.frame().unwrap();
            bus.write(&[Frame::new(
                0,
                Content::Welcome(Welcome {
                    version: 1,
                    identity: "test".into(),
                    session: 1,
                    boot: 1,
                    last_id: 0,
                    frame_bytes_max: 1 << 20,
                    credit_messages: 2 * MESSAGES as u64,
                    credit_bytes: 1 << 30,
                    halted: false,
                    module: None,
                    capabilities: Vec::new(),
                }),
            )]);
            script(bus);
        })
    }

    fn frame(&mut self) -> Option<Frame> {
        let mut chunk = [0; 4096];
        loop {
            if let Some(bytes) = split_frame(&mut self.buffer, 1 << 20).unwrap() {
                return Frame::decode(bytes).unwrap();
            }
            match self.stream.read(&mut chunk).unwrap() {
                0 => return None,
                count => self.buffer.extend_from_slice(&chunk[..count]),
            }
        }
    }

    fn write(&mut self, frames: &[Frame]) {
        let bytes: Vec<u8> = frames.iter().flat_map(Frame::encode).collect();
        self.stream.write_all(&bytes).unwrap();
    }
}

#[tokio::test]
async fn receiving() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("bus.sock");
    let bus = Bus::start(&path, |mut bus| {
        let number = loop {
            if let Frame { number, content: Content::Subscribe(_), .. } = bus.frame().unwrap() {
                break number;
            }
        };
        let deliver = |id| {
            let deliver = Deliver {
                id,
                source: "irc".into(),
                timestamp: 1_795_359_600_123_456_789,
                cause: None,
                hops: 0,
                reply_address: None,
                attempt: 1,
                waited_ms: 0,
                document: (&document()).into(),
            };
            Frame::new(number, Content::Deliver(deliver))
        };
        let mut frames = vec![Frame::new(number, Content::Ok)];
        frames.extend((1..=MESSAGES as u64).map(deliver));
        bus.write(&frames);
        while bus.frame().is_some() {}
    });
    let client = Client::connect(Connect::tool().socket(&path)).await.unwrap();
    let mut subscription = client.subscribe("*").window(MESSAGES as u64, 1 << 30).await.unwrap();
    let before = ALLOCATIONS.get();
    for id in 1..=MESSAGES as u64 {
        let Some(Event::Message(message)) = subscription.next().await else { panic!("no message {id}") };
        assert_eq!(
            (message.id, message.header("channel"), message.document.body_bytes().len()),
            (id, Some("#rust"), 200)
        );
    }
    let allocations = ALLOCATIONS.get() - before;
    assert!(allocations <= ALLOCATIONS_MAX, "{MESSAGES} messages took {allocations} allocations");
    client.close().await.unwrap();
    bus.join().unwrap();
}

#[tokio::test]
async fn publishing() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("bus.sock");
    let bus = Bus::start(&path, |mut bus| {
        let expected = document();
        let mut published = 0;
        while let Some(frame) = bus.frame() {
            if let Content::Publish(publish) = frame.content {
                assert_eq!(publish.document.decode(), expected);
                published += 1;
            }
        }
        assert_eq!(published, MESSAGES);
    });
    let client = Client::connect(Connect::tool().socket(&path)).await.unwrap();
    let document = document();
    let before = ALLOCATIONS.get();
    for _ in 0..MESSAGES {
        client.publish(document.clone()).await.unwrap();
    }
    let allocations = ALLOCATIONS.get() - before;
    assert!(allocations <= ALLOCATIONS_MAX, "{MESSAGES} publishes took {allocations} allocations");
    client.close().await.unwrap();
    bus.join().unwrap();
}
