//! One file that is open, and how far it was read, published and confirmed. It stays the same file when it is renamed or
//! deleted; when it is cut to nothing, a copy with the same content takes its place.

use std::collections::VecDeque;
use std::fs::{File, Metadata};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::unistd::{Whence, lseek};

use super::print::{self, Digested, HEAD_BYTES, Likeness, Print};
use super::state::Entry;
use crate::split::{Position, Record, Rules, Splitter};

/// What is read at once.
const CHUNK_BYTES: usize = 64 << 10;
/// A file whose first start lies in the middle of a line is read from the beginning of that line, if it is not longer.
const LINE_BYTES: u64 = 64 << 10;

/// The identity of a file while it exists.
pub(crate) type Key = (u64, u64);

/// Size and time of the last change.
pub(crate) type Looks = (u64, i64, i64);

pub(crate) fn key(metadata: &Metadata) -> Key {
    (metadata.dev(), metadata.ino())
}

/// The key of what no file holds, as far as we know; a copy of it is looked for.
pub(crate) fn nowhere(epoch: u64) -> Key {
    (u64::MAX, epoch)
}

pub(crate) fn looks(metadata: &Metadata) -> Looks {
    (metadata.len(), metadata.mtime(), metadata.mtime_nsec())
}

pub(crate) struct Tail {
    /// The path that is followed.
    pub(crate) path: PathBuf,
    /// The same as a header's value.
    pub(crate) channel: Arc<str>,
    file: File,
    /// None once the file holds something else.
    pub(crate) key: Option<Key>,
    pub(crate) print: Print,
    splitter: Splitter,
    pub(crate) epoch: u64,
    done: Position,
    done_guard: Vec<u8>,
    pending: VecDeque<Pending>,
    /// Cuts that were made after `done`.
    cuts: Vec<u64>,
    /// Something may be there to be read.
    pub(crate) hot: bool,
    /// All that was there was read and published.
    pub(crate) drained: bool,
    looked: Option<Looks>,
    grown_at: Instant,
    /// Since when another file, or none, has the path.
    pub(crate) rotated_at: Option<Instant>,
    /// Since when a copy is looked for, because the file holds something else.
    sought_since: Option<Instant>,
    /// It is a copy, and does not grow any more.
    is_copy: bool,
    /// Nothing more is read from it.
    finished: bool,
    /// Whether it is written down under its epoch; before that, nothing of it is published.
    pub(crate) saved: bool,
}

struct Pending {
    end: Position,
    guard: Vec<u8>,
    settled: bool,
}

#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Look {
    /// There is more than before.
    More,
    /// Nothing more, for now.
    End,
    /// It does not hold any more what it held.
    Other,
}

impl Tail {
    /// A file that was not followed before.
    pub(crate) fn adopt(
        path: PathBuf,
        file: File,
        from_end: bool,
        epoch: u64,
        rules: Arc<Rules>,
        now: Instant,
    ) -> io::Result<Self> {
        let size = file.metadata()?.len();
        let offset = if from_end { line_start(&file, size)? } else { 0 };
        Self::at(path, file, Position { offset, part: 0 }, epoch, Vec::new(), rules, now)
    }

    /// One that was followed before.
    pub(crate) fn resume(entry: &Entry, file: File, rules: Arc<Rules>, now: Instant) -> io::Result<Self> {
        let cuts = entry.cuts.clone();
        let mut tail = Self::at(entry.path.clone(), file, entry.position, entry.epoch, cuts, rules, now)?;
        // Where it was empty when it was written down, its first bytes are not.
        tail.saved = entry.digested.head_bytes == tail.print.head.len();
        Ok(tail)
    }

    fn at(
        path: PathBuf,
        file: File,
        position: Position,
        epoch: u64,
        cuts: Vec<u64>,
        rules: Arc<Rules>,
        now: Instant,
    ) -> io::Result<Self> {
        let key = Some(key(&file.metadata()?));
        let print = Print::of(&file, position.offset)?;
        let splitter = Splitter::new(rules, position, cuts.iter().copied());
        Ok(Self {
            channel: channel(&path),
            path,
            file,
            key,
            done_guard: print.guard.clone(),
            print,
            splitter,
            epoch,
            done: position,
            pending: VecDeque::new(),
            cuts,
            hot: true,
            drained: false,
            looked: None,
            grown_at: now,
            rotated_at: None,
            sought_since: None,
            is_copy: false,
            finished: false,
            saved: false,
        })
    }

