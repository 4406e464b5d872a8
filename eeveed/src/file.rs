//! Small files that may be anything: opened without being led astray or hung by a link, FIFO or device, read up to a
//! limit, and replaced so that a crash leaves the old or the new content, never half of one.

use std::fs::{File, Metadata, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{FileTypeExt, OpenOptionsExt};
use std::path::Path;

use nix::libc::{ELOOP, ENXIO, O_CLOEXEC, O_NOFOLLOW, O_NONBLOCK};

/// Opens a regular file for reading. The error of anything else says what it is; `NotFound` stays `NotFound`.
pub(crate) fn open_regular(path: &Path) -> io::Result<(File, Metadata)> {
    // O_NONBLOCK: open() of a FIFO waits for a writer otherwise. Regular files ignore it.
    let flags = O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC;
    let file =
        OpenOptions::new().read(true).custom_flags(flags).open(path).map_err(|error| match error.raw_os_error() {
            Some(ELOOP) => refused("it is a symbolic link; a regular file has to be here"),
            Some(ENXIO) => refused("it is a socket or a device; a regular file has to be here"),
            _ => error,
        })?;
    let metadata = file.metadata()?;
    let kind = metadata.file_type();
    if kind.is_file() {
        return Ok((file, metadata));
    }
    Err(refused(if kind.is_dir() {
        "it is a directory; a regular file has to be here"
    } else if kind.is_fifo() {
        "it is a FIFO; a regular file has to be here"
    } else {
        "it is a device; a regular file has to be here"
    }))
}

/// The whole content, or an error that names the limit. Reads one byte more than the limit at most, whatever the file
/// claims about its length.
pub(crate) fn read_bounded(file: &File, bytes_max: u64) -> io::Result<Vec<u8>> {
    let mut content = Vec::new();
    file.take(bytes_max + 1).read_to_end(&mut content)?;
    if content.len() as u64 > bytes_max {
        return Err(refused(&format!("it has more than {bytes_max} bytes")));
    }
    Ok(content)
}

/// Writes `content` in place of the file, synced, mode 0600. The directory must belong to us alone: a fixed name is used
/// for the new content meanwhile, so that crashes leave at most one leftover.
pub(crate) fn replace(directory: &Path, name: &str, content: &[u8]) -> io::Result<()> {
    let path = directory.join(name);
    let new = directory.join(format!(".{name}.new"));
    // A leftover of a crash may have any type and mode.
    match std::fs::remove_file(&new) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let written = (|| {
        let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&new)?;
        file.write_all(content)?;
        file.sync_all()?;
        std::fs::rename(&new, &path)
    })();
    if let Err(error) = written {
        let _ = std::fs::remove_file(&new);
        return Err(error);
    }
    sync_directory(directory)
}

/// Makes renames and new names in a directory survive a power cut.
pub(crate) fn sync_directory(directory: &Path) -> io::Result<()> {
    File::open(directory)?.sync_all()
}

fn refused(reason: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidInput, reason)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;
    use std::time::{Duration, Instant};

    use super::*;

    #[test]
    fn only_regular_files_are_opened() {
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name);
        std::fs::write(at("file"), "x").unwrap();
        std::os::unix::fs::symlink(at("file"), at("link")).unwrap();
        nix::unistd::mkfifo(&at("fifo"), nix::sys::stat::Mode::S_IRWXU).unwrap();
        std::fs::create_dir(at("directory")).unwrap();
        let _socket = std::os::unix::net::UnixListener::bind(at("socket")).unwrap();

        let began = Instant::now();
        assert!(open_regular(&at("file")).is_ok());
        for (name, reason) in
            [("link", "symbolic link"), ("fifo", "FIFO"), ("directory", "directory"), ("socket", "socket")]
        {
            let error = open_regular(&at(name)).unwrap_err();
            assert!(error.to_string().contains(reason), "{name}: {error}");
        }
        assert!(open_regular(Path::new("/dev/null")).unwrap_err().to_string().contains("device"));
        assert_eq!(open_regular(&at("nothing")).unwrap_err().kind(), io::ErrorKind::NotFound);
        assert!(began.elapsed() < Duration::from_secs(5), "the FIFO held us");
    }

    #[test]
    fn reading_stops_at_the_limit() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("f");
        std::fs::write(&path, [7; 100]).unwrap();
        assert_eq!(read_bounded(&File::open(&path).unwrap(), 100).unwrap(), [7; 100]);
        assert!(read_bounded(&File::open(&path).unwrap(), 99).unwrap_err().to_string().contains("more than 99 bytes"));
        // Claims length 0 and never ends.
        assert!(read_bounded(&File::open("/dev/zero").unwrap(), 1000).is_err());
    }

    #[test]
    fn replacing_is_whole_and_private() {
        let dir = tempfile::tempdir().unwrap();
        replace(dir.path(), "f", b"one").unwrap();
        std::fs::write(dir.path().join(".f.new"), "leftover of a crash").unwrap();
        replace(dir.path(), "f", b"two").unwrap();
        assert_eq!(std::fs::read(dir.path().join("f")).unwrap(), b"two");
        let mode = std::fs::metadata(dir.path().join("f")).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1);
        assert!(replace(&dir.path().join("none"), "f", b"x").is_err());
    }
}
