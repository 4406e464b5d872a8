//! Follows files: finds them, reads what they get, and knows over restarts how far each was published.
//!
//! It does all its work in [`Follower::step`], blocking, in a thread of its own; a test calls it by itself. What it reads
//! goes to a [`Sink`] as long as that has room, and the place up to which a file is done moves only with
//! [`Follower::settle`].

mod closed;
mod known;
mod lane;
mod marks;
mod name;
mod print;
mod read;
mod scan;
mod state;
mod tail;
#[cfg(test)]
mod tests;
mod unknown;
mod watch;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::io;
use std::os::fd::BorrowedFd;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use self::closed::{Closed, ClosedFiles};
use self::state::{Entry, State};
use self::tail::{Key, Tail};
use self::watch::Watch;
use crate::glob::Pattern;
use crate::split::{Position, Rules};

/// A look at everything, whatever inotify says.
const RESCAN: Duration = Duration::from_secs(5);
/// The same where inotify says nothing.
const RESCAN_BLIND: Duration = Duration::from_secs(1);
/// Between two looks at directories that keep changing.
const SCAN_PAUSE: Duration = Duration::from_millis(20);
/// How often the places are written down while they move.
const SAVE_EVERY: Duration = Duration::from_secs(1);
/// The bus knows 1,024 epochs of an operator. So many files may move between two times that they are written down.
const MOVED_MAX: usize = 500;
/// An operator may have 1,024 files open.
const OPEN_MAX: usize = 900;
/// Rotated files that are open at the same time.
const ROTATED_MAX: usize = 200;

/// What is followed, and how.
#[derive(Debug, Clone)]
pub(crate) struct Config {
    pub(crate) patterns: Vec<Pattern>,
    pub(crate) rules: Arc<Rules>,
    /// Nothing below this: what this operator writes itself.
    pub(crate) excluded: Option<PathBuf>,
    /// A rotated file is closed when nothing was written to it for so long.
    pub(crate) quiet: Duration,
}

/// A record on its way to the bus.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Line {
    pub(crate) tail: u32,
    pub(crate) epoch: u64,
    pub(crate) end: Position,
    pub(crate) channel: Arc<str>,
    pub(crate) body: Vec<u8>,
    pub(crate) part: u32,
    pub(crate) more: bool,
}

/// Where records go.
pub(crate) trait Sink {
    fn has_room(&self) -> bool;
    fn take(&mut self, line: Line);
}

/// What a person wants to know.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Condition {
    /// Paths that are followed and there.
    pub(crate) files: usize,
    /// Files and directories that may not be read, and why.
    pub(crate) denied: Vec<(PathBuf, String)>,
    /// Whatever else is not as it should be.
    pub(crate) trouble: Vec<String>,
}

pub(crate) struct Follower {
    config: Config,
    directory: PathBuf,
    watch: Watch,
    lanes: BTreeMap<PathBuf, Lane>,
    tails: HashMap<u32, Tail>,
    last_tail: u32,
    closed: ClosedFiles,
    /// Files that may be a copy in the making, and since when.
    unclear: HashMap<Key, (Instant, u64)>,
    /// Names changed while they were looked at.
    unsettled: bool,
    patterns: BTreeSet<String>,
    /// Where directories really lie, during one look.
    directories: HashMap<PathBuf, PathBuf>,
    looked_at: u64,
    /// What `looked_at` becomes some time after.
    looking: Option<(Instant, u64)>,
    scan_at: Instant,
    /// Not before this, however much changes.
    scan_after: Instant,
    save_at: Option<Instant>,
    /// Files that moved since they were written down.
    moved: BTreeSet<u32>,
    condition: Condition,
    save_trouble: Option<String>,
}

/// The generations of one path, the oldest first.
#[derive(Default)]
struct Lane {
    tails: Vec<u32>,
    /// The one that has the path.
    current: Option<u32>,
}

impl Follower {
    /// # Errors
    /// The places of the last time cannot be read; see [`State::load`].
    pub(crate) fn new(config: Config, directory: PathBuf, now: Instant) -> io::Result<Self> {
        let state = State::load(&directory)?.unwrap_or_default();
        let mut closed = ClosedFiles::default();
        for entry in state.files {
            let replaced = entry.key() == tail::nowhere(entry.epoch);
            closed.insert(Closed { replaced, ..Closed::new(entry, None) });
        }
        Ok(Self {
            config,
            directory,
            watch: Watch::new(),
            lanes: BTreeMap::new(),
            tails: HashMap::new(),
            last_tail: 0,
            closed,
            unclear: HashMap::new(),
            unsettled: false,
            patterns: state.patterns,
            directories: HashMap::new(),
            looked_at: state.looked_at,
            looking: None,
            scan_at: now,
            scan_after: now,
            save_at: None,
            moved: BTreeSet::new(),
            condition: Condition::default(),
            save_trouble: None,
        })
    }

