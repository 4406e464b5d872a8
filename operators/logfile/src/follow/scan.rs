//! One look at the directories: what is there, sorted by the path that it belongs to.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::fs::{File, Metadata, OpenOptions};
use std::io::{self, ErrorKind};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use super::Follower;
use super::name::{age, is_compressed, is_rotated};
use super::tail::key;
use crate::glob::{self, Found};

/// Looks of so much time see every file.
const LOOKS: Duration = Duration::from_secs(60);

/// A file that is there.
pub(super) struct Present {
    pub(super) path: PathBuf,
    pub(super) metadata: Metadata,
    /// Its pattern is followed for the first time.
    pub(super) is_first: bool,
}

impl Present {
    /// Opens it, if its name has not become that of another file meanwhile.
    pub(super) fn open(&self) -> io::Result<File> {
        let file = open(&self.path)?;
        match key(&file.metadata()?) == key(&self.metadata) {
            true => Ok(file),
            false => Err(io::Error::new(ErrorKind::NotFound, "it has another name by now")),
        }
    }
}

/// All files of one lane that are there.
#[derive(Default)]
pub(super) struct Generations {
    pub(super) current: Option<Present>,
    /// By age, the oldest first.
    pub(super) earlier: Vec<Present>,
    /// Directory or file could not be looked at: what is known of it stays.
    pub(super) blind: bool,
}

impl Follower {
    pub(super) fn scan(&mut self, now: Instant) {
        let looked_at = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs().max(1);
        self.condition.denied.clear();
        self.condition.trouble.clear();
        if looked_at < self.looked_at {
            tracing::info!("the clock was set back: what was changed since a minute ago counts as new");
            self.looked_at = looked_at.saturating_sub(LOOKS.as_secs()).max(1);
            self.looking = None;
        }
        self.unsettled = false;
        self.directories.clear();
        // Watched before they are read: what comes in between is told.
        let mut found = Found::walk(&self.config.patterns);
        self.watch_all(&found);
        found = Found::walk(&self.config.patterns);
        if found.too_many {
            self.condition.trouble.push(format!("more than {} files: the rest is not followed", glob::FILES_MAX));
        }
        for directory in &found.strange {
            let text = format!("names in {} that are not UTF-8 are not followed", directory.display());
            self.condition.trouble.push(text);
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
        let lanes = self.lanes.keys().chain(self.closed.paths());
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
            lane.earlier.sort_by_cached_key(|present| {
                let (seconds, nanos) = (present.metadata.mtime(), present.metadata.mtime_nsec());
                (seconds, nanos, age(&present.path.to_string_lossy()))
            });
        }
        lanes
    }

    /// A regular file that may be followed.
    fn present(&mut self, path: &Path, is_first: bool) -> io::Result<Option<Present>> {
        let link = path.symlink_metadata()?;
        let metadata = if link.is_symlink() { path.metadata()? } else { link.clone() };
        if !metadata.is_file() {
            return Ok(None);
        }
        // Who may write in a directory must not have us read for him what he could not.
        if link.is_symlink() && !glob::is_trusted_link(link.uid(), metadata.uid()) {
            return Err(io::Error::new(ErrorKind::PermissionDenied, glob::STRANGE_LINK));
        }
        let is_excluded = match (&self.config.excluded, path.parent()) {
            (Some(excluded), _) if link.is_symlink() => path.canonicalize()?.starts_with(excluded),
            (Some(excluded), Some(directory)) => match self.directories.get(directory) {
                Some(directory) => directory.starts_with(excluded),
                None => {
                    let real = directory.canonicalize()?;
                    self.directories.entry(directory.to_owned()).or_insert(real).starts_with(excluded)
                }
            },
            _ => false,
        };
        if is_excluded {
            return Ok(None);
        }
        Ok(Some(Present { path: path.to_owned(), metadata, is_first }))
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
