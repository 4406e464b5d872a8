//! A clean restart of the bus, in which every session goes on: nobody may notice, so the model does not change.

use super::world::World;
use crate::core::{Core, Event};
use crate::handover::{decode, encode};

impl World {
    /// As the shell does: what waits for the disk is committed, then the core is saved, written, read and restored.
    pub(super) fn hand_over(&mut self) {
        if self.disk.failed {
            return;
        }
        self.note(|| "hand over".into());
        self.core.hurry();
        self.give_batch();
        for _ in 0..1000 {
            if !self.core.is_committing() {
                break;
            }
            self.work();
            self.answer();
            // No time passes here, which what could wait would wait for.
            self.core.hurry();
            self.give_batch();
        }
        assert!(!self.core.is_committing(), "the store never comes to rest");
        if self.disk.failed {
            return;
        }
        let lasting = self.core.session_keys();
        for session in lasting.iter().copied().filter(|session| !self.core.is_lasting(*session)).collect::<Vec<_>>() {
            self.step(Event::Leave { session }, false);
        }
        self.settle_accounts();
        let ids = self.core.next_unused_id() + self.random.u64(0..1000)..1 << 53;
        let before = (self.core.memory, self.core.status(None).unwrap());
        let (saved, _) = decode(encode(&self.core.save(self.now), &[]).unwrap()).unwrap();
        let (mut core, _) = Core::restore(self.now, self.limits(), Vec::new(), ids, saved).unwrap();
        core.direct_bytes = self.core.direct_bytes;
        self.core = core;
        self.disk.forget_jobs();
        let recovered = self.disk.store.reopen(self.now.wall);
        self.core.recover(self.now, recovered, &mut self.actions);
        let limits = self.limits();
        for kept in self.kept.values_mut() {
            kept.take_limits(&limits);
        }
        // Every task looks for output when it begins.
        self.woken.extend(self.clients.iter().filter_map(|client| client.session));
        self.carry_out();
        self.give_batch();
        // (What was loaded and not delivered is loaded again.)
        assert!(self.core.memory <= before.0, "{} bytes, {} before", self.core.memory, before.0);
        assert_eq!(self.core.status(None).unwrap(), before.1);
        self.core.check_accounts();
    }

    /// What the shell was given to write is written, as far as the core knows.
    fn settle_accounts(&mut self) {
        for session in self.core.session_keys() {
            self.core.count_unwritten(session, 0);
        }
    }
}
