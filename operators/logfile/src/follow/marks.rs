//! Digests at places throughout a file, by which a copy is known as one that ends before our place: a writer goes on while
//! its file is copied, and we may have read what the copy does not have.

use std::fs::File;
use std::io;

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::print;

/// How many bytes before a place count.
const MARK_BYTES: usize = 32;
/// The first place. Four in each doubling follow, so that at most a fifth of a beginning is behind its last one.
const FIRST: u64 = 256;

/// Files of less may begin alike without one being a copy of the other.
const SURE_BYTES: u64 = 1 << 10;

/// What stood before each place, the first of them first.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub(crate) struct Marks(Vec<u32>);

/// The place of a mark.
fn place(number: usize) -> u64 {
    let step = (FIRST / 4) << (number / 4).min(55);
    step * (4 + number as u64 % 4)
}

impl Marks {
    /// Those of the first bytes of a file.
    pub(crate) fn of(file: &File, bytes: u64) -> io::Result<Self> {
        let mut marks = Self::default();
        while place(marks.0.len()) <= bytes {
            let mark = at(file, place(marks.0.len()))?;
            marks.0.push(mark);
        }
        Ok(marks)
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Whether these say enough about so many first bytes.
    pub(crate) fn covers(&self, bytes: u64) -> bool {
        bytes >= SURE_BYTES && !self.0.is_empty()
    }

    /// Bytes were read, and these stand before `offset`.
    pub(crate) fn extend(&mut self, before: &[u8], bytes: &[u8], offset: u64) {
        while place(self.0.len()) <= offset {
            let Some(back) = usize::try_from(offset - place(self.0.len())).ok().filter(|back| *back < bytes.len())
            else {
                // It lies before what was read: nobody asked for it then, and nobody will.
                self.0.push(0);
                continue;
            };
            let end = bytes.len() - back;
            let mut text = before.to_vec();
            text.extend_from_slice(&bytes[..end]);
            self.0.push(digest(&text[text.len().saturating_sub(MARK_BYTES)..]));
        }
    }

    /// Whether the first bytes of a file are those that these are of, as far as they say.
    pub(crate) fn hold(&self, file: &File, bytes: u64) -> io::Result<bool> {
        for (number, mark) in self.0.iter().enumerate().take_while(|(number, _)| place(*number) <= bytes) {
            if at(file, place(number))? != *mark {
                return Ok(false);
            }
        }
        Ok(true)
    }
}

fn at(file: &File, place: u64) -> io::Result<u32> {
    Ok(digest(&print::read(file, place - MARK_BYTES as u64, MARK_BYTES)?))
}

fn digest(bytes: &[u8]) -> u32 {
    let digest = Sha256::digest(bytes);
    u32::from_be_bytes([digest[0], digest[1], digest[2], digest[3]])
}

impl From<Marks> for String {
    fn from(marks: Marks) -> Self {
        marks.0.iter().map(|mark| format!("{mark:08x}")).collect()
    }
}

impl TryFrom<String> for Marks {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        let parse = |mark: &[u8]| {
            let mark = std::str::from_utf8(mark).ok().filter(|mark| mark.len() == 8)?;
            u32::from_str_radix(mark, 16).ok()
        };
        let marks = text.as_bytes().chunks(8).map(parse).collect::<Option<_>>();
        marks.map(Self).ok_or_else(|| format!("{text:?} are no marks"))
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn places_rise_by_a_quarter_at_most() {
        assert_eq!((0..6).map(place).collect::<Vec<_>>(), [256, 320, 384, 448, 512, 640]);
        assert!((0..220).all(|number| place(number) < place(number + 1)));
    }

    #[test]
    fn a_beginning_is_known_and_nothing_else() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("log");
        let text: String = (0..2000).map(|n| format!("line {n}\n")).collect();
        fs::write(&path, &text).unwrap();
        let size = text.len() as u64;
        let whole = Marks::of(&File::open(&path).unwrap(), size).unwrap();
        // However it was read.
        for piece in [1, 7, 300, 5000, 100_000] {
            let (mut marks, mut offset) = (Marks::default(), 0);
            for bytes in text.as_bytes().chunks(piece) {
                let before = &text.as_bytes()[offset.max(64) - 64..offset];
                offset += bytes.len();
                marks.extend(before, bytes, offset as u64);
            }
            assert_eq!(marks, whole, "{piece}");
        }
        for (begins, cut) in [(true, 0), (true, 100), (true, 7000), (true, text.len()), (false, 7000)] {
            let mut part = text[..cut].to_owned();
            if !begins {
                part = part.replace("line 500", "LINE 500").replace('7', "8");
            }
            fs::write(&path, &part).unwrap();
            assert_eq!(whole.hold(&File::open(&path).unwrap(), cut as u64).unwrap(), begins, "{cut}");
        }
        let stored = String::from(whole.clone());
        assert_eq!(Marks::try_from(stored.clone()).unwrap(), whole);
        for wrong in [&stored[1..], "xxxxxxxx", "+1234567ü"] {
            assert!(Marks::try_from(wrong.to_owned()).is_err(), "{wrong}");
        }
    }
}
