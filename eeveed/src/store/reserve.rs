//! Room on the disk for what makes room. A deletion needs some, too: in the write-ahead log, and what was delivered has to
//! be known to the disk before it is. So batches that bring something are refused while a little is left, and a file beside
//! the database holds a reserve that is given up when others took even that little. It is made anew when there is room for
//! it again and as much as is kept free twice over; only then is anything new taken: a disk at the edge is not one that is
//! full and well by turns.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt};
use std::path::Path;
use std::time::{Duration, Instant};

use nix::fcntl::{FallocateFlags, fallocate};
use nix::libc::{O_CLOEXEC, O_NOFOLLOW};
use nix::sys::statvfs::statvfs;

use super::place::Place;
use super::{Home, Store};
use crate::core::storage::{Batch, StorageError, Write};
use crate::file;

pub(super) const FILE: &str = "durable.reserve";

/// The reserve on a disk of half a gigabyte or more: a batch of ten thousand deletions, or the shared memory and the log of
/// a start, and what the log before them carries over into the database.
const BYTES_MAX: u64 = 16 << 20;

/// On small disks it is so small a part.
const PART: u64 = 32;
const BYTES_MIN: u64 = 128 << 10;

/// With less than this a start may not come so far as to open the database.
const START_BYTES: u64 = 512 << 10;

/// Beyond what is wanted: more than the log can carry over.
const FAR_BYTES: u64 = 64 << 20;

/// How often it is looked whether there is room again, by those who need none.
const LOOK_TIME: Duration = Duration::from_millis(500);

/// The file, and what is kept free beside it.
#[derive(Debug, Default)]
pub(super) struct Reserve {
    stands: bool,
    /// As large as it is to be; 0 before that is known.
    bytes: u64,
    looked: Option<Instant>,
    /// How many pages it is in memory.
    #[cfg(test)]
    pub(super) pages: u32,
}

/// What the file system has: bytes in all, and bytes for us. None where it does not know.
fn space(dir: &Path) -> Option<(u64, u64)> {
    let found = statvfs(dir).ok()?;
    let block = found.fragment_size().max(1);
    (found.blocks() > 0).then(|| (found.blocks() * block, found.blocks_available() * block))
}

impl Reserve {
    fn size(&mut self, place: &Place) -> u64 {
        if self.bytes == 0 {
            let all = space(place.dir()).map_or(u64::MAX, |(all, _)| all);
            self.bytes = (all / PART).clamp(BYTES_MIN, BYTES_MAX).next_multiple_of(4096);
        }
        self.bytes
    }

    /// What is to stay free, beside the reserve, for the log and what it carries over.
    const fn slack(&self) -> u64 {
        self.bytes / 2
    }

    /// Makes sure that it stands, with so much free beside it.
    fn make(&mut self, place: &Place, free: u64) -> io::Result<()> {
        let (bytes, path) = (self.size(place), place.dir().join(FILE));
        let file = OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .custom_flags(O_NOFOLLOW | O_CLOEXEC)
            .open(&path)?;
        let found = file.metadata()?;
        let whole = found.len() >= bytes && found.blocks() * 512 >= bytes;
        if !whole || free > 0 {
            let made = allocate(&file, bytes + free);
            // A part of it would only be in the way.
            file.set_len(if whole || made.is_ok() { bytes } else { 0 })?;
            file.sync_all()?;
            file::sync_directory(place.dir())?;
            made?;
        }
        self.stands = true;
        Ok(())
    }

    /// Frees its room. Whether there was any.
    fn give_up(&mut self, place: &Place) -> bool {
        self.stands = false;
        let given = (|| {
            let file =
                OpenOptions::new().write(true).custom_flags(O_NOFOLLOW | O_CLOEXEC).open(place.dir().join(FILE))?;
            let had = file.metadata()?.blocks() > 0;
            file.set_len(0)?;
            // File systems free it when they have written that.
            file.sync_all()?;
            Ok::<_, io::Error>(had)
        })();
        given.unwrap_or(false)
    }

    /// Before a start: one that finds no room at all could not open what it is to empty.
    pub(super) fn give_up_for_start(place: &Place) {
        if space(place.dir()).is_some_and(|(_, free)| free < START_BYTES) {
            Self::default().give_up(place);
        }
    }
}

/// Room that is really there, whatever the file system knows of it.
fn allocate(file: &File, bytes: u64) -> io::Result<()> {
    match fallocate(file, FallocateFlags::empty(), 0, bytes.cast_signed()) {
        Ok(()) => Ok(()),
        Err(nix::Error::EOPNOTSUPP | nix::Error::ENOSYS | nix::Error::EINVAL) => {
            let block = [0xe5; 64 * 1024];
            for at in (0..bytes).step_by(block.len()) {
                let part = block.len().min(usize::try_from(bytes - at).unwrap_or(usize::MAX));
                file.write_all_at(&block[..part], at)?;
            }
            Ok(())
        }
        Err(error) => Err(error.into()),
    }
}

