//! Files that are known and not open, by inode and by path. There may be ten thousand, and each look asks for those of
//! every path: so nothing here goes through all of them for one.

use std::collections::{HashMap, HashSet};
use std::path::{Path, PathBuf};
use std::time::Instant;

use super::state::Entry;
use super::tail::{Key, Looks};

/// A file that is known.
pub(super) struct Closed {
    pub(super) entry: Entry,
    /// As it looked when it was known to hold what the entry says.
    pub(super) looked: Option<Looks>,
    /// Another file has its inode, or it was cut: what it held is somewhere else.
    pub(super) replaced: bool,
    /// Since when it was not seen.
    pub(super) missing: Option<Instant>,
}

impl Closed {
    pub(super) fn new(entry: Entry, looked: Option<Looks>) -> Self {
        Self { entry, looked, replaced: false, missing: None }
    }
}

/// Earlier generations, copies, and all files before the first look.
#[derive(Default)]
pub(super) struct ClosedFiles {
    files: HashMap<Key, Closed>,
    paths: HashMap<PathBuf, HashSet<Key>>,
}

impl ClosedFiles {
    /// In the place of another one of the same inode.
    pub(super) fn insert(&mut self, closed: Closed) {
        let key = closed.entry.key();
        self.remove(&key);
        self.paths.entry(closed.entry.path.clone()).or_default().insert(key);
        self.files.insert(key, closed);
    }

    pub(super) fn remove(&mut self, key: &Key) -> Option<Closed> {
        let closed = self.files.remove(key)?;
        if let Some(keys) = self.paths.get_mut(&closed.entry.path) {
            keys.remove(key);
            if keys.is_empty() {
                self.paths.remove(&closed.entry.path);
            }
        }
        Some(closed)
    }

    pub(super) fn get(&self, key: &Key) -> Option<&Closed> {
        self.files.get(key)
    }

    /// How a file looked has changed; its path and inode are those of its entry, and stay.
    pub(super) fn get_mut(&mut self, key: &Key) -> Option<&mut Closed> {
        self.files.get_mut(key)
    }

    pub(super) fn of(&self, path: &Path) -> impl Iterator<Item = &Closed> {
        self.paths.get(path).into_iter().flatten().filter_map(|key| self.files.get(key))
    }

    pub(super) fn count_of(&self, path: &Path) -> usize {
        self.paths.get(path).map_or(0, HashSet::len)
    }

    pub(super) fn paths(&self) -> impl Iterator<Item = &PathBuf> {
        self.paths.keys()
    }

    pub(super) fn entries(&self) -> impl Iterator<Item = &Entry> {
        self.files.values().map(|closed| &closed.entry)
    }

    /// Forgets those that are not kept.
    pub(super) fn retain(&mut self, mut keeps: impl FnMut(&Key, &mut Closed) -> bool) {
        let gone: Vec<Key> =
            self.files.iter_mut().filter_map(|(key, closed)| (!keeps(key, closed)).then_some(*key)).collect();
        for key in gone {
            self.remove(&key);
        }
    }
}
