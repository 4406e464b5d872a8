//! One look at the directories: which files are new, which have gone or have another name, which hold something else now.
//!
//! A file is what its inode is, until its first bytes or those before our place say otherwise. Beside the files that match a
//! pattern there are earlier generations of them, by their names: one that we know is read to its end under its new name;
//! one that came and went between two looks is read from its beginning; one that is a copy of a file takes its place when
//! that is cut to nothing, and is not read otherwise.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::fs::{File, Metadata, OpenOptions};
use std::io::{self, ErrorKind};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use super::name::{age, is_compressed, is_rotated};
use super::print::{self, Digested};
use super::state::Entry;
use super::tail::{Key, Tail, key, looks, nowhere};
use super::{Closed, Follower, OPEN_MAX};
use crate::glob::{self, Found};
use crate::split::Position;

/// Clocks of file systems are a little behind.
const CLOCK_SLACK: u64 = 2;
/// Earlier generations of a path that are looked at.
const EARLIER_MAX: usize = 64;
/// Those that are remembered: more, because which ones are the youngest changes when a look misses some.
const CLOSED_MAX: usize = 256;
/// A file that is not seen for so long is gone.
const MISSING_MAX: Duration = Duration::from_secs(30);
/// Looks of so much time see every file.
const LOOKS: Duration = Duration::from_secs(60);
/// How long a copy of a file is looked for that was cut to nothing.
const SEEK_MAX: Duration = Duration::from_secs(15);
/// A file that began like another one and did not become a copy of it within this is a file of its own.
const UNCLEAR_MAX: Duration = Duration::from_secs(2);

/// A file that is there.
struct Present {
    path: PathBuf,
    metadata: Metadata,
    /// Its pattern is followed for the first time.
    is_first: bool,
}

impl Present {
    /// Opens it, if its name has not become that of another file meanwhile.
    fn open(&self) -> io::Result<File> {
        let file = open(&self.path)?;
        match key(&file.metadata()?) == key(&self.metadata) {
            true => Ok(file),
            false => Err(io::Error::new(ErrorKind::NotFound, "it has another name by now")),
        }
    }
}

/// All files of one lane that are there.
#[derive(Default)]
struct Generations {
    current: Option<Present>,
    /// By age, the oldest first.
    earlier: Vec<Present>,
    /// Directory or file could not be looked at: what is known of it stays.
    blind: bool,
}

enum Likeness {
    Copy,
    Other,
    Unclear,
}

impl Follower {
    pub(super) fn scan(&mut self, now: Instant) {
        let looked_at = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
        self.condition.denied.clear();
        self.condition.trouble.clear();
        self.unsettled = false;
        // Watched before they are read: what comes in between is told.
        let mut found = Found::walk(&self.config.patterns);
        self.watch_all(&found);
        found = Found::walk(&self.config.patterns);
        if found.too_many {
            self.condition.trouble.push(format!("more than {} files: the rest is not followed", glob::FILES_MAX));
        }
        let mut lanes = self.generations(&found);
        for (path, error) in found.denied {
            if let Some(lane) = lanes.iter_mut().find(|(lane, _)| lane.starts_with(&path)) {
                lane.1.blind = true;
            }
            self.condition.denied.push((path, error.to_string()));
        }
        let known: Vec<PathBuf> = self.lanes.keys().cloned().collect();
        for path in known {
            lanes.entry(path).or_default();
        }
        let mut seen = HashSet::new();
        for (path, generations) in lanes {
            self.look_at(&path, generations, &mut seen, now);
        }
        self.forget(&seen, now);
        self.lanes.retain(|_, lane| !lane.tails.is_empty() || lane.current.is_some());
        self.patterns = self.config.patterns.iter().map(|pattern| pattern.text().to_owned()).collect();
        let was_first = self.looked_at == 0;
        // A look may have missed what was renamed just then: so what counts as seen is what many looks could have seen.
        let (since, then) = *self.looking.get_or_insert((now, looked_at));
        if was_first || now >= since + LOOKS {
            self.looked_at = then;
            self.looking = None;
        }
        if let Some(trouble) = self.watch.trouble() {
            self.condition.trouble.push(trouble.to_owned());
        }
        if was_first {
            self.save_at = Some(now);
        }
    }

