//! What those do who rule: halt, resume, reload, other limits, and what waits in the store.

use libeevee::wire::{Content, Control, State, Verdict};

use super::client::{Asked, ClientNumber};
use super::item::{Name, Wish};
use super::texts::{PERMIT_COUNT, module};
use super::world::{World, some_limits};
use crate::core::Event;

impl World {
    /// An operator halts or resumes itself.
    pub(super) fn halt(&mut self, at: ClientNumber) {
        let on = self.random.bool();
        if self.clients[at].is_operator() && self.clients[at].session.is_some() {
            self.set_halted(at, on);
        }
    }

    pub(super) fn set_halted(&mut self, at: ClientNumber, on: bool) {
        let (source, number) = (self.clients[at].source, self.number());
        let verb = if on { "halt" } else { "resume" };
        self.note(|| format!("{source}: {verb}"));
        self.clients[at].asked.insert(number, Asked::Plain);
        self.send_only(
            at,
            number,
            Content::Control(Control { verb: verb.into(), id: source.into(), argument: String::new() }),
        );
        let (now, limits) = (self.now, self.limits());
        if on {
            self.halted.entry(source).or_insert(now.mono);
        } else if let Some(since) = self.halted.remove(source) {
            for name in self.clients[at].durable.values() {
                if let Some(kept) = self.kept.get_mut(name) {
                    kept.resumed(now, since, &limits);
                }
            }
        }
        self.read_control(at);
        assert!(!self.clients[at].asked.contains_key(&number), "it is answered");
    }

    /// New permissions by a reload, which the operator accepts or not.
    pub(super) fn reload(&mut self, at: ClientNumber) {
        let (source, Some(session)) = (self.clients[at].source, self.clients[at].session) else { return };
        if !self.clients[at].is_operator() {
            return;
        }
        let permits = (self.random.usize(0..PERMIT_COUNT), self.random.usize(0..PERMIT_COUNT));
        let asker = (session, self.number());
        self.clients[at].asked.insert(asker.1, Asked::Either);
        let outcome = Ok(module(source, permits));
        self.step(Event::ModuleRead { id: source.parse().unwrap(), asker, outcome }, false);
        let frames = self.output(at, 0);
        let reload = frames.iter().find(|frame| matches!(frame.content, Content::Reload(_))).expect("a reload").number;
        for frame in frames {
            self.look(at, frame);
        }
        let (accepted, take) = (self.random.bool(), self.takes);
        self.note(|| format!("{source} reloads {permits:?}: {accepted}"));
        self.send_only(at, reload, Content::Verdict(Verdict { accepted, text: "because".into() }));
        if accepted {
            self.clients[at].permits = permits;
            for name in self.clients[at].durable.values() {
                if let Some(kept) = self.kept.get_mut(name) {
                    let wish = Wish { permit: permits.1, ..kept.wish().clone() };
                    kept.change_wish(take, wish);
                }
            }
        }
        self.read_control(at);
        assert!(!self.clients[at].asked.contains_key(&asker.1), "it is answered");
    }

    pub(super) fn say_state(&mut self, at: ClientNumber) {
        let status = format!("status {}", self.number());
        if self.clients[at].is_operator() {
            self.send(at, 0, Content::State(State { state: 2, status }));
        }
    }

    pub(super) fn change_limits(&mut self) {
        let mut limits = some_limits(&mut self.random);
        (limits.memory_bytes, limits.memory_per_uid) = (self.core.limits.memory_bytes, self.core.limits.memory_per_uid);
        self.note(|| format!("{limits:?}"));
        let attempts = self.core.limits.attempts;
        for kept in self.kept.values_mut() {
            kept.attempts_max = kept.attempts_max.max(attempts);
            kept.attempts_min = kept.attempts_min.min(attempts);
        }
        self.step(Event::Limits(limits), false);
    }

    /// The administrator, who is the last.
    fn root(&self) -> Option<ClientNumber> {
        let at = self.clients.len() - 1;
        self.clients[at].session.map(|_| at)
    }

    pub(super) fn forget(&mut self) {
        let Some(root) = self.root() else { return };
        let free: Vec<Name> = self
            .kept
            .iter()
            .filter(|(_, kept)| kept.holder.is_none() && kept.forgetting.is_none())
            .map(|(name, _)| *name)
            .collect();
        let Some(name) = free.get(self.random.usize(0..free.len().max(1))).copied() else { return };
        self.forget_one(root, name);
    }

    pub(super) fn forget_one(&mut self, root: ClientNumber, name: Name) {
        self.note(|| format!("{name:?} is to be forgotten"));
        let number = self.number();
        self.clients[root].asked.insert(number, Asked::Forget(name));
        self.kept_of(name).forgetting = Some(self.takes);
        let control = Control { verb: "forget".into(), id: String::new(), argument: name.argument() };
        self.send(root, number, Content::Control(control));
    }

    pub(super) fn dead(&mut self) {
        let Some(root) = self.root() else { return };
        let verb = if self.random.bool() { "dead-retry" } else { "dead-drop" };
        let of = self.kept.keys().nth(self.random.usize(0..self.kept.len() + 1)).copied();
        self.change_dead(root, verb, of);
    }

    pub(super) fn change_dead(&mut self, root: ClientNumber, verb: &str, of: Option<Name>) {
        let number = self.number();
        self.clients[root].asked.insert(number, Asked::Dead);
        let argument = of.map_or_else(|| r#"{"all":true}"#.to_owned(), |name| name.argument());
        self.send(root, number, Content::Control(Control { verb: verb.into(), id: String::new(), argument }));
    }
}
