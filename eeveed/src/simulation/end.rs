//! The end of a simulation: everything is mended, everybody reads and acknowledges all there is, and leaves. Then nothing
//! may be left over, in no account.

use std::time::Duration;

use libeevee::wire::Subscribe;

use super::disk::Trouble;
use super::item::Name;
use super::texts::FILTERS;
use super::world::World;
use crate::core::index::View;

/// How often everybody tries until nothing waits any more.
const ROUNDS: usize = 60;

impl World {
    pub(super) fn end(&mut self) {
        self.note(|| "the end begins".into());
        self.read_direct();
        self.core.direct_bytes = 0;
        self.disk.set_trouble(Trouble::None);
        if self.random.bool() {
            // Who forgets what it has in hand gets it again when its time is over.
            self.clients.iter_mut().for_each(|client| client.in_hand.clear());
        }
        self.pass(Duration::from_millis(1500));
        self.look_around();
        for round in 0.. {
            self.everybody_works();
            self.pass(Duration::from_secs(7));
            self.look_around();
            if round == ROUNDS / 2 {
                // A message may be larger than all that a subscription with policy reject takes.
                self.clients.iter_mut().for_each(|client| client.outbox.retain(|unsent| !unsent.refused));
            }
            // Subscriptions alone may take all of a very small memory.
            let unsent = self.is_durable() && self.clients.iter().any(|client| !client.outbox.is_empty());
            if self.is_well() && !unsent && self.kept.values().all(|kept| kept.count() == 0) {
                break;
            }
            if round == ROUNDS {
                let waiting = self.kept.iter().filter(|(_, kept)| kept.count() > 0);
                let left: Vec<String> = waiting.map(|(name, kept)| format!("{name:?}: {:?}", kept.items)).collect();
                panic!("it never ends; unsent: {unsent}, waiting: {left:#?}");
            }
        }
        self.everybody_leaves();
    }

    fn everybody_works(&mut self) {
        for at in 0..self.clients.len() {
            if self.clients[at].session.is_none() {
                self.come(at);
            }
            if self.clients[at].is_operator() && self.halted.contains_key(self.clients[at].source) {
                self.set_halted(at, false);
            }
            self.publish_again(at, true);
            let free: Vec<Name> = self
                .kept
                .iter()
                .filter(|(name, kept)| name.owner == self.clients[at].source && kept.holder.is_none())
                .map(|(name, _)| *name)
                .collect();
            for name in free {
                let filters = self.kept[&name].wish().filters.clone();
                let asked = Subscribe {
                    filters: filters.iter().map(|at| FILTERS[*at].to_owned()).collect(),
                    overflow: 0,
                    queue_messages: 0,
                    queue_bytes: 0,
                    max_age_ms: 0,
                    window_messages: 1 << 30,
                    window_bytes: 1 << 40,
                    durable: Some(name.name.into()),
                };
                self.attach(at, name, filters, asked);
            }
            let client = &self.clients[at];
            for number in client.live.keys().chain(client.durable.keys()).copied().collect::<Vec<_>>() {
                self.widen(at, number, 1 << 30);
            }
            self.settle();
            self.read_all(at);
            for (name, id) in self.clients[at].in_hand.clone() {
                self.acknowledge(at, name, id);
            }
            self.clients[at].in_hand.clear();
        }
    }

    fn read_all(&mut self, at: usize) {
        loop {
            let frames = self.output(at, 1 << 20);
            if frames.is_empty() {
                return;
            }
            for frame in frames {
                self.look(at, frame);
            }
        }
    }

    fn everybody_leaves(&mut self) {
        let root = self.clients.len() - 1;
        for at in 0..root {
            self.read_all(at);
            for live in self.clients[at].live.values() {
                live.end();
            }
            let session = self.clients[at].session.expect("everybody came");
            let credit = &self.core.sessions[&session].credit;
            assert_eq!(credit.messages + credit.owed_messages, credit.full_messages, "credit of {at}");
            assert_eq!(self.clients[at].credit, credit.messages, "credit as {at} knows it");
            self.disconnected(at);
            self.step(crate::core::Event::Leave { session }, false);
        }
        for name in self.kept.keys().copied().collect::<Vec<_>>() {
            if self.kept[&name].holder.is_some() {
                let number = self.clients[root].number_of(&name).expect("only one is left");
                self.clients[root].asked.insert(number, super::client::Asked::Plain);
                self.clients[root].durable.remove(&number);
                self.kept_of(name).detach();
                self.send(root, number, libeevee::wire::Content::Unsubscribe);
            }
        }
        // What came in by these departures waits for nobody.
        self.look_around();
        self.change_dead(root, "dead-drop", None);
        self.look_around();
        assert!(self.places.dead.is_empty(), "all dead letters were dropped");
        for name in self.kept.keys().copied().collect::<Vec<_>>() {
            self.forget_one(root, name);
        }
        self.look_around();
        assert!(self.kept.is_empty() && self.clients[root].asked.is_empty(), "{:?}", self.clients[root].asked);
        self.read_all(root);
        for live in self.clients[root].live.values() {
            live.end();
        }
        let session = self.clients[root].session.expect("root is there");
        self.disconnected(root);
        self.step(crate::core::Event::Leave { session }, false);
        self.settle();
        self.check_empty();
    }

    fn check_empty(&mut self) {
        let recovered = self.disk.store.reopen(self.now.wall);
        assert!(recovered.subscriptions.is_empty(), "{recovered:?}");
        let core = &self.core;
        assert_eq!((core.memory, core.owed, core.sessions.len(), core.subscriptions.len()), (0, 0, 0, 0));
        assert!(core.volatile.is_empty() && core.claims.is_empty() && core.requests.is_empty());
        assert!(core.alarms.is_empty() && !core.is_committing());
        let status = core.store_status();
        assert_eq!((&status["messages"], &status["bytes"], &status["dead"]), (&0.into(), &0.into(), &0.into()));
        let chat = libeevee::Document::new([("type", "chat.message"), ("channel", "#a")], "").unwrap();
        let chat = libeevee::wire::EncodedDocument::from(&chat);
        assert!(core.index.find(&View::new(1, "irc", 0, None, 0, chat.view()), &mut 0).is_empty());
    }
}
