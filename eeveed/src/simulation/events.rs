//! What happens, by chance.

use std::time::Duration;

use libeevee::wire::{Ack, Content, Grant, Nack, Overflow, Subscribe, Text};

use super::client::{Asked, Client, ClientNumber};
use super::item::{Name, Wish};
use super::kept::Kept;
use super::live::Live;
use super::texts::{FILTERS, module, some_filters};
use super::world::World;
use crate::core::{Chunk, Code, Event, Peer};

/// Names of durable subscriptions; each owner may have each.
const NAMES: [&str; 2] = ["a", "b"];

impl World {
    pub(super) fn happen(&mut self) {
        self.read_direct();
        let at = self.random.usize(0..self.clients.len());
        match self.random.u16(0..1000) {
            0..40 => self.come(at),
            40..60 => self.go(at),
            60..90 => self.subscribe_live(at),
            90..150 => self.subscribe_durable(at),
            150..170 => self.unsubscribe(at),
            170..470 => self.publish(at),
            470..490 => self.publish_again(at, true),
            490..630 => self.read_some(at),
            630..770 => self.acknowledge_some(at),
            770..800 => self.nack(at),
            800..840 => self.grant(at),
            840..865 => self.halt(at),
            865..880 => self.reload(at),
            880..890 => self.say_state(at),
            890..896 => self.trouble(),
            896..900 => self.disk.set_trouble(super::disk::Trouble::None),
            900..903 => self.crash(),
            903..905 => self.stop(),
            905..908 => self.hand_over(),
            908..910 => self.change_limits(),
            910..914 => self.forget(),
            914..922 => self.dead(),
            922..940 => self.look_around(),
            _ => self.pass_time(),
        }
        self.disk_works();
    }

    pub(super) fn come(&mut self, at: ClientNumber) {
        let replaces = self.clients[at].session.is_some();
        if replaces && (!self.clients[at].is_operator() || self.random.u8(0..4) > 0) {
            return;
        }
        if !replaces && self.random.u8(0..4) == 0 {
            // Another process, which knows nothing of what the one before had in hand.
            self.clients[at].instance += 1000;
            self.clients[at].in_hand.clear();
        }
        self.note(|| format!("{at} comes{}", if replaces { " again" } else { "" }));
        self.disconnected(at);
        self.sessions += 1;
        let (session, client) = (self.sessions, &self.clients[at]);
        let peer = Peer { uid: at as u32, pid: None, program: "simulated".into(), instance: client.instance };
        let module = client.is_operator().then(|| module(client.source, client.permits));
        let identity = client.identity.clone();
        self.step(Event::Join { session, identity, peer, module }, false);
        let client = &mut self.clients[at];
        (client.session, client.next_number) = (Some(session), 1);
        let frames = self.output(at, 0);
        let Some(Content::Welcome(welcome)) = frames.first().map(|frame| &frame.content) else { panic!("{frames:?}") };
        let client = &mut self.clients[at];
        client.credit = welcome.credit_messages;
        assert_eq!(welcome.halted, self.halted.contains_key(client.source));
        for frame in frames {
            self.look(at, frame);
        }
        self.publish_again(at, false);
    }

    fn go(&mut self, at: ClientNumber) {
        let Some(session) = self.clients[at].session else { return };
        self.note(|| format!("{at} goes"));
        self.disconnected(at);
        if self.random.bool() {
            let content = Content::Bye(Text { text: "done".into() });
            self.step(Event::Frame { session, frame: libeevee::wire::Frame::new(0, content) }, false);
            let _ = self.core.output(self.now, session, 1 << 20, &mut Chunk::default());
        }
        self.step(Event::Leave { session }, false);
    }

    fn next_number(&mut self, at: ClientNumber) -> u32 {
        let number = self.clients[at].next_number;
        self.clients[at].next_number += 1;
        number
    }

    fn subscribe_live(&mut self, at: ClientNumber) {
        if self.clients[at].session.is_none() {
            return;
        }
        let mut filters = some_filters(&mut self.random);
        if self.plain {
            filters.retain(|at| FILTERS[*at] != "hops>0");
            filters.push(0);
        }
        let window = [1_000_000, self.random.u64(0..20)][self.random.usize(0..2)];
        let asked = Subscribe {
            filters: filters.iter().map(|at| FILTERS[*at].to_owned()).collect(),
            overflow: [0, Overflow::DropOldest as u8, Overflow::DropNewest as u8][self.random.usize(0..3)],
            queue_messages: self.random.u32(1..30),
            queue_bytes: if self.random.bool() { 0 } else { self.random.u64(200..5_000) },
            max_age_ms: if self.random.u8(0..4) == 0 { self.random.u64(1..20_000) } else { 0 },
            window_messages: window,
            window_bytes: 1 << 40,
            durable: None,
        };
        let live = Live { filters, expected: [].into(), last_seen: 0, lost: 0, window };
        let number = self.next_number(at);
        self.clients[at].asked.insert(number, Asked::Live(Box::new(live)));
        self.send(at, number, Content::Subscribe(asked));
        assert!(!self.clients[at].asked.contains_key(&number), "a subscription is answered");
    }

