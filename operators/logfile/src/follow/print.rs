//! By what a file is known again: its first bytes, and those before a place in it. Names and inodes are used again by
//! others; a file that was cut to nothing and has grown past the place since looks the same from outside.

use std::collections::HashMap;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::marks::Marks;
use crate::split::GUARD_BYTES;

/// How many of the first bytes count.
pub(crate) const HEAD_BYTES: usize = 256;

/// What is compared of two files that are both there.
const SAMPLE_BYTES: usize = 4 << 10;
const SAMPLES: u64 = 16;

/// The bytes themselves, of a file that is open.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Print {
    pub(crate) head: Vec<u8>,
    /// The bytes before `offset`.
    pub(crate) guard: Vec<u8>,
    pub(crate) offset: u64,
    pub(crate) marks: Marks,
}

/// What a file has to do with one that is known.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Likeness {
    Other,
    /// It begins like it, and ends so soon that this may be chance.
    Alike,
    /// It begins like it, and ends before the place.
    Shorter,
    /// It has all that stood before the place.
    Whole,
}

/// The same as it is written down: what logs say stays in the logs.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Digested {
    pub(crate) head_bytes: usize,
    pub(crate) head: String,
    pub(crate) guard_bytes: usize,
    pub(crate) guard: String,
    #[serde(default, skip_serializing_if = "Marks::is_empty")]
    pub(crate) marks: Marks,
}

impl Print {
    /// That of a file at a place in it.
    pub(crate) fn of(file: &File, offset: u64) -> io::Result<Self> {
        let marks = Marks::of(file, offset)?;
        Ok(Self { head: head(file)?, guard: before(file, offset, GUARD_BYTES)?, offset, marks })
    }

    /// Whether this is still the file, with all that stood before the place.
    pub(crate) fn holds(&self, file: &File, size: u64) -> io::Result<bool> {
        if size < self.offset || size < self.head.len() as u64 {
            return Ok(false);
        }
        Ok(read(file, 0, self.head.len())? == self.head && before(file, self.offset, self.guard.len())? == self.guard)
    }

    /// What another file has to do with this one.
    pub(crate) fn likeness(&self, file: &File, size: u64) -> io::Result<Likeness> {
        if self.head.is_empty() {
            return Ok(Likeness::Other);
        }
        if self.holds(file, size)? {
            return Ok(Likeness::Whole);
        }
        let begins = self.head.starts_with(&read(file, 0, self.head.len().min(size as usize))?);
        Ok(beginning(begins && size < self.offset && self.marks.hold(file, size)?, self.marks.covers(size)))
    }

    /// Bytes were read that follow the place.
    pub(crate) fn extend(&mut self, bytes: &[u8]) {
        let known = self.head.len() as u64;
        if known < HEAD_BYTES as u64 && self.offset <= known {
            let new = bytes.get((known - self.offset) as usize..).unwrap_or_default();
            self.head.extend_from_slice(&new[..new.len().min(HEAD_BYTES - self.head.len())]);
        }
        self.marks.extend(&self.guard, bytes, self.offset + bytes.len() as u64);
        self.guard.extend_from_slice(&bytes[bytes.len().saturating_sub(GUARD_BYTES)..]);
        let over = self.guard.len().saturating_sub(GUARD_BYTES);
        self.guard.drain(..over);
        self.offset += bytes.len() as u64;
    }
}

impl Digested {
    pub(crate) fn new(head: &[u8], guard: &[u8]) -> Self {
        let marks = Marks::default();
        Self { head_bytes: head.len(), head: digest(head), guard_bytes: guard.len(), guard: digest(guard), marks }
    }

    /// What another file has to do with the one that this is of, whose place is `offset`.
    pub(crate) fn likeness(&self, file: &File, size: u64, offset: u64) -> io::Result<Likeness> {
        if self.head_bytes == 0 {
            return Ok(Likeness::Other);
        }
        if self.holds(file, size, offset)? {
            return Ok(Likeness::Whole);
        }
        if size >= offset || self.head_bytes > HEAD_BYTES {
            return Ok(Likeness::Other);
        }
        let begins =
            size == 0 || (size >= self.head_bytes as u64 && digest(&read(file, 0, self.head_bytes)?) == self.head);
        Ok(beginning(begins && self.marks.hold(file, size)?, self.marks.covers(size)))
    }

