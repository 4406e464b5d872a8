//! A restart changes nothing that a session could see; and whatever the saved state says, it is a clean core or an error.

use libeevee::wire::{Content, EncodedDocument, Frame, Grant, Publish, Subscribe, split_frame};
use libeevee::{Document, OperatorId};

use super::super::*;
use super::*;
use crate::handover::{decode, encode};

/// What a clean restart of the daemon makes of a core: it is saved, written, read and restored. Nothing may be different.
pub(crate) fn restart(mut core: Core, now: Now) -> Core {
    // The shell has its own account of what it has read and not handled, and of what it has not written.
    for key in core.session_keys() {
        if core.is_lasting(key) {
            core.count_unwritten(key, 0);
            core.count_input(key, 0);
        } else {
            core.step(now, Event::Leave { session: key }, &mut Vec::new());
        }
    }
    let saved = core.save(now);
    let (saved, _) = decode(encode(&saved, &[]).unwrap()).unwrap();
    let ids = core.ids.clone();
    let (mut restored, _) = Core::restore(now, core.limits.clone(), Vec::new(), ids, saved).unwrap();
    restored.direct_bytes = core.direct_bytes;
    compare(&core, &restored);
    restored
}

/// All accounts and all that is shown to people.
fn compare(core: &Core, restored: &Core) {
    assert_eq!((restored.memory, restored.owed), (core.memory, core.owed), "accounts");
    assert_eq!(restored.status(None).unwrap(), core.status(None).unwrap());
    let now = Now { mono: core.started.mono, wall: 0 };
    assert_eq!(restored.bus_status(now), core.bus_status(now));
    assert_eq!(restored.deadline(), core.deadline());
    assert_eq!(restored.claims, core.claims);
}

fn at(seconds: u64) -> Now {
    Now { mono: Duration::from_secs(seconds), wall: 1_700_000_000_000_000_000 + seconds }
}

fn id(text: &str) -> OperatorId {
    text.parse().unwrap()
}

/// The pieces as another run finds them.
fn read_back(saved: &Saved) -> Blobs {
    Blobs::from_bytes(saved.blobs.iter().map(Into::into).collect())
}

struct Bench {
    core: Core,
    now: Now,
    actions: Vec<Action>,
}

impl Bench {
    fn new() -> Self {
        let mut core = Core::new(at(10), 4711, Limits::default(), vec![id("asleep")], 1_000..1 << 40);
        // What waits in queues is to be seen.
        core.direct_bytes = 0;
        Self { core, now: at(20), actions: Vec::new() }
    }

    fn step(&mut self, event: Event) {
        self.core.step(self.now, event, &mut self.actions);
    }

    fn join(&mut self, session: SessionKey, name: &str, module: &str) {
        let id = id(name);
        let path = format!("{name}.toml");
        let module =
            LoadedModule { file: ModuleFile::parse(&id, &path, module).unwrap(), path, text: module.to_owned() };
        let peer = Peer { uid: 7, pid: Some(8), program: "test".into(), instance: session };
        self.step(Event::Join { session, identity: Identity::Operator(id), peer, module: Some(module) });
    }

    fn frame(&mut self, session: SessionKey, number: u32, content: Content) {
        self.step(Event::Frame { session, frame: Frame::new(number, content) });
    }

    fn publish(&mut self, session: SessionKey, number: u32, text: &str) {
        let document = Document::new([("type", "chat.message"), ("channel", "#a")], text.to_owned()).unwrap();
        let document = EncodedDocument::from(&document);
        self.frame(
            session,
            number,
            Content::Publish(Publish { cause: None, hops: 0, epoch: 0, sequence: 0, document }),
        );
    }

    fn subscribe(&mut self, session: SessionKey, number: u32, filter: &str, window: u64) {
        let asked = Subscribe {
            filters: vec![filter.into()],
            overflow: 0,
            queue_messages: 5,
            queue_bytes: 0,
            max_age_ms: 0,
            window_messages: window,
            window_bytes: 1 << 20,
            durable: None,
        };
        self.frame(session, number, Content::Subscribe(asked));
    }

    fn output(&mut self, session: SessionKey) -> Vec<Frame> {
        let mut out = Chunk::default();
        self.core.output(self.now, session, 1 << 20, &mut out);
        let mut bytes = bytes::BytesMut::from(&out[..]);
        std::iter::from_fn(|| split_frame(&mut bytes, 1 << 20).unwrap())
            .map(|bytes| Frame::decode(bytes).unwrap().unwrap())
            .collect()
    }

