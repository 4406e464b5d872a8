//! What an operator keeps over restarts: one JSON file per key in its StateDirectory, replaced as a whole.

use std::fs::File;
use std::io::{self, ErrorKind, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::header::is_key;

/// A small store of values by key, in `$STATE_DIRECTORY`. From [`Operator::store`](super::Operator::store).
///
/// A value is there as a whole or not at all, also after a crash or a power failure. It is for what an operator learns
/// (a position, a list of reminders), not for streams of data: each change writes and syncs a file.
///
/// ```
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// use libeevee::operator::Store;
/// let directory = tempfile::tempdir()?;
/// let store = Store::in_directory(directory.path());
/// # tokio::runtime::Builder::new_current_thread().build()?.block_on(async {
/// store.set("seen", &["goos", "fox"]).await?;
/// let seen: Option<Vec<String>> = store.get("seen").await?;
/// assert_eq!(seen.unwrap(), ["goos", "fox"]);
/// # Ok(())
/// # })
/// # }
/// ```
#[derive(Debug, Clone)]
pub struct Store {
    directory: Option<PathBuf>,
}

/// Why a value could not be stored or read.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// systemd gave no directory.
    #[error("$STATE_DIRECTORY is not set: the unit has no StateDirectory=; outside of systemd, set it to a directory")]
    NoDirectory,
    /// The key could not be the name of a file.
    #[error("the key {0:?} of the store is not [a-z0-9][a-z0-9._-]{{0,63}}")]
    Key(String),
    /// The file holds no such value: it was damaged, or written by another version.
    #[error("{} does not hold what this operator stores there: {source}; move the file away to begin anew", file.display())]
    Corrupt {
        /// The file.
        file: PathBuf,
        /// What is wrong in it.
        source: serde_json::Error,
    },
    /// The value cannot be written as JSON.
    #[error("the value for {key:?} cannot be stored: {source}")]
    Value {
        /// The key.
        key: String,
        /// Why.
        source: serde_json::Error,
    },
    /// The disk did not take or give it.
    #[error("{}: {source}", file.display())]
    Io {
        /// The file.
        file: PathBuf,
        /// Why.
        source: io::Error,
    },
}

impl Store {
    pub(super) fn of_unit() -> Self {
        Self { directory: state_directory() }
    }

    /// A store in any directory, for tests.
    pub fn in_directory(directory: impl Into<PathBuf>) -> Self {
        Self { directory: Some(directory.into()) }
    }

    /// The value of a key; none where nothing was stored.
    ///
    /// # Errors
    /// [`StoreError`]; a file that does not hold such a value is named, and stays as it is.
    pub async fn get<T: DeserializeOwned>(&self, key: &str) -> Result<Option<T>, StoreError> {
        let file = self.file(key)?;
        let path = file.clone();
        let read = in_background(move || match std::fs::read(&path) {
            Ok(bytes) => Ok(Some(bytes)),
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        });
        match read.await {
            Ok(Some(bytes)) => match serde_json::from_slice(&bytes) {
                Ok(value) => Ok(Some(value)),
                Err(source) => Err(StoreError::Corrupt { file, source }),
            },
            Ok(None) => Ok(None),
            Err(source) => Err(StoreError::Io { file, source }),
        }
    }

    /// Stores a value, in place of an earlier one. When it returns, the value is on disk. Of two at the same time either
    /// may be the last.
    ///
    /// # Errors
    /// [`StoreError`]; the earlier value is still there then.
    pub async fn set<T: Serialize + ?Sized>(&self, key: &str, value: &T) -> Result<(), StoreError> {
        let file = self.file(key)?;
        let bytes = serde_json::to_vec(value).map_err(|source| StoreError::Value { key: key.to_owned(), source })?;
        let path = file.clone();
        in_background(move || replace(&path, &bytes)).await.map_err(|source| StoreError::Io { file, source })
    }

