//! The ids of messages: increasing over the whole life of the bus, across crashes, without a write per message.
//!
//! On disk stands the first id of which nobody has been told that it is free: all below may have been used. A block of
//! 2^32 is reserved by one synced write, long before it is needed, and then handed out by counting. A crash loses the
//! rest of the block: holes are allowed, repeats are not.
//!
//! The mark is kept twice, in two files written one after the other, each in place (which a full disk does not stop)
//! and with a checksum. A crash while one is written leaves the other whole.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use anyhow::{Context, bail};
use nix::libc::{O_CLOEXEC, O_NOFOLLOW};

use crate::file;

/// How many ids one synced write reserves.
pub(crate) const BLOCK: u64 = 1 << 32;
/// All ids are below, so that a JavaScript number holds them.
pub(crate) const ID_END: u64 = 1 << 53;
/// 0 is left free: it means "none" to readers.
const FIRST: u64 = 1;
/// When less than this is left of the block, the next one should be reserved.
const LOW: u64 = BLOCK / 2;

const FILES: [&str; 2] = ["ids", "ids.copy"];
/// Fixed, so that it is replaced in place: one sector, never half a line.
const LINE_BYTES: usize = 42;
const HEAD: &str = "eevee-ids 1 ";

/// Hands out ids. Belongs to the one loop that stamps messages.
pub(crate) struct IdBlocks {
    next: u64,
    shared: Arc<Shared>,
}

/// Reserves blocks, from any thread: the write may take as long as the disk likes.
#[derive(Clone)]
pub(crate) struct Reserver(Arc<Shared>);

struct Shared {
    /// The end of what is reserved; ids below may be handed out.
    end: AtomicU64,
    reserving: AtomicBool,
    marks: Mutex<[Mark; 2]>,
}

struct Mark {
    path: PathBuf,
    file: File,
}

impl IdBlocks {
    /// Finds where the last run stopped and reserves the first block.
    ///
    /// Fails when the state directory cannot be written, when both files are damaged (ids would repeat), when they are of
    /// a later version, or when the ids below 2^53 are used up.
    pub(crate) fn open(state_dir: &Path) -> anyhow::Result<Self> {
        let read = [Found::read(&state_dir.join(FILES[0]))?, Found::read(&state_dir.join(FILES[1]))?];
        let [one, two] = &read;
        let first = match (one, two) {
            (Found::Nothing, Found::Nothing) => FIRST,
            (Found::Mark(one), Found::Mark(two)) => *one.max(two),
            // The lost one may have been a block ahead: it is written first.
            (Found::Mark(mark), other) | (other, Found::Mark(mark)) => {
                tracing::warn!(
                    "one of the two files {}/{} and {} {other}; going on from the other",
                    state_dir.display(),
                    FILES[0],
                    FILES[1]
                );
                mark.saturating_add(BLOCK).min(ID_END)
            }
            _ => bail!(
                "{dir}/{one_name} {one} and {dir}/{two_name} {two}: without them message ids would repeat. Restore one of \
                 them from a backup; or, if no stored message matters, remove both",
                dir = state_dir.display(),
                one_name = FILES[0],
                two_name = FILES[1],
            ),
        };
        let marks = [Mark::open(state_dir, FILES[0], first)?, Mark::open(state_dir, FILES[1], first)?];
        file::sync_directory(state_dir).with_context(|| format!("cannot sync {}", state_dir.display()))?;
        let shared = Shared { end: AtomicU64::new(first), reserving: AtomicBool::new(false), marks: Mutex::new(marks) };
        let blocks = Self { next: first, shared: Arc::new(shared) };
        blocks.reserve().with_context(|| format!("cannot reserve message ids in {}", state_dir.display()))?;
        Ok(blocks)
    }

    /// The next id; `None` when no id is left that was reserved. That takes 2^31 messages without one successful
    /// [`Self::reserve`]: the disk has refused for hours, and a message without an id of its own has to be refused too.
    pub(crate) fn next(&mut self) -> Option<u64> {
        let id = self.next;
        if id >= self.shared.end.load(Ordering::Acquire) {
            return None;
        }
        self.next = id + 1;
        Some(id)
    }

    /// The id that [`Self::next`] would give.
    pub(crate) const fn upcoming(&self) -> u64 {
        self.next
    }

    /// Whether it is time for [`Self::reserve`], and nobody is at it. False when there are no more ids to reserve.
    pub(crate) fn needs_reservation(&self) -> bool {
        let end = self.shared.end.load(Ordering::Acquire);
        end - self.next < LOW && end < ID_END && !self.shared.reserving.load(Ordering::Acquire)
    }