    fn watch_all(&mut self, found: &Found) {
        let mut directories: BTreeSet<PathBuf> = found.directories.clone();
        for (path, _) in found.files.iter().filter(|(path, _)| path.is_symlink()) {
            let target = path.canonicalize().ok().and_then(|target| target.parent().map(Path::to_owned));
            directories.extend(target);
        }
        self.watch.set(&directories);
    }

    /// Sorts what is there by lanes.
    fn generations(&mut self, found: &Found) -> BTreeMap<PathBuf, Generations> {
        let mut names: HashMap<PathBuf, io::Result<Vec<String>>> = HashMap::new();
        let mut bases: HashMap<PathBuf, HashSet<String>> = HashMap::new();
        let lanes = self.lanes.keys().chain(self.closed.values().map(|closed| &closed.entry.path));
        for path in found.files.iter().map(|(path, _)| path).chain(lanes) {
            if let (Some(directory), Some(name)) = (path.parent(), path.file_name().and_then(|name| name.to_str()))
                && !is_compressed(name)
            {
                bases.entry(directory.to_owned()).or_default().insert(name.to_owned());
            }
        }
        // A name that is an earlier generation of another one is no lane of its own.
        for names in bases.values_mut() {
            let rotated: HashSet<String> = names.iter().filter(|name| base(name, names).is_some()).cloned().collect();
            names.retain(|name| !rotated.contains(name));
        }
        let mut lanes: BTreeMap<PathBuf, Generations> = BTreeMap::new();
        for (path, number) in &found.files {
            let is_first = !self.patterns.contains(self.config.patterns[*number].text());
            let (Some(directory), Some(name)) = (path.parent(), path.file_name().and_then(|name| name.to_str())) else {
                continue;
            };
            if !bases.get(directory).is_some_and(|bases| bases.contains(name)) {
                continue;
            }
            match self.present(path, is_first) {
                Ok(Some(present)) => lanes.entry(path.clone()).or_default().current = Some(present),
                Ok(None) => {}
                Err(error) if error.kind() == ErrorKind::NotFound => {}
                Err(error) => {
                    lanes.entry(path.clone()).or_default().blind = true;
                    self.condition.denied.push((path.clone(), error.to_string()));
                }
            }
        }
        for (directory, bases) in &bases {
            let listed = names.entry(directory.clone()).or_insert_with(|| glob::names(directory));
            match listed {
                Ok(listed) => {
                    for name in listed {
                        let Some(base) = base(name, bases) else { continue };
                        let lane = lanes.entry(directory.join(base)).or_default();
                        let is_first = lane.current.as_ref().is_some_and(|current| current.is_first);
                        if let Ok(Some(present)) = self.present(&directory.join(name), is_first) {
                            lane.earlier.push(present);
                        }
                    }
                }
                // One that may be passed, but not read: the files in it that are named are followed all the same.
                Err(_) => bases.iter().for_each(|base| lanes.entry(directory.join(base)).or_default().blind = true),
            }
        }
        for lane in lanes.values_mut() {
            lane.earlier.sort_by_key(|present| {
                let (seconds, nanos) = (present.metadata.mtime(), present.metadata.mtime_nsec());
                (seconds, nanos, age(&present.path.to_string_lossy()))
            });
        }
        lanes
    }

    /// A regular file that may be followed.
    fn present(&self, path: &Path, is_first: bool) -> io::Result<Option<Present>> {
        let link = path.symlink_metadata()?;
        let metadata = if link.is_symlink() { path.metadata()? } else { link.clone() };
        if !metadata.is_file() {
            return Ok(None);
        }
        // Who may write in a directory must not have us read for him what he could not.
        if link.is_symlink() && link.uid() != 0 && link.uid() != metadata.uid() {
            let text = "a symbolic link that belongs neither to root nor to the owner of the file is not followed";
            return Err(io::Error::new(ErrorKind::PermissionDenied, text));
        }
        if let Some(excluded) = &self.config.excluded
            && path.canonicalize()?.starts_with(excluded)
        {
            return Ok(None);
        }
        Ok(Some(Present { path: path.to_owned(), metadata, is_first }))
    }