    /// To be waited for beside the time that [`step`](Self::step) gives.
    pub(crate) fn fd(&self) -> Option<BorrowedFd<'_>> {
        self.watch.fd()
    }

    #[cfg(test)]
    fn go_blind(&mut self) {
        self.watch = Watch::blind();
    }

    /// Other settings. What is not followed any more is forgotten, and is at its end when it is followed again.
    pub(crate) fn configure(&mut self, config: Config, now: Instant) {
        self.config = config;
        let covered = |path: &PathBuf| self.config.patterns.iter().any(|pattern| pattern.covers(path));
        self.lanes.retain(|path, _| covered(path));
        self.closed.retain(|_, closed| covered(&closed.entry.path));
        self.tails.retain(|_, tail| covered(&tail.path));
        let texts: BTreeSet<&str> = self.config.patterns.iter().map(Pattern::text).collect();
        self.patterns.retain(|pattern| texts.contains(pattern.as_str()));
        for tail in self.tails.values_mut() {
            tail.set_rules(self.config.rules.clone());
        }
        self.scan_at = now;
        self.scan_after = now;
        self.save_at = Some(now);
    }

    /// The bus has confirmed a line.
    pub(crate) fn settle(&mut self, tail: u32, end: Position, now: Instant) {
        if self.tails.get_mut(&tail).is_some_and(|tail| tail.settle(end)) {
            self.moved.insert(tail);
            self.save_at.get_or_insert(now + SAVE_EVERY);
        }
    }

    pub(crate) fn condition(&self) -> Condition {
        let mut condition = self.condition.clone();
        condition.files = self.lanes.values().filter(|lane| lane.current.is_some()).count();
        condition.trouble.extend(self.save_trouble.clone());
        condition
    }

    /// Does what is to be done now, and says when there is something again, unless inotify or the sink call before.
    pub(crate) fn step(&mut self, sink: &mut impl Sink, now: Instant) -> Instant {
        match self.watch.read() {
            Ok(changes) => {
                if changes.names {
                    self.scan_at = self.scan_at.min(self.scan_after.max(now));
                }
                if !changes.written.is_empty() {
                    let current = |path| self.lanes.get(path).into_iter().flat_map(|lane| lane.tails.iter());
                    let hot: Vec<u32> = changes.written.iter().flat_map(current).copied().collect();
                    let is_other = |path: &PathBuf| !self.lanes.contains_key(path);
                    let other = changes.written.iter().any(is_other);
                    for tail in hot {
                        self.heat(tail);
                    }
                    if other {
                        // A rotated file has another name by now, a link leads to another one.
                        let rotated: Vec<u32> = self
                            .tails
                            .iter()
                            .filter(|(_, tail)| tail.rotated_at.is_some() || tail.path.is_symlink())
                            .map(|(number, _)| *number)
                            .collect();
                        rotated.into_iter().for_each(|tail| self.heat(tail));
                    }
                }
            }
            Err(error) => {
                tracing::error!("inotify does not answer: {error}");
                self.scan_at = self.scan_at.min(now + RESCAN_BLIND);
            }
        }
        if now >= self.scan_at {
            let began = Instant::now();
            self.scan(now);
            let blind = self.watch.trouble().is_some() || self.watch.fd().is_none();
            let unclear = self.unsettled || !self.unclear.is_empty();
            self.scan_at = now
                + if unclear {
                    SCAN_PAUSE * 5
                } else if blind {
                    RESCAN_BLIND
                } else {
                    RESCAN
                };
            // A directory with thousands of files that changes all the time must not take all the time.
            self.scan_after = now + SCAN_PAUSE.max(began.elapsed() * 4);
            self.tails.values_mut().for_each(|tail| tail.hot = true);
        }
        self.end_what_waited(now);
        let mut more = self.read_all(sink, now);
        more |= self.retire(now) && sink.has_room();
        if self.save_at.is_some_and(|at| now >= at) || self.moved.len() >= MOVED_MAX {
            self.save(now);
        }
        if more {
            return now;
        }
        let quiet = self.tails.values().filter(|tail| !tail.is_finished()).filter_map(Tail::quiet_since);
        let soonest = quiet.map(|since| (since + self.config.quiet).max(now + SCAN_PAUSE));
        let complete = self.tails.values().filter_map(Tail::complete_at);
        soonest.chain(complete).chain(self.save_at).chain([self.scan_at]).min().unwrap_or(self.scan_at)
    }

    fn heat(&mut self, number: u32) {
        if let Some(tail) = self.tails.get_mut(&number) {
            tail.hot = true;
        }
    }

    /// Writes the places down. A disk that does not take them stops nothing: the worst that can come of it are lines that
    /// are published twice after a crash.
    pub(crate) fn save(&mut self, now: Instant) {
        let mut files: Vec<Entry> = self.tails.values().filter_map(Tail::entry).collect();
        files.extend(self.closed.entries().cloned());
        files.sort_unstable_by(|a, b| (&a.path, a.inode).cmp(&(&b.path, b.inode)));
        let state = State { looked_at: self.looked_at, patterns: self.patterns.clone(), files, ..State::default() };
        self.save_at = None;
        self.moved.clear();
        self.tails.values_mut().for_each(|tail| tail.saved = true);
        match state.save(&self.directory) {
            Ok(()) => {
                if self.save_trouble.take().is_some() {
                    tracing::info!("the places in the files are written down again");
                }
            }
            Err(error) => {
                let text = format!("the places in the files cannot be written down: {error}");
                if self.save_trouble.as_ref() != Some(&text) {
                    tracing::error!("{text}; after a crash, lines may be published twice");
                    self.save_trouble = Some(text);
                }
                self.save_at = Some(now + SAVE_EVERY * 5);
            }
        }
    }
}