    /// Reserves the next block: two small synced writes. It may block; see [`Self::reserver`].
    pub(crate) fn reserve(&self) -> io::Result<()> {
        self.reserver().reserve()
    }

    /// For reserving in another thread.
    pub(crate) fn reserver(&self) -> Reserver {
        Reserver(self.shared.clone())
    }

    /// At a clean stop: gives back what was not used, so that restarts do not eat up the ids. Nothing depends on it.
    pub(crate) fn release(self) -> io::Result<()> {
        let marks = self.shared.marks.lock().unwrap_or_else(PoisonError::into_inner);
        // Nobody may count on more from here on, should a Reserver still live.
        self.shared.end.store(self.next, Ordering::Release);
        for mark in marks.iter() {
            mark.write(self.next)?;
        }
        Ok(())
    }
}

impl Reserver {
    /// See [`IdBlocks::reserve`].
    pub(crate) fn reserve(&self) -> io::Result<()> {
        let shared = &*self.0;
        // One at a time; who comes second finds the work done by the first and reserves one more, which does no harm.
        let marks = shared.marks.lock().unwrap_or_else(PoisonError::into_inner);
        shared.reserving.store(true, Ordering::Release);
        let end = shared.end.load(Ordering::Acquire);
        let target = end.saturating_add(BLOCK).min(ID_END);
        let written = if target == end {
            Err(io::Error::other("all message ids below 2^53 are used up; a new state directory starts again from 1"))
        } else {
            marks.iter().try_for_each(|mark| mark.write(target))
        };
        // Both are on disk, or nothing of it counts.
        if written.is_ok() {
            shared.end.store(target, Ordering::Release);
        }
        shared.reserving.store(false, Ordering::Release);
        written
    }
}

/// What a file says.
enum Found {
    Mark(u64),
    Nothing,
    Damaged,
}

impl Found {
    fn read(path: &Path) -> anyhow::Result<Self> {
        let content = match file::open_regular(path) {
            Ok((file, _)) => file::read_bounded(&file, 4096),
            Err(error) => Err(error),
        };
        let content = match content {
            Ok(content) => content,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Self::Nothing),
            Err(error) if error.kind() == io::ErrorKind::InvalidInput => return Ok(Self::Damaged),
            Err(error) => return Err(error).with_context(|| format!("cannot read {}", path.display())),
        };
        match parse(&content) {
            Some(mark) => Ok(Self::Mark(mark)),
            None if is_later(&content) => {
                bail!("{} was written by a later version of eeveed; install that version", path.display())
            }
            None => Ok(Self::Damaged),
        }
    }
}

impl std::fmt::Display for Found {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Mark(_) => "is whole",
            Self::Nothing => "is missing",
            Self::Damaged => "is damaged",
        })
    }
}

impl Mark {
    fn open(state_dir: &Path, name: &str, mark: u64) -> anyhow::Result<Self> {
        let path = state_dir.join(name);
        // What is no whole line of ours is replaced whole: writing in place keeps a wrong length, or follows a link.
        if !matches!(Found::read(&path)?, Found::Mark(_)) {
            file::replace(state_dir, name, line(mark).as_bytes())
                .with_context(|| format!("cannot write {}", path.display()))?;
        }
        let file = OpenOptions::new()
            .write(true)
            .custom_flags(O_NOFOLLOW | O_CLOEXEC)
            .open(&path)
            .with_context(|| format!("cannot write {}", path.display()))?;
        Ok(Self { path, file })
    }

    fn write(&self, mark: u64) -> io::Result<()> {
        let written = self.file.write_all_at(line(mark).as_bytes(), 0).and_then(|()| self.file.sync_data());
        written.map_err(|error| io::Error::new(error.kind(), format!("{}: {error}", self.path.display())))
    }
}

fn line(mark: u64) -> String {
    let text = format!("{HEAD}{mark:020}");
    let crc = crc32fast::hash(text.as_bytes());
    format!("{text} {crc:08x}\n")
}

fn parse(content: &[u8]) -> Option<u64> {
    let text = std::str::from_utf8(content).ok()?;
    let mark = text.strip_prefix(HEAD)?.get(..20)?.parse().ok()?;
    (line(mark) == text && (FIRST..=ID_END).contains(&mark)).then_some(mark)
}