    fn request(&mut self, session: SessionKey, number: u32, deadline_ms: u64) {
        let document = Document::new([("type", "chat.message")], "?").unwrap();
        let document = EncodedDocument::from(&document);
        let request = libeevee::wire::Request { deadline_ms, cause: None, hops: 0, document };
        self.frame(session, number, Content::Request(request));
    }

    /// Two operators, messages in two queues, a gap, a claim, a request, a reload, a verb, an unread answer.
    fn busy() -> Self {
        let mut bench = Self::new();
        bench.join(1, "irc", "[bus]\nrate = { per-second = 5, burst = 10 }\n");
        bench.join(2, "dice", "[bus]\nmay-receive = [\"type=chat.message\"]\n");
        bench.subscribe(2, 1, "type=chat.message", 0);
        bench.subscribe(2, 3, "channel=#a", 1);
        bench.subscribe(1, 1, "source=dice", 100);
        bench.output(1);
        bench.output(2);
        for number in 0..8 {
            bench.publish(1, 0, &format!("text {number}"));
        }
        bench.frame(1, 5, Content::Claim(Text { text: "irc/libera".into() }));
        bench.request(1, 6, 30_000);
        let module = LoadedModule {
            file: ModuleFile::parse(&id("dice"), "dice.toml", "[bus]\nmay-publish = []\n").unwrap(),
            path: "dice.toml".into(),
            text: "[bus]\nmay-publish = []\n".into(),
        };
        bench.step(Event::ModuleRead { id: id("dice"), asker: (1, 9), outcome: Ok(module) });
        let status = Control { verb: "status".into(), id: String::new(), argument: String::new() };
        bench.frame(1, 10, Content::Control(status));
        bench.step(Event::Failure { id: id("asleep"), failure: Some(serde_json::json!({"result": "signal"})) });
        bench
    }

    fn restart(mut self) -> Self {
        self.actions.clear();
        Self { core: restart(self.core, self.now), ..self }
    }
}

#[test]
fn everything_goes_on_where_it_was() {
    let mut plain = Bench::busy();
    let mut restarted = Bench::busy().restart();
    restarted.step(Event::Tick);
    let again = restarted.actions.iter().any(
        |action| matches!(action, Action::Control { session: 1, number: 10, control } if control.verb == "status"),
    );
    assert!(again, "a verb that was being carried out is not begun again: {:?}", restarted.actions);
    for bench in [&mut plain, &mut restarted] {
        bench.frame(2, 1, Content::Grant(Grant { messages: 100, bytes: 0 }));
        bench.publish(2, 7, "from dice");
        bench.now = at(21);
        bench.step(Event::Tick);
    }
    for session in [1, 2] {
        let (expected, seen) = (plain.output(session), restarted.output(session));
        assert!(expected.len() > 2, "{expected:?}");
        assert_eq!(seen, expected, "session {session}");
    }
    let verdict = libeevee::wire::Verdict { accepted: true, text: String::new() };
    for bench in [&mut plain, &mut restarted] {
        bench.frame(2, 1, Content::Verdict(verdict.clone()));
        bench.publish(2, 8, "no more");
        bench.now = at(90);
        bench.step(Event::Tick);
    }
    for session in [1, 2] {
        assert_eq!(restarted.output(session), plain.output(session), "session {session}");
    }
    for session in [1, 2] {
        restarted.step(Event::Answered { session, number: 10, outcome: Ok(None) });
        restarted.step(Event::Leave { session });
    }
    assert_eq!((restarted.core.memory, restarted.core.owed), (0, 0));
    assert!(restarted.core.requests.is_empty() && restarted.core.claims.is_empty());
    assert!(restarted.core.operators[&id("asleep")].halted);
}

#[test]
fn a_message_in_many_queues_is_saved_once() {
    let bench = Bench::busy();
    let saved = bench.core.save(bench.now);
    let messages = saved.blobs.iter().filter(|blob| blob.windows(5).any(|part| part == b"text ")).count();
    assert_eq!(messages, 5, "5 of 8 wait, in two queues each");
}

#[test]
fn a_session_that_ends_is_not_saved() {
    let mut bench = Bench::busy();
    bench.frame(2, 0, Content::Ok); // No client may say that.
    assert!(bench.core.is_lasting(2));
    bench.step(Event::BadFrame {
        session: 2,
        error: WireError { code: Code::Malformed, text: "x".into(), limit: None, value: None, number: 0 },
    });
    assert!(!bench.core.is_lasting(2));
    bench.step(Event::Leave { session: 2 });
    let bench = bench.restart();
    assert_eq!(bench.core.session_keys(), [1]);
}

