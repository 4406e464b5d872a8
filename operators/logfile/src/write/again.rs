//! Messages that come again because nobody knows whether they were written: what stands in their file is found there, and in
//! those that were set aside since.

use std::collections::HashMap;
use std::fs::OpenOptions;
use std::io::{self, BufRead, BufReader, Read, Seek, SeekFrom};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use super::files::numbered;

/// So much of what was written last is looked through: all that can have been in hand, however its bytes are escaped.
const LAST_BYTES: u64 = 32 << 20;

/// Counts how often each of these lines, with its end, stands in the file, or in `x.log.1` and those before it. Who says the
/// same twice within a millisecond has two lines that are the same.
///
/// # Errors
/// A file that is there cannot be read.
pub(super) fn count(path: &Path, lines: &mut HashMap<Vec<u8>, usize>) -> io::Result<()> {
    let (mut left, mut number) = (LAST_BYTES, 0);
    while left > 0 {
        let generation = if number == 0 { path.to_owned() } else { numbered(path, number) };
        number += 1;
        let flags = nix::libc::O_NOFOLLOW | nix::libc::O_CLOEXEC | nix::libc::O_NONBLOCK;
        let mut file = match OpenOptions::new().read(true).custom_flags(flags).open(generation) {
            Ok(file) => file,
            // Moved away, and not yet begun anew.
            Err(error) if error.kind() == io::ErrorKind::NotFound && number == 1 => continue,
            Err(error) if error.kind() == io::ErrorKind::NotFound => break,
            Err(error) => return Err(error),
        };
        let bytes = file.metadata()?.len();
        let last = bytes.min(left);
        left -= last;
        file.seek(SeekFrom::Start(bytes - last))?;
        let mut reader = BufReader::new(file.take(last));
        let mut line = Vec::new();
        while reader.read_until(b'\n', &mut line)? > 0 {
            if let Some(count) = lines.get_mut(&line) {
                *count += 1;
            }
            line.clear();
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    /// How often each of these stands there.
    fn counts<const N: usize>(path: &Path, texts: [&str; N]) -> [usize; N] {
        let line = |text: &str| format!("{text}\n").into_bytes();
        let mut lines = texts.iter().map(|text| (line(text), 0)).collect();
        count(path, &mut lines).unwrap();
        texts.map(|text| lines[&line(text)])
    }

    #[test]
    fn in_the_file_and_in_those_before_it() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("x.log");
        assert_eq!(counts(&path, ["one"]), [0], "there is no file");
        fs::write(&path, "one\ntwo\none\nhal").unwrap();
        assert_eq!(counts(&path, ["one", "two", "three", "hal", "w"]), [2, 1, 0, 0, 0]);
        fs::rename(&path, numbered(&path, 2)).unwrap();
        fs::write(numbered(&path, 1), "three\n").unwrap();
        assert_eq!(counts(&path, ["two", "three"]), [1, 1], "none is begun anew");
        fs::write(&path, "four\none\n").unwrap();
        assert_eq!(counts(&path, ["one", "three", "four"]), [3, 1, 1]);
    }

    #[test]
    fn not_further_back_than_can_be_in_hand() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("x.log");
        let rest = "x".repeat(LAST_BYTES as usize - "new\n".len());
        fs::write(&path, format!("old\nnew\n{rest}")).unwrap();
        fs::write(numbered(&path, 1), "old\n").unwrap();
        assert_eq!(counts(&path, ["old", "new"]), [0, 1]);
    }

    #[test]
    fn what_is_no_file_is_said() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("x.log");
        fs::create_dir(&path).unwrap();
        assert!(count(&path, &mut HashMap::new()).is_err());
        fs::remove_dir(&path).unwrap();
        std::os::unix::fs::symlink("/etc/passwd", &path).unwrap();
        assert!(count(&path, &mut HashMap::new()).is_err());
    }
}