    /// Reads on. What was read counts only if the file is still the same after it was read.
    pub(crate) fn read(&mut self, now: Instant) -> io::Result<Look> {
        let metadata = self.file.metadata()?;
        if self.finished
            || self.sought_since.is_some()
            || (metadata.len() == self.print.offset && self.looked == Some(looks(&metadata)))
        {
            return Ok(Look::End);
        }
        let bytes = print::read(&self.file, self.print.offset, CHUNK_BYTES)?;
        let size = self.file.metadata()?.len();
        if size < self.print.offset + bytes.len() as u64 || !self.print.holds(&self.file, size)? {
            return Ok(Look::Other);
        }
        if bytes.is_empty() {
            self.looked = Some(looks(&metadata));
            if self.is_copy {
                self.finish();
                return Ok(Look::More);
            }
            return Ok(Look::End);
        }
        let known = self.print.head.len();
        match self.hole_end(&bytes, size)? {
            Some(end) => self.print = Print::of(&self.file, end)?,
            None => self.print.extend(&bytes),
        }
        let knows = self.print.head.len();
        if known == 0 || (known < HEAD_BYTES && knows == HEAD_BYTES) {
            self.saved = false;
        }
        if self.splitter.end() != self.print.offset {
            self.splitter.feed(&bytes, now);
        }
        self.grown_at = now;
        Ok(Look::More)
    }

    /// Where the hole ends that begins with these bytes, if it is longer than they are and the splitter has passed it.
    fn hole_end(&mut self, bytes: &[u8], size: u64) -> io::Result<Option<u64>> {
        if bytes.iter().any(|byte| *byte != 0) {
            return Ok(None);
        }
        let from = i64::try_from(self.print.offset).unwrap_or(i64::MAX);
        let end = match lseek(&self.file, from, Whence::SeekData) {
            Ok(end) => u64::try_from(end).unwrap_or(0).min(size),
            Err(Errno::ENXIO) => size,
            // A file system that knows of no holes: it is read.
            Err(Errno::EINVAL | Errno::EOPNOTSUPP) => return Ok(None),
            Err(error) => return Err(error.into()),
        };
        let is_longer = end > self.print.offset + bytes.len() as u64;
        Ok((is_longer && self.splitter.skip_hole(end)).then_some(end))
    }

    /// Whether the file still holds what was read from it, without reading on.
    pub(crate) fn holds(&mut self) -> io::Result<bool> {
        if self.sought_since.is_some() {
            return Ok(false);
        }
        let size = self.file.metadata()?.len();
        if self.print.head.is_empty() && size > 0 && self.print.offset == 0 {
            // Enough to tell it from a copy.
            self.print.head = print::head(&self.file)?;
            self.saved = false;
        }
        self.print.holds(&self.file, size)
    }

    /// What another file has to do with this one; none when this one was cut just now.
    pub(crate) fn likeness(&mut self, other: &File, size: u64) -> io::Result<Option<Likeness>> {
        if self.key.is_none() {
            return self.print.likeness(other, size).map(Some);
        }
        // By that, it is known which of them is the copy when this one is cut next.
        self.holds()?;
        let is_copy = size <= self.file.metadata()?.len() && print::begins_with(&self.file, other, size)?;
        let likeness = if is_copy { Likeness::Whole } else { Likeness::Other };
        Ok(self.holds()?.then_some(likeness))
    }

    /// A copy with the same content is read from here on in its place.
    pub(crate) fn take_copy(&mut self, file: File, now: Instant) -> io::Result<()> {
        self.key = Some(key(&file.metadata()?));
        self.file = file;
        self.looked = None;
        self.hot = true;
        self.is_copy = true;
        self.sought_since = None;
        self.rotated_at.get_or_insert(now);
        Ok(())
    }

    /// No copy is seen: since when.
    pub(crate) fn seek(&mut self, now: Instant) -> Instant {
        self.rotated_at.get_or_insert(now);
        if self.key.take().is_some() {
            self.saved = false;
        }
        *self.sought_since.get_or_insert(now)
    }

    pub(crate) fn is_sought_for(&self, time: Duration, now: Instant) -> bool {
        self.sought_since.is_some_and(|since| now >= since + time)
    }

