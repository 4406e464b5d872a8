//! The high-water mark: the number of the last batch that was committed, outside of the database and synced after it.
//!
//! A write-ahead log that lost its end looks whole to SQLite, which then shows an older state as if nothing had been
//! after it. The mark tells: a database below it was shortened. It is kept in two files, each written in place, which a
//! full disk does not stop, and with a checksum. Under load they are written in turn, one sync each; the higher one
//! counts.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::Path;

use nix::libc::{O_CLOEXEC, O_NOFOLLOW};

use super::error::OpenError;
use crate::file;

pub(super) const FILES: [&str; 2] = ["durable.mark", "durable.mark.copy"];
const HEAD: &str = "eevee-durable 1 ";

/// What a mark says. Both numbers after the batch are the first that were never given away.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Mark {
    pub(super) batch: u64,
    pub(super) next_entry: u64,
    pub(super) next_durable: u32,
}

/// The two files of a store that is open.
#[derive(Debug)]
pub(super) struct Marks {
    files: [File; 2],
    written: [Mark; 2],
}

/// What stands in the files before a store is opened.
#[derive(Debug)]
pub(super) struct FoundMark {
    /// The higher of those that are whole.
    pub(super) mark: Option<Mark>,
    /// What is wrong with them, for a person; empty when both are whole, or both missing.
    pub(super) problem: Option<String>,
    /// Neither file is there.
    pub(super) nothing: bool,
}

impl FoundMark {
    pub(super) fn read(dir: &Path) -> Result<Self, OpenError> {
        let mut mark = None;
        let mut bad = Vec::new();
        let mut missing = 0;
        for name in FILES {
            let path = dir.join(name);
            let content = match file::open_regular(&path) {
                Ok((file, _)) => file::read_bounded(&file, 4096),
                Err(error) => Err(error),
            };
            match content {
                Ok(content) => match parse(&content) {
                    Some(one) => mark = mark.max(Some(one)),
                    None => {
                        if let Some(found) = later(&content) {
                            return Err(OpenError::Newer { path, found, known: 1 });
                        }
                        bad.push(format!("{} is damaged", path.display()));
                    }
                },
                Err(error) if error.kind() == io::ErrorKind::NotFound => {
                    missing += 1;
                    bad.push(format!("{} is missing", path.display()));
                }
                Err(error) if error.kind() == io::ErrorKind::InvalidInput => {
                    bad.push(format!("{} is damaged", path.display()));
                }
                Err(error) => return Err(OpenError::io(path, "read")(error)),
            }
        }
        let problem = (!bad.is_empty() && missing < FILES.len()).then(|| bad.join(", "));
        Ok(Self { mark, problem, nothing: missing == FILES.len() })
    }
}

impl Marks {
    /// Makes both files anew where they are not whole, and writes this mark into both.
    pub(super) fn open(dir: &Path, mark: Mark) -> Result<Self, OpenError> {
        let open = |name: &str| {
            let path = dir.join(name);
            let whole = file::open_regular(&path)
                .and_then(|(file, _)| file::read_bounded(&file, 4096))
                .is_ok_and(|content| parse(&content).is_some());
            if !whole {
                file::replace(dir, name, line(mark).as_bytes()).map_err(OpenError::io(&path, "write"))?;
            }
            OpenOptions::new()
                .write(true)
                .custom_flags(O_NOFOLLOW | O_CLOEXEC)
                .open(&path)
                .map_err(OpenError::io(&path, "write"))
        };
        let files = [open(FILES[0])?, open(FILES[1])?];
        let mut marks = Self { files, written: [Mark::default(); 2] };
        marks.write_both(mark).map_err(OpenError::io(dir.join(FILES[0]), "write"))?;
        Ok(marks)
    }

    /// Writes the older of the two files: one sync.
    pub(super) fn write_one(&mut self, mark: Mark) -> io::Result<()> {
        if self.written.contains(&mark) {
            return Ok(());
        }
        self.write(usize::from(self.written[1] < self.written[0]), mark)
    }

    pub(super) fn write_both(&mut self, mark: Mark) -> io::Result<()> {
        self.write(0, mark)?;
        self.write(1, mark)
    }