    /// Forgets a key; one that is not there is no error.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn remove(&self, key: &str) -> Result<(), StoreError> {
        let file = self.file(key)?;
        let path = file.clone();
        let removed = in_background(move || match std::fs::remove_file(&path) {
            Ok(()) => sync_directory(&path),
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(()),
            Err(error) => Err(error),
        });
        removed.await.map_err(|source| StoreError::Io { file, source })
    }

    fn file(&self, key: &str) -> Result<PathBuf, StoreError> {
        // The grammar of header keys has no slash and begins with no dot.
        if !is_key(key) {
            return Err(StoreError::Key(key.chars().take(100).collect()));
        }
        let directory = self.directory.as_ref().ok_or(StoreError::NoDirectory)?;
        Ok(directory.join(format!("{key}.json")))
    }
}

/// The operator's StateDirectory. systemd separates several by colons; the first is the operator's own.
pub(super) fn state_directory() -> Option<PathBuf> {
    let directories = std::env::var_os("STATE_DIRECTORY").filter(|value| !value.is_empty())?;
    std::env::split_paths(&directories).next()
}

/// Off the operator's loop: a slow disk must not look like a stuck operator.
async fn in_background<T: Send + 'static>(work: impl FnOnce() -> io::Result<T> + Send + 'static) -> io::Result<T> {
    tokio::task::spawn_blocking(work).await.unwrap_or_else(|error| Err(io::Error::other(error)))
}

fn replace(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let directory = path.parent().unwrap_or(Path::new("."));
    // A name with a dot before it is no key, so that a leftover of a crash is never read.
    let mut file = tempfile::Builder::new()
        .prefix(".new-")
        .permissions(std::fs::Permissions::from_mode(0o600))
        .tempfile_in(directory)?;
    file.write_all(bytes)?;
    file.as_file().sync_all()?;
    file.persist(path).map_err(|error| error.error)?;
    sync_directory(path)
}

/// The new name is on disk only when its directory is.
fn sync_directory(path: &Path) -> io::Result<()> {
    File::open(path.parent().unwrap_or(Path::new(".")))?.sync_all()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    #[tokio::test]
    async fn values_come_back_and_go() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::in_directory(dir.path());
        assert_eq!(store.get::<u32>("count").await.unwrap(), None);
        store.set("count", &7).await.unwrap();
        store.set("count", &8).await.unwrap();
        store.set("map.v1", &BTreeMap::from([("a", 1)])).await.unwrap();
        assert_eq!(store.get::<u32>("count").await.unwrap(), Some(8));
        let again = Store::in_directory(dir.path());
        assert_eq!(again.get::<BTreeMap<String, i32>>("map.v1").await.unwrap().unwrap()["a"], 1);
        again.remove("count").await.unwrap();
        again.remove("count").await.unwrap();
        assert_eq!(store.get::<u32>("count").await.unwrap(), None);
        let left: Vec<_> = std::fs::read_dir(dir.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        assert_eq!(left, ["map.v1.json"]);
        let mode = dir.path().join("map.v1.json").metadata().unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
    }

    #[tokio::test]
    async fn errors_name_the_file() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::in_directory(dir.path());
        for bad in ["", "../x", "a/b", "A", ".a", "a b", &"k".repeat(65)] {
            assert!(matches!(store.set(bad, &1).await, Err(StoreError::Key(_))), "{bad:?}");
            assert!(matches!(store.get::<u32>(bad).await, Err(StoreError::Key(_))), "{bad:?}");
        }
        let file = dir.path().join("count.json");
        for damaged in ["", "{", "\"text\"", "7 8"] {
            std::fs::write(&file, damaged).unwrap();
            let error = store.get::<u32>("count").await.unwrap_err();
            assert!(matches!(error, StoreError::Corrupt { .. }), "{error:?}");
            assert!(error.to_string().contains("count.json"), "{error}");
        }
        let nowhere = Store { directory: None };
        assert!(matches!(nowhere.set("a", &1).await, Err(StoreError::NoDirectory)));
        let absent = Store::in_directory(dir.path().join("absent"));
        let error = absent.set("a", &1).await.unwrap_err();
        assert!(error.to_string().contains("absent/a.json: "), "{error}");
    }
}
