//! What a durable subscription takes: of the memory, which counts to the uid of its owner, and of the disk, which counts to
//! the owner itself.

use std::cell::Cell;
use std::rc::Rc;

use super::load::PAGE_BYTES;
use super::{Durable, Journal};
use crate::core::share::Account;

/// What one owner has on disk in all its durable subscriptions.
#[derive(Debug, Default)]
pub(super) struct OnDisk {
    bytes: Cell<u64>,
    /// How much of it is asked to go in batches that are not committed.
    dying: Cell<u64>,
}

impl OnDisk {
    pub(super) const fn bytes(&self) -> u64 {
        self.bytes.get()
    }

    pub(super) const fn dying(&self) -> u64 {
        self.dying.get()
    }

    /// How much it has beyond a bound, without what is about to go.
    pub(super) const fn beyond(&self, max: u64) -> u64 {
        self.bytes.get().saturating_sub(self.dying.get()).saturating_sub(max)
    }
}

impl Durable {
    pub(in crate::core) const fn account(&self) -> &Rc<Account> {
        &self.account
    }

    /// Another account for what it holds in memory, which the caller has moved there.
    pub(in crate::core) fn set_account(&mut self, account: Rc<Account>) {
        if self.loading {
            self.account.unexpect(PAGE_BYTES as usize);
            account.expect(PAGE_BYTES as usize);
        }
        self.account = account;
    }

    /// Counts what it has in memory from now on.
    pub(super) fn hold(&self, memory: &mut usize, bytes: u64) {
        *memory += bytes as usize;
        self.account.add(bytes as usize);
    }

    pub(super) fn release(&self, memory: &mut usize, bytes: u64) {
        *memory -= bytes as usize;
        self.account.sub(bytes as usize);
    }

    /// While a page is under way, room is kept for it.
    pub(super) fn set_loading(&mut self, on: bool) {
        if on && !self.loading {
            self.account.expect(PAGE_BYTES as usize);
        } else if !on && self.loading {
            self.account.unexpect(PAGE_BYTES as usize);
        }
        self.loading = on;
    }

    /// Counts what is on disk, or on its way there.
    pub(super) fn grow(&mut self, store_bytes: &mut u64, bytes: u64) {
        self.bytes += bytes;
        *store_bytes += bytes;
        self.on_disk.bytes.set(self.on_disk.bytes.get() + bytes);
    }

    pub(super) fn shrink(&mut self, store_bytes: &mut u64, bytes: u64) {
        self.bytes -= bytes;
        *store_bytes -= bytes;
        self.on_disk.bytes.set(self.on_disk.bytes.get() - bytes);
    }

    /// The store was asked to free this much.
    pub(super) fn ask_to_die(&mut self, messages: u64, bytes: u64) {
        self.dying.0 += messages;
        self.dying.1 += bytes;
        self.on_disk.dying.set(self.on_disk.dying.get() + bytes);
    }

    /// The store did, or did not.
    pub(super) fn has_died(&mut self, messages: u64, bytes: u64) {
        self.dying.0 -= messages;
        self.dying.1 -= bytes;
        self.on_disk.dying.set(self.on_disk.dying.get() - bytes);
    }
}

impl Journal {
    pub(super) fn count_owner(&mut self, durable: &mut Durable) {
        durable.on_disk = self.owners.entry(durable.owner.clone()).or_default().clone();
        let bytes = std::mem::take(&mut durable.bytes);
        durable.grow(&mut self.store_bytes, bytes);
    }

    pub(super) fn uncount_owner(&mut self, durable: &mut Durable) {
        durable.shrink(&mut self.store_bytes, durable.bytes);
        durable.has_died(durable.dying.0, durable.dying.1);
        durable.on_disk = Rc::default();
        if self.owners.get(&durable.owner).is_some_and(|owner| Rc::strong_count(owner) == 1) {
            self.owners.remove(&durable.owner);
        }
    }
}

#[cfg(test)]
mod check {
    use std::collections::BTreeMap;

    use super::*;

    impl Durable {
        /// (held, expected from the store)
        pub(in crate::core) fn naive_memory(&self) -> (usize, usize) {
            let flying = self.in_flight.values().map(|flight| flight.held.record.size());
            let returned = self.returned.values().map(|(held, _)| held.record.size());
            let head = self.head.iter().map(|held| held.record.size());
            let held: u64 = flying.chain(returned).chain(head).sum();
            (held as usize, if self.loading { PAGE_BYTES as usize } else { 0 })
        }

        pub(in crate::core) const fn naive_dying(&self) -> u64 {
            self.dying.1
        }
    }

    impl Journal {
        /// Fails unless every owner has just these bytes on disk, and so many of them about to go.
        pub(in crate::core) fn check_owners(&self, owners: &BTreeMap<&str, (u64, u64)>, total: u64) {
            assert_eq!(self.store_bytes, total, "bytes of the store");
            let counted: BTreeMap<&str, (u64, u64)> = self
                .owners
                .iter()
                .map(|(owner, on_disk)| (&**owner, (on_disk.bytes.get(), on_disk.dying.get())))
                .collect();
            assert_eq!(&counted, owners, "(bytes, about to go) of every owner of durable subscriptions");
        }
    }
}
