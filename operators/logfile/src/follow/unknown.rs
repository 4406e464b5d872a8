//! Files that are not known: one that appeared is read from its beginning, also when it came and went between two looks; a
//! copy of a file that is known is not read.

use std::fs::File;
use std::path::Path;
use std::time::{Duration, Instant};

use super::Follower;
use super::print::{Head, Likeness};
use super::scan::Present;
use super::tail::{Tail, key};

/// A file that began like another one and did not become a copy of it within this is a file of its own.
const UNCLEAR_MAX: Duration = Duration::from_secs(2);

impl Follower {
    /// An earlier generation that is not known.
    pub(super) fn meet_earlier(&mut self, path: &Path, present: &Present, now: Instant) {
        let key = key(&present.metadata);
        if !self.is_new(present) {
            return self.remember(path, present, false);
        }
        let file = match present.open() {
            Ok(file) => file,
            Err(error) => return self.deny(&present.path, &error),
        };
        let size = present.metadata.len();
        if size == 0 {
            // A copy that is being made, maybe; and nothing to read.
            return;
        }
        match self.likeness(path, &file, size) {
            // One that ends before our place may still be in the making; it becomes nothing but a copy.
            Some(Likeness::Whole | Likeness::Shorter) => {
                self.unclear.remove(&key);
                self.remember(path, present, true);
            }
            Some(Likeness::Alike) => {
                let (since, known) = *self.unclear.entry(key).or_insert((now, size));
                if known != size {
                    self.unclear.insert(key, (now, size));
                } else if now >= since + UNCLEAR_MAX {
                    self.unclear.remove(&key);
                    self.meet(path, present, false, now);
                }
            }
            Some(Likeness::Other) => {
                self.unclear.remove(&key);
                self.meet(path, present, false, now);
            }
            None => self.unsettled = true,
        }
    }

    /// What a file has to do with those that are known in this lane; none when one of them was cut just now.
    fn likeness(&mut self, path: &Path, file: &File, size: u64) -> Option<Likeness> {
        let lane = self.lanes.get(path).map(|lane| lane.tails.clone()).unwrap_or_default();
        let mut most = Likeness::Other;
        for number in lane {
            let Some(tail) = self.tails.get_mut(&number) else { continue };
            most = most.max(tail.likeness(file, size).unwrap_or(Some(Likeness::Other))?);
        }
        let Ok(mut head) = Head::of(file) else { return Some(most) };
        let closed = self.closed.of(path).filter(|closed| !closed.entry.copy);
        let alike = closed.filter(|closed| head.is_of(&closed.entry.digested));
        Some(alike.map(|closed| closed.entry.likeness(file, size).unwrap_or(Likeness::Other)).fold(most, Ord::max))
    }

    /// A file that is not known: it is followed.
    pub(super) fn meet(&mut self, path: &Path, present: &Present, at_path: bool, now: Instant) {
        let from_end = present.is_first;
        if self.is_full() {
            if from_end {
                self.remember(path, present, false);
            }
            return;
        }
        let adopted = present.open().and_then(|file| {
            Tail::adopt(path.to_owned(), file, from_end, crate::outbox::new_epoch(), self.config.rules.clone(), now)
        });
        match adopted {
            Ok(tail) => {
                self.add(tail, at_path, now);
                let how = if from_end { "end" } else { "beginning" };
                tracing::info!("{}: followed from its {how}", present.path.display());
            }
            Err(error) => {
                self.deny(&present.path, &error);
                if from_end {
                    // It was there: when it can be read some day, what is in it now is still not new.
                    self.remember(path, present, false);
                }
            }
        }
    }
}