/// A line of another version with a checksum that fits.
fn is_later(content: &[u8]) -> bool {
    let Some((text, crc)) = content.strip_suffix(b"\n").and_then(|line| line.split_last_chunk::<8>()) else {
        return false;
    };
    let Some(text) = text.strip_suffix(b" ") else { return false };
    text.starts_with(b"eevee-ids ")
        && !text.starts_with(HEAD.as_bytes())
        && *crc == *format!("{:08x}", crc32fast::hash(text)).as_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reason(state_dir: &Path) -> String {
        match IdBlocks::open(state_dir) {
            Ok(blocks) => panic!("opened at {}", blocks.upcoming()),
            Err(error) => format!("{error:#}"),
        }
    }

    fn put(state_dir: &Path, name: &str, mark: u64) {
        std::fs::write(state_dir.join(name), line(mark)).unwrap();
    }

    #[test]
    fn the_line_has_a_fixed_length() {
        for mark in [FIRST, 4711, ID_END] {
            assert_eq!(line(mark).len(), LINE_BYTES);
            assert_eq!(parse(line(mark).as_bytes()), Some(mark));
        }
        assert_eq!(parse(line(0).as_bytes()), None);
        assert_eq!(parse(line(ID_END + 1).as_bytes()), None);
        assert_eq!(parse(line(u64::MAX).as_bytes()), None);
    }

    #[test]
    fn ids_increase_over_crashes_and_clean_stops() {
        let dir = tempfile::tempdir().unwrap();
        let mut ids = IdBlocks::open(dir.path()).unwrap();
        assert_eq!((ids.next(), ids.next(), ids.upcoming()), (Some(1), Some(2), 3));
        drop(ids); // A crash.
        let mut ids = IdBlocks::open(dir.path()).unwrap();
        assert_eq!(ids.next(), Some(1 + BLOCK));
        ids.release().unwrap();
        let mut ids = IdBlocks::open(dir.path()).unwrap();
        assert_eq!(ids.next(), Some(2 + BLOCK));
        ids.release().unwrap();
        // Nothing was used in this run.
        IdBlocks::open(dir.path()).unwrap().release().unwrap();
        assert_eq!(IdBlocks::open(dir.path()).unwrap().upcoming(), 3 + BLOCK);
    }

    #[test]
    fn the_next_block_is_reserved_at_half_time() {
        let dir = tempfile::tempdir().unwrap();
        let mut ids = IdBlocks::open(dir.path()).unwrap();
        assert!(!ids.needs_reservation());
        ids.next = FIRST + BLOCK - LOW;
        assert!(!ids.needs_reservation());
        ids.next += 1;
        assert!(ids.needs_reservation());
        std::thread::spawn({
            let reserver = ids.reserver();
            move || reserver.reserve().unwrap()
        })
        .join()
        .unwrap();
        assert!(!ids.needs_reservation());
        // Over the edge of the block without a gap.
        ids.next = FIRST + BLOCK - 1;
        assert_eq!((ids.next(), ids.next()), (Some(BLOCK), Some(BLOCK + 1)));
        drop(ids);
        assert_eq!(IdBlocks::open(dir.path()).unwrap().upcoming(), FIRST + 2 * BLOCK);
    }

    #[test]
    fn nothing_beyond_the_reservation_is_given_out() {
        let dir = tempfile::tempdir().unwrap();
        let mut ids = IdBlocks::open(dir.path()).unwrap();
        ids.next = FIRST + BLOCK - 1;
        assert_eq!((ids.next(), ids.next(), ids.next()), (Some(BLOCK), None, None));
        assert!(ids.needs_reservation());
        ids.reserve().unwrap();
        assert_eq!(ids.next(), Some(BLOCK + 1));
    }

    #[test]
    fn a_disk_that_refuses_changes_nothing_and_is_asked_again() {
        let dir = tempfile::tempdir().unwrap();
        let mut ids = IdBlocks::open(dir.path()).unwrap();
        // /dev/full gives ENOSPC, as a full disk does; first to the first file, then to the second.
        for broken in [0, 1] {
            let swap = |file: File| {
                let mut marks = ids.shared.marks.lock().unwrap();
                std::mem::replace(&mut marks[broken].file, file)
            };
            let whole = swap(OpenOptions::new().write(true).open("/dev/full").unwrap());
            let error = ids.reserve().unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::StorageFull);
            assert!(error.to_string().contains(FILES[broken]), "{error}");
            swap(whole);
        }
        assert_eq!(ids.next(), Some(1));
        ids.next = FIRST + BLOCK;
        assert_eq!(ids.next(), None);
        ids.reserve().unwrap();
        assert_eq!(ids.next(), Some(FIRST + BLOCK));
    }

    #[test]
    fn ids_stay_below_2_to_the_53() {
        let dir = tempfile::tempdir().unwrap();
        for name in FILES {
            put(dir.path(), name, ID_END - 10);
        }
        let mut ids = IdBlocks::open(dir.path()).unwrap();
        assert!(!ids.needs_reservation(), "there is nothing left to reserve");
        let given: Vec<_> = std::iter::from_fn(|| ids.next()).collect();
        assert_eq!(given, (ID_END - 10..ID_END).collect::<Vec<_>>());
        assert!(ids.reserve().unwrap_err().to_string().contains("2^53"));
        drop(ids);
        assert!(reason(dir.path()).contains("2^53"));
    }

    #[test]
    fn one_damaged_file_costs_a_block_and_no_id_twice() {
        for broken in [0, 1] {
            for content in [b"".as_slice(), b"eevee-ids 1 0000", &[0; LINE_BYTES], &[b'x'; 10_000]] {
                let dir = tempfile::tempdir().unwrap();
                let mut ids = IdBlocks::open(dir.path()).unwrap();
                let used = ids.next().unwrap();
                drop(ids);
                std::fs::write(dir.path().join(FILES[broken]), content).unwrap();
                let ids = IdBlocks::open(dir.path()).unwrap();
                assert!(ids.upcoming() > used + BLOCK - 1);
                drop(ids);
                // Healed: both are whole again.
                assert!(FILES.iter().all(|name| matches!(Found::read(&dir.path().join(name)), Ok(Found::Mark(_)))));
            }
        }
    }

    #[test]
    fn every_flipped_bit_is_noticed() {
        let whole = line(123_456_789);
        for at in 0..LINE_BYTES {
            for bit in 0..8 {
                let mut bytes = whole.clone().into_bytes();
                bytes[at] ^= 1 << bit;
                assert_eq!(parse(&bytes), None, "byte {at} bit {bit}");
                assert!(!is_later(&bytes), "byte {at} bit {bit}");
            }
        }
    }

    #[test]
    fn a_crash_between_the_two_writes_takes_the_larger() {
        let dir = tempfile::tempdir().unwrap();
        put(dir.path(), FILES[0], 10 + BLOCK);
        put(dir.path(), FILES[1], 10);
        assert_eq!(IdBlocks::open(dir.path()).unwrap().upcoming(), 10 + BLOCK);
    }

    #[test]
    fn one_missing_file_is_made_again() {
        for missing in FILES {
            let dir = tempfile::tempdir().unwrap();
            drop(IdBlocks::open(dir.path()).unwrap());
            std::fs::remove_file(dir.path().join(missing)).unwrap();
            assert!(IdBlocks::open(dir.path()).unwrap().upcoming() > BLOCK);
            assert!(dir.path().join(missing).exists());
        }
    }

    #[test]
    fn without_either_file_the_start_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join(FILES[0]), "nonsense").unwrap();
        assert!(reason(dir.path()).contains("ids is damaged and"), "{}", reason(dir.path()));
        assert!(reason(dir.path()).contains("ids.copy is missing"), "{}", reason(dir.path()));
        std::fs::write(dir.path().join(FILES[1]), "").unwrap();
        assert!(reason(dir.path()).contains("would repeat"), "{}", reason(dir.path()));
        assert_eq!(std::fs::read(dir.path().join(FILES[0])).unwrap(), b"nonsense");
    }

    #[test]
    fn a_later_version_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let text = "eevee-ids 2 something else";
        std::fs::write(dir.path().join(FILES[1]), format!("{text} {:08x}\n", crc32fast::hash(text.as_bytes())))
            .unwrap();
        put(dir.path(), FILES[0], 5);
        assert!(reason(dir.path()).contains("later version"));
    }

    #[test]
    fn links_and_missing_directories() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("target"), line(77)).unwrap();
        std::os::unix::fs::symlink(dir.path().join("target"), dir.path().join(FILES[0])).unwrap();
        put(dir.path(), FILES[1], 100);
        assert_eq!(IdBlocks::open(dir.path()).unwrap().upcoming(), 100 + BLOCK);
        assert_eq!(std::fs::read_to_string(dir.path().join("target")).unwrap(), line(77));
        assert!(reason(&dir.path().join("none")).contains("none"));
    }
}
