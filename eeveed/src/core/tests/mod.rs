//! The core without a socket: what goes in, and what comes out to whom.

mod cost;
mod delivery;
mod durable;
mod hostile;
mod life;
mod limits;
mod plain;
mod record;
mod rights;
mod share;

use bytes::BytesMut;
use libeevee::filter::{Clause, Filter};
use libeevee::module::Module;
use libeevee::wire::{
    CONFIRM, Deliver, EncodedDocument, Grant, Publish, Published, Reply, Request, State, Subscribe, Verdict,
    split_frame,
};
use libeevee::{Document, Headers};

use super::index::{Slot, View};
use super::*;

/// A core with a clock that a test moves.
struct Bus {
    core: Core,
    now: Now,
    actions: Vec<Action>,
    numbers: u32,
}

fn document(headers: &[(&str, &str)], body: &str) -> EncodedDocument {
    let pairs: Vec<(String, String)> = headers.iter().map(|(k, v)| ((*k).into(), (*v).into())).collect();
    EncodedDocument::from(&Document { headers: Headers::try_from(pairs).unwrap(), body: body.to_owned().into() })
}

fn module(id: &str, text: &str) -> LoadedModule {
    let path = format!("/etc/eevee/modules.d/{id}.toml");
    let file = Module::parse(&id.parse().unwrap(), &path, text).unwrap();
    LoadedModule { file, path, text: text.into() }
}

fn subscribe(filter: &str) -> Subscribe {
    Subscribe {
        filters: vec![filter.into()],
        overflow: 0,
        queue_messages: 0,
        queue_bytes: 0,
        max_age_ms: 0,
        window_messages: 1_000_000,
        window_bytes: 1 << 40,
        durable: None,
    }
}

impl Bus {
    fn new() -> Self {
        let now = Now { mono: Duration::ZERO, wall: 1_000 };
        let mut core = Core::new(now, 7, Limits::default(), Vec::new(), 1..1 << 40);
        // Here a queue is looked at before it is emptied.
        core.direct_bytes = 0;
        Self { core, now, actions: Vec::new(), numbers: 100 }
    }

    fn step(&mut self, event: Event) {
        self.core.step(self.now, event, &mut self.actions);
        self.core.check_accounts();
    }

    fn pass(&mut self, time: Duration) {
        self.now.mono += time;
        self.step(Event::Tick);
    }

    fn join(&mut self, session: SessionKey, identity: Identity, module: Option<LoadedModule>) -> Vec<Content> {
        let peer = Peer { uid: 1000, pid: Some(42), program: "test 1".into(), instance: session };
        self.step(Event::Join { session, identity, peer, module });
        self.read(session)
    }

    fn operator(&mut self, session: SessionKey, id: &str) {
        let first = self.join(session, Identity::Operator(id.parse().unwrap()), None);
        assert!(matches!(first[..], [Content::Welcome(_)]), "{first:?}");
    }

    fn send(&mut self, session: SessionKey, number: u32, content: Content) {
        self.step(Event::Frame { session, frame: Frame::new(number, content) });
    }

    fn subscribe(&mut self, session: SessionKey, number: u32, asked: Subscribe) {
        self.send(session, number, Content::Subscribe(asked));
        assert_eq!(self.read(session), [Content::Ok]);
    }

    fn publish(&mut self, session: SessionKey, headers: &[(&str, &str)]) -> Content {
        self.publish_as(session, None, 0, headers)
    }

    fn publish_as(&mut self, session: SessionKey, cause: Option<u64>, hops: u8, headers: &[(&str, &str)]) -> Content {
        self.numbers += 1;
        let document = document(headers, "body");
        let publish = Publish { cause, hops, epoch: 0, sequence: 0, document };
        let frame = Frame { flags: CONFIRM, number: self.numbers, content: Content::Publish(publish) };
        self.step(Event::Frame { session, frame });
        self.read(session)
            .into_iter()
            .find(|content| matches!(content, Content::Published(_) | Content::Error(_)))
            .unwrap()
    }

    fn output(&mut self, session: SessionKey) -> Vec<Frame> {
        let mut bytes = BytesMut::new();
        loop {
            let mut out = Chunk::default();
            let more = self.core.output(self.now, session, 1 << 20, &mut out);
            bytes.extend_from_slice(&out);
            if !more {
                break;
            }
        }
        // All is written.
        self.core.output(self.now, session, 0, &mut Chunk::default());
        std::iter::from_fn(|| split_frame(&mut bytes, 1 << 20).unwrap())
            .map(|bytes| Frame::decode(bytes).unwrap().unwrap())
            .collect()
    }

    fn read(&mut self, session: SessionKey) -> Vec<Content> {
        self.output(session).into_iter().map(|frame| frame.content).collect()
    }

    /// Deliveries and gaps, in short.
    fn seen(&mut self, session: SessionKey) -> Vec<String> {
        self.output(session)
            .into_iter()
            .filter_map(|frame| match frame.content {
                Content::Deliver(d) => Some(format!("{}:{} from {}", frame.number, d.id, d.source)),
                Content::Gap(g) => Some(format!("{}:gap {}-{} {:?}", frame.number, g.first, g.last, g.count)),
                _ => None,
            })
            .collect()
    }

    fn status(&self, id: &OperatorId) -> serde_json::Value {
        serde_json::from_str::<serde_json::Value>(&self.core.status(Some(id)).unwrap()).unwrap()[0].clone()
    }

    fn delivered(&mut self, session: SessionKey) -> Vec<Deliver> {
        self.read(session)
            .into_iter()
            .filter_map(|content| if let Content::Deliver(deliver) = content { Some(deliver) } else { None })
            .collect()
    }
}

fn code(content: &Content) -> Code {
    match content {
        Content::Error(refusal) => Code::from_number(refusal.code),
        other => panic!("no error: {other:?}"),
    }
}

fn control(verb: &str, id: &str) -> Content {
    Content::Control(Control { verb: verb.into(), id: id.into(), argument: String::new() })
}

/// No socket, clock, thread, file or runtime: then a run is its events, and a seed repeats it.
#[test]
fn the_core_is_pure() {
    let mut folders = vec![std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("src/core")];
    let mut files = 0;
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            let name = path.file_stem().unwrap().to_str().unwrap();
            if name == "tests" || name == "simulation" {
                continue;
            }
            if path.is_dir() {
                folders.push(path);
                continue;
            }
            files += 1;
            let text = std::fs::read_to_string(&path).unwrap();
            for forbidden in [
                "tokio",
                "std::net",
                "std::os",
                "std::fs",
                "std::io",
                "std::thread",
                "std::env",
                "Instant",
                "SystemTime",
                "nix::",
                "rusqlite",
                "crate::store",
                "Timestamp::now",
            ] {
                let code = text.lines().filter(|line| !line.trim_start().starts_with("//"));
                let found = code.filter(|line| line.contains(forbidden)).collect::<Vec<_>>();
                assert!(found.is_empty(), "{}: {forbidden} in {found:?}", path.display());
            }
        }
    }
    assert!(files > 20, "{files} files");
}