    /// Whether this is the file, with all that stood before `offset`.
    pub(crate) fn holds(&self, file: &File, size: u64, offset: u64) -> io::Result<bool> {
        if size < offset
            || size < self.head_bytes as u64
            || self.head_bytes > HEAD_BYTES
            || self.guard_bytes > GUARD_BYTES
        {
            return Ok(false);
        }
        Ok(digest(&read(file, 0, self.head_bytes)?) == self.head
            && digest(&before(file, offset, self.guard_bytes)?) == self.guard)
    }
}

fn beginning(begins: bool, is_sure: bool) -> Likeness {
    match (begins, is_sure) {
        (true, true) => Likeness::Shorter,
        (true, false) => Likeness::Alike,
        (false, _) => Likeness::Other,
    }
}

/// The first bytes of a file that is not known, to be compared with many that are.
pub(crate) struct Head {
    bytes: Vec<u8>,
    digests: HashMap<usize, String>,
}

impl Head {
    pub(crate) fn of(file: &File) -> io::Result<Self> {
        Ok(Self { bytes: head(file)?, digests: HashMap::new() })
    }

    /// Whether a file that is known begins so; of others there is nothing more to ask.
    pub(crate) fn is_of(&mut self, known: &Digested) -> bool {
        let count = known.head_bytes;
        let Some(bytes) = self.bytes.get(..count).filter(|bytes| !bytes.is_empty()) else { return false };
        *self.digests.entry(count).or_insert_with(|| digest(bytes)) == known.head
    }
}

/// Whether a file begins with so many bytes of another one, as far as samples say: its last bytes, and some on the way.
pub(crate) fn begins_with(file: &File, other: &File, bytes: u64) -> io::Result<bool> {
    let last = bytes.saturating_sub(SAMPLE_BYTES as u64);
    for number in 0..=SAMPLES {
        let from = last / SAMPLES * number + last % SAMPLES * number / SAMPLES;
        let length = (bytes - from).min(SAMPLE_BYTES as u64) as usize;
        if read(file, from, length)? != read(other, from, length)? {
            return Ok(false);
        }
    }
    Ok(true)
}

pub(crate) fn head(file: &File) -> io::Result<Vec<u8>> {
    read(file, 0, HEAD_BYTES)
}

fn before(file: &File, offset: u64, bytes: usize) -> io::Result<Vec<u8>> {
    let bytes = (bytes as u64).min(offset);
    read(file, offset - bytes, bytes as usize)
}

/// At most so many bytes; fewer at the end of the file.
pub(crate) fn read(file: &File, from: u64, bytes: usize) -> io::Result<Vec<u8>> {
    let mut buffer = vec![0; bytes];
    let mut filled = 0;
    while filled < bytes {
        match file.read_at(&mut buffer[filled..], from + filled as u64) {
            Ok(0) => break,
            Ok(count) => filled += count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    buffer.truncate(filled);
    Ok(buffer)
}

fn digest(bytes: &[u8]) -> String {
    Sha256::digest(bytes)[..8].iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_known_again_until_it_is_another() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("log");
        let text: String = (0..100).map(|n| format!("line {n}\n")).collect();
        std::fs::write(&path, &text).unwrap();
        let file = File::open(&path).unwrap();
        let mut print = Print::of(&file, 0).unwrap();
        print.extend(&text.as_bytes()[..300]);
        assert_eq!(print, Print::of(&file, 300).unwrap());
        let digested = Digested::new(&print.head, &print.guard);
        let holds = |expected: bool| {
            let size = file.metadata().unwrap().len();
            assert_eq!(print.holds(&file, size).unwrap(), expected);
            assert_eq!(digested.holds(&file, size, 300).unwrap(), expected);
        };
        holds(true);
        std::fs::write(&path, text.clone() + "more\n").unwrap();
        holds(true);
        std::fs::write(&path, text.replace("line 0", "LINE 0")).unwrap();
        holds(false);
        std::fs::write(&path, text.replace("line 3", "LINE 3")).unwrap();
        holds(false);
        std::fs::write(&path, &text[..200]).unwrap();
        holds(false);
    }

    #[test]
    fn the_head_grows_with_the_file() {
        let mut print = Print::default();
        for _ in 0..30 {
            print.extend(b"0123456789");
        }
        assert_eq!((print.head.len(), print.guard.len(), print.offset), (256, 64, 300));
        let mut from_end = Print { head: b"0123456789".to_vec(), guard: b"89".to_vec(), offset: 8, ..Print::default() };
        from_end.extend(b"89ab");
        assert_eq!((from_end.head.as_slice(), from_end.offset), (&b"0123456789ab"[..], 12));
    }
}
