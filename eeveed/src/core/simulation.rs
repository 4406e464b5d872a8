//! The core against a naive model, driven by a seed: operators come and go, publish, read slowly, halt, change their
//! permissions; the clock moves. One line reproduces a failure.
//!
//! What has to be true, always: a message is delivered to those whose filter and permission match, in order, or counted in a
//! gap at its very place; nothing to anyone else; nothing while halted; what a confirmation counts is what the model counts;
//! and when all are gone, all accounts are at zero.

use std::collections::{BTreeMap, VecDeque};

use bytes::BytesMut;
use libeevee::filter::{Fields, Filter};
use libeevee::module::Module;
use libeevee::wire::{
    CONFIRM, EncodedDocument, Grant, Overflow, Publish, Published, State, Subscribe, Verdict, split_frame,
};
use libeevee::{Document, Headers};

use super::index::View;
use super::message::Routed;
use super::queue::PLACE_BYTES;
use super::*;

/// How many seeds `cargo test` runs; `EEVEE_SEEDS` says another number, `EEVEE_SEED` one seed alone.
const SEEDS: u64 = 500;

const EVENTS: usize = 1000;

const IDS: [&str; 5] = ["irc", "dice", "log", "watch", "xmpp"];

const FILTERS: [&str; 12] = [
    "*",
    "type=chat.message",
    "type=chat.message,channel=#a",
    "type=chat.message,channel in (#a,#b)",
    "channel=#b,!bot",
    "type~chat.*,channel!=#c",
    "source=irc",
    "source in (irc,dice),type=log.record",
    "level<4",
    "bot",
    "hops>0",
    "type=log.record,level>=3,source!=log",
];

const PERMITS: [Option<&[&str]>; 5] =
    [None, Some(&[]), Some(&["type=chat.message"]), Some(&["channel=#a", "type=log.record"]), Some(&["*"])];

/// A subscription as the model sees it: what it should get, and what it got.
struct Model {
    filters: Vec<Filter>,
    /// Matched and permitted, not seen yet.
    expected: VecDeque<u64>,
    last_seen: u64,
    /// Told in gaps since the last delivery.
    lost: u64,
    window: u64,
}

struct Holder {
    session: SessionKey,
    next_number: u32,
    subscriptions: BTreeMap<u32, Model>,
}

struct Simulation {
    random: fastrand::Rng,
    core: Core,
    now: Now,
    actions: Vec<Action>,
    sessions: SessionKey,
    holders: BTreeMap<&'static str, Holder>,
    permits: BTreeMap<&'static str, (usize, usize)>,
    halted: BTreeMap<&'static str, bool>,
    /// Ids of messages that may be answered.
    answerable: Vec<u64>,
    hops: BTreeMap<u64, u8>,
    publishes: u32,
}

/// A message as filters see it, in the model's own words.
struct Seen<'a> {
    id: u64,
    source: &'a str,
    hops: u8,
    headers: &'a Headers,
}

impl Fields for Seen<'_> {
    fn field(&self, key: &str) -> Option<std::borrow::Cow<'_, str>> {
        match key {
            "id" => Some(self.id.to_string().into()),
            "source" => Some(self.source.into()),
            "hops" => Some(self.hops.to_string().into()),
            "timestamp" | "cause" => None,
            key => self.headers.get(key).map(Into::into),
        }
    }
}

fn module(id: &str, (publish, receive): (usize, usize)) -> LoadedModule {
    let list = |name: &str, permit: Option<&[&str]>| {
        permit.map(|filters| format!("{name} = {filters:?}\n")).unwrap_or_default()
    };
    let text = format!("[bus]\n{}{}", list("may-publish", PERMITS[publish]), list("may-receive", PERMITS[receive]));
    let path = format!("{id}.toml");
    let file = Module::parse(&id.parse().unwrap(), &path, &text).unwrap();
    LoadedModule { file, path, text }
}

/// The model's own reading of a permission; no message here has a type below `control`.
fn permitted(permit: usize, seen: &Seen<'_>) -> bool {
    PERMITS[permit].is_none_or(|filters| filters.iter().any(|text| text.parse::<Filter>().unwrap().matches(seen)))
}

