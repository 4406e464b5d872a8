//! Which operators are halted: one empty file for each, named by its id, in `/run/eevee/state/halted`.
//!
//! The directory is on a tmpfs: the flags outlive operators and bus, and end with the machine. Making and removing an
//! empty file is atomic, so there is nothing to sync and nothing to tear.

use std::collections::BTreeSet;
use std::fs::{DirBuilder, OpenOptions};
use std::io;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use anyhow::Context;
use libeevee::OperatorId;
use nix::libc::{O_CLOEXEC, O_NOFOLLOW, O_NONBLOCK};

/// More flags than there can be module files are a mistake; what is beyond is not read.
const FLAGS_MAX: usize = 4096;

/// The directory of the flags.
#[derive(Debug, Clone)]
pub(crate) struct Halted {
    directory: PathBuf,
}

impl Halted {
    /// Makes the directory if it is missing and reads all flags in it. Names that are no ids are left alone and logged.
    pub(crate) fn load(directory: &Path) -> anyhow::Result<(Self, BTreeSet<OperatorId>)> {
        let context = || format!("cannot use {} for the flags of halted operators", directory.display());
        match DirBuilder::new().mode(0o700).create(directory) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error).with_context(context),
            _ => {}
        }
        let mut flags = BTreeSet::new();
        let mut strange = Vec::new();
        for entry in std::fs::read_dir(directory).with_context(context)? {
            let entry = entry.with_context(context)?;
            let name = entry.file_name();
            let id = name.to_str().and_then(|name| name.parse().ok());
            match (id, entry.file_type()) {
                (Some(id), Ok(kind)) if kind.is_file() && flags.len() < FLAGS_MAX => {
                    flags.insert(id);
                }
                _ => strange.push(name),
            }
        }
        if let Some(name) = strange.first() {
            tracing::warn!(
                "{}: {} files are no flags of operators, such as {name:?}",
                directory.display(),
                strange.len()
            );
        }
        Ok((Self { directory: directory.to_owned() }, flags))
    }

    /// Keeps the flag of `id`; if it stands already, nothing changes.
    pub(crate) fn set(&self, id: &OperatorId) -> io::Result<()> {
        OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .custom_flags(O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC)
            .open(self.path(id))
            .map(drop)
            .map_err(|error| self.explain(id, "set", &error))
    }

    /// Removes the flag of `id`; if there is none, nothing changes.
    pub(crate) fn clear(&self, id: &OperatorId) -> io::Result<()> {
        match std::fs::remove_file(self.path(id)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(self.explain(id, "clear", &error)),
            _ => Ok(()),
        }
    }

    fn path(&self, id: &OperatorId) -> PathBuf {
        self.directory.join(id.as_str())
    }

    fn explain(&self, id: &OperatorId, verb: &str, error: &io::Error) -> io::Error {
        io::Error::new(error.kind(), format!("cannot {verb} the halted flag {}: {error}", self.path(id).display()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(text: &str) -> OperatorId {
        text.parse().unwrap()
    }

    fn loaded(directory: &Path) -> Vec<String> {
        Halted::load(directory).unwrap().1.into_iter().map(String::from).collect()
    }

    #[test]
    fn flags_outlive_the_bus() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("halted");
        let (halted, flags) = Halted::load(&path).unwrap();
        assert!(flags.is_empty());
        for name in ["irc", "dice", "irc", "a-b_c"] {
            halted.set(&id(name)).unwrap();
        }
        assert_eq!(loaded(&path), ["a-b_c", "dice", "irc"]);
        for name in ["irc", "irc", "never"] {
            halted.clear(&id(name)).unwrap();
        }
        assert_eq!(loaded(&path), ["a-b_c", "dice"]);
    }

    #[test]
    fn strange_names_are_left_alone() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("halted");
        let (halted, _) = Halted::load(&path).unwrap();
        halted.set(&id("irc")).unwrap();
        for name in ["-h", "*", "a b", "IRC", "eeveed", ".new", &"a".repeat(28), "a\nb", "\u{202e}x"] {
            std::fs::write(path.join(name), "").unwrap();
        }
        std::os::unix::fs::symlink("/etc/passwd", path.join("link")).unwrap();
        std::fs::create_dir(path.join("directory")).unwrap();
        nix::unistd::mkfifo(&path.join("fifo"), nix::sys::stat::Mode::S_IRWXU).unwrap();
        assert_eq!(loaded(&path), ["irc"]);

        // Setting follows no link and waits for no reader; both say why.
        for name in ["link", "fifo", "directory"] {
            let error = halted.set(&id(name)).unwrap_err().to_string();
            assert!(error.contains(&format!("halted/{name}")), "{error}");
        }
        assert!(halted.clear(&id("directory")).is_err());
    }

    #[test]
    fn a_directory_that_cannot_be_had_is_an_error() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("halted"), "").unwrap();
        for path in [dir.path().join("halted"), dir.path().join("no/halted")] {
            let error = format!("{:#}", Halted::load(&path).unwrap_err());
            assert!(error.contains(&path.display().to_string()), "{error}");
        }
    }
}
