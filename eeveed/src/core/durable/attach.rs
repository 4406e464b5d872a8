//! A durable subscription gets a session, and loses it.

use std::rc::Rc;

use libeevee::filter::Filter;
use libeevee::wire::{Code, Overflow, Refusal, Subscribe};

use super::begin::{DURABLE_BYTES, new_durable};
use super::spec::{MayReceive, Spec, check_name};
use super::{NOBODY, Undone};
use crate::core::index::Slot;
use crate::core::permit::{Permit, is_volatile};
use crate::core::session::{SessionKey, beyond, refusal};
use crate::core::share::Filters;
use crate::core::storage::Write;
use crate::core::subscribe::parse_filters;
use crate::core::{Core, Now};

impl Core {
    /// Attaches a session to its durable subscription of this name, which begins with it if there is none. Ok is told when it
    /// stands on disk.
    pub(in crate::core) fn subscribe_durable(
        &mut self,
        now: Now,
        key: SessionKey,
        number: u32,
        name: &str,
        asked: Subscribe,
    ) -> Result<(), Refusal> {
        check_name(name)?;
        let overflow = match Overflow::from_number(asked.overflow) {
            None | Some(Overflow::DropOldest) => Overflow::DropOldest,
            Some(Overflow::Disconnect) => {
                let text = format!("durable subscription {name}: the policy disconnect is for live ones");
                return Err(refusal(Code::Refused, text));
            }
            Some(other) => other,
        };
        let filters = parse_filters(&asked.filters, self.limits.filter_clauses, self.limits.filter_bytes)?;
        let Some(session) = self.sessions.get(&key) else { return Ok(()) };
        let (owner, may_receive) = (session.source.clone(), session.may_receive.clone());
        let spec = Spec {
            filters: filters.iter().map(ToString::to_string).collect(),
            max_age_ms: asked.max_age_ms,
            overflow: overflow as u8,
            messages: u64::from(asked.queue_messages),
            bytes: asked.queue_bytes,
            may_receive: MayReceive::of(&may_receive),
        };
        let found = self.journal.by_name.get(&(owner.clone(), name.to_owned())).copied();
        let slot = match found {
            Some(slot) => {
                self.check_free(slot, name)?;
                self.check_filters(key, &filters, self.subscriptions[slot as usize].counted_filters)?;
                self.check_writable(slot, &spec)?;
                slot
            }
            None => {
                self.journal.refusal().map_or(Ok(()), Err)?;
                self.check_count(&owner)?;
                self.check_filters(key, &filters, Filters::default())?;
                let bytes = DURABLE_BYTES + 2 * filters.iter().map(Filter::memory_bytes).sum::<usize>();
                self.check_share(key, bytes)?;
                self.check_memory(bytes)?;
                let durable_key = self.journal.take_key();
                self.insert_durable(
                    new_durable(durable_key, owner, name, spec.clone(), may_receive.clone()),
                    Vec::new(),
                )
            }
        };
        self.take_over(now, slot, (key, number), filters, spec, asked);
        Ok(())
    }

    fn check_free(&self, slot: Slot, name: &str) -> Result<(), Refusal> {
        if self.subscriptions[slot as usize].durable.as_deref().is_some_and(|durable| durable.forgetting) {
            return Err(refusal(
                Code::AlreadyConnected,
                format!("durable subscription {name} is being forgotten; try again"),
            ));
        }
        let holder = self.subscriptions[slot as usize].session;
        match self.sessions.get(&holder) {
            Some(holder) => {
                let text = format!(
                    "durable subscription {name} of {} has a session already ({}); one at a time",
                    holder.source, holder.peer.program
                );
                Err(refusal(Code::AlreadyConnected, text))
            }
            None => Ok(()),
        }
    }

    /// Whether the disk can be told what was asked for, if that has to be.
    fn check_writable(&self, slot: Slot, spec: &Spec) -> Result<(), Refusal> {
        let durable = self.subscriptions[slot as usize].durable.as_deref();
        match self.journal.blocked() {
            Some(refusal) if durable.is_none_or(|durable| durable.is_news(spec)) => Err(refusal),
            _ => Ok(()),
        }
    }

    fn check_count(&self, owner: &Rc<str>) -> Result<(), Refusal> {
        let first = (owner.clone(), String::new());
        let own = self.journal.by_name.range(first..).take_while(|((known, _), _)| known == owner);
        let (count, max) = (own.count() as u64, self.limits.subscriptions_per_session as u64);
        if count < max {
            return Ok(());
        }
        let text = format!(
            "{owner} has {count} durable subscriptions, at most {max} are possible; `eeveectl forget` ends one"
        );
        Err(beyond(Code::Quota, text, max, count + 1))
    }