    fn look_at(&mut self, path: &Path, generations: Generations, seen: &mut HashSet<Key>, now: Instant) {
        let Generations { current, mut earlier, blind } = generations;
        seen.extend(earlier.iter().chain(&current).map(|present| key(&present.metadata)));
        // A file that is renamed while the directory is read may be seen under both names, or under none.
        let mut names: HashSet<Key> = current.iter().map(|present| key(&present.metadata)).collect();
        earlier.retain(|present| names.insert(key(&present.metadata)));
        // Those that are older than so many others have had their time.
        for present in &earlier[..earlier.len().saturating_sub(CLOSED_MAX)] {
            self.closed.remove(&key(&present.metadata));
        }
        earlier.drain(..earlier.len().saturating_sub(EARLIER_MAX));
        if blind {
            seen.extend(self.closed.iter().filter(|(_, closed)| closed.entry.path == path).map(|(key, _)| *key));
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
        for present in earlier {
            if !(self.is_copy(&present) && self.resume(path, &present, false, now)) {
                self.meet_earlier(path, &present, now);
            }
        }
        if let Some(present) = current {
            self.meet(path, &present, true, now);
        }
    }

    /// Whether an open file still holds what it held; where it does not, a copy of it is looked for.
    fn check(&mut self, number: u32, earlier: &[Present], now: Instant) {
        let Some(tail) = self.tails.get_mut(&number) else { return };
        if tail.is_finished() || tail.holds().unwrap_or(true) {
            return;
        }
        let lane = self.lanes.get_mut(&tail.path);
        if let Some(lane) = lane
            && lane.current == Some(number)
        {
            lane.current = None;
        }
        for present in earlier.iter().rev() {
            let copy = key(&present.metadata);
            if Some(copy) == tail.key || tail.print.head.is_empty() {
                continue;
            }
            if let Ok(file) = present.open()
                && tail.print.holds(&file, present.metadata.len()).unwrap_or(false)
                && tail.take_copy(file, now).is_ok()
            {
                tracing::info!(
                    "{} was cut to nothing: the rest is read from {}",
                    tail.path.display(),
                    present.path.display()
                );
                self.closed.remove(&copy);
                self.unclear.remove(&copy);
                tail.saved = false;
                return;
            }
        }
        // While names change, a look may miss one.
        if now < tail.seek(now) + SEEK_MAX {
            self.unsettled = true;
            return;
        }
        let lost = tail.incomplete();
        tracing::info!(lost, "{} holds something else now, and there is no copy of what it held", tail.path.display());
        tail.lose();
    }

    /// A file that is open, or known from before, is followed further. False for one that is not known.
    fn resume(&mut self, path: &Path, present: &Present, at_path: bool, now: Instant) -> bool {
        let key = key(&present.metadata);
        if let Some((number, tail)) = self.tails.iter_mut().find(|(_, tail)| tail.key == Some(key)) {
            let number = *number;
            let is_own = at_path && tail.path == path;
            if is_own {
                tail.rotated_at = None;
            }
            if at_path {
                self.rotate(path, is_own.then_some(number), now);
            }
            return true;
        }
        let Some(closed) = self.closed.get_mut(&key) else { return false };
        let size = present.metadata.len();
        let offset = closed.entry.position.offset;
        let is_own = at_path && closed.entry.path == path;
        if closed.looked == Some(looks(&present.metadata)) && !is_own {
            return true;
        }
        let file = match present.open() {
            Ok(file) => file,
            Err(error) => {
                self.deny(&present.path, &error);
                return true;
            }
        };
        let whole = if closed.entry.copy { 0 } else { offset };
        if !closed.entry.digested.holds(&file, size, whole).unwrap_or(false) {
            // Another file has the inode. Where the content went, `find_orphans` sees.
            closed.looked = None;
            return false;
        }
        closed.looked = Some(looks(&present.metadata));
        if closed.entry.copy || (!is_own && size <= offset) || self.is_full() {
            return true;
        }
        let Some(closed) = self.closed.remove(&key) else { return true };
        match Tail::resume(&closed.entry, file, self.config.rules.clone(), now) {
            Ok(tail) => self.add(tail, is_own, now),
            Err(error) => self.deny(&present.path, &error),
        }
        true
    }

    /// A copy that is known is not read, but what it is a copy of may be lost by now.
    fn is_copy(&self, present: &Present) -> bool {
        self.closed.get(&key(&present.metadata)).is_some_and(|closed| closed.entry.copy)
    }

    /// Files that were known, and are not where they were: one of the unknown ones may hold what they held.
    fn find_orphans(&mut self, path: &Path, unknown: &mut Vec<Present>, seen: &HashSet<Key>, now: Instant) {
        let is_orphan = |key: &Key, closed: &Closed| {
            closed.entry.path == path
                && !closed.entry.copy
                && closed.entry.digested.head_bytes > 0
                && (!seen.contains(key) || closed.looked.is_none())
        };
        let orphans: Vec<Key> =
            self.closed.iter().filter(|(key, closed)| is_orphan(key, closed)).map(|(key, _)| *key).collect();
        for orphan in orphans {
            let Some(entry) = self.closed.get(&orphan).map(|closed| closed.entry.clone()) else { continue };
            let found = unknown.iter().position(|present| {
                let holds = |file| entry.digested.holds(&file, present.metadata.len(), entry.position.offset);
                present.open().and_then(holds).unwrap_or(false)
            });
            let Some(at) = found else { continue };
            let present = unknown.remove(at);
            self.closed.remove(&orphan);
            let (device, inode) = key(&present.metadata);
            let entry = Entry { device, inode, ..entry };
            if present.metadata.len() <= entry.position.offset {
                let looked = Some(looks(&present.metadata));
                self.closed.insert((device, inode), Closed { entry, looked, missing: None });
                continue;
            }
            tracing::info!("the rest of {} is read from {}", path.display(), present.path.display());
            let resumed = present.open().and_then(|file| Tail::resume(&entry, file, self.config.rules.clone(), now));
            match resumed {
                Ok(mut tail) => {
                    tail.saved = false;
                    tail.ends();
                    self.add(tail, false, now);
                }
                Err(error) => self.deny(&present.path, &error),
            }
        }
    }

    /// An earlier generation that is not known.
    fn meet_earlier(&mut self, path: &Path, present: &Present, now: Instant) {
        let key = key(&present.metadata);
        let changed_at = u64::try_from(present.metadata.mtime()).unwrap_or(0);
        // What was changed before the last look was there then, and not of interest.
        let is_new = self.looked_at > 0 && !present.is_first && changed_at + CLOCK_SLACK >= self.looked_at;
        if !is_new {
            return self.remember(path, present, false);
        }
        let file = match present.open() {
            Ok(file) => file,
            Err(error) => return self.deny(&present.path, &error),
        };
        match self.likeness(path, &file, present.metadata.len()) {
            Likeness::Copy => {
                self.unclear.remove(&key);
                self.remember(path, present, true);
            }
            Likeness::Unclear => {
                let size = present.metadata.len();
                let (since, known) = *self.unclear.entry(key).or_insert((now, size));
                if known != size {
                    self.unclear.insert(key, (now, size));
                } else if now >= since + UNCLEAR_MAX {
                    self.unclear.remove(&key);
                    self.meet(path, present, false, now);
                }
            }
            Likeness::Other => {
                self.unclear.remove(&key);
                self.meet(path, present, false, now);
            }
        }
    }

    /// Whether a file is a copy of one that is known in this lane.
    fn likeness(&self, path: &Path, file: &File, size: u64) -> Likeness {
        let lane = self.lanes.get(path).map(|lane| lane.tails.as_slice()).unwrap_or_default();
        let prints = lane.iter().filter_map(|number| self.tails.get(number)).map(|tail| {
            let print = &tail.print;
            (Digested::new(&print.head, &print.guard), print.offset, print.head.clone())
        });
        let closed = self.closed.values().filter(|closed| closed.entry.path == path && !closed.entry.copy);
        let digests = closed.map(|closed| (closed.entry.digested.clone(), closed.entry.position.offset, Vec::new()));
        let mut unclear = false;
        for (digested, offset, head) in prints.chain(digests) {
            if digested.head_bytes == 0 {
                continue;
            }
            if digested.holds(file, size, offset).unwrap_or(false) {
                return Likeness::Copy;
            }
            let begins_alike = match size < digested.head_bytes as u64 {
                true => head.starts_with(&print::read(file, 0, size as usize).unwrap_or_default()),
                false => Digested { guard_bytes: 0, guard: Digested::new(&[], &[]).guard, ..digested }
                    .holds(file, size, 0)
                    .unwrap_or(false),
            };
            unclear |= begins_alike && size < offset;
        }
        if unclear { Likeness::Unclear } else { Likeness::Other }
    }

    /// A file that is not known: it is followed.
    fn meet(&mut self, path: &Path, present: &Present, at_path: bool, now: Instant) {
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

    /// A file that cannot be opened: another name is no trouble, the next look finds it.
    fn deny(&mut self, path: &Path, error: &io::Error) {
        match error.kind() {
            ErrorKind::NotFound => self.unsettled = true,
            _ => self.condition.denied.push((path.to_owned(), error.to_string())),
        }
    }

    /// A file that is there and not read.
    fn remember(&mut self, path: &Path, present: &Present, copy: bool) {
        let of_lane = self.closed.values().filter(|closed| closed.entry.path == path).count();
        if of_lane >= CLOSED_MAX {
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
        self.closed.insert((device, inode), Closed { entry, looked: Some(looks(&present.metadata)), missing: None });
    }

    /// Whether no more files can be opened.
    fn is_full(&mut self) -> bool {
        let is_full = self.tails.len() >= OPEN_MAX;
        let text = format!("{OPEN_MAX} files are open: the rest is not followed");
        if is_full && !self.condition.trouble.contains(&text) {
            self.condition.trouble.push(text);
        }
        is_full
    }

    fn add(&mut self, mut tail: Tail, at_path: bool, now: Instant) {
        // What another file of this inode held may still be seen in a copy.
        if let Some(mut closed) = tail.key.and_then(|key| self.closed.remove(&key))
            && closed.entry.epoch != tail.epoch
            && !closed.entry.copy
        {
            (closed.entry.device, closed.entry.inode) = nowhere(closed.entry.epoch);
            closed.looked = None;
            self.closed.insert(nowhere(closed.entry.epoch), closed);
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
    fn rotate(&mut self, path: &Path, current: Option<u32>, now: Instant) {
        let Some(lane) = self.lanes.get_mut(path) else { return };
        let old = std::mem::replace(&mut lane.current, current);
        if let Some(tail) = old.filter(|old| Some(*old) != current).and_then(|old| self.tails.get_mut(&old)) {
            tail.rotated_at.get_or_insert(now);
            tail.hot = true;
        }
    }

    /// Files that are gone for some time are forgotten; those of a directory that is away just now are not.
    fn forget(&mut self, seen: &HashSet<Key>, now: Instant) {
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

/// The lane that a name is an earlier generation of.
fn base(name: &str, bases: &HashSet<String>) -> Option<String> {
    let ending = name.rsplit_once('.').map(|(_, ending)| ending);
    let ends = name.char_indices().filter(|(_, c)| matches!(c, '.' | '-' | '_' | '~')).map(|(at, _)| at);
    let candidates = ends.flat_map(|at| {
        let stem = &name[..at];
        [Some(stem.to_owned()), ending.map(|ending| format!("{stem}.{ending}"))]
    });
    candidates.flatten().find(|base| bases.contains(base.as_str()) && is_rotated(name, base))
}

/// Never waits, whatever lies there.
fn open(path: &Path) -> io::Result<File> {
    let flags = nix::libc::O_NONBLOCK | nix::libc::O_NOCTTY | nix::libc::O_CLOEXEC;
    let file = OpenOptions::new().read(true).custom_flags(flags).open(path)?;
    match file.metadata()?.is_file() {
        true => Ok(file),
        false => Err(io::Error::new(ErrorKind::InvalidInput, "not a regular file")),
    }
}
