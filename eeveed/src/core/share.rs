//! What each uid takes of the bus: its share of the memory, and filters that cost something with every message.
//!
//! Counted to a uid is what waits in the live queues of its sessions, output that it has not read, frames that it has not
//! finished, its open requests, its subscriptions with their filters, what is held in memory for its durable
//! subscriptions, and what it published and waits for the disk. Beyond the share its own queues lose messages, its own
//! requests are refused, and what waits for it on disk stays there; no publisher is refused anything for it.
//!
//! A message that waits in several queues is counted in full in every one of them, although the bus has it once: then
//! nobody's account depends on what others do with it, and an account is a number that is added to and taken from.

use std::cell::{Cell, RefCell};
use std::collections::BTreeSet;
use std::rc::{Rc, Weak};

use hashbrown::HashMap;
use libeevee::filter::Filter;
use libeevee::wire::{Code, Refusal};

use super::Core;
use super::durable::PAGE_BYTES;
use super::index::{Slot, is_indexed};
use super::permit::is_volatile;
use super::session::{SessionKey, beyond, shortened};

/// How many filters there are.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Filters {
    all: u32,
    /// Those that are looked at for every message.
    unindexed: u32,
}

impl Filters {
    fn of(filters: &[Filter], volatile: bool) -> Self {
        // A subscription has a few, and a uid as many as its memory has room for.
        let indexed = if volatile { 0 } else { filters.iter().filter(|filter| is_indexed(filter)).count() };
        Self { all: filters.len() as u32, unindexed: (filters.len() - indexed) as u32 }
    }

    const fn plus(self, more: Self) -> Self {
        Self { all: self.all + more.all, unindexed: self.unindexed + more.unindexed }
    }

    const fn minus(self, less: Self) -> Self {
        Self { all: self.all - less.all, unindexed: self.unindexed - less.unindexed }
    }
}

/// What one uid has. Sessions and subscriptions share it, so that adding to it is no look-up.
#[derive(Debug)]
pub(crate) struct Account {
    uid: Option<u32>,
    used: Cell<usize>,
    /// What was asked from the store and is to come.
    expected: Cell<usize>,
    filters: Cell<Filters>,
    /// Some that its sessions had.
    texts: RefCell<Vec<Rc<str>>>,
    /// Some that its subscriptions have.
    lists: RefCell<Vec<Weak<[Filter]>>>,
}

/// Name, source and program of the last session, and of one more.
const TEXTS_KEPT: usize = 6;

/// The last that differ.
const LISTS_KEPT: usize = 4;

impl Account {
    fn new(uid: Option<u32>) -> Rc<Self> {
        Rc::new(Self {
            uid,
            used: Cell::new(0),
            expected: Cell::new(0),
            filters: Cell::default(),
            texts: RefCell::default(),
            lists: RefCell::default(),
        })
    }

    /// A text of a session, which others of the same uid mostly have, too: one for all of them.
    pub(super) fn text(&self, text: &str) -> Rc<str> {
        let mut texts = self.texts.borrow_mut();
        if let Some(known) = texts.iter().find(|known| ***known == *text) {
            return known.clone();
        }
        let text = Rc::from(text);
        if texts.len() == TEXTS_KEPT {
            texts.remove(0);
        }
        texts.push(Rc::clone(&text));
        text
    }

    /// The filters of a subscription, which another of the same uid may have, too: many sessions of one program mostly do.
    pub(super) fn list(&self, filters: Vec<Filter>) -> Rc<[Filter]> {
        let mut lists = self.lists.borrow_mut();
        lists.retain(|list| list.strong_count() > 0);
        if let Some(known) = lists.iter().filter_map(Weak::upgrade).find(|known| **known == *filters) {
            return known;
        }
        let list = Rc::from(filters);
        if lists.len() == LISTS_KEPT {
            lists.remove(0);
        }
        lists.push(Rc::downgrade(&list));
        list
    }

