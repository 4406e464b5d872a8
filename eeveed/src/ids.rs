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
use std::ops::Range;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

use anyhow::{Context, bail};
use nix::libc::{O_CLOEXEC, O_NOFOLLOW};

use crate::file;

/// How many ids one synced write reserves.
const BLOCK: u64 = 1 << 32;
/// All ids are below, so that a JavaScript number holds them.
const ID_END: u64 = 1 << 53;
/// 0 is left free: it means "none" to readers.
const FIRST: u64 = 1;

const FILES: [&str; 2] = ["ids", "ids.copy"];
const HEAD: &str = "eevee-ids 1 ";

/// The reservation on disk. Can be used from any thread: writing takes as long as the disk likes.
#[derive(Debug)]
pub(crate) struct IdBlocks(Mutex<Blocks>);

#[derive(Debug)]
struct Blocks {
    /// The end of what is reserved: on disk stands this or more.
    end: u64,
    marks: [Mark; 2],
}

#[derive(Debug)]
struct Mark {
    path: PathBuf,
    file: File,
}

impl IdBlocks {
    /// Finds where the last run stopped: the first id of this one is given back beside. None may be given out before
    /// [`reserve_first`](Self::reserve_first) says so.
    ///
    /// Fails when no file is left that can be trusted (ids would repeat), when one is of a later version, or when one
    /// that has to be made anew cannot be.
    pub(crate) fn open(state_dir: &Path) -> anyhow::Result<(Self, u64)> {
        let found = [Found::read(&state_dir.join(FILES[0]))?, Found::read(&state_dir.join(FILES[1]))?];
        let first = match &found {
            [Found::Nothing, Found::Nothing] => FIRST,
            [Found::Mark(one), Found::Mark(two)] => *one.max(two),
            [Found::Mark(mark), _] | [_, Found::Mark(mark)] => {
                tracing::warn!("{}; going on from the other", describe(state_dir, &found));
                // The lost one may have been a block ahead: they are written one after the other.
                mark.saturating_add(BLOCK).min(ID_END)
            }
            _ => bail!(
                "{}: message ids would repeat. Restore one of them from a backup; or, if no stored message matters, \
                 remove both",
                describe(state_dir, &found)
            ),
        };
        let marks = [Mark::open(state_dir, FILES[0], first)?, Mark::open(state_dir, FILES[1], first)?];
        Ok((Self(Mutex::new(Blocks { end: first, marks })), first))
    }

    /// Reserves the first block of this run; gives back its end. Three syncs, so the bus starts beside it.
    ///
    /// Fails when the state directory cannot be written, or when the ids below 2^53 are used up.
    pub(crate) fn reserve_first(&self, state_dir: &Path) -> anyhow::Result<u64> {
        // The last run may have crashed before the names of its new files were synced.
        file::sync_directory(state_dir).with_context(|| format!("cannot sync {}", state_dir.display()))?;
        let ids = self.reserve().with_context(|| format!("cannot reserve message ids in {}", state_dir.display()))?;
        Ok(ids.end)
    }

    /// Reserves the next block: the ids right after those reserved before. Two small synced writes; if one fails, nothing
    /// is reserved, and trying again later is right.
    pub(crate) fn reserve(&self) -> io::Result<Range<u64>> {
        let mut blocks = self.lock();
        let ids = blocks.end..blocks.end.saturating_add(BLOCK).min(ID_END);
        if ids.is_empty() {
            return Err(io::Error::other("all message ids below 2^53 are used up; a new state directory begins again"));
        }
        blocks.write(ids.end)?;
        blocks.end = ids.end;
        Ok(ids)
    }

    /// At a clean stop, when no message will be stamped any more: gives back all from `next` on, so that restarts do not
    /// eat up the ids. Nothing depends on it.
    pub(crate) fn release(&self, next: u64) -> io::Result<()> {
        let mut blocks = self.lock();
        if next > blocks.end {
            return Ok(());
        }
        blocks.end = next;
        blocks.write(next.max(FIRST))
    }

    fn lock(&self) -> MutexGuard<'_, Blocks> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Blocks {
    fn write(&self, mark: u64) -> io::Result<()> {
        self.marks.iter().try_for_each(|file| file.write(mark))
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

fn describe(state_dir: &Path, found: &[Found; 2]) -> String {
    let one = |at: usize| {
        let state = match found[at] {
            Found::Mark(_) => "whole",
            Found::Nothing => "missing",
            Found::Damaged => "damaged",
        };
        format!("{} is {state}", state_dir.join(FILES[at]).display())
    };
    format!("{} and {}", one(0), one(1))
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

/// Of a fixed length, so that writing in place replaces it whole; far less than a sector, so that it is not torn.
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
mod tests;