    fn subscribe_durable(&mut self, at: ClientNumber) {
        let can = |client: &&Client| client.session.is_some() && self.is_durable() && !self.plain;
        let Some(client) = self.clients.get(at).filter(can) else { return };
        let name = Name { owner: client.source, name: NAMES[self.random.usize(0..NAMES.len())] };
        let window = [1_000_000, self.random.u64(0..20)][self.random.usize(0..2)];
        let known = self.kept.get(&name).map(|kept| kept.wish().filters.clone()).filter(|_| self.random.bool());
        let filters = known.unwrap_or_else(|| some_filters(&mut self.random));
        let asked = Subscribe {
            filters: filters.iter().map(|at| FILTERS[*at].to_owned()).collect(),
            overflow: [0, 1, 2, 4][self.random.usize(0..4)],
            queue_messages: if self.random.bool() { 0 } else { self.random.u32(1..20) },
            queue_bytes: if self.random.u8(0..3) > 0 { 0 } else { self.random.u64(500..6_000) },
            max_age_ms: if self.random.u8(0..3) > 0 { 0 } else { self.random.u64(1..60_000) },
            window_messages: window,
            window_bytes: 1 << 40,
            durable: Some(name.name.into()),
        };
        self.attach(at, name, filters, asked);
        // Right behind it, in the same write: what could not be acknowledged while it was away.
        if self.random.bool() {
            let ids: Vec<u64> =
                self.clients[at].in_hand.iter().filter(|(of, _)| *of == name).map(|(_, id)| *id).collect();
            for id in ids {
                if self.random.u8(0..4) > 0 {
                    self.acknowledge(at, name, id);
                }
            }
        }
    }

    pub(super) fn attach(&mut self, at: ClientNumber, name: Name, filters: Vec<usize>, asked: Subscribe) {
        let (limits, number) = (self.limits(), self.next_number(at));
        let wish = Wish {
            filters,
            permit: self.clients[at].permits.1,
            overflow: Overflow::from_number(asked.overflow).unwrap_or_default(),
            asked: [asked.queue_messages.into(), asked.queue_bytes, asked.max_age_ms],
        };
        self.note(|| format!("{at} subscribes {number} to {name:?}: {wish:?}"));
        let (take, window) = (self.takes, asked.window_messages);
        let taken = self.kept.get(&name).is_some_and(|kept| kept.holder.is_some() || kept.forgetting.is_some());
        self.send_only(at, number, Content::Subscribe(asked));
        let frames = self.output(at, 0);
        let refusal = frames.iter().find(|frame| frame.number == number).and_then(|frame| match &frame.content {
            Content::Error(refusal) => Some(refusal.clone()),
            _ => None,
        });
        match refusal {
            Some(refusal) => match Code::from_number(refusal.code) {
                Code::AlreadyConnected => assert!(taken, "{}", refusal.text),
                Code::Storage => assert!(self.sick, "{}", refusal.text),
                Code::Memory => {
                    assert!(self.core.memory + self.core.owed > self.core.limits.memory_per_uid / 16, "{refusal:?}")
                }
                code => panic!("{code}: {}", refusal.text),
            },
            None => {
                assert!(!taken, "{name:?} has two sessions");
                let kept = self.kept.entry(name).or_insert_with(|| Kept::new(take, wish.clone(), &limits));
                kept.set_wish(take, wish, &limits);
                kept.attach((at, number), window, limits.in_flight);
                let (since, _) = *kept.wishes.back().expect("one is in force");
                self.clients[at].durable.insert(number, name);
                self.clients[at].asked.insert(number, Asked::Durable(name, since));
            }
        }
        for frame in frames {
            if !(frame.number == number && matches!(frame.content, Content::Error(_))) {
                self.look(at, frame);
            }
        }
    }

    fn unsubscribe(&mut self, at: ClientNumber) {
        let client = &mut self.clients[at];
        let numbers: Vec<u32> = client.live.keys().chain(client.durable.keys()).copied().collect();
        let Some(number) = numbers.get(self.random.usize(0..numbers.len().max(1))).copied() else { return };
        // From here on a delivery to it is a failure.
        client.live.remove(&number);
        client.asked.insert(number, Asked::Plain);
        let name = client.durable.remove(&number);
        self.note(|| format!("{at} unsubscribes {number}"));
        if let Some(kept) = name.and_then(|name| self.kept.get_mut(&name)) {
            kept.detach();
        }
        self.send(at, number, Content::Unsubscribe);
        assert!(!self.clients[at].asked.contains_key(&number), "it is answered");
    }