    /// Of durable subscriptions whose owner was not seen since the bus was started.
    pub(super) fn of_nobody() -> Rc<Self> {
        Self::new(None)
    }

    pub(super) fn add(&self, bytes: usize) {
        self.used.set(self.used.get() + bytes);
    }

    pub(super) fn sub(&self, bytes: usize) {
        self.used.set(self.used.get() - bytes);
    }

    /// How many bytes are left of a share.
    pub(super) fn left(&self, max: usize) -> usize {
        max.saturating_sub(self.used.get())
    }

    pub(super) fn expect(&self, bytes: usize) {
        self.expected.set(self.expected.get() + bytes);
    }

    pub(super) fn unexpect(&self, bytes: usize) {
        self.expected.set(self.expected.get() - bytes);
    }

    pub(super) fn check(&self, more: usize, max: usize) -> Result<(), Refusal> {
        if more <= self.left(max) {
            return Ok(());
        }
        let (used, whose) = (self.used.get(), self.whose());
        let text = format!(
            "{whose} takes {used} bytes of the bus's memory, {more} more would pass its share of {max} (memory-per-uid); \
             read what waits, or subscribe to less"
        );
        Err(beyond(Code::Memory, text, max as u64, (used + more) as u64))
    }

    pub(super) fn whose(&self) -> String {
        self.uid.map_or_else(|| "the owner".into(), |uid| format!("uid {uid}"))
    }
}

/// The accounts of all uids that are there.
#[derive(Debug, Default)]
pub(crate) struct Shares {
    accounts: HashMap<u32, Rc<Account>>,
    /// Durable subscriptions that want more from the store and have no room for it.
    starved: Vec<(Rc<Account>, BTreeSet<Slot>)>,
}

impl Shares {
    pub(super) fn of(&mut self, uid: u32) -> Rc<Account> {
        self.accounts.entry(uid).or_insert_with(|| Account::new(Some(uid))).clone()
    }

    /// Forgets the account that a session had, if that was the last to have it.
    pub(super) fn forget(&mut self, account: &Rc<Account>) {
        if let Some(uid) = account.uid
            && Rc::strong_count(account) <= 2
        {
            self.accounts.remove(&uid);
        }
    }

    fn starve(&mut self, account: &Rc<Account>, slot: Slot) {
        match self.starved.iter_mut().find(|(known, _)| Rc::ptr_eq(known, account)) {
            Some((_, slots)) => _ = slots.insert(slot),
            None => self.starved.push((account.clone(), BTreeSet::from([slot]))),
        }
    }
}

/// How much of a filter its refusal repeats.
const FILTER_TOLD_BYTES_MAX: usize = 256;

impl Core {
    /// Whether the uid of a session may have so many bytes more.
    pub(super) fn check_share(&self, key: SessionKey, more: usize) -> Result<(), Refusal> {
        let Some(session) = self.sessions.get(&key) else { return Ok(()) };
        session.account.check(more, self.limits.memory_per_uid)
    }

    /// Whether there is memory for more of what this session sends: in the bus, and in its uid's share.
    pub(crate) fn has_room_for(&self, key: SessionKey) -> bool {
        self.has_room() && self.check_share(key, 1).is_ok()
    }