    /// Gives a durable subscription its session, and what that asked for.
    fn take_over(
        &mut self,
        now: Now,
        slot: Slot,
        (key, number): (SessionKey, u32),
        filters: Vec<Filter>,
        spec: Spec,
        asked: Subscribe,
    ) {
        self.unfile(slot);
        let session = self.sessions.get(&key);
        let may_receive = session.map(|session| session.may_receive.clone());
        if let Some(account) = session.map(|session| session.account.clone()) {
            self.set_account(slot, &account);
        }
        let now_ms = self.journal.time(now.mono);
        let bounds = self.durable_bounds(&spec);
        let subscription = &mut self.subscriptions[slot as usize];
        self.memory -= subscription.own_memory;
        subscription.account.sub(subscription.own_memory);
        subscription.own_memory = DURABLE_BYTES + 2 * filters.iter().map(Filter::memory_bytes).sum::<usize>();
        self.memory += subscription.own_memory;
        subscription.account.add(subscription.own_memory);
        subscription.attach(key, number, filters, &asked);
        let Some(durable) = subscription.durable.as_deref_mut() else { return };
        let changed = durable.is_news(&spec);
        durable.writing += u32::from(changed);
        durable.spec = spec;
        durable.bounds = bounds;
        durable.may_receive = may_receive.unwrap_or_else(|| durable.may_receive.clone());
        durable.open_since_ms = now_ms;
        durable.generation += 1;
        durable.set_loading(false);
        durable.loaded = 0;
        durable.more = durable.messages > 0;
        durable.opening = Some((key, number));
        let row = durable.row();
        subscription.volatile = durable.may_receive.is_volatile() || subscription.filters.iter().any(is_volatile);
        self.file(slot);
        if let Some(session) = self.sessions.get_mut(&key) {
            session.subscriptions.push((number, slot));
        }
        if changed {
            self.journal.write(Write::Subscription(row));
            self.journal.await_opening(slot);
        } else {
            self.opened(slot);
        }
        self.refill(slot);
        self.list_deliverable(now, key);
    }

    /// It stands on disk.
    pub(super) fn opened(&mut self, slot: Slot) {
        let Some(durable) = self.subscriptions.get_mut(slot as usize).and_then(|found| found.durable.as_deref_mut())
        else {
            return;
        };
        durable.stored = true;
        durable.writing = durable.writing.saturating_sub(1);
        if durable.writing > 0 {
            // A later batch has what the present session asked for.
            return;
        }
        durable.unwritten = false;
        if let Some((key, number)) = durable.opening.take() {
            self.ok(key, number);
        }
    }

    /// The disk did not take it: who wanted it is told, and one that was new is none.
    pub(super) fn not_opened(&mut self, slot: Slot, why: &str) {
        let Some(durable) = self.subscriptions.get_mut(slot as usize).and_then(|found| found.durable.as_deref_mut())
        else {
            return;
        };
        let (stored, opening) = (durable.stored, durable.opening.take());
        let text = format!("durable subscription {} cannot be stored: {why}", durable.name);
        durable.unwritten = true;
        durable.writing = durable.writing.saturating_sub(1);
        let session = self.subscriptions[slot as usize].session;
        if let Some((key, number)) = opening {
            self.unlist(key, slot);
            self.refuse(key, number, refusal(Code::Storage, text));
        } else if session != NOBODY {
            self.unlist(session, slot);
        }
        self.detach(slot);
        if !stored {
            self.remove_durable(slot);
        }
    }

    fn unlist(&mut self, key: SessionKey, slot: Slot) {
        if let Some(session) = self.sessions.get_mut(&key) {
            session.subscriptions.retain(|(_, known)| *known != slot);
            session.ready.retain(|ready| *ready != slot);
        }
    }

    /// Its session is gone: what was delivered comes again, and nothing is kept in memory. The session's lists are the
    /// caller's.
    pub(in crate::core) fn detach(&mut self, slot: Slot) {
        let subscription = &mut self.subscriptions[slot as usize];
        subscription.session = NOBODY;
        subscription.listed = false;
        let Some(durable) = subscription.durable.as_deref_mut() else { return };
        durable.release(&mut self.memory, durable.held_bytes());
        durable.opening = None;
        durable.generation += 1;
        durable.set_loading(false);
        durable.loaded = 0;
        durable.more = durable.messages > 0;
        let flights = std::mem::take(&mut durable.in_flight).into_values().map(|flight| flight.held);
        let returned = std::mem::take(&mut durable.returned).into_values().map(|(held, _)| held);
        let head = std::mem::take(&mut durable.head).into_iter();
        durable.head_bytes = 0;
        durable.deadlines.clear();
        durable.early.clear();
        durable.early_refusals.clear();
        for held in flights.chain(returned).chain(head).filter(|held| held.attempts > 0) {
            let undone = Undone { id: held.record.id, attempts: held.attempts, bytes: held.record.size() };
            durable.undone.insert(held.entry, undone);
        }
    }

    /// New permissions for a durable subscription whose session's module file changed.
    pub(in crate::core) fn refile_durable(&mut self, slot: Slot, may_receive: &Permit) {
        let Some(durable) = self.subscriptions[slot as usize].durable.as_deref_mut() else { return };
        durable.may_receive = may_receive.clone();
        let told = MayReceive::of(may_receive);
        if durable.spec.may_receive != told {
            durable.spec.may_receive = told;
            let row = durable.row();
            self.journal.write(Write::Subscription(row));
        }
    }
}
