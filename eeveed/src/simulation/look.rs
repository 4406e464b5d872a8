//! What those who connect are told, compared with what the model says that they should be.

use libeevee::wire::{Code, Content, Frame, Published, REPEATED, Refusal};

use super::client::{Asked, ClientNumber, Publication};
use super::item::Name;
use super::world::{Taken, World};

impl World {
    pub(super) fn look(&mut self, at: ClientNumber, frame: Frame) {
        let Frame { flags, number, content } = frame;
        match content {
            Content::Deliver(deliver) => {
                let source = self.clients[at].source;
                assert!(!self.halted.contains_key(source), "a delivery while halted");
                self.note(|| format!("{at} gets {} attempt {} in {number}", deliver.id, deliver.attempt));
                if let Some(live) = self.clients[at].live.get_mut(&number) {
                    live.deliver(&deliver);
                    return;
                }
                let name = *self.clients[at].durable.get(&number).expect("a delivery to no subscription");
                let (now, now_ms, answered, limits) = (self.now, self.now_ms(), self.answered, self.limits());
                self.kept_of(name).deliver(now, now_ms, &deliver, answered, &limits);
                self.clients[at].keep(&name, deliver.id);
            }
            Content::Gap(gap) => {
                self.note(|| format!("{at} is told {gap:?} in {number}"));
                if let Some(live) = self.clients[at].live.get_mut(&number) {
                    live.gap(&gap);
                    return;
                }
                let name = *self.clients[at].durable.get(&number).expect("a gap for no subscription");
                self.kept_of(name).gap(&gap);
            }
            Content::Published(published) => self.published(at, flags, number, published),
            Content::Error(refusal) => self.refused(at, number, &refusal),
            Content::Ok => match self.clients[at].asked.remove(&number) {
                Some(Asked::Live(live)) => {
                    self.clients[at].live.insert(number, *live);
                }
                Some(Asked::Durable(name, take)) => {
                    assert!(take < self.done, "{name:?} is opened before it is on disk");
                }
                Some(Asked::Plain) => {}
                other => panic!("Ok to {other:?}"),
            },
            Content::Answer(_) => match self.clients[at].asked.remove(&number) {
                Some(Asked::Forget(name)) => {
                    assert!(!self.kept.contains_key(&name), "{name:?} is forgotten before it is");
                }
                Some(Asked::Dead | Asked::Either) => {}
                other => panic!("an answer to {other:?}"),
            },
            Content::Grant(grant) => self.clients[at].credit += grant.messages,
            Content::Welcome(_) | Content::Halted(_) | Content::Reload(_) | Content::Commit | Content::Bye(_) => {}
            other => panic!("{other:?}"),
        }
    }

    fn published(&mut self, at: ClientNumber, flags: u8, number: u32, told: Published) {
        let Some(Asked::Publish(publication)) = self.clients[at].asked.remove(&number) else {
            panic!("a confirmation of nothing: {told:?}")
        };
        self.note(|| format!("{at} is confirmed {told:?}"));
        let Publication { id, confirmed, live, durable, numbers, .. } = publication;
        assert!(confirmed, "nobody asked for a confirmation");
        self.clients[at].answered(numbers);
        let source = self.clients[at].source;
        if let Some(id) = id {
            assert_eq!(flags & REPEATED, 0, "{id} is new");
            let wanted = Published { id, live, durable };
            assert_eq!(told, wanted, "a confirmation counts what the model does not");
        } else {
            assert_ne!(flags & REPEATED, 0, "{told:?} is none the first time");
            let taken = self.taken.get(&(source, numbers.0, numbers.1));
            let Some(Taken::Open { id, .. } | Taken::Done { id, .. }) = taken else { panic!("{told:?} never came") };
            assert!(told.id == 0 || told.id == *id, "{told:?} is {id}");
        }
        let Some(id) = id else { return };
        for kept in self.kept.values_mut() {
            if let Some(item) = kept.items.get_mut(&id) {
                assert!(!item.pending, "{id} is confirmed before it is on disk");
                item.confirmed = true;
            }
        }
    }

    fn refused(&mut self, at: ClientNumber, number: u32, refusal: &Refusal) {
        let code = Code::from_number(refusal.code);
        self.note(|| format!("{at} is refused {number}: {}", refusal.text));
        if code == Code::BadAck {
            let Some(name) = self.clients[at].durable.get(&number).copied() else { return };
            let id = refusal.text.split(' ').nth(1).and_then(|id| id.parse().ok()).expect("the id of a message");
            self.kept_of(name).acknowledgement_refused(id, &refusal.text);
            return;
        }
        match self.clients[at].asked.remove(&number) {
            Some(Asked::Publish(publication)) => {
                assert_eq!(code, Code::Storage, "{}", refusal.text);
                assert!(self.sick, "refused by a good disk: {}", refusal.text);
                self.clients[at].refused(publication.numbers);
            }
            Some(Asked::Live(_)) => assert_eq!(code, Code::Memory, "{}", refusal.text),
            Some(Asked::Durable(name, _)) => self.not_subscribed(at, number, name, code, refusal),
            Some(Asked::Either) => {}
            Some(Asked::Forget(name)) => {
                assert_eq!(code, Code::Storage, "{}", refusal.text);
                // After a failed sync it may be on disk all the same.
                if !self.disk.failed {
                    self.kept_of(name).forgetting = None;
                }
            }
            Some(Asked::Dead) => assert_eq!(code, Code::Storage, "{}", refusal.text),
            other => panic!("{other:?} is refused: {}", refusal.text),
        }
    }

    fn not_subscribed(&mut self, at: ClientNumber, number: u32, name: Name, code: Code, refusal: &Refusal) {
        self.clients[at].durable.remove(&number);
        match code {
            Code::Storage => {
                assert!(self.sick, "{}", refusal.text);
                let Some(kept) = self.kept.get_mut(&name).filter(|kept| kept.holder == Some((at, number))) else {
                    return;
                };
                kept.detach();
            }
            code => panic!("{code}: {}", refusal.text),
        }
    }
}
