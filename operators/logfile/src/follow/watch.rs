//! inotify: which names in which directories have changed. Where the kernel does not tell (network file systems, no
//! instance left), files are looked at every second instead.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::sys::inotify::{AddWatchFlags, InitFlags, Inotify, WatchDescriptor};

/// What happened since the last look.
#[derive(Debug, Default)]
pub(crate) struct Changes {
    /// Files that were written to.
    pub(crate) written: BTreeSet<PathBuf>,
    /// Names came or went, or the kernel lost count.
    pub(crate) names: bool,
}

pub(crate) struct Watch {
    inotify: Option<Inotify>,
    /// More than one path may lead to a directory.
    directories: HashMap<WatchDescriptor, BTreeSet<PathBuf>>,
    paths: BTreeMap<PathBuf, WatchDescriptor>,
    /// Why the kernel does not tell.
    trouble: Option<String>,
}

impl Watch {
    pub(crate) fn new() -> Self {
        let (inotify, trouble) = match Inotify::init(InitFlags::IN_NONBLOCK | InitFlags::IN_CLOEXEC) {
            Ok(inotify) => (Some(inotify), None),
            Err(error) => (None, Some(format!("no inotify: {error}"))),
        };
        Self { inotify, directories: HashMap::new(), paths: BTreeMap::new(), trouble }
    }

    /// As where the kernel has no instance left.
    #[cfg(test)]
    pub(super) fn blind() -> Self {
        let trouble = Some("no inotify: EMFILE: Too many open files".to_owned());
        Self { inotify: None, directories: HashMap::new(), paths: BTreeMap::new(), trouble }
    }

    /// To be waited for.
    pub(crate) fn fd(&self) -> Option<BorrowedFd<'_>> {
        self.inotify.as_ref().map(AsFd::as_fd)
    }

    /// Whether files have to be looked at without being told.
    pub(crate) fn trouble(&self) -> Option<&str> {
        self.trouble.as_deref()
    }

    /// Watches these directories, and no others. A directory that was moved away and made anew is another one under the
    /// same path, so that each is added again every time; for the kernel that is a look-up.
    pub(crate) fn set(&mut self, directories: &BTreeSet<PathBuf>) {
        let Some(inotify) = &self.inotify else { return };
        let flags = AddWatchFlags::IN_MODIFY
            | AddWatchFlags::IN_CREATE
            | AddWatchFlags::IN_DELETE
            | AddWatchFlags::IN_MOVE
            | AddWatchFlags::IN_ATTRIB
            | AddWatchFlags::IN_DELETE_SELF
            | AddWatchFlags::IN_MOVE_SELF
            | AddWatchFlags::IN_ONLYDIR;
        let mut paths = BTreeMap::new();
        let mut known: HashMap<WatchDescriptor, BTreeSet<PathBuf>> = HashMap::new();
        self.trouble = None;
        for path in directories {
            match inotify.add_watch(path, flags) {
                Ok(watch) => {
                    paths.insert(path.clone(), watch);
                    known.entry(watch).or_default().insert(path.clone());
                }
                Err(Errno::ENOENT | Errno::ENOTDIR) => {}
                // A directory that may be passed but not read: what is in it is looked at again and again.
                Err(error) => self.trouble = Some(format!("no inotify for {}: {error}", path.display())),
            }
        }
        for watch in self.directories.keys().filter(|watch| !known.contains_key(*watch)) {
            // One that is gone has no watch any more.
            let _ = inotify.rm_watch(*watch);
        }
        (self.directories, self.paths) = (known, paths);
    }

    /// What happened; comes back at once.
    pub(crate) fn read(&mut self) -> io::Result<Changes> {
        let mut changes = Changes::default();
        let Some(inotify) = &self.inotify else { return Ok(changes) };
        loop {
            let events = match inotify.read_events() {
                Ok(events) => events,
                Err(Errno::EAGAIN) => return Ok(changes),
                Err(Errno::EINTR) => continue,
                Err(error) => return Err(error.into()),
            };
            for event in events {
                let only_written = AddWatchFlags::IN_MODIFY;
                if !event.mask.intersects(only_written) {
                    // Also IN_Q_OVERFLOW and IN_IGNORED. What we removed ourselves is no news.
                    let is_ours =
                        event.mask.contains(AddWatchFlags::IN_IGNORED) && !self.directories.contains_key(&event.wd);
                    changes.names |= !is_ours;
                }
                let (Some(name), Some(directories)) = (event.name, self.directories.get(&event.wd)) else { continue };
                changes.written.extend(directories.iter().map(|directory: &PathBuf| Path::join(directory, &name)));
            }
        }
    }
}
