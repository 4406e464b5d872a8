//! What a publisher has sent already: a retry is recognised by (source, epoch, sequence), so that a publisher may send again
//! whatever was not confirmed.
//!
//! Within an epoch sequences rise. Of each epoch the highest one taken is kept, and below it the few that were refused: a
//! refused message may come again under its number even when later ones were taken. What waits for the disk counts as
//! taken when it is there.

use std::collections::VecDeque;
use std::rc::Rc;

use hashbrown::HashMap;

use crate::core::storage::PublisherRow;

/// Epochs that are remembered of one source; a log follower has one for each file.
const EPOCHS_MAX: usize = 1024;

/// Epochs that are remembered in all.
const ROWS_MAX: usize = 16_384;

/// Holes below the highest sequence. Beyond it the two oldest become one with all between them: then something may come
/// twice, which is the lesser evil.
const HOLES_MAX: usize = 64;

/// All publishers that number their messages.
#[derive(Debug, Default)]
pub(crate) struct Repeats {
    rows: HashMap<(Rc<str>, u64), Row>,
    /// How many epochs each source has.
    of_source: HashMap<Rc<str>, usize>,
    used: u64,
}

#[derive(Debug, Default)]
struct Row {
    taken: Taken,
    /// Publishes whose end is not known yet, in order, and whether they wait for the disk.
    open: VecDeque<(u64, u64, Option<Outcome>)>,
    used: u64,
    /// Whether the row on disk, if any, differs.
    dirty: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Outcome {
    Taken,
    Refused,
}

/// Which sequences of an epoch were taken.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Taken {
    high: u64,
    /// The message id of the highest; 0 when it is not known.
    last_id: u64,
    /// Below `high`, not taken; ascending, inclusive. The first is what lies below the first one that was taken.
    holes: Vec<(u64, u64)>,
    /// Above `high`, refused.
    refused: Option<(u64, u64)>,
}

/// What a sequence is to the bus.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Known {
    New,
    /// It was taken; under this id, if that is known.
    Taken(Option<u64>),
    /// It waits for the disk.
    Open,
}

impl Taken {
    /// Nothing was taken yet; no message has id 0.
    const fn is_new(&self) -> bool {
        self.last_id == 0 && self.high == 0
    }

    fn contains(&self, sequence: u64) -> bool {
        !self.is_new()
            && sequence <= self.high
            && !self.holes.iter().any(|(first, last)| (*first..=*last).contains(&sequence))
    }

    fn take(&mut self, sequence: u64, id: u64) {
        if self.is_new() {
            // What was refused before the first one was taken may come again, and nobody remembers it.
            if let Some(before) = sequence.checked_sub(1) {
                self.holes.push((0, before));
            }
            self.refused =
                self.refused.filter(|(_, last)| *last > sequence).map(|(first, last)| (first.max(sequence + 1), last));
            (self.high, self.last_id) = (sequence, id);
            return;
        }
        if sequence > self.high {
            match self.refused.take() {
                Some((first, last)) if first < sequence => {
                    self.dig(first, last.min(sequence - 1));
                    if last > sequence {
                        self.refused = Some((sequence + 1, last));
                    }
                }
                // A retry of the first one that was refused: the others still are.
                Some((first, last)) if last > sequence => self.refused = Some((first.max(sequence + 1), last)),
                _ => {}
            }
            (self.high, self.last_id) = (sequence, id);
            return;
        }
        let Some(at) = self.holes.iter().position(|(first, last)| (*first..=*last).contains(&sequence)) else { return };
        let (first, last) = self.holes.remove(at);
        if sequence < last {
            self.holes.insert(at, (sequence + 1, last));
        }
        if first < sequence {
            self.holes.insert(at, (first, sequence - 1));
        }
    }

    fn refuse(&mut self, sequence: u64) {
        if sequence > self.high || self.is_new() {
            let (first, last) = self.refused.unwrap_or((sequence, sequence));
            self.refused = Some((first.min(sequence), last.max(sequence)));
        }
    }

