//! Reading a file of /etc/eevee: it was written by an administrator, and may be anything all the same.

use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use libeevee::Diagnosis;
use libeevee::diagnostic::{FILE_BYTES_MAX, check_text};
use nix::unistd::geteuid;

use crate::file;

/// The text of the file, `None` where there is none. It has to be a regular file of at most 1 MiB of UTF-8 text, that
/// belongs to root or to the bus's own user and that not everybody can write.
pub(super) fn read(path: &Path) -> Result<Option<String>, Diagnosis> {
    let name = path.to_string_lossy();
    let unreadable = |error: io::Error| Diagnosis::file(&name, format!("cannot be read: {error}"));
    let (file, metadata) = match file::open_regular(path) {
        Ok(opened) => opened,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {
            return Err(unreadable(error).help(format!("the bus reads it as its own user: chmod 644 {name}")));
        }
        Err(error) => return Err(unreadable(error)),
    };
    trusted(&name, metadata.uid(), metadata.mode(), geteuid().as_raw())?;
    let bytes = file::read_bounded(&file, FILE_BYTES_MAX as u64).map_err(unreadable)?;
    let text = String::from_utf8(bytes).map_err(|error| {
        let at = error.utf8_error().valid_up_to();
        let text = String::from_utf8_lossy(error.as_bytes()).into_owned();
        Diagnosis::at(&name, &text, at..at + 1, "this is not UTF-8 text").help("save the file in the encoding UTF-8")
    })?;
    check_text(&name, &text)?;
    Ok(Some(text))
}

/// Whoever may write this file decides which program runs and what it may publish.
fn trusted(name: &str, owner: u32, mode: u32, own: u32) -> Result<(), Diagnosis> {
    if owner != 0 && owner != own {
        let message = format!("belongs to the user with uid {owner}, it has to belong to root");
        return Err(Diagnosis::file(name, message).help(format!("after a look at what it says: chown root {name}")));
    }
    if mode & 0o002 != 0 {
        let message = format!("can be written by everybody (mode {:04o})", mode & 0o7777);
        return Err(Diagnosis::file(name, message).help(format!("after a look at what it says: chmod 644 {name}")));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::fs::Permissions;
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    fn refusal(path: &Path) -> String {
        read(path).unwrap_err().to_string()
    }

    #[test]
    fn only_what_an_administrator_wrote_is_read() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("f.toml");
        assert_eq!(read(&path), Ok(None));
        std::fs::write(&path, "kind = \"irc\"\n").unwrap();
        for mode in [0o644, 0o600, 0o664, 0o444] {
            std::fs::set_permissions(&path, Permissions::from_mode(mode)).unwrap();
            assert_eq!(read(&path).unwrap().unwrap(), "kind = \"irc\"\n", "{mode:o}");
        }
        std::fs::set_permissions(&path, Permissions::from_mode(0o646)).unwrap();
        assert!(refusal(&path).contains("everybody (mode 0646)"), "{}", refusal(&path));
        std::fs::set_permissions(&path, Permissions::from_mode(0o644)).unwrap();
    }

    #[test]
    fn other_owners_are_refused() {
        assert_eq!(trusted("f", 0, 0o100_644, 990), Ok(()));
        assert_eq!(trusted("f", 990, 0o100_600, 990), Ok(()));
        let said = trusted("f", 1000, 0o100_644, 990).unwrap_err().to_string();
        assert!(said.contains("uid 1000") && said.contains("chown root f"), "{said}");
        assert!(trusted("f", 0, 0o100_602, 990).is_err());
    }

    #[test]
    fn links_fifos_and_directories_are_refused_with_the_reason() {
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name);
        std::fs::write(at("file"), "").unwrap();
        std::os::unix::fs::symlink(at("file"), at("link")).unwrap();
        nix::unistd::mkfifo(&at("fifo"), nix::sys::stat::Mode::S_IRWXU).unwrap();
        std::fs::create_dir(at("directory")).unwrap();
        for (name, reason) in [("link", "symbolic link"), ("fifo", "FIFO"), ("directory", "directory")] {
            let said = refusal(&at(name));
            assert!(said.contains(reason) && said.contains(name), "{said}");
        }
        // A path through a file is an error of its own, not an absent file.
        assert!(refusal(&at("file/x")).contains("cannot be read"));
    }

    #[test]
    fn size_and_encoding() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("f.toml");
        std::fs::write(&path, "#".repeat(FILE_BYTES_MAX)).unwrap();
        assert!(read(&path).is_ok());
        // A gigabyte that is not there: it must not be read.
        std::fs::File::options().write(true).open(&path).unwrap().set_len(1 << 30).unwrap();
        assert!(refusal(&path).contains("more than 1048576 bytes"), "{}", refusal(&path));
        std::fs::write(&path, b"a = 1\nb = \"\xff\"\n").unwrap();
        assert_eq!(read(&path).unwrap_err().line_column(), Some((2, 6)));
        std::fs::write(&path, "\u{feff}a = 1\n").unwrap();
        assert!(refusal(&path).contains("byte order mark"));
    }
}