    fn write(&mut self, which: usize, mark: Mark) -> io::Result<()> {
        if self.written[which] == mark {
            return Ok(());
        }
        let file = &self.files[which];
        file.write_all_at(line(mark).as_bytes(), 0)
            .and_then(|()| file.sync_data())
            .map_err(|error| io::Error::new(error.kind(), format!("{}: {error}", FILES[which])))?;
        self.written[which] = mark;
        Ok(())
    }
}

/// Of a fixed length, so that writing in place replaces it whole; far less than a sector, so that it is not torn.
fn line(mark: Mark) -> String {
    let text = format!("{HEAD}{:020} {:020} {:010}", mark.batch, mark.next_entry, mark.next_durable);
    let crc = crc32fast::hash(text.as_bytes());
    format!("{text} {crc:08x}\n")
}

fn parse(content: &[u8]) -> Option<Mark> {
    let text = std::str::from_utf8(content).ok()?;
    let mut words = text.strip_prefix(HEAD)?.split(' ');
    let mark = Mark {
        batch: words.next()?.parse().ok()?,
        next_entry: words.next()?.parse().ok()?,
        next_durable: words.next()?.parse().ok()?,
    };
    (line(mark) == text).then_some(mark)
}

/// The version of a line of another version, if its checksum fits.
fn later(content: &[u8]) -> Option<u64> {
    let (text, crc) = content.strip_suffix(b"\n")?.split_last_chunk::<8>()?;
    let text = text.strip_suffix(b" ")?;
    if *crc != *format!("{:08x}", crc32fast::hash(text)).as_bytes() {
        return None;
    }
    let version = std::str::from_utf8(text).ok()?.strip_prefix("eevee-durable ")?.split(' ').next()?.parse().ok()?;
    (version > 1).then_some(version)
}

#[cfg(test)]
mod tests {
    use super::*;

    const ONE: Mark = Mark { batch: 7, next_entry: 9, next_durable: 2 };
    const TWO: Mark = Mark { batch: 8, next_entry: 9, next_durable: 2 };

    #[test]
    fn the_higher_whole_one_counts() {
        let dir = tempfile::tempdir().unwrap();
        assert!(FoundMark::read(dir.path()).unwrap().nothing);
        let mut marks = Marks::open(dir.path(), ONE).unwrap();
        marks.write_one(TWO).unwrap();
        let found = FoundMark::read(dir.path()).unwrap();
        assert_eq!((found.mark, found.problem, found.nothing), (Some(TWO), None, false));
        // Written in turn: the other one next.
        let three = Mark { batch: 9, ..TWO };
        marks.write_one(three).unwrap();
        assert_eq!(marks.written.iter().max(), Some(&three));
        assert_eq!(marks.written.iter().min(), Some(&TWO));

        for name in FILES {
            let whole = std::fs::read(dir.path().join(name)).unwrap();
            for cut in 0..whole.len() {
                std::fs::write(dir.path().join(name), &whole[..cut]).unwrap();
                let found = FoundMark::read(dir.path()).unwrap();
                assert!(found.mark.unwrap() >= TWO);
                assert!(found.problem.unwrap().contains(name));
            }
            for bit in 0..whole.len() * 8 {
                let mut flipped = whole.clone();
                flipped[bit / 8] ^= 1 << (bit % 8);
                std::fs::write(dir.path().join(name), &flipped).unwrap();
                let found = FoundMark::read(dir.path()).unwrap();
                assert!(found.mark.unwrap() >= TWO && found.mark.unwrap() <= three);
                assert!(found.problem.is_some());
            }
            std::fs::write(dir.path().join(name), &whole).unwrap();
        }
    }

    #[test]
    fn a_later_version_is_not_overwritten() {
        let dir = tempfile::tempdir().unwrap();
        let text = "eevee-durable 2 what may come";
        let line = format!("{text} {:08x}\n", crc32fast::hash(text.as_bytes()));
        std::fs::write(dir.path().join(FILES[1]), line).unwrap();
        let error = FoundMark::read(dir.path()).unwrap_err();
        assert!(matches!(error, OpenError::Newer { found: 2, .. }), "{error}");
    }

    #[test]
    fn what_is_not_whole_is_made_anew() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join(FILES[0]), "short").unwrap();
        drop(Marks::open(dir.path(), ONE).unwrap());
        let found = FoundMark::read(dir.path()).unwrap();
        assert_eq!((found.mark, found.problem), (Some(ONE), None));
    }
}