impl Simulation {
    fn new(seed: u64) -> Self {
        let mut random = fastrand::Rng::with_seed(seed);
        let now = Now { mono: Duration::from_secs(random.u64(0..1000)), wall: random.u64(..) };
        let limits =
            Limits { memory_bytes: [random.usize(4_000..40_000), 4 << 20][random.usize(0..2)], ..Limits::default() };
        let first = [1, (1 << 53) - 100_000, random.u64(1..1 << 50)][random.usize(0..3)];
        let core = Core::new(now, random.u64(..), limits, Vec::new(), first..1 << 53);
        Self {
            random,
            core,
            now,
            actions: Vec::new(),
            sessions: 0,
            holders: BTreeMap::new(),
            permits: IDS.iter().map(|id| (*id, (0, 0))).collect(),
            halted: BTreeMap::new(),
            answerable: Vec::new(),
            hops: BTreeMap::new(),
            publishes: 0,
        }
    }

    fn run(&mut self) {
        for _ in 0..EVENTS {
            match self.random.u8(0..100) {
                0..3 => self.come(),
                3..5 => self.go(),
                5..12 => self.subscribe(),
                12..14 => self.unsubscribe(),
                14..60 => self.publish(),
                60..85 => self.read_some(),
                85..90 => self.grant(),
                90..93 => self.halt(),
                93..95 => self.reload(),
                95..97 => self.say_state(),
                97 => self.restart(),
                _ => self.pass_time(),
            }
            assert!(self.core.memory <= self.core.limits.memory_bytes, "more memory than the limit");
        }
        self.end();
    }

    fn step(&mut self, event: Event) {
        // Clocks of people jump; nothing may depend on it.
        if self.random.u8(..) == 0 {
            self.now.wall = self.random.u64(..);
        }
        self.core.step(self.now, event, &mut self.actions);
        for action in self.actions.drain(..) {
            assert!(!matches!(action, Action::Close(_)), "nobody misbehaved, and yet a session is closed");
        }
    }