    fn dig(&mut self, first: u64, last: u64) {
        self.holes.push((first, last));
        if self.holes.len() > HOLES_MAX {
            let (_, end) = self.holes.remove(1);
            self.holes[0].1 = end;
        }
    }

    /// As it stands on disk: the highest, its id, then the holes, and above it what was refused.
    fn print(&self) -> String {
        let mut text = format!("{} {}", self.high, self.last_id);
        for (first, last) in self.holes.iter().chain(&self.refused) {
            text.push_str(&format!(" {first}-{last}"));
        }
        text
    }

    fn parse(text: &str) -> Option<Self> {
        let mut words = text.split(' ');
        let (high, last_id) = (words.next()?.parse().ok()?, words.next()?.parse().ok()?);
        let hole = |word: &str| {
            let (first, last) = word.split_once('-')?;
            Some((first.parse().ok()?, last.parse().ok()?))
        };
        let (holes, refused): (Vec<_>, Vec<_>) =
            words.map(hole).collect::<Option<Vec<(u64, u64)>>>()?.into_iter().partition(|(_, last)| *last < high);
        Some(Self { high, last_id, holes, refused: refused.first().copied() })
    }
}

impl Repeats {
    /// What the disk remembers.
    pub(crate) fn recover(rows: &[PublisherRow]) -> Self {
        let mut repeats = Self::default();
        for row in rows {
            let Some(taken) = Taken::parse(&row.state) else { continue };
            let source: Rc<str> = row.source.as_str().into();
            repeats.used = repeats.used.max(row.used);
            *repeats.of_source.entry(source.clone()).or_default() += 1;
            repeats.rows.insert((source, row.epoch), Row { taken, used: row.used, ..Row::default() });
        }
        repeats
    }

    pub(crate) fn look(&self, source: &Rc<str>, epoch: u64, sequence: u64) -> Known {
        let Some(row) = self.rows.get(&(source.clone(), epoch)) else { return Known::New };
        match row.open.iter().rev().find(|(open, ..)| *open == sequence) {
            Some((_, _, None)) => return Known::Open,
            Some((_, id, Some(Outcome::Taken))) => return Known::Taken(Some(*id)),
            _ => {}
        }
        if !row.taken.contains(sequence) {
            return Known::New;
        }
        let is_last = sequence == row.taken.high && row.taken.last_id != 0;
        Known::Taken(is_last.then_some(row.taken.last_id))
    }

    /// A publish was accepted; `waits` for the disk, or is done. Gives the rows that had to be forgotten for it.
    pub(crate) fn begin(
        &mut self,
        source: &Rc<str>,
        epoch: u64,
        sequence: u64,
        id: u64,
        waits: bool,
    ) -> Option<(Rc<str>, u64)> {
        let forgotten = self.make_room(source, epoch);
        self.used += 1;
        let used = self.used;
        let row = self.row(source, epoch);
        row.used = used;
        row.open.push_back((sequence, id, (!waits).then_some(Outcome::Taken)));
        row.settle();
        forgotten
    }

    /// A publish was refused before it waited for anything.
    pub(crate) fn refuse(&mut self, source: &Rc<str>, epoch: u64, sequence: u64) {
        let Some(row) = self.rows.get_mut(&(source.clone(), epoch)) else { return };
        row.open.push_back((sequence, 0, Some(Outcome::Refused)));
        row.settle();
    }

    /// What waited for the disk is there, or is not.
    pub(crate) fn end(&mut self, source: &Rc<str>, epoch: u64, sequence: u64, taken: bool) {
        let Some(row) = self.rows.get_mut(&(source.clone(), epoch)) else { return };
        let outcome = if taken { Outcome::Taken } else { Outcome::Refused };
        if let Some((.., open)) = row.open.iter_mut().find(|(open, _, end)| *open == sequence && end.is_none()) {
            *open = Some(outcome);
        }
        row.settle();
    }

