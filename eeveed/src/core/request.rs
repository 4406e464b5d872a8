//! Requests: a message that wants one answer, an address that only its receivers may answer to, and a deadline.

use std::rc::Rc;
use std::time::Duration;

use libeevee::wire::{self, Code, Content, Frame, Refusal, Response};

use super::durable::Confirm;
use super::index::Slot;
use super::publish::Outgoing;
use super::session::{SessionKey, beyond, refusal};
use super::subscribe::Subscription;
use super::{Core, Now};

#[derive(Debug)]
pub(crate) struct Request {
    pub(super) session: SessionKey,
    pub(super) number: u32,
    pub(super) deadline: Duration,
    pub(super) deadline_ms: u64,
    /// The sessions that it was routed to, sorted; nobody else can answer.
    pub(super) receivers: Box<[SessionKey]>,
    /// The owners of the durable subscriptions that it waits in, who may have another session when they answer.
    pub(super) owners: Box<[Rc<str>]>,
}

impl Request {
    /// What it takes of the bus's memory while it is open.
    pub(super) const fn size(&self) -> usize {
        256 + self.receivers.len() * size_of::<SessionKey>() + self.owners.len() * size_of::<Rc<str>>()
    }
}

/// Requests that one session may have open.
const REQUESTS_PER_SESSION: usize = 1024;

/// What an open request is taken for before it is known who gets it.
const REQUEST_BYTES: usize = 1024;

/// The longest deadline, so that a forgotten request ends.
pub(super) const DEADLINE_MS_MAX: u64 = 10 * 60 * 1000;

impl Core {
    pub(super) fn request(&mut self, now: Now, key: SessionKey, number: u32, request: wire::Request) {
        let wire::Request { deadline_ms, cause, hops, document } = request;
        if !self.charge(key, number, document.bytes().len()) {
            return;
        }
        let open = self.sessions.get(&key).map_or(0, |session| session.requests_open);
        if open >= REQUESTS_PER_SESSION {
            let max = REQUESTS_PER_SESSION as u64;
            let text = format!("{open} requests are open, at most {max} are possible a session");
            self.refuse(key, number, beyond(Code::Quota, text, max, open as u64 + 1));
            self.give_back(now, Some((key, document.bytes().len() as u64)));
            return;
        }
        if let Err(refusal) = self.check_share(key, REQUEST_BYTES) {
            self.refuse(key, number, refusal);
            self.give_back(now, Some((key, document.bytes().len() as u64)));
            return;
        }
        // The address is the id that the message will get: unique, and known before it is routed.
        let address = self.ids.start;
        let deadline_ms = deadline_ms.clamp(1, DEADLINE_MS_MAX);
        let bytes = document.bytes().len() as u64;
        let outgoing = Outgoing {
            cause,
            hops,
            document: document.view(),
            headers: None,
            route: self.memo.get(key, document.header_bytes()),
            reply_address: Some(address),
            epoch: 0,
            sequence: 0,
            confirm: Some(Confirm { session: key, number, wanted: false, repeated: false }),
            wanted_ms: deadline_ms,
        };
        let mut waits = false;
        match self.send(now, key, outgoing) {
            Ok(sent) if sent.to.is_empty() => {
                let text = "no subscription matched the request";
                self.refuse(key, number, refusal(Code::NoResponder, text));
            }
            Ok(sent) => {
                waits = !sent.to.durable().is_empty();
                let deadline = now.mono + Duration::from_millis(deadline_ms);
                let subscriptions = |slots: &[Slot]| {
                    let slots: Vec<Slot> = slots.to_vec();
                    slots.into_iter().filter_map(|slot| self.subscriptions.get(slot as usize))
                };
                let mut receivers: Vec<SessionKey> =
                    subscriptions(sent.to.live()).map(|subscription| subscription.session).collect();
                receivers.sort_unstable();
                receivers.dedup();
                let owner = |subscription: &Subscription| Some(subscription.durable.as_deref()?.owner.clone());
                let owners = subscriptions(sent.to.durable()).filter_map(owner).collect();
                let request =
                    Request { session: key, number, deadline, deadline_ms, receivers: receivers.into(), owners };
                let size = request.size();
                self.owed += size;
                self.requests.insert(address, request);
                self.request_deadlines.insert((deadline, address), ());
                if let Some(session) = self.sessions.get_mut(&key) {
                    session.account.add(size);
                    session.requests_open += 1;
                }
            }
            Err(refusal) => self.refuse(key, number, refusal),
        }
        if !waits {
            self.give_back(now, Some((key, bytes)));
        }
    }

    /// The first answer goes to the requester; the address is used up by it.
    pub(super) fn reply(&mut self, now: Now, key: SessionKey, number: u32, reply: wire::Reply) {
        let wire::Reply { address, document } = reply;
        if !self.charge(key, number, document.bytes().len()) {
            return;
        }
        let Some(source) = self.sessions.get(&key).map(|session| session.source.clone()) else { return };
        let bytes = document.bytes().len() as u64;
        let known = self
            .requests
            .get(&address)
            .is_some_and(|request| request.receivers.binary_search(&key).is_ok() || request.owners.contains(&source));
        if !known {
            let text =
                format!("no request waits at address {address} for an answer of {source}: answered, or too late");
            self.refuse(key, number, refusal(Code::NotFound, text));
        } else if let Some(request) = self.end_request(address) {
            match self.check_unread(request.session, document.bytes().len()) {
                Ok(()) => {
                    let response = Response { source: source.to_string(), timestamp: now.wall, document };
                    self.tell(request.session, &Frame::new(request.number, Content::Response(response)));
                    self.ok(key, number);
                }
                Err(refusal) => {
                    self.refuse(request.session, request.number, refusal.clone());
                    self.refuse(key, number, refusal);
                }
            }
        }
        self.give_back(now, Some((key, bytes)));
    }

    /// Whether an answer of so many bytes may wait for a session: one that asks and does not read must not fill the bus.
    fn check_unread(&self, asker: SessionKey, bytes: usize) -> Result<(), Refusal> {
        self.check_share(asker, bytes)?;
        self.check_memory(bytes)?;
        let unread = self.sessions.get(&asker).map_or(0, |session| session.output.answers());
        let (wanted, max) = (unread + bytes, self.limits.queue_bytes.max(bytes));
        if wanted <= max {
            return Ok(());
        }
        let text = format!("the requester left {wanted} bytes of answers unread, at most {max} are possible");
        Err(beyond(Code::Memory, text, max as u64, wanted as u64))
    }

    pub(super) fn expire_requests(&mut self, now: Now) {
        while let Some(((deadline, address), ())) = self.request_deadlines.first_key_value()
            && *deadline <= now.mono
        {
            let address = *address;
            let Some(request) = self.end_request(address) else { continue };
            let text = format!("no answer within {} ms", request.deadline_ms);
            self.refuse(request.session, request.number, refusal(Code::Deadline, text));
        }
    }

    /// Forgets what a session that ended has asked for.
    pub(super) fn end_requests_of(&mut self, key: SessionKey) {
        let open: Vec<u64> =
            self.requests.iter().filter(|(_, request)| request.session == key).map(|(address, _)| *address).collect();
        for address in open {
            self.end_request(address);
        }
    }

    fn end_request(&mut self, address: u64) -> Option<Request> {
        let request = self.requests.remove(&address)?;
        self.request_deadlines.remove(&(request.deadline, address));
        self.owed -= request.size();
        if let Some(session) = self.sessions.get_mut(&request.session) {
            session.account.sub(request.size());
            session.requests_open -= 1;
        }
        Some(request)
    }
}