    /// It is a copy of what was followed: it ends where it ends.
    pub(crate) fn ends(&mut self) {
        self.is_copy = true;
    }

    /// Nothing more can be read.
    pub(crate) fn lose(&mut self) {
        self.sought_since = None;
        self.key = None;
        self.saved = false;
        self.finish();
    }

    /// Nothing more is read; the last line counts, too, although it has no end.
    pub(crate) fn finish(&mut self) {
        if !self.finished {
            self.finished = true;
            self.hot = true;
            self.splitter.cut_all();
            self.note_cuts();
        }
    }

    fn note_cuts(&mut self) {
        for cut in self.splitter.cuts() {
            if !self.cuts.contains(&cut) {
                self.cuts.push(cut);
                self.saved = false;
            }
        }
    }

    pub(crate) fn next_record(&mut self) -> Option<Record> {
        let record = self.splitter.next()?;
        self.pending.push_back(Pending { end: record.end, guard: record.guard.clone(), settled: false });
        Some(record)
    }

    /// When a record that waits for more lines is to be ended.
    pub(crate) fn complete_at(&self) -> Option<Instant> {
        self.splitter.complete_at()
    }

    pub(crate) fn complete(&mut self) {
        self.splitter.cut_joined();
        self.note_cuts();
        self.hot = true;
    }

    pub(crate) fn set_rules(&mut self, rules: Arc<Rules>) {
        self.splitter.set_rules(rules);
        self.hot = true;
    }

    /// The bus has confirmed the record that ends here. Whether the place moved, up to which all is confirmed.
    pub(crate) fn settle(&mut self, end: Position) -> bool {
        let Some(pending) = self.pending.iter_mut().find(|pending| pending.end == end) else { return false };
        pending.settled = true;
        let mut moved = false;
        while let Some(pending) = self.pending.pop_front_if(|pending| pending.settled) {
            (self.done, self.done_guard) = (pending.end, pending.guard);
            moved = true;
        }
        if moved {
            self.cuts.retain(|cut| *cut > self.done.offset);
        }
        moved
    }

    /// Nothing of it is left to do.
    pub(crate) fn is_over(&self) -> bool {
        self.finished && self.drained && self.pending.is_empty()
    }

    pub(crate) fn is_finished(&self) -> bool {
        self.finished
    }

    /// Since when neither its path nor its content has changed.
    pub(crate) fn quiet_since(&self) -> Option<Instant> {
        Some(self.rotated_at?.max(self.grown_at))
    }

    /// Whether some directory still has a name for it.
    pub(crate) fn is_linked(&self) -> bool {
        self.file.metadata().is_ok_and(|metadata| metadata.nlink() > 0)
    }

    pub(crate) fn looks(&self) -> Option<Looks> {
        self.file.metadata().ok().map(|metadata| looks(&metadata))
    }

    /// What is to be written down; none when there is nothing to come back to.
    pub(crate) fn entry(&self) -> Option<Entry> {
        let (device, inode) = match self.key {
            Some(key) => key,
            // What the bus has not confirmed is read from a copy after a kill.
            None if !self.is_over() => nowhere(self.epoch),
            None => return None,
        };
        Some(Entry {
            path: self.path.clone(),
            device,
            inode,
            digested: Digested { marks: self.print.marks.clone(), ..Digested::new(&self.print.head, &self.done_guard) },
            epoch: self.epoch,
            position: self.done,
            cuts: self.cuts.clone(),
            copy: false,
        })
    }

    /// How many bytes were read and are not yet records.
    pub(crate) fn incomplete(&self) -> u64 {
        self.splitter.end() - self.splitter.begin().offset
    }
}

/// The path as the value of a header.
pub(crate) fn channel(path: &std::path::Path) -> Arc<str> {
    let text: String =
        path.to_string_lossy().chars().map(|c| if c.is_control() { char::REPLACEMENT_CHARACTER } else { c }).collect();
    let end = text.floor_char_boundary(1024.min(text.len()));
    text[..end].into()
}

/// Where the line begins that the end of a file is in.
fn line_start(file: &File, size: u64) -> io::Result<u64> {
    let from = size.saturating_sub(LINE_BYTES);
    let bytes = print::read(file, from, (size - from) as usize)?;
    Ok(match bytes.iter().rposition(|byte| *byte == b'\n') {
        Some(at) => from + at as u64 + 1,
        None if from == 0 => 0,
        None => size,
    })
}
