//! A live subscription as the model sees it: what it should get, and what it got.

use std::collections::VecDeque;

use libeevee::wire::{Deliver, GapNotice};

#[derive(Debug)]
pub(super) struct Live {
    pub(super) filters: Vec<usize>,
    /// Matched and permitted, not seen yet.
    pub(super) expected: VecDeque<u64>,
    pub(super) last_seen: u64,
    /// Told in gaps since the last delivery.
    pub(super) lost: u64,
    pub(super) window: u64,
}

impl Live {
    pub(super) fn deliver(&mut self, deliver: &Deliver) {
        assert!(self.window > 0, "a delivery beyond the window");
        self.window -= 1;
        assert_eq!(deliver.attempt, 1, "a live message comes once");
        let skipped = self.expected.iter().take_while(|expected| **expected < deliver.id).count();
        assert_eq!(skipped as u64, self.lost, "before {} were told as lost", deliver.id);
        self.expected.drain(..skipped);
        assert_eq!(self.expected.pop_front(), Some(deliver.id), "not for this subscription");
        (self.lost, self.last_seen) = (0, deliver.id);
    }

    pub(super) fn gap(&mut self, gap: &GapNotice) {
        assert!(self.last_seen < gap.first && gap.first <= gap.last, "{gap:?}");
        for end in [gap.first, gap.last] {
            assert!(self.expected.contains(&end), "{gap:?} tells of a message that was not for it");
        }
        self.lost += gap.count.expect("nothing crashed, so that the count is known");
    }

    /// Everything was read: what was not delivered was told.
    pub(super) fn end(&self) {
        assert_eq!(self.expected.len() as u64, self.lost, "lost in silence");
    }
}