    /// Whether the uid of a session may have these filters, too; `before` stood there for the same subscription.
    pub(super) fn check_filters(&self, key: SessionKey, filters: &[Filter], before: Filters) -> Result<(), Refusal> {
        let Some(session) = self.sessions.get(&key) else { return Ok(()) };
        let permit = session.may_receive.is_volatile();
        let volatile = permit || filters.iter().any(is_volatile);
        // What stood there before may be counted to another uid, which had its owner's id.
        let all = session.account.filters.get();
        let others = Filters {
            all: all.all.saturating_sub(before.all),
            unindexed: all.unindexed.saturating_sub(before.unindexed),
        };
        let more = Filters::of(filters, volatile);
        let (wanted, max) = (others.plus(more), self.limits.filters_per_uid);
        if wanted.all as usize > max {
            let text = format!(
                "{} has {} filters, {} more would be beyond {max} (filters-per-uid); one filter with key in (...) may do \
                 what many do",
                session.account.whose(),
                others.all,
                more.all
            );
            return Err(beyond(Code::Quota, text, max as u64, wanted.all as u64));
        }
        let max = self.limits.unindexed_filters;
        if more.unindexed == 0 || wanted.unindexed as usize <= max {
            return Ok(());
        }
        let (others, wanted) = (others.unindexed, wanted.unindexed);
        let source = &session.source;
        let cure = if permit {
            format!("may-receive of {source} looks at id, timestamp, cause or hops, which no index answers")
        } else if let Some(filter) = filters.iter().find(|filter| is_volatile(filter)) {
            let filter = shortened(&filter.to_string(), FILTER_TOLD_BYTES_MAX);
            format!("{filter:?} looks at id, timestamp, cause or hops, which no index answers: leave that clause out")
        } else {
            let first = filters.iter().find(|filter| !is_indexed(filter)).map(ToString::to_string).unwrap_or_default();
            let filter = shortened(&first, FILTER_TOLD_BYTES_MAX);
            format!("{filter:?} needs a clause key=value or key in (...), such as type=chat.message, to be found by it")
        };
        let text = format!(
            "{others} filters of {} are looked at for every message, at most {max} are possible (unindexed-filters); {cure}",
            session.account.whose()
        );
        Err(beyond(Code::Quota, text, max as u64, wanted as u64))
    }

    /// A session came: the durable subscriptions of its source are counted to its uid.
    pub(super) fn adopt(&mut self, key: SessionKey) {
        let Some(session) = self.sessions.get(&key) else { return };
        let (source, account) = (session.source.clone(), session.account.clone());
        for slot in self.journal.slots_of(&source) {
            self.set_account(slot, &account);
        }
    }

    /// Counts a subscription, with all that it holds, to another account.
    pub(super) fn set_account(&mut self, slot: Slot, account: &Rc<Account>) {
        let Some(subscription) = self.subscriptions.get_mut(slot as usize) else { return };
        if Rc::ptr_eq(&subscription.account, account) {
            return;
        }
        let counted = subscription.counted();
        subscription.account.sub(counted);
        account.add(counted);
        let before = std::mem::replace(&mut subscription.account, account.clone());
        before.filters.set(before.filters.get().minus(subscription.counted_filters));
        account.filters.set(account.filters.get().plus(subscription.counted_filters));
        if let Some(durable) = subscription.durable.as_deref_mut() {
            durable.set_account(account.clone());
        }
    }

    /// Counts the filters of a subscription as it is filed now.
    pub(super) fn count_filters(&mut self, slot: Slot, filed: bool) {
        let subscription = &mut self.subscriptions[slot as usize];
        let now = if filed { Filters::of(&subscription.filters, subscription.volatile) } else { Filters::default() };
        let filters = &subscription.account.filters;
        filters.set(filters.get().minus(subscription.counted_filters).plus(now));
        subscription.counted_filters = now;
    }

    /// Whether so much more may be loaded for a durable subscription of this account.
    pub(super) fn may_load(&self, account: &Account, bytes: usize) -> bool {
        let max = self.limits.memory_per_uid;
        self.memory + self.owed + bytes <= self.limits.memory_bytes
            && account.used.get() + account.expected.get() + bytes <= max
    }

    /// A durable subscription waits until its owner's share has room for what is on disk.
    pub(super) fn starve(&mut self, slot: Slot) {
        let Some(subscription) = self.subscriptions.get(slot as usize) else { return };
        self.shares.starve(&subscription.account, slot);
    }