    fn id(&mut self) -> &'static str {
        IDS[self.random.usize(0..IDS.len())]
    }

    fn holder(&mut self) -> Option<&'static str> {
        let id = self.id();
        self.holders.contains_key(id).then_some(id)
    }

    fn frame(&mut self, id: &str, number: u32, content: Content) {
        let session = self.holders[id].session;
        self.step(Event::Frame { session, frame: Frame::new(number, content) });
    }

    fn come(&mut self) {
        let id = self.id();
        if self.holders.contains_key(id) {
            return;
        }
        self.sessions += 1;
        let session = self.sessions;
        let peer = Peer { uid: 1, pid: None, program: "simulated".into(), instance: session };
        let identity = Identity::Operator(id.parse().unwrap());
        let module = Some(module(id, self.permits[id]));
        self.step(Event::Join { session, identity, peer, module });
        self.holders.insert(id, Holder { session, next_number: 1, subscriptions: BTreeMap::new() });
        let frames = self.output(id, 1 << 20);
        let Some(Frame { content: Content::Welcome(welcome), .. }) = frames.first() else { panic!("{frames:?}") };
        assert_eq!(welcome.halted, self.halted.get(id).copied().unwrap_or_default());
        self.announced(id, "starting");
    }

    fn go(&mut self) {
        let Some(id) = self.holder() else { return };
        let Some(holder) = self.holders.remove(id) else { return };
        self.step(Event::Leave { session: holder.session });
        self.announced(id, "away");
    }

    fn subscribe(&mut self) {
        let Some(id) = self.holder() else { return };
        let filters: Vec<String> =
            (0..self.random.usize(1..3)).map(|_| FILTERS[self.random.usize(0..FILTERS.len())].to_owned()).collect();
        let window = [1_000_000, self.random.u64(0..20)][self.random.usize(0..2)];
        let Some(holder) = self.holders.get_mut(id) else { return };
        let number = holder.next_number;
        holder.next_number += 1;
        let model = Model {
            filters: filters.iter().map(|text| text.parse().unwrap()).collect(),
            expected: VecDeque::new(),
            last_seen: 0,
            lost: 0,
            window,
        };
        let asked = Subscribe {
            filters,
            overflow: [0, Overflow::DropOldest as u8, Overflow::DropNewest as u8][self.random.usize(0..3)],
            queue_messages: self.random.u32(1..30),
            queue_bytes: if self.random.bool() { 0 } else { self.random.u64(200..5_000) },
            max_age_ms: if self.random.u8(0..4) == 0 { self.random.u64(1..20_000) } else { 0 },
            window_messages: window,
            window_bytes: 1 << 40,
            durable: None,
        };
        self.frame(id, number, Content::Subscribe(asked));
        match self.answer(id, number) {
            Content::Ok => {
                self.holders.get_mut(id).map(|holder| holder.subscriptions.insert(number, model));
            }
            Content::Error(refusal) => assert_eq!(Code::from_number(refusal.code), Code::Memory, "{refusal:?}"),
            other => panic!("{other:?}"),
        }
    }

    fn unsubscribe(&mut self) {
        let Some(id) = self.holder() else { return };
        let numbers: Vec<u32> = self.holders[id].subscriptions.keys().copied().collect();
        let Some(number) = numbers.get(self.random.usize(0..numbers.len().max(1))).copied() else { return };
        self.frame(id, number, Content::Unsubscribe);
        // From here on a delivery to it is a failure.
        self.holders.get_mut(id).map(|holder| holder.subscriptions.remove(&number));
        assert_eq!(self.answer(id, number), Content::Ok);
    }

    fn publish(&mut self) {
        let Some(id) = self.holder() else { return };
        let mut headers = Headers::new();
        headers.set("type", ["chat.message", "log.record", "other"][self.random.usize(0..3)]).unwrap();
        if self.random.bool() {
            headers.set("channel", ["#a", "#b", "#c"][self.random.usize(0..3)]).unwrap();
        }
        if self.random.u8(0..4) == 0 {
            headers.set("bot", "1").unwrap();
        }
        if self.random.bool() {
            headers.set("level", self.random.u8(0..8).to_string()).unwrap();
        }
        let cause = match self.answerable.len() {
            0 => None,
            count => (self.random.u8(0..3) == 0).then(|| self.answerable[self.random.usize(0..count)]),
        };
        let hops = cause.map_or(0, |cause| self.hops[&cause] + 1);
        let body = vec![b'x'; self.random.usize(0..500)];
        let document = EncodedDocument::from(&Document { headers: headers.clone(), body: body.into() });
        self.publishes += 1;
        let number = (1 << 30) + self.publishes;
        let size = Routed::size_of(&document);
        let publish = Publish { cause, hops: 0, epoch: 0, sequence: 0, document };
        let frame = Frame { flags: CONFIRM, number, content: Content::Publish(publish) };
        let session = self.holders[id].session;
        let upcoming = self.core.next_unused_id();
        // With a place in every queue there is.
        let would_be = self.core.memory + self.core.owed + size + self.core.subscriptions.len() * PLACE_BYTES;
        self.step(Event::Frame { session, frame });
        let frames = self.output(id, 1 << 20);
        let (answer, others) = take_answer(frames, number);
        match answer {
            Content::Published(Published { id: message, live, durable: 0 }) => {
                assert!(hops <= 16, "a loop went on");
                assert_eq!(message, upcoming);
                let seen = Seen { id: upcoming, source: id, hops, headers: &headers };
                assert!(permitted(self.permits[id].0, &seen), "{id} published what it may not");
                assert_eq!(self.expect(&seen), live, "a confirmation counted what the model did not");
                self.hops.insert(upcoming, hops);
                self.answerable.push(upcoming);
            }
            Content::Error(refusal) => {
                let seen = Seen { id: upcoming, source: id, hops, headers: &headers };
                match Code::from_number(refusal.code) {
                    Code::Denied => {
                        assert!(!permitted(self.permits[id].0, &seen), "denied without a rule: {refusal:?}")
                    }
                    Code::Loop => assert!(hops > 16, "no loop: {hops}"),
                    Code::Memory => assert!(would_be > self.core.limits.memory_bytes, "{refusal:?}"),
                    code => panic!("{code}: {}", refusal.text),
                }
            }
            other => panic!("{other:?}"),
        }
        self.observe(id, others);
    }

    /// The bus published `operator.state` by itself.
    fn announced(&mut self, id: &str, state: &str) {
        let headers = Headers::try_from([("type", "operator.state"), ("operator", id), ("state", state)]).unwrap();
        let message = self.core.next_unused_id() - 1;
        self.expect(&Seen { id: message, source: "eeveed", hops: 0, headers: &headers });
    }

    /// Adds a message to every subscription that should get it; how many.
    fn expect(&mut self, seen: &Seen<'_>) -> u32 {
        let mut count = 0;
        for (id, holder) in &mut self.holders {
            if !permitted(self.permits[id].1, seen) {
                continue;
            }
            for model in holder.subscriptions.values_mut() {
                if model.filters.iter().any(|filter| filter.matches(seen)) {
                    count += 1;
                    model.expected.push_back(seen.id);
                }
            }
        }
        count
    }

    /// What is written to a session's socket, as frames.
    fn output(&mut self, id: &str, budget: usize) -> Vec<Frame> {
        let mut out = Vec::new();
        self.core.output(self.now, self.holders[id].session, budget, &mut out);
        let mut bytes = BytesMut::from(&out[..]);
        std::iter::from_fn(|| split_frame(&mut bytes, 1 << 20).unwrap())
            .map(|bytes| Frame::decode(bytes).unwrap().unwrap())
            .collect()
    }

    /// The answer with this number; what came with it is observed.
    fn answer(&mut self, id: &str, number: u32) -> Content {
        let frames = self.output(id, 1 << 20);
        let (answer, others) = take_answer(frames, number);
        self.observe(id, others);
        answer
    }

    fn read_some(&mut self) {
        let Some(id) = self.holder() else { return };
        let budget = self.random.usize(1..4_000);
        let frames = self.output(id, budget);
        self.observe(id, frames);
    }

    /// Compares what a session was sent with what the model says that it should.
    fn observe(&mut self, id: &str, frames: Vec<Frame>) {
        let halted = self.halted.get(id).copied().unwrap_or_default();
        let Some(holder) = self.holders.get_mut(id) else { return };
        for Frame { number, content, .. } in frames {
            match content {
                Content::Deliver(deliver) => {
                    let model = holder.subscriptions.get_mut(&number).expect("a delivery to no subscription");
                    assert!(!halted, "a delivery while halted");
                    assert!(model.window > 0, "a delivery beyond the window");
                    model.window -= 1;
                    let skipped = model.expected.iter().take_while(|expected| **expected < deliver.id).count();
                    assert_eq!(skipped as u64, model.lost, "before {} were told as lost", deliver.id);
                    model.expected.drain(..skipped);
                    assert_eq!(model.expected.pop_front(), Some(deliver.id), "not for this subscription");
                    (model.lost, model.last_seen) = (0, deliver.id);
                }
                Content::Gap(gap) => {
                    let model = holder.subscriptions.get_mut(&number).expect("a gap for no subscription");
                    assert!(model.last_seen < gap.first && gap.first <= gap.last, "{gap:?}");
                    for end in [gap.first, gap.last] {
                        assert!(model.expected.contains(&end), "{gap:?} tells of a message that was not for it");
                    }
                    model.lost += gap.count.expect("nothing crashed, so that the count is known");
                }
                Content::Error(refusal) => panic!("{}", refusal.text),
                _ => {}
            }
        }
    }

    fn grant(&mut self) {
        let Some(id) = self.holder() else { return };
        let messages = self.random.u64(0..50);
        let numbers: Vec<u32> = self.holders[id].subscriptions.keys().copied().collect();
        let Some(number) = numbers.get(self.random.usize(0..numbers.len().max(1))).copied() else { return };
        self.frame(id, number, Content::Grant(Grant { messages, bytes: 0 }));
        if let Some(model) = self.holders.get_mut(id).and_then(|holder| holder.subscriptions.get_mut(&number)) {
            model.window += messages;
        }
    }

    /// An operator halts or resumes itself.
    fn halt(&mut self) {
        let Some(id) = self.holder() else { return };
        let on = self.random.bool();
        let verb = if on { "halt" } else { "resume" };
        self.publishes += 1;
        let number = (1 << 30) + self.publishes;
        self.frame(id, number, Content::Control(Control { verb: verb.into(), id: id.into(), argument: String::new() }));
        self.halted.insert(id, on);
        assert_eq!(self.answer(id, number), Content::Ok);
    }

    /// New permissions by a reload, which the operator accepts or not.
    fn reload(&mut self) {
        let Some(id) = self.holder() else { return };
        let permits = (self.random.usize(0..PERMITS.len()), self.random.usize(0..PERMITS.len()));
        self.publishes += 1;
        let asker = (self.holders[id].session, (1 << 30) + self.publishes);
        self.step(Event::ModuleRead { id: id.parse().unwrap(), asker, outcome: Ok(module(id, permits)) });
        let frames = self.output(id, 1 << 20);
        let reload = frames.iter().find(|frame| matches!(frame.content, Content::Reload(_))).expect("a reload").number;
        self.observe(id, frames);
        let accepted = self.random.bool();
        self.frame(id, reload, Content::Verdict(Verdict { accepted, text: "because".into() }));
        let frames = self.output(id, 1 << 20);
        let (answer, others) = take_answer(frames, asker.1);
        match answer {
            Content::Answer(_) if accepted => {
                self.permits.insert(id, permits);
            }
            Content::Error(_) if !accepted => {}
            other => panic!("{other:?}"),
        }
        self.observe(id, others);
    }

    fn say_state(&mut self) {
        let Some(id) = self.holder() else { return };
        self.publishes += 1;
        let status = format!("status {}", self.publishes);
        self.frame(id, 0, Content::State(State { state: 2, status }));
        self.announced(id, "ready");
    }

    /// The bus restarts cleanly: nobody may notice.
    fn restart(&mut self) {
        let limits = Limits::default();
        let core = std::mem::replace(&mut self.core, Core::new(self.now, 0, limits, Vec::new(), 0..0));
        self.core = handover::tests::restart(core, self.now);
        self.step(Event::Tick);
    }

    fn pass_time(&mut self) {
        self.now.mono += Duration::from_millis(self.random.u64(0..5_000));
        self.step(Event::Tick);
    }

    /// Everybody reads all that is there, then leaves: what was not delivered was told, and nothing is left over.
    fn end(&mut self) {
        for id in IDS {
            self.core.set_halted(self.now, &id.parse().unwrap(), false);
            self.halted.insert(id, false);
            let Some(holder) = self.holders.get_mut(id) else { continue };
            let numbers: Vec<u32> = holder.subscriptions.keys().copied().collect();
            for number in numbers {
                self.frame(id, number, Content::Grant(Grant { messages: 1 << 30, bytes: 0 }));
                if let Some(model) = self.holders.get_mut(id).and_then(|holder| holder.subscriptions.get_mut(&number)) {
                    model.window += 1 << 30;
                }
            }
            loop {
                let frames = self.output(id, 1 << 20);
                if frames.is_empty() {
                    break;
                }
                self.observe(id, frames);
            }
            for (number, model) in &self.holders[id].subscriptions {
                let silent = model.expected.len() as u64 - model.lost;
                assert_eq!(silent, 0, "{id}, subscription {number}: lost in silence");
            }
        }
        for (id, holder) in std::mem::take(&mut self.holders) {
            self.step(Event::Leave { session: holder.session });
            self.announced(id, "away");
        }
        let core = &self.core;
        assert_eq!((core.memory, core.owed, core.sessions.len(), core.subscriptions.len()), (0, 0, 0, 0));
        assert!(core.volatile.is_empty() && core.claims.is_empty() && core.requests.is_empty());
        assert!(core.index.find(&View::new(1, "irc", 0, None, 0, &chat())).is_empty());
    }
}

/// The answer to a request, and what came with it.
fn take_answer(mut frames: Vec<Frame>, number: u32) -> (Content, Vec<Frame>) {
    let is_answer =
        |frame: &Frame| frame.number == number && !matches!(frame.content, Content::Deliver(_) | Content::Gap(_));
    let at = frames.iter().position(is_answer).expect("a request is answered");
    (frames.remove(at).content, frames)
}

fn chat() -> EncodedDocument {
    EncodedDocument::from(&Document::new([("type", "chat.message"), ("channel", "#a")], "").unwrap())
}

#[test]
fn simulate() {
    let number = |name: &str| std::env::var(name).ok().map(|text| text.parse::<u64>().unwrap());
    let seeds = match number("EEVEE_SEED") {
        Some(seed) => seed..seed + 1,
        None => 0..number("EEVEE_SEEDS").unwrap_or(SEEDS),
    };
    for seed in seeds {
        let run = std::panic::catch_unwind(|| Simulation::new(seed).run());
        assert!(run.is_ok(), "seed {seed} fails; again with: EEVEE_SEED={seed} cargo test -p eeveed simulate");
    }
}
