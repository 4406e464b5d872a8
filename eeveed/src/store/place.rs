//! The store's files in its directory: their names, who may read them, and how they are made and set aside.

use std::fs::{self, OpenOptions};
use std::io;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use libeevee::Timestamp;
use nix::libc::{EDQUOT, O_CLOEXEC, O_NOFOLLOW};
use rusqlite::Connection;

use super::error::OpenError;
use super::mark::FILES;
use super::reserve;
use crate::file;

pub(super) const DATABASE: &str = "durable.db";
const WAL: &str = "durable.db-wal";
const SHM: &str = "durable.db-shm";
/// Being written; worth nothing after a crash.
const NEW: &str = "durable.db.new";
/// Whole and synced, to take the place of a damaged database that is being set aside.
const REPAIRED: &str = "durable.db.repaired";
/// Written and removed to see whether anything can be.
const PROBE: &str = ".durable.probe";

/// The directory, and what lies in it.
#[derive(Debug, Clone)]
pub(super) struct Place {
    dir: PathBuf,
}

impl Place {
    /// The directory, which must be ours alone to write, with nothing in the place of a file that is none.
    pub(super) fn new(dir: &Path) -> Result<Self, OpenError> {
        match fs::DirBuilder::new().mode(0o700).create(dir) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => {
                return Err(OpenError::io(dir, "make")(error));
            }
            _ => {}
        }
        // Links on the way to it are the administrator's; the files themselves are never links.
        let dir = dir.canonicalize().map_err(OpenError::io(dir, "find"))?;
        let metadata = dir.metadata().map_err(OpenError::io(&dir, "look at"))?;
        if !metadata.is_dir() {
            return Err(OpenError::Strange { path: dir, what: "no directory", remedy: "a directory has to be here" });
        }
        if metadata.mode() & 0o002 != 0 {
            return Err(OpenError::Strange {
                path: dir,
                what: "writable by others",
                remedy: "anybody could change stored messages; chmod 0700 it",
            });
        }
        let place = Self { dir };
        let names = [DATABASE, WAL, SHM, NEW, REPAIRED, reserve::FILE];
        for path in names.into_iter().chain(FILES).map(|name| place.dir.join(name)) {
            match fs::symlink_metadata(&path) {
                Ok(metadata) if !metadata.is_file() => {
                    let what = if metadata.is_symlink() { "a symbolic link" } else { "no regular file" };
                    return Err(OpenError::Strange { path, what, remedy: "a regular file has to be here; remove it" });
                }
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) => return Err(OpenError::io(path, "look at")(error)),
            }
        }
        Ok(place)
    }

    pub(super) fn dir(&self) -> &Path {
        &self.dir
    }

    pub(super) fn database(&self) -> PathBuf {
        self.dir.join(DATABASE)
    }

    /// The length of the database; none when there is no such file.
    pub(super) fn database_bytes(&self) -> Option<u64> {
        fs::metadata(self.database()).ok().map(|metadata| metadata.len())
    }

    /// Which file stands under the database's name: it changes when somebody moves or replaces it.
    pub(super) fn identity(&self) -> Option<(u64, u64)> {
        fs::metadata(self.database()).ok().map(|metadata| (metadata.dev(), metadata.ino()))
    }

    pub(super) fn has_log(&self) -> bool {
        self.dir.join(WAL).exists()
    }

    /// Whether something small can be written and synced here now, and if not, why: for a person, and whether it may
    /// pass (no room, read-only) or not.
    pub(super) fn probe(&self) -> Result<(), (io::Error, bool)> {
        let path = self.dir.join(PROBE);
        let written = (|| {
            let _ = fs::remove_file(&path);
            let file = OpenOptions::new()
                .write(true)
                .create_new(true)
                .mode(0o600)
                .custom_flags(O_NOFOLLOW | O_CLOEXEC)
                .open(&path)?;
            io::Write::write_all(&mut &file, &[0xe5; 64 * 1024])?;
            file.sync_data()
        })();
        let _ = fs::remove_file(&path);
        written.map_err(|error| {
            let passes = matches!(
                error.kind(),
                io::ErrorKind::StorageFull
                    | io::ErrorKind::QuotaExceeded
                    | io::ErrorKind::ReadOnlyFilesystem
                    | io::ErrorKind::PermissionDenied
            ) || error.raw_os_error() == Some(EDQUOT);
            (error, passes)
        })
    }

    /// Builds a database aside, under a name of its own, so that a crash leaves nothing half-made where one is looked for.
    pub(super) fn build(&self, build: impl FnOnce(&Connection) -> rusqlite::Result<()>) -> Result<(), OpenError> {
        let path = self.dir.join(NEW);
        self.remove_leftovers()?;
        OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(0o600)
            .custom_flags(O_NOFOLLOW | O_CLOEXEC)
            .open(&path)
            .map_err(OpenError::io(&path, "make"))?;
        let built = (|| {
            let connection = Connection::open(&path)?;
            connection.pragma_update(None, "journal_mode", "MEMORY")?;
            connection.pragma_update(None, "synchronous", "OFF")?;
            connection.pragma_update(None, "foreign_keys", false)?;
            build(&connection)?;
            // The mode is a mark in the file; nothing but that is written any more.
            connection.pragma_update(None, "journal_mode", "WAL")?;
            connection.close().map_err(|(_, error)| error)
        })();
        built.map_err(OpenError::sqlite(&path, "write"))?;
        fs::File::open(&path).and_then(|file| file.sync_all()).map_err(OpenError::io(&path, "sync"))
    }

    /// What was built becomes the database of a directory that has none.
    pub(super) fn install(&self) -> Result<(), OpenError> {
        self.rename(NEW, DATABASE)?;
        self.sync()
    }

    /// What was built takes the place of the damaged database, which is set aside. A crash on the way is found by
    /// [`finish_repair`](Self::finish_repair). Gives back what was set aside.
    pub(super) fn replace(&self, wall: u64) -> Result<Vec<PathBuf>, OpenError> {
        self.rename(NEW, REPAIRED)?;
        self.sync()?;
        self.take_place(wall)
    }

    /// Goes on where a crash interrupted [`replace`](Self::replace): none when it did not.
    pub(super) fn finish_repair(&self, wall: u64) -> Result<Option<Vec<PathBuf>>, OpenError> {
        let repaired = self.dir.join(REPAIRED);
        if !repaired.exists() {
            return Ok(None);
        }
        if self.database_bytes().is_some() {
            // Not yet begun to take the place: the damaged one will be found damaged again.
            fs::remove_file(&repaired).map_err(OpenError::io(&repaired, "remove"))?;
            return Ok(None);
        }
        self.take_place(wall).map(Some)
    }

    /// The database goes first: while it is gone, the repaired one is known to be whole. Its log goes before the
    /// repaired one comes in: SQLite would play it into that.
    fn take_place(&self, wall: u64) -> Result<Vec<PathBuf>, OpenError> {
        let base = self.free_name(wall);
        let mut aside = Vec::new();
        for (name, tail) in [(DATABASE, ""), (WAL, "-wal")] {
            if self.dir.join(name).exists() {
                let to = format!("{base}{tail}");
                self.rename(name, &to)?;
                self.sync()?;
                aside.push(self.dir.join(to));
            }
        }
        self.forget_shm();
        self.rename(REPAIRED, DATABASE)?;
        self.sync()?;
        Ok(aside)
    }

    /// A name of this time under which nothing lies yet.
    fn free_name(&self, wall: u64) -> String {
        let time = Timestamp(wall).to_string();
        let time = time.get(..19).unwrap_or(&time).replace(':', "-");
        let base = format!("{DATABASE}.damaged-{time}Z");
        let free = |name: &str| {
            ["", "-wal"].iter().all(|tail| fs::symlink_metadata(self.dir.join(format!("{name}{tail}"))).is_err())
        };
        if free(&base) {
            return base;
        }
        (2..).map(|n| format!("{base}-{n}")).find(|name| free(name)).unwrap_or(base)
    }

    /// The shared memory of readers is made from the log at every opening; a stale one is worth nothing.
    pub(super) fn forget_shm(&self) {
        let _ = fs::remove_file(self.dir.join(SHM));
    }

    pub(super) fn remove_leftovers(&self) -> Result<(), OpenError> {
        for tail in ["", "-journal", "-wal", "-shm"] {
            let path = self.dir.join(format!("{NEW}{tail}"));
            match fs::remove_file(&path) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => {
                    return Err(OpenError::io(path, "remove")(error));
                }
                _ => {}
            }
        }
        Ok(())
    }

    fn rename(&self, from: &str, to: &str) -> Result<(), OpenError> {
        fs::rename(self.dir.join(from), self.dir.join(to)).map_err(OpenError::io(self.dir.join(from), "rename"))
    }

    fn sync(&self) -> Result<(), OpenError> {
        file::sync_directory(&self.dir).map_err(OpenError::io(&self.dir, "sync"))
    }
}