    /// The rows that differ from those on disk, as they will be when all that waits has come to the disk.
    pub(crate) fn take_dirty(&mut self) -> Vec<PublisherRow> {
        let dirty = self.rows.iter_mut().filter(|(_, row)| row.dirty);
        let mut rows: Vec<PublisherRow> = dirty
            .map(|((source, epoch), row)| {
                row.dirty = false;
                let mut taken = row.taken.clone();
                for (sequence, id, outcome) in &row.open {
                    match outcome {
                        Some(Outcome::Refused) => taken.refuse(*sequence),
                        _ => taken.take(*sequence, *id),
                    }
                }
                PublisherRow { source: source.to_string(), epoch: *epoch, state: taken.print(), used: row.used }
            })
            .collect();
        rows.sort_unstable_by_key(|row| row.used);
        rows
    }

    /// All rows, for a clean restart.
    pub(crate) fn rows(&self) -> Vec<PublisherRow> {
        let row = |((source, epoch), row): (&(Rc<str>, u64), &Row)| PublisherRow {
            source: source.to_string(),
            epoch: *epoch,
            state: row.taken.print(),
            used: row.used,
        };
        self.rows.iter().map(row).collect()
    }

    /// Those of which the disk knows less.
    pub(crate) fn dirty(&self) -> Vec<(String, u64)> {
        let dirty = self.rows.iter().filter(|(_, row)| row.dirty);
        dirty.map(|((source, epoch), _)| (source.to_string(), *epoch)).collect()
    }

    /// The same rows are to be written again: their batch came to nothing.
    pub(crate) fn mark_dirty(&mut self, source: &str, epoch: u64) {
        if let Some(row) = self.rows.get_mut(&(Rc::from(source), epoch)) {
            row.dirty = true;
        }
    }

    fn row(&mut self, source: &Rc<str>, epoch: u64) -> &mut Row {
        let of_source = &mut self.of_source;
        self.rows.entry((source.clone(), epoch)).or_insert_with(|| {
            *of_source.entry(source.clone()).or_default() += 1;
            Row::default()
        })
    }

    /// Forgets the longest unused row of a source that has too many, or of all.
    fn make_room(&mut self, source: &Rc<str>, epoch: u64) -> Option<(Rc<str>, u64)> {
        if self.rows.contains_key(&(source.clone(), epoch)) {
            return None;
        }
        let crowded = self.of_source.get(source).is_some_and(|count| *count >= EPOCHS_MAX);
        if !crowded && self.rows.len() < ROWS_MAX {
            return None;
        }
        let candidates =
            self.rows.iter().filter(|((owner, _), row)| row.open.is_empty() && (!crowded || owner == source));
        let oldest = candidates.min_by_key(|(_, row)| row.used).map(|(key, _)| key.clone())?;
        self.rows.remove(&oldest);
        if let Some(count) = self.of_source.get_mut(&oldest.0) {
            *count -= 1;
            if *count == 0 {
                self.of_source.remove(&oldest.0);
            }
        }
        Some(oldest)
    }
}

