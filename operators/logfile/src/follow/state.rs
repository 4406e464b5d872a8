//! What is kept over restarts: how far each file was published. A file of its own in the StateDirectory, replaced as a
//! whole and synced.

use std::collections::BTreeSet;
use std::fs::File;
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::print::{Digested, Likeness};
use super::tail::Key;
use crate::split::Position;

const VERSION: u32 = 1;
pub(crate) const FILE: &str = "positions.json";

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct State {
    pub(super) version: u32,
    /// When all directories were looked through last, in seconds since 1970.
    pub(crate) looked_at: u64,
    /// Patterns whose files were followed already: what appears below them is new, and read from its beginning.
    pub(crate) patterns: BTreeSet<String>,
    pub(crate) files: Vec<Entry>,
}

/// One file, or an earlier generation of it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Entry {
    /// The path that is followed; a rotated file has another one by now.
    pub(crate) path: PathBuf,
    pub(crate) device: u64,
    pub(crate) inode: u64,
    #[serde(flatten)]
    pub(crate) digested: Digested,
    /// By this number the bus tells the lines of this file from those of others, and what it has of them already.
    pub(crate) epoch: u64,
    /// All before this was published, and the bus has confirmed it.
    #[serde(flatten)]
    pub(crate) position: Position,
    /// Where records end although the text does not say so.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(crate) cuts: Vec<u64>,
    /// A copy that was made of the file, and not followed for itself.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub(crate) copy: bool,
}

impl Entry {
    pub(crate) fn key(&self) -> Key {
        (self.device, self.inode)
    }

    /// What another file has to do with this one.
    pub(crate) fn likeness(&self, file: &File, size: u64) -> io::Result<Likeness> {
        self.digested.likeness(file, size, self.position.offset)
    }
}

impl Default for State {
    fn default() -> Self {
        Self { version: VERSION, looked_at: 0, patterns: BTreeSet::new(), files: Vec::new() }
    }
}

impl State {
    /// What was written last; none before the first time.
    ///
    /// # Errors
    /// That of the disk; for a file that holds something else, what to do about it.
    pub(crate) fn load(directory: &Path) -> io::Result<Option<Self>> {
        let path = directory.join(FILE);
        let bytes = match std::fs::read(&path) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(error),
        };
        let unreadable = |why: String| {
            let text = format!(
                "{} does not hold what this operator stores there: {why}; move it away, and all files are followed from \
                 their ends",
                path.display()
            );
            io::Error::new(io::ErrorKind::InvalidData, text)
        };
        let state: Self = serde_json::from_slice(&bytes).map_err(|error| unreadable(error.to_string()))?;
        match state.version {
            VERSION => Ok(Some(state)),
            other => Err(unreadable(format!("version {other}, and {VERSION} is known"))),
        }
    }

    /// Writes it; when this returns, it is on disk.
    pub(crate) fn save(&self, directory: &Path) -> io::Result<()> {
        let bytes = serde_json::to_vec(self).map_err(io::Error::other)?;
        let mut file = tempfile::Builder::new().prefix(".new-").tempfile_in(directory)?;
        file.write_all(&bytes)?;
        file.as_file().sync_data()?;
        file.persist(directory.join(FILE)).map_err(|error| error.error)?;
        File::open(directory)?.sync_all()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn comes_back_as_it_was_and_damage_is_told() {
        let folder = tempfile::tempdir().unwrap();
        assert_eq!(State::load(folder.path()).unwrap(), None);
        let entry = Entry {
            path: "/var/log/a.log".into(),
            device: 5,
            inode: 77,
            digested: Digested::new(b"head", b"guard"),
            epoch: u64::MAX,
            position: Position { offset: 12, part: 3 },
            cuts: vec![20, 30],
            copy: false,
        };
        let state = State { looked_at: 9, patterns: ["/a".to_owned()].into(), files: vec![entry], ..State::default() };
        state.save(folder.path()).unwrap();
        state.save(folder.path()).unwrap();
        assert_eq!(State::load(folder.path()).unwrap(), Some(state));
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1);
        for damaged in ["", "{", "{\"version\":2,\"looked_at\":0,\"patterns\":[],\"files\":[]}"] {
            std::fs::write(folder.path().join(FILE), damaged).unwrap();
            assert!(State::load(folder.path()).unwrap_err().to_string().contains("positions.json"), "{damaged}");
        }
    }
}
