//! What a publisher has sent already: a retry is recognised by (source, epoch, sequence), so that a publisher may send again
//! whatever was not confirmed.
//!
//! Within an epoch sequences rise. Of each epoch the highest one taken is kept, and below it the few that were refused: a
//! refused message may come again under its number even when later ones were taken. What waits for the disk counts as
//! taken when it is there.

mod taken;
#[cfg(test)]
mod tests;

use std::collections::VecDeque;
use std::rc::Rc;

use hashbrown::HashMap;

use self::taken::Taken;
use crate::core::storage::PublisherRow;

/// Epochs that are remembered of one source; a log follower has one for each file.
const EPOCHS_MAX: usize = 1024;

/// Epochs that are remembered in all.
const ROWS_MAX: usize = 16_384;

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

/// What a sequence is to the bus.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Known {
    New,
    /// It was taken; under this id, if that is known.
    Taken(Option<u64>),
    /// It waits for the disk.
    Open,
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