impl Row {
    /// Applies the ends that are known, in the order of the publishes.
    fn settle(&mut self) {
        while let Some((sequence, id, Some(outcome))) = self.open.front().copied() {
            self.open.pop_front();
            match outcome {
                Outcome::Taken => self.taken.take(sequence, id),
                Outcome::Refused => self.taken.refuse(sequence),
            }
        }
        self.dirty = true;
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    fn source() -> Rc<str> {
        "log".into()
    }

    #[test]
    fn what_was_taken_is_known_and_what_was_refused_may_come_again() {
        let mut repeats = Repeats::default();
        assert_eq!(repeats.look(&source(), 7, 1), Known::New);
        repeats.begin(&source(), 7, 10, 100, false);
        assert_eq!(repeats.look(&source(), 7, 10), Known::Taken(Some(100)));
        repeats.refuse(&source(), 7, 20);
        repeats.begin(&source(), 7, 30, 101, false);
        assert_eq!(repeats.look(&source(), 7, 20), Known::New);
        assert_eq!(repeats.look(&source(), 7, 10), Known::Taken(None));
        repeats.begin(&source(), 7, 20, 102, false);
        assert_eq!(repeats.look(&source(), 7, 20), Known::Taken(None));
        // Another epoch, and another source, know nothing of it.
        assert_eq!(repeats.look(&source(), 8, 10), Known::New);
        assert_eq!(repeats.look(&"irc".into(), 7, 10), Known::New);
    }

    #[test]
    fn the_first_of_an_epoch_may_be_refused_and_come_again() {
        let mut repeats = Repeats::default();
        for first in [0, 1, 7] {
            let epoch = first + 1;
            repeats.refuse(&source(), epoch, first);
            repeats.begin(&source(), epoch, first + 10, 100, false);
            assert_eq!(repeats.look(&source(), epoch, first), Known::New, "{first}");
            repeats.begin(&source(), epoch, first, 101, false);
            assert_eq!(repeats.look(&source(), epoch, first), Known::Taken(None), "{first}");
        }
    }

    #[test]
    fn what_waits_for_the_disk_is_open_until_its_end() {
        let mut repeats = Repeats::default();
        repeats.begin(&source(), 7, 1, 100, true);
        repeats.begin(&source(), 7, 2, 101, false);
        assert_eq!(repeats.look(&source(), 7, 1), Known::Open);
        assert_eq!(repeats.look(&source(), 7, 2), Known::Taken(Some(101)));
        let rows = repeats.take_dirty();
        assert_eq!(rows[0].state, "2 101 0-0");
        repeats.end(&source(), 7, 1, false);
        assert_eq!(repeats.look(&source(), 7, 1), Known::New);
        assert_eq!(repeats.take_dirty()[0].state, "2 101 0-1");
        let again =
            Repeats::recover(&[PublisherRow { source: "log".into(), epoch: 7, state: "2 101 0-1".into(), used: 3 }]);
        assert_eq!(again.look(&source(), 7, 1), Known::New);
        assert_eq!(again.look(&source(), 7, 2), Known::Taken(Some(101)));
    }

    #[test]
    fn the_longest_unused_epoch_is_forgotten() {
        let mut repeats = Repeats::default();
        for epoch in 1..=EPOCHS_MAX as u64 {
            assert_eq!(repeats.begin(&source(), epoch, 1, epoch, false), None);
        }
        repeats.begin(&source(), 1, 2, 1, false);
        let forgotten = repeats.begin(&source(), 5000, 1, 1, false);
        assert_eq!(forgotten, Some((source(), 2)));
        assert_eq!(repeats.look(&source(), 2, 1), Known::New);
        assert_eq!(repeats.look(&source(), 1, 2), Known::Taken(Some(1)));
    }

    proptest! {
        /// Against a set: as a publisher behaves, rising or repeating what was refused.
        #[test]
        fn the_same_as_a_set(steps in proptest::collection::vec((any::<bool>(), 1_u64..5, any::<u8>()), 1..60)) {
            let (mut taken, mut set, mut refused, mut next) = (Taken::default(), BTreeSet::new(), BTreeSet::new(), 0);
            for (accept, step, pick) in steps {
                let retry = refused.iter().copied().nth(pick as usize % 8).filter(|_| pick % 3 == 0);
                let sequence = retry.unwrap_or_else(|| { next += step; next });
                if accept {
                    taken.take(sequence, 1);
                    set.insert(sequence);
                    refused.remove(&sequence);
                } else {
                    taken.refuse(sequence);
                    refused.insert(sequence);
                }
                for known in &set {
                    prop_assert!(taken.contains(*known), "{known} of {taken:?}");
                }
                for known in &refused {
                    prop_assert!(!taken.contains(*known), "{known} of {taken:?}");
                }
                prop_assert_eq!(Taken::parse(&taken.print()).unwrap(), taken.clone());
            }
        }
    }
}