    /// Loads for those that waited for room, as far as there is some now.
    pub(super) fn feed(&mut self) {
        let page = PAGE_BYTES as usize;
        for (account, slots) in std::mem::take(&mut self.shares.starved) {
            let mut slots = slots.into_iter();
            while self.may_load(&account, page)
                && let Some(slot) = slots.next()
            {
                self.refill_starved(slot);
            }
            slots.for_each(|slot| self.shares.starve(&account, slot));
        }
    }

    pub(super) fn anybody_starves(&self) -> bool {
        !self.shares.starved.is_empty()
    }

    fn refill_starved(&mut self, slot: Slot) {
        // It may have ended meanwhile, and another have its place: then nothing is wanted, or what is wanted is right.
        if self.subscriptions.get(slot as usize).is_some_and(|subscription| subscription.durable.is_some()) {
            self.refill(slot);
        }
    }
}

#[cfg(test)]
mod check {
    //! All sums once more, from what there is.

    use std::collections::{BTreeMap, HashMap};

    use super::*;
    use crate::core::queue::{Entry, PLACE_BYTES};

    #[derive(Default)]
    struct Naive {
        accounts: HashMap<*const Account, (Rc<Account>, usize, Filters, usize)>,
    }

    impl Naive {
        fn at(&mut self, account: &Rc<Account>) -> &mut (Rc<Account>, usize, Filters, usize) {
            self.accounts.entry(Rc::as_ptr(account)).or_insert_with(|| (account.clone(), 0, Filters::default(), 0))
        }
    }

    impl Core {
        /// Fails when any account is not what a look at everything says.
        pub(crate) fn check_accounts(&self) {
            let mut naive = Naive::default();
            let (mut memory, mut owed) = (0, 0);
            let mut messages: HashMap<*const u8, usize> = HashMap::new();
            for account in self.shares.accounts.values() {
                naive.at(account);
            }
            for session in self.sessions.values() {
                owed += session.counted();
                naive.at(&session.account).1 += session.counted();
            }
            for request in self.requests.values() {
                owed += request.size();
                if let Some(session) = self.sessions.get(&request.session) {
                    naive.at(&session.account).1 += request.size();
                }
            }
            for (_, subscription) in &self.subscriptions {
                memory += subscription.own_memory;
                let account = naive.at(&subscription.account);
                account.1 += subscription.own_memory;
                account.2 = account.2.plus(subscription.counted_filters);
                for entry in subscription.queue.entries() {
                    if let Entry::Message(waiting) = entry {
                        memory += PLACE_BYTES;
                        account.1 += PLACE_BYTES + waiting.message.size();
                        messages.insert(waiting.message.address(), waiting.message.size());
                    }
                }
                if let Some(durable) = subscription.durable.as_deref() {
                    let (held, expected) = durable.naive_memory();
                    memory += held;
                    account.1 += held;
                    account.3 += expected;
                    assert!(Rc::ptr_eq(&subscription.account, durable.account()), "two accounts of one subscription");
                }
            }
            memory += messages.values().sum::<usize>();
            for (account, bytes) in self.journal.naive_pending() {
                memory += bytes;
                if let Some(account) = account {
                    naive.at(&account).1 += bytes;
                }
            }
            assert_eq!((self.memory, self.owed), (memory, owed), "(memory, owed)");
            for (account, used, filters, expected) in naive.accounts.values() {
                let counted = (account.used.get(), account.filters.get(), account.expected.get());
                assert_eq!(counted, (*used, *filters, *expected), "(bytes, filters, expected) of {account:?}");
            }
            self.check_owners();
        }

        fn check_owners(&self) {
            let mut owners: BTreeMap<&str, (u64, u64)> = BTreeMap::new();
            for (_, subscription) in &self.subscriptions {
                let Some(durable) = subscription.durable.as_deref() else { continue };
                let owner = owners.entry(&durable.owner).or_default();
                owner.0 += durable.bytes;
                owner.1 += durable.naive_dying();
            }
            let total = owners.values().map(|(bytes, _)| bytes).sum::<u64>();
            self.journal.check_owners(&owners, total);
        }
    }
}
