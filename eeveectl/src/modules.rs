//! The module files on disk: which operators a person has described, by the names of the files alone.

use std::io;
use std::path::{Path, PathBuf};

use libeevee::OperatorId;

/// What modules.d holds.
#[derive(Debug, Default)]
pub(crate) struct List {
    /// In alphabetical order.
    pub(crate) ids: Vec<OperatorId>,
    /// Files that look like module files and cannot be one, with the reason.
    pub(crate) misnamed: Vec<(PathBuf, String)>,
}

pub(crate) fn directory(config: &Path) -> PathBuf {
    config.join("modules.d")
}

pub(crate) fn path(config: &Path, id: &OperatorId) -> PathBuf {
    directory(config).join(format!("{id}.toml"))
}

/// Lists modules.d. A directory that does not exist holds nothing.
pub(crate) fn list(config: &Path) -> io::Result<List> {
    let mut list = List::default();
    let files = match std::fs::read_dir(directory(config)) {
        Ok(files) => files,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(list),
        Err(error) => return Err(error),
    };
    for file in files {
        let file = file?;
        let name = file.file_name();
        let name = name.to_string_lossy();
        // A leading dot hides a file, as editors' and our own temporary copies do.
        let Some(stem) = name.strip_suffix(".toml").filter(|_| !name.starts_with('.')) else { continue };
        match stem.parse::<OperatorId>() {
            Ok(id) => list.ids.push(id),
            Err(error) => list.misnamed.push((file.path(), error.to_string())),
        }
    }
    list.ids.sort();
    list.misnamed.sort();
    Ok(list)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_files_are_ids() {
        let config = tempfile::tempdir().unwrap();
        assert!(list(config.path()).unwrap().ids.is_empty());
        let modules = directory(config.path());
        std::fs::create_dir(&modules).unwrap();
        for name in ["irc.toml", "dice.toml", "Bad.toml", ".irc.x.toml", "irc.toml~", "README"] {
            std::fs::write(modules.join(name), "").unwrap();
        }
        let list = list(config.path()).unwrap();
        assert_eq!(list.ids.iter().map(OperatorId::as_str).collect::<Vec<_>>(), ["dice", "irc"]);
        assert_eq!(list.misnamed.len(), 1);
        assert!(list.misnamed[0].0.ends_with("Bad.toml"));
    }
}
