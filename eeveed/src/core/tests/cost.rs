//! What a message costs, in instructions: fixed inputs for `tests/cost/run`, which counts under callgrind what happens in
//! [`measured`] and compares it with the figures committed there. Without it, the tests only see that the inputs do what
//! they are meant for.

use libeevee::wire::{Checked, HEADER_BYTES, RawPublish};

use super::*;

const CHUNKS: usize = 20;
const MESSAGES: usize = 200;

/// The one function in which instructions are counted.
#[inline(never)]
fn measured<R>(work: impl FnOnce() -> R) -> R {
    std::hint::black_box(work())
}

/// Chunks of publishes as a socket gives them: five headers and 200 bytes. `channel` and `extra` are by number of message.
fn chunks(channel: impl Fn(usize) -> usize, extra: impl Fn(usize) -> Option<usize>) -> Vec<Vec<u8>> {
    let body = "x".repeat(200);
    let frame = |number: usize| {
        let (channel, extra) = (format!("#channel-{}", channel(number)), extra(number).map(|n| format!("user-{n}")));
        let user = extra.as_deref().unwrap_or("goos");
        let headers = [
            ("platform", "irc"),
            ("network", "libera"),
            ("channel", &channel),
            ("user", user),
            ("type", "chat.message"),
        ];
        let publish = Publish { cause: None, hops: 0, epoch: 0, sequence: 0, document: document(&headers, &body) };
        Frame::new(0, Content::Publish(publish)).encode()
    };
    (0..CHUNKS).map(|chunk| (0..MESSAGES).flat_map(|number| frame(chunk * MESSAGES + number)).collect()).collect()
}

struct Relay {
    bus: Bus,
    subscribers: u64,
    out: Chunk,
    /// How many bytes came out of memory that several sessions had.
    shared: usize,
}

impl Relay {
    /// A publisher, and subscribers with subscriptions: whose, with which number, and what for.
    fn new(subscribers: u64, subscriptions: impl Iterator<Item = (u64, u32, String)>) -> Self {
        let mut bus = Bus::new();
        bus.core.direct_bytes = 1 << 20;
        bus.core.limits.subscriptions_per_session = 1 << 20;
        bus.core.limits.filters_per_uid = 1 << 20;
        bus.core.limits.memory_bytes = 1 << 30;
        bus.core.limits.memory_per_uid = 1 << 30;
        bus.operator(1, "irc");
        for session in 2..2 + subscribers {
            bus.operator(session, &format!("op{session}"));
        }
        let mut core = bus.core;
        let mut actions = Vec::new();
        for (session, number, filter) in subscriptions {
            let frame =
                Frame::new(number, Content::Subscribe(Subscribe { window_messages: 1 << 40, ..subscribe(&filter) }));
            core.step(bus.now, Event::Frame { session: 2 + session, frame }, &mut actions);
        }
        bus.core = core;
        let mut relay = Self { bus, subscribers, out: Chunk::default(), shared: 0 };
        relay.written();
        relay
    }

    /// What sockets that block nobody take; how many bytes.
    fn written(&mut self) -> usize {
        let mut all = 0;
        for session in 1..2 + self.subscribers {
            loop {
                self.bus.core.recycle(std::mem::take(&mut self.out));
                self.bus.core.output(self.bus.now, session, PIECE_BYTES, &mut self.out);
                if self.out.is_empty() {
                    break;
                }
                all += self.out.len();
                if matches!(self.out, Chunk::Shared(_)) {
                    self.shared += self.out.len();
                }
            }
        }
        self.bus.actions.clear();
        all
    }

    /// As the shell does: what a turn delivered is written before the next one.
    fn pass(&mut self, mut chunk: &[u8]) -> usize {
        let mut all = 0;
        while !chunk.is_empty() {
            let taken = self.bus.core.take(self.bus.now, 1, chunk, 1 << 20, &mut self.bus.actions);
            assert!(taken.bytes > 0);
            chunk = &chunk[taken.bytes..];
            all += self.written();
        }
        all
    }

    /// How many messages were delivered for how many.
    fn run(self, chunks: &[Vec<u8>]) -> (u64, usize) {
        let (delivered, published, shared) = self.run_shared(chunks);
        assert_eq!(shared, 0);
        (delivered, published)
    }

    /// The same, and how many bytes several had.
    fn run_shared(mut self, chunks: &[Vec<u8>]) -> (u64, usize, usize) {
        // Once for the memo and for buffers.
        self.pass(&chunks[0]);
        let before = self.bus.core.delivered;
        self.shared = 0;
        measured(|| {
            for chunk in chunks {
                self.pass(chunk);
            }
        });
        (self.bus.core.delivered - before, chunks.len() * MESSAGES, self.shared)
    }
}

fn by_channel(subscriptions: usize) -> Relay {
    let filter = |n| format!("type=chat.message,channel=#channel-{n}");
    Relay::new(10, (0..subscriptions).map(|n| ((n % 10) as u64, n as u32 + 1, filter(n))))
}

fn one_each(case: &str) -> (u64, usize) {
    let everything = |subscribers, number: fn(u64) -> u64| {
        Relay::new(subscribers, (0..subscribers).map(|n| (n, number(n) as u32, "type=chat.message".into())))
    };
    match case {
        "decode" => {
            let chunks = chunks(|_| 0, Some);
            let decoded = measured(|| {
                let (mut decoded, mut last) = (0, Checked::default());
                for chunk in &chunks {
                    let mut rest = &chunk[..];
                    while let Ok(Some(length)) = libeevee::wire::frame_length(rest, 1 << 20) {
                        let publish = RawPublish::read(&rest[HEADER_BYTES..length]).unwrap();
                        decoded += u64::from(publish.document().check_like(&mut last, |_, _| ()).is_some());
                        rest = &rest[length..];
                    }
                }
                decoded
            });
            (decoded, CHUNKS * MESSAGES)
        }
        "memo-hit" => everything(1, |_| 1).run(&chunks(|n| n % 10, |_| None)),
        // What each gets has its own number in it.
        "fan-out-10" => everything(10, |n| n + 1).run(&chunks(|n| n % 10, |_| None)),
        // All get the same bytes.
        "fan-out-same" => {
            let (delivered, published, shared) = everything(10, |_| 1).run_shared(&chunks(|n| n % 10, |_| None));
            assert!(shared > delivered as usize * 200, "what all get is not shared");
            (delivered, published)
        }
        // Every message has headers of its own, so that the index is asked for each.
        "index-1k" => by_channel(1_000).run(&chunks(|n| n * 7 % 1_000, Some)),
        "index-100k" => by_channel(100_000).run(&chunks(|n| n * 769 % 100_000, Some)),
        other => panic!("no case {other:?}"),
    }
}

#[test]
fn every_input_is_delivered() {
    let only = std::env::var("EEVEE_COST").ok();
    let all =
        [("decode", 1), ("memo-hit", 1), ("fan-out-10", 10), ("fan-out-same", 10), ("index-1k", 1), ("index-100k", 1)];
    for (case, each) in all.into_iter().filter(|(case, _)| only.as_deref().is_none_or(|only| only == *case)) {
        let (delivered, published) = one_each(case);
        assert_eq!(delivered, each * published as u64, "{case}");
        eprintln!("\ncost {case} {published}");
    }
}