/// A change that the next version could not read has to be noticed here.
#[test]
fn fields_may_be_missing_or_unknown_where_that_is_promised() {
    let bench = Bench::busy();
    let saved = bench.core.save(bench.now);
    let mut structure = serde_json::to_value(&saved.structure).unwrap();
    structure["of-a-later-version"] = serde_json::json!({"a": [1]});
    structure["sessions"][0]["new"] = true.into();
    structure["requests"][0].as_object_mut().unwrap().remove("owners").unwrap();
    let structure: Structure = serde_json::from_value(structure).unwrap();
    let ids = bench.core.ids.clone();
    let (now, limits) = (bench.now, Limits::default());
    assert!(Core::restore(now, limits, Vec::new(), ids, Saved { structure, blobs: read_back(&saved) }).is_ok());
}

/// Every number of the structure replaced by the worst there are, and every text by another.
#[test]
fn absurd_values_are_refused_or_harmless() {
    let worst = [0_u64, 1, 255, 1 << 31, u64::from(u32::MAX), (1 << 53) + 1, i64::MAX as u64, u64::MAX];
    let bench = Bench::busy();
    let (structure, blobs): (_, Vec<Box<[u8]>>) = {
        let saved = bench.core.save(bench.now);
        (serde_json::to_value(&saved.structure).unwrap(), saved.blobs.iter().map(Into::into).collect())
    };
    let mut paths = Vec::new();
    collect(&structure, &mut String::new(), &mut paths);
    assert!(paths.len() > 150, "{}", paths.len());
    let mut refused = 0;
    for path in &paths {
        let good = structure.pointer(path).unwrap();
        let mut bad: Vec<serde_json::Value> = worst.iter().map(|number| (*number).into()).collect();
        bad.extend([(-1_i64).into(), i64::MIN.into(), f64::MAX.into(), "".into(), "*".into(), serde_json::Value::Null]);
        for bad in bad {
            let mut changed = structure.clone();
            *changed.pointer_mut(path).unwrap() = bad.clone();
            let Ok(changed) = serde_json::from_value::<Structure>(changed) else { continue };
            let saved = Saved { structure: changed, blobs: Blobs::from_bytes(blobs.clone()) };
            let ids = bench.core.ids.clone();
            let Ok((mut core, _)) = Core::restore(bench.now, Limits::default(), Vec::new(), ids, saved) else {
                refused += 1;
                continue;
            };
            exercise(&mut core, bench.now, &format!("{path}: {good} -> {bad}"));
        }
    }
    assert!(refused > 200, "{refused}");
}

fn collect(value: &serde_json::Value, path: &mut String, paths: &mut Vec<String>) {
    let length = path.len();
    let mut descend = |key: &str, value: &serde_json::Value, path: &mut String| {
        path.push('/');
        path.push_str(key);
        collect(value, path, paths);
        path.truncate(length);
    };
    match value {
        serde_json::Value::Object(fields) => fields.iter().for_each(|(key, value)| descend(key, value, path)),
        serde_json::Value::Array(list) => {
            list.iter().enumerate().for_each(|(at, value)| descend(&at.to_string(), value, path));
        }
        _ => paths.push(path.clone()),
    }
}

/// Uses everything that was restored; a panic names what was changed.
fn exercise(core: &mut Core, now: Now, what: &str) {
    let run = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
        let mut actions = Vec::new();
        for key in core.session_keys() {
            let document =
                EncodedDocument::from(&Document::new([("type", "chat.message"), ("channel", "#a")], "x").unwrap());
            let publish = Publish { cause: Some(1_001), hops: 0, epoch: 0, sequence: 0, document };
            for number in [1, 3] {
                let grant = Content::Grant(Grant { messages: 3, bytes: 3 });
                core.step(now, Event::Frame { session: key, frame: Frame::new(number, grant) }, &mut actions);
            }
            let frame = Frame::new(7, Content::Publish(publish));
            core.step(now, Event::Frame { session: key, frame }, &mut actions);
            core.output(now, key, 1 << 20, &mut Chunk::default());
        }
        let _ = core.status(None).unwrap();
        let later = Now { mono: now.mono + Duration::from_secs(3600), ..now };
        core.step(later, Event::Tick, &mut actions);
        let _ = core.deadline();
        let again = core.save(later);
        let next = core.next_unused_id();
        let blobs = read_back(&again);
        drop(again.blobs); // It holds messages.
        let again = Saved { blobs, structure: again.structure };
        Core::restore(later, core.limits.clone(), Vec::new(), next..1 << 53, again).unwrap();
        for session in core.session_keys() {
            core.step(later, Event::Leave { session }, &mut actions);
        }
        assert_eq!((core.memory, core.owed), (0, 0));
    }));
    assert!(run.is_ok(), "after {what}");
}