    fn read_some(&mut self, at: ClientNumber) {
        let budget = self.random.usize(1..4_000);
        for frame in self.output(at, budget) {
            self.look(at, frame);
        }
    }

    fn acknowledge_some(&mut self, at: ClientNumber) {
        let client = &mut self.clients[at];
        let (hand, done) = (client.in_hand.len(), client.done.len());
        match self.random.u8(0..20) {
            // Again.
            0 if done > 0 => {
                let (name, id) = client.done[self.random.usize(0..done)];
                self.acknowledge(at, name, id);
            }
            // Something that it never had, or that waits still.
            1 => {
                let Some((_, name)) = client.durable.first_key_value() else { return };
                let (name, next) = (*name, self.core.next_unused_id());
                let id = self.random.u64(next.saturating_sub(300)..next + 10);
                self.acknowledge(at, name, id);
            }
            _ if hand > 0 => {
                let (name, id) = client.in_hand[self.random.usize(0..hand)];
                self.acknowledge(at, name, id);
            }
            _ => {}
        }
    }

    /// Says that a message is done with, rightly or not.
    pub(super) fn acknowledge(&mut self, at: ClientNumber, name: Name, id: u64) {
        let Some(number) = self.clients[at].number_of(&name) else { return };
        let Some(kept) = self.kept.get_mut(&name) else { return };
        if kept.may_acknowledge(id, self.answered) {
            kept.acknowledge(id, self.takes);
        } else {
            if kept.items.get(&id).is_some_and(super::item::Item::is_unclear) {
                return;
            }
            kept.acknowledge_wrongly(id);
        }
        self.note(|| format!("{at} acknowledges {id} in {number}"));
        let client = &mut self.clients[at];
        client.in_hand.retain(|known| *known != (name, id));
        client.done.push_back((name, id));
        if client.done.len() > 20 {
            client.done.pop_front();
        }
        self.send(at, number, Content::Ack(Ack { id }));
    }

    fn nack(&mut self, at: ClientNumber) {
        let hand = self.clients[at].in_hand.len();
        if hand == 0 {
            return;
        }
        let (name, id) = self.clients[at].in_hand[self.random.usize(0..hand)];
        let Some(number) = self.clients[at].number_of(&name) else { return };
        let (dead, delay_ms) = (self.random.u8(0..4) == 0, [0, self.random.u64(1..20_000)][self.random.usize(0..2)]);
        let (now, answered) = (self.now, self.answered);
        let Some(kept) = self.kept.get_mut(&name) else { return };
        if kept.may_acknowledge(id, answered) {
            kept.outstanding.remove(&id);
            let item = kept.items.get_mut(&id).expect("it is in hand");
            if item.in_session {
                item.killed = dead;
            } else {
                (item.may_die, item.put_off) = (dead, true);
            }
            item.flying = false;
            item.due = now.mono + Duration::from_millis(if delay_ms == 0 { 1000 } else { delay_ms });
        } else {
            if kept.items.get(&id).is_some_and(super::item::Item::is_unclear) {
                return;
            }
            kept.acknowledge_wrongly(id);
        }
        self.note(|| format!("{at} gives back {id} in {number}, dead: {dead}, after {delay_ms} ms"));
        self.clients[at].in_hand.retain(|known| *known != (name, id));
        self.send(at, number, Content::Nack(Nack { id, dead, delay_ms, reason: "because".into() }));
    }

    fn grant(&mut self, at: ClientNumber) {
        let (messages, client) = (self.random.u64(0..50), &mut self.clients[at]);
        let numbers: Vec<u32> = client.live.keys().chain(client.durable.keys()).copied().collect();
        let Some(number) = numbers.get(self.random.usize(0..numbers.len().max(1))).copied() else { return };
        self.widen(at, number, messages);
    }

    pub(super) fn widen(&mut self, at: ClientNumber, number: u32, messages: u64) {
        let client = &mut self.clients[at];
        if let Some(live) = client.live.get_mut(&number) {
            live.window += messages;
        } else if let Some(kept) = client.durable.get(&number).and_then(|name| self.kept.get_mut(name)) {
            kept.window += messages;
        }
        self.send(at, number, Content::Grant(Grant { messages, bytes: 0 }));
    }

    fn pass_time(&mut self) {
        let time = match self.random.u8(0..20) {
            0 => 100_000,
            1..4 => 20_000,
            _ => 3_000,
        };
        let time = Duration::from_millis(self.random.u64(0..time));
        self.pass(time);
    }
}
