//! Messages that come again because nobody knows whether they were written: what stands in their file is found there, and in
//! those that were set aside since.

use std::collections::HashMap;
use std::fs::{File, OpenOptions};
use std::io::{self, BufRead, BufReader, Read, Seek, SeekFrom};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::time::{Duration, SystemTime};

use super::files::numbered;

/// So much of what was written last is looked through: all that can have been in hand, however its bytes are escaped, where
/// the bus has its default of `frame-bytes`.
const LAST_BYTES: u64 = 32 << 20;
/// Clocks of file systems are a little behind, and clocks are set.
const CLOCK_SLACK: Duration = Duration::from_secs(60);

/// Where lines may stand.
#[derive(Debug, Clone, Copy)]
pub(super) struct Search<'a> {
    pub(super) path: &'a Path,
    /// How many files that were set aside may belong to it: `x.log.1` to this.
    pub(super) generations: u32,
    /// No file holds a line that was not changed since: a line is never older than its message.
    pub(super) since: SystemTime,
    /// What is found has to be on the disk.
    pub(super) sync: bool,
}

impl Search<'_> {
    /// Counts how often each of these lines, with its end, stands there.
    ///
    /// # Errors
    /// The file itself is there and cannot be read or synced. One that was set aside and cannot be read is passed over: it
    /// may be anything by now, and must not keep others from being written.
    pub(super) fn count(self, lines: &mut HashMap<Vec<u8>, usize>) -> io::Result<()> {
        let mut left = LAST_BYTES;
        let none_is_begun =
            |error: io::Error| if error.kind() == io::ErrorKind::NotFound { Ok(()) } else { Err(error) };
        self.count_in(self.path, &mut left, lines).or_else(none_is_begun)?;
        for number in 1..=self.generations {
            let path = numbered(self.path, number);
            if let Err(error) = self.count_in(&path, &mut left, lines).or_else(none_is_begun) {
                tracing::warn!("{}: what comes again is not looked for there: {error}", path.display());
            }
        }
        Ok(())
    }

    fn count_in(self, path: &Path, left: &mut u64, lines: &mut HashMap<Vec<u8>, usize>) -> io::Result<()> {
        if *left == 0 {
            return Ok(());
        }
        let flags = nix::libc::O_NOFOLLOW | nix::libc::O_CLOEXEC | nix::libc::O_NONBLOCK;
        let file = OpenOptions::new().read(true).custom_flags(flags).open(path)?;
        let metadata = file.metadata()?;
        if !metadata.is_file() {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "not a regular file"));
        }
        if metadata.modified()?.checked_add(CLOCK_SLACK).is_some_and(|changed| changed < self.since) {
            return Ok(());
        }
        let last = metadata.len().min(*left);
        *left -= last;
        // Else what cannot be synced would count as found.
        if self.sync {
            file.sync_data()?;
        }
        count_last(&file, metadata.len() - last, lines)
    }
}

fn count_last(mut file: &File, from: u64, lines: &mut HashMap<Vec<u8>, usize>) -> io::Result<()> {
    file.seek(SeekFrom::Start(from))?;
    let mut reader = BufReader::new(file.take(LAST_BYTES));
    let mut line = Vec::new();
    while reader.read_until(b'\n', &mut line)? > 0 {
        // Cut off before its end, it gets one when the file is opened.
        if line.last() != Some(&b'\n') {
            line.push(b'\n');
        }
        if let Some(count) = lines.get_mut(&line) {
            *count += 1;
        }
        line.clear();
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::path::PathBuf;

    use super::*;

    struct Place {
        _folder: tempfile::TempDir,
        path: PathBuf,
    }

    fn place() -> Place {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("x.log");
        Place { _folder: folder, path }
    }

    impl Place {
        fn search(&self) -> Search<'_> {
            Search { path: &self.path, generations: 3, since: SystemTime::UNIX_EPOCH, sync: true }
        }

        fn set_aside(&self, number: u32) -> PathBuf {
            numbered(&self.path, number)
        }
    }

    /// How often each of these stands there.
    fn counts<const N: usize>(search: Search<'_>, texts: [&str; N]) -> [usize; N] {
        let line = |text: &str| format!("{text}\n").into_bytes();
        let mut lines = texts.iter().map(|text| (line(text), 0)).collect();
        search.count(&mut lines).unwrap();
        texts.map(|text| lines[&line(text)])
    }

    #[test]
    fn in_the_file_and_in_those_before_it() {
        let place = place();
        assert_eq!(counts(place.search(), ["one"]), [0], "there is no file");
        fs::write(&place.path, "one\ntwo\none\nwhole").unwrap();
        assert_eq!(counts(place.search(), ["one", "two", "three", "whole", "w"]), [2, 1, 0, 1, 0]);
        // A rotation that was cut off leaves a hole in the numbers.
        fs::rename(&place.path, place.set_aside(3)).unwrap();
        fs::write(place.set_aside(1), "three\n").unwrap();
        assert_eq!(counts(place.search(), ["two", "three"]), [1, 1], "none is begun anew");
        fs::write(&place.path, "four\none\n").unwrap();
        assert_eq!(counts(place.search(), ["one", "three", "four"]), [3, 1, 1]);
        assert_eq!(counts(Search { generations: 1, ..place.search() }, ["one", "three"]), [1, 1]);
    }

    #[test]
    fn not_further_back_than_can_be_in_hand() {
        let place = place();
        let rest = "x".repeat(LAST_BYTES as usize - "new\n".len());
        fs::write(&place.path, format!("old\nnew\n{rest}")).unwrap();
        fs::write(place.set_aside(1), "old\n").unwrap();
        assert_eq!(counts(place.search(), ["old", "new"]), [0, 1]);
    }

    #[test]
    fn not_in_files_that_are_older_than_the_messages() {
        let place = place();
        fs::write(&place.path, "one\n").unwrap();
        let at = |time| counts(Search { since: time, ..place.search() }, ["one"]);
        assert_eq!([at(SystemTime::now()), at(SystemTime::now() + CLOCK_SLACK * 2)], [[1], [0]]);
    }

    #[test]
    fn strange_files() {
        let place = place();
        fs::write(&place.path, "one\n").unwrap();
        fs::create_dir(place.set_aside(1)).unwrap();
        std::os::unix::fs::symlink("/etc/passwd", place.set_aside(2)).unwrap();
        fs::write(place.set_aside(3), "three\n").unwrap();
        assert_eq!(counts(place.search(), ["one", "three"]), [1, 1], "others are looked through all the same");
        fs::remove_file(&place.path).unwrap();
        fs::create_dir(&place.path).unwrap();
        assert!(place.search().count(&mut HashMap::new()).is_err());
    }
}
