//! Follows files: finds them, reads what they get, and knows over restarts how far each was published.
//!
//! It does all its work in [`Follower::step`], blocking, in a thread of its own; a test calls it by itself. What it reads
//! goes to a [`Sink`] as long as that has room, and the place up to which a file is done moves only with
//! [`Follower::settle`].

mod name;
mod print;
mod scan;
mod state;
mod tail;
#[cfg(test)]
mod tests;
mod watch;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::io;
use std::os::fd::BorrowedFd;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use self::state::{Entry, State};
use self::tail::{Key, Look, Looks, Tail};
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
    /// Files that are known and not open: earlier generations, copies, and all of them before the first look.
    closed: HashMap<Key, Closed>,
    /// Files that may be a copy in the making, and since when.
    unclear: HashMap<Key, (Instant, u64)>,
    /// Names changed while they were looked at.
    unsettled: bool,
    patterns: BTreeSet<String>,
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

/// A file that is known.
struct Closed {
    entry: Entry,
    /// As it looked when it was known to hold what the entry says.
    looked: Option<Looks>,
    /// Since when it was not seen.
    missing: Option<Instant>,
}

impl Follower {
    /// # Errors
    /// The places of the last time cannot be read; see [`State::load`].
    pub(crate) fn new(config: Config, directory: PathBuf, now: Instant) -> io::Result<Self> {
        let state = State::load(&directory)?.unwrap_or_default();
        let closed = state.files.into_iter().map(|entry| {
            let key = (entry.device, entry.inode);
            (key, Closed { entry, looked: None, missing: None })
        });
        Ok(Self {
            config,
            directory,
            watch: Watch::new(),
            lanes: BTreeMap::new(),
            tails: HashMap::new(),
            last_tail: 0,
            closed: closed.collect(),
            unclear: HashMap::new(),
            unsettled: false,
            patterns: state.patterns,
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
        files.extend(self.closed.values().map(|closed| closed.entry.clone()));
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

    /// Records that waited for more lines long enough.
    fn end_what_waited(&mut self, now: Instant) {
        for tail in self.tails.values_mut() {
            if tail.complete_at().is_some_and(|at| now >= at) {
                tail.complete();
            }
        }
    }

    /// Reads while there is room. Whether there is more to read, and room for it.
    fn read_all(&mut self, sink: &mut impl Sink, now: Instant) -> bool {
        self.save_new(now);
        let is_hot = |number: &u32| self.tails.get(number).is_some_and(|tail| tail.hot);
        let hot = self.lanes.values().filter(|lane| lane.tails.iter().any(is_hot));
        let lanes: Vec<Vec<u32>> = hot.map(|lane| lane.tails.clone()).collect();
        let mut more = false;
        for tails in lanes {
            for number in tails {
                if !sink.has_room() {
                    // The sink calls when it has some.
                    return false;
                }
                match self.read_one(number, sink, now) {
                    Progress::Drained => {}
                    // A younger generation waits for the older one.
                    Progress::More => {
                        more = true;
                        break;
                    }
                    Progress::Lost => {
                        self.scan_at = now;
                        more = true;
                        break;
                    }
                }
            }
        }
        more && sink.has_room()
    }

    fn save_new(&mut self, now: Instant) {
        if self.tails.values().any(|tail| !tail.saved) {
            self.save(now);
        }
    }

    /// Publishes what a file has, and reads one piece more.
    fn read_one(&mut self, number: u32, sink: &mut impl Sink, now: Instant) -> Progress {
        let Some(tail) = self.tails.get_mut(&number).filter(|tail| tail.hot) else { return Progress::Drained };
        let mut has_read = false;
        loop {
            while sink.has_room() && tail.saved {
                let Some(record) = tail.next_record() else { break };
                sink.take(Line {
                    tail: number,
                    epoch: tail.epoch,
                    end: record.end,
                    channel: tail.channel.clone(),
                    body: record.body,
                    part: record.part,
                    more: record.more,
                });
            }
            tail.drained = false;
            // What it is known by has to be on disk before anything of it is published.
            if !sink.has_room() || has_read || !tail.saved {
                return Progress::More;
            }
            match tail.read(now) {
                Ok(Look::More) => has_read = true,
                Ok(Look::End) => {
                    tail.hot = false;
                    tail.drained = true;
                    return Progress::Drained;
                }
                // The next look at the directories finds the copy.
                Ok(Look::Other) => return Progress::Lost,
                Err(error) => {
                    tracing::error!("{}: {error}", tail.path.display());
                    tail.hot = false;
                    return Progress::Drained;
                }
            }
        }
    }

    /// Closes rotated files that are at rest. Whether one has a last line to give.
    fn retire(&mut self, now: Instant) -> bool {
        let mut more = false;
        let mut rotated: Vec<(Instant, u32)> =
            self.tails.iter().filter_map(|(number, tail)| Some((tail.rotated_at?, *number))).collect();
        rotated.sort_unstable();
        let crowded = rotated.len().saturating_sub(ROTATED_MAX);
        for (at, (_, number)) in rotated.into_iter().enumerate() {
            let Some(tail) = self.tails.get_mut(&number) else { continue };
            let replaced = self.lanes.get(&tail.path).is_some_and(|lane| lane.current.is_some());
            let at_rest = tail.quiet_since().is_some_and(|since| now >= since + self.config.quiet) || at < crowded;
            if tail.drained && !tail.is_finished() && at_rest && (replaced || at < crowded || !tail.is_linked()) {
                tail.finish();
                more = true;
            } else if tail.is_over() {
                self.close(number);
            }
        }
        more
    }

    fn close(&mut self, number: u32) {
        let Some(tail) = self.tails.remove(&number) else { return };
        if let Some(lane) = self.lanes.get_mut(&tail.path) {
            lane.tails.retain(|other| *other != number);
        }
        self.moved.remove(&number);
        self.save_at.get_or_insert(Instant::now() + SAVE_EVERY);
        if let (Some(entry), true) = (tail.entry(), tail.is_linked()) {
            tracing::debug!("{}: a rotated file is at rest", tail.path.display());
            self.closed.insert((entry.device, entry.inode), Closed { entry, looked: tail.looks(), missing: None });
        }
    }
}

enum Progress {
    Drained,
    More,
    Lost,
}
