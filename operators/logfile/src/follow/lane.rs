//! The generations of one path: which ones are read, in which order, and which one has the path now.

use std::collections::HashSet;
use std::io::{self, ErrorKind};
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::time::{Duration, Instant};

use super::closed::Closed;
use super::print::{self, Digested};
use super::scan::{Generations, Present};
use super::state::Entry;
use super::tail::{Key, Tail, key, looks, nowhere};
use super::{Follower, OPEN_MAX};
use crate::split::Position;

/// Earlier generations of a path that are looked at.
const EARLIER_MAX: usize = 64;
/// Those that are remembered: more, because which ones are the youngest changes when a look misses some.
const CLOSED_MAX: usize = 256;
/// A file that is not seen for so long is gone.
const MISSING_MAX: Duration = Duration::from_secs(30);

/// Clocks of file systems are a little behind.
const CLOCK_SLACK: u64 = 2;

impl Follower {
    pub(super) fn look_at(&mut self, path: &Path, generations: Generations, seen: &mut HashSet<Key>, now: Instant) {
        let Generations { current, mut earlier, blind } = generations;
        seen.extend(earlier.iter().chain(&current).map(|present| key(&present.metadata)));
        // A file that is renamed while the directory is read may be seen under both names, or under none.
        let mut names: HashSet<Key> = current.iter().map(|present| key(&present.metadata)).collect();
        earlier.retain(|present| names.insert(key(&present.metadata)));
        self.pass_over(&mut earlier);
        if blind {
            seen.extend(self.closed.of(path).map(|closed| closed.entry.key()));
        }
        let numbers = self.lanes.get(path).map(|lane| lane.tails.clone()).unwrap_or_default();
        for number in numbers {
            self.check(number, &earlier, now);
        }
        // Those that are known, under whatever name.
        earlier.retain(|present| self.is_copy(present) || !self.resume(path, present, false, now));
        let mut current = current;
        if current.as_ref().is_some_and(|present| self.resume(path, present, true, now)) {
            current = None;
        } else if !blind {
            self.rotate(path, None, now);
        }
        self.find_orphans(path, &mut earlier, seen, now);
        // Before what is unknown beside it: that may be a copy of it.
        if let Some(present) = current {
            self.meet(path, &present, true, now);
        }
        for present in earlier {
            if !(self.is_copy(&present) && self.resume(path, &present, false, now)) {
                self.meet_earlier(path, &present, now);
            }
        }
    }

    /// Of many earlier generations the youngest are looked at, and of the rest those that have something new.
    fn pass_over(&mut self, earlier: &mut Vec<Present>) {
        // Those that are older than so many others have had their time, unless they could be taken for new ones.
        for present in &earlier[..earlier.len().saturating_sub(CLOSED_MAX)] {
            if !self.is_new(present) {
                self.closed.remove(&key(&present.metadata));
            }
        }
        let mut old = earlier.len().saturating_sub(EARLIER_MAX);
        if old == 0 {
            return;
        }
        let open: HashSet<Key> = self.tails.values().filter_map(|tail| tail.key).collect();
        earlier.retain(|present| {
            old = old.saturating_sub(1);
            let key = key(&present.metadata);
            old == 0
                || match self.closed.get(&key) {
                    Some(closed) => !closed.entry.copy && closed.entry.position.offset < present.metadata.len(),
                    None => !open.contains(&key) && self.is_new(present),
                }
        });
    }

    /// What was changed before the last look was there then, and is not of interest.
    pub(super) fn is_new(&self, present: &Present) -> bool {
        let changed_at = u64::try_from(present.metadata.mtime()).unwrap_or(0);
        self.looked_at > 0 && !present.is_first && changed_at + CLOCK_SLACK >= self.looked_at
    }

    pub(super) fn add(&mut self, mut tail: Tail, at_path: bool, now: Instant) {
        // What another file of this inode held may still be seen in a copy.
        if let Some(mut closed) = tail.key.and_then(|key| self.closed.remove(&key))
            && closed.entry.epoch != tail.epoch
            && !closed.entry.copy
        {
            (closed.entry.device, closed.entry.inode) = nowhere(closed.entry.epoch);
            (closed.looked, closed.replaced) = (None, true);
            self.closed.insert(closed);
        }
        if !at_path {
            tail.rotated_at = Some(now);
        }
        self.last_tail = self.last_tail.wrapping_add(1);
        let (number, path) = (self.last_tail, tail.path.clone());
        self.tails.insert(number, tail);
        let lane = self.lanes.entry(path.clone()).or_default();
        match lane.current.and_then(|current| lane.tails.iter().position(|tail| *tail == current)) {
            // An earlier generation is read before the present one.
            Some(at) if !at_path => lane.tails.insert(at, number),
            _ => lane.tails.push(number),
        }
        if at_path {
            self.rotate(&path, Some(number), now);
        }
    }

    /// The path belongs to this file now.
    pub(super) fn rotate(&mut self, path: &Path, current: Option<u32>, now: Instant) {
        let Some(lane) = self.lanes.get_mut(path) else { return };
        let old = std::mem::replace(&mut lane.current, current);
        if let Some(tail) = old.filter(|old| Some(*old) != current).and_then(|old| self.tails.get_mut(&old)) {
            tail.rotated_at.get_or_insert(now);
            tail.hot = true;
        }
    }

    /// A file that is there and not read.
    pub(super) fn remember(&mut self, path: &Path, present: &Present, copy: bool) {
        if self.closed.count_of(path) >= CLOSED_MAX && !self.is_new(present) {
            return;
        }
        let (device, inode) = key(&present.metadata);
        let head = present.open().and_then(|file| print::head(&file)).unwrap_or_default();
        let entry = Entry {
            path: path.to_owned(),
            device,
            inode,
            digested: Digested::new(&head, &[]),
            epoch: crate::outbox::new_epoch(),
            position: Position { offset: present.metadata.len(), part: 0 },
            cuts: Vec::new(),
            copy,
        };
        self.closed.insert(Closed::new(entry, Some(looks(&present.metadata))));
    }

    /// Whether no more files can be opened.
    pub(super) fn is_full(&mut self) -> bool {
        let is_full = self.tails.len() >= OPEN_MAX;
        let text = format!("{OPEN_MAX} files are open: the rest is not followed");
        if is_full && !self.condition.trouble.contains(&text) {
            self.condition.trouble.push(text);
        }
        is_full
    }

    /// A file that cannot be opened: another name is no trouble, the next look finds it.
    pub(super) fn deny(&mut self, path: &Path, error: &io::Error) {
        match error.kind() {
            ErrorKind::NotFound => self.unsettled = true,
            _ => self.condition.denied.push((path.to_owned(), error.to_string())),
        }
    }

    /// Files that are gone for some time are forgotten; those of a directory that is away just now are not.
    pub(super) fn forget(&mut self, seen: &HashSet<Key>, now: Instant) {
        self.closed.retain(|key, closed| {
            let is_away = || closed.entry.path.parent().is_none_or(|directory| std::fs::read_dir(directory).is_err());
            if seen.contains(key) || is_away() {
                closed.missing = None;
                return true;
            }
            now < *closed.missing.get_or_insert(now) + MISSING_MAX
        });
        self.unclear.retain(|key, _| seen.contains(key));
    }
}