/// What a batch takes of the disk at most: in the log, and then in the database.
fn cost(batch: &Batch) -> u64 {
    let of = |write: &Write| if let Write::Enqueue { record, .. } = write { 2 * record.size() + 64 } else { 256 };
    batch.writes.iter().map(of).sum()
}

impl Store {
    /// Whether a batch that brings something may be taken; looks, now and then, whether it may be again.
    pub(super) fn check_room(&mut self, batch: &Batch, grows: bool) -> Result<(), StorageError> {
        let (was_tight, now) = (self.tight.is_some(), Instant::now());
        let early = self.reserve.looked.is_some_and(|looked| now < looked + LOOK_TIME);
        // (While all is well, who brings nothing may use what there is.)
        if !grows && (early || !was_tight) {
            return Ok(());
        }
        self.tight = self.find_room(cost(batch), was_tight).err();
        self.reserve.looked = (self.tight.is_some() && matches!(self.home, Home::Disk(_))).then_some(now);
        match &self.tight {
            Some(why) if grows => Err(StorageError::Unavailable(why.clone())),
            _ => Ok(()),
        }
    }

    fn find_room(&mut self, cost: u64, was_tight: bool) -> Result<(), String> {
        let place = match &self.home {
            Home::Disk(place) => place.clone(),
            #[cfg(test)]
            Home::Memory => {
                let limited = was_tight && self.options.page_limit.is_some();
                if limited && (!self.reserve.stands || self.pages("PRAGMA freelist_count").is_ok_and(|free| free < 2)) {
                    return Err("the disk is full".into());
                }
                self.reserve.stands = true;
                return Ok(());
            }
        };
        let (bytes, slack) = (self.reserve.size(&place), self.reserve.slack());
        let stands = self.reserve.stands;
        let wanted = cost + if was_tight { 2 * slack } else { slack } + if stands { 0 } else { bytes };
        let (free, room) = self.room(&place, wanted);
        if room >= wanted {
            if stands && !was_tight {
                return Ok(());
            }
            // Where it is the file system that has the room, and not the database, that is tried: there are quotas, too.
            match self.reserve.make(&place, if was_tight && free >= wanted { slack } else { 0 }) {
                Ok(()) => return Ok(()),
                Err(error) if is_full(&error) => {}
                Err(error) => return Err(format!("{} cannot be made: {error}", place.dir().join(FILE).display())),
            }
        }
        Err(self.full(&place))
    }

    /// What the file system has, and how much there is for what comes: of that and in the database itself, beside what the
    /// log will carry over. More than enough where nobody knows.
    fn room(&self, place: &Place, wanted: u64) -> (u64, u64) {
        let free = space(place.dir()).map_or(u64::MAX, |(_, free)| free);
        // Most disks are nowhere near.
        if free >= wanted.saturating_add(FAR_BYTES) {
            return (free, free);
        }
        let (Ok(all), Ok(unused)) = (self.pages("PRAGMA page_count"), self.pages("PRAGMA freelist_count")) else {
            return (free, free);
        };
        let page_bytes = u64::from(self.options.page_bytes);
        let to_come = (all * page_bytes).saturating_sub(place.database_bytes().unwrap_or(0));
        (free, (free + unused * page_bytes).saturating_sub(to_come))
    }

    fn pages(&self, pragma: &str) -> rusqlite::Result<u64> {
        let connection = self.connection.as_ref().ok_or(rusqlite::Error::QueryReturnedNoRows)?;
        connection.prepare_cached(pragma)?.query_row((), |row| row.get(0))
    }

    fn full(&self, place: &Place) -> String {
        let mib = |bytes: u64| bytes as f64 / f64::from(1 << 20);
        let free = space(place.dir()).map_or_else(String::new, |(_, free)| format!(" ({:.1} MiB are free)", mib(free)));
        format!(
            "the disk is full{free}: make {:.1} MiB of room in {}, or have waiting messages taken, see eeveectl queue",
            mib(self.reserve.bytes + 2 * self.reserve.slack()),
            place.dir().display()
        )
    }

    /// A write found no room: what brings nothing may have the reserve, if it stands. Nothing new is taken from now on.
    pub(super) fn run_out(&mut self, grows: bool) {
        let place = match &self.home {
            Home::Disk(place) => place.clone(),
            #[cfg(test)]
            Home::Memory => {
                self.tight.get_or_insert_with(|| "the disk is full".into());
                if !grows && std::mem::take(&mut self.reserve.stands) {
                    let pages = self.pages("PRAGMA page_count").expect("a count of pages");
                    self.set_page_limit(Some(pages as u32 + self.reserve.pages));
                }
                return;
            }
        };
        self.reserve.size(&place);
        let why = self.full(&place);
        self.tight.get_or_insert(why);
        if !grows && self.reserve.give_up(&place) {
            tracing::debug!("the reserve of the store is given up");
        }
        self.reserve.looked = Some(Instant::now());
    }
}

pub(super) fn is_full(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)
}
